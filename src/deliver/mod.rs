//! Reports to their destinations: C-STORE SCU with a fall-back over SOP classes and transfer syntaxes, C-ECHO SCU.
//!
//! A [`Session`] is an association, each report on it one attempt. The alternatives of a report (one per SOP class, each with its own SOP Instance UID)
//! were fixed when the result was, so that every attempt sends the same bytes. Whether and when to try again is
//! judged by [`DeliverError::retry`] and [`backoff`]; the outbox itself lives in `store`, its clock in `serve`.
//! Neighbours: `peer` holds the association, `transcode` the encoding. Left out: STOW-RS and folders.

mod backoff;
mod error;
mod peer;
mod transcode;

use std::time::Duration;

use tracing::{info, warn};

use crate::config::{Destination, Mode};
use crate::dicom::{Status, VERIFICATION};
use crate::domain::{AeTitle, Report, Uid};

pub use backoff::backoff;
pub use error::{DeliverError, Retry, Step};
pub use peer::Peer;
pub use transcode::FileError;

use peer::{Connection, Proposal};
use transcode::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN};

/// One alternative of a report: a complete file in Explicit VR Little Endian.
#[derive(Debug, Clone, Copy)]
pub struct ReportFile<'a> {
    pub sop_class: &'a Uid,
    pub sop_instance: &'a Uid,
    pub file: &'a [u8],
}

/// What a destination took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Which of the alternatives it was.
    pub index: usize,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    /// Success, a warning, or 0111H where the destination holds the instance from an earlier attempt.
    pub status: Status,
}

impl<'a> From<&'a Report> for ReportFile<'a> {
    fn from(report: &'a Report) -> Self {
        Self { sop_class: &report.sop_class, sop_instance: &report.sop_instance, file: &report.file }
    }
}

/// Whether a report may go to `destination` at all: in shadow mode only audit destinations exist.
///
/// # Errors
/// [`DeliverError::NotAllowed`].
pub fn allowed(mode: Mode, destination: &Destination) -> Result<(), DeliverError> {
    match mode {
        Mode::Shadow if !destination.audit => Err(DeliverError::NotAllowed(destination.name.clone())),
        Mode::Shadow | Mode::Active => Ok(()),
    }
}

/// An association with a destination, for one report after the other.
pub struct Session {
    connection: Connection,
    destination: String,
    /// Whether it took a report before.
    used: bool,
}

