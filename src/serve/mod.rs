//! The node: wires the stages, their wake-ups, reload and shutdown. Holds no logic of any stage.
//!
//! Loops look into the index and act on what they find: `read` what arrived, `close` what is complete, `deliver` what
//! is due, report `commitments` and ask for `confirmations`, collect `evidence`, delete what is past its `retention`, fit the
//! profile again (`refit`). Wake-ups only shorten
//! the wait, so a restart is the ordinary path. `reload` changes what can change while they run, `watchdog` tells the
//! service manager that they do. Neighbours: every stage below. Left out: arguments, signals and exit codes (`main`).

mod close;
mod commitments;
mod confirmations;
mod deliver;
mod evidence;
mod explain;
mod read;
mod refit;
mod reload;
mod retention;
mod watchdog;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::analyse::Analyser;
use crate::config::{Config, ConfigError, callers, open_to_others};
use crate::receive::Receiver;
use crate::store::Store;
use crate::web;
use crate::wire::Tls;

use read::Headers;
use reload::Reload;
use watchdog::{Loop, Manager, Pulse};

/// How long the loops wait without a wake-up: what another process changed is seen within this.
const IDLE: Duration = Duration::from_secs(1);
/// While models are loaded the service manager is told that it takes so much longer.
const START_TOLD: Duration = Duration::from_secs(30);
/// Claims of work; lifted early by whoever finishes it, prolonged by whoever takes longer, and lifted at every start.
const LEASE: Duration = Duration::from_secs(600);
/// An instance or study that was tried this often without an end is given up with a visible outcome.
const ATTEMPTS_MAX: u32 = 3;
/// An object or study that was worked on each time the node died is given up after so many deaths.
const INTERRUPTIONS_MAX: u32 = 50;

/// What reaches the node from outside while it runs.
pub struct Control {
    /// Ends it, after a drain.
    pub cancel: CancellationToken,
    /// Each message asks it to load its configuration again.
    pub reloads: mpsc::Receiver<()>,
    /// Loads the configuration, as at start.
    pub load: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Sets the filter of the log.
    pub filter_logs: Box<dyn Fn(&str) + Send + Sync>,
}

/// What all loops share.
struct Node {
    /// Replaced by a reload; whoever works keeps what it began with.
    config: RwLock<Arc<Config>>,
    tls: Arc<Tls>,
    store: Store,
    analyser: Analyser,
    /// In MiB, of what explains.
    maps_room: Arc<Semaphore>,
    cancel: CancellationToken,
    /// Set by the first fault that the node cannot work on with; it stops then, and a restart continues.
    broken: AtomicBool,
    pulse: Pulse,
    /// Objects wait for their turn to be read.
    backlog: Notify,
    headers: Headers,
    /// Studies whose images are to be changed and scored again.
    sampled: mpsc::Sender<evidence::Sampled>,
}

