//! Two lines from the gradients of white-box models: alignment and directed dose response.
//!
//! Both ask what the finding's network makes of a direction in the image: alignment by the cosine of its gradient with the
//! direction, dose response by its logit one step up and one step down. The direction is the gradient of a race head; the
//! null is made of the gradients of heads that were fitted to exchanged labels on the same features. A step in *any*
//! direction that images vary in moves most networks, so that zero is no null; what a common spectrum, basis or
//! sensitivity does is in the exchanged heads too. A head is a sum over patients' labels, so that the means of exchanged
//! heads are close to normal, and p comes from Student's t with one degree of freedom less than heads.
//!
//! **Negative control.** The same for a network of the clinical model's shape that knows nothing: where that one follows
//! the race head as well, labels make heads of another kind than exchanged labels do (coarser, brighter), and the line
//! counts for nothing. Neighbours: `infer` computes gradients. Left out: how heads are fitted.

use std::collections::BTreeMap;

use super::{NoLine, adjusted, controlled};
use crate::domain::{EvidenceLine, Interval, LineKind};
use crate::stats::{Z_95, standard_deviation, student_quantile, student_tail};

/// What a network makes of race directions, image by image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Followed {
    /// Of the head that was fitted to the labels.
    pub own: Vec<f64>,
    /// Of each head that was fitted to exchanged labels.
    pub exchanged: Vec<Vec<f64>>,
}

/// What a finding and a network that knows nothing make of one group's directions: cosines, or shifts of a logit (half of
/// the difference between a step up and a step down).
#[derive(Debug, Clone, PartialEq)]
pub struct Directed {
    pub kind: LineKind,
    pub model: String,
    pub finding: String,
    pub group: String,
    /// Whose image it is.
    pub patients: Vec<String>,
    pub trained: Followed,
    /// None where there is no such network.
    pub untrained: Option<Followed>,
}

/// Label-permuted heads that are needed (method.md §3).
const HEADS_MIN: usize = 20;
const PATIENTS_MIN: usize = 20;

/// A line for each run; those of one call are adjusted together.
pub fn directed(runs: &[Directed]) -> Result<Vec<EvidenceLine>, NoLine> {
    let mut lines = Vec::new();
    let mut controls = Vec::new();
    for run in runs {
        let found = beyond(&run.patients, &run.trained)?;
        controls.push(run.untrained.as_ref().map(|u| beyond(&run.patients, u)).transpose()?.map(|u| u.p));
        let within = |v: f64| if run.kind == LineKind::GradientAlignment { v.clamp(-1.0, 1.0) } else { v };
        lines.push(EvidenceLine {
            kind: run.kind,
            model: run.model.clone(),
            finding: Some(run.finding.clone()),
            group: run.group.clone(),
            value: Interval {
                estimate: within(found.value.estimate),
                lower: within(found.value.lower),
                upper: within(found.value.upper),
            },
            p: found.p,
            control: crate::domain::Control::Absent,
            patients: found.patients,
        });
    }
    Ok(adjusted(controlled(lines, &controls)))
}

struct Beyond {
    /// Own head less the mean of exchanged ones; limits are those of patients and of heads together.
    value: Interval,
    p: f64,
    patients: u64,
}

