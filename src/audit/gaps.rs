//! Whether error rates differ between self-reported groups, by how much, and whether a difference can be ruled out.
//!
//! False negative rate, false positive rate and calibration intercept of all findings are the primary family: one test for
//! all groups each (permutation), adjusted after Holm over the family; each group against the rest counts only as far as
//! the test for all groups does. Other metrics are secondary, adjusted after Benjamini and Yekutieli. That there is no
//! disparity is said only where every two groups are equivalent within a margin (two one-sided tests, Schuirmann 1987).
//! Left out: small cells, which `suppress` takes away.

use serde::Serialize;

use super::dataset::{Base, Row};
use super::performance::{DENOMINATOR_MIN, Estimate, Figure, Metric, Performance, Withheld, performance};
use super::permute::permuted;
use super::resample::Limits;
use crate::stats::{PATIENTS_MIN, Tally, benjamini_yekutieli, expit, holm, normal_tail, spread};

/// The metrics of the primary family.
pub const PRIMARY: [Metric; 3] = [Metric::FalseNegativeRate, Metric::FalsePositiveRate, Metric::CalibrationIntercept];
const SECONDARY: [Metric; 7] = [
    Metric::FlagRate,
    Metric::PositivePredictiveValue,
    Metric::NegativePredictiveValue,
    Metric::Auroc,
    Metric::Brier,
    Metric::CalibrationSlope,
    Metric::NetBenefit,
];
const ALPHA: f64 = 0.05;

/// How gaps are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GapOptions {
    /// Permutations, and draws of the bootstrap.
    pub draws: u64,
    pub seed: u64,
    /// Differences of a rate below it do not matter.
    pub margin_rate: f64,
    /// The same of a calibration intercept, logit.
    pub margin_intercept: f64,
}

/// What the primary tests of a metric come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Differs,
    /// Groups differ, and every difference is shown to be below the margin.
    DiffersWithinMargin,
    /// No disparity: every difference is shown to be below the margin.
    Equivalent,
    /// Neither a difference nor its absence is shown.
    Undecided,
    /// Fewer than two groups can be compared.
    NotComparable,
}

/// One primary metric of one finding over all groups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gap {
    pub metric: Metric,
    /// Groups that are compared: those with enough studies.
    pub groups: Vec<String>,
    /// The largest less the smallest, less what chance adds to it, with limits of all differences at once.
    pub gap: Figure,
    /// Of the same value in all groups.
    pub p: Option<f64>,
    /// The same after Holm over the primary family.
    pub p_adjusted: Option<f64>,
    pub margin: f64,
    /// Of a difference beyond the margin between any two groups.
    pub p_equivalence: Option<f64>,
    pub verdict: Verdict,
    pub against_rest: Vec<AgainstRest>,
}

/// One group less all others that are compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgainstRest {
    pub metric: Metric,
    pub group: String,
    pub difference: Figure,
    pub p: Option<f64>,
    /// Primary: after Holm over groups, and not below that for all groups. Secondary: after Benjamini and Yekutieli over all
    /// secondary tests.
    pub p_adjusted: Option<f64>,
}

/// Of one finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingGaps {
    pub primary: Vec<Gap>,
    pub secondary: Vec<AgainstRest>,
}

/// Compares the groups of a finding; `of_group` has the performance of each. P values are not adjusted yet.
pub(super) fn gaps(base: &Base, groups: &[String], of_group: &[Performance], options: &GapOptions) -> FindingGaps {
    let known = base.part(|row| row.group < groups.len());
    let rest = |own: &[usize], group: usize| {
        performance(&known.part(|row| row.group != group && own.contains(&row.group)), Limits::default())
    };
    let mut primary = Vec::new();
    for (place, metric) in PRIMARY.into_iter().enumerate() {
        let compared = comparable(metric, of_group);
        let seed = options.seed ^ (place as u64 + 1) << 56;
        primary.push(gap(metric, &known, groups, of_group, &compared, &rest, &GapOptions { seed, ..*options }));
    }
    let mut secondary = Vec::new();
    let all: Vec<usize> = (0..groups.len()).filter(|g| of_group[*g].counts.all.patients >= PATIENTS_MIN).collect();
    if all.len() >= 2 {
        for &group in &all {
            let others = rest(&all, group);
            secondary.extend(SECONDARY.iter().map(|metric| {
                let difference = difference(&of_group[group].figures[metric], &others.figures[metric]);
                let p = difference.told().and_then(|d| Some(2.0 * normal_tail((d.value / d.error?).abs())));
                AgainstRest { metric: *metric, group: groups[group].clone(), difference, p, p_adjusted: None }
            }));
        }
    }
    FindingGaps { primary, secondary }
}

