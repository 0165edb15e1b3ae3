//! PDUs on a connection (PS3.8 9.3), for both roles: framing, limits, an orderly end, and the requestor's side of an
//! association (`requestor`), on TCP or TLS (`tls`).
//!
//! Beside it HTTP as a client (`http`). Neighbours: `receive` accepts associations through it, `deliver` requests them. `frame` judges a header before
//! anything is allocated (one that claims 4 GiB costs six bytes) and reads the PDU, dicom-ul writes it. Left out: what
//! an accepted association does, and deadlines for reading in [`Wire`], which its caller sets.

mod fragments;
mod frame;
mod http;
mod newcomers;
mod requestor;
mod stream;
pub mod tls;

use std::io;
use std::ops::Range;
use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, PDV_HEADER_SIZE, PDataValue, PDataValueType, Pdu, write_pdu,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use fragments::{FragmentError, Fragments};
pub use http::{Answer, Ask, Bounds, HttpConnection, HttpError, Trust, request};
pub use newcomers::{Newcomer, Newcomers, ThisMachine};
pub use requestor::{Accepted, Call, Message, Proposal, RequestError, Requestor, Roles, Security, Step};
pub use stream::Stream;
pub use tls::Tls;

use frame::HEADER_BYTES;
pub use frame::{FrameError, PEER_PDU_BYTES_MIN};

/// Why no PDU came out of a connection, or none went in.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection within a PDU")]
    ClosedWithinPdu,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("nothing could be sent for {0:?}")]
    Stalled(Duration),
    #[error("the peer takes PDUs of {0} bytes, in which no message fits")]
    NoRoom(u32),
    #[error("the connection failed: {}", tls::tls_error(.0).unwrap_or_else(|| .0.to_string()))]
    Io(#[from] io::Error),
}

impl WireError {
    /// The reason of an A-ABORT by the provider (PS3.8 table 9-26); `None` where nobody is left to be told.
    pub fn abort_reason(&self) -> Option<AbortRQServiceProviderReason> {
        match self {
            WireError::Frame(error) => Some(error.abort_reason()),
            WireError::NoRoom(_) => Some(AbortRQServiceProviderReason::ReasonNotSpecified),
            WireError::Closed | WireError::ClosedWithinPdu | WireError::Stalled(_) | WireError::Io(_) => None,
        }
    }
}

/// One connection. Dropping it closes the socket at once; [`Wire::linger`] lets the peer read the last PDU first.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    /// Bytes read from the socket; those before `start` are used up.
    buffer: Vec<u8>,
    start: usize,
    /// Where the next PDU begins is not known any more: a header was not believed.
    is_lost: bool,
    write_timeout: Duration,
}

/// How long an ended connection waits for the peer to close (the ARTIM timer of PS3.8 9.2, state 13).
const LINGER_MAX: Duration = Duration::from_secs(2);

/// Bytes that are read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Longest PDU that is told apart meanwhile.
const LINGER_PDU_BYTES_MAX: u32 = 1 << 18;

/// Largest PDU that is sent even where the peer allows more, bytes.
const FRAGMENT_BYTES_MAX: u32 = 128 * 1024;

/// Room that is made in the buffer at least, so that a burst of small PDUs costs few system calls.
const READ_BYTES: usize = 64 * 1024;

