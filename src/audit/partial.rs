//! Error rates by group where self-report is known for some: what each way to use the race model's posteriors comes to.
//!
//! Side by side: labelled only (unbiased if labels are missing at random), AIPW with an estimated propensity (the primary
//! one: it also uses the others), weighted by the posterior and by its largest group (both biased wherever the posterior
//! leaves doubt; a diagnostic, never a result), and the bounds of what is possible without labels. Inferred and
//! self-reported groups stay apart in all of them. Neighbours: `stats::proxy` has the estimators, `propensity` the model of
//! who is labelled. Left out: what is told of small cells.

use serde::Serialize;

use super::dataset::{Base, Dataset, Row, SelfReport};
use super::performance::{DENOMINATOR_MIN, Estimate, Figure, Metric, Withheld};
use super::propensity::propensity;
use crate::stats::{
    PATIENTS_MIN, RateEstimate, aipw_rate, clustered_mean, frechet_bounds, member_rate, normal_tail, weighted_rate,
};

/// Bins of the posterior within which the outcome is modelled for the bounds.
const BINS: usize = 20;
/// A warning of labels that contradict the posteriors: 1 % over all groups.
const CONTRADICTION: f64 = 0.01;
/// Propensities below it make AIPW lean on few studies.
const PROPENSITY_MIN: f64 = 0.02;
/// More of the asked that decline than this are said.
const DECLINED_MAX: f64 = 0.05;

/// A rate of all groups by every estimator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Partial {
    pub metric: Metric,
    pub groups: Vec<PartialGroup>,
    pub warnings: Vec<PartialWarning>,
}

/// One group; each estimator with the rate, and with the rate less that of all others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartialGroup {
    pub group: String,
    /// The primary estimate.
    pub aipw: RateAndGap,
    pub labelled_only: RateAndGap,
    pub weighted: RateAndGap,
    /// By the most probable group: a diagnostic.
    pub argmax: RateAndGap,
    /// What rates the posteriors leave possible without labels, 1.96 standard errors wider.
    pub bounds: Option<(f64, f64)>,
}

/// Of one estimator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RateAndGap {
    pub rate: Figure,
    pub gap: Figure,
}

/// What speaks against the estimates.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum PartialWarning {
    /// Labelled studies have another share of the group than their posteriors say, though weighed by who is labelled:
    /// posteriors are not calibrated here, or being labelled depends on race.
    LabelsContradictPosteriors { group: String, p: f64 },
    /// Some studies are labelled so seldom that AIPW leans on few others.
    SmallPropensity { smallest: f64 },
    /// Nobody can say whether those who decline are like the others. Shares are in twentieths, which tell no number of patients.
    ManyDeclined { share: f64 },
    /// Who is labelled cannot be modelled: the share of all stands for everybody.
    PropensityNotFitted,
    /// Studies that the race model did not see are in no estimate but the labelled one.
    WithoutPosterior { share: f64 },
}

const UNKNOWN: Withheld = Withheld::TooFew;

/// False negative or false positive rates of a finding; `None` without posteriors, or where all or none are labelled.
pub(super) fn partial(dataset: &Dataset, base: &Base, metric: Metric) -> Option<Partial> {
    let in_rate = |row: &Row| row.outcome == (metric == Metric::FalseNegativeRate);
    let seen = base.part(|row| dataset.studies[row.study].posterior.is_some());
    let groups = dataset.groups.len();
    let labelled = seen.rows.iter().filter(|row| row.group < groups).count();
    if seen.rows.is_empty() || labelled == 0 || labelled == seen.rows.len() || groups < 2 {
        return None;
    }
    let labelled_share = labelled as f64 / seen.rows.len() as f64;
    let mut warnings = Vec::new();
    let fitted = propensity(dataset, &seen);
    if fitted.is_none() {
        warnings.push(PartialWarning::PropensityNotFitted);
    }
    let rho = fitted.unwrap_or_else(|| vec![labelled_share; seen.rows.len()]);
    let (own, rho): (Vec<Row>, Vec<f64>) = seen.rows.iter().zip(&rho).filter(|(row, _)| in_rate(row)).unzip();
    warn(dataset, base, &seen, &mut warnings);
    let smallest = rho.iter().copied().fold(1.0, f64::min);
    if smallest < PROPENSITY_MIN {
        warnings.push(PartialWarning::SmallPropensity { smallest });
    }
    let rate = Rows { dataset, cluster: Base { rows: own.clone() }.clusters().0, rows: own, rho };
    let all_labelled = base.part(|row| in_rate(row) && row.group < groups);
    let group = |g: usize| PartialGroup {
        group: dataset.groups[g].clone(),
        aipw: rate.aipw(g),
        labelled_only: labelled_only(&all_labelled, g),
        weighted: rate.weighted(g),
        argmax: rate.argmax(g),
        bounds: rate.bounds(g),
    };
    let found: Vec<PartialGroup> = (0..groups).map(group).collect();
    for (g, name) in dataset.groups.iter().enumerate() {
        let p = rate.contradiction(g) * groups as f64;
        if p < CONTRADICTION {
            warnings.push(PartialWarning::LabelsContradictPosteriors { group: name.clone(), p });
        }
    }
    Some(Partial { metric, groups: found, warnings })
}

