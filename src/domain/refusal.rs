//! Refusals: outcomes that are reported, not errors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an instance or a study was not analysed. The code is stable: operators filter and count by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The bytes are not a data set that can be read: truncated, lengths that do not fit, nesting too deep.
    Malformed,
    /// An attribute that the analysis needs is missing or contradicts another.
    Inconsistent,
    /// The instance holds no image.
    NoPixels,
    /// The transfer syntax or pixel format cannot be decoded.
    UnsupportedFormat,
    /// Decoding failed or gave something else than the header says.
    DecodeFailed,
    /// Larger than the configured limits.
    TooLarge,
    /// The decode worker exceeded its time or memory, or died.
    WorkerDied,
    /// Its file was damaged or lost after it was received; the same object, sent again, takes its place.
    Lost,
    /// No decode worker could be started: trouble of the node, which says nothing of the object.
    WorkerUnavailable,
    /// Modality, SOP class, view, body part or size outside every model's scope.
    OutOfScope,
    /// One of sidelight's own reports came back.
    OwnReport,
    /// A report or other object without pixels that is kept and not analysed.
    NotAnImage,
    /// A report of a clinical product: no image, and what it says was taken as the clinical result.
    ClinicalResult,
    /// A model gave no usable answer for this image.
    ModelFailed,
    /// Instances of one study disagree on the patient.
    PatientMismatch,
    /// No instance of the study could be analysed; the detail lists why.
    NothingToAnalyse,
}

impl RefusalCode {
    /// The code as written in tables and JSON, e.g. `out-of-scope`.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalCode::Malformed => "malformed",
            RefusalCode::Inconsistent => "inconsistent",
            RefusalCode::NoPixels => "no-pixels",
            RefusalCode::UnsupportedFormat => "unsupported-format",
            RefusalCode::DecodeFailed => "decode-failed",
            RefusalCode::TooLarge => "too-large",
            RefusalCode::Lost => "lost",
            RefusalCode::WorkerDied => "worker-died",
            RefusalCode::WorkerUnavailable => "worker-unavailable",
            RefusalCode::OutOfScope => "out-of-scope",
            RefusalCode::OwnReport => "own-report",
            RefusalCode::NotAnImage => "not-an-image",
            RefusalCode::ClinicalResult => "clinical-result",
            RefusalCode::ModelFailed => "model-failed",
            RefusalCode::PatientMismatch => "patient-mismatch",
            RefusalCode::NothingToAnalyse => "nothing-to-analyse",
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A refusal with what a person needs to act on it. The detail never holds patient data or pixel values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    pub code: RefusalCode,
    pub detail: String,
}

impl Refusal {
    /// Control characters in `detail`, which may quote a header, become question marks.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        Self { code, detail: detail.replace(char::is_control, "?") }
    }
}
