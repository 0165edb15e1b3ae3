//! `[risk.refit]`: a profile that is fitted again now and then, for a person to approve. Off by default.
//!
//! Neighbours: `serve` fits by it. Left out: what a profile is.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::parse;
use super::raw;
use super::validate::{Check, DAY};

/// Fewest and most bootstrap draws of a profile.
pub const DRAWS: RangeInclusive<i64> = 50..=10_000;

/// Whether and how the node fits its profile again.
#[derive(Debug, Clone, PartialEq)]
pub struct Refit {
    /// From one fit to the next; `None`: never.
    pub every: Option<Duration>,
    /// Bootstrap draws.
    pub bootstrap: usize,
}

impl Check<'_> {
    pub(super) fn refit(&mut self, raw: &raw::Refit) -> Option<Refit> {
        let every = self.get("risk.refit.every", &raw.every, parse::duration_or("off", DAY..=3660 * DAY));
        let bootstrap = self.get("risk.refit.bootstrap", &raw.bootstrap, parse::count(DRAWS));
        Some(Refit { every: every?, bootstrap: bootstrap? })
    }
}
