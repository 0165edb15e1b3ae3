//! Looks for what is wrong with a data folder, and puts right what can be put right.
//!
//! Works on a folder that no node has. Nothing that may be somebody's only copy is deleted: what is no good goes to
//! `damaged/`, and files that the index does not know are received anew. So a lost index is no special case: an empty
//! one takes its place, and every object is analysed again. Neighbours: `index` and `spool`, whose files these are;
//! `commands` prints what was found. Left out: faults of a running node, which `mod` puts right at start.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;

use serde::Serialize;
use sqlx::{Sqlite, Transaction};

use crate::config;
use crate::dicom::{FileMeta, META_BYTES_MAX, read_meta};
use crate::domain::{AeTitle, Digest, RefusalCode, Timestamp, Uid};

use super::hashing::digest_from;
use super::index::{Access, Columns, Index, micros};
use super::outbox::report_lost;
use super::salvage;
use super::spool::Spool;
use super::{StoreError, blocking};

/// What to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fsck {
    /// Put right what can be.
    pub repair: bool,
    /// Read every file and compare its digest; takes as long as reading the whole folder.
    pub digests: bool,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The index cannot be read, or contradicts itself.
    Index,
    /// An upload that was never answered.
    Leftover,
    /// A claim of work that no node has any more.
    Lease,
    /// A file that the index does not know.
    Stranger,
    /// An object of the index whose file is gone.
    Missing,
    /// An object whose bytes are not those that were received.
    Altered,
    /// A report whose file is gone or damaged.
    ReportMissing,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderFault {
    pub kind: FaultKind,
    /// A file, relative to the folder, or what of the index.
    pub what: String,
    pub repaired: bool,
    /// What was done, or is to be done.
    pub note: String,
}

/// What was looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Examined {
    pub objects: u64,
    pub reports: u64,
    /// Bytes that were read for their digests.
    pub bytes_read: u64,
    /// What lies in `damaged/`, until it is past its retention or somebody empties it: files, and their bytes.
    pub damaged_files: u64,
    pub damaged_bytes: u64,
    pub faults: Vec<FolderFault>,
}

/// Examines a data folder that no node has. `called` stands for the AE title that objects were sent to, where the
/// index has lost it.
///
/// # Errors
/// [`StoreError::Locked`] while a node runs there, [`StoreError::NoIndex`] where there is nothing, and what the
/// examination itself failed by. Faults of the folder are no errors.
pub async fn fsck(
    config: &config::Store,
    options: Fsck,
    called: &AeTitle,
    now: Timestamp,
) -> Result<Examined, StoreError> {
    let (at, mut examined) = (Spool::at(config), Examined::default());
    let had_index = at.index_path().is_file();
    if !had_index && !at.absolute("spool").is_dir() {
        return Err(StoreError::NoIndex(config.data_dir.clone()));
    }
    if !had_index && !options.repair {
        let note = "restore it from a backup together with its folder, or --repair makes an empty one and receives \
                    every object of spool/ anew";
        examined.note(FaultKind::Index, "index.sqlite: it is gone", false, note);
        return Ok(examined);
    }
    let settings = config.clone();
    let (spool, _lock) = blocking(move || Spool::own(&settings)).await?;
    let index = match Index::open(&spool.index_path(), Access::Own, spool.trust().clone()).await {
        Ok(index) => index,
        Err(StoreError::Damaged { cause, .. }) => {
            let what = format!("index.sqlite: {cause}");
            if !options.repair {
                let note = "--repair puts an empty one in its place and receives every object of spool/ anew; a backup \
                            of the whole folder keeps more";
                examined.note(FaultKind::Index, what, false, note);
                return Ok(examined);
            }
            let kept = salvage::replace_index(&spool, now).await?;
            let note = format!("moved to {kept}; every object is analysed again, and its report sent again");
            examined.note(FaultKind::Index, what, true, &note);
            Index::open(&spool.index_path(), Access::Own, spool.trust().clone()).await?
        }
        Err(other) => return Err(other),
    };
    let mut examination = Examination { spool, index, options, called, now, examined };
    let mut done = examination.run().await;
    let Examination { index, examined, .. } = examination;
    if options.repair && done.is_ok() {
        // A start refuses an index without one beside objects: it is not finished.
        done = index.identity().await.map(drop);
    }
    index.close().await;
    done.map(|()| examined)
}

impl Examined {
    /// Whether something is wrong still.
    pub fn is_faulty(&self) -> bool {
        self.faults.iter().any(|fault| !fault.repaired)
    }

    fn note(&mut self, kind: FaultKind, what: impl Into<String>, repaired: bool, note: &str) {
        self.faults.push(FolderFault { kind, what: what.into(), repaired, note: note.to_owned() });
    }
}

