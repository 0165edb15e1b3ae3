//! The job of reading: which objects wait, and what reading them came to.
//!
//! An object's study is known only once its header is read, so this is where studies begin and where a late
//! instance opens a closed one again. Neighbours: `intake` makes the jobs, `studies` closes what begins here. Left
//! out: how an object is read and scored (`pixels`, `infer`).

use std::path::PathBuf;
use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use tracing::{info, warn};

use crate::config::Late;
use crate::domain::{ImageScore, InstanceHeader, Purpose, Refusal, RefusalCode, StudyState, Timestamp, Uid};

use super::index::{Columns, json, micros, shifted, word};
use super::{PendingInstance, Reading, Store, StoreError, identities, results};

/// So many ends of the node say nothing of an object that was being read.
const INTERRUPTIONS_FREE: u8 = 10;

impl Store {
    /// Leases up to `limit` objects that wait to be read to the caller, oldest first. One that was being read at many
    /// ends of the node waits until this start has lived for a while, a second for each: others are read meanwhile, and
    /// a node that is killed again and again does not spend each life on the same ones.
    pub async fn claim_received(
        &self,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<PendingInstance>, StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let sql = "UPDATE instances SET lease_until = ?1, attempts = attempts + 1
                   WHERE sop_instance IN (
                       SELECT sop_instance FROM instances
                       WHERE state = 'received' AND path IS NOT NULL AND (lease_until IS NULL OR lease_until <= ?2)
                           AND interrupted <= ?4
                       ORDER BY received_at, sop_instance LIMIT ?3)
                   RETURNING sop_instance, sop_class, transfer_syntax, path, calling, called, received_at,
                       announced_study, attempts, interrupted, waiting_since";
        let patience = i64::from(INTERRUPTIONS_FREE) + self.inner.opened.elapsed().as_secs().cast_signed();
        let query = sqlx::query(sql).bind(shifted(now, lease, 1)).bind(micros(now)).bind(limit).bind(patience);
        let rows = query.fetch_all(&mut *tx).await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            claimed.push(PendingInstance {
                sop_instance: row.parsed("sop_instance")?,
                sop_class: row.parsed("sop_class")?,
                transfer_syntax: row.parsed("transfer_syntax")?,
                path: self.spool().absolute(&row.text("path")?),
                calling: row.parsed("calling")?,
                called: row.parsed("called")?,
                received_at: row.time("received_at")?,
                announced_study: row.opt_parsed("announced_study")?,
                attempts: row.small("attempts")?,
                interrupted: row.small("interrupted")?,
                waiting_since: row.opt_time("waiting_since")?,
            });
        }
        self.index().commit(tx).await?;
        // An UPDATE returns rows in no particular order.
        claimed.sort_by(|a, b| (a.received_at, &a.sop_instance).cmp(&(b.received_at, &b.sop_instance)));
        Ok(claimed)
    }

    /// Gives a claim back, so that the object can be claimed again, at once or not before a moment. `counted`: the
    /// attempt says something of the object; trouble of the node does not.
    pub async fn release_instance(
        &self,
        sop_instance: &Uid,
        counted: bool,
        not_before: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let sql = "UPDATE instances SET lease_until = ?, attempts = attempts - ?
                   WHERE sop_instance = ? AND state = 'received'";
        let query = sqlx::query(sql).bind(not_before.map(micros)).bind(i64::from(!counted));
        query.bind(sop_instance.as_str()).execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        self.wake().instance_arrived.notify_one();
        Ok(())
    }

    /// Gives a claim back until a model server may be asked again, which is no attempt. `study` is that of the object's
    /// header, so that no other study of its sender has to wait for it.
    pub async fn postpone_instance(
        &self,
        sop_instance: &Uid,
        study: Option<&Uid>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let sql = "UPDATE instances SET lease_until = ?, attempts = attempts - 1, waiting_study = ?,
                   waiting_since = ifnull(waiting_since, ?) WHERE sop_instance = ? AND state = 'received'";
        let query = sqlx::query(sql).bind(micros(until)).bind(study.map(Uid::as_str)).bind(micros(now));
        query.bind(sop_instance.as_str()).execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        self.wake().study_changed.notify_one();
        Ok(())
    }

    /// Objects of which nobody knows the study, in the order in which they will be read; none where nothing waits to be
    /// claimed, since what is being read will say it soon.
    pub async fn nameless(&self, limit: u32) -> Result<Vec<(Uid, PathBuf)>, StoreError> {
        let sql = "SELECT sop_instance, path FROM instances
                   WHERE state = 'received' AND path IS NOT NULL AND study IS NULL AND waiting_study IS NULL
                       AND EXISTS (SELECT 1 FROM instances
                           WHERE state = 'received' AND path IS NOT NULL AND lease_until IS NULL)
                   ORDER BY received_at, sop_instance LIMIT ?";
        let rows = sqlx::query(sql).bind(limit).fetch_all(self.index().read()).await?;
        rows.iter().map(|row| Ok((row.parsed("sop_instance")?, self.spool().absolute(&row.text("path")?)))).collect()
    }

    /// Notes the studies that objects' headers name, until they are read: no other study of their sender has to wait for
    /// them. Each is a SOP Instance UID and its Study Instance UID. Whether each waits to be claimed for the first time still.
    pub async fn name_studies(&self, named: &[(Uid, Uid)]) -> Result<Vec<bool>, StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let sql =
            "UPDATE instances SET waiting_study = ? WHERE sop_instance = ? AND state = 'received' AND study IS NULL
                   RETURNING lease_until IS NULL AS waits";
        let mut waiting = Vec::with_capacity(named.len());
        for (sop_instance, study) in named {
            let query = sqlx::query(sql).bind(study.as_str()).bind(sop_instance.as_str());
            let row = query.fetch_optional(&mut *tx).await?;
            waiting.push(row.map(|row| row.int("waits")).transpose()? == Some(1));
        }
        self.index().commit(tx).await?;
        self.wake().study_changed.notify_one();
        Ok(waiting)
    }

    /// Prolongs a claim; one that was given back stays so.
    pub async fn prolong_instance(
        &self,
        sop_instance: &Uid,
        lease: Duration,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let sql = "UPDATE instances SET lease_until = max(lease_until, ?)
                   WHERE sop_instance = ? AND state = 'received' AND lease_until IS NOT NULL";
        sqlx::query(sql).bind(shifted(now, lease, 1)).bind(sop_instance.as_str()).execute(&mut *tx).await?;
        self.index().commit(tx).await
    }

    /// Records what reading an instance came to, in one transaction: the instance, its scores, and its study, which
    /// begins or is opened again as a new revision. `false`: it was not waiting any more, and nothing was written.
    ///
    /// Reports that come back ([`RefusalCode::OwnReport`]) and objects without an image join a closed study without
    /// opening it, since they change nothing in what was analysed; so does what `late` keeps out of a reported study.
    pub async fn save_read(
        &self,
        sop_instance: &Uid,
        reading: Reading<'_>,
        late: Late,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let sql =
            "SELECT study, calling, called, received_at FROM instances WHERE sop_instance = ? AND state = 'received'";
        let Some(row) = sqlx::query(sql).bind(sop_instance.as_str()).fetch_optional(&mut *tx).await? else {
            return Ok(false);
        };
        let mut arrival = Arrival {
            calling: row.text("calling")?,
            called: row.text("called")?,
            received_at: row.int("received_at")?,
            now: micros(now),
            news: false,
        };
        let (header, refusal, results) = match reading {
            Reading::Scored { header, .. } => (Some(header), None, &[][..]),
            Reading::Results { header, refusal, results } => (Some(header), Some(refusal), results),
            Reading::Refused { header, refusal } => (header, Some(refusal), &[][..]),
        };
        arrival.news = results::is_news(&mut tx, results.iter()).await?;
        // An object that is read again may give less than before; its study is known all the same.
        let study = header.map(|h| h.study.clone()).or(row.opt_parsed("study")?);
        let joined = match (&study, refusal) {
            (Some(study), _) => join(&mut tx, study, &arrival, refusal, late).await?,
            (None, Some(refusal)) => {
                end_alone(&mut tx, sop_instance, &arrival, refusal).await?;
                Joined::AsUsual
            }
            (None, None) => return Err(StoreError::Contents("a scored instance without a study".into())),
        };
        let study = study.as_ref().unwrap_or(sop_instance);
        write_reading(&mut tx, sop_instance, study, reading, now).await?;
        results::replace(&mut tx, sop_instance, results, joined == Joined::Late).await?;
        if let Reading::Scored { awaited, .. } = reading {
            results::await_results(&mut tx, study, awaited).await?;
        }
        if let Some(header) = header {
            let sql = "UPDATE studies SET accession = ?1
                       WHERE study = ?2 AND (accession IS NULL OR (accession = '' AND ?1 <> ''))";
            let number = header.accession_number().unwrap_or_default();
            sqlx::query(sql).bind(number).bind(study.as_str()).execute(&mut *tx).await?;
        }
        if joined == Joined::Late {
            let sql = "UPDATE instances SET late = 1 WHERE sop_instance = ?";
            sqlx::query(sql).bind(sop_instance.as_str()).execute(&mut *tx).await?;
        }
        self.index().commit(tx).await?;
        match joined {
            Joined::Reopened => {
                info!(study = self.log_id(study.as_str()), "a late instance opened a closed study again");
            }
            Joined::Late => {
                warn!(
                    study = self.log_id(study.as_str()),
                    "a late instance is kept and in no report (study.late = \"never\"); `studies requeue` analyses it"
                );
            }
            Joined::AsUsual => {}
        }
        self.wake().study_changed.notify_one();
        Ok(true)
    }
}

