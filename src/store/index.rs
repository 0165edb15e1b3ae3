//! The index file: its connections, migrations and what rows have in common.
//!
//! One connection writes, so that a transaction never meets another of this process; several read. Another process
//! (a command beside the node) may write too: every writing transaction takes the lock at its beginning and waits
//! for it. Neighbours: the other files of this folder hold the statements. Left out: files beside the index.
//!
//! The log is copied into the index here and not by SQLite on its own (`checkpoint`), which would pass over a sync
//! that failed.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::error::BoxDynError;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationSource, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, Sqlite, Transaction};
use tracing::debug;

use crate::domain::{Digest, Refusal, Timestamp, Uid};

use super::spool::options;
use super::trust::Trust;
use super::{Recovered, StoreError};

/// Version, name and statements of each migration. Those that were released never change.
const MIGRATIONS: [(i64, &str, &str); 13] = [
    (1, "index", include_str!("migrations/0001_index.sql")),
    (2, "services", include_str!("migrations/0002_services.sql")),
    (3, "lifecycle", include_str!("migrations/0003_lifecycle.sql")),
    (4, "announced study", include_str!("migrations/0004_announced_study.sql")),
    (5, "intake", include_str!("migrations/0005_intake.sql")),
    (6, "confirmations", include_str!("migrations/0006_confirmations.sql")),
    (7, "clinical results", include_str!("migrations/0007_clinical_results.sql")),
    (8, "results elsewhere", include_str!("migrations/0008_results.sql")),
    (9, "labels", include_str!("migrations/0009_labels.sql")),
    (10, "answers to changed images", include_str!("migrations/0010_responses.sql")),
    (11, "imports", include_str!("migrations/0011_imports.sql")),
    (12, "pages for people", include_str!("migrations/0012_pages.sql")),
    (13, "facts", include_str!("migrations/0013_facts.sql")),
];

/// How long a statement waits for another process's transaction. A sender waits as long for its answer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Length of the log from the start on; it is copied into the index before it is full.
pub(super) const LOG_BYTES: usize = 8 << 20;

/// Connections that read.
const READERS_MAX: u32 = 4;

/// Who opens the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The node: creates and migrates.
    Own,
    /// Beside the node: the index must be there and of this version.
    Attach,
}

#[derive(Debug, Clone)]
pub(super) struct Index {
    readers: SqlitePool,
    writer: SqlitePool,
    trust: Trust,
}

/// Typed columns; a value that does not parse was not written by this version.
pub(super) trait Columns {
    fn text(&self, column: &str) -> Result<String, StoreError>;
    fn opt_text(&self, column: &str) -> Result<Option<String>, StoreError>;
    fn int(&self, column: &str) -> Result<i64, StoreError>;
    fn opt_int(&self, column: &str) -> Result<Option<i64>, StoreError>;

    /// A `Uid`, `AeTitle` or `Digest`.
    fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<T, StoreError> {
        parse(&self.text(column)?)
    }
    fn opt_parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<Option<T>, StoreError> {
        self.opt_text(column)?.map(|text| parse(&text)).transpose()
    }
    fn count(&self, column: &str) -> Result<u64, StoreError> {
        u64::try_from(self.int(column)?).map_err(|e| StoreError::Contents(format!("{column}: {e}")))
    }
    fn small(&self, column: &str) -> Result<u32, StoreError> {
        u32::try_from(self.int(column)?).map_err(|e| StoreError::Contents(format!("{column}: {e}")))
    }
    fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        from_micros(self.int(column)?)
    }
    fn opt_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        self.opt_int(column)?.map(from_micros).transpose()
    }
    /// A unit variant, by its serde name.
    fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        from_word(&self.text(column)?)
    }
    fn opt_word<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        self.opt_text(column)?.map(|text| from_word(&text)).transpose()
    }
    fn opt_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text = self.opt_text(column)?;
        text.map(|t| serde_json::from_str(&t).map_err(|e| StoreError::Contents(format!("{column}: {e}")))).transpose()
    }
    /// From `refusal_code` and `refusal_detail`.
    fn refusal(&self) -> Result<Option<Refusal>, StoreError> {
        let Some(code) = self.opt_word("refusal_code")? else { return Ok(None) };
        Ok(Some(Refusal { code, detail: self.opt_text("refusal_detail")?.unwrap_or_default() }))
    }
}

impl Columns for SqliteRow {
    fn text(&self, column: &str) -> Result<String, StoreError> {
        Ok(self.try_get(column)?)
    }
    fn opt_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.try_get(column)?)
    }
    fn int(&self, column: &str) -> Result<i64, StoreError> {
        Ok(self.try_get(column)?)
    }
    fn opt_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
        Ok(self.try_get(column)?)
    }
}

