//! One established association: PDUs to DIMSE messages, messages to answers (PS3.7 sections 6 and 9, PS3.8 7.6).
//!
//! The peer is one that errs or worse: whatever does not fit the protocol ends the association with an A-ABORT, and
//! every wait has an end. Neighbours: `wire` frames the PDUs, `negotiate` agreed on the contexts, `store_scp` takes
//! objects. Left out: who may connect, which was decided before.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use dicom_ul::pdu::AbortRQSource::ServiceProvider;
use dicom_ul::pdu::{AbortRQServiceProviderReason, AbortRQSource, PDataValue, PDataValueType, Pdu};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::dicom::{COMMAND_BYTES_MAX, CommandError, EchoRq, Request, Response, Status, VERIFICATION};
use crate::domain::AeTitle;
use crate::store::Store;
use crate::wire::{Wire, WireError, pdu_name};

use super::negotiate::Context;
use super::store_scp::{Transfer, without_data_set};

/// Who is on the other side.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) calling: AeTitle,
    pub(super) called: AeTitle,
    pub(super) address: IpAddr,
}

/// Bounds of one association.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) pdu_bytes_max: u32,
    /// PS3.8 D.1; 0: no limit.
    pub(super) peer_pdu_bytes_max: u32,
    pub(super) object_bytes_max: u64,
    pub(super) idle_timeout: Duration,
}

/// An association whose A-ASSOCIATE-AC was sent.
#[derive(Debug)]
pub(super) struct Association {
    wire: Wire,
    peer: Peer,
    contexts: BTreeMap<u8, Context>,
    limits: Limits,
    expecting: Expecting,
    counts: Counts,
}

/// How an association ended.
#[derive(Debug)]
enum End {
    Released,
    AbortedByPeer(AbortRQSource),
    Silent(Duration),
    TooSlow,
    TooOld,
    ShuttingDown,
    Wire(WireError),
    Violation(Violation),
}

/// What a peer did against the protocol.
#[derive(Debug, thiserror::Error)]
enum Violation {
    #[error("{0}")]
    Command(#[from] CommandError),
    #[error("presentation context {0} was not agreed")]
    UnknownContext(u8),
    #[error("a message changed from presentation context {from} to {to}")]
    ChangedContext { from: u8, to: u8 },
    #[error("a data set fragment without a command")]
    DataSetUnexpected,
    #[error("a command fragment within a data set")]
    CommandUnexpected,
    #[error("a release within a message")]
    ReleaseWithinMessage,
    #[error("a PDU of the wrong kind: {0}")]
    UnexpectedPdu(&'static str),
}

/// The place in a message (PS3.7 6.3): a command set, then perhaps a data set, both on one presentation context.
#[derive(Debug)]
enum Expecting {
    Command { context: Option<u8>, bytes: Vec<u8> },
    DataSet { context: u8, message: Box<Message> },
}

/// What becomes of the data set that is arriving.
#[derive(Debug)]
enum Message {
    Store(Transfer),
    /// It is read and dropped, then this is answered.
    Ignored(Response),
}

/// What a message has cost so far: our own time, on a slow disk say, does not count.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn is_too_slow(&self, patience: Duration) -> bool {
        self.waited > patience && self.bytes < self.waited.as_secs().saturating_mul(MESSAGE_BYTES_PER_SECOND_MIN)
    }
}

#[derive(Debug, Default)]
struct Counts {
    echoes: u64,
    stored: u64,
    failed: u64,
    bytes: u64,
}

/// Longest life of an association. Senders open one per study or keep one for a working day; what lives longer is a
/// peer that keeps a place occupied.
const LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A message that has begun comes at least this fast once `idle_timeout` was spent waiting for it: small PDUs with
/// pauses that are each short enough must not keep a place occupied. The slowest lines between hospitals are a
/// hundred times faster.
const MESSAGE_BYTES_PER_SECOND_MIN: u64 = 1024;

impl Association {
    pub(super) fn new(wire: Wire, peer: Peer, contexts: BTreeMap<u8, Context>, limits: Limits) -> Self {
        Self { wire, peer, contexts, limits, expecting: Expecting::nothing(), counts: Counts::default() }
    }

