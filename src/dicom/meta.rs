//! The head of a DICOM file: preamble, prefix and File Meta Information (PS3.10 7.1).
//!
//! Neighbours: `receive` puts it before the data set of an arriving object, `report` before its own. It is written
//! by hand because the data set behind it is never parsed here, and eight short elements cannot fail. What was written
//! here can be read back, to find out what a file is that the index has lost. Left out: files of others, which only
//! the workers read.

use std::io::{self, Read};

use crate::domain::{AeTitle, Uid};

use super::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};

/// 128 zeros, `DICM` and group 0002 in Explicit VR Little Endian, ready to be followed by the data set.
///
/// `source` is the application entity that the object came from (0002,0016); none for the node's own objects.
pub fn file_meta(sop_class: &Uid, sop_instance: &Uid, transfer_syntax: &Uid, source: Option<&AeTitle>) -> Vec<u8> {
    let mut group = Vec::with_capacity(320);
    // (0002,0001) File Meta Information Version, OB: a long-form header (PS3.5 7.1.2).
    group.extend_from_slice(&[0x02, 0x00, 0x01, 0x00, b'O', b'B', 0, 0, 2, 0, 0, 0, 0x00, 0x01]);
    short(&mut group, 0x0002, b"UI", sop_class.as_str());
    short(&mut group, 0x0003, b"UI", sop_instance.as_str());
    short(&mut group, 0x0010, b"UI", transfer_syntax.as_str());
    short(&mut group, 0x0012, b"UI", IMPLEMENTATION_CLASS_UID);
    short(&mut group, 0x0013, b"SH", IMPLEMENTATION_VERSION_NAME);
    if let Some(source) = source {
        short(&mut group, 0x0016, b"AE", source.as_str());
    }

    let length = u32::try_from(group.len()).expect("seven values of at most 64 bytes");
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM");
    // (0002,0000) File Meta Information Group Length, UL.
    file.extend_from_slice(&[0x02, 0x00, 0x00, 0x00, b'U', b'L', 4, 0]);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&group);
    file
}

/// What [`file_meta`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub transfer_syntax: Uid,
    pub source: Option<AeTitle>,
}

/// Longest group 0002 that is read, bytes; seven elements of at most 64 bytes each take less.
const META_BYTES_MAX: u32 = 1024;

/// Reads what [`file_meta`] wrote; the reader then stands at the data set.
///
/// # Errors
/// `InvalidData` for anything that this node would not have written, and what the reader fails by.
pub fn read_file_meta(reader: &mut impl Read) -> io::Result<FileMeta> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no file of this node: {what}"));
    let mut head = [0; 144];
    reader.read_exact(&mut head)?;
    let (prefix, length) = (&head[128..140], u32::from_le_bytes([head[140], head[141], head[142], head[143]]));
    if prefix != b"DICM\x02\x00\x00\x00UL\x04\x00" || length > META_BYTES_MAX {
        return Err(invalid("its head is another"));
    }
    let mut group = vec![0; length as usize];
    reader.read_exact(&mut group)?;
    let mut values = std::collections::BTreeMap::new();
    // (0002,0001) has a long-form header and comes first.
    let mut rest = group.get(14..).ok_or_else(|| invalid("its meta group is too short"))?;
    while let [2, 0, low, high, _, _, length_low, length_high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*length_low, *length_high]));
        let value = after.get(..length).ok_or_else(|| invalid("an element is cut off"))?;
        let text = std::str::from_utf8(value).map_err(|_| invalid("an element is no text"))?;
        values.insert(u16::from_le_bytes([*low, *high]), text.trim_end_matches(['\0', ' ']));
        rest = &after[length..];
    }
    let uid = |element: u16| {
        let value = values.get(&element).ok_or_else(|| invalid("an element is missing"))?;
        Uid::parse(value).map_err(|_| invalid("a UID is not valid"))
    };
    Ok(FileMeta {
        sop_class: uid(0x0002)?,
        sop_instance: uid(0x0003)?,
        transfer_syntax: uid(0x0010)?,
        source: values.get(&0x0016).and_then(|title| AeTitle::parse(title).ok()),
    })
}

/// An element with a 16-bit length, padded to an even length: UIDs with NUL, text with a space (PS3.5 6.2).
fn short(out: &mut Vec<u8>, element: u16, vr: &[u8; 2], value: &str) {
    let padded = value.len() + value.len() % 2;
    let length = u16::try_from(padded).expect("a value of at most 64 bytes");
    out.extend_from_slice(&[0x02, 0x00]);
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(vr);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    if padded > value.len() {
        out.push(if vr == b"UI" { 0 } else { b' ' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_finds_what_was_written() {
        let uid = |text| Uid::parse(text).expect("a valid uid");
        let ae = AeTitle::parse("CT_SCANNER").expect("a valid title");
        for source in [None, Some(&ae)] {
            let bytes =
                file_meta(&uid("1.2.840.10008.5.1.4.1.1.2"), &uid("1.2.3.44"), &uid("1.2.840.10008.1.2.4.90"), source);
            assert_eq!(&bytes[..128], &[0; 128]);
            let table = dicom_object::FileMetaTable::from_reader(&bytes[128..]).expect("a readable group 2");
            let trim = |s: &str| s.trim_end_matches(['\0', ' ']).to_owned();
            assert_eq!(trim(&table.media_storage_sop_class_uid), "1.2.840.10008.5.1.4.1.1.2");
            assert_eq!(trim(&table.media_storage_sop_instance_uid), "1.2.3.44");
            assert_eq!(trim(&table.transfer_syntax), "1.2.840.10008.1.2.4.90");
            assert_eq!(trim(&table.implementation_class_uid), IMPLEMENTATION_CLASS_UID);
            assert_eq!(
                table.implementation_version_name.as_deref().map(trim).as_deref(),
                Some(IMPLEMENTATION_VERSION_NAME)
            );
            assert_eq!(
                table.source_application_entity_title.as_deref().map(trim),
                source.map(|_| "CT_SCANNER".to_owned())
            );
            assert_eq!(table.information_group_length as usize, bytes.len() - 128 - 4 - 12);
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_else_is() {
        let uid = |text| Uid::parse(text).expect("a valid uid");
        let (sop_class, sop_instance) = (uid("1.2.840.10008.5.1.4.1.1.2"), uid("1.2.3.44"));
        let transfer_syntax = uid("1.2.840.10008.1.2.4.90");
        for source in [None, Some(AeTitle::parse("CT_SCANNER").expect("a valid title"))] {
            let mut bytes = file_meta(&sop_class, &sop_instance, &transfer_syntax, source.as_ref());
            let whole = bytes.len();
            bytes.extend_from_slice(b"data set");
            let mut reader = &bytes[..];
            let read = read_file_meta(&mut reader).expect("our own");
            let (sop_class, sop_instance) = (sop_class.clone(), sop_instance.clone());
            let expected = FileMeta { sop_class, sop_instance, transfer_syntax: transfer_syntax.clone(), source };
            assert_eq!(read, expected);
            assert_eq!(reader, b"data set");
            for length in 0..whole {
                assert!(read_file_meta(&mut &bytes[..length]).is_err(), "cut at {length}");
            }
            for at in 128..whole {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0xff;
                // Whatever it comes to: no panic.
                let _ = read_file_meta(&mut &damaged[..]);
            }
        }
    }
}
