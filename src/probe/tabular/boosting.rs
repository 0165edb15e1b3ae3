//! Gradient boosting of the multinomial deviance (Friedman 2001, algorithms 5 and 6).
//!
//! As scikit-learn's `GradientBoostingClassifier`: each round fits a regression tree to what the probabilities leave open,
//! c − p, and replaces each leaf's mean by one Newton step. Friedman's criterion of a split is the squared error's within
//! a node. Two classes have one score, more have one each. Left out: subsampling, early stops.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Table;
use super::cells::Cells;
use super::tree::{Growth, Ranks, Tree};
use crate::stats::{expit, softmax};

/// Below this share a class counts as that rare, so that its logarithm is finite.
const SHARE_MIN: f64 = 1e-12;
/// A leaf without curvature is left as it is.
const CURVATURE_MIN: f64 = 1e-150;

/// How trees are added.
#[derive(Clone, Copy)]
pub(super) struct Boost {
    pub(super) depth: usize,
    pub(super) rounds: usize,
    pub(super) step: f64,
    /// Decides between splits that are equally good.
    pub(super) seed: u64,
}

/// Probabilities of the classes for each of `test`, learnt from `train`.
pub(super) fn boosted(table: &Table, train: &[usize], test: &[usize], boost: Boost) -> Vec<f64> {
    let cells = Cells::of(table, train);
    let shares = cells.shares();
    if boost.depth == 0 {
        return shares.repeat(test.len());
    }
    let start: Vec<f64> = shares.iter().map(|p| p.clamp(SHARE_MIN, 1.0 - SHARE_MIN)).collect();
    let start: Vec<f64> = match start[..] {
        [_, p] => vec![(p / (1.0 - p)).ln()],
        _ => start.iter().map(|p| p.ln()).collect(),
    };
    let ranks = Ranks::of(table, &cells.rows);
    let mut rng = ChaCha8Rng::seed_from_u64(boost.seed);
    let (width, classes, tried) = (start.len(), cells.classes, table.design.columns());
    let (mut scores, mut predicted) = (start.repeat(cells.rows.len()), start.repeat(test.len()));
    for _ in 0..boost.rounds {
        let p = probabilities(&scores, width);
        for score in 0..width {
            let class = if width == 1 { 1 } else { score };
            let p = |cell: usize| p[cell * classes + class];
            let open = |cell: usize| cells.count[cell * classes + class] - cells.weight[cell] * p(cell);
            let open: Vec<f64> = (0..cells.rows.len()).map(open).collect();
            let growth =
                Growth { ranks: &ranks, sums: &open, width: 1, weight: &cells.weight, depth: boost.depth, tried };
            let tree = growth.grown(&mut rng);
            let leaf: Vec<usize> =
                (0..cells.rows.len()).map(|cell| tree.leaf(table.design.row(cells.rows[cell]))).collect();
            let steps = newton(&tree, &leaf, &open, |cell| cells.weight[cell] * p(cell) * (1.0 - p(cell)), classes);
            for (cell, leaf) in leaf.into_iter().enumerate() {
                scores[cell * width + score] += boost.step * steps[leaf];
            }
            for (at, row) in test.iter().enumerate() {
                predicted[at * width + score] += boost.step * steps[tree.leaf(table.design.row(*row))];
            }
        }
    }
    probabilities(&predicted, width)
}

/// Row after row, all classes; one score is that of the second of two classes.
fn probabilities(scores: &[f64], width: usize) -> Vec<f64> {
    if width == 1 {
        return scores.iter().flat_map(|s| [expit(-s), expit(*s)]).collect();
    }
    let mut p = scores.to_vec();
    p.chunks_exact_mut(width).for_each(softmax);
    p
}

/// Newton's step of each leaf: slope over curvature of the deviance there.
fn newton(tree: &Tree, leaf: &[usize], open: &[f64], curvature: impl Fn(usize) -> f64, classes: usize) -> Vec<f64> {
    let mut sums = vec![[0.0; 2]; tree.nodes()];
    for (cell, leaf) in leaf.iter().enumerate() {
        sums[*leaf][0] += open[cell];
        sums[*leaf][1] += curvature(cell);
    }
    let factor = if classes == 2 { 1.0 } else { (classes as f64 - 1.0) / classes as f64 };
    let step = |[slope, curvature]: [f64; 2]| if curvature < CURVATURE_MIN { 0.0 } else { factor * slope / curvature };
    sums.into_iter().map(step).collect()
}
