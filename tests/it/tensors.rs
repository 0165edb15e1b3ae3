//! Normalised tensors against an independent reference, and MONOCHROME1 images against their MONOCHROME2 twins.
//!
//! The reference is `tests/reference/normalise.py`: pydicom decodes with its plugins (dcmtk where they are wrong or
//! lack a format), numpy applies the Standard, Pillow resizes as torchvision does to PIL images; libtorch's own
//! antialiased bilinear, which torchvision applies to tensors, is compared with in the unit tests of
//! `src/pixels/resize.rs`. The images are those of the shared corpus and of `tests/reference/make.py`, three frames of
//! each; the contracts all presets, and two more for what no preset asks for. Where one side refuses so must the other.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sidelight::domain::{Contract, Filter, Mask, Orientation, Refusal, ValueRange};
use sidelight::pixels::{Frames, Limits, Normalised, normalise_file};

use crate::support::{dicom_files, reference_python, root, run_ok, shared};

/// Largest difference, as a part of the range that the contract gives to 0..1.
const TOLERANCE: f32 = 1e-4;

/// Lossy JPEG XL is computed in floating point: our decoder and libjxl may differ by one stored value of 8 bits, which
/// is up to 1/95 of the range of these images; the conformance test shows that it is never more than one.
const TOLERANCE_LOSSY_JPEG_XL: f32 = 1.1e-2;

/// Decoded by the reference and refused here: the end of the file's path, and of the refusal's detail.
const REFUSED_HERE: [(&str, &str); 4] = [
    ("made/monochrome2-32u_dcmtk_big-endian.dcm", "whose word order is ambiguous: not supported"),
    ("made/monochrome2-32s_dcmtk_big-endian.dcm", "whose word order is ambiguous: not supported"),
    ("made/float-nan_dcmtk_big-endian.dcm", "32 bits allocated in Explicit VR Big Endian: not supported"),
    ("made/double-nan_dcmtk_big-endian.dcm", "64 bits allocated in Explicit VR Big Endian: not supported"),
];

/// Refused here, and nothing that the reference could read: the end of the file's path, and of what it says.
const UNREADABLE: [(&str, &str); 6] = [
    // OpenJPEG decodes up to 31 bits
    ("made/monochrome2-32u_gdcm_j2k.dcm", "failed to read the header"),
    ("made/monochrome2-32u_gdcm_j2k-lossy.dcm", "failed to read the header"),
    ("made/monochrome2-32s_gdcm_j2k.dcm", "failed to read the header"),
    ("made/monochrome2-32s_gdcm_j2k-lossy.dcm", "failed to read the header"),
    ("corpus/MR/MR_truncated.dcm", "The number of bytes of pixel data is less than expected"),
    // it is read with the default transfer syntax, which it does not have
    ("corpus/OT/meta_missing_tsyntax.dcm", "Missing required element: (0028,0100) 'Bits Allocated'"),
];

/// Why files are refused by both sides under every contract, and how many.
const REFUSED_BY_BOTH: [(&str, u32); 5] = [
    ("no pixel data", 3),
    ("photometric interpretation contradicts presentation LUT shape", 8),
    ("both photometric interpretation and presentation LUT sequence may invert", 4),
    ("photometric interpretation contradicts the component transform", 2),
    ("some frames have a transformation and this frame has none", 4),
];

/// What the reference says of a file before its tensors.
#[derive(Debug, Deserialize)]
struct Answer {
    /// Numbers of the frames, from 1.
    frames: Vec<u32>,
    /// Contract by contract, frame by frame: why there is no tensor.
    refused: Vec<Option<String>>,
    reader: String,
}

/// The twins of a file; see `tests/reference/twins.py`.
#[derive(Debug, Deserialize)]
struct Twins {
    shown: Option<PathBuf>,
    units: Option<PathBuf>,
    why: String,
}

/// Comparisons under one contract.
#[derive(Debug, Default)]
struct Tally {
    compared: u32,
    refused: u32,
    worst: f32,
}

