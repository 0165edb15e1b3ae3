//! A deflated data set (PS3.5 A.5) as a source that can be read anywhere.
//!
//! Small ones are kept as they inflate. Of larger ones nothing is kept: what lies ahead is inflated up to there, what
//! lies behind from the beginning on, so that a volume costs time and no memory. Neighbours: `prescan` (asks for it).

use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};

use flate2::bufread::DeflateDecoder;

use super::dataset::Source;
use crate::domain::{Refusal, RefusalCode};

/// Inflated bytes that are kept: a large radiograph, a few frames of a volume.
const KEPT_BYTES_MAX: u64 = 1 << 26;

/// The data set that is deflated from byte `start` of the input on. `TooLarge` if it inflates to more than `bytes_max`.
pub fn inflated(input: Box<dyn Source>, start: u64, bytes_max: u64) -> Result<Box<dyn Source>, Refusal> {
    keeping(input, start, bytes_max, KEPT_BYTES_MAX)
}

fn keeping(input: Box<dyn Source>, start: u64, bytes_max: u64, kept_max: u64) -> Result<Box<dyn Source>, Refusal> {
    let fail =
        |e: io::Error| Refusal::new(RefusalCode::Malformed, format!("the deflated data set cannot be inflated: {e}"));
    let mut stream = Stream {
        decoder: DeflateDecoder::new(BufReader::with_capacity(1 << 16, input)),
        start,
        at: 0,
        wanted: 0,
        length: 0,
    };
    stream.restart().map_err(fail)?;
    let mut kept = Vec::new();
    (&mut stream.decoder).take(kept_max.min(bytes_max) + 1).read_to_end(&mut kept).map_err(fail)?;
    stream.length = kept.len() as u64;
    if stream.length <= kept_max.min(bytes_max) {
        return Ok(Box::new(Cursor::new(kept)));
    }
    drop(kept);
    stream.length += io::copy(&mut (&mut stream.decoder).take(bytes_max), &mut io::sink()).map_err(fail)?;
    if stream.length > bytes_max {
        let detail = format!("the data set inflates to more than {bytes_max} bytes");
        return Err(Refusal::new(RefusalCode::TooLarge, detail));
    }
    stream.at = stream.length;
    Ok(Box::new(stream))
}

/// Inflated again and again as far as it is read.
struct Stream {
    decoder: DeflateDecoder<BufReader<Box<dyn Source>>>,
    start: u64,
    /// Inflated bytes that the decoder has given.
    at: u64,
    /// Where the next read begins.
    wanted: u64,
    length: u64,
}

impl Stream {
    fn restart(&mut self) -> io::Result<()> {
        self.decoder.get_mut().seek(SeekFrom::Start(self.start))?;
        self.decoder.reset_data();
        self.at = 0;
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wanted >= self.length {
            return Ok(0);
        }
        if self.wanted < self.at {
            self.restart()?;
        }
        self.at += io::copy(&mut (&mut self.decoder).take(self.wanted - self.at), &mut io::sink())?;
        let count = self.decoder.read(buffer)?;
        self.at += count as u64;
        self.wanted = self.at;
        Ok(count)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.wanted, by),
            SeekFrom::End(by) => (self.length, by),
        };
        self.wanted = from.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::io::Write;

    use super::*;

    /// A file whose first three bytes are not deflated.
    fn file(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(b"abc".to_vec(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn open(file: Vec<u8>, bytes_max: u64, kept_max: u64) -> Result<Box<dyn Source>, RefusalCode> {
        keeping(Box::new(Cursor::new(file)), 3, bytes_max, kept_max).map_err(|refusal| refusal.code)
    }

    proptest! {
        #[test]
        fn reads_like_the_inflated_bytes_wherever_it_is_asked(
            length in 0usize..3000,
            kept_max in prop_oneof![Just(0u64), Just(10), Just(100_000)],
            steps in proptest::collection::vec((-4000i64..4000, 0u8..3, 0usize..700), 1..12),
        ) {
            let bytes: Vec<u8> = (0..length).map(|i| (i * i / 7) as u8).collect();
            let (mut got, mut expected) = (open(file(&bytes), 5000, kept_max).expect("sound"), Cursor::new(&bytes));
            for (by, kind, count) in steps {
                let to = match kind {
                    0 => SeekFrom::Start(by.unsigned_abs()),
                    1 => SeekFrom::Current(by),
                    _ => SeekFrom::End(by),
                };
                prop_assert_eq!(got.seek(to).ok(), expected.seek(to).ok());
                let (mut one, mut other) = (vec![0; count], vec![0; count]);
                let whole = got.read_exact(&mut one).is_ok();
                prop_assert_eq!(whole, expected.read_exact(&mut other).is_ok());
                if whole {
                    prop_assert_eq!(one, other);
                }
                // a read that failed leaves its place open
                let here = got.stream_position().expect("a place");
                expected.set_position(here);
            }
        }
    }

    #[test]
    fn what_inflates_to_more_than_the_limit_or_breaks_off_is_refused() {
        let whole = file(&[7; 2000]);
        for kept_max in [0, 100, 5000] {
            assert!(open(whole.clone(), 2000, kept_max).is_ok());
            assert_eq!(open(whole.clone(), 1999, kept_max).err(), Some(RefusalCode::TooLarge), "{kept_max}");
            let cut = file(&(0..2000).map(|i| (i * i / 7) as u8).collect::<Vec<_>>());
            let cut = cut[..cut.len() / 2].to_vec();
            assert_eq!(open(cut, 5000, kept_max).err(), Some(RefusalCode::Malformed), "{kept_max}");
        }
    }
}
