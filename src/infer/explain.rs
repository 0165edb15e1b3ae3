//! Grad-CAM (Selvaraju 2017): where the last feature map of a network speaks for an output.
//!
//! The map is the rectified sum of the last feature map's channels, each weighted by the mean of the output's gradient
//! there, brought to the input's size (bilinear) and divided by its largest value. The last feature map is the last
//! tensor that has height and width of the last convolution with more than one pixel, and that the output depends on: of a
//! ResNet what the last block gives, of a DenseNet what goes into the pooling. So folding normalisation into a
//! convolution changes nothing. `script` makes a network tell these tensors, whether it was traced here or by PyTorch; a
//! network without a convolution outside branches and loops has no map.
//!
//! **The race model's map is of no class.** It is of Σ p·log p over all groups, how sure the model is: the same for every
//! order of groups, so that neither its name nor its making says which group was inferred. A sum of the groups' maps
//! weighted by p would be 0 for outputs that are log probabilities, and log Σ exp of the logits depends on a constant that
//! softmax ignores. Its shape may still tell something of the group to who knows the model: it goes where probabilities go.
//!
//! Neighbours: `torch` owns the network on its thread. Left out: occlusion (`occlusion`), pictures (`report`).

use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use super::card::Activation;
use super::error::{InferError, torch_error};
use super::script;

/// Why there is no map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Of this model, whatever the image.
    #[error("not available because {0}")]
    Unavailable(String),
    #[error(transparent)]
    Failed(#[from] InferError),
}

impl ExplainError {
    /// What is wrong with a network lasts, unless there was no memory for it.
    pub(super) fn of_network(reason: String) -> Self {
        match torch_error(&TchError::Torch(reason.clone())) {
            memory @ InferError::OutOfMemory(_) => Self::Failed(memory),
            _ => Self::Unavailable(reason),
        }
    }
}

/// What a map is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A column of the network's output: a finding's logit, or its probability.
    Column(usize),
    /// How sure the model is of all its groups together.
    Confidence,
}

/// A network that tells what it computes on its way.
pub(super) struct GradCam {
    module: CModule,
    /// Of each tensor that it tells, whether a convolution gives it.
    convolutions: Vec<bool>,
    device: Device,
}

/// Outputs, and what was computed before.
struct Seen {
    outputs: Tensor,
    tensors: Vec<Tensor>,
}

impl GradCam {
    /// From a TorchScript file; computes in fp32.
    pub(super) fn load(script: &[u8], device: Device) -> Result<Self, ExplainError> {
        let (module, convolutions) = exposed(script, device)?;
        if convolutions.is_empty() {
            let why = "its network has no convolution outside branches and loops";
            return Err(ExplainError::Unavailable(why.to_owned()));
        }
        Ok(Self { module, convolutions, device })
    }

    /// What the network says of the image, to be held against what it says where it scores.
    pub(super) fn outputs(&self, image: &Tensor) -> Result<Tensor, ExplainError> {
        let _guard = tch::no_grad_guard();
        self.seen(image).map(|seen| seen.outputs)
    }

    /// A map for each target, of the image's height and width, row by row, its largest value 1. None where nothing in the
    /// image speaks for the target, as Grad-CAM sees it. `image`: one image, as [1, channels, height, width].
    pub(super) fn maps(
        &self,
        image: &Tensor,
        columns: &[usize],
        activation: Activation,
        targets: &[Target],
    ) -> Result<Vec<Option<Vec<f32>>>, ExplainError> {
        tch::with_grad(|| {
            let image = image.f_detach().and_then(|i| i.f_set_requires_grad(true)).map_err(failed)?;
            let seen = self.seen(&image)?;
            let scalar = |target: &Target| scalar(&seen.outputs, columns, activation, *target).map_err(failed);
            let scalars = targets.iter().map(scalar).collect::<Result<Vec<_>, _>>()?;
            let (height, width) = (image.size()[2], image.size()[3]);
            let of = |scalar: &Tensor| {
                let (features, gradient) = self.features(&seen, scalar)?;
                map(features, &gradient, [height, width]).map_err(failed)
            };
            scalars.iter().map(of).collect()
        })
    }

    fn seen(&self, image: &Tensor) -> Result<Seen, ExplainError> {
        let image = image.f_to_device(self.device).and_then(|i| i.f_to_kind(Kind::Float)).map_err(failed)?;
        let (outputs, tensors) = told(&self.module, image)?;
        if tensors.len() != self.convolutions.len() {
            let missing = "a tensor on its way is missing";
            return Err(ExplainError::Failed(InferError::BadOutput(missing.to_owned())));
        }
        Ok(Seen { outputs, tensors })
    }

