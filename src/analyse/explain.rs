//! What in an image speaks for what the models said of it: maps of each model and finding, by Grad-CAM and occlusion.
//!
//! The models see the image as they scored it, by the same road; one frame of it, the middle one of several. What cannot
//! be explained says why. Neighbours: `scorers` runs Grad-CAM and scores what is covered, `infer` moves the patch,
//! `report` makes objects of maps. Left out: which studies are worth it, and who may see a map (`serve`, the commands).

use std::path::Path;

use anyhow::Context;

use super::scorers::Scorers;
use super::{Analyser, fresh_uid};
use crate::config::{Explain, MapForm};
use crate::domain::{
    AttributionMap, Contract, Disclosure, Fit, InstanceHeader, MapMethod, MapTarget, ModelIdentity, ModelInput,
    Orientation, Purpose, ReadyStudy, Refusal, Report, ScoredInstance, Timestamp, Uid,
};
use crate::infer::{self, ExplainError, Occlusion, Package};
use crate::pixels::{self, Frames};
use crate::remote::RemoteError;
use crate::report::{self, MapImage, MapObject, Observer};

/// Maps of one study: they are in memory until its reports are kept, as values and as objects (`map_bytes_max`).
const MAPS_MAX: usize = 64;
/// Places of a patch beyond which there is no map: a patch of one pixel on an input of 512 would have 262,144.
const PLACES_MAX: usize = 4096;

/// The maps of one model and image.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    pub instance: Uid,
    /// From 1.
    pub frame: u32,
    pub model: ModelIdentity,
    pub purpose: Purpose,
    /// What the model saw, 8 bits, row by row; as large as the maps.
    pub picture: Vec<u8>,
    /// Height and width of a pixel of it in units of the image's own, where they differ.
    pub aspect: Option<(u32, u32)>,
    /// Of the image's file, once it was read.
    pub file_bytes: u64,
    pub maps: Vec<AttributionMap>,
    /// Methods without a map, with the reason.
    pub missing: Vec<(MapMethod, String)>,
}

impl Explained {
    /// Whether a destination may have these maps: those of the race model go where probabilities go.
    pub fn is_for(&self, disclosure: Disclosure) -> bool {
        match self.purpose {
            Purpose::Clinical => true,
            Purpose::Race => disclosure == Disclosure::Probabilities,
        }
    }
}

