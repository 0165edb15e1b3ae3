//! Binary logistic regression with weights and a ridge.

use super::NumericsError;
use super::distribution::expit;
use super::newton::{Derivatives, Design, Fitted, Ridge, maximise};

/// Fits P(y = 1 | x) = expit(xβ) to `outcomes` in 0..1 with non-negative `weights`.
///
/// The design holds its own intercept column. `start` is where Newton's method sets out from; the centre of
/// the ridge where there is none.
pub fn logistic(
    design: &Design,
    outcomes: &[f64],
    weights: &[f64],
    ridge: &Ridge,
    start: Option<&[f64]>,
) -> Result<Fitted, NumericsError> {
    if outcomes.len() != design.rows() || weights.len() != design.rows() {
        return Err(NumericsError::Shape);
    }
    if !design.is_finite() || outcomes.iter().chain(weights).any(|v| !v.is_finite()) {
        return Err(NumericsError::NotFinite);
    }
    let columns = design.columns();
    maximise(columns, ridge, start, |beta, out: &mut Derivatives| {
        let mut value = 0.0;
        for (i, (&y, &weight)) in outcomes.iter().zip(weights).enumerate() {
            if weight == 0.0 {
                continue;
            }
            let row = design.row(i);
            let eta: f64 = row.iter().zip(beta).map(|(x, b)| x * b).sum();
            let p = expit(eta);
            // y·η − log(1 + e^η), without overflow.
            value += weight * (y * eta - eta.max(0.0) - (-eta.abs()).exp().ln_1p());
            let (residual, variance) = (weight * (y - p), weight * p * (1.0 - p));
            for (j, &x) in row.iter().enumerate() {
                if x == 0.0 {
                    continue;
                }
                out.gradient[j] += residual * x;
                let scaled = variance * x;
                for (cell, &other) in out.information[j * columns + j..(j + 1) * columns].iter_mut().zip(&row[j..]) {
                    *cell += scaled * other;
                }
            }
        }
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty rows: intercept, x, group; the outcomes are neither separated nor balanced.
    fn data() -> (Design, Vec<f64>) {
        let mut design = Design::new(3);
        let mut outcomes = Vec::new();
        for i in 0..20 {
            let x = f64::from(i) / 4.0 - 2.0;
            design.push(&[1.0, x, f64::from(i % 3 == 0)]);
            outcomes.push(f64::from(u8::from((i * 13) % 17 + i > 16)));
        }
        (design, outcomes)
    }

    #[test]
    fn agrees_with_statsmodels() {
        // Reference: statsmodels GLM(Binomial) for the plain and weighted fits, scipy BFGS on the penalised
        // likelihood for the ridge; 1e-6 is the accuracy of the printed digits.
        let (design, outcomes) = data();
        let weights: Vec<f64> = (0..20).map(|i| f64::from(1 + i % 4)).collect();
        let check = |weights: &[f64], precision: [f64; 3], expected: [f64; 3], log_likelihood: f64| {
            let ridge = Ridge { precision: precision.to_vec(), center: vec![0.0, 0.5, 0.0] };
            let fitted = logistic(&design, &outcomes, weights, &ridge, None).unwrap();
            for (got, wanted) in fitted.coefficients.iter().zip(expected) {
                assert!((got - wanted).abs() < 1e-6, "{:?}", fitted.coefficients);
            }
            assert!((fitted.log_likelihood - log_likelihood).abs() < 1e-6, "{}", fitted.log_likelihood);
        };
        check(&[1.0; 20], [0.0; 3], [0.27303121, 2.03547237, -1.5525493], -6.226939192);
        check(&weights, [0.0; 3], [0.39699428, 2.5945285, -1.26994083], -11.909507001);
        check(&[1.0; 20], [0.0, 2.0, 1.0], [0.01210057, 1.25966005, -0.41411602], -6.904831581);
    }

    #[test]
    fn standard_errors_come_from_the_information() {
        let (design, outcomes) = data();
        let fitted = logistic(&design, &outcomes, &[1.0; 20], &Ridge::uniform(3, 0.0), None).unwrap();
        let covariance = fitted.information.try_inverse().unwrap();
        for (j, expected) in [0.88744228, 0.88057716, 1.6448543].into_iter().enumerate() {
            assert!((covariance[(j, j)].sqrt() - expected).abs() < 1e-4);
        }
    }

    #[test]
    fn says_why_there_is_no_fit() {
        let mut separated = Design::new(2);
        let mut repeated = Design::new(2);
        let outcomes: Vec<f64> = (0..10).map(|i| f64::from(u8::from(i >= 5))).collect();
        for i in 0..10 {
            separated.push(&[1.0, f64::from(i)]);
            repeated.push(&[1.0, 1.0]);
        }
        let fit = |design: &Design, weights: &[f64], precision: f64| {
            logistic(design, &outcomes, weights, &Ridge::uniform(2, precision), None).map(|f| f.coefficients.len())
        };
        assert!(fit(&separated, &[1.0; 10], 0.0).is_err());
        assert_eq!(fit(&separated, &[1.0; 10], 0.1), Ok(2));
        assert_eq!(fit(&repeated, &[1.0; 10], 0.0), Err(NumericsError::Singular));
        assert_eq!(fit(&separated, &[1.0; 9], 0.1), Err(NumericsError::Shape));
        assert_eq!(fit(&separated, &[f64::NAN; 10], 0.1), Err(NumericsError::NotFinite));
    }
}
