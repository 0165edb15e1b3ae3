//! Distributions, links and intervals for proportions.
//!
//! Neighbours: everything in `stats` and `assess`. Left out: what statrs has and nobody here needs.

use statrs::distribution::{ChiSquared, ContinuousCDF, StudentsT};
use statrs::function::erf::erfc;

use super::loops;

/// The two-sided 95 % point of the standard normal distribution.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// log(p / (1 − p)), with p kept 1e-6 away from 0 and 1.
pub fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}

/// The inverse of [`logit`], without overflow for any finite argument.
pub fn expit(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// Probabilities proportional to the exponentials of `logits`, in place.
pub fn softmax(logits: &mut [f64]) {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for value in logits.iter_mut() {
        *value = (*value - top).exp();
        sum += *value;
    }
    for value in logits.iter_mut() {
        *value /= sum;
    }
}

/// P(X ≥ `statistic`) for a chi-square variable with `df` degrees of freedom; 1 for a statistic that is not positive.
pub fn chi_square_tail(statistic: f64, df: usize) -> f64 {
    match ChiSquared::new(df as f64) {
        Ok(chi) if statistic > 0.0 => chi.sf(statistic),
        _ => 1.0,
    }
}

/// P(Z ≥ `z`) for a standard normal variable.
pub fn normal_tail(z: f64) -> f64 {
    0.5 * erfc(z / std::f64::consts::SQRT_2)
}

/// P(T ≥ `t`) for Student's t with `freedom` degrees of freedom; not a number where that is not positive.
pub fn student_tail(t: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |law| law.sf(t))
}

/// The `p` quantile of Student's t, 0 < p < 1.
pub fn student_quantile(p: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |law| law.inverse_cdf(p))
}

/// Wilson's 95 % score interval of a rate; `None` without observations.
pub fn wilson(successes: u64, trials: u64) -> Option<(f64, f64)> {
    if trials == 0 || successes > trials {
        return None;
    }
    let (n, p, z2) = (trials as f64, successes as f64 / trials as f64, Z_95 * Z_95);
    let center = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Some(((center - half).max(0.0), (center + half).min(1.0)))
}

/// The `p`-quantile (0..1) of ascending values by linear interpolation (Hyndman & Fan type 7); `None` if empty.
pub fn quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = p.clamp(0.0, 1.0) * last as f64;
    let (low, share) = (sorted[position as usize], position.fract());
    // Without a share in it the next value plays no part: it may be infinite.
    let next = sorted.get(position as usize + 1).filter(|_| share > 0.0);
    Some(next.map_or(low, |next| low + share * (next - low)))
}

/// The sample standard deviation (n − 1); 0 for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let n = values.len() as f64;
    let mean = loops::sum(values) / n;
    let deviations: Vec<f64> = values.iter().map(|v| v - mean).collect();
    (loops::dot(&deviations, &deviations) / (n - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wilson_intervals_agree_with_statsmodels() {
        // statsmodels.stats.proportion.proportion_confint(k, n, method="wilson"); digits as printed there.
        let check = |(k, n): (u64, u64), (lower, upper): (f64, f64)| {
            let (l, u) = wilson(k, n).unwrap();
            assert!((l - lower).abs() < 1e-9 && (u - upper).abs() < 1e-9, "{k} of {n}: {l} {u}");
        };
        check((0, 10), (0.0, 0.277532799863));
        check((3, 10), (0.107791267406, 0.603221852539));
        check((7, 50), (0.069508334270, 0.261861937106));
        check((81, 263), (0.255288519878, 0.366209576983));
        check((50, 50), (0.928652400867, 1.0));
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(3, 2), None);
    }

    #[test]
    fn chi_square_tails_agree_with_the_printed_table() {
        // Upper 5 % and 1 % points, Abramowitz & Stegun table 26.8; tolerance is the table's rounding.
        for (statistic, df, tail) in
            [(3.841, 1, 0.05), (5.991, 2, 0.05), (9.488, 4, 0.05), (13.277, 4, 0.01), (15.507, 8, 0.05)]
        {
            assert!((chi_square_tail(statistic, df) - tail).abs() < 2e-5, "{statistic} {df}");
        }
        assert_eq!(chi_square_tail(-0.1, 2), 1.0);
    }

    #[test]
    fn students_t_agrees_with_scipy() {
        // scipy.stats.t: sf(2.5, 58), sf(4.0, 19), ppf(0.975, 19), ppf(0.975, 98)
        for (t, freedom, tail) in [(2.5, 58.0, 7.634_614_8e-3), (4.0, 19.0, 3.830_961_7e-4)] {
            assert!((student_tail(t, freedom) / tail - 1.0).abs() < 1e-6, "{t} {freedom} {}", student_tail(t, freedom));
        }
        assert!((student_quantile(0.975, 19.0) - 2.093_024).abs() < 1e-4);
        assert!((student_quantile(0.975, 98.0) - 1.984_467).abs() < 1e-4);
        assert!(student_tail(1.0, 0.0).is_nan());
    }

    #[test]
    fn quantiles_interpolate_between_order_statistics() {
        let values = [1.0, 2.0, 3.0, 4.0];
        for (p, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (1.0, 4.0)] {
            assert_eq!(quantile(&values, p), Some(expected));
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0, 2.0, f64::INFINITY], 0.5), Some(2.0));
    }

    proptest! {
        #[test]
        fn expit_undoes_logit(p in 0.001f64..0.999) {
            prop_assert!((expit(logit(p)) - p).abs() < 1e-12);
        }

        #[test]
        fn softmax_sums_to_one_at_any_offset(mut v in prop::collection::vec(-50.0f64..50.0, 1..6), shift in -1e3f64..1e3) {
            let mut shifted: Vec<f64> = v.iter().map(|x| x + shift).collect();
            softmax(&mut v);
            softmax(&mut shifted);
            prop_assert!((v.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(v.iter().zip(&shifted).all(|(a, b)| (a - b).abs() < 1e-9));
        }
    }
}
