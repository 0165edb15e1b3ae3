//! Calibration and thresholds from the validation patients, and figures on patients that training never saw.
//!
//! Figures are at study level, by the card's aggregation and calibration, as in the node; AUCs are of scores before
//! calibration, which may make equal what was not. Intervals of an AUC are
//! DeLong's, by patient where somebody has several studies; that of the mean over groups or findings is a bootstrap
//! over patients. Neighbours: `stats` computes, `calibrate` fits, `package` writes the card.

use std::collections::{BTreeMap, BTreeSet};

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

/// What stands for the mean over all outputs in the names of figures.
const MACRO: &str = "macro";
/// Rates of a finding, with the truth of those that they are of.
const RATES: [(&str, bool); 2] = [("fnr", true), ("fpr", false)];
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

/// Why not every figure of a recipe has a name of its own: `opacity` has limits, whose names a finding `opacity_lower`
/// would take. `groups`: of the patients.
pub fn name_clash(recipe: &Recipe, groups: &BTreeSet<&str>) -> Option<String> {
    let mut names = BTreeSet::new();
    let mut is_new = |name: String| if names.insert(name.clone()) { None } else { Some(name) };
    let discrimination = recipe.keys().into_iter().chain([MACRO]).flat_map(|key| limited(&format!("auc_{key}")));
    let of_finding = |key: &str| {
        let of_groups = std::iter::once(None).chain(groups.iter().map(|group| Some(*group)));
        of_groups.flat_map(|group| RATES.map(|(rate, _)| rate_name(rate, key, group))).collect::<Vec<_>>()
    };
    let rates = recipe.output.findings.iter().flat_map(|finding| of_finding(&finding.key));
    let shared = discrimination.chain(rates).find_map(&mut is_new)?;
    Some(format!("output: two figures of the card would be called {shared}; choose keys that do not differ by that"))
}

/// Finds thresholds on the validation part and measures on the test part.
pub fn evaluate(
    network: &Network,
    dataset: &Dataset,
    split: &Split,
    recipe: &Recipe,
    machine: &Machine,
) -> anyhow::Result<Evaluation> {
    let validation = studies(network, dataset, &split.validation, recipe, machine)?;
    let test = studies(network, dataset, &split.test, recipe, machine)?;
    measure(validation, test, recipe)
}

fn measure(mut validation: Vec<Study>, mut test: Vec<Study>, recipe: &Recipe) -> anyhow::Result<Evaluation> {
    let mut metrics = BTreeMap::from([("test_studies".to_owned(), test.len() as f64)]);
    discrimination(&test, recipe, &mut metrics)?;
    let temperature = match recipe.calibration.method {
        CalibrationRule::None => None,
        CalibrationRule::Temperature => calibrate(&mut validation, &mut test, recipe, &mut metrics),
    };
    let mut thresholds = Vec::new();
    for (i, finding) in recipe.output.findings.iter().enumerate() {
        let (scores, truth, _) = known(&validation, i);
        let threshold = threshold(finding.threshold, &scores, &truth).and_then(|t| Ok(Probability::new(t)?));
        let threshold = threshold.with_context(|| format!("no threshold for {}", finding.key))?;
        by_group(&test, i, &finding.key, threshold.get(), &mut metrics);
        thresholds.push(FindingThreshold { key: finding.key.clone(), threshold });
    }
    Ok(Evaluation { thresholds, temperature, metrics })
}

/// How well studies are told apart: the AUC of each output and their mean, with limits.
fn discrimination(test: &[Study], recipe: &Recipe, metrics: &mut BTreeMap<String, f64>) -> anyhow::Result<()> {
    let mut aucs = Vec::new();
    for (i, key) in recipe.keys().iter().enumerate() {
        let (scores, truth, patients) = known(test, i);
        let estimate = if has_repeats(&patients) {
            stats::delong_clustered(&scores, &truth, &patients)
        } else {
            stats::delong(&scores, &truth)
        };
        let estimate = estimate.with_context(|| format!("too few test studies for {key}"))?;
        let figures = [estimate.auc, estimate.lower, estimate.upper].map(rounded);
        metrics.extend(limited(&format!("auc_{key}")).into_iter().zip(figures));
        aucs.push(estimate.auc);
    }
    let mean = aucs.iter().sum::<f64>() / aucs.len() as f64;
    let limits = macro_interval(test, recipe.keys().len(), recipe.seed);
    let figures = std::iter::once(mean).chain(limits.into_iter().flat_map(|(lower, upper)| [lower, upper]));
    metrics.extend(limited(&format!("auc_{MACRO}")).into_iter().zip(figures.map(rounded)));
    Ok(())
}

/// Names of a figure and its limits.
fn limited(name: &str) -> [String; 3] {
    [name.to_owned(), format!("{name}_lower"), format!("{name}_upper")]
}

fn rate_name(rate: &str, key: &str, group: Option<&str>) -> String {
    group.map_or(format!("{rate}_{key}"), |group| format!("{rate}_{key}_{group}"))
}

