//! The numerics of this room beside statsmodels, scikit-learn and SciPy, to 1e-6.
//!
//! The reference has another spline basis and other algorithms, so that only what both mean can agree. Tolerance: 1e-6
//! is far below any standard error and above what iterations leave open on either side.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::reference::{answers, assert_close, numbers};
use super::*;

const TOLERANCE: f64 = 1e-6;

/// 1,500 rows: a score, a group that shifts it, an outcome, weights as a bootstrap draws them, two more columns.
struct Rows {
    x: Vec<f64>,
    group: Vec<usize>,
    outcome: Vec<f64>,
    weight: Vec<f64>,
    columns: [Vec<f64>; 2],
    spline: NaturalSpline,
}

fn rows(seed: u64) -> Rows {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = 1500;
    let group: Vec<usize> = (0..n).map(|_| rng.random_range(0..3)).collect();
    let x: Vec<f64> = group.iter().map(|&g| rng.random_range(-2.0..2.0) + 0.3 * g as f64).collect();
    let event = |x: f64, g: usize| expit(-0.4 + x - 0.2 * x * x + if g == 1 { 0.5 + 0.2 * x } else { 0.0 });
    let outcome = x.iter().zip(&group).map(|(&x, &g)| f64::from(u8::from(rng.random::<f64>() < event(x, g)))).collect();
    let mut sorted = x.clone();
    sorted.sort_by(f64::total_cmp);
    let spline = NaturalSpline::on_quantiles(&sorted).unwrap();
    let weight = (0..n).map(|_| f64::from(rng.random_range(0..4u8))).collect();
    let columns = [1, 2].map(|k| group.iter().map(|&g| rng.random_range(-1.5..1.5) + f64::from(g == k)).collect());
    Rows { x, group, outcome, weight, columns, spline }
}

impl Rows {
    fn row(&self, i: usize) -> Vec<f64> {
        let [a, b, c] = self.spline.basis(self.x[i]);
        vec![1.0, a, b, c]
    }

    fn design(&self, row: impl Fn(usize) -> Vec<f64>) -> Design {
        let mut design = Design::new(row(0).len());
        (0..self.x.len()).for_each(|i| design.push(&row(i)));
        design
    }
}

fn eta(design: &Design, beta: &[f64]) -> Vec<f64> {
    (0..design.rows()).map(|i| design.row(i).iter().zip(beta).map(|(x, b)| x * b).sum()).collect()
}

#[test]
fn spline_logistic_regression_agrees_with_statsmodels() {
    let rows = rows(1);
    let given = json!({"x": rows.x, "knots": rows.spline.knots(), "outcome": rows.outcome, "weight": rows.weight});
    let answer = &answers(&json!({"a": {"of": "logistic", "given": given}}))["a"];
    let design = rows.design(|i| rows.row(i));
    let fitted = logistic(&design, &rows.outcome, &rows.weight, &Ridge::uniform(4, 0.0), None).unwrap();
    assert_close("linear predictor", &eta(&design, &fitted.coefficients), &numbers(&answer["eta"]), TOLERANCE);
    assert_close("likelihood", &[fitted.log_likelihood], &numbers(&answer["log_likelihood"]), TOLERANCE);
    let covariance = fitted.information.try_inverse().unwrap();
    let se = |i: usize| {
        let row = nalgebra::DVector::from_row_slice(design.row(i));
        (row.transpose() * &covariance * row)[(0, 0)].sqrt()
    };
    let errors: Vec<f64> = (0..design.rows()).map(se).collect();
    assert_close("standard errors", &errors, &numbers(&answer["se"]), TOLERANCE);
}

#[test]
fn a_ridge_is_scikit_learns() {
    let rows = rows(2);
    let design = rows.design(|i| [rows.row(i), vec![rows.columns[0][i]]].concat());
    let matrix: Vec<&[f64]> = (0..design.rows()).map(|i| design.row(i)).collect();
    let given = json!({"design": matrix, "outcome": rows.outcome, "weight": rows.weight, "precision": 3.0});
    let expected = numbers(&answers(&json!({"a": {"of": "ridge", "given": given}}))["a"]);
    let fitted = logistic(&design, &rows.outcome, &rows.weight, &Ridge::uniform(5, 3.0), None).unwrap();
    assert_close("coefficients", &fitted.coefficients, &expected, TOLERANCE);
}

