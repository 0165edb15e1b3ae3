//! Tests of `explain`: the same maps as PyTorch's hooks give, and the place where a planted signal is.

use std::path::Path;

use safetensors::SafeTensors;
use tch::nn::VarStore;

use super::*;
use crate::domain::{Contract, Fill, ModelInput};
use crate::infer::card::Architecture;
use crate::infer::layers::{ConvOptions, Forward, conv, function, global_mean, linear, relu, sequence};
use crate::infer::manifest::Package;
use crate::infer::manifest::fixtures::{clinical_with, race_with};
use crate::infer::native::load_native;
use crate::infer::nets::{Parts, Width};
use crate::infer::occlusion::{Occlusion, distance};
use crate::infer::{Engine, EngineOptions, reference, trace};

/// Largest difference of a value of a map, whose largest value is 1.
const TOLERANCE: f64 = 1e-4;

fn tensor(file: &SafeTensors, name: &str) -> Option<Tensor> {
    let view = file.tensor(name).ok()?;
    let shape: Vec<i64> = view.shape().iter().map(|d| *d as i64).collect();
    Some(Tensor::from_data_size(view.data(), &shape, Kind::Float))
}

fn saved(module: &CModule) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.pt");
    module.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn largest_at(map: &[f32], side: usize) -> (usize, usize) {
    let at = map.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    (at / side, at % side)
}

/// The maps of a TorchScript file against the reference's.
fn check(name: &str, script: &[u8], cases: &SafeTensors, activation: Activation) -> usize {
    // As on the threads of the engine: the first runs would be profiled and recompiled.
    tch::jit::set_graph_executor_optimize(false);
    let grad_cam = GradCam::load(script, Device::Cpu).unwrap();
    let image = tensor(cases, "image").unwrap();
    let apart = (grad_cam.outputs(&image).unwrap() - tensor(cases, "outputs").unwrap()).abs().max();
    assert!(f64::try_from(apart).unwrap() < 1e-3, "{name}: another network");
    let columns: Vec<usize> = (0..tensor(cases, "outputs").unwrap().size()[1] as usize).collect();
    let mut targets: Vec<(String, Target)> = columns.iter().map(|c| (format!("map_{c}"), Target::Column(*c))).collect();
    if activation == Activation::LogSoftmax {
        targets.push(("confidence".into(), Target::Confidence));
    }
    let wanted: Vec<Target> = targets.iter().map(|(_, target)| *target).collect();
    let maps = grad_cam.maps(&image, &columns, activation, &wanted).unwrap();
    let mut compared = 0;
    for ((key, _), map) in targets.iter().zip(maps) {
        let expected = tensor(cases, key);
        assert_eq!(map.is_some(), expected.is_some(), "{name} {key}");
        let (Some(map), Some(expected)) = (map, expected) else { continue };
        let side = image.size()[2];
        let found = Tensor::from_slice(&map).view([side, side]);
        let apart = f64::try_from((&found - &expected).abs().max()).unwrap();
        let spread = f64::try_from(expected.std(true)).unwrap();
        eprintln!("{name} {key}: {apart:.1e} of a spread of {spread:.2}");
        assert!(apart <= TOLERANCE && spread > 0.05, "{name} {key}: {apart:e}, {spread}");
        compared += 1;
    }
    compared
}

#[test]
fn maps_are_pytorchs_whether_the_network_was_traced_here_or_there() {
    let folder = reference::run("grad_cam.py");
    let read = |name: &str, ending: &str| std::fs::read(folder.path().join(format!("{name}.{ending}"))).unwrap();
    let mut compared = 0;
    for (name, architecture, columns) in [
        ("resnet18", Architecture::Resnet18, 4),
        ("densenet121", Architecture::Densenet121, 4),
        ("efficientnet_b0", Architecture::EfficientnetB0, 4),
        ("xrv-race", Architecture::Resnet34, 3),
    ] {
        let cases = read(name, "cases.safetensors");
        let cases = SafeTensors::deserialize(&cases).unwrap();
        let logs = name == "xrv-race";
        let activation = if logs { Activation::LogSoftmax } else { Activation::LogitsSigmoid };
        compared += check(&format!("{name}, theirs"), &read(name, "pt"), &cases, activation);
        let width = Width { channels: 3, columns };
        let Parts { features, head } = load_native(&read(name, "safetensors"), architecture, width).unwrap();
        let head: Forward =
            if logs { sequence(vec![head, function(|xs| xs.f_log_softmax(1, Kind::Float))]) } else { head };
        let contract = Contract { channels: 3, ..Contract::preset("imagenet-rgb", 128).unwrap() };
        let script = saved(&trace(&sequence(vec![features, head]), &contract).unwrap());
        compared += check(&format!("{name}, ours"), &script, &cases, activation);
    }
    assert!(compared >= 20, "{compared} maps only");
}

