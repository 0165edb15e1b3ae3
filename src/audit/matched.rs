//! Crude rates beside rates that all groups would have if they were alike in what is matched.
//!
//! Direct standardisation: within strata of outcome, age band and further covariates each group keeps its own rates, and
//! all get one distribution of strata, that of the matched groups together. It is done by weights, so no study counts
//! twice and limits are of the patients there are. Strata that lack a group are in nobody's rate; how many studies that
//! leaves out is said. Neighbours: `slice` has the covariates. Left out: strata that somebody might want to model.

use std::collections::BTreeMap;

use serde::Serialize;

use super::dataset::{Base, Row};
use super::performance::{Confusion, DENOMINATOR_MIN, Estimate, Figure, Metric, Withheld, brier, counted_by};
use super::slice::Dimension;
use crate::stats::{PATIENTS_MIN, cluster_variance};

/// A stratum needs so many studies of every group.
const STRATUM_MIN: usize = 5;
/// What is standardised.
pub(super) const MATCHED: [Metric; 5] = [
    Metric::FlagRate,
    Metric::FalseNegativeRate,
    Metric::FalsePositiveRate,
    Metric::PositivePredictiveValue,
    Metric::Brier,
];

/// Crude and matched numbers of a finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matched {
    /// What groups are alike in, beside the outcome.
    pub by: Vec<Dimension>,
    /// Share of the studies of matched groups that lie in strata with every group, in hundredths.
    pub kept: f64,
    pub strata: usize,
    pub metrics: Vec<MatchedMetric>,
}

/// One metric of one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatchedMetric {
    pub metric: Metric,
    pub group: String,
    /// Of the same studies as the matched one.
    pub crude: Figure,
    pub matched: Figure,
    /// Less all other matched groups.
    pub crude_gap: Figure,
    pub matched_gap: Figure,
}

/// `stratum`: what a study is alike in, by number; `groups`: those that are matched.
pub(super) fn matched(
    base: &Base,
    names: &[String],
    groups: &[usize],
    by: &[Dimension],
    stratum: &dyn Fn(&Row) -> usize,
) -> Option<Matched> {
    if groups.len() < 2 {
        return None;
    }
    let place = |row: &Row| groups.iter().position(|g| *g == row.group);
    let mut counts: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
    for row in &base.rows {
        if let Some(g) = place(row) {
            counts.entry((stratum(row), row.outcome)).or_insert_with(|| vec![0; groups.len()])[g] += 1;
        }
    }
    let all: usize = counts.values().flatten().sum();
    counts.retain(|_, count| count.iter().all(|n| *n >= STRATUM_MIN));
    let kept: usize = counts.values().flatten().sum();
    if kept == 0 {
        return None;
    }
    let inside = base.part(|row| place(row).is_some() && counts.contains_key(&(stratum(row), row.outcome)));
    // A crude rate of fewer studies than all gives the numbers away, of those that are in and of those that are not.
    let parts = counted_by(&base.rows, 2 * groups.len() + 1, |row| match place(row) {
        Some(g) => 2 * g + usize::from(counts.contains_key(&(stratum(row), row.outcome))),
        None => 2 * groups.len(),
    });
    let is_small = |of: &Confusion| {
        let atoms = [of.true_positive, of.false_negative, of.false_positive, of.true_negative];
        atoms.iter().any(|cell| (1..PATIENTS_MIN).contains(&cell.patients))
    };
    let small: Vec<bool> = parts[..2 * groups.len()].chunks(2).map(|pair| pair.iter().any(is_small)).collect();
    let strata = counts.len();
    let numbers: BTreeMap<(usize, bool), usize> = counts.keys().enumerate().map(|(i, at)| (*at, i)).collect();
    let counts: Vec<Vec<usize>> = counts.into_values().collect();
    let cells: Vec<usize> = inside.rows.iter().map(|row| numbers[&(stratum(row), row.outcome)]).collect();
    let standard = Standard { base: &inside, cluster: inside.clusters().0, cells };
    let mut metrics = Vec::new();
    for metric in MATCHED {
        for (g, &group) in groups.iter().enumerate() {
            // Each stratum by its share of all, over that of this group or of the others.
            let of = |own: bool, is_matched: bool| {
                let is_in = |row: &Row| (row.group == group) == own;
                let size = |count: &Vec<usize>| -> usize {
                    count.iter().enumerate().filter(|(other, _)| (*other == g) == own).map(|(_, n)| n).sum()
                };
                let total: usize = counts.iter().map(&size).sum();
                let weight = |count: &Vec<usize>| {
                    let target = count.iter().sum::<usize>() as f64 / kept as f64;
                    if is_matched { target / size(count) as f64 } else { 1.0 / total as f64 }
                };
                let weights: Vec<f64> = counts.iter().map(weight).collect();
                standard.ratio(metric, &is_in, &weights, is_matched)
            };
            let figures = |is_matched: bool| {
                let (own, others) = (of(true, is_matched), of(false, is_matched));
                let gap = own.as_ref().zip(others.as_ref()).and_then(|(own, others)| {
                    let influence: Vec<f64> = own.influence.iter().zip(&others.influence).map(|(a, b)| a - b).collect();
                    standard.estimate(own.value - others.value, &influence, -1.0)
                });
                let value = own.as_ref().and_then(|own| standard.estimate(own.value, &own.influence, 0.0));
                let figure = |of: Option<Estimate>| of.map_or(Figure::without(Withheld::TooFew), Figure::Told);
                (figure(value), figure(gap))
            };
            let ((crude, crude_gap), (matched, matched_gap)) = (figures(false), figures(true));
            let group = names[group].clone();
            let without = Figure::without(Withheld::SmallCell);
            let crude = if small[g] { without } else { crude };
            let crude_gap = if small.contains(&true) { without } else { crude_gap };
            metrics.push(MatchedMetric { metric, group, crude, matched, crude_gap, matched_gap });
        }
    }
    Some(Matched { by: by.to_vec(), kept: (kept as f64 / all as f64 * 100.0).round() / 100.0, strata, metrics })
}

