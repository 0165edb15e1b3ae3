//! Pixel formats: bit depths, byte orders, colour, fragments, and the image headers that are refused.

use super::super::Frames;
use super::super::decode::{ColourSpace, Samples};
use super::objects::{BIG, EXPLICIT, Encoding, Image, Object, decode, words};
use crate::domain::RefusalCode;

fn ints(bytes: Vec<u8>) -> Vec<i32> {
    let samples = decode(bytes, 0).expect("a sound image").samples;
    samples.integers().expect("integers")
}

#[test]
fn masks_shifts_and_extends_the_sign() {
    let base = Image { rows: 1, columns: 3, ..Image::default() };
    let rows: Vec<(Image, Vec<u16>, [i32; 3])> = vec![
        (base.clone(), vec![0xF001, 0x0FFF, 0x8000], [1, 4095, 0]),
        (Image { signed: 1, ..base.clone() }, vec![0x0FFF, 0x0800, 0xF7FF], [-1, -2048, 2047]),
        (Image { high: 15, ..base.clone() }, vec![0x001F, 0xFFF0, 0x8005], [1, 4095, 2048]),
        (Image { high: 15, signed: 1, ..base.clone() }, vec![0xFFFF, 0x8000, 0x7FF0], [-1, -2048, 2047]),
        (Image { stored: 16, high: 15, signed: 1, ..base.clone() }, vec![0xFFFF, 0x8000, 1], [-1, -32768, 1]),
        (Image { stored: 8, high: 7, ..base.clone() }, vec![0xAB12, 0xFF, 0x100], [0x12, 255, 0]),
        (Image { stored: 1, high: 0, ..base.clone() }, vec![1, 2, 3], [1, 0, 1]),
    ];
    for (image, pixels, expected) in rows {
        assert_eq!(ints(image.file(&words(&pixels))), expected, "{} of {}", image.stored, image.high);
    }
}

#[test]
fn eight_bit_samples_in_big_endian_words_are_put_in_order() {
    let image = Image { rows: 1, columns: 3, frames: Some("2"), allocated: 8, stored: 8, high: 7, ..Image::default() };
    let file = |vr, bytes: &[u8]| image.object(Encoding::Big).element(0x7FE0_0010, vr, bytes).file(BIG);
    for (vr, bytes) in [("OB", [1, 2, 3, 4, 5, 6]), ("OW", [2, 1, 4, 3, 6, 5])] {
        for (index, expected) in [(0, vec![1, 2, 3]), (1, vec![4, 5, 6])] {
            let frame = decode(file(vr, &bytes), index).expect("a sound image");
            assert_eq!(frame.samples, Samples::U8(expected), "{vr} frame {index}");
        }
    }
}

#[test]
fn big_endian_samples_of_other_widths_are_refused_with_the_reason() {
    let rows = [
        (32, "OW", vec![0, 1, 0, 0], "word order is ambiguous"),
        (32, "OB", vec![0, 0, 0, 1], "word order is ambiguous"),
        (1, "OB", vec![1, 0], "1 bits allocated"),
    ];
    for (bits, vr, bytes, reason) in rows {
        let image = Image { rows: 1, columns: 1, allocated: bits, stored: bits, high: bits - 1, ..Image::default() };
        let file = image.object(Encoding::Big).element(0x7FE0_0010, vr, &bytes).file(BIG);
        let refusal = decode(file, 0).expect_err("a refusal");
        assert_eq!(refusal.code, RefusalCode::UnsupportedFormat, "{refusal}");
        assert!(refusal.detail.contains(reason), "{refusal}");
    }
}

#[test]
fn frames_of_single_bits_follow_without_padding() {
    let image = Image { rows: 1, columns: 5, allocated: 1, stored: 1, high: 0, frames: Some("3"), ..Image::default() };
    // read from the lowest bit: 10110 01001 11100 and one bit of padding
    let file = image.file(&[0b0100_1101, 0b0001_1110]);
    for (index, expected) in [(0, [1, 0, 1, 1, 0]), (1, [0, 1, 0, 0, 1]), (2, [1, 1, 1, 0, 0])] {
        let frame = decode(file.clone(), index).expect("a sound image");
        assert_eq!(frame.samples, Samples::U8(expected.to_vec()), "frame {index}");
    }
}

