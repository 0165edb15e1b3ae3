//! Models on tables: how well is a group told from covariates alone (rows 8, 10, 11, 15, 17 and 28 of the paper)?
//!
//! Three learners, each with a grid whose best entry is chosen by cross validation on log loss: logistic regression with
//! an L1 penalty, a random forest and gradient boosting. They are meant to be scikit-learn's, and a test compares them.
//! Pure: the same
//! table, options and seed give the same figures for every number of threads. Neighbours: `covariates` makes a table of
//! text columns, `resample` chooses patients. Left out: AUCs with intervals (`stats`), reading files.

mod boosting;
mod cells;
mod covariates;
mod folds;
mod forest;
mod grid;
mod logistic;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
mod tree;

use serde::Serialize;

use crate::stats::{Design, auc};

pub use covariates::{CATEGORIES_MAX, COLUMNS_MAX, Column, CovariateError, Covariates, Kind, encode};
pub use folds::Folds;
pub use grid::fit;

/// Beyond this a square is no number.
const VALUE_MAX: f64 = 1e100;
/// The largest depth of a tree that a grid may ask for.
pub const DEPTH_MAX: usize = 16;
/// The most trees of a forest, and rounds of boosting.
pub const TREES_MAX: usize = 5000;
/// The most entries of a grid, and folds.
pub const GRID_MAX: usize = 64;

/// What is fitted, and on whom.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// One row for each image or study, one column for each covariate; finite values, no column of ones.
    pub design: &'a Design,
    /// The group of each row, `0..classes`.
    pub class: &'a [usize],
    pub classes: usize,
    /// The patient of each row, by any number.
    pub cluster: &'a [usize],
    /// Rows that are learnt from; the grid is searched within them.
    pub train: &'a [usize],
    /// Rows that get probabilities.
    pub test: &'a [usize],
}

/// A learner with its grid, each entry of which is one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Learner {
    /// Multinomial regression on standardised columns with the penalty Σ|β| + C·Σ loss (Tibshirani 1996), its intercepts
    /// free: scikit-learn's `LogisticRegression(penalty="l1", solver="saga")` behind a `StandardScaler`.
    Logistic {
        /// C, above 0: the larger, the less penalty.
        inverse_penalty: Vec<f64>,
    },
    /// Breiman's (2001) forest: bootstrap samples, ⌊√columns⌋ columns tried at each node, the mean of what the leaves
    /// hold: scikit-learn's `RandomForestClassifier`.
    Forest {
        /// Levels of splits.
        depth: Vec<usize>,
        trees: usize,
    },
    /// Friedman's (2001) boosting of the multinomial (or binomial) deviance: scikit-learn's `GradientBoostingClassifier`.
    Boosting {
        /// Levels of splits; at 0 the model is the training part's shares of the groups.
        depth: Vec<usize>,
        rounds: usize,
        /// What each tree counts, above 0 and at most 1.
        step: f64,
    },
}

/// How the grid is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Search {
    pub folds: Folds,
    /// At least 2.
    pub parts: usize,
    pub seed: u64,
}

/// The model that the search chose, as what it says of the test rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predicted {
    /// Test row after test row, `classes` values each, which sum to 1.
    pub probabilities: Vec<f64>,
    pub classes: usize,
    /// The entry of the grid: C, or a depth.
    pub chosen: f64,
    /// Cross-validated log loss in nats of every entry of the grid, as the grid has them: the mean over folds.
    pub losses: Vec<(f64, f64)>,
    /// How many of the logistic fits, cross validation included, stopped at their limit of steps.
    pub unfinished: usize,
}

