//! The population audit: error rates of deployed findings by self-reported group, with honest limits.
//!
//! Pure: one [`Dataset`] in. Neighbours: `stats` has the numerics. Left out: files, clocks and the index.

mod dataset;
mod performance;
mod resample;
mod slice;
#[cfg(test)]
mod world;

pub use dataset::{Dataset, DatasetError, Finding, Scored, SelfReport, Study};
pub use performance::{Cell, Confusion, DENOMINATOR_MIN, Estimate, Figure, Metric, Withheld};
pub use resample::BINS;
pub use slice::{Dimension, Slice, UNKNOWN};
