//! A labelled cohort: the scores of `analyse` joined with the site's labels.
//!
//! `result.json` says what the models made of each study, `labels.csv` (one line per image) what is true of it, and so
//! does the node's index ([`Labelled`]). A study's outcome is the largest over its images. Values that make no sense
//! are errors that name line and column; studies that merely cannot be used are left out and counted by reason.
//! Neighbours: `fit` takes the [`Cohort`]. Left out: reading files and the index.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::Deserialize;

use crate::domain::Digest;

/// One finding of one study.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// One person, by any name.
    pub patient: String,
    pub study: String,
    /// Key of the finding.
    pub finding: String,
    /// The clinical model's score, 0..1.
    pub score: f64,
    /// Whether the finding is truly there.
    pub outcome: bool,
    /// Key of the self-reported group.
    pub group: String,
    /// The race model's probabilities in the order of the cohort's groups, where it ran.
    pub posteriors: Option<Vec<f64>>,
    /// The study's views, joined by `+`; empty if unknown.
    pub view: String,
    pub date: Option<NaiveDate>,
}

/// A finding and the deployed model that scores it.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingModel {
    pub finding: String,
    /// [`crate::domain::ModelIdentity::key`].
    pub model: String,
    /// Positive at or above it.
    pub threshold: f64,
}

/// Rows and the models that their numbers come from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cohort {
    /// Key of the race model, where it ran.
    pub race_model: Option<String>,
    /// Digest of the site's mix by which its posteriors were reweighed, if they were.
    pub race_prior: Option<Digest>,
    /// By key of a model, the digest of what in its card changes scores.
    pub cards: BTreeMap<String, Digest>,
    /// Keys of the groups, in the order of the race model's outputs.
    pub groups: Vec<String>,
    pub findings: Vec<FindingModel>,
    pub rows: Vec<Row>,
    /// Why studies or single findings of studies are not among the rows, and how many.
    pub left_out: BTreeMap<&'static str, usize>,
}

