//! One synthetic patient: who it is, what it has, how it is built and where it was imaged.
//!
//! Everything is drawn from the world, the seed and the patient's number, so that a patient is the same in a set
//! of ten and in a set of ten thousand, and has the same anatomy and findings in every world of equal prevalence.
//! Neighbours: `world` above; `pa`, `lateral` and `header` turn a patient into images. Left out: pixels.

use chrono::{Datelike, Days, NaiveDate};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::Serialize;

use super::device::{DEVICES, Device};
use super::world::{FindingWorld, Spectrum, World};

/// Self-declared sex, as in Patient's Sex (0010,0040).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Sex {
    F,
    M,
}

/// The side of the body; the patient's left is on the right of a PA image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Right,
    Left,
}

/// A finding that is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lesion {
    pub side: Side,
    /// Extent, 0 (barely there) to 1 (large).
    pub severity: f64,
    /// Factor on the contrast: chance × the world's factor for the group.
    pub contrast: f64,
}

/// How a body is built; lengths in mm at the detector.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Scale of the whole chest, about 1.
    pub scale: f64,
    /// Offset of the midline and of the shoulders on the image.
    pub shift: (f64, f64),
    /// Lean of the spine, mm per mm.
    pub tilt: f64,
    /// Half width and height of a lung, relative to the average.
    pub lung_width: f64,
    pub lung_height: f64,
    /// Half width of the heart relative to the average.
    pub heart: f64,
    /// How far the right dome of the diaphragm stands above the left.
    pub dome_step: f64,
    pub aorta: f64,
    /// Amplitudes of bone, vessel and soft tissue shadows relative to the average.
    pub bone: f64,
    pub vessels: f64,
    pub breast: f64,
    pub gastric_bubble: f64,
    pub rib_slope: f64,
    pub rib_pitch: f64,
    /// Findings that imitate others: a skin fold's line, a haze at a lung base.
    pub skin_fold: Option<Lesion>,
    pub basal_haze: Option<Lesion>,
}

/// A patient with one study.
#[derive(Debug, Clone)]
pub struct Patient {
    /// From 1.
    pub number: u32,
    /// Index into [`World::groups`]. Nothing but texture, contrast, body mass index and a world's signal may depend on it.
    pub group: usize,
    pub age: u32,
    pub sex: Sex,
    pub born: NaiveDate,
    pub imaged: NaiveDate,
    /// Seconds after midnight.
    pub time: u32,
    pub device: &'static Device,
    pub has_lateral: bool,
    pub pneumothorax: Option<Lesion>,
    pub pleural_effusion: Option<Lesion>,
    /// Texture of this patient, around that of its group, and its strength beside the world's.
    pub texture: Spectrum,
    pub texture_strength: f64,
    pub build: Build,
    /// Body mass index, kg/m², where the world has one.
    pub bmi: Option<f64>,
}

/// The body mass index that pictures without one are of.
const BMI: f64 = 25.0;

/// What a stream of random numbers is for; streams do not influence one another.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    Person = 1,
    Group = 2,
    Findings = 3,
    Build = 4,
    Texture = 5,
    Pa = 6,
    Lateral = 7,
    Habitus = 8,
}

/// The random numbers of one patient for one purpose.
pub fn stream(seed: u64, number: u32, purpose: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(number) << 8 | purpose as u64);
    rng
}

impl Patient {
    /// Patient `number` (from 1) of the set with this seed.
    pub fn draw(world: &World, seed: u64, number: u32, lateral_share: f64) -> Self {
        let rng = &mut stream(seed, number, Stream::Person);
        let age: u32 = rng.random_range(20..90);
        let sex = if rng.random_bool(0.5) { Sex::F } else { Sex::M };
        let imaged = NaiveDate::from_ymd_opt(2023, 1, 1).expect("a valid date") + Days::new(rng.random_range(0..730));
        // Between the birthdays of this age and the next, so that age and birth date agree.
        let born = imaged - Days::new(u64::from(age) * 365 + u64::from(age) / 4 + rng.random_range(2..360));
        let time = rng.random_range(7 * 3600..19 * 3600);
        let device = &DEVICES[rng.random_range(0..DEVICES.len())];
        let group = draw_group(world, &mut stream(seed, number, Stream::Group));
        let of = &world.groups[group];
        let has_lateral = rng.random::<f64>() < of.lateral_share.unwrap_or(lateral_share);

        let rng = &mut stream(seed, number, Stream::Findings);
        let mut pneumothorax = draw_lesion(of.pneumothorax, rng);
        if let (Some(lesion), Some(drift)) = (&mut pneumothorax, &world.drift)
            && drift.group == of.group
            && months_since_2023(imaged) >= drift.month
        {
            lesion.contrast *= drift.contrast;
        }
        let pleural_effusion = draw_lesion(of.pleural_effusion, rng);

        let rng = &mut stream(seed, number, Stream::Texture);
        let (texture, texture_strength) = draw_texture(world, group, pneumothorax.is_some(), rng);
        let build = Build::draw(sex, age, &mut stream(seed, number, Stream::Build));
        let chance = normal(&mut stream(seed, number, Stream::Habitus));
        let bmi = of.bmi.map(|bmi| (bmi.mean + bmi.sd * chance).clamp(14.0, 60.0));
        Self {
            number,
            group,
            age,
            sex,
            born,
            imaged,
            time,
            device,
            has_lateral,
            pneumothorax,
            pleural_effusion,
            texture,
            texture_strength,
            build,
            bmi,
        }
    }

