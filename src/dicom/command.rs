//! DIMSE command sets (PS3.7 6.3, Annex E): group 0000 in Implicit VR Little Endian, parsed and written.
//!
//! Neighbours: `receive` reads requests and answers them, `deliver` writes requests and reads the answers. The parser
//! is small and closed on purpose: it knows no other group, no sequence and no undefined length, and allocates only
//! what the peer has really sent, at most [`COMMAND_BYTES_MAX`]. `services` has the messages of query and commitment.
//! Left out: requests that the node never answers otherwise (C-MOVE, N-GET and their like), which come out as
//! [`Request::Other`] so that they can be answered by name.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::Uid;

use super::services::{ActionRq, EventReportRq, QueryRq};
use super::{STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, Status, VERIFICATION};

/// Longest command set that is read, bytes. A C-STORE-RQ has about 300.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// Why bytes are not a command set, or not the message that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the command set has {0} bytes, at most {COMMAND_BYTES_MAX} are read")]
    TooLong(usize),
    #[error("the command set ends within an element header at byte {0}")]
    TruncatedHeader(usize),
    #[error("element (0000,{element:04X}) claims {claimed} bytes where {remaining} remain")]
    TruncatedValue { element: u16, claimed: u32, remaining: usize },
    #[error("group {0:04X} in a command set")]
    ForeignGroup(u16),
    #[error("element (0000,{0:04X}) appears twice")]
    Repeated(u16),
    #[error("element (0000,{0:04X}) is missing")]
    Missing(u16),
    #[error("element (0000,{element:04X}) has {length} bytes, 2 are expected")]
    NotAnUnsignedShort { element: u16, length: usize },
    #[error("{0} is not a request")]
    NotARequest(CommandField),
    #[error("{0} is not a response")]
    NotAResponse(CommandField),
}

/// Command Field (0000,0100), PS3.7 E.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandField(pub u16);

impl CommandField {
    pub const C_STORE_RQ: Self = Self(0x0001);
    pub const C_STORE_RSP: Self = Self(0x8001);
    pub const C_ECHO_RQ: Self = Self(0x0030);
    pub const C_ECHO_RSP: Self = Self(0x8030);
    pub const C_GET_RQ: Self = Self(0x0010);
    pub const C_FIND_RQ: Self = Self(0x0020);
    pub const N_EVENT_REPORT_RQ: Self = Self(0x0100);
    pub const N_EVENT_REPORT_RSP: Self = Self(0x8100);
    pub const N_ACTION_RQ: Self = Self(0x0130);
    pub const N_ACTION_RSP: Self = Self(0x8130);
    pub const C_CANCEL_RQ: Self = Self(0x0FFF);

    /// The response that belongs to a request.
    pub fn response(self) -> Self {
        Self(self.0 | 0x8000)
    }

    pub fn is_response(self) -> bool {
        self.0 & 0x8000 != 0
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.0 & 0x7FFF {
            0x0001 => "C-STORE",
            0x0010 => "C-GET",
            0x0020 => "C-FIND",
            0x0021 => "C-MOVE",
            0x0030 => "C-ECHO",
            0x0100 => "N-EVENT-REPORT",
            0x0110 => "N-GET",
            0x0120 => "N-SET",
            0x0130 => "N-ACTION",
            0x0140 => "N-CREATE",
            0x0150 => "N-DELETE",
            0x0FFF => "C-CANCEL",
            _ => return None,
        })
    }
}

impl fmt::Display for CommandField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_response() { "RSP" } else { "RQ" };
        match self.name() {
            Some(name) => write!(f, "{name}-{kind}"),
            None => write!(f, "command {:04X}H", self.0),
        }
    }
}

/// The elements of a command set by element number; group length is left out, it is computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandSet {
    elements: BTreeMap<u16, Vec<u8>>,
}

/// A C-ECHO-RQ (PS3.7 9.3.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EchoRq {
    pub message_id: u16,
    /// Always false by the Standard; a peer may err.
    pub has_data_set: bool,
}

