//! The engine: a thread for each device owns all models there; one queue feeds them, answers come through oneshots.
//!
//! Requests wait in a bounded queue (a permit of their model each, so callers wait, memory does not grow), from which
//! every device takes batches (`queue`, `worker`). It has started once every model on every device scored an image that
//! came through that queue; if a thread ends before it is told to, all of it has ended. Neighbours: `precision` and
//! `torch` below; `analyse` calls [`Engine::submit`]. Left out: retries, scores' storage.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config;
use crate::domain::{ModelInput, Precision};

use super::device;
use super::error::{EngineError, InferError};
use super::explain::ExplainError;
use super::limit::BatchLimit;
use super::manifest::Package;
use super::queue::{self, Answer, Coming, Company, MapRequest, Queue, Reply, Request, Urgency};
use super::torch::{self, LoadedModel};
use super::watch::Watch;
use super::worker::{Counters, End, Worker};
use super::{pool, precision, probe, script};

/// Any batch may take so long; one that took longer at the start, more.
const BATCH_LIMIT: Duration = Duration::from_secs(60);
/// Loading, trying out and measuring all models on a device may take so long.
pub(super) const START_LIMIT: Duration = Duration::from_secs(900);
/// How long a thread is waited for whose device may be lost.
const LEFT_AFTER: Duration = Duration::from_secs(10);

/// How the engine runs.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub devices: Vec<config::Device>,
    pub precision: config::PrecisionChoice,
    /// Images per batch; 0: as many as each model is fastest with.
    pub batch_max: usize,
    /// How long an input waits for company that has been announced.
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

/// An image that is being scored. Nobody waits for one that was dropped.
#[derive(Debug)]
pub struct Scoring {
    waiting: oneshot::Receiver<Answer>,
    ended: CancellationToken,
}

impl Scoring {
    /// Probabilities in the order of the card's labels.
    pub async fn answer(self) -> Result<Vec<f64>, InferError> {
        queue::answered(self.waiting, &self.ended).await.unwrap_or(Err(InferError::Stopped))
    }
}

/// How a model does on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelState {
    /// Name of the package.
    pub model: String,
    pub device: String,
    /// Images per batch, as memory allows now.
    pub batch_images: usize,
    /// False where there was no memory for one image.
    pub is_sound: bool,
}

