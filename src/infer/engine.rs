//! The engine: a thread for each device owns all models there; one queue feeds them, answers come through oneshots.
//!
//! Requests wait in a bounded queue (a permit each, so callers wait, memory does not grow), from which every device
//! takes batches (`queue`, `worker`). It has started once every model on every device scored an image that came through
//! that queue; if a thread ends before it is told to, all of it has ended. Neighbours: `precision` and `torch` below;
//! `analyse` calls [`Engine::score`]. Left out: retries, scores' storage.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config;
use crate::domain::{ModelInput, Precision};

use super::device;
use super::error::{EngineError, InferError};
use super::explain::ExplainError;
use super::limit::BatchLimit;
use super::manifest::Package;
use super::queue::{MapRequest, Queue, Reply, Request, Urgency};
use super::torch::LoadedModel;
use super::worker::{Counters, End, Worker};
use super::{precision, probe, script};

/// How the engine runs.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub devices: Vec<config::Device>,
    pub precision: config::PrecisionChoice,
    /// Images per batch; 0: as many as each model is fastest with.
    pub batch_max: usize,
    /// How long an input waits for company.
    pub batch_delay: Duration,
    /// Intra-op threads of libtorch; 0: as many as there are cores.
    pub threads: usize,
    /// The same input gets the same answer to the last bit: batches of one, the slower algorithms where they differ.
    pub deterministic: bool,
}

/// What the engine has done since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    pub batches: u64,
    /// Inputs that were answered, with a score or an error.
    pub inputs: u64,
    /// Inputs that were answered with an error.
    pub errors: u64,
}

/// How a model runs on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Name of the package.
    pub model: String,
    /// `cpu` or `cuda:0`.
    pub device: String,
    pub precision: Precision,
    /// Images per batch, as long as there is memory.
    pub batch_max: usize,
}

/// Handle to the inference threads; clones share it. The threads end when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    permits: Arc<Semaphore>,
    /// Of what explains scores, so that it takes no place from them.
    explaining: Arc<Semaphore>,
    models: HashMap<String, usize>,
    counters: Arc<Counters>,
    devices: String,
    placements: Vec<Placement>,
    ended: CancellationToken,
}

impl Default for EngineOptions {
    /// For one image after another: on the CPU, in fp32.
    fn default() -> Self {
        Self {
            devices: vec![config::Device::Cpu],
            precision: config::PrecisionChoice::Named(Precision::Fp32),
            batch_max: 1,
            batch_delay: Duration::ZERO,
            threads: 1,
            deterministic: false,
        }
    }
}

impl From<&config::Models> for EngineOptions {
    fn from(models: &config::Models) -> Self {
        Self {
            devices: models.devices.clone(),
            precision: models.precision,
            batch_max: models.batch_max,
            batch_delay: models.batch_delay,
            threads: models.threads,
            deterministic: models.deterministic,
        }
    }
}

impl Engine {
    /// Loads the packages onto each device, in the precision and batch size that fit them, and has each of them score an
    /// image. Blocks until all are ready or one is not.
    pub fn start(packages: Vec<Package>, options: EngineOptions) -> Result<Self, EngineError> {
        let choice = options.precision;
        let load = {
            let packages = packages.clone();
            move |device| packages.iter().map(|p| precision::load(p, device, choice)).collect()
        };
        Self::with(&packages, options, Arc::new(load))
    }

    fn with(packages: &[Package], options: EngineOptions, load: Arc<Load>) -> Result<Self, EngineError> {
        let devices = device::resolve_all(&options.devices)?;
        let handle = Handle {
            queue: Arc::new(Queue::new(packages.len(), options.batch_delay)),
            threads: Mutex::default(),
            permits: Arc::new(Semaphore::new(0)),
            explaining: Arc::new(Semaphore::new(0)),
            models: packages.iter().enumerate().map(|(i, p)| (p.key(), i)).collect(),
            counters: Arc::default(),
            devices: devices.iter().map(|d| device::device_name(*d)).collect::<Vec<_>>().join(","),
            placements: Vec::new(),
            ended: CancellationToken::new(),
        };
        let (sender, ready) = mpsc::channel();
        for (index, device) in devices.iter().enumerate() {
            handle.spawn(index, *device, &options, &load, sender.clone())?;
        }
        drop(sender);
        let mut handle = handle;
        for _ in &devices {
            let placements = ready.recv().unwrap_or_else(|_| Err(ended_early()))?;
            handle.placements.extend(placements);
        }
        handle.rehearse(packages, devices.len())?;
        for Placement { model, device, precision, batch_max } in &handle.placements {
            info!(model, device, precision = precision.as_str(), batch_max, "a model is ready");
        }
        // Enough for two batches per device, one that is computed and one that is next, and one in the making for each
        // model.
        let batch_max = handle.placements.iter().map(|p| p.batch_max).max().unwrap_or(1);
        handle.permits.add_permits(batch_max * (2 * devices.len() + packages.len()));
        handle.explaining.add_permits(batch_max * (1 + devices.len()));
        Ok(Self(Arc::new(handle)))
    }

    /// Scores one image. `model` is [`crate::domain::ModelIdentity::key`]. Probabilities come back in the order of
    /// the card's labels. Waits while the queue is full; cancel-safe.
    pub async fn score(&self, model: &str, input: ModelInput) -> Result<Vec<f64>, InferError> {
        self.score_as(model, input, Urgency::Score).await
    }

    /// As [`Engine::score`], for an image that explains the score of another: only while nobody waits for a score.
    pub async fn score_covered(&self, model: &str, input: ModelInput) -> Result<Vec<f64>, InferError> {
        self.score_as(model, input, Urgency::Explanation).await
    }

