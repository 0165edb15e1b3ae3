//! Planes to planes: what is done to an image to see what a model makes of it.
//!
//! A [`Plane`] is one grey picture as a model's contract made it, from 0 to 1 and before mean and deviation; a
//! [`Transform`] changes it, a [`Battery`] is a list of such changes with names. The paper's experiments (Gichoya 2022)
//! are among them as its code does them ([`Form::AsPublished`]) and, where that departs from what its text says, as the
//! text says ([`Form::Corrected`]). Pure: seeds are arguments, the same arguments give the same values everywhere.
//! `fourier` filters, `resample` zooms, `grain` adds noise and blurs, `jpeg` recompresses; `paper` lists the paper's
//! changes row by row. Neighbours: `analyse` scores what comes out, `train` learns from it. Left out: models, and what a change of a score means (`assess`).

mod battery;
mod fourier;
mod grain;
mod jpeg;
pub mod paper;
mod resample;

use serde::{Deserialize, Serialize};

use crate::domain::{Contract, ModelInput};

pub use battery::{Battery, Perturbation};
pub use fourier::kept_bins;

use fourier::Spectra;

/// A square grey picture, row by row. 0 is the contract's lowest value and 1 its highest; filters and noise leave that
/// range, and nothing brings them back, as in the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    side: usize,
    values: Vec<f32>,
}

/// Whether a transform is the paper's code, or its text where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    AsPublished,
    Corrected,
}

/// Which side of a patch stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// The cell alone, enlarged to the whole plane.
    Cell,
    /// All but the cell, which becomes 0.
    Rest,
}

/// What is done to a plane. Frequencies are in cycles per image side, so that they mean the same on planes of any side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Transform {
    /// Keeps frequencies below a "diameter", which the paper's code takes for a radius.
    LowPass { diameter: f64, form: Form },
    /// Keeps the others.
    HighPass { diameter: f64, form: Form },
    /// Keeps an annulus of radii `inner` ≤ ρ < `outer`.
    BandPass { inner: f64, outer: f64 },
    /// Keeps all but that.
    Notch { inner: f64, outer: f64 },
    /// A window of this width around this level, in parts of the range: what lies beyond is cut.
    Window { width: f64, level: f64 },
    /// The middle of the plane, this share of its side, enlarged to the whole.
    FieldOfView { share: f64 },
    /// Adds normal noise. As published one field serves all planes of a batch; corrected each has its own.
    Noise { sigma: f64, seed: u64, form: Form },
    /// A Gaussian of this many pixels. As published it runs over the planes of a batch too.
    Blur { sigma: f64, form: Form },
    /// Averaged over areas down to this side, and bilinearly up again.
    Resolution { side: u32 },
    /// A cell of a 3 × 3 grid, 0 to 8 row by row. As published the cells are too small by the remainder of a third, so
    /// that the last pixels are in none.
    Patch { cell: u8, kept: Kept, form: Form },
    /// Recompression in 8 bits, quality 1 to 100 as of libjpeg.
    Jpeg { quality: u8 },
    /// What is brighter becomes this, in parts of the range.
    Ceiling { level: f64 },
    /// Rows `top` to below `bottom` and columns `left` to below `right` become 0, as far as the plane has them.
    Box { top: u32, left: u32, bottom: u32, right: u32 },
}

/// Which part of a plane stays beside a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// What the mask covers.
    Inside,
    /// All else.
    Outside,
}

/// What applies transforms; keeps plans, buffers and the last plane's spectrum, so that a battery of filters on one plane
/// transforms it once.
#[derive(Default)]
pub struct Lab {
    spectra: Spectra,
}

/// How a plane differs from the one that it was made of: what a model may react to that is no particular feature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Root of the mean squared difference.
    pub rms: f64,
    /// Logarithm of the ratio of the mean squared differences of neighbours: above 0 where it is sharper or noisier.
    pub sharpness: f64,
}

impl Plane {
    /// `None` unless there are side × side finite values.
    pub fn new(side: usize, values: Vec<f32>) -> Option<Self> {
        let fits = side > 0 && side.checked_mul(side) == Some(values.len());
        (fits && values.iter().all(|v| v.is_finite())).then_some(Self { side, values })
    }

