//! The Image Pixel module (PS3.3 C.7.6.3), checked: what every later step may rely on.
//!
//! A [`Layout`] exists only for an image whose size, depth and pixel data agree and lie within the limits.
//! Neighbours: `dataset` below, `decode` above. Left out: the codestreams of encapsulated frames (`codestream`).

use super::Limits;
use super::dataset::{Item, Scan, Span, Tag, Value, tag_text};
use crate::domain::{Refusal, RefusalCode};

/// Frames of one object: an hour of fluoroscopy at 15 a second.
const FRAMES_MAX: u32 = 54_000;
/// Fragments of one object, over all and for each frame: an encoder may write no more than 1,000 bytes to each.
const FRAGMENTS_MAX: usize = 65_536;
const FRAGMENTS_PER_FRAME_MAX: usize = 64;
/// What the length of native pixel data follows from.
const SIZE: &str = "Rows (0028,0010), Columns (0028,0011) and frames";
/// Bytes behind the samples that may be padding.
const SURPLUS_MAX: u64 = 512;

/// Encapsulated Uncompressed Explicit VR Little Endian.
pub const ENCAPSULATED_UNCOMPRESSED: &str = "1.2.840.10008.1.2.1.98";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Photometric {
    Monochrome1,
    Monochrome2,
    Palette,
    Rgb,
    YbrFull,
    YbrFull422,
    /// JPEG 2000 with an irreversible or reversible colour transform: the decoder returns RGB.
    YbrIct,
    YbrRct,
    /// JPEG XL in its own colour space: the decoder returns RGB.
    Xyb,
}

/// What a stored sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind {
    Unsigned,
    Signed,
    /// Float Pixel Data (7FE0,0008) or Double Float Pixel Data (7FE0,0009).
    Float,
}

/// Where the samples are.
#[derive(Debug, Clone, PartialEq)]
pub enum PixelSource {
    Native {
        span: Span,
        /// 8-bit samples were written as 16-bit words (OW).
        words: bool,
    },
    /// Fragments without the Basic Offset Table; the offsets of the frames, from the first fragment's item, or none.
    Encapsulated { fragments: Vec<Span>, offsets: Vec<u64> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub transfer_syntax: String,
    pub rows: u32,
    pub columns: u32,
    pub frames: u32,
    /// 1 or 3.
    pub samples_per_pixel: u16,
    pub photometric: Photometric,
    /// 1, 8, 16, 32 or 64.
    pub bits_allocated: u16,
    /// 1 to Bits Allocated.
    pub bits_stored: u16,
    /// Position of the lowest stored bit: High Bit + 1 − Bits Stored.
    pub shift: u16,
    pub kind: SampleKind,
    /// Planar Configuration 1: all red samples, then all green, then all blue.
    pub planar: bool,
    pub big_endian: bool,
    pub source: PixelSource,
}

impl Layout {
    /// Reads and checks the Image Pixel module.
    pub fn of(scan: &mut Scan, limits: &Limits) -> Result<Self, Refusal> {
        let (tag, bits_of_float) = pixel_element(&scan.root)?;
        let root = &scan.root;
        let rows = u32::from(us(root, 0x0028_0010, "Rows")?);
        let columns = u32::from(us(root, 0x0028_0011, "Columns")?);
        if rows == 0 || columns == 0 {
            return Err(inconsistent(format!("Rows (0028,0010) is {rows}, Columns (0028,0011) is {columns}")));
        }
        let samples_per_pixel = us(root, 0x0028_0002, "Samples per Pixel")?;
        let photometric = photometric(root, samples_per_pixel)?;
        let frames = frames(root)?;
        let samples = u64::from(rows) * u64::from(columns) * u64::from(samples_per_pixel);
        if samples > limits.samples_max {
            let detail = format!(
                "a frame has {samples} samples by Rows (0028,0010), Columns (0028,0011) and Samples per Pixel (0028,0002), \
                 the limit pixels.samples_max is {}",
                limits.samples_max
            );
            return Err(Refusal::new(RefusalCode::TooLarge, detail));
        }
        let bits_allocated = us(root, 0x0028_0100, "Bits Allocated")?;
        let (kind, bits_stored, shift) = match bits_of_float {
            Some(bits) if bits == bits_allocated => (SampleKind::Float, bits, 0),
            Some(bits) => {
                return Err(inconsistent(format!(
                    "{} needs Bits Allocated (0028,0100) {bits}, not {bits_allocated}",
                    tag_text(tag)
                )));
            }
            None => depth(root, bits_allocated)?,
        };
        if samples_per_pixel == 3 && (kind != SampleKind::Unsigned || !matches!(bits_allocated, 8 | 16)) {
            return Err(unsupported(
                "three Samples per Pixel (0028,0002) that are signed or neither 8 nor 16 bits wide".into(),
            ));
        }
        if photometric == Photometric::Palette && (kind != SampleKind::Unsigned || !matches!(bits_allocated, 8 | 16)) {
            return Err(unsupported(
                "PALETTE COLOR (0028,0004) with samples that are signed or neither 8 nor 16 bits wide".into(),
            ));
        }
        let planar = samples_per_pixel == 3 && root.us(0x0028_0006) == Some(1);
        let mut layout = Self {
            transfer_syntax: scan.transfer_syntax.clone(),
            rows,
            columns,
            frames,
            samples_per_pixel,
            photometric,
            bits_allocated,
            bits_stored,
            shift,
            kind,
            planar,
            big_endian: scan.big_endian,
            source: PixelSource::Encapsulated { fragments: Vec::new(), offsets: Vec::new() },
        };
        layout.source = layout.pixel_source(scan, tag)?;
        Ok(layout)
    }

