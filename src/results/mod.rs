//! What the results of a clinical product come to, finding by finding. Pure.
//!
//! A product may send a result twice, correct it, or contradict itself. What another result names as its predecessor
//! is replaced, and so is, if the card says so, what has an older content date or none; what says the same is one. What
//! is left and differs is a contradiction, and a finding with one has no score. Nor has one that some image of the study
//! has no statement on. Neighbours: `domain` (what was read), `table` (results from a CSV file), `labels` (what is true), `analyse`, `store`
//! (whether a result is news). Left out: waiting for a result (`assemble`).

mod labels;
mod race;
mod statement;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::{ClinicalResult, Finding, Given, IndReason, Probability, Timestamp, Uid};

pub use labels::{
    Agreed, CsvTable, FhirRead, FhirReader, KnownStudy, Lines, Mapping, Places, Wanted, agree, sr_statement,
};
pub use race::{DECLINED, GroupName, SelfReport, Standing, UNKNOWN};
pub use statement::{
    About, At, Covariate, Hit, Outcome, PatientName, Placed, Reach, Reject, Says, Source, Statement, Vocabulary,
};
pub use table::{Names, Row, RowFault, Table, read_table};

/// What a later result does to an earlier one of the same product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// One with a newer content date (any is newer than none) replaces it, and one that names it as its predecessor.
    #[default]
    Newer,
    /// Only one that names it as its predecessor.
    Predecessor,
}

/// How results of several images become the study's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    Mean,
    Max,
}

/// What the card says of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleRules {
    pub correction: Correction,
    pub combine: Combine,
    /// The product gives decisions and no scores.
    pub label_only: bool,
}

/// What is said of a finding and some images: score and decision.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Value {
    score: Option<Probability>,
    positive: Option<bool>,
}

/// What is said of one set of images; of none: of the whole study.
#[derive(Debug, PartialEq)]
struct Unit<'a> {
    about: BTreeSet<&'a Uid>,
    newest: Option<Timestamp>,
    /// Absent where statements contradict each other.
    value: Option<Value>,
}

impl<'a> Unit<'a> {
    fn of(about: BTreeSet<&'a Uid>, said: &[(Option<Timestamp>, Value)], correction: Correction) -> Self {
        Self { about, newest: said.iter().filter_map(|(at, _)| *at).max(), value: agreed(said, correction) }
    }

    /// Whether something newer is said of other images and some of these: one image after the other, then both at once.
    fn is_replaced_by(&self, other: &Self, correction: Correction) -> bool {
        correction == Correction::Newer && other.newest > self.newest && !self.about.is_disjoint(&other.about)
    }

    /// Whether the other one says the same of these images and of more.
    fn is_within(&self, other: &Self) -> bool {
        self.value == other.value && self.about.len() < other.about.len() && self.about.is_subset(&other.about)
    }
}

/// What a study has of each finding. `results` are all that there are of it, of one model; `images` those of the study
/// that the product may see. Their order does not matter.
pub fn settle(results: &[ClinicalResult], findings: &[Finding], images: &[Uid], rules: SettleRules) -> Vec<Given> {
    let live = live(results);
    let images: BTreeSet<&Uid> = images.iter().collect();
    let given = |finding: &Finding| {
        let units = standing(&live, &finding.key, Some(&images), rules.correction);
        settle_one(&units, finding, &images, rules).unwrap_or(Given::Absent(IndReason::Failed))
    };
    findings.iter().map(given).collect()
}

/// Whether `new` results change what stands of a study of which `known` are known, all of one model: a repetition does
/// not, a return to an earlier value does. Says yes where it depends on the card.
pub fn is_news(known: &[ClinicalResult], new: &[ClinicalResult]) -> bool {
    let all = [known, new].concat();
    let findings: BTreeSet<&str> = all.iter().flat_map(|r| &r.said).map(|s| s.finding.as_str()).collect();
    let (before, after) = (live(known), live(&all));
    let stands = |live: &[&ClinicalResult], finding: &str, correction| -> Vec<(BTreeSet<Uid>, Option<Value>)> {
        let units = standing(live, finding, None, correction).into_iter();
        units.map(|unit| (unit.about.into_iter().cloned().collect(), unit.value)).collect()
    };
    let changes = |correction| findings.iter().any(|f| stands(&before, f, correction) != stands(&after, f, correction));
    changes(Correction::Newer) || changes(Correction::Predecessor)
}

