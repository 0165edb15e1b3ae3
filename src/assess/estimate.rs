//! Fitting the parameters of one finding: once on the cohort, then on every bootstrap draw.
//!
//! Curves are penalised logistic regression, mix and race multinomial regression; a draw reweights the same rows
//! by how often their patients were drawn and starts from the cohort's solution. Neighbours: `refit` does that fast,
//! Newton's method where it does not get there; `curves` says what the parameters mean, `fit` calls this. Left out:
//! bands, tests, files.

use nalgebra::DMatrix;

use super::curves::{Layout, ScoreRow, ScoreScale, log_ratios};
use super::refit::{Drawn, Row, Rows};
use crate::stats::{Ascent, Design, Fitted, NumericsError, Ridge, inverse, logistic, multinomial};

/// One study of one finding, with names replaced by indices.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observation {
    /// Index among the cohort's patients.
    pub(super) patient: usize,
    pub(super) group: usize,
    pub(super) z: f64,
    pub(super) score: f64,
    pub(super) outcome: bool,
    /// The race model's probabilities.
    pub(super) posteriors: Option<Vec<f64>>,
}

/// Standard deviations of the priors of a_g and b_g, logit per standard deviation of z.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shrinkage {
    pub(super) shift_sd: f64,
    pub(super) slope_sd: f64,
}

/// The cohort's rows, ready for refitting under any patient weights.
pub(super) struct Estimator {
    layout: Layout,
    curve: Part<f64>,
    mix: Part<usize>,
    race: Option<Part<usize>>,
    rows: Rows,
}

/// The cohort's own solution.
pub(super) struct Point {
    pub(super) parameters: Vec<f64>,
    pub(super) shrinkage: Shrinkage,
    /// Inverse informations of curve, mix and race part.
    inverses: Vec<Vec<f64>>,
}

/// What a refit needs and the next one can use again.
#[derive(Default)]
pub(super) struct Memory {
    drawn: Drawn,
    ascent: Ascent,
}

struct Part<T> {
    design: Design,
    response: Vec<T>,
    patient: Vec<usize>,
}

/// Shrinkage that is never stronger than this, so that bootstrap draws keep their spread where the cohort shows no
/// difference between groups: an estimated prior of zero width would claim certainty that nobody has.
const SHIFT_SD_MIN: f64 = 0.5;
const SLOPE_SD_MIN: f64 = 0.5;
const SD_MAX: f64 = 2.0;

/// Penalties of common terms: next to nothing.
const TRACE: f64 = 1e-6;
/// Penalty of the multinomial parts: keeps groups without a single patient finite.
const FAINT: f64 = 1e-2;

impl Estimator {
    pub(super) fn new(layout: Layout, scale: &ScoreScale, observations: &[Observation]) -> Self {
        let race_columns = layout.terms + layout.groups - 1;
        let mut curve = Part::new(layout.curve_len());
        let mut mix = Part::new(layout.terms);
        let mut race = layout.race.then(|| Part::new(race_columns));
        for o in observations {
            let at = scale.row(o.z);
            if let Some(position) = layout.admitted.iter().position(|&g| g == o.group) {
                curve.push(&layout.curve_row(&at, position), f64::from(u8::from(o.outcome)), o.patient);
            }
            mix.push(&at.0, o.group, o.patient);
            if let (Some(part), Some(ratios)) = (&mut race, o.posteriors.as_deref().and_then(log_ratios)) {
                part.push(&layout.race_row(&at, &ratios), o.group, o.patient);
            }
        }
        let prepared: Vec<(ScoreRow, Option<Vec<f64>>)> =
            observations.iter().map(|o| (scale.row(o.z), o.posteriors.as_deref().and_then(log_ratios))).collect();
        let rows = observations.iter().zip(&prepared).map(|(o, (at, ratios))| Row {
            group: o.group,
            terms: &at.0[1..],
            ratios: ratios.as_deref(),
            outcome: f64::from(u8::from(o.outcome)),
            patient: o.patient,
        });
        let rows = Rows::new(&layout, rows);
        Self { layout, curve, mix, race, rows }
    }

    /// The cohort's own parameters and the shrinkage that its groups call for.
    pub(super) fn fit(&self, patients: usize) -> Result<Point, NumericsError> {
        let weights = vec![1.0; patients];
        let wide = self.fit_curve(&weights, Shrinkage { shift_sd: SD_MAX, slope_sd: SD_MAX }, None)?;
        let shrinkage = self.empirical_bayes(&wide)?;
        let mut point = Point { parameters: Vec::new(), shrinkage, inverses: Vec::new() };
        for part in 0..self.parts() {
            let start = (part == 0).then_some(wide.coefficients.as_slice());
            let fitted = self.fit_part(part, &weights, shrinkage, start)?;
            point.inverses.push(inverse(&fitted.information).ok_or(NumericsError::Singular)?);
            point.parameters.extend(fitted.coefficients);
        }
        Ok(point)
    }

