//! What is true in a world of scores: calibration, mix and posteriors by group, and the R and D that follow.
//!
//! Given group and view, z* and the race margin z_r are independent normal variables, so the clinical logit
//! z = z* + β z_r + Δ is normal too, and z_r given z is normal: c_g(z) is an integral over one normal variable, taken
//! by Gauss–Hermite quadrature, and exact where β = 0. Left out: estimates of any of this.

use statrs::distribution::{ContinuousCDF, Normal};

use super::{ScoreWorld, ScoredStudy};
use crate::stats::softmax;

/// The true quantities of method.md §2 for one study.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// e_g(s), in the order of the groups.
    pub errors: Vec<f64>,
    /// Σ w_g(s) e_g(s).
    pub expected: f64,
    /// R(s).
    pub spread: f64,
    /// D(x) under the true posterior.
    pub excess: f64,
    /// The true posterior, given what the race model sees and the score.
    pub posterior: Vec<f64>,
}

/// Φ(x).
pub(super) fn normal_cdf(x: f64) -> f64 {
    Normal::standard().cdf(x)
}

/// Abscissae and weights for the standard normal law, Abramowitz & Stegun table 25.10 (n = 20), halved by symmetry.
const HERMITE: [(f64, f64); 10] = [
    (0.245_340_708_300_9, 4.622_436_696_006e-1),
    (0.737_473_728_545_4, 2.866_755_053_628e-1),
    (1.234_076_215_395_3, 1.090_172_060_200e-1),
    (1.738_537_712_116_6, 2.481_052_088_746e-2),
    (2.254_974_002_089_3, 3.243_773_342_238e-3),
    (2.788_806_058_428_1, 2.283_386_360_163e-4),
    (3.347_854_567_383_2, 7.802_556_478_532e-6),
    (3.944_764_040_115_6, 1.086_069_370_769e-7),
    (4.603_682_449_550_7, 4.399_340_992_273e-10),
    (5.387_480_890_011_2, 2.229_393_645_534e-13),
];

impl ScoreWorld {
    /// c_g(z) = P(y = 1 | clinical logit z, group).
    pub fn event(&self, group: usize, z: f64) -> f64 {
        let views = self.views(group, z);
        let total: f64 = views.iter().map(|v| v.density).sum();
        let of_view = |v: &View| {
            let latent = |margin: f64| z - self.shortcut * margin - v.score_shift;
            if self.shortcut == 0.0 {
                return self.event_at_latent(group, latent(0.0));
            }
            // z_r given z: the regression of one normal variable on another.
            let ratio = self.shortcut * self.margin_variance() / self.score_variance();
            let mean = v.margin_mean + ratio * (z - v.score_mean);
            let sd = (self.margin_variance() * self.score_sd.powi(2) / self.score_variance()).sqrt();
            expectation(|x| self.event_at_latent(group, latent(mean + sd * x)))
        };
        views.iter().map(|v| v.density / total * of_view(v)).sum()
    }

    /// w_g(z) = P(G = g | clinical logit z).
    pub fn mix(&self, z: f64) -> Vec<f64> {
        let density = |g: usize| self.views(g, z).iter().map(|v| v.density).sum::<f64>();
        normalised(self.shares().iter().enumerate().map(|(g, share)| (share * density(g)).ln()))
    }

    /// π_g(x) = P(G = g | what the race model sees, z).
    pub fn posterior(&self, study: &ScoredStudy) -> Vec<f64> {
        let corner = self.race.separation / 2.0_f64.sqrt();
        let of_view = |g: usize, portable: bool, share: f64| {
            let moved = if portable { self.portable.race_shift } else { 0.0 };
            let seen = study.seen.iter().enumerate().map(|(k, s)| {
                let mean = if k == g { corner } else { 0.0 } + if k == self.race.margin_of { moved } else { 0.0 };
                (s - mean).powi(2)
            });
            let shift = if portable { self.portable.score_shift } else { 0.0 };
            let latent = study.z - self.shortcut * study.margin - shift;
            let off = (latent - self.groups[g].mean) / self.score_sd;
            share * (-0.5 * (seen.sum::<f64>() + off * off)).exp()
        };
        let of_group = |g: usize| {
            let portable = self.groups[g].portable_share;
            of_view(g, false, 1.0 - portable) + of_view(g, true, portable)
        };
        normalised(self.shares().iter().enumerate().map(|(g, share)| (share * of_group(g)).ln()))
    }

    /// Everything that is true of a study.
    pub fn truth(&self, study: &ScoredStudy) -> Truth {
        let positive = study.score >= self.threshold;
        let error = |g: usize| {
            let event = self.event(g, study.z);
            if positive { 1.0 - event } else { event }
        };
        let errors: Vec<f64> = (0..self.groups.len()).map(error).collect();
        let mean = |weights: &[f64]| weights.iter().zip(&errors).map(|(w, e)| w * e).sum::<f64>();
        let (posterior, expected) = (self.posterior(study), mean(&self.mix(study.z)));
        let largest = errors.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let smallest = errors.iter().copied().fold(f64::INFINITY, f64::min);
        let excess = mean(&posterior) - expected;
        Truth { expected, spread: largest - smallest, excess, posterior, errors }
    }

    /// P(y = 1) of a study given all that was drawn, its z* included: the outcome's own probability.
    pub fn event_of(&self, study: &ScoredStudy) -> f64 {
        let shift = if study.portable { self.portable.score_shift } else { 0.0 };
        self.event_at_latent(study.group, study.z - self.shortcut * study.margin - shift)
    }

    /// Both views of a group as far as they occur, at z.
    fn views(&self, group: usize, z: f64) -> Vec<View> {
        let of = &self.groups[group];
        let corner = self.race.separation / 2.0_f64.sqrt();
        let margin_mean =
            if group == self.race.margin_of { corner } else { -corner / (self.groups.len() as f64 - 1.0) };
        let view = |share: f64, score_shift: f64, race_shift: f64| {
            let margin_mean = margin_mean + race_shift;
            let score_mean = of.mean + self.shortcut * margin_mean + score_shift;
            let off = (z - score_mean).powi(2) / self.score_variance();
            View { density: share * (-0.5 * off).exp(), score_shift, score_mean, margin_mean }
        };
        let portable = view(of.portable_share, self.portable.score_shift, self.portable.race_shift);
        [view(1.0 - of.portable_share, 0.0, 0.0), portable].into_iter().filter(|v| v.density > 0.0).collect()
    }

    fn margin_variance(&self) -> f64 {
        1.0 + 1.0 / (self.groups.len() as f64 - 1.0)
    }

    fn score_variance(&self) -> f64 {
        self.score_sd.powi(2) + self.shortcut.powi(2) * self.margin_variance()
    }
}

/// One view of one group.
struct View {
    /// Of the clinical logit, times the view's share, up to a constant that all views of all groups have.
    density: f64,
    score_shift: f64,
    score_mean: f64,
    margin_mean: f64,
}

/// E f(X) for a standard normal X.
fn expectation(f: impl Fn(f64) -> f64) -> f64 {
    let root2 = 2.0_f64.sqrt();
    HERMITE.iter().map(|&(x, w)| w * (f(root2 * x) + f(-root2 * x))).sum::<f64>() / std::f64::consts::PI.sqrt()
}

/// Probabilities from their logarithms up to a constant.
fn normalised(logs: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = logs.collect();
    softmax(&mut values);
    values
}
