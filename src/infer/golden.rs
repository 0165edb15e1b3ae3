//! Golden values: what a package answered where it was made, to be compared with wherever it runs.
//!
//! No picture travels with a package: the golden images are drawn from seeds, within the model's input contract, and
//! the sidecar file holds seeds and answers. The card pins the file's hash. The road is the node's own: the engine
//! on the configured device. Neighbours: the commands `model golden` and `model add --golden` write, `model verify`
//! compares; the node does neither. Left out: whether a model is any good.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::domain::{Contract, Digest, ModelInput, Precision};

use super::engine::Engine;
use super::error::InferError;
use super::files;
use super::manifest::Package;

/// `[golden]` of a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenCard {
    /// Beside the card, written by `sidelight model golden`.
    pub file: String,
    /// SHA-256 of that file.
    pub sha256: Digest,
    /// Largest difference of an output by device and precision, such as `cpu-fp32` or `cuda-bf16`, in place of the
    /// defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tolerance: BTreeMap<String, f64>,
}

/// Expected answers, read from the sidecar file.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    values: GoldenFile,
    tolerance: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenFile {
    format: u32,
    /// `name@version#hash12` of the package that answered.
    model: String,
    /// Digest of its input contract.
    contract: Digest,
    /// Where: `cpu-fp32`.
    device: String,
    cases: Vec<Case>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Of the image.
    seed: u64,
    outputs: Vec<f64>,
}

/// How far a package is from its golden values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GoldenOutcome {
    /// Where it was compared: `cpu-fp32`.
    pub device: String,
    pub images: usize,
    /// The largest difference of an output.
    pub difference: f64,
    pub tolerance: f64,
}