/// Why there is no cohort.
#[derive(Debug, thiserror::Error)]
pub enum CohortError {
    #[error("result.json is not a result of `sidelight analyse`: {0}")]
    Result(#[from] serde_json::Error),
    #[error("result.json has format {0}, this version reads format 1: run `sidelight analyse` again")]
    Format(u64),
    #[error("result.json: study {study}: {fault}")]
    Study { study: String, fault: String },
    #[error("labels.csv is not readable as CSV: {0}")]
    Csv(#[from] csv::Error),
    #[error("labels.csv has no column {column:?}; it needs patient, study, group and one column per finding")]
    Column { column: String },
    #[error("labels.csv line {line}, column {column:?}: {value:?} {rule}")]
    Cell { line: u64, column: String, value: String, rule: &'static str },
    #[error("no study of result.json has a line in labels.csv: are both from the same cohort?")]
    NothingJoined,
}

/// What labels, of a file or of the node's index, say of one study.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labelled {
    pub study: String,
    /// Patient ID, and who issued it where that is known: another issuer's patient is another person.
    pub patient: String,
    pub issuer: String,
    /// Key of the self-reported group; empty where nothing is said of it.
    pub group: String,
    /// Why somebody who said something of themselves has no group of the race model.
    pub no_group: Option<&'static str>,
    pub views: BTreeSet<String>,
    pub date: Option<NaiveDate>,
    pub outcomes: BTreeMap<String, bool>,
}

impl Labelled {
    /// Who the patient is. No issuer and no Patient ID has a backslash (PS3.5 6.2, LO).
    fn person(&self) -> String {
        if self.issuer.is_empty() { self.patient.clone() } else { format!("{}\\{}", self.issuer, self.patient) }
    }
}

/// Joins the bytes of `result.json` and `labels.csv`.
pub fn read(result_json: &[u8], labels_csv: &[u8]) -> Result<Cohort, CohortError> {
    join(result_json, Some(labels_csv), Vec::new())
}

/// Joins scores with labels of a file, of the index, or of both. A study of which the two say different things is left
/// out.
pub fn join(result_json: &[u8], labels_csv: Option<&[u8]>, indexed: Vec<Labelled>) -> Result<Cohort, CohortError> {
    let results: Results = serde_json::from_slice(result_json)?;
    if results.format != 1 {
        return Err(CohortError::Format(results.format));
    }
    let findings: Vec<FindingModel> = results
        .models
        .clinical
        .iter()
        .flat_map(|m| m.findings.iter().map(|f| (m.key.clone(), f)))
        .map(|(model, f)| FindingModel { finding: f.key.clone(), model, threshold: f.threshold })
        .collect();
    let mut labels = labels_csv.map(|csv| labels(csv, &findings)).transpose()?.unwrap_or_default();
    let contradicted = add_indexed(&mut labels, indexed);
    let mixed = share_groups(&mut labels);
    let groups = match &results.models.race {
        Some(race) => race.groups.clone(),
        None => labels
            .values()
            .map(|l| l.group.clone())
            .filter(|g| !g.is_empty())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    };
    let of_race = results.models.race.iter().map(|m| (&m.key, &m.card));
    let of_all = of_race.chain(results.models.clinical.iter().map(|m| (&m.key, &m.card)));
    let cards = of_all.filter_map(|(key, card)| Some((key.clone(), card.clone()?))).collect();
    let (race_model, race_prior) = results.models.race.map(|r| (r.key, r.prior)).unzip();
    let race_prior = race_prior.flatten();
    let mut cohort = Cohort { race_model, race_prior, cards, groups, findings, ..Cohort::default() };
    let mut joined = false;
    for study in &results.studies {
        joined |= labels.contains_key(&study.study);
        if contradicted.contains(&study.study) {
            *cohort.left_out.entry("labels of the index and of the file contradict each other").or_default() += 1;
            continue;
        }
        match usable(study, &labels, &mixed, &cohort.groups) {
            Ok(label) => add(&mut cohort, study, label)?,
            Err(reason) => *cohort.left_out.entry(reason).or_default() += 1,
        }
    }
    if !joined {
        return Err(CohortError::NothingJoined);
    }
    Ok(cohort)
}

/// The parts of `result.json` that matter here; other fields are ignored.
#[derive(Debug, Deserialize)]
struct Results {
    format: u64,
    models: ResultModels,
    studies: Vec<ResultStudy>,
}

#[derive(Debug, Deserialize)]
struct ResultModels {
    race: Option<ResultRace>,
    clinical: Vec<ResultClinical>,
}

#[derive(Debug, Deserialize)]
struct ResultRace {
    key: String,
    groups: Vec<String>,
    #[serde(default)]
    prior: Option<Digest>,
    #[serde(default)]
    card: Option<Digest>,
}

#[derive(Debug, Deserialize)]
struct ResultClinical {
    key: String,
    #[serde(default)]
    card: Option<Digest>,
    findings: Vec<ResultThreshold>,
}

#[derive(Debug, Deserialize)]
struct ResultThreshold {
    key: String,
    threshold: f64,
}

#[derive(Debug, Deserialize)]
struct ResultStudy {
    study: String,
    state: String,
    race: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    findings: Vec<ResultFinding>,
    /// By key of a model that can tell, how far the study is from what it knows.
    #[serde(default)]
    ood: BTreeMap<String, ResultOod>,
}

#[derive(Debug, Deserialize)]
struct ResultOod {
    beyond: bool,
}

#[derive(Debug, Deserialize)]
struct ResultFinding {
    key: String,
    model: String,
    /// Absent where a clinical result from elsewhere is missing or contradicts itself.
    score: Option<f64>,
}

fn labels(bytes: &[u8], findings: &[FindingModel]) -> Result<BTreeMap<String, Labelled>, CohortError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let headers = reader.headers()?.clone();
    let position = |name: &str| headers.iter().position(|h| h == name);
    let needed = |name: &str| position(name).ok_or_else(|| CohortError::Column { column: name.to_owned() });
    let (patient, study, group) = (needed("patient")?, needed("study")?, needed("group")?);
    let (view, date) = (position("view"), position("date"));
    let outcomes =
        findings.iter().map(|f| Ok((&f.finding, needed(&f.finding)?))).collect::<Result<Vec<_>, CohortError>>()?;
    let mut labels: BTreeMap<String, Labelled> = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        let cell = |column: usize| record.get(column).unwrap_or("");
        let fault = |column: usize, rule| CohortError::Cell {
            line: record.position().map_or(0, csv::Position::line),
            column: headers.get(column).unwrap_or("").to_owned(),
            value: cell(column).chars().take(80).collect(),
            rule,
        };
        for column in [patient, study] {
            if cell(column).is_empty() {
                return Err(fault(column, "is empty, every line needs one"));
            }
        }
        let label = labels.entry(cell(study).to_owned()).or_insert_with(|| Labelled {
            study: cell(study).to_owned(),
            patient: cell(patient).to_owned(),
            ..Labelled::default()
        });
        if label.patient != cell(patient) {
            return Err(fault(patient, "differs from another line of the same study"));
        }
        if label.group.is_empty() {
            label.group = cell(group).to_owned();
        } else if !cell(group).is_empty() && label.group != cell(group) {
            return Err(fault(group, "differs from another line of the same study"));
        }
        if let Some(text) = view.map(cell).filter(|t| !t.is_empty()) {
            label.views.insert(text.to_owned());
        }
        if let Some(column) = date.filter(|&c| !cell(c).is_empty()) {
            label.date = Some(parse_date(cell(column)).ok_or_else(|| fault(column, "is no date like 2024-01-31"))?);
        }
        for &(finding, column) in &outcomes {
            let value = match cell(column) {
                "" => continue,
                "0" => false,
                "1" => true,
                _ => return Err(fault(column, "is neither 0 nor 1 nor empty")),
            };
            *label.outcomes.entry(finding.clone()).or_default() |= value;
        }
    }
    Ok(labels)
}

