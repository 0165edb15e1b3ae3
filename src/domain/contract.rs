//! Input contracts: what a model expects its pixels to be, and the tensor that fulfils one.

use serde::{Deserialize, Serialize};

use super::{Digest, InstanceHeader, Orientation, Refusal, RefusalCode};

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
    /// A fixed window on modality values, whatever their unit.
    Fixed { center: f64, width: f64 },
    /// A fixed window in Hounsfield units; an image that is not rescaled to them is refused. They are a physical
    /// quantity, so that MONOCHROME1, which says how they are shown, does not invert them.
    HuWindow { center: f64, width: f64 },
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

/// How pixels are combined when the image is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// A triangle as wide as the scale: torchvision's antialiased bilinear.
    #[default]
    Bilinear,
    /// The mean over the area that an output pixel covers: OpenCV's `INTER_AREA`; torch's adaptive average pooling
    /// where the scale is a whole number.
    Area,
}

/// What becomes the lowest output besides padding; both are left out of the observed range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// What lies outside the display shutter or the collimator (PS3.3 C.7.6.11, C.8.7.3).
    Shutter,
    /// Black and white borders that are part of the pixels.
    Border,
}

/// A model's input contract. After `range` maps to 0..1 (MONOCHROME1 inverted, last in the Standard's order),
/// what `mask` names becomes 0, the image is turned to its `orientation`, resized, and values become
/// `low + (high − low)·v`: one grey plane, a [`ModelInput`]. Where the model is, that is repeated over `channels`, and
/// `(v − mean) / std` applied per channel.
///
/// Fields at their default are left out of the JSON that [`Contract::digest`] hashes, so that a contract keeps its
/// digest when the grammar grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// A preset's name or one of the site's own.
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
    #[serde(default, skip_serializing_if = "is_default")]
    pub filter: Filter,
    #[serde(default, skip_serializing_if = "is_default")]
    pub orientation: Orientation,
    /// Without repetition, in the order of [`Mask`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<Mask>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
            filter: Filter::default(),
            orientation: Orientation::default(),
            mask: Vec::new(),
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
            // a lung window; other organs override `range` under a name of their own
            "ct-window" => {
                let lung = ValueRange::HuWindow { center: -600.0, width: 1500.0 };
                Some(base(lung, 0.0, 1.0, Fit::PadSquare, 1, &[0.0], &[1.0]))
            }
            "mammo" => {
                let upright = base(ValueRange::Window, 0.0, 1.0, Fit::PadSquare, 1, &[0.0], &[1.0]);
                Some(Self { orientation: Orientation::LateralityLeft, ..upright })
            }
            _ => None,
        }
    }

    /// The names that [`Contract::preset`] knows.
    pub const PRESETS: [&'static str; 5] = ["imagenet-rgb", "xrv-1024", "minmax-unit", "ct-window", "mammo"];

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
        if let ValueRange::Fixed { center, width } | ValueRange::HuWindow { center, width } = self.range
            && !(center.is_finite() && width.is_finite() && width > 0.0)
        {
            return Some("a fixed window needs a finite center and a width greater than 0".into());
        }
        if !self.mask.is_sorted_by(|a, b| a < b) {
            return Some("mask lists shutter and border once each, in this order".into());
        }
        None
    }

    /// Whether this image can fulfil the contract, as far as its header says; asked before pixels are decoded, so that
    /// a contract that one model needs takes no image from another.
    pub fn admits(&self, header: &InstanceHeader) -> Result<(), Refusal> {
        self.admits_units(header.image.hounsfield)?;
        let image = &header.image;
        self.orientation.turn(&image.patient_orientation, image.orientation, image.laterality).map(|_| ())
    }

    /// Whether modality values of this unit are what the range policy is about.
    pub fn admits_units(&self, hounsfield: bool) -> Result<(), Refusal> {
        if !hounsfield && matches!(self.range, ValueRange::HuWindow { .. }) {
            let detail = format!("contract {} needs Hounsfield units, the image is not rescaled to them", self.name);
            return Err(Refusal::new(RefusalCode::OutOfScope, detail));
        }
        Ok(())
    }

    /// Digest over every field: two contracts with the same digest treat pixels the same way.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a contract is plain data"))
    }

    /// `name@size/v1 hash…`, as written into reports.
    pub fn label(&self) -> String {
        format!("{}@{}/v{} {}", self.name, self.size, self.version, self.digest().short())
    }

    /// Number of values of a [`ModelInput`]: size × size.
    pub fn plane_len(&self) -> usize {
        self.size as usize * self.size as usize
    }

    /// Number of values that the network is given for one image: channels × size × size.
    pub fn network_len(&self) -> usize {
        usize::from(self.channels) * self.plane_len()
    }

    /// What the network is given for one plane: channel, row, column.
    pub fn spread(&self, plane: &[f32]) -> Vec<f32> {
        let channels = self.mean.iter().zip(&self.std);
        channels.flat_map(|(mean, std)| plane.iter().map(move |v| (v - mean) / std)).collect()
    }
}

