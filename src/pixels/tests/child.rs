//! The node's end of a worker: what is believed of an answer, and how long a process is used. Scripts stand in for
//! workers that misbehave.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::domain::Digest;
use crate::pixels::{Limits, SeenFrame};

#[test]
fn frames_of_an_answer_are_those_that_were_asked_for() {
    let contracts = [Contract::preset("xrv-1024", 64).expect("a preset")];
    let all = Frames::All { max: 32 };
    let rows: [(&[u32], u32, Frames, u32, bool); 13] = [
        (&[1], 1, Frames::First, 0, true),
        (&[7], 1, Frames::Middle, 0, true),
        (&[1, 2, 5], 3, Frames::All { max: 3 }, 0, true),
        (&[1, 2, 3, 4, 5, 6, 7, 8], 20, all, 0, true),
        (&[9, 10, 11, 12, 13, 14, 15, 16], 20, all, 8, true),
        (&[17, 18, 19, 20], 20, all, 16, true),
        (&[1, 2, 3, 4, 5, 6, 7, 8, 9], 20, all, 0, false),
        (&[1, 2, 3], 20, all, 0, false),
        (&[1], 33, all, 32, false),
        (&[], 0, Frames::First, 0, false),
        (&[1, 2], 2, Frames::Middle, 0, false),
        (&[1, 2, 3, 4], 4, Frames::All { max: 3 }, 0, false),
        (&[2, 2], 2, Frames::All { max: 3 }, 0, false),
    ];
    for (numbers, chosen, policy, from, expected) in rows {
        let frame = |number: &u32| SeenFrame { number: *number, digest: Digest::of(b"frame") };
        let seen = Seen { chosen, frames: numbers.iter().map(frame).collect(), refused: vec![None] };
        assert_eq!(check_frames(&seen, policy, from, &contracts).is_ok(), expected, "{numbers:?} {policy:?} {from}");
        let other = Seen { refused: Vec::new(), ..seen };
        assert!(check_frames(&other, policy, from, &contracts).is_err(), "no word of the contract");
    }
}

#[test]
fn only_refusals_of_a_decoder_are_believed() {
    use RefusalCode::*;
    let rows = [
        (Malformed, true),
        (Inconsistent, true),
        (NoPixels, true),
        (UnsupportedFormat, true),
        (DecodeFailed, true),
        (TooLarge, true),
        (OutOfScope, true),
        (WorkerDied, true),
        (WorkerUnavailable, false),
        (OwnReport, false),
        (NotAnImage, false),
        (ClinicalResult, false),
        (ModelFailed, false),
        (PatientMismatch, false),
        (NothingToAnalyse, false),
    ];
    for (code, expected) in rows {
        let answer = believed(Refusal::new(code, "why"));
        assert_eq!(answer.as_ref().is_ok_and(|r| *r == Refusal::new(code, "why")), expected, "{code}: {answer:?}");
    }
}

#[test]
fn texts_of_a_worker_are_cut_and_cleaned() {
    let long = "ä".repeat(3 << 20);
    let rows: [(&str, &str); 4] = [
        ("2 frames of 3 µm", "2 frames of 3 µm"),
        ("a\nb\r\0\u{1b}[31mc", "a?b???[31mc"),
        ("\u{202E}txt\u{2028}\u{FEFF}", "?txt??"),
        (&long, &long[..2 * TEXT_MAX]),
    ];
    for (text, expected) in rows {
        assert_eq!(cleaned(text), expected);
        assert_eq!(believed(Refusal::new(RefusalCode::Malformed, text)).expect("a code").detail, expected);
    }
}

/// A script that stands in for a worker: what it prints to its standard input goes to the node.
fn process(folder: &Path, body: &str) -> Process {
    let exe = folder.join("worker");
    std::fs::write(&exe, format!("#!/bin/sh\n{body}\n")).expect("a script");
    std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let hello = Hello { memory_max: 1 << 30, cpu_seconds: 1, limits: Limits::default() };
    Process::start(&exe, &hello, Duration::from_secs(10)).expect("a process")
}

