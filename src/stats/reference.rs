//! What tests ask of statsmodels, scikit-learn and SciPy: `tests/reference/statistics.py`, run by `SIDELIGHT_PYTHON`.
//!
//! Left out: everything but tests.

// Said again for readers of this file alone: a room without files has some for its tests.
#[cfg(test)]
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Answers to `inputs`, by name: each has `of`, the case, and `given`.
pub(crate) fn answers(inputs: &Value) -> Value {
    answers_of("statistics.py", inputs)
}

/// What a script of `tests/reference` answers to `inputs`.
pub(crate) fn answers_of(script: &str, inputs: &Value) -> Value {
    let python = std::env::var_os("SIDELIGHT_PYTHON")
        .expect("SIDELIGHT_PYTHON names a Python with statsmodels and scikit-learn; scripts/test sets it up");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("inputs.json"), inputs.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(script);
    let run = Command::new(&python).arg(script).arg(folder.path()).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{python:?} with statsmodels and scikit-learn, see scripts/setup: {said}");
    serde_json::from_slice(&std::fs::read(folder.path().join("answers.json")).unwrap()).unwrap()
}

/// A JSON list of numbers, nested or not, row after row.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap_or_else(|| panic!("{number} is no number"))],
    }
}

/// Fails where one pair differs by more than `tolerance`, and by as much of the number itself.
pub(crate) fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: another number of values");
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}, value {i}: {a} here, {b} there");
    }
}
