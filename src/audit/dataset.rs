//! What an audit looks at: studies with their covariates, what people said of their race, and a column of scores and
//! outcomes for each finding.
//!
//! [`Dataset::new`] checks everything once, so that the rest of the room need not: lengths, ranges, limits. Studies are
//! put in the order of their identifiers, so that the order in which a caller lists them changes nothing. Neighbours:
//! `slice` groups studies, `performance` takes a [`Base`]. Left out: where the values come from.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::Serialize;

use crate::stats::logit;

/// More studies, groups, findings or versions than these are a mistake of the caller.
const STUDIES_MAX: usize = 20_000_000;
const GROUPS_MAX: usize = 32;
const FINDINGS_MAX: usize = 1000;
const MODELS_MAX: usize = 100;
/// How far posteriors, which are softmax values in single precision, may be from a sum of 1.
const SUM_TOLERANCE: f64 = 1e-3;

/// What is known of a person's self-reported race. Only [`SelfReport::Group`] counts in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfReport {
    /// Index of one of the dataset's groups.
    Group(usize),
    /// More than one category.
    Several,
    /// A category that is none of the dataset's groups.
    Other,
    /// Asked, and not known.
    Unknown,
    Declined,
    /// Nobody asked, or nothing was imported.
    Missing,
    /// Studies of one person that name different groups.
    Contradicted,
}

impl SelfReport {
    pub fn group(self) -> Option<usize> {
        if let Self::Group(group) = self { Some(group) } else { None }
    }

    /// Why there is no group.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Group(_) => None,
            Self::Several => Some("several groups"),
            Self::Other => Some("another group than those that are compared"),
            Self::Unknown => Some("said to be unknown"),
            Self::Declined => Some("declined to say"),
            Self::Missing => Some("not asked or not imported"),
            Self::Contradicted => Some("studies of one patient contradict each other"),
        }
    }
}

/// One study, without its scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// Any identifier that no other study has.
    pub study: String,
    /// One person, by any name.
    pub patient: String,
    pub date: Option<NaiveDate>,
    pub site: Option<String>,
    pub device: Option<String>,
    pub view: Option<String>,
    pub portable: Option<bool>,
    pub age_years: Option<f64>,
    pub sex: Option<String>,
    /// kg/m².
    pub bmi: Option<f64>,
    pub self_report: SelfReport,
    /// The race model's probabilities in the order of the groups, where it ran. Never taken for a self-report.
    pub posterior: Option<Vec<f64>>,
}

/// One finding: what is true of each study, and what versions of the clinical model said.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub finding: String,
    /// One for each study, in the order of the studies.
    pub outcome: Vec<Option<bool>>,
    /// By precedence: of a study the first that has a score counts, the others serve comparisons of versions.
    pub models: Vec<Scored>,
}

/// Scores of one version of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// [`crate::domain::ModelIdentity::key`].
    pub model: String,
    pub version: String,
    /// Positive at or above it.
    pub threshold: f64,
    /// One for each study, 0..1.
    pub score: Vec<Option<f64>>,
}

