//! A profile for people: groups, counts, gates, and error by group at a few scores.
//!
//! [`summary`] leaves the draws out and computes what they mean, [`render`] prints it as text; the summary is also
//! what `profile show --json` writes. Left out: who may see it. It names groups, never patients.

use std::fmt::Write;

use serde::Serialize;

use super::cells::told;
use super::fit::ADMITTED_MIN;
use super::profile::{CohortDescription, FindingProfile, GroupEvidence, Profile, StratumEvidence};
use super::risk::{self, Individual};
use super::{Gate, RaceQuality};
use crate::domain::{Direction, IndReason, Interval, Level, Timestamp};
use crate::stats::expit;

/// A profile without its draws.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProfileSummary {
    pub id: String,
    pub site: String,
    pub fitted_at: Timestamp,
    pub bootstrap: usize,
    pub delta: f64,
    pub race_model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub race_prior: Option<crate::domain::Digest>,
    pub groups: Vec<String>,
    pub cohort: CohortDescription,
    pub findings: Vec<FindingSummary>,
}

/// One finding of a profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingSummary {
    pub finding: String,
    pub model: String,
    pub threshold: f64,
    pub studies: usize,
    pub groups: Vec<GroupEvidence>,
    pub withheld: Option<IndReason>,
    pub gate: Option<Gate>,
    pub race: Option<RaceQuality>,
    pub elevated: Vec<StratumEvidence>,
    /// The scores between which the profile speaks.
    pub score_range: Option<[f64; 2]>,
    pub table: Vec<ScoreLine>,
}

/// What the profile says at one score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreLine {
    pub score: f64,
    pub direction: Direction,
    /// e_g in the order of the groups, with simultaneous bands.
    pub errors: Vec<Option<Interval>>,
    pub expected: Interval,
    pub spread: Interval,
    /// The level that every study with this score reaches, whatever its posteriors, and why there is none.
    pub level: Level,
    pub reasons: Vec<IndReason>,
}

const LINES: usize = 9;

/// Everything about a profile but its draws.
pub fn summary(profile: &Profile) -> ProfileSummary {
    ProfileSummary {
        id: profile.id.clone(),
        site: profile.site.clone(),
        fitted_at: profile.fitted_at,
        bootstrap: profile.bootstrap,
        delta: profile.delta,
        race_model: profile.race_model.clone(),
        race_prior: profile.race_prior.clone(),
        groups: profile.groups.clone(),
        cohort: profile.cohort.clone(),
        findings: profile.findings.iter().map(|f| finding_summary(f, profile.delta)).collect(),
    }
}

/// The summary as text of at most about 100 columns for three groups.
pub fn render(profile: &Profile) -> String {
    let summary = summary(profile);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_head(&mut text, &summary);
    for finding in &summary.findings {
        let _ = write_finding(&mut text, finding, summary.delta);
    }
    text
}

fn finding_summary(f: &FindingProfile, delta: f64) -> FindingSummary {
    let lines = |c: &super::Curves| -> Vec<ScoreLine> {
        let z = |k: usize| c.z_low + (c.z_high - c.z_low) * (k as f64 + 0.5) / LINES as f64;
        (0..LINES).filter_map(|k| score_line(f, expit(z(k)), delta)).collect()
    };
    FindingSummary {
        finding: f.finding.clone(),
        model: f.model.clone(),
        threshold: f.threshold,
        studies: f.studies,
        groups: f.groups.clone(),
        withheld: f.withheld,
        gate: f.gate,
        race: f.race.clone(),
        elevated: f.elevated.clone(),
        score_range: f.curves.as_ref().map(|c| [expit(c.z_low), expit(c.z_high)]),
        table: f.curves.as_ref().map(lines).unwrap_or_default(),
    }
}

fn score_line(f: &FindingProfile, score: f64, delta: f64) -> Option<ScoreLine> {
    let positive = score >= f.threshold;
    let estimates = risk::estimates_at(f, score, positive)?;
    let decision = risk::decide(f, score, positive, Individual::Withheld(IndReason::Off), delta);
    Some(ScoreLine {
        score,
        direction: if positive { Direction::FalseAlarm } else { Direction::Miss },
        errors: estimates.errors,
        expected: estimates.expected,
        spread: estimates.spread,
        level: decision.level,
        reasons: decision.reasons,
    })
}

