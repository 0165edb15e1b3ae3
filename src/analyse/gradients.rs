//! Gradients of two white-box models on labelled images: what alignment and dose response are computed from.
//!
//! Both models see the same part of an image at the same size, so that a direction in one's input is one in the other's.
//! Gradients are means over noisy copies (SmoothGrad), of low frequencies only: high ones are of single pixels and differ
//! between any two networks. Race heads are fitted on the race model's features, to the labels and to labels that were
//! exchanged between patients within strata: what view, age or sex have to do with race stays in those, and what is found
//! beyond them is not theirs. Neighbours: `infer` differentiates, `assess` tests. Left out: reading images.

use std::collections::BTreeMap;

use anyhow::ensure;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::assess::{Alignment, Dose, heads};
use crate::domain::{Contract, Finding, Group};
use crate::infer::{Package, Readout, WhiteBox};
use crate::perturb::{Form, Lab, Plane, Transform};

/// An image of a patient with a known group, as both models see it.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledImage {
    pub patient: String,
    /// Key of the race model's group.
    pub group: String,
    /// Labels are exchanged within strata only.
    pub stratum: String,
    pub race: Plane,
    pub clinical: Plane,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientOptions {
    /// Heads that are fitted to exchanged labels, 20 at least. No p-value is less than one over as many and one.
    pub heads: usize,
    /// Noisy copies of an image, and their noise in parts of the range.
    pub copies: usize,
    pub sigma: f64,
    /// Frequencies that count, in cycles per side.
    pub radius: f64,
    /// Root mean square of a step, in parts of the range.
    pub step: f64,
    pub random_steps: usize,
    pub seed: u64,
}

impl Default for GradientOptions {
    fn default() -> Self {
        Self { heads: 99, copies: 4, sigma: 0.05, radius: 16.0, step: 0.01, random_steps: 8, seed: 1 }
    }
}

/// Images whose features are computed at a time.
const AT_ONCE: usize = 16;
/// Labels of a patient stand for at least so many images of each group.
const IMAGES_MIN: usize = 20;

/// A race model and a clinical one whose inputs are of the same geometry.
pub struct Pair<'a> {
    pub race: (&'a Package, &'a WhiteBox),
    pub clinical: (&'a Package, &'a WhiteBox),
}