impl Analyser {
    /// The images that are worth a map, at most so many: of those that the report is about (`analysed` of
    /// [`super::Conclusion::Assessed`]), first those with the highest score by one of the `clinical` packages (empty:
    /// all). What other models said before, an earlier race model above all, has no say in it.
    pub fn most_telling<'a>(
        &self,
        study: &'a ReadyStudy,
        analysed: &[Uid],
        clinical: &[String],
        images_max: usize,
    ) -> Vec<&'a ScoredInstance> {
        let packages = super::study::asked(&self.packages, clinical);
        let keys = packages.into_iter().filter(|p| p.purpose == Purpose::Clinical).map(Package::key);
        most_telling(study, analysed, &keys.collect::<Vec<_>>(), images_max)
    }

    /// Explains the scores of these files by the race model and the `clinical` packages (empty: all), as far as `rules`
    /// ask: all images by the first method and the clinical models before anything else. What is done is in `explained`
    /// as soon as it is, whenever the caller gives up waiting; what has no map says why there.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn explain(
        &self,
        images: &[(&Path, &InstanceHeader)],
        clinical: &[String],
        rules: &Explain,
        explained: &mut Vec<Explained>,
    ) -> anyhow::Result<()> {
        let first = explained.len();
        let planned = plan(super::study::asked(&self.packages, clinical), images, rules, explained, |header| {
            self.admitted(header, clinical)
        });
        for method in &rules.methods {
            for Planned { place, image, package } in &planned {
                let made: usize = explained[first..].iter().map(|one| one.maps.len()).sum();
                let room = MAPS_MAX.saturating_sub(made);
                let one = &mut explained[*place];
                match self.explain_one(one, images[*image].0, package, (*method, room), rules).await {
                    Ok(()) => {}
                    Err(ExplainError::Failed(infer::InferError::Stopped)) => anyhow::bail!("inference has ended"),
                    Err(error) => one.missing.push((*method, error.to_string())),
                }
            }
        }
        Ok(())
    }

    /// Adds the maps of one image and package by one method; where there is no room for all, those of the findings with the
    /// highest scores.
    async fn explain_one(
        &self,
        one: &mut Explained,
        file: &Path,
        package: &Package,
        (method, room): (MapMethod, usize),
        rules: &Explain,
    ) -> Result<(), ExplainError> {
        if !super::study::scores_images(package) {
            return Err(ExplainError::Unavailable("its product scores images on its own".to_owned()));
        }
        let wanted = targets(package).len();
        // Decoded again for the next method: that takes less time than the map, and no memory until then.
        let input = match room {
            0 => Err(format!("a study has at most {MAPS_MAX} maps")),
            _ => self.seen(one, file, package).await,
        };
        let input = input.map_err(ExplainError::Unavailable)?;
        let kept = match room < wanted {
            true => {
                let scores = self.scorers.score_covered(package, input.clone()).await.map_err(unavailable)?;
                highest(scores.get(..wanted).unwrap_or(&scores), room)
            }
            false => (0..wanted).collect(),
        };
        let maps = match method {
            MapMethod::Gradcam => self.scorers.grad_cam(package, input).await?,
            MapMethod::Occlusion => occlusion(&self.scorers, package, &input, rules).await?,
        };
        one.take(package, method, maps, &kept);
        if kept.len() < wanted {
            let reason = format!("of {wanted} findings {room} have maps: a study has {MAPS_MAX} at most");
            one.missing.push((method, reason));
        }
        Ok(())
    }

    /// The image as the model sees it, and what a map needs of it; or why there is none.
    async fn seen(&self, one: &mut Explained, file: &Path, package: &Package) -> Result<ModelInput, String> {
        let contracts = std::slice::from_ref(&package.contract);
        let normalised =
            self.workers.normalise(file, contracts, Frames::Middle).await.map_err(|refusal| refusal.to_string())?;
        let input = normalised.inputs.into_iter().next().ok_or_else(|| "the image has no frame".to_owned())?;
        one.frame = normalised.frames.first().copied().unwrap_or(1);
        one.picture = pixels::grey_picture(&input, &package.contract);
        one.file_bytes = tokio::fs::metadata(file).await.map_or(0, |file| file.len());
        Ok(input)
    }

    /// Bytes that the maps of so many images take until they are sent, at most: as values, and as objects for both kinds
    /// of destination.
    pub fn map_bytes_max(&self, images: usize, clinical: &[String], rules: &Explain) -> usize {
        map_bytes_max(&super::study::asked(&self.packages, clinical), images, rules)
    }

    /// The maps as DICOM objects for destinations of this disclosure, each in the forms that `rules` name, under fresh
    /// UIDs: those of the clinical models in one series, those of the race model in another.
    pub fn map_objects(
        &self,
        explained: &[Explained],
        images: &[&InstanceHeader],
        forms: &[MapForm],
        disclosure: Disclosure,
        now: Timestamp,
    ) -> anyhow::Result<Vec<Report>> {
        let mut objects = Vec::new();
        let now = now.with_timezone(&chrono::Local).fixed_offset();
        let observer: &Observer = &self.observer;
        for purpose in [Purpose::Clinical, Purpose::Race] {
            let (series, frame_of_reference) = (fresh_uid(), fresh_uid());
            let mut number = 0;
            for one in explained.iter().filter(|e| e.purpose == purpose && e.is_for(disclosure)) {
                let Some(source) = images.iter().find(|i| i.sop_instance == one.instance) else {
                    tracing::warn!(
                        model = one.model.name,
                        "maps of an image that the report does not name are left out"
                    );
                    continue;
                };
                for (map, form) in one.maps.iter().flat_map(|map| forms.iter().map(move |form| (map, *form))) {
                    number += 1;
                    let object = MapObject {
                        observer,
                        sop_instance: fresh_uid(),
                        series: series.clone(),
                        frame_of_reference: frame_of_reference.clone(),
                        number,
                        now,
                    };
                    let (frame, picture) = (one.frame, &one.picture[..]);
                    let (aspect, file_bytes) = (one.aspect, one.file_bytes);
                    let image = MapImage { source, frame, purpose, map, picture, aspect, file_bytes };
                    let built = match form {
                        MapForm::SecondaryCapture => report::capture(&image, &object),
                        MapForm::ParametricMap => report::parametric_map(&image, &object),
                    };
                    objects.push(built.context("a map could not be written as a DICOM object")?);
                }
            }
        }
        Ok(objects)
    }
}

