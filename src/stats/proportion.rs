//! Exact limits of a proportion (Clopper & Pearson 1934): for claims about error rates, where Wilson's interval, which
//! keeps its level on average only, would not do.
//!
//! Neighbours: `distribution` has Wilson's. Left out: differences of proportions.

use statrs::distribution::{Beta, ContinuousCDF};

/// The two-sided exact interval at `confidence` (0..1); `None` without trials.
pub fn clopper_pearson(successes: u64, trials: u64, confidence: f64) -> Option<(f64, f64)> {
    if trials == 0 || successes > trials || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let tail = (1.0 - confidence) / 2.0;
    let (k, n) = (successes as f64, trials as f64);
    let lower = if successes == 0 { 0.0 } else { beta_quantile(k, n - k + 1.0, tail)? };
    Some((lower, upper_limit(successes, trials, 1.0 - tail)?))
}

/// The one-sided exact upper limit at `confidence`: the smallest rate that so few successes speak against.
pub fn upper_limit(successes: u64, trials: u64, confidence: f64) -> Option<f64> {
    if trials == 0 || successes > trials || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let (k, n) = (successes as f64, trials as f64);
    if successes == trials { Some(1.0) } else { beta_quantile(k + 1.0, n - k, confidence) }
}

/// By bisection of the distribution function.
fn beta_quantile(a: f64, b: f64, p: f64) -> Option<f64> {
    let beta = Beta::new(a, b).ok()?;
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    while high - low > 1e-12 {
        let middle = (low + high) / 2.0;
        if beta.cdf(middle) < p { low = middle } else { high = middle }
    }
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_scipy() {
        // scipy.stats.beta.ppf(.025, k, n − k + 1) and beta.ppf(.975, k + 1, n − k).
        let check = |(k, n): (u64, u64), (lower, upper): (f64, f64)| {
            let (l, u) = clopper_pearson(k, n, 0.95).unwrap();
            assert!((l - lower).abs() < 1e-6 && (u - upper).abs() < 1e-6, "{k} of {n}: {l} {u}");
        };
        check((0, 10), (0.000000000, 0.308497108));
        check((3, 10), (0.066739511, 0.652452850));
        check((50, 1000), (0.037335398, 0.065390488));
        check((41, 1200), (0.024627950, 0.046067385));
        check((10, 10), (0.691502892, 1.000000000));
        // beta.ppf(.95, 51, 950)
        assert!((upper_limit(50, 1000, 0.95).unwrap() - 0.062863404).abs() < 1e-6);
        assert_eq!(upper_limit(5, 5, 0.95), Some(1.0));
        assert_eq!(
            (clopper_pearson(0, 0, 0.95), clopper_pearson(3, 2, 0.95), upper_limit(1, 2, 1.0)),
            (None, None, None)
        );
    }
}
