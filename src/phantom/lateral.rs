//! The left lateral view: coarser than `pa`, from the same build and findings.
//!
//! The patient faces the left of the image. Lengths are mm on the detector of an average adult, `x` from the middle
//! of the chest towards the back. Neighbours: `patient`, `canvas`, `texture`; `pa` is its sibling. Left out: the
//! sides of the body, which project onto one another; a pneumothorax shows as faint lucency behind the sternum.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::canvas::{Canvas, bell, smooth};
use super::patient::{Build, Patient};
use super::texture::{Field, Textures};
use super::world::{Spectrum, World};

/// What 1 kg/m² more adds to the front of the body, mm, and to the grey of its tissue.
const GIRTH_MM: f32 = 2.0;
const FAT: f32 = 0.006;

/// Draws the lateral image.
pub fn draw(patient: &Patient, world: &World, textures: &Textures, mut canvas: Canvas, rng: &mut ChaCha8Rng) -> Canvas {
    let chest = Chest::new(patient, rng);
    let vessels = draw_vessels(&patient.build, Canvas::new(canvas.rows, canvas.cols), rng);
    let parenchyma = textures.draw(&Spectrum { wavelength_mm: 9.0, bandwidth: 0.6, anisotropy: 0.0 }, rng);
    // Its own stream: where worlds differ in texture, the rest of the picture stays the same.
    let body = textures.draw(&patient.texture, &mut ChaCha8Rng::from_rng(rng));
    draw_soft_tissue(
        &chest,
        &mut canvas,
        &vessels,
        [&parenchyma, &body],
        (world.texture_rms * patient.texture_strength) as f32,
        patient.excess(),
    );
    draw_bones(&chest, &mut canvas);

    let (gain, offset) = (rng.random_range(0.92f32..1.08), rng.random_range(-0.02f32..0.02));
    canvas.values.iter_mut().for_each(|v| *v = 0.03 + (*v * gain + offset).max(0.0) * 0.95);
    canvas.add_noise(patient.device.noise * 1.3, rng);
    let half = canvas.cols as f32 * canvas.mm / 2.0;
    let margin = rng.random_range(1.0f32..7.0);
    canvas.stamp('L', margin + 10.0 - half, margin + rng.random_range(8.0f32..40.0));
    canvas.collimate(margin);
    canvas
}

/// The chest from the side.
struct Chest {
    scale: f32,
    shift: (f32, f32),
    heart: f32,
    bone: f32,
    /// Heights of the two domes of the diaphragm.
    domes: [f32; 2],
    /// Height of a pleural effusion above the posterior angle, opacity.
    fluid: (f32, f32),
    retrosternal_lucency: f32,
}

impl Chest {
    fn new(patient: &Patient, rng: &mut ChaCha8Rng) -> Self {
        let build = &patient.build;
        let floor = 318.0 + 25.0 * (build.lung_height as f32 - 1.0);
        Self {
            scale: build.scale as f32,
            shift: (rng.random_range(-9.0f32..9.0), build.shift.1 as f32),
            heart: build.heart as f32,
            bone: build.bone as f32,
            domes: [floor - build.dome_step as f32 * 0.5, floor + build.dome_step as f32 * 0.5],
            fluid: patient.pleural_effusion.map_or((0.0, 0.0), |l| {
                ((14.0 + 80.0 * l.severity) as f32, ((0.35 + 0.40 * l.severity) * l.contrast).min(0.9) as f32)
            }),
            retrosternal_lucency: patient.pneumothorax.map_or(0.0, |l| (0.05 * l.severity * l.contrast) as f32),
        }
    }

    fn x(&self, x: f32) -> f32 {
        (x - self.shift.0) / self.scale
    }

    fn y(&self, y: f32) -> f32 {
        (y - 215.0 - self.shift.1) / self.scale + 215.0
    }

