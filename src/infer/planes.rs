//! The last steps of a contract, on tensors: planes become channels with their mean and deviation, where the network is.
//!
//! A third of what a network of three channels sees is copied to its device, and the queues hold. Neighbours:
//! `domain::Contract::spread` is the same for values, for networks elsewhere; `torch` and `train` call this. Left out:
//! everything before the plane (`pixels`).

use tch::{Kind, TchError, Tensor};

use crate::domain::Contract;

/// What the network is given for planes of the shape [n, 1, side, side], in fp32 or below: [n, channels, side, side], with
/// the channels of a pixel beside each other in memory, as convolutions on frozen networks want them.
pub fn spread(contract: &Contract, planes: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
    let channels: Vec<(f32, f32)> = contract.mean.iter().copied().zip(contract.std.iter().copied()).collect();
    if channels == [(0.0, 1.0)] {
        return planes.f_to_kind(kind);
    }
    let pixels = planes.f_permute([0, 2, 3, 1])?;
    let channel = |(mean, std): &(f32, f32)| {
        pixels.f_sub_scalar(f64::from(*mean))?.f_div_scalar_(f64::from(*std))?.f_to_kind(kind)
    };
    let channels = channels.iter().map(channel).collect::<Result<Vec<_>, _>>()?;
    Tensor::f_cat(&channels, 3)?.f_permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_spread_as_values_are_to_the_last_bit() {
        for name in Contract::PRESETS {
            let contract = Contract::preset(name, 8).unwrap();
            let planes: Vec<Vec<f32>> = (0..2).map(|i| crate::infer::probe::image(&contract, i + 2)).collect();
            let tensor = Tensor::from_slice(&planes.concat()).view([2, 1, 8, 8]);
            let spread = spread(&contract, &tensor, Kind::Float).unwrap();
            assert_eq!(spread.size(), [2, i64::from(contract.channels), 8, 8]);
            let found: Vec<f32> = Vec::try_from(&spread.contiguous().flatten(0, -1)).unwrap();
            let expected: Vec<f32> = planes.iter().flat_map(|plane| contract.spread(plane)).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn channels_lie_beside_each_other() {
        let contract = Contract::preset("imagenet-rgb", 8).unwrap();
        let planes = Tensor::zeros([2, 1, 8, 8], (Kind::Float, tch::Device::Cpu));
        let spread = spread(&contract, &planes, Kind::BFloat16).unwrap();
        assert_eq!((spread.stride(), spread.kind()), (vec![3 * 64, 1, 3 * 8, 3], Kind::BFloat16));
    }
}
