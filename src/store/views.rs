//! What people and metrics see of the index.
//!
//! Neighbours: `cli` and `web` print these. Left out: race scores and disclosed values, which no view holds, and
//! patients' attributes.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};

use crate::domain::{InstanceHeader, Uid};

use super::index::{Columns, micros};
use super::{
    Counts, DeliveryDetail, InstanceDetail, ReportDetail, Store, StoreError, StudyDetail, StudyFilter, StudyRow,
    results, studies,
};

const ROW: &str = "SELECT s.*, (SELECT count(*) FROM instances i WHERE i.study = s.study) AS instances,
    (SELECT count(*) FROM instances i WHERE i.study = s.study AND i.state = 'refused') AS instances_refused,
    (SELECT count(*) FROM instances i WHERE i.study = s.study AND i.late = 1) AS instances_late,
    (SELECT count(*) FROM reports r WHERE r.study = s.study AND r.current = 1 AND r.variant_of IS NULL)
        AS current_reports
    FROM studies s";

impl Store {
    /// The studies that match, the one with the last arrival first.
    pub async fn list_studies(&self, filter: StudyFilter, limit: u32) -> Result<Vec<StudyRow>, StoreError> {
        let sql = format!(
            "{ROW} WHERE (?1 IS NULL OR s.state = ?1) AND (?2 IS NULL OR s.last_at >= ?2)
             ORDER BY s.last_at DESC, s.study LIMIT ?3"
        );
        let rows = sqlx::query(&sql)
            .bind(filter.state.map(|state| state.as_str()))
            .bind(filter.since.map(micros))
            .bind(limit)
            .fetch_all(self.index().read())
            .await?;
        rows.iter().map(study_row).collect()
    }

    /// Everything about one study, if it is known.
    pub async fn show_study(&self, study: &Uid) -> Result<Option<StudyDetail>, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let sql = format!("{ROW} WHERE s.study = ?");
        let Some(row) = sqlx::query(&sql).bind(study.as_str()).fetch_optional(&mut *tx).await? else {
            return Ok(None);
        };
        Ok(Some(StudyDetail {
            study: study_row(&row)?,
            assessment: row.opt_json("assessment")?,
            instances: instances(&mut tx, study).await?,
            reports: reports(&mut tx, study).await?,
            deliveries: deliveries(&mut tx, study).await?,
            results: results::of_study(&mut tx, study).await?,
        }))
    }

    /// Whether the index answers at all.
    pub async fn answers(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM node LIMIT 1").fetch_optional(self.index().read()).await?;
        Ok(())
    }

    /// How much there is of what.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let sql = "SELECT (SELECT count(*) FROM conflicts) AS conflicts,
                       (SELECT min(received_at) FROM instances WHERE state = 'received') AS unread_since,
                       (SELECT min(queued_at) FROM deliveries WHERE state = 'pending') AS undelivered_since";
        let row = sqlx::query(sql).fetch_one(&mut *tx).await?;
        Ok(Counts {
            instances: by_state(&mut tx, "instances", &["received", "scored", "refused"]).await?,
            studies: by_state(&mut tx, "studies", &["open", "reported", "delivered", "refused", "failed"]).await?,
            deliveries: by_state(&mut tx, "deliveries", &["pending", "delivered", "failed", "superseded"]).await?,
            conflicts: row.count("conflicts")?,
            unread_since: row.opt_time("unread_since")?,
            undelivered_since: row.opt_time("undelivered_since")?,
        })
    }
}

fn study_row(row: &SqliteRow) -> Result<StudyRow, StoreError> {
    Ok(StudyRow {
        study: row.parsed("study")?,
        readable: row.text("kind")? == "study",
        state: row.word("state")?,
        source: row.parsed("source")?,
        revision: row.small("revision")?,
        first_at: row.time("first_at")?,
        last_at: row.time("last_at")?,
        closed_at: row.opt_time("closed_at")?,
        instances: row.count("instances")?,
        instances_refused: row.count("instances_refused")?,
        current_reports: row.count("current_reports")?,
        instances_late: row.count("instances_late")?,
        complete: row.opt_int("complete")?.map(|flag| flag != 0),
        closed_by: row.opt_word("closed_by")?,
        missing: row.opt_json("missing")?.unwrap_or_default(),
        level: row.opt_word("level")?,
        refusal: row.refusal()?,
        error: row.opt_text("error")?,
    })
}

