//! Decode workers as processes: answers, bombs, and that nothing survives the pool.

mod hostile;
mod liars;
mod locked;
mod masks;
mod memory;
mod mutations;

use hostile::encoded;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sidelight::config;
use sidelight::domain::{Contract, RefusalCode};
use sidelight::pixels::{Frames, Limits, Workers, normalise_file, read_header_file};

const EXE: &str = env!("CARGO_BIN_EXE_sidelight");

fn settings() -> config::Pixels {
    config::Pixels { workers: 2, timeout: Duration::from_secs(30), memory_max: 1 << 30, samples_max: 1 << 28 }
}

fn element(tag: u32, vr: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((tag >> 16) as u16).to_le_bytes());
    bytes.extend((tag as u16).to_le_bytes());
    bytes.extend_from_slice(vr.as_bytes());
    if matches!(vr, "OB" | "OW" | "SQ" | "UN") {
        bytes.extend([0, 0]);
        bytes.extend((value.len() as u32).to_le_bytes());
    } else {
        bytes.extend((value.len() as u16).to_le_bytes());
    }
    bytes.extend_from_slice(value);
    bytes
}

/// An image of `rows` × `columns` 16-bit pixels in Explicit VR Little Endian, without its pixel data.
fn image(rows: u16, columns: u16, stored: u16, frames: &str, syntax: &str) -> Vec<u8> {
    let us = |tag, value: u16| element(tag, "US", &value.to_le_bytes());
    let meta = element(0x0002_0010, "UI", syntax.as_bytes());
    [
        vec![0; 128],
        b"DICM".to_vec(),
        meta,
        element(0x0008_0016, "UI", b"1.2.840.10008.5.1.4.1.1.1\0"),
        element(0x0008_0018, "UI", b"1.2.3.4\0"),
        element(0x0008_0060, "CS", b"CR"),
        element(0x0020_000D, "UI", b"1.2.3\0"),
        element(0x0020_000E, "UI", b"1.2.3.5\0"),
        us(0x0028_0002, 1),
        element(0x0028_0004, "CS", b"MONOCHROME2 "),
        element(0x0028_0008, "IS", frames.as_bytes()),
        us(0x0028_0010, rows),
        us(0x0028_0011, columns),
        us(0x0028_0100, 16),
        us(0x0028_0101, stored),
        us(0x0028_0102, stored - 1),
        us(0x0028_0103, 0),
    ]
    .concat()
}

const EXPLICIT: &str = "1.2.840.10008.1.2.1\0";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const RLE: &str = "1.2.840.10008.1.2.5\0";
const JPEG: &str = "1.2.840.10008.1.2.4.70";

fn sound(rows: u16, columns: u16) -> Vec<u8> {
    let pixels: Vec<u8> =
        (0..u32::from(rows) * u32::from(columns)).flat_map(|i| (i as u16 & 0xFFF).to_le_bytes()).collect();
    [image(rows, columns, 12, "1 ", EXPLICIT), element(0x7FE0_0010, "OW", &pixels)].concat()
}

fn encapsulated(syntax: &str, fragment: &[u8]) -> Vec<u8> {
    let mut bytes = [image(64, 64, 12, "1 ", syntax), vec![0xE0, 0x7F, 0x10, 0, b'O', b'B', 0, 0]].concat();
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0xFE, 0xFF, 0x00, 0xE0, 0, 0, 0, 0, 0xFE, 0xFF, 0x00, 0xE0]);
    bytes.extend((fragment.len() as u32).to_le_bytes());
    bytes.extend_from_slice(fragment);
    bytes.extend([0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]);
    bytes
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a written file");
    path
}

/// An executable that stands in for a worker that misbehaves.
fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
    let path = write(folder, name, format!("#!/bin/sh\n{body}\n").as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    path
}

fn contracts() -> Vec<Contract> {
    [("xrv-1024", 64), ("imagenet-rgb", 32)].map(|(name, size)| Contract::preset(name, size).expect("a preset")).into()
}

