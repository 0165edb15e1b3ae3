//! What people ask for: a study closed now, or analysed again.
//!
//! Who asked is told in the activity log, in the transaction that does it. Neighbours: `studies` closes, `reading` reads
//! again what is requeued, `outbox` sends again. Left out: who may ask.

use tracing::info;

use crate::domain::{StudyState, Timestamp, Uid};

use super::index::{Columns, micros};
use super::{Activity, Store, StoreError, activity};

impl Store {
    /// Asks for an open study to be closed now, with what is there; the node does it. `complete`: whether it counts as
    /// such, `None` for what the rules say.
    pub async fn close_by_hand(&self, study: &Uid, complete: Option<bool>, now: Timestamp) -> Result<(), StoreError> {
        self.close_by_hand_as(study, complete, None, now).await
    }

    /// As [`Store::close_by_hand`], with the line of the activity log that tells it.
    pub async fn close_by_hand_as(
        &self,
        study: &Uid,
        complete: Option<bool>,
        told: Option<&Activity>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let state = sqlx::query("SELECT state FROM studies WHERE study = ?").bind(study.as_str());
        let Some(row) = state.fetch_optional(&mut *tx).await? else {
            return Err(StoreError::UnknownStudy(study.clone()));
        };
        if row.word::<StudyState>("state")? != StudyState::Open {
            return Err(StoreError::NotOpen(study.clone()));
        }
        let sql = "UPDATE studies SET hand_at = ?, hand_complete = ? WHERE study = ?";
        sqlx::query(sql).bind(micros(now)).bind(complete).bind(study.as_str()).execute(&mut *tx).await?;
        activity::tell(&mut tx, told, now).await?;
        self.index().commit(tx).await?;
        self.wake().study_changed.notify_one();
        Ok(())
    }

    /// Analyses a study again from its objects, as a new revision. Its last reports stay current until there are new
    /// ones. For an object whose study could not be read, the object is read again.
    pub async fn requeue(&self, study: &Uid, now: Timestamp) -> Result<(), StoreError> {
        self.requeue_as(study, None, now).await
    }

    /// As [`Store::requeue`], with the line of the activity log that tells it.
    pub async fn requeue_as(&self, study: &Uid, told: Option<&Activity>, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "SELECT kind, state, (SELECT count(*) FROM instances i WHERE i.study = s.study AND i.path IS NULL)
                   AS gone FROM studies s WHERE study = ?";
        let row = sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut *tx).await?;
        let row = row.ok_or_else(|| StoreError::UnknownStudy(study.clone()))?;
        if row.int("gone")? > 0 {
            return Err(StoreError::ObjectsGone(study.clone()));
        }
        let unknown = row.text("kind")? == "object";
        let sql = "DELETE FROM scores WHERE sop_instance IN (SELECT sop_instance FROM instances WHERE study = ?)";
        sqlx::query(sql).bind(study.as_str()).execute(&mut *tx).await?;
        let sql = "UPDATE instances SET state = 'received', lease_until = NULL, attempts = 0, interrupted = 0,
                   refusal_code = NULL, refusal_detail = NULL, scores_expired = 0, late = 0, waiting_since = NULL,
                   study = iif(?1, NULL, study) WHERE study = ?2";
        sqlx::query(sql).bind(unknown).bind(study.as_str()).execute(&mut *tx).await?;
        // What its images wait for is noted as they are read again.
        for sql in
            ["DELETE FROM awaited_results WHERE study = ?", "UPDATE clinical_results SET late = 0 WHERE study = ?"]
        {
            sqlx::query(sql).bind(study.as_str()).execute(&mut *tx).await?;
        }
        let sql = if unknown {
            "DELETE FROM studies WHERE study = ?2"
        } else {
            "UPDATE studies SET state = 'open', revision = revision + (state <> 'open'), version = version + 1,
             first_at = ?1, lease_until = NULL, attempts = 0, interrupted = 0, closed_at = NULL, refusal_code = NULL,
             refusal_detail = NULL, error = NULL, hand_at = NULL, hand_complete = NULL WHERE study = ?2"
        };
        sqlx::query(sql).bind(micros(now)).bind(study.as_str()).execute(&mut *tx).await?;
        activity::tell(&mut tx, told, now).await?;
        self.index().commit(tx).await?;
        info!(study = self.log_id(study.as_str()), "a study is analysed again");
        self.wake().all();
        Ok(())
    }
}
