//! Stored values of a frame: fragments gathered, codestream checked, decoded, masked and sign-extended.
//!
//! A codec gets exactly one frame, after the size that its own codestream declares was compared with the data set.
//! Neighbours: `layout` says what the image is, `jpeg`, `jpegls`, `jpeg2000`, `jpegxl` and `rle` decode, `grey` knows
//! what the values mean. Left out: colour conversion, modality and VOI transforms.

use std::ops::Range;

use super::Limits;
use super::codestream::{Codestream, Process, inspect};
use super::dataset::{Scan, Span};
use super::layout::{ENCAPSULATED_UNCOMPRESSED, Layout, Photometric, PixelSource, SampleKind};
use super::samples::Codes;
use super::{jpeg, jpeg2000, jpegls, jpegxl, rle};
use crate::domain::{Refusal, RefusalCode};

pub use super::samples::Samples;

const RLE_LOSSLESS: &str = "1.2.840.10008.1.2.5";
/// Baseline, Extended, Lossless, Lossless with first-order prediction.
const JPEG: [&str; 4] =
    ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"];
/// Lossless, near-lossless.
const JPEG_LS: [&str; 2] = ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"];
/// Lossless, a JPEG frame recompressed, any.
const JPEG_XL: [&str; 3] = ["1.2.840.10008.1.2.4.110", JPEG_XL_RECOMPRESSION, "1.2.840.10008.1.2.4.112"];
const JPEG_XL_RECOMPRESSION: &str = "1.2.840.10008.1.2.4.111";

/// JPEG 2000 and HTJ2K whose frames have lost nothing.
const JPEG_2000_LOSSLESS: [&str; 3] = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202"];
/// JPEG 2000 and HTJ2K with or without loss.
const JPEG_2000: [&str; 2] = ["1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"];

