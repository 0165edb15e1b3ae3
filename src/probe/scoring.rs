//! Images through models: decoded, normalised and scored as in the node, each as it is and in every variant.
//!
//! A part of the cohort is decoded by all cores; of each image some variants are made at a time while others are being
//! scored, so that memory holds a few planes for each core, whatever the number of variants. Neighbours: `analyse`
//! scores, `pixels` decodes, `perturb` changes, `parts` keeps. Left out: which parts (`run`).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use rayon::prelude::*;
use tokio::task::JoinSet;

use super::cohort::{Cohort, Image};
use super::parts::{Asked, Said};
use super::saliency::{self, Salient};
use super::variants::{How, Variant};
use crate::analyse::Scorers;
use crate::domain::{Contract, ModelInput, Purpose};
use crate::infer::Package;
use crate::perturb::{Form, Lab, Plane, Region};
use crate::pixels::{self, Frames, Limits};

/// Variants of an image that are made before they are scored.
const AT_ONCE: usize = 16;

/// What scores a cohort.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) scorers: Scorers,
    pub(super) packages: Arc<Vec<Package>>,
    pub(super) cohort: Arc<Cohort>,
    pub(super) variants: Arc<Vec<Variant>>,
    pub(super) form: Form,
    /// Whether maps of what is salient are kept too.
    pub(super) saliency: bool,
}

/// An image as the models see it, by contract.
struct Seen {
    planes: Vec<Plane>,
    /// Share of each pixel that is lung.
    masks: Vec<Option<Plane>>,
    /// By variant, then contract: what depends on other images of the part.
    of_batch: BTreeMap<usize, Vec<Plane>>,
}

impl Scene {
    /// What is asked, in the order of the packages and variants.
    pub(super) fn asked(&self) -> Asked {
        let outputs = |p: &Package| {
            let groups = p.groups().iter().map(|g| g.key.clone());
            groups.chain(p.findings().iter().map(|f| f.key.clone())).collect()
        };
        let mut models: Vec<(String, Vec<String>)> = self.packages.iter().map(|p| (p.key(), outputs(p))).collect();
        if self.saliency {
            let cells: Vec<String> = (0..saliency::CELLS * saliency::CELLS).map(|c| c.to_string()).collect();
            models.extend(self.packages.iter().filter(|p| is_race(p)).map(|p| (saliency::key(p), cells.clone())));
        }
        Asked { models, variants: self.variants.iter().map(|v| v.name.clone()).collect() }
    }

    fn contracts(&self) -> Vec<Contract> {
        let mut contracts: Vec<Contract> = Vec::new();
        for package in self.packages.iter() {
            if !contracts.contains(&package.contract) {
                contracts.push(package.contract.clone());
            }
        }
        contracts
    }

    /// Scores the images at these places; `progress` hears of each.
    ///
    /// # Errors
    /// A model failed at an image that could be read, or inference has ended.
    pub(super) async fn part(&self, places: &[usize], progress: &(dyn Fn() + Sync)) -> anyhow::Result<Said> {
        let (scene, all) = (self.clone(), places.to_vec());
        let seen = tokio::task::spawn_blocking(move || scene.see(&all)).await?;
        let mut said = Said::default();
        let mut running = JoinSet::new();
        let mut waiting = places.iter().copied().zip(seen);
        let at_once = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        loop {
            while running.len() < at_once
                && let Some((place, seen)) = waiting.next()
            {
                match seen {
                    Ok(seen) => {
                        let scene = self.clone();
                        running.spawn(async move { (place, scene.image(place, Arc::new(seen)).await) });
                    }
                    Err(reason) => {
                        said.refused.insert(place, reason);
                        progress();
                    }
                }
            }
            let Some(done) = running.join_next().await else { return Ok(said) };
            let (place, outputs) = done?;
            let outputs = outputs.with_context(|| self.cohort.images[place].file.display().to_string())?;
            said.outputs.extend(outputs.into_iter().map(|(variant, model, values)| ((place, variant, model), values)));
            progress();
        }
    }

