//! Multinomial logistic regression with an L1 penalty, along a grid of penalties.
//!
//! The objective is scikit-learn's, per row: mean loss + Σ|β| / (C·n) on columns of mean 0 and deviation 1, intercepts
//! free. The curvature of the loss is at most ½·Z'Z/n for each class (Böhning 1992), so that each step minimises a lasso
//! with that matrix by coordinate descent; steps are accelerated as in FISTA (Beck & Teboulle 2009) and start anew where
//! they turn back (O'Donoghue & Candès 2015). `stats` has the fits without penalty or with a ridge, by Newton's method.

use nalgebra::{DMatrix, DVector};

use super::Table;
use super::cells::Cells;
use crate::stats::softmax;

/// A fit is done when no coefficient of a step moves by more, as a part of the largest.
const TOLERANCE: f64 = 1e-5;
const STEPS_MAX: usize = 500;
const SWEEPS_MAX: usize = 100;

/// Probabilities of the test rows for each C, and how many of the fits stopped at their limit of steps.
pub(super) fn path(table: &Table, train: &[usize], test: &[usize], grid: &[f64]) -> (Vec<Vec<f64>>, usize) {
    let problem = Problem::new(table, train);
    // From the largest penalty, where few coefficients are not 0: each fit begins where the one before ended.
    let mut order: Vec<usize> = (0..grid.len()).collect();
    order.sort_by(|a, b| grid[*a].total_cmp(&grid[*b]));
    let (mut fitted, mut unfinished) = (vec![Vec::new(); grid.len()], 0);
    let mut beta = problem.start();
    for i in order {
        let done;
        (beta, done) = problem.fitted(beta, 1.0 / (grid[i] * problem.total));
        unfinished += usize::from(!done);
        fitted[i] = problem.probabilities(&beta, table, test);
    }
    (fitted, unfinished)
}

/// Coefficients: columns × classes, the last row the intercepts.
type Beta = DMatrix<f64>;

struct Problem {
    mean: Vec<f64>,
    /// One over the deviation; 0 for a column that is constant, which thereby has no part.
    scale: Vec<f64>,
    /// Cells × columns, standardised, the last column all ones.
    z: DMatrix<f64>,
    transposed: DMatrix<f64>,
    /// Z'Z/n.
    gram: DMatrix<f64>,
    weight: Vec<f64>,
    /// Cells × classes.
    count: DMatrix<f64>,
    total: f64,
}

impl Problem {
    fn new(table: &Table, train: &[usize]) -> Self {
        let cells = Cells::of(table, train);
        let columns = table.design.columns();
        let moment = |of: &dyn Fn(f64, usize) -> f64| -> Vec<f64> {
            let mut sums = vec![0.0; columns];
            for (row, weight) in cells.rows.iter().zip(&cells.weight) {
                let values = table.design.row(*row).iter().enumerate();
                values.for_each(|(j, v)| sums[j] += weight * of(*v, j) / cells.total);
            }
            sums
        };
        let mean = moment(&|v, _| v);
        let variance = moment(&|v, j| (v - mean[j]).powi(2));
        // What rounding leaves of a constant is no deviation.
        let constant = |j: usize| variance[j].sqrt() <= 1e-12 * (1.0 + mean[j].abs());
        let scale: Vec<f64> = (0..columns).map(|j| if constant(j) { 0.0 } else { 1.0 / variance[j].sqrt() }).collect();
        let z = standardised(table, &cells.rows, &mean, &scale);
        let transposed = z.transpose();
        let weighted = DMatrix::from_fn(z.nrows(), z.ncols(), |i, j| z[(i, j)] * cells.weight[i] / cells.total);
        let gram = &transposed * weighted;
        let count = DMatrix::from_row_slice(cells.rows.len(), cells.classes, &cells.count);
        Self { mean, scale, z, transposed, gram, weight: cells.weight, count, total: cells.total }
    }

    /// No column has a part, and the intercepts give the shares of the classes.
    fn start(&self) -> Beta {
        let mut beta = DMatrix::zeros(self.z.ncols(), self.count.ncols());
        for (k, column) in self.count.column_iter().enumerate() {
            beta[(self.z.ncols() - 1, k)] = (column.sum() / self.total).max(1e-12).ln();
        }
        beta
    }

    /// From `beta` to the minimum at this penalty, and whether it was reached.
    fn fitted(&self, beta: Beta, penalty: f64) -> (Beta, bool) {
        let (mut now, mut ahead, mut momentum) = (beta.clone(), beta, 1.0_f64);
        for _ in 0..STEPS_MAX {
            let next = self.lasso(&ahead, &self.gradient(&ahead), penalty);
            let moved = (&next - &ahead).amax();
            if moved <= TOLERANCE * next.amax().max(1.0) {
                return (next, true);
            }
            if (&ahead - &next).dot(&(&next - &now)) > 0.0 {
                // The momentum led away.
                (momentum, ahead) = (1.0, next.clone());
            } else {
                let larger = (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt()) / 2.0;
                ahead = &next + (&next - &now) * ((momentum - 1.0) / larger);
                momentum = larger;
            }
            now = next;
        }
        (now, false)
    }

    /// Of the mean loss.
    fn gradient(&self, beta: &Beta) -> Beta {
        let mut open = &self.z * beta;
        let mut p = vec![0.0; open.ncols()];
        for i in 0..open.nrows() {
            p.iter_mut().enumerate().for_each(|(k, p)| *p = open[(i, k)]);
            softmax(&mut p);
            for (k, p) in p.iter().enumerate() {
                open[(i, k)] = (self.weight[i] * p - self.count[(i, k)]) / self.total;
            }
        }
        &self.transposed * open
    }

    /// The minimum over each class's coefficients b of g'(b − from) + ¼(b − from)'G(b − from) + penalty·Σ|b|.
    fn lasso(&self, from: &Beta, gradient: &Beta, penalty: f64) -> Beta {
        let mut to = from.clone();
        let columns = self.z.ncols();
        for k in 0..to.ncols() {
            let mut slope: DVector<f64> = gradient.column(k).into_owned();
            for _ in 0..SWEEPS_MAX {
                let mut largest = 0.0_f64;
                for j in 0..columns {
                    let curvature = 0.5 * self.gram[(j, j)];
                    if curvature == 0.0 {
                        continue;
                    }
                    let aim = to[(j, k)] - slope[j] / curvature;
                    let threshold = if j == columns - 1 { 0.0 } else { penalty / curvature };
                    let moved = aim.signum() * (aim.abs() - threshold).max(0.0) - to[(j, k)];
                    if moved != 0.0 {
                        to[(j, k)] += moved;
                        slope.axpy(0.5 * moved, &self.gram.column(j), 1.0);
                        largest = largest.max(moved.abs());
                    }
                }
                if largest <= 0.1 * TOLERANCE {
                    break;
                }
            }
        }
        to
    }

    fn probabilities(&self, beta: &Beta, table: &Table, rows: &[usize]) -> Vec<f64> {
        let logits = standardised(table, rows, &self.mean, &self.scale) * beta;
        let mut p = Vec::with_capacity(logits.len());
        for row in logits.row_iter() {
            let mut one: Vec<f64> = row.iter().copied().collect();
            softmax(&mut one);
            p.extend(one);
        }
        p
    }
}

fn standardised(table: &Table, rows: &[usize], mean: &[f64], scale: &[f64]) -> DMatrix<f64> {
    DMatrix::from_fn(rows.len(), mean.len() + 1, |i, j| match mean.get(j) {
        Some(mean) => (table.design.row(rows[i])[j] - mean) * scale[j],
        None => 1.0,
    })
}
