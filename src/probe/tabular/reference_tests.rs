//! The three learners beside scikit-learn's: the same rows, folds and grids, AUCs within .01 of each other.
//!
//! Forests draw with other generators, so that no two can agree closely: .01 is what issue 7 asks for. Logistic fits and
//! boosting have one answer each, ties apart, and agree far better, which is asserted too.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::folds::folds;
use super::*;
use crate::stats::reference::{answers_of, numbers};

/// A table of three groups, two thirds of the patients for training.
struct World {
    design: Design,
    class: Vec<usize>,
    cluster: Vec<usize>,
    train: Vec<usize>,
    test: Vec<usize>,
    learners: [Learner; 3],
    parts: usize,
}

impl World {
    /// `row` draws what a patient of a group has; a patient has one or two rows.
    fn drawn(n: usize, seed: u64, mut row: impl FnMut(&mut ChaCha8Rng, usize) -> Vec<f64>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = Self {
            design: Design::new(row(&mut rng, 0).len()),
            class: Vec::new(),
            cluster: Vec::new(),
            train: Vec::new(),
            test: Vec::new(),
            // More trees than the default: two forests of few differ by chance alone.
            learners: [
                Learner::logistic(),
                Learner::Forest { depth: (1..=5).collect(), trees: 200 },
                Learner::boosting(),
            ],
            parts: 5,
        };
        for patient in 0.. {
            let class = [0, 1, 1, 2, 2, 2, 2, 2][rng.random_range(0..8)];
            for _ in 0..rng.random_range(1..=2) {
                let i = world.class.len();
                if i == n {
                    return world;
                }
                world.design.push(&row(&mut rng, class));
                world.class.push(class);
                world.cluster.push(patient);
                if patient % 3 == 2 { world.test.push(i) } else { world.train.push(i) }
            }
        }
        world
    }

