//! Calibration and thresholds from the validation patients, and figures on patients that training never saw.
//!
//! Figures are at study level, by the card's aggregation and calibration, as in the node. Intervals of an AUC are
//! DeLong's, by patient where somebody has several studies; that of the mean over groups or findings is a bootstrap
//! over patients. Neighbours: `stats` computes, `calibrate` fits, `package` writes the card.

use std::collections::BTreeMap;

use crate::domain::{Precision, Probability, Purpose};
use crate::infer::{self, Activation, Aggregation};
use crate::stats;
use anyhow::Context;

use super::calibrate::{Scored, mean_loss, temperature};
use super::data::Dataset;
use super::fit::{Machine, predict, rows};
use super::nets::Network;
use super::recipe::{CalibrationRule, Recipe, ThresholdRule};
use super::split::Split;

/// What a model is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Per finding, in order; empty for a race model.
    pub thresholds: Vec<FindingThreshold>,
    /// Of study scores, where the recipe asks for it.
    pub temperature: Option<f64>,
    /// Name to figure, on the test patients.
    pub metrics: BTreeMap<String, f64>,
}

/// The decision threshold of a finding.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingThreshold {
    pub key: String,
    pub threshold: Probability,
}

/// A study's probabilities, what is true of it, and its patient's group.
struct Study {
    values: Vec<f64>,
    truth: Vec<Option<bool>>,
    group: String,
    /// Number of the patient.
    patient: usize,
}

/// Draws of the bootstrap.
const DRAWS: u64 = 1000;
/// Bins of the calibration error.
const BINS: usize = 10;

/// How outputs become probabilities: networks are trained on logits.
pub(super) fn activation(purpose: Purpose) -> Activation {
    match purpose {
        Purpose::Race => Activation::LogitsSoftmax,
        Purpose::Clinical => Activation::LogitsSigmoid,
    }
}

/// Finds thresholds on the validation part and measures on the test part.
pub fn evaluate(
    network: &Network,
    dataset: &Dataset,
    split: &Split,
    recipe: &Recipe,
    machine: &Machine,
) -> anyhow::Result<Evaluation> {
    let mut validation = studies(network, dataset, &split.validation, recipe, machine)?;
    let mut test = studies(network, dataset, &split.test, recipe, machine)?;
    let mut metrics = BTreeMap::from([("test_studies".to_owned(), test.len() as f64)]);
    let temperature = match recipe.calibration.method {
        CalibrationRule::None => None,
        CalibrationRule::Temperature => Some(calibrate(&mut validation, &mut test, recipe, &mut metrics)),
    };
    let mut thresholds = Vec::new();
    for (i, finding) in recipe.output.findings.iter().enumerate() {
        let (scores, truth, _) = known(&validation, i);
        let threshold = threshold(finding.threshold, &scores, &truth);
        let threshold = Probability::new(threshold).with_context(|| format!("no threshold for {}", finding.key))?;
        thresholds.push(FindingThreshold { key: finding.key.clone(), threshold });
    }
    let mut aucs = Vec::new();
    for (i, key) in recipe.keys().iter().enumerate() {
        let (scores, truth, patients) = known(&test, i);
        let estimate = if has_repeats(&patients) {
            stats::delong_clustered(&scores, &truth, &patients)
        } else {
            stats::delong(&scores, &truth)
        };
        let estimate = estimate.with_context(|| format!("too few test studies for {key}"))?;
        metrics.insert(format!("auc_{key}"), rounded(estimate.auc));
        metrics.insert(format!("auc_{key}_lower"), rounded(estimate.lower));
        metrics.insert(format!("auc_{key}_upper"), rounded(estimate.upper));
        aucs.push(estimate.auc);
        if let Some(found) = thresholds.get(i) {
            by_group(&test, i, key, found.threshold.get(), &mut metrics);
        }
    }
    metrics.insert("auc_macro".to_owned(), rounded(aucs.iter().sum::<f64>() / aucs.len() as f64));
    if let Some((lower, upper)) = macro_interval(&test, recipe.keys().len(), recipe.seed) {
        metrics.insert("auc_macro_lower".to_owned(), rounded(lower));
        metrics.insert("auc_macro_upper".to_owned(), rounded(upper));
    }
    Ok(Evaluation { thresholds, temperature, metrics })
}

