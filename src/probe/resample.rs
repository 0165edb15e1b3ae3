//! Equal disease distribution (row 13 of the paper): patients such that every group has the same findings.
//!
//! Patients are taken whole. A stratum of patients that groups have in shares s₁ … s_G keeps the smallest share of each
//! group, so that groups keep their proportions and all lose the same part: what their distributions do not have in
//! common. Strata are tried from fine to coarse, each on whom the finer ones left: all images alike; the same findings
//! (in any image) and as many images; the same findings. Only the first makes the distribution over images exactly the
//! same, so what is kept is measured by image too. Pure. Neighbours: `tabular`, which should then find nothing. Left out:
//! training on what is kept.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The findings of an image: bit i is set where finding i is there. At most 64 findings.
pub type Pattern = u64;

/// An image, or a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labelled {
    /// By any number.
    pub patient: usize,
    /// `0..groups`, the same for all images of a patient.
    pub group: usize,
    pub pattern: Pattern,
}

/// Who is kept, and what that makes of the distributions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resampled {
    /// The images of the patients who are kept, in their order.
    pub rows: Vec<usize>,
    /// Of each group, before and after.
    pub patients: Vec<Counts>,
    pub images: Vec<Counts>,
    /// Images of each pattern, by group, before and after.
    pub patterns: BTreeMap<Pattern, Vec<Counts>>,
    /// Patients kept by strata of images that are all alike, of findings and number of images, of findings alone.
    pub by_strata: [usize; 3],
    /// The largest total variation distance between two groups' distributions of patterns over images, 0 to 1; none where
    /// a group has no image.
    pub distance: Distance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    pub before: usize,
    pub after: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distance {
    pub before: Option<f64>,
    pub after: Option<f64>,
}

/// Why nobody can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResampleError {
    #[error("{0} groups: two or more have distributions to make equal")]
    Groups(usize),
    #[error("a patient is in the groups {0} and {1}: give one group to each patient")]
    TwoGroups(usize, usize),
    #[error("group {0} has no images")]
    EmptyGroup(usize),
    #[error("the groups have no findings in common, so that no patients are kept")]
    NothingCommon,
}

/// A patient: the group and the patterns of all images, sorted.
struct Patient {
    number: usize,
    group: usize,
    patterns: Vec<Pattern>,
}

impl Patient {
    /// What patients of a stratum have in common, from fine to coarse.
    fn stratum(&self, level: usize) -> Vec<Pattern> {
        let findings = self.patterns.iter().fold(0, |all, pattern| all | pattern);
        match level {
            0 => self.patterns.clone(),
            1 => vec![findings, self.patterns.len() as u64],
            _ => vec![findings],
        }
    }
}

/// Chooses patients by `seed`; the same images, in whatever order their patients come, give the same patients.
pub fn equal_findings(images: &[Labelled], groups: usize, seed: u64) -> Result<Resampled, ResampleError> {
    let mut left = patients(images, groups)?;
    let mut size = vec![0usize; groups];
    left.iter().for_each(|patient| size[patient.group] += 1);
    if let Some(empty) = size.iter().position(|n| *n == 0) {
        return Err(ResampleError::EmptyGroup(empty));
    }
    left.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let (mut kept, mut by_strata) = (BTreeSet::new(), [0; 3]);
    for (level, by_strata) in by_strata.iter_mut().enumerate() {
        let mut quota = quotas(&left, level, &size);
        left.retain(|patient| {
            let quota = quota.get_mut(&patient.stratum(level)).map(|by_group| &mut by_group[patient.group]);
            let taken = quota.is_some_and(|n| {
                let any = *n > 0;
                *n -= usize::from(any);
                any
            });
            if taken {
                kept.insert(patient.number);
                *by_strata += 1;
            }
            !taken
        });
    }
    if kept.is_empty() {
        return Err(ResampleError::NothingCommon);
    }
    Ok(reported(images, groups, &size, &kept, by_strata))
}

