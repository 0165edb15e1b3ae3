//! `profile …`, `phantom`, `train`: what is made from cohorts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::Value;
use sidelight::analyse::read_profile;
use sidelight::assess::{self, FitOptions};
use sidelight::phantom::{self, PhantomOptions};

use super::{print, print_json, progress};

/// Joins scores and labels, fits the profile and writes it.
pub fn fit(
    results: &[PathBuf],
    labels: &Path,
    out: &Path,
    options: &FitOptions,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let result = merged(results)?;
    let labels = fs::read(labels).with_context(|| format!("{} cannot be read", labels.display()))?;
    let cohort = assess::read_cohort(&result, &labels)?;
    let bar = indicatif::ProgressBar::new_spinner().with_message(format!(
        "fitting {} rows with {} bootstrap draws",
        cohort.rows.len(),
        options.bootstrap
    ));
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let profile = assess::fit(&cohort, options);
    bar.finish_and_clear();
    let profile = profile?;
    fs::write(out, profile.to_json()).with_context(|| format!("{} cannot be written", out.display()))?;
    for (reason, count) in &cohort.left_out {
        tracing::warn!(count, reason, "left out");
    }
    show_profile(&profile, json)
}

/// One `result.json`, or the studies of several that were made with the same models.
fn merged(paths: &[PathBuf]) -> anyhow::Result<Vec<u8>> {
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    let [first, others @ ..] = paths else { anyhow::bail!("name at least one result.json") };
    if others.is_empty() {
        return read(first);
    }
    let parse = |path: &PathBuf| -> anyhow::Result<Value> {
        serde_json::from_slice(&read(path)?).with_context(|| format!("{} is not JSON", path.display()))
    };
    let mut whole = parse(first)?;
    for path in others {
        let mut other = parse(path)?;
        anyhow::ensure!(whole["models"] == other["models"], "{} was made with other models", path.display());
        match (whole["studies"].as_array_mut(), other["studies"].as_array_mut()) {
            (Some(studies), Some(more)) => studies.append(more),
            _ => anyhow::bail!("{} is not a result of `sidelight analyse`", path.display()),
        }
    }
    Ok(serde_json::to_vec(&whole)?)
}

pub fn show(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    show_profile(&read_profile(path)?, json)
}

fn show_profile(profile: &assess::Profile, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&assess::summary(profile))?;
    } else {
        print(&assess::render(profile))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn phantom(options: &PhantomOptions, out: &Path) -> anyhow::Result<ExitCode> {
    let bar = progress(u64::from(options.patients), "drawing");
    let summary = phantom::generate(options, out, &|done, _total| bar.set_position(done))?;
    bar.finish_and_clear();
    print(&format!(
        "{} images of {} studies, labels in {}",
        summary.images,
        summary.studies,
        summary.labels.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Options of `profile fit` that have no argument of their own.
pub fn fit_options(site: String, bootstrap: usize, seed: u64, delta: f64) -> FitOptions {
    FitOptions { site, bootstrap, seed, delta, fitted_at: Utc::now() }
}