impl Pair<'_> {
    /// Why a direction in one model's input is none in the other's, if so.
    pub fn fault(&self) -> Option<String> {
        let (race, clinical) = (&self.race.0.contract, &self.clinical.0.contract);
        let geometry = |c: &Contract| (c.size, c.fit, c.orientation, c.mask.clone());
        (geometry(race) != geometry(clinical)).then(|| {
            format!("{} and {} see other parts of an image, or at another size", race.label(), clinical.label())
        })
    }

    /// Cosines and shifts of every finding and group over the images. `progress` is told of each image.
    ///
    /// # Errors
    /// The race model shows no features, or too few images have labels.
    pub fn measure(
        &self,
        images: &[LabelledImage],
        options: &GradientOptions,
        progress: &dyn Fn(),
    ) -> anyhow::Result<(Vec<Alignment>, Vec<Dose>)> {
        if let Some(fault) = self.fault() {
            anyhow::bail!(fault);
        }
        let groups = self.groups(images)?;
        let own_heads = self.heads(images, &groups, options)?;
        let findings = self.clinical.0.findings();
        let mut runs = Runs::new(&self.clinical.0.key(), findings, &groups, options.heads);
        let mut lab = Lab::default();
        for (number, image) in images.iter().enumerate() {
            let seed = options.seed.wrapping_add(1000 * number as u64);
            let clinical = self.clinical_gradients(&mut lab, image, options, seed)?;
            for (g, group) in groups.iter().enumerate() {
                let directions = self.race_gradients(&mut lab, image, &own_heads[g], group.0, options, seed)?;
                let random = lab.lookalike(&directions.head, seed.wrapping_add(7));
                let doses = self.doses(&mut lab, image, &directions.margin, options, seed)?;
                for f in 0..findings.len() {
                    let run = &mut runs.alignments[f * groups.len() + g];
                    run.patients.push(image.patient.clone());
                    run.cosines.push(cosine(&clinical[f], &directions.head));
                    run.random.push(cosine(&clinical[f], &random));
                    for (head, exchanged) in run.exchanged.iter_mut().zip(&directions.exchanged) {
                        head.push(cosine(&clinical[f], exchanged));
                    }
                    let run = &mut runs.doses[f * groups.len() + g];
                    run.patients.push(image.patient.clone());
                    run.directed.push(doses[f].0);
                    run.random.push(doses[f].1);
                }
            }
            progress();
        }
        Ok((runs.alignments, runs.doses))
    }

    /// Groups with enough images, by their place in the race model's card; one of two, since they have one margin.
    fn groups(&self, images: &[LabelledImage]) -> anyhow::Result<Vec<(usize, Group)>> {
        let count = |group: &Group| images.iter().filter(|i| i.group == group.key).count();
        let enough = |n: usize| n >= IMAGES_MIN && images.len() - n >= IMAGES_MIN;
        let all = self.race.0.groups();
        let found = all.iter().cloned().enumerate().filter(|(_, group)| enough(count(group)));
        let found: Vec<(usize, Group)> = found.take(if all.len() == 2 { 1 } else { all.len() }).collect();
        ensure!(!found.is_empty(), "no group of the race model has {IMAGES_MIN} images beside as many of others");
        Ok(found)
    }

    /// Of each group: a head fitted to the labels, then those fitted to exchanged labels.
    fn heads(
        &self,
        images: &[LabelledImage],
        groups: &[(usize, Group)],
        options: &GradientOptions,
    ) -> anyhow::Result<Vec<Vec<Vec<f64>>>> {
        let mut rows = Vec::with_capacity(images.len());
        for some in images.chunks(AT_ONCE) {
            let planes: Vec<Plane> = some.iter().map(|image| image.race.clone()).collect();
            rows.extend(self.race.1.features(&planes)?);
        }
        let of_group = |(_, group): &(usize, Group)| {
            let mut labels = vec![images.iter().map(|image| image.group == group.key).collect()];
            labels.extend((0..options.heads).map(|draw| {
                let groups = exchanged(images, options.seed, draw as u64);
                groups.into_iter().map(|own| own == group.key).collect::<Vec<bool>>()
            }));
            heads(&rows, &labels).ok_or_else(|| anyhow::anyhow!("the race model's features do not vary"))
        };
        groups.iter().map(of_group).collect()
    }

    fn clinical_gradients(
        &self,
        lab: &mut Lab,
        image: &LabelledImage,
        options: &GradientOptions,
        seed: u64,
    ) -> anyhow::Result<Vec<Plane>> {
        let readouts: Vec<Readout> = (0..self.clinical.0.findings().len()).map(Readout::Output).collect();
        let copies = copies(lab, &image.clinical, options, seed);
        let gradients = self.clinical.1.gradients(&copies, &readouts)?;
        Ok(gradients.iter().map(|gradient| low(lab, gradient, options)).collect())
    }

    fn race_gradients(
        &self,
        lab: &mut Lab,
        image: &LabelledImage,
        own_heads: &[Vec<f64>],
        place: usize,
        options: &GradientOptions,
        seed: u64,
    ) -> anyhow::Result<Directions> {
        let mut readouts = vec![Readout::Output(place)];
        readouts.extend(own_heads.iter().map(|head| Readout::Head(head)));
        // The noise that the clinical model has too.
        let gradients = self.race.1.gradients(&copies(lab, &image.race, options, seed), &readouts)?;
        let mut low = gradients.iter().map(|gradient| low(lab, gradient, options));
        match (low.next(), low.next()) {
            (Some(margin), Some(head)) => Ok(Directions { margin, head, exchanged: low.collect() }),
            _ => anyhow::bail!("a gradient is missing"),
        }
    }

    /// Of each finding, the shift along the direction and the mean of those along random ones.
    fn doses(
        &self,
        lab: &mut Lab,
        image: &LabelledImage,
        direction: &Plane,
        options: &GradientOptions,
        seed: u64,
    ) -> anyhow::Result<Vec<(f64, f64)>> {
        let mut directions = vec![direction.clone()];
        directions
            .extend((0..options.random_steps).map(|n| lab.lookalike(direction, seed.wrapping_add(100 + n as u64))));
        let steps =
            directions.iter().flat_map(|d| [1.0, -1.0].map(|sign| stepped(&image.clinical, d, sign * options.step)));
        let planes: Vec<Plane> = steps.collect();
        let shift = |f: usize| -> anyhow::Result<(f64, f64)> {
            let values = self.clinical.1.values(&planes, Readout::Output(f))?;
            let shifts: Vec<f64> = values.chunks(2).map(|pair| (pair[0] - pair[1]) / 2.0).collect();
            let random = &shifts[1..];
            Ok((shifts[0], random.iter().sum::<f64>() / random.len().max(1) as f64))
        };
        (0..self.clinical.0.findings().len()).map(shift).collect()
    }
}

