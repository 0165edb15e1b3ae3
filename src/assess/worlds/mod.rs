//! Worlds with a known truth, at the level of scores (method.md §5): each is planted, then must be recovered.
//! `told` tests what is said, and to whom; `numerics` the numbers beside independent fits.
//!
//! `phantom::scores` draws them and says by what law; `validate` judges many of them, these are tests of single ones.

mod numerics;
mod told;

use super::cohort::{Cohort, FindingModel, Row};
use super::curves::log_ratios;
use super::*;
use crate::domain::{Code, Digest, Interval, Purpose, Uid};
use crate::phantom::scores::{ScoreWorld, ScoredStudy};
use crate::stats::expit;

/// What is planted.
#[derive(Clone, Copy)]
struct World {
    share: [f64; 3],
    mean: [f64; 3],
    shift: [f64; 3],
    slope: [f64; 3],
    /// Distance of the groups in the race model's eyes: 4.5 gives AUCs near .999, 1 near .76.
    separation: f64,
    /// Overconfidence of the race model's logits.
    sharpening: f64,
    patients: usize,
    studies: usize,
}

const NULL: World = World {
    share: [0.3, 0.3, 0.4],
    mean: [-0.2, -0.2, -0.2],
    shift: [0.0; 3],
    slope: [0.0; 3],
    separation: 4.5,
    sharpening: 1.4,
    patients: 2400,
    studies: 1,
};
const BIASED: World = World { shift: [0.0, 1.3, 0.0], slope: [0.0, 0.3, 0.0], ..NULL };
const GROUPS: [&str; 3] = ["A", "B", "C"];
const DELTA: f64 = 0.05;

impl World {
    fn event(&self, group: usize, z: f64) -> f64 {
        expit(-0.2 + z + self.shift[group] + self.slope[group] * z)
    }

    /// As `phantom` draws it.
    fn drawn(&self) -> ScoreWorld {
        let mut world = ScoreWorld::named("null").unwrap();
        (world.patients, world.studies) = (self.patients, self.studies);
        (world.race.separation, world.race.sharpening) = (self.separation, self.sharpening);
        for (g, group) in world.groups.iter_mut().enumerate() {
            (group.share, group.mean) = (self.share[g], self.mean[g]);
            (group.shift, group.slope) = (self.shift[g], self.slope[g]);
        }
        world
    }

    fn cohort(&self, seed: u64) -> Cohort {
        let row = |s: ScoredStudy| Row {
            patient: format!("p{:05}", s.patient),
            study: format!("1.{}.{}", s.patient, s.study),
            finding: "pneumothorax".into(),
            score: s.score,
            outcome: s.outcome,
            group: GROUPS[s.group].into(),
            posteriors: Some(s.posteriors),
            view: "PA".into(),
            date: chrono::NaiveDate::from_ymd_opt(2024, 1 + (s.patient % 12) as u32, 1),
        };
        let rows = self.drawn().cohort(seed).into_iter().map(row).collect();
        Cohort {
            race_model: Some(identity("race", Purpose::Race).key()),
            groups: GROUPS.map(String::from).to_vec(),
            findings: vec![FindingModel {
                finding: "pneumothorax".into(),
                model: identity("clinical", Purpose::Clinical).key(),
                threshold: 0.5,
            }],
            rows,
            ..Cohort::default()
        }
    }

    fn profile(&self, seed: u64, bootstrap: usize) -> Profile {
        fit(&self.cohort(seed), &options(seed, bootstrap)).unwrap()
    }
}

fn options(seed: u64, bootstrap: usize) -> FitOptions {
    FitOptions { site: "a world".into(), bootstrap, seed, delta: DELTA, fitted_at: day(0) }
}

fn day(days: i64) -> Timestamp {
    chrono::DateTime::from_timestamp(1_700_000_000 + 86_400 * days, 0).unwrap()
}

fn identity(name: &str, purpose: Purpose) -> ModelIdentity {
    ModelIdentity {
        name: name.into(),
        version: "1".into(),
        manufacturer: "test".into(),
        weights: Digest::of(format!("{purpose:?}").as_bytes()),
        digest_of: crate::domain::DigestOf::Weights,
        contract: "unit".into(),
        device_uid: Uid::parse("2.25.1").unwrap(),
        phantoms_only: true,
    }
}

fn clinical(score: f64) -> StudyScore {
    let finding = Finding {
        key: "pneumothorax".into(),
        code: Code::new("36118008", "SCT", "Pneumothorax"),
        site: None,
        threshold: Probability::new(0.5).unwrap(),
    };
    let model = identity("clinical", Purpose::Clinical);
    StudyScore { model, outputs: ModelOutputs::Findings(vec![finding]), values: vec![score], images: Vec::new() }
}