    /// Pixels of one frame.
    pub fn pixels(&self) -> usize {
        self.rows as usize * self.columns as usize
    }

    /// Samples of one frame, colour expanded.
    pub fn samples(&self) -> usize {
        self.pixels() * usize::from(self.samples_per_pixel)
    }

    /// Bytes of one native frame (PS3.5 8.1.1, 8.2): 4:2:2 stores two chroma samples for two pixels. With one bit
    /// allocated, frames follow one another without padding, so that a frame may touch one byte more.
    pub fn native_frame_bytes(&self) -> usize {
        if self.bits_allocated == 1 {
            return self.pixels().div_ceil(8);
        }
        let samples = if self.photometric == Photometric::YbrFull422 { self.pixels() * 2 } else { self.samples() };
        samples * usize::from(self.bits_allocated / 8)
    }

    /// The smallest and largest value that the stored bits allow; nothing for floating point.
    pub fn stored_range(&self) -> Option<(f64, f64)> {
        match self.kind {
            SampleKind::Unsigned => Some((0.0, f64::from(self.bits_stored).exp2() - 1.0)),
            SampleKind::Signed => {
                let half = f64::from(self.bits_stored - 1).exp2();
                Some((-half, half - 1.0))
            }
            SampleKind::Float => None,
        }
    }

