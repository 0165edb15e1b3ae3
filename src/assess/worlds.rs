//! Worlds with a known truth, at the level of scores (method.md §5): each is planted, then must be recovered.
//!
//! z ~ N(mean_g, 1.2), P(y = 1) = expit(−.2 + z + a_g + b_g z); race logits are those of a Gaussian discriminant
//! with separation d between groups, so their posteriors are exactly calibrated where `sharpening` is 1.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::cohort::{Cohort, FindingModel, Row};
use super::curves::log_ratios;
use super::*;
use crate::domain::{Code, Digest, Interval, Purpose, Uid};
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

    fn cohort(&self, seed: u64) -> Cohort {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let normal = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
        let mut rows = Vec::new();
        for patient in 0..self.patients {
            let draw: f64 = rng.random();
            let group = (0..2).find(|&g| draw < self.share[..=g].iter().sum()).unwrap_or(2);
            for study in 0..self.studies {
                let z = self.mean[group] + 1.2 * normal(&mut rng);
                let mut race: Vec<f64> = (0..3)
                    .map(|g| {
                        let seen = normal(&mut rng) + if g == group { self.separation / 2.0_f64.sqrt() } else { 0.0 };
                        self.sharpening * (self.share[g].ln() + self.separation / 2.0_f64.sqrt() * seen)
                    })
                    .collect();
                crate::stats::softmax(&mut race);
                rows.push(Row {
                    patient: format!("p{patient:05}"),
                    study: format!("1.{patient}.{study}"),
                    finding: "pneumothorax".into(),
                    score: expit(z),
                    outcome: rng.random::<f64>() < self.event(group, z),
                    group: GROUPS[group].into(),
                    posteriors: Some(race),
                    view: "PA".into(),
                    date: chrono::NaiveDate::from_ymd_opt(2024, 1 + (patient % 12) as u32, 1),
                });
            }
        }
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
    let input = AssessInput { audit: &audit, race: Ok(&race), clinical: &clinical, upstream: &[] };
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
            rows.iter().filter(|(r, a)| r.outcome != a.positive).count() as f64 / rows.len() as f64
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
    assert_eq!((a.level, a.direction, a.positive), (Level::Elevated, Direction::Miss, false));
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
    let profile = NULL.profile(8, 60);
    let (mut sharp, mut calibrated, mut n) = (0.0, 0.0, 0.0);
    let curves = profile.findings[0].curves.as_ref().unwrap();
    let layout = profile.findings[0].layout(curves);
    for row in (World { patients: 4000, separation: 2.0, ..NULL }).cohort(9).rows {
        let posteriors = row.posteriors.unwrap();
        let at = curves.scale.row(crate::stats::logit(row.score));
        let own = GROUPS.iter().position(|g| *g == row.group).unwrap();
        let fixed = layout.posterior(curves.point.values(), &at, &log_ratios(&posteriors).unwrap()).unwrap();
        sharp -= posteriors[own].max(1e-9).ln();
        calibrated -= fixed[own].max(1e-9).ln();
        n += 1.0;
    }
    // Sharpening by 1.4 is undone for any separation: the log score improves.
    assert!(calibrated / n < sharp / n - 0.005, "{} {}", calibrated / n, sharp / n);
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
    assert!(!profile.findings[0].groups[0].admitted && profile.findings[0].groups[0].reason.is_some());
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

#[test]
fn every_precondition_is_named_when_it_fails() {
    let profile = BIASED.profile(16, 80);
    let settings = |per_study_inference, days: Option<u64>| RiskSettings {
        per_study_inference,
        profile_age_max: days.map(|d| Duration::from_secs(86_400 * d)),
        ..SETTINGS
    };
    let usual = settings(true, None);
    let race_ok = race(&[0.005, 0.99, 0.005]);
    let other_race = StudyScore { model: identity("other", Purpose::Race), ..race_ok.clone() };
    let broken = race(&[0.5, 0.8, 0.1]);
    let mut renamed = clinical(0.42);
    renamed.model.version = "2".into();
    let (mut moved, mut unknown) = (clinical(0.42), clinical(0.42));
    if let (ModelOutputs::Findings(m), ModelOutputs::Findings(u)) = (&mut moved.outputs, &mut unknown.outputs) {
        m[0].threshold = Probability::new(0.6).unwrap();
        u[0].key = "nodule".into();
    }
    let check = |race: Result<&StudyScore, IndReason>,
                 clinical: StudyScore,
                 profile: Option<&Profile>,
                 s,
                 level,
                 reasons: &[IndReason]| {
        let audit = identity("race", Purpose::Race);
        let input = AssessInput { audit: &audit, race, clinical: &[clinical], upstream: &[] };
        let a = assess(&input, profile, &s, day(40)).unwrap().findings.remove(0);
        assert_eq!((a.level, a.reasons.as_slice()), (level, reasons));
        assert_eq!(a.spread.is_some(), level != Level::Indeterminate);
    };
    use IndReason::{Failed, NoCal, Off, Range, Scope, Stale};
    let (some, indeterminate, by_score) = (Some(&profile), Level::Indeterminate, Level::ScoreDependent);
    check(Ok(&race_ok), clinical(0.42), some, usual, Level::Elevated, &[]);
    check(Ok(&race_ok), clinical(0.42), None, usual, indeterminate, &[NoCal]);
    check(Ok(&race_ok), unknown, some, usual, indeterminate, &[NoCal]);
    check(Ok(&race_ok), renamed, some, usual, indeterminate, &[Stale]);
    check(Ok(&race_ok), moved, some, usual, indeterminate, &[Stale]);
    check(Ok(&race_ok), clinical(0.42), some, settings(true, Some(39)), indeterminate, &[Stale]);
    check(Ok(&race_ok), clinical(0.42), some, settings(true, Some(41)), Level::Elevated, &[]);
    check(Err(Failed), clinical(0.42), some, usual, by_score, &[Failed]);
    check(Err(Scope), clinical(0.42), some, usual, by_score, &[Scope]);
    check(Ok(&broken), clinical(0.42), some, usual, by_score, &[Failed]);
    check(Ok(&other_race), clinical(0.42), some, usual, by_score, &[Stale]);
    check(Ok(&race_ok), clinical(0.42), some, settings(false, None), by_score, &[Off]);
    check(Err(Failed), clinical(0.42), None, settings(false, None), indeterminate, &[NoCal, Off]);
    let far = assessed(&profile, 0.9999, &[0.005, 0.99, 0.005]);
    assert!(far.level == indeterminate && far.reasons.contains(&Range), "{:?}", far.reasons);
    let audit = identity("race", Purpose::Race);
    let drifting = AssessInput {
        audit: &audit,
        race: Err(IndReason::Failed),
        clinical: &[clinical(0.42)],
        upstream: &[IndReason::Drift],
    };
    let a = assess(&drifting, some, &usual, day(1)).unwrap().findings.remove(0);
    assert_eq!((a.level, a.reasons), (indeterminate, vec![IndReason::Drift, Failed]));
    assert!(a.expected_error.is_none());
    let impossible = AssessInput { clinical: &[clinical(f64::NAN)], ..drifting };
    assert!(assess(&impossible, some, &usual, day(1)).is_err());
}

#[test]
fn a_posterior_where_the_cohort_has_none_says_nothing_of_the_individual() {
    let profile = BIASED.profile(22, 80);
    // A limit from 2,400 patients has a standard error of .15 points of coverage, a fresh cohort as much again.
    let beyond = |seed: u64| {
        let fresh = assessed_cohort(&BIASED, 100 + seed, &BIASED.profile(seed, 50));
        share(&fresh, |a| a.reasons.contains(&IndReason::Ood))
    };
    let mean = (22..28).map(beyond).sum::<f64>() / 6.0;
    assert!((0.0015..0.0085).contains(&mean), "{mean}, .005 ± 4 standard errors were expected");
    // Torn between two groups without a thought of the third, far between all centres.
    let torn = [0.5, 0.5 - 1e-6, 1e-6];
    let a = assessed(&profile, 0.42, &torn);
    assert_eq!((a.level, a.reasons.as_slice()), (Level::ScoreDependent, [IndReason::Ood].as_slice()));
    assert!(a.spread.is_some() && a.disclosed.is_none());
    // A withheld destination cannot tell it from a study whose posterior the cohort knows.
    let usual = assessed(&profile, 0.42, &[0.005, 0.99, 0.005]);
    assert_eq!(usual.level, Level::Elevated);
    let seen = |a| released(&a, Disclosure::Withheld, false, DELTA);
    assert_eq!(seen(a), seen(usual));
}

#[test]
fn level_two_is_told_only_where_it_gives_no_group_away() {
    let profile = BIASED.profile(17, 80);
    let elevated = profile.findings[0].elevated.iter().find(|e| e.direction == Direction::Miss).unwrap();
    assert!(elevated.patients >= 11 && elevated.largest_share > 0.8, "{elevated:?}");
    assert!(!profile.elevated_releasable("pneumothorax", Direction::Miss, DELTA));
    let mut even = profile;
    even.findings[0].elevated.iter_mut().for_each(|e| e.largest_share = 0.6);
    assert!(even.elevated_releasable("pneumothorax", Direction::Miss, DELTA));
    assert!(!even.elevated_releasable("pneumothorax", Direction::Miss, 0.1));
    // Withheld and not releasable, the level is what R alone says: nothing in it comes from the posterior.
    let mut finding = assessed(&even, 0.3, &[0.2, 0.6, 0.2]);
    finding.level = Level::Elevated;
    finding.expected_error = Some(Interval { estimate: 0.3, lower: 0.2, upper: 0.4 });
    let mut check = |lower: f64, upper: f64, disclosure, releasable, expected: Level, reason: Option<IndReason>| {
        finding.spread = Some(Interval { estimate: (lower + upper) / 2.0, lower, upper });
        finding.reasons.clear();
        let seen = released(&finding, disclosure, releasable, DELTA);
        assert_eq!((seen.level, seen.reasons.first().copied()), (expected, reason), "{lower} {upper}");
        assert_eq!(seen.spread.is_some(), expected != Level::Indeterminate);
        assert_eq!(seen.disclosed.is_some(), disclosure == Disclosure::Probabilities && finding.disclosed.is_some());
    };
    check(0.06, 0.3, Disclosure::Withheld, false, Level::ScoreDependent, None);
    check(0.01, 0.04, Disclosure::Withheld, false, Level::NotElevated, None);
    check(0.01, 0.3, Disclosure::Withheld, false, Level::Indeterminate, Some(IndReason::Wide));
    check(0.01, 1.0, Disclosure::Withheld, false, Level::Indeterminate, Some(IndReason::Cells));
    check(0.01, 0.3, Disclosure::Withheld, true, Level::Elevated, None);
    check(0.01, 0.3, Disclosure::Probabilities, false, Level::Elevated, None);
}

#[test]
fn a_profile_survives_its_file_and_does_not_depend_on_the_order_of_rows() {
    let world = World { patients: 1200, studies: 2, ..BIASED };
    let mut cohort = world.cohort(18);
    let profile = fit(&cohort, &options(18, 60)).unwrap();
    let bytes = profile.to_json();
    assert_eq!(Profile::parse(&bytes).unwrap(), profile);
    assert_eq!(profile.cohort.studies, 2 * profile.cohort.patients);
    cohort.rows.reverse();
    assert_eq!(fit(&cohort, &options(18, 60)).unwrap().id, profile.id);
    assert_ne!(fit(&cohort, &options(19, 60)).unwrap().id, profile.id);

    let text = String::from_utf8(bytes).unwrap();
    let first_draw = text.split("\"draws\": [").nth(1).unwrap().trim_start().split('\n').next().unwrap();
    let check = |from: &str, to: &str, message: &str| {
        assert!(text.contains(from), "{from}");
        let error = Profile::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    check("\"format\": 1", "\"format\": 2", "format 2");
    check("\"site\": \"a world\"", "\"site\": \"another\"", "was edited");
    check("\"threshold\": 0.5", "\"threshold\": 1.5", "threshold");
    check("\"bootstrap\": 60", "\"bootstrap\": 1000000000", "bootstrap");
    check("\"site\"", "\"sight\"", "unknown field");
    check(first_draw, "\"1 2 3\",", "parameter vector");
    check(first_draw, "\"1 inf\",", "finite numbers");
    check("\"admitted\": true", "\"admitted\": false", "inconsistent");
    check("\"scale\": 1.", "\"scale\": 0.00000001", "score scale");
    check("\"z_low\": -", "\"z_low\": ", "score scale");
    assert!(Profile::parse(&vec![b' '; 33 << 20]).unwrap_err().to_string().contains("bytes"));
}

#[test]
fn a_summary_shows_what_the_profile_says() {
    let profile = BIASED.profile(20, 60);
    let text = render(&profile);
    for part in
        ["pneumothorax", "flags enabled", "own slope", "race model here: AUC A 0.9", "RDER-ELEV", "false alarm", "miss"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let json = serde_json::to_value(summary(&profile)).unwrap();
    assert_eq!(json["findings"][0]["table"].as_array().unwrap().len(), 9);
    assert!(json.to_string().len() < 20_000);
}

#[test]
fn cohorts_that_make_no_sense_are_refused() {
    let good = World { patients: 600, ..NULL }.cohort(21);
    let check = |change: &dyn Fn(&mut Cohort), bootstrap, message: &str| {
        let mut cohort = good.clone();
        change(&mut cohort);
        let error = fit(&cohort, &options(1, bootstrap)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    check(&|c| c.rows.clear(), 60, "no rows");
    check(&|c| c.rows[3].score = 1.5, 60, "score");
    check(&|c| c.rows[3].group = "D".into(), 60, "group");
    check(&|c| c.rows[3].posteriors = Some(vec![0.5, 0.5]), 60, "posteriors");
    check(&|c| c.groups.truncate(1), 60, "groups");
    check(&|c| c.findings.push(c.findings[0].clone()), 60, "findings");
    check(&|c| c.findings[0].threshold = f64::NAN, 60, "threshold");
    check(&|_| (), 3, "bootstrap");
}