/// Adjusts over all findings, and judges.
pub(super) fn adjust(findings: &mut [FindingGaps]) {
    let primary = || findings.iter().flat_map(|f| &f.primary);
    let p: Vec<f64> = primary().filter_map(|g| g.p).collect();
    let mut adjusted = holm(&p).into_iter();
    let p: Vec<f64> = findings.iter().flat_map(|f| &f.secondary).filter_map(|a| a.p).collect();
    let mut discoveries = benjamini_yekutieli(&p).into_iter();
    for finding in findings {
        for gap in &mut finding.primary {
            gap.p_adjusted = gap.p.and_then(|_| adjusted.next());
            let own: Vec<f64> = gap.against_rest.iter().filter_map(|a| a.p).collect();
            let mut own = holm(&own).into_iter();
            for against in gap.against_rest.iter_mut().filter(|a| a.p.is_some()) {
                against.p_adjusted = own.next().zip(gap.p_adjusted).map(|(own, all)| own.max(all));
            }
            gap.verdict = verdict(gap);
        }
        for against in finding.secondary.iter_mut().filter(|a| a.p.is_some()) {
            against.p_adjusted = discoveries.next();
        }
    }
}

fn verdict(gap: &Gap) -> Verdict {
    let Some(p) = gap.p_adjusted else { return Verdict::NotComparable };
    match (p <= ALPHA, gap.p_equivalence.is_some_and(|p| p <= ALPHA)) {
        (true, true) => Verdict::DiffersWithinMargin,
        (true, false) => Verdict::Differs,
        (false, true) => Verdict::Equivalent,
        (false, false) => Verdict::Undecided,
    }
}

/// Groups with enough studies, and patients, for the metric.
fn comparable(metric: Metric, of_group: &[Performance]) -> Vec<usize> {
    let enough = |of: &Performance| {
        let cell = match metric {
            Metric::FalseNegativeRate => of.counts.events,
            Metric::FalsePositiveRate => of.counts.non_events,
            _ => of.counts.all,
        };
        let sizes = cell.studies >= DENOMINATOR_MIN && cell.patients >= PATIENTS_MIN;
        sizes && of.figures[&metric].told().is_some()
    };
    (0..of_group.len()).filter(|g| enough(&of_group[*g])).collect()
}

