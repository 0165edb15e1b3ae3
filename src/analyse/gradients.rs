//! Gradients of two white-box models on labelled images: what alignment and dose response are computed from.
//!
//! Both models see the same part of an image at the same size, so that a direction in one's input is one in the other's.
//! Gradients are means over noisy copies (SmoothGrad), of low frequencies only: high ones are of single pixels and differ
//! between any two networks. Race heads are fitted on the race model's features, to the labels and to labels that were
//! exchanged between patients within strata: what view, age or sex have to do with race stays in those, and what is found
//! beyond them is not theirs. A network of the clinical model's shape that knows nothing is asked the same. Neighbours:
//! `infer` differentiates, `assess` tests. Left out: reading images.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::assess::{Directed, Followed, heads};
use crate::domain::{Contract, Group, LineKind};
use crate::infer::{Package, Readout, WhiteBox};
use crate::perturb::{Form, Lab, Plane, Transform};

/// An image of a patient with a known group.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledImage {
    pub patient: String,
    /// Key of the race model's group.
    pub group: String,
    /// Labels are exchanged between patients whose images are of the same strata.
    pub stratum: String,
}

/// The image at a place of the list, as the race model and the clinical one see it; none where it cannot be read.
pub type Read<'a> = dyn Fn(usize) -> Option<[Plane; 2]> + 'a;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientOptions {
    /// Heads that are fitted to exchanged labels, 20 at least.
    pub heads: usize,
    /// Noisy copies of an image, and their noise in parts of the range.
    pub copies: usize,
    pub sigma: f64,
    /// Frequencies that count, in cycles per side.
    pub radius: f64,
    /// Root mean square of a step, in parts of the range.
    pub step: f64,
    pub seed: u64,
}

impl Default for GradientOptions {
    fn default() -> Self {
        Self { heads: 39, copies: 4, sigma: 0.05, radius: 16.0, step: 0.01, seed: 1 }
    }
}

/// Images whose features or scores are computed at a time.
const AT_ONCE: usize = 16;
/// Labels of a patient stand for at least so many images of each group.
const IMAGES_MIN: usize = 20;