fn warn(dataset: &Dataset, base: &Base, seen: &Base, warnings: &mut Vec<PartialWarning>) {
    let without = 1.0 - seen.rows.len() as f64 / base.rows.len() as f64;
    if without > 0.0 {
        warnings.push(PartialWarning::WithoutPosterior { share: coarse(without) });
    }
    let said = |row: &&Row| dataset.studies[row.study].self_report != SelfReport::Missing;
    let declined = |row: &&Row| dataset.studies[row.study].self_report == SelfReport::Declined;
    let asked = base.rows.iter().filter(said).count().max(1) as f64;
    let share = base.rows.iter().filter(declined).count() as f64 / asked;
    if share > DECLINED_MAX {
        warnings.push(PartialWarning::ManyDeclined { share: coarse(share) });
    }
}

fn coarse(share: f64) -> f64 {
    (share * 20.0).round() / 20.0
}

/// What a rate is over: rows with a posterior.
struct Rows<'a> {
    dataset: &'a Dataset,
    rows: Vec<Row>,
    cluster: Vec<usize>,
    /// Probability that each is labelled.
    rho: Vec<f64>,
}

impl Rows<'_> {
    fn posterior(&self, row: &Row, group: usize) -> f64 {
        self.dataset.studies[row.study].posterior.as_ref().map_or(0.0, |p| p[group].clamp(0.0, 1.0))
    }

    fn posteriors(&self, group: usize, own: bool) -> Vec<f64> {
        let side = |p: f64| if own { p } else { 1.0 - p };
        self.rows.iter().map(|row| side(self.posterior(row, group))).collect()
    }

    fn hits(&self) -> Vec<bool> {
        self.rows.iter().map(wrong).collect()
    }

    fn both(&self, of: impl Fn(bool) -> Option<RateEstimate>) -> RateAndGap {
        rate_and_gap(of(true), of(false), &self.cluster)
    }

    fn aipw(&self, group: usize) -> RateAndGap {
        let known = self.rows.iter().filter(|row| row.group == group).count();
        if self.rows.len() < DENOMINATOR_MIN || known < PATIENTS_MIN {
            return RateAndGap::without(UNKNOWN);
        }
        let member =
            |row: &Row, own: bool| (row.group < self.dataset.groups.len()).then_some((row.group == group) == own);
        self.both(|own| {
            let members: Vec<Option<bool>> = self.rows.iter().map(|row| member(row, own)).collect();
            aipw_rate(&self.posteriors(group, own), &members, &self.rho, &self.hits())
        })
    }

    fn weighted(&self, group: usize) -> RateAndGap {
        // As many as there would be in the group.
        let expected = self.posteriors(group, true).iter().sum::<f64>();
        if expected < DENOMINATOR_MIN as f64 {
            return RateAndGap::without(UNKNOWN);
        }
        self.both(|own| weighted_rate(&self.posteriors(group, own), &self.hits()))
    }

    fn argmax(&self, group: usize) -> RateAndGap {
        let groups = self.dataset.groups.len();
        let largest = |row: &Row| (0..groups).all(|g| self.posterior(row, g) <= self.posterior(row, group));
        let members: Vec<bool> = self.rows.iter().map(largest).collect();
        let count = |of: &dyn Fn(&Row) -> bool| {
            self.rows.iter().zip(&members).filter(|(row, member)| **member && of(row)).count()
        };
        let (wrong_ones, right) = (count(&wrong), count(&|row| !wrong(row)));
        if wrong_ones + right < DENOMINATOR_MIN {
            return RateAndGap::without(UNKNOWN);
        }
        if [wrong_ones, right].iter().any(|n| (1..PATIENTS_MIN).contains(n)) {
            return RateAndGap::without(Withheld::SmallCell);
        }
        self.both(|own| member_rate(&members.iter().map(|m| *m == own).collect::<Vec<_>>(), &self.hits()))
    }

    /// Posteriors and outcomes are taken together within bins of the posterior: bounds stay valid, and become wider.
    fn bounds(&self, group: usize) -> Option<(f64, f64)> {
        let own = self.posteriors(group, true);
        let n = own.len();
        if n < DENOMINATOR_MIN {
            return None;
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| own[a].total_cmp(&own[b]));
        let (mut pi, mut eta) = (vec![0.0; n], vec![0.0; n]);
        let bins = BINS.min(n / DENOMINATOR_MIN).max(1);
        for bin in 0..bins {
            let part = &order[bin * n / bins..(bin + 1) * n / bins];
            let mean = |of: &dyn Fn(usize) -> f64| part.iter().map(|&i| of(i)).sum::<f64>() / part.len().max(1) as f64;
            let (p, h) = (mean(&|i| own[i]), mean(&|i| f64::from(u8::from(wrong(&self.rows[i])))));
            part.iter().for_each(|&i| (pi[i], eta[i]) = (p.clamp(0.0, 1.0), h));
        }
        frechet_bounds(&pi, &eta)
    }

    /// p of the labelled having the share of a group that their posteriors say, each weighed by how seldom its like are
    /// labelled.
    fn contradiction(&self, group: usize) -> f64 {
        let off = |(row, rho): (&Row, &f64)| {
            let is_known = row.group < self.dataset.groups.len();
            let member = f64::from(u8::from(row.group == group));
            if is_known { (member - self.posterior(row, group)) / rho } else { 0.0 }
        };
        let values: Vec<f64> = self.rows.iter().zip(&self.rho).map(off).collect();
        let mean = clustered_mean(&values, &self.cluster);
        let z = mean.and_then(|m| Some(m.value / m.variance.filter(|v| *v > 0.0)?.sqrt()));
        z.map_or(1.0, |z| 2.0 * normal_tail(z.abs()))
    }
}

