//! Clinical models behind a model server: the Open Inference Protocol v2 over HTTP (KServe, Triton, MLServer).
//!
//! ```text
//! score ─▶ bounded queue ─▶ batch (size, delay) ─▶ breaker ─▶ request, retried ─▶ answer, checked ─▶ probabilities
//! ```
//! [`Servers`] is for such packages what [`crate::infer::Engine`] is for those that are run here: the same inputs by
//! the same contracts, the same checks of what comes out. A server that cannot be reached is trouble of the node and
//! says nothing of an image: [`RemoteError::Unavailable`] names when to come back. Neighbours: `protocol` is the bytes
//! (pure), `batch` the queue and its task, `breaker` when to leave a server alone (pure), `wire` the HTTP client,
//! `infer` the packages. Left out: how long an image waits in the end (`analyse`), and gRPC.

mod batch;
mod breaker;
mod protocol;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::ModelInput;
use crate::infer::{Elsewhere, InferError, Package};

use batch::Client;

/// Why an image has no score by a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The server cannot be asked now: that says nothing of the image.
    #[error("the model server cannot be asked now: {cause}")]
    Unavailable {
        /// When it may be worth while.
        after: Duration,
        cause: String,
    },
    /// It answered, and there is no score of this image in it.
    #[error(transparent)]
    Failed(#[from] InferError),
}

/// A server says other things of its model than the card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model {model} and its server {server} do not fit: {reason}")]
pub struct Contradiction {
    pub model: String,
    pub server: String,
    pub reason: String,
}

/// The model servers of all packages that have one; clones share their queues and connections.
#[derive(Clone, Default)]
pub struct Servers(HashMap<String, Client>);

impl Servers {
    /// One queue for each package with a server, on the current runtime.
    pub fn start(packages: &[Package]) -> Self {
        let client = |package: &Package| match &package.elsewhere {
            Some(Elsewhere::Server(server)) => Some((package.key(), Client::start(package, server))),
            _ => None,
        };
        Self(packages.iter().filter_map(client).collect())
    }

    /// Asks each server whether it has the model of the card, and scores an image of zeros. A server that cannot be
    /// asked now is told in the log: images wait for it.
    ///
    /// # Errors
    /// [`Contradiction`] where a server answers something else than its card says.
    pub async fn check(&self) -> Result<(), Contradiction> {
        for client in self.0.values() {
            match client.check().await {
                Ok(()) => tracing::info!(model = client.name(), server = client.peer(), "the model server answers"),
                Err(RemoteError::Unavailable { cause, .. }) => {
                    let (model, server) = (client.name(), client.peer());
                    tracing::warn!(model, server, cause, "the model server cannot be asked; images wait for it");
                }
                Err(RemoteError::Failed(error)) => {
                    let (model, server) = (client.name().to_owned(), client.peer());
                    return Err(Contradiction { model, server, reason: error.to_string() });
                }
            }
        }
        Ok(())
    }

    /// Asks one server as [`Servers::check`] does; here an error too if it cannot be asked.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn probe(&self, model: &str) -> Result<(), RemoteError> {
        self.client(model)?.check().await
    }

    /// Scores one image. `model` is [`crate::domain::ModelIdentity::key`]. Probabilities come back in the order of the
    /// card's findings. Waits while the queue is full; cancel-safe.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn score(&self, model: &str, input: ModelInput) -> Result<Vec<f64>, RemoteError> {
        self.client(model)?.score(input).await
    }

    /// How long the server of this model is left alone still, if it is.
    pub fn down_for(&self, model: &str) -> Option<Duration> {
        self.0.get(model)?.down_for()
    }

    /// Images that may wait for a server or be under way to it: those of one that has most room.
    pub fn images_max(&self) -> usize {
        self.0.values().map(Client::images_max).max().unwrap_or(0)
    }

    fn client(&self, model: &str) -> Result<&Client, RemoteError> {
        self.0.get(model).ok_or_else(|| InferError::UnknownModel(model.to_owned()).into())
    }
}
