//! What all bootstrap draws say at one score, at once.
//!
//! The draws' parameter vectors lie parameter after parameter, so that each step of a formula is a loop over a thousand
//! numbers. Neighbours: `curves` has the formulas for one vector, `bands` and `risk` take the spread of what comes out.
//! Left out: the estimate itself.

use super::curves::{Layout, Quantities, ScoreRow};
use crate::stats::loops::{add_scaled, exp, expit};

/// The parameter vectors of all draws.
#[derive(Debug, Clone, Default)]
pub(super) struct Ensemble {
    draws: usize,
    /// Parameter after parameter, each with one value for each draw.
    values: Vec<f64>,
}

/// As [`Quantities`], with one value for each draw.
#[derive(Debug, Clone)]
pub(super) struct Drawn {
    pub(super) event: Vec<Vec<f64>>,
    pub(super) event_logit: Vec<Vec<f64>>,
    pub(super) expected: Vec<f64>,
}

impl Ensemble {
    pub(super) fn new<'a>(draws: impl Iterator<Item = &'a [f64]>, parameters: usize) -> Self {
        let rows: Vec<&[f64]> = draws.collect();
        let values = (0..parameters).flat_map(|j| rows.iter().map(move |row| row[j])).collect();
        Self { draws: rows.len(), values }
    }

    fn parameter(&self, index: usize) -> &[f64] {
        &self.values[index * self.draws..(index + 1) * self.draws]
    }

    pub(super) fn quantities(&self, layout: &Layout, at: &ScoreRow) -> Drawn {
        pulp::Arch::new().dispatch(AtScore { ensemble: self, layout, at })
    }

    /// Σ (π_g − w_g) c_g with the π of each draw and the curves of `point`; `None` without a race part.
    pub(super) fn excess(
        &self,
        layout: &Layout,
        at: &ScoreRow,
        log_ratios: &[f64],
        point: &Quantities,
    ) -> Option<Vec<f64>> {
        let row = layout.race.then(|| layout.race_row(at, log_ratios))?;
        Some(pulp::Arch::new().dispatch(ExcessAt { ensemble: self, layout, row: &row, point }))
    }

    /// Σ row_j β_j, with the parameters that begin at `from`.
    #[inline(always)]
    fn linear(&self, row: &[f64], from: usize) -> Vec<f64> {
        let mut sum = vec![0.0; self.draws];
        row.iter().enumerate().for_each(|(j, x)| add_scaled(&mut sum, *x, self.parameter(from + j)));
        sum
    }

    /// Multinomial probabilities of all classes.
    #[inline(always)]
    fn classes(&self, classes: usize, row: &[f64], from: usize) -> Vec<Vec<f64>> {
        let logits = (0..classes - 1).map(|k| self.linear(row, from + k * row.len()));
        let mut all: Vec<Vec<f64>> = std::iter::once(vec![0.0; self.draws]).chain(logits).collect();
        let mut top = vec![0.0; self.draws];
        for logit in &all[1..] {
            top.iter_mut().zip(logit).for_each(|(top, l)| *top = if *l > *top { *l } else { *top });
        }
        let mut total = vec![0.0; self.draws];
        for logit in &mut all {
            for ((value, top), total) in logit.iter_mut().zip(&top).zip(&mut total) {
                *value = exp(*value - top);
                *total += *value;
            }
        }
        for value in &mut all {
            value.iter_mut().zip(&total).for_each(|(value, total)| *value /= total);
        }
        all
    }
}

/// A type and no closure: what is dispatched has to be inlined into the code that may use AVX2.
struct AtScore<'a> {
    ensemble: &'a Ensemble,
    layout: &'a Layout,
    at: &'a ScoreRow,
}

impl pulp::WithSimd for AtScore<'_> {
    type Output = Drawn;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Drawn {
        let Self { ensemble, layout, at } = self;
        let shifts = layout.terms + layout.admitted.len();
        let common = ensemble.linear(&at.0, 0);
        let mut event_logit = vec![common; layout.admitted.len()];
        for (position, logit) in event_logit.iter_mut().enumerate() {
            add_scaled(logit, 1.0, ensemble.parameter(layout.terms + position));
            add_scaled(logit, at.x(), ensemble.parameter(shifts + position));
        }
        let mut event = event_logit.clone();
        event.iter_mut().for_each(|own| own.iter_mut().for_each(|value| *value = expit(*value)));
        let mix = ensemble.classes(layout.groups, &at.0, layout.curve_len());
        let (mut sum, mut weight) = (vec![0.0; ensemble.draws], vec![0.0; ensemble.draws]);
        for (&g, own) in layout.admitted.iter().zip(&event) {
            add_scaled(&mut weight, 1.0, &mix[g]);
            sum.iter_mut().zip(&mix[g]).zip(own).for_each(|((sum, w), c)| *sum += w * c);
        }
        for ((sum, weight), first) in sum.iter_mut().zip(&weight).zip(&event[0]) {
            *sum = if *weight > 0.0 { *sum / weight } else { *first };
        }
        Drawn { event, event_logit, expected: sum }
    }
}

struct ExcessAt<'a> {
    ensemble: &'a Ensemble,
    layout: &'a Layout,
    row: &'a [f64],
    point: &'a Quantities,
}

impl pulp::WithSimd for ExcessAt<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Vec<f64> {
        let Self { ensemble, layout, row, point } = self;
        let posterior = ensemble.classes(layout.groups, row, layout.curve_len() + layout.mix_len());
        let mut excess = vec![0.0; ensemble.draws];
        for (&g, c) in layout.admitted.iter().zip(&point.event) {
            add_scaled(&mut excess, c - point.expected, &posterior[g]);
        }
        excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::curves::ScoreScale;

    #[test]
    fn every_draw_says_what_its_parameters_say_alone() {
        let scale = ScoreScale { center: 0.2, scale: 1.3, knots: Some([-1.0, -0.3, 0.4, 1.2]) };
        let layout = Layout { groups: 3, admitted: vec![0, 2], terms: scale.terms(), race: true };
        let draw = |d: usize| (0..layout.total()).map(|i| ((i + 7 * d) as f64 * 0.7).sin() * 2.0).collect::<Vec<_>>();
        let draws: Vec<Vec<f64>> = (0..13).map(draw).collect();
        let ensemble = Ensemble::new(draws.iter().map(Vec::as_slice), layout.total());
        let ratios = [0.7, -1.1];
        for z in [-2.0, 0.3, 1.7] {
            let at = scale.row(z);
            let all = ensemble.quantities(&layout, &at);
            let point = layout.quantities(&draws[0], &at);
            let excess = ensemble.excess(&layout, &at, &ratios, &point).unwrap();
            for (d, parameters) in draws.iter().enumerate() {
                let own = layout.quantities(parameters, &at);
                let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
                (0..2).for_each(|p| close(all.event[p][d], own.event[p]));
                (0..2).for_each(|p| close(all.event_logit[p][d], own.event_logit[p]));
                close(all.expected[d], own.expected);
                let posterior = layout.posterior(parameters, &at, &ratios).unwrap();
                close(excess[d], layout.excess(&point, &posterior));
            }
        }
        let none = Layout { race: false, ..layout };
        assert!(
            ensemble.excess(&none, &scale.row(0.0), &ratios, &none.quantities(&draws[0], &scale.row(0.0))).is_none()
        );
    }
}
