//! Masks against other writers and readers: highdicom, pydicom and dcmqi write, numpy brings them to the plane.
//!
//! `tests/reference/segmentation.py` writes the images and Segmentations and says what their planes are. Which segments
//! and frames count and what is refused is in the unit tests of the room.

use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;
use sidelight::domain::{Contract, Fit, Orientation};
use sidelight::pixels::{Limits, mask_file};

use crate::support::{reference_python, root, run_ok, shared};

/// The reference resamples in double precision, by matrices.
const TOLERANCE: f32 = 2e-6;

/// What the reference says of a Segmentation.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    image: PathBuf,
    mask: PathBuf,
    /// Pixels of the image that it covers; 0 where it must be refused.
    covered: usize,
    /// By contract: none where the contract cannot be fulfilled.
    planes: Vec<Option<PathBuf>>,
}

/// Each fit and orientation at a size that divides none of the images'; and those that leave one of them as it is.
fn contracts() -> Vec<Contract> {
    let base = Contract::preset("minmax-unit", 16).expect("a preset");
    let mut contracts = Vec::new();
    for fit in [Fit::Stretch, Fit::CropCenter, Fit::PadSquare] {
        for orientation in [Orientation::AsStored, Orientation::LateralityLeft, Orientation::PatientOrientation] {
            contracts.push(Contract { fit, orientation, ..base.clone() });
        }
    }
    contracts.extend([47, 40, 128, 510].map(|size| Contract { size, ..base.clone() }));
    contracts
}

#[test]
fn segmentations_of_other_writers_are_what_numpy_makes_of_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let contracts = contracts();
    let list = folder.path().join("contracts.json");
    std::fs::write(&list, serde_json::to_vec(&contracts).expect("plain data")).expect("a written file");
    let script = root().join("tests/reference/segmentation.py");
    let mut reference = Command::new(reference_python());
    let said = run_ok(reference.arg(script).args([folder.path(), &list, &shared().join("corpus")]));
    let (mut exact, mut refused, mut compared) = (0, 0, 0);
    for line in said.lines() {
        let case: Case = serde_json::from_str(line).expect("a case");
        let seen = |contract: &Contract| mask_file(&case.mask, &case.image, contract, &Limits::default());
        if case.covered == 0 {
            let refusal = seen(&contracts[0]).expect_err(&case.name);
            assert!(refusal.detail.starts_with("the mask: "), "{}: {refusal}", case.name);
            refused += 1;
            continue;
        }
        assert_eq!(case.planes.len(), contracts.len(), "{}", case.name);
        for (contract, expected) in contracts.iter().zip(&case.planes) {
            let Some(expected) = expected else {
                let refusal = seen(contract).expect_err(&case.name);
                assert!(refusal.detail.starts_with("the image: "), "{}: {refusal}", case.name);
                continue;
            };
            let bytes = std::fs::read(expected).expect("an array");
            let expected: Vec<f32> =
                npyz::NpyFile::new(&bytes[..]).and_then(npyz::NpyFile::into_vec).expect("an array");
            let got = seen(contract).unwrap_or_else(|refusal| panic!("{}: {refusal}", case.name));
            let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(got.len() == expected.len() && worst < TOLERANCE, "{}: {worst} under {contract:?}", case.name);
            compared += 1;
            // every bit of it
            if contract.size > 16 && got.iter().all(|v| *v == 0.0 || *v == 1.0) {
                assert_eq!(got, expected, "{}", case.name);
                assert_eq!(got.iter().filter(|v| **v == 1.0).count(), case.covered, "{}", case.name);
                exact += 1;
            }
        }
    }
    assert_eq!((refused, exact), (3, 11), "and {compared} planes");
    assert!(compared > 150, "{compared} planes");
}
