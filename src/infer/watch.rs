//! What each device is doing: since when it computes a batch, and whether it failed for want of memory last.
//!
//! A driver that hangs never returns, and no call into it can be ended from outside: a thread looks at the clock in its
//! place, and gives the device up. It also has a device that had no memory for one image score a fixed one from time to
//! time, so that readiness follows what the device can do and not what is sent. Neighbours: `worker` says what it does,
//! `engine` asks. Left out: the process, which ends with a lost device.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::domain::Contract;

use super::queue::{Answer, Company, Queue, Reply, Request, Urgency};
use super::{pool, probe};

/// A batch may take so many times what it took at the start, and at least [`Watch::least`].
const TIMES: u32 = 50;
/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);
/// After so many looks at devices that had nothing to do, the memory of their batches is given back.
const IDLE_TICKS: u32 = 10;

pub(super) struct Watch {
    began: Instant,
    least: Duration,
    devices: Vec<Device>,
}

#[derive(Default)]
struct Device {
    /// When its batch is given up, in milliseconds after `began`; 0 between batches.
    until: AtomicU64,
    /// The model, counted from 1, that had no memory for one image; 0 for none.
    doubted: AtomicUsize,
    /// Images per batch, by model, as memory allows now.
    limits: Vec<AtomicUsize>,
}

/// A batch is computed until this is dropped.
pub(super) struct Busy<'a>(&'a Device);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.until.store(0, Ordering::Relaxed);
    }
}

impl Watch {
    pub(super) fn new(devices: usize, models: usize, least: Duration) -> Self {
        let limits = || (0..models).map(|_| AtomicUsize::new(0)).collect();
        let device = |_| Device { limits: limits(), ..Device::default() };
        Self { began: Instant::now(), least, devices: (0..devices).map(device).collect() }
    }

    pub(super) fn set_limit(&self, device: usize, model: usize, images: usize) {
        self.devices[device].limits[model].store(images, Ordering::Relaxed);
    }

    pub(super) fn limit(&self, device: usize, model: usize) -> usize {
        self.devices[device].limits[model].load(Ordering::Relaxed)
    }

    /// A batch begins that took so long at the start of the engine.
    pub(super) fn begin(&self, device: usize, took: Duration) -> Busy<'_> {
        self.begin_within(device, (took * TIMES).max(self.least))
    }

    /// Something begins that may take so long.
    pub(super) fn begin_within(&self, device: usize, limit: Duration) -> Busy<'_> {
        let device = &self.devices[device];
        device.until.store(self.now() + millis(limit), Ordering::Relaxed);
        Busy(device)
    }

    /// The model had no memory for one image.
    pub(super) fn doubt(&self, device: usize, model: usize) {
        self.devices[device].doubted.store(model + 1, Ordering::Relaxed);
    }

    /// The model scored an image.
    pub(super) fn trust(&self, device: usize, model: usize) {
        let doubted = &self.devices[device].doubted;
        let _ = doubted.compare_exchange(model + 1, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Devices, each with the model that it had no memory for.
    pub(super) fn doubted(&self) -> impl Iterator<Item = (usize, usize)> {
        let of = |device: &Device| device.doubted.load(Ordering::Relaxed).checked_sub(1);
        self.devices.iter().enumerate().filter_map(move |(i, device)| Some((i, of(device)?)))
    }

    /// A device whose batch does not come back.
    fn stuck(&self) -> Option<usize> {
        let now = self.now();
        self.devices.iter().position(|device| {
            let until = device.until.load(Ordering::Relaxed);
            until != 0 && until < now
        })
    }

    fn is_idle(&self) -> bool {
        self.devices.iter().all(|device| device.until.load(Ordering::Relaxed) == 0)
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Until whoever holds the other end of `alive` is gone, or a device is given up: then nobody waits for it.
    pub(super) fn run(
        &self,
        queue: &Arc<Queue>,
        contracts: &[Contract],
        ended: &CancellationToken,
        alive: &mpsc::Receiver<()>,
    ) {
        let mut probes: Vec<Option<mpsc::Receiver<Answer>>> = self.devices.iter().map(|_| None).collect();
        let mut idle = 0u32;
        while alive.recv_timeout(TICK.min(self.least / 4)) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Some(device) = self.stuck() {
                error!(device, "a batch does not come back; the device is given up");
                queue.abandon();
                ended.cancel();
                return;
            }
            idle = if self.is_idle() { idle.saturating_add(1) } else { 0 };
            if idle == IDLE_TICKS {
                pool::clear();
            }
            for (device, model) in self.doubted() {
                let is_asked = |probe: &mpsc::Receiver<Answer>| probe.try_recv() == Err(mpsc::TryRecvError::Empty);
                if probes[device].as_ref().is_some_and(is_asked) {
                    continue;
                }
                let (sender, answer) = mpsc::channel();
                let input = probe::input(&contracts[model], probe::REHEARSED);
                let reply = Reply::Start { device, sender };
                // A queue that is closed has nobody to be ready for.
                let _ = queue.push(Request { model, input, company: Company::Any, reply }, Urgency::Score);
                probes[device] = Some(answer);
            }
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("least", &self.least).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
