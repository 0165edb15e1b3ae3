//! What predictions come to: AUCs of one group against all others, of findings, and gaps of miss rates, with intervals.
//!
//! Intervals are DeLong's where every patient has one value, else percentiles of a bootstrap that draws patients; those
//! of gaps and means always. Pure. Neighbours: `rows` chooses what is measured. Left out: tests of hypotheses.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::stats::{ClusterBootstrap, delong, quantile};

/// Draws of the bootstrap.
pub const DRAWS: u64 = 1000;
/// With fewer patients of a class nothing is said.
pub const PATIENTS_MIN: usize = 11;
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
        let mut numbers = self.patient.clone();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
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
pub fn auc(scores: &[f64], positive: &[bool], patient: &[usize], seed: u64) -> Option<Estimate> {
    let of = |class: bool| {
        let mut patients: Vec<usize> =
            patient.iter().zip(positive).filter(|(_, p)| **p == class).map(|(patient, _)| *patient).collect();
        patients.sort_unstable();
        patients.dedup();
        patients.len()
    };
    if of(true) < PATIENTS_MIN || of(false) < PATIENTS_MIN {
        return None;
    }
    let dense = dense(patient);
    if dense.1 == scores.len() {
        let found = delong(scores, positive)?;
        let found = Estimate { value: found.auc, lower: found.lower, upper: found.upper };
        return Some(with_room(found, of(true).min(of(false))));
    }
    let curve = Curve::of(scores, positive)?;
    let draws = bootstrap(&dense, seed, |weight| curve.auc(|row| weight[dense.0[row]]));
    interval(curve.auc(|_| 1.0)?, draws).map(|found| with_room(found, of(true).min(of(false))))
}

/// A score that parts the classes wholly has no variance, which is no certainty: by the rule of three, of the smaller
/// class's patients, up to 3 / n may be otherwise.
fn with_room(found: Estimate, patients: usize) -> Estimate {
    let room = 3.0 / patients.max(3) as f64;
    match found {
        Estimate { value, lower, .. } if value >= 1.0 && lower >= 1.0 => Estimate { lower: 1.0 - room, ..found },
        Estimate { value, upper, .. } if value <= 0.0 && upper <= 0.0 => Estimate { upper: room, ..found },
        _ => found,
    }
}

/// The mean over these groups of the AUC of each against all others; its limits are of the bootstrap. `None` of fewer
/// than two.
pub fn macro_auc(scored: &Scored, groups: &[usize], seed: u64) -> Option<Estimate> {
    let member = |group: usize| scored.group.iter().map(|g| *g == group).collect::<Vec<bool>>();
    if groups.len() < 2 {
        return None;
    }
    let curve = |g: &usize| Curve::of(&scored.column(*g), &member(*g));
    let curves = groups.iter().map(curve).collect::<Option<Vec<Curve>>>()?;
    let dense = dense(&scored.patient);
    let mean = |weight: &dyn Fn(usize) -> f64| {
        let aucs = curves.iter().map(|curve| curve.auc(weight)).collect::<Option<Vec<f64>>>()?;
        Some(aucs.iter().sum::<f64>() / aucs.len() as f64)
    };
    let draws = bootstrap(&dense, seed, |weight| mean(&|row| weight[dense.0[row]]));
    interval(mean(&|_| 1.0)?, draws)
}

