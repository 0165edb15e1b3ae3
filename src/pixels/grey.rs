//! What the values of one frame mean: one grey value per pixel, with modality and VOI transforms, padding and polarity.
//!
//! Attributes of the functional groups of Enhanced objects (PS3.3 C.7.6.16) take precedence over those of the image.
//! Colour becomes luminance (ITU-R BT.601, as Y of YBR_FULL, PS3.3 C.7.6.3.1.2), without modality or VOI transforms.
//! Presentation LUT Shape is not read: for the image types that have it, it follows from Photometric Interpretation.
//! Neighbours: `decode` below, `normalise` above.

use super::dataset::{Item, Scan, Tag};
use super::decode::{ColourSpace, Frame, Samples};
use super::layout::{Layout, Photometric, SampleKind};
use super::lut::Lut;
use crate::domain::{Refusal, RefusalCode};

const RESCALE_INTERCEPT: Tag = 0x0028_1052;
const RESCALE_SLOPE: Tag = 0x0028_1053;
const WINDOW_CENTER: Tag = 0x0028_1050;
const WINDOW_WIDTH: Tag = 0x0028_1051;
const VOI_LUT_FUNCTION: Tag = 0x0028_1056;
const VOI_LUT_SEQUENCE: Tag = 0x0028_3010;
const MODALITY_LUT_SEQUENCE: Tag = 0x0028_3000;
const LUT_DESCRIPTOR: Tag = 0x0028_3002;
const LUT_DATA: Tag = 0x0028_3006;
const PIXEL_VALUE_TRANSFORMATION: Tag = 0x0028_9145;
const FRAME_VOI_LUT: Tag = 0x0028_9132;

/// One frame, one value per pixel, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Grey {
    pub rows: usize,
    pub columns: usize,
    pub stored: Samples,
    /// The range that the stored bits allow; none for floating point.
    pub stored_range: Option<(f64, f64)>,
    /// Stored values from the first to the second are padding, not image (PS3.3 C.7.5.1.1.2).
    pub padding: Option<(f64, f64)>,
    pub modality: Modality,
    pub voi: Option<Voi>,
    /// MONOCHROME1: the lowest value is white.
    pub inverted: bool,
}

/// Stored values to modality values (PS3.3 C.11.1).
#[derive(Debug, Clone, PartialEq)]
pub enum Modality {
    Linear { slope: f64, intercept: f64 },
    Lut(Lut),
}

/// Modality values to 0..1 (PS3.3 C.11.2).
#[derive(Debug, Clone, PartialEq)]
pub enum Voi {
    Lut(Lut),
    Window { center: f64, width: f64, function: VoiFunction },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoiFunction {
    Linear,
    LinearExact,
    Sigmoid,
}

impl Grey {
    /// Reads the transforms of the frame with the given index, from 0, and brings colour to one value per pixel.
    pub fn of(scan: &Scan, layout: &Layout, index: u32, frame: Frame) -> Result<Self, Refusal> {
        let stored_range = match frame.space {
            ColourSpace::Palette => None,
            _ => layout.stored_range(),
        };
        let mut grey = Self {
            rows: layout.rows as usize,
            columns: layout.columns as usize,
            stored: frame.samples,
            stored_range,
            padding: None,
            modality: Modality::Linear { slope: 1.0, intercept: 0.0 },
            voi: None,
            inverted: layout.photometric == Photometric::Monochrome1,
        };
        if frame.space == ColourSpace::Grey {
            grey.padding = padding(&scan.root, layout)?;
            grey.modality = modality(&scan.root, layout, index)?;
            grey.voi = voi(&scan.root, layout, index)?;
            return Ok(grey);
        }
        let Some(samples) = grey.stored.integers() else {
            return Err(Refusal::new(RefusalCode::UnsupportedFormat, "colour with wide samples is not supported"));
        };
        let (luminance, max) = match frame.space {
            ColourSpace::YbrFull => (samples.iter().copied().step_by(3).collect(), stored_range.map_or(255.0, |r| r.1)),
            ColourSpace::Palette => palette(&scan.root, &samples)?,
            _ => {
                let pixels = samples.as_chunks::<3>().0;
                (pixels.iter().map(|p| luma(*p)).collect(), stored_range.map_or(255.0, |r| r.1))
            }
        };
        grey.stored = Samples::Int(luminance);
        grey.stored_range = Some((0.0, max));
        // a colour image is seen over its full range: it has no window
        let function = VoiFunction::LinearExact;
        grey.voi = Some(Voi::Window { center: max / 2.0, width: max, function });
        Ok(grey)
    }
}

/// ITU-R BT.601: .299 R + .587 G + .114 B, rounded.
fn luma([r, g, b]: [i32; 3]) -> i32 {
    (0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)).round() as i32
}

