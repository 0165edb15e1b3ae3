//! The training loop: Adam, learning rate reduced on a plateau, early stop, the best checkpoint kept.
//!
//! Cross entropy for groups, binary cross entropy per finding (rows whose truth is not known count nothing). Batch
//! order, augmentation and first weights come from one seeded generator, dropout from libtorch's, seeded too.
//! Neighbours: `data`, `nets`, `augment`; `evaluate` measures the result. Left out: what the images are.

use anyhow::ensure;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Reduction, Tensor};

use crate::domain::Purpose;
use crate::infer;
use crate::stats;

use super::augment::augment;
use super::data::Dataset;
use super::evaluate::activation;
use super::nets::{Network, NetworkKind};
use super::progress::Event;
use super::recipe::{Augment, Training};
use super::split::Split;

/// How to train.
#[derive(Debug, Clone, Copy)]
pub struct FitOptions {
    pub network: NetworkKind,
    pub training: Training,
    pub augment: Augment,
    /// Weigh classes by inverse frequency.
    pub balance: bool,
    pub seed: u64,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochReport {
    /// From 1.
    pub epoch: usize,
    pub learning_rate: f64,
    /// Mean over the training images, augmented, while weights changed.
    pub train_loss: f64,
    pub validation_loss: f64,
    /// Per output, one against the rest, image level.
    pub validation_auc: Vec<f64>,
    /// Whether the validation loss was the lowest so far.
    pub best: bool,
}

/// A trained network with the weights of its best epoch.
#[derive(Debug)]
pub struct Fitted {
    pub network: Network,
    pub epochs: Vec<EpochReport>,
}

/// Trains a network on `split.train`, watching `split.validation`.
pub fn fit(
    dataset: &Dataset,
    split: &Split,
    options: &FitOptions,
    device: Device,
    progress: &(dyn Fn(Event) + Sync),
) -> anyhow::Result<Fitted> {
    let t = &options.training;
    tch::manual_seed(i64::from_ne_bytes(options.seed.to_ne_bytes()));
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let outputs = dataset.outputs as i64;
    let network = Network::new(options.network, dataset.channels(), outputs, device, &mut rng)?;
    let mut best = Network::new(options.network, dataset.channels(), outputs, device, &mut rng)?;
    let mut optimiser =
        nn::Adam { wd: t.weight_decay, ..nn::Adam::default() }.build(&network.store, t.learning_rate)?;
    let loss = Loss::new(dataset, &split.train, options.balance, device)?;
    let mut schedule = Schedule::new(t);
    let mut epochs: Vec<EpochReport> = Vec::new();
    let mut order = split.train.clone();
    for epoch in 1..=t.epochs {
        order.shuffle(&mut rng);
        let learning_rate = schedule.learning_rate;
        optimiser.set_lr(learning_rate);
        let total = order.len().div_ceil(t.batch) as u64;
        let (mut sum, mut seen) = (0.0, 0usize);
        for (i, positions) in order.chunks(t.batch).enumerate() {
            // Batch statistics of one image say nothing.
            if positions.len() < 2 && total > 1 {
                continue;
            }
            let batch = dataset.batch(positions)?.f_to_device(device)?;
            let logits = (network.forward)(&augment(&batch, &options.augment, &mut rng)?, true)?;
            let value = loss.of(&logits, dataset, positions)?;
            optimiser.zero_grad();
            value.f_backward()?;
            optimiser.step();
            let now = f64::try_from(&value)?;
            ensure!(now.is_finite(), "the loss is not finite in epoch {epoch}: lower training.learning_rate");
            sum += now * positions.len() as f64;
            seen += positions.len();
            progress(Event::Batch { epoch, epochs: t.epochs, done: i as u64 + 1, total, loss: sum / seen as f64 });
        }
        let logits = predict(&network, dataset, &split.validation, device)?;
        let validation_loss =
            tch::no_grad(|| loss.of(&logits, dataset, &split.validation)).and_then(|v| Ok(f64::try_from(&v)?))?;
        let is_best = schedule.step(validation_loss);
        if is_best {
            best.store.copy(&network.store)?;
        }
        let report = EpochReport {
            epoch,
            learning_rate,
            train_loss: sum / seen.max(1) as f64,
            validation_loss,
            validation_auc: aucs(&logits, dataset, &split.validation)?,
            best: is_best,
        };
        epochs.push(report.clone());
        progress(Event::Epoch(report));
        if schedule.is_over() {
            break;
        }
    }
    best.store.freeze();
    Ok(Fitted { network: best, epochs })
}

/// Logits of the samples at these positions, one row each, on the CPU.
pub(super) fn predict(
    network: &Network,
    dataset: &Dataset,
    positions: &[usize],
    device: Device,
) -> anyhow::Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let mut rows = Vec::new();
    for chunk in positions.chunks(64) {
        let batch = dataset.batch(chunk)?.f_to_device(device)?;
        rows.push((network.forward)(&batch, false)?.f_to_device(Device::Cpu)?);
    }
    ensure!(!rows.is_empty(), "there are no images to predict");
    Ok(Tensor::f_cat(&rows, 0)?)
}

