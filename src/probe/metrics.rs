//! What predictions come to: AUCs of one group against all others, of findings, what a change takes from them, and gaps
//! of miss rates, with intervals.
//!
//! Intervals of AUCs are DeLong's, with patients as clusters where they have several images, and those of means alike;
//! those of gaps are of draws of patients. Pure. Neighbours: `rows` chooses what is measured, `stats` has the numerics. Left out: tests
//! of hypotheses about a model.

use serde::{Deserialize, Serialize};

pub use crate::stats::{PATIENTS_MIN, hidden};
use crate::stats::{AucInfluence, Spread, Tally, Z_95, delong, expit, logit, spread};

/// Draws of the bootstrap of a gap, and permutations.
pub const DRAWS: u64 = 1000;
/// With fewer patients of a class DeLong's limits are made on the scale of logits.
const LOGITS_BELOW: usize = 200;
/// Of fewer patients with a finding there is no miss rate.
pub const CASES_MIN: usize = 30;

/// Whether a value is of an image, or a mean over those of a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Image,
    Study,
}

/// A number with its 95 % limits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub lower: f64,
    pub upper: f64,
}

/// Values of a model: rows of outputs, and whose they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scored {
    /// Row by row, one for each output.
    pub outputs: Vec<Vec<f64>>,
    /// Group of each row.
    pub group: Vec<usize>,
    /// Number of each row's patient.
    pub patient: Vec<usize>,
}

impl Scored {
    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    pub fn patients(&self) -> usize {
        distinct(self.patient.iter().copied())
    }

    /// Whether each row is of the group.
    pub fn members(&self, group: usize) -> Vec<bool> {
        self.group.iter().map(|own| *own == group).collect()
    }

    /// The column of an output.
    pub fn column(&self, output: usize) -> Vec<f64> {
        self.outputs.iter().map(|row| row[output]).collect()
    }

    /// Rows of the same study as one: the mean of each output. `study` numbers the study of each row.
    pub fn by_study(&self, study: &[usize]) -> Self {
        let mut places: Vec<Option<usize>> = vec![None; study.iter().max().map_or(0, |m| m + 1)];
        let (mut merged, mut counts) = (Self::default(), Vec::new());
        for (row, study) in study.iter().enumerate() {
            let place = *places[*study].get_or_insert_with(|| {
                merged.outputs.push(vec![0.0; self.outputs[row].len()]);
                merged.group.push(self.group[row]);
                merged.patient.push(self.patient[row]);
                counts.push(0.0);
                counts.len() - 1
            });
            merged.outputs[place].iter_mut().zip(&self.outputs[row]).for_each(|(sum, v)| *sum += v);
            counts[place] += 1.0;
        }
        for (row, count) in merged.outputs.iter_mut().zip(counts) {
            row.iter_mut().for_each(|v| *v /= count);
        }
        merged
    }
}

/// The area under the curve of a score against a class; `None` unless both have [`PATIENTS_MIN`] patients.
pub fn auc(scores: &[f64], positive: &[bool], patient: &[usize]) -> Option<Estimate> {
    let fewer = fewer(positive, patient)?;
    let (numbers, patients) = dense(patient);
    let (value, variance) = if patients == scores.len() {
        let found = delong(scores, positive)?;
        (found.auc, found.variance)
    } else {
        let found = AucInfluence::of(scores, positive, &numbers)?;
        (found.value, found.variance()?)
    };
    Some(limited(value, variance, fewer))
}

/// DeLong's limits. Near 1 they are not alike to both sides, and a symmetric interval of few patients reaches too high, so
/// that of few is made on the scale of logits. A score that parts the classes wholly, or but for a pair, has next to no
/// variance, which is no certainty: by the rule of three, of the smaller class's patients, up to 3 / n may be otherwise.
fn limited(value: f64, variance: f64, fewer: usize) -> Estimate {
    let error = variance.sqrt();
    let (lower, upper) = if fewer < LOGITS_BELOW && value > 0.0 && value < 1.0 {
        let half = Z_95 * error / (value * (1.0 - value));
        (expit(logit(value) - half), expit(logit(value) + half))
    } else {
        ((value - Z_95 * error).max(0.0), (value + Z_95 * error).min(1.0))
    };
    let (room, one) = (room(fewer), 1.0 / fewer as f64);
    Estimate {
        value,
        lower: if value >= 1.0 - one { lower.min(1.0 - room) } else { lower },
        upper: if value <= one { upper.max(room) } else { upper },
    }
}

