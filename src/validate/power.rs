//! How many patients does it take, and what is said where there are too few?

use rayon::prelude::*;

use super::scene::{Race, Scene, Told};
use super::{Bench, Check, Plot, Section, Table, ValidateError, Verdict, percent};
use crate::domain::{Interval, Level};
use crate::phantom::scores::ScoreWorld;
use crate::plot::{Lines, Panel, Point, Series};
use crate::stats::wilson;

const DRAWS: usize = 60;
/// Power that is asked for at a shift of 1 logit and 800 patients in the group.
const POWER: f64 = 0.8;

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let (power, plot, reached) = power(bench)?;
    let (thin, mut checks) = thin(bench)?;
    let limits = wilson(reached.0, reached.1).unwrap_or((0.0, 1.0));
    let share = reached.0 as f64 / reached.1.max(1) as f64;
    checks.insert(
        0,
        Check::of(
            "power",
            "intercept with a_B = 1",
            "a shift of 1 logit is found with 800 patients in the group in ≥ 80 %",
            format!("{} of {} replicates, lower 95 % limit {}", percent(share), reached.1, percent(limits.0)),
            Verdict::at_least(POWER, limits),
        ),
    );
    Ok(Section {
        title: "Power and thin cells",
        text: vec![
            "Power is the share of replicates in which the finding is enabled, by the size of the group that differs (3 of 10 \
             patients; about 45 % of them have the finding) and by the planted shift."
                .into(),
            "Thin cells: group A has an expected number of patients from 25 to 400. A group with fewer than 100 patients with \
             and 100 without the finding has no curve. Level 0 must never be given then, and level 1 only for a difference \
             between the others, which bounds R from below; a *wrong statement* is a level 1 where R ≤ δ, a level 0 where R ≥ δ, \
             or an interval of R that does not hold the truth."
                .into(),
        ],
        checks,
        tables: vec![power, thin],
        plots: vec![plot],
    })
}

/// Table and plot, and at the asked cell how many replicates of how many are enabled.
fn power(bench: &Bench<'_>) -> Result<(Table, Plot, (u64, u64)), ValidateError> {
    let (sizes, shifts): (&[usize], &[f64]) = match bench.count(0, 1) {
        0 => (&[800], &[0.0, 1.0]),
        _ => (&[250, 400, 800, 1600, 3200], &[0.25, 0.5, 0.75, 1.0]),
    };
    let count = bench.count(8, 40);
    let mut table = Table {
        name: "power",
        title: format!("Share of {count} replicates in which the finding is enabled"),
        columns: vec!["patients in the group", "a_B", "enabled", "95 % limits (Wilson)", "studies at level 1 or 2"],
        rows: Vec::new(),
    };
    let (mut series, mut reached) = (Vec::new(), (0, 0));
    for (i, shift) in shifts.iter().enumerate() {
        let mut points = Vec::new();
        for (j, size) in sizes.iter().enumerate() {
            let mut world = bench.world("intercept")?.clone();
            world.groups[1].shift = *shift;
            world.patients = size * 10 / 3;
            let replicate = |k: usize| {
                let seed = bench.seed(80 + (i * 10 + j) as u64, k);
                let scene = Scene::new(&world, Race::Without, seed, DRAWS)
                    .ok_or_else(|| ValidateError::Profile(world.name.clone()))?;
                let told = if scene.is_enabled() { scene.tell(100, seed ^ 0xf4e5) } else { Vec::new() };
                Ok((scene.is_enabled(), told.iter().filter(|t| t.is_flagged()).count() as f64 / 100.0))
            };
            let found: Vec<(bool, f64)> =
                (0..count).into_par_iter().map(replicate).collect::<Result<_, ValidateError>>()?;
            let (enabled, n) = (found.iter().filter(|f| f.0).count() as u64, found.len() as u64);
            let (lower, upper) = wilson(enabled, n).unwrap_or((0.0, 1.0));
            let share = enabled as f64 / n as f64;
            points.push(Point { x: *size as f64, y: share, limits: Some((lower, upper)) });
            table.rows.push(vec![
                size.to_string(),
                shift.to_string(),
                percent(share),
                format!("{} – {}", percent(lower), percent(upper)),
                percent(found.iter().map(|f| f.1).sum::<f64>() / n as f64),
            ]);
            if (*shift, *size) == (1.0, 800) {
                reached = (enabled, n);
            }
        }
        series.push(Series::joined(format!("a_B = {shift}"), points));
    }
    let plot = Plot {
        name: "power",
        lines: Lines {
            title: "Power of the gate".into(),
            x: "patients in the group".into(),
            panels: vec![Panel {
                y: "share enabled".into(),
                range: Some((0.0, 1.0)),
                series,
                rules: vec![0.05.into(), POWER.into()],
                ..Panel::default()
            }],
            ..Lines::default()
        },
    };
    Ok((table, plot, reached))
}

