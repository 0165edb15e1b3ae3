//! Tests of `engine`: batching, isolation of bad inputs, start-up faults. They wait on answers, never on time.

use std::path::Path;

use tch::{CModule, Kind, Tensor};

use super::*;

/// Devices that fail, and inputs that make a network fail.
#[path = "engine_fault_tests.rs"]
mod faults;

use crate::domain::Digest;
use crate::infer::layers::{Forward, function, global_mean, small_network};
use crate::infer::manifest::fixtures::{clinical_with, race_with};

fn script(path: &Path, forward: &Forward) {
    let _guard = tch::no_grad_guard();
    let example = Tensor::rand([2, 1, 8, 8], (Kind::Float, tch::Device::Cpu));
    let mut run = |xs: &[Tensor]| vec![forward(&xs[0], false).unwrap()];
    CModule::create_by_tracing("Network", "forward", &[example], &mut run).unwrap().save(path).unwrap();
}

/// A small convolutional network with two outputs.
fn network() -> Forward {
    let mut store = tch::nn::VarStore::new(tch::Device::Cpu);
    let p = store.root();
    let forward = small_network(&p);
    store.freeze();
    forward
}

/// Logits log(mean) and 0: NaN where an image's mean is negative, −∞ at zero.
fn logarithm() -> Forward {
    function(|xs| {
        let log = xs.f_flatten(1, -1)?.f_mean_dim(1, true, Kind::Float)?.f_log()?;
        Tensor::f_cat(&[&log, &log.f_zeros_like()?], 1)
    })
}

fn options(batch_max: usize, batch_delay: Duration) -> EngineOptions {
    EngineOptions { batch_max, batch_delay, ..EngineOptions::default() }
}

fn package(dir: &Path, forward: &Forward) -> Package {
    let weights = dir.join("network.pt");
    script(&weights, forward);
    clinical_with(dir, &weights, |c| c)
}

fn input(package: &Package, value: f32) -> ModelInput {
    let values = (0..package.contract.plane_len()).map(|i| value * (1.0 + (i as f32).sin() * 0.5)).collect();
    ModelInput { contract: package.contract.digest(), plane: values }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Scores all inputs at once, in batches that are full or have waited; answers in their order.
async fn score_all(engine: &Engine, key: &str, inputs: Vec<ModelInput>) -> Vec<Result<Vec<f64>, InferError>> {
    let _coming = engine.announce();
    let mut tasks = Vec::new();
    for input in inputs {
        let (engine, key) = (engine.clone(), key.to_owned());
        tasks.push(tokio::spawn(async move { engine.score(&key, input).await }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

#[test]
fn a_full_batch_leaves_at_once_and_its_company_does_not_change_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &network());
    let inputs = || (1..=8).map(|i| input(&package, i as f32)).collect::<Vec<_>>();
    let day = Duration::from_secs(86_400);
    let (together, stats) = block_on(async {
        let engine = Engine::start(vec![package.clone()], options(8, day)).unwrap();
        (score_all(&engine, &package.key(), inputs()).await, engine.stats())
    });
    assert_eq!(stats, EngineStats { batches: 1, inputs: 8, errors: 0 });
    let alone = block_on(async {
        let engine = Engine::start(vec![package.clone()], options(1, day)).unwrap();
        let answers = score_all(&engine, &package.key(), inputs()).await;
        assert_eq!(engine.stats().batches, 8);
        answers
    });
    for (a, b) in together.iter().zip(&alone) {
        let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
        assert!(a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5), "{a:?} {b:?}");
    }
}

#[test]
fn what_is_announced_is_waited_for_and_more_than_the_queue_holds_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &network());
    block_on(async {
        let day = Duration::from_secs(86_400);
        let engine = Engine::start(vec![package.clone()], options(4, day)).unwrap();
        let key = package.key();
        assert!(engine.score(&key, input(&package, 1.0)).await.is_ok(), "alone, and nothing is on its way");
        let coming = engine.announce();
        let first = engine.submit(&key, input(&package, 1.0), Company::Any).await.unwrap();
        let second = engine.submit(&key, input(&package, 2.0), Company::Any).await.unwrap();
        drop(coming);
        assert!(first.answer().await.is_ok() && second.answer().await.is_ok());
        assert_eq!(engine.stats(), EngineStats { batches: 2, inputs: 3, errors: 0 });
        let many = (0..100).map(|i| input(&package, i as f32)).collect();
        assert!(score_all(&engine, &package.key(), many).await.iter().all(Result::is_ok));
        assert_eq!(engine.stats(), EngineStats { batches: 27, inputs: 103, errors: 0 });
    });
}