/// Every transfer syntax whose pixel data can be decoded; what a frame's codestream holds may still be refused.
pub const DECODABLE_TRANSFER_SYNTAXES: [&str; 20] = [
    "1.2.840.10008.1.2",      // Implicit VR Little Endian
    "1.2.840.10008.1.2.1",    // Explicit VR Little Endian
    "1.2.840.10008.1.2.2",    // Explicit VR Big Endian
    "1.2.840.10008.1.2.1.99", // Deflated Explicit VR Little Endian
    RLE_LOSSLESS,             //
    JPEG[0],
    JPEG[1],
    JPEG[2],
    JPEG[3],
    JPEG_LS[0],
    JPEG_LS[1],
    JPEG_2000_LOSSLESS[0],
    JPEG_2000_LOSSLESS[1],
    JPEG_2000_LOSSLESS[2],
    JPEG_2000[0],
    JPEG_2000[1],
    JPEG_XL[0],
    JPEG_XL[1],
    JPEG_XL[2],
    ENCAPSULATED_UNCOMPRESSED,
];

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
        let layout = &self.layout;
        match &layout.source {
            PixelSource::Native { span, .. } if layout.bits_allocated == 1 => {
                let pixels = layout.pixels() as u64;
                let (first, last) = (u64::from(index) * pixels, (u64::from(index) + 1) * pixels - 1);
                let bytes = Span { offset: span.offset + first / 8, bytes: last / 8 - first / 8 + 1 };
                let bits = expand_bits(&self.scan.read(bytes)?, (first % 8) as usize, layout.pixels());
                self.framed(Codes::Bytes(bits))
            }
            PixelSource::Native { span, words } => {
                let length = layout.native_frame_bytes() as u64;
                let mut offset = span.offset + u64::from(index) * length;
                if layout.kind != SampleKind::Float && layout.bits_allocated > 8 {
                    let width = usize::from(layout.bits_allocated / 8);
                    let read = |bytes: &mut [u8]| {
                        self.scan.read_into(offset, bytes)?;
                        offset += bytes.len() as u64;
                        Ok(())
                    };
                    let codes = Codes::read(layout.samples(), width, layout.big_endian, read)?;
                    return self.native_codes(codes);
                }
                // 8-bit samples in big endian words: a frame may start in the middle of a word
                let swapped = *words && layout.big_endian && layout.bits_allocated == 8;
                let lead = if swapped { (offset - span.offset) % 2 } else { 0 };
                let tail = if swapped { (length + lead) % 2 } else { 0 };
                let mut bytes = self.scan.read(Span { offset: offset - lead, bytes: lead + length + tail })?;
                if swapped {
                    bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
                    bytes.drain(..usize::try_from(lead).unwrap_or_default());
                    bytes.truncate(layout.native_frame_bytes());
                }
                self.native(bytes)
            }
            PixelSource::Encapsulated { fragments, .. } => {
                let range = self.fragments.get(index as usize).cloned().unwrap_or_default();
                let mut bytes = Vec::new();
                for span in &fragments[range] {
                    let start = bytes.len();
                    bytes.resize(start + usize::try_from(span.bytes).unwrap_or(usize::MAX), 0);
                    self.scan.read_into(span.offset, &mut bytes[start..])?;
                }
                self.encapsulated(bytes)
            }
        }
    }

    /// Which fragments make up which frame (PS3.5 A.4).
    fn assign(&mut self, fragments: &[Span], offsets: &[u64]) -> Result<Vec<Range<usize>>, Refusal> {
        let frames = self.layout.frames as usize;
        if frames == 1 {
            for span in fragments.iter().skip(1) {
                if self.starts_frame(span)? {
                    return Err(inconsistent("several codestreams in pixel data of one frame".into()));
                }
            }
            return Ok(std::iter::once(0..fragments.len()).collect());
        }
        if fragments.len() == frames {
            return Ok((0..frames).map(|i| i..i + 1).collect());
        }
        let mut starts = Vec::with_capacity(frames);
        if offsets.is_empty() {
            for (i, span) in fragments.iter().enumerate() {
                if self.starts_frame(span)? {
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

    /// Whether a codestream starts with this fragment; frames that are no codestream have no mark of their own.
    fn starts_frame(&mut self, span: &Span) -> Result<bool, Refusal> {
        if matches!(self.layout.transfer_syntax.as_str(), RLE_LOSSLESS | ENCAPSULATED_UNCOMPRESSED) {
            return Ok(false);
        }
        let head = self.scan.read(Span { bytes: span.bytes.min(8), ..*span })?;
        if self.is_jpeg_xl() {
            return Ok(jpegxl::is_start(&head));
        }
        Ok(head.starts_with(&[0xFF, 0xD8, 0xFF]) || head.starts_with(&[0xFF, 0x4F, 0xFF, 0x51]))
    }

    /// Uncompressed bytes of one frame in little endian, or with 8 bits allocated.
    fn native(&self, bytes: Vec<u8>) -> Result<Frame, Refusal> {
        let layout = &self.layout;
        if layout.kind == SampleKind::Float {
            let space = Self::space_as_declared(layout.photometric)?;
            return Ok(Frame { samples: floats(&bytes, layout.bits_allocated), space });
        }
        if layout.bits_allocated == 1 {
            return self.framed(Codes::Bytes(expand_bits(&bytes, 0, layout.pixels())));
        }
        if layout.photometric == Photometric::YbrFull422 {
            return self.framed(Codes::Bytes(expand_422(&bytes)));
        }
        self.native_codes(Codes::of_bytes(bytes, usize::from(layout.bits_allocated / 8)))
    }

    fn native_codes(&self, codes: Codes) -> Result<Frame, Refusal> {
        // 4:2:2 has no planes
        let by_plane = self.layout.planar && self.layout.photometric != Photometric::YbrFull422;
        self.framed(if by_plane { codes.interleaved() } else { codes })
    }

    fn framed(&self, codes: Codes) -> Result<Frame, Refusal> {
        if codes.len() != self.layout.samples() {
            return Err(decode_failed(format!("a frame has {} samples", codes.len())));
        }
        Ok(Frame { samples: self.stored(codes), space: Self::space_as_declared(self.layout.photometric)? })
    }

    fn encapsulated(&self, mut bytes: Vec<u8>) -> Result<Frame, Refusal> {
        let layout = &self.layout;
        if layout.transfer_syntax == ENCAPSULATED_UNCOMPRESSED {
            layout.check_bytes(bytes.len() as u64, 1)?;
            bytes.truncate(layout.native_frame_bytes());
            return self.native(bytes);
        }
        if layout.kind == SampleKind::Float {
            return Err(unsupported("floating point pixel data that is encapsulated"));
        }
        if layout.transfer_syntax == RLE_LOSSLESS {
            if layout.photometric == Photometric::YbrFull422 || layout.bits_allocated == 1 {
                return Err(unsupported("RLE with YBR_FULL_422 or with one bit allocated"));
            }
            let width = usize::from(layout.bits_allocated / 8);
            // Planar Configuration has no meaning once the planes are put together (PS3.5 8.2.2)
            return self.framed(rle::decode(&bytes, layout.pixels(), usize::from(layout.samples_per_pixel), width)?);
        }
        let syntax = layout.transfer_syntax.as_str();
        let jpeg2000 = JPEG_2000_LOSSLESS.contains(&syntax) || JPEG_2000.contains(&syntax);
        let codestream = if self.is_jpeg_xl() { jpegxl::inspect(&bytes)? } else { inspect(&bytes, jpeg2000)? };
        self.check(&codestream)?;
        let space = self.space(&codestream)?;
        let mut codes = match codestream.process {
            Process::JpegDct | Process::JpegDct12 | Process::JpegLossless => jpeg::decode(bytes, &codestream)?,
            Process::JpegLs => jpegls::decode(&bytes, &codestream)?,
            Process::Jpeg2000 => jpeg2000::decode(&bytes[codestream.start..], &codestream)?,
            Process::JpegXl => jpegxl::decode(&bytes, &codestream)?,
        };
        if codes.len() != layout.samples() {
            return Err(decode_failed(format!("a frame decoded to {} samples", codes.len())));
        }
        // a reversible transform may have lost bit planes wherever the transfer syntax allows it
        if codestream.lossy || JPEG_2000.contains(&syntax) {
            codes = self.clamped(codes, codestream.precision)?;
        }
        if codestream.by_plane {
            codes = codes.interleaved();
        }
        Ok(Frame { samples: self.stored(codes), space })
    }

    fn is_jpeg_xl(&self) -> bool {
        JPEG_XL.contains(&self.layout.transfer_syntax.as_str())
    }

    fn stored(&self, codes: Codes) -> Samples {
        let layout = &self.layout;
        codes.stored(layout.bits_stored, layout.shift, layout.kind == SampleKind::Signed)
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
        if precision == 0 || precision > layout.bits_allocated {
            return Err(inconsistent(format!("{precision} bits in a frame, {} allocated", layout.bits_allocated)));
        }
        if precision > 16 {
            return Err(unsupported("an encapsulated frame of more than 16 bits"));
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
        let known = match codestream.process {
            Process::JpegDct | Process::JpegDct12 | Process::JpegLossless => {
                JPEG.contains(&layout.transfer_syntax.as_str())
            }
            Process::JpegLs => JPEG_LS.contains(&layout.transfer_syntax.as_str()),
            Process::Jpeg2000 | Process::JpegXl => true,
        };
        if !known {
            return Err(inconsistent("the codestream is of another process than its transfer syntax".into()));
        }
        match codestream.process {
            Process::JpegDct12 if signed => {
                Err(inconsistent("12 unsigned bits in a JPEG frame of signed samples".into()))
            }
            Process::JpegDct12 if !(9..=12).contains(&layout.bits_stored) => {
                Err(inconsistent(format!("12 bits in a JPEG frame, {} bits stored", layout.bits_stored)))
            }
            // its integers are unsigned, and no offset is agreed on
            Process::JpegXl if signed => Err(unsupported("JPEG XL with signed samples")),
            Process::JpegDct if layout.bits_stored != 8 || signed => {
                Err(inconsistent(format!("8 unsigned bits in a JPEG frame, {} bits stored", layout.bits_stored)))
            }
            _ => Ok(()),
        }
    }

    /// Lossy coding may overshoot the stored range by a little where a frame has more bits, which is cut off; values
    /// far beyond are an image of another depth and refused. Masking, which takes garbage and overlays off the samples
    /// of a lossless frame, would fold them: white would turn black.
    fn clamped(&self, codes: Codes, precision: u16) -> Result<Codes, Refusal> {
        let (stored, signed) = (self.layout.bits_stored, self.layout.kind == SampleKind::Signed);
        if precision <= stored {
            return Ok(codes);
        }
        codes
            .clamped(precision, stored, signed)
            .ok_or_else(|| decode_failed(format!("values of a lossy frame exceed the {stored} bits stored")))
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
            Photometric::Xyb => Err(inconsistent("XYB exists within JPEG XL only".into())),
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
            // it undoes the transforms that the codestream knows of, that of a recompressed JPEG frame among them;
            // YBR_FULL elsewhere could mean that the samples themselves are Y, Cb and Cr
            Process::JpegXl => match (photometric, self.layout.transfer_syntax.as_str()) {
                (Photometric::Rgb | Photometric::YbrFull422, _) => Ok(ColourSpace::Rgb),
                (Photometric::YbrFull, JPEG_XL_RECOMPRESSION) => Ok(ColourSpace::Rgb),
                (Photometric::Xyb, _) if codestream.transformed => Ok(ColourSpace::Rgb),
                _ => Err(inconsistent("the photometric interpretation contradicts the JPEG XL codestream".into())),
            },
            Process::JpegDct => match (codestream.adobe_transform, photometric) {
                (Some(0), _) | (None, _)
                    if codestream.jfif && (codestream.named_rgb || codestream.adobe_transform.is_some()) =>
                {
                    Err(inconsistent("the JPEG frame says both that it is RGB and, by JFIF, that it is YCbCr".into()))
                }
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
}

fn floats(bytes: &[u8], bits_allocated: u16) -> Samples {
    Samples::Wide(match bits_allocated {
        32 => bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        _ => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
    })
}

/// One byte for each bit, the lowest bit of a byte first (PS3.5 8.1.1), from the given bit.
fn expand_bits(bytes: &[u8], first: usize, count: usize) -> Vec<u8> {
    bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)).skip(first).take(count).collect()
}

/// Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2) to Y Cb Cr of each pixel.
fn expand_422(bytes: &[u8]) -> Vec<u8> {
    bytes.as_chunks::<4>().0.iter().flat_map(|&[y1, y2, cb, cr]| [y1, cb, cr, y2, cb, cr]).collect()
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
