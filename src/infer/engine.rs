//! The engine: one OS thread owns the device and every model, batches what waits, and answers through oneshots.
//!
//! Requests wait in a bounded queue (a permit each, so callers wait, memory does not grow). A batch holds inputs of
//! one model; it leaves when it is full or when its oldest input has waited for the configured delay. If a batch
//! fails, its inputs are run one by one, so that one bad study never blocks another. Neighbours: `torch` below;
//! `analyse` calls [`Engine::score`]. Left out: retries, scores' storage.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::config;
use crate::domain::ModelInput;

use super::device;
use super::error::{EngineError, InferError};
use super::manifest::Package;
use super::torch::LoadedModel;

/// How the engine runs.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    pub device: config::Device,
    /// Images per batch, at least 1.
    pub batch_max: usize,
    /// How long an input waits for company.
    pub batch_delay: Duration,
    /// Intra-op threads of libtorch; 0: as many as there are cores.
    pub threads: usize,
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

/// Handle to the inference thread; clones share it. The thread ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    sender: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    permits: Arc<Semaphore>,
    models: HashMap<String, usize>,
    counters: Arc<Counters>,
    device: String,
}

#[derive(Debug, Default)]
struct Counters {
    batches: AtomicU64,
    inputs: AtomicU64,
    errors: AtomicU64,
}

struct Request {
    model: usize,
    input: ModelInput,
    arrived: Instant,
    answer: oneshot::Sender<Result<Vec<f64>, InferError>>,
    /// Given back when the request is answered or dropped.
    _permit: OwnedSemaphorePermit,
}

impl From<&config::Models> for EngineOptions {
    fn from(models: &config::Models) -> Self {
        Self {
            device: models.device,
            batch_max: models.batch_max,
            batch_delay: models.batch_delay,
            threads: models.threads,
        }
    }
}

impl Engine {
    /// Loads the packages onto the device and warms each up. Blocks until all are ready or one is not.
    pub fn start(packages: Vec<Package>, options: EngineOptions) -> Result<Self, EngineError> {
        let models = packages.iter().enumerate().map(|(i, p)| (p.key(), i)).collect();
        let counters = Arc::new(Counters::default());
        let (sender, receiver) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let of_thread = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || match load(packages, options) {
                Ok((models, device)) => {
                    // A caller that is gone by now has dropped the queue too, so the loop ends at once.
                    let _ = ready_sender.send(Ok(device));
                    Worker { models, options, counters: of_thread }.run(&receiver);
                }
                Err(error) => {
                    let _ = ready_sender.send(Err(error));
                }
            })
            .map_err(|e| EngineError::Thread(e.to_string()))?;
        let device =
            ready.recv().unwrap_or_else(|_| Err(EngineError::Thread("it ended while loading models".to_owned())))?;
        // Enough for a batch in the making and one in the queue for each model.
        let queue_max = options.batch_max.max(1) * 4;
        Ok(Self(Arc::new(Handle {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            permits: Arc::new(Semaphore::new(queue_max)),
            models,
            counters,
            device,
        })))
    }

    /// Scores one image. `model` is [`crate::domain::ModelIdentity::key`]. Probabilities come back in the order of
    /// the card's labels. Waits while the queue is full; cancel-safe.
    pub async fn score(&self, model: &str, input: ModelInput) -> Result<Vec<f64>, InferError> {
        let index = *self.0.models.get(model).ok_or_else(|| InferError::UnknownModel(model.to_owned()))?;
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.map_err(|_| InferError::Stopped)?;
        let (answer, waiting) = oneshot::channel();
        let request = Request { model: index, input, arrived: Instant::now(), answer, _permit: permit };
        self.0.send(request)?;
        waiting.await.unwrap_or(Err(InferError::Stopped))
    }

    /// `cpu` or `cuda:0`.
    pub fn device(&self) -> &str {
        &self.0.device
    }

    pub fn stats(&self) -> EngineStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        EngineStats { batches: get(&counters.batches), inputs: get(&counters.inputs), errors: get(&counters.errors) }
    }
}

impl Handle {
    fn send(&self, request: Request) -> Result<(), InferError> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().ok_or(InferError::Stopped)?.send(request).map_err(|_| InferError::Stopped)
    }
}

