//! Builds small DICOM objects byte by byte, sound and broken.

use std::io::Cursor;

use super::super::dataset::Scan;
use super::super::decode::{Decoder, Frame};
use super::super::{Limits, prescan};
use crate::domain::Refusal;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Implicit,
    Explicit,
    Big,
}

pub const IMPLICIT: &str = "1.2.840.10008.1.2";
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub const BIG: &str = "1.2.840.10008.1.2.2";

/// A data set under construction; elements are written in the order of the calls.
#[derive(Clone)]
pub struct Object {
    pub encoding: Encoding,
    pub bytes: Vec<u8>,
}

impl Object {
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, bytes: Vec::new() }
    }

    pub fn u16(&self, value: u16) -> [u8; 2] {
        if self.encoding == Encoding::Big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub fn u32(&self, value: u32) -> [u8; 4] {
        if self.encoding == Encoding::Big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    /// Tag, VR and length only.
    pub fn head(mut self, tag: u32, vr: &str, length: u32) -> Self {
        self.bytes.extend(self.u16((tag >> 16) as u16));
        self.bytes.extend(self.u16(tag as u16));
        if self.encoding == Encoding::Implicit || vr.is_empty() {
            self.bytes.extend(self.u32(length));
            return self;
        }
        self.bytes.extend_from_slice(vr.as_bytes());
        if matches!(vr, "OB" | "OW" | "OF" | "OD" | "OV" | "SQ" | "UN" | "UT") {
            self.bytes.extend([0, 0]);
            self.bytes.extend(self.u32(length));
        } else {
            self.bytes.extend(self.u16(length as u16));
        }
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn element(self, tag: u32, vr: &str, value: &[u8]) -> Self {
        self.head(tag, vr, value.len() as u32).raw(value)
    }

    pub fn text(self, tag: u32, vr: &str, value: &str) -> Self {
        let pad = if vr == "UI" { "\0" } else { " " };
        let padded = if value.len() % 2 == 1 { format!("{value}{pad}") } else { value.to_owned() };
        self.element(tag, vr, padded.as_bytes())
    }

    pub fn us(self, tag: u32, value: u16) -> Self {
        let bytes = self.u16(value);
        self.element(tag, "US", &bytes)
    }

    /// A sequence of defined length with one item of defined length.
    /// A sequence of several items.
    pub fn items(self, tag: u32, items: Vec<Object>) -> Self {
        let opened = self.head(tag, "SQ", u32::MAX);
        let filled = items
            .iter()
            .fold(opened, |object, item| object.head(0xFFFE_E000, "", item.bytes.len() as u32).raw(&item.bytes));
        filled.head(0xFFFE_E0DD, "", 0)
    }

    pub fn sequence(self, tag: u32, item: Object) -> Self {
        let length = item.bytes.len() as u32;
        self.head(tag, "SQ", length + 8).head(0xFFFE_E000, "", length).raw(&item.bytes)
    }

    /// Preamble, meta information with this transfer syntax, and the data set.
    pub fn file(self, transfer_syntax: &str) -> Vec<u8> {
        let meta = Object::new(Encoding::Explicit).text(0x0002_0010, "UI", transfer_syntax);
        let group =
            Object::new(Encoding::Explicit).element(0x0002_0000, "UL", &(meta.bytes.len() as u32).to_le_bytes());
        [&[0; 128], b"DICM".as_slice(), &group.bytes, &meta.bytes, &self.bytes].concat()
    }
}

/// The attributes of an image up to the pixel data.
#[derive(Clone)]
pub struct Image {
    pub rows: u16,
    pub columns: u16,
    pub frames: Option<&'static str>,
    pub samples: u16,
    pub photometric: &'static str,
    pub planar: Option<u16>,
    pub allocated: u16,
    pub stored: u16,
    pub high: u16,
    pub signed: u16,
}

impl Default for Image {
    /// 2 × 3 pixels, 16 bits allocated, 12 stored.
    fn default() -> Self {
        let (frames, photometric, planar) = (None, "MONOCHROME2", None);
        Self {
            rows: 2,
            columns: 3,
            frames,
            samples: 1,
            photometric,
            planar,
            allocated: 16,
            stored: 12,
            high: 11,
            signed: 0,
        }
    }
}

impl Image {
    pub fn object(&self, encoding: Encoding) -> Object {
        let mut object = Object::new(encoding)
            .text(0x0008_0016, "UI", "1.2.840.10008.5.1.4.1.1.1.1")
            .text(0x0008_0018, "UI", "1.2.3.4")
            .text(0x0008_0060, "CS", "DX")
            .text(0x0010_0010, "PN", "A^B")
            .text(0x0020_000D, "UI", "1.2.3")
            .text(0x0020_000E, "UI", "1.2.3.5")
            .us(0x0028_0002, self.samples)
            .text(0x0028_0004, "CS", self.photometric);
        if let Some(planar) = self.planar {
            object = object.us(0x0028_0006, planar);
        }
        if let Some(frames) = self.frames {
            object = object.text(0x0028_0008, "IS", frames);
        }
        object
            .us(0x0028_0010, self.rows)
            .us(0x0028_0011, self.columns)
            .us(0x0028_0100, self.allocated)
            .us(0x0028_0101, self.stored)
            .us(0x0028_0102, self.high)
            .us(0x0028_0103, self.signed)
    }

    /// A file in Explicit VR Little Endian with these pixel bytes.
    pub fn file(&self, pixels: &[u8]) -> Vec<u8> {
        self.object(Encoding::Explicit).element(0x7FE0_0010, "OW", pixels).file(EXPLICIT)
    }
}

pub fn words(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn scan(bytes: Vec<u8>) -> Result<Scan, Refusal> {
    prescan::scan(Box::new(Cursor::new(bytes)), &limits())
}

pub fn decode(bytes: Vec<u8>, index: u32) -> Result<Frame, Refusal> {
    Decoder::new(scan(bytes)?, &limits())?.frame(index)
}

fn limits() -> Limits {
    Limits { samples_max: 1 << 24, inflate_bytes_max: 1 << 20, ..Limits::default() }
}
