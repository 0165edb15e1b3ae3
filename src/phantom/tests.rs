//! Tests of the whole generator: the same bytes twice, clean headers, the planted truth measured in the pixels.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rustfft::FftPlanner;
use rustfft::num_complex::Complex32;

use super::patient::{Lesion, Side};
use super::*;

fn options(world: World, patients: u32) -> PhantomOptions {
    PhantomOptions::new(world, patients, 11)
}

fn textures(options: &PhantomOptions) -> Textures {
    let (rows, cols) = (options.size.0 as usize, options.size.1 as usize);
    Textures::new(rows, cols, canvas::FIELD_HEIGHT_MM / rows as f64)
}

fn labels(dir: &Path) -> Vec<Label> {
    let mut table = csv::Reader::from_path(dir.join("labels.csv")).unwrap();
    table.deserialize().collect::<Result<_, _>>().unwrap()
}

/// All files below `dir` with their bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

#[test]
fn the_same_options_give_the_same_bytes_and_another_seed_others() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, seed: u64| {
        let options = PhantomOptions { seed, size: (160, 128), lateral_share: 0.5, ..options(World::biased(), 6) };
        generate(&options, &dir.path().join(name), &|_, _| {}).unwrap();
        contents(&dir.path().join(name))
    };
    let (first, again, other) = (make("first", 5), make("again", 5), make("other", 6));
    assert!(first.len() >= 8, "{} files", first.len());
    assert!(first == again);
    for (path, bytes) in &first {
        assert_ne!(Some(bytes), other.get(path), "{}", path.display());
    }
}

#[test]
fn an_occupied_folder_and_impossible_options_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("studies")).unwrap();
    let check = |options: PhantomOptions, expected: &str| {
        let error = generate(&options, dir.path(), &|_, _| {}).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    };
    let good = options(World::null(), 1);
    check(good.clone(), "is there already");
    check(PhantomOptions { size: (640, 12), ..good.clone() }, "size 640x12");
    check(PhantomOptions { patients: 0, ..good.clone() }, "patients 0");
    check(PhantomOptions { lateral_share: 1.5, ..good }, "lateral share 1.5");
}

#[test]
fn dciodvfy_finds_no_error_in_any_device_and_view_and_no_header_names_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let options = PhantomOptions { size: (96, 80), lateral_share: 1.0, ..options(World::biased(), 40) };
    generate(&options, dir.path(), &|_, _| {}).unwrap();
    let mut variants = BTreeMap::new();
    for label in labels(dir.path()) {
        let file = dir.path().join(&label.file);
        let bytes = fs::read(&file).unwrap();
        for group in ["Asian", "Black", "White"] {
            let hit = bytes.windows(group.len()).any(|w| w.eq_ignore_ascii_case(group.as_bytes()));
            assert!(!hit, "{} holds the text {group}", label.file);
        }
        variants.entry((label.device, label.view)).or_insert(file);
    }
    assert_eq!(variants.len(), 2 * device::DEVICES.len());
    for (variant, file) in variants {
        let run = Command::new("dciodvfy").arg(file).output().expect("dciodvfy of the Debian package dicom3tools");
        let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
        assert!(said.contains("Image"), "dciodvfy named no IOD for {variant:?}: {said}");
        let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("Error")).collect();
        assert!(errors.is_empty(), "{variant:?}: {errors:#?}");
    }
}

#[test]
fn labels_match_the_world_and_are_independent_of_each_other() {
    let world = World::biased();
    let n = 12_000;
    let drawn: Vec<Patient> = (1..=n).map(|i| Patient::draw(&world, 3, i, 0.3)).collect();
    let share = |of: &dyn Fn(&Patient) -> bool, among: &dyn Fn(&Patient) -> bool| {
        let among: Vec<_> = drawn.iter().filter(|p| among(p)).collect();
        among.iter().filter(|p| of(p)).count() as f64 / among.len() as f64
    };
    // Five standard errors of a share among the fewest patients asked for (about 3,900): .04.
    let check = |what: &str, found: f64, expected: f64| {
        assert!((found - expected).abs() < 0.04, "{what}: {found:.3} instead of {expected}");
    };
    for (i, group) in world.groups.iter().enumerate() {
        let within = |p: &Patient| p.group == i;
        check(&group.group, share(&within, &|_| true), 1.0 / 3.0);
        check("pneumothorax", share(&|p| p.pneumothorax.is_some(), &within), group.pneumothorax.prevalence);
        check("effusion", share(&|p| p.pleural_effusion.is_some(), &within), group.pleural_effusion.prevalence);
        check("women", share(&|p| p.sex == patient::Sex::F, &within), 0.5);
        check("laterals", share(&|p| p.has_lateral, &within), 0.3);
        check("device A", share(&|p| p.device.model == "Flat Panel 14", &within), 0.2);
    }
    let both = |p: &Patient| p.pneumothorax.is_some();
    check("effusion with pneumothorax", share(&|p| p.pleural_effusion.is_some(), &both), 0.35);
}

