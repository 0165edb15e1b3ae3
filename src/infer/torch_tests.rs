//! Tests of `torch`: activations, cards that do not fit their networks, native weights.

use std::path::Path;

use tch::nn::VarStore;

use super::*;
use crate::domain::Contract;
use crate::infer::card::Architecture;
use crate::infer::export;
use crate::infer::layers::{Forward, function};
use crate::infer::manifest::fixtures::{clinical_with, race_with};
use crate::infer::nets::{self, Width};

/// Traces `forward` for the contract of the test card and writes it.
fn script(path: &Path, forward: Forward) {
    let _guard = tch::no_grad_guard();
    let example = Tensor::rand([2, 1, 8, 8], (Kind::Float, Device::Cpu));
    let mut run = |xs: &[Tensor]| vec![forward(&xs[0], false).unwrap()];
    CModule::create_by_tracing("Network", "forward", &[example], &mut run).unwrap().save(path).unwrap();
}

fn loaded(package: &Package, device: Device, precision: Precision) -> Result<LoadedModel, EngineError> {
    LoadedModel::load(package, &read_script(package)?, device, precision)
}

#[test]
fn a_network_that_fails_as_it_is_is_never_replaced_by_a_frozen_one_that_nobody_compared() {
    let dir = tempfile::tempdir().unwrap();
    let package = crate::infer::manifest::fixtures::clinical_package(dir.path());
    let of = |forward| LoadedModel::of(package.clone(), forward);
    let failing = || of(function(|_| Err(TchError::Torch("CUDA out of memory".into()))));
    assert_eq!(of(two_means()).equals(&of(two_means())), Ok(()));
    assert!(failing().equals(&of(two_means())).unwrap_err().starts_with("it cannot be compared: "));
    assert!(of(two_means()).equals(&failing()).is_err());
}

fn width(columns: i64) -> Width {
    Width { channels: 3, columns }
}

/// Two logits per image: mean and negative mean of its pixels.
fn two_means() -> Forward {
    function(|xs| {
        let mean = xs.f_flatten(1, -1)?.f_mean_dim(1, true, Kind::Float)?;
        Tensor::f_cat(&[&mean, &mean.f_neg()?], 1)
    })
}

#[test]
fn outputs_become_probabilities_by_what_the_card_says_they_are() {
    use Activation::{LogSoftmax, LogitsSigmoid, LogitsSoftmax, Sigmoid, Softmax};
    let check = |activation, outputs: &[f64], expected: Option<&[f64]>| {
        let found = probabilities(activation, outputs).ok();
        match (found, expected) {
            (None, None) => (),
            (Some(found), Some(expected)) => {
                let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
                assert!(close && found.len() == expected.len(), "{activation:?} {outputs:?} -> {found:?}");
            }
            (found, expected) => panic!("{activation:?} {outputs:?} -> {found:?}, expected {expected:?}"),
        }
    };
    check(Softmax, &[0.25, 0.75], Some(&[0.25, 0.75]));
    check(Softmax, &[0.2505, 0.7515], Some(&[0.25, 0.75]));
    check(Softmax, &[0.5, 0.7], None);
    check(Softmax, &[-1.0, 2.0], None);
    check(LogSoftmax, &[0.25f64.ln(), 0.75f64.ln()], Some(&[0.25, 0.75]));
    check(LogSoftmax, &[f64::NEG_INFINITY, 0.0], Some(&[0.0, 1.0]));
    check(LogSoftmax, &[1.0, 2.0], None);
    check(LogitsSoftmax, &[1000.0, 1000.0], Some(&[0.5, 0.5]));
    check(LogitsSoftmax, &[0.0, 3f64.ln()], Some(&[0.25, 0.75]));
    check(LogitsSoftmax, &[f64::NEG_INFINITY, f64::NEG_INFINITY], None);
    check(Sigmoid, &[0.9, 0.8], Some(&[0.9, 0.8]));
    check(Sigmoid, &[3.0, 0.8], None);
    check(LogitsSigmoid, &[0.0, -800.0], Some(&[0.5, 0.0]));
    check(LogitsSigmoid, &[f64::NAN, 0.0], None);
    check(LogitsSigmoid, &[f64::INFINITY, 0.0], None);
}