    fn pixel_source(&self, scan: &mut Scan, tag: Tag) -> Result<PixelSource, Refusal> {
        let Some(element) = scan.root.get(tag) else {
            return Err(Refusal::new(RefusalCode::NoPixels, "the instance has no pixel data"));
        };
        let words = element.vr == *b"OW";
        let (span, encapsulated) = match &element.value {
            Value::Native(span) => (Some(*span), Vec::new()),
            Value::Fragments(fragments) => (None, fragments.clone()),
            _ => return Err(inconsistent(format!("{} is not pixel data", tag_text(tag)))),
        };
        let native_syntax = is_native(&self.transfer_syntax);
        let uncompressed = native_syntax || self.transfer_syntax == ENCAPSULATED_UNCOMPRESSED;
        let halved = self.photometric == Photometric::YbrFull422;
        if uncompressed && halved && (self.columns % 2 == 1 || self.bits_allocated != 8) {
            return Err(unsupported("YBR_FULL_422 with an odd number of columns or other than 8 bits".into()));
        }
        match (span, native_syntax) {
            (Some(span), true) => self.check_native(span).map(|()| PixelSource::Native { span, words }),
            (None, false) => {
                let Some((table, fragments)) = encapsulated.split_first() else {
                    return Err(inconsistent("the encapsulated pixel data holds no item".into()));
                };
                if fragments.len() < self.frames as usize {
                    let (fragments, frames) = (fragments.len(), self.frames);
                    let detail =
                        format!("Number of Frames (0028,0008) is {frames}, pixel data has {fragments} fragments");
                    return Err(inconsistent(detail));
                }
                let max = FRAGMENTS_MAX + FRAGMENTS_PER_FRAME_MAX * self.frames as usize;
                if fragments.len() > max {
                    let detail = format!("{} fragments of pixel data, the limit is {max}", fragments.len());
                    return Err(Refusal::new(RefusalCode::TooLarge, detail));
                }
                let offsets = offsets(scan, *table, fragments, self.frames)?;
                Ok(PixelSource::Encapsulated { fragments: fragments.to_vec(), offsets })
            }
            (Some(_), false) => Err(inconsistent(format!(
                "the pixel data is not encapsulated, transfer syntax {} needs it to be",
                self.transfer_syntax
            ))),
            (None, true) => Err(inconsistent(format!(
                "the pixel data is encapsulated, transfer syntax {} does not allow it",
                self.transfer_syntax
            ))),
        }
    }

    fn check_native(&self, span: Span) -> Result<(), Refusal> {
        match self.bits_allocated {
            8 | 16 => {}
            // OW is a stream of 16-bit words (PS3.5 6.2), so only their bytes are swapped: dcmtk and GDCM write and
            // read it so. pydicom swaps all four bytes. Nothing tells files of the two kinds apart, and a wrong guess
            // is a factor of 65536.
            32 if self.big_endian && self.kind != SampleKind::Float => {
                return Err(unsupported(
                    "32-bit integers in Explicit VR Big Endian, whose word order is ambiguous".into(),
                ));
            }
            bits if self.big_endian => {
                return Err(unsupported(format!("{bits} bits allocated in Explicit VR Big Endian")));
            }
            _ => {}
        }
        self.check_bytes(span.bytes, self.frames)
    }

