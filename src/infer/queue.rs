//! What waits to be scored: one queue for all devices.
//!
//! A batch holds inputs of one model. It leaves with whichever device is free first: when it is full, when its oldest
//! input has waited for the configured delay, or as soon as nobody says that more is on its way ([`Coming`]). How many
//! wait is bounded by permits (`engine`), one with each request.
//! What explains a score waits apart, and leaves only while no score is waited for.
//! Neighbours: `engine` puts in, `worker` takes out. Left out: what is done with a batch.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use crate::domain::ModelInput;

use super::error::InferError;
use super::explain::ExplainError;

pub(super) type Answer = Result<Vec<f64>, InferError>;

/// Who waits for an answer.
pub(super) enum Reply {
    Caller {
        sender: oneshot::Sender<Answer>,
        /// Given back when the request is answered or dropped.
        _permit: OwnedSemaphorePermit,
    },
    /// The engine itself, which has this device score an image.
    Start { device: usize, sender: mpsc::Sender<Answer> },
}

/// With whom an input is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Company {
    #[default]
    Any,
    /// Alone: if the device is lost at it, it was not another one's doing.
    Nobody,
}

/// The maps of an image, as [`super::Engine::grad_cam`] gives them.
pub(super) type Maps = Result<Vec<Option<Vec<f32>>>, ExplainError>;

/// Grad-CAM of an image.
pub(super) struct MapRequest {
    /// Index of the model.
    pub(super) model: usize,
    pub(super) input: ModelInput,
    pub(super) sender: oneshot::Sender<Maps>,
    /// Given back when the request is answered or dropped.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// What a device does next.
pub(super) enum Work {
    /// Images of the model with this index.
    Scores(usize, Vec<Request>),
    Map(MapRequest),
}

/// Whether somebody waits for a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    Score,
    /// The score of a covered image explains another.
    Explanation,
}

pub(super) struct Request {
    /// Index of the model.
    pub(super) model: usize,
    pub(super) input: ModelInput,
    pub(super) company: Company,
    pub(super) reply: Reply,
}

impl Reply {
    /// Whoever gave up waiting needs no answer.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self, Reply::Caller { sender, .. } if sender.is_closed())
    }

    pub(super) fn send(self, answer: Answer) {
        match self {
            Reply::Caller { sender, .. } => drop(sender.send(answer)),
            Reply::Start { sender, .. } => drop(sender.send(answer)),
        }
    }

    fn is_for(&self, of: usize) -> bool {
        !matches!(self, Reply::Start { device, .. } if *device != of)
    }
}

/// What a device says; nothing once all has ended, since one that does not come back keeps what it has.
pub(super) async fn answered<T>(waiting: oneshot::Receiver<T>, ended: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        answer = waiting => answer.ok(),
        () = ended.cancelled() => None,
    }
}

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    delay: Duration,
}

struct State {
    /// By model, in order of arrival, with the moment at which it need wait no longer.
    waiting: Vec<VecDeque<(Instant, Request)>>,
    /// Images that are being prepared.
    coming: usize,
    /// By model: images whose scores explain others.
    covered: Vec<VecDeque<Request>>,
    maps: VecDeque<MapRequest>,
    open: bool,
}

/// An image is being prepared: as long as one is, batches that are not full wait for their delay.
#[derive(Debug)]
pub struct Coming(Arc<Queue>);

