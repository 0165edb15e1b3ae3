//! Out-of-distribution scores: how far an image is from what its model was trained on.
//!
//! Energy (Liu et al. 2020) is −T ln Σ exp(logit / T) over groups; for findings, which do not exclude one another, it is
//! summed over them, −Σ ln(1 + exp(logit)) (Wang et al. 2021). Mahalanobis (Lee et al. 2018) is the squared distance of
//! the features before the last layer from the nearest class mean, by one precision matrix. Higher is farther, in
//! both. Pure but for reading the sidecar file. Neighbours: `torch` asks for each image, `aggregate` for the study,
//! `analyse` abstains beyond the card's threshold. Left out: what the distance is due to.

use std::path::Path;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::domain::Digest;

use super::card::Activation;
use super::error::InferError;
use super::files;

/// `[ood]` of a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum OodCard {
    /// From logits.
    Energy {
        #[serde(default = "one")]
        temperature: f64,
        /// A study with an image above it is abstained from.
        threshold: f64,
    },
    /// From the features of a native network, or the second output of a TorchScript one.
    Mahalanobis {
        /// safetensors beside the card: `means` (classes × features) and `precision` (features × features).
        file: String,
        sha256: Digest,
        /// On the squared distance.
        threshold: f64,
    },
}

fn one() -> f64 {
    1.0
}

/// A score that fits its model.
#[derive(Debug, Clone, PartialEq)]
pub struct Ood {
    rule: Rule,
    threshold: f64,
}

#[derive(Debug, Clone, PartialEq)]
enum Rule {
    /// Over outputs that exclude one another, at a temperature.
    Energy(f64),
    /// Over outputs that stand alone.
    JointEnergy,
    Mahalanobis(Arc<Gaussians>),
    /// None yet: the features themselves, for a fit.
    Features,
}

#[derive(Debug, PartialEq)]
pub(super) struct Gaussians {
    pub(super) width: usize,
    /// Row by row.
    pub(super) means: Vec<f64>,
    pub(super) precision: Vec<f64>,
}

/// Two thousand features make 32 MiB of doubles; no more than 64 classes.
const WIDTH_MAX: usize = 4096;
const CLASSES_MAX: usize = 64;
const BYTES_MAX: u64 = ((WIDTH_MAX * (WIDTH_MAX + CLASSES_MAX)) * 8 + (1 << 16)) as u64;
const AGAIN: &str = "bring the file that belongs to this card";

impl Ood {
    /// The score of the package in `dir`, or the key that is wrong, how, and the remedy.
    pub(super) fn new(card: OodCard, dir: &Path, activation: Activation) -> Result<Self, [String; 3]> {
        let fault = |key: &str, problem: String, remedy: &str| Err([format!("ood.{key}"), problem, remedy.to_owned()]);
        let (rule, threshold) = match card {
            OodCard::Energy { temperature, threshold } => {
                if !(temperature.is_finite() && temperature > 0.0) {
                    return fault("temperature", format!("{temperature} is no temperature"), "give a number above 0");
                }
                let rule = match activation {
                    Activation::LogitsSoftmax => Rule::Energy(temperature),
                    Activation::LogitsSigmoid if temperature == 1.0 => Rule::JointEnergy,
                    Activation::LogitsSigmoid => {
                        return fault("temperature", "is for groups".to_owned(), "remove it: findings have none");
                    }
                    Activation::Softmax | Activation::LogSoftmax | Activation::Sigmoid => {
                        let remedy =
                            "export the model without its last activation and set output.activation to logits-…";
                        return fault(
                            "method",
                            "\"energy\" needs logits, which the model does not give".to_owned(),
                            remedy,
                        );
                    }
                };
                (rule, threshold)
            }
            OodCard::Mahalanobis { file, sha256, threshold } => {
                let bytes = files::sidecar(dir, &file, &sha256, BYTES_MAX)
                    .map_err(|(key, problem)| [format!("ood.{key}"), problem, AGAIN.to_owned()])?;
                let gaussians = Gaussians::parse(&bytes)
                    .map_err(|problem| ["ood.file".to_owned(), format!("{file}: {problem}"), AGAIN.to_owned()])?;
                (Rule::Mahalanobis(Arc::new(gaussians)), threshold)
            }
        };
        if !threshold.is_finite() {
            return fault("threshold", "is not finite".to_owned(), "give the highest score of images that are known");
        }
        Ok(Self { rule, threshold })
    }

