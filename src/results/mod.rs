//! What the results of a clinical product come to, finding by finding. Pure.
//!
//! A product may send a result twice, correct it, or contradict itself. What another result names as its predecessor
//! is replaced, and so is, if the card says so, what has an older content date; what says the same is one. What is
//! left and differs is a contradiction, and a finding with one has no score. Neighbours: `domain` (what was read),
//! `table` (results from a CSV file), `analyse`. Left out: waiting for a result (`assemble`).

mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::{ClinicalResult, Finding, Given, IndReason, Probability, Timestamp, Uid};

pub use table::{Names, Row, RowFault, Table, read_table};

/// What a later result does to an earlier one of the same product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// One with a newer content date replaces it, and one that names it as its predecessor.
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

/// What is said of one set of images.
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
        let newer = matches!((self.newest, other.newest), (Some(own), Some(others)) if others > own);
        correction == Correction::Newer && newer && !self.about.is_disjoint(&other.about)
    }
}

/// What a study has of each finding. `results` are all that there are of it, of one model; `images` those of the study
/// that the product may see. Their order does not matter.
pub fn settle(results: &[ClinicalResult], findings: &[Finding], images: &[Uid], rules: SettleRules) -> Vec<Given> {
    let replaced: BTreeSet<&str> = results.iter().flat_map(|r| &r.predecessors).map(Uid::as_str).collect();
    let live: Vec<&ClinicalResult> = results.iter().filter(|r| !replaced.contains(r.source.as_str())).collect();
    let given = |finding: &Finding| match settle_one(&live, finding, images, rules) {
        Some(given) => given,
        None => Given::Absent(IndReason::Failed),
    };
    findings.iter().map(given).collect()
}

fn settle_one(live: &[&ClinicalResult], finding: &Finding, images: &[Uid], rules: SettleRules) -> Option<Given> {
    // Statements that compete are those on the same images.
    let mut said: BTreeMap<BTreeSet<&Uid>, Vec<(Option<Timestamp>, Value)>> = BTreeMap::new();
    for result in live {
        for one in result.said.iter().filter(|s| s.finding == finding.key) {
            let about: BTreeSet<&Uid> = one.images.iter().collect();
            if about.is_empty() || images.iter().any(|image| about.contains(image)) {
                let value = Value { score: one.score, positive: one.positive };
                said.entry(about).or_default().push((result.observed_at, value));
            }
        }
    }
    let units: Vec<Unit<'_>> = said.into_iter().map(|(about, all)| Unit::of(about, &all, rules.correction)).collect();
    // What is said of the whole study needs nothing of its images.
    let standing: Vec<&Unit<'_>> = match units.iter().find(|unit| unit.about.is_empty()) {
        Some(whole) => vec![whole],
        None => units
            .iter()
            .filter(|unit| !units.iter().any(|other| unit.is_replaced_by(other, rules.correction)))
            .collect(),
    };
    let overlap =
        standing.iter().enumerate().any(|(i, a)| standing[..i].iter().any(|b| !a.about.is_disjoint(&b.about)));
    let values: Option<Vec<Value>> = standing.iter().map(|unit| unit.value).collect();
    let Some(values) = values.filter(|all| !overlap && !all.iter().any(|v| contradicts_itself(*v, finding))) else {
        return Some(Given::Absent(IndReason::Conflict));
    };
    let scores: Vec<f64> = values.iter().filter_map(|v| v.score).map(Probability::get).collect();
    if !scores.is_empty() {
        let score = match rules.combine {
            Combine::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
            Combine::Max => scores.iter().copied().fold(0.0, f64::max),
        };
        return Probability::new(score).ok().map(Given::Score);
    }
    let labels: Vec<bool> = values.iter().filter_map(|v| v.positive).collect();
    (rules.label_only && !labels.is_empty()).then(|| Given::Label { positive: labels.contains(&true) })
}

/// The one value that is left of several statements; `None`: they contradict each other.
fn agreed(candidates: &[(Option<Timestamp>, Value)], correction: Correction) -> Option<Value> {
    let newest = candidates.iter().filter_map(|(at, _)| *at).max();
    let stands = |at: &Option<Timestamp>| match correction {
        // What has no date can be put before nothing.
        Correction::Newer => at.is_none() || *at == newest,
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