struct Examination<'a> {
    spool: Spool,
    index: Index,
    options: Fsck,
    called: &'a AeTitle,
    now: Timestamp,
    examined: Examined,
}

impl Examination<'_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        self.contradictions().await?;
        self.leases().await?;
        let spool = self.spool.clone();
        let (leftovers, files) = blocking(move || Ok((spool.leftovers()?, spool.files()?))).await?;
        self.leftovers(&leftovers);
        let known = self.index.paths().await?;
        for path in files.iter().filter(|path| !known.contains(*path)) {
            self.stranger(path).await?;
        }
        let files: HashSet<String> = files.into_iter().collect();
        self.objects(&files).await?;
        self.reports(&files).await?;
        if self.options.digests {
            self.conflicts(&files).await?;
        }
        // After the repairs, which may set more aside.
        let spool = self.spool.clone();
        let aside = blocking(move || spool.damaged()).await?;
        self.examined.damaged_files = aside.iter().map(|a| a.files).sum();
        self.examined.damaged_bytes = aside.iter().map(|a| a.bytes).sum();
        Ok(())
    }

    async fn contradictions(&mut self) -> Result<(), StoreError> {
        let rows = sqlx::query("PRAGMA foreign_key_check").fetch_all(self.index.read()).await?;
        let mut by_table: BTreeMap<String, u64> = BTreeMap::new();
        for row in &rows {
            *by_table.entry(row.text("table")?).or_default() += 1;
        }
        for (table, count) in by_table {
            let what = format!("{count} rows of {table} belong to nothing");
            self.examined.note(FaultKind::Index, what, false, "restore the folder from a backup");
        }
        Ok(())
    }

    async fn leases(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT (SELECT count(*) FROM instances WHERE lease_until IS NOT NULL)
            + (SELECT count(*) FROM studies WHERE lease_until IS NOT NULL)
            + (SELECT count(*) FROM deliveries WHERE lease_until IS NOT NULL)";
        let held: i64 = sqlx::query_scalar(sql).fetch_one(self.index.read()).await?;
        if held == 0 {
            return Ok(());
        }
        let note = if self.options.repair {
            self.index.lift_leases(self.now).await?;
            "lifted"
        } else {
            "the next start of the node lifts them"
        };
        self.examined.note(FaultKind::Lease, format!("{held} claims of work"), self.options.repair, note);
        Ok(())
    }

    fn leftovers(&mut self, leftovers: &[String]) {
        for path in leftovers {
            let note = if self.options.repair {
                self.spool.remove(path);
                "removed: its sender was never told that it arrived"
            } else {
                "the next start of the node removes it"
            };
            self.examined.note(FaultKind::Leftover, path, self.options.repair, note);
        }
    }

    /// A file that the index does not know: an object is received anew, anything else set aside.
    async fn stranger(&mut self, path: &str) -> Result<(), StoreError> {
        let kind = FaultKind::Stranger;
        if !self.options.repair {
            self.examined.note(kind, path, false, "--repair receives it anew if it is an object, else sets it aside");
            return Ok(());
        }
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".dcm");
        let looked = if path.starts_with("spool/") { self.look_into(kind, path).await? } else { Looked::NoObject };
        if matches!(looked, Looked::Unreadable) {
            return Ok(());
        }
        if path.starts_with("reports/") {
            if let Ok(uid) = Uid::parse(name) {
                let mut tx = self.index.write().await?;
                let sql = "INSERT INTO own_reports (sop_instance) VALUES (?) ON CONFLICT DO NOTHING";
                sqlx::query(sql).bind(uid.as_str()).execute(&mut *tx).await?;
                self.index.commit(tx).await?;
            }
        } else if path.starts_with("spool/")
            && let Looked::Object(object) = looked
            && Spool::claims(path, &object.meta.sop_instance, &object.digest)
            && self.adopt(path, &object).await?
        {
            self.examined.note(kind, path, true, "received anew");
            return Ok(());
        }
        let to = self.set_aside(path).await?;
        self.examined.note(kind, path, true, &format!("moved to {to}"));
        Ok(())
    }

    /// Records an object as received. `false`: one is known under its UID and has its file, or is another.
    async fn adopt(&self, path: &str, object: &Object) -> Result<bool, StoreError> {
        let meta = &object.meta;
        let mut tx = self.index.write().await?;
        let known = sqlx::query("SELECT digest, path FROM instances WHERE sop_instance = ?");
        if let Some(row) = known.bind(meta.sop_instance.as_str()).fetch_optional(&mut *tx).await? {
            let has_file = row.opt_text("path")?.is_some_and(|known| self.spool.absolute(&known).is_file());
            if has_file || row.text("digest")? != object.digest.as_str() {
                return Ok(false);
            }
            // What could not be read because it was lost is read now.
            let sql = "UPDATE instances SET path = ?1, file_bytes = ?2,
                           state = iif(refusal_code = ?3, 'received', state),
                           attempts = iif(refusal_code = ?3, 0, attempts)
                       WHERE sop_instance = ?4";
            sqlx::query(sql)
                .bind(path)
                .bind(object.file_bytes.cast_signed())
                .bind(RefusalCode::Lost.as_str())
                .bind(meta.sop_instance.as_str())
                .execute(&mut *tx)
                .await?;
            self.index.commit(tx).await?;
            return Ok(true);
        }
        let sql = "INSERT INTO instances (sop_instance, sop_class, transfer_syntax, digest, bytes, file_bytes, path,
                   calling, called, peer, received_at, state)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '0.0.0.0', ?, 'received')";
        sqlx::query(sql)
            .bind(meta.sop_instance.as_str())
            .bind(meta.sop_class.as_str())
            .bind(meta.transfer_syntax.as_str())
            .bind(object.digest.as_str())
            .bind(object.bytes.cast_signed())
            .bind(object.file_bytes.cast_signed())
            .bind(path)
            .bind(meta.source.as_ref().map_or("UNKNOWN", AeTitle::as_str))
            .bind(self.called.as_str())
            .bind(micros(object.written_at.unwrap_or(self.now)))
            .execute(&mut *tx)
            .await?;
        self.index.commit(tx).await?;
        Ok(true)
    }

    async fn objects(&mut self, files: &HashSet<String>) -> Result<(), StoreError> {
        let sql = "SELECT sop_instance, digest, path, state FROM instances WHERE path IS NOT NULL ORDER BY path";
        for row in sqlx::query(sql).fetch_all(self.index.read()).await? {
            self.examined.objects += 1;
            let (uid, path): (Uid, String) = (row.parsed("sop_instance")?, row.text("path")?);
            let read = row.text("state")? != "received";
            if !files.contains(&path) {
                self.object_gone(&uid, &path, read).await?;
            } else if self.options.digests {
                let whole = match self.look_into(FaultKind::Altered, &path).await? {
                    Looked::Object(object) => {
                        object.digest.as_str() == row.text("digest")? && object.meta.sop_instance == uid
                    }
                    Looked::NoObject => false,
                    Looked::Unreadable => continue,
                };
                if !whole {
                    self.object_altered(&uid, &path).await?;
                }
            }
        }
        Ok(())
    }

    async fn object_gone(&mut self, uid: &Uid, path: &str, read: bool) -> Result<(), StoreError> {
        let note = match (self.options.repair, read) {
            (false, _) => "restore it from a backup; after --repair it is accepted again when it is sent again",
            // What was read of it stays, as after its retention.
            (true, true) => "noted as gone; what was read of it stays",
            (true, false) => "forgotten: it was not read yet, send it again",
        };
        if self.options.repair {
            let mut tx = self.index.write().await?;
            if read {
                let sql = "UPDATE instances SET path = NULL WHERE sop_instance = ?";
                sqlx::query(sql).bind(uid.as_str()).execute(&mut *tx).await?;
            } else {
                forget(&mut tx, uid).await?;
            }
            self.index.commit(tx).await?;
        }
        self.examined.note(FaultKind::Missing, path, self.options.repair, note);
        Ok(())
    }

    async fn object_altered(&mut self, uid: &Uid, path: &str) -> Result<(), StoreError> {
        let note = if self.options.repair {
            let to = self.set_aside(path).await?;
            let mut tx = self.index.write().await?;
            forget(&mut tx, uid).await?;
            self.index.commit(tx).await?;
            format!("moved to {to} and forgotten; it is new when it is sent again")
        } else {
            "restore it from a backup, or --repair and send it again".to_owned()
        };
        self.examined.note(FaultKind::Altered, path, self.options.repair, &note);
        Ok(())
    }

    async fn reports(&mut self, files: &HashSet<String>) -> Result<(), StoreError> {
        let sql = "SELECT id, study, sop_instance, path FROM reports WHERE path IS NOT NULL ORDER BY id";
        for row in sqlx::query(sql).fetch_all(self.index.read()).await? {
            self.examined.reports += 1;
            let (path, uid): (String, Uid) = (row.text("path")?, row.parsed("sop_instance")?);
            let there = files.contains(&path);
            let whole = match there && self.options.digests {
                true => match self.look_into(FaultKind::ReportMissing, &path).await? {
                    Looked::Object(report) => report.meta.sop_instance == uid,
                    Looked::NoObject => false,
                    Looked::Unreadable => continue,
                },
                false => there,
            };
            if whole {
                continue;
            }
            let note = if self.options.repair {
                let aside = if there { format!("moved to {}; ", self.set_aside(&path).await?) } else { String::new() };
                let mut tx = self.index.write().await?;
                report_lost(&mut tx, row.int("id")?, &row.parsed("study")?).await?;
                self.index.commit(tx).await?;
                format!("{aside}noted as gone; `studies requeue` makes a new one")
            } else {
                "restore it from a backup, or --repair and `studies requeue`".to_owned()
            };
            self.examined.note(FaultKind::ReportMissing, path, self.options.repair, &note);
        }
        Ok(())
    }

    /// Objects that were kept aside.
    async fn conflicts(&mut self, files: &HashSet<String>) -> Result<(), StoreError> {
        let sql = "SELECT id, digest, path FROM conflicts ORDER BY id";
        for row in sqlx::query(sql).fetch_all(self.index.read()).await? {
            let (path, digest) = (row.text("path")?, row.text("digest")?);
            let there = files.contains(&path);
            if there {
                match self.look_into(FaultKind::Altered, &path).await? {
                    Looked::Object(object) if object.digest.as_str() == digest => continue,
                    Looked::Object(_) | Looked::NoObject => {}
                    Looked::Unreadable => continue,
                }
            }
            if self.options.repair {
                if there {
                    self.set_aside(&path).await?;
                }
                let mut tx = self.index.write().await?;
                sqlx::query("DELETE FROM conflicts WHERE id = ?").bind(row.int("id")?).execute(&mut *tx).await?;
                self.index.commit(tx).await?;
            }
            let kind = if there { FaultKind::Altered } else { FaultKind::Missing };
            self.examined.note(kind, path, self.options.repair, "an object that was kept aside; it is in no study");
        }
        Ok(())
    }

    /// What a file is, by its own meta group and bytes. That it cannot be read says nothing of what it is: it is noted
    /// as a fault of this kind and left as it is.
    async fn look_into(&mut self, kind: FaultKind, path: &str) -> Result<Looked, StoreError> {
        let file = self.spool.absolute(path);
        match blocking(move || Ok(Object::read(&file))).await? {
            Ok(object) => {
                self.examined.bytes_read += object.bytes;
                Ok(Looked::Object(Box::new(object)))
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Ok(Looked::NoObject)
            }
            Err(e) => {
                let note = format!("it cannot be read ({e}); make it readable, or, if the disk lost it, move it away");
                self.examined.note(kind, path, false, &note);
                Ok(Looked::Unreadable)
            }
        }
    }

    async fn set_aside(&self, path: &str) -> Result<String, StoreError> {
        let (spool, path) = (self.spool.clone(), path.to_owned());
        blocking(move || spool.set_aside(&path)).await
    }
}

