//! Batches made ahead of the device by threads of their own, handed out in order.
//!
//! A batch is images of the data set as the recipe's contract wants them, changed as its augmentation drew before the
//! epoch began: what is in a batch does not depend on which thread makes it, or on how many there are. At most a few
//! batches wait. Neighbours: `images`, `augment`; `fit` takes. Left out: order and chance (`Plan` has them).

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tch::Tensor;

use super::augment::{Theta, warp};
use super::data::{Dataset, Targets};

/// The batches of an epoch.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Positions of samples.
    pub order: Vec<usize>,
    /// What is done to each of them; nothing at all where it is empty.
    pub changes: Vec<Theta>,
    pub batch: usize,
}

/// A batch on the CPU.
#[derive(Debug)]
pub struct Batch {
    pub images: Tensor,
    pub targets: Targets,
}

/// More threads than this make batches for no device faster.
const THREADS_MAX: usize = 64;
/// Batches that are ready and wait, however many threads there are.
const WAITING_MAX: usize = 8;

/// Threads that make batches, and how many batches may wait for each of them.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    pub threads: usize,
    pub ahead: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { threads: 1, ahead: 2 }
    }
}

impl Plan {
    /// The samples as they are.
    pub fn plain(order: &[usize], batch: usize) -> Self {
        Self { order: order.to_vec(), changes: Vec::new(), batch }
    }

    pub fn batches(&self) -> usize {
        self.order.len().div_ceil(self.batch.max(1))
    }

    fn make(&self, dataset: &Dataset, number: usize) -> anyhow::Result<Batch> {
        let from = number * self.batch;
        let to = (from + self.batch).min(self.order.len());
        let positions = &self.order[from..to];
        let mut images = dataset.batch(positions)?;
        if !self.changes.is_empty() {
            images = warp(&images, &self.changes[from..to])?;
        }
        Ok(Batch { images: dataset.prepared(&images)?, targets: dataset.targets(positions)? })
    }
}

/// What threads and taker share.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next batch that a thread begins.
    begun: usize,
    /// The next batch that is handed out.
    taken: usize,
    ready: BTreeMap<usize, anyhow::Result<Batch>>,
    closed: bool,
}

/// Hands the batches of `plan` from number `from` on to `work`, one after the other.
pub fn with_batches<T>(
    dataset: &Dataset,
    plan: &Plan,
    from: usize,
    options: LoaderOptions,
    work: impl FnOnce(&mut dyn FnMut() -> anyhow::Result<Option<Batch>>) -> T,
) -> T {
    let total = plan.batches();
    let queue = Queue {
        state: Mutex::new(State { begun: from, taken: from, ready: BTreeMap::new(), closed: false }),
        changed: Condvar::new(),
    };
    let threads = options.threads.clamp(1, total.saturating_sub(from).clamp(1, THREADS_MAX));
    // What a thread makes, and at most so many that wait.
    let room = (threads * options.ahead.max(1)).min(threads + WAITING_MAX);
    let own = tch::get_num_threads();
    let (started, starts) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // However `work` ends, nobody waits for it any more.
        let _closer = Closer(&queue);
        let mut running = 0;
        for _ in 0..threads {
            let (started, queue) = (started.clone(), &queue);
            let spawned = std::thread::Builder::new().name("loader".to_owned()).spawn_scoped(scope, move || {
                // The threads of libtorch are for the network; this sets the default of new threads too.
                tch::set_num_threads(1);
                let _ = started.send(());
                queue.run(dataset, plan, total, room);
            });
            match spawned {
                Ok(_) => running += 1,
                // Those that run make the same batches.
                Err(error) => tracing::warn!(%error, running, "fewer threads load images than were asked for"),
            }
        }
        if running == 0 {
            queue.lock().closed = true;
        }
        starts.iter().take(running).for_each(drop);
        tch::set_num_threads(own);
        let mut next = from;
        work(&mut || {
            if next == total {
                return Ok(None);
            }
            next += 1;
            queue.take().map(Some)
        })
    })
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, dataset: &Dataset, plan: &Plan, total: usize, room: usize) {
        // A thread that panics must not leave the taker waiting.
        let closer = Closer(self);
        loop {
            let mut state = self.lock();
            while !state.closed && state.begun < total && state.begun >= state.taken + room {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed || state.begun >= total {
                std::mem::forget(closer);
                return;
            }
            let number = state.begun;
            state.begun += 1;
            drop(state);
            let batch = plan.make(dataset, number);
            self.lock().ready.insert(number, batch);
            self.changed.notify_all();
        }
    }

    fn take(&self) -> anyhow::Result<Batch> {
        let mut state = self.lock();
        loop {
            let number = state.taken;
            if let Some(batch) = state.ready.remove(&number) {
                state.taken += 1;
                self.changed.notify_all();
                return batch.with_context(|| format!("batch {}", number + 1));
            }
            anyhow::ensure!(!state.closed, "a thread that loads images has ended");
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends everybody's waiting when it goes.
struct Closer<'a>(&'a Queue);

impl Drop for Closer<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::toy;

    fn all(dataset: &Dataset, plan: &Plan, from: usize, options: LoaderOptions) -> Vec<Tensor> {
        with_batches(dataset, plan, from, options, |next| {
            let mut found = Vec::new();
            while let Some(batch) = next().unwrap() {
                found.push(batch.images);
            }
            found
        })
    }

    #[test]
    fn batches_are_the_same_and_in_order_whatever_the_number_of_threads() {
        let (dataset, _) = toy(crate::domain::Purpose::Race);
        let order: Vec<usize> = (0..dataset.len()).rev().collect();
        let changes: Vec<Theta> = order.iter().map(|i| [1.0, 0.01 * *i as f32, 0.0, 0.0, 0.9, 0.1]).collect();
        let plan = Plan { order, changes, batch: 7 };
        let one = all(&dataset, &plan, 0, LoaderOptions { threads: 1, ahead: 1 });
        assert_eq!((one.len(), one.last().unwrap().size()[0]), (23, 6));
        for threads in [2, 5, 40] {
            assert_eq!(all(&dataset, &plan, 0, LoaderOptions { threads, ahead: 2 }), one);
        }
        assert_eq!(all(&dataset, &plan, 20, LoaderOptions::default()), one[20..]);
        assert_eq!(all(&dataset, &plan, 23, LoaderOptions::default()), []);
    }

    #[test]
    fn whoever_stops_taking_stops_the_threads_and_a_fault_names_its_batch() {
        let (dataset, _) = toy(crate::domain::Purpose::Race);
        let mut plan = Plan::plain(&(0..dataset.len()).collect::<Vec<_>>(), 4);
        let first = with_batches(&dataset, &plan, 0, LoaderOptions { threads: 3, ahead: 1 }, |next| next().unwrap());
        assert_eq!(first.unwrap().images.size()[0], 4);
        plan.order[9] = 100_000;
        let fault = with_batches(&dataset, &plan, 0, LoaderOptions::default(), |next| {
            (0..3).map(|_| next()).find_map(Result::err).unwrap()
        });
        assert!(format!("{fault:#}").starts_with("batch 3: "), "{fault:#}");
    }
}
