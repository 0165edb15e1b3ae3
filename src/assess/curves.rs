//! The parameters of one finding, and what they say at one score (method.md §1).
//!
//! A parameter vector holds three models side by side, so that a bootstrap draw refits them together:
//! - curves: logit c_g(z) = α + f(z) + a_g + b_g x, with c_g = P(y = 1 | s, g), z = logit s, x = z standardised,
//!   f a natural spline in x or a straight line;
//! - mix: w_g(s) = P(G = g | S = s), multinomial in the same spline;
//! - race: π_g(x), multinomial in the same spline and the race model's log-ratios. Sharing the spline makes the
//!   means of π and w agree along the score, so that D is centred at every score.
//!
//! Neighbours: `estimate` fits the vectors, `bands` and `risk` evaluate them. Left out: uncertainty.

use serde::{Deserialize, Serialize};

use crate::stats::{NaturalSpline, expit, logit, softmax};

/// How a score enters the models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreScale {
    /// Mean of z in the cohort.
    pub center: f64,
    /// Standard deviation of z in the cohort; x = (z − center) / scale.
    pub scale: f64,
    /// Knots of f on x; a straight line where there are none.
    pub knots: Option<[f64; 4]>,
}

/// Where each parameter lies in the vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// All groups of the race model.
    pub(super) groups: usize,
    /// Indices of the groups that have a curve.
    pub(super) admitted: Vec<usize>,
    /// Intercept and functions of x: 4 with a spline, 2 with a straight line.
    pub(super) terms: usize,
    /// Whether there is a race part.
    pub(super) race: bool,
}

/// A score, prepared: `[1, x, …]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoreRow(pub(super) Vec<f64>);

/// What one parameter vector says at one score.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantities {
    /// c_g, admitted groups only.
    pub(super) event: Vec<f64>,
    /// logit c_g.
    pub(super) event_logit: Vec<f64>,
    /// w_g, all groups.
    pub(super) mix: Vec<f64>,
    /// Σ w_g c_g over the admitted groups, w rescaled to them: the site's event probability at this score.
    pub(super) expected: f64,
}

impl ScoreScale {
    pub(super) fn terms(&self) -> usize {
        1 + if self.knots.is_some() { NaturalSpline::DEGREES } else { 1 }
    }

    pub(super) fn row(&self, z: f64) -> ScoreRow {
        let x = (z - self.center) / self.scale;
        match self.knots.and_then(NaturalSpline::new) {
            Some(spline) => {
                let [a, b, c] = spline.basis(x);
                ScoreRow(vec![1.0, a, b, c])
            }
            None => ScoreRow(vec![1.0, x]),
        }
    }
}

impl ScoreRow {
    pub(super) fn x(&self) -> f64 {
        self.0[1]
    }

    fn dot(&self, coefficients: &[f64]) -> f64 {
        self.0.iter().zip(coefficients).map(|(a, b)| a * b).sum()
    }
}

impl Layout {
    pub(super) fn curve_len(&self) -> usize {
        self.terms + 2 * self.admitted.len()
    }

    pub(super) fn mix_len(&self) -> usize {
        (self.groups - 1) * self.terms
    }

    pub(super) fn race_len(&self) -> usize {
        if self.race { (self.groups - 1) * (self.terms + self.groups - 1) } else { 0 }
    }

    pub(super) fn total(&self) -> usize {
        self.curve_len() + self.mix_len() + self.race_len()
    }

    /// Every group has a curve.
    pub(super) fn is_complete(&self) -> bool {
        self.admitted.len() == self.groups
    }

    /// The row of the curve design for the admitted group at position `position`.
    pub(super) fn curve_row(&self, at: &ScoreRow, position: usize) -> Vec<f64> {
        let mut row = at.0.clone();
        let of = |value: f64| (0..self.admitted.len()).map(move |p| if p == position { value } else { 0.0 });
        row.extend(of(1.0).chain(of(at.x())));
        row
    }

    /// The row of the race design: the score's row, then the race model's log-ratios.
    pub(super) fn race_row(&self, at: &ScoreRow, log_ratios: &[f64]) -> Vec<f64> {
        at.0.iter().chain(log_ratios).copied().collect()
    }

    pub(super) fn quantities(&self, parameters: &[f64], at: &ScoreRow) -> Quantities {
        let (curve, rest) = parameters.split_at(self.curve_len());
        let (spline, group) = curve.split_at(self.terms);
        let (shift, slope) = group.split_at(self.admitted.len());
        let common = at.dot(spline);
        let event_logit: Vec<f64> = shift.iter().zip(slope).map(|(a, b)| common + a + b * at.x()).collect();
        let event: Vec<f64> = event_logit.iter().map(|&l| expit(l)).collect();
        let mut mix = vec![0.0; self.groups];
        for (value, beta) in mix[1..].iter_mut().zip(rest.chunks_exact(self.terms)) {
            *value = at.dot(beta);
        }
        softmax(&mut mix);
        let (mut sum, mut weight) = (0.0, 0.0);
        for (&g, c) in self.admitted.iter().zip(&event) {
            sum += mix[g] * c;
            weight += mix[g];
        }
        // Where no admitted group occurs at all any mean of theirs will do; it has no weight.
        let expected = if weight > 0.0 { sum / weight } else { event[0] };
        Quantities { event, event_logit, mix, expected }
    }