    /// No score, but the features that one can be fitted to.
    pub(super) fn features() -> Self {
        Self { rule: Rule::Features, threshold: f64::MAX }
    }

    /// Whether the score is computed from features.
    pub(super) fn needs_features(&self) -> bool {
        matches!(self.rule, Rule::Mahalanobis(_) | Rule::Features)
    }

    /// A study with an image above it is abstained from.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// What stands behind an image's probabilities: its score.
    pub(super) fn answer(&self, logits: &[f64], features: &[f64]) -> Result<Vec<f64>, InferError> {
        match self.rule {
            Rule::Features if features.iter().all(|v| v.is_finite()) => Ok(features.to_vec()),
            Rule::Features => Err(not_finite()),
            _ => self.score(logits, features).map(|score| vec![score]),
        }
    }

    /// Whether a score is too far for a statement.
    pub fn is_beyond(&self, score: f64) -> bool {
        score > self.threshold
    }

    /// The score of an image from the outputs that are used, as the network gave them, and its features.
    pub(super) fn score(&self, logits: &[f64], features: &[f64]) -> Result<f64, InferError> {
        let score = match &self.rule {
            Rule::Energy(temperature) => {
                let scaled = logits.iter().map(|v| v / temperature);
                let top = scaled.clone().fold(f64::NEG_INFINITY, f64::max);
                -temperature * (top + scaled.map(|v| (v - top).exp()).sum::<f64>().ln())
            }
            Rule::JointEnergy => -logits.iter().map(|v| v.max(0.0) + (-v.abs()).exp().ln_1p()).sum::<f64>(),
            Rule::Mahalanobis(gaussians) => gaussians.distance(features)?,
            Rule::Features => f64::NAN,
        };
        if score.is_finite() { Ok(score) } else { Err(not_finite()) }
    }
}

fn not_finite() -> InferError {
    InferError::BadOutput("its features are not finite".to_owned())
}

impl Gaussians {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| format!("not a safetensors file: {e}"))?;
        let matrix = |name: &str| -> Result<(usize, usize, Vec<f64>), String> {
            let view = file.tensor(name).map_err(|_| format!("lacks the tensor {name}"))?;
            let [rows, columns] = *view.shape() else { return Err(format!("{name} is no matrix")) };
            let data = view.data();
            let values: Vec<f64> = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                other => return Err(format!("{name} holds {other:?}, F32 and F64 are possible")),
            };
            if values.iter().any(|v| !v.is_finite()) {
                return Err(format!("{name} has values that are not finite"));
            }
            Ok((rows, columns, values))
        };
        let (classes, width, means) = matrix("means")?;
        let (rows, columns, precision) = matrix("precision")?;
        if !(1..=CLASSES_MAX).contains(&classes) || !(1..=WIDTH_MAX).contains(&width) {
            return Err(format!("{classes} means of {width} features are too few or too many"));
        }
        if rows != width || columns != width {
            return Err(format!("precision is {rows} by {columns} where means have {width} features"));
        }
        Ok(Self { width, means, precision })
    }

    /// Squared distance from the nearest mean.
    pub(super) fn distance(&self, features: &[f64]) -> Result<f64, InferError> {
        if features.len() != self.width {
            let reason = format!("it has {} features, the card's file is for {}", features.len(), self.width);
            return Err(InferError::BadOutput(reason));
        }
        let from = |mean: &[f64]| {
            let off: Vec<f64> = features.iter().zip(mean).map(|(a, b)| a - b).collect();
            let along = |row: &[f64]| row.iter().zip(&off).map(|(p, o)| p * o).sum::<f64>();
            self.precision.chunks_exact(self.width).zip(&off).map(|(row, o)| along(row) * o).sum::<f64>()
        };
        // NaN must not be passed over by a minimum.
        let all: Vec<f64> = self.means.chunks_exact(self.width).map(from).collect();
        Ok(if all.iter().any(|d| d.is_nan()) { f64::NAN } else { all.into_iter().fold(f64::INFINITY, f64::min) })
    }
}

#[cfg(test)]
#[path = "ood_tests.rs"]
mod tests;
