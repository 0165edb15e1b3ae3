//! What statements that are imported together come to, study by study. Pure.
//!
//! Statements that contradict each other are all refused, each as a whole: nobody here knows which one is true. Lines for
//! each image are put together, the nearest of several in time is kept where the mapping asks for it. Memory grows with
//! the number of statements, a few numbers each. Neighbours: `placing`; `store` holds the rest against earlier imports.

use std::collections::{BTreeMap, BTreeSet};

use super::super::race::SelfReport;
use super::super::statement::{Placed, Reach, Reject, Vocabulary};
use crate::domain::Uid;

/// Statements that agree.
#[derive(Debug, Default)]
pub struct Agreed {
    pub statements: Vec<Placed>,
    /// Those that contradict each other.
    pub rejects: Vec<Reject>,
    /// Statements of which no study is left, since others are nearer to it in time.
    pub passed_over: u64,
}

/// One study of one statement: an index into its hits, or of its patient's studies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Hit(u32),
    Person(u32),
}

/// What is found among statements on one study.
#[derive(Default)]
struct Found {
    contradictions: BTreeMap<u32, String>,
    /// Hits that others are nearer than.
    far: BTreeSet<(u32, u32)>,
    /// Outcomes of images that the study has, since another image has them.
    raised: Vec<(u32, u16)>,
}

/// Finds what contradicts, and leaves what agrees.
pub fn agree(mut placed: Vec<Placed>, vocabulary: &Vocabulary) -> Agreed {
    let mut pairs: Vec<(u32, Slot)> = Vec::with_capacity(placed.len());
    for (line, one) in (0u32..).zip(&placed) {
        pairs.extend((0u32..).zip(&one.hits).map(|(hit, _)| (line, Slot::Hit(hit))));
        pairs.extend((0u32..).zip(one.everyone.iter()).map(|(slot, _)| (line, Slot::Person(slot))));
    }
    pairs.sort_unstable_by(|a, b| study(&placed, *a).cmp(study(&placed, *b)).then(a.cmp(b)));
    let mut found = Found::default();
    for run in pairs
        .chunk_by(|a, b| study(&placed, *a) == study(&placed, *b))
        .filter(|run| run.iter().any(|(line, _)| *line != run[0].0))
    {
        judge(run, &placed, vocabulary, &mut found);
    }
    drop(pairs);
    for (line, finding) in found.raised {
        placed[line as usize].says.outcomes.iter_mut().filter(|o| o.finding == finding).for_each(|o| o.present = true);
    }
    let mut agreed = Agreed::default();
    for (line, mut one) in (0u32..).zip(placed) {
        if let Some(reason) = found.contradictions.remove(&line) {
            agreed.rejects.push(Reject { at: one.says.at, reason });
            continue;
        }
        let mut hit = 0u32..;
        one.hits.retain(|_| !hit.next().is_some_and(|hit| found.far.contains(&(line, hit))));
        if one.hits.is_empty() && one.says.of_study() && one.says.person.is_none() {
            agreed.passed_over += 1;
            continue;
        }
        agreed.statements.push(one);
    }
    agreed
}

fn study(placed: &[Placed], (line, slot): (u32, Slot)) -> &Uid {
    let one = &placed[line as usize];
    match slot {
        Slot::Hit(hit) => &one.hits[hit as usize].study,
        Slot::Person(person) => &one.everyone[person as usize],
    }
}

