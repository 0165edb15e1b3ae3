//! Are flagged studies wrong more often than others with the same score, and does D add to R?
//!
//! Whether it does is decided as follows, since method.md asks that D is not shown where it adds nothing: over replicates,
//! the mean difference in average precision for realised errors between the expected error with D and the one without
//! must have a lower 95 % limit above 0. Without D the expected error is Σ w_g e_g, a function of the score.

use rayon::prelude::*;

use super::scene::{DELTA, Race, Scene, Told};
use super::{Bench, Check, Plot, Section, Table, ValidateError, Verdict, mean_and_error, percent};
use crate::assess::estimates;
use crate::domain::Level;
use crate::phantom::scores::ScoreWorld;
use crate::plot::{Lines, Panel, Point, Series};
use crate::stats::{MatchedLift, Z_95, average_precision, matched_lift};

const DRAWS: usize = 100;
/// Width of the strata of equal score, logit.
const STRATUM: f64 = 0.1;
/// Flagged and unflagged studies that a stratum needs.
const LEAST: usize = 3;
/// What flagged studies must be wrong more often by.
const LIFT: f64 = 2.0;

struct Replicate {
    enabled: bool,
    /// Share at level 2, and at level 1 or 2.
    elevated: f64,
    flagged: f64,
    lift: Option<MatchedLift>,
    /// What one who knows every true group and curve would reach, flagging where D > δ.
    oracle: Option<MatchedLift>,
    /// Average precision for realised errors: |s − t| alone, Σ w e, Σ w e with D, and where nothing is known at all.
    distance: f64,
    expected: f64,
    individual: f64,
    errors: f64,
}

struct Summary {
    name: &'static str,
    /// Pooled over replicates with standard error of the replicates' log ratios.
    lift: Option<(f64, f64, f64)>,
    gain_over_distance: (f64, f64),
    gain_of_d: (f64, f64),
    enabled: f64,
    rows: Vec<String>,
}

/// After what was planted.
const COLUMNS: [&str; 12] = [
    "enabled",
    "level 2",
    "level 1 or 2",
    "error of level 2",
    "of matched others",
    "ratio (95 % limits)",
    "of an oracle",
    "AUPRC of |s − t|",
    "of Σ w e",
    "of Σ π e (with D)",
    "errors",
    "gain of D",
];

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let worlds = [
        ("uncommon", true),
        ("intercept", true),
        ("both", true),
        ("shortcut", true),
        ("slope", false),
        ("prevalence", false),
        ("null", false),
    ];
    let count = bench.count(3, 24);
    let mut summaries = Vec::new();
    for (place, (name, _)) in worlds.into_iter().enumerate() {
        let world = bench.world(name)?;
        let patients = bench.count(1500, 2500);
        let replicate = |k: usize| {
            measure(world, patients, bench.seed(40 + place as u64, k))
                .ok_or_else(|| ValidateError::Profile(name.into()))
        };
        let found: Vec<Replicate> = (0..count).into_par_iter().map(replicate).collect::<Result<_, _>>()?;
        summaries.push(summarised(name, &found));
    }
    let (strength, strengths) = by_strength(bench)?;
    let mut checks = Vec::new();
    for (summary, (_, must_lift)) in summaries.iter().zip(worlds) {
        checks.extend(claims(summary, must_lift));
    }
    let columns = [&["world"], COLUMNS.as_slice()].concat();
    Ok(Section {
        title: "Flags",
        text: vec![
            format!(
                "Each replicate fits a profile and assesses fresh studies. Studies at level 2 are compared with all others of \
                 the same score (strata of {STRATUM} logit on the same side of the threshold, standardised to the flagged). \
                 AUPRC is average precision for the clinical model's realised errors: by closeness to the threshold alone, by \
                 the site's expected error at the score, and by the expected error of the study."
            ),
            "The ratio is a property of the planted difference as much as of the method: at a score where the error of the \
             flagged group is e and that of the others e′, no method can show more than e/e′. The oracle knows every true group \
             and curve, and flags where D > δ; the method flags where the lower limit of D exceeds δ. In `intercept` and `both` \
             half of the patients have the finding, in `uncommon` one in six. The table `strength` varies the planted shift."
                .into(),
            "**Whether D adds to R** is decided by the lower 95 % limit of the gain in AUPRC over the expected error without \
             it: above 0 where a group differs by a shift or a shortcut, and no gain of .01 where nothing, prevalence alone or \
             a slope alone is planted. The node tells D of enabled findings only."
                .into(),
        ],
        checks,
        tables: vec![
            Table {
                name: "flags",
                title: format!("{count} replicates for each world"),
                columns,
                rows: summaries.into_iter().map(|s| s.rows).collect(),
            },
            strength,
        ],
        plots: vec![strengths],
    })
}

