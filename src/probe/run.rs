//! A run: rows of the catalogue on a cohort, in a folder that survives a kill.
//!
//! Order: predictions of all variants part by part, then networks trained for rows (each with predictions of its own),
//! then rows of tables, and those of vectors of images, which are made part by part too. Each leaves a file, which is
//! not made again. A shard makes its share of the files; when all are there, [`super::report`] needs nothing but the
//! folder. Neighbours: `plan` says what is to be done; `scoring`, `retrain`, `features` and `confounders` compute. Left
//! out: what is said of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};

use super::answers::{self, Told};
use super::catalogue::{Kind, Row};
use super::cohort::Cohort;
use super::confounders::{self, Setting};
use super::features::{self, Maker};
use super::lines::Whose;
use super::manifest::{FORMAT, Manifest, Model};
use super::metrics;
use super::parts::{self, IMAGES, Predictions};
use super::plan::{self, is_of_predictions, one_cohort, packages, sources, trainings};
use super::posteriors::Posteriors;
use super::retrain::{self, Training};
use super::rows::Data;
use super::scoring::{Scene, is_race};
use super::vectors::{self, Vectors};
use super::{merge, pictures, saliency, variants};
use crate::analyse::Scorers;
use crate::config::{Config, Device};
use crate::infer::Package;
use crate::perturb::Form;
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
    /// A network is trained for a row: which one of how many.
    Training { of: String, number: usize, total: usize, event: train::Event },
    /// A row that learns from a table has begun.
    Row(String),
}

pub type Progress<'a> = &'a (dyn Fn(Event) + Sync);

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Shard {
    pub(super) fn has(self, number: usize) -> bool {
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
        features: Vec::new(),
    };
    manifest.begin(out, &cohort, resume)?;
    let whose = Whose { cohort: &cohort, groups: &manifest.groups };
    let all: Vec<usize> = (0..cohort.images.len()).collect();
    for number in 0..parts::count(all.len()) {
        let images = number * IMAGES..((number + 1) * IMAGES).min(cohort.images.len());
        let mut said = parts::Said::default();
        for (image, outputs) in predictions.of(0, 0).enumerate().skip(images.start).take(images.len()) {
            let outputs = outputs.into_iter().flatten().map(|v| f64::from(*v)).collect();
            said.outputs.insert((image, 0, 0), outputs);
        }
        parts::write(out, number, whose, &all, &manifest.asked, &said)?;
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
    let places = cohort.of_part(Part::Test);
    ensure!(!places.is_empty(), "no image of the cohort is for tests (column split)");
    let scene = Scene {
        scorers: scorers.clone(),
        packages: Arc::new(packages.clone()),
        cohort: Arc::new(cohort.subset(&places)),
        variants: Arc::new(variants::of_rows(&options.rows, options.form, options.seed)),
        form: options.form,
        saliency: has_saliency,
    };
    let (trainings, cannot) = match options.recipe {
        Some(_) => trainings(options, &cohort, groups.len())?,
        None => Default::default(),
    };
    let lacking = |row: &Row| plan::lacking(row, &cohort, &packages).or_else(|| cannot.get(row.name).cloned());
    let has_own = |row: &&&Row| !is_of_predictions(row) && row.kind != Kind::EqualDisease;
    let own_rows: Vec<&Row> =
        options.rows.iter().filter(|row| has_own(row) || lacking(row).is_some()).copied().collect();
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
        features: own_rows
            .iter()
            .filter(|row| lacking(row).is_none())
            .flat_map(|row| sources(row, &packages))
            .collect(),
    };
    manifest.begin(&options.out, &cohort, options.resume)?;
    let run = Run { config, options, manifest: &manifest, cohort: &cohort, packages: &packages, progress };
    if options.rows.iter().any(|row| is_of_predictions(row)) {
        run.score(&scene, &places, &options.out, options.shard, "images").await?;
        if options.shard.index == 0 {
            pictures::sample(&scene, &options.out).await?;
        }
    }
    let own = |number: &usize| options.shard.has(*number);
    let trained = trainings.len();
    let todo: Vec<&Training> =
        (1..).zip(&trainings).filter(|(number, _)| own(number)).map(|(_, training)| training).collect();
    for (number, training) in (1..).zip(&todo) {
        if !answers::is_there(&options.out, &training.name) {
            let told = run.trained(training, (number, todo.len())).await;
            let told = told.with_context(|| format!("training for {}", training.name));
            answers::keep(&options.out, &training.name, training.row, run.whose(), told)?;
        }
    }
    for (number, row) in (trained + 1..).zip(own_rows) {
        if answers::is_there(&options.out, row.name) {
            continue;
        }
        let told = match lacking(row) {
            // Every shard makes its share of the vectors; `merge::finish` learns from them.
            None if manifest.features.iter().any(|source| source.row == row.name) => {
                answers::forget(&options.out, row.name)?;
                match tokio::task::block_in_place(|| run.vectors(row)) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                }
            }
            _ if !own(&number) => continue,
            Some(what) => Ok(Told::note(what)),
            None => {
                progress(Event::Row(row.title.to_owned()));
                let setting = Setting {
                    row,
                    cohort: &cohort,
                    groups: &manifest.groups,
                    form: manifest.form,
                    seed: manifest.seed,
                };
                tokio::task::block_in_place(|| confounders::of_table(&setting))
            }
        };
        let told = told.with_context(|| format!("row {}", row.name));
        answers::keep(&options.out, row.name, row.name, run.whose(), told)?;
    }
    let begun = |row: &Row| progress(Event::Row(row.title.to_owned()));
    tokio::task::block_in_place(|| merge::finish(&options.out, &manifest, &cohort, &begun))
}

