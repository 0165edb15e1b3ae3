//! A loaded model: weights on a device, batches in, probabilities out.
//!
//! Neighbours: `engine` owns these on its thread, `nets` builds the native networks, `export` traces them. Every
//! libtorch call is the fallible one and runs without gradients. Left out: queues, batching policy.

use std::borrow::Cow;
use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};
use tch::nn::VarStore;
use tch::{CModule, Device, Kind, TchError, Tensor};

use crate::domain::Digest;

use super::card::{Activation, Architecture};
use super::error::{EngineError, InferError, torch_reason};
use super::layers::Forward;
use super::manifest::{Package, Weights};
use super::nets;

/// How far two outputs for the same image may lie apart when batched differently, relative to their size.
const BATCH_TOLERANCE: f64 = 1e-4;
/// How far probabilities over groups may miss a sum of 1: half-precision networks are off by some 1e-3.
const SUM_TOLERANCE: f64 = 5e-3;

enum Network {
    Script(CModule),
    Native(Forward),
}

/// A model on a device.
pub(super) struct LoadedModel {
    package: Package,
    contract: Digest,
    network: Network,
    device: Device,
}

impl LoadedModel {
    /// Reads the weight file (checking its hash on the bytes that are used) and puts the network on `device`.
    pub(super) fn load(package: Package, device: Device) -> Result<Self, EngineError> {
        let fail = |reason: String| EngineError::Load { model: package.identity.name.clone(), reason };
        let bytes = read_weights(&package).map_err(fail)?;
        let network = match package.weights {
            Weights::TorchScript => {
                let mut module = CModule::load_data_on_device(&mut bytes.as_slice(), device)
                    .map_err(|e| fail(format!("not a TorchScript file for this libtorch: {}", torch_reason(&e))))?;
                module.f_set_eval().map_err(|e| fail(torch_reason(&e)))?;
                Network::Script(module)
            }
            Weights::Safetensors(architecture) => {
                Network::Native(load_native(&bytes, architecture, package.columns, device).map_err(fail)?)
            }
            Weights::Elsewhere => return Err(fail("it is not run in this process".to_owned())),
        };
        let contract = package.contract.digest();
        Ok(Self { package, contract, network, device })
    }

    pub(super) fn package(&self) -> &Package {
        &self.package
    }

    /// The digest of the contract that inputs must fulfil.
    pub(super) fn contract(&self) -> &Digest {
        &self.contract
    }

    /// Runs the network on images of the contract's shape; one answer each, so that one bad output spoils only
    /// its own. `Err` if the batch as a whole failed.
    pub(super) fn forward(&self, images: &[&[f32]]) -> Result<Vec<Result<Vec<f64>, InferError>>, InferError> {
        let raw = self.raw(images)?;
        Ok(raw.into_iter().map(|row| self.answer(&row)).collect())
    }

    /// Runs the network before anyone waits for it, and holds it against its card: shape, finite values,
    /// probabilities where the card says so, and answers that do not depend on the batch.
    pub(super) fn warm_up(&self) -> Result<(), EngineError> {
        let fail = |reason: String| EngineError::WarmUp { model: self.package.identity.name.clone(), reason };
        let length = self.package.contract.len();
        let zeros = vec![0.0; length];
        let ramp: Vec<f32> = (0..length).map(|i| i as f32 / length as f32).collect();
        let run = |images: &[&[f32]]| self.raw(images).map_err(|e| fail(e.to_string()));
        let single = run(&[&zeros])?;
        let pair = run(&[&ramp, &zeros])?;
        for row in single.iter().chain(&pair) {
            self.answer(row).map_err(|e| fail(e.to_string()))?;
        }
        let apart = |(a, b): (&f64, &f64)| (a - b).abs() > BATCH_TOLERANCE * (1.0 + a.abs());
        if single[0].iter().zip(&pair[1]).any(apart) {
            return Err(fail(
                "an image's output depends on the others in its batch; export it in eval mode".to_owned(),
            ));
        }
        Ok(())
    }

    /// The network's outputs as they are, one row per image.
    fn raw(&self, images: &[&[f32]]) -> Result<Vec<Vec<f64>>, InferError> {
        let contract = &self.package.contract;
        let _guard = tch::no_grad_guard();
        let torch = |e: TchError| InferError::Torch(torch_reason(&e));
        let (n, c, side) = (images.len() as i64, i64::from(contract.channels), i64::from(contract.size));
        let flat: Cow<[f32]> = match images {
            [one] => Cow::Borrowed(*one),
            many => Cow::Owned(many.concat()),
        };
        let input = Tensor::f_from_slice(&flat)
            .and_then(|t| t.f_view([n, c, side, side]))
            .and_then(|t| t.f_to_device(self.device))
            .map_err(torch)?;
        let output = match &self.network {
            Network::Script(module) => module.forward_ts(&[input]),
            Network::Native(forward) => forward(&input, false),
        }
        .map_err(torch)?;
        let expected = [n, self.package.columns as i64];
        if output.size() != expected {
            let reason =
                format!("its shape is {:?}, the card's labels and the batch ask for {expected:?}", output.size());
            return Err(InferError::BadOutput(reason));
        }
        let output = output.f_to_device(Device::Cpu).and_then(|t| t.f_to_kind(Kind::Double)).map_err(torch)?;
        let values = Vec::<f64>::try_from(output.f_flatten(0, -1).map_err(torch)?).map_err(torch)?;
        Ok(values.chunks(self.package.columns).map(<[f64]>::to_vec).collect())
    }

