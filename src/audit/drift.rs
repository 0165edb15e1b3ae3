//! Changes over months: of scores and posteriors by view and device, of race calibration among the newly labelled, and of
//! errors by group.
//!
//! The first months are the reference. A shift is in standard deviations of its stratum's reference, so that a device that
//! scores differently from others is no drift. Errors are watched study by study by cumulative sums whose limits promise a
//! number of months per false alarm (Lorden's bound, as `validate` tries it). Left out: what an alarm suspends.

use std::collections::BTreeMap;

use serde::Serialize;

use super::dataset::{Base, Dataset, Row};
use super::performance::{DENOMINATOR_MIN, Estimate};
use super::slice::{Dimension, Sliced};
use crate::stats::{Cusum, PATIENTS_MIN, clustered_mean, error_log_ratio, normal_tail, standard_deviation};

/// How drift is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DriftOptions {
    /// Months from the first one that are taken to be unchanged.
    pub reference_months: usize,
    /// Months per false alarm of all sums of a finding together.
    pub run_length_months: f64,
    /// The factor on the odds of an error that the sums are made for, and its inverse.
    pub odds_ratio: f64,
}

/// A month of a stratum against the stratum's reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shift {
    pub dimension: Dimension,
    pub level: String,
    pub month: String,
    /// Of a posterior: the group.
    pub group: Option<String>,
    /// Difference of means in standard deviations of the reference; scores on the scale of logits.
    pub standardised: Estimate,
    /// Of no shift, for this month alone.
    pub p: f64,
}

/// Of the labelled of a month, the share of a group less the mean posterior.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RaceCalibration {
    pub month: String,
    pub group: String,
    pub excess: Estimate,
    pub p: f64,
}

/// A cumulative sum over the labelled studies of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorWatch {
    pub group: String,
    /// Misses, or false alarms: more of one can go with fewer of the other.
    pub misses: bool,
    /// Whether more errors are looked for, or fewer.
    pub more: bool,
    /// The month in which the sum first reached its limit.
    pub alarm: Option<String>,
    /// The sum at the end as a share of its limit, in hundredths: exact ones would tell numbers of studies.
    pub level: f64,
}

/// Of one finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drift {
    pub scores: Vec<Shift>,
    pub errors: Vec<ErrorWatch>,
}

/// Shifts of a finding's scores, and sums over its errors.
pub(super) fn drift(
    dataset: &Dataset,
    finding: usize,
    base: &Base,
    by: &[(Dimension, &Sliced)],
    months: &Sliced,
    options: &DriftOptions,
) -> Drift {
    let score = |study: usize| dataset.counted(finding, study).map(|(_, score)| crate::stats::logit(score));
    Drift { scores: shifts(dataset, by, months, None, &score, options), errors: watch(dataset, base, months, options) }
}

/// Shifts of posteriors of every group.
pub(super) fn posteriors(
    dataset: &Dataset,
    by: &[(Dimension, &Sliced)],
    months: &Sliced,
    options: &DriftOptions,
) -> Vec<Shift> {
    let of = |g: usize| {
        let value = move |study: usize| dataset.studies[study].posterior.as_ref().map(|p| p[g]);
        shifts(dataset, by, months, Some(&dataset.groups[g]), &value, options)
    };
    (0..dataset.groups.len()).flat_map(of).collect()
}

/// Month by month, for each group.
pub(super) fn race_calibration(dataset: &Dataset, months: &Sliced) -> Vec<RaceCalibration> {
    let mut found = Vec::new();
    for (number, month) in months.levels.iter().enumerate().filter(|(_, month)| is_month(month)) {
        let labelled: Vec<usize> = (0..dataset.studies())
            .filter(|s| months.level[*s] == number && dataset.group(*s) < dataset.groups.len())
            .filter(|s| dataset.studies[*s].posterior.is_some())
            .collect();
        for (g, group) in dataset.groups.iter().enumerate() {
            let off = |s: &usize| {
                let posterior = dataset.studies[*s].posterior.as_ref().map_or(0.0, |p| p[g]);
                f64::from(u8::from(dataset.group(*s) == g)) - posterior
            };
            let values: Vec<f64> = labelled.iter().map(off).collect();
            let Some((excess, p)) = mean(dataset, &labelled, &values) else { continue };
            found.push(RaceCalibration { month: month.clone(), group: group.clone(), excess, p });
        }
    }
    found
}

fn is_month(level: &str) -> bool {
    level != super::slice::UNKNOWN
}

/// A mean with its p of being 0; `None` of too few.
fn mean(dataset: &Dataset, studies: &[usize], values: &[f64]) -> Option<(Estimate, f64)> {
    let cluster = dense(studies.iter().map(|s| dataset.patient[*s]));
    let mean = clustered_mean(values, &cluster)?;
    if values.len() < DENOMINATOR_MIN || mean.clusters < PATIENTS_MIN {
        return None;
    }
    let estimate = Estimate::normal(mean.value, mean.variance, f64::NEG_INFINITY, f64::INFINITY);
    let error = estimate.error.filter(|e| *e > 0.0)?;
    Some((estimate, 2.0 * normal_tail((mean.value / error).abs())))
}

