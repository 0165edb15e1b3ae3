//! A supplier's golden values: images and what its own program answers, written by PyTorch as safetensors.
//!
//! `images` is what the network is given (images × channels × side × side), `outputs` what it answers (images × columns of
//! the output), as the network says it, before the card's activation. The node has one grey plane for each image, so the
//! channels have to be one plane, normalised as the card says. Neighbours: `golden` compares. Left out: whose numbers
//! they are; the card pins the file.

use safetensors::{Dtype, SafeTensors};

use super::golden::{Case, Picture};
use super::manifest::Package;
use super::torch::probabilities;

const IMAGES_MAX: usize = 64;
/// How far channels of one plane may lie apart, as a part of the contract's range.
const TOLERANCE: f32 = 1e-3;

/// The cases of a file, or what in it does not fit the package.
pub(super) fn cases(bytes: &[u8], package: &Package) -> Result<Vec<Case>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("not a safetensors file: {e}"))?;
    let contract = &package.contract;
    let (side, channels) = (contract.size as usize, usize::from(contract.channels));
    let (shape, images) = tensor(&file, "images")?;
    let n = shape.first().copied().unwrap_or(0);
    if shape != [n, channels, side, side] || !(2..=IMAGES_MAX).contains(&n) {
        let wanted = format!("[2 to {IMAGES_MAX}, {channels}, {side}, {side}]");
        return Err(format!("images has the shape {shape:?}, the card's contract asks for {wanted}"));
    }
    let (shape, outputs) = tensor(&file, "outputs")?;
    if shape != [n, package.columns] {
        return Err(format!(
            "outputs has the shape {shape:?}, the card and the images ask for {:?}",
            [n, package.columns]
        ));
    }
    let pairs = images.chunks(contract.network_len()).zip(outputs.chunks(package.columns)).enumerate();
    pairs
        .map(|(i, (image, outputs))| {
            let used: Vec<f64> = package.column_of.iter().map(|column| f64::from(outputs[*column])).collect();
            let outputs = probabilities(package.activation, &used).map_err(|e| format!("outputs of image {i}: {e}"))?;
            let plane = plane(package, image).map_err(|problem| format!("image {i}: {problem}"))?;
            Ok(Case { picture: Picture::Given(plane), outputs })
        })
        .collect()
}

/// The plane that the contract spreads to this image.
fn plane(package: &Package, image: &[f32]) -> Result<Vec<f32>, String> {
    let contract = &package.contract;
    let (low, high) = (contract.low, contract.high);
    let allowed = TOLERANCE * (high - low);
    let channels = image.chunks(contract.plane_len()).zip(contract.mean.iter().zip(&contract.std));
    let mut planes =
        channels.map(|(channel, (mean, std))| channel.iter().map(|v| v * std + mean).collect::<Vec<f32>>());
    let mut first = planes.next().unwrap_or_default();
    if first.iter().any(|v| !(low - allowed..=high + allowed).contains(v)) {
        return Err(format!("without mean and deviation it is not within {low} to {high}, the contract's range"));
    }
    for other in planes {
        if first.iter().zip(&other).any(|(a, b)| (a - b).abs() > allowed) {
            return Err("its channels are not one grey image, each less its mean, by its deviation".to_owned());
        }
    }
    first.iter_mut().for_each(|v| *v = v.clamp(low, high));
    Ok(first)
}

fn tensor(file: &SafeTensors, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
    let view = file.tensor(name).map_err(|_| format!("lacks the tensor {name}"))?;
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        other => return Err(format!("{name} holds {other:?}, F32 and F64 are possible")),
    };
    // An infinite logarithm of a probability is one of zero.
    if values.iter().any(|v| v.is_nan() || *v == f32::INFINITY) {
        return Err(format!("{name} has values that are not finite"));
    }
    Ok((view.shape().to_vec(), values))
}
