//! Every transform of `sidelight::perturb`, those of the paper's rows among them, against numpy, on several planes and
//! sides. One plane is a single bright pixel: what a filter makes of it is its mask transformed, in which a frequency
//! more or less moves every pixel by more than is tolerated.

use std::collections::HashSet;
use std::process::Command;

use sidelight::perturb::{Battery, Form, Kept, Lab, Perturbation, Plane, Region, Transform, kept_bins, paper};

use crate::support;

/// Planes hold 0 to 1; numpy computes in 64 bits, filters and blur here in 32.
const TOLERANCE: f64 = 1e-5;

/// Smooth shapes, edges and texture, not the same along both axes; at last a pixel.
fn plane(side: usize, number: usize, count: usize) -> Plane {
    if number + 1 == count {
        return Plane::new(side, (0..side * side).map(|at| if at == 2 * side + 5 { 1.0 } else { 0.0 }).collect())
            .unwrap();
    }
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
        let paper = (1..=29).flat_map(|row| paper::row(row, form, 1));
        all.extend(paper.map(|change| change.chain[change.chain.len() - 1]));
        all.extend([1, u64::MAX].map(|seed| Transform::Noise { sigma: 0.1, seed, form }));
        all.push(Transform::Blur { sigma: 0.7, form });
    }
    for (inner, outer) in [(0.0, 3.5), (7.3, 11.9)] {
        all.extend([Transform::BandPass { inner, outer }, Transform::Notch { inner, outer }]);
    }
    all.push(Transform::Box { top: 3, left: 40, bottom: 31, right: 60 });
    all.extend([0.8, 0.95, 1.3].map(|width| Transform::Window { width, level: 0.45 }));
    all.extend([1.0, 224.0 / 235.0, 224.0 / 269.0, 0.3].map(|share| Transform::FieldOfView { share }));
    all.extend([1, 4, 20, 31, 32, 400].map(|side| Transform::Resolution { side }));
    all.extend([5, 20, 50, 75, 100].map(|quality| Transform::Jpeg { quality }));
    let battery = Battery::co_movement(Battery::CO_MOVEMENT_MAX, side as u32, 77);
    all.extend(battery.perturbations.iter().flat_map(|p| p.chain.clone()));
    // Patches come twice, alone and after a filter.
    let mut once: Vec<Transform> = Vec::new();
    all.into_iter().for_each(|transform| {
        if !once.contains(&transform) {
            once.push(transform);
        }
    });
    once
}

fn is_filter(transform: &Transform) -> bool {
    use Transform::{BandPass, HighPass, LowPass, Notch};
    matches!(transform, LowPass { .. } | HighPass { .. } | BandPass { .. } | Notch { .. })
}