impl Drop for Handle {
    /// Lets the thread finish its batch: libtorch must not be torn down under it.
    fn drop(&mut self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

fn load(packages: Vec<Package>, options: EngineOptions) -> Result<(Vec<LoadedModel>, String), EngineError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { cores } else { options.threads };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    // Without this the first calls of every new batch size would be profiled and recompiled, for seconds.
    tch::jit::set_graph_executor_optimize(false);
    let device = device::resolve(options.device)?;
    let mut models = Vec::new();
    for package in packages {
        let model = LoadedModel::load(package, device)?;
        model.warm_up()?;
        models.push(model);
    }
    Ok((models, device::device_name(device)))
}

/// What the inference thread owns.
struct Worker {
    models: Vec<LoadedModel>,
    options: EngineOptions,
    counters: Arc<Counters>,
}

impl Worker {
    fn run(&self, requests: &Receiver<Request>) {
        let mut waiting: Vec<VecDeque<Request>> = self.models.iter().map(|_| VecDeque::new()).collect();
        let mut open = true;
        while open || waiting.iter().any(|q| !q.is_empty()) {
            open = open && self.collect(requests, &mut waiting);
            if let Some(model) = self.due(&waiting, open) {
                let count = waiting[model].len().min(self.options.batch_max.max(1));
                let batch = waiting[model].drain(..count).collect();
                self.run_batch(&self.models[model], batch);
            }
        }
    }

    /// Takes what has arrived; waits for more as long as no batch is due. `false` when the queue is closed.
    fn collect(&self, requests: &Receiver<Request>, waiting: &mut [VecDeque<Request>]) -> bool {
        let oldest = waiting.iter().filter_map(|q| q.front()).map(|r| r.arrived).min();
        let first = match oldest {
            _ if self.due(waiting, true).is_some() => {
                requests.try_recv().map_err(|e| e == mpsc::TryRecvError::Disconnected)
            }
            None => requests.recv().map_err(|_| true),
            Some(arrived) => {
                let left = (arrived + self.options.batch_delay).saturating_duration_since(Instant::now());
                requests.recv_timeout(left).map_err(|e| e == RecvTimeoutError::Disconnected)
            }
        };
        match first {
            Ok(request) => {
                waiting[request.model].push_back(request);
                // The semaphore bounds how many there can be.
                requests.try_iter().for_each(|r| waiting[r.model].push_back(r));
                true
            }
            Err(closed) => !closed,
        }
    }

    /// The model whose batch is to run now: a full one, else the one that has waited longest and long enough.
    fn due(&self, waiting: &[VecDeque<Request>], open: bool) -> Option<usize> {
        let full = |q: &VecDeque<Request>| q.len() >= self.options.batch_max.max(1);
        let (model, oldest) =
            waiting.iter().enumerate().filter_map(|(i, q)| Some((i, q.front()?.arrived))).min_by_key(|(_, at)| *at)?;
        if !open || oldest.elapsed() >= self.options.batch_delay {
            return Some(model);
        }
        waiting.iter().position(full)
    }

    fn run_batch(&self, model: &LoadedModel, batch: Vec<Request>) {
        let mut runnable = Vec::new();
        for request in batch {
            if request.answer.is_closed() {
                continue;
            }
            match check_input(model, &request.input) {
                Ok(()) => runnable.push(request),
                Err(error) => self.answer(request, Err(error)),
            }
        }
        if runnable.is_empty() {
            return;
        }
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        let images: Vec<&[f32]> = runnable.iter().map(|r| r.input.values.as_slice()).collect();
        let answers = match model.forward(&images) {
            Ok(answers) => answers,
            Err(error) if images.len() == 1 => vec![Err(error)],
            Err(_) => images.iter().map(|i| model.forward(&[i]).and_then(|mut a| a.remove(0))).collect(),
        };
        for (request, answer) in runnable.into_iter().zip(answers) {
            self.answer(request, answer);
        }
    }

    fn answer(&self, request: Request, answer: Result<Vec<f64>, InferError>) {
        self.counters.inputs.fetch_add(1, Ordering::Relaxed);
        self.counters.errors.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
        // Whoever gave up waiting needs no answer.
        let _ = request.answer.send(answer);
    }
}

fn check_input(model: &LoadedModel, input: &ModelInput) -> Result<(), InferError> {
    let expected = model.package().contract.len();
    if input.contract != *model.contract() {
        return Err(InferError::WrongContract);
    }
    if input.values.len() != expected {
        return Err(InferError::WrongLength { given: input.values.len(), expected });
    }
    if input.values.iter().any(|v| !v.is_finite()) {
        return Err(InferError::InputNotFinite);
    }
    Ok(())
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