/// By how much the largest miss rate (FNR) of a group exceeds the smallest, at a threshold; of groups with
/// [`CASES_MIN`] patients who have the finding. `truth`: of each row, where it is known. A largest less a smallest is above
/// 0 by chance alone, and so are its limits.
pub fn miss_gap(
    scores: &[f64],
    truth: &[Option<bool>],
    group: &[usize],
    patient: &[usize],
    threshold: f64,
    seed: u64,
) -> Option<Estimate> {
    let rows: Vec<usize> = (0..scores.len()).filter(|row| truth[*row] == Some(true)).collect();
    let mut groups: Vec<usize> = rows.iter().map(|row| group[*row]).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|g| {
        let mut own: Vec<usize> = rows.iter().filter(|row| group[**row] == *g).map(|row| patient[*row]).collect();
        own.sort_unstable();
        own.dedup();
        own.len() >= CASES_MIN
    });
    if groups.len() < 2 {
        return None;
    }
    let of: Vec<usize> = rows.iter().map(|row| patient[*row]).collect();
    let dense = dense(&of);
    let gap = |weight: &dyn Fn(usize) -> f64| {
        let rate = |g: &usize| {
            let own = rows.iter().enumerate().filter(|(_, row)| group[**row] == *g);
            let (mut missed, mut all) = (0.0, 0.0);
            for (at, row) in own {
                all += weight(at);
                missed += if scores[*row] < threshold { weight(at) } else { 0.0 };
            }
            (all > 0.0).then(|| missed / all)
        };
        let rates = groups.iter().map(rate).collect::<Option<Vec<f64>>>()?;
        let largest = rates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(largest - rates.iter().copied().fold(f64::INFINITY, f64::min))
    };
    let draws = bootstrap(&dense, seed, |weight| gap(&|at| weight[dense.0[at]]));
    interval(gap(&|_| 1.0)?, draws)
}

/// The mean of values, its limits by the bootstrap.
pub fn mean(values: &[f64], patient: &[usize], seed: u64) -> Option<Estimate> {
    let dense = dense(patient);
    if dense.1 < PATIENTS_MIN {
        return None;
    }
    let mean = |weight: &dyn Fn(usize) -> f64| {
        let (sum, all) =
            values.iter().enumerate().fold((0.0, 0.0), |(s, n), (row, v)| (s + weight(row) * v, n + weight(row)));
        (all > 0.0).then(|| sum / all)
    };
    let draws = bootstrap(&dense, seed, |weight| mean(&|row| weight[dense.0[row]]));
    interval(mean(&|_| 1.0)?, draws)
}

/// Patients numbered without gaps, row by row, and how many there are.
fn dense(patient: &[usize]) -> (Vec<usize>, usize) {
    let numbers = super::cohort::numbered(patient.iter());
    let count = numbers.iter().max().map_or(0, |m| m + 1);
    (numbers, count)
}

fn bootstrap(
    dense: &(Vec<usize>, usize),
    seed: u64,
    statistic: impl Fn(&[f64]) -> Option<f64> + Sync + Send,
) -> Vec<f64> {
    let bootstrap = ClusterBootstrap { clusters: dense.1, seed };
    bootstrap.map(DRAWS, |_, weight| statistic(weight)).into_iter().flatten().collect()
}

/// Percentiles; `None` where too many draws have no value for them to mean anything.
fn interval(value: f64, mut draws: Vec<f64>) -> Option<Estimate> {
    if (draws.len() as u64) < DRAWS * 9 / 10 {
        return None;
    }
    draws.par_sort_unstable_by(f64::total_cmp);
    Some(Estimate { value, lower: quantile(&draws, 0.025)?, upper: quantile(&draws, 0.975)? })
}

/// Scores in order, for weighted areas: sorted once, summed for each draw.
struct Curve {
    /// Rows by rising score, and whether the score is the one before it.
    order: Vec<(usize, bool)>,
    positive: Vec<bool>,
}

impl Curve {
    fn of(scores: &[f64], positive: &[bool]) -> Option<Self> {
        let classes = positive.contains(&true) && positive.contains(&false);
        if !classes || scores.iter().any(|s| s.is_nan()) {
            return None;
        }
        let mut rows: Vec<usize> = (0..scores.len()).collect();
        rows.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let tied = |at: usize| at > 0 && scores[rows[at]] == scores[rows[at - 1]];
        let order = (0..rows.len()).map(|at| (rows[at], tied(at))).collect();
        Some(Self { order, positive: positive.to_vec() })
    }