/// What may be otherwise though none of so many patients was: the rule of three.
fn room(patients: usize) -> f64 {
    3.0 / patients.max(3) as f64
}

/// The area of scores less that of others of the same rows, as [`auc`] has them.
pub fn auc_change(after: &[f64], before: &[f64], positive: &[bool], patient: &[usize]) -> Option<Estimate> {
    let fewer = fewer(positive, patient)?;
    let numbers = dense(patient).0;
    let of = |scores| AucInfluence::of(scores, positive, &numbers);
    difference(&of(after)?.minus(&of(before)?)?, after == before, fewer)
}

/// A difference without any variance is certain only where nothing has changed.
fn difference(of: &AucInfluence, is_same: bool, fewer: usize) -> Option<Estimate> {
    let (lower, upper) = of.limits(-1.0, 1.0)?;
    let room = if is_same || upper - lower > 1e-9 { 0.0 } else { room(fewer) };
    Some(Estimate { value: of.value, lower: (lower - room).max(-1.0), upper: (upper + room).min(1.0) })
}

/// Patients of the class that has fewer of them; `None` below [`PATIENTS_MIN`].
fn fewer(positive: &[bool], patient: &[usize]) -> Option<usize> {
    let of =
        |class: bool| distinct(patient.iter().zip(positive).filter(|(_, p)| **p == class).map(|(patient, _)| *patient));
    Some(of(true).min(of(false))).filter(|fewer| *fewer >= PATIENTS_MIN)
}

/// How many different numbers there are.
pub fn distinct(numbers: impl Iterator<Item = usize>) -> usize {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len()
}

/// The mean over these groups of the AUC of each against all others. `None` of fewer than two.
pub fn macro_auc(scored: &Scored, groups: &[usize]) -> Option<Estimate> {
    let found = macro_influence(scored, groups)?;
    Some(limited(found.value, found.variance()?, fewest(scored, groups)?))
}

/// The mean AUC of outputs less that of others of the same rows, as [`macro_auc`] has them.
pub fn macro_change(after: &Scored, before: &Scored, groups: &[usize]) -> Option<Estimate> {
    let of = macro_influence(after, groups)?.minus(&macro_influence(before, groups)?)?;
    difference(&of, after.outputs == before.outputs, fewest(after, groups)?)
}

/// Patients of the smallest class of all that are told apart.
fn fewest(scored: &Scored, groups: &[usize]) -> Option<usize> {
    groups.iter().filter_map(|g| fewer(&scored.members(*g), &scored.patient)).min()
}

fn macro_influence(scored: &Scored, groups: &[usize]) -> Option<AucInfluence> {
    let numbers = dense(&scored.patient).0;
    let of = |g: &usize| AucInfluence::of(&scored.column(*g), &scored.members(*g), &numbers);
    let all = groups.iter().map(of).collect::<Option<Vec<AucInfluence>>>()?;
    if all.len() < 2 { None } else { AucInfluence::mean(&all) }
}

/// A gap of miss rates, of these groups, and of so many values and patients with the finding.
#[derive(Debug, Clone, PartialEq)]
pub struct MissGap {
    pub spread: Spread,
    pub groups: Vec<usize>,
    pub values: usize,
    pub patients: usize,
}