#[test]
fn colour_arrives_pixel_by_pixel() {
    let base = Image { rows: 1, columns: 2, samples: 3, allocated: 8, stored: 8, high: 7, ..Image::default() };
    let rows: Vec<(Image, &[u8], [u8; 6], ColourSpace)> = vec![
        (Image { photometric: "RGB", ..base.clone() }, &[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], ColourSpace::Rgb),
        (
            Image { photometric: "RGB", planar: Some(1), ..base.clone() },
            &[1, 4, 2, 5, 3, 6],
            [1, 2, 3, 4, 5, 6],
            ColourSpace::Rgb,
        ),
        (
            Image { photometric: "YBR_FULL", ..base.clone() },
            &[9, 1, 2, 8, 3, 4],
            [9, 1, 2, 8, 3, 4],
            ColourSpace::YbrFull,
        ),
        (Image { photometric: "YBR_FULL_422", ..base }, &[9, 8, 1, 2], [9, 1, 2, 8, 1, 2], ColourSpace::YbrFull),
    ];
    for (image, pixels, expected, space) in rows {
        let frame = decode(image.file(pixels), 0).expect("a sound image");
        assert_eq!((frame.samples, frame.space), (Samples::U8(expected.to_vec()), space), "{}", image.photometric);
    }
}

#[test]
fn refuses_image_headers_that_contradict_the_pixels() {
    use RefusalCode::{Inconsistent, TooLarge, UnsupportedFormat};
    let base = Image::default();
    let rows: Vec<(Image, usize, RefusalCode)> = vec![
        (Image { stored: 0, ..base.clone() }, 12, Inconsistent),
        (Image { stored: 17, high: 16, ..base.clone() }, 12, Inconsistent),
        (Image { stored: 31, high: 30, ..base.clone() }, 12, Inconsistent),
        (Image { high: 3, ..base.clone() }, 12, Inconsistent),
        (Image { high: 16, ..base.clone() }, 12, Inconsistent),
        (Image { signed: 7, ..base.clone() }, 12, Inconsistent),
        (Image { rows: 0, ..base.clone() }, 12, Inconsistent),
        (Image { rows: 3, ..base.clone() }, 12, Inconsistent),
        (Image { rows: 1, ..base.clone() }, 12, Inconsistent),
        (Image { frames: Some("0"), ..base.clone() }, 12, Inconsistent),
        (Image { frames: Some("-1"), ..base.clone() }, 12, Inconsistent),
        (Image { frames: Some("2000000000"), ..base.clone() }, 12, TooLarge),
        (Image { frames: Some("50000"), ..base.clone() }, 12, Inconsistent),
        (Image { rows: 65_535, columns: 65_535, ..base.clone() }, 12, TooLarge),
        (Image { samples: 3, ..base.clone() }, 12, Inconsistent),
        (Image { photometric: "RGB", ..base.clone() }, 12, Inconsistent),
        (Image { photometric: "YBR_PARTIAL_422", samples: 3, ..base.clone() }, 12, UnsupportedFormat),
        (Image { allocated: 1, stored: 1, high: 0, ..base.clone() }, 12, Inconsistent),
        (Image { allocated: 1, stored: 1, high: 0, frames: Some("17"), ..base.clone() }, 12, Inconsistent),
        (Image { allocated: 4, stored: 4, high: 3, ..base.clone() }, 12, UnsupportedFormat),
        (Image { allocated: 24, ..base.clone() }, 12, UnsupportedFormat),
    ];
    for (n, (image, bytes, expected)) in rows.into_iter().enumerate() {
        assert_eq!(decode(image.file(&vec![0; bytes]), 0).map_err(|r| r.code), Err(expected), "row {n}");
    }
}

pub fn encapsulated(image: &Image, syntax: &str, table: &[u32], fragments: &[Vec<u8>]) -> Vec<u8> {
    let table: Vec<u8> = table.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut object = image.object(Encoding::Explicit).head(0x7FE0_0010, "OB", u32::MAX);
    for item in std::iter::once(&table).chain(fragments) {
        object = object.head(0xFFFE_E000, "", item.len() as u32).raw(item);
    }
    object.head(0xFFFE_E0DD, "", 0).file(syntax)
}

const RLE: &str = "1.2.840.10008.1.2.5";

/// One RLE frame of 2 × 3 8-bit pixels of the value.
fn rle(value: u8) -> Vec<u8> {
    let mut frame = vec![0; 64];
    (frame[0], frame[4]) = (1, 64);
    frame.extend([0xFB, value]);
    frame
}