/// Why there is no dataset.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DatasetError {
    #[error("{what}: {found} of them, at most {most} can be audited at once")]
    TooMany { what: &'static str, found: usize, most: usize },
    #[error("{what} {name:?} occurs twice: name each once")]
    Twice { what: &'static str, name: String },
    #[error("finding {finding:?}: {what} has {found} values for {studies} studies")]
    Length { finding: String, what: &'static str, found: usize, studies: usize },
    #[error("finding {finding:?} has no model")]
    NoModel { finding: String },
    #[error("{what} {value} of {of:?} is {rule}")]
    Value { what: &'static str, value: f64, of: String, rule: &'static str },
    #[error("study {study:?}: {rule}")]
    Study { study: String, rule: &'static str },
}

/// Checked studies and findings.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pub(super) groups: Vec<String>,
    pub(super) race_model: Option<String>,
    pub(super) studies: Vec<Study>,
    pub(super) findings: Vec<Finding>,
    /// Of each study, the number of its patient from 0.
    pub(super) patient: Vec<u32>,
    pub(super) patients: usize,
}

impl Dataset {
    /// `groups`: keys of self-reported groups, in the order of the posteriors; `race_model`: whose posteriors they are.
    pub fn new(
        groups: Vec<String>,
        race_model: Option<String>,
        studies: Vec<Study>,
        findings: Vec<Finding>,
    ) -> Result<Self, DatasetError> {
        let limit = |what, found, most| {
            if found > most { Err(DatasetError::TooMany { what, found, most }) } else { Ok(()) }
        };
        limit("groups", groups.len(), GROUPS_MAX)?;
        limit("studies", studies.len(), STUDIES_MAX)?;
        limit("findings", findings.len(), FINDINGS_MAX)?;
        once("group", groups.iter())?;
        once("finding", findings.iter().map(|f| &f.finding))?;
        studies.iter().try_for_each(|study| check_study(study, groups.len()))?;
        findings.iter().try_for_each(|finding| check_finding(finding, studies.len()))?;
        let mut order: Vec<usize> = (0..studies.len()).collect();
        order.sort_by(|&a, &b| studies[a].study.cmp(&studies[b].study));
        if let Some(pair) = order.windows(2).find(|pair| studies[pair[0]].study == studies[pair[1]].study) {
            return Err(DatasetError::Twice { what: "study", name: shortened(&studies[pair[0]].study) });
        }
        let findings = findings.into_iter().map(|finding| reordered(finding, &order)).collect();
        let mut slots: Vec<Option<Study>> = studies.into_iter().map(Some).collect();
        let mut studies: Vec<Study> = order.iter().filter_map(|at| slots[*at].take()).collect();
        let (patient, patients) = numbered(&studies);
        share(&mut studies, &patient, patients);
        Ok(Self { groups, race_model, studies, findings, patient, patients })
    }

    /// The same groups with other studies, which were checked and are in order.
    pub(super) fn with(&self, studies: Vec<Study>, findings: Vec<Finding>) -> Self {
        let (patient, patients) = numbered(&studies);
        Self { groups: self.groups.clone(), race_model: self.race_model.clone(), studies, findings, patient, patients }
    }

    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    pub fn studies(&self) -> usize {
        self.studies.len()
    }

    pub fn patients(&self) -> usize {
        self.patients
    }

    pub fn findings(&self) -> impl Iterator<Item = &str> {
        self.findings.iter().map(|f| f.finding.as_str())
    }

    /// Group of each study, [`Dataset::groups`]' length where it has none.
    pub(super) fn group(&self, study: usize) -> usize {
        self.studies[study].self_report.group().unwrap_or(self.groups.len())
    }

    /// The version that counts for a study, and its score.
    pub(super) fn counted(&self, finding: usize, study: usize) -> Option<(usize, f64)> {
        let models = self.findings[finding].models.iter().enumerate();
        models.filter_map(|(m, scored)| Some((m, scored.score[study]?))).next()
    }

    /// The studies of a finding that have a score and a known outcome.
    pub(super) fn base(&self, finding: usize) -> Base {
        self.base_of(finding, |study| self.counted(finding, study))
    }

    /// The same with scores of a chosen version.
    pub(super) fn base_of(&self, finding: usize, score: impl Fn(usize) -> Option<(usize, f64)>) -> Base {
        let of = &self.findings[finding];
        let one = |study: usize| {
            let (model, score) = score(study)?;
            let (threshold, outcome) = (of.models[model].threshold, of.outcome[study]?);
            Some(Row { study, score, z: logit(score), outcome, threshold, patient: self.patient[study], group: 0 })
        };
        let mut rows: Vec<Row> = (0..self.studies.len()).filter_map(one).collect();
        rows.iter_mut().for_each(|row| row.group = self.group(row.study));
        rows.sort_by(|a, b| a.score.total_cmp(&b.score));
        Base { rows }
    }
}

/// A study with a score and a known outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    pub(super) study: usize,
    pub(super) score: f64,
    /// Its logit, kept finite.
    pub(super) z: f64,
    pub(super) outcome: bool,
    pub(super) threshold: f64,
    pub(super) patient: u32,
    /// The number of groups where there is no self-report.
    pub(super) group: usize,
}

impl Row {
    pub(super) fn flag(&self) -> bool {
        self.score >= self.threshold
    }
}

/// Rows by ascending score: sorted once, every part of them stays sorted.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Base {
    pub(super) rows: Vec<Row>,
}

impl Base {
    pub(super) fn part(&self, keep: impl Fn(&Row) -> bool) -> Self {
        Self { rows: self.rows.iter().filter(|row| keep(row)).copied().collect() }
    }

