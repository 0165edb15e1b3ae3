//! Data elements and files: the only place where a report touches the DICOM encoding.
//!
//! Generated text is plain ASCII, and copied attributes keep the bytes of their source whatever its character
//! set is: they enter the data set as bytes, so that no codec sees them. Neighbours: `content` and `header` build
//! with these helpers. Left out: which attributes there are.

use std::str::FromStr;

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use super::ReportError;
use crate::dicom::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::domain::{Attribute, AttributeValue, Attributes, Code};

const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";

/// Ethnic Group and its newer forms: never in a report, at no depth.
const ETHNIC_GROUP: [u32; 3] = [0x0010_2160, 0x0010_2161, 0x0010_2162];

/// Puts an ASCII text (or UID, date, number as text).
pub(super) fn put(object: &mut InMemDicomObject, tag: u32, vr: VR, text: &str) {
    object.put(DataElement::new(to_tag(tag), vr, PrimitiveValue::from(text)));
}

/// Puts an element of length 0, or a sequence without items.
pub(super) fn put_empty(object: &mut InMemDicomObject, tag: u32, vr: VR) {
    object.put(DataElement::empty(to_tag(tag), vr));
}

/// Puts a sequence.
pub(super) fn put_items(object: &mut InMemDicomObject, tag: u32, items: Vec<InMemDicomObject>) {
    object.put(DataElement::new(to_tag(tag), VR::SQ, DataSetSequence::from(items)));
}

/// Puts a code sequence of one item (PS3.3 8.8).
pub(super) fn put_code(object: &mut InMemDicomObject, tag: u32, code: &Code) {
    put_items(object, tag, vec![code_item(code)]);
}

/// Puts a copied attribute byte for byte, padded to even length. Returns whether the value fits `vr`; one of a VR with
/// a length of 16 bits (PS3.5 7.1.2) may come from an object in Implicit VR, where it may be longer.
pub(super) fn put_verbatim(object: &mut InMemDicomObject, tag: u32, vr: VR, value: &AttributeValue) -> bool {
    match (value, vr) {
        (AttributeValue::Items(items), VR::SQ) => {
            put_items(object, tag, items.iter().map(verbatim_item).collect());
            true
        }
        (AttributeValue::Bytes(bytes), VR::IS | VR::DS) if bytes.len() <= SHORT_LENGTH_MAX => {
            match std::str::from_utf8(bytes) {
                Ok(text) if text.is_ascii() => {
                    put(object, tag, vr, text);
                    true
                }
                _ => false,
            }
        }
        (AttributeValue::Bytes(_), VR::SQ) | (AttributeValue::Items(_), _) => false,
        (AttributeValue::Bytes(bytes), vr) if bytes.len() > SHORT_LENGTH_MAX && !has_long_length(vr) => false,
        (AttributeValue::Bytes(bytes), _) => {
            let mut bytes = bytes.clone();
            if bytes.len() % 2 == 1 {
                bytes.push(if matches!(vr, VR::UI | VR::OB | VR::UN) { 0 } else { b' ' });
            }
            object.put(DataElement::new(to_tag(tag), vr, PrimitiveValue::U8(bytes.into())));
            true
        }
    }
}

/// The longest value of even length that 16 bits can tell.
const SHORT_LENGTH_MAX: usize = 0xFFFE;

/// Whether the length of this VR has 32 bits in explicit transfer syntaxes (PS3.5 Table 7.1-1).
fn has_long_length(vr: VR) -> bool {
    use VR::{OB, OD, OF, OL, OV, OW, SQ, SV, UC, UN, UR, UT, UV};
    matches!(vr, OB | OD | OF | OL | OV | OW | SQ | SV | UC | UN | UR | UT | UV)
}

/// The finished file: preamble, meta information, data set in Explicit VR Little Endian.
pub(super) fn to_file(object: InMemDicomObject, sop_class: &str, sop_instance: &str) -> Result<Vec<u8>, ReportError> {
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(sop_class)
        .media_storage_sop_instance_uid(sop_instance)
        .transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN)
        .implementation_class_uid(IMPLEMENTATION_CLASS_UID)
        .implementation_version_name(IMPLEMENTATION_VERSION_NAME);
    let file = object.with_meta(meta).map_err(|e| ReportError::Encoding(e.to_string()))?;
    let mut bytes = Vec::with_capacity(32 * 1024);
    file.write_all(&mut bytes).map_err(|e| ReportError::Encoding(e.to_string()))?;
    Ok(bytes)
}

