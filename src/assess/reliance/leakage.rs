//! Leakage (SPLIT, Glocker 2023): how well race can be read from a clinical model's frozen features by a linear head.
//!
//! The head is a ridge regression on standardised features, out of fold by patient. Its predictions are a fixed matrix
//! times the labels, so that heads of exchanged labels cost a product each. Limits come from a bootstrap of patients. The
//! negative controls: heads of labels that were exchanged between patients (whose mean AUC must be one half), and the same
//! head on a network that was never trained (which the model must beat). Neighbours: commands read tables of features.
//! Left out: reliance itself; that features hold race does not say that a finding uses it.

use std::collections::BTreeMap;

use nalgebra::{DMatrix, DVector};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{NoLine, adjusted};
use crate::domain::{Control, EvidenceLine, Interval, LineKind};
use crate::stats::{ClusterBootstrap, auc, quantile};

/// Features of images: one row each, all of one length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    /// Whose image it is, and the self-reported group of that patient.
    pub patients: Vec<String>,
    pub groups: Vec<String>,
    pub rows: Vec<Vec<f64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeakageOptions {
    pub permutations: u32,
    pub bootstrap: u32,
    pub seed: u64,
}

impl Default for LeakageOptions {
    fn default() -> Self {
        Self { permutations: 199, bootstrap: 1000, seed: 1 }
    }
}

const FOLDS: usize = 5;
/// Patients of a group, and of all others, that are needed.
const PATIENTS_MIN: usize = 30;
/// The matrix of all predictions has this many rows and columns at most.
const IMAGES_MAX: usize = 8000;
const FEATURES_MAX: usize = 4096;
/// Of the mean variance of a feature: enough to have a solution where there are more features than images.
const RIDGE: f64 = 0.1;

/// A line for each group that is large enough. `untrained`: the same images, in the same order, by a network of the same
/// kind that was never trained.
pub fn leakage(
    model: &str,
    features: &Features,
    untrained: Option<&Features>,
    options: &LeakageOptions,
) -> Result<Vec<EvidenceLine>, NoLine> {
    let cohort = Cohort::of(features)?;
    if untrained.is_some_and(|other| other.patients != features.patients || other.groups != features.groups) {
        return Err(NoLine::Unusable("features of the untrained network are of other images".to_owned()));
    }
    let folds = cohort.folds(options.seed);
    let head = Head::of(&features.rows, &cohort, &folds)?;
    let other = untrained.map(|other| Head::of(&other.rows, &cohort, &folds)).transpose()?;
    let mut lines = Vec::new();
    for group in cohort.large_groups() {
        let labels: Vec<bool> = cohort.group_of.iter().map(|g| g == group).collect();
        let Some(estimate) = head.auc(&cohort, &labels) else { continue };
        let null = cohort.exchanged(&labels, &head, options);
        let p = (1 + null.iter().filter(|a| **a >= estimate).count()) as f64 / (1 + null.len()) as f64;
        let middle = null.iter().sum::<f64>() / null.len().max(1) as f64;
        let (value, beaten) = cohort.limits(&labels, &head, other.as_ref(), estimate, options);
        lines.push(EvidenceLine {
            kind: LineKind::Leakage,
            model: model.to_owned(),
            finding: None,
            group: group.clone(),
            value,
            p,
            control: match beaten {
                None => Control::Absent,
                Some(true) if (middle - 0.5).abs() < 0.05 => Control::Passed,
                Some(_) => Control::Failed,
            },
            patients: cohort.group_of.len() as u64,
        });
    }
    if lines.is_empty() {
        return Err(NoLine::Unusable(format!("no group has {PATIENTS_MIN} patients beside as many others")));
    }
    Ok(adjusted(lines))
}

