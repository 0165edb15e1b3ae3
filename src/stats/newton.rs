//! Penalised maximum likelihood by Newton's method: the engine below `logistic` and `multinomial`.
//!
//! Steps are halved until the penalised likelihood rises, so a poor start or a wild bootstrap draw cannot throw
//! the iteration off. Left out: the likelihoods themselves.

use nalgebra::{DMatrix, DVector};

use super::NumericsError;

/// Predictors, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Design {
    columns: usize,
    values: Vec<f64>,
}

/// A quadratic penalty ½ Σ precision·(β − center)²: independent normal priors on the coefficients.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    pub precision: Vec<f64>,
    pub center: Vec<f64>,
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub coefficients: Vec<f64>,
    /// Without the penalty.
    pub log_likelihood: f64,
    /// Negative second derivative at the solution, penalty included; its inverse approximates the covariance.
    pub information: DMatrix<f64>,
}

impl Design {
    pub fn new(columns: usize) -> Self {
        Self { columns, values: Vec::new() }
    }

    /// Appends a row of exactly as many values as there are columns.
    pub fn push(&mut self, row: &[f64]) {
        assert_eq!(row.len(), self.columns, "a row has one value per column");
        self.values.extend_from_slice(row);
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    pub fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    pub(super) fn is_finite(&self) -> bool {
        self.values.iter().all(|v| v.is_finite())
    }
}

impl Ridge {
    /// The same precision towards zero for every coefficient.
    pub fn uniform(coefficients: usize, precision: f64) -> Self {
        Self { precision: vec![precision; coefficients], center: vec![0.0; coefficients] }
    }

    fn value(&self, beta: &[f64]) -> f64 {
        let terms = beta.iter().zip(&self.precision).zip(&self.center);
        0.5 * terms.map(|((b, p), c)| p * (b - c) * (b - c)).sum::<f64>()
    }
}

/// First and second derivatives of a log-likelihood: the gradient, and the upper triangle of the information.
pub(super) struct Derivatives {
    pub(super) gradient: Vec<f64>,
    /// Row-major, `dimension × dimension`; only entries on and above the diagonal are read.
    pub(super) information: Vec<f64>,
}

/// Maximises `likelihood` (value, and derivatives added into the zeroed argument) minus the penalty.
pub(super) fn maximise(
    dimension: usize,
    ridge: &Ridge,
    start: Option<&[f64]>,
    likelihood: impl Fn(&[f64], &mut Derivatives) -> f64,
) -> Result<Fitted, NumericsError> {
    const STEPS: usize = 60;
    const DECREMENT: f64 = 1e-8;
    if ridge.precision.len() != dimension || ridge.center.len() != dimension {
        return Err(NumericsError::Shape);
    }
    let mut beta = match start {
        Some(values) if values.len() == dimension => values.to_vec(),
        Some(_) => return Err(NumericsError::Shape),
        None => ridge.center.clone(),
    };
    let mut scratch = Derivatives { gradient: vec![0.0; dimension], information: vec![0.0; dimension * dimension] };
    let mut evaluate = |beta: &[f64]| {
        scratch.gradient.fill(0.0);
        scratch.information.fill(0.0);
        let value = likelihood(beta, &mut scratch);
        let gradient =
            DVector::from_fn(dimension, |i, _| scratch.gradient[i] - ridge.precision[i] * (beta[i] - ridge.center[i]));
        let information = DMatrix::from_fn(dimension, dimension, |i, j| {
            let penalty = if i == j { ridge.precision[i] } else { 0.0 };
            scratch.information[i.min(j) * dimension + i.max(j)] + penalty
        });
        (value, gradient, information)
    };
    let (mut value, mut gradient, mut information) = evaluate(&beta);
    for _ in 0..STEPS {
        if !value.is_finite() {
            return Err(NumericsError::NotFinite);
        }
        let factor = information.clone().cholesky().ok_or(NumericsError::Singular)?;
        if (0..dimension).any(|j| factor.l_dirty()[(j, j)].powi(2) < 1e-12 * information[(j, j)]) {
            return Err(NumericsError::Singular);
        }
        let solved = factor.solve(&gradient);
        let decrement = gradient.dot(&solved);
        if !decrement.is_finite() {
            return Err(NumericsError::NotFinite);
        }
        let stepped =
            |length: f64| -> Vec<f64> { beta.iter().zip(solved.iter()).map(|(b, s)| b + length * s).collect() };
        // With separated outcomes the likelihood settles but the steps do not.
        let settled = solved.iter().zip(&beta).all(|(s, b)| s.abs() <= 1e-3 * (1.0 + b.abs()));
        if decrement < DECREMENT && settled {
            // The step is far below every standard error: take it and keep the derivatives of before.
            return Ok(Fitted { coefficients: stepped(1.0), log_likelihood: value, information });
        }
        let penalised = value - ridge.value(&beta);
        let mut length = 1.0;
        let (next, accepted) = loop {
            let next = stepped(length);
            let trial = evaluate(&next);
            if trial.0 - ridge.value(&next) >= penalised - 1e-9 {
                break (next, trial);
            }
            length /= 2.0;
            if length < 1e-6 {
                return Err(NumericsError::NotConverged(STEPS));
            }
        };
        beta = next;
        (value, gradient, information) = accepted;
    }
    Err(NumericsError::NotConverged(STEPS))
}
