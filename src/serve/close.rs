//! Closes studies that are complete: asks `assemble`, then assesses, reports and records.
//!
//! Neighbours: `assemble` decides, `analyse` assesses and writes, `store` keeps. Left out: when a study is complete.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::task::{JoinError, JoinSet};
use tracing::{error, info, warn};

use super::watchdog::{Loop, STUCK_AFTER};
use super::{ATTEMPTS_MAX, IDLE, INTERRUPTIONS_MAX, LEASE, Node};
use crate::analyse::{Conclusion, NOT_ALL_AUDITED, ReportContext};
use crate::assemble::{self, AssembleRules, Closing, Decision, StudyActivity};
use crate::config::{Config, Destination, Late};
use crate::deliver;
use crate::domain::{ClosedBy, Disclosure, Uid};
use crate::report::{Predecessor, Related};
use crate::store::{Closed, Older, Outcome, OutgoingReport, StoreError, StudyClaim};

/// Studies that are closed at a time: each may wait for its maps.
const CLOSING_MAX: usize = 8;

/// Keys of the packages whose results are not all here, of studies at a version each.
type Lacking = HashMap<Uid, (i64, Vec<String>)>;

/// Since when the closing of a study has not said that it goes on.
#[derive(Clone)]
struct Since(Arc<Mutex<Instant>>);

/// The studies that are being closed.
#[derive(Default)]
struct UnderWay {
    /// Each with whether it is to be looked at again.
    tasks: JoinSet<(Uid, bool)>,
    studies: HashMap<Uid, Since>,
    again: bool,
}

impl Since {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// What is done may take longer than it should, and is no standstill.
    fn goes_on(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl UnderWay {
    fn begin<F>(&mut self, study: Uid, closing: impl FnOnce(Since) -> F)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let since = Since::now();
        let closed = closing(since.clone());
        self.studies.insert(study.clone(), since);
        self.tasks.spawn(async move { (study, closed.await) });
    }

    /// Whether none has been under way for so long.
    fn is_on_time(&self, limit: Duration) -> bool {
        self.studies.values().all(|since| since.elapsed() <= limit)
    }

    /// Waits until one is done; none where there is none.
    async fn next(&mut self) -> Option<()> {
        let done = self.tasks.join_next().await?;
        self.note(done);
        Some(())
    }

    fn settle(&mut self) {
        while let Some(done) = self.tasks.try_join_next() {
            self.note(done);
        }
    }

    fn note(&mut self, done: Result<(Uid, bool), JoinError>) {
        match done {
            Ok((study, again)) => {
                self.studies.remove(&study);
                self.again |= again;
            }
            // Whose it was is not known; claims keep the others from being closed twice.
            Err(_) => self.studies.clear(),
        }
    }
}

impl Node {
    /// Closes studies that are complete.
    pub(super) async fn close_loop(self: Arc<Self>) {
        let mut lacking = Lacking::new();
        let mut under_way = UnderWay::default();
        while !self.cancel.is_cancelled() {
            self.beat_of(&under_way);
            let activities = match self.store.activities(Utc::now()).await {
                Ok(activities) => activities,
                Err(error) => {
                    self.trouble("looking for complete studies", &error).await;
                    continue;
                }
            };
            let (config, mut wait) = (self.config(), IDLE);
            under_way.again = false;
            let versions: HashMap<&Uid, i64> = activities.iter().map(|a| (&a.study, a.version)).collect();
            lacking.retain(|study, (version, _)| versions.get(study) == Some(version));
            for mut activity in activities {
                under_way.settle();
                if under_way.studies.contains_key(&activity.study) {
                    continue;
                }
                self.beat_of(&under_way);
                match self.decide(&mut activity, &mut lacking, &config).await {
                    Ok(Decision::Wait { until }) => {
                        let left = (until - Utc::now()).to_std().unwrap_or_default();
                        wait = wait.min(left.max(Duration::from_millis(5)));
                    }
                    Ok(Decision::Close(closing)) => {
                        while under_way.tasks.len() >= CLOSING_MAX {
                            self.beat_of(&under_way);
                            let _ = tokio::time::timeout(IDLE, under_way.next()).await;
                        }
                        let node = Arc::clone(&self);
                        under_way.begin(activity.study.clone(), |since| async move {
                            node.close(&activity, closing, &since).await
                        });
                    }
                    Err(error) => self.trouble("looking at the images of a study", &error).await,
                }
                if self.cancel.is_cancelled() {
                    break;
                }
            }
            let pause = self.pause(&self.store.wake().study_changed, wait);
            tokio::pin!(pause);
            while !under_way.again {
                tokio::select! {
                    () = &mut pause => break,
                    Some(()) = under_way.next() => {}
                }
            }
        }
        while under_way.next().await.is_some() {}
    }

