//! Decoding against pydicom: the corpus, and what dcmtk, GDCM, pylibjpeg and libjxl make in every format that they can
//! write.
//!
//! `tests/reference/make.py` writes the files, `stored.py` reads them. The table of what came out is kept in
//! `docs/pixel-conformance.md`: the test fails where it differs, and writes it anew with `SIDELIGHT_BLESS=1`.
//! Lossless data must agree to the last bit, lossy data within ±1 of each sample that a model sees (chroma samples
//! that were stored at half the resolution are interpolated differently by different decoders and not compared).
//! Everything else must be a refusal with a name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sidelight::pixels::{Limits, Samples, stored_values_file};

use crate::support::{dicom_files, reference_python, root, run_ok, shared};

/// What the reference reader says of a file.
#[derive(Debug, Deserialize)]
struct Reference {
    fault: Option<String>,
    #[serde(default)]
    plugin: String,
    #[serde(default)]
    syntax: String,
    #[serde(default)]
    photometric: String,
    #[serde(rename = "BitsAllocated", default)]
    allocated: u16,
    #[serde(rename = "BitsStored", default)]
    stored: u16,
    #[serde(rename = "PixelRepresentation", default)]
    signed: u16,
}

/// A line of the table: files that are alike and came out alike.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    syntax: String,
    photometric: String,
    depth: String,
    outcome: String,
}

#[test]
fn every_format_decodes_as_pydicom_reads_it_or_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = folder.path().join("made");
    run_ok(Command::new(reference_python()).arg(root().join("tests/reference/make.py")).arg(&made));
    let mut files = dicom_files(&made);
    files.extend(dicom_files(&shared().join("corpus")));
    files.sort();
    let references = references(&files, folder.path());
    let mut lines: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut faults = Vec::new();
    for (number, (file, reference)) in files.iter().zip(&references).enumerate() {
        let outcome = match outcome(file, reference, &folder.path().join(format!("{number}.npy"))) {
            Ok(outcome) => outcome,
            Err(fault) => {
                faults.push(format!("{}: {fault}", file.display()));
                continue;
            }
        };
        let sign = if reference.signed == 1 { " signed" } else { "" };
        let kind = Kind {
            syntax: syntax_name(&reference.syntax).to_owned(),
            photometric: reference.photometric.clone(),
            depth: format!("{}/{}{sign}", reference.stored, reference.allocated),
            outcome,
        };
        *lines.entry(kind).or_default() += 1;
    }
    assert!(faults.is_empty(), "{} of {} files: {faults:#?}", faults.len(), files.len());
    assert!(files.len() > 400, "the encoders made {} files", files.len());
    compare_with_docs(&table(&lines, files.len()));
}

/// Runs the reference reader over all files.
fn references(files: &[PathBuf], out: &Path) -> Vec<Reference> {
    let mut reader = Command::new(reference_python())
        .arg(root().join("tests/reference/stored.py"))
        .arg(out)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the reference reader starts");
    let list: String = files.iter().map(|f| format!("{}\n", f.display())).collect();
    reader.stdin.take().expect("a pipe").write_all(list.as_bytes()).expect("an open pipe");
    assert!(reader.wait().expect("an end").success(), "the reference reader failed");
    let index = fs::read(out.join("index.json")).expect("an index");
    serde_json::from_slice(&index).expect("an index of all files")
}

/// How decoding a file compares with the reference, in the words of the table; an error where it differs silently.
fn outcome(file: &Path, reference: &Reference, npy: &Path) -> Result<String, String> {
    let got = match stored_values_file(file, &Limits::default()) {
        Ok(got) => got,
        Err(refusal) => return Ok(format!("refused: {refusal}")),
    };
    if let Some(fault) = &reference.fault {
        return Err(format!("decoded, and the reference has nothing to compare with: {fault:.300}"));
    }
    let expected = read_npy(npy);
    let frames = got.len();
    let got: Vec<f64> = got.iter().flat_map(Samples::values).collect();
    if got.len() != expected.len() {
        return Err(format!("{} values in {frames} frames, the reference has {}", got.len(), expected.len()));
    }
    // Of a JPEG with colour only the first sample of each pixel is at full resolution for certain.
    let baseline = matches!(reference.syntax.rsplit('.').next(), Some("50" | "51"));
    let subsampled = baseline && reference.photometric.starts_with("YBR");
    let step = if subsampled { 3 } else { 1 };
    let compared = || got.iter().zip(&expected).step_by(step);
    let worst = compared().map(|(a, b)| apart(*a, *b)).fold(0.0, f64::max);
    let what = if subsampled { "luminance " } else { "" };
    let by = match reference.plugin.as_str() {
        plugin @ ("dcmtk" | "libjxl") => format!(", reference {plugin}"),
        _ => String::new(),
    };
    // lossy JPEG XL is computed in floating point, whose rounding depends on the processor
    let approximate = matches!(reference.syntax.rsplit('.').next(), Some("111" | "112"));
    match worst {
        0.0 if !approximate => Ok(format!("{what}bit-exact{by}")),
        w if w <= 1.0 && is_lossy(&reference.syntax) => Ok(format!("{what}within ±1{by}")),
        w => Err(format!("differs by up to {w} ({} by {})", reference.syntax, reference.plugin)),
    }
}