    fn to_detector(&self, x: f32, y: f32) -> (f32, f32) {
        (x * self.scale + self.shift.0, (y - 215.0) * self.scale + 215.0 + self.shift.1)
    }
}

/// Middle of the spine, curved backwards at mid height.
fn spine_x(y: f32) -> f32 {
    66.0 + 22.0 * bell(y - 200.0, 110.0)
}

/// Front and back of the trunk.
fn outline(y: f32) -> (f32, f32) {
    let front = -70.0 - 52.0 * smooth(y - 150.0, 220.0);
    (front, spine_x(y) + 54.0 - 8.0 * smooth(90.0 - y, 80.0))
}

/// Front and back of the lungs.
fn lung_bounds(y: f32) -> (f32, f32) {
    let front = -34.0 - 62.0 * smooth(y - 120.0, 200.0) - 8.0 * smooth(y - 70.0, 60.0);
    (front, spine_x(y) + 26.0 - 30.0 * smooth(100.0 - y, 80.0))
}

/// Height of a dome of the diaphragm: it falls steeply to the posterior angle.
fn floor(dome: f32, x: f32) -> f32 {
    let t = (x + 22.0) / 78.0;
    dome + 34.0 * t * t * if t > 0.0 { 1.0 } else { 0.35 }
}

/// `excess` is of the body mass index beyond the average, kg/m².
fn draw_soft_tissue(chest: &Chest, canvas: &mut Canvas, vessels: &Canvas, fields: [&Field; 2], rms: f32, excess: f32) {
    let cols = canvas.cols;
    let (mut lung_noise, mut body_noise) = (vec![0f32; cols], vec![0f32; cols]);
    for row in 0..canvas.rows {
        fields[0].row(row, &mut lung_noise);
        fields[1].row(row, &mut body_noise);
        let y = chest.y(canvas.y(row));
        let (front, back) = outline(y);
        let (front, back) = (front - GIRTH_MM * excess, back + 0.3 * GIRTH_MM * excess);
        let lung = lung_bounds(y);
        let arms = 0.10 * smooth(92.0 - y, 60.0);
        for col in 0..cols {
            let x = chest.x(canvas.x(col));
            let edge = (x - front).min(back - x);
            if edge <= 0.0 {
                continue;
            }
            let solid = (edge / 60.0).min(1.0);
            let mut grey = 0.05 + (0.66 + FAT * excess) * (solid * (2.0 - solid)).sqrt() + arms;
            let air = air_at(chest, lung, x, y);
            if air > 0.0 {
                grey -= air * (0.44 - vessels.values[row * cols + col] - 0.014 * lung_noise[col]);
            }
            canvas.values[row * cols + col] = grey + rms * body_noise[col] * smooth(edge - 6.0, 12.0);
        }
    }
}

/// How much air there is at a point, 0..1, relative to the depth of both lungs.
#[inline]
fn air_at(chest: &Chest, lung: (f32, f32), x: f32, y: f32) -> f32 {
    let wall = (x - lung.0).min(lung.1 - x);
    let apex = y - 66.0 - ((x - 20.0) / 46.0).powi(2) * 16.0;
    let mut air = 0.0;
    for dome in chest.domes {
        air += 0.5 * smooth(floor(dome, x) - y, 5.0);
    }
    air *= smooth(wall, 7.0) * smooth(apex, 14.0);
    if air <= 0.0 {
        return 0.0;
    }
    let (dx, dy) = (x + 38.0, y - 266.0);
    let (along, across) = ((0.64 * dx - 0.77 * dy) / 46.0, (0.77 * dx + 0.64 * dy) / 60.0);
    let heart = 0.68 * smooth(1.0 - (along * along + across * across) / (chest.heart * chest.heart), 0.6);
    let arch = 0.20 * bell(((x - 20.0).powi(2) + (y - 140.0).powi(2)).sqrt() - 24.0, 8.0) * smooth(170.0 - y, 60.0);
    let hilum = 0.45 * bell(x - 6.0, 14.0) * bell(y - 188.0, 17.0);
    let spine = 0.30 * smooth(17.0 - (x - spine_x(y)).abs(), 9.0);
    let shoulder = 0.35 * smooth(120.0 - y, 70.0);
    let trachea = 0.22 * smooth(7.0 - (x - 14.0 - 0.08 * y).abs(), 5.0) * smooth(158.0 - y, 40.0);
    let (height, opacity) = chest.fluid;
    let meniscus = floor(chest.domes[0], lung.1) - height * (0.5 + 0.5 * ((x - 20.0) / 80.0).clamp(0.0, 1.0).powi(2));
    let fluid = opacity * smooth(y - meniscus, 12.0);
    let retrosternal = chest.retrosternal_lucency * bell(x - lung.0 - 16.0, 14.0) * bell(y - 150.0, 50.0);
    air * (1.0 - heart) * (1.0 - arch) * (1.0 - hilum) * (1.0 - spine) * (1.0 - shoulder) * (1.0 - fluid)
        + trachea
        + air * retrosternal
}

