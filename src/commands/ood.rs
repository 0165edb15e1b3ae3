//! `model ood-fit`: what a model knows, from images of the site, into its card.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use sidelight::config::{Config, PrecisionChoice};
use sidelight::domain::{Precision, Purpose, Refusal};
use sidelight::infer::{self, Engine, EngineOptions, InferError, KnownFrame, OodMethod, Package};
use sidelight::pixels::{Frames, Workers};
use tokio::sync::Semaphore;

use super::analyse::find_files;
use super::evidence::may_audit;
use super::{print, print_json, progress, table};

/// What is fitted, and to what.
#[derive(Debug)]
pub struct OodFitOptions {
    pub name: String,
    pub paths: Vec<PathBuf>,
    pub method: OodMethod,
    /// Of studies that are not beyond the threshold.
    pub percentile: f64,
    pub json: bool,
}

/// Reads and scores the images, fits the score in fp32, and writes it into the package's card.
pub async fn fit(config: &Config, options: OodFitOptions) -> anyhow::Result<ExitCode> {
    let OodFitOptions { name, paths, method, percentile, json } = options;
    let _lock = infer::lock(&config.models.dir)?;
    let package = super::models::load(config, &name)?;
    if package.purpose == Purpose::Race {
        may_audit(config)?;
    }
    anyhow::ensure!(package.elsewhere.is_none(), "{name} is not run here: its card cannot have such a score");
    let files = find_files(&paths)?;
    anyhow::ensure!(!files.is_empty(), "no DICOM file found: name files, or folders that hold some");
    let collecting = infer::collecting(&package, method)?;
    let mut engine = EngineOptions::from(&config.models);
    engine.precision = PrecisionChoice::Named(Precision::Fp32);
    let asked = collecting.clone();
    let engine = tokio::task::spawn_blocking(move || Engine::start(vec![asked], engine))
        .await
        .context("loading the model ended early")??;
    let (frames, left_out) = read_all(config, &collecting, engine, files).await?;
    let whole = package.clone();
    let fit = tokio::task::spawn_blocking(move || infer::fit_ood(&whole, method, &frames, percentile))
        .await
        .context("fitting ended early")??;
    infer::write_ood(&package.dir, &fit)?;
    Package::load(&package.dir)?;
    if json {
        print_json(&json!({
            "name": name, "ood": fit.card, "studies": fit.studies, "frames": fit.frames, "median": fit.median,
            "left_out": left_out,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let spent = if fit.frames > 0 { format!("{} images of other patients", fit.frames) } else { String::new() };
    let rows = [
        ("mean and covariance", spent),
        ("threshold", format!("{:.4}, not exceeded by {percentile} % of {} studies", fit.threshold, fit.studies)),
        ("median of the studies", format!("{:.4}", fit.median)),
        ("images left out", left_out.to_string()),
    ];
    print(&table(&["", ""], rows.into_iter().filter(|r| !r.1.is_empty()).map(|(k, v)| vec![k.to_owned(), v])))?;
    print(&format!("[ood] is in the card of {}; a node that runs has it after a restart", package.key()))?;
    Ok(ExitCode::SUCCESS)
}

/// What the package answers to the frames of these files, and how many files are none of its images.
async fn read_all(
    config: &Config,
    package: &Package,
    engine: Engine,
    files: Vec<PathBuf>,
) -> anyhow::Result<(Vec<KnownFrame>, usize)> {
    let executable = std::env::current_exe().context("this program's own path is not known")?;
    let workers = Workers::start(&config.pixels, executable);
    let bar = progress(files.len() as u64, "reading");
    let places = Arc::new(Semaphore::new(config.pixels.workers + 1));
    let mut running = tokio::task::JoinSet::new();
    for (index, path) in files.into_iter().enumerate() {
        let place = Arc::clone(&places).acquire_owned().await.context("reading was stopped")?;
        let (workers, engine, package, bar) = (workers.clone(), engine.clone(), package.clone(), bar.clone());
        running.spawn(async move {
            let read = read(&workers, &engine, &package, &path).await;
            bar.inc(1);
            drop(place);
            (index, path, read)
        });
    }
    let (mut read, mut left_out) = (Vec::new(), 0);
    while let Some(done) = running.join_next().await {
        let (index, path, frames) = done.context("reading a file ended early")?;
        match frames.with_context(|| path.display().to_string())? {
            Ok(frames) => read.push((index, frames)),
            Err(refusal) => {
                left_out += 1;
                tracing::info!(%refusal, "an image is left out");
            }
        }
    }
    bar.finish_and_clear();
    // A fit does not depend on which file was read first.
    read.sort_by_key(|(index, _)| *index);
    Ok((read.into_iter().flat_map(|(_, frames)| frames).collect(), left_out))
}

async fn read(
    workers: &Workers,
    engine: &Engine,
    package: &Package,
    path: &Path,
) -> Result<Result<Vec<KnownFrame>, Refusal>, InferError> {
    let normalised = async {
        let header = workers.read_header(path).await?;
        package.scope.admits(&header)?;
        package.contract.admits(&header)?;
        let contracts = std::slice::from_ref(&package.contract);
        Ok::<_, Refusal>((header, workers.normalise(path, contracts, Frames::default()).await?))
    };
    let (header, normalised) = match normalised.await {
        Ok(normalised) => normalised,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let patient = header.patient_id().unwrap_or_else(|| header.study.to_string());
    let mut frames = Vec::new();
    for input in normalised.inputs {
        let outputs = engine.score(&package.key(), input).await?;
        let (study, image) = (header.study.clone(), header.sop_instance.clone());
        frames.push(KnownFrame { patient: patient.clone(), study, image, outputs });
    }
    Ok(Ok(frames))
}