/// Why a table has no model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TabularError {
    #[error("rows, groups and patients differ in number, or a part names a row that is not there")]
    Shape,
    #[error("{0} classes: a model tells two or more apart")]
    Classes(usize),
    #[error("row {row}, column {column}: not a number between -1e100 and 1e100")]
    NotFinite { row: usize, column: usize },
    #[error("the {0} part has no rows")]
    Empty(&'static str),
    #[error("the table has no columns")]
    NoColumns,
    #[error("class {class} has fewer than two {unit} in the training part: cross validation needs more")]
    Rare { class: usize, unit: &'static str },
    #[error("{count} {unit} in the training part: {parts} folds need as many")]
    Few { count: usize, unit: &'static str, parts: usize },
    #[error("a patient of the training part is in the test part too")]
    Leak,
    #[error("the grid, its options or the number of folds: {0}")]
    Grid(&'static str),
}

impl Learner {
    /// As row 11 has it: C = 10^linspace(−3, 1, 10).
    pub fn logistic() -> Self {
        Self::Logistic { inverse_penalty: (0..10).map(|i| 10f64.powf(-3.0 + 4.0 * f64::from(i) / 9.0)).collect() }
    }

    /// 100 trees of depth 1 to 5.
    pub fn forest() -> Self {
        Self::Forest { depth: (1..=5).collect(), trees: 100 }
    }

    /// 100 rounds of depth 1 to 5, each counting a tenth.
    pub fn boosting() -> Self {
        Self::Boosting { depth: (1..=5).collect(), rounds: 100, step: 0.1 }
    }

    /// As row 15 has it, for histograms: depth 0 to 6.
    pub fn boosting_from_constant() -> Self {
        Self::Boosting { depth: (0..=6).collect(), rounds: 100, step: 0.1 }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Logistic { .. } => "logistic",
            Self::Forest { .. } => "forest",
            Self::Boosting { .. } => "boosting",
        }
    }

    /// The grid as numbers.
    pub fn grid(&self) -> Vec<f64> {
        match self {
            Self::Logistic { inverse_penalty } => inverse_penalty.clone(),
            Self::Forest { depth, .. } | Self::Boosting { depth, .. } => depth.iter().map(|d| *d as f64).collect(),
        }
    }

    fn check(&self) -> Result<(), TabularError> {
        let entries = self.grid().len();
        if entries == 0 || entries > GRID_MAX {
            return Err(TabularError::Grid("give 1 to 64 entries"));
        }
        let (depths, trees) = match self {
            Self::Logistic { inverse_penalty } if inverse_penalty.iter().all(|c| c.is_finite() && *c > 0.0) => {
                return Ok(());
            }
            Self::Logistic { .. } => return Err(TabularError::Grid("C must be a number above 0")),
            Self::Forest { depth, trees } => (depth, *trees),
            Self::Boosting { step, .. } if !(*step > 0.0 && *step <= 1.0) => {
                return Err(TabularError::Grid("the step must be above 0 and at most 1"));
            }
            Self::Boosting { depth, rounds, .. } => (depth, *rounds),
        };
        if depths.iter().any(|d| *d > DEPTH_MAX) {
            return Err(TabularError::Grid("a depth must be at most 16"));
        }
        if trees == 0 || trees > TREES_MAX {
            return Err(TabularError::Grid("trees or rounds must be 1 to 5000"));
        }
        Ok(())
    }
}

impl Table<'_> {
    fn check(&self, search: &Search) -> Result<(), TabularError> {
        let rows = self.design.rows();
        let (columns, within) = (self.design.columns(), |part: &[usize]| part.iter().all(|i| *i < rows));
        if columns == 0 {
            return Err(TabularError::NoColumns);
        }
        if self.class.len() != rows || self.cluster.len() != rows || !within(self.train) || !within(self.test) {
            return Err(TabularError::Shape);
        }
        if self.classes < 2 || self.class.iter().any(|k| *k >= self.classes) {
            return Err(TabularError::Classes(self.classes));
        }
        for (name, part) in [("training", self.train), ("test", self.test)] {
            if part.is_empty() {
                return Err(TabularError::Empty(name));
            }
            for &row in part {
                if let Some(column) = self.design.row(row).iter().position(|v| v.is_nan() || v.abs() > VALUE_MAX) {
                    return Err(TabularError::NotFinite { row, column });
                }
            }
        }
        if search.parts < 2 || search.parts > GRID_MAX {
            return Err(TabularError::Grid("give 2 to 64 folds"));
        }
        Ok(())
    }
}

impl Predicted {
    /// What the model gives class `k`, test row after test row.
    pub fn of(&self, k: usize) -> Vec<f64> {
        self.probabilities.iter().skip(k).step_by(self.classes).copied().collect()
    }

    /// AUC of each class against the rest, given the test rows' classes; none where a class does not occur.
    pub fn one_vs_rest(&self, class: &[usize]) -> Vec<Option<f64>> {
        let positive = |k: usize| class.iter().map(|c| *c == k).collect::<Vec<_>>();
        (0..self.classes).map(|k| auc(&self.of(k), &positive(k))).collect()
    }
}
