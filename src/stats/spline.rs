//! Natural cubic splines with three degrees of freedom: four knots, linear beyond the outer ones.
//!
//! The truncated-power basis of Harrell ("Regression Modeling Strategies", eq. 2.25): its first function is the
//! variable itself, so dropping the other two leaves a straight line.

use super::distribution::quantile;

/// The basis for four ascending knots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NaturalSpline {
    knots: [f64; 4],
}

impl NaturalSpline {
    /// Basis functions without the intercept.
    pub const DEGREES: usize = 3;

    /// A spline on these knots; `None` unless they are finite and clearly ascending.
    pub fn new(knots: [f64; 4]) -> Option<Self> {
        let apart = (knots[3] - knots[0]) * 1e-3;
        let ascending = knots.windows(2).all(|w| w[1] - w[0] > apart);
        (knots.iter().all(|k| k.is_finite()) && apart > 0.0 && ascending).then_some(Self { knots })
    }

    /// Knots at the 5, 35, 65 and 95 % quantiles of ascending `values` (Harrell's choice for four knots).
    pub fn on_quantiles(sorted: &[f64]) -> Option<Self> {
        let at = |p| quantile(sorted, p);
        Self::new([at(0.05)?, at(0.35)?, at(0.65)?, at(0.95)?])
    }

    pub fn knots(&self) -> [f64; 4] {
        self.knots
    }

    /// The basis functions at `x`.
    pub fn basis(&self, x: f64) -> [f64; Self::DEGREES] {
        let [t1, t2, t3, t4] = self.knots;
        let cube = |knot: f64| (x - knot).max(0.0).powi(3);
        let scale = (t4 - t1).powi(2);
        let bent = |t: f64| (cube(t) - cube(t3) * (t4 - t) / (t4 - t3) + cube(t4) * (t3 - t) / (t4 - t3)) / scale;
        [x, bent(t1), bent(t2)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::{Matrix4, Vector4};

    #[test]
    fn spans_the_natural_cubic_interpolants() {
        // Reference: scipy.interpolate.CubicSpline(knots, values, bc_type="natural") at points within, and its
        // linear continuation outside.
        let (knots, values) = ([-1.5, -0.4, 0.5, 1.7], [0.3, -0.8, 1.1, 0.2]);
        let spline = NaturalSpline::new(knots).unwrap();
        let row = |x: f64| {
            let [a, b, c] = spline.basis(x);
            [1.0, a, b, c]
        };
        let matrix = Matrix4::from_fn(|i, j| row(knots[i])[j]);
        let coefficients = matrix.lu().solve(&Vector4::from(values)).unwrap();
        for (x, expected) in [
            (-1.2, -0.298800386605),
            (-0.7, -0.905514810393),
            (0.0, -0.002537079502),
            (0.3, 0.732113049051),
            (0.9, 1.275111759665),
            (1.4, 0.725656660413),
            (-3.0, 3.414055659787),
            (2.7, -1.619001459245),
        ] {
            let got = Vector4::from(row(x)).dot(&coefficients);
            assert!((got - expected).abs() < 1e-9, "{x}: {got}");
        }
    }

    #[test]
    fn knots_must_ascend() {
        assert!(NaturalSpline::new([0.0, 1.0, 1.0, 2.0]).is_none());
        assert!(NaturalSpline::new([0.0, f64::NAN, 1.0, 2.0]).is_none());
        assert!(NaturalSpline::on_quantiles(&[0.5; 100]).is_none());
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(NaturalSpline::on_quantiles(&values).unwrap().knots(), [5.0, 35.0, 65.0, 95.0]);
    }
}
