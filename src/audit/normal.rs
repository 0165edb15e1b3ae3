//! The spread of estimates that have no tallies: the largest less the smallest of normal numbers with known errors.
//!
//! As `stats::spread`, with draws from the normal law in place of patients. Left out: whether they are normal.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::performance::Estimate;
use crate::stats::{Z_95, quantile};

/// The spread less what chance adds to it, and limits of all differences at once; the lower one is 0 where `p` of no
/// difference is above .05. `None` of fewer than two, or without errors.
pub(super) fn spread(of: &[Estimate], p: f64, draws: u64, seed: u64) -> Option<(f64, (f64, f64))> {
    let errors: Vec<f64> = of.iter().map(|e| e.error.filter(|e| *e > 0.0)).collect::<Option<_>>()?;
    if of.len() < 2 || draws == 0 {
        return None;
    }
    let pairs: Vec<(usize, usize)> = (0..of.len()).flat_map(|a| (a + 1..of.len()).map(move |b| (a, b))).collect();
    let observed = pairs.iter().map(|(a, b)| (of[*a].value - of[*b].value).abs()).fold(0.0, f64::max);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut sum, mut largest) = (0.0, Vec::with_capacity(draws as usize));
    for _ in 0..draws {
        let noise: Vec<f64> = errors.iter().map(|e| e * rng.sample::<f64, _>(StandardNormal)).collect();
        let at = |i: usize| of[i].value + noise[i];
        sum += pairs.iter().map(|(a, b)| (at(*a) - at(*b)).abs()).fold(0.0, f64::max);
        let t = |&(a, b): &(usize, usize)| (noise[a] - noise[b]).abs() / errors[a].hypot(errors[b]);
        largest.push(pairs.iter().map(t).fold(0.0, f64::max));
    }
    largest.sort_unstable_by(f64::total_cmp);
    let critical = quantile(&largest, 0.95)?.max(Z_95);
    let value = (2.0 * observed - sum / draws as f64).max(0.0);
    let side = |sign: f64| {
        let one =
            |&(a, b): &(usize, usize)| (of[a].value - of[b].value).abs() + sign * critical * errors[a].hypot(errors[b]);
        pairs.iter().map(one).fold(0.0, f64::max)
    };
    let lower = if p > 0.05 { 0.0 } else { side(-1.0).min(value) };
    Some((value, (lower, side(1.0))))
}
