//! Sends what is due, destinations side by side.
//!
//! Neighbours: `store` holds the outbox, `deliver` makes one attempt and judges it. Left out: what to send.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::Utc;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::{IDLE, LEASE, Node};
use crate::config::Destination;
use crate::deliver::{self, ReportFile, Retry};
use crate::domain::{Disclosure, Uid};
use crate::store::{Delivery, StoreError};

/// Deliveries under way at once, at most one per destination.
const DELIVERIES_MAX: usize = 8;

impl Node {
    /// Sends what is due, one association per destination at a time, destinations side by side.
    pub(super) async fn deliver_loop(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(DELIVERIES_MAX));
        let busy = Arc::new(std::sync::Mutex::new(BTreeSet::<String>::new()));
        let tasks = TaskTracker::new();
        while let Some(permit) = self.permit(&permits).await {
            let taken = busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            let due = match self.store.due_deliveries(1, &taken, LEASE, Utc::now()).await {
                Ok(due) => due,
                Err(error) => {
                    self.trouble("looking for due deliveries", &error).await;
                    continue;
                }
            };
            let Some(delivery) = due.into_iter().next() else {
                drop(permit);
                self.pause(&self.store.wake().delivery_due, IDLE / 4).await;
                continue;
            };
            busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(delivery.destination.clone());
            let (node, busy) = (Arc::clone(&self), Arc::clone(&busy));
            tasks.spawn(async move {
                let destination = delivery.destination.clone();
                node.deliver(delivery).await;
                busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&destination);
                node.store.wake().delivery_due.notify_one();
                drop(permit);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn deliver(&self, delivery: Delivery) {
        let log_id = self.store.log_id(delivery.study.as_str());
        let now = Utc::now();
        let destination = self.config.destinations.iter().find(|d| d.name == delivery.destination);
        let sent = match destination {
            None => Err(("the destination is no longer in the configuration".to_owned(), Retry::Never)),
            // The site may have changed its mind since the report was made.
            Some(destination)
                if delivery.disclosure == Disclosure::Probabilities && delivery.disclosure != destination.disclose =>
            {
                let cause = "the report holds probabilities and the destination is withheld now: `studies requeue`";
                Err((cause.to_owned(), Retry::Never))
            }
            Some(destination) => self.send(destination, &delivery).await,
        };
        let recorded = match sent {
            Ok((sop_class, sop_instance)) => {
                self.store.delivery_succeeded(delivery.id, &sop_class, &sop_instance, Utc::now()).await
            }
            Err((cause, retry)) => {
                let rules = &self.config.delivery;
                let wait = match retry {
                    Retry::Soon => Some(deliver::backoff(
                        delivery.attempts + 1,
                        rules.retry_first,
                        rules.retry_max,
                        delivery.id.unsigned_abs(),
                    )),
                    Retry::Later => Some(rules.retry_max),
                    Retry::Never => None,
                };
                let age = (now - delivery.queued_at).to_std().unwrap_or_default();
                let next = wait.filter(|_| age < rules.give_up_after).map(|wait| now + wait);
                self.store.delivery_failed(delivery.id, &cause, next).await
            }
        };
        if let Err(error) = recorded {
            error!(study = log_id, %error, "the delivery could not be recorded; the report will be sent again");
        }
    }

    /// Class and UID under which the report was accepted, or the cause and when to try again.
    async fn send(&self, destination: &Destination, delivery: &Delivery) -> Result<(Uid, Uid), (String, Retry)> {
        let variants = self.store.report_files(delivery.report).await.map_err(|e| {
            let retry = if matches!(e, StoreError::ReportGone(_)) { Retry::Never } else { Retry::Soon };
            (e.to_string(), retry)
        })?;
        let files: Vec<ReportFile<'_>> = variants
            .iter()
            .map(|v| ReportFile { sop_class: &v.sop_class, sop_instance: &v.sop_instance, file: &v.file })
            .collect();
        let node = &self.config.node;
        let sent = deliver::send(node.mode, destination, &self.tls, &node.ae_title, &files).await;
        sent.map(|s| (s.sop_class, s.sop_instance)).map_err(|e| (e.to_string(), e.retry()))
    }
}