/// Work on a place of the list of what is explained.
struct Planned<'a> {
    place: usize,
    /// Among the images.
    image: usize,
    package: &'a Package,
}

/// What is to be explained, in the order in which it is. It is in the list before anything is done: what is refused with the
/// reason, and what is not reached then is known.
fn plan<'a>(
    packages: Vec<&'a Package>,
    images: &[(&Path, &InstanceHeader)],
    rules: &Explain,
    explained: &mut Vec<Explained>,
    admitted: impl Fn(&InstanceHeader) -> Result<Vec<&'a Package>, Refusal>,
) -> Vec<Planned<'a>> {
    let mut planned = Vec::new();
    for purpose in [Purpose::Clinical, Purpose::Race].into_iter().filter(|p| rules.purposes.contains(p)) {
        for (image, (_, header)) in images.iter().enumerate() {
            let (asked, refusal) = match admitted(header) {
                Ok(admitted) => (admitted, None),
                Err(refusal) => (packages.clone(), Some(refusal.to_string())),
            };
            for package in asked.into_iter().filter(|p| p.purpose == purpose) {
                let reason = |method: &MapMethod| Some((*method, refusal.clone()?));
                let one = Explained {
                    instance: header.sop_instance.clone(),
                    frame: 1,
                    model: package.identity.clone(),
                    purpose,
                    picture: Vec::new(),
                    aspect: aspect(&package.contract, header),
                    file_bytes: 0,
                    maps: Vec::new(),
                    missing: rules.methods.iter().filter_map(reason).collect(),
                };
                explained.push(one);
                if refusal.is_none() {
                    planned.push(Planned { place: explained.len() - 1, image, package });
                }
            }
        }
    }
    planned
}

fn map_bytes_max(packages: &[&Package], images: usize, rules: &Explain) -> usize {
    let of_form = |form: &MapForm| match form {
        MapForm::SecondaryCapture => 3,
        MapForm::ParametricMap => 4,
    };
    let of_pixel = 4 + 2 * rules.forms.iter().map(of_form).sum::<usize>();
    let explained = packages.iter().filter(|p| rules.purposes.contains(&p.purpose));
    let of_packages = explained.map(|package| {
        let pixels = package.contract.plane_len();
        let maps = (images * rules.methods.len() * targets(package).len()).min(MAPS_MAX);
        images * pixels + maps * pixels * of_pixel
    });
    of_packages.sum()
}

/// The places of the highest scores, in order.
fn highest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    places.truncate(count);
    places.sort_unstable();
    places
}

impl Explained {
    /// What ended before these methods had their turn has no map by them.
    pub fn note_unreached(&mut self, methods: &[MapMethod]) {
        for method in methods {
            let reached = self.maps.iter().any(|m| m.method == *method) || self.missing.iter().any(|m| m.0 == *method);
            if !reached {
                self.missing.push((*method, "there was no time for it".to_owned()));
            }
        }
    }

