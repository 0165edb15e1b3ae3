//! The training loop: epochs of batches, what is best so far, and a checkpoint wherever it may be interrupted.
//!
//! Batch order, augmentation and first weights come from one seeded generator, dropout from libtorch's, seeded too;
//! both states are part of [`State`], so that a training that was killed goes on as if it had not been. Neighbours: `loader`
//! makes batches, `adam` steps, `schedule` decides, `checkpoint` keeps; `evaluate` measures the result. Left out: what
//! the images are.

use std::time::Instant;

use anyhow::ensure;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::domain::Precision;
use crate::infer;
use crate::stats;

use super::adam::{Adam, LossScale};
use super::augment;
use super::checkpoint::Checkpoints;
use super::data::Dataset;
use super::evaluate::activation;
use super::loader::{LoaderOptions, Plan, with_batches};
use super::loss::Loss;
use super::nets::{Network, NetworkKind};
use super::progress::Event;
use super::schedule::Schedule;
use super::settings::{Augment, Balance, Training};
use super::split::Split;

/// How to train.
#[derive(Debug, Clone)]
pub struct FitOptions {
    pub network: NetworkKind,
    pub training: Training,
    pub augment: Augment,
    pub balance: Balance,
    pub seed: u64,
}

/// With what, and whether what was interrupted goes on.
#[derive(Debug, Clone)]
pub struct Machine {
    pub device: Device,
    pub loader: LoaderOptions,
    pub checkpoints: Option<Checkpoints>,
    pub resume: bool,
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
    /// Share of the time for which the device waited for images, 0..1; of no account for the weights.
    pub waited: f64,
}

/// A trained network with the weights of its best epoch.
#[derive(Debug)]
pub struct Fitted {
    pub network: Network,
    pub epochs: Vec<EpochReport>,
}

/// Everything that decides how training goes on.
#[derive(Debug)]
pub struct State {
    pub network: Network,
    pub best: Network,
    pub adam: Adam,
    pub schedule: Schedule,
    pub scale: LossScale,
    pub epochs: Vec<EpochReport>,
    /// At the start of the current epoch, before it is shuffled and drawn from.
    pub order: Vec<usize>,
    pub rng: ChaCha8Rng,
    /// Batches of the current epoch that are done, the sum of their losses by image, and their images.
    pub batch: usize,
    pub sum: f64,
    pub seen: usize,
    pub ended: bool,
}

/// Trains a network on `split.train`, watching `split.validation`.
pub fn fit(
    dataset: &Dataset,
    split: &Split,
    options: &FitOptions,
    machine: &Machine,
    progress: &(dyn Fn(Event) + Sync),
) -> anyhow::Result<Fitted> {
    let mut state = State::new(dataset, split, options, machine.device, progress)?;
    if let Some(checkpoints) = machine.checkpoints.as_ref().filter(|_| machine.resume)
        && checkpoints.load(&mut state, machine.device)?
    {
        progress(Event::Resumed { epochs: state.epochs.clone(), batch: state.batch });
    }
    let trainer = Trainer {
        dataset,
        split,
        options,
        machine,
        loss: Loss::new(dataset, &split.train, options.balance, machine.device)?,
        progress,
    };
    while !state.ended {
        trainer.epoch(&mut state)?;
        trainer.keep(&state)?;
    }
    state.result()
}

impl State {
    fn new(
        dataset: &Dataset,
        split: &Split,
        options: &FitOptions,
        device: Device,
        progress: &dyn Fn(Event),
    ) -> anyhow::Result<Self> {
        tch::manual_seed(i64::from_ne_bytes(options.seed.to_ne_bytes()));
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let (channels, outputs) = (dataset.channels(), dataset.outputs as i64);
        let mut draw = || Network::new(&options.network, channels, outputs, device, &mut rng);
        let (network, best) = (draw()?, draw()?);
        if let Some(start) = network.start(&options.network, channels, outputs)? {
            progress(Event::Start(start));
        }
        Ok(Self {
            adam: Adam::new(&network.store, options.training.weight_decay)?,
            network,
            best,
            schedule: Schedule::new(&options.training),
            scale: LossScale::new(options.training.precision == Precision::Fp16),
            epochs: Vec::new(),
            order: split.train.clone(),
            rng,
            batch: 0,
            sum: 0.0,
            seen: 0,
            ended: false,
        })
    }

