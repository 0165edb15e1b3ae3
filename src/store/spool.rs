//! The data folder: its lock, uploads in progress, durable renames and the sweep at start.
//!
//! Everything here blocks and is called off the runtime. Paths that go into the index are relative to the folder,
//! so that it can be moved. Neighbours: `upload` writes objects, `studies` reports, `retention` removes.
//! Left out: what the index knows.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustix::fs::StatVfsMountFlags;
use tracing::{debug, warn};

use crate::config;
use crate::domain::{Digest, Uid};

use super::trust::Trust;
use super::upload::{Temporary, Upload};
use super::{Disk, Recovered, StoreError, keyed_hash};

const INCOMING: &str = "incoming";
const SPOOL: &str = "spool";
const CONFLICTS: &str = "conflicts";
const REPORTS: &str = "reports";
const DAMAGED: &str = "damaged";
/// In it, what no retention takes: objects that may have been acknowledged.
const UNKNOWN: &str = "unknown";
pub(super) const INDEX: &str = "index.sqlite";
const LOCK: &str = "lock";

/// More files than a kill leaves behind (those that are synced and not recorded: 64 associations of 8 operations, 16
/// STOW requests of 8 objects, and reports): then the index is not the one that belongs to the folder, and nothing is
/// touched. A node of more associations may meet it, and `fsck --repair` then receives them anew.
const ORPHANS_MAX: usize = 1024;

/// The index file and its companions, in the order in which they are set aside. The index last: without it, a start
/// after a kill in between would make an empty one beside the log of the old one, which SQLite may play back into it or
/// delete.
pub(super) const ASIDE: [&str; 3] = ["-shm", "-wal", ""];

/// A data folder.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    root: PathBuf,
    free_bytes_min: u64,
    free_percent_min: u8,
    trust: Trust,
    /// Of identifiers in logs; known once the index is open.
    log_key: Arc<OnceLock<Digest>>,
}

