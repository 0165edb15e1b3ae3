//! Multinomial logistic regression with weights and a ridge.

use super::NumericsError;
use super::distribution::softmax;
use super::newton::{Derivatives, Design, Fitted, Ridge, maximise};

/// Fits P(class = k | x) ∝ exp(xβ_k), β_0 = 0, to classes `0..classes` with non-negative `weights`.
///
/// Coefficients are class after class: β_1, then β_2, up to β_{classes−1}, each with one value per column.
pub fn multinomial(
    design: &Design,
    class: &[usize],
    classes: usize,
    weights: &[f64],
    ridge: &Ridge,
    start: Option<&[f64]>,
) -> Result<Fitted, NumericsError> {
    if class.len() != design.rows() || weights.len() != design.rows() || classes < 2 {
        return Err(NumericsError::Shape);
    }
    if class.iter().any(|&k| k >= classes) {
        return Err(NumericsError::Shape);
    }
    if !design.is_finite() || weights.iter().any(|v| !v.is_finite()) {
        return Err(NumericsError::NotFinite);
    }
    let columns = design.columns();
    let dimension = (classes - 1) * columns;
    maximise(dimension, ridge, start, |beta, out: &mut Derivatives| {
        let mut value = 0.0;
        let mut p = vec![0.0; classes];
        for (i, (&k, &weight)) in class.iter().zip(weights).enumerate() {
            if weight == 0.0 {
                continue;
            }
            let row = design.row(i);
            p[0] = 0.0;
            for (logit, part) in p[1..].iter_mut().zip(beta.chunks_exact(columns)) {
                *logit = row.iter().zip(part).map(|(x, b)| x * b).sum();
            }
            softmax(&mut p);
            value += weight * p[k].max(f64::MIN_POSITIVE).ln();
            accumulate(row, &p[1..], k.checked_sub(1), weight, out);
        }
        value
    })
}

/// Adds one row: gradient (1_k − p_k)·x, information p_k(δ_kl − p_l)·xx'. `class` counts from the second class.
fn accumulate(row: &[f64], p: &[f64], class: Option<usize>, weight: f64, out: &mut Derivatives) {
    let (columns, dimension) = (row.len(), p.len() * row.len());
    for (k, &pk) in p.iter().enumerate() {
        let residual = weight * (f64::from(u8::from(class == Some(k))) - pk);
        for (cell, &x) in out.gradient[k * columns..(k + 1) * columns].iter_mut().zip(row) {
            *cell += residual * x;
        }
        for (l, &pl) in p.iter().enumerate().skip(k) {
            let variance = weight * pk * (if k == l { 1.0 - pl } else { -pl });
            if variance.abs() < 1e-14 {
                continue;
            }
            for (j, &x) in row.iter().enumerate() {
                let from = if k == l { j } else { 0 };
                let base = (k * columns + j) * dimension + l * columns;
                let scaled = variance * x;
                for (cell, &other) in out.information[base + from..base + columns].iter_mut().zip(&row[from..]) {
                    *cell += scaled * other;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::logistic;

    fn data() -> (Design, Vec<usize>) {
        let mut design = Design::new(2);
        let mut class = Vec::new();
        for i in 0..40usize {
            design.push(&[1.0, i as f64 / 10.0 - 2.0]);
            class.push(((i * 13) % 17 + i / 3) % 3);
        }
        (design, class)
    }

    #[test]
    fn agrees_with_statsmodels() {
        // Reference: statsmodels MNLogit on the same rows; 1e-5 is the accuracy of its optimiser.
        let (design, class) = data();
        let fitted = multinomial(&design, &class, 3, &[1.0; 40], &Ridge::uniform(4, 0.0), None).unwrap();
        for (got, wanted) in fitted.coefficients.iter().zip([-0.318139055, -0.059999562, -0.068977710, 0.140578255]) {
            assert!((got - wanted).abs() < 1e-5, "{:?}", fitted.coefficients);
        }
        assert!((fitted.log_likelihood + 43.430263063).abs() < 1e-6, "{}", fitted.log_likelihood);
    }

    #[test]
    fn two_classes_are_a_binary_regression() {
        let (design, class) = data();
        let class: Vec<usize> = class.into_iter().map(|k| k.min(1)).collect();
        let outcomes: Vec<f64> = class.iter().map(|&k| k as f64).collect();
        let weights: Vec<f64> = (0..40).map(|i| f64::from(i % 3)).collect();
        let ridge = Ridge { precision: vec![0.1, 2.0], center: vec![0.0, 1.0] };
        let many = multinomial(&design, &class, 2, &weights, &ridge, None).unwrap();
        let binary = logistic(&design, &outcomes, &weights, &ridge, Some(&[1.0, -1.0])).unwrap();
        for (a, b) in many.coefficients.iter().zip(&binary.coefficients) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn fitted_probabilities_reproduce_the_class_shares() {
        let (design, class) = data();
        let fitted = multinomial(&design, &class, 3, &[1.0; 40], &Ridge::uniform(4, 0.0), None).unwrap();
        let mut expected = [0.0; 3];
        for i in 0..design.rows() {
            let mut p = [0.0; 3];
            for (k, beta) in fitted.coefficients.chunks_exact(2).enumerate() {
                p[k + 1] = beta[0] + beta[1] * design.row(i)[1];
            }
            softmax(&mut p);
            expected.iter_mut().zip(p).for_each(|(e, p)| *e += p);
        }
        for (k, sum) in expected.into_iter().enumerate() {
            assert!((sum - class.iter().filter(|&&c| c == k).count() as f64).abs() < 1e-3);
        }
        assert_eq!(
            multinomial(&design, &[5; 40], 3, &[1.0; 40], &Ridge::uniform(4, 0.0), None),
            Err(NumericsError::Shape)
        );
    }
}