/// Runs the node until it is cancelled. Ports are bound and models are warm before it reports itself ready; the web
/// server answers before, and says so.
pub async fn run(config: Config, executable: PathBuf, control: Control) -> anyhow::Result<()> {
    let Control { cancel, reloads, load, filter_logs } = control;
    let manager = Arc::new(Manager::from_environment());
    for (key, path) in config.secret_files() {
        if let Some(remark) = open_to_others(&path) {
            warn!(key, "a file with a secret: {remark}");
        }
    }
    let store = Store::open(&config.store).await?;
    let archives = config.archives();
    let (tls_settings, callers) = (config.tls.clone(), callers(&config.sources, &archives));
    let tls = tokio::task::spawn_blocking(move || Tls::load(&tls_settings, &callers)).await??;
    let receiver = Receiver::bind(&config.node, &config.sources, &archives, &tls).await?;
    let (dicom, dicom_tls) = (receiver.local_addr()?, receiver.local_addr_tls()?);
    let told = Arc::new(web::Told::default());
    let web = web::bind(&config, &tls, store.clone(), Arc::clone(&told)).await?;
    let tasks = TaskTracker::new();
    let web_address = web.as_ref().and_then(web::Server::address);
    let web_tls_address = web.as_ref().and_then(web::Server::address_tls);
    let web_gate = web.as_ref().map(web::Server::doors);
    if let Some(server) = web {
        tasks.spawn(server.run(cancel.clone()));
    }
    let (models, device_uid) = (config.clone(), store.device_uid().clone());
    let analyser = tokio::task::spawn_blocking(move || Analyser::start(&models, executable, device_uid));
    let Some(analyser) = started(analyser, &cancel, &manager).await? else {
        info!("stopped before the models were loaded");
        tasks.close();
        tasks.wait().await;
        store.close().await;
        return Ok(());
    };
    let shown = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |a| a.to_string());
    let (drain_timeout, ae_title, mode) = (config.node.drain_timeout, config.node.ae_title.clone(), config.node.mode);
    let (sampled, samples) = mpsc::channel(evidence::WAITING_MAX);
    let node = Arc::new(Node {
        config: RwLock::new(Arc::new(config)),
        tls,
        store: store.clone(),
        analyser,
        maps_room: Arc::new(Semaphore::new(explain::MAPS_MIB_MAX as usize)),
        cancel: cancel.clone(),
        broken: AtomicBool::new(false),
        pulse: Pulse::default(),
        backlog: Notify::new(),
        headers: Headers::default(),
        sampled,
    });
    let (gate, manager_told) = (receiver.gate(), Arc::clone(&manager));
    let reload = Reload { requests: reloads, load, filter_logs, gate, web_gate, manager: manager_told };
    tasks.spawn(Arc::clone(&node).supervise("reading", Arc::clone(&node).read_loop()));
    tasks.spawn(Arc::clone(&node).supervise("asking for studies", Arc::clone(&node).naming_loop()));
    tasks.spawn(Arc::clone(&node).supervise("closing", Arc::clone(&node).close_loop()));
    tasks.spawn(Arc::clone(&node).supervise("delivering", Arc::clone(&node).deliver_loop()));
    tasks.spawn(Arc::clone(&node).supervise("reporting commitments", Arc::clone(&node).commitment_loop()));
    tasks.spawn(Arc::clone(&node).supervise("asking for commitments", Arc::clone(&node).confirmation_loop()));
    tasks.spawn(Arc::clone(&node).supervise("refitting", Arc::clone(&node).refit_loop()));
    tasks.spawn(Arc::clone(&node).supervise("collecting evidence", Arc::clone(&node).evidence_loop(samples)));
    tasks.spawn(Arc::clone(&node).supervise("retention", Arc::clone(&node).retention_loop()));
    tasks.spawn(Arc::clone(&node).supervise("reloading", Arc::clone(&node).reload_loop(reload)));
    tasks.spawn(Arc::clone(&node).supervise("the watchdog", Arc::clone(&node).watch(Arc::clone(&manager))));
    tasks.spawn(Arc::clone(&node).watch_disk());
    *told.packages.lock().unwrap_or_else(PoisonError::into_inner) = node.analyser.packages().to_vec();
    node.tell(&told);
    told.ready.store(true, Ordering::Relaxed);
    tasks.spawn(Arc::clone(&node).watch_inference(Arc::clone(&told)));
    info!(
        dicom = %shown(dicom),
        dicom_tls = %shown(dicom_tls),
        web = %shown(web_address),
        web_tls = %shown(web_tls_address),
        %ae_title,
        device = node.analyser.device(),
        ?mode,
        "ready"
    );
    manager.tell("READY=1");

    let stopping = async {
        cancel.cancelled().await;
        told.ready.store(false, Ordering::Relaxed);
        manager.tell("STOPPING=1");
        tokio::time::Instant::now()
    };
    let (drained, stopped_at) = tokio::join!(receiver.run(store.clone(), cancel.clone()), stopping);
    info!(?drained, "no longer receiving");
    tasks.close();
    // One deadline for both: an orchestrator waits so long and no longer.
    if tokio::time::timeout_at(stopped_at + drain_timeout, tasks.wait()).await.is_err() {
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

/// The analyser, once its models are loaded; `None` if the node is cancelled before. The service manager hears meanwhile
/// that it takes longer.
async fn started(
    mut loading: JoinHandle<anyhow::Result<Analyser>>,
    cancel: &CancellationToken,
    manager: &Manager,
) -> anyhow::Result<Option<Analyser>> {
    let mut ticks = tokio::time::interval(START_TOLD / 2);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                manager.tell("STOPPING=1");
                return Ok(None);
            }
            analyser = &mut loading => return analyser.context("loading the models ended early")?.map(Some),
            _ = ticks.tick() => manager.tell(&format!("EXTEND_TIMEOUT_USEC={}", START_TOLD.as_micros())),
        }
    }
}

impl Node {
    /// The configuration as it stands.
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs a loop; one that ends before the node does stops the node, so that nobody takes it for ready.
    async fn supervise(self: Arc<Self>, doing: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let ended = tokio::spawn(work).await;
        if !self.cancel.is_cancelled() {
            let cause = ended.err().map_or_else(|| "it returned".to_owned(), |e| e.to_string());
            self.give_up(&format!("{doing} ended: {cause}"));
        }
    }

    /// A disk that lost what it was told to keep ends the node; the next start looks at what is there.
    async fn watch_disk(self: Arc<Self>) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            cause = self.store.distrusted() => self.give_up(&format!("the disk is not to be believed: {cause}")),
        }
    }

    /// Without inference nothing is ready: whoever asks hears it before the next image would find out.
    async fn watch_inference(self: Arc<Self>, told: Arc<web::Told>) {
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return told.ready.store(false, Ordering::Relaxed),
                () = self.analyser.ended() => return self.give_up("inference ended; see the log for the device"),
                () = tokio::time::sleep(IDLE) => {}
            }
            let is_sound = self.analyser.is_sound();
            self.tell(&told);
            if told.ready.swap(is_sound, Ordering::Relaxed) && !is_sound {
                warn!("not ready: a device had no memory for one image; it is tried again and again");
            }
        }
    }

    /// What changes while the node runs, for metrics and pages.
    fn tell(&self, told: &web::Told) {
        *told.models.lock().unwrap_or_else(PoisonError::into_inner) = self.analyser.states();
        *told.profile.lock().unwrap_or_else(PoisonError::into_inner) = self.analyser.profile();
    }

    /// Stops the node: it cannot work on, and must not pretend to.
    fn give_up(&self, cause: &str) {
        error!(cause, "the node stops; a restart continues where it stood");
        self.broken.store(true, Ordering::Relaxed);
        self.cancel.cancel();
    }

    /// A permit, or nothing once the node is stopping. Waiting for one is no standstill of the loop.
    async fn permit(&self, permits: &Arc<Semaphore>, of: Loop) -> Option<tokio::sync::OwnedSemaphorePermit> {
        loop {
            self.pulse.beat(of);
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return None,
                permit = Arc::clone(permits).acquire_owned() => return permit.ok(),
                () = tokio::time::sleep(IDLE) => {}
            }
        }
    }

    /// Waits for a wake-up, the time limit or the end.
    async fn pause(&self, wake: &Notify, limit: Duration) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = wake.notified() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    async fn trouble(&self, doing: &str, error: &(dyn std::fmt::Display + Sync)) {
        error!(%error, "{doing} failed; it will be tried again");
        self.pause(&Notify::new(), IDLE).await;
    }
}
