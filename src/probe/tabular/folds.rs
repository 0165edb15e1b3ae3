//! Who is in which fold of a cross validation.
//!
//! Neighbours: `grid` uses it. Left out: the split into training and test part, which the cohort has.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Search, Table, TabularError};

/// What stays together in a fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Folds {
    /// Patients: all rows of one are in one fold; drawn by the seed, the classes dealt out evenly. The corrected mode.
    ByPatient,
    /// Rows, whoever they are of, as published: scikit-learn's `StratifiedKFold` without shuffling, in the order of the
    /// training part. A patient with several rows is in several folds, which makes the loss look smaller than it is.
    ByRow,
}

/// The fold of each row of the training part.
pub(super) fn folds(table: &Table, search: &Search) -> Result<Vec<usize>, TabularError> {
    match search.folds {
        Folds::ByPatient => by_patient(table, search),
        Folds::ByRow => by_row(table, search.parts),
    }
}

fn by_patient(table: &Table, search: &Search) -> Result<Vec<usize>, TabularError> {
    // A patient's class is that of the first row.
    let mut class: BTreeMap<usize, usize> = BTreeMap::new();
    for &row in table.train {
        class.entry(table.cluster[row]).or_insert(table.class[row]);
    }
    if table.test.iter().any(|row| class.contains_key(&table.cluster[*row])) {
        return Err(TabularError::Leak);
    }
    let mut patients: Vec<Vec<usize>> = vec![Vec::new(); table.classes];
    class.iter().for_each(|(patient, k)| patients[*k].push(*patient));
    enough(&patients.iter().map(Vec::len).collect::<Vec<_>>(), "patients", search.parts)?;
    let mut rng = ChaCha8Rng::seed_from_u64(search.seed);
    let mut fold = BTreeMap::new();
    for mut patients in patients {
        patients.shuffle(&mut rng);
        patients.into_iter().for_each(|patient| {
            fold.insert(patient, fold.len() % search.parts);
        });
    }
    Ok(table.train.iter().map(|row| fold[&table.cluster[*row]]).collect())
}

fn by_row(table: &Table, parts: usize) -> Result<Vec<usize>, TabularError> {
    let of = |row: &usize| table.class[*row];
    let count = |k: usize| table.train.iter().filter(|row| of(row) == k).count();
    enough(&(0..table.classes).map(count).collect::<Vec<_>>(), "rows", parts)?;
    // Classes in the order in which they first occur: which fold gets one more of a class depends on that.
    let mut seen = BTreeSet::new();
    let first: Vec<usize> = table.train.iter().map(of).filter(|k| seen.insert(*k)).collect();
    let sorted: Vec<usize> = first.iter().flat_map(|k| std::iter::repeat_n(*k, count(*k))).collect();
    let taken = |fold: usize, k: usize| sorted.iter().skip(fold).step_by(parts).filter(|c| **c == k).count();
    let mut next: Vec<_> = (0..table.classes)
        .map(|k| (0..parts).flat_map(|fold| std::iter::repeat_n(fold, taken(fold, k))).collect::<Vec<_>>().into_iter())
        .collect();
    Ok(table.train.iter().map(|row| next[of(row)].next().unwrap_or(0)).collect())
}

/// Every class is in two folds at least, so that each learning part has it, and every fold has somebody.
fn enough(count: &[usize], unit: &'static str, parts: usize) -> Result<(), TabularError> {
    if let Some(class) = count.iter().position(|n| *n < 2) {
        return Err(TabularError::Rare { class, unit });
    }
    let all = count.iter().sum::<usize>();
    if all < parts {
        return Err(TabularError::Few { count: all, unit, parts });
    }
    Ok(())
}