#[tokio::test]
async fn a_worker_answers_what_the_same_code_answers_in_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "sound", &sound(100, 120));
    let workers = Workers::start(&settings(), EXE.into());
    let limits = Limits::from(&settings());
    assert_eq!(workers.read_header(&path).await, read_header_file(&path, &limits));
    let frames = Frames::default();
    let expected = normalise_file(&path, &contracts(), frames, &limits);
    assert!(expected.as_ref().is_ok_and(|n| n.inputs.len() == 2));
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let (workers, path) = (workers.clone(), path.clone());
            tokio::spawn(async move { workers.normalise(&path, &contracts(), frames).await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.expect("no panic"), expected);
    }
}

#[tokio::test]
async fn frames_come_in_parts_and_are_those_of_the_whole() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pixels: Vec<u8> =
        (0..20 * 64 * 64u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) as u16 >> 4).to_le_bytes()).collect();
    let bytes = [image(64, 64, 12, "20", EXPLICIT), element(0x7FE0_0010, "OW", &pixels)].concat();
    let path = write(folder.path(), "cine", &bytes);
    let (workers, frames) = (Workers::start(&settings(), EXE.into()), Frames::All { max: 19 });
    let mut parts = workers.parts(&path, &contracts(), frames);
    let mut sizes = Vec::new();
    while let Some(part) = parts.next().await {
        sizes.push(part.expect("a part").frames.len());
    }
    assert_eq!(sizes, [8, 8, 3]);
    let whole = workers.normalise(&path, &contracts(), frames).await.expect("a sound image");
    assert_eq!((whole.frames.len(), whole.inputs.len()), (19, 38));
    assert_eq!(normalise_file(&path, &contracts(), frames, &Limits::from(&settings())), Ok(whole));
}

