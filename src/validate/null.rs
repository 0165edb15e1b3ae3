//! Nothing is planted: how often is a finding enabled all the same, and a study flagged?
//!
//! Also where prevalence alone differs: R and D must be silent there, while the gap of false negative rates, which base
//! rates alone cause, is reported by the audit.

use rayon::prelude::*;

use super::scene::{Race, Scene};
use super::{Bench, Check, Section, Table, ValidateError, Verdict, percent};
use crate::stats::{clopper_pearson, member_rate, upper_limit};

/// The gate's level, and the largest upper 95 % limit that is still called kept.
const LEVEL: f64 = 0.05;
const LEVEL_UPPER: f64 = 0.065;
/// Draws per replicate. The gate takes twice as many random signs, and its test is exact at any number of them: with 120
/// it rejects in 6 of 121 cases, 4.96 %.
const DRAWS: usize = 60;

struct Replicate {
    enabled: bool,
    /// Share of fresh studies at level 1 or 2, and of those the node says nothing of.
    flagged: f64,
    silent: f64,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Section, ValidateError> {
    let worlds = [
        ("null", Race::Without, bench.count(20, 2400)),
        ("null", Race::With, bench.count(2, 150)),
        ("null-repeats", Race::Without, bench.count(12, 1000)),
        ("null-bent", Race::Without, bench.count(12, 1000)),
        ("null-rare", Race::Without, bench.count(6, 400)),
        ("prevalence", Race::Without, bench.count(12, 1000)),
    ];
    let mut table = Table {
        name: "null",
        title: "Replicates in which nothing was planted".into(),
        columns: vec![
            "world",
            "replicates",
            "enabled",
            "share",
            "95 % limits (exact)",
            "upper 95 % limit",
            "studies flagged",
            "studies without an answer",
        ],
        rows: Vec::new(),
    };
    let (mut checks, mut worst) = (Vec::new(), 0.0_f64);
    for (part, (name, race, count)) in worlds.into_iter().enumerate() {
        let found = replicates(bench, name, race, part as u64, count)?;
        let n = found.len() as u64;
        let enabled = found.iter().filter(|r| r.enabled).count() as u64;
        let share = enabled as f64 / n.max(1) as f64;
        let (lower, upper) = clopper_pearson(enabled, n, 0.95).unwrap_or((0.0, 1.0));
        let bound = upper_limit(enabled, n, 0.95).unwrap_or(1.0);
        let mean = |of: fn(&Replicate) -> f64| found.iter().map(of).sum::<f64>() / n.max(1) as f64;
        let flagged = mean(|r| r.flagged);
        worst = worst.max(flagged);
        let label = if race == Race::With { format!("{name}, with posteriors") } else { name.to_owned() };
        table.rows.push(vec![
            label.clone(),
            n.to_string(),
            enabled.to_string(),
            percent(share),
            format!("{} – {}", percent(lower), percent(upper)),
            percent(bound),
            percent(flagged),
            percent(mean(|r| r.silent)),
        ]);
        // Few replicates cannot keep a limit of 6.5 %; they can show that it is broken. Of an exact 5 % half of all reports
        // would find a little more: what counts is that the limits allow 5 %, and the upper one keeps 6.5 %.
        let kept = match lower <= LEVEL {
            true if n < 1000 || bound <= LEVEL_UPPER => Verdict::Pass,
            true => Verdict::Open,
            false => Verdict::Miss,
        };
        let must = if n >= 1000 {
            format!("a finding is enabled in ≤ 5 % (upper 95 % limit ≤ 6.5 %) of {n} replicates")
        } else {
            format!("a finding is enabled in 5 % or less, as far as {n} replicates can tell")
        };
        let found = format!("{} ({enabled} of {n}), upper limit {}", percent(share), percent(bound));
        checks.push(Check::of("false-enable", &label, &must, found, kept));
    }
    checks.push(Check::of(
        "false-flags",
        "null, null-repeats, null-bent, null-rare, prevalence",
        "study-level false flags ≤ 5 %",
        format!("at most {} of fresh studies, averaged over replicates", percent(worst)),
        worst <= LEVEL,
    ));
    let (text, check) = prevalence(bench)?;
    checks.push(check);
    Ok(Section {
        title: "Nothing planted",
        text: vec![
            "Each replicate draws a cohort, fits a profile and assesses fresh studies of the same world. A finding is enabled \
             where the likelihood-ratio test of calibration by group rejects at 5 % after Holm (one finding here). Flags \
             are levels 1 and 2; they need an enabled finding and a simultaneous bound above δ, so they are rarer. \
             5 % counts as kept where the exact 95 % limits do not lie above it, and with 1,000 replicates or more where the \
             one-sided upper limit is 6.5 % at most."
                .into(),
            format!(
                "{DRAWS} bootstrap draws per replicate and {} random signs of the gate: the test is exact for any number, \
                 more would only cost time.",
                2 * DRAWS
            ),
            text,
        ],
        checks,
        tables: vec![table],
        plots: Vec::new(),
    })
}

fn replicates(
    bench: &Bench<'_>,
    name: &'static str,
    race: Race,
    part: u64,
    count: usize,
) -> Result<Vec<Replicate>, ValidateError> {
    let world = bench.world(name)?;
    let replicate = |k: usize| {
        let seed = bench.seed(part, k);
        let scene = Scene::new(world, race, seed, DRAWS).ok_or_else(|| ValidateError::Profile(name.into()))?;
        let told = scene.tell(200 / world.studies, seed ^ 0xf4e5);
        let share = |wanted: &dyn Fn(&super::scene::Told) -> bool| {
            told.iter().filter(|t| wanted(t)).count() as f64 / told.len() as f64
        };
        Ok(Replicate {
            enabled: scene.is_enabled(),
            flagged: share(&|t| t.is_flagged()),
            silent: share(&|t| t.said.spread.is_none()),
        })
    };
    (0..count).into_par_iter().map(replicate).collect()
}

/// Where prevalence alone differs the false negative rates do too, which the audit must report.
fn prevalence(bench: &Bench<'_>) -> Result<(String, Check), ValidateError> {
    let world = bench.world("prevalence")?;
    let drawn = world.draw(bench.count(4000, 20_000), bench.seed(9, 0));
    let with: Vec<_> = drawn.iter().filter(|s| s.outcome).collect();
    let missed: Vec<bool> = with.iter().map(|s| s.score < world.threshold).collect();
    let rate = |group: usize| member_rate(&with.iter().map(|s| s.group == group).collect::<Vec<_>>(), &missed);
    let (gap, error) = rate(0).zip(rate(1)).map_or((0.0, f64::INFINITY), |(a, b)| a.gap(&b));
    let lower = gap - crate::stats::Z_95 * error;
    let found = format!("FNR gap {} ± {} between groups with equal calibration", percent(gap), percent(error));
    let text = format!(
        "In the world `prevalence` calibration is the same in all groups, and the false negative rate of group A is {} higher \
         than that of group B all the same: such a gap says nothing of how a score should be read, and R and D do not \
         show it. Both are reported, never one for the other.",
        percent(gap)
    );
    let must = "R and D silent (above), the FNR gap reported";
    Ok((text, Check::of("prevalence-gap", "prevalence", must, found, lower > 0.05)))
}