/// A ratio with what each row adds to its error.
struct Ratio {
    value: f64,
    influence: Vec<f64>,
}

struct Standard<'a> {
    base: &'a Base,
    cluster: Vec<usize>,
    /// Stratum and outcome of each row, as a number.
    cells: Vec<usize>,
}

impl Standard<'_> {
    /// Σ w·numerator / Σ w·denominator, with a weight for each cell. Where cells are matched their weights are given, so
    /// that the error is of what differs within them.
    fn ratio(&self, metric: Metric, is_in: &dyn Fn(&Row) -> bool, weights: &[f64], is_matched: bool) -> Option<Ratio> {
        let rows = || self.base.rows.iter().zip(&self.cells).filter(|(row, _)| is_in(row));
        if rows().filter(|(row, _)| parts(metric, row).1 > 0.0).count() < DENOMINATOR_MIN {
            return None;
        }
        let (mut above, mut below) = (0.0, 0.0);
        for (row, cell) in rows() {
            let (numerator, denominator) = parts(metric, row);
            above += weights[*cell] * numerator;
            below += weights[*cell] * denominator;
        }
        let value = above / below;
        let off = |row: &Row| parts(metric, row).0 - value * parts(metric, row).1;
        let place = |cell: usize| if is_matched { cell } else { 0 };
        let mut means = vec![(0.0, 0.0); weights.len()];
        for (row, cell) in rows() {
            let (sum, count) = &mut means[place(*cell)];
            (*sum, *count) = (*sum + off(row), *count + 1.0);
        }
        let one = |(row, &cell): (&Row, &usize)| {
            if !is_in(row) {
                return 0.0;
            }
            let (sum, count) = means[place(cell)];
            weights[cell] * (off(row) - sum / count) / below
        };
        Some(Ratio { value, influence: self.base.rows.iter().zip(&self.cells).map(one).collect() })
    }

    fn estimate(&self, value: f64, influence: &[f64], least: f64) -> Option<Estimate> {
        let (variance, _) = cluster_variance(influence, &self.cluster)?;
        Some(Estimate::normal(value, Some(variance?), least, 1.0))
    }
}

