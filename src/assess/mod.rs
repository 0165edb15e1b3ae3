//! Scores → Assessment: how far a clinical result's error risk depends on race (method.md §1, §2 and §6).
//!
//! A site fits a [`Profile`] once from a labelled [`Cohort`] ([`fit`]); the node then compares every study with it
//! ([`assess`]). The road: `cohort` → `fit` (`estimate`, `gate`, `quality` with `reach`, `bands`) → `profile` → `risk`;
//! `curves` says what the parameters mean, `cells` which counts may be told, `show` prints a profile, `diagnostics` (with
//! `picture`) a fit, `diff` compares two, `stale` holds one against what is deployed, `signature` says who let it in.
//! Pure: no clock, files or sockets; seeds and `now` are arguments. Left out: detectors of unsuitable images and drift, whose reasons arrive from outside.
//!
//! R and D measure calibration by group. They are no gaps of false negative rates, which base rates alone can cause.

mod bands;
mod cells;
mod cohort;
mod curves;
mod diagnostics;
mod diff;
mod ensemble;
mod estimate;
mod fit;
mod gate;
mod judge;
mod picture;
mod profile;
mod quality;
mod reach;
mod refit;
mod reliance;
mod risk;
mod show;
mod signature;
mod stale;
#[cfg(test)]
mod worlds;

use std::time::Duration;

pub use bands::{Critical, GRID};
pub use cohort::{Cohort, CohortError, FindingModel, Labelled, Row, join as join_cohort, read as read_cohort};
pub use curves::ScoreScale;
pub use diagnostics::{Diagnostic, diagnostics};
pub use diff::{ProfileDiff, diff, render_diff};
pub use fit::{FitError, FitOptions, fit};
pub use gate::Gate;
pub use judge::{GroupContrast, contrasts, estimates, pointwise};
pub use profile::{
    CohortDescription, Curves, FindingProfile, GroupEvidence, Profile, ProfileError, Series, StratumEvidence,
};
pub use quality::{Auc, RaceQuality};
pub use reach::Reach;
pub use reliance::{
    CoMovementOptions, Directed, Features, Followed, LeakageOptions, NoLine, Observed, co_movement, directed,
    finding_evidence, heads, leakage, reliance, shared_variation,
};
pub use risk::{Estimates, IndividualEstimates};
pub use show::{ProfileSummary, render, summary};
pub use signature::{ProfileSignature, SignatureError, SigningKey};
pub use stale::{Deployed, Misfit, misfits};

use crate::domain::{
    Assessment, Digest, Direction, Disclosed, Disclosure, Finding, FindingAssessment, Given, Group, GroupEstimate,
    IndReason, Level, ModelIdentity, ModelOutputs, ParseError, Probability, StudyResult, StudyScore, Timestamp,
};
use risk::{Decision, Individual};

/// The scores of one study.
#[derive(Debug, Clone, Copy)]
pub struct AssessInput<'a> {
    /// The race model, named even where it did not run.
    pub audit: &'a ModelIdentity,
    /// Its posteriors for this study, or why there are none.
    pub race: Result<&'a StudyScore, IndReason>,
    pub clinical: &'a [StudyScore],
    /// Of clinical models that run elsewhere.
    pub results: &'a [StudyResult],
    /// Reasons found elsewhere that forbid any statement on this study (drift alarm, unsuitable images).
    pub upstream: &'a [IndReason],
    /// Keys of clinical models for which the study lies outside what they know: nothing is said of their findings.
    pub unknown: &'a [String],
    /// Digest of the site's mix by which the posteriors were reweighed; a profile holds for the one it was fitted with.
    pub prior: Option<&'a Digest>,
}

/// The site's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RiskSettings {
    /// δ of method.md §2, 0..1.
    pub delta: f64,
    /// Whether race posteriors may be used for individual studies.
    pub per_study_inference: bool,
    /// A profile whose last study, or fit, is longer ago is stale; `None`: never by age.
    pub profile_age_max: Option<Duration>,
}

impl From<&crate::config::Risk> for RiskSettings {
    fn from(risk: &crate::config::Risk) -> Self {
        Self { delta: risk.delta, per_study_inference: risk.per_study_inference, profile_age_max: risk.profile_age_max }
    }
}

