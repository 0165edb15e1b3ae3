//! One image written down in many ways: transfer syntax, planes, VR, depth, fragments and offset tables do not show.
//!
//! Whole objects, byte by byte, through the same door as received ones. What dcmtk, GDCM and pylibjpeg encode (JPEG,
//! JPEG-LS, JPEG 2000) is compared in `tests/it/conformance.rs`; here are the forms that are written in a few lines.

use std::io::Cursor;

use proptest::prelude::*;

use super::super::dataset::Source;
use super::super::{Frames, Normalised, normalise_whole};
use super::contract::{assert_same, contracts};
use super::objects::{BIG, EXPLICIT, Encoding, IMPLICIT, Image, Object};
use super::structure::deflated;
use crate::domain::{Contract, Refusal, ValueRange};
use crate::pixels::Limits;

const RLE: &str = "1.2.840.10008.1.2.5";
const ENCAPSULATED_UNCOMPRESSED: &str = "1.2.840.10008.1.2.1.98";

/// An image, whichever way it is written.
#[derive(Debug, Clone)]
struct Picture {
    rows: u16,
    columns: u16,
    frames: u16,
    photometric: &'static str,
    /// Bits Stored.
    stored: u16,
    signed: bool,
    /// Frame by frame, colour by pixel; within the range of the stored bits.
    values: Vec<i32>,
    slope: f64,
    intercept: f64,
    center: f64,
    width: f64,
    function: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Syntax {
    Implicit,
    Explicit,
    Big,
    Deflated,
    Uncompressed,
    Rle,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum OffsetTable {
    None,
    Basic,
    Extended,
}

/// A way to write it.
#[derive(Debug, Clone, Copy)]
struct Form {
    syntax: Syntax,
    /// Bits Allocated.
    allocated: u16,
    vr: &'static str,
    by_plane: bool,
    /// The stored bits are the highest of a sample, not the lowest.
    high: bool,
    /// What stands in the bits that are not stored.
    garbage: u32,
    table: OffsetTable,
    /// Of each frame.
    fragments: usize,
}

const PLAIN: Form = Form {
    syntax: Syntax::Explicit,
    allocated: 16,
    vr: "OW",
    by_plane: false,
    high: false,
    garbage: 0,
    table: OffsetTable::None,
    fragments: 1,
};

impl Picture {
    fn samples(&self) -> usize {
        if self.photometric == "RGB" { 3 } else { 1 }
    }

    fn range(&self) -> (i32, i32) {
        let span = 1 << self.stored;
        if self.signed { (-span / 2, span / 2 - 1) } else { (0, span - 1) }
    }
}

impl Form {
    /// The nearest form that the Standard has for the image.
    fn of(self, picture: &Picture) -> Self {
        let mut form = self;
        // 32 bits in big endian or of colour are refused, by name
        if form.syntax == Syntax::Big || picture.samples() == 3 {
            form.allocated = form.allocated.min(16);
        }
        form.allocated = form.allocated.max(if picture.stored > 8 { 16 } else { 8 });
        if form.vr == "OB" && form.allocated > 8 || form.vr == "UN" && form.syntax == Syntax::Big {
            form.vr = "OW";
        }
        // which fragment begins a frame, only a Basic Offset Table says
        if picture.frames > 1 && form.table != OffsetTable::Basic || form.table == OffsetTable::Extended {
            form.fragments = 1;
        }
        form
    }
}

fn file(picture: &Picture, form: Form) -> Vec<u8> {
    let samples = picture.samples() as u16;
    let image = Image {
        rows: picture.rows,
        columns: picture.columns,
        frames: [None, Some("2"), Some("3")][usize::from(picture.frames) - 1],
        samples,
        photometric: picture.photometric,
        planar: (samples == 3).then_some(form.by_plane.into()),
        allocated: form.allocated,
        stored: picture.stored,
        high: if form.high { form.allocated } else { picture.stored } - 1,
        signed: picture.signed.into(),
    };
    let encoding = match form.syntax {
        Syntax::Implicit => Encoding::Implicit,
        Syntax::Big => Encoding::Big,
        _ => Encoding::Explicit,
    };
    let number = |v: f64| format!("{v:.6}");
    let object = image
        .object(encoding)
        .text(0x0020_0062, "CS", "R")
        .text(0x0028_1050, "DS", &number(picture.center))
        .text(0x0028_1051, "DS", &number(picture.width))
        .text(0x0028_1052, "DS", &number(picture.intercept))
        .text(0x0028_1053, "DS", &number(picture.slope))
        .text(0x0028_1054, "LO", "HU")
        .text(0x0028_1056, "CS", picture.function);
    let native = |object: Object| object.element(0x7FE0_0010, form.vr, &native(picture, form));
    match form.syntax {
        Syntax::Implicit => native(object).file(IMPLICIT),
        Syntax::Explicit => native(object).file(EXPLICIT),
        Syntax::Big => native(object).file(BIG),
        Syntax::Deflated => deflated(native(object)),
        Syntax::Uncompressed => encapsulated(object, picture, form).file(ENCAPSULATED_UNCOMPRESSED),
        Syntax::Rle => encapsulated(object, picture, form).file(RLE),
    }
}

/// The samples of each frame in the order of the form, garbage and all.
fn codes(picture: &Picture, form: Form) -> Vec<Vec<u32>> {
    let (samples, pixels) = (picture.samples(), usize::from(picture.rows) * usize::from(picture.columns));
    let mask = u32::MAX >> (32 - picture.stored);
    let shift = if form.high { form.allocated - picture.stored } else { 0 };
    let code = |(i, value): (usize, &i32)| {
        let garbage = form.garbage.rotate_left(i as u32 % 32) & !(mask << shift);
        (*value as u32 & mask) << shift | garbage
    };
    let frame = |values: &[i32]| {
        let codes: Vec<u32> = values.iter().enumerate().map(code).collect();
        if !form.by_plane || form.syntax == Syntax::Rle {
            return codes;
        }
        (0..samples).flat_map(|s| (0..pixels).map(move |p| p * samples + s)).map(|i| codes[i]).collect()
    };
    picture.values.chunks(samples * pixels).map(frame).collect()
}

fn native(picture: &Picture, form: Form) -> Vec<u8> {
    let width = usize::from(form.allocated / 8);
    let big = form.syntax == Syntax::Big;
    let sample =
        |code: u32| if big { code.to_be_bytes()[4 - width..].to_vec() } else { code.to_le_bytes()[..width].to_vec() };
    let mut bytes = even(codes(picture, form).concat().into_iter().flat_map(sample).collect());
    if big && form.allocated == 8 && form.vr == "OW" {
        bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
    }
    bytes
}

/// The image's pixel data in fragments, with the offset table of the form.
fn encapsulated(object: Object, picture: &Picture, form: Form) -> Object {
    let width = usize::from(form.allocated / 8);
    let frames: Vec<Vec<u8>> = codes(picture, form)
        .iter()
        .map(|codes| match form.syntax {
            Syntax::Rle => rle(codes, picture.samples(), width),
            _ => even(codes.iter().flat_map(|c| c.to_le_bytes()[..width].to_vec()).collect()),
        })
        .collect();
    let (mut offsets, mut fragments, mut at) = (Vec::new(), Vec::new(), 0u32);
    for frame in &frames {
        offsets.push(at);
        for fragment in frame.chunks((frame.len() / form.fragments).next_multiple_of(2).max(2)) {
            at += 8 + fragment.len() as u32;
            fragments.push(fragment);
        }
    }
    let mut object = object;
    if form.table == OffsetTable::Extended {
        let wide = |numbers: Vec<u64>| numbers.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        object = object.element(0x7FE0_0001, "OV", &wide(offsets.iter().map(|o| u64::from(*o)).collect())).element(
            0x7FE0_0002,
            "OV",
            &wide(frames.iter().map(|f| f.len() as u64).collect()),
        );
    }
    let basic = if form.table == OffsetTable::Basic { offsets } else { Vec::new() };
    let basic: Vec<u8> = basic.iter().flat_map(|o| o.to_le_bytes()).collect();
    object = object.head(0x7FE0_0010, "OB", u32::MAX);
    for item in std::iter::once(basic.as_slice()).chain(fragments) {
        object = object.head(0xFFFE_E000, "", item.len() as u32).raw(item);
    }
    object.head(0xFFFE_E0DD, "", 0)
}

/// A frame in RLE (PS3.5 Annex G): a segment for each byte of each sample, the highest byte first.
fn rle(codes: &[u32], samples: usize, width: usize) -> Vec<u8> {
    let segments: Vec<Vec<u8>> = (0..samples)
        .flat_map(|sample| (0..width).rev().map(move |byte| (sample, byte)))
        .map(|(sample, byte)| {
            packed(&codes.iter().skip(sample).step_by(samples).map(|c| c.to_le_bytes()[byte]).collect::<Vec<u8>>())
        })
        .collect();
    let mut header = vec![segments.len() as u32];
    let mut at = 64;
    for segment in &segments {
        header.push(at);
        at += segment.len() as u32;
    }
    header.resize(16, 0);
    header.iter().flat_map(|v| v.to_le_bytes()).chain(segments.concat()).collect()
}

/// Runs of equal bytes as runs, all else as literals.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in bytes.chunk_by(|a, b| a == b).flat_map(|run| run.chunks(128)) {
        match run {
            [byte] => out.extend([0, *byte]),
            [byte, ..] => out.extend([(257 - run.len()) as u8, *byte]),
            [] => {}
        }
    }
    even(out)
}