/// Handle to the inference threads; clones share it. The threads end when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// By model: how many of its inputs may wait or be under way.
    permits: Vec<Arc<Semaphore>>,
    images_max: usize,
    /// Of what explains scores, so that it takes no place from them.
    explaining: Arc<Semaphore>,
    models: HashMap<String, usize>,
    counters: Arc<Counters>,
    devices: String,
    placements: Vec<Placement>,
    ended: CancellationToken,
    watch: Arc<Watch>,
    /// The thread that looks at the clock ends when it is dropped.
    alive: Option<mpsc::Sender<()>>,
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
        let read = |package: &Package| Ok((package.clone(), torch::read_script(package)?, Mutex::new(None)));
        let read_all = || packages.iter().map(read).collect::<Result<Vec<_>, EngineError>>();
        // On a thread that ends with its OpenMP threads: with more of these than cores, all sleep between operations.
        let scripts = std::thread::scope(|scope| scope.spawn(read_all).join());
        let scripts = scripts.map_err(|_| EngineError::Thread("it ended while networks were read".to_owned()))??;
        let load = move |device| {
            let load = |(package, script, chosen): &(Package, Vec<u8>, Mutex<Option<Precision>>)| {
                if choice != config::PrecisionChoice::Fastest {
                    return precision::load(package, script, device, choice);
                }
                // The first device chooses: an image's score must not depend on the device that was free.
                let mut chosen = chosen.lock().unwrap_or_else(PoisonError::into_inner);
                let choice = chosen.map_or(choice, config::PrecisionChoice::Named);
                let model = precision::load(package, script, device, choice)?;
                *chosen = Some(model.precision());
                Ok(model)
            };
            scripts.iter().map(load).collect()
        };
        Self::with(&packages, options, BATCH_LIMIT, Arc::new(load))
    }

    /// `least`: how long any batch may take.
    fn with(
        packages: &[Package],
        options: EngineOptions,
        least: Duration,
        load: Arc<Load>,
    ) -> Result<Self, EngineError> {
        let devices = device::resolve_all(&options.devices)?;
        if options.deterministic {
            device::can_be_deterministic(&devices, std::env::var("CUBLAS_WORKSPACE_CONFIG").ok().as_deref())?;
        }
        let handle = Handle {
            queue: Arc::new(Queue::new(packages.len(), options.batch_delay)),
            threads: Mutex::default(),
            permits: Vec::new(),
            images_max: 0,
            explaining: Arc::new(Semaphore::new(0)),
            models: packages.iter().enumerate().map(|(i, p)| (p.key(), i)).collect(),
            counters: Arc::default(),
            devices: devices.iter().map(|d| device::device_name(*d)).collect::<Vec<_>>().join(","),
            placements: Vec::new(),
            ended: CancellationToken::new(),
            watch: Arc::new(Watch::new(devices.len(), packages.len(), least)),
            alive: None,
        };
        let (sender, ready) = mpsc::channel();
        for (index, device) in devices.iter().enumerate() {
            handle.spawn(index, *device, &options, &load, sender.clone())?;
        }
        drop(sender);
        let mut handle = handle;
        let mut by_device = BTreeMap::new();
        for _ in &devices {
            let (device, placements) = handle.in_time(&ready)??;
            by_device.insert(device, placements);
        }
        handle.placements = by_device.into_values().flatten().collect();
        handle.watch(packages)?;
        handle.rehearse(packages, devices.len())?;
        pool::clear(); // several copies of each network were tried out
        for Placement { model, device, precision, batch_max } in &handle.placements {
            info!(model, device, precision = precision.as_str(), batch_max, "a model is ready");
        }
        // A batch under way on each device, and the next one. Each model has its own, so that a slow one fills no queue
        // but its own.
        for package in packages {
            let own = handle.placements.iter().filter(|p| p.model == package.identity.name);
            let images = own.map(|p| p.batch_max).max().unwrap_or(1) * (devices.len() + 1);
            handle.permits.push(Arc::new(Semaphore::new(images)));
            handle.images_max = handle.images_max.max(images);
        }
        handle.explaining.add_permits(handle.images_max);
        Ok(Self(Arc::new(handle)))
    }

    /// Says that an image is being prepared, until what comes back is dropped: batches that are not full wait for it,
    /// for [`EngineOptions::batch_delay`] at most.
    pub fn announce(&self) -> Coming {
        Queue::announce(&self.0.queue)
    }

    /// Takes one image to be scored. `model` is [`crate::domain::ModelIdentity::key`]. Waits while the model's queue is
    /// full; cancel-safe. What has no company and fails, fails with an error of its own, even if the device is lost at it.
    pub async fn submit(&self, model: &str, input: ModelInput, company: Company) -> Result<Scoring, InferError> {
        let model = self.model(model)?;
        self.submit_as(model, input, company, Urgency::Score, &self.0.permits[model]).await
    }

    async fn submit_as(
        &self,
        model: usize,
        input: ModelInput,
        company: Company,
        urgency: Urgency,
        permits: &Arc<Semaphore>,
    ) -> Result<Scoring, InferError> {
        let permit = Arc::clone(permits).acquire_owned().await.map_err(|_| InferError::Stopped)?;
        let (sender, waiting) = oneshot::channel();
        self.0
            .queue
            .push(Request { model, input, company, reply: Reply::Caller { sender, _permit: permit } }, urgency)?;
        Ok(Scoring { waiting, ended: self.0.ended.clone() })
    }

    /// Scores one image, from [`Engine::submit`] to its answer.
    pub async fn score(&self, model: &str, input: ModelInput) -> Result<Vec<f64>, InferError> {
        self.submit(model, input, Company::Any).await?.answer().await
    }

    /// As [`Engine::score`], for an image that explains the score of another: only while nobody waits for a score.
    pub async fn score_covered(&self, model: &str, input: ModelInput) -> Result<Vec<f64>, InferError> {
        let model = self.model(model)?;
        let scoring = self.submit_as(model, input, Company::Any, Urgency::Explanation, &self.0.explaining).await?;
        scoring.answer().await
    }

    /// Scores images on one device, together as far as it takes as many. Blocks; no permit is needed.
    pub(super) fn score_on(
        &self,
        device: usize,
        model: &str,
        inputs: Vec<ModelInput>,
    ) -> Result<Vec<Vec<f64>>, InferError> {
        let model = self.model(model)?;
        let coming = self.announce();
        let mut answers = Vec::new();
        for input in inputs {
            let (sender, answer) = mpsc::channel();
            let reply = Reply::Start { device, sender };
            self.0.queue.push(Request { model, input, company: Company::Any, reply }, Urgency::Score)?;
            answers.push(answer);
        }
        drop(coming);
        answers.into_iter().map(|answer| answer.recv().unwrap_or(Err(InferError::Stopped))).collect()
    }

    /// How many images may wait or be under way for a model: those of one that has most room.
    pub fn images_max(&self) -> usize {
        self.0.images_max
    }

    /// Grad-CAM of one image, only while nobody waits for a score: a map for each finding in the order of the card, or
    /// one for all groups of a race model; side × side values, row by row, the largest of them 1. None where nothing in
    /// the image speaks for the finding.
    pub async fn grad_cam(&self, model: &str, input: ModelInput) -> Result<Vec<Option<Vec<f32>>>, ExplainError> {
        let model = self.model(model)?;
        let permit = Arc::clone(&self.0.explaining).acquire_owned().await.map_err(|_| InferError::Stopped)?;
        let (sender, waiting) = oneshot::channel();
        self.0.queue.push_map(MapRequest { model, input, sender, _permit: permit })?;
        let maps = queue::answered(waiting, &self.0.ended).await;
        maps.unwrap_or(Err(ExplainError::Failed(InferError::Stopped)))
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

    /// How each model does on each device.
    pub fn states(&self) -> Vec<ModelState> {
        let Handle { models, watch, placements, .. } = &*self.0;
        let state = |(i, Placement { model, device, .. }): (usize, &Placement)| {
            let (at, of) = (i / models.len().max(1), i % models.len().max(1));
            ModelState {
                model: model.clone(),
                device: device.clone(),
                batch_images: watch.limit(at, of),
                is_sound: !watch.doubted().any(|doubted| doubted == (at, of)),
            }
        };
        placements.iter().enumerate().map(state).collect()
    }

    /// False while a device has no memory for one image.
    pub fn is_sound(&self) -> bool {
        self.0.watch.doubted().next().is_none()
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
        ready: mpsc::Sender<Result<(usize, Vec<Placement>), EngineError>>,
    ) -> Result<(), EngineError> {
        let (options, load) = (options.clone(), Arc::clone(load));
        let (queue, counters, ended) = (Arc::clone(&self.queue), Arc::clone(&self.counters), self.ended.clone());
        let watch = Arc::clone(&self.watch);
        let thread = std::thread::Builder::new()
            .name(format!("infer {}", device::device_name(device)))
            .spawn(move || {
                let end = End { queue, ended };
                let prepared = prepare(device, &options, &*load);
                // With the bytes of every network's file.
                drop(load);
                match prepared {
                    Ok((models, took, placements)) => {
                        let limits = placements.iter().map(|p| BatchLimit::new(p.batch_max)).collect();
                        // A caller that is gone by now has closed the queue too, so the loop ends at once.
                        let _ = ready.send(Ok((index, placements)));
                        let deterministic = options.deterministic;
                        Worker { device: index, models, limits, took, watch, deterministic, counters, end }.run();
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
                let input = probe::input(&package.contract, probe::REHEARSED);
                let reply = Reply::Start { device, sender };
                let request = Request { model, input, company: Company::Any, reply };
                let sent = self.queue.push(request, Urgency::Score).map_err(|_| ended_early());
                let answer = sent.and_then(|()| self.in_time(&answer))?;
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

    /// What a device's thread says at the start.
    fn in_time<T>(&self, said: &mpsc::Receiver<T>) -> Result<T, EngineError> {
        said.recv_timeout(START_LIMIT).map_err(|error| {
            self.ended.cancel();
            let minutes = START_LIMIT.as_secs() / 60;
            match error {
                mpsc::RecvTimeoutError::Disconnected => ended_early(),
                mpsc::RecvTimeoutError::Timeout => EngineError::Thread(format!(
                    "a device did not come back within {minutes} minutes; look whether its driver is sound"
                )),
            }
        })
    }

    /// Starts the thread that looks at the clock.
    fn watch(&mut self, packages: &[Package]) -> Result<(), EngineError> {
        let contracts: Vec<_> = packages.iter().map(|p| p.contract.clone()).collect();
        let (watch, queue, ended) = (Arc::clone(&self.watch), Arc::clone(&self.queue), self.ended.clone());
        let (alive, is_alive) = mpsc::channel();
        let run = move || watch.run(&queue, &contracts, &ended, &is_alive);
        let thread = std::thread::Builder::new().name("infer watch".to_owned()).spawn(run);
        thread.map_err(|e| EngineError::Thread(e.to_string()))?;
        self.alive = Some(alive);
        Ok(())
    }
}

impl Drop for Handle {
    /// Lets the threads finish their batches: libtorch must not be torn down under them. One that does not come back is
    /// left behind.
    fn drop(&mut self) {
        self.queue.close();
        let until = Instant::now() + if self.ended.is_cancelled() { LEFT_AFTER } else { BATCH_LIMIT };
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                error!("an inference thread does not end; it is left behind");
            }
        }
    }
}

/// Models, what the largest batch of each takes, and how they run.
type Prepared = (Vec<LoadedModel>, Vec<Duration>, Vec<Placement>);

/// On the thread of the device, since libtorch keeps these settings by thread.
fn prepare(device: tch::Device, options: &EngineOptions, load: &Load) -> Result<Prepared, EngineError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { cores } else { options.threads };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    // Without this the first calls of every new batch size would be profiled and recompiled, for seconds.
    tch::jit::set_graph_executor_optimize(false);
    pool::keep_memory();
    tch::manual_seed(0);
    script::set_deterministic(options.deterministic);
    let models = load(device)?;
    let (mut placements, mut took) = (Vec::new(), Vec::new());
    for model in &models {
        let given = if options.deterministic { 1 } else { options.batch_max };
        let (batch_max, seconds) = precision::batch_max(model, given)?;
        took.push(seconds);
        placements.push(Placement {
            model: model.package().identity.name.clone(),
            device: device::device_name(device),
            precision: model.precision(),
            batch_max,
        });
    }
    Ok((models, took, placements))
}

fn ended_early() -> EngineError {
    EngineError::Thread("it ended while models were loaded".to_owned())
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