impl Drop for Coming {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.coming -= 1;
        let none = state.coming == 0;
        drop(state);
        if none {
            self.0.changed.notify_all();
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("delay", &self.delay).finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(models: usize, delay: Duration) -> Self {
        let waiting = (0..models).map(|_| VecDeque::new()).collect();
        let covered = (0..models).map(|_| VecDeque::new()).collect();
        let state = State { waiting, coming: 0, covered, maps: VecDeque::new(), open: true };
        Self { state: Mutex::new(state), changed: Condvar::new(), delay }
    }

    pub(super) fn announce(queue: &Arc<Self>) -> Coming {
        queue.lock().coming += 1;
        Coming(Arc::clone(queue))
    }

    /// # Errors
    /// [`InferError::Stopped`] once the queue is closed.
    pub(super) fn push(&self, request: Request, urgency: Urgency) -> Result<(), InferError> {
        let mut state = self.lock();
        if !state.open {
            return Err(InferError::Stopped);
        }
        let delay = if request.company == Company::Nobody { Duration::ZERO } else { self.delay };
        match urgency {
            Urgency::Score => state.waiting[request.model].push_back((Instant::now() + delay, request)),
            Urgency::Explanation => state.covered[request.model].push_back(request),
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// # Errors
    /// [`InferError::Stopped`] once the queue is closed.
    pub(super) fn push_map(&self, request: MapRequest) -> Result<(), InferError> {
        let mut state = self.lock();
        if !state.open {
            return Err(InferError::Stopped);
        }
        state.maps.push_back(request);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// The next batch for a device whose models may have so many images; waits until one is due. `None` when the queue
    /// is closed and holds nothing for it.
    pub(super) fn take(&self, device: usize, limits: &[usize]) -> Option<Work> {
        let mut state = self.lock();
        loop {
            match state.due(device, limits, Instant::now()) {
                Some((model, None)) => return Some(Work::Scores(model, state.drain(model, device, limits[model]))),
                Some((_, Some(wait))) => {
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
                None if let Some(work) = state.explain(limits) => return Some(work),
                None if !state.open => return None,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Takes nothing more; what waits is still handed out.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// Closes and drops what waits, so that nobody waits in vain.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.open = false;
        state.waiting.iter_mut().for_each(VecDeque::clear);
        state.covered.iter_mut().for_each(VecDeque::clear);
        state.maps.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The model whose batch is next, and how long it still waits for company: the one that has waited longest and long
    /// enough, else a full one, else the one that will be due first.
    fn due(&self, device: usize, limits: &[usize], now: Instant) -> Option<(usize, Option<Duration>)> {
        let mut first: Option<(usize, Instant)> = None;
        let mut full = None;
        for (model, queue) in self.waiting.iter().enumerate() {
            let mut own = queue.iter().filter(|(_, r)| r.reply.is_for(device)).map(|(due, _)| *due);
            let Some(due) = own.clone().min() else { continue };
            if first.is_none_or(|(_, earliest)| due < earliest) {
                first = Some((model, due));
            }
            if full.is_none() && own.nth(limits[model].saturating_sub(1)).is_some() {
                full = Some(model);
            }
        }
        let (model, due) = first?;
        let left = due.saturating_duration_since(now);
        match full {
            _ if left.is_zero() || self.coming == 0 || !self.open => Some((model, None)),
            Some(full) => Some((full, None)),
            None => Some((model, Some(left))),
        }
    }

    /// What explains a score, one batch at a time.
    fn explain(&mut self, limits: &[usize]) -> Option<Work> {
        if let Some(map) = self.maps.pop_front() {
            return Some(Work::Map(map));
        }
        let model = self.covered.iter().position(|queue| !queue.is_empty())?;
        let images = self.covered[model].len().min(limits[model].max(1));
        Some(Work::Scores(model, self.covered[model].drain(..images).collect()))
    }

    fn drain(&mut self, model: usize, device: usize, images_max: usize) -> Vec<Request> {
        let queue = &mut self.waiting[model];
        let mut batch = Vec::new();
        let mut others = VecDeque::new();
        while batch.len() < images_max.max(1)
            && let Some((due, request)) = queue.pop_front()
        {
            let alone = request.company == Company::Nobody;
            if !request.reply.is_for(device) {
                others.push_back((due, request));
                continue;
            }
            if alone && !batch.is_empty() {
                others.push_back((due, request));
                break;
            }
            batch.push(request);
            if alone {
                break;
            }
        }
        others.append(queue);
        *queue = others;
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Contract;
    use std::sync::Arc;

    use crate::infer::probe;

    /// As of a device that hangs: the sender lives on.
    #[tokio::test]
    async fn nobody_waits_for_a_device_that_keeps_what_it_has() {
        let ended = CancellationToken::new();
        let (sender, waiting) = oneshot::channel::<Maps>();
        ended.cancel();
        assert!(answered(waiting, &ended).await.is_none());
        drop(sender);
        let (sender, waiting) = oneshot::channel();
        sender.send(5).unwrap();
        assert_eq!(answered(waiting, &ended).await, Some(5), "what was said counts");
    }

    #[test]
    fn what_explains_a_score_leaves_only_while_none_is_waited_for() {
        let contract = Contract::preset("minmax-unit", 8).unwrap();
        let queue = Queue::new(2, Duration::ZERO);
        let (sender, _answers) = mpsc::channel();
        let request = |model| {
            let reply = Reply::Start { device: 0, sender: sender.clone() };
            Request { model, input: probe::input(&contract, 0), company: Company::Any, reply }
        };
        (0..3).for_each(|_| queue.push(request(0), Urgency::Explanation).unwrap());
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let map =
            MapRequest { model: 0, input: probe::input(&contract, 0), sender: oneshot::channel().0, _permit: permit };
        queue.push_map(map).unwrap();
        queue.push(request(1), Urgency::Score).unwrap();
        let next = || match queue.take(0, &[2, 2]) {
            Some(Work::Scores(model, batch)) => format!("{} of {model}", batch.len()),
            Some(Work::Map(_)) => "map".to_owned(),
            None => "end".to_owned(),
        };
        assert_eq!([next(), next(), next()], ["1 of 1", "map", "2 of 0"]);
        queue.push(request(1), Urgency::Score).unwrap();
        queue.close();
        assert_eq!([next(), next(), next()], ["1 of 1", "1 of 0", "end"]);
    }
}