    fn answer(&self, row: &[f64]) -> Result<Vec<f64>, InferError> {
        let used: Vec<f64> = self.package.column_of.iter().map(|c| row[*c]).collect();
        probabilities(self.package.activation, &used)
    }
}

/// Probabilities from a network's outputs, by what the card says the outputs are.
pub fn probabilities(activation: Activation, outputs: &[f64]) -> Result<Vec<f64>, InferError> {
    if outputs.iter().any(|v| v.is_nan() || *v == f64::INFINITY) || softmax_of_nothing(activation, outputs) {
        return Err(InferError::BadOutput("it is not finite".to_owned()));
    }
    let mut p: Vec<f64> = match activation {
        Activation::Softmax | Activation::Sigmoid => outputs.to_vec(),
        Activation::LogSoftmax => outputs.iter().map(|v| v.exp()).collect(),
        Activation::LogitsSoftmax => {
            let max = outputs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exp: Vec<f64> = outputs.iter().map(|v| (v - max).exp()).collect();
            let sum: f64 = exp.iter().sum();
            exp.iter().map(|v| v / sum).collect()
        }
        Activation::LogitsSigmoid => outputs.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
    };
    if let Some(v) = p.iter().find(|v| !(-SUM_TOLERANCE..=1.0 + SUM_TOLERANCE).contains(*v)) {
        let reason = format!("{v} is no probability; correct output.activation, which says what the outputs are");
        return Err(InferError::BadOutput(reason));
    }
    p.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    if activation.is_softmax() {
        let sum: f64 = p.iter().sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            let reason = format!("probabilities over the groups sum to {sum}; correct output.activation");
            return Err(InferError::BadOutput(reason));
        }
        p.iter_mut().for_each(|v| *v /= sum);
    }
    Ok(p)
}

/// A native network with the weights of a safetensors file under torchvision's names, ready for inference.
pub(super) fn load_native(
    bytes: &[u8],
    architecture: Architecture,
    columns: usize,
    device: Device,
) -> Result<Forward, String> {
    let mut store = VarStore::new(device);
    let reason = |e: TchError| torch_reason(&e);
    let forward = nets::build(&store.root(), architecture, columns as i64).map_err(reason)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("not a safetensors file: {e}"))?;
    let variables: HashMap<String, Tensor> = store.variables();
    let name = architecture.as_str();
    check_names(&file, &variables, name)?;
    let _guard = tch::no_grad_guard();
    for (key, mut variable) in variables {
        let view = file.tensor(&key).map_err(|e| format!("{key}: {e}"))?;
        let shape: Vec<i64> = view.shape().iter().map(|d| *d as i64).collect();
        if shape != variable.size() {
            return Err(format!(
                "{key} has shape {shape:?}, a {name} with {columns} outputs has {:?}",
                variable.size()
            ));
        }
        let kind = kind_of(view.dtype()).ok_or_else(|| format!("{key} holds {:?}, not numbers", view.dtype()))?;
        let values = Tensor::f_from_data_size(view.data(), &shape, kind).map_err(reason)?;
        let finite = values.f_isfinite().and_then(|t| t.f_all()).and_then(bool::try_from).map_err(reason)?;
        if !finite {
            return Err(format!("{key} has values that are not finite"));
        }
        variable.f_copy_(&values).map_err(reason)?;
    }
    store.freeze();
    Ok(forward)
}

fn check_names(file: &SafeTensors, variables: &HashMap<String, Tensor>, name: &str) -> Result<(), String> {
    let first = |mut list: Vec<&str>| {
        list.sort_unstable();
        let more = if list.len() > 3 { format!(" and {} more", list.len() - 3) } else { String::new() };
        list.truncate(3);
        format!("{}{more}", list.join(", "))
    };
    let names = file.names();
    let missing: Vec<&str> = variables.keys().map(String::as_str).filter(|k| !names.contains(k)).collect();
    if !missing.is_empty() {
        return Err(format!("the file lacks parameters of {name} under torchvision's names: {}", first(missing)));
    }
    // PyTorch counts batches seen in training; the count has no part in inference.
    let unknown: Vec<&str> =
        names.into_iter().filter(|k| !variables.contains_key(*k) && !k.ends_with("num_batches_tracked")).collect();
    if !unknown.is_empty() {
        return Err(format!("the file has parameters that {name} does not: {}", first(unknown)));
    }
    Ok(())
}

pub(super) fn read_weights(package: &Package) -> Result<Vec<u8>, String> {
    let path = package.weights_path.display();
    let bytes = std::fs::read(&package.weights_path).map_err(|e| format!("{path} cannot be read: {e}"))?;
    if Digest::of(&bytes) != package.identity.weights {
        return Err(format!("{path} changed since its hash was checked; restore the file that belongs to the card"));
    }
    Ok(bytes)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        _ => None,
    }
}

fn softmax_of_nothing(activation: Activation, outputs: &[f64]) -> bool {
    activation.is_softmax() && outputs.iter().all(|v| *v == f64::NEG_INFINITY)
}

#[cfg(test)]
#[path = "torch_tests.rs"]
mod tests;
