//! Tests of `engine` and `worker`: several devices, want of memory, inputs and devices that fail.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Condvar, Mutex};
use std::thread::ThreadId;

use tch::TchError;

use super::*;
use crate::infer::manifest::fixtures::clinical_package;

const DAY: Duration = Duration::from_secs(86_400);

/// What a test's network does; it answers two logits of 0 per image otherwise.
type Act = Arc<dyn Fn(&Tensor) -> Result<(), TchError> + Send + Sync>;

/// An engine on so many threads of the CPU, with a network that is no file.
fn start(package: &Package, devices: usize, options: EngineOptions, act: Act) -> Result<Engine, EngineError> {
    start_with(package, devices, options, BATCH_LIMIT, act)
}

/// The same, where a batch may take so long.
fn start_with(
    package: &Package,
    devices: usize,
    options: EngineOptions,
    least: Duration,
    act: Act,
) -> Result<Engine, EngineError> {
    let of = package.clone();
    let load = move |_| {
        let act = Arc::clone(&act);
        let forward: Forward = Box::new(move |xs, _| {
            act(xs)?;
            Tensor::f_zeros([xs.size()[0], 2], (Kind::Float, tch::Device::Cpu))
        });
        Ok(vec![LoadedModel::of(of.clone(), forward)])
    };
    let options = EngineOptions { devices: vec![config::Device::Cpu; devices], ..options };
    Engine::with(std::slice::from_ref(package), options, least, Arc::new(load))
}

/// Whether an image of the batch has this value in its first pixel; the images of the start have 0 to 1.
fn has(xs: &Tensor, marker: f64) -> bool {
    let firsts = Vec::<f64>::try_from(xs.flatten(1, -1).select(1, 0).to_kind(Kind::Double)).unwrap();
    firsts.contains(&marker)
}

fn marked(package: &Package, marker: f32) -> ModelInput {
    ModelInput { contract: package.contract.digest(), plane: vec![marker; package.contract.plane_len()] }
}

#[test]
fn every_device_scores_an_image_at_the_start_and_none_idles_while_another_has_work() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    let seen: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
    let met = Arc::new((Mutex::new(0), Condvar::new()));
    let (by, meeting) = (Arc::clone(&seen), Arc::clone(&met));
    let act: Act = Arc::new(move |xs| {
        by.lock().unwrap().insert(std::thread::current().id());
        if !has(xs, 7.0) {
            return Ok(());
        }
        // Goes on once two devices are here at the same time.
        let mut here = meeting.0.lock().unwrap();
        *here += 1;
        meeting.1.notify_all();
        let limit = Duration::from_secs(60);
        let (here, _) = meeting.1.wait_timeout_while(here, limit, |here| *here < 2).unwrap();
        if *here < 2 { Err(TchError::Convert("the other device idles".into())) } else { Ok(()) }
    });
    block_on(async {
        let engine = start(&package, 2, options(1, DAY), act).unwrap();
        assert_eq!((engine.device(), engine.placements().len()), ("cpu,cpu", 2));
        assert_eq!(seen.lock().unwrap().len(), 2, "threads that scored an image");
        assert_eq!(engine.stats(), EngineStats::default());
        let answers = score_all(&engine, &package.key(), vec![marked(&package, 7.0); 2]).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(engine.stats(), EngineStats { batches: 2, inputs: 2, errors: 0 });
    });
}

/// A network that looks up the whole part of an image's mean in a table of two rows, and throws beyond it.
fn table() -> Forward {
    let table = Tensor::from_slice2(&[[0f32, 1.0], [2.0, 3.0]]);
    function(move |xs| {
        let mean = xs.f_flatten(1, -1)?.f_mean_dim(1, false, Kind::Float)?;
        table.f_index_select(0, &mean.f_to_kind(Kind::Int64)?)
    })
}

