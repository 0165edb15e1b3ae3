//! One score against one finding's profile: quantities, bounds and level (method.md §2).
//!
//! Honest where evidence ends:
//! - A group without a curve could have any error from 0 to 1. Lower bounds of R over the other groups still hold
//!   for all groups, so level 1 stays possible; the upper bound becomes 1, so level 0 does not. In D and in the
//!   expected error such a group counts with the site's average, and the limits are widened by what it could do.
//! - Where the gate did not reject, no flag is given. "Not elevated" still may be: it rests on the upper bound of R,
//!   which in a cohort of moderate size often exceeds δ around c = ½, and then the answer is indeterminate.
//! - The evidence rules (30 patients nearby, half width ≤ .10) are pointwise 95 % statements about each e_g; flags
//!   use simultaneous bounds throughout.
//!
//! Neighbours: `mod` (reasons from outside, the domain's types), `curves`, `bands`. Left out: groups' names.

use super::bands::pairs;
use super::curves::{Quantities, log_ratios};
use super::ensemble::Drawn;
use super::profile::{Curves, FindingProfile};
use crate::domain::{IndReason, Interval, Level};
use crate::stats::{Z_95, expit, logit, standard_deviation};

/// What is known of this study's group, beyond its score.
#[derive(Debug, Clone, Copy)]
pub(super) enum Individual<'a> {
    /// The race model's probabilities, in the profile's order.
    Posteriors(&'a [f64]),
    /// None, and why.
    Withheld(IndReason),
}

/// The answer for one score. Estimates are there exactly if the level is not `Indeterminate`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decision {
    pub(super) level: Level,
    /// Why the level is indeterminate.
    pub(super) reasons: Vec<IndReason>,
    /// Why nothing is said of the individual.
    pub(super) individual_reasons: Vec<IndReason>,
    pub(super) estimates: Option<Estimates>,
}

/// The quantities at one score, with simultaneous limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimates {
    /// Σ w_g e_g.
    pub expected: Interval,
    /// R.
    pub spread: Interval,
    /// e_g of all groups; none without a curve.
    pub errors: Vec<Option<Interval>>,
    pub individual: Option<IndividualEstimates>,
}

/// The quantities that rest on a study's race posterior.
#[derive(Debug, Clone, PartialEq)]
pub struct IndividualEstimates {
    /// π_g, recalibrated, all groups.
    pub posterior: Vec<f64>,
    /// D.
    pub excess: Interval,
    /// U; none where more than 5 % of the posterior lies on groups without a curve.
    pub ambiguity: Option<f64>,
}

/// Reference patients of each group that must lie near a score.
pub const NEARBY_MIN: f64 = 30.0;
/// Largest half width of the pointwise 95 % interval of e_g.
pub const HALF_WIDTH_MAX: f64 = 0.10;
const UNCOVERED_MAX: f64 = 0.05;

/// Decides for one score. `positive`: the result is positive, errors are false alarms.
pub(super) fn decide(
    finding: &FindingProfile,
    score: f64,
    positive: bool,
    individual: Individual<'_>,
    delta: f64,
) -> Decision {
    let (race, individual_reasons) = individual_part(finding, individual);
    let indeterminate = |reasons: Vec<IndReason>, individual_reasons: Vec<IndReason>| Decision {
        level: Level::Indeterminate,
        reasons,
        individual_reasons,
        estimates: None,
    };
    let Some(curves) = &finding.curves else {
        return indeterminate(vec![finding.withheld.unwrap_or(IndReason::NoCal)], individual_reasons);
    };
    let sample = Sample::at(finding, curves, logit(score), race.as_deref());
    let lacking = sample.lacking(finding);
    if !lacking.is_empty() {
        return indeterminate(lacking, individual_reasons);
    }
    let estimates = sample.estimates(positive);
    let enabled = finding.gate.is_some_and(|g| g.enabled);
    let excess = estimates.individual.as_ref().map(|i| i.excess);
    match level(enabled, sample.is_complete(), delta, &estimates.spread, excess.as_ref()) {
        Ok(level) => {
            // Where groups were not shown to differ D is noise about a person.
            let individual = estimates.individual.filter(|_| enabled);
            let estimates = Some(Estimates { individual, ..estimates });
            Decision { level, reasons: Vec::new(), individual_reasons, estimates }
        }
        Err(reason) => indeterminate(vec![reason], individual_reasons),
    }
}

