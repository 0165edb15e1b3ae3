//! What is known of a study for an audit: whose it is, how it was taken, and what models said of it.

use chrono::NaiveDate;

/// Everything that statistics over many studies need of one; texts are empty where nothing is known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StudyFacts {
    /// Patient ID, and who issued it: another issuer's patient is another person. Without one the study stands for itself.
    pub patient: String,
    pub issuer: String,
    pub date: Option<NaiveDate>,
    /// Views of its images, joined by `+`.
    pub view: String,
    /// Manufacturer and model name.
    pub device: String,
    pub sex: String,
    pub age_years: Option<f64>,
    pub scores: Vec<FindingScore>,
    pub race: Option<RacePosterior>,
}

/// What a clinical model said of a finding.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingScore {
    /// [`super::ModelIdentity::key`].
    pub model: String,
    pub finding: String,
    /// Positive at or above it.
    pub threshold: f64,
    /// 0..1.
    pub score: f64,
}

/// What the race model said: inferred, never a patient attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct RacePosterior {
    pub model: String,
    /// Keys of the groups.
    pub groups: Vec<String>,
    /// One for each.
    pub probabilities: Vec<f64>,
}
