//! Look-up tables of the Standard: modality, VOI (PS3.3 C.11.1, C.11.2) and palette colour (C.7.6.3.1.5).

use super::dataset::{Element, Item, Tag, Value, tag_text};
use crate::domain::{Refusal, RefusalCode};

/// A table that gives its first entry to everything at or below `first`, its last to everything beyond its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Lut {
    pub first: i32,
    /// 1 to 65536 entries.
    pub entries: Vec<u16>,
    /// Bits of an entry, 8 to 16: the output range is 0 to 2^bits − 1.
    pub bits: u16,
}

impl Lut {
    /// Reads descriptor and data. `signed`: whether the input of the table is signed where its VR does not say.
    pub fn read(item: &Item, descriptor: Tag, data: Tag, signed: bool) -> Result<Self, Refusal> {
        let fail = |what: &str| {
            let detail = format!("look-up table {}: {what}", tag_text(descriptor));
            Err(Refusal::new(RefusalCode::Inconsistent, detail))
        };
        let (Some(element), Some(data)) = (item.get(descriptor), item.bytes(data)) else {
            return fail("descriptor or data missing");
        };
        let Some([count, first, bits]) = three_words(element) else {
            return fail("the descriptor has not three values");
        };
        let count = if count == 0 { 65_536 } else { usize::from(count) };
        let signed = match &element.vr {
            b"SS" => true,
            b"US" => false,
            _ => signed,
        };
        let first = if signed { i32::from(first as i16) } else { i32::from(first) };
        if !(8..=16).contains(&bits) {
            return fail("entries have other than 8 to 16 bits");
        }
        let entries: Vec<u16> = if data.len() >= 2 * count {
            data.as_chunks::<2>().0.iter().take(count).map(|b| u16::from_le_bytes(*b)).collect()
        } else if data.len() >= count && bits == 8 {
            data.iter().take(count).map(|b| u16::from(*b)).collect()
        } else {
            return fail("the data has fewer entries than the descriptor says");
        };
        if entries.iter().any(|e| u32::from(*e) >> bits != 0) {
            return fail("an entry has more bits than the descriptor says");
        }
        Ok(Self { first, entries, bits })
    }

    /// Reads descriptor and segmented data (PS3.3 C.7.9.2), which palette colours may have.
    pub fn read_segmented(item: &Item, descriptor: Tag, data: Tag) -> Result<Self, Refusal> {
        let fail = |what: &str| {
            let detail = format!("segmented look-up table {}: {what}", tag_text(data));
            Refusal::new(RefusalCode::Inconsistent, detail)
        };
        let (Some(element), Some(bytes)) = (item.get(descriptor), item.bytes(data)) else {
            return Err(fail("descriptor or data missing"));
        };
        let Some([count, first, bits]) = three_words(element) else {
            return Err(fail("the descriptor has not three values"));
        };
        let count = if count == 0 { 65_536 } else { usize::from(count) };
        let first = if element.vr == *b"SS" { i32::from(first as i16) } else { i32::from(first) };
        let segments: Vec<u16> = match bits {
            8 => bytes.iter().map(|b| u16::from(*b)).collect(),
            16 => bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect(),
            _ => return Err(fail("entries have other than 8 or 16 bits")),
        };
        let mut entries = Vec::with_capacity(count);
        expand(&segments, bits == 8, count, &mut entries).map_err(fail)?;
        if entries.len() != count {
            return Err(fail("the segments make another number of entries than the descriptor says"));
        }
        Ok(Self { first, entries, bits })
    }

    /// The entry nearest to the value; of two, the even one, as numpy rounds: the Standard does not say.
    pub fn apply(&self, value: f64) -> f64 {
        let last = self.entries.len() - 1;
        let index = (value.round_ties_even() - f64::from(self.first)).clamp(0.0, last as f64);
        f64::from(self.entries[index as usize])
    }

    /// The largest output that the bits of an entry allow.
    pub fn max(&self) -> f64 {
        f64::from(self.bits).exp2() - 1.0
    }
}

/// Expands discrete (0), linear (1) and indirect (2) segments until the data ends or there are `count` entries.
fn expand(data: &[u16], of_bytes: bool, count: usize, entries: &mut Vec<u16>) -> Result<(), &'static str> {
    let mut at = 0;
    while at + 1 < data.len() && entries.len() < count {
        if data[at] != 2 {
            at = segment(data, at, count, entries)?;
            continue;
        }
        let offset = data.get(at + 2..at + if of_bytes { 6 } else { 4 }).ok_or(BREAKS_OFF)?;
        let bits = if of_bytes { 8 } else { 16 };
        let offset = offset.iter().rev().fold(0usize, |sum, part| sum << bits | usize::from(*part));
        if !of_bytes && offset % 2 == 1 {
            return Err("an indirect segment points between two entries");
        }
        let mut copied = if of_bytes { offset } else { offset / 2 };
        for _ in 0..data[at + 1] {
            // only what was read before may be repeated, and no indirect segment within (PS3.3 C.7.9.2.3)
            if copied >= at || data[copied] == 2 {
                return Err("an indirect segment points to none that was read");
            }
            copied = segment(data, copied, count, entries)?;
        }
        at += if of_bytes { 6 } else { 4 };
    }
    Ok(())
}

const BREAKS_OFF: &str = "a segment breaks off";