    /// Whether so many uncompressed bytes hold so many frames and, but for a little padding, nothing else.
    pub fn check_bytes(&self, bytes: u64, frames: u32) -> Result<(), Refusal> {
        let frame = self.native_frame_bytes() as u64;
        let pixels = self.pixels() as u64 * u64::from(frames);
        let needed = if self.bits_allocated == 1 { pixels.div_ceil(8) } else { frame * u64::from(frames) };
        if bytes < needed {
            return Err(inconsistent(format!("the pixel data has {bytes} bytes, {SIZE} need {needed}")));
        }
        if self.photometric == Photometric::YbrFull422 && bytes >= pixels * 3 {
            return Err(unsupported(
                "YBR_FULL_422 whose pixel data has three bytes for each pixel, as YBR_FULL has".into(),
            ));
        }
        if bytes - needed > SURPLUS_MAX.min(needed / 8).max(2) || bytes - needed >= frame.max(2) {
            let detail = format!("the pixel data has {bytes} bytes, {SIZE} need {needed}: more than padding is left");
            return Err(inconsistent(detail));
        }
        Ok(())
    }
}

/// Whether pixel data of this transfer syntax is written without encapsulation.
fn is_native(transfer_syntax: &str) -> bool {
    matches!(
        transfer_syntax,
        "1.2.840.10008.1.2" | "1.2.840.10008.1.2.1" | "1.2.840.10008.1.2.2" | "1.2.840.10008.1.2.1.99"
    )
}

/// The one pixel data element, and its bits where it is floating point.
fn pixel_element(root: &Item) -> Result<(Tag, Option<u16>), Refusal> {
    const KINDS: [(Tag, Option<u16>); 3] = [(0x7FE0_0010, None), (0x7FE0_0008, Some(32)), (0x7FE0_0009, Some(64))];
    let mut present = KINDS.into_iter().filter(|(tag, _)| root.get(*tag).is_some());
    match (present.next(), present.next()) {
        (Some(kind), None) => Ok(kind),
        (None, _) => Err(Refusal::new(RefusalCode::NoPixels, "the instance has no pixel data")),
        _ => Err(inconsistent("the instance has more than one pixel data element".into())),
    }
}

fn photometric(root: &Item, samples_per_pixel: u16) -> Result<Photometric, Refusal> {
    let Some(name) = root.code_string(0x0028_0004) else {
        return Err(inconsistent("Photometric Interpretation (0028,0004) is missing".into()));
    };
    const SAMPLES: &str = "Samples per Pixel (0028,0002)";
    let (photometric, samples) = match name.as_str() {
        "MONOCHROME1" => (Photometric::Monochrome1, 1),
        "MONOCHROME2" => (Photometric::Monochrome2, 1),
        "PALETTE COLOR" => (Photometric::Palette, 1),
        "RGB" => (Photometric::Rgb, 3),
        "YBR_FULL" => (Photometric::YbrFull, 3),
        "YBR_FULL_422" => (Photometric::YbrFull422, 3),
        "YBR_ICT" => (Photometric::YbrIct, 3),
        "YBR_RCT" => (Photometric::YbrRct, 3),
        "XYB" => (Photometric::Xyb, 3),
        other => return Err(unsupported(format!("Photometric Interpretation (0028,0004) {other:.20}"))),
    };
    if samples != samples_per_pixel {
        return Err(inconsistent(format!("{SAMPLES} is {samples_per_pixel}, {name} has {samples}")));
    }
    Ok(photometric)
}

fn frames(root: &Item) -> Result<u32, Refusal> {
    if root.bytes(0x0028_0008).is_none() {
        return Ok(1);
    }
    match root.integer(0x0028_0008).and_then(|n| u32::try_from(n).ok()) {
        None | Some(0) => Err(inconsistent("Number of Frames (0028,0008) is no positive number".into())),
        Some(n) if n > FRAMES_MAX => Err(Refusal::new(
            RefusalCode::TooLarge,
            format!("Number of Frames (0028,0008) is {n}, the limit is {FRAMES_MAX}"),
        )),
        Some(n) => Ok(n),
    }
}

/// Sample kind, Bits Stored and the position of the lowest stored bit.
fn depth(root: &Item, bits_allocated: u16) -> Result<(SampleKind, u16, u16), Refusal> {
    if !matches!(bits_allocated, 1 | 8 | 16 | 32) {
        return Err(unsupported(format!("Bits Allocated (0028,0100) {bits_allocated} in place of 1, 8, 16 or 32")));
    }
    let bits_stored = us(root, 0x0028_0101, "Bits Stored")?;
    if bits_stored == 0 || bits_stored > bits_allocated {
        return Err(inconsistent(format!("Bits Stored (0028,0101) is {bits_stored} of {bits_allocated} allocated")));
    }
    let high_bit = root.us(0x0028_0102).unwrap_or(bits_stored - 1);
    if high_bit >= bits_allocated || high_bit + 1 < bits_stored {
        return Err(inconsistent(format!(
            "High Bit (0028,0102) is {high_bit} with {bits_stored} bits stored of {bits_allocated} allocated"
        )));
    }
    let kind = match us(root, 0x0028_0103, "Pixel Representation")? {
        0 => SampleKind::Unsigned,
        1 => SampleKind::Signed,
        other => return Err(inconsistent(format!("Pixel Representation (0028,0103) is {other}"))),
    };
    Ok((kind, bits_stored, high_bit + 1 - bits_stored))
}

/// Offsets of the frames: the Extended Offset Table, else the Basic Offset Table, else none.
fn offsets(scan: &mut Scan, basic: Span, fragments: &[Span], frames: u32) -> Result<Vec<u64>, Refusal> {
    let frames = frames as usize;
    if let Some(offsets) = extended(&scan.root, 0x7FE0_0001, frames)? {
        let lengths = extended(&scan.root, 0x7FE0_0002, frames)?;
        check_extended(&offsets, lengths.as_deref(), fragments)?;
        return Ok(offsets);
    }
    if frames == 1 && basic.bytes > 4 {
        return Err(inconsistent(format!("Basic Offset Table of {} for one frame", basic.bytes / 4)));
    }
    // a table that does not fit the frames is ignored: the fragments themselves decide then
    if basic.bytes != frames as u64 * 4 {
        return Ok(Vec::new());
    }
    let bytes = scan.read(basic)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    let number = |b: &[u8; 4]| if scan.big_endian { u32::from_be_bytes(*b) } else { u32::from_le_bytes(*b) };
    Ok(numbers.iter().map(|b| u64::from(number(b))).collect())
}

/// Extended Offset Table (7FE0,0001) or its lengths (7FE0,0002), one number for each frame; `None` if absent.
fn extended(root: &Item, tag: Tag, frames: usize) -> Result<Option<Vec<u64>>, Refusal> {
    let Some(bytes) = root.bytes(tag) else { return Ok(None) };
    let (numbers, rest) = bytes.as_chunks::<8>();
    if numbers.len() != frames || !rest.is_empty() {
        let detail = format!("{} has {} bytes for {frames} frames", tag_text(tag), bytes.len());
        return Err(inconsistent(detail));
    }
    Ok(Some(numbers.iter().map(|b| u64::from_le_bytes(*b)).collect()))
}

/// Each frame begins with the fragment that its offset, counted from the first fragment's item, points to, and its
/// fragments are as long as its length says, but for a byte of padding (PS3.3 C.7.6.3.1.8).
fn check_extended(offsets: &[u64], lengths: Option<&[u64]>, fragments: &[Span]) -> Result<(), Refusal> {
    let refuse = |table, frame| {
        Err(inconsistent(format!("Extended Offset Table {table}: frame {} is not as it says", frame + 1)))
    };
    let first = fragments.first().map_or(0, |f| f.offset);
    let mut starts = Vec::with_capacity(offsets.len());
    for (frame, offset) in offsets.iter().enumerate() {
        match fragments.binary_search_by_key(&first.saturating_add(*offset), |f| f.offset) {
            Ok(start) if starts.last().is_none_or(|last| *last < start) => starts.push(start),
            _ => return refuse("(7FE0,0001)", frame),
        }
    }
    for (frame, length) in lengths.unwrap_or_default().iter().enumerate() {
        let end = starts.get(frame + 1).copied().unwrap_or(fragments.len());
        let bytes: u64 = fragments[starts[frame]..end].iter().map(|f| f.bytes).sum();
        if bytes != *length && bytes != length.saturating_add(1) {
            return refuse("Lengths (7FE0,0002)", frame);
        }
    }
    Ok(())
}

fn us(root: &Item, tag: Tag, name: &str) -> Result<u16, Refusal> {
    root.us(tag).ok_or_else(|| inconsistent(format!("{name} {} is missing", tag_text(tag))))
}

fn inconsistent(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Inconsistent, detail)
}

fn unsupported(detail: String) -> Refusal {
    Refusal::new(RefusalCode::UnsupportedFormat, format!("{detail}: not supported"))
}
