//! The networks that can be trained: a small one of our own, and torchvision's.
//!
//! `compact` has some 0.3 million parameters (1.2 MB): four stages of 3×3 convolutions, then mean and maximum over
//! the image (textures show in the mean, small findings in the maximum), then one linear layer. Neighbours: the
//! layers and torchvision's networks are `infer`'s. Left out: pretrained weights.

use serde::Deserialize;
use tch::nn::{Path, VarStore};
use tch::{Device, TchError, Tensor};

use crate::infer::{self, Architecture, ConvOptions, Forward, conv, dropout, function, linear, norm, relu, sequence};

/// `[network]` of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkKind {
    pub architecture: TrainableArchitecture,
    /// Channels of the first stage of `compact`; later stages have twice and four times as many.
    #[serde(default = "width")]
    pub width: i64,
    /// Dropout before the last layer of `compact`.
    #[serde(default)]
    pub dropout: f64,
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
    /// With first weights drawn from libtorch's generator; seed that before.
    pub fn new(kind: NetworkKind, channels: i64, outputs: i64, device: Device) -> Result<Self, TchError> {
        let store = VarStore::new(device);
        let forward = match kind.architecture {
            TrainableArchitecture::Compact => compact(&store.root(), kind, channels, outputs)?,
            TrainableArchitecture::Torchvision(architecture) => {
                infer::build_network(&store.root(), architecture, outputs)?
            }
        };
        Ok(Self { store, forward })
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

fn width() -> i64 {
    16
}

fn compact(p: &Path, kind: NetworkKind, channels: i64, outputs: i64) -> Result<Forward, TchError> {
    let w = kind.width;
    let mut parts = Vec::new();
    // Channels in and out, stride; two pixels of the input per step after the first, 4, 8 and 16 at the end.
    let stages = [(channels, w, 2), (w, 2 * w, 1), (2 * w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 4 * w, 1), (4 * w, 8 * w, 2)];
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
    parts.push(dropout(kind.dropout));
    parts.push(linear(&(p / "fc"), 16 * w, outputs)?);
    Ok(sequence(parts))
}
