//! Rates by group where self-report is known for some, or the race model is weak and was trained elsewhere.
//!
//! The rate is the false negative rate of group B minus that of the others. Neighbours: `stats::proxy` has the
//! estimators. Left out: intervals for the largest of many gaps.

use rayon::prelude::*;

use super::scene::{Race, Scene};
use super::{Bench, Check, Section, Table, ValidateError, mean_and_error, percent};
use crate::phantom::scores::{ScoreWorld, ScoredStudy};
use crate::stats::{
    RateEstimate, Z_95, aipw_rate, classwise_calibration_error, frechet_bounds, label_contradiction, logit,
    member_rate, reweighed, saerens, weighted_rate,
};

/// The group whose rate is asked for.
const GROUP: usize = 1;
/// A warning of labels that contradict the posterior: 1 % over three groups by Bonferroni.
const CONTRADICTION: f64 = 2.935;
const BINS: usize = 20;
const ESTIMATORS: [&str; 5] = ["argmax", "weighted", "labelled only", "AIPW, constant ρ", "AIPW, true ρ"];

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let missing = bench.world("labels-missing")?;
    let mut random = missing.clone();
    random.groups.iter_mut().for_each(|g| (g.label_rate, g.label_rate_negative) = (0.1, None));
    let count = bench.count(20, 800);
    let mut table = Table {
        name: "aipw",
        title: format!(
            "Gap of the false negative rate, group B against the others: {count} replicates of {} patients",
            missing.patients
        ),
        columns: vec![
            "labels",
            "estimator",
            "true gap",
            "mean estimate",
            "its spread",
            "95 % limits cover",
            "warnings",
        ],
        rows: Vec::new(),
    };
    let at_random = estimated(bench, &random, "missing at random, 10 %", 200, count, &mut table);
    let not_at_random = estimated(bench, missing, "15 %, of B with a negative result 4 %", 201, count, &mut table);
    let (bounds, mut checks) = prior_shift(bench)?;
    let (gain, covered) = (at_random.spread[2] / at_random.spread[4], |f: &Found, e: usize| f.covered[e]);
    let range = |share: f64| (0.93..=0.97).contains(&share) || count < 500 && share > 0.8;
    checks.extend([
        Check::of(
            "aipw",
            "labels missing at random",
            "AIPW covers 93–97 % and is more precise than labels alone",
            format!("covers {}; standard deviation smaller by a factor {gain:.2}", percent(covered(&at_random, 4))),
            range(covered(&at_random, 4)) && gain > 1.0,
        ),
        Check::of(
            "aipw-mnar",
            "labels missing not at random",
            "AIPW with the true propensity covers 93–97 %",
            format!("covers {}", percent(covered(&not_at_random, 4))),
            range(covered(&not_at_random, 4)),
        ),
        Check::of(
            "aipw-warning",
            "labels missing not at random",
            "a warning otherwise, and none where labels are missing at random",
            format!(
                "constant ρ covers {}; warned in {}, and in {} where labels are missing at random",
                percent(covered(&not_at_random, 3)),
                percent(not_at_random.warned),
                percent(at_random.warned)
            ),
            not_at_random.warned >= 0.95 && at_random.warned <= 0.05,
        ),
    ]);
    Ok(Section {
        title: "Audit with partly known groups",
        text: vec![
            "Argmax and weighting are shown for their bias: with a posterior that leaves doubt the groups mix, and the gap shrinks. \
             AIPW with the right probability of being labelled is unbiased whatever the posterior is. The warning asks whether the \
             labelled contradict the posterior (|t| > 2.9 in any group); it finds that labels are missing by group only as far as \
             the posterior itself is calibrated on the whole population."
                .into(),
        ],
        checks,
        tables: vec![table, bounds],
        plots: Vec::new(),
    })
}

/// Of each estimator: how often its limits cover and how far estimates spread; and how often a warning is given.
struct Found {
    covered: [f64; 5],
    spread: [f64; 5],
    warned: f64,
}

