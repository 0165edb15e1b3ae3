//! What the store takes in and hands out, besides the domain's own types.
//!
//! Neighbours: `reading`, `studies`, `outbox` and `views` fill these from the index; stages and commands use
//! them. Left out: `StudyActivity`, which belongs to `assemble`, and everything about tables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::assemble::Closing;
use crate::dicom::CommitmentRq;
use crate::domain::{
    AeTitle, Assessment, ClinicalResult, ClosedBy, CommitmentState, DeliveryState, Digest, Disclosure, ImageScore,
    InstanceHeader, InstanceState, Level, Purpose, Refusal, Report, StudyFacts, StudyState, Timestamp, Uid,
};
use crate::results::Reject;

/// A durable object that waits to be read, leased to the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingInstance {
    /// The identifiers of the command set; the data set's own may differ.
    pub sop_instance: Uid,
    pub sop_class: Uid,
    pub transfer_syntax: Uid,
    /// A complete DICOM file: preamble, meta, data set.
    pub path: PathBuf,
    pub calling: AeTitle,
    pub called: AeTitle,
    pub received_at: Timestamp,
    /// The study that its sender said it belongs to, where it said so.
    pub announced_study: Option<Uid>,
    /// How often it was claimed, this time included and claims that the node's own end cut short left out.
    pub attempts: u32,
    /// How many claims ended with the node. A few are ordinary; many say that this object brings the node down.
    pub interrupted: u32,
    /// Since when it waits for a model server, if it does.
    pub waiting_since: Option<Timestamp>,
}

/// What reading an instance came to.
#[derive(Debug, Clone, Copy)]
pub enum Reading<'a> {
    /// Read, decoded and scored by every model in whose scope it is.
    Scored {
        header: &'a InstanceHeader,
        pixel_digest: &'a Digest,
        /// Race scores are told apart, since they have their own retention.
        scores: &'a [(ImageScore, Purpose)],
        /// Keys of the packages whose result the study waits for because of this image.
        awaited: &'a [String],
    },
    /// No image: a report of a clinical product, whose results these are.
    Results { header: &'a InstanceHeader, refusal: &'a Refusal, results: &'a [ClinicalResult] },
    /// Not analysed. Without a header the study is not known: the object is then listed as a study of its own,
    /// refused, under its SOP Instance UID.
    Refused { header: Option<&'a InstanceHeader>, refusal: &'a Refusal },
}

/// A study that is being closed, leased to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyClaim {
    pub study: Uid,
    /// The AE title that the study's first object was sent to.
    pub called: Option<AeTitle>,
    pub revision: u32,
    /// Changes with everything that arrives: what was assessed is closed only if it is still the same.
    pub version: i64,
    /// As for instances.
    pub attempts: u32,
    pub interrupted: u32,
}

/// How a revision of a study ends.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    Reported {
        /// Kept without its disclosed part.
        assessment: &'a Assessment,
        /// `complete` says that all of the study is in the report: nothing was missed and everything could be read.
        closing: &'a Closing,
        older: Older,
        reports: &'a [OutgoingReport],
        /// For audits, where they are known by now.
        facts: Option<&'a StudyFacts>,
    },
    Refused(&'a Refusal),
    /// The cause, for people: without patient data.
    Failed(&'a str),
}

/// What becomes of older reports of a study that are not delivered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    /// They are not sent any more.
    Withdrawn,
    /// They are sent first.
    Sent,
}

/// A report, or a map that belongs to one, and the names of the destinations that it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct OutgoingReport {
    /// The same content in each SOP class that a destination may be offered, the preferred first; at least one.
    pub variants: Vec<Report>,
    pub disclosure: Disclosure,
    pub destinations: Vec<String>,
}

/// What became of an attempt to close a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It now stands in this state.
    As(StudyState),
    /// Something arrived meanwhile, or another analysis closed it: nothing was written. The claim is over.
    Superseded,
}

/// A variant of a study's newest report, which the next one of its class names as its predecessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousReport {
    pub revision: u32,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub series: Uid,
    pub created_at: Timestamp,
}

