//! An association as its requestor (PS3.8 7.1, 9.2; PS3.7 Annex D): connect, negotiate, exchange messages, end.
//!
//! The peer is one that errs or worse: every wait has an end, every length a limit, and what does not fit the protocol
//! ends the association with an A-ABORT. Neighbours: `deliver` sends reports with it. dicom-ul's requestor is not used:
//! it names itself as the implementation, and blocks. Left out: what the messages mean, more than one operation at a
//! time, user identity.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, AssociationAC, AssociationRJ, AssociationRJResult, AssociationRQ,
    DEFAULT_MAX_PDU, PDataValue, PDataValueType, Pdu, PresentationContextProposed, PresentationContextResultReason,
    RequestorRoles, UserVariableItem,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::dicom::{CommandSet, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::domain::AeTitle;

use super::tls::{HandshakeError, ServerIdentity, Tls, tls_error};
use super::{FragmentError, Fragments, PEER_PDU_BYTES_MIN, Stream, Wire, WireError, pdu_name};

/// Whom to call, and what is proposed.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Host name or address.
    pub host: &'a str,
    pub port: u16,
    pub security: &'a Security,
    pub calling: &'a AeTitle,
    pub called: &'a AeTitle,
    /// Presentation contexts; at most 128.
    pub proposals: &'a [Proposal<'a>],
    /// Longest time for connecting and negotiating together, for sending one message part, and for an answer.
    pub timeout: Duration,
}

/// How the connection is protected.
#[derive(Debug, Clone, Default)]
pub enum Security {
    #[default]
    Plain,
    /// TLS with these files of the node, and what the peer has to show.
    Tls(Arc<Tls>, ServerIdentity),
}

/// A presentation context as it is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal<'a> {
    pub abstract_syntax: &'a str,
    /// In the order of preference, which an acceptor need not follow.
    pub transfer_syntaxes: &'a [&'a str],
    /// `None`: no role selection, so that the requestor is the SCU (PS3.7 D.3.3.4).
    pub roles: Option<Roles>,
}

/// The requestor's roles for a SOP class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub scu: bool,
    pub scp: bool,
}

/// A presentation context as it was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// Its id.
    pub context: u8,
    /// One of those that were proposed.
    pub transfer_syntax: &'a str,
    /// What the acceptor left of the proposed roles; without an answer of its, the requestor is the SCU.
    pub roles: Roles,
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub context: u8,
    pub command: Vec<u8>,
    pub data_set: Option<Vec<u8>>,
}

/// What was under way when time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Connecting,
    Sending,
    Answering,
}

/// Why there is no association, or no longer one. The texts name neither side, which the caller does.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("no end within {after:?} while {step}")]
    Timeout { step: Step, after: Duration },
    #[error("it rejected the association: {reason}")]
    Rejected { transient: bool, reason: String },
    #[error("it aborted the association ({0})")]
    Aborted(String),
    /// The peer broke the protocol or a limit; it was told with an A-ABORT.
    #[error("{0}")]
    Violation(String),
    #[error("{0}")]
    Wire(WireError),
    /// There is no trust between both sides: somebody has to change something.
    #[error("{0}")]
    Untrusted(String),
    #[error("{0} presentation contexts, at most 128 can be proposed")]
    TooMany(usize),
}

/// An established association.
#[derive(Debug)]
pub struct Requestor {
    wire: Wire,
    /// One for each proposal.
    contexts: Vec<Option<Context>>,
    peer_pdu_bytes_max: u32,
    timeout: Duration,
}

#[derive(Debug)]
struct Context {
    id: u8,
    transfer_syntax: String,
    roles: Roles,
}

/// Announced and enforced on every P-DATA-TF PDU, bytes. Answers are short.
const PDU_BYTES_MAX: u32 = 1 << 17;

/// Largest A-ASSOCIATE-AC, bytes: 128 contexts need some 6 kB, and the announced maximum says nothing about it.
const ANSWER_BYTES_MAX: u32 = 1 << 18;

/// Largest data set of a received message, bytes: a storage commitment of 10,000 instances has 2 MB.
const DATA_SET_BYTES_MAX: usize = 16 << 20;

/// The longest that a release or an abort may take: by then the result is known.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";

impl Roles {
    /// What holds without role selection.
    pub const SCU: Self = Self { scu: true, scp: false };
    /// As an SCP proposes it that has something to report (PS3.4 J.3.3).
    pub const SCP: Self = Self { scu: false, scp: true };
}