fn estimated(bench: &Bench<'_>, world: &ScoreWorld, labels: &str, part: u64, count: usize, table: &mut Table) -> Found {
    let truth = gap(world);
    let found: Vec<([(f64, f64); 5], bool)> =
        (0..count).into_par_iter().filter_map(|k| gaps(world, bench.seed(part, k))).collect();
    let warned = found.iter().filter(|f| f.1).count() as f64 / found.len().max(1) as f64;
    let (mut covered, mut spread) = ([0.0; 5], [0.0; 5]);
    for (e, name) in ESTIMATORS.iter().enumerate() {
        let inside = |f: &&([(f64, f64); 5], bool)| (f.0[e].0 - truth).abs() <= Z_95 * f.0[e].1;
        covered[e] = found.iter().filter(inside).count() as f64 / found.len().max(1) as f64;
        let estimates: Vec<f64> = found.iter().map(|f| f.0[e].0).collect();
        spread[e] = crate::stats::standard_deviation(&estimates);
        table.rows.push(vec![
            labels.into(),
            (*name).into(),
            format!("{truth:.3}"),
            format!("{:.3}", mean_and_error(&estimates).0),
            format!("{:.3}", spread[e]),
            percent(covered[e]),
            percent(warned),
        ]);
    }
    Found { covered, spread, warned }
}

/// Every estimator's gap with its standard error, and whether the labels contradict the posterior.
fn gaps(world: &ScoreWorld, seed: u64) -> Option<([(f64, f64); 5], bool)> {
    let drawn = world.cohort(seed);
    let contradicts = |g: usize| {
        let own: Vec<f64> = drawn.iter().map(|s| s.posteriors[g]).collect();
        let member: Vec<Option<bool>> = drawn.iter().map(|s| s.labelled.then_some(s.group == g)).collect();
        label_contradiction(&own, &member).is_some_and(|t| t.abs() > CONTRADICTION)
    };
    let warned = (0..world.groups.len()).any(contradicts);
    let base: Vec<&ScoredStudy> = drawn.iter().filter(|s| s.outcome).collect();
    let hit: Vec<bool> = base.iter().map(|s| s.score < world.threshold).collect();
    let labelled = drawn.iter().filter(|s| s.labelled).count() as f64 / drawn.len() as f64;
    let both = |of: &dyn Fn(bool) -> Option<RateEstimate>| Some(of(true)?.gap(&of(false)?));
    let posterior = |own: bool| -> Vec<f64> {
        base.iter().map(|s| if own { s.posteriors[GROUP] } else { 1.0 - s.posteriors[GROUP] }).collect()
    };
    let known = |own: bool| -> Vec<Option<bool>> {
        base.iter().map(|s| s.labelled.then_some((s.group == GROUP) == own)).collect()
    };
    let argmax = |own: bool| {
        let largest = |s: &&ScoredStudy| s.posteriors.iter().all(|p| *p <= s.posteriors[GROUP]);
        member_rate(&base.iter().map(|s| largest(s) == own).collect::<Vec<_>>(), &hit)
    };
    let labels = |own: bool| member_rate(&known(own).iter().map(|m| *m == Some(true)).collect::<Vec<_>>(), &hit);
    let constant = vec![labelled; base.len()];
    let true_rates: Vec<f64> = base.iter().map(|s| world.label_rate(s.group, s.score)).collect();
    let aipw = |rho: &[f64]| both(&|own| aipw_rate(&posterior(own), &known(own), rho, &hit));
    let found = [
        both(&argmax)?,
        both(&|own| weighted_rate(&posterior(own), &hit))?,
        both(&labels)?,
        aipw(&constant)?,
        aipw(&true_rates)?,
    ];
    Some((found, warned))
}

/// The true gap.
fn gap(world: &ScoreWorld) -> f64 {
    rate(world, |g| g == GROUP) - rate(world, |g| g != GROUP)
}

/// The true false negative rate of these groups together, by integration over z.
fn rate(world: &ScoreWorld, of: fn(usize) -> bool) -> f64 {
    let (mut missed, mut all) = (0.0, 0.0);
    let at = logit(world.threshold);
    for (g, group) in world.groups.iter().enumerate().filter(|(g, _)| of(*g)) {
        for k in 0..4000 {
            let x = -8.0 + 16.0 * (f64::from(k) + 0.5) / 4000.0;
            let z = group.mean + world.score_sd * x;
            let weight = group.share * (-0.5 * x * x).exp() * world.event(g, z);
            all += weight;
            missed += if z < at { weight } else { 0.0 };
        }
    }
    missed / all
}

