//! Storage commitment that the node asks for: which reports a destination took and has not yet promised to keep.
//!
//! A request is in the index before it is sent, so that its answer is known whenever and however it comes, also after a
//! restart and after a later request. What a destination does not keep is a delivery that failed. Neighbours: `outbox`
//! begins it when a report was taken, `serve` asks, `receive` takes answers on new associations; `commitments` is the
//! other side, what is asked of the node. Left out: how long to wait for an answer, which the caller decides.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use tracing::{info, warn};

use crate::dicom::{CommitmentRq, CommitmentRs, SopReference, Status};
use crate::domain::{Timestamp, Uid};

use super::index::{Columns, micros, shifted};
use super::outbox::{fail, recover};
use super::{GiveUp, Inquiry, Store, StoreError};

/// Reports in one request.
const REFERENCES_MAX: u32 = 100;

impl Store {
    /// Destinations that are to be asked now.
    pub async fn due_confirmations(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT destination FROM deliveries WHERE commitment = 'asked' AND commitment_next_at <= ?";
        Ok(sqlx::query_scalar(sql).bind(micros(now)).fetch_all(self.index().read()).await?)
    }

    /// Makes a request of what is due at a destination, under a new Transaction UID. It counts as made, and the next
    /// one is due after `lease` unless somebody says otherwise.
    pub async fn begin_confirmation(
        &self,
        destination: &str,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Option<Inquiry>, StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE deliveries SET commitment_attempts = commitment_attempts + 1, commitment_next_at = ?1
                   WHERE id IN (SELECT id FROM deliveries WHERE commitment = 'asked' AND destination = ?2
                       AND commitment_next_at <= ?3 ORDER BY commitment_next_at, id LIMIT ?4)
                   RETURNING id, sent_sop_class, sent_sop_instance, commitment_attempts";
        let query = sqlx::query(sql).bind(shifted(now, lease, 1)).bind(destination).bind(micros(now));
        let rows = query.bind(REFERENCES_MAX).fetch_all(&mut *tx).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let transaction = Uid::from_uuid(uuid::Uuid::new_v4());
        let sql = "INSERT INTO confirmations (uid, destination, asked_at) VALUES (?, ?, ?)";
        let query = sqlx::query(sql).bind(transaction.as_str()).bind(destination).bind(micros(now));
        query.execute(&mut *tx).await?;
        let (mut references, mut attempts) = (Vec::with_capacity(rows.len()), 0);
        for row in &rows {
            let sql = "INSERT INTO confirmation_items (uid, delivery) VALUES (?, ?)";
            sqlx::query(sql).bind(transaction.as_str()).bind(row.int("id")?).execute(&mut *tx).await?;
            let (sop_class, sop_instance) = (row.parsed("sent_sop_class")?, row.parsed("sent_sop_instance")?);
            references.push(SopReference { sop_class, sop_instance });
            attempts = row.small("commitment_attempts")?.max(attempts);
        }
        self.index().commit(tx).await?;
        info!(destination, reports = references.len(), attempts, "storage commitment is asked for");
        Ok(Some(Inquiry { request: CommitmentRq { transaction, references }, attempts }))
    }

