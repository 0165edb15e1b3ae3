//! The house rules that a compiler does not check: imports go down only, each library stays in its room.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the ground floor up. A room may use rooms of lower floors, itself, and nothing beside or above it.
const FLOORS: &[&[&str]] = &[
    &["domain", "plot", "stats"],
    // phantoms draw on nothing but nouns and numerics
    &["config", "dicom", "assemble", "results", "phantom", "perturb"],
    &["store", "wire"],
    &["receive", "pixels", "infer", "assess", "report", "deliver"],
    // the models that run elsewhere: packages are of `infer`
    &["remote"],
    &["analyse"],
    &["web", "train", "validate", "audit"],
    &["serve", "probe"],
    &["cli"],
    &["commands", "main"],
];

/// `(word in a source line, rooms that may use it)`.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("sqlx::", &["store"]),
    ("tch::", &["infer", "train"]),
    ("axum::", &["web"]),
    ("use ring::", &["assess", "commands"]),
    ("hyper::", &["web", "wire", "deliver", "remote"]),
    ("clap::", &["cli", "main"]),
    ("dicom_ul::", &["wire", "receive"]),
    // tokio_rustls too
    ("rustls::", &["wire"]),
    ("turbojpeg_sys::", &["pixels"]),
    ("openjpeg_sys::", &["pixels"]),
    ("charls::", &["pixels"]),
    ("jxl::", &["pixels"]),
    ("blake3::", &["pixels", "store"]),
    ("bytemuck::", &["pixels"]),
    ("landlock::", &["pixels"]),
    ("seccompiler::", &["pixels"]),
    ("libc::", &["pixels", "infer"]),
    ("resvg::", &["plot"]),
    ("krilla::", &["plot"]),
    ("skrifa::", &["plot"]),
    ("askama::", &["plot", "web"]),
    ("argon2::", &["web"]),
    ("rustfft::", &["perturb", "phantom"]),
    ("parquet::", &["probe"]),
    ("dicom_object::", &["dicom", "receive", "deliver", "pixels", "report", "phantom"]),
];

/// Where unsafe code is, each block with its reason.
const UNSAFE: &[&str] =
    &["infer/cuda.rs", "infer/pool.rs", "infer/script.rs", "pixels/jpeg.rs", "pixels/jpeg2000.rs", "pixels/sandbox.rs"];

/// Rooms, folders and files that take no clock, file, socket or runtime.
const PURE: &[&str] = &[
    "domain",
    "plot",
    "stats",
    "assemble",
    "results",
    "assess",
    "validate",
    "audit",
    "report",
    "perturb",
    "pixels/normalise.rs",
    "pixels/unit.rs",
    "pixels/resize.rs",
    "pixels/grey.rs",
    "pixels/lut.rs",
    "pixels/slices.rs",
    "probe/resample.rs",
    "probe/tabular",
];
const IMPURE: &[&str] =
    &["Utc::now", "SystemTime::now", "Instant::now", "std::fs", "tokio::", "std::net::Tcp", "rand::rng("];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).expect("below src").to_owned();
                let first = relative.components().next().expect("a file has a name").as_os_str().to_string_lossy();
                let room = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                found.push((room, relative, text));
            }
        }
    }
    found
}

/// The lines of a file before its tests, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn imports_go_down_only() {
    let floor: BTreeMap<&str, usize> =
        FLOORS.iter().enumerate().flat_map(|(i, rooms)| rooms.iter().map(move |r| (*r, i))).collect();
    let mut faults = Vec::new();
    for (room, path, text) in sources().iter().filter(|(room, ..)| room != "lib") {
        let own = *floor.get(room.as_str()).unwrap_or_else(|| panic!("room {room} has no floor in this test"));
        for (number, line) in code(text) {
            // The binary's own rooms see the library by its name.
            let marker = if ["main", "commands"].contains(&room.as_str()) { "sidelight::" } else { "crate::" };
            for (at, _) in line.match_indices(marker) {
                let used: String =
                    line[at + marker.len()..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let Some(other) = floor.get(used.as_str()) else { continue };
                if used != *room && *other >= own {
                    faults.push(format!("{}:{}: {room} uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "imports that do not go down:\n{}", faults.join("\n"));
}

#[test]
fn each_library_stays_in_its_rooms() {
    let mut faults = Vec::new();
    for (room, path, text) in sources() {
        for (number, line) in code(&text) {
            for (word, rooms) in LIBRARIES {
                if line.contains(word) && !rooms.contains(&room.as_str()) {
                    faults.push(format!("{}:{}: {word} in {room}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "libraries outside their rooms:\n{}", faults.join("\n"));
}

#[test]
fn pure_rooms_take_no_clock_file_socket_or_runtime() {
    let mut faults = Vec::new();
    let is_pure = |room: &str, path: &Path| PURE.iter().any(|pure| *pure == room || path.starts_with(pure));
    for (room, path, text) in sources().iter().filter(|(room, path, _)| is_pure(room, path)) {
        for (number, line) in code(text) {
            for word in IMPURE {
                if line.contains(word) {
                    faults.push(format!("{}:{}: {word} in {room}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "pure rooms that reach outside:\n{}", faults.join("\n"));
}

#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    let holds = |text: &str| code(text).any(|(_, line)| line.contains("unsafe {"));
    let is_test = |path: &Path| path.components().any(|part| part.as_os_str() == "tests");
    let found = sources().into_iter().filter(|(_, path, text)| !is_test(path) && holds(text));
    let found: Vec<PathBuf> = found.map(|(_, path, _)| path).collect();
    let strays: Vec<_> = found.iter().filter(|path| !UNSAFE.iter().any(|known| Path::new(known) == *path)).collect();
    assert!(strays.is_empty() && found.len() == UNSAFE.len(), "unsafe code in {found:?}");
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let mut faults = Vec::new();
    for (_, path, text) in sources() {
        if !text.starts_with("//!") {
            faults.push(format!("{} does not open with //!", path.display()));
        }
        if text.lines().count() > 500 {
            faults.push(format!("{} has {} lines: two subjects", path.display(), text.lines().count()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