/// Expands the discrete or linear segment at `at`; returns where the next one starts.
fn segment(data: &[u16], at: usize, count: usize, entries: &mut Vec<u16>) -> Result<usize, &'static str> {
    let (Some(opcode), Some(length)) = (data.get(at), data.get(at + 1)) else { return Err(BREAKS_OFF) };
    let length = usize::from(*length);
    // a segment of nothing could be repeated without end
    if length == 0 || entries.len() + length > count {
        return Err("a segment is empty, or longer than the descriptor says");
    }
    match opcode {
        0 => {
            entries.extend_from_slice(data.get(at + 2..at + 2 + length).ok_or(BREAKS_OFF)?);
            Ok(at + 2 + length)
        }
        1 => {
            let from = f64::from(*entries.last().ok_or("the first segment is linear: it has no start")?);
            let to = f64::from(*data.get(at + 2).ok_or(BREAKS_OFF)?);
            let step = (to - from) / length as f64;
            entries.extend((1..=length).map(|i| (from + step * i as f64).round_ties_even() as u16));
            Ok(at + 3)
        }
        _ => Err("a segment is neither discrete nor linear nor indirect"),
    }
}

fn three_words(element: &Element) -> Option<[u16; 3]> {
    let Value::Bytes(bytes) = &element.value else { return None };
    let words = bytes.first_chunk::<6>()?;
    Some([0, 2, 4].map(|i| u16::from_le_bytes([words[i], words[i + 1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(vr: &[u8; 2], descriptor: [u16; 3], data: Vec<u8>) -> Item {
        let words = descriptor.iter().flat_map(|w| w.to_le_bytes()).collect();
        let element = |vr, bytes| Element { vr, value: Value::Bytes(bytes) };
        Item([(0x0028_3002, element(*vr, words)), (0x0028_3006, element(*b"OW", data))].into())
    }

    #[test]
    fn reads_packed_and_word_data_and_refuses_what_does_not_fit() {
        let rows = [
            (b"US", [4, 0xFFFF, 8], 4, false, Some((65_535, 4))),
            (b"SS", [4, 0xFFFF, 16], 8, false, Some((-1, 4))),
            (b"XS", [4, 0xFFFF, 12], 8, true, Some((-1, 4))),
            (b"US", [0, 0, 16], 131_072, false, Some((0, 65_536))),
            (b"US", [4, 0, 16], 7, false, None),
            (b"US", [4, 0, 12], 4, false, None),
            (b"US", [4, 0, 17], 8, false, None),
            (b"US", [4, 0, 0], 8, false, None),
        ];
        for (vr, descriptor, bytes, signed, expected) in rows {
            let got = Lut::read(&item(vr, descriptor, vec![0; bytes]), 0x0028_3002, 0x0028_3006, signed);
            assert_eq!(got.ok().map(|l| (l.first, l.entries.len())), expected, "{descriptor:?}");
        }
        assert!(Lut::read(&item(b"US", [2, 0, 8], vec![0, 1, 0, 0]), 0x0028_3002, 0x0028_3006, false).is_err());
    }

    #[test]
    fn segments_are_expanded_and_what_they_cannot_mean_is_refused() {
        let words = |w: &[u16]| w.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let indirect = [0, 2, 5, 7, 1, 3, 10, 2, 2, 0, 0];
        let rows: Vec<(u16, u16, Vec<u8>, Option<Vec<u16>>)> = vec![
            (3, 16, words(&[0, 3, 7, 8, 9]), Some(vec![7, 8, 9])),
            (5, 16, words(&[0, 1, 100, 1, 4, 200]), Some(vec![100, 125, 150, 175, 200])),
            (4, 8, vec![0, 1, 200, 1, 3, 50], Some(vec![200, 150, 100, 50])),
            // the two segments before, once more: the linear one now starts at the last entry
            (10, 16, words(&indirect), Some(vec![5, 7, 8, 9, 10, 5, 7, 8, 9, 10])),
            (6, 8, vec![0, 2, 1, 2, 0, 1, 3, 2, 1, 4, 0, 0, 0, 0, 2, 5, 5], Some(vec![1, 2, 3, 3, 5, 5])),
            (6, 8, vec![0, 2, 1, 2, 0, 2, 3, 4, 2, 1, 4, 0, 0, 0], Some(vec![1, 2, 3, 4, 3, 4])),
            (4, 16, words(&[1, 4, 9]), None),
            (4, 16, words(&[0, 3, 7, 8, 9]), None),
            (2, 16, words(&[0, 3, 7, 8, 9]), None),
            (4, 16, words(&[0, 4, 7, 8]), None),
            (4, 16, words(&[3, 4, 7, 8, 9, 9]), None),
            (4, 16, words(&[0, 2, 5, 7, 2, 1, 8, 0]), None),
            (4, 16, words(&[0, 0, 2, 0xFFFF, 0, 0]), None),
            (4, 12, words(&[0, 4, 1, 2, 3, 4]), None),
        ];
        for (count, bits, data, expected) in rows {
            let got = Lut::read_segmented(&item(b"US", [count, 0, bits], data.clone()), 0x0028_3002, 0x0028_3006);
            assert_eq!(got.ok().map(|l| l.entries), expected, "{data:?}");
        }
    }

    #[test]
    fn holds_its_ends_beyond_both_sides() {
        let lut = Lut { first: -1, entries: vec![5, 6, 7], bits: 8 };
        for (value, expected) in [(-9.0, 5.0), (-1.0, 5.0), (0.4, 6.0), (0.5, 6.0), (-0.5, 6.0), (1.0, 7.0), (9e9, 7.0)]
        {
            assert_eq!(lut.apply(value), expected, "{value}");
        }
    }
}