/// A C-STORE-RQ (PS3.7 9.3.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRq {
    pub message_id: u16,
    /// `None` where the peer sent none or none that is valid.
    pub sop_class: Option<Uid>,
    /// `None` where the peer sent none or none that is valid.
    pub sop_instance: Option<Uid>,
    /// Always true by the Standard; a peer may err.
    pub has_data_set: bool,
}

/// A request as the node understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Echo(EchoRq),
    Store(StoreRq),
    Find(QueryRq),
    Get(QueryRq),
    Action(ActionRq),
    Event(EventReportRq),
    /// C-CANCEL-RQ: never answered itself (PS3.7 9.3.2.3). The message that is to end.
    Cancel {
        responded_to: Option<u16>,
    },
    /// An operation that the node does not offer.
    Other {
        field: CommandField,
        message_id: u16,
        sop_class: Option<Uid>,
        has_data_set: bool,
    },
}

/// A response without a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub field: CommandField,
    pub responded_to: u16,
    pub sop_class: Option<Uid>,
    pub sop_instance: Option<Uid>,
    pub status: Status,
    /// Error Comment (0000,0902), VR LO; cut to 64 plain characters. Never patient data.
    pub comment: Option<String>,
}

impl CommandSet {
    /// Parses one complete command set.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLong(bytes.len()));
        }
        let mut elements = BTreeMap::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some((header, body)) = rest.split_first_chunk::<8>() else {
                return Err(CommandError::TruncatedHeader(bytes.len() - rest.len()));
            };
            let [g0, g1, e0, e1, l0, l1, l2, l3] = *header;
            let (group, element) = (u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1]));
            let claimed = u32::from_le_bytes([l0, l1, l2, l3]);
            if group != 0 {
                return Err(CommandError::ForeignGroup(group));
            }
            let Some((value, next)) = usize::try_from(claimed).ok().and_then(|n| body.split_at_checked(n)) else {
                return Err(CommandError::TruncatedValue { element, claimed, remaining: body.len() });
            };
            if elements.insert(element, value.to_vec()).is_some() {
                return Err(CommandError::Repeated(element));
            }
            rest = next;
        }
        // Command Group Length is computed on writing. On reading it is redundant, and installed peers get it wrong.
        elements.remove(&element::GROUP_LENGTH);
        Ok(Self { elements })
    }

    /// Encodes the set with its group length first and the elements in ascending order (PS3.7 6.3.1).
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        for (element, value) in &self.elements {
            push_element(&mut body, *element, value);
        }
        let length = u32::try_from(body.len()).expect("a command set of a few short elements");
        let mut out = Vec::with_capacity(body.len() + 12);
        push_element(&mut out, element::GROUP_LENGTH, &length.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// The value of an element of VR US.
    pub(super) fn unsigned_short(&self, element: u16) -> Result<u16, CommandError> {
        let value = self.elements.get(&element).ok_or(CommandError::Missing(element))?;
        match value.as_slice() {
            [low, high] => Ok(u16::from_le_bytes([*low, *high])),
            other => Err(CommandError::NotAnUnsignedShort { element, length: other.len() }),
        }
    }

    /// The value of an element of VR UI; `None` where it is absent or not a UID.
    pub(super) fn uid(&self, element: u16) -> Option<Uid> {
        Uid::parse(std::str::from_utf8(self.elements.get(&element)?).ok()?).ok()
    }

    pub(super) fn field(&self) -> Result<CommandField, CommandError> {
        self.unsigned_short(element::COMMAND_FIELD).map(CommandField)
    }

    /// Whether a data set follows (Command Data Set Type).
    pub fn has_data_set(&self) -> Result<bool, CommandError> {
        self.unsigned_short(element::DATA_SET_TYPE).map(|kind| kind != NO_DATA_SET)
    }

    pub(super) fn set_unsigned_short(&mut self, element: u16, value: u16) {
        self.elements.insert(element, value.to_le_bytes().to_vec());
    }

    pub(super) fn set_uid(&mut self, element: u16, uid: Option<&Uid>) {
        let Some(uid) = uid else { return };
        self.set_text(element, uid.as_str(), 0);
    }

    pub(super) fn set_text(&mut self, element: u16, text: &str, padding: u8) {
        let mut value = text.as_bytes().to_vec();
        if value.len() % 2 == 1 {
            value.push(padding);
        }
        self.elements.insert(element, value);
    }
}

