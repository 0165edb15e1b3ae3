//! Sends what is due, destinations side by side, report after report on one association.
//!
//! A destination that cannot be reached is asked with one report at a time, in growing intervals; all others wait for
//! it in the index, untouched. Neighbours: `store` holds the outbox and which destinations are down, `deliver` makes
//! one attempt and judges it. Left out: what to send.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::watchdog::Loop;
use super::{IDLE, LEASE, Node};
use crate::config::Destination;
use crate::deliver::{self, DeliverError, ReportFile, Retry, Session};
use crate::domain::{Disclosure, Report};
use crate::report;
use crate::store::{Delivery, DueDestination, GiveUp, StoreError, Unreached};

/// Associations under way at once, over all destinations.
const ASSOCIATIONS_MAX: usize = 32;
/// The longest that an association is kept open for the next report's turn; peers end idle ones.
const PACE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Waits of one attempt that each take at most the destination's timeout, and a few to spare.
const STEPS_MAX: u32 = 16;

/// Associations under way, and when the next report may go where the rate is limited.
#[derive(Debug, Default)]
struct Desk(Mutex<HashMap<String, Lane>>);

#[derive(Debug, Default)]
struct Lane {
    associations: usize,
    /// Those among them that delivered and are open.
    working: usize,
    next: Option<Instant>,
    /// The peer took no further association beside one that works: none is tried until then.
    enough_until: Option<Instant>,
}

/// A place for one association, given back when dropped.
struct Slot {
    desk: Arc<Desk>,
    destination: String,
    works: bool,
}

/// What is left to do after an attempt.
enum After {
    /// The next report may follow on the same association, if there is one.
    Next,
    /// The destination or the store is in trouble: not now.
    Stop,
}