#[test]
fn a_torchscript_that_throws_on_a_value_fails_for_that_image_alone() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), &table());
    let inputs: Vec<_> = (0..16).map(|i| marked(&package, if i % 7 == 3 { 2.5 } else { (i % 2) as f32 })).collect();
    block_on(async {
        let engine = Engine::start(vec![package.clone()], options(16, DAY)).unwrap();
        let answers = score_all(&engine, &package.key(), inputs).await;
        for (i, answer) in answers.iter().enumerate() {
            match answer {
                Err(InferError::Torch(reason)) => {
                    assert!(i % 7 == 3 && reason.contains("index out of range"), "{reason}")
                }
                Ok(scores) => assert!(i % 7 != 3 && (scores[0] > 0.6) == (i % 2 == 1), "{i}: {scores:?}"),
                Err(other) => panic!("{i}: {other}"),
            }
        }
        assert_eq!(engine.stats(), EngineStats { batches: 1, inputs: 16, errors: 2 });
    });
}

#[test]
fn a_poisoned_input_is_found_by_halving() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let act: Act = Arc::new(move |xs| {
        counted.fetch_add(1, Ordering::Relaxed);
        if has(xs, 7.0) { Err(TchError::Convert("poison".into())) } else { Ok(()) }
    });
    block_on(async {
        let engine = start(&package, 1, options(64, DAY), act).unwrap();
        let inputs = (0..64).map(|i| marked(&package, if i == 41 { 7.0 } else { 0.5 })).collect();
        let before = runs.load(Ordering::Relaxed);
        let answers = score_all(&engine, &package.key(), inputs).await;
        let failed: Vec<usize> = answers.iter().enumerate().filter(|(_, a)| a.is_err()).map(|(i, _)| i).collect();
        assert_eq!(failed, [41]);
        // the batch, two halves at each of six levels, and the image that shows that the device still computes
        assert_eq!(runs.load(Ordering::Relaxed) - before, 1 + 2 * 6 + 1);
    });
}

#[test]
fn want_of_memory_halves_the_batch_and_the_smaller_size_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    let (capacity, failures) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(AtomicUsize::new(0)));
    let (fits, failed) = (Arc::clone(&capacity), Arc::clone(&failures));
    let act: Act = Arc::new(move |xs| {
        if xs.size()[0] as usize <= fits.load(Ordering::Relaxed) {
            return Ok(());
        }
        failed.fetch_add(1, Ordering::Relaxed);
        // More than any address space: libtorch's allocator says so, in its own words.
        Tensor::f_zeros([1 << 50], (Kind::Float, tch::Device::Cpu)).map(drop)
    });
    block_on(async {
        let engine = start(&package, 1, options(16, DAY), Arc::clone(&act)).unwrap();
        let key = package.key();
        let round = || score_all(&engine, &key, (0..16).map(|_| marked(&package, 0.5)).collect());
        capacity.store(5, Ordering::Relaxed);
        assert!(round().await.iter().all(Result::is_ok));
        assert_eq!((failures.load(Ordering::Relaxed), engine.stats().batches), (2, 1), "sixteen, eight, then four");
        assert!(round().await.iter().all(Result::is_ok));
        assert_eq!((failures.load(Ordering::Relaxed), engine.stats().batches), (2, 5), "four at once");
        assert_eq!(engine.states()[0].batch_images, 4);
        capacity.store(0, Ordering::Relaxed);
        let answers = round().await;
        let reasons = answers.into_iter().map(Result::unwrap_err);
        for reason in reasons {
            let InferError::OutOfMemory(text) = reason else { panic!("{reason}") };
            assert!(text.contains("can't allocate memory"), "{text}");
        }
    });
    // A size that never fits is found out at the start.
    capacity.store(5, Ordering::Relaxed);
    let engine = start(&package, 1, options(16, DAY), act).unwrap();
    assert_eq!(engine.placements()[0].batch_max, 4);
}

#[test]
fn a_device_that_computes_no_more_ends_the_engine_and_nobody_waits_in_vain() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    for panics in [false, true] {
        let broken = Arc::new(AtomicBool::new(false));
        let breaks = Arc::clone(&broken);
        let act: Act = Arc::new(move |_| match breaks.load(Ordering::Relaxed) {
            true if panics => panic!("a fault of the code"),
            true => Err(TchError::Convert("CUDA error: unspecified launch failure".into())),
            false => Ok(()),
        });
        block_on(async {
            let engine = start(&package, 2, options(1, DAY), act).unwrap();
            assert!(engine.score(&package.key(), marked(&package, 0.5)).await.is_ok());
            let mut ended = Box::pin(engine.ended());
            assert!(tokio::time::timeout(Duration::ZERO, &mut ended).await.is_err());
            broken.store(true, Ordering::Relaxed);
            let answers = score_all(&engine, &package.key(), vec![marked(&package, 0.5); 3]).await;
            // At most one on each device, which was alone there, has an error of its own.
            let own = answers.iter().filter(|a| matches!(a, Err(InferError::Torch(_)))).count();
            let stopped = answers.iter().filter(|a| **a == Err(InferError::Stopped)).count();
            assert!(own <= if panics { 0 } else { 2 } && own + stopped == 3, "{answers:?}");
            ended.await;
            assert_eq!(engine.score(&package.key(), marked(&package, 0.5)).await, Err(InferError::Stopped));
        });
    }
}

