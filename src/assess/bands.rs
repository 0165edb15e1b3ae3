//! Simultaneous confidence bands from bootstrap draws (sup-t; Montiel Olea & Plagborg-Møller 2019).
//!
//! A critical value c is the 95 % quantile, over draws, of the largest |draw − estimate| / se over a whole family
//! of quantities; estimate ± c·se then holds for the whole family at once. Four families, each over 201 values of z:
//! - error: logit e_g of every admitted group (on the logit scale, so that bands stay within 0..1);
//! - spread: e_g − e_h of every pair, from which the bounds of R follow;
//! - excess: D at the vertices π = one group. D is linear in π, so between vertices its deviation is a weighted
//!   mean of the vertices' deviations and stays inside the weighted mean of their half widths, which is what `risk`
//!   takes;
//! - expected: the logit of the expected error.
//!
//! Errors are 1 − c_g above the threshold and c_g below, which only flips signs: all of this is computed on c_g.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::curves::{Layout, Quantities, ScoreScale};
use super::ensemble::{Drawn, Ensemble};
use crate::stats::{Z_95, logit, quantile, standard_deviation};

/// Points of z on which bands are computed and reference patients counted.
pub const GRID: usize = 201;

/// Sup-t critical values, in standard errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Critical {
    pub error: f64,
    pub spread: f64,
    pub excess: f64,
    pub expected: f64,
}

/// `GRID` points from `low` to `high`.
pub(super) fn grid(low: f64, high: f64) -> impl IndexedParallelIterator<Item = f64> {
    (0..GRID).into_par_iter().map(move |k| low + (high - low) * k as f64 / (GRID - 1) as f64)
}

/// The critical values of one finding between two scores.
pub(super) fn critical(
    layout: &Layout,
    scale: &ScoreScale,
    (low, high): (f64, f64),
    point: &[f64],
    ensemble: &Ensemble,
) -> Critical {
    let at_one = |z: f64| {
        let at = scale.row(z);
        let (center, drawn) = (layout.quantities(point, &at), ensemble.quantities(layout, &at));
        families(&center, &drawn)
    };
    let largest = grid(low, high).map(at_one).reduce(Default::default, |mut a, b| {
        for (a, b) in a.iter_mut().zip(b) {
            raise(a, b);
        }
        a
    });
    let value = |column: &[f64]| {
        let mut column = column.to_vec();
        column.sort_by(f64::total_cmp);
        quantile(&column, 0.95).unwrap_or(f64::INFINITY).max(Z_95)
    };
    let [error, spread, excess, expected] = &largest;
    Critical { error: value(error), spread: value(spread), excess: value(excess), expected: value(expected) }
}

/// Every pair of positions below `n`.
pub(super) fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// Each draw's largest |draw − estimate| / se at one score, of error, spread, excess and expected.
fn families(center: &Quantities, drawn: &Drawn) -> [Vec<f64>; 4] {
    let mut largest: [Vec<f64>; 4] = Default::default();
    let mut item = |family: usize, middle: f64, values: &[f64]| {
        let se = standard_deviation(values);
        let ratio = |value: &f64| if se < 1e-9 { 0.0 } else { (value - middle).abs() / se };
        raise(&mut largest[family], values.iter().map(ratio).collect());
    };
    let differences = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
    for (middle, values) in center.event_logit.iter().zip(&drawn.event_logit) {
        item(0, *middle, values);
    }
    for (i, j) in pairs(center.event.len()) {
        item(1, center.event[i] - center.event[j], &differences(&drawn.event[i], &drawn.event[j]));
    }
    for (middle, values) in center.event.iter().zip(&drawn.event) {
        item(2, middle - center.expected, &differences(values, &drawn.expected));
    }
    let logits: Vec<f64> = drawn.expected.iter().map(|p| logit(*p)).collect();
    item(3, center.expected_logit(), &logits);
    largest
}

/// The larger of both, one by one; nothing is less than everything.
fn raise(a: &mut Vec<f64>, b: Vec<f64>) {
    if a.is_empty() {
        *a = b;
    } else {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = a.max(b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    #[test]
    fn critical_values_grow_with_the_family_and_are_never_below_the_pointwise_one() {
        let layout = Layout { groups: 3, admitted: vec![0, 1, 2], terms: 2, race: false };
        let scale = ScoreScale { center: 0.0, scale: 1.0, knots: None };
        let point = vec![0.0; layout.total()];
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let mut draw = |sd: f64| -> Vec<Vec<f64>> {
            let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
            (0..2000).map(|_| (0..layout.total()).map(|_| sd * normal()).collect()).collect()
        };
        let of = |draws: Vec<Vec<f64>>| Ensemble::new(draws.iter().map(Vec::as_slice), layout.total());
        let c = critical(&layout, &scale, (-2.0, 2.0), &point, &of(draw(0.1)));
        // Three curves of two parameters each: well above one normal variable, below Scheffé's bound sqrt(χ²_8).
        assert!(c.error > 2.4 && c.error < 3.94, "{c:?}");
        assert!(c.expected >= Z_95 && c.expected < c.error, "{c:?}");
        let none = critical(&layout, &scale, (-2.0, 2.0), &point, &of(vec![point.clone(); 50]));
        assert_eq!(none.spread, Z_95);
    }

    #[test]
    fn pairs_are_counted_once() {
        assert_eq!(pairs(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
        assert_eq!(pairs(1).count(), 0);
    }
}