impl RateAndGap {
    fn without(withheld: Withheld) -> Self {
        Self { rate: Figure::without(withheld), gap: Figure::without(withheld) }
    }
}

/// A miss among those with the finding, a false alarm among the others.
fn wrong(row: &Row) -> bool {
    row.flag() != row.outcome
}

fn labelled_only(labelled: &Base, group: usize) -> RateAndGap {
    let (cluster, _) = labelled.clusters();
    let hits: Vec<bool> = labelled.rows.iter().map(wrong).collect();
    let of = |own: bool| {
        let members: Vec<bool> = labelled.rows.iter().map(|row| (row.group == group) == own).collect();
        member_rate(&members, &hits)
    };
    if labelled.rows.iter().filter(|row| row.group == group).count() < DENOMINATOR_MIN {
        return RateAndGap::without(UNKNOWN);
    }
    rate_and_gap(of(true), of(false), &cluster)
}

fn rate_and_gap(own: Option<RateEstimate>, others: Option<RateEstimate>, cluster: &[usize]) -> RateAndGap {
    let rate = own.as_ref().and_then(|own| {
        let error = own.clustered_error(cluster)?;
        Some(Estimate::normal(own.rate, Some(error * error), 0.0, 1.0))
    });
    let gap = own.zip(others).and_then(|(own, others)| {
        let (gap, error) = own.clustered_gap(&others, cluster)?;
        Some(Estimate::normal(gap, Some(error * error), -1.0, 1.0))
    });
    RateAndGap { rate: Figure::of(rate), gap: Figure::of(gap) }
}

#[cfg(test)]
mod tests;
