//! The fit of a planted world beside independent ones: statsmodels, SciPy, and Newton's method for every draw.

use nalgebra::DMatrix;
use serde_json::json;

use super::super::curves::{Layout, ScoreScale};
use super::super::estimate::{Estimator, Memory, Observation, score_rows, score_scale};
use super::super::gate;
use super::*;
use crate::stats::reference::{answers, assert_close, numbers};
use crate::stats::{ClusterBootstrap, chi_square_tail, logit, standard_deviation};

/// Above what iterations leave open on either side, far below any standard error.
const TOLERANCE: f64 = 1e-6;

struct Prepared {
    observations: Vec<Observation>,
    scale: ScoreScale,
    layout: Layout,
    estimator: Estimator,
    patients: usize,
}

/// A biased world with two studies per patient, some of them without posteriors, and unadmitted group C where asked.
fn prepared(admitted: &[usize]) -> Prepared {
    let cohort = World { patients: 900, studies: 2, ..BIASED }.cohort(31);
    let patient = |row: &Row| row.patient[1..].parse::<usize>().unwrap();
    let observations: Vec<Observation> = cohort
        .rows
        .iter()
        .enumerate()
        .map(|(i, row)| Observation {
            patient: patient(row),
            group: GROUPS.iter().position(|g| *g == row.group).unwrap(),
            z: logit(row.score),
            score: row.score,
            outcome: row.outcome,
            posteriors: row.posteriors.clone().filter(|_| i % 7 != 0),
        })
        .collect();
    let scale = score_scale(&observations).unwrap();
    let layout = Layout { groups: 3, admitted: admitted.to_vec(), terms: scale.terms(), race: true };
    let estimator = Estimator::new(layout.clone(), &scale, &observations);
    Prepared { observations, scale, layout, estimator, patients: 900 }
}

#[test]
fn the_gate_is_the_likelihood_ratio_test_of_statsmodels() {
    let p = prepared(&[0, 1, 2]);
    let x: Vec<f64> = p.observations.iter().map(|o| (o.z - p.scale.center) / p.scale.scale).collect();
    let group: Vec<usize> = p.observations.iter().map(|o| o.group).collect();
    let outcome: Vec<f64> = p.observations.iter().map(|o| f64::from(u8::from(o.outcome))).collect();
    let rows = score_rows(&p.scale, &p.observations);
    let cases: Vec<gate::Case<'_>> = p
        .observations
        .iter()
        .zip(&rows)
        .map(|(o, at)| gate::Case { at, group: o.group, outcome: f64::from(u8::from(o.outcome)), patient: o.patient })
        .collect();
    let gate = gate::test(&cases, 3, ClusterBootstrap { clusters: p.patients, seed: 1 }, [99; 2]).unwrap();
    let given = json!({"x": x, "knots": p.scale.knots.unwrap(), "group": group, "groups": 3, "outcome": outcome});
    let answer = &answers(&json!({"a": {"of": "likelihood_ratio", "given": given}}))["a"];
    let expected = [answer["statistic"].as_f64().unwrap(), answer["p"].as_f64().unwrap()];
    assert!(expected[0] > 20.0 && gate.df == 4, "the world has a difference: {expected:?}");
    assert_close(
        "likelihood ratio, p",
        &[gate.statistic, chi_square_tail(gate.statistic, gate.df)],
        &expected,
        TOLERANCE,
    );
}

/// Rows of a design, and of a ridge its precisions and centres, of one part.
fn rows(p: &Prepared, row: impl Fn(&Observation) -> Option<Vec<f64>>) -> Vec<Vec<f64>> {
    p.observations.iter().filter_map(row).collect()
}