    /// The best epoch's network. Until there was one, what is kept of it is another network's first weights.
    fn result(mut self) -> anyhow::Result<Fitted> {
        ensure!(
            self.epochs.iter().any(|epoch| epoch.best),
            "no epoch had a validation loss that is a number: lower training.learning_rate, or set training.clip_norm"
        );
        self.best.store.freeze();
        Ok(Fitted { network: self.best, epochs: self.epochs })
    }
}

/// Draws order and changes of an epoch.
pub(super) fn plan(dataset: &Dataset, order: &mut [usize], options: &FitOptions, rng: &mut ChaCha8Rng) -> Plan {
    order.shuffle(rng);
    let mut drawn = order.to_vec();
    if options.balance == Balance::Sampling {
        let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); dataset.outputs];
        for position in order.iter() {
            let class = (0..dataset.outputs).find(|i| dataset.samples[*position].target.is(*i) == Some(true));
            of_class[class.unwrap_or(0)].push(*position);
        }
        of_class.retain(|class| !class.is_empty());
        drawn.iter_mut().for_each(|position| {
            let class = &of_class[rng.random_range(0..of_class.len())];
            *position = class[rng.random_range(0..class.len())];
        });
    }
    let batch = options.training.batch;
    // Batch statistics of one image say nothing.
    if drawn.len() > batch && drawn.len() % batch == 1 {
        drawn.pop();
    }
    let changes = augment::draws(&options.augment, drawn.len(), rng);
    Plan { order: drawn, changes, batch }
}

struct Trainer<'a> {
    dataset: &'a Dataset,
    split: &'a Split,
    options: &'a FitOptions,
    machine: &'a Machine,
    loss: Loss,
    progress: &'a (dyn Fn(Event) + Sync),
}

impl Trainer<'_> {
    /// The current epoch, from where it stands to its end.
    fn epoch(&self, state: &mut State) -> anyhow::Result<()> {
        // The state keeps what was before, until the epoch has ended.
        let (mut order, mut rng) = (state.order.clone(), state.rng.clone());
        let plan = plan(self.dataset, &mut order, self.options, &mut rng);
        let (began, mut waited) = (Instant::now(), 0.0);
        with_batches(self.dataset, &plan, state.batch, self.machine.loader, |next| {
            loop {
                let asked = Instant::now();
                let Some(batch) = next()? else { return anyhow::Ok(()) };
                // The copy to the device is a part of the wait.
                let images = batch.images.f_to_device(self.machine.device)?;
                waited += asked.elapsed().as_secs_f64();
                self.step(state, &images, &batch.targets, plan.batches())?;
                let every = self.machine.checkpoints.as_ref().map_or(0, |c| c.batches);
                if every > 0 && state.batch.is_multiple_of(every) && state.batch < plan.batches() {
                    self.keep(state)?;
                }
            }
        })?;
        waited /= began.elapsed().as_secs_f64().max(1e-9);
        (state.order, state.rng) = (order, rng);
        self.validate(state, waited.min(1.0))
    }

    /// One batch: forward, backward, step.
    fn step(
        &self,
        state: &mut State,
        images: &Tensor,
        targets: &super::data::Targets,
        total: usize,
    ) -> anyhow::Result<()> {
        let t = &self.options.training;
        // Where half precision overflows, the batch would stay in the running statistics for good.
        let statistics = if t.precision == Precision::Fp16 { copies(&state.network)? } else { Vec::new() };
        let logits = forward(&state.network, images, t.precision, true)?;
        let value = self.loss.of(&logits, targets)?;
        state.adam.zero_grad();
        value.f_mul_scalar(state.scale.factor)?.f_backward()?;
        let finite = t.precision != Precision::Fp16 || state.adam.unscale(state.scale.factor)?;
        if finite {
            if let Some(norm) = t.clip_norm {
                state.adam.clip(norm)?;
            }
            state.adam.step(state.schedule.state.learning_rate)?;
        }
        if t.precision == Precision::Fp16 {
            if !finite {
                let _guard = tch::no_grad_guard();
                statistics.into_iter().try_for_each(|(mut place, before)| place.f_copy_(&before).map(drop))?;
            }
            state.scale.after(finite);
            ensure!(
                state.scale.lost <= LossScale::LOST_MAX,
                "{} batches one after the other overflow fp16 without any scale: train in \"bf16\" or \"fp32\"",
                state.scale.lost
            );
        }
        let (now, epoch) = (f64::try_from(&value)?, state.schedule.state.epochs + 1);
        let overflow = t.precision == Precision::Fp16 && !finite;
        ensure!(now.is_finite() || overflow, "the loss is not finite in epoch {epoch}: lower training.learning_rate");
        if now.is_finite() {
            state.sum += now * images.size()[0] as f64;
            state.seen += images.size()[0] as usize;
        }
        state.batch += 1;
        (self.progress)(Event::Batch {
            epoch,
            epochs: t.epochs,
            done: state.batch as u64,
            total: total as u64,
            loss: now,
            mean: state.sum / state.seen.max(1) as f64,
        });
        Ok(())
    }

    /// Measures the epoch on the validation part and ends it.
    fn validate(&self, state: &mut State, waited: f64) -> anyhow::Result<()> {
        let validation = &self.split.validation;
        // As the node computes it, whatever the network is trained in.
        let logits = predict(&state.network, self.dataset, validation, self.machine, Precision::Fp32)?;
        let targets = self.dataset.targets(validation)?;
        let validation_loss = tch::no_grad(|| self.loss.of(&logits, &targets)).and_then(|v| Ok(f64::try_from(&v)?))?;
        let learning_rate = state.schedule.state.learning_rate;
        let best = state.schedule.step(validation_loss);
        if best {
            state.best.store.copy(&state.network.store)?;
        }
        let report = EpochReport {
            epoch: state.schedule.state.epochs,
            learning_rate,
            train_loss: state.sum / state.seen.max(1) as f64,
            validation_loss,
            validation_auc: aucs(&logits, self.dataset, validation)?,
            best,
            waited,
        };
        (state.batch, state.sum, state.seen) = (0, 0.0, 0);
        state.ended = state.schedule.is_over();
        state.epochs.push(report.clone());
        (self.progress)(Event::Epoch(report));
        Ok(())
    }

    fn keep(&self, state: &State) -> anyhow::Result<()> {
        self.machine.checkpoints.as_ref().map_or(Ok(()), |c| c.save(state, self.machine.device))
    }
}