impl Requestor {
    /// Connects and negotiates. An association in which nothing was accepted is one too: the caller releases it.
    ///
    /// # Errors
    /// [`RequestError`]; nothing is left open then.
    pub async fn open(call: &Call<'_>) -> Result<Self, RequestError> {
        let request = request(call)?;
        let deadline = Instant::now() + call.timeout;
        let late = RequestError::Timeout { step: Step::Connecting, after: call.timeout };
        let connecting = async {
            let stream = connect(call).await?;
            let mut wire = Wire::new(stream, call.timeout).map_err(|e| RequestError::Wire(e.into()))?;
            wire.send(&Pdu::AssociationRQ(request)).await.map_err(|e| failed(e, Step::Connecting, call.timeout))?;
            let answer = wire.receive(ANSWER_BYTES_MAX).await;
            Ok::<_, RequestError>((wire, answer))
        };
        // Where time runs out the connection is dropped: nobody is known to listen (PS3.8 9.2, state 5).
        let (wire, answer) = timeout_at(deadline, connecting).await.map_err(|_| late)??;
        let answer = match answer {
            Ok(Pdu::AssociationAC(answer)) => answer,
            Ok(Pdu::AssociationRJ(AssociationRJ { result, source })) => {
                let transient = result == AssociationRJResult::Transient;
                return Err(RequestError::Rejected { transient, reason: source.to_string() });
            }
            Ok(Pdu::AbortRQ { source }) => return Err(RequestError::Aborted(format!("{source:?}"))),
            Ok(other) => {
                farewell(
                    call.timeout,
                    wire.abort(AbortRQSource::ServiceProvider(AbortRQServiceProviderReason::UnexpectedPdu)),
                )
                .await;
                return Err(RequestError::Violation(format!("it answered with {}", pdu_name(&other))));
            }
            Err(error) => {
                if let Some(reason) = error.abort_reason() {
                    farewell(call.timeout, wire.abort(AbortRQSource::ServiceProvider(reason))).await;
                }
                return Err(failed(error, Step::Connecting, call.timeout));
            }
        };
        match accepted(call.proposals, &answer) {
            Ok((contexts, peer_pdu_bytes_max)) => {
                Ok(Self { wire, contexts, peer_pdu_bytes_max, timeout: call.timeout })
            }
            Err(fault) => {
                farewell(
                    call.timeout,
                    wire.abort(AbortRQSource::ServiceProvider(AbortRQServiceProviderReason::InvalidPduParameter)),
                )
                .await;
                Err(RequestError::Violation(fault))
            }
        }
    }