#[test]
fn curves_mix_and_recalibration_agree_with_scipy() {
    let p = prepared(&[0, 1, 2]);
    let point = p.estimator.fit(p.patients).unwrap();
    let (curve, rest) = point.parameters.split_at(p.layout.curve_len());
    let (mix, race) = rest.split_at(p.layout.mix_len());
    let at = |o: &Observation| p.scale.row(o.z);
    let precision =
        |shift_sd: f64, slope_sd: f64| [vec![1e-6; 4], vec![shift_sd.powi(-2); 3], vec![slope_sd.powi(-2); 3]].concat();
    let design = rows(&p, |o| Some(p.layout.curve_row(&at(o), o.group)));
    let outcome: Vec<f64> = p.observations.iter().map(|o| f64::from(u8::from(o.outcome))).collect();
    let curves =
        |precision| json!({"of": "curves", "given": {"design": design, "outcome": outcome, "precision": precision}});
    let group: Vec<usize> = p.observations.iter().map(|o| o.group).collect();
    let raced: Vec<&Observation> = p.observations.iter().filter(|o| o.posteriors.is_some()).collect();
    let race_design: Vec<Vec<f64>> =
        raced.iter().map(|o| p.layout.race_row(&at(o), &log_ratios(o.posteriors.as_ref().unwrap()).unwrap())).collect();
    // The prior of the recalibration, as method.md says it: log-ratios as they are, give or take 1.
    let faint = [1e-2; 4];
    let race_precision = [&faint[..], &[1.0, 1.0], &faint, &[1.0, 1.0]].concat();
    let race_center = [&[0.0; 4][..], &[1.0, 0.0], &[0.0; 4], &[0.0, 1.0]].concat();
    let given = json!({
        "wide": curves(precision(2.0, 2.0)),
        "curve": curves(precision(point.shrinkage.shift_sd, point.shrinkage.slope_sd)),
        "mix": {"of": "recalibration", "given": {"design": rows(&p, |o| Some(at(o).0)), "group": group, "classes": 3,
            "precision": vec![1e-2; 8], "center": vec![0.0; 8]}},
        "race": {"of": "recalibration", "given": {"design": race_design,
            "group": raced.iter().map(|o| o.group).collect::<Vec<_>>(), "classes": 3,
            "precision": race_precision, "center": race_center}},
    });
    let answers = answers(&given);
    assert_close("curves", curve, &numbers(&answers["curve"]["beta"]), TOLERANCE);
    // A general minimiser stops earlier than Newton's method.
    assert_close("curves by another algorithm", curve, &numbers(&answers["curve"]["general"]), 1e-5);
    assert_close("mix", mix, &numbers(&answers["mix"]), TOLERANCE);
    assert_close("recalibration", race, &numbers(&answers["race"]), TOLERANCE);
    // The widths of the priors by moments: spread of the estimates beyond what sampling errors explain.
    let wide = numbers(&answers["wide"]["beta"]);
    let covariance = DMatrix::from_row_slice(10, 10, &numbers(&answers["wide"]["covariance"]));
    let between = |from: usize, len: usize| {
        let own = &wide[from..from + len];
        let mean = own.iter().sum::<f64>() / len as f64;
        let spread: f64 = own.iter().map(|v| (v - mean).powi(2)).sum();
        let block = covariance.view((from, from), (len, len));
        let noise = block.trace() - block.sum() / len as f64;
        ((spread - noise) / (len as f64 - 1.0)).max(0.0).sqrt().clamp(0.5, 2.0)
    };
    let widths = [point.shrinkage.shift_sd, point.shrinkage.slope_sd];
    assert_close("widths of the priors", &widths, &[between(4, 3), between(7, 3)], TOLERANCE);
}

#[test]
fn a_draw_refitted_from_gradients_is_the_one_that_newtons_method_finds() {
    for admitted in [&[0, 1, 2][..], &[0, 1]] {
        let p = prepared(admitted);
        let point = p.estimator.fit(p.patients).unwrap();
        let bootstrap = ClusterBootstrap { clusters: p.patients, seed: 9 };
        let fast = bootstrap.map_with(60, Memory::default, |m, w| p.estimator.refit(&point, w, m).unwrap());
        let newton = bootstrap.map(60, |_, w| p.estimator.refit_by_newton(&point, w).unwrap());
        for j in 0..p.layout.total() {
            let column: Vec<f64> = newton.iter().map(|d| d[j]).collect();
            let se = standard_deviation(&column);
            let worst = fast.iter().zip(&newton).map(|(a, b)| (a[j] - b[j]).abs() / se).fold(0.0, f64::max);
            assert!(worst < 4e-3, "parameter {j}: {worst} standard errors");
        }
    }
}
