//! Networks trained for a row: a recipe of the site on the cohort, with images changed as a variant has it, or on some
//! of the patients.
//!
//! What is trained on is written as a table and a recipe beside the run, so that anybody can train the same with
//! `train`. Neighbours: `train` trains, `scoring` asks the network that comes out. Left out: recipes
//! (`models/recipes`).

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::catalogue::{Changed, Kind, Row};
use super::cohort::{Cohort, Image};
use super::files;
use super::resample::{self, Labelled};
use super::rows::truth;
use super::strata;
use super::variants::{self, How, ORIGINAL, Variant};
use crate::config::Device;
use crate::domain::{Digest, Purpose};
use crate::infer::Package;
use crate::perturb::Form;
use crate::train::Part;
use crate::train::{self, Recipe, TrainOptions};

/// A network to be trained.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Training {
    /// Unique within a run; of folders and of the package.
    pub(super) name: String,
    pub(super) row: &'static str,
    pub(super) variant: Variant,
    /// Places of the images in the cohort, all parts.
    pub(super) images: Vec<usize>,
    /// What was done to the cohort, for the report.
    pub(super) note: String,
}

/// What a row has trained; nothing if it has no such meaning.
pub(super) fn of_row(
    row: &Row,
    cohort: &Cohort,
    groups: usize,
    form: Form,
    seed: u64,
) -> anyhow::Result<Vec<Training>> {
    let all = || (0..cohort.images.len()).collect::<Vec<usize>>();
    let original = || Variant { name: ORIGINAL.to_owned(), how: How::Original };
    let training = |variant: Variant, images, note: String| Training {
        // A package's name is short, and a chain of changes has a long one.
        name: row.name.to_owned(),
        row: row.name,
        variant,
        images,
        note,
    };
    let mut all_of_row = match row.kind {
        // Those of another site, and of several architectures, are given.
        Kind::Detection if ["external", "architectures"].contains(&row.name) => Vec::new(),
        Kind::Detection => vec![training(original(), all(), "the whole cohort".to_owned())],
        Kind::NoFinding => {
            let (_, is_in) = strata::no_finding(cohort);
            let images: Vec<usize> = all().into_iter().filter(|i| is_in(*i, &cohort.images[*i])).collect();
            let note = "images without any finding".to_owned();
            vec![training(original(), images, note)]
        }
        Kind::EqualDisease => {
            let (images, note) = equal_disease(cohort, groups, seed)?;
            vec![training(original(), images, note)]
        }
        // Masks and salient boxes are of an image, noise and blur were for tests only, and acquisition asks how a network
        // reacts that knows nothing of it.
        Kind::Changed(Changed::Masks | Changed::Peak | Changed::Noise | Changed::Blur | Changed::Acquisition) => {
            Vec::new()
        }
        Kind::Changed(_) => variants::of_row(row, form, seed)
            .into_iter()
            .map(|variant| training(variant, all(), "the whole cohort, changed".to_owned()))
            .collect(),
        _ => Vec::new(),
    };
    if all_of_row.len() > 1 {
        all_of_row.iter_mut().zip(1..).for_each(|(training, number)| training.name = format!("{}-{number}", row.name));
    }
    Ok(all_of_row)
}

/// Patients of each part such that every group has the same distribution of disease.
fn equal_disease(cohort: &Cohort, groups: usize, seed: u64) -> anyhow::Result<(Vec<usize>, String)> {
    let labels = &cohort.labels;
    ensure!(!labels.is_empty(), "the cohort has no disease labels: columns of 0 and 1");
    ensure!(labels.len() <= 64, "the cohort has {} disease labels, 64 are possible", labels.len());
    let columns: Vec<usize> = labels.iter().filter_map(|l| cohort.columns.iter().position(|c| c == l)).collect();
    let patients = cohort.patients();
    let pattern = |image: &Image| {
        let bits = columns.iter().enumerate().filter(|(_, at)| truth(&image.values[**at]) == Some(true));
        bits.fold(0u64, |pattern, (bit, _)| pattern | 1 << bit)
    };
    let (mut kept, mut notes) = (Vec::new(), Vec::new());
    for part in [Part::Train, Part::Validation, Part::Test] {
        let places = cohort.of_part(part);
        if places.is_empty() {
            continue;
        }
        let labelled: Vec<Labelled> = places
            .iter()
            .map(|i| Labelled {
                patient: patients[*i],
                group: cohort.images[*i].group,
                pattern: pattern(&cohort.images[*i]),
            })
            .collect();
        let resampled = resample::equal_findings(&labelled, groups, seed).with_context(|| {
            format!("disease cannot be made as frequent in all groups of the {} part", part.as_str())
        })?;
        let distance = |d: Option<f64>| d.map_or("unknown".to_owned(), |d| format!("{d:.3}"));
        // To the nearest percent: numbers of few follow from no share.
        let share = 100 * resampled.rows.len() / places.len();
        notes.push(format!(
            "{}: {share} % of the images kept, the groups' distributions of disease differ by {} (before: {})",
            part.as_str(),
            distance(resampled.distance.after),
            distance(resampled.distance.before)
        ));
        kept.extend(resampled.rows.iter().map(|row| places[*row]));
    }
    kept.sort_unstable();
    Ok((kept, notes.join("; ")))
}

