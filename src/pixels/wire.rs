//! Messages between the node and a decode worker: a length and JSON, over a socket that both ends share.
//!
//! Both ends bound what they read. What the node sends may carry one open file with its first byte: the hand-over
//! memory with [`Hello`], the object with a [`Request`]; the node itself takes no file from a worker. Values of model
//! inputs do not travel here (`handover`). Neighbours: `child` (the node's end) and `process` (the worker's).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sandbox::{Attempt, Outcome, Protections};
use super::{Frames, Limits, Seen};
use crate::domain::{Contract, InstanceHeader, Refusal, ReportRules, ResultDocument};

/// Fits into an empty socket, so that writing one never blocks.
pub const REQUEST_BYTES_MAX: usize = 60 * 1024;
/// A header with all that may be copied, as JSON.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

/// First message to a new worker, with the hand-over memory: what it must lock itself into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Bytes of address space beyond what the program itself maps.
    pub memory_max: u64,
    /// Processor time of one request.
    pub cpu_seconds: u64,
    pub limits: Limits,
}

/// A worker's answer to [`Hello`], once it is locked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub protections: Protections,
}

/// What is to be done with the object that comes with it; a probe has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    Header,
    /// What a report says by each of these rules.
    Results(Vec<ReportRules>),
    Normalise {
        contracts: Vec<Contract>,
        frames: Frames,
        /// Index of the chosen frame that the part begins with.
        from: u32,
    },
    /// Tries what a worker may not do.
    Probe(Attempt),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Header(Box<InstanceHeader>),
    /// For each of the rules, what the report says, or why nothing.
    Results(Vec<Result<ResultDocument, String>>),
    /// The values of all inputs are in the hand-over memory.
    Normalised(Seen),
    Probed(Outcome),
    Refused(Refusal),
}

pub fn encode(message: &impl Serialize, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {length} bytes")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

pub fn write(mut out: impl Write, message: &impl Serialize, bytes_max: usize) -> io::Result<()> {
    out.write_all(&encode(message, bytes_max)?)
}

/// Sends an encoded message and, with its first byte, an open file.
pub fn send(mut socket: &UnixStream, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut sent = 0;
    if let Some(file) = file {
        let files = [file];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::Error::other("no room for one descriptor"));
        }
        sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    }
    socket.write_all(&bytes[sent..])
}

/// Reads a message; `None` where the other end closed the connection between messages.
pub fn read<M: DeserializeOwned>(mut input: impl Read, bytes_max: usize) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    if let Err(e) = input.read_exact(&mut length) {
        return if e.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(e) };
    }
    body(input, length, bytes_max).map(Some)
}

/// As [`read`], with the open file that came along.
pub fn receive<M: DeserializeOwned>(
    mut socket: &UnixStream,
    bytes_max: usize,
) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 4];
    let mut parts = [IoSliceMut::new(&mut length)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut file = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            file = files.last();
        }
    }
    socket.read_exact(&mut length[received.bytes..])?;
    body(socket, length, bytes_max).map(|message| Some((message, file)))
}

fn body<M: DeserializeOwned>(mut input: impl Read, length: [u8; 4], bytes_max: usize) -> io::Result<M> {
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Seek;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_travels_with_its_message_and_no_other() {
        let (node, worker) = UnixStream::pair().expect("sockets");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"object").expect("a written file");
        file.rewind().expect("a file");
        let with = encode(&"with".repeat(1000), REQUEST_BYTES_MAX).expect("a short message");
        let without = encode(&"without", REQUEST_BYTES_MAX).expect("a short message");
        send(&node, &with, Some(file.as_fd())).expect("room in the socket");
        send(&node, &without, None).expect("room in the socket");
        drop(node);
        let (text, file) = receive::<String>(&worker, REQUEST_BYTES_MAX).expect("a message").expect("not the end");
        assert_eq!(text.len(), 4000);
        let mut content = String::new();
        File::from(file.expect("a file")).read_to_string(&mut content).expect("readable");
        assert_eq!(content, "object");
        let (text, file) = receive::<String>(&worker, REQUEST_BYTES_MAX).expect("a message").expect("not the end");
        assert_eq!((text.as_str(), file.is_none()), ("without", true));
        assert!(receive::<String>(&worker, REQUEST_BYTES_MAX).expect("an end").is_none());
    }

    #[test]
    fn refuses_more_than_a_message_may_have_before_it_allocates() {
        let check = |bytes: &[u8]| read::<String>(bytes, 16).map_err(|e| e.kind());
        let rows: [(&[u8], Result<Option<String>, io::ErrorKind>); 5] = [
            (b"", Ok(None)),
            (b"\x04\0\0\0\"ab\"", Ok(Some("ab".into()))),
            (b"\x11\0\0\0", Err(io::ErrorKind::InvalidData)),
            (b"\xFF\xFF\xFF\xFF", Err(io::ErrorKind::InvalidData)),
            (b"\x04\0\0\0\"a", Err(io::ErrorKind::UnexpectedEof)),
        ];
        for (bytes, expected) in rows {
            assert_eq!(check(bytes), expected, "{bytes:?}");
        }
    }
}
