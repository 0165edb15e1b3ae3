//! The digest of an object that is in a file: BLAKE3 over the data set, which is the end of the file.
//!
//! Neighbours: `commitments`, `verify` and `fsck` compare it with the one that was taken on arrival (`upload`). Left
//! out: where the data set begins, which the index knows and the meta group of the file says.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::domain::Digest;

/// Read at once.
const STEP_BYTES: usize = 256 << 10;

/// The digest of a file from this byte to its end.
pub(super) fn digest_from(file: &mut File, start: u64) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(start))?;
    let (mut hash, mut buffer) = (blake3::Hasher::new(), vec![0; STEP_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_hash(hash.finalize().as_bytes())),
            count => hash.update(&buffer[..count]),
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_end_of_a_file_is_hashed_however_long_it_is() {
        for bytes in [0, 1, STEP_BYTES - 7, STEP_BYTES, 2 * STEP_BYTES + 1] {
            let data: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"head").unwrap();
            file.write_all(&data).unwrap();
            let expected = Digest::from_hash(blake3::hash(&data).as_bytes());
            assert_eq!(digest_from(&mut file, 4).unwrap(), expected, "{bytes}");
        }
    }
}
