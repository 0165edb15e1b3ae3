//! What a person must see before a profile takes another one's place: who it rests on, what the gates say, where the
//! curves moved, and which scores get another level.
//!
//! Curves are compared where both profiles speak, at 201 scores, with the simultaneous bands of both; a difference whose
//! bands are apart is one that chance does not explain. Levels are those that a score has whatever the posterior.
//! Neighbours: `show` prints one profile, `commands` print this. Left out: whether the new one is better, which is the
//! reader's to say.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use super::bands::GRID;
use super::cells::told;
use super::profile::{FindingProfile, Profile};
use super::risk::{self, Individual};
use super::show::{direction_name, percent};
use crate::domain::{Direction, IndReason, Interval, Level, Timestamp};
use crate::stats::expit;

/// Two profiles side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProfileDiff {
    pub old: Side,
    pub new: Side,
    pub findings: Vec<FindingDiff>,
}

/// What a profile rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    pub id: String,
    pub site: String,
    pub fitted_at: Timestamp,
    pub delta: f64,
    pub bootstrap: usize,
    pub race_model: Option<String>,
    pub race_prior: Option<String>,
    pub patients: usize,
    pub studies: usize,
    /// Patients by self-reported group; absent where the profile does not tell.
    pub groups: Vec<(String, Option<usize>)>,
}

/// One finding in both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingDiff {
    pub finding: String,
    /// Absent where a profile does not have the finding.
    pub old: Option<State>,
    pub new: Option<State>,
    pub curves: Vec<CurveDiff>,
    /// The largest change of R, at one score.
    pub spread: Option<Moved>,
    /// From the lowest score to the highest, where levels differ.
    pub levels: Vec<LevelDiff>,
}

/// One finding of one profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    pub model: String,
    pub threshold: f64,
    pub studies: usize,
    /// Group, patients, with, without, and whether it has a curve.
    pub groups: Vec<(String, [Option<usize>; 3], bool)>,
    pub withheld: Option<IndReason>,
    /// p after Holm, and whether flags are enabled.
    pub gate: Option<(f64, bool)>,
    /// Lowest AUC bound of a group, and the calibration error.
    pub race: Option<(f64, f64)>,
    /// The scores between which it speaks.
    pub scores: Option<[f64; 2]>,
    /// Patients of the cohort at level 2, by direction.
    pub elevated: Vec<(Direction, Option<usize>)>,
}

/// Where the error curve of a group moved most.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveDiff {
    pub group: String,
    #[serde(flatten)]
    pub moved: Moved,
}

/// A change at one score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moved {
    pub score: f64,
    pub direction: Direction,
    pub old: Interval,
    pub new: Interval,
    /// The bands do not touch.
    pub apart: bool,
}

/// Scores that have another level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelDiff {
    pub from: f64,
    pub to: f64,
    /// Code of the level, or of the reason why there is none.
    pub old: &'static str,
    pub new: &'static str,
}

/// Compares two profiles; each with its own δ.
pub fn diff(old: &Profile, new: &Profile) -> ProfileDiff {
    let names: BTreeSet<&String> = old.findings.iter().chain(&new.findings).map(|f| &f.finding).collect();
    let findings = names.into_iter().map(|name| {
        let of = |p: &'_ Profile| p.findings.iter().position(|f| f.finding == *name);
        let (a, b) = (of(old).map(|i| &old.findings[i]), of(new).map(|i| &new.findings[i]));
        finding_diff(name, (a, old.delta), (b, new.delta))
    });
    ProfileDiff { old: side(old), new: side(new), findings: findings.collect() }
}

fn side(p: &Profile) -> Side {
    Side {
        id: p.id.clone(),
        site: p.site.clone(),
        fitted_at: p.fitted_at,
        delta: p.delta,
        bootstrap: p.bootstrap,
        race_model: p.race_model.clone(),
        race_prior: p.race_prior.as_ref().map(|d| d.short().to_owned()),
        patients: p.cohort.patients,
        studies: p.cohort.studies,
        groups: p.groups.iter().cloned().zip(p.cohort.group_patients.iter().copied()).collect(),
    }
}

