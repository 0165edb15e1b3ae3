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

    pub fn apply(&self, value: f64) -> f64 {
        let last = self.entries.len() - 1;
        let index = (value.round() - f64::from(self.first)).clamp(0.0, last as f64);
        f64::from(self.entries[index as usize])
    }

    /// The largest output that the bits of an entry allow.
    pub fn max(&self) -> f64 {
        f64::from(self.bits).exp2() - 1.0
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
    fn holds_its_ends_beyond_both_sides() {
        let lut = Lut { first: -1, entries: vec![5, 6, 7], bits: 8 };
        for (value, expected) in [(-9.0, 5.0), (-1.0, 5.0), (0.4, 6.0), (1.0, 7.0), (9e9, 7.0)] {
            assert_eq!(lut.apply(value), expected, "{value}");
        }
    }
}