    /// What a destination says of a request, if it is one that was made to one of `destinations`. A report that it does
    /// not keep is a delivery that failed, unless a newer report has taken its place; one that it does not keep yet is
    /// still asked for. That it keeps one counts also after the node gave it up. Says nothing new twice.
    pub async fn confirm(&self, destinations: &[String], answer: &CommitmentRs) -> Result<bool, StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "SELECT destination FROM confirmations WHERE uid = ?";
        let query = sqlx::query_scalar(sql).bind(answer.transaction.as_str());
        let asked: Option<String> = query.fetch_optional(&mut *tx).await?;
        let Some(destination) = asked.filter(|asked| destinations.contains(asked)) else { return Ok(false) };
        let outcomes: HashMap<&str, Status> =
            answer.outcomes.iter().map(|(r, outcome)| (r.sop_instance.as_str(), *outcome)).collect();
        // One that was sent again since is asked for anew.
        let sql = "SELECT d.id, d.study, d.sent_sop_instance, d.commitment, r.current FROM confirmation_items i
                       JOIN confirmations c ON c.uid = i.uid JOIN deliveries d ON d.id = i.delivery
                       JOIN reports r ON r.id = d.report
                   WHERE i.uid = ? AND d.commitment IN ('asked', 'failed') AND d.delivered_at <= c.asked_at";
        let (mut confirmed, mut open, mut refused) = (0, 0, 0);
        for row in sqlx::query(sql).bind(answer.transaction.as_str()).fetch_all(&mut *tx).await? {
            let (delivery, study) = (row.int("id")?, row.parsed("study")?);
            let given_up = row.text("commitment")? == "failed";
            match outcomes.get(row.text("sent_sop_instance")?.as_str()) {
                Some(&Status::SUCCESS) => {
                    keep(&mut tx, delivery).await?;
                    if given_up {
                        recover(&mut tx, &study).await?;
                    }
                    confirmed += 1;
                }
                _ if given_up => {}
                None => {
                    note(&mut tx, delivery, "its answer does not name the report").await?;
                    open += 1;
                }
                Some(&reason) if may_pass(reason) => {
                    note(&mut tx, delivery, &format!("it does not commit to keep the report yet: {reason}")).await?;
                    open += 1;
                }
                Some(reason) => {
                    let cause = format!("it does not commit to keep the report: {reason}");
                    let unkept = Unkept { delivery, current: row.int("current")? != 0 };
                    give_up(&mut tx, unkept, &study, &destination, &cause).await?;
                    refused += 1;
                }
            }
        }
        self.index().commit(tx).await?;
        match (refused, open) {
            (0, 0) => info!(destination, confirmed, "storage commitment was given"),
            (0, _) => info!(destination, confirmed, open, "storage commitment was answered, and not given for all yet"),
            _ => warn!(destination, confirmed, open, refused, "a destination does not keep reports that it took"),
        }
        Ok(true)
    }

    /// What a request asked for and no answer has settled is asked for again at `next_at`, or given up. `cause`: why
    /// there is no answer, unless there was one, which said it for each report.
    pub async fn confirmation_open(
        &self,
        inquiry: &Inquiry,
        cause: Option<&str>,
        next_at: Timestamp,
        when: GiveUp,
    ) -> Result<(), StoreError> {
        let transaction = inquiry.request.transaction.as_str();
        let mut tx = self.index().write().await?;
        let sql = "UPDATE deliveries SET commitment_next_at = ?, commitment_error = ifnull(?, commitment_error)
                   WHERE commitment = 'asked' AND id IN (SELECT delivery FROM confirmation_items WHERE uid = ?)
                   RETURNING id, study, destination, report, commitment_attempts, commitment_error, delivered_at";
        let query = sqlx::query(sql).bind(micros(next_at)).bind(cause).bind(transaction);
        let (mut open, mut given_up) = (0, 0);
        for row in query.fetch_all(&mut *tx).await? {
            open += 1;
            let old = row.opt_time("delivered_at")?.is_none_or(|at| at <= when.queued_before);
            let attempts = row.small("commitment_attempts")?;
            if !old || attempts < when.tries_min {
                continue;
            }
            let sql = "SELECT current FROM reports WHERE id = ?";
            let current: bool = sqlx::query_scalar(sql).bind(row.int("report")?).fetch_one(&mut *tx).await?;
            let last = row.opt_text("commitment_error")?.unwrap_or_default();
            let cause = format!("it gave no storage commitment after {attempts} requests: {last}");
            let unkept = Unkept { delivery: row.int("id")?, current };
            give_up(&mut tx, unkept, &row.parsed("study")?, &row.text("destination")?, &cause).await?;
            given_up += 1;
        }
        self.index().commit(tx).await?;
        if open > 0 {
            let cause = cause.unwrap_or("it does not keep all of them yet");
            warn!(reports = open, given_up, cause, next_at = ?next_at, "no storage commitment yet");
        }
        Ok(())
    }

    /// A destination is no longer asked: what it has not answered is not waited for.
    pub async fn withdraw_confirmations(&self, destination: &str) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE deliveries SET commitment = NULL, commitment_next_at = NULL, commitment_error = NULL
                   WHERE commitment = 'asked' AND destination = ?";
        let reports = sqlx::query(sql).bind(destination).execute(&mut *tx).await?.rows_affected();
        self.index().commit(tx).await?;
        warn!(destination, reports, "its storage commitment is not asked for any more: the configuration has changed");
        Ok(())
    }
}

/// A report that its destination took and does not keep.
struct Unkept {
    delivery: i64,
    /// Whether it is of the study's last report; else it can be neither missed nor sent again.
    current: bool,
}

/// Reasons that may pass (PS3.3 C.14.1.1): an archive may look for a report before its own index has it, and have no
/// time, room or access now. Every other one says that it will not keep the report.
fn may_pass(reason: Status) -> bool {
    [Status::PROCESSING_FAILURE, Status::NO_SUCH_SOP_INSTANCE, Status::RESOURCE_LIMITATION].contains(&reason)
}

/// The destination keeps the report: it is delivered, whatever was believed before.
async fn keep(tx: &mut Transaction<'_, Sqlite>, delivery: i64) -> Result<(), StoreError> {
    let sql = "UPDATE deliveries SET commitment = 'confirmed', commitment_next_at = NULL, commitment_error = NULL,
               state = iif(state = 'failed', 'delivered', state), last_error = NULL WHERE id = ?";
    sqlx::query(sql).bind(delivery).execute(&mut **tx).await?;
    Ok(())
}

/// Why a report is still asked for.
async fn note(tx: &mut Transaction<'_, Sqlite>, delivery: i64, cause: &str) -> Result<(), StoreError> {
    let sql = "UPDATE deliveries SET commitment_error = ? WHERE id = ?";
    sqlx::query(sql).bind(cause).bind(delivery).execute(&mut **tx).await?;
    Ok(())
}

async fn give_up(
    tx: &mut Transaction<'_, Sqlite>,
    unkept: Unkept,
    study: &Uid,
    destination: &str,
    cause: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE deliveries SET commitment = 'failed', commitment_next_at = NULL, commitment_error = ?1,
               state = iif(?2, 'failed', state), last_error = iif(?2, ?1, last_error) WHERE id = ?3 RETURNING report";
    let query = sqlx::query(sql).bind(cause).bind(unkept.current).bind(unkept.delivery);
    let row = query.fetch_optional(&mut **tx).await?;
    if let (Some(row), true) = (row, unkept.current) {
        fail(tx, study, row.int("report")?, &format!("{destination} took the report, and {cause}")).await?;
    }
    Ok(())
}

/// Forgets requests that were made before, and for which nothing waits any more.
pub(super) async fn forget(tx: &mut Transaction<'_, Sqlite>, before: i64) -> Result<(), StoreError> {
    let sql = "DELETE FROM confirmations WHERE asked_at < ? AND NOT EXISTS (SELECT 1 FROM confirmation_items i
                   JOIN deliveries d ON d.id = i.delivery WHERE i.uid = confirmations.uid AND d.commitment = 'asked')";
    sqlx::query(sql).bind(before).execute(&mut **tx).await?;
    Ok(())
}
