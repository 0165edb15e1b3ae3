//! Tests of `precision`: what card and configuration come to, and networks that do not keep their card's tolerance.

use std::cell::RefCell;
use std::path::Path;

use tch::nn::VarStore;

use super::*;
use crate::config::PrecisionChoice::{Fastest, Named};
use crate::domain::Contract;
use crate::domain::Precision::{Bf16, Fp16, Fp32};
use crate::infer::layers::small_network;
use crate::infer::manifest::fixtures::clinical_with;
use crate::infer::trace;

/// A small convolutional network, whose card has these entries.
fn package(dir: &Path, precisions: &str) -> Package {
    let file = dir.join("network.pt");
    tch::manual_seed(3);
    let mut store = VarStore::new(Device::Cpu);
    let p = store.root();
    let forward = small_network(&p);
    store.freeze();
    trace(&forward, &Contract::preset("minmax-unit", 8).unwrap()).unwrap().save(&file).unwrap();
    clinical_with(dir, &file, |card| card.replace("[scope]", &format!("{precisions}\n[scope]")))
}

fn load_on_cpu(package: &Package, choice: PrecisionChoice) -> Result<LoadedModel, EngineError> {
    load(package, &crate::infer::torch::read_script(package)?, Device::Cpu, choice)
}

fn permits(kind: &str, tolerance: f64) -> String {
    format!("[[precision]]\nkind = \"{kind}\"\nscore_tolerance = {tolerance}")
}

#[test]
fn a_model_computes_in_what_is_asked_for_as_far_as_its_card_permits_it() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &permits("bf16", 0.1));
    let load = |choice| load_on_cpu(&package, choice).unwrap();
    assert_eq!(load(Named(Fp32)).precision(), Fp32);
    assert_eq!(load(Named(Fp16)).precision(), Fp32);
    assert!([Fp32, Bf16].contains(&load(Fastest).precision()));
    let (exact, reduced) = (load(Named(Fp32)), load(Named(Bf16)));
    assert_eq!(reduced.precision(), Bf16);
    let image = probe::image(&package.contract, 5);
    let score = |model: &LoadedModel| model.forward(&[&image]).unwrap().remove(0).unwrap();
    let (exact, reduced) = (score(&exact), score(&reduced));
    assert!(exact.iter().zip(&reduced).all(|(a, b)| (a - b).abs() < 0.1), "{exact:?} {reduced:?}");
    assert_ne!(exact, reduced, "it computes in another precision");
}

#[test]
fn a_precision_whose_tolerance_reaches_a_threshold_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut package = package(dir.path(), &permits("bf16", 0.1));
    let crate::domain::ModelOutputs::Findings(findings) = &mut package.outputs else { panic!("findings") };
    findings[0].threshold = crate::domain::Probability::new(0.9).unwrap();
    assert_eq!(near_a_threshold(&package, 0.1), Some(package.findings()[0].key.clone()));
    assert_eq!(near_a_threshold(&package, 0.04), None);
    assert_eq!(load_on_cpu(&package, Named(Bf16)).unwrap().precision(), Fp32);
}

#[test]
fn a_model_that_moves_further_than_its_card_says_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &permits("bf16", 1e-9));
    for choice in [Named(Bf16), Fastest] {
        if choice == Fastest && !cpu_computes(Bf16) {
            continue;
        }
        let error = load_on_cpu(&package, choice).err().unwrap().to_string();
        assert!(
            error.starts_with("model site-chest does not compute in bf16 as its card says: a score of cpu is "),
            "{error}"
        );
        assert!(error.ends_with("the card allows 0.000000001; set models.precision to \"fp32\""), "{error}");
    }
    assert_eq!(load_on_cpu(&package, Named(Fp32)).unwrap().precision(), Fp32);
}

#[test]
fn the_smallest_batch_that_is_about_as_fast_as_any_is_taken() {
    let check = |seconds: fn(usize) -> Option<f64>, expected: usize, tried: &[usize]| {
        let sizes = RefCell::new(Vec::new());
        let found = fastest_batch(16, Duration::MAX, |images| {
            sizes.borrow_mut().push(images);
            seconds(images).ok_or_else(|| InferError::OutOfMemory(String::new()))
        });
        assert_eq!((found.map(|(images, _)| images), sizes.into_inner()), (Ok(expected), tried.to_vec()));
    };
    check(|_| Some(1.0), 1, &[1, 2, 4]);
    check(|n| Some(1.0 / n as f64), 16, &[1, 2, 4, 8, 16]);
    check(|n| if n < 4 { Some(1.0) } else { Some(0.9) }, 4, &[1, 2, 4, 8, 16]);
    check(|n| Some(1.0 - 0.02 * (n as f64).log2()), 8, &[1, 2, 4, 8, 16]);
    check(|n| if n < 4 { Some(1.0 / n as f64) } else { None }, 2, &[1, 2, 4]);
    let failing = fastest_batch(16, Duration::MAX, |_| Err(InferError::Torch("x".into())));
    assert_eq!(failing, Err(InferError::Torch("x".into())));
    let brief = fastest_batch(16, Duration::ZERO, |n| Ok(1.0 / n as f64));
    assert_eq!(brief, Ok((1, 1.0)), "no time to try others");
}
