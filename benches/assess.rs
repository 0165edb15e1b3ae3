//! What an assessment costs: one study with 1 and with 14 findings, three groups, a profile with 1000 bootstrap draws.
//!
//! `cargo bench --bench assess` prints milliseconds per study (median and 99th percentile of single calls); the issue asks
//! for less than one. The profile is fitted on a world of scores, which takes most of the bench's time.

use std::collections::BTreeMap;
use std::time::Instant;

use sidelight::assess::{AssessInput, Cohort, FindingModel, FitOptions, Profile, RiskSettings, Row, assess, fit};
use sidelight::domain::{
    Code, Digest, DigestOf, Finding, Group, ModelIdentity, ModelOutputs, Probability, StudyScore, Timestamp, Uid,
};
use sidelight::phantom::scores::{ScoreWorld, ScoredStudy};

const DRAWS: usize = 1000;
const STUDIES: usize = 300;

fn main() {
    let world = ScoreWorld::named("both").expect("a built-in world");
    let (race, clinical) = (identity("race"), identity("clinical"));
    for findings in [1, 14] {
        let profile = profile(&world, findings, &race, &clinical);
        let mut milliseconds: Vec<f64> = world
            .draw(STUDIES, 99)
            .iter()
            .map(|study| {
                let (race, clinical) = scores(&world, study, findings, &race, &clinical);
                let input = AssessInput {
                    audit: &race.model,
                    race: Ok(&race),
                    clinical: std::slice::from_ref(&clinical),
                    results: &[],
                    upstream: &[],
                    unknown: &[],
                    prior: None,
                };
                let settings = RiskSettings { delta: 0.05, per_study_inference: true, profile_age_max: None };
                let start = Instant::now();
                let said =
                    assess(&input, Some(&profile), &settings, Timestamp::UNIX_EPOCH).expect("scores are probabilities");
                let spent = start.elapsed().as_secs_f64() * 1e3;
                assert_eq!(said.findings.len(), findings);
                spent
            })
            .collect();
        milliseconds.sort_by(f64::total_cmp);
        println!(
            "{findings:>2} findings, {DRAWS} draws: {:.3} ms per study (median), {:.3} ms (99 %)",
            milliseconds[STUDIES / 2],
            milliseconds[STUDIES * 99 / 100]
        );
    }
}

fn key(finding: usize) -> String {
    format!("finding{finding}")
}

fn profile(world: &ScoreWorld, findings: usize, race: &ModelIdentity, clinical: &ModelIdentity) -> Profile {
    let drawn = world.cohort(1);
    let row = |s: &ScoredStudy, finding: usize| Row {
        patient: s.patient.to_string(),
        study: s.patient.to_string(),
        finding: key(finding),
        score: s.score,
        outcome: s.outcome,
        group: world.groups[s.group].group.clone(),
        posteriors: Some(s.posteriors.clone()),
        view: "PA".into(),
        date: None,
    };
    let model = |finding| FindingModel { finding: key(finding), model: clinical.key(), threshold: world.threshold };
    let cohort = Cohort {
        race_model: Some(race.key()),
        race_prior: None,
        cards: BTreeMap::new(),
        groups: world.groups.iter().map(|g| g.group.clone()).collect(),
        findings: (0..findings).map(model).collect(),
        rows: (0..findings).flat_map(|f| drawn.iter().map(move |s| row(s, f))).collect(),
        left_out: BTreeMap::new(),
    };
    let options =
        FitOptions { site: "bench".into(), bootstrap: DRAWS, seed: 2, delta: 0.05, fitted_at: Timestamp::UNIX_EPOCH };
    fit(&cohort, &options).expect("a profile")
}

/// What the race model and the clinical model said of a study.
fn scores(
    world: &ScoreWorld,
    study: &ScoredStudy,
    findings: usize,
    race: &ModelIdentity,
    clinical: &ModelIdentity,
) -> (StudyScore, StudyScore) {
    let code = |text: &str| Code::new(text, "99TEST", text);
    let group = |g: &sidelight::phantom::scores::ScoreGroup| Group { key: g.group.clone(), code: code(&g.group) };
    let finding = |f: usize| Finding {
        key: key(f),
        code: code("finding"),
        site: None,
        threshold: Probability::new(world.threshold).expect("a probability"),
    };
    let score = |model: &ModelIdentity, outputs, values| StudyScore {
        model: model.clone(),
        outputs,
        values,
        images: Vec::new(),
    };
    let groups = ModelOutputs::Groups(world.groups.iter().map(group).collect());
    let outputs = ModelOutputs::Findings((0..findings).map(finding).collect());
    (score(race, groups, study.posteriors.clone()), score(clinical, outputs, vec![study.score; findings]))
}

fn identity(name: &str) -> ModelIdentity {
    ModelIdentity {
        name: name.into(),
        version: "1".into(),
        manufacturer: "bench".into(),
        weights: Digest::of(name.as_bytes()),
        digest_of: DigestOf::Weights,
        contract: "none".into(),
        device_uid: Uid::parse("2.25.1").expect("a UID"),
        phantoms_only: true,
    }
}
