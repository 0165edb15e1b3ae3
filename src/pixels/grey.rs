//! What the values of one frame mean: one grey value per pixel, with modality and VOI transforms, padding and polarity.
//!
//! Attributes of the functional groups of Enhanced objects (PS3.3 C.7.6.16) take precedence over those of the image.
//! A VOI LUT Sequence is used before a window, as PS3.4 N.2.4 leaves it to the application; of several tables or
//! windows the first: the Standard says that they are alternatives, and the first is what every viewer opens with.
//! Attributes of VR UN are read as what the data dictionary says they are (PS3.5 6.2.2); what is then no finite number
//! is refused by name. MONOCHROME1 and Presentation LUT Shape INVERSE are two names of one fact (PS3.3 C.8.11.3.1.2):
//! the image is inverted once; where they contradict each other it is refused, because readers differ on which to
//! believe. Colour becomes luminance (ITU-R BT.601, as Y of YBR_FULL, PS3.3 C.7.6.3.1.2), without modality or VOI
//! transforms. Neighbours: `decode` below, `normalise` above.

use super::dataset::{Item, Scan, Tag, tag_text};
use super::decode::{ColourSpace, Frame, Samples};
use super::geometry::Geometry;
use super::hounsfield::is_hounsfield;
use super::layout::{Layout, Photometric, SampleKind};
use super::lut::Lut;
use super::shutter::{self, Shape};
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
const PRESENTATION_LUT_SEQUENCE: Tag = 0x2050_0010;
const PRESENTATION_LUT_SHAPE: Tag = 0x2050_0020;

