//! Results of clinical products: from their reports, as these are read, and from tables.
//!
//! A row holds what one object or one line of a table says. What several rows come to is not decided here. A result of
//! a study that was reported leads to another report, by the policy for late images, unless it says nothing new.
//! Neighbours: `reading` calls this for reports, the command `results import` for tables. Left out: which results
//! count (`results`).

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Sqlite, Transaction};
use tracing::{info, warn};

use crate::config::Late;
use crate::domain::{ClinicalResult, InstanceHeader, StudyState, Timestamp, Uid};
use crate::results;

use super::index::{Columns, json, micros};
use super::reading::{is_reported, reopen};
use super::{Imported, Store, StoreError};

impl Store {
    /// Takes results of a table in, all of them or none; those that are known already change nothing. `dry`: says what
    /// would come of it, and takes none.
    pub async fn import_results(
        &self,
        results: &[ClinicalResult],
        late: Late,
        dry: bool,
        now: Timestamp,
    ) -> Result<Imported, StoreError> {
        let mut tx = self.index().write().await?;
        let mut imported = Imported::default();
        // A study is looked at once, with all of its new results.
        let mut of_study: BTreeMap<&Uid, Vec<&ClinicalResult>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for result in results {
            let sql = "SELECT 1 FROM clinical_results WHERE model = ? AND source = ?";
            let known = sqlx::query(sql).bind(&result.model).bind(&result.source).fetch_optional(&mut *tx).await?;
            if known.is_some() || !seen.insert((&result.model, &result.source)) {
                imported.known += 1;
            } else {
                imported.new += 1;
                of_study.entry(&result.study).or_default().push(result);
            }
        }
        for (study, new) in of_study {
            let news = is_news(&mut tx, new.iter().copied()).await?;
            for result in &new {
                insert(&mut tx, result).await?;
            }
            match joined(&mut tx, study, late, news, now).await? {
                Joined::Unknown => imported.studies_unknown += 1,
                Joined::Reopened => imported.studies_reopened += 1,
                Joined::Late => {
                    imported.studies_late += 1;
                    for result in &new {
                        let sql = "UPDATE clinical_results SET late = 1 WHERE model = ? AND source = ?";
                        sqlx::query(sql).bind(&result.model).bind(&result.source).execute(&mut *tx).await?;
                    }
                }
                Joined::AsUsual => {}
            }
        }
        if dry {
            return Ok(imported);
        }
        self.index().commit(tx).await?;
        if imported.studies_late > 0 {
            warn!(
                studies = imported.studies_late,
                "late results are kept and in no report (study.late = \"never\"); `studies requeue` uses them"
            );
        }
        info!(new = imported.new, known = imported.known, reopened = imported.studies_reopened, "results imported");
        self.wake().study_changed.notify_one();
        Ok(imported)
    }

    /// The studies that have each of these accession numbers (0008,0050), by their images.
    pub async fn studies_by_accession(&self) -> Result<BTreeMap<String, Vec<Uid>>, StoreError> {
        let sql = "SELECT study, header FROM instances WHERE study IS NOT NULL AND header IS NOT NULL
                   GROUP BY study ORDER BY study";
        let mut studies: BTreeMap<String, Vec<Uid>> = BTreeMap::new();
        for row in sqlx::query(sql).fetch_all(self.index().read()).await? {
            let Some(header) = row.opt_json::<InstanceHeader>("header")? else { continue };
            if let Some(number) = header.accession_number() {
                studies.entry(number).or_default().push(row.parsed("study")?);
            }
        }
        Ok(studies)
    }
}

/// What a result did to its study.
enum Joined {
    AsUsual,
    Unknown,
    Reopened,
    Late,
}

async fn joined(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    late: Late,
    news: bool,
    now: Timestamp,
) -> Result<Joined, StoreError> {
    let sql = "SELECT state FROM studies WHERE study = ?";
    let state = sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut **tx).await?;
    match state.map(|row| row.word::<StudyState>("state")).transpose()? {
        None => Ok(Joined::Unknown),
        Some(StudyState::Open) => {
            let sql = "UPDATE studies SET version = version + 1 WHERE study = ?";
            sqlx::query(sql).bind(study.as_str()).execute(&mut **tx).await?;
            Ok(Joined::AsUsual)
        }
        Some(_) if !news || !is_reported(tx, study).await? => Ok(Joined::AsUsual),
        Some(_) if late == Late::Never => Ok(Joined::Late),
        Some(_) => {
            reopen(tx, study, micros(now), 0).await?;
            Ok(Joined::Reopened)
        }
    }
}