fn measure(world: &ScoreWorld, patients: usize, seed: u64) -> Option<Replicate> {
    let scene = Scene::new(world, Race::With, seed, DRAWS)?;
    let told = scene.tell(patients, seed ^ 0xf4e5);
    let share = |wanted: &dyn Fn(&Told) -> bool| told.iter().filter(|t| wanted(t)).count() as f64 / told.len() as f64;
    let wrong: Vec<bool> = told.iter().map(Told::is_wrong).collect();
    let mut ranks = [Vec::new(), Vec::new(), Vec::new()];
    for t in &told {
        let positive = t.study.score >= world.threshold;
        let e = estimates(scene.entry(), t.study.score, positive, Some(&t.study.posteriors))?;
        ranks[0].push(-(t.study.score - world.threshold).abs());
        ranks[1].push(e.expected.estimate);
        ranks[2].push(e.expected.estimate + e.individual?.excess.estimate);
    }
    let [distance, expected, individual] = ranks.map(|r| average_precision(&r, &wrong));
    Some(Replicate {
        enabled: scene.is_enabled(),
        elevated: share(&|t| t.said.level == Level::Elevated),
        flagged: share(&Told::is_flagged),
        lift: lift(world, &told, &wrong, |t| t.said.level == Level::Elevated),
        oracle: lift(world, &told, &wrong, |t| t.truth.errors[t.study.group] - t.truth.expected > DELTA),
        distance: distance?,
        expected: expected?,
        individual: individual?,
        errors: share(&Told::is_wrong),
    })
}

fn lift(world: &ScoreWorld, told: &[Told], wrong: &[bool], flag: fn(&Told) -> bool) -> Option<MatchedLift> {
    let at = crate::stats::logit(world.threshold);
    // Strata begin at the threshold, so that none holds misses and false alarms together.
    let stratum: Vec<usize> =
        told.iter().map(|t| (((t.study.z - at) / STRATUM).floor() + 500.0).max(0.0) as usize).collect();
    let flagged: Vec<bool> = told.iter().map(flag).collect();
    matched_lift(&flagged, wrong, &stratum, LEAST)
}

fn summarised(name: &'static str, found: &[Replicate]) -> Summary {
    let mean = |of: &dyn Fn(&Replicate) -> f64| mean_and_error(&found.iter().map(of).collect::<Vec<_>>());
    let (gain_over_distance, gain_of_d) = (mean(&|r| r.individual - r.distance), mean(&|r| r.individual - r.expected));
    let (lift, flagged_error, others_error) = pooled(found.iter().filter_map(|r| r.lift.as_ref()));
    let shown = |lift: Option<(f64, f64, f64)>| {
        lift.map_or("–".into(), |(r, low, high)| format!("{r:.2} ({low:.2} – {high:.2})"))
    };
    let oracle = pooled(found.iter().filter_map(|r| r.oracle.as_ref())).0;
    let enabled = mean(&|r| f64::from(u8::from(r.enabled))).0;
    let figure = |(value, error): (f64, f64)| format!("{value:.4} ± {error:.4}");
    let rows = vec![
        name.to_owned(),
        percent(enabled),
        percent(mean(&|r| r.elevated).0),
        percent(mean(&|r| r.flagged).0),
        flagged_error.map_or("–".into(), percent),
        others_error.map_or("–".into(), percent),
        shown(lift),
        shown(oracle),
        figure(mean(&|r| r.distance)),
        figure(mean(&|r| r.expected)),
        figure(mean(&|r| r.individual)),
        percent(mean(&|r| r.errors).0),
        figure(gain_of_d),
    ];
    Summary { name, lift, gain_over_distance, gain_of_d, enabled, rows }
}

