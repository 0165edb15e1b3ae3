//! Grey values to a model's input contract: pure, the same for the node, the offline commands and training.
//!
//! In the Standard's order (PS3.4 N.2): padding and what the contract masks are set aside, modality LUT, range policy
//! (VOI, then a presentation table), MONOCHROME1 inverted last except in Hounsfield units; then orientation, fit and resize, `low..high`, channels,
//! mean and standard deviation. Padding and masked pixels become the lowest output.
//!
//! `StoredBits` maps the range that Bits Stored and Pixel Representation allow, carried through the modality LUT. A
//! linear rescale of positive slope therefore changes nothing, one of negative slope turns black into white, and a
//! Modality LUT Sequence is followed and its output bits are the range. For `xrv-1024` that is torchxrayvision's
//! (2x/max − 1)·1024 with max = 2^Bits Stored − 1 of unsigned images. Floating point has no stored bits: the
//! observed range stands in. An image of one single value has no observed range and takes the lowest value throughout
//! (the highest in MONOCHROME1).
//!
//! Fits that keep the aspect ratio keep it of the patient, not of the matrix: pixels that are not square (`geometry`)
//! count by their height and width.

use super::decode::Samples;
use super::grey::{Grey, Modality, Voi, VoiFunction};
use super::resize::{Window, resize};
use super::shutter;
use crate::domain::{Contract, Fit, ModelInput, Refusal, Turn, ValueRange};

/// The frame as the model of this contract sees it; every value is finite. The refusal names what the contract asks
/// for and the image does not say.
pub fn normalise(grey: &Grey, contract: &Contract) -> Result<ModelInput, Refusal> {
    contract.admits_units(grey.hounsfield)?;
    let turn = grey.geometry.turn(contract.orientation)?;
    let aspect = aspect(grey, contract.fit, turn)?;
    let hidden = shutter::hidden(grey, &contract.mask)?;
    let unit = unit_image(grey, contract.range, hidden.as_deref());
    let (unit, rows, columns) = turn.apply(unit, grey.rows, grey.columns);
    let size = contract.size as usize;
    let resized = resize(&unit, rows, columns, window(rows, columns, aspect, contract.fit), size, contract.filter);
    let span = contract.high - contract.low;
    let mut values = Vec::with_capacity(contract.len());
    for (mean, std) in contract.mean.iter().zip(&contract.std) {
        // rounding of the filter weights may leave 0..1 by parts of a millionth
        values.extend(resized.iter().map(|v| (contract.low + span * v.clamp(0.0, 1.0) - mean) / std));
    }
    Ok(ModelInput { contract: contract.digest(), values })
}

/// Height of a pixel of the turned image over its width; 1 where the fit does not ask.
fn aspect(grey: &Grey, fit: Fit, turn: Turn) -> Result<f64, Refusal> {
    if fit == Fit::Stretch {
        return Ok(1.0);
    }
    let aspect = grey.geometry.aspect.clone()?;
    Ok(if turn.exchanged { 1.0 / aspect } else { aspect })
}

/// The part of the image that becomes the square input.
fn window(rows: usize, columns: usize, aspect: f64, fit: Fit) -> Window {
    // the side of the square, in rows and in columns
    let (height, width) = (rows as f64 * aspect, columns as f64);
    let side = match fit {
        Fit::Stretch => return Window { top: 0, left: 0, rows, columns },
        Fit::CropCenter => height.min(width),
        Fit::PadSquare => height.max(width),
    };
    let side = (((side / aspect).round() as usize).max(1), (side.round() as usize).max(1));
    if fit == Fit::CropCenter {
        // as torchxrayvision's XRayCenterCrop: half of the axis less half of the side, both rounded down
        let (top, left) = ((rows / 2 - side.0 / 2) as isize, (columns / 2 - side.1 / 2) as isize);
        return Window { top, left, rows: side.0, columns: side.1 };
    }
    let (top, left) = (-(((side.0 - rows) / 2) as isize), -(((side.1 - columns) / 2) as isize));
    Window { top, left, rows: side.0, columns: side.1 }
}