    /// π_g(x), all groups; `None` without a race part.
    pub(super) fn posterior(&self, parameters: &[f64], at: &ScoreRow, log_ratios: &[f64]) -> Option<Vec<f64>> {
        if !self.race {
            return None;
        }
        let row = self.race_row(at, log_ratios);
        let mut posterior = vec![0.0; self.groups];
        let race = &parameters[self.curve_len() + self.mix_len()..];
        for (value, beta) in posterior[1..].iter_mut().zip(race.chunks_exact(row.len())) {
            *value = row.iter().zip(beta).map(|(a, b)| a * b).sum();
        }
        softmax(&mut posterior);
        Some(posterior)
    }

    /// Σ (π_g − w_g) c_g. A group without a curve counts with the site's probability at this score.
    pub(super) fn excess(&self, quantities: &Quantities, posterior: &[f64]) -> f64 {
        let own: f64 = self.admitted.iter().zip(&quantities.event).map(|(&g, c)| posterior[g] * c).sum();
        let covered: f64 = self.admitted.iter().map(|&g| posterior[g]).sum();
        own + (1.0 - covered) * quantities.expected - quantities.expected
    }
}

impl Quantities {
    pub(super) fn expected_logit(&self) -> f64 {
        logit(self.expected)
    }
}

/// log(π_k / π_0) for the groups after the first, with probabilities kept 1e-6 away from 0.
/// `None` unless the posteriors are finite, not negative and sum to 1 within 2 %.
pub(super) fn log_ratios(posteriors: &[f64]) -> Option<Vec<f64>> {
    let sum: f64 = posteriors.iter().sum();
    if posteriors.len() < 2 || posteriors.iter().any(|p| !(0.0..=1.02).contains(p)) || (sum - 1.0).abs() > 0.02 {
        return None;
    }
    let kept: Vec<f64> = posteriors.iter().map(|p| (p / sum).max(1e-6)).collect();
    Some(kept[1..].iter().map(|p| (p / kept[0]).ln()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { groups: 3, admitted: vec![0, 2], terms: 2, race: true }
    }

    #[test]
    fn parameters_mean_what_their_names_say() {
        let at = ScoreScale { center: 1.0, scale: 2.0, knots: None }.row(2.0);
        // α, f | a_0, a_2 | b_0, b_2 | mix of groups 1, 2 | race of groups 1, 2: intercept, x, two log-ratios each
        let parameters = [
            vec![0.1, 1.0, -0.3, 0.3, -0.2, 0.4],
            vec![0.0, 0.0, 2.0_f64.ln(), 0.0],
            vec![0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        ]
        .concat();
        assert_eq!(parameters.len(), layout().total());
        let q = layout().quantities(&parameters, &at);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(q.event_logit[0], 0.1 + 0.5 - 0.3 - 0.2 * 0.5);
        close(q.event_logit[1], 0.1 + 0.5 + 0.3 + 0.4 * 0.5);
        close(q.mix[2], 0.5);
        close(q.expected, (0.25 * q.event[0] + 0.5 * q.event[1]) / 0.75);
        let posterior = layout().posterior(&parameters, &at, &log_ratios(&[0.2, 0.3, 0.5]).unwrap()).unwrap();
        posterior.iter().zip([0.2, 0.3, 0.5]).for_each(|(a, b)| close(*a, b));
        let by_hand = 0.2 * q.event[0] + 0.3 * q.expected + 0.5 * q.event[1] - q.expected;
        close(layout().excess(&q, &posterior), by_hand);
        close(layout().excess(&q, &q.mix), 0.0);
    }

    #[test]
    fn the_design_row_reproduces_the_curve() {
        let scale = ScoreScale { center: 0.0, scale: 1.0, knots: Some([-1.0, -0.3, 0.4, 1.2]) };
        let layout = Layout { terms: scale.terms(), race: false, ..layout() };
        let parameters: Vec<f64> = (0..layout.total()).map(|i| (i as f64 * 0.7).sin()).collect();
        let at = scale.row(0.8);
        let q = layout.quantities(&parameters, &at);
        for position in 0..2 {
            let row = layout.curve_row(&at, position);
            let value: f64 = row.iter().zip(&parameters).map(|(a, b)| a * b).sum();
            assert!((value - q.event_logit[position]).abs() < 1e-12);
        }
    }

    #[test]
    fn posteriors_that_are_no_distribution_are_refused() {
        let check = |p: &[f64], accepted: bool| assert_eq!(log_ratios(p).is_some(), accepted, "{p:?}");
        check(&[0.2, 0.3, 0.5], true);
        check(&[1.0, 0.0, 0.0], true);
        check(&[0.5, 0.6, 0.2], false);
        check(&[f64::NAN, 0.5, 0.5], false);
        check(&[-0.1, 0.6, 0.5], false);
        check(&[1.0], false);
    }
}
