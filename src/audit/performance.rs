//! What a finding's scores come to in one group of one slice: every metric of the audit, with limits.
//!
//! Limits are analytic where there is a formula (rates: Wilson; AUROC: DeLong; means and calibration: sums of patients),
//! all for patients who may have several studies. Nothing here is withheld for being a small number: that is `suppress`'s.
//! Neighbours: `resample` has the two metrics without a formula. Left out: comparisons, which are of `gaps`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dataset::{Base, Row};
use super::resample::{Limits, Resampled};
use crate::stats::{
    AucInfluence, PATIENTS_MIN, Z_95, calibration_intercept, calibration_slope, clustered_mean, clustered_rate,
};

/// A rate needs so many studies below its line.
pub const DENOMINATOR_MIN: usize = 30;

/// What is measured. All are of studies with a known outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Prevalence,
    /// Share of positive decisions.
    FlagRate,
    /// Missed among those with the finding.
    FalseNegativeRate,
    /// False alarms among those without.
    FalsePositiveRate,
    PositivePredictiveValue,
    NegativePredictiveValue,
    Auroc,
    /// Average precision.
    Auprc,
    Brier,
    /// Of a logistic model whose slope is held at 1; above 0: scores are too low.
    CalibrationIntercept,
    /// Below 1: scores are too extreme.
    CalibrationSlope,
    /// Expected calibration error over [`super::BINS`] bins of equally many studies.
    CalibrationError,
    /// (TP − FP·t/(1−t)) / n at the deployed threshold t (Vickers & Elkin 2006).
    NetBenefit,
}

/// A number with its 95 % limits, as far as there are any.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub lower: Option<f64>,
    pub upper: Option<f64>,
    /// Standard error, where limits come from one.
    #[serde(skip)]
    pub(super) error: Option<f64>,
}

/// Why there is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Withheld {
    /// Fewer than [`DENOMINATOR_MIN`] studies, or fewer patients than may be told of.
    TooFew,
    /// It would tell a number of 1 to 10 patients, or let somebody compute one.
    SmallCell,
    /// Nothing to compute: one value only, classes that are separated.
    Undefined,
}

/// A number, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Figure {
    Told(Estimate),
    Withheld { withheld: Withheld },
}

/// How many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Cell {
    pub studies: usize,
    pub patients: usize,
}

/// By outcome and decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Confusion {
    pub true_positive: Cell,
    pub false_negative: Cell,
    pub false_positive: Cell,
    pub true_negative: Cell,
    /// With the outcome, and without; all. Patients may be in several cells.
    pub events: Cell,
    pub non_events: Cell,
    pub all: Cell,
}

/// Everything of one block.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Performance {
    pub(super) counts: Confusion,
    pub(super) figures: BTreeMap<Metric, Figure>,
}

impl Figure {
    pub fn told(&self) -> Option<Estimate> {
        if let Self::Told(estimate) = self { Some(*estimate) } else { None }
    }

    pub(super) fn without(withheld: Withheld) -> Self {
        Self::Withheld { withheld }
    }

    pub(super) fn of(estimate: Option<Estimate>) -> Self {
        estimate.map_or(Self::without(Withheld::Undefined), Self::Told)
    }
}

impl Estimate {
    /// By the normal law, kept within these.
    pub(super) fn normal(value: f64, variance: Option<f64>, least: f64, most: f64) -> Self {
        let error = variance.map(f64::sqrt);
        let side = |sign: f64| error.map(|e| (value + sign * Z_95 * e).clamp(least, most));
        Self { value, lower: side(-1.0), upper: side(1.0), error }
    }

    pub(super) fn within(value: f64, limits: Option<(f64, f64)>) -> Self {
        let (lower, upper) = limits.unzip();
        Self { value, lower, upper, error: None }
    }
}

/// Distinct patients among rows with dense numbers.
struct Patients {
    seen: Vec<u8>,
    counts: [usize; 7],
}

pub(super) fn confusion(base: &Base) -> Confusion {
    counted(&base.rows, &base.clusters().0)
}

fn counted(rows: &[Row], cluster: &[usize]) -> Confusion {
    let mut of = Patients { seen: vec![0; rows.len()], counts: [0; 7] };
    let mut studies = [0; 7];
    for (row, &c) in rows.iter().zip(cluster) {
        let own = match (row.outcome, row.flag()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 3,
        };
        for cell in [own, if row.outcome { 4 } else { 5 }, 6] {
            studies[cell] += 1;
            of.counts[cell] += usize::from(of.seen[c] >> cell & 1 == 0);
            of.seen[c] |= 1 << cell;
        }
    }
    let cell = |i: usize| Cell { studies: studies[i], patients: of.counts[i] };
    Confusion {
        true_positive: cell(0),
        false_negative: cell(1),
        false_positive: cell(2),
        true_negative: cell(3),
        events: cell(4),
        non_events: cell(5),
        all: cell(6),
    }
}

