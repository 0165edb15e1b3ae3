//! What codes of others mean here: the mapping file of `labels import` (TOML), checked. Pure.
//!
//! It says which code is a statement on which finding or covariate, and which values say that it is there and that it is
//! not. A value that it does not name means nothing. conf/labels.toml explains every key. Neighbours: `fhir` and `sr` read
//! by it. Left out: what findings there are (the deployed models' cards).

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::super::race::race_category;
use super::super::statement::Reach;
use crate::domain::{CodeKey, FindingRule, LabelRule, ReportKind, ReportRules};

/// Entries of all kinds together, and concepts of one path.
const RULES_MAX: usize = 10_000;
const PATH_MAX: usize = 16;

/// `system|code`, as search in FHIR writes it.
pub(super) type FhirCode = String;

/// A mapping that can be used.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    pub window_days: Option<u32>,
    pub(super) identifiers: Vec<Identifier>,
    pub(super) accession_systems: Vec<String>,
    /// By a detailed code of CDCREC, the category that the site takes it for.
    pub(super) detailed: BTreeMap<String, String>,
    covariates: Vec<String>,
    pub(super) observations: ByCode<ObservationRule>,
    pub(super) conditions: ByCode<ConditionRule>,
    pub(super) reports: Vec<ReportRule>,
    sr: Vec<SrRule>,
}

/// Rules, and which of them a code is among.
#[derive(Debug, Clone)]
pub(super) struct ByCode<R> {
    rules: Vec<R>,
    places: HashMap<FhirCode, Vec<usize>>,
}

/// Of what something is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Finding(String),
    Covariate(String),
}

/// A system of identifiers that are Patient IDs, and their Issuer of Patient ID; without one whoever issued it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identifier {
    pub system: String,
    pub issuer: Option<String>,
}