/// The race model's answer, its groups in another order than the profile's.
fn race(posteriors: &[f64]) -> StudyScore {
    let groups = GROUPS.iter().rev().map(|g| Group { key: (*g).into(), code: Code::new(g, "TEST", g) }).collect();
    let values = posteriors.iter().rev().copied().collect();
    StudyScore {
        model: identity("race", Purpose::Race),
        outputs: ModelOutputs::Groups(groups),
        values,
        images: Vec::new(),
    }
}

const SETTINGS: RiskSettings = RiskSettings { delta: DELTA, per_study_inference: true, profile_age_max: None };

fn assessed(profile: &Profile, score: f64, posteriors: &[f64]) -> FindingAssessment {
    let (audit, race, clinical) = (identity("race", Purpose::Race), race(posteriors), [clinical(score)]);
    let input = AssessInput {
        audit: &audit,
        race: Ok(&race),
        clinical: &clinical,
        results: &[],
        upstream: &[],
        unknown: &[],
        prior: None,
    };
    assess(&input, Some(profile), &SETTINGS, day(1)).unwrap().findings.remove(0)
}

/// Every study of a fresh cohort of the same world, with its assessment.
fn assessed_cohort(world: &World, seed: u64, profile: &Profile) -> Vec<(Row, FindingAssessment)> {
    let rows = world.cohort(seed).rows;
    rows.into_iter()
        .map(|r| (assessed(profile, r.score, r.posteriors.as_ref().unwrap()), r))
        .map(|(a, r)| (r, a))
        .collect()
}

fn share(assessments: &[(Row, FindingAssessment)], wanted: impl Fn(&FindingAssessment) -> bool) -> f64 {
    assessments.iter().filter(|(_, a)| wanted(a)).count() as f64 / assessments.len() as f64
}

fn flagged(a: &FindingAssessment) -> bool {
    matches!(a.level, Level::ScoreDependent | Level::Elevated)
}

/// The profile's error curve of group `g` at a score, for a negative result: P(event).
fn event_at(profile: &Profile, z: f64) -> Vec<crate::domain::Interval> {
    let errors = risk::estimates_at(&profile.findings[0], expit(z), false).unwrap().errors;
    errors.into_iter().map(Option::unwrap).collect()
}

#[test]
fn where_nothing_is_planted_hardly_any_study_is_flagged() {
    let worlds = 12;
    let (mut share_flagged, mut enabled) = (0.0, 0);
    for seed in 0..worlds {
        let profile = World { patients: 1500, ..NULL }.profile(seed, 80);
        enabled += u32::from(profile.findings[0].gate.unwrap().enabled);
        let fresh = assessed_cohort(&World { patients: 300, ..NULL }, 1000 + seed, &profile);
        share_flagged += share(&fresh, flagged) / worlds as f64;
    }
    assert!(share_flagged <= 0.05, "{share_flagged}");
    // Binomial(12, .05) exceeds 3 with probability .002.
    assert!(enabled <= 3, "{enabled}");
}

#[test]
fn a_planted_finding_among_many_is_found_however_few_draws_there_are() {
    // 2 × 50 draws alone give a p of 1/101 at best, and 14 times that after Holm.
    let drawn = |world: World| World { patients: 1500, ..world }.cohort(4);
    let mut cohort = Cohort { race_model: None, findings: Vec::new(), rows: Vec::new(), ..drawn(NULL) };
    for k in 0..14 {
        let name = format!("finding-{k:02}");
        let own = if k == 9 { drawn(BIASED) } else { drawn(NULL) };
        cohort.rows.extend(own.rows.into_iter().map(|row| Row { finding: name.clone(), ..row }));
        cohort.findings.push(FindingModel { finding: name, ..own.findings[0].clone() });
    }
    let profile = fit(&cohort, &options(4, 50)).unwrap();
    let enabled = profile.findings.iter().filter(|f| f.gate.unwrap().enabled).map(|f| f.finding.as_str());
    assert_eq!(enabled.collect::<Vec<_>>(), ["finding-09"]);
}

