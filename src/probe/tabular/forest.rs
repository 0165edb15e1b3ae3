//! A random forest that gives probabilities: smartcore's regression forest of each class against the rest.
//!
//! The mean of 0/1 targets in a leaf is the share of the class there, and the squared error of such targets is Gini's
//! impurity. smartcore's classifier only counts votes, which are no probabilities. Two classes have one forest.

use rayon::prelude::*;
use smartcore::ensemble::random_forest_regressor::{RandomForestRegressor, RandomForestRegressorParameters};

use super::cells::matrix;
use super::{Table, TabularError};

/// The size of a forest.
#[derive(Clone, Copy)]
pub(super) struct Grove {
    pub(super) depth: usize,
    pub(super) trees: usize,
    pub(super) seed: u64,
}

/// Probabilities of the classes for each of `test`, learnt from `train`.
pub(super) fn grown(table: &Table, train: &[usize], test: &[usize], grove: Grove) -> Result<Vec<f64>, TabularError> {
    let (inside, outside) = (matrix(table, train)?, matrix(table, test)?);
    let options = RandomForestRegressorParameters {
        // smartcore counts levels of nodes, the root's too.
        max_depth: Some(grove.depth as u16 + 1),
        n_trees: grove.trees,
        m: Some(((table.design.columns() as f64).sqrt() as usize).max(1)),
        // One seed for all classes, so that they see the same bootstrap samples.
        seed: grove.seed,
        ..Default::default()
    };
    let against_the_rest = |class: usize| {
        let target: Vec<f64> = train.iter().map(|i| f64::from(u8::from(table.class[*i] == class))).collect();
        RandomForestRegressor::fit(&inside, &target, options.clone()).and_then(|forest| forest.predict(&outside))
    };
    let failed = |e: smartcore::error::Failed| TabularError::Tree(e.to_string());
    if table.classes == 2 {
        let second = against_the_rest(1).map_err(failed)?;
        return Ok(second.into_iter().flat_map(|p: f64| [1.0 - p, p]).collect());
    }
    let each: Vec<Vec<f64>> =
        (0..table.classes).into_par_iter().map(against_the_rest).collect::<Result<_, _>>().map_err(failed)?;
    Ok((0..test.len()).flat_map(|i| shares(each.iter().map(|class| class[i]))).collect())
}

/// Parts of their sum; the same for all where nothing is left of any.
fn shares(values: impl ExactSizeIterator<Item = f64> + Clone) -> Vec<f64> {
    let (sum, count) = (values.clone().sum::<f64>(), values.len() as f64);
    values.map(|v| if sum > 0.0 { v / sum } else { 1.0 / count }).collect()
}
