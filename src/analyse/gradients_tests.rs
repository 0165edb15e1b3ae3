//! Tests of `gradients`: networks in which the clinical logit uses the race direction with a known strength.

use std::path::Path;

use super::*;
use crate::assess::{alignment, dose_response};
use crate::domain::{Control, Digest, EvidenceLine};
use crate::infer::reference::scripted;
use crate::infer::resolve_device;

const SIDE: usize = 16;
/// Pictures that the network's features look for: waves along both axes.
const FEATURES: usize = 48;

/// Features that are each a bent function of a wave's part in the image, and two linear outputs of them. The race logit
/// is of features 0 and 1; the clinical one of 4 to 7, and with `beta` of the race logit.
fn script(race: bool, beta: f64) -> Vec<u8> {
    let weights = |own: [f64; FEATURES]| own.map(|w| format!("{w:.6}")).join(", ");
    let mut margin = [0.0; FEATURES];
    (margin[0], margin[1]) = (3.0, 2.0);
    let mut clinical = [0.0; FEATURES];
    (clinical[4], clinical[5], clinical[6], clinical[7]) = (2.0, -1.5, 1.0, 1.5);
    let both = std::array::from_fn(|i| clinical[i] + beta * margin[i]);
    let rows = if race { [margin, margin.map(|w| -w)] } else { [both, clinical] };
    scripted(&format!(
        "        seen = torch.nn.functional.conv2d(images, torch.ones(1, 1, 1, 1))\n\
        \x20       place = torch.arange({SIDE}) * (2.0 * 3.14159265 / {SIDE})\n\
        \x20       k = torch.arange({FEATURES}).view({FEATURES}, 1, 1)\n\
        \x20       down = torch.cos(place.view(1, {SIDE}, 1) * (1 + k // 8) + k)\n\
        \x20       along = torch.cos(place.view(1, 1, {SIDE}) * (1 + k % 8))\n\
        \x20       waves = (down * along).unsqueeze(1)\n\
        \x20       parts = torch.nn.functional.conv2d(seen, waves).flatten(1) / {SIDE}.0\n\
        \x20       features = torch.tanh(parts) + 0.2 * torch.roll(parts, 3, 1) * parts\n\
        \x20       weights = torch.tensor([[{}], [{}]])\n\
        \x20       return torch.nn.functional.linear(features, weights)",
        weights(rows[0]),
        weights(rows[1]),
    ))
}

fn package(folder: &Path, race: bool, beta: f64) -> Package {
    let dir = folder.join(if race { "race" } else { "clinical" });
    std::fs::create_dir_all(&dir).unwrap();
    let bytes = script(race, beta);
    std::fs::write(dir.join("network.pt"), &bytes).unwrap();
    let (name, output, method) = match race {
        true => (
            "race",
            "activation = \"logits-softmax\"\n[[output.groups]]\nkey = \"Asian\"\ncode = \"2028-9\"\n\
             [[output.groups]]\nkey = \"White\"\ncode = \"2106-3\"",
            "mean",
        ),
        false => (
            "clinical",
            "activation = \"logits-sigmoid\"\n[[output.findings]]\nkey = \"effusion\"\nthreshold = 0.5\n\
             code = { value = \"60046008\", scheme = \"SCT\", meaning = \"Pleural effusion\" }\n\
             [[output.findings]]\nkey = \"nodule\"\nthreshold = 0.5\n\
             code = { value = \"427359005\", scheme = \"SCT\", meaning = \"Nodule\" }",
            "max",
        ),
    };
    let card = format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\nmanufacturer = \"Example\"\npurpose = \"{name}\"\n\
         format = \"torchscript\"\nfile = \"network.pt\"\nsha256 = \"{}\"\ndevice_uid = \"2.25.1\"\n\
         [input]\ncontract = \"minmax-unit\"\nsize = {SIDE}\n[output]\n{output}\n[scope]\nmodalities = [\"DX\"]\n\
         [aggregation]\nmethod = \"{method}\"\n[provenance]\ntraining_data = \"none\"\nintended_use = \"tests\"\n\
         limits = \"knows nothing\"\nlicense = \"Apache-2.0\"\ndate = \"2026-01-31\"\n",
        Digest::of(&bytes)
    );
    std::fs::write(dir.join("model.toml"), card).unwrap();
    Package::load(&dir).unwrap()
}

