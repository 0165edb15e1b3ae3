//! Pure numerics: what the statistics of [`crate::assess`] are made of.
//!
//! Nothing here knows of images, studies or files; seeds are arguments and every result is the same on every
//! run and for every number of threads. Neighbours: `assess` uses it. Left out: what the numbers mean.

mod ascent;
mod auc;
mod bootstrap;
mod calibration;
mod clustered;
mod distribution;
mod isotonic;
mod logistic;
pub mod loops;
mod multinomial;
mod multiple;
mod newton;
mod prior;
mod proportion;
mod proxy;
mod ranking;
mod recalibration;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod reference_tests;
mod sequential;
mod spline;
mod spread;
mod suppression;

pub use ascent::{Ascent, inverse};
pub use auc::{AucEstimate, AucInfluence, auc, delong, delong_clustered};
pub use bootstrap::ClusterBootstrap;
pub use calibration::{calibration_error, classwise_calibration_error};
pub use clustered::{ClusteredMean, cluster_variance, clustered_mean, clustered_rate, wilson_of};
pub use distribution::{
    Z_95, chi_square_tail, expit, logit, normal_tail, quantile, softmax, standard_deviation, student_quantile,
    student_tail, wilson,
};
pub use isotonic::{Isotonic, isotonic};
pub use logistic::logistic;
pub use multinomial::multinomial;
pub use multiple::{benjamini_yekutieli, holm};
pub use newton::{Design, Fitted, Ridge};
pub use prior::{reweighed, saerens};
pub use proportion::{clopper_pearson, upper_limit};
pub use proxy::{RateEstimate, aipw_rate, frechet_bounds, label_contradiction, member_rate, weighted_rate};
pub use ranking::{MatchedLift, average_precision, matched_lift};
pub use recalibration::{Coefficient, calibration_intercept, calibration_slope};
pub use sequential::{Cusum, error_log_ratio};
pub use spline::NaturalSpline;
pub use spread::{Spread, Tally, spread};
pub use suppression::{PATIENTS_MIN, hidden};

/// Why a computation has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumericsError {
    #[error("the information matrix is singular: a column is constant or repeats others")]
    Singular,
    #[error("no convergence within {0} steps: outcomes may be separated by the predictors")]
    NotConverged(usize),
    #[error("a value is not finite")]
    NotFinite,
    #[error("lengths of rows, outcomes, weights or coefficients differ")]
    Shape,
}
