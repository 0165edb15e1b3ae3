//! Which precision a model computes in on a device, how many images at once, and the proof that it may.
//!
//! fp32 is what a card describes. A reduced precision is used where `models.precision` asks for it and the card permits
//! it, and only after its scores on fixed images kept the card's tolerance beside those in fp32. Neighbours: `torch`
//! loads, `probe` has the images, `engine` calls [`load`] for each model on each device.

use std::time::{Duration, Instant};

use tch::Device;
use tracing::warn;

use crate::config::PrecisionChoice;
use crate::domain::Precision;

use super::card::PrecisionCard;
use super::device::device_name;
use super::error::{EngineError, InferError};
use super::manifest::Package;
use super::probe;
use super::torch::LoadedModel;

/// Fixed images whose scores are compared.
const IMAGES: usize = 8;
/// Where a batch size is measured: the largest that is tried. Beyond these a batch only waits longer.
const BATCH_MAX_CPU: usize = 16;
const BATCH_MAX_CUDA: usize = 128;
/// A precision that takes more than this share of the time is not worth its loss.
const GAIN: f64 = 0.95;
/// How many tolerances a threshold has to lie from 0 and 1.
const THRESHOLD_MARGIN: f64 = 2.0;
/// A batch that takes less than this share of the time per image is worth its memory.
const BATCH_GAIN: f64 = 0.97;
/// A start need not take longer for the sake of a model's batches.
const MEASURING_MAX: Duration = Duration::from_secs(20);
/// Runs of which the fastest counts.
const RUNS: usize = 2;

/// The package on the device in the precision that the choice and its card come to, warmed up and held against its card.
pub(super) fn load(
    package: &Package,
    script: &[u8],
    device: Device,
    choice: PrecisionChoice,
) -> Result<LoadedModel, EngineError> {
    let exact = LoadedModel::load(package, script, device, Precision::Fp32)?;
    exact.warm_up()?;
    let mut chosen = None;
    let mut candidates = candidates(package, device, choice);
    if !exact.is_frozen() && !candidates.is_empty() {
        warn!(model = package.identity.name, "a network that cannot be frozen computes in fp32");
        candidates.clear();
    }
    for card in candidates {
        let fail = |reason: String| EngineError::Precision {
            model: package.identity.name.clone(),
            precision: card.kind.as_str(),
            reason,
        };
        let reduced = LoadedModel::load(package, script, device, card.kind)?;
        keeps(&exact, &reduced, card.score_tolerance).map_err(fail)?;
        let faster = |than: &LoadedModel| -> Result<bool, InferError> {
            let images = IMAGES / 2;
            Ok(seconds_per_image(&reduced, images)? < GAIN * seconds_per_image(than, images)?)
        };
        let fastest = choice == PrecisionChoice::Fastest;
        if !fastest || faster(chosen.as_ref().unwrap_or(&exact)).map_err(|e| fail(e.to_string()))? {
            chosen = Some(reduced);
        }
    }
    Ok(chosen.unwrap_or(exact))
}

/// The number of images per batch: `given`, or where that is 0 the smallest that is about as fast as any; and what such a
/// batch takes. One that the device has no memory for is halved.
pub(super) fn batch_max(model: &LoadedModel, given: usize) -> Result<(usize, Duration), EngineError> {
    let fail = |error: InferError| EngineError::WarmUp {
        model: model.package().identity.name.clone(),
        reason: error.to_string(),
    };
    let largest = if model.device() == Device::Cpu { BATCH_MAX_CPU } else { BATCH_MAX_CUDA };
    if given == 0 {
        let fastest = fastest_batch(largest, MEASURING_MAX, |images| seconds_per_image(model, images)).map_err(fail);
        return fastest.map(|(images, seconds)| (images, Duration::from_secs_f64(images as f64 * seconds)));
    }
    let mut images = given;
    loop {
        let start = Instant::now();
        match run(model, images) {
            Ok(()) => return Ok((images, start.elapsed())),
            Err(InferError::OutOfMemory(reason)) if images > 1 => {
                let model = &model.package().identity.name;
                warn!(
                    model,
                    images, reason, "models.batch_max is more than the device has memory for; half of it is tried"
                );
                images /= 2;
            }
            Err(error) => return Err(fail(error)),
        }
    }
}

