//! What people look at before they believe a fit: calibration by group, as a table, in words and as pictures.
//!
//! Rates are of bins of at least 30 patients in which no outcome has 1 to 10, so that no small cell can be read off; a
//! group that cannot be cut so has no bins. The isotonic fit needs no bins and no curve. The same cohort and profile give
//! the same bytes. Neighbours: `fit` makes the profile, `picture` draws. Left out: writing files.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::cells::{CELL_MIN, is_small, told};
use super::cohort::{Cohort, Row};
use super::picture;
use super::profile::{FindingProfile, Profile};
use super::risk;
use crate::domain::Interval;
use crate::stats::{Design, Ridge, isotonic, logistic, logit, wilson};

/// One file.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Rows of one group with neighbouring scores.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bin {
    pub(super) rows: usize,
    pub(super) lowest: f64,
    pub(super) highest: f64,
    pub(super) score: f64,
    /// Share with the finding, with Wilson's limits.
    pub(super) observed: Interval,
    /// The isotonic fit of the whole group, and the profile's curve with its simultaneous band, at the mean score.
    pub(super) isotonic: f64,
    pub(super) curve: Option<Interval>,
}

impl Bin {
    /// Its dot lies outside the curve's band.
    fn leaves_the_band(&self) -> bool {
        self.curve.is_some_and(|c| !(c.lower..=c.upper).contains(&self.observed.estimate))
    }
}

/// One group of one finding.
pub(super) struct GroupPlot<'a> {
    pub(super) group: &'a str,
    pub(super) bins: Vec<Bin>,
    /// The curve at ascending scores; empty where the group has none.
    pub(super) curve: Vec<(f64, Interval)>,
    /// Of logit P(finding) on logit score: 0 and 1 for scores that are probabilities.
    intercept_slope: Option<(f64, f64)>,
}

const BINS: usize = 10;
const BIN_PATIENTS_MIN: usize = 30;
const CURVE_POINTS: usize = 61;

/// A table, a text that shows the pictures, and a picture for each finding. `cohort` is the one that was fitted.
pub fn diagnostics(cohort: &Cohort, profile: &Profile) -> Vec<Diagnostic> {
    let mut table = String::from(
        "finding,group,bin,rows,score_low,score_high,score_mean,observed,observed_lower,observed_upper,isotonic,curve,\
         curve_lower,curve_upper\n",
    );
    let mut text = format!("# Diagnostics of {}\n\n{}\n", profile.id, HEAD);
    let mut pictures = Vec::new();
    for (index, finding) in profile.findings.iter().enumerate() {
        let plots: Vec<GroupPlot<'_>> =
            profile.groups.iter().enumerate().map(|(g, name)| plot(cohort, finding, g, name)).collect();
        let name = format!("{:02}-{}.svg", index + 1, file_name(&finding.finding));
        // Writing to a String cannot fail.
        let _ = write_table(&mut table, finding, &plots);
        let _ = write_text(&mut text, finding, &plots, &name);
        pictures.push(Diagnostic { name, bytes: String::from(picture::calibration(finding, &plots)).into_bytes() });
    }
    let file = |name: &str, text: String| Diagnostic { name: name.into(), bytes: text.into_bytes() };
    [vec![file("calibration.csv", table), file("diagnostics.md", text)], pictures].concat()
}

const HEAD: &str = "Each picture: scores across, share of studies with the finding upwards. Lines with a shade are the \
profile's curves and their simultaneous 95 % bands; dots with bars are bins of studies with Wilson's 95 % intervals, \
which take every study for a patient of its own; the broken line is where a score is the probability; the broken upright \
is the threshold. A band that its dots leave has the wrong shape there.";

fn plot<'a>(cohort: &Cohort, finding: &FindingProfile, group: usize, name: &'a str) -> GroupPlot<'a> {
    let mut rows: Vec<&Row> = cohort.rows.iter().filter(|r| r.finding == finding.finding && r.group == name).collect();
    rows.sort_by(|a, b| a.score.total_cmp(&b.score).then_with(|| a.study.cmp(&b.study)));
    let curve_at = |score: f64| risk::estimates_at(finding, score, false).and_then(|e| e.errors[group]);
    let curve = finding.curves.as_ref().map_or_else(Vec::new, |c| {
        let z = |k: usize| c.z_low + (c.z_high - c.z_low) * k as f64 / (CURVE_POINTS - 1) as f64;
        let score = |k: usize| crate::stats::expit(z(k));
        (0..CURVE_POINTS).filter_map(|k| Some((score(k), curve_at(score(k))?))).collect()
    });
    GroupPlot { group: name, bins: bins(&rows, &curve_at), curve, intercept_slope: intercept_slope(&rows) }
}

