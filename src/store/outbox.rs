//! The outbox: which reports are due where, and what came of each attempt.
//!
//! To one destination the reports of one study go one after the other, so that the newest arrives last. Neighbours:
//! `studies` fills it, `deliver` empties it, `destinations` knows which of them are down. Left out: how long to wait
//! between attempts and when to give up, which the caller decides.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use tracing::{info, warn};

use crate::dicom::REPORT_STORAGE;
use crate::domain::{Disclosure, Report, Timestamp, Uid};

use super::destinations::reached;
use super::index::{Columns, json, micros, shifted};
use super::{Activity, Delivery, Resend, Store, StoreError, activity};

impl Store {
    /// Leases up to `limit` deliveries that are due to the caller, in the order in which they fell due: those to
    /// `destination`, or to all. Whether a destination is down is asked by [`Store::due_destinations`].
    pub async fn due_deliveries(
        &self,
        limit: u32,
        destination: Option<&str>,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let due = due();
        let sql = format!(
            "SELECT d.id, d.study, d.destination, d.report, r.disclosure, r.sop_class, r.sop_instance, r.path,
                 d.attempts, d.queued_at
             FROM deliveries d JOIN reports r ON r.id = d.report
             WHERE {due} AND (?3 IS NULL OR d.destination = ?3) ORDER BY d.next_at, d.id LIMIT ?2"
        );
        let rows = sqlx::query(&sql).bind(micros(now)).bind(limit).bind(destination).fetch_all(&mut *tx).await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = row.int("id")?;
            let sql = "UPDATE deliveries SET lease_until = ? WHERE id = ?";
            sqlx::query(sql).bind(shifted(now, lease, 1)).bind(id).execute(&mut *tx).await?;
            due.push(Delivery {
                id,
                study: row.parsed("study")?,
                destination: row.text("destination")?,
                report: row.int("report")?,
                disclosure: row.word("disclosure")?,
                sop_class: row.parsed("sop_class")?,
                sop_instance: row.parsed("sop_instance")?,
                path: self.spool().absolute(&row.text("path")?),
                attempts: row.small("attempts")?,
                queued_at: row.time("queued_at")?,
            });
        }
        self.index().commit(tx).await?;
        Ok(due)
    }

    /// Gives a delivery back as it was: the attempt says nothing of it.
    pub async fn release_delivery(&self, id: i64) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "UPDATE deliveries SET lease_until = NULL WHERE id = ?";
        sqlx::query(sql).bind(id).execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        self.wake().delivery_due.notify_one();
        Ok(())
    }

    /// The destination accepted the report, as this SOP class and instance. When all current deliveries of the study
    /// came that far, the study is delivered. `commitment`: the destination is to be asked whether it keeps the report.
    /// It is not asked for maps: nothing outlasts its retention for one.
    pub async fn delivery_succeeded(
        &self,
        id: i64,
        sent_sop_class: &Uid,
        sent_sop_instance: &Uid,
        commitment: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let commitment = commitment && REPORT_STORAGE.contains(&sent_sop_class.as_str());
        let mut tx = self.index().write().await?;
        let sql = "UPDATE deliveries SET state = 'delivered', lease_until = NULL, attempts = attempts + 1,
                   last_error = NULL, delivered_at = ?1, sent_sop_class = ?2, sent_sop_instance = ?3,
                   commitment = iif(?4, 'asked', NULL), commitment_next_at = iif(?4, ?1, NULL), commitment_attempts = 0,
                   commitment_error = NULL WHERE id = ?5 RETURNING study, destination, attempts";
        let row = sqlx::query(sql)
            .bind(micros(now))
            .bind(sent_sop_class.as_str())
            .bind(sent_sop_instance.as_str())
            .bind(commitment)
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(()) };
        let study: Uid = row.parsed("study")?;
        let sql = "INSERT INTO own_reports (sop_instance) VALUES (?) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(sent_sop_instance.as_str()).execute(&mut *tx).await?;
        sqlx::query(&arrived()).bind(study.as_str()).execute(&mut *tx).await?;
        // Another association may have failed to reach it since this one was opened.
        let destination = row.text("destination")?;
        let back = reached(&mut tx, &destination).await?;
        self.index().commit(tx).await?;
        if back {
            info!(destination, "the destination is back; what waited for it is sent");
        }
        info!(delivery = id, destination, attempts = row.int("attempts")?, "delivered");
        self.wake().delivery_due.notify_one();
        if commitment {
            self.wake().confirmation_due.notify_one();
        }
        Ok(())
    }

    /// The attempt failed: it is tried again at `next_at`, or given up without one. A delivery that was given up fails
    /// its study, until `resend`, unless it is of a map; the study's other deliveries go on.
    pub async fn delivery_failed(&self, id: i64, error: &str, next_at: Option<Timestamp>) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        // One that was superseded meanwhile is over, whatever came of it.
        let sql = "UPDATE deliveries SET lease_until = NULL, attempts = attempts + 1, last_error = ?1,
                   next_at = ifnull(?2, next_at), state = iif(state = 'pending' AND ?2 IS NULL, 'failed', state)
                   WHERE id = ?3 RETURNING study, report, destination, attempts, state";
        let row = sqlx::query(sql).bind(error).bind(next_at.map(micros)).bind(id).fetch_optional(&mut *tx).await?;
        let Some(row) = row else { return Ok(()) };
        let (destination, attempts) = (row.text("destination")?, row.int("attempts")?);
        if row.text("state")? == "failed" {
            let cause = format!("delivery to {destination} was given up after {attempts} attempts: {error}");
            fail(&mut tx, &row.parsed("study")?, row.int("report")?, &cause).await?;
        }
        self.index().commit(tx).await?;
        warn!(delivery = id, destination, attempts, error, next_at = ?next_at, "delivery failed");
        self.wake().delivery_due.notify_one();
        Ok(())
    }

    /// Sends the current reports of a study again, to every destination that they were for; gives their number.
    pub async fn resend(&self, study: &Uid, now: Timestamp) -> Result<u64, StoreError> {
        self.resend_matching(Resend { study: Some(study), ..Resend::default() }, now).await
    }

    /// Makes every delivery that matches due at once, as if it had never been tried; gives their number. A destination
    /// that is down is tried at once too.
    ///
    /// Of all deliveries those of current reports; of failed ones also those of older reports that were not withdrawn
    /// (`study.late = "always"`), and after such a one whatever of its study the destination has taken since, once
    /// more, so that the newest report is still the last to arrive.
    pub async fn resend_matching(&self, which: Resend<'_>, now: Timestamp) -> Result<u64, StoreError> {
        self.resend_matching_as(which, None, now).await
    }

    /// As [`Store::resend_matching`], with the line of the activity log that tells it.
    pub async fn resend_matching_as(
        &self,
        which: Resend<'_>,
        told: Option<&Activity>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut tx = self.index().write().await?;
        if let Some(study) = which.study {
            let sql = "SELECT 1 FROM studies WHERE study = ?";
            if sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut *tx).await?.is_none() {
                return Err(StoreError::UnknownStudy(study.clone()));
            }
        }
        let sql = "SELECT d.id FROM deliveries d JOIN reports r ON r.id = d.report
                   WHERE (?1 IS NULL OR d.study = ?1) AND (?2 IS NULL OR d.destination = ?2) AND r.path IS NOT NULL
                       AND iif(?3, d.state = 'failed' OR (d.state = 'delivered' AND EXISTS (
                           SELECT 1 FROM deliveries o JOIN reports q ON q.id = o.report WHERE o.study = d.study
                               AND o.destination = d.destination AND o.id < d.id AND o.state = 'failed'
                               AND q.path IS NOT NULL)), r.current = 1)";
        let query = sqlx::query_scalar(sql).bind(which.study.map(Uid::as_str)).bind(which.destination);
        let ids: Vec<i64> = query.bind(which.failed_only).fetch_all(&mut *tx).await?;
        let sql = "UPDATE deliveries SET state = 'pending', attempts = 0, queued_at = ?1, next_at = ?1,
                   last_error = NULL, delivered_at = NULL, commitment = NULL, commitment_next_at = NULL,
                   commitment_error = NULL WHERE id IN (SELECT value FROM json_each(?2)) RETURNING study, destination";
        let rows = sqlx::query(sql).bind(micros(now)).bind(json(&ids)?).fetch_all(&mut *tx).await?;
        let (mut studies, mut destinations) = (BTreeSet::new(), BTreeSet::new());
        for row in &rows {
            studies.insert(row.text("study")?);
            destinations.insert(row.text("destination")?);
        }
        if let (Some(study), true) = (which.study, rows.is_empty()) {
            return Err(StoreError::NothingToSend(study.clone()));
        }
        for study in &studies {
            // Where maps alone go again, the report has arrived and stays so.
            for sql in [on_its_way(), arrived()] {
                sqlx::query(&sql).bind(study).execute(&mut *tx).await?;
            }
        }
        for destination in &destinations {
            let sql = "UPDATE destinations SET next_at = NULL WHERE name = ?";
            sqlx::query(sql).bind(destination).execute(&mut *tx).await?;
        }
        activity::tell(&mut tx, told, now).await?;
        self.index().commit(tx).await?;
        self.wake().delivery_due.notify_one();
        Ok(rows.len() as u64)
    }

    /// A report as it is sent, in each of its SOP classes, the preferred first. Reading one that holds posteriors is
    /// logged.
    pub async fn report_files(&self, report: i64) -> Result<Vec<Report>, StoreError> {
        let sql = "SELECT study, sop_class, sop_instance, series, path, disclosure FROM reports
                   WHERE id = ?1 OR variant_of = ?1 ORDER BY id";
        let rows = sqlx::query(sql).bind(report).fetch_all(self.index().read()).await?;
        let mut variants = Vec::with_capacity(rows.len());
        for row in &rows {
            let path = row.opt_text("path")?.ok_or(StoreError::ReportGone(report))?;
            let path = self.spool().absolute(&path);
            variants.push(Report {
                study: row.parsed("study")?,
                sop_class: row.parsed("sop_class")?,
                sop_instance: row.parsed("sop_instance")?,
                series: row.parsed("series")?,
                file: tokio::fs::read(&path).await.map_err(StoreError::file("read", &path))?,
            });
        }
        let first = rows.first().ok_or(StoreError::ReportGone(report))?;
        if first.word::<Disclosure>("disclosure")? == Disclosure::Probabilities {
            info!(report, "a disclosed report was read");
        }
        Ok(variants)
    }

    /// Whether an object is a report of this node, under its own UID or the one that a destination accepted; also long
    /// after the report and its study were forgotten.
    pub async fn is_own_report(&self, sop_instance: &Uid) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM own_reports WHERE sop_instance = ?1)";
        Ok(sqlx::query_scalar(sql).bind(sop_instance.as_str()).fetch_one(self.index().read()).await?)
    }
}