/// How far two values are apart; what is not a number equals only what is none either.
fn apart(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => 0.0,
        (false, false) => (a - b).abs(),
        (true, true) => 0.0,
        _ => f64::INFINITY,
    }
}

fn is_lossy(syntax: &str) -> bool {
    matches!(syntax.strip_prefix("1.2.840.10008.1.2.4."), Some("50" | "51" | "81" | "91" | "203" | "111" | "112"))
}

/// A two-dimensional array of 64-bit numbers, row by row.
fn read_npy(path: &Path) -> Vec<f64> {
    let bytes = fs::read(path).expect("the reference's values");
    let file = npyz::NpyFile::new(&bytes[..]).expect("a .npy file");
    match file.dtype().descr().contains("f8") {
        true => file.into_vec::<f64>().expect("numbers"),
        false => file.into_vec::<i64>().expect("numbers").into_iter().map(|v| v as f64).collect(),
    }
}

fn syntax_name(uid: &str) -> &str {
    match uid {
        "1.2.840.10008.1.2" => "Implicit VR Little Endian",
        "1.2.840.10008.1.2.1" => "Explicit VR Little Endian",
        "1.2.840.10008.1.2.2" => "Explicit VR Big Endian",
        "1.2.840.10008.1.2.1.99" => "Deflated Explicit VR Little Endian",
        "1.2.840.10008.1.2.1.98" => "Encapsulated Uncompressed",
        "1.2.840.10008.1.2.5" => "RLE Lossless",
        "1.2.840.10008.1.2.4.50" => "JPEG Baseline",
        "1.2.840.10008.1.2.4.51" => "JPEG Extended",
        "1.2.840.10008.1.2.4.57" => "JPEG Lossless (14)",
        "1.2.840.10008.1.2.4.70" => "JPEG Lossless (SV1)",
        "1.2.840.10008.1.2.4.80" => "JPEG-LS Lossless",
        "1.2.840.10008.1.2.4.81" => "JPEG-LS Near-lossless",
        "1.2.840.10008.1.2.4.90" => "JPEG 2000 Lossless",
        "1.2.840.10008.1.2.4.91" => "JPEG 2000",
        "1.2.840.10008.1.2.4.201" => "HTJ2K Lossless",
        "1.2.840.10008.1.2.4.203" => "HTJ2K",
        "1.2.840.10008.1.2.4.110" => "JPEG XL Lossless",
        "1.2.840.10008.1.2.4.111" => "JPEG XL JPEG Recompression",
        "1.2.840.10008.1.2.4.112" => "JPEG XL",
        "" => "none given",
        other => other,
    }
}

fn table(lines: &BTreeMap<Kind, usize>, files: usize) -> String {
    let mut text = format!(
        "# Pixel conformance\n\n\
         Stored values as sidelight decodes them against pydicom 3.0.2 with pylibjpeg, pyjpegls and GDCM (dcmtk's\n\
         dcmdjpeg or libjxl where these have no decoder), over {files} files: the shared corpus, and what dcmtk, GDCM,\n\
         pylibjpeg and libjxl make (`tests/reference/make.py`). Made and compared by `scripts/test conformance`;\n\
         `SIDELIGHT_BLESS=1` writes it anew.\n\n\
         | Transfer syntax | Photometric interpretation | Bits stored/allocated | Files | Result |\n|---|---|---|---|---|\n"
    );
    for (kind, count) in lines {
        let _ =
            writeln!(text, "| {} | {} | {} | {count} | {} |", kind.syntax, kind.photometric, kind.depth, kind.outcome);
    }
    text
}

fn compare_with_docs(text: &str) {
    let path = root().join("docs/pixel-conformance.md");
    if std::env::var_os("SIDELIGHT_BLESS").is_some() {
        fs::create_dir_all(root().join("docs")).expect("a folder");
        fs::write(&path, text).expect("a written table");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<&str> = text.lines().filter(|line| !kept.lines().any(|k| k == *line)).collect();
    let gone: Vec<&str> = kept.lines().filter(|line| !text.lines().any(|t| t == *line)).collect();
    assert!(missing.is_empty() && gone.is_empty(), "docs/pixel-conformance.md lacks {missing:#?} and has {gone:#?}");
}
