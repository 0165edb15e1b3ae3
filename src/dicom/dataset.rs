//! Small data sets: what peers ask with (identifiers, action information), what they are answered, and the node's own
//! reports.
//!
//! The parser is closed and bounded: Implicit and Explicit VR Little Endian, a limit on bytes, elements and nesting,
//! no allocation for what a length merely claims, every fault a value. Values stay the bytes that they are; `text`
//! reads them. Neighbours: `query`, `commitment` and `own` make sense of what is read. Left out: images and everything
//! else that a peer stores, which only workers read.

use std::collections::BTreeMap;

use crate::domain::Uid;

/// How a data set is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    ImplicitLittleEndian,
    ExplicitLittleEndian,
}

impl Encoding {
    /// The encoding of a transfer syntax, if it is one of the two.
    pub fn of(transfer_syntax: &Uid) -> Option<Self> {
        match transfer_syntax.as_str() {
            "1.2.840.10008.1.2" => Some(Self::ImplicitLittleEndian),
            "1.2.840.10008.1.2.1" => Some(Self::ExplicitLittleEndian),
            _ => None,
        }
    }
}

/// What a data set may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub bytes_max: usize,
    /// Elements and items together, on all levels.
    pub elements_max: usize,
    /// Sequences within sequences.
    pub depth_max: usize,
}

/// Why bytes are not a data set, or not one that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataSetError {
    #[error("the data set has more than {0} bytes")]
    TooLong(usize),
    #[error("the data set has more than {0} elements")]
    TooMany(usize),
    #[error("sequences are nested deeper than {0}")]
    TooDeep(usize),
    #[error("the data set ends within an element")]
    Truncated,
    #[error("({group:04X},{element:04X}) claims more bytes than there are")]
    TooShort { group: u16, element: u16 },
    #[error("({group:04X},{element:04X}) stands twice")]
    Repeated { group: u16, element: u16 },
    #[error("({group:04X},{element:04X}) does not belong here")]
    Misplaced { group: u16, element: u16 },
    #[error("({group:04X},{element:04X}) has no value representation")]
    NoVr { group: u16, element: u16 },
    #[error("({group:04X},{element:04X}) has no length")]
    NoLength { group: u16, element: u16 },
}

/// `group << 16 | element`.
pub type Tag = u32;

/// Elements by tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataSet {
    elements: BTreeMap<Tag, Element>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// As written; `UN` where an implicit encoding does not say and the node does not need to know.
    pub vr: [u8; 2],
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Bytes(Vec<u8>),
    Items(Vec<DataSet>),
}

const ITEM: Tag = 0xFFFE_E000;
const ITEM_END: Tag = 0xFFFE_E00D;
const SEQUENCE_END: Tag = 0xFFFE_E0DD;
const UNDEFINED: u32 = 0xFFFF_FFFF;

/// Sequences that an implicit encoding with defined lengths does not show as such, and that are read here.
const SEQUENCES: [Tag; 2] = [0x0008_1198, 0x0008_1199];