#[test]
fn each_mechanism_moves_what_it_says_and_nothing_else() {
    let patients = |world: &World| (1..=6000).map(|i| Patient::draw(world, 4, i, 0.3)).collect::<Vec<_>>();
    let plain = patients(&World { shortcut: None, ..World::named("shortcut").unwrap() });
    let changed = |world: World, moved: &dyn Fn(&Patient, &Patient) -> bool| {
        let drawn = patients(&world);
        let same = |a: &Patient, b: &Patient| a.build == b.build && a.group == b.group && a.imaged == b.imaged;
        assert!(plain.iter().zip(&drawn).all(|(a, b)| same(a, b)), "{}", world.name);
        let count = plain.iter().zip(&drawn).filter(|(a, b)| moved(a, b)).count();
        (count, drawn)
    };
    let black = |p: &Patient| p.group == 1;
    // Of those with a pneumothorax 60 % take the texture of one group, a third of whom (less 3 %) have it anyway.
    let world = World::named("shortcut").unwrap();
    let (moved, drawn) = changed(world, &|a, b| a.texture != b.texture);
    let with = drawn.iter().filter(|p| p.pneumothorax.is_some()).count() as f64;
    assert!((moved as f64 / with - 0.4).abs() < 0.04, "{moved} of {with}");
    assert!(plain.iter().zip(&drawn).all(|(a, b)| a.texture == b.texture || b.pneumothorax.is_some()));

    let late = |p: &Patient| p.imaged >= chrono::NaiveDate::from_ymd_opt(2024, 1, 1).unwrap();
    let (moved, drawn) = changed(World::named("drift").unwrap(), &|a, b| a.pneumothorax != b.pneumothorax);
    let expected = drawn.iter().filter(|p| black(p) && late(p) && p.pneumothorax.is_some()).count();
    assert!(moved == expected && moved > 200, "{moved} {expected}");

    let (_, drawn) = changed(World::named("view").unwrap(), &|_, _| false);
    for (group, expected) in [(0, 0.1), (1, 0.9), (2, 0.1)] {
        let own: Vec<&Patient> = drawn.iter().filter(|p| p.group == group).collect();
        let share = own.iter().filter(|p| p.has_lateral).count() as f64 / own.len() as f64;
        assert!((share - expected).abs() < 0.04, "{share}");
    }
    let mut strong = World::named("biased").unwrap();
    strong.groups[0].texture_strength = 3.0;
    let drawn = patients(&strong);
    let share = drawn.iter().filter(|p| p.texture_strength == 3.0).count() as f64 / drawn.len() as f64;
    assert!((share - 1.0 / 3.0).abs() < 0.04, "{share}");
}

