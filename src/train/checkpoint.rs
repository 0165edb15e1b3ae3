//! Checkpoints: everything that decides how training goes on, in one safetensors file that is whole or not there.
//!
//! It holds parameters and statistics, those of the best epoch, Adam's means, schedule, order of the images, and the
//! states of both generators of random numbers, all as tensors, so that no digit is lost; and the digests of recipe and
//! data, so that no other training goes on from it. Neighbours: `fit` saves and loads. Left out: results.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rustix::fs::{FlockOperation, flock};
use sha2::Digest as _;
use tch::{Device, Kind, Tensor};

use crate::domain::Digest;
use crate::infer;

use super::fit::{EpochReport, State};

const FORMAT: f64 = 2.0;
const FILE: &str = "checkpoint.safetensors";
/// Says who works in the folder; a lock on the folder itself would keep its packages locked too, where it has some.
const LOCK: &str = ".lock";

/// The tensor that holds the digest of all others.
const DIGEST: &str = "digest";

/// Where checkpoints are kept, of which training.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    pub folder: PathBuf,
    /// Of everything in the recipe.
    pub recipe: Digest,
    /// Of labels and of what the network sees.
    pub data: Digest,
    /// What last digits depend on: version, device, threads.
    pub machine: String,
    /// Within an epoch, one after every so many batches; 0: only when it ends.
    pub batches: usize,
}