fn write_head(out: &mut String, s: &ProfileSummary) -> std::fmt::Result {
    writeln!(out, "{}  {}", s.id, s.site)?;
    writeln!(out, "fitted {}, {} bootstrap draws", s.fitted_at.format("%Y-%m-%d %H:%M UTC"), s.bootstrap)?;
    writeln!(out, "race model {}", s.race_model.as_deref().unwrap_or("none: no statements on individuals"))?;
    if let Some(prior) = &s.race_prior {
        writeln!(out, "posteriors reweighed by the race prior {}", prior.short())?;
    }
    let dates = match (s.cohort.first_date, s.cohort.last_date) {
        (Some(first), Some(last)) => format!(", {first} to {last}"),
        _ => String::new(),
    };
    writeln!(out, "cohort {} patients, {} studies{dates}", s.cohort.patients, s.cohort.studies)?;
    let counts = s.groups.iter().zip(&s.cohort.group_patients).map(|(g, n)| format!("{g} {}", told(*n)));
    writeln!(out, "  patients by self-reported group: {}", counts.collect::<Vec<_>>().join(", "))?;
    let views = s.cohort.views.iter().map(|(view, n)| format!("{view} {}", told(*n)));
    writeln!(out, "  studies by views: {}", views.collect::<Vec<_>>().join(", "))?;
    writeln!(out, "  –: from 1 to 10, or what would tell such a number")
}

fn write_finding(out: &mut String, f: &FindingSummary, delta: f64) -> std::fmt::Result {
    writeln!(out, "\n{}  {}  threshold {:.4}, {} studies", f.finding, f.model, f.threshold, f.studies)?;
    for g in &f.groups {
        let state = match g.admitted {
            true => "admitted".to_owned(),
            false => format!("not admitted: {ADMITTED_MIN} patients with and without the finding are needed"),
        };
        let [patients, events, non_events] = [g.patients, g.events, g.non_events].map(told);
        writeln!(out, "  {:<12} {patients:>6} patients, {events:>5} with, {non_events:>5} without  {state}", g.group)?;
    }
    if let Some(reason) = f.withheld {
        writeln!(out, "  no curves: {} ({})", reason.code().1, reason.code().0)?;
    }
    if let Some(gate) = f.gate {
        let state = if gate.enabled { "flags enabled" } else { "flags disabled" };
        let p = format!("p {:.4}, after Holm {:.4}", gate.p, gate.p_holm);
        writeln!(out, "  calibration by group: LR {:.2} on {} df, {p}: {state}", gate.statistic, gate.df)?;
    }
    if let Some(race) = &f.race {
        write_race(out, race, &f.groups)?;
    }
    for e in &f.elevated {
        writeln!(out, "  level 2, {}: {} patients", direction_name(e.direction), told(e.patients))?;
    }
    if !f.table.is_empty() {
        write_table(out, f, delta)?;
    }
    Ok(())
}

fn write_race(out: &mut String, race: &RaceQuality, groups: &[GroupEvidence]) -> std::fmt::Result {
    let auc = groups.iter().zip(&race.auc).map(|(g, auc)| match auc {
        Some(a) => format!("{} {:.3} ({:.3}–{:.3})", g.group, a.auc, a.lower, a.upper),
        None => format!("{} too few", g.group),
    });
    writeln!(out, "  race model here: AUC {}", auc.collect::<Vec<_>>().join(", "))?;
    writeln!(out, "  race calibration error {:.3} after recalibration", race.calibration_error)
}

fn write_table(out: &mut String, f: &FindingSummary, delta: f64) -> std::fmt::Result {
    writeln!(out, "  error probability in % with simultaneous 95 % bands, δ = {:.1} %", 100.0 * delta)?;
    write!(out, "  {:>6} {:<11}", "score", "error")?;
    for g in &f.groups {
        write!(out, " {:>16}", g.group)?;
    }
    writeln!(out, " {:>16} {:>16}  level by score", "all", "R")?;
    for line in &f.table {
        write!(out, "  {:>6.3} {:<11}", line.score, direction_name(line.direction))?;
        for error in &line.errors {
            write!(out, " {:>16}", error.map_or_else(|| "–".to_owned(), percent))?;
        }
        let reasons: Vec<&str> = line.reasons.iter().map(|r| r.code().0).collect();
        writeln!(
            out,
            " {:>16} {:>16}  {} {}",
            percent(line.expected),
            percent(line.spread),
            line.level.code().0,
            reasons.join(" ")
        )?;
    }
    Ok(())
}

pub(super) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Miss => "miss",
        Direction::FalseAlarm => "false alarm",
    }
}

pub(super) fn percent(i: Interval) -> String {
    format!("{:.1} ({:.1}–{:.1})", 100.0 * i.estimate, 100.0 * i.lower, 100.0 * i.upper)
}