    fn table(&self) -> Table<'_> {
        let Self { design, class, cluster, train, test, .. } = self;
        Table { design, class, classes: 3, cluster, train, test }
    }

    fn search(&self, folds: Folds) -> Search {
        Search { folds, parts: self.parts, seed: 3 }
    }

    fn given(&self) -> Value {
        let design: Vec<&[f64]> = (0..self.design.rows()).map(|i| self.design.row(i)).collect();
        let [logistic, forest, boosting] = self.learners.each_ref();
        let (Learner::Forest { depth: forest, trees }, Learner::Boosting { depth, rounds, step }) = (forest, boosting)
        else {
            panic!("the learners in another order");
        };
        json!({
            "design": design, "class": self.class, "train": self.train, "test": self.test, "parts": self.parts,
            "fold": folds(&self.table(), &self.search(Folds::ByPatient)).unwrap(),
            "grids": {
                "logistic": logistic.grid(), "forest": forest, "trees": trees,
                "boosting": depth, "rounds": rounds, "step": step,
            },
        })
    }

    /// Fits here and there, and compares.
    fn check(&self, name: &str) {
        let answers = answers_of("tabular.py", &json!({ name: self.given() }));
        let answers = &answers[name];
        let by_row: Vec<f64> =
            folds(&self.table(), &self.search(Folds::ByRow)).unwrap().into_iter().map(|f| f as f64).collect();
        assert_eq!(by_row, numbers(&answers["by_row"]), "{name}: folds by row");
        let mut faults = Vec::new();
        let truth: Vec<usize> = self.test.iter().map(|i| self.class[*i]).collect();
        for (learner, of) in self.learners.iter().zip(["logistic", "forest", "boosting"]) {
            let answer = &answers[of];
            let made = fit(&self.table(), learner, &self.search(Folds::ByPatient)).unwrap();
            let here: Vec<f64> = made.one_vs_rest(&truth).into_iter().map(Option::unwrap).collect();
            let there = numbers(&answer["auc"]);
            let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let losses: Vec<f64> = made.losses.iter().map(|(_, loss)| *loss).collect();
            let (auc, loss) = (far(&here, &there), far(&losses, &numbers(&answer["losses"])));
            let above = losses.iter().zip(numbers(&answer["losses"])).map(|(a, b)| a - b).fold(f64::MIN, f64::max);
            let p = far(&made.probabilities, &numbers(&answer["probabilities"]));
            let chosen = (made.chosen, answer["chosen"].as_f64().unwrap());
            let said = format!(
                "{name}, {of}: AUC {here:.4?} here, {there:.4?} there, chosen {chosen:?}, losses apart by {loss:.5}, \
                 probabilities by {p:.4}, {} unfinished",
                made.unfinished
            );
            // One answer to each fit but a forest's; ties between splits differ, and how far iterations go. Where every
            // coefficient is 0 saga stops after an epoch, whatever its intercepts are: there the loss is larger than ours.
            let same = match of {
                "logistic" => above < 0.002,
                "forest" => loss < 0.02,
                _ => loss < 0.005,
            };
            println!("{said}");
            if !same || auc > 0.01 || here.iter().all(|auc| *auc < 0.55) {
                faults.push(format!("{said}; {losses:.5?} here, {:.5?} there", numbers(&answer["losses"])));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

#[test]
fn models_on_labels_are_scikit_learns() {
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let prevalence: Vec<f64> = (0..14).map(|_| rng.random_range(0.02..0.4)).collect();
    // A third of the labels differs by group.
    let tilt: Vec<[f64; 3]> =
        (0..14).map(|j| [0; 3].map(|_| if j % 3 == 0 { rng.random_range(0.7..1.4) } else { 1.0 })).collect();
    let row = |rng: &mut ChaCha8Rng, class: usize| {
        let one = |(p, tilt): (&f64, &[f64; 3])| f64::from(u8::from(rng.random::<f64>() < p * tilt[class]));
        prevalence.iter().zip(&tilt).map(one).collect()
    };
    World::drawn(6000, 11, row).check("labels");
}

#[test]
fn models_on_covariates_are_scikit_learns() {
    // Age, sex, body mass index, density A to D one-hot: one effect that bends, one of two columns together.
    let row = |rng: &mut ChaCha8Rng, class: usize| {
        let age = rng.random_range(20.0..90.0_f64) - 8.0 * f64::from(u8::from(class == 0));
        let female = f64::from(u8::from(rng.random::<f64>() < 0.5));
        let spread = if class == 1 { 9.0 } else { 5.0 };
        let bmi =
            27.0 + spread * (rng.random::<f64>() + rng.random::<f64>() - 1.0) + 2.0 * female * f64::from(class as u8);
        let density = rng.random_range(0..4usize).saturating_sub(usize::from(class == 1 && age > 60.0));
        let mut row = vec![age.round(), female, bmi];
        row.extend((0..4).map(|d| f64::from(u8::from(d == density))));
        row
    };
    World::drawn(4000, 12, row).check("covariates");
}

#[test]
fn models_on_histograms_are_scikit_learns() {
    // 2,000 pixels over 256 bins: a bell whose middle and width depend on the patient, and a little on the group.
    let row = |rng: &mut ChaCha8Rng, class: usize| {
        let middle = rng.random_range(110.0..150.0) + 12.0 * f64::from(u8::from(class == 1));
        let width = rng.random_range(25.0..45.0) + 8.0 * f64::from(u8::from(class == 0));
        let mut bins = vec![0.0; 256];
        for _ in 0..2000 {
            let sum: f64 = (0..4).map(|_| rng.random::<f64>()).sum::<f64>() - 2.0;
            let value = (middle + width * sum * 1.73).clamp(0.0, 255.0);
            bins[value as usize] += 1.0;
        }
        bins
    };
    let mut world = World::drawn(1800, 13, row);
    // 256 columns take scikit-learn long: a smaller grid.
    world.learners = [
        Learner::Logistic { inverse_penalty: vec![0.001, 0.01, 0.1] },
        Learner::Forest { depth: vec![2, 4], trees: 300 },
        Learner::Boosting { depth: vec![1, 2, 3], rounds: 50, step: 0.1 },
    ];
    world.parts = 3;
    world.check("histograms");
}