/// What a study needs to know of an instance's arrival; times in microseconds.
struct Arrival {
    calling: String,
    called: String,
    received_at: i64,
    now: i64,
    /// It holds a clinical result that says something new.
    news: bool,
}

/// Whether such an instance says something new about a study that is closed.
fn reopens(refusal: Option<&Refusal>, arrival: &Arrival) -> bool {
    match refusal.map(|r| r.code) {
        Some(RefusalCode::OwnReport | RefusalCode::NotAnImage) => false,
        Some(RefusalCode::ClinicalResult) => arrival.news,
        _ => true,
    }
}

/// What an instance did to its study.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joined {
    AsUsual,
    Reopened,
    /// It came too late for the study's report, and leads to no other.
    Late,
}

/// Adds an instance to its study: begins it, or opens it again.
async fn join(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    arrival: &Arrival,
    refusal: Option<&Refusal>,
    late: Late,
) -> Result<Joined, StoreError> {
    let sql = "SELECT state FROM studies WHERE study = ?";
    let state = sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut **tx).await?;
    let state = state.map(|row| row.word::<StudyState>("state")).transpose()?;
    match state {
        // A report of ours came back after its study was forgotten.
        None if refusal.is_some_and(|r| r.code == RefusalCode::OwnReport) => {
            begin(tx, study, "study", arrival, refusal).await?;
        }
        None => begin(tx, study, "study", arrival, None).await?,
        Some(StudyState::Open) => {
            let sql = "UPDATE studies SET version = version + 1, last_at = max(last_at, ?) WHERE study = ?";
            sqlx::query(sql).bind(arrival.received_at).bind(study.as_str()).execute(&mut **tx).await?;
        }
        Some(_) if reopens(refusal, arrival) => {
            let reported = is_reported(tx, study).await?;
            // A result is news of a report alone: images make the others analysed.
            if !reported && refusal.is_some_and(|r| r.code == RefusalCode::ClinicalResult) {
                return Ok(Joined::AsUsual);
            }
            if late == Late::Never && reported {
                return Ok(Joined::Late);
            }
            reopen(tx, study, arrival.now, arrival.received_at).await?;
            return Ok(Joined::Reopened);
        }
        Some(_) => {}
    }
    Ok(Joined::AsUsual)
}

