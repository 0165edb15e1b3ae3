//! A node on a disk that fails on demand (`faults.c`, preloaded).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{root, run_ok};

/// The shim and its control file.
pub struct Faults {
    library: PathBuf,
    control: PathBuf,
}

impl Faults {
    /// Compiles the shim into a folder.
    pub fn build(folder: &Path) -> Self {
        let library = folder.join("faults.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library);
        run_ok(compiler.arg(root().join("tests/it/support/faults.c")).arg("-ldl"));
        let faults = Self { library, control: folder.join("faults") };
        faults.clear();
        faults
    }

    /// What a node needs in its environment.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("FAULTS", &self.control)]
    }

    /// From now on: lines of `CALL PATH EFFECT COUNT`.
    pub fn set(&self, rules: &str) {
        let next = self.control.with_extension("next");
        fs::write(&next, rules).expect("the test folder is writable");
        fs::rename(next, &self.control).expect("the test folder is writable");
    }

    /// Calls that failed so far.
    pub fn hits(&self) -> u64 {
        fs::metadata(self.control.with_extension("hits")).map_or(0, |file| file.len())
    }

    pub fn clear(&self) {
        self.set("");
    }
}
