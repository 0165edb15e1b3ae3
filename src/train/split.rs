//! Splits by patient: nobody is in two parts.
//!
//! Pure; the same patients, shares and seed give the same parts, whatever the order of the rows.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::data::{Dataset, Part, Sample, Target};
use super::recipe::{Recipe, SplitRecipe};

/// Positions of samples in the data set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    pub train: Vec<usize>,
    pub validation: Vec<usize>,
    pub test: Vec<usize>,
}

/// The parts as the manifest says, else drawn.
pub fn by_patient(samples: &[Sample], shares: SplitRecipe, seed: u64) -> Split {
    if samples.iter().any(|s| s.part.is_some()) {
        let of =
            |part: Part| samples.iter().enumerate().filter(|(_, s)| s.part == Some(part)).map(|(i, _)| i).collect();
        return Split { train: of(Part::Train), validation: of(Part::Validation), test: of(Part::Test) };
    }
    let mut images: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, sample) in samples.iter().enumerate() {
        images.entry(&sample.patient).or_default().push(i);
    }
    let mut patients: Vec<&str> = images.keys().copied().collect();
    patients.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let count = |share: f64| (share * patients.len() as f64).round() as usize;
    let (train, validation) = (count(shares.train), count(shares.validation));
    let mut split = Split::default();
    for (i, patient) in patients.iter().enumerate() {
        let part = match i {
            i if i < train => &mut split.train,
            i if i < train + validation => &mut split.validation,
            _ => &mut split.test,
        };
        part.extend(&images[patient]);
    }
    // The order within a part follows the rows, not the patients' names.
    [&mut split.train, &mut split.validation, &mut split.test].into_iter().for_each(|part| part.sort_unstable());
    split
}

impl Split {
    /// Nobody is in two parts, and every part holds what it is for: both classes of every output.
    pub fn check(&self, dataset: &Dataset, recipe: &Recipe) -> anyhow::Result<()> {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, part) in [("training", &self.train), ("validation", &self.validation), ("test", &self.test)] {
            for sample in part.iter().map(|i| &dataset.samples[*i]) {
                let first = *seen.entry(&sample.patient).or_insert(name);
                anyhow::ensure!(first == name, "a patient is in the {first} and in the {name} part");
            }
        }
        for (name, part) in [("training", &self.train), ("validation", &self.validation), ("test", &self.test)] {
            for (i, key) in recipe.keys().iter().enumerate() {
                let classes: BTreeSet<bool> = part.iter().filter_map(|s| dataset.samples[*s].target.is(i)).collect();
                anyhow::ensure!(
                    classes.len() == 2,
                    "the {name} part of {} images does not hold both classes of {key}: use more patients",
                    part.len()
                );
            }
        }
        // An AUC's limits need two studies of each class.
        for (i, key) in recipe.keys().iter().enumerate() {
            let samples = || self.test.iter().map(|s| &dataset.samples[*s]);
            for class in [true, false] {
                let studies: BTreeSet<(&str, &str)> = samples()
                    .filter(|s| s.target.is(i) == Some(class))
                    .map(|s| (s.patient.as_str(), s.study.as_str()))
                    .collect();
                let what = if class { "with" } else { "without" };
                anyhow::ensure!(studies.len() > 1, "the test part has one study {what} {key}: use more patients");
            }
        }
        Ok(())
    }
}

impl Target {
    /// Whether output `i` is true of the sample; `None` where that is not known.
    pub fn is(&self, i: usize) -> Option<bool> {
        match self {
            Target::Group(group) => Some(*group == i),
            Target::Findings(findings) => findings.get(i).copied().flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(patients: usize, images: usize) -> Vec<Sample> {
        let one = |i: usize| Sample {
            patient: format!("P{:03}", i / images),
            study: format!("S{i}"),
            group: String::new(),
            target: Target::Group(0),
            part: None,
        };
        (0..patients * images).map(one).collect()
    }

    #[test]
    fn nobody_is_in_two_parts_and_nobody_is_lost() {
        let samples = samples(50, 3);
        let split = by_patient(&samples, SplitRecipe::default(), 5);
        let patients = |part: &[usize]| part.iter().map(|i| samples[*i].patient.clone()).collect::<BTreeSet<_>>();
        let parts = [patients(&split.train), patients(&split.validation), patients(&split.test)];
        assert_eq!(parts.each_ref().map(BTreeSet::len), [30, 5, 15]);
        assert_eq!(parts.iter().flatten().collect::<BTreeSet<_>>().len(), 50);
        assert_eq!(split.train.len() + split.validation.len() + split.test.len(), 150);
    }

    #[test]
    fn the_parts_depend_on_the_seed_alone() {
        let samples = samples(50, 1);
        let split = |seed| by_patient(&samples, SplitRecipe::default(), seed);
        assert_eq!(split(5), split(5));
        assert_ne!(split(5), split(6));
    }
}
