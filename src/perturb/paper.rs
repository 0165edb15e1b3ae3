//! The paper's changes of images, row by row (Gichoya 2022, and Lotter 2024 for acquisition), with names that stay.
//!
//! The paper filtered at 224 pixels a side; radii are cycles per image side, so they are the same on planes of other
//! sides, where fewer or more frequencies lie beyond them. What is given in pixels (blur, resolution) is in those of the
//! plane. A form decides only where the paper's code departs from its text. The code filters after ImageNet's mean and
//! deviation and here nothing has been subtracted yet, which moves the mean of a high-pass and what a missing cell is
//! filled with. Neighbours: `battery`. Left out: masks, saliency, and whether a model is trained on what comes out.

use super::{Form, Kept, Perturbation, Transform};

/// Of low-pass and high-pass, in the paper's words; its code takes them for radii.
pub const DIAMETERS: [f64; 10] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0, 200.0];
/// Of rings.
pub const RADII: [f64; 7] = [10.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0];
/// Sides that pictures are averaged down to, pixels; the largest is the side that the paper's model sees.
pub const SIDES: [u32; 12] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 240, 320];
pub const WINDOW_WIDTHS: [f64; 4] = [0.80, 0.85, 0.90, 0.95];
/// Of which the inner [`FIELD`] are shown, pixels.
pub const FIELDS: [u32; 5] = [235, 244, 252, 261, 269];
const FIELD: f64 = 224.0;
/// What counts as bone is brighter than this part of the range.
pub const BONE: f64 = 0.6;
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];

/// The changes of a row of the paper's table; none for rows that change no image, or by a mask or a model's attention.
/// `seed` is of noise.
pub fn row(number: u8, form: Form, seed: u64) -> Vec<Perturbation> {
    match number {
        14 => vec![bone_removed(form)],
        18 => [low_pass(form), high_pass(form)].concat(),
        19 => [band_pass(), notch()].concat(),
        20 => resolution(),
        21 => vec![noise(form, seed)],
        22 => vec![blur(form)],
        26 => [patches(form), high_pass_patches(form)].concat(),
        29 => [window(), field_of_view()].concat(),
        _ => Vec::new(),
    }
}

/// Row 14. The code cuts at .6 after (v − mean) / deviation, which is at .622, .590 and .541 of the range in the three
/// channels of the same picture; a grey plane has one ceiling, their mean of .585.
pub fn bone_removed(form: Form) -> Perturbation {
    let level = match form {
        Form::Corrected => BONE,
        Form::AsPublished => {
            let channels = IMAGENET_MEAN.iter().zip(&IMAGENET_DEVIATION);
            channels.map(|(mean, deviation)| mean + BONE * deviation).sum::<f64>() / 3.0
        }
    };
    let name = if form == Form::AsPublished { "bone removed as published" } else { "bone removed" };
    Perturbation { name: name.to_owned(), chain: vec![Transform::Ceiling { level }] }
}

/// Row 18.
pub fn low_pass(form: Form) -> Vec<Perturbation> {
    of(&DIAMETERS.map(|diameter| Transform::LowPass { diameter, form }))
}

/// Row 18.
pub fn high_pass(form: Form) -> Vec<Perturbation> {
    of(&DIAMETERS.map(|diameter| Transform::HighPass { diameter, form }))
}

/// Row 19: every ring between two of [`RADII`], which both forms take for radii.
pub fn band_pass() -> Vec<Perturbation> {
    of(&rings().map(|(inner, outer)| Transform::BandPass { inner, outer }).collect::<Vec<_>>())
}

/// Row 19: all but the ring.
pub fn notch() -> Vec<Perturbation> {
    of(&rings().map(|(inner, outer)| Transform::Notch { inner, outer }).collect::<Vec<_>>())
}

/// Row 20. Those that are no coarser than the plane leave it as it is.
pub fn resolution() -> Vec<Perturbation> {
    of(&SIDES.map(|side| Transform::Resolution { side }))
}

/// Row 21.
pub fn noise(form: Form, seed: u64) -> Perturbation {
    Perturbation::of(Transform::Noise { sigma: 0.1, seed, form })
}

/// Row 22.
pub fn blur(form: Form) -> Perturbation {
    Perturbation::of(Transform::Blur { sigma: 2.0, form })
}

/// Row 26: each cell of the 3 × 3 grid alone, then all but each.
pub fn patches(form: Form) -> Vec<Perturbation> {
    of(&cells(form))
}

/// Row 26: the same of what a high-pass of 100 leaves.
pub fn high_pass_patches(form: Form) -> Vec<Perturbation> {
    let high = Transform::HighPass { diameter: 100.0, form };
    cells(form).into_iter().map(|cell| Perturbation::chain(vec![high, cell])).collect()
}

/// Row 29.
pub fn window() -> Vec<Perturbation> {
    of(&WINDOW_WIDTHS.map(|width| Transform::Window { width, level: 0.5 }))
}

/// Row 29.
pub fn field_of_view() -> Vec<Perturbation> {
    let field = |pixels: u32| Perturbation {
        name: format!("field of view {pixels}"),
        chain: vec![Transform::FieldOfView { share: FIELD / f64::from(pixels) }],
    };
    FIELDS.map(field).into()
}

fn of(transforms: &[Transform]) -> Vec<Perturbation> {
    transforms.iter().copied().map(Perturbation::of).collect()
}

fn rings() -> impl Iterator<Item = (f64, f64)> {
    RADII.iter().enumerate().flat_map(|(at, inner)| RADII[at + 1..].iter().map(move |outer| (*inner, *outer)))
}

fn cells(form: Form) -> Vec<Transform> {
    let kinds = [Kept::Cell, Kept::Rest].into_iter();
    kinds.flat_map(|kept| (0..9).map(move |cell| Transform::Patch { cell, kept, form })).collect()
}
