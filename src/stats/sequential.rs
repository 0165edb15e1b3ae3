//! Watching a stream of results for a change: the cumulative sum of log-likelihood ratios (Page 1954).
//!
//! Whatever the results are, the sum restarts at 0 and alarms at `limit`. For ratios that are true to the unchanged
//! process the mean number of results until a false alarm is at least exp(limit) (Lorden 1971), so a limit of
//! ln(results per false alarm) keeps a promise without simulation; the promise is cautious, and the true number is
//! larger. Neighbours: `assess` has the reason that an alarm is for, `validate` measures delays. Left out: estimating the
//! unchanged process, and what follows an alarm.

/// A running sum with its alarm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cusum {
    limit: f64,
    sum: f64,
}

impl Cusum {
    /// Alarms once the sum reaches `limit` > 0.
    pub fn new(limit: f64) -> Self {
        Self { limit, sum: 0.0 }
    }

    /// One that gives a false alarm at most once in so many results on average.
    pub fn with_run_length(results: f64) -> Self {
        Self::new(results.max(1.0).ln())
    }

    /// Adds a log-likelihood ratio (changed over unchanged); true while the alarm lasts.
    pub fn add(&mut self, log_ratio: f64) -> bool {
        self.sum = (self.sum + log_ratio).max(0.0);
        self.sum >= self.limit
    }

    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// The log-likelihood ratio of one result that was expected to be an error with `probability`, for errors whose odds
/// have grown by the factor `odds_ratio` (risk-adjusted as in Steiner, Cook, Farewell & Treasure 2000).
pub fn error_log_ratio(wrong: bool, probability: f64, odds_ratio: f64) -> f64 {
    let norm = (1.0 - probability + odds_ratio * probability).ln();
    if wrong { odds_ratio.ln() - norm } else { -norm }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_distr::StandardNormal;

    /// Mean number of results until the alarm, over `runs` streams of normal variables with this mean.
    fn run_length(limit: f64, mean: f64, runs: u64) -> f64 {
        let length = |seed| {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut cusum = Cusum::new(limit);
            (1..).find(|_| cusum.add(mean + rng.sample::<f64, _>(StandardNormal) - 0.5)).unwrap()
        };
        (0..runs).map(length).sum::<u64>() as f64 / runs as f64
    }

    #[test]
    fn has_the_published_run_lengths() {
        // Tabular one-sided CUSUM of unit normal variables, k = 1/2 (Lucas & Crosier 1982, without head start; in
        // Montgomery's table 9.3 two-sided, which halves the first column): h = 4: 336 and 8.38, h = 5: 930 and 10.4.
        // 3,000 runs of a nearly exponential length have a standard error of 1.8 %, of a short one less.
        for (limit, unchanged, changed) in [(4.0, 336.0, 8.38), (5.0, 930.0, 10.38)] {
            let (found, delay) = (run_length(limit, 0.0, 3000), run_length(limit, 1.0, 3000));
            assert!((found / unchanged - 1.0).abs() < 0.07, "{found} for {unchanged}");
            assert!((delay / changed - 1.0).abs() < 0.03, "{delay} for {changed}");
            assert!(found > limit.exp(), "Lorden's bound");
        }
    }

    #[test]
    fn a_ratio_is_a_likelihood_ratio() {
        for (p, odds_ratio) in [(0.1, 2.0), (0.6, 3.0), (0.3, 0.5)] {
            let expected = p * error_log_ratio(true, p, odds_ratio).exp()
                + (1.0 - p) * error_log_ratio(false, p, odds_ratio).exp();
            assert!((expected - 1.0_f64).abs() < 1e-12, "a mean of one under the unchanged process: {expected}");
            // Steiner et al., eq. 3: the changed probability is R p / (1 − p + R p).
            let changed = odds_ratio * p / (1.0 - p + odds_ratio * p);
            assert!((error_log_ratio(true, p, odds_ratio) - (changed / p).ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn the_sum_restarts_and_the_alarm_lasts_as_long_as_the_sum() {
        let mut cusum = Cusum::with_run_length(3.0_f64.exp());
        assert!(!cusum.add(-5.0) && cusum.sum() == 0.0);
        assert!(!cusum.add(2.0) && cusum.add(1.5) && !cusum.add(-1.0));
    }
}
