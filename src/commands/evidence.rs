//! `evidence …`: lines on reliance from a site's patients, in a file that reports can tell.
//!
//! Neighbours: `assess` computes lines, `analyse` asks models of changed images. Left out: gradients and features of
//! networks (`gradients`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::{Value, json};
use sidelight::analyse::{Analyser, read_evidence};
use sidelight::assess::{self, CoMovementOptions, Features, LeakageOptions, NoLine, Observed};
use sidelight::cli::{CoMovement, EvidenceOut, Leakage};
use sidelight::config::Config;
use sidelight::domain::{Evidence, EvidenceLine, LineKind, Purpose, ReadyStudy, Responses, Uid};
use sidelight::infer::Package;
use sidelight::store::{KeptResponses, Store};
use tracing::warn;

use super::{print, print_json, table};

/// A table of features of more bytes is refused.
const TABLE_BYTES_MAX: u64 = 2 << 30;

/// Whether race posteriors may be computed, or those that were computed be used, for a data set.
pub fn may_audit(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        config.risk.per_study_inference || config.risk.dataset_audit,
        "risk.per_study_inference = false, and risk.dataset_audit does not permit an audit of a data set: set \
         risk.dataset_audit = true if that is lawful and wanted here"
    );
    Ok(())
}

/// What the models say of changed images of a study, for `result.json`. A study without such answers says why in the log.
pub async fn of_study(
    analyser: &Analyser,
    study: &ReadyStudy,
    paths: &BTreeMap<Uid, PathBuf>,
    perturbations: usize,
) -> Value {
    let said = analyser.responses(study, paths, &[], perturbations).await.unwrap_or_else(|error| {
        warn!(study = study.study.as_str(), error = format!("{error:#}"), "no answers to changed images");
        None
    });
    let of = |r: &Responses| json!({"answers": r, "shared_variation": assess::shared_variation(r)});
    said.iter().flat_map(|(_, responses)| responses).map(of).collect()
}

/// Lines of co-movement for the race model of the configuration and each clinical model that has answers.
pub async fn co_movement(config: &Config, options: &CoMovement) -> anyhow::Result<ExitCode> {
    may_audit(config)?;
    let race = race_package(config)?;
    let settings = CoMovementOptions { seed: options.out.seed, ..CoMovementOptions::default() };
    let run = |model: String, kept: &[KeptResponses]| {
        let observed = kept.iter().map(|KeptResponses { patient, responses }| Observed { patient, responses });
        (model, LineKind::CoMovement, assess::co_movement(&observed.collect::<Vec<_>>(), &settings))
    };
    let mut runs: Vec<Run> = Vec::new();
    if options.results.is_empty() {
        let store = Store::attach(&config.store).await?;
        for model in store.responding(&race.key()).await? {
            let kept = store.responses(&race.key(), &model, "lines of evidence").await?;
            runs.push(run(model, &kept));
        }
        store.close().await;
    } else {
        let mut of_model: BTreeMap<String, Vec<KeptResponses>> = BTreeMap::new();
        for kept in from_results(&options.results, options.labels.as_deref())? {
            if kept.responses.race_model == race.key() {
                of_model.entry(kept.responses.model.clone()).or_default().push(kept);
            }
        }
        runs.extend(of_model.into_iter().map(|(model, kept)| run(model, &kept)));
    }
    anyhow::ensure!(
        !runs.is_empty(),
        "there are no answers to changed images by {}: set risk.evidence.every and wait for studies, or use \
         `analyse --evidence` with this race model",
        race.key()
    );
    record(config, &race, runs, &options.out)
}

/// Lines of leakage from a table of features.
pub fn leakage(config: &Config, options: &Leakage) -> anyhow::Result<ExitCode> {
    may_audit(config)?;
    let race = race_package(config)?;
    let model = Package::load(&config.models.dir.join(&options.model))?;
    anyhow::ensure!(model.purpose == Purpose::Clinical, "{} is no clinical model", options.model);
    let features = read_features(&options.features)?;
    let untrained = options.untrained.as_deref().map(read_features).transpose()?;
    let settings = LeakageOptions { seed: options.out.seed, ..LeakageOptions::default() };
    let lines = assess::leakage(&model.key(), &features, untrained.as_ref(), &settings);
    record(config, &race, vec![(model.key(), LineKind::Leakage, lines)], &options.out)
}

pub fn show(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    print_evidence(&read_evidence(file)?, json)
}

/// A run's lines of one kind and model, or why there are none.
pub type Run = (String, LineKind, Result<Vec<EvidenceLine>, NoLine>);

/// Puts lines in the place of those of the same kind and model, and prints the file.
pub fn record(config: &Config, race: &Package, runs: Vec<Run>, out: &EvidenceOut) -> anyhow::Result<ExitCode> {
    let path = &out.out;
    let mut evidence = if path.exists() { read_evidence(path)? } else { empty(config, race) };
    anyhow::ensure!(
        evidence.race_model == race.key(),
        "{} is about the race model {}, not {}: write to another file",
        path.display(),
        evidence.race_model,
        race.key()
    );
    let mut code = ExitCode::SUCCESS;
    for (model, kind, lines) in runs {
        let about = format!("{} of {model}: ", kind.as_str());
        evidence.lines.retain(|line| line.model != model || line.kind != kind);
        evidence.missing.retain(|what| !what.starts_with(&about));
        match lines {
            Ok(lines) => evidence.lines.extend(lines),
            Err(reason) => {
                evidence.missing.push(format!("{about}{reason}"));
                code = ExitCode::from(1);
            }
        }
    }
    evidence.made_at = Utc::now();
    fs::write(path, serde_json::to_vec_pretty(&evidence)?)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    print_evidence(&evidence, out.table.json)?;
    Ok(code)
}

