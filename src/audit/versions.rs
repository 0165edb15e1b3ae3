//! Two versions of a model on the same studies, study by study.
//!
//! Differences are of pairs, so what makes studies hard cancels: AUCs by their joint influence (DeLong, DeLong &
//! Clarke-Pearson 1988), rates and scores as clustered means of differences, with an exact McNemar test where every patient
//! has one study. Left out: which version is better for whom, which is a reader's.

use serde::Serialize;

use super::dataset::{Base, Dataset, Row};
use super::performance::{DENOMINATOR_MIN, Estimate, Figure, Metric, Withheld, brier};
use crate::stats::{AucInfluence, PATIENTS_MIN, clustered_mean, normal_tail};

/// A finding's models, each compared with the one that comes first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionComparison {
    pub model: String,
    pub version: String,
    /// Less that of this model.
    pub reference_model: String,
    pub reference_version: String,
    pub blocks: Vec<VersionBlock>,
}

/// All studies, or those of one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionBlock {
    /// None: all.
    pub group: Option<String>,
    pub differences: Vec<Difference>,
}

/// The newer less the older.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    pub metric: Metric,
    pub difference: Figure,
    pub p: Option<f64>,
}

/// The versions of a finding beside its first.
pub(super) fn versions(dataset: &Dataset, finding: usize) -> Vec<VersionComparison> {
    let models = &dataset.findings[finding].models;
    let scored = |m: usize| move |study: usize| Some((m, models[m].score[study]?));
    (1..models.len())
        .map(|m| {
            let both = |study: usize| models[0].score[study].and(models[m].score[study]);
            let of = |which: usize| {
                let mut base = dataset.base_of(finding, |study| both(study).and_then(|_| scored(which)(study)));
                base.rows.sort_by_key(|row| row.study);
                base
            };
            let (older, newer) = (of(0), of(m));
            let block = |group: Option<usize>| VersionBlock {
                group: group.map(|g| dataset.groups[g].clone()),
                differences: compared(&older, &newer, group),
            };
            let groups = (0..dataset.groups.len()).map(Some);
            VersionComparison {
                model: models[m].model.clone(),
                version: models[m].version.clone(),
                reference_model: models[0].model.clone(),
                reference_version: models[0].version.clone(),
                blocks: std::iter::once(None).chain(groups).map(block).collect(),
            }
        })
        .collect()
}

/// Rows of both are in the same order.
fn compared(older: &Base, newer: &Base, group: Option<usize>) -> Vec<Difference> {
    let pairs: Vec<(Row, Row)> = older
        .rows
        .iter()
        .zip(&newer.rows)
        .filter(|(row, _)| group.is_none_or(|g| g == row.group))
        .map(|(a, b)| (*a, *b))
        .collect();
    let cluster = Base { rows: pairs.iter().map(|(a, _)| *a).collect() }.clusters().0;
    let pairs = Pairs { pairs, cluster };
    let count = |is: bool| f64::from(u8::from(is));
    vec![
        pairs.auc(),
        pairs.mean(Metric::FlagRate, &|_| true, &|r| count(r.flag())),
        pairs.mean(Metric::FalseNegativeRate, &|r| r.outcome, &|r| count(!r.flag())),
        pairs.mean(Metric::FalsePositiveRate, &|r| !r.outcome, &|r| count(r.flag())),
        pairs.mean(Metric::Brier, &|_| true, &brier),
    ]
}

/// Older and newer.
struct Pairs {
    pairs: Vec<(Row, Row)>,
    cluster: Vec<usize>,
}

impl Pairs {
    fn auc(&self) -> Difference {
        let outcome: Vec<bool> = self.pairs.iter().map(|(a, _)| a.outcome).collect();
        let events = outcome.iter().filter(|y| **y).count();
        if outcome.len() < DENOMINATOR_MIN || events.min(outcome.len() - events) < PATIENTS_MIN {
            return withheld(Metric::Auroc, Withheld::TooFew);
        }
        let influence = |score: &dyn Fn(&(Row, Row)) -> f64| {
            let scores: Vec<f64> = self.pairs.iter().map(score).collect();
            AucInfluence::of(&scores, &outcome, &self.cluster)
        };
        let (older, newer) = (influence(&|pair| pair.0.score), influence(&|pair| pair.1.score));
        let difference = newer.zip(older).and_then(|(newer, older)| newer.minus(&older));
        let estimate = difference.map(|d| Estimate::normal(d.value, d.variance(), -1.0, 1.0));
        Difference { metric: Metric::Auroc, difference: Figure::of(estimate), p: estimate.and_then(|e| normal(&e)) }
    }

