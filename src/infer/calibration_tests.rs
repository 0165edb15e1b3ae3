//! Tests of `calibration`: what must hold for every input, and PyTorch's own figures.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::domain::{Code, Finding, Group, Probability};
use crate::infer::reference;

fn groups(n: usize) -> ModelOutputs {
    let group = |i: usize| Group { key: format!("g{i}"), code: Code::new("2106-3", "CDCREC", "White") };
    ModelOutputs::Groups((0..n).map(group).collect())
}

fn findings(n: usize) -> ModelOutputs {
    let finding = |i: usize| Finding {
        key: format!("f{i}"),
        code: Code::new("36118008", "SCT", "Pneumothorax"),
        site: None,
        threshold: Probability::new(0.5).unwrap(),
    };
    ModelOutputs::Findings((0..n).map(finding).collect())
}

fn made(card: CalibrationCard, outputs: &ModelOutputs) -> Calibration {
    Calibration::new(card, outputs).unwrap()
}

fn applied(calibration: &Calibration, values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    calibration.apply(&mut values);
    values
}

fn close(found: &[f64], expected: &[f64], within: f64) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= within)
}

fn dirichlet(weights: Vec<Vec<f64>>, intercept: Vec<f64>) -> CalibrationCard {
    CalibrationCard::Dirichlet { weights, intercept }
}

/// A point of the simplex, corners and edges included.
fn posterior() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(prop_oneof![Just(0.0), 0.0..1.0_f64], 3).prop_filter_map("all zero", |v| {
        let sum: f64 = v.iter().sum();
        (sum > 1e-6).then(|| v.iter().map(|p| p / sum).collect())
    })
}

proptest! {
    #[test]
    fn temperature_keeps_simplex_and_order_and_one_is_no_change(p in posterior(), t in 0.05..20.0_f64) {
        let of = |t| applied(&made(CalibrationCard::Temperature { temperature: t }, &groups(3)), &p);
        prop_assert!(close(&of(1.0), &p, 1e-12));
        let q = of(t);
        prop_assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-12 && q.iter().all(|v| (0.0..=1.0).contains(v)));
        for (i, j) in [(0, 1), (0, 2), (1, 2)] {
            prop_assert!(p[i] < p[j] || q[i] >= q[j] - 1e-15, "{p:?} -> {q:?}");
        }
        let top = |v: &[f64]| v.iter().copied().fold(0.0, f64::max);
        let flatter = top(&q) <= top(&p) + 1e-12;
        let sharper = top(&q) >= top(&p) - 1e-12;
        prop_assert!((t < 1.0 || flatter) && (t > 1.0 || sharper));
    }

    #[test]
    fn a_line_keeps_range_and_order_and_the_identity_is_no_change(
        p in 0.0..=1.0_f64, q in 0.0..=1.0_f64, slope in 0.01..50.0_f64, intercept in -20.0..20.0_f64,
    ) {
        let card = |slope, intercept| CalibrationCard::Platt { findings: [("f0".to_owned(), Line { slope, intercept })].into() };
        let of = |card, p| applied(&made(card, &findings(2)), &[p, p]);
        prop_assert!(close(&of(card(1.0, 0.0), p), &[p, p], 1e-12));
        let (a, b) = (of(card(slope, intercept), p), of(card(slope, intercept), q));
        prop_assert!((0.0..=1.0).contains(&a[0]) && close(&a[1..], &[p], 1e-12), "the other finding stays");
        prop_assert!((p > q || a[0] <= b[0]) && (p < q || a[0] >= b[0]));
        let temperature = CalibrationCard::Temperature { temperature: 1.0 / slope };
        prop_assert!(close(&of(temperature, p)[..1], &of(card(slope, 0.0), p)[..1], 1e-12));
    }

    #[test]
    fn dirichlet_keeps_the_simplex(p in posterior(), w in prop::collection::vec(-5.0..5.0_f64, 9), b in prop::collection::vec(-5.0..5.0_f64, 3)) {
        let rows = w.chunks(3).map(<[f64]>::to_vec).collect();
        let q = applied(&made(dirichlet(rows, b), &groups(3)), &p);
        prop_assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-12 && q.iter().all(|v| (0.0..=1.0).contains(v)), "{q:?}");
        let identity = vec![vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]];
        prop_assert!(close(&applied(&made(dirichlet(identity, vec![0.0; 3]), &groups(3)), &p), &p, 1e-11));
    }
}

