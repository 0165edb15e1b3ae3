//! Masks: they take the image's way into the plane of a contract, and what may not be one is refused.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::{Frames, mask_file, normalise_any_file, normalise_file};
use super::objects::{EXPLICIT, Encoding, Image, Object};
use super::segmentation::Segmentation;
use crate::domain::{Contract, Filter, Fit, Mask, Orientation, RefusalCode, ValueRange};
use crate::pixels::Limits;

fn new() -> Object {
    Object::new(Encoding::Explicit)
}

fn contract(size: u32, fit: Fit, orientation: Orientation, filter: Filter) -> Contract {
    let base = Contract::preset("minmax-unit", size).expect("a preset");
    Contract { range: ValueRange::StoredBits, fit, orientation, filter, ..base }
}

/// As stored, pixel by pixel, of an image of `size` × `size`.
pub(super) fn plain(size: u32) -> Contract {
    contract(size, Fit::Stretch, Orientation::AsStored, Filter::Bilinear)
}

pub(super) fn even(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

/// An image of 8 bits whose pixels within are white; `lies` are more elements, of groups 0020 and 0028.
pub(super) fn image(
    rows: usize,
    columns: usize,
    within: &[bool],
    frames: Option<&'static str>,
    lies: &Object,
) -> Vec<u8> {
    let (rows, columns) = (rows as u16, columns as u16);
    let image = Image { rows, columns, frames, allocated: 8, stored: 8, high: 7, ..Image::default() };
    let pixels = within.iter().map(|within| if *within { 255 } else { 0 }).collect();
    image.object(Encoding::Explicit).raw(&lies.bytes).element(0x7FE0_0010, "OB", &even(pixels)).file(EXPLICIT)
}

pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a written file");
    path
}

fn png(rows: usize, columns: usize, color: png::ColorType, depth: png::BitDepth, bytes: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, columns as u32, rows as u32);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![0, 0, 0, 255, 255, 0, 60, 60, 60]);
    }
    encoder.write_header().and_then(|mut w| w.write_image_data(bytes)).expect("a picture");
    file
}

pub(super) fn grey_png(rows: usize, columns: usize, within: &[bool]) -> Vec<u8> {
    let bytes: Vec<u8> = within.iter().map(|within| if *within { 255 } else { 0 }).collect();
    png(rows, columns, png::ColorType::Grayscale, png::BitDepth::Eight, &bytes)
}

/// Every pixel as a block of pixels.
fn blocks(within: &[bool], columns: usize, factor: usize) -> Vec<bool> {
    let line = |row: &[bool]| row.iter().flat_map(|v| vec![*v; factor]).collect::<Vec<_>>().repeat(factor);
    within.chunks(columns).flat_map(line).collect()
}