/// The weak race model that was trained on another mix: it says nothing of individuals, and bounds hold.
fn prior_shift(bench: &Bench<'_>) -> Result<(Table, Vec<Check>), ValidateError> {
    let world = bench.world("prior-shift")?;
    let count = bench.count(4, 200);
    let one = |k: usize| {
        let seed = bench.seed(210, k);
        let scene =
            Scene::new(world, Race::With, seed, 60).ok_or_else(|| ValidateError::Profile(world.name.clone()))?;
        let told = scene.tell(300, seed ^ 0xf4e5);
        let silent = told.iter().all(|t| t.said.disclosed.is_none() && t.said.level != crate::domain::Level::Elevated);
        Ok((silent, bounds(world, seed ^ 0xb0b0)))
    };
    let found: Vec<(bool, Option<[f64; 5]>)> =
        (0..count).into_par_iter().map(one).collect::<Result<_, ValidateError>>()?;
    let n = found.len() as f64;
    let silent = found.iter().filter(|f| f.0).count() as f64 / n;
    let figures: Vec<[f64; 5]> = found.iter().filter_map(|f| f.1).collect();
    let mean = |i: usize| mean_and_error(&figures.iter().map(|f| f[i]).collect::<Vec<_>>()).0;
    let covered = mean(2);
    let table = Table {
        name: "prior-shift",
        title: format!("A weak race model that was trained on another mix: {count} replicates"),
        columns: vec![
            "individual part withheld",
            "true FNR of group B",
            "mean Fréchet limits",
            "cover",
            "calibration error as reported",
            "after Saerens' EM",
        ],
        rows: vec![vec![
            percent(silent),
            format!("{:.3}", rate(world, |g| g == GROUP)),
            format!("{:.3} – {:.3}", mean(0), mean(1)),
            percent(covered),
            format!("{:.3}", mean(3)),
            format!("{:.3}", mean(4)),
        ]],
    };
    let check = |key, must, found, holds| Check::of(key, "prior-shift", must, found, holds);
    let checks = vec![
        check(
            "prior-shift-abstains",
            "recalibration or abstention: nothing is said of individuals",
            format!("withheld in {} of replicates", percent(silent)),
            silent >= 0.95,
        ),
        check(
            "prior-shift-recalibrates",
            "Saerens' EM repairs the posteriors (calibration error ≤ .05)",
            format!("{:.3}, from {:.3}", mean(4), mean(3)),
            mean(4) <= 0.05 && mean(3) > 0.05,
        ),
        check(
            "frechet",
            "Fréchet bounds cover (at least 95 %)",
            format!("cover {}, {:.3} wide on average", percent(covered), mean(1) - mean(0)),
            covered >= 0.95,
        ),
    ];
    Ok((table, checks))
}

/// Limits, whether they cover, and the calibration error of the posteriors before and after the change of prior.
fn bounds(world: &ScoreWorld, seed: u64) -> Option<[f64; 5]> {
    let drawn = world.cohort(seed);
    let base: Vec<&ScoredStudy> = drawn.iter().filter(|s| s.outcome).collect();
    let reported: Vec<Vec<f64>> = base.iter().map(|s| s.posteriors.clone()).collect();
    let trained = world.race.trained_on.clone().unwrap_or_else(|| world.shares());
    let prior = saerens(&reported, &trained).ok()?;
    let moved: Vec<Vec<f64>> = reported.iter().map(|p| reweighed(p, &trained, &prior)).collect::<Option<_>>()?;
    let class: Vec<usize> = base.iter().map(|s| s.group).collect();
    let errors =
        (classwise_calibration_error(&reported, &class, 10)?, classwise_calibration_error(&moved, &class, 10)?);
    // Coarsening to bins of the posterior keeps the bounds valid, and makes them wider.
    let mut order: Vec<usize> = (0..base.len()).collect();
    order.sort_by(|&a, &b| moved[a][GROUP].total_cmp(&moved[b][GROUP]));
    let (mut pi, mut eta) = (vec![0.0; base.len()], vec![0.0; base.len()]);
    for bin in 0..BINS {
        let rows = &order[bin * order.len() / BINS..(bin + 1) * order.len() / BINS];
        let mean = |of: &dyn Fn(usize) -> f64| rows.iter().map(|&i| of(i)).sum::<f64>() / rows.len().max(1) as f64;
        let (p, h) = (mean(&|i| moved[i][GROUP]), mean(&|i| f64::from(u8::from(base[i].score < world.threshold))));
        rows.iter().for_each(|&i| (pi[i], eta[i]) = (p, h));
    }
    let (lower, upper) = frechet_bounds(&pi, &eta)?;
    let truth = rate(world, |g| g == GROUP);
    Some([lower, upper, f64::from(u8::from((lower..=upper).contains(&truth))), errors.0, errors.1])
}
