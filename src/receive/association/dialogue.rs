//! Listening and speaking within an operation that takes long: a query or a retrieval.
//!
//! A peer may cancel it (PS3.7 9.3.2.3), and a peer with a window may send its next request already: that PDU is kept
//! until the operation is over, and nothing more is read before. Neighbours: `query` and `retrieve`.

use std::time::Duration;

use dicom_ul::pdu::{PDataValueType, Pdu};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Association, End, Violation};
use crate::dicom::{Command, Request};
use crate::wire::{Fragments, pdu_name};

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
    pub(super) async fn is_cancelled(&mut self, message_id: u16) -> Result<bool, End> {
        while self.held.is_none() {
            let receiving = self.wire.receive(self.limits.pdu_bytes_max);
            let Ok(received) = timeout(Duration::ZERO, receiving).await else { return Ok(false) };
            match received.map_err(End::Wire)? {
                Pdu::AbortRQ { source } => return Err(End::AbortedByPeer(source)),
                pdu => match cancelled_by(&pdu) {
                    Some(id) if id == message_id => return Ok(true),
                    // Of a message that is over.
                    Some(_) => {}
                    None => self.held = Some(pdu),
                },
            }
        }
        Ok(false)
    }

    /// The next command that arrives, which no data set may follow: all of it within `node.idle_timeout`.
    pub(super) async fn next_command(&mut self) -> Result<(u8, Command), End> {
        let mut fragments = Fragments::default();
        let idle_timeout = self.limits.idle_timeout;
        let deadline = Instant::now() + idle_timeout;
        loop {
            let values = match timeout_at(deadline, self.wire.receive(self.limits.pdu_bytes_max)).await {
                Err(_) => return Err(End::Silent(idle_timeout)),
                Ok(Err(error)) => return Err(End::Wire(error)),
                Ok(Ok(Pdu::PData { data })) => data,
                Ok(Ok(Pdu::AbortRQ { source })) => return Err(End::AbortedByPeer(source)),
                Ok(Ok(other)) => return Err(End::Violation(Violation::UnexpectedPdu(pdu_name(&other)))),
            };
            let count = values.len();
            for (index, value) in values.into_iter().enumerate() {
                let id = value.presentation_context_id;
                let whole = match self.contexts.contains_key(&id) {
                    true => fragments.take(&value).map_err(Violation::from),
                    false => Err(Violation::UnknownContext(id)),
                };
                let Some(bytes) = whole.map_err(End::Violation)? else { continue };
                // Whatever follows, it is not an answer to the one operation that is under way.
                if index + 1 < count {
                    return Err(End::Violation(Violation::CommandUnexpected));
                }
                return Ok((id, Command::parse(&bytes).map_err(|error| End::Violation(error.into()))?));
            }
        }
    }
}

/// The message that this PDU cancels, if it is a C-CANCEL-RQ and nothing else.
fn cancelled_by(pdu: &Pdu) -> Option<u16> {
    let Pdu::PData { data } = pdu else { return None };
    let [value] = &data[..] else { return None };
    if value.value_type != PDataValueType::Command || !value.is_last {
        return None;
    }
    match Request::parse(&value.data) {
        Ok(Request::Cancel { responded_to }) => responded_to,
        _ => None,
    }
}
