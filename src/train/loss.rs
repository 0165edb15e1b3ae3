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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Contract;
    use crate::train::data::{Sample, Target};

    fn dataset(purpose: Purpose, targets: &[Target]) -> Dataset {
        let contract = Contract::preset("minmax-unit", 8).unwrap();
        let sample = |(i, target): (usize, &Target)| Sample {
            patient: format!("P{i}"),
            study: String::new(),
            group: String::new(),
            target: target.clone(),
            part: None,
        };
        let samples = targets.iter().enumerate().map(sample).collect();
        Dataset::from_values(samples, &vec![vec![0.0; contract.plane_len()]; targets.len()], &contract, purpose, 2)
            .unwrap()
    }

    /// By hand: two groups, three images of the first; two findings, one truth unknown.
    #[test]
    fn losses_are_those_of_the_formulas() {
        let group = |i| Target::Group(i);
        let groups = dataset(Purpose::Race, &[group(0), group(0), group(0), group(1)]);
        let findings = |a, b| Target::Findings(vec![a, b]);
        let (yes, no) = (Some(true), Some(false));
        let clinical =
            dataset(Purpose::Clinical, &[findings(yes, no), findings(no, None), findings(no, yes), findings(no, no)]);
        // ln(1 + e^-z): of z = 0, 1, -1.
        let (even, right, wrong) = (2f64.ln(), 0.313_261_687_5, 1.313_261_687_5);
        let logits = Tensor::from_slice2(&[[1f32, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]);
        for (dataset, balance, expected) in [
            (&groups, Balance::None, (right + even + wrong + right) / 4.0),
            // Weights 4/(2·3) and 4/(2·1); the sum is divided by that of the weights.
            (&groups, Balance::Weights, (2.0 / 3.0 * (right + even + wrong) + 2.0 * right) / 4.0),
            // Seven truths are known.
            (&clinical, Balance::None, (right + even + even + even + right + even + wrong) / 7.0),
            // A present finding counts 3 and 2 times.
            (&clinical, Balance::Weights, (3.0 * right + even + even + even + 2.0 * right + even + wrong) / 7.0),
        ] {
            let all = [0, 1, 2, 3];
            let loss = Loss::new(dataset, &all, balance, Device::Cpu).unwrap();
            let found = f64::try_from(loss.of(&logits, &dataset.targets(&all).unwrap()).unwrap()).unwrap();
            assert!((found - expected).abs() < 1e-6, "{:?} {balance:?}: {found} {expected}", dataset.purpose);
        }
    }
}
