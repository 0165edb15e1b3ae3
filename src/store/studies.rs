//! The life of a study: which are open, what is in them, and how a revision of one ends.
//!
//! A study is closed by whoever claimed it, on condition that nothing arrived since; the reports are on the disk
//! before the transaction that makes them current, queues their deliveries and calls back those of the reports
//! that they replace. Neighbours: `reading` opens studies, `outbox` carries their reports on. Left out: whether a
//! study is complete (`assemble`), what its report says (`assess`, `report`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};
use tracing::info;

use crate::assemble::{Closing, HandClose, StudyActivity};
use crate::domain::{
    Assessment, Disclosure, FindingAssessment, ImageGroup, ImageScore, ReadyStudy, ScoredInstance, StudyState,
    Timestamp, Uid,
};

use super::index::{Columns, json, micros, shifted, word};
use super::spool::Spool;
use super::{
    Closed, Older, Outcome, OutgoingReport, PreviousReport, Store, StoreError, StudyClaim, blocking, facts, results,
};

impl Store {
    /// The activity of every open study that nobody is closing, for `assemble::decide`.
    pub async fn activities(&self, now: Timestamp) -> Result<Vec<StudyActivity>, StoreError> {
        // Unread and possibly of this study: known to be (analysed again, or waiting for a model server), or study
        // unknown and from one of its
        // senders. What is unread is looked through once, by study and by sender, and not for each study again. EXISTS
        // ends at the first object of that sender; IN would list the study again for each of them.
        let sql = "WITH known AS MATERIALIZED (
                       SELECT ifnull(study, waiting_study) AS study, min(received_at) AS since FROM instances
                       WHERE state = 'received' AND path IS NOT NULL AND ifnull(study, waiting_study) IS NOT NULL
                       GROUP BY 1),
                   unknown AS MATERIALIZED (
                       SELECT calling, min(received_at) AS since FROM instances
                       WHERE state = 'received' AND path IS NOT NULL AND study IS NULL AND waiting_study IS NULL
                       GROUP BY calling)
                   SELECT s.study, s.source, s.called, s.version, s.revision, s.first_at, s.last_at, s.hand_at,
                       s.hand_complete,
                       (SELECT min(since) FROM (SELECT k.since UNION ALL SELECT u.since FROM unknown u
                           WHERE EXISTS (SELECT 1 FROM instances i WHERE i.study = s.study AND i.calling = u.calling)))
                           AS unread_since,
                       (SELECT json_group_array(a.model) FROM awaited_results a WHERE a.study = s.study) AS awaited
                   FROM studies s LEFT JOIN known k ON k.study = s.study
                   WHERE s.state = 'open' AND (s.lease_until IS NULL OR s.lease_until <= ?)
                   ORDER BY s.last_at, s.study";
        let rows = sqlx::query(sql).bind(micros(now)).fetch_all(self.index().read()).await?;
        let mut activities = Vec::with_capacity(rows.len());
        for row in &rows {
            activities.push(StudyActivity {
                study: row.parsed("study")?,
                source: row.parsed("source")?,
                called: row.opt_parsed("called")?,
                version: row.int("version")?,
                revision: row.small("revision")?,
                first_at: row.time("first_at")?,
                last_at: row.time("last_at")?,
                unread_since: row.opt_time("unread_since")?,
                awaited: row.opt_json("awaited")?.unwrap_or_default(),
                hand: match row.opt_time("hand_at")? {
                    Some(at) => Some(HandClose { at, complete: row.opt_int("hand_complete")?.map(|flag| flag != 0) }),
                    None => None,
                },
            });
        }
        Ok(activities)
    }

    /// The images of a study that were read and can be seen by a model, those that are alike together; for
    /// `assemble::decide`. One that could not be decoded is not there.
    pub async fn image_groups(&self, study: &Uid) -> Result<Vec<ImageGroup>, StoreError> {
        let sql = "SELECT series, json_extract(header, '$.modality') AS modality,
                       json_extract(header, '$.body_part') AS body_part, json_extract(header, '$.view') AS view,
                       json_extract(header, '$.image.laterality') AS side, count(*) AS images
                   FROM instances WHERE study = ? AND header IS NOT NULL AND series IS NOT NULL AND late = 0
                       AND (state = 'scored' OR (state = 'refused' AND refusal_code = 'out-of-scope'))
                   GROUP BY series, modality, body_part, view, side ORDER BY series, modality, body_part, view, side";
        let rows = sqlx::query(sql).bind(study.as_str()).fetch_all(self.index().read()).await?;
        let mut groups = Vec::with_capacity(rows.len());
        for row in &rows {
            groups.push(ImageGroup {
                series: row.parsed("series")?,
                modality: row.text("modality")?,
                body_part: row.text("body_part")?,
                view: row.opt_word("view")?,
                side: row.opt_word("side")?,
                images: row.count("images")?,
            });
        }
        Ok(groups)
    }

    /// Leases an open study to the caller, who closes it. `None`: it is not open, somebody else has it, or it is not
    /// what it was at this version.
    pub async fn claim_study(
        &self,
        study: &Uid,
        version: i64,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Option<StudyClaim>, StoreError> {
        let mut tx = self.index().write_lazily().await?;
        let sql = "UPDATE studies SET lease_until = ?, attempts = attempts + 1
                   WHERE study = ? AND version = ? AND state = 'open' AND (lease_until IS NULL OR lease_until <= ?)
                   RETURNING called, revision, version, attempts, interrupted";
        let row = sqlx::query(sql)
            .bind(shifted(now, lease, 1))
            .bind(study.as_str())
            .bind(version)
            .bind(micros(now))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let claim = StudyClaim {
            study: study.clone(),
            called: row.opt_parsed("called")?,
            revision: row.small("revision")?,
            version: row.int("version")?,
            attempts: row.small("attempts")?,
            interrupted: row.small("interrupted")?,
        };
        self.index().commit(tx).await?;
        Ok(Some(claim))
    }

    /// Gives a claim back after a failed attempt, so that the study can be claimed again.
    pub async fn release_study(&self, claim: &StudyClaim) -> Result<(), StoreError> {
        let mut tx = self.index().write_lazily().await?;
        lift(&mut tx, claim, Attempt::Counts).await?;
        self.index().commit(tx).await?;
        self.wake().study_changed.notify_one();
        Ok(())
    }

    /// Studies with a report whose images have race scores of this model.
    pub async fn studies_of_race_model(&self, model: &str) -> Result<Vec<Uid>, StoreError> {
        let sql =
            "SELECT DISTINCT i.study FROM scores s JOIN instances i USING (sop_instance) JOIN studies t USING (study)
                   WHERE s.purpose = 'race' AND s.model = ? AND t.state IN ('reported', 'delivered') ORDER BY i.study";
        let rows = sqlx::query(sql).bind(model).fetch_all(self.index().read()).await?;
        rows.iter().map(|row| row.parsed("study")).collect()
    }

    /// What was read of a study, in the order of the SOP Instance UIDs, whatever order it came in. The race scores
    /// among it are for the assessment alone: reading them is logged.
    pub async fn ready_study(&self, study: &Uid) -> Result<ReadyStudy, StoreError> {
        self.ready_study_for(study, "an assessment").await
    }

    /// As [`Store::ready_study`], for another use, which the log then names.
    pub async fn ready_study_for(&self, study: &Uid, purpose: &'static str) -> Result<ReadyStudy, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let mut ready = as_read(&mut tx, study).await?;
        for instance in &mut ready.instances {
            instance.scores = scores(&mut tx, &instance.header.sop_instance, "('race', 'clinical')").await?;
        }
        let instances = ready.instances.len();
        info!(study = self.log_id(study.as_str()), instances, "race scores were read for {purpose}");
        Ok(ready)
    }

    /// As [`Store::ready_study`], without any score.
    pub async fn study_without_scores(&self, study: &Uid) -> Result<ReadyStudy, StoreError> {
        as_read(&mut self.index().snapshot().await?, study).await
    }

    /// The files of a study's objects, as far as they are kept.
    pub async fn object_files(&self, study: &Uid) -> Result<BTreeMap<Uid, PathBuf>, StoreError> {
        let sql = "SELECT sop_instance, path FROM instances WHERE study = ? AND path IS NOT NULL";
        let rows = sqlx::query(sql).bind(study.as_str()).fetch_all(self.index().read()).await?;
        let file = |row: &SqliteRow| Ok((row.parsed("sop_instance")?, self.spool().absolute(&row.text("path")?)));
        rows.iter().map(file).collect()
    }

    /// The newest report of a study for this disclosure, which the next one replaces, in each of its SOP classes.
    pub async fn previous_reports(
        &self,
        study: &Uid,
        disclosure: Disclosure,
    ) -> Result<Vec<PreviousReport>, StoreError> {
        let sql = "SELECT revision, sop_class, sop_instance, series, created_at FROM reports
                   WHERE study = ?1 AND disclosure = ?2 AND revision =
                       (SELECT max(revision) FROM reports WHERE study = ?1 AND disclosure = ?2) ORDER BY id";
        let query = sqlx::query(sql).bind(study.as_str()).bind(word(&disclosure)?);
        let mut previous = Vec::new();
        for row in query.fetch_all(self.index().read()).await? {
            previous.push(PreviousReport {
                revision: row.small("revision")?,
                sop_class: row.parsed("sop_class")?,
                sop_instance: row.parsed("sop_instance")?,
                series: row.parsed("series")?,
                created_at: row.time("created_at")?,
            });
        }
        Ok(previous)
    }

    /// Ends a revision of a claimed study, if it is still what was claimed. Without any destination a reported study
    /// is delivered at once: nothing is left to do.
    pub async fn close_study(
        &self,
        claim: &StudyClaim,
        outcome: Outcome<'_>,
        now: Timestamp,
    ) -> Result<Closed, StoreError> {
        let Outcome::Reported { reports, .. } = outcome else {
            return self.close_in_index(claim, outcome, now).await;
        };
        let variants = || reports.iter().flat_map(|r| &r.variants);
        let paths: Vec<String> = variants().map(|r| Spool::report_path(&r.sop_instance)).collect();
        let files: Vec<(String, Vec<u8>)> = paths.iter().cloned().zip(variants().map(|r| r.file.clone())).collect();
        let spool = self.spool().clone();
        let written = blocking(move || {
            let files: Vec<(String, &[u8])> = files.iter().map(|(to, bytes)| (to.clone(), &bytes[..])).collect();
            spool.write_durably(&files)
        });
        let closed = match written.await {
            Ok(()) => self.close_in_index(claim, outcome, now).await,
            Err(e) => Err(e),
        };
        // Once the disk is not believed the index may know them after the next start, which removes what it does not.
        if !matches!(closed, Ok(Closed::As(_))) && self.spool().trust().check().is_ok() {
            paths.iter().for_each(|path| self.spool().remove(path));
        }
        closed
    }

    async fn close_in_index(
        &self,
        claim: &StudyClaim,
        outcome: Outcome<'_>,
        now: Timestamp,
    ) -> Result<Closed, StoreError> {
        let mut tx = self.index().write().await?;
        let sql = "SELECT 1 FROM studies WHERE study = ? AND state = 'open' AND revision = ? AND version = ?";
        let same = sqlx::query(sql).bind(claim.study.as_str()).bind(claim.revision).bind(claim.version);
        if same.fetch_optional(&mut *tx).await?.is_none() {
            lift(&mut tx, claim, Attempt::Void).await?;
            self.index().commit(tx).await?;
            self.wake().study_changed.notify_one();
            return Ok(Closed::Superseded);
        }
        let state = match outcome {
            Outcome::Reported { assessment, closing, older, reports, facts } => {
                facts::replace(&mut tx, &claim.study, facts).await?;
                let queued = replace_reports(&mut tx, claim, reports, older, now).await?;
                note_assessment(&mut tx, &claim.study, assessment, closing).await?;
                // What did not come was given up; what opens the study again waits for what it needs itself.
                let sql = "DELETE FROM awaited_results WHERE study = ?";
                sqlx::query(sql).bind(claim.study.as_str()).execute(&mut *tx).await?;
                if queued == 0 { StudyState::Delivered } else { StudyState::Reported }
            }
            Outcome::Refused(_) | Outcome::Failed(_) => {
                facts::replace(&mut tx, &claim.study, None).await?;
                if let Outcome::Refused(_) = outcome { StudyState::Refused } else { StudyState::Failed }
            }
        };
        let (refusal, cause) = match outcome {
            Outcome::Refused(refusal) => (Some(refusal), None),
            Outcome::Failed(cause) => (None, Some(cause)),
            Outcome::Reported { .. } => (None, None),
        };
        let sql = "UPDATE studies SET state = ?, closed_at = ?, lease_until = NULL, attempts = 0, interrupted = 0,
                   refusal_code = ?, refusal_detail = ?, error = ?, hand_at = NULL, hand_complete = NULL
                   WHERE study = ?";
        sqlx::query(sql)
            .bind(state.as_str())
            .bind(micros(now))
            .bind(refusal.map(|r| r.code.as_str()))
            .bind(refusal.map(|r| r.detail.as_str()))
            .bind(cause)
            .bind(claim.study.as_str())
            .execute(&mut *tx)
            .await?;
        self.index().commit(tx).await?;
        self.wake().delivery_due.notify_one();
        Ok(Closed::As(state))
    }
}

