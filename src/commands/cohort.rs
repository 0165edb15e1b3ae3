//! `profile …`, `phantom`, `train`: what is made from cohorts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::Value;
use sidelight::analyse::read_profile;
use sidelight::assess::{self, FitOptions};
use sidelight::cli::ProfileFit;
use sidelight::config::Config;
use sidelight::phantom::{self, PhantomOptions, World};

use super::evidence::may_audit;
use super::{labels, print, print_json, progress};

/// Joins scores and labels, fits the profile and writes it.
pub async fn fit(config: &Config, input: &ProfileFit, options: &FitOptions) -> anyhow::Result<ExitCode> {
    let mut documents = input.results.iter().map(|path| document(path)).collect::<anyhow::Result<Vec<_>>>()?;
    // What was written where it was permitted may be used only where it is.
    if documents.iter().any(|(_, result)| !result["models"]["race"].is_null()) {
        may_audit(config)?;
    }
    let mut labelled = Vec::new();
    if input.index {
        let (own, labels) = labels::indexed(config).await?;
        documents.insert(0, ("the index".to_owned(), own));
        labelled = labels;
    }
    let result = merged(documents)?;
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    let labels = input.labels.as_ref().map(read).transpose()?;
    let cohort = assess::join_cohort(&result, labels.as_deref(), labelled)?;
    let bar = indicatif::ProgressBar::new_spinner().with_message(format!(
        "fitting {} rows with {} bootstrap draws",
        cohort.rows.len(),
        options.bootstrap
    ));
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let profile = assess::fit(&cohort, options);
    bar.finish_and_clear();
    let profile = profile?;
    fs::write(&input.out, profile.to_json()).with_context(|| format!("{} cannot be written", input.out.display()))?;
    if let Some(folder) = &input.diagnostics {
        fs::create_dir_all(folder).with_context(|| format!("folder {} cannot be made", folder.display()))?;
        for file in assess::diagnostics(&cohort, &profile) {
            let path = folder.join(&file.name);
            fs::write(&path, &file.bytes).with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    for (reason, count) in &cohort.left_out {
        tracing::warn!(count, reason, "left out");
    }
    show_profile(&profile, input.table.json)
}

/// A `result.json` with its name.
fn document(path: &Path) -> anyhow::Result<(String, Value)> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let value = serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))?;
    Ok((path.display().to_string(), value))
}

/// The studies of several, which must be of the same models; a study that is in more than one of them counts once, by
/// the first.
fn merged(documents: Vec<(String, Value)>) -> anyhow::Result<Vec<u8>> {
    let mut documents = documents.into_iter();
    let (_, mut whole) = documents.next().context("there are no scores")?;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let uid = |study: &Value| study["study"].as_str().unwrap_or_default().to_owned();
    seen.extend(whole["studies"].as_array().into_iter().flatten().map(uid));
    for (name, mut other) in documents {
        anyhow::ensure!(identity(&whole["models"]) == identity(&other["models"]), "{name} was made with other models");
        let studies_of =
            |value: &'_ mut Value| value.get_mut("studies").and_then(Value::as_array_mut).map(std::mem::take);
        match (studies_of(&mut whole), studies_of(&mut other)) {
            (Some(mut studies), Some(more)) => {
                studies.extend(more.into_iter().filter(|study| seen.insert(uid(study))));
                whole["studies"] = Value::Array(studies);
            }
            _ => anyhow::bail!("{name} is not a result of `sidelight analyse`"),
        }
    }
    Ok(serde_json::to_vec(&whole)?)
}

/// What makes models the same: all but how precisely a device computed, which is in the card's digest too.
fn identity(models: &Value) -> Value {
    let mut models = models.clone();
    let clinical = models.get_mut("clinical").and_then(Value::as_array_mut).into_iter().flatten();
    clinical.filter_map(Value::as_object_mut).for_each(|m| drop(m.remove("precision")));
    models.get_mut("race").and_then(Value::as_object_mut).map(|m| m.remove("precision"));
    models
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

/// The world of a file.
pub fn world(path: &Path) -> anyhow::Result<World> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    World::parse(&text).map_err(|fault| anyhow::anyhow!("{}: {fault}", path.display()))
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