impl Wire {
    /// Answers leave at once (`TCP_NODELAY`): a response is one small segment that a sender waits for.
    pub fn new(stream: impl Into<Stream>, write_timeout: Duration) -> io::Result<Self> {
        let stream = stream.into();
        stream.tcp().set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), start: 0, is_lost: false, write_timeout })
    }

    /// The next PDU, whose variable field has at most `bytes_max` bytes (PS3.8 D.1). Cancel-safe: what was read so
    /// far stays in the buffer.
    pub async fn receive(&mut self, bytes_max: u32) -> Result<Pdu, WireError> {
        let (_, whole) = self.frame(bytes_max).await?;
        Ok(frame::read(&self.buffer[whole])?)
    }

    /// The type of the next PDU and its place in the buffer until more is read.
    async fn frame(&mut self, bytes_max: u32) -> Result<(u8, Range<usize>), WireError> {
        self.fill(HEADER_BYTES).await?;
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&self.buffer[self.start..self.start + HEADER_BYTES]);
        let (kind, bytes) = frame::announced(header, bytes_max).inspect_err(|_| self.is_lost = true)?;
        self.fill(bytes).await?;
        self.start += bytes;
        Ok((kind, self.start - bytes..self.start))
    }

    pub async fn send(&mut self, pdu: &Pdu) -> Result<(), WireError> {
        let mut bytes = Vec::with_capacity(1024);
        write_pdu(&mut bytes, pdu).map_err(|e| FrameError::Malformed(e.to_string()))?;
        let stream = &mut self.stream;
        let writing = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        match tokio::time::timeout(self.write_timeout, writing).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(WireError::Stalled(self.write_timeout)),
        }
    }

    /// Sends a command set in as many PDUs as the peer's maximum length asks for; 0 is no limit (PS3.8 D.1.1).
    pub async fn send_command(&mut self, context: u8, bytes: &[u8], peer_max: u32) -> Result<(), WireError> {
        self.send_part(context, PDataValueType::Command, bytes, peer_max).await
    }

    /// Sends a data set likewise. Every fragment has an even length.
    pub async fn send_data_set(&mut self, context: u8, bytes: &[u8], peer_max: u32) -> Result<(), WireError> {
        self.send_part(context, PDataValueType::Data, bytes, peer_max).await
    }

    async fn send_part(
        &mut self,
        context: u8,
        value_type: PDataValueType,
        bytes: &[u8],
        peer_max: u32,
    ) -> Result<(), WireError> {
        let most = if peer_max == 0 { FRAGMENT_BYTES_MAX } else { peer_max.min(FRAGMENT_BYTES_MAX) };
        if most < PEER_PDU_BYTES_MIN {
            return Err(WireError::NoRoom(peer_max));
        }
        let room = (most - PDV_HEADER_SIZE) as usize & !1;
        let count = bytes.len().div_ceil(room).max(1);
        for index in 0..count {
            let fragment = &bytes[index * room..bytes.len().min((index + 1) * room)];
            let value = PDataValue {
                presentation_context_id: context,
                value_type: value_type.clone(),
                is_last: index + 1 == count,
                data: fragment.to_vec(),
            };
            self.send(&Pdu::PData { data: vec![value] }).await?;
        }
        Ok(())
    }

    /// Sends an A-ABORT and waits for the peer to close.
    pub async fn abort(mut self, source: AbortRQSource) {
        if self.send(&Pdu::AbortRQ { source }).await.is_ok() {
            self.linger().await;
        }
    }

    /// Waits until the peer has closed, for a short while: a socket that is closed with unread bytes is reset, and
    /// the peer then may never see the rejection or the abort that was just sent. This is state 13 of PS3.8 table
    /// 9-10: an abort ends it, another request or what is no PDU is answered with an abort, anything else ignored.
    pub async fn linger(mut self) {
        let _ = tokio::time::timeout(LINGER_MAX, self.read_to_end()).await;
        // The farewell of TLS; on TCP the end of our side.
        let _ = tokio::time::timeout(LINGER_MAX, self.stream.shutdown()).await;
    }

    /// Waits likewise, and answers nothing: for a peer with whom there is no common language, TLS that failed say.
    pub async fn drain(mut self) {
        self.is_lost = true;
        self.linger().await;
    }

    async fn read_to_end(&mut self) {
        let mut thrown_away = 0;
        while !self.is_lost && thrown_away <= LINGER_BYTES_MAX {
            let reason = match self.frame(LINGER_PDU_BYTES_MAX).await {
                Ok((frame::ABORT, _)) => return,
                Ok((frame::ASSOCIATE_RQ, _)) => AbortRQServiceProviderReason::UnexpectedPdu,
                Ok((_, whole)) => {
                    thrown_away += whole.len();
                    continue;
                }
                Err(error) => match error.abort_reason() {
                    Some(reason) => reason,
                    None => return,
                },
            };
            thrown_away += HEADER_BYTES;
            let source = AbortRQSource::ServiceProvider(reason);
            if self.send(&Pdu::AbortRQ { source }).await.is_err() {
                return;
            }
        }
        let mut scratch = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = self.stream.read(&mut scratch).await {
            thrown_away += count;
            if thrown_away > LINGER_BYTES_MAX {
                return;
            }
        }
    }

    /// Reads until `wanted` bytes lie after `start`.
    async fn fill(&mut self, wanted: usize) -> Result<(), WireError> {
        while self.buffer.len() - self.start < wanted {
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            let missing = wanted - self.buffer.len();
            // Not twice as much as is needed, which `reserve` may take: this is held for each connection.
            self.buffer.reserve_exact(missing.max(READ_BYTES));
            self.acknowledge_at_once();
            let count = match self.stream.read_buf(&mut self.buffer).await {
                // TLS without its farewell (RFC 8446 6.1), as installed peers end: a close like any other, since no
                // PDU can be cut short unseen.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
            if count == 0 {
                return Err(if self.buffer.is_empty() { WireError::Closed } else { WireError::ClosedWithinPdu });
            }
        }
        Ok(())
    }

    /// Senders that keep Nagle's algorithm write a command and its data set in small pieces, and wait for our
    /// acknowledgement in between; the kernel would delay it by 40 ms. The option does not last, so it is set before
    /// every read. A failure costs speed only.
    fn acknowledge_at_once(&self) {
        #[cfg(target_os = "linux")]
        let _ = rustix::net::sockopt::set_tcp_quickack(self.stream.tcp(), true);
    }
}

