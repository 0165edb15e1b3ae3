//! The memory in which a worker hands over the values of model inputs.
//!
//! One memfd per worker process: the node creates it with its final, sparse size and seals that size, so neither end
//! can cut it short or let it grow. The worker writes 32-bit little endian floats from its first byte on; the node
//! copies them out once, and checks its copy. What another process can still write must not be trusted after a check:
//! so nothing that was checked is ever read again from here, and no reference into this memory exists in the node.
//!
//! Read and written by `pread` and `pwrite` in blocks that stay in the cache, not mapped: 3 × 1024 × 1024 values cost
//! 9.6 ms for both ends together, through a mapping made once 7.6 ms, through one made per image 13.8 ms, through a
//! pipe 21 ms (a busy machine of two cores). The faster mapping would take unsafe code, and address space out of the
//! worker's limit.
//!
//! Neighbours: `child` (the node's end) and `process` (the worker's). Left out: which values are expected (`child`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;

use super::limits::OUTPUT_BYTES_MAX;

/// Memory that stays between requests, so that the usual image finds its pages in place.
const KEPT_BYTES: u64 = 16 << 20;
/// Floats that are converted at a time: 64 KiB.
const BLOCK: usize = 1 << 14;

/// Shared memory of [`OUTPUT_BYTES_MAX`] bytes, of which only what was written takes room.
pub struct Handover {
    file: File,
}

impl Handover {
    /// The node's side creates it.
    pub fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = match memfd_create("sidelight-pixels", flags | MemfdFlags::NOEXEC_SEAL) {
            // kernels before 6.3 do not know the last flag
            Err(Errno::INVAL) => memfd_create("sidelight-pixels", flags)?,
            created => created?,
        };
        ftruncate(&memory, OUTPUT_BYTES_MAX)?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { file: memory.into() })
    }

    /// Writes the values from byte `at` on.
    pub fn write(&self, mut at: u64, values: &[f32]) -> io::Result<()> {
        let mut block = vec![0; BLOCK.min(values.len()) * 4];
        for values in values.chunks(BLOCK) {
            for (bytes, value) in block.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
            let bytes = &block[..values.len() * 4];
            self.file.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// A copy of `count` values from byte `at` on; `InvalidData` if one of them is not finite.
    pub fn read(&self, at: u64, count: usize) -> io::Result<Vec<f32>> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|e| io::Error::new(io::ErrorKind::OutOfMemory, e))?;
        let mut block = vec![0; BLOCK.min(count) * 4];
        let mut finite = true;
        while values.len() < count {
            let bytes = &mut block[..BLOCK.min(count - values.len()) * 4];
            self.file.read_exact_at(bytes, at + values.len() as u64 * 4)?;
            let floats = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            finite &= floats.clone().fold(true, |all, v| all & v.is_finite());
            values.extend(floats);
        }
        match finite {
            true => Ok(values),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "values that are not finite")),
        }
    }

    /// Gives back what is held beyond the usual, whoever wrote it.
    pub fn trim(&self) -> io::Result<()> {
        if self.held_bytes()? <= KEPT_BYTES {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, hole, 0, OUTPUT_BYTES_MAX)?;
        Ok(())
    }

    /// Memory in use now (fstat counts blocks of 512 bytes).
    pub fn held_bytes(&self) -> io::Result<u64> {
        Ok(u64::try_from(fstat(&self.file)?.st_blocks).unwrap_or_default() * 512)
    }
}

impl From<OwnedFd> for Handover {
    /// The worker's side is given it.
    fn from(memory: OwnedFd) -> Self {
        Self { file: memory.into() }
    }
}

impl AsFd for Handover {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ends() -> (Handover, Handover) {
        let node = Handover::create().expect("a memfd");
        let worker = Handover::from(node.as_fd().try_clone_to_owned().expect("a descriptor"));
        (node, worker)
    }

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| i as f32 * 0.5 - count as f32).collect()
    }

    #[test]
    fn values_arrive_as_written() {
        for counts in [&[][..], &[1], &[BLOCK, 1, BLOCK + 1], &[3 * BLOCK - 7, 12_345]] {
            let (node, worker) = both_ends();
            let starts = counts.iter().scan(0, |at, count| Some(std::mem::replace(at, *at + *count as u64 * 4)));
            let all: Vec<(u64, Vec<f32>)> = starts.zip(counts.iter().map(|count| values(*count))).collect();
            // in any order
            for (at, values) in all.iter().rev() {
                worker.write(*at, values).expect("room");
            }
            for (at, values) in &all {
                assert_eq!(&node.read(*at, values.len()).expect("finite values"), values, "{counts:?}");
            }
        }
    }

    #[test]
    fn one_value_that_is_not_finite_spoils_the_input() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 1, BLOCK, BLOCK + 8] {
                let (node, worker) = both_ends();
                let mut values = values(BLOCK + 9);
                values[place] = bad;
                worker.write(0, &values).expect("room");
                let read = node.read(0, BLOCK + 9).map_err(|e| e.kind());
                assert_eq!(read, Err(io::ErrorKind::InvalidData), "{bad} at {place}");
            }
        }
    }

    #[test]
    fn neither_end_can_change_its_size_or_read_beyond_it() {
        let (node, worker) = both_ends();
        for end in [&node, &worker] {
            for size in [0, OUTPUT_BYTES_MAX - 1, OUTPUT_BYTES_MAX + 1] {
                assert_eq!(ftruncate(&end.file, size), Err(Errno::PERM), "{size}");
            }
            assert!(fcntl_add_seals(&end.file, SealFlags::WRITE).is_err());
            assert!(end.file.write_all_at(&[1], OUTPUT_BYTES_MAX).is_err());
            assert!(end.read(OUTPUT_BYTES_MAX - 4, 2).is_err());
        }
    }

    #[test]
    fn memory_is_given_back_when_it_is_more_than_usual() {
        let (node, worker) = both_ends();
        worker.write(0, &values(1000)).expect("room");
        node.trim().expect("a memfd");
        assert!(node.held_bytes().expect("a memfd") > 0);
        worker.write(0, &values(KEPT_BYTES as usize / 4 + 1)).expect("room");
        assert!(node.held_bytes().expect("a memfd") > KEPT_BYTES);
        node.trim().expect("a memfd");
        assert_eq!(node.held_bytes().expect("a memfd"), 0);
    }
}