/// An entry of `damaged/`: a file, or the folder of an index.
#[derive(Debug)]
pub(super) struct SetAside {
    path: PathBuf,
    /// When it was set aside.
    since: Option<SystemTime>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Spool {
    /// Takes possession of the folder: creates what is missing, locks it. The lock lasts as long as the file is open.
    pub(super) fn own(config: &config::Store) -> Result<(Self, File), StoreError> {
        let spool = Self::at(config);
        let root = &spool.root;
        create_dir(root)?;
        close_to_others(root);
        let lock_path = root.join(LOCK);
        let lock = options().create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(StoreError::file("open", &lock_path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Locked(root.clone())),
            Err(e) => return Err(StoreError::file("lock", &lock_path)(e.into())),
        }
        for dir in [INCOMING, SPOOL, CONFLICTS, REPORTS] {
            create_dir(&root.join(dir))?;
        }
        for shard in 0..=255u8 {
            create_dir(&root.join(SPOOL).join(format!("{shard:02x}")))?;
        }
        // SQLite would give it the process's usual mode; its companions inherit this one.
        let index = root.join(INDEX);
        options().create(true).truncate(false).open(&index).map_err(StoreError::file("create", &index))?;
        sync_dir(&root.join(SPOOL))?;
        sync_dir(root)?;
        if let Some(parent) = root.parent().filter(|p| !p.as_os_str().is_empty()) {
            // Not ours to insist on: the parent may be a mount point that others own.
            if let Err(e) = sync_dir(parent) {
                debug!(error = %e, "the parent of the data folder was not synced");
            }
        }
        Ok((spool, lock))
    }

    /// The folder as it is, without possession.
    pub(super) fn at(config: &config::Store) -> Self {
        Self {
            root: config.data_dir.clone(),
            free_bytes_min: config.free_bytes_min,
            free_percent_min: config.free_percent_min,
            trust: Trust::default(),
            log_key: Arc::default(),
        }
    }

    /// From now on logs name files by keyed identifiers.
    pub(super) fn show_by(&self, log_key: &Digest) {
        self.log_key.get_or_init(|| log_key.clone());
    }

    /// A file (relative) for logs: in place of the UID that its name begins with stands its keyed hash.
    pub(super) fn shown(&self, relative: &str) -> String {
        let (dir, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        let uid = match relative.starts_with(SPOOL) {
            // UID, arrival and extension, as `object_path` has them.
            true => name.rsplitn(3, '.').nth(2).unwrap_or(name),
            false => {
                let end = name.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(name.len());
                name[..end].rsplit_once('.').map_or("", |(uid, _)| uid)
            }
        };
        let hidden = self.log_key.get().map_or_else(|| "-".to_owned(), |key| keyed_hash(key, uid));
        format!("{dir}/{hidden}{}", &name[uid.len()..])
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.root.join(INDEX)
    }

    pub(super) fn absolute(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where an arriving object goes; spread over 256 folders, and never the same place twice. The digest tells a file
    /// that was not synced to its end from the object ([`Spool::claims`]).
    pub(super) fn object_path(uid: &Uid, digest: &Digest) -> String {
        let arrival = uuid::Uuid::new_v4().simple().to_string();
        format!("{SPOOL}/{}/{uid}.{}{}.dcm", &arrival[..2], &arrival[20..], digest.short())
    }

    /// Whether the name of a file is that of this object. Files of earlier versions have no digest in their names.
    pub(super) fn claims(path: &str, uid: &Uid, digest: &Digest) -> bool {
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".dcm"));
        let arrival = name.and_then(|name| name.strip_prefix(uid.as_str())?.strip_prefix('.'));
        arrival.is_some_and(|arrival| arrival.len() <= digest.short().len() || arrival.ends_with(digest.short()))
    }

    /// Where another object under a known UID is kept aside.
    pub(super) fn conflict_path(uid: &Uid, digest: &Digest) -> String {
        format!("{CONFLICTS}/{uid}.{}.dcm", digest.short())
    }

    pub(super) fn report_path(uid: &Uid) -> String {
        format!("{REPORTS}/{uid}.dcm")
    }

    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Fails below the floor of free space, on a disk that is read-only, and once the disk is not believed any more.
    pub(super) fn room(&self) -> Result<(), StoreError> {
        self.trust.check()?;
        let Disk { free, floor, .. } = self.disk()?;
        if free < floor {
            let detail = format!("{free} bytes are free, {floor} must stay free");
            return Err(StoreError::OutOfRoom { dir: self.root.clone(), detail });
        }
        Ok(())
    }

    /// The file system of the folder, unless it is read-only.
    pub(super) fn disk(&self) -> Result<Disk, StoreError> {
        let disk = rustix::fs::statvfs(&self.root)
            .map_err(|e| StoreError::file("ask for the free space of", &self.root)(e.into()))?;
        if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(StoreError::ReadOnly(self.root.clone()));
        }
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let (free, size) = (bytes(disk.f_bavail), bytes(disk.f_blocks));
        let floor = self.free_bytes_min.max(size / 100 * u64::from(self.free_percent_min));
        Ok(Disk { free, size, floor })
    }

    /// Whether a file (relative) is there in its full length; 0 where that is not known.
    pub(super) fn holds(&self, path: &str, file_bytes: u64) -> bool {
        fs::metadata(self.absolute(path)).is_ok_and(|m| m.is_file() && (file_bytes == 0 || m.len() == file_bytes))
    }

    pub(super) fn begin(&self) -> Result<Upload, StoreError> {
        self.room()?;
        let (file, temporary) = self.temporary()?;
        Ok(Upload::new(self, file, temporary))
    }

    /// Renames files that are synced (relative paths), then syncs the folders they came to. What stood there is
    /// replaced.
    pub(super) fn settle(&self, moves: &[(String, String)]) -> Result<(), StoreError> {
        for (from, to) in moves {
            let to = self.absolute(to);
            fs::rename(self.absolute(from), &to).map_err(StoreError::file("rename an object to", &to))?;
        }
        self.sync_parents(moves.iter().map(|(_, to)| to.as_str()))
    }

    /// Syncs the folder of a file (relative). A failure costs the trust in all that it holds.
    pub(super) fn sync_parent(&self, path: &str) -> Result<(), StoreError> {
        self.sync_parents(std::iter::once(path))
    }

    fn sync_parents<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Result<(), StoreError> {
        let dirs: BTreeSet<_> = paths.filter_map(|path| self.absolute(path).parent().map(Path::to_owned)).collect();
        // That one cannot be opened, for want of descriptors for instance, says nothing of the disk.
        let opened = dirs.into_iter().map(|dir| Ok((File::open(&dir).map_err(StoreError::file("open", &dir))?, dir)));
        for (folder, dir) in opened.collect::<Result<Vec<_>, StoreError>>()? {
            if let Err(e) = folder.sync_all() {
                self.trust.lose(StoreError::file("sync", &dir)(e).to_string());
                return self.trust.check();
            }
        }
        Ok(())
    }

