//! One established association: PDUs to DIMSE messages, messages to answers (PS3.7 sections 6 and 9, PS3.8 7.6).
//!
//! The peer is one that errs or worse: whatever does not fit the protocol ends the association with an A-ABORT, and
//! every wait has an end. Neighbours: `wire` frames the PDUs, `negotiate` agreed on the contexts, `store_scp` takes
//! objects. Left out: who may connect, which was decided before.
//!
//! Answers leave in the order of their requests. Where a window was agreed on, the next object arrives while the last
//! one is being made durable; without one, nothing is read until the answer is out.

mod commitment;
mod confirmation;
mod dialogue;
mod message;
mod pace;
mod query;
mod retrieve;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use dicom_ul::pdu::AbortRQSource::ServiceProvider;
use dicom_ul::pdu::{AbortRQServiceProviderReason, AbortRQSource, PDataValue, PDataValueType, Pdu};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info};

use crate::dicom::{Command, CommandError, Response};
use crate::domain::AeTitle;
use crate::store::Store;
use crate::wire::{FragmentError, Wire, WireError, pdu_name};

use super::Gate;
use super::negotiate::Context;
use super::searches::Searches;
use commitment::Commitments;
use message::{Expecting, Gathered, Message, Operation};
use pace::{MESSAGE_BYTES_PER_SECOND_MIN, Pace};

/// Who is on the other side.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) calling: AeTitle,
    pub(super) called: AeTitle,
    pub(super) address: IpAddr,
    /// The destinations that it is, where those were asked for storage commitment.
    pub(super) archives: Vec<String>,
}

/// Bounds of one association.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) pdu_bytes_max: u32,
    /// PS3.8 D.1; 0: no limit.
    pub(super) peer_pdu_bytes_max: u32,
    pub(super) object_bytes_max: u64,
    pub(super) idle_timeout: Duration,
    /// Operations that the peer may have outstanding, at least 1 (PS3.7 D.3.3.3).
    pub(super) window: usize,
}

/// An association whose A-ASSOCIATE-AC was sent.
#[derive(Debug)]
pub(super) struct Association {
    wire: Wire,
    peer: Peer,
    contexts: BTreeMap<u8, Context>,
    limits: Limits,
    expecting: Expecting,
    /// Not yet sent, the oldest first.
    answers: VecDeque<(u8, Answer)>,
    commitments: Commitments,
    /// Those of all associations together.
    searches: Searches,
    /// Who may ask now, which may be less than was agreed.
    gate: Gate,
    /// Came within an operation that took long; it is the next to be read.
    held: Option<Pdu>,
    /// Of the last request that was sent.
    message_id: u16,
    counts: Counts,
}

/// What a fragment led to.
#[derive(Debug)]
enum Due {
    Answer(u8, Answer),
    /// The peer's answer to a request of ours.
    Heard(Response),
    /// An operation to be performed now, on this context.
    Operation(u8, Gathered),
}

/// An answer that is due.
#[derive(Debug)]
enum Answer {
    Ready(Response),
    /// To a C-STORE whose object is being made durable.
    Storing(JoinHandle<Response>),
}

