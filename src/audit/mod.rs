//! The population audit: error rates of deployed findings by self-reported group, with honest limits.
//!
//! Pure: one [`Dataset`] in, one [`Audit`] out, the same bytes for the same inputs on any number of threads. Inferred and
//! self-reported race are never mixed: groups are of people who said so; posteriors are in [`Partial`] and [`Drift`] alone,
//! under their own names. Small cells are withheld (`suppress`), but not
//! yet safe against everybody who computes: docs/audit.md, "Not there yet". Neighbours: `stats` has
//! the numerics. Left out: files, clocks and the index; differences between audits of different studies, which whoever
//! lets others choose the studies has to mind.

mod cycles;
mod dataset;
mod documents;
mod drawings;
mod drift;
mod finding;
mod gaps;
mod matched;
mod normal;
mod partial;
mod performance;
mod permute;
mod propensity;
mod report;
mod resample;
mod slice;
mod suppress;
#[cfg(test)]
mod tests;
mod thresholds;
mod versions;
mod words;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

pub use dataset::{Dataset, DatasetError, Finding, Scored, SelfReport, Study};
pub use drift::{Drift, DriftOptions, ErrorWatch, RaceCalibration, Shift};
pub use finding::{Block, Counts, FindingAudit, LevelBlocks, Model, SliceTable};
pub use gaps::{AgainstRest, FindingGaps, Gap, GapOptions, PRIMARY, Verdict};
pub use matched::{Matched, MatchedMetric};
pub use partial::{Partial, PartialGroup, PartialWarning, RateAndGap};
pub use performance::{Cell, Confusion, DENOMINATOR_MIN, Estimate, Figure, Metric, Withheld};
pub use report::{About, Files, report};
pub use resample::BINS;
pub use slice::{Dimension, Slice, UNKNOWN};
pub use suppress::Told;
pub use thresholds::{Curve, CurvePoint};
pub use versions::{Difference, VersionBlock, VersionComparison};
pub use words::{in_words, named};

use crate::stats::{PATIENTS_MIN, hidden};
use finding::Prepared;
use resample::Resampled;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Options {
    /// Only studies that are in all of these.
    pub within: Vec<Slice>,
    /// Tables of these are made.
    pub dimensions: Vec<Dimension>,
    /// Groups are made alike in these, beside the outcome.
    pub matched_by: Vec<Dimension>,
    /// Draws of patients for what has no formula.
    pub draws: u64,
    pub seed: u64,
    pub gaps: GapOptions,
    pub drift: DriftOptions,
}

/// Everything that can be said, and shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Audit {
    pub options: Options,
    /// Of self-report.
    pub groups: Vec<String>,
    /// Whose posteriors `partial`, `posteriors` and `race_calibration` are of.
    pub race_model: Option<String>,
    pub studies: Option<usize>,
    pub patients: Option<usize>,
    /// Studies without a group, by the reason.
    pub without_group: BTreeMap<&'static str, Option<usize>>,
    pub findings: Vec<FindingAudit>,
    /// Shifts of the race model's posteriors.
    pub posteriors: Vec<Shift>,
    pub race_calibration: Vec<RaceCalibration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            within: Vec::new(),
            dimensions: Dimension::ALL.to_vec(),
            matched_by: vec![Dimension::AgeBand, Dimension::Sex],
            draws: 2000,
            seed: 1,
            gaps: GapOptions { draws: 2000, seed: 1, margin_rate: 0.05, margin_intercept: 0.2 },
            drift: DriftOptions { reference_months: 3, run_length_months: 60.0, odds_ratio: 2.0 },
        }
    }
}

/// Audits a dataset.
pub fn audit(dataset: &Dataset, options: &Options) -> Audit {
    let dataset = &dataset.within(&options.within);
    let prepared: Vec<Prepared> =
        (0..dataset.findings.len()).into_par_iter().map(|finding| Prepared::of(dataset, finding)).collect();
    let blocks: Vec<Resampled> = prepared.iter().flat_map(Prepared::resampled).collect();
    let limits = resample::limits(&blocks, dataset.patients, options.draws, options.seed);
    let a_finding = dataset.groups.len() + 1;
    let mut findings: Vec<FindingAudit> = prepared
        .par_iter()
        .zip(limits.par_chunks(a_finding))
        .map(|(prepared, limits)| prepared.audit(dataset, options, limits))
        .collect();
    let mut gaps: Vec<FindingGaps> = findings.iter().map(|f| f.gaps.clone()).collect();
    gaps::adjust(&mut gaps);
    gaps.iter_mut().for_each(finding::hide_p_values);
    findings.iter_mut().zip(gaps).for_each(|(finding, gaps)| finding.gaps = gaps);
    let months = dataset.sliced(Dimension::Month, 0);
    let strata = [Dimension::View, Dimension::Device].map(|d| (d, dataset.sliced(d, 0)));
    let by: Vec<(Dimension, &slice::Sliced)> = strata.iter().map(|(d, sliced)| (*d, sliced)).collect();
    let told = |n: usize| (!(1..PATIENTS_MIN).contains(&dataset.patients)).then_some(n);
    Audit {
        options: options.clone(),
        groups: dataset.groups.clone(),
        race_model: dataset.race_model.clone(),
        studies: told(dataset.studies()),
        patients: told(dataset.patients),
        without_group: without_group(dataset, &prepared),
        findings,
        posteriors: drift::posteriors(dataset, &by, &months, &options.drift),
        race_calibration: drift::race_calibration(dataset, &months),
    }
}

/// Studies by why they have no group. None is told where a group is left out of any table: the rest of all studies is of
/// both.
fn without_group(dataset: &Dataset, prepared: &[Prepared]) -> BTreeMap<&'static str, Option<usize>> {
    let mut counts: BTreeMap<&'static str, (usize, BTreeSet<u32>)> = BTreeMap::new();
    let mut of_group: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); dataset.groups.len()];
    for (study, patient) in dataset.studies.iter().zip(&dataset.patient) {
        if let SelfReport::Group(group) = study.self_report {
            of_group[group].insert(*patient);
        }
        if let Some(reason) = study.self_report.reason() {
            let (studies, patients) = counts.entry(reason).or_default();
            *studies += 1;
            patients.insert(*patient);
        }
    }
    let is_small = |patients: usize| (1..PATIENTS_MIN).contains(&patients);
    let is_told = prepared.iter().all(Prepared::tells_groups) && !of_group.iter().any(|own| is_small(own.len()));
    let patients: Vec<usize> = counts.values().map(|(_, patients)| patients.len()).collect();
    let hidden = hidden(&patients, 0);
    counts
        .into_iter()
        .zip(hidden)
        .map(|((reason, (n, _)), hidden)| (reason, (is_told && !hidden).then_some(n)))
        .collect()
}