    /// Writes files (relative path, bytes) so that they are complete or absent, whatever happens.
    pub(super) fn write_durably(&self, files: &[(String, &[u8])]) -> Result<(), StoreError> {
        for (to, bytes) in files {
            let (mut file, mut temporary) = self.temporary()?;
            let written = file.write_all(bytes).and_then(|()| file.sync_all());
            written.map_err(StoreError::file("write", temporary.path()))?;
            temporary.rename(&self.absolute(to))?;
            temporary.keep();
        }
        self.sync_parents(files.iter().map(|(to, _)| to.as_str()))
    }

    /// Removes a file; one that is not there is no fault. A file that stays is an orphan, removed at the next start.
    pub(super) fn remove(&self, relative: &str) {
        let path = self.absolute(relative);
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            let file = self.shown(relative);
            warn!(file, error = %e, "a file could not be removed and stays until the next start");
        }
    }

    /// Empties `incoming/`, takes away files that the index does not know, counts indexed files that are gone.
    ///
    /// Nothing tells an object that a kill left before its index commit from one that was acknowledged and whose row
    /// an older index lacks, so objects go to `damaged/unknown`, and stay there. Reports go: they are made again from their study, and
    /// one that holds posteriors must not outlive its retention.
    pub(super) fn sweep(&self, indexed: &HashSet<String>) -> Result<Recovered, StoreError> {
        let mut found = Recovered::default();
        for leftover in self.leftovers()? {
            self.remove(&leftover);
            found.partial_uploads += 1;
        }
        let mut strangers = self.files()?;
        let files = strangers.len();
        strangers.retain(|path| !indexed.contains(path));
        found.missing = (indexed.len() + strangers.len()).saturating_sub(files) as u64;
        if strangers.len() > ORPHANS_MAX {
            return Err(StoreError::Strangers { dir: self.root.clone(), files: strangers.len() });
        }
        for path in &strangers {
            if path.starts_with(REPORTS) {
                self.remove(path);
            } else {
                let to = self.set_aside_in(&format!("{DAMAGED}/{UNKNOWN}"), path)?;
                warn!(
                    file = self.shown(path),
                    to = self.shown(&to),
                    "an object that the index does not know was set aside"
                );
            }
        }
        found.orphans = strangers.len() as u64;
        Ok(found)
    }

    /// Uploads in progress, or what an end that was not orderly left of them.
    pub(super) fn leftovers(&self) -> Result<Vec<String>, StoreError> {
        let names = names(&self.root.join(INCOMING))?;
        Ok(names.into_iter().map(|name| format!("{INCOMING}/{name}")).collect())
    }

    /// Every file that the index should know.
    pub(super) fn files(&self) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        let shards = (0..=255u8).map(|shard| format!("{SPOOL}/{shard:02x}"));
        for dir in [CONFLICTS.to_owned(), REPORTS.to_owned()].into_iter().chain(shards) {
            for name in names(&self.root.join(&dir))? {
                found.push(format!("{dir}/{name}"));
            }
        }
        Ok(found)
    }

    /// Moves a file to `damaged/`, where nothing looks for it; gives its new place.
    pub(super) fn set_aside(&self, relative: &str) -> Result<String, StoreError> {
        self.set_aside_in(DAMAGED, relative)
    }

    fn set_aside_in(&self, dir: &str, relative: &str) -> Result<String, StoreError> {
        let name = relative.rsplit('/').next().unwrap_or(relative);
        let from = self.absolute(relative);
        create_dir(&self.root.join(dir))?;
        // Never over another.
        let mut to = format!("{dir}/{name}");
        let mut number = 1;
        while self.absolute(&to).exists() {
            number += 1;
            to = format!("{dir}/{name}.{number}");
        }
        fs::rename(&from, self.absolute(&to)).map_err(StoreError::file("set aside", &from))?;
        // Its retention there counts from now. Where that cannot be noted, it counts from when it was written.
        if let Err(e) = File::open(self.absolute(&to)).and_then(|file| file.set_modified(SystemTime::now())) {
            debug!(error = %e, "the time at which a file was set aside was not noted");
        }
        sync_dir(&self.root.join(dir))?;
        sync_dir(&self.root.join(DAMAGED))?;
        from.parent().map_or(Ok(()), sync_dir)?;
        Ok(to)
    }

    /// What lies in `damaged/`.
    pub(super) fn damaged(&self) -> Result<Vec<SetAside>, StoreError> {
        let dir = self.root.join(DAMAGED);
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for name in names(&dir)? {
            let path = dir.join(name);
            // One that somebody takes away meanwhile is gone.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let (mut files, mut bytes) = (1, meta.len());
            if meta.is_dir() {
                let within = names(&path)?.into_iter().filter_map(|name| fs::symlink_metadata(path.join(name)).ok());
                (files, bytes) = within.fold((0, 0), |(files, bytes), m| (files + 1, bytes + m.len()));
            }
            found.push(SetAside { path, since: meta.modified().ok(), files, bytes });
        }
        Ok(found)
    }

    /// Deletes what was set aside before; how many files that were.
    pub(super) fn forget_damaged(&self, before: SystemTime) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        for SetAside { path, since, files, .. } in self.damaged()? {
            if since.is_none_or(|since| since >= before) || path.ends_with(UNKNOWN) {
                continue;
            }
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            match if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) } {
                Ok(()) => forgotten += files,
                Err(e) => {
                    let file = without_uid(&path);
                    warn!(file = %file.display(), error = %e, "what was set aside could not be removed; it is tried again");
                }
            }
        }
        Ok(forgotten)
    }

    /// Moves the index and its companions to a folder of `damaged/`.
    pub(super) fn set_index_aside(&self, stamp: &str) -> Result<String, StoreError> {
        let mut to = format!("{DAMAGED}/index-{stamp}");
        while self.absolute(&to).exists() {
            to.push('+');
        }
        create_dir(&self.absolute(&to))?;
        for companion in ASIDE {
            let from = self.root.join(format!("{INDEX}{companion}"));
            match fs::rename(&from, self.absolute(&to).join(format!("{INDEX}{companion}"))) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                moved => moved.map_err(StoreError::file("set aside", &from))?,
            }
        }
        sync_dir(&self.absolute(&to))?;
        sync_dir(&self.root)?;
        let index = self.index_path();
        options().create_new(true).open(&index).map_err(StoreError::file("create", &index))?;
        Ok(to)
    }

    fn temporary(&self) -> Result<(File, Temporary), StoreError> {
        let path = self.root.join(INCOMING).join(uuid::Uuid::new_v4().to_string());
        let file = options().create_new(true).open(&path).map_err(StoreError::file("create", &path))?;
        Ok((file, Temporary::new(path)))
    }
}

