//! Tests of `perturb`: the paper's own counts, what each transform leaves as it is, and names. Values are compared with
//! numpy in tests/it/perturb.rs.

use proptest::prelude::*;

use super::*;

fn plane(side: usize) -> Plane {
    let value = |at: usize| ((at * 7919 + 13) % 101) as f32 / 101.0 + 0.2 * (at as f32 / 40.0).sin();
    Plane::new(side, (0..side * side).map(value).collect()).unwrap()
}

fn apart(a: &Plane, b: &Plane) -> f32 {
    a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn all() -> Vec<Transform> {
    let mut all: Vec<Transform> = Battery::co_movement(99, 32, 5).perturbations.iter().map(|p| p.chain[0]).collect();
    for form in [Form::AsPublished, Form::Corrected] {
        all.extend([
            Transform::LowPass { diameter: 6.0, form },
            Transform::HighPass { diameter: 6.0, form },
            Transform::Noise { sigma: 0.1, seed: 3, form },
            Transform::Blur { sigma: 2.0, form },
            Transform::Patch { cell: 5, kept: Kept::Cell, form },
        ]);
    }
    all.extend([
        Transform::BandPass { inner: 2.0, outer: 6.0 },
        Transform::Ceiling { level: 0.5 },
        Transform::Box { top: 3, left: 0, bottom: 9, right: u32::MAX },
    ]);
    all
}

#[test]
fn filters_keep_as_many_frequencies_as_the_papers_code() {
    let published = |diameter| Transform::HighPass { diameter, form: Form::AsPublished };
    for (diameter, bins) in [(100.0, 18_779), (150.0, 285), (200.0, 0)] {
        assert_eq!(kept_bins(published(diameter), 224), bins, "high-pass {diameter}");
    }
    let low = |diameter, form| kept_bins(Transform::LowPass { diameter, form }, 224);
    assert_eq!(low(100.0, Form::AsPublished) + 18_779, 224 * 224);
    assert_eq!(low(100.0, Form::Corrected), low(50.0, Form::AsPublished), "a diameter is two radii");
    let ring = |inner, outer| kept_bins(Transform::BandPass { inner, outer }, 224);
    assert_eq!(ring(10.0, 25.0) + kept_bins(Transform::Notch { inner: 10.0, outer: 25.0 }, 224), 224 * 224);
    assert_eq!(ring(0.0, 25.0), low(25.0, Form::AsPublished));
}

#[test]
fn what_a_filter_takes_and_what_it_leaves_is_the_whole_on_even_and_odd_sides() {
    let mut lab = Lab::default();
    for side in [32, 33, 8] {
        let plane = plane(side);
        for (one, other) in [
            (
                Transform::LowPass { diameter: 9.0, form: Form::Corrected },
                Transform::HighPass { diameter: 9.0, form: Form::Corrected },
            ),
            (Transform::BandPass { inner: 2.0, outer: 3.5 }, Transform::Notch { inner: 2.0, outer: 3.5 }),
        ] {
            let (one, other) = (lab.apply(one, &plane), lab.apply(other, &plane));
            let sum = one.values.iter().zip(&other.values).map(|(a, b)| a + b).collect();
            assert!(apart(&Plane::new(side, sum).unwrap(), &plane) < 1e-5, "{side}");
            assert!(apart(&one, &plane) > 1e-3 && apart(&other, &plane) > 1e-3, "{side}");
        }
    }
}

/// Plans and the last spectrum are kept: they must not be those of another plane.
#[test]
fn a_used_lab_gives_the_same_as_a_fresh_one() {
    let mut used = Lab::default();
    let planes = [plane(32), lab_negative(&plane(32)), plane(24)];
    for transform in all() {
        for plane in &planes {
            assert_eq!(used.apply(transform, plane), Lab::default().apply(transform, plane), "{transform:?}");
        }
    }
}

fn lab_negative(plane: &Plane) -> Plane {
    Plane::new(plane.side, plane.values.iter().map(|v| 1.0 - v).collect()).unwrap()
}

#[test]
fn a_flat_plane_stays_flat_where_nothing_is_added_or_taken() {
    let flat = Plane::new(32, vec![0.4; 1024]).unwrap();
    for transform in all() {
        let changed = Lab::default().apply(transform, &flat);
        let expected = match transform {
            Transform::HighPass { .. } | Transform::BandPass { .. } => Some((0.0, 1.0)),
            Transform::Window { width, .. } => Some((((0.4 - 0.5) / width + 0.5) as f32, 1.0)),
            Transform::Noise { .. } | Transform::Patch { kept: Kept::Rest, .. } | Transform::Box { .. } => None,
            Transform::Jpeg { .. } => Some((0.4, 16.0 / 255.0 / 1e-5)),
            _ => Some((0.4, 1.0)),
        };
        // 0 of a band-pass from 2 on: the mean is not in it. JPEG keeps the mean to its coarsest step.
        if let Some((value, tolerance)) = expected {
            let far = changed.values.iter().map(|v| (v - value).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5 * tolerance, "{transform:?}: {far}");
        }
    }
}

/// A plane's discs are kept up to a number, and the last one goes first where another is made.
#[test]
fn more_filters_than_are_kept_give_what_each_gives_alone() {
    let (plane, mut used) = (plane(48), Lab::default());
    let radii: Vec<f64> = (0..40).map(|step| 0.3 + 0.9 * f64::from(step)).collect();
    for turn in 0..3 {
        for (inner, outer) in radii.iter().zip(&radii[1 + turn..]) {
            let ring = Transform::BandPass { inner: *inner, outer: *outer };
            assert_eq!(used.apply(ring, &plane), Lab::default().apply(ring, &plane), "{ring:?}");
        }
    }
}

#[test]
fn the_papers_rows_are_valid_and_their_names_are_keys() {
    let mut chains = std::collections::HashMap::new();
    let counts = |form| [14, 18, 19, 20, 21, 22, 26, 29].map(|row| paper::row(row, form, 3).len());
    for form in [Form::AsPublished, Form::Corrected] {
        assert_eq!(counts(form), [1, 20, 42, 12, 1, 1, 36, 9]);
        for row in 1..=29 {
            let changes = paper::row(row, form, 3);
            let names: std::collections::HashSet<&str> = changes.iter().map(|p| p.name.as_str()).collect();
            assert_eq!(names.len(), changes.len(), "row {row}");
            for change in &changes {
                assert_eq!(change.fault(), None, "{}", change.name);
                let known = chains.entry(change.name.clone()).or_insert_with(|| change.chain.clone());
                assert_eq!(*known, change.chain, "{}: one name, two changes", change.name);
            }
        }
    }
    // .485 + .6 × .229 and so on, by hand.
    let published = paper::bone_removed(Form::AsPublished).chain[0];
    assert!(matches!(published, Transform::Ceiling { level } if (level - 0.5846).abs() < 1e-9), "{published:?}");
}

#[test]
fn a_ceiling_cuts_what_is_brighter_and_a_box_or_a_mask_takes_its_pixels() {
    let (plane, mut lab) = (plane(12), Lab::default());
    let cut = lab.apply(Transform::Ceiling { level: 0.5 }, &plane);
    assert!(cut.values.iter().zip(&plane.values).all(|(cut, v)| *cut == v.min(0.5)));
    assert!(plane.values.iter().any(|v| *v > 0.6));

    let bright = Plane::new(12, vec![1.0; 144]).unwrap();
    let holes = |plane: &Plane| plane.values.iter().filter(|v| **v == 0.0).count();
    for ((top, left, bottom, right), expected) in
        [((2, 3, 5, 7), 12), ((10, 10, 99, u32::MAX), 4), ((12, 0, 13, 12), 0), ((0, 0, u32::MAX, u32::MAX), 144)]
    {
        let box_ = Transform::Box { top, left, bottom, right };
        assert_eq!(holes(&lab.apply(box_, &bright)), expected, "{box_:?}");
    }
    let boxed = lab.apply(Transform::Box { top: 2, left: 3, bottom: 5, right: 7 }, &bright);
    assert!(boxed.values[2 * 12 + 3] == 0.0 && boxed.values[4 * 12 + 6] == 0.0 && boxed.values[5 * 12 + 6] == 1.0);

    let mask = Plane::new(12, (0..144).map(|at| if at % 12 < 5 { 0.5 } else { 0.49 }).collect()).unwrap();
    let [inside, outside] = [Region::Inside, Region::Outside].map(|region| plane.masked(&mask, region).unwrap());
    for (at, value) in plane.values.iter().enumerate() {
        let covered = at % 12 < 5;
        assert_eq!((inside.values[at], outside.values[at]), if covered { (*value, 0.0) } else { (0.0, *value) });
    }
    assert_eq!(plane.masked(&Plane::new(2, vec![1.0; 4]).unwrap(), Region::Inside), None);
}

#[test]
fn a_place_in_a_batch_has_its_own_noise_in_chains_too() {
    let (plane, mut lab) = (plane(16), Lab::default());
    let noise = Transform::Noise { sigma: 0.1, seed: 9, form: Form::Corrected };
    let chain = Perturbation::chain(vec![Transform::Ceiling { level: 0.5 }, noise]);
    let batch = lab.apply_all(noise, &[plane.clone(), plane.clone(), plane.clone()]);
    assert_eq!(lab.apply_at(2, noise, &plane), batch[2]);
    assert_eq!(chain.apply(&mut lab, &plane), chain.apply_at(0, &mut lab, &plane));
    let cut = lab.apply(Transform::Ceiling { level: 0.5 }, &plane);
    assert_eq!(chain.apply_at(2, &mut lab, &plane), lab.apply_at(2, noise, &cut));
    assert_ne!(chain.apply_at(2, &mut lab, &plane), chain.apply_at(1, &mut lab, &plane));
}

#[test]
fn cells_make_up_the_plane_and_published_ones_leave_its_last_pixels_out() {
    let ones = Plane::new(224, vec![1.0; 224 * 224]).unwrap();
    let covered = |form| {
        let without = |cell| Lab::default().apply(Transform::Patch { cell, kept: Kept::Rest, form }, &ones);
        let holes = |plane: &Plane| plane.values.iter().filter(|v| **v == 0.0).count();
        (0..9).map(|cell| holes(&without(cell))).sum::<usize>()
    };
    assert_eq!(covered(Form::AsPublished), 222 * 222, "the last 2 px are in no patch");
    assert_eq!(covered(Form::Corrected), 224 * 224);
}

#[test]
fn noise_is_normal_has_its_own_field_for_each_plane_and_comes_again_with_its_seed() {
    let zero = Plane::new(128, vec![0.0; 128 * 128]).unwrap();
    let noise = |seed, form| Transform::Noise { sigma: 0.1, seed, form };
    let mut lab = Lab::default();
    let two = lab.apply_all(noise(4, Form::Corrected), &[zero.clone(), zero.clone()]);
    let published = lab.apply_all(noise(4, Form::AsPublished), &[zero.clone(), zero.clone()]);
    assert_eq!(published[0], published[1], "as published one field serves all");
    assert_eq!(published[0], two[0]);
    let correlation: f32 = two[0].values.iter().zip(&two[1].values).map(|(a, b)| a * b).sum::<f32>() / 163.84;
    assert!(correlation.abs() < 0.03, "{correlation}");
    assert_ne!(two[0], lab.apply(noise(5, Form::Corrected), &zero));
    let values: Vec<f64> = two.iter().flat_map(|p| &p.values).map(|v| f64::from(*v) / 0.1).collect();
    let moment = |power: i32| values.iter().map(|v| v.powi(power)).sum::<f64>() / values.len() as f64;
    // Standard errors with 32,768 values: .0055, .0078, .021, .054.
    for (power, expected, tolerance) in [(1, 0.0, 0.025), (2, 1.0, 0.035), (3, 0.0, 0.1), (4, 3.0, 0.25)] {
        assert!((moment(power) - expected).abs() < tolerance, "moment {power}: {}", moment(power));
    }
}

#[test]
fn the_battery_has_every_kind_early_distinct_names_and_changes_every_plane() {
    let battery = Battery::co_movement(Battery::CO_MOVEMENT_MAX, 64, 1);
    let mut names = battery.names();
    assert_eq!(names.len(), 31);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 31, "names are keys");
    let kinds = |count| {
        let of = |p: &Perturbation| std::mem::discriminant(&p.chain[0]);
        let short = Battery::co_movement(count, 64, 1);
        short.perturbations.iter().map(of).collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(kinds(9), 9, "the first of each kind");
    assert!(battery.perturbations.iter().all(|p| p.chain.iter().all(|t| t.fault().is_none())));
    let (plane, mut lab) = (plane(64), Lab::default());
    for (name, changed) in battery.names().iter().zip(battery.of(&mut lab, &plane)) {
        assert!(changed.quality(&plane).rms > 1e-4, "{name}");
        assert!(changed.values.iter().all(|v| v.is_finite()), "{name}");
    }
}

#[test]
fn a_chain_is_one_after_the_other() {
    let high = Transform::HighPass { diameter: 10.0, form: Form::AsPublished };
    let cell = Transform::Patch { cell: 3, kept: Kept::Cell, form: Form::AsPublished };
    let chain = Perturbation::chain(vec![high, cell]);
    assert_eq!(chain.name, "high-pass 10 as published then cell 3 as published");
    let (mut lab, plane) = (Lab::default(), plane(48));
    let first = lab.apply(high, &plane);
    assert_eq!(chain.apply(&mut lab, &plane), lab.apply(cell, &first));
}

#[test]
fn quality_tells_blur_from_noise() {
    let (plane, mut lab) = (plane(64), Lab::default());
    let mut quality = |transform| lab.apply(transform, &plane).quality(&plane);
    let blurred = quality(Transform::Blur { sigma: 1.0, form: Form::Corrected });
    let noisy = quality(Transform::Noise { sigma: 0.3, seed: 1, form: Form::Corrected });
    assert!(blurred.sharpness < -1.0 && noisy.sharpness > 0.3, "{blurred:?} {noisy:?}");
    assert!((noisy.rms - 0.3).abs() < 0.02, "{noisy:?}");
    assert_eq!(plane.quality(&plane), Quality { rms: 0.0, sharpness: 0.0 });
}

#[test]
fn inputs_come_back_as_they_were_and_others_are_no_planes() {
    let contract = Contract::preset("xrv-1024", 8).unwrap();
    let input = ModelInput { contract: contract.digest(), plane: (0..64).map(|i| i as f32 * 32.0 - 1024.0).collect() };
    let plane = Plane::of_input(&input, &contract).unwrap();
    assert_eq!((plane.values[0], plane.values[32]), (0.0, 0.5));
    let back = plane.to_input(&contract);
    assert!(back.contract == input.contract && back.plane.iter().zip(&input.plane).all(|(a, b)| (a - b).abs() < 1e-3));
    let other = Contract::preset("minmax-unit", 8).unwrap();
    assert_eq!(Plane::of_input(&input, &other), None);
    assert_eq!(Plane::of_input(&ModelInput { plane: vec![0.0; 63], ..input.clone() }, &contract), None);
    assert_eq!(Plane::new(1, vec![f32::NAN]), None);
    assert_eq!(Plane::new(0, Vec::new()), None);
}

#[test]
fn what_cannot_be_meant_changes_nothing_and_says_why() {
    let rows = [
        Transform::LowPass { diameter: 0.0, form: Form::Corrected },
        Transform::Notch { inner: 5.0, outer: 5.0 },
        Transform::Window { width: f64::NAN, level: 0.5 },
        Transform::Window { width: 1.0, level: f64::INFINITY },
        Transform::FieldOfView { share: 1.1 },
        Transform::Noise { sigma: -1.0, seed: 0, form: Form::Corrected },
        Transform::Blur { sigma: 1e9, form: Form::Corrected },
        Transform::Resolution { side: 0 },
        Transform::Patch { cell: 9, kept: Kept::Cell, form: Form::Corrected },
        Transform::Jpeg { quality: 0 },
        Transform::Ceiling { level: f64::NAN },
        Transform::Box { top: 4, left: 0, bottom: 4, right: 9 },
        Transform::Box { top: 0, left: u32::MAX, bottom: 4, right: 0 },
    ];
    let plane = plane(16);
    for transform in rows {
        assert!(transform.fault().is_some(), "{transform:?}");
        assert_eq!(Lab::default().apply(transform, &plane), plane, "{transform:?}");
    }
    assert!(all().iter().all(|t| t.fault().is_none()));
    // Shares of a side have more digits than JSON keeps to the last.
    let plain = all().split_off(Battery::CO_MOVEMENT_MAX);
    let json = serde_json::to_string(&plain).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Transform>>(&json).unwrap(), plain);
}

proptest! {
    #[test]
    fn no_side_and_no_values_panic(side in 1usize..20, seed: u64, scale in -1e6f32..1e6) {
        let plane = Plane::new(side, plane(side).values.iter().map(|v| v * scale).collect()).unwrap();
        let mut lab = Lab::default();
        for transform in all() {
            let transform = match transform {
                Transform::Noise { sigma, form, .. } => Transform::Noise { sigma, seed, form },
                other => other,
            };
            let changed = lab.apply(transform, &plane);
            prop_assert!(changed.side == side && changed.values.len() == side * side);
            prop_assert!(changed.values.iter().all(|v| v.is_finite()));
        }
    }
}
