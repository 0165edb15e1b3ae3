//! Fractions as decimal strings (VR DS, at most 16 characters) that keep their order after rounding.
//!
//! A report is read by people and by programs: score, threshold and decision must agree as written, and an
//! estimate plus or minus its range must stay within its limits as a reader adds them up. Everything is counted
//! in whole units of the last decimal. Neighbours: `tree` and `text`. Left out: what the numbers mean.

use crate::domain::Interval;

/// Decimals of a percentage; viewers show two.
const DECIMALS: u32 = 2;
/// The most that fit beside `99.` in 16 characters.
const DECIMALS_MAX: u32 = 13;

/// An estimate and its distances to the confidence limits, percent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub estimate: String,
    pub plus: String,
    pub minus: String,
    /// The limits themselves, for people.
    pub lower: String,
    pub upper: String,
}

/// A fraction as a percentage with at most two decimals.
pub(super) fn percent(fraction: f64) -> String {
    decimal(units(fraction, DECIMALS), DECIMALS)
}

/// Score and threshold as percentages with as many decimals as it takes to show which one is greater, and that a
/// score above 0 is not 0. `score >= threshold` holds for the strings exactly when it holds for the fractions.
pub(super) fn score_and_threshold(score: f64, threshold: f64) -> (String, String) {
    for d in DECIMALS..=DECIMALS_MAX {
        let (s, t) = (units(score, d), units(threshold, d));
        if (score >= threshold) == (s >= t) && (score == 0.0 || s != 0) {
            return (decimal(s, d), decimal(t, d));
        }
    }
    // Closer to each other, or to 0, than 13 decimals can tell: one unit of the last decimal stands for it.
    let t = units(threshold, DECIMALS_MAX);
    let s = units(score, DECIMALS_MAX);
    let (s, t) = match score >= threshold {
        true => (s, t),
        false => (s.min(t - 1).max(0), t.max(1)),
    };
    (decimal(s, DECIMALS_MAX), decimal(t, DECIMALS_MAX))
}

/// The interval in percent, within `lowest`..`highest` percent even after rounding. Limits that do not enclose
/// the estimate are widened to it. `None` if a value is not finite or the estimate lies outside the limits.
pub(super) fn range(interval: &Interval, lowest: i64, highest: i64) -> Option<Range> {
    let Interval { estimate, lower, upper } = *interval;
    if !(estimate.is_finite() && lower.is_finite() && upper.is_finite()) {
        return None;
    }
    let scale = 10_i64.pow(DECIMALS);
    let (lowest, highest) = (lowest * scale, highest * scale);
    let e = units(estimate, DECIMALS);
    if !(lowest..=highest).contains(&e) {
        return None;
    }
    let lower = units(lower, DECIMALS).clamp(lowest, e);
    let mut upper = units(upper, DECIMALS).clamp(e, highest);
    // A reader adds in binary floating point, where 31.27 + 68.73 may exceed 100.
    while upper > e && as_read(e) + as_read(upper - e) > as_read(highest) {
        upper -= 1;
    }
    Some(Range {
        estimate: decimal(e, DECIMALS),
        plus: decimal(upper - e, DECIMALS),
        minus: decimal(e - lower, DECIMALS),
        lower: decimal(lower, DECIMALS),
        upper: decimal(upper, DECIMALS),
    })
}

/// A number without a unit, to three decimals, with its limits; `None` as for [`range`], or beyond a million.
pub(super) fn plain_range(interval: &Interval) -> Option<Range> {
    let Interval { estimate, lower, upper } = *interval;
    let small = |v: f64| v.is_finite() && v.abs() < 1e6;
    if ![estimate, lower, upper].into_iter().all(small) {
        return None;
    }
    let [e, lower, upper] = [estimate, lower, upper].map(|v| (v * 1000.0).round() as i64);
    let (lower, upper) = (lower.min(e), upper.max(e));
    let text = |units| decimal(units, 3);
    let (plus, minus) = (text(upper - e), text(e - lower));
    Some(Range { estimate: text(e), plus, minus, lower: text(lower), upper: text(upper) })
}

/// Whole units of the `decimals`-th decimal of a percentage.
fn units(fraction: f64, decimals: u32) -> i64 {
    (fraction * 10_f64.powi(decimals as i32 + 2)).round() as i64
}

/// `units` as a decimal without trailing zeros.
fn decimal(units: i64, decimals: u32) -> String {
    let scale = 10_u64.pow(decimals);
    let sign = if units < 0 { "-" } else { "" };
    let whole = units.unsigned_abs() / scale;
    let rest = format!("{:0width$}", units.unsigned_abs() % scale, width = decimals as usize);
    let rest = rest.trim_end_matches('0');
    if rest.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{rest}") }
}