    /// The loop comes by whatever becomes of its tasks: it counts as long as none of them hangs. `explain.time_max` is
    /// at most a minute, and the rest of a closing takes seconds.
    fn beat_of(&self, under_way: &UnderWay) {
        if under_way.is_on_time(STUCK_AFTER) {
            self.pulse.beat(Loop::Closing);
        }
    }

    /// Asks `assemble`, with the study's images and what products said of them where they can matter by now.
    async fn decide(
        &self,
        activity: &mut StudyActivity,
        lacking: &mut Lacking,
        config: &Config,
    ) -> Result<Decision, StoreError> {
        let results = self.analyser.result_waits(config.clinical(activity.called.as_ref()));
        let rules = AssembleRules {
            quiet_period: config.quiet_period(&activity.source, activity.called.as_ref()),
            cap: config.study.cap,
            required: &config.study.required,
            results: &results,
        };
        let (now, mut awaited) = (Utc::now(), std::mem::take(&mut activity.awaited));
        let mut earliest = assemble::earliest(activity, &rules);
        if now >= earliest && !awaited.is_empty() {
            let lacking = self.lacking(activity, lacking).await?;
            awaited.retain(|model| lacking.contains(model));
            activity.awaited = awaited;
            earliest = assemble::earliest(activity, &rules);
        }
        if now < earliest {
            return Ok(Decision::Wait { until: earliest });
        }
        let images = match rules.required {
            [] => Vec::new(),
            _ => self.store.image_groups(&activity.study).await?,
        };
        Ok(assemble::decide(activity, &images, &rules, now))
    }

