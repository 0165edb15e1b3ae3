//! Co-movement: whether what changes a patient's race score changes the clinical score with it.
//!
//! For a change k of patient i, the clinical logit's move is regressed on the race logit's within k, after an intercept,
//! view, sex, decade of age and the change's quality (how far the picture moved, how sharp it became) are taken out of both
//! within k. The slope γ is pooled over changes; its limits come from sums by patient (a test inverted), its p-value from
//! exchanging whole patients of one view: a patient's moves depend on one another over k, and exchanging them one by one
//! would take each for news. The statistic that is exchanged is studentised, so that patients with large moves do not make
//! the null too narrow.
//!
//! **Negative control.** Each patient's race moves are replaced by those of the stranger whose pictures changed most alike.
//! Where the clinical score moves with those too, quality acts in a way that a straight line does not take out, and the
//! line counts for nothing.
//!
//! Neighbours: `analyse` collects answers. Left out: single studies, for which there is a figure and no test
//! ([`shared_variation`]).

use std::collections::{BTreeMap, HashSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{ALPHA, NoLine, adjusted, controlled};
use crate::domain::{Control, EvidenceLine, Interval, LineKind, Responses};
use crate::stats::{Z_95, logit};

/// A study's answers and whose they are.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// A key of the patient: of several studies the first counts.
    pub patient: &'a str,
    pub responses: &'a Responses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoMovementOptions {
    /// At least; more where so many lines are adjusted together that none could reject.
    pub permutations: u32,
    pub seed: u64,
    pub patients_min: usize,
}

impl Default for CoMovementOptions {
    fn default() -> Self {
        Self { permutations: 999, seed: 1, patients_min: PATIENTS_MIN }
    }
}

/// Fewer patients say too little: limits of sums by patient are too narrow.
const PATIENTS_MIN: usize = 50;
/// More say no more, and strangers are looked for among all pairs.
const PATIENTS_MAX: usize = 4000;
/// A level of what is held fixed that fewer patients have is held together with the most common one.
const LEVEL_MIN: usize = 5;
/// A slope over fewer changes is of single ones.
const CHANGES_MIN: usize = 5;

/// Moves of one score, patient by patient, of each all changes.
type Moves = Vec<Vec<f64>>;

/// A line for each finding and group of one clinical and one race model. Studies under another battery than most are left
/// out.
pub fn co_movement(observed: &[Observed<'_>], options: &CoMovementOptions) -> Result<Vec<EvidenceLine>, NoLine> {
    let chosen = chosen(observed);
    let needed = options.patients_min.max(PATIENTS_MIN);
    if chosen.len() < needed {
        return Err(NoLine::TooFew(chosen.len(), needed));
    }
    let first = chosen[0];
    let changes = first.changes.len();
    if changes < CHANGES_MIN {
        return Err(NoLine::Unusable(format!("{changes} changes of an image, at least {CHANGES_MIN} are needed")));
    }
    let quality = quality(&chosen);
    let held = levels(&chosen);
    let bases: Vec<Vec<Vec<f64>>> = (0..changes).map(|k| basis(&held, &quality, k)).collect();
    let views = views(&chosen);
    let strangers = strangers(&quality);
    // Two groups have one margin, with two signs.
    let groups = if first.groups.len() == 2 { 1 } else { first.groups.len() };
    let race: Vec<Moves> =
        (0..groups).map(|g| residual(moves(&chosen, |r| (&r.original.race, g), |c| &c.answers.race), &bases)).collect();
    let tests = first.findings.len() * groups;
    // Half of what the strictest line may take: its smallest p lies well below.
    let enough = (2.0 * tests as f64 / ALPHA).ceil() as u32;
    let permutations = options.permutations.max(enough);
    let (mut lines, mut controls) = (Vec::new(), Vec::new());
    for (f, finding) in first.findings.iter().enumerate() {
        let clinical = moves(&chosen, |r| (&r.original.clinical, f), |c| &c.answers.clinical);
        let clinical = residual(clinical, &bases);
        for (race, group) in race.iter().zip(&first.groups) {
            let Some(value) = slope(&clinical, race) else { continue };
            let (p, p_strangers) = exchanged(&clinical, race, &strangers, &views, permutations, options.seed);
            controls.push(Some(p_strangers));
            lines.push(EvidenceLine {
                kind: LineKind::CoMovement,
                model: first.model.clone(),
                finding: Some(finding.clone()),
                group: group.clone(),
                value,
                p,
                control: Control::Absent,
                patients: chosen.len() as u64,
            });
        }
    }
    if lines.is_empty() {
        return Err(NoLine::Unusable("no change moves the race score beyond its quality".to_owned()));
    }
    Ok(adjusted(controlled(lines, &controls)))
}

/// What share of the variation of a finding's logit over the changes of one image goes with the race logits, 0 to 1, of
/// all groups together: a description of a study, neither a test nor evidence. It names no group. None where nothing
/// moves, or there are too few changes.
pub fn shared_variation(responses: &Responses) -> Vec<Option<f64>> {
    let study = [responses];
    let changes = responses.changes.len();
    let of = |values: Moves| values.into_iter().next().unwrap_or_default();
    let groups = responses.groups.len();
    let mut basis: Vec<Vec<f64>> = vec![vec![1.0; changes]];
    for g in 1..groups {
        basis.push(of(moves(&study, |r| (&r.original.race, g), |c| &c.answers.race)));
    }
    let basis = orthonormal(basis);
    let finding = |f: usize| {
        let mut values = of(moves(&study, |r| (&r.original.clinical, f), |c| &c.answers.clinical));
        project_out(&mut values, &basis[..1]);
        let whole: f64 = values.iter().map(|v| v * v).sum();
        project_out(&mut values, &basis);
        let left: f64 = values.iter().map(|v| v * v).sum();
        (changes >= 2 * CHANGES_MIN && basis.len() > 1 && whole > 1e-9).then(|| (1.0 - left / whole).clamp(0.0, 1.0))
    };
    (0..responses.findings.len()).map(finding).collect()
}

/// The first study of each patient under the battery that most have.
fn chosen<'a>(observed: &[Observed<'a>]) -> Vec<&'a Responses> {
    let battery = |r: &'a Responses| {
        let names: Vec<&str> = r.changes.iter().map(|c| c.name.as_str()).collect();
        (&r.race_model, &r.groups, &r.model, &r.findings, names)
    };
    let mut counts = BTreeMap::new();
    for one in observed.iter().filter(|one| is_whole(one.responses)) {
        *counts.entry(battery(one.responses)).or_insert(0usize) += 1;
    }
    let Some(most) = counts.iter().max_by_key(|(_, count)| **count).map(|(battery, _)| battery.clone()) else {
        return Vec::new();
    };
    let mut seen = HashSet::new();
    let own = observed.iter().filter(|one| is_whole(one.responses) && battery(one.responses) == most);
    own.filter(|one| seen.insert(one.patient)).take(PATIENTS_MAX).map(|one| one.responses).collect()
}

