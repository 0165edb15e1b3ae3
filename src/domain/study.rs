//! Instances, studies and reports as they move through the node, and the states they can be in.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{AeTitle, ClinicalResult, Digest, ImageScore, InstanceHeader, Refusal, Uid};

/// A point in time, always UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// What the command set and the association say of an arriving object; its data set is not read by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedInstance {
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub transfer_syntax: Uid,
    pub calling: AeTitle,
    pub called: AeTitle,
    pub peer: IpAddr,
    pub received_at: Timestamp,
    /// The study that the sender said it belongs to, where it said so (STOW-RS into a study): another one is refused.
    pub study: Option<Uid>,
}

/// What became of a durable object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// Same SOP Instance UID, same digest: one copy, one job.
    Duplicate,
    /// Same SOP Instance UID, another digest: kept aside, alarmed, never silently replaced.
    Conflict {
        kept_aside: String,
    },
}

/// Where an instance stands. `Received → Scored | Refused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Durable, not yet read.
    Received,
    /// Read, decoded and scored by every model in whose scope it is.
    Scored,
    /// Read and not analysed; the refusal says why.
    Refused,
}

/// Where a study stands. Every study ends in exactly one of the last three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StudyState {
    /// Images may still arrive.
    Open,
    /// Reported; the outbox holds what is not delivered yet.
    Reported,
    /// Reported and delivered to every destination.
    Delivered,
    /// Not analysed, with a coded refusal.
    Refused,
    /// Failed, with a cause and a way to send it again.
    Failed,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryState {
    /// Due now or at its next attempt.
    Pending,
    Delivered,
    /// Given up after the configured time; `studies resend` starts it again.
    Failed,
    /// A newer report of the study took its place before it was sent, or after it was given up.
    Superseded,
}

/// Where the storage commitment stands that a destination is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitmentState {
    /// No answer yet.
    Asked,
    /// It keeps the report.
    Confirmed,
    /// It does not keep the report, or never said.
    Failed,
}

/// An instance of a study that is being closed.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredInstance {
    pub header: InstanceHeader,
    pub pixel_digest: Option<Digest>,
    pub scores: Vec<ImageScore>,
    pub refusal: Option<Refusal>,
}

/// A study that is complete enough to be assessed: every instance with its scores or its refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadyStudy {
    pub study: Uid,
    pub instances: Vec<ScoredInstance>,
    /// What clinical products that score images on their own said of it.
    pub results: Vec<ClinicalResult>,
}

/// A finished report: bytes that are sent as they are on every attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub study: Uid,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub series: Uid,
    /// A complete DICOM file (preamble, meta, data set; Explicit VR Little Endian).
    pub file: Vec<u8>,
}

impl StudyState {
    pub fn as_str(self) -> &'static str {
        match self {
            StudyState::Open => "open",
            StudyState::Reported => "reported",
            StudyState::Delivered => "delivered",
            StudyState::Refused => "refused",
            StudyState::Failed => "failed",
        }
    }
}