/// What was read of a study, without the scores.
async fn as_read(tx: &mut Transaction<'_, Sqlite>, study: &Uid) -> Result<ReadyStudy, StoreError> {
    let sql = "SELECT 1 FROM studies WHERE study = ?";
    if sqlx::query(sql).bind(study.as_str()).fetch_optional(&mut **tx).await?.is_none() {
        return Err(StoreError::UnknownStudy(study.clone()));
    }
    let sql = "SELECT header, pixel_digest, refusal_code, refusal_detail FROM instances
               WHERE study = ? AND state <> 'received' AND late = 0 AND header IS NOT NULL ORDER BY sop_instance";
    let rows = sqlx::query(sql).bind(study.as_str()).fetch_all(&mut **tx).await?;
    let mut instances = Vec::with_capacity(rows.len());
    for row in &rows {
        let header = row.opt_json("header")?;
        instances.push(ScoredInstance {
            header: header.ok_or_else(|| StoreError::Contents("an instance that was read has no header".into()))?,
            pixel_digest: row.opt_parsed("pixel_digest")?,
            scores: Vec::new(),
            refusal: row.refusal()?,
        });
    }
    Ok(ReadyStudy { study: study.clone(), instances, results: results::of_study(tx, study).await? })
}

/// The scores of an instance by models of these purposes (an SQL list), in the order they were given.
pub(super) async fn scores(
    tx: &mut Transaction<'_, Sqlite>,
    sop_instance: &Uid,
    purposes: &str,
) -> Result<Vec<ImageScore>, StoreError> {
    let sql = format!(
        "SELECT model, contract, outputs FROM scores WHERE sop_instance = ? AND purpose IN {purposes} ORDER BY ordinal"
    );
    let rows = sqlx::query(&sql).bind(sop_instance.as_str()).fetch_all(&mut **tx).await?;
    let mut scores = Vec::with_capacity(rows.len());
    for row in &rows {
        scores.push(ImageScore {
            instance: sop_instance.clone(),
            model: row.text("model")?,
            contract: row.parsed("contract")?,
            outputs: row.opt_json("outputs")?.unwrap_or_default(),
        });
    }
    Ok(scores)
}

