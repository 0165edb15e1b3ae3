//! Encapsulated frames of every codec, depth and predictor: decoded exactly, cut off, and mutated.
//!
//! `codestreams.csv` holds frames of one pattern, 32 × 33 pixels, written by dcmtk 3.6.7 (JPEG Lossless), CharLS
//! (JPEG-LS), OpenJPEG 2.5 (JPEG 2000), OpenJPH .26 (HTJ2K) and libjxl 0.7 and 0.11 (JPEG XL); each was read back by
//! pydicom's plugins (GDCM, pylibjpeg, pyjpegls) or libjxl. JPEG Lossless with restart intervals, which none of them
//! writes, is encoded here. `overshoot.csv` holds lossy frames of 32 × 32 pixels in 16 bits by OpenJPEG and CharLS, and
//! what these decode, cut off at 12 bits, or nothing where it exceeds them by more than a sixteenth of their range.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr;

use base64::Engine as _;
use proptest::prelude::*;
use turbojpeg_sys as tj;

use super::formats::encapsulated;
use super::objects::{Image, decode};
use crate::domain::{Refusal, RefusalCode};

const ROWS: usize = 32;
const COLUMNS: usize = 33;

#[derive(Debug, Clone, serde::Deserialize)]
struct Row {
    name: String,
    transfer_syntax: String,
    photometric: String,
    samples: u16,
    stored: u16,
    signed: u16,
    codestream: String,
}

impl Row {
    fn frame(&self) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(&self.codestream).expect("base64")
    }

    /// The samples that the encoder was given, less what it was told to leave out.
    fn expected(&self) -> Vec<i32> {
        let lost = i32::from(self.name.contains("point transform 1"));
        pattern(self.stored, self.signed == 1, usize::from(self.samples)).into_iter().map(|v| v & !lost).collect()
    }

    fn decode(&self, frame: Vec<u8>) -> Result<Vec<i32>, Refusal> {
        let photometric = ["MONOCHROME2", "RGB", "YBR_RCT"].into_iter().find(|p| *p == self.photometric);
        let image = Image {
            rows: ROWS as u16,
            columns: COLUMNS as u16,
            samples: self.samples,
            photometric: photometric.expect("a photometric interpretation of the table"),
            planar: (self.samples == 3).then_some(0),
            allocated: if self.stored <= 8 { 8 } else { 16 },
            stored: self.stored,
            high: self.stored - 1,
            signed: self.signed,
            ..Image::default()
        };
        let frame = decode(encapsulated(&image, &self.transfer_syntax, &[], &[frame]), 0)?;
        Ok(frame.samples.integers().expect("integers"))
    }
}

fn rows() -> Vec<Row> {
    let mut reader = csv::Reader::from_reader(include_str!("codestreams.csv").as_bytes());
    reader.deserialize().map(|row| row.expect("a row")).collect()
}

fn pattern(bits: u16, signed: bool, samples: usize) -> Vec<i32> {
    let place = |i: usize| (i / samples % COLUMNS, i / samples / COLUMNS, i % samples);
    let value = |(x, y, c): (usize, usize, usize)| (x * 37 + y * 101 + (x * y % 7) * 3 + c * 59) % (1 << bits);
    let base = if signed { 1 << (bits - 1) } else { 0 };
    (0..ROWS * COLUMNS * samples).map(|i| value(place(i)) as i32 - base).collect()
}

#[test]
fn frames_of_every_lossless_codec_decode_exactly() {
    let rows = rows();
    assert!(rows.len() > 30);
    for row in rows {
        assert_eq!(row.decode(row.frame()), Ok(row.expected()), "{}", row.name);
    }
}

