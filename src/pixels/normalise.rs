//! Grey values to a model's input contract: pure, the same for the node, the offline commands and training.
//!
//! In the Standard's order: padding is set aside, modality LUT, range policy (VOI), MONOCHROME1 inverted last; then
//! fit and resize, `low..high`, channels, mean and standard deviation. Padding becomes the lowest output.
//!
//! `StoredBits` maps the range that Bits Stored and Pixel Representation allow, carried through the modality LUT. A
//! linear rescale of positive slope therefore changes nothing, one of negative slope turns black into white, and a
//! Modality LUT Sequence is followed and its output bits are the range. For `xrv-1024` that is torchxrayvision's
//! (2x/max − 1)·1024 with max = 2^Bits Stored − 1 of unsigned images. Floating point has no stored bits: the
//! observed range stands in. An image of one single value has no observed range and takes the lowest value throughout
//! (the highest in MONOCHROME1).

use super::decode::Samples;
use super::grey::{Grey, Modality, Voi, VoiFunction};
use super::resize::{Window, resize};
use crate::domain::{Contract, Fit, ModelInput, ValueRange};

/// The frame as the model of this contract sees it; every value is finite.
pub fn normalise(grey: &Grey, contract: &Contract) -> ModelInput {
    let unit = unit_image(grey, contract.range);
    let size = contract.size as usize;
    let resized = resize(&unit, grey.rows, grey.columns, window(grey.rows, grey.columns, contract.fit), size);
    let span = contract.high - contract.low;
    let mut values = Vec::with_capacity(contract.len());
    for (mean, std) in contract.mean.iter().zip(&contract.std) {
        // rounding of the filter weights may leave 0..1 by parts of a millionth
        values.extend(resized.iter().map(|v| (contract.low + span * v.clamp(0.0, 1.0) - mean) / std));
    }
    ModelInput { contract: contract.digest(), values }
}

/// The part of the image that becomes the square input.
fn window(rows: usize, columns: usize, fit: Fit) -> Window {
    let (short, long) = (rows.min(columns), rows.max(columns));
    match fit {
        Fit::Stretch => Window { top: 0, left: 0, rows, columns },
        // as torchxrayvision's XRayCenterCrop: half of the axis less half of the side, both rounded down
        Fit::CropCenter => Window {
            top: (rows / 2 - short / 2) as isize,
            left: (columns / 2 - short / 2) as isize,
            rows: short,
            columns: short,
        },
        Fit::PadSquare => Window {
            top: -(((long - rows) / 2) as isize),
            left: -(((long - columns) / 2) as isize),
            rows: long,
            columns: long,
        },
    }
}

/// Every pixel as 0..1.
fn unit_image(grey: &Grey, range: ValueRange) -> Vec<f32> {
    let scale = match range {
        ValueRange::StoredBits => grey.stored_range.map_or_else(
            || Scale::observed(grey),
            |(low, high)| {
                let ends = match &grey.modality {
                    Modality::Linear { .. } => (grey.modality.apply(low), grey.modality.apply(high)),
                    Modality::Lut(lut) => (0.0, lut.max()),
                };
                Scale::between(ends.0.min(ends.1), ends.0.max(ends.1))
            },
        ),
        ValueRange::Observed => Scale::observed(grey),
        ValueRange::Window => grey.voi.clone().map_or_else(|| Scale::observed(grey), Scale::Voi),
        ValueRange::Fixed { center, width } => {
            Scale::Voi(Voi::Window { center, width, function: VoiFunction::LinearExact })
        }
    };
    let one = |stored: f64| {
        if grey.is_padding(stored) {
            return 0.0;
        }
        let unit = scale.apply(grey.modality.apply(stored));
        let unit = if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 0.0 };
        (if grey.inverted { 1.0 - unit } else { unit }) as f32
    };
    match &grey.stored {
        Samples::U8(values) => tabulated(values, one),
        Samples::U16(values) => tabulated(values, one),
        Samples::I16(values) => tabulated(values, one),
        Samples::Int(values) => tabulated(values, one),
        Samples::Wide(values) => values.iter().map(|v| one(*v)).collect(),
    }
}