fn dense(patients: impl Iterator<Item = u32>) -> Vec<usize> {
    let mut number: BTreeMap<u32, usize> = BTreeMap::new();
    patients
        .map(|patient| {
            let next = number.len();
            *number.entry(patient).or_insert(next)
        })
        .collect()
}

fn shifts(
    dataset: &Dataset,
    by: &[(Dimension, &Sliced)],
    months: &Sliced,
    group: Option<&String>,
    value: &dyn Fn(usize) -> Option<f64>,
    options: &DriftOptions,
) -> Vec<Shift> {
    let known: Vec<usize> = (0..months.levels.len()).filter(|m| is_month(&months.levels[*m])).collect();
    let (reference, later) = known.split_at(options.reference_months.min(known.len()));
    let mut found = Vec::new();
    for (dimension, sliced) in by {
        let mut cells: Vec<Vec<Vec<(usize, f64)>>> = vec![vec![Vec::new(); months.levels.len()]; sliced.levels.len()];
        for study in 0..dataset.studies() {
            if let Some(value) = value(study) {
                cells[sliced.level[study]][months.level[study]].push((study, value));
            }
        }
        for (level, of_month) in cells.iter().enumerate() {
            let before: Vec<(usize, f64)> = reference.iter().flat_map(|m| of_month[*m].iter().copied()).collect();
            let Some((studies, centred, middle, width)) = standard(&before) else { continue };
            let Some((base, _)) = mean(dataset, &studies, &centred) else { continue };
            for &month in later {
                let (own, values): (Vec<usize>, Vec<f64>) =
                    of_month[month].iter().map(|(s, v)| (*s, (v - middle) / width)).unzip();
                let Some((now, _)) = mean(dataset, &own, &values) else { continue };
                // Patients of both are rare, and taken to be others.
                let variance = now.error.zip(base.error).map(|(a, b)| a * a + b * b);
                let standardised = Estimate::normal(now.value, variance, f64::NEG_INFINITY, f64::INFINITY);
                let p = standardised.error.map_or(1.0, |e| 2.0 * normal_tail((now.value / e).abs()));
                found.push(Shift {
                    dimension: *dimension,
                    level: sliced.levels[level].clone(),
                    month: months.levels[month].clone(),
                    group: group.cloned(),
                    standardised,
                    p,
                });
            }
        }
    }
    found
}

/// Studies, their values less the mean over the standard deviation, and both; `None` where all are alike.
fn standard(of: &[(usize, f64)]) -> Option<(Vec<usize>, Vec<f64>, f64, f64)> {
    let (studies, values): (Vec<usize>, Vec<f64>) = of.iter().copied().unzip();
    let width = standard_deviation(&values);
    let middle = values.iter().sum::<f64>() / values.len().max(1) as f64;
    (width > 0.0).then(|| (studies, values.iter().map(|v| (v - middle) / width).collect(), middle, width))
}

