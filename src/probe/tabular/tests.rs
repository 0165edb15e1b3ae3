//! Models on tables where the truth is known: what tells the group is found, what does not tell it is not.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::stats::{delong, expit};

struct Drawn {
    design: Design,
    class: Vec<usize>,
    cluster: Vec<usize>,
    train: Vec<usize>,
    test: Vec<usize>,
}

impl Drawn {
    /// Every second patient is for training; `row` draws columns of a class.
    fn new(n: usize, classes: usize, seed: u64, mut row: impl FnMut(&mut ChaCha8Rng, usize) -> Vec<f64>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut design = Design::new(row(&mut rng, 0).len());
        let class: Vec<usize> = (0..n).map(|_| rng.random_range(0..classes)).collect();
        class.iter().for_each(|class| design.push(&row(&mut rng, *class)));
        let (train, test) = (0..n).partition(|i| i % 2 == 0);
        Self { design, class, cluster: (0..n).collect(), train, test }
    }

    fn table(&self, classes: usize) -> Table<'_> {
        let Self { design, class, cluster, train, test } = self;
        Table { design, class, classes, cluster, train, test }
    }

    fn truth(&self) -> Vec<usize> {
        self.test.iter().map(|i| self.class[*i]).collect()
    }
}

fn search() -> Search {
    Search { folds: Folds::ByPatient, parts: 5, seed: 1 }
}

fn learners() -> [Learner; 3] {
    [
        Learner::logistic(),
        Learner::Forest { depth: vec![1, 3], trees: 50 },
        Learner::Boosting { depth: vec![0, 1, 2], rounds: 50, step: 0.1 },
    ]
}

#[test]
fn columns_that_do_not_tell_the_group_give_half() {
    let noise = |rng: &mut ChaCha8Rng, _| (0..8).map(|_| rng.random_range(-1.0..1.0)).collect();
    let drawn = Drawn::new(3000, 3, 1, noise);
    for learner in learners() {
        let made = fit(&drawn.table(3), &learner, &search()).unwrap();
        for k in 0..3 {
            let positive: Vec<bool> = drawn.truth().iter().map(|class| *class == k).collect();
            let auc = delong(&made.of(k), &positive).unwrap();
            // Three learners and three classes: limits of 99.9 %, 1.7 times as wide as those of 95 %.
            let half = 1.7 * (auc.upper - auc.lower) / 2.0;
            assert!((auc.auc - 0.5).abs() <= half, "{learner:?}, class {k}: {auc:?}");
        }
    }
}

#[test]
fn a_known_law_is_found_among_columns_that_tell_nothing() {
    // P(group 1) = expit(1.5·x₀ − x₁ ): the best AUC is that of the law itself.
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut drawn = Drawn::new(6000, 2, 2, |rng, _| (0..6).map(|_| rng.random_range(-2.0..2.0)).collect());
    let law = |row: &[f64]| expit(1.5 * row[0] - row[1]);
    drawn.class = (0..6000).map(|i| usize::from(rng.random::<f64>() < law(drawn.design.row(i)))).collect();
    let truth = drawn.truth();
    let positive: Vec<bool> = truth.iter().map(|class| *class == 1).collect();
    let best = auc(&drawn.test.iter().map(|i| law(drawn.design.row(*i))).collect::<Vec<_>>(), &positive).unwrap();
    let mut learners = learners();
    // A line in steps: trees need depth, boosting rounds.
    learners[1] = Learner::Forest { depth: vec![5], trees: 100 };
    learners[2] = Learner::Boosting { depth: vec![2], rounds: 100, step: 0.1 };
    for (learner, lost) in learners.iter().zip([0.002, 0.03, 0.02]) {
        let made = fit(&drawn.table(2), learner, &search()).unwrap();
        let found = made.one_vs_rest(&truth);
        assert!(found[0].is_some() && (found[0].unwrap() - found[1].unwrap()).abs() < 1e-9);
        assert!(best - found[1].unwrap() < lost, "{learner:?}: {found:?} of {best}");
    }
    let made = fit(&drawn.table(2), &learners[0], &search()).unwrap();
    for (i, p) in drawn.test.iter().zip(made.of(1)) {
        assert!((p - law(drawn.design.row(*i))).abs() < 0.08, "{p}");
    }
}