fn even(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}

fn normalised(picture: &Picture, bytes: Vec<u8>) -> Result<Normalised, Refusal> {
    let contracts: Vec<Contract> = contracts()
        .into_iter()
        .filter(|c| picture.photometric != "RGB" || !matches!(c.range, ValueRange::HuWindow { .. }))
        .collect();
    let open = || Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Source>);
    normalise_whole(open, &contracts, Frames::default(), &Limits::default())
}

fn picture() -> impl Strategy<Value = Picture> {
    let size = (1u16..10, 1u16..10, 1u16..4);
    let kind = (
        prop_oneof![3 => Just("MONOCHROME2"), 2 => Just("MONOCHROME1"), 2 => Just("RGB")],
        prop_oneof![2 => Just(8u16), 2 => Just(12u16), 2 => Just(16u16), 4 => 1u16..=16],
        any::<bool>(),
    );
    let values = (proptest::collection::vec(any::<i32>(), 1..40), 1usize..6);
    let transforms = (
        prop_oneof![Just(1.0), 0.1f64..5.0, -2f64..-0.1],
        -2000f64..2000.0,
        0f64..1.0,
        2f64..70_000.0,
        prop_oneof![Just("LINEAR"), Just("LINEAR_EXACT"), Just("SIGMOID")],
    );
    (size, kind, values, transforms).prop_map(
        |(size, kind, (seed, run), (slope, intercept, center, width, function))| {
            let (rows, columns, frames) = size;
            let (photometric, stored, signed) = (kind.0, kind.1, kind.2 && kind.0 != "RGB");
            let base = Picture {
                rows,
                columns,
                frames,
                photometric,
                stored,
                signed,
                values: Vec::new(),
                slope,
                intercept,
                center: 0.0,
                width,
                function,
            };
            let (low, high) = base.range();
            let count = usize::from(rows * columns * frames) * base.samples();
            // runs, for RLE
            let value = |i: usize| low + seed[i / run % seed.len()].rem_euclid(high - low + 1);
            let center = (f64::from(low) + center * f64::from(high - low)) * slope + intercept;
            Picture { values: (0..count).map(value).collect(), center, ..base }
        },
    )
}

