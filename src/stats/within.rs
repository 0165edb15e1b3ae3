//! The slope of one number on another within strata: what remains of an association once the strata are held fixed.
//!
//! Neighbours: `validate` asks with it whether the clinical logit follows the race margin. Left out: slopes that differ
//! between strata.

/// A slope with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WithinSlope {
    pub slope: f64,
    pub standard_error: f64,
}

/// Least squares of `y` on `x` with an intercept for every stratum; errors may depend on one another within a cluster
/// (Liang & Zeger 1986, with the factor C/(C − 1)). Strata and clusters are numbered from 0. `None` where `x` does not vary
/// within any stratum, lengths differ or a value is not finite.
pub fn within_slope(x: &[f64], y: &[f64], stratum: &[usize], cluster: &[usize]) -> Option<WithinSlope> {
    let n = x.len();
    if [y.len(), stratum.len(), cluster.len()] != [n; 3] || x.iter().chain(y).any(|v| !v.is_finite()) {
        return None;
    }
    let (dx, dy) = (centered(x, stratum)?, centered(y, stratum)?);
    let square: f64 = dx.iter().map(|v| v * v).sum();
    if square <= 1e-12 {
        return None;
    }
    let slope = dx.iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>() / square;
    let mut scores = vec![0.0; cluster.iter().max()? + 1];
    let mut seen = vec![false; scores.len()];
    for ((a, b), &c) in dx.iter().zip(&dy).zip(cluster) {
        scores[c] += a * (b - slope * a);
        seen[c] = true;
    }
    let clusters = seen.iter().filter(|s| **s).count() as f64;
    let variance = clusters / (clusters - 1.0).max(1.0) * scores.iter().map(|s| s * s).sum::<f64>() / (square * square);
    Some(WithinSlope { slope, standard_error: variance.sqrt() })
}

/// Values minus the mean of their stratum.
fn centered(values: &[f64], stratum: &[usize]) -> Option<Vec<f64>> {
    let mut sums = vec![(0.0, 0.0); stratum.iter().max()? + 1];
    for (v, &s) in values.iter().zip(stratum) {
        sums[s].0 += v;
        sums[s].1 += 1.0;
    }
    Some(values.iter().zip(stratum).map(|(v, &s)| v - sums[s].0 / sums[s].1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_least_squares_on_dummies_and_clustered_errors() {
        // numpy.linalg.lstsq on [x, one dummy per stratum], then the sandwich with C / (C − 1).
        let x = [0.5, 1.0, 2.5, 3.0, -1.0, 0.0, 0.7, 2.0, 4.0, -0.5];
        let y = [1.0, 1.4, 3.1, 2.2, 5.0, 5.9, 6.1, 7.5, -2.0, -4.1];
        let stratum = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2];
        let cluster = [0, 0, 1, 1, 2, 3, 3, 4, 5, 5];
        let got = within_slope(&x, &y, &stratum, &cluster).unwrap();
        assert!(
            (got.slope - 0.593313308084).abs() < 1e-9 && (got.standard_error - 0.088159140145).abs() < 1e-9,
            "{got:?}"
        );
    }

    #[test]
    fn what_does_not_vary_within_strata_has_no_slope() {
        assert_eq!(within_slope(&[1.0, 1.0, 2.0], &[1.0, 2.0, 3.0], &[0, 0, 1], &[0, 1, 2]), None);
        assert_eq!(within_slope(&[1.0], &[1.0, 2.0], &[0], &[0]), None);
        assert_eq!(within_slope(&[f64::NAN, 1.0], &[1.0, 2.0], &[0, 0], &[0, 1]), None);
    }
}