    /// The images at these places as models see them, or why they cannot be used.
    fn see(&self, places: &[usize]) -> Vec<Result<Seen, String>> {
        let contracts = self.contracts();
        let with_mask = self.variants.iter().any(|v| matches!(v.how, How::Lungs { .. }));
        let mut seen: Vec<Result<Seen, String>> =
            places.par_iter().map(|place| see(&self.cohort.images[*place], &contracts, with_mask)).collect();
        for (v, variant) in self.variants.iter().enumerate().filter(|(_, variant)| variant.is_of_batch()) {
            let How::Change(change) = &variant.how else { continue };
            let mut lab = Lab::default();
            for c in 0..contracts.len() {
                let mut planes: Vec<Plane> = seen.iter().flatten().map(|s| s.planes[c].clone()).collect();
                for transform in &change.chain {
                    planes = lab.apply_all(*transform, &planes);
                }
                let readable = seen.iter_mut().flatten();
                readable.zip(planes).for_each(|(s, plane)| s.of_batch.entry(v).or_default().push(plane));
            }
        }
        seen
    }

    /// Every variant of the first image that can be read, as the first model sees it: name, side and values.
    pub(super) async fn sample(&self) -> anyhow::Result<Vec<(String, usize, Vec<f32>)>> {
        for place in 0..self.cohort.images.len() {
            let scene = self.clone();
            let seen = tokio::task::spawn_blocking(move || scene.see(&[place]).pop()).await?;
            let Some(Ok(seen)) = seen else { continue };
            let contracts = self.contracts();
            let package = &self.packages[0];
            let region = match self.variants.iter().any(|v| v.how == How::WithoutPeak) {
                true => saliency::map(&self.scorers, package, &seen.planes[0]).await?,
                false => None,
            };
            let region = region.as_deref().and_then(|map| Salient::of_peak(map, self.form));
            let all: Vec<usize> = (0..self.variants.len()).collect();
            let (seen, contracts) = (Arc::new(seen), Arc::new(contracts));
            let made = Made { scene: self.clone(), seen, contracts, place, region };
            let inputs = made.of(&mut Lab::default(), 0, &all);
            let picture = |(variant, input): (usize, ModelInput)| {
                let plane = Plane::of_input(&input, &made.contracts[0])?;
                Some((self.variants[variant].name.clone(), plane.side(), plane.values().to_vec()))
            };
            return Ok(inputs.into_iter().filter_map(picture).collect());
        }
        Ok(Vec::new())
    }

    /// Variant, model and outputs of one image.
    async fn image(&self, place: usize, seen: Arc<Seen>) -> anyhow::Result<Vec<(usize, usize, Vec<f64>)>> {
        let contracts = Arc::new(self.contracts());
        let mut outputs = Vec::new();
        // Of each race model, by its contract.
        let mut regions: Vec<Option<(usize, Salient)>> = Vec::new();
        let without_peak = self.variants.iter().position(|v| v.how == How::WithoutPeak);
        if self.saliency || without_peak.is_some() {
            let mut own = self.packages.len();
            for package in self.packages.iter().filter(|p| is_race(p)) {
                let c = contracts.iter().position(|c| *c == package.contract).context("a contract of a package")?;
                let map = saliency::map(&self.scorers, package, &seen.planes[c]).await?;
                let region = map.as_deref().and_then(|map| Salient::of_peak(map, self.form));
                regions.push(region.map(|region| (c, region)));
                if self.saliency {
                    if let Some(map) = map {
                        outputs.push((0, own, saliency::cells(&map)));
                    }
                    own += 1;
                }
            }
        }
        let numbered: Vec<usize> = (0..self.variants.len()).collect();
        // One for each contract: it remembers the frequencies of the plane that it filtered last.
        let mut labs: Vec<Lab> = contracts.iter().map(|_| Lab::default()).collect();
        for some in numbered.chunks(AT_ONCE) {
            let scene = Made {
                scene: self.clone(),
                seen: Arc::clone(&seen),
                contracts: Arc::clone(&contracts),
                place,
                region: None,
            };
            let some = some.to_vec();
            let planes = move || {
                let made: Vec<Vec<(usize, ModelInput)>> =
                    labs.iter_mut().enumerate().map(|(c, lab)| scene.of(lab, c, &some)).collect();
                (made, labs)
            };
            let made;
            (made, labs) = tokio::task::spawn_blocking(planes).await?;
            for (m, package) in self.packages.iter().enumerate() {
                let c = contracts.iter().position(|c| *c == package.contract).context("a contract of a package")?;
                let inputs: Vec<ModelInput> = made[c].iter().map(|(_, input)| input.clone()).collect();
                for ((variant, _), values) in made[c].iter().zip(self.answers(package, inputs).await?) {
                    outputs.push((*variant, m, values));
                }
            }
        }
        // Race models come first; a clinical model has the first one's box.
        if let Some(variant) = without_peak {
            let mut lab = Lab::default();
            for (m, package) in self.packages.iter().enumerate() {
                let Some((of, region)) = regions.get(if is_race(package) { m } else { 0 }).copied().flatten() else {
                    continue;
                };
                let contract = &package.contract;
                // A place in one model's image is one in another's where both see the same part of it.
                let c = contracts.iter().position(|c| c == contract).context("a contract of a package")?;
                if (contracts[of].fit, contracts[of].orientation) == (contract.fit, contract.orientation) {
                    let plane = &seen.planes[c];
                    let input = lab.apply(region.blackened(plane.side()), plane).to_input(contract);
                    let values = self.answers(package, vec![input]).await?.remove(0);
                    outputs.push((variant, m, values));
                }
            }
        }
        Ok(outputs)
    }
}