fn as_read(units: i64) -> f64 {
    decimal(units, DECIMALS).parse().expect("a decimal string is a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn score_and_threshold_take_as_many_decimals_as_the_decision_needs() {
        let rows: &[(f64, f64, &str, &str)] = &[
            (0.12, 0.5, "12", "50"),
            (0.5, 0.5, "50", "50"),
            (1.0, 0.5, "100", "50"),
            (0.0, 0.5, "0", "50"),
            (0.123456, 0.5, "12.35", "50"),
            (0.49999, 0.5, "49.999", "50"),
            (0.4999999, 0.5, "49.99999", "50"),
            (0.50001, 0.5, "50", "50"),
            (0.000012, 0.5, "0.001", "50"),
            (0.5_f64.next_down(), 0.5, "49.9999999999999", "50"),
            (1e-20, 1e-19, "0", "0.0000000000001"),
        ];
        for (s, t, score, threshold) in rows {
            assert_eq!(score_and_threshold(*s, *t), ((*score).to_owned(), (*threshold).to_owned()), "{s} {t}");
        }
    }

    #[test]
    fn an_interval_stays_within_its_limits() {
        let rows: &[(f64, f64, f64, Option<(&str, &str, &str)>)] = &[
            (0.31, 0.24, 0.40, Some(("31", "9", "7"))),
            (0.0, -0.1, 0.02, Some(("0", "2", "0"))),
            (0.999, 0.9, 1.2, Some(("99.9", "0.1", "9.9"))),
            (0.3, 0.31, 0.32, Some(("30", "2", "0"))),
            (f64::NAN, 0.0, 1.0, None),
            (0.5, 0.0, f64::INFINITY, None),
            (1.5, 0.0, 1.0, None),
        ];
        for (estimate, lower, upper, expected) in rows {
            let got = range(&Interval { estimate: *estimate, lower: *lower, upper: *upper }, 0, 100);
            let expected = expected.map(|(e, p, m)| (e.to_owned(), p.to_owned(), m.to_owned()));
            assert_eq!(got.map(|r| (r.estimate, r.plus, r.minus)), expected, "{estimate} {lower} {upper}");
        }
    }

    #[test]
    fn a_number_without_a_unit_has_three_decimals_and_its_limits_around_it() {
        let of = |lower, estimate, upper| plain_range(&Interval { estimate, lower, upper });
        let range = of(-0.0124, 0.3456, 1.5).unwrap();
        assert_eq!((range.estimate.as_str(), range.plus.as_str(), range.minus.as_str()), ("0.346", "1.154", "0.358"));
        assert_eq!((range.lower.as_str(), range.upper.as_str()), ("-0.012", "1.5"));
        assert_eq!(of(0.0, f64::NAN, 1.0), None);
        assert_eq!(of(0.0, 1.0, 1e7), None);
    }

    #[test]
    fn negative_percentages_keep_their_sign() {
        assert_eq!(percent(-0.0525), "-5.25");
        assert_eq!(percent(-0.000001), "0");
    }

    proptest! {
        #[test]
        fn the_decision_survives_rounding(
            score in 0.0..=1.0f64, gap in -1e-9..1e-9f64, far in 0.0..=1.0f64, near: bool
        ) {
            let threshold = if near { (score + gap).clamp(0.0, 1.0) } else { far };
            let (s, t) = score_and_threshold(score, threshold);
            prop_assert!(s.len() <= 16 && t.len() <= 16);
            let (s, t): (f64, f64) = (s.parse().unwrap(), t.parse().unwrap());
            prop_assert_eq!(s >= t, score >= threshold);
            prop_assert!((0.0..=100.0).contains(&s) && (0.0..=100.0).contains(&t));
        }

        #[test]
        fn a_reader_who_adds_the_range_stays_within_0_and_100(e in 0.0..=1.0f64, a in -0.5..1.5f64, b in -0.5..1.5f64) {
            let r = range(&Interval { estimate: e, lower: a.min(b), upper: a.max(b) }, 0, 100).unwrap();
            let read = |s: &str| s.parse::<f64>().unwrap();
            prop_assert!(read(&r.estimate) + read(&r.plus) <= 100.0);
            prop_assert!(read(&r.estimate) - read(&r.minus) >= 0.0);
            prop_assert!(r.estimate.len() <= 16 && r.plus.len() <= 16 && r.minus.len() <= 16);
        }
    }
}