#[derive(Default)]
struct Thin {
    studies: usize,
    no_answer: usize,
    level0: usize,
    flagged: usize,
    wrong: usize,
}

fn thin(bench: &Bench<'_>) -> Result<(Table, Vec<Check>), ValidateError> {
    let sizes: &[usize] = if bench.count(0, 1) == 0 { &[60] } else { &[25, 60, 120, 200, 400] };
    let mut table = Table {
        name: "thin",
        title: "What is said where group A is small".into(),
        columns: vec![
            "patients of group A (expected)",
            "a_B",
            "group A has a curve",
            "no answer",
            "level 0",
            "level 1 or 2",
            "wrong statements",
        ],
        rows: Vec::new(),
    };
    let (mut silent_null, mut level0, mut wrong, mut statements) = (1.0_f64, 0, 0, 0);
    for (i, size) in sizes.iter().enumerate() {
        for (j, shift) in [0.0, 1.5].into_iter().enumerate() {
            let mut world = bench.world("tiny")?.clone();
            world.groups[1].shift = shift;
            world.groups[0].share =
                *size as f64 / (world.patients as f64 - *size as f64) * (world.groups[1].share + world.groups[2].share);
            let replicate = |k: usize| judged(&world, bench.seed(130 + (i * 2 + j) as u64, k));
            let found: Vec<(bool, Thin)> =
                (0..bench.count(3, 20)).into_par_iter().map(replicate).collect::<Result<_, _>>()?;
            let sum = |of: fn(&Thin) -> usize| found.iter().map(|(_, t)| of(t)).sum::<usize>();
            let (studies, without) = (sum(|t| t.studies), sum(|t| t.no_answer));
            let share = |count: usize| percent(count as f64 / studies as f64);
            let admitted = found.iter().filter(|f| f.0).count();
            table.rows.push(vec![
                size.to_string(),
                shift.to_string(),
                format!("{admitted} of {}", found.len()),
                share(without),
                share(sum(|t| t.level0)),
                share(sum(|t| t.flagged)),
                format!("{} of {}", sum(|t| t.wrong), studies - without),
            ]);
            if *size <= 60 {
                level0 += sum(|t| t.level0);
                if shift == 0.0 {
                    // Of those replicates that the gate left alone all studies are without an answer.
                    silent_null = silent_null.min(without as f64 / studies as f64);
                }
            }
            wrong += sum(|t| t.wrong);
            statements += studies - without;
        }
    }
    let share = wrong as f64 / statements.max(1) as f64;
    let checks = vec![
        Check::of(
            "thin-abstains",
            "tiny, 60 patients or fewer, a_B = 0",
            "abstention",
            format!("no answer for {}", percent(silent_null)),
            silent_null >= 0.95,
        ),
        Check::of(
            "thin-no-all-clear",
            "tiny, 60 patients or fewer",
            "never level 0",
            format!("{level0} studies at level 0"),
            level0 == 0,
        ),
        Check::of(
            "thin-right",
            "tiny, all sizes",
            "wrong statements ≤ 5 % of those made",
            format!("{wrong} of {statements} ({})", percent(share)),
            share <= 0.05,
        ),
    ];
    Ok((table, checks))
}

fn judged(world: &ScoreWorld, seed: u64) -> Result<(bool, Thin), ValidateError> {
    let scene = Scene::new(world, Race::With, seed, DRAWS).ok_or_else(|| ValidateError::Profile(world.name.clone()))?;
    let mut thin = Thin::default();
    for told in scene.tell(150, seed ^ 0xf4e5) {
        thin.studies += 1;
        thin.no_answer += usize::from(told.said.level == Level::Indeterminate);
        thin.level0 += usize::from(told.said.level == Level::NotElevated);
        thin.flagged += usize::from(told.is_flagged());
        thin.wrong += usize::from(is_wrong_statement(&told));
    }
    Ok((scene.entry().groups[0].admitted, thin))
}

fn is_wrong_statement(told: &Told) -> bool {
    let delta = super::scene::DELTA;
    let outside = |i: &Interval| told.truth.spread < i.lower - 1e-9 || told.truth.spread > i.upper + 1e-9;
    let level = match told.said.level {
        Level::NotElevated => told.truth.spread >= delta,
        Level::ScoreDependent => told.truth.spread <= delta,
        Level::Elevated => told.truth.excess <= delta,
        Level::Indeterminate => false,
    };
    level || told.said.spread.as_ref().is_some_and(outside)
}