/// Assesses every finding of the study's clinical scores.
///
/// Reasons that forbid any statement come first, each kind in the order of [`IndReason`]; then those that only
/// withhold the individual part (D, level 2): R uses no patient's race and is valid without a race model, so a race
/// model that failed, is weak, switched off or not the profile's leaves levels 0 and 1 as they are.
///
/// Fails only for a score that is no probability, which the inference room never lets pass.
pub fn assess(
    input: &AssessInput<'_>,
    profile: Option<&Profile>,
    settings: &RiskSettings,
    now: Timestamp,
) -> Result<Assessment, ParseError> {
    let mut findings = Vec::new();
    for study_score in input.clinical {
        let ModelOutputs::Findings(outputs) = &study_score.outputs else { continue };
        for (finding, &value) in outputs.iter().zip(&study_score.values) {
            let result = Scored { finding, model: &study_score.model, score: Probability::new(value)? };
            findings.push(result.assess(input, profile, settings, now));
        }
    }
    for StudyResult { model, findings: given, .. } in input.results {
        findings.extend(given.iter().map(|(finding, given)| match *given {
            Given::Score(score) => Scored { finding, model, score }.assess(input, profile, settings, now),
            // Curves are over scores: for a decision alone there is no calibration.
            Given::Label { positive } => unscored(finding, model, Some(positive), IndReason::NoCal),
            Given::Absent(reason) => unscored(finding, model, None, reason),
        }));
    }
    let profile = profile.map_or_else(|| "none".to_owned(), |p| p.id.clone());
    Ok(Assessment { audit: input.audit.clone(), profile, findings })
}

/// A finding of which there is no score: no other reason matters.
fn unscored(finding: &Finding, model: &ModelIdentity, positive: Option<bool>, reason: IndReason) -> FindingAssessment {
    FindingAssessment {
        finding: finding.clone(),
        clinical: model.clone(),
        score: None,
        positive,
        direction: None,
        level: Level::Indeterminate,
        reasons: vec![reason],
        expected_error: None,
        spread: None,
        disclosed: None,
    }
}

/// A finding as a destination may see it. Level 2 depends on the image's race posterior, so where groups are withheld
/// the level is what the score alone says. No rule on who is flagged could make level 2 safe to tell: whoever is at
/// level 1 at the same score is then known not to be at level 2, and that may be one group (method.md §6 would tell it
/// where the flagged are mixed).
pub fn released(finding: &FindingAssessment, disclosure: Disclosure, delta: f64) -> FindingAssessment {
    let mut released = finding.clone();
    if disclosure == Disclosure::Probabilities {
        return released;
    }
    released.disclosed = None;
    withhold_reasons(&mut released);
    if finding.level != Level::Elevated {
        return released;
    }
    match &finding.spread {
        Some(spread) if spread.lower > delta => released.level = Level::ScoreDependent,
        Some(spread) if spread.upper < delta => released.level = Level::NotElevated,
        spread => {
            // An upper limit of 1 is that of a group without a curve of its own.
            let open = spread.as_ref().is_some_and(|s| s.upper >= 1.0);
            released.level = Level::Indeterminate;
            released.reasons.insert(0, if open { IndReason::Cells } else { IndReason::Wide });
            released.expected_error = None;
            released.spread = None;
        }
    }
    released
}

/// Takes out the reasons that tell of the race posterior: that it lies out of the cohort's reach. A reason that
/// decided the level stays, it forbids the whole statement and comes first.
fn withhold_reasons(released: &mut FindingAssessment) {
    let decided = usize::from(released.level == Level::Indeterminate).min(released.reasons.len());
    let individual = released.reasons.split_off(decided);
    released.reasons.extend(individual.into_iter().filter(|r| *r != IndReason::Ood));
}

/// One finding with the score that a model gave it.
struct Scored<'a> {
    finding: &'a Finding,
    model: &'a ModelIdentity,
    score: Probability,
}