/// Files that only the node's own user may read.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn create_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::file("create", path))
}

/// A folder that was there before keeps its owner; where its mode cannot be narrowed, that is said.
fn close_to_others(dir: &Path) {
    let mode = fs::metadata(dir).map_or(0o700, |m| m.permissions().mode());
    if mode & 0o077 == 0 {
        return;
    }
    if let Err(e) = fs::set_permissions(dir, Permissions::from_mode(0o700)) {
        warn!(dir = %dir.display(), error = %e, "other users may read the data folder; set its mode to 0700");
    }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::file("sync", dir))
}

/// Names of the entries of a folder; other than UTF-8 there are none of ours.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let fault = |e: io::Error| StoreError::file("list", dir)(e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fault)? {
        if let Ok(name) = entry.map_err(fault)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// The path of an object as an error may tell it, which logs and senders see: what tells arrivals apart stays in its
/// name, the UID does not. Other paths hold none but those of the node's own reports.
pub(super) fn without_uid(path: &Path) -> PathBuf {
    let of_objects = |part: &OsStr| [SPOOL, CONFLICTS, DAMAGED].iter().any(|dir| part == *dir);
    let name = path.file_name().and_then(OsStr::to_str).filter(|_| path.iter().any(of_objects));
    let head = name.and_then(|name| Some((name, name.find(".dcm")?)));
    let parts = head.and_then(|(name, end)| Some((name[..end].rfind('.')?, name)));
    match parts {
        Some((uid, name)) if name[..uid].bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            path.with_file_name(format!("*{}", &name[uid..]))
        }
        _ => path.to_owned(),
    }
}