#[test]
fn fragments_find_their_frames() {
    let image = Image { allocated: 8, stored: 8, high: 7, frames: Some("2"), ..Image::default() };
    let halves = |value| (rle(value)[..40].to_vec(), rle(value)[40..].to_vec());
    let (a, b) = (halves(7), halves(9));
    let split = [a.0, a.1, b.0, b.1];
    let second = 8 + 40 + 8 + 26;
    let rows: Vec<(&str, Vec<u8>, Result<u8, RefusalCode>)> = vec![
        ("one fragment each", encapsulated(&image, RLE, &[], &[rle(7), rle(9)]), Ok(9)),
        ("two each, with a table", encapsulated(&image, RLE, &[0, second], &split), Ok(9)),
        ("a table into the void", encapsulated(&image, RLE, &[0, second + 2], &split), Err(RefusalCode::Inconsistent)),
        ("two each, no table", encapsulated(&image, RLE, &[], &split), Err(RefusalCode::Inconsistent)),
        ("too few", encapsulated(&image, RLE, &[], &[rle(7)]), Err(RefusalCode::Inconsistent)),
        ("truncated", encapsulated(&image, RLE, &[], &[rle(7), rle(9)[..65].to_vec()]), Err(RefusalCode::DecodeFailed)),
        (
            "not encapsulated",
            image.object(Encoding::Explicit).element(0x7FE0_0010, "OB", &[0; 12]).file(RLE),
            Err(RefusalCode::Inconsistent),
        ),
        (
            "encapsulated in a native syntax",
            encapsulated(&image, EXPLICIT, &[], &[rle(7), rle(9)]),
            Err(RefusalCode::Inconsistent),
        ),
        (
            "a syntax that nobody decodes",
            encapsulated(&image, "1.2.840.10008.1.2.4.100", &[], &[rle(7), rle(9)]),
            Err(RefusalCode::UnsupportedFormat),
        ),
        (
            "a codestream of another size",
            encapsulated(&image, "1.2.840.10008.1.2.4.50", &[], &[jpeg(0xC0, 8), jpeg(0xC0, 8)]),
            Err(RefusalCode::Inconsistent),
        ),
        (
            "a codestream that is none",
            encapsulated(&image, "1.2.840.10008.1.2.4.90", &[], &[rle(7), rle(9)]),
            Err(RefusalCode::DecodeFailed),
        ),
    ];
    for (name, bytes, expected) in rows {
        let got = decode(bytes, 1).map(|f| f.samples).map_err(|r| r.code);
        assert_eq!(got, expected.map(|v| Samples::U8(vec![v; 6])), "{name}");
    }
}

/// A JPEG header that claims 30,000 × 30,000 pixels.
fn jpeg(sof: u8, precision: u8) -> Vec<u8> {
    vec![
        0xFF, 0xD8, 0xFF, sof, 0, 11, precision, 0x75, 0x30, 0x75, 0x30, 1, 1, 0x11, 0, 0xFF, 0xDA, 0, 8, 1, 1, 0, 0,
        63, 0,
    ]
}

#[test]
fn float_and_wide_samples_keep_their_value() {
    let base = Image { rows: 1, columns: 2, allocated: 32, stored: 32, high: 31, ..Image::default() };
    let bytes = [u32::MAX.to_le_bytes(), 1u32.to_le_bytes()].concat();
    assert_eq!(decode(base.file(&bytes), 0).map(|f| f.samples), Ok(Samples::Wide(vec![4_294_967_295.0, 1.0])));
    assert_eq!(ints(Image { signed: 1, ..base.clone() }.file(&bytes)), [-1, 1]);
    let floats = [0.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
    let file = base.object(Encoding::Explicit).element(0x7FE0_0008, "OF", &floats).file(EXPLICIT);
    assert_eq!(decode(file, 0).map(|f| f.samples), Ok(Samples::Wide(vec![0.5, -2.0])));
}

#[test]
fn frames_are_chosen_evenly_with_both_ends() {
    let rows: &[(Frames, u32, &[u32])] = &[
        (Frames::First, 9, &[0]),
        (Frames::Middle, 9, &[4]),
        (Frames::Middle, 1, &[0]),
        (Frames::All { max: 4 }, 3, &[0, 1, 2]),
        (Frames::All { max: 4 }, 10, &[0, 3, 6, 9]),
        (Frames::All { max: 1 }, 10, &[5]),
        (Frames::All { max: 0 }, 10, &[5]),
        (Frames::All { max: 4 }, 0, &[]),
    ];
    for (frames, count, expected) in rows {
        assert_eq!(&frames.of(*count), expected, "{frames:?} of {count}");
    }
    assert_eq!(Frames::All { max: 3 }.of(u32::MAX), [0, u32::MAX / 2, u32::MAX - 1]);
}

#[test]
fn an_object_without_pixels_says_so() {
    let file = Object::new(Encoding::Explicit).text(0x0008_0060, "CS", "SR").file(EXPLICIT);
    assert_eq!(decode(file, 0).map_err(|r| r.code), Err(RefusalCode::NoPixels));
}