/// A value that a resource may have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Named {
    Boolean(bool),
    Code(FhirCode),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObservationRule {
    finding: Option<String>,
    covariate: Option<String>,
    codes: Vec<FhirCode>,
    #[serde(default)]
    pub present: Vec<Named>,
    #[serde(default)]
    pub absent: Vec<Named>,
    /// Of numbers: the only unit that is read, and from (below) which value the finding is there (is not).
    pub unit: Option<String>,
    pub present_from: Option<f64>,
    pub absent_below: Option<f64>,
    /// Of covariates: what is kept for a code.
    #[serde(default)]
    pub values: BTreeMap<FhirCode, String>,
    #[serde(default)]
    pub studies: Reach,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionRule {
    pub finding: String,
    codes: Vec<FhirCode>,
    /// Codes of verificationStatus.
    pub present: Vec<String>,
    #[serde(default)]
    pub absent: Vec<String>,
    /// Codes of clinicalStatus that count; empty: any.
    #[serde(default)]
    pub clinical: Vec<String>,
    #[serde(default)]
    pub date: ConditionDate,
    #[serde(default)]
    pub studies: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ConditionDate {
    #[default]
    Onset,
    Recorded,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportRule {
    pub finding: String,
    /// Among conclusionCode.
    pub present: Vec<FhirCode>,
    #[serde(default)]
    pub absent: Vec<FhirCode>,
    #[serde(default)]
    pub studies: Reach,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SrRule {
    finding: String,
    path: Vec<CodeKey>,
    present: Vec<CodeKey>,
    #[serde(default)]
    absent: Vec<CodeKey>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    window_days: Option<u32>,
    patient: RawPatient,
    accession: RawAccession,
    race: RawRace,
    csv: RawCsv,
    observation: Vec<ObservationRule>,
    condition: Vec<ConditionRule>,
    report: Vec<ReportRule>,
    sr: Vec<SrRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPatient {
    identifiers: Vec<Identifier>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAccession {
    systems: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRace {
    detailed: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCsv {
    covariates: Vec<String>,
}

impl Mapping {
    /// Reads a mapping for these findings; or all that is wrong with it, each with its key and the remedy.
    pub fn parse(text: &str, findings: &[String]) -> Result<Self, Vec<String>> {
        let mut raw: Raw = toml::from_str(text).map_err(|e| vec![e.to_string()])?;
        let mut faults = Vec::new();
        let number = raw.observation.len() + raw.condition.len() + raw.report.len() + raw.sr.len();
        if number > RULES_MAX {
            return Err(vec![format!("it has {number} rules, {RULES_MAX} are read at most")]);
        }
        let check = Check { findings, faults: &mut faults };
        check.all(&raw);
        for category in raw.race.detailed.values_mut() {
            if let Some(code) = race_category(category) {
                *category = code.to_owned();
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut covariates = raw.csv.covariates;
        covariates.extend(raw.observation.iter().filter_map(|rule| rule.covariate.clone()));
        Ok(Self {
            window_days: raw.window_days,
            identifiers: raw.patient.identifiers,
            accession_systems: raw.accession.systems,
            detailed: raw.race.detailed,
            covariates,
            observations: ByCode::of(raw.observation, |rule| &rule.codes),
            conditions: ByCode::of(raw.condition, |rule| &rule.codes),
            reports: raw.report,
            sr: raw.sr,
        })
    }

    /// Names of covariates that it speaks of.
    pub fn covariates(&self) -> Vec<String> {
        self.covariates.clone()
    }

    /// How a report is read: one rule for each path.
    pub fn report_rules(&self) -> Vec<ReportRules> {
        let rule = |rule: &SrRule| {
            let concept = rule.path.last().cloned().unwrap_or(CodeKey { value: String::new(), scheme: String::new() });
            let label =
                LabelRule { concept: concept.clone(), positive: rule.present.clone(), negative: rule.absent.clone() };
            let finding = FindingRule { key: rule.finding.clone(), code: concept.clone(), path: rule.path.clone() };
            ReportRules { kind: ReportKind::Paths, probability: concept, label: Some(label), findings: vec![finding] }
        };
        self.sr.iter().map(rule).collect()
    }
}

impl ObservationRule {
    pub(super) fn subject(&self) -> Subject {
        match (&self.finding, &self.covariate) {
            (Some(finding), _) => Subject::Finding(finding.clone()),
            (None, covariate) => Subject::Covariate(covariate.clone().unwrap_or_default()),
        }
    }
}

impl<R> Default for ByCode<R> {
    fn default() -> Self {
        Self { rules: Vec::new(), places: HashMap::new() }
    }
}

impl<R> ByCode<R> {
    fn of(rules: Vec<R>, codes: impl Fn(&R) -> &Vec<FhirCode>) -> Self {
        let mut places: HashMap<FhirCode, Vec<usize>> = HashMap::new();
        for (at, rule) in rules.iter().enumerate() {
            for code in codes(rule) {
                places.entry(code.clone()).or_default().push(at);
            }
        }
        Self { rules, places }
    }

    /// The rules that one of these codes is among, each once.
    pub(super) fn of_codes(&self, codes: &[FhirCode]) -> Vec<&R> {
        let found = codes.iter().filter_map(|code| self.places.get(code)).flatten().copied();
        let found: std::collections::BTreeSet<usize> = found.collect();
        found.into_iter().map(|at| &self.rules[at]).collect()
    }
}

/// What may be wrong.
struct Check<'a> {
    findings: &'a [String],
    faults: &'a mut Vec<String>,
}

impl Check<'_> {
    fn all(mut self, raw: &Raw) {
        self.add(raw.window_days.is_some_and(|days| days > 3650), || "window_days is above 3650".into());
        for (detailed, category) in &raw.race.detailed {
            let is_none = race_category(category).is_none();
            self.add(is_none, || {
                format!("race.detailed.{detailed} is no category; use a code or name of docs/labels.md")
            });
        }
        for name in &raw.csv.covariates {
            self.name("csv.covariates", name);
        }
        for (i, rule) in raw.observation.iter().enumerate() {
            self.observation(&format!("observation[{i}]"), rule);
        }
        for (i, rule) in raw.condition.iter().enumerate() {
            let key = format!("condition[{i}]");
            self.finding(&key, &rule.finding);
            self.codes(&key, &rule.codes);
            self.values(&key, &rule.present, &rule.absent);
        }
        for (i, rule) in raw.report.iter().enumerate() {
            let key = format!("report[{i}]");
            self.finding(&key, &rule.finding);
            self.values(&key, &rule.present, &rule.absent);
            [&rule.present, &rule.absent].into_iter().for_each(|codes| self.codes_if_any(&key, codes));
        }
        for (i, rule) in raw.sr.iter().enumerate() {
            let key = format!("sr[{i}]");
            self.finding(&key, &rule.finding);
            self.values(&key, &rule.present, &rule.absent);
            let fits = (1..=PATH_MAX).contains(&rule.path.len());
            self.add(!fits, || format!("{key}.path has {} concepts; give 1 to {PATH_MAX}", rule.path.len()));
        }
    }

    fn observation(&mut self, key: &str, rule: &ObservationRule) {
        self.codes(key, &rule.codes);
        let numbers = rule.present_from.is_some() || rule.absent_below.is_some();
        match (&rule.finding, &rule.covariate) {
            (Some(finding), None) => {
                self.finding(key, finding);
                self.add(!rule.values.is_empty(), || format!("{key}.values is for covariates; remove it"));
                if !numbers {
                    self.values(key, &rule.present, &rule.absent);
                }
                self.add(numbers && rule.unit.is_none(), || {
                    format!("{key}.unit is missing; name the unit of its numbers")
                });
                let finite = |v: Option<f64>| v.is_none_or(f64::is_finite);
                let crossed = rule.present_from.zip(rule.absent_below).is_some_and(|(from, below)| below > from);
                let wrong = crossed || !finite(rule.present_from) || !finite(rule.absent_below);
                self.add(wrong, || format!("{key}.absent_below is above present_from; a value would be both"));
            }
            (None, Some(name)) => {
                self.name(&format!("{key}.covariate"), name);
                let outcome = numbers || !rule.present.is_empty() || !rule.absent.is_empty();
                self.add(outcome, || {
                    format!("{key} has present or absent, which are for findings; use values or unit")
                });
                let nothing = rule.unit.is_none() && rule.values.is_empty();
                self.add(nothing, || format!("{key} has neither unit nor values; nothing of it could be read"));
            }
            _ => self.add(true, || format!("{key} needs one of finding and covariate")),
        }
    }

    /// The name of a covariate.
    fn name(&mut self, key: &str, name: &str) {
        let short = (1..=64).contains(&name.len()) && !name.chars().any(char::is_control);
        self.add(!short, || format!("{key} has no name of 1 to 64 characters"));
        let is_finding = self.findings.iter().any(|finding| finding == name);
        self.add(is_finding, || format!("{key}: {name} is the key of a finding"));
    }

    fn finding(&mut self, key: &str, finding: &str) {
        let known = self.findings.iter().any(|own| own == finding);
        self.add(!known, || {
            format!("{key}.finding = \"{finding}\" is none of the deployed models: {}", self.findings.join(", "))
        });
    }

    fn codes(&mut self, key: &str, codes: &[FhirCode]) {
        self.add(codes.is_empty(), || format!("{key}.codes is empty"));
        self.codes_if_any(key, codes);
    }

    fn codes_if_any(&mut self, key: &str, codes: &[FhirCode]) {
        let is_pair = |code: &FhirCode| code.split_once('|').is_some_and(|(s, c)| !s.is_empty() && !c.is_empty());
        if let Some(code) = codes.iter().find(|code| !is_pair(code)) {
            self.faults.push(format!("{key}: \"{code}\" is not like system|code"));
        }
    }

    fn values<V: PartialEq>(&mut self, key: &str, present: &[V], absent: &[V]) {
        self.add(present.is_empty() && absent.is_empty(), || format!("{key} has neither present nor absent"));
        let both = present.iter().any(|value| absent.contains(value));
        self.add(both, || format!("{key} has a value in both present and absent"));
    }

    fn add(&mut self, wrong: bool, fault: impl FnOnce() -> String) {
        if wrong {
            let fault = fault();
            self.faults.push(fault);
        }
    }
}
