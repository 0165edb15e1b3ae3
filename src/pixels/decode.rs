//! Stored values of a frame: fragments gathered, codestream checked, decoded, masked and sign-extended.
//!
//! The codecs of dicom-rs are used as codecs only: each gets exactly one frame and the size that its own codestream
//! declares, after that was compared with the data set. RLE is decoded by `rle`. Neighbours: `layout` says what the
//! image is, `grey` what the values mean. Left out: colour conversion, modality and VOI transforms.

use std::borrow::Cow;
use std::ops::Range;

use dicom_core::value::C;
use dicom_encoding::adapters::{PixelDataObject, RawPixelData};
use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::Limits;
use super::codestream::{Codestream, Process, inspect};
use super::dataset::{Scan, Span};
use super::jpeg_colour::without_transform;
use super::layout::{Layout, Photometric, PixelSource, SampleKind};
use super::{jpeg12, rle};
use crate::domain::{Refusal, RefusalCode};

const RLE_LOSSLESS: &str = "1.2.840.10008.1.2.5";

/// Every transfer syntax whose pixel data can be decoded; what a frame's codestream holds may still be refused.
pub const DECODABLE_TRANSFER_SYNTAXES: [&str; 17] = [
    "1.2.840.10008.1.2",       // Implicit VR Little Endian
    "1.2.840.10008.1.2.1",     // Explicit VR Little Endian
    "1.2.840.10008.1.2.2",     // Explicit VR Big Endian
    "1.2.840.10008.1.2.1.99",  // Deflated Explicit VR Little Endian
    RLE_LOSSLESS,              //
    "1.2.840.10008.1.2.4.50",  // JPEG Baseline, 8 bit
    "1.2.840.10008.1.2.4.51",  // JPEG Extended
    "1.2.840.10008.1.2.4.57",  // JPEG Lossless
    "1.2.840.10008.1.2.4.70",  // JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  // JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  // JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90",  // JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  // JPEG 2000
    "1.2.840.10008.1.2.4.201", // HTJ2K Lossless
    "1.2.840.10008.1.2.4.202", // HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.203", // HTJ2K
    "1.2.840.10008.1.2.1.98",  // Encapsulated Uncompressed Explicit VR Little Endian
];

/// Samples of a frame as stored, colour by pixel.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    Int(Vec<i32>),
    /// Floating point, and 32-bit unsigned samples.
    Wide(Vec<f64>),
}

/// What three samples of a pixel are after decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColourSpace {
    Grey,
    Palette,
    Rgb,
    /// Y, Cb, Cr (PS3.3 C.7.6.3.1.2).
    YbrFull,
}

/// One decoded frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub samples: Samples,
    pub space: ColourSpace,
}

/// An image whose frames can be decoded one at a time.
pub struct Decoder {
    scan: Scan,
    layout: Layout,
    /// Fragments of each frame; empty for native pixel data.
    fragments: Vec<Range<usize>>,
}