/// Every pixel as 0..1.
fn unit_image(grey: &Grey, range: ValueRange, hidden: Option<&[bool]>) -> Vec<f32> {
    let scale = match range {
        ValueRange::StoredBits => grey.stored_range.map_or_else(
            || Scale::observed(grey, hidden),
            |(low, high)| {
                let ends = match &grey.modality {
                    Modality::Linear { .. } => (grey.modality.apply(low), grey.modality.apply(high)),
                    Modality::Lut(lut) => (0.0, lut.max()),
                };
                Scale::between(ends.0.min(ends.1), ends.0.max(ends.1))
            },
        ),
        ValueRange::Observed => Scale::observed(grey, hidden),
        ValueRange::Window => grey.voi.clone().map_or_else(|| Scale::observed(grey, hidden), Scale::Voi),
        ValueRange::Fixed { center, width } | ValueRange::HuWindow { center, width } => {
            Scale::Voi(Voi::Window { center, width, function: VoiFunction::LinearExact })
        }
    };
    // a presentation table takes what the VOI gives: other policies do without both
    let presentation = grey.presentation.as_ref().filter(|_| range == ValueRange::Window);
    // Hounsfield units are what they are: MONOCHROME1 says how they are shown
    let inverted = grey.inverted && !matches!(range, ValueRange::HuWindow { .. });
    let one = |stored: f64| {
        if grey.is_padding(stored) {
            return 0.0;
        }
        let unit = scale.apply(grey.modality.apply(stored));
        let mut unit = if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 0.0 };
        if let Some(lut) = presentation {
            // the whole range of the VOI output is spread over the entries (PS3.3 C.11.6.1)
            unit = lut.apply(f64::from(lut.first) + unit * (lut.entries.len() - 1) as f64) / lut.max();
        }
        (if inverted { 1.0 - unit } else { unit }) as f32
    };
    let mut unit = match &grey.stored {
        Samples::U8(values) => tabulated(values, one),
        Samples::U16(values) => tabulated(values, one),
        Samples::I16(values) => tabulated(values, one),
        Samples::Int(values) => tabulated(values, one),
        Samples::Wide(values) => values.iter().map(|v| one(*v)).collect(),
    };
    for (unit, _) in unit.iter_mut().zip(hidden.unwrap_or_default()).filter(|(_, hidden)| **hidden) {
        *unit = 0.0;
    }
    unit
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

/// Shows `see` the stored values that matter to the smallest and largest modality value; `seen` by their index.
fn observe<T: Copy + Into<i32>>(values: &[T], grey: &Grey, seen: impl Fn(&usize) -> bool, mut see: impl FnMut(f64)) {
    let chosen = values.iter().enumerate().filter(|(i, _)| seen(i)).map(|(_, v)| (*v).into());
    if let Modality::Lut(_) = grey.modality {
        return chosen.for_each(|v: i32| see(f64::from(v)));
    }
    // linear: the ends of the stored values are the ends of the modality values
    let kept = chosen.filter(|v: &i32| !grey.is_padding(f64::from(*v)));
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

    /// The smallest and largest modality value of the image; padding, hidden pixels and what is not finite left out.
    fn observed(grey: &Grey, hidden: Option<&[bool]>) -> Self {
        let seen = |i: &usize| hidden.is_none_or(|h| !h[*i]);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut see = |stored: f64| {
            let value = grey.modality.apply(stored);
            if !grey.is_padding(stored) && value.is_finite() {
                (low, high) = (low.min(value), high.max(value));
            }
        };
        match &grey.stored {
            Samples::U8(v) => observe(v, grey, seen, see),
            Samples::U16(v) => observe(v, grey, seen, see),
            Samples::I16(v) => observe(v, grey, seen, see),
            Samples::Int(v) => observe(v, grey, seen, see),
            Samples::Wide(v) => (0..v.len()).filter(seen).for_each(|i| see(v[i])),
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
    /// The stored value of a pixel, row by row; none for padding.
    pub fn value(&self, index: usize) -> Option<f64> {
        let stored = match &self.stored {
            Samples::U8(values) => values.get(index).map(|v| f64::from(*v)),
            Samples::U16(values) => values.get(index).map(|v| f64::from(*v)),
            Samples::I16(values) => values.get(index).map(|v| f64::from(*v)),
            Samples::Int(values) => values.get(index).map(|v| f64::from(*v)),
            Samples::Wide(values) => values.get(index).copied(),
        };
        stored.filter(|v| !self.is_padding(*v))
    }

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
