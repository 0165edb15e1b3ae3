//! Listening and speaking within an operation that takes long: a query or a retrieval.
//!
//! A peer may cancel it (PS3.7 9.3.2.3) or answer a report of commitment. A peer that sends its next request already,
//! which no window allows, has it kept until the operation is over, and nothing more is read before; one that releases
//! is gone (PS3.8 7.2). Neighbours: `query` and `retrieve`.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use dicom_ul::pdu::{PDataValue, Pdu};
use tokio::time::{Instant, timeout_at};

use super::{Association, End, Expecting, Violation};
use crate::dicom::{Command, Request};
use crate::store::Store;
use crate::wire::{WireError, pdu_name};

impl Association {
    /// Sends a message.
    pub(super) async fn tell(&mut self, context: u8, command: &[u8], data_set: Option<&[u8]>) -> Result<(), End> {
        let most = self.limits.peer_pdu_bytes_max;
        self.wire.send_command(context, command, most).await.map_err(End::Wire)?;
        if let Some(data_set) = data_set {
            self.wire.send_data_set(context, data_set, most).await.map_err(End::Wire)?;
        }
        Ok(())
    }

    /// Whether the peer has cancelled this message. Looks at what has arrived, and does not wait.
    pub(super) async fn is_cancelled(&mut self, message_id: u16, store: &Store) -> Result<bool, End> {
        while self.held.is_none() {
            let values = match self.arrived().await {
                None => return Ok(false),
                Some(Ok(Pdu::PData { data })) => data,
                Some(Ok(other)) => return Err(unexpected(&other)),
                Some(Err(error)) => return Err(End::Wire(error)),
            };
            let (mut values, mut cancelled) = (values.into_iter(), false);
            while let Some(value) = values.next() {
                let Some(bytes) = self.command_fragment(&value)? else { continue };
                match Command::parse(&bytes) {
                    // It may be of a message that is over.
                    Ok(Command::Request(Request::Cancel { responded_to })) => {
                        cancelled |= responded_to == Some(message_id);
                    }
                    Ok(Command::Response(response)) if self.commitments.expects(&response) => {
                        self.reported(&response, store).await;
                    }
                    // Its turn comes when this operation is over, whatever it is.
                    _ => {
                        let whole = PDataValue { is_last: true, data: bytes, ..value };
                        self.held = Some(Pdu::PData { data: [whole].into_iter().chain(values).collect() });
                        break;
                    }
                }
            }
            if cancelled {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next PDU, if it is here. Timers would wait for their next tick, of a millisecond.
    async fn arrived(&mut self) -> Option<Result<Pdu, WireError>> {
        let mut receiving = pin!(self.wire.receive(self.limits.pdu_bytes_max));
        poll_fn(|context| {
            Poll::Ready(match receiving.as_mut().poll(context) {
                Poll::Ready(received) => Some(received),
                Poll::Pending => None,
            })
        })
        .await
    }

    /// The next command that arrives, which no data set may follow: all of it within `node.idle_timeout`.
    pub(super) async fn next_command(&mut self) -> Result<Command, End> {
        let idle_timeout = self.limits.idle_timeout;
        let deadline = Instant::now() + idle_timeout;
        loop {
            let values = match timeout_at(deadline, self.wire.receive(self.limits.pdu_bytes_max)).await {
                Err(_) => return Err(End::Silent(idle_timeout)),
                Ok(Err(error)) => return Err(End::Wire(error)),
                Ok(Ok(Pdu::PData { data })) => data,
                Ok(Ok(other)) => return Err(unexpected(&other)),
            };
            let count = values.len();
            for (index, value) in values.into_iter().enumerate() {
                let Some(bytes) = self.command_fragment(&value)? else { continue };
                // Whatever follows, it is not an answer to the one operation that is under way.
                if index + 1 < count {
                    return Err(End::Violation(Violation::CommandUnexpected));
                }
                return Command::parse(&bytes).map_err(|error| End::Violation(error.into()));
            }
        }
    }

    /// Takes one fragment of a command set, and gives the whole with the last. What is incomplete when the operation
    /// ends is what the association expects then.
    fn command_fragment(&mut self, value: &PDataValue) -> Result<Option<Vec<u8>>, End> {
        let id = value.presentation_context_id;
        let whole = match &mut self.expecting {
            _ if !self.contexts.contains_key(&id) => Err(Violation::UnknownContext(id)),
            Expecting::Command(fragments) => fragments.take(value).map_err(Violation::from),
            Expecting::DataSet { .. } => Err(Violation::CommandUnexpected),
        };
        whole.map_err(End::Violation)
    }
}

/// What ends the association, where a message is due.
fn unexpected(pdu: &Pdu) -> End {
    match pdu {
        Pdu::AbortRQ { source } => End::AbortedByPeer(source.clone()),
        Pdu::ReleaseRQ => End::Violation(Violation::ReleaseWithinMessage),
        other => End::Violation(Violation::UnexpectedPdu(pdu_name(other))),
    }
}
