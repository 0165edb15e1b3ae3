//! The pre-scan: walks the bytes of an untrusted object once, believes no length, and keeps what is wanted.
//!
//! Reads files with or without preamble and file meta information (PS3.10 7.1), Implicit and Explicit VR Little
//! Endian, Explicit VR Big Endian and Deflated (PS3.5 A.1, A.2, A.3, A.5), sequences and encapsulated fragments of
//! defined and undefined length (PS3.5 7.5, A.4), UN of undefined length (PS3.5 6.2.2 note 4). Limits: nesting,
//! every length against the bytes that remain, number of elements, bytes kept, bytes inflated. Pixel data is not read.
//! Neighbours: `wanted` says what is kept, `dataset` holds it. Left out: what the values mean (`header`, `layout`).

use std::io::{BufReader, Read, Seek, SeekFrom};

use super::Limits;
use super::dataset::{Element, Item, Scan, Source, Span, Tag, Value, dictionary_vr, swap_bytes, tag_text};
use super::inflate::inflated;
use super::wanted::Keep;
use crate::domain::{Refusal, RefusalCode};

/// Sequences within sequences.
const NESTING_MAX: u32 = 64;
/// Elements of the whole object, kept or not.
const ELEMENTS_MAX: u64 = 5_000_000;
/// Bytes of one kept value besides pixel data: the largest look-up table has 131,072.
const VALUE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of all kept values.
const KEPT_BYTES_MAX: u64 = 64 << 20;
/// Zero bytes behind the pixel data, which some archives fill up blocks with.
const PADDING_BYTES_MAX: u64 = 1 << 16;
/// Items and fragments that are kept.
const KEPT_ITEMS_MAX: u64 = 2_000_000;

const FLOAT_PIXEL_DATA: Tag = 0x7FE0_0008;
const PIXEL_DATA: Tag = 0x7FE0_0010;
const ITEM: Tag = 0xFFFE_E000;
const ITEM_END: Tag = 0xFFFE_E00D;
const SEQUENCE_END: Tag = 0xFFFE_E0DD;
const UNDEFINED: u32 = 0xFFFF_FFFF;

const IMPLICIT_LE: &str = "1.2.840.10008.1.2";
const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";
const EXPLICIT_BE: &str = "1.2.840.10008.1.2.2";
const DEFLATED_LE: &str = "1.2.840.10008.1.2.1.99";

/// Walks the whole object. `Malformed` and `TooLarge` refusals name the element and where it starts.
pub fn scan(source: Box<dyn Source>, limits: &Limits) -> Result<Scan, Refusal> {
    scan_keeping(source, limits, Keep::Root)
}

/// The same, with what the content of a report is made of in place of pixels.
pub fn scan_report(source: Box<dyn Source>, limits: &Limits) -> Result<Scan, Refusal> {
    scan_keeping(source, limits, Keep::Report)
}

/// The same, with what a Segmentation is made of.
pub fn scan_segmentation(source: Box<dyn Source>, limits: &Limits) -> Result<Scan, Refusal> {
    scan_keeping(source, limits, Keep::Segmentation)
}

fn scan_keeping(source: Box<dyn Source>, limits: &Limits, keep: Keep) -> Result<Scan, Refusal> {
    let mut walker = Walker::new(source)?;
    let start = walker.find_start()?;
    walker.go_to(start.at)?;
    let mut meta = Meta::default();
    if start.has_meta {
        meta = walker.file_meta()?;
    }
    let transfer_syntax = match meta.transfer_syntax.take() {
        Some(uid) => uid,
        None => walker.guess_transfer_syntax()?.to_owned(),
    };
    if transfer_syntax == DEFLATED_LE {
        walker = Walker::new(inflated(walker.input.into_inner(), walker.at, limits.inflate_bytes_max)?)?;
    }
    let encoding = Encoding { explicit: transfer_syntax != IMPLICIT_LE, big: transfer_syntax == EXPLICIT_BE };
    let end = walker.end;
    let root = walker.data_set(encoding, end, false, 0, keep)?;
    Ok(Scan {
        transfer_syntax,
        media_sop_class: meta.sop_class,
        media_sop_instance: meta.sop_instance,
        big_endian: encoding.big,
        root,
        at: Some(walker.at),
        source: walker.input,
    })
}

#[derive(Debug, Clone, Copy)]
struct Encoding {
    explicit: bool,
    big: bool,
}

/// Of every UN value that is a sequence (PS3.5 6.2.2 note 4), whatever surrounds it.
const IMPLICIT: Encoding = Encoding { explicit: false, big: false };

#[derive(Default)]
struct Meta {
    transfer_syntax: Option<String>,
    sop_class: Option<String>,
    sop_instance: Option<String>,
}

struct Start {
    at: u64,
    has_meta: bool,
}

