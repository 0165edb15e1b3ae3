//! What scores images, behind one door: the models that run in this process, and those behind model servers.
//!
//! Both take the same inputs and give the same probabilities. Neighbours: `infer` runs the first, `remote` asks the
//! second. Left out: the results of products that score images on their own (`study`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::config;
use crate::domain::{Contract, ModelInput, Precision, Refusal, RefusalCode};
use crate::infer::{
    Coming, Company, Elsewhere, Engine, EngineOptions, ExplainError, InferError, ModelState, Package, Scoring,
};
use crate::pixels::{Parts, SeenFrame};
use crate::remote::{RemoteError, Servers};

/// When an image comes back for which a device had no memory.
const MEMORY_AFTER: Duration = Duration::from_secs(10);
/// For how long it does.
const MEMORY_WAIT: Duration = Duration::from_secs(600);
/// A model server that failed at a covered image hears of no other for so long: at least as long as the maps of a study
/// may take (`explain.time_max`).
const COVERED_AFTER: Duration = Duration::from_secs(60);
/// Covered images of one study that wait at a time.
const COVERED_AT_ONCE: usize = 32;

/// Why a package has no score of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unscored {
    Refused(Refusal),
    /// Its server cannot be asked now, or its device has no memory left, and when it may be worth while: that says
    /// nothing of the image.
    Unavailable {
        after: Duration,
        cause: String,
    },
}

/// What scores images; clones share it.
#[derive(Clone)]
pub struct Scorers {
    engine: Engine,
    servers: Servers,
    /// By the addresses of servers, where several models may be.
    aside: HashMap<String, Aside>,
}

/// What a model server is asked beside scores that somebody waits for: one covered image at a time, over all studies, and
/// none for a while after one failed, so that its breaker hears of no more than that.
#[derive(Clone, Default)]
struct Aside(Arc<tokio::sync::Mutex<Option<(Instant, String)>>>);

impl Aside {
    async fn ask<T>(&self, asking: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
        let mut failed = self.0.lock().await;
        if let Some((at, cause)) = &*failed
            && at.elapsed() < COVERED_AFTER
        {
            let cause = format!("it failed at another covered image a moment ago: {cause}");
            return Err(RemoteError::Unavailable { after: COVERED_AFTER.saturating_sub(at.elapsed()), cause });
        }
        let answer = asking.await;
        *failed = answer.as_ref().err().map(|error| (Instant::now(), error.to_string()));
        answer
    }
}

impl Scorers {
    /// Loads what runs here, warms it up, and asks the servers whether they have what their cards say. Blocks; to be
    /// called on a thread of a runtime that may block.
    pub fn start(packages: &[Package], models: &config::Models) -> anyhow::Result<Self> {
        let here = packages.iter().filter(|p| p.elsewhere.is_none()).cloned().collect();
        let engine = Engine::start(here, EngineOptions::from(models))?;
        if !packages.iter().any(is_server) {
            return Ok(Self { engine, servers: Servers::default(), aside: HashMap::new() });
        }
        let runtime = tokio::runtime::Handle::try_current()?;
        let servers = runtime.block_on(async {
            let servers = Servers::start(packages);
            servers.check().await.map(|()| servers)
        })?;
        let aside = packages.iter().filter_map(address).map(|address| (address, Aside::default())).collect();
        Ok(Self { engine, servers, aside })
    }

    /// Name of the device that the models of this process run on.
    pub(super) fn device(&self) -> &str {
        self.engine.device()
    }

    /// Resolves when the models of this process can score no image any more.
    pub(super) async fn ended(&self) {
        self.engine.ended().await;
    }

    /// What the model computes in; `None` where it is not run here. One precision on all devices.
    pub fn precision(&self, package: &Package) -> Option<Precision> {
        self.engine.placements().iter().find(|p| p.model == package.identity.name).map(|p| p.precision)
    }

    /// How the models of this process do.
    pub(super) fn states(&self) -> Vec<ModelState> {
        self.engine.states()
    }

    /// False while a device of this process has no memory for one image.
    pub(super) fn is_sound(&self) -> bool {
        self.engine.is_sound()
    }

    #[cfg(test)]
    pub(super) fn stats(&self) -> crate::infer::EngineStats {
        self.engine.stats()
    }

