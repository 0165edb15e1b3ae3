//! The elements of the node's own files, read: Explicit VR Little Endian, texts as UTF-8.
//!
//! For the catalogue of own reports, whose bytes `report` wrote; objects of peers are read nowhere but in the workers
//! of `pixels`. It is bounded all the same, since a disk can damage a file: no length is believed beyond the bytes that
//! are there, nesting is limited, and nothing is allocated but copies of values. Neighbours: `matching` compares what
//! is read, `json` writes it. Left out: other transfer syntaxes, encapsulated pixels.

use std::collections::BTreeMap;

use dicom_core::VR;
use dicom_encoding::text::{SpecificCharacterSet, TextCodec};

use crate::domain::Uid;

/// A data set or an item: elements by tag (group in the upper half).
pub type Elements = BTreeMap<u32, Element>;

/// One element.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    pub vr: VR,
    pub value: ElementValue,
}

/// The value of an element. One without a value has an empty list.
#[derive(Debug, Clone, PartialEq)]
pub enum ElementValue {
    /// Text values without padding; numbers of binary VRs too are written out here, in decimal.
    Texts(Vec<String>),
    Items(Vec<Elements>),
    /// OB, OW, UN and their kind.
    Bytes(Vec<u8>),
}

/// Why bytes are not a file of the node's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElementsError {
    #[error("no DICOM file: preamble or prefix is missing")]
    NotDicom,
    #[error("its transfer syntax is not Explicit VR Little Endian")]
    TransferSyntax,
    #[error("it ends within an element at byte {0}")]
    Truncated(usize),
    #[error("no element that can be read at byte {0}")]
    Unexpected(usize),
    #[error("sequences are nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

/// Deepest nesting of sequences; a report has about twelve levels.
const DEPTH_MAX: usize = 64;
const UNDEFINED: u32 = 0xffff_ffff;
const ITEM: u32 = 0xfffe_e000;
const ITEM_END: u32 = 0xfffe_e00d;
const SEQUENCE_END: u32 = 0xfffe_e0dd;
const TRANSFER_SYNTAX: u32 = 0x0002_0010;
const CHARACTER_SET: u32 = 0x0008_0005;
const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";

impl Element {
    /// An element of one text.
    pub fn text(vr: VR, text: &str) -> Self {
        Self { vr, value: ElementValue::Texts(vec![text.to_owned()]) }
    }

    /// Its texts; none for sequences and bytes.
    pub fn texts(&self) -> &[String] {
        match &self.value {
            ElementValue::Texts(texts) => texts,
            ElementValue::Items(_) | ElementValue::Bytes(_) => &[],
        }
    }
}

/// The data set of a file of the node's own, up to the first top-level element with a tag of `end` or more.
///
/// # Errors
/// [`ElementsError`], for a file that `report` did not write or that was damaged since.
pub fn read_elements(file: &[u8], end: u32) -> Result<Elements, ElementsError> {
    if file.get(128..132) != Some(&b"DICM"[..]) {
        return Err(ElementsError::NotDicom);
    }
    let mut reader = Reader { bytes: file, at: 132, text: Text::default() };
    let mut transfer_syntax = None;
    while reader.at < file.len() && reader.peek()? >> 16 == 0x0002 {
        let (tag, element) = reader.element(0)?;
        if tag == TRANSFER_SYNTAX {
            transfer_syntax = element.texts().first().and_then(|t| Uid::parse(t).ok());
        }
    }
    if transfer_syntax.is_none_or(|uid| uid.as_str() != EXPLICIT_VR_LITTLE_ENDIAN) {
        return Err(ElementsError::TransferSyntax);
    }
    let mut elements = Elements::new();
    while reader.at < file.len() && reader.peek()? < end {
        let (tag, element) = reader.element(0)?;
        if tag == CHARACTER_SET {
            reader.text = Text::of(element.texts());
        }
        // Group lengths are retired and say nothing.
        if tag & 0xffff != 0 {
            elements.insert(tag, element);
        }
    }
    Ok(elements)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    text: Text,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ElementsError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(ElementsError::Truncated(self.at))?;
        let value = &self.bytes[self.at..end];
        self.at = end;
        Ok(value)
    }

    fn u16(&mut self) -> Result<u16, ElementsError> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, ElementsError> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn tag(&mut self) -> Result<u32, ElementsError> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    fn peek(&mut self) -> Result<u32, ElementsError> {
        let at = self.at;
        let tag = self.tag();
        self.at = at;
        tag
    }

    fn element(&mut self, depth: usize) -> Result<(u32, Element), ElementsError> {
        let start = self.at;
        let tag = self.tag()?;
        let letters = self.take(2)?;
        let vr = VR::from_binary([letters[0], letters[1]]).ok_or(ElementsError::Unexpected(start))?;
        let length = if has_long_length(vr) {
            self.take(2)?;
            self.u32()?
        } else {
            u32::from(self.u16()?)
        };
        let value = match (vr, length) {
            (VR::SQ, _) => ElementValue::Items(self.items(length, depth + 1)?),
            (_, UNDEFINED) => return Err(ElementsError::Unexpected(start)),
            _ => {
                let bytes = self.take(length as usize)?;
                value(vr, bytes, &self.text)
            }
        };
        Ok((tag, Element { vr, value }))
    }

    fn items(&mut self, length: u32, depth: usize) -> Result<Vec<Elements>, ElementsError> {
        if depth > DEPTH_MAX {
            return Err(ElementsError::TooDeep);
        }
        let end = self.end_of(length)?;
        let mut items = Vec::new();
        while end != Some(self.at) {
            let start = self.at;
            let (tag, length) = (self.tag()?, self.u32()?);
            match tag {
                SEQUENCE_END if end.is_none() => break,
                ITEM => items.push(self.item(length, depth)?),
                _ => return Err(ElementsError::Unexpected(start)),
            }
            if end.is_some_and(|end| self.at > end) {
                return Err(ElementsError::Truncated(start));
            }
        }
        Ok(items)
    }

    fn item(&mut self, length: u32, depth: usize) -> Result<Elements, ElementsError> {
        let end = self.end_of(length)?;
        let mut elements = Elements::new();
        while end != Some(self.at) {
            let start = self.at;
            if end.is_none() && self.peek()? == ITEM_END {
                self.take(8)?;
                break;
            }
            let (tag, element) = self.element(depth)?;
            elements.insert(tag, element);
            if end.is_some_and(|end| self.at > end) {
                return Err(ElementsError::Truncated(start));
            }
        }
        Ok(elements)
    }

    /// Where a sequence or item of this length ends; `None` for one that has a delimiter.
    fn end_of(&self, length: u32) -> Result<Option<usize>, ElementsError> {
        if length == UNDEFINED {
            return Ok(None);
        }
        let end = self.at.checked_add(length as usize).filter(|end| *end <= self.bytes.len());
        end.map(Some).ok_or(ElementsError::Truncated(self.at))
    }
}