fn read(path: &std::path::Path) -> Vec<f64> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_transform_is_numpys() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sides = [(224, 2), (75, 3)];
    let mut cases = Vec::new();
    for (side, count) in sides {
        let values = (0..count).flat_map(|number| plane(side, number, count).values().to_vec());
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
        let planes: Vec<Plane> = (0..count).map(|number| plane(side, number, count)).collect();
        let (expected, area) = (read(&at(&format!("out-{number}.bin"))), side * side);
        let libjpeg = read(&at(&format!("libjpeg-{number}.bin")));
        let mut files = libjpeg.chunks_exact(area);
        let mut expected = expected.chunks_exact(area);
        let bins = std::fs::read(at(&format!("bins-{number}.json"))).unwrap();
        let filters = transforms(side).into_iter().filter(is_filter);
        let kept: Vec<usize> = filters.clone().map(|filter| kept_bins(filter, side)).collect();
        assert!(filters.count() > 80 && serde_json::from_slice::<Vec<usize>>(&bins).unwrap() == kept, "side {side}");
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

/// Side of a picture, and how many stand in a row of the sheet.
const SIDE: usize = 96;
const COLUMNS: usize = 8;
/// Pixels between two pictures, and their grey.
const GAP: usize = 4;
const GAP_GREY: u8 = 96;

/// What the contact sheet shows, row by row: each kind of transform, both forms where they differ.
fn pictures(chest: &Plane) -> Vec<(String, Plane)> {
    use Form::{AsPublished, Corrected};
    let high = Transform::HighPass { diameter: 50.0, form: Corrected };
    let patch = |cell, kept, form| Transform::Patch { cell, kept, form };
    let chains = vec![
        vec![],
        vec![Transform::LowPass { diameter: 10.0, form: AsPublished }],
        vec![Transform::LowPass { diameter: 10.0, form: Corrected }],
        vec![Transform::LowPass { diameter: 50.0, form: Corrected }],
        vec![Transform::HighPass { diameter: 10.0, form: AsPublished }],
        vec![Transform::HighPass { diameter: 10.0, form: Corrected }],
        vec![high],
        vec![Transform::BandPass { inner: 10.0, outer: 25.0 }],
        vec![Transform::Notch { inner: 10.0, outer: 25.0 }],
        vec![Transform::Window { width: 0.8, level: 0.5 }],
        vec![Transform::Window { width: 0.4, level: 0.3 }],
        vec![Transform::FieldOfView { share: 0.8 }],
        vec![Transform::Noise { sigma: 0.1, seed: 1, form: AsPublished }],
        vec![Transform::Noise { sigma: 0.1, seed: 1, form: Corrected }],
        vec![Transform::Blur { sigma: 2.0, form: AsPublished }],
        vec![Transform::Blur { sigma: 2.0, form: Corrected }],
        vec![Transform::Resolution { side: 4 }],
        vec![Transform::Resolution { side: 16 }],
        vec![Transform::Resolution { side: 48 }],
        vec![Transform::Jpeg { quality: 5 }],
        vec![Transform::Jpeg { quality: 50 }],
        paper::bone_removed(AsPublished).chain,
        paper::bone_removed(Corrected).chain,
        vec![Transform::Box { top: 20, left: 30, bottom: 60, right: 90 }],
        vec![patch(0, Kept::Cell, AsPublished)],
        vec![patch(4, Kept::Cell, Corrected)],
        vec![patch(8, Kept::Cell, Corrected)],
        vec![patch(0, Kept::Rest, AsPublished)],
        vec![patch(4, Kept::Rest, Corrected)],
        vec![patch(8, Kept::Rest, Corrected)],
        vec![high, patch(4, Kept::Cell, Corrected)],
        vec![high, patch(4, Kept::Rest, Corrected)],
    ];
    let mut lab = Lab::default();
    let mirrored = Plane::new(SIDE, chest.values().rchunks(SIDE).flatten().copied().collect()).unwrap();
    let mut shown: Vec<(String, Plane)> = Vec::new();
    for chain in &chains {
        // The second of a batch whose first is upside down: published noise and blur know of it.
        let mut batch = vec![mirrored.clone(), chest.clone()];
        for transform in chain {
            batch = lab.apply_all(*transform, &batch);
        }
        let name = Perturbation::chain(chain.clone()).name;
        shown.push((if chain.is_empty() { "as it is".to_owned() } else { name }, batch.remove(1)));
    }
    let kinds: HashSet<_> = chains.iter().flatten().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 13, "a kind of transform has no picture");
    let disc =
        |at: usize| if (at / SIDE).abs_diff(45).pow(2) + (at % SIDE).abs_diff(30).pow(2) < 500 { 1.0 } else { 0.0 };
    let mask = Plane::new(SIDE, (0..SIDE * SIDE).map(disc).collect()).unwrap();
    for (name, region) in [("inside a mask", Region::Inside), ("outside a mask", Region::Outside)] {
        shown.push((name.to_owned(), chest.masked(&mask, region).unwrap()));
    }
    shown
}

/// Grey levels; what a filter took the mean of is shown around mid-grey.
fn grey(name: &str, plane: &Plane) -> Vec<u8> {
    let middle = if name.starts_with("high-pass") || name.starts_with("band-pass") { 0.5 } else { 0.0 };
    plane.values().iter().map(|v| ((v + middle) * 255.0).round().clamp(0.0, 255.0) as u8).collect()
}

fn picture(name: &str) -> (usize, usize, Vec<u8>) {
    let file = std::fs::File::open(support::root().join("tests/it/perturb").join(name)).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut grey = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut grey).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Grayscale, png::BitDepth::Eight));
    (info.width as usize, info.height as usize, grey)
}

/// tests/it/perturb/sheet.png is what a person looked at; chest.png is a phantom.
#[test]
fn pictures_look_as_they_did_when_somebody_looked_at_them() {
    let (width, height, chest) = picture("chest.png");
    assert_eq!((width, height), (SIDE, SIDE));
    let chest = Plane::new(SIDE, chest.iter().map(|v| f32::from(*v) / 255.0).collect()).unwrap();
    let shown = pictures(&chest);
    let (step, rows) = (SIDE + GAP, shown.len().div_ceil(COLUMNS));
    let (width, height) = (COLUMNS * step - GAP, rows * step - GAP);
    let mut sheet = vec![GAP_GREY; width * height];
    let places = (0..shown.len()).map(|at| (at / COLUMNS * step, at % COLUMNS * step));
    for ((top, left), (name, plane)) in places.clone().zip(&shown) {
        for (row, line) in grey(name, plane).chunks(SIDE).enumerate() {
            sheet[(top + row) * width + left..][..SIDE].copy_from_slice(line);
        }
    }
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("perturb-sheet.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&sheet).unwrap();
    let said = format!("look at {} before it becomes the sheet", path.display());
    let (known_width, known_height, known) = picture("sheet.png");
    assert_eq!((known_width, known_height), (width, height), "{said}");
    for ((top, left), (name, _)) in places.zip(&shown) {
        for row in top..top + SIDE {
            let line = row * width + left..row * width + left + SIDE;
            let off = sheet[line.clone()].iter().zip(&known[line]).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(off <= Some(1), "{name}, row {}: {off:?} grey levels; {said}", row - top);
        }
    }
}