impl Checkpoints {
    pub fn file(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// Keeps the state; what was kept before stays until this one is on stable storage.
    pub fn save(&self, state: &State, device: Device) -> anyhow::Result<()> {
        let path = Self::file(&self.folder);
        let context = || format!("no checkpoint can be written to {}", path.display());
        let mut tensors = Vec::new();
        for (prefix, network) in [("network", &state.network), ("best", &state.best)] {
            let named =
                network.store.variables().into_iter().map(|(name, tensor)| (format!("{prefix}/{name}"), tensor));
            tensors.extend(named);
        }
        for p in &state.adam.parameters {
            tensors.push((format!("mean/{}", p.name), p.mean.shallow_clone()));
            tensors.push((format!("square/{}", p.name), p.square.shallow_clone()));
        }
        let random = infer::random_state(device).map_err(anyhow::Error::msg)?;
        tensors.extend([
            ("recipe".to_owned(), Tensor::f_from_slice(self.recipe.as_str().as_bytes())?),
            ("data".to_owned(), Tensor::f_from_slice(self.data.as_str().as_bytes())?),
            ("machine".to_owned(), Tensor::f_from_slice(self.machine.as_bytes())?),
            ("numbers".to_owned(), Tensor::f_from_slice(&numbers(state))?),
            ("epochs".to_owned(), Tensor::f_from_slice(&reports(&state.epochs))?),
            ("order".to_owned(), Tensor::f_from_slice(&state.order.iter().map(|p| *p as i64).collect::<Vec<_>>())?),
            ("random.epoch".to_owned(), Tensor::f_from_slice(&random_bytes(&state.rng))?),
            ("random.libtorch".to_owned(), Tensor::f_from_slice(&random)?),
        ]);
        let _guard = tch::no_grad_guard();
        let on_cpu = |(name, t): (String, Tensor)| Ok((name, t.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?));
        let mut tensors = tensors.into_iter().map(on_cpu).collect::<anyhow::Result<Vec<_>>>()?;
        let digest = digest(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
        tensors.push((DIGEST.to_owned(), Tensor::f_from_slice(digest.as_str().as_bytes())?));
        let aside = path.with_extension("new");
        Tensor::write_safetensors(&tensors, &aside).with_context(context)?;
        File::open(&aside).and_then(|f| f.sync_all()).with_context(context)?;
        fs::rename(&aside, &path).with_context(context)?;
        File::open(&self.folder).and_then(|f| f.sync_all()).with_context(context)
    }

    /// Puts a kept state back; `false` where there is none.
    pub fn load(&self, state: &mut State, device: Device) -> anyhow::Result<bool> {
        let path = Self::file(&self.folder);
        if !path.exists() {
            return Ok(false);
        }
        let context = || format!("the checkpoint {}", path.display());
        let tensors: HashMap<String, Tensor> =
            Tensor::read_safetensors(&path).with_context(context)?.into_iter().collect();
        self.restore(&Kept(tensors), state, device).with_context(context)?;
        Ok(true)
    }

    fn restore(&self, kept: &Kept, state: &mut State, device: Device) -> anyhow::Result<()> {
        let numbers = kept.numbers("numbers")?;
        ensure!(numbers.first() == Some(&FORMAT) && numbers.len() == NUMBERS, "is of another version of sidelight");
        for (what, own) in [("recipe", &self.recipe), ("data", &self.data)] {
            if kept.bytes(what)? != own.as_str().as_bytes() {
                bail!(
                    "is of another training: its {what} {} not this one; train with what it was begun with, or name \
                     another folder with --work",
                    if what == "recipe" { "is" } else { "are" }
                );
            }
        }
        let said = kept.0.iter().filter(|(name, _)| *name != DIGEST).map(|(name, tensor)| (name.as_str(), tensor));
        ensure!(kept.bytes(DIGEST)? == digest(said)?.as_str().as_bytes(), "is not what was written: it is damaged");
        let machine = kept.bytes("machine")?;
        if machine != self.machine.as_bytes() {
            let (before, now) = (String::from_utf8_lossy(&machine).into_owned(), &self.machine);
            tracing::warn!(before, now, "another machine goes on: the last digits may be other than without a break");
        }
        let order = Vec::<i64>::try_from(kept.get("order")?)?;
        let order: Vec<usize> = order.into_iter().map(usize::try_from).collect::<Result<_, _>>()?;
        let sorted = |order: &[usize]| {
            let mut order = order.to_vec();
            order.sort_unstable();
            order
        };
        ensure!(sorted(&order) == sorted(&state.order), "has other images than the training part");
        state.order = order;
        let _guard = tch::no_grad_guard();
        for (prefix, network) in [("network", &state.network), ("best", &state.best)] {
            for (name, mut variable) in network.store.variables() {
                variable.f_copy_(kept.like(&format!("{prefix}/{name}"), &variable)?)?;
            }
        }
        for p in &mut state.adam.parameters {
            p.mean.f_copy_(kept.like(&format!("mean/{}", p.name), &p.mean)?)?;
            p.square.f_copy_(kept.like(&format!("square/{}", p.name), &p.square)?)?;
        }
        state.rng = rng_of(&kept.bytes("random.epoch")?)?;
        state.epochs = reports_of(&kept.numbers("epochs")?)?;
        set_numbers(state, &numbers);
        infer::set_random_state(device, &kept.bytes("random.libtorch")?).map_err(anyhow::Error::msg)
    }

    /// Keeps other trainings out of the folder for as long as the file is open.
    pub fn lock(folder: &Path) -> anyhow::Result<File> {
        let path = folder.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| path.display().to_string())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            anyhow::anyhow!("another training works in {}: wait for it, or give this one --work", folder.display())
        })?;
        Ok(lock)
    }

    /// Forgets the state of a training that has ended.
    pub fn remove(&self) -> anyhow::Result<()> {
        let path = Self::file(&self.folder);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("{} cannot be removed", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Of names, kinds and values, by name; all on the CPU.
fn digest<'a>(tensors: impl Iterator<Item = (&'a str, &'a Tensor)>) -> anyhow::Result<Digest> {
    let mut hash = sha2::Sha256::new();
    for (name, tensor) in tensors.collect::<BTreeMap<_, _>>() {
        let values = tensor.f_contiguous()?;
        let mut bytes = vec![0; values.numel() * values.f_kind()?.elt_size_in_bytes()];
        values.f_copy_data_u8(&mut bytes, values.numel())?;
        hash.update(format!("{name} {:?} {:?}\n", values.f_kind()?, values.size()));
        hash.update(&bytes);
    }
    Ok(Digest::from_hash(&hash.finalize()))
}

/// The tensors of a file.
struct Kept(HashMap<String, Tensor>);

impl Kept {
    fn get(&self, name: &str) -> anyhow::Result<&Tensor> {
        self.0.get(name).with_context(|| format!("lacks {name}"))
    }

    fn like(&self, name: &str, other: &Tensor) -> anyhow::Result<&Tensor> {
        let tensor = self.get(name)?;
        ensure!(tensor.size() == other.size(), "{name} has shape {:?}, not {:?}", tensor.size(), other.size());
        Ok(tensor)
    }

    fn numbers(&self, name: &str) -> anyhow::Result<Vec<f64>> {
        let tensor = self.get(name)?;
        ensure!(tensor.kind() == Kind::Double, "{name} holds no numbers");
        Ok(Vec::<f64>::try_from(tensor)?)
    }

    fn bytes(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        Ok(Vec::<u8>::try_from(self.get(name)?)?)
    }
}

const NUMBERS: usize = 14;

fn numbers(state: &State) -> [f64; NUMBERS] {
    let s = &state.schedule.state;
    [
        FORMAT,
        state.batch as f64,
        state.sum,
        state.seen as f64,
        s.learning_rate,
        s.lowest,
        s.since_best as f64,
        s.since_change as f64,
        s.epochs as f64,
        f64::from(state.adam.steps),
        state.scale.factor,
        state.scale.steps as f64,
        f64::from(u8::from(state.ended)),
        state.scale.lost as f64,
    ]
}

fn set_numbers(state: &mut State, numbers: &[f64]) {
    let count = |i: usize| numbers[i] as usize;
    (state.batch, state.sum, state.seen) = (count(1), numbers[2], count(3));
    let s = &mut state.schedule.state;
    (s.learning_rate, s.lowest) = (numbers[4], numbers[5]);
    (s.since_best, s.since_change, s.epochs) = (count(6), count(7), count(8));
    state.adam.steps = numbers[9] as i32;
    (state.scale.factor, state.scale.steps) = (numbers[10], count(11));
    state.ended = numbers[12] != 0.0;
    state.scale.lost = count(13);
}

/// The number of outputs, then the reports one after the other.
fn reports(epochs: &[EpochReport]) -> Vec<f64> {
    let outputs = epochs.first().map_or(0, |e| e.validation_auc.len());
    let mut values = vec![outputs as f64];
    for e in epochs {
        values.extend([e.epoch as f64, e.learning_rate, e.train_loss, e.validation_loss, f64::from(u8::from(e.best))]);
        values.push(e.waited);
        values.extend(&e.validation_auc);
    }
    values
}

fn reports_of(values: &[f64]) -> anyhow::Result<Vec<EpochReport>> {
    let (outputs, values) = values.split_first().context("has no epochs")?;
    let width = 6 + *outputs as usize;
    ensure!(values.len().is_multiple_of(width), "its epochs are incomplete");
    let report = |v: &[f64]| EpochReport {
        epoch: v[0] as usize,
        learning_rate: v[1],
        train_loss: v[2],
        validation_loss: v[3],
        best: v[4] != 0.0,
        waited: v[5],
        validation_auc: v[6..].to_vec(),
    };
    Ok(values.chunks(width).map(report).collect())
}

/// Seed, stream and place of a generator.
fn random_bytes(rng: &ChaCha8Rng) -> Vec<u8> {
    let mut bytes = rng.get_seed().to_vec();
    bytes.extend(rng.get_stream().to_le_bytes());
    bytes.extend(rng.get_word_pos().to_le_bytes());
    bytes
}

fn rng_of(bytes: &[u8]) -> anyhow::Result<ChaCha8Rng> {
    let wrong = "its random numbers have another size";
    let (seed, rest) = bytes.split_first_chunk::<32>().context(wrong)?;
    let (stream, rest) = rest.split_first_chunk::<8>().context(wrong)?;
    let mut rng = ChaCha8Rng::from_seed(*seed);
    rng.set_stream(u64::from_le_bytes(*stream));
    rng.set_word_pos(u128::from_le_bytes(*rest.first_chunk::<16>().context(wrong)?));
    Ok(rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn a_generator_goes_on_where_it_was() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        for draws in 0..40 {
            (0..draws).for_each(|_| {
                let _: u32 = rng.random();
            });
            let mut again = rng_of(&random_bytes(&rng)).unwrap();
            let mut expected = rng.clone();
            let draw = |rng: &mut ChaCha8Rng| (0..20).map(|_| rng.random()).collect::<Vec<f64>>();
            assert_eq!(draw(&mut again), draw(&mut expected));
        }
        assert!(rng_of(&[0; 40]).is_err());
    }

    #[test]
    fn reports_come_back_to_the_last_digit_not_a_number_too() {
        let report = |epoch, auc| EpochReport {
            epoch,
            learning_rate: 0.1 + 0.2,
            train_loss: 1.0 / 3.0,
            validation_loss: f64::INFINITY,
            validation_auc: vec![auc, 0.5],
            best: epoch == 2,
            waited: 0.25,
        };
        let epochs = [report(1, 0.7), report(2, f64::NAN)];
        let back = reports_of(&reports(&epochs)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{epochs:?}"));
        assert_eq!(reports_of(&reports(&[])).unwrap(), []);
    }
}