/// A race model and a clinical one whose inputs are of the same geometry.
pub struct Pair<'a> {
    pub race: (&'a Package, &'a WhiteBox),
    pub clinical: (&'a Package, &'a WhiteBox),
    /// A network of the clinical one's shape that knows nothing, if there is one.
    pub untrained: Option<&'a WhiteBox>,
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

    /// Cosines and shifts of every finding and group over the images, each of which is read twice. `progress` is told of
    /// each reading.
    ///
    /// # Errors
    /// The race model shows no features, too few images have labels, or a patient has two groups.
    pub fn measure(
        &self,
        images: &[LabelledImage],
        read: &Read<'_>,
        options: &GradientOptions,
        progress: &dyn Fn(),
    ) -> anyhow::Result<Vec<Directed>> {
        if let Some(fault) = self.fault() {
            anyhow::bail!(fault);
        }
        let (kept, rows) = self.features(images.len(), read, progress)?;
        let labelled: Vec<&LabelledImage> = kept.iter().map(|place| &images[*place]).collect();
        let groups = self.groups(&labelled)?;
        let own_heads = fitted(&rows, &labelled, &groups, options)?;
        let findings = self.clinical.0.findings();
        let mut runs = Runs::new(findings.len(), groups.len(), options.heads);
        let mut lab = Lab::default();
        for (number, place) in kept.iter().enumerate() {
            let [race, clinical] = read(*place).context("an image that was there cannot be read again")?;
            let seed = options.seed.wrapping_add(1000 * number as u64);
            // The same noise for all networks.
            let [race_copies, copies] = [&race, &clinical].map(|plane| copies(&mut lab, plane, options, seed));
            let readouts: Vec<Readout> = (0..findings.len()).map(Readout::Output).collect();
            let gradients = low(&mut lab, self.clinical.1.gradients(&copies, &readouts)?, options);
            let untrained = self.untrained.map(|network| network.gradients(&copies, &readouts[..1])).transpose()?;
            let untrained = untrained.map(|gradients| low(&mut lab, gradients, options));
            for (g, own) in own_heads.iter().enumerate() {
                let readouts: Vec<Readout> = own.iter().map(|head| Readout::Head(head)).collect();
                let directions = low(&mut lab, self.race.1.gradients(&race_copies, &readouts)?, options);
                let cosines = |gradient: &Plane| directions.iter().map(|d| cosine(gradient, d)).collect::<Vec<f64>>();
                let steps =
                    directions.iter().flat_map(|d| [1.0, -1.0].map(|by| stepped(&clinical, d, by * options.step)));
                let steps: Vec<Plane> = steps.collect();
                for (f, shifts) in shifts(self.clinical.1, &steps, findings.len())?.into_iter().enumerate() {
                    runs.push(f, g, &cosines(&gradients[f]), &shifts);
                }
                if let (Some(network), Some(gradient)) = (self.untrained, untrained.as_ref().and_then(|u| u.first())) {
                    // After the findings.
                    runs.push(findings.len(), g, &cosines(gradient), &shifts(network, &steps, 1)?.remove(0));
                }
            }
            progress();
        }
        let patients: Vec<String> = labelled.iter().map(|image| image.patient.clone()).collect();
        let lines = |kind: usize| {
            let runs = &runs;
            let patients = &patients;
            let groups = &groups;
            (0..findings.len()).flat_map(move |f| {
                groups.iter().enumerate().map(move |(g, (_, group))| Directed {
                    kind: KINDS[kind],
                    model: self.clinical.0.key(),
                    finding: findings[f].key.clone(),
                    group: group.key.clone(),
                    patients: patients.clone(),
                    trained: runs.of(kind, f, g).clone(),
                    untrained: self.untrained.map(|_| runs.of(kind, findings.len(), g).clone()),
                })
            })
        };
        Ok((0..KINDS.len()).flat_map(lines).collect())
    }

    /// The race model's features of the images that can be read, and which these are.
    fn features(
        &self,
        count: usize,
        read: &Read<'_>,
        progress: &dyn Fn(),
    ) -> anyhow::Result<(Vec<usize>, Vec<Vec<f64>>)> {
        let (mut kept, mut rows) = (Vec::new(), Vec::new());
        for some in (0..count).collect::<Vec<_>>().chunks(AT_ONCE) {
            let mut planes = Vec::with_capacity(AT_ONCE);
            for place in some {
                if let Some([race, _]) = read(*place) {
                    kept.push(*place);
                    planes.push(race);
                }
                progress();
            }
            if !planes.is_empty() {
                rows.extend(self.race.1.features(&planes)?);
            }
        }
        Ok((kept, rows))
    }

    /// Groups with enough images, by their place in the race model's card; one of two, since they have one margin.
    fn groups(&self, images: &[&LabelledImage]) -> anyhow::Result<Vec<(usize, Group)>> {
        let count = |group: &Group| images.iter().filter(|i| i.group == group.key).count();
        let enough = |n: usize| n >= IMAGES_MIN && images.len() - n >= IMAGES_MIN;
        let all = self.race.0.groups();
        let found = all.iter().cloned().enumerate().filter(|(_, group)| enough(count(group)));
        let found: Vec<(usize, Group)> = found.take(if all.len() == 2 { 1 } else { all.len() }).collect();
        ensure!(!found.is_empty(), "no group of the race model has {IMAGES_MIN} images beside as many of others");
        Ok(found)
    }
}

const KINDS: [LineKind; 2] = [LineKind::GradientAlignment, LineKind::DoseResponse];

/// What was measured, by kind, finding (the untrained network is one after the last) and group.
struct Runs {
    groups: usize,
    followed: [Vec<Followed>; KINDS.len()],
}

impl Runs {
    fn new(findings: usize, groups: usize, heads: usize) -> Self {
        let empty = Followed { own: Vec::new(), exchanged: vec![Vec::new(); heads] };
        let all = vec![empty; (findings + 1) * groups];
        Self { groups, followed: [all.clone(), all] }
    }