#[test]
fn differences_of_prevalence_alone_stay_silent() {
    let world = World { mean: [-0.9, 0.4, -0.2], ..NULL };
    let profile = world.profile(3, 150);
    assert!(!profile.findings[0].gate.unwrap().enabled, "{:?}", profile.findings[0].gate);
    let fresh = assessed_cohort(&World { patients: 600, ..world }, 77, &profile);
    assert_eq!(share(&fresh, flagged), 0.0);
    let prevalence = |g: &str| {
        let own: Vec<&Row> = fresh.iter().map(|(r, _)| r).filter(|r| r.group == g).collect();
        own.iter().filter(|r| r.outcome).count() as f64 / own.len() as f64
    };
    assert!(prevalence("B") - prevalence("A") > 0.15, "the worlds differ: {} {}", prevalence("A"), prevalence("B"));
}

#[test]
fn planted_shifts_and_slopes_are_recovered_within_their_bands() {
    let worlds = 40;
    let (mut covered, mut points, mut all_covered) = (0.0, 0.0, 0.0);
    let (mut shift, mut slope) = (0.0, 0.0);
    for seed in 0..worlds {
        let mut cohort = World { patients: 3000, ..BIASED }.cohort(seed);
        cohort.race_model = None;
        let profile = fit(&cohort, &options(seed, 100)).unwrap();
        let curves = profile.findings[0].curves.as_ref().unwrap();
        let mut whole = true;
        for k in 0..=20 {
            let z = curves.z_low + (curves.z_high - curves.z_low) * f64::from(k) / 20.0;
            for (g, band) in event_at(&profile, z).into_iter().enumerate() {
                let inside = (band.lower..=band.upper).contains(&BIASED.event(g, z));
                covered += f64::from(u8::from(inside));
                points += 1.0;
                whole &= inside;
            }
        }
        all_covered += f64::from(u8::from(whole)) / worlds as f64;
        // Contrasts of B against the mean of A and C, brought from standardised to plain logits.
        let p = curves.point.values();
        let (a, b) = (&p[4..7], &p[7..10]);
        let b_contrast = (b[1] - (b[0] + b[2]) / 2.0) / curves.scale.scale;
        slope += b_contrast / worlds as f64;
        shift += (a[1] - (a[0] + a[2]) / 2.0 - b_contrast * curves.scale.center) / worlds as f64;
    }
    // Pointwise coverage of a simultaneous band exceeds 95 %. All 63 points at once: nominally 95 %; with 40 worlds
    // (standard error .035), 100 draws and a little shrinkage .82 is the lowest that is still compatible.
    assert!(covered / points > 0.97, "{}", covered / points);
    assert!(all_covered >= 0.82, "{all_covered}");
    // The mean over 40 cohorts has a standard error near .03; shrinkage takes a few per cent off.
    assert!((shift - 1.3).abs() < 0.15 && (slope - 0.3).abs() < 0.1, "{shift} {slope}");
}

#[test]
fn flagged_studies_are_wrong_more_often_than_unflagged_ones_with_the_same_score() {
    let profile = World { patients: 4000, ..BIASED }.profile(5, 100);
    assert!(profile.findings[0].gate.unwrap().enabled);
    let fresh = assessed_cohort(&World { patients: 4000, ..BIASED }, 99, &profile);
    assert!(share(&fresh, flagged) > 0.3, "{}", share(&fresh, flagged));
    // Match on score in bins of .025: realised error of level 2 minus that of the others, weighted by level 2.
    let (mut excess, mut stated, mut weight) = (0.0, 0.0, 0.0);
    for bin in 0..40 {
        let own = fresh.iter().filter(|(r, _)| (r.score / 0.025) as usize == bin);
        let (high, rest): (Vec<_>, Vec<_>) = own.partition(|(_, a)| a.level == Level::Elevated);
        if high.len() < 5 || rest.len() < 5 {
            continue;
        }
        let wrong = |rows: &[&(Row, FindingAssessment)]| {
            rows.iter().filter(|(r, a)| Some(r.outcome) != a.positive).count() as f64 / rows.len() as f64
        };
        let d = |(_, a): &&(Row, FindingAssessment)| a.disclosed.as_ref().unwrap().excess.unwrap().estimate;
        excess += (wrong(&high) - wrong(&rest)) * high.len() as f64;
        stated += high.iter().map(d).sum::<f64>();
        weight += high.len() as f64;
    }
    assert!(weight > 200.0, "{weight}");
    assert!(excess / weight > 0.1, "{}", excess / weight);
    // D is against the site's average, which holds flagged studies too, so it is smaller than the contrast.
    assert!(stated / weight > DELTA && stated / weight < excess / weight, "{} {}", stated / weight, excess / weight);
}

