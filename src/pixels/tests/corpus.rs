//! Real objects of many vendors and codecs, against values computed by independent readers.
//!
//! `corpus.csv` holds per file the outcome of header and pixels (`ok` or a refusal code), the pixel digest computed
//! from pydicom 3.0.2 (pylibjpeg 2, pyjpegls) with BLAKE3's own Python module, the number of frames, the mean of the
//! first frame's samples, and the mean of the windowed image by pydicom's `apply_modality_lut` and `apply_voi_lut`.
//! Means of 12-bit JPEG come from dcmtk 3.6.7. Files of a lossy DCT have no digest: decoders may differ by one in the
//! last place. The corpus is not part of this repository: the test looks in `SIDELIGHT_SHARED` (set by `scripts/test`)
//! or beside the checkout.

use std::path::{Path, PathBuf};

use super::super::decode::{Decoder, Samples};
use super::super::grey::Grey;
use super::super::normalise::normalise;
use super::super::prescan;
use crate::domain::{Contract, Refusal};
use crate::pixels::{Frames, Limits, normalise_file, open, read_header_file};

/// 8-bit and 12-bit DCT decoders differ by at most one per sample; this bounds the mean of their differences.
const LOSSY_MEAN_TOLERANCE: f64 = 0.1;
/// pydicom rounds LUT input, and the image is seen after a resize to 64 × 64, which keeps the mean of interior
/// pixels and weighs the outermost ones differently.
const WINDOW_MEAN_TOLERANCE: f64 = 4e-3;

#[derive(Debug, serde::Deserialize)]
struct Row {
    file: String,
    header: String,
    pixels: String,
    digest: String,
    frames: Option<usize>,
    mean: Option<f64>,
    window: Option<f64>,
}

#[test]
fn every_object_of_the_corpus_decodes_right_or_is_refused_by_name() {
    let shared = std::env::var_os("SIDELIGHT_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")), PathBuf::from);
    let corpus = shared.join("corpus");
    assert!(corpus.is_dir(), "no corpus in {}: set SIDELIGHT_SHARED", shared.display());
    let rows: Vec<Row> = csv::Reader::from_reader(include_str!("corpus.csv").as_bytes())
        .deserialize()
        .map(|r| r.expect("a row"))
        .collect();
    let mut faults = Vec::new();
    for row in &rows {
        if let Err(fault) = check(&corpus.join(&row.file), row) {
            faults.push(format!("{}: {fault}", row.file));
        }
    }
    assert!(rows.len() > 70 && faults.is_empty(), "{faults:#?}");
}

fn check(path: &Path, row: &Row) -> Result<(), String> {
    let limits = Limits::default();
    let equal = |what: &str, got: String, expected: &str| match got == expected {
        true => Ok(()),
        false => Err(format!("{what} is {got}, expected {expected}")),
    };
    equal("header", code(read_header_file(path, &limits).map(|_| ())), &row.header)?;
    let small = Contract { fit: crate::domain::Fit::Stretch, ..Contract::preset("minmax-unit", 64).expect("a preset") };
    let outcome = normalise_file(path, std::slice::from_ref(&small), Frames::All { max: 10_000 }, &limits);
    equal("pixels", code(outcome.clone().map(|_| ())), &row.pixels)?;
    let Ok(normalised) = outcome else { return Ok(()) };
    equal("frames", normalised.frames.len().to_string(), &row.frames.unwrap_or(0).to_string())?;
    if !row.digest.is_empty() {
        equal("digest", normalised.pixel_digest.to_string(), &row.digest)?;
    }
    let (mean, window) = first_frame(path, &limits, &small).map_err(|r| r.to_string())?;
    let tolerance = if row.digest.is_empty() { LOSSY_MEAN_TOLERANCE } else { 1e-3 * mean.abs().max(1.0) };
    for (what, got, expected, tolerance) in
        [("mean", mean, row.mean, tolerance), ("window", window, row.window, WINDOW_MEAN_TOLERANCE)]
    {
        if let Some(expected) = expected
            && (got - expected).abs() > tolerance
        {
            return Err(format!("{what} is {got}, expected {expected} ± {tolerance}"));
        }
    }
    Ok(())
}

fn code(outcome: Result<(), Refusal>) -> String {
    outcome.map_or_else(|r| r.code.to_string(), |()| "ok".to_owned())
}

/// Mean of the samples and of the windowed image.
fn first_frame(path: &Path, limits: &Limits, contract: &Contract) -> Result<(f64, f64), Refusal> {
    let mut decoder = Decoder::new(prescan::scan(open(path)?, limits)?, limits)?;
    let frame = decoder.frame(0)?;
    let mean = |v: &mut dyn ExactSizeIterator<Item = f64>| {
        let count = v.len() as f64;
        v.sum::<f64>() / count
    };
    let mean = match (&frame.samples, frame.samples.integers()) {
        (Samples::Wide(v), _) => mean(&mut v.iter().copied()),
        (_, integers) => mean(&mut integers.unwrap_or_default().into_iter().map(f64::from)),
    };
    let layout = decoder.layout().clone();
    let grey = Grey::of(decoder.scan(), &layout, 0, frame)?;
    let windowed = Contract { range: crate::domain::ValueRange::Window, ..contract.clone() };
    let values = normalise(&grey, &windowed)?.plane;
    Ok((mean, values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64))
}
