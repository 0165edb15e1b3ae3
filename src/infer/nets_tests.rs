//! Tests of `nets`: the same weights and images through PyTorch's own torchvision.

use safetensors::SafeTensors;
use tch::{CModule, Kind, Tensor};

use super::*;
use crate::domain::{Contract, Precision};
use crate::infer::export::{bytes_of, trace};
use crate::infer::layers::sequence;
use crate::infer::native::load_native;
use crate::infer::{reference, script};

/// Largest difference of a logit, and of a feature as a part of the largest one: two libraries that are years apart add
/// up the same products in another order.
const TOLERANCE: f64 = 1e-4;

fn tensor(file: &SafeTensors, name: &str) -> Tensor {
    let view = file.tensor(name).unwrap();
    let shape: Vec<i64> = view.shape().iter().map(|d| *d as i64).collect();
    Tensor::from_data_size(view.data(), &shape, Kind::Float)
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    f64::try_from((a - b).abs().max()).unwrap()
}

/// The network as a node runs it: traced, frozen, in channels last.
fn frozen(parts: Parts, width: Width) -> CModule {
    let preset = if width.channels == 1 { "xrv-1024" } else { "imagenet-rgb" };
    let contract = Contract::preset(preset, 64).unwrap();
    let traced = trace(&sequence(vec![parts.features, parts.head]), &contract).unwrap();
    let bytes = script::prepare(&bytes_of(&traced).unwrap(), Precision::Fp32).unwrap();
    let mut module = CModule::load_data(&mut bytes.as_slice()).unwrap();
    module.set_eval();
    module
}

/// Holds features and outputs against the reference's.
fn check(folder: &std::path::Path, name: &str, architecture: Architecture, width: Width) {
    let _guard = tch::no_grad_guard();
    let weights = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let Parts { features, head } = load_native(&weights, architecture, width).unwrap();
    let frozen = frozen(load_native(&weights, architecture, width).unwrap(), width);
    let cases = std::fs::read(folder.join(format!("{name}.cases.safetensors"))).unwrap();
    let cases = SafeTensors::deserialize(&cases).unwrap();
    for (i, size) in [(0, 320), (1, 97)] {
        let images = tensor(&cases, &format!("images_{i}"));
        assert_eq!(images.size()[2], size);
        let found = features(&images, false).unwrap();
        let last = |outputs: Tensor| if name == "xrv-race" { outputs.log_softmax(1, Kind::Float) } else { outputs };
        let outputs = last(head(&found, false).unwrap());
        let as_it_runs = last(frozen.forward_ts(&[&images]).unwrap());
        let expected = tensor(&cases, &format!("outputs_{i}"));
        let spread = f64::try_from(expected.std(true)).unwrap();
        assert!((0.05..50.0).contains(&spread), "{name}: the reference's outputs spread by {spread}");
        let apart = difference(&outputs, &expected).max(difference(&as_it_runs, &expected));
        let expected = tensor(&cases, &format!("features_{i}"));
        let largest = f64::try_from(expected.max()).unwrap();
        assert!(largest > 0.1, "{name}: the reference's features are at most {largest}");
        let features_apart = difference(&found, &expected) / largest;
        eprintln!(
            "{name} at {size}: outputs {apart:.1e} of {spread:.2}, features {features_apart:.1e} of {largest:.1}"
        );
        assert!(apart <= TOLERANCE && features_apart <= TOLERANCE, "{name} at {size}: {apart:e}, {features_apart:e}");
    }
}

#[test]
fn the_same_weights_give_torchvisions_logits_in_every_architecture() {
    // As the engine does: else each new size would be profiled and recompiled.
    tch::jit::set_graph_executor_optimize(false);
    let folder = reference::run("torchvision_logits.py");
    let three = Width { channels: 3, columns: 5 };
    for architecture in [
        Architecture::Resnet18,
        Architecture::Resnet34,
        Architecture::Resnet50,
        Architecture::Densenet121,
        Architecture::EfficientnetB0,
        Architecture::EfficientnetB2,
    ] {
        check(folder.path(), architecture.as_str(), architecture, three);
    }
    check(folder.path(), "xrv-densenet121", Architecture::Densenet121, Width { channels: 1, columns: 18 });
    check(folder.path(), "xrv-race", Architecture::Resnet34, Width { channels: 3, columns: 3 });
}
