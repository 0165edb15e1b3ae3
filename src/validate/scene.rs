//! From a world to the rooms that are validated and back: cohort, profile, assessment of a fresh study.
//!
//! Neighbours: `phantom::scores` draws, `assess` fits and assesses as in the node; the files of each claim compare with
//! the truth. Left out: any claim.

use crate::assess::{
    AssessInput, Cohort, FindingModel, FindingProfile, FitOptions, Profile, RiskSettings, Row, assess, fit,
};
use crate::domain::{
    Code, Digest, DigestOf, Finding, FindingAssessment, Group, Level, ModelIdentity, ModelOutputs, Probability,
    StudyScore, Timestamp, Uid,
};
use crate::phantom::scores::{ScoreWorld, ScoredStudy, Truth};

/// δ of the whole validation.
pub(super) const DELTA: f64 = 0.05;
const FINDING: &str = "finding";

/// Whether the race model's posteriors are part of the cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Race {
    With,
    Without,
}

/// A world, a profile fitted on one of its cohorts, and what an assessment needs besides.
pub(super) struct Scene<'a> {
    pub(super) world: &'a ScoreWorld,
    pub(super) profile: Profile,
    race: ModelIdentity,
    clinical: ModelIdentity,
    groups: Vec<Group>,
    finding: Finding,
}

/// A fresh study, what is true of it and what was said of it.
pub(super) struct Told {
    pub(super) study: ScoredStudy,
    pub(super) truth: Truth,
    pub(super) said: FindingAssessment,
}

impl Told {
    /// Whether the decision of the clinical model is wrong.
    pub(super) fn is_wrong(&self) -> bool {
        Some(self.study.outcome) != self.said.positive
    }

    pub(super) fn is_flagged(&self) -> bool {
        matches!(self.said.level, Level::ScoreDependent | Level::Elevated)
    }
}

impl<'a> Scene<'a> {
    /// Fits the world's cohort of this seed; `None` where no profile comes of it, which no world of the file means.
    pub(super) fn new(world: &'a ScoreWorld, race: Race, seed: u64, bootstrap: usize) -> Option<Self> {
        Self::of(world, &world.cohort(seed), race, seed, bootstrap)
    }

    /// Fits these studies.
    pub(super) fn of(
        world: &'a ScoreWorld,
        studies: &[ScoredStudy],
        race: Race,
        seed: u64,
        bootstrap: usize,
    ) -> Option<Self> {
        let (audit, clinical) = (identity("race"), identity("clinical"));
        let cohort = cohort(world, studies, (race == Race::With).then(|| audit.key()), &clinical);
        // Another seed than the cohort's: draws must not repeat its random numbers.
        let options = FitOptions {
            site: world.name.clone(),
            bootstrap,
            seed: seed ^ 0x5eed,
            delta: DELTA,
            fitted_at: Timestamp::UNIX_EPOCH,
        };
        let profile = fit(&cohort, &options).ok()?;
        let code = |text: &str| Code::new(text, "99TEST", text);
        let group = |g: &String| Group { key: g.clone(), code: code(g) };
        let finding = Finding {
            key: FINDING.into(),
            code: code(FINDING),
            site: None,
            threshold: Probability::new(world.threshold).ok()?,
        };
        Some(Self { world, groups: cohort.groups.iter().map(group).collect(), profile, race: audit, clinical, finding })
    }

    pub(super) fn entry(&self) -> &FindingProfile {
        &self.profile.findings[0]
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.entry().gate.is_some_and(|gate| gate.enabled)
    }

    /// What the node would say of a study.
    pub(super) fn say(&self, study: &ScoredStudy) -> FindingAssessment {
        let scored = |model: &ModelIdentity, outputs, values| StudyScore {
            model: model.clone(),
            outputs,
            values,
            images: Vec::new(),
        };
        let race = scored(&self.race, ModelOutputs::Groups(self.groups.clone()), study.posteriors.clone());
        let outputs = ModelOutputs::Findings(vec![self.finding.clone()]);
        let clinical = [scored(&self.clinical, outputs, vec![study.score])];
        let input = AssessInput {
            audit: &self.race,
            race: Ok(&race),
            clinical: &clinical,
            results: &[],
            upstream: &[],
            unknown: &[],
            prior: None,
        };
        let settings = RiskSettings { delta: DELTA, per_study_inference: true, profile_age_max: None };
        let said = assess(&input, Some(&self.profile), &settings, Timestamp::UNIX_EPOCH);
        said.expect("worlds draw scores between 0 and 1").findings.remove(0)
    }

    /// Fresh studies of the world with what is true and what is said of them.
    pub(super) fn tell(&self, patients: usize, seed: u64) -> Vec<Told> {
        let told = |study: ScoredStudy| Told { truth: self.world.truth(&study), said: self.say(&study), study };
        self.world.draw(patients, seed).into_iter().map(told).collect()
    }
}

/// The studies as `profile fit` reads them.
pub(super) fn cohort(
    world: &ScoreWorld,
    studies: &[ScoredStudy],
    race_model: Option<String>,
    clinical: &ModelIdentity,
) -> Cohort {
    let row = |s: &ScoredStudy| Row {
        patient: format!("{:06}", s.patient),
        study: format!("{}.{}", s.patient, s.study),
        finding: FINDING.into(),
        score: s.score,
        outcome: s.outcome,
        group: world.groups[s.group].group.clone(),
        posteriors: race_model.as_ref().map(|_| s.posteriors.clone()),
        view: if s.portable { "AP".into() } else { "PA".into() },
        date: None,
    };
    Cohort {
        groups: world.groups.iter().map(|g| g.group.clone()).collect(),
        findings: vec![FindingModel { finding: FINDING.into(), model: clinical.key(), threshold: world.threshold }],
        rows: studies.iter().map(row).collect(),
        race_model,
        ..Cohort::default()
    }
}

fn identity(name: &str) -> ModelIdentity {
    ModelIdentity {
        name: name.into(),
        version: "1".into(),
        manufacturer: "sidelight".into(),
        weights: Digest::of(name.as_bytes()),
        digest_of: DigestOf::Weights,
        contract: "none".into(),
        device_uid: Uid::parse("2.25.1").expect("a valid UID"),
        phantoms_only: true,
    }
}