/// The results that no other one replaces. Of those that name each other in a circle none does.
fn live(results: &[ClinicalResult]) -> Vec<&ClinicalResult> {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for result in results {
        let others = result.predecessors.iter().map(Uid::as_str).filter(|name| *name != result.source);
        names.entry(&result.source).or_default().extend(others);
    }
    let named: BTreeSet<&str> = names.values().flatten().copied().collect();
    let mut next: Vec<&str> = names.keys().copied().filter(|source| !named.contains(source)).collect();
    let mut replaced = BTreeSet::new();
    while let Some(source) = next.pop() {
        next.extend(names.get(source).into_iter().flatten().filter(|name| replaced.insert(**name)));
    }
    results.iter().filter(|r| !replaced.contains(r.source.as_str())).collect()
}

/// What stands of a finding: of the whole study, or of images. With `images` no others are looked at.
fn standing<'a>(
    live: &[&'a ClinicalResult],
    finding: &str,
    images: Option<&BTreeSet<&Uid>>,
    correction: Correction,
) -> Vec<Unit<'a>> {
    // Statements that compete are those on the same images.
    let mut said: BTreeMap<BTreeSet<&Uid>, Vec<(Option<Timestamp>, Value)>> = BTreeMap::new();
    for result in live {
        for one in result.said.iter().filter(|s| s.finding == finding) {
            let here = |image: &&Uid| images.is_none_or(|images| images.contains(image));
            let about: BTreeSet<&Uid> = one.images.iter().filter(here).collect();
            if !about.is_empty() || one.images.is_empty() {
                let value = Value { score: one.score, positive: one.positive };
                said.entry(about).or_default().push((result.observed_at, value));
            }
        }
    }
    let mut units: Vec<Unit<'_>> = said.into_iter().map(|(about, all)| Unit::of(about, &all, correction)).collect();
    // What is said of the whole study needs nothing of its images; it is the first.
    if units.first().is_some_and(|unit| unit.about.is_empty()) {
        units.truncate(1);
        return units;
    }
    let replaced: Vec<bool> =
        units.iter().map(|unit| units.iter().any(|other| unit.is_replaced_by(other, correction))).collect();
    let mut replaced = replaced.into_iter();
    units.retain(|_| !replaced.next().unwrap_or_default());
    units
}

/// `None`: of some image nothing is said that could be used.
fn settle_one(units: &[Unit<'_>], finding: &Finding, images: &BTreeSet<&Uid>, rules: SettleRules) -> Option<Given> {
    let units: Vec<&Unit<'_>> = units.iter().filter(|unit| !units.iter().any(|other| unit.is_within(other))).collect();
    let differ = |a: &Unit<'_>, b: &Unit<'_>| a.value != b.value && !a.about.is_disjoint(&b.about);
    let contradictory = units.iter().enumerate().any(|(i, a)| units[..i].iter().any(|b| differ(a, b)));
    let values: Option<Vec<Value>> = units.iter().map(|unit| unit.value).collect();
    let Some(values) = values.filter(|all| !contradictory && !all.iter().any(|v| contradicts_itself(*v, finding)))
    else {
        return Some(Given::Absent(IndReason::Conflict));
    };
    let covered = |image: &&Uid| units.iter().any(|unit| unit.about.is_empty() || unit.about.contains(*image));
    if units.is_empty() || !images.iter().all(covered) {
        return None;
    }
    if let Some(scores) = values.iter().map(|v| v.score.map(Probability::get)).collect::<Option<Vec<f64>>>() {
        let score = match rules.combine {
            Combine::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
            Combine::Max => scores.iter().copied().fold(0.0, f64::max),
        };
        return Probability::new(score).ok().map(Given::Score);
    }
    let labels: Option<Vec<bool>> = values.iter().map(|v| v.positive).collect();
    labels.filter(|_| rules.label_only).map(|labels| Given::Label { positive: labels.contains(&true) })
}

/// The one value that is left of several statements; `None`: they contradict each other.
fn agreed(candidates: &[(Option<Timestamp>, Value)], correction: Correction) -> Option<Value> {
    let newest = candidates.iter().map(|(at, _)| *at).max()?;
    let stands = |at: &Option<Timestamp>| match correction {
        // What has no date comes before all that has one: else nothing could correct it.
        Correction::Newer => *at == newest,
        Correction::Predecessor => true,
    };
    let mut standing = candidates.iter().filter(|(at, _)| stands(at)).map(|(_, value)| *value);
    let first = standing.next()?;
    standing.all(|value| value == first).then_some(first)
}

/// The product decides otherwise than its score does at the card's threshold, which is then not the deployed one.
fn contradicts_itself(value: Value, finding: &Finding) -> bool {
    match (value.score, value.positive) {
        (Some(score), Some(positive)) => (score >= finding.threshold) != positive,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