/// Whether every answer is there and a number.
fn is_whole(responses: &Responses) -> bool {
    let answers = std::iter::once(&responses.original).chain(responses.changes.iter().map(|c| &c.answers));
    let fits = |values: &[f64], names: usize| values.len() == names && values.iter().all(|v| v.is_finite());
    let quality = responses.changes.iter().all(|c| c.rms.is_finite() && c.sharpness.is_finite());
    let mut answers =
        answers.map(|a| fits(&a.race, responses.groups.len()) && fits(&a.clinical, responses.findings.len()));
    quality && !responses.groups.is_empty() && answers.all(|fits| fits)
}

/// Moves of a logit from the original to each change.
fn moves(
    chosen: &[&Responses],
    original: impl Fn(&Responses) -> (&Vec<f64>, usize),
    changed: impl Fn(&crate::domain::Change) -> &Vec<f64>,
) -> Moves {
    let of = |r: &&Responses| {
        let (base, at) = original(r);
        let base = logit(base[at]);
        r.changes.iter().map(|c| logit(changed(c)[at]) - base).collect()
    };
    chosen.iter().map(of).collect()
}

/// Quality of each patient's changes: two numbers each.
fn quality(chosen: &[&Responses]) -> Vec<Vec<[f64; 2]>> {
    chosen.iter().map(|r| r.changes.iter().map(|c| [c.rms, c.sharpness]).collect()).collect()
}

/// A column for each level of what is held fixed, but for the most common one of each kind.
fn levels(chosen: &[&Responses]) -> Vec<Vec<f64>> {
    let kinds = chosen.iter().map(|r| r.held.len()).max().unwrap_or_default();
    let level = |r: &&Responses, kind: usize| r.held.get(kind).cloned().unwrap_or_default();
    let of_kind = |kind: usize| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        chosen.iter().for_each(|r| *counts.entry(level(r, kind)).or_default() += 1);
        let most = counts.iter().max_by_key(|(_, n)| **n).map(|(name, _)| name.clone());
        let others = counts.into_iter().filter(move |(name, n)| *n >= LEVEL_MIN && Some(name) != most.as_ref());
        let column = |name: &String| chosen.iter().map(|r| f64::from(u8::from(level(r, kind) == *name))).collect();
        others.map(|(name, _)| column(&name)).collect::<Vec<Vec<f64>>>()
    };
    (0..kinds).flat_map(of_kind).collect()
}

/// Patients by view, the first of what is held fixed.
fn views(chosen: &[&Responses]) -> Vec<Vec<usize>> {
    let mut views: BTreeMap<Option<&String>, Vec<usize>> = BTreeMap::new();
    chosen.iter().enumerate().for_each(|(i, r)| views.entry(r.held.first()).or_default().push(i));
    views.into_values().collect()
}

/// What is taken out within a change, over patients: an intercept, what is held fixed, and both kinds of quality,
/// orthonormal.
fn basis(held: &[Vec<f64>], quality: &[Vec<[f64; 2]>], k: usize) -> Vec<Vec<f64>> {
    let column = |which: usize| quality.iter().map(|own| own[k][which]).collect();
    let mut columns = vec![vec![1.0; quality.len()]];
    columns.extend_from_slice(held);
    columns.extend([column(0), column(1)]);
    orthonormal(columns)
}