/// Race directions at one image.
struct Directions {
    /// Of the race model's own margin.
    margin: Plane,
    head: Plane,
    exchanged: Vec<Plane>,
}

struct Runs {
    alignments: Vec<Alignment>,
    doses: Vec<Dose>,
}

impl Runs {
    fn new(model: &str, findings: &[Finding], groups: &[(usize, Group)], heads: usize) -> Self {
        let pairs = || findings.iter().flat_map(|f| groups.iter().map(move |(_, g)| (f.key.clone(), g.key.clone())));
        let alignment = |(finding, group)| Alignment {
            model: model.to_owned(),
            finding,
            group,
            patients: Vec::new(),
            cosines: Vec::new(),
            exchanged: vec![Vec::new(); heads],
            random: Vec::new(),
        };
        let dose = |(finding, group)| Dose {
            model: model.to_owned(),
            finding,
            group,
            patients: Vec::new(),
            directed: Vec::new(),
            random: Vec::new(),
        };
        Self { alignments: pairs().map(alignment).collect(), doses: pairs().map(dose).collect() }
    }
}

/// The group of each image with patients' groups exchanged within their strata.
fn exchanged(images: &[LabelledImage], seed: u64, draw: u64) -> Vec<String> {
    let mut patients: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for image in images {
        patients.entry(&image.stratum).or_default().insert(&image.patient, &image.group);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(draw);
    let mut given: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (stratum, own) in &patients {
        let mut groups: Vec<&str> = own.values().copied().collect();
        groups.shuffle(&mut rng);
        given.extend(own.keys().zip(groups).map(|(patient, group)| ((*stratum, *patient), group)));
    }
    let of = |image: &LabelledImage| given[&(image.stratum.as_str(), image.patient.as_str())].to_owned();
    images.iter().map(of).collect()
}

fn copies(lab: &mut Lab, plane: &Plane, options: &GradientOptions, seed: u64) -> Vec<Plane> {
    let noise = Transform::Noise { sigma: options.sigma, seed, form: Form::Corrected };
    lab.apply_all(noise, &vec![plane.clone(); options.copies.max(1)])
}

fn low(lab: &mut Lab, gradient: &Plane, options: &GradientOptions) -> Plane {
    lab.apply(Transform::LowPass { diameter: 2.0 * options.radius, form: Form::Corrected }, gradient)
}

fn norm(plane: &Plane) -> f64 {
    plane.values().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// 0 where one of them is.
fn cosine(a: &Plane, b: &Plane) -> f64 {
    let dot: f64 = a.values().iter().zip(b.values()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let norms = norm(a) * norm(b);
    if norms > 0.0 { (dot / norms).clamp(-1.0, 1.0) } else { 0.0 }
}

/// The plane one step along the direction, whose root mean square becomes `by`.
fn stepped(plane: &Plane, direction: &Plane, by: f64) -> Plane {
    let norm = norm(direction) / (direction.values().len() as f64).sqrt();
    let scale = if norm > 0.0 { by / norm } else { 0.0 };
    let values = plane.values().iter().zip(direction.values()).map(|(v, d)| v + (scale * f64::from(*d)) as f32);
    Plane::new(plane.side(), values.collect()).unwrap_or_else(|| plane.clone())
}

#[cfg(test)]
#[path = "gradients_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
