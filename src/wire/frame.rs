//! Bytes to PDUs (PS3.8 9.3), without a socket: what a header may claim, and what a whole PDU says.
//!
//! dicom-ul reads the PDUs. What it does not see is judged here first: lengths that the Standard fixes, and the items of
//! A-ASSOCIATE-RQ and A-ASSOCIATE-AC. dicom-ul refuses items that it does not know, which PS3.8 9.3.1 wants ignored,
//! believes the lengths within a sub-item more than the sub-item's own, and takes the last of what may appear once.
//! Neighbours: `wire` reads from the network. Left out: what a request may have, which `negotiate` decides.

use dicom_ul::pdu::{
    AbortRQServiceProviderReason, AbortRQSource, MAXIMUM_PDU_SIZE, PDV_HEADER_SIZE, PDataValue, PDataValueType, Pdu,
    read_pdu,
};

/// Why bytes are no PDU.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("PDU type {0:02X}H does not exist")]
    UnknownType(u8),
    #[error("a PDU of {length} bytes, at most {max} were agreed")]
    TooLong { length: u32, max: u32 },
    #[error("a malformed PDU: {0}")]
    Malformed(String),
}

pub(super) const HEADER_BYTES: usize = 6;

/// Smallest maximum length of a peer that a message can be cut to: a PDV header and two bytes, since fragments have an
/// even length (PS3.8 9.3.5, E.1). No message can be sent to a peer that takes less.
pub const PEER_PDU_BYTES_MIN: u32 = PDV_HEADER_SIZE + 2;

pub(super) const ASSOCIATE_RQ: u8 = 0x01;
const ASSOCIATE_AC: u8 = 0x02;
const ASSOCIATE_RJ: u8 = 0x03;
const P_DATA: u8 = 0x04;
const RELEASE_RQ: u8 = 0x05;
pub(super) const ABORT: u8 = 0x07;

/// Bytes of an association PDU before its items, without the header (PS3.8 table 9-11).
const FIXED_BYTES: usize = 68;
/// Where the called and the calling AE title lie in them.
const TITLES: std::ops::Range<usize> = 4..36;

impl FrameError {
    /// The reason of an A-ABORT by the provider (PS3.8 table 9-26).
    pub fn abort_reason(&self) -> AbortRQServiceProviderReason {
        match self {
            FrameError::UnknownType(_) => AbortRQServiceProviderReason::UnrecognizedPdu,
            FrameError::TooLong { .. } | FrameError::Malformed(_) => AbortRQServiceProviderReason::InvalidPduParameter,
        }
    }
}

/// The type of a PDU and the length of the whole, from its header. The variable field has at most `bytes_max` bytes.
pub(super) fn announced(header: [u8; HEADER_BYTES], bytes_max: u32) -> Result<(u8, usize), FrameError> {
    let [kind, _, l0, l1, l2, l3] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if !(ASSOCIATE_RQ..=ABORT).contains(&kind) {
        return Err(FrameError::UnknownType(kind));
    }
    if length > bytes_max {
        return Err(FrameError::TooLong { length, max: bytes_max });
    }
    if (kind == ASSOCIATE_RJ || (RELEASE_RQ..=ABORT).contains(&kind)) && length != 4 {
        return Err(malformed("a length that is not that of its type"));
    }
    Ok((kind, HEADER_BYTES + length as usize))
}

/// Reads one whole PDU, header and all.
pub(super) fn read(frame: &[u8]) -> Result<Pdu, FrameError> {
    let read = |bytes: &[u8]| {
        // The length is checked; dicom-ul's own limit has a lower bound that small PDUs need not know of.
        let pdu = read_pdu(bytes, MAXIMUM_PDU_SIZE, true).map_err(|e| malformed(e.to_string()))?;
        pdu.ok_or_else(|| malformed("an item claims more bytes than the PDU has"))
    };
    match frame.first() {
        Some(&(ASSOCIATE_RQ | ASSOCIATE_AC)) => read(&known_items(frame).map_err(malformed)?),
        // Whatever source and reason it names: it is an abort, which nothing is answered to.
        Some(&ABORT) => Ok(read(frame).unwrap_or(Pdu::AbortRQ { source: AbortRQSource::Reserved })),
        Some(&P_DATA) => match presentation_data_values(frame.get(HEADER_BYTES..).unwrap_or_default())? {
            data if data.is_empty() => Err(malformed("a P-DATA-TF without a value")),
            data => Ok(Pdu::PData { data }),
        },
        _ => read(frame),
    }
}