#[test]
fn certain_scores_stay_numbers() {
    for card in [
        CalibrationCard::Temperature { temperature: 0.001_1 },
        CalibrationCard::Platt { findings: [("f0".to_owned(), Line { slope: 900.0, intercept: -900.0 })].into() },
    ] {
        assert!(close(&applied(&made(card, &findings(2)), &[0.0, 1.0]), &[0.0, 1.0], 1e-300));
    }
    let steep = made(dirichlet(vec![vec![1000.0, 0.0], vec![0.0, -1000.0]], vec![1000.0, -1000.0]), &groups(2));
    assert!(applied(&steep, &[0.0, 1.0]).iter().all(|v| (0.0..=1.0).contains(v)));
}

#[test]
fn the_figures_are_pytorchs() {
    let (_folder, cases) = reference::study_level();
    let cases = &cases["calibration"];
    let table = |key: &str| serde_json::from_value::<Vec<Vec<f64>>>(cases[key].clone()).unwrap();
    let check = |card: CalibrationCard, outputs: &ModelOutputs, from: &str, to: &str| {
        let calibration = made(card, outputs);
        for (values, expected) in table(from).iter().zip(table(to)) {
            assert!(close(&applied(&calibration, values), &expected, 1e-12), "{to}: {values:?}");
        }
    };
    let temperature = || CalibrationCard::Temperature { temperature: cases["temperature"].as_f64().unwrap() };
    check(temperature(), &groups(3), "posteriors", "of_temperature");
    check(temperature(), &findings(2), "scores", "of_findings_temperature");
    let intercept = serde_json::from_value(cases["intercept"].clone()).unwrap();
    check(dirichlet(table("weights"), intercept), &groups(3), "posteriors", "of_dirichlet");
    let line = |i: usize| (format!("f{i}"), Line { slope: table("lines")[i][0], intercept: table("lines")[i][1] });
    check(CalibrationCard::Platt { findings: [line(0), line(1)].into() }, &findings(2), "scores", "of_platt");
    assert!(matches!(cases["scores"], Value::Array(ref rows) if rows.len() == 40));
}

#[test]
fn what_does_not_fit_the_outputs_is_refused_by_key() {
    let check = |toml: &str, outputs: &ModelOutputs, expected: &str| {
        let card: CalibrationCard = toml::from_str(toml).unwrap();
        let [key, problem, remedy] = Calibration::new(card, outputs).unwrap_err();
        assert!(format!("{key}: {problem}").contains(expected) && !remedy.is_empty(), "{key}: {problem}");
    };
    check("method = \"temperature\"\ntemperature = 0.0", &groups(3), "calibration.temperature: 0 is no temperature");
    check("method = \"temperature\"\ntemperature = nan", &findings(1), "calibration.temperature");
    check("method = \"platt\"\n[findings]", &groups(2), "calibration.method: \"platt\" is for findings");
    let line = |key: &str, slope: &str| {
        format!("method = \"platt\"\n[findings]\n{key} = {{ slope = {slope}, intercept = 0.0 }}")
    };
    check(&line("f7", "1.0"), &findings(2), "calibration.findings: \"f7\" is no finding");
    check(&line("f1", "-1.0"), &findings(2), "calibration.findings.f1: is no line");
    let square = "method = \"dirichlet\"\nweights = [[1.0, 0.0], [0.0, 1.0]]\nintercept = [0.0, 0.0]";
    check(square, &findings(2), "calibration.method: \"dirichlet\" is for groups");
    check(square, &groups(3), "calibration.weights: are not 3 by 3");
    check(&square.replace("0.0, 1.0", "0.0, inf"), &groups(2), "calibration.weights");
    assert!(toml::from_str::<CalibrationCard>("method = \"isotonic\"").is_err());
    assert!(toml::from_str::<CalibrationCard>("method = \"temperature\"\ntemperature = 1.0\nt = 2").is_err());
}