/// Whether a study is at level 2: as [`decide`] says, without asking the draws where the estimate alone rules it out.
pub(super) fn is_elevated(
    finding: &FindingProfile,
    score: f64,
    positive: bool,
    posteriors: &[f64],
    delta: f64,
) -> bool {
    let (Some(curves), Some(ratios)) = (&finding.curves, log_ratios(posteriors)) else { return false };
    let (layout, at) = (finding.layout(curves), curves.scale.row(logit(score)));
    let point = layout.quantities(curves.point.values(), &at);
    let Some(posterior) = layout.posterior(curves.point.values(), &at, &ratios) else { return false };
    let excess = layout.excess(&point, &posterior) * if positive { -1.0 } else { 1.0 };
    let possible = finding.gate.is_some_and(|g| g.enabled) && excess > delta;
    possible && decide(finding, score, positive, Individual::Posteriors(posteriors), delta).level == Level::Elevated
}

/// The estimates at a score whatever the evidence, for the people who judge a profile; none without curves.
pub(super) fn estimates_at(finding: &FindingProfile, score: f64, positive: bool) -> Option<Estimates> {
    estimates_of(finding, score, positive, None)
}

/// The same with D where there are posteriors, recalibrated however good the race model is.
pub(super) fn estimates_of(
    finding: &FindingProfile,
    score: f64,
    positive: bool,
    posteriors: Option<&[f64]>,
) -> Option<Estimates> {
    let curves = finding.curves.as_ref()?;
    let race = posteriors.and_then(log_ratios);
    Some(Sample::at(finding, curves, logit(score), race.as_deref()).estimates(positive))
}

/// The levels of method.md §2, or why there is none.
fn level(
    enabled: bool,
    complete: bool,
    delta: f64,
    spread: &Interval,
    excess: Option<&Interval>,
) -> Result<Level, IndReason> {
    if enabled && excess.is_some_and(|d| d.lower > delta) {
        return Ok(Level::Elevated);
    }
    match spread.lower > delta {
        true if enabled => Ok(Level::ScoreDependent),
        // The bands see a difference here that the test over all scores does not.
        true => Err(IndReason::Conflict),
        false if complete && spread.upper < delta => Ok(Level::NotElevated),
        false if complete => Err(IndReason::Wide),
        false => Err(IndReason::Cells),
    }
}

/// The race model's log-ratios where they may be used, else the reasons why not.
fn individual_part(finding: &FindingProfile, individual: Individual<'_>) -> (Option<Vec<f64>>, Vec<IndReason>) {
    let posteriors = match individual {
        Individual::Posteriors(posteriors) => posteriors,
        Individual::Withheld(reason) => return (None, vec![reason]),
    };
    let Some(quality) = &finding.race else {
        // The cohort could not tell how good the race model is; without curves that is not the reason.
        return (None, finding.curves.iter().map(|_| IndReason::Weak).collect());
    };
    let admitted: Vec<usize> = (0..finding.groups.len()).filter(|&g| finding.groups[g].admitted).collect();
    if !quality.is_sufficient(&admitted) {
        return (None, vec![IndReason::Weak]);
    }
    match log_ratios(posteriors) {
        Some(ratios) if quality.reach.is_beyond(&ratios) => (None, vec![IndReason::Ood]),
        Some(ratios) => (Some(ratios), Vec::new()),
        None => (None, vec![IndReason::Failed]),
    }
}

/// Estimate and bootstrap draws of everything at one score, on the scale of c_g.
struct Sample<'a> {
    curves: &'a Curves,
    layout: super::curves::Layout,
    z: f64,
    point: Quantities,
    draws: Drawn,
    /// π and D of the estimate, and D of the estimated curves with the π of each draw.
    individual: Option<(Vec<f64>, f64, Vec<f64>)>,
}