/// Fits the temperature on the validation studies and applies it to both parts; what it changes on the test studies goes
/// to the figures. Where they tell none, scores stay as they are.
fn calibrate(
    validation: &mut [Study],
    test: &mut [Study],
    recipe: &Recipe,
    metrics: &mut BTreeMap<String, f64>,
) -> Option<f64> {
    fn scored(studies: &[Study]) -> Vec<Scored<'_>> {
        studies.iter().map(|s| (s.values.as_slice(), s.truth.as_slice())).collect()
    }
    let found = match temperature(recipe.purpose, &scored(validation)) {
        // As the card shows it.
        Ok(found) => rounded(found),
        Err(reason) => {
            tracing::warn!(reason, "no temperature is fitted: the package has no calibration");
            return None;
        }
    };
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
    Some(found)
}

fn has_repeats(patients: &[usize]) -> bool {
    let mut sorted = patients.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// 95 % limits of the mean AUC over the outputs: percentiles over draws of patients, with all their studies.
fn macro_interval(studies: &[Study], outputs: usize, seed: u64) -> Option<(f64, f64)> {
    let patients: BTreeMap<usize, usize> =
        studies.iter().map(|s| s.patient).collect::<BTreeSet<_>>().into_iter().zip(0..).collect();
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
        for (rate, truth) in RATES {
            let of = |s: &&Study| s.truth[i] == Some(truth) && group.is_none_or(|g| s.group == g);
            let (mut n, mut wrong) = (0u32, 0u32);
            for study in studies.iter().filter(of) {
                n += 1;
                wrong += u32::from((study.values[i] >= threshold) != truth);
            }
            if n >= 30 {
                metrics.insert(rate_name(rate, key, group), rounded(f64::from(wrong) / f64::from(n)));
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

/// The threshold that the rule chooses among the scores, of these the highest where several are as good.
fn threshold(rule: ThresholdRule, scores: &[f64], truth: &[bool]) -> anyhow::Result<f64> {
    let mut sorted: Vec<(f64, bool)> = scores.iter().copied().zip(truth.iter().copied()).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = truth.iter().filter(|t| **t).count();
    let negatives = truth.len() - positives;
    let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    // From the highest score down: what lies at or above each.
    let (mut found, mut wrong) = (0, 0);
    let mut candidates = sorted.chunk_by(|a, b| a.0 == b.0).map(|equal| {
        let hits = equal.iter().filter(|(_, truth)| *truth).count();
        (found, wrong) = (found + hits, wrong + equal.len() - hits);
        (equal[0].0, share(found, positives), share(negatives - wrong, negatives))
    });
    let chosen = match rule {
        ThresholdRule::Fixed(value) => return Ok(value.get()),
        ThresholdRule::Youden => {
            // The last of equals is taken: the highest.
            let all: Vec<_> = candidates.collect();
            all.into_iter().rev().max_by(|a, b| (a.1 + a.2).total_cmp(&(b.1 + b.2)))
        }
        ThresholdRule::Sensitivity(wanted) => candidates.find(|(_, sensitivity, _)| *sensitivity >= wanted.get()),
    };
    let (chosen, ..) = chosen.context("no validation study reaches what the recipe asks for")?;
    anyhow::ensure!(chosen > 0.0, "it would be 0, at which every study is positive: ask for less, or fix a threshold");
    // What a card can show: four digits, or so many that three count of its distance from 0 or 1; downwards, so that no
    // validation positive is lost by rounding.
    let distance = chosen.min((1.0 - chosen).max(1e-12));
    let scale = 10f64.powi((2 - distance.log10().floor() as i32).max(4));
    let steps = (chosen * scale).floor();
    Ok(if steps / scale <= chosen { steps / scale } else { (steps - 1.0) / scale })
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipe::fixtures;

    const OWN: &str = r#"
name = "toy"
version = "1"
manufacturer = "Example Imaging"
purpose = "clinical"
seed = 1
[data]
manifest = "table.csv"
[[output.findings]]
key = "mass"
threshold = "youden"
code = { value = "4147007", scheme = "SCT", meaning = "Mass" }
"#;

    fn recipe(more: &str) -> Recipe {
        fixtures::recipe(&[OWN, more, fixtures::TOY, fixtures::CARD].concat()).unwrap()
    }

    fn part(rows: &[(f64, bool)], times: usize) -> Vec<Study> {
        let rows = rows.iter().cycle().take(rows.len() * times).enumerate();
        rows.map(|(patient, (score, truth))| Study {
            values: vec![*score],
            truth: vec![Some(*truth)],
            group: String::new(),
            patient,
        })
        .collect()
    }

    /// Thresholds and temperature from one part, figures from the other, by hand.
    #[test]
    fn what_is_fitted_comes_from_the_validation_part_and_figures_from_the_test_part() {
        // On the validation part .7 parts them but for one in four of either; on the test part .4 would be best.
        let validation = [
            (0.9, true),
            (0.8, true),
            (0.7, true),
            (0.2, true),
            (0.9, false),
            (0.3, false),
            (0.2, false),
            (0.1, false),
        ];
        let test = [
            (0.4, true),
            (0.5, true),
            (0.6, true),
            (0.8, true),
            (0.1, false),
            (0.2, false),
            (0.3, false),
            (0.95, false),
        ];
        let found = measure(part(&validation, 10), part(&test, 10), &recipe("")).unwrap();
        assert_eq!((found.thresholds[0].threshold.get(), found.temperature), (0.7, None));
        // Twelve of sixteen pairs are in order.
        assert_eq!((found.metrics["auc_mass"], found.metrics["test_studies"]), (0.75, 80.0));
        assert_eq!((found.metrics["fnr_mass"], found.metrics["fpr_mass"]), (0.75, 0.25));

        let calibrated = recipe("[calibration]\nmethod = \"temperature\"");
        let tempered = measure(part(&validation, 10), part(&test, 10), &calibrated).unwrap();
        let t = tempered.temperature.unwrap();
        // Where the derivative of the validation part's likelihood is 0; on the test part it would be elsewhere.
        let logit = |p: f64| (p / (1.0 - p)).ln();
        let slope = |rows: &[(f64, bool)]| -> f64 {
            let one = |(p, truth): &(f64, bool)| {
                let z = logit(*p);
                z * (1.0 / (1.0 + (-z / t).exp()) - f64::from(u8::from(*truth)))
            };
            rows.iter().map(one).sum()
        };
        assert!(
            slope(&validation).abs() < 1e-3 && slope(&test).abs() > 0.1,
            "{t} {} {}",
            slope(&validation),
            slope(&test)
        );
        let expected = 1.0 / (1.0 + (-logit(0.7) / t).exp());
        let threshold = tempered.thresholds[0].threshold.get();
        assert!(threshold <= expected && expected - threshold < 1e-4, "{threshold} {expected}");
        for figure in ["auc_mass", "auc_mass_lower", "fnr_mass", "fpr_mass"] {
            assert_eq!(tempered.metrics[figure], found.metrics[figure], "{figure}");
        }
        assert!(tempered.metrics["log_loss"] != tempered.metrics["log_loss_before"]);
    }

    #[test]
    fn no_two_figures_share_a_name() {
        let second = "[[output.findings]]\nkey = \"KEY\"\nthreshold = \"youden\"\n\
                      code = { value = \"4147007\", scheme = \"SCT\", meaning = \"Mass\" }\n";
        let of =
            |key: &str| fixtures::recipe(&[OWN, &second.replace("KEY", key), fixtures::TOY, fixtures::CARD].concat());
        for (key, shared) in [("mass_lower", "auc_mass_lower"), ("macro", "auc_macro")] {
            let error = of(key).unwrap_err().to_string();
            assert!(error.contains(&format!("would be called {shared};")), "{error}");
        }
        // Which groups there are, the table of images says.
        let recipe = of("mass_left").unwrap();
        assert_eq!(name_clash(&recipe, &BTreeSet::from(["right"])), None);
        assert!(name_clash(&recipe, &BTreeSet::from(["left"])).unwrap().contains("fnr_mass_left;"));
    }

    #[test]
    fn thresholds_follow_their_rules() {
        let scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
        let truth = [false, false, false, true, false, true, true, true];
        let sensitivity = |v| ThresholdRule::Sensitivity(Probability::new(v).unwrap());
        let check = |rule, expected: f64| assert_eq!(threshold(rule, &scores, &truth).unwrap(), expected, "{rule:?}");
        check(sensitivity(1.0), 0.4);
        check(sensitivity(0.75), 0.6);
        check(sensitivity(0.5), 0.7);
        check(ThresholdRule::Youden, 0.6);
        check(ThresholdRule::Fixed(Probability::new(0.33).unwrap()), 0.33);
        // Rare findings have small scores; one that every study reaches is none.
        let small = [0.000_012_345, 0.000_054_321];
        assert_eq!(threshold(ThresholdRule::Youden, &small, &[false, true]).unwrap(), 0.000_054_3);
        assert_eq!(threshold(ThresholdRule::Youden, &[0.012_345, 0.3], &[true, true]).unwrap(), 0.0123);
        // As do scores near 1, which four digits would not part.
        let large = [0.999_912, 0.999_987_654, 1.0];
        assert_eq!(threshold(ThresholdRule::Youden, &large, &[false, true, true]).unwrap(), 0.999_987_6);
        assert_eq!(threshold(ThresholdRule::Youden, &large, &[false, false, true]).unwrap(), 1.0);
        assert!(
            threshold(sensitivity(1.0), &[0.0, 0.5], &[true, false]).unwrap_err().to_string().contains("would be 0")
        );
        assert!(threshold(ThresholdRule::Youden, &[], &[]).is_err());
    }
}
