//! What scores images, behind one door: the models that run in this process, and those behind model servers.
//!
//! Both take the same inputs and give the same probabilities. Neighbours: `infer` runs the first, `remote` asks the
//! second. Left out: the results of products that score images on their own (`study`).

use std::time::Duration;

use crate::config;
use crate::domain::{ModelInput, Refusal, RefusalCode};
use crate::infer::{Elsewhere, Engine, EngineOptions, ExplainError, InferError, Package};
use crate::remote::{RemoteError, Servers};

/// Why a package has no score of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unscored {
    Refused(Refusal),
    /// Its server cannot be asked now, and when it may be worth while: that says nothing of the image.
    Unavailable {
        after: Duration,
        cause: String,
    },
}

#[derive(Clone)]
pub(super) struct Scorers {
    engine: Engine,
    servers: Servers,
}

impl Scorers {
    /// Loads what runs here, warms it up, and asks the servers whether they have what their cards say. Blocks; to be
    /// called on a thread of a runtime that may block.
    pub(super) fn start(packages: &[Package], models: &config::Models) -> anyhow::Result<Self> {
        let here = packages.iter().filter(|p| p.elsewhere.is_none()).cloned().collect();
        let engine = Engine::start(here, EngineOptions::from(models))?;
        if !packages.iter().any(is_server) {
            return Ok(Self { engine, servers: Servers::default() });
        }
        let runtime = tokio::runtime::Handle::try_current()?;
        let servers = runtime.block_on(async {
            let servers = Servers::start(packages);
            servers.check().await.map(|()| servers)
        })?;
        Ok(Self { engine, servers })
    }

    /// Name of the device that the models of this process run on.
    pub(super) fn device(&self) -> &str {
        self.engine.device()
    }

    /// Resolves when the models of this process can score no image any more.
    pub(super) async fn ended(&self) {
        self.engine.ended().await;
    }

    /// How long the package's server is left alone still, if it is: images need not be decoded for it.
    pub(super) fn down_for(&self, package: &Package) -> Option<Duration> {
        if is_server(package) { self.servers.down_for(&package.key()) } else { None }
    }

    /// Adds the model's outputs for these inputs, one by one; or the first reason why it has none for the image.
    ///
    /// # Errors
    /// The inference thread has ended.
    pub(super) async fn score(
        &self,
        package: &Package,
        inputs: Result<Vec<ModelInput>, Refusal>,
        outputs: &mut Result<Vec<Vec<f64>>, Unscored>,
    ) -> Result<(), InferError> {
        let Ok(scored) = outputs else { return Ok(()) };
        let inputs = match inputs {
            Ok(inputs) => inputs,
            Err(refusal) => {
                *outputs = Err(Unscored::Refused(refusal));
                return Ok(());
            }
        };
        for input in inputs {
            match self.score_one(package, input).await {
                Ok(values) => scored.push(values),
                Err(RemoteError::Failed(InferError::Stopped)) => return Err(InferError::Stopped),
                Err(RemoteError::Failed(error)) => {
                    let failure = format!("{}: {error}", package.identity.name);
                    *outputs = Err(Unscored::Refused(Refusal::new(RefusalCode::ModelFailed, failure)));
                    return Ok(());
                }
                Err(RemoteError::Unavailable { after, cause }) => {
                    *outputs = Err(Unscored::Unavailable { after, cause });
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Grad-CAM of one input, as [`Engine::grad_cam`].
    pub(super) async fn grad_cam(
        &self,
        package: &Package,
        input: ModelInput,
    ) -> Result<Vec<Option<Vec<f32>>>, ExplainError> {
        if package.elsewhere.is_some() {
            let why = "the model is not run in this process; occlusion asks its server for scores only";
            return Err(ExplainError::Unavailable(why.to_owned()));
        }
        self.engine.grad_cam(&package.key(), input).await
    }

    /// The score of an input that explains another one: after everything that somebody waits for.
    pub(super) async fn score_covered(&self, package: &Package, input: ModelInput) -> Result<Vec<f64>, RemoteError> {
        if is_server(package) {
            return self.servers.score(&package.key(), input).await;
        }
        Ok(self.engine.score_covered(&package.key(), input).await?)
    }

    async fn score_one(&self, package: &Package, input: ModelInput) -> Result<Vec<f64>, RemoteError> {
        let key = package.key();
        if is_server(package) {
            return self.servers.score(&key, input).await;
        }
        Ok(self.engine.score(&key, input).await?)
    }
}

fn is_server(package: &Package) -> bool {
    matches!(package.elsewhere, Some(Elsewhere::Server(_)))
}
