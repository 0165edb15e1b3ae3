//! Recipes: everything that decides what a trained model becomes, in one TOML file.
//!
//! Unknown keys are refused. Neighbours: `infer::card`, whose parts a recipe shares, so that what is trained and what
//! is written on the card cannot differ. Left out: where results go (`TrainOptions`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::{Code, Contract, Digest, Probability, Purpose, View};
use crate::infer::{AggregationCard, Architecture, GroupCard, InputCard, ScopeCard, contract_of};
use crate::perturb::{Perturbation, Transform};
use crate::phantom::{PhantomOptions, World};

use super::fit::FitOptions;
use super::manifest::Columns;
use super::nets::{NetworkKind, TrainableArchitecture};
use super::settings::{Augment, Balance, Training};

/// Keys of a recipe that no weight depends on.
const AFTER_THE_FIT: [&str; 7] =
    ["version", "manufacturer", "phantoms_only", "scope", "aggregation", "calibration", "card"];
/// Changes that are made of an image, one after the other.
const CHANGES_MAX: usize = 16;

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
    /// Of study scores, fitted on the validation patients.
    #[serde(default)]
    pub calibration: CalibrationRecipe,
    pub card: CardTexts,
    /// What the file says, in one way of writing it.
    #[serde(skip)]
    said: toml::Table,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Phantoms to generate.
    pub phantom: Option<PhantomRecipe>,
    /// Or a folder with `labels.csv`; relative to the recipe.
    pub folder: Option<PathBuf>,
    /// Or a table of images; relative to the recipe. Its paths are relative to `folder`, else to its own folder.
    pub manifest: Option<PathBuf>,
    /// What the table calls its columns.
    #[serde(default)]
    pub columns: Columns,
    /// Names of groups in the table, where they differ from the recipe's.
    #[serde(default)]
    pub group_names: BTreeMap<String, String>,
    /// Views that are trained on; empty: all.
    #[serde(default)]
    pub views: Vec<View>,
    #[serde(default)]
    pub split: SplitRecipe,
    /// What is done to every image, one after the other, when it has been normalised and before it is augmented.
    #[serde(default)]
    pub change: Vec<Transform>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhantomRecipe {
    pub world: String,
    pub patients: u32,
    pub seed: u64,
    /// In place of the world's own: how strong the texture is that tells the groups apart.
    pub texture_rms: Option<f64>,
    /// Rows and columns, in place of those that `sidelight phantom` writes.
    pub size: Option<(u32, u32)>,
}