/// The smallest size that is about as fast as any, and its time per image. Sizes double until two in a row bring
/// nothing, or measuring has taken so long.
fn fastest_batch(
    largest: usize,
    measuring_max: Duration,
    seconds: impl Fn(usize) -> Result<f64, InferError>,
) -> Result<(usize, f64), InferError> {
    let start = Instant::now();
    let mut tried = vec![(1, seconds(1)?)];
    let (mut fastest, mut in_vain) = (tried[0].1, 0);
    let mut images = 2;
    while images <= largest && in_vain < 2 && start.elapsed() < measuring_max {
        let found = match seconds(images) {
            Ok(found) => found,
            Err(InferError::OutOfMemory(_)) => break,
            Err(error) => return Err(error),
        };
        in_vain = if found < 0.99 * fastest { 0 } else { in_vain + 1 };
        fastest = fastest.min(found);
        tried.push((images, found));
        images *= 2;
    }
    let about = |(_, seconds): &(usize, f64)| BATCH_GAIN * seconds <= fastest;
    Ok(tried.iter().copied().find(about).unwrap_or(tried[0]))
}

fn candidates(package: &Package, device: Device, choice: PrecisionChoice) -> Vec<PrecisionCard> {
    let keeps_thresholds = |p: &&PrecisionCard| {
        let near = near_a_threshold(package, p.score_tolerance);
        if let Some(finding) = &near {
            let (model, precision) = (&package.identity.name, p.kind.as_str());
            warn!(
                model,
                precision, finding, "scores may move across the finding's threshold; the model computes in fp32"
            );
        }
        near.is_none()
    };
    match choice {
        PrecisionChoice::Named(Precision::Fp32) => Vec::new(),
        PrecisionChoice::Named(kind) => {
            let permitted: Vec<_> = package.precisions.iter().copied().filter(|p| p.kind == kind).collect();
            if permitted.is_empty() {
                let (model, asked) = (&package.identity.name, kind.as_str());
                warn!(model, asked, "the model's card does not permit the precision; it computes in fp32");
            }
            permitted.iter().filter(keeps_thresholds).copied().collect()
        }
        PrecisionChoice::Fastest => {
            let is_fast = |p: &&PrecisionCard| device != Device::Cpu || cpu_computes(p.kind);
            package.precisions.iter().filter(is_fast).filter(keeps_thresholds).copied().collect()
        }
    }
}

/// A finding whose threshold lies so near 0 or 1 that scores within the tolerance say nothing of it.
fn near_a_threshold(package: &Package, tolerance: f64) -> Option<String> {
    let is_near = |threshold: f64| threshold.min(1.0 - threshold) < THRESHOLD_MARGIN * tolerance;
    package.findings().iter().find(|finding| is_near(finding.threshold.get())).map(|finding| finding.key.clone())
}

/// Whether the processor has instructions for it: without them libtorch computes correctly, and far slower than in fp32.
fn cpu_computes(kind: Precision) -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // x86 and ARM
    let flags: &[&str] = match kind {
        Precision::Fp32 => return true,
        Precision::Bf16 => &["amx_bf16", "avx512_bf16", "bf16"],
        Precision::Fp16 => &["amx_fp16", "avx512_fp16", "asimdhp"],
    };
    let has = |line: &str| line.split_whitespace().any(|word| flags.contains(&word));
    info.lines().filter(|l| l.starts_with("flags") || l.starts_with("Features")).any(has)
}

/// Both give the fixed images, together and one by one, about the same scores.
fn keeps(exact: &LoadedModel, reduced: &LoadedModel, tolerance: f64) -> Result<(), String> {
    let images: Vec<Vec<f32>> = (2..2 + IMAGES).map(|i| probe::image(&exact.package().contract, i)).collect();
    let images: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
    let scores = |model: &LoadedModel, images: &[&[f32]]| -> Result<Vec<Vec<f64>>, String> {
        model.forward(images).and_then(|rows| rows.into_iter().collect()).map_err(|e| e.to_string())
    };
    let expected = scores(exact, &images)?;
    let mut found = scores(reduced, &images)?;
    found.extend(scores(reduced, &images[..1])?);
    let pairs = found.iter().zip(expected.iter().chain(&expected[..1]));
    // An out-of-distribution score, which stands behind the probabilities, may be large.
    let apart = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1.0);
    let apart = pairs.flat_map(|(a, b)| a.iter().zip(b)).map(apart).fold(0.0, f64::max);
    if apart > tolerance {
        return Err(format!(
            "a score of {} is {apart:.4} from that in fp32, the card allows {tolerance}",
            device_name(exact.device())
        ));
    }
    Ok(())
}

/// The fastest of some runs. The answers come back to the processor, so a GPU has finished then.
fn seconds_per_image(model: &LoadedModel, images: usize) -> Result<f64, InferError> {
    let mut fastest = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        run(model, images)?;
        fastest = fastest.min(start.elapsed().as_secs_f64() / images as f64);
    }
    Ok(fastest)
}

fn run(model: &LoadedModel, images: usize) -> Result<(), InferError> {
    let image = probe::image(&model.package().contract, 2);
    model.forward(&vec![image.as_slice(); images]).map(drop)
}

#[cfg(test)]
#[path = "precision_tests.rs"]
mod tests;