/// Weights of a linear head on these features for each set of labels (one a row), by the same regression; none where the
/// features have no variation. Offsets are left out.
pub fn heads(rows: &[Vec<f64>], labels: &[Vec<bool>]) -> Option<Vec<Vec<f64>>> {
    let width = rows.first()?.len();
    let all: Vec<usize> = (0..rows.len()).collect();
    let scale = scale(rows, &all, width)?;
    // Predictions for the unit vectors of the features are the weights.
    let unit = |at: usize| (0..width).map(|j| scale[j].0 + if j == at { 1.0 } else { 0.0 }).collect();
    let units: Vec<Vec<f64>> = (0..width).map(unit).collect();
    let operator = operator_with(rows, &all, &units, &scale)?;
    let head = |labels: &Vec<bool>| {
        let number = |label: &bool| if *label { 1.0 } else { 0.0 };
        let mean = labels.iter().map(number).sum::<f64>() / labels.len().max(1) as f64;
        let centred = DVector::from_iterator(labels.len(), labels.iter().map(|label| number(label) - mean));
        (labels.len() == rows.len()).then(|| (&operator * centred).iter().copied().collect())
    };
    labels.iter().map(head).collect()
}

struct Cohort {
    /// The patient of each image, by position.
    patient_of: Vec<usize>,
    group_of: Vec<String>,
}

impl Cohort {
    fn of(features: &Features) -> Result<Self, NoLine> {
        let n = features.rows.len();
        let unusable = |why: String| Err(NoLine::Unusable(why));
        if features.patients.len() != n || features.groups.len() != n {
            return unusable("patients, groups and features differ in number".to_owned());
        }
        if n > IMAGES_MAX {
            return unusable(format!("{n} images, at most {IMAGES_MAX} are possible: take one of each patient"));
        }
        let mut positions: BTreeMap<&String, usize> = BTreeMap::new();
        let (mut patient_of, mut group_of) = (Vec::new(), Vec::<String>::new());
        for (patient, group) in features.patients.iter().zip(&features.groups) {
            let next = positions.len();
            let position = *positions.entry(patient).or_insert(next);
            if position == next {
                group_of.push(group.clone());
            } else if group_of[position] != *group {
                return unusable("a patient has two groups: leave such patients out".to_owned());
            }
            patient_of.push(position);
        }
        if group_of.len() < 2 * PATIENTS_MIN {
            return Err(NoLine::TooFew(group_of.len(), 2 * PATIENTS_MIN));
        }
        Ok(Self { patient_of, group_of })
    }

    fn large_groups(&self) -> Vec<&String> {
        let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
        self.group_of.iter().for_each(|group| *counts.entry(group).or_default() += 1);
        let all = self.group_of.len();
        counts.into_iter().filter(|(_, n)| *n >= PATIENTS_MIN && all - n >= PATIENTS_MIN).map(|(g, _)| g).collect()
    }

    /// The fold of each patient.
    fn folds(&self, seed: u64) -> Vec<usize> {
        let mut folds: Vec<usize> = (0..self.group_of.len()).map(|i| i % FOLDS).collect();
        folds.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        folds
    }

    fn by_image(&self, of_patient: &[bool]) -> Vec<bool> {
        self.patient_of.iter().map(|patient| of_patient[*patient]).collect()
    }

    /// AUCs of heads that are fitted to labels exchanged between patients.
    fn exchanged(&self, labels: &[bool], head: &Head, options: &LeakageOptions) -> Vec<f64> {
        let draw = |draw: u32| {
            let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
            rng.set_stream(u64::from(draw) + 1);
            let mut labels = labels.to_vec();
            labels.shuffle(&mut rng);
            head.auc(self, &labels)
        };
        (0..options.permutations).filter_map(draw).collect()
    }

