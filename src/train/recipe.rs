//! Recipes: everything that decides what a trained model becomes, in one TOML file.
//!
//! Unknown keys are refused. Neighbours: `infer::card`, whose parts a recipe shares, so that what is trained and what
//! is written on the card cannot differ. Left out: where results go (`TrainOptions`).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::{Code, Contract, Probability, Purpose, View};
use crate::infer::{AggregationCard, GroupCard, InputCard, ScopeCard, contract_of};
use crate::phantom;

use super::fit::FitOptions;
use super::nets::NetworkKind;

/// A training recipe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    pub version: String,
    pub manufacturer: String,
    pub purpose: Purpose,
    /// Decides split, first weights, order of batches and augmentation.
    pub seed: u64,
    #[serde(default)]
    pub phantoms_only: bool,
    pub data: DataRecipe,
    pub input: InputCard,
    pub network: NetworkKind,
    pub training: Training,
    #[serde(default)]
    pub augment: Augment,
    pub output: OutputRecipe,
    #[serde(default)]
    pub scope: ScopeCard,
    #[serde(default)]
    pub aggregation: AggregationCard,
    pub card: CardTexts,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Phantoms to generate.
    pub phantom: Option<PhantomRecipe>,
    /// Or a folder with `labels.csv`; relative to the recipe.
    pub folder: Option<PathBuf>,
    /// Views that are trained on; empty: all.
    #[serde(default)]
    pub views: Vec<View>,
    #[serde(default)]
    pub split: SplitRecipe,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhantomRecipe {
    pub world: String,
    pub patients: u32,
    pub seed: u64,
}

/// Shares of the patients, summing to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRecipe {
    pub train: f64,
    pub validation: f64,
    pub test: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Of Adam, at the start.
    pub learning_rate: f64,
    #[serde(default)]
    pub weight_decay: f64,
    pub batch: usize,
    pub epochs: usize,
    /// The learning rate is multiplied by this on a plateau of the validation loss…
    pub plateau_factor: f64,
    /// …of this many epochs…
    pub plateau_patience: usize,
    /// …down to this.
    pub learning_rate_min: f64,
    /// Training ends after this many epochs without a better validation loss.
    pub early_stop: usize,
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputRecipe {
    /// For race: values of the column `group`, in output order.
    #[serde(default)]
    pub groups: Vec<GroupCard>,
    /// For clinical: columns of `labels.csv` holding 0, 1 or nothing, in output order.
    #[serde(default)]
    pub findings: Vec<FindingRecipe>,
    /// Weighs classes by their inverse frequency in the training set.
    #[serde(default)]
    pub balance: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingRecipe {
    pub key: String,
    pub code: Code,
    pub site: Option<Code>,
    pub threshold: ThresholdRule,
}

/// How the decision threshold is found on the validation patients.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ThresholdRule {
    /// Largest sensitivity + specificity.
    Youden,
    /// The highest threshold that reaches this sensitivity.
    Sensitivity(Probability),
    Fixed(Probability),
}

/// What a card says besides figures.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardTexts {
    pub training_data: String,
    pub intended_use: String,
    pub limits: String,
    pub license: String,
    /// Day of training, YYYY-MM-DD; fixed in the recipe so that the package can be reproduced.
    pub date: String,
}

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[error("recipe {path}: {reason}")]
pub struct RecipeError {
    pub path: PathBuf,
    pub reason: String,
}

impl Default for SplitRecipe {
    fn default() -> Self {
        Self { train: 0.6, validation: 0.1, test: 0.3 }
    }
}

impl Recipe {
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let fail = |reason: String| RecipeError { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
        let mut recipe: Self = toml::from_str(&text).map_err(|e| fail(e.to_string()))?;
        if let Some(folder) = &mut recipe.data.folder {
            *folder = path.parent().unwrap_or(Path::new("")).join(&*folder);
        }
        match recipe.fault() {
            Some(reason) => Err(fail(reason)),
            None => Ok(recipe),
        }
    }

    /// The input contract, by the same rules as a card's.
    pub fn contract(&self) -> Result<Contract, RecipeError> {
        contract_of(&self.input).map_err(|reason| RecipeError { path: PathBuf::from(&self.name), reason })
    }

    /// Keys of the outputs, in order.
    pub fn keys(&self) -> Vec<&str> {
        match self.purpose {
            Purpose::Race => self.output.groups.iter().map(|g| g.key.as_str()).collect(),
            Purpose::Clinical => self.output.findings.iter().map(|f| f.key.as_str()).collect(),
        }
    }

    pub fn fit_options(&self) -> FitOptions {
        FitOptions {
            network: self.network,
            training: self.training,
            augment: self.augment,
            balance: self.output.balance,
            seed: self.seed,
        }
    }

    /// The first rule that the recipe breaks. What ends up on the card is checked again when that is written.
    fn fault(&self) -> Option<String> {
        let t = &self.training;
        let unit = |v: f64| v.is_finite() && (0.0..=1.0).contains(&v);
        let shares = [self.data.split.train, self.data.split.validation, self.data.split.test];
        let a = &self.augment;
        let rules = [
            (self.data.phantom.is_some() != self.data.folder.is_some(), "data: give either phantom or folder"),
            (
                shares.iter().all(|s| *s > 0.0 && *s < 1.0) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9,
                "data.split: train, validation and test are above 0 and sum to 1",
            ),
            (t.learning_rate > 0.0 && t.learning_rate <= 1.0, "training.learning_rate: above 0, at most 1"),
            (
                t.learning_rate_min >= 0.0 && t.learning_rate_min <= t.learning_rate,
                "training.learning_rate_min: 0 to learning_rate",
            ),
            (t.weight_decay.is_finite() && t.weight_decay >= 0.0, "training.weight_decay: 0 or more"),
            ((1..=4096).contains(&t.batch), "training.batch: 1 to 4096"),
            ((1..=10_000).contains(&t.epochs), "training.epochs: 1 to 10000"),
            (t.plateau_factor > 0.0 && t.plateau_factor < 1.0, "training.plateau_factor: between 0 and 1"),
            (
                self.aggregation.weights.is_empty(),
                "aggregation.weights: figures on the card would be those of an unweighted mean; weigh views in the card",
            ),
            (t.early_stop > 0, "training.early_stop: 1 or more"),
            (
                unit(a.zoom) && a.zoom < 0.9 && unit(a.shift) && a.rotation.abs() <= 180.0,
                "augment: rotation to 180, zoom below 0.9, shift to 1",
            ),
            (
                self.keys().len() >= if self.purpose == Purpose::Race { 2 } else { 1 },
                "output: a race model has at least 2 groups, a clinical model 1 finding",
            ),
        ];
        let broken = rules.iter().find(|(kept, _)| !kept).map(|(_, rule)| (*rule).to_owned());
        let unknown_world = || {
            let world = &self.data.phantom.as_ref()?.world;
            let names = phantom::World::NAMES;
            (!names.contains(&world.as_str()))
                .then(|| format!("data.phantom.world: {world:?} is none of {}", names.join(", ")))
        };
        broken.or_else(unknown_world)
    }
}