/// Tag, VR and length of an element, and where it starts.
struct Head {
    at: u64,
    tag: Tag,
    vr: [u8; 2],
    length: u32,
}

struct Walker {
    input: BufReader<Box<dyn Source>>,
    at: u64,
    end: u64,
    elements: u64,
    kept_bytes: u64,
    kept_items: u64,
}

fn malformed(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Malformed, detail)
}

fn too_large(detail: String) -> Refusal {
    Refusal::new(RefusalCode::TooLarge, detail)
}

impl Walker {
    fn new(mut source: Box<dyn Source>) -> Result<Self, Refusal> {
        let end = source.seek(SeekFrom::End(0)).map_err(|e| malformed(format!("the file has no length: {e}")))?;
        source.rewind().map_err(|e| malformed(format!("the file cannot be read: {e}")))?;
        let input = BufReader::with_capacity(1 << 16, source);
        Ok(Self { input, at: 0, end, elements: 0, kept_bytes: 0, kept_items: 0 })
    }

    /// Where the file meta information or, without one, the data set starts (PS3.10 7.1).
    fn find_start(&mut self) -> Result<Start, Refusal> {
        let mut head = [0; 132];
        let length = usize::try_from(self.end.min(132)).unwrap_or(132);
        self.read(&mut head[..length])?;
        if head[128..] == *b"DICM" {
            return Ok(Start { at: 132, has_meta: true });
        }
        match head[..4] {
            [2, 0, ..] if length >= 8 => Ok(Start { at: 0, has_meta: true }),
            [8, 0, _, 0] | [0, 8, 0, _] if length >= 8 => Ok(Start { at: 0, has_meta: false }),
            _ => Err(malformed("not a DICOM file: no DICM at byte 128 and no data set at byte 0".into())),
        }
    }

    /// Group 0002, always Explicit VR Little Endian. Values that are too long for their VR do no harm here.
    fn file_meta(&mut self) -> Result<Meta, Refusal> {
        let encoding = Encoding { explicit: true, big: false };
        let mut meta = Meta::default();
        let mut group_end = None;
        while self.at + 8 <= self.end && group_end != Some(self.at) {
            let start = self.at;
            let group = u16::from_le_bytes(self.array()?);
            self.go_to(start)?;
            if group != 2 {
                break;
            }
            let head = self.head(encoding)?;
            let length = self.defined_length(&head, self.end)?;
            let text = |bytes: Vec<u8>| {
                let text = String::from_utf8_lossy(&bytes).trim_matches([' ', '\0']).to_owned();
                (!text.is_empty()).then_some(text)
            };
            match head.tag {
                0x0002_0000 if length == 4 => {
                    group_end = Some(u64::from(u32::from_le_bytes(self.array()?)) + self.at);
                }
                0x0002_0002 if length <= 64 => meta.sop_class = text(self.bytes(length)?),
                0x0002_0003 if length <= 64 => meta.sop_instance = text(self.bytes(length)?),
                0x0002_0010 if length <= 64 => meta.transfer_syntax = text(self.bytes(length)?),
                _ => self.skip(length)?,
            }
        }
        Ok(meta)
    }