    /// Body mass index beyond the average, kg/m²; 0 where the world has none.
    pub fn excess(&self) -> f32 {
        self.bmi.map_or(0.0, |bmi| (bmi - BMI) as f32)
    }
}

impl Build {
    fn draw(sex: Sex, age: u32, rng: &mut ChaCha8Rng) -> Self {
        let (size, breast) = match sex {
            Sex::F => (0.96, rng.random_range(0.4..1.3)),
            Sex::M => (1.02, 0.0),
        };
        let mut about = |mean: f64, sd: f64| mean + sd * normal(rng).clamp(-2.2, 2.2);
        let mut build = Self {
            scale: about(size, 0.03),
            shift: (about(0.0, 4.0), about(0.0, 7.0)),
            tilt: about(0.0, 0.012),
            lung_width: about(1.0, 0.05),
            lung_height: about(1.0, 0.05),
            heart: about(1.0 + f64::from(age) * 0.001, 0.09),
            dome_step: about(11.0, 5.0),
            aorta: about(0.8 + f64::from(age) * 0.004, 0.12),
            bone: about(1.0, 0.16),
            vessels: about(1.0, 0.18),
            breast,
            gastric_bubble: about(0.6, 0.4).max(0.0),
            rib_slope: about(1.0, 0.12),
            rib_pitch: about(1.0, 0.04),
            skin_fold: None,
            basal_haze: None,
        };
        let imitation = |share: f64, rng: &mut ChaCha8Rng| {
            let present = rng.random_bool(share);
            let lesion = Lesion { side: draw_side(rng), severity: rng.random(), contrast: rng.random_range(0.5..1.2) };
            present.then_some(lesion)
        };
        build.skin_fold = imitation(0.16, rng);
        build.basal_haze = imitation(0.25, rng);
        build
    }
}

fn draw_group(world: &World, rng: &mut ChaCha8Rng) -> usize {
    let total: f64 = world.groups.iter().map(|g| g.share).sum();
    let mut left = rng.random::<f64>() * total;
    for (i, group) in world.groups.iter().enumerate() {
        left -= group.share;
        if left < 0.0 {
            return i;
        }
    }
    world.groups.len() - 1
}

/// Whole months from January 2023, when the first images are taken.
fn months_since_2023(date: NaiveDate) -> u32 {
    12 * (date.year() - 2023).unsigned_abs() + date.month0()
}

/// The group's spectrum, or another group's for the share that does not match or takes a shortcut, with the patient's
/// own anisotropy; and its strength.
fn draw_texture(world: &World, group: usize, pneumothorax: bool, rng: &mut ChaCha8Rng) -> (Spectrum, f64) {
    let anisotropy = world.texture_anisotropy_sd * normal(rng);
    let mismatched = rng.random::<f64>() < world.texture_mismatch;
    let others = world.groups.len() - 1;
    let step = if mismatched && others > 0 { 1 + rng.random_range(0..others) } else { 0 };
    let mut of = &world.groups[(group + step) % world.groups.len()];
    if let Some(shortcut) = &world.shortcut {
        // Drawn whether the finding is there or not.
        let taken = rng.random::<f64>() < shortcut.share && pneumothorax;
        of = world.groups.iter().find(|g| taken && g.group == shortcut.group).unwrap_or(of);
    }
    let mut texture = of.texture;
    texture.anisotropy += anisotropy;
    (texture, of.texture_strength)
}

/// The same numbers are drawn whether the finding is there or not, so that worlds can be compared patient by patient.
fn draw_lesion(of: FindingWorld, rng: &mut ChaCha8Rng) -> Option<Lesion> {
    let present = rng.random::<f64>() < of.prevalence;
    let side = draw_side(rng);
    let severity: f64 = rng.random::<f64>().powf(1.2);
    let contrast = (0.30 * normal(rng)).exp().clamp(0.4, 2.0) * of.contrast;
    present.then_some(Lesion { side, severity, contrast })
}

fn draw_side(rng: &mut ChaCha8Rng) -> Side {
    if rng.random_bool(0.5) { Side::Right } else { Side::Left }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}
