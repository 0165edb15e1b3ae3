//! Pictures of a run: an image under every change, and mean maps of what is salient.
//!
//! The first test image of the cohort that can be read is kept small and in eight bits, for the page to draw. It is of
//! a patient, as everything in the folder of a run is. Neighbours: `scoring` makes variants, `plot` draws. Left out:
//! files of drawings (`page`).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::catalogue::Row;
use super::manifest::Manifest;
use super::metrics::{PATIENTS_MIN, distinct};
use super::rows::Data;
use super::saliency::{self, CELLS};
use super::scoring::Scene;
use super::variants::{self, ORIGINAL};
use super::{files, vectors};
use crate::domain::Purpose;
use crate::plot::{Gallery, GalleryRow, Picture, Tile};

pub(super) const FOLDER: &str = "pictures";
const SAMPLE: &str = "sample.json";
/// Side that a picture is kept in, at most.
const SIDE_MAX: usize = 160;

/// Grey pictures of one image, by variant; and mean maps of what is salient.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Sample {
    kept: BTreeMap<String, Kept>,
    maps: Vec<GalleryRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    side: usize,
    /// Whether black and white are the least and the largest value, and not the ends of the range.
    is_stretched: bool,
    /// Grey values of eight bits in base 64, row by row.
    grey: String,
}

/// Keeps a sample of the run's variants, unless there is one.
pub(super) async fn sample(scene: &Scene, folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(FOLDER).join(SAMPLE);
    if path.exists() {
        return Ok(());
    }
    let planes = scene.sample().await?;
    let kept = planes.into_iter().map(|(name, side, values)| {
        let is_stretched = values.iter().any(|v| !(-0.01..=1.01).contains(v)) && name != ORIGINAL;
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (low, span) = if is_stretched && high > low { (low, high - low) } else { (0.0, 1.0) };
        let step = side.div_ceil(SIDE_MAX).max(1);
        let small = side / step;
        let grey = (0..small * small).map(|at| {
            let (row, column) = (at / small * step, at % small * step);
            let block = (row..row + step).flat_map(|r| (column..column + step).map(move |c| r * side + c));
            let mean = block.map(|at| values[at]).sum::<f32>() / (step * step) as f32;
            (((mean - low) / span).clamp(0.0, 1.0) * 255.0).round() as u8
        });
        (name, Kept { side: small, is_stretched, grey: STANDARD.encode(grey.collect::<Vec<u8>>()) })
    });
    files::write(&path, &serde_json::to_vec(&kept.collect::<BTreeMap<String, Kept>>())?)
}

/// The sample of a run, if it kept one; `images` are the numbers in the cohort of those that were scored.
pub(super) fn read(folder: &Path, data: &Data<'_>, images: &[usize]) -> anyhow::Result<Option<Sample>> {
    let path = folder.join(FOLDER).join(SAMPLE);
    if !path.exists() {
        return Ok(None);
    }
    let context = || format!("{} cannot be read", path.display());
    let kept = serde_json::from_slice(&std::fs::read(&path).with_context(context)?).with_context(context)?;
    Ok(Some(Sample { kept, maps: maps(folder, data, images)? }))
}

impl Sample {
    /// The image under the changes of a row, a line for each family; nothing for a row without changes.
    pub(super) fn gallery(&self, row: &Row, manifest: &Manifest) -> anyhow::Result<Option<Gallery>> {
        let of_row = variants::of_row(row, manifest.form, manifest.seed);
        let mut families: Vec<(String, Vec<Tile>)> =
            vec![("the image".to_owned(), self.tile(ORIGINAL)?.into_iter().collect())];
        for variant in &of_row {
            let Some(tile) = self.tile(&variant.name)? else { continue };
            let family = variant.place().0;
            match families.iter_mut().find(|(name, _)| *name == family) {
                Some((_, tiles)) => tiles.push(tile),
                None => families.push((family, vec![tile])),
            }
        }
        if families.iter().map(|(_, tiles)| tiles.len()).sum::<usize>() < 2 {
            return Ok(None);
        }
        let rows = families.into_iter().map(|(heading, tiles)| GalleryRow { heading, tiles }).collect();
        let title = format!("{}: one image under every change", row.title);
        Ok(Some(Gallery { title, description: String::new(), side: 112, rows }))
    }

    fn tile(&self, name: &str) -> anyhow::Result<Option<Tile>> {
        let Some(kept) = self.kept.get(name) else { return Ok(None) };
        let grey = STANDARD.decode(&kept.grey).context("a kept picture is damaged")?;
        let values: Vec<f32> = grey.iter().map(|v| f32::from(*v) / 255.0).collect();
        let stretched = if kept.is_stretched { ", stretched" } else { "" };
        let picture = Picture::grey(kept.side, kept.side, &values)?;
        Ok(Some(Tile { label: format!("{name}{stretched}"), picture: Some(picture) }))
    }
    /// Mean maps of what is salient to each race model, by self-reported group.
    pub(super) fn saliency(&self) -> Option<Gallery> {
        let title = "Mean saliency by self-reported group".to_owned();
        let rows = self.maps.clone();
        (!rows.is_empty()).then_some(Gallery { title, description: String::new(), side: 176, rows })
    }
}

fn maps(folder: &Path, data: &Data<'_>, images: &[usize]) -> anyhow::Result<Vec<GalleryRow>> {
    let mut rows = Vec::new();
    for (m, (_, model)) in data.manifest.of_purpose(Purpose::Race).enumerate() {
        let set = saliency::set(m);
        if !vectors::is_whole(folder, &set, images.len()) {
            continue;
        }
        let mut means = vec![(vec![0.0f32; CELLS * CELLS], 0usize); data.manifest.groups.len()];
        vectors::each(folder, &set, images, |image, map| {
            let place = images.binary_search(&image).unwrap_or_default();
            let (sums, count) = &mut means[data.cohort.images[place].group];
            sums.iter_mut().zip(map).for_each(|(sum, v)| *sum += v);
            *count += 1;
        })?;
        let patients = data.cohort.patients();
        let people =
            |g: usize| distinct((0..patients.len()).filter(|i| data.cohort.images[*i].group == g).map(|i| patients[i]));
        let mut tiles = Vec::new();
        let groups = data.manifest.groups.iter().enumerate();
        for ((mut sums, count), (g, group)) in means.into_iter().zip(groups).filter(|((_, n), _)| *n > 0) {
            // A mean of few is a picture of somebody.
            if people(g) < PATIENTS_MIN {
                continue;
            }
            sums.iter_mut().for_each(|sum| *sum /= count as f32);
            let label = format!("{group}, stretched");
            tiles.push(Tile { label, picture: Some(Picture::stretched(CELLS, CELLS, &sums)?) });
        }
        rows.push(GalleryRow { heading: model.name.clone(), tiles });
    }
    Ok(rows)
}