    /// What an uncompressed data set without meta information looks like, from its first element.
    fn guess_transfer_syntax(&mut self) -> Result<&'static str, Refusal> {
        let start = self.at;
        let head: [u8; 8] = self.array().map_err(|_| {
            malformed("no transfer syntax in the file meta information and no data set after it".into())
        })?;
        self.go_to(start)?;
        let explicit = head[4].is_ascii_uppercase() && head[5].is_ascii_uppercase();
        match (head[0], head[1], explicit) {
            (0, 1..=0x7F, true) => Ok(EXPLICIT_BE),
            (_, _, true) => Ok(EXPLICIT_LE),
            (8.., 0, false) => Ok(IMPLICIT_LE),
            _ => Err(malformed("no transfer syntax in the file meta information, and the data set shows none".into())),
        }
    }

    /// Elements up to `end`, or up to an Item Delimitation Item if `delimited`.
    fn data_set(
        &mut self,
        encoding: Encoding,
        end: u64,
        delimited: bool,
        depth: u32,
        keep: Keep,
    ) -> Result<Item, Refusal> {
        let mut item = Item::default();
        let mut last = 0;
        loop {
            if self.at == end && !delimited {
                return Ok(item);
            }
            if depth == 0 && last >= FLOAT_PIXEL_DATA && self.is_padding(end)? {
                return Ok(item);
            }
            if end.saturating_sub(self.at) < 8 {
                return Err(malformed(format!("the data set breaks off at byte {}", self.at)));
            }
            let head = self.head(encoding)?;
            last = head.tag;
            if head.tag == ITEM_END && delimited {
                return Ok(item);
            }
            if head.tag >> 16 == 0xFFFE {
                return Err(malformed(format!("{} at byte {} does not belong there", tag_text(head.tag), head.at)));
            }
            let inner = keep.of(head.tag);
            let value = self.value(&head, encoding, end, depth, inner)?;
            if inner.is_some() {
                let vr = if head.vr == *b"UN" { dictionary_vr(head.tag) } else { head.vr };
                if item.0.insert(head.tag, Element { vr, value }).is_some() {
                    return Err(malformed(format!("{} appears twice, again at byte {}", tag_text(head.tag), head.at)));
                }
            }
        }
    }

    /// Whether nothing but zeros is left, and not many; the walk has then reached the end. No element starts with
    /// zeros.
    fn is_padding(&mut self, end: u64) -> Result<bool, Refusal> {
        let (start, rest) = (self.at, end - self.at);
        let first = self.bytes(rest.min(4))?;
        let zeros = first.iter().all(|b| *b == 0);
        if zeros && rest <= PADDING_BYTES_MAX {
            let others = self.bytes(end - self.at)?;
            return match others.iter().all(|b| *b == 0) {
                true => Ok(true),
                false => Err(malformed(format!("zeros at byte {start} in place of an element"))),
            };
        }
        self.go_to(start)?;
        Ok(false)
    }

    /// The value of the element, walked to its end; an empty one where `keep` is none.
    fn value(
        &mut self,
        head: &Head,
        encoding: Encoding,
        end: u64,
        depth: u32,
        keep: Option<Keep>,
    ) -> Result<Value, Refusal> {
        let inner = keep.unwrap_or(Keep::Nothing);
        if head.length == UNDEFINED {
            return match &head.vr {
                _ if head.tag == PIXEL_DATA => self.fragments(head, encoding, end, keep.is_some()),
                b"SQ" => self.sequence(head, encoding, end, true, depth, inner),
                b"UN" => self.sequence(head, IMPLICIT, end, true, depth, inner),
                _ => Err(malformed(format!("{} at byte {} has no length", tag_text(head.tag), head.at))),
            };
        }
        let length = self.defined_length(head, end)?;
        let value_end = self.at + length;
        // whatever private sequences hold is not looked at
        if keep.is_none() {
            self.skip(length)?;
            return Ok(Value::Bytes(Vec::new()));
        }
        if head.vr == *b"SQ" {
            return self.sequence(head, encoding, value_end, false, depth, inner);
        }
        if head.vr == *b"UN" && dictionary_vr(head.tag) == *b"SQ" {
            return self.sequence(head, IMPLICIT, value_end, false, depth, inner);
        }
        if matches!(head.tag, 0x7FE0_0008..=PIXEL_DATA) {
            let span = Span { offset: self.at, bytes: length };
            self.skip(length)?;
            return Ok(Value::Native(span));
        }
        self.kept_bytes += length;
        if length > VALUE_BYTES_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            return Err(too_large(format!("{} at byte {} has {length} bytes", tag_text(head.tag), head.at)));
        }
        let mut bytes = self.bytes(length)?;
        if encoding.big {
            swap_bytes(&mut bytes, &head.vr);
        }
        Ok(Value::Bytes(bytes))
    }

    /// Items up to `end`, or up to a Sequence Delimitation Item if `delimited` (PS3.5 7.5).
    fn sequence(
        &mut self,
        head: &Head,
        encoding: Encoding,
        end: u64,
        delimited: bool,
        depth: u32,
        keep: Keep,
    ) -> Result<Value, Refusal> {
        let name = || format!("sequence {} at byte {}", tag_text(head.tag), head.at);
        if depth >= NESTING_MAX {
            return Err(malformed(format!("{} lies deeper than {NESTING_MAX} sequences", name())));
        }
        let mut items = Vec::new();
        loop {
            if self.at == end && !delimited {
                return Ok(Value::Items(items));
            }
            if end.saturating_sub(self.at) < 8 {
                return Err(malformed(format!("{} breaks off at byte {}", name(), self.at)));
            }
            let (tag, length) = self.delimiter(encoding)?;
            let item = match (tag, length) {
                (SEQUENCE_END, _) if delimited => return Ok(Value::Items(items)),
                (ITEM, UNDEFINED) => self.data_set(encoding, end, true, depth + 1, keep)?,
                (ITEM, _) if u64::from(length) <= end - self.at => {
                    let item_end = self.at + u64::from(length);
                    self.data_set(encoding, item_end, false, depth + 1, keep)?
                }
                (ITEM, _) => {
                    return Err(malformed(format!("an item of {} claims {length} bytes, more than remain", name())));
                }
                _ => return Err(malformed(format!("{} holds {} in place of an item", name(), tag_text(tag)))),
            };
            if keep != Keep::Nothing {
                self.count_kept_item(head)?;
                items.push(item);
            }
        }
    }

    /// Encapsulated pixel data (PS3.5 A.4).
    fn fragments(&mut self, head: &Head, encoding: Encoding, end: u64, keep: bool) -> Result<Value, Refusal> {
        let mut fragments = Vec::new();
        loop {
            if end.saturating_sub(self.at) < 8 {
                return Err(malformed(format!("the encapsulated pixel data breaks off at byte {}", self.at)));
            }
            let at = self.at;
            let (tag, length) = self.delimiter(encoding)?;
            match tag {
                SEQUENCE_END => return Ok(Value::Fragments(fragments)),
                ITEM if u64::from(length) <= end - self.at => {
                    if keep {
                        self.count_kept_item(head)?;
                        fragments.push(Span { offset: self.at, bytes: u64::from(length) });
                    }
                    self.skip(u64::from(length))?;
                }
                ITEM => {
                    let detail =
                        format!("the pixel data fragment at byte {at} claims {length} bytes, more than remain");
                    return Err(malformed(detail));
                }
                _ => return Err(malformed(format!("{} among pixel data fragments at byte {at}", tag_text(tag)))),
            }
        }
    }

    fn count_kept_item(&mut self, head: &Head) -> Result<(), Refusal> {
        self.kept_items += 1;
        if self.kept_items > KEPT_ITEMS_MAX {
            return Err(too_large(format!("{} has more than {KEPT_ITEMS_MAX} items", tag_text(head.tag))));
        }
        Ok(())
    }

    /// Tag, VR and length (PS3.5 7.1.2, 7.1.3).
    fn head(&mut self, encoding: Encoding) -> Result<Head, Refusal> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(too_large(format!("the object has more than {ELEMENTS_MAX} elements")));
        }
        let at = self.at;
        let group = self.u16(encoding)?;
        let tag = u32::from(group) << 16 | u32::from(self.u16(encoding)?);
        if group == 0xFFFE {
            return Ok(Head { at, tag, vr: *b"  ", length: self.u32(encoding)? });
        }
        if !encoding.explicit {
            let length = self.u32(encoding)?;
            let known = dictionary_vr(tag);
            let vr = if length == UNDEFINED && tag != PIXEL_DATA { *b"SQ" } else { known };
            return Ok(Head { at, tag, vr, length });
        }
        let vr: [u8; 2] = self.array()?;
        let length = match &vr {
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV" => {
                self.skip(2)?;
                self.u32(encoding)?
            }
            b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FD" | b"FL" | b"IS" | b"LO" | b"LT" | b"PN"
            | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL" | b"US" => u32::from(self.u16(encoding)?),
            _ => {
                let detail = format!("{} at byte {at} has no VR of the Standard", tag_text(tag));
                return Err(malformed(detail));
            }
        };
        Ok(Head { at, tag, vr, length })
    }

    fn defined_length(&self, head: &Head, end: u64) -> Result<u64, Refusal> {
        let remain = end.saturating_sub(self.at);
        if head.length == UNDEFINED || u64::from(head.length) > remain {
            let (tag, at, length) = (tag_text(head.tag), head.at, head.length);
            return Err(malformed(format!("{tag} at byte {at} claims {length} bytes, {remain} remain: truncated")));
        }
        Ok(u64::from(head.length))
    }

    /// Tag and length of an item, a fragment or a delimiter: without VR in every encoding.
    fn delimiter(&mut self, encoding: Encoding) -> Result<(Tag, u32), Refusal> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(too_large(format!("the object has more than {ELEMENTS_MAX} elements")));
        }
        let group = u32::from(self.u16(encoding)?);
        let tag = group << 16 | u32::from(self.u16(encoding)?);
        Ok((tag, self.u32(encoding)?))
    }

    fn u16(&mut self, encoding: Encoding) -> Result<u16, Refusal> {
        let bytes = self.array()?;
        Ok(if encoding.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self, encoding: Encoding) -> Result<u32, Refusal> {
        let bytes = self.array()?;
        Ok(if encoding.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// `length` was checked against the bytes that remain and against a limit.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Refusal> {
        self.input.read_exact(buffer).map_err(|_| malformed(format!("the file breaks off after byte {}", self.at)))?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<(), Refusal> {
        self.go_to(self.at.saturating_add(length))
    }

    fn go_to(&mut self, at: u64) -> Result<(), Refusal> {
        let fail = || malformed(format!("byte {at} cannot be reached"));
        let by = i64::try_from(at).ok().zip(i64::try_from(self.at).ok()).ok_or_else(fail)?;
        self.input.seek_relative(by.0 - by.1).map_err(|_| fail())?;
        self.at = at;
        Ok(())
    }
}