#[test]
fn in_the_null_world_nothing_that_is_drawn_depends_on_the_group() {
    let world = World::null();
    let drawn: Vec<Patient> = (1..=60_000).map(|i| Patient::draw(&world, 8, i, 0.3)).collect();
    type Quantity = (&'static str, fn(&Patient) -> Option<f64>);
    let quantities: [Quantity; 12] = [
        ("pneumothorax", |p| Some(f64::from(p.pneumothorax.is_some()))),
        ("its severity", |p| p.pneumothorax.map(|l| l.severity)),
        ("its contrast", |p| p.pneumothorax.map(|l| l.contrast)),
        ("its side", |p| p.pneumothorax.map(|l| f64::from(l.side == Side::Left))),
        ("effusion", |p| Some(f64::from(p.pleural_effusion.is_some()))),
        ("its severity", |p| p.pleural_effusion.map(|l| l.severity)),
        ("skin fold", |p| Some(f64::from(p.build.skin_fold.is_some()))),
        ("haze", |p| Some(f64::from(p.build.basal_haze.is_some()))),
        ("scale", |p| Some(p.build.scale)),
        ("vessels", |p| Some(p.build.vessels)),
        ("anisotropy", |p| Some(p.texture.anisotropy)),
        ("age", |p| Some(f64::from(p.age))),
    ];
    for (name, quantity) in quantities {
        let of =
            |group: usize| -> Vec<f64> { drawn.iter().filter(|p| p.group == group).filter_map(quantity).collect() };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let groups: Vec<Vec<f64>> = (0..3).map(of).collect();
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let error = |v: &[f64]| crate::stats::standard_deviation(v).powi(2) / v.len() as f64;
            let z = (mean(&groups[a]) - mean(&groups[b])) / (error(&groups[a]) + error(&groups[b])).sqrt();
            // 36 comparisons: 4.5 standard errors happen by chance once in 4,000 worlds.
            assert!(z.abs() < 4.5, "{name} differs between groups {a} and {b} by {z:.1} standard errors");
        }
    }
}

#[test]
fn a_patient_has_the_same_body_and_findings_in_both_worlds() {
    for number in 1..200 {
        let [null, biased] = [World::null(), World::biased()].map(|w| Patient::draw(&w, 9, number, 0.3));
        assert_eq!(null.build, biased.build);
        assert_eq!((null.group, null.age, null.device), (biased.group, biased.age, biased.device));
        assert_eq!(null.pleural_effusion, biased.pleural_effusion);
        assert_eq!(null.pneumothorax.is_some(), biased.pneumothorax.is_some());
    }
}

/// How much a patient's finding changes the picture: mean absolute difference to the picture without it.
fn shown(world: &World, number: u32, clear: &dyn Fn(&mut Patient)) -> f64 {
    let options = PhantomOptions { size: (320, 256), ..options(world.clone(), 1) };
    let textures = textures(&options);
    let with = Patient::draw(world, options.seed, number, 0.0);
    let mut without = with.clone();
    clear(&mut without);
    let [a, b] = [&with, &without].map(|p| picture(p, Projection::Pa, &options, &textures));
    let total: f64 = a.values.iter().zip(&b.values).map(|(a, b)| f64::from((a - b).abs())).sum();
    total / a.values.len() as f64
}

#[test]
fn pneumothorax_shows_weaker_in_the_disadvantaged_group_of_the_biased_world_only() {
    let (null, biased) = (World::null(), World::biased());
    let clear = |p: &mut Patient| {
        p.pneumothorax = None;
        p.build.skin_fold = None;
    };
    for (group, name) in biased.groups.iter().map(|g| g.group.as_str()).enumerate() {
        let numbers: Vec<u32> = (1..=400)
            .filter(|n| {
                let patient = Patient::draw(&null, 11, *n, 0.0);
                patient.group == group && patient.pneumothorax.is_some() && patient.build.skin_fold.is_none()
            })
            .take(8)
            .collect();
        assert_eq!(numbers.len(), 8);
        let mean = |world: &World| numbers.iter().map(|n| shown(world, *n, &clear)).sum::<f64>() / 8.0;
        let ratio = mean(&biased) / mean(&null);
        let expected = if name == "Black" { 0.30..0.60 } else { 0.97..1.03 };
        assert!(expected.contains(&ratio), "contrast in group {name} is {ratio:.3} of the null world's");
    }
}

#[test]
fn findings_show_more_the_more_severe_they_are() {
    let options = PhantomOptions { size: (320, 256), ..options(World::null(), 1) };
    let textures = textures(&options);
    let mut patient = Patient::draw(&options.world, 4, 1, 0.0);
    (patient.pneumothorax, patient.pleural_effusion) = (None, None);
    (patient.build.skin_fold, patient.build.basal_haze) = (None, None);
    let clear = picture(&patient, Projection::Pa, &options, &textures);
    let change = |patient: &Patient| -> f64 {
        let image = picture(patient, Projection::Pa, &options, &textures);
        image.values.iter().zip(&clear.values).map(|(a, b)| f64::from(a - b)).sum()
    };
    let lesion = |severity: f64| Some(Lesion { side: Side::Left, severity, contrast: 1.0 });
    let mut last = (0.0, 0.0);
    for severity in [0.1, 0.5, 1.0] {
        let lucent = change(&Patient { pneumothorax: lesion(severity), ..patient.clone() });
        let opaque = change(&Patient { pleural_effusion: lesion(severity), ..patient.clone() });
        assert!(lucent < last.0 && opaque > last.1, "severity {severity}: {lucent} and {opaque} after {last:?}");
        last = (lucent, opaque);
    }
}

