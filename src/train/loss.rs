//! The loss of a batch: cross entropy for groups, binary cross entropy for each finding.
//!
//! Findings whose truth is not known count nothing. Classes may count by their inverse frequency in the training part.
//! Neighbours: `fit`.

use tch::{Device, Kind, Reduction, Tensor};

use crate::domain::Purpose;

use super::data::{Dataset, Targets};
use super::settings::Balance;

#[derive(Debug)]
pub struct Loss {
    purpose: Purpose,
    /// Per group, or per finding the weight of its presence.
    weights: Option<Tensor>,
}

impl Loss {
    pub fn new(dataset: &Dataset, train: &[usize], balance: Balance, device: Device) -> anyhow::Result<Self> {
        let weights = (balance == Balance::Weights).then(|| {
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
        Ok(Self { purpose: dataset.purpose, weights })
    }

    /// Of logits in fp32, wherever they are.
    pub fn of(&self, logits: &Tensor, targets: &Targets) -> anyhow::Result<Tensor> {
        let device = logits.device();
        let to = |t: &Tensor| t.f_to_device(device);
        let truth = to(&targets.truth)?;
        let weights = self.weights.as_ref().map(to).transpose()?;
        if self.purpose == Purpose::Race {
            return Ok(logits.f_cross_entropy_loss(&truth, weights.as_ref(), Reduction::Mean, -100, 0.0)?);
        }
        let mask = targets.mask.as_ref().map(to).transpose()?;
        let losses =
            logits.f_binary_cross_entropy_with_logits(&truth, mask.as_ref(), weights.as_ref(), Reduction::Sum)?;
        let known = match &mask {
            Some(mask) => f64::try_from(mask.f_sum(Kind::Double)?)?.max(1.0),
            None => truth.numel() as f64,
        };
        Ok(losses.f_div_scalar(known)?)
    }
}
