//! Vectors of all images of a cohort for rows that learn from them: grey values, features of a clinical network.
//!
//! Images are read by all cores, a part at a time, and go through the network on every device that there is. A shard makes
//! its share of the parts. Neighbours: `vectors` keeps them, `confounders` learns from them. Left out: learning.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cohort::{Cohort, Image};
use super::parts::{self, IMAGES};
use super::run::Shard;
use super::vectors::{self, Vectors};
use crate::config::Device;
use crate::domain::Contract;
use crate::infer::{self, Package, WhiteBox};
use crate::perturb::Plane;
use crate::pixels::{self, Frames, Limits};

/// Mean grey values are of pixels above these parts of the range: all tissue, then denser and denser.
pub(super) const TISSUE: [f32; 7] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
const BINS: usize = 256;

/// A set of vectors that a row learns from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Of its folder.
    pub set: String,
    pub row: String,
    /// Name of the model whose features they are, or that sees the images so.
    pub model: String,
}

/// What makes vectors of planes.
#[derive(Clone, Copy)]
pub(super) enum Maker<'a> {
    /// Means and a histogram of what a model with this contract sees.
    Grey(&'a Contract),
    /// What the network computes before its last layer, on these devices.
    Network(&'a Package, &'a [Device]),
}

/// Makes the parts of a shard that are not there. `progress` hears how many images are done.
///
/// # Errors
/// The network cannot be looked into or failed, or a part cannot be written.
pub(super) fn make(
    maker: Maker<'_>,
    set: &str,
    cohort: &Cohort,
    folder: &Path,
    shard: Shard,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> anyhow::Result<()> {
    let images = cohort.images.len();
    let own: Vec<usize> = (0..parts::count(images)).filter(|number| shard.has(*number)).collect();
    let is_there = |number: &usize| vectors::path(folder, set, *number).exists();
    let of = |number: usize| number * IMAGES..((number + 1) * IMAGES).min(images);
    let total: usize = own.iter().map(|number| of(*number).len()).sum();
    let done = AtomicUsize::new(own.iter().filter(|number| is_there(number)).map(|number| of(*number).len()).sum());
    progress(done.load(Ordering::Relaxed) as u64, total as u64);
    let missing: Vec<usize> = own.into_iter().filter(|number| !is_there(number)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let parts = |network: Option<&WhiteBox>| -> anyhow::Result<()> {
        while let Some(number) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let part = part(maker, network, cohort, of(*number))?;
            vectors::write(&vectors::path(folder, set, *number), &part)?;
            let done = done.fetch_add(of(*number).len(), Ordering::Relaxed) + of(*number).len();
            progress(done as u64, total as u64);
        }
        Ok(())
    };
    let Maker::Network(package, devices) = maker else { return parts(None) };
    let on_device = |device| {
        let network = WhiteBox::load(package, device);
        parts(Some(&network.with_context(|| format!("no features of {}", package.identity.name))?))
    };
    let devices = infer::resolve_all(devices)?;
    std::thread::scope(|scope| {
        let on_device = &on_device;
        let threads: Vec<_> = devices.into_iter().map(|device| scope.spawn(move || on_device(device))).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread that makes features has panicked"))?
        };
        // All have ended when the first that failed is told.
        threads.into_iter().map(ended).collect::<Vec<_>>().into_iter().collect()
    })
}

/// Vectors of some images, without those that cannot be read.
fn part(
    maker: Maker<'_>,
    network: Option<&WhiteBox>,
    cohort: &Cohort,
    images: std::ops::Range<usize>,
) -> anyhow::Result<Vectors> {
    let contract = match maker {
        Maker::Grey(contract) => contract,
        Maker::Network(package, _) => &package.contract,
    };
    let read = |place: usize| match plane(&cohort.images[place], contract) {
        Ok(plane) => Some((place, plane)),
        Err(reason) => {
            tracing::warn!(image = place, reason, "an image is left out");
            None
        }
    };
    let seen: Vec<(usize, Plane)> = images.into_par_iter().filter_map(read).collect();
    let mut part = Vectors::default();
    let Some(network) = network else {
        seen.iter().for_each(|(place, plane)| part.push(*place, grey_values(plane)));
        return Ok(part);
    };
    let (places, planes): (Vec<usize>, Vec<Plane>) = seen.into_iter().unzip();
    if !planes.is_empty() {
        for (place, row) in places.into_iter().zip(network.features(&planes)?) {
            ensure!(row.iter().all(|v| v.is_finite()), "a feature of image {place} is not finite");
            part.push(place, row.into_iter().map(|v| v as f32));
        }
    }
    Ok(part)
}

fn plane(image: &Image, contract: &Contract) -> Result<Plane, String> {
    let contracts = std::slice::from_ref(contract);
    let seen = pixels::normalise_any_file(&image.file, contracts, Frames::Middle, &Limits::default());
    let seen = seen.map_err(|refusal| refusal.to_string())?;
    let plane = seen.inputs.first().and_then(|input| Plane::of_input(input, contract));
    plane.ok_or_else(|| "it has no finite grey values".to_owned())
}

/// Means of what lies above each threshold, 0 where nothing does; then shares of the pixels by grey value.
fn grey_values(plane: &Plane) -> Vec<f32> {
    let mean = |threshold: &f32| {
        let above = plane.values().iter().filter(|v| *v >= threshold);
        let (sum, count) = above.fold((0.0, 0usize), |(sum, n), v| (sum + f64::from(*v), n + 1));
        (sum / count.max(1) as f64) as f32
    };
    let mut bins = [0usize; BINS];
    for value in plane.values() {
        bins[((value.clamp(0.0, 1.0) * BINS as f32) as usize).min(BINS - 1)] += 1;
    }
    let share = 1.0 / plane.values().len() as f64;
    let shares = bins.iter().map(|count| (*count as f64 * share) as f32);
    TISSUE.iter().map(mean).chain(shares).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_values_are_means_above_thresholds_and_a_histogram() {
        let plane = Plane::new(2, vec![0.0, 0.25, 0.5, 1.0]).unwrap();
        let found = grey_values(&plane);
        assert_eq!(found.len(), TISSUE.len() + BINS);
        assert_eq!(found[..7], [0.4375, 0.583_333_3, 0.583_333_3, 0.75, 0.75, 0.75, 1.0]);
        let shares: Vec<(usize, f32)> = found[7..].iter().copied().enumerate().filter(|(_, v)| *v > 0.0).collect();
        assert_eq!(shares, [(0, 0.25), (64, 0.25), (128, 0.25), (255, 0.25)]);
    }
}