    /// The parameters of one draw, by how often it has each patient; `None` where it has no solution. They are the
    /// maximum to a few thousandths of a standard error.
    pub(super) fn refit(&self, point: &Point, patients: &[f64], memory: &mut Memory) -> Option<Vec<f64>> {
        self.rows.draw(patients, &mut memory.drawn);
        let mut parameters = point.parameters.clone();
        let mut rest = parameters.as_mut_slice();
        for part in 0..self.parts() {
            let (beta, others) = std::mem::take(&mut rest).split_at_mut(self.length(part));
            self.climb(part, point, patients, memory, beta).ok()?;
            rest = others;
        }
        Some(parameters)
    }

    /// The race part alone, for these patients.
    pub(super) fn recalibrate(
        &self,
        point: &Point,
        patients: &[f64],
        memory: &mut Memory,
    ) -> Result<Vec<f64>, NumericsError> {
        self.rows.draw(patients, &mut memory.drawn);
        let mut beta = point.parameters[self.length(0) + self.length(1)..].to_vec();
        self.climb(2, point, patients, memory, &mut beta)?;
        Ok(beta)
    }

    /// From the cohort's `beta` to that of the patients that were drawn into the memory.
    fn climb(
        &self,
        part: usize,
        point: &Point,
        patients: &[f64],
        memory: &mut Memory,
        beta: &mut [f64],
    ) -> Result<(), NumericsError> {
        let Memory { drawn, ascent } = memory;
        let ridge = self.ridge(part, point.shrinkage);
        let start = beta.to_vec();
        let reached = ascent.climb(beta, &point.inverses[part], |beta, out| match part {
            0 => self.rows.curve_gradient(drawn, &ridge, beta, out),
            _ => self.rows.class_gradient(drawn, part == 2, &ridge, beta, out),
        });
        if !reached {
            beta.copy_from_slice(&self.fit_part(part, patients, point.shrinkage, Some(&start))?.coefficients);
        }
        Ok(())
    }

    /// As [`Estimator::refit`], by Newton's method alone.
    #[cfg(test)]
    pub(super) fn refit_by_newton(&self, point: &Point, patients: &[f64]) -> Option<Vec<f64>> {
        let mut parameters = Vec::new();
        for part in 0..self.parts() {
            parameters.extend(self.fit_part(part, patients, point.shrinkage, None).ok()?.coefficients);
        }
        Some(parameters)
    }

    /// Curve and mix, and the race part where there is one.
    fn parts(&self) -> usize {
        2 + usize::from(self.race.is_some())
    }

    fn length(&self, part: usize) -> usize {
        [self.layout.curve_len(), self.layout.mix_len(), self.layout.race_len()][part]
    }

    fn ridge(&self, part: usize, shrinkage: Shrinkage) -> Ridge {
        match part {
            0 => curve_ridge(&self.layout, shrinkage),
            1 => Ridge::uniform(self.layout.mix_len(), FAINT),
            _ => race_ridge(&self.layout),
        }
    }

    /// One of the three models by Newton's method.
    fn fit_part(
        &self,
        part: usize,
        weights: &[f64],
        shrinkage: Shrinkage,
        start: Option<&[f64]>,
    ) -> Result<Fitted, NumericsError> {
        let ridge = self.ridge(part, shrinkage);
        match (part, &self.race) {
            (0, _) => self.fit_curve(weights, shrinkage, start),
            (2, Some(race)) => race.fit(self.layout.groups, weights, &ridge, start),
            _ => self.mix.fit(self.layout.groups, weights, &ridge, start),
        }
    }

    fn fit_curve(&self, weights: &[f64], s: Shrinkage, start: Option<&[f64]>) -> Result<Fitted, NumericsError> {
        let part = &self.curve;
        logistic(&part.design, &part.response, &part.row_weights(weights), &curve_ridge(&self.layout, s), start)
    }

    /// Moment estimates of the spread of a_g and of b_g between groups beyond their sampling errors.
    fn empirical_bayes(&self, wide: &Fitted) -> Result<Shrinkage, NumericsError> {
        let covariance = wide.information.clone().try_inverse().ok_or(NumericsError::Singular)?;
        let (terms, groups) = (self.layout.terms, self.layout.admitted.len());
        let sd =
            |from: usize, floor: f64| between_sd(&wide.coefficients, &covariance, from, groups).clamp(floor, SD_MAX);
        Ok(Shrinkage { shift_sd: sd(terms, SHIFT_SD_MIN), slope_sd: sd(terms + groups, SLOPE_SD_MIN) })
    }
}

/// Next to no penalty on what is common, the priors of the groups' terms.
fn curve_ridge(layout: &Layout, s: Shrinkage) -> Ridge {
    let mut ridge = Ridge::uniform(layout.curve_len(), TRACE);
    let (_, group) = ridge.precision.split_at_mut(layout.terms);
    let (shift, slope) = group.split_at_mut(layout.admitted.len());
    shift.fill(s.shift_sd.powi(-2));
    slope.fill(s.slope_sd.powi(-2));
    ridge
}

