//! White-box models: gradients of what a network says at the grey plane that it is given, and its last features.
//!
//! The network is the one that `explain` uses: its TorchScript rewritten so that it tells what it computes on its way,
//! from which the features before its last layer are taken: the last row of numbers an image that is wider than its
//! outputs. Gradients are at the plane from 0 to 1, before mean, deviation and repetition over channels. Neighbours:
//! `analyse` asks for directions. Left out: queues: this is for commands, on a thread of their own.

use tch::nn::VarStore;
use tch::{CModule, Device, Kind, TchError, Tensor};

use super::card::Activation;
use super::error::{InferError, torch_error};
use super::explain::{ExplainError, exposed, told};
use super::export::{bytes_of, trace};
use super::layers::sequence;
use super::manifest::{Package, Weights};
use super::planes::spread;
use super::torch::{read_weights, script_of};
use super::{nets, script};
use crate::domain::{Contract, Purpose};
use crate::perturb::Plane;

/// What of a network a number is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Readout<'a> {
    /// The logit of an output by its place in the card: of a finding, or of a group against all others.
    Output(usize),
    /// A linear head on the features.
    Head(&'a [f64]),
}

/// A network that its input can be differentiated by; computes in fp32.
pub struct WhiteBox {
    contract: Contract,
    purpose: Purpose,
    activation: Activation,
    column_of: Vec<usize>,
    columns: usize,
    module: CModule,
    device: Device,
}

/// Outputs, and features where there are any.
struct Seen {
    outputs: Tensor,
    features: Option<Tensor>,
}

impl WhiteBox {
    /// Reads the package's network.
    ///
    /// # Errors
    /// Not run here, not a network that can be rewritten, or no memory for it.
    pub fn load(package: &Package, device: Device) -> Result<Self, ExplainError> {
        let bytes = read_weights(package).map_err(|reason| ExplainError::Failed(InferError::Torch(reason)))?;
        let script = script_of(package, bytes).map_err(ExplainError::of_network)?;
        Self::of_script(package, &script, device)
    }

    fn of_script(package: &Package, script: &[u8], device: Device) -> Result<Self, ExplainError> {
        // The first runs would be profiled and recompiled.
        tch::jit::set_graph_executor_optimize(false);
        let (module, _) = exposed(script, device)?;
        Ok(Self {
            contract: package.contract.clone(),
            purpose: package.purpose,
            activation: package.activation,
            column_of: package.column_of.clone(),
            columns: package.columns,
            module,
            device,
        })
    }

    /// A network of the package's shape that knows nothing, from a seed: the control of what was learned. A native network
    /// gets starting values, in a TorchScript file the values of each weight change places (Adebayo 2018). Seeds
    /// libtorch's generator of this process.
    ///
    /// # Errors
    /// Not run here, or TorchScript without weights.
    pub fn untrained(package: &Package, device: Device, seed: u32) -> Result<Self, ExplainError> {
        tch::manual_seed(i64::from(seed));
        let script = match package.weights {
            Weights::Safetensors(architecture) => {
                let mut store = VarStore::new(Device::Cpu);
                let parts = nets::parts(&store.root(), architecture, package.width()).map_err(failed)?;
                store.freeze();
                let forward = sequence(vec![parts.features, parts.head]);
                let module = trace(&forward, &package.contract).map_err(|e| unavailable(&e.to_string()))?;
                bytes_of(&module).map_err(ExplainError::of_network)?
            }
            _ => {
                let bytes = read_weights(package).map_err(|reason| ExplainError::Failed(InferError::Torch(reason)))?;
                let script = script_of(package, bytes).map_err(ExplainError::of_network)?;
                script::forgotten(&script).map_err(ExplainError::of_network)?
            }
        };
        Self::of_script(package, &script, device)
    }

    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// One row of features for each plane.
    ///
    /// # Errors
    /// [`ExplainError::Unavailable`] where the network shows none.
    pub fn features(&self, planes: &[Plane]) -> Result<Vec<Vec<f64>>, ExplainError> {
        let _guard = tch::no_grad_guard();
        let features = self.seen(&self.input(planes)?)?.features.ok_or_else(no_features)?;
        let width = usize::try_from(features.size()[1]).unwrap_or(1).max(1);
        Ok(numbers(&features)?.chunks(width).map(<[f64]>::to_vec).collect())
    }