/// Adds what the index knows; the studies of which it says something else than the file.
fn add_indexed(labels: &mut BTreeMap<String, Labelled>, indexed: Vec<Labelled>) -> BTreeSet<String> {
    let mut contradicted = BTreeSet::new();
    for new in indexed {
        let Some(own) = labels.get_mut(&new.study) else {
            labels.insert(new.study.clone(), new);
            continue;
        };
        let differ = |(finding, value): (&String, &bool)| new.outcomes.get(finding).is_some_and(|v| v != value);
        let two_groups = !own.group.is_empty() && !new.group.is_empty() && own.group != new.group;
        if new.no_group.is_some() {
            // Nothing else is told of it. A file that gives one group says another thing.
            match own.group.is_empty() {
                true => own.no_group = new.no_group,
                false => drop(contradicted.insert(new.study)),
            }
            continue;
        }
        if own.patient != new.patient || two_groups || own.outcomes.iter().any(differ) {
            contradicted.insert(new.study);
            continue;
        }
        own.issuer = new.issuer;
        if own.group.is_empty() {
            own.group = new.group;
        }
        own.views.extend(new.views);
        own.date = own.date.or(new.date);
        own.outcomes.extend(new.outcomes);
    }
    contradicted
}

fn parse_date(text: &str) -> Option<NaiveDate> {
    ["%Y-%m-%d", "%Y%m%d"].iter().find_map(|format| NaiveDate::parse_from_str(text, format).ok())
}

/// Self-report is a person's: studies of which the labels do not say the group have that of the patient's others. The
/// patients who have two.
fn share_groups(labels: &mut BTreeMap<String, Labelled>) -> BTreeSet<String> {
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for label in labels.values().filter(|l| !l.group.is_empty()) {
        groups.entry(label.person()).or_default().insert(label.group.clone());
    }
    for label in labels.values_mut().filter(|l| l.group.is_empty() && l.no_group.is_none()) {
        label.group = groups.get(&label.person()).and_then(BTreeSet::first).cloned().unwrap_or_default();
    }
    groups.into_iter().filter(|(_, groups)| groups.len() > 1).map(|(person, _)| person).collect()
}

fn usable<'a>(
    study: &ResultStudy,
    labels: &'a BTreeMap<String, Labelled>,
    mixed: &BTreeSet<String>,
    groups: &[String],
) -> Result<&'a Labelled, &'static str> {
    if study.state != "reported" {
        return Err("study was not reported");
    }
    let label = labels.get(&study.study).ok_or("study has no label")?;
    if let Some(reason) = label.no_group {
        return Err(reason);
    }
    if mixed.contains(&label.person()) {
        return Err("patient has two self-reported groups");
    }
    if label.group.is_empty() {
        return Err("no self-reported group");
    }
    if !groups.contains(&label.group) {
        return Err("self-reported group is none of the race model's");
    }
    Ok(label)
}

/// Appends one row for every finding that is scored and labelled.
fn add(cohort: &mut Cohort, study: &ResultStudy, label: &Labelled) -> Result<(), CohortError> {
    let fault = |fault: String| CohortError::Study { study: study.study.chars().take(64).collect(), fault };
    let is_beyond = |model: &String| study.ood.get(model).is_some_and(|ood| ood.beyond);
    let posteriors = match (&study.race, &cohort.race_model) {
        (Some(race), Some(model)) if !is_beyond(model) => {
            let values: Option<Vec<f64>> = cohort.groups.iter().map(|g| race.get(g).copied()).collect();
            Some(values.ok_or_else(|| fault("race has no value for one of models.race.groups".into()))?)
        }
        _ => None,
    };
    for deployed in &cohort.findings {
        let Some(scored) = study.findings.iter().find(|f| f.key == deployed.finding) else {
            *cohort.left_out.entry("finding was not scored").or_default() += 1;
            continue;
        };
        if scored.model != deployed.model {
            return Err(fault(format!("finding {} was scored by another model than models.clinical says", scored.key)));
        }
        let Some(score) = scored.score else {
            *cohort.left_out.entry("finding has no score").or_default() += 1;
            continue;
        };
        if is_beyond(&deployed.model) {
            *cohort.left_out.entry("study lies outside what the clinical model knows").or_default() += 1;
            continue;
        }
        if !(0.0..=1.0).contains(&score) {
            return Err(fault(format!("the score of finding {} is not between 0 and 1", scored.key)));
        }
        let Some(&outcome) = label.outcomes.get(&deployed.finding) else {
            *cohort.left_out.entry("finding has no label").or_default() += 1;
            continue;
        };
        cohort.rows.push(Row {
            patient: label.person(),
            study: study.study.clone(),
            finding: deployed.finding.clone(),
            score,
            outcome,
            group: label.group.clone(),
            posteriors: posteriors.clone(),
            view: label.views.iter().cloned().collect::<Vec<_>>().join("+"),
            date: label.date,
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "cohort_tests.rs"]
mod tests;
