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

/// An image as the models see it, by contract; nothing of contracts that it cannot fulfil.
struct Seen {
    planes: Vec<Option<Plane>>,
    /// Share of each pixel that is lung.
    masks: Vec<Option<Plane>>,
    /// By variant and contract: what depends on other images of the part.
    of_batch: BTreeMap<(usize, usize), Plane>,
    /// Why it cannot fulfil some contracts.
    refused: Option<String>,
}

/// Variant, model and what it said of an image; and by race model what is salient to it.
#[derive(Default)]
struct Answers {
    outputs: Vec<(usize, usize, Vec<f64>)>,
    maps: Vec<(usize, Vec<f32>)>,
}

impl Scene {
    /// What is asked, in the order of the packages and variants.
    pub(super) fn asked(&self) -> Asked {
        let outputs = |p: &Package| {
            let groups = p.groups().iter().map(|g| g.key.clone());
            groups.chain(p.findings().iter().map(|f| f.key.clone())).collect()
        };
        let models = self.packages.iter().map(|p| (p.key(), outputs(p))).collect();
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
                        said.refused.partly.extend(seen.refused.clone().map(|reason| (place, reason)));
                        let scene = self.clone();
                        running.spawn(async move { (place, scene.image(place, Arc::new(seen)).await) });
                    }
                    Err(reason) => {
                        said.refused.wholly.insert(place, reason);
                        progress();
                    }
                }
            }
            let Some(done) = running.join_next().await else { return Ok(said) };
            let (place, outputs) = done?;
            let found = outputs.with_context(|| format!("line {} of the cohort", self.cohort.images[place].line))?;
            let outputs = found.outputs.into_iter();
            said.outputs.extend(outputs.map(|(variant, model, values)| ((place, variant, model), values)));
            said.maps.extend(found.maps.into_iter().map(|(model, map)| ((model, place), map)));
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
                let mut planes: Vec<Plane> = seen.iter().flatten().filter_map(|s| s.planes[c].clone()).collect();
                for transform in &change.chain {
                    planes = lab.apply_all(*transform, &planes);
                }
                let readable = seen.iter_mut().flatten().filter(|s| s.planes[c].is_some());
                for (seen, plane) in readable.zip(planes) {
                    seen.of_batch.insert((v, c), plane);
                }
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
            let Some(plane) = &seen.planes[0] else { continue };
            let contracts = self.contracts();
            let package = &self.packages[0];
            let region = match self.variants.iter().any(|v| v.how == How::WithoutPeak) {
                true => saliency::map(&self.scorers, package, plane).await?,
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

    /// What models say of one image.
    async fn image(&self, place: usize, seen: Arc<Seen>) -> anyhow::Result<Answers> {
        let contracts = Arc::new(self.contracts());
        let Answers { mut outputs, mut maps } = Answers::default();
        // Of each race model, by its contract.
        let mut regions: Vec<Option<(usize, Salient)>> = Vec::new();
        let without_peak = self.variants.iter().position(|v| v.how == How::WithoutPeak);
        if self.saliency || without_peak.is_some() {
            for (m, package) in self.packages.iter().filter(|p| is_race(p)).enumerate() {
                let c = contracts.iter().position(|c| *c == package.contract).context("a contract of a package")?;
                let map = match &seen.planes[c] {
                    Some(plane) => saliency::map(&self.scorers, package, plane).await?,
                    None => None,
                };
                let region = map.as_deref().and_then(|map| Salient::of_peak(map, self.form));
                regions.push(region.map(|region| (c, region)));
                maps.extend(map.filter(|_| self.saliency).map(|map| (m, saliency::cells(&map))));
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
                if (contracts[of].fit, contracts[of].orientation) == (contract.fit, contract.orientation)
                    && let Some(plane) = &seen.planes[c]
                {
                    let input = lab.apply(region.blackened(plane.side()), plane).to_input(contract);
                    let values = self.answers(package, vec![input]).await?.remove(0);
                    outputs.push((variant, m, values));
                }
            }
        }
        Ok(Answers { outputs, maps })
    }

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
        let (scene, seen) = (&self.scene, &self.seen);
        let Some(plane) = &seen.planes[c] else { return Vec::new() };
        let made = |v: &usize| {
            let changed = match &scene.variants[*v].how {
                How::Original => plane.clone(),
                How::Change(_) if seen.of_batch.contains_key(&(*v, c)) => seen.of_batch[&(*v, c)].clone(),
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

/// A file as planes of these contracts. One that none of them takes cannot be used; what one refuses others may take.
fn see(image: &Image, contracts: &[Contract], with_mask: bool) -> Result<Seen, String> {
    let limits = Limits::default();
    let planes = |contracts: &[Contract]| -> Result<Vec<Plane>, String> {
        let seen = pixels::normalise_any_file(&image.file, contracts, Frames::Middle, &limits);
        let seen = seen.map_err(|refusal| refusal.to_string())?;
        let planes = seen.inputs.iter().zip(contracts).map(|(input, contract)| Plane::of_input(input, contract));
        let planes = planes.collect::<Option<Vec<Plane>>>().filter(|planes| planes.len() == contracts.len());
        planes.ok_or_else(|| "it has no finite grey values".to_owned())
    };
    // All from one decoding where nothing is refused, which is nearly always.
    let (planes, refused) = match planes(contracts) {
        Ok(all) => (all.into_iter().map(Some).collect::<Vec<_>>(), None),
        Err(reason) if contracts.len() == 1 => return Err(reason),
        Err(reason) => {
            let one = |contract: &Contract| planes(std::slice::from_ref(contract)).map(|mut planes| planes.pop());
            let each: Vec<Result<Option<Plane>, String>> = contracts.iter().map(one).collect();
            if each.iter().all(Result::is_err) {
                return Err(reason);
            }
            let refusals = each.iter().zip(contracts).filter_map(|(plane, contract)| {
                plane.as_ref().err().map(|reason| format!("{} of {}: {reason}", contract.name, contract.size))
            });
            let refusals = refusals.collect::<Vec<_>>().join("; ");
            (each.into_iter().map(|plane| plane.ok().flatten()).collect(), Some(refusals))
        }
    };
    // A mask that cannot be used takes nothing from rows that need none.
    let mask = |contract: &Contract| {
        let file = image.mask.as_deref().filter(|_| with_mask)?;
        let values = pixels::mask_file(file, &image.file, contract, &limits);
        let values = values
            .inspect_err(|reason| tracing::warn!(line = image.line, %reason, "the lung mask of this line of the cohort is left out"))
            .ok()?;
        Plane::new(contract.size as usize, values)
    };
    let masks = contracts.iter().map(mask).collect();
    Ok(Seen { planes, masks, of_batch: BTreeMap::new(), refused })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::cohort::fixtures::cohort;

    #[test]
    fn what_one_contract_refuses_another_may_take() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.png");
        let file = std::fs::File::create(&path).unwrap();
        let mut encoder = png::Encoder::new(file, 40, 20);
        encoder.set_color(png::ColorType::Grayscale);
        let pixels: Vec<u8> = (0..800u32).map(|i| (i % 251) as u8).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        let image = Image { file: path, ..cohort(1).images.remove(0) };
        // A picture has no Hounsfield units.
        let [plain, ct] = ["minmax-unit", "ct-window"].map(|name| Contract::preset(name, 16).unwrap());
        let seen = see(&image, &[ct.clone(), plain.clone()], false).unwrap();
        assert!(seen.planes[0].is_none() && seen.refused.as_ref().unwrap().starts_with("ct-window of 16: "));
        let alone = see(&image, &[plain], false).unwrap();
        assert!(alone.refused.is_none() && alone.planes[0] == seen.planes[1] && alone.planes[0].is_some());
        assert!(see(&image, std::slice::from_ref(&ct), false).is_err());
        let larger = Contract { size: 32, ..ct.clone() };
        assert!(see(&image, &[ct, larger], false).is_err(), "nobody takes it");
    }
}
