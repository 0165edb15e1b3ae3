//! The studies of the index that have labels: their scores, as `analyse` writes them to `result.json`, for a fit.
//!
//! The same aggregation as in the node, without devices and workers: what was scored is only put together. Neighbours:
//! `scored`, `study`, `store`; `assess` joins scores and labels. Left out: the fit.

use chrono::NaiveDate;
use serde_json::{Value, json};

use super::race_prior::RacePrior;
use super::scored::{Scored, scored};
use super::study::{patient_mismatch, race_of, results, whole};
use crate::assess::Labelled;
use crate::config::{Config, PrecisionChoice};
use crate::domain::{Digest, Finding, Given, ModelOutputs, Precision, Purpose, ReadyStudy, StudyScore};
use crate::infer::{self, Package};
use crate::results::{GroupName, Standing};
use crate::store::Store;

/// Scores of the studies that have outcomes and a self-reported group, and what is true of them. Race scores are read of
/// no other study, and each reading is logged.
pub async fn labelled(config: &Config, store: &Store) -> anyhow::Result<(Value, Vec<Labelled>)> {
    let models = &config.models;
    let race = models.race.iter().filter(|_| config.risk.per_study_inference);
    let names: Vec<String> = race.chain(&models.clinical).cloned().collect();
    let packages = infer::load_all(&models.dir, &names)?;
    let prior = models.race_prior.as_deref().map(|path| RacePrior::of(path, &packages)).transpose()?;
    let (mut studies, mut labelled) = (Vec::new(), Vec::new());
    // Its card says what its groups are, whether or not it infers anything.
    let named = models.race.as_deref().map(|name| Package::load(&models.dir.join(name))).transpose()?;
    let groups = group_names(named.as_slice());
    let mut usable = 0;
    for (study, labels) in store.labels(&groups).await? {
        if labels.outcomes.is_empty() || labels.report.race.is_empty() {
            continue;
        }
        let standing = labels.report.standing(&groups);
        let group = match standing {
            Standing::Group(group) => group.to_owned(),
            // Without a race model any one category is a group.
            Standing::Other if groups.is_empty() => labels.report.race.into_iter().collect(),
            _ => {
                // It is counted, and no race score of it is read.
                studies.push(json!({"study": study, "state": "reported", "race": null, "findings": []}));
                let study = study.to_string();
                labelled.push(Labelled { study, no_group: standing.why_none(), ..Labelled::default() });
                continue;
            }
        };
        usable += 1;
        let ready = store.ready_study_for(&study, "a fit of the profile").await?;
        studies.push(scores_of(&packages, prior.as_ref(), &ready));
        labelled.push(Labelled { group, outcomes: labels.outcomes, ..described(&ready) });
    }
    anyhow::ensure!(
        usable > 0,
        "no reported study of the index has outcomes and a self-reported group: `sidelight labels import` brings them"
    );
    // What a device computes in, of several that are allowed, is not known here.
    let fp32 = models.precision == PrecisionChoice::Named(Precision::Fp32);
    let models = models_of(&packages, prior.as_ref().and_then(RacePrior::digest), fp32);
    Ok((json!({"format": 1, "models": models, "studies": studies}), labelled))
}

/// The groups of the race model, as labels name them.
pub fn group_names(packages: &[Package]) -> Vec<GroupName> {
    let groups = packages.iter().flat_map(Package::groups);
    groups.map(|g| GroupName { key: g.key.clone(), code: g.code.value.clone() }).collect()
}

/// Patient, views and date of a study, by its images.
pub(super) fn described(study: &ReadyStudy) -> Labelled {
    let headers = || study.instances.iter().filter(|i| i.refusal.is_none()).map(|i| &i.header);
    let named = headers().find_map(|h| Some((h.patient_id()?, h.issuer_of_patient_id().unwrap_or_default())));
    // Without a Patient ID a study stands for itself.
    let (patient, issuer) = named.unwrap_or_else(|| (study.study.to_string(), String::new()));
    Labelled {
        study: study.study.to_string(),
        patient,
        issuer,
        views: headers().filter_map(|h| h.view).map(|v| v.as_str().to_owned()).collect(),
        date: headers().find_map(|h| NaiveDate::parse_from_str(&h.study_date()?, "%Y%m%d").ok()),
        ..Labelled::default()
    }
}

/// `models` of a `result.json`: the packages in use and what identifies their scores. `cards`: whether a digest of what
/// in a card changes scores can be said; not where a device may compute in another precision.
fn models_of(packages: &[Package], prior: Option<&Digest>, cards: bool) -> Value {
    let card = |p: &Package| cards.then(|| p.scoring.clone());
    let race = packages.iter().find(|p| p.purpose == Purpose::Race).map(|p| {
        let groups: Vec<&String> = p.groups().iter().map(|g| &g.key).collect();
        json!({"key": p.key(), "card": card(p), "groups": groups, "prior": prior})
    });
    let clinical: Vec<Value> = packages
        .iter()
        .filter(|p| p.purpose == Purpose::Clinical)
        .map(|p| {
            let findings: Vec<Value> =
                p.findings().iter().map(|f| json!({"key": f.key, "threshold": f.threshold})).collect();
            json!({"key": p.key(), "card": card(p), "findings": findings})
        })
        .collect();
    json!({"race": race, "clinical": clinical})
}

