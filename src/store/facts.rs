//! Facts of reported studies, for audits: written with the report, read many at a time.
//!
//! What was inferred of race lies in a table of its own and goes with the race scores. Neighbours: `labels` has what is
//! true and what people said, `studies` closes studies, `retention` forgets. Left out: statistics.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use sqlx::{Sqlite, Transaction};
use tracing::info;

use crate::domain::{RacePosterior, StudyFacts, Uid};
use crate::results::SelfReport;

use super::index::Columns;
use super::{Store, StoreError};

/// What a number of an audit is: of which model, finding and threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditOutput {
    /// [`crate::domain::ModelIdentity::key`].
    pub model: String,
    pub finding: String,
    pub threshold: f64,
}

/// A reported study as an audit sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditStudy {
    pub study: String,
    /// Its scores are in the row, by place among the outputs.
    pub facts: StudyFacts,
    pub scores: Vec<(usize, f64)>,
    /// AE titles: who sent it, and to which alias.
    pub source: String,
    pub called: String,
    pub outcomes: BTreeMap<String, bool>,
    /// What the patient says; [`SelfReport::standing`] tells which group of the race model that is.
    pub report: SelfReport,
    /// By name; what is in the images' headers is among the facts.
    pub covariates: BTreeMap<String, String>,
}

/// Studies of a span, and what their numbers are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditTable {
    pub outputs: Vec<AuditOutput>,
    /// By Study Instance UID.
    pub studies: Vec<AuditStudy>,
    /// Reported studies whose images say no Study Date; they are in no span.
    pub undated: u64,
}

const REPORTED: &str = "s.state IN ('reported', 'delivered')";

impl Store {
    /// Reported studies that have no facts yet, in no order.
    pub async fn studies_without_facts(&self, limit: u32) -> Result<Vec<Uid>, StoreError> {
        let sql = format!(
            "SELECT s.study FROM studies s WHERE {REPORTED} AND s.kind = 'study'
             AND NOT EXISTS (SELECT 1 FROM facts f WHERE f.study = s.study) LIMIT ?"
        );
        let rows = sqlx::query(&sql).bind(limit).fetch_all(self.index().read()).await?;
        rows.iter().map(|row| row.parsed("study")).collect()
    }

