//! One association as its requestor: open, requests and their answers one after the other, close; a limit on every
//! wait.
//!
//! P-DATA is fragmented here to the acceptor's maximum (PS3.8 9.3.5) rather than with dicom-ul's writer, which
//! blocks in its destructor. Neighbours: `dicom` encodes command sets, `error` names what went wrong. Left out:
//! asynchronous operations and role selection, which a C-STORE SCU does not need.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use dicom_ul::association::client::{AsyncClientAssociation, ClientAssociationOptions};
use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu};
use tokio::net::TcpStream;

use super::error::{DeliverError, Step};
use crate::config::Destination;
use crate::dicom::{COMMAND_BYTES_MAX, CommandField, EchoRq, Response, StoreRq};
use crate::domain::{AeTitle, ParseError, Uid};

/// Length of a PDV without its data: item length, context, control header (PS3.8 9.3.5.1).
const PDV_HEADER_BYTES: u32 = 6;
/// Largest fragment that is sent even where the peer allows more.
const FRAGMENT_BYTES_MAX: u32 = 128 * 1024;
/// The longest that a release may take: by then the result is known.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub ae_title: AeTitle,
    /// Host name or address.
    pub host: String,
    pub port: u16,
}

/// An abstract syntax with one transfer syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal<'a> {
    pub abstract_syntax: &'a str,
    pub transfer_syntax: &'static str,
}

/// An established association.
pub(super) struct Connection {
    association: AsyncClientAssociation<TcpStream>,
    peer: String,
    timeout: Duration,
    /// Of the last request.
    message_id: u16,
}

impl Peer {
    /// Parses `AET@host:port`; an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// [`ParseError`] with the rule that was broken.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fail = |reason| ParseError { what: "peer", value: text.chars().take(80).collect(), reason };
        let (ae_title, address) = text.split_once('@').ok_or(fail("a peer is written AET@host:port"))?;
        let (host, port) = address.rsplit_once(':').ok_or(fail("a peer is written AET@host:port"))?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bare {
            Some(address) => address,
            None if host.contains(':') => return Err(fail("an IPv6 address stands in brackets")),
            None => host,
        };
        if host.is_empty() {
            return Err(fail("the host is empty"));
        }
        let port = port.parse().ok().filter(|p| *p != 0).ok_or(fail("a port is a number from 1 to 65535"))?;
        Ok(Self { ae_title: AeTitle::parse(ae_title)?, host: host.to_owned(), port })
    }
}

impl FromStr for Peer {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl From<&Destination> for Peer {
    fn from(d: &Destination) -> Self {
        Self { ae_title: d.ae_title.clone(), host: d.host.clone(), port: d.port }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "{}@[{}]:{}", self.ae_title, self.host, self.port),
            false => write!(f, "{}@{}:{}", self.ae_title, self.host, self.port),
        }
    }
}