    /// What became of the proposal at this position; `None` where it was refused.
    pub fn accepted(&self, proposal: usize) -> Option<Accepted<'_>> {
        let context = self.contexts.get(proposal)?.as_ref()?;
        let Context { id, transfer_syntax, roles } = context;
        Some(Accepted { context: *id, transfer_syntax, roles: *roles })
    }

    /// Sends a message: a command set, and a data set if one belongs to it.
    pub async fn send(&mut self, context: u8, command: &[u8], data_set: Option<&[u8]>) -> Result<(), RequestError> {
        let (most, after) = (self.peer_pdu_bytes_max, self.timeout);
        let late = |_| RequestError::Timeout { step: Step::Sending, after };
        let sent = timeout(after, self.wire.send_command(context, command, most)).await.map_err(late)?;
        sent.map_err(|e| failed(e, Step::Sending, after))?;
        if let Some(data_set) = data_set {
            let sent = timeout(after, self.wire.send_data_set(context, data_set, most)).await.map_err(late)?;
            sent.map_err(|e| failed(e, Step::Sending, after))?;
        }
        Ok(())
    }

    /// The next message, whole; it may be a request of the peer's.
    ///
    /// # Errors
    /// [`RequestError`]; the association is of no more use then, and [`Requestor::abort`] ends it.
    pub async fn receive(&mut self) -> Result<Message, RequestError> {
        let after = self.timeout;
        match timeout(after, self.next_message()).await {
            Ok(message) => message,
            Err(_) => Err(RequestError::Timeout { step: Step::Answering, after }),
        }
    }

    /// As [`Requestor::receive`], where none may come: `None` if none did within `limit`. All that is left to do then
    /// is to end the association, since one may have begun.
    pub async fn receive_within(&mut self, limit: Duration) -> Result<Option<Message>, RequestError> {
        timeout(limit, self.next_message()).await.ok().transpose()
    }

    /// Releases the association (PS3.8 7.2). The result is known by then, so that a peer that does not release well is
    /// ignored.
    pub async fn release(mut self) {
        let limit = self.timeout;
        farewell(limit, async {
            if self.wire.send(&Pdu::ReleaseRQ).await.is_err() {
                return;
            }
            loop {
                match self.wire.receive(PDU_BYTES_MAX).await {
                    // What was on its way, and a release of the peer's own (PS3.8 9.2, states 7, 9 and 11).
                    Ok(Pdu::PData { .. }) => {}
                    Ok(Pdu::ReleaseRQ) if self.wire.send(&Pdu::ReleaseRP).await.is_ok() => {}
                    Ok(_) | Err(_) => return,
                }
            }
        })
        .await;
    }

    /// Aborts the association, as far as the peer still listens.
    pub async fn abort(mut self) {
        let limit = self.timeout;
        farewell(limit, async {
            if self.wire.send(&Pdu::AbortRQ { source: AbortRQSource::ServiceUser }).await.is_ok() {
                self.wire.linger().await;
            }
        })
        .await;
    }

    async fn next_message(&mut self) -> Result<Message, RequestError> {
        let mut partial = Partial::default();
        loop {
            let values = match self.wire.receive(PDU_BYTES_MAX).await {
                Ok(Pdu::PData { data }) => data,
                Ok(Pdu::AbortRQ { source }) => return Err(RequestError::Aborted(format!("{source:?}"))),
                Ok(other) => return Err(RequestError::Violation(format!("{} within a message", pdu_name(&other)))),
                Err(error) => return Err(failed(error, Step::Answering, self.timeout)),
            };
            let count = values.len();
            for (index, value) in values.into_iter().enumerate() {
                let id = value.presentation_context_id;
                if !self.contexts.iter().flatten().any(|c| c.id == id) {
                    return Err(RequestError::Violation(format!("presentation context {id} was not agreed")));
                }
                if let Some(message) = partial.take(&value).map_err(RequestError::Violation)? {
                    // One operation at a time: nothing can follow a message in its PDU.
                    if index + 1 < count {
                        return Err(RequestError::Violation("two messages in one PDU".into()));
                    }
                    return Ok(message);
                }
            }
        }
    }
}

/// A message that is arriving (PS3.7 6.3).
#[derive(Debug, Default)]
struct Partial {
    command: Fragments,
    /// Once its command set is complete, and a data set belongs to it.
    begun: Option<Message>,
}

impl Partial {
    /// Takes one fragment; the message where it is the last one.
    fn take(&mut self, value: &PDataValue) -> Result<Option<Message>, String> {
        let context = value.presentation_context_id;
        let Some(message) = &mut self.begun else {
            let Some(command) = self.command.take(value).map_err(|e| e.to_string())? else { return Ok(None) };
            let set = CommandSet::parse(&command).map_err(|e| e.to_string())?;
            let message = Message { context, command, data_set: None };
            if !set.has_data_set().map_err(|e| e.to_string())? {
                return Ok(Some(message));
            }
            self.begun = Some(message);
            return Ok(None);
        };
        if message.context != context {
            return Err(FragmentError::ChangedContext { from: message.context, to: context }.to_string());
        }
        if value.value_type == PDataValueType::Command {
            return Err("a command within a data set".into());
        }
        let data_set = message.data_set.get_or_insert_default();
        if data_set.len() + value.data.len() > DATA_SET_BYTES_MAX {
            return Err(format!("a data set of more than {DATA_SET_BYTES_MAX} bytes"));
        }
        data_set.extend_from_slice(&value.data);
        Ok(if value.is_last { self.begun.take() } else { None })
    }
}

async fn connect(call: &Call<'_>) -> Result<Stream, RequestError> {
    let tcp = TcpStream::connect((call.host, call.port)).await;
    let tcp = tcp.map_err(|e| RequestError::Unreachable(e.to_string()))?;
    match call.security {
        Security::Plain => Ok(tcp.into()),
        Security::Tls(tls, identity) => tls.connect(tcp, identity).await.map_err(|error| match error {
            HandshakeError::Broken(error) => RequestError::Wire(error.into()),
            error => RequestError::Untrusted(error.to_string()),
        }),
    }
}