/// The head of a file is read in steps of so many bytes; one has some hundreds.
const HEAD_STEP_BYTES: u64 = 4096;

enum Looked {
    Object(Box<Object>),
    NoObject,
    Unreadable,
}

/// A file of the spool as it is.
struct Object {
    meta: FileMeta,
    /// Of the data set, as it was taken on arrival.
    digest: Digest,
    bytes: u64,
    file_bytes: u64,
    written_at: Option<Timestamp>,
}

impl Object {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let written_at = fs::metadata(path).and_then(|m| m.modified()).ok().map(Timestamp::from);
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut head = Vec::new();
        let meta = loop {
            let before = head.len();
            (&mut file).take(HEAD_STEP_BYTES).read_to_end(&mut head)?;
            match read_meta(&head).map_err(|e| invalid(e.to_string()))? {
                Some(meta) => break meta,
                None if head.len() == before || head.len() > META_BYTES_MAX => {
                    return Err(invalid("it is cut off".into()));
                }
                None => {}
            }
        };
        let start = meta.length as u64;
        let digest = digest_from(&mut file, start)?;
        let file_bytes = file.stream_position()?;
        Ok(Self { meta, digest, bytes: file_bytes - start, file_bytes, written_at })
    }
}

/// Forgets an object as if it had never arrived; its study, if it is known, counts as changed.
async fn forget(tx: &mut Transaction<'_, Sqlite>, uid: &Uid) -> Result<(), StoreError> {
    let sql = "UPDATE studies SET version = version + 1
               WHERE study = (SELECT study FROM instances WHERE sop_instance = ?)";
    sqlx::query(sql).bind(uid.as_str()).execute(&mut **tx).await?;
    sqlx::query("DELETE FROM instances WHERE sop_instance = ?").bind(uid.as_str()).execute(&mut **tx).await?;
    Ok(())
}