fn judge(run: &[(u32, Slot)], placed: &[Placed], vocabulary: &Vocabulary, found: &mut Found) {
    let hits: Vec<(u32, u32)> = run
        .iter()
        .filter_map(|(line, slot)| match slot {
            Slot::Hit(hit) => Some((*line, *hit)),
            Slot::Person(_) => None,
        })
        .collect();
    let near = nearest(&hits, placed, found);
    outcomes(&near, placed, vocabulary, found);
    covariates(&near, placed, vocabulary, found);
    let people: Vec<(u32, &SelfReport)> = run
        .iter()
        .filter(|(_, slot)| matches!(slot, Slot::Person(_)))
        .filter_map(|(line, _)| Some((*line, placed[*line as usize].says.person.as_deref()?)))
        .collect();
    // Of a few different ones at most.
    let mut distinct: Vec<&SelfReport> = Vec::new();
    people.iter().for_each(|(_, report)| {
        if !distinct.contains(report) {
            distinct.push(report)
        }
    });
    for (line, report) in people.iter().filter(|_| distinct.len() > 1) {
        if let Some(what) = distinct.iter().find_map(|other| report.contradicts(other)) {
            let reason = format!("another statement has another {what} of its patient");
            found.contradictions.entry(*line).or_insert(reason);
        }
    }
}

/// The hits without those that say the same kind of thing as a nearer one, where the nearest is asked for.
fn nearest(hits: &[(u32, u32)], placed: &[Placed], found: &mut Found) -> Vec<u32> {
    type Subject = (Option<u16>, Option<u16>);
    let subject = |one: &Placed| -> Subject {
        (one.says.outcomes.first().map(|o| o.finding), one.says.covariates.first().map(|c| c.name))
    };
    let mut least: BTreeMap<Subject, u32> = BTreeMap::new();
    let asked = |line: u32| Some(&placed[line as usize]).filter(|one| one.says.reach == Reach::Nearest);
    for (line, hit) in hits {
        if let Some(one) = asked(*line) {
            let days = one.hits[*hit as usize].days;
            least.entry(subject(one)).and_modify(|least| *least = days.min(*least)).or_insert(days);
        }
    }
    let is_far = |(line, hit): &(u32, u32)| {
        asked(*line).is_some_and(|one| least.get(&subject(one)).is_some_and(|l| *l < one.hits[*hit as usize].days))
    };
    let (far, near): (Vec<(u32, u32)>, Vec<(u32, u32)>) = hits.iter().copied().partition(is_far);
    found.far.extend(far);
    near.into_iter().map(|(line, _)| line).collect()
}

fn outcomes(lines: &[u32], placed: &[Placed], vocabulary: &Vocabulary, found: &mut Found) {
    // By finding: what images say together, and what is said of the study.
    let mut images: BTreeMap<u16, bool> = BTreeMap::new();
    let mut values: BTreeMap<u16, BTreeSet<bool>> = BTreeMap::new();
    for one in lines.iter().map(|line| &placed[*line as usize].says) {
        for outcome in &one.outcomes {
            match one.by_image {
                true => *images.entry(outcome.finding).or_default() |= outcome.present,
                false => drop(values.entry(outcome.finding).or_default().insert(outcome.present)),
            }
        }
    }
    for (finding, present) in &images {
        values.entry(*finding).or_default().insert(*present);
    }
    for line in lines {
        let one = &placed[*line as usize].says;
        for outcome in &one.outcomes {
            if values.get(&outcome.finding).is_some_and(|values| values.len() > 1) {
                let key = &vocabulary.findings[usize::from(outcome.finding)];
                let reason = format!("another statement has another outcome of {key} for its study");
                found.contradictions.entry(*line).or_insert(reason);
            } else if one.by_image && !outcome.present && images.get(&outcome.finding) == Some(&true) {
                found.raised.push((*line, outcome.finding));
            }
        }
    }
}

fn covariates(lines: &[u32], placed: &[Placed], vocabulary: &Vocabulary, found: &mut Found) {
    let mut values: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    let said = || lines.iter().flat_map(|l| placed[*l as usize].says.covariates.iter().map(move |c| (*l, c)));
    for (_, covariate) in said() {
        values.entry(covariate.name).or_default().insert(&covariate.value);
    }
    for (line, covariate) in said().filter(|(_, c)| values[&c.name].len() > 1) {
        let name = &vocabulary.covariates[usize::from(covariate.name)];
        let reason = format!("another statement has another {name} for its study");
        found.contradictions.entry(line).or_insert(reason);
    }
}
