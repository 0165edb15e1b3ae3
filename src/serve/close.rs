//! Closes studies that are complete: asks `assemble`, then assesses, reports and records.
//!
//! Neighbours: `assemble` decides, `analyse` assesses and writes, `store` keeps. Left out: when a study is complete.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tracing::{error, info, warn};

use super::{ATTEMPTS_MAX, IDLE, INTERRUPTIONS_MAX, LEASE, Node};
use crate::analyse::{Conclusion, ReportContext};
use crate::assemble::{self, AssembleRules, Decision, StudyActivity};
use crate::deliver;
use crate::domain::Disclosure;
use crate::report::Predecessor;
use crate::store::{Closed, Outcome, OutgoingReport, StoreError, StudyClaim};

impl Node {
    /// Closes studies that are complete.
    pub(super) async fn close_loop(self: Arc<Self>) {
        while !self.cancel.is_cancelled() {
            let now = Utc::now();
            let activities = match self.store.activities(now).await {
                Ok(activities) => activities,
                Err(error) => {
                    self.trouble("looking for complete studies", &error).await;
                    continue;
                }
            };
            let mut wait = IDLE;
            for activity in activities {
                match assemble::decide(&activity, &self.rules(&activity), now) {
                    Decision::Wait { until } => {
                        wait = wait.min((until - now).to_std().unwrap_or_default().max(Duration::from_millis(5)));
                    }
                    Decision::Close { complete } => self.close(&activity, complete).await,
                }
                if self.cancel.is_cancelled() {
                    return;
                }
            }
            self.pause(&self.store.wake().study_changed, wait).await;
        }
    }

    fn rules(&self, activity: &StudyActivity) -> AssembleRules {
        AssembleRules {
            quiet_period: self.config.quiet_period(&activity.source, activity.called.as_ref()),
            cap: self.config.study.cap,
        }
    }

    async fn close(self: &Arc<Self>, activity: &StudyActivity, complete: bool) {
        let study = &activity.study;
        let claim = match self.store.claim_study(study, activity.version, LEASE, Utc::now()).await {
            Ok(Some(claim)) => claim,
            Ok(None) => return,
            Err(error) => return self.trouble("claiming a study", &error).await,
        };
        let log_id = self.store.log_id(study.as_str());
        // In a task of its own: a study that brings it down fails alone.
        let (node, own) = (Arc::clone(self), claim.clone());
        let concluded = match tokio::spawn(async move { node.conclude(&own, complete).await }).await {
            Ok(concluded) => concluded,
            Err(ended) => Err(anyhow::anyhow!("assessing ended early: {ended}")),
        };
        // Trouble of the store says nothing of the study: it is tried for as long as it takes.
        let of_study = concluded.as_ref().err().is_some_and(|e| e.downcast_ref::<StoreError>().is_none());
        match concluded {
            Ok(Closed::As(state)) => info!(study = log_id, state = state.as_str(), "study closed"),
            Ok(Closed::Superseded) => info!(study = log_id, "an image arrived while the study was closed; again"),
            Err(error) if of_study && (claim.attempts >= ATTEMPTS_MAX || claim.interrupted > INTERRUPTIONS_MAX) => {
                error!(study = log_id, error = format!("{error:#}"), "the study failed; `studies requeue` tries again");
                let cause = format!("{error:#}");
                if let Err(error) = self.store.close_study(&claim, Outcome::Failed(&cause), Utc::now()).await {
                    error!(study = log_id, %error, "the failure could not be recorded; it will be tried again");
                }
            }
            Err(error) => {
                warn!(study = log_id, error = format!("{error:#}"), "closing failed; it will be tried again");
                while let Err(error) = self.store.release_study(&claim).await {
                    if self.cancel.is_cancelled() {
                        return;
                    }
                    self.trouble("releasing the claim of a study", &error).await;
                }
                self.pause(&tokio::sync::Notify::new(), IDLE).await;
            }
        }
    }

    /// Assesses a claimed study, builds its reports and closes it.
    async fn conclude(&self, claim: &StudyClaim, quiet: bool) -> anyhow::Result<Closed> {
        let now = Utc::now();
        let ready = self.store.ready_study(&claim.study).await?;
        let called = claim.called.as_ref();
        let concluded = self.analyser.conclude(&ready, self.config.clinical(called), now);
        let (assessment, scores, analysed, complete) = match concluded {
            Conclusion::Refused(refusal) => {
                return Ok(self.store.close_study(claim, Outcome::Refused(&refusal), now).await?);
            }
            Conclusion::Assessed { assessment, scores, analysed, complete } => {
                (assessment, scores, analysed, quiet && complete)
            }
        };
        let images: Vec<_> =
            ready.instances.iter().map(|i| &i.header).filter(|h| analysed.contains(&h.sop_instance)).collect();
        let mut outgoing = Vec::new();
        for disclosure in [Disclosure::Withheld, Disclosure::Probabilities] {
            let destinations: Vec<String> = self
                .config
                .destinations_of(called)
                .filter(|d| d.disclose == disclosure && deliver::allowed(self.config.node.mode, d).is_ok())
                .map(|d| d.name.clone())
                .collect();
            // The withheld report is always made: it is the one that people read here.
            if destinations.is_empty() && disclosure == Disclosure::Probabilities {
                continue;
            }
            let previous = self.store.previous_reports(&claim.study, disclosure).await?;
            let predecessors = previous
                .into_iter()
                .map(|p| Predecessor {
                    study: claim.study.clone(),
                    series: p.series,
                    sop_class: p.sop_class,
                    sop_instance: p.sop_instance,
                })
                .collect();
            let context = ReportContext { disclosure, predecessors, complete, now };
            let variants = self.analyser.reports(&assessment, &scores, &images, &context)?;
            outgoing.push(OutgoingReport { variants, disclosure, destinations });
        }
        // What is kept for people is what a withheld destination sees.
        let assessment = self.analyser.released(&assessment, Disclosure::Withheld);
        let outcome = Outcome::Reported { assessment: &assessment, complete, reports: &outgoing };
        Ok(self.store.close_study(claim, outcome, now).await?)
    }
}