fn draw_vessels(build: &Build, mut layer: Canvas, rng: &mut ChaCha8Rng) -> Canvas {
    for i in 0..22 {
        let mut angle = std::f32::consts::TAU * i as f32 / 22.0 + rng.random_range(-0.15f32..0.15);
        let (mut at, mut half) = ((6.0, 190.0), 2.1f32);
        while half > 0.5 {
            angle += rng.random_range(-0.2f32..0.2);
            let next: (f32, f32) = (at.0 + 7.0 * angle.cos(), at.1 + 7.0 * angle.sin());
            layer.max_line(at, next, half, 0.075 * build.vessels as f32 * (half / 2.1).sqrt());
            at = next;
            half *= 0.90;
        }
    }
    layer
}

fn draw_bones(chest: &Chest, canvas: &mut Canvas) {
    draw_column(chest, canvas);
    for k in 0..9 {
        let start = 74.0 + 25.0 * k as f32;
        for (offset, amplitude) in [(0.0, 0.040), (7.0, 0.030)] {
            let (from, to) = (chest.to_detector(-95.0, 0.0).0, chest.to_detector(100.0, 0.0).0);
            canvas.add_bone(from, to, |detector_x| {
                let x = chest.x(detector_x);
                // Ribs leave the spine downwards and run on towards the sternum.
                let y = start + offset + 0.42 * (spine_x(start) - x) + 9.0 * ((x + 10.0) / 80.0).powi(2);
                let lung = lung_bounds(y);
                let within = smooth((x - lung.0).min(lung.1 - x), 10.0) * smooth(330.0 - y, 40.0);
                (chest.to_detector(0.0, y).1, 4.4 * chest.scale, amplitude * within * chest.bone)
            });
        }
    }
}

/// Vertebral bodies with their discs, and the sternum.
fn draw_column(chest: &Chest, canvas: &mut Canvas) {
    for row in 0..canvas.rows {
        let y = chest.y(canvas.y(row));
        let spine = spine_x(y);
        let disc = smooth(((y / 25.0).fract() - 0.5).abs() * 25.0 - 9.5, 3.0);
        let sternum = lung_bounds(y).0 - 8.0;
        for col in 0..canvas.cols {
            let x = chest.x(canvas.x(col));
            let body = smooth(15.0 - (x - spine).abs(), 4.0) * (0.115 - 0.06 * disc) * smooth(y - 20.0, 30.0);
            let process = 0.03 * smooth(8.0 - (x - spine - 34.0).abs(), 10.0);
            let plate = 0.07 * smooth(5.5 - (x - sternum).abs(), 4.0) * smooth(y - 92.0, 8.0) * smooth(240.0 - y, 20.0);
            canvas.values[row * canvas.cols + col] += (body + process + plate) * chest.bone;
        }
    }
}