/// The A-ASSOCIATE-RQ (PS3.8 9.3.2); contexts have the ids 1, 3, 5, …
fn request(call: &Call<'_>) -> Result<AssociationRQ, RequestError> {
    let mut presentation_contexts = Vec::with_capacity(call.proposals.len());
    let mut user_variables = vec![
        UserVariableItem::MaxLength(PDU_BYTES_MAX),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.into()),
    ];
    for (index, proposal) in call.proposals.iter().enumerate() {
        presentation_contexts.push(PresentationContextProposed {
            id: u8::try_from(2 * index + 1).map_err(|_| RequestError::TooMany(call.proposals.len()))?,
            abstract_syntax: proposal.abstract_syntax.into(),
            transfer_syntaxes: proposal.transfer_syntaxes.iter().map(|uid| (*uid).into()).collect(),
        });
        let Some(Roles { scu, scp }) = proposal.roles else { continue };
        let item =
            UserVariableItem::ScuScpRoleSelectionSubItem(proposal.abstract_syntax.into(), RequestorRoles { scu, scp });
        // One item for each SOP class, whatever the number of its contexts (PS3.7 D.3.3.4).
        if !user_variables.contains(&item) {
            user_variables.push(item);
        }
    }
    Ok(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: call.calling.as_str().into(),
        called_ae_title: call.called.as_str().into(),
        application_context_name: APPLICATION_CONTEXT.into(),
        presentation_contexts,
        user_variables,
    })
}

/// What an acceptor made of the proposals, and its maximum length; or what it did that no acceptor may.
fn accepted(proposals: &[Proposal<'_>], answer: &AssociationAC) -> Result<(Vec<Option<Context>>, u32), String> {
    let peer_pdu_bytes_max = answer.user_variables.iter().find_map(|item| match item {
        UserVariableItem::MaxLength(length) => Some(*length),
        _ => None,
    });
    let peer_pdu_bytes_max = peer_pdu_bytes_max.unwrap_or(DEFAULT_MAX_PDU);
    if (1..PEER_PDU_BYTES_MIN).contains(&peer_pdu_bytes_max) {
        return Err(format!("it takes PDUs of {peer_pdu_bytes_max} bytes only"));
    }
    let mut contexts: Vec<Option<Context>> = proposals.iter().map(|_| None).collect();
    let mut answered = vec![false; proposals.len()];
    for result in &answer.presentation_contexts {
        let index = usize::from(result.id / 2);
        let proposal = proposals.get(index).filter(|_| result.id % 2 == 1);
        let Some(proposal) = proposal else {
            return Err(format!("it answered presentation context {}, which was not proposed", result.id));
        };
        if std::mem::replace(&mut answered[index], true) {
            return Err(format!("it answered presentation context {} twice", result.id));
        }
        if result.reason != PresentationContextResultReason::Acceptance {
            continue;
        }
        let transfer_syntax = result.transfer_syntax.trim_end_matches(['\0', ' ']);
        // One that was not proposed cannot be used, so that the context counts as refused.
        if proposal.transfer_syntaxes.contains(&transfer_syntax) {
            let roles = proposal.roles.map_or(Roles::SCU, |roles| answered_roles(proposal, roles, answer));
            contexts[index] = Some(Context { id: result.id, transfer_syntax: transfer_syntax.into(), roles });
        }
    }
    Ok((contexts, peer_pdu_bytes_max))
}

/// An acceptor may take a role away and grant none that was not proposed.
fn answered_roles(proposal: &Proposal<'_>, proposed: Roles, answer: &AssociationAC) -> Roles {
    let granted = answer.user_variables.iter().find_map(|item| match item {
        UserVariableItem::ScuScpRoleSelectionSubItem(uid, roles)
            if uid.trim_end_matches(['\0', ' ']) == proposal.abstract_syntax =>
        {
            Some(roles)
        }
        _ => None,
    });
    granted.map_or(Roles::SCU, |g| Roles { scu: proposed.scu && g.scu, scp: proposed.scp && g.scp })
}

/// A write that stalled is told as a timeout, an alert of TLS as what it says.
fn failed(error: WireError, step: Step, after: Duration) -> RequestError {
    match error {
        WireError::Stalled(_) => RequestError::Timeout { step, after },
        // With TLS 1.3 a server judges the client's certificate after the client has finished its handshake.
        WireError::Io(error) => match tls_error(&error) {
            Some(text) => RequestError::Untrusted(text),
            None => RequestError::Wire(error.into()),
        },
        error => RequestError::Wire(error),
    }
}

async fn farewell(limit: Duration, ending: impl Future<Output = ()>) {
    let _ = timeout(limit.min(FAREWELL_MAX), ending).await;
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Connecting => "opening the association",
            Step::Sending => "taking the data",
            Step::Answering => "answering the request",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "requestor_tests.rs"]
mod tests;