    /// How long the package's server is left alone still, if it is: images need not be decoded for it.
    pub(super) fn down_for(&self, package: &Package) -> Option<Duration> {
        if is_server(package) { self.servers.down_for(&package.key()) } else { None }
    }

    /// Says that an image is being prepared for the models of this process, until what comes back is dropped.
    pub(super) fn announce(&self) -> Coming {
        self.engine.announce()
    }

    /// Images that may wait for a model besides those that are being prepared.
    pub(super) fn images_max(&self) -> usize {
        self.engine.images_max().max(self.servers.images_max())
    }

    /// Gives the models the image part by part; the frames that it has. What one contract cannot have, others may.
    ///
    /// # Errors
    /// The inference thread has ended.
    pub(super) async fn hand_over(
        &self,
        mut parts: Parts,
        contracts: &[Contract],
        admitted: &[&Package],
        company: Company,
        asked: &mut [Asked],
    ) -> Result<Result<Vec<SeenFrame>, Refusal>, InferError> {
        let mut frames = Vec::new();
        while let Some(part) = parts.next().await {
            let part = match part {
                Ok(part) => part,
                Err(refusal) => return Ok(Err(refusal)),
            };
            for (package, asked) in admitted.iter().zip(&mut *asked) {
                let place = contracts.iter().position(|c| *c == package.contract);
                let inputs = place.and_then(|place| part.inputs.get(place).cloned()).unwrap_or_else(|| Ok(Vec::new()));
                self.ask(package, inputs, company, asked).await?;
            }
            frames.extend(part.frames);
            if !asked.is_empty() && asked.iter().all(|asked| asked.outputs.is_err()) {
                break;
            }
        }
        Ok(Ok(frames))
    }

    /// Hands these inputs over to the package, all at once, after what it was asked before is answered. Waits while it
    /// has too much to do.
    ///
    /// # Errors
    /// The inference thread has ended.
    async fn ask(
        &self,
        package: &Package,
        inputs: Result<Vec<ModelInput>, Refusal>,
        company: Company,
        asked: &mut Asked,
    ) -> Result<(), InferError> {
        asked.settle(package).await?;
        if asked.outputs.is_err() {
            return Ok(());
        }
        let key = package.key();
        match inputs {
            Err(refusal) => asked.outputs = Err(Unscored::Refused(refusal)),
            Ok(inputs) if is_server(package) => asked.waiting.extend(inputs.into_iter().map(|input| {
                let (servers, key) = (self.servers.clone(), key.clone());
                let score = async move { servers.score(&key, input).await };
                Waiting::Server(AbortOnDropHandle::new(tokio::spawn(score)))
            })),
            Ok(inputs) => {
                for input in inputs {
                    asked.waiting.push(Waiting::Here(self.engine.submit(&key, input, company).await?));
                }
            }
        }
        Ok(())
    }

    /// Grad-CAM of one input, as [`Engine::grad_cam`].
    pub async fn grad_cam(&self, package: &Package, input: ModelInput) -> Result<Vec<Option<Vec<f32>>>, ExplainError> {
        if package.elsewhere.is_some() {
            let why = "the model is not run in this process; occlusion asks its server for scores only";
            return Err(ExplainError::Unavailable(why.to_owned()));
        }
        self.engine.grad_cam(&package.key(), input).await
    }

    /// The score of an input that explains another one: after everything that somebody waits for.
    pub(super) async fn score_covered(&self, package: &Package, input: ModelInput) -> Result<Vec<f64>, RemoteError> {
        if let Some(aside) = address(package).and_then(|address| self.aside.get(&address)) {
            return aside.ask(self.servers.score(&package.key(), input)).await;
        }
        Ok(self.engine.score_covered(&package.key(), input).await?)
    }

    /// The scores of inputs that explain another one, in their order. They are made as others are scored, some at a time; of
    /// a model server, for which somebody may wait, one. The first that fails is the last.
    pub async fn score_all_covered(
        &self,
        package: &Package,
        inputs: impl ExactSizeIterator<Item = ModelInput>,
    ) -> Result<Vec<Vec<f64>>, RemoteError> {
        let mut scores = vec![Vec::new(); inputs.len()];
        let mut running = JoinSet::new();
        let mut waiting = inputs.enumerate();
        let at_once = if package.elsewhere.is_some() { 1 } else { COVERED_AT_ONCE };
        loop {
            while running.len() < at_once
                && let Some((place, input)) = waiting.next()
            {
                let (scorers, package) = (self.clone(), package.clone());
                running.spawn(async move { (place, scorers.score_covered(&package, input).await) });
            }
            let Some(done) = running.join_next().await else { return Ok(scores) };
            let (place, answer) = done.map_err(|_| RemoteError::Failed(InferError::Stopped))?;
            scores[place] = answer?;
        }
    }
}

