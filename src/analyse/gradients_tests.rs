//! Tests of `gradients`: networks in which the clinical logit uses the race direction with a known strength.

use std::path::Path;

use super::*;
use crate::assess::directed;
use crate::domain::{Control, Digest, EvidenceLine};
use crate::infer::reference::scripted_with;
use crate::infer::resolve_device;

const SIDE: usize = 16;
/// Pictures that the network's features look for: waves along both axes.
const FEATURES: usize = 48;
/// Findings that know nothing of races, each of random waves, theirs among them.
const IDLE: usize = 24;

/// Numbers around 0, the same for the same seed.
fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31) - 0.5
    }
}

/// Features that are each a bent function of a wave's part in the image, and linear outputs of them. The race logit is of
/// features 0 and 1; the first finding's of 4 to 7, and with `beta` of the race logit; the others' of all.
fn script(race: bool, beta: f64, idle: usize) -> Vec<u8> {
    let mut margin = [0.0; FEATURES];
    (margin[0], margin[1]) = (3.0, 2.0);
    let mut clinical = [0.0; FEATURES];
    (clinical[4], clinical[5], clinical[6], clinical[7]) = (2.0, -1.5, 1.0, 1.5);
    let mut random = random(11);
    let mut rows = match race {
        true => vec![margin, margin.map(|w| -w)],
        false => vec![std::array::from_fn(|i| clinical[i] + beta * margin[i])],
    };
    rows.extend((0..if race { 0 } else { idle }).map(|_| std::array::from_fn(|_| 2.0 * random())));
    let row = |own: &[f64; FEATURES]| format!("[{}]", own.map(|w| format!("{w:.6}")).join(", "));
    let weights: Vec<String> = rows.iter().map(row).collect();
    scripted_with(
        &format!("        self.weights = torch.nn.Parameter(torch.tensor([{}]))", weights.join(", ")),
        &format!(
            "        seen = torch.nn.functional.conv2d(images, torch.ones(1, 1, 1, 1))\n\
            \x20       place = torch.arange({SIDE}) * (2.0 * 3.14159265 / {SIDE})\n\
            \x20       k = torch.arange({FEATURES}).view({FEATURES}, 1, 1)\n\
            \x20       down = torch.cos(place.view(1, {SIDE}, 1) * (1 + k // 8) + k)\n\
            \x20       along = torch.cos(place.view(1, 1, {SIDE}) * (1 + k % 8))\n\
            \x20       waves = (down * along).unsqueeze(1)\n\
            \x20       parts = torch.nn.functional.conv2d(seen, waves).flatten(1) / {SIDE}.0\n\
            \x20       features = torch.tanh(parts) + 0.2 * torch.roll(parts, 3, 1) * parts\n\
            \x20       return torch.nn.functional.linear(features, self.weights)"
        ),
    )
}