/// Value representations with a length of 32 bits (PS3.5 7.1.2).
const LONG: [&[u8; 2]; 13] =
    [b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"];

impl DataSet {
    /// Parses a whole data set.
    ///
    /// # Errors
    /// The first fault, which names the element but never its value.
    pub fn parse(bytes: &[u8], encoding: Encoding, bounds: Bounds) -> Result<Self, DataSetError> {
        Self::parse_until(bytes, encoding, bounds, None)
    }

    /// As [`DataSet::parse`], up to the first element on the top level with this tag or a higher one.
    pub(super) fn parse_until(
        bytes: &[u8],
        encoding: Encoding,
        bounds: Bounds,
        until: Option<Tag>,
    ) -> Result<Self, DataSetError> {
        if bytes.len() > bounds.bytes_max {
            return Err(DataSetError::TooLong(bounds.bytes_max));
        }
        Reader { rest: bytes, encoding, bounds, until, elements: 0 }.data_set(0, None)
    }

    /// Encodes the elements in ascending order; sequences and items with their lengths.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, element) in &self.elements {
            push(&mut out, *tag, element, encoding);
        }
        out
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Tag, &Element)> {
        self.elements.iter().map(|(tag, element)| (*tag, element))
    }

    /// The bytes of a value as they came, padding included.
    pub fn bytes(&self, tag: Tag) -> Option<&[u8]> {
        match &self.elements.get(&tag)?.value {
            Value::Bytes(bytes) => Some(bytes),
            Value::Items(_) => None,
        }
    }

    /// A value in ASCII without its padding; `None` where it is absent, empty or not ASCII.
    pub fn text(&self, tag: Tag) -> Option<&str> {
        let text = std::str::from_utf8(self.bytes(tag)?).ok().filter(|text| text.is_ascii())?;
        Some(text.trim_matches(['\0', ' '])).filter(|text| !text.is_empty())
    }

    pub fn uid(&self, tag: Tag) -> Option<Uid> {
        Uid::parse(self.text(tag)?).ok()
    }

    pub(super) fn get(&self, tag: Tag) -> Option<&Element> {
        self.elements.get(&tag)
    }

    pub fn items(&self, tag: Tag) -> Option<&[DataSet]> {
        match &self.elements.get(&tag)?.value {
            Value::Items(items) => Some(items),
            Value::Bytes(_) => None,
        }
    }

    /// Puts a value in; one of odd length is padded: UIDs and bytes with NUL, text with a space (PS3.5 6.2).
    pub fn put(&mut self, tag: Tag, vr: &[u8; 2], value: impl Into<Vec<u8>>) {
        let mut value = value.into();
        if value.len() % 2 == 1 {
            value.push(if matches!(vr, b"UI" | b"OB" | b"UN") { 0 } else { b' ' });
        }
        self.elements.insert(tag, Element { vr: *vr, value: Value::Bytes(value) });
    }

    /// Drops the elements on the top level that are not wanted.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(Tag) -> bool) {
        self.elements.retain(|tag, _| is_wanted(*tag));
    }

    pub fn put_items(&mut self, tag: Tag, items: Vec<DataSet>) {
        self.elements.insert(tag, Element { vr: *b"SQ", value: Value::Items(items) });
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    encoding: Encoding,
    bounds: Bounds,
    until: Option<Tag>,
    elements: usize,
}

/// Group and element, for faults.
fn parts(tag: Tag) -> (u16, u16) {
    ((tag >> 16) as u16, (tag & 0xFFFF) as u16)
}

impl<'a> Reader<'a> {
    /// Elements up to the end of the bytes, or up to `end`.
    fn data_set(&mut self, depth: usize, end: Option<Tag>) -> Result<DataSet, DataSetError> {
        let mut elements = BTreeMap::new();
        while !self.rest.is_empty() {
            let tag = self.tag()?;
            if Some(tag) == end {
                self.u32()?;
                return Ok(DataSet { elements });
            }
            if depth == 0 && self.until.is_some_and(|until| tag >= until) {
                return Ok(DataSet { elements });
            }
            let (group, element) = parts(tag);
            // Command sets, file meta information and delimiters that end nothing.
            if group < 0x0008 || group == 0xFFFE {
                return Err(DataSetError::Misplaced { group, element });
            }
            self.count()?;
            let value = self.element(tag, depth)?;
            if elements.insert(tag, value).is_some() {
                return Err(DataSetError::Repeated { group, element });
            }
        }
        if end.is_some() { Err(DataSetError::Truncated) } else { Ok(DataSet { elements }) }
    }

    fn element(&mut self, tag: Tag, depth: usize) -> Result<Element, DataSetError> {
        let (group, element) = parts(tag);
        let (vr, length) = match self.encoding {
            Encoding::ImplicitLittleEndian => (None, self.u32()?),
            Encoding::ExplicitLittleEndian => {
                let vr: [u8; 2] = self.take(2)?.try_into().map_err(|_| DataSetError::Truncated)?;
                if !vr.iter().all(u8::is_ascii_uppercase) {
                    return Err(DataSetError::NoVr { group, element });
                }
                let length = match LONG.contains(&&vr) {
                    true => {
                        self.take(2)?;
                        self.u32()?
                    }
                    false => u32::from(self.u16()?),
                };
                (Some(vr), length)
            }
        };
        let is_sequence = match vr {
            Some(vr) => vr == *b"SQ",
            None => length == UNDEFINED || SEQUENCES.contains(&tag),
        };
        if is_sequence {
            return self.items(tag, length, depth, self.encoding);
        }
        // A sequence that somebody on the way did not know, in implicit encoding (PS3.5 6.2.2, note).
        if vr == Some(*b"UN") && length == UNDEFINED {
            return self.items(tag, length, depth, Encoding::ImplicitLittleEndian);
        }
        if length == UNDEFINED {
            return Err(DataSetError::NoLength { group, element });
        }
        let bytes = self.take(length as usize).map_err(|_| DataSetError::TooShort { group, element })?;
        Ok(Element { vr: vr.unwrap_or(*b"UN"), value: Value::Bytes(bytes.to_vec()) })
    }

