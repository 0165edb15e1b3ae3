//! CUDA beside a CPU build.
//!
//! The program links libtorch's CPU libraries only. Where `libtorch_cuda.so` of the same libtorch lies beside
//! them, or on the loader's path, loading it with global symbols registers the CUDA backend; nothing needs to be
//! linked. Neighbours: `device`. Left out: drivers and toolkits, which the library finds itself or fails.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const LIBRARY: &str = "libtorch_cuda.so";

/// Loads the CUDA backend once. `Err` says why there is none; that is no fault unless CUDA was asked for.
pub(super) fn load_backend() -> Result<(), String> {
    static OUTCOME: OnceLock<Result<(), String>> = OnceLock::new();
    OUTCOME.get_or_init(|| open(&candidate())).clone()
}

/// Beside the CPU library that this process runs with, else by name along the loader's path.
fn candidate() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .find(|path| path.file_name().is_some_and(|name| name == "libtorch_cpu.so"))
        .and_then(Path::parent)
        .map(|folder| folder.join(LIBRARY))
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(LIBRARY))
}

#[allow(unsafe_code)]
fn open(path: &Path) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

    // SAFETY: loading a library runs its initialisers. This one is the CUDA half of the libtorch that the process
    // already runs, made to be loaded beside it; its initialisers only register backends. It is loaded before the
    // first call into CUDA (guarded by the OnceLock above) and never unloaded, so no symbol can dangle.
    match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_an_answer_and_no_crash() {
        let error = open(Path::new("/nowhere/libtorch_cuda.so")).unwrap_err();
        assert!(error.contains("/nowhere/libtorch_cuda.so"), "{error}");
    }
}
