//! The cluster bootstrap: patients are drawn with replacement, everything of a patient together.
//!
//! A draw is a vector of multiplicities, one per patient, that serves as weights in every fit of that draw, so
//! curves, recalibration and reference mix are refitted on the same patients. Each draw has its own ChaCha
//! stream: results do not depend on the order or the number of threads.

use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// A seeded bootstrap over `clusters` clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterBootstrap {
    pub clusters: usize,
    pub seed: u64,
}

impl ClusterBootstrap {
    /// How often each cluster occurs in draw number `draw`; sums to the number of clusters.
    pub fn multiplicities(&self, draw: u64) -> Vec<f64> {
        let mut counts = vec![0.0; self.clusters];
        if self.clusters == 0 {
            return counts;
        }
        let mut rng = self.stream(draw);
        for _ in 0..self.clusters {
            counts[rng.random_range(0..self.clusters)] += 1.0;
        }
        counts
    }

    /// `statistic` of every draw `0..draws`, computed in parallel, in order.
    pub fn map<T: Send>(&self, draws: u64, statistic: impl Fn(u64, &[f64]) -> T + Sync) -> Vec<T> {
        (0..draws).into_par_iter().map(|draw| statistic(draw, &self.multiplicities(draw))).collect()
    }

    /// As [`ClusterBootstrap::map`], with memory that is kept from draw to draw and says nothing to the next.
    pub fn map_with<S, T: Send>(
        &self,
        draws: u64,
        memory: impl Fn() -> S + Sync + Send,
        statistic: impl Fn(&mut S, &[f64]) -> T + Sync + Send,
    ) -> Vec<T> {
        let draws = (0..draws).into_par_iter();
        draws.map_init(memory, |memory, draw| statistic(memory, &self.multiplicities(draw))).collect()
    }

    /// `statistic` of `draws` vectors of random signs, one per cluster (the multipliers of a wild bootstrap).
    pub fn map_signs<T: Send>(&self, draws: u64, statistic: impl Fn(&[f64]) -> T + Sync) -> Vec<T> {
        let signs = |draw| -> Vec<f64> {
            let mut rng = self.stream(draw);
            let mut signs = Vec::with_capacity(self.clusters + 63);
            while signs.len() < self.clusters {
                let bits = rng.next_u64();
                signs.extend((0..64).map(|bit| ((bits >> bit & 1) * 2) as f64 - 1.0));
            }
            signs.truncate(self.clusters);
            signs
        };
        (0..draws).into_par_iter().map(|draw| statistic(&signs(draw))).collect()
    }

    /// A fold `0..folds` for every cluster, sizes as even as they can be.
    pub fn folds(&self, folds: usize) -> Vec<usize> {
        let mut fold: Vec<usize> = (0..self.clusters).map(|c| c % folds.max(1)).collect();
        fold.shuffle(&mut self.stream(u64::MAX));
        fold
    }

    fn stream(&self, draw: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(draw);
        rng
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::standard_deviation;

    #[test]
    fn a_draw_has_as_many_patients_as_the_cohort_and_repeats_with_its_seed() {
        let bootstrap = ClusterBootstrap { clusters: 500, seed: 7 };
        let first = bootstrap.multiplicities(3);
        assert_eq!(first.iter().sum::<f64>(), 500.0);
        assert_eq!(first, bootstrap.multiplicities(3));
        assert_ne!(first, bootstrap.multiplicities(4));
        assert_ne!(first, ClusterBootstrap { seed: 8, ..bootstrap }.multiplicities(3));
        let left_out = first.iter().filter(|&&m| m == 0.0).count() as f64 / 500.0;
        assert!((left_out - (-1.0f64).exp()).abs() < 0.05, "{left_out}");
    }

    #[test]
    fn the_spread_of_a_mean_is_its_standard_error() {
        let values: Vec<f64> = (0..400).map(|i| f64::from((i * 61) % 97)).collect();
        let means = ClusterBootstrap { clusters: 400, seed: 1 }
            .map(2000, |_, w| values.iter().zip(w).map(|(v, w)| v * w).sum::<f64>() / 400.0);
        let expected = standard_deviation(&values) / 20.0;
        // The relative standard error of a standard deviation from 2000 draws is 1.6 %.
        assert!((standard_deviation(&means) / expected - 1.0).abs() < 0.06);
    }

    #[test]
    fn signs_are_even_and_independent() {
        let bootstrap = ClusterBootstrap { clusters: 130, seed: 5 };
        let drawn = bootstrap.map_signs(2000, <[f64]>::to_vec);
        assert!(drawn.iter().all(|s| s.len() == 130 && s.iter().all(|v| v.abs() == 1.0)));
        // Standard error .022, over 130 and 129 means.
        let mean = |f: &dyn Fn(&[f64]) -> f64| drawn.iter().map(|s| f(s)).sum::<f64>() / 2000.0;
        assert!((0..130).all(|i| mean(&|s| s[i]).abs() < 0.1));
        assert!((1..130).all(|i| mean(&|s| s[i - 1] * s[i]).abs() < 0.1));
    }
}
