//! One epoch beside PyTorch: the same start, images, order and optimiser give the same loss at every batch.

use std::path::Path;
use std::sync::Mutex;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Device;

use super::data::Part;
use super::settings::{Augment, Balance};
use super::split::Split;
use super::*;
use crate::domain::{Contract, Purpose};
use crate::infer::reference;

const TOLERANCE: f64 = 1e-3;
const SIDE: usize = 64;
const CLASSES: usize = 3;

/// Noise; in each class another stripe is brighter.
fn dataset(contract: &Contract) -> (Dataset, Vec<Vec<f32>>, Vec<usize>) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut samples, mut images, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..120 {
        let class = rng.random_range(0..CLASSES);
        let image = (0..SIDE * SIDE).map(|at| {
            let bright = at % SIDE / 16 == class;
            rng.random_range(0.0..0.6) + if bright { 0.25 } else { 0.0 }
        });
        images.push(image.collect());
        labels.push(class);
        let part = Some(if i < 100 { Part::Train } else { Part::Validation });
        let (patient, target) = (format!("P{i}"), Target::Group(class));
        samples.push(Sample { patient, study: format!("S{i}"), group: String::new(), target, part });
    }
    (Dataset::from_values(samples, &images, contract, Purpose::Race, CLASSES).unwrap(), images, labels)
}

fn write<T, const N: usize>(path: &Path, values: impl IntoIterator<Item = T>, bytes: impl Fn(T) -> [u8; N]) {
    std::fs::write(path, values.into_iter().flat_map(bytes).collect::<Vec<u8>>()).unwrap();
}

#[test]
fn an_epoch_has_pytorchs_losses_from_the_same_start_in_the_same_order() {
    let contract = Contract::preset("imagenet-rgb", SIDE as u32).unwrap();
    let (dataset, images, labels) = dataset(&contract);
    let training = "learning_rate = 1e-3\nbatch = 16\nepochs = 1\nearly_stop = 1";
    let mut options = FitOptions {
        network: toml::from_str("architecture = \"resnet18\"").unwrap(),
        training: toml::from_str(training).unwrap(),
        augment: Augment::default(),
        balance: Balance::None,
        seed: 8,
    };
    let split = Split { train: (0..100).collect(), validation: (100..120).collect(), test: Vec::new() };

    // The order that the epoch will have: first weights are drawn before it.
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    for _ in 0..2 {
        Network::new(&options.network, 3, CLASSES as i64, Device::Cpu, &mut rng).unwrap();
    }
    let plan = fit::plan(&dataset, &mut split.train.clone(), &options, &mut rng);
    assert_eq!(plan.order.len(), 100);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let case = serde_json::json!({"side": SIDE, "classes": CLASSES, "batch": 16, "learning_rate": 1e-3,
        "mean": contract.mean, "std": contract.std});
    std::fs::write(path("case.json"), case.to_string()).unwrap();
    write(&path("images.f32"), images.into_iter().flatten(), f32::to_le_bytes);
    write(&path("labels.i64"), labels, |label| (label as i64).to_le_bytes());
    write(&path("order.i64"), plan.order, |position| (position as i64).to_le_bytes());
    reference::python(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/one_epoch.py"), folder.path());
    let expected: Vec<f64> = serde_json::from_slice(&std::fs::read(path("losses.json")).unwrap()).unwrap();

    let digest = Digest::of(&std::fs::read(path("start.safetensors")).unwrap());
    let start = format!("file = {:?}\nsha256 = \"{digest}\"", path("start.safetensors"));
    options.network.start_weights = Some(toml::from_str(&start).unwrap());
    let losses = Mutex::new(Vec::new());
    fit(&dataset, &split, &options, &tests::machine(), &|event| {
        if let Event::Batch { loss, .. } = event {
            losses.lock().unwrap().push(loss);
        }
    })
    .unwrap();
    let losses = losses.into_inner().unwrap();
    eprintln!("here {losses:.5?}\nPyTorch {expected:.5?}");
    assert_eq!(losses.len(), 7);
    let spread = expected.iter().fold(0.0, |s: f64, l| s.max((l - expected[0]).abs()));
    assert!(spread > 0.05, "the reference learns nothing: {expected:?}");
    for (found, expected) in losses.iter().zip(&expected) {
        assert!((found - expected).abs() < TOLERANCE, "{found} {expected}");
    }

    // Other bytes than the recipe pins are refused by name.
    options.network.start_weights.as_mut().unwrap().sha256 = Digest::of(b"other");
    let error = fit(&dataset, &split, &options, &tests::machine(), &|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("its SHA-256 is"), "{error:#}");
}