/// All metrics. `limits`: of the two that are resampled, if they were.
pub(super) fn performance(base: &Base, limits: Limits) -> Performance {
    let rows = &base.rows;
    let (cluster, _) = base.clusters();
    let counts = counted(rows, &cluster);
    let rate = |keep: &dyn Fn(&Row) -> bool, hit: &dyn Fn(&Row) -> bool| rate(rows, &cluster, keep, hit);
    let mut figures = BTreeMap::from([
        (Metric::Prevalence, rate(&|_| true, &|r| r.outcome)),
        (Metric::FlagRate, rate(&|_| true, &Row::flag)),
        (Metric::FalseNegativeRate, rate(&|r| r.outcome, &|r| !r.flag())),
        (Metric::FalsePositiveRate, rate(&|r| !r.outcome, &Row::flag)),
        (Metric::PositivePredictiveValue, rate(&Row::flag, &|r| r.outcome)),
        (Metric::NegativePredictiveValue, rate(&|r| !r.flag(), &|r| !r.outcome)),
    ]);
    let smallest = counts.events.patients.min(counts.non_events.patients);
    let few = rows.len() < DENOMINATOR_MIN || smallest < PATIENTS_MIN;
    let told = |of: &dyn Fn() -> Option<Estimate>| {
        if few { Figure::without(Withheld::TooFew) } else { Figure::of(of()) }
    };
    let score: Vec<f64> = rows.iter().map(|r| r.score).collect();
    let z: Vec<f64> = rows.iter().map(|r| r.z).collect();
    let outcome: Vec<bool> = rows.iter().map(|r| r.outcome).collect();
    let mean = |values: Option<Vec<f64>>, least: f64| {
        let mean = clustered_mean(&values?, &cluster)?;
        Some(Estimate::normal(mean.value, mean.variance, least, 1.0))
    };
    let coefficient = |of: Option<crate::stats::Coefficient>| {
        of.map(|c| Estimate::normal(c.value, Some(c.error * c.error), f64::NEG_INFINITY, f64::INFINITY))
    };
    let resampled = Resampled::of(base).value();
    figures.extend([
        (
            Metric::Auroc,
            told(&|| {
                let influence = AucInfluence::of(&score, &outcome, &cluster)?;
                Some(Estimate::normal(influence.value, influence.variance(), 0.0, 1.0))
            }),
        ),
        (Metric::Auprc, told(&|| Some(Estimate::within(resampled.auprc?, limits.auprc)))),
        (Metric::Brier, told(&|| mean(Some(rows.iter().map(brier).collect()), 0.0))),
        (Metric::CalibrationIntercept, told(&|| coefficient(calibration_intercept(&z, &outcome, &cluster)))),
        (Metric::CalibrationSlope, told(&|| coefficient(calibration_slope(&z, &outcome, &cluster)))),
        (Metric::CalibrationError, told(&|| Some(Estimate::within(resampled.ece?, limits.ece)))),
        (Metric::NetBenefit, told(&|| mean(rows.iter().map(net_benefit).collect(), f64::NEG_INFINITY))),
    ]);
    Performance { counts, figures }
}

fn rate(rows: &[Row], cluster: &[usize], keep: &dyn Fn(&Row) -> bool, hit: &dyn Fn(&Row) -> bool) -> Figure {
    let own = || rows.iter().zip(cluster).filter(|(row, _)| keep(row));
    let (hits, cluster): (Vec<bool>, Vec<usize>) = own().map(|(row, c)| (hit(row), *c)).unzip();
    if hits.len() < DENOMINATOR_MIN {
        return Figure::without(Withheld::TooFew);
    }
    Figure::of(clustered_rate(&hits, &cluster).map(|(value, limits)| Estimate::within(value, Some(limits))))
}

pub(super) fn brier(row: &Row) -> f64 {
    (row.score - f64::from(u8::from(row.outcome))).powi(2)
}

/// None at a threshold of 1.
pub(super) fn net_benefit(row: &Row) -> Option<f64> {
    let odds = row.threshold / (1.0 - row.threshold);
    odds.is_finite().then(|| match (row.flag(), row.outcome) {
        (true, true) => 1.0,
        (true, false) => -odds,
        (false, _) => 0.0,
    })
}

#[cfg(test)]
mod tests;
