//! Decoding against pydicom: the corpus, and what dcmtk, GDCM, pylibjpeg and libjxl make in every format that they can
//! write.
//!
//! `tests/reference/make.py` writes the files, `stored.py` reads them. The table of what came out is kept in
//! `docs/pixel-conformance.md`: the test fails where it differs, and writes it anew with `SIDELIGHT_BLESS=1`.
//! Lossless data must agree to the last bit, lossy data within ±1 of each sample that a model sees (chroma samples
//! that were stored at half the resolution are interpolated differently by different decoders and not compared).
//! Everything else must be a refusal with a name. All lossless encodings of one image have one pixel digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sidelight::domain::{Contract, Digest};
use sidelight::pixels::{Frames, Limits, Samples, normalise_file, stored_values_file};

use crate::support::{compare_with_docs, dicom_files, reference_python, root, run_ok, shared};

/// Encodings that are refused of images that are not: how their names and the refusals end.
const REFUSED: [(&str, &str); 6] = [
    ("32u_dcmtk_big-endian", "word order is ambiguous: not supported"),
    ("32s_dcmtk_big-endian", "word order is ambiguous: not supported"),
    ("_gdcm_j2k", "more than 16 bits: not supported"),
    ("float-nan_dcmtk_big-endian", "32 bits allocated in Explicit VR Big Endian: not supported"),
    ("double-nan_dcmtk_big-endian", "64 bits allocated in Explicit VR Big Endian: not supported"),
    ("j2k-rct-untransformed", "the colour transform of JPEG 2000 contradicts the image"),
];

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
    /// Float or Double Float Pixel Data.
    #[serde(default)]
    float: bool,
    /// What is out of the ordinary about the way pixels are laid down.
    #[serde(default)]
    forms: Vec<String>,
    /// Of the components of a JPEG frame that has three.
    #[serde(default)]
    sampling: Option<String>,
}

/// A line of the table: files that are alike and came out alike.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    syntax: String,
    photometric: String,
    depth: String,
    form: String,
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
        let kind = Kind {
            syntax: syntax_name(&reference.syntax).to_owned(),
            photometric: reference.photometric.clone(),
            depth: reference.depth(),
            form: if reference.forms.is_empty() { "plain".to_owned() } else { reference.forms.join(", ") },
            outcome,
        };
        *lines.entry(kind).or_default() += 1;
    }
    assert!(faults.is_empty(), "{} of {} files: {faults:#?}", faults.len(), files.len());
    assert!(files.len() > 850, "the encoders made {} files", files.len());
    compare_with_docs("pixel-conformance.md", &table(&lines, files.len()));
}

/// `make.py` names files SOURCE_ENCODER_FORMAT; SOURCE_pydicom_explicit is the source itself.
#[test]
fn every_lossless_encoding_of_an_image_has_the_pixel_digest_of_the_plain_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    run_ok(Command::new(reference_python()).arg(root().join("tests/reference/make.py")).arg(folder.path()));
    let files = dicom_files(folder.path());
    let plain = |file: &&PathBuf| file.ends_with(format!("{}_pydicom_explicit.dcm", source(file)));
    let of_source: BTreeMap<&str, Result<Digest, String>> =
        files.iter().filter(plain).map(|file| (source(file), digest(file))).collect();
    let known = |name: &str, refusal: &str| REFUSED.iter().any(|r| name.ends_with(r.0) && refusal.ends_with(r.1));
    let (mut compared, mut formats, mut faults) = (0, BTreeSet::new(), Vec::new());
    for (file, reference) in files.iter().zip(references(&files, folder.path())) {
        let name = file.file_stem().and_then(|name| name.to_str()).expect("a plain name");
        // "-any" are those that lost nothing where loss is allowed
        if (is_lossy(&reference.syntax) && !name.ends_with("-any")) || name.ends_with("point-transform") {
            continue;
        }
        match (&of_source[source(file)], digest(file)) {
            (Ok(plain), Ok(digest)) if *plain == digest => {
                compared += 1;
                formats.insert(reference.syntax);
            }
            (Err(_), Err(_)) => (),
            (_, Err(refusal)) if known(name, &refusal) => (),
            (plain, other) => faults.push(format!("{name}: {other:?}, plain: {plain:?}")),
        }
    }
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    assert!(compared > 600 && formats.len() == 15, "{compared} compared in {formats:?}");
}

/// The name of the image that was encoded.
fn source(file: &Path) -> &str {
    let name = file.file_stem().and_then(|name| name.to_str()).expect("a plain name");
    name.rsplitn(3, '_').last().expect("a part")
}

fn digest(file: &Path) -> Result<Digest, String> {
    let contract = Contract::preset("minmax-unit", 8).expect("a preset");
    let frames = Frames::All { max: u32::MAX };
    normalise_file(file, &[contract], frames, &Limits::default()).map(|n| n.pixel_digest).map_err(|r| r.to_string())
}

impl Reference {
    fn depth(&self) -> String {
        match (self.float, self.signed) {
            (true, _) => format!("float {}", self.allocated),
            (false, 1) => format!("{}/{} signed", self.stored, self.allocated),
            (false, _) => format!("{}/{}", self.stored, self.allocated),
        }
    }
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
    // only the first sample of each pixel is at full resolution
    let jpeg = matches!(reference.syntax.rsplit('.').next(), Some("50" | "51"));
    let subsampled = jpeg && reference.sampling.as_ref().is_some_and(|sampling| sampling != "4:4:4");
    let step = if subsampled { 3 } else { 1 };
    let compared = || got.iter().zip(&expected).step_by(step);
    let worst = compared().map(|(a, b)| apart(*a, *b)).fold(0.0, f64::max);
    let what = if subsampled { "luminance " } else { "" };
    let by = match reference.plugin.as_str() {
        plugin @ ("dcmtk" | "libjxl" | "OpenJPH") => format!(", reference {plugin}"),
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
        "1.2.840.10008.1.2.4.202" => "HTJ2K Lossless RPCL",
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
         dcmdjpeg, libjxl or OpenJPH where these have no decoder, or sidelight's own), over {files} files: the shared corpus, and what dcmtk, GDCM,\n\
         pylibjpeg, libjxl and OpenJPH make (`tests/reference/make.py`). Made and compared by `scripts/test conformance`;\n\
         `SIDELIGHT_BLESS=1` writes it anew. \"Form\" is what is out of the ordinary about the way pixels are laid down.\n\n\
         | Transfer syntax | Photometric interpretation | Bits stored/allocated | Form | Files | Result |\n\
         |---|---|---|---|---|---|\n"
    );
    for (kind, count) in lines {
        let Kind { syntax, photometric, depth, form, outcome } = kind;
        let _ = writeln!(text, "| {syntax} | {photometric} | {depth} | {form} | {count} | {outcome} |");
    }
    text
}
