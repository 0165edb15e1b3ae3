//! Evidence on whether a clinical model relies on what a race model sees: what both said of changed images, and what
//! many such answers come to.
//!
//! Neighbours: `analyse` collects answers, `assess` computes lines of them, `report` writes lines. Left out: statements on
//! a single patient, which no line is.

use serde::{Deserialize, Serialize};

use super::{Interval, Timestamp};

/// Probabilities of both models for one picture, in the order of their cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    pub race: Vec<f64>,
    pub clinical: Vec<f64>,
}

/// What became of the answers when the picture was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Of the perturbation; the same change has the same name everywhere.
    pub name: String,
    /// How far the picture differs: root mean square, and logarithm of its sharpness over the original's.
    pub rms: f64,
    pub sharpness: f64,
    pub answers: Answers,
}

/// A study's image under a battery of changes. Holds race posteriors, and is kept as long as those.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Responses {
    /// Keys of the models, and of what they answer.
    pub race_model: String,
    pub groups: Vec<String>,
    pub model: String,
    pub findings: Vec<String>,
    /// What is held fixed beside the changes: view, sex and decade of age, empty where the header does not say.
    pub held: Vec<String>,
    pub original: Answers,
    pub changes: Vec<Change>,
}

/// What a line of evidence is made of (method.md §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LineKind {
    /// Slope of the change of the clinical logit on that of the race logit over a battery of changes.
    CoMovement,
    /// Cosine of the gradients of the clinical logit and of the race margin.
    GradientAlignment,
    /// Change of the clinical logit for a step along the race gradient, beyond that for random steps.
    DoseResponse,
    /// AUC of a linear race head on the clinical model's features.
    Leakage,
}

/// What became of a line's negative controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    Passed,
    Failed,
    /// There was none, so that the line counts for nothing.
    Absent,
}

/// One line: of a clinical model and a finding over the patients of a site, never of one patient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceLine {
    pub kind: LineKind,
    /// Key of the clinical model.
    pub model: String,
    /// None: of the model as a whole.
    pub finding: Option<String>,
    /// The race model's group whose margin is meant.
    pub group: String,
    /// With 95 % limits over patients.
    pub value: Interval,
    /// After Holm over the findings and groups of one run.
    pub p: f64,
    pub control: Control,
    pub patients: u64,
}

/// Lines of a site for one race model, as a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    pub format: u32,
    /// Of the program.
    pub version: String,
    pub site: String,
    pub made_at: Timestamp,
    /// Key of the race model.
    pub race_model: String,
    pub lines: Vec<EvidenceLine>,
    /// What there is no line of, and why.
    pub missing: Vec<String>,
}

/// What the lines of a finding come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reliance {
    /// At least two concordant lines, whose controls passed.
    Consistent,
    /// There are two lines or more, and they do not agree on it.
    NotShown,
    /// Fewer than two lines could be computed.
    Insufficient,
    /// A line rejects and so does its negative control: the evidence is not to be trusted.
    ControlsFailed,
}

/// Of a finding, as a report tells it: the same for every patient of the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindingEvidence {
    /// Key of the clinical model.
    pub model: String,
    pub finding: String,
    pub reliance: Reliance,
    /// One of each kind at most, without groups.
    pub lines: Vec<(LineKind, Interval)>,
    /// Those of the line with the fewest.
    pub patients: u64,
}

impl Evidence {
    pub const FORMAT: u32 = 1;
}

impl LineKind {
    pub fn as_str(self) -> &'static str {
        match self {
            LineKind::CoMovement => "co-movement",
            LineKind::GradientAlignment => "gradient-alignment",
            LineKind::DoseResponse => "dose-response",
            LineKind::Leakage => "leakage",
        }
    }

    /// The private code of the number, where a report has one (sr/private_codes.csv).
    pub fn code(self) -> Option<&'static str> {
        match self {
            LineKind::CoMovement => Some("COMOVE"),
            LineKind::GradientAlignment => Some("GRADALIGN"),
            LineKind::DoseResponse => Some("CFSHIFT"),
            LineKind::Leakage => None,
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            LineKind::CoMovement => "Co-movement of finding and race scores, slope",
            LineKind::GradientAlignment => "Alignment of finding and race gradients, cosine",
            LineKind::DoseResponse => "Shift of the finding's logit along the race gradient",
            LineKind::Leakage => "Race from the model's features, AUC",
        }
    }
}

impl Reliance {
    pub fn as_str(self) -> &'static str {
        match self {
            Reliance::Consistent => "consistent",
            Reliance::NotShown => "not-shown",
            Reliance::Insufficient => "insufficient",
            Reliance::ControlsFailed => "controls-failed",
        }
    }

    /// For people. Never that a model uses race: no line can show that.
    pub fn sentence(self) -> &'static str {
        match self {
            Reliance::Consistent => "consistent with reliance on image features that also predict self-reported race",
            Reliance::NotShown => "reliance not shown; this does not exclude it",
            Reliance::Insufficient => "too little evidence for a statement on reliance",
            Reliance::ControlsFailed => "no statement on reliance: a negative control failed",
        }
    }
}
