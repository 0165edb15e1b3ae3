//! All metrics beside scikit-learn and statsmodels, and limits that cover.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::super::dataset::Dataset;
use super::super::resample::{self, BINS};
use super::super::world::World;
use super::*;
use crate::stats::benjamini_yekutieli;
use crate::stats::reference::{answers_of, assert_close, numbers};

/// What iterations of two programs leave open.
const TOLERANCE: f64 = 1e-9;

fn given(base: &Base) -> Value {
    let of = |value: &dyn Fn(&Row) -> Value| base.rows.iter().map(value).collect::<Vec<Value>>();
    json!({
        "score": of(&|r| json!(r.score)), "outcome": of(&|r| json!(r.outcome)), "bins": BINS,
        "cluster": of(&|r| json!(r.patient)), "threshold": of(&|r| json!(r.threshold)),
    })
}

#[test]
fn every_metric_is_that_of_scikit_learn_and_statsmodels() {
    let single = World { patients: 700, shift: vec![0.0, 0.5, 0.0], ..World::default() };
    let several = World { patients: 500, studies_most: 3, ..single.clone() };
    // Two digits: many ties.
    let tied = |dataset: &Dataset| {
        let mut base = dataset.base(0);
        base.rows.iter_mut().for_each(|r| r.score = (r.score * 100.0).round().clamp(1.0, 99.0) / 100.0);
        base.rows.iter_mut().for_each(|r| r.z = crate::stats::logit(r.score));
        base
    };
    let bases = [
        ("single", single.dataset(1).base(0)),
        ("several", several.dataset(2).base(0)),
        ("one group", several.dataset(3).base(0).part(|r| r.group == 1)),
        ("tied", tied(&several.dataset(4))),
    ];
    let mut inputs = serde_json::Map::new();
    for (name, base) in &bases {
        inputs.insert((*name).into(), json!({"of": "metrics", "given": given(base)}));
    }
    let answers = answers_of("audit.py", &Value::Object(inputs));
    for (name, base) in &bases {
        let (found, expected) = (performance(base, Limits::default()), &answers[name]);
        let c = found.counts;
        let cells = [c.true_positive, c.false_negative, c.false_positive, c.true_negative].map(|c| c.studies as f64);
        assert_eq!(cells.to_vec(), numbers(&expected["confusion"]), "{name}");
        assert_eq!(found.figures.len(), 13);
        for (metric, figure) in &found.figures {
            let key = serde_json::to_value(metric).unwrap();
            let estimate = figure.told().unwrap_or_else(|| panic!("{name}: {metric:?} is {figure:?}"));
            let expected = numbers(&expected[key.as_str().unwrap()]);
            let got = match expected.len() {
                3 => vec![estimate.value, estimate.lower.unwrap(), estimate.upper.unwrap()],
                2 => vec![estimate.value, estimate.error.unwrap()],
                _ => vec![estimate.value],
            };
            assert_close(&format!("{name}, {metric:?}"), &got, &expected, TOLERANCE);
        }
        let resampled = Resampled::of(base).value();
        let score: Vec<f64> = base.rows.iter().map(|r| r.score).collect();
        let outcome: Vec<bool> = base.rows.iter().map(|r| r.outcome).collect();
        let (area, error) = (resampled.auprc.unwrap(), resampled.ece.unwrap());
        assert!((area - crate::stats::average_precision(&score, &outcome).unwrap()).abs() < 1e-12);
        assert!((error - crate::stats::calibration_error(&score, &outcome, BINS).unwrap()).abs() < 1e-12);
    }
}

#[test]
fn adjusted_p_values_are_those_of_statsmodels() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let tests: Vec<Vec<f64>> =
        (1..30usize).map(|n| (0..n).map(|_| rng.random::<f64>().powi(3) / 10.0).collect()).collect();
    let answers = answers_of("audit.py", &json!({"a": {"of": "yekutieli", "given": tests}}));
    let adjusted: Vec<f64> = tests.iter().flat_map(|p| benjamini_yekutieli(p)).collect();
    assert_close("Benjamini-Yekutieli", &adjusted, &numbers(&answers["a"]), 1e-12);
}

