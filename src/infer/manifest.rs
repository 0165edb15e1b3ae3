//! Model packages: `models/<name>/model.toml` and its weight file, checked into a [`Package`].
//!
//! A `Package` is the proof that the card is complete and consistent and that the weight file has the card's
//! SHA-256. Every fault is returned at once, with its key and the remedy. Neighbours: `card` (the file's mirror),
//! `scope`, `torch` (loads the weights, checking the hash once more on the bytes it really uses). Left out: whether
//! the network does what the card says; the engine's warm-up finds out.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::domain::{Contract, Digest, DigestOf, Finding, Group, ModelIdentity, ModelOutputs, Purpose};

use super::calibration::Calibration;
use super::card::{Activation, AggregationCard, Architecture, Card, PrecisionCard, Provenance};
use super::check::{
    Faults, NAME_RULE, check_aggregation, check_names, check_precisions, check_provenance, columns, contract, is_name,
    outputs, shares, weights,
};
use super::elsewhere::{Elsewhere, elsewhere, identity};
use super::files::{self, CARD_BYTES_MAX, WEIGHTS_BYTES_MAX};
use super::golden::GoldenCard;
use super::nets::Width;
use super::ood::Ood;
use super::scope::Scope;

/// A model that is ready to be loaded.
#[derive(Debug, Clone)]
pub struct Package {
    pub identity: ModelIdentity,
    pub purpose: Purpose,
    pub outputs: ModelOutputs,
    /// Of no meaning for a product that scores images on its own.
    pub contract: Contract,
    pub scope: Scope,
    pub aggregation: AggregationCard,
    pub calibration: Option<Calibration>,
    pub ood: Option<Ood>,
    /// Of a race model's groups in what it was trained on, in output order, where the card says so.
    pub shares: Option<Vec<f64>>,
    pub activation: Activation,
    /// Width of the network's output.
    pub columns: usize,
    /// The column of each of `outputs`.
    pub column_of: Vec<usize>,
    /// The reduced precisions that the card permits.
    pub precisions: Vec<PrecisionCard>,
    pub weights: Weights,
    /// The card itself, of a model that is not run in this process.
    pub weights_path: PathBuf,
    /// The package's folder.
    pub dir: PathBuf,
    /// Read by whoever compares with them ([`super::Golden::of`]).
    pub golden: Option<GoldenCard>,
    /// Set where [`Weights::Elsewhere`].
    pub elsewhere: Option<Elsewhere>,
    pub provenance: Provenance,
    /// Of what in the card changes scores beside the weights: a profile holds for one of them.
    pub scoring: Digest,
}

/// How the weight file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    TorchScript,
    Safetensors(Architecture),
    /// There is none: the model is not run in this process.
    Elsewhere,
}

/// What is wrong with a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardFault {
    pub card: PathBuf,
    /// The key in the card, or `model.toml` for the file as a whole.
    pub key: String,
    pub problem: String,
    pub remedy: String,
}

/// Everything that is wrong with one or several packages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    pub faults: Vec<CardFault>,
}

impl Package {
    /// Reads `dir/model.toml`, checks all of it, and hashes the weight file.
    pub fn load(dir: &Path) -> Result<Self, ManifestError> {
        let path = dir.join("model.toml");
        let mut faults = Faults { card: path.clone(), list: Vec::new() };
        let loaded = read_card(&path, &mut faults).and_then(|card| build(dir, card, &mut faults));
        match loaded {
            Some(package) if faults.list.is_empty() => Ok(package),
            _ => Err(ManifestError { faults: faults.list }),
        }
    }

    /// The findings of a clinical model; empty for a race model.
    pub fn findings(&self) -> &[Finding] {
        match &self.outputs {
            ModelOutputs::Findings(findings) => findings,
            ModelOutputs::Groups(_) => &[],
        }
    }

    /// The groups of a race model; empty for a clinical model.
    pub fn groups(&self) -> &[Group] {
        match &self.outputs {
            ModelOutputs::Groups(groups) => groups,
            ModelOutputs::Findings(_) => &[],
        }
    }

    /// Channels and outputs of the network.
    pub(super) fn width(&self) -> Width {
        Width { channels: i64::from(self.contract.channels), columns: self.columns as i64 }
    }

    /// Whether its out-of-distribution score is made of the network's features.
    pub(super) fn needs_features(&self) -> bool {
        self.ood.as_ref().is_some_and(Ood::needs_features)
    }

    /// The key under which its scores are kept.
    pub fn key(&self) -> String {
        self.identity.key()
    }
}

/// Loads the named packages below `models_dir`, in order. Faults of all packages are returned together.
pub fn load_all(models_dir: &Path, names: &[String]) -> Result<Vec<Package>, ManifestError> {
    let mut packages: Vec<Package> = Vec::new();
    let mut list = Vec::new();
    let mut seen = BTreeSet::new();
    for name in names {
        let mut faults = Faults { card: models_dir.join(name).join("model.toml"), list: Vec::new() };
        if !is_name(name) {
            faults.add("name", format!("{name:?} is not a package name"), NAME_RULE);
        } else if !seen.insert(name) {
            faults.add("name", format!("{name} is listed twice"), "list each package once");
        } else {
            match Package::load(&models_dir.join(name)) {
                Ok(package) => {
                    if let Some(twin) = packages.iter().find(|p| p.identity.device_uid == package.identity.device_uid) {
                        let problem = format!("{} is also that of {}", package.identity.device_uid, twin.identity.name);
                        faults.add("device_uid", problem, "give each model version a UID of its own");
                    }
                    packages.push(package);
                }
                Err(error) => list.extend(error.faults),
            }
        }
        list.extend(faults.list);
    }
    if list.is_empty() { Ok(packages) } else { Err(ManifestError { faults: list }) }
}

