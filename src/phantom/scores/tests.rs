//! The laws of the score worlds: what is called true is what frequent drawing finds.

use super::*;
use crate::stats::{auc, logit};

#[test]
fn the_built_in_file_has_a_world_for_every_row_and_survives_being_written() {
    let worlds = ScoreWorld::all();
    for name in [
        "null",
        "intercept",
        "slope",
        "both",
        "prevalence",
        "shortcut",
        "view",
        "prior-shift",
        "labels-missing",
        "tiny",
        "drift",
    ] {
        assert!(worlds.iter().any(|w| w.name == name), "{name}");
    }
    let text = toml::to_string(&File { world: worlds.clone() }).unwrap();
    assert_eq!(ScoreWorld::parse(&text).unwrap(), worlds);
}

#[test]
fn impossible_worlds_are_refused_with_the_rule() {
    let check = |change: &dyn Fn(&mut ScoreWorld), expected: &str| {
        let mut world = ScoreWorld::named("drift").unwrap();
        change(&mut world);
        let fault = world.fault().unwrap_or_default();
        assert!(fault.contains(expected), "{fault:?} does not say {expected:?}");
    };
    check(&|w| w.groups.truncate(1), "2 to 8 groups");
    check(&|w| w.groups[0].share = 0.0, "shares");
    check(&|w| w.groups[1].label_rate = 1.5, "label_rate");
    check(&|w| w.groups[1].shift = f64::NAN, "logits");
    check(&|w| w.score_sd = 0.0, "score_sd");
    check(&|w| w.race.margin_of = 3, "margin_of");
    check(&|w| w.race.trained_on = Some(vec![0.5, 0.5]), "trained_on");
    check(&|w| w.drift.as_mut().unwrap().shift.clear(), "drift.shift");
    check(&|w| w.patients = 0, "at least 1");
    assert!(ScoreWorld::parse("[[world]]\nname = 1").unwrap_err().contains("name"));
    assert!(ScoreWorld::parse("[[planet]]").unwrap_err().contains("planet"));
}

/// Within narrow ranges of z the drawn shares of outcomes and groups are those called true, in every world.
#[test]
fn outcomes_and_groups_follow_the_stated_truth_at_every_score() {
    for world in ScoreWorld::all() {
        let drawn = world.draw(120_000 / world.studies, 11);
        for z in [-1.6, -0.5, 0.3, 1.2] {
            let near: Vec<&ScoredStudy> = drawn.iter().filter(|s| (s.z - z).abs() < 0.15).collect();
            for group in 0..world.groups.len() {
                let own: Vec<&&ScoredStudy> = near.iter().filter(|s| s.group == group).collect();
                if own.len() < 400 {
                    continue;
                }
                let mean = |of: &dyn Fn(&ScoredStudy) -> f64| own.iter().map(|s| of(s)).sum::<f64>() / own.len() as f64;
                // Repeats of a patient are alike: at worst only every third one counts.
                let error = (0.25 / own.len() as f64 * world.studies as f64).sqrt();
                let (found, truth) = (mean(&|s| f64::from(u8::from(s.outcome))), mean(&|s| world.event(group, s.z)));
                assert!((found - truth).abs() < 4.5 * error, "{} group {group} z {z}: {found} {truth}", world.name);
                let by_latent = mean(&|s| world.event_of(s));
                assert!((found - by_latent).abs() < 4.5 * error, "{}: {found} {by_latent}", world.name);
            }
            let share = |of: &dyn Fn(&ScoredStudy) -> f64| near.iter().map(|s| of(s)).sum::<f64>() / near.len() as f64;
            let error = (0.25 / near.len() as f64 * world.studies as f64).sqrt();
            let found = share(&|s| f64::from(u8::from(s.group == 1)));
            for truth in [share(&|s| world.mix(s.z)[1]), share(&|s| world.posterior(s)[1])] {
                assert!((found - truth).abs() < 4.5 * error, "{} z {z}: {found} {truth}", world.name);
            }
        }
    }
}

#[test]
fn true_posteriors_are_calibrated_and_reported_ones_are_not_where_that_is_planted() {
    let world = ScoreWorld::named("prior-shift").unwrap();
    let drawn = world.draw(30_000, 3);
    let class: Vec<usize> = drawn.iter().map(|s| s.group).collect();
    let error = |p: &[Vec<f64>]| crate::stats::classwise_calibration_error(p, &class, 10).unwrap();
    let truth: Vec<Vec<f64>> = drawn.iter().map(|s| world.posterior(s)).collect();
    let reported: Vec<Vec<f64>> = drawn.iter().map(|s| s.posteriors.clone()).collect();
    assert!(error(&truth) < 0.01 && error(&reported) > 0.1, "{} {}", error(&truth), error(&reported));
}

#[test]
fn the_separation_is_that_of_the_stated_aucs() {
    for (separation, low, high) in [(4.5, 0.998, 1.0), (1.0, 0.72, 0.80)] {
        let mut world = ScoreWorld::named("null").unwrap();
        world.race.separation = separation;
        let drawn = world.draw(8000, 5);
        let scores: Vec<f64> = drawn.iter().map(|s| s.posteriors[1]).collect();
        let own: Vec<bool> = drawn.iter().map(|s| s.group == 1).collect();
        let found = auc(&scores, &own).unwrap();
        assert!((low..=high).contains(&found), "{separation}: {found}");
    }
}

#[test]
fn truth_is_made_of_its_parts_and_a_prefix_of_a_cohort_is_a_smaller_one() {
    let world = ScoreWorld::named("shortcut").unwrap();
    let drawn = world.draw(50, 8);
    assert_eq!(world.draw(20, 8), drawn[..20]);
    assert_ne!(world.draw(20, 9), drawn[..20]);
    for study in &drawn {
        let truth = world.truth(study);
        assert!(
            (study.score - crate::stats::expit(study.z)).abs() < 1e-12 && (logit(study.score) - study.z).abs() < 1e-6
        );
        let expected: f64 = world.mix(study.z).iter().zip(&truth.errors).map(|(w, e)| w * e).sum();
        let individual: f64 = truth.posterior.iter().zip(&truth.errors).map(|(w, e)| w * e).sum();
        assert!((truth.expected - expected).abs() < 1e-12 && (truth.excess - (individual - expected)).abs() < 1e-12);
        assert!(truth.spread >= 0.0 && truth.spread <= 1.0 && truth.excess.abs() <= truth.spread);
    }
}

#[test]
fn a_drift_adds_its_shift_and_nothing_else() {
    let world = ScoreWorld::named("drift").unwrap();
    let after = world.drifted();
    assert_eq!((after.drift.clone(), after.groups[1].shift, after.groups[0].shift), (None, 1.0, 0.0));
    assert_eq!(after.drifted(), after);
    assert!(after.event(1, 0.0) > world.event(1, 0.0) + 0.1 && after.event(0, 0.0) == world.event(0, 0.0));
}
