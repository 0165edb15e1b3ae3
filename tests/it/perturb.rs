//! Every transform of `sidelight::perturb` against numpy, on several planes and sides.

use std::process::Command;

use sidelight::perturb::{Battery, Form, Kept, Lab, Plane, Transform};

use crate::support;

/// Planes hold 0 to 1; results are computed in 64 bits on both sides and kept in 32.
const TOLERANCE: f64 = 1e-5;

/// Smooth shapes, edges and texture, not the same along both axes.
fn plane(side: usize, number: usize) -> Plane {
    let value = |at: usize| {
        let (row, column) = (at / side, at % side);
        let texture = ((at + 1 + number * 977).wrapping_mul(2_654_435_761) % 1009) as f32 / 1009.0;
        let shape = (row as f32 / (7.0 + number as f32)).sin() * (column as f32 / 11.0).cos();
        let edge = if row + 2 * column > side && row < side / 2 { 0.2 } else { 0.0 };
        (0.45 + 0.25 * shape + edge + 0.1 * texture).clamp(0.0, 1.0)
    };
    Plane::new(side, (0..side * side).map(value).collect()).unwrap()
}

fn transforms(side: usize) -> Vec<Transform> {
    let mut all = Vec::new();
    for form in [Form::AsPublished, Form::Corrected] {
        for diameter in [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0, 200.0] {
            all.extend([Transform::LowPass { diameter, form }, Transform::HighPass { diameter, form }]);
        }
        for cell in 0..9 {
            all.extend([Kept::Cell, Kept::Rest].map(|kept| Transform::Patch { cell, kept, form }));
        }
        all.extend([1, u64::MAX].map(|seed| Transform::Noise { sigma: 0.1, seed, form }));
        all.extend([0.7, 2.0].map(|sigma| Transform::Blur { sigma, form }));
    }
    for (inner, outer) in [(10.0, 25.0), (25.0, 50.0), (10.0, 150.0), (0.0, 3.5)] {
        all.extend([Transform::BandPass { inner, outer }, Transform::Notch { inner, outer }]);
    }
    all.extend([0.8, 0.95, 1.3].map(|width| Transform::Window { width, level: 0.45 }));
    all.extend([1.0, 224.0 / 235.0, 224.0 / 269.0, 0.3].map(|share| Transform::FieldOfView { share }));
    all.extend([1, 4, 20, 31, 32, 400].map(|side| Transform::Resolution { side }));
    all.extend([5, 20, 50, 75, 100].map(|quality| Transform::Jpeg { quality }));
    let battery = Battery::co_movement(Battery::CO_MOVEMENT_MAX, side as u32, 77);
    all.extend(battery.perturbations.iter().flat_map(|p| p.chain.clone()));
    all
}

fn read(path: &std::path::Path) -> Vec<f64> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_transform_is_numpys() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sides = [(224, 1), (75, 3)];
    let mut cases = Vec::new();
    for (side, count) in sides {
        let values = (0..count).flat_map(|number| plane(side, number).values().to_vec());
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        std::fs::write(at(&format!("{side}.bin")), bytes).unwrap();
        cases.push(serde_json::json!({"side": side, "transforms": transforms(side)}));
    }
    std::fs::write(at("cases.json"), serde_json::to_vec(&cases).unwrap()).unwrap();
    let script = support::root().join("tests/reference/perturb.py");
    let run = Command::new(support::reference_python()).arg(script).arg(folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let mut lab = Lab::default();
    for (number, (side, count)) in sides.into_iter().enumerate() {
        let planes: Vec<Plane> = (0..count).map(|number| plane(side, number)).collect();
        let (expected, area) = (read(&at(&format!("out-{number}.bin"))), side * side);
        let libjpeg = read(&at(&format!("libjpeg-{number}.bin")));
        let mut files = libjpeg.chunks_exact(area);
        let mut expected = expected.chunks_exact(area);
        for transform in transforms(side) {
            for (place, changed) in lab.apply_all(transform, &planes).iter().enumerate() {
                let pairs = changed.values().iter().map(|v| f64::from(*v)).zip(expected.next().unwrap());
                let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(far <= TOLERANCE, "{} of plane {place}, side {side}: {far:e}", transform.name());
                if let Transform::Jpeg { quality } = transform {
                    // A codec with integer cosines is off by a grey level or two, here and there.
                    let file = files.next().unwrap();
                    let off: Vec<f64> =
                        changed.values().iter().zip(file).map(|(a, b)| (f64::from(*a) - b).abs() * 255.0).collect();
                    let mean = off.iter().sum::<f64>() / area as f64;
                    let most = off.iter().copied().fold(0.0, f64::max);
                    assert!(mean < 0.6 && most < 70.0, "jpeg {quality}: mean {mean}, most {most}");
                }
            }
        }
        assert!(expected.next().is_none() && files.next().is_none(), "every value was compared");
    }
}