fn empty(config: &Config, race: &Package) -> Evidence {
    Evidence {
        format: Evidence::FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        site: config.node.name.clone(),
        made_at: Utc::now(),
        race_model: race.key(),
        lines: Vec::new(),
        missing: Vec::new(),
    }
}

fn print_evidence(evidence: &Evidence, json: bool) -> anyhow::Result<ExitCode> {
    let mut findings: Vec<(&str, &str)> =
        evidence.lines.iter().filter_map(|l| Some((l.model.as_str(), l.finding.as_deref()?))).collect();
    findings.sort_unstable();
    findings.dedup();
    let told = findings.iter().filter_map(|(model, finding)| assess::finding_evidence(evidence, model, finding));
    let told: Vec<_> = told.collect();
    if json {
        print_json(&json!({"evidence": evidence, "findings": told}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let number = |v: f64| format!("{v:.3}");
    let rows = evidence.lines.iter().map(|line| {
        vec![
            line.model.clone(),
            line.finding.clone().unwrap_or_default(),
            line.kind.as_str().to_owned(),
            line.group.clone(),
            format!("{} ({} to {})", number(line.value.estimate), number(line.value.lower), number(line.value.upper)),
            format!("{:.4}", line.p),
            serde_json::to_value(line.control).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
            line.patients.to_string(),
        ]
    });
    print(&table(&["model", "finding", "line", "group", "value (95 %)", "p, Holm", "control", "patients"], rows))?;
    for of in &told {
        print(&format!("{} by {}: {}", of.finding, of.model, of.reliance.sentence()))?;
    }
    for what in &evidence.missing {
        print(&format!("no {what}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn race_package(config: &Config) -> anyhow::Result<Package> {
    let name = config.models.race.as_deref().context("models.race names no race model, which evidence is about")?;
    let package = Package::load(&config.models.dir.join(name))?;
    anyhow::ensure!(package.purpose == Purpose::Race, "{name} is no race model");
    Ok(package)
}

/// Answers in files of `analyse --evidence`, with whose they are.
fn from_results(files: &[PathBuf], labels: Option<&Path>) -> anyhow::Result<Vec<KeptResponses>> {
    let patients = labels.map(patients_of).transpose()?;
    let mut kept = Vec::new();
    for file in files {
        let bytes = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let result: Value =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", file.display()))?;
        let studies = result["studies"].as_array();
        let studies = studies.with_context(|| format!("{} is not a result of `sidelight analyse`", file.display()))?;
        for study in studies {
            let uid = study["study"].as_str().unwrap_or_default();
            let patient = match &patients {
                None => uid.to_owned(),
                Some(patients) => match patients.get(uid) {
                    Some(patient) => patient.clone(),
                    None => continue,
                },
            };
            for one in study["responses"].as_array().into_iter().flatten() {
                let responses = serde_json::from_value(one["answers"].clone());
                let responses = responses.with_context(|| format!("{}: answers of {uid}", file.display()))?;
                kept.push(KeptResponses { patient: patient.clone(), responses });
            }
        }
    }
    Ok(kept)
}

fn patients_of(labels: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let context = || format!("{} cannot be read", labels.display());
    let mut reader = csv::Reader::from_path(labels).with_context(context)?;
    let headers = reader.headers().with_context(context)?.clone();
    let column = |name: &str| {
        let at = headers.iter().position(|h| h.trim() == name);
        at.with_context(|| format!("{} has no column {name}", labels.display()))
    };
    let (study, patient) = (column("study")?, column("patient")?);
    let mut patients = BTreeMap::new();
    for record in reader.records() {
        let record = record.with_context(context)?;
        let cell = |at: usize| record.get(at).unwrap_or_default().trim().to_owned();
        patients.insert(cell(study), cell(patient));
    }
    Ok(patients)
}

fn read_features(path: &Path) -> anyhow::Result<Features> {
    let context = || format!("{} cannot be read", path.display());
    let bytes = fs::metadata(path).with_context(context)?.len();
    anyhow::ensure!(bytes <= TABLE_BYTES_MAX, "{} is larger than {TABLE_BYTES_MAX} bytes", path.display());
    let mut reader = csv::Reader::from_path(path).with_context(context)?;
    let headers: Vec<String> = reader.headers().with_context(context)?.iter().map(|h| h.trim().to_owned()).collect();
    let column = |name: &str| {
        let at = headers.iter().position(|h| h == name);
        at.with_context(|| format!("{} has no column {name}", path.display()))
    };
    let (patient, group) = (column("patient")?, column("group")?);
    let mut features = Features::default();
    for (line, record) in reader.records().enumerate() {
        let record = record.with_context(context)?;
        let cell = |at: usize| record.get(at).unwrap_or_default().trim();
        features.patients.push(cell(patient).to_owned());
        features.groups.push(cell(group).to_owned());
        let numbers = (0..headers.len()).filter(|at| *at != patient && *at != group).map(|at| {
            let text = cell(at);
            text.parse().map_err(|_| {
                anyhow::anyhow!("{}, line {}: {} is {text:?}, not a number", path.display(), line + 2, headers[at])
            })
        });
        features.rows.push(numbers.collect::<anyhow::Result<Vec<f64>>>()?);
    }
    Ok(features)
}