fn finding_diff(
    name: &str,
    (old, old_delta): (Option<&FindingProfile>, f64),
    (new, new_delta): (Option<&FindingProfile>, f64),
) -> FindingDiff {
    let mut diff = FindingDiff {
        finding: name.to_owned(),
        old: old.map(state),
        new: new.map(state),
        curves: Vec::new(),
        spread: None,
        levels: Vec::new(),
    };
    let (Some(old), Some(new)) = (old, new) else { return diff };
    diff.levels = levels((old, old_delta), (new, new_delta));
    let (Some(a), Some(b)) = (&old.curves, &new.curves) else { return diff };
    let (low, high) = (a.z_low.max(b.z_low), a.z_high.min(b.z_high));
    if low >= high {
        return diff;
    }
    let mut spread = Largest::default();
    let mut groups: Vec<(usize, usize, Largest)> = Vec::new();
    for (i, group) in old.groups.iter().enumerate() {
        if let Some(j) = new.groups.iter().position(|g| g.group == group.group) {
            groups.push((i, j, Largest::default()));
        }
    }
    for z in grid(low, high) {
        let (score, positive) = (expit(z), expit(z) >= new.threshold);
        let estimates = |f| risk::estimates_at(f, score, positive);
        let (Some(a), Some(b)) = (estimates(old), estimates(new)) else { continue };
        spread.see(score, positive, a.spread, b.spread);
        for (i, j, largest) in &mut groups {
            if let (Some(a), Some(b)) = (a.errors[*i], b.errors[*j]) {
                largest.see(score, positive, a, b);
            }
        }
    }
    diff.spread = spread.0;
    let curve = |(i, _, largest): (usize, usize, Largest)| {
        Some(CurveDiff { group: old.groups[i].group.clone(), moved: largest.0? })
    };
    diff.curves = groups.into_iter().filter_map(curve).collect();
    diff
}

fn state(f: &FindingProfile) -> State {
    let lowest = |r: &super::RaceQuality| r.auc.iter().flatten().map(|a| a.lower).fold(1.0, f64::min);
    State {
        model: f.model.clone(),
        threshold: f.threshold,
        studies: f.studies,
        groups: f.groups.iter().map(|g| (g.group.clone(), [g.patients, g.events, g.non_events], g.admitted)).collect(),
        withheld: f.withheld,
        gate: f.gate.map(|g| (g.p_holm, g.enabled)),
        race: f.race.as_ref().map(|r| (lowest(r), r.calibration_error)),
        scores: f.curves.as_ref().map(|c| [expit(c.z_low), expit(c.z_high)]),
        elevated: f.elevated.iter().map(|e| (e.direction, e.patients)).collect(),
    }
}

/// The largest change seen so far.
#[derive(Default)]
struct Largest(Option<Moved>);

impl Largest {
    fn see(&mut self, score: f64, positive: bool, old: Interval, new: Interval) {
        let distance = |a: Interval, b: Interval| (a.estimate - b.estimate).abs();
        if self.0.is_none_or(|m| distance(m.old, m.new) < distance(old, new)) {
            let direction = if positive { Direction::FalseAlarm } else { Direction::Miss };
            let apart = old.upper < new.lower || new.upper < old.lower;
            self.0 = Some(Moved { score, direction, old, new, apart });
        }
    }
}

fn grid(low: f64, high: f64) -> impl Iterator<Item = f64> {
    (0..GRID).map(move |k| low + (high - low) * k as f64 / (GRID - 1) as f64)
}

/// Runs of scores at which the levels differ, over all scores at which either profile speaks.
fn levels((old, old_delta): (&FindingProfile, f64), (new, new_delta): (&FindingProfile, f64)) -> Vec<LevelDiff> {
    let ranges: Vec<(f64, f64)> =
        [old, new].iter().filter_map(|f| f.curves.as_ref()).map(|c| (c.z_low, c.z_high)).collect();
    let low = ranges.iter().map(|r| r.0).fold(f64::INFINITY, f64::min);
    let high = ranges.iter().map(|r| r.1).fold(f64::NEG_INFINITY, f64::max);
    let mut found: Vec<LevelDiff> = Vec::new();
    let mut running = false;
    for z in grid(low, high).take_while(|z| z.is_finite()) {
        let score = expit(z);
        let (old, new) = (level(old, score, old_delta), level(new, score, new_delta));
        match found.last_mut().filter(|l| running && (l.old, l.new) == (old, new)) {
            Some(last) => last.to = score,
            None if old != new => found.push(LevelDiff { from: score, to: score, old, new }),
            None => {}
        }
        running = old != new;
    }
    found
}

fn level(f: &FindingProfile, score: f64, delta: f64) -> &'static str {
    let decision = risk::decide(f, score, score >= f.threshold, Individual::Withheld(IndReason::Off), delta);
    match (decision.level, decision.reasons.first()) {
        (Level::Indeterminate, Some(reason)) => reason.code().0,
        (level, _) => level.code().0,
    }
}

/// The comparison as text.
pub fn render_diff(diff: &ProfileDiff) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_sides(&mut text, &diff.old, &diff.new);
    for finding in &diff.findings {
        let _ = write_finding(&mut text, finding);
    }
    text
}

