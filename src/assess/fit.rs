//! Cohort → profile (method.md §1).
//!
//! Rows are sorted first, patients numbered by name, and every random number comes from the seed, so the same
//! cohort gives the same file whatever the order of its rows. Neighbours: `estimate` (parameters and draws), `gate`,
//! `quality`, `bands`, `risk` (who would be flagged). Left out: reading and writing files.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::bands::{self, Critical};
use super::cells::{is_small, shown};
use super::cohort::{Cohort, FindingModel, Row};
use super::curves::{Layout, ScoreScale};
use super::ensemble::Ensemble;
use super::estimate::{Estimator, Memory, Observation, Point, score_rows, score_scale};
use super::gate::{self, Gate};
use super::profile::{
    CohortDescription, Curves, FindingProfile, GroupEvidence, Profile, Series, StratumEvidence, are_draws, significant,
};
use super::quality::{self, Auc, RaceQuality};
use super::risk;
use crate::domain::{Direction, IndReason, Timestamp};
use crate::stats::{ClusterBootstrap, NumericsError, holm, logit, quantile};

/// Settings of a fit.
#[derive(Debug, Clone, PartialEq)]
pub struct FitOptions {
    /// The site or cohort in words, for people.
    pub site: String,
    /// Bootstrap draws, 50 to 10,000; 1000 is usual.
    pub bootstrap: usize,
    pub seed: u64,
    /// δ that the site will use, for the evidence on who would be at level 2.
    pub delta: f64,
    pub fitted_at: Timestamp,
}

