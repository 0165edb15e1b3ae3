//! A shortcut at the level of scores: does the clinical logit follow the race margin among patients of one group and
//! outcome?
//!
//! The statistic is the slope of z on z_r within strata of self-reported group and outcome, clustered by patient. In the
//! worlds z_r varies within a group by what the race model sees, so a slope there is β; a view that moves both models
//! makes one too, which must collapse once strata hold the view. Left out: evidence on a study's own images, which rests
//! on perturbations and gradients.

use rayon::prelude::*;

use super::plot::{Plot, Point, Series};
use super::{Bench, Check, Section, Table, ValidateError, mean_and_error, percent};
use crate::phantom::scores::{ScoreWorld, ScoredStudy};
use crate::stats::{WithinSlope, Z_95, clopper_pearson, within_slope};

struct Summary {
    slope: f64,
    error: f64,
    covered: f64,
    rejected: u64,
    replicates: u64,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let count = bench.count(60, 1000);
    let betas = [0.0, -0.1, -0.2, -0.35, -0.5];
    let mut table = Table {
        name: "reliance",
        title: format!("Slope of the clinical logit on the race margin, {count} replicates of 3000 patients"),
        columns: vec!["world", "β", "strata", "mean slope", "95 % limits cover β", "rejects β = 0"],
        rows: Vec::new(),
    };
    let mut add = |name: &str, beta: f64, strata: &str, s: &Summary| {
        table.rows.push(vec![
            name.into(),
            beta.to_string(),
            strata.into(),
            format!("{:.4} ± {:.4}", s.slope, s.error),
            percent(s.covered),
            format!("{} of {}", s.rejected, s.replicates),
        ]);
    };
    let mut found = Vec::new();
    for (place, beta) in betas.into_iter().enumerate() {
        let mut world = bench.world("shortcut")?.clone();
        world.shortcut = beta;
        let summary = summarised(bench, &world, beta, by_group_and_outcome, 160 + place as u64, count);
        add("shortcut", beta, "group, outcome", &summary);
        found.push(summary);
    }
    let view = bench.world("view")?;
    let confounded = summarised(bench, view, 0.0, by_group_and_outcome, 170, count);
    let conditioned = summarised(bench, view, 0.0, by_view_too, 170, count);
    add("view", 0.0, "group, outcome", &confounded);
    add("view", 0.0, "group, outcome, view", &conditioned);
    let plot = Plot {
        name: "reliance",
        title: "Slope found, by the planted shortcut".into(),
        x: "planted β".into(),
        y: "mean slope".into(),
        range: (-0.6, 0.1),
        series: vec![Series {
            label: "within group, outcome".into(),
            points: betas
                .iter()
                .zip(&found)
                .map(|(b, s)| Point {
                    x: *b,
                    y: s.slope,
                    limits: Some((s.slope - Z_95 * s.error, s.slope + Z_95 * s.error)),
                })
                .collect(),
            joined: true,
        }],
        rules: vec![0.0],
    };
    Ok(Section {
        title: "Reliance, at the level of scores",
        text: vec![
            "Within self-reported group and outcome the severity of disease is unrelated to what the race model sees in these \
             worlds, so a slope is a shortcut or something that moves both models. Between patients of different groups the same \
             slope would say nothing. Reports say *consistent with*, never that a model uses race."
                .into(),
        ],
        checks: claims(&found, &confounded, &conditioned),
        tables: vec![table],
        plots: vec![plot],
    })
}

fn claims(found: &[Summary], confounded: &Summary, conditioned: &Summary) -> Vec<Check> {
    let monotone = found.windows(2).all(|pair| pair[1].slope < pair[0].slope - Z_95 * (pair[0].error + pair[1].error));
    // Exact limits of a rejection rate that should be 5 %.
    let at_level = |s: &Summary| {
        clopper_pearson(s.rejected, s.replicates, 0.99).is_some_and(|(low, high)| low <= 0.05 && high >= 0.05)
    };
    let rate = |s: &Summary| percent(s.rejected as f64 / s.replicates as f64);
    let slopes: Vec<String> = found.iter().map(|s| format!("{:.3}", s.slope)).collect();
    vec![
        Check::of(
            "reliance-monotone",
            "shortcut, β = 0 to −0.5",
            "reliance monotone in β",
            slopes.join(", "),
            monotone,
        ),
        Check::of(
            "reliance-null",
            "shortcut with β = 0",
            "null at β = 0 (5 % within exact 99 % limits)",
            format!("rejected in {}", rate(&found[0])),
            at_level(&found[0]),
        ),
        Check::of(
            "reliance-view",
            "view",
            "reliance collapses after conditioning on view",
            format!("rejected in {} before and {} after", rate(confounded), rate(conditioned)),
            confounded.rejected * 10 > confounded.replicates * 8 && at_level(conditioned),
        ),
    ]
}

fn by_group_and_outcome(s: &ScoredStudy) -> usize {
    2 * s.group + usize::from(s.outcome)
}

fn by_view_too(s: &ScoredStudy) -> usize {
    2 * by_group_and_outcome(s) + usize::from(s.portable)
}

fn summarised(
    bench: &Bench<'_>,
    world: &ScoreWorld,
    beta: f64,
    stratum: fn(&ScoredStudy) -> usize,
    part: u64,
    count: usize,
) -> Summary {
    let slope = |k: usize| -> Option<WithinSlope> {
        let drawn = world.cohort(bench.seed(part, k));
        let column = |of: fn(&ScoredStudy) -> f64| drawn.iter().map(of).collect::<Vec<f64>>();
        let strata: Vec<usize> = drawn.iter().map(stratum).collect();
        let patients: Vec<usize> = drawn.iter().map(|s| s.patient).collect();
        within_slope(&column(|s| s.margin), &column(|s| s.z), &strata, &patients)
    };
    let found: Vec<WithinSlope> = (0..count).into_par_iter().filter_map(slope).collect();
    let away = |from: f64| found.iter().filter(|s| (s.slope - from).abs() > Z_95 * s.standard_error).count() as u64;
    let (mean, error) = mean_and_error(&found.iter().map(|s| s.slope).collect::<Vec<_>>());
    let n = found.len() as u64;
    Summary {
        slope: mean,
        error,
        covered: 1.0 - away(beta) as f64 / n.max(1) as f64,
        rejected: away(0.0),
        replicates: n,
    }
}
