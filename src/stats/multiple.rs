//! Multiplicity: Holm's step-down adjustment of the family-wise error, Benjamini and Yekutieli's of the false discovery
//! rate, which holds however the tests depend on one another.

/// Adjusted p-values in the order of `p` (Holm 1979); reject where the adjusted value is at most α.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut running: f64 = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        running = running.max((p.len() - rank) as f64 * p[i]).min(1.0);
        adjusted[i] = running;
    }
    adjusted
}

/// Adjusted p-values in the order of `p` (Benjamini & Yekutieli 2001, theorem 1.3).
pub fn benjamini_yekutieli(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let harmonic: f64 = (1..=p.len()).map(|i| 1.0 / i as f64).sum();
    let mut adjusted = vec![1.0; p.len()];
    let mut running: f64 = 1.0;
    for (rank, &i) in order.iter().enumerate().rev() {
        running = running.min(p[i] * harmonic * p.len() as f64 / (rank + 1) as f64);
        adjusted[i] = running;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusts_as_the_worked_examples_do() {
        let check = |p: &[f64], expected: &[f64]| {
            let got = holm(p);
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{p:?}: {got:?}");
            assert_eq!(got.len(), expected.len());
        };
        // R: p.adjust(c(.01, .04, .03, .005), "holm")
        check(&[0.01, 0.04, 0.03, 0.005], &[0.03, 0.06, 0.06, 0.02]);
        check(&[0.6, 0.7], &[1.0, 1.0]);
        check(&[0.2], &[0.2]);
        check(&[], &[]);
    }

    #[test]
    fn false_discoveries_are_adjusted_as_r_does() {
        // R: p.adjust(c(.01, .04, .03, .005), "BY")
        let got = benjamini_yekutieli(&[0.01, 0.04, 0.03, 0.005]);
        let wanted = [0.041_666_666_666_7, 0.083_333_333_333_3, 0.083_333_333_333_3, 0.041_666_666_666_7];
        assert!(got.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}");
        assert_eq!(benjamini_yekutieli(&[0.9, 1.0]), [1.0, 1.0]);
        assert!(benjamini_yekutieli(&[]).is_empty());
    }
}