/// What all steps of a run need.
#[derive(Clone, Copy)]
struct Run<'a> {
    config: &'a Config,
    options: &'a Options,
    manifest: &'a Manifest,
    cohort: &'a Cohort,
    packages: &'a [Package],
    progress: Progress<'a>,
}

impl<'a> Run<'a> {
    fn whose(&self) -> Whose<'a> {
        Whose { cohort: self.cohort, groups: &self.manifest.groups }
    }

    /// Scores the parts of a shard that are not there; `numbers` are those of the scene's images in the cohort.
    async fn score(
        &self,
        scene: &Scene,
        numbers: &[usize],
        folder: &Path,
        shard: Shard,
        of: &str,
    ) -> anyhow::Result<()> {
        let images = numbers.len();
        let own: Vec<usize> = (0..parts::count(images)).filter(|number| shard.has(*number)).collect();
        let places = |number: usize| (number * IMAGES..((number + 1) * IMAGES).min(images)).collect::<Vec<usize>>();
        let total = own.iter().map(|number| places(*number).len() as u64).sum();
        let done = AtomicU64::new(0);
        let tell = |more: u64| {
            let done = done.fetch_add(more, Ordering::Relaxed) + more;
            (self.progress)(Event::Images { of: of.to_owned(), done, total });
        };
        for number in own {
            let places = places(number);
            if parts::path(folder, number).exists() {
                tell(places.len() as u64);
                continue;
            }
            let said = scene.part(&places, &|| tell(1)).await?;
            for (place, reason) in said.refused.wholly.iter().chain(&said.refused.partly) {
                let line = self.cohort.images[numbers[*place]].line;
                tracing::warn!(line, reason, "the image of this line of the cohort is left out");
            }
            // Before the predictions, which say that a part is done.
            for model in 0..if scene.saliency { scene.packages.iter().filter(|p| is_race(p)).count() } else { 0 } {
                let mut maps = Vectors::default();
                for ((_, place), map) in said.maps.range((model, 0)..(model + 1, 0)) {
                    maps.push(numbers[*place], map.iter().copied());
                }
                vectors::write(&vectors::path(folder, &saliency::set(model), number), &maps)?;
            }
            parts::write(folder, number, self.whose(), numbers, &scene.asked(), &said)?;
        }
        Ok(())
    }

    /// Trains a network for a row and asks it of the test images of the row.
    async fn trained(&self, training: &Training, (number, total): (usize, usize)) -> anyhow::Result<Told> {
        let Self { config, options, cohort, .. } = *self;
        let recipe = options.recipe.as_deref().context("a training has a recipe")?;
        let of = &training.name;
        let tell = |event| (self.progress)(Event::Training { of: of.clone(), number, total, event });
        let device = config.models.devices.first().copied().unwrap_or(Device::Auto);
        // Training takes all cores; a runtime with other threads goes on.
        let package = tokio::task::block_in_place(|| {
            retrain::train(training, recipe, cohort, &self.manifest.groups, &options.out, device, &tell)
        })?;
        let is_test = |place: &usize| cohort.images[*place].part == Part::Test;
        let places: Vec<usize> = training.images.iter().copied().filter(is_test).collect();
        ensure!(!places.is_empty(), "no image is for tests");
        let (own, models) = (package.clone(), config.models.clone());
        let scorers = tokio::task::spawn_blocking(move || Scorers::start(&[own], &models)).await??;
        let scene = Scene {
            scorers,
            packages: Arc::new(vec![package]),
            cohort: Arc::new(cohort.subset(&places)),
            variants: Arc::new(vec![training.variant.clone()]),
            form: options.form,
            saliency: false,
        };
        let folder = options.out.join("retrain").join(of);
        self.score(&scene, &places, &folder, Shard::default(), of).await?;
        let asked = scene.asked();
        let mut predictions = Predictions::read(&folder, &asked, &places)?;
        let model = Model { name: "trained for the row".to_owned(), ..Model::of(&scene.packages[0], None) };
        let manifest = Manifest { models: vec![model], asked, ..self.manifest.clone() };
        let tested = cohort.subset(&cohort.of_part(Part::Test));
        let whole = metrics::distinct(tested.patients().into_iter());
        let data = Data { manifest: &manifest, cohort: &scene.cohort, predictions: &predictions, whole };
        let row = Row::named(training.row).context("a training is of a row")?;
        let figures = data.of_variant(row, &training.variant.name);
        predictions.asked.models[0].0 = format!("trained for {of}");
        let notes = vec![training.note.clone()];
        Ok(Told { figures, notes, predictions: Some((predictions, places)), ..Told::default() })
    }

    /// Makes this shard's vectors of images for a row.
    fn vectors(&self, row: &Row) -> anyhow::Result<()> {
        for source in self.manifest.features.iter().filter(|source| source.row == row.name) {
            let package = self.packages.iter().find(|p| p.identity.name == source.model);
            let package = package.with_context(|| format!("there is no model {}", source.model))?;
            let maker = match row.kind {
                Kind::GreyValues => Maker::Grey(&package.contract),
                _ => Maker::Network(package, &self.config.models.devices),
            };
            let tell = |done, total| (self.progress)(Event::Images { of: source.set.clone(), done, total });
            features::make(maker, &source.set, self.cohort, &self.options.out, self.options.shard, &tell)?;
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
