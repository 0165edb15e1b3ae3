//! What was acknowledged last, read back from the disk after an end that was not orderly.
//!
//! A power cut or a disk that fails takes what was written last, and the page cache may hide that from a node that
//! starts again on the same machine. So the newest objects are read past the cache and compared with their digests.
//! Neighbours: `trust` says when a disk is not believed, `mod` calls this before anything is served. Left out: all
//! objects, which takes as long as reading the disk, and repairing: only the sender has the bytes.

use std::fs::File;
use std::io;
use std::path::Path;

use chrono::Utc;
use sqlx::sqlite::SqliteRow;
use tracing::{error, info};

use crate::config::Late;
use crate::domain::{Digest, Refusal, RefusalCode, Uid};

use super::hashing::digest_from;
use super::index::{Columns, Index};
use super::spool::Spool;
use super::{Reading, Store, StoreError, blocking};

/// The newest objects, and at most so many bytes of them, are read.
const OBJECTS_MAX: i64 = 1024;
const BYTES_MAX: u64 = 1 << 30;

struct Object {
    uid: Uid,
    path: String,
    digest: Digest,
    bytes: u64,
    file_bytes: u64,
}

/// Reads back the newest objects, unless the last end was orderly; how many are damaged. Their files are set aside and
/// they lose their path in the index, so that the same object, sent again, takes its place. An object that cannot be
/// read for another reason may be whole: that is an error, and the next start looks again.
pub(super) async fn look(spool: &Spool, index: &Index) -> Result<u64, StoreError> {
    if index.take_orderly_end().await? {
        return Ok(0);
    }
    // An object keeps its row when a lost file is replaced.
    let sql = "SELECT sop_instance, path, digest, bytes, file_bytes FROM instances WHERE rowid IN (
                   SELECT * FROM (SELECT rowid FROM instances WHERE path IS NOT NULL ORDER BY rowid DESC LIMIT ?1)
                   UNION SELECT * FROM (SELECT rowid FROM instances WHERE path IS NOT NULL AND replaced_at IS NOT NULL
                       ORDER BY replaced_at DESC LIMIT ?1))
               ORDER BY ifnull(replaced_at, received_at) DESC, rowid DESC LIMIT ?1";
    let rows = sqlx::query(sql).bind(OBJECTS_MAX).fetch_all(index.read()).await?;
    let objects = rows.iter().map(object).collect::<Result<Vec<_>, _>>()?;
    if objects.is_empty() {
        return Ok(0);
    }
    let (spool, looked_at) = (spool.clone(), objects.len());
    let lost = blocking(move || damaged(&spool, objects)).await?;
    info!(objects = looked_at, damaged = lost.len(), "the last end was not orderly: the newest objects were read back");
    let mut tx = index.write().await?;
    for uid in &lost {
        let sql = "UPDATE instances SET path = NULL WHERE sop_instance = ?";
        sqlx::query(sql).bind(uid.as_str()).execute(&mut *tx).await?;
    }
    index.commit(tx).await?;
    Ok(lost.len() as u64)
}

impl Store {
    /// Ends what waits to be read and has no file any more, visibly: what was damaged when the node ended, now or at
    /// a start that was cut short, and what a backup did not find.
    pub(super) async fn give_up_lost(&self) -> Result<(), StoreError> {
        let sql = "SELECT sop_instance FROM instances WHERE state = 'received' AND path IS NULL";
        for row in sqlx::query(sql).fetch_all(self.index().read()).await? {
            let uid: Uid = row.parsed("sop_instance")?;
            let refusal = Refusal::new(RefusalCode::Lost, "its file was damaged or lost; send the object again");
            self.save_read(&uid, Reading::Refused { header: None, refusal: &refusal }, Late::Replace, Utc::now())
                .await?;
        }
        Ok(())
    }
}

fn object(row: &SqliteRow) -> Result<Object, StoreError> {
    Ok(Object {
        uid: row.parsed("sop_instance")?,
        path: row.text("path")?,
        digest: row.parsed("digest")?,
        bytes: row.count("bytes")?,
        file_bytes: row.count("file_bytes")?,
    })
}

fn damaged(spool: &Spool, objects: Vec<Object>) -> Result<Vec<Uid>, StoreError> {
    let mut read = 0;
    let mut lost = Vec::new();
    for Object { uid, path, digest, bytes, file_bytes } in objects {
        // The newest is read whatever its size.
        if read > 0 && read + bytes > BYTES_MAX {
            break;
        }
        read += bytes;
        let file = spool.absolute(&path);
        let (cause, there) = match digest_on_disk(&file, bytes, file_bytes) {
            Ok(found) if found == digest => continue,
            Ok(_) => ("its digest is another".to_owned(), true),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => (e.to_string(), true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (e.to_string(), false),
            Err(e) => {
                error!(
                    file = spool.shown(&path),
                    error = %e,
                    "an acknowledged object cannot be read; make it readable, or, if the disk lost it, move it away: its \
                     sender can send it again then"
                );
                return Err(StoreError::file("read back", &file)(e));
            }
        };
        error!(file = spool.shown(&path), cause, "an acknowledged object is damaged; its sender has to send it again");
        // Before its path is cleared: whatever was wrong with it, nothing takes the file away.
        if there {
            spool.set_aside(&path)?;
        }
        lost.push(uid);
    }
    Ok(lost)
}

/// The digest of the data set, the last `bytes` of a file, as the disk has it.
fn digest_on_disk(path: &Path, bytes: u64, file_bytes: u64) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length < bytes || (file_bytes != 0 && length != file_bytes) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has {length} bytes")));
    }
    // Pages that are clean leave the cache: what is read comes from the disk. A hint, so a refusal is no fault.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    digest_from(&mut file, length - bytes)
}
