//! The temperature of study scores, fitted on the validation patients. Pure.
//!
//! One number T divides all logits (for groups: the logarithms of the probabilities), so that the likelihood of the
//! validation studies is greatest (Guo et al. 2017). The order of scores stays for findings and two groups; with more
//! groups it stays within a study, not between studies. Applied by `infer` in the node, by the same function here.
//! Neighbours: `evaluate`. Left out: Platt and Dirichlet, which need more studies.

use crate::domain::Purpose;
use crate::infer;

/// Bounds of T: beyond them the scores say nothing, or there is nothing to learn from.
const T_MIN: f64 = 0.05;
const T_MAX: f64 = 20.0;
/// p is kept this far from 0 and 1 where its logarithm is taken.
const P_MIN: f64 = 1e-7;

/// A study's probabilities, and what is true of it.
pub type Scored<'a> = (&'a [f64], &'a [Option<bool>]);

/// Fewer studies of which something is known do not tell a temperature.
const STUDIES_MIN: usize = 20;

/// The temperature that fits best, by golden section over ln T; the negative log-likelihood has one minimum. Why there
/// is none: too few studies, or a minimum beyond the bounds, as where no study is misclassified.
pub fn temperature(purpose: Purpose, studies: &[Scored<'_>]) -> Result<f64, String> {
    let known = studies.iter().filter(|(_, truth)| truth.iter().any(Option::is_some)).count();
    if known < STUDIES_MIN {
        return Err(format!("{known} validation studies with a known truth are fewer than {STUDIES_MIN}"));
    }
    let loss = |log_t: f64| mean_loss(purpose, studies, log_t.exp());
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (T_MIN.ln(), T_MAX.ln());
    for _ in 0..80 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if loss(a) <= loss(b) { high = b } else { low = a }
    }
    let found = f64::midpoint(low, high).exp();
    // A minimum within lies further from them than this.
    if !(1.01 * T_MIN..=0.99 * T_MAX).contains(&found) {
        return Err(format!("the likelihood of the validation studies grows to the bound {found:.2}"));
    }
    Ok(found)
}

/// The mean negative log-likelihood of what is known, with scores at temperature `t`.
pub fn mean_loss(purpose: Purpose, studies: &[Scored<'_>], t: f64) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for (values, truth) in studies {
        let mut values = values.to_vec();
        infer::temper(purpose, &mut values, t);
        for (p, truth) in values.iter().zip(*truth) {
            let p = match (purpose, truth) {
                (_, Some(true)) => *p,
                (Purpose::Clinical, Some(false)) => 1.0 - p,
                _ => continue,
            };
            sum -= p.max(P_MIN).ln();
            count += 1;
        }
    }
    sum / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Studies whose truth follows their probabilities, which are then made too sure by a factor on their logits.
    #[test]
    fn finds_how_much_too_sure_the_scores_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for (purpose, factor) in [(Purpose::Race, 2.5), (Purpose::Race, 0.5), (Purpose::Clinical, 3.0)] {
            let mut rows = Vec::new();
            for _ in 0..4000 {
                let logits: Vec<f64> = (0..3).map(|_| rng.random_range(-2.0..2.0)).collect();
                let mut honest: Vec<f64> = match purpose {
                    Purpose::Race => logits.iter().map(|z| z.exp()).collect(),
                    Purpose::Clinical => logits.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
                };
                let truth: Vec<Option<bool>> = match purpose {
                    Purpose::Race => {
                        let sum: f64 = honest.iter().sum();
                        honest.iter_mut().for_each(|p| *p /= sum);
                        let draw: f64 = rng.random();
                        let class = if draw < honest[0] { 0 } else { 1 + usize::from(draw >= honest[0] + honest[1]) };
                        (0..3).map(|i| Some(i == class)).collect()
                    }
                    Purpose::Clinical => honest.iter().map(|p| Some(rng.random::<f64>() < *p)).collect(),
                };
                infer::temper(purpose, &mut honest, 1.0 / factor);
                rows.push((honest, truth));
            }
            let studies: Vec<Scored<'_>> = rows.iter().map(|(v, t)| (v.as_slice(), t.as_slice())).collect();
            let found = temperature(purpose, &studies).unwrap();
            assert!((found / factor - 1.0).abs() < 0.1, "{purpose:?}: {found} for {factor}");
            assert!(mean_loss(purpose, &studies, found) < mean_loss(purpose, &studies, 1.0));
        }
    }

    #[test]
    fn the_temperature_is_scipys() {
        use crate::stats::reference::{answers, assert_close};
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let (mut classes, mut findings) = (Vec::new(), Vec::new());
        for _ in 0..600 {
            let mut p: Vec<f64> = (0..3).map(|_| rng.random_range(0.05..1.0)).collect();
            let sum: f64 = p.iter().sum();
            p.iter_mut().for_each(|v| *v /= sum);
            let class = if rng.random::<f64>() < 0.3 { rng.random_range(0..3) } else { usize::from(p[1] > p[0]) };
            classes.push((p, (0..3).map(|k| Some(k == class)).collect::<Vec<_>>()));
            let p: f64 = rng.random_range(0.02..0.98);
            findings.push((vec![p], vec![Some(rng.random::<f64>() < 0.3 + 0.4 * p)]));
        }
        for (purpose, kind, rows) in [(Purpose::Race, "classes", classes), (Purpose::Clinical, "findings", findings)] {
            let truth: Vec<Vec<u8>> =
                rows.iter().map(|(_, t)| t.iter().map(|v| u8::from(*v == Some(true))).collect()).collect();
            let probabilities: Vec<&Vec<f64>> = rows.iter().map(|(p, _)| p).collect();
            let given = serde_json::json!({"kind": kind, "probabilities": probabilities, "truth": truth});
            let answer = answers(&serde_json::json!({"a": {"of": "temperature", "given": given}}));
            let studies: Vec<Scored<'_>> = rows.iter().map(|(v, t)| (v.as_slice(), t.as_slice())).collect();
            // The minimum of a function is known to the square root of its precision.
            let found = temperature(purpose, &studies).unwrap();
            assert_close(kind, &[found], &[answer["a"].as_f64().unwrap()], 1e-6);
        }
    }

    #[test]
    fn scores_that_tell_no_temperature_are_left_as_they_are() {
        let right: [Scored<'_>; 2] =
            [(&[0.8, 0.2], &[Some(true), Some(false)]), (&[0.1, 0.9], &[Some(false), Some(true)])];
        let wrong: Scored<'_> = (&[0.7, 0.3], &[Some(false), Some(true)]);
        for purpose in [Purpose::Race, Purpose::Clinical] {
            let mut studies = right.repeat(15);
            let none = temperature(purpose, &studies).unwrap_err();
            assert!(none.contains("grows to the bound 0.05"), "{none}");
            assert!(temperature(purpose, &[wrong; 30]).unwrap_err().contains("grows to the bound 20.00"));
            studies.push(wrong);
            let found = temperature(purpose, &studies).unwrap();
            assert!((0.1..2.0).contains(&found), "{found}");
            let mut few = studies[12..].to_vec();
            assert!(temperature(purpose, &few).unwrap_err().starts_with("19 validation studies"));
            // Of what nobody said anything nothing is learned.
            few.extend([(&[0.6, 0.4][..], &[None, None][..]); 30]);
            assert!(temperature(purpose, &few).unwrap_err().starts_with("19 validation studies"));
        }
        assert_eq!(mean_loss(Purpose::Clinical, &[(&[0.5], &[None])], 1.0), 0.0);
    }
}