impl Index {
    pub(super) async fn open(path: &Path, access: Access, trust: Trust) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(access == Access::Own)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What is past its retention is overwritten, not only unlinked.
            .pragma("secure_delete", "ON")
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("wal_autocheckpoint", "0");
        let mut first = options.clone().connect().await.map_err(|e| damaged(path, e))?;
        match access {
            Access::Own => {
                check(&mut first, path).await?;
                migrate(&mut first, path).await?;
                begin_log_anew(&mut first, path).await?;
            }
            Access::Attach => compare_version(&mut first, path).await?,
        }
        first.close().await?;
        if access == Access::Own {
            make_log(path);
        }
        let pool = || {
            let options = SqlitePoolOptions::new().idle_timeout(None).max_lifetime(None).test_before_acquire(false);
            // SQLite takes a transaction back by itself when the disk is full or fails. sqlx then believes for ever
            // that the connection is in it, so that one is replaced.
            options.before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        };
        let writer = pool().max_connections(1).connect_with(options.clone()).await?;
        let readers = pool().max_connections(READERS_MAX).connect_with(options).await?;
        Ok(Self { readers, writer, trust })
    }

    pub(super) async fn close(&self) {
        // The last connection to close copies the log into the index. Twice: the first call does not close a connection
        // that is given back while it waits (sqlx 0.8).
        for pool in [&self.readers, &self.readers, &self.writer, &self.writer] {
            pool.close().await;
        }
    }

    /// For single statements that read.
    pub(super) fn read(&self) -> &SqlitePool {
        &self.readers
    }

    /// A transaction that reads one state of the index.
    pub(super) async fn snapshot(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.readers.begin().await?)
    }

    /// A transaction that writes. Dropping it takes everything back.
    pub(super) async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.trust.check()?;
        Ok(self.writer.begin_with("PRAGMA synchronous = FULL; BEGIN IMMEDIATE").await?)
    }

    /// As [`Index::write`], for what may be forgotten in a power cut: claims, and what is found again by doing the
    /// work again. The next transaction that must not be forgotten takes it to the disk.
    pub(super) async fn write_lazily(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.trust.check()?;
        Ok(self.writer.begin_with("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE").await?)
    }

    /// Ends a transaction. Where the disk fails in the middle nobody knows whether it will be there after a restart,
    /// so that nothing is believed from then on.
    pub(super) async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        let done = tx.commit().await.map_err(|e| self.judge("commit", e));
        // Another transaction may have lost the trust while this one was under way.
        done.and_then(|()| self.trust.check())
    }

    /// Records received objects whose UID is not known yet, durably; gives their paths. One call of the connection's
    /// thread instead of one for each row, the beginning and the end.
    pub(super) async fn insert_instances(&self, rows: &[serde_json::Value]) -> Result<HashSet<String>, StoreError> {
        self.trust.check()?;
        let columns = (0..12).map(|i| format!("value ->> {i}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "PRAGMA synchronous = FULL;
             INSERT INTO instances (sop_instance, sop_class, transfer_syntax, digest, bytes, file_bytes, path, calling,
                 called, peer, received_at, announced_study, state)
             SELECT {columns}, 'received' FROM json_each(?) WHERE true
             ON CONFLICT (sop_instance) DO NOTHING RETURNING path"
        );
        let paths: Result<Vec<String>, _> = sqlx::query_scalar(&sql).bind(json(&rows)?).fetch_all(&self.writer).await;
        let paths = paths.map_err(|e| self.judge("commit", e))?;
        self.trust.check()?;
        Ok(paths.into_iter().collect())
    }

    /// Copies the log into the index. The caller is the only one that writes meanwhile, so that the log begins anew
    /// after it and stays as large as it is: writing within a file is cheaper than making it longer.
    pub(super) async fn checkpoint(&self) -> Result<(), StoreError> {
        self.trust.check()?;
        let mut connection = self.writer.acquire().await?;
        let done = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_all(&mut *connection).await;
        done.map(drop).map_err(|e| self.judge("checkpoint", e))
    }

    fn judge(&self, doing: &str, e: sqlx::Error) -> StoreError {
        if is_undecided(&e) {
            self.trust.lose(format!("{doing} of the index: {e}"));
        }
        e.into()
    }

    /// A number that differs from the last one if another process wrote meanwhile.
    pub(super) async fn foreign_version(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("PRAGMA data_version").fetch_one(&self.writer).await?)
    }

    /// Every file that the index knows.
    pub(super) async fn paths(&self) -> Result<HashSet<String>, StoreError> {
        let sql = "SELECT path FROM instances WHERE path IS NOT NULL
                   UNION ALL SELECT path FROM conflicts
                   UNION ALL SELECT path FROM reports WHERE path IS NOT NULL";
        let paths: Vec<String> = sqlx::query_scalar(sql).fetch_all(self.read()).await?;
        Ok(paths.into_iter().collect())
    }

    /// After the node's end: nobody works on anything. A claim that it cut short does not count as an attempt, and
    /// the time until now does not count toward the cap of studies that are still being assembled.
    pub(super) async fn lift_leases(&self, now: Timestamp) -> Result<Recovered, StoreError> {
        let mut tx = self.write().await?;
        let mut interrupted = 0;
        for table in ["instances", "studies"] {
            let sql = format!(
                "UPDATE {table} SET lease_until = NULL, attempts = max(attempts - 1, 0), interrupted = interrupted + 1
                 WHERE lease_until IS NOT NULL"
            );
            interrupted += sqlx::query(&sql).execute(&mut *tx).await?.rows_affected();
        }
        for table in ["deliveries", "commitments"] {
            let sql = format!("UPDATE {table} SET lease_until = NULL WHERE lease_until IS NOT NULL");
            sqlx::query(&sql).execute(&mut *tx).await?;
        }
        // An answer may have found nobody here: every destination that owes one is asked again.
        let sql =
            "UPDATE deliveries SET commitment_next_at = ?1 WHERE commitment = 'asked' AND commitment_next_at > ?1";
        sqlx::query(sql).bind(micros(now)).execute(&mut *tx).await?;
        sqlx::query("UPDATE studies SET first_at = ? WHERE state = 'open'").bind(micros(now)).execute(&mut *tx).await?;
        self.commit(tx).await?;
        Ok(Recovered { interrupted, ..Recovered::default() })
    }

    /// Whether the last end was orderly; the next one is not until [`Index::note_orderly_end`] says so.
    pub(super) async fn take_orderly_end(&self) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let taken = sqlx::query("DELETE FROM node WHERE key = 'orderly_end'").execute(&mut *tx).await?;
        self.commit(tx).await?;
        Ok(taken.rows_affected() > 0)
    }

    pub(super) async fn note_orderly_end(&self) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let sql = "INSERT INTO node (key, value) VALUES ('orderly_end', '') ON CONFLICT (key) DO NOTHING";
        sqlx::query(sql).execute(&mut *tx).await?;
        self.commit(tx).await
    }

    /// The node's Device Observer UID and the key for identifiers in logs, made at first use.
    pub(super) async fn identity(&self) -> Result<(Uid, Digest), StoreError> {
        let known = self.identity_if_known().await?;
        if let Some(known) = known {
            return Ok(known);
        }
        let device = Uid::from_uuid(uuid::Uuid::new_v4());
        let secret = Digest::of(&[*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat());
        let mut tx = self.write().await?;
        let sql = "INSERT INTO node (key, value) VALUES ('device_uid', ?), ('log_key', ?) ON CONFLICT (key) DO NOTHING";
        sqlx::query(sql).bind(device.as_str()).bind(secret.as_str()).execute(&mut *tx).await?;
        self.commit(tx).await?;
        let known = self.identity_if_known().await?;
        known.ok_or_else(|| StoreError::Contents("the node has no identity".into()))
    }

    /// Whether the index was in use before.
    pub(super) async fn has_identity(&self) -> Result<bool, StoreError> {
        Ok(self.identity_if_known().await?.is_some())
    }

    async fn identity_if_known(&self) -> Result<Option<(Uid, Digest)>, StoreError> {
        let sql = "SELECT (SELECT value FROM node WHERE key = 'device_uid') AS device,
                       (SELECT value FROM node WHERE key = 'log_key') AS secret";
        let row = sqlx::query(sql).fetch_one(self.read()).await?;
        Ok(row.opt_parsed("device")?.zip(row.opt_parsed("secret")?))
    }
}

