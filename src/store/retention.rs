//! What is past its retention goes: objects, race scores, finally whole studies.
//!
//! Only finished studies lose anything, a batch at a time, so that receiving goes on beside it. A file is removed
//! before the row that knows it is committed: no file outlives its row. Neighbours: `serve` calls this now
//! and then. Left out: the spans, which are configuration.

use sqlx::{Sqlite, Transaction};
use std::time::Duration;
use tracing::info;

use crate::domain::{Timestamp, Uid};

use super::index::{Columns, from_micros, shifted};
use super::{Expired, Purged, Retention, Store, StoreError, blocking, commitments, evidence, results};

/// Studies that ended before `?1` and have nothing left to deliver, and no report that a destination was asked to keep
/// and has not committed to. One that a newer report has taken the place of is waited for as long as it is asked for.
const FINISHED: &str = "SELECT s.study FROM studies s WHERE s.state IN ('delivered', 'refused', 'failed')
    AND s.closed_at < ?1 AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN reports r ON r.id = d.report
        WHERE d.study = s.study AND (d.state = 'pending' OR d.commitment = 'asked'
            OR (d.commitment = 'failed' AND r.current = 1)))";

/// The same for race scores, which no destination is to keep: their retention waits for deliveries alone.
const FINISHED_SCORES: &str = "SELECT s.study FROM studies s WHERE s.state IN ('delivered', 'refused', 'failed')
    AND s.closed_at < ?1 AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.study = s.study AND d.state = 'pending')";

/// Files whose rows go in one transaction: receiving never waits longer than for so many deletions.
const BATCH: u32 = 200;

impl Store {
    /// Deletes what is past its retention: objects (conflicting ones by their arrival; none within its span of a
    /// commitment; damaged ones and what else was set aside, from then on); race scores, and the files of disclosed
    /// reports, which hold them; rows and reports of studies whose objects are gone too.
    pub async fn expire(&self, now: Timestamp, retention: Retention) -> Result<Expired, StoreError> {
        let mut expired = Expired::default();
        let mut tx = self.index().write().await?;
        commitments::forget(&mut tx, now).await?;
        self.index().commit(tx).await?;
        let before = |kept: Option<Duration>| kept.map(|span| shifted(now, span, -1));
        if let Some(before) = before(retention.objects_kept) {
            let mut tx = self.index().write().await?;
            expired.results = results::forget_strays(&mut tx, before).await?;
            self.index().commit(tx).await?;
            expired.objects =
                self.in_batches(before, Due::Objects).await? + self.in_batches(before, Due::Conflicts).await?;
        }
        if let Some(before) = before(retention.posteriors_kept) {
            let mut tx = self.index().write().await?;
            expired.posteriors = forget_posteriors(&mut tx, before).await?;
            self.index().commit(tx).await?;
            expired.disclosed_reports = self.in_batches(before, Due::DisclosedReports).await?;
        }
        if let Some(before) = before(retention.evidence_kept) {
            let mut tx = self.index().write().await?;
            expired.evidence = evidence::forget(&mut tx, before).await?;
            self.index().commit(tx).await?;
        }
        if let Some(before) = before(retention.reports_kept) {
            expired.studies = self.in_batches(before, Due::Studies).await?;
        }
        if let Some(before) = before(retention.objects_kept) {
            let (spool, since) = (self.spool().clone(), from_micros(before)?);
            expired.damaged = blocking(move || spool.forget_damaged(since.into())).await?;
        }
        if expired != Expired::default() {
            info!(
                objects = expired.objects,
                studies = expired.studies,
                results = expired.results,
                posteriors = expired.posteriors,
                evidence = expired.evidence,
                disclosed_reports = expired.disclosed_reports,
                damaged = expired.damaged,
                "deleted what is past its retention"
            );
        }
        Ok(expired)
    }

