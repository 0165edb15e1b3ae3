//! Fitting an out-of-distribution score: the threshold, and what it is measured from, of images that a model knows.
//!
//! The score of a study is that of its farthest image, and of an image the mean over its frames, so the threshold is a
//! percentile of studies. Mahalanobis' mean and covariance (of one class, shrunk as Ledoit and Wolf 2004) come from one
//! half of the patients and the threshold from the other, since images lie nearer to a mean of which they are a part.
//! Neighbours: `ood` (the score itself), the command `model ood-fit` (reads the images). Left out: classes, which images
//! of a site have not; whether the images are normal.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tch::{Kind, TchError, Tensor};

use crate::domain::{Digest, Uid};

use super::error::torch_reason;
use super::files;
use super::manifest::Package;
use super::ood::{Gaussians, Ood, OodCard};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OodMethod {
    Energy,
    Mahalanobis,
}

/// A frame that the model scored, of an image that it is to know.
#[derive(Debug, Clone)]
pub struct KnownFrame {
    /// Nobody is in both halves.
    pub patient: String,
    pub study: Uid,
    pub image: Uid,
    /// What the package of [`collecting`] answered.
    pub outputs: Vec<f64>,
}

/// A score that was fitted, for the card.
#[derive(Debug, Clone)]
pub struct OodFit {
    pub card: OodCard,
    sidecar: Option<(String, Vec<u8>)>,
    /// Of which the threshold is a percentile.
    pub studies: usize,
    /// Of which mean and covariance are; 0 for energy.
    pub frames: usize,
    /// Of the studies' scores.
    pub median: f64,
    pub threshold: f64,
}

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub enum OodFitError {
    #[error("{0}")]
    Method(String),
    #[error("the percentile {0} is not from 50 to below 100")]
    Percentile(f64),
    #[error(
        "{given} studies are there for the threshold, a percentile of {percentile} needs {needed} (twice as many in all for \
         mahalanobis): bring more, or ask for a lower percentile"
    )]
    Studies { given: usize, needed: usize, percentile: f64 },
    #[error("mean and covariance of {0} frames say nothing, {least} are needed: bring more images", least = FRAMES_MIN)]
    Frames(usize),
    #[error("{0} numbers are more than fit in memory: fewer images will do")]
    TooMuch(usize),
    #[error("the features are the same in every image: there is nothing to measure a distance by")]
    Constant,
    #[error("libtorch: {0}")]
    Torch(String),
    #[error("the card cannot be written: {0}")]
    File(#[from] std::io::Error),
}

const FRAMES_MIN: usize = 20;
/// A gibibyte.
const NUMBERS_MAX: usize = 1 << 27;
/// The part of the mean variance that is mixed in at least: some features are zero in every image.
const SHRINKAGE_MIN: f64 = 1e-3;

/// The package as it answers for a fit: behind the probabilities there is the energy, or there are the features.
pub fn collecting(package: &Package, method: OodMethod) -> Result<Package, OodFitError> {
    let ood = match method {
        OodMethod::Mahalanobis => Ood::features(),
        OodMethod::Energy => {
            let card = OodCard::Energy { temperature: 1.0, threshold: f64::MAX };
            Ood::new(card, &package.dir, package.activation)
                .map_err(|[_, problem, remedy]| OodFitError::Method(format!("{problem}; {remedy}")))?
        }
    };
    Ok(Package { ood: Some(ood), golden: None, ..package.clone() })
}