/// The items of a P-DATA-TF (PS3.8 9.3.5), each copied once: dicom-ul copies three times what is nearly all the bytes
/// of a connection.
fn presentation_data_values(mut field: &[u8]) -> Result<Vec<PDataValue>, FrameError> {
    let lie = || malformed("an item claims other bytes than the PDU has");
    let mut values = Vec::with_capacity(1);
    while !field.is_empty() {
        let (length, rest) = field.split_first_chunk::<4>().ok_or_else(lie)?;
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            return Err(lie());
        }
        let (item, rest) = rest.split_at(length);
        let [presentation_context_id, control, data @ ..] = item else { return Err(lie()) };
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

fn malformed(what: impl Into<String>) -> FrameError {
    FrameError::Malformed(what.into())
}

/// The association PDU with the items that the Standard knows; an error where items do not fit into each other or
/// appear more or less often than they may (PS3.8 9.3.2 and 9.3.3, PS3.7 D.3.3).
fn known_items(frame: &[u8]) -> Result<Vec<u8>, &'static str> {
    let is_request = frame.first() == Some(&ASSOCIATE_RQ);
    let (fixed, items) = frame
        .get(HEADER_BYTES..)
        .and_then(|body| body.split_at_checked(FIXED_BYTES))
        .ok_or("no room for its fields")?;
    let mut body = fixed.to_vec();
    // dicom-ul trims control characters away; with a backslash, which no title has, the title stays unknown.
    for byte in body[TITLES].iter_mut().filter(|byte| byte.is_ascii_control() && **byte != 0) {
        *byte = b'\\';
    }
    let (mut application_contexts, mut contexts, mut user_information) = (0, 0, 0);
    for item in Items(items) {
        let (kind, value) = item?;
        match kind {
            0x10 => {
                application_contexts += 1;
                push_item(&mut body, kind, value);
            }
            0x20 if is_request => {
                contexts += 1;
                push_item(&mut body, kind, &known_syntaxes(value)?);
            }
            0x21 if !is_request => {
                contexts += 1;
                push_item(&mut body, kind, &known_result(value)?);
            }
            0x50 => {
                user_information += 1;
                check_user_information(value)?;
                push_item(&mut body, kind, value);
            }
            _ => {}
        }
    }
    match (application_contexts, contexts, user_information) {
        (2.., _, _) => return Err("two application contexts"),
        (_, 0, _) => return Err("no presentation context"),
        (_, _, 2..) => return Err("two user information items"),
        _ => {}
    }
    let length = u32::try_from(body.len()).map_err(|_| "longer than a PDU")?;
    let mut known = frame[..2].to_vec();
    known.extend_from_slice(&length.to_be_bytes());
    known.extend_from_slice(&body);
    Ok(known)
}

/// A proposed presentation context with its abstract syntax and transfer syntaxes.
fn known_syntaxes(context: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (id, items) = context.split_at_checked(4).ok_or("a presentation context without an id")?;
    let mut known = id.to_vec();
    let mut abstract_syntaxes = 0;
    for item in Items(items) {
        let (kind, value) = item?;
        match kind {
            0x30 => abstract_syntaxes += 1,
            0x40 => {}
            _ => continue,
        }
        push_item(&mut known, kind, value);
    }
    match abstract_syntaxes {
        1 => Ok(known),
        0 => Err("a presentation context without an abstract syntax"),
        _ => Err("a presentation context with two abstract syntaxes"),
    }
}

/// The answer to a presentation context. The transfer syntax of one that is refused says nothing (PS3.8 9.3.3.2), and
/// some acceptors leave it out; dicom-ul wants one.
fn known_result(context: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (id, items) = context.split_at_checked(4).ok_or("a presentation context without an id")?;
    let mut known = id.to_vec();
    let mut syntaxes = Vec::new();
    for item in Items(items) {
        syntaxes.extend(item.map(|(kind, value)| (kind == 0x40).then_some(value))?);
    }
    match &syntaxes[..] {
        [] => push_item(&mut known, 0x40, b""),
        [syntax] => push_item(&mut known, 0x40, syntax),
        _ => return Err("a presentation context with two transfer syntaxes in the answer"),
    }
    Ok(known)
}