#[test]
fn what_two_columns_tell_together_only_trees_find() {
    let row = |rng: &mut ChaCha8Rng, class: usize| {
        let side = rng.random_range(0..2usize);
        vec![side as f64, ((side + class) % 2) as f64, rng.random_range(0.0..1.0)]
    };
    let drawn = Drawn::new(2000, 2, 3, row);
    let aucs: Vec<f64> = [Learner::logistic(), Learner::forest(), Learner::boosting()]
        .iter()
        .map(|learner| fit(&drawn.table(2), learner, &search()).unwrap().one_vs_rest(&drawn.truth())[1].unwrap())
        .collect();
    assert!(aucs[0] < 0.56 && aucs[1] > 0.95 && aucs[2] > 0.95, "{aucs:?}");
}

#[test]
fn figures_do_not_depend_on_threads_and_runs() {
    let row = |rng: &mut ChaCha8Rng, class: usize| vec![rng.random_range(0.0..1.0) + 0.2 * class as f64, 1.0, 0.5];
    let drawn = Drawn::new(400, 3, 4, row);
    for learner in learners() {
        let run = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&drawn.table(3), &learner, &Search { seed, ..search() }).unwrap())
        };
        let one = run(1, 1);
        assert_eq!(one, run(3, 1));
        assert_ne!(one.losses, run(1, 2).losses);
        assert!(one.probabilities.chunks_exact(3).all(|p| (p.iter().sum::<f64>() - 1.0).abs() < 1e-12));
    }
}

#[test]
fn rows_that_are_alike_are_learnt_as_one_with_a_weight() {
    let row = |rng: &mut ChaCha8Rng, class: usize| vec![rng.random_range(0.0..1.0) + 0.3 * class as f64, rng.random()];
    let once = Drawn::new(400, 3, 5, row);
    let mut thrice = Drawn::new(400, 3, 5, row);
    thrice.train = once.train.repeat(3);
    let boosting = Learner::Boosting { depth: vec![2], rounds: 20, step: 0.1 };
    let logistic = |c: f64| Learner::Logistic { inverse_penalty: vec![c] };
    // C counts the loss of every row.
    for (one, three) in [(logistic(0.3), logistic(0.1)), (boosting.clone(), boosting)] {
        let one_each = fit(&once.table(3), &one, &search()).unwrap();
        let three_each = fit(&thrice.table(3), &three, &search()).unwrap();
        let pairs = one_each.probabilities.iter().zip(&three_each.probabilities);
        let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-9, "{one:?}: {far}");
    }
}

#[test]
fn a_constant_model_says_the_shares_of_the_training_part() {
    let drawn = Drawn::new(200, 3, 6, |rng, _| vec![rng.random_range(0.0..1.0)]);
    let learner = Learner::Boosting { depth: vec![0], rounds: 10, step: 0.1 };
    let made = fit(&drawn.table(3), &learner, &search()).unwrap();
    let share = |k: usize| drawn.train.iter().filter(|i| drawn.class[**i] == k).count() as f64 / 100.0;
    assert!(made.probabilities.chunks_exact(3).all(|p| (0..3).all(|k| (p[k] - share(k)).abs() < 1e-12)));
    assert_eq!(made.one_vs_rest(&drawn.truth()), [Some(0.5); 3]);
}

