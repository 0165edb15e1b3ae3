//! Tests of `golden`: images of the contract, answers that return, and everything that is not them.

use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::domain::{ModelIdentity, Probability};
use crate::infer::EngineOptions;
use crate::infer::layers::{Forward, function, linear, sequence};
use crate::infer::manifest::fixtures::clinical_with;

fn start(package: &Package) -> Engine {
    let options =
        EngineOptions { batch_max: 4, batch_delay: std::time::Duration::ZERO, threads: 1, ..EngineOptions::default() };
    Engine::start(vec![package.clone()], options).unwrap()
}

/// A package whose network is linear in the pixels; its folder.
fn package(dir: &Path, forward: &Forward) -> (Package, PathBuf) {
    let weights = dir.join("network.pt");
    let contract = Contract::preset("minmax-unit", 8).unwrap();
    crate::infer::trace(forward, &contract).unwrap().save(&weights).unwrap();
    let package = clinical_with(dir, &weights, |c| c);
    let folder = package.dir.clone();
    (package, folder)
}

fn one_layer(scale: f64) -> Forward {
    let mut store = tch::nn::VarStore::new(tch::Device::Cpu);
    tch::manual_seed(5);
    let layer = linear(&(store.root() / "fc"), 64, 2).unwrap();
    store.freeze();
    sequence(vec![function(move |xs| xs.f_mul_scalar(scale)?.f_flatten(1, -1)), layer])
}

#[test]
fn golden_images_fill_the_contracts_range_and_never_change() {
    let contract = Contract::preset("xrv-1024", 32).unwrap();
    let mut values = Vec::new();
    for seed in 0..SEEDS {
        let found = image(&contract, seed);
        assert_eq!(found.len(), contract.plane_len());
        assert!(found.iter().all(|v| (-1024.0..=1024.0).contains(v)), "seed {seed}");
        values.extend(found);
    }
    let spread = values.iter().fold(0.0_f32, |a, v| a.max(*v)) - values.iter().fold(0.0_f32, |a, v| a.min(*v));
    assert!(spread > 1800.0, "{spread}");
    // Kept from the first release: other numbers would make every golden value wrong.
    let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
    assert!((sum - SUM_OF_ALL).abs() < 1.0, "{sum}");
}

const SUM_OF_ALL: f64 = -4_042_721.7;

#[test]
fn a_package_answers_as_it_did_and_another_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (package, folder) = package(dir.path(), &one_layer(1.0));
    assert!(Golden::of(&package).unwrap().is_none());
    write_golden(&folder, &package, &start(&package)).unwrap();
    write_golden(&folder, &package, &start(&package)).unwrap();
    let package = Package::load(&folder).unwrap();
    let golden = Golden::of(&package).unwrap().unwrap();
    let outcome = golden.compare(&package, &start(&package)).unwrap();
    assert_eq!((outcome.images, outcome.device.as_str(), outcome.tolerance), (4, "cpu-fp32", 1e-4));
    assert!(outcome.is_within() && outcome.difference < 1e-6, "{outcome:?}");
    // The outputs of the kept images lie well apart: a network that answers all alike is found out.
    for (i, case) in golden.cases.iter().enumerate() {
        let others = golden.cases.iter().skip(i + 1);
        assert!(others.into_iter().all(|o| (o.outputs[0] - case.outputs[0]).abs() > 1e-3 || (o.outputs[1] - case.outputs[1]).abs() > 1e-3));
    }

    // The same card before a network that differs by a hundredth.
    let elsewhere = tempfile::tempdir().unwrap();
    let (other, _) = self::package(elsewhere.path(), &one_layer(1.01));
    let outcome = golden.compare(&other, &start(&other)).unwrap();
    assert!(!outcome.is_within() && outcome.difference > 1e-4, "{outcome:?}");
    let own = Golden { tolerance: BTreeMap::from([("cpu-fp32".to_owned(), 0.9)]), ..golden };
    assert!(own.compare(&other, &start(&other)).unwrap().is_within());
}

