//! What a real worker can not do, tried from inside it, and that decoding works there all the same.

use std::fs;
use std::path::Path;

use sidelight::pixels::{Attempt, Frames, Outcome, Workers};

use super::*;

/// A name under which the workers of one pool can be told from all others.
pub fn named_exe(folder: &Path) -> PathBuf {
    let exe = folder.join("worker");
    std::os::unix::fs::symlink(EXE, &exe).expect("a link");
    exe
}

/// Folders in /proc of the processes that run under this name.
pub fn processes(exe: &Path) -> Vec<PathBuf> {
    let runs = |folder: &PathBuf| {
        let line = fs::read(folder.join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).next() == Some(exe.as_os_str().as_encoded_bytes())
    };
    let all = fs::read_dir("/proc").expect("procfs").filter_map(|entry| Some(entry.ok()?.path()));
    all.filter(runs).collect()
}

/// A number in `/proc/<pid>/status`; `None` once the process is gone.
pub fn status(process: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(process.join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[tokio::test]
async fn the_kernel_confirms_what_workers_say_protects_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let exe = named_exe(folder.path());
    let workers = Workers::start(&config::Pixels { workers: 1, ..settings() }, exe.clone());
    let said = wait_for(|| workers.protections());
    println!("protections here: {said:?}");
    let process = processes(&exe).pop().expect("a worker");
    assert_eq!(status(&process, "NoNewPrivs"), Some(u64::from(said.no_new_privs)));
    // 2: filtered
    assert_eq!(status(&process, "Seccomp"), Some(if said.seccomp { 2 } else { 0 }));
    assert!(said.no_new_privs);
    assert_eq!(status(&process, "CapEff"), Some(0));
    assert_eq!(status(&process, "CapPrm"), Some(0));
    // soft and hard, seconds: sixteen requests of full length in its life
    let limits = fs::read_to_string(process.join("limits")).expect("procfs");
    let time = limits.lines().find_map(|line| line.strip_prefix("Max cpu time")).expect("a limit");
    assert_eq!(time.split_whitespace().nth(1), Some("480"), "{time}");
    assert_eq!(said.seccomp, Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(), "{:?}", said.missing);
    assert_eq!(said.missing.is_empty(), said.seccomp && said.landlock_abi.is_some());
    // every thread, also the one that only waits
    for thread in fs::read_dir(process.join("task")).expect("threads") {
        let thread = thread.expect("a thread").path();
        assert_eq!(status(&thread, "Seccomp"), status(&process, "Seccomp"), "{}", thread.display());
    }
}

#[tokio::test]
async fn a_worker_reads_no_file_creates_none_opens_no_socket_starts_nothing_and_takes_no_more_than_it_is_given() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = write(folder.path(), "sound", &sound(64, 64));
    let workers = Workers::start(&config::Pixels { workers: 1, ..settings() }, EXE.into());
    let protections = wait_for(|| workers.protections());
    let paths_denied = protections.seccomp || protections.landlock_abi.is_some();
    let (killed, out_of_memory) = (Some("SIGSYS"), Some("SIGABRT"));
    let rows = [
        (Attempt::ReadFile, paths_denied, None),
        (Attempt::CreateFile, paths_denied, None),
        (Attempt::StartThread, protections.seccomp, None),
        (Attempt::RaiseProcessorTime, true, None),
        (Attempt::ExhaustMemory, true, out_of_memory),
        (Attempt::OpenSocket, protections.seccomp, killed),
        (Attempt::StartProcess, protections.seccomp, killed),
        // the standard library begins with the handling of signals, which is refused before the program would be
        // replaced
        (Attempt::ReplaceProgram, protections.seccomp, None),
    ];
    for (attempt, denied, deadly) in rows {
        let outcome = workers.probe(attempt).await;
        println!("{attempt:?}: {outcome:?}");
        match &outcome {
            _ if !denied => {}
            Ok(Outcome::Refused(error)) => assert!(deadly.is_none() && error.contains("ermi"), "{attempt:?}: {error}"),
            Err(refusal) => assert!(deadly.is_some_and(|by| refusal.detail.contains(by)), "{attempt:?}: {refusal}"),
            Ok(Outcome::Granted) => panic!("{attempt:?} was granted"),
        }
        assert!(workers.normalise(&image, &contracts(), Frames::First).await.is_ok(), "after {attempt:?}");
    }
}

#[tokio::test]
async fn large_and_small_inputs_pass_through_the_same_memory_unmixed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = [("large", sound(2000, 1500)), ("small", sound(40, 30)), ("other", sound(64, 640))]
        .map(|(name, bytes)| write(folder.path(), name, &bytes));
    let sizes = [2700, 8, 1024, 33];
    let settings = config::Pixels { workers: 1, ..settings() };
    let workers = Workers::start(&settings, EXE.into());
    for size in sizes {
        let contracts = ["xrv-1024", "imagenet-rgb"].map(|name| Contract::preset(name, size).expect("a preset"));
        for file in &files {
            let expected = normalise_file(file, &contracts, Frames::First, &Limits::from(&settings));
            assert!(expected.is_ok());
            let answer = workers.normalise(file, &contracts, Frames::First).await;
            assert!(answer == expected, "{size} of {}", file.display());
        }
    }
}