/// What a package was asked of an image, and what it said so far.
pub(super) struct Asked {
    waiting: Vec<Waiting>,
    /// Frame by frame; or the first reason why it has no score of the image.
    pub(super) outputs: Result<Vec<Vec<f64>>, Unscored>,
}

/// An input that is being scored.
enum Waiting {
    Here(Scoring),
    Server(AbortOnDropHandle<Result<Vec<f64>, RemoteError>>),
}

impl Default for Asked {
    fn default() -> Self {
        Self { waiting: Vec::new(), outputs: Ok(Vec::new()) }
    }
}

impl Asked {
    pub(super) fn failure(&self) -> Option<Refusal> {
        failure(&self.outputs)
    }

    /// Waits for what is under way. After the first failure no other answer counts.
    ///
    /// # Errors
    /// The inference thread has ended.
    pub(super) async fn settle(&mut self, package: &Package) -> Result<(), InferError> {
        for waiting in self.waiting.drain(..) {
            let Ok(outputs) = &mut self.outputs else { break };
            let answer = match waiting {
                Waiting::Here(scoring) => scoring.answer().await.map_err(RemoteError::Failed),
                Waiting::Server(asking) => asking.await.unwrap_or(Err(RemoteError::Failed(InferError::Stopped))),
            };
            match answer {
                Ok(values) => outputs.push(values),
                Err(RemoteError::Failed(InferError::Stopped)) => return Err(InferError::Stopped),
                Err(RemoteError::Failed(InferError::OutOfMemory(cause))) => {
                    self.outputs = Err(Unscored::Unavailable { after: MEMORY_AFTER, cause });
                }
                Err(RemoteError::Failed(error)) => {
                    let failure = format!("{}: {error}", package.identity.name);
                    self.outputs = Err(Unscored::Refused(Refusal::new(RefusalCode::ModelFailed, failure)));
                }
                Err(RemoteError::Unavailable { after, cause }) => {
                    self.outputs = Err(Unscored::Unavailable { after, cause });
                }
            }
        }
        Ok(())
    }
}

/// What the answers of all packages of an image come to.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    /// It is to be read again after so long.
    pub(super) later: Option<Duration>,
    /// Another attempt may change this.
    pub(super) failed: Option<Refusal>,
}

/// Judges an image that has `waited` so long. Where a device had no memory for as long, that is a failure.
pub(super) fn verdict(
    packages: &[&Package],
    outputs: &mut [Result<Vec<Vec<f64>>, Unscored>],
    waited: Duration,
) -> Verdict {
    let mut verdict = Verdict { later: None, failed: None };
    for (package, outcome) in packages.iter().zip(outputs) {
        match outcome {
            Err(Unscored::Unavailable { after, .. }) if waits(package, waited) => {
                verdict.later = verdict.later.max(Some(*after));
            }
            Err(Unscored::Unavailable { cause, .. }) if package.elsewhere.is_none() => {
                let detail = format!("{}: the device had no memory: {cause}", package.identity.name);
                *outcome = Err(Unscored::Refused(Refusal::new(RefusalCode::ModelFailed, detail)));
            }
            _ => {}
        }
        verdict.failed = verdict.failed.or_else(|| failure(outcome));
    }
    verdict
}

/// Whether an image that has `waited` so long waits still, for the package's server or for memory.
pub(super) fn waits(package: &Package, waited: Duration) -> bool {
    match &package.elsewhere {
        Some(Elsewhere::Server(server)) => waited < server.wait,
        Some(Elsewhere::Product(_)) => false,
        None => waited < MEMORY_WAIT,
    }
}

/// The refusal of an image that a model failed at.
fn failure(outcome: &Result<Vec<Vec<f64>>, Unscored>) -> Option<Refusal> {
    match outcome {
        Err(Unscored::Refused(refusal)) if refusal.code == RefusalCode::ModelFailed => Some(refusal.clone()),
        _ => None,
    }
}

fn is_server(package: &Package) -> bool {
    matches!(package.elsewhere, Some(Elsewhere::Server(_)))
}