    /// The last feature map that this number depends on, each branch of a network having its own, and the number's
    /// gradient there.
    fn features<'a>(&self, seen: &'a Seen, scalar: &Tensor) -> Result<(&'a Tensor, Tensor), ExplainError> {
        let area = |tensor: &Tensor| match tensor.size()[..] {
            [1, _, height, width] if height * width > 1 => Some((height, width)),
            _ => None,
        };
        let mut areas: Vec<(i64, i64)> = Vec::new();
        for (tensor, _) in
            seen.tensors.iter().zip(&self.convolutions).rev().filter(|(_, is_convolution)| **is_convolution)
        {
            areas.extend(area(tensor).filter(|area| !areas.contains(area)));
        }
        if areas.is_empty() {
            let why = "no convolution of its network gives more than one pixel";
            return Err(ExplainError::Unavailable(why.to_owned()));
        }
        let mut flat = None;
        for wanted in areas {
            let tensors: Vec<&Tensor> =
                seen.tensors.iter().filter(|t| area(t) == Some(wanted) && t.requires_grad()).collect();
            if tensors.is_empty() || !scalar.requires_grad() {
                continue;
            }
            let gradients = Tensor::f_run_backward(&[scalar], &tensors, true, false).map_err(failed)?;
            for (tensor, gradient) in
                tensors.into_iter().zip(gradients).rev().filter(|(_, gradient)| gradient.defined())
            {
                // Another branch, joined with this output's, has a gradient too: of zeros.
                if gradient.f_count_nonzero(None).and_then(|n| n.f_int64_value(&[])).map_err(failed)? > 0 {
                    return Ok((tensor, gradient));
                }
                flat = flat.or(Some((tensor, gradient)));
            }
        }
        if let Some(found) = flat {
            return Ok(found);
        }
        let why = "an output does not depend on any convolution by gradients";
        Err(ExplainError::Unavailable(why.to_owned()))
    }
}

/// The number whose gradient is asked for.
fn scalar(outputs: &Tensor, columns: &[usize], activation: Activation, target: Target) -> Result<Tensor, TchError> {
    match target {
        Target::Column(column) => outputs.f_select(1, column as i64)?.f_sum(Kind::Float),
        Target::Confidence => {
            let columns: Vec<i64> = columns.iter().map(|c| *c as i64).collect();
            let columns = Tensor::f_from_slice(&columns)?.f_to_device(outputs.device())?;
            let used = outputs.f_index_select(1, &columns)?;
            let log = match activation {
                Activation::LogSoftmax => used,
                Activation::LogitsSoftmax | Activation::LogitsSigmoid => used.f_log_softmax(1, Kind::Float)?,
                Activation::Softmax | Activation::Sigmoid => used.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_log()?,
            };
            // −∞ · 0 has no gradient that could be used.
            let log = log.f_clamp_min(-80.0)?;
            log.f_exp()?.f_mul(&log)?.f_sum(Kind::Float)
        }
    }
}

fn map(features: &Tensor, gradient: &Tensor, size: [i64; 2]) -> Result<Option<Vec<f32>>, TchError> {
    let weights = gradient.f_mean_dim(&[2i64, 3][..], true, Kind::Float)?;
    let dims = &[1i64][..];
    let sum = features.f_detach()?.f_mul(&weights)?.f_sum_dim_intlist(dims, true, Kind::Float)?.f_relu()?;
    let full = sum.f_upsample_bilinear2d(size, false, None, None)?;
    let largest = f64::try_from(full.f_max()?)?;
    if !(largest.is_finite() && largest > 0.0) {
        return Ok(None);
    }
    let full = full.f_div_scalar(largest)?.f_to_device(Device::Cpu)?.f_flatten(0, -1)?;
    Vec::<f32>::try_from(full).map(Some)
}

/// The network of a TorchScript file made to tell what it computes on its way, and of each tensor that it tells, whether a
/// convolution gives it.
pub(super) fn exposed(script: &[u8], device: Device) -> Result<(CModule, Vec<bool>), ExplainError> {
    let script::Exposed { bytes, convolutions } = script::expose(script).map_err(ExplainError::of_network)?;
    let mut module = CModule::load_data_on_device(&mut &bytes[..], device).map_err(failed)?;
    module.f_set_eval().map_err(failed)?;
    Ok((module, convolutions))
}

/// What a rewritten network says: its outputs, and the tensors on its way that it tells besides.
pub(super) fn told(module: &CModule, images: Tensor) -> Result<(Tensor, Vec<Tensor>), ExplainError> {
    let unusable = |what: &str| ExplainError::Failed(InferError::BadOutput(what.to_owned()));
    let answer = module.forward_is(&[IValue::Tensor(images)]).map_err(failed)?;
    let IValue::Tuple(parts) = answer else { return Err(unusable("it is no tuple")) };
    let mut parts = parts.into_iter();
    let outputs = match parts.next() {
        Some(IValue::Tensor(outputs)) => outputs,
        // With its features beside it.
        Some(IValue::Tuple(pair)) => match pair.into_iter().next() {
            Some(IValue::Tensor(outputs)) => outputs,
            _ => return Err(unusable("its first part is no tensor")),
        },
        _ => return Err(unusable("it is no tensor")),
    };
    Ok((outputs, parts.filter_map(|part| if let IValue::Tensor(t) = part { Some(t) } else { None }).collect()))
}

fn failed(error: TchError) -> ExplainError {
    ExplainError::Failed(torch_error(&error))
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
