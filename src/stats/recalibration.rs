//! Calibration intercept and slope (Cox 1958; Van Calster et al. 2019) with errors that let observations of a cluster
//! depend on one another.
//!
//! The intercept is that of a logistic model with the logit of the prediction as an offset (calibration in the large),
//! the slope the coefficient of that logit in a model of its own. Errors are sandwiches with the factor
//! m/(m−1)·(n−1)/(n−k), as statsmodels has them for `cov_type="cluster"`. Left out: calibration curves.

use super::distribution::expit;

/// A coefficient with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficient {
    pub value: f64,
    pub error: f64,
}

const STEPS: usize = 100;
/// A logit beyond this is a separation: there is no finite estimate.
const WIDEST: f64 = 30.0;

/// `z`: logits of the predictions. `None` without both classes, two clusters or a finite estimate.
pub fn calibration_intercept(z: &[f64], outcome: &[bool], cluster: &[usize]) -> Option<Coefficient> {
    usable(z, outcome, cluster)?;
    let mut a = 0.0;
    for _ in 0..STEPS {
        let (mut gradient, mut information) = (0.0, 0.0);
        for (z, &y) in z.iter().zip(outcome) {
            let p = expit(a + z);
            gradient += f64::from(u8::from(y)) - p;
            information += p * (1.0 - p);
        }
        // Steps are held back where the curve is flat.
        let step = (gradient / information).clamp(-2.0, 2.0);
        a += step;
        if !step.is_finite() || a.abs() > WIDEST {
            return None;
        }
        if step.abs() < 1e-12 * (1.0 + a.abs()) {
            let residual = |(z, &y): (&f64, &bool)| f64::from(u8::from(y)) - expit(a + z);
            let influence: Vec<f64> = z.iter().zip(outcome).map(|row| residual(row) / information).collect();
            let (variance, _) = super::clustered::cluster_variance(&influence, cluster)?;
            return Some(Coefficient { value: a, error: variance?.sqrt() });
        }
    }
    None
}

/// As [`calibration_intercept`], of the slope.
pub fn calibration_slope(z: &[f64], outcome: &[bool], cluster: &[usize]) -> Option<Coefficient> {
    usable(z, outcome, cluster)?;
    let n = z.len() as f64;
    // About the middle, so that the two columns hardly hang together.
    let middle = z.iter().sum::<f64>() / n;
    let share = outcome.iter().filter(|y| **y).count() as f64 / n;
    let mut beta = [(share / (1.0 - share)).ln(), 0.0];
    let mut value = likelihood(z, outcome, middle, beta);
    for _ in 0..STEPS {
        let ([g0, g1], [i00, i01, i11]) = derivatives(z, outcome, middle, beta);
        let determinant = i00 * i11 - i01 * i01;
        if determinant.is_nan() || determinant <= 1e-12 * i00 * i11 {
            return None;
        }
        let step = [(i11 * g0 - i01 * g1) / determinant, (i00 * g1 - i01 * g0) / determinant];
        let mut length = 1.0;
        let (next, reached) = loop {
            let next = [beta[0] + length * step[0], beta[1] + length * step[1]];
            let reached = likelihood(z, outcome, middle, next);
            if reached >= value - 1e-9 * (1.0 + value.abs()) {
                break (next, reached);
            }
            length /= 2.0;
            if length <= 1e-6 {
                return None;
            }
        };
        (beta, value) = (next, reached);
        if beta.iter().any(|b| b.is_nan() || b.abs() > WIDEST) {
            return None;
        }
        if step.iter().zip(beta).all(|(s, b)| s.abs() < 1e-11 * (1.0 + b.abs())) {
            let influence: Vec<f64> = z
                .iter()
                .zip(outcome)
                .map(|(z, &y)| {
                    let x = z - middle;
                    let residual = f64::from(u8::from(y)) - expit(beta[0] + beta[1] * x);
                    residual * (i00 * x - i01) / determinant
                })
                .collect();
            let (variance, _) = super::clustered::cluster_variance(&influence, cluster)?;
            return Some(Coefficient { value: beta[1], error: (variance? * (n - 1.0) / (n - 2.0)).sqrt() });
        }
    }
    None
}

fn usable(z: &[f64], outcome: &[bool], cluster: &[usize]) -> Option<()> {
    let events = outcome.iter().filter(|y| **y).count();
    let sizes = z.len() == outcome.len() && z.len() == cluster.len() && z.len() >= 3;
    (sizes && events > 0 && events < z.len() && z.iter().all(|z| z.is_finite())).then_some(())
}

fn likelihood(z: &[f64], outcome: &[bool], middle: f64, [a, b]: [f64; 2]) -> f64 {
    let one = |(z, &y): (&f64, &bool)| {
        let eta = a + b * (z - middle);
        f64::from(u8::from(y)) * eta - eta.max(0.0) - (-eta.abs()).exp().ln_1p()
    };
    z.iter().zip(outcome).map(one).sum()
}

/// The gradient, and the information's 00, 01 and 11.
fn derivatives(z: &[f64], outcome: &[bool], middle: f64, [a, b]: [f64; 2]) -> ([f64; 2], [f64; 3]) {
    let (mut gradient, mut information) = ([0.0; 2], [0.0; 3]);
    for (z, &y) in z.iter().zip(outcome) {
        let x = z - middle;
        let p = expit(a + b * x);
        let (residual, variance) = (f64::from(u8::from(y)) - p, p * (1.0 - p));
        gradient[0] += residual;
        gradient[1] += residual * x;
        information[0] += variance;
        information[1] += variance * x;
        information[2] += variance * x * x;
    }
    (gradient, information)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_calibrated_has_no_intercept_and_a_slope_of_one() {
        // One of four events at logit −ln 3, three of four at ln 3.
        let z: Vec<f64> = (0..80).map(|i| 3.0_f64.ln() * if i < 40 { -1.0 } else { 1.0 }).collect();
        let outcome: Vec<bool> = (0..80).map(|i| (i % 4 == 0) == (i < 40)).collect();
        let own: Vec<usize> = (0..80).collect();
        let (a, b) = (calibration_intercept(&z, &outcome, &own), calibration_slope(&z, &outcome, &own));
        assert!(a.unwrap().value.abs() < 1e-12 && (b.unwrap().value - 1.0).abs() < 1e-9);
        let shifted: Vec<f64> = z.iter().map(|z| 2.0 * z + 0.7).collect();
        let halved = calibration_slope(&shifted, &outcome, &own).unwrap();
        assert!((halved.value - 0.5).abs() < 1e-9 && (halved.error - b.unwrap().error / 2.0).abs() < 1e-9);
    }

    #[test]
    fn what_has_no_estimate_has_none() {
        let own: Vec<usize> = (0..20).collect();
        let z: Vec<f64> = (0..20).map(f64::from).collect();
        let separated: Vec<bool> = (0..20).map(|i| i >= 10).collect();
        assert_eq!(calibration_slope(&z, &separated, &own), None);
        assert_eq!(calibration_slope(&[1.0; 20], &separated, &own), None, "one value has no slope");
        assert_eq!(calibration_intercept(&z, &[true; 20], &own), None);
        assert_eq!(calibration_intercept(&[f64::NAN; 20], &separated, &own), None);
        assert_eq!(calibration_intercept(&[0.0; 20], &separated, &[0; 20]), None, "one patient has no error");
    }
}