#[test]
fn multinomial_recalibration_agrees_with_statsmodels() {
    let rows = rows(3);
    let given = json!({"x": rows.x, "knots": rows.spline.knots(), "group": rows.group, "columns": rows.columns});
    let answer = &answers(&json!({"a": {"of": "multinomial", "given": given}}))["a"];
    let design = rows.design(|i| [rows.row(i), vec![rows.columns[0][i], rows.columns[1][i]]].concat());
    let ones = vec![1.0; design.rows()];
    let fitted = multinomial(&design, &rows.group, 3, &ones, &Ridge::uniform(12, 0.0), None).unwrap();
    let probabilities: Vec<f64> = (0..design.rows())
        .flat_map(|i| {
            let mut p = vec![0.0; 3];
            for (value, beta) in p[1..].iter_mut().zip(fitted.coefficients.chunks_exact(6)) {
                *value = design.row(i).iter().zip(beta).map(|(x, b)| x * b).sum();
            }
            softmax(&mut p);
            p
        })
        .collect();
    assert_close("probabilities", &probabilities, &numbers(&answer["probabilities"]), TOLERANCE);
    assert_close("likelihood", &[fitted.log_likelihood], &numbers(&answer["log_likelihood"]), TOLERANCE);
}

#[test]
fn auc_and_its_variances_agree_with_all_pairs_and_scikit_learn() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    // Two digits: many ties.
    let score: Vec<f64> = (0..800).map(|_| (rng.random::<f64>() * 100.0).round() / 100.0).collect();
    let positive: Vec<bool> = score.iter().map(|s| rng.random::<f64>() < 0.2 + 0.5 * s).collect();
    let cluster: Vec<usize> = (0..800).map(|i| i / 3).collect();
    let given = json!({"score": score, "positive": positive, "cluster": cluster});
    let answer = &answers(&json!({"a": {"of": "delong", "given": given}}))["a"];
    let plain = delong(&score, &positive).unwrap();
    let clustered = delong_clustered(&score, &positive, &cluster).unwrap();
    let expected = ["auc", "sklearn", "variance", "clustered"].map(|k| answer[k].as_f64().unwrap());
    assert_close("AUC", &[plain.auc, clustered.auc], &expected[..2], 1e-12);
    let variances = [plain.variance, clustered.variance].map(|v| v * 1e4);
    assert_close("variances", &variances, &[expected[2] * 1e4, expected[3] * 1e4], 1e-9);
}

#[test]
fn wilson_holm_and_isotonic_are_those_of_statsmodels_and_scikit_learn() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut count = || {
        let n = rng.random_range(1..3000u64);
        (rng.random_range(0..=n), n)
    };
    let counts: Vec<(u64, u64)> = (0..200).map(|_| count()).collect();
    let tests: Vec<Vec<f64>> =
        (1..30usize).map(|n| (0..n).map(|_| rng.random::<f64>().powi(3) / 10.0).collect()).collect();
    let score: Vec<f64> = (0..500).map(|_| (rng.random::<f64>() * 60.0).round()).collect();
    let outcome: Vec<f64> = score.iter().map(|s| f64::from(u8::from(rng.random::<f64>() * 70.0 < *s))).collect();
    let weight: Vec<f64> = (0..500).map(|_| f64::from(rng.random_range(1..4u8))).collect();
    let given: Value = json!({
        "wilson": {"of": "wilson", "given": counts},
        "holm": {"of": "holm", "given": tests},
        "isotonic": {"of": "isotonic", "given": {"score": score, "outcome": outcome, "weight": weight}},
    });
    let answers = answers(&given);
    let limits: Vec<f64> = counts.iter().flat_map(|&(k, n)| <[f64; 2]>::from(wilson(k, n).unwrap())).collect();
    assert_close("Wilson", &limits, &numbers(&answers["wilson"]), 1e-9);
    let adjusted: Vec<f64> = tests.iter().flat_map(|p| holm(p)).collect();
    assert_close("Holm", &adjusted, &numbers(&answers["holm"]), 1e-12);
    let fitted = isotonic(&score, &outcome, &weight).unwrap();
    let at = |s: &f64| fitted.values[fitted.scores.partition_point(|x| x < s)];
    assert_close("isotonic", &score.iter().map(at).collect::<Vec<_>>(), &numbers(&answers["isotonic"]), 1e-9);
}
