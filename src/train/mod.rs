//! Training: a recipe in, a model package out.
//!
//! [`run`] takes the images of a recipe (phantoms it generates, or a folder with `labels.csv`), splits them by
//! patient, trains a network with early stopping, measures it on patients it never saw, and writes TorchScript and
//! card. The same recipe and seed on the same machine with the same number of threads give the same file. Reading
//! order: `recipe`, `data`, `split`, `nets`, `augment`, `fit`, `evaluate`, `package`. Neighbours: `phantom` and
//! `pixels` give images (in process: these files are trusted), `infer` the layers, the export and the card. Left
//! out: more than one machine, mixed precision, hyper-parameter search.

mod augment;
mod data;
mod evaluate;
mod fit;
mod nets;
mod package;
mod progress;
mod recipe;
mod split;

use std::path::{Path, PathBuf};

use crate::config;
use crate::domain::Digest;
use crate::infer::{self, Package};

pub use data::{Dataset, Sample, Target};
pub use evaluate::{Evaluation, FindingThreshold};
pub use fit::{EpochReport, FitOptions, Fitted, fit};
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
    pub device: config::Device,
    /// Threads of libtorch; 0: as many as there are cores. Results depend on it in the last digits.
    pub threads: usize,
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
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { cores } else { options.threads };
    tch::set_num_threads(i32::try_from(threads)?);
    let device = infer::resolve_device(options.device)?;

    let folder = data::folder(&recipe, &options.cache_dir, progress)?;
    let dataset = Dataset::load(&folder, &recipe, &contract, progress)?;
    let split = split::by_patient(&dataset.samples, recipe.data.split, recipe.seed);
    split.check(&dataset, &recipe)?;

    let fitted = fit(&dataset, &split, &recipe.fit_options(), device, progress)?;
    let evaluation = evaluate::evaluate(&fitted.network, &dataset, &split, &recipe, device)?;
    let package = package::write(&recipe, &fitted, &evaluation, &dataset, &options.out_dir)?;
    Ok(Outcome { weights: package.identity.weights.clone(), package, epochs: fitted.epochs, evaluation })
}

/// The package folder that a recipe writes below `out_dir`.
pub fn package_dir(out_dir: &Path, recipe: &Recipe) -> PathBuf {
    out_dir.join(&recipe.name)
}

#[cfg(test)]
mod tests;