/// Why there is no profile.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FitError {
    #[error("{0}")]
    Options(&'static str),
    #[error("the cohort has no rows: check that labels and results belong together")]
    Empty,
    #[error("study {study}: {fault}")]
    Row { study: String, fault: &'static str },
    #[error("{finding}: {source}")]
    Numerics { finding: String, source: NumericsError },
    #[error("{finding}: only {converged} of {draws} bootstrap draws converged, the cohort is too thin")]
    Draws { finding: String, converged: usize, draws: usize },
    #[error("no node would take the profile: {0}")]
    Refused(String),
}

/// Patients with and without the finding that a group needs for a curve.
pub const ADMITTED_MIN: usize = 100;
/// Half width, in logits, of the neighbourhood in which reference patients are counted.
pub const NEIGHBOURHOOD: f64 = 0.5;

/// Fits all findings of a cohort.
pub fn fit(cohort: &Cohort, options: &FitOptions) -> Result<Profile, FitError> {
    check(cohort, options)?;
    let mut rows: Vec<&Row> = cohort.rows.iter().collect();
    rows.sort_by(|a, b| (&a.patient, &a.study).cmp(&(&b.patient, &b.study)));
    let names: BTreeSet<&str> = rows.iter().map(|r| r.patient.as_str()).collect();
    let patients: BTreeMap<&str, usize> = names.into_iter().enumerate().map(|(i, name)| (name, i)).collect();
    let bootstrap = ClusterBootstrap { clusters: patients.len(), seed: options.seed };
    let begin = |model: &FindingModel| {
        let own = rows.iter().filter(|r| r.finding == model.finding);
        let observations = own.map(|row| observation(row, &cohort.groups, &patients)).collect::<Result<Vec<_>, _>>()?;
        begin_finding(cohort, model, observations, bootstrap, options)
    };
    let begun = cohort.findings.par_iter().map(begin).collect::<Result<Vec<Begun>, FitError>>()?;
    let drawn = draw_all(&begun, bootstrap, options);
    let finish = |(begun, draws): (Begun, Vec<Vec<f64>>)| begun.finish(&draws, options);
    let mut fitted = begun.into_par_iter().zip(drawn).map(finish).collect::<Result<Vec<_>, FitError>>()?;
    adjust_gates(&mut fitted);
    fitted.par_iter_mut().for_each(|(finding, observations)| {
        finding.elevated = elevated(finding, observations, options.delta);
    });
    let profile = Profile {
        format: 0,
        id: String::new(),
        site: options.site.clone(),
        fitted_at: options.fitted_at,
        delta: significant(options.delta),
        bootstrap: options.bootstrap,
        seed: options.seed,
        race_model: cohort.race_model.clone(),
        race_prior: cohort.race_prior.clone(),
        cards: cohort.cards.clone(),
        groups: cohort.groups.clone(),
        cohort: describe(&rows, &cohort.groups),
        findings: fitted.into_iter().map(|(finding, _)| finding).collect(),
    };
    let profile = profile.sealed();
    profile.refusal().map_or(Ok(profile), |reason| Err(FitError::Refused(reason)))
}

fn check(cohort: &Cohort, options: &FitOptions) -> Result<(), FitError> {
    if !are_draws(options.bootstrap) {
        return Err(FitError::Options("bootstrap must be 50 to 10000 draws"));
    }
    if !(options.delta > 0.0 && options.delta < 1.0) {
        return Err(FitError::Options("delta must lie between 0 and 1"));
    }
    if !(2..=16).contains(&cohort.groups.len())
        || cohort.groups.iter().collect::<BTreeSet<_>>().len() < cohort.groups.len()
    {
        return Err(FitError::Options("a profile needs 2 to 16 different groups"));
    }
    let findings: BTreeSet<&str> = cohort.findings.iter().map(|f| f.finding.as_str()).collect();
    if !(1..=64).contains(&findings.len()) || findings.len() < cohort.findings.len() {
        return Err(FitError::Options("a profile needs 1 to 64 different findings: two models may not share one"));
    }
    if cohort.findings.iter().any(|f| !(0.0..=1.0).contains(&f.threshold)) {
        return Err(FitError::Options("a threshold lies outside 0..1"));
    }
    if cohort.rows.is_empty() { Err(FitError::Empty) } else { Ok(()) }
}

fn observation(row: &Row, groups: &[String], patients: &BTreeMap<&str, usize>) -> Result<Observation, FitError> {
    let fail = |fault| FitError::Row { study: row.study.chars().take(64).collect(), fault };
    if !(0.0..=1.0).contains(&row.score) {
        return Err(fail("the score lies outside 0..1"));
    }
    if row.posteriors.as_ref().is_some_and(|p| p.len() != groups.len() || super::curves::log_ratios(p).is_none()) {
        return Err(fail("the race posteriors are no distribution over the groups"));
    }
    Ok(Observation {
        patient: *patients.get(row.patient.as_str()).ok_or_else(|| fail("its patient is unknown"))?,
        group: groups.iter().position(|g| *g == row.group).ok_or_else(|| fail("its group is none of the cohort's"))?,
        z: logit(row.score),
        score: row.score,
        outcome: row.outcome,
        posteriors: row.posteriors.clone(),
    })
}

/// A finding before the bootstrap.
struct Begun {
    profile: FindingProfile,
    observations: Vec<Observation>,
    /// None where there will be no curves.
    work: Option<Work>,
}

/// What its curves are made of.
struct Work {
    layout: Layout,
    scale: ScoreScale,
    z_low: f64,
    z_high: f64,
    estimator: Estimator,
    point: Point,
}

/// Everything of a finding that needs no draws.
fn begin_finding(
    cohort: &Cohort,
    model: &FindingModel,
    observations: Vec<Observation>,
    bootstrap: ClusterBootstrap,
    options: &FitOptions,
) -> Result<Begun, FitError> {
    let numerics = |source| FitError::Numerics { finding: model.finding.clone(), source };
    let counts: Vec<Counts> =
        (0..cohort.groups.len()).map(|g| Counts::of(observations.iter().filter(|o| o.group == g))).collect();
    let mut profile = FindingProfile {
        finding: model.finding.clone(),
        model: model.model.clone(),
        threshold: significant(model.threshold),
        studies: observations.len(),
        withheld: None,
        gate: None,
        race: None,
        elevated: Vec::new(),
        curves: None,
        groups: evidence(&cohort.groups, &counts),
    };
    let admitted: Vec<usize> = (0..counts.len()).filter(|&g| counts[g].is_admitted()).collect();
    if admitted.len() < 2 {
        profile.withheld = Some(IndReason::Cells);
        return Ok(Begun { profile, observations, work: None });
    }
    let scale = score_scale(&observations);
    let Some(((z_low, z_high), scale)) = common_range(&profile.groups).zip(scale) else {
        profile.withheld = Some(IndReason::Range);
        return Ok(Begun { profile, observations, work: None });
    };
    let race = cohort.race_model.is_some();
    let mut layout = Layout { groups: profile.groups.len(), admitted, terms: scale.terms(), race };
    let mut estimator = Estimator::new(layout.clone(), &scale, &observations);
    let mut point = estimator.fit(bootstrap.clusters).map_err(numerics)?;
    if race {
        let mut memory = Memory::default();
        let recalibrate = |patients: &[f64]| estimator.recalibrate(&point, patients, &mut memory);
        let measured = quality::measure(&layout, &scale, &observations, bootstrap, recalibrate).map_err(numerics)?;
        profile.race = measured.map(rounded_quality);
        if profile.race.is_none() {
            layout.race = false;
            estimator = Estimator::new(layout.clone(), &scale, &observations);
            point = estimator.fit(bootstrap.clusters).map_err(numerics)?;
        }
    }
    let rows = score_rows(&scale, &observations);
    let cases: Vec<gate::Case<'_>> =
        observations.iter().zip(&rows).filter_map(|(o, at)| case(&layout, o, at)).collect();
    let draws = gate::draws(options.bootstrap, cohort.findings.len());
    profile.gate = Some(gate::test(&cases, layout.admitted.len(), bootstrap, draws).map_err(numerics)?);
    let work = Work { layout, scale, z_low, z_high, estimator, point };
    Ok(Begun { profile, observations, work: Some(work) })
}

/// By finding, the parameters of every draw that has a solution. A draw is one set of patients for all findings.
fn draw_all(begun: &[Begun], bootstrap: ClusterBootstrap, options: &FitOptions) -> Vec<Vec<Vec<f64>>> {
    let refit = |memory: &mut Memory, patients: &[f64]| -> Vec<Option<Vec<f64>>> {
        let mut one = |b: &Begun| b.work.as_ref().and_then(|w| w.estimator.refit(&w.point, patients, memory));
        begun.iter().map(&mut one).collect()
    };
    let mut by_finding = vec![Vec::new(); begun.len()];
    for draw in bootstrap.map_with(options.bootstrap as u64, Memory::default, refit) {
        for (all, one) in by_finding.iter_mut().zip(draw) {
            all.extend(one);
        }
    }
    by_finding
}

impl Begun {
    /// The finished entry, but for what depends on other findings.
    fn finish(self, draws: &[Vec<f64>], options: &FitOptions) -> Result<(FindingProfile, Vec<Observation>), FitError> {
        let Self { mut profile, observations, work } = self;
        let Some(Work { layout, scale, z_low, z_high, point, .. }) = work else { return Ok((profile, observations)) };
        if draws.len() * 10 < options.bootstrap * 9 {
            let (finding, draws, converged) = (profile.finding, options.bootstrap, draws.len());
            return Err(FitError::Draws { finding, converged, draws });
        }
        let ensemble = Ensemble::new(draws.iter().map(Vec::as_slice), layout.total());
        let critical = bands::critical(&layout, &scale, (z_low, z_high), &point.parameters, &ensemble);
        profile.curves = Some(Curves {
            scale,
            z_low,
            z_high,
            shift_sd: significant(point.shrinkage.shift_sd),
            slope_sd: significant(point.shrinkage.slope_sd),
            critical: Critical {
                error: significant(critical.error),
                spread: significant(critical.spread),
                excess: significant(critical.excess),
                expected: significant(critical.expected),
            },
            nearby: layout.admitted.iter().map(|&g| nearby(&observations, g, z_low, z_high)).collect(),
            point: Series::of(&point.parameters),
            draws: draws.iter().map(|d| Series::of(d)).collect(),
            prepared: Default::default(),
        });
        Ok((profile, observations))
    }
}

fn case<'a>(layout: &Layout, o: &Observation, at: &'a super::curves::ScoreRow) -> Option<gate::Case<'a>> {
    let group = layout.admitted.iter().position(|&g| g == o.group)?;
    Some(gate::Case { at, group, outcome: f64::from(u8::from(o.outcome)), patient: o.patient })
}