impl Scored<'_> {
    fn assess(
        &self,
        input: &AssessInput<'_>,
        profile: Option<&Profile>,
        settings: &RiskSettings,
        now: Timestamp,
    ) -> FindingAssessment {
        let positive = self.score >= self.finding.threshold;
        let race = race_part(input, profile, settings);
        let individual = match &race {
            Ok(part) => Individual::Posteriors(&part.posteriors),
            Err(reason) => Individual::Withheld(*reason),
        };
        let decision = match profile.ok_or(IndReason::NoCal).and_then(|p| self.find(p)) {
            Ok(reference) => risk::decide(reference, self.score.get(), positive, individual, settings.delta),
            Err(reason) => Decision {
                level: Level::Indeterminate,
                reasons: vec![reason],
                individual_reasons: race.as_ref().err().copied().into_iter().collect(),
                estimates: None,
            },
        };
        let mut outside = input.upstream.to_vec();
        if input.unknown.contains(&self.model.key()) {
            outside.push(IndReason::Ood);
        }
        if profile.is_some_and(|profile| stale::aged(profile, settings, now)) {
            outside.push(IndReason::Stale);
        }
        self.answer(positive, decision, outside, race.map(|part| part.groups).unwrap_or_default())
    }

    /// The profile's entry for this finding, or why there is none that holds for this model.
    fn find<'p>(&self, profile: &'p Profile) -> Result<&'p FindingProfile, IndReason> {
        let entry = profile.findings.iter().find(|f| f.finding == self.finding.key).ok_or(IndReason::NoCal)?;
        if entry.fits(&self.model.key(), self.finding.threshold.get()) { Ok(entry) } else { Err(IndReason::Stale) }
    }

    fn answer(
        &self,
        positive: bool,
        decision: Decision,
        outside: Vec<IndReason>,
        groups: Vec<Group>,
    ) -> FindingAssessment {
        let estimates = decision.estimates.filter(|_| outside.is_empty());
        let level = if estimates.is_some() { decision.level } else { Level::Indeterminate };
        let mut reasons = sorted([outside, decision.reasons].concat());
        for reason in sorted(decision.individual_reasons) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        FindingAssessment {
            finding: self.finding.clone(),
            clinical: self.model.clone(),
            score: Some(self.score),
            positive: Some(positive),
            direction: Some(if positive { Direction::FalseAlarm } else { Direction::Miss }),
            level,
            reasons,
            expected_error: estimates.as_ref().map(|e| e.expected),
            spread: estimates.as_ref().map(|e| e.spread),
            disclosed: estimates.and_then(|e| disclosed(groups, &e)),
        }
    }
}

fn sorted(mut reasons: Vec<IndReason>) -> Vec<IndReason> {
    reasons.sort();
    reasons.dedup();
    reasons
}

/// What the race model said of this study, in the order of the profile's groups.
struct RacePart {
    groups: Vec<Group>,
    posteriors: Vec<f64>,
}

/// The race model's posteriors, or why they may not be used.
fn race_part(
    input: &AssessInput<'_>,
    profile: Option<&Profile>,
    settings: &RiskSettings,
) -> Result<RacePart, IndReason> {
    if !settings.per_study_inference {
        return Err(IndReason::Off);
    }
    let race = input.race?;
    let profile = profile.ok_or(IndReason::NoCal)?;
    let expected = profile.race_model.as_ref().ok_or(IndReason::NoCal)?;
    if *expected != race.model.key() || profile.race_prior.as_ref() != input.prior {
        return Err(IndReason::Stale);
    }
    let ModelOutputs::Groups(groups) = &race.outputs else { return Err(IndReason::Failed) };
    let mut part = RacePart { groups: Vec::new(), posteriors: Vec::new() };
    for key in &profile.groups {
        let found = groups.iter().zip(&race.values).find(|(group, _)| group.key == *key);
        let (group, &value) = found.ok_or(IndReason::Failed)?;
        part.groups.push(group.clone());
        part.posteriors.push(value);
    }
    Ok(part)
}

/// The part for destinations that may see groups; the report room withholds it from the others.
fn disclosed(groups: Vec<Group>, estimates: &risk::Estimates) -> Option<Disclosed> {
    let individual = estimates.individual.as_ref()?;
    let numbers = individual.posterior.iter().zip(&estimates.errors);
    Some(Disclosed {
        groups: groups
            .into_iter()
            .zip(numbers)
            .map(|(group, (&posterior, &error))| GroupEstimate { group, posterior, error })
            .collect(),
        excess: Some(individual.excess),
        ambiguity: individual.ambiguity,
    })
}
