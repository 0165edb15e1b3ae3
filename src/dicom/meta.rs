//! The head of a DICOM file: preamble, prefix and File Meta Information (PS3.10 7.1).
//!
//! Neighbours: `receive` puts it before the data set of an arriving object, `report` before its own. It is written
//! by hand because the data set behind it is never parsed here, and eight short elements cannot fail. Left out:
//! reading it back, which is the workers' job.

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

/// The data set of a file that was begun by [`file_meta`], or in the same form; `None` for any other file.
pub fn file_data_set(file: &[u8]) -> Option<&[u8]> {
    let (head, rest) = file.split_at_checked(144)?;
    if head[128..140] != *b"DICM\x02\x00\x00\x00UL\x04\x00" {
        return None;
    }
    let length = u32::from_le_bytes(head[140..].try_into().ok()?);
    rest.get(usize::try_from(length).ok()?..)
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
            assert_eq!(file_data_set(&[&bytes[..], b"data set"].concat()), Some(&b"data set"[..]));
            assert_eq!((file_data_set(&bytes[..140]), file_data_set(&bytes[1..])), (None, None));
        }
    }
}
