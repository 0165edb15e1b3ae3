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
        (Image { stored: 32, high: 31, ..base.clone() }, 12, Inconsistent),
        (Image { stored: 40, high: 39, ..base.clone() }, 12, Inconsistent),
        (Image { allocated: 32, stored: 40, high: 39, ..base.clone() }, 24, Inconsistent),
        (Image { columns: 0, ..base.clone() }, 12, Inconsistent),
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
        (Image { photometric: "PALETTE COLOR", allocated: 32, ..base.clone() }, 24, UnsupportedFormat),
        (Image { photometric: "PALETTE COLOR", signed: 1, ..base.clone() }, 12, UnsupportedFormat),
        (
            Image { photometric: "PALETTE COLOR", allocated: 1, stored: 1, high: 0, ..base.clone() },
            2,
            UnsupportedFormat,
        ),
    ];
    for (n, (image, bytes, expected)) in rows.into_iter().enumerate() {
        let refusal = decode(image.file(&vec![0; bytes]), 0).expect_err("a contradiction");
        assert_eq!(refusal.code, expected, "row {n}: {refusal}");
        assert!(refusal.detail.contains("(0028,"), "row {n} names no attribute: {refusal}");
    }
}

#[test]
fn refuses_more_native_bytes_than_padding() {
    let grey = |rows, columns| Image { rows, columns, allocated: 8, stored: 8, high: 7, ..Image::default() };
    let half =
        |rows, columns| Image { photometric: "YBR_FULL_422", samples: 3, planar: Some(0), ..grey(rows, columns) };
    let rows: Vec<(Image, usize, Result<(), &str>)> = vec![
        (grey(64, 128), 8192 + 128, Ok(())),
        (grey(64, 128), 8192 + 512, Ok(())),
        (grey(64, 128), 8192 + 514, Err("more than padding")),
        (grey(10, 16), 160 + 20, Ok(())),
        (grey(10, 16), 160 + 22, Err("more than padding")),
        (grey(1, 3), 4, Ok(())),
        (grey(1, 2), 4, Err("more than padding")),
        (Image { frames: Some("2"), ..grey(2, 2) }, 10, Ok(())),
        (Image { frames: Some("2"), ..grey(2, 2) }, 12, Err("more than padding")),
        (half(64, 64), 64 * 64 * 2, Ok(())),
        (half(64, 64), 64 * 64 * 3, Err("as YBR_FULL has")),
        (half(1, 2), 6, Err("as YBR_FULL has")),
        (Image { frames: Some("3"), ..half(64, 64) }, 64 * 64 * 9, Err("as YBR_FULL has")),
        (half(64, 63), 64 * 63 * 2, Err("odd number of columns")),
        (Image { allocated: 16, ..half(64, 64) }, 64 * 64 * 4, Err("odd number of columns or other than 8")),
    ];
    for (image, bytes, expected) in rows {
        let bytes = vec![0; bytes];
        let mut files = vec![image.file(&bytes)];
        if image.frames.is_none() {
            files.push(encapsulated(&image, "1.2.840.10008.1.2.1.98", &[], &[bytes]));
        }
        for file in files {
            let got = decode(file, 0).map(|_| ()).map_err(|r| r.detail);
            match expected {
                Ok(()) => assert_eq!(got, Ok(())),
                Err(expected) => assert!(got.as_ref().is_err_and(|d| d.contains(expected)), "{expected}: {got:?}"),
            }
        }
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

#[test]
fn one_frame_is_one_codestream() {
    const BASELINE: &str = "1.2.840.10008.1.2.4.50";
    const JPEG_2000: &str = "1.2.840.10008.1.2.4.90";
    let image = Image { allocated: 8, stored: 8, high: 7, ..Image::default() };
    let several = "several codestreams";
    let halves = [rle(7)[..40].to_vec(), rle(7)[40..].to_vec()];
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("two JPEG frames", encapsulated(&image, BASELINE, &[], &[jpeg(0xC0, 8), jpeg(0xC0, 8)]), several),
        ("the third fragment", encapsulated(&image, BASELINE, &[], &[jpeg(0xC0, 8), vec![9], jpeg(0xC0, 8)]), several),
        ("JPEG 2000", encapsulated(&image, JPEG_2000, &[], &[vec![9], vec![0xFF, 0x4F, 0xFF, 0x51]]), several),
        ("two offsets", encapsulated(&image, RLE, &[0, 48], &halves), "Basic Offset Table of 2 for one frame"),
        ("another size", encapsulated(&image, BASELINE, &[0], &[jpeg(0xC0, 8), vec![0xFF, 0xD9]]), "30000 × 30000"),
        ("progressive", encapsulated(&image, BASELINE, &[0], &[jpeg(0xC2, 8)]), "progressive JPEG"),
        ("65,601 fragments", encapsulated(&image, RLE, &[], &vec![Vec::new(); 65_601]), "65601 fragments"),
    ];
    for (name, bytes, expected) in rows {
        let refusal = decode(bytes, 0).expect_err(name);
        assert!(refusal.detail.contains(expected), "{name}: {refusal}");
    }
    assert_eq!(decode(encapsulated(&image, RLE, &[0], &halves), 0).map(|f| f.samples), Ok(Samples::U8(vec![7; 6])));
}

#[test]
fn an_extended_offset_table_says_what_the_fragments_are_or_the_image_is_refused() {
    let image = Image { allocated: 8, stored: 8, high: 7, frames: Some("2"), ..Image::default() };
    let wide = |numbers: &[u64]| numbers.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let file = |offsets: &[u64], lengths: &[u64]| {
        let mut object = image.object(Encoding::Explicit).element(0x7FE0_0001, "OV", &wide(offsets));
        if !lengths.is_empty() {
            object = object.element(0x7FE0_0002, "OV", &wide(lengths));
        }
        object = object.head(0x7FE0_0010, "OB", u32::MAX);
        for item in [vec![], rle(7), rle(9)] {
            object = object.head(0xFFFE_E000, "", item.len() as u32).raw(&item);
        }
        object.head(0xFFFE_E0DD, "", 0).file(RLE)
    };
    let rows: [(&str, &[u64], &[u64], Result<u8, &str>); 9] = [
        ("both", &[0, 74], &[66, 66], Ok(9)),
        ("a byte of padding", &[0, 74], &[65, 66], Ok(9)),
        ("no lengths", &[0, 74], &[], Ok(9)),
        ("too short", &[0, 74], &[64, 66], Err("frame 1")),
        ("too long", &[0, 74], &[66, 67], Err("frame 2")),
        ("beyond the end", &[0, 74], &[66, u64::MAX], Err("frame 2")),
        ("between fragments", &[0, 76], &[66, 66], Err("frame 2")),
        ("the wrong way round", &[74, 0], &[66, 66], Err("frame 2")),
        ("one length", &[0, 74], &[66], Err("(7FE0,0002) has 8 bytes for 2 frames")),
    ];
    for (name, offsets, lengths, expected) in rows {
        match (decode(file(offsets, lengths), 1).map(|f| f.samples), expected) {
            (Ok(samples), Ok(value)) => assert_eq!(samples, Samples::U8(vec![value; 6]), "{name}"),
            (Err(refusal), Err(part)) => assert!(refusal.detail.contains(part), "{name}: {refusal}"),
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
}

#[test]
fn marks_of_jpeg_that_contradict_one_another_are_refused() {
    const JFIF: &[u8] = &[0xFF, 0xE0, 0, 16, b'J', b'F', b'I', b'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0];
    const ADOBE: &[u8] = &[0xFF, 0xEE, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, 0];
    let image = Image { samples: 3, photometric: "RGB", allocated: 8, stored: 8, high: 7, ..Image::default() };
    type Marks<'a> = &'a [&'a [u8]];
    let rows: [(Marks, &[u8; 3], bool); 5] = [
        (&[JFIF, ADOBE], &[1, 2, 3], true),
        (&[JFIF], b"RGB", true),
        (&[JFIF], &[1, 2, 3], false),
        (&[ADOBE], b"RGB", false),
        (&[], b"RGB", false),
    ];
    for (marks, names, contradict) in rows {
        let mut frame = vec![0xFF, 0xD8];
        marks.iter().for_each(|mark| frame.extend(*mark));
        frame.extend([0xFF, 0xC0, 0, 17, 8, 0, 2, 0, 3, 3]);
        names.iter().for_each(|name| frame.extend([*name, 0x11, 0]));
        frame.extend([0xFF, 0xDA, 0, 12, 3, names[0], 0, names[1], 0, names[2], 0, 0, 63, 0, 0xFF, 0xD9]);
        let refusal = decode(encapsulated(&image, "1.2.840.10008.1.2.4.50", &[], &[frame]), 0).expect_err("no samples");
        let expected = if contradict { RefusalCode::Inconsistent } else { RefusalCode::DecodeFailed };
        assert_eq!(refusal.code, expected, "{names:?} {} {refusal}", marks.len());
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
