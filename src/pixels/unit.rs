//! Grey values as 0..1, a row at a time: modality LUT, range policy, polarity.
//!
//! In the Standard's order (PS3.4 N.2): modality LUT, range policy (VOI, then a presentation table), MONOCHROME1
//! inverted last except in Hounsfield units. Padding and masked pixels are 0. What a stored value of 8 or 16 bits
//! becomes is computed once per value: the image is read for its extent and for its rows, and no copy of it is made.
//!
//! `StoredBits` maps the range that Bits Stored and Pixel Representation allow, carried through the modality LUT. A
//! linear rescale of positive slope therefore changes nothing, one of negative slope turns black into white, and a
//! Modality LUT Sequence is followed and its output bits are the range. For `xrv-1024` that is torchxrayvision's
//! (2x/max − 1)·1024 with max = 2^Bits Stored − 1 of unsigned images. Floating point has no stored bits: the
//! observed range stands in. An image of one single value has no observed range and takes the lowest value throughout
//! (the highest in MONOCHROME1). Neighbours: `grey` says what values mean, `normalise` asks for rows.

use std::cell::LazyCell;

use super::decode::Samples;
use super::grey::{Grey, Modality, Voi, VoiFunction};
use super::lut::Lut;
use crate::domain::ValueRange;

/// What each value of 8 or 16 bits becomes, by its bits as an unsigned number.
type Table = Box<[f32; 1 << 16]>;

/// See [`Samples::extent`]; looked for where it is asked for.
type Extent<'a> = LazyCell<Option<(f64, f64)>, Box<dyn FnOnce() -> Option<(f64, f64)> + 'a>>;

/// A frame as one contract sees it.
pub struct Unit<'a> {
    values: Values<'a>,
    meaning: Meaning<'a>,
    hidden: Option<Vec<bool>>,
}