/// Whether each sub-item has the length that its fields add up to (PS3.7 D.3.3, PS3.8 D.1).
fn check_user_information(items: &[u8]) -> Result<(), &'static str> {
    for item in Items(items) {
        let (kind, value) = item?;
        let field = |at: usize| {
            let length = value.get(at..at + 2)?;
            Some(2 + usize::from(u16::from_be_bytes([length[0], length[1]])))
        };
        let fits = match kind {
            0x51 | 0x53 => value.len() == 4,
            0x54 => field(0).is_some_and(|class| value.len() == class + 2),
            0x56 => field(0).is_some_and(|class| value.len() >= class),
            0x58 => field(2).is_some_and(|primary| {
                field(2 + primary).is_some_and(|secondary| value.len() == 2 + primary + secondary)
            }),
            _ => true,
        };
        if !fits {
            return Err("a sub-item of user information with a length that is not that of its fields");
        }
    }
    Ok(())
}

/// Items one after the other: type, a reserved byte, length, value.
struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Result<(u8, &'a [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = self.0.split_first_chunk::<4>().and_then(|([kind, _, l0, l1], rest)| {
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1])))?;
            Some((*kind, value, rest))
        });
        let Some((kind, value, rest)) = taken else {
            self.0 = &[];
            return Some(Err("an item claims more bytes than the one around it has"));
        };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

fn push_item(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // A value is at most as long as the one that was read, whose length was two bytes.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn item(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut item = Vec::new();
        push_item(&mut item, kind, value);
        item
    }

    /// An A-ASSOCIATE-RQ of these items.
    fn request(items: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![0, 1, 0, 0];
        body.extend_from_slice(b"SIDELIGHT       PACS            ");
        body.extend_from_slice(&[0; 32]);
        body.extend(items.concat());
        let length = u32::try_from(body.len()).unwrap();
        [&[ASSOCIATE_RQ, 0], &length.to_be_bytes()[..], &body].concat()
    }

    fn sound() -> Vec<Vec<u8>> {
        let context = [vec![1, 0, 0, 0], item(0x30, b"1.2.840.10008.1.1"), item(0x40, b"1.2.840.10008.1.2")].concat();
        let user = [item(0x51, &[0, 0, 64, 0]), item(0x53, &[0, 1, 0, 1]), item(0x58, b"\x02\x01\0\x04user\0\x04code")];
        vec![item(0x10, b"1.2.840.10008.3.1.1.1"), item(0x20, &context), item(0x50, &user.concat())]
    }

    #[test]
    fn a_sound_request_stays_as_it_is_and_loses_only_what_is_unknown() {
        let expected = request(&sound());
        assert_eq!(known_items(&expected).unwrap(), expected);
        let mut items = sound();
        items.insert(1, item(0x77, b"a later edition"));
        items[2].extend(item(0x4F, b"?"));
        let length = u16::try_from(items[2].len() - 4).unwrap();
        items[2][2..4].copy_from_slice(&length.to_be_bytes());
        assert_eq!(known_items(&request(&items)).unwrap(), expected);
    }

    #[test]
    fn lengths_and_numbers_of_items_must_be_those_of_the_standard() {
        let check = |expected: &str, edit: fn(&mut Vec<Vec<u8>>)| {
            let mut items = sound();
            edit(&mut items);
            assert_eq!(known_items(&request(&items)).unwrap_err(), expected);
        };
        check("two application contexts", |items| items.push(items[0].clone()));
        check("no presentation context", |items| drop(items.remove(1)));
        check("two user information items", |items| items.push(items[2].clone()));
        check("an item claims more bytes than the one around it has", |items| items[2][3] += 1);
        check("an item claims more bytes than the one around it has", |items| items[1][11] = 0xFF);
        check("a sub-item of user information with a length that is not that of its fields", |items| {
            items[2] = item(0x50, &item(0x58, b"\x02\x01\0\x04user\0\xFFcode"));
        });
    }

    #[test]
    fn every_prefix_and_every_changed_byte_of_a_request_is_read_or_refused() {
        let sound = request(&sound());
        for at in 0..sound.len() {
            let _ = read(&sound[..at]);
            for value in [0, 1, 0x7F, 0xFF] {
                let mut changed = sound.clone();
                changed[at] = value;
                let _ = read(&changed);
            }
        }
        assert!(matches!(read(&sound), Ok(Pdu::AssociationRQ(_))));
    }
}