fn form() -> impl Strategy<Value = Form> {
    use Syntax::{Big, Deflated, Explicit, Implicit, Rle, Uncompressed};
    (
        prop::sample::select(vec![Implicit, Explicit, Big, Deflated, Uncompressed, Rle]),
        prop::sample::select(vec![8, 16, 32]),
        prop::sample::select(vec!["OB", "OW", "UN"]),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0), any::<u32>()],
        prop::sample::select(vec![OffsetTable::None, OffsetTable::Basic, OffsetTable::Extended]),
        1usize..4,
    )
        .prop_map(|(syntax, allocated, vr, by_plane, high, garbage, table, fragments)| Form {
            syntax,
            allocated,
            vr,
            by_plane,
            high,
            garbage,
            table,
            fragments,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// To the last bit: digest, frames and tensors.
    #[test]
    fn an_image_is_the_same_however_it_is_written(
        picture in picture(),
        forms in proptest::collection::vec(form(), 8),
    ) {
        let plain = normalised(&picture, file(&picture, PLAIN));
        prop_assert!(plain.as_ref().is_ok_and(|n| n.frames.len() == usize::from(picture.frames)), "{:?}", plain);
        for form in forms {
            let form = form.of(&picture);
            let other = normalised(&picture, file(&picture, form));
            prop_assert!(other == plain, "{:?}: {:?}", form, other.map(|n| n.pixel_digest));
        }
    }

    /// And so that the property can fail: another value is another image.
    #[test]
    fn an_image_with_one_other_value_is_another(picture in picture(), at in any::<prop::sample::Index>()) {
        let mut other = picture.clone();
        let value = &mut other.values[at.index(picture.values.len())];
        *value = if *value == picture.range().0 { picture.range().1 } else { *value - 1 };
        let digest = |picture: &Picture| normalised(picture, file(picture, PLAIN)).map(|n| n.pixel_digest);
        prop_assert_ne!(digest(&picture), digest(&other));
    }

    /// Signed or not is a matter of the intercept: the modality values, and so the tensors, are the same.
    #[test]
    fn signed_values_with_another_intercept_give_the_same_tensors(picture in picture()) {
        let half = 1 << (picture.stored - 1);
        let unsigned = Picture {
            signed: false,
            values: picture.values.iter().map(|v| if picture.signed { v + half } else { *v }).collect(),
            ..picture.clone()
        };
        prop_assume!(unsigned.photometric != "RGB");
        let signed = Picture {
            signed: true,
            values: unsigned.values.iter().map(|v| v - half).collect(),
            intercept: unsigned.intercept + unsigned.slope * f64::from(half),
            ..unsigned.clone()
        };
        let tensors = |picture: &Picture| normalised(picture, file(picture, PLAIN)).map(|n| n.inputs);
        let (Ok(a), Ok(b)) = (tensors(&unsigned), tensors(&signed)) else {
            return Err(TestCaseError::fail("refused"));
        };
        prop_assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(&b) {
            assert_same(&a.plane, &b.plane, "signed")?;
        }
    }
}