/// Rescale and window values beyond this have no meaning in an image.
const SENSIBLE_MAX: f64 = 1e12;

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
    /// VOI output to P-values (PS3.3 C.11.6), where the image brings a table of its own.
    pub presentation: Option<Lut>,
    /// MONOCHROME1: the lowest value is white.
    pub inverted: bool,
    /// Modality values are Hounsfield units.
    pub hounsfield: bool,
    pub geometry: Geometry,
    /// Display shutter and collimator, or what is wrong with them; asked for by contracts that mask.
    pub shapes: Result<Vec<Shape>, Refusal>,
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
            presentation: None,
            inverted: false,
            hounsfield: false,
            geometry: Geometry::of(&scan.root, index as usize),
            shapes: shutter::shapes(&scan.root, index as usize),
        };
        if frame.space == ColourSpace::Grey {
            grey.padding = padding(&scan.root, layout)?;
            grey.modality = modality(&scan.root, layout, index)?;
            grey.voi = voi(&scan.root, layout, index, grey.may_be_negative())?;
            (grey.presentation, grey.inverted) = presentation(&scan.root, layout)?;
            grey.hounsfield = is_hounsfield(&scan.root, index as usize);
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
        grey.stored = Samples::narrow(luminance);
        grey.stored_range = Some((0.0, max));
        // a colour image is seen over its full range: it has no window
        let function = VoiFunction::LinearExact;
        grey.voi = Some(Voi::Window { center: max / 2.0, width: max, function });
        Ok(grey)
    }

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

    /// Padding, or no number.
    pub fn is_padding(&self, stored: f64) -> bool {
        !stored.is_finite() || self.padding.is_some_and(|(low, high)| (low..=high).contains(&stored))
    }

    /// Whether modality values below 0 are possible: then the input of a VOI table is signed.
    fn may_be_negative(&self) -> bool {
        let (low, high) = self.stored_range.unwrap_or((-1.0, 1.0));
        match &self.modality {
            Modality::Linear { .. } => self.modality.apply(low).min(self.modality.apply(high)) < 0.0,
            Modality::Lut(_) => false,
        }
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

/// ITU-R BT.601: .299 R + .587 G + .114 B, rounded half up; in whole numbers, so that a half is a half everywhere.
pub fn luma([r, g, b]: [i32; 3]) -> i32 {
    (299 * r + 587 * g + 114 * b + 500) / 1000
}

/// Luminance of each palette index, and the largest value that the palette allows.
fn palette(root: &Item, indices: &[i32]) -> Result<(Vec<i32>, f64), Refusal> {
    let segmented = [0x0028_1221, 0x0028_1222, 0x0028_1223].iter().any(|t| root.get(*t).is_some());
    let [red, green, blue] = [1, 2, 3].map(|i| match segmented {
        true => Lut::read_segmented(root, 0x0028_1100 + i, 0x0028_1220 + i),
        false => Lut::read(root, 0x0028_1100 + i, 0x0028_1200 + i, false),
    });
    let (red, green, blue) = (red?, green?, blue?);
    if red.bits != green.bits || red.bits != blue.bits {
        return Err(inconsistent("the palette colour look-up tables differ in depth"));
    }
    let (low, high) = indices.iter().fold((i32::MAX, i32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let table: Vec<i32> =
        (low..=high).map(|v| luma([&red, &green, &blue].map(|lut| lut.apply(f64::from(v)) as i32))).collect();
    Ok((indices.iter().map(|v| table[(v - low) as usize]).collect(), red.max()))
}

/// Pixel Padding Value and Range Limit (0028,0120) to (0028,0125), in stored values.
fn padding(root: &Item, layout: &Layout) -> Result<Option<(f64, f64)>, Refusal> {
    let stored = |tag: Tag| match (layout.kind, layout.bits_allocated) {
        (SampleKind::Float, 32) => root.bytes(tag + 2)?.first_chunk().map(|b| f64::from(f32::from_le_bytes(*b))),
        (SampleKind::Float, _) => root.bytes(tag + 3)?.first_chunk().map(|b| f64::from_le_bytes(*b)),
        // US or SS, however many bits a sample has
        (SampleKind::Signed, _) => root.us(tag).map(|raw| f64::from(raw as i16)),
        (SampleKind::Unsigned, _) => root.us(tag).map(f64::from),
    };
    let Some(value) = stored(0x0028_0120) else { return Ok(None) };
    let limit = stored(if layout.kind == SampleKind::Float { 0x0028_0122 } else { 0x0028_0121 }).unwrap_or(value);
    if value.is_nan() || limit.is_nan() {
        // what is not a number is padding wherever it is
        return Ok(None);
    }
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
    let slope = number(item, RESCALE_SLOPE, "Rescale Slope")?.unwrap_or(1.0);
    let intercept = number(item, RESCALE_INTERCEPT, "Rescale Intercept")?.unwrap_or(0.0);
    if slope == 0.0 {
        return Err(inconsistent("Rescale Slope (0028,1053) is 0"));
    }
    Ok(Modality::Linear { slope, intercept })
}

/// The first value of a decimal string; `None` if absent or empty.
fn number(item: &Item, tag: Tag, name: &str) -> Result<Option<f64>, Refusal> {
    if item.text(tag).is_none() {
        return Ok(None);
    }
    match item.decimal(tag).filter(|v| v.abs() <= SENSIBLE_MAX) {
        Some(value) => Ok(Some(value)),
        None => Err(inconsistent(&format!("{name} {} is no number, or has no sensible size", tag_text(tag)))),
    }
}

/// The VOI LUT Sequence, else the first window; none where there is neither or the window has no width. `signed`:
/// whether modality values may be negative, for tables whose VR does not say.
fn voi(root: &Item, layout: &Layout, index: u32, signed: bool) -> Result<Option<Voi>, Refusal> {
    let item = match functional_group(root, layout, index, FRAME_VOI_LUT)? {
        Some(item) => item,
        None => {
            if let Some(item) = root.items(VOI_LUT_SEQUENCE).first() {
                return Ok(Some(Voi::Lut(Lut::read(item, LUT_DESCRIPTOR, LUT_DATA, signed)?)));
            }
            root
        }
    };
    let (center, width) = (number(item, WINDOW_CENTER, "Window Center")?, number(item, WINDOW_WIDTH, "Window Width")?);
    let (Some(center), Some(width)) = (center, width) else {
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

/// The image's own presentation table, and whether its lowest value is white (PS3.3 C.11.6, C.8.11.3.1.2).
fn presentation(root: &Item, layout: &Layout) -> Result<(Option<Lut>, bool), Refusal> {
    let monochrome1 = layout.photometric == Photometric::Monochrome1;
    if let Some(item) = root.items(PRESENTATION_LUT_SEQUENCE).first() {
        if monochrome1 {
            let detail = "MONOCHROME1 with a Presentation LUT Sequence (2050,0010): which of them inverts is not said";
            return Err(inconsistent(detail));
        }
        return Ok((Some(Lut::read(item, LUT_DESCRIPTOR, LUT_DATA, false)?), false));
    }
    match (root.code_string(PRESENTATION_LUT_SHAPE).as_deref(), monochrome1) {
        (None, _) | (Some("INVERSE"), true) | (Some("IDENTITY"), false) => Ok((None, monochrome1)),
        (Some("INVERSE"), false) => {
            Err(inconsistent("MONOCHROME2 contradicts Presentation LUT Shape (2050,0020) INVERSE"))
        }
        (Some("IDENTITY"), true) => {
            // dcmtk believes the shape, others the photometric interpretation
            Err(inconsistent("MONOCHROME1 contradicts Presentation LUT Shape (2050,0020) IDENTITY"))
        }
        (Some(other), _) => {
            let detail = format!("Presentation LUT Shape {other:.16} is not supported");
            Err(Refusal::new(RefusalCode::UnsupportedFormat, detail))
        }
    }
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
