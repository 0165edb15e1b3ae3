//! The node: wires the stages, their wake-ups and the shutdown. Holds no logic of any stage.
//!
//! Five loops look into the index and act on what they find: read what arrived, close what is complete, deliver
//! what is due, report commitments, delete what is past its retention. Wake-ups only shorten the wait, so a restart is the ordinary
//! path. Neighbours: every stage below. Left out: arguments and exit codes (`main`).

mod commitments;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::analyse::{Analyser, Conclusion, ReportContext};
use crate::assemble::{self, AssembleRules, Decision, StudyActivity};
use crate::config::{Config, Destination};
use crate::deliver::{self, ReportFile, Retry};
use crate::domain::{Disclosure, Purpose, Refusal, RefusalCode, Timestamp, Uid};
use crate::receive::Receiver;
use crate::report::Predecessor;
use crate::store::{
    Closed, Delivery, Outcome, OutgoingReport, PendingInstance, Reading, Retention, Store, StoreError, StudyClaim,
};
use crate::web;

/// How long the loops wait without a wake-up: what another process changed is seen within this.
const IDLE: Duration = Duration::from_secs(1);
/// Claims of work; lifted early by whoever finishes it, and at every start.
const LEASE: Duration = Duration::from_secs(600);
/// An instance or study that was tried this often without an end is given up with a visible outcome.
const ATTEMPTS_MAX: u32 = 3;
/// An object that was being read each time the node died is given up after so many deaths.
const INTERRUPTIONS_MAX: u32 = 50;
/// Deliveries under way at once, at most one per destination.
const DELIVERIES_MAX: usize = 8;
const RETENTION_EVERY: Duration = Duration::from_secs(600);

/// What all loops share.
struct Node {
    config: Config,
    store: Store,
    analyser: Analyser,
    cancel: CancellationToken,
    /// Set by the first fault that the node cannot work on with; it stops then, and a restart continues.
    broken: AtomicBool,
}

/// Runs the node until `cancel`. Ports are bound and models are warm before it reports itself ready.
pub async fn run(config: Config, executable: PathBuf, cancel: CancellationToken) -> anyhow::Result<()> {
    let store = Store::open(&config.store).await?;
    let receiver = Receiver::bind(&config.node, &config.sources).await?;
    let dicom = receiver.local_addr()?;
    let ready = Arc::new(AtomicBool::new(false));
    let web = match config.web.listen {
        Some(address) => Some(web::bind(address, store.clone(), Arc::clone(&ready)).await?),
        None => None,
    };
    let (models, device_uid) = (config.clone(), store.device_uid().clone());
    let analyser = tokio::task::spawn_blocking(move || Analyser::start(&models, executable, device_uid))
        .await
        .context("loading the models ended early")??;

    let tasks = TaskTracker::new();
    let web_address: Option<SocketAddr> = web.as_ref().map(web::Server::address);
    if let Some(server) = web {
        tasks.spawn(server.run(cancel.clone()));
    }
    let broken = AtomicBool::new(false);
    let node = Arc::new(Node { config, store: store.clone(), analyser, cancel: cancel.clone(), broken });
    tasks.spawn(Arc::clone(&node).supervise("reading", Arc::clone(&node).read_loop()));
    tasks.spawn(Arc::clone(&node).supervise("closing", Arc::clone(&node).close_loop()));
    tasks.spawn(Arc::clone(&node).supervise("delivering", Arc::clone(&node).deliver_loop()));
    tasks.spawn(Arc::clone(&node).supervise("reporting commitments", Arc::clone(&node).commitment_loop()));
    tasks.spawn(Arc::clone(&node).supervise("retention", Arc::clone(&node).retention_loop()));
    ready.store(true, Ordering::Relaxed);
    info!(
        dicom = %dicom,
        web = %web_address.map_or_else(|| "off".to_owned(), |a| a.to_string()),
        ae_title = %node.config.node.ae_title,
        device = node.analyser.device(),
        mode = ?node.config.node.mode,
        "ready"
    );

    let stopping = async {
        cancel.cancelled().await;
        ready.store(false, Ordering::Relaxed);
        tokio::time::Instant::now()
    };
    let (drained, stopped_at) = tokio::join!(receiver.run(store.clone(), cancel.clone()), stopping);
    info!(?drained, "no longer receiving");
    tasks.close();
    // One deadline for both: an orchestrator waits so long and no longer.
    if tokio::time::timeout_at(stopped_at + node.config.node.drain_timeout, tasks.wait()).await.is_err() {
        warn!("work was still under way at the end of node.drain_timeout; the next start continues it");
    }
    store.close().await;
    info!("stopped");
    anyhow::ensure!(
        !node.broken.load(Ordering::Relaxed),
        "the node stopped because of a fault of its own; see the log"
    );
    Ok(())
}

impl Node {
    /// Runs a loop; one that ends before the node does stops the node, so that nobody takes it for ready.
    async fn supervise(self: Arc<Self>, doing: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let ended = tokio::spawn(work).await;
        if !self.cancel.is_cancelled() {
            let cause = ended.err().map_or_else(|| "it returned".to_owned(), |e| e.to_string());
            self.give_up(&format!("{doing} ended: {cause}"));
        }
    }