    /// What each readout is for each plane.
    pub fn values(&self, planes: &[Plane], readouts: &[Readout<'_>]) -> Result<Vec<Vec<f64>>, ExplainError> {
        let _guard = tch::no_grad_guard();
        let seen = self.seen(&self.input(planes)?)?;
        readouts.iter().map(|readout| numbers(&self.readout(&seen, *readout)?)).collect()
    }

    /// The gradient of each readout, its mean over the planes: SmoothGrad where these are noisy copies of one. All
    /// readouts share one pass, and the memory is that of a pass of so many planes.
    pub fn gradients(&self, planes: &[Plane], readouts: &[Readout<'_>]) -> Result<Vec<Plane>, ExplainError> {
        tch::with_grad(|| {
            let input = self.input(planes)?.f_set_requires_grad(true).map_err(failed)?;
            let seen = self.seen(&input)?;
            readouts.iter().map(|readout| self.gradient(&input, &seen, *readout)).collect()
        })
    }

    fn gradient(&self, input: &Tensor, seen: &Seen, readout: Readout<'_>) -> Result<Plane, ExplainError> {
        let independent = || unavailable("what it says does not depend on its input by gradients");
        let mean = self.readout(seen, readout)?.f_mean(Kind::Float).map_err(failed)?;
        if !mean.requires_grad() {
            return Err(independent());
        }
        let gradient = Tensor::f_run_backward(&[&mean], &[input], true, false).map_err(failed)?;
        let gradient = gradient.first().filter(|g| g.defined()).ok_or_else(independent)?;
        let values = numbers(&gradient.f_sum_dim_intlist(&[0i64, 1][..], false, Kind::Float).map_err(failed)?)?;
        let broken = || ExplainError::Failed(InferError::BadOutput("its gradient is not finite".to_owned()));
        Plane::new(self.contract.size as usize, values.into_iter().map(|v| v as f32).collect()).ok_or_else(broken)
    }

    /// Planes from 0 to 1, as [n, 1, side, side].
    fn input(&self, planes: &[Plane]) -> Result<Tensor, ExplainError> {
        let side = self.contract.size as usize;
        if planes.is_empty() || planes.iter().any(|plane| plane.side() != side) {
            return Err(ExplainError::Failed(InferError::WrongContract));
        }
        let values: Vec<f32> = planes.iter().flat_map(|plane| plane.values().iter().copied()).collect();
        let shape = [planes.len() as i64, 1, side as i64, side as i64];
        Tensor::f_from_slice(&values)
            .and_then(|t| t.f_view(shape))
            .and_then(|t| t.f_to_device(self.device))
            .map_err(failed)
    }

    fn seen(&self, planes: &Tensor) -> Result<Seen, ExplainError> {
        let images = images(planes, &self.contract).map_err(failed)?;
        let (outputs, tensors) = told(&self.module, images)?;
        let (images, width) = (planes.size()[0], outputs.size().get(1).copied().unwrap_or_default());
        if outputs.dim() != 2 || outputs.size()[0] != images || width < self.columns as i64 {
            let unlike = "it is not one row an image, with a number for each label";
            return Err(ExplainError::Failed(InferError::BadOutput(unlike.to_owned())));
        }
        let row = |tensor: &Tensor| match tensor.size()[..] {
            [n, own] => n == images && own > self.columns as i64 && own != width,
            _ => false,
        };
        Ok(Seen { features: tensors.into_iter().filter(row).last(), outputs })
    }

    /// One number for each plane.
    fn readout(&self, seen: &Seen, readout: Readout<'_>) -> Result<Tensor, ExplainError> {
        match readout {
            Readout::Head(weights) => {
                let features = seen.features.as_ref().ok_or_else(no_features)?;
                if features.size()[1] != weights.len() as i64 {
                    return Err(unavailable("its features are of another number than the head's weights"));
                }
                let weights: Vec<f32> = weights.iter().map(|w| *w as f32).collect();
                let weights = Tensor::f_from_slice(&weights).and_then(|w| w.f_to_device(features.device()));
                weights.and_then(|w| features.f_mv(&w)).map_err(failed)
            }
            Readout::Output(place) => {
                let columns: Vec<i64> = self.column_of.iter().map(|c| *c as i64).collect();
                if place >= columns.len() {
                    return Err(unavailable("it has no such output"));
                }
                logit(&seen.outputs, &columns, place, self.activation, self.purpose).map_err(failed)
            }
        }
    }
}

/// What the network is given: the contract's range, mean and deviation, one plane for each channel.
fn images(planes: &Tensor, contract: &Contract) -> Result<Tensor, TchError> {
    let grey = planes.f_mul_scalar(f64::from(contract.high - contract.low))?.f_add_scalar(f64::from(contract.low))?;
    spread(contract, &grey, Kind::Float)
}

/// A finding's logit, or that of a group against all others.
fn logit(
    outputs: &Tensor,
    columns: &[i64],
    place: usize,
    activation: Activation,
    purpose: Purpose,
) -> Result<Tensor, TchError> {
    let used = outputs.f_index_select(1, &Tensor::f_from_slice(columns)?.f_to_device(outputs.device())?)?;
    let own = |of: &Tensor| of.f_select(1, place as i64);
    // Probabilities of exactly 0 and 1 have no logit.
    let log = |p: &Tensor| p.f_clamp(1e-12, 1.0)?.f_log();
    if purpose == Purpose::Clinical && matches!(activation, Activation::LogitsSigmoid) {
        return own(&used);
    }
    if purpose == Purpose::Clinical && matches!(activation, Activation::Sigmoid) {
        let p = own(&used)?;
        return log(&p)?.f_sub(&log(&p.f_neg()?.f_add_scalar(1.0)?)?);
    }
    let logs = match activation {
        // What a constant adds is in both terms.
        Activation::LogitsSoftmax | Activation::LogSoftmax | Activation::LogitsSigmoid => used,
        Activation::Softmax | Activation::Sigmoid => log(&used)?,
    };
    let others: Vec<i64> = (0..columns.len() as i64).filter(|c| *c != place as i64).collect();
    let others = logs.f_index_select(1, &Tensor::f_from_slice(&others)?.f_to_device(logs.device())?)?;
    own(&logs)?.f_sub(&others.f_logsumexp(&[1i64][..], false)?)
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>, ExplainError> {
    let values = tensor
        .f_to_device(Device::Cpu)
        .and_then(|t| t.f_to_kind(Kind::Double))
        .and_then(|t| t.f_flatten(0, -1))
        .and_then(Vec::<f64>::try_from)
        .map_err(failed)?;
    if values.iter().any(|v| !v.is_finite()) {
        return Err(ExplainError::Failed(InferError::BadOutput("it is not finite".to_owned())));
    }
    Ok(values)
}

fn no_features() -> ExplainError {
    unavailable("its network shows no features: no row of numbers an image, wider than its outputs")
}

fn unavailable(why: &str) -> ExplainError {
    ExplainError::Unavailable(why.to_owned())
}

fn failed(error: TchError) -> ExplainError {
    ExplainError::Failed(torch_error(&error))
}

#[cfg(test)]
#[path = "whitebox_tests.rs"]
mod tests;
