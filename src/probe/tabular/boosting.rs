//! Gradient boosting of the multinomial deviance (Friedman 2001, algorithms 5 and 6) on smartcore's regression trees.
//!
//! Each round fits a tree to what the probabilities leave open, c − p, and replaces each leaf's mean by one Newton step.
//! The tree splits where the squared error falls most, which is Friedman's criterion within a node. Two classes have one
//! score, more have one each. Left out: subsampling, early stops.

use std::collections::BTreeMap;

use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::tree::decision_tree_regressor::{DecisionTreeRegressor, DecisionTreeRegressorParameters};

use super::cells::{Cells, matrix};
use super::{Table, TabularError};
use crate::stats::{expit, softmax};

type Tree = DecisionTreeRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>;

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
    pub(super) seed: u64,
}

/// Probabilities of the classes for each of `test`, learnt from `train`.
pub(super) fn boosted(table: &Table, train: &[usize], test: &[usize], boost: Boost) -> Result<Vec<f64>, TabularError> {
    let cells = Cells::of(table, train);
    let shares = cells.shares();
    if boost.depth == 0 {
        return Ok(shares.repeat(test.len()));
    }
    let start: Vec<f64> = shares.iter().map(|p| p.clamp(SHARE_MIN, 1.0 - SHARE_MIN)).collect();
    let start: Vec<f64> = match start[..] {
        [_, p] => vec![(p / (1.0 - p)).ln()],
        _ => start.iter().map(|p| p.ln()).collect(),
    };
    let (inside, outside) = (matrix(table, &cells.rows)?, matrix(table, test)?);
    let mut scores = start.repeat(cells.rows.len());
    let mut predicted = start.repeat(test.len());
    let width = start.len();
    for round in 0..boost.rounds {
        let p = probabilities(&scores, width);
        for score in 0..width {
            let class = if width == 1 { 1 } else { score };
            let open = |cell: usize| cells.count[cell * cells.classes + class] / cells.weight[cell];
            let residual: Vec<f64> = (0..cells.rows.len()).map(|i| open(i) - p[i * cells.classes + class]).collect();
            let tree = grown(&inside, &residual, &cells, boost, (round * width + score) as u64)?;
            let leaves = tree.predict(&inside).map_err(failed)?;
            let values = newton(&leaves, &residual, &cells, |i| p[i * cells.classes + class]);
            let moved = |leaf: &f64| boost.step * values.get(&leaf.to_bits()).copied().unwrap_or(0.0);
            scores.iter_mut().skip(score).step_by(width).zip(&leaves).for_each(|(s, leaf)| *s += moved(leaf));
            let leaves = tree.predict(&outside).map_err(failed)?;
            predicted.iter_mut().skip(score).step_by(width).zip(&leaves).for_each(|(s, leaf)| *s += moved(leaf));
        }
    }
    Ok(probabilities(&predicted, width))
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

fn grown(
    inside: &DenseMatrix<f64>,
    residual: &Vec<f64>,
    cells: &Cells,
    boost: Boost,
    number: u64,
) -> Result<Tree, TabularError> {
    let options = DecisionTreeRegressorParameters {
        // smartcore counts levels of nodes, the root's too.
        max_depth: Some(boost.depth as u16 + 1),
        seed: Some(boost.seed.wrapping_add(number)),
        ..Default::default()
    };
    if cells.rows.len() as f64 == cells.total {
        return Tree::fit(inside, residual, options).map_err(failed);
    }
    Tree::fit_with_weights(inside, residual, &cells.weight, options).map_err(failed)
}

/// Newton's step of each leaf. A leaf is known by its mean: two of one mean, bit by bit, become one.
fn newton(leaves: &[f64], residual: &[f64], cells: &Cells, p: impl Fn(usize) -> f64) -> BTreeMap<u64, f64> {
    let mut sums: BTreeMap<u64, [f64; 2]> = BTreeMap::new();
    for (i, leaf) in leaves.iter().enumerate() {
        let [slope, curvature] = sums.entry(leaf.to_bits()).or_default();
        *slope += cells.weight[i] * residual[i];
        *curvature += cells.weight[i] * p(i) * (1.0 - p(i));
    }
    let classes = cells.classes as f64;
    let factor = if cells.classes == 2 { 1.0 } else { (classes - 1.0) / classes };
    let step = |[slope, curvature]: [f64; 2]| if curvature < CURVATURE_MIN { 0.0 } else { factor * slope / curvature };
    sums.into_iter().map(|(leaf, sums)| (leaf, step(sums))).collect()
}

fn failed(error: smartcore::error::Failed) -> TabularError {
    TabularError::Tree(error.to_string())
}