/// What a network keeps beside its parameters, running means and variances, and a copy of each.
fn copies(network: &Network) -> anyhow::Result<Vec<(Tensor, Tensor)>> {
    let _guard = tch::no_grad_guard();
    let kept = network.store.variables().into_values().filter(|v| !v.requires_grad());
    let one = |v: Tensor| {
        let mut copy = v.f_empty_like()?;
        copy.f_copy_(&v)?;
        anyhow::Ok((v, copy))
    };
    kept.map(one).collect()
}

/// Logits in fp32 of a batch, computed in `precision`.
fn forward(network: &Network, images: &Tensor, precision: Precision, train: bool) -> anyhow::Result<Tensor> {
    let kind = match precision {
        Precision::Fp32 => return Ok((network.forward)(images, train)?),
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp16 => Kind::Half,
    };
    Ok((network.forward)(&images.f_to_kind(kind)?, train)?.f_to_kind(Kind::Float)?)
}

/// Images that are predicted at a time.
const PREDICTED_AT_ONCE: usize = 64;

/// Logits of the samples at these positions, one row each, on the CPU.
pub(super) fn predict(
    network: &Network,
    dataset: &Dataset,
    positions: &[usize],
    machine: &Machine,
    precision: Precision,
) -> anyhow::Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let plan = Plan::plain(positions, PREDICTED_AT_ONCE);
    let rows = with_batches(dataset, &plan, 0, machine.loader, |next| {
        let mut rows = Vec::new();
        while let Some(batch) = next()? {
            let images = batch.images.f_to_device(machine.device)?;
            rows.push(forward(network, &images, precision, false)?.f_to_device(Device::Cpu)?);
        }
        anyhow::Ok(rows)
    })?;
    ensure!(!rows.is_empty(), "there are no images to predict");
    Ok(Tensor::f_cat(&rows, 0)?)
}

/// Rows of a matrix of logits.
pub(super) fn rows(logits: &Tensor) -> anyhow::Result<Vec<Vec<f64>>> {
    Ok(Vec::<Vec<f64>>::try_from(&logits.f_to_kind(Kind::Double)?)?)
}