/// Two outputs: how bright the brightest parts are, and the opposite.
fn finder() -> Forward {
    let mut store = VarStore::new(Device::Cpu);
    let p = store.root();
    let forward = sequence(vec![
        conv(&(&p / 0), 1, 2, 3, ConvOptions { padding: 1, ..ConvOptions::default() }).unwrap(),
        function(|xs| xs.f_sub_scalar(0.5)),
        relu(),
        global_mean(),
        linear(&(&p / 1), 2, 2).unwrap(),
    ]);
    {
        let _guard = tch::no_grad_guard();
        let variables = store.variables();
        let set = |name: &str, values: &[f32]| {
            let mut variable = variables[name].shallow_clone();
            variable.copy_(&Tensor::from_slice(values).view(&variable.size()[..]));
        };
        set("0.weight", &[[1.0 / 9.0; 9], [0.0; 9]].concat());
        set("1.weight", &[20.0, 0.0, -20.0, 0.0]);
        set("1.bias", &[1.0, -1.0]);
    }
    store.freeze();
    forward
}

/// A dark noisy image with a bright square of 5 pixels, and its centre.
fn planted(side: usize, centre: (usize, usize)) -> Vec<f32> {
    let noise = |at: usize| 0.2 * ((at * 7919 + 13) % 101) as f32 / 101.0;
    let near = |at: usize| (at / side).abs_diff(centre.0) <= 2 && (at % side).abs_diff(centre.1) <= 2;
    (0..side * side).map(|at| if near(at) { 0.95 } else { noise(at) }).collect()
}

fn package(folder: &Path, race: bool, script: &[u8]) -> crate::infer::Package {
    let weights = folder.join("network.pt");
    std::fs::write(&weights, script).unwrap();
    let larger = |card: String| {
        card.replace("size = 8", "size = 32").replace("activation = \"softmax\"", "activation = \"logits-softmax\"")
    };
    if race { race_with(folder, &weights, larger) } else { clinical_with(folder, &weights, larger) }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn both_methods_find_a_planted_signal_for_findings_and_for_all_groups_together() {
    let contract = Contract::preset("minmax-unit", 32).unwrap();
    let script = saved(&trace(&finder(), &contract).unwrap());
    for race in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), race, &script);
        let (key, contract) = (package.key(), package.contract.clone());
        let engine = Engine::start(vec![package], EngineOptions { batch_max: 4, ..EngineOptions::default() }).unwrap();
        for centre in [(6, 24), (20, 9), (16, 16)] {
            let input = ModelInput { contract: contract.digest(), plane: planted(32, centre) };
            let near = |map: &[f32], reach: usize| {
                let (row, column) = largest_at(map, 32);
                assert!(row.abs_diff(centre.0).max(column.abs_diff(centre.1)) <= reach, "{row} {column} {centre:?}");
            };
            let maps = block_on(engine.grad_cam(&key, input.clone())).unwrap();
            near(maps[0].as_ref().unwrap(), 2);
            // Nothing speaks for the opposite finding; the groups together have one map.
            assert_eq!((maps.len(), maps.get(1).map(Option::is_some)), if race { (1, None) } else { (2, Some(false)) });

            let occlusion = Occlusion::of(6, 2, Fill::Mean, 32);
            let mut changes = occlusion.changes(32);
            let base = block_on(engine.score(&key, input.clone())).unwrap();
            for place in occlusion.places(32) {
                let covered = occlusion.covered(&input, &contract, place);
                let scores = block_on(engine.score_covered(&key, covered)).unwrap();
                changes.note(place, if race { distance(&base, &scores) } else { base[0] - scores[0] });
            }
            near(&changes.map(), 4);
        }
    }
}