impl Node {
    /// Sends until the node stops; what is under way then is finished.
    pub(super) async fn deliver_loop(self: Arc<Self>) {
        let desk = Arc::new(Desk::default());
        let tasks = TaskTracker::new();
        while !self.cancel.is_cancelled() {
            self.pulse.beat(Loop::Delivering);
            match self.start_deliveries(&desk, &tasks).await {
                // Something began, and there may be more.
                Ok(None) => {}
                Ok(Some(wait)) => self.pause(&self.store.wake().delivery_due, wait).await,
                Err(error) => self.trouble("looking for due deliveries", &error).await,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Begins an association with each destination that has something due and a place free. `None`: at least one
    /// began; else how long there is nothing to begin.
    async fn start_deliveries(
        self: &Arc<Self>,
        desk: &Arc<Desk>,
        tasks: &TaskTracker,
    ) -> Result<Option<Duration>, StoreError> {
        let (config, mut wait, mut began) = (self.config(), IDLE, false);
        for due in self.store.due_destinations(Utc::now()).await? {
            let destination = config.destinations.iter().find(|d| d.name == due.name).cloned();
            // One that is down is asked once; one that is no longer configured needs no association.
            let most = destination.as_ref().filter(|_| due.failures == 0).map_or(1, |d| d.associations_max);
            let pace = desk.until_next(&due.name);
            if !pace.is_zero() {
                wait = wait.min(pace);
                continue;
            }
            let Some(slot) = Desk::slot(desk, &due.name, most) else { continue };
            let Some(delivery) = self.claim_delivery(&due.name, destination.as_ref()).await? else { continue };
            began = true;
            tasks.spawn(Arc::clone(self).deliver_all(destination, due, delivery, slot));
        }
        Ok((!began).then_some(wait))
    }

    /// A destination as it is configured now.
    fn destination(&self, name: &str) -> Option<Destination> {
        self.config().destinations.iter().find(|d| d.name == name).cloned()
    }

    async fn claim_delivery(
        &self,
        name: &str,
        destination: Option<&Destination>,
    ) -> Result<Option<Delivery>, StoreError> {
        let due = self.store.due_deliveries(1, Some(name), lease(destination), Utc::now()).await?;
        Ok(due.into_iter().next())
    }

    /// Delivers one report after the other to a destination, until nothing is due or something is wrong with it.
    async fn deliver_all(
        self: Arc<Self>,
        destination: Option<Destination>,
        mut due: DueDestination,
        first: Delivery,
        mut slot: Slot,
    ) {
        let (mut session, mut next) = (None, Some(first));
        while let Some(delivery) = next.take() {
            if let Some(rate) = destination.as_ref().and_then(|d| d.per_minute_max) {
                let turn = slot.desk.turn(&slot.destination, Duration::from_secs(60) / rate);
                tokio::select! {
                    () = self.cancel.cancelled() => break,
                    () = tokio::time::sleep(turn) => {}
                }
            }
            let after = self.deliver(destination.as_ref(), &due, &delivery, &mut session, &slot).await;
            slot.set_works(session.is_some());
            if matches!(after, After::Stop) || self.cancel.is_cancelled() {
                break;
            }
            if session.is_some() {
                due.failures = 0;
            }
            let pace = slot.desk.until_next(&slot.destination);
            if pace > PACE_WAIT_MAX {
                break;
            }
            tokio::time::sleep(pace).await;
            next = self.claim_delivery(&due.name, destination.as_ref()).await.unwrap_or_else(|error| {
                error!(%error, "looking for the next delivery failed; it will be tried again");
                None
            });
        }
        if let Some(session) = session {
            session.end(None).await;
        }
        drop(slot);
        self.store.wake().delivery_due.notify_one();
    }

    async fn deliver(
        &self,
        destination: Option<&Destination>,
        due: &DueDestination,
        delivery: &Delivery,
        session: &mut Option<Session>,
        slot: &Slot,
    ) -> After {
        // What a reload changed, who may see probabilities above all, holds for this report already: it goes on the
        // next association, as the destination stands now.
        if self.destination(&due.name).as_ref() != destination {
            self.recorded(delivery, self.store.release_delivery(delivery.id).await);
            return After::Stop;
        }
        let (destination, variants) = match self.prepare(destination, delivery).await {
            Ok(prepared) => prepared,
            Err((cause, retry)) => return self.failed(delivery, &cause, retry).await,
        };
        let files: Vec<ReportFile<'_>> = variants.iter().map(ReportFile::from).collect();
        let last = match session.take() {
            Some(open) if open.carries(&files) => Some(open),
            Some(other) => {
                other.end(None).await;
                None
            }
            None => None,
        };
        let open = match last {
            Some(open) => Ok(open),
            None => {
                let config = self.config();
                Session::open(config.node.mode, destination, &self.tls, &config.node.ae_title, &files).await
            }
        };
        let mut open = match open {
            Ok(open) => open,
            Err(DeliverError::NothingToSend) => {
                return self.failed(delivery, "the report has no file", Retry::Never).await;
            }
            Err(error @ (DeliverError::NotAllowed(_) | DeliverError::File(_))) => {
                return self.failed(delivery, &error.to_string(), Retry::Never).await;
            }
            Err(error) => return self.unreached(due, delivery, &error, slot).await,
        };
        let sent = open.send(&files).await;
        let is_map = report::is_map(&delivery.sop_class);
        let retry = |error: &DeliverError| if is_map { error.retry_of_map() } else { error.retry() };
        let reached = sent.as_ref().err().is_none_or(|error| !error.unreached());
        // A report that was taken says so by itself. Another association may have failed to reach the destination
        // since.
        if reached
            && sent.is_err()
            && let Err(error) = self.store.destination_reached(&due.name).await
        {
            error!(%error, "it could not be recorded that a destination is back");
        }
        match sent {
            Ok(sent) => {
                *session = Some(open);
                let (now, commitment) = (Utc::now(), destination.commitment.is_some());
                let (class, instance) = (&sent.sop_class, &sent.sop_instance);
                let recorded = self.store.delivery_succeeded(delivery.id, class, instance, commitment, now);
                self.recorded(delivery, recorded.await)
            }
            // A peer may end an association after each report: that says nothing of this one, which begins the next.
            Err(error @ DeliverError::Broken { .. }) if open.used() => {
                open.end(Some(&error)).await;
                self.recorded(delivery, self.store.release_delivery(delivery.id).await)
            }
            Err(error) if !reached => {
                open.end(Some(&error)).await;
                self.unreached(due, delivery, &error, slot).await
            }
            Err(error @ (DeliverError::Status { .. } | DeliverError::File(_))) => {
                *session = Some(open);
                self.failed(delivery, &error.to_string(), retry(&error)).await
            }
            Err(error) => {
                open.end(Some(&error)).await;
                self.failed(delivery, &error.to_string(), retry(&error)).await;
                After::Stop
            }
        }
    }

    /// Destination and files of a delivery, or why it cannot be made and when to try again.
    async fn prepare<'a>(
        &self,
        destination: Option<&'a Destination>,
        delivery: &Delivery,
    ) -> Result<(&'a Destination, Vec<Report>), (String, Retry)> {
        let gone = || ("the destination is no longer in the configuration".to_owned(), Retry::Never);
        let destination = destination.ok_or_else(gone)?;
        deliver::allowed(self.config().node.mode, destination).map_err(|e| (e.to_string(), e.retry()))?;
        // The site may have changed its mind since the report was made.
        if delivery.disclosure == Disclosure::Probabilities && delivery.disclosure != destination.disclose {
            let cause = "the report holds probabilities and the destination is withheld now: `studies requeue`";
            return Err((cause.to_owned(), Retry::Never));
        }
        let variants = self.store.report_files(delivery.report).await.map_err(|e| {
            let retry = if matches!(e, StoreError::ReportGone(_)) { Retry::Never } else { Retry::Soon };
            (e.to_string(), retry)
        })?;
        Ok((destination, variants))
    }

    /// The destination could not be reached, which says nothing of the report; nor of the destination while another
    /// association with it works.
    async fn unreached(&self, due: &DueDestination, delivery: &Delivery, cause: &DeliverError, slot: &Slot) -> After {
        let rules = self.config().delivery.clone();
        let wait = match cause.retry() {
            Retry::Soon => {
                // Seeded by the name: destinations that fail together are not tried together.
                let seed = due.name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
                deliver::backoff(due.failures.saturating_add(1), rules.retry_first, rules.retry_max, seed)
            }
            Retry::Later | Retry::Never => rules.retry_max,
        };
        let (now, error) = (Utc::now(), cause.to_string());
        if slot.enough(wait) {
            warn!(destination = due.name, error, "no further association now; one that works goes on");
            self.recorded(delivery, self.store.release_delivery(delivery.id).await);
            return After::Stop;
        }
        let queued_before = now - chrono::TimeDelta::from_std(rules.give_up_after).unwrap_or(chrono::TimeDelta::MAX);
        let attempt =
            Unreached { delivery: delivery.id, destination: &due.name, error: &error, now, next_at: now + wait };
        let give_up = GiveUp { queued_before, tries_min: rules.tries_min };
        self.recorded(delivery, self.store.destination_unreached(attempt, give_up).await);
        After::Stop
    }

    /// The attempt failed by what is wrong with the report, or with how the destination took it.
    async fn failed(&self, delivery: &Delivery, cause: &str, retry: Retry) -> After {
        let (now, config) = (Utc::now(), self.config());
        let rules = &config.delivery;
        let attempts = delivery.attempts + 1;
        let wait = match retry {
            Retry::Soon => {
                let seed = delivery.id.unsigned_abs();
                Some(deliver::backoff(attempts, rules.retry_first, rules.retry_max, seed))
            }
            Retry::Later => Some(rules.retry_max),
            Retry::Never => None,
        };
        let age = (now - delivery.queued_at).to_std().unwrap_or_default();
        let next = wait.filter(|_| age < rules.give_up_after || attempts < rules.tries_min).map(|wait| now + wait);
        self.recorded(delivery, self.store.delivery_failed(delivery.id, cause, next).await)
    }

    fn recorded(&self, delivery: &Delivery, recorded: Result<(), StoreError>) -> After {
        match recorded {
            Ok(()) => After::Next,
            Err(error) => {
                let study = self.store.log_id(delivery.study.as_str());
                error!(study, %error, "the delivery could not be recorded; the report will be sent again");
                After::Stop
            }
        }
    }
}

/// How long a report is claimed for: longer than the slowest attempt, which opens an association, asks four times for
/// each of three SOP classes (`Session::send`) and ends it, and waits for its turn behind every other association
/// before.
fn lease(destination: Option<&Destination>) -> Duration {
    let Some(destination) = destination else { return LEASE };
    let lanes = u32::try_from(destination.associations_max).unwrap_or(u32::MAX);
    let turns = destination.per_minute_max.map_or(Duration::ZERO, |rate| Duration::from_secs(60) * lanes / rate);
    LEASE.max(destination.timeout * STEPS_MAX + turns + PACE_WAIT_MAX)
}

impl Desk {
    /// A place with a destination of which at most `most` are used.
    fn slot(desk: &Arc<Self>, destination: &str, most: usize) -> Option<Slot> {
        let mut lanes = desk.lanes();
        let running: usize = lanes.values().map(|lane| lane.associations).sum();
        let lane = lanes.entry(destination.to_owned()).or_default();
        let enough = lane.associations > 0 && lane.enough_until.is_some_and(|until| until > Instant::now());
        if lane.associations >= most || running >= ASSOCIATIONS_MAX || enough {
            return None;
        }
        lane.associations += 1;
        Some(Slot { desk: Arc::clone(desk), destination: destination.to_owned(), works: false })
    }

    /// How long until the next report may go there.
    fn until_next(&self, destination: &str) -> Duration {
        let next = self.lanes().get(destination).and_then(|lane| lane.next);
        next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    /// How long a report waits for its turn there; the next one's is `gap` later. Lanes that ask at one moment get one
    /// turn each.
    fn turn(&self, destination: &str, gap: Duration) -> Duration {
        let now = Instant::now();
        let mut lanes = self.lanes();
        let lane = lanes.entry(destination.to_owned()).or_default();
        let at = lane.next.map_or(now, |next| next.max(now));
        lane.next = Some(at + gap);
        at.saturating_duration_since(now)
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<String, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Notes whether its association delivered and is open.
    fn set_works(&mut self, works: bool) {
        let before = std::mem::replace(&mut self.works, works);
        if let Some(lane) = self.desk.lanes().get_mut(&self.destination) {
            lane.working = lane.working + usize::from(works) - usize::from(before);
        }
    }

    /// Whether another association works; then no further one is tried for so long.
    fn enough(&self, wait: Duration) -> bool {
        let mut lanes = self.desk.lanes();
        let Some(lane) = lanes.get_mut(&self.destination) else { return false };
        let others = lane.working > usize::from(self.works);
        if others {
            lane.enough_until = Some(Instant::now() + wait);
        }
        others
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set_works(false);
        if let Some(lane) = self.desk.lanes().get_mut(&self.destination) {
            lane.associations = lane.associations.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_so_many_places_and_gets_them_back() {
        let desk = Arc::new(Desk::default());
        let first = Desk::slot(&desk, "pacs", 2);
        let second = Desk::slot(&desk, "pacs", 2);
        assert!(first.is_some() && second.is_some());
        assert!(Desk::slot(&desk, "pacs", 2).is_none());
        assert!(Desk::slot(&desk, "archive", 1).is_some(), "another has its own");
        drop(first);
        assert!(Desk::slot(&desk, "pacs", 1).is_none(), "one is still used");
        assert!(Desk::slot(&desk, "pacs", 2).is_some());
    }

    #[test]
    fn a_peer_that_takes_no_further_association_is_not_asked_for_one_while_another_works() {
        let (desk, wait) = (Arc::new(Desk::default()), Duration::from_secs(60));
        let place = || Desk::slot(&desk, "pacs", 2);
        let (mut first, second) = (place().expect("free"), place().expect("free"));
        assert!(!second.enough(wait), "none works: the destination is down");
        first.set_works(true);
        assert!(!first.enough(wait), "its own failure is no other's success");
        assert!(second.enough(wait));
        drop(second);
        assert!(place().is_none());
        drop(first);
        assert!(place().is_some(), "none is left: one may ask");
    }

    #[test]
    fn a_claim_outlasts_the_slowest_attempt() {
        let slow = |timeout, associations_max, per_minute_max| Destination {
            name: "pacs".into(),
            endpoint: crate::config::Endpoint::Dimse {
                ae_title: crate::domain::AeTitle::parse("PACS").expect("a title"),
                host: "h".into(),
                port: 1,
                tls: None,
            },
            audit: true,
            disclose: Disclosure::Withheld,
            timeout: Duration::from_secs(timeout),
            associations_max,
            per_minute_max,
            commitment: None,
        };
        assert_eq!(lease(None), LEASE);
        assert_eq!(lease(Some(&slow(30, 1, None))), LEASE);
        assert!(lease(Some(&slow(3600, 1, None))) > Duration::from_secs(14 * 3600));
        assert!(lease(Some(&slow(30, 64, Some(1)))) > Duration::from_secs(64 * 60));
    }

    #[test]
    fn a_rate_spaces_reports_evenly() {
        let desk = Desk::default();
        assert!(desk.until_next("pacs").is_zero());
        assert!(desk.turn("pacs", Duration::from_secs(60)).is_zero());
        let second = desk.turn("pacs", Duration::from_secs(60));
        assert!(second > Duration::from_secs(50) && second <= Duration::from_secs(60), "{second:?}");
        let left = desk.until_next("pacs");
        assert!(left > Duration::from_secs(110) && left <= Duration::from_secs(120), "{left:?}");
        assert!(desk.until_next("archive").is_zero());
    }
}
