//! The search: each entry of a learner's grid in each fold, the best one once more on the whole training part.

use rayon::prelude::*;

use super::boosting::{Boost, boosted};
use super::folds::folds;
use super::{Learner, Predicted, Search, Table, TabularError, forest, logistic};

/// As little as scikit-learn's log loss takes for a probability.
const PROBABILITY_MIN: f64 = f64::EPSILON;

/// Fits the learner with the best entry of its grid to the training part, and says what it makes of the test rows.
pub fn fit(table: &Table, learner: &Learner, search: &Search) -> Result<Predicted, TabularError> {
    learner.check()?;
    table.check(search)?;
    let fold = folds(table, search)?;
    let part = |inside: &dyn Fn(usize) -> bool| -> Vec<usize> {
        table.train.iter().zip(&fold).filter(|(_, f)| inside(**f)).map(|(row, _)| *row).collect()
    };
    let grid = learner.grid();
    let in_fold = |f: usize| -> (Vec<f64>, usize) {
        let (learnt, held) = (part(&|other| other != f), part(&|other| other == f));
        let (models, unfinished) = learner.probabilities(table, &learnt, &held, &grid, search.seed);
        let loss = |p: &Vec<f64>| log_loss(p, held.iter().map(|row| table.class[*row]), table.classes);
        (models.iter().map(loss).collect(), unfinished)
    };
    let by_fold: Vec<_> = (0..search.parts).into_par_iter().map(in_fold).collect();
    let loss = |entry: usize| by_fold.iter().map(|(loss, _)| loss[entry]).sum::<f64>() / search.parts as f64;
    let losses: Vec<(f64, f64)> = grid.iter().enumerate().map(|(entry, value)| (*value, loss(entry))).collect();
    let best = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let chosen = best.ok_or(TabularError::Grid("give 1 to 64 entries"))?.0;
    let (mut models, unfinished) = learner.probabilities(table, table.train, table.test, &[chosen], search.seed);
    let unfinished = unfinished + by_fold.iter().map(|(_, unfinished)| unfinished).sum::<usize>();
    Ok(Predicted { probabilities: models.swap_remove(0), classes: table.classes, chosen, losses, unfinished })
}

impl Learner {
    /// What each of these entries of the grid makes of `rows`, learnt from `train`; how many stopped at their limit.
    fn probabilities(
        &self,
        table: &Table,
        train: &[usize],
        rows: &[usize],
        entries: &[f64],
        seed: u64,
    ) -> (Vec<Vec<f64>>, usize) {
        let depths = || entries.iter().map(|depth| *depth as usize);
        match *self {
            Self::Logistic { .. } => logistic::path(table, train, rows, entries),
            Self::Forest { trees, .. } => {
                (forest::grown(table, train, rows, &depths().collect::<Vec<_>>(), trees, seed), 0)
            }
            Self::Boosting { rounds, step, .. } => {
                let one = |depth: usize| boosted(table, train, rows, Boost { depth, rounds, step, seed });
                (depths().collect::<Vec<_>>().into_par_iter().map(one).collect(), 0)
            }
        }
    }
}

/// Mean of −log p(class), in nats.
fn log_loss(probabilities: &[f64], class: impl ExactSizeIterator<Item = usize>, classes: usize) -> f64 {
    let count = class.len() as f64;
    let pairs = probabilities.chunks_exact(classes).zip(class);
    pairs.map(|(p, k)| -p[k].clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN).ln()).sum::<f64>() / count
}
