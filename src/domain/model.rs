//! Who computed a number: model identities, findings, groups and the scores they gave.

use serde::{Deserialize, Serialize};

use super::{Code, Digest, IndReason, Probability, Uid};

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Predicts self-reported race: the audit instrument, never a product.
    Race,
    /// The deployed clinical model that is audited.
    Clinical,
}

/// The arithmetic that a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Fp32,
    Bf16,
    Fp16,
}

impl Precision {
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
        }
    }
}

/// Everything a report needs to name a model exactly (TID 4019, Contributing Equipment).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    pub name: String,
    pub version: String,
    pub manufacturer: String,
    /// SHA-256 of what `digest_of` says.
    pub weights: Digest,
    #[serde(default)]
    pub digest_of: DigestOf,
    /// [`super::Contract::label`] of the input contract; empty where the model's own system makes its input.
    pub contract: String,
    /// One per model version, from the card.
    pub device_uid: Uid,
    /// Set for models that know nothing but phantoms; reports say so.
    pub phantoms_only: bool,
}

/// What identifies a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DigestOf {
    /// Its weight file.
    #[default]
    Weights,
    /// Its card, since its weights are not here: a model server's, or a vendor's product.
    Card,
}

/// A finding that a clinical model scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Key within the project: column names, config, profile. `pneumothorax`.
    pub key: String,
    pub code: Code,
    /// Finding site, e.g. (816094009, SCT, Chest).
    pub site: Option<Code>,
    /// The deployed decision threshold on the score: positive at or above it.
    pub threshold: Probability,
}

/// A group of the race model: self-reported race in the categories of its training data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Key within the project: `Asian`, `Black`, `White`.
    pub key: String,
    /// CDCREC code.
    pub code: Code,
}

/// What one model said of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageScore {
    pub instance: Uid,
    /// [`ModelIdentity::key`].
    pub model: String,
    /// Digest of the input contract that the pixels were normalised to.
    pub contract: Digest,
    /// Probabilities in the order of the card's labels.
    pub outputs: Vec<f64>,
}

/// The labels of a model's outputs, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelOutputs {
    /// One probability per group, summing to 1.
    Groups(Vec<Group>),
    /// One independent probability per finding.
    Findings(Vec<Finding>),
}

/// What one model says of a whole study, aggregated over its images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyScore {
    pub model: ModelIdentity,
    pub outputs: ModelOutputs,
    /// Same order as `outputs`.
    pub values: Vec<f64>,
    /// The images that the model scored.
    pub images: Vec<Uid>,
}

/// What a study has of a clinical model that runs elsewhere, finding by finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyResult {
    pub model: ModelIdentity,
    pub findings: Vec<(Finding, Given)>,
    /// The images that it is about.
    pub images: Vec<Uid>,
}

/// What is known of one finding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Given {
    Score(Probability),
    /// The decision alone: there is no score that an error risk could be told of.
    Label {
        positive: bool,
    },
    /// Nothing that could be used, and why.
    Absent(IndReason),
}

impl ModelIdentity {
    /// `name@version#hash12`, the key under which scores are kept.
    pub fn key(&self) -> String {
        format!("{}@{}#{}", self.name, self.version, self.weights.short())
    }
}