#[test]
fn group_estimates_and_expected_error_agree_with_the_planted_truth() {
    let profile = World { patients: 3000, ..BIASED }.profile(6, 80);
    let z = -0.4;
    let a = assessed(&profile, expit(z), &[0.01, 0.98, 0.01]);
    let disclosed = a.disclosed.as_ref().unwrap();
    for (g, estimate) in disclosed.groups.iter().enumerate() {
        assert_eq!(estimate.group.key, GROUPS[g]);
        let error = estimate.error.unwrap();
        assert!((error.lower..=error.upper).contains(&BIASED.event(g, z)), "{g} {error:?}");
    }
    assert!(disclosed.groups[1].posterior > 0.9);
    assert_eq!((a.level, a.direction, a.positive), (Level::Elevated, Some(Direction::Miss), Some(false)));
    let expected = a.expected_error.unwrap();
    let truth: f64 = (0..3).map(|g| BIASED.share[g] * BIASED.event(g, z)).sum();
    assert!((expected.lower..=expected.upper).contains(&truth), "{expected:?} {truth}");
    // Another patient with the same score: another D, the same population values.
    let other = assessed(&profile, expit(z), &[0.98, 0.01, 0.01]);
    assert_eq!((other.expected_error, other.spread), (a.expected_error, a.spread));
    assert_eq!(other.level, Level::ScoreDependent);
    let d = |a: &FindingAssessment| a.disclosed.as_ref().unwrap().excess.unwrap().estimate;
    assert!(d(&a) > 0.1 && d(&other) < 0.0);
}

#[test]
fn recalibration_takes_the_race_models_overconfidence_out() {
    // Where the race model is weak its overconfidence shows in many studies; at 4.5 a handful decide the fit.
    let weak = World { separation: 2.0, ..NULL };
    for seed in [8, 18, 28] {
        let profile = weak.profile(seed, 60);
        let (mut sharp, mut calibrated, mut n) = (0.0, 0.0, 0.0);
        let curves = profile.findings[0].curves.as_ref().unwrap();
        let layout = profile.findings[0].layout(curves);
        for row in (World { patients: 4000, ..weak }).cohort(seed + 1).rows {
            let posteriors = row.posteriors.unwrap();
            let at = curves.scale.row(crate::stats::logit(row.score));
            let own = GROUPS.iter().position(|g| *g == row.group).unwrap();
            let fixed = layout.posterior(curves.point.values(), &at, &log_ratios(&posteriors).unwrap()).unwrap();
            sharp -= posteriors[own].max(1e-9).ln();
            calibrated -= fixed[own].max(1e-9).ln();
            n += 1.0;
        }
        assert!(calibrated / n < sharp / n - 0.005, "{seed}: {} {}", calibrated / n, sharp / n);
    }
}

#[test]
fn a_weak_race_model_withholds_the_individual_part_only() {
    let profile = World { separation: 1.0, ..BIASED }.profile(11, 100);
    let a = assessed(&profile, 0.42, &[0.1, 0.8, 0.1]);
    assert_eq!((a.level, a.reasons), (Level::ScoreDependent, vec![IndReason::Weak]));
    assert!(a.spread.unwrap().lower > DELTA && a.disclosed.is_none());
}

#[test]
fn a_group_with_too_few_patients_leads_to_abstention() {
    // About 60 patients of group A: no curve. Nothing else differs, so no flag, but no all-clear either.
    let tiny = World { share: [0.04, 0.46, 0.5], patients: 1500, ..NULL };
    let profile = tiny.profile(12, 80);
    assert!(!profile.findings[0].groups[0].admitted);
    let fresh = assessed_cohort(&World { patients: 200, ..tiny }, 13, &profile);
    assert_eq!(share(&fresh, |a| a.level == Level::Indeterminate), 1.0);
    assert!(fresh.iter().all(|(_, a)| a.expected_error.is_none() && a.disclosed.is_none()));
    assert!(share(&fresh, |a| a.reasons[0] == IndReason::Cells) > 0.5);
    // All groups tiny: no curves at all.
    let profile = World { patients: 150, ..NULL }.profile(14, 60);
    assert_eq!(profile.findings[0].withheld, Some(IndReason::Cells));
    assert_eq!(assessed(&profile, 0.4, &[0.2, 0.3, 0.5]).reasons, [IndReason::Cells]);
}

#[test]
fn a_planted_difference_between_admitted_groups_is_flagged_despite_a_tiny_third_one() {
    let world = World { share: [0.04, 0.46, 0.5], patients: 3000, ..BIASED };
    let profile = world.profile(15, 100);
    let a = assessed(&profile, 0.42, &[0.005, 0.99, 0.005]);
    assert!(flagged(&a), "{a:?}");
    assert_eq!(a.spread.unwrap().upper, 1.0);
    assert_eq!(a.disclosed.map(|d| d.groups[0].error), Some(None));
}
