//! What a profile says whatever the evidence, for those who judge it: a_g and b_g, and estimates that a level withholds.
//!
//! Neighbours: `risk` decides what is said of a study; `validate` compares these numbers with the truth. Left out: what
//! reports hold; nothing of this is told of a study.

use super::bands::Critical;
use super::profile::FindingProfile;
use super::risk::{self, Estimates};
use crate::domain::Interval;
use crate::stats::{Z_95, standard_deviation};

/// a_g and b_g of one group, against the mean of all groups that have one, with pointwise 95 % limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupContrast {
    /// Index of the group in the profile's order.
    pub group: usize,
    /// a_g where z is `Curves::scale.center`, logit.
    pub shift: Interval,
    /// b_g, logit per logit.
    pub slope: Interval,
}

/// The contrasts of every admitted group; empty without curves.
pub fn contrasts(finding: &FindingProfile) -> Vec<GroupContrast> {
    let Some(curves) = &finding.curves else { return Vec::new() };
    let layout = finding.layout(curves);
    let len = layout.admitted.len();
    let contrast = |from: usize, position: usize, unit: f64| {
        let value = |parameters: &[f64]| {
            let own = &parameters[from..from + len];
            (own[position] - own.iter().sum::<f64>() / len as f64) / unit
        };
        let drawn: Vec<f64> = curves.draws.iter().map(|draw| value(draw.values())).collect();
        let (estimate, half) = (value(curves.point.values()), Z_95 * standard_deviation(&drawn));
        Interval { estimate, lower: estimate - half, upper: estimate + half }
    };
    let of = |(position, &group): (usize, &usize)| GroupContrast {
        group,
        shift: contrast(layout.terms, position, 1.0),
        slope: contrast(layout.terms + len, position, curves.scale.scale),
    };
    layout.admitted.iter().enumerate().map(of).collect()
}

/// Everything at one score, with D where `posteriors` (the race model's, in the profile's order) are given; none without
/// curves. `positive`: the result is positive, errors are false alarms.
pub fn estimates(
    finding: &FindingProfile,
    score: f64,
    positive: bool,
    posteriors: Option<&[f64]>,
) -> Option<Estimates> {
    risk::estimates_of(finding, score, positive, posteriors)
}

/// The finding with limits that hold for one score at a time.
pub fn pointwise(finding: &FindingProfile) -> FindingProfile {
    let mut finding = finding.clone();
    if let Some(curves) = &mut finding.curves {
        curves.critical = Critical { error: Z_95, spread: Z_95, excess: Z_95, expected: Z_95 };
    }
    finding
}
