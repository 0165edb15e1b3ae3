//! Calibration at study level: a study's aggregated probabilities become the ones that its score is.
//!
//! A mean or maximum over images is not calibrated even where each image's probabilities are, so the numbers are those
//! of studies, fitted elsewhere and written on the card. Temperature: Guo et al. 2017; Dirichlet: Kull et al. 2019;
//! Platt's line for each finding: Platt 1999. Thresholds are on the calibrated scale. Pure. Neighbours: `aggregate`
//! applies it. Left out: fitting, and calibration by group, which is what the profile is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{ModelOutputs, Purpose};
use crate::stats::softmax;

/// `[calibration]` of a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum CalibrationCard {
    /// Logits divided by one number: above 1 the model says less than it would.
    Temperature { temperature: f64 },
    /// Of findings, by key: the logit becomes slope · logit + intercept. What is not listed stays as it is.
    Platt { findings: BTreeMap<String, Line> },
    /// Of groups: softmax of weights · ln p + intercept, a row of weights for each group in output order.
    Dirichlet { weights: Vec<Vec<f64>>, intercept: Vec<f64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Above 0, so that the order of scores stays.
    pub slope: f64,
    pub intercept: f64,
}

/// A calibration that fits its model's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration(Rule);

#[derive(Debug, Clone, PartialEq)]
enum Rule {
    TemperatureOfGroups(f64),
    /// One for each finding that has one.
    Lines(Vec<Option<Line>>),
    Dirichlet {
        weights: Vec<Vec<f64>>,
        intercept: Vec<f64>,
    },
}

/// ln p is taken of nothing smaller.
const P_MIN: f64 = 1e-12;
/// Nothing that was fitted lies beyond.
const MAGNITUDE_MAX: f64 = 1e3;

impl Calibration {
    /// The calibration for these outputs, or the key that is wrong, how, and the remedy.
    pub(super) fn new(card: CalibrationCard, outputs: &ModelOutputs) -> Result<Self, [String; 3]> {
        let fault =
            |key: &str, problem: String, remedy: &str| Err([format!("calibration.{key}"), problem, remedy.to_owned()]);
        let fits = |v: &f64| v.is_finite() && v.abs() <= MAGNITUDE_MAX;
        let positive = |v: &f64| fits(v) && *v > 1.0 / MAGNITUDE_MAX;
        match (card, outputs) {
            (CalibrationCard::Temperature { temperature }, _) if !positive(&temperature) => {
                fault("temperature", format!("{temperature} is no temperature"), "give a number between 0.001 and 1000")
            }
            (CalibrationCard::Temperature { temperature }, ModelOutputs::Groups(_)) => {
                Ok(Self(Rule::TemperatureOfGroups(temperature)))
            }
            (CalibrationCard::Temperature { temperature }, ModelOutputs::Findings(findings)) => {
                Ok(Self(Rule::Lines(vec![Some(Line { slope: 1.0 / temperature, intercept: 0.0 }); findings.len()])))
            }
            (CalibrationCard::Platt { findings: lines }, ModelOutputs::Findings(findings)) => {
                if let Some(key) = lines.keys().find(|key| !findings.iter().any(|f| f.key == **key)) {
                    return fault("findings", format!("{key:?} is no finding of the model"), "use the findings' keys");
                }
                if let Some((key, _)) = lines.iter().find(|(_, l)| !positive(&l.slope) || !fits(&l.intercept)) {
                    let remedy = "give a slope between 0.001 and 1000 and an intercept of at most 1000";
                    return fault(&format!("findings.{key}"), "is no line".to_owned(), remedy);
                }
                Ok(Self(Rule::Lines(findings.iter().map(|f| lines.get(&f.key).copied()).collect())))
            }
            (CalibrationCard::Dirichlet { weights, intercept }, ModelOutputs::Groups(groups)) => {
                let n = groups.len();
                let is_square = weights.len() == n && intercept.len() == n && weights.iter().all(|row| row.len() == n);
                if !is_square || !weights.iter().flatten().chain(&intercept).all(fits) {
                    let remedy = "give a row of weights for each group and one intercept each, in output order";
                    return fault("weights", format!("are not {n} by {n} numbers with {n} intercepts"), remedy);
                }
                Ok(Self(Rule::Dirichlet { weights, intercept }))
            }
            (CalibrationCard::Platt { .. }, ModelOutputs::Groups(_)) => {
                fault("method", "\"platt\" is for findings".to_owned(), "use temperature or dirichlet for groups")
            }
            (CalibrationCard::Dirichlet { .. }, ModelOutputs::Findings(_)) => {
                fault("method", "\"dirichlet\" is for groups".to_owned(), "use temperature or platt for findings")
            }
        }
    }

    /// Calibrates a study's probabilities, in output order, in place.
    pub(super) fn apply(&self, values: &mut [f64]) {
        match &self.0 {
            Rule::TemperatureOfGroups(temperature) => temper(Purpose::Race, values, *temperature),
            Rule::Lines(lines) => {
                let lines = values.iter_mut().zip(lines);
                lines.filter_map(|(p, line)| Some((p, line.as_ref()?))).for_each(|(p, line)| line.apply(p));
            }
            Rule::Dirichlet { weights, intercept } => {
                let logs: Vec<f64> = values.iter().map(|p| p.max(P_MIN).ln()).collect();
                for ((p, row), b) in values.iter_mut().zip(weights).zip(intercept) {
                    *p = row.iter().zip(&logs).map(|(w, l)| w * l).sum::<f64>() + b;
                }
                softmax(values);
            }
        }
    }
}

impl Line {
    fn apply(self, p: &mut f64) {
        let logit = p.ln() - (-*p).ln_1p();
        let z = self.slope * logit + self.intercept;
        *p = 1.0 / (1.0 + (-z).exp());
    }
}

/// A study's probabilities at another temperature, in place: what a card's `temperature` does, and what it is fitted by.
pub fn temper(purpose: Purpose, values: &mut [f64], temperature: f64) {
    match purpose {
        Purpose::Race => {
            // The largest stays finite whatever T is; the others may vanish.
            values.iter_mut().for_each(|p| *p = p.ln() / temperature);
            softmax(values);
        }
        Purpose::Clinical => {
            let line = Line { slope: 1.0 / temperature, intercept: 0.0 };
            values.iter_mut().for_each(|p| line.apply(p));
        }
    }
}

#[cfg(test)]
#[path = "calibration_tests.rs"]
mod tests;