/// Ratio of mean errors with 95 % limits from the replicates' log ratios, and both errors.
fn pooled<'a>(lifts: impl Iterator<Item = &'a MatchedLift>) -> (Option<(f64, f64, f64)>, Option<f64>, Option<f64>) {
    let lifts: Vec<&MatchedLift> = lifts.filter(|l| l.matched >= 20).collect();
    let weight: f64 = lifts.iter().map(|l| l.matched as f64).sum();
    // One replicate alone has no limits.
    if lifts.len() < 2 {
        return (None, None, None);
    }
    let mean = |of: fn(&MatchedLift) -> f64| lifts.iter().map(|l| of(l) * l.matched as f64).sum::<f64>() / weight;
    let (own, others) = (mean(|l| l.flagged), mean(|l| l.unflagged));
    let logs: Vec<f64> = lifts.iter().map(|l| l.ratio().ln()).filter(|l| l.is_finite()).collect();
    let half = Z_95 * mean_and_error(&logs).1;
    let ratio = own / others;
    (Some((ratio, ratio * (-half).exp(), ratio * half.exp())), Some(own), Some(others))
}

fn claims(summary: &Summary, must_lift: bool) -> Vec<Check> {
    let check = |key, must, found, verdict| Check::of(key, summary.name, must, found, verdict);
    let both = |(value, error): (f64, f64)| (value - Z_95 * error, value + Z_95 * error);
    let limits =
        |(value, error): (f64, f64)| format!("{value:.4} ({:.4} – {:.4})", value - Z_95 * error, value + Z_95 * error);
    if !must_lift {
        // Nothing to find: whatever D seems to add is noise, and the gate keeps it from being told.
        let found = format!("gain {}; enabled in {}", limits(summary.gain_of_d), percent(summary.enabled));
        let must = "D adds nothing to R (upper 95 % limit of the gain in AUPRC below 0.01)";
        let (lower, upper) = both(summary.gain_of_d);
        return vec![check("d-over-r-null", must, found, Verdict::at_least(-0.01, (-upper, -lower)))];
    }
    let ratio = summary
        .lift
        .map_or("no flagged study has a like".into(), |(r, low, high)| format!("{r:.2} ({low:.2} – {high:.2})"));
    vec![
        check(
            "lift",
            "flagged studies are wrong at least twice as often as score-matched unflagged ones",
            ratio,
            summary.lift.map_or(Verdict::Open, |(_, low, high)| Verdict::at_least(LIFT, (low, high))),
        ),
        check(
            "auprc",
            "AUPRC of the expected error for realised errors exceeds that of |s − t| alone",
            format!("gain {}", limits(summary.gain_over_distance)),
            Verdict::at_least(0.0, both(summary.gain_over_distance)),
        ),
        check(
            "d-over-r",
            "D adds to R (lower 95 % limit of the gain in AUPRC above 0), else it is not shown",
            format!("gain {}", limits(summary.gain_of_d)),
            Verdict::at_least(0.0, both(summary.gain_of_d)),
        ),
    ]
}

/// The ratio by the planted shift.
fn by_strength(bench: &Bench<'_>) -> Result<(Table, Plot), ValidateError> {
    let shifts: &[f64] = if bench.count(0, 1) == 0 { &[1.5] } else { &[0.5, 0.75, 1.0, 1.25, 1.5, 2.0] };
    let (mut rows, mut points) = (Vec::new(), Vec::new());
    for (place, shift) in shifts.iter().enumerate() {
        let mut world = bench.world("intercept")?.clone();
        world.groups[1].shift = *shift;
        let replicate = |k: usize| {
            let found = measure(&world, bench.count(1500, 2500), bench.seed(60 + place as u64, k));
            found.ok_or_else(|| ValidateError::Profile(world.name.clone()))
        };
        let found: Vec<Replicate> = (0..bench.count(1, 8)).into_par_iter().map(replicate).collect::<Result<_, _>>()?;
        let summary = summarised("intercept", &found);
        rows.push([vec![shift.to_string()], summary.rows[1..].to_vec()].concat());
        if let Some((ratio, low, high)) = summary.lift {
            points.push(Point { x: *shift, y: ratio, limits: Some((low, high)) });
        }
    }
    let columns = [&["a_B"], COLUMNS.as_slice()].concat();
    let title = "Flagged against score-matched unflagged studies, by the planted shift".to_owned();
    let plot = Plot {
        name: "lift",
        lines: Lines {
            title: title.clone(),
            x: "planted shift a_B, logit".into(),
            panels: vec![Panel {
                y: "ratio of realised errors".into(),
                range: Some((0.0, 5.0)),
                series: vec![Series::joined("level 2", points)],
                rules: vec![1.0.into(), LIFT.into()],
                ..Panel::default()
            }],
            ..Lines::default()
        },
    };
    Ok((Table { name: "strength", title, columns, rows }, plot))
}
