//! From a trained network to a model package: TorchScript, card, and the log of its epochs.
//!
//! The package is loaded and warmed up by the engine before it counts as written. Neighbours: `infer::export`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::domain::{Digest, Probability, Purpose, Uid};
use crate::infer::{
    self, CalibrationCard, Card, Engine, EngineOptions, FindingCard, Format, OutputCard, Package, Provenance,
};

use super::curve;
use super::data::Dataset;
use super::evaluate::{Evaluation, FindingThreshold, activation};
use super::fit::EpochReport;
use super::nets::Network;
use super::recipe::Recipe;

/// Namespace of the Device UIDs of trained models (PS3.5 B.2).
const NAMESPACE: uuid::Uuid = uuid::Uuid::from_u128(0x4e0d_6f7a_31c5_4f0b_9a55_8d1c_0c2b_7e11);

/// Writes `<out_dir>/<name>`.
pub fn write(
    recipe: &Recipe,
    network: Network,
    epochs: &[EpochReport],
    evaluation: &Evaluation,
    dataset: &Dataset,
    out_dir: &Path,
) -> anyhow::Result<Package> {
    let contract = recipe.contract()?;
    // Packages are written on the CPU, whatever trained them.
    let mut network = network;
    network.store.set_device(tch::Device::Cpu);
    let module = infer::trace(&network.forward, &contract)?;
    let dir = super::package_dir(out_dir, recipe);
    let header = format!(
        "Model card of {}, written by `sidelight train`.\nChanging weights or thresholds makes another model: raise the version, give it a UID.",
        recipe.name
    );
    let package = infer::write_package(&dir, card(recipe, evaluation, dataset.len()), &module, &header)?;
    curve::write_table(&dir.join("training.csv"), &recipe.keys(), epochs)?;
    // The last word is the engine's: what does not start is not written.
    Engine::start(vec![package.clone()], EngineOptions { batch_max: 2, ..EngineOptions::default() })?;
    Ok(package)
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
    infer::fault_of(&card(recipe, &figures, 0))
}

fn card(recipe: &Recipe, evaluation: &Evaluation, images: usize) -> Card {
    let identity = format!("{}@{}", recipe.name, recipe.version);
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
            groups: if recipe.purpose == Purpose::Race { recipe.output.groups.clone() } else { Vec::new() },
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
            training_data: format!("{} ({} images)", recipe.card.training_data, images),
            intended_use: recipe.card.intended_use.clone(),
            limits: recipe.card.limits.clone(),
            license: recipe.card.license.clone(),
            recipe: Some(format!("models/recipes/{}.toml", recipe.name)),
            date: Some(recipe.card.date.clone()),
            metrics: evaluation.metrics.clone(),
        },
    }
}