/// The SOP classes of reports, for SQL. Deliveries of others are of maps: a destination that does not take them holds
/// nothing up, since whether a study is delivered, and when its next report goes, its reports alone decide.
fn reports() -> String {
    format!("('{}')", REPORT_STORAGE.join("', '"))
}

/// A delivery `d` that can be sent at `?1`. One of an older report of its study to the same destination goes first,
/// unless the file of that one is gone; one of a map does not.
pub(super) fn due() -> String {
    let reports = reports();
    format!(
        "d.state = 'pending' AND d.next_at <= ?1
         AND (d.lease_until IS NULL OR d.lease_until <= ?1)
         AND EXISTS (SELECT 1 FROM reports p WHERE p.id = d.report AND p.path IS NOT NULL)
         AND NOT EXISTS (SELECT 1 FROM deliveries o JOIN reports q ON q.id = o.report
             WHERE o.study = d.study AND o.destination = d.destination AND o.id < d.id
             AND (o.lease_until > ?1 OR (o.state = 'pending' AND q.path IS NOT NULL)) AND q.sop_class IN {reports})"
    )
}

/// Whether the study's current reports (study `?1`) are those of its last revision. Where that one was refused or
/// failed, the deliveries of older reports do not change what became of it.
const CURRENT: &str = "EXISTS (SELECT 1 FROM reports r WHERE r.study = ?1 AND r.current = 1
                       AND r.revision = studies.revision)";