/// Images of the chosen by patient, ordered by the patient's number.
fn patients(images: &[Labelled], groups: usize) -> Result<Vec<Patient>, ResampleError> {
    if groups < 2 || images.iter().any(|image| image.group >= groups) {
        return Err(ResampleError::Groups(groups));
    }
    let mut found: BTreeMap<usize, Patient> = BTreeMap::new();
    for image in images {
        let new = || Patient { number: image.patient, group: image.group, patterns: Vec::new() };
        let patient = found.entry(image.patient).or_insert_with(new);
        if patient.group != image.group {
            return Err(ResampleError::TwoGroups(patient.group, image.group));
        }
        patient.patterns.push(image.pattern);
    }
    let mut patients: Vec<Patient> = found.into_values().collect();
    patients.iter_mut().for_each(|patient| patient.patterns.sort_unstable());
    Ok(patients)
}

/// How many of each stratum and group are kept: the group's size times the smallest share of any group, rounded so that
/// the sum over strata is right.
fn quotas(left: &[Patient], level: usize, size: &[usize]) -> BTreeMap<Vec<Pattern>, Vec<usize>> {
    let mut count: BTreeMap<Vec<Pattern>, Vec<usize>> = BTreeMap::new();
    for patient in left {
        count.entry(patient.stratum(level)).or_insert_with(|| vec![0; size.len()])[patient.group] += 1;
    }
    let mut due = vec![0.0; size.len()];
    for by_group in count.values_mut() {
        let shares = by_group.iter().zip(size).map(|(n, size)| *n as f64 / *size as f64);
        let smallest = shares.fold(f64::INFINITY, f64::min);
        for ((n, size), due) in by_group.iter_mut().zip(size).zip(&mut due) {
            // What rounding kept back or gave in advance goes on to the next stratum.
            let exact = smallest * *size as f64 + *due;
            let taken = (exact.round().max(0.0) as usize).min(*n);
            *due = exact - taken as f64;
            *n = taken;
        }
    }
    count
}

fn reported(
    images: &[Labelled],
    groups: usize,
    size: &[usize],
    kept: &BTreeSet<usize>,
    by_strata: [usize; 3],
) -> Resampled {
    let mut counts = vec![Counts::default(); groups];
    let mut patterns: BTreeMap<Pattern, Vec<Counts>> = BTreeMap::new();
    let mut rows = Vec::new();
    for (row, image) in images.iter().enumerate() {
        let after = usize::from(kept.contains(&image.patient));
        let by_group = patterns.entry(image.pattern).or_insert_with(|| vec![Counts::default(); groups]);
        for count in [&mut counts[image.group], &mut by_group[image.group]] {
            count.before += 1;
            count.after += after;
        }
        if after == 1 {
            rows.push(row);
        }
    }
    let mut patients: Vec<Counts> = size.iter().map(|before| Counts { before: *before, after: 0 }).collect();
    let group: BTreeMap<usize, usize> = rows.iter().map(|row| (images[*row].patient, images[*row].group)).collect();
    group.values().for_each(|group| patients[*group].after += 1);
    let distance = Distance {
        before: distance(&patterns, &counts, |count| count.before),
        after: distance(&patterns, &counts, |count| count.after),
    };
    Resampled { rows, patients, images: counts, patterns, by_strata, distance }
}