    /// Of a mean over the rows that are kept. A change of so few patients that it may not be told has no number.
    fn mean(&self, metric: Metric, keep: &dyn Fn(&Row) -> bool, of: &dyn Fn(&Row) -> f64) -> Difference {
        let kept = || self.pairs.iter().zip(&self.cluster).filter(|((a, _), _)| keep(a));
        let (values, cluster): (Vec<f64>, Vec<usize>) = kept().map(|((a, b), c)| (of(b) - of(a), *c)).unzip();
        if values.len() < DENOMINATOR_MIN {
            return withheld(metric, Withheld::TooFew);
        }
        let Some(mean) = clustered_mean(&values, &cluster) else { return withheld(metric, Withheld::Undefined) };
        let is_rate = metric != Metric::Brier;
        let side = |sign: f64| values.iter().filter(|v| **v * sign > 0.0).count();
        let (up, down) = (side(1.0), side(-1.0));
        // The difference gives the newer rate away to whoever knows the older.
        let hits = |of: &dyn Fn(&(Row, Row)) -> f64| kept().filter(|(pair, _)| of(pair) > 0.0).count();
        let (older, newer) = (hits(&|pair| of(&pair.0)), hits(&|pair| of(&pair.1)));
        let n = values.len();
        let numbers = [up, down, n - up - down, older, n - older, newer, n - newer];
        if is_rate && numbers.iter().any(|n| (1..PATIENTS_MIN).contains(n)) {
            return withheld(metric, Withheld::SmallCell);
        }
        let estimate = Estimate::normal(mean.value, mean.variance, -1.0, 1.0);
        let alone = mean.clusters == values.len();
        let p = if is_rate && alone { Some(mcnemar(up, down)) } else { normal(&estimate) };
        Difference { metric, difference: Figure::Told(estimate), p }
    }
}

fn withheld(metric: Metric, why: Withheld) -> Difference {
    Difference { metric, difference: Figure::without(why), p: None }
}

fn normal(of: &Estimate) -> Option<f64> {
    let error = of.error.filter(|e| *e > 0.0)?;
    Some(2.0 * normal_tail((of.value / error).abs()))
}

/// Exact two-sided p that so many of the pairs that differ differ one way (McNemar 1947).
fn mcnemar(up: usize, down: usize) -> f64 {
    let n = up + down;
    // P(X = k) of a fair coin, from the middle of the tail down, without underflow.
    let log_half = -(n as f64) * std::f64::consts::LN_2;
    let mut log_choose = 0.0;
    let mut tail = 0.0;
    for k in 0..=up.min(down) {
        if k > 0 {
            log_choose += ((n - k + 1) as f64 / k as f64).ln();
        }
        tail += f64::exp(log_choose + log_half);
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    #[test]
    fn exact_p_values_are_statsmodels() {
        // statsmodels.stats.contingency_tables.mcnemar([[0, up], [down, 0]], exact=True).pvalue
        let check = |up, down, p: f64| assert!((mcnemar(up, down) - p).abs() < 1e-9, "{}", mcnemar(up, down));
        check(10, 3, 0.092_285_156_25);
        check(5, 5, 1.0);
        check(0, 12, 0.000_488_281_25);
        check(0, 0, 1.0);
    }

    #[test]
    fn a_noisier_version_is_found_out_and_pairs_tell_more_than_two_samples() {
        let dataset = World { patients: 5000, studies_most: 2, ..World::default() }.dataset(5);
        let found = versions(&dataset, 0);
        assert_eq!((found.len(), found[0].blocks.len()), (1, 4));
        assert_eq!((found[0].version.as_str(), found[0].reference_version.as_str()), ("2", "1"));
        let auc = found[0].blocks[0].differences[0];
        let told = auc.difference.told().unwrap();
        assert!(told.upper.unwrap() < 0.0 && auc.p.unwrap() < 1e-3, "{auc:?}");
        let (base, other) =
            (dataset.base(0), dataset.base_of(0, |s| Some((1, dataset.findings[0].models[1].score[s]?))));
        let variance = |base: &Base| {
            let score: Vec<f64> = base.rows.iter().map(|r| r.score).collect();
            let outcome: Vec<bool> = base.rows.iter().map(|r| r.outcome).collect();
            crate::stats::delong_clustered(&score, &outcome, &base.clusters().0).unwrap()
        };
        let (one, two) = (variance(&base), variance(&other));
        assert!((told.value - (two.auc - one.auc)).abs() < 1e-12, "the difference of the two areas");
        assert!(told.error.unwrap().powi(2) < 0.5 * (one.variance + two.variance));
        let rate = |base: &Base| {
            let events = || base.rows.iter().filter(|r| r.outcome);
            events().filter(|r| !r.flag()).count() as f64 / events().count() as f64
        };
        let misses = found[0].blocks[0].differences[2].difference.told().unwrap();
        assert!((misses.value - (rate(&other) - rate(&base))).abs() < 1e-12);
    }

    #[test]
    fn the_same_scores_twice_are_no_difference_and_few_changes_are_not_told() {
        let mut dataset = World { patients: 400, ..World::default() }.dataset(6);
        let same = dataset.findings[0].models[0].score.clone();
        dataset.findings[0].models[1].score = same;
        let none = &versions(&dataset, 0)[0].blocks[0];
        assert!(none.differences.iter().all(|d| d.difference.told().unwrap().value == 0.0), "{none:?}");
        dataset.findings[0].models[1].score.iter_mut().take(5).for_each(|s| *s = s.map(|s| 1.0 - s));
        let few = &versions(&dataset, 0)[0].blocks[0];
        assert_eq!(few.differences[1].difference, Figure::without(Withheld::SmallCell));
        dataset.findings[0].models.truncate(1);
        assert!(versions(&dataset, 0).is_empty());
    }
}