/// Microseconds since 1970, as the index keeps times.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.timestamp_micros()
}

pub(super) fn from_micros(value: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_timestamp_micros(value).ok_or_else(|| StoreError::Contents(format!("time {value}")))
}

/// The end of a lease or a retention that begins now; `span` may be of any length.
pub(super) fn shifted(time: Timestamp, span: Duration, sign: i64) -> i64 {
    let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    micros(time).saturating_add(span.saturating_mul(sign))
}

/// The serde name of a unit variant.
pub(super) fn word<T: Serialize>(value: &T) -> Result<String, StoreError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        _ => Err(StoreError::Contents("a state that is not a plain word".into())),
    }
}

pub(super) fn from_word<T: DeserializeOwned>(word: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::from(word)).map_err(|e| StoreError::Contents(e.to_string()))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Contents(e.to_string()))
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|e: T::Err| StoreError::Contents(e.to_string()))
}

#[derive(Debug)]
struct Embedded;

impl<'s> MigrationSource<'s> for Embedded {
    fn resolve(self) -> Pin<Box<dyn Future<Output = Result<Vec<Migration>, BoxDynError>> + Send + 's>> {
        let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into(), false)
        };
        Box::pin(async move { Ok(MIGRATIONS.iter().copied().map(migration).collect()) })
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let version = |e: MigrateError| match e {
        MigrateError::Execute(e) => damaged(path, e),
        other => StoreError::Version { path: path.to_owned(), cause: other.to_string() },
    };
    Migrator::new(Embedded).await.map_err(version)?.run_direct(connection).await.map_err(version)
}