    /// The items of a sequence, in an encoding that may differ from that around it.
    fn items(&mut self, tag: Tag, length: u32, depth: usize, encoding: Encoding) -> Result<Element, DataSetError> {
        let (group, element) = parts(tag);
        if depth >= self.bounds.depth_max {
            return Err(DataSetError::TooDeep(self.bounds.depth_max));
        }
        let outer_encoding = std::mem::replace(&mut self.encoding, encoding);
        let mut items = Vec::new();
        if length == UNDEFINED {
            loop {
                let tag = self.tag()?;
                if tag == SEQUENCE_END {
                    self.u32()?;
                    break;
                }
                items.push(self.item(tag, depth)?);
            }
        } else {
            let inside = self.take(length as usize).map_err(|_| DataSetError::TooShort { group, element })?;
            let after = std::mem::replace(&mut self.rest, inside);
            while !self.rest.is_empty() {
                let tag = self.tag()?;
                items.push(self.item(tag, depth)?);
            }
            self.rest = after;
        }
        self.encoding = outer_encoding;
        Ok(Element { vr: *b"SQ", value: Value::Items(items) })
    }

    fn item(&mut self, tag: Tag, depth: usize) -> Result<DataSet, DataSetError> {
        let (group, element) = parts(tag);
        if tag != ITEM {
            return Err(DataSetError::Misplaced { group, element });
        }
        self.count()?;
        match self.u32()? {
            UNDEFINED => self.data_set(depth + 1, Some(ITEM_END)),
            length => {
                let inside = self.take(length as usize).map_err(|_| DataSetError::TooShort { group, element })?;
                let after = std::mem::replace(&mut self.rest, inside);
                let item = self.data_set(depth + 1, None)?;
                self.rest = after;
                Ok(item)
            }
        }
    }

    fn count(&mut self) -> Result<(), DataSetError> {
        self.elements += 1;
        if self.elements > self.bounds.elements_max {
            return Err(DataSetError::TooMany(self.bounds.elements_max));
        }
        Ok(())
    }

    fn tag(&mut self) -> Result<Tag, DataSetError> {
        let group = self.u16()?;
        Ok(u32::from(group) << 16 | u32::from(self.u16()?))
    }

    fn u16(&mut self) -> Result<u16, DataSetError> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, DataSetError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DataSetError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DataSetError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn push(out: &mut Vec<u8>, tag: Tag, element: &Element, encoding: Encoding) {
    push_tag(out, tag);
    let body = match &element.value {
        Value::Bytes(bytes) => bytes.clone(),
        Value::Items(items) => items.iter().fold(Vec::new(), |mut body, item| {
            let inside = item.encode(encoding);
            push_tag(&mut body, ITEM);
            body.extend_from_slice(&length_of(&inside).to_le_bytes());
            body.extend_from_slice(&inside);
            body
        }),
    };
    let length = length_of(&body);
    match (encoding, u16::try_from(length)) {
        (Encoding::ImplicitLittleEndian, _) => out.extend_from_slice(&length.to_le_bytes()),
        (Encoding::ExplicitLittleEndian, Ok(short)) if !LONG.contains(&&element.vr) => {
            out.extend_from_slice(&element.vr);
            out.extend_from_slice(&short.to_le_bytes());
        }
        (Encoding::ExplicitLittleEndian, _) => {
            // A value that is too long for its value representation goes as UN (PS3.5 6.2.2).
            let vr = if LONG.contains(&&element.vr) { &element.vr } else { b"UN" };
            out.extend_from_slice(vr);
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&length.to_le_bytes());
        }
    }
    out.extend_from_slice(&body);
}

fn push_tag(out: &mut Vec<u8>, tag: Tag) {
    let (group, element) = parts(tag);
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&element.to_le_bytes());
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("data sets here are bounded far below 4 GiB")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "dataset_tests.rs"]
mod tests;
