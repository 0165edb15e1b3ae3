//! Two lines from the gradients of white-box models: alignment and directed dose response.
//!
//! Both compare a race direction in the image with directions that are none. Alignment: the cosine of the finding's
//! gradient with that of the race margin, against heads that were fitted to exchanged labels on the same features. Dose
//! response: the finding's logit one step up and one step down the race gradient, against random steps of the same norm
//! and spectrum. What a common spectrum or basis does to any direction is in both sides of the comparison; random
//! directions are the negative control of both. Neighbours: `infer` computes gradients. Left out: how heads are fitted.

use std::collections::BTreeMap;

use super::{NoLine, adjusted};
use crate::domain::{Control, EvidenceLine, Interval, LineKind};
use crate::stats::{ClusterBootstrap, Z_95, standard_deviation};

/// Cosines of one finding and group, image by image.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    pub model: String,
    pub finding: String,
    pub group: String,
    /// Whose image it is.
    pub patients: Vec<String>,
    pub cosines: Vec<f64>,
    /// The same for each head that was fitted to exchanged labels.
    pub exchanged: Vec<Vec<f64>>,
    /// With a random direction of the race gradient's spectrum.
    pub random: Vec<f64>,
}

/// Shifts of one finding's logit, image by image: half of the difference between a step up and a step down.
#[derive(Debug, Clone, PartialEq)]
pub struct Dose {
    pub model: String,
    pub finding: String,
    pub group: String,
    pub patients: Vec<String>,
    /// Along the race gradient.
    pub directed: Vec<f64>,
    /// The mean over random steps.
    pub random: Vec<f64>,
}

/// Label-permuted heads that are needed (method.md §3).
const HEADS_MIN: usize = 20;
const PATIENTS_MIN: usize = 20;
/// Sign flips beside the one that was observed.
const FLIPS: u64 = 9999;

/// A line for each; p is the share of exchanged heads at least as far from their mean.
pub fn alignment(runs: &[Alignment], seed: u64) -> Result<Vec<EvidenceLine>, NoLine> {
    let mut lines = Vec::new();
    for run in runs {
        let heads = run.exchanged.len();
        if heads < HEADS_MIN {
            let why = format!("{heads} heads with exchanged labels, at least {HEADS_MIN} are needed");
            return Err(NoLine::Unusable(why));
        }
        let own = by_patient(&run.patients, &run.cosines)?;
        let null = run.exchanged.iter().map(|head| by_patient(&run.patients, head).map(|head| mean(&head)));
        let null = null.collect::<Result<Vec<f64>, NoLine>>()?;
        let (middle, observed) = (mean(&null), mean(&own));
        let as_far = null.iter().filter(|m| (*m - middle).abs() >= (observed - middle).abs()).count();
        let beyond: Vec<f64> = own.iter().map(|cosine| cosine - middle).collect();
        lines.push(EvidenceLine {
            kind: LineKind::GradientAlignment,
            model: run.model.clone(),
            finding: Some(run.finding.clone()),
            group: run.group.clone(),
            value: within_one(limits(&beyond)),
            p: (1 + as_far) as f64 / (1 + heads) as f64,
            control: control(&by_patient(&run.patients, &run.random)?, seed),
            patients: own.len() as u64,
        });
    }
    Ok(adjusted(lines))
}

/// A line for each: paired sign flips by patient of what the directed step does beyond the random ones.
pub fn dose_response(runs: &[Dose], seed: u64) -> Result<Vec<EvidenceLine>, NoLine> {
    let mut lines = Vec::new();
    for run in runs {
        let beyond: Vec<f64> = run.directed.iter().zip(&run.random).map(|(d, r)| d - r).collect();
        let beyond = by_patient(&run.patients, &beyond)?;
        lines.push(EvidenceLine {
            kind: LineKind::DoseResponse,
            model: run.model.clone(),
            finding: Some(run.finding.clone()),
            group: run.group.clone(),
            value: limits(&beyond),
            p: sign_flips(&beyond, seed),
            control: control(&by_patient(&run.patients, &run.random)?, seed),
            patients: beyond.len() as u64,
        });
    }
    Ok(adjusted(lines))
}

