//! Where a number lies: linear, logarithmic or by name; ticks; how numbers are written.

/// How the x axis is divided.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Scale {
    #[default]
    Linear,
    /// Values that are not above zero have no place and are left out.
    Log,
    /// A point's x is the place of its name, from 0.
    Names(Vec<String>),
}

/// A range of values on a range of the page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    values: (f64, f64),
    page: (f64, f64),
    is_log: bool,
}

impl Axis {
    pub(super) fn linear(values: (f64, f64), page: (f64, f64)) -> Self {
        Self { values: ordered(values), page, is_log: false }
    }

    /// `values` lie above zero.
    pub(super) fn log(values: (f64, f64), page: (f64, f64)) -> Self {
        let (low, high) = ordered((values.0.max(f64::MIN_POSITIVE).ln(), values.1.max(f64::MIN_POSITIVE).ln()));
        Self { values: (low, high), page, is_log: true }
    }

    /// The place of a value, at the nearer end where it lies outside.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.page.0 + self.part(value) * (self.page.1 - self.page.0)
    }

    /// How far along the axis a value lies, 0 to 1.
    pub(super) fn part(&self, value: f64) -> f64 {
        let value = if self.is_log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let (low, high) = self.values;
        // Halves, since the difference of two large numbers may not be one.
        ((value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0)).clamp(0.0, 1.0)
    }

    /// Below (-1), within (0) or above (1) the axis.
    pub(super) fn side(&self, value: f64) -> i8 {
        let value = if self.is_log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let slack = 1e-9 * (self.values.1 - self.values.0);
        i8::from(value > self.values.1 + slack) - i8::from(value < self.values.0 - slack)
    }

    /// At most about `count` values with their text, round ones.
    pub(super) fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let (low, high) = self.values;
        if self.is_log {
            let decades =
                (low / std::f64::consts::LN_10).floor() as i32..=(high / std::f64::consts::LN_10).ceil() as i32;
            let all: Vec<f64> = decades.flat_map(|d| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(d))).collect();
            let within = |v: &f64| v.is_finite() && *v > 0.0 && self.side(*v) == 0;
            let fine: Vec<f64> = all.iter().copied().filter(within).collect();
            let coarse: Vec<f64> = all.iter().copied().step_by(3).filter(within).collect();
            let chosen = if fine.len() <= count || coarse.len() < 2 { fine } else { coarse };
            let step = chosen.len().div_ceil(count.max(1)).max(1);
            return chosen.into_iter().step_by(step).map(|v| (v, short(v))).collect();
        }
        let step = round_step((high - low) / count.max(1) as f64);
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let first = (low / step - 1e-9).ceil();
        let values = (0..=count + 1).map(|k| (first + k as f64) * step).take_while(|v| self.side(*v) <= 0);
        values.map(|v| (v, if v.abs() < 1e15 { fixed(v, decimals) } else { short(v) })).collect()
    }
}

/// An axis needs a length, whatever it was given.
fn ordered((low, high): (f64, f64)) -> (f64, f64) {
    // Beyond, differences are no numbers any more; max and min would take NaN for a bound.
    let tame = |v: f64| if v.is_finite() { v.clamp(-1e100, 1e100) } else { v };
    let (low, high) = (tame(low), tame(high));
    match (low.is_finite() && high.is_finite(), high - low) {
        (true, span) if span > 1e-12 * low.abs().max(high.abs()).max(1e-300) => (low, high),
        (true, _) => {
            let half = (low.abs() * 0.05).max(0.5);
            (low - half, low + half)
        }
        _ => (0.0, 1.0),
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-300).log10().floor());
    let multiple = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= least * (1.0 - 1e-9)).unwrap_or(10.0);
    multiple * power
}