fn value(vr: VR, bytes: &[u8], text: &Text) -> ElementValue {
    fn numbers<const N: usize>(bytes: &[u8], write: impl Fn([u8; N]) -> String) -> ElementValue {
        ElementValue::Texts(bytes.as_chunks::<N>().0.iter().map(|b| write(*b)).collect())
    }
    match vr {
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
        VR::OB | VR::OW | VR::OD | VR::OF | VR::OL | VR::OV | VR::UN | VR::SQ => ElementValue::Bytes(bytes.to_vec()),
        VR::ST | VR::LT | VR::UT | VR::UR => {
            let whole = text.decode(bytes);
            let whole = whole.trim_end_matches(['\0', ' ']);
            ElementValue::Texts(if whole.is_empty() { Vec::new() } else { vec![whole.to_owned()] })
        }
        // The character set is for names and free texts; the rest is ASCII (PS3.5 6.1.2.2).
        VR::LO | VR::PN | VR::SH | VR::UC => split(&text.decode(bytes)),
        _ => split(&String::from_utf8_lossy(bytes)),
    }
}

/// The values of a text element; none where there is nothing but padding.
fn split(text: &str) -> ElementValue {
    let text = text.trim_end_matches(['\0', ' ']);
    let values = text.split('\\').map(|v| v.trim_matches([' ', '\0']).to_owned());
    ElementValue::Texts(if text.is_empty() { Vec::new() } else { values.collect() })
}

/// Whether the length of this VR has 32 bits (PS3.5 Table 7.1-1).
fn has_long_length(vr: VR) -> bool {
    use VR::{OB, OD, OF, OL, OV, OW, SQ, SV, UC, UN, UR, UT, UV};
    matches!(vr, OB | OD | OF | OL | OV | OW | SQ | SV | UC | UN | UR | UT | UV)
}

/// How texts are encoded, by the terms of Specific Character Set (PS3.3 C.12.1.1.2).
#[derive(Debug, Default)]
struct Text(Option<SpecificCharacterSet>);

impl Text {
    /// The last term tells most: with code extensions its codec knows ASCII and its own escape sequences.
    fn of(terms: &[String]) -> Self {
        let term = terms.iter().rev().find(|term| !term.is_empty());
        Self(term.and_then(|term| SpecificCharacterSet::from_code(term)))
    }

