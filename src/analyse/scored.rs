//! A study's scores from those of its images: aggregated, calibrated, and for the race model reweighed where the site
//! says so.
//!
//! Neighbours: `infer` aggregates, `race_prior` is the site's mix, `analyse` assesses what comes out. Left out:
//! statements of any kind.

use crate::domain::{ModelOutputs, ReadyStudy, ScoredInstance, StudyScore};
use crate::infer::{self, Package, StudyImage};

use super::Analyser;
use super::race_prior::RacePrior;

/// What the packages make of a study.
#[derive(Debug, Default)]
pub(super) struct Scored {
    /// In the order of the packages, of those that have a score.
    pub(super) scores: Vec<StudyScore>,
    /// Keys of the models for which an image of the study lies beyond what they know (`[ood]` of their cards).
    pub(super) unknown: Vec<String>,
}

pub(super) fn scored(packages: &[&Package], study: &ReadyStudy, prior: Option<&RacePrior>) -> Scored {
    let images = images(study);
    let mut scored = Scored::default();
    for package in packages {
        let far = infer::ood_of(package, &images);
        if package.ood.as_ref().zip(far).is_some_and(|(ood, score)| ood.is_beyond(score)) {
            scored.unknown.push(package.key());
        }
        scored.scores.extend(infer::aggregate(package, &images).and_then(|score| under(prior, score)));
    }
    scored
}

impl Analyser {
    /// The site's mix by which race posteriors are reweighed, where the configuration names one.
    pub fn race_prior(&self) -> Option<&RacePrior> {
        self.race_prior.as_ref()
    }
}

/// The study's posterior by the race model alone, as it holds under the prior that the model was trained with.
pub fn posterior(race: &Package, study: &ReadyStudy) -> Option<Vec<f64>> {
    infer::aggregate(race, &images(study)).map(|score| score.values)
}

fn images<'a>(study: &'a ReadyStudy) -> Vec<StudyImage<'a>> {
    let of = |i: &'a ScoredInstance| i.scores.iter().map(|score| StudyImage { score, view: i.header.view });
    study.instances.iter().flat_map(of).collect()
}

/// A posterior under the site's prior; other scores as they are. None where the site has no patient of the only groups
/// that the posterior leaves: that is no answer.
fn under(prior: Option<&RacePrior>, score: StudyScore) -> Option<StudyScore> {
    match (prior, &score.outputs) {
        (Some(prior), ModelOutputs::Groups(_)) => {
            let values = prior.reweighed(&score.values)?;
            Some(StudyScore { values, ..score })
        }
        _ => Some(score),
    }
}
