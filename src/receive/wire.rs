//! PDUs on a TCP connection (PS3.8 9.3): framing, limits, and an orderly end.
//!
//! Neighbours: `association` speaks through it, dicom-ul reads and writes the PDUs themselves. The frame is checked
//! here, before anything is allocated: a header that claims 4 GiB costs six bytes. Left out: what the PDUs mean, and
//! deadlines for reading, which the caller sets.

use std::io;
use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, MAXIMUM_PDU_SIZE, PDV_HEADER_SIZE, PDataValue, PDataValueType, Pdu,
    read_pdu, write_pdu,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Why no PDU came out of a connection, or none went in.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection within a PDU")]
    ClosedWithinPdu,
    #[error("PDU type {0:02X}H does not exist")]
    UnknownType(u8),
    #[error("a PDU of {length} bytes, at most {max} were agreed")]
    TooLong { length: u32, max: u32 },
    #[error("a malformed PDU: {0}")]
    Malformed(String),
    #[error("nothing could be sent for {0:?}")]
    Stalled(Duration),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// One connection. Dropping it closes the socket at once; [`Wire::linger`] lets the peer read the last PDU first.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Bytes read from the socket; those before `start` are used up.
    buffer: Vec<u8>,
    start: usize,
    write_timeout: Duration,
}

/// How long an ended connection waits for the peer to close (the ARTIM timer of PS3.8 9.2, state 13).
const LINGER_MAX: Duration = Duration::from_secs(2);

/// Bytes that are read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 1 << 20;

const HEADER_BYTES: usize = 6;

/// The type of a P-DATA-TF PDU.
const P_DATA: u8 = 0x04;

/// Room that is made in the buffer at least, so that a burst of small PDUs costs few system calls.
const READ_BYTES: usize = 64 * 1024;

impl Wire {
    /// Answers leave at once (`TCP_NODELAY`): a response is one small segment that a sender waits for.
    pub(super) fn new(stream: TcpStream, write_timeout: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), start: 0, write_timeout })
    }

    /// The next PDU, whose variable field has at most `bytes_max` bytes (PS3.8 D.1). Cancel-safe: what was read so
    /// far stays in the buffer.
    pub(super) async fn receive(&mut self, bytes_max: u32) -> Result<Pdu, WireError> {
        self.fill(HEADER_BYTES).await?;
        let frame = &self.buffer[self.start..];
        let (kind, length) = (frame[0], u32::from_be_bytes([frame[2], frame[3], frame[4], frame[5]]));
        if !(0x01..=0x07).contains(&kind) {
            return Err(WireError::UnknownType(kind));
        }
        if length > bytes_max {
            return Err(WireError::TooLong { length, max: bytes_max });
        }
        let whole = HEADER_BYTES + length as usize;
        self.fill(whole).await?;
        let frame = &self.buffer[self.start..self.start + whole];
        if kind == P_DATA {
            let values = presentation_data_values(&frame[HEADER_BYTES..]);
            self.start += whole;
            return values.map(|data| Pdu::PData { data });
        }
        // The length is checked; dicom-ul's own limit has a lower bound that small PDUs need not know of.
        let pdu = read_pdu(frame, MAXIMUM_PDU_SIZE, true).map_err(|e| WireError::Malformed(e.to_string()))?;
        self.start += whole;
        pdu.ok_or_else(|| WireError::Malformed("an item claims more bytes than the PDU has".into()))
    }

    pub(super) async fn send(&mut self, pdu: &Pdu) -> Result<(), WireError> {
        let mut bytes = Vec::with_capacity(1024);
        write_pdu(&mut bytes, pdu).map_err(|e| WireError::Malformed(e.to_string()))?;
        match tokio::time::timeout(self.write_timeout, self.stream.write_all(&bytes)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(WireError::Stalled(self.write_timeout)),
        }
    }

    /// Sends a command set in as many PDUs as the peer's maximum length asks for; 0 is no limit (PS3.8 D.1.1).
    pub(super) async fn send_command(&mut self, context: u8, bytes: &[u8], peer_max: u32) -> Result<(), WireError> {
        let room = match peer_max {
            0 => bytes.len().max(1),
            max => (max.saturating_sub(PDV_HEADER_SIZE) as usize).max(1),
        };
        let last = bytes.len().div_ceil(room).saturating_sub(1);
        for (index, fragment) in bytes.chunks(room).enumerate() {
            let value = PDataValue {
                presentation_context_id: context,
                value_type: PDataValueType::Command,
                is_last: index == last,
                data: fragment.to_vec(),
            };
            self.send(&Pdu::PData { data: vec![value] }).await?;
        }
        Ok(())
    }

    /// Sends an A-ABORT with the provider's reason and waits for the peer to close.
    pub(super) async fn abort(mut self, reason: AbortRQServiceProviderReason) {
        let source = AbortRQSource::ServiceProvider(reason);
        if self.send(&Pdu::AbortRQ { source }).await.is_ok() {
            self.linger().await;
        }
    }

    /// Ends a connection on which `error` occurred: with an A-ABORT where there is somebody left to tell.
    pub(super) async fn abort_after(self, error: &WireError) {
        let reason = match error {
            WireError::UnknownType(_) => AbortRQServiceProviderReason::UnrecognizedPdu,
            WireError::TooLong { .. } | WireError::Malformed(_) => AbortRQServiceProviderReason::InvalidPduParameter,
            WireError::Closed | WireError::ClosedWithinPdu | WireError::Stalled(_) | WireError::Io(_) => return,
        };
        self.abort(reason).await;
    }

    /// Waits until the peer has closed, for a short while: a socket that is closed with unread bytes is reset, and
    /// the peer then may never see the rejection or the abort that was just sent.
    pub(super) async fn linger(mut self) {
        let read_to_end = async {
            let mut thrown_away = 0;
            let mut scratch = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = self.stream.read(&mut scratch).await {
                thrown_away += count;
                if thrown_away > LINGER_BYTES_MAX {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LINGER_MAX, read_to_end).await;
    }

    /// Reads until `wanted` bytes lie after `start`.
    async fn fill(&mut self, wanted: usize) -> Result<(), WireError> {
        while self.buffer.len() - self.start < wanted {
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            let missing = wanted - self.buffer.len();
            self.buffer.reserve(missing.max(READ_BYTES));
            self.acknowledge_at_once();
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
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
        let _ = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
    }
}

/// The items of a P-DATA-TF (PS3.8 9.3.5), each copied once: dicom-ul copies three times what is nearly all the bytes
/// of a connection.
fn presentation_data_values(mut field: &[u8]) -> Result<Vec<PDataValue>, WireError> {
    let malformed = || WireError::Malformed("an item claims other bytes than the PDU has".into());
    let mut values = Vec::with_capacity(1);
    while !field.is_empty() {
        let (length, rest) = field.split_first_chunk::<4>().ok_or_else(malformed)?;
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            return Err(malformed());
        }
        let (item, rest) = rest.split_at(length);
        let [presentation_context_id, control, data @ ..] = item else { return Err(malformed()) };
        // PS3.8 Annex E.2: bit 0 tells command from data set, bit 1 marks the last fragment.
        let value_type = if control & 1 != 0 { PDataValueType::Command } else { PDataValueType::Data };
        values.push(PDataValue {
            presentation_context_id: *presentation_context_id,
            value_type,
            is_last: control & 2 != 0,
            data: data.to_vec(),
        });
        field = rest;
    }
    Ok(values)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpListener;

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
        for (peer_max, sizes) in [(0, vec![10]), (16, vec![10]), (10, vec![4, 4, 2]), (3, vec![1; 10])] {
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
    }
}