/// One group of one finding. Patients are counted, not studies: repeats of a patient are no further evidence.
struct Counts {
    patients: usize,
    events: usize,
    non_events: usize,
    z_range: Option<[f64; 2]>,
}

impl Counts {
    fn of<'a>(own: impl Iterator<Item = &'a Observation>) -> Self {
        let (mut with, mut without, mut z) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for o in own {
            let side = if o.outcome { &mut with } else { &mut without };
            side.insert(o.patient);
            z.push(o.z);
        }
        z.sort_by(f64::total_cmp);
        let range = quantile(&z, 0.01).zip(quantile(&z, 0.99));
        Self {
            patients: with.union(&without).count(),
            events: with.len(),
            non_events: without.len(),
            z_range: range.map(|(low, high)| [significant(low), significant(high)]),
        }
    }

    fn is_admitted(&self) -> bool {
        self.events >= ADMITTED_MIN && self.non_events >= ADMITTED_MIN
    }
}

/// What may be told of all groups of a finding.
fn evidence(names: &[String], counts: &[Counts]) -> Vec<GroupEvidence> {
    let patients = shown(&counts.iter().map(|c| c.patients).collect::<Vec<_>>());
    let one = |((name, c), patients): ((&String, &Counts), Option<usize>)| {
        let parts = shown(&[c.events, c.non_events]);
        let admitted = c.is_admitted();
        GroupEvidence {
            group: name.clone(),
            patients,
            // Together they tell how many patients there are.
            events: patients.and(parts[0]),
            non_events: patients.and(parts[1]),
            admitted,
            z_range: c.z_range.filter(|_| admitted),
        }
    };
    names.iter().zip(counts).zip(patients).map(one).collect()
}