/// One of its `studies`, with race posteriors where the race model has a whole answer.
fn scores_of(packages: &[Package], prior: Option<&RacePrior>, study: &ReadyStudy) -> Value {
    let uid = &study.study;
    if let Some(refusal) = patient_mismatch(study) {
        return json!({"study": uid, "state": "refused", "refusal": refusal});
    }
    let all: Vec<&Package> = packages.iter().collect();
    let Scored { scores, unknown } = scored(&all, study, prior);
    let scores = whole(scores, &all, study);
    let race_model = packages.iter().find(|p| p.purpose == Purpose::Race);
    let race = race_of(race_model, study, &scores).ok().and_then(|score| match &score.outputs {
        ModelOutputs::Groups(groups) => {
            Some(groups.iter().zip(&score.values).map(|(g, v)| (g.key.clone(), json!(v))).collect::<Value>())
        }
        ModelOutputs::Findings(_) => None,
    });
    let findings: Vec<Value> = said(&all, study, &scores)
        .into_iter()
        .map(|said| json!({"key": said.finding, "model": said.model, "score": said.score}))
        .collect();
    let ood: Value = unknown.into_iter().map(|model| (model, json!({"beyond": true}))).collect();
    json!({"study": uid, "state": "reported", "race": race, "findings": findings, "ood": ood})
}

/// What a clinical model made of a finding, or that a product did not say.
pub(super) struct SaidOf {
    pub(super) model: String,
    pub(super) finding: String,
    pub(super) threshold: f64,
    pub(super) score: Option<f64>,
}

/// What the clinical packages made of a study with these scores.
pub(super) fn said(packages: &[&Package], study: &ReadyStudy, scores: &[StudyScore]) -> Vec<SaidOf> {
    let is_clinical = |p: &&&Package| p.purpose == Purpose::Clinical;
    let own = |score: &&StudyScore| packages.iter().filter(is_clinical).any(|p| p.key() == score.model.key());
    let of = |model: String, f: &Finding, score| SaidOf {
        model,
        finding: f.key.clone(),
        threshold: f.threshold.get(),
        score,
    };
    let mut all = Vec::new();
    for score in scores.iter().filter(own) {
        let ModelOutputs::Findings(outputs) = &score.outputs else { continue };
        all.extend(outputs.iter().zip(&score.values).map(|(f, v)| of(score.model.key(), f, Some(*v))));
    }
    for result in results(packages, study, scores) {
        all.extend(result.findings.iter().map(|(finding, given)| {
            let score = match given {
                Given::Score(score) => Some(score.get()),
                Given::Label { .. } | Given::Absent(_) => None,
            };
            of(result.model.key(), finding, score)
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ImageScore, ScoredInstance, Uid};

    /// A study of one image with this score of how far it is from what the clinical model knows, which ends at 5.
    fn study(far: f64, packages: &[Package]) -> ReadyStudy {
        let header = json!({
            "study": "1.2", "series": "1.2.1", "sop_instance": "1.2.3", "sop_class": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax": "1.2.840.10008.1.2.1", "modality": "DX", "body_part": "CHEST", "view": "PA",
            "manufacturer": "", "model_name": "", "rows": 512, "columns": 512, "frames": 1, "bits_allocated": 16,
            "bits_stored": 12, "photometric": "MONOCHROME2", "has_pixels": true, "copied": {
                "1048608": {"vr": "LO", "value": {"bytes": b"p1"}}, "1048609": {"vr": "LO", "value": {"bytes": b"site"}}
            }
        });
        let score = ImageScore {
            instance: Uid::parse("1.2.3").unwrap(),
            model: packages[0].key(),
            contract: packages[0].contract.digest(),
            outputs: vec![0.2, 0.3, far],
        };
        let header = serde_json::from_value(header).unwrap();
        let instance = ScoredInstance { header, pixel_digest: None, scores: vec![score], refusal: None };
        ReadyStudy { study: Uid::parse("1.2").unwrap(), instances: vec![instance], results: Vec::new() }
    }

    #[test]
    fn a_study_says_whose_it_is_and_what_its_models_do_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("demo-clinical");
        std::fs::create_dir(&dir).unwrap();
        for file in std::fs::read_dir("models/demo-clinical").unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
        }
        let card = std::fs::read_to_string(dir.join("model.toml")).unwrap();
        std::fs::write(dir.join("model.toml"), card + "\n[ood]\nmethod = \"energy\"\nthreshold = 5.0\n").unwrap();
        let packages = [Package::load(&dir).unwrap()];
        let said = |far: f64| scores_of(&packages, None, &study(far, &packages));
        assert_eq!(said(6.0)["ood"][packages[0].key()]["beyond"], true);
        assert_eq!((&said(4.0)["ood"], said(4.0)["findings"].as_array().unwrap().len()), (&json!({}), 2));
        let whose = described(&study(4.0, &packages));
        assert_eq!((whose.patient.as_str(), whose.issuer.as_str()), ("p1", "site"));
    }
}
