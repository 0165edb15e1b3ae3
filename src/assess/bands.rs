//! Simultaneous confidence bands from bootstrap draws (sup-t; Montiel Olea & Plagborg-Møller 2019).
//!
//! A critical value c is the 95 % quantile, over draws, of the largest |draw − estimate| / se over a whole family
//! of quantities; estimate ± c·se then holds for the whole family at once. Four families, each over 201 values of z:
//! - error: logit e_g of every admitted group (on the logit scale, so that bands stay within 0..1);
//! - spread: e_g − e_h of every pair, from which the bounds of R follow;
//! - excess: D at the vertices π = one group. D is linear in π, so between vertices its deviation is a weighted
//!   mean of the vertices' deviations and stays inside the weighted mean of their half widths, which is what `risk`
//takes; ! - expected: the logit of the expected error. ! ! Errors are 1 − c_g above the threshold and c_g below, which
//only flips signs: all of this is computed on c_g.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::curves::{Layout, ScoreScale};
use crate::stats::{Z_95, quantile, standard_deviation};

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
    draws: &[Vec<f64>],
) -> Critical {
    let largest = grid(low, high)
        .map(|z| {
            let at = scale.row(z);
            let center = families(layout, point, &at);
            let drawn: Vec<[Vec<f64>; 4]> = draws.iter().map(|d| families(layout, d, &at)).collect();
            let mut ratios = vec![[0.0_f64; 4]; draws.len()];
            for (family, middles) in center.iter().enumerate() {
                for (item, middle) in middles.iter().enumerate() {
                    let values: Vec<f64> = drawn.iter().map(|d| d[family][item]).collect();
                    let se = standard_deviation(&values);
                    if se < 1e-9 {
                        continue;
                    }
                    for (ratio, value) in ratios.iter_mut().zip(&values) {
                        ratio[family] = ratio[family].max((value - middle).abs() / se);
                    }
                }
            }
            ratios
        })
        .reduce(
            || vec![[0.0; 4]; draws.len()],
            |a, b| a.into_iter().zip(b).map(|(x, y)| std::array::from_fn(|i| x[i].max(y[i]))).collect(),
        );
    let value = |family: usize| {
        let mut column: Vec<f64> = largest.iter().map(|r| r[family]).collect();
        column.sort_by(f64::total_cmp);
        quantile(&column, 0.95).unwrap_or(f64::INFINITY).max(Z_95)
    };
    Critical { error: value(0), spread: value(1), excess: value(2), expected: value(3) }
}

/// Every pair of positions below `n`.
pub(super) fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// Error, spread, excess and expected at one score, in the order of [`Critical`].
fn families(layout: &Layout, parameters: &[f64], at: &super::curves::ScoreRow) -> [Vec<f64>; 4] {
    let q = layout.quantities(parameters, at);
    let spread = pairs(q.event.len()).map(|(i, j)| q.event[i] - q.event[j]).collect();
    let excess = q.event.iter().map(|c| c - q.expected).collect();
    let expected = vec![q.expected_logit()];
    [q.event_logit, spread, excess, expected]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    #[test]
    fn critical_values_grow_with_the_family_and_are_never_below_the_pointwise_one() {
        let layout = Layout { groups: 3, admitted: vec![0, 1, 2], sloped: vec![0, 1, 2], terms: 2, race: false };
        let scale = ScoreScale { center: 0.0, scale: 1.0, knots: None };
        let point = vec![0.0; layout.total()];
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let mut draw = |sd: f64| -> Vec<Vec<f64>> {
            let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
            (0..2000).map(|_| (0..layout.total()).map(|_| sd * normal()).collect()).collect()
        };
        let c = critical(&layout, &scale, (-2.0, 2.0), &point, &draw(0.1));
        // Three curves of two parameters each: well above one normal variable, below Scheffé's bound sqrt(χ²_8).
        assert!(c.error > 2.4 && c.error < 3.94, "{c:?}");
        assert!(c.expected >= Z_95 && c.expected < c.error, "{c:?}");
        let none = critical(&layout, &scale, (-2.0, 2.0), &point, &vec![point.clone(); 50]);
        assert_eq!(none.spread, Z_95);
    }

    #[test]
    fn pairs_are_counted_once() {
        assert_eq!(pairs(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
        assert_eq!(pairs(1).count(), 0);
    }
}