/// The scores that lie within the 1–99 % range of every admitted group.
fn common_range(groups: &[GroupEvidence]) -> Option<(f64, f64)> {
    let ranges = || groups.iter().filter(|g| g.admitted).filter_map(|g| g.z_range);
    let low = ranges().map(|r| r[0]).fold(f64::NEG_INFINITY, f64::max);
    let high = ranges().map(|r| r[1]).fold(f64::INFINITY, f64::min);
    (low < high).then_some((low, high))
}

/// Patients of a group within the neighbourhood of each grid point; 1–10 are written as 0.
fn nearby(observations: &[Observation], group: usize, z_low: f64, z_high: f64) -> Series {
    let mut own: Vec<(f64, usize)> =
        observations.iter().filter(|o| o.group == group).map(|o| (o.z, o.patient)).collect();
    own.sort_by(|a, b| a.0.total_cmp(&b.0));
    let counts: Vec<f64> = bands::grid(z_low, z_high)
        .map(|z| {
            let from = own.partition_point(|o| o.0 < z - NEIGHBOURHOOD);
            let to = own.partition_point(|o| o.0 <= z + NEIGHBOURHOOD);
            let count = own[from..to].iter().map(|o| o.1).collect::<BTreeSet<_>>().len();
            if is_small(count) { 0.0 } else { count as f64 }
        })
        .collect();
    Series::of(&counts)
}

/// Holm over the findings that have a gate.
fn adjust_gates(fitted: &mut [(FindingProfile, Vec<Observation>)]) {
    let mut gates: Vec<&mut Gate> = fitted.iter_mut().filter_map(|(f, _)| f.gate.as_mut()).collect();
    let adjusted = holm(&gates.iter().map(|g| g.p).collect::<Vec<_>>());
    for (gate, p_holm) in gates.iter_mut().zip(adjusted) {
        gate.enabled = p_holm <= gate::ALPHA;
        gate.statistic = significant(gate.statistic);
        gate.p = significant(gate.p);
        gate.p_holm = significant(p_holm);
    }
}

fn rounded_quality(quality: RaceQuality) -> RaceQuality {
    let round = |a: Auc| Auc { auc: significant(a.auc), lower: significant(a.lower), upper: significant(a.upper) };
    RaceQuality {
        auc: quality.auc.into_iter().map(|a| a.map(round)).collect(),
        calibration_error: significant(quality.calibration_error),
        reach: quality.reach,
    }
}

/// Applies the finished profile to its own cohort: how many patients would be at level 2.
fn elevated(finding: &FindingProfile, observations: &[Observation], delta: f64) -> Vec<StratumEvidence> {
    let flagged: BTreeSet<(bool, usize)> = observations
        .par_iter()
        .filter_map(|o| {
            let positive = o.score >= finding.threshold;
            let is_elevated = risk::is_elevated(finding, o.score, positive, o.posteriors.as_deref()?, delta);
            is_elevated.then_some((positive, o.patient))
        })
        .collect();
    let count = |positive| flagged.iter().filter(|(p, _)| *p == positive).count();
    let of = |(direction, positive)| StratumEvidence {
        direction,
        patients: Some(count(positive)).filter(|count| !is_small(*count)),
    };
    [(Direction::Miss, false), (Direction::FalseAlarm, true)].map(of).to_vec()
}

fn describe(rows: &[&Row], groups: &[String]) -> CohortDescription {
    let studies: BTreeMap<&str, &Row> = rows.iter().map(|r| (r.study.as_str(), *r)).collect();
    let patients: BTreeMap<&str, &str> = rows.iter().map(|r| (r.patient.as_str(), r.group.as_str())).collect();
    let mut views: BTreeMap<&str, usize> = BTreeMap::new();
    for row in studies.values() {
        *views.entry(if row.view.is_empty() { "unknown" } else { &row.view }).or_default() += 1;
    }
    let of_group = |g: &String| patients.values().filter(|p| *p == g).count();
    let of_views = shown(&views.values().copied().collect::<Vec<_>>());
    CohortDescription {
        patients: patients.len(),
        studies: studies.len(),
        group_patients: shown(&groups.iter().map(of_group).collect::<Vec<_>>()),
        first_date: rows.iter().filter_map(|r| r.date).min(),
        last_date: rows.iter().filter_map(|r| r.date).max(),
        views: views.into_keys().map(str::to_owned).zip(of_views).collect(),
    }
}