async fn instances(tx: &mut Transaction<'_, Sqlite>, study: &Uid) -> Result<Vec<InstanceDetail>, StoreError> {
    let sql = "SELECT * FROM instances WHERE study = ? ORDER BY received_at, sop_instance";
    let rows = sqlx::query(sql).bind(study.as_str()).fetch_all(&mut **tx).await?;
    let mut details = Vec::with_capacity(rows.len());
    for row in &rows {
        let sop_instance: Uid = row.parsed("sop_instance")?;
        details.push(InstanceDetail {
            scores: studies::scores(tx, &sop_instance, "('clinical')").await?,
            sop_instance,
            series: row.opt_parsed("series")?,
            sop_class: row.parsed("sop_class")?,
            transfer_syntax: row.parsed("transfer_syntax")?,
            modality: row.opt_json::<InstanceHeader>("header")?.map(|header| header.modality),
            state: row.word("state")?,
            refusal: row.refusal()?,
            calling: row.parsed("calling")?,
            received_at: row.time("received_at")?,
            read_at: row.opt_time("read_at")?,
            bytes: row.count("bytes")?,
            kept: row.opt_text("path")?.is_some(),
            late: row.int("late")? != 0,
        });
    }
    Ok(details)
}

async fn reports(tx: &mut Transaction<'_, Sqlite>, study: &Uid) -> Result<Vec<ReportDetail>, StoreError> {
    let sql = "SELECT * FROM reports WHERE study = ? AND variant_of IS NULL ORDER BY id";
    let rows = sqlx::query(sql).bind(study.as_str()).fetch_all(&mut **tx).await?;
    let detail = |row: &SqliteRow| {
        Ok(ReportDetail {
            id: row.int("id")?,
            revision: row.small("revision")?,
            disclosure: row.word("disclosure")?,
            sop_class: row.parsed("sop_class")?,
            sop_instance: row.parsed("sop_instance")?,
            predecessor: row.opt_parsed("predecessor")?,
            created_at: row.time("created_at")?,
            current: row.int("current")? != 0,
            kept: row.opt_text("path")?.is_some(),
        })
    };
    rows.iter().map(detail).collect()
}

async fn deliveries(tx: &mut Transaction<'_, Sqlite>, study: &Uid) -> Result<Vec<DeliveryDetail>, StoreError> {
    let sql = "SELECT d.*, r.sop_instance FROM deliveries d JOIN reports r ON r.id = d.report
               WHERE r.study = ? ORDER BY d.id";
    let rows = sqlx::query(sql).bind(study.as_str()).fetch_all(&mut **tx).await?;
    let detail = |row: &SqliteRow| {
        let pending = row.text("state")? == "pending";
        Ok(DeliveryDetail {
            destination: row.text("destination")?,
            report: row.parsed("sop_instance")?,
            state: row.word("state")?,
            attempts: row.small("attempts")?,
            next_at: row.opt_time("next_at")?.filter(|_| pending),
            last_error: row.opt_text("last_error")?,
            delivered_at: row.opt_time("delivered_at")?,
            sent_sop_class: row.opt_parsed("sent_sop_class")?,
            sent_sop_instance: row.opt_parsed("sent_sop_instance")?,
            commitment: row.opt_word("commitment")?,
            commitment_error: row.opt_text("commitment_error")?,
        })
    };
    rows.iter().map(detail).collect()
}

/// Rows by state, also for the states in which there are none.
async fn by_state(
    tx: &mut Transaction<'_, Sqlite>,
    table: &str,
    states: &[&str],
) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut counts: BTreeMap<String, u64> = states.iter().map(|state| ((*state).to_owned(), 0)).collect();
    let sql = format!("SELECT state, count(*) AS number FROM {table} GROUP BY state");
    for row in sqlx::query(&sql).fetch_all(&mut **tx).await? {
        counts.insert(row.text("state")?, row.count("number")?);
    }
    Ok(counts)
}