/// By how much the largest miss rate (FNR) of a group exceeds the smallest, at a threshold; of groups with
/// [`CASES_MIN`] patients who have the finding. `truth`: of each row, where it is known.
pub fn miss_gap(
    scores: &[f64],
    truth: &[Option<bool>],
    group: &[usize],
    patient: &[usize],
    threshold: f64,
    seed: u64,
) -> Option<MissGap> {
    let rows: Vec<usize> = (0..scores.len()).filter(|row| truth[*row] == Some(true)).collect();
    let (numbers, patients) = dense(&rows.iter().map(|row| patient[*row]).collect::<Vec<_>>());
    let mut tallies = vec![Tally { group: 0, hits: 0.0, cases: 0.0 }; patients];
    for (row, number) in rows.iter().zip(numbers) {
        let tally = &mut tallies[number];
        tally.group = group[*row];
        tally.cases += 1.0;
        tally.hits += if scores[*row] < threshold { 1.0 } else { 0.0 };
    }
    let count = |g: usize| tallies.iter().filter(|t| t.group == g).count();
    let groups: Vec<usize> = (0..=group.iter().copied().max()?).filter(|g| count(*g) >= CASES_MIN).collect();
    let place = |g: usize| groups.iter().position(|own| *own == g);
    let kept: Vec<Tally> =
        tallies.iter().filter_map(|tally| Some(Tally { group: place(tally.group)?, ..*tally })).collect();
    let spread = spread(&kept, groups.len(), DRAWS, seed)?;
    let values = kept.iter().map(|tally| tally.cases as usize).sum();
    Some(MissGap { spread, groups, values, patients: kept.len() })
}

