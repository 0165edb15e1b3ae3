//! Reports to their destinations: C-STORE SCU with a fall-back over SOP classes and transfer syntaxes, C-ECHO SCU, and
//! STOW-RS.
//!
//! A [`Session`] carries one report after the other, each an attempt. The alternatives of a report (one per SOP class,
//! each with its own SOP Instance UID) were fixed when the result was, so that every attempt sends the same bytes.
//! Whether and when to try again is judged by [`DeliverError::retry`] and [`backoff`]; the outbox itself lives in
//! `store`, its clock in `serve`. Neighbours: `peer` holds the association, `transcode` the encoding, `stow` the other
//! road over HTTP. Left out: folders.

mod backoff;
mod commitment;
mod confirmation;
mod error;
mod peer;
mod session;
mod stow;
mod transcode;

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Destination, Endpoint, Mode, PeerTls};
use crate::dicom::{Status, VERIFICATION};
use crate::domain::{AeTitle, Report, Uid};
use crate::wire::{Security, Tls};

pub use crate::wire::Step;
pub use backoff::backoff;
pub use commitment::report_commitment;
pub use confirmation::{AcceptedInquiry, HeardCommitment, ask_commitment};
pub use error::{DeliverError, Retry};
pub use peer::Peer;
pub use session::Session;
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

/// One report on an association of its own: [`Session::open`], [`Session::send`], the end.
///
/// # Errors
/// [`DeliverError`]; its [`retry`](DeliverError::retry) says whether another attempt makes sense.
pub async fn send(
    mode: Mode,
    destination: &Destination,
    tls: &Arc<Tls>,
    calling: &AeTitle,
    alternatives: &[ReportFile<'_>],
) -> Result<Sent, DeliverError> {
    let mut session = Session::open(mode, destination, tls, calling, alternatives).await?;
    let sent = session.send(alternatives).await;
    session.end(sent.as_ref().err()).await;
    sent
}

/// Asks a destination whether it is there, by C-ECHO or a search; gives what to tell of it.
///
/// # Errors
/// [`DeliverError`], also where it is there and would not let us in.
pub async fn probe(destination: &Destination, tls: &Arc<Tls>, calling: &AeTitle) -> Result<&'static str, DeliverError> {
    match &destination.endpoint {
        Endpoint::Dimse { ae_title, host, port, tls: asked } => {
            let peer = Peer { ae_title: ae_title.clone(), host: host.clone(), port: *port };
            let security = security(&peer, asked.as_ref(), tls)?;
            let how = if asked.is_some() { "answers C-ECHO over TLS" } else { "answers C-ECHO" };
            echo(&peer, &security, calling, destination.timeout).await.map(|()| how)
        }
        Endpoint::Stow { url, token_file } => stow::probe(url, token_file.as_deref(), destination.timeout).await,
    }
}

/// How `peer` is called: in the clear, or over TLS with what it has to show.
///
/// # Errors
/// [`DeliverError::Untrusted`] where TLS is asked for and its name cannot be one of a certificate.
pub fn security(peer: &Peer, asked: Option<&PeerTls>, tls: &Arc<Tls>) -> Result<Security, DeliverError> {
    let fault = |cause: crate::wire::tls::HandshakeError| DeliverError::Untrusted {
        peer: peer.to_string(),
        cause: cause.to_string(),
    };
    tls.security(&peer.host, asked).map_err(fault)
}

/// Asks `peer` whether it is there (Verification, PS3.4 Annex A).
///
/// # Errors
/// [`DeliverError`], also for any status but success.
pub async fn echo(peer: &Peer, security: &Security, calling: &AeTitle, timeout: Duration) -> Result<(), DeliverError> {
    let proposals = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
        .map(|ts| Proposal { abstract_syntax: VERIFICATION.uid, transfer_syntax: ts });
    let mut connection = Connection::open(peer, security, calling, &proposals, timeout).await?;
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
            endpoint: Endpoint::Dimse {
                ae_title: AeTitle::parse("ARCHIVE").unwrap(),
                host: "127.0.0.1".into(),
                port: 1,
                tls: None,
            },
            audit,
            disclose: Disclosure::Withheld,
            timeout: Duration::from_secs(1),
            associations_max: 1,
            per_minute_max: None,
            commitment: None,
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
        let tls = Tls::load(&crate::config::load(None, [], &[]).unwrap().tls, &[]).unwrap();
        let error = send(Mode::Shadow, &destination(false), &tls, &calling, &[]).await.unwrap_err();
        assert!(matches!(error, DeliverError::NotAllowed(_)), "{error}");
        let error = send(Mode::Active, &destination(false), &tls, &calling, &[]).await.unwrap_err();
        assert!(matches!(error, DeliverError::NothingToSend), "{error}");
    }
}