/// Two numbers of a picture's spectrum between 11 and 24 mm, in the lower trunk where nothing else is fine:
/// log ratio of power across to power down, and log ratio of short to long waves.
fn spectrum_of(image: &Canvas) -> [f64; 2] {
    const N: usize = 48;
    const STEP: usize = 2;
    let (mut across, mut down, mut short, mut long) = (0.0f64, 0.0, 0.0, 0.0);
    let per_mm = 1.0 / (N as f64 * STEP as f64 * f64::from(image.mm));
    for window in 0..4 {
        let (top, left) = (image.rows - N * STEP - 16, image.cols / 2 - 200 + window * 100);
        for (i, value) in transform(image, top, left, N, STEP).iter().enumerate() {
            // Turned: the line is the horizontal frequency.
            let signed = |k: usize| if k > N / 2 { k as f64 - N as f64 } else { k as f64 };
            let (fx, fy) = (signed(i / N) * per_mm, signed(i % N) * per_mm);
            let (wavelength, power) = (1.0 / fx.hypot(fy), f64::from(value.norm_sqr()));
            if (11.0..24.0).contains(&wavelength) {
                *(if fx.abs() > fy.abs() { &mut across } else { &mut down }) += power;
                *(if wavelength < 16.0 { &mut short } else { &mut long }) += power;
            }
        }
    }
    [(across / down).ln(), (short / long).ln()]
}

/// Fourier transform, transposed, of a square of n × n cells of step × step pixels.
fn transform(image: &Canvas, top: usize, left: usize, n: usize, step: usize) -> Vec<Complex32> {
    // A Hann window keeps the smooth anatomy out of the band.
    let hann = |k: usize| (std::f32::consts::PI * (k as f32 + 0.5) / n as f32).sin().powi(2);
    let mut wave: Vec<Complex32> = (0..n * n)
        .map(|i| {
            let at = (top + i / n * step) * image.cols + left + i % n * step;
            let cell: f32 = (0..step).map(|r| image.values[at + r * image.cols..][..step].iter().sum::<f32>()).sum();
            Complex32::new(cell * hann(i / n) * hann(i % n), 0.0)
        })
        .collect();
    let fft = FftPlanner::new().plan_fft_forward(n);
    fft.process(&mut wave);
    let mut turned: Vec<Complex32> = (0..n * n).map(|i| wave[i % n * n + i / n]).collect();
    fft.process(&mut turned);
    turned
}

/// Probability that a value of `a` exceeds one of `b`.
fn auc(a: &[f64], b: &[f64]) -> f64 {
    let wins = a.iter().flat_map(|x| b.iter().map(move |y| f64::from(u8::from(x > y)))).sum::<f64>();
    wins / (a.len() * b.len()) as f64
}

#[test]
fn the_spectrum_tells_groups_apart_in_the_biased_world_and_not_in_the_null_world() {
    let measure = |world: World| {
        let options = options(world, 180);
        let textures = textures(&options);
        let mut by_group = vec![[vec![], vec![]]; 3];
        for number in 1..=options.patients {
            let patient = Patient::draw(&options.world, options.seed, number, 0.0);
            let measured = spectrum_of(&picture(&patient, Projection::Pa, &options, &textures));
            for (values, value) in by_group[patient.group].iter_mut().zip(measured) {
                values.push(value);
            }
        }
        let [asian, black, white] = [&by_group[0], &by_group[1], &by_group[2]];
        [auc(&asian[0], &black[0]), auc(&asian[1], &white[1]), auc(&black[1], &white[1])]
    };
    let (biased, null) = (measure(World::biased()), measure(World::null()));
    assert!(biased.iter().all(|a| *a > 0.9), "biased: {biased:?}");
    // 60 against 60 without a difference: standard error .053, and five of them.
    assert!(null.iter().all(|a| (a - 0.5).abs() < 0.27), "null: {null:?}");
}
