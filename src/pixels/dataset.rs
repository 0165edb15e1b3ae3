//! An index of a data set: which attributes are there, and the small values among them.
//!
//! [`prescan`](super::prescan) fills it; `header`, `layout` and `grey` ask it. Values of every byte order and VR
//! encoding arrive here in little endian. Pixel data stays in the file as a [`Span`]. Left out: every attribute
//! that nothing downstream needs (`wanted`).

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_dictionary_std::StandardDataDictionary;

use crate::domain::{Refusal, RefusalCode};

/// `group << 16 | element`.
pub type Tag = u32;

/// A run of bytes in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub bytes: u64,
}

/// One element that was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    /// As written, or from the dictionary where the file does not say; `XS` for US-or-SS without a verdict.
    pub vr: [u8; 2],
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Little endian.
    Bytes(Vec<u8>),
    Items(Vec<Item>),
    /// Pixel data of a native transfer syntax, in the byte order of the file.
    Native(Span),
    /// Encapsulated pixel data (PS3.5 A.4): the Basic Offset Table is the first.
    Fragments(Vec<Span>),
}

/// A data set or an item of a sequence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Item(pub BTreeMap<Tag, Element>);

/// Where the bytes of the data set come from: a file, or memory after inflation.
pub trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

/// A data set that was walked from its first byte to its last.
pub struct Scan {
    /// Transfer Syntax UID of the file meta information, or what the bytes look like where there is none.
    pub transfer_syntax: String,
    /// Media Storage SOP Class and Instance UID (0002,0002), (0002,0003), as far as present.
    pub media_sop_class: Option<String>,
    pub media_sop_instance: Option<String>,
    pub big_endian: bool,
    pub root: Item,
    pub(super) source: BufReader<Box<dyn Source>>,
    /// Where the source stands; nothing after a fault.
    pub(super) at: Option<u64>,
}

impl Scan {
    /// The bytes of a span that the walk found.
    pub fn read(&mut self, span: Span) -> Result<Vec<u8>, Refusal> {
        let mut buffer = vec![0; usize::try_from(span.bytes).map_err(|e| unreadable(span, &e))?];
        self.read_into(span.offset, &mut buffer)?;
        Ok(buffer)
    }

    /// The bytes from an offset that the walk found.
    pub fn read_into(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        let bytes = buffer.len() as u64;
        // a relative move keeps what is buffered: small fragments lie close to one another
        let seek = match self.at.take() {
            Some(at) => self.source.seek_relative(offset.wrapping_sub(at).cast_signed()),
            None => self.source.seek(SeekFrom::Start(offset)).map(|_| ()),
        };
        let read = seek.and_then(|()| self.source.read_exact(buffer));
        read.map_err(|e| unreadable(Span { offset, bytes }, &e))?;
        self.at = Some(offset + bytes);
        Ok(())
    }
}

fn unreadable(span: Span, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Malformed, format!("{} bytes at {} cannot be read: {why}", span.bytes, span.offset))
}

impl Item {
    pub fn get(&self, tag: Tag) -> Option<&Element> {
        self.0.get(&tag)
    }

    /// The value of a non-empty element that is no sequence.
    pub fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        match &self.get(tag)?.value {
            Value::Bytes(bytes) if !bytes.is_empty() => Some(bytes),
            _ => None,
        }
    }

    /// The items of a sequence; none where it is absent.
    pub fn items(&self, tag: Tag) -> &[Item] {
        match self.get(tag).map(|e| &e.value) {
            Some(Value::Items(items)) => items,
            _ => &[],
        }
    }

    /// The first value of a text, trimmed; `None` if absent or empty. Other character sets than UTF-8 lose their
    /// special letters here, which is enough to compare.
    pub fn text(&self, tag: Tag) -> Option<String> {
        let text = String::from_utf8_lossy(self.bytes(tag)?);
        let first = text.split('\\').next().unwrap_or_default().trim_matches([' ', '\0', '\t', '\r', '\n']);
        (!first.is_empty()).then(|| first.to_owned())
    }

    /// Every value of a text, trimmed, empty ones in their place; none if absent or empty.
    pub fn texts(&self, tag: Tag) -> Vec<String> {
        let Some(bytes) = self.bytes(tag) else { return Vec::new() };
        let text = String::from_utf8_lossy(bytes);
        let values = text.split('\\').map(|v| v.trim_matches([' ', '\0', '\t', '\r', '\n']).to_owned());
        let values: Vec<String> = values.collect();
        if values.iter().all(String::is_empty) { Vec::new() } else { values }
    }

    /// Every value of a decimal or integer string (DS, IS): `None` unless all are finite numbers, empty if absent.
    pub fn decimals(&self, tag: Tag) -> Option<Vec<f64>> {
        self.texts(tag).iter().map(|v| v.parse::<f64>().ok().filter(|v| v.is_finite())).collect()
    }

    /// [`Item::text`] in upper case, for code strings (CS).
    pub fn code_string(&self, tag: Tag) -> Option<String> {
        self.text(tag).map(|t| t.to_uppercase())
    }

    /// An unsigned 16-bit number (US).
    pub fn us(&self, tag: Tag) -> Option<u16> {
        self.bytes(tag)?.first_chunk::<2>().map(|b| u16::from_le_bytes(*b))
    }

    /// The first value of a decimal or integer string (DS, IS) that is a finite number.
    pub fn decimal(&self, tag: Tag) -> Option<f64> {
        self.text(tag)?.parse::<f64>().ok().filter(|v| v.is_finite())
    }

    /// The first value of an integer string (IS).
    pub fn integer(&self, tag: Tag) -> Option<i64> {
        self.text(tag)?.parse().ok()
    }
}

/// A tag as people write it, `(gggg,eeee)`.
pub fn tag_text(tag: Tag) -> String {
    format!("({:04X},{:04X})", tag >> 16, tag & 0xFFFF)
}

/// The VR of the dictionary, `XS` where that depends on Pixel Representation, `UN` for what it does not know.
pub fn dictionary_vr(tag: Tag) -> [u8; 2] {
    let (group, element) = ((tag >> 16) as u16, (tag & 0xFFFF) as u16);
    match StandardDataDictionary.by_tag(dicom_core::Tag(group, element)).map(|e| e.vr()) {
        Some(VirtualVr::Xs) => *b"XS",
        Some(VirtualVr::Lt) => *b"OW",
        Some(vr) => vr.relaxed().to_bytes(),
        None => *b"UN",
    }
}

/// Numbers of this VR from big to little endian.
pub fn swap_bytes(bytes: &mut [u8], vr: &[u8; 2]) {
    let size = match vr {
        b"US" | b"SS" | b"OW" | b"AT" => 2,
        b"UL" | b"SL" | b"FL" | b"OL" | b"OF" => 4,
        b"FD" | b"OD" | b"SV" | b"UV" | b"OV" => 8,
        _ => return,
    };
    for number in bytes.chunks_exact_mut(size) {
        number.reverse();
    }
}