/// The largest of ½ Σ |share of a pattern in one group − share in another|.
fn distance(
    patterns: &BTreeMap<Pattern, Vec<Counts>>,
    images: &[Counts],
    of: impl Fn(&Counts) -> usize,
) -> Option<f64> {
    if images.iter().any(|count| of(count) == 0) {
        return None;
    }
    let share = |by_group: &[Counts], g: usize| of(&by_group[g]) as f64 / of(&images[g]) as f64;
    let pairs = (0..images.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    let apart =
        |(a, b): (usize, usize)| 0.5 * patterns.values().map(|p| (share(p, a) - share(p, b)).abs()).sum::<f64>();
    pairs.map(apart).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    /// Patients of three groups whose findings differ by group; `images` at most for each.
    fn cohort(sizes: [usize; 3], images: usize, seed: u64) -> Vec<Labelled> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let prevalence = [[0.1, 0.3, 0.05], [0.3, 0.1, 0.05], [0.2, 0.2, 0.2]];
        let mut all = Vec::new();
        let groups = sizes.iter().enumerate().flat_map(|(group, n)| std::iter::repeat_n(group, *n));
        for (patient, group) in groups.enumerate() {
            for _ in 0..rng.random_range(1..=images) {
                let drawn = prevalence[group].map(|p| rng.random::<f64>() < p);
                let pattern = drawn.iter().enumerate().map(|(bit, there)| u64::from(*there) << bit).sum();
                all.push(Labelled { patient, group, pattern });
            }
        }
        all
    }

    #[test]
    fn groups_have_the_same_findings_and_keep_their_proportions() {
        let images = cohort([4000, 2000, 1000], 1, 1);
        let made = equal_findings(&images, 3, 7).unwrap();
        assert!(made.distance.before.unwrap() > 0.2, "{:?}", made.distance);
        // Rounding of eight patterns in a group of some hundred patients.
        assert!(made.distance.after.unwrap() < 0.01, "{:?}", made.distance);
        let kept: Vec<f64> = made.patients.iter().map(|p| p.after as f64 / p.before as f64).collect();
        assert!(kept.iter().all(|share| *share > 0.5 && (share - kept[0]).abs() < 0.005), "{kept:?}");
        assert_eq!(made.by_strata, [made.rows.len(), 0, 0]);
        assert_eq!(made.patterns.values().flatten().map(|c| c.after).sum::<usize>(), made.rows.len());
    }

    #[test]
    fn patients_are_kept_whole_and_measured_by_image() {
        let images = cohort([3000, 1500, 1500], 4, 2);
        let made = equal_findings(&images, 3, 7).unwrap();
        let kept: BTreeSet<usize> = made.rows.iter().map(|row| images[*row].patient).collect();
        assert_eq!(made.rows.len(), images.iter().filter(|image| kept.contains(&image.patient)).count());
        assert_eq!(made.by_strata.iter().sum::<usize>(), kept.len());
        assert!(made.by_strata.iter().all(|n| *n > 0), "{:?}", made.by_strata);
        let (before, after) = (made.distance.before.unwrap(), made.distance.after.unwrap());
        assert!(after < before / 3.0, "{before} {after}");
    }

    #[test]
    fn the_choice_depends_on_the_seed_alone() {
        let images = cohort([600, 300, 300], 3, 3);
        let choice = |images: &[Labelled], seed| -> BTreeSet<usize> {
            equal_findings(images, 3, seed).unwrap().rows.iter().map(|row| images[*row].patient).collect()
        };
        let reversed: Vec<Labelled> = images.iter().rev().copied().collect();
        assert_eq!(choice(&images, 1), choice(&reversed, 1));
        assert_ne!(choice(&images, 1), choice(&images, 2));
    }

    #[test]
    fn says_why_nobody_can_be_chosen() {
        let image = |patient, group, pattern| Labelled { patient, group, pattern };
        let check = |images: &[Labelled], groups, expected: &str| {
            assert!(equal_findings(images, groups, 0).unwrap_err().to_string().contains(expected));
        };
        check(&[image(0, 0, 1)], 1, "1 groups");
        check(&[image(0, 2, 1)], 2, "2 groups");
        check(&[image(0, 0, 1), image(0, 1, 1)], 2, "groups 0 and 1");
        check(&[image(0, 0, 1)], 2, "group 1 has no images");
        check(&[image(0, 0, 1), image(1, 1, 2)], 2, "no findings in common");
        let one = equal_findings(&[image(0, 0, 1), image(1, 1, 1), image(2, 1, 3)], 2, 0);
        // A patient of group 0 stands for all of it, half of group 1 shares the findings.
        assert!(one.is_ok_and(|made| made.rows.contains(&1) && !made.rows.contains(&2)));
    }
}