/// Images of random waves; those of the first group have more of the race model's. A patient has one or two.
fn images(count: usize, seed: u64) -> Vec<LabelledImage> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5
    };
    let image = |number: usize| {
        let first = (number / 2).is_multiple_of(2);
        let parts: Vec<f64> = (0..FEATURES).map(|k| random() + if first && k < 2 { 0.9 } else { 0.0 }).collect();
        let value = |at: usize| {
            let turn = |place: usize| place as f64 * std::f64::consts::TAU / SIDE as f64;
            let wave = |(k, part): (usize, &f64)| {
                let down = (turn(at / SIDE) * (1 + k / 8) as f64 + k as f64).cos();
                part * down * (turn(at % SIDE) * (1 + k % 8) as f64).cos()
            };
            (0.5 + 0.15 * parts.iter().enumerate().map(wave).sum::<f64>()) as f32
        };
        let plane = Plane::new(SIDE, (0..SIDE * SIDE).map(value).collect()).unwrap();
        LabelledImage {
            patient: format!("{:03}", number / 2),
            group: if first { "Asian" } else { "White" }.to_owned(),
            stratum: String::new(),
            race: plane.clone(),
            clinical: plane,
        }
    };
    (0..count).map(image).collect()
}

fn options() -> GradientOptions {
    GradientOptions { heads: 39, copies: 2, sigma: 0.02, radius: 9.0, step: 0.02, random_steps: 4, seed: 3 }
}

fn lines(beta: f64) -> (Vec<EvidenceLine>, Vec<EvidenceLine>) {
    let folder = tempfile::tempdir().unwrap();
    let (race, clinical) = (package(folder.path(), true, 0.0), package(folder.path(), false, beta));
    let cpu = resolve_device(crate::config::Device::Cpu).unwrap();
    let networks = [&race, &clinical].map(|package| WhiteBox::load(package, cpu).unwrap());
    let pair = Pair { race: (&race, &networks[0]), clinical: (&clinical, &networks[1]) };
    let (alignments, doses) = pair.measure(&images(60, 5), &options(), &|| ()).unwrap();
    (alignment(&alignments, 1).unwrap(), dose_response(&doses, 1).unwrap())
}

#[test]
fn both_lines_are_monotone_in_what_is_planted_and_null_where_nothing_is() {
    let mut before = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for beta in [-2.0, -0.5, 0.0, 0.5, 2.0] {
        let (alignments, doses) = lines(beta);
        // The first finding uses the race direction, the second never does.
        let (own, dose) = (&alignments[0], &doses[0]);
        assert!(own.value.estimate > before.0 && dose.value.estimate > before.1, "{beta}: {own:?} {dose:?}");
        before = (own.value.estimate, dose.value.estimate);
        assert!(alignments[1].p > 0.05 && doses[1].p > 0.05, "{beta}: {:?} {:?}", alignments[1], doses[1]);
        let found = (own.p <= 0.05, dose.p <= 0.05);
        if beta == 0.0 || beta.abs() == 2.0 {
            assert_eq!(found, (beta != 0.0, beta != 0.0), "{beta}: {own:?} {dose:?}");
        }
        assert!([own, dose].iter().all(|line| line.control == Control::Passed), "{own:?} {dose:?}");
        assert_eq!((own.group.as_str(), own.patients, own.finding.as_deref()), ("Asian", 30, Some("effusion")));
        if beta != 0.0 {
            assert_eq!(
                (own.value.estimate > 0.0, dose.value.lower > 0.0),
                (beta > 0.0, beta > 0.0),
                "{own:?} {dose:?}"
            );
        }
    }
}

#[test]
fn labels_are_exchanged_between_patients_of_a_stratum_and_images_of_one_stay_together() {
    let mut images = images(80, 6);
    for (number, image) in images.iter_mut().enumerate() {
        image.stratum = if number < 40 { "PA" } else { "AP" }.to_owned();
        // In one view all are of one group.
        if number < 40 {
            image.group = "Asian".to_owned();
        }
    }
    let given = exchanged(&images, 1, 0);
    assert!(given[..40].iter().all(|group| group == "Asian"), "nothing to exchange within that view");
    assert!(given.chunks(2).all(|pair| pair[0] == pair[1]));
    let count = |groups: &[String]| groups.iter().filter(|g| *g == "Asian").count();
    assert_eq!(count(&given[40..]), count(&images[40..].iter().map(|i| i.group.clone()).collect::<Vec<_>>()));
    assert_ne!(given, exchanged(&images, 1, 1));
    assert_eq!(given, exchanged(&images, 1, 0));
}

#[test]
fn what_cannot_be_compared_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (race, mut clinical) = (package(folder.path(), true, 0.0), package(folder.path(), false, 0.0));
    let cpu = resolve_device(crate::config::Device::Cpu).unwrap();
    let networks = [&race, &clinical].map(|package| WhiteBox::load(package, cpu).unwrap());
    let why = |clinical: &Package, images: &[LabelledImage]| {
        let pair = Pair { race: (&race, &networks[0]), clinical: (clinical, &networks[1]) };
        pair.measure(images, &options(), &|| ()).unwrap_err().to_string()
    };
    assert!(why(&clinical, &images(20, 1)).contains("no group of the race model has 20 images"));
    clinical.contract.size = 32;
    assert!(why(&clinical, &images(80, 1)).contains("see other parts of an image"));
}