/// Four sums for each group, over studies by date: of misses and of false alarms, for more and for fewer. What is expected
/// of a study is the rate of errors of its group and outcome in the reference, with one hit and one miss more.
fn watch(dataset: &Dataset, base: &Base, months: &Sliced, options: &DriftOptions) -> Vec<ErrorWatch> {
    let groups = dataset.groups.len();
    let known: Vec<usize> = (0..months.levels.len()).filter(|m| is_month(&months.levels[*m])).collect();
    let (reference, later) = known.split_at(options.reference_months.min(known.len()));
    let mut rows: Vec<&Row> = base.rows.iter().filter(|row| row.group < groups).collect();
    rows.sort_by_key(|row| (dataset.studies[row.study].date, row.study));
    let is_in = |row: &&&Row, of: &[usize]| of.contains(&months.level[row.study]);
    let mut found = Vec::new();
    for (g, name) in dataset.groups.iter().enumerate() {
        let own: Vec<&Row> = rows.iter().filter(|row| row.group == g).copied().collect();
        let before: Vec<&Row> = own.iter().filter(|row| is_in(row, reference)).copied().collect();
        let count = |of: &dyn Fn(&Row) -> bool| before.iter().filter(|row| of(row)).count();
        let (events, others) = (count(&|r| r.outcome), count(&|r| !r.outcome));
        if events.min(others) < DENOMINATOR_MIN || later.is_empty() {
            continue;
        }
        let rate = |outcome: bool, n: usize| {
            (count(&|r| r.outcome == outcome && r.flag() != outcome) as f64 + 1.0) / (n as f64 + 2.0)
        };
        let rates = [rate(false, others), rate(true, events)];
        let after: Vec<&Row> = own.iter().filter(|row| is_in(row, later)).copied().collect();
        let patients: std::collections::BTreeSet<u32> = after.iter().map(|row| row.patient).collect();
        if after.len() < DENOMINATOR_MIN || patients.len() < PATIENTS_MIN {
            continue;
        }
        for (misses, more) in [(true, true), (true, false), (false, true), (false, false)] {
            let watched = || after.iter().filter(|row| row.outcome == misses);
            let a_month = watched().count() as f64 / later.len() as f64;
            let limit = (options.run_length_months * 4.0 * groups as f64 * a_month).max(2.0).ln();
            let ratio = if more { options.odds_ratio } else { 1.0 / options.odds_ratio };
            let mut sum = Cusum::new(limit);
            let mut alarm = None;
            for row in watched() {
                if sum.add(error_log_ratio(row.flag() != row.outcome, rates[usize::from(misses)], ratio))
                    && alarm.is_none()
                {
                    alarm = Some(months.levels[months.level[row.study]].clone());
                }
            }
            found.push(ErrorWatch {
                group: name.clone(),
                misses,
                more,
                alarm,
                level: (sum.sum() / limit * 100.0).round() / 100.0,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    const OPTIONS: DriftOptions = DriftOptions { reference_months: 3, run_length_months: 60.0, odds_ratio: 2.0 };

    fn of(dataset: &Dataset) -> (Drift, Vec<Shift>, Vec<RaceCalibration>) {
        let months = dataset.sliced(Dimension::Month, 0);
        let view = dataset.sliced(Dimension::View, 0);
        let by = [(Dimension::View, &view)];
        let base = dataset.base(0);
        let drift = drift(dataset, 0, &base, &by, &months, &OPTIONS);
        (drift, posteriors(dataset, &by, &months, &OPTIONS), race_calibration(dataset, &months))
    }

    fn world() -> World {
        World { patients: 6000, months: 9, ..World::default() }
    }

    #[test]
    fn nothing_happens_where_nothing_changes() {
        let (drift, posteriors, calibration) = of(&world().dataset(1));
        assert_eq!((drift.scores.len(), posteriors.len(), calibration.len()), (12, 36, 27));
        assert!(drift.errors.iter().all(|e| e.alarm.is_none()), "{:?}", drift.errors);
        assert_eq!(drift.errors.len(), 12);
        let found = drift.scores.iter().chain(&posteriors).filter(|s| s.p < 0.001).count();
        assert_eq!(found, 0);
        assert!(calibration.iter().all(|c| c.p > 0.0005), "{calibration:?}");
    }

    #[test]
    fn a_view_that_changes_and_a_group_with_more_errors_are_found() {
        let (mut studies, mut findings) = world().drawn(2);
        let is_late = |s: &super::super::Study| s.date.is_some_and(|d| chrono::Datelike::month(&d) >= 6);
        for (study, scored) in studies.iter_mut().zip(&mut findings[0].models[0].score) {
            let late = is_late(study);
            if late && study.view.as_deref() == Some("AP") {
                *scored = scored.map(|s| crate::stats::expit(crate::stats::logit(s) + 0.5));
            }
            if late && study.self_report == super::super::SelfReport::Group(1) {
                *scored = scored.map(|s| crate::stats::expit(crate::stats::logit(s) - 1.5));
            }
            if late && study.self_report.group() != Some(0) {
                // The race model takes everybody for the first group.
                study.posterior = Some(vec![0.8, 0.1, 0.1]);
            }
        }
        let groups = ["A", "B", "C"].map(String::from).to_vec();
        let (drift, posteriors, calibration) = of(&Dataset::new(groups, None, studies, findings).unwrap());
        let shift = |view: &str, month: &str| {
            drift.scores.iter().find(|s| s.level == view && s.month == month).unwrap().standardised.value
        };
        // .5 of a standard deviation near 1, less what a third of the group takes away.
        assert!(shift("AP", "2024-07") > shift("PA", "2024-07") + 0.3);
        assert!(shift("AP", "2024-05").abs() < 0.3);
        let alarm = |group: &str, misses: bool, more: bool| {
            let is_it = |e: &&ErrorWatch| (e.group.as_str(), e.misses, e.more) == (group, misses, more);
            drift.errors.iter().find(is_it).unwrap().alarm.clone()
        };
        assert!(alarm("C", true, true).is_none() && alarm("B", false, true).is_none(), "{:?}", drift.errors);
        assert!(
            alarm("B", true, true).is_some_and(|m| ("2024-06"..="2024-08").contains(&m.as_str())),
            "{:?}",
            drift.errors
        );
        let late = |p: f64, month: &str| (p < 1e-6) == (month >= "2024-06");
        assert!(posteriors.iter().filter(|s| s.group.as_deref() == Some("A")).all(|s| late(s.p, &s.month)));
        assert!(calibration.iter().filter(|c| c.group == "A").all(|c| late(c.p, &c.month)));
    }

    #[test]
    fn few_studies_tell_nothing() {
        let (drift, posteriors, calibration) = of(&World { patients: 40, ..world() }.dataset(3));
        assert!(drift.scores.is_empty() && drift.errors.is_empty() && posteriors.is_empty() && calibration.is_empty());
        let undated = World { patients: 400, ..world() }.drawn(4);
        let studies = undated.0.into_iter().map(|s| super::super::Study { date: None, ..s }).collect();
        let groups = ["A", "B", "C"].map(String::from).to_vec();
        let (drift, ..) = of(&Dataset::new(groups, None, studies, undated.1).unwrap());
        assert!(drift.scores.is_empty() && drift.errors.is_empty());
    }
}