    /// Serves until the peer releases, something goes wrong, or `cancel` asks for an end: a message that has begun is
    /// finished first.
    pub(super) async fn serve(mut self, store: &Store, cancel: &CancellationToken, permit: OwnedSemaphorePermit) {
        let end = self.converse(store, cancel).await;
        // An object that was cut off goes now, and so does the place among the associations: a peer that reads the
        // release may call again at once, and the close may take a moment.
        self.expecting = Expecting::nothing();
        drop(permit);
        let Counts { echoes, stored, failed, bytes } = self.counts;
        info!(%end, echoes, stored, failed, bytes, "association ended");
        match end {
            End::Released => {
                if self.wire.send(&Pdu::ReleaseRP).await.is_ok() {
                    self.wire.linger().await;
                }
            }
            End::ShuttingDown => {
                // The service user's abort: no protocol error (PS3.8 7.3), and the only way out for an acceptor.
                if self.wire.send(&Pdu::AbortRQ { source: AbortRQSource::ServiceUser }).await.is_ok() {
                    self.wire.linger().await;
                }
            }
            End::Silent(_) | End::TooSlow | End::TooOld => {
                self.wire.abort(ServiceProvider(AbortRQServiceProviderReason::ReasonNotSpecified)).await;
            }
            End::Violation(violation) => self.wire.abort(violation.abort_source()).await,
            End::Wire(error) => {
                if let Some(reason) = error.abort_reason() {
                    self.wire.abort(ServiceProvider(reason)).await;
                }
            }
            End::AbortedByPeer(_) => {}
        }
    }

    async fn converse(&mut self, store: &Store, cancel: &CancellationToken) -> End {
        let oldest = Instant::now() + LIFE_MAX;
        let mut pace = Pace::default();
        loop {
            let (asked, within_message) = (Instant::now(), !self.expecting.is_nothing());
            let pdu = tokio::select! {
                biased;
                () = cancel.cancelled(), if self.expecting.is_nothing() => return End::ShuttingDown,
                pdu = timeout(self.limits.idle_timeout, self.wire.receive(self.limits.pdu_bytes_max)) => pdu,
            };
            let pdu = match pdu {
                Ok(Ok(pdu)) => pdu,
                Ok(Err(error)) => return End::Wire(error),
                Err(_) => return End::Silent(self.limits.idle_timeout),
            };
            if Instant::now() > oldest {
                return End::TooOld;
            }
            if within_message {
                pace.waited += asked.elapsed();
            }
            let outcome = match pdu {
                Pdu::PData { data } => {
                    pace.bytes += data.iter().map(|value| value.data.len() as u64).sum::<u64>();
                    self.values(data, store).await
                }
                Pdu::ReleaseRQ if self.expecting.is_nothing() => return End::Released,
                Pdu::ReleaseRQ => Err(End::Violation(Violation::ReleaseWithinMessage)),
                Pdu::AbortRQ { source } => return End::AbortedByPeer(source),
                other => Err(End::Violation(Violation::UnexpectedPdu(pdu_name(&other)))),
            };
            if let Err(end) = outcome {
                return end;
            }
            if self.expecting.is_nothing() {
                pace = Pace::default();
            } else if pace.is_too_slow(self.limits.idle_timeout) {
                return End::TooSlow;
            }
        }
    }

    async fn values(&mut self, values: Vec<PDataValue>, store: &Store) -> Result<(), End> {
        for value in values {
            let answer = self.value(value, store).await.map_err(End::Violation)?;
            if let Some((context, response)) = answer {
                self.answer(context, &response).await.map_err(End::Wire)?;
            }
        }
        Ok(())
    }

    /// Takes one fragment (PS3.8 Annex E); an answer where it completes a message.
    async fn value(&mut self, value: PDataValue, store: &Store) -> Result<Option<(u8, Response)>, Violation> {
        let id = value.presentation_context_id;
        if !self.contexts.contains_key(&id) {
            return Err(Violation::UnknownContext(id));
        }
        match (&mut self.expecting, value.value_type) {
            (Expecting::Command { context, bytes }, PDataValueType::Command) => {
                let from = *context.get_or_insert(id);
                if from != id {
                    return Err(Violation::ChangedContext { from, to: id });
                }
                let total = bytes.len() + value.data.len();
                if total > COMMAND_BYTES_MAX {
                    return Err(CommandError::TooLong(total).into());
                }
                bytes.extend_from_slice(&value.data);
                if !value.is_last {
                    return Ok(None);
                }
                let request = Request::parse(bytes)?;
                self.expecting = Expecting::nothing();
                Ok(self.request(id, request, store).map(|response| (id, response)))
            }
            (Expecting::DataSet { context, message }, PDataValueType::Data) => {
                if *context != id {
                    return Err(Violation::ChangedContext { from: *context, to: id });
                }
                if let Message::Store(transfer) = message.as_mut() {
                    transfer.fragment(value.data).await;
                }
                if !value.is_last {
                    return Ok(None);
                }
                let Expecting::DataSet { message, .. } = std::mem::replace(&mut self.expecting, Expecting::nothing())
                else {
                    return Ok(None);
                };
                Ok(Some((id, self.finish(*message, store).await)))
            }
            (Expecting::Command { .. }, PDataValueType::Data) => Err(Violation::DataSetUnexpected),
            (Expecting::DataSet { .. }, PDataValueType::Command) => Err(Violation::CommandUnexpected),
        }
    }