    /// Maps in the order of the package's outputs, as [`infer::Engine::grad_cam`] gives them.
    /// Those that are not `kept` are dropped.
    fn take(&mut self, package: &Package, method: MapMethod, maps: Vec<Option<Vec<f32>>>, kept: &[usize]) {
        let maps = targets(package).into_iter().zip(maps).enumerate();
        for (target, values) in maps.filter(|(place, _)| kept.contains(place)).map(|(_, map)| map) {
            let map = AttributionMap {
                method,
                model: package.identity.clone(),
                target,
                side: package.contract.size,
                values: values.unwrap_or_default(),
            };
            if map.values.is_empty() {
                self.missing.push((method, format!("nothing in the image speaks for {}", map.target_key())));
            } else {
                self.maps.push(map);
            }
        }
    }
}

/// What the package's maps are of.
fn targets(package: &Package) -> Vec<MapTarget> {
    match package.purpose {
        Purpose::Race => vec![MapTarget::Groups],
        Purpose::Clinical => package.findings().iter().map(|f| MapTarget::Finding(Box::new(f.clone()))).collect(),
    }
}

/// `keys`: of the models by whose scores images are chosen.
fn most_telling<'a>(
    study: &'a ReadyStudy,
    analysed: &[Uid],
    keys: &[String],
    images_max: usize,
) -> Vec<&'a ScoredInstance> {
    let highest = |instance: &ScoredInstance| {
        let of_keys = instance.scores.iter().filter(|s| keys.contains(&s.model));
        of_keys.flat_map(|s| &s.outputs).copied().fold(f64::NEG_INFINITY, f64::max)
    };
    let named = |i: &&ScoredInstance| !i.scores.is_empty() && analysed.contains(&i.header.sop_instance);
    let mut scored: Vec<_> = study.instances.iter().filter(named).collect();
    scored.sort_by(|a, b| highest(b).total_cmp(&highest(a)));
    scored.truncate(images_max);
    scored
}

/// What each output loses when a part of the image is covered.
async fn occlusion(
    scorers: &Scorers,
    package: &Package,
    input: &ModelInput,
    rules: &Explain,
) -> Result<Vec<Option<Vec<f32>>>, ExplainError> {
    let contract = &package.contract;
    let occlusion = Occlusion::of(rules.patch, rules.stride, rules.fill, contract.size);
    let places = occlusion.places(contract.size);
    if places.len() > PLACES_MAX {
        let why = format!(
            "the patch has {} places, at most {PLACES_MAX} are tried: raise explain.patch and explain.stride",
            places.len()
        );
        return Err(ExplainError::Unavailable(why));
    }
    let outputs = if package.purpose == Purpose::Race { 1 } else { package.findings().len() };
    let base = scorers.score_covered(package, input.clone()).await.map_err(unavailable)?;
    let mut changes = vec![occlusion.changes(contract.size); outputs];
    let mut note = |place, scores: Vec<f64>| match package.purpose {
        Purpose::Race => {
            let groups = package.groups().len();
            // What stands behind the probabilities is no probability.
            let (base, scores) = (base.get(..groups).unwrap_or(&base), scores.get(..groups).unwrap_or(&scores));
            changes[0].note(place, infer::distance(base, scores));
        }
        Purpose::Clinical => {
            let of_output = changes.iter_mut().zip(base.iter().zip(&scores));
            of_output.for_each(|(changes, (base, score))| changes.note(place, base - score));
        }
    };
    let covered = places.iter().map(|place| occlusion.covered(input, contract, *place));
    let scores = scorers.score_all_covered(package, covered).await.map_err(unavailable)?;
    places.into_iter().zip(scores).for_each(|(place, scores)| note(place, scores));
    Ok(changes.iter().map(|changes| Some(changes.map())).collect())
}

fn unavailable(error: RemoteError) -> ExplainError {
    match error {
        RemoteError::Failed(error) => ExplainError::Failed(error),
        RemoteError::Unavailable { cause, .. } => {
            ExplainError::Unavailable(format!("its model server cannot be asked: {cause}"))
        }
    }
}

/// A stretched image has pixels that are not square, as far as the image's own are.
fn aspect(contract: &Contract, header: &InstanceHeader) -> Option<(u32, u32)> {
    let stretched = contract.fit == Fit::Stretch && contract.orientation == Orientation::AsStored;
    (stretched && header.rows != header.columns).then_some((header.rows, header.columns))
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
