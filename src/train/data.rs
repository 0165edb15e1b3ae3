//! Images and labels in memory: `labels.csv` and its DICOM files, decoded and normalised to the model's contract.
//!
//! Pixels go through the same decoding and normalisation as in the node, in this process: phantoms and curated
//! training sets are trusted files. Values are kept as f32. Neighbours: `phantom` writes such folders, `pixels`
//! reads images. Left out: data sets that do not fit in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::domain::{Contract, Purpose, View};
use crate::phantom::{self, PhantomOptions, World};
use crate::pixels::{self, Frames, Limits};

use super::progress::Event;
use super::recipe::{PhantomRecipe, Recipe};

/// What is known of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub patient: String,
    pub study: String,
    /// Self-reported group, for figures by group; empty where not known.
    pub group: String,
    pub target: Target,
}

/// What the network is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Position of the group.
    Group(usize),
    /// One truth per finding, `None` where it is not known.
    Findings(Vec<Option<bool>>),
}

/// Samples and their images.
#[derive(Debug)]
pub struct Dataset {
    pub samples: Vec<Sample>,
    /// N × channels × size × size, f32.
    images: Tensor,
    pub purpose: Purpose,
    /// Number of outputs.
    pub outputs: usize,
}

/// One row of `labels.csv` that is used.
struct Row {
    file: PathBuf,
    sample: Sample,
}

impl Dataset {
    /// From images in memory: `values` holds one row per sample.
    pub fn from_values(
        samples: Vec<Sample>,
        values: &[Vec<f32>],
        contract: &Contract,
        purpose: Purpose,
        outputs: usize,
    ) -> anyhow::Result<Self> {
        let (side, channels) = (i64::from(contract.size), i64::from(contract.channels));
        ensure!(samples.len() == values.len() && !samples.is_empty(), "there are no images to train on");
        let rows: Vec<Tensor> =
            values.iter().map(|v| Tensor::f_from_slice(v)?.f_view([channels, side, side])).collect::<Result<_, _>>()?;
        Ok(Self { samples, images: Tensor::f_stack(&rows, 0)?, purpose, outputs })
    }

    /// Reads `folder/labels.csv` and all images that the recipe uses.
    pub fn load(
        folder: &Path,
        recipe: &Recipe,
        contract: &Contract,
        progress: &(dyn Fn(Event) + Sync),
    ) -> anyhow::Result<Self> {
        let rows = read_labels(&folder.join("labels.csv"), recipe)?;
        let (done, total) = (AtomicU64::new(0), rows.len() as u64);
        let limits = Limits::default();
        let contracts = std::slice::from_ref(contract);
        let images: Vec<Vec<(Sample, Vec<f32>)>> = rows
            .into_par_iter()
            .map(|row| {
                let path = folder.join(&row.file);
                let image = pixels::normalise_file(&path, contracts, Frames::default(), &limits)
                    .with_context(|| path.display().to_string())?;
                progress(Event::Loading { done: done.fetch_add(1, Ordering::Relaxed) + 1, total });
                // Every frame that the node would score is an image with its study's labels.
                Ok(image.inputs.into_iter().map(|input| (row.sample.clone(), input.values)).collect())
            })
            .collect::<anyhow::Result<_>>()?;
        let (samples, values): (Vec<_>, Vec<_>) = images.into_iter().flatten().unzip();
        Self::from_values(samples, &values, contract, recipe.purpose, recipe.keys().len())
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub fn channels(&self) -> i64 {
        self.images.size()[1]
    }

    /// The images at these positions, one batch.
    pub fn batch(&self, positions: &[usize]) -> anyhow::Result<Tensor> {
        let index: Vec<i64> = positions.iter().map(|i| *i as i64).collect();
        Ok(self.images.f_index_select(0, &Tensor::f_from_slice(&index)?)?)
    }

    /// What the network is to say of them: positions of groups (i64), or one column per finding (f32) and a mask of
    /// the same shape that is 0 where the truth is not known.
    pub fn targets(&self, positions: &[usize]) -> anyhow::Result<(Tensor, Option<Tensor>)> {
        let mut groups = Vec::new();
        let (mut truth, mut mask) = (Vec::new(), Vec::new());
        for i in positions {
            match &self.samples[*i].target {
                Target::Group(group) => groups.push(*group as i64),
                Target::Findings(findings) => {
                    truth.extend(findings.iter().map(|f| if *f == Some(true) { 1f32 } else { 0.0 }));
                    mask.extend(findings.iter().map(|f| if f.is_some() { 1f32 } else { 0.0 }));
                }
            }
        }
        if self.purpose == Purpose::Race {
            return Ok((Tensor::f_from_slice(&groups)?, None));
        }
        let shape = [positions.len() as i64, self.outputs as i64];
        debug_assert_eq!(truth.len(), mask.len());
        let matrix = |values: &[f32]| Tensor::f_from_slice(values)?.f_view(shape);
        Ok((matrix(&truth)?.f_to_kind(Kind::Float)?, Some(matrix(&mask)?)))
    }
}

/// The folder with the recipe's images; phantoms are generated unless the same ones are there already.
pub fn folder(recipe: &Recipe, cache_dir: &Path, progress: &(dyn Fn(Event) + Sync)) -> anyhow::Result<PathBuf> {
    if let Some(folder) = &recipe.data.folder {
        return Ok(folder.clone());
    }
    let Some(PhantomRecipe { world, patients, seed }) = &recipe.data.phantom else {
        bail!("recipe {}: give either data.phantom or data.folder", recipe.name);
    };
    let world = World::named(world).with_context(|| format!("no phantom world is named {world:?}"))?;
    let options = PhantomOptions { world, patients: *patients, seed: *seed, ..PhantomOptions::default() };
    let folder = cache_dir.join(format!("{}-{patients}-{seed}", options.world.name));
    // world.json is written last: where it is and says the same, the set is whole.
    if same_phantoms(&folder.join("world.json"), &options) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    phantom::generate(&options, &folder, &|done, total| progress(Event::Phantoms { done, total }))?;
    Ok(folder)
}

fn same_phantoms(path: &Path, options: &PhantomOptions) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    let Ok(found) = serde_json::from_str::<serde_json::Value>(&text) else { return false };
    // Floats in the file went through text; so must those they are compared with.
    let expected = serde_json::to_string(options).and_then(|t| serde_json::from_str::<serde_json::Value>(&t));
    found["sidelight"] == env!("CARGO_PKG_VERSION") && expected.is_ok_and(|e| found["options"] == e)
}