/// A stored image, how it lies, and a mask.
#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    columns: usize,
    within: Vec<bool>,
    directions: &'static str,
    side: &'static str,
    spacing: &'static str,
    size: u32,
    /// Pixels of image and picture for each of these.
    factors: (usize, usize),
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1usize..30, 1usize..30).prop_flat_map(|(rows, columns)| {
        (Just(rows), Just(columns), proptest::collection::vec(any::<bool>(), rows * columns), 0..rows * columns)
    });
    let directions = ["", "L\\F", "R\\F", "L\\H", "F\\L", "F\\R", "H\\R", "A\\F", "P\\F", "P\\L", "X\\Y"];
    let spacings = ["", "", "0.2\\0.1", "1\\1.7", "0.1\\0.11", "-1\\1"];
    let lies = (
        prop::sample::select(directions.to_vec()),
        prop::sample::select(vec!["", "L", "R", "B"]),
        prop::sample::select(spacings.to_vec()),
    );
    (shape, lies, 8u32..20, (1usize..4, 1usize..4)).prop_map(|(shape, (directions, side, spacing), size, factors)| {
        let (rows, columns, mut within, seed) = shape;
        within[seed] = true;
        Case { rows, columns, within, directions, side, spacing, size, factors }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An image that is its own mask is seen as its mask is, by area to the last bit, or both are refused. A bilinear
    /// contract sees it so where everything around is within or without.
    #[test]
    fn a_mask_goes_where_the_image_goes(case in case()) {
        let folder = tempfile::tempdir().expect("a folder");
        let (up, drawn_up) = case.factors;
        let (rows, columns) = (case.rows * up, case.columns * up);
        let within = blocks(&case.within, case.columns, up);
        let text = |tag, text: &str| if text.is_empty() { new() } else { new().text(tag, "CS", text) };
        let spacing = if case.spacing.is_empty() { new() } else { new().text(0x0028_0030, "DS", case.spacing) };
        let lies = text(0x0020_0020, case.directions).raw(&text(0x0020_0062, case.side).bytes).raw(&spacing.bytes);
        let stored = write(folder.path(), "image.dcm", &image(rows, columns, &within, None, &lies));
        let shown = write(folder.path(), "image.png", &grey_png(rows, columns, &within));
        let bits = within.iter().map(|v| u8::from(*v)).collect();
        let segmentation = write(folder.path(), "mask.dcm", &Segmentation::of(rows, columns, bits).bytes());
        let drawn = blocks(&case.within, case.columns, drawn_up);
        let drawn = grey_png(case.rows * drawn_up, case.columns * drawn_up, &drawn);
        let drawn = write(folder.path(), "mask.png", &drawn);
        let limits = Limits::default();
        for fit in [Fit::Stretch, Fit::CropCenter, Fit::PadSquare] {
            for orientation in [Orientation::AsStored, Orientation::LateralityLeft, Orientation::PatientOrientation] {
                for image in [&stored, &shown] {
                    let area = contract(case.size, fit, orientation, Filter::Area);
                    let seen = |contract: &Contract| {
                        let seen = normalise_any_file(image, std::slice::from_ref(contract), Frames::First, &limits);
                        seen.map(|seen| seen.inputs[0].plane.clone()).map_err(|r| r.code)
                    };
                    let expected = seen(&area);
                    for mask in [&segmentation, &drawn] {
                        let got = mask_file(mask, image, &area, &limits);
                        prop_assert_eq!(got.map_err(|r| r.code), expected.clone(), "{:?} {:?}", fit, orientation);
                    }
                    let bilinear = Contract { filter: Filter::Bilinear, ..area };
                    let got = mask_file(&drawn, image, &bilinear, &limits).map_err(|r| r.code);
                    prop_assert_eq!(&got, &expected);
                    let (Ok(shares), Ok(seen)) = (got, seen(&bilinear)) else { continue };
                    check_bilinear(&shares, &seen, case.size as usize, (rows.min(columns) / 2).max(1))?;
                }
            }
        }
    }
}

/// Where all pixels that the triangle of a pixel reaches are within, or all without, so is the pixel.
fn check_bilinear(shares: &[f32], seen: &[f32], size: usize, side: usize) -> Result<(), TestCaseError> {
    // a source pixel to each side, or a pixel of the plane; `side`: pixels of the image along it, at least
    let reach = size.div_ceil(side).max(1) + 1;
    let around = |at: usize| at.saturating_sub(reach)..(at + reach + 1).min(size);
    for (i, value) in seen.iter().enumerate() {
        let near = || around(i / size).flat_map(|row| around(i % size).map(move |column| shares[row * size + column]));
        for plain in [0.0, 1.0] {
            if near().all(|share| (share - plain).abs() < 1e-6) {
                prop_assert!((value - plain).abs() < 1e-5, "{} for {}", value, plain);
            }
        }
    }
    Ok(())
}

#[test]
fn what_a_contract_masks_of_the_image_takes_nothing_from_a_mask() {
    let folder = tempfile::tempdir().expect("a folder");
    let shutter = new().text(0x0018_1600, "CS", "RECTANGULAR").text(0x0018_1602, "IS", "3");
    let shutter = shutter.text(0x0018_1604, "IS", "6").text(0x0018_1606, "IS", "3").text(0x0018_1608, "IS", "6");
    let image = write(folder.path(), "image", &image(8, 8, &[true; 64], None, &shutter));
    let mask = write(folder.path(), "mask", &grey_png(8, 8, &[true; 64]));
    let contract = Contract { mask: vec![Mask::Shutter], ..plain(8) };
    let limits = Limits::default();
    let seen = normalise_file(&image, std::slice::from_ref(&contract), Frames::First, &limits).expect("an image");
    assert_eq!(seen.inputs[0].plane.iter().filter(|v| **v > 0.0).count(), 16);
    assert_eq!(mask_file(&mask, &image, &contract, &limits), Ok(vec![1.0; 64]));
}

#[test]
fn pictures_are_masks_by_what_is_above_half_of_their_range() {
    use png::BitDepth::{Eight, One, Sixteen, Two};
    use png::ColorType::{Grayscale, Indexed, Rgb};
    let folder = tempfile::tempdir().expect("a folder");
    let image = write(folder.path(), "image", &image(8, 8, &[true; 64], None, &new()));
    let check = |name: &str, file: &[u8], expected: Result<&dyn Fn(usize) -> bool, (RefusalCode, &str)>| {
        let mask = write(folder.path(), "mask", file);
        let got = mask_file(&mask, &image, &plain(8), &Limits::default());
        match (got, expected) {
            (Ok(plane), Ok(within)) => {
                let expected: Vec<f32> = (0..64).map(|i| f32::from(u8::from(within(i)))).collect();
                assert_eq!(plane, expected, "{name}");
            }
            (Err(refusal), Err((code, text))) => {
                assert!(refusal.code == code && refusal.detail.contains(text), "{name}: {refusal}");
                assert!(refusal.detail.starts_with("the mask: "), "{name}: {refusal}");
            }
            (got, _) => panic!("{name}: {got:?}"),
        }
    };
    let ramp: Vec<u8> = (0..64).map(|i| 96 + i).collect();
    check("8 bits", &png(8, 8, Grayscale, Eight, &ramp), Ok(&|i| 96 + i > 127));
    let wide: Vec<u8> = (0..64u16).flat_map(|i| (32_700 + 2 * i).to_be_bytes()).collect();
    check("16 bits", &png(8, 8, Grayscale, Sixteen, &wide), Ok(&|i| 32_700 + 2 * i > 32_767));
    check("1 bit", &png(8, 8, Grayscale, One, &[0b1010_0001; 8]), Ok(&|i| [0, 2, 7].contains(&(i % 8))));
    check(
        "a palette",
        &png(8, 8, Indexed, Two, &[0b0001_0110, 0b0100_0000].repeat(8)),
        Ok(&|i| [1, 2, 4].contains(&(i % 8))),
    );
    let colours = [[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]].concat().repeat(16);
    check("colours", &png(8, 8, Rgb, Eight, &colours), Ok(&|i| [0, 2].contains(&(i % 4))));
    check(
        "half of each axis",
        &grey_png(4, 4, &[[true, false].repeat(2), vec![false; 4]].concat().repeat(2)),
        Ok(&|i| i / 8 % 4 < 2 && i % 4 < 2),
    );

    let labels: Vec<u8> = (0..64).map(|i| i % 3).collect();
    let empty = Err((RefusalCode::Inconsistent, "the highest is 2 of 255: write 255 where the lung is"));
    check("numbers of labels", &png(8, 8, Grayscale, Eight, &labels), empty);
    let shape = Err((RefusalCode::Inconsistent, "it is 8 × 10 (rows × columns), the image 8 × 8"));
    check("another shape", &grey_png(8, 10, &[true; 80]), shape);
    let clear = png(8, 8, png::ColorType::GrayscaleAlpha, Eight, &[255; 128]);
    check("transparency", &clear, Err((RefusalCode::UnsupportedFormat, "transparency")));
    check("a picture that breaks off", &grey_png(8, 8, &[true; 64])[..60], Err((RefusalCode::DecodeFailed, "PNG")));
    check("text", b"text", Err((RefusalCode::Malformed, "not a DICOM file")));
}

#[test]
fn images_that_are_none_and_contracts_that_cannot_be_are_refused_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let mask = write(folder.path(), "mask", &grey_png(8, 8, &[true; 64]));
    let image = write(folder.path(), "image", &image(8, 8, &[true; 64], None, &new()));
    let limits = Limits::default();
    let detail = |image: &Path, contract: &Contract, limits: &Limits| {
        mask_file(&mask, image, contract, limits).expect_err("nothing to mask").detail
    };
    assert!(detail(Path::new("nowhere"), &plain(8), &limits).starts_with("the image: "));
    let text = write(folder.path(), "text", b"text");
    assert!(detail(&text, &plain(8), &limits).starts_with("the image: not a DICOM file"));
    assert!(detail(&image, &Contract { size: 0, ..plain(8) }, &limits).contains("size 0 is outside"));
    let side = Contract { orientation: Orientation::LateralityLeft, ..plain(8) };
    assert!(detail(&image, &side, &limits).starts_with("the image: the image cannot be brought"));
    let small = Limits { samples_max: 63, ..limits };
    assert!(detail(&image, &plain(8), &small).starts_with("the image: "));
    let pictures = write(folder.path(), "picture", &grey_png(4, 4, &[true; 16]));
    assert!(detail(&pictures, &plain(8), &Limits { samples_max: 16, ..limits }).starts_with("the mask: "));
}
