//! A run: rows of the catalogue on a cohort, in a folder that survives a kill.
//!
//! Order: predictions of all variants part by part, then networks trained for rows (each with predictions of its own),
//! then rows of tables and features. Each leaves a file, which is not made again. A shard makes its share of the files;
//! when all are there, [`super::report`] needs nothing but the folder. Neighbours: `scoring`, `retrain` and
//! `confounders` compute. Left out: what is said of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::answers::{self, Answer};
use super::catalogue::{Changed, Kind, ROWS, Row};
use super::cohort::Cohort;
use super::confounders::{self, Setting, Told};
use super::manifest::{FORMAT, Manifest, Model};
use super::parts::{self, IMAGES, Predictions, Whose};
use super::pictures;
use super::posteriors::Posteriors;
use super::retrain::{self, Training};
use super::rows::Data;
use super::scoring::{Scene, is_race};
use super::variants;
use crate::analyse::Scorers;
use crate::config::{Config, Device};
use crate::domain::Purpose;
use crate::infer::{self, Elsewhere, Package, WhiteBox};
use crate::perturb::{Form, Plane};
use crate::pixels::{self, Frames, Limits};
use crate::train;
use crate::train::Part;

/// What is to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub rows: Vec<&'static Row>,
    pub cohort: PathBuf,
    pub out: PathBuf,
    pub form: Form,
    /// A recipe: networks are trained for the rows that ask for it.
    pub recipe: Option<PathBuf>,
    pub resume: bool,
    pub shard: Shard,
    /// Names of packages; those of the configuration where there are none.
    pub race: Vec<String>,
    pub clinical: Vec<String>,
    /// The table's names of groups, where they differ from the race model's.
    pub group_names: BTreeMap<String, String>,
    /// Columns that say whether there is a disease; empty: all of 0, 1 and −1.
    pub labels: Vec<String>,
    pub seed: u64,
}

/// One of several runs that share the work, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub count: usize,
}

/// What a run tells on its way.
#[derive(Debug)]
pub enum Event {
    /// So many images of a set, named in words, are done or were done before.
    Images { of: String, done: u64, total: u64 },
    /// A network is trained for a row.
    Training { of: String, event: train::Event },
    /// A row that needs no model has begun.
    Row(String),
}

pub type Progress<'a> = &'a (dyn Fn(Event) + Sync);

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Shard {
    fn has(self, number: usize) -> bool {
        number % self.count == self.index
    }
}

