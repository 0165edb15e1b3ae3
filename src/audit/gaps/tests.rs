//! Gaps that are planted, and none.

use super::super::world::World;
use super::*;

const OPTIONS: GapOptions = GapOptions { draws: 199, seed: 1, margin_rate: 0.05, margin_intercept: 0.2 };

fn of(world: &World, seed: u64, options: &GapOptions) -> Vec<FindingGaps> {
    let dataset = world.dataset(seed);
    let one = |finding: usize| {
        let base = dataset.base(finding);
        let part = |g: usize| performance(&base.part(|r| r.group == g), Limits::default());
        let of_group: Vec<Performance> = (0..dataset.groups.len()).map(part).collect();
        gaps(&base, &dataset.groups, &of_group, &GapOptions { seed, ..*options })
    };
    let mut found: Vec<FindingGaps> = (0..dataset.findings.len()).map(one).collect();
    adjust(&mut found);
    found
}

fn count(worlds: u64, world: &World, options: &GapOptions, is: impl Fn(&FindingGaps) -> bool) -> u64 {
    (0..worlds).filter(|seed| of(world, *seed, options).iter().any(&is)).count() as u64
}

#[test]
fn without_a_gap_the_family_errs_in_one_of_twenty_and_a_shifted_group_is_named() {
    // Two findings, patients with up to two studies, self-report of some unknown.
    let null = World { patients: 500, studies_most: 2, findings: 2, labelled: 0.9, ..World::default() };
    let any = |f: &FindingGaps| f.primary.iter().any(|g| matches!(g.verdict, Verdict::Differs));
    // Three standard errors above 5 % of 60.
    let found = count(60, &null, &OPTIONS, any);
    assert!(found <= 8, "{found} of 60");
    let shifted = World { shift: vec![0.0, 0.9, 0.0], ..null };
    let named = |f: &FindingGaps| {
        let intercept = &f.primary[2];
        let of = |group: &str| intercept.against_rest.iter().find(|a| a.group == group).unwrap();
        let (a, b) = (of("A"), of("B"));
        intercept.verdict == Verdict::Differs
            && b.p_adjusted.unwrap() <= 0.05
            && b.difference.told().unwrap().lower.unwrap() > 0.0
            && a.difference.told().unwrap().value < b.difference.told().unwrap().value
    };
    let found = count(10, &shifted, &OPTIONS, named);
    assert_eq!(found, 10, "scores of B are too low");
}

#[test]
fn no_disparity_is_said_only_where_it_is_shown() {
    let at = |seed: u64, patients: usize, mean: [f64; 2], margin: f64| -> Vec<Verdict> {
        let world =
            World { patients, shares: vec![0.5, 0.5], mean: mean.to_vec(), shift: vec![0.0; 2], ..World::default() };
        let options = GapOptions { margin_rate: margin, margin_intercept: 2.0 * margin, ..OPTIONS };
        of(&world, seed, &options)[0].primary.iter().map(|g| g.verdict).collect()
    };
    let verdicts = |patients, mean, margin| at(4, patients, mean, margin);
    let few: Vec<Verdict> = (0..5).flat_map(|seed| at(seed, 300, [-1.0, -1.0], 0.05)).collect();
    assert!(few.iter().filter(|v| **v == Verdict::Undecided).count() >= 13, "few patients show nothing: {few:?}");
    assert!(few.iter().all(|v| matches!(v, Verdict::Undecided | Verdict::Differs)), "{few:?}");
    // By chance one of twenty differs, and that within the margin.
    let shown: Vec<Verdict> = (0..5).flat_map(|seed| at(seed, 6000, [-1.0, -1.0], 0.1)).collect();
    assert!(shown.iter().all(|v| matches!(v, Verdict::Equivalent | Verdict::DiffersWithinMargin)), "{shown:?}");
    assert!(shown.iter().filter(|v| **v == Verdict::Equivalent).count() >= 12, "{shown:?}");
    // Another prevalence alone makes other error rates (Chouldechova 2017), and the same calibration.
    let other = verdicts(6000, [-1.6, -0.4], 0.1);
    assert_eq!(other, [Verdict::Differs, Verdict::Differs, Verdict::Equivalent]);
    assert!(verdicts(12, [-1.0, -1.0], 0.05).iter().all(|v| *v == Verdict::NotComparable));
}

#[test]
fn a_difference_at_the_margin_is_called_equivalent_in_one_of_twenty() {
    // Of normal differences with an error of .02 whose true value is the margin.
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(9);
    let mut called = |truth: f64| {
        let one = |_| truth + 0.02 * rng.sample::<f64, _>(rand_distr::StandardNormal);
        (0..4000).map(one).filter(|d| equivalence(*d, 0.02, 0.05) <= ALPHA).count() as f64 / 4000.0
    };
    // A standard error of .0035.
    assert!((called(0.05) - 0.05).abs() < 0.011 && (called(-0.05) - 0.05).abs() < 0.011);
    assert!(called(0.0) > 0.3);
    // statsmodels' ttost of means comes to the same with many: Φ((|d| − m) / e).
    assert!((equivalence(0.01, 0.02, 0.05) - normal_tail(2.0)).abs() < 1e-15);
    assert_eq!(equivalence(0.01, 0.0, 0.05), 0.0);
}

#[test]
fn limits_of_the_largest_gap_hold_it() {
    let world = World { patients: 600, mean: vec![-1.4, -1.0, -0.6], shift: vec![0.0, 0.4, 0.0], ..World::default() };
    let large = World { patients: 60_000, ..world.clone() }.dataset(1000).base(0);
    let part = |g: usize| performance(&large.part(|r| r.group == g), Limits::default());
    let truth: Vec<Performance> = (0..3).map(part).collect();
    for (place, metric) in PRIMARY.into_iter().enumerate() {
        let values: Vec<f64> = truth.iter().map(|t| t.figures[&metric].told().unwrap().value).collect();
        let gap = values.iter().copied().fold(f64::MIN, f64::max) - values.iter().copied().fold(f64::MAX, f64::min);
        let holds = |f: &FindingGaps| {
            let told = f.primary[place].gap.told().unwrap();
            (told.lower.unwrap()..=told.upper.unwrap()).contains(&gap)
        };
        let covered = count(40, &world, &OPTIONS, holds);
        assert!(covered >= 34, "{metric:?}: {covered} of 40 hold {gap}");
    }
}

#[test]
fn secondary_differences_are_adjusted_over_all_of_them() {
    let found = of(&World { findings: 3, ..World::default() }, 4, &OPTIONS);
    let all: Vec<&AgainstRest> = found.iter().flat_map(|f| &f.secondary).collect();
    assert_eq!(all.len(), 3 * 3 * SECONDARY.len());
    let p: Vec<f64> = all.iter().map(|a| a.p.unwrap()).collect();
    let adjusted: Vec<f64> = all.iter().map(|a| a.p_adjusted.unwrap()).collect();
    assert_eq!(adjusted, benjamini_yekutieli(&p));
}