/// Whether a claim that ends without closing its study counts as an attempt.
#[derive(Clone, Copy)]
enum Attempt {
    Counts,
    /// The study changed: nothing failed.
    Void,
}

/// Ends a claim, unless the study has been closed or claimed anew since.
async fn lift(tx: &mut Transaction<'_, Sqlite>, claim: &StudyClaim, attempt: Attempt) -> Result<(), StoreError> {
    let sql = "UPDATE studies SET lease_until = NULL, attempts = attempts - ?1
               WHERE study = ?2 AND state = 'open' AND revision = ?3 AND attempts = ?4";
    sqlx::query(sql)
        .bind(matches!(attempt, Attempt::Void))
        .bind(claim.study.as_str())
        .bind(claim.revision)
        .bind(claim.attempts)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Makes `reports` the current ones; gives the number of deliveries that were queued.
async fn replace_reports(
    tx: &mut Transaction<'_, Sqlite>,
    claim: &StudyClaim,
    reports: &[OutgoingReport],
    older: Older,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let study = claim.study.as_str();
    // A delivery that is under way keeps its lease: the new report waits for its end, so that it arrives last.
    // What was given up is withdrawn too, so that nobody sends it again in place of the new one.
    if older == Older::Withdrawn {
        let sql = "UPDATE deliveries SET state = 'superseded' WHERE study = ? AND state IN ('pending', 'failed')";
        sqlx::query(sql).bind(study).execute(&mut **tx).await?;
    }
    let mut queued = 0;
    let mut added = Vec::with_capacity(reports.len());
    for OutgoingReport { variants, disclosure, destinations } in reports {
        let mut preferred = None;
        for report in variants {
            let sql = "INSERT INTO reports (study, revision, disclosure, sop_class, sop_instance, series, path,
                       created_at, predecessor, variant_of, current) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,
                       (SELECT sop_instance FROM reports WHERE study = ?1 AND disclosure = ?3 AND sop_class = ?4
                        AND revision < ?2 ORDER BY id DESC LIMIT 1), ?9, 0)";
            let inserted = sqlx::query(sql)
                .bind(study)
                .bind(claim.revision)
                .bind(word(disclosure)?)
                .bind(report.sop_class.as_str())
                .bind(report.sop_instance.as_str())
                .bind(report.series.as_str())
                .bind(Spool::report_path(&report.sop_instance))
                .bind(micros(now))
                .bind(preferred)
                .execute(&mut **tx)
                .await?;
            let sql = "INSERT INTO own_reports (sop_instance) VALUES (?) ON CONFLICT DO NOTHING";
            sqlx::query(sql).bind(report.sop_instance.as_str()).execute(&mut **tx).await?;
            added.push(inserted.last_insert_rowid());
            preferred.get_or_insert(inserted.last_insert_rowid());
        }
        for destination in destinations {
            let sql = "INSERT INTO deliveries (report, study, destination, state, queued_at, next_at)
                       VALUES (?, ?, ?, 'pending', ?, ?)";
            let query = sqlx::query(sql).bind(preferred).bind(study).bind(destination);
            query.bind(micros(now)).bind(micros(now)).execute(&mut **tx).await?;
            queued += 1;
        }
    }
    let sql = "UPDATE reports SET current = 0 WHERE study = ?";
    sqlx::query(sql).bind(study).execute(&mut **tx).await?;
    for id in added {
        sqlx::query("UPDATE reports SET current = 1 WHERE id = ?").bind(id).execute(&mut **tx).await?;
    }
    Ok(queued)
}

/// Keeps the assessment for people and pages. What is for disclosed reports only is not kept twice.
async fn note_assessment(
    tx: &mut Transaction<'_, Sqlite>,
    study: &Uid,
    assessment: &Assessment,
    closing: &Closing,
) -> Result<(), StoreError> {
    let findings = assessment.findings.iter().map(|f| FindingAssessment { disclosed: None, ..f.clone() }).collect();
    let kept = Assessment { findings, ..assessment.clone() };
    let sql = "UPDATE studies SET assessment = ?, level = ?, complete = ?, closed_by = ?, missing = ? WHERE study = ?";
    let level = kept.max_level().map(|level| word(&level)).transpose()?;
    let query = sqlx::query(sql).bind(json(&kept)?).bind(level).bind(closing.complete).bind(closing.by.as_str());
    query.bind(json(&closing.missing)?).bind(study.as_str()).execute(&mut **tx).await?;
    Ok(())
}