/// Means by patient, in the order of their keys.
fn by_patient(patients: &[String], values: &[f64]) -> Result<Vec<f64>, NoLine> {
    if patients.len() != values.len() || values.iter().any(|v| !v.is_finite()) {
        return Err(NoLine::Unusable("a value is missing or no number".to_owned()));
    }
    let mut own: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    patients.iter().zip(values).for_each(|(patient, value)| own.entry(patient).or_default().push(*value));
    if own.len() < PATIENTS_MIN {
        return Err(NoLine::TooFew(own.len(), PATIENTS_MIN));
    }
    Ok(own.values().map(|values| mean(values)).collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn limits(values: &[f64]) -> Interval {
    let (estimate, half) = (mean(values), Z_95 * standard_deviation(values) / (values.len() as f64).sqrt());
    Interval { estimate, lower: estimate - half, upper: estimate + half }
}

fn within_one(value: Interval) -> Interval {
    let Interval { estimate, lower, upper } = value;
    let cut = |v: f64| v.clamp(-1.0, 1.0);
    Interval { estimate: cut(estimate), lower: cut(lower), upper: cut(upper) }
}

/// Two-sided p-value of a mean of zero, by flipping the signs of patients.
fn sign_flips(values: &[f64], seed: u64) -> f64 {
    let observed = values.iter().sum::<f64>().abs();
    let flipped = |signs: &[f64]| values.iter().zip(signs).map(|(v, s)| v * s).sum::<f64>().abs();
    let sums = ClusterBootstrap { clusters: values.len(), seed }.map_signs(FLIPS, flipped);
    // Sums of the same numbers in another order of signs differ by rounding.
    let as_far = sums.iter().filter(|sum| **sum >= observed * (1.0 - 1e-12)).count();
    (1 + as_far) as f64 / (1 + sums.len()) as f64
}

fn control(random: &[f64], seed: u64) -> Control {
    if sign_flips(random, seed) > 0.05 { Control::Passed } else { Control::Failed }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("{:03}", i / 2)).collect()
    }

    /// Values around 0 that are the same for both images of a patient.
    fn noise(n: usize, seed: usize) -> Vec<f64> {
        let one = |i: usize| ((i / 2 * 7919 + seed * 104_729 + 13) % 1009) as f64 / 1009.0 - 0.4995;
        (0..n).map(one).collect()
    }

    fn dose(n: usize, effect: f64) -> Dose {
        let directed = noise(n, 1).iter().map(|v| 0.1 * v + effect).collect();
        let (patients, random) = (names(n), noise(n, 2).iter().map(|v| 0.1 * v).collect());
        Dose { model: "m".into(), finding: "f".into(), group: "A".into(), patients, directed, random }
    }

    #[test]
    fn a_dose_is_told_from_none_by_patients_and_not_by_images() {
        let line = |effect| dose_response(&[dose(120, effect)], 1).unwrap().remove(0);
        let (with, without) = (line(0.05), line(0.0));
        assert!(with.p < 0.001 && with.value.lower > 0.0 && with.control == Control::Passed, "{with:?}");
        assert!(without.p > 0.05 && without.value.lower < 0.0 && without.value.upper > 0.0, "{without:?}");
        assert_eq!(with.patients, 60);
        // The limits are those of 60 patients: every image twice changes nothing.
        let single = Dose {
            patients: (0..60).map(|i| format!("{i:03}")).collect(),
            directed: dose(120, 0.05).directed.into_iter().step_by(2).collect(),
            random: dose(120, 0.05).random.into_iter().step_by(2).collect(),
            ..dose(120, 0.05)
        };
        assert_eq!(dose_response(&[single], 1).unwrap()[0].value, with.value);
        let mut lopsided = dose(120, 0.0);
        lopsided.random.iter_mut().for_each(|v| *v += 0.1);
        assert_eq!(dose_response(&[lopsided], 1).unwrap()[0].control, Control::Failed);
    }

    #[test]
    fn flipping_signs_gives_the_exact_p_value_of_few_patients() {
        // Of 2^20 sign vectors only all + and all − reach the sum: 1.9e-6, and the smallest p of 9,999 flips is 1e-4.
        assert!((sign_flips(&[1.0; 20], 3) - 1e-4).abs() < 1e-9);
        assert_eq!(sign_flips(&[0.0; 20], 3), 1.0);
        // Beside one large value four small ones, whose own sum is 0: as far are flips whose small ones do not work against
        // the large one, 11 of 16.
        let p = sign_flips(&[10.0, 1e-3, -1e-3, 1e-3, -1e-3], 3);
        assert!((p - 11.0 / 16.0).abs() < 0.02, "{p}");
    }

    #[test]
    fn an_alignment_is_as_rare_as_its_rank_among_exchanged_heads() {
        let n = 60;
        let run = |shift: f64| Alignment {
            model: "m".into(),
            finding: "f".into(),
            group: "A".into(),
            patients: names(n),
            cosines: noise(n, 1).iter().map(|v| 0.1 * v + shift).collect(),
            // Heads have a mean of their own: what any direction in these features has in common with the finding.
            exchanged: (0..39)
                .map(|h| noise(n, 3).iter().map(|v| v * 0.1 + 0.2 + 0.001 * h as f64).collect())
                .collect(),
            random: noise(n, 2),
        };
        let p = |shift| alignment(&[run(shift)], 1).unwrap()[0].p;
        assert_eq!(p(0.6), 1.0 / 40.0);
        assert!(p(0.22) > 0.3, "{}", p(0.22));
        let value = alignment(&[run(0.6)], 1).unwrap()[0].value;
        assert!((value.estimate - (0.6 - 0.219)).abs() < 0.02, "beyond the mean of heads: {value:?}");
        assert!(alignment(&[Alignment { exchanged: vec![vec![0.0; n]; 19], ..run(0.0) }], 1).is_err());
        assert!(alignment(&[Alignment { cosines: vec![f64::NAN; n], ..run(0.0) }], 1).is_err());
        let few = Alignment { patients: vec!["one".into(); n], ..run(0.0) };
        assert_eq!(alignment(&[few], 1).unwrap_err(), NoLine::TooFew(1, 20));
        // Two tests are twice as likely to find one.
        assert_eq!(alignment(&[run(0.6), run(0.22)], 1).unwrap()[0].p, 2.0 / 40.0);
    }
}
