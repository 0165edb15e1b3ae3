//! A loaded model: weights on a device, batches in, probabilities out.
//!
//! Neighbours: `worker` owns these on its thread, `script` freezes them, `native` loads the networks of `nets` and `export`
//! traces them. Every libtorch call is the fallible one and runs without gradients. Left out: queues, batching policy.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::time::{Duration, Instant};

use tch::{CModule, Device, IValue, Kind, TchError, Tensor};
use tracing::warn;

use crate::domain::{Digest, Precision, Purpose};

use super::card::Activation;
use super::device::device_name;
use super::error::{EngineError, InferError, torch_error, torch_reason};
use super::explain::{ExplainError, GradCam, Target};
use super::export::{bytes_of, trace};
use super::files::{self, WEIGHTS_BYTES_MAX};
use super::layers::{Forward, sequence};
use super::manifest::{Package, Weights};
use super::native::load_native;
use super::nets::Parts;
use super::{planes, probe, script};

/// How far two outputs for the same image may lie apart when they are batched differently, or normalisation is folded
/// into convolutions, relative to their size. A GPU takes other kernels for other batches and multiplies in TF32, which
/// keeps 11 bits.
const TOLERANCE_CPU: f64 = 1e-4;
const TOLERANCE_CUDA: f64 = 1e-2;
const NO_FEATURES: &str =
    "ood.method \"mahalanobis\" needs a network that returns a pair: its outputs, and one row of features an image";
/// After Grad-CAM of a network failed it is left alone for so long: to read it again keeps those waiting who want scores.
const GRAD_CAM_AFTER: Duration = Duration::from_secs(60);
const NO_TENSOR: &str = "it is neither a tensor nor a pair of tensors, outputs and features";
/// How far probabilities over groups may miss a sum of 1: half-precision networks are off by some 1e-3.
const SUM_TOLERANCE: f64 = 5e-3;

enum Network {
    Script(CModule),
    /// What only tests need: a network that fails as they want it.
    #[cfg(test)]
    Native(Forward),
}

/// What a network says of an image.
struct Raw {
    outputs: Vec<f64>,
    /// Empty where nobody asks for them.
    features: Vec<f64>,
}

/// A model on a device.
pub(super) struct LoadedModel {
    package: Package,
    contract: Digest,
    network: Network,
    device: Device,
    precision: Precision,
    is_frozen: bool,
    /// Made when a map is first asked for: most nodes never do. Or why there is none, whenever it is asked for.
    grad_cam: OnceCell<Result<GradCam, ExplainError>>,
    /// When reading it last failed, and of what.
    grad_cam_failed: RefCell<Option<(Instant, String)>>,
}

/// The package's network as TorchScript. Reads the weight file, checking its hash on the bytes that are used, and what it
/// would do; a native one is traced, with its features behind its outputs where they are wanted.
pub(super) fn read_script(package: &Package) -> Result<Vec<u8>, EngineError> {
    let fail = |reason: String| EngineError::Load { model: package.identity.name.clone(), reason };
    read_weights(package).and_then(|bytes| script_of(package, bytes)).map_err(fail)
}

impl LoadedModel {
    /// Puts the package's network, which [`read_script`] gave, on `device`, frozen to compute in `precision`. In fp32 a
    /// network that freezing would change stays as it is.
    pub(super) fn load(
        package: &Package,
        script: &[u8],
        device: Device,
        precision: Precision,
    ) -> Result<Self, EngineError> {
        let fail = |reason: String| EngineError::Load { model: package.identity.name.clone(), reason };
        let load = |mut bytes: &[u8]| -> Result<CModule, String> {
            let mut module = CModule::load_data_on_device(&mut bytes, device)
                .map_err(|e| format!("not a TorchScript file for this libtorch: {}", torch_reason(&e)))?;
            module.f_set_eval().map_err(|e| torch_reason(&e))?;
            Ok(module)
        };
        let frozen = || script::prepare(script, precision).and_then(|bytes| load(&bytes));
        let with = |module| Self::new(package.clone(), Network::Script(module), device, precision);
        if precision != Precision::Fp32 {
            return Ok(with(frozen().map_err(fail)?));
        }
        let as_it_is = Self { is_frozen: false, ..with(load(script).map_err(fail)?) };
        match frozen().map(with).and_then(|frozen| as_it_is.equals(&frozen).map(|()| frozen)) {
            Ok(frozen) => Ok(frozen),
            Err(reason) => {
                let model = &package.identity.name;
                warn!(model, reason, "the network cannot be frozen; it computes as it is, more slowly");
                Ok(as_it_is)
            }
        }
    }

