//! Decode and normalise as a decode worker does, without its sandbox: one input is one DICOM object.
//!
//! The first byte, which belongs to the preamble that nobody reads, chooses contract and frames, so that a file of a
//! PACS is an input and an input that fails is a file for `sidelight normalise`. A panic, an abort, a fault that the
//! address sanitizer sees, a value that is not finite and an answer of the wrong size all end the run. The rooms are
//! compiled in by path: the rest of the crate needs libtorch. Left out: the messages between node and worker.
#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../src/config/mod.rs"]
mod config;
#[path = "../../src/domain/mod.rs"]
mod domain;
#[path = "../../src/pixels/mod.rs"]
mod pixels;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use domain::{
    CodeKey, Contract, Filter, FindingRule, InstanceHeader, LabelRule, Mask, Orientation, Refusal, ReportKind, ReportRules,
    ValueRange,
};
use libfuzzer_sys::fuzz_target;
use pixels::{Frames, Limits, normalise_file, read_header_file, read_result_file};

/// Small enough that an input takes milliseconds, large enough for every path: a worker's limits only bound more.
const LIMITS: Limits = Limits { samples_max: 1 << 21, inflate_bytes_max: 1 << 23, frame_bytes_max: 1 << 27 };

const FRAMES: [Frames; 4] = [Frames::First, Frames::Middle, Frames::All { max: 4 }, Frames::All { max: 1 }];

/// Every preset, and the keys that none of them sets.
static CONTRACTS: LazyLock<Vec<Contract>> = LazyLock::new(|| {
    let preset = |name| Contract::preset(name, 32).expect("a preset");
    let mut contracts: Vec<Contract> = Contract::PRESETS.iter().map(|name| preset(name)).collect();
    contracts.extend([
        Contract {
            filter: Filter::Area,
            mask: vec![Mask::Shutter, Mask::Border],
            orientation: Orientation::PatientOrientation,
            ..preset("minmax-unit")
        },
        Contract { size: 200, mask: vec![Mask::Border], ..preset("imagenet-rgb") },
        Contract {
            range: ValueRange::Fixed { center: 40.0, width: 400.0 },
            filter: Filter::Area,
            ..preset("xrv-1024")
        },
    ]);
    contracts
});

/// A report of a clinical product, in each layout that a card can name.
static RULES: LazyLock<Vec<ReportRules>> = LazyLock::new(|| {
    let key = |value: &str, scheme: &str| CodeKey { value: value.into(), scheme: scheme.into() };
    let rules = |kind| ReportRules {
        kind,
        probability: key("111012", "DCM"),
        label: Some(LabelRule { concept: key("R", "99V"), positive: vec![key("1", "99V")], negative: Vec::new() }),
        findings: vec![FindingRule {
            key: "finding".into(),
            code: key("36118008", "SCT"),
            path: vec![key("126010", "DCM"), key("125007", "DCM"), key("111012", "DCM")],
        }],
    };
    [ReportKind::Tid1500, ReportKind::ChestCad, ReportKind::Paths].map(rules).to_vec()
});

fuzz_target!(|object: &[u8]| {
    let Some(&choice) = object.first() else { return };
    let (_file, path) = in_memory(object);
    match read_header_file(&path, &LIMITS) {
        Ok(header) => check_header(&header),
        Err(refusal) => check_refusal(&refusal),
    }
    match read_result_file(&path, &RULES, &LIMITS) {
        Ok(results) => assert_eq!(results.len(), RULES.len()),
        Err(refusal) => check_refusal(&refusal),
    }
    let frames = FRAMES[usize::from(choice & 3)];
    // one contract or all of them: those that the image does not suit refuse it
    let contracts = match usize::from(choice >> 2) {
        one if one < CONTRACTS.len() => &CONTRACTS[one..=one],
        _ => &CONTRACTS[..],
    };
    check_normalised(&path, contracts, frames);
});

/// A file as the node passes one to a worker. The path is good while the file is open.
fn in_memory(object: &[u8]) -> (File, PathBuf) {
    let memory = rustix::fs::memfd_create("object", rustix::fs::MemfdFlags::CLOEXEC).expect("memory for the object");
    let mut file = File::from(memory);
    file.write_all(object).expect("memory for the object");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

/// It travels to the node as JSON, which has no word for NaN.
fn check_header(header: &InstanceHeader) {
    let json = serde_json::to_vec(header).expect("a header is written as JSON");
    serde_json::from_slice::<InstanceHeader>(&json).expect("a header is read from JSON");
}

fn check_refusal(refusal: &Refusal) {
    assert!(!refusal.detail.is_empty(), "{} without a reason", refusal.code);
}

fn check_normalised(path: &Path, contracts: &[Contract], frames: Frames) {
    let normalised = match normalise_file(path, contracts, frames, &LIMITS) {
        Ok(normalised) => normalised,
        Err(refusal) => return check_refusal(&refusal),
    };
    let most = match frames {
        Frames::First | Frames::Middle => 1,
        Frames::All { max } => max as usize,
    };
    let chosen = &normalised.frames;
    assert!((1..=most).contains(&chosen.len()) && chosen.is_sorted_by(|a, b| a < b), "frames {chosen:?}");
    assert_eq!(normalised.inputs.len(), contracts.len() * chosen.len(), "inputs");
    for (inputs, contract) in normalised.inputs.chunks(chosen.len()).zip(contracts) {
        for input in inputs {
            assert_eq!(input.contract, contract.digest(), "inputs in the order of the contracts");
            assert_eq!(input.plane.len(), contract.plane_len(), "{}", contract.name);
            assert!(input.plane.iter().all(|v| v.is_finite()), "{}: a value that is not finite", contract.name);
        }
    }
}