fn address(package: &Package) -> Option<String> {
    match &package.elsewhere {
        Some(Elsewhere::Server(server)) => Some(server.url.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn the_frames_of_an_image_are_scored_together_and_by_all_models_at_the_same_time() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let packages: Vec<Package> =
            ["demo-race", "demo-clinical"].map(|name| Package::load(&dir.join(name)).expect("a demo model")).into();
        let models = config::Models {
            dir,
            race: None,
            race_prior: None,
            clinical: Vec::new(),
            devices: vec![config::Device::Cpu],
            precision: config::PrecisionChoice::Named(Precision::Fp32),
            batch_max: 8,
            batch_delay: Duration::from_secs(86_400),
            threads: 1,
            deterministic: false,
        };
        let scorers = Scorers::start(&packages, &models).expect("models that start");
        assert_eq!(scorers.images_max(), 16);
        let coming = scorers.announce();
        let mut asked = [Asked::default(), Asked::default()];
        for (package, asked) in packages.iter().zip(&mut asked) {
            let black =
                ModelInput { contract: package.contract.digest(), plane: vec![0.0; package.contract.plane_len()] };
            scorers.ask(package, Ok(vec![black; 5]), Company::Any, asked).await.expect("an engine");
        }
        drop(coming);
        for (package, mut asked) in packages.iter().zip(asked) {
            asked.settle(package).await.expect("an engine");
            assert_eq!(asked.outputs.expect("scores").len(), 5);
        }
        let stats = scorers.engine.stats();
        assert_eq!((stats.batches, stats.inputs), (2, 10));
    }

    #[tokio::test]
    async fn a_server_hears_of_one_covered_image_at_a_time_and_of_none_after_one_failed() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (aside, asked, at_once) = (Aside::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let asking = async |answer: Result<u32, RemoteError>| {
            asked.fetch_add(1, Ordering::Relaxed);
            assert_eq!(at_once.fetch_add(1, Ordering::Relaxed), 0);
            tokio::task::yield_now().await;
            at_once.fetch_sub(1, Ordering::Relaxed);
            answer
        };
        // Of three studies.
        let (a, b, c) = (aside.ask(asking(Ok(1))), aside.ask(asking(Ok(2))), aside.ask(asking(Ok(3))));
        assert_eq!(tokio::join!(a, b, c), (Ok(1), Ok(2), Ok(3)));
        let failure = RemoteError::Unavailable { after: Duration::ZERO, cause: "nobody listens".into() };
        let (a, b) = (aside.ask(asking(Err(failure.clone()))), aside.ask(asking(Ok(5))));
        let (a, b) = tokio::join!(a, b);
        assert_eq!(a, Err(failure));
        assert!(b.unwrap_err().to_string().contains("another covered image a moment ago: the model server cannot"));
        assert_eq!(asked.load(Ordering::Relaxed), 4, "the last one was not asked");
        *aside.0.lock().await = Instant::now().checked_sub(COVERED_AFTER).map(|at| (at, String::new()));
        assert_eq!(aside.ask(asking(Ok(6))).await, Ok(6));
    }

    #[test]
    fn an_image_waits_for_memory_a_while_and_is_never_kept_without_a_score_at_once() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let [race, clinical] =
            ["demo-race", "demo-clinical"].map(|name| Package::load(&dir.join(name)).expect("a demo model"));
        let judge = |outcome: Unscored, waited: Duration| {
            let mut outputs = [Err(outcome), Ok(vec![vec![0.5]])];
            let Verdict { later, failed } = verdict(&[&race, &clinical], &mut outputs, waited);
            (later, failed.map(|refusal| refusal.code))
        };
        let full = || Unscored::Unavailable { after: MEMORY_AFTER, cause: "out of memory".into() };
        assert_eq!(judge(full(), Duration::ZERO), (Some(MEMORY_AFTER), None));
        assert_eq!(judge(full(), MEMORY_WAIT), (None, Some(RefusalCode::ModelFailed)));
        let refused = |code| Unscored::Refused(Refusal::new(code, "a reason"));
        assert_eq!(judge(refused(RefusalCode::ModelFailed), Duration::ZERO).1, Some(RefusalCode::ModelFailed));
        assert_eq!(judge(refused(RefusalCode::Inconsistent), Duration::ZERO), (None, None));
    }
}