    async fn score_as(&self, model: &str, input: ModelInput, urgency: Urgency) -> Result<Vec<f64>, InferError> {
        let model = self.model(model)?;
        let permits = if urgency == Urgency::Score { &self.0.permits } else { &self.0.explaining };
        let permit = Arc::clone(permits).acquire_owned().await.map_err(|_| InferError::Stopped)?;
        let (sender, waiting) = oneshot::channel();
        self.0.queue.push(Request { model, input, reply: Reply::Caller { sender, _permit: permit } }, urgency)?;
        waiting.await.unwrap_or(Err(InferError::Stopped))
    }

    /// Grad-CAM of one image, only while nobody waits for a score: a map for each finding in the order of the card, or
    /// one for all groups of a race model; side × side values, row by row, the largest of them 1. None where nothing in
    /// the image speaks for the finding.
    pub async fn grad_cam(&self, model: &str, input: ModelInput) -> Result<Vec<Option<Vec<f32>>>, ExplainError> {
        let model = self.model(model)?;
        let permit = Arc::clone(&self.0.explaining).acquire_owned().await.map_err(|_| InferError::Stopped)?;
        let (sender, waiting) = oneshot::channel();
        self.0.queue.push_map(MapRequest { model, input, sender, _permit: permit })?;
        waiting.await.unwrap_or(Err(ExplainError::Failed(InferError::Stopped)))
    }

    fn model(&self, key: &str) -> Result<usize, InferError> {
        self.0.models.get(key).copied().ok_or_else(|| InferError::UnknownModel(key.to_owned()))
    }

    /// `cpu`, `cuda:0` or `cuda:0,cuda:1`.
    pub fn device(&self) -> &str {
        &self.0.devices
    }

    /// Each model on each device, with the precision that its scores are computed in.
    pub fn placements(&self) -> &[Placement] {
        &self.0.placements
    }

    /// Resolves when a thread has ended, a device was lost for instance: no input is scored any more.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    pub fn stats(&self) -> EngineStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        EngineStats { batches: get(&counters.batches), inputs: get(&counters.inputs), errors: get(&counters.errors) }
    }
}

/// Loads all models onto a device, in order.
type Load = dyn Fn(tch::Device) -> Result<Vec<LoadedModel>, EngineError> + Send + Sync;

impl Handle {
    /// Starts the thread of a device; it says how its models run, or what is wrong with them, and begins to work.
    fn spawn(
        &self,
        index: usize,
        device: tch::Device,
        options: &EngineOptions,
        load: &Arc<Load>,
        ready: mpsc::Sender<Result<Vec<Placement>, EngineError>>,
    ) -> Result<(), EngineError> {
        let (options, load) = (options.clone(), Arc::clone(load));
        let (queue, counters, ended) = (Arc::clone(&self.queue), Arc::clone(&self.counters), self.ended.clone());
        let thread = std::thread::Builder::new()
            .name(format!("infer {}", device::device_name(device)))
            .spawn(move || {
                let end = End { queue, ended };
                match prepare(device, &options, &*load) {
                    Ok((models, limits, placements)) => {
                        // A caller that is gone by now has closed the queue too, so the loop ends at once.
                        let _ = ready.send(Ok(placements));
                        let deterministic = options.deterministic;
                        Worker { device: index, models, limits, deterministic, counters, end }.run();
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })
            .map_err(|e| EngineError::Thread(e.to_string()))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Has each model on each device score an image, by the road that requests take.
    fn rehearse(&self, packages: &[Package], devices: usize) -> Result<(), EngineError> {
        for device in 0..devices {
            for (model, package) in packages.iter().enumerate() {
                let (sender, answer) = mpsc::channel();
                let input = probe::input(&package.contract, 2);
                let request = Request { model, input, reply: Reply::Start { device, sender } };
                let sent = self.queue.push(request, Urgency::Score).map_err(|_| ended_early());
                let answer = sent.and_then(|()| answer.recv().map_err(|_| ended_early()))?;
                answer
                    .map_err(|e| EngineError::WarmUp { model: package.identity.name.clone(), reason: e.to_string() })?;
            }
        }
        // What requests come to is counted from here.
        for counter in [&self.counters.batches, &self.counters.inputs, &self.counters.errors] {
            counter.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for Handle {
    /// Lets the threads finish their batches: libtorch must not be torn down under them.
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

type Prepared = (Vec<LoadedModel>, Vec<BatchLimit>, Vec<Placement>);

/// On the thread of the device, since libtorch keeps these settings by thread.
fn prepare(device: tch::Device, options: &EngineOptions, load: &Load) -> Result<Prepared, EngineError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { cores } else { options.threads };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    // Without this the first calls of every new batch size would be profiled and recompiled, for seconds.
    tch::jit::set_graph_executor_optimize(false);
    tch::manual_seed(0);
    script::set_deterministic(options.deterministic);
    let models = load(device)?;
    let mut placements = Vec::new();
    for model in &models {
        let batch_max = if options.deterministic { 1 } else { precision::batch_max(model, options.batch_max)? };
        placements.push(Placement {
            model: model.package().identity.name.clone(),
            device: device::device_name(device),
            precision: model.precision(),
            batch_max,
        });
    }
    let limits = placements.iter().map(|p| BatchLimit::new(p.batch_max)).collect();
    Ok((models, limits, placements))
}

fn ended_early() -> EngineError {
    EngineError::Thread("it ended while models were loaded".to_owned())
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