    /// Acts on a complete command set: an answer now, or an arriving data set that ends in one.
    fn request(&mut self, id: u8, request: Request, store: &Store) -> Option<Response> {
        let context = self.contexts.get(&id)?;
        let (message, has_data_set) = match request {
            Request::Cancel => return None,
            Request::Echo(request) => {
                let status = echo_status(&request, context);
                if status == Status::SUCCESS {
                    self.counts.echoes += 1;
                }
                (Message::Ignored(Response::to_echo(&request, status)), request.has_data_set)
            }
            Request::Store(request) if !request.has_data_set => {
                self.counts.failed += 1;
                return Some(without_data_set(&request));
            }
            Request::Store(request) => {
                let transfer = Transfer::start(store, &self.peer, context, request, self.limits.object_bytes_max);
                (Message::Store(transfer), true)
            }
            Request::Other { field, message_id, sop_class, has_data_set } => {
                debug!(%field, "operation not offered");
                let response = Response {
                    field: field.response(),
                    responded_to: message_id,
                    sop_class,
                    sop_instance: None,
                    status: Status::UNRECOGNISED_OPERATION,
                    comment: Some(format!("{field} is not offered here")),
                };
                (Message::Ignored(response), has_data_set)
            }
        };
        match message {
            Message::Ignored(response) if !has_data_set => Some(response),
            message => {
                self.expecting = Expecting::DataSet { context: id, message: Box::new(message) };
                None
            }
        }
    }

    async fn finish(&mut self, message: Message, store: &Store) -> Response {
        let transfer = match message {
            Message::Ignored(response) => return response,
            Message::Store(transfer) => transfer,
        };
        self.counts.bytes += transfer.bytes();
        let response = transfer.finish(store, &self.peer).await;
        match response.status.is_stored() {
            true => self.counts.stored += 1,
            false => self.counts.failed += 1,
        }
        response
    }

    async fn answer(&mut self, context: u8, response: &Response) -> Result<(), WireError> {
        self.wire.send_command(context, &response.encode(), self.limits.peer_pdu_bytes_max).await
    }
}

impl Expecting {
    fn nothing() -> Self {
        Self::Command { context: None, bytes: Vec::new() }
    }

    /// Whether no message has begun.
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Command { context: None, .. })
    }
}

impl Violation {
    fn abort_source(&self) -> AbortRQSource {
        ServiceProvider(match self {
            // A release is never wrong for the provider: it is we, its user, who cannot confirm it (AR-2, then AA-1
            // of PS3.8 table 9-10).
            Violation::ReleaseWithinMessage => return AbortRQSource::ServiceUser,
            Violation::Command(_) => AbortRQServiceProviderReason::ReasonNotSpecified,
            Violation::UnknownContext(_) | Violation::ChangedContext { .. } => {
                AbortRQServiceProviderReason::InvalidPduParameter
            }
            Violation::DataSetUnexpected | Violation::CommandUnexpected => {
                AbortRQServiceProviderReason::UnexpectedPduParameter
            }
            Violation::UnexpectedPdu(_) => AbortRQServiceProviderReason::UnexpectedPdu,
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Released => f.write_str("released"),
            End::AbortedByPeer(source) => write!(f, "aborted by the peer ({source:?})"),
            End::Silent(limit) => write!(f, "no complete PDU came for {limit:?}"),
            End::TooSlow => write!(f, "a message came slower than {MESSAGE_BYTES_PER_SECOND_MIN} bytes a second"),
            End::TooOld => write!(f, "older than {LIFE_MAX:?}"),
            End::ShuttingDown => f.write_str("the node shuts down"),
            End::Wire(error) => error.fmt(f),
            End::Violation(violation) => violation.fmt(f),
        }
    }
}

/// C-ECHO belongs to a Verification context and carries no data set (PS3.4 A.4, PS3.7 9.1.5).
fn echo_status(request: &EchoRq, context: &Context) -> Status {
    if request.has_data_set {
        return Status::MISTYPED_ARGUMENT;
    }
    if context.abstract_syntax.as_str() != VERIFICATION.uid {
        return Status::SOP_CLASS_NOT_SUPPORTED;
    }
    Status::SUCCESS
}
