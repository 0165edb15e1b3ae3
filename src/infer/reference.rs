//! What tests ask of PyTorch: the packages python3-torch and python3-torchvision of the distribution.
//!
//! They run under `SIDELIGHT_TORCH_PYTHON`, by default Debian's `/usr/bin/python3`; `scripts/setup` installs them. Any
//! release will do: what is asked has not changed for years. Left out: everything but tests.

use std::path::Path;
use std::process::Command;

/// Runs a script of the reference with a folder for what it writes.
pub(crate) fn python(script: &Path, folder: &Path) {
    let python = std::env::var_os("SIDELIGHT_TORCH_PYTHON").unwrap_or_else(|| "/usr/bin/python3".into());
    // With its own libraries: those that this process was started with are another PyTorch's.
    let run = Command::new(&python).arg(script).arg(folder).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{python:?} with torch and torchvision, see scripts/setup: {said}");
}

/// Runs `tests/reference/NAME` in a folder of its own.
pub(crate) fn run(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    python(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name), folder.path());
    folder
}

/// Figures of calibration and out-of-distribution scores.
pub(crate) fn study_level() -> (tempfile::TempDir, serde_json::Value) {
    let folder = run("study_level.py");
    let cases = serde_json::from_slice(&std::fs::read(folder.path().join("cases.json")).unwrap()).unwrap();
    (folder, cases)
}

/// A TorchScript file of a module whose `forward` of `images` has this body.
pub(crate) fn scripted(body: &str) -> Vec<u8> {
    scripted_as(body, "name")
}

/// As [`scripted`], its records renamed by a Python expression of `name`.
pub(crate) fn scripted_as(body: &str, renamed: &str) -> Vec<u8> {
    written("        super().__init__()", body, renamed)
}

/// As [`scripted`], with lines of `__init__` that set parameters.
pub(crate) fn scripted_with(parameters: &str, body: &str) -> Vec<u8> {
    written(&format!("        super().__init__()\n{parameters}"), body, "name")
}

fn written(init: &str, body: &str, renamed: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("network.py");
    let code = format!(
        "import sys\nimport zipfile\nimport torch\n\n\nclass Network(torch.nn.Module):\n\
         \x20   def __init__(self):\n{init}\n\n    def forward(self, images):\n{body}\n\n\n\
         torch.jit.script(Network()).save(sys.argv[1] + '/given.pt')\n\
         with zipfile.ZipFile(sys.argv[1] + '/given.pt') as given, zipfile.ZipFile(sys.argv[1] + '/network.pt', 'w') as out:\n\
         \x20   for name in given.namelist():\n\
         \x20       out.writestr({renamed}, given.read(name))\n"
    );
    std::fs::write(&script, code).unwrap();
    python(&script, folder.path());
    std::fs::read(folder.path().join("network.pt")).unwrap()
}