/// A report that is due at a destination, leased to the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub id: i64,
    pub study: Uid,
    /// The destination's name in the configuration; it may be gone from there by now.
    pub destination: String,
    /// For [`super::Store::report_files`].
    pub report: i64,
    pub disclosure: Disclosure,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub path: PathBuf,
    /// Attempts before this one.
    pub attempts: u32,
    /// When it was put into the outbox; `delivery.give_up_after` counts from here. A resend counts anew.
    pub queued_at: Timestamp,
}

/// A destination to which something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDestination {
    pub name: String,
    /// Attempts in a row that did not reach it. More than none: it is down, and one delivery finds out.
    pub failures: u32,
}

/// An attempt that did not reach its destination.
#[derive(Debug, Clone, Copy)]
pub struct Unreached<'a> {
    pub delivery: i64,
    pub destination: &'a str,
    pub error: &'a str,
    pub now: Timestamp,
    /// Nothing is sent there before.
    pub next_at: Timestamp,
}

/// When a delivery to a destination that is down is given up: both hold.
#[derive(Debug, Clone, Copy)]
pub struct GiveUp {
    /// It was put into the outbox by then.
    pub queued_before: Timestamp,
    /// So many attempts were made of it or, while it waited, of its destination.
    pub tries_min: u32,
}

/// Which deliveries are made again; with nothing given, all of current reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resend<'a> {
    pub study: Option<&'a Uid>,
    pub destination: Option<&'a str>,
    /// Only those that were given up.
    pub failed_only: bool,
}

/// Where a destination stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DestinationState {
    pub name: String,
    /// False from the first attempt that did not reach it to the next one that does.
    pub up: bool,
    /// Attempts in a row that did not reach it.
    pub failures: u32,
    pub down_since: Option<Timestamp>,
    /// When it is tried next, if it is down.
    pub next_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub pending: u64,
    pub delivered: u64,
    /// Given up; `studies resend --failed` starts them again.
    pub failed: u64,
    /// Taken, and storage commitment is asked for and not given yet.
    pub unconfirmed: u64,
    /// When it last took a report.
    pub delivered_at: Option<Timestamp>,
}

/// A request for storage commitment whose result is due, leased to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commitment {
    pub id: i64,
    /// The AE title that asked.
    pub source: AeTitle,
    /// The AE title that was asked, under which the result goes.
    pub called: AeTitle,
    /// Attempts before this one.
    pub attempts: u32,
    pub requested_at: Timestamp,
}

/// A request for storage commitment that the node makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    pub request: CommitmentRq,
    /// Requests for the same reports so far, with this one.
    pub attempts: u32,
}

/// Which studies to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StudyFilter {
    pub state: Option<StudyState>,
    /// Only studies of which something arrived at or after this.
    pub since: Option<Timestamp>,
}

/// A line of `studies list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyRow {
    /// Study Instance UID; the SOP Instance UID where `readable` is false.
    pub study: Uid,
    /// False for an object whose study could not be read.
    pub readable: bool,
    pub state: StudyState,
    pub source: AeTitle,
    pub revision: u32,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub closed_at: Option<Timestamp>,
    pub instances: u64,
    pub instances_refused: u64,
    /// Reports of the last reported revision, one for each disclosure that was asked for.
    pub current_reports: u64,
    /// Objects that came after the report and, by `study.late`, are in none.
    pub instances_late: u64,
    /// Whether all of the study was there and could be read when it was last reported…
    pub complete: Option<bool>,
    /// …what ended the wait for it…
    pub closed_by: Option<ClosedBy>,
    /// …and what the rules missed.
    pub missing: Vec<String>,
    /// Highest level over the findings of the last report.
    pub level: Option<Level>,
    pub refusal: Option<Refusal>,
    pub error: Option<String>,
}

