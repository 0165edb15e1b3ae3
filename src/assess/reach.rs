//! Which race posteriors the cohort knows. Beyond its 99.5th percentile nothing is said of an individual (method.md
//! §2).
//!
//! The distance of a posterior is that of its log-ratios from the nearest group's mean, by Mahalanobis with the
//! covariance pooled within groups: an image that the race model places where it placed no reference patient, however
//! sure of itself. Neighbours: `quality` measures it, `risk` asks it. Left out: features of the image itself.

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::profile::{Series, significant};
use crate::stats::quantile;

/// The region of race posteriors that the cohort covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// Mean log-ratios of each group that was measured.
    centers: Vec<Series>,
    /// Inverse of the pooled covariance, row by row.
    precision: Series,
    /// 99.5th percentile of the cohort's distances.
    limit: f64,
}

/// Share of the cohort that lies within the limit.
const COVERED: f64 = 0.995;
/// Added to each variance: log-ratios that hardly vary must not make every other value an outlier.
const VARIANCE_MIN: f64 = 1e-3;

impl Reach {
    /// Measures the reach of `rows`: log-ratios and group. Groups with fewer rows than `rows_min` have no centre of
    /// their own. `None` where no group has one.
    pub(super) fn of(rows: &[(&[f64], usize)], groups: usize, rows_min: usize) -> Option<Self> {
        let own = |g: usize| rows.iter().filter(move |(_, group)| *group == g).map(|(ratios, _)| *ratios);
        let measured: Vec<usize> = (0..groups).filter(|&g| own(g).count() >= rows_min.max(2)).collect();
        let size = rows.first()?.0.len();
        let mut centers = Vec::new();
        let mut scatter = DMatrix::<f64>::zeros(size, size);
        let mut freedom = 0.0;
        for &g in &measured {
            let count = own(g).count() as f64;
            let center = own(g).map(DVector::from_column_slice).sum::<DVector<f64>>() / count;
            for ratios in own(g) {
                let off = DVector::from_column_slice(ratios) - &center;
                scatter += &off * off.transpose();
            }
            freedom += count - 1.0;
            centers.push(Series::of(center.as_slice()));
        }
        if centers.is_empty() {
            return None;
        }
        let covariance = scatter / freedom + DMatrix::identity(size, size) * VARIANCE_MIN;
        let precision = Series::of(covariance.cholesky()?.inverse().as_slice());
        let mut reach = Self { centers, precision, limit: 0.0 };
        let mut distances: Vec<f64> = rows.iter().map(|(ratios, _)| reach.distance(ratios)).collect();
        distances.sort_by(f64::total_cmp);
        reach.limit = significant(quantile(&distances, COVERED)?);
        Some(reach)
    }

    /// Whether log-ratios lie beyond what the cohort covers.
    pub(super) fn is_beyond(&self, ratios: &[f64]) -> bool {
        self.distance(ratios) > self.limit
    }

    /// Squared distance from the nearest centre.
    fn distance(&self, ratios: &[f64]) -> f64 {
        let from = |center: &Series| {
            let off: Vec<f64> = ratios.iter().zip(center.values()).map(|(a, b)| a - b).collect();
            let row = |row: &[f64]| row.iter().zip(&off).map(|(p, o)| p * o).sum::<f64>();
            self.precision.values().chunks_exact(off.len()).map(row).zip(&off).map(|(p, o)| p * o).sum::<f64>()
        };
        self.centers.iter().map(from).fold(f64::INFINITY, f64::min)
    }

    /// What is wrong with a region read from a file, for posteriors over `groups` groups.
    pub(super) fn fault(&self, groups: usize) -> Option<&'static str> {
        let size = groups - 1;
        let fits = (1..=groups).contains(&self.centers.len())
            && self.centers.iter().all(|c| c.values().len() == size)
            && self.precision.values().len() == size * size;
        if !fits {
            return Some("race.reach has a wrong size");
        }
        (!(self.limit.is_finite() && self.limit >= 0.0)).then_some("race.reach.limit is negative")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clouds with correlated spread around (0, 0) and (6, 6).
    fn rows() -> Vec<(Vec<f64>, usize)> {
        let angle = |i: usize| i as f64 * 0.618 * std::f64::consts::TAU;
        let point = |i: usize| {
            let radius = (i % 50) as f64 / 25.0;
            let (a, b) = (radius * angle(i).cos(), radius * angle(i).sin());
            (a + b, a + b + 0.2 * (a - b))
        };
        (0..2000)
            .map(|i| (point(i), i % 2))
            .map(|((x, y), g)| (vec![x + 6.0 * g as f64, y + 6.0 * g as f64], g))
            .collect()
    }

    #[test]
    fn the_limit_covers_the_cohort_and_follows_its_shape() {
        let rows = rows();
        let borrowed: Vec<(&[f64], usize)> = rows.iter().map(|(r, g)| (r.as_slice(), *g)).collect();
        let reach = Reach::of(&borrowed, 3, 30).unwrap();
        assert_eq!(reach.centers.len(), 2, "the third group has no rows");
        let beyond = rows.iter().filter(|(r, _)| reach.is_beyond(r)).count();
        assert!((5..=10).contains(&beyond), "{beyond} of 2000");
        // As far away, along the clouds' long axis and across it.
        assert!(!reach.is_beyond(&[2.0, 2.0]) && !reach.is_beyond(&[8.0, 8.0]));
        assert!(reach.is_beyond(&[2.0, -2.0]) && reach.is_beyond(&[30.0, 30.0]));
        assert_eq!(reach.fault(3), None);
        assert!(reach.fault(4).is_some());
    }

    #[test]
    fn a_cohort_without_spread_still_has_a_region() {
        let flat = [0.5_f64];
        let rows: Vec<(&[f64], usize)> = (0..100).map(|i| (&flat[..], i % 2)).collect();
        let reach = Reach::of(&rows, 2, 30).unwrap();
        assert!(!reach.is_beyond(&[0.5]) && reach.is_beyond(&[0.9]));
        assert!(Reach::of(&rows, 2, 1000).is_none() && Reach::of(&[], 2, 0).is_none());
    }
}