/// The mean of values; those of a patient hang together.
pub fn mean(values: &[f64], patient: &[usize]) -> Option<Estimate> {
    let (numbers, patients) = dense(patient);
    if patients < PATIENTS_MIN {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let mut sums = vec![0.0; patients];
    numbers.iter().zip(values).for_each(|(number, value)| sums[*number] += (value - mean) / count);
    let factor = patients as f64 / (patients - 1) as f64;
    let half = Z_95 * (factor * sums.iter().map(|sum| sum * sum).sum::<f64>()).sqrt();
    Some(Estimate { value: mean, lower: mean - half, upper: mean + half })
}

/// Patients numbered without gaps, row by row, and how many there are.
fn dense(patient: &[usize]) -> (Vec<usize>, usize) {
    let numbers = super::cohort::numbered(patient.iter());
    let count = numbers.iter().max().map_or(0, |m| m + 1);
    (numbers, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn drawn(rows: usize, seed: u64) -> (Vec<f64>, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let positive: Vec<bool> = (0..rows).map(|_| rng.random_bool(0.4)).collect();
        // Ties among them.
        let score = |p: &bool| ((rng.random::<f64>() + if *p { 0.3 } else { 0.0 }) * 20.0).round() / 20.0;
        let scores = positive.iter().map(score).collect();
        (scores, positive)
    }

    #[test]
    fn limits_are_delongs_for_single_images_and_wider_for_patients_with_several() {
        let (scores, positive) = drawn(400, 2);
        let own: Vec<usize> = (0..400).collect();
        let single = auc(&scores, &positive, &own).unwrap();
        let reference = stats::delong(&scores, &positive).unwrap();
        assert_eq!(single.value, reference.auc);
        // Of many patients on the scale of areas, of few on that of logits, which is nearly the same in the middle.
        assert!((single.lower - reference.lower).abs() < 0.005 && single.lower != reference.lower);
        let many = drawn(1200, 2);
        let all: Vec<usize> = (0..1200).collect();
        let reference = stats::delong(&many.0, &many.1).unwrap();
        assert_eq!(auc(&many.0, &many.1, &all).map(|e| e.lower), Some(reference.lower));
        let apart: Vec<f64> = positive.iter().map(|p| f64::from(u8::from(*p))).collect();
        let sure = auc(&apart, &positive, &own).unwrap();
        let fewer = positive.iter().filter(|p| **p).count().min(positive.iter().filter(|p| !**p).count());
        assert_eq!((sure.value, sure.lower), (1.0, 1.0 - 3.0 / fewer as f64));
        // Everybody four times: no more is known than before.
        let four = |i: usize| i / 4;
        let copied: (Vec<f64>, Vec<bool>) = (0..1600).map(|i| (scores[four(i)], positive[four(i)])).unzip();
        let patients: Vec<usize> = (0..1600).map(four).collect();
        let clustered = auc(&copied.0, &copied.1, &patients).unwrap();
        assert!((clustered.value - single.value).abs() < 1e-12);
        let width = |e: &Estimate| e.upper - e.lower;
        assert!((width(&clustered) / width(&single) - 1.0).abs() < 0.12, "{clustered:?} {single:?}");
        assert_eq!(auc(&scores[..12], &positive[..12], &own[..12]), None, "too few patients");
    }

    #[test]
    fn limits_of_clustered_areas_cover_in_95_of_100_worlds() {
        let covered = |seed: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut scores, mut positive, mut patient) = (Vec::new(), Vec::new(), Vec::new());
            for p in 0..120 {
                let class = p % 2 == 0;
                let own: f64 = rng.sample(rand_distr::StandardNormal);
                for _ in 0..3 {
                    let noise: f64 = rng.sample(rand_distr::StandardNormal);
                    scores.push(own + 0.5 * noise + if class { 1.0 } else { 0.0 });
                    positive.push(class);
                    patient.push(p);
                }
            }
            let found = auc(&scores, &positive, &patient).unwrap();
            // Φ(1 / √(2 · 1.25))
            (found.lower..=found.upper).contains(&0.736_455)
        };
        let hits = (0..200).filter(|seed| covered(*seed)).count();
        // 95 % of 200, three standard errors to either side.
        assert!((181..=199).contains(&hits), "{hits} of 200");
    }

    #[test]
    fn limits_near_1_hold_more_often_than_delongs() {
        // Two normal laws with an AUC of .98, 20 patients against 300.
        let shift = 2.0f64.sqrt() * 2.053_748_9;
        let (mut held, mut plain) = (0, 0);
        for seed in 0..300 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let positive: Vec<bool> = (0..320).map(|i| i < 20).collect();
            let mut score = |p: &bool| rng.sample::<f64, _>(rand_distr::StandardNormal) + if *p { shift } else { 0.0 };
            let scores: Vec<f64> = positive.iter().map(&mut score).collect();
            let patient: Vec<usize> = (0..320).collect();
            let found = auc(&scores, &positive, &patient).unwrap();
            let delong = stats::delong(&scores, &positive).unwrap();
            held += u32::from((found.lower..=found.upper).contains(&0.98));
            plain += u32::from((delong.lower..=delong.upper).contains(&0.98));
        }
        assert!(held >= 261 && held > plain + 15, "{held} and {plain} of 300");
    }

    #[test]
    fn what_parts_the_classes_wholly_is_no_certainty() {
        let positive: Vec<bool> = (0..40).map(|i| i < 20).collect();
        let patient: Vec<usize> = (0..40).collect();
        let mut scores: Vec<f64> = positive.iter().map(|p| if *p { 1.0 } else { 0.0 }).collect();
        scores.iter_mut().enumerate().for_each(|(i, s)| *s += f64::from(i as u32) / 100.0);
        let sure = auc(&scores, &positive, &patient).unwrap();
        assert!((sure.value, sure.lower) == (1.0, 0.85), "{sure:?}");
        // One pair the other way round says no more.
        let mut one = scores.clone();
        (one[0], one[39]) = (0.5, 0.6);
        let less = auc(&one, &positive, &patient).unwrap();
        assert!(less.value < 1.0 && less.lower <= 0.85, "{less:?}");
        // Two scores that part them, in other words: a change of 0 that is not known to be none.
        let other: Vec<f64> = scores.iter().map(|s| s * s + 1.0).collect();
        let change = auc_change(&other, &scores, &positive, &patient).unwrap();
        assert!(change.value == 0.0 && change.upper > 0.1 && change.lower < -0.1, "{change:?}");
    }

    #[test]
    fn studies_are_means_and_gaps_are_between_extreme_groups() {
        let scored = Scored {
            outputs: vec![vec![0.2, 0.8], vec![0.4, 0.6], vec![1.0, 0.0]],
            group: vec![0, 0, 1],
            patient: vec![5, 5, 9],
        };
        let studies = scored.by_study(&[3, 3, 1]);
        assert!((studies.outputs[0][0] - 0.3).abs() < 1e-12 && studies.outputs[1] == [1.0, 0.0]);
        assert_eq!((studies.group, studies.patient), (vec![0, 1], vec![5, 9]));

        let rows = 120;
        let group: Vec<usize> = (0..rows).map(|i| i % 3).collect();
        let patient: Vec<usize> = (0..rows).collect();
        // Half of group 0 is missed, a quarter of the others.
        let every = |i: usize| if i.is_multiple_of(3) { 2 } else { 4 };
        let score = |i: usize| if (i / 3).is_multiple_of(every(i)) { 0.1 } else { 0.9 };
        let scores: Vec<f64> = (0..rows).map(score).collect();
        let truth: Vec<Option<bool>> = vec![Some(true); rows];
        let found = miss_gap(&scores, &truth, &group, &patient, 0.5, 1).unwrap();
        assert_eq!((found.groups.len(), found.values, found.patients), (3, 120, 120));
        let gap = found.spread;
        assert!((gap.observed - 0.25).abs() < 1e-12 && gap.value < 0.25 && gap.upper > 0.25, "{gap:?}");
        assert!(gap.p < 0.1, "{gap:?}");
        let unknown = vec![None; rows];
        assert_eq!(miss_gap(&scores, &unknown, &group, &patient, 0.5, 1), None);
    }
    #[test]
    fn a_change_of_what_is_the_same_is_none_and_one_that_is_small_is_seen_where_intervals_overlap() {
        let (scores, positive) = drawn(300, 3);
        let patient: Vec<usize> = (0..300).map(|i| i / 2).collect();
        let same = auc_change(&scores, &scores, &positive, &patient).unwrap();
        assert_eq!((same.value, same.lower, same.upper), (0.0, 0.0, 0.0));
        let worse: Vec<f64> = scores.iter().zip(&positive).map(|(s, p)| if *p { s - 0.05 } else { *s }).collect();
        let change = auc_change(&worse, &scores, &positive, &patient).unwrap();
        let (before, after) = (auc(&scores, &positive, &patient).unwrap(), auc(&worse, &positive, &patient).unwrap());
        assert!((change.value - (after.value - before.value)).abs() < 1e-12);
        assert!(change.upper < 0.0 && after.upper > before.lower, "{change:?} {before:?} {after:?}");
        // Two groups whose scores are each other's remainder: the mean is either.
        let both = |scores: &[f64]| Scored {
            outputs: scores.iter().map(|s| vec![*s, 1.0 - s]).collect(),
            group: positive.iter().map(|p| usize::from(!p)).collect(),
            patient: patient.clone(),
        };
        let mean = macro_auc(&both(&scores), &[0, 1]).unwrap();
        assert!((mean.value - before.value).abs() < 1e-9 && (mean.lower - before.lower).abs() < 1e-9);
        let changed = macro_change(&both(&worse), &both(&scores), &[0, 1]).unwrap();
        assert!((changed.value - change.value).abs() < 1e-9 && (changed.upper - change.upper).abs() < 1e-9);
        assert_eq!(macro_auc(&both(&scores), &[0]), None);
    }

    #[test]
    fn means_have_limits_of_patients() {
        let values: Vec<f64> = (0..60).map(|i| f64::from(i % 5)).collect();
        let own: Vec<usize> = (0..60).collect();
        let single = mean(&values, &own).unwrap();
        assert!(
            (single.value - 2.0).abs() < 1e-12 && (single.upper - 2.0 - Z_95 * (2.0f64 / 59.0).sqrt()).abs() < 1e-9
        );
        let twice: Vec<f64> = values.iter().flat_map(|v| [*v, *v]).collect();
        let pairs: Vec<usize> = (0..120).map(|i| i / 2).collect();
        assert!((mean(&twice, &pairs).unwrap().upper - single.upper).abs() < 1e-9, "copies tell nothing new");
        assert_eq!(mean(&values[..10], &own[..10]), None);
    }
}
