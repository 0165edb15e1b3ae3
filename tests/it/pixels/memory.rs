//! Memory of a worker: refused by name before it is needed where that can be known, a crash where it cannot.

use sidelight::pixels::Attempt;

use super::hostile::encoded;
use super::*;

fn workers(memory_max: u64) -> Workers {
    Workers::start(&config::Pixels { workers: 1, memory_max, ..settings() }, EXE.into())
}

#[tokio::test]
async fn a_frame_that_needs_too_much_is_refused_by_name_and_the_worker_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let large = write(folder.path(), "large", &sound(4000, 4000));
    let small = write(folder.path(), "small", &sound(64, 64));
    let workers = workers(16 << 20);
    for _ in 0..2 {
        let refusal = workers.normalise(&large, &contracts(), Frames::default()).await.expect_err("16 Mi of 32 MB");
        assert_eq!(refusal.code, RefusalCode::TooLarge);
        assert!(refusal.detail.contains("pixels.memory_max"), "{refusal}");
        assert!(workers.normalise(&small, &contracts(), Frames::default()).await.is_ok());
    }
}

#[tokio::test]
async fn a_worker_that_runs_out_of_memory_costs_one_refusal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let small = write(folder.path(), "small", &sound(64, 64));
    let workers = workers(16 << 20);
    for _ in 0..2 {
        let refusal = workers.probe(Attempt::ExhaustMemory).await.expect_err("a crash");
        assert_eq!(refusal.code, RefusalCode::WorkerDied);
        assert!(refusal.detail.contains("SIGABRT") && refusal.detail.contains("pixels.memory_max"), "{refusal}");
        assert!(workers.normalise(&small, &contracts(), Frames::default()).await.is_ok());
    }
}

/// The estimate is half of what is granted: that must do, in every format.
#[tokio::test]
async fn a_frame_is_decoded_in_twice_what_it_is_estimated_to_take() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let corpus = |path: &str| std::fs::read(crate::support::shared().join("corpus").join(path)).expect("the corpus");
    let plain = sound(1500, 1700);
    let rows = [
        ("explicit", plain.clone()),
        ("big endian", encoded(&plain, &["dcmconv", "+te"])),
        ("rle", encoded(&plain, &["dcmcrle"])),
        ("jpeg-lossless", encoded(&plain, &["dcmcjpeg", "+el"])),
        ("jpeg-ls", encoded(&plain, &["dcmcjpls", "+el"])),
        ("jpeg-2000", corpus("CR/RG3_J2KR.dcm")),
        ("jpeg of 12 bits", corpus("MG/MG1_JPLY.dcm")),
        ("htj2k of colour", corpus("OT/HTJ2KLossless_08_RGB.dcm")),
        ("4:2:2", corpus("US/YBR_422.dcm")),
        ("palette", corpus("US/US-PAL-8-10x-echo.dcm")),
        ("signed", corpus("OT/test16signed.dcm")),
    ];
    for (name, bytes) in rows {
        let path = write(folder.path(), "object", &bytes);
        let nothing = Limits { frame_bytes_max: 1, ..Limits::default() };
        let refusal = normalise_file(&path, &contracts(), Frames::First, &nothing).expect_err("one byte");
        let bytes = refusal.detail.split("takes about ").nth(1).and_then(|rest| rest.split(' ').next());
        let bytes: u64 = bytes.and_then(|number| number.parse().ok()).expect("an estimate");
        let answer = workers(2 * bytes).normalise(&path, &contracts(), Frames::First).await;
        assert!(answer.is_ok(), "{name}: {bytes} bytes estimated, {answer:?}");
    }
}