fn aucs(logits: &Tensor, dataset: &Dataset, positions: &[usize]) -> anyhow::Result<Vec<f64>> {
    // What is no number is a bad epoch, not the end of the training.
    let none = || vec![f64::NAN; dataset.outputs];
    let of = |row: &Vec<f64>| infer::probabilities(activation(dataset.purpose), row).unwrap_or_else(|_| none());
    let probabilities: Vec<Vec<f64>> = rows(logits)?.iter().map(of).collect();
    let one = |i: usize| {
        let images = probabilities.iter().zip(positions);
        let known = images.filter_map(|(row, p)| Some((row[i], dataset.samples[*p].target.is(i)?)));
        let (scores, truth): (Vec<f64>, Vec<bool>) = known.unzip();
        stats::auc(&scores, &truth).unwrap_or(f64::NAN)
    };
    Ok((0..dataset.outputs).map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Purpose;
    use crate::train::recipe::SplitRecipe;
    use crate::train::split;
    use crate::train::tests::{machine, options, toy};

    fn values(network: &Network) -> Vec<(String, Vec<f64>)> {
        let mut all: Vec<_> = network.store.variables().into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().map(|(name, v)| (name, rows(&v.reshape([1, -1])).unwrap().remove(0))).collect()
    }

    /// One batch that half precision cannot hold, then one that it can; and the rest of a training.
    #[test]
    fn a_batch_that_overflows_half_precision_leaves_the_network_as_it_was() {
        let (dataset, _) = toy(Purpose::Race);
        let split = split::by_patient(&dataset.samples, SplitRecipe::default(), 1);
        let mut options = options();
        options.training.precision = Precision::Fp16;
        let machine = machine();
        let mut state = State::new(&dataset, &split, &options, machine.device, &|_| ()).unwrap();
        let loss = Loss::new(&dataset, &split.train, options.balance, machine.device).unwrap();
        let trainer =
            Trainer { dataset: &dataset, split: &split, options: &options, machine: &machine, loss, progress: &|_| () };
        let images = dataset.prepared(&dataset.batch(&split.train[..16]).unwrap()).unwrap();
        let targets = || dataset.targets(&split.train[..16]).unwrap();
        let before = values(&state.network);
        trainer.step(&mut state, &(&images * 1e9), &targets(), 9).unwrap();
        assert_eq!(values(&state.network), before);
        assert_eq!((state.scale.factor, state.seen, state.adam.steps), (32_768.0, 0, 0));
        trainer.step(&mut state, &images, &targets(), 9).unwrap();
        assert_ne!(values(&state.network), before);
        assert!(values(&state.network).iter().all(|(_, v)| v.iter().all(|v| v.is_finite())));
        assert_eq!((state.seen, state.adam.steps), (16, 1));

        // What never fits any more is said, not waited for.
        state.scale.factor = 1.0;
        let mut lost = (0..=LossScale::LOST_MAX).map(|_| trainer.step(&mut state, &(&images * 1e9), &targets(), 9));
        let error = lost.find_map(Result::err).unwrap().to_string();
        assert!(error.starts_with("101 batches one after the other overflow fp16"), "{error}");

        let fitted = fit(&dataset, &split, &options, &machine, &|_| ()).unwrap();
        let best = fitted.epochs.iter().rfind(|e| e.best).unwrap();
        assert!(best.validation_auc.iter().all(|auc| *auc > 0.9), "{best:?}");
    }

    #[test]
    fn an_epoch_without_a_loss_is_no_best_and_a_training_of_such_epochs_has_no_result() {
        let (dataset, _) = toy(Purpose::Clinical);
        let split = split::by_patient(&dataset.samples, SplitRecipe::default(), 1);
        let (options, machine) = (options(), machine());
        let mut state = State::new(&dataset, &split, &options, machine.device, &|_| ()).unwrap();
        let loss = Loss::new(&dataset, &split.train, options.balance, machine.device).unwrap();
        let trainer =
            Trainer { dataset: &dataset, split: &split, options: &options, machine: &machine, loss, progress: &|_| () };
        tch::no_grad(|| {
            state.network.store.variables().into_values().for_each(|mut v| drop(v.fill_(f64::NAN)));
        });
        trainer.validate(&mut state, 0.0).unwrap();
        let report = &state.epochs[0];
        assert!(!report.best && report.validation_loss.is_nan() && report.validation_auc.iter().all(|a| a.is_nan()));
        assert!(state.result().unwrap_err().to_string().starts_with("no epoch had a validation loss"));
    }
}