/// A command beside the node changes nothing: it finds the migrations that it knows, or gives up.
async fn compare_version(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let migrator = Migrator::new(Embedded).await.map_err(|e| StoreError::Contents(e.to_string()))?;
    let applied = connection.list_applied_migrations().await.map_err(|e| match e {
        MigrateError::Execute(e) => damaged(path, e),
        other => StoreError::Version { path: path.to_owned(), cause: other.to_string() },
    })?;
    let known: Vec<_> = migrator.iter().map(|m| (m.version, &m.checksum)).collect();
    if applied.iter().map(|m| (m.version, &m.checksum)).eq(known.iter().copied()) {
        return Ok(());
    }
    let last = applied.last().map_or(0, |m| m.version);
    let cause = format!("it stands at migration {last}, this version knows {}", MIGRATIONS.last().map_or(0, |m| m.0));
    Err(StoreError::Version { path: path.to_owned(), cause })
}

/// What the log of the last run holds is written into the index and synced, and the log is emptied. Parts of it may
/// be in the page cache only, where a sync failed or none was asked for; what is appended to those would be lost with
/// them in a power cut.
async fn begin_log_anew(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let row =
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(connection).await.map_err(|e| damaged(path, e))?;
    match row.try_get::<i64, _>(0)? {
        0 => Ok(()),
        _ => Err(StoreError::Busy),
    }
}

/// Gives the log its length before anything is in it: to sync what was written within a file costs one journey to the
/// disk, to sync a file that has grown a second one, for the file system's journal. SQLite takes zeros for an empty
/// log. It gets its name when it is whole, and never instead of one that is there, which another process may use.
/// Where that cannot be, the log grows as it is used.
fn make_log(index: &Path) {
    let [log, new] = ["-wal", "-wal.new"].map(|suffix| {
        let mut name = index.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    });
    // What a kill left.
    let _ = fs::remove_file(&new);
    let made = (|| {
        let mut file = options().create_new(true).open(&new)?;
        let zeros = [0; 64 << 10];
        for _ in 0..LOG_BYTES / zeros.len() {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        fs::hard_link(&new, &log)
    })();
    if let Err(error) = made {
        debug!(%error, "the index's log was not made beforehand");
    }
    let _ = fs::remove_file(&new);
}

/// Looks through the whole file, so that damage shows at start and not in the middle of a study.
async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let verdict: String =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(connection).await.map_err(|e| damaged(path, e))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { path: path.to_owned(), cause: verdict })
}

/// SQLite's extended result code.
pub(super) fn code(e: &sqlx::Error) -> Option<i32> {
    e.as_database_error().and_then(|d| d.code()).and_then(|code| code.parse().ok())
}

/// Whether an error leaves open what the disk holds: every SQLITE_IOERR (10) but SQLITE_IOERR_WRITE (778), after which
/// SQLite knows that the transaction is not complete.
fn is_undecided(e: &sqlx::Error) -> bool {
    code(e).is_some_and(|code| code & 0xff == 10 && code != 778)
}

/// SQLITE_CORRUPT (11) and SQLITE_NOTADB (26), with their extended codes, mean damage.
fn damaged(path: &Path, e: sqlx::Error) -> StoreError {
    match code(&e).map(|code| code & 0xff) {
        Some(11 | 26) => StoreError::Damaged { path: PathBuf::from(path), cause: e.to_string() },
        _ => e.into(),
    }
}