fn gap(
    metric: Metric,
    known: &Base,
    groups: &[String],
    of_group: &[Performance],
    compared: &[usize],
    rest: &dyn Fn(&[usize], usize) -> Performance,
    options: &GapOptions,
) -> Gap {
    let is_rate = metric != Metric::CalibrationIntercept;
    let margin = if is_rate { options.margin_rate } else { options.margin_intercept };
    let mut gap = Gap {
        metric,
        groups: compared.iter().map(|g| groups[*g].clone()).collect(),
        gap: Figure::without(Withheld::TooFew),
        p: None,
        p_adjusted: None,
        margin,
        p_equivalence: None,
        verdict: Verdict::NotComparable,
        against_rest: Vec::new(),
    };
    if compared.len() < 2 {
        return gap;
    }
    let own: Vec<Estimate> = compared.iter().filter_map(|g| of_group[*g].figures[&metric].told()).collect();
    let tallies = tallies(metric, known, compared);
    let permuted = permuted(&tallies, compared.len(), options.draws, options.seed);
    gap.gap = if is_rate {
        let found = spread(&tallies, compared.len(), options.draws, options.seed);
        gap.p = found.map(|s| s.p);
        Figure::of(found.map(|s| Estimate::within(s.value, Some((s.lower, s.upper)))))
    } else {
        gap.p = permuted.as_ref().map(|p| p.omnibus);
        let found = super::normal::spread(&own, gap.p.unwrap_or(1.0), options.draws, options.seed);
        Figure::of(found.map(|(value, limits)| Estimate::within(value, Some(limits))))
    };
    let pairs = own.iter().enumerate().flat_map(|(i, a)| own[i + 1..].iter().map(move |b| (a, b)));
    let tested = pairs.map(|(a, b)| Some(equivalence(a.value - b.value, a.error?.hypot(b.error?), margin)));
    gap.p_equivalence = tested.collect::<Option<Vec<f64>>>().map(|p| p.into_iter().fold(0.0, f64::max));
    gap.against_rest = compared
        .iter()
        .enumerate()
        .map(|(at, &g)| AgainstRest {
            metric,
            group: groups[g].clone(),
            difference: difference(&of_group[g].figures[&metric], &rest(compared, g).figures[&metric]),
            p: permuted.as_ref().map(|p| p.against_rest[at]),
            p_adjusted: None,
        })
        .collect();
    gap
}

/// p of two one-sided tests: is |difference| below the margin?
pub(super) fn equivalence(difference: f64, error: f64, margin: f64) -> f64 {
    // An error of 0 leaves the difference itself.
    let error = error.max(f64::MIN_POSITIVE);
    normal_tail((margin - difference) / error).max(normal_tail((margin + difference) / error))
}

/// Of two sets of patients with nobody in both.
fn difference(own: &Figure, rest: &Figure) -> Figure {
    match (own, rest) {
        (Figure::Told(own), Figure::Told(rest)) => {
            let variance = own.error.zip(rest.error).map(|(a, b)| a * a + b * b);
            Figure::of(
                variance
                    .filter(|v| *v > 0.0)
                    .map(|v| Estimate::normal(own.value - rest.value, Some(v), f64::NEG_INFINITY, f64::INFINITY)),
            )
        }
        (Figure::Withheld { .. }, _) => *own,
        (_, withheld) => *withheld,
    }
}

/// Hits and cases of each patient of the compared groups, whose places are the tallies' groups.
fn tallies(metric: Metric, known: &Base, compared: &[usize]) -> Vec<Tally> {
    let part = known.part(|row| compared.contains(&row.group));
    let (cluster, patients) = part.clusters();
    // The intercept that all groups share, so that residuals have a mean of 0.
    let z: Vec<f64> = part.rows.iter().map(|r| r.z).collect();
    let outcome: Vec<bool> = part.rows.iter().map(|r| r.outcome).collect();
    let common = crate::stats::calibration_intercept(&z, &outcome, &cluster).map_or(0.0, |c| c.value);
    let one = |row: &Row| -> (f64, f64) {
        let count = |is: bool| f64::from(u8::from(is));
        match metric {
            Metric::FalseNegativeRate => (count(row.outcome && !row.flag()), count(row.outcome)),
            Metric::FalsePositiveRate => (count(!row.outcome && row.flag()), count(!row.outcome)),
            _ => {
                let p = expit(common + row.z);
                (count(row.outcome) - p, p * (1.0 - p))
            }
        }
    };
    let mut tallies = vec![Tally { group: 0, hits: 0.0, cases: 0.0 }; patients];
    for (row, &c) in part.rows.iter().zip(&cluster) {
        let (hits, cases) = one(row);
        tallies[c].group = compared.iter().position(|g| *g == row.group).unwrap_or(0);
        tallies[c].hits += hits;
        tallies[c].cases += cases;
    }
    tallies.retain(|tally| tally.cases > 0.0);
    tallies
}

#[cfg(test)]
mod tests;
