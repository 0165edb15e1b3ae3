//! Maps of what in an image speaks for a model's output: what they are of, and their values.

use serde::{Deserialize, Serialize};

use super::{Finding, ModelIdentity};

/// How a map is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapMethod {
    /// Rectified, its largest value 1: the scale says nothing beyond the image.
    Gradcam,
    /// By how much the score (0 to 1) is less where the image is covered; below 0 where it is more.
    Occlusion,
}

/// What covers a part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Fill {
    /// The mean of the image.
    #[default]
    Mean,
    /// A grey value, 0 (the contract's lowest) to 1.
    Grey(f32),
}

/// Which output a map is of.
#[derive(Debug, Clone, PartialEq)]
pub enum MapTarget {
    Finding(Box<Finding>),
    /// All groups of a race model together: no map is of one group.
    Groups,
}

/// A map of a square model input.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributionMap {
    pub method: MapMethod,
    pub model: ModelIdentity,
    pub target: MapTarget,
    /// Pixels.
    pub side: u32,
    /// Row by row, finite.
    pub values: Vec<f32>,
}

impl MapMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            MapMethod::Gradcam => "gradcam",
            MapMethod::Occlusion => "occlusion",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            MapMethod::Gradcam => "Grad-CAM",
            MapMethod::Occlusion => "Occlusion",
        }
    }
}

impl AttributionMap {
    /// The finding's key, or `groups`: never the name of a group.
    pub fn target_key(&self) -> &str {
        match &self.target {
            MapTarget::Finding(finding) => &finding.key,
            MapTarget::Groups => "groups",
        }
    }

    /// Smallest and largest value.
    pub fn extent(&self) -> (f32, f32) {
        self.values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)))
    }

    /// What speaks for the output, as parts (0 to 1) of the largest value; 0 throughout where nothing does.
    pub fn parts(&self) -> Vec<f32> {
        let largest = self.extent().1;
        let part = |v: &f32| if largest > 0.0 { (v / largest).clamp(0.0, 1.0) } else { 0.0 };
        self.values.iter().map(part).collect()
    }
}