#[test]
fn an_image_that_fails_does_not_condemn_a_device_whose_network_cannot_have_black() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    let act: Act = Arc::new(|xs| match has(xs, 0.0) || has(xs, 7.0) {
        true => Err(TchError::Convert("it throws".into())),
        false => Ok(()),
    });
    block_on(async {
        let engine = start(&package, 1, options(4, DAY), act).unwrap();
        let key = package.key();
        let score = |marker| engine.score(&key, marked(&package, marker));
        assert!(matches!(score(7.0).await, Err(InferError::Torch(_))));
        assert!(score(0.5).await.is_ok(), "the device is not lost");
    });
}

#[test]
fn an_image_that_breaks_the_device_is_told_so_if_it_had_no_company() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    for company in [Company::Nobody, Company::Any] {
        let broken = Arc::new(AtomicBool::new(false));
        let act: Act = Arc::new(move |xs| match broken.fetch_or(has(xs, 7.0), Ordering::Relaxed) || has(xs, 7.0) {
            true => Err(TchError::Convert("CUDA error: device-side assert triggered".into())),
            false => Ok(()),
        });
        block_on(async {
            let engine = start(&package, 1, options(2, DAY), act).unwrap();
            let coming = engine.announce();
            let key = package.key();
            let other = engine.submit(&key, marked(&package, 0.5), Company::Any).await.unwrap();
            let bad = engine.submit(&key, marked(&package, 7.0), company).await.unwrap();
            drop(coming);
            let (other, bad) = (other.answer().await, bad.answer().await);
            engine.ended().await;
            if company == Company::Any {
                assert_eq!((other, bad), (Err(InferError::Stopped), Err(InferError::Stopped)));
            } else {
                assert!(other.is_ok() && matches!(bad, Err(InferError::Torch(_))), "{other:?} {bad:?}");
            }
        });
    }
}

#[test]
fn a_batch_that_does_not_come_back_ends_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let waits = Arc::clone(&gate);
    let act: Act = Arc::new(move |xs| {
        if has(xs, 7.0) {
            drop(waits.1.wait_while(waits.0.lock().unwrap(), |open| !*open).unwrap());
        }
        Ok(())
    });
    block_on(async {
        let engine = start_with(&package, 1, options(1, DAY), Duration::from_millis(100), act).unwrap();
        let key = package.key();
        let score = |marker| engine.score(&key, marked(&package, marker));
        assert!(score(0.5).await.is_ok());
        assert_eq!(tokio::join!(score(7.0), score(0.5)), (Err(InferError::Stopped), Err(InferError::Stopped)));
        engine.ended().await;
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
    });
}

#[test]
fn a_device_without_memory_is_sound_again_when_it_scores_an_image_that_nobody_sent() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    let full = Arc::new(AtomicBool::new(false));
    let is_full = Arc::clone(&full);
    let act: Act = Arc::new(move |_| match is_full.load(Ordering::Relaxed) {
        true => Err(TchError::Torch("CUDA out of memory".into())),
        false => Ok(()),
    });
    block_on(async {
        let engine = start_with(&package, 1, options(1, DAY), Duration::from_millis(100), act).unwrap();
        assert!(engine.is_sound());
        full.store(true, Ordering::Relaxed);
        let answer = engine.score(&package.key(), marked(&package, 0.5)).await;
        assert!(matches!(answer, Err(InferError::OutOfMemory(_))) && !engine.is_sound());
        assert!(!engine.states()[0].is_sound);
        full.store(false, Ordering::Relaxed);
        while !engine.is_sound() {
            tokio::task::yield_now().await;
        }
    });
}