#[test]
fn every_contract_gives_the_tensor_of_the_reference_or_both_refuse() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let contracts = contracts();
    let list = folder.path().join("contracts.json");
    fs::write(&list, serde_json::to_vec(&contracts).expect("plain data")).expect("a written file");
    let mut reference = Reference::start("normalise.py", &list, &files);
    let (mut tallies, mut faults) = (BTreeMap::<&str, Tally>::new(), Vec::new());
    let mut refused_by_both: BTreeMap<String, u32> = BTreeMap::new();
    for file in &files {
        let answer: Answer = reference.line();
        if let Some(why) = answer.refused.iter().flatten().find(|why| why.starts_with("crashed: ")) {
            let known = |(name, detail): &(&str, &str)| file.ends_with(name) && why.contains(detail);
            if !UNREADABLE.iter().any(known) {
                faults.push(format!("{}: the reference {why}", file.display()));
            }
        } else if let Some(Some(why)) = answer.refused.first().filter(|_| answer.refused.iter().all(Option::is_some)) {
            *refused_by_both.entry(why.trim_start_matches("refused: ").to_owned()).or_default() += 1;
        }
        let frames = answer.refused.len() / contracts.len();
        let mut refused = answer.refused.iter().map(Option::as_deref);
        let expected: Vec<Vec<Result<Vec<f32>, &str>>> = contracts
            .iter()
            .map(|contract| {
                let tensors = refused.by_ref().take(frames);
                tensors.map(|refused| refused.map_or_else(|| Ok(reference.tensor(contract)), Err)).collect()
            })
            .collect();
        // contracts that should be fulfilled are asked for at once, since one that is not takes the others with it
        let fulfilled = |i: &usize| expected[*i].iter().all(Result::is_ok);
        let all: Vec<Contract> = (0..contracts.len()).filter(fulfilled).map(|i| contracts[i].clone()).collect();
        let all = normalised(file, &all);
        for (i, contract) in contracts.iter().enumerate() {
            let got = if fulfilled(&i) { all.clone() } else { normalised(file, std::slice::from_ref(contract)) };
            let tally = tallies.entry(&contract.name).or_default();
            if let Err(fault) = compare(file, contract, &answer.frames, &expected[i], got, tally) {
                faults.push(format!("{} of {} by {}: {fault}", contract.name, file.display(), answer.reader));
            }
        }
    }
    reference.end();
    println!("{tallies:#?}");
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    assert_eq!(refused_by_both, REFUSED_BY_BOTH.map(|(why, files)| (why.to_owned(), files)).into());
    // neither the encoders nor the contracts have gone quiet
    let least = |name: &str, compared, refused| {
        let tally = &tallies[name];
        assert!(tally.compared >= compared && tally.refused >= refused, "{name}: {tally:?}");
    };
    least("imagenet-rgb", 1100, 30);
    least("xrv-1024", 1100, 30);
    least("minmax-unit", 1100, 30);
    least("ct-window", 190, 750);
    least("mammo", 1000, 110);
    least("masked-area", 1100, 30);
    least("upright", 1100, 45);
}

fn normalised(file: &Path, contracts: &[Contract]) -> Result<Normalised, Refusal> {
    normalise_file(file, contracts, Frames::All { max: 3 }, &Limits::default())
}

fn is_refused_here(file: &Path, refusal: &Refusal) -> bool {
    REFUSED_HERE.iter().any(|(name, detail)| file.ends_with(name) && refusal.detail.ends_with(detail))
}

fn tolerance(file: &Path) -> f32 {
    let name = file.to_string_lossy();
    let lossy_jpeg_xl = name.ends_with("-recompressed.dcm") || name.ends_with("jpeg-xl-lossy.dcm");
    if lossy_jpeg_xl { TOLERANCE_LOSSY_JPEG_XL } else { TOLERANCE }
}

/// Compares what a contract makes of a file; the error says how it differs.
fn compare(
    file: &Path,
    contract: &Contract,
    frames: &[u32],
    expected: &[Result<Vec<f32>, &str>],
    got: Result<Normalised, Refusal>,
    tally: &mut Tally,
) -> Result<(), String> {
    let got = match got {
        Ok(got) => got,
        Err(refusal) => {
            let agreed = expected.iter().all(Result::is_err) || is_refused_here(file, &refusal);
            tally.refused += 1;
            return if agreed { Ok(()) } else { Err(format!("refused here alone: {refusal}")) };
        }
    };
    if got.frames != frames {
        return Err(format!("frames {:?}, the reference has {frames:?}", got.frames));
    }
    for (input, expected) in got.of_contract(&contract.digest()).zip(expected) {
        let expected = expected.as_ref().map_err(|reason| format!("not refused here, by the reference: {reason}"))?;
        let difference = difference(contract, &contract.spread(&input.plane), expected);
        tally.compared += 1;
        tally.worst = tally.worst.max(difference);
        if difference > tolerance(file) {
            return Err(format!("differs by {difference:e} of the range"));
        }
    }
    Ok(())
}

