//! The head of a DICOM file: preamble, prefix and File Meta Information (PS3.10 7.1).
//!
//! Neighbours: `receive` puts it before the data set of an arriving object, `report` before its own. It is written
//! by hand because the data set behind it is never parsed here, and eight short elements cannot fail. It is read where
//! an object arrives as a file ([`read_meta`], for STOW-RS), or the index has lost one: bounded, and not a byte beyond
//! it. Left out: the data set, which is the workers' job.

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

/// What a file says of itself before its data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub transfer_syntax: Uid,
    /// The application entity that it came from (0002,0016), where it says so.
    pub source: Option<AeTitle>,
    /// Bytes of the file before its data set.
    pub length: usize,
}

/// Why bytes are not the head of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    #[error("no DICOM file: preamble or prefix is missing")]
    NotDicom,
    #[error("the file meta information is not readable")]
    Malformed,
    #[error("the file meta information is longer than {META_BYTES_MAX} bytes")]
    TooLong,
    #[error("the file meta information lacks a valid {0}")]
    Missing(&'static str),
}

/// Longest head that is read, bytes. Real ones have some hundreds; private information may be in it.
pub const META_BYTES_MAX: usize = 64 << 10;

/// Reads the head of a file whose first bytes are `head`. `None`: it is not complete yet, more bytes are needed.
///
/// # Errors
/// [`MetaError`], as soon as the bytes cannot become a head any more.
pub fn read_meta(head: &[u8]) -> Result<Option<FileMeta>, MetaError> {
    let prefix = &head[head.len().min(128)..head.len().min(132)];
    if !b"DICM".starts_with(prefix) {
        return Err(MetaError::NotDicom);
    }
    // (0002,0000) comes first and says where the group ends: a deflated data set may begin with any bytes.
    let Some(first) = head.get(132..144) else { return Ok(None) };
    if first[..8] != [0x02, 0x00, 0x00, 0x00, b'U', b'L', 4, 0] {
        return Err(MetaError::Malformed);
    }
    let group = u32::from_le_bytes([first[8], first[9], first[10], first[11]]);
    let end = usize::try_from(group).unwrap_or(usize::MAX).saturating_add(144);
    if end > META_BYTES_MAX {
        return Err(MetaError::TooLong);
    }
    let Some(mut rest) = head.get(144..end) else { return Ok(None) };
    let (mut sop_class, mut sop_instance, mut transfer_syntax, mut source) = (None, None, None, None);
    while !rest.is_empty() {
        let (element, value, tail) = element(rest).ok_or(MetaError::Malformed)?;
        let uid = || std::str::from_utf8(value).ok().and_then(|text| Uid::parse(text).ok());
        match element {
            0x0002 => sop_class = uid(),
            0x0003 => sop_instance = uid(),
            0x0010 => transfer_syntax = uid(),
            0x0016 => source = std::str::from_utf8(value).ok().and_then(|text| AeTitle::parse(text).ok()),
            _ => {}
        }
        rest = tail;
    }
    Ok(Some(FileMeta {
        sop_class: sop_class.ok_or(MetaError::Missing("Media Storage SOP Class UID"))?,
        sop_instance: sop_instance.ok_or(MetaError::Missing("Media Storage SOP Instance UID"))?,
        transfer_syntax: transfer_syntax.ok_or(MetaError::Missing("Transfer Syntax UID"))?,
        source,
        length: end,
    }))
}

/// Element number and value of the first element of group 0002, and what follows it.
fn element(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<8>()?;
    if header[..2] != [0x02, 0x00] {
        return None;
    }
    let long = matches!(&header[4..6], b"OB" | b"OW" | b"UN" | b"UT" | b"UC" | b"UR" | b"SQ" | b"OD" | b"OF" | b"OL");
    let (length, rest) = if long {
        let (length, rest) = rest.split_first_chunk::<4>()?;
        (usize::try_from(u32::from_le_bytes(*length)).ok()?, rest)
    } else {
        (usize::from(u16::from_le_bytes([header[6], header[7]])), rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((u16::from_le_bytes([header[2], header[3]]), value, rest))
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

    fn head() -> Vec<u8> {
        let uid = |text| Uid::parse(text).expect("a valid uid");
        file_meta(&uid("1.2.840.10008.5.1.4.1.1.2"), &uid("1.2.3.44"), &uid("1.2.840.10008.1.2.1"), None)
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_behind_it() {
        let head = head();
        for behind in [&b""[..], b"\x02\x00", b"\x08\x00\x05\x00anything"] {
            let file = [&head[..], behind].concat();
            let meta = read_meta(&file).expect("readable").expect("complete");
            assert_eq!((meta.sop_instance.as_str(), meta.length), ("1.2.3.44", head.len()));
            assert_eq!(meta.transfer_syntax.as_str(), "1.2.840.10008.1.2.1");
        }
        for cut in 0..head.len() {
            assert_eq!(read_meta(&head[..cut]), Ok(None), "{cut} bytes");
        }
        let (uid, ae) =
            (Uid::parse("1.2.3").expect("a valid uid"), AeTitle::parse("CT_SCANNER").expect("a valid title"));
        let meta = read_meta(&file_meta(&uid, &uid, &uid, Some(&ae))).expect("readable").expect("complete");
        assert_eq!(meta.source, Some(ae));
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let changed = |at: usize, byte: u8| {
            let mut head = head();
            head[at] = byte;
            head
        };
        let rows: [(Vec<u8>, MetaError); 7] = [
            (changed(128, b'd'), MetaError::NotDicom),
            (vec![b'x'; 200], MetaError::NotDicom),
            (changed(132, 0x08), MetaError::Malformed),
            (changed(143, 0xff), MetaError::TooLong),
            (changed(144, 0x08), MetaError::Malformed),
            // The group ends within its last element.
            (changed(140, head()[140] - 1), MetaError::Malformed),
            (changed(166, b'x'), MetaError::Missing("Media Storage SOP Class UID")),
        ];
        for (bytes, expected) in rows {
            assert_eq!(read_meta(&bytes), Err(expected));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(group in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut file = head()[..140].to_vec();
            file.extend_from_slice(&(group.len() as u32).to_le_bytes());
            file.extend_from_slice(&group);
            let _ = read_meta(&file);
        }
    }
}
