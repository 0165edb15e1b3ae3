//! What a run is: its cohort, models, rows, form and seed. Kept beside its predictions, so that a report needs nothing
//! else and nobody goes on with another run by mistake.
//!
//! Left out: times and the machine, so that shards of one run have the same manifest.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::catalogue::Row;
use super::cohort::{Cohort, Image, Reject};
use super::features::Source;
use super::parts::Asked;
use super::{files, saliency, variants};
use crate::domain::{Digest, Purpose};
use crate::infer::Package;
use crate::perturb::Form;

/// Of `manifest.json`.
pub const FORMAT: u32 = 2;
pub(super) const FILE: &str = "manifest.json";
const COHORT: &str = "cohort.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    /// Version of the program.
    pub sidelight: String,
    /// Name of the table of images, or of posteriors.
    pub cohort: String,
    pub cohort_digest: Digest,
    /// Keys of the race models' groups.
    pub groups: Vec<String>,
    pub models: Vec<Model>,
    /// Names of rows.
    pub rows: Vec<String>,
    pub form: Form,
    /// Digest of the recipe that networks are trained by, if any are.
    pub recipe: Option<Digest>,
    pub seed: u64,
    pub asked: Asked,
    /// Names of the answers that the run leaves beside predictions.
    pub answers: Vec<String>,
    /// Vectors of images that rows learn from.
    pub features: Vec<Source>,
}

/// A model that was asked, and what is needed to judge its answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name, version and digest.
    pub key: String,
    pub name: String,
    pub purpose: Purpose,
    /// Keys of groups or findings.
    pub outputs: Vec<String>,
    /// Decision thresholds of findings.
    pub thresholds: Vec<f64>,
    pub precision: Option<String>,
}

/// The cohort as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    columns: Vec<String>,
    images: Vec<Image>,
    rejected: Vec<Reject>,
    labels: Vec<String>,
    digest: Digest,
}

impl Model {
    pub(super) fn of(package: &Package, precision: Option<String>) -> Self {
        let groups = package.groups().iter().map(|g| g.key.clone());
        Self {
            key: package.key(),
            name: package.identity.name.clone(),
            purpose: package.purpose,
            outputs: groups.chain(package.findings().iter().map(|f| f.key.clone())).collect(),
            thresholds: package.findings().iter().map(|f| f.threshold.get()).collect(),
            precision,
        }
    }
}

impl Manifest {
    pub fn rows(&self) -> anyhow::Result<Vec<&'static Row>> {
        let row = |name: &String| Row::named(name).with_context(|| format!("there is no row {name:?}"));
        self.rows.iter().map(row).collect()
    }

    /// # Errors
    /// The run's changes are not what its rows ask for in this version.
    pub(super) fn check_variants(&self) -> anyhow::Result<()> {
        let variants = variants::of_rows(&self.rows()?, self.form, self.seed);
        let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
        let is_same = self.asked.variants.is_empty() || self.asked.variants == names;
        ensure!(is_same, "the run is of another version of sidelight: its changes are others");
        Ok(())
    }

    /// Places of the models of a purpose.
    pub fn of_purpose(&self, purpose: Purpose) -> impl Iterator<Item = (usize, &Model)> {
        self.models.iter().enumerate().filter(move |(_, model)| model.purpose == purpose)
    }

    /// Names of all sets of vectors that a run may keep.
    pub(super) fn sets(&self) -> Vec<String> {
        let maps = (0..self.of_purpose(Purpose::Race).count()).map(saliency::set);
        self.features.iter().map(|source| source.set.clone()).chain(maps).collect()
    }

    /// Begins a run in the folder, or goes on with the same one.
    ///
    /// # Errors
    /// There is a run and `resume` is not given, or it is another one.
    pub(super) fn begin(&self, folder: &Path, cohort: &Cohort, resume: bool) -> anyhow::Result<()> {
        // It will hold posteriors and a picture of a patient.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("{} cannot be made", folder.display()))?;
        files::clean(folder);
        if folder.join(FILE).exists() {
            let found = Self::read(folder)?;
            ensure!(resume, "{} holds a run: go on with --resume, or give another folder", folder.display());
            if let Some(what) = found.difference(self) {
                anyhow::bail!(
                    "{} holds another run ({what}): go on as it was begun, or give another folder",
                    folder.display()
                );
            }
            return Ok(());
        }
        let kept = Kept {
            columns: cohort.columns.clone(),
            images: cohort.images.clone(),
            rejected: cohort.rejected.clone(),
            labels: cohort.labels.clone(),
            digest: cohort.digest.clone(),
        };
        files::write(&folder.join(COHORT), &serde_json::to_vec(&kept)?)?;
        files::write(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let context = || format!("{} is not of a run of probes", path.display());
        let manifest: Self =
            serde_json::from_slice(&std::fs::read(&path).with_context(context)?).with_context(context)?;
        ensure!(manifest.format == FORMAT, "{} is of format {}, this is {FORMAT}", path.display(), manifest.format);
        let plain = |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let sets = manifest.features.iter().map(|source| &source.set);
        ensure!(manifest.answers.iter().chain(sets).all(plain), "{}: a name of its parts is none", path.display());
        let fits = manifest.of_purpose(Purpose::Race).all(|(_, model)| model.outputs == manifest.groups);
        ensure!(fits, "{}: its race models have other groups", path.display());
        let asked = manifest
            .models
            .iter()
            .all(|m| manifest.asked.models.iter().any(|(key, of)| *key == m.key && *of == m.outputs));
        ensure!(asked || manifest.asked.models.is_empty(), "{}: its models have other outputs", path.display());
        Ok(manifest)
    }

    /// The cohort that the run began with.
    pub fn read_cohort(&self, folder: &Path) -> anyhow::Result<Cohort> {
        let path = folder.join(COHORT);
        let context = || format!("{} cannot be read", path.display());
        let kept: Kept = serde_json::from_slice(&std::fs::read(&path).with_context(context)?).with_context(context)?;
        let Kept { columns, images, rejected, labels, digest } = kept;
        ensure!(digest == self.cohort_digest, "{} is not the cohort of the run", path.display());
        let whole = images.iter().all(|i| i.values.len() == columns.len() && i.group < self.groups.len());
        ensure!(whole, "{} is damaged", path.display());
        Ok(Cohort { images, columns, rejected, labels, digest })
    }

    /// In what another run differs, if in anything.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let fields = [
            (self.sidelight == other.sidelight, "another version of sidelight"),
            (self.cohort_digest == other.cohort_digest, "another cohort or other --label, or its images have changed"),
            (self.models == other.models && self.groups == other.groups, "other models"),
            (self.form == other.form, "another --mode"),
            (self.seed == other.seed, "another --seed"),
            (self.rows == other.rows && self.asked == other.asked && self.answers == other.answers, "other rows"),
            (self.features == other.features, "other models"),
            (self.recipe == other.recipe, "another recipe"),
        ];
        fields.iter().find(|(same, _)| !same).map(|(_, what)| *what)
    }
}