/// A study (`?1`) whose report is on its way to every destination that has not taken it. One with another delivery that
/// was given up stays failed until that one is sent again too.
fn on_its_way() -> String {
    let reports = reports();
    format!(
        "UPDATE studies SET state = 'reported', error = NULL
         WHERE study = ?1 AND state IN ('delivered', 'failed') AND {CURRENT}
         AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN reports r ON r.id = d.report
             WHERE r.study = ?1 AND r.current = 1 AND d.state = 'failed' AND r.sop_class IN {reports})"
    )
}

/// A study (`?1`) whose report every destination has taken.
fn arrived() -> String {
    let reports = reports();
    format!(
        "UPDATE studies SET state = 'delivered' WHERE study = ?1 AND state = 'reported' AND {CURRENT}
         AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN reports r ON r.id = d.report
             WHERE r.study = ?1 AND r.current = 1 AND d.state <> 'delivered' AND r.sop_class IN {reports})"
    )
}

/// A delivery that was given up has arrived after all: what its study is now.
pub(super) async fn recover(tx: &mut Transaction<'_, Sqlite>, study: &Uid) -> Result<(), StoreError> {
    for sql in [on_its_way(), arrived()] {
        sqlx::query(&sql).bind(study.as_str()).execute(&mut **tx).await?;
    }
    Ok(())
}

/// A delivery of this report was given up, and with it the study; of a map only its own line tells.
pub(super) async fn fail(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    report: i64,
    cause: &str,
) -> Result<(), StoreError> {
    let reports = reports();
    let sql = format!(
        "UPDATE studies SET state = 'failed', error = ?2 WHERE study = ?1 AND state IN ('reported', 'delivered')
         AND {CURRENT} AND EXISTS (SELECT 1 FROM reports m WHERE m.id = ?3 AND m.sop_class IN {reports})"
    );
    sqlx::query(&sql).bind(study.as_str()).bind(cause).bind(report).execute(&mut **tx).await?;
    Ok(())
}

/// Notes that the file of a report is gone. One that waits to be sent and cannot be fails its study.
pub(super) async fn report_lost(tx: &mut Transaction<'_, Sqlite>, report: i64, study: &Uid) -> Result<(), StoreError> {
    sqlx::query("UPDATE reports SET path = NULL WHERE id = ?").bind(report).execute(&mut **tx).await?;
    let cause = "the report's file is lost: `studies requeue`";
    let sql = "UPDATE deliveries SET state = 'failed', lease_until = NULL, last_error = ?1 WHERE state = 'pending'
               AND report IN (SELECT ifnull(variant_of, id) FROM reports WHERE id = ?2)";
    if sqlx::query(sql).bind(cause).bind(report).execute(&mut **tx).await?.rows_affected() > 0 {
        fail(tx, study, report, cause).await?;
    }
    Ok(())
}