/// All that `studies show` tells of a study. Holds no race scores and no disclosed values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyDetail {
    #[serde(flatten)]
    pub study: StudyRow,
    pub assessment: Option<Assessment>,
    pub instances: Vec<InstanceDetail>,
    pub reports: Vec<ReportDetail>,
    pub deliveries: Vec<DeliveryDetail>,
    /// What clinical products that score images on their own said of it.
    pub results: Vec<ClinicalResult>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceDetail {
    pub sop_instance: Uid,
    pub series: Option<Uid>,
    pub sop_class: Uid,
    pub transfer_syntax: Uid,
    pub modality: Option<String>,
    pub state: InstanceState,
    pub refusal: Option<Refusal>,
    pub calling: AeTitle,
    pub received_at: Timestamp,
    pub read_at: Option<Timestamp>,
    /// Size of the data set, bytes.
    pub bytes: u64,
    /// Whether the object is still kept.
    pub kept: bool,
    /// It came after its study was reported and is in no report.
    pub late: bool,
    /// Of clinical models only.
    pub scores: Vec<ImageScore>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportDetail {
    /// For [`super::Store::report_files`].
    pub id: i64,
    pub revision: u32,
    pub disclosure: Disclosure,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub predecessor: Option<Uid>,
    pub created_at: Timestamp,
    /// Whether it is of the study's last reported revision.
    pub current: bool,
    pub kept: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeliveryDetail {
    pub destination: String,
    /// SOP Instance UID of the report.
    pub report: Uid,
    pub state: DeliveryState,
    pub attempts: u32,
    /// When it is tried next, if it is pending.
    pub next_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub delivered_at: Option<Timestamp>,
    pub sent_sop_class: Option<Uid>,
    pub sent_sop_instance: Option<Uid>,
    /// Where the destination is asked whether it keeps the report.
    pub commitment: Option<CommitmentState>,
    /// Why there is no commitment (yet).
    pub commitment_error: Option<String>,
}

/// How long things of finished studies are kept; `None`: for ever. Counted from the study's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    pub objects_kept: Option<Duration>,
    pub reports_kept: Option<Duration>,
    pub posteriors_kept: Option<Duration>,
    /// Answers to changed images, counted from when they were made.
    pub evidence_kept: Option<Duration>,
}

/// What a run of [`super::Store::expire`] deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Expired {
    pub objects: u64,
    /// Studies whose rows and reports went.
    pub studies: u64,
    /// Clinical results of studies that never came.
    pub results: u64,
    /// Race scores.
    pub posteriors: u64,
    /// Answers to changed images, of a study and model each.
    pub evidence: u64,
    /// Disclosed reports, which hold posteriors.
    pub disclosed_reports: u64,
    /// Files that were set aside.
    pub damaged: u64,
}

/// What [`super::Store::purge`] deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    pub objects: u64,
    pub reports: u64,
}

/// What an import of results did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Rows that were not known.
    pub new: u64,
    /// Rows that were imported before, or are there twice.
    pub known: u64,
    /// Studies that are reported anew.
    pub studies_reopened: u64,
    /// Studies whose report stays as it is, by `study.late`.
    pub studies_late: u64,
    /// Studies of which no image is here yet.
    pub studies_unknown: u64,
}

/// What an import of labels did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LabelsImported {
    /// Outcomes that are new or replaced.
    pub outcomes: u64,
    /// Studies of whose patient a self-report is new or replaced.
    pub groups: u64,
    pub covariates: u64,
    /// What was known before.
    pub known: u64,
    /// Studies that now have both.
    pub studies_complete: u64,
    /// What contradicts an earlier import.
    pub rejects: Vec<Reject>,
}

/// How much there is of what, for health and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By state; every state is present.
    pub instances: BTreeMap<String, u64>,
    pub studies: BTreeMap<String, u64>,
    pub deliveries: BTreeMap<String, u64>,
    pub conflicts: u64,
    /// Arrival of the oldest object that is not read yet.
    pub unread_since: Option<Timestamp>,
    /// When the oldest delivery that is still pending was put into the outbox.
    pub undelivered_since: Option<Timestamp>,
}

/// What opening found to put right after an end that was not orderly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Files in `incoming/` that were never answered with Success.
    pub partial_uploads: u64,
    /// Objects and reports that were renamed but not indexed: objects are set aside in `damaged/`, reports removed.
    pub orphans: u64,
    /// Indexed files that are gone. Nothing here deletes them: somebody or something else did.
    pub missing: u64,
    /// Acknowledged objects that were not on the disk as they had been received.
    pub damaged: u64,
    /// Claims of instances and studies that ended with the node.
    pub interrupted: u64,
}