fn beyond(patients: &[String], followed: &Followed) -> Result<Beyond, NoLine> {
    let heads = followed.exchanged.len();
    if heads < HEADS_MIN {
        let why = format!("{heads} heads with exchanged labels, at least {HEADS_MIN} are needed");
        return Err(NoLine::Unusable(why));
    }
    let own = by_patient(patients, &followed.own)?;
    let null = followed.exchanged.iter().map(|head| by_patient(patients, head).map(|head| mean(&head)));
    let null = null.collect::<Result<Vec<f64>, NoLine>>()?;
    let (middle, estimate) = (mean(&null), mean(&own) - mean(&null));
    // Of one more head than those whose mean and spread are known.
    let spread = standard_deviation(&null.iter().map(|m| m - middle).collect::<Vec<_>>());
    let spread = spread * (1.0 + 1.0 / heads as f64).sqrt();
    let freedom = (heads - 1) as f64;
    let p = match spread > 0.0 {
        true => 2.0 * student_tail(estimate.abs() / spread, freedom),
        false if estimate == 0.0 => 1.0,
        false => return Err(NoLine::Unusable("heads with exchanged labels do not differ".to_owned())),
    };
    let of_patients = Z_95 * standard_deviation(&own) / (own.len() as f64).sqrt();
    let half = of_patients.hypot(student_quantile(0.975, freedom) * spread);
    let value = Interval { estimate, lower: estimate - half, upper: estimate + half };
    Ok(Beyond { value, p: p.min(1.0), patients: own.len() as u64 })
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::domain::Control;

    /// Two images of each patient, 59 heads; own directions lie `effect` standard deviations of a head further.
    fn run(patients: usize, effect: f64, untrained: Option<f64>, seed: u64) -> Directed {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = move || -> f64 { StandardNormal.sample(&mut rng) };
        let names: Vec<String> = (0..2 * patients).map(|i| format!("{:03}", i / 2)).collect();
        let mut followed = |effect: f64| {
            let people: Vec<f64> = (0..patients).map(|_| 0.05 * normal()).collect();
            // A head has a part of its own in all images, and all have what any direction has in common with a network.
            let mut head = |shift: f64| -> Vec<f64> {
                let own = 0.3 + 0.02 * (normal() + shift);
                (0..2 * patients).map(|i| own + people[i / 2] + 0.01 * normal()).collect()
            };
            Followed { own: head(effect), exchanged: (0..59).map(|_| head(0.0)).collect() }
        };
        let trained = followed(effect);
        let (model, finding, group) = ("m".into(), "f".into(), "A".into());
        let kind = LineKind::GradientAlignment;
        Directed { kind, model, finding, group, patients: names, trained, untrained: untrained.map(followed) }
    }

    #[test]
    fn a_network_that_follows_any_direction_is_told_from_one_that_follows_races() {
        let of = |effect, untrained, seed| directed(&[run(60, effect, untrained, seed)]).unwrap().remove(0);
        let (mut rejected, mut failed, worlds) = (0, 0, 400);
        for seed in 0..worlds {
            let line = of(0.0, Some(0.0), seed);
            // Its cosine is .3, far from 0 for every patient, and so is every head's.
            assert!(line.value.estimate.abs() < 0.15, "{line:?}");
            rejected += u32::from(line.p <= 0.05);
            failed += u32::from(line.control == Control::Failed);
        }
        // 20 expected of 400; a standard error is 4.4.
        assert!((7..=34).contains(&rejected) && (7..=34).contains(&failed), "{rejected} {failed} of {worlds}");
        for seed in 0..20 {
            let line = of(8.0, Some(0.0), 1000 + seed);
            assert!(line.p <= 0.001 && line.value.lower > 0.0, "{line:?}");
            let control = of(8.0, Some(8.0), 2000 + seed).control;
            assert_eq!((control, of(8.0, None, 3000 + seed).control), (Control::Failed, Control::Absent));
        }
    }

    #[test]
    fn patients_count_and_not_images_and_heads_carry_the_limits() {
        let twice = run(60, 6.0, None, 1);
        let once = |values: &[f64]| -> Vec<f64> { values.chunks(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect() };
        let single = Directed {
            patients: twice.patients.iter().step_by(2).cloned().collect(),
            trained: Followed {
                own: once(&twice.trained.own),
                exchanged: twice.trained.exchanged.iter().map(|head| once(head)).collect(),
            },
            ..twice.clone()
        };
        let (twice, single) = (directed(&[twice]).unwrap().remove(0), directed(&[single]).unwrap().remove(0));
        assert!((twice.value.lower - single.value.lower).abs() < 1e-12 && twice.patients == 60);
        // Heads of a spread of .02 and people of .05 over the root of 60: 2.0 × .02 and 1.96 × .0065 together.
        let half = twice.value.upper - twice.value.estimate;
        assert!((half - 0.042).abs() < 0.01, "{half}");
    }

    #[test]
    fn the_p_value_is_students_and_several_lines_are_adjusted_together() {
        // scipy.stats.t.sf(2.5, 58) * 2
        assert!((2.0 * student_tail(2.5, 58.0) - 0.015_269_229_6).abs() < 1e-9, "{}", student_tail(2.5, 58.0));
        let line = |runs: &[Directed]| directed(runs).unwrap()[0].p;
        let (strong, weak) = (run(60, 4.0, None, 5), run(60, 0.0, None, 6));
        assert!((line(&[strong.clone(), weak]) - 2.0 * line(&[strong])).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let why = |change: &dyn Fn(&mut Directed)| {
            let mut run = run(60, 0.0, None, 1);
            change(&mut run);
            directed(&[run]).unwrap_err().to_string()
        };
        assert!(why(&|run| run.trained.exchanged.truncate(19)).starts_with("19 heads"));
        assert!(why(&|run| run.trained.own[3] = f64::NAN).contains("no number"));
        assert!(why(&|run| run.patients.fill("one".into())).starts_with("1 patients, at least 20"));
        assert!(why(&|run| run.trained.exchanged = vec![vec![0.0; 120]; 20]).contains("do not differ"));
        assert!(why(&|run| run.untrained = Some(Followed::default())).starts_with("0 heads"));
    }
}
