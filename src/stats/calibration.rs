//! Calibration errors: how far predicted probabilities are from observed shares.
//!
//! Bins hold equally many rows (Nguyen & O'Connor 2015), which keeps the noise of sparse bins out of posteriors
//! that crowd at 0 and 1. Left out: calibration curves and slopes.

/// Σ over bins of n_b / n · |mean prediction − observed share|; `None` without rows or bins.
pub fn calibration_error(predicted: &[f64], observed: &[bool], bins: usize) -> Option<f64> {
    if predicted.is_empty() || predicted.len() != observed.len() || bins == 0 {
        return None;
    }
    let mut order: Vec<usize> = (0..predicted.len()).collect();
    order.sort_by(|&a, &b| predicted[a].total_cmp(&predicted[b]));
    let n = order.len();
    let mut error = 0.0;
    for bin in 0..bins {
        let rows = &order[bin * n / bins..(bin + 1) * n / bins];
        let gap: f64 = rows.iter().map(|&i| predicted[i] - f64::from(u8::from(observed[i]))).sum();
        error += gap.abs() / n as f64;
    }
    Some(error)
}

/// The mean over classes of the calibration error of each class against the rest (Kull et al. 2019, eq. 3).
pub fn classwise_calibration_error(posteriors: &[Vec<f64>], class: &[usize], bins: usize) -> Option<f64> {
    let classes = posteriors.first()?.len();
    if classes == 0 || posteriors.len() != class.len() || posteriors.iter().any(|p| p.len() != classes) {
        return None;
    }
    let mut sum = 0.0;
    for k in 0..classes {
        let predicted: Vec<f64> = posteriors.iter().map(|p| p[k]).collect();
        let observed: Vec<bool> = class.iter().map(|&c| c == k).collect();
        sum += calibration_error(&predicted, &observed, bins)?;
    }
    Some(sum / classes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_gap_between_prediction_and_share() {
        let check = |predicted: &[f64], observed: &[bool], bins, expected: f64| {
            let got = calibration_error(predicted, observed, bins).unwrap();
            assert!((got - expected).abs() < 1e-12, "{got}");
        };
        let (yes, no) = (true, false);
        check(&[0.0, 0.0, 1.0, 1.0], &[no, no, yes, yes], 2, 0.0);
        check(&[0.5, 0.5, 0.5, 0.5], &[no, no, yes, yes], 1, 0.0);
        // Low bin: .2 predicted, half observed; high bin: .8 predicted, all observed.
        check(&[0.2, 0.8, 0.2, 0.8], &[no, yes, yes, yes], 2, 0.5 * 0.3 + 0.5 * 0.2);
        assert_eq!(calibration_error(&[], &[], 5), None);
    }

    #[test]
    fn classwise_is_the_mean_over_classes() {
        let posteriors = vec![vec![0.7, 0.2, 0.1]; 10];
        let class = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2];
        let got = classwise_calibration_error(&posteriors, &class, 1).unwrap();
        assert!((got - (0.2 + 0.1 + 0.1) / 3.0).abs() < 1e-12);
        assert_eq!(classwise_calibration_error(&posteriors, &class[..9], 1), None);
    }
}