    /// Deletes a study with its objects, scores and reports; how many objects and reports there were. Not one that is
    /// open or being delivered, whose objects a sender may have deleted on the node's word, or whose reports a
    /// destination has not committed to keep, unless `force`d. Its reports are known as the node's own still.
    pub async fn purge(&self, study: &Uid, force: bool) -> Result<Purged, StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "SELECT state = 'open' OR EXISTS (SELECT 1 FROM deliveries d WHERE d.study = s.study
                       AND d.state = 'pending') AS in_work,
                       EXISTS (SELECT 1 FROM instances i WHERE i.study = s.study AND i.path IS NOT NULL
                           AND i.committed_at IS NOT NULL) AS committed,
                       EXISTS (SELECT 1 FROM deliveries d JOIN reports r ON r.id = d.report WHERE d.study = s.study
                           AND (d.commitment = 'asked' OR (d.commitment = 'failed' AND r.current = 1))) AS unconfirmed
                   FROM studies s WHERE study = ?";
        let row = sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut *tx).await?;
        let row = row.ok_or_else(|| StoreError::UnknownStudy(study.clone()))?;
        if row.int("in_work")? != 0 && !force {
            return Err(StoreError::InWork(study.clone()));
        }
        if row.int("committed")? != 0 && !force {
            return Err(StoreError::Committed(study.clone()));
        }
        if row.int("unconfirmed")? != 0 && !force {
            return Err(StoreError::Unconfirmed(study.clone()));
        }
        let own = "SELECT sop_instance FROM instances WHERE study = ?1";
        let mut files = Vec::new();
        for sql in [
            format!("SELECT path FROM instances WHERE path IS NOT NULL AND sop_instance IN ({own})"),
            format!("SELECT path FROM conflicts WHERE sop_instance IN ({own})"),
            "SELECT path FROM reports WHERE path IS NOT NULL AND study = ?1".to_owned(),
        ] {
            let paths: Vec<String> = sqlx::query_scalar(&sql).bind(study.as_str()).fetch_all(&mut *tx).await?;
            files.extend(paths);
        }
        let mut deleted = Vec::new();
        for sql in [
            format!("DELETE FROM conflicts WHERE sop_instance IN ({own})"),
            "DELETE FROM instances WHERE study = ?1".to_owned(),
            "DELETE FROM reports WHERE study = ?1 AND variant_of IS NULL".to_owned(),
            "DELETE FROM studies WHERE study = ?1".to_owned(),
        ] {
            deleted.push(sqlx::query(&sql).bind(study.as_str()).execute(&mut *tx).await?.rows_affected());
        }
        results::forget(&mut tx, study.as_str()).await?;
        let spool = self.spool().clone();
        blocking(move || {
            files.iter().for_each(|path| spool.remove(path));
            Ok(())
        })
        .await?;
        self.index().commit(tx).await?;
        info!(study = self.log_id(study.as_str()), objects = deleted[1], reports = deleted[2], "a study was deleted");
        Ok(Purged { objects: deleted[1], reports: deleted[2] })
    }

    /// Forgets what is due, a batch a transaction; how many of its kind.
    async fn in_batches(&self, before: i64, due: Due) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let mut files = Vec::new();
            let mut tx = self.index().write().await?;
            let (rows, forgotten) = match due {
                Due::Objects => forget_objects(&mut tx, before, &mut files).await?,
                Due::Conflicts => forget_conflicts(&mut tx, before, &mut files).await?,
                Due::DisclosedReports => forget_disclosed_reports(&mut tx, before, &mut files).await?,
                Due::Studies => forget_studies(&mut tx, before, &mut files).await?,
            };
            // Files first: a kill in between leaves rows whose file is gone, which the next run forgets and a repeated
            // object fills again, and never files that no row knows.
            let spool = self.spool().clone();
            blocking(move || {
                files.iter().for_each(|path| spool.remove(path));
                Ok(())
            })
            .await?;
            self.index().commit(tx).await?;
            total += forgotten;
            if rows < BATCH as usize {
                return Ok(total);
            }
        }
    }
}

/// What may be past its retention and has files.
#[derive(Clone, Copy)]
enum Due {
    Objects,
    Conflicts,
    DisclosedReports,
    Studies,
}

/// Rows of this batch, and how many objects they were; so do the others.
async fn forget_objects(
    tx: &mut Transaction<'_, Sqlite>,
    before: i64,
    files: &mut Vec<String>,
) -> Result<(usize, u64), StoreError> {
    let due = format!(
        "SELECT sop_instance FROM instances WHERE state <> 'received' AND path IS NOT NULL AND study IN ({FINISHED})
             AND (committed_at IS NULL OR committed_at < ?1)
         ORDER BY sop_instance LIMIT {BATCH}"
    );
    let sql = format!("SELECT path FROM instances WHERE sop_instance IN ({due})");
    let rows = take_paths(tx, &sql, before, files).await?;
    let sql = format!("UPDATE instances SET path = NULL WHERE sop_instance IN ({due})");
    sqlx::query(&sql).bind(before).execute(&mut **tx).await?;
    Ok((rows, rows as u64))
}