    /// Keeps the facts of a study that was reported before; nothing if it has been forgotten meanwhile.
    pub async fn keep_facts(&self, study: &Uid, facts: &StudyFacts) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "SELECT 1 FROM studies WHERE study = ?";
        if sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut *tx).await?.is_some() {
            replace(&mut tx, study, Some(facts)).await?;
        }
        self.index().commit(tx).await
    }

    /// The reported studies from one Study Date to another, both included. Posteriors are read if `with_race`, which is
    /// logged.
    pub async fn audit_table(&self, from: NaiveDate, to: NaiveDate, with_race: bool) -> Result<AuditTable, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let mut table = AuditTable::default();
        let mut places: BTreeMap<i64, usize> = BTreeMap::new();
        for row in
            sqlx::query("SELECT * FROM fact_outputs ORDER BY model, finding, threshold").fetch_all(&mut *tx).await?
        {
            places.insert(row.int("id")?, table.outputs.len());
            let threshold = sqlx::Row::try_get(&row, "threshold")?;
            table.outputs.push(AuditOutput { model: row.text("model")?, finding: row.text("finding")?, threshold });
        }
        let span = (from.to_string(), to.to_string());
        let of = "facts f JOIN studies s ON s.study = f.study";
        let among = format!("f.study_date BETWEEN ?1 AND ?2 AND {REPORTED}");
        let sql = format!(
            "SELECT f.*, s.source, s.called, r.race, r.ethnicity, o.outcomes
             FROM {of} LEFT JOIN self_reports r ON r.study = f.study LEFT JOIN outcomes o ON o.study = f.study
             WHERE {among} ORDER BY f.study"
        );
        let mut studies: BTreeMap<i64, usize> = BTreeMap::new();
        for row in sqlx::query(&sql).bind(&span.0).bind(&span.1).fetch_all(&mut *tx).await? {
            studies.insert(row.int("id")?, table.studies.len());
            let outcomes: BTreeMap<String, u8> = row.opt_json("outcomes")?.unwrap_or_default();
            table.studies.push(AuditStudy {
                study: row.text("study")?,
                facts: StudyFacts {
                    patient: row.text("patient")?,
                    issuer: row.text("issuer")?,
                    date: row.opt_text("study_date")?.and_then(|date| date.parse().ok()),
                    view: row.text("view")?,
                    device: row.text("device")?,
                    sex: row.text("sex")?,
                    age_years: sqlx::Row::try_get(&row, "age_years")?,
                    scores: Vec::new(),
                    race: None,
                },
                scores: Vec::new(),
                source: row.text("source")?,
                called: row.opt_text("called")?.unwrap_or_default(),
                outcomes: outcomes.into_iter().map(|(finding, value)| (finding, value != 0)).collect(),
                report: SelfReport {
                    race: row.opt_json("race")?.unwrap_or_default(),
                    ethnicity: row.opt_text("ethnicity")?,
                },
                covariates: BTreeMap::new(),
            });
        }
        let own = format!("SELECT f.id FROM {of} WHERE {among}");
        let sql = format!("SELECT fact, output, score FROM fact_scores WHERE fact IN ({own})");
        for row in sqlx::query(&sql).bind(&span.0).bind(&span.1).fetch_all(&mut *tx).await? {
            let (study, output) = (studies.get(&row.int("fact")?), places.get(&row.int("output")?));
            if let (Some(study), Some(output)) = (study, output) {
                table.studies[*study].scores.push((*output, sqlx::Row::try_get(&row, "score")?));
            }
        }
        let sql = format!(
            "SELECT f.id, c.name, c.value FROM covariates c JOIN facts f ON f.study = c.study WHERE f.id IN ({own})"
        );
        for row in sqlx::query(&sql).bind(&span.0).bind(&span.1).fetch_all(&mut *tx).await? {
            if let Some(study) = studies.get(&row.int("id")?) {
                table.studies[*study].covariates.insert(row.text("name")?, row.text("value")?);
            }
        }
        if with_race {
            let sql = format!("SELECT * FROM fact_posteriors WHERE fact IN ({own})");
            let mut read = 0u64;
            for row in sqlx::query(&sql).bind(&span.0).bind(&span.1).fetch_all(&mut *tx).await? {
                let (groups, probabilities) = (row.opt_json("groups")?, row.opt_json("probabilities")?);
                let (Some(study), Some(groups), Some(probabilities)) =
                    (studies.get(&row.int("fact")?), groups, probabilities)
                else {
                    continue;
                };
                table.studies[*study].facts.race =
                    Some(RacePosterior { model: row.text("model")?, groups, probabilities });
                read += 1;
            }
            info!(studies = read, "race posteriors were read for an audit");
        }
        let sql = format!(
            "SELECT count(*) AS number FROM facts f JOIN studies s ON s.study = f.study
             WHERE f.study_date IS NULL AND {REPORTED}"
        );
        table.undated = sqlx::query(&sql).fetch_one(&mut *tx).await?.count("number")?;
        Ok(table)
    }
}

/// Facts of a study in place of those that it had; none where it has no report any more.
pub(super) async fn replace(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    facts: Option<&StudyFacts>,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM facts WHERE study = ?").bind(study.as_str()).execute(&mut **tx).await?;
    let Some(facts) = facts else { return Ok(()) };
    let sql = "INSERT INTO facts (study, patient, issuer, study_date, view, device, sex, age_years)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id";
    let row = sqlx::query(sql)
        .bind(study.as_str())
        .bind(&facts.patient)
        .bind(&facts.issuer)
        .bind(facts.date.map(|date| date.to_string()))
        .bind(&facts.view)
        .bind(&facts.device)
        .bind(&facts.sex)
        .bind(facts.age_years)
        .fetch_one(&mut **tx)
        .await?;
    let fact = row.int("id")?;
    for score in &facts.scores {
        let of = "model = ?1 AND finding = ?2 AND threshold = ?3";
        let known = format!("SELECT id FROM fact_outputs WHERE {of}");
        let query = sqlx::query(&known).bind(&score.model).bind(&score.finding).bind(score.threshold);
        let output = match query.fetch_optional(&mut **tx).await? {
            Some(row) => row.int("id")?,
            None => {
                let sql = "INSERT INTO fact_outputs (model, finding, threshold) VALUES (?, ?, ?) RETURNING id";
                let query = sqlx::query(sql).bind(&score.model).bind(&score.finding).bind(score.threshold);
                query.fetch_one(&mut **tx).await?.int("id")?
            }
        };
        // A finding that two rows of a card share has the first one's score.
        let sql = "INSERT INTO fact_scores VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(fact).bind(output).bind(score.score).execute(&mut **tx).await?;
    }
    if let Some(race) = &facts.race {
        let text = |value: Result<String, serde_json::Error>| value.map_err(|e| StoreError::Contents(e.to_string()));
        sqlx::query("INSERT INTO fact_posteriors VALUES (?, ?, ?, ?)")
            .bind(fact)
            .bind(&race.model)
            .bind(text(serde_json::to_string(&race.groups))?)
            .bind(text(serde_json::to_string(&race.probabilities))?)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}