/// Fits the temperature on the validation studies and applies it to both parts; what it changes on the test studies goes
/// to the figures.
fn calibrate(
    validation: &mut [Study],
    test: &mut [Study],
    recipe: &Recipe,
    metrics: &mut BTreeMap<String, f64>,
) -> f64 {
    fn scored(studies: &[Study]) -> Vec<Scored<'_>> {
        studies.iter().map(|s| (s.values.as_slice(), s.truth.as_slice())).collect()
    }
    // As the card shows it.
    let found = (temperature(recipe.purpose, &scored(validation)) * 1e4).round() / 1e4;
    let error = |studies: &[Study]| {
        let of = |i| {
            let (scores, truth, _) = known(studies, i);
            stats::calibration_error(&scores, &truth, BINS).unwrap_or(f64::NAN)
        };
        let n = recipe.keys().len();
        (0..n).map(of).sum::<f64>() / n as f64
    };
    metrics.insert("calibration_error_before".to_owned(), rounded(error(test)));
    metrics.insert("log_loss_before".to_owned(), rounded(mean_loss(recipe.purpose, &scored(test), 1.0)));
    metrics.insert("log_loss".to_owned(), rounded(mean_loss(recipe.purpose, &scored(test), found)));
    for study in validation.iter_mut().chain(test.iter_mut()) {
        infer::temper(recipe.purpose, &mut study.values, found);
    }
    metrics.insert("calibration_error".to_owned(), rounded(error(test)));
    found
}

fn has_repeats(patients: &[usize]) -> bool {
    let mut sorted = patients.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// 95 % limits of the mean AUC over the outputs: percentiles over draws of patients, with all their studies.
fn macro_interval(studies: &[Study], outputs: usize, seed: u64) -> Option<(f64, f64)> {
    let patients: BTreeMap<usize, usize> =
        studies.iter().map(|s| s.patient).collect::<std::collections::BTreeSet<_>>().into_iter().zip(0..).collect();
    let bootstrap = stats::ClusterBootstrap { clusters: patients.len(), seed };
    let mean_auc = |_, times: &[f64]| {
        let one = |i: usize| {
            let drawn = studies.iter().filter_map(|s| Some((s.values[i], s.truth[i]?, times[patients[&s.patient]])));
            let repeated = drawn.flat_map(|(score, truth, times)| std::iter::repeat_n((score, truth), times as usize));
            let (scores, truth): (Vec<f64>, Vec<bool>) = repeated.unzip();
            stats::auc(&scores, &truth)
        };
        let aucs = (0..outputs).map(one).collect::<Option<Vec<f64>>>()?;
        Some(aucs.iter().sum::<f64>() / outputs as f64)
    };
    let mut means: Vec<f64> = bootstrap.map(DRAWS, mean_auc).into_iter().flatten().collect();
    means.sort_by(f64::total_cmp);
    Some((stats::quantile(&means, 0.025)?, stats::quantile(&means, 0.975)?))
}

/// False negative rate and false positive rate, overall and by group where there are at least 30 such studies.
fn by_group(studies: &[Study], i: usize, key: &str, threshold: f64, metrics: &mut BTreeMap<String, f64>) {
    let mut groups: Vec<&str> = studies.iter().map(|s| s.group.as_str()).filter(|g| !g.is_empty()).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in std::iter::once(None).chain(groups.into_iter().map(Some)) {
        for (name, truth) in [("fnr", true), ("fpr", false)] {
            let of = |s: &&Study| s.truth[i] == Some(truth) && group.is_none_or(|g| s.group == g);
            let (mut n, mut wrong) = (0u32, 0u32);
            for study in studies.iter().filter(of) {
                n += 1;
                wrong += u32::from((study.values[i] >= threshold) != truth);
            }
            if n >= 30 {
                let name = group.map_or(format!("{name}_{key}"), |g| format!("{name}_{key}_{g}"));
                metrics.insert(name, rounded(f64::from(wrong) / f64::from(n)));
            }
        }
    }
}

fn studies(
    network: &Network,
    dataset: &Dataset,
    positions: &[usize],
    recipe: &Recipe,
    machine: &Machine,
) -> anyhow::Result<Vec<Study>> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for position in positions {
        let next = numbers.len();
        numbers.entry(&dataset.samples[*position].patient).or_insert(next);
    }
    // Tables call the first study of everybody `study1`: a study is one of its patient.
    let mut images: BTreeMap<(&str, &str), Vec<(usize, Vec<f64>)>> = BTreeMap::new();
    // As the node computes it, whatever the network was trained in.
    let logits = predict(network, dataset, positions, machine, Precision::Fp32)?;
    for (position, row) in positions.iter().zip(rows(&logits)?) {
        let values = infer::probabilities(activation(dataset.purpose), &row)?;
        let sample = &dataset.samples[*position];
        images.entry((&sample.study, &sample.patient)).or_default().push((*position, values));
    }
    let study = |images: Vec<(usize, Vec<f64>)>| {
        let sample = &dataset.samples[images[0].0];
        let column = |i: usize| images.iter().map(move |(_, values)| values[i]);
        let values = (0..dataset.outputs)
            .map(|i| match recipe.aggregation.method {
                Aggregation::Mean => column(i).sum::<f64>() / images.len() as f64,
                Aggregation::Max => column(i).fold(0.0, f64::max),
            })
            .collect();
        let truth = |i: usize| images.iter().find_map(|(at, _)| dataset.samples[*at].target.is(i));
        let truth = (0..dataset.outputs).map(truth).collect();
        Study { values, truth, group: sample.group.clone(), patient: numbers[sample.patient.as_str()] }
    };
    Ok(images.into_values().map(study).collect())
}