/// A message as a script prints it.
fn printed(message: &impl serde::Serialize) -> Vec<String> {
    let bytes = wire::encode(message, REPLY_BYTES_MAX).expect("a short message");
    bytes.iter().map(|b| format!("\\{b:03o}")).collect()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn a_greeting_that_comes_in_parts_is_read_by_looks_that_are_cut_short() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // one for each stop: a writer that is still there would open the next, too
    let gates = ["first", "second"].map(|name| folder.path().join(name));
    assert!(Command::new("mkfifo").args(&gates).status().expect("mkfifo runs").success());
    let protections = Protections { seccomp: true, ..Protections::default() };
    let greeting = printed(&Ready { protections: protections.clone() });
    let parts = [&greeting[..2], &greeting[2..9], &greeting[9..]].map(<[String]>::concat);
    let body = format!(
        "printf '{}' >&0; : < {}; printf '{}' >&0; : < {}; printf '{}' >&0; exec sleep 600",
        parts[0],
        gates[0].display(),
        parts[1],
        gates[1].display(),
        parts[2],
    );
    let mut process = process(folder.path(), &body);
    for (expected, gate) in [2, 9].into_iter().zip(&gates) {
        let deadline = soon();
        while process.partial.len() < expected {
            assert!(Instant::now() < deadline, "{} bytes came", process.partial.len());
            let look = process.greeted(Instant::now() + Duration::from_millis(1)).map_err(|e| e.kind());
            assert_eq!(look.map(|_| ()), Err(io::ErrorKind::TimedOut));
        }
        // a reader opens it for writing
        drop(File::options().write(true).open(gate).expect("a pipe"));
    }
    assert_eq!(process.greeted(soon()).expect("the whole greeting"), &protections);
    assert!(process.partial.is_empty());
}

#[test]
fn a_worker_that_speaks_out_of_turn_is_used_no_more() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let greeting = printed(&Ready { protections: Protections::default() }).concat();
    let refused = printed(&Reply::Refused(Refusal::new(RefusalCode::Malformed, "why"))).concat();
    // the first read takes the greeting of the node, the second its question
    let read = "dd of=/dev/null bs=65536 count=1 2> /dev/null";
    let once = format!("{read}; printf '{greeting}' >&0; {read}; printf '{refused}' >&0; ");
    let rows = [
        ("silent", format!("{once} exec sleep 600"), true, None),
        ("twice", format!("{once} printf '{refused}' >&0; exec sleep 600"), true, Some(())),
        ("at once", format!("printf '{greeting}{refused}' >&0; exec sleep 600"), false, None),
        ("gone", format!("{once} exit 0"), true, Some(())),
    ];
    let object = tempfile::tempfile().expect("a file");
    for (name, body, answered, spoils) in rows {
        let mut process = process(folder.path(), &body);
        let answer = process.exchange(&Task::Header, Some(&object), soon());
        match answer {
            Ok(answer) => assert!(answered && answer.is_err_and(|r| r.detail == "why"), "{name}"),
            Err(e) => assert!(!answered && e.kind() == io::ErrorKind::InvalidData, "{name}: {e}"),
        }
        if spoils.is_some() {
            wait_readable(&process.socket, soon()).expect("something to read");
        }
        assert_eq!(process.is_usable(), answered && spoils.is_none(), "{name}");
    }
}

#[test]
fn a_process_is_used_until_it_is_worn_or_confused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fresh = || process(folder.path(), "exec sleep 600");
    let old = Instant::now().checked_sub(AGE_MIN).expect("the machine runs longer");
    type Change = fn(&mut Process, Instant);
    let rows: [(&str, Change, bool); 6] = [
        ("fresh", |_, _| {}, true),
        ("old", |p, old| p.started = old, true),
        ("confused", |p, _| p.confused = true, true),
        ("confused and old", |p, old| (p.confused, p.started) = (true, old), false),
        ("after many requests", |p, _| p.served = REQUESTS_PER_PROCESS, false),
        ("after much time", |p, _| p.busy = Duration::from_secs(LIFE_REQUESTS - 2), false),
    ];
    for (name, change, expected) in rows {
        let mut process = fresh();
        change(&mut process, old);
        assert_eq!(process.is_usable(), expected, "{name}");
    }
}

#[test]
fn signals_are_named() {
    for (signal, expected) in [
        (31, "signal 31 (SIGSYS): a forbidden system call"),
        (24, "signal 24 (SIGXCPU): processor time used up (pixels.timeout)"),
        (63, "signal 63: see signal(7)"),
    ] {
        assert_eq!(cause(signal), expected);
    }
}
