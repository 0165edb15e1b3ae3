//! The probability that somebody's self-report is known, given what else is known of the study.
//!
//! A logistic model of posteriors, score, decision and outcome, their interplay, age, sex, view and site. It is right where
//! nothing else that matters decides who is asked and answers. Left out: labels that depend on race itself.

use std::collections::BTreeMap;

use super::dataset::{Base, Dataset, Row, Study};
use crate::stats::{Design, Ridge, expit, logistic};

/// Levels of a text need so many studies of either kind for a column of their own, and there are at most so many columns.
const LEVEL_MIN: usize = 30;
const LEVELS_MAX: usize = 12;
/// Small, so that what is separated has an estimate all the same.
const PRECISION: f64 = 0.01;
/// A propensity is not taken to be smaller.
const SMALLEST: f64 = 0.005;

/// Row by row; `None` where the model cannot be fitted.
pub(super) fn propensity(dataset: &Dataset, base: &Base) -> Option<Vec<f64>> {
    let groups = dataset.groups.len();
    let is_known = |row: &Row| row.group < groups;
    let texts: [fn(&Study) -> Option<&String>; 3] = [|s| s.sex.as_ref(), |s| s.view.as_ref(), |s| s.site.as_ref()];
    let levels: Vec<Vec<&str>> = texts.iter().map(|text| levels(dataset, base, &is_known, *text)).collect();
    let age = |row: &Row| dataset.studies[row.study].age_years;
    let ages: Vec<f64> = base.rows.iter().filter_map(age).collect();
    let middle = ages.iter().sum::<f64>() / ages.len().max(1) as f64;
    let columns = |row: &Row| -> Vec<f64> {
        let study = &dataset.studies[row.study];
        let count = |is: bool| f64::from(u8::from(is));
        let mut values = vec![1.0, row.z, count(row.flag()), count(row.outcome), count(row.flag() && row.outcome)];
        for p in study.posterior.iter().flat_map(|p| &p[1..]) {
            values.extend([*p, p * count(row.flag()), p * count(row.outcome)]);
        }
        values.extend([age(row).map_or(0.0, |age| (age - middle) / 20.0), count(age(row).is_none())]);
        values.push(count(study.portable == Some(true)));
        for (text, levels) in texts.iter().zip(&levels) {
            let own = text(study).map(String::as_str);
            values.extend(levels.iter().map(|level| count(own == Some(level))));
        }
        values
    };
    let mut design = Design::new(columns(base.rows.first()?).len());
    base.rows.iter().for_each(|row| design.push(&columns(row)));
    let outcomes: Vec<f64> = base.rows.iter().map(|row| f64::from(u8::from(is_known(row)))).collect();
    let mut ridge = Ridge::uniform(design.columns(), PRECISION);
    ridge.precision[0] = 1e-6;
    let fitted = logistic(&design, &outcomes, &vec![1.0; outcomes.len()], &ridge, None).ok()?;
    let of = |i: usize| {
        let eta: f64 = design.row(i).iter().zip(&fitted.coefficients).map(|(x, b)| x * b).sum();
        expit(eta).clamp(SMALLEST, 1.0)
    };
    Some((0..design.rows()).map(of).collect())
}

/// Levels with enough studies that are labelled, and enough that are not, but for the largest, which is the reference.
fn levels<'a>(
    dataset: &'a Dataset,
    base: &Base,
    is_known: &dyn Fn(&Row) -> bool,
    text: fn(&Study) -> Option<&String>,
) -> Vec<&'a str> {
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for row in &base.rows {
        if let Some(level) = text(&dataset.studies[row.study]) {
            counts.entry(level).or_default()[usize::from(is_known(row))] += 1;
        }
    }
    let mut found: Vec<(&str, [usize; 2])> =
        counts.into_iter().filter(|(_, n)| n.iter().all(|n| *n >= LEVEL_MIN)).collect();
    found.sort_by_key(|(_, n)| std::cmp::Reverse(n[0] + n[1]));
    found.into_iter().skip(1).take(LEVELS_MAX).map(|(level, _)| level).collect()
}