fn bins(rows: &[&Row], curve_at: &dyn Fn(f64) -> Option<Interval>) -> Vec<Bin> {
    let value = |r: &&Row| f64::from(u8::from(r.outcome));
    let (scores, outcomes): (Vec<f64>, Vec<f64>) = rows.iter().map(|r| (r.score, value(r))).unzip();
    let Some(fitted) = isotonic(&scores, &outcomes, &vec![1.0; rows.len()]) else { return Vec::new() };
    let bin = |part: &[&Row]| {
        let (n, events) = (part.len(), part.iter().filter(|r| r.outcome).count());
        let (lower, upper) = wilson(events as u64, n as u64)?;
        let score = part.iter().map(|r| r.score).sum::<f64>() / n as f64;
        let at = fitted.scores.partition_point(|s| *s <= score).saturating_sub(1);
        Some(Bin {
            rows: n,
            lowest: part.first()?.score,
            highest: part.last()?.score,
            score,
            observed: Interval { estimate: events as f64 / n as f64, lower, upper },
            isotonic: fitted.values[at],
            curve: curve_at(score),
        })
    };
    cuts(rows).windows(2).filter_map(|cut| bin(&rows[cut[0]..cut[1]])).collect()
}

/// The patients of some rows.
#[derive(Default)]
struct Cell<'a> {
    with: BTreeSet<&'a str>,
    without: BTreeSet<&'a str>,
}

impl<'a> Cell<'a> {
    fn of(rows: &[&'a Row]) -> Self {
        let mut cell = Self::default();
        rows.iter().for_each(|row| cell.add(row));
        cell
    }

    fn add(&mut self, row: &'a Row) {
        let side = if row.outcome { &mut self.with } else { &mut self.without };
        side.insert(&row.patient);
    }

    fn is_shown(&self) -> bool {
        let is_enough = self.with.union(&self.without).take(BIN_PATIENTS_MIN).count() == BIN_PATIENTS_MIN;
        is_enough && !is_small(self.with.len()) && !is_small(self.without.len())
    }
}

/// Where bins begin and the last one ends; none where no cut avoids small cells.
fn cuts(rows: &[&Row]) -> Vec<usize> {
    let target = rows.len().div_ceil(BINS);
    let (mut cuts, mut cell) = (vec![0], Cell::default());
    for (i, row) in rows.iter().enumerate() {
        cell.add(row);
        if i + 1 - cuts[cuts.len() - 1] >= target && cell.is_shown() {
            cuts.push(i + 1);
            cell = Cell::default();
        }
    }
    // What is left over joins the last bin, and that one the one before, until no cell is small.
    while cuts.len() > 1 && cuts[cuts.len() - 1] != rows.len() {
        cuts.pop();
        if Cell::of(&rows[cuts[cuts.len() - 1]..]).is_shown() {
            cuts.push(rows.len());
        }
    }
    cuts
}

fn intercept_slope(rows: &[&Row]) -> Option<(f64, f64)> {
    let mut design = Design::new(2);
    rows.iter().for_each(|r| design.push(&[1.0, logit(r.score)]));
    let outcomes: Vec<f64> = rows.iter().map(|r| f64::from(u8::from(r.outcome))).collect();
    let cell = Cell::of(rows);
    if cell.with.len() < CELL_MIN || cell.without.len() < CELL_MIN {
        return None;
    }
    let fitted = logistic(&design, &outcomes, &vec![1.0; rows.len()], &Ridge::uniform(2, 0.0), None).ok()?;
    Some((fitted.coefficients[0], fitted.coefficients[1]))
}

/// A finding's key as a part of a file's name.
fn file_name(key: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    key.chars().take(60).map(kept).collect()
}

/// A field of a CSV file, quoted where it has to be.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn write_table(out: &mut String, finding: &FindingProfile, plots: &[GroupPlot<'_>]) -> std::fmt::Result {
    for plot in plots {
        for (i, bin) in plot.bins.iter().enumerate() {
            let Interval { estimate, lower, upper } = bin.observed;
            write!(out, "{},{},{},{}", field(&finding.finding), field(plot.group), i + 1, bin.rows)?;
            write!(out, ",{:.5},{:.5},{:.5}", bin.lowest, bin.highest, bin.score)?;
            write!(out, ",{estimate:.5},{lower:.5},{upper:.5},{:.5}", bin.isotonic)?;
            match bin.curve {
                Some(c) => writeln!(out, ",{:.5},{:.5},{:.5}", c.estimate, c.lower, c.upper)?,
                None => writeln!(out, ",,,")?,
            }
        }
    }
    Ok(())
}