impl Decoder {
    /// Checks everything that can be known before a frame is decoded.
    pub fn new(mut scan: Scan, limits: &Limits) -> Result<Self, Refusal> {
        if !DECODABLE_TRANSFER_SYNTAXES.contains(&scan.transfer_syntax.as_str()) {
            let detail = format!("transfer syntax {:.64} is not supported", scan.transfer_syntax);
            return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
        }
        let layout = Layout::of(&mut scan, limits)?;
        let mut decoder = Self { scan, layout, fragments: Vec::new() };
        if let PixelSource::Encapsulated { fragments, offsets } = decoder.layout.source.clone() {
            decoder.fragments = decoder.assign(&fragments, &offsets)?;
        }
        Ok(decoder)
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn scan(&self) -> &Scan {
        &self.scan
    }

    /// Decodes the frame with the given index, from 0.
    pub fn frame(&mut self, index: u32) -> Result<Frame, Refusal> {
        match self.layout.source.clone() {
            PixelSource::Native { span, words } => {
                let length = self.layout.native_frame_bytes() as u64;
                let offset = span.offset + u64::from(index) * length;
                // 8-bit samples in big endian words: a frame may start in the middle of a word
                let swapped = words && self.layout.big_endian && self.layout.bits_allocated == 8;
                let lead = if swapped { (offset - span.offset) % 2 } else { 0 };
                let tail = if swapped { (length + lead) % 2 } else { 0 };
                let mut bytes = self.scan.read(Span { offset: offset - lead, bytes: lead + length + tail })?;
                if swapped {
                    bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
                }
                let lead = usize::try_from(lead).unwrap_or_default();
                self.native(&bytes[lead..lead + self.layout.native_frame_bytes()])
            }
            PixelSource::Encapsulated { fragments, .. } => {
                let range = self.fragments.get(index as usize).cloned().unwrap_or_default();
                let mut bytes = Vec::new();
                for span in &fragments[range] {
                    bytes.append(&mut self.scan.read(*span)?);
                }
                self.encapsulated(bytes)
            }
        }
    }

    /// Which fragments make up which frame (PS3.5 A.4).
    fn assign(&mut self, fragments: &[Span], offsets: &[u64]) -> Result<Vec<Range<usize>>, Refusal> {
        let frames = self.layout.frames as usize;
        if frames == 1 {
            return Ok(std::iter::once(0..fragments.len()).collect());
        }
        if fragments.len() == frames {
            return Ok((0..frames).map(|i| i..i + 1).collect());
        }
        let mut starts = Vec::with_capacity(frames);
        if offsets.is_empty() {
            for (i, span) in fragments.iter().enumerate() {
                let head = self.scan.read(Span { bytes: span.bytes.min(4), ..*span })?;
                if head.starts_with(&[0xFF, 0xD8, 0xFF]) || head.starts_with(&[0xFF, 0x4F, 0xFF, 0x51]) {
                    starts.push(i);
                }
            }
        } else {
            // an offset counts from the first fragment's item tag, eight bytes before its value
            let first = fragments.first().map_or(0, |f| f.offset);
            for offset in offsets {
                let at = fragments.binary_search_by_key(&first.saturating_add(*offset), |f| f.offset);
                starts
                    .push(at.map_err(|_| inconsistent("an offset of the offset table points to no fragment".into()))?);
            }
        }
        let ascending = starts.first() == Some(&0) && starts.is_sorted_by(|a, b| a < b);
        if starts.len() != frames || !ascending {
            let detail = format!("{} fragments cannot be assigned to {frames} frames", fragments.len());
            return Err(inconsistent(detail));
        }
        let ends = starts.iter().skip(1).copied().chain([fragments.len()]);
        Ok(starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect())
    }

    fn native(&self, bytes: &[u8]) -> Result<Frame, Refusal> {
        let layout = &self.layout;
        let width = usize::from(layout.bits_allocated / 8);
        let samples = match layout.photometric {
            Photometric::YbrFull422 => self.integers(&expand_422(bytes), width),
            _ => self.samples(bytes, width),
        };
        let space = match layout.photometric {
            Photometric::Monochrome1 | Photometric::Monochrome2 => ColourSpace::Grey,
            Photometric::Palette => ColourSpace::Palette,
            Photometric::YbrFull | Photometric::YbrFull422 => ColourSpace::YbrFull,
            Photometric::Rgb => ColourSpace::Rgb,
            Photometric::YbrIct | Photometric::YbrRct => {
                return Err(inconsistent("YBR_ICT and YBR_RCT exist within JPEG 2000 only".into()));
            }
        };
        let samples = if layout.planar { interleave(samples, layout.pixels()) } else { samples };
        Ok(Frame { samples, space })
    }

    fn encapsulated(&self, bytes: Vec<u8>) -> Result<Frame, Refusal> {
        let layout = &self.layout;
        if layout.transfer_syntax == "1.2.840.10008.1.2.1.98" {
            if bytes.len() < layout.native_frame_bytes() {
                return Err(decode_failed("a frame has fewer bytes than the image needs".into()));
            }
            return self.native(&bytes[..layout.native_frame_bytes()]);
        }
        if layout.kind == SampleKind::Float {
            return Err(unsupported("floating point pixel data that is encapsulated"));
        }
        if layout.transfer_syntax == RLE_LOSSLESS {
            let width = usize::from(layout.bits_allocated / 8);
            if layout.photometric == Photometric::YbrFull422 {
                return Err(unsupported("RLE with YBR_FULL_422"));
            }
            let decoded = rle::decode(&bytes, layout.pixels(), usize::from(layout.samples_per_pixel), width)?;
            // Planar Configuration has no meaning once the planes are put together (PS3.5 8.2.2)
            let as_native = Self::space_as_declared(layout.photometric)?;
            return Ok(Frame { samples: self.samples(&decoded, width), space: as_native });
        }
        let jpeg2000 = matches!(
            layout.transfer_syntax.rsplit('.').next(),
            Some("90" | "91" | "201" | "202" | "203") // .4.90 and so on; no other decodable syntax ends so
        );
        let codestream = inspect(&bytes, jpeg2000)?;
        self.check(&codestream)?;
        let space = self.space(&codestream)?;
        let width =
            if codestream.precision <= 8 && codestream.process != Process::JpegLossless || codestream.precision == 8 {
                1
            } else {
                2
            };
        let bytes = match codestream.process {
            Process::JpegDct if codestream.components == 3 => without_transform(bytes)?,
            _ => bytes,
        };
        let decoded = match codestream.process {
            Process::JpegDct12 => {
                let (rows, columns) = (layout.rows as usize, layout.columns as usize);
                jpeg12::decode(&bytes, rows, columns, (1 << layout.bits_stored) - 1)?
            }
            _ => self.run_codec(bytes, &codestream, width)?,
        };
        let mut samples = self.samples(&decoded, width);
        self.check_range(&decoded, &codestream, width)?;
        if codestream.by_plane {
            samples = interleave(samples, layout.pixels());
        }
        Ok(Frame { samples, space })
    }

    /// The codestream must agree with the data set before a decoder may see it.
    fn check(&self, codestream: &Codestream) -> Result<(), Refusal> {
        let layout = &self.layout;
        let (rows, columns) = (codestream.rows, codestream.columns);
        if (rows, columns) != (layout.rows, layout.columns) {
            let detail = format!("a frame is {rows} × {columns}, the image {} × {}", layout.rows, layout.columns);
            return Err(inconsistent(detail));
        }
        if codestream.components != layout.samples_per_pixel {
            let detail =
                format!("{} components, {} samples per pixel", codestream.components, layout.samples_per_pixel);
            return Err(inconsistent(detail));
        }
        let precision = codestream.precision;
        if !(2..=16).contains(&precision) || precision > layout.bits_allocated {
            return Err(inconsistent(format!("{precision} bits in a frame, {} allocated", layout.bits_allocated)));
        }
        if layout.shift != 0 {
            return Err(unsupported("encapsulated pixel data with a High Bit other than Bits Stored − 1"));
        }
        let signed = layout.kind == SampleKind::Signed;
        if codestream.signed && !signed {
            return Err(inconsistent("the codestream is signed, Pixel Representation is not".into()));
        }
        if signed && !codestream.signed && precision < layout.bits_stored {
            let detail = format!("{precision} unsigned bits in a frame for {} signed bits stored", layout.bits_stored);
            return Err(inconsistent(detail));
        }
        match codestream.process {
            Process::JpegLossless if codestream.restart_or_shift => {
                Err(unsupported("JPEG Lossless with restart intervals or a point transform"))
            }
            Process::JpegDct12 if codestream.components != 1 || signed => {
                Err(unsupported("JPEG Extended with 12 bits in colour or signed"))
            }
            Process::JpegDct12 if !(9..=12).contains(&layout.bits_stored) => {
                Err(inconsistent(format!("12 bits in a JPEG frame, {} bits stored", layout.bits_stored)))
            }
            Process::JpegDct if layout.bits_stored != 8 || signed => {
                Err(inconsistent(format!("8 unsigned bits in a JPEG frame, {} bits stored", layout.bits_stored)))
            }
            _ => Ok(()),
        }
    }

    /// Values above Bits Stored are garbage or overlays in a lossless frame and are masked; in a lossy one they are
    /// part of the picture, so that masking would fold them.
    fn check_range(&self, decoded: &[u8], codestream: &Codestream, width: usize) -> Result<(), Refusal> {
        let lossy = matches!(self.layout.transfer_syntax.rsplit('.').next(), Some("91" | "203" | "81"));
        if !lossy || codestream.precision <= self.layout.bits_stored || codestream.signed || width != 2 {
            return Ok(());
        }
        let (words, _) = decoded.as_chunks::<2>();
        if words.iter().any(|w| u32::from(u16::from_le_bytes(*w)) >> self.layout.bits_stored != 0) {
            return Err(decode_failed(format!("values exceed the {} bits stored", self.layout.bits_stored)));
        }
        Ok(())
    }

    fn space_as_declared(photometric: Photometric) -> Result<ColourSpace, Refusal> {
        match photometric {
            Photometric::Monochrome1 | Photometric::Monochrome2 => Ok(ColourSpace::Grey),
            Photometric::Palette => Ok(ColourSpace::Palette),
            Photometric::Rgb => Ok(ColourSpace::Rgb),
            Photometric::YbrFull | Photometric::YbrFull422 => Ok(ColourSpace::YbrFull),
            Photometric::YbrIct | Photometric::YbrRct => {
                Err(inconsistent("YBR_ICT and YBR_RCT exist within JPEG 2000 only".into()))
            }
        }
    }

    /// What the decoder returns for three components: the codestream's own marks first, then the data set.
    fn space(&self, codestream: &Codestream) -> Result<ColourSpace, Refusal> {
        let photometric = self.layout.photometric;
        if codestream.components == 1 {
            return Self::space_as_declared(photometric);
        }
        match codestream.process {
            Process::Jpeg2000 => match (photometric, codestream.transformed) {
                (Photometric::YbrIct | Photometric::YbrRct, true) | (Photometric::Rgb, _) => Ok(ColourSpace::Rgb),
                (Photometric::YbrFull, false) => Ok(ColourSpace::YbrFull),
                _ => Err(inconsistent("the colour transform of JPEG 2000 contradicts the image".into())),
            },
            Process::JpegDct => match (codestream.adobe_transform, photometric) {
                (Some(0), _) => Ok(ColourSpace::Rgb),
                (Some(1), _) => Ok(ColourSpace::YbrFull),
                (Some(_), _) => Err(unsupported("JPEG with an unknown colour transform")),
                (None, _) if codestream.named_rgb => Ok(ColourSpace::Rgb),
                (None, _) if codestream.jfif => Ok(ColourSpace::YbrFull),
                (None, _) => Self::space_as_declared(photometric),
            },
            _ => Self::space_as_declared(photometric),
        }
    }

    fn run_codec(&self, bytes: Vec<u8>, codestream: &Codestream, width: usize) -> Result<Vec<u8>, Refusal> {
        let layout = &self.layout;
        let Some(Codec::EncapsulatedPixelData(Some(codec), _)) =
            TransferSyntaxRegistry.get(&layout.transfer_syntax).map(|ts| ts.codec())
        else {
            return Err(unsupported("this transfer syntax"));
        };
        let wanted = layout.samples() * width;
        let frame = OneFrame { layout, bytes: padded(bytes, codestream.start, wanted), bits: width as u16 * 8 };
        let mut decoded = Vec::new();
        let mut outcome = codec.decode_frame(&frame, 0, &mut decoded);
        if outcome.is_err()
            && codestream.process == Process::JpegLs
            && let Some(bytes) = without_filler(&frame.bytes)
        {
            decoded.clear();
            outcome = codec.decode_frame(&OneFrame { bytes, ..frame }, 0, &mut decoded);
        }
        outcome.map_err(|e| decode_failed(format!("the frame cannot be decoded: {e:.200}")))?;
        if decoded.len() != wanted {
            return Err(decode_failed(format!("a frame decoded to {} bytes, {wanted} are right", decoded.len())));
        }
        Ok(decoded)
    }

    /// Bytes in little endian (or the file's order for native 16 bits) to stored values.
    fn samples(&self, bytes: &[u8], width: usize) -> Samples {
        let layout = &self.layout;
        match (layout.kind, width) {
            (SampleKind::Float, 4) => {
                Samples::Wide(bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect())
            }
            (SampleKind::Float, _) => {
                Samples::Wide(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
            }
            (SampleKind::Unsigned, 4) if layout.bits_stored == 32 => {
                Samples::Wide(bytes.as_chunks::<4>().0.iter().map(|b| f64::from(u32::from_le_bytes(*b))).collect())
            }
            _ => self.integers(bytes, width),
        }
    }

    /// Shift, mask and sign-extend (PS3.5 8.1.1): bits outside Bits Stored may hold anything.
    fn integers(&self, bytes: &[u8], width: usize) -> Samples {
        let layout = &self.layout;
        let unused = u32::from(32 - layout.bits_stored);
        let (shift, signed) = (u32::from(layout.shift), layout.kind == SampleKind::Signed);
        let value = |raw: u32| {
            let high = (raw >> shift) << unused;
            if signed { high as i32 >> unused } else { (high >> unused) as i32 }
        };
        let native = matches!(layout.source, PixelSource::Native { .. });
        Samples::Int(match width {
            1 => bytes.iter().map(|b| value(u32::from(*b))).collect(),
            2 if native && layout.big_endian => {
                bytes.as_chunks::<2>().0.iter().map(|b| value(u32::from(u16::from_be_bytes(*b)))).collect()
            }
            2 => bytes.as_chunks::<2>().0.iter().map(|b| value(u32::from(u16::from_le_bytes(*b)))).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|b| value(u32::from_le_bytes(*b))).collect(),
        })
    }
}

/// The view of one frame that the codecs of dicom-rs want.
struct OneFrame<'a> {
    layout: &'a Layout,
    bytes: Vec<u8>,
    bits: u16,
}