/// How an association ended.
#[derive(Debug)]
enum End {
    Released,
    AbortedByPeer(AbortRQSource),
    Silent(Duration),
    /// It did not read its matches for so long.
    Unread(Duration),
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
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    #[error("a command fragment within a data set")]
    CommandUnexpected,
    #[error("a release within a message")]
    ReleaseWithinMessage,
    #[error("a PDU of the wrong kind: {0}")]
    UnexpectedPdu(&'static str),
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

impl Association {
    pub(super) fn new(
        wire: Wire,
        peer: Peer,
        contexts: BTreeMap<u8, Context>,
        limits: Limits,
        searches: Searches,
        gate: Gate,
    ) -> Self {
        let (expecting, answers, commitments) = (Expecting::nothing(), VecDeque::new(), Commitments::default());
        let (held, message_id, counts) = (None, 0, Counts::default());
        Self { wire, peer, contexts, limits, expecting, answers, commitments, searches, gate, held, message_id, counts }
    }

    /// Serves until the peer releases, something goes wrong, or `cancel` asks for an end: a message that has begun is
    /// finished first.
    pub(super) async fn serve(mut self, store: &Store, cancel: &CancellationToken, permit: OwnedSemaphorePermit) {
        // Within an operation too. A PDU that is cut off in the middle is no loss to a peer that stayed so long.
        let end = timeout(LIFE_MAX, self.converse(store, cancel)).await.unwrap_or(End::TooOld);
        // An object that was cut off is given up now, and so is the place among the associations: a peer that reads the
        // release may call again at once, and the close may take a moment.
        self.expecting = Expecting::nothing();
        self.commitments.release(store).await;
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
            // Where a PDU was cut off, an abort would be taken for its rest.
            End::AbortedByPeer(_) | End::Unread(_) => {}
        }
    }

    async fn converse(&mut self, store: &Store, cancel: &CancellationToken) -> End {
        let mut pace = Pace::default();
        loop {
            let (asked, within_message) = (Instant::now(), !self.expecting.is_nothing());
            let may_read = self.answers.len() < self.limits.window;
            let quiet = self.expecting.is_nothing() && self.answers.is_empty();
            // A peer that waits for an answer is not silent, however long an object takes to be made durable.
            let patience = if self.answers.is_empty() { self.limits.idle_timeout } else { LIFE_MAX };
            let pdu = tokio::select! {
                biased;
                response = first(&mut self.answers) => {
                    if let Err(error) = self.answer(response).await {
                        return End::Wire(error);
                    }
                    continue;
                }
                () = cancel.cancelled(), if quiet => return End::ShuttingDown,
                pdu = held(&mut self.held), if may_read => Ok(Ok(pdu)),
                judged = self.commitments.judged(), if quiet => {
                    if let Err(end) = self.report(judged, store).await {
                        return end;
                    }
                    continue;
                }
                pdu = timeout(patience, self.wire.receive(self.limits.pdu_bytes_max)), if may_read => pdu,
            };
            let pdu = match pdu {
                Ok(Ok(pdu)) => pdu,
                Ok(Err(error)) => return End::Wire(error),
                Err(_) => return End::Silent(patience),
            };
            if within_message {
                pace.waited += asked.elapsed();
            }
            let outcome = match pdu {
                Pdu::PData { data } => {
                    pace.bytes += data.iter().map(|value| value.data.len() as u64).sum::<u64>();
                    self.values(data, store).await
                }
                Pdu::ReleaseRQ if self.expecting.is_nothing() => match self.settle().await {
                    Ok(()) => return End::Released,
                    Err(end) => Err(end),
                },
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
            // A PDU may hold several messages.
            while self.answers.len() >= self.limits.window {
                let response = first(&mut self.answers).await;
                self.answer(response).await.map_err(End::Wire)?;
            }
            match self.value(value, store).await.map_err(End::Violation)? {
                None => {}
                Some(Due::Answer(context, answer)) => self.answers.push_back((context, answer)),
                Some(Due::Heard(response)) => self.reported(&response, store).await,
                Some(Due::Operation(context, gathered)) => {
                    self.settle().await?;
                    self.perform(context, gathered, store).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends every answer that is due.
    async fn settle(&mut self) -> Result<(), End> {
        while !self.answers.is_empty() {
            let response = first(&mut self.answers).await;
            self.answer(response).await.map_err(End::Wire)?;
        }
        Ok(())
    }

    async fn perform(&mut self, context: u8, gathered: Gathered, store: &Store) -> Result<(), End> {
        let Gathered { operation, data_set } = gathered;
        match operation {
            Operation::Find(request) => self.find(context, &request, data_set, store).await,
            Operation::Get(request) => self.get(context, &request, data_set, store).await,
            Operation::Action(request) => self.act(context, &request, data_set, store).await,
            Operation::Event(request) => self.confirmed(context, &request, data_set, store).await,
        }
    }

    /// Takes one fragment (PS3.8 Annex E); something is due where it completes a message.
    async fn value(&mut self, value: PDataValue, store: &Store) -> Result<Option<Due>, Violation> {
        let id = value.presentation_context_id;
        if !self.contexts.contains_key(&id) {
            return Err(Violation::UnknownContext(id));
        }
        match (&mut self.expecting, &value.value_type) {
            (Expecting::Command(fragments), _) => {
                let Some(bytes) = fragments.take(&value)? else { return Ok(None) };
                match Command::parse(&bytes)? {
                    Command::Request(request) => {
                        let response = self.request(id, request, store);
                        Ok(response.map(|response| Due::Answer(id, Answer::Ready(response))))
                    }
                    Command::Response(response) if self.commitments.expects(&response) => {
                        Ok(Some(Due::Heard(response)))
                    }
                    Command::Response(response) => Err(CommandError::NotARequest(response.field).into()),
                }
            }
            (Expecting::DataSet { context, message }, PDataValueType::Data) => {
                if *context != id {
                    return Err(FragmentError::ChangedContext { from: *context, to: id }.into());
                }
                match message.as_mut() {
                    Message::Store(transfer) => transfer.fragment(value.data).await,
                    Message::Gathered(gathered) => gathered.fragment(&value.data),
                    Message::Ignored(_) => {}
                }
                if !value.is_last {
                    return Ok(None);
                }
                let Expecting::DataSet { message, .. } = std::mem::replace(&mut self.expecting, Expecting::nothing())
                else {
                    return Ok(None);
                };
                Ok(Some(self.finish(id, *message, store)))
            }
            (Expecting::DataSet { .. }, PDataValueType::Command) => Err(Violation::CommandUnexpected),
        }
    }

    /// The message is complete: what is due. An object is made durable beside the association.
    fn finish(&mut self, id: u8, message: Message, store: &Store) -> Due {
        let transfer = match message {
            Message::Ignored(response) => return Due::Answer(id, Answer::Ready(response)),
            Message::Gathered(gathered) => return Due::Operation(id, gathered),
            Message::Store(transfer) => transfer,
        };
        self.counts.bytes += transfer.bytes();
        let (store, peer) = (store.clone(), self.peer.clone());
        let storing = async move { transfer.finish(&store, &peer).await };
        Due::Answer(id, Answer::Storing(tokio::spawn(storing.in_current_span())))
    }

    /// Sends the first answer, whose response this is.
    async fn answer(&mut self, response: Response) -> Result<(), WireError> {
        let Some((context, answer)) = self.answers.pop_front() else { return Ok(()) };
        if let Answer::Storing(_) = answer {
            match response.status.is_stored() {
                true => self.counts.stored += 1,
                false => self.counts.failed += 1,
            }
        }
        self.wire.send_command(context, &response.encode(), self.limits.peer_pdu_bytes_max).await
    }
}

/// The response of the first answer, once there is one. Cancel-safe: the answer stays where it is.
async fn first(answers: &mut VecDeque<(u8, Answer)>) -> Response {
    match answers.front_mut() {
        None => std::future::pending().await,
        Some((_, Answer::Ready(response))) => response.clone(),
        Some((_, Answer::Storing(storing))) => match storing.await {
            Ok(response) => response,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and so does the association.
                Err(_) => std::future::pending().await,
            },
        },
    }
}

impl Violation {
    fn abort_source(&self) -> AbortRQSource {
        ServiceProvider(match self {
            // A release is never wrong for the provider: it is we, its user, who cannot confirm it (AR-2, then AA-1
            // of PS3.8 table 9-10).
            Violation::ReleaseWithinMessage => return AbortRQSource::ServiceUser,
            Violation::Command(_) | Violation::Fragment(FragmentError::Command(_)) => {
                AbortRQServiceProviderReason::ReasonNotSpecified
            }
            Violation::UnknownContext(_) | Violation::Fragment(FragmentError::ChangedContext { .. }) => {
                AbortRQServiceProviderReason::InvalidPduParameter
            }
            Violation::Fragment(FragmentError::DataSet) | Violation::CommandUnexpected => {
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
            End::Unread(limit) => write!(f, "the matches of a query were not read within {limit:?}"),
            End::TooSlow => write!(f, "a message came slower than {MESSAGE_BYTES_PER_SECOND_MIN} bytes a second"),
            End::TooOld => write!(f, "older than {LIFE_MAX:?}"),
            End::ShuttingDown => f.write_str("the node shuts down"),
            End::Wire(error) => error.fmt(f),
            End::Violation(violation) => violation.fmt(f),
        }
    }
}

async fn held(held: &mut Option<Pdu>) -> Pdu {
    match held.take() {
        Some(pdu) => pdu,
        None => std::future::pending().await,
    }
}