/// The least and the largest of the values that are numbers.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |found, v| match found {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// A range with room at both ends that begins and ends at round values.
pub(super) fn roomy(range: Option<(f64, f64)>, ticks: usize) -> (f64, f64) {
    let (low, high) = ordered(range.unwrap_or((0.0, 1.0)));
    let room = 0.04 * (high - low);
    let step = round_step((high - low) / ticks.max(1) as f64);
    if !step.is_finite() || !room.is_finite() {
        return (low, high);
    }
    let (from, to) = (((low - room) / step).floor() * step, ((high + room) / step).ceil() * step);
    // Shares stay shares.
    if low >= 0.0 && high <= 1.0 { (from.max(0.0), to.min(1.0)) } else { (from, to) }
}

/// With so many decimals and a true minus sign; zero has no sign.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// With so many decimals, and large numbers by their power of ten.
pub(super) fn told(value: f64, decimals: usize) -> String {
    if value.abs() < 1e6 { fixed(value, decimals.min(9)) } else { short(value) }
}

/// As few digits as tell the value to a thousandth of itself.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        return format!("{value:.3e}").replace(".000e", "e").replace('-', "−");
    }
    let text = fixed(value, if size < 0.1 { 5 } else { 3 });
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Whole numbers with a thin space between groups of three digits.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let parts: Vec<&str> =
        (0..digits.len()).filter(|i| (digits.len() - i).is_multiple_of(3) || *i == 0).map(|i| &digits[i..]).collect();
    let ends = parts.iter().skip(1).map(|p| digits.len() - p.len()).chain([digits.len()]);
    let starts = parts.iter().map(|p| digits.len() - p.len());
    starts.zip(ends).map(|(a, b)| &digits[a..b]).collect::<Vec<_>>().join("\u{202f}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        let check = |axis: Axis, count: usize, expected: &[&str]| {
            let found: Vec<String> = axis.ticks(count).into_iter().map(|t| t.1).collect();
            assert_eq!(found, expected);
        };
        check(Axis::linear((0.0, 1.0), (0.0, 1.0)), 5, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        check(Axis::linear((-0.2, 0.05), (0.0, 1.0)), 5, &["−0.20", "−0.15", "−0.10", "−0.05", "0.00", "0.05"]);
        check(Axis::linear((3.0, 3.0), (0.0, 1.0)), 2, &["2.5", "3.0", "3.5"]);
        check(Axis::linear((f64::NAN, 3.0), (0.0, 1.0)), 2, &["0.0", "0.5", "1.0"]);
        check(Axis::log((1.0, 200.0), (0.0, 1.0)), 8, &["1", "2", "5", "10", "20", "50", "100", "200"]);
        check(Axis::log((1.0, 1e6), (0.0, 1.0)), 8, &["1", "10", "100", "1000", "10000", "100000", "1e6"]);
    }

    #[test]
    fn whatever_an_axis_is_given_it_places_numbers_on_the_page() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.0, -1.0, 1.0];
        for low in odd {
            for high in odd {
                for axis in [Axis::linear((low, high), (10.0, 20.0)), Axis::log((low, high), (10.0, 20.0))] {
                    for value in odd.iter().copied().filter(|v| v.is_finite()) {
                        let at = axis.at(value);
                        assert!((10.0..=20.0).contains(&at), "{value} on {axis:?}: {at}");
                    }
                    assert!(axis.ticks(6).len() <= 12, "{axis:?}");
                }
                let (from, to) = roomy(extent([low, high].into_iter()), 5);
                assert!(from.is_finite() && to.is_finite() && from < to, "{low} {high}: {from} {to}");
            }
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        let shorts = [0.25, 100.0, 0.0, -0.5, 1e-7, 12_345_678.0, 0.012].map(short);
        assert_eq!(shorts, ["0.25", "100", "0", "−0.5", "1e−7", "1.235e7", "0.012"]);
        assert_eq!((fixed(-0.001, 2), fixed(-1.25, 1)), ("0.00".to_owned(), "−1.2".to_owned()));
        assert_eq!(
            [0, 12, 999, 1000, 38_240, 1_234_567].map(grouped),
            ["0", "12", "999", "1 000", "38 240", "1 234 567"].map(|s| s.replace(' ', "\u{202f}"))
        );
    }
}