    /// The products whose results the study lacks; looked up once for each of its versions.
    async fn lacking<'a>(&self, activity: &StudyActivity, known: &'a mut Lacking) -> Result<&'a [String], StoreError> {
        if known.get(&activity.study).is_none_or(|(version, _)| *version != activity.version) {
            let study = self.store.study_without_scores(&activity.study).await?;
            known.insert(activity.study.clone(), (activity.version, self.analyser.results_lacking(&study)));
        }
        Ok(known.get(&activity.study).map_or(&[], |(_, models)| models))
    }

    /// Whether the study is to be looked at again soon.
    async fn close(self: &Arc<Self>, activity: &StudyActivity, closing: Closing, since: &Since) -> bool {
        let study = &activity.study;
        let claim = match self.store.claim_study(study, activity.version, LEASE, Utc::now()).await {
            Ok(Some(claim)) => claim,
            Ok(None) => return false,
            Err(error) => {
                self.trouble("claiming a study", &error).await;
                return true;
            }
        };
        let log_id = self.store.log_id(study.as_str());
        if claim.interrupted > INTERRUPTIONS_MAX {
            let cause = format!("given up after {} restarts while it was closed", claim.interrupted);
            self.fail_study(&claim, &log_id, &cause).await;
            return false;
        }
        // In a task of its own: a study that brings it down fails alone.
        let (node, own) = (Arc::clone(self), claim.clone());
        let concluded = match tokio::spawn(async move { node.conclude(&own, closing).await }).await {
            Ok(concluded) => concluded,
            Err(ended) => Err(anyhow::anyhow!("assessing ended early: {ended}")),
        };
        // Trouble of the store says nothing of the study: it is tried for as long as it takes.
        let of_study = concluded.as_ref().err().is_some_and(|e| e.downcast_ref::<StoreError>().is_none());
        match concluded {
            Ok(Closed::As(state)) => {
                info!(study = log_id, state = state.as_str(), "study closed");
                self.sample(&claim, state);
            }
            Ok(Closed::Superseded) => {
                info!(study = log_id, "an image arrived while the study was closed; again");
                return true;
            }
            Err(error) if of_study && claim.attempts >= ATTEMPTS_MAX => {
                self.fail_study(&claim, &log_id, &format!("{error:#}")).await;
            }
            Err(error) => {
                warn!(study = log_id, error = format!("{error:#}"), "closing failed; it will be tried again");
                while let Err(error) = self.store.release_study(&claim).await {
                    if self.cancel.is_cancelled() {
                        return false;
                    }
                    self.trouble("releasing the claim of a study", &error).await;
                    since.goes_on();
                }
                self.pause(&tokio::sync::Notify::new(), IDLE).await;
                return true;
            }
        }
        false
    }

    async fn fail_study(&self, claim: &StudyClaim, log_id: &str, cause: &str) {
        error!(study = log_id, error = cause, "the study failed; `studies requeue` tries again");
        if let Err(error) = self.store.close_study(claim, Outcome::Failed(cause), Utc::now()).await {
            error!(study = log_id, %error, "the failure could not be recorded; it will be tried again");
        }
    }

    /// Assesses a claimed study, builds its reports and closes it.
    async fn conclude(&self, claim: &StudyClaim, mut closing: Closing) -> anyhow::Result<Closed> {
        let (now, config) = (Utc::now(), self.config());
        let ready = self.store.ready_study(&claim.study).await?;
        let called = claim.called.as_ref();
        let concluded = self.analyser.conclude(&ready, config.clinical(called), now);
        let (assessment, sources, analysed, all_audited, missing, facts) = match concluded {
            Conclusion::Refused(refusal) => {
                return Ok(self.store.close_study(claim, Outcome::Refused(&refusal), now).await?);
            }
            Conclusion::Assessed { assessment, sources, analysed, complete, missing, facts, .. } => {
                (assessment, sources, analysed, complete, missing, facts)
            }
        };
        closing
            .missing
            .extend(missing.iter().filter(|what| !closing.missing.contains(what)).cloned().collect::<Vec<_>>());
        closing.complete &= missing.is_empty();
        let partial = why_partial(&closing, all_audited);
        closing.complete &= all_audited;
        let images: Vec<_> =
            ready.instances.iter().map(|i| &i.header).filter(|h| analysed.contains(&h.sop_instance)).collect();
        let destinations = |disclosure: Disclosure| -> Vec<String> {
            let allowed = |d: &&Destination| d.disclose == disclosure && deliver::allowed(config.node.mode, d).is_ok();
            config.destinations_of(called).filter(allowed).map(|d| d.name.clone()).collect()
        };
        let mut readers = [Disclosure::Withheld, Disclosure::Probabilities]
            .into_iter()
            .filter(|disclosure| !destinations(*disclosure).is_empty())
            .filter(|disclosure| config.explain.asks_for(&self.analyser.released(&assessment, *disclosure)))
            .collect::<Vec<_>>();
        if !readers.is_empty() && (claim.interrupted > 0 || claim.attempts > 1) {
            let study = self.store.log_id(claim.study.as_str());
            warn!(
                study,
                "no maps: this study was being closed before and that did not end well; its report matters more"
            );
            readers.clear();
        }
        // Until the study is closed: what they take in memory is counted as long.
        let maps_made = self.explained(&ready, &analysed, config.clinical(called), &readers).await?;
        let mut outgoing = Vec::new();
        for disclosure in [Disclosure::Withheld, Disclosure::Probabilities] {
            let destinations = destinations(disclosure);
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
            let objects = match readers.contains(&disclosure) {
                true => {
                    self.analyser.map_objects(&maps_made.explained, &images, &config.explain.forms, disclosure, now)?
                }
                false => Vec::new(),
            };
            let maps = objects.iter().map(Related::from).collect();
            let context = ReportContext { disclosure, predecessors, partial: partial.clone(), maps, now };
            let variants = self.analyser.reports(&assessment, &sources, &images, &context)?;
            outgoing.push(OutgoingReport { variants, disclosure, destinations: destinations.clone() });
            // After the report, which must not wait for a destination that takes no maps.
            outgoing.extend(objects.into_iter().map(|object| OutgoingReport {
                variants: vec![object],
                disclosure,
                destinations: destinations.clone(),
            }));
        }
        // What is kept for people is what a withheld destination sees.
        let assessment = self.analyser.released(&assessment, Disclosure::Withheld);
        let older = if config.study.late == Late::Always { Older::Sent } else { Older::Withdrawn };
        let facts = Some(&*facts);
        let outcome =
            Outcome::Reported { assessment: &assessment, closing: &closing, older, reports: &outgoing, facts };
        let closed = self.store.close_study(claim, outcome, now).await?;
        drop(maps_made);
        Ok(closed)
    }
}

/// What the report says of what is not in it; nothing: it is complete.
fn why_partial(closing: &Closing, all_audited: bool) -> Option<String> {
    if closing.complete {
        return (!all_audited).then(|| NOT_ALL_AUDITED.to_owned());
    }
    if !closing.missing.is_empty() {
        return Some(format!("Missing: {}", closing.missing.join(", ")));
    }
    Some(match closing.by {
        ClosedBy::Hand => "Closed by hand, images may be missing".to_owned(),
        ClosedBy::Cap | ClosedBy::Quiet => "Closed at the time limit, images may be missing".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closing_that_hangs_is_no_sign_of_life() {
        let (study, limit) = (Uid::parse("1.2").expect("a UID"), Duration::from_secs(50));
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let mut under_way = UnderWay::default();
        under_way.begin(study.clone(), |_| async move { ended.await.is_err() });
        assert!(under_way.is_on_time(limit));
        let since = under_way.studies[&study].clone();
        *since.0.lock().expect("a lock") = Instant::now() - Duration::from_secs(100);
        assert!(!under_way.is_on_time(limit));
        since.goes_on();
        assert!(under_way.is_on_time(limit), "trouble of the store is no hang");
        *since.0.lock().expect("a lock") = Instant::now() - Duration::from_secs(100);
        end.send(()).expect("it waits");
        under_way.next().await.expect("one was under way");
        assert!(under_way.is_on_time(limit), "it has ended");
    }
}