impl<'a> Sample<'a> {
    fn at(finding: &FindingProfile, curves: &'a Curves, z: f64, race: Option<&[f64]>) -> Self {
        let layout = finding.layout(curves);
        let at = curves.scale.row(z);
        let point = layout.quantities(curves.point.values(), &at);
        let ensemble = curves.ensemble(&layout);
        let draws = ensemble.quantities(&layout, &at);
        let individual = race.and_then(|ratios| {
            let posterior = layout.posterior(curves.point.values(), &at, ratios)?;
            let excess = layout.excess(&point, &posterior);
            Some((posterior, excess, ensemble.excess(&layout, &at, ratios, &point)?))
        });
        Self { curves, layout, z, point, draws, individual }
    }

    fn is_complete(&self) -> bool {
        self.layout.is_complete()
    }

    /// The evidence that is missing at this score, in the order of the reasons' priority.
    fn lacking(&self, finding: &FindingProfile) -> Vec<IndReason> {
        let ranges = || self.layout.admitted.iter().filter_map(|&g| finding.groups[g].z_range);
        let mut reasons = Vec::new();
        if self.curves.nearby_at(self.z).any(|count| count < NEARBY_MIN) {
            reasons.push(IndReason::Cells);
        }
        if ranges().any(|[low, high]| self.z < low || self.z > high) {
            reasons.push(IndReason::Range);
        }
        let half_width = |position: usize| {
            let interval = self.event(position, Z_95);
            (interval.upper - interval.lower) / 2.0
        };
        if (0..self.layout.admitted.len()).any(|position| half_width(position) > HALF_WIDTH_MAX) {
            reasons.push(IndReason::Wide);
        }
        reasons
    }

    fn estimates(&self, positive: bool) -> Estimates {
        let turn = |interval: Interval| if positive { complement(interval) } else { interval };
        let mut errors = vec![None; self.layout.groups];
        for (position, &g) in self.layout.admitted.iter().enumerate() {
            errors[g] = Some(turn(self.event(position, self.curves.critical.error)));
        }
        let individual = self.individual.as_ref().map(|(posterior, excess, drawn)| {
            let half = self.excess_half_width(posterior, drawn);
            let (down, up) = self.unknown_share(posterior);
            let excess = Interval { estimate: *excess, lower: excess - half - down, upper: excess + half + up };
            let excess = if positive { negate(excess) } else { excess };
            IndividualEstimates { posterior: posterior.clone(), excess, ambiguity: self.ambiguity(posterior) }
        });
        Estimates { expected: turn(self.expected()), spread: self.spread(), errors, individual }
    }

    /// Half width of D, simultaneous over scores and over π: the mean of the vertices' half widths (see `bands`), and
    /// beside it what the recalibration of π adds.
    fn excess_half_width(&self, posterior: &[f64], drawn: &[f64]) -> f64 {
        let vertex =
            |position: usize| standard_deviation(&differences(&self.draws.event[position], &self.draws.expected));
        let curves: f64 = self.layout.admitted.iter().enumerate().map(|(p, &g)| posterior[g] * vertex(p)).sum();
        self.curves.critical.excess * (curves + standard_deviation(drawn))
    }

    /// c_g with limits, on the logit scale inside.
    fn event(&self, position: usize, critical: f64) -> Interval {
        let drawn = &self.draws.event_logit[position];
        on_logit_scale(self.point.event_logit[position], critical * standard_deviation(drawn))
    }

    /// Σ w_g c_g; what groups without a curve could add lies within the limits.
    fn expected(&self) -> Interval {
        let drawn: Vec<f64> = self.draws.expected.iter().map(|p| logit(*p)).collect();
        let covered =
            on_logit_scale(self.point.expected_logit(), self.curves.critical.expected * standard_deviation(&drawn));
        let missing = self.missing(&self.point.mix);
        Interval {
            estimate: covered.estimate,
            lower: covered.lower * (1.0 - missing),
            upper: covered.upper * (1.0 - missing) + missing,
        }
    }

    /// R: the largest difference of any pair, its bounds over all pairs at once.
    fn spread(&self) -> Interval {
        let mut spread = Interval { estimate: 0.0, lower: 0.0, upper: 0.0 };
        for (i, j) in pairs(self.layout.admitted.len()) {
            let difference = (self.point.event[i] - self.point.event[j]).abs();
            let drawn = differences(&self.draws.event[i], &self.draws.event[j]);
            let half = self.curves.critical.spread * standard_deviation(&drawn);
            spread.estimate = spread.estimate.max(difference);
            spread.lower = spread.lower.max(difference - half);
            spread.upper = spread.upper.max(difference + half).min(1.0);
        }
        if !self.is_complete() {
            spread.upper = 1.0;
        }
        spread
    }