/// `text` as plain printable ASCII of at most `max` characters: what else there is becomes `?`. Backslash and
/// tilde count as foreign too, since Japanese character sets give these bytes other meanings.
pub(super) fn plain(text: &str, max: usize) -> String {
    let ascii = |c: char| if (' '..='}').contains(&c) && c != '\\' { c } else { '?' };
    text.trim().chars().map(ascii).take(max).collect::<String>().trim_end().to_owned()
}

fn verbatim_item(attributes: &Attributes) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    for (tag, Attribute { vr, value }) in attributes {
        let private_or_length = (tag >> 16) % 2 == 1 || tag & 0xffff == 0;
        if private_or_length || ETHNIC_GROUP.contains(tag) {
            continue;
        }
        let vr = VR::from_str(vr).unwrap_or(VR::UN);
        put_verbatim(&mut item, *tag, vr, value);
    }
    item
}

fn code_item(code: &Code) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put(&mut item, 0x0008_0100, VR::SH, &code.value);
    put(&mut item, 0x0008_0102, VR::SH, &code.scheme);
    put(&mut item, 0x0008_0104, VR::LO, &code.meaning);
    item
}

/// `group << 16 | element` as a tag.
pub(super) fn to_tag(tag: u32) -> Tag {
    Tag((tag >> 16) as u16, (tag & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_plain_ascii_of_bounded_length() {
        let rows: &[(&str, usize, &str)] = &[
            (" RaceAudit ", 64, "RaceAudit"),
            ("Modèle\\v~1", 64, "Mod?le?v?1"),
            ("a\nb", 64, "a?b"),
            ("abc def", 4, "abc"),
            ("", 4, ""),
        ];
        for (text, max, expected) in rows {
            assert_eq!(plain(text, *max), *expected, "{text:?}");
        }
    }

    #[test]
    fn copied_bytes_are_written_as_they_are_and_padded_by_their_representation() {
        let rows: &[(VR, &[u8], &[u8])] = &[
            (VR::LO, b"\xe9\x81", b"\xe9\x81"),
            (VR::PN, b"M\xfcller", b"M\xfcller"),
            (VR::PN, b"\x1b$B;3", b"\x1b$B;3 "),
            (VR::UI, b"1.2.3", b"1.2.3\0"),
            (VR::DS, b"1.5", b"1.5 "),
            (VR::US, b"\x01\x00", b"\x01\x00"),
        ];
        for (vr, given, expected) in rows {
            let mut object = InMemDicomObject::new_empty();
            assert!(put_verbatim(&mut object, 0x0010_0010, *vr, &AttributeValue::Bytes(given.to_vec())));
            let mut bytes = Vec::new();
            let ts = dicom_transfer_syntax_registry::entries::EXPLICIT_VR_LITTLE_ENDIAN.erased();
            object.write_dataset_with_ts(&mut bytes, &ts).unwrap();
            assert_eq!(&bytes[8..], *expected, "{vr:?}");
        }
    }

    #[test]
    fn a_value_that_explicit_vr_cannot_hold_is_left_out() {
        for (vr, length, expected) in
            [(VR::LO, 65_534, true), (VR::LO, 65_535, false), (VR::DS, 70_000, false), (VR::UT, 70_000, true)]
        {
            let mut object = InMemDicomObject::new_empty();
            let value = AttributeValue::Bytes(vec![b'1'; length]);
            assert_eq!(put_verbatim(&mut object, 0x0010_0010, vr, &value), expected, "{vr:?} of {length}");
            let ts = dicom_transfer_syntax_registry::entries::EXPLICIT_VR_LITTLE_ENDIAN.erased();
            assert!(object.write_dataset_with_ts(&mut Vec::new(), &ts).is_ok());
        }
    }
}