    /// Never fails: what cannot be decoded becomes U+FFFD.
    fn decode(&self, bytes: &[u8]) -> String {
        let decoded = self.0.as_ref().and_then(|codec| codec.decode(bytes).ok());
        let text = decoded.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned());
        // Korean and Chinese code extensions: the designation stays where the codec does not know it (ISO 2022).
        text.replace("\u{1b}$)C", "").replace("\u{1b}$)A", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dicom::file_meta;
    use proptest::prelude::*;

    fn file(data_set: &[u8], syntax: &str) -> Vec<u8> {
        let uid = |text| Uid::parse(text).expect("a valid uid");
        let mut file = file_meta(&uid("1.2.840.10008.5.1.4.1.1.88.34"), &uid("1.2.3"), &uid(syntax), None);
        file.extend_from_slice(data_set);
        file
    }

    fn short(tag: u32, vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
        out.extend_from_slice(&(tag as u16).to_le_bytes());
        out.extend_from_slice(vr);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(value);
        out
    }

    fn long(tag: u32, vr: &[u8; 2], length: u32, value: &[u8]) -> Vec<u8> {
        let mut out = short(tag, vr, &[]);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(value);
        out
    }

    fn texts(elements: &Elements, tag: u32) -> Vec<&str> {
        elements[&tag].texts().iter().map(String::as_str).collect()
    }

    #[test]
    fn values_are_read_without_their_padding() {
        let data_set = [
            short(0x0008_0060, b"CS", b"SR"),
            short(0x0008_0061, b"CS", b"SR\\CT "),
            short(0x0010_0020, b"LO", b""),
            short(0x0028_0010, b"US", &[1, 2, 3, 0]),
            short(0x0040_a730, b"UI", b"1.2\0"),
        ]
        .concat();
        let elements = read_elements(&file(&data_set, EXPLICIT_VR_LITTLE_ENDIAN), u32::MAX).expect("readable");
        assert_eq!(texts(&elements, 0x0008_0060), ["SR"]);
        assert_eq!(texts(&elements, 0x0008_0061), ["SR", "CT"]);
        assert!(texts(&elements, 0x0010_0020).is_empty());
        assert_eq!(texts(&elements, 0x0028_0010), ["513", "3"]);
        assert_eq!(texts(&elements, 0x0040_a730), ["1.2"]);
        let head = read_elements(&file(&data_set, EXPLICIT_VR_LITTLE_ENDIAN), 0x0028_0000).expect("readable");
        assert_eq!(head.len(), 3, "nothing from the end on");
    }

    #[test]
    fn names_are_decoded_by_their_character_set() {
        let rows: &[(&[u8], &[u8], &str)] = &[
            (b"ISO_IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
            (b"ISO_IR 192", "Müller".as_bytes(), "Müller"),
            (b"\\ISO 2022 IR 87 ", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
            (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
            (b"NO SUCH TERM", b"DOE^JANE", "DOE^JANE"),
        ];
        for (set, name, expected) in rows {
            let data_set = [short(CHARACTER_SET, b"CS", set), short(0x0010_0010, b"PN", name)].concat();
            let elements = read_elements(&file(&data_set, EXPLICIT_VR_LITTLE_ENDIAN), u32::MAX).expect("readable");
            assert_eq!(texts(&elements, 0x0010_0010), [*expected]);
        }
    }

    #[test]
    fn items_of_defined_and_undefined_length_are_the_same() {
        let inner = short(0x0008_0100, b"SH", b"121");
        let defined = [&0xe000_fffe_u32.to_le_bytes()[..], &(inner.len() as u32).to_le_bytes(), &inner].concat();
        let open = [&0xe000_fffe_u32.to_le_bytes()[..], &UNDEFINED.to_le_bytes(), &inner].concat();
        let open = [&open[..], &0xe00d_fffe_u32.to_le_bytes(), &[0; 4], &0xe0dd_fffe_u32.to_le_bytes(), &[0; 4]];
        let rows = [
            long(0x0040_a043, b"SQ", defined.len() as u32, &defined),
            long(0x0040_a043, b"SQ", UNDEFINED, &open.concat()),
        ];
        for sequence in rows {
            let elements = read_elements(&file(&sequence, EXPLICIT_VR_LITTLE_ENDIAN), u32::MAX).expect("readable");
            let ElementValue::Items(items) = &elements[&0x0040_a043].value else { panic!("a sequence") };
            assert_eq!((items.len(), texts(&items[0], 0x0008_0100)), (1, vec!["121"]));
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let deep: Vec<u8> = (0..100)
            .flat_map(|_| {
                let item = [&0xe000_fffe_u32.to_le_bytes()[..], &UNDEFINED.to_le_bytes()].concat();
                long(0x0040_a730, b"SQ", UNDEFINED, &item)
            })
            .collect();
        let rows: [(Vec<u8>, ElementsError); 5] = [
            (b"no file".to_vec(), ElementsError::NotDicom),
            (file(&[], "1.2.840.10008.1.2"), ElementsError::TransferSyntax),
            (file(&deep, EXPLICIT_VR_LITTLE_ENDIAN), ElementsError::TooDeep),
            (file(&short(0x0008_0060, b"??", b"SR"), EXPLICIT_VR_LITTLE_ENDIAN), ElementsError::Unexpected(0)),
            (
                file(&long(0x0009_0010, b"OB", 0xffff_fff0, b"x"), EXPLICIT_VR_LITTLE_ENDIAN),
                ElementsError::Truncated(0),
            ),
        ];
        for (bytes, expected) in rows {
            let error = read_elements(&bytes, u32::MAX).expect_err("damaged");
            assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(data_set in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_elements(&file(&data_set, EXPLICIT_VR_LITTLE_ENDIAN), u32::MAX);
        }
    }
}