#[test]
fn no_patient_is_in_two_folds_unless_as_published() {
    let mut drawn = Drawn::new(300, 2, 7, |rng, _| vec![rng.random_range(0.0..1.0)]);
    // Three rows of each patient, all in one part.
    drawn.cluster = (0..300).map(|i| i / 3).collect();
    drawn.class = (0..300).map(|i| i / 3 % 2).collect();
    (drawn.train, drawn.test) = (0..300).partition(|i| i / 3 % 3 > 0);
    let of = |by| super::folds::folds(&drawn.table(2), &Search { folds: by, ..search() }).unwrap();
    let shared = |folds: &[usize]| folds.chunks_exact(3).filter(|fold| fold.iter().any(|f| *f != fold[0])).count();
    let by_patient = of(Folds::ByPatient);
    assert_eq!(shared(&by_patient), 0);
    for fold in 0..5 {
        let held: Vec<usize> =
            (0..by_patient.len()).filter(|i| by_patient[*i] == fold).map(|i| drawn.class[drawn.train[i]]).collect();
        assert!(held.len().abs_diff(40) <= 3 && held.contains(&0) && held.contains(&1), "{held:?}");
    }
    assert!(shared(&of(Folds::ByRow)) > 0);
}

#[test]
fn says_why_a_table_has_no_model() {
    let drawn = Drawn::new(40, 2, 8, |rng, _| vec![rng.random_range(0.0..1.0), 1.0]);
    let table = drawn.table(2);
    let check = |table: &Table, learner: &Learner, search: &Search, expected: &str| {
        let said = fit(table, learner, search).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    };
    let logistic = Learner::logistic();
    let bad = |table: Table, expected: &str| check(&table, &logistic, &search(), expected);
    bad(Table { class: &drawn.class[1..], ..table }, "differ in number");
    bad(Table { train: &[40], ..table }, "a part names a row that is not there");
    bad(Table { classes: 1, ..table }, "1 classes");
    bad(Table { test: &[], ..table }, "the test part has no rows");
    bad(Table { cluster: &[0; 40], ..table }, "in the test part too");
    bad(Table { design: &Design::new(0), ..table }, "no columns");
    bad(Table { class: &[0; 40], ..table }, "class 1 has fewer than two patients");
    let alternating: Vec<usize> = (0..40).map(|i| i / 2 % 2).collect();
    bad(Table { train: &drawn.train[..4], class: &alternating, ..table }, "5 folds need as many");
    let mut holes = Design::new(2);
    (0..40).for_each(|i| holes.push(&[if i == 6 { f64::NAN } else { 0.0 }, 1.0]));
    bad(Table { design: &holes, ..table }, "row 6, column 0: not a number");
    let grid = |learner: Learner, expected: &str| check(&table, &learner, &search(), expected);
    grid(Learner::Logistic { inverse_penalty: vec![] }, "1 to 64 entries");
    grid(Learner::Logistic { inverse_penalty: vec![0.0] }, "C must be a number above 0");
    grid(Learner::Forest { depth: vec![17], trees: 10 }, "at most 16");
    grid(Learner::Forest { depth: vec![1], trees: 0 }, "1 to 5000");
    grid(Learner::Boosting { depth: vec![1], rounds: 10, step: f64::NAN }, "the step");
    check(&table, &logistic, &Search { parts: 1, ..search() }, "2 to 64 folds");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the numbers are, a table has a model or a reason, and probabilities are such.
    #[test]
    fn any_table_has_a_model_or_a_reason(
        values in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), Just(-0.0), -1e100..1e100_f64, -1.0..1.0_f64], 60),
        class in prop::collection::vec(0usize..3, 30),
    ) {
        let mut design = Design::new(2);
        values.chunks_exact(2).for_each(|row| design.push(row));
        let cluster: Vec<usize> = (0..30).collect();
        let (train, test): (Vec<usize>, Vec<usize>) = (0..30).partition(|i| i % 3 > 0);
        let table = Table { design: &design, class: &class, classes: 3, cluster: &cluster, train: &train, test: &test };
        let small = [
            Learner::Logistic { inverse_penalty: vec![0.1, 10.0] },
            Learner::Forest { depth: vec![2], trees: 5 },
            Learner::Boosting { depth: vec![2], rounds: 5, step: 0.3 },
        ];
        for learner in small {
            let Ok(made) = fit(&table, &learner, &Search { parts: 2, ..search() }) else { continue };
            for p in made.probabilities.chunks_exact(3) {
                prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)) && (p.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{learner:?}: {p:?}");
            }
        }
    }
}
