//! Input contracts: what a model expects its pixels to be, and the tensor that fulfils one.

use serde::{Deserialize, Serialize};

use super::Digest;

/// How decoded values (after the modality LUT) are brought to 0..1, before `low`..`high` is applied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "policy", deny_unknown_fields)]
pub enum ValueRange {
    /// The range that Bits Stored and Pixel Representation allow, carried through the modality LUT.
    StoredBits,
    /// The smallest and largest value that this image holds, padding left out.
    Observed,
    /// The image's own VOI LUT or window; the observed range where it has none.
    Window,
    /// A fixed window on modality values, e.g. Hounsfield units.
    Fixed { center: f64, width: f64 },
}

/// How an image that is not square comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Both axes are resized to `size`, the aspect ratio is not kept.
    Stretch,
    /// The largest centred square is cut out, then resized.
    CropCenter,
    /// Padded to a square with the lowest value, then resized.
    PadSquare,
}

/// A model's input contract. After `range` maps to 0..1 (MONOCHROME1 inverted, last in the Standard's order),
/// values become `low + (high − low)·v`, are resized (bilinear, antialiased), repeated over `channels`, and
/// `(v − mean) / std` is applied per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// `imagenet-rgb`, `xrv-1024`, `minmax-unit`, or a name of the site's own.
    pub name: String,
    /// Raised whenever the meaning of the name changes.
    pub version: u32,
    pub range: ValueRange,
    pub low: f32,
    pub high: f32,
    /// Side of the square input, pixels.
    pub size: u32,
    pub fit: Fit,
    pub channels: u8,
    /// One value per channel.
    pub mean: Vec<f32>,
    /// One value per channel, none zero.
    pub std: Vec<f32>,
}

impl Contract {
    /// The named preset at `size` pixels, if there is one of that name.
    pub fn preset(name: &str, size: u32) -> Option<Self> {
        let base = |range, low, high, fit, channels: u8, mean: &[f32], std: &[f32]| Self {
            name: name.to_owned(),
            version: 1,
            range,
            low,
            high,
            size,
            fit,
            channels,
            mean: mean.to_vec(),
            std: std.to_vec(),
        };
        match name {
            "imagenet-rgb" => Some(base(
                ValueRange::Window,
                0.0,
                1.0,
                Fit::Stretch,
                3,
                &[0.485, 0.456, 0.406],
                &[0.229, 0.224, 0.225],
            )),
            "xrv-1024" => Some(base(ValueRange::StoredBits, -1024.0, 1024.0, Fit::CropCenter, 1, &[0.0], &[1.0])),
            "minmax-unit" => Some(base(ValueRange::Observed, 0.0, 1.0, Fit::Stretch, 1, &[0.0], &[1.0])),
            _ => None,
        }
    }

    /// The names that [`Contract::preset`] knows.
    pub const PRESETS: [&'static str; 3] = ["imagenet-rgb", "xrv-1024", "minmax-unit"];

    /// The rule that the contract breaks, if any.
    pub fn fault(&self) -> Option<String> {
        if !(8..=4096).contains(&self.size) {
            return Some(format!("size {} is outside 8 to 4096", self.size));
        }
        if !matches!(self.channels, 1 | 3) {
            return Some(format!("channels is {}, 1 or 3 are possible", self.channels));
        }
        let n = usize::from(self.channels);
        if self.mean.len() != n || self.std.len() != n {
            return Some(format!("mean and std need {n} values, one per channel"));
        }
        if self.std.iter().any(|s| !s.is_finite() || *s == 0.0) || self.mean.iter().any(|m| !m.is_finite()) {
            return Some("mean must be finite and std finite and not 0".into());
        }
        if !self.low.is_finite() || !self.high.is_finite() || self.low >= self.high {
            return Some("low must be less than high".into());
        }
        if let ValueRange::Fixed { width, .. } = self.range
            && !(width.is_finite() && width > 0.0)
        {
            return Some("the width of a fixed window must be greater than 0".into());
        }
        None
    }

    /// Digest over every field: two contracts with the same digest treat pixels the same way.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a contract is plain data"))
    }

    /// `name@size/v1 hash…`, as written into reports.
    pub fn label(&self) -> String {
        format!("{}@{}/v{} {}", self.name, self.size, self.version, self.digest().short())
    }

    /// Number of values of one input: channels × size × size.
    pub fn len(&self) -> usize {
        usize::from(self.channels) * self.size as usize * self.size as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One image as a model sees it: channel, row, column; `contract.len()` finite values.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInput {
    /// [`Contract::digest`] of the contract that it fulfils.
    pub contract: Digest,
    pub values: Vec<f32>,
}