    /// Limits of the AUC, and whether it is above that of the untrained network, over a bootstrap of patients.
    fn limits(
        &self,
        labels: &[bool],
        head: &Head,
        other: Option<&Head>,
        estimate: f64,
        options: &LeakageOptions,
    ) -> (Interval, Option<bool>) {
        let scores = head.scores(self, labels);
        let others = other.map(|head| head.scores(self, labels));
        let labels = self.by_image(labels);
        let mut images: Vec<Vec<usize>> = vec![Vec::new(); self.group_of.len()];
        self.patient_of.iter().enumerate().for_each(|(image, patient)| images[*patient].push(image));
        let bootstrap = ClusterBootstrap { clusters: images.len(), seed: options.seed.wrapping_add(1) };
        let draws = bootstrap.map(u64::from(options.bootstrap), |_, multiplicities| {
            let times = multiplicities.iter().zip(&images);
            let drawn: Vec<usize> =
                times.flat_map(|(m, own)| std::iter::repeat_n(own, *m as usize).flatten().copied()).collect();
            let labels: Vec<bool> = drawn.iter().map(|i| labels[*i]).collect();
            let of = |scores: &[f64]| auc(&drawn.iter().map(|i| scores[*i]).collect::<Vec<_>>(), &labels);
            Some((of(&scores)?, others.as_deref().and_then(of)))
        });
        let draws: Vec<(f64, Option<f64>)> = draws.into_iter().flatten().collect();
        let at = |mut values: Vec<f64>, p: f64| {
            values.sort_by(f64::total_cmp);
            quantile(&values, p).unwrap_or(0.5)
        };
        let own: Vec<f64> = draws.iter().map(|(a, _)| *a).collect();
        let value = Interval { estimate, lower: at(own.clone(), 0.025), upper: at(own, 0.975) };
        let differences: Vec<f64> = draws.iter().filter_map(|(a, b)| Some(a - (*b)?)).collect();
        (value, other.map(|_| !differences.is_empty() && at(differences, 0.025) > 0.0))
    }
}

/// Out-of-fold predictions, as a matrix that is applied to labels.
struct Head {
    /// Of each fold: its images, the others, and the matrix from labels of these to predictions of those.
    folds: Vec<(Vec<usize>, Vec<usize>, DMatrix<f64>)>,
}

impl Head {
    fn of(rows: &[Vec<f64>], cohort: &Cohort, folds: &[usize]) -> Result<Self, NoLine> {
        let width = rows.first().map_or(0, Vec::len);
        let fits = |row: &Vec<f64>| row.len() == width && row.iter().all(|v| v.is_finite());
        if rows.len() != cohort.patient_of.len() || !(1..=FEATURES_MAX).contains(&width) || !rows.iter().all(fits) {
            let why = format!("rows need the same 1 to {FEATURES_MAX} numbers each");
            return Err(NoLine::Unusable(why));
        }
        let fold = |fold: usize| {
            let (inside, outside): (Vec<usize>, Vec<usize>) =
                (0..rows.len()).partition(|image| folds[cohort.patient_of[*image]] == fold);
            let operator = operator(rows, &inside, &outside)?;
            Some((inside, outside, operator))
        };
        let folds: Option<Vec<_>> = (0..FOLDS).map(fold).collect();
        folds.map(|folds| Self { folds }).ok_or_else(|| NoLine::Unusable("the features have no variation".to_owned()))
    }

    fn scores(&self, cohort: &Cohort, labels: &[bool]) -> Vec<f64> {
        let labels = cohort.by_image(labels);
        let mut scores = vec![0.0; labels.len()];
        for (inside, outside, operator) in &self.folds {
            let number = |image: &usize| if labels[*image] { 1.0 } else { 0.0 };
            let mean = outside.iter().map(number).sum::<f64>() / outside.len().max(1) as f64;
            let centred = DVector::from_iterator(outside.len(), outside.iter().map(|i| number(i) - mean));
            // Without the mean, which is lower where more of the labels were left out.
            let predicted = operator * centred;
            inside.iter().zip(predicted.iter()).for_each(|(image, score)| scores[*image] = *score);
        }
        scores
    }

    fn auc(&self, cohort: &Cohort, labels: &[bool]) -> Option<f64> {
        auc(&self.scores(cohort, labels), &cohort.by_image(labels))
    }
}

/// The matrix that takes centred labels of the images `outside` to predictions of those `inside`.
fn operator(rows: &[Vec<f64>], inside: &[usize], outside: &[usize]) -> Option<DMatrix<f64>> {
    let scale = scale(rows, outside, rows.first()?.len())?;
    let inside: Vec<Vec<f64>> = inside.iter().map(|i| rows[*i].clone()).collect();
    operator_with(rows, outside, &inside, &scale)
}