fn package(folder: &Path, race: bool, beta: f64, idle: usize) -> Package {
    let dir = folder.join(if race { "race" } else { "clinical" });
    std::fs::create_dir_all(&dir).unwrap();
    let bytes = script(race, beta, idle);
    std::fs::write(dir.join("network.pt"), &bytes).unwrap();
    let finding = |n: usize| {
        format!(
            "[[output.findings]]\nkey = \"finding-{n}\"\nthreshold = 0.5\n\
             code = {{ value = \"{n}\", scheme = \"99TEST\", meaning = \"Finding {n}\" }}\n"
        )
    };
    let (name, output, method) = match race {
        true => (
            "race",
            "activation = \"logits-softmax\"\n[[output.groups]]\nkey = \"Asian\"\ncode = \"2028-9\"\n\
             [[output.groups]]\nkey = \"White\"\ncode = \"2106-3\""
                .to_owned(),
            "mean",
        ),
        false => {
            let findings: String = (0..=idle).map(finding).collect();
            ("clinical", format!("activation = \"logits-sigmoid\"\n{findings}"), "max")
        }
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

/// Images of random waves; those of the first group have more of the race model's. Two are of one patient.
fn images(count: usize, seed: u64) -> (Vec<LabelledImage>, Vec<Plane>) {
    let mut random = random(seed);
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
        let group = if first { "Asian" } else { "White" }.to_owned();
        let labelled = LabelledImage { patient: format!("{:03}", number / 2), group, stratum: String::new() };
        (labelled, Plane::new(SIDE, (0..SIDE * SIDE).map(value).collect()).unwrap())
    };
    (0..count).map(image).unzip()
}

fn options() -> GradientOptions {
    GradientOptions { heads: 29, copies: 1, sigma: 0.02, radius: 9.0, step: 0.02, seed: 3 }
}

fn measured(beta: f64, idle: usize) -> Vec<Directed> {
    let folder = tempfile::tempdir().unwrap();
    let (race, clinical) = (package(folder.path(), true, 0.0, 0), package(folder.path(), false, beta, idle));
    let cpu = resolve_device(crate::config::Device::Cpu).unwrap();
    let networks = [&race, &clinical].map(|package| WhiteBox::load(package, cpu).unwrap());
    let untrained = WhiteBox::untrained(&clinical, cpu, 5).unwrap();
    let pair = Pair { race: (&race, &networks[0]), clinical: (&clinical, &networks[1]), untrained: Some(&untrained) };
    let (images, planes) = images(44, 5);
    // One cannot be read.
    let read = |at: usize| (at != 7).then(|| [planes[at].clone(), planes[at].clone()]);
    pair.measure(&images, &read, &options(), &|| ()).unwrap()
}

/// Of a finding alone: cosine, then shift.
fn of_finding(runs: &[Directed], finding: usize) -> [EvidenceLine; 2] {
    let own = runs.iter().filter(|run| run.finding == format!("finding-{finding}"));
    let lines: Vec<EvidenceLine> = own.map(|run| directed(std::slice::from_ref(run)).unwrap().remove(0)).collect();
    lines.try_into().unwrap()
}

#[test]
fn both_lines_are_monotone_in_what_is_planted_and_null_where_nothing_is() {
    let mut before = [f64::NEG_INFINITY; 2];
    for beta in [-2.0, -0.5, 0.0, 0.5, 2.0] {
        let runs = measured(beta, if beta == 0.0 { IDLE } else { 0 });
        for (before, line) in before.iter_mut().zip(of_finding(&runs, 0)) {
            assert!(line.value.estimate > *before, "{beta}: {line:?}");
            *before = line.value.estimate;
            assert_eq!(line.control, Control::Passed, "{line:?}");
            assert_eq!((line.group.as_str(), line.patients), ("Asian", 22));
            if beta == 0.0 || beta.abs() == 2.0 {
                assert_eq!(line.p <= 0.05, beta != 0.0, "{beta}: {line:?}");
                let side = (line.value.lower > 0.0, line.value.upper < 0.0);
                assert_eq!(side, (beta > 0.0, beta < 0.0), "{beta}: {line:?}");
            }
        }
        if beta == 0.0 {
            // Findings that look at the race model's waves as much as at any others follow a race head no more than they
            // follow heads of exchanged labels, though the shift of none of them is 0.
            let idle: Vec<[EvidenceLine; 2]> = (1..=IDLE).map(|finding| of_finding(&runs, finding)).collect();
            for kind in [0, 1] {
                let rejected = idle.iter().filter(|lines| lines[kind].p <= 0.05).count();
                // 1.2 expected of 24: 6 or more are seen once in 1,000 worlds.
                assert!(rejected <= 5, "{rejected} of {IDLE}: {idle:?}");
            }
        }
    }
}

#[test]
fn labels_are_exchanged_between_patients_of_the_same_strata_and_images_of_one_stay_together() {
    let mut images = images(80, 6).0;
    for (number, image) in images.iter_mut().enumerate() {
        // Forty patients with one image from the front and one from the side, but for ten who have two from the front.
        image.stratum = if number < 20 || number.is_multiple_of(2) { "PA" } else { "LATERAL" }.to_owned();
        if number < 20 {
            image.group = "Asian".to_owned();
        }
    }
    let all: Vec<&LabelledImage> = images.iter().collect();
    let given = exchanged(&all, 1, 0).unwrap();
    assert!(given[..20].iter().all(|group| *group == "Asian"), "nothing to exchange among those");
    assert!(given.chunks(2).all(|pair| pair[0] == pair[1]));
    let count = |groups: &[&str]| groups.iter().filter(|g| **g == "Asian").count();
    assert_eq!(count(&given[20..]), count(&all[20..].iter().map(|i| i.group.as_str()).collect::<Vec<_>>()));
    assert_ne!(given, exchanged(&all, 1, 1).unwrap());
    assert_eq!(given, exchanged(&all, 1, 0).unwrap());
    let mut torn = images.clone();
    torn[1].group = "White".to_owned();
    let all: Vec<&LabelledImage> = torn.iter().collect();
    assert!(exchanged(&all, 1, 0).unwrap_err().to_string().contains("two groups"));
}

#[test]
fn what_cannot_be_compared_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (race, mut clinical) = (package(folder.path(), true, 0.0, 0), package(folder.path(), false, 0.0, 0));
    let cpu = resolve_device(crate::config::Device::Cpu).unwrap();
    let networks = [&race, &clinical].map(|package| WhiteBox::load(package, cpu).unwrap());
    let why = |clinical: &Package, count: usize| {
        let pair = Pair { race: (&race, &networks[0]), clinical: (clinical, &networks[1]), untrained: None };
        let (images, planes) = images(count, 1);
        let read = |at: usize| Some([planes[at].clone(), planes[at].clone()]);
        pair.measure(&images, &read, &options(), &|| ()).unwrap_err().to_string()
    };
    assert!(why(&clinical, 20).contains("no group of the race model has 20 images"));
    clinical.contract.size = 32;
    assert!(why(&clinical, 80).contains("see other parts of an image"));
}