enum Values<'a> {
    U8(&'a [u8], Table),
    U16(&'a [u16], Table),
    I16(&'a [i16], Table),
    Int(&'a [i32]),
    Wide(&'a [f64]),
}

/// What one stored value becomes.
struct Meaning<'a> {
    grey: &'a Grey,
    scale: Scale,
    presentation: Option<&'a Lut>,
    inverted: bool,
}

/// Modality values to 0..1, not yet clamped.
enum Scale {
    Range { low: f64, high: f64 },
    Voi(Voi),
}

impl<'a> Unit<'a> {
    /// `hidden`: pixels that the contract masks, row by row.
    pub fn of(grey: &'a Grey, range: ValueRange, hidden: Option<Vec<bool>>) -> Self {
        // a presentation table takes what the VOI gives: other policies do without both
        let presentation = grey.presentation.as_ref().filter(|_| range == ValueRange::Window);
        // Hounsfield units are what they are: MONOCHROME1 says how they are shown
        let inverted = grey.inverted && !matches!(range, ValueRange::HuWindow { .. });
        let extent = Extent::new(Box::new(|| grey.stored.extent(grey.padding)));
        let scale = Scale::of(grey, range, &extent, hidden.as_deref());
        let meaning = Meaning { grey, scale, presentation, inverted };
        let values = match &grey.stored {
            Samples::U8(v) => Values::U8(v, meaning.table(*extent)),
            Samples::U16(v) => Values::U16(v, meaning.table(*extent)),
            Samples::I16(v) => Values::I16(v, meaning.table(*extent)),
            Samples::Int(v) => Values::Int(v),
            Samples::Wide(v) => Values::Wide(v),
        };
        Self { values, meaning, hidden }
    }

    /// The values of pixels from index `start` on, each `step` further than the one before.
    pub fn read(&self, start: usize, step: isize, line: &mut [f32]) {
        match &self.values {
            Values::U8(v, table) => gather(v, start, step, line, |v| table[usize::from(v)]),
            Values::U16(v, table) => gather(v, start, step, line, |v| table[usize::from(v)]),
            Values::I16(v, table) => gather(v, start, step, line, |v| table[usize::from(v as u16)]),
            Values::Int(v) => gather(v, start, step, line, |v| self.meaning.of(v.into())),
            Values::Wide(v) => gather(v, start, step, line, |v| self.meaning.of(v)),
        }
        if let Some(hidden) = &self.hidden {
            let shown = walk(start, step).map(|index| !hidden[index]);
            line.iter_mut().zip(shown).filter(|(_, shown)| !shown).for_each(|(value, _)| *value = 0.0);
        }
    }
}

impl Meaning<'_> {
    fn of(&self, stored: f64) -> f32 {
        if self.grey.is_padding(stored) {
            return 0.0;
        }
        let unit = self.scale.apply(self.grey.modality.apply(stored));
        let mut unit = if unit.is_nan() { 0.0 } else { unit.clamp(0.0, 1.0) };
        if let Some(lut) = self.presentation {
            // the whole range of the VOI output is spread over the entries (PS3.3 C.11.6.1)
            unit = lut.apply(f64::from(lut.first) + unit * (lut.entries.len() - 1) as f64) / lut.max();
        }
        (if self.inverted { 1.0 - unit } else { unit }) as f32
    }

    /// Of every value from the least to the greatest that is not padding, which is 0.
    fn table(&self, extent: Option<(f64, f64)>) -> Table {
        let mut table = Box::new([0.0; 1 << 16]);
        let values = extent.map(|(low, high)| low as i32..=high as i32);
        values.into_iter().flatten().for_each(|value| table[usize::from(value as u16)] = self.of(value.into()));
        table
    }
}

impl Scale {
    fn of(grey: &Grey, range: ValueRange, extent: &Extent<'_>, hidden: Option<&[bool]>) -> Self {
        let observed = || Scale::observed(grey, extent, hidden);
        match range {
            ValueRange::StoredBits => grey.stored_range.map_or_else(observed, |(low, high)| match &grey.modality {
                Modality::Linear { .. } => Scale::between(grey.modality.apply(low), grey.modality.apply(high)),
                Modality::Lut(lut) => Scale::between(0.0, lut.max()),
            }),
            ValueRange::Observed => observed(),
            ValueRange::Window => grey.voi.clone().map_or_else(observed, Scale::Voi),
            ValueRange::Fixed { center, width } | ValueRange::HuWindow { center, width } => {
                Scale::Voi(Voi::Window { center, width, function: VoiFunction::LinearExact })
            }
        }
    }

    fn between(one: f64, other: f64) -> Self {
        Scale::Range { low: one.min(other), high: one.max(other) }
    }

    /// The smallest and largest modality value of the image; padding, hidden pixels and what is not finite left out.
    fn observed(grey: &Grey, extent: &Extent<'_>, hidden: Option<&[bool]>) -> Self {
        // a straight line has its ends at the ends, unless they are beyond what numbers can be
        let ends = |&(low, high): &(f64, f64)| (grey.modality.apply(low), grey.modality.apply(high));
        if let (Modality::Linear { .. }, None) = (&grey.modality, hidden)
            && let Some((one, other)) = extent.as_ref().map(ends)
            && one.is_finite()
            && other.is_finite()
        {
            return Scale::between(one, other);
        }
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        grey.stored.each(hidden, |stored| {
            let value = grey.modality.apply(stored);
            if !grey.is_padding(stored) && value.is_finite() {
                (low, high) = (low.min(value), high.max(value));
            }
        });
        Scale::Range { low, high }
    }

    fn apply(&self, value: f64) -> f64 {
        match self {
            // halves, since the whole range of floating point is larger than its largest number
            Scale::Range { low, high } if low < high => (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0),
            Scale::Range { .. } => 0.0,
            Scale::Voi(voi) => voi.apply(value),
        }
    }
}

fn gather<T: Copy>(values: &[T], start: usize, step: isize, line: &mut [f32], unit: impl Fn(T) -> f32) {
    if step == 1 {
        let values = &values[start..start + line.len()];
        return line.iter_mut().zip(values).for_each(|(out, value)| *out = unit(*value));
    }
    line.iter_mut().zip(walk(start, step)).for_each(|(out, index)| *out = unit(values[index]));
}

/// `start`, and from there on each `step` further.
fn walk(start: usize, step: isize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(start), move |index| Some(index.wrapping_add_signed(step)))
}