#[test]
fn golden_values_that_cannot_be_the_packages_are_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let (package, folder) = package(dir.path(), &one_layer(1.0));
    write_golden(&folder, &package, &start(&package)).unwrap();
    let package = Package::load(&folder).unwrap();
    let check = |change: &dyn Fn(&mut Package), expected: &str| {
        let mut changed = package.clone();
        change(&mut changed);
        let error = Golden::of(&changed).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("sidelight model golden"), "{error}");
    };
    let card = |p: &mut Package, change: &dyn Fn(&mut GoldenCard)| change(p.golden.as_mut().unwrap());
    check(&|p| p.identity.weights = Digest::of(b"other"), "holds the answers of site-chest@2.1.0#");
    let renamed = ModelIdentity { name: "named-anew".into(), version: "2.2.0".into(), ..package.identity.clone() };
    assert!(Golden::of(&Package { identity: renamed, ..package.clone() }).unwrap().is_some(), "the weights count");
    check(&|p| p.contract.low = -1.0, "or for another input contract");
    check(&|p| card(p, &|g| g.file = "../golden.json".to_owned()), "leaves the package folder");
    check(&|p| card(p, &|g| g.sha256 = Digest::of(b"")), "sha256: golden-");
    let tolerance = |name: &str, value: f64| BTreeMap::from([(name.to_owned(), value)]);
    check(&|p| card(p, &|g| g.tolerance = tolerance("tpu-fp8", 0.1)), "tolerance.tpu-fp8 is no device");
    check(&|p| card(p, &|g| g.tolerance = tolerance("cpu-fp32", 0.0)), "not between 0 and 1");
    let broken = |text: &[u8], expected: &str| {
        std::fs::write(folder.join("golden.json"), text).unwrap();
        let pinned =
            GoldenCard { file: "golden.json".to_owned(), sha256: Digest::of(text), tolerance: BTreeMap::new() };
        check(&|p| p.golden = Some(pinned.clone()), expected);
    };
    broken(b"{", "is no file of golden values");
    let digest = package.contract.digest();
    let empty = format!(r#"{{"format": 1, "model": "m", "contract": "{digest}", "device": "cpu-fp32", "cases": []}}"#);
    broken(empty.as_bytes(), "or empty");
}

#[test]
fn what_is_pinned_of_a_suppliers_file_is_what_was_compared_whatever_the_file_is_by_then() {
    let dir = tempfile::tempdir().unwrap();
    let (package, folder) = package(dir.path(), &one_layer(1.0));
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (images, outputs) = (bytes(&[0.25; 128]), bytes(&[0.2, 0.8, 0.9, 0.1]));
    let tensor = |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
    let tensors = [("images", tensor(&[2, 1, 8, 8], &images)), ("outputs", tensor(&[2, 2], &outputs))];
    let file = dir.path().join("golden.safetensors");
    std::fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let (supplied, read) = Golden::supplied(&file, &package).unwrap();
    std::fs::write(&file, b"another file").unwrap();
    keep_supplied(&folder, &read).unwrap();
    assert_eq!(Golden::of(&Package::load(&folder).unwrap()).unwrap().unwrap().cases, supplied.cases);
}

#[test]
fn a_model_that_answers_all_alike_has_no_golden_values() {
    let dir = tempfile::tempdir().unwrap();
    let flat = function(|xs| xs.f_flatten(1, -1)?.f_slice(1, 0, 2, 1)?.f_mul_scalar(0.0));
    let (package, folder) = package(dir.path(), &flat);
    let error = write_golden(&folder, &package, &start(&package)).unwrap_err();
    assert!(matches!(error, GoldenError::Constant), "{error}");
    assert!(Package::load(&folder).unwrap().golden.is_none());
}

#[test]
fn what_is_allowed_is_less_near_a_threshold_of_0_or_1() {
    let dir = tempfile::tempdir().unwrap();
    let (mut package, _) = package(dir.path(), &one_layer(1.0));
    let crate::domain::ModelOutputs::Findings(findings) = &mut package.outputs else { panic!("findings") };
    findings[0].threshold = Probability::new(0.01).unwrap();
    findings[1].threshold = Probability::new(0.5).unwrap();
    let excess = |found: [f64; 2]| {
        let mut outcome = GoldenOutcome {
            device: "cpu-bf16".into(),
            images: 1,
            devices: 1,
            difference: 0.0,
            tolerance: 0.05,
            excess: 0.0,
            spread: 0.5,
        };
        outcome.add(&package, &found, &[0.02, 0.3]);
        assert!(!outcome.is_weak());
        outcome.is_within()
    };
    assert!(excess([0.024, 0.34]));
    assert!(!excess([0.03, 0.3]), "half of the threshold's distance from 0");
    assert!(!excess([0.02, 0.36]));
}