    fn new(package: Package, network: Network, device: Device, precision: Precision) -> Self {
        let contract = package.contract.digest();
        let (grad_cam, grad_cam_failed) = (OnceCell::new(), RefCell::new(None));
        Self { package, contract, network, device, precision, is_frozen: true, grad_cam, grad_cam_failed }
    }

    /// A network that is no file, for tests of what becomes of its errors.
    #[cfg(test)]
    pub(super) fn of(package: Package, forward: Forward) -> Self {
        Self::new(package, Network::Native(forward), Device::Cpu, Precision::Fp32)
    }

    pub(super) fn package(&self) -> &Package {
        &self.package
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    pub(super) fn device_name(&self) -> String {
        device_name(self.device)
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// False where freezing failed, or would have changed what it computes.
    pub(super) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    fn tolerance(&self) -> f64 {
        if self.device == Device::Cpu { TOLERANCE_CPU } else { TOLERANCE_CUDA }
    }

    /// The digest of the contract that inputs must fulfil.
    pub(super) fn contract(&self) -> &Digest {
        &self.contract
    }

    /// Runs the network on images of the contract's shape; one answer each, so that one bad output spoils only
    /// its own. `Err` if the batch as a whole failed.
    pub(super) fn forward(&self, images: &[&[f32]]) -> Result<Vec<Result<Vec<f64>, InferError>>, InferError> {
        let raw = self.raw(images)?;
        Ok(raw.iter().map(|raw| self.answer(raw)).collect())
    }

    /// Grad-CAM of an image of the contract's shape: a map for each finding, or the race model's one. Computed in fp32.
    pub(super) fn grad_cam(&self, image: &[f32]) -> Result<Vec<Option<Vec<f32>>>, ExplainError> {
        self.load_grad_cam()?;
        let none = || ExplainError::Unavailable("its network was not read again".to_owned());
        let grad_cam = self.grad_cam.get().ok_or_else(none)?.as_ref().map_err(Clone::clone)?;
        let targets = match self.package.purpose {
            Purpose::Race => vec![Target::Confidence],
            Purpose::Clinical => self.package.column_of.iter().map(|column| Target::Column(*column)).collect(),
        };
        let image = self.input(image, Kind::Float).map_err(|e| torch_error(&e))?;
        grad_cam.maps(&image, &self.package.column_of, self.package.activation, &targets)
    }

    /// Reads the network again where that was not done, as long as that takes. Want of memory, and a file that cannot be
    /// read, are tried again when the next map is asked for; any other failure after a minute.
    ///
    /// # Errors
    /// What may pass; whether there is Grad-CAM of this network at all, [`LoadedModel::grad_cam`] says.
    pub(super) fn load_grad_cam(&self) -> Result<(), ExplainError> {
        if self.grad_cam.get().is_some() {
            return Ok(());
        }
        if let Some((at, reason)) = &*self.grad_cam_failed.borrow()
            && at.elapsed() < GRAD_CAM_AFTER
        {
            let seconds = GRAD_CAM_AFTER.as_secs();
            let reason = format!("it failed within the last {seconds} s, and is tried again after them: {reason}");
            return Err(ExplainError::Unavailable(reason));
        }
        // Nothing was computed: the device has no part in it.
        let bytes = read_file(&self.package).map_err(ExplainError::Unavailable)?;
        let grad_cam = match self.grad_cam_of(bytes) {
            Err(memory @ ExplainError::Failed(InferError::OutOfMemory(_))) => return Err(memory),
            Err(ExplainError::Failed(failure)) => {
                *self.grad_cam_failed.borrow_mut() = Some((Instant::now(), failure.to_string()));
                return Err(ExplainError::Failed(failure));
            }
            lasting => lasting,
        };
        let _ = self.grad_cam.set(grad_cam);
        Ok(())
    }

    /// A network that says something else than the one that scores is not used.
    fn grad_cam_of(&self, bytes: Vec<u8>) -> Result<GradCam, ExplainError> {
        is_pinned(&self.package, &bytes).map_err(|reason| ExplainError::Failed(InferError::Torch(reason)))?;
        let script = script_of(&self.package, bytes).map_err(ExplainError::of_network)?;
        let grad_cam = GradCam::load(&script, self.device)?;
        if self.precision == Precision::Fp32 {
            let image = probe::image(&self.package.contract, 2);
            let expected = self.raw(&[&image])?;
            let found = self.input(&image, Kind::Float).map_err(|e| torch_error(&e))?;
            let found = rows(&grad_cam.outputs(&found)?)?;
            let apart = |(a, b): (&f64, &f64)| (a - b).abs() > self.tolerance() * (1.0 + a.abs());
            let pairs = expected.iter().zip(&found).flat_map(|(a, b)| a.outputs.iter().zip(b));
            if pairs.into_iter().any(apart) {
                let why = "its network computes something else where gradients are asked for";
                return Err(ExplainError::Unavailable(why.to_owned()));
            }
        }
        Ok(grad_cam)
    }

    /// What the network is given for these planes, one after the other.
    fn input(&self, planes: &[f32], kind: Kind) -> Result<Tensor, TchError> {
        let side = i64::from(self.package.contract.size);
        let planes = Tensor::f_from_slice(planes)?.f_view([-1, 1, side, side])?.f_to_device(self.device)?;
        planes::spread(&self.package.contract, &planes, kind)
    }

    /// Runs the network before anyone waits for it, and holds it against its card: shape, finite values,
    /// probabilities where the card says so, and answers that do not depend on the batch.
    pub(super) fn warm_up(&self) -> Result<(), EngineError> {
        let fail = |reason: String| EngineError::WarmUp { model: self.package.identity.name.clone(), reason };
        let length = self.package.contract.plane_len();
        let zeros = vec![0.0; length];
        let ramp: Vec<f32> = (0..length).map(|i| i as f32 / length as f32).collect();
        let run = |images: &[&[f32]]| self.raw(images).map_err(|e| fail(e.to_string()));
        let single = run(&[&zeros])?;
        let pair = run(&[&ramp, &zeros])?;
        for row in single.iter().chain(&pair) {
            self.answer(row).map_err(|e| fail(e.to_string()))?;
        }
        let apart = |(a, b): (&f64, &f64)| (a - b).abs() > self.tolerance() * (1.0 + a.abs());
        let (alone, beside) = (&single[0], &pair[1]);
        if alone.outputs.iter().zip(&beside.outputs).any(apart) {
            return Err(fail(
                "an image's output depends on the others in its batch; export it in eval mode".to_owned(),
            ));
        }
        Ok(())
    }

    /// Whether the other network gives fixed images the same outputs.
    fn equals(&self, other: &Self) -> Result<(), String> {
        let images: Vec<Vec<f32>> = (1..3).map(|i| probe::image(&self.package.contract, i)).collect();
        let images: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let expected = self.raw(&images).map_err(|e| format!("it cannot be compared: {e}"))?;
        let found = other.raw(&images).map_err(|e| e.to_string())?;
        let same =
            |(a, b): (&f64, &f64)| (a - b).abs() <= self.tolerance() * (1.0 + a.abs()) || (a.is_nan() && b.is_nan());
        let apart = expected
            .iter()
            .zip(&found)
            .flat_map(|(a, b)| a.outputs.iter().zip(&b.outputs).chain(a.features.iter().zip(&b.features)))
            .find(|pair| !same(*pair) && pair.0 != pair.1);
        apart.map_or(Ok(()), |(a, b)| Err(format!("an output would be {b} in place of {a}")))
    }

    /// What the network says, as it is, of each image.
    fn raw(&self, images: &[&[f32]]) -> Result<Vec<Raw>, InferError> {
        let _mode = script::InferenceMode::begin();
        let torch = |e: TchError| torch_error(&e);
        let n = images.len() as i64;
        let flat: Cow<[f32]> = match images {
            [one] => Cow::Borrowed(*one),
            many => Cow::Owned(many.concat()),
        };
        let input = self.input(&flat, kind(self.precision)).map_err(torch)?;
        let columns = self.package.columns as i64;
        let with_features = self.package.needs_features();
        let (output, features) = match &self.network {
            Network::Script(module) if !with_features => (one_output(module, input)?, None),
            Network::Script(module) if self.package.weights == Weights::TorchScript => two_outputs(module, input)?,
            // As `script_of` joined them.
            Network::Script(module) => {
                let joined = module.forward_ts(&[input]).map_err(torch)?;
                let width = joined.size().get(1).copied().unwrap_or_default();
                let features = joined.f_narrow(1, columns, width - columns).map_err(torch)?;
                (joined.f_narrow(1, 0, columns).map_err(torch)?, Some(features))
            }
            #[cfg(test)]
            Network::Native(forward) => (forward(&input, false).map_err(torch)?, None),
        };
        let expected = [n, columns];
        if output.size() != expected {
            let reason =
                format!("its shape is {:?}, the card's labels and the batch ask for {expected:?}", output.size());
            return Err(InferError::BadOutput(reason));
        }
        let mut raw: Vec<Raw> =
            rows(&output)?.into_iter().map(|outputs| Raw { outputs, features: Vec::new() }).collect();
        if let Some(features) = features.filter(|_| with_features) {
            if features.dim() != 2 || features.size()[0] != n {
                let reason = format!("its features have the shape {:?}, not one row an image", features.size());
                return Err(InferError::BadOutput(reason));
            }
            raw.iter_mut().zip(rows(&features)?).for_each(|(raw, features)| raw.features = features);
        }
        Ok(raw)
    }

    /// Probabilities of the columns that are used; behind them the out-of-distribution score, where the card has one.
    fn answer(&self, raw: &Raw) -> Result<Vec<f64>, InferError> {
        let used: Vec<f64> = self.package.column_of.iter().map(|c| raw.outputs[*c]).collect();
        let mut answer = probabilities(self.package.activation, &used)?;
        if let Some(ood) = &self.package.ood {
            answer.extend(ood.answer(&used, &raw.features)?);
        }
        Ok(answer)
    }
}

/// A network's output, of one that gives its features too where nobody asks for them.
fn one_output(module: &CModule, input: Tensor) -> Result<Tensor, InferError> {
    match module.forward_is(&[IValue::Tensor(input)]).map_err(|e| torch_error(&e))? {
        IValue::Tensor(output) => Ok(output),
        IValue::Tuple(parts) => match parts.into_iter().next() {
            Some(IValue::Tensor(output)) => Ok(output),
            _ => Err(InferError::BadOutput(NO_TENSOR.to_owned())),
        },
        _ => Err(InferError::BadOutput(NO_TENSOR.to_owned())),
    }
}

/// A network's output and its features.
fn two_outputs(module: &CModule, input: Tensor) -> Result<(Tensor, Option<Tensor>), InferError> {
    let found = module.forward_is(&[IValue::Tensor(input)]).map_err(|e| torch_error(&e))?;
    let IValue::Tuple(parts) = found else { return Err(InferError::BadOutput(NO_FEATURES.to_owned())) };
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(IValue::Tensor(output)), Some(IValue::Tensor(features)), None) => Ok((output, Some(features))),
        _ => Err(InferError::BadOutput(NO_FEATURES.to_owned())),
    }
}

