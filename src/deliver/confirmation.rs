//! Asking a destination for storage commitment of what it took: N-ACTION, then its N-EVENT-REPORT if that comes on the
//! same association (PS3.4 J.3.2, J.3.3).
//!
//! Neighbours: `serve` says what is asked for, and records an answer before it is acknowledged; `receive` takes one
//! that comes on an association of the destination's own. Left out: when to ask again.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Destination, Endpoint};
use crate::dicom::{
    ActionRq, Command, CommandField, CommitmentRq, CommitmentRs, Encoding, Request, Response, STORAGE_COMMITMENT,
    Status,
};
use crate::domain::{AeTitle, Uid};
use crate::wire::{Call, Message, Proposal, Requestor, Tls};

use super::{Peer, security};

const MESSAGE_ID: u16 = 1;
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";

/// A request that a destination has accepted, on an association that is still open.
pub struct AcceptedInquiry {
    association: Requestor,
    context: u8,
    encoding: Encoding,
    peer: String,
    /// An answer that overtook the response to the request.
    early: Option<Message>,
}

/// An answer that came on the association that asked; it is not acknowledged yet.
pub struct HeardCommitment {
    pub answer: CommitmentRs,
    association: Requestor,
    context: u8,
    message_id: u16,
}

/// Number of a report, and the status that it is answered with.
type Refused = (u16, Status);

/// Asks for commitment. Takes at most three times the destination's timeout.
///
/// # Errors
/// Why the destination was not asked, for people.
pub async fn ask_commitment(
    destination: &Destination,
    tls: &Arc<Tls>,
    calling: &AeTitle,
    request: &CommitmentRq,
) -> Result<AcceptedInquiry, String> {
    let Endpoint::Dimse { ae_title, host, port, tls: asked } = &destination.endpoint else {
        return Err("DICOMweb has no storage commitment".to_owned());
    };
    let peer = Peer { ae_title: ae_title.clone(), host: host.clone(), port: *port };
    let security = security(&peer, asked.as_ref(), tls).map_err(|error| error.to_string())?;
    let told = |cause: String| format!("{peer}: {cause}");
    // The user of the service by default, so that no role is selected.
    let proposals =
        [Proposal { abstract_syntax: STORAGE_COMMITMENT.uid, transfer_syntaxes: &[EXPLICIT, IMPLICIT], roles: None }];
    let timeout = destination.timeout;
    let call =
        Call { host, port: *port, security: &security, calling, called: ae_title, proposals: &proposals, timeout };
    let association = Requestor::open(&call).await.map_err(|error| told(error.to_string()))?;
    let accepted = association.accepted(0).map(|a| (a.context, a.transfer_syntax == EXPLICIT));
    let Some((context, explicit)) = accepted else {
        association.release().await;
        return Err(told("it does not offer storage commitment".to_owned()));
    };
    let encoding = if explicit { Encoding::ExplicitLittleEndian } else { Encoding::ImplicitLittleEndian };
    let mut inquiry = AcceptedInquiry { association, context, encoding, peer: peer.to_string(), early: None };
    match inquiry.act(request).await {
        Ok(Status::SUCCESS) => Ok(inquiry),
        Ok(status) => {
            inquiry.association.release().await;
            Err(told(format!("it refused the request: {status}")))
        }
        Err(cause) => {
            inquiry.association.abort().await;
            Err(told(cause))
        }
    }
}

impl AcceptedInquiry {
    async fn act(&mut self, request: &CommitmentRq) -> Result<Status, String> {
        let (command, information) = (ActionRq::commitment(MESSAGE_ID).encode(), request.information());
        let sent = self.association.send(self.context, &command, Some(&information.encode(self.encoding))).await;
        sent.map_err(|error| error.to_string())?;
        loop {
            let message = self.association.receive().await.map_err(|error| error.to_string())?;
            match Command::parse(&message.command).map_err(|error| format!("its answer is damaged: {error}"))? {
                Command::Response(Response {
                    field: CommandField::N_ACTION_RSP,
                    responded_to: MESSAGE_ID,
                    status,
                    ..
                }) => {
                    return Ok(status);
                }
                Command::Request(Request::Event(_)) if self.early.is_none() => self.early = Some(message),
                Command::Response(other) => {
                    return Err(format!("it answered with {} to message {}", other.field, other.responded_to));
                }
                Command::Request(_) => return Err("it sent a request in place of an answer".to_owned()),
            }
        }
    }

    /// The answer, if it comes within `wait`. Without one the association is over, and the answer may come on another.
    ///
    /// # Errors
    /// What the destination did instead, for people; it may answer later all the same.
    pub async fn heard(mut self, wait: Duration) -> Result<Option<HeardCommitment>, String> {
        let message = match self.early.take() {
            Some(message) => Ok(Some(message)),
            None => self.association.receive_within(wait).await,
        };
        let cause = match message {
            Ok(None) => {
                self.association.release().await;
                return Ok(None);
            }
            Err(error) => error.to_string(),
            Ok(Some(message)) => match self.read(message) {
                Ok((message_id, answer)) => {
                    let Self { association, context, .. } = self;
                    return Ok(Some(HeardCommitment { answer, association, context, message_id }));
                }
                Err((Some((message_id, status)), cause)) => {
                    let response = Response::to_commitment(CommandField::N_EVENT_REPORT_RSP, message_id, status, None);
                    let _ = self.association.send(self.context, &response.encode(), None).await;
                    self.association.release().await;
                    return Err(format!("{}: {cause}", self.peer));
                }
                Err((None, cause)) => cause,
            },
        };
        self.association.abort().await;
        Err(format!("{}: {cause}", self.peer))
    }

    /// Its number and what it says; else what is answered to it, if it is answered at all, and why.
    fn read(&self, message: Message) -> Result<(u16, CommitmentRs), (Option<Refused>, String)> {
        let event = match Command::parse(&message.command) {
            Ok(Command::Request(Request::Event(event))) => event,
            Ok(_) => return Err((None, "it sent something else than its report".to_owned())),
            Err(error) => return Err((None, format!("its report is damaged: {error}"))),
        };
        let refused = |(status, cause): (Status, String)| (Some((event.message_id, status)), cause);
        let class = event.sop_class.as_ref().map(Uid::as_str);
        if class != Some(STORAGE_COMMITMENT.uid) || message.context != self.context {
            let cause = "it reports for another SOP class".to_owned();
            return Err(refused((Status::SOP_CLASS_NOT_SUPPORTED, cause)));
        }
        let information = message.data_set.unwrap_or_default();
        let answer = CommitmentRs::read(&event, Ok(information), self.encoding).map_err(refused)?;
        Ok((event.message_id, answer))
    }
}

impl HeardCommitment {
    /// Answers the report, and ends the association. The destination may repeat what was not a success.
    pub async fn acknowledge(mut self, status: Status) {
        let response = Response::to_commitment(CommandField::N_EVENT_REPORT_RSP, self.message_id, status, None);
        match self.association.send(self.context, &response.encode(), None).await {
            Ok(()) => self.association.release().await,
            Err(_) => self.association.abort().await,
        }
    }
}