/// Fits the score of `package` so that `percentile` of the studies are not beyond it.
pub fn fit_ood(
    package: &Package,
    method: OodMethod,
    frames: &[KnownFrame],
    percentile: f64,
) -> Result<OodFit, OodFitError> {
    if !(50.0..100.0).contains(&percentile) {
        return Err(OodFitError::Percentile(percentile));
    }
    let behind = |frame: &KnownFrame| frame.outputs.get(package.column_of.len()..).unwrap_or(&[]).to_vec();
    match method {
        OodMethod::Energy => {
            let energies = frames.iter().filter_map(|f| Some((f, *behind(f).first()?))).collect();
            let scores = of_studies(energies);
            let threshold = threshold(&scores, percentile)?;
            let card = OodCard::Energy { temperature: 1.0, threshold };
            Ok(OodFit { card, sidecar: None, studies: scores.len(), frames: 0, median: median(&scores), threshold })
        }
        OodMethod::Mahalanobis => {
            let numbers: usize = frames.iter().map(|f| f.outputs.len()).sum();
            if numbers > NUMBERS_MAX {
                return Err(OodFitError::TooMuch(numbers));
            }
            let (fitted, aside): (Vec<_>, Vec<_>) = {
                let half = halves(frames);
                frames.iter().partition(|f| half[f.patient.as_str()])
            };
            let rows: Vec<Vec<f64>> = fitted.into_iter().map(behind).collect();
            if rows.len() < FRAMES_MIN {
                return Err(OodFitError::Frames(rows.len()));
            }
            let gaussians = gaussian(&rows)?;
            let mut distances = Vec::with_capacity(aside.len());
            for frame in aside {
                let distance = gaussians.distance(&behind(frame)).map_err(|e| OodFitError::Method(e.to_string()))?;
                distances.push((frame, distance));
            }
            let scores = of_studies(distances);
            let threshold = threshold(&scores, percentile)?;
            let bytes = written(&gaussians).map_err(OodFitError::Method)?;
            let sha256 = Digest::of(&bytes);
            let file = format!("{START}{}{ENDING}", sha256.short());
            let card = OodCard::Mahalanobis { file: file.clone(), sha256, threshold };
            let (studies, frames, median) = (scores.len(), rows.len(), median(&scores));
            Ok(OodFit { card, sidecar: Some((file, bytes)), studies, frames, median, threshold })
        }
    }
}

const START: &str = "ood-";
const ENDING: &str = ".safetensors";

/// Puts the score into the card of the package in `dir`, in the place of the one that it had.
pub fn write_ood(dir: &Path, fit: &OodFit) -> Result<(), OodFitError> {
    if let Some((file, bytes)) = &fit.sidecar {
        files::write_durably(&dir.join(file), bytes)?;
    }
    let section = toml::to_string(&fit.card).map_err(std::io::Error::other)?;
    files::pin_section(&dir.join("model.toml"), "ood", &section)?;
    let kept = fit.sidecar.as_ref().map_or("", |(file, _)| file);
    Ok(files::remove_others(dir, START, &[ENDING], kept)?)
}

/// Whether mean and covariance are of this patient: of every second one, in an order that says nothing of them.
fn halves(frames: &[KnownFrame]) -> BTreeMap<&str, bool> {
    let mut patients: Vec<&str> = frames.iter().map(|f| f.patient.as_str()).collect();
    patients.sort_by_cached_key(|patient| Digest::of(patient.as_bytes()).as_str().to_owned());
    patients.dedup();
    patients.into_iter().enumerate().map(|(i, patient)| (patient, i % 2 == 0)).collect()
}

/// The scores of studies, sorted: each that of its farthest image, whose score is the mean over its frames as everything
/// else is that a node keeps of it.
fn of_studies(scores: Vec<(&KnownFrame, f64)>) -> Vec<f64> {
    let mut images: BTreeMap<(&Uid, &Uid), Vec<f64>> = BTreeMap::new();
    for (frame, score) in scores {
        images.entry((&frame.study, &frame.image)).or_default().push(score);
    }
    let mut studies: BTreeMap<&Uid, f64> = BTreeMap::new();
    for ((study, _), frames) in images {
        let score = frames.iter().sum::<f64>() / frames.len() as f64;
        studies.entry(study).and_modify(|s| *s = s.max(score)).or_insert(score);
    }
    let mut scores: Vec<f64> = studies.into_values().collect();
    scores.sort_by(f64::total_cmp);
    scores
}

