//! The loop that asks destinations for storage commitment of the reports that they took, until they have answered.
//!
//! One request at a time to each destination, for all that is due there. Neighbours: `deliver` asks and hears an answer
//! on the same association, `receive` one on the destination's own; `store` remembers what was asked and what came of
//! it. Left out: what becomes of a report that is not kept, which is a failed delivery (`store`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{TimeDelta, Utc};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::watchdog::Loop;
use super::{IDLE, Node};
use crate::config::Destination;
use crate::deliver;
use crate::dicom::Status;
use crate::store::{GiveUp, Inquiry, StoreError};

/// Destinations that are asked at once.
const INQUIRIES_MAX: usize = 8;
/// An archive that has accepted the request may take its time: the longest wait for it is so many times that after a
/// failure.
const PATIENCE: u32 = 24;

/// Destinations that are being asked.
type Busy = Arc<Mutex<HashSet<String>>>;

/// What came of a request.
enum Outcome {
    /// What it said of each report is recorded; some it may not keep yet.
    Answered,
    /// Accepted, and nothing said yet.
    Accepted,
    /// Not even that, or not understood.
    Failed(String),
}

impl Node {
    /// Asks what is due.
    pub(super) async fn confirmation_loop(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(INQUIRIES_MAX));
        let (tasks, busy) = (TaskTracker::new(), Busy::default());
        while let Some(permit) = self.permit(&permits, Loop::Confirming).await {
            match self.next_inquiry(&busy).await {
                Ok(Some((destination, inquiry))) => {
                    let (node, busy) = (Arc::clone(&self), Arc::clone(&busy));
                    locked(&busy, |busy| busy.insert(destination.name.clone()));
                    tasks.spawn(async move {
                        node.inquire(&destination, &inquiry).await;
                        locked(&busy, |busy| busy.remove(&destination.name));
                        drop(permit);
                        node.store.wake().confirmation_due.notify_one();
                    });
                }
                Ok(None) => self.pause(&self.store.wake().confirmation_due, IDLE).await,
                Err(error) => self.trouble("looking for storage commitments to ask for", &error).await,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn next_inquiry(&self, busy: &Busy) -> Result<Option<(Destination, Inquiry)>, StoreError> {
        for name in self.store.due_confirmations(Utc::now()).await? {
            if locked(busy, |busy| busy.contains(&name)) {
                continue;
            }
            let config = self.config();
            let destination = config.destinations.iter().find(|d| d.name == name && d.commitment.is_some());
            let Some(destination) = destination else {
                self.store.withdraw_confirmations(&name).await?;
                continue;
            };
            // Connecting, sending and the answer each have their limit. A start asks again at once
            // (`Index::lift_leases`).
            let lease = destination.timeout * 6 + destination.commitment.unwrap_or_default();
            if let Some(inquiry) = self.store.begin_confirmation(&name, lease, Utc::now()).await? {
                return Ok(Some((destination.clone(), inquiry)));
            }
        }
        Ok(None)
    }

    async fn inquire(&self, destination: &Destination, inquiry: &Inquiry) {
        let outcome = tokio::select! {
            // Asked again when the node is back.
            () = self.cancel.cancelled() => Outcome::Failed("the node was stopped".to_owned()),
            outcome = self.ask(destination, inquiry) => outcome,
        };
        let rules = self.config().delivery.clone();
        let seed = destination.name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        let wait = |first, most| deliver::backoff(inquiry.attempts, first, most, seed);
        let (cause, wait) = match outcome {
            Outcome::Answered => (None, wait(rules.retry_first, rules.retry_max)),
            Outcome::Accepted => {
                let longest = rules.retry_max.saturating_mul(PATIENCE);
                let cause = "it accepted the request and has not answered".to_owned();
                (Some(cause), wait(rules.retry_max, longest))
            }
            Outcome::Failed(cause) => (Some(cause), wait(rules.retry_first, rules.retry_max)),
        };
        let now = Utc::now();
        let queued_before = now - TimeDelta::from_std(rules.give_up_after).unwrap_or(TimeDelta::MAX);
        let give_up = GiveUp { queued_before, tries_min: rules.tries_min };
        if let Err(error) = self.store.confirmation_open(inquiry, cause.as_deref(), now + wait, give_up).await {
            error!(%error, "what came of a request for storage commitment could not be recorded; it is made again");
        }
    }

    async fn ask(&self, destination: &Destination, inquiry: &Inquiry) -> Outcome {
        let calling = self.config().node.ae_title.clone();
        let wait = destination.commitment.unwrap_or_default();
        let heard = match deliver::ask_commitment(destination, &self.tls, &calling, &inquiry.request).await {
            Ok(asked) => asked.heard(wait).await,
            Err(cause) => return Outcome::Failed(cause),
        };
        let heard = match heard {
            Ok(Some(heard)) => heard,
            Ok(None) => return Outcome::Accepted,
            Err(cause) => {
                // It was asked and may answer yet.
                warn!(destination = destination.name, cause, "no answer on the association that asked");
                return Outcome::Accepted;
            }
        };
        let known = std::slice::from_ref(&destination.name);
        let (status, outcome) = match self.store.confirm(known, &heard.answer).await {
            Ok(true) => (Status::SUCCESS, Outcome::Answered),
            Ok(false) => (
                Status::INVALID_ARGUMENT,
                Outcome::Failed("it reported a Transaction UID that it was not asked".into()),
            ),
            Err(cause) => {
                (Status::PROCESSING_FAILURE, Outcome::Failed(format!("its answer was not recorded: {cause}")))
            }
        };
        heard.acknowledge(status).await;
        outcome
    }
}

fn locked<T>(busy: &Busy, work: impl FnOnce(&mut HashSet<String>) -> T) -> T {
    work(&mut busy.lock().unwrap_or_else(PoisonError::into_inner))
}