fn write_sides(out: &mut String, old: &Side, new: &Side) -> std::fmt::Result {
    let date = |s: &Side| s.fitted_at.format("%Y-%m-%d").to_string();
    writeln!(out, "old {} of {}, fitted {}", old.id, old.site, date(old))?;
    writeln!(out, "new {} of {}, fitted {}", new.id, new.site, date(new))?;
    let mut row = |what: &str, a: String, b: String| {
        if a == b { writeln!(out, "  {what}: {a}") } else { writeln!(out, "  {what}: {a} → {b}") }
    };
    row("patients", old.patients.to_string(), new.patients.to_string())?;
    row("studies", old.studies.to_string(), new.studies.to_string())?;
    let groups: BTreeSet<&String> = old.groups.iter().chain(&new.groups).map(|(g, _)| g).collect();
    for group in groups {
        let count = |s: &Side| {
            let found = s.groups.iter().find(|(g, _)| g == group);
            found.map_or_else(|| "not a group".to_owned(), |(_, n)| told(*n))
        };
        row(&format!("self-reported {group}"), count(old), count(new))?;
    }
    let named = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
    row("race model", named(&old.race_model), named(&new.race_model))?;
    row("race prior", named(&old.race_prior), named(&new.race_prior))?;
    row("bootstrap draws", old.bootstrap.to_string(), new.bootstrap.to_string())?;
    row("δ of the levels below", old.delta.to_string(), new.delta.to_string())
}

fn write_finding(out: &mut String, f: &FindingDiff) -> std::fmt::Result {
    writeln!(out, "\n{}", f.finding)?;
    let (Some(old), Some(new)) = (&f.old, &f.new) else {
        return writeln!(out, "  only in the {} profile", if f.old.is_some() { "old" } else { "new" });
    };
    let mut row = |what: &str, a: String, b: String| {
        if a == b { writeln!(out, "  {what}: {a}") } else { writeln!(out, "  {what}: {a} → {b}") }
    };
    row("model", old.model.clone(), new.model.clone())?;
    row("threshold", old.threshold.to_string(), new.threshold.to_string())?;
    for group in old.groups.iter().chain(new.groups.iter().filter(|g| old.groups.iter().all(|o| o.0 != g.0))) {
        let shown = |s: &State| match s.groups.iter().find(|g| g.0 == group.0) {
            None => "not a group".to_owned(),
            Some((_, counts, admitted)) => {
                let curve = if *admitted { "a curve" } else { "no curve" };
                let [patients, with, without] = counts.map(told);
                format!("{patients} patients, {with} with, {without} without, {curve}")
            }
        };
        row(&group.0, shown(old), shown(new))?;
    }
    let gate = |s: &State| match s.gate {
        Some((p, enabled)) => format!("p {p:.4}, flags {}", if enabled { "enabled" } else { "disabled" }),
        None => s.withheld.map_or("none", |r| r.code().0).to_owned(),
    };
    row("gate", gate(old), gate(new))?;
    let race = |s: &State| match s.race {
        Some((auc, error)) => format!("lowest AUC bound {auc:.3}, calibration error {error:.3}"),
        None => "not measured".to_owned(),
    };
    row("race model here", race(old), race(new))?;
    let scores = |s: &State| s.scores.map_or_else(|| "none".to_owned(), |[a, b]| format!("{a:.3}–{b:.3}"));
    row("speaks of scores", scores(old), scores(new))?;
    for direction in [Direction::Miss, Direction::FalseAlarm] {
        let shown = |s: &State| told(s.elevated.iter().find(|e| e.0 == direction).map_or(Some(0), |e| e.1));
        row(&format!("cohort patients at level 2, {}", direction_name(direction)), shown(old), shown(new))?;
    }
    write_moved(out, f)
}

fn write_moved(out: &mut String, f: &FindingDiff) -> std::fmt::Result {
    let moved = |m: &Moved| {
        let apart = if m.apart { ", bands apart" } else { "" };
        let (old, new) = (percent(m.old), percent(m.new));
        format!("at score {:.3} ({}): {old} → {new} %{apart}", m.score, direction_name(m.direction))
    };
    if !f.curves.is_empty() {
        writeln!(out, "  error probability moved most")?;
    }
    for curve in &f.curves {
        writeln!(out, "    {}: {}", curve.group, moved(&curve.moved))?;
    }
    if let Some(spread) = &f.spread {
        writeln!(out, "    R: {}", moved(spread))?;
    }
    match f.levels.as_slice() {
        [] => writeln!(out, "  no score changes its level"),
        levels => {
            writeln!(out, "  scores that change their level")?;
            levels.iter().try_for_each(|l| writeln!(out, "    {:.3}–{:.3}: {} → {}", l.from, l.to, l.old, l.new))
        }
    }
}