#[test]
fn a_network_that_breaks_its_card_does_not_start() {
    let check = |forward: Forward, race: bool, expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let weights = dir.path().join("network.pt");
        script(&weights, forward);
        let package =
            if race { race_with(dir.path(), &weights, |c| c) } else { clinical_with(dir.path(), &weights, |c| c) };
        let error = loaded(&package, Device::Cpu, Precision::Fp32).unwrap().warm_up().unwrap_err().to_string();
        assert!(error.starts_with("model site-chest does not keep what its card says: "), "{error}");
        assert!(error.contains(expected), "{error}");
    };
    check(
        function(|xs| xs.f_flatten(1, -1)),
        false,
        "its shape is [1, 64], the card's labels and the batch ask for [1, 2]",
    );
    check(function(|xs| xs.f_mean(Kind::Float)), false, "its shape is []");
    check(function(|xs| xs.f_flatten(1, -1)?.f_slice(1, 0, 2, 1)?.f_log()?.f_mul_scalar(0.0)), false, "not finite");
    check(function(|xs| xs.f_flatten(1, -1)?.f_slice(1, 0, 2, 1)), true, "sum to 0");
    check(function(|xs| xs.f_flatten(1, -1)?.f_slice(1, 0, 2, 1)?.f_add_scalar(7.0)), true, "is no probability");
    check(
        function(|xs| {
            let all = xs.f_sum(Kind::Float)?;
            xs.f_flatten(1, -1)?.f_slice(1, 0, 2, 1)?.f_add(&all)
        }),
        false,
        "depends on the others in its batch",
    );
    check(Box::new(|xs, _| xs.f_view([2, 64])?.f_slice(1, 0, 2, 1)), false, "the model failed: ");
}

#[test]
fn a_file_that_is_no_network_or_changed_meanwhile_does_not_load() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("network.pt");
    std::fs::write(&weights, b"PK not a module").unwrap();
    let package = clinical_with(dir.path(), &weights, |c| c);
    let load = |package: &Package| loaded(package, Device::Cpu, Precision::Fp32).err().unwrap().to_string();
    assert!(load(&package).contains("not a TorchScript file for this libtorch"), "{}", load(&package));
    script(&package.weights_path, two_means());
    assert!(load(&package).contains("changed since its hash was checked"), "{}", load(&package));
}

#[test]
fn only_the_columns_that_the_card_names_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("network.pt");
    script(&weights, function(|xs| xs.f_flatten(1, -1)));
    let package = clinical_with(dir.path(), &weights, |c| {
        c.replace("logits-sigmoid\"", "sigmoid\"\ncolumns = 64").replace("0.25", "0.25\ncolumn = 9")
    });
    let model = loaded(&package, Device::Cpu, Precision::Fp32).unwrap();
    model.warm_up().unwrap();
    let mut image = vec![0.0; 64];
    (image[0], image[1], image[9]) = (0.5, 0.9, 0.25);
    assert_eq!(model.forward(&[&image]).unwrap(), vec![Ok(vec![0.5, 0.25])]);
}

/// Random weights under torchvision's names, saved as safetensors, loaded through the card's format, exported as
/// TorchScript and loaded as that: the three compute the same.
#[test]
fn native_weights_survive_the_road_through_safetensors_and_torchscript() {
    let dir = tempfile::tempdir().unwrap();
    tch::set_num_threads(1);
    let file = dir.path().join("resnet.safetensors");
    let mut store = VarStore::new(Device::Cpu);
    let forward = nets::build(&store.root(), Architecture::Resnet18, width(2), nets::Drop::default()).unwrap();
    store.freeze();
    store.save(&file).unwrap();
    let native = |c: String| {
        c.replace("\"torchscript\"", "\"safetensors\"\narchitecture = \"resnet18\"")
            .replace("minmax-unit", "imagenet-rgb")
            .replace("size = 8", "size = 32")
    };
    let package = clinical_with(dir.path(), &file, native);
    let model = loaded(&package, Device::Cpu, Precision::Fp32).unwrap();
    model.warm_up().unwrap();
    let contract = Contract::preset("imagenet-rgb", 32).unwrap();
    let image: Vec<f32> = (0..contract.plane_len()).map(|i| (i as f32 * 0.37).sin()).collect();
    let from_safetensors = model.forward(&[&image]).unwrap().remove(0).unwrap();

    let xs = Tensor::from_slice(&contract.spread(&image)).view([1, 3, 32, 32]);
    let logits = Vec::<f64>::try_from(forward(&xs, false).unwrap().flatten(0, -1).to_kind(Kind::Double)).unwrap();
    let direct = probabilities(Activation::LogitsSigmoid, &logits).unwrap();

    let exported = dir.path().join("exported.pt");
    let native = package.clone();
    let digest = export::export_package(&package, &exported).unwrap();
    assert_eq!(digest, Digest::of(&std::fs::read(&exported).unwrap()));
    let package = clinical_with(dir.path(), &exported, |c| {
        c.replace("minmax-unit", "imagenet-rgb").replace("size = 8", "size = 32")
    });
    let model = loaded(&package, Device::Cpu, Precision::Fp32).unwrap();
    model.warm_up().unwrap();
    let from_script = model.forward(&[&image]).unwrap().remove(0).unwrap();
    for (name, found) in [("safetensors", from_safetensors), ("TorchScript", from_script)] {
        assert!(found.iter().zip(&direct).all(|(a, b)| (a - b).abs() < 1e-5), "{name}: {found:?} {direct:?}");
    }
    let twice = export::export_package(&native, &exported).unwrap_err().to_string();
    assert!(twice.ends_with("is there already: name another file, or move it away"), "{twice}");
    let again = export::export_package(&package, &exported).unwrap_err().to_string();
    assert_eq!(again, "site-chest is TorchScript already: copy its weight file");
}
