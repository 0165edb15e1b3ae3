//! What is past its retention goes: objects, race scores, finally whole studies.
//!
//! Only finished studies lose anything. The index forgets a file before the file is removed, so that a kill in
//! between leaves an orphan for the next start and never a row without its file. Neighbours: `serve` calls this now
//! and then. Left out: the spans, which are configuration.

use sqlx::{Sqlite, Transaction};
use std::time::Duration;
use tracing::info;

use crate::domain::Timestamp;

use super::index::{Columns, shifted};
use super::{Expired, Retention, Store, StoreError, blocking};

/// Studies that ended before `?1` and have nothing left to deliver.
const FINISHED: &str = "SELECT s.study FROM studies s WHERE s.state IN ('delivered', 'refused', 'failed')
    AND s.closed_at < ?1 AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.study = s.study AND d.state = 'pending')";

impl Store {
    /// Deletes what is past its retention: objects (conflicting ones by their arrival); race scores, and the files of
    /// disclosed reports, which hold them; rows and reports of studies whose objects are gone too.
    pub async fn expire(&self, now: Timestamp, retention: Retention) -> Result<Expired, StoreError> {
        let mut expired = Expired::default();
        let mut files = Vec::new();
        let before = |kept: Option<Duration>| kept.map(|span| shifted(now, span, -1));
        let mut tx = self.index().write().await?;
        if let Some(before) = before(retention.objects_kept) {
            expired.objects = forget_objects(&mut tx, before, &mut files).await?;
        }
        if let Some(before) = before(retention.posteriors_kept) {
            expired.posteriors = forget_posteriors(&mut tx, before).await?;
            expired.disclosed_reports = forget_disclosed_reports(&mut tx, before, &mut files).await?;
        }
        if let Some(before) = before(retention.reports_kept) {
            expired.studies = forget_studies(&mut tx, before, &mut files).await?;
        }
        // Files first: a kill in between leaves rows whose file is gone, which the next run forgets, and never files
        // that no row knows.
        let spool = self.spool().clone();
        blocking(move || {
            files.iter().for_each(|path| spool.remove(path));
            Ok(())
        })
        .await?;
        tx.commit().await?;
        if expired != Expired::default() {
            info!(
                objects = expired.objects,
                studies = expired.studies,
                posteriors = expired.posteriors,
                disclosed_reports = expired.disclosed_reports,
                "deleted what is past its retention"
            );
        }
        Ok(expired)
    }
}

async fn forget_objects(
    tx: &mut Transaction<'_, Sqlite>,
    before: i64,
    files: &mut Vec<String>,
) -> Result<u64, StoreError> {
    let first = files.len();
    let due = format!("state <> 'received' AND path IS NOT NULL AND study IN ({FINISHED})");
    take_paths(tx, &format!("SELECT path FROM instances WHERE {due}"), before, files).await?;
    sqlx::query(&format!("UPDATE instances SET path = NULL WHERE {due}")).bind(before).execute(&mut **tx).await?;
    take_paths(tx, "SELECT path FROM conflicts WHERE received_at < ?1", before, files).await?;
    sqlx::query("DELETE FROM conflicts WHERE received_at < ?1").bind(before).execute(&mut **tx).await?;
    Ok((files.len() - first) as u64)
}

async fn forget_posteriors(tx: &mut Transaction<'_, Sqlite>, before: i64) -> Result<u64, StoreError> {
    let due = format!(
        "purpose = 'race' AND sop_instance IN (SELECT sop_instance FROM instances WHERE study IN ({FINISHED}))"
    );
    let sql = format!(
        "UPDATE instances SET scores_expired = 1 WHERE sop_instance IN (SELECT sop_instance FROM scores WHERE {due})"
    );
    sqlx::query(&sql).bind(before).execute(&mut **tx).await?;
    Ok(sqlx::query(&format!("DELETE FROM scores WHERE {due}")).bind(before).execute(&mut **tx).await?.rows_affected())
}

async fn forget_disclosed_reports(
    tx: &mut Transaction<'_, Sqlite>,
    before: i64,
    files: &mut Vec<String>,
) -> Result<u64, StoreError> {
    let due = format!("disclosure = 'probabilities' AND path IS NOT NULL AND study IN ({FINISHED})");
    take_paths(tx, &format!("SELECT path FROM reports WHERE {due}"), before, files).await?;
    let sql = format!("UPDATE reports SET path = NULL WHERE {due} RETURNING variant_of");
    let mut reports = 0;
    for row in sqlx::query(&sql).bind(before).fetch_all(&mut **tx).await? {
        // A report in several SOP classes is one.
        reports += u64::from(row.opt_int("variant_of")?.is_none());
    }
    Ok(reports)
}

async fn forget_studies(
    tx: &mut Transaction<'_, Sqlite>,
    before: i64,
    files: &mut Vec<String>,
) -> Result<u64, StoreError> {
    let due = format!(
        "study IN ({FINISHED}) AND study NOT IN
         (SELECT study FROM instances WHERE study IS NOT NULL AND path IS NOT NULL)"
    );
    take_paths(tx, &format!("SELECT path FROM reports WHERE path IS NOT NULL AND {due}"), before, files).await?;
    let sql = format!("SELECT study FROM studies WHERE {due}");
    let studies: Vec<String> = sqlx::query_scalar(&sql).bind(before).fetch_all(&mut **tx).await?;
    for study in &studies {
        // Scores go with instances, reports and deliveries with studies (ON DELETE CASCADE).
        sqlx::query("DELETE FROM instances WHERE study = ?").bind(study).execute(&mut **tx).await?;
        sqlx::query("DELETE FROM studies WHERE study = ?").bind(study).execute(&mut **tx).await?;
    }
    Ok(studies.len() as u64)
}

async fn take_paths(
    tx: &mut Transaction<'_, Sqlite>,
    sql: &str,
    before: i64,
    files: &mut Vec<String>,
) -> Result<(), StoreError> {
    for row in sqlx::query(sql).bind(before).fetch_all(&mut **tx).await? {
        files.push(row.text("path")?);
    }
    Ok(())
}
