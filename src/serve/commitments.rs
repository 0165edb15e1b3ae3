//! The loop that reports storage commitments whose association is gone: after a restart, after a release, after a
//! refusal.
//!
//! Neighbours: `receive` reports those whose association is still there; `store` judges and remembers.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::watchdog::Loop;
use super::{IDLE, LEASE, Node};
use crate::deliver;
use crate::store::Commitment;

/// Reports under way at once.
const REPORTS_MAX: usize = 4;
/// Longest silence of a peer that is reported to.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Node {
    /// Reports what is due.
    pub(super) async fn commitment_loop(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(REPORTS_MAX));
        let tasks = TaskTracker::new();
        while let Some(permit) = self.permit(&permits, Loop::Committing).await {
            match self.store.due_commitment(LEASE, Utc::now()).await {
                Ok(Some(commitment)) => {
                    let node = Arc::clone(&self);
                    tasks.spawn(async move {
                        node.commit(commitment).await;
                        drop(permit);
                    });
                }
                Ok(None) => self.pause(&self.store.wake().commitment_due, IDLE).await,
                Err(error) => self.trouble("looking for storage commitments", &error).await,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn commit(&self, commitment: Commitment) {
        let id = commitment.id;
        let reported = tokio::select! {
            // The next start lifts the lease and continues.
            () = self.cancel.cancelled() => return,
            reported = self.report_commitment(&commitment) => reported,
        };
        let now = Utc::now();
        let recorded = match reported {
            Ok(()) => self.store.commitment_answered(id, now).await,
            Err((cause, may_pass)) => {
                let config = self.config();
                let rules = &config.delivery;
                let wait =
                    deliver::backoff(commitment.attempts + 1, rules.retry_first, rules.retry_max, id.unsigned_abs());
                let age = (now - commitment.requested_at).to_std().unwrap_or_default();
                let next = (may_pass && age < rules.give_up_after).then(|| now + wait);
                self.store.commitment_failed(id, &cause, next, now).await
            }
        };
        if let Err(error) = recorded {
            error!(commitment = id, %error, "the report could not be recorded; it will be sent again");
        }
    }

    /// The cause of a failure, and whether it may pass.
    async fn report_commitment(&self, commitment: &Commitment) -> Result<(), (String, bool)> {
        let config = self.config();
        let source = config.sources.iter().find(|s| s.ae_title == commitment.source && s.commitment);
        let Some((source, to)) = source.and_then(|source| Some((source, source.commitment_to.as_ref()?))) else {
            let cause = "the association that asked is gone, and the source has no commitment_to";
            return Err((cause.to_owned(), false));
        };
        // A source that comes over TLS is called over TLS, and shows what it comes with.
        let security = self.tls.security(&to.host, source.peer_tls().as_ref());
        let security = security.map_err(|error| (error.to_string(), false))?;
        let judged = self.store.judge_commitment(commitment.id, Utc::now()).await;
        let (transaction, outcomes) = judged.map_err(|error| (error.to_string(), true))?;
        let report = deliver::report_commitment(to, &security, &commitment.called, &transaction, &outcomes, TIMEOUT);
        report.await.map_err(|cause| (cause, true))
    }
}