impl fmt::Display for CardFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.card.display(), self.key, self.problem, self.remedy)
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

fn read_card(path: &Path, faults: &mut Faults) -> Option<Card> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(CARD_BYTES_MAX + 1).read_to_string(&mut text));
    if let Err(error) = read {
        let remedy = "a package is a folder with model.toml and a weight file; check models.dir and the package's name";
        faults.add("model.toml", format!("cannot be read: {error}"), remedy);
        return None;
    }
    if text.len() as u64 > CARD_BYTES_MAX {
        faults.add("model.toml", format!("is larger than {CARD_BYTES_MAX} bytes"), "move long texts elsewhere");
        return None;
    }
    match toml::from_str(&text) {
        Ok(card) => Some(card),
        Err(error) => {
            let line = error.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let place = line.map_or(String::new(), |l| format!("line {l}: "));
            let problem = format!("{place}{}", error.message().replace('\n', " "));
            let remedy = "compare with the card of a demo model; `sidelight model add` makes a card of a template";
            faults.add("model.toml", problem, remedy);
            None
        }
    }
}

fn build(dir: &Path, card: Card, faults: &mut Faults) -> Option<Package> {
    check_names(dir, &card, faults);
    let contract = match card.format.is_result() {
        // Never fulfilled: nobody here makes an input for it.
        true => Contract::preset(Contract::PRESETS[0], 8),
        false => contract(&card.input, faults),
    };
    let weights = weights(&card, contract.as_ref(), faults);
    let (outputs, column_of) = outputs(&card.output, card.purpose, faults);
    let shares = shares(&card.output, faults);
    let columns = columns(&card.output, &column_of, card.purpose, faults);
    check_aggregation(&card.aggregation, card.purpose, faults);
    let calibration = card.calibration.clone().map(|c| Calibration::new(c, &outputs));
    let calibration = calibration.and_then(|made| faults.take(made));
    let ood = card.ood.clone().map(|o| Ood::new(o, dir, card.output.activation)).and_then(|made| faults.take(made));
    let scope = match Scope::new(card.scope.clone()) {
        Ok(scope) => scope,
        Err(list) => {
            list.into_iter().for_each(|(key, problem, remedy)| faults.add(key, problem, remedy));
            Scope::default()
        }
    };
    check_precisions(&card.precision, faults);
    check_provenance(&card.provenance, faults);
    let elsewhere = elsewhere(dir, &card, faults);
    let (digest, digest_of) = match card.format.is_in_process() {
        true => (card.sha256.clone(), DigestOf::Weights),
        false => (identity(&card), DigestOf::Card),
    };
    let weights_path = match digest_of {
        DigestOf::Weights => weight_file(dir, &card.file, &card.sha256, faults)?,
        DigestOf::Card => dir.join("model.toml"),
    };
    let scoring = scoring(&card);
    let (contract, weights) = (contract?, weights?);
    let identity = ModelIdentity {
        name: card.name,
        version: card.version,
        manufacturer: card.manufacturer,
        weights: digest,
        digest_of,
        contract: if card.format.is_result() { String::new() } else { contract.label() },
        device_uid: card.device_uid,
        phantoms_only: card.phantoms_only,
    };
    Some(Package {
        identity,
        purpose: card.purpose,
        outputs,
        contract,
        scope,
        aggregation: card.aggregation,
        calibration,
        ood,
        shares,
        activation: card.output.activation,
        columns,
        column_of,
        precisions: card.precision,
        weights,
        weights_path,
        dir: dir.to_owned(),
        golden: card.golden,
        elsewhere,
        scoring,
        provenance: card.provenance,
    })
}

/// The digest of what in the card changes scores, of images or of studies, beside the weights. Thresholds and labels do
/// not, nor what is told of the model.
fn scoring(card: &Card) -> Digest {
    let findings: Vec<_> = card.output.findings.iter().map(|f| (&f.key, f.column)).collect();
    let output = (card.output.activation, card.output.columns, findings, &card.output.groups);
    let parts = (&card.input, output, &card.aggregation, &card.calibration);
    Digest::of(&serde_json::to_vec(&parts).expect("a card holds no map with keys that are not text"))
}

/// The path of the weight file, within the folder and with the card's hash.
fn weight_file(dir: &Path, file: &str, sha256: &Digest, faults: &mut Faults) -> Option<PathBuf> {
    if file.is_empty() {
        faults.add("file", "is missing", "name the weight file beside model.toml");
        return None;
    }
    let path = match files::inside(dir, file) {
        Ok(path) => path,
        Err(problem) => {
            faults.add("file", problem, "put the weight file itself beside model.toml, and give its plain name");
            return None;
        }
    };
    match files::hash(&path, WEIGHTS_BYTES_MAX) {
        Err(error) => {
            faults.add("file", format!("{} cannot be read: {error}", path.display()), "check the file's permissions");
            None
        }
        Ok(found) if found != *sha256 => {
            let problem = format!("the file has {found}, the card says {sha256}");
            faults.add("sha256", problem, "restore the weight file that belongs to this card");
            None
        }
        Ok(_) => Some(path),
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
#[cfg(test)]
pub(super) use tests::fixtures;
