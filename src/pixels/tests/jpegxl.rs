//! JPEG XL in DICOM: lossy and recompressed frames show their picture, and the data set must fit the codestream.
//!
//! `jpegxl.csv` holds smooth pictures of 32 × 33 pixels, written by libjxl 0.11 (distance 0.1; or JPEG frames of
//! libjpeg-turbo, quality 95, recompressed). Lossless frames are in `codestreams`, whole files in the conformance test.

use base64::Engine as _;

use super::super::decode::{ColourSpace, Frame};
use super::formats::encapsulated;
use super::objects::{Image, decode};
use crate::domain::{Refusal, RefusalCode};

const ROWS: u16 = 32;
const COLUMNS: u16 = 33;
const LOSSLESS: &str = "1.2.840.10008.1.2.4.110";
const RECOMPRESSED: &str = "1.2.840.10008.1.2.4.111";
const ANY: &str = "1.2.840.10008.1.2.4.112";

#[derive(Debug, serde::Deserialize)]
struct Row {
    name: String,
    transfer_syntax: String,
    photometric: String,
    stored: u16,
    codestream: String,
}

impl Row {
    fn named(name: &str) -> Self {
        let mut reader = csv::Reader::from_reader(include_str!("jpegxl.csv").as_bytes());
        reader.deserialize().map(|row: Result<Row, _>| row.expect("a row")).find(|row| row.name == name).expect(name)
    }

    fn frame(&self) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(&self.codestream).expect("base64")
    }

    fn image(&self, photometric: &'static str) -> Image {
        let samples = if photometric.starts_with("MONO") { 1 } else { 3 };
        Image {
            rows: ROWS,
            columns: COLUMNS,
            samples,
            photometric,
            planar: (samples == 3).then_some(0),
            allocated: if self.stored <= 8 { 8 } else { 16 },
            stored: self.stored,
            high: self.stored - 1,
            ..Image::default()
        }
    }
}

fn decoded(image: &Image, transfer_syntax: &str, frame: Vec<u8>) -> Result<Frame, Refusal> {
    decode(encapsulated(image, transfer_syntax, &[], &[frame]), 0)
}

#[test]
fn lossy_and_recompressed_frames_show_their_picture() {
    let grey_12: fn(i32, i32) -> Vec<i32> = |x, y| vec![x * 60 + y * 50];
    let grey_8: fn(i32, i32) -> Vec<i32> = |x, y| vec![x * 4 + y * 3];
    let colour: fn(i32, i32) -> Vec<i32> = |x, y| vec![x * 7, y * 7, (255 - x * 3 - y * 4).max(0)];
    // tolerance: what libjxl itself is off by, and one
    let rows = [
        ("lossy grey", grey_12, ColourSpace::Grey, 8),
        ("lossy colour", colour, ColourSpace::Rgb, 10),
        ("recompressed grey", grey_8, ColourSpace::Grey, 2),
        ("recompressed 4:4:4", colour, ColourSpace::Rgb, 3),
        ("recompressed 4:2:0", colour, ColourSpace::Rgb, 8),
    ];
    for (name, picture, space, tolerance) in rows {
        let row = Row::named(name);
        let known = ["MONOCHROME2", "XYB", "YBR_FULL", "YBR_FULL_422"];
        let photometric = known.into_iter().find(|p| *p == row.photometric).expect("a photometric interpretation");
        let frame = decoded(&row.image(photometric), &row.transfer_syntax, row.frame()).expect(name);
        assert_eq!(frame.space, space, "{name}");
        let places = (0..i32::from(ROWS)).flat_map(|y| (0..i32::from(COLUMNS)).map(move |x| (x, y)));
        let expected: Vec<i32> = places.flat_map(|(x, y)| picture(x, y)).collect();
        let got = frame.samples.integers().expect("integers");
        assert_eq!(got.len(), expected.len(), "{name}");
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).max();
        assert!(worst <= Some(tolerance), "{name} is off by {worst:?}");
    }
}

#[test]
fn the_data_set_must_fit_the_codestream() {
    use RefusalCode::{Inconsistent, UnsupportedFormat};
    let (grey, colour) = (Row::named("lossy grey"), Row::named("recompressed 4:4:4"));
    let twelve = grey.image("MONOCHROME2");
    let rows = [
        (&grey, Image { rows: 33, ..twelve.clone() }, ANY, Some(Inconsistent)),
        (&grey, Image { columns: 32, ..twelve.clone() }, ANY, Some(Inconsistent)),
        (&grey, Image { allocated: 8, stored: 8, high: 7, ..twelve.clone() }, ANY, Some(Inconsistent)),
        (&grey, Image { signed: 1, ..twelve.clone() }, ANY, Some(UnsupportedFormat)),
        (&grey, grey.image("RGB"), ANY, Some(Inconsistent)),
        (&grey, Image { stored: 16, high: 15, ..twelve.clone() }, ANY, None),
        (&colour, colour.image("MONOCHROME1"), RECOMPRESSED, Some(Inconsistent)),
        (&colour, colour.image("RGB"), RECOMPRESSED, None),
        (&colour, colour.image("YBR_FULL_422"), ANY, None),
        // Y, Cb and Cr as samples, or coded as such?
        (&colour, colour.image("YBR_FULL"), LOSSLESS, Some(Inconsistent)),
        (&colour, colour.image("XYB"), ANY, Some(Inconsistent)),
        (&colour, colour.image("YBR_RCT"), LOSSLESS, Some(Inconsistent)),
        // another transfer syntax than that of the frame
        (&grey, twelve.clone(), "1.2.840.10008.1.2.4.80", Some(RefusalCode::DecodeFailed)),
        (&grey, twelve.clone(), "1.2.840.10008.1.2.4.90", Some(RefusalCode::DecodeFailed)),
    ];
    for (number, (row, image, transfer_syntax, refusal)) in rows.into_iter().enumerate() {
        let got = decoded(&image, transfer_syntax, row.frame()).err().map(|refusal| refusal.code);
        assert_eq!(got, refusal, "row {number}");
    }
}

#[test]
fn fragments_find_their_frames_without_an_offset_table() {
    let row = Row::named("recompressed grey");
    let image = Image { frames: Some("2"), ..row.image("MONOCHROME2") };
    let frame = row.frame();
    let (start, end) = frame.split_at(frame.len() / 4 * 2);
    let fragments = [start, end, start, end].map(<[u8]>::to_vec);
    let whole = decoded(&row.image("MONOCHROME2"), RECOMPRESSED, frame.clone());
    assert!(whole.is_ok());
    assert_eq!(decode(encapsulated(&image, RECOMPRESSED, &[], &fragments), 1), whole);
}