/// Turned over, the stored values under MONOCHROME1 show what they showed under MONOCHROME2 and the other way round, so
/// that a model must see the same. `ct-window` is another matter: it is about Hounsfield units, which the twin that
/// is shown alike changes; it must see the same in the twin that has the same units.
#[test]
fn an_image_and_its_twin_of_the_other_photometric_interpretation_give_one_tensor() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = files(folder.path());
    let mut writer = Reference::start("twins.py", folder.path(), &files);
    // a window at a fixed place does not turn over with the values
    let contracts: Vec<Contract> =
        contracts().into_iter().filter(|c| !matches!(c.range, ValueRange::Fixed { .. })).collect();
    let (mut tallies, mut faults) = (BTreeMap::<&str, Tally>::new(), Vec::new());
    for file in &files {
        let twins: Twins = writer.line();
        for contract in &contracts {
            let in_units = matches!(contract.range, ValueRange::HuWindow { .. });
            let Some(twin) = (if in_units { &twins.units } else { &twins.shown }) else { continue };
            let tally = tallies.entry(&contract.name).or_default();
            let tensor = |file: &Path, frames| {
                normalise_file(file, std::slice::from_ref(contract), frames, &Limits::default()).map(|mut n| {
                    assert_eq!(n.inputs.len(), 1);
                    contract.spread(&n.inputs.remove(0).plane)
                })
            };
            match (tensor(file, Frames::Middle), tensor(twin, Frames::First)) {
                (Ok(one), Ok(other)) => {
                    let difference = difference(contract, &one, &other);
                    tally.compared += 1;
                    tally.worst = tally.worst.max(difference);
                    if difference > tolerance(file) {
                        faults.push(format!("{} of {}: {difference:e}", contract.name, file.display()));
                    }
                }
                (Err(one), Err(other)) if one.code == other.code => tally.refused += 1,
                (Err(one), _) if is_refused_here(file, &one) => {
                    tally.refused += 1;
                }
                (one, other) => faults.push(format!(
                    "{} of {}: {:?}, its twin: {:?}",
                    contract.name,
                    file.display(),
                    one.err(),
                    other.err()
                )),
            }
        }
        for twin in [twins.shown, twins.units].into_iter().flatten() {
            fs::remove_file(twin).expect("a twin");
        }
        if !twins.why.is_empty() && !twins.why.ends_with("not greyscale") {
            println!("no twin of {}: {}", file.display(), twins.why);
        }
    }
    writer.end();
    println!("{tallies:#?}");
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    for (name, compared) in
        [("imagenet-rgb", 700), ("xrv-1024", 700), ("minmax-unit", 700), ("ct-window", 120), ("mammo", 600)]
    {
        assert!(tallies[name].compared >= compared, "{name}: {:?}", tallies[name]);
    }
}

/// The presets as models have them (xrv-1024 smaller, for the time it takes), and contracts for what no preset asks
/// for.
fn contracts() -> Vec<Contract> {
    let preset = |name: &str| Contract::preset(name, 224).expect("a preset");
    let mut all: Vec<Contract> = Contract::PRESETS.map(preset).into();
    all.push(Contract {
        name: "masked-area".into(),
        filter: Filter::Area,
        fit: preset("mammo").fit,
        mask: vec![Mask::Shutter, Mask::Border],
        ..preset("minmax-unit")
    });
    all.push(Contract {
        name: "upright".into(),
        orientation: Orientation::PatientOrientation,
        range: ValueRange::Fixed { center: 500.0, width: 2000.0 },
        ..preset("xrv-1024")
    });
    all
}

/// The corpus, and what `make.py` makes.
fn files(folder: &Path) -> Vec<PathBuf> {
    let made = folder.join("made");
    run_ok(Command::new(reference_python()).arg(root().join("tests/reference/make.py")).arg(&made));
    let mut files = dicom_files(&made);
    files.extend(dicom_files(&shared().join("corpus")));
    assert!(files.len() > 850, "the encoders made {} files", files.len());
    files
}

/// Largest difference of two tensors, as a part of the range that the contract gives to 0..1.
fn difference(contract: &Contract, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!((a.len(), b.len()), (contract.network_len(), contract.network_len()));
    assert!(a.iter().chain(b).all(|v| v.is_finite()), "{}: a value that is no number", contract.name);
    let channels = a.chunks(a.len() / contract.std.len()).zip(b.chunks(a.len() / contract.std.len()));
    let of_channel = |(a, b): (&[f32], &[f32]), std: f32| {
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        worst * std / (contract.high - contract.low)
    };
    channels.zip(&contract.std).map(|(pair, std)| of_channel(pair, *std)).fold(0.0, f32::max)
}

/// A Python program that answers file by file, a little ahead of its reader.
struct Reference {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Reference {
    fn start(program: &str, argument: &Path, files: &[PathBuf]) -> Self {
        let mut process = Command::new(reference_python())
            .arg(root().join("tests/reference").join(program))
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // decoders complain there of what they refuse
            .stderr(Stdio::null())
            .spawn()
            .expect("the reference starts");
        let list: String = files.iter().map(|f| format!("{}\n", f.display())).collect();
        process.stdin.take().expect("a pipe").write_all(list.as_bytes()).expect("an open pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, answers }
    }

    fn line<T: DeserializeOwned>(&mut self) -> T {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an open pipe");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn tensor(&mut self, contract: &Contract) -> Vec<f32> {
        let mut bytes = vec![0; contract.network_len() * size_of::<f32>()];
        self.answers.read_exact(&mut bytes).expect("a whole tensor");
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn end(mut self) {
        assert_eq!(self.answers.read(&mut [0]).expect("an open pipe"), 0, "an answer too many");
        assert!(self.process.wait().expect("an end").success(), "the reference failed");
    }
}