/// The prior of the race part: trust the race model (log-ratios enter as they are), unit doubt about that.
fn race_ridge(layout: &Layout) -> Ridge {
    let columns = layout.terms + layout.groups - 1;
    let mut ridge = Ridge::uniform(layout.race_len(), FAINT);
    for class in 0..layout.groups - 1 {
        for ratio in 0..layout.groups - 1 {
            let index = class * columns + layout.terms + ratio;
            ridge.precision[index] = 1.0;
            ridge.center[index] = f64::from(u8::from(class == ratio));
        }
    }
    ridge
}

impl<T> Part<T> {
    fn new(columns: usize) -> Self {
        Self { design: Design::new(columns), response: Vec::new(), patient: Vec::new() }
    }

    fn push(&mut self, row: &[f64], response: T, patient: usize) {
        self.design.push(row);
        self.response.push(response);
        self.patient.push(patient);
    }

    fn row_weights(&self, patients: &[f64]) -> Vec<f64> {
        self.patient.iter().map(|&p| patients[p]).collect()
    }
}

impl Part<usize> {
    fn fit(
        &self,
        groups: usize,
        weights: &[f64],
        ridge: &Ridge,
        start: Option<&[f64]>,
    ) -> Result<Fitted, NumericsError> {
        multinomial(&self.design, &self.response, groups, &self.row_weights(weights), ridge, start)
    }
}

/// √ of (Σ (a_g − ā)² − its expectation from sampling errors) / (G − 1), 0 if negative or for fewer than two groups.
fn between_sd(coefficients: &[f64], covariance: &DMatrix<f64>, from: usize, len: usize) -> f64 {
    if len < 2 {
        return 0.0;
    }
    let values = &coefficients[from..from + len];
    let mean = values.iter().sum::<f64>() / len as f64;
    let spread: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let block = covariance.view((from, from), (len, len));
    let noise = block.trace() - block.sum() / len as f64;
    ((spread - noise) / (len as f64 - 1.0)).max(0.0).sqrt()
}

/// Mean and standard deviation of z, and knots where the scores carry a spline.
/// `None` where all scores are the same.
pub(super) fn score_scale(observations: &[Observation]) -> Option<ScoreScale> {
    let z: Vec<f64> = observations.iter().map(|o| o.z).collect();
    let center = z.iter().sum::<f64>() / z.len().max(1) as f64;
    let scale = crate::stats::standard_deviation(&z);
    if scale < 1e-6 {
        return None;
    }
    let (center, scale) = (super::profile::significant(center), super::profile::significant(scale));
    let mut x: Vec<f64> = z.iter().map(|z| (z - center) / scale).collect();
    x.sort_by(f64::total_cmp);
    let round = |knots: [f64; 4]| knots.map(super::profile::significant);
    let knots = crate::stats::NaturalSpline::on_quantiles(&x).map(|s| round(s.knots()));
    Some(ScoreScale { center, scale, knots })
}

/// Rows of the gate's test: studies of admitted groups.
pub(super) fn score_rows(scale: &ScoreScale, observations: &[Observation]) -> Vec<ScoreRow> {
    observations.iter().map(|o| scale.row(o.z)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_agree_are_shrunk_by_the_floor_only_and_groups_that_differ_less() {
        let check = |shift: f64, expected: std::ops::RangeInclusive<f64>| {
            let observations: Vec<Observation> = (0..3000)
                .map(|i| {
                    let (group, z) = (i % 3, f64::from((i as u32 * 37) % 61) / 15.0 - 2.0);
                    let c = crate::stats::expit(z + if group == 1 { shift } else { 0.0 });
                    let outcome = f64::from((i as u32 * 7919) % 1000) / 1000.0 < c;
                    Observation { patient: i, group, z, score: 0.5, outcome, posteriors: None }
                })
                .collect();
            let scale = ScoreScale { knots: None, ..score_scale(&observations).unwrap() };
            let layout = Layout { groups: 3, admitted: vec![0, 1, 2], terms: scale.terms(), race: false };
            let Point { parameters, shrinkage, .. } = Estimator::new(layout, &scale, &observations).fit(3000).unwrap();
            assert!(expected.contains(&shrinkage.shift_sd), "{shrinkage:?}");
            assert!(parameters[2..5].iter().sum::<f64>().abs() < 1e-6, "penalised shifts sum to zero: {parameters:?}");
        };
        check(0.0, SHIFT_SD_MIN..=SHIFT_SD_MIN);
        check(2.0, 0.9..=1.5);
    }

    #[test]
    fn scores_without_spread_have_no_scale() {
        let same = |z| Observation { patient: 0, group: 0, z, score: 0.5, outcome: true, posteriors: None };
        assert_eq!(score_scale(&[same(0.3), same(0.3)]), None);
        let few: Vec<Observation> = (0..40).map(|i| same(f64::from(i % 2))).collect();
        assert_eq!(score_scale(&few).unwrap().knots, None);
    }
}