    /// Stops the node: it cannot work on, and must not pretend to.
    fn give_up(&self, cause: &str) {
        error!(cause, "the node stops; a restart continues where it stood");
        self.broken.store(true, Ordering::Relaxed);
        self.cancel.cancel();
    }

    /// Reads, decodes and scores what arrived, as many at once as there are decode workers and one more.
    async fn read_loop(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(self.config.pixels.workers + 1));
        let tasks = TaskTracker::new();
        while let Some(permit) = self.permit(&permits).await {
            let claimed = self.store.claim_received(1, LEASE, Utc::now()).await;
            match claimed {
                Ok(pending) if !pending.is_empty() => {
                    let node = Arc::clone(&self);
                    tasks.spawn(async move {
                        for instance in pending {
                            node.read(instance).await;
                        }
                        drop(permit);
                    });
                }
                Ok(_) => self.pause(&self.store.wake().instance_arrived, IDLE).await,
                Err(error) => self.trouble("looking for objects to read", &error).await,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn read(&self, pending: PendingInstance) {
        let sop_instance = &pending.sop_instance;
        if pending.attempts > ATTEMPTS_MAX || pending.interrupted > INTERRUPTIONS_MAX {
            let refusal = Refusal::new(
                RefusalCode::WorkerDied,
                format!("given up after {} attempts and {} restarts", pending.attempts - 1, pending.interrupted),
            );
            self.save(sop_instance, Reading::Refused { header: None, refusal: &refusal }).await;
            return;
        }
        let clinical = self.config.clinical(Some(&pending.called));
        let read = match self.analyser.read(&pending.path, clinical).await {
            Ok(read) => read,
            // The claim stays: the next start lifts it, and does not count it as an attempt.
            Err(error) => return self.give_up(&format!("inference ended: {error:#}")),
        };
        if let Some(refusal) = &read.refusal {
            let (code, detail) = (refusal.code, &refusal.detail);
            // Signals to the whole service end workers too: that says nothing of the object.
            if code == RefusalCode::WorkerDied && self.cancel.is_cancelled() {
                return;
            }
            if code == RefusalCode::WorkerUnavailable {
                self.trouble("starting a decode worker", detail).await;
                return self.release(sop_instance, false, None).await;
            }
            let fleeting = matches!(code, RefusalCode::WorkerDied | RefusalCode::ModelFailed);
            if fleeting && pending.attempts < ATTEMPTS_MAX {
                warn!(attempt = pending.attempts, %code, detail, "the object will be tried again");
                // What ended the attempt, want of memory for instance, may pass; others are read meanwhile.
                let later = Utc::now() + IDLE * pending.attempts;
                return self.release(sop_instance, true, Some(later)).await;
            }
        }
        let own = match self.store.is_own_report(sop_instance).await {
            Ok(own) => own,
            Err(error) => {
                self.trouble("asking for own reports", &error).await;
                return self.release(sop_instance, false, None).await;
            }
        };
        let contradiction = read.header.as_ref().and_then(|header| {
            (header.sop_instance != *sop_instance || header.sop_class != pending.sop_class).then(|| {
                Refusal::new(
                    RefusalCode::Inconsistent,
                    "SOP class or instance UID of the data set differ from those of the C-STORE command",
                )
            })
        });
        // What is no image never opens its study again, whatever else is wrong with it.
        let refusal = match read.refusal {
            _ if own => Some(Refusal::new(RefusalCode::OwnReport, "a report of sidelight is kept and never processed")),
            Some(r) if matches!(r.code, RefusalCode::OwnReport | RefusalCode::NotAnImage) => Some(r),
            other => contradiction.or(other),
        };
        let scores: Vec<_> = read
            .scores
            .into_iter()
            .map(|s| if self.analyser.is_race(&s.model) { (s, Purpose::Race) } else { (s, Purpose::Clinical) })
            .collect();
        let reading = match (&refusal, &read.header, &read.pixel_digest) {
            (None, Some(header), Some(pixel_digest)) => Reading::Scored { header, pixel_digest, scores: &scores },
            (Some(refusal), header, _) => {
                info!(code = %refusal.code, detail = %refusal.detail, "an object is not analysed");
                Reading::Refused { header: header.as_ref(), refusal }
            }
            (None, ..) => {
                error!("an object was read without a result and without a reason; it will be tried again");
                return self.release(sop_instance, true, None).await;
            }
        };
        self.save(sop_instance, reading).await;
    }

    async fn save(&self, sop_instance: &Uid, reading: Reading<'_>) {
        if let Err(error) = self.store.save_read(sop_instance, reading, Utc::now()).await {
            self.trouble("saving what was read", &error).await;
            self.release(sop_instance, false, None).await;
        }
    }

    async fn release(&self, sop_instance: &Uid, counted: bool, not_before: Option<Timestamp>) {
        if let Err(error) = self.store.release_instance(sop_instance, counted, not_before).await {
            error!(%error, "the claim could not be released; it ends by itself");
        }
    }

    /// Closes studies that are complete.
    async fn close_loop(self: Arc<Self>) {
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
                if let Err(error) = self.store.release_study(&claim).await {
                    warn!(study = log_id, %error, "the claim could not be released; it ends by itself");
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

    /// Sends what is due, one association per destination at a time, destinations side by side.
    async fn deliver_loop(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(DELIVERIES_MAX));
        let busy = Arc::new(std::sync::Mutex::new(BTreeSet::<String>::new()));
        let tasks = TaskTracker::new();
        while let Some(permit) = self.permit(&permits).await {
            let taken = busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            let due = match self.store.due_deliveries(1, &taken, LEASE, Utc::now()).await {
                Ok(due) => due,
                Err(error) => {
                    self.trouble("looking for due deliveries", &error).await;
                    continue;
                }
            };
            let Some(delivery) = due.into_iter().next() else {
                drop(permit);
                self.pause(&self.store.wake().delivery_due, IDLE / 4).await;
                continue;
            };
            busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(delivery.destination.clone());
            let (node, busy) = (Arc::clone(&self), Arc::clone(&busy));
            tasks.spawn(async move {
                let destination = delivery.destination.clone();
                node.deliver(delivery).await;
                busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&destination);
                node.store.wake().delivery_due.notify_one();
                drop(permit);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn deliver(&self, delivery: Delivery) {
        let log_id = self.store.log_id(delivery.study.as_str());
        let now = Utc::now();
        let destination = self.config.destinations.iter().find(|d| d.name == delivery.destination);
        let sent = match destination {
            None => Err(("the destination is no longer in the configuration".to_owned(), Retry::Never)),
            // The site may have changed its mind since the report was made.
            Some(destination)
                if delivery.disclosure == Disclosure::Probabilities && delivery.disclosure != destination.disclose =>
            {
                let cause = "the report holds probabilities and the destination is withheld now: `studies requeue`";
                Err((cause.to_owned(), Retry::Never))
            }
            Some(destination) => self.send(destination, &delivery).await,
        };
        let recorded = match sent {
            Ok((sop_class, sop_instance)) => {
                self.store.delivery_succeeded(delivery.id, &sop_class, &sop_instance, Utc::now()).await
            }
            Err((cause, retry)) => {
                let rules = &self.config.delivery;
                let wait = match retry {
                    Retry::Soon => Some(deliver::backoff(
                        delivery.attempts + 1,
                        rules.retry_first,
                        rules.retry_max,
                        delivery.id.unsigned_abs(),
                    )),
                    Retry::Later => Some(rules.retry_max),
                    Retry::Never => None,
                };
                let age = (now - delivery.queued_at).to_std().unwrap_or_default();
                let next = wait.filter(|_| age < rules.give_up_after).map(|wait| now + wait);
                self.store.delivery_failed(delivery.id, &cause, next).await
            }
        };
        if let Err(error) = recorded {
            error!(study = log_id, %error, "the delivery could not be recorded; the report will be sent again");
        }
    }

    /// Class and UID under which the report was accepted, or the cause and when to try again.
    async fn send(&self, destination: &Destination, delivery: &Delivery) -> Result<(Uid, Uid), (String, Retry)> {
        let variants = self.store.report_files(delivery.report).await.map_err(|e| {
            let retry = if matches!(e, StoreError::ReportGone(_)) { Retry::Never } else { Retry::Soon };
            (e.to_string(), retry)
        })?;
        let files: Vec<ReportFile<'_>> = variants
            .iter()
            .map(|v| ReportFile { sop_class: &v.sop_class, sop_instance: &v.sop_instance, file: &v.file })
            .collect();
        let node = &self.config.node;
        let sent = deliver::send(node.mode, destination, &node.ae_title, &files).await;
        sent.map(|s| (s.sop_class, s.sop_instance)).map_err(|e| (e.to_string(), e.retry()))
    }

    async fn retention_loop(self: Arc<Self>) {
        let retention = Retention {
            objects_kept: self.config.store.objects_kept,
            reports_kept: self.config.store.reports_kept,
            posteriors_kept: self.config.store.posteriors_kept,
        };
        while !self.cancel.is_cancelled() {
            match self.store.expire(Utc::now(), retention).await {
                Ok(expired) if expired != Default::default() => info!(?expired, "retention"),
                Ok(_) => {}
                Err(error) => error!(%error, "retention failed; it will be tried again"),
            }
            self.pause(&tokio::sync::Notify::new(), RETENTION_EVERY).await;
        }
    }

    /// A permit, or nothing once the node is stopping.
    async fn permit(&self, permits: &Arc<Semaphore>) -> Option<tokio::sync::OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            permit = Arc::clone(permits).acquire_owned() => permit.ok(),
        }
    }

    /// Waits for a wake-up, the time limit or the end.
    async fn pause(&self, wake: &tokio::sync::Notify, limit: Duration) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = wake.notified() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    async fn trouble(&self, doing: &str, error: &(dyn std::fmt::Display + Sync)) {
        error!(%error, "{doing} failed; it will be tried again");
        self.pause(&tokio::sync::Notify::new(), IDLE).await;
    }
}