/// Luminance of each palette index, and the largest value that the palette allows.
fn palette(root: &Item, indices: &[i32]) -> Result<(Vec<i32>, f64), Refusal> {
    if [0x0028_1221, 0x0028_1222, 0x0028_1223].iter().any(|t| root.get(*t).is_some()) {
        let detail = "a segmented palette colour look-up table is not supported";
        return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
    }
    let [red, green, blue] = [1, 2, 3].map(|i| Lut::read(root, 0x0028_1100 + i, 0x0028_1200 + i, false));
    let (red, green, blue) = (red?, green?, blue?);
    if red.bits != green.bits || red.bits != blue.bits {
        return Err(inconsistent("the palette colour look-up tables differ in depth"));
    }
    let (low, high) = indices.iter().fold((i32::MAX, i32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let table: Vec<i32> =
        (low..=high).map(|v| luma([&red, &green, &blue].map(|lut| lut.apply(f64::from(v)) as i32))).collect();
    Ok((indices.iter().map(|v| table[(v - low) as usize]).collect(), red.max()))
}

/// Pixel Padding Value and Range Limit (0028,0120), (0028,0121), in stored values.
fn padding(root: &Item, layout: &Layout) -> Result<Option<(f64, f64)>, Refusal> {
    if layout.kind == SampleKind::Float || layout.bits_allocated > 16 {
        return Ok(None);
    }
    let stored = |tag| {
        let raw = root.us(tag)?;
        Some(if layout.kind == SampleKind::Signed { f64::from(raw as i16) } else { f64::from(raw) })
    };
    let Some(value) = stored(0x0028_0120) else { return Ok(None) };
    let limit = stored(0x0028_0121).unwrap_or(value);
    Ok(Some((value.min(limit), value.max(limit))))
}

fn modality(root: &Item, layout: &Layout, index: u32) -> Result<Modality, Refusal> {
    if let Some(item) = functional_group(root, layout, index, PIXEL_VALUE_TRANSFORMATION)? {
        return linear(item);
    }
    match root.items(MODALITY_LUT_SEQUENCE).first() {
        Some(item) => Ok(Modality::Lut(Lut::read(item, LUT_DESCRIPTOR, LUT_DATA, layout.kind == SampleKind::Signed)?)),
        None => linear(root),
    }
}

fn linear(item: &Item) -> Result<Modality, Refusal> {
    let number = |tag, default| match item.bytes(tag) {
        Some(_) => item.decimal(tag).ok_or_else(|| inconsistent("Rescale Slope or Intercept is not a number")),
        None => Ok(default),
    };
    let (slope, intercept) = (number(RESCALE_SLOPE, 1.0)?, number(RESCALE_INTERCEPT, 0.0)?);
    if slope == 0.0 || slope.abs() > 1e12 || intercept.abs() > 1e12 {
        return Err(inconsistent("Rescale Slope is 0, or rescaled values have no sensible size"));
    }
    Ok(Modality::Linear { slope, intercept })
}

/// The VOI LUT Sequence, else the first window; none where there is neither or the window has no width.
fn voi(root: &Item, layout: &Layout, index: u32) -> Result<Option<Voi>, Refusal> {
    let item = match functional_group(root, layout, index, FRAME_VOI_LUT)? {
        Some(item) => item,
        None => {
            if let Some(item) = root.items(VOI_LUT_SEQUENCE).first() {
                let signed = layout.kind == SampleKind::Signed;
                return Ok(Some(Voi::Lut(Lut::read(item, LUT_DESCRIPTOR, LUT_DATA, signed)?)));
            }
            root
        }
    };
    let (Some(center), Some(width)) = (item.decimal(WINDOW_CENTER), item.decimal(WINDOW_WIDTH)) else {
        return Ok(None);
    };
    let function = match item.code_string(VOI_LUT_FUNCTION).as_deref() {
        None | Some("LINEAR") => VoiFunction::Linear,
        Some("LINEAR_EXACT") => VoiFunction::LinearExact,
        Some("SIGMOID") => VoiFunction::Sigmoid,
        Some(other) => {
            let detail = format!("VOI LUT Function {other:.20} is not supported");
            return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
        }
    };
    let width_min = if function == VoiFunction::Linear { 1.0 } else { f64::MIN_POSITIVE };
    Ok((width >= width_min).then_some(Voi::Window { center, width, function }))
}

/// The first item of a functional group macro: that of the frame, else the shared one.
fn functional_group<'a>(root: &'a Item, layout: &Layout, index: u32, tag: Tag) -> Result<Option<&'a Item>, Refusal> {
    let per_frame = root.items(0x5200_9230);
    if !per_frame.is_empty() && per_frame.len() != layout.frames as usize {
        return Err(inconsistent("Per-Frame Functional Groups Sequence has another number of items than frames"));
    }
    let of_frame = per_frame.get(index as usize).and_then(|item| item.items(tag).first());
    let shared = root.items(0x5200_9229).first().and_then(|item| item.items(tag).first());
    if of_frame.is_none() && shared.is_none() && per_frame.iter().any(|item| !item.items(tag).is_empty()) {
        return Err(inconsistent("some frames have a pixel value or VOI transformation and this frame has none"));
    }
    Ok(of_frame.or(shared))
}

fn inconsistent(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::Inconsistent, detail)
}