/// Gram and Schmidt; what depends on columns before is left out.
fn orthonormal(columns: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for mut column in columns {
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let before = norm(&column);
        project_out(&mut column, &basis);
        // Twice is enough.
        project_out(&mut column, &basis);
        let after = norm(&column);
        if after > 1e-9 * before && after > 0.0 {
            column.iter_mut().for_each(|v| *v /= after);
            basis.push(column);
        }
    }
    basis
}

fn project_out(values: &mut [f64], basis: &[Vec<f64>]) {
    for column in basis {
        let along: f64 = values.iter().zip(column).map(|(v, b)| v * b).sum();
        values.iter_mut().zip(column).for_each(|(v, b)| *v -= along * b);
    }
}

fn residual(mut moves: Moves, bases: &[Vec<Vec<f64>>]) -> Moves {
    for (k, basis) in bases.iter().enumerate() {
        let mut column: Vec<f64> = moves.iter().map(|own| own[k]).collect();
        project_out(&mut column, basis);
        moves.iter_mut().zip(column).for_each(|(own, v)| own[k] = v);
    }
    moves
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The slope with its 95 % limits: those slopes that the studentised sum of patients does not reject. In worlds of 50
/// patients with moves of very different size these hold the truth in 95 %, limits from a standard error in 89 %. None
/// where the race score does not move, or so few patients make up its moves that there are no limits.
fn slope(clinical: &Moves, race: &Moves) -> Option<Interval> {
    let own: Vec<(f64, f64)> = clinical.iter().zip(race).map(|(c, r)| (dot(c, r), dot(r, r))).collect();
    let sum = |of: fn(&(f64, f64)) -> f64| own.iter().map(of).sum::<f64>();
    let (s, d) = (sum(|own| own.0), sum(|own| own.1));
    if d <= 1e-9 {
        return None;
    }
    // (s − γd)² = z² Σ(sᵢ − γdᵢ)², in γ.
    let z2 = Z_95 * Z_95;
    let square = d * d - z2 * sum(|own| own.1 * own.1);
    let half = s * d - z2 * sum(|own| own.0 * own.1);
    let constant = s * s - z2 * sum(|own| own.0 * own.0);
    let root = (half * half - square * constant).max(0.0).sqrt();
    let estimate = s / d;
    let (lower, upper) = ((half - root) / square, (half + root) / square);
    (square > 0.0).then(|| Interval { estimate, lower: lower.min(estimate), upper: upper.max(estimate) })
}

/// The sum over patients of what their moves have in common, over its standard error where they have nothing.
fn studentised(clinical: &Moves, race: &Moves, partner: impl Fn(usize) -> usize) -> f64 {
    let own = clinical.iter().enumerate().map(|(i, c)| dot(c, &race[partner(i)]));
    let (sum, squares) = own.fold((0.0, 0.0), |(sum, squares), s| (sum + s, squares + s * s));
    if squares > 0.0 { sum / squares.sqrt() } else { 0.0 }
}

/// Two-sided p-values when patients of one view are exchanged: of their own race moves, and of their strangers'.
fn exchanged(
    clinical: &Moves,
    race: &Moves,
    strangers: &[usize],
    views: &[Vec<usize>],
    permutations: u32,
    seed: u64,
) -> (f64, f64) {
    let observed = studentised(clinical, race, |i| i).abs();
    let foreign = studentised(clinical, race, |i| strangers[i]).abs();
    let draw = |draw: u32| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(draw));
        let mut order: Vec<usize> = (0..clinical.len()).collect();
        for own in views {
            let mut given = own.clone();
            given.shuffle(&mut rng);
            own.iter().zip(given).for_each(|(i, partner)| order[*i] = partner);
        }
        studentised(clinical, race, |i| order[i]).abs()
    };
    let null: Vec<f64> = (0..permutations).into_par_iter().map(draw).collect();
    let p = |value: f64| (1 + null.iter().filter(|t| **t >= value).count()) as f64 / (1 + null.len()) as f64;
    (p(observed), p(foreign))
}

/// For each patient the other one whose changes are most alike in quality, each change and kind on its own scale.
fn strangers(quality: &[Vec<[f64; 2]>]) -> Vec<usize> {
    let n = quality.len();
    let mut flat: Vec<Vec<f64>> = quality.iter().map(|own| own.concat()).collect();
    for at in 0..flat[0].len() {
        let spread = crate::stats::standard_deviation(&flat.iter().map(|own| own[at]).collect::<Vec<_>>());
        flat.iter_mut().for_each(|own| own[at] /= if spread > 0.0 { spread } else { 1.0 });
    }
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let nearest = |i: usize| {
        let others = (0..n).filter(|j| *j != i).map(|j| (j, distance(&flat[i], &flat[j])));
        others.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(i, |(j, _)| j)
    };
    (0..n).into_par_iter().map(nearest).collect()
}

#[cfg(test)]
#[path = "comovement_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