/// Scores, truth and patients of output `i` where the truth is known.
fn known(studies: &[Study], i: usize) -> (Vec<f64>, Vec<bool>, Vec<usize>) {
    let known = || studies.iter().filter_map(|s| Some((s.values[i], s.truth[i]?, s.patient)));
    (known().map(|k| k.0).collect(), known().map(|k| k.1).collect(), known().map(|k| k.2).collect())
}

fn threshold(rule: ThresholdRule, scores: &[f64], truth: &[bool]) -> f64 {
    let mut candidates = scores.to_vec();
    candidates.sort_by(f64::total_cmp);
    candidates.dedup();
    let share = |at: f64, of: bool| {
        let (hit, n) = scores
            .iter()
            .zip(truth)
            .filter(|(_, t)| **t == of)
            .fold((0, 0), |(hit, n), (s, _)| (hit + i32::from((*s >= at) == of), n + 1));
        f64::from(hit) / f64::from(n.max(1))
    };
    let chosen = match rule {
        ThresholdRule::Fixed(value) => return value.get(),
        ThresholdRule::Youden => candidates.iter().copied().max_by(|a, b| {
            let gain = |t: f64| share(t, true) + share(t, false);
            gain(*a).total_cmp(&gain(*b))
        }),
        ThresholdRule::Sensitivity(wanted) => candidates.iter().copied().rfind(|t| share(*t, true) >= wanted.get()),
    };
    // Four digits are what the card can show; downwards, so that no validation positive is lost by rounding.
    (chosen.unwrap_or(0.5) * 1e4).floor() / 1e4
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_follow_their_rules() {
        let scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
        let truth = [false, false, false, true, false, true, true, true];
        let sensitivity = |v| ThresholdRule::Sensitivity(Probability::new(v).unwrap());
        let check = |rule, expected: f64| assert_eq!(threshold(rule, &scores, &truth), expected, "{rule:?}");
        check(sensitivity(1.0), 0.4);
        check(sensitivity(0.75), 0.6);
        check(sensitivity(0.5), 0.7);
        check(ThresholdRule::Youden, 0.6);
        check(ThresholdRule::Fixed(Probability::new(0.33).unwrap()), 0.33);
    }
}