fn write_text(out: &mut String, finding: &FindingProfile, plots: &[GroupPlot<'_>], picture: &str) -> std::fmt::Result {
    writeln!(out, "\n## {}\n\nModel {}, threshold {:.4}.", finding.finding, finding.model, finding.threshold)?;
    match (finding.gate, finding.withheld) {
        (Some(gate), _) => writeln!(
            out,
            "Calibration by group: LR {:.2} on {} df, p {:.4}, after Holm {:.4}: flags {}.",
            gate.statistic,
            gate.df,
            gate.p,
            gate.p_holm,
            if gate.enabled { "enabled" } else { "disabled" }
        )?,
        (None, Some(reason)) => writeln!(out, "No curves: {} ({}).", reason.code().1, reason.code().0)?,
        (None, None) => {}
    }
    writeln!(out, "\n![calibration by group]({picture})\n")?;
    writeln!(
        out,
        "| group | patients | with | without | curve | calibration intercept | slope | dots outside the band |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for (group, plot) in finding.groups.iter().zip(plots) {
        let (intercept, slope) = plot.intercept_slope.map_or_else(
            || ("too few".to_owned(), "too few".to_owned()),
            |(a, b)| (format!("{a:.2}"), format!("{b:.2}")),
        );
        let curve = if group.admitted { "own" } else { "none" };
        writeln!(
            out,
            "| {} | {} | {} | {} | {curve} | {intercept} | {slope} | {} of {} |",
            group.group,
            told(group.patients),
            told(group.events),
            told(group.non_events),
            plot.bins.iter().filter(|bin| bin.leaves_the_band()).count(),
            plot.bins.len()
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(events: &[bool]) -> Vec<Row> {
        let row = |(i, outcome): (usize, &bool)| Row {
            patient: i.to_string(),
            study: i.to_string(),
            finding: "f".into(),
            score: (i as f64 + 0.5) / events.len() as f64,
            outcome: *outcome,
            group: "A".into(),
            posteriors: None,
            view: String::new(),
            date: None,
        };
        events.iter().enumerate().map(row).collect()
    }

    #[test]
    fn no_bin_shows_a_small_cell() {
        let check = |events: &[bool], expected: usize| {
            let all = rows(events);
            let borrowed: Vec<&Row> = all.iter().collect();
            let found = bins(&borrowed, &|_| None);
            for bin in &found {
                let cases = (bin.observed.estimate * bin.rows as f64).round() as usize;
                assert!(bin.rows >= 30 && [cases, bin.rows - cases].iter().all(|c| *c == 0 || *c >= 11), "{bin:?}");
            }
            assert_eq!(found.len(), expected);
            assert!(found.is_empty() || found.iter().map(|b| b.rows).sum::<usize>() == events.len());
        };
        let every = |n: usize, step: usize| (0..n).map(|i| i % step == 0).collect::<Vec<_>>();
        check(&every(600, 2), 10);
        check(&every(600, 12), 4);
        check(&every(600, 100), 0);
        check(&every(29, 2), 0);
        check(&[vec![false; 300], every(300, 2)].concat(), 10);
        check(&[], 0);
        // The same patient again is nobody else.
        let mut all = rows(&every(600, 2));
        all.iter_mut().for_each(|row| row.patient = (row.patient.parse::<usize>().unwrap() % 20).to_string());
        assert!(bins(&all.iter().collect::<Vec<_>>(), &|_| None).is_empty());
    }

    #[test]
    fn a_dot_outside_the_band_is_what_the_picture_draws() {
        let at = |estimate| Interval { estimate, lower: 0.1, upper: 0.9 };
        let bin = |observed, isotonic, curve| {
            let (rows, lowest, highest, score) = (30, 0.4, 0.6, 0.5);
            Bin { rows, lowest, highest, score, observed: at(observed), isotonic, curve }.leaves_the_band()
        };
        let curve = Some(Interval { estimate: 0.5, lower: 0.45, upper: 0.55 });
        assert!(bin(0.6, 0.5, curve) && !bin(0.5, 0.6, curve) && !bin(0.6, 0.5, None));
    }

    #[test]
    fn names_of_files_and_fields_are_tame() {
        assert_eq!(file_name("../a b,ü_1"), "---a-b--_1");
        assert_eq!((field("a"), field("a,\"b\"")), ("a".to_owned(), "\"a,\"\"b\"\"\"".to_owned()));
    }
}
