//! The answer: how far a clinical result's error risk depends on race, and how sure that is.
//!
//! Quantities and levels are those of method.md §2 (in ARCHITECTURE.md: "Assess"). All probabilities are
//! fractions of 1; percent appears in reports only.

use serde::{Deserialize, Serialize};

use super::{Finding, Group, ModelIdentity, Probability};

/// An estimate with its simultaneous confidence limits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub estimate: f64,
    pub lower: f64,
    pub upper: f64,
}

/// The flag of one finding. The order is that of a report's maximum: `Indeterminate` outranks `NotElevated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Level 0: the upper bound of R is below δ.
    NotElevated,
    Indeterminate,
    /// Level 1: the lower bound of R exceeds δ.
    ScoreDependent,
    /// Level 2: the lower bound of D exceeds δ.
    Elevated,
}

/// Which error is possible at this score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Result negative (s < t): the finding may be missed.
    Miss,
    /// Result positive (s ≥ t): it may be a false alarm.
    FalseAlarm,
}

/// Why there is no answer (codes of the private table `99SIDELIGHT`, `IND-…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IndReason {
    #[serde(rename = "IND-FAILED")]
    Failed,
    #[serde(rename = "IND-SCOPE")]
    Scope,
    #[serde(rename = "IND-QUALITY")]
    Quality,
    #[serde(rename = "IND-OOD")]
    Ood,
    #[serde(rename = "IND-NOCAL")]
    NoCal,
    #[serde(rename = "IND-STALE")]
    Stale,
    #[serde(rename = "IND-DRIFT")]
    Drift,
    #[serde(rename = "IND-OFF")]
    Off,
    #[serde(rename = "IND-WEAK")]
    Weak,
    #[serde(rename = "IND-CELLS")]
    Cells,
    #[serde(rename = "IND-RANGE")]
    Range,
    #[serde(rename = "IND-WIDE")]
    Wide,
    #[serde(rename = "IND-CONFLICT")]
    Conflict,
}

/// What a destination may learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disclosure {
    /// Nothing about groups or the individual's excess.
    #[default]
    Withheld,
    /// Posteriors, errors by group and the signed excess.
    Probabilities,
}

/// An estimate for one group, for disclosed reports only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupEstimate {
    pub group: Group,
    /// Calibrated posterior π_g(x).
    pub posterior: f64,
    /// Error probability e_g(s) in this group at this score; absent if the group was not admitted.
    pub error: Option<Interval>,
}

/// What only a destination marked `disclose = "probabilities"` receives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disclosed {
    pub groups: Vec<GroupEstimate>,
    /// D(x), signed, −1..1.
    pub excess: Option<Interval>,
    /// U(x).
    pub ambiguity: Option<f64>,
}

/// The answer for one finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindingAssessment {
    pub finding: Finding,
    pub clinical: ModelIdentity,
    /// Absent where the clinical result is missing or contradicts itself, or is a decision alone; the finding is
    /// indeterminate then.
    pub score: Option<Probability>,
    /// Absent where there is no clinical result.
    pub positive: Option<bool>,
    /// Of the score's side of the threshold; absent without a score.
    pub direction: Option<Direction>,
    pub level: Level,
    /// Every reason that applied, the first is the one that is reported. Empty unless indeterminate,
    /// except for reasons that withheld only the individual part (`IND-WEAK`, `IND-OFF`).
    pub reasons: Vec<IndReason>,
    /// Expected error at this score over the site's reference population: Σ w_g(s) e_g(s). Absent if indeterminate.
    pub expected_error: Option<Interval>,
    /// R(s). Absent if indeterminate.
    pub spread: Option<Interval>,
    pub disclosed: Option<Disclosed>,
}

/// The answer for a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// The audit (race) model, named in the report even where individual inference is switched off.
    pub audit: ModelIdentity,
    /// Identifier of the profile, `none` where there is none.
    pub profile: String,
    pub findings: Vec<FindingAssessment>,
}

impl Assessment {
    /// The highest level over the findings; `None` without findings.
    pub fn max_level(&self) -> Option<Level> {
        self.findings.iter().map(|f| f.level).max()
    }
}

impl Level {
    /// The private code of the flag and its meaning (sr/private_codes.csv).
    pub fn code(self) -> (&'static str, &'static str) {
        match self {
            Level::NotElevated => ("RDER-NONE", "No elevated race-dependent error risk found"),
            Level::ScoreDependent => ("RDER-ELEV", "Elevated race-dependent error risk"),
            Level::Elevated => ("RDER-HIGH", "High race-dependent error risk"),
            Level::Indeterminate => ("RDER-INDET", "Indeterminate, audit abstained"),
        }
    }
}

impl IndReason {
    /// The private code of the reason and its meaning (sr/private_codes.csv).
    pub fn code(self) -> (&'static str, &'static str) {
        match self {
            IndReason::Failed => ("IND-FAILED", "Audit model failed"),
            IndReason::Scope => ("IND-SCOPE", "View or modality outside model scope"),
            IndReason::Quality => ("IND-QUALITY", "Image quality insufficient"),
            IndReason::Ood => ("IND-OOD", "Image outside validated population"),
            IndReason::NoCal => ("IND-NOCAL", "No calibration data for this finding"),
            IndReason::Stale => ("IND-STALE", "Reference profile stale or superseded"),
            IndReason::Drift => ("IND-DRIFT", "Drift alarm active"),
            IndReason::Off => ("IND-OFF", "Per-study inference disabled at this site"),
            IndReason::Weak => ("IND-WEAK", "Audit model not reliable at this site"),
            IndReason::Cells => ("IND-CELLS", "Too few reference patients in a group"),
            IndReason::Range => ("IND-RANGE", "Score outside calibrated range"),
            IndReason::Wide => ("IND-WIDE", "Uncertainty too wide to decide"),
            IndReason::Conflict => ("IND-CONFLICT", "Evidence measures disagree"),
        }
    }
}