/// Mean of each feature over these images, and one over its spread; none where no feature varies.
fn scale(rows: &[Vec<f64>], images: &[usize], width: usize) -> Option<Vec<(f64, f64)>> {
    let n = images.len() as f64;
    let of = |at: usize| {
        let mean = images.iter().map(|i| rows[*i][at]).sum::<f64>() / n;
        let variance = images.iter().map(|i| (rows[*i][at] - mean).powi(2)).sum::<f64>() / n;
        (mean, if variance > 1e-18 { 1.0 / variance.sqrt() } else { 0.0 })
    };
    let scale: Vec<(f64, f64)> = (0..width).map(of).collect();
    scale.iter().any(|(_, by)| *by > 0.0).then_some(scale)
}

/// Ridge regression in the form that is smaller.
fn operator_with(
    rows: &[Vec<f64>],
    outside: &[usize],
    inside: &[Vec<f64>],
    scale: &[(f64, f64)],
) -> Option<DMatrix<f64>> {
    let width = scale.len();
    let number = |row: &Vec<f64>, j: usize| (row[j] - scale[j].0) * scale[j].1;
    let test = DMatrix::from_fn(inside.len(), width, |i, j| number(&inside[i], j));
    let fitted = DMatrix::from_fn(outside.len(), width, |i, j| number(&rows[outside[i]], j));
    let ridge = RIDGE * outside.len() as f64;
    if width <= outside.len() {
        let mut gram = fitted.tr_mul(&fitted);
        (0..width).for_each(|i| gram[(i, i)] += ridge);
        Some(test * gram.cholesky()?.solve(&fitted.transpose()))
    } else {
        let mut gram = &fitted * fitted.transpose();
        (0..outside.len()).for_each(|i| gram[(i, i)] += ridge);
        Some(gram.cholesky()?.solve(&(&fitted * test.transpose())).transpose())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand_distr::{Distribution, StandardNormal};

    /// Two images of each patient; the group moves some features by `strength` standard deviations.
    fn features(patients: usize, width: usize, strength: f64, seed: u64) -> Features {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut features = Features::default();
        for patient in 0..patients {
            let group = patient % 3 == 0;
            let own: Vec<f64> = (0..width).map(|_| StandardNormal.sample(&mut rng)).collect();
            for _ in 0..2 {
                let moved = |(at, v): (usize, &f64)| v + if group && at < 2 { strength } else { 0.0 };
                let row = own.iter().enumerate().map(moved);
                let noise = |v: f64| v + 0.3 * Distribution::<f64>::sample(&StandardNormal, &mut rng);
                features.rows.push(row.map(noise).collect());
                features.patients.push(patient.to_string());
                features.groups.push(if group { "A" } else { "B" }.to_owned());
            }
        }
        features
    }

    fn options(seed: u64) -> LeakageOptions {
        LeakageOptions { permutations: 99, bootstrap: 200, seed }
    }

    #[test]
    fn leakage_is_monotone_in_what_is_planted_and_one_half_where_nothing_is() {
        let mut before = 0.5;
        for strength in [0.5, 1.0, 2.0] {
            let lines = leakage("m", &features(240, 8, strength, 1), None, &options(1)).unwrap();
            assert!(lines[0].value.estimate > before && lines[0].p < 0.05, "{strength}: {lines:?}");
            assert_eq!((lines.len(), lines[0].patients, lines[0].control), (2, 240, Control::Absent));
            before = lines[0].value.estimate;
        }
        let (mut rejected, mut held) = (0, 0);
        for seed in 0..40 {
            let line = leakage("m", &features(120, 8, 0.0, seed), None, &options(seed)).unwrap().remove(0);
            rejected += u32::from(line.p / 2.0 <= 0.05);
            held += u32::from(line.value.lower <= 0.5);
        }
        // 2 of 40 expected; the standard error is 1.4.
        assert!(rejected <= 6 && held >= 34, "{rejected} rejected, {held} hold one half");
    }

    #[test]
    fn the_control_is_a_network_that_was_never_trained() {
        let trained = features(240, 8, 1.5, 1);
        let check = |strength, expected| {
            let untrained = Features { rows: features(240, 8, strength, 2).rows, ..trained.clone() };
            assert_eq!(
                leakage("m", &trained, Some(&untrained), &options(1)).unwrap()[0].control,
                expected,
                "{strength}"
            );
        };
        check(0.0, Control::Passed);
        check(1.5, Control::Failed);
        check(3.0, Control::Failed);
        let other = Features { patients: vec!["x".into(); 480], ..trained.clone() };
        assert!(leakage("m", &trained, Some(&other), &options(1)).is_err());
    }

    #[test]
    fn both_forms_of_the_regression_predict_the_same() {
        let features = features(40, 12, 1.0, 3);
        let (inside, outside): (Vec<usize>, Vec<usize>) = (0..80).partition(|i| *i < 20);
        let wide: Vec<Vec<f64>> =
            features.rows.iter().map(|row| row.iter().cycle().take(row.len() * 6).copied().collect()).collect();
        let narrow = operator(&features.rows, &inside, &outside).unwrap();
        let wide = operator(&wide, &inside, &outside).unwrap();
        // Six copies of the features are as the features with a sixth of the ridge: close to, and of the same order.
        let correlation = narrow.dot(&wide) / (narrow.norm() * wide.norm());
        assert!(correlation > 0.95, "{correlation}");
        let by_hand = {
            let fitted = |i: usize| &features.rows[outside[i]];
            let mean: Vec<f64> = (0..12).map(|j| (0..60).map(|i| fitted(i)[j]).sum::<f64>() / 60.0).collect();
            let sd = |j: usize| ((0..60).map(|i| (fitted(i)[j] - mean[j]).powi(2)).sum::<f64>() / 60.0).sqrt();
            let x = DMatrix::from_fn(60, 12, |i, j| (fitted(i)[j] - mean[j]) / sd(j));
            let t = DMatrix::from_fn(20, 12, |i, j| (features.rows[inside[i]][j] - mean[j]) / sd(j));
            let dual = &x * x.transpose() + DMatrix::identity(60, 60) * 6.0;
            t * x.transpose() * dual.try_inverse().unwrap()
        };
        assert!((narrow - by_hand).abs().max() < 1e-9);
    }

    #[test]
    fn heads_are_the_weights_of_the_same_regression() {
        let features = features(60, 5, 1.0, 4);
        let labels: Vec<bool> = features.groups.iter().map(|g| g == "A").collect();
        let other: Vec<bool> = labels.iter().map(|l| !l).collect();
        let found = heads(&features.rows, &[labels.clone(), other]).unwrap();
        assert!(found[0].iter().zip(&found[1]).all(|(a, b)| (a + b).abs() < 1e-12), "the opposite");
        let all: Vec<usize> = (0..120).collect();
        let operator = operator(&features.rows, &[3, 77], &all).unwrap();
        let mean = labels.iter().filter(|l| **l).count() as f64 / 120.0;
        let centred = DVector::from_iterator(120, labels.iter().map(|l| f64::from(u8::from(*l)) - mean));
        let expected = operator * centred;
        let score = |i: usize| found[0].iter().zip(&features.rows[i]).map(|(w, v)| w * v).sum::<f64>();
        assert!((score(3) - score(77) - (expected[0] - expected[1])).abs() < 1e-9, "but for the offset");
        assert_eq!(heads(&[vec![1.0], vec![1.0]], &[vec![true, false]]), None);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let good = features(80, 3, 0.0, 1);
        let why = |features: &Features| leakage("m", features, None, &options(1)).unwrap_err().to_string();
        assert!(why(&features(20, 3, 0.0, 1)).contains("20 patients, at least 60"));
        assert!(why(&Features { rows: vec![vec![1.0]; 160], ..good.clone() }).contains("no variation"));
        assert!(why(&Features { rows: vec![vec![f64::NAN]; 160], ..good.clone() }).contains("numbers each"));
        let mut torn = good.clone();
        torn.groups[0] = "B".to_owned();
        torn.groups[1] = "A".to_owned();
        assert!(why(&torn).contains("two groups"));
        assert!(why(&Features { groups: vec!["A".into(); 160], ..good }).contains("no group has 30 patients"));
    }
}
