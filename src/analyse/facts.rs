//! What an audit needs of a study, put together once when it is reported.
//!
//! The same aggregation as in the report. Neighbours: `labelled` reads the same for a fit, `store` keeps it. Left out:
//! outcomes and what people said of themselves, which come from elsewhere and later.

use super::labelled::{described, said};
use super::race_prior::RacePrior;
use super::scored::{Scored, scored};
use super::study::{patient_mismatch, race_of, whole};
use crate::config::Config;
use crate::domain::{FindingScore, ModelOutputs, Purpose, RacePosterior, ReadyStudy, StudyFacts, StudyScore};
use crate::infer::{self, Package};
use crate::store::Store;

/// Facts of the studies that were reported before facts were kept; returns how many. Each reading of race scores is
/// logged. `progress` hears how many are done.
pub async fn complete_facts(config: &Config, store: &Store, progress: &dyn Fn(u64)) -> anyhow::Result<u64> {
    let models = &config.models;
    let race = models.race.iter().filter(|_| config.risk.per_study_inference);
    let names: Vec<String> = race.chain(&models.clinical).cloned().collect();
    let packages = infer::load_all(&models.dir, &names)?;
    let prior = models.race_prior.as_deref().map(|path| RacePrior::of(path, &packages)).transpose()?;
    let mut done = 0;
    loop {
        let studies = store.studies_without_facts(BATCH).await?;
        if studies.is_empty() {
            return Ok(done);
        }
        for study in studies {
            let ready = store.ready_study_for(&study, "an audit").await?;
            store.keep_facts(&study, &facts(&packages, prior.as_ref(), &ready)).await?;
            done += 1;
            progress(done);
        }
    }
}

/// Studies that are looked up at once.
const BATCH: u32 = 500;

/// The facts of a study, by the packages as they are. One whose images are of several patients has no scores.
pub(super) fn facts(packages: &[Package], prior: Option<&RacePrior>, study: &ReadyStudy) -> StudyFacts {
    let all: Vec<&Package> = packages.iter().collect();
    let Scored { scores, unknown } = scored(&all, study, prior);
    of_scores(&all, study, &whole(scores, &all, study), &unknown)
}

/// The same where the scores are there; `unknown`: keys of models that do not know such images.
pub(super) fn of_scores(
    packages: &[&Package],
    study: &ReadyStudy,
    scores: &[StudyScore],
    unknown: &[String],
) -> StudyFacts {
    let told = described(study);
    let headers = || study.instances.iter().filter(|i| i.refusal.is_none()).map(|i| &i.header);
    let device = headers().map(|h| format!("{} {}", h.manufacturer, h.model_name)).find(|d| !d.trim().is_empty());
    let mut facts = StudyFacts {
        patient: told.patient,
        issuer: told.issuer,
        date: told.date,
        view: told.views.into_iter().collect::<Vec<_>>().join("+"),
        device: device.map_or_else(String::new, |d| d.trim().to_owned()),
        sex: headers().find_map(|h| h.sex()).unwrap_or_default(),
        age_years: headers().find_map(|h| h.age_years()),
        ..StudyFacts::default()
    };
    if patient_mismatch(study).is_some() {
        return facts;
    }
    let scored = |s: super::labelled::SaidOf| {
        Some(FindingScore { score: s.score?, model: s.model, finding: s.finding, threshold: s.threshold })
    };
    facts.scores = said(packages, study, scores).into_iter().filter_map(scored).collect();
    let race = packages.iter().find(|p| p.purpose == Purpose::Race).copied();
    facts.race =
        race_of(race, study, scores).ok().filter(|score| !unknown.contains(&score.model.key())).and_then(|score| {
            match &score.outputs {
                ModelOutputs::Groups(groups) => Some(RacePosterior {
                    model: score.model.key(),
                    groups: groups.iter().map(|g| g.key.clone()).collect(),
                    probabilities: score.values.clone(),
                }),
                ModelOutputs::Findings(_) => None,
            }
        });
    facts
}