impl PixelDataObject for OneFrame<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        &self.layout.transfer_syntax
    }
    fn rows(&self) -> Option<u16> {
        u16::try_from(self.layout.rows).ok()
    }
    fn cols(&self) -> Option<u16> {
        u16::try_from(self.layout.columns).ok()
    }
    fn samples_per_pixel(&self) -> Option<u16> {
        Some(self.layout.samples_per_pixel)
    }
    fn bits_allocated(&self) -> Option<u16> {
        Some(self.bits)
    }
    fn bits_stored(&self) -> Option<u16> {
        Some(self.layout.bits_stored.min(self.bits))
    }
    fn photometric_interpretation(&self) -> Option<&str> {
        Some(if self.layout.samples_per_pixel == 3 { "RGB" } else { "MONOCHROME2" })
    }
    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }
    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }
    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(self.bytes.as_slice()))
    }
    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        Some(Cow::Borrowed(&[]))
    }
    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        Some(RawPixelData { fragments: C::from_vec(vec![self.bytes.clone()]), offset_table: C::new() })
    }
}

/// The codestream without what precedes it, and long enough for the codec's guard against ratios above 64: the
/// memory was already bounded by the image's size, and an even background compresses better than that.
fn padded(mut bytes: Vec<u8>, start: usize, wanted: usize) -> Vec<u8> {
    bytes.drain(..start);
    if wanted >= 1 << 24 && bytes.len() < wanted / 64 + 1 {
        bytes.resize(wanted / 64 + 1, 0);
    }
    bytes
}

