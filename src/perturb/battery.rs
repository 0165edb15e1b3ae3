//! Named lists of changes: one plane becomes many.
//!
//! Neighbours: `analyse` runs the one for co-movement on a study's image. Left out: what models make of them.

use serde::{Deserialize, Serialize};

use super::{Form, Kept, Lab, Plane, Transform};

/// One change: transforms one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Perturbation {
    pub name: String,
    pub chain: Vec<Transform>,
}

/// Changes that are made of the same plane.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Battery {
    pub perturbations: Vec<Perturbation>,
}

/// Resolutions, blur and frequencies are of this side in the paper; the battery keeps their share of other sides, but for
/// frequencies on larger ones, which are the same there.
const SIDE: f64 = 224.0;

impl Perturbation {
    pub fn of(transform: Transform) -> Self {
        Self::chain(vec![transform])
    }

    /// Several, named after all of them.
    pub fn chain(chain: Vec<Transform>) -> Self {
        let name = chain.iter().map(Transform::name).collect::<Vec<_>>().join(" then ");
        Self { name, chain }
    }

    /// The plane changed.
    pub fn apply(&self, lab: &mut Lab, plane: &Plane) -> Plane {
        self.apply_at(0, lab, plane)
    }

    /// The same at a place in a batch: noise is this place's own.
    pub fn apply_at(&self, place: usize, lab: &mut Lab, plane: &Plane) -> Plane {
        let Some((first, rest)) = self.chain.split_first() else { return plane.clone() };
        let changed = lab.apply_at(place, *first, plane);
        rest.iter().fold(changed, |plane, transform| lab.apply_at(place, *transform, &plane))
    }

    /// What cannot be meant, if anything.
    pub fn fault(&self) -> Option<String> {
        self.chain.iter().find_map(Transform::fault)
    }
}

impl Battery {
    /// Perturbations of the battery for co-movement.
    pub const CO_MOVEMENT_MAX: usize = 31;

    /// The first `count` of the changes whose effect on two models is compared (method.md §3): mild ones of every kind
    /// first, so that a short battery has all kinds. `side` is of the plane, `seed` of its noise.
    pub fn co_movement(count: usize, side: u32, seed: u64) -> Self {
        let form = Form::Corrected;
        let scaled = |pixels: f64| ((pixels * f64::from(side) / SIDE).round() as u32).max(1);
        let blur = |pixels: f64| Transform::Blur { sigma: pixels * f64::from(side) / SIDE, form };
        let window = |width| Transform::Window { width, level: 0.5 };
        let field = |pixels: f64| Transform::FieldOfView { share: SIDE / pixels };
        let cycles = |radius: f64| radius * (f64::from(side) / SIDE).min(1.0);
        let low = |radius: f64| Transform::LowPass { diameter: 2.0 * cycles(radius), form };
        let notch = |inner, outer| Transform::Notch { inner: cycles(inner), outer: cycles(outer) };
        let noise = |sigma, more: u64| Transform::Noise { sigma, seed: seed.wrapping_add(more), form };
        let without = |cell| Transform::Patch { cell, kept: Kept::Rest, form };
        let all: [(&str, Transform); Self::CO_MOVEMENT_MAX] = [
            ("window .90", window(0.90)),
            ("field of view 252", field(252.0)),
            ("low-pass 50", low(50.0)),
            ("noise .05", noise(0.05, 0)),
            ("blur 1", blur(1.0)),
            ("resolution 112", Transform::Resolution { side: scaled(112.0) }),
            ("jpeg 50", Transform::Jpeg { quality: 50 }),
            ("without cell 4", without(4)),
            ("notch 25-50", notch(25.0, 50.0)),
            ("window .80", window(0.80)),
            ("field of view 235", field(235.0)),
            ("low-pass 25", low(25.0)),
            ("noise .1", noise(0.1, 1)),
            ("blur 2", blur(2.0)),
            ("resolution 56", Transform::Resolution { side: scaled(56.0) }),
            ("jpeg 20", Transform::Jpeg { quality: 20 }),
            ("without cell 0", without(0)),
            ("notch 10-25", notch(10.0, 25.0)),
            ("window .85", window(0.85)),
            ("field of view 269", field(269.0)),
            ("without cell 2", without(2)),
            ("window .95", window(0.95)),
            ("without cell 6", without(6)),
            ("low-pass 75", low(75.0)),
            ("without cell 8", without(8)),
            ("jpeg 80", Transform::Jpeg { quality: 80 }),
            ("without cell 1", without(1)),
            ("without cell 3", without(3)),
            ("without cell 5", without(5)),
            ("without cell 7", without(7)),
            ("field of view 244", field(244.0)),
        ];
        let one = |(name, transform): (&str, Transform)| Perturbation { name: name.to_owned(), chain: vec![transform] };
        Self { perturbations: all.into_iter().take(count).map(one).collect() }
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<String> {
        self.perturbations.iter().map(|p| p.name.clone()).collect()
    }

    /// The plane by each change, one after the other as they are asked for.
    pub fn of<'a>(&'a self, lab: &'a mut Lab, plane: &'a Plane) -> impl Iterator<Item = Plane> + 'a {
        self.perturbations.iter().map(move |perturbation| perturbation.apply(lab, plane))
    }
}