/// Rows of a matrix of logits.
pub(super) fn rows(logits: &Tensor) -> anyhow::Result<Vec<Vec<f64>>> {
    Ok(Vec::<Vec<f64>>::try_from(&logits.f_to_kind(Kind::Double)?)?)
}

fn aucs(logits: &Tensor, dataset: &Dataset, positions: &[usize]) -> anyhow::Result<Vec<f64>> {
    let probabilities = rows(logits)?
        .iter()
        .map(|row| infer::probabilities(activation(dataset.purpose), row))
        .collect::<Result<Vec<_>, _>>()?;
    let one = |i: usize| {
        let images = probabilities.iter().zip(positions);
        let known = images.filter_map(|(row, p)| Some((row[i], dataset.samples[*p].target.is(i)?)));
        let (scores, truth): (Vec<f64>, Vec<bool>) = known.unzip();
        stats::auc(&scores, &truth).unwrap_or(f64::NAN)
    };
    Ok((0..dataset.outputs).map(one).collect())
}

/// The loss of a batch.
struct Loss {
    purpose: Purpose,
    /// Per group, or per finding the weight of its presence.
    weights: Option<Tensor>,
    device: Device,
}

impl Loss {
    fn new(dataset: &Dataset, train: &[usize], balance: bool, device: Device) -> anyhow::Result<Self> {
        let weights = balance.then(|| {
            let count = |i: usize, value: bool| {
                train.iter().filter(|p| dataset.samples[**p].target.is(i) == Some(value)).count().max(1) as f32
            };
            let weight = |i: usize| match dataset.purpose {
                Purpose::Race => train.len() as f32 / (dataset.outputs as f32 * count(i, true)),
                Purpose::Clinical => count(i, false) / count(i, true),
            };
            (0..dataset.outputs).map(weight).collect::<Vec<f32>>()
        });
        let weights = match weights {
            Some(values) => Some(Tensor::f_from_slice(&values)?.f_to_device(device)?),
            None => None,
        };
        Ok(Self { purpose: dataset.purpose, weights, device })
    }

    fn of(&self, logits: &Tensor, dataset: &Dataset, positions: &[usize]) -> anyhow::Result<Tensor> {
        let (targets, mask) = dataset.targets(positions)?;
        let device = logits.device();
        let targets = targets.f_to_device(device)?;
        let weights = match &self.weights {
            Some(w) if device != self.device => Some(w.f_to_device(device)?),
            other => other.as_ref().map(Tensor::shallow_clone),
        };
        if self.purpose == Purpose::Race {
            return Ok(logits.f_cross_entropy_loss(&targets, weights.as_ref(), Reduction::Mean, -100, 0.0)?);
        }
        let mask = mask.map(|m| m.f_to_device(device)).transpose()?;
        let losses =
            logits.f_binary_cross_entropy_with_logits(&targets, mask.as_ref(), weights.as_ref(), Reduction::Sum)?;
        let known = match &mask {
            Some(mask) => f64::try_from(mask.f_sum(Kind::Double)?)?.max(1.0),
            None => targets.numel() as f64,
        };
        Ok(losses.f_div_scalar(known)?)
    }
}

/// Learning rate and end of training, from the validation losses.
struct Schedule {
    training: Training,
    learning_rate: f64,
    lowest: f64,
    since_best: usize,
    since_change: usize,
}

impl Schedule {
    fn new(training: &Training) -> Self {
        let learning_rate = training.learning_rate;
        Self { training: *training, learning_rate, lowest: f64::INFINITY, since_best: 0, since_change: 0 }
    }

    /// Takes an epoch's validation loss; whether it is the lowest so far.
    fn step(&mut self, loss: f64) -> bool {
        if loss < self.lowest {
            (self.lowest, self.since_best, self.since_change) = (loss, 0, 0);
            return true;
        }
        self.since_best += 1;
        self.since_change += 1;
        if self.since_change > self.training.plateau_patience {
            self.learning_rate =
                (self.learning_rate * self.training.plateau_factor).max(self.training.learning_rate_min);
            self.since_change = 0;
        }
        false
    }

    fn is_over(&self) -> bool {
        self.since_best >= self.training.early_stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_falls_on_a_plateau_and_training_stops_early() {
        let training = Training {
            learning_rate: 1e-2,
            weight_decay: 0.0,
            batch: 1,
            epochs: 100,
            plateau_factor: 0.1,
            plateau_patience: 1,
            learning_rate_min: 5e-4,
            early_stop: 5,
        };
        let mut schedule = Schedule::new(&training);
        let mut rates = Vec::new();
        for loss in [1.0, 0.5, 0.6, 0.7, 0.4, 0.4, 0.4, 0.4, 0.4, f64::NAN] {
            schedule.step(loss);
            rates.push(schedule.learning_rate);
            if schedule.is_over() {
                break;
            }
        }
        assert_eq!(rates, [1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4, 5e-4]);
        assert!(schedule.is_over());
    }
}