async fn forget_conflicts(
    tx: &mut Transaction<'_, Sqlite>,
    before: i64,
    files: &mut Vec<String>,
) -> Result<(usize, u64), StoreError> {
    let due = format!("SELECT rowid FROM conflicts WHERE received_at < ?1 ORDER BY rowid LIMIT {BATCH}");
    let rows = take_paths(tx, &format!("SELECT path FROM conflicts WHERE rowid IN ({due})"), before, files).await?;
    let sql = format!("DELETE FROM conflicts WHERE rowid IN ({due})");
    sqlx::query(&sql).bind(before).execute(&mut **tx).await?;
    Ok((rows, rows as u64))
}

async fn forget_posteriors(tx: &mut Transaction<'_, Sqlite>, before: i64) -> Result<u64, StoreError> {
    let due = format!(
        "purpose = 'race' AND sop_instance IN (SELECT sop_instance FROM instances WHERE study IN ({FINISHED_SCORES}))"
    );
    let sql = format!(
        "UPDATE instances SET scores_expired = 1 WHERE sop_instance IN (SELECT sop_instance FROM scores WHERE {due})"
    );
    sqlx::query(&sql).bind(before).execute(&mut **tx).await?;
    let own = format!("SELECT id FROM facts WHERE study IN ({FINISHED_SCORES})");
    let sql = format!("DELETE FROM fact_posteriors WHERE fact IN ({own})");
    sqlx::query(&sql).bind(before).execute(&mut **tx).await?;
    Ok(sqlx::query(&format!("DELETE FROM scores WHERE {due}")).bind(before).execute(&mut **tx).await?.rows_affected())
}

async fn forget_disclosed_reports(
    tx: &mut Transaction<'_, Sqlite>,
    before: i64,
    files: &mut Vec<String>,
) -> Result<(usize, u64), StoreError> {
    let due = format!(
        "SELECT rowid FROM reports WHERE disclosure = 'probabilities' AND path IS NOT NULL AND study IN ({FINISHED})
         ORDER BY rowid LIMIT {BATCH}"
    );
    let rows = take_paths(tx, &format!("SELECT path FROM reports WHERE rowid IN ({due})"), before, files).await?;
    let sql = format!("UPDATE reports SET path = NULL WHERE rowid IN ({due}) RETURNING variant_of");
    let mut reports = 0;
    for row in sqlx::query(&sql).bind(before).fetch_all(&mut **tx).await? {
        // A report in several SOP classes is one.
        reports += u64::from(row.opt_int("variant_of")?.is_none());
    }
    Ok((rows, reports))
}

async fn forget_studies(
    tx: &mut Transaction<'_, Sqlite>,
    before: i64,
    files: &mut Vec<String>,
) -> Result<(usize, u64), StoreError> {
    let sql = format!(
        "SELECT study FROM studies WHERE study IN ({FINISHED}) AND study NOT IN
             (SELECT study FROM instances WHERE study IS NOT NULL AND path IS NOT NULL)
         ORDER BY study LIMIT {BATCH}"
    );
    let studies: Vec<String> = sqlx::query_scalar(&sql).bind(before).fetch_all(&mut **tx).await?;
    for study in &studies {
        let sql = "SELECT path FROM reports WHERE path IS NOT NULL AND study = ?";
        let paths: Vec<String> = sqlx::query_scalar(sql).bind(study).fetch_all(&mut **tx).await?;
        files.extend(paths);
        // Scores go with instances, reports and deliveries with studies (ON DELETE CASCADE).
        sqlx::query("DELETE FROM instances WHERE study = ?").bind(study).execute(&mut **tx).await?;
        results::forget(tx, study).await?;
        sqlx::query("DELETE FROM studies WHERE study = ?").bind(study).execute(&mut **tx).await?;
    }
    Ok((studies.len(), studies.len() as u64))
}

async fn take_paths(
    tx: &mut Transaction<'_, Sqlite>,
    sql: &str,
    before: i64,
    files: &mut Vec<String>,
) -> Result<usize, StoreError> {
    let first = files.len();
    for row in sqlx::query(sql).bind(before).fetch_all(&mut **tx).await? {
        files.push(row.text("path")?);
    }
    Ok(files.len() - first)
}