/// The smallest of these sorted scores that `percentile` of them do not exceed.
fn threshold(scores: &[f64], percentile: f64) -> Result<f64, OodFitError> {
    let needed = (100.0 / (100.0 - percentile)).ceil() as usize;
    let rank = (percentile / 100.0 * scores.len() as f64).ceil() as usize;
    match scores.get(rank.saturating_sub(1)) {
        Some(score) if scores.len() >= needed => Ok(*score),
        _ => Err(OodFitError::Studies { given: scores.len(), needed, percentile }),
    }
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Mean and precision of these features. The covariance is mixed with its mean variance, as much as its own error is a part
/// of its distance from that (Ledoit and Wolf 2004, lemma 3.2 and 3.3): there may be fewer images than features.
fn gaussian(rows: &[Vec<f64>]) -> Result<Gaussians, OodFitError> {
    let _guard = tch::no_grad_guard();
    let torch = |e: TchError| OodFitError::Torch(torch_reason(&e));
    let (n, width) = (rows.len() as f64, rows.first().map_or(0, Vec::len));
    let features = width as f64;
    let sum = |t: Tensor| -> Result<f64, TchError> { f64::try_from(t.f_sum(Kind::Double)?) };
    let estimate = || -> Result<Option<(Tensor, Tensor)>, TchError> {
        let xs = Tensor::f_from_slice(&rows.concat())?.f_view([rows.len() as i64, width as i64])?;
        let mean = xs.f_mean_dim(0_i64, false, Kind::Double)?;
        let xs = xs.f_sub(&mean)?;
        let covariance = xs.f_transpose(0, 1)?.f_matmul(&xs)?.f_div_scalar(n)?;
        let level = f64::try_from(covariance.f_trace()?)? / features;
        if level.is_nan() || level <= 0.0 {
            return Ok(None);
        }
        let squares = sum(covariance.f_square()?)?;
        let fourth = sum(xs.f_square()?.f_sum_dim_intlist(1_i64, false, Kind::Double)?.f_square()?)?;
        let apart = squares / features - level * level;
        let error = ((fourth / n - squares) / n / features).clamp(0.0, apart.max(0.0));
        let shrinkage = if apart > 0.0 { (error / apart).max(SHRINKAGE_MIN) } else { 1.0 };
        let even = Tensor::f_eye(width as i64, (Kind::Double, tch::Device::Cpu))?.f_mul_scalar(shrinkage * level)?;
        let shrunk = covariance.f_mul_scalar(1.0 - shrinkage)?.f_add(&even)?;
        Ok(Some((mean, shrunk.f_linalg_cholesky(false)?.f_cholesky_inverse(false)?)))
    };
    let (mean, precision) = estimate().map_err(torch)?.ok_or(OodFitError::Constant)?;
    let values = |t: Tensor| -> Result<Vec<f64>, OodFitError> {
        Vec::<f64>::try_from(t.f_flatten(0, -1).map_err(torch)?).map_err(torch)
    };
    Ok(Gaussians { width, means: values(mean)?, precision: values(precision)? })
}

fn written(gaussians: &Gaussians) -> Result<Vec<u8>, String> {
    let bytes = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (means, precision, width) = (bytes(&gaussians.means), bytes(&gaussians.precision), gaussians.width);
    let means = TensorView::new(Dtype::F64, vec![1, width], &means).map_err(|e| e.to_string())?;
    let precision = TensorView::new(Dtype::F64, vec![width, width], &precision).map_err(|e| e.to_string())?;
    let tensors = [("means", means), ("precision", precision)];
    safetensors::serialize(tensors, None).map_err(|e| e.to_string())
}

#[cfg(test)]
#[path = "ood_fit_tests.rs"]
mod tests;