impl Session {
    /// Opens an association for reports like this one. Takes at most `destination.timeout`.
    ///
    /// # Errors
    /// [`DeliverError`]. But for [`DeliverError::NotAllowed`], [`DeliverError::NothingToSend`] and
    /// [`DeliverError::File`] it says that the destination could not be reached, and nothing of the report.
    pub async fn open(
        mode: Mode,
        destination: &Destination,
        calling: &AeTitle,
        alternatives: &[ReportFile<'_>],
    ) -> Result<Self, DeliverError> {
        allowed(mode, destination)?;
        if alternatives.is_empty() {
            return Err(DeliverError::NothingToSend);
        }
        alternatives.iter().try_for_each(|a| transcode::data_set(a.file).map(drop))?;
        let peer = Peer::from(destination);
        let connection = Connection::open(&peer, calling, &proposals(alternatives), destination.timeout).await?;
        Ok(Self { connection, destination: destination.name.clone(), used: false })
    }

    /// Sends the first of `alternatives` whose SOP class the destination accepts, in Explicit VR Little Endian where it
    /// can, else Implicit. Takes at most twice the destination's timeout.
    ///
    /// # Errors
    /// [`DeliverError`]; its [`retry`](DeliverError::retry) says whether another attempt makes sense. The association
    /// can be used on after [`DeliverError::Status`], [`DeliverError::NotAccepted`] and [`DeliverError::File`] only.
    pub async fn send(&mut self, alternatives: &[ReportFile<'_>]) -> Result<Sent, DeliverError> {
        let proposals = proposals(alternatives);
        let peer = self.connection.peer().to_owned();
        let Some((chosen, context)) = self.connection.first_accepted(&proposals) else {
            return Err(DeliverError::NotAccepted { peer });
        };
        let index = chosen / 2;
        let alternative = &alternatives[index];
        let data_set = transcode::data_set(alternative.file)?;
        let implicit;
        let bytes = if proposals[chosen].transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN {
            implicit = transcode::to_implicit(data_set)?;
            &implicit[..]
        } else {
            data_set
        };
        let response = self.connection.store(context, alternative.sop_class, alternative.sop_instance, bytes).await?;
        self.used = true;

        let status = response.status;
        // The bytes under this UID never change: a duplicate is the trace of an attempt whose answer was lost.
        if !status.is_stored() && status != Status::DUPLICATE_SOP_INSTANCE {
            return Err(DeliverError::Status { peer, status, comment: response.comment });
        }
        if status == Status::SUCCESS {
            info!(destination = %self.destination, "report delivered");
        } else {
            warn!(destination = %self.destination, %status, "report delivered with a remark");
        }
        let (sop_class, sop_instance) = (alternative.sop_class.clone(), alternative.sop_instance.clone());
        Ok(Sent { index, sop_class, sop_instance, status })
    }

    /// Whether it answered a report before: peers may end an association after each, which says nothing of the next.
    pub fn used(&self) -> bool {
        self.used
    }

    /// Releases the association, or aborts it after an error that leaves it unusable.
    pub async fn end(self, after: Option<&DeliverError>) {
        match after {
            None | Some(DeliverError::Status { .. } | DeliverError::NotAccepted { .. } | DeliverError::File(_)) => {
                self.connection.close().await;
            }
            Some(_) => self.connection.abort().await,
        }
    }
}

/// One report on an association of its own: [`Session::open`], [`Session::send`], the end.
///
/// # Errors
/// [`DeliverError`]; its [`retry`](DeliverError::retry) says whether another attempt makes sense.
pub async fn send(
    mode: Mode,
    destination: &Destination,
    calling: &AeTitle,
    alternatives: &[ReportFile<'_>],
) -> Result<Sent, DeliverError> {
    let mut session = Session::open(mode, destination, calling, alternatives).await?;
    let sent = session.send(alternatives).await;
    session.end(sent.as_ref().err()).await;
    sent
}

/// A context of its own for each pair, so that the choice among them is ours (PS3.8 9.3.2.2).
fn proposals<'a>(alternatives: &[ReportFile<'a>]) -> Vec<Proposal<'a>> {
    let pairs = |a: &ReportFile<'a>| {
        let abstract_syntax = a.sop_class.as_str();
        [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
            .map(|transfer_syntax| Proposal { abstract_syntax, transfer_syntax })
    };
    alternatives.iter().flat_map(pairs).collect()
}

/// Asks `peer` whether it is there (Verification, PS3.4 Annex A).
///
/// # Errors
/// [`DeliverError`], also for any status but success.
pub async fn echo(peer: &Peer, calling: &AeTitle, timeout: Duration) -> Result<(), DeliverError> {
    let proposals = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
        .map(|ts| Proposal { abstract_syntax: VERIFICATION.uid, transfer_syntax: ts });
    let mut connection = Connection::open(peer, calling, &proposals, timeout).await?;
    let Some((_, context)) = connection.first_accepted(&proposals) else {
        connection.close().await;
        return Err(DeliverError::NotAccepted { peer: peer.to_string() });
    };
    match connection.echo(context).await {
        Ok(response) if response.status == Status::SUCCESS => {
            connection.close().await;
            Ok(())
        }
        Ok(response) => {
            connection.close().await;
            let (peer, status) = (peer.to_string(), response.status);
            Err(DeliverError::Status { peer, status, comment: response.comment })
        }
        Err(error) => {
            connection.abort().await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Disclosure;

    fn destination(audit: bool) -> Destination {
        Destination {
            name: "archive".into(),
            ae_title: AeTitle::parse("ARCHIVE").unwrap(),
            host: "127.0.0.1".into(),
            port: 1,
            audit,
            disclose: Disclosure::Withheld,
            timeout: Duration::from_secs(1),
            associations_max: 1,
            per_minute_max: None,
        }
    }

    #[test]
    fn shadow_mode_knows_audit_destinations_only() {
        let rows = [
            (Mode::Shadow, false, false),
            (Mode::Shadow, true, true),
            (Mode::Active, false, true),
            (Mode::Active, true, true),
        ];
        for (mode, audit, expected) in rows {
            assert_eq!(allowed(mode, &destination(audit)).is_ok(), expected, "{mode:?} {audit}");
        }
    }

    #[tokio::test]
    async fn a_refused_destination_is_never_contacted() {
        let calling = AeTitle::parse("SIDELIGHT").unwrap();
        let error = send(Mode::Shadow, &destination(false), &calling, &[]).await.unwrap_err();
        assert!(matches!(error, DeliverError::NotAllowed(_)), "{error}");
        let error = send(Mode::Active, &destination(false), &calling, &[]).await.unwrap_err();
        assert!(matches!(error, DeliverError::NothingToSend), "{error}");
    }
}