#[test]
fn the_order_of_groups_changes_nothing() {
    let contract = Contract::preset("minmax-unit", 32).unwrap();
    let grad_cam = GradCam::load(&saved(&trace(&finder(), &contract).unwrap()), Device::Cpu).unwrap();
    let image = Tensor::from_slice(&planted(32, (9, 9))).view([1, 1, 32, 32]);
    for activation in [Activation::LogitsSoftmax, Activation::LogSoftmax] {
        let map = |columns: &[usize]| grad_cam.maps(&image, columns, activation, &[Target::Confidence]).unwrap();
        let (one, other) = (map(&[0, 1]), map(&[1, 0]));
        let pairs = one[0].as_ref().unwrap().iter().zip(other[0].as_ref().unwrap());
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn each_output_of_a_network_with_branches_has_the_map_of_its_own_branch() {
    let mut store = VarStore::new(Device::Cpu);
    let p = store.root();
    let options = || ConvOptions { padding: 1, ..ConvOptions::default() };
    let [bright, dark] = ["bright", "dark"].map(|name| conv(&(&p / name), 1, 1, 3, options()).unwrap());
    tch::no_grad(|| store.variables().values_mut().for_each(|v| drop(v.fill_(1.0 / 9.0))));
    store.freeze();
    let forward: Forward = Box::new(move |xs: &Tensor, train| {
        let bright = bright(xs, train)?.f_mean_dim(&[2i64, 3][..], false, Kind::Float)?;
        let dark = dark(&xs.f_neg()?.f_add_scalar(1.0)?, train)?.f_mean_dim(&[2i64, 3][..], false, Kind::Float)?;
        Tensor::f_cat(&[bright, dark], 1)
    });
    let contract = Contract::preset("minmax-unit", 32).unwrap();
    let grad_cam = GradCam::load(&saved(&trace(&forward, &contract).unwrap()), Device::Cpu).unwrap();
    let image = Tensor::from_slice(&planted(32, (9, 9))).view([1, 1, 32, 32]);
    let targets = [Target::Column(0), Target::Column(1)];
    let maps = grad_cam.maps(&image, &[0, 1], Activation::LogitsSigmoid, &targets).unwrap();
    let [bright, dark] = [0, 1].map(|at: usize| maps[at].as_ref().unwrap());
    // A convolution of 3 within a square of 5: nine places are as bright as each other.
    let (row, column) = largest_at(bright, 32);
    assert!(row.abs_diff(9).max(column.abs_diff(9)) <= 1, "{row} {column}");
    assert!(dark[9 * 32 + 9] < 0.2 && dark.iter().any(|v| *v > 0.9));
}

/// A package with the network that finds a bright square, and its script.
fn finding(folder: &Path) -> (Vec<u8>, Package) {
    let script = saved(&trace(&finder(), &Contract::preset("minmax-unit", 32).unwrap()).unwrap());
    let package = package(folder, false, &script);
    (script, package)
}

#[test]
fn what_may_pass_does_not_switch_grad_cam_off() {
    let folder = tempfile::tempdir().unwrap();
    let (script, package) = finding(folder.path());
    let (key, weights) = (package.key(), package.weights_path.clone());
    let input = ModelInput { contract: package.contract.digest(), plane: planted(32, (9, 9)) };
    let engine = Engine::start(vec![package], EngineOptions::default()).unwrap();
    std::fs::remove_file(&weights).unwrap();
    let gone = block_on(engine.grad_cam(&key, input.clone()));
    assert!(gone.unwrap_err().to_string().contains("cannot be read"));
    std::fs::write(&weights, &script).unwrap();
    assert!(block_on(engine.grad_cam(&key, input)).is_ok());
}

#[test]
fn a_network_that_failed_is_not_read_again_for_each_map() {
    let folder = tempfile::tempdir().unwrap();
    let (script, package) = finding(folder.path());
    let (key, weights) = (package.key(), package.weights_path.clone());
    let input = ModelInput { contract: package.contract.digest(), plane: planted(32, (9, 9)) };
    let engine = Engine::start(vec![package], EngineOptions::default()).unwrap();
    std::fs::write(&weights, b"another file").unwrap();
    let error = || block_on(engine.grad_cam(&key, input.clone())).unwrap_err();
    let first = error();
    assert!(matches!(first, ExplainError::Failed(InferError::Torch(_))), "{first}");
    std::fs::write(&weights, &script).unwrap();
    let next = error();
    let expected = "not available because it failed within the last 60 s";
    assert!(next.to_string().starts_with(expected) && next.to_string().contains("changed since"), "{next}");
}

#[test]
fn a_network_without_a_feature_map_says_so() {
    let contract = Contract::preset("minmax-unit", 8).unwrap();
    let script = |forward: Forward| saved(&trace(&forward, &contract).unwrap());
    let means = script(function(|xs| xs.f_flatten(1, -1)?.f_narrow(1, 0, 2)));
    let reason = GradCam::load(&means, Device::Cpu).err().unwrap();
    assert!(matches!(&reason, ExplainError::Unavailable(why) if why.contains("no convolution")), "{reason}");

    let mut store = VarStore::new(Device::Cpu);
    let p = store.root();
    let pool = || function(|xs| xs.f_adaptive_avg_pool2d([1, 1]));
    let flat = || function(|xs| xs.f_flatten(1, -1));
    let point = conv(&(&p / 0), 1, 2, 1, ConvOptions::default()).unwrap();
    let beside = conv(&(&p / 1), 1, 2, 3, ConvOptions::default()).unwrap();
    store.freeze();
    let rows = [
        (sequence(vec![pool(), point, flat()]), "more than one pixel"),
        (
            // What the convolution says is thrown away.
            Box::new(move |xs: &Tensor, train| {
                let thrown = beside(xs, train)?.f_mean(Kind::Float)?.f_gt(1e9)?.f_to_kind(Kind::Float)?;
                xs.f_flatten(1, -1)?.f_narrow(1, 0, 2)?.f_add(&thrown)
            }) as Forward,
            "does not depend",
        ),
    ];
    let image = Tensor::rand([1, 1, 8, 8], (Kind::Float, Device::Cpu));
    for (forward, expected) in rows {
        let grad_cam = GradCam::load(&script(forward), Device::Cpu).unwrap();
        let error = grad_cam.maps(&image, &[0, 1], Activation::LogitsSigmoid, &[Target::Column(0)]).unwrap_err();
        assert!(matches!(&error, ExplainError::Unavailable(why) if why.contains(expected)), "{error}");
    }
}