#[test]
fn small_blocks_have_no_numbers_and_hostile_ones_do_not_panic() {
    let base = World { patients: 60, ..World::default() }.dataset(1).base(0);
    for keep in 0..60 {
        let part = Base { rows: base.rows[..keep].to_vec() };
        let found = performance(&part, Limits::default());
        let prevalence = found.figures[&Metric::Prevalence];
        assert_eq!(prevalence.told().is_some(), keep >= DENOMINATOR_MIN, "{keep}");
    }
    let mut same = base.clone();
    same.rows.iter_mut().for_each(|r| (r.score, r.z, r.outcome, r.threshold) = (1.0, 13.8, r.study % 2 == 0, 1.0));
    let found = performance(&same, Limits::default());
    assert_eq!(found.figures[&Metric::NetBenefit], Figure::without(Withheld::Undefined), "odds of a threshold of 1");
    assert_eq!(
        found.figures[&Metric::CalibrationSlope],
        Figure::without(Withheld::Undefined),
        "one score has no slope"
    );
    assert_eq!(found.figures[&Metric::Auroc].told().unwrap().value, 0.5);
    assert_eq!(
        found.figures[&Metric::NegativePredictiveValue],
        Figure::without(Withheld::TooFew),
        "nobody is negative"
    );
    let json = serde_json::to_string(&found.figures).unwrap();
    assert!(json.contains(r#""net_benefit":{"withheld":"undefined"}"#), "{json}");
}

const WORLDS: u64 = 100;

/// 95 % limits hold the truth in all but three standard errors of 100 worlds, of patients with up to three studies.
#[test]
fn limits_cover_the_truth() {
    let world = World { patients: 300, studies_most: 3, shares: vec![1.0], mean: vec![-0.5], ..World::default() };
    let world = World { shift: vec![0.4], ..world };
    let large = World { patients: 60_000, studies_most: 1, ..world.clone() }.dataset(99).base(0);
    let truth = performance(&large, Limits::default());
    let mut covered: BTreeMap<Metric, u64> = BTreeMap::new();
    for seed in 0..WORLDS {
        let dataset = world.dataset(seed);
        let base = dataset.base(0);
        let limits = resample::limits(&[Resampled::of(&base)], dataset.patients, 200, seed)[0];
        for (metric, figure) in performance(&base, limits).figures {
            let (of, value) = (figure.told().unwrap(), truth.figures[&metric].told().unwrap().value);
            let holds = (of.lower.unwrap()..=of.upper.unwrap()).contains(&value);
            *covered.entry(metric).or_default() += u64::from(holds);
        }
    }
    for (metric, covered) in covered {
        assert!(covered >= 88, "{metric:?}: {covered} of {WORLDS}");
    }
}

#[test]
fn draws_do_not_depend_on_threads_and_agree_with_draws_that_repeat_rows() {
    let dataset = World { patients: 200, studies_most: 2, ..World::default() }.dataset(7);
    let block = || [Resampled::of(&dataset.base(0))];
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let of = |threads| pool(threads).install(|| resample::limits(&block(), dataset.patients, 300, 5)[0]);
    assert_eq!(of(1), of(3));
    // The same draws by writing each row as often as its patient was drawn.
    let bootstrap = crate::stats::ClusterBootstrap { clusters: dataset.patients, seed: 5 };
    let base = dataset.base(0);
    let area = |draw| {
        let times = bootstrap.multiplicities(draw);
        let repeated = |r: &Row| std::iter::repeat_n((r.score, r.outcome), times[r.patient as usize] as usize);
        let (score, outcome): (Vec<f64>, Vec<bool>) = base.rows.iter().flat_map(repeated).unzip();
        crate::stats::average_precision(&score, &outcome).unwrap()
    };
    let mut areas: Vec<f64> = (0..300).map(area).collect();
    areas.sort_by(f64::total_cmp);
    let (lower, upper) = of(1).auprc.unwrap();
    assert!((crate::stats::quantile(&areas, 0.025).unwrap() - lower).abs() < 1e-12);
    assert!((crate::stats::quantile(&areas, 0.975).unwrap() - upper).abs() < 1e-12);
}
