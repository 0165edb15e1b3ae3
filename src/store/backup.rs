//! A copy of the data folder that is one state of the node, taken while it runs.
//!
//! The index is copied first, by SQLite, as one transaction sees it; then the files that this copy knows. Objects and
//! reports never change once they are in place, so a second name (a hard link) is as good as a copy on the same file
//! system. Neighbours: `fsck` examines such a folder, [`super::Store::open`] takes it up as it is. Left out: taking the
//! folder to another machine.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::index::Columns;
use super::outbox::report_lost;
use super::spool::{INDEX, Spool, sync_dir};
use super::{Store, StoreError, blocking};

/// How files get into the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// By a second name where that is possible, else copied.
    Linked,
    /// Every one copied: the backup shares nothing with the folder.
    Copied,
}

/// What a backup holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BackedUp {
    pub files: u64,
    pub bytes: u64,
    /// Files that went by their retention while the backup was taken; its index says so.
    pub gone: u64,
}

impl Store {
    /// Writes a backup to `to`, which must not be there yet, or be an empty folder. It appears there when it is
    /// complete and on the disk.
    pub async fn backup(&self, to: &Path, files: Files) -> Result<BackedUp, StoreError> {
        let occupied = |to: &Path| fs::read_dir(to).map(|mut entries| entries.next().is_some());
        match occupied(to) {
            Ok(false) => {}
            Ok(true) => return Err(StoreError::Occupied(to.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::file("list", to)(e)),
        }
        let mut partial = to.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if let Some(parent) = partial.parent().filter(|p| !p.as_os_str().is_empty()) {
            make_dir(parent)?;
        }
        // Made here, or not ours to fill and to delete.
        DirBuilder::new().mode(0o700).create(&partial).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Unfinished(partial.clone()),
            _ => StoreError::file("create", &partial)(e),
        })?;
        let written = self.write_backup(&partial, files).await;
        if written.is_err() {
            // What is left of it is of no use; that it may stay is said by the error before.
            let _ = fs::remove_dir_all(&partial);
            return written;
        }
        let (from, to) = (partial, to.to_owned());
        blocking(move || {
            fs::rename(&from, &to).map_err(StoreError::file("rename the backup to", &to))?;
            to.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
        })
        .await?;
        written
    }

    async fn write_backup(&self, partial: &Path, files: Files) -> Result<BackedUp, StoreError> {
        let index = partial.join(INDEX);
        let sql = "VACUUM INTO ?";
        sqlx::query(sql).bind(index.to_string_lossy().into_owned()).execute(self.index().read()).await?;
        fs::set_permissions(&index, Permissions::from_mode(0o600)).map_err(StoreError::file("close", &index))?;

        let mut snapshot = SqliteConnectOptions::new().filename(&index).connect().await?;
        let sql = "SELECT path FROM instances WHERE path IS NOT NULL UNION ALL SELECT path FROM conflicts
                   UNION ALL SELECT path FROM reports WHERE path IS NOT NULL";
        let mut paths = Vec::new();
        for row in sqlx::query(sql).fetch_all(&mut snapshot).await? {
            paths.push(row.text("path")?);
        }
        let (spool, target) = (self.spool().clone(), partial.to_owned());
        let (done, gone) = blocking(move || take_files(&spool, &target, &paths, files)).await?;
        let mut tx = snapshot.begin().await?;
        for path in &gone {
            for sql in ["UPDATE instances SET path = NULL WHERE path = ?", "DELETE FROM conflicts WHERE path = ?"] {
                sqlx::query(sql).bind(path).execute(&mut *tx).await?;
            }
            let sql = "SELECT id, study FROM reports WHERE path = ?";
            for row in sqlx::query(sql).bind(path).fetch_all(&mut *tx).await? {
                report_lost(&mut tx, row.int("id")?, &row.parsed("study")?).await?;
            }
        }
        tx.commit().await?;
        snapshot.close().await?;
        let (index, partial) = (index, partial.to_owned());
        blocking(move || {
            File::open(&index).and_then(|f| f.sync_all()).map_err(StoreError::file("sync", &index))?;
            sync_dir(&partial)
        })
        .await?;
        Ok(done)
    }
}

/// Brings the files into the backup; what was done, and the files that are gone.
fn take_files(
    spool: &Spool,
    target: &Path,
    paths: &[String],
    files: Files,
) -> Result<(BackedUp, Vec<String>), StoreError> {
    let (mut done, mut gone, mut dirs) = (BackedUp::default(), Vec::new(), Vec::new());
    for relative in paths {
        let (from, to) = (spool.absolute(relative), target.join(relative));
        if let Some(dir) = to.parent().filter(|dir| !dirs.iter().any(|known| known == dir)) {
            make_dir(dir)?;
            dirs.push(dir.to_owned());
        }
        match take(&from, &to, files) {
            Ok(bytes) => {
                done.files += 1;
                done.bytes += bytes;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => gone.push(relative.clone()),
            Err(e) => return Err(StoreError::file("copy an object to", &to)(e)),
        }
    }
    done.gone = gone.len() as u64;
    dirs.iter().try_for_each(|dir| sync_dir(dir))?;
    Ok((done, gone))
}

fn take(from: &Path, to: &Path, files: Files) -> io::Result<u64> {
    let bytes = fs::metadata(from)?.len();
    if files == Files::Linked && fs::hard_link(from, to).is_ok() {
        return Ok(bytes);
    }
    fs::copy(from, to)?;
    File::open(to)?.sync_all()?;
    Ok(bytes)
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(StoreError::file("create", dir))
}
