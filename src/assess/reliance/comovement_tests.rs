//! Tests of `comovement`: worlds in which the truth is planted.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::*;
use crate::domain::{Answers, Change};
use crate::stats::expit;

/// A world of score moves. Each patient has moods that act on all changes, which is what makes changes dependent.
#[derive(Clone, Copy)]
struct World {
    /// How much of the race logit's move is in the clinical one's.
    beta: f64,
    /// Effects of a change's quality on both logits: straight, and squared.
    quality: f64,
    bent: f64,
    /// By how much both logits move more in the view of two patients in five.
    view: f64,
    patients: usize,
}

const WORLD: World = World { beta: 0.0, quality: 1.0, bent: 0.0, view: 0.0, patients: 80 };
const CHANGES: usize = 12;

fn studies(world: World, seed: u64) -> Vec<Responses> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = move || -> f64 { StandardNormal.sample(&mut rng) };
    let study = |patient: usize| {
        let ap = patient % 5 < 2;
        let of_view = if ap { world.view } else { 0.0 };
        let (z_race, z_clinical) = (normal(), normal());
        // A mood of the models in this patient, each its own, and a size of all moves.
        let (mood_race, mood_clinical, size) = (0.6 * normal(), 0.6 * normal(), (0.4 * normal()).exp());
        let grade = normal();
        let answers = |race: f64, clinical: f64| Answers {
            race: vec![expit(race), 1.0 - expit(race)],
            clinical: vec![expit(clinical), expit(0.3 * clinical - 1.0)],
        };
        let changes = (0..CHANGES).map(|k| {
            let quality = 0.05 * (k as f64 + 1.0) * (0.4 * grade + 0.2 * normal()).exp();
            let effect = world.quality * quality + world.bent * (quality * 8.0).powi(2) + of_view;
            let race = size * (mood_race + 0.5 * normal()) + effect - 0.02 * k as f64;
            let clinical = size * (mood_clinical + 0.5 * normal()) + world.beta * race + effect + 0.03 * k as f64;
            let name = format!("change {k}");
            let answers = answers(z_race + race, z_clinical + clinical);
            Change { name, rms: quality, sharpness: 0.1 * normal(), answers }
        });
        Responses {
            race_model: "race".to_owned(),
            groups: vec!["A".to_owned(), "B".to_owned()],
            model: "clinical".to_owned(),
            findings: vec!["effusion".to_owned(), "nodule".to_owned()],
            changes: changes.collect(),
            held: [if ap { "AP" } else { "PA" }, if patient.is_multiple_of(2) { "F" } else { "M" }, "60"]
                .map(String::from)
                .into(),
            original: answers(z_race, z_clinical),
        }
    };
    (0..world.patients).map(study).collect()
}

fn lines(studies: &[Responses], seed: u64) -> Vec<EvidenceLine> {
    let keys: Vec<String> = (0..studies.len()).map(|i| i.to_string()).collect();
    let observed: Vec<Observed> =
        studies.iter().zip(&keys).map(|(responses, patient)| Observed { patient, responses }).collect();
    co_movement(&observed, &CoMovementOptions { permutations: 199, seed, patients_min: 0 }).unwrap()
}

#[test]
fn the_slope_is_monotone_in_what_is_planted_and_its_limits_hold_it() {
    let mut before = f64::NEG_INFINITY;
    for beta in [-0.5, 0.0, 0.25, 0.5, 1.0] {
        let (worlds, mut held, mut sum) = (60, 0, 0.0);
        for seed in 0..worlds {
            let value = lines(&studies(World { beta, ..WORLD }, seed), seed)[0].value;
            held += u32::from(value.lower <= beta && beta <= value.upper);
            sum += value.estimate / worlds as f64;
        }
        assert!((sum - beta).abs() < 0.04 && sum > before, "{beta}: {sum}");
        // 95 % of 60, less three standard errors of .028.
        assert!(held >= 52, "{beta}: limits of {held} of {worlds} worlds hold the truth");
        before = sum;
    }
}

#[test]
fn where_nothing_is_planted_one_in_twenty_worlds_rejects_though_changes_depend_on_one_another() {
    let worlds = 400;
    let (mut rejected, mut naive, mut failed) = (0, 0, 0);
    for seed in 0..worlds {
        let studies = studies(WORLD, 1000 + seed);
        let line = &lines(&studies, seed)[0];
        // Two findings, of which the second is the first on another scale: Holm doubles.
        rejected += u32::from(line.p / 2.0 <= 0.05);
        failed += u32::from(line.control == Control::Failed);
        // What it would be if every change of every patient were news.
        let chosen: Vec<&Responses> = studies.iter().collect();
        let bases: Vec<_> = (0..CHANGES).map(|k| basis(&levels(&chosen), &quality(&chosen), k)).collect();
        let clinical = residual(moves(&chosen, |r| (&r.original.clinical, 0), |c| &c.answers.clinical), &bases);
        let race = residual(moves(&chosen, |r| (&r.original.race, 0), |c| &c.answers.race), &bases);
        let pairs: Vec<f64> = clinical.concat().iter().zip(race.concat()).map(|(c, r)| c * r).collect();
        let t = pairs.iter().sum::<f64>() / pairs.iter().map(|s| s * s).sum::<f64>().sqrt();
        naive += u32::from(t.abs() > Z_95);
    }
    // 20 expected of 400; a standard error is 4.4.
    assert!((7..=34).contains(&rejected), "{rejected} of {worlds}");
    // Of two controls, adjusted together, at most as many.
    assert!(failed <= 34, "controls fail in {failed} of {worlds}");
    assert!(naive > 60, "a test that exchanges single changes would reject in {naive} of {worlds}");
}