#[test]
fn a_frame_that_breaks_off_is_refused_or_whole() {
    for row in rows() {
        let whole = row.frame();
        for length in (0..whole.len()).rev().step_by(3) {
            match row.decode(whole[..length].to_vec()) {
                Ok(samples) => {
                    assert!(samples == row.expected(), "{} cut to {length} of {}", row.name, whole.len());
                }
                Err(refusal) => assert_eq!(refusal.code, RefusalCode::DecodeFailed, "{} {refusal}", row.name),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn a_mutated_frame_never_panics(
        row in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        header_only in any::<bool>(),
    ) {
        let rows = rows();
        let row = &rows[row.index(rows.len())];
        let mut frame = row.frame();
        let reach = if header_only { frame.len().min(120) } else { frame.len() };
        for (at, value) in changes {
            frame[at.index(reach)] = value;
        }
        if let Err(refusal) = row.decode(frame) {
            prop_assert!(refusal.detail.len() < 300, "{}", refusal);
        }
    }
}

#[derive(Debug, serde::Deserialize)]
struct Overshoot {
    name: String,
    transfer_syntax: String,
    signed: u16,
    codestream: String,
    expected: String,
}

#[test]
fn lossy_frames_of_more_bits_than_are_stored_are_cut_off_and_never_folded() {
    let bytes = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    let mut reader = csv::Reader::from_reader(include_str!("overshoot.csv").as_bytes());
    let rows: Vec<Overshoot> = reader.deserialize().map(|row| row.expect("a row")).collect();
    assert_eq!(rows.iter().filter(|row| !row.expected.is_empty()).count(), 8);
    for row in rows {
        let image = Image { rows: 32, columns: 32, signed: row.signed, ..Image::default() };
        let expected: Vec<i32> =
            bytes(&row.expected).as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b).into()).collect();
        // the wavelet or the bound says that the frame is lossy, whatever the transfer syntax promises
        let promised = if row.transfer_syntax.ends_with(".81") { "80" } else { "90" };
        for syntax in [row.transfer_syntax.clone(), format!("1.2.840.10008.1.2.4.{promised}")] {
            let got = decode(encapsulated(&image, &syntax, &[], &[bytes(&row.codestream)]), 0);
            match got.map(|frame| frame.samples.integers().expect("integers")) {
                Ok(samples) => assert!(samples == expected, "{} {syntax}", row.name),
                Err(refusal) => {
                    assert!(expected.is_empty() && refusal.detail.contains("12 bits stored"), "{} {refusal}", row.name);
                }
            }
        }
    }
}

#[test]
fn a_warning_of_the_jpeg_2000_decoder_is_a_refusal() {
    let row = rows().into_iter().find(|row| row.transfer_syntax.ends_with(".90")).expect("a JPEG 2000 row");
    let mut frame = row.frame();
    let style = frame.windows(2).position(|pair| pair == [0xFF, 0x52]).expect("a coding style");
    frame[style + 4] |= 2; // packets have a mark before them
    let refusal = row.decode(frame).expect_err("packets without the mark");
    assert!(refusal.code == RefusalCode::DecodeFailed && refusal.detail.contains("Expected SOP marker"), "{refusal}");
}

/// How a frame of JPEG Lossless is written.
#[derive(Debug, Clone, Copy)]
struct Lossless {
    precision: u16,
    samples: usize,
    predictor: c_int,
    point_transform: c_int,
    restart_rows: c_int,
}

fn encode(pattern: &[i32], options: Lossless) -> Vec<u8> {
    let Lossless { precision, samples, predictor, point_transform, restart_rows } = options;
    let mut bytes: Vec<u8> = pattern.iter().map(|v| *v as u8).collect();
    let mut words: Vec<u16> = pattern.iter().map(|v| *v as u16).collect();
    let format = if samples == 1 { tj::TJPF_TJPF_GRAY } else { tj::TJPF_TJPF_RGB };
    let (columns, rows) = (COLUMNS as c_int, ROWS as c_int);
    // SAFETY: the library allocates the output; the input has rows × columns pixels of that format.
    unsafe {
        let handle = tj::tj3Init(tj::TJINIT_TJINIT_COMPRESS as c_int);
        for (parameter, value) in [
            (tj::TJPARAM_TJPARAM_LOSSLESS, 1),
            (tj::TJPARAM_TJPARAM_LOSSLESSPSV, predictor),
            (tj::TJPARAM_TJPARAM_LOSSLESSPT, point_transform),
            (tj::TJPARAM_TJPARAM_PRECISION, c_int::from(precision)),
            (tj::TJPARAM_TJPARAM_RESTARTROWS, restart_rows),
        ] {
            assert_eq!(tj::tj3Set(handle, parameter as c_int, value), 0, "{options:?}");
        }
        let (mut out, mut length) = (ptr::null_mut(), 0);
        let outcome = match precision {
            ..=8 => tj::tj3Compress8(handle, bytes.as_mut_ptr(), columns, 0, rows, format, &mut out, &mut length),
            9..=12 => {
                let words = words.as_mut_ptr().cast();
                tj::tj3Compress12(handle, words, columns, 0, rows, format, &mut out, &mut length)
            }
            _ => tj::tj3Compress16(handle, words.as_mut_ptr(), columns, 0, rows, format, &mut out, &mut length),
        };
        assert_eq!(outcome, 0, "{options:?}");
        let frame = std::slice::from_raw_parts(out, length as usize).to_vec();
        tj::tj3Free(out.cast());
        tj::tj3Destroy(handle);
        frame
    }
}

#[test]
fn jpeg_lossless_of_every_precision_with_restarts_and_point_transform() {
    for precision in 2..=16 {
        for (samples, predictor, point_transform, restart_rows) in
            [(1, 1, 0, 0), (1, 1, 0, 1), (1, 6, 1, 3), (1, 7, 0, 5), (3, 1, 0, 2), (3, 4, 1, 0)]
        {
            let options = Lossless { precision, samples, predictor, point_transform, restart_rows };
            let values = pattern(precision, false, samples);
            let frame = encode(&values, options);
            assert_eq!(frame.windows(2).any(|w| w == [0xFF, 0xDD]), restart_rows > 0);
            let row = Row {
                name: format!("{options:?}"),
                transfer_syntax: "1.2.840.10008.1.2.4.57".into(),
                photometric: if samples == 1 { "MONOCHROME2".into() } else { "RGB".into() },
                samples: samples as u16,
                stored: precision,
                signed: 0,
                codestream: String::new(),
            };
            let expected = values.iter().map(|v| v >> point_transform << point_transform).collect::<Vec<_>>();
            assert_eq!(row.decode(frame.clone()), Ok(expected), "{options:?}");
            if let Some(at) = frame.windows(2).position(|w| w == [0xFF, 0xD1]) {
                let mut lost = frame.clone();
                lost.drain(at..at + 2);
                assert!(row.decode(lost).is_err(), "a restart marker is missing: {options:?}");
            }
        }
    }
}