/// JPEG-LS without zero bytes between the last scan and the end-of-image marker, which some encoders leave there.
fn without_filler(frame: &[u8]) -> Option<Vec<u8>> {
    let end = frame.len() - frame.iter().rev().take_while(|b| **b == 0).count();
    let scan = frame[..end].strip_suffix(&[0xFF, 0xD9])?;
    let kept = scan.len() - scan.iter().rev().take_while(|b| **b == 0).count();
    (kept < scan.len()).then(|| [&scan[..kept], &[0xFF, 0xD9]].concat())
}

/// Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2) to Y Cb Cr of each pixel.
fn expand_422(bytes: &[u8]) -> Vec<u8> {
    bytes.as_chunks::<4>().0.iter().flat_map(|&[y1, y2, cb, cr]| [y1, cb, cr, y2, cb, cr]).collect()
}

/// Three planes to three samples of each pixel.
fn interleave(samples: Samples, pixels: usize) -> Samples {
    match samples {
        Samples::Int(v) => Samples::Int((0..pixels).flat_map(|i| [v[i], v[pixels + i], v[2 * pixels + i]]).collect()),
        wide => wide,
    }
}

fn decode_failed(detail: String) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, detail)
}

fn inconsistent(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Inconsistent, detail)
}

fn unsupported(what: &str) -> Refusal {
    Refusal::new(RefusalCode::UnsupportedFormat, format!("{what}: not supported"))
}
