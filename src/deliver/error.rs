//! Why a delivery failed, and whether and how soon another attempt makes sense: the one table of this stage.
//!
//! Neighbours: `peer` maps what `wire` reports, `serve` schedules by [`Retry`]. Left out: the schedule.

use std::time::Duration;

use super::FileError;
use crate::dicom::Status;
use crate::wire::{HttpError, RequestError, Step};

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// After the next backoff: the cause may pass by itself.
    Soon,
    /// After the longest wait: somebody has to change something at the destination first.
    Later,
    /// Not at all: another attempt would end the same way.
    Never,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    #[error(
        "destination {0} is not marked as an audit destination and the node runs in shadow mode: set audit = true for \
         it, or node.mode = \"active\""
    )]
    NotAllowed(String),
    #[error("there is no report to send")]
    NothingToSend,
    #[error("the stored report cannot be sent: {0}")]
    File(#[from] FileError),
    #[error("{peer} cannot be reached: {cause}; check host, port and firewall")]
    Unreachable { peer: String, cause: String },
    #[error("{peer} gave no answer within {after:?} while {step}; check that a DICOM service listens there")]
    Timeout { peer: String, step: Step, after: Duration },
    #[error("{peer} rejected the association ({}): {reason}", if *transient { "transient" } else { "permanent" })]
    Rejected { peer: String, transient: bool, reason: String },
    #[error("no TLS with {peer}: {cause}")]
    Untrusted { peer: String, cause: String },
    #[error("{peer} accepts none of the SOP classes offered; enable structured report storage there")]
    NotAccepted { peer: String },
    /// The comment is the peer's own text and may name a patient: it is for callers, never in the message.
    #[error("{peer} answered {status}")]
    Status { peer: String, status: Status, comment: Option<String> },
    #[error("{peer} answered HTTP {status}{}", http_hint(*status))]
    Http { peer: String, status: u16 },
    #[error("the token in {file} cannot be used: {cause}")]
    Token { file: String, cause: String },
    #[error("the connection with {peer} broke: {cause}")]
    Broken { peer: String, cause: String },
}

impl DeliverError {
    /// Whether the destination could not be reached, or lets nobody in: that says nothing of the report, and all others
    /// for it would fare the same. What fails while an association is opened is of this kind whatever it is.
    pub fn unreached(&self) -> bool {
        match self {
            DeliverError::Unreachable { .. } | DeliverError::Rejected { .. } | DeliverError::Token { .. } => true,
            DeliverError::Timeout { step, .. } => *step == Step::Connecting,
            DeliverError::Http { status, .. } => matches!(status, 401 | 403 | 407 | 502..=504),
            _ => false,
        }
    }

    /// Whether the association can be used on.
    pub(super) fn is_orderly(&self) -> bool {
        matches!(self, DeliverError::Status { .. } | DeliverError::NotAccepted { .. } | DeliverError::File(_))
    }

    /// Whether another attempt makes sense.
    ///
    /// Network faults, timeouts, transient rejections, A7xx (out of resources) and 0110 (processing failure) pass by
    /// themselves. A permanent rejection, an SOP class that is not accepted, A9xx and Cxxx need a hand at the
    /// destination, which may come any day, so they are tried at the slowest pace.
    pub fn retry(&self) -> Retry {
        match self {
            DeliverError::NotAllowed(_) | DeliverError::NothingToSend | DeliverError::File(_) => Retry::Never,
            DeliverError::Unreachable { .. } | DeliverError::Timeout { .. } | DeliverError::Broken { .. } => {
                Retry::Soon
            }
            DeliverError::Rejected { transient, .. } => {
                if *transient {
                    Retry::Soon
                } else {
                    Retry::Later
                }
            }
            DeliverError::NotAccepted { .. } | DeliverError::Untrusted { .. } | DeliverError::Token { .. } => {
                Retry::Later
            }
            // Request Timeout, Too Early, Too Many Requests and what is wrong with the server itself pass.
            DeliverError::Http { status, .. } => match status {
                408 | 425 | 429 | 500..=599 => Retry::Soon,
                _ => Retry::Later,
            },
            DeliverError::Status { status, .. } => match status.0 {
                0xa700..=0xa7ff | 0x0110 | 0x0213 => Retry::Soon,
                _ => Retry::Later,
            },
        }
    }