/// Numerator and denominator of a metric.
fn parts(metric: Metric, row: &Row) -> (f64, f64) {
    let (flag, event) = (row.flag(), row.outcome);
    let count = |is: bool| f64::from(u8::from(is));
    match metric {
        Metric::FalseNegativeRate => (count(event && !flag), count(event)),
        Metric::FalsePositiveRate => (count(!event && flag), count(!event)),
        Metric::PositivePredictiveValue => (count(event && flag), count(flag)),
        Metric::Brier => (brier(row), 1.0),
        _ => (count(flag), 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    /// Rows of two groups with ages that differ; errors depend on age alone.
    fn base(patients: usize, seed: u64, by_group: f64) -> Base {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut base = World {
            patients,
            studies_most: 2,
            shares: vec![0.5, 0.5],
            mean: vec![-1.0; 2],
            shift: vec![0.0; 2],
            ..World::default()
        }
        .dataset(seed)
        .base(0);
        for row in &mut base.rows {
            // The stratum takes the place of the study's number.
            row.study = usize::from(rng.random_bool(if row.group == 0 { 0.8 } else { 0.3 }));
            let missed = if row.study == 1 { 0.5 } else { 0.1 } + by_group * row.group as f64;
            row.threshold = 0.5;
            row.score = if rng.random_bool(missed) == row.outcome { 0.2 } else { 0.8 };
        }
        base
    }

    fn of(base: &Base, metric: Metric, group: &str) -> MatchedMetric {
        let names = ["A", "B"].map(String::from);
        let found = matched(base, &names, &[0, 1], &[Dimension::AgeBand], &|row| row.study).unwrap();
        found.metrics.into_iter().find(|m| m.metric == metric && m.group == group).unwrap()
    }

    #[test]
    fn a_gap_that_comes_from_age_goes_and_one_that_does_not_stays() {
        let gap = |by_group| {
            let found = of(&base(4000, 1, by_group), Metric::FalseNegativeRate, "A");
            (found.crude_gap.told().unwrap(), found.matched_gap.told().unwrap())
        };
        let (crude, matched) = gap(0.0);
        // .8·.5 + .2·.1 less .3·.5 + .7·.1
        assert!((crude.value - 0.2).abs() < 3.0 * crude.error.unwrap(), "{crude:?}");
        assert!(matched.value.abs() < 3.0 * matched.error.unwrap() && crude.lower.unwrap() > 0.1, "{matched:?}");
        let (_, matched) = gap(0.2);
        assert!((matched.value + 0.2).abs() < 3.0 * matched.error.unwrap(), "{matched:?}");
    }

    #[test]
    fn limits_of_matched_rates_cover() {
        let mut covered = 0;
        for seed in 0..40 {
            let told = of(&base(800, seed, 0.0), Metric::FalsePositiveRate, "B").matched_gap.told().unwrap();
            covered += usize::from(told.lower.unwrap() <= 0.0 && told.upper.unwrap() >= 0.0);
        }
        assert!(covered >= 34, "{covered} of 40");
    }

    #[test]
    fn matched_is_the_weighted_mean_of_strata() {
        let base = base(2000, 3, 0.1);
        let found = of(&base, Metric::FalseNegativeRate, "B").matched.told().unwrap();
        let count = |keep: &dyn Fn(&Row) -> bool| base.rows.iter().filter(|r| r.outcome && keep(r)).count() as f64;
        let stratum = |s: usize| {
            let rate = count(&|r| r.group == 1 && r.study == s && !r.flag()) / count(&|r| r.group == 1 && r.study == s);
            rate * count(&|r| r.study == s) / count(&|_| true)
        };
        assert!((found.value - stratum(0) - stratum(1)).abs() < 1e-12);
        assert_eq!(matched(&base, &["A".into(), "B".into()], &[0], &[], &|_| 0), None);
        assert_eq!(matched(&Base::default(), &["A".into(), "B".into()], &[0, 1], &[], &|_| 0), None);
    }
}
