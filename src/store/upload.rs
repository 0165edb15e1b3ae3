//! One object on its way in: from its first byte to a file that survives a power cut.
//!
//! Everything here blocks and is called off the runtime. Neighbours: `spool` knows the folders, `intake` records the
//! file in the index. Left out: whether the object is kept, which the index decides.
//!
//! The file gets its final name before it is synced: one write of the file system's journal then covers contents
//! and name, and the sync of the folder that follows finds little to do. No two arrivals share a name, so nothing
//! that stands there is ever replaced, and a crash leaves at most a file that the index does not know.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::domain::{Digest, Uid};

use super::StoreError;
use super::spool::{Spool, without_uid};

/// Bytes between two looks at the free space while an object arrives.
const ROOM_CHECK_BYTES: u64 = 16 << 20;

/// Fragments from the network are written as they are from this size on.
const BUFFER_BYTES: usize = 64 << 10;

/// An object on its way in. Dropping it deletes its file.
#[derive(Debug)]
pub struct Upload {
    file: BufWriter<File>,
    temporary: Temporary,
    hash: blake3::Hasher,
    meta_bytes: u64,
    bytes: u64,
    unchecked_bytes: u64,
    spool: Spool,
}

/// An upload that is on the disk under its final name. Dropping it deletes its file, unless it was [`Sealed::keep`]t.
#[derive(Debug)]
pub struct Sealed {
    temporary: Temporary,
    /// Relative to the data folder.
    pub(super) path: String,
    pub(super) digest: Digest,
    /// Of the data set.
    pub(super) bytes: u64,
    /// Of the whole file.
    pub(super) file_bytes: u64,
}

/// A file that is deleted on drop.
#[derive(Debug)]
pub(super) struct Temporary(Option<PathBuf>);

impl Upload {
    pub(super) fn new(spool: &Spool, file: File, temporary: Temporary) -> Self {
        Self {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            temporary,
            hash: blake3::Hasher::new(),
            meta_bytes: 0,
            bytes: 0,
            unchecked_bytes: 0,
            spool: spool.clone(),
        }
    }

    /// Writes the preamble and the meta group, which do not count for identity.
    pub fn write_meta(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.meta_bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| self.temporary.fault("write", e))
    }

    /// Writes the next bytes of the data set. Blocking.
    pub fn write_dataset(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.unchecked_bytes += bytes.len() as u64;
        if self.unchecked_bytes >= ROOM_CHECK_BYTES {
            self.spool.room()?;
            self.unchecked_bytes = 0;
        }
        self.file.write_all(bytes).map_err(|e| self.temporary.fault("write", e))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Names the file for good, then syncs it and its folder. Blocking.
    pub fn seal(self, uid: &Uid) -> Result<Sealed, StoreError> {
        let Self { file, mut temporary, hash, meta_bytes, bytes, spool, .. } = self;
        let file = file.into_inner().map_err(|e| temporary.fault("write", e.into_error()))?;
        let digest = Digest::from_hash(hash.finalize().as_bytes());
        let path = Spool::object_path(uid, &digest);
        temporary.rename(&spool.absolute(&path))?;
        // A sync that fails is the end of this file: it is deleted and its sender told, never synced again.
        file.sync_data().map_err(|e| temporary.fault("sync", e))?;
        spool.sync_parent(&path)?;
        Ok(Sealed { temporary, path, digest, bytes, file_bytes: meta_bytes + bytes })
    }
}

impl Sealed {
    /// Whoever calls this answers for the file from now on.
    pub(super) fn keep(self) {
        self.temporary.keep();
    }
}

impl Temporary {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Some(path))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    pub(super) fn rename(&mut self, to: &Path) -> Result<(), StoreError> {
        fs::rename(self.path(), to).map_err(StoreError::file("rename an object to", to))?;
        self.0 = Some(to.to_owned());
        Ok(())
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }

    fn fault(&self, action: &'static str, e: io::Error) -> StoreError {
        StoreError::file(action, self.path())(e)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        if let Err(e) = fs::remove_file(path)
            && e.kind() != io::ErrorKind::NotFound
        {
            warn!(file = %without_uid(path).display(), error = %e, "a temporary file stays until the next start");
        }
    }
}
