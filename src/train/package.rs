//! From a trained network to a model package: TorchScript, card, and the log of its epochs.
//!
//! The package is loaded and warmed up by the engine before it counts as written. Neighbours: `infer::export`.

use std::path::Path;

use anyhow::Context;

use crate::domain::{Digest, Purpose, Uid};
use crate::infer::{self, Card, Engine, EngineOptions, FindingCard, Format, OutputCard, Package, Provenance};

use super::data::Dataset;
use super::evaluate::{Evaluation, activation};
use super::fit::Fitted;
use super::recipe::Recipe;

/// Namespace of the Device UIDs of trained models (PS3.5 B.2).
const NAMESPACE: uuid::Uuid = uuid::Uuid::from_u128(0x4e0d_6f7a_31c5_4f0b_9a55_8d1c_0c2b_7e11);

/// Writes `<out_dir>/<name>`.
pub fn write(
    recipe: &Recipe,
    fitted: &Fitted,
    evaluation: &Evaluation,
    dataset: &Dataset,
    out_dir: &Path,
) -> anyhow::Result<Package> {
    let contract = recipe.contract()?;
    let module = infer::trace(&fitted.network.forward, &contract)?;
    let dir = super::package_dir(out_dir, recipe);
    let header = format!(
        "Model card of {}, written by `sidelight train`.\nChanging weights or thresholds makes another model: raise the version, give it a UID.",
        recipe.name
    );
    let package = infer::write_package(&dir, card(recipe, evaluation, dataset), &module, &header)?;
    write_log(&dir.join("training.csv"), recipe, fitted)?;
    // The last word is the engine's: what does not start is not written.
    Engine::start(vec![package.clone()], EngineOptions { batch_max: 2, ..EngineOptions::default() })?;
    Ok(package)
}

fn card(recipe: &Recipe, evaluation: &Evaluation, dataset: &Dataset) -> Card {
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
        calibration: None,
        ood: None,
        golden: None,
        server: None,
        result: None,
        provenance: Provenance {
            training_data: format!("{} ({} images)", recipe.card.training_data, dataset.len()),
            intended_use: recipe.card.intended_use.clone(),
            limits: recipe.card.limits.clone(),
            license: recipe.card.license.clone(),
            recipe: Some(format!("models/recipes/{}.toml", recipe.name)),
            date: Some(recipe.card.date.clone()),
            metrics: evaluation.metrics.clone(),
        },
    }
}

/// One row per epoch.
fn write_log(path: &Path, recipe: &Recipe, fitted: &Fitted) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_path(path).with_context(|| path.display().to_string())?;
    let aucs = recipe.keys().iter().map(|key| format!("validation_auc_{key}")).collect::<Vec<_>>();
    let fixed = ["epoch", "learning_rate", "train_loss", "validation_loss", "best"].map(str::to_owned);
    table.write_record(fixed.iter().chain(&aucs))?;
    for e in &fitted.epochs {
        let mut record = vec![
            e.epoch.to_string(),
            format!("{:e}", e.learning_rate),
            format!("{:.5}", e.train_loss),
            format!("{:.5}", e.validation_loss),
            e.best.to_string(),
        ];
        record.extend(e.validation_auc.iter().map(|a| format!("{a:.4}")));
        table.write_record(&record)?;
    }
    table.flush().with_context(|| path.display().to_string())
}
