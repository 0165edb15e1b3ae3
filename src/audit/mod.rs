//! The population audit: error rates of deployed findings by self-reported group, with honest limits.
//!
//! Pure: one [`Dataset`] in. Neighbours: `stats` has the numerics. Left out: files, clocks and the index.

mod cycles;
mod dataset;
mod gaps;
mod matched;
mod normal;
mod partial;
mod performance;
mod permute;
mod propensity;
mod resample;
mod slice;
mod suppress;
#[cfg(test)]
mod world;

pub use dataset::{Dataset, DatasetError, Finding, Scored, SelfReport, Study};
pub use gaps::{AgainstRest, FindingGaps, Gap, GapOptions, PRIMARY, Verdict};
pub use matched::{Matched, MatchedMetric};
pub use partial::{Partial, PartialGroup, PartialWarning, RateAndGap};
pub use performance::{Cell, Confusion, DENOMINATOR_MIN, Estimate, Figure, Metric, Withheld};
pub use resample::BINS;
pub use slice::{Dimension, Slice, UNKNOWN};
pub use suppress::Told;