/// One image as a contract makes it, before its channels: [`Contract::plane_len`] finite grey values, row by row, from the
/// contract's `low` to its `high`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInput {
    /// [`Contract::digest`] of the contract that it fulfils.
    pub contract: Digest,
    pub plane: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests of the first release: reports that carry them stay true.
    #[test]
    fn the_digest_of_a_preset_never_changes() {
        let rows = [
            ("imagenet-rgb", "3f80c1b83ab55ecd4b588436977d9ede8a91ea78d6b5a7a83ff0669ae8cb1b15"),
            ("xrv-1024", "f0b8b25cae185b809a9691707fe1cd975d64a0b82582eea566d4a10dd234dba4"),
            ("minmax-unit", "cc7c837a3b151861d87762b827202a30d0efe355671e36be0059f210609e060c"),
            ("ct-window", "8c9ea5eca8e5e4d5ac763bfe8f6f8889ef334ba96c0304c546df95b3a6c922b4"),
            ("mammo", "cf980b52bc381b67005d177307289e75ba616544dd30508731ffe2bdfce76aa9"),
        ];
        for (name, expected) in rows {
            let contract = Contract::preset(name, 224).unwrap();
            assert_eq!((contract.digest().to_string().as_str(), contract.fault()), (expected, None), "{name}");
        }
    }

    #[test]
    fn every_field_changes_the_digest_and_survives_json() {
        let base = Contract::preset("ct-window", 64).unwrap();
        let mut seen = vec![base.digest()];
        for changed in [
            Contract { filter: Filter::Area, ..base.clone() },
            Contract { orientation: Orientation::PatientOrientation, ..base.clone() },
            Contract { mask: vec![Mask::Shutter], ..base.clone() },
            Contract { mask: vec![Mask::Shutter, Mask::Border], ..base.clone() },
            Contract { range: ValueRange::HuWindow { center: 40.0, width: 400.0 }, ..base.clone() },
            Contract { range: ValueRange::Fixed { center: -600.0, width: 1500.0 }, ..base.clone() },
        ] {
            let json = serde_json::to_string(&changed).unwrap();
            assert_eq!(serde_json::from_str::<Contract>(&json).unwrap(), changed);
            assert!(!seen.contains(&changed.digest()), "{json}");
            seen.push(changed.digest());
        }
    }

    #[test]
    fn a_plane_repeats_over_the_channels_with_the_mean_and_deviation_of_each() {
        let contract = Contract::preset("imagenet-rgb", 8).unwrap();
        let mut plane = vec![0.5; contract.plane_len()];
        plane[1] = 1.0;
        let spread = contract.spread(&plane);
        assert_eq!((spread.len(), contract.network_len()), (3 * 64, 3 * 64));
        for (channel, expected) in spread.chunks(64).zip([2.248_908_3, 2.428_571_4, 2.64]) {
            assert!((channel[1] - expected).abs() < 1e-5 && channel[0] == channel[63], "{expected}");
        }
        assert!((spread[0] - 0.065_502_2).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_meant_is_a_fault() {
        let base = Contract::preset("ct-window", 64).unwrap();
        let window = |center, width| Contract { range: ValueRange::HuWindow { center, width }, ..base.clone() };
        let rows = [
            (window(f64::NAN, 1.0), "finite center"),
            (window(0.0, 0.0), "width greater than 0"),
            (Contract { mask: vec![Mask::Border, Mask::Shutter], ..base.clone() }, "in this order"),
            (Contract { mask: vec![Mask::Border, Mask::Border], ..base.clone() }, "once each"),
        ];
        for (contract, expected) in rows {
            let fault = contract.fault().unwrap_or_default();
            assert!(fault.contains(expected), "{fault}");
        }
    }
}
