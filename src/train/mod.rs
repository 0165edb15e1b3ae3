//! Training: a recipe in, a model package out.
//!
//! [`run`] takes the images of a recipe (phantoms it generates, or a table of DICOM files, PNGs and JPEGs), splits them
//! by patient, trains a network with early stopping, measures it on patients it never saw, and writes TorchScript and
//! card. The same recipe and seed on the same machine with the same number of threads give the same file, also where the
//! training was killed on its way and resumed. Reading order: `recipe`, `settings`, `manifest`, `data`, `images`,
//! `split`, `nets`, `augment`, `loader`, `fit` (with `adam`, `loss`, `schedule`), `checkpoint`, `evaluate`, `calibrate`,
//! `package`, `curve`. Neighbours: `phantom` and `pixels` give images (in process: these files are trusted), `infer` the
//! layers, the export and the card. Left out: more than one device or machine, hyper-parameter search.

mod adam;
mod augment;
mod calibrate;
mod checkpoint;
mod curve;
mod data;
mod evaluate;
mod fit;
mod images;
mod loader;
mod loss;
mod manifest;
mod nets;
mod package;
mod progress;
mod recipe;
mod schedule;
mod settings;
mod split;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};

use crate::config;
use crate::domain::Digest;
use crate::infer::{self, Package};

use checkpoint::Checkpoints;
use data::Keeping;
use package::Origin;

pub use data::{Dataset, Part, Sample, Target};
pub use evaluate::{Evaluation, FindingThreshold};
pub use fit::{EpochReport, FitOptions, Fitted, Machine, fit};
pub use loader::LoaderOptions;
pub use nets::{Network, NetworkKind};
pub use progress::{Event, bars};
pub use recipe::{Recipe, RecipeError};

/// Where a recipe is read from and its results go.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    pub recipe: PathBuf,
    /// Folder of model packages; the package becomes `<out_dir>/<name>`.
    pub out_dir: PathBuf,
    /// Where generated phantoms are kept, to be used again by the next recipe that wants the same ones.
    pub cache_dir: PathBuf,
    /// Folder of the checkpoint, the loss curve and the list of rejects; without it `<out_dir>/.training/<name>`.
    pub work_dir: Option<PathBuf>,
    /// Go on from the checkpoint, if there is one.
    pub resume: bool,
    /// The package may take the place of one of the same name with other weights.
    pub replace: bool,
    /// Batches between checkpoints within an epoch; 0: none.
    pub checkpoint_batches: usize,
    pub device: config::Device,
    /// Threads of libtorch; 0: as many as there are cores. Results depend on it in the last digits.
    pub threads: usize,
    /// Threads that load and change images; 0: one beside a CPU, as many as there are cores beside a GPU.
    pub loaders: usize,
    /// Decoded images beyond so many bytes are kept in a file.
    pub memory_bytes_max: u64,
}

/// What came out of a training run.
#[derive(Debug)]
pub struct Outcome {
    pub package: Package,
    pub epochs: Vec<EpochReport>,
    /// Figures on the held-out patients, as in the card.
    pub evaluation: Evaluation,
    /// SHA-256 of the weight file.
    pub weights: Digest,
}

