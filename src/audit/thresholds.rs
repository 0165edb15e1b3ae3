//! What rates would be at other thresholds: ROC curves by group, and their neighbourhood of the deployed one.
//!
//! Two points of a curve tell how many studies lie between them, so points are thinned until between any two, and beyond
//! the outermost, lie no or more than ten patients of every group and outcome. Left out: which threshold to choose.

use serde::Serialize;

use super::dataset::{Base, Row};
use super::performance::{DENOMINATOR_MIN, counted_by};
use super::suppress::Told;
use crate::stats::PATIENTS_MIN;

/// At most so many points of a curve.
const POINTS: usize = 100;

/// Rates of one group over thresholds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// None: all studies.
    pub group: Option<String>,
    pub points: Vec<CurvePoint>,
}

/// Rates if studies were positive at or above a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    pub threshold: f64,
    pub false_negative_rate: f64,
    pub false_positive_rate: f64,
    pub flag_rate: f64,
}

/// Curves of all studies and of each group whose events are told. `deployed`: where rates are told anyhow.
pub(super) fn curves(
    base: &Base,
    names: &[String],
    told: &dyn Fn(Option<usize>) -> Told,
    deployed: &[f64],
) -> Vec<Curve> {
    let rows = &base.rows;
    let (groups, n) = (names.len() + 1, rows.len());
    if n == 0 {
        return Vec::new();
    }
    // Where a point may be: equally many studies apart, and the deployed thresholds.
    let mut thresholds: Vec<f64> = (1..=POINTS).map(|k| rows[(k * n / (POINTS + 1)).min(n - 1)].score).collect();
    thresholds.extend(deployed);
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    let kept = thinned(rows, groups, &thresholds, deployed);
    let blocks = std::iter::once(None).chain((0..names.len()).map(Some));
    blocks
        .filter(|group| told(*group).events)
        .filter_map(|group| {
            let part = base.part(|row| group.is_none_or(|g| g == row.group));
            let points = points(&part, &kept, deployed, told(group))?;
            Some(Curve { group: group.map(|g| names[g].clone()), points })
        })
        .collect()
}

/// Thresholds between which no small number of any group and outcome lies. Where deployed ones cannot be kept, others are
/// kept away from them as well.
fn thinned(rows: &[Row], groups: usize, thresholds: &[f64], deployed: &[f64]) -> Vec<f64> {
    let is_fit = |from: f64, to: f64| {
        let at = |score: f64| rows.partition_point(|row| row.score < score);
        let between = &rows[at(from)..at(to)];
        let own = counted_by(between, groups + 1, |row| row.group);
        let all = counted_by(between, 1, |_| 0);
        let is_small = |patients: usize| (1..PATIENTS_MIN).contains(&patients);
        !own.iter().chain(&all).any(|c| is_small(c.events.patients) || is_small(c.non_events.patients))
    };
    // Rates at these are told, fit or not.
    let mut fixed: Vec<f64> = deployed.to_vec();
    fixed.sort_by(f64::total_cmp);
    let mut kept: Vec<f64> = Vec::new();
    let mut last = f64::NEG_INFINITY;
    for &at in thresholds {
        if fixed.contains(&at) {
            // What was kept before has to be fit up to here.
            while kept.last().is_some_and(|k| !fixed.contains(k) && !is_fit(*k, at)) {
                kept.pop();
            }
            kept.push(at);
            last = at;
        } else if is_fit(last, at) {
            kept.push(at);
            last = at;
        }
    }
    while kept.last().is_some_and(|k| !fixed.contains(k) && !is_fit(*k, f64::INFINITY)) {
        kept.pop();
    }
    kept
}

/// `None` where there is no denominator.
fn points(part: &Base, thresholds: &[f64], deployed: &[f64], told: Told) -> Option<Vec<CurvePoint>> {
    let scores = |outcome: bool| -> Vec<f64> {
        part.rows.iter().filter(|row| row.outcome == outcome).map(|row| row.score).collect()
    };
    let (events, others) = (scores(true), scores(false));
    if events.len() < DENOMINATOR_MIN || others.len() < DENOMINATOR_MIN {
        return None;
    }
    let is_told = |at: &&f64| !deployed.contains(at) || told.misses && told.alarms;
    let point = |&threshold: &f64| {
        let below = |of: &[f64]| of.partition_point(|score| *score < threshold);
        let (missed, quiet) = (below(&events), below(&others));
        CurvePoint {
            threshold,
            false_negative_rate: missed as f64 / events.len() as f64,
            false_positive_rate: (others.len() - quiet) as f64 / others.len() as f64,
            flag_rate: 1.0 - (missed + quiet) as f64 / part.rows.len() as f64,
        }
    };
    Some(thresholds.iter().filter(is_told).map(point).collect())
}

#[cfg(test)]
mod tests {
    use super::super::world::{NAMES, World};
    use super::*;

    const ALL: Told = Told { studies: true, events: true, misses: true, alarms: true };

    fn names() -> Vec<String> {
        NAMES[..3].iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn curves_are_the_rates_and_between_points_lies_no_small_number() {
        let world = World { patients: 4000, studies_most: 2, labelled: 0.9, ..World::default() };
        let base = world.dataset(3).base(0);
        let found = curves(&base, &names(), &|_| ALL, &[world.threshold]);
        assert_eq!(found.len(), 4);
        assert!(found[0].points.len() > 10, "{}", found[0].points.len());
        for (at, curve) in found.iter().enumerate() {
            let part = base.part(|r| at == 0 || r.group == at - 1);
            assert!(curve.points.is_sorted_by(|a, b| a.threshold < b.threshold));
            assert!(curve.points.iter().any(|p| p.threshold == world.threshold), "the deployed one is among them");
            let mut edges: Vec<f64> = curve.points.iter().map(|p| p.threshold).collect();
            edges.insert(0, f64::NEG_INFINITY);
            edges.push(f64::INFINITY);
            for edge in edges.windows(2) {
                for outcome in [false, true] {
                    let inside = part.part(|r| r.outcome == outcome && (edge[0]..edge[1]).contains(&r.score));
                    let patients = inside.clusters().1;
                    assert!(patients == 0 || patients >= PATIENTS_MIN, "{at} {edge:?}: {patients}");
                }
            }
            for point in &curve.points {
                let flagged = |row: &&Row| row.score >= point.threshold;
                let events: Vec<&Row> = part.rows.iter().filter(|r| r.outcome).collect();
                let missed = events.iter().filter(|r| !flagged(r)).count() as f64 / events.len() as f64;
                assert!((missed - point.false_negative_rate).abs() < 1e-12);
                let flags = part.rows.iter().filter(flagged).count() as f64 / part.rows.len() as f64;
                assert!((flags - point.flag_rate).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn what_is_not_told_at_the_deployed_threshold_is_not_on_the_curve_either() {
        let world = World { patients: 2000, ..World::default() };
        let base = world.dataset(4).base(0);
        let hidden = Told { misses: false, ..ALL };
        let found = curves(&base, &names(), &|group| if group == Some(2) { hidden } else { ALL }, &[world.threshold]);
        let has = |at: usize| found[at].points.iter().any(|p| p.threshold == world.threshold);
        assert!(has(0) && has(1) && !has(3));
        assert!(curves(&base, &names(), &|_| Told::default(), &[]).is_empty());
        assert!(curves(&Base::default(), &names(), &|_| ALL, &[0.5]).is_empty());
        let few = World { patients: 40, ..world }.dataset(5).base(0);
        assert!(curves(&few, &names(), &|_| ALL, &[0.3]).is_empty(), "no denominator of 30");
    }
}
