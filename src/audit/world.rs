//! Cohorts with a known law, for the tests of this room.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::dataset::{Dataset, Finding, Scored, SelfReport, Study};
use crate::stats::{expit, logit};

/// What is planted.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) patients: usize,
    /// A patient has one study, or one to so many, all with one hidden trait.
    pub(super) studies_most: usize,
    pub(super) shares: Vec<f64>,
    /// Mean of the true logit by group.
    pub(super) mean: Vec<f64>,
    /// The score's logit is the true one less this.
    pub(super) shift: Vec<f64>,
    pub(super) findings: usize,
    pub(super) threshold: f64,
    /// Share of patients whose self-report is known.
    pub(super) labelled: f64,
    pub(super) sites: usize,
    pub(super) months: u32,
    /// Distance of the groups in the race model's eyes.
    pub(super) separation: f64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            patients: 1000,
            studies_most: 1,
            shares: vec![0.5, 0.3, 0.2],
            mean: vec![-1.0; 3],
            shift: vec![0.0; 3],
            findings: 1,
            threshold: 0.3,
            labelled: 1.0,
            sites: 2,
            months: 3,
            separation: 3.0,
        }
    }
}

pub(super) const NAMES: [&str; 5] = ["A", "B", "C", "D", "E"];

impl World {
    pub(super) fn dataset(&self, seed: u64) -> Dataset {
        let (studies, findings) = self.drawn(seed);
        let groups = NAMES[..self.shares.len()].iter().map(|g| (*g).to_owned()).collect();
        Dataset::new(groups, Some("race-1".into()), studies, findings).unwrap()
    }

    pub(super) fn drawn(&self, seed: u64) -> (Vec<Study>, Vec<Finding>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let name = |i: usize| format!("finding-{i}");
        let empty =
            |i| Finding { finding: name(i), outcome: Vec::new(), models: vec![self.scored("1"), self.scored("2")] };
        let mut findings: Vec<Finding> = (0..self.findings).map(empty).collect();
        let mut studies = Vec::new();
        for patient in 0..self.patients {
            let mut at = rng.random::<f64>();
            let group = self.shares.iter().position(|share| (at -= share, at < 0.0).1).unwrap_or(0);
            let is_known = rng.random::<f64>() < self.labelled;
            let own: Vec<f64> = (0..self.findings).map(|_| rng.sample(StandardNormal)).collect();
            let posterior = self.posterior(group, &mut rng);
            let (age, sex) = (rng.random_range(18.0..90.0), if rng.random_bool(0.5) { "F" } else { "M" });
            for k in 0..rng.random_range(1..=self.studies_most) {
                studies.push(Study {
                    study: format!("{patient:06}.{k}"),
                    patient: format!("p{patient:06}"),
                    date: chrono::NaiveDate::from_ymd_opt(2024, 1 + rng.random_range(0..self.months), 1),
                    site: Some(format!("site-{}", rng.random_range(0..self.sites))),
                    device: Some(format!("device-{}", rng.random_range(0..3))),
                    view: Some(if rng.random_bool(0.7) { "PA" } else { "AP" }.into()),
                    portable: Some(rng.random_bool(0.2)),
                    age_years: Some(age),
                    sex: Some(sex.into()),
                    bmi: None,
                    self_report: if is_known { SelfReport::Group(group) } else { SelfReport::Missing },
                    posterior: Some(posterior.clone()),
                });
                for (finding, own) in findings.iter_mut().zip(&own) {
                    // Studies of a patient share four fifths of their variance.
                    let z = self.mean[group] + 0.9 * own + 0.45 * rng.sample::<f64, _>(StandardNormal);
                    let score = expit(z - self.shift[group]);
                    let other = expit(logit(score) + 0.3 * rng.sample::<f64, _>(StandardNormal));
                    finding.outcome.push(Some(rng.random::<f64>() < expit(z)));
                    finding.models[0].score.push(Some(score));
                    finding.models[1].score.push(Some(other));
                }
            }
        }
        (studies, findings)
    }

    fn scored(&self, version: &str) -> Scored {
        let model = format!("clinical-{version}");
        Scored { model, version: version.into(), threshold: self.threshold, score: Vec::new() }
    }

    /// Calibrated: each group has a coordinate of its own that is larger in its members.
    fn posterior(&self, group: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let d = self.separation;
        let mut logits: Vec<f64> = (0..self.shares.len())
            .map(|g| {
                let seen = rng.sample::<f64, _>(StandardNormal) + if g == group { d } else { 0.0 };
                self.shares[g].ln() + d * seen
            })
            .collect();
        crate::stats::softmax(&mut logits);
        logits
    }
}