/// Why there are no golden values, or nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    #[error("golden: {0}; see why, then write them anew with `sidelight model golden NAME`")]
    Unfit(String),
    #[error("a golden image has no answer: {0}")]
    Infer(#[from] InferError),
    #[error("golden values cannot be written: {0}")]
    File(#[from] std::io::Error),
    #[error("the model answers every golden image alike, so that golden values would prove nothing")]
    Constant,
}

const FORMAT: u32 = 1;
/// A file of golden values is a page of text.
const BYTES_MAX: u64 = 1 << 20;
/// Images that are tried, and those that are kept of them.
const SEEDS: u64 = 32;
const KEPT: usize = 4;
/// By device and precision. The same sums in another order; TF32 in convolutions of a GPU; 11 and 8 bits of precision.
const TOLERANCES: [(&str, f64); 6] = [
    ("cpu-fp32", 1e-4),
    ("cpu-fp16", 1e-2),
    ("cpu-bf16", 5e-2),
    ("cuda-fp32", 2e-3),
    ("cuda-fp16", 1e-2),
    ("cuda-bf16", 5e-2),
];

impl Golden {
    /// The golden values of a package; `None` where its card names none.
    pub fn of(package: &Package) -> Result<Option<Self>, GoldenError> {
        let Some(card) = &package.golden else { return Ok(None) };
        let unfit = |problem: String| Err(GoldenError::Unfit(problem));
        let known: Vec<&str> = TOLERANCES.iter().map(|(name, _)| *name).collect();
        if let Some(name) = card.tolerance.keys().find(|name| !known.contains(&name.as_str())) {
            return unfit(format!("tolerance.{name} is no device and precision, there are {}", known.join(", ")));
        }
        if card.tolerance.values().any(|t| !(t.is_finite() && *t > 0.0 && *t <= 1.0)) {
            return unfit("a tolerance is not between 0 and 1".to_owned());
        }
        let bytes = files::sidecar(&package.dir, &card.file, &card.sha256, BYTES_MAX)
            .map_err(|(key, problem)| GoldenError::Unfit(format!("{key}: {problem}")))?;
        let values: GoldenFile = match serde_json::from_slice(&bytes) {
            Ok(values) => values,
            Err(error) => return unfit(format!("{} is no file of golden values: {error}", card.file)),
        };
        if values.format != FORMAT || values.cases.is_empty() {
            return unfit(format!("{} is of another format, or empty", card.file));
        }
        if values.model != package.key() || values.contract != package.contract.digest() {
            return unfit(format!(
                "{} holds the answers of {}, or for another input contract",
                card.file, values.model
            ));
        }
        Ok(Some(Self { values, tolerance: card.tolerance.clone() }))
    }

    /// Asks the engine for the golden images and compares.
    pub async fn compare(&self, package: &Package, engine: &Engine) -> Result<GoldenOutcome, GoldenError> {
        let device = place(engine);
        let mut difference = 0.0_f64;
        for case in &self.values.cases {
            let found = answer(package, engine, case.seed).await?;
            if found.len() != case.outputs.len() {
                difference = f64::INFINITY;
            }
            // An out-of-distribution score is no probability and may be large.
            let apart = found.iter().zip(&case.outputs).map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
            difference = apart.fold(difference, f64::max);
        }
        let default = TOLERANCES.iter().find(|(name, _)| *name == device).map_or(1e-4, |(_, t)| *t);
        let tolerance = self.tolerance.get(&device).copied().unwrap_or(default);
        Ok(GoldenOutcome { device, images: self.values.cases.len(), difference, tolerance })
    }
}

impl GoldenOutcome {
    pub fn is_within(&self) -> bool {
        self.difference <= self.tolerance
    }
}

/// Writes golden values of the package in `dir`, as the engine answers now, and pins them in its card.
pub async fn write_golden(dir: &Path, package: &Package, engine: &Engine) -> Result<(), GoldenError> {
    let mut cases = Vec::new();
    for seed in 0..SEEDS {
        cases.push(Case { seed, outputs: answer(package, engine, seed).await? });
    }
    let values = GoldenFile {
        format: FORMAT,
        model: package.key(),
        contract: package.contract.digest(),
        device: place(engine),
        cases: apart(cases)?,
    };
    let bytes = serde_json::to_vec_pretty(&values).map_err(std::io::Error::other)?;
    let sha256 = Digest::of(&bytes);
    // Named by its content: the card points at the old file until it points at the new one.
    let file = format!("golden-{}.json", sha256.short());
    files::write_durably(&dir.join(&file), &bytes)?;
    files::pin_golden(&dir.join("model.toml"), &file, &sha256)?;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("golden-") && name.ends_with(".json") && name != file {
            std::fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

/// The cases that lie farthest apart, one after the other: first the pair, then what is farthest from all before.
fn apart(mut cases: Vec<Case>) -> Result<Vec<Case>, GoldenError> {
    let distance =
        |a: &Case, b: &Case| a.outputs.iter().zip(&b.outputs).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    let mut kept = vec![cases.swap_remove(0)];
    let mut spread = 0.0_f64;
    while kept.len() < KEPT && !cases.is_empty() {
        let nearest = |case: &Case| kept.iter().map(|k| distance(k, case)).fold(f64::INFINITY, f64::min);
        let far = cases.iter().enumerate().max_by(|a, b| nearest(a.1).total_cmp(&nearest(b.1)));
        let Some((at, case)) = far else { break };
        spread = spread.max(nearest(case));
        kept.push(cases.swap_remove(at));
    }
    if spread > 0.0 { Ok(kept) } else { Err(GoldenError::Constant) }
}

async fn answer(package: &Package, engine: &Engine, seed: u64) -> Result<Vec<f64>, InferError> {
    let input = ModelInput { contract: package.contract.digest(), values: image(&package.contract, seed) };
    engine.score(&package.key(), input).await
}

/// Device and precision of the engine; of several devices the first, which are all of one kind.
fn place(engine: &Engine) -> String {
    let placement = engine.placements().first();
    let kind = placement.map_or("cpu", |p| p.device.split(':').next().unwrap_or("cpu"));
    format!("{kind}-{}", placement.map_or(Precision::Fp32, |p| p.precision).as_str())
}

/// The golden image of a seed: soft shapes of some eighths of the image with grain, in the contract's range. Additions
/// and products only, so that every machine draws the same.
fn image(contract: &Contract, seed: u64) -> Vec<f32> {
    let side = contract.size as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let knots = 2 + (seed % 8) as usize;
    let (level, contrast, grain): (f32, f32, f32) = (rng.random(), rng.random(), rng.random());
    let coarse: Vec<f32> = (0..(knots + 1) * (knots + 1)).map(|_| rng.random::<f32>()).collect();
    let mut unit = Vec::with_capacity(side * side);
    for y in 0..side {
        for x in 0..side {
            let place = |i: usize| {
                let at = i * knots;
                (at / side, (at % side) as f32 / side as f32)
            };
            let ((row, down), (column, across)) = (place(y), place(x));
            let knot = |r: usize, c: usize| coarse[(row + r) * (knots + 1) + column + c];
            let upper = knot(0, 0) + across * (knot(0, 1) - knot(0, 0));
            let lower = knot(1, 0) + across * (knot(1, 1) - knot(1, 0));
            let shape = upper + down * (lower - upper);
            let value = level + contrast * (shape - 0.5) + 0.2 * grain * (rng.random::<f32>() - 0.5);
            unit.push(contract.low + (contract.high - contract.low) * value.clamp(0.0, 1.0));
        }
    }
    let channels = contract.mean.iter().zip(&contract.std);
    channels.flat_map(|(mean, std)| unit.iter().map(move |v| (v - mean) / std)).collect()
}

#[cfg(test)]
#[path = "golden_tests.rs"]
mod tests;
