//! One association of a C-STORE or C-ECHO SCU: open, requests and their answers one after the other, close.
//!
//! Neighbours: `wire` holds the association and limits every wait, `dicom` encodes command sets, `error` names what
//! went wrong. Left out: asynchronous operations and role selection, which a C-STORE SCU does not need.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::error::DeliverError;
use crate::dicom::{CommandField, EchoRq, Response, StoreRq};
use crate::domain::{AeTitle, ParseError, Uid};
use crate::wire::{self, Call, RequestError, Requestor, Security};

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
    association: Requestor,
    peer: String,
    /// Of the last request.
    message_id: u16,
}

impl Proposal<'_> {
    fn as_wire(&self) -> wire::Proposal<'_> {
        wire::Proposal {
            abstract_syntax: self.abstract_syntax,
            transfer_syntaxes: std::slice::from_ref(&self.transfer_syntax),
            roles: None,
        }
    }
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
        security: &Security,
        calling: &AeTitle,
        proposals: &[Proposal<'_>],
        timeout: Duration,
    ) -> Result<Self, DeliverError> {
        let name = peer.to_string();
        let proposals: Vec<wire::Proposal<'_>> = proposals.iter().map(Proposal::as_wire).collect();
        let call = Call {
            host: &peer.host,
            port: peer.port,
            security,
            calling,
            called: &peer.ae_title,
            proposals: &proposals,
            timeout,
        };
        match Requestor::open(&call).await {
            Ok(association) => Ok(Self { association, peer: name, message_id: 0 }),
            Err(error) => Err(DeliverError::from_request(name, error)),
        }
    }

    /// The peer, for messages.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    fn next_message_id(&mut self) -> u16 {
        self.message_id = self.message_id.wrapping_add(1);
        self.message_id
    }

    /// Position and presentation context of the first proposal that was accepted.
    pub(super) fn first_accepted(&self, proposals: &[Proposal<'_>]) -> Option<(usize, u8)> {
        (0..proposals.len()).find_map(|i| Some((i, self.association.accepted(i)?.context)))
    }

    /// C-STORE of one instance.
    pub(super) async fn store(
        &mut self,
        context: u8,
        sop_class: &Uid,
        sop_instance: &Uid,
        data_set: &[u8],
    ) -> Result<Response, DeliverError> {
        let request = StoreRq::new(self.next_message_id(), sop_class.clone(), sop_instance.clone());
        self.exchange(context, &request.encode(), Some(data_set), CommandField::C_STORE_RSP).await
    }

    /// C-ECHO.
    pub(super) async fn echo(&mut self, context: u8) -> Result<Response, DeliverError> {
        let request = EchoRq { message_id: self.next_message_id(), has_data_set: false };
        self.exchange(context, &request.encode(), None, CommandField::C_ECHO_RSP).await
    }

    /// Releases the association. The result is known by then, so a peer that does not release well is ignored.
    pub(super) async fn close(self) {
        self.association.release().await;
    }

    /// Aborts the association, as far as the peer still listens.
    pub(super) async fn abort(self) {
        self.association.abort().await;
    }

    /// Sends one request and reads the response that answers it.
    async fn exchange(
        &mut self,
        context: u8,
        command: &[u8],
        data_set: Option<&[u8]>,
        expected: CommandField,
    ) -> Result<Response, DeliverError> {
        self.association.send(context, command, data_set).await.map_err(|e| self.failed(e))?;
        let message = self.association.receive().await.map_err(|e| self.failed(e))?;
        if message.data_set.is_some() {
            return Err(self.broken("its answer has a data set".into()));
        }
        let response =
            Response::parse(&message.command).map_err(|e| self.broken(format!("its answer is damaged: {e}")))?;
        if response.field != expected || response.responded_to != self.message_id {
            let (field, id) = (response.field, response.responded_to);
            return Err(self.broken(format!("it answered with {field} to message {id}, {expected} was due")));
        }
        Ok(response)
    }

    fn broken(&self, cause: String) -> DeliverError {
        DeliverError::Broken { peer: self.peer.clone(), cause }
    }

    fn failed(&self, error: RequestError) -> DeliverError {
        DeliverError::from_request(self.peer.clone(), error)
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
