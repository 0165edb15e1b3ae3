//! Storage commitment: who asked for what, what was judged, and who still has to hear of it.
//!
//! A request is in the index before it is answered, so that a restart continues it. What it asks for is judged by the
//! index and by the file itself, which is read to its end: it must be there and be what its digest says. An object that
//! was committed stays for its whole retention from then on (`retention`). Neighbours: `receive` records requests and
//! answers those whose association is still there, `serve` sees to the rest. Left out: how a report is sent.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use tracing::{error, info, warn};

use crate::dicom::{CommitmentOutcome, CommitmentRq, SopReference, Status};
use crate::domain::{AeTitle, Digest, Timestamp, Uid};

use super::hashing::digest_from;
use super::index::{Columns, micros, shifted};
use super::{Commitment, Store, StoreError, blocking, confirmations};

/// How long requests are remembered after their end, so that a Transaction UID that is used again is told.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Files that are read at once, so that requests leave the disk to what arrives.
pub(super) const JUDGING_MAX: usize = 2;
/// Requests of one source that it has not heard of yet.
pub(super) const PENDING_MAX: i64 = 100;
/// What a lease is prolonged by while a request is being judged …
const LEASE: Duration = Duration::from_secs(120);
/// … and how often.
const RENEWAL: Duration = Duration::from_secs(30);

impl Store {
    /// Records a request, leased to the caller. A Transaction UID that this source has used before is refused in the
    /// outcome of each instance (0131H).
    ///
    /// # Errors
    /// [`StoreError::TooManyCommitments`] where 100 of this source are pending.
    pub async fn request_commitment(
        &self,
        source: &AeTitle,
        called: &AeTitle,
        request: &CommitmentRq,
        lease: Duration,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "SELECT count(*) FROM commitments WHERE source = ? AND state = 'pending'";
        let pending: i64 = sqlx::query_scalar(sql).bind(source.as_str()).fetch_one(&mut *tx).await?;
        if pending >= PENDING_MAX {
            return Err(StoreError::TooManyCommitments(source.clone()));
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM commitments WHERE source = ? AND uid = ?)";
        let query = sqlx::query_scalar(sql).bind(source.as_str()).bind(request.transaction.as_str());
        let used: bool = query.fetch_one(&mut *tx).await?;
        let sql = "INSERT INTO commitments (source, called, uid, requested_at, judged, state, lease_until, next_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?4)";
        let inserted = sqlx::query(sql)
            .bind(source.as_str())
            .bind(called.as_str())
            .bind(request.transaction.as_str())
            .bind(micros(now))
            .bind(used)
            .bind(shifted(now, lease, 1))
            .execute(&mut *tx)
            .await?;
        let id = inserted.last_insert_rowid();
        let outcome = if used { Status::DUPLICATE_TRANSACTION } else { Status::SUCCESS };
        let sql = "INSERT INTO commitment_items (commitment, ordinal, sop_class, sop_instance, outcome)
                   VALUES (?, ?, ?, ?, ?)";
        for (ordinal, reference) in (0i64..).zip(&request.references) {
            let query = sqlx::query(sql).bind(id).bind(ordinal).bind(reference.sop_class.as_str());
            query.bind(reference.sop_instance.as_str()).bind(i64::from(outcome.0)).execute(&mut *tx).await?;
        }
        self.index().commit(tx).await?;
        info!(commitment = id, %source, instances = request.references.len(), used, "storage commitment requested");
        Ok(id)
    }

