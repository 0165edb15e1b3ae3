//! Values as texts: what the Specific Character Set of a data set makes of its bytes, and numbers of binary value
//! representations in decimal.
//!
//! Neighbours: `dataset` keeps the bytes, `character_set` decodes them, `matching` compares the texts, `json` writes
//! them. Left out: encoding, since what is answered goes out as the bytes that it came in.

use dicom_core::VR;

use super::character_set::CharacterSet;
use super::dataset::{DataSet, Element, Tag, Value};

pub(super) const CHARACTER_SET: Tag = 0x0008_0005;

/// How the texts of a data set are encoded.
#[derive(Debug)]
pub(super) struct Text(CharacterSet);

impl DataSet {
    /// The values of an element as texts, without padding; none where it is absent, empty, a sequence or binary data.
    pub fn texts(&self, tag: Tag) -> Vec<String> {
        let values = self.get(tag).and_then(|element| match &element.value {
            Value::Bytes(bytes) => Text::of(self).values(element.vr(), bytes),
            Value::Items(_) => None,
        });
        values.unwrap_or_default()
    }
}

impl Element {
    pub(super) fn vr(&self) -> VR {
        VR::from_binary(self.vr).unwrap_or(VR::UN)
    }
}

impl Text {
    pub(super) fn of(set: &DataSet) -> Self {
        Self(CharacterSet::of(set.text(CHARACTER_SET).unwrap_or_default()))
    }

    /// Never fails: what cannot be decoded becomes U+FFFD. Values are parted by backslashes, of which none is added.
    pub(super) fn decode(&self, bytes: &[u8]) -> String {
        self.0.decode(bytes)
    }

    /// The values of an element without padding; `None` for OB, OW, UN and their kind.
    pub(super) fn values(&self, vr: VR, bytes: &[u8]) -> Option<Vec<String>> {
        fn numbers<const N: usize>(bytes: &[u8], write: impl Fn([u8; N]) -> String) -> Vec<String> {
            bytes.as_chunks::<N>().0.iter().map(|b| write(*b)).collect()
        }
        Some(match vr {
            VR::US => numbers(bytes, |b| u16::from_le_bytes(b).to_string()),
            VR::SS => numbers(bytes, |b| i16::from_le_bytes(b).to_string()),
            VR::UL => numbers(bytes, |b| u32::from_le_bytes(b).to_string()),
            VR::SL => numbers(bytes, |b| i32::from_le_bytes(b).to_string()),
            VR::UV => numbers(bytes, |b| u64::from_le_bytes(b).to_string()),
            VR::SV => numbers(bytes, |b| i64::from_le_bytes(b).to_string()),
            VR::FL => numbers(bytes, |b| f32::from_le_bytes(b).to_string()),
            VR::FD => numbers(bytes, |b| f64::from_le_bytes(b).to_string()),
            VR::AT => numbers(bytes, |b: [u8; 4]| {
                format!("{:04X}{:04X}", u16::from_le_bytes([b[0], b[1]]), u16::from_le_bytes([b[2], b[3]]))
            }),
            VR::OB | VR::OW | VR::OD | VR::OF | VR::OL | VR::OV | VR::UN | VR::SQ => return None,
            VR::ST | VR::LT | VR::UT | VR::UR => {
                let whole = self.decode(bytes);
                let whole = whole.trim_end_matches(['\0', ' ']);
                if whole.is_empty() { Vec::new() } else { vec![whole.to_owned()] }
            }
            // The character set is for names and free texts; the rest is ASCII (PS3.5 6.1.2.2).
            VR::LO | VR::PN | VR::SH | VR::UC => split(&self.decode(bytes)),
            _ => split(&String::from_utf8_lossy(bytes)),
        })
    }
}

/// The values of a text element; none where there is nothing but padding.
fn split(text: &str) -> Vec<String> {
    let text = text.trim_end_matches(['\0', ' ']);
    let values = text.split('\\').map(|v| v.trim_matches([' ', '\0']).to_owned());
    if text.is_empty() { Vec::new() } else { values.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_without_their_padding() {
        let rows: &[(&[u8; 2], &[u8], &[&str])] = &[
            (b"CS", b"SR", &["SR"]),
            (b"CS", b"SR\\CT ", &["SR", "CT"]),
            (b"LO", b"", &[]),
            (b"LO", b"  ", &[]),
            (b"LT", b"a\\b \0", &["a\\b"]),
            (b"US", &[1, 2, 3, 0], &["513", "3"]),
            (b"AT", &[0x10, 0, 0x20, 0], &["00100020"]),
            (b"UI", b"1.2\0", &["1.2"]),
            (b"UN", b"1.2\0", &[]),
        ];
        for (vr, bytes, expected) in rows {
            let mut set = DataSet::default();
            set.put(0x0040_a730, vr, *bytes);
            assert_eq!(set.texts(0x0040_a730), *expected, "{vr:?} {bytes:?}");
        }
        assert!(DataSet::default().texts(1).is_empty());
    }

    #[test]
    fn names_are_decoded_by_their_character_set_value_by_value() {
        let rows: &[(&[u8], &[u8], &[&str])] = &[
            (b"ISO_IR 100", b"M\xfcller^J\xf6rg \\DOE", &["Müller^Jörg", "DOE"]),
            (b"ISO_IR 192", b"*\xfcller*", &["*\u{fffd}ller*"]),
            (b"\\ISO 2022 IR 87", b"\x1b$B$\\\x1b(B\\DOE", &["ぼ", "DOE"]),
        ];
        for (terms, name, expected) in rows {
            let mut set = DataSet::default();
            set.put(CHARACTER_SET, b"CS", *terms);
            set.put(0x0010_0010, b"PN", *name);
            assert_eq!(set.texts(0x0010_0010), *expected);
        }
    }
}