/// Shares of the patients, summing to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRecipe {
    pub train: f64,
    pub validation: f64,
    pub test: f64,
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
    /// What is done about rare classes.
    #[serde(default)]
    pub balance: Balance,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingRecipe {
    pub key: String,
    pub code: Code,
    pub site: Option<Code>,
    pub threshold: ThresholdRule,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationRecipe {
    pub method: CalibrationRule,
}

/// Whether study scores are calibrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationRule {
    #[default]
    None,
    /// One number for all outputs (Guo et al. 2017).
    Temperature,
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

impl DataRecipe {
    /// What is done to every image; nothing, where the chain is empty.
    pub fn changes(&self) -> Perturbation {
        Perturbation::chain(self.change.clone())
    }
}

impl PhantomRecipe {
    /// What is generated, or the rule that the recipe breaks.
    pub fn options(&self) -> Result<PhantomOptions, String> {
        let names = World::NAMES.join(", ");
        let mut world = World::named(&self.world)
            .ok_or_else(|| format!("data.phantom.world: {:?} is none of {names}", self.world))?;
        world.texture_rms = self.texture_rms.unwrap_or(world.texture_rms);
        let mut options =
            PhantomOptions { world, patients: self.patients, seed: self.seed, ..PhantomOptions::default() };
        options.size = self.size.unwrap_or(options.size);
        match options.world.fault() {
            Some(fault) => Err(format!("data.phantom: {fault}")),
            None => Ok(options),
        }
    }

    /// Of the folder where they are kept.
    pub fn folder_name(&self) -> String {
        let mut name = format!("{}-{}-{}", self.world, self.patients, self.seed);
        if let Some(rms) = self.texture_rms {
            name.push_str(&format!("-rms{rms}"));
        }
        if let Some((rows, columns)) = self.size {
            name.push_str(&format!("-{rows}x{columns}"));
        }
        name
    }
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
        recipe.said = toml::from_str(&text).unwrap_or_default();
        let start = recipe.network.start_weights.as_mut().map(|start| &mut start.file);
        let data = &mut recipe.data;
        for file in [data.folder.as_mut(), data.manifest.as_mut(), start].into_iter().flatten() {
            *file = path.parent().unwrap_or(Path::new("")).join(&*file);
        }
        match recipe.fault() {
            Some(reason) => Err(fail(reason)),
            None => Ok(recipe),
        }
    }

    /// Of everything that the recipe says; remarks and the order of keys do not count.
    pub fn digest(&self) -> Digest {
        Digest::of(self.said.to_string().as_bytes())
    }

    /// Of what decides the weights: what is used when they stand already may be corrected before a training goes on.
    pub fn fit_digest(&self) -> Digest {
        let mut said = self.said.clone();
        AFTER_THE_FIT.iter().for_each(|key| drop(said.remove(*key)));
        let findings = said.get_mut("output").and_then(|output| output.get_mut("findings"));
        for finding in findings.and_then(toml::Value::as_array_mut).into_iter().flatten() {
            finding.as_table_mut().map(|finding| finding.remove("threshold"));
        }
        Digest::of(said.to_string().as_bytes())
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
            network: self.network.clone(),
            training: self.training,
            augment: self.augment,
            balance: self.output.balance,
            seed: self.seed,
        }
    }

    /// The first rule that the recipe breaks, those of the card that it becomes among them.
    fn fault(&self) -> Option<String> {
        let shares = [self.data.split.train, self.data.split.validation, self.data.split.test];
        let share = |v: f64| (0.0..1.0).contains(&v);
        let (data, network) = (&self.data, &self.network);
        let torchvision = matches!(network.architecture, TrainableArchitecture::Torchvision(_));
        let efficientnet = matches!(
            network.architecture,
            TrainableArchitecture::Torchvision(Architecture::EfficientnetB0 | Architecture::EfficientnetB2)
        );
        let mut rules = vec![
            (
                data.phantom.is_some() != (data.folder.is_some() || data.manifest.is_some()),
                "data: give either phantom or folder or manifest",
            ),
            (
                shares.iter().all(|s| *s > 0.0 && *s < 1.0) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9,
                "data.split: train, validation and test are above 0 and sum to 1",
            ),
            (
                self.aggregation.weights.is_empty(),
                "aggregation.weights: figures on the card would be those of an unweighted mean; weigh views in the card",
            ),
            (
                self.keys().len() >= if self.purpose == Purpose::Race { 2 } else { 1 },
                "output: a race model has at least 2 groups, a clinical model 1 finding",
            ),
            (
                if self.purpose == Purpose::Race {
                    self.output.findings.is_empty()
                } else {
                    self.output.groups.is_empty()
                },
                "output: a race model has groups alone, a clinical model findings",
            ),
            (
                self.output.balance != Balance::Sampling || self.purpose == Purpose::Race,
                "output.balance: sampling is for groups; findings exclude no other, use weights",
            ),
            (network.dropout.is_none_or(share), "network.dropout: 0 to below 1"),
            (share(network.drop_connect), "network.drop_connect: 0 to below 1"),
            (network.drop_connect == 0.0 || efficientnet, "network.drop_connect: for efficientnet only"),
            (
                network.start_weights.is_none() || torchvision,
                "network.start_weights: compact has none; use one of torchvision's architectures",
            ),
        ];
        rules.push((data.change.len() <= CHANGES_MAX, "data.change: at most 16 changes, one after the other"));
        rules.extend(self.training.rules());
        rules.extend(self.augment.rules());
        let broken = rules.iter().find(|(kept, _)| !kept).map(|(_, rule)| (*rule).to_owned());
        broken
            .or_else(|| self.data.phantom.as_ref()?.options().err())
            .or_else(|| self.data.changes().fault().map(|fault| format!("data.change: {fault}")))
            .or_else(|| super::package::fault(self))
            .or_else(|| super::evaluate::name_clash(self, &BTreeSet::new()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod fixtures {
    use std::path::Path;

    use super::{Recipe, RecipeError};

    /// A small network, and a card, for recipes of tests that are about something else.
    pub const TOY: &str = r#"
[input]
contract = "minmax-unit"
size = 16
[network]
architecture = "compact"
[training]
learning_rate = 0.01
batch = 16
epochs = 2
early_stop = 4
"#;
    pub const CARD: &str = r#"
[card]
training_data = "toys"
intended_use = "tests"
limits = "all"
license = "Apache-2.0"
date = "2026-01-31"
"#;

    /// The recipe of a file with this text.
    pub fn recipe(text: &str) -> Result<Recipe, RecipeError> {
        recipe_in(tempfile::tempdir().unwrap().path(), text)
    }

    /// As [`recipe`], in a folder in which it may name files.
    pub fn recipe_in(dir: &Path, text: &str) -> Result<Recipe, RecipeError> {
        let path = dir.join("toy.toml");
        std::fs::write(&path, text).unwrap();
        Recipe::read(&path)
    }
}
