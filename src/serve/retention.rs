//! Deletes what is past its retention, now and then.
//!
//! Neighbours: `store` deletes, the configuration says how long things are kept.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tracing::{error, info};

use super::Node;
use crate::store::Retention;

/// How often is looked.
const RETENTION_EVERY: Duration = Duration::from_secs(600);

impl Node {
    pub(super) async fn retention_loop(self: Arc<Self>) {
        self.fill_accessions().await;
        while !self.cancel.is_cancelled() {
            let config = self.config();
            let retention = Retention {
                objects_kept: config.store.objects_kept,
                reports_kept: config.store.reports_kept,
                posteriors_kept: config.store.posteriors_kept,
                evidence_kept: config.store.evidence_kept,
            };
            match self.store.expire(Utc::now(), retention).await {
                Ok(expired) if expired != Default::default() => info!(?expired, "retention"),
                Ok(_) => {}
                Err(error) => error!(%error, "retention failed; it will be tried again"),
            }
            self.pause(&tokio::sync::Notify::new(), RETENTION_EVERY).await;
        }
    }

    /// Studies of an older version get the accession numbers by which they are searched, a few at a time.
    async fn fill_accessions(&self) {
        while !self.cancel.is_cancelled() {
            match self.store.fill_accessions().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return error!(%error, "studies without accession number are looked at at the next start"),
            }
        }
    }
}
