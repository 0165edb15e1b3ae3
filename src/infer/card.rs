//! `model.toml` as it is written: the serde mirror of a model card.
//!
//! Every key is known here and unknown ones are refused; whether the values make sense together is decided in
//! `manifest`, which is also where the meaning of the file is turned into domain types. `train` writes cards
//! through the same types. Left out: file access and hashes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{
    Code, Digest, Filter, Fit, Mask, Orientation, Precision, Probability, Purpose, Uid, ValueRange, View,
};

use super::calibration::CalibrationCard;
use super::elsewhere::ServerCard;
use super::golden::GoldenCard;
use super::ood::OodCard;
use super::product::ResultCard;
use super::scope::ScopeCard;

/// A model card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The same as the name of the package's folder.
    pub name: String,
    pub version: String,
    pub manufacturer: String,
    pub purpose: Purpose,
    pub format: Format,
    /// Needed for `safetensors`, where the file holds weights only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// The weight file, relative to the card, within its folder. A model that is not run in this process has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// SHA-256 of the weight file.
    #[serde(default = "of_nothing", skip_serializing_if = "is_of_nothing")]
    pub sha256: Digest,
    /// One per model version; written into reports (Device UID).
    pub device_uid: Uid,
    /// The model has seen nothing but phantoms; reports say so.
    #[serde(default)]
    pub phantoms_only: bool,
    /// A product that scores images on its own has none.
    #[serde(default = "no_input", skip_serializing_if = "is_no_input")]
    pub input: InputCard,
    pub output: OutputCard,
    /// What the model may compute in beside fp32, with what it costs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub precision: Vec<PrecisionCard>,
    #[serde(default)]
    pub scope: ScopeCard,
    #[serde(default)]
    pub aggregation: AggregationCard,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationCard>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ood: Option<OodCard>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<GoldenCard>,
    /// Of format `open-inference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerCard>,
    /// Of formats `result-sr` and `result-csv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultCard>,
    pub provenance: Provenance,
}

/// What the weight file is, or where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Network and weights in one file, with a `forward` method from one tensor to one tensor.
    TorchScript,
    /// Weights under torchvision's names, for one of the [`Architecture`]s.
    Safetensors,
    /// No file: a model server with the Open Inference Protocol v2.
    #[serde(rename = "open-inference")]
    OpenInference,
    /// No file: Structured Reports of the product itself.
    #[serde(rename = "result-sr")]
    ResultSr,
    /// No file: a table that the product's system drops.
    #[serde(rename = "result-csv")]
    ResultCsv,
}

fn no_input() -> InputCard {
    InputCard {
        contract: String::new(),
        size: 0,
        name: None,
        version: None,
        low: None,
        high: None,
        fit: None,
        channels: None,
        mean: None,
        std: None,
        range: None,
        filter: None,
        orientation: None,
        mask: None,
    }
}

fn is_no_input(input: &InputCard) -> bool {
    *input == no_input()
}

fn of_nothing() -> Digest {
    Digest::of(&[])
}

fn is_of_nothing(digest: &Digest) -> bool {
    *digest == of_nothing()
}

/// Networks that this program builds itself; names, layers and numbers are torchvision's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    Resnet18,
    Resnet34,
    Resnet50,
    Densenet121,
    EfficientnetB0,
    EfficientnetB2,
}

/// The input contract: a preset of [`crate::domain::Contract`] at a size. Whoever overrides a field of the preset
/// gives the contract a `name` of its own, which reports show with its version and digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputCard {
    /// One of [`crate::domain::Contract::PRESETS`].
    pub contract: String,
    /// Side of the square input, pixels.
    pub size: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<ValueRange>,
    /// `bilinear` or `area`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// `as-stored`, `laterality-left` or `patient-orientation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orientation: Option<Orientation>,
    /// Of `shutter` and `border`, those that are hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Vec<Mask>>,
}

/// What the network's outputs are, and so what is applied to them to get probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Probabilities over the groups, summing to 1: taken as they are.
    Softmax,
    /// Their logarithms: exp is applied.
    LogSoftmax,
    /// One probability per finding: taken as they are.
    Sigmoid,
    /// Logits over the groups: a softmax is applied.
    LogitsSoftmax,
    /// One logit per finding: the logistic function is applied.
    LogitsSigmoid,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputCard {
    pub activation: Activation,
    /// Width of the network's output where it exceeds the number of findings that are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupCard>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingCard>,
}

/// A group of a race model, in the order of the outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupCard {
    pub key: String,
    /// Code value in CDCREC, e.g. `2028-9`; its meaning is that of the code system.
    pub code: String,
    /// Of the group in what the model was trained or calibrated on, 0..1; for all groups or none. Needed to estimate a
    /// site's own shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// A finding of a clinical model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingCard {
    pub key: String,
    /// Which column of the output it is, from 0; its own position where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Positive at or above it.
    pub threshold: Probability,
    pub code: Code,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Code>,
}

/// A reduced precision that the model may compute in where `models.precision` asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecisionCard {
    pub kind: Precision,
    /// How far any probability may lie from that in fp32, on the fixed images of [`super::probe`].
    pub score_tolerance: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregationCard {
    pub method: Aggregation,
    /// Of a mean, by view: how much an image of it counts. What is not listed, or has no view, counts 1; what should
    /// not count at all is left out by the scope.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<View, f64>,
}

/// How the scores of a study's images become the study's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    #[default]
    Mean,
    /// The highest score of any image; for findings only.
    Max,
}

/// Where a model comes from and what it is good for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub training_data: String,
    pub intended_use: String,
    pub limits: String,
    pub license: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// Day of training, YYYY-MM-DD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Figures on data that the model was not trained on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

impl Format {
    /// Whether this program runs the model itself, from a weight file.
    pub fn is_in_process(self) -> bool {
        matches!(self, Format::TorchScript | Format::Safetensors)
    }

    /// Whether the product scores images on its own, and only its results come here.
    pub fn is_result(self) -> bool {
        matches!(self, Format::ResultSr | Format::ResultCsv)
    }
}

impl Architecture {
    pub fn as_str(self) -> &'static str {
        match self {
            Architecture::Resnet18 => "resnet18",
            Architecture::Resnet34 => "resnet34",
            Architecture::Resnet50 => "resnet50",
            Architecture::Densenet121 => "densenet121",
            Architecture::EfficientnetB0 => "efficientnet_b0",
            Architecture::EfficientnetB2 => "efficientnet_b2",
        }
    }
}

impl Activation {
    /// Whether the outputs exclude one another (groups) rather than stand alone (findings).
    pub fn is_softmax(self) -> bool {
        matches!(self, Activation::Softmax | Activation::LogSoftmax | Activation::LogitsSoftmax)
    }
}