/// The rows of a matrix.
fn rows(matrix: &Tensor) -> Result<Vec<Vec<f64>>, InferError> {
    let torch = |e: TchError| torch_error(&e);
    let width = usize::try_from(matrix.size().get(1).copied().unwrap_or(1)).unwrap_or(1).max(1);
    let on_cpu = matrix.f_to_device(Device::Cpu).and_then(|t| t.f_to_kind(Kind::Double)).map_err(torch)?;
    let values = Vec::<f64>::try_from(on_cpu.f_flatten(0, -1).map_err(torch)?).map_err(torch)?;
    Ok(values.chunks(width).map(<[f64]>::to_vec).collect())
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

/// The package's network as TorchScript: a native one is traced, with its features behind its outputs where they are
/// wanted.
pub(super) fn script_of(package: &Package, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let architecture = match package.weights {
        Weights::TorchScript => return script::check(&bytes).map(|()| bytes),
        Weights::Safetensors(architecture) => architecture,
        Weights::Elsewhere => return Err("it is not run in this process".to_owned()),
    };
    let Parts { features, head } = load_native(&bytes, architecture, package.width())?;
    let forward: Forward = if package.needs_features() {
        Box::new(move |xs, train| {
            let features = features(xs, train)?;
            Tensor::f_cat(&[&head(&features, train)?, &features], 1)
        })
    } else {
        sequence(vec![features, head])
    };
    let module = trace(&forward, &package.contract).map_err(|e| e.to_string())?;
    bytes_of(&module)
}

fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp16 => Kind::Half,
    }
}

pub(super) fn read_weights(package: &Package) -> Result<Vec<u8>, String> {
    let bytes = read_file(package)?;
    is_pinned(package, &bytes).map(|()| bytes)
}

fn read_file(package: &Package) -> Result<Vec<u8>, String> {
    let path = package.weights_path.display();
    files::read(&package.weights_path, WEIGHTS_BYTES_MAX).map_err(|e| format!("{path} cannot be read: {e}"))
}

fn is_pinned(package: &Package, bytes: &[u8]) -> Result<(), String> {
    if Digest::of(bytes) == package.identity.weights {
        return Ok(());
    }
    let path = package.weights_path.display();
    Err(format!("{path} changed since its hash was checked; restore the file that belongs to the card"))
}

fn softmax_of_nothing(activation: Activation, outputs: &[f64]) -> bool {
    activation.is_softmax() && outputs.iter().all(|v| *v == f64::NEG_INFINITY)
}

#[cfg(test)]
#[path = "torch_tests.rs"]
mod tests;