/// Whether one of these changes what is known of its study by its model. What came too late for the report is not.
pub(super) async fn is_news(
    tx: &mut Transaction<'_, Sqlite>,
    results: impl Iterator<Item = &ClinicalResult>,
) -> Result<bool, StoreError> {
    let mut of_model: BTreeMap<(&Uid, &str), Vec<ClinicalResult>> = BTreeMap::new();
    for result in results {
        of_model.entry((&result.study, &result.model)).or_default().push(result.clone());
    }
    for ((study, model), new) in of_model {
        let mut known = of_study(tx, study).await?;
        known.retain(|result| result.model == model);
        if results::is_news(&known, &new) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an object says, in place of what it said when it was read before.
pub(super) async fn replace(
    tx: &mut Transaction<'_, Sqlite>,
    source: &Uid,
    results: &[ClinicalResult],
    late: bool,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM clinical_results WHERE source = ?").bind(source.as_str()).execute(&mut **tx).await?;
    for result in results {
        insert(tx, result).await?;
    }
    let sql = "UPDATE clinical_results SET late = ? WHERE source = ?";
    sqlx::query(sql).bind(late).bind(source.as_str()).execute(&mut **tx).await?;
    Ok(())
}

/// Notes that the study waits for results of these packages.
pub(super) async fn await_results(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    models: &[String],
) -> Result<(), StoreError> {
    for model in models {
        let sql = "INSERT INTO awaited_results (study, model) VALUES (?, ?) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(study.as_str()).bind(model).execute(&mut **tx).await?;
    }
    Ok(())
}

/// The results of a study that count, the oldest first.
pub(super) async fn of_study(tx: &mut Transaction<'_, Sqlite>, study: &Uid) -> Result<Vec<ClinicalResult>, StoreError> {
    let sql = "SELECT * FROM clinical_results WHERE study = ? AND late = 0 ORDER BY received_at, id";
    let mut results = Vec::new();
    for row in sqlx::query(sql).bind(study.as_str()).fetch_all(&mut **tx).await? {
        results.push(ClinicalResult {
            study: row.parsed("study")?,
            model: row.text("model")?,
            source: row.text("source")?,
            observed_at: row.opt_time("observed_at")?,
            received_at: row.time("received_at")?,
            version: row.text("version")?,
            predecessors: row.opt_json("predecessors")?.unwrap_or_default(),
            said: row.opt_json("said")?.unwrap_or_default(),
        });
    }
    Ok(results)
}

/// Forgets all results of a study, and that it waits for some.
pub(super) async fn forget(tx: &mut Transaction<'_, Sqlite>, study: &str) -> Result<(), StoreError> {
    for sql in ["DELETE FROM clinical_results WHERE study = ?", "DELETE FROM awaited_results WHERE study = ?"] {
        sqlx::query(sql).bind(study).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Forgets results that no image came to.
pub(super) async fn forget_strays(tx: &mut Transaction<'_, Sqlite>, before: i64) -> Result<u64, StoreError> {
    let sql = "DELETE FROM clinical_results WHERE received_at < ? AND study NOT IN (SELECT study FROM studies)";
    Ok(sqlx::query(sql).bind(before).execute(&mut **tx).await?.rows_affected())
}

async fn insert(tx: &mut Transaction<'_, Sqlite>, result: &ClinicalResult) -> Result<(), StoreError> {
    let sql = "INSERT INTO clinical_results (study, model, source, observed_at, received_at, version, predecessors,
               said) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(result.study.as_str())
        .bind(&result.model)
        .bind(&result.source)
        .bind(result.observed_at.map(micros))
        .bind(micros(result.received_at))
        .bind(&result.version)
        .bind(json(&result.predecessors)?)
        .bind(json(&result.said)?)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