impl EchoRq {
    pub fn encode(&self) -> Vec<u8> {
        let mut set = CommandSet::default();
        set.set_text(element::AFFECTED_SOP_CLASS, VERIFICATION.uid, 0);
        set.set_unsigned_short(element::COMMAND_FIELD, CommandField::C_ECHO_RQ.0);
        set.set_unsigned_short(element::MESSAGE_ID, self.message_id);
        set.set_unsigned_short(element::DATA_SET_TYPE, data_set_type(self.has_data_set));
        set.encode()
    }
}

impl StoreRq {
    /// A request that a data set follows.
    pub fn new(message_id: u16, sop_class: Uid, sop_instance: Uid) -> Self {
        Self { message_id, sop_class: Some(sop_class), sop_instance: Some(sop_instance), has_data_set: true }
    }

    /// Priority (0000,0700) is MEDIUM.
    pub fn encode(&self) -> Vec<u8> {
        let mut set = CommandSet::default();
        set.set_uid(element::AFFECTED_SOP_CLASS, self.sop_class.as_ref());
        set.set_unsigned_short(element::COMMAND_FIELD, CommandField::C_STORE_RQ.0);
        set.set_unsigned_short(element::MESSAGE_ID, self.message_id);
        set.set_unsigned_short(element::PRIORITY, 0);
        set.set_unsigned_short(element::DATA_SET_TYPE, data_set_type(self.has_data_set));
        set.set_uid(element::AFFECTED_SOP_INSTANCE, self.sop_instance.as_ref());
        set.encode()
    }
}

impl Request {
    /// Parses one complete command set that must be a request.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        Self::of(&CommandSet::parse(bytes)?)
    }

    pub(super) fn of(set: &CommandSet) -> Result<Self, CommandError> {
        let field = set.field()?;
        if field.is_response() {
            return Err(CommandError::NotARequest(field));
        }
        if field == CommandField::C_CANCEL_RQ {
            return Ok(Self::Cancel { responded_to: set.unsigned_short(element::MESSAGE_ID_RESPONDED_TO).ok() });
        }
        let message_id = set.unsigned_short(element::MESSAGE_ID)?;
        let has_data_set = set.has_data_set()?;
        let sop_class = set.uid(element::AFFECTED_SOP_CLASS);
        Ok(match field {
            CommandField::C_ECHO_RQ => Self::Echo(EchoRq { message_id, has_data_set }),
            CommandField::C_STORE_RQ => {
                let sop_instance = set.uid(element::AFFECTED_SOP_INSTANCE);
                Self::Store(StoreRq { message_id, sop_class, sop_instance, has_data_set })
            }
            CommandField::C_FIND_RQ => Self::Find(QueryRq { message_id, sop_class, has_data_set }),
            CommandField::C_GET_RQ => Self::Get(QueryRq { message_id, sop_class, has_data_set }),
            CommandField::N_ACTION_RQ => Self::Action(ActionRq::of(set, message_id, has_data_set)),
            CommandField::N_EVENT_REPORT_RQ => Self::Event(EventReportRq::of(set, message_id, sop_class, has_data_set)),
            _ => Self::Other { field, message_id, sop_class, has_data_set },
        })
    }
}

impl Response {
    /// The answer to `request` with this status.
    pub fn to_echo(request: &EchoRq, status: Status) -> Self {
        Self {
            field: CommandField::C_ECHO_RSP,
            responded_to: request.message_id,
            sop_class: Uid::parse(VERIFICATION.uid).ok(),
            sop_instance: None,
            status,
            comment: None,
        }
    }

    /// The answer to `request` with this status; UIDs that were not valid are not echoed.
    pub fn to_store(request: &StoreRq, status: Status, comment: Option<String>) -> Self {
        Self {
            field: CommandField::C_STORE_RSP,
            responded_to: request.message_id,
            sop_class: request.sop_class.clone(),
            sop_instance: request.sop_instance.clone(),
            status,
            comment,
        }
    }