    /// How far groups without a curve could move D down and up from where the site's average puts them.
    fn unknown_share(&self, posterior: &[f64]) -> (f64, f64) {
        let (mut down, mut up) = (0.0, 0.0);
        for g in (0..self.layout.groups).filter(|g| !self.layout.admitted.contains(g)) {
            let weight = posterior[g] - self.point.mix[g];
            let (below, above) = (self.point.expected, 1.0 - self.point.expected);
            down += if weight > 0.0 { weight * below } else { -weight * above };
            up += if weight > 0.0 { weight * above } else { -weight * below };
        }
        (down, up)
    }

    /// U, the standard deviation of e_g under π.
    fn ambiguity(&self, posterior: &[f64]) -> Option<f64> {
        let missing = self.missing(posterior);
        if missing > UNCOVERED_MAX {
            return None;
        }
        let weighted = || self.layout.admitted.iter().map(|&g| posterior[g] / (1.0 - missing)).zip(&self.point.event);
        let mean: f64 = weighted().map(|(p, c)| p * c).sum();
        Some(weighted().map(|(p, c)| p * (c - mean).powi(2)).sum::<f64>().sqrt())
    }

    /// The share of a distribution over groups that lies on groups without a curve.
    fn missing(&self, distribution: &[f64]) -> f64 {
        (1.0 - self.layout.admitted.iter().map(|&g| distribution[g]).sum::<f64>()).clamp(0.0, 1.0)
    }
}

fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn on_logit_scale(center: f64, half: f64) -> Interval {
    Interval { estimate: expit(center), lower: expit(center - half), upper: expit(center + half) }
}

fn complement(i: Interval) -> Interval {
    Interval { estimate: 1.0 - i.estimate, lower: 1.0 - i.upper, upper: 1.0 - i.lower }
}

fn negate(i: Interval) -> Interval {
    Interval { estimate: -i.estimate, lower: (-i.upper).max(-1.0), upper: (-i.lower).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_bounds() {
        let interval = |lower: f64, upper: f64| Interval { estimate: (lower + upper) / 2.0, lower, upper };
        let check = |enabled, complete, spread: (f64, f64), excess: Option<f64>, expected| {
            let excess = excess.map(|lower| interval(lower, lower + 0.1));
            let got = level(enabled, complete, 0.05, &interval(spread.0, spread.1), excess.as_ref());
            assert_eq!(got, expected);
        };
        check(true, true, (0.06, 0.3), Some(0.06), Ok(Level::Elevated));
        check(true, true, (0.00, 0.3), Some(0.06), Ok(Level::Elevated));
        check(true, true, (0.06, 0.3), Some(0.04), Ok(Level::ScoreDependent));
        check(true, true, (0.06, 0.3), None, Ok(Level::ScoreDependent));
        check(true, true, (0.00, 0.04), Some(-0.2), Ok(Level::NotElevated));
        check(true, true, (0.00, 0.05), None, Err(IndReason::Wide));
        check(false, true, (0.00, 0.04), Some(0.2), Ok(Level::NotElevated));
        check(false, true, (0.00, 0.30), Some(0.2), Err(IndReason::Wide));
        check(false, true, (0.06, 0.30), None, Err(IndReason::Conflict));
        check(true, false, (0.06, 1.0), None, Ok(Level::ScoreDependent));
        check(true, false, (0.00, 1.0), None, Err(IndReason::Cells));
    }

    #[test]
    fn a_false_alarm_is_the_complement_of_an_event() {
        let event = Interval { estimate: 0.7, lower: 0.6, upper: 0.9 };
        let error = complement(event);
        assert!((error.lower - 0.1).abs() < 1e-12 && (error.upper - 0.4).abs() < 1e-12);
        assert_eq!(negate(Interval { estimate: 0.1, lower: -0.1, upper: 0.2 }).lower, -0.2);
    }
}
