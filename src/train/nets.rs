//! The networks that can be trained: a small one of our own, and torchvision's.
//!
//! `compact` at width 16 has 0.15 million parameters (0.6 MB): the image and its local contrast, six 3×3
//! convolutions, then mean and maximum over the image (textures show in the mean, small findings in the maximum),
//! then one linear layer. Torchvision's networks may start from weights of a file. Neighbours: the layers and
//! torchvision's networks are `infer`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::Deserialize;
use tch::nn::{Path, VarStore};
use tch::{Device, TchError, Tensor};

use crate::domain::Digest;
use crate::infer::{
    self, Architecture, ConvOptions, Forward, StartWeights, conv, dropout, function, linear, norm, relu, sequence,
};

/// `[network]` of a recipe.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkKind {
    pub architecture: TrainableArchitecture,
    /// Channels of the first stage of `compact`; later stages have twice and four times as many.
    #[serde(default = "width")]
    pub width: i64,
    /// Share of the features that are left out before the last layer, in training; without it torchvision's, and none in
    /// `compact`.
    pub dropout: Option<f64>,
    /// Share of the images for which residual blocks are passed over in training, as EfficientNet has it.
    #[serde(default)]
    pub drop_connect: f64,
    /// Weights to start from, under torchvision's names.
    pub start_weights: Option<StartFile>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartFile {
    /// A safetensors file; relative to the recipe.
    pub file: PathBuf,
    pub sha256: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainableArchitecture {
    Compact,
    Torchvision(Architecture),
}

/// A network and its parameters.
pub struct Network {
    pub store: VarStore,
    pub forward: Forward,
}

impl Network {
    /// With first weights drawn from `rng`: libtorch's generator is the process's, and others may draw from it.
    pub fn new(
        kind: &NetworkKind,
        channels: i64,
        outputs: i64,
        device: Device,
        rng: &mut ChaCha8Rng,
    ) -> Result<Self, TchError> {
        let store = VarStore::new(device);
        let forward = match kind.architecture {
            TrainableArchitecture::Compact => compact(&store.root(), kind, channels, outputs)?,
            TrainableArchitecture::Torchvision(architecture) => {
                let drop = infer::DropOptions { features: kind.dropout, connect: kind.drop_connect };
                infer::build_network(&store.root(), architecture, infer::Width { channels, columns: outputs }, drop)?
            }
        };
        draw_weights(&store, rng)?;
        Ok(Self { store, forward })
    }

    /// Takes the weights of the recipe's file, where it names one.
    pub fn start(&self, kind: &NetworkKind, channels: i64, outputs: i64) -> anyhow::Result<Option<StartWeights>> {
        let Some(StartFile { file, sha256 }) = &kind.start_weights else { return Ok(None) };
        let TrainableArchitecture::Torchvision(architecture) = kind.architecture else { return Ok(None) };
        let name = || format!("network.start_weights {}", file.display());
        let bytes = std::fs::read(file).with_context(name)?;
        let found = Digest::of(&bytes);
        ensure!(found == *sha256, "{}: its SHA-256 is {found}, the recipe says {sha256}", name());
        let width = infer::Width { channels, columns: outputs };
        let taken = infer::load_start_weights(&self.store, &bytes, architecture, width);
        taken.map(Some).map_err(anyhow::Error::msg).with_context(name)
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("parameters", &self.store.len()).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for TrainableArchitecture {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name == "compact" {
            return Ok(Self::Compact);
        }
        let of = serde::de::value::StrDeserializer::<D::Error>::new(&name);
        Architecture::deserialize(of).map(Self::Torchvision)
    }
}

/// Convolutions as He et al. 2015 (normal, fan out), linear layers uniform within 1/√inputs; the rest stays.
fn draw_weights(store: &VarStore, rng: &mut ChaCha8Rng) -> Result<(), TchError> {
    let _guard = tch::no_grad_guard();
    let variables: BTreeMap<String, Tensor> = store.variables().into_iter().collect();
    for mut variable in variables.into_values() {
        let size = variable.size();
        let count = size.iter().product::<i64>().max(0) as usize;
        let values: Vec<f32> = match size.as_slice() {
            [c_out, _, height, width] => {
                let std = (2.0 / (c_out * height * width) as f32).sqrt();
                (0..count).map(|_| std * rng.sample::<f32, _>(StandardNormal)).collect()
            }
            [_, c_in] => {
                let bound = 1.0 / (*c_in as f32).sqrt();
                (0..count).map(|_| rng.random_range(-bound..bound)).collect()
            }
            _ => continue,
        };
        variable.f_copy_(&Tensor::f_from_slice(&values)?.f_view(size.as_slice())?)?;
    }
    Ok(())
}

fn width() -> i64 {
    16
}

fn compact(p: &Path, kind: &NetworkKind, channels: i64, outputs: i64) -> Result<Forward, TchError> {
    let w = kind.width;
    let mut parts = vec![local_contrast(&(p / "contrast"), channels)?];
    // Channels in and out, stride: from half the input's resolution to a sixteenth.
    let stages = [
        (2 * channels, w, 2),
        (w, 2 * w, 1),
        (2 * w, 2 * w, 2),
        (2 * w, 4 * w, 2),
        (4 * w, 4 * w, 1),
        (4 * w, 8 * w, 2),
    ];
    for (i, (c_in, c_out, stride)) in stages.into_iter().enumerate() {
        let options = ConvOptions { stride, padding: 1, ..ConvOptions::default() };
        parts.push(conv(&(p / format!("conv{i}")), c_in, c_out, 3, options)?);
        parts.push(norm(&(p / format!("norm{i}")), c_out)?);
        parts.push(relu());
    }
    parts.push(function(|xs| {
        let mean = xs.f_mean_dim([2i64, 3].as_slice(), false, None)?;
        let highest = xs.f_amax([2i64, 3].as_slice(), false)?;
        Tensor::f_cat(&[mean, highest], 1)
    }));
    parts.push(dropout(kind.dropout.unwrap_or(0.0)));
    parts.push(linear(&(p / "fc"), 16 * w, outputs)?);
    Ok(sequence(parts))
}

/// The image, and beside it what differs from the mean of its 7×7 neighbourhood: to unit variance, then softly
/// clipped, so that bones and the body's outline do not drown a faint texture or line.
fn local_contrast(p: &Path, channels: i64) -> Result<Forward, TchError> {
    let (level, contrast) = (norm(&(p / "level"), channels)?, norm(&(p / "detail"), channels)?);
    Ok(Box::new(move |xs, train| {
        let mean = xs.f_avg_pool2d([7, 7], [1, 1], [3, 3], false, false, None)?;
        let detail = contrast(&xs.f_sub(&mean)?, train)?.f_mul_scalar(4.0)?.f_tanh()?;
        Tensor::f_cat(&[level(xs, train)?, detail], 1)
    }))
}
