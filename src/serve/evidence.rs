//! Evidence from a sample of studies: their images are changed and scored again, after the report is on its way.
//!
//! A study that is of the sample waits in a short queue; one that finds it full, or that was waiting when the node
//! stopped, is left out, since any sample will do. Nothing here delays a report or fails a study. Neighbours: `close` names
//! studies, `analyse` asks the models, `store` keeps the answers. Left out: what they come to (`sidelight evidence`).

use std::sync::Arc;

use anyhow::Context;
use chrono::Utc;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Node;
use crate::domain::{AeTitle, InstanceHeader, StudyState, Uid};
use crate::store::StudyClaim;

/// Studies that wait.
pub(super) const WAITING_MAX: usize = 64;

/// A study, and the AE title that its first object was sent to.
pub(super) type Sampled = (Uid, Option<AeTitle>);

impl Node {
    /// Takes note of a study that was closed, if it is of the sample.
    pub(super) fn sample(&self, claim: &StudyClaim, state: StudyState) {
        let has_report = matches!(state, StudyState::Reported | StudyState::Delivered);
        if !has_report || !self.config().risk.evidence.samples(claim.study.as_str()) {
            return;
        }
        if self.sampled.try_send((claim.study.clone(), claim.called.clone())).is_err() {
            let study = self.store.log_id(claim.study.as_str());
            info!(study, "no evidence from this study: others wait for theirs");
        }
    }

    pub(super) async fn evidence_loop(self: Arc<Self>, mut samples: mpsc::Receiver<Sampled>) {
        loop {
            let sample = tokio::select! {
                () = self.cancel.cancelled() => return,
                sample = samples.recv() => sample,
            };
            let Some((study, called)) = sample else { return };
            let log_id = self.store.log_id(study.as_str());
            let time_max = self.config().risk.evidence.time_max;
            let ended = tokio::select! {
                () = self.cancel.cancelled() => return,
                done = timeout(time_max, self.collect(&study, called.as_ref())) => match done {
                    Ok(done) => done.map_err(|error| format!("{error:#}")),
                    Err(_) => Err(format!("risk.evidence.time_max, {time_max:?}, has passed")),
                }
            };
            match ended {
                Ok(models) => info!(study = log_id, models, "evidence was collected"),
                Err(reason) => warn!(study = log_id, reason, "no evidence from this study"),
            }
        }
    }

    /// The answers to one changed image of the study, kept; of how many clinical models.
    async fn collect(&self, study: &Uid, called: Option<&AeTitle>) -> anyhow::Result<usize> {
        let config = self.config();
        let ready = self.store.ready_study_for(study, "evidence on reliance").await?;
        let (files, count) = (self.store.object_files(study).await?, config.risk.evidence.perturbations);
        let said = self.analyser.responses(&ready, &files, config.clinical(called), count).await?;
        let (header, responses) = said.context("no image of it has scores by both models")?;
        self.store.keep_responses(study, &patient(header), &responses, Utc::now()).await?;
        Ok(responses.len())
    }
}

/// Whose study it is: Patient ID with its issuer, or the study where there is none.
fn patient(header: &InstanceHeader) -> String {
    let id = header.patient_id().filter(|id| !id.trim().is_empty());
    let issuer = header.issuer_of_patient_id().unwrap_or_default();
    id.map_or_else(|| header.study.to_string(), |id| format!("{issuer}^{id}"))
}