#[tokio::test]
async fn a_contract_that_cannot_be_fulfilled_takes_the_image_from_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spacing = element(0x0028_0030, "DS", b"-1\\1");
    let head = image(64, 64, 12, "1 ", EXPLICIT);
    // in the order of the tags: before Bits Allocated (0028,0100)
    let at = head.windows(4).position(|w| w == [0x28, 0, 0, 1]).expect("Bits Allocated");
    let pixels = element(0x7FE0_0010, "OW", &[7; 64 * 64 * 2]);
    let path = write(folder.path(), "spacing", &[&head[..at], &spacing, &head[at..], &pixels].concat());
    let workers = Workers::start(&settings(), EXE.into());
    // the first crops to a square of the patient, the second stretches
    let part = workers.parts(&path, &contracts(), Frames::First).next().await.expect("a part").expect("an image");
    let codes: Vec<_> = part.inputs.iter().map(|i| i.as_ref().map(Vec::len).map_err(|r| r.code)).collect();
    assert_eq!(codes, [Err(RefusalCode::Inconsistent), Ok(1)]);
    let whole = workers.normalise(&path, &contracts(), Frames::First).await;
    assert_eq!(whole.map_err(|r| r.code), Err(RefusalCode::Inconsistent));
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_a_link_is_followed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    write(folder.path(), "sound", &sound(8, 8));
    std::os::unix::fs::symlink("sound", path("link")).expect("a link");
    std::os::unix::fs::symlink("missing", path("dangling")).expect("a link");
    std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
    let made = Command::new("mkfifo").arg(path("pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    let workers = Workers::start(&settings(), EXE.into());
    let rows = [
        ("sound", Ok(())),
        ("link", Ok(())),
        ("missing", Err("cannot be opened")),
        ("dangling", Err("cannot be opened")),
        (".", Err("not a regular file")),
        ("pipe", Err("not a regular file")),
        ("socket", Err("not a regular file")),
    ];
    for (name, expected) in rows {
        let answer = workers.read_header(&path(name)).await.map(|_| ());
        let fits = match (&answer, expected) {
            (Err(refusal), Err(text)) => refusal.code == RefusalCode::Malformed && refusal.detail.contains(text),
            (answer, expected) => answer.is_ok() && expected.is_ok(),
        };
        assert!(fits, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn bombs_are_refused_within_seconds_by_workers_that_go_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nested =
        [0x40, 0x00, 0x30, 0xA7, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF];
    let mut claims_4_gib = [image(64, 64, 12, "1 ", EXPLICIT), vec![0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0]].concat();
    claims_4_gib.extend(0xFFFF_FFF0u32.to_le_bytes());
    let pixels = element(0x7FE0_0010, "OW", &[0; 8192]);
    let oversize =
        [0xFF, 0xD8, 0xFF, 0xC3, 0, 11, 16, 0xFF, 0xFF, 0xFF, 0xFF, 1, 1, 0x11, 0, 0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 0, 0];
    let mut truncated_rle = vec![0; 64];
    (truncated_rle[0], truncated_rle[4], truncated_rle[8]) = (2, 64, 66);
    truncated_rle.extend([0x81, 1, 0x7F, 0]);
    let oversize_j2k = [
        vec![0xFF, 0x4F, 0xFF, 0x51, 0, 41, 0, 0],
        [65_535u32, 65_535, 0, 0, 65_535, 65_535, 0, 0].iter().flat_map(|v| v.to_be_bytes()).collect(),
        vec![0, 1, 11, 1, 1, 0xFF, 0x52, 0, 12, 0, 0, 0, 1, 0, 5, 4, 4, 0, 0],
        vec![0xFF, 0x90, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF, 0x93, 0xFF, 0xD9],
    ]
    .concat();
    let jpeg_ls = encoded(&sound(64, 64), &["dcmcjpls", "+el"]);
    let start = jpeg_ls.windows(4).position(|w| w == [0xFF, 0xD8, 0xFF, 0xF7]).expect("a JPEG-LS frame");
    let half = jpeg_ls[start..start + (jpeg_ls.len() - start) / 4 * 2].to_vec();
    let (jpeg_2000, htj2k) = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201\0");
    let rows: Vec<(&str, Vec<u8>, RefusalCode)> = vec![
        (
            "100,000 nested sequences",
            [image(64, 64, 12, "1 ", EXPLICIT), nested.repeat(100_000)].concat(),
            RefusalCode::Malformed,
        ),
        ("an element of 4 GiB", claims_4_gib, RefusalCode::Malformed),
        (
            "2,000,000,000 frames",
            [image(64, 64, 12, "2000000000", EXPLICIT), pixels.clone()].concat(),
            RefusalCode::TooLarge,
        ),
        ("31 bits stored", [image(64, 64, 31, "1 ", EXPLICIT), pixels.clone()].concat(), RefusalCode::Inconsistent),
        ("65,535 × 65,535 pixels", [image(65_535, 65_535, 12, "1 ", EXPLICIT), pixels].concat(), RefusalCode::TooLarge),
        ("a codestream of 65,535 × 65,535", encapsulated(JPEG, &oversize), RefusalCode::Inconsistent),
        ("JPEG 2000 of 65,535 × 65,535", encapsulated(jpeg_2000, &oversize_j2k), RefusalCode::Inconsistent),
        ("HTJ2K of 65,535 × 65,535", encapsulated(htj2k, &oversize_j2k), RefusalCode::Inconsistent),
        ("a truncated RLE frame", encapsulated(RLE, &truncated_rle), RefusalCode::DecodeFailed),
        ("half a JPEG-LS frame", encapsulated("1.2.840.10008.1.2.4.80", &half), RefusalCode::DecodeFailed),
        ("half a MB that inflates to 512 MiB", inflates_to(512 << 20), RefusalCode::TooLarge),
    ];
    let settings = config::Pixels { workers: 1, memory_max: 256 << 20, ..settings() };
    let workers = Workers::start(&settings, EXE.into());
    let sound = write(folder.path(), "sound", &sound(64, 64));
    for (name, bytes, expected) in rows {
        let path = write(folder.path(), "bomb", &bytes);
        let started = Instant::now();
        let answer = workers.normalise(&path, &contracts(), Frames::default()).await;
        assert_eq!(answer.map(|_| ()).map_err(|r| r.code), Err(expected), "{name}");
        assert!(started.elapsed() < Duration::from_secs(10), "{name} took {:?}", started.elapsed());
        assert!(workers.normalise(&sound, &contracts(), Frames::default()).await.is_ok(), "after {name}");
    }
}

/// A deflated object whose pixel data has so many bytes.
fn inflates_to(bytes: u32) -> Vec<u8> {
    let plain = image(64, 64, 12, "1 ", DEFLATED);
    // what comes before the data set is never deflated
    let (meta, data_set) = plain.split_at(128 + 4 + 8 + DEFLATED.len());
    let mut encoder = flate2::write::DeflateEncoder::new(meta.to_vec(), flate2::Compression::fast());
    encoder.write_all(data_set).expect("memory");
    encoder.write_all(&[0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0]).expect("memory");
    encoder.write_all(&bytes.to_le_bytes()).expect("memory");
    let zeros = vec![0; 1 << 20];
    (0..bytes >> 20).for_each(|_| encoder.write_all(&zeros).expect("memory"));
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn a_dropped_request_frees_its_worker_and_a_dropped_pool_leaves_no_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "sound", &sound(1000, 1000));
    let settings = config::Pixels { workers: 1, ..settings() };
    let workers = Workers::start(&settings, EXE.into());
    for _ in 0..20 {
        // asked once, which sends it on its way or has it wait for the worker, and dropped
        let mut request = std::pin::pin!(workers.normalise(&path, &[], Frames::First));
        let waits = std::future::poll_fn(|context| Poll::Ready(request.as_mut().poll(context).is_pending()));
        assert!(waits.await);
    }
    assert!(workers.read_header(&path).await.is_ok());
    drop(workers);

    let pid_file = folder.path().join("pid");
    let exe = script(folder.path(), "sleeper", &format!("echo $$ > {}\nexec sleep 600", pid_file.display()));
    let workers = Workers::start(&settings, exe);
    let pid = wait_for(|| std::fs::read_to_string(&pid_file).ok().filter(|t| t.ends_with('\n')));
    drop(workers);
    let process = PathBuf::from(format!("/proc/{}", pid.trim()));
    wait_for(|| (!process.exists()).then_some(()));
}

/// Polls until there is a value; ten seconds are for ever here.
fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "the condition never came true");
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_ends_with_its_input_and_refuses_to_work_without_limits_or_memory() {
    let limits = br#"{"memory_max":1073741824,"cpu_seconds":5,"limits":{"samples_max":1,"inflate_bytes_max":1,"frame_bytes_max":1}}"#;
    let nonsense = b"no limits at all";
    let rows: [(&str, &[u8], bool, Result<&str, ()>); 4] = [
        ("nothing", b"", false, Ok("")),
        ("limits and memory", limits, true, Ok("no_new_privs")),
        ("limits without memory", limits, false, Err(())),
        ("nonsense", nonsense, true, Err(())),
    ];
    for (name, hello, memory, expected) in rows {
        let (mut node, worker) = UnixStream::pair().expect("sockets");
        let mut command = Command::new(EXE);
        let mut child =
            command.arg("__worker").stdin(OwnedFd::from(worker)).stdout(Stdio::null()).spawn().expect("a worker");
        drop(command);
        if !hello.is_empty() {
            let file = tempfile::tempfile().expect("a file");
            let files = [file.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(!memory || control.push(SendAncillaryMessage::ScmRights(&files)));
            let length = (hello.len() as u32).to_le_bytes();
            sendmsg(&node, &[IoSlice::new(&length)], &mut control, SendFlags::empty()).expect("an open socket");
            node.write_all(hello).expect("an open socket");
        }
        node.shutdown(std::net::Shutdown::Write).expect("an open socket");
        let mut said = Vec::new();
        // where the worker ends with something unread, the socket says so in place of an end
        let _ = node.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said).into_owned();
        let ended = child.wait().expect("an end").success();
        let sound = expected.map_or(said.is_empty(), |text| said.contains(text));
        assert_eq!((ended, sound), (expected.is_ok(), true), "{name}: {said}");
    }
}
