//! `[training]`, `[augment]` and what else decides how a network is trained, with the rules for their values.
//!
//! Neighbours: `recipe`, which these are parts of; `schedule`, `adam` and `augment`, which do what they say.

use serde::Deserialize;

use crate::domain::Precision;

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Of Adam, at the start.
    pub learning_rate: f64,
    #[serde(default)]
    pub weight_decay: f64,
    pub batch: usize,
    pub epochs: usize,
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// `plateau`: the learning rate is multiplied by this on a plateau of the validation loss…
    #[serde(default = "plateau_factor")]
    pub plateau_factor: f64,
    /// …of more than this many epochs…
    #[serde(default = "plateau_patience")]
    pub plateau_patience: usize,
    /// …down to this.
    #[serde(default)]
    pub learning_rate_min: f64,
    /// `exponential`: the learning rate is multiplied by e to the minus this…
    #[serde(default = "decay")]
    pub decay: f64,
    /// …after every so many epochs.
    #[serde(default = "decay_epochs")]
    pub decay_epochs: usize,
    /// Training ends after this many epochs without a better validation loss.
    pub early_stop: usize,
    /// What the network computes in; parameters, their gradients and the loss stay fp32.
    #[serde(default = "fp32")]
    pub precision: Precision,
    /// The gradient of all parameters together is shortened to this length.
    pub clip_norm: Option<f64>,
}

/// How the learning rate changes from epoch to epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    #[default]
    Plateau,
    Exponential,
    Constant,
}

/// Random changes of training images. A chest is not symmetric: mirroring is off unless asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Largest rotation, degrees to either side.
    pub rotation: f64,
    /// Largest change of size, as a fraction.
    pub zoom: f64,
    /// Largest shift along each axis, as a fraction of the side.
    pub shift: f64,
    pub horizontal_flip: bool,
}

/// What is done about classes that are rarer than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    #[default]
    None,
    /// Classes count by their inverse frequency in the training part.
    Weights,
    /// An epoch draws every group equally often, with replacement; for groups only.
    Sampling,
}

/// `true` is an older name of `"weights"`.
impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Flag(bool),
            Name(String),
        }
        match Given::deserialize(deserializer)? {
            Given::Flag(false) => Ok(Self::None),
            Given::Flag(true) => Ok(Self::Weights),
            Given::Name(name) => match name.as_str() {
                "none" => Ok(Self::None),
                "weights" => Ok(Self::Weights),
                "sampling" => Ok(Self::Sampling),
                _ => Err(serde::de::Error::custom(format!("{name:?} is none of none, weights, sampling"))),
            },
        }
    }
}

fn plateau_factor() -> f64 {
    0.1
}

fn plateau_patience() -> usize {
    2
}

fn decay() -> f64 {
    0.05
}

fn decay_epochs() -> usize {
    2
}

fn fp32() -> Precision {
    Precision::Fp32
}

/// A rule, and whether it is kept.
pub type Rule = (bool, &'static str);

impl Training {
    pub fn rules(&self) -> Vec<Rule> {
        vec![
            (self.learning_rate > 0.0 && self.learning_rate <= 1.0, "training.learning_rate: above 0, at most 1"),
            (
                self.learning_rate_min >= 0.0 && self.learning_rate_min <= self.learning_rate,
                "training.learning_rate_min: 0 to learning_rate",
            ),
            (self.weight_decay.is_finite() && self.weight_decay >= 0.0, "training.weight_decay: 0 or more"),
            ((1..=4096).contains(&self.batch), "training.batch: 1 to 4096"),
            ((1..=10_000).contains(&self.epochs), "training.epochs: 1 to 10000"),
            (self.plateau_factor > 0.0 && self.plateau_factor < 1.0, "training.plateau_factor: between 0 and 1"),
            (self.decay > 0.0 && self.decay <= 10.0, "training.decay: above 0, at most 10"),
            (self.decay_epochs > 0, "training.decay_epochs: 1 or more"),
            (self.early_stop > 0, "training.early_stop: 1 or more"),
            (self.clip_norm.is_none_or(|n| n.is_finite() && n > 0.0), "training.clip_norm: above 0"),
        ]
    }
}

impl Augment {
    pub fn rules(&self) -> Vec<Rule> {
        let unit = |v: f64| v.is_finite() && (0.0..=1.0).contains(&v);
        let kept = unit(self.zoom) && self.zoom < 0.9 && unit(self.shift) && (0.0..=180.0).contains(&self.rotation);
        vec![(kept, "augment: rotation to 180, zoom below 0.9, shift to 1")]
    }
}
