//! Numbers whose errors nothing analytic gives: average precision and the expected calibration error, with draws of
//! patients.
//!
//! Rows are sorted once; a draw is a multiplicity for each patient that all findings and groups share, so that 2000
//! draws of 30,000 studies are passes over arrays. Left out: everything that has a formula.

use super::dataset::Base;
use crate::stats::{ClusterBootstrap, quantile};

/// Bins of the calibration error, each with as many rows as the others.
pub const BINS: usize = 10;
/// Draws without an event are not used; beyond this share of them there are no limits.
const EMPTY_MAX: f64 = 0.05;

/// Rows by ascending score, as arrays.
pub(super) struct Resampled {
    score: Vec<f64>,
    outcome: Vec<bool>,
    /// Of the whole dataset.
    patient: Vec<u32>,
    /// Whether the row below has another score.
    is_end: Vec<bool>,
}

/// Average precision, as `stats::average_precision`, and calibration error, as `stats::calibration_error`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Drawn {
    /// None without an event.
    pub(super) auprc: Option<f64>,
    pub(super) ece: Option<f64>,
}

/// Limits of both.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Limits {
    pub(super) auprc: Option<(f64, f64)>,
    pub(super) ece: Option<(f64, f64)>,
}

impl Resampled {
    pub(super) fn of(base: &Base) -> Self {
        let rows = &base.rows;
        let is_end = (0..rows.len()).map(|i| i == 0 || rows[i - 1].score != rows[i].score).collect();
        Self {
            score: rows.iter().map(|r| r.score).collect(),
            outcome: rows.iter().map(|r| r.outcome).collect(),
            patient: rows.iter().map(|r| r.patient).collect(),
            is_end,
        }
    }

    /// Of all rows once.
    pub(super) fn value(&self) -> Drawn {
        self.weighed(|_| 1.0)
    }

    fn weighed(&self, weight: impl Fn(usize) -> f64) -> Drawn {
        let n = self.score.len();
        let (mut area, mut found, mut seen, mut hits) = (0.0, 0.0, 0.0, 0.0);
        let mut error = 0.0;
        for bin in (0..BINS).rev() {
            let mut gap = 0.0;
            for i in (bin * n / BINS..(bin + 1) * n / BINS).rev() {
                let w = weight(i);
                seen += w;
                gap += w * self.score[i];
                if self.outcome[i] {
                    gap -= w;
                    found += w;
                    hits += w;
                }
                if self.is_end[i] && hits > 0.0 {
                    area += hits * (found / seen);
                    hits = 0.0;
                }
            }
            error += f64::abs(gap);
        }
        Drawn { auprc: (found > 0.0).then(|| area / found), ece: (seen > 0.0).then(|| error / seen) }
    }
}

/// Limits for every block. Those of the precision are percentiles; those of the calibration error are reversed about the
/// value (Davison & Hinkley 1997, §5.2.1), since chance makes the error of a draw larger, as it made the error that was seen.
pub(super) fn limits(blocks: &[Resampled], patients: usize, draws: u64, seed: u64) -> Vec<Limits> {
    let bootstrap = ClusterBootstrap { clusters: patients, seed };
    let of_draw = |small: &mut Vec<u8>, weights: &[f64]| -> Vec<Drawn> {
        small.clear();
        small.extend(weights.iter().map(|w| *w as u8));
        let one = |block: &Resampled| block.weighed(|i| f64::from(small[block.patient[i] as usize]));
        blocks.iter().map(one).collect()
    };
    let drawn = bootstrap.map_with(draws, Vec::new, of_draw);
    let of_block = |at: usize| {
        let value = blocks[at].value();
        let sides = |of: &dyn Fn(&Drawn) -> Option<f64>| {
            let mut values: Vec<f64> = drawn.iter().filter_map(|draw| of(&draw[at])).collect();
            values.sort_unstable_by(f64::total_cmp);
            let enough = !values.is_empty() && values.len() as f64 >= draws as f64 * (1.0 - EMPTY_MAX);
            enough.then(|| Some((quantile(&values, 0.025)?, quantile(&values, 0.975)?))).flatten()
        };
        let reversed = |value: f64, (lower, upper): (f64, f64)| {
            let turn = |side: f64| (2.0 * value - side).clamp(0.0, 1.0);
            (turn(upper).min(value), turn(lower).max(value))
        };
        let ece = value.ece.zip(sides(&|d| d.ece)).map(|(value, sides)| reversed(value, sides));
        Limits { auprc: sides(&|d| d.auprc), ece }
    };
    (0..blocks.len()).map(of_block).collect()
}