    /// What a model was given, as a plane; `None` where it does not fit the contract.
    pub fn of_input(input: &ModelInput, contract: &Contract) -> Option<Self> {
        let span = contract.high - contract.low;
        let values = input.plane.iter().map(|v| (v - contract.low) / span).collect();
        Self::new(contract.size as usize, values).filter(|_| input.contract == contract.digest())
    }

    /// The plane as an input of that contract.
    pub fn to_input(&self, contract: &Contract) -> ModelInput {
        let span = contract.high - contract.low;
        let plane = self.values.iter().map(|v| contract.low + span * v).collect();
        ModelInput { contract: contract.digest(), plane }
    }

    pub fn side(&self) -> usize {
        self.side
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The plane with 0 where it is not kept. A mask covers what is ½ or more in it; `None` for one of another side.
    pub fn masked(&self, mask: &Plane, kept: Region) -> Option<Self> {
        let stays = |covering: &f32| (*covering >= 0.5) == (kept == Region::Inside);
        let pairs = self.values.iter().zip(&mask.values);
        let values = pairs.map(|(value, covering)| if stays(covering) { *value } else { 0.0 }).collect();
        (mask.side == self.side).then_some(Self { side: self.side, values })
    }

    /// How this plane differs from `original`, of the same side.
    pub fn quality(&self, original: &Plane) -> Quality {
        let square = |a: f32, b: f32| f64::from(a - b).powi(2);
        let sum: f64 = self.values.iter().zip(&original.values).map(|(a, b)| square(*a, *b)).sum();
        let energy = |plane: &Plane| {
            let rows = plane.values.chunks(plane.side);
            let across: f64 = rows.clone().flat_map(|row| row.windows(2)).map(|w| square(w[0], w[1])).sum();
            let down: f64 =
                rows.clone().zip(rows.skip(1)).flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| square(*a, *b)).sum();
            (across + down) / plane.values.len() as f64
        };
        // A plane without any structure has no sharpness to compare with; a grey level of 12 bits is 2.4e-4.
        let sharpness = ((energy(self) + 1e-9) / (energy(original) + 1e-9)).ln();
        Quality { rms: (sum / self.values.len() as f64).sqrt(), sharpness }
    }
}

impl Transform {
    /// What cannot be meant, if anything.
    pub fn fault(&self) -> Option<String> {
        let positive = |what: &str, value: f64| {
            (!(value.is_finite() && value > 0.0)).then(|| format!("{what} is {value}, it must be greater than 0"))
        };
        match *self {
            Self::LowPass { diameter, .. } | Self::HighPass { diameter, .. } => positive("a diameter", diameter),
            Self::BandPass { inner, outer } | Self::Notch { inner, outer } => {
                let ordered = inner.is_finite() && outer.is_finite() && 0.0 <= inner && inner < outer;
                (!ordered).then(|| format!("radii {inner} and {outer} are not in order"))
            }
            Self::Window { width, level } => positive("a width", width)
                .or_else(|| (!level.is_finite()).then(|| format!("a level is {level}, it must be a number"))),
            Self::FieldOfView { share } => {
                (!(share > 0.0 && share <= 1.0)).then(|| format!("a share is {share}, it must be within 0 and 1"))
            }
            Self::Noise { sigma, .. } => positive("sigma", sigma),
            // The kernel is of eight sigma.
            Self::Blur { sigma, .. } => positive("sigma", sigma)
                .or_else(|| (sigma > 1000.0).then(|| format!("sigma is {sigma}, at most 1000 is possible"))),
            Self::Resolution { side } => (side == 0).then(|| "a side of 0 pixels holds nothing".to_owned()),
            Self::Patch { cell, .. } => (cell > 8).then(|| format!("cell {cell} is not among 0 to 8")),
            Self::Jpeg { quality } => {
                (!(1..=100).contains(&quality)).then(|| format!("quality {quality} is not within 1 and 100"))
            }
            Self::Ceiling { level } => (!level.is_finite()).then(|| format!("a level is {level}, it must be a number")),
            Self::Box { top, left, bottom, right } => (top >= bottom || left >= right)
                .then(|| format!("a box of rows {top} to {bottom} and columns {left} to {right} holds nothing")),
        }
    }

