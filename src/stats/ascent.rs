//! The maximum of a smooth concave function near a point whose second derivatives are known: quasi-Newton steps (BFGS)
//! that need gradients alone.
//!
//! A bootstrap draw's maximum lies a few standard errors from the cohort's, and the cohort's information is nearly the
//! draw's: four or five gradients, each a fraction of what second derivatives cost, come as close as Newton's method.
//! Neighbours: `newton` for everything else. Left out: line searches; what does not go straight up is left to Newton.

use nalgebra::DMatrix;

/// Steps from one start, kept so that no draw allocates.
#[derive(Debug, Clone, Default)]
pub struct Ascent {
    /// The inverse of the information as it is believed now, row after row.
    inverse: Vec<f64>,
    gradient: Vec<f64>,
    before: Vec<f64>,
    step: Vec<f64>,
    turned: Vec<f64>,
}

/// A step whose gain, in units of twice the log-likelihood, would be below this is the last. It is half a hundredth of a
/// standard error long at most, and what is left after it several times less.
const DECREMENT: f64 = 3e-5;
const STEPS: usize = 25;

/// The inverse of an information matrix, for [`Ascent::climb`]; `None` where it is singular.
pub fn inverse(information: &DMatrix<f64>) -> Option<Vec<f64>> {
    let inverse = information.clone().cholesky()?.inverse();
    inverse.iter().all(|v| v.is_finite()).then(|| inverse.as_slice().to_vec())
}

impl Ascent {
    /// Goes from `beta` to the maximum. `gradient` writes the first derivatives at its first argument into its second.
    /// `false` where that does not get there: then `beta` means nothing.
    pub fn climb(&mut self, beta: &mut [f64], inverse: &[f64], mut gradient: impl FnMut(&[f64], &mut [f64])) -> bool {
        let n = beta.len();
        self.inverse.clear();
        self.inverse.extend_from_slice(inverse);
        for buffer in [&mut self.gradient, &mut self.before, &mut self.step, &mut self.turned] {
            buffer.clear();
            buffer.resize(n, 0.0);
        }
        gradient(beta, &mut self.gradient);
        for _ in 0..STEPS {
            multiply(&self.inverse, &self.gradient, &mut self.step);
            let decrement = product(&self.gradient, &self.step);
            if !(decrement.is_finite() && decrement >= 0.0) {
                return false;
            }
            beta.iter_mut().zip(&self.step).for_each(|(b, s)| *b += s);
            if decrement < DECREMENT {
                return true;
            }
            std::mem::swap(&mut self.before, &mut self.gradient);
            gradient(beta, &mut self.gradient);
            // Along the step the slope falls from `decrement`; far below zero, the step was much too long.
            let slope = product(&self.gradient, &self.step);
            if !(slope.is_finite() && slope.abs() < 0.9 * decrement) {
                return false;
            }
            self.learn();
        }
        false
    }

    /// The inverse after a step, by Broyden, Fletcher, Goldfarb and Shanno.
    fn learn(&mut self) {
        // The change of the slopes, downward: information times step, if it were constant.
        self.before.iter_mut().zip(&self.gradient).for_each(|(b, g)| *b -= g);
        let (fall, step) = (&self.before, &self.step);
        let curvature = product(fall, step);
        multiply(&self.inverse, fall, &mut self.turned);
        let stretch = (1.0 + product(fall, &self.turned) / curvature) / curvature;
        let n = step.len();
        for (i, row) in self.inverse.chunks_exact_mut(n).enumerate() {
            for (j, cell) in row.iter_mut().enumerate() {
                *cell +=
                    stretch * step[i] * step[j] - (self.turned[i] * step[j] + step[i] * self.turned[j]) / curvature;
            }
        }
    }
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn multiply(matrix: &[f64], vector: &[f64], out: &mut [f64]) {
    for (out, row) in out.iter_mut().zip(matrix.chunks_exact(vector.len())) {
        *out = product(row, vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// −Σ cosh(aᵢ·(x − m)): concave, its curvature at 0 differs from that at the maximum.
    fn gradient(x: &[f64], out: &mut [f64]) {
        let directions = [[1.0, 0.2], [-0.3, 1.0], [0.5, 0.5]];
        out.fill(0.0);
        for a in directions {
            let along = a[0] * (x[0] - 0.4) + a[1] * (x[1] + 0.3);
            out[0] -= along.sinh() * a[0];
            out[1] -= along.sinh() * a[1];
        }
    }

    #[test]
    fn finds_the_maximum_from_gradients_alone() {
        let at_zero = DMatrix::from_row_slice(2, 2, &[1.5, 0.2, 0.2, 1.4]);
        let mut ascent = Ascent::default();
        let inverse = inverse(&at_zero).unwrap();
        for _ in 0..2 {
            let (mut beta, mut asked) = (vec![0.0, 0.0], 0);
            let reached = ascent.climb(&mut beta, &inverse, |x, out| {
                asked += 1;
                gradient(x, out);
            });
            assert!(reached && asked <= 6, "{asked}");
            assert!((beta[0] - 0.4).abs() < 1e-3 && (beta[1] + 0.3).abs() < 1e-3, "{beta:?}");
        }
    }

    #[test]
    fn says_where_it_does_not_get_there() {
        let mut ascent = Ascent::default();
        // Believed to be ten times as flat as it is: the first step goes far beyond.
        let flat = inverse(&DMatrix::from_row_slice(2, 2, &[0.15, 0.0, 0.0, 0.14])).unwrap();
        assert!(!ascent.climb(&mut [0.0, 0.0], &flat, gradient));
        assert!(!ascent.climb(&mut [0.0, 0.0], &flat, |_, out| out.fill(f64::NAN)));
        assert!(inverse(&DMatrix::from_row_slice(2, 2, &[1.0, 1.0, 1.0, 1.0])).is_none());
    }
}