impl Connection {
    /// Connects and negotiates within `timeout`.
    pub(super) async fn open(
        peer: &Peer,
        calling: &AeTitle,
        proposals: &[Proposal<'_>],
        timeout: Duration,
    ) -> Result<Self, DeliverError> {
        let mut options = ClientAssociationOptions::new()
            .calling_ae_title(calling.as_str())
            .called_ae_title(peer.ae_title.as_str())
            .read_timeout(timeout)
            .write_timeout(timeout)
            .connection_timeout(timeout);
        for p in proposals {
            options = options.with_presentation_context(p.abstract_syntax, vec![p.transfer_syntax]);
        }
        let name = peer.to_string();
        let opening = options.establish_async((peer.host.as_str(), peer.port));
        let mut association = limited(&name, Step::Connecting, timeout, opening).await?;
        // Small PDUs follow each other without an answer between: Nagle would hold the last one back.
        let _ = association.inner_stream().set_nodelay(true);
        Ok(Self { association, peer: name, timeout, message_id: 0 })
    }

    /// The peer, for messages.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// Position and presentation context of the first proposal that was accepted as it was made.
    pub(super) fn first_accepted(&self, proposals: &[Proposal<'_>]) -> Option<(usize, u8)> {
        proposals.iter().enumerate().find_map(|(i, p)| {
            let accepted = self.association.presentation_contexts().iter().find(|c| {
                c.abstract_syntax == p.abstract_syntax && c.transfer_syntax.trim_end_matches('\0') == p.transfer_syntax
            });
            accepted.map(|c| (i, c.id))
        })
    }

    /// C-STORE of one instance.
    pub(super) async fn store(
        &mut self,
        context: u8,
        sop_class: &Uid,
        sop_instance: &Uid,
        data_set: &[u8],
    ) -> Result<Response, DeliverError> {
        self.message_id = self.message_id.wrapping_add(1);
        let request = StoreRq::new(self.message_id, sop_class.clone(), sop_instance.clone());
        self.send(context, PDataValueType::Command, &request.encode()).await?;
        self.send(context, PDataValueType::Data, data_set).await?;
        self.receive(CommandField::C_STORE_RSP).await
    }

    /// C-ECHO.
    pub(super) async fn echo(&mut self, context: u8) -> Result<Response, DeliverError> {
        self.message_id = self.message_id.wrapping_add(1);
        let request = EchoRq { message_id: self.message_id, has_data_set: false };
        self.send(context, PDataValueType::Command, &request.encode()).await?;
        self.receive(CommandField::C_ECHO_RSP).await
    }

    /// Releases the association. The result is known by then, so a peer that does not release well is ignored.
    pub(super) async fn close(self) {
        let limit = self.timeout.min(RELEASE_TIMEOUT);
        let _ = tokio::time::timeout(limit, self.association.release()).await;
    }

    /// Aborts the association, as far as the peer still listens.
    pub(super) async fn abort(self) {
        let limit = self.timeout.min(RELEASE_TIMEOUT);
        let _ = tokio::time::timeout(limit, self.association.abort()).await;
    }

    /// Sends one message part in fragments.
    async fn send(&mut self, context: u8, value_type: PDataValueType, bytes: &[u8]) -> Result<(), DeliverError> {
        let most = self.association.acceptor_max_pdu_length().min(FRAGMENT_BYTES_MAX);
        let size = most.saturating_sub(PDV_HEADER_BYTES) as usize & !1;
        if size == 0 {
            return Err(self.broken(format!("it takes PDUs of {most} bytes only")));
        }
        let (peer, timeout) = (&self.peer, self.timeout);
        let association = &mut self.association;
        let sending = async {
            let count = bytes.len().div_ceil(size);
            for (i, fragment) in bytes.chunks(size).enumerate() {
                let value = PDataValue {
                    presentation_context_id: context,
                    value_type: value_type.clone(),
                    is_last: i + 1 == count,
                    data: fragment.to_vec(),
                };
                association.send(&Pdu::PData { data: vec![value] }).await?;
            }
            Ok(())
        };
        limited(peer, Step::Sending, timeout, sending).await
    }

    /// Reads one response and checks that it answers the request.
    async fn receive(&mut self, expected: CommandField) -> Result<Response, DeliverError> {
        let bytes = self.receive_command().await?;
        let response = Response::parse(&bytes).map_err(|e| self.broken(format!("its answer is damaged: {e}")))?;
        if response.field != expected || response.responded_to != self.message_id {
            let (field, id) = (response.field, response.responded_to);
            return Err(self.broken(format!("it answered with {field} to message {id}, {expected} was due")));
        }
        Ok(response)
    }

    async fn receive_command(&mut self) -> Result<Vec<u8>, DeliverError> {
        let mut command = Vec::new();
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let pdu = match tokio::time::timeout(left, self.association.receive()).await {
                Ok(pdu) => pdu.map_err(|e| self.failed(Step::Answering, e))?,
                Err(_) => return Err(self.timed_out(Step::Answering)),
            };
            let values = match pdu {
                Pdu::PData { data } => data,
                other => return Err(self.broken(format!("unexpected {}", other.short_description()))),
            };
            for value in values {
                if value.value_type != PDataValueType::Command {
                    return Err(self.broken("its answer has a data set".into()));
                }
                command.extend_from_slice(&value.data);
                if command.len() > COMMAND_BYTES_MAX {
                    return Err(self.broken("its answer is too long".into()));
                }
                if value.is_last {
                    return Ok(command);
                }
            }
        }
    }

    fn broken(&self, cause: String) -> DeliverError {
        DeliverError::Broken { peer: self.peer.clone(), cause }
    }

    fn timed_out(&self, step: Step) -> DeliverError {
        DeliverError::Timeout { peer: self.peer.clone(), step, after: self.timeout }
    }

    fn failed(&self, step: Step, error: dicom_ul::association::Error) -> DeliverError {
        DeliverError::from_association(self.peer.clone(), step, self.timeout, error)
    }
}

/// Awaits a step of an association for at most `timeout`.
async fn limited<T>(
    peer: &str,
    step: Step,
    timeout: Duration,
    work: impl Future<Output = Result<T, dicom_ul::association::Error>>,
) -> Result<T, DeliverError> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(|e| DeliverError::from_association(peer.to_owned(), step, timeout, e)),
        Err(_) => Err(DeliverError::Timeout { peer: peer.to_owned(), step, after: timeout }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_title_a_host_and_a_port() {
        let rows: &[(&str, Option<(&str, &str, u16)>)] = &[
            ("PACS@127.0.0.1:104", Some(("PACS", "127.0.0.1", 104))),
            ("PACS@pacs.example:11112", Some(("PACS", "pacs.example", 11112))),
            ("PACS@[::1]:104", Some(("PACS", "::1", 104))),
            ("PACS@::1:104", None),
            ("PACS@host", None),
            ("PACS@host:0", None),
            ("PACS@host:99999", None),
            ("PACS@:104", None),
            ("host:104", None),
            ("@host:104", None),
            ("SEVENTEEN_LETTERS@host:104", None),
        ];
        for (text, expected) in rows {
            let peer = Peer::parse(text).ok();
            assert_eq!(peer.as_ref().map(|p| (p.ae_title.as_str(), p.host.as_str(), p.port)), *expected, "{text}");
            if let Some(peer) = peer {
                assert_eq!(peer.to_string(), *text);
            }
        }
    }
}