/// Trains the network, or goes on, or finds it there.
pub(super) fn train(
    training: &Training,
    recipe: &Path,
    cohort: &Cohort,
    groups: &[String],
    folder: &Path,
    device: Device,
    progress: &(dyn Fn(train::Event) + Sync),
) -> anyhow::Result<Package> {
    let folder = folder.join("retrain");
    let (packages, own) = (folder.join("models"), folder.join(&training.name));
    std::fs::create_dir_all(&own).with_context(|| format!("{} cannot be made", own.display()))?;
    let derived = derive(training, recipe, cohort, groups, &own)?;
    let name = Recipe::read(&derived)?.name;
    let place = packages.join(&name);
    if place.exists() {
        return Ok(Package::load(&place)?);
    }
    let options = TrainOptions {
        recipe: derived,
        out_dir: packages,
        cache_dir: folder.clone(),
        work_dir: Some(own),
        resume: true,
        replace: false,
        checkpoint_batches: 1000,
        device,
        threads: 0,
        loaders: 0,
        memory_bytes_max: 8 << 30,
    };
    Ok(train::run(&options, progress)?.package)
}

/// Writes the table and the recipe.
fn derive(
    training: &Training,
    recipe: &Path,
    cohort: &Cohort,
    groups: &[String],
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let table = folder.join("images.csv");
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["file", "patient", "study", "group", "split"])?;
    for place in &training.images {
        let image = &cohort.images[*place];
        let file = std::path::absolute(&image.file)?;
        let file = file.to_str().with_context(|| format!("{} is no UTF-8", image.name))?;
        writer.write_record([file, &image.patient, &image.study, &groups[image.group], image.part.as_str()])?;
    }
    files::write(&table, &writer.into_inner()?)?;
    let context = || format!("recipe {}", recipe.display());
    let text = std::fs::read_to_string(recipe).with_context(context)?;
    let mut said: toml::Table = toml::from_str(&text).with_context(context)?;
    said.insert("name".into(), format!("probe-{}", training.name).into());
    let beside = recipe.parent().unwrap_or(Path::new(""));
    let start = said.get_mut("network").and_then(|network| network.get_mut("start_weights"));
    if let Some(file) = start.and_then(|start| start.get_mut("file"))
        && let Some(relative) = file.as_str()
    {
        let absolute = std::path::absolute(beside.join(relative))?;
        *file = absolute.to_string_lossy().into_owned().into();
    }
    if let Some(card) = said.get_mut("card").and_then(toml::Value::as_table_mut) {
        let images = format!("training part of a probe's cohort, {}: {}", training.variant.name, training.note);
        card.insert("training_data".into(), images.into());
    }
    let mut data = toml::Table::new();
    data.insert("manifest".into(), "images.csv".into());
    if let How::Change(change) = &training.variant.how {
        data.insert("change".into(), toml::Value::try_from(&change.chain)?);
    }
    said.insert("data".into(), data.into());
    let path = folder.join("recipe.toml");
    files::write(&path, toml::to_string_pretty(&said)?.as_bytes())?;
    Ok(path)
}

/// The digest of a recipe whose networks would have these groups.
pub(super) fn check(path: &Path, groups: &[String]) -> anyhow::Result<Digest> {
    let recipe = Recipe::read(path)?;
    ensure!(recipe.purpose == Purpose::Race, "recipe {} is of no race model", path.display());
    ensure!(
        recipe.keys() == groups,
        "recipe {} has the groups {}, the race model {}: write output.groups of the recipe in that order",
        path.display(),
        recipe.keys().join(", "),
        groups.join(", ")
    );
    Ok(recipe.digest())
}
