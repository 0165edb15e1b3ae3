//! Means and rates of observations that come in clusters (patients with several studies), and what follows from them.
//!
//! Variances are of linearised sums of clusters, times m / (m − 1) of m clusters, as statsmodels has them for
//! `cov_type="cluster"` of a mean. A rate has Wilson's interval where each cluster has one observation, otherwise
//! Wilson's with the effective number of observations (Korn & Graubard 1998 do the same to Clopper and Pearson's), so
//! that rates near 0 have limits too. Neighbours: `calibration` of models is in `recalibration`.

use super::distribution::Z_95;

/// A mean with the variance of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusteredMean {
    pub value: f64,
    /// Not known of fewer than two clusters.
    pub variance: Option<f64>,
    pub clusters: usize,
}

/// `cluster` numbers the clusters from 0. `None` without values, or where lengths differ.
pub fn clustered_mean(values: &[f64], cluster: &[usize]) -> Option<ClusteredMean> {
    if values.is_empty() || values.len() != cluster.len() {
        return None;
    }
    let n = values.len() as f64;
    let value = values.iter().sum::<f64>() / n;
    let influence: Vec<f64> = values.iter().map(|v| (v - value) / n).collect();
    let (variance, clusters) = cluster_variance(&influence, cluster)?;
    Some(ClusteredMean { value, variance, clusters })
}

/// The variance of a sum of `influence`, row by row, whose mean is 0; and how many clusters there are.
pub fn cluster_variance(influence: &[f64], cluster: &[usize]) -> Option<(Option<f64>, usize)> {
    if influence.len() != cluster.len() {
        return None;
    }
    let mut sums: Vec<Option<f64>> = vec![None; cluster.iter().max().map_or(0, |m| m + 1)];
    for (value, &c) in influence.iter().zip(cluster) {
        *sums[c].get_or_insert(0.0) += value;
    }
    let clusters = sums.iter().flatten().count();
    let m = clusters as f64;
    let squares: f64 = sums.iter().flatten().map(|sum| sum * sum).sum();
    Some(((clusters >= 2).then(|| m / (m - 1.0) * squares), clusters))
}

/// A rate with its 95 % limits.
pub fn clustered_rate(hit: &[bool], cluster: &[usize]) -> Option<(f64, (f64, f64))> {
    let values: Vec<f64> = hit.iter().map(|h| f64::from(u8::from(*h))).collect();
    let mean = clustered_mean(&values, cluster)?;
    Some((mean.value, wilson_of(mean.value, effective(&mean, hit.len()))))
}

/// How many independent observations would tell as much, at most as many as there are; as many as there are clusters
/// where all observations agree.
fn effective(mean: &ClusteredMean, observations: usize) -> f64 {
    let n = observations as f64;
    if mean.clusters == observations {
        return n;
    }
    match mean.variance {
        Some(variance) if variance > 0.0 => (mean.value * (1.0 - mean.value) / variance).clamp(1.0, n),
        _ => mean.clusters as f64,
    }
}

/// Wilson's 95 % score interval of a rate that was seen in so many trials, which need not be whole.
pub fn wilson_of(rate: f64, trials: f64) -> (f64, f64) {
    let z2 = Z_95 * Z_95;
    let center = (rate + z2 / (2.0 * trials)) / (1.0 + z2 / trials);
    let half = Z_95 / (1.0 + z2 / trials) * (rate * (1.0 - rate) / trials + z2 / (4.0 * trials * trials)).sqrt();
    ((center - half).max(0.0), (center + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::wilson;

    #[test]
    fn clusters_of_one_have_wilsons_interval_and_copies_tell_nothing_new() {
        let hit: Vec<bool> = (0..60).map(|i| i % 7 == 0).collect();
        let own: Vec<usize> = (0..60).collect();
        let (rate, limits) = clustered_rate(&hit, &own).unwrap();
        let wanted = wilson(9, 60).unwrap();
        assert!(
            (rate - 0.15).abs() < 1e-12 && (limits.0 - wanted.0).abs() < 1e-12 && (limits.1 - wanted.1).abs() < 1e-12
        );
        let twice: Vec<bool> = hit.iter().flat_map(|h| [*h, *h]).collect();
        let pairs: Vec<usize> = (0..120).map(|i| i / 2).collect();
        let (_, doubled) = clustered_rate(&twice, &pairs).unwrap();
        // (m − 1) / m of 60 clusters makes an effective number of 59.
        assert!((doubled.0 - wilson_of(0.15, 59.0).0).abs() < 1e-12, "{doubled:?}");
    }

    #[test]
    fn what_all_agree_on_is_as_sure_as_there_are_clusters() {
        let (rate, limits) = clustered_rate(&[false; 40], &(0..40).map(|i| i / 2).collect::<Vec<_>>()).unwrap();
        assert_eq!(rate, 0.0);
        assert!((limits.1 - wilson(0, 20).unwrap().1).abs() < 1e-12);
        assert_eq!(clustered_mean(&[], &[]), None);
        assert_eq!(clustered_mean(&[1.0], &[0]).unwrap().variance, None);
        assert_eq!(clustered_rate(&[true], &[]), None);
    }
}
