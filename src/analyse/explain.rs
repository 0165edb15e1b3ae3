//! What in an image speaks for what the models said of it: maps of each model and finding, by Grad-CAM and occlusion.
//!
//! The models see the image as they scored it, by the same road; one frame of it, the middle one of several. What cannot
//! be explained says why. Neighbours: `scorers` runs Grad-CAM and scores what is covered, `infer` moves the patch,
//! `report` makes objects of maps. Left out: which studies are worth it, and who may see a map (`serve`, the commands).

use std::path::Path;

use anyhow::Context;
use tokio::task::JoinSet;

use super::scorers::Scorers;
use super::{Analyser, fresh_uid};
use crate::config::{Explain, MapForm};
use crate::domain::{
    AttributionMap, Contract, Disclosure, Fit, InstanceHeader, MapMethod, MapTarget, ModelIdentity, ModelInput,
    Orientation, Purpose, ReadyStudy, Report, ScoredInstance, Timestamp, Uid,
};
use crate::infer::{self, ExplainError, Occlusion, Package};
use crate::pixels::{self, Frames};
use crate::remote::RemoteError;
use crate::report::{self, MapImage, MapObject, Observer};

/// Covered images of one map that wait at a time.
const AT_ONCE: usize = 32;
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
    /// Explains the scores of one file, by the race model and the `clinical` packages (empty: all), as far as `rules` ask:
    /// first by the first method, for each model. What is done is in `explained` as soon as it is, whenever the caller
    /// gives up waiting.
    ///
    /// # Errors
    /// The image cannot be read any more, or the engine is gone.
    pub async fn explain(
        &self,
        file: &Path,
        header: &InstanceHeader,
        clinical: &[String],
        rules: &Explain,
        explained: &mut Vec<Explained>,
    ) -> anyhow::Result<()> {
        let admitted = self.admitted(header, clinical).map_err(|r| anyhow::anyhow!("{r}"))?;
        let first = explained.len();
        let mut inputs = Vec::new();
        for package in admitted.into_iter().filter(|p| rules.purposes.contains(&p.purpose)) {
            if !super::study::scores_images(package) {
                tracing::info!(model = package.identity.name, "not explained: its product scores images on its own");
                continue;
            }
            let contracts = std::slice::from_ref(&package.contract);
            let seen = self.workers.normalise(file, contracts, Frames::Middle).await;
            let seen = seen.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
            let input = seen.inputs.into_iter().next().context("the image has no frame")?;
            explained.push(Explained {
                instance: header.sop_instance.clone(),
                frame: seen.frames.first().copied().unwrap_or(1),
                model: package.identity.clone(),
                purpose: package.purpose,
                picture: pixels::grey_picture(&input, &package.contract),
                aspect: aspect(&package.contract, header),
                maps: Vec::new(),
                missing: Vec::new(),
            });
            inputs.push((package, input));
        }
        for method in &rules.methods {
            for ((package, input), one) in inputs.iter().zip(&mut explained[first..]) {
                let maps = match method {
                    MapMethod::Gradcam => self.scorers.grad_cam(package, input.clone()).await,
                    MapMethod::Occlusion => occlusion(&self.scorers, package, input, rules).await,
                };
                match maps {
                    Ok(maps) => one.take(package, *method, maps),
                    Err(ExplainError::Failed(infer::InferError::Stopped)) => anyhow::bail!("inference has ended"),
                    Err(error) => one.missing.push((*method, error.to_string())),
                }
            }
        }
        Ok(())
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
                let source = images.iter().find(|i| i.sop_instance == one.instance);
                let source = source.context("a map is of an image that the report does not name")?;
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
                    let (picture, aspect) = (&one.picture[..], one.aspect);
                    let image = MapImage { source, frame: one.frame, purpose, map, picture, aspect };
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

impl Explained {
    /// Maps in the order of the package's outputs, as [`infer::Engine::grad_cam`] gives them.
    fn take(&mut self, package: &Package, method: MapMethod, maps: Vec<Option<Vec<f32>>>) {
        let findings = package.findings().iter().map(|f| MapTarget::Finding(Box::new(f.clone())));
        let targets: Vec<MapTarget> =
            if package.purpose == Purpose::Race { vec![MapTarget::Groups] } else { findings.collect() };
        for (target, values) in targets.into_iter().zip(maps) {
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

/// The images that are worth a map, at most so many: those with the highest score by a clinical model first.
pub fn most_telling<'a>(study: &'a ReadyStudy, analyser: &Analyser, images_max: usize) -> Vec<&'a ScoredInstance> {
    let highest = |instance: &ScoredInstance| {
        let clinical = instance.scores.iter().filter(|s| !analyser.is_race(&s.model));
        clinical.flat_map(|s| &s.outputs).copied().fold(f64::NEG_INFINITY, f64::max)
    };
    let mut scored: Vec<_> = study.instances.iter().filter(|i| !i.scores.is_empty()).collect();
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
        let why =
            format!("the patch has {} places, at most {PLACES_MAX} are tried: raise explain.stride", places.len());
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
    let mut running: JoinSet<((u32, u32), Result<Vec<f64>, RemoteError>)> = JoinSet::new();
    let mut waiting = places.into_iter();
    loop {
        while running.len() < AT_ONCE
            && let Some(place) = waiting.next()
        {
            let covered = occlusion.covered(input, contract, place);
            let (scorers, package) = (scorers.clone(), package.clone());
            running.spawn(async move { (place, scorers.score_covered(&package, covered).await) });
        }
        let Some(done) = running.join_next().await else { break };
        let (place, scores) = done.map_err(|_| ExplainError::Failed(infer::InferError::Stopped))?;
        note(place, scores.map_err(unavailable)?);
    }
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
