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

/// Counts of `cells` parts at once; `cell` says which part a row is of.
pub(super) fn counted_by(rows: &[Row], cells: usize, cell: impl Fn(&Row) -> usize) -> Vec<Confusion> {
    let mut counts = vec![[Cell::default(); 7]; cells];
    let coded = |row: &Row| {
        let own = match (row.outcome, row.flag()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 3,
        };
        let bits = 1u8 << own | if row.outcome { 1 << 4 } else { 1 << 5 } | 1 << 6;
        (cell(row), row.patient, bits)
    };
    let mut coded: Vec<(usize, u32, u8)> = rows.iter().map(coded).collect();
    coded.sort_unstable();
    for patient in coded.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let any = patient.iter().fold(0, |any, row| any | row.2);
        for (k, count) in counts[patient[0].0].iter_mut().enumerate() {
            count.studies += patient.iter().filter(|row| row.2 >> k & 1 == 1).count();
            count.patients += usize::from(any >> k & 1 == 1);
        }
    }
    let confusion = |[true_positive, false_negative, false_positive, true_negative, events, non_events, all]: [Cell;
                         7]| {
        Confusion { true_positive, false_negative, false_positive, true_negative, events, non_events, all }
    };
    counts.into_iter().map(confusion).collect()
}

/// All metrics. `limits`: of the two that are resampled, if they were.
pub(super) fn performance(base: &Base, limits: Limits) -> Performance {
    let rows = &base.rows;
    let (cluster, _) = base.clusters();
    let counts = counted_by(rows, 1, |_| 0)[0];
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
    let values: Vec<f64> = hits.iter().map(|h| f64::from(u8::from(*h))).collect();
    let error = clustered_mean(&values, &cluster).map(|mean| {
        // One hit and one miss more: of rates near 0 or 1 a variance says too little (Agresti & Caffo 2000).
        let (m, few) = (mean.clusters as f64, mean.clusters as f64 + 2.0);
        let smoothed = (mean.value * m + 1.0) / few;
        mean.variance.unwrap_or(0.0).max(smoothed * (1.0 - smoothed) / few).sqrt()
    });
    let estimate = |(value, limits)| Estimate { error, ..Estimate::within(value, Some(limits)) };
    Figure::of(clustered_rate(&hits, &cluster).map(estimate))
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
