//! One device: its thread owns the models on it, takes batches from the queue and answers them.
//!
//! A batch that fails is halved until what fails is one input, which alone has an error then; where memory was short
//! the smaller size is kept (`limit`). After an input failed alone the device shows with a fixed image that it still
//! computes; one that does not is lost, and with it the engine, since a broken CUDA context cannot be mended within its
//! process. Whose fault that was is known only of an input that had no company from the start. Neighbours: `queue`, `torch`. Left out: which devices, models and precisions (`engine`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::domain::ModelInput;

use super::engine::START_LIMIT;
use super::error::InferError;
use super::explain::ExplainError;
use super::limit::BatchLimit;
use super::probe;
use super::queue::{Company, MapRequest, Queue, Request, Work};
use super::torch::LoadedModel;
use super::watch::Watch;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) inputs: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// What the thread of a device owns.
pub(super) struct Worker {
    pub(super) device: usize,
    pub(super) models: Vec<LoadedModel>,
    pub(super) limits: Vec<BatchLimit>,
    /// What the largest batch of each model takes.
    pub(super) took: Vec<Duration>,
    pub(super) watch: Arc<Watch>,
    /// The generator of random numbers starts anew with each batch.
    pub(super) deterministic: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) end: End,
}

/// However a thread ends, nobody goes on waiting for it, and who watches the engine hears of it.
pub(super) struct End {
    pub(super) queue: Arc<Queue>,
    pub(super) ended: CancellationToken,
}

impl Drop for End {
    fn drop(&mut self) {
        self.queue.abandon();
        self.ended.cancel();
    }
}

/// The device computes no more.
struct Lost;

impl Worker {
    /// Until the queue is closed and empty, or the device is lost.
    pub(super) fn run(mut self) {
        let queue = Arc::clone(&self.end.queue);
        loop {
            let limits: Vec<usize> = self.limits.iter().map(BatchLimit::images).collect();
            limits.iter().enumerate().for_each(|(model, images)| self.watch.set_limit(self.device, model, *images));
            let done = match queue.take(self.device, &limits) {
                Some(Work::Scores(model, batch)) => self.run_batch(model, batch),
                Some(Work::Map(request)) => self.run_map(request),
                None => return,
            };
            if let Err(Lost) = done {
                return;
            }
        }
    }

    fn run_batch(&mut self, model: usize, batch: Vec<Request>) -> Result<(), Lost> {
        let mut runnable = Vec::new();
        for request in batch.into_iter().filter(|r| !r.reply.is_abandoned()) {
            match check_input(&self.models[model], &request.input) {
                Ok(()) => runnable.push(request),
                Err(error) => self.answer(request, Err(error)),
            }
        }
        if !runnable.is_empty() {
            self.counters.batches.fetch_add(1, Ordering::Relaxed);
        }
        let company = if runnable.len() == 1 { Company::Nobody } else { Company::Any };
        // Halves of what failed, the first one on top.
        let mut parts = vec![runnable];
        while let Some(mut part) = parts.pop() {
            let limit = self.limits[model].images();
            if part.len() > limit {
                parts.push(part.split_off(limit));
            }
            self.run_part(model, part, company, &mut parts)?;
        }
        Ok(())
    }

    /// Answers the requests, or puts them back in halves. Those of a device that is lost have no answer.
    fn run_part(
        &mut self,
        model: usize,
        mut part: Vec<Request>,
        company: Company,
        parts: &mut Vec<Vec<Request>>,
    ) -> Result<(), Lost> {
        if part.is_empty() {
            return Ok(());
        }
        if self.deterministic {
            tch::manual_seed(0);
        }
        let images: Vec<&[f32]> = part.iter().map(|r| r.input.plane.as_slice()).collect();
        let busy = self.watch.begin(self.device, self.took[model]);
        let found = self.models[model].forward(&images);
        drop(busy);
        let failure = match found {
            Ok(answers) => {
                self.limits[model].fitted(part.len());
                self.watch.trust(self.device, model);
                part.into_iter().zip(answers).for_each(|(request, answer)| self.answer(request, answer));
                return Ok(());
            }
            Err(failure) => failure,
        };
        if let InferError::OutOfMemory(reason) = &failure {
            self.limits[model].exceeded(part.len());
            let (images, now) = (part.len(), self.limits[model].images());
            warn!(model = %self.name(model), images, batch_max = now, reason, "the device has too little memory");
        }
        if part.len() > 1 {
            let rest = part.split_off(part.len() / 2);
            parts.extend([rest, part]);
            return Ok(());
        }
        let is_memory = matches!(failure, InferError::OutOfMemory(_));
        if is_memory {
            self.watch.doubt(self.device, model);
        }
        let device = if is_memory { Ok(()) } else { self.still_computes(model, &failure) };
        if device.is_ok() || company == Company::Nobody {
            part.into_iter().for_each(|request| self.answer(request, Err(failure.clone())));
        }
        device
    }

    fn run_map(&mut self, request: MapRequest) -> Result<(), Lost> {
        if request.sender.is_closed() {
            return Ok(());
        }
        let model = &self.models[request.model];
        let maps = match check_input(model, &request.input) {
            Ok(()) => {
                // The first one reads the network again, which takes as long as it did at the start.
                let loading = self.watch.begin_within(self.device, START_LIMIT);
                let loaded = model.load_grad_cam();
                drop(loading);
                let _busy = self.watch.begin(self.device, self.took[request.model]);
                loaded.and_then(|()| model.grad_cam(&request.input.plane))
            }
            Err(error) => Err(error.into()),
        };
        let outcome = match &maps {
            Err(ExplainError::Failed(failure @ InferError::Torch(_))) => self.still_computes(request.model, failure),
            Ok(_) | Err(_) => Ok(()),
        };
        // Whoever gave up waiting needs no answer.
        let _ = request.sender.send(maps);
        outcome
    }

    /// Whether it was the input: the image that the model scored at the start is scored again.
    fn still_computes(&self, model: usize, failure: &InferError) -> Result<(), Lost> {
        let of = &self.models[model];
        let _busy = self.watch.begin(self.device, self.took[model]);
        match of.forward(&[&probe::image(&of.package().contract, probe::REHEARSED)]) {
            Ok(_) | Err(InferError::OutOfMemory(_)) => Ok(()),
            Err(now) => {
                let (model, device) = (self.name(model), of.device_name());
                error!(%model, device, %failure, %now, "the device no longer computes what it did at the start");
                Err(Lost)
            }
        }
    }

    fn answer(&self, request: Request, answer: Result<Vec<f64>, InferError>) {
        self.counters.inputs.fetch_add(1, Ordering::Relaxed);
        self.counters.errors.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
        request.reply.send(answer);
    }

    fn name(&self, model: usize) -> &str {
        &self.models[model].package().identity.name
    }
}

fn check_input(model: &LoadedModel, input: &ModelInput) -> Result<(), InferError> {
    let expected = model.package().contract.plane_len();
    if input.contract != *model.contract() {
        return Err(InferError::WrongContract);
    }
    if input.plane.len() != expected {
        return Err(InferError::WrongLength { given: input.plane.len(), expected });
    }
    if input.plane.iter().any(|v| !v.is_finite()) {
        return Err(InferError::InputNotFinite);
    }
    Ok(())
}