/// Runs a recipe from data to package. `progress` hears of every step.
pub fn run(options: &TrainOptions, progress: &(dyn Fn(Event) + Sync)) -> anyhow::Result<Outcome> {
    let recipe = Recipe::read(&options.recipe)?;
    let contract = recipe.contract()?;
    let place = options.out_dir.join(&recipe.name);
    if place.exists() && !options.replace {
        tracing::warn!(folder = %place.display(), "a package is there: another one will need --replace in the end");
    }
    let is_torchvisions = matches!(recipe.network.architecture, nets::TrainableArchitecture::Torchvision(_));
    if is_torchvisions && recipe.network.start_weights.is_none() {
        tracing::warn!(
            "the network starts from random weights, which takes far more images and epochs than from ImageNet's: give \
             network.start_weights (docs/training.md, \"Start weights\")"
        );
    }
    let (work_dir, _lock) = work_dir(options, &recipe)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { cores } else { options.threads };
    tch::set_num_threads(i32::try_from(threads)?);
    infer::keep_memory();
    let device = infer::resolve_device(options.device)?;
    if device.is_cuda() {
        infer::set_deterministic(true);
    }

    let mut manifest = data::manifest(&recipe, &options.cache_dir, progress)?;
    let keeping = Keeping { memory_bytes_max: options.memory_bytes_max, spill_dir: &work_dir };
    let loaded = Dataset::load(&mut manifest, &recipe, &contract, keeping, progress);
    manifest::write_rejected(&work_dir.join("rejected.csv"), &manifest.rejected)?;
    let dataset = loaded?;
    progress(Event::Data {
        images: dataset.len() as u64,
        patients: dataset.samples.iter().map(|s| &s.patient).collect::<BTreeSet<_>>().len() as u64,
        rejected: manifest.rejected.len() as u64,
    });
    let split = split::by_patient(&dataset.samples, recipe.data.split, recipe.seed);
    split.check(&dataset, &recipe)?;
    let groups = dataset.samples.iter().map(|s| s.group.as_str()).filter(|group| !group.is_empty()).collect();
    if let Some(clash) = evaluate::name_clash(&recipe, &groups) {
        anyhow::bail!("recipe {}: {clash}", options.recipe.display());
    }

    let automatic = if device.is_cuda() { cores } else { 1 };
    let loaders = if options.loaders == 0 { automatic } else { options.loaders };
    let checkpoints = Checkpoints {
        folder: work_dir.clone(),
        recipe: recipe.fit_digest(),
        data: dataset.digest.clone(),
        machine: format!("sidelight {}, {device:?}, {threads} threads", env!("CARGO_PKG_VERSION")),
        batches: options.checkpoint_batches,
    };
    let machine = Machine {
        device,
        loader: LoaderOptions { threads: loaders, ..LoaderOptions::default() },
        checkpoints: Some(checkpoints.clone()),
        resume: options.resume,
    };
    let curve = Curve { folder: &work_dir, recipe: &recipe, epochs: Mutex::new(Vec::new()) };
    let fitted = fit(&dataset, &split, &recipe.fit_options(), &machine, &|event| {
        curve.hear(&event);
        progress(event);
    })?;
    let evaluation = evaluate::evaluate(&fitted.network, &dataset, &split, &recipe, &machine)?;
    let (epochs, origin) = (fitted.epochs.clone(), Origin::new(&options.recipe, &recipe, &dataset, &split));
    let package = package::write(&recipe, fitted, &evaluation, &origin, &options.out_dir, options.replace)?;
    checkpoints.remove()?;
    Ok(Outcome { weights: package.identity.weights.clone(), package, epochs, evaluation })
}

/// Makes the folder of the run; hours of work are not begun anew by accident.
fn work_dir(options: &TrainOptions, recipe: &Recipe) -> anyhow::Result<(PathBuf, std::fs::File)> {
    let folder = options.work_dir.clone().unwrap_or_else(|| options.out_dir.join(".training").join(&recipe.name));
    for folder in [&options.out_dir, &folder] {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    stands_apart(&folder, &options.out_dir, &recipe.name)?;
    let lock = Checkpoints::lock(&folder)?;
    let checkpoint = Checkpoints::file(&folder);
    ensure!(
        options.resume || !checkpoint.exists(),
        "{} is of a training that has not ended: go on with --resume, or remove it to begin anew",
        checkpoint.display()
    );
    Ok((folder, lock))
}

/// What stands in the package's place goes when the package is replaced, and a folder of packages is no place for a
/// checkpoint.
fn stands_apart(work_dir: &Path, out_dir: &Path, name: &str) -> anyhow::Result<()> {
    let real = |folder: &Path| folder.canonicalize().with_context(|| folder.display().to_string());
    let (work, out) = (real(work_dir)?, real(out_dir)?);
    if work != out && !work.starts_with(out.join(name)) {
        return Ok(());
    }
    // What was made a moment ago; no folder that has something in it.
    for folder in [&work, &out.join(name)] {
        let _ = std::fs::remove_dir(folder);
    }
    let work_dir = work_dir.display();
    anyhow::bail!("{work_dir} is where packages go, --work is to be another folder than --out and than the package's")
}

/// Keeps the loss curve up to date.
struct Curve<'a> {
    folder: &'a Path,
    recipe: &'a Recipe,
    epochs: Mutex<Vec<EpochReport>>,
}

impl Curve<'_> {
    fn hear(&self, event: &Event) {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Resumed { epochs: before, .. } => *epochs = before.clone(),
            Event::Epoch(report) => epochs.push(report.clone()),
            _ => return,
        }
        if let Err(error) = curve::write(self.folder, &self.recipe.keys(), &epochs) {
            tracing::warn!(error = format!("{error:#}"), "the loss curve cannot be written");
        }
    }
}

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