    /// Its kind and parameters, without what seeds change: `high-pass 100 as published`.
    pub fn name(&self) -> String {
        let form = |form: Form| if form == Form::AsPublished { " as published" } else { "" };
        match *self {
            Self::LowPass { diameter, form: f } => format!("low-pass {diameter}{}", form(f)),
            Self::HighPass { diameter, form: f } => format!("high-pass {diameter}{}", form(f)),
            Self::BandPass { inner, outer } => format!("band-pass {inner}-{outer}"),
            Self::Notch { inner, outer } => format!("notch {inner}-{outer}"),
            Self::Window { width, level: 0.5 } => format!("window {width}"),
            Self::Window { width, level } => format!("window {width} at {level}"),
            Self::FieldOfView { share } => format!("field of view {share}"),
            Self::Noise { sigma, form: f, .. } => format!("noise {sigma}{}", form(f)),
            Self::Blur { sigma, form: f } => format!("blur {sigma}{}", form(f)),
            Self::Resolution { side } => format!("resolution {side}"),
            Self::Patch { cell, kept: Kept::Cell, form: f } => format!("cell {cell}{}", form(f)),
            Self::Patch { cell, kept: Kept::Rest, form: f } => format!("without cell {cell}{}", form(f)),
            Self::Jpeg { quality } => format!("jpeg {quality}"),
            Self::Ceiling { level } => format!("ceiling {level}"),
            Self::Box { top, left, bottom, right } => format!("without box {top},{left} to {bottom},{right}"),
        }
    }
}

impl Lab {
    /// The plane changed; as it is by a transform with a [`Transform::fault`].
    pub fn apply(&mut self, transform: Transform, plane: &Plane) -> Plane {
        self.apply_at(0, transform, plane)
    }

    /// The same at a place in a batch whose other planes are not there: noise is this place's own.
    pub fn apply_at(&mut self, place: usize, transform: Transform, plane: &Plane) -> Plane {
        if transform.fault().is_some() {
            return plane.clone();
        }
        // A published blur of one plane runs over that alone, which leaves it as it is.
        self.one(transform, place, plane)
    }

    /// A batch of planes changed. What is done to one depends on the others only where the paper's code had it so:
    /// noise and blur as published. A published blur needs planes of one side.
    pub fn apply_all(&mut self, transform: Transform, planes: &[Plane]) -> Vec<Plane> {
        if transform.fault().is_some() {
            return planes.to_vec();
        }
        let mut changed: Vec<Plane> =
            planes.iter().enumerate().map(|(place, plane)| self.one(transform, place, plane)).collect();
        if let Transform::Blur { sigma, form: Form::AsPublished } = transform {
            grain::blur_across(&mut changed, sigma);
        }
        changed
    }

    fn one(&mut self, transform: Transform, place: usize, plane: &Plane) -> Plane {
        let (side, values) = (plane.side, &plane.values);
        let values = match transform {
            Transform::LowPass { .. }
            | Transform::HighPass { .. }
            | Transform::BandPass { .. }
            | Transform::Notch { .. } => self.spectra.filtered(transform, plane),
            Transform::Window { width, level } => {
                let window = |v: &f32| ((f64::from(*v) - level) / width + 0.5).clamp(0.0, 1.0) as f32;
                values.iter().map(window).collect()
            }
            Transform::FieldOfView { share } => {
                let length = share * side as f64;
                let start = (side as f64 - length) / 2.0;
                resample::zoomed(plane, [start, start], [length, length], [(0, side), (0, side)])
            }
            Transform::Noise { sigma, seed, form } => {
                let field = if form == Form::AsPublished { 0 } else { place as u64 };
                grain::noisy(values, sigma, seed, field)
            }
            Transform::Blur { sigma, .. } => grain::blurred(plane, sigma),
            Transform::Resolution { side: to } => resample::coarse(plane, to as usize),
            Transform::Patch { cell, kept, form } => resample::patch(plane, cell, kept, form),
            Transform::Jpeg { quality } => jpeg::recompressed(plane, quality),
            Transform::Ceiling { level } => values.iter().map(|v| v.min(level as f32)).collect(),
            Transform::Box { top, left, bottom, right } => {
                let [top, left, bottom, right] = [top, left, bottom, right].map(|edge| (edge as usize).min(side));
                resample::without(plane, (top, bottom), (left, right))
            }
        };
        Plane { side, values }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