#[test]
fn a_view_that_moves_both_scores_is_no_reliance_where_it_is_known() {
    let (worlds, mut rejected, mut unknown) = (60, 0, 0);
    for seed in 0..worlds {
        let mut studies = studies(World { view: 1.5, ..WORLD }, 3000 + seed);
        rejected += u32::from(lines(&studies, seed)[0].p / 2.0 <= 0.05);
        studies.iter_mut().for_each(|study| study.held.clear());
        unknown += u32::from(lines(&studies, seed)[0].p / 2.0 <= 0.05);
    }
    // 3 expected of 60; a standard error is 1.7.
    assert!(rejected <= 8 && unknown >= 40, "{rejected} of {worlds} reject, {unknown} where views are not told");
}

#[test]
fn many_lines_have_enough_permutations_to_reject() {
    let mut studies = studies(World { beta: 1.0, ..WORLD }, 7);
    for study in &mut studies {
        study.findings = (0..18).map(|f| format!("finding {f}")).collect();
        let many = |answers: &mut Answers| answers.clinical = vec![answers.clinical[0]; 18];
        many(&mut study.original);
        study.changes.iter_mut().for_each(|change| many(&mut change.answers));
    }
    let lines = lines(&studies, 1);
    assert!(lines.len() == 18 && lines.iter().all(|line| line.p <= 0.05), "{lines:?}");
}

#[test]
fn a_planted_reliance_is_found_and_its_control_passes() {
    let mut found = 0;
    for seed in 0..20 {
        let line = &lines(&studies(World { beta: 0.5, ..WORLD }, seed), seed)[0];
        found += u32::from(line.p <= 0.05 && line.value.lower > 0.0 && line.control == Control::Passed);
        assert_eq!((line.finding.as_deref(), line.group.as_str()), (Some("effusion"), "A"));
    }
    assert!(found >= 16, "{found} of 20");
}

#[test]
fn quality_that_acts_in_a_bent_way_makes_the_control_fail() {
    let mut failed = 0;
    for seed in 0..20 {
        let line = &lines(&studies(World { bent: 1.0, patients: 200, ..WORLD }, seed), seed)[0];
        assert!(line.p <= 0.05, "the scores do move together");
        failed += u32::from(line.control == Control::Failed);
    }
    assert!(failed >= 17, "{failed} of 20");
}

#[test]
fn a_patient_counts_once_and_another_battery_not_at_all() {
    let mut all = studies(World { patients: 120, ..WORLD }, 3);
    for study in &mut all[..20] {
        study.changes[0].name = "another".to_owned();
    }
    all[21].changes[3].answers.race[0] = f64::NAN;
    all[22].changes[3].answers.clinical.pop();
    let keys: Vec<String> = (0..all.len()).map(|i| (i / 2).to_string()).collect();
    let observed: Vec<Observed> =
        all.iter().zip(&keys).map(|(responses, patient)| Observed { patient, responses }).collect();
    let options = CoMovementOptions::default();
    // 100 studies of 50 patients: two are not whole, each with a second study beside it.
    let lines = co_movement(&observed, &options).unwrap();
    assert_eq!(lines[0].patients, 50);
    assert_eq!(co_movement(&observed[..100], &options).unwrap_err(), NoLine::TooFew(40, 50));
    assert_eq!(co_movement(&[], &options).unwrap_err(), NoLine::TooFew(0, 50));
    let again = co_movement(&observed, &options).unwrap();
    assert_eq!(lines, again, "seeds decide");
}

#[test]
fn three_groups_have_three_lines_for_each_finding() {
    let mut all = studies(WORLD, 4);
    for study in &mut all {
        study.groups.push("C".to_owned());
        let third = |a: &mut Answers| {
            a.race = vec![a.race[0] * 0.7, a.race[1] * 0.7, 0.3];
        };
        third(&mut study.original);
        study.changes.iter_mut().for_each(|c| third(&mut c.answers));
    }
    let lines = lines(&all, 1);
    // The third group's score never moves, and has no slope.
    assert_eq!(lines.iter().map(|l| l.group.as_str()).collect::<Vec<_>>(), ["A", "B", "A", "B"]);
}

#[test]
fn a_study_has_a_figure_between_0_and_1_that_is_1_where_all_moves_are_shared() {
    let mut study = studies(WORLD, 5).remove(0);
    let shared = shared_variation(&study);
    assert!(shared.iter().all(|r| r.is_some_and(|r| (0.0..0.9).contains(&r))), "{shared:?}");
    for change in &mut study.changes {
        let race = logit(change.answers.race[0]);
        change.answers.clinical = vec![expit(0.4 * race + 0.2), 0.5];
    }
    study.original.clinical = vec![0.5, 0.5];
    let shared = shared_variation(&study);
    assert!(shared[0].unwrap() > 0.999 && shared[1].is_none(), "{shared:?}");
    study.changes.truncate(9);
    assert_eq!(shared_variation(&study), [None, None]);
}

/// The random generator is used for worlds only; the estimate is of the data alone.
#[test]
fn the_slope_does_not_depend_on_the_order_of_patients() {
    let mut all = studies(World { beta: 0.3, ..WORLD }, 6);
    let one = lines(&all, 1)[0].value.estimate;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for i in (1..all.len()).rev() {
        all.swap(i, rng.random_range(0..=i));
    }
    assert!((lines(&all, 1)[0].value.estimate - one).abs() < 1e-9);
}