    fn of(&self, kind: usize, finding: usize, group: usize) -> &Followed {
        &self.followed[kind][finding * self.groups + group]
    }

    /// One image's numbers: those of the own head first.
    fn push(&mut self, finding: usize, group: usize, cosines: &[f64], shifts: &[f64]) {
        for (followed, values) in self.followed.iter_mut().zip([cosines, shifts]) {
            let followed = &mut followed[finding * self.groups + group];
            if let Some((own, exchanged)) = values.split_first() {
                followed.own.push(*own);
                followed.exchanged.iter_mut().zip(exchanged).for_each(|(head, value)| head.push(*value));
            }
        }
    }
}

/// Of each group: a head fitted to the labels, then those fitted to exchanged labels.
fn fitted(
    rows: &[Vec<f64>],
    images: &[&LabelledImage],
    groups: &[(usize, Group)],
    options: &GradientOptions,
) -> anyhow::Result<Vec<Vec<Vec<f64>>>> {
    let draws = (0..options.heads as u64).map(|draw| exchanged(images, options.seed, draw));
    let draws = draws.collect::<anyhow::Result<Vec<_>>>()?;
    let of_group = |(_, group): &(usize, Group)| {
        let mut labels = vec![images.iter().map(|image| image.group == group.key).collect::<Vec<bool>>()];
        labels.extend(draws.iter().map(|groups| groups.iter().map(|own| *own == group.key).collect()));
        heads(rows, &labels).context("the race model's features do not vary")
    };
    groups.iter().map(of_group).collect()
}

/// Half of the difference between each step up and the step down after it, by output of the network.
fn shifts(network: &WhiteBox, steps: &[Plane], outputs: usize) -> anyhow::Result<Vec<Vec<f64>>> {
    let readouts: Vec<Readout> = (0..outputs).map(Readout::Output).collect();
    let mut shifts = vec![Vec::with_capacity(steps.len() / 2); outputs];
    for some in steps.chunks(AT_ONCE) {
        for (own, values) in shifts.iter_mut().zip(network.values(some, &readouts)?) {
            own.extend(values.chunks_exact(2).map(|pair| (pair[0] - pair[1]) / 2.0));
        }
    }
    Ok(shifts)
}

/// The group of each image with groups exchanged between whole patients whose images are of the same strata.
fn exchanged<'a>(images: &[&'a LabelledImage], seed: u64, draw: u64) -> anyhow::Result<Vec<&'a str>> {
    let mut patients: BTreeMap<&str, (&str, Vec<&str>)> = BTreeMap::new();
    for image in images {
        let (group, strata) = patients.entry(&image.patient).or_insert((&image.group, Vec::new()));
        ensure!(*group == image.group, "a patient has two groups: leave such patients out");
        strata.push(&image.stratum);
    }
    let mut alike: BTreeMap<Vec<&str>, Vec<(&str, &str)>> = BTreeMap::new();
    for (patient, (group, mut strata)) in patients {
        strata.sort_unstable();
        strata.dedup();
        alike.entry(strata).or_default().push((patient, group));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(draw);
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    for own in alike.values() {
        let mut groups: Vec<&str> = own.iter().map(|(_, group)| *group).collect();
        groups.shuffle(&mut rng);
        given.extend(own.iter().zip(groups).map(|((patient, _), group)| (*patient, group)));
    }
    Ok(images.iter().map(|image| given[image.patient.as_str()]).collect())
}

fn copies(lab: &mut Lab, plane: &Plane, options: &GradientOptions, seed: u64) -> Vec<Plane> {
    let noise = Transform::Noise { sigma: options.sigma, seed, form: Form::Corrected };
    lab.apply_all(noise, &vec![plane.clone(); options.copies.max(1)])
}

fn low(lab: &mut Lab, gradients: Vec<Plane>, options: &GradientOptions) -> Vec<Plane> {
    let low = Transform::LowPass { diameter: 2.0 * options.radius, form: Form::Corrected };
    gradients.iter().map(|gradient| lab.apply(low, gradient)).collect()
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
