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

/// Studies whose results are taken in by one transaction.
const STUDIES_AT_ONCE: usize = 100;

impl Store {
    /// Takes results of a table in, study by study; those that are known already change nothing. `dry`: says what would
    /// come of it, and takes none.
    ///
    /// Many studies are taken in one after the other in several transactions, so that senders are not kept waiting for
    /// their answers. What an end cuts short is taken in by importing the same table again.
    pub async fn import_results(
        &self,
        results: &[ClinicalResult],
        late: Late,
        dry: bool,
        now: Timestamp,
    ) -> Result<Imported, StoreError> {
        let mut imported = Imported::default();
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        for model in results.iter().map(|result| &result.model).collect::<BTreeSet<_>>() {
            let sql = "SELECT source FROM clinical_results WHERE model = ?";
            let rows = sqlx::query(sql).bind(model).fetch_all(self.index().read()).await?;
            for row in &rows {
                seen.insert((model.clone(), row.text("source")?));
            }
        }
        // A study is looked at once, with all of its new results.
        let mut of_study: BTreeMap<&Uid, Vec<&ClinicalResult>> = BTreeMap::new();
        for result in results {
            if seen.insert((result.model.clone(), result.source.clone())) {
                imported.new += 1;
                of_study.entry(&result.study).or_default().push(result);
            } else {
                imported.known += 1;
            }
        }
        let of_study: Vec<_> = of_study.into_iter().collect();
        for some in of_study.chunks(STUDIES_AT_ONCE) {
            let mut tx = if dry { self.index().snapshot().await? } else { self.index().write().await? };
            for (study, new) in some {
                let joined = foresee(&mut tx, study, new, late).await?;
                match joined {
                    Joined::Unknown => imported.studies_unknown += 1,
                    Joined::Reopened => imported.studies_reopened += 1,
                    Joined::Late => imported.studies_late += 1,
                    Joined::Open | Joined::AsUsual => {}
                }
                if !dry {
                    take_in(&mut tx, study, new, joined, now).await?;
                }
            }
            if !dry {
                self.index().commit(tx).await?;
                self.wake().study_changed.notify_one();
            }
        }
        if dry {
            return Ok(imported);
        }
        if imported.studies_late > 0 {
            warn!(
                studies = imported.studies_late,
                "late results are kept and in no report (study.late = \"never\"); `studies requeue` uses them"
            );
        }
        info!(new = imported.new, known = imported.known, reopened = imported.studies_reopened, "results imported");
        Ok(imported)
    }

    /// One image of each study, by which tables name it.
    pub async fn headers_of_studies(&self) -> Result<Vec<InstanceHeader>, StoreError> {
        let sql = "SELECT header, min(sop_instance) FROM instances WHERE study IS NOT NULL AND header IS NOT NULL
                   AND (state = 'scored' OR refusal_code = 'out-of-scope') GROUP BY study ORDER BY study";
        let rows = sqlx::query(sql).fetch_all(self.index().read()).await?;
        rows.iter().filter_map(|row| row.opt_json("header").transpose()).collect()
    }
}

/// What results do to their study.
#[derive(Clone, Copy)]
enum Joined {
    /// No image of it is here yet.
    Unknown,
    /// It is not reported yet.
    Open,
    Reopened,
    /// Its report stays as it is, by `study.late`.
    Late,
    /// They say nothing new.
    AsUsual,
}

async fn foresee(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    new: &[&ClinicalResult],
    late: Late,
) -> Result<Joined, StoreError> {
    let sql = "SELECT state FROM studies WHERE study = ?";
    let state = sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut **tx).await?;
    Ok(match state.map(|row| row.word::<StudyState>("state")).transpose()? {
        None => Joined::Unknown,
        Some(StudyState::Open) => Joined::Open,
        Some(_) if !is_reported(tx, study).await? || !is_news(tx, new.iter().copied()).await? => Joined::AsUsual,
        Some(_) if late == Late::Never => Joined::Late,
        Some(_) => Joined::Reopened,
    })
}

async fn take_in(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    new: &[&ClinicalResult],
    joined: Joined,
    now: Timestamp,
) -> Result<(), StoreError> {
    for result in new {
        insert(tx, result, matches!(joined, Joined::Late)).await?;
    }
    match joined {
        Joined::Open => {
            let sql = "UPDATE studies SET version = version + 1 WHERE study = ?";
            sqlx::query(sql).bind(study.as_str()).execute(&mut **tx).await?;
        }
        Joined::Reopened => reopen(tx, study, micros(now), 0).await?,
        Joined::Unknown | Joined::Late | Joined::AsUsual => {}
    }
    Ok(())
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
        insert(tx, result, late).await?;
    }
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

async fn insert(tx: &mut Transaction<'_, Sqlite>, result: &ClinicalResult, late: bool) -> Result<(), StoreError> {
    let sql = "INSERT INTO clinical_results (study, model, source, observed_at, received_at, version, predecessors,
               said, late) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(result.study.as_str())
        .bind(&result.model)
        .bind(&result.source)
        .bind(result.observed_at.map(micros))
        .bind(micros(result.received_at))
        .bind(&result.version)
        .bind(json(&result.predecessors)?)
        .bind(json(&result.said)?)
        .bind(late)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