    /// As [`DeliverError::retry`], for a map, which a destination may well do without: one that does not take its SOP
    /// class is not asked for weeks.
    pub fn retry_of_map(&self) -> Retry {
        match self {
            DeliverError::NotAccepted { .. } | DeliverError::Status { status: Status::SOP_CLASS_NOT_SUPPORTED, .. } => {
                Retry::Never
            }
            other => other.retry(),
        }
    }

    /// What `wire` reports while an association is being opened or used.
    pub(super) fn from_request(peer: String, error: RequestError) -> Self {
        match error {
            RequestError::Unreachable(cause) => DeliverError::Unreachable { peer, cause },
            RequestError::Timeout { step, after } => DeliverError::Timeout { peer, step, after },
            RequestError::Rejected { transient, reason } => DeliverError::Rejected { peer, transient, reason },
            RequestError::Untrusted(cause) => DeliverError::Untrusted { peer, cause },
            RequestError::Aborted(_)
            | RequestError::Violation(_)
            | RequestError::Wire(_)
            | RequestError::TooMany(_) => DeliverError::Broken { peer, cause: error.to_string() },
        }
    }
}

impl From<HttpError> for DeliverError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable { peer, cause } => DeliverError::Unreachable { peer, cause },
            HttpError::Timeout { peer, step, after } => DeliverError::Timeout { peer, step, after },
            HttpError::Broken { peer, cause } => DeliverError::Broken { peer, cause },
            HttpError::TooLong { ref peer, .. } => {
                DeliverError::Broken { peer: peer.clone(), cause: error.to_string() }
            }
        }
    }
}

/// What to do about a status, where it says that.
fn http_hint(status: u16) -> &'static str {
    match status {
        300..=399 => "; name the address that it points to: redirections are not followed",
        401 | 403 => "; check token_file and what its token may do",
        404 | 405 => "; check that url is the root of the DICOMweb service",
        413 => "; it takes no object of this size",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_pace() {
        let status = |code| DeliverError::Status { peer: "P".into(), status: Status(code), comment: None };
        let rejected = |transient| DeliverError::Rejected { peer: "P".into(), transient, reason: "r".into() };
        let timeout = DeliverError::Timeout { peer: "P".into(), step: Step::Answering, after: Duration::from_secs(1) };
        let rows = [
            (status(0xa700), Retry::Soon),
            (status(0xa701), Retry::Soon),
            (status(0x0110), Retry::Soon),
            (status(0xa900), Retry::Later),
            (status(0xc000), Retry::Later),
            (status(0x0122), Retry::Later),
            (rejected(true), Retry::Soon),
            (rejected(false), Retry::Later),
            (timeout, Retry::Soon),
            (DeliverError::Unreachable { peer: "P".into(), cause: "refused".into() }, Retry::Soon),
            (DeliverError::NotAccepted { peer: "P".into() }, Retry::Later),
            (DeliverError::Untrusted { peer: "P".into(), cause: "c".into() }, Retry::Later),
            (DeliverError::Http { peer: "P".into(), status: 503 }, Retry::Soon),
            (DeliverError::Http { peer: "P".into(), status: 401 }, Retry::Later),
            (DeliverError::Token { file: "f".into(), cause: "c".into() }, Retry::Later),
            (DeliverError::NotAllowed("d".into()), Retry::Never),
            (DeliverError::File(FileError::NotDicom), Retry::Never),
        ];
        for (error, expected) in rows {
            assert_eq!(error.retry(), expected, "{error}");
            let refused = ["accepts none", "0122H"].iter().any(|text| error.to_string().contains(text));
            assert_eq!(error.retry_of_map(), if refused { Retry::Never } else { expected }, "{error}");
        }
    }

    #[test]
    fn a_status_is_shown_with_its_name_and_without_the_peers_own_words() {
        let error = DeliverError::Status {
            peer: "PACS@h:104".into(),
            status: Status(0xa700),
            comment: Some("DOE^JANE".into()),
        };
        assert_eq!(error.to_string(), "PACS@h:104 answered A700H refused: out of resources");
    }
}