pub(super) async fn is_reported(tx: &mut Transaction<'_, Sqlite>, study: &Uid) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM reports WHERE study = ? AND current = 1)";
    Ok(sqlx::query_scalar(sql).bind(study.as_str()).fetch_one(&mut **tx).await?)
}

/// An object whose study cannot be read ends at once, refused, under its own UID.
async fn end_alone(
    tx: &mut Transaction<'_, Sqlite>,
    sop_instance: &Uid,
    arrival: &Arrival,
    refusal: &Refusal,
) -> Result<(), StoreError> {
    let sql = "SELECT 1 FROM studies WHERE study = ?";
    if sqlx::query(sql).bind(sop_instance.as_str()).fetch_optional(&mut **tx).await?.is_some() {
        return Ok(());
    }
    begin(tx, sop_instance, "object", arrival, Some(refusal)).await
}

async fn begin(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    kind: &str,
    arrival: &Arrival,
    refusal: Option<&Refusal>,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO studies (study, kind, state, source, called, revision, version, first_at, last_at,
               closed_at, refusal_code, refusal_detail) VALUES (?, ?, ?, ?, ?, 1, 1, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(study.as_str())
        .bind(kind)
        .bind(if refusal.is_some() { "refused" } else { "open" })
        .bind(&arrival.calling)
        .bind(&arrival.called)
        // An object may have waited long, through an outage even: the cap counts from here.
        .bind(arrival.now)
        .bind(arrival.received_at)
        .bind(refusal.map(|_| arrival.now))
        .bind(refusal.map(|r| r.code.as_str()))
        .bind(refusal.map(|r| r.detail.as_str()))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Opens a closed study again: at `now`, for what arrived at `received_at`, both in microseconds.
pub(super) async fn reopen(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    now: i64,
    received_at: i64,
) -> Result<(), StoreError> {
    // `assessment`, `level` and `complete` stay: they tell of the last report until there is a new one.
    let sql = "UPDATE studies SET kind = 'study', state = 'open', revision = revision + 1, version = version + 1,
               first_at = ?, last_at = max(last_at, ?), lease_until = NULL, attempts = 0, interrupted = 0,
               closed_at = NULL, refusal_code = NULL, refusal_detail = NULL, error = NULL, hand_at = NULL,
               hand_complete = NULL WHERE study = ?";
    sqlx::query(sql).bind(now).bind(received_at).bind(study.as_str()).execute(&mut **tx).await?;
    // What came late before is part of what is analysed now.
    for table in ["instances", "clinical_results"] {
        let sql = format!("UPDATE {table} SET late = 0 WHERE study = ?");
        sqlx::query(&sql).bind(study.as_str()).execute(&mut **tx).await?;
    }
    // Race scores that are past their retention are needed once more, where the object is still there.
    let sql = "UPDATE instances SET state = 'received', lease_until = NULL, attempts = 0, interrupted = 0
               WHERE study = ? AND scores_expired = 1 AND path IS NOT NULL";
    sqlx::query(sql).bind(study.as_str()).execute(&mut **tx).await?;
    Ok(())
}

async fn write_reading(
    tx: &mut Transaction<'_, Sqlite>,
    sop_instance: &Uid,
    study: &Uid,
    reading: Reading<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (state, header, pixel_digest, scores, refusal): (_, Option<&InstanceHeader>, _, _, _) = match reading {
        Reading::Scored { header, pixel_digest, scores, .. } => {
            ("scored", Some(header), Some(pixel_digest.as_str()), scores, None)
        }
        Reading::Results { header, refusal, .. } => ("refused", Some(header), None, &[][..], Some(refusal)),
        Reading::Refused { header, refusal } => ("refused", header, None, &[][..], Some(refusal)),
    };
    let sql = "UPDATE instances SET state = ?, study = ?, series = ifnull(?, series), header = ifnull(?, header),
                   pixel_digest = ?, refusal_code = ?,
               refusal_detail = ?, read_at = ?, lease_until = NULL, scores_expired = 0, waiting_since = NULL,
               waiting_study = NULL WHERE sop_instance = ?";
    sqlx::query(sql)
        .bind(state)
        .bind(study.as_str())
        .bind(header.map(|h| h.series.as_str()))
        .bind(header.map(json).transpose()?)
        .bind(pixel_digest)
        .bind(refusal.map(|r| r.code.as_str()))
        .bind(refusal.map(|r| r.detail.as_str()))
        .bind(micros(now))
        .bind(sop_instance.as_str())
        .execute(&mut **tx)
        .await?;
    // By an image alone: a report of others may name anything.
    let is_image = refusal.is_none_or(|r| r.code == RefusalCode::OutOfScope);
    if let Some(header) = header.filter(|header| is_image && header.study == *study) {
        identities::note(tx, header).await?;
    }
    write_scores(tx, sop_instance, scores).await
}

async fn write_scores(
    tx: &mut Transaction<'_, Sqlite>,
    sop_instance: &Uid,
    scores: &[(ImageScore, Purpose)],
) -> Result<(), StoreError> {
    let sql = "DELETE FROM scores WHERE sop_instance = ?";
    sqlx::query(sql).bind(sop_instance.as_str()).execute(&mut **tx).await?;
    let sql = "INSERT INTO scores (sop_instance, ordinal, model, contract, purpose, outputs) VALUES (?, ?, ?, ?, ?, ?)";
    for (ordinal, (score, purpose)) in (0i64..).zip(scores) {
        sqlx::query(sql)
            .bind(sop_instance.as_str())
            .bind(ordinal)
            .bind(&score.model)
            .bind(score.contract.as_str())
            .bind(word(purpose)?)
            .bind(json(&score.outputs)?)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}