/// Applies `f` to each value, once per distinct value where their range is small.
fn tabulated<T: Copy + Ord + Into<i32>>(values: &[T], f: impl Fn(f64) -> f32) -> Vec<f32> {
    let (Some(low), Some(high)) = (values.iter().min(), values.iter().max()) else { return Vec::new() };
    let (low, high): (i32, i32) = ((*low).into(), (*high).into());
    if i64::from(high) - i64::from(low) >= 1 << 17 {
        return values.iter().map(|v| f(f64::from((*v).into()))).collect();
    }
    let table: Vec<f32> = (low..=high).map(|v| f(f64::from(v))).collect();
    values.iter().map(|v| table[((*v).into() - low) as usize]).collect()
}

/// Shows `see` the stored values that matter to the smallest and largest modality value.
fn observe<T: Copy + Into<i32>>(values: &[T], grey: &Grey, mut see: impl FnMut(f64)) {
    if let Modality::Lut(_) = grey.modality {
        return values.iter().for_each(|v| see(f64::from((*v).into())));
    }
    // linear: the ends of the stored values are the ends of the modality values
    let kept = values.iter().map(|v| (*v).into()).filter(|v| !grey.is_padding(f64::from(*v)));
    let ends = kept.fold(None, |ends: Option<(i32, i32)>, v| Some(ends.map_or((v, v), |(l, h)| (l.min(v), h.max(v)))));
    ends.into_iter().flat_map(|(l, h)| [l, h]).for_each(|v| see(f64::from(v)));
}

/// Modality values to 0..1, not yet clamped.
enum Scale {
    Range { low: f64, width: f64 },
    Voi(Voi),
}

impl Scale {
    fn between(low: f64, high: f64) -> Self {
        Scale::Range { low, width: high - low }
    }

    /// The smallest and largest modality value of the image, padding and what is not finite left out.
    fn observed(grey: &Grey) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let see = |stored: f64| {
            let value = grey.modality.apply(stored);
            if !grey.is_padding(stored) && value.is_finite() {
                (low, high) = (low.min(value), high.max(value));
            }
        };
        match &grey.stored {
            Samples::U8(v) => observe(v, grey, see),
            Samples::U16(v) => observe(v, grey, see),
            Samples::I16(v) => observe(v, grey, see),
            Samples::Int(v) => observe(v, grey, see),
            Samples::Wide(v) => v.iter().copied().for_each(see),
        }
        Scale::between(low, high)
    }

    fn apply(&self, value: f64) -> f64 {
        match self {
            Scale::Range { low, width } if *width > 0.0 => (value - low) / width,
            Scale::Range { .. } => 0.0,
            Scale::Voi(voi) => voi.apply(value),
        }
    }
}

impl Grey {
    fn is_padding(&self, stored: f64) -> bool {
        !stored.is_finite() || self.padding.is_some_and(|(low, high)| (low..=high).contains(&stored))
    }
}

impl Modality {
    pub fn apply(&self, stored: f64) -> f64 {
        match self {
            Modality::Linear { slope, intercept } => stored * slope + intercept,
            Modality::Lut(lut) => lut.apply(stored),
        }
    }
}

impl Voi {
    /// PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.2 (LINEAR_EXACT), C.11.2.1.3.1 (SIGMOID), C.11.2.1.1 (tables).
    pub fn apply(&self, value: f64) -> f64 {
        match self {
            Voi::Lut(lut) => lut.apply(value) / lut.max(),
            Voi::Window { center, width, function } => match function {
                VoiFunction::Linear if *width <= 1.0 => f64::from(value > center - 0.5),
                VoiFunction::Linear => (value - (center - 0.5)) / (width - 1.0) + 0.5,
                VoiFunction::LinearExact => (value - center) / width + 0.5,
                VoiFunction::Sigmoid => 1.0 / (1.0 + (-4.0 * (value - center) / width).exp()),
            },
        }
    }
}
