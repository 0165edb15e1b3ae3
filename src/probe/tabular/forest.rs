//! A random forest that gives probabilities (Breiman 2001).
//!
//! As scikit-learn's `RandomForestClassifier`: trees on bootstrap samples by Gini's impurity of all classes at once,
//! ⌊√columns⌋ columns tried at each node, and the mean over trees of what the leaves hold. A tree that is cut at a depth
//! is a tree of that depth, so one forest answers for a whole grid of depths.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::Table;
use super::cells::Cells;
use super::tree::{Growth, Ranks, Tree};

/// Probabilities of the classes for each of `test`, learnt from `train`, for each depth.
pub(super) fn grown(
    table: &Table,
    train: &[usize],
    test: &[usize],
    depths: &[usize],
    trees: usize,
    seed: u64,
) -> Vec<Vec<f64>> {
    let cells = Cells::of(table, train);
    let ranks = Ranks::of(table, &cells.rows);
    let (classes, depth) = (table.classes, depths.iter().copied().max().unwrap_or(0));
    // Each row by its cell and class, to draw from.
    let rows: Vec<usize> = (0..).zip(&cells.count).flat_map(|(at, n)| std::iter::repeat_n(at, *n as usize)).collect();
    let tree = |number: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        let (mut sums, mut weight) = (vec![0.0; cells.count.len()], vec![0.0; cells.rows.len()]);
        for _ in 0..rows.len() {
            let at = rows[rng.random_range(0..rows.len())];
            sums[at] += 1.0;
            weight[at / classes] += 1.0;
        }
        let tried = ((table.design.columns() as f64).sqrt() as usize).max(1);
        Growth { ranks: &ranks, sums: &sums, width: classes, weight: &weight, depth, tried }.grown(&mut rng)
    };
    let forest: Vec<Tree> = (0..trees as u64).into_par_iter().map(tree).collect();
    let row = |row: usize| {
        // Depth after depth, class after class.
        let mut means = vec![0.0; depths.len() * classes];
        for tree in &forest {
            let path: Vec<usize> = tree.path(table.design.row(row)).collect();
            for (depth, means) in depths.iter().zip(means.chunks_exact_mut(classes)) {
                let node = path[(*depth).min(path.len() - 1)];
                means.iter_mut().zip(tree.means(node)).for_each(|(mean, share)| *mean += share / trees as f64);
            }
        }
        means
    };
    let means: Vec<Vec<f64>> = test.par_iter().map(|i| row(*i)).collect();
    let of_depth = |i: usize| means.iter().flat_map(|row| &row[i * classes..(i + 1) * classes]).copied().collect();
    (0..depths.len()).map(of_depth).collect()
}