fn read_labels(path: &Path, recipe: &Recipe) -> anyhow::Result<Vec<Row>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    let records: Vec<HashMap<String, String>> =
        reader.deserialize().collect::<Result<_, _>>().with_context(|| path.display().to_string())?;
    let inconsistent = inconsistent_patients(&records);
    let mut rows = Vec::new();
    for (i, record) in records.iter().enumerate() {
        let line = i + 2;
        let column =
            |name: &str| record.get(name).with_context(|| format!("{}: column {name} is missing", path.display()));
        let view = column("view")?;
        if !recipe.data.views.is_empty() && !recipe.data.views.iter().any(|v: &View| v.as_str() == view) {
            continue;
        }
        let group = record.get("group").cloned().unwrap_or_default();
        let target = match recipe.purpose {
            Purpose::Race if inconsistent.contains(column("patient")?) => continue,
            Purpose::Race => match recipe.output.groups.iter().position(|g| g.key == group) {
                Some(position) => Target::Group(position),
                None => continue,
            },
            Purpose::Clinical => {
                let truth = |key: &str| match column(key)?.trim() {
                    "1" => Ok(Some(true)),
                    "0" => Ok(Some(false)),
                    "" => Ok(None),
                    other => bail!("{}: line {line}: {key} is {other:?}, 0, 1 or nothing is possible", path.display()),
                };
                Target::Findings(recipe.keys().into_iter().map(truth).collect::<anyhow::Result<_>>()?)
            }
        };
        let sample = Sample { patient: column("patient")?.clone(), study: column("study")?.clone(), group, target };
        rows.push(Row { file: PathBuf::from(column("file")?), sample });
    }
    ensure!(!rows.is_empty(), "{}: no row fits the recipe's views and labels", path.display());
    Ok(rows)
}

/// Patients with more than one group label: which is right is not known, so they are left out.
fn inconsistent_patients(records: &[HashMap<String, String>]) -> HashSet<String> {
    let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = HashSet::new();
    for record in records {
        let (Some(patient), Some(group)) = (record.get("patient"), record.get("group")) else { continue };
        if groups.insert(patient, group).is_some_and(|before| before != group) {
            found.insert(patient.clone());
        }
    }
    found
}