    /// Leases a request that is due to the caller, if there is one.
    pub async fn due_commitment(&self, lease: Duration, now: Timestamp) -> Result<Option<Commitment>, StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE commitments SET lease_until = ?1 WHERE id = (SELECT id FROM commitments
                       WHERE state = 'pending' AND next_at <= ?2 AND (lease_until IS NULL OR lease_until <= ?2)
                       ORDER BY next_at, id LIMIT 1)
                   RETURNING id, source, called, attempts, requested_at";
        let row = sqlx::query(sql).bind(shifted(now, lease, 1)).bind(micros(now)).fetch_optional(&mut *tx).await?;
        let Some(row) = row else { return Ok(None) };
        let due = Commitment {
            id: row.int("id")?,
            source: row.parsed("source")?,
            called: row.parsed("called")?,
            attempts: row.small("attempts")?,
            requested_at: row.time("requested_at")?,
        };
        self.index().commit(tx).await?;
        Ok(Some(due))
    }

    /// Transaction UID and outcomes of a request, which is judged now if it was not before. Its lease is prolonged
    /// meanwhile. Dropping the future stops it after the files that are being read.
    pub async fn judge_commitment(&self, id: i64, now: Timestamp) -> Result<(Uid, Vec<CommitmentOutcome>), StoreError> {
        let mut tx = self.index().snapshot().await?;
        let row = sqlx::query("SELECT uid, judged FROM commitments WHERE id = ?").bind(id).fetch_one(&mut *tx).await?;
        let (transaction, judged) = (row.parsed("uid")?, row.int("judged")? != 0);
        let mut items = Vec::new();
        let sql = "SELECT sop_class, sop_instance, outcome FROM commitment_items WHERE commitment = ? ORDER BY ordinal";
        for row in sqlx::query(sql).bind(id).fetch_all(&mut *tx).await? {
            let reference =
                SopReference { sop_class: row.parsed("sop_class")?, sop_instance: row.parsed("sop_instance")? };
            let outcome = u16::try_from(row.int("outcome")?).map_err(|e| StoreError::Contents(e.to_string()))?;
            items.push((reference, Status(outcome)));
        }
        drop(tx);
        if judged {
            return Ok((transaction, items));
        }
        let distinct = self.judge_leased(id, &mut items, now).await?;
        self.record_outcomes(id, &mut items, now).await?;
        let failed = items.iter().filter(|(_, outcome)| *outcome != Status::SUCCESS).count();
        info!(commitment = id, instances = items.len(), distinct, failed, "storage commitment judged");
        Ok((transaction, items))
    }

    /// The source has heard of it.
    pub async fn commitment_answered(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE commitments SET state = 'answered', lease_until = NULL, attempts = attempts + 1,
                   last_error = NULL, ended_at = ? WHERE id = ? AND state = 'pending'";
        let ended = sqlx::query(sql).bind(micros(now)).bind(id).execute(&mut *tx).await?.rows_affected();
        self.index().commit(tx).await?;
        if ended > 0 {
            info!(commitment = id, "storage commitment reported");
        }
        Ok(())
    }

    /// The source has not heard of it: it is told at `next_at`, or never.
    pub async fn commitment_failed(
        &self,
        id: i64,
        cause: &str,
        next_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE commitments SET lease_until = NULL, attempts = attempts + 1, last_error = ?1,
                   next_at = ifnull(?2, next_at), state = iif(?2 IS NULL, 'failed', state),
                   ended_at = iif(?2 IS NULL, ?3, NULL) WHERE id = ?4 AND state = 'pending'";
        let query = sqlx::query(sql).bind(cause).bind(next_at.map(micros)).bind(micros(now)).bind(id);
        query.execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        warn!(commitment = id, cause, next_at = ?next_at, "a storage commitment was not reported");
        self.wake().commitment_due.notify_one();
        Ok(())
    }

    /// Gives a lease back: the association that asked has ended.
    pub async fn release_commitment(&self, id: i64) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE commitments SET lease_until = NULL WHERE id = ? AND state = 'pending'";
        sqlx::query(sql).bind(id).execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        self.wake().commitment_due.notify_one();
        Ok(())
    }

    /// Judges every item, for as long as it takes; gives the number of distinct ones.
    async fn judge_leased(
        &self,
        id: i64,
        items: &mut [CommitmentOutcome],
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let begun = tokio::time::Instant::now();
        let mut renewals = tokio::time::interval_at(begun + RENEWAL, RENEWAL);
        let judging = self.judge_all(items);
        tokio::pin!(judging);
        loop {
            tokio::select! {
                judged = &mut judging => return judged,
                _ = renewals.tick() => {
                    let now = now + chrono::Duration::from_std(begun.elapsed()).unwrap_or_default();
                    if let Err(cause) = self.renew_commitment(id, now).await {
                        warn!(commitment = id, %cause, "the lease of a storage commitment was not prolonged");
                    }
                }
            }
        }
    }

    /// An instance is judged once, however often a request names it.
    pub(super) async fn judge_all(&self, items: &mut [CommitmentOutcome]) -> Result<usize, StoreError> {
        let mut judged = HashMap::new();
        for (reference, outcome) in items {
            *outcome = match judged.get(&*reference) {
                Some(known) => *known,
                None => {
                    let found = self.judge(reference).await?;
                    judged.insert(reference.clone(), found);
                    found
                }
            };
        }
        Ok(judged.len())
    }

    /// Prolongs a lease; one that was given back stays so.
    pub(super) async fn renew_commitment(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE commitments SET lease_until = max(lease_until, ?) WHERE id = ? AND state = 'pending'
                   AND lease_until IS NOT NULL";
        sqlx::query(sql).bind(shifted(now, LEASE, 1)).bind(id).execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        Ok(())
    }

    /// What the index and the disk say of an instance.
    async fn judge(&self, reference: &SopReference) -> Result<Status, StoreError> {
        let sql = "SELECT sop_class, digest, bytes, path FROM instances WHERE sop_instance = ?";
        let query = sqlx::query(sql).bind(reference.sop_instance.as_str());
        let Some(row) = query.fetch_optional(self.index().read()).await? else {
            return Ok(Status::NO_SUCH_SOP_INSTANCE);
        };
        let Some(path) = row.opt_text("path")? else { return Ok(Status::NO_SUCH_SOP_INSTANCE) };
        if row.parsed::<Uid>("sop_class")? != reference.sop_class {
            return Ok(Status::CLASS_INSTANCE_CONFLICT);
        }
        // The source may mean the version that is kept aside, for which nothing is promised.
        let sql = "SELECT EXISTS (SELECT 1 FROM conflicts WHERE sop_instance = ?)";
        let query = sqlx::query_scalar(sql).bind(reference.sop_instance.as_str());
        if query.fetch_one(self.index().read()).await? {
            return Ok(Status::PROCESSING_FAILURE);
        }
        let (path, bytes, expected): (PathBuf, u64, Digest) =
            (self.spool().absolute(&path), row.count("bytes")?, row.parsed("digest")?);
        let permit = Arc::clone(&self.inner.judging).acquire_owned().await.map_err(|_| StoreError::Closing)?;
        let found = blocking(move || {
            // Held until the file is read, also where nobody waits for that any more.
            let _permit = permit;
            Ok(digest_of_tail(&path, bytes))
        });
        let found = found.await?;
        // The file's name holds the UID.
        let object = self.log_id(reference.sop_instance.as_str());
        match found {
            Ok(digest) if digest == expected => Ok(Status::SUCCESS),
            Ok(_) => {
                error!(
                    object,
                    "an object is not what it was when it arrived; `fsck --digests` names it: restore it from a backup"
                );
                Ok(Status::PROCESSING_FAILURE)
            }
            Err(cause) => {
                error!(object, cause = %cause.kind(), "an indexed object cannot be read: find it by `fsck`, restore it");
                Ok(Status::PROCESSING_FAILURE)
            }
        }
    }

    /// Keeps the outcomes. Committed objects that the retention took meanwhile are not committed.
    async fn record_outcomes(
        &self,
        id: i64,
        items: &mut [CommitmentOutcome],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let keep = "UPDATE instances SET committed_at = ? WHERE sop_instance = ? AND path IS NOT NULL";
        let sql = "UPDATE commitment_items SET outcome = ? WHERE commitment = ? AND ordinal = ?";
        for (ordinal, (reference, outcome)) in (0i64..).zip(items) {
            if *outcome == Status::SUCCESS {
                let query = sqlx::query(keep).bind(micros(now)).bind(reference.sop_instance.as_str());
                if query.execute(&mut *tx).await?.rows_affected() == 0 {
                    *outcome = Status::NO_SUCH_SOP_INSTANCE;
                }
            }
            sqlx::query(sql).bind(i64::from(outcome.0)).bind(id).bind(ordinal).execute(&mut *tx).await?;
        }
        sqlx::query("UPDATE commitments SET judged = 1 WHERE id = ?").bind(id).execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        Ok(())
    }
}

/// Forgets requests that ended long ago.
pub(super) async fn forget(tx: &mut Transaction<'_, Sqlite>, now: Timestamp) -> Result<(), StoreError> {
    let before = shifted(now, REMEMBERED, -1);
    sqlx::query("DELETE FROM commitments WHERE ended_at < ?").bind(before).execute(&mut **tx).await?;
    confirmations::forget(tx, before).await
}

/// The digest of the last `bytes` of a file: the data set behind preamble and meta group.
fn digest_of_tail(path: &Path, bytes: u64) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let head = file.metadata()?.len().checked_sub(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
    digest_from(&mut file, head)
}