#[test]
fn a_bad_input_has_an_error_of_its_own_and_its_company_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &logarithm());
    let good = || input(&package, 1.0);
    let with = |change: &dyn Fn(&mut ModelInput)| {
        let mut input = good();
        change(&mut input);
        input
    };
    let inputs = vec![
        good(),
        input(&package, -1.0),
        with(&|i| i.contract = Digest::of(b"another")),
        with(&|i| i.plane.truncate(63)),
        with(&|i| i.plane[3] = f32::NAN),
        good(),
    ];
    let (answers, unknown, stats) = block_on(async {
        let engine = Engine::start(vec![package.clone()], options(6, Duration::from_secs(86_400))).unwrap();
        let answers = score_all(&engine, &package.key(), inputs).await;
        (answers, engine.score("other@1#0", good()).await, engine.stats())
    });
    assert!(answers[0].is_ok() && answers[0] == answers[5], "{answers:?}");
    assert_eq!(answers[1], Err(InferError::BadOutput("it is not finite".into())));
    assert_eq!(answers[2], Err(InferError::WrongContract));
    assert_eq!(answers[3], Err(InferError::WrongLength { given: 63, expected: 64 }));
    assert_eq!(answers[4], Err(InferError::InputNotFinite));
    assert_eq!(unknown, Err(InferError::UnknownModel("other@1#0".into())));
    assert_eq!(stats, EngineStats { batches: 1, inputs: 6, errors: 4 });
}

#[test]
fn two_models_answer_side_by_side_each_in_its_own_batches() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clinical = package(one.path(), &network());
    let weights = two.path().join("network.pt");
    script(&weights, &network());
    let race = race_with(two.path(), &weights, |c| {
        c.replace("\"softmax\"", "\"logits-softmax\"").replace("2.25.1", "2.25.2").replace("2.1.0", "3.0.0")
    });
    block_on(async {
        let engine = Engine::start(vec![race.clone(), clinical.clone()], options(4, Duration::from_millis(1))).unwrap();
        assert_eq!(engine.device(), "cpu");
        let clinical_inputs = (0..9).map(|i| input(&clinical, i as f32)).collect();
        let race_inputs = (0..9).map(|i| input(&race, i as f32)).collect();
        let (clinical_key, race_key) = (clinical.key(), race.key());
        let (a, b) = tokio::join!(
            score_all(&engine, &clinical_key, clinical_inputs),
            score_all(&engine, &race_key, race_inputs)
        );
        assert!(a.iter().all(Result::is_ok));
        for answer in b {
            assert!((answer.unwrap().iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    });
}

#[test]
fn an_abandoned_request_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &network());
    block_on(async {
        let engine = Engine::start(vec![package.clone()], options(2, Duration::from_secs(86_400))).unwrap();
        let key = package.key();
        let _coming = engine.announce();
        let mut abandoned = Box::pin(engine.score(&key, input(&package, 1.0)));
        // Polled once, it is in the queue; then its caller goes away.
        assert!(tokio::time::timeout(Duration::ZERO, &mut abandoned).await.is_err());
        drop(abandoned);
        assert!(engine.score(&key, input(&package, 2.0)).await.is_ok());
        assert_eq!(engine.stats().inputs, 1);
    });
}

#[test]
fn faults_of_models_and_devices_are_said_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let good = package(dir.path(), &network());
    let other = tempfile::tempdir().unwrap();
    let wrong = package(other.path(), &global_mean());
    let start = |packages, device| {
        let options = EngineOptions { devices: vec![device], ..options(1, Duration::ZERO) };
        Engine::start(packages, options).map(|_| ()).unwrap_err().to_string()
    };
    let error = start(vec![good.clone(), wrong], config::Device::Cpu);
    assert!(error.starts_with("model site-chest does not keep what its card says: "), "{error}");
    assert!(error.contains("its shape is [1, 1]"), "{error}");
    let error = start(vec![good.clone()], config::Device::Cuda(4096));
    assert!(error.starts_with("device cuda:4096 cannot be used: "), "{error}");
    std::fs::write(&good.weights_path, b"other bytes").unwrap();
    assert!(start(vec![good], config::Device::Cpu).contains("changed since its hash was checked"));
}

#[test]
fn a_deterministic_engine_gives_the_same_bits_in_any_order_and_company() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &network());
    let scores = |order: Vec<usize>| -> Vec<Vec<u64>> {
        block_on(async {
            let options = EngineOptions { deterministic: true, threads: 2, ..options(8, Duration::from_millis(1)) };
            let engine = Engine::start(vec![package.clone()], options).unwrap();
            let inputs = order.iter().map(|i| input(&package, *i as f32)).collect();
            let answers = score_all(&engine, &package.key(), inputs).await;
            assert_eq!(engine.stats().batches, order.len() as u64);
            let mut bits: Vec<(usize, Vec<u64>)> = order
                .iter()
                .zip(answers)
                .map(|(i, answer)| (*i, answer.unwrap().iter().map(|v| v.to_bits()).collect()))
                .collect();
            bits.sort();
            bits.into_iter().map(|(_, bits)| bits).collect()
        })
    };
    assert_eq!(scores((0..20).collect()), scores((0..20).rev().collect()));
}

#[test]
fn what_was_not_given_is_measured_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &network());
    let engine = Engine::start(vec![package], options(0, Duration::ZERO)).unwrap();
    let [placement] = engine.placements() else { panic!("{:?}", engine.placements()) };
    assert_eq!((placement.model.as_str(), placement.device.as_str()), ("site-chest", "cpu"));
    assert_eq!(placement.precision, Precision::Fp32);
    assert!((1..=16).contains(&placement.batch_max) && placement.batch_max.is_power_of_two(), "{placement:?}");
}