    /// Patients numbered without gaps, row by row, and how many there are.
    pub(super) fn clusters(&self) -> (Vec<usize>, usize) {
        let mut number = vec![u32::MAX; self.rows.iter().map(|r| r.patient as usize + 1).max().unwrap_or(0)];
        let mut next = 0;
        let own = |row: &Row| {
            let slot = &mut number[row.patient as usize];
            if *slot == u32::MAX {
                (*slot, next) = (next, next + 1);
            }
            *slot as usize
        };
        (self.rows.iter().map(own).collect(), next as usize)
    }
}

fn once<'a>(what: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), DatasetError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(DatasetError::Twice { what, name: shortened(name) });
        }
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_study(study: &Study, groups: usize) -> Result<(), DatasetError> {
    let fault = |rule| Err(DatasetError::Study { study: shortened(&study.study), rule });
    if study.self_report.group().is_some_and(|g| g >= groups) {
        return fault("its self-reported group is none of the groups");
    }
    if study.age_years.is_some_and(|age| !(0.0..=150.0).contains(&age)) {
        return fault("its age is not between 0 and 150 years");
    }
    if study.bmi.is_some_and(|bmi| !(5.0..=200.0).contains(&bmi)) {
        return fault("its body mass index is not between 5 and 200 kg/m²");
    }
    let Some(posterior) = &study.posterior else { return Ok(()) };
    let sum: f64 = posterior.iter().sum();
    if posterior.len() != groups || posterior.iter().any(|p| !(0.0..=1.0).contains(p)) {
        return fault("its posterior is not one probability for each group");
    }
    if (sum - 1.0).abs() > SUM_TOLERANCE { fault("its posterior does not have a sum of 1") } else { Ok(()) }
}

fn check_finding(finding: &Finding, studies: usize) -> Result<(), DatasetError> {
    let name = || shortened(&finding.finding);
    let length = |what, found| {
        let wrong = || DatasetError::Length { finding: name(), what, found, studies };
        if found == studies { Ok(()) } else { Err(wrong()) }
    };
    if finding.models.is_empty() {
        return Err(DatasetError::NoModel { finding: name() });
    }
    if finding.models.len() > MODELS_MAX {
        return Err(DatasetError::TooMany { what: "models", found: finding.models.len(), most: MODELS_MAX });
    }
    once("model", finding.models.iter().map(|m| &m.model))?;
    length("outcome", finding.outcome.len())?;
    let rule = "not between 0 and 1";
    for scored in &finding.models {
        length("score", scored.score.len())?;
        if !(0.0..=1.0).contains(&scored.threshold) {
            return Err(DatasetError::Value { what: "threshold", value: scored.threshold, of: name(), rule });
        }
        if let Some(value) = scored.score.iter().flatten().find(|s| !(0.0..=1.0).contains(*s)) {
            return Err(DatasetError::Value { what: "score", value: *value, of: name(), rule });
        }
    }
    Ok(())
}

fn reordered(finding: Finding, order: &[usize]) -> Finding {
    let outcome = order.iter().map(|at| finding.outcome[*at]).collect();
    let moved = |scored: Scored| Scored { score: order.iter().map(|at| scored.score[*at]).collect(), ..scored };
    Finding { outcome, models: finding.models.into_iter().map(moved).collect(), ..finding }
}

/// Patients by their names, so that numbers do not depend on the order of studies.
fn numbered(studies: &[Study]) -> (Vec<u32>, usize) {
    let names: BTreeSet<&str> = studies.iter().map(|s| s.patient.as_str()).collect();
    let number: BTreeMap<&str, u32> = names.iter().enumerate().map(|(i, name)| (*name, i as u32)).collect();
    (studies.iter().map(|s| number[s.patient.as_str()]).collect(), names.len())
}

/// Self-report is a person's: studies of which nothing is said have that of the patient's others, and whoever has two
/// groups is in none.
fn share(studies: &mut [Study], patient: &[u32], patients: usize) {
    let mut known: Vec<Option<SelfReport>> = vec![None; patients];
    for (study, &p) in studies.iter().zip(patient) {
        let SelfReport::Group(group) = study.self_report else { continue };
        known[p as usize] = Some(match known[p as usize] {
            None => SelfReport::Group(group),
            Some(SelfReport::Group(other)) if other == group => SelfReport::Group(group),
            Some(_) => SelfReport::Contradicted,
        });
    }
    for (study, &p) in studies.iter_mut().zip(patient) {
        if let (SelfReport::Group(_) | SelfReport::Missing, Some(known)) = (study.self_report, known[p as usize]) {
            study.self_report = known;
        }
    }
}

#[cfg(test)]
mod tests;
