//! `probe …`: the catalogue, runs with their progress, reports.
//!
//! Neighbours: the library's `probe` does the work. Left out: figures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;
use sidelight::cli::{ProbeMode, ProbeReport, ProbeRun};
use sidelight::config::Config;
use sidelight::perturb::Form;
use sidelight::probe::{self, Estimate, Event, Figure, Level, Options, Quantity, ROWS, Shard};
use sidelight::train;

use super::evidence::may_audit;
use super::{print, print_json, progress, table, write};

pub fn list(json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&ROWS)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = ROWS
        .iter()
        .map(|row| vec![row.number.to_string(), row.name.to_owned(), row.title.to_owned(), row.definition.to_owned()]);
    print(&table(&["row", "name", "what", "how"], rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs rows; with all parts there, makes the report too.
pub async fn run(config: Option<&Config>, options: &ProbeRun) -> anyhow::Result<ExitCode> {
    let rows = probe::rows(&options.names)?;
    let group_names = options.group.iter().cloned().collect();
    if let Some(predictions) = &options.predictions {
        probe::of_posteriors(&rows, predictions, &group_names, &options.out, options.seed, options.resume)?;
        return report(&ProbeReport { dir: options.out.clone(), table: Default::default() });
    }
    let Some(config) = config else { anyhow::bail!("a run on images needs a configuration") };
    may_audit(config)?;
    let (index, count) = options.shard.unwrap_or((1, 1));
    let wanted = Options {
        rows,
        cohort: options.cohort.clone().context("give --cohort, or --predictions")?,
        out: options.out.clone(),
        form: if options.mode == ProbeMode::AsPublished { Form::AsPublished } else { Form::Corrected },
        recipe: options.recipe.clone(),
        resume: options.resume,
        shard: Shard { index: index - 1, count },
        race: options.race.clone(),
        clinical: options.clinical.clone(),
        group_names,
        labels: options.label.clone(),
        seed: options.seed,
    };
    let bars = Bars::default();
    let ran = probe::run(config, &wanted, &|event| bars.hear(event)).await;
    bars.clear();
    ran?;
    if count > 1 {
        print(&format!("shard {index} of {count} is done: `sidelight probe merge` when all are"))?;
        return Ok(ExitCode::SUCCESS);
    }
    report(&ProbeReport { dir: options.out.clone(), table: Default::default() })
}

pub fn report(options: &ProbeReport) -> anyhow::Result<ExitCode> {
    let report = probe::report(&options.dir)?;
    for (name, bytes) in &report.files {
        write(&options.dir.join(name), bytes)?;
    }
    if options.table.json {
        print_json(&report.figures)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Changes have many figures: their means, and no shifts.
    let has_mean =
        |f: &Figure| report.figures.iter().any(|other| other.quantity == Quantity::MacroAuc && other.row == f.row);
    let is_short = |f: &&Figure| match f.quantity {
        Quantity::RaceAuc => f.variant == "original" || !has_mean(f),
        Quantity::MacroAuc => true,
        Quantity::FindingAuc => f.variant == "original",
        Quantity::MissGap | Quantity::ScoreShift => false,
    };
    let rows = report.figures.iter().filter(is_short).map(|f| {
        let told = |e: Estimate| format!("{:.3} ({:.3} to {:.3})", e.value, e.lower, e.upper);
        let part = [f.stratum.as_str(), f.variant.as_str()].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>();
        let level = if f.level == Level::Study { ", studies" } else { "" };
        vec![
            f.row.clone(),
            f.model.clone(),
            f.quantity.as_str().to_owned(),
            format!("{}{level}", f.of),
            plain(&part.join(", ")),
            f.patients.map_or("not told".to_owned(), |n| n.to_string()),
            f.estimate.map_or("too few".to_owned(), told),
        ]
    });
    print(&table(&["row", "model", "quantity", "of", "part or change", "patients", "estimate (95 %)"], rows))?;
    print(&format!("{} has plots, tables and predictions", options.dir.join("report.html").display()))?;
    Ok(ExitCode::SUCCESS)
}

pub fn merge(folders: &[PathBuf], out: &Path) -> anyhow::Result<ExitCode> {
    probe::merge(folders, out)?;
    report(&ProbeReport { dir: out.to_owned(), table: Default::default() })
}

/// A table's text without what a terminal would obey.
fn plain(text: &str) -> String {
    let obeyed = |c: char| c.is_control() || ('\u{200e}'..='\u{2069}').contains(&c) && !c.is_alphanumeric() && c != '–';
    text.chars().take(60).map(|c| if obeyed(c) { '\u{fffd}' } else { c }).collect()
}

/// A bar for each set of images, those of trainings, and a line for each row that learns from a table.
struct Bars {
    images: Mutex<HashMap<String, ProgressBar>>,
    training: Box<dyn Fn(train::Event) + Send + Sync>,
    /// Of the training that was heard of last.
    named: Mutex<usize>,
    row: Mutex<ProgressBar>,
}

impl Default for Bars {
    fn default() -> Self {
        let training = Box::new(train::bars());
        Self { images: Mutex::default(), training, named: Mutex::default(), row: Mutex::new(ProgressBar::hidden()) }
    }
}

impl Bars {
    fn hear(&self, event: Event) {
        lock(&self.row).finish_and_clear();
        match event {
            Event::Images { of, done, total } => {
                let mut images = lock(&self.images);
                let bar = images.entry(of.clone()).or_insert_with(|| progress(total, "").with_message(of));
                bar.set_position(done);
                if done >= total {
                    bar.finish_and_clear();
                }
            }
            Event::Training { of, number, total, event } => {
                if std::mem::replace(&mut *lock(&self.named), number) != number {
                    tracing::info!(training = of, number, of_so_many = total, "a network is trained");
                }
                (self.training)(event);
            }
            Event::Row(row) => {
                tracing::info!(row, "a row learns from a table");
                let bar = ProgressBar::new_spinner().with_message(row);
                bar.enable_steady_tick(Duration::from_millis(200));
                *lock(&self.row) = bar;
            }
        }
    }

    fn clear(&self) {
        lock(&self.images).values().for_each(ProgressBar::finish_and_clear);
        lock(&self.row).finish_and_clear();
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
