//! Messages between the node and a decode worker: a length, JSON, and behind some answers raw floats.
//!
//! Both ends bound what they read. Neighbours: `worker` (parent) and `process` (child).

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Frames, Limits};
use crate::domain::{Contract, Digest, InstanceHeader, Refusal};

/// Fits into an empty pipe, so that writing one never blocks.
pub const REQUEST_BYTES_MAX: usize = 60 * 1024;
/// A header with all that may be copied, as JSON.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

/// First message to a new worker: what it must lock itself into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Bytes of address space beyond what the program itself maps.
    pub memory_max: u64,
    /// Processor time of one request.
    pub cpu_seconds: u64,
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Absolute; bytes, since a path need not be text.
    pub path: Vec<u8>,
    pub task: Task,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    Header,
    Normalise { contracts: Vec<Contract>, frames: Frames },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Header(Box<InstanceHeader>),
    /// Followed by the values of all inputs, 32-bit little endian floats.
    Normalised {
        pixel_digest: Digest,
        frames: Vec<u32>,
    },
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
    out.write_all(&encode(message, bytes_max)?)?;
    out.flush()
}

/// Reads a message; `None` where the other end closed the pipe between messages.
pub fn read<M: DeserializeOwned>(mut input: impl Read, bytes_max: usize) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    if let Err(e) = input.read_exact(&mut length) {
        return if e.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(e) };
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}