/// The name of a PDU (PS3.8 9.3.1).
pub fn pdu_name(pdu: &Pdu) -> &'static str {
    match pdu {
        Pdu::AssociationRQ(_) => "A-ASSOCIATE-RQ",
        Pdu::AssociationAC(_) => "A-ASSOCIATE-AC",
        Pdu::AssociationRJ(_) => "A-ASSOCIATE-RJ",
        Pdu::PData { .. } => "P-DATA-TF",
        Pdu::ReleaseRQ => "A-RELEASE-RQ",
        Pdu::ReleaseRP => "A-RELEASE-RP",
        Pdu::AbortRQ { .. } => "A-ABORT",
        Pdu::Unknown { .. } => "unknown",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const MAX: u32 = 1 << 18;

    async fn pair() -> (TcpStream, Wire) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        (peer, Wire::new(ours, Duration::from_secs(5)).unwrap())
    }

    async fn check(bytes: &[u8], expected: &str) {
        let (mut peer, mut wire) = pair().await;
        peer.write_all(bytes).await.unwrap();
        drop(peer);
        let got = match wire.receive(MAX).await {
            Ok(pdu) => pdu.short_description().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(got.starts_with(expected), "{bytes:02x?} gave {got:?}, expected {expected:?}");
    }

    #[tokio::test]
    async fn a_frame_is_judged_before_its_content_is_read() {
        check(&[], "the peer closed the connection").await;
        check(&[0x05, 0, 0], "the peer closed the connection within a PDU").await;
        check(&[0x05, 0, 0, 0, 0, 4, 0, 0], "the peer closed the connection within a PDU").await;
        check(&[0x05, 0, 0, 0, 0, 4, 0, 0, 0, 0], "ReleaseRQ").await;
        check(&[0x05, 0, 0, 0, 0, 0], "a malformed PDU").await;
        check(&[0x00, 0, 0, 0, 0, 4, 0, 0, 0, 0], "PDU type 00H does not exist").await;
        check(&[0x16, 3, 1, 2, 0, 1], "PDU type 16H does not exist").await; // a TLS hello
        check(&[0x04, 0, 0xff, 0xff, 0xff, 0xff], "a PDU of 4294967295 bytes, at most 262144").await;
        check(&[0x04, 0, 0, 4, 0, 1], "a PDU of 262145 bytes, at most 262144").await;
        check(&[0x04, 0, 0, 0, 0, 6, 0, 0, 0, 99, 1, 3], "a malformed PDU").await; // an item longer than its PDU
        check(&[0x04, 0, 0, 0, 0, 6, 0, 0, 0, 2, 1, 3], "PData [(Command, 0 bytes)]").await;
    }

    #[tokio::test]
    async fn pdus_that_arrive_together_or_in_pieces_come_out_one_by_one() {
        let (mut peer, mut wire) = pair().await;
        let release = [0x05, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        let mut stream = release.repeat(3);
        stream.extend_from_slice(&[0x07, 0, 0, 0, 0, 4, 0, 0, 2, 2]);
        let pieces = tokio::spawn(async move {
            for piece in stream.chunks(7) {
                peer.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            peer
        });
        for _ in 0..3 {
            assert_eq!(wire.receive(MAX).await.unwrap(), Pdu::ReleaseRQ);
        }
        assert!(matches!(wire.receive(MAX).await.unwrap(), Pdu::AbortRQ { .. }));
        drop(pieces.await.unwrap());
        assert!(matches!(wire.receive(MAX).await, Err(WireError::Closed)));
    }

    #[tokio::test]
    async fn a_command_is_cut_to_the_maximum_length_of_the_peer() {
        for (peer_max, sizes) in [(0, vec![10]), (16, vec![10]), (11, vec![4, 4, 2]), (8, vec![2; 5]), (9, vec![2; 5])]
        {
            let (peer, mut wire) = pair().await;
            wire.send_command(5, b"0123456789", peer_max).await.unwrap();
            drop(wire);
            let mut peer = Wire::new(peer, Duration::from_secs(5)).unwrap();
            let mut got = Vec::new();
            while let Ok(Pdu::PData { data }) = peer.receive(MAX).await {
                got.extend(data);
            }
            assert_eq!(got.iter().map(|v| v.data.len()).collect::<Vec<_>>(), sizes);
            assert_eq!(got.iter().flat_map(|v| v.data.clone()).collect::<Vec<_>>(), b"0123456789");
            assert!(got.iter().rev().skip(1).all(|v| !v.is_last) && got.iter().next_back().unwrap().is_last);
        }
        for peer_max in 1..PEER_PDU_BYTES_MIN {
            let (_peer, mut wire) = pair().await;
            assert!(matches!(wire.send_command(5, b"0123456789", peer_max).await, Err(WireError::NoRoom(_))));
        }
    }
}