    /// The area with this weight of each row; `None` where a class has none.
    fn auc(&self, weight: impl Fn(usize) -> f64) -> Option<f64> {
        let (mut below, mut here, mut area) = (0.0, [0.0, 0.0], 0.0);
        let mut positives = 0.0;
        for (row, is_tied) in &self.order {
            if !is_tied {
                area += here[1] * (below + here[0] / 2.0);
                below += here[0];
                here = [0.0, 0.0];
            }
            let weight = weight(*row);
            here[usize::from(self.positive[*row])] += weight;
            positives += if self.positive[*row] { weight } else { 0.0 };
        }
        area += here[1] * (below + here[0] / 2.0);
        below += here[0];
        (below > 0.0 && positives > 0.0).then(|| area / below / positives)
    }
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
    fn the_weighted_area_is_that_of_rows_which_stand_as_often() {
        let (scores, positive) = drawn(200, 1);
        let curve = Curve::of(&scores, &positive).unwrap();
        let expected = stats::auc(&scores, &positive).unwrap();
        assert!((curve.auc(|_| 1.0).unwrap() - expected).abs() < 1e-12);
        let twice: Vec<usize> = (0..200).flat_map(|row| std::iter::repeat_n(row, row % 3)).collect();
        let of = |row: &usize| (scores[*row], positive[*row]);
        let (scores, positive): (Vec<f64>, Vec<bool>) = twice.iter().map(of).unzip();
        let expected = stats::auc(&scores, &positive).unwrap();
        assert!((curve.auc(|row| (row % 3) as f64).unwrap() - expected).abs() < 1e-12);
        assert_eq!(curve.auc(|_| 0.0), None);
    }

    #[test]
    fn limits_are_delongs_for_single_images_and_wider_for_patients_with_several() {
        let (scores, positive) = drawn(400, 2);
        let own: Vec<usize> = (0..400).collect();
        let single = auc(&scores, &positive, &own, 7).unwrap();
        let reference = stats::delong(&scores, &positive).unwrap();
        assert_eq!((single.value, single.lower), (reference.auc, reference.lower));
        let apart: Vec<f64> = positive.iter().map(|p| f64::from(u8::from(*p))).collect();
        let sure = auc(&apart, &positive, &own, 7).unwrap();
        let fewer = positive.iter().filter(|p| **p).count().min(positive.iter().filter(|p| !**p).count());
        assert_eq!((sure.value, sure.lower), (1.0, 1.0 - 3.0 / fewer as f64));
        // Everybody four times: no more is known than before.
        let four = |i: usize| i / 4;
        let copied: (Vec<f64>, Vec<bool>) = (0..1600).map(|i| (scores[four(i)], positive[four(i)])).unzip();
        let patients: Vec<usize> = (0..1600).map(four).collect();
        let clustered = auc(&copied.0, &copied.1, &patients, 7).unwrap();
        assert!((clustered.value - single.value).abs() < 1e-12);
        let width = |e: &Estimate| e.upper - e.lower;
        assert!((width(&clustered) / width(&single) - 1.0).abs() < 0.12, "{clustered:?} {single:?}");
        assert_eq!(auc(&scores[..12], &positive[..12], &own[..12], 7), None, "too few patients");
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
            let found = auc(&scores, &positive, &patient, seed).unwrap();
            // Φ(1 / √(2 · 1.25))
            (found.lower..=found.upper).contains(&0.736_455)
        };
        let hits = (0..200).filter(|seed| covered(*seed)).count();
        // 95 % of 200, three standard errors to either side.
        assert!((181..=199).contains(&hits), "{hits} of 200");
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
        let gap = miss_gap(&scores, &truth, &group, &patient, 0.5, 1).unwrap();
        assert!((gap.value - 0.25).abs() < 1e-12 && gap.lower < 0.25 && gap.upper > 0.25, "{gap:?}");
        let unknown = vec![None; rows];
        assert_eq!(miss_gap(&scores, &unknown, &group, &patient, 0.5, 1), None);
    }
}
