//! From a trained network to a model package: TorchScript, card, and the log of its epochs.
//!
//! The package is loaded and warmed up by the engine before it counts as written. Neighbours: `infer::export`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::domain::{Digest, Probability, Uid};
use crate::infer::{
    self, CalibrationCard, Card, Engine, EngineOptions, FindingCard, Format, GroupCard, OutputCard, Package, Provenance,
};

use super::curve;
use super::data::Dataset;
use super::evaluate::{Evaluation, FindingThreshold, activation};
use super::fit::Fitted;
use super::recipe::Recipe;
use super::settings::Balance;
use super::split::Split;

/// Namespace of the Device UIDs of trained models (PS3.5 B.2).
const NAMESPACE: uuid::Uuid = uuid::Uuid::from_u128(0x4e0d_6f7a_31c5_4f0b_9a55_8d1c_0c2b_7e11);

/// What a package was made of.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Images of the training, validation and test part.
    pub images: [usize; 3],
    /// Recipe, data and start weights, each with its digest.
    pub recipe: String,
    /// Of the groups in what the network saw; empty for findings.
    pub shares: Vec<f64>,
}

impl Origin {
    pub fn new(path: &Path, recipe: &Recipe, dataset: &Dataset, split: &Split) -> Self {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let mut text = format!("{file}, digest {}; images and labels {}", recipe.digest(), dataset.digest);
        if let Some(start) = &recipe.network.start_weights {
            text.push_str(&format!("; start weights {}", start.sha256));
        }
        let images = [&split.train, &split.validation, &split.test].map(Vec::len);
        let groups = recipe.output.groups.len();
        let share = |i: usize| {
            let n = split.train.iter().filter(|p| dataset.samples[**p].target.is(i) == Some(true)).count();
            n as f64 / split.train.len().max(1) as f64
        };
        let shares = match recipe.output.balance {
            Balance::None => (0..groups).map(share).collect(),
            // Each group counted as much as any other.
            Balance::Weights | Balance::Sampling => vec![1.0 / groups as f64; groups],
        };
        // Six digits, never 0: a rare group is there.
        let shares = shares.into_iter().map(|s: f64| ((s * 1e6).round() / 1e6).max(1e-6)).collect();
        Self { images, recipe: text, shares }
    }

    /// The recipe's groups, with their shares unless it has its own.
    fn groups(&self, recipe: &Recipe) -> Vec<GroupCard> {
        let mut groups = recipe.output.groups.clone();
        if groups.iter().all(|g| g.share.is_none()) {
            groups.iter_mut().zip(&self.shares).for_each(|(group, share)| group.share = Some(*share));
        }
        groups
    }
}

/// Writes `<out_dir>/<name>`, all at once or not at all. What is there with other weights stays, unless `replace`.
pub fn write(
    recipe: &Recipe,
    fitted: Fitted,
    evaluation: &Evaluation,
    origin: &Origin,
    out_dir: &Path,
    replace: bool,
) -> anyhow::Result<Package> {
    let contract = recipe.contract()?;
    // Packages are written on the CPU, whatever trained them.
    let mut network = fitted.network;
    network.store.set_device(tch::Device::Cpu);
    let module = infer::trace(&network.forward, &contract)?;
    let room = infer::Room::new(out_dir)?;
    let dir = room.dir(&recipe.name);
    let header = format!(
        "Model card of {}, written by `sidelight train`.\nChanging weights or thresholds makes another model: raise the version, give it a UID.",
        recipe.name
    );
    let package = infer::write_package(&dir, card(recipe, evaluation, origin), &module, &header)?;
    curve::write_table(&dir.join("training.csv"), &recipe.keys(), &fitted.epochs)?;
    // The last word is the engine's: what does not start is not written.
    Engine::start(vec![package.clone()], EngineOptions { batch_max: 2, ..EngineOptions::default() })?;
    Ok(Package::load(&room.publish(&package, replace)?)?)
}

/// The rule of a card that the recipe breaks: hours of training are not begun for a package that is none.
pub fn fault(recipe: &Recipe) -> Option<String> {
    // Any will do: thresholds come from the validation patients.
    let threshold = Probability::new(0.5).ok()?;
    let figures = Evaluation {
        thresholds: recipe.keys().into_iter().map(|key| FindingThreshold { key: key.to_owned(), threshold }).collect(),
        temperature: None,
        metrics: BTreeMap::new(),
    };
    let origin = Origin { images: [0; 3], recipe: String::new(), shares: Vec::new() };
    infer::fault_of(&card(recipe, &figures, &origin))
}

fn card(recipe: &Recipe, evaluation: &Evaluation, origin: &Origin) -> Card {
    let [train, validation, test] = origin.images;
    let identity = format!("{}@{}", recipe.name, recipe.version);
    let changes = recipe.data.changes().name;
    let changed = if changes.is_empty() { changes } else { format!("; all of them changed: {changes}") };
    let findings = recipe
        .output
        .findings
        .iter()
        .zip(&evaluation.thresholds)
        .map(|(finding, found)| FindingCard {
            key: finding.key.clone(),
            column: None,
            threshold: found.threshold,
            code: finding.code.clone(),
            site: finding.site.clone(),
        })
        .collect();
    Card {
        name: recipe.name.clone(),
        version: recipe.version.clone(),
        manufacturer: recipe.manufacturer.clone(),
        purpose: recipe.purpose,
        format: Format::TorchScript,
        architecture: None,
        file: String::new(),
        // File and hash are set when the weights are written.
        sha256: Digest::of(b""),
        device_uid: Uid::from_uuid(uuid::Uuid::new_v5(&NAMESPACE, identity.as_bytes())),
        phantoms_only: recipe.phantoms_only,
        input: recipe.input.clone(),
        output: OutputCard {
            activation: activation(recipe.purpose),
            columns: None,
            groups: origin.groups(recipe),
            findings,
        },
        precision: Vec::new(),
        scope: recipe.scope.clone(),
        aggregation: recipe.aggregation.clone(),
        calibration: evaluation.temperature.map(|temperature| CalibrationCard::Temperature { temperature }),
        ood: None,
        golden: None,
        server: None,
        result: None,
        provenance: Provenance {
            training_data: format!(
                "{} (images: {train} trained on, {validation} for validation, {test} for the figures{changed})",
                recipe.card.training_data
            ),
            intended_use: recipe.card.intended_use.clone(),
            limits: recipe.card.limits.clone(),
            license: recipe.card.license.clone(),
            recipe: Some(origin.recipe.clone()),
            date: Some(recipe.card.date.clone()),
            metrics: evaluation.metrics.clone(),
        },
    }
}