impl Scene {
    /// What a model says of inputs of its contract: an output for each key of its card.
    async fn answers(&self, package: &Package, inputs: Vec<ModelInput>) -> anyhow::Result<Vec<Vec<f64>>> {
        let width = package.column_of.len();
        let answers = self.scorers.score_all_covered(package, inputs.into_iter()).await;
        let mut answers = answers.map_err(|error| anyhow::anyhow!("{}: {error}", package.identity.name))?;
        for values in &mut answers {
            // An out-of-distribution score comes last.
            values.truncate(width);
            if values.len() != width {
                bail!("{} gave {} outputs, {width} are of its card", package.identity.name, values.len());
            }
        }
        Ok(answers)
    }
}

/// What variants of an image are made of.
struct Made {
    scene: Scene,
    seen: Arc<Seen>,
    contracts: Arc<Vec<Contract>>,
    place: usize,
    /// The salient box of the contract that is asked for.
    region: Option<Salient>,
}

impl Made {
    /// Inputs of a contract for those of the variants that the image has.
    fn of(&self, lab: &mut Lab, c: usize, variants: &[usize]) -> Vec<(usize, ModelInput)> {
        let (scene, seen, plane) = (&self.scene, &self.seen, &self.seen.planes[c]);
        let made = |v: &usize| {
            let changed = match &scene.variants[*v].how {
                How::Original => plane.clone(),
                How::Change(_) if seen.of_batch.contains_key(v) => seen.of_batch[v][c].clone(),
                How::Change(change) => change.apply_at(self.place, lab, plane),
                How::Lungs { within } => {
                    let kept = if *within { Region::Inside } else { Region::Outside };
                    plane.masked(seen.masks[c].as_ref()?, kept)?
                }
                How::WithoutPeak => lab.apply(self.region?.blackened(plane.side()), plane),
            };
            Some((*v, changed.to_input(&self.contracts[c])))
        };
        variants.iter().filter_map(made).collect()
    }
}

pub(super) fn is_race(package: &Package) -> bool {
    package.purpose == Purpose::Race
}

/// A file as planes of these contracts.
fn see(image: &Image, contracts: &[Contract], with_mask: bool) -> Result<Seen, String> {
    let limits = Limits::default();
    let normalised = pixels::normalise_any_file(&image.file, contracts, Frames::Middle, &limits);
    let normalised = normalised.map_err(|refusal| refusal.to_string())?;
    let planes: Option<Vec<Plane>> =
        normalised.inputs.iter().zip(contracts).map(|(input, contract)| Plane::of_input(input, contract)).collect();
    let planes = planes.filter(|planes| planes.len() == contracts.len()).ok_or("it has no finite grey values")?;
    // A mask that cannot be used takes nothing from rows that need none.
    let mask = |contract: &Contract| {
        let file = image.mask.as_deref().filter(|_| with_mask)?;
        let values = pixels::mask_file(file, &image.file, contract, &limits);
        let values = values.inspect_err(|reason| tracing::warn!(%reason, "a lung mask is left out")).ok()?;
        Plane::new(contract.size as usize, values)
    };
    Ok(Seen { planes, masks: contracts.iter().map(mask).collect(), of_batch: BTreeMap::new() })
}