    /// The answer to message `responded_to`, a request or a report of storage commitment (PS3.4 J.3).
    pub fn to_commitment(field: CommandField, responded_to: u16, status: Status, comment: Option<String>) -> Self {
        Self {
            field,
            responded_to,
            sop_class: Uid::parse(STORAGE_COMMITMENT.uid).ok(),
            sop_instance: Uid::parse(STORAGE_COMMITMENT_INSTANCE).ok(),
            status,
            comment,
        }
    }

    /// Parses one complete command set that must be a response.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        Self::of(&CommandSet::parse(bytes)?)
    }

    pub(super) fn of(set: &CommandSet) -> Result<Self, CommandError> {
        let field = set.field()?;
        if !field.is_response() {
            return Err(CommandError::NotAResponse(field));
        }
        let comment = set.elements.get(&element::ERROR_COMMENT).map(|value| plain(&String::from_utf8_lossy(value)));
        Ok(Self {
            field,
            responded_to: set.unsigned_short(element::MESSAGE_ID_RESPONDED_TO)?,
            sop_class: set.uid(element::AFFECTED_SOP_CLASS),
            sop_instance: set.uid(element::AFFECTED_SOP_INSTANCE),
            status: Status(set.unsigned_short(element::STATUS)?),
            comment: comment.filter(|text| !text.is_empty()),
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        self.set().encode()
    }

    pub(super) fn set(&self) -> CommandSet {
        let mut set = CommandSet::default();
        set.set_uid(element::AFFECTED_SOP_CLASS, self.sop_class.as_ref());
        set.set_unsigned_short(element::COMMAND_FIELD, self.field.0);
        set.set_unsigned_short(element::MESSAGE_ID_RESPONDED_TO, self.responded_to);
        set.set_unsigned_short(element::DATA_SET_TYPE, NO_DATA_SET);
        set.set_unsigned_short(element::STATUS, self.status.0);
        if let Some(comment) = &self.comment {
            set.set_text(element::ERROR_COMMENT, &plain(comment), b' ');
        }
        set.set_uid(element::AFFECTED_SOP_INSTANCE, self.sop_instance.as_ref());
        set
    }
}

/// Element numbers of group 0000 (PS3.7 E.1).
pub(super) mod element {
    pub(in crate::dicom) const GROUP_LENGTH: u16 = 0x0000;
    pub(in crate::dicom) const AFFECTED_SOP_CLASS: u16 = 0x0002;
    pub(in crate::dicom) const REQUESTED_SOP_CLASS: u16 = 0x0003;
    pub(in crate::dicom) const COMMAND_FIELD: u16 = 0x0100;
    pub(in crate::dicom) const MESSAGE_ID: u16 = 0x0110;
    pub(in crate::dicom) const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
    pub(in crate::dicom) const PRIORITY: u16 = 0x0700;
    pub(in crate::dicom) const DATA_SET_TYPE: u16 = 0x0800;
    pub(in crate::dicom) const STATUS: u16 = 0x0900;
    pub(in crate::dicom) const ERROR_COMMENT: u16 = 0x0902;
    pub(in crate::dicom) const AFFECTED_SOP_INSTANCE: u16 = 0x1000;
    pub(in crate::dicom) const REQUESTED_SOP_INSTANCE: u16 = 0x1001;
    pub(in crate::dicom) const EVENT_TYPE: u16 = 0x1002;
    pub(in crate::dicom) const ACTION_TYPE: u16 = 0x1008;
    pub(in crate::dicom) const REMAINING: u16 = 0x1020;
    pub(in crate::dicom) const COMPLETED: u16 = 0x1021;
    pub(in crate::dicom) const FAILED: u16 = 0x1022;
    pub(in crate::dicom) const WARNING: u16 = 0x1023;
}

/// Command Data Set Type (0000,0800) of a message without a data set; any other value means that one follows.
const NO_DATA_SET: u16 = 0x0101;

pub(super) fn data_set_type(present: bool) -> u16 {
    if present { 0x0001 } else { NO_DATA_SET }
}

fn push_element(out: &mut Vec<u8>, element: u16, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("a value that was read from at most 64 KiB");
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
}

/// Text as VR LO may hold it without a character set: printable ASCII without backslash, at most 64 characters.
fn plain(text: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') && c != '\\' { c } else { ' ' };
    let text: String = text.chars().map(printable).collect();
    text.trim().chars().take(64).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
