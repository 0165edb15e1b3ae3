//! Whether the disk is believed.
//!
//! A sync that failed may have thrown away what it was to write, while the page cache goes on showing it; a second
//! sync then succeeds and says nothing (the kernel reports such an error once). So nothing is synced twice: a file
//! whose sync failed is discarded by `upload`, and where a folder or the index was concerned, which hold more than
//! one object, the store as a whole is not believed any more. It takes nothing in and answers nothing with Success,
//! the node stops, and the next start reads back from the disk what was acknowledged lately (`verify`).

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tracing::error;

use super::StoreError;

/// Shared by everything that syncs; lost once and for the life of the process.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    cause: OnceLock<String>,
    lost: CancellationToken,
}

impl Trust {
    pub(super) fn lose(&self, cause: impl Into<String>) {
        let cause = cause.into();
        if self.0.cause.set(cause.clone()).is_ok() {
            error!(cause, "the disk failed to keep what it was told to keep; nothing is acknowledged any more");
        }
        self.0.lost.cancel();
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.0.cause.get() {
            Some(cause) => Err(StoreError::Distrusted(cause.clone())),
            None => Ok(()),
        }
    }

    /// Resolves with the cause once trust is lost.
    pub(super) async fn lost(&self) -> &str {
        self.0.lost.cancelled().await;
        self.0.cause.get().map_or("unknown", String::as_str)
    }
}
