//! Answers to changed images: kept for a site's evidence on reliance, and for nothing else.
//!
//! They hold race posteriors, so they have their own retention, every reading of them is logged, and no view shows them.
//! Patients are keyed hashes. Neighbours: `serve` keeps them, the command `evidence` reads them, `retention` calls
//! [`forget`]. Left out: what they come to (`assess`).

use sqlx::{Sqlite, Transaction};
use tracing::info;

use crate::domain::{Responses, Timestamp, Uid};

use super::index::{Columns, json, micros};
use super::{Store, StoreError};

/// Studies that the evidence on one model is made of, the newest: of 4,000 patients, some of whom come twice.
const STUDIES_MAX: u32 = 8000;

/// Answers with the key of the patient that they are of.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptResponses {
    pub patient: String,
    pub responses: Responses,
}

impl Store {
    /// Keeps what was said of a study, in place of what was before. Nothing where the study is gone by now. `patient`:
    /// Patient ID with its issuer, or the study where there is none; a keyed hash of it is kept.
    pub async fn keep_responses(
        &self,
        study: &Uid,
        patient: &str,
        responses: &[Responses],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let patient = self.log_id(patient);
        let mut tx = self.index().write_lazily().await?;
        let sql = "INSERT OR REPLACE INTO responses (study, model, race_model, patient, made_at, answers)
                   SELECT study, ?, ?, ?, ?, ? FROM studies WHERE study = ?";
        for one in responses {
            sqlx::query(sql)
                .bind(&one.model)
                .bind(&one.race_model)
                .bind(&patient)
                .bind(micros(now))
                .bind(json(one)?)
                .bind(study.as_str())
                .execute(&mut *tx)
                .await?;
        }
        self.index().commit(tx).await
    }

    /// The clinical models that have answers beside those of this race model.
    pub async fn responding(&self, race_model: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT model FROM responses WHERE race_model = ? ORDER BY model";
        Ok(sqlx::query_scalar(sql).bind(race_model).fetch_all(self.index().read()).await?)
    }

    /// What was said by this race model and this clinical one, the newest first. The reading is logged, with its purpose.
    pub async fn responses(
        &self,
        race_model: &str,
        model: &str,
        purpose: &'static str,
    ) -> Result<Vec<KeptResponses>, StoreError> {
        let sql = "SELECT patient, answers FROM responses WHERE race_model = ? AND model = ?
                   ORDER BY made_at DESC, study LIMIT ?";
        let query = sqlx::query(sql).bind(race_model).bind(model).bind(STUDIES_MAX);
        let rows = query.fetch_all(self.index().read()).await?;
        let mut kept = Vec::with_capacity(rows.len());
        for row in &rows {
            let responses = row.opt_json("answers")?;
            let responses = responses.ok_or_else(|| StoreError::Contents("answers: there are none".to_owned()))?;
            kept.push(KeptResponses { patient: row.text("patient")?, responses });
        }
        info!(model, studies = kept.len(), "race scores of changed images were read for {purpose}");
        Ok(kept)
    }
}

/// Forgets what was made before; how many.
pub(super) async fn forget(tx: &mut Transaction<'_, Sqlite>, before: i64) -> Result<u64, StoreError> {
    let sql = "DELETE FROM responses WHERE made_at < ?";
    Ok(sqlx::query(sql).bind(before).execute(&mut **tx).await?.rows_affected())
}
