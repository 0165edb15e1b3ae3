//! Golden values: what a package answered where it was made, to be compared with wherever it runs.
//!
//! No picture travels with a package of our own making: the golden images are drawn from seeds, within the model's input
//! contract, and the sidecar file holds seeds and answers, which are those of fp32. The card pins the file's hash, and the
//! file the weights that answered. Whoever supplies a model may give images and what its own program answers in place of
//! that (`supplied`). The road is the node's own: the engine, on each of the configured devices. Neighbours: the commands
//! `model golden` and `model add --golden` write, `model verify` compares; the node does neither. Left out: whether a model
//! is any good.

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
use super::supplied;

/// `[golden]` of a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenCard {
    /// Beside the card, written by `sidelight model golden`; one that ends in `.safetensors` is the supplier's.
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
    cases: Vec<Case>,
    tolerance: BTreeMap<String, f64>,
}

/// An image and its answer: probabilities in the order of the card's outputs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Case {
    pub(super) picture: Picture,
    pub(super) outputs: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Picture {
    Seed(u64),
    /// A plane of the contract.
    Given(Vec<f32>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenFile {
    format: u32,
    /// `name@version#hash12` of the package that answered; what counts is the hash, of the weights.
    model: String,
    /// Digest of its input contract.
    contract: Digest,
    /// Where: `cpu-fp32`.
    device: String,
    cases: Vec<Seeded>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seeded {
    /// Of the image.
    seed: u64,
    outputs: Vec<f64>,
}

/// How far a package is from its golden values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GoldenOutcome {
    /// Where it was compared: `cpu-fp32`.
    pub device: String,
    /// That were compared, one by one and together on each device.
    pub images: usize,
    pub devices: usize,
    /// The largest difference of an output.
    pub difference: f64,
    pub tolerance: f64,
    /// How many times the difference that is allowed an output was off; that is less than `tolerance` where the
    /// finding's threshold is near 0 or 1.
    pub excess: f64,
    /// How far the golden answers lie apart.
    pub spread: f64,
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
    #[error("the model answers every golden image about alike, so that golden values would prove nothing")]
    Constant,
    #[error("{file}: {problem}")]
    Supplied { file: String, problem: String },
    #[error("golden values are written in fp32, which other precisions are compared with, and the engine runs in {0}")]
    Reduced(&'static str),
}

const FORMAT: u32 = 1;
/// A file of golden values is a page of text.
const BYTES_MAX: u64 = 1 << 20;
/// Of a supplier's file, which ends so.
const SUPPLIED_BYTES_MAX: u64 = 256 << 20;
const SUPPLIED: &str = ".safetensors";
/// Images that are tried, and those that are kept of them.
const SEEDS: u64 = 32;
const KEPT: usize = 4;
/// Answers that lie no farther apart than this tell no network from another.
const SPREAD_MIN: f64 = 1e-3;
/// A tolerance that is a larger share of a threshold's distance from 0 or 1 is lessened, down to what fp32 needs.
const OF_THRESHOLD: f64 = 0.5;
const TOLERANCE_MIN: f64 = 1e-4;
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
        let is_supplied = card.file.ends_with(SUPPLIED);
        let bytes_max = if is_supplied { SUPPLIED_BYTES_MAX } else { BYTES_MAX };
        let bytes = files::sidecar(&package.dir, &card.file, &card.sha256, bytes_max)
            .map_err(|(key, problem)| GoldenError::Unfit(format!("{key}: {problem}")))?;
        if is_supplied {
            let cases = supplied::cases(&bytes, package);
            let cases = cases.map_err(|problem| GoldenError::Unfit(format!("{}: {problem}", card.file)))?;
            return Ok(Some(Self { cases, tolerance: card.tolerance.clone() }));
        }
        let values: GoldenFile = match serde_json::from_slice(&bytes) {
            Ok(values) => values,
            Err(error) => return unfit(format!("{} is no file of golden values: {error}", card.file)),
        };
        if values.format != FORMAT || values.cases.is_empty() {
            return unfit(format!("{} is of another format, or empty", card.file));
        }
        let weights = values.model.rsplit('#').next();
        if weights != Some(package.identity.weights.short()) || values.contract != package.contract.digest() {
            return unfit(format!(
                "{} holds the answers of {}, or for another input contract",
                card.file, values.model
            ));
        }
        let case = |Seeded { seed, outputs }| Case { picture: Picture::Seed(seed), outputs };
        let cases = values.cases.into_iter().map(case).collect();
        Ok(Some(Self { cases, tolerance: card.tolerance.clone() }))
    }

    /// What a supplier says that its model answers, of a file that lies anywhere; and the file's bytes as they were read,
    /// for [`keep_supplied`].
    pub fn supplied(file: &Path, package: &Package) -> Result<(Self, Vec<u8>), GoldenError> {
        let unusable = |problem: String| GoldenError::Supplied { file: file.display().to_string(), problem };
        let bytes = files::read(file, SUPPLIED_BYTES_MAX).map_err(|e| unusable(e.to_string()))?;
        let cases = supplied::cases(&bytes, package).map_err(unusable)?;
        if spread(&cases) < SPREAD_MIN {
            return Err(GoldenError::Constant);
        }
        let tolerance = package.golden.as_ref().map(|card| card.tolerance.clone()).unwrap_or_default();
        Ok((Self { cases, tolerance }, bytes))
    }

    /// Asks each device of the engine for the golden images, one by one and in a batch of its size, and compares. Blocks.
    pub fn compare(&self, package: &Package, engine: &Engine) -> Result<GoldenOutcome, GoldenError> {
        let device = place(engine);
        let default = TOLERANCES.iter().find(|(name, _)| *name == device).map_or(TOLERANCE_MIN, |(_, t)| *t);
        let tolerance = self.tolerance.get(&device).copied().unwrap_or(default);
        let (cases, devices) = (&self.cases, engine.placements().len());
        let spread = spread(cases);
        let mut outcome =
            GoldenOutcome { device, images: cases.len(), devices, difference: 0.0, tolerance, excess: 0.0, spread };
        for (index, placement) in engine.placements().iter().enumerate() {
            let batch: Vec<&Case> = cases.iter().cycle().take(placement.batch_max.max(cases.len())).collect();
            for asked in cases.iter().map(|case| vec![case]).chain([batch]) {
                let pictures = asked.iter().map(|case| &case.picture);
                let found = answers(package, engine, index, pictures)?;
                for (case, found) in asked.into_iter().zip(found) {
                    outcome.add(package, &found, &case.outputs);
                }
            }
        }
        Ok(outcome)
    }
}

impl GoldenOutcome {
    pub fn is_within(&self) -> bool {
        self.excess <= 1.0
    }

    /// Whether a network that answers everything alike might pass too.
    pub fn is_weak(&self) -> bool {
        self.spread < 2.0 * self.tolerance
    }

    fn add(&mut self, package: &Package, found: &[f64], expected: &[f64]) {
        // What stands behind the probabilities is an out-of-distribution score, which a site fits for itself.
        let outputs = package.column_of.len();
        if found.len() < outputs || expected.len() < outputs {
            (self.difference, self.excess) = (f64::INFINITY, f64::INFINITY);
        }
        for (i, (a, b)) in found.iter().zip(expected).take(outputs).enumerate() {
            let apart = (a - b).abs();
            let allowed = package.findings().get(i).map_or(self.tolerance, |finding| {
                let threshold = finding.threshold.get();
                self.tolerance.min((OF_THRESHOLD * threshold.min(1.0 - threshold)).max(TOLERANCE_MIN))
            });
            self.difference = self.difference.max(apart);
            self.excess = self.excess.max(apart / allowed);
        }
    }
}

/// Writes golden values of the package in `dir`, as the engine answers now in fp32, and pins them in its card. Blocks.
pub fn write_golden(dir: &Path, package: &Package, engine: &Engine) -> Result<(), GoldenError> {
    if let Some(reduced) = engine.placements().iter().find(|p| p.precision != Precision::Fp32) {
        return Err(GoldenError::Reduced(reduced.precision.as_str()));
    }
    let pictures: Vec<Picture> = (0..SEEDS).map(Picture::Seed).collect();
    let found = answers(package, engine, 0, pictures.iter())?;
    let probabilities = |mut outputs: Vec<f64>| {
        outputs.truncate(package.column_of.len());
        outputs
    };
    let cases = pictures.into_iter().zip(found);
    let cases = cases.map(|(picture, outputs)| Case { picture, outputs: probabilities(outputs) }).collect();
    let seeded = apart(cases)?.into_iter().filter_map(|Case { picture, outputs }| match picture {
        Picture::Seed(seed) => Some(Seeded { seed, outputs }),
        Picture::Given(_) => None,
    });
    let values = GoldenFile {
        format: FORMAT,
        model: package.key(),
        contract: package.contract.digest(),
        device: place(engine),
        cases: seeded.collect(),
    };
    pin(dir, &serde_json::to_vec_pretty(&values).map_err(std::io::Error::other)?, ".json")
}

/// Makes a supplier's values, which were compared, those of the package in `dir`: the bytes of [`Golden::supplied`], since
/// the file may be another one by now.
pub fn keep_supplied(dir: &Path, bytes: &[u8]) -> Result<(), GoldenError> {
    pin(dir, bytes, SUPPLIED)
}

/// Puts golden values beside the card and names them there. Named by their content: the card points at the old file until
/// it points at the new one.
fn pin(dir: &Path, bytes: &[u8], ending: &str) -> Result<(), GoldenError> {
    let sha256 = Digest::of(bytes);
    let file = format!("golden-{}{ending}", sha256.short());
    files::write_durably(&dir.join(&file), bytes)?;
    files::pin_golden(&dir.join("model.toml"), &file, &sha256)?;
    Ok(files::remove_others(dir, "golden-", &[".json", SUPPLIED], &file)?)
}

/// The cases that lie farthest apart, one after the other: first the pair, then what is farthest from all before.
fn apart(mut cases: Vec<Case>) -> Result<Vec<Case>, GoldenError> {
    let mut kept = vec![cases.swap_remove(0)];
    while kept.len() < KEPT && !cases.is_empty() {
        let nearest = |case: &Case| kept.iter().map(|k| distance(k, case)).fold(f64::INFINITY, f64::min);
        let far = cases.iter().enumerate().max_by(|a, b| nearest(a.1).total_cmp(&nearest(b.1)));
        let Some((at, _)) = far else { break };
        kept.push(cases.swap_remove(at));
    }
    if spread(&kept) >= SPREAD_MIN { Ok(kept) } else { Err(GoldenError::Constant) }
}

fn distance(a: &Case, b: &Case) -> f64 {
    a.outputs.iter().zip(&b.outputs).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// The largest distance of two cases.
fn spread(cases: &[Case]) -> f64 {
    let pairs = cases.iter().enumerate().flat_map(|(i, a)| cases[i + 1..].iter().map(move |b| distance(a, b)));
    pairs.fold(0.0, f64::max)
}

/// A device's answers for these images, asked together.
fn answers<'a>(
    package: &Package,
    engine: &Engine,
    device: usize,
    pictures: impl Iterator<Item = &'a Picture>,
) -> Result<Vec<Vec<f64>>, InferError> {
    let contract = package.contract.digest();
    let plane = |picture: &Picture| match picture {
        Picture::Seed(seed) => image(&package.contract, *seed),
        Picture::Given(plane) => plane.clone(),
    };
    let input = |picture| ModelInput { contract: contract.clone(), plane: plane(picture) };
    engine.score_on(device, &package.key(), pictures.map(input).collect())
}

/// Device and precision of the engine; several devices are all of one kind and compute in one precision.
fn place(engine: &Engine) -> String {
    let placement = engine.placements().first();
    let kind = placement.map_or("cpu", |p| p.device.split(':').next().unwrap_or("cpu"));
    format!("{kind}-{}", placement.map_or(Precision::Fp32, |p| p.precision).as_str())
}

/// The golden image of a seed, as a plane: soft shapes of some eighths of the image with grain, in the contract's range. Additions
/// and products only, so that every machine draws the same.
fn image(contract: &Contract, seed: u64) -> Vec<f32> {
    let side = contract.size as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let knots = 2 + (seed % 8) as usize;
    let (level, contrast, grain): (f32, f32, f32) = (rng.random(), rng.random(), rng.random());
    let coarse: Vec<f32> = (0..(knots + 1) * (knots + 1)).map(|_| rng.random::<f32>()).collect();
    let mut plane = Vec::with_capacity(side * side);
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
            plane.push(contract.low + (contract.high - contract.low) * value.clamp(0.0, 1.0));
        }
    }
    plane
}

#[cfg(test)]
#[path = "golden_tests.rs"]
mod tests;