/// Rows from a table of posteriors; nothing is left to do but the report.
pub fn of_posteriors(
    rows: &[&'static Row],
    table: &Path,
    names: &BTreeMap<String, String>,
    out: &Path,
    seed: u64,
    resume: bool,
) -> anyhow::Result<()> {
    for row in rows {
        ensure!(row.is_of_posteriors(), "{} needs images: give --cohort", row.name);
    }
    let Posteriors { groups, cohort, model, predictions } = Posteriors::read(table, names)?;
    let manifest = Manifest {
        format: FORMAT,
        sidelight: env!("CARGO_PKG_VERSION").to_owned(),
        cohort: file_name(table),
        cohort_digest: cohort.digest.clone(),
        groups,
        models: vec![model],
        rows: rows.iter().map(|row| row.name.to_owned()).collect(),
        form: Form::Corrected,
        recipe: None,
        seed,
        asked: predictions.asked.clone(),
        answers: Vec::new(),
    };
    manifest.begin(out, &cohort, resume)?;
    let whose = Whose { cohort: &cohort, groups: &manifest.groups };
    for number in 0..parts::count(cohort.images.len()) {
        let images = number * IMAGES..((number + 1) * IMAGES).min(cohort.images.len());
        let mut said = parts::Said::default();
        for (image, outputs) in predictions.of(0, 0).enumerate().skip(images.start).take(images.len()) {
            let outputs = outputs.into_iter().flatten().map(|v| f64::from(*v)).collect();
            said.outputs.insert((image, 0, 0), outputs);
        }
        parts::write(out, number, &whose, &manifest.asked, &said)?;
    }
    Ok(())
}

/// Runs rows on images. Blocks no runtime; the models of the configuration are loaded for it.
///
/// # Errors
/// The folder holds another run, a model is not there or failed, or a row asks for what the cohort has not.
pub async fn run(config: &Config, options: &Options, progress: Progress<'_>) -> anyhow::Result<()> {
    let packages = packages(config, options)?;
    let groups: Vec<String> = packages[0].groups().iter().map(|g| g.key.clone()).collect();
    one_cohort(&options.rows, &packages)?;
    let cohort = Cohort::read(&options.cohort, &groups, &options.group_names, &options.labels)?;
    let (all, wanted) = (packages.clone(), config.models.clone());
    let scorers = tokio::task::spawn_blocking(move || Scorers::start(&all, &wanted)).await??;
    let has_saliency = options.rows.iter().any(|row| row.kind == Kind::Saliency);
    let tested = Arc::new(cohort.subset(&cohort.of_part(Part::Test)));
    ensure!(!tested.images.is_empty(), "no image of the cohort is for tests (column split)");
    let scene = Scene {
        scorers: scorers.clone(),
        packages: Arc::new(packages.clone()),
        cohort: Arc::clone(&tested),
        variants: Arc::new(variants::of_rows(&options.rows, options.form, options.seed)),
        form: options.form,
        saliency: has_saliency,
    };
    let trainings = match options.recipe {
        Some(_) => trainings(options, &cohort, groups.len())?,
        None => Vec::new(),
    };
    let has_own = |row: &&&Row| !is_of_predictions(row) && row.kind != Kind::EqualDisease;
    let own_rows: Vec<&Row> =
        options.rows.iter().filter(|row| has_own(row) || lacking(row, &cohort, &packages).is_some()).copied().collect();
    let precision = |p: &Package| scorers.precision(p).map(|precision| precision.as_str().to_owned());
    let manifest = Manifest {
        format: FORMAT,
        sidelight: env!("CARGO_PKG_VERSION").to_owned(),
        cohort: file_name(&options.cohort),
        cohort_digest: cohort.digest.clone(),
        groups: groups.clone(),
        models: packages.iter().map(|p| Model::of(p, precision(p))).collect(),
        rows: options.rows.iter().map(|row| row.name.to_owned()).collect(),
        form: options.form,
        recipe: options.recipe.as_deref().map(|recipe| retrain::check(recipe, &groups)).transpose()?,
        seed: options.seed,
        asked: scene.asked(),
        answers: trainings
            .iter()
            .map(|t| t.name.clone())
            .chain(own_rows.iter().map(|row| row.name.to_owned()))
            .collect(),
    };
    manifest.begin(&options.out, &cohort, options.resume)?;
    if options.rows.iter().any(|row| is_of_predictions(row)) {
        score(&scene, &manifest, &options.out, options.shard, "images", progress).await?;
        if options.shard.index == 0 {
            pictures::sample(&scene, &options.out).await?;
        }
    }
    let mut number = 0;
    if let Some(recipe) = &options.recipe {
        for training in trainings {
            number += 1;
            if options.shard.has(number) && !answers::path(&options.out, &training.name).exists() {
                trained(config, options, recipe, &manifest, &cohort, &training, progress).await?;
            }
        }
    }
    for row in own_rows {
        let lacking = lacking(row, &cohort, &packages);
        number += 1;
        if !options.shard.has(number) || answers::path(&options.out, row.name).exists() {
            continue;
        }
        progress(Event::Row(row.title.to_owned()));
        let told = match lacking {
            Some(what) => Told { figures: Vec::new(), notes: vec![what] },
            // One row that cannot be answered takes nothing from the others.
            None => told(config, row, &manifest, &cohort, &packages, progress).unwrap_or_else(|error| {
                tracing::warn!(row = row.name, error = format!("{error:#}"), "a row has no figures");
                Told { figures: Vec::new(), notes: vec![format!("Not run: {error:#}.")] }
            }),
        };
        answers::keep(
            &options.out,
            row.name,
            Answer { row: row.name.to_owned(), figures: told.figures, notes: told.notes },
        )?;
    }
    Ok(())
}

/// Whether a row's figures are of predictions.
pub(super) fn is_of_predictions(row: &Row) -> bool {
    row.is_of_posteriors() || matches!(row.kind, Kind::Changed(_) | Kind::Saliency)
}

/// Rows of other parts of the body and other sites are of other cohorts, and architectures of several models.
fn one_cohort(rows: &[&Row], packages: &[Package]) -> anyhow::Result<()> {
    let own: Vec<&str> = rows.iter().filter(|row| OF_A_COHORT.contains(&row.name)).map(|row| row.name).collect();
    ensure!(own.len() < 2, "rows {} are of different cohorts: run them one by one", own.join(" and "));
    let several = packages.iter().filter(|p| is_race(p)).count() > 1;
    let architectures = rows.iter().any(|row| row.name == "architectures");
    ensure!(several || !architectures, "row architectures compares race models: give --race for each");
    Ok(())
}

/// What a row asks for and the cohort or the configuration has not.
fn lacking(row: &Row, cohort: &Cohort, packages: &[Package]) -> Option<String> {
    let has = |name: &str| cohort.columns.iter().any(|column| column == name);
    let no_column = |names: &[&str]| format!("Not run: the cohort has no column {}.", names.join(" or "));
    match row.kind {
        Kind::Covariates(names) if !has(names[0]) => Some(no_column(&names[..1])),
        Kind::Strata(names) if !names.iter().any(|name| has(name)) => Some(no_column(names)),
        Kind::Labels | Kind::NoFinding | Kind::EqualDisease if cohort.labels.is_empty() => {
            Some("Not run: the cohort has no disease labels, which are columns of 0, 1 and -1.".to_owned())
        }
        Kind::Combined
            if cohort.labels.is_empty() && !["age", "sex", "bmi", "density"].iter().any(|name| has(name)) =>
        {
            Some(no_column(&["age", "sex", "bmi", "density"]))
        }
        Kind::FrozenFeatures if packages.iter().all(is_race) => {
            Some("Not run: there is no clinical model that scores images.".to_owned())
        }
        Kind::Changed(Changed::Masks) if cohort.images.iter().all(|image| image.mask.is_none()) => {
            Some("Not run: no image of the cohort has a lung mask (column mask).".to_owned())
        }
        _ => None,
    }
}

/// Trainings of all rows; rows that nothing is trained for are left as they are.
fn trainings(options: &Options, cohort: &Cohort, groups: usize) -> anyhow::Result<Vec<Training>> {
    let has = |part: Part| cohort.images.iter().any(|image| image.part == part);
    ensure!(
        has(Part::Train) && has(Part::Validation),
        "networks are trained on the parts train and validation of the cohort: it has no such rows (column split)"
    );
    let mut all = Vec::new();
    for row in options.rows.iter().filter(|row| lacking(row, cohort, &[]).is_none()) {
        all.extend(retrain::of_row(row, cohort, groups, options.form, options.seed)?);
    }
    ensure!(!all.is_empty(), "nothing is trained for these rows: leave out --retrain");
    Ok(all)
}

/// Race models first, all with the same groups; clinical ones that score images.
fn packages(config: &Config, options: &Options) -> anyhow::Result<Vec<Package>> {
    let models = &config.models;
    let or = |given: &[String], own: Vec<String>| if given.is_empty() { own } else { given.to_vec() };
    let race = or(&options.race, models.race.iter().cloned().collect());
    let clinical = or(&options.clinical, models.clinical.clone());
    ensure!(!race.is_empty(), "there is no race model: set models.race, or give --race");
    let mut packages = infer::load_all(&models.dir, &race)?;
    for package in &packages {
        ensure!(is_race(package), "{} is no race model", package.identity.name);
        let keys = |p: &Package| p.groups().iter().map(|g| g.key.clone()).collect::<Vec<_>>();
        ensure!(
            keys(package) == keys(&packages[0]),
            "{} and {} have other groups, or in another order: run them one by one",
            package.identity.name,
            packages[0].identity.name
        );
    }
    for package in infer::load_all(&models.dir, &clinical)? {
        ensure!(package.purpose == Purpose::Clinical, "{} is no clinical model", package.identity.name);
        if !matches!(package.elsewhere, Some(Elsewhere::Product(_))) {
            packages.push(package);
        } else {
            tracing::warn!(
                model = package.identity.name,
                "a product that scores on its own cannot be asked of changed images"
            );
        }
    }
    Ok(packages)
}

/// Scores the parts of a shard that are not there.
async fn score(
    scene: &Scene,
    manifest: &Manifest,
    folder: &Path,
    shard: Shard,
    of: &str,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let images = scene.cohort.images.len();
    let own: Vec<usize> = (0..parts::count(images)).filter(|number| shard.has(*number)).collect();
    let places = |number: usize| (number * IMAGES..((number + 1) * IMAGES).min(images)).collect::<Vec<usize>>();
    let total = own.iter().map(|number| places(*number).len() as u64).sum();
    let done = std::sync::atomic::AtomicU64::new(0);
    let tell = |more: u64| {
        let done = done.fetch_add(more, std::sync::atomic::Ordering::Relaxed) + more;
        progress(Event::Images { of: of.to_owned(), done, total });
    };
    let whose = Whose { cohort: &scene.cohort, groups: &manifest.groups };
    for number in own {
        let places = places(number);
        if parts::path(folder, number).exists() {
            tell(places.len() as u64);
            continue;
        }
        let said = scene.part(&places, &|| tell(1)).await?;
        for (place, reason) in &said.refused {
            tracing::warn!(image = place, reason, "an image is left out");
        }
        parts::write(folder, number, &whose, &scene.asked(), &said)?;
    }
    Ok(())
}

/// Trains a network for a row and asks it of the test images of the row.
async fn trained(
    config: &Config,
    options: &Options,
    recipe: &Path,
    manifest: &Manifest,
    cohort: &Cohort,
    training: &Training,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let tell = |event| progress(Event::Training { of: training.name.clone(), event });
    // Training takes all cores; a runtime with other threads goes on.
    let package = tokio::task::block_in_place(|| {
        retrain::train(training, recipe, cohort, &manifest.groups, &options.out, device_of(config), &tell)
    })
    .with_context(|| format!("training for {}", training.name))?;
    let places: Vec<usize> =
        training.images.iter().copied().filter(|place| cohort.images[*place].part == Part::Test).collect();
    ensure!(!places.is_empty(), "{}: no image is for tests", training.name);
    let (own, models) = (package.clone(), config.models.clone());
    let scorers = tokio::task::spawn_blocking(move || Scorers::start(&[own], &models)).await??;
    let model = Model { name: "trained for the row".to_owned(), ..Model::of(&package, None) };
    let scene = Scene {
        scorers,
        packages: Arc::new(vec![package]),
        cohort: Arc::new(cohort.subset(&places)),
        variants: Arc::new(vec![training.variant.clone()]),
        form: options.form,
        saliency: false,
    };
    let folder = options.out.join("retrain").join(&training.name);
    score(&scene, manifest, &folder, Shard::default(), &training.name, progress).await?;
    let asked = scene.asked();
    let predictions = Predictions::read(&folder, &asked, scene.cohort.images.len())?;
    let manifest = Manifest { models: vec![model], asked, ..manifest.clone() };
    let data = Data { manifest: &manifest, cohort: &scene.cohort, predictions: &predictions };
    let row = Row::named(training.row).context("a training is of a row")?;
    let figures = data.of_variant(row, &training.variant.name);
    answers::keep(
        &options.out,
        &training.name,
        Answer { row: row.name.to_owned(), figures, notes: vec![training.note.clone()] },
    )
}

/// Figures of rows that are of tables, grey values or features.
fn told(
    config: &Config,
    row: &Row,
    manifest: &Manifest,
    cohort: &Cohort,
    packages: &[Package],
    progress: Progress<'_>,
) -> anyhow::Result<Told> {
    let setting = Setting { row, cohort, groups: &manifest.groups, form: manifest.form, seed: manifest.seed };
    let total = cohort.images.len() as u64;
    let done = std::sync::atomic::AtomicU64::new(0);
    let tell = |more: u64| {
        let done = done.fetch_add(more, std::sync::atomic::Ordering::Relaxed) + more;
        progress(Event::Images { of: row.name.to_owned(), done, total });
    };
    let told = match row.kind {
        Kind::GreyValues => confounders::of_grey_values(&setting, &packages[0].contract, &|| tell(1)),
        Kind::FrozenFeatures => {
            let clinical: Vec<&Package> = packages.iter().filter(|p| !is_race(p)).collect();
            ensure!(!clinical.is_empty(), "row {}: there is no clinical model that scores images", row.name);
            let mut all = Told { figures: Vec::new(), notes: Vec::new() };
            for package in clinical {
                let (places, features) = features(config, package, cohort, &|more| tell(more))?;
                let told = confounders::of_features(&setting, &package.identity.name, places, &features)?;
                all.figures.extend(told.figures);
                all.notes.extend(told.notes);
            }
            Ok(all)
        }
        _ => confounders::of_table(&setting),
    };
    told.with_context(|| format!("row {}", row.name))
}

/// A network's features of the images that can be read, and their places.
fn features(
    config: &Config,
    package: &Package,
    cohort: &Cohort,
    progress: &dyn Fn(u64),
) -> anyhow::Result<(Vec<usize>, Vec<Vec<f64>>)> {
    let device = infer::resolve_device(device_of(config))?;
    let network = WhiteBox::load(package, device);
    let network = network.with_context(|| format!("no features of {}", package.identity.name))?;
    let contract = std::slice::from_ref(&package.contract);
    let (mut places, mut rows) = (Vec::new(), Vec::new());
    let all: Vec<usize> = (0..cohort.images.len()).collect();
    for some in all.chunks(IMAGES) {
        let mut planes = Vec::new();
        for place in some {
            let seen =
                pixels::normalise_any_file(&cohort.images[*place].file, contract, Frames::Middle, &Limits::default());
            let plane = seen.ok().and_then(|n| Plane::of_input(n.inputs.first()?, &package.contract));
            if let Some(plane) = plane {
                places.push(*place);
                planes.push(plane);
            }
        }
        if !planes.is_empty() {
            rows.extend(network.features(&planes)?);
        }
        progress(some.len() as u64);
    }
    ensure!(!rows.is_empty(), "no image of the cohort can be read");
    Ok((places, rows))
}

fn device_of(config: &Config) -> Device {
    config.models.devices.first().copied().unwrap_or(Device::Auto)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Rows that say what the images are of: a run has one.
const OF_A_COHORT: [&str; 6] = ["detection", "external", "ct", "hand", "mammography", "spine"];

/// Rows by name or number, in the catalogue's order; `all` is all of them that one cohort and one race model answer.
pub fn rows(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    let mut rows: Vec<&'static Row> = Vec::new();
    for name in names {
        if name == "all" {
            rows.extend(ROWS.iter().filter(|row| row.name == "detection" || !OF_A_COHORT.contains(&row.name)));
            rows.retain(|row| row.name != "architectures");
            continue;
        }
        rows.push(Row::named(name).with_context(|| format!("there is no row {name:?}: see `sidelight probe list`"))?);
    }
    rows.sort_by_key(|row| row.number);
    rows.dedup();
    Ok(rows)
}
