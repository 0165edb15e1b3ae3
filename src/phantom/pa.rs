//! The posterior-anterior view, drawn analytically from a patient's build.
//!
//! Lengths are mm in the patient's chest frame ([`Frame`]), in which the average adult is described; `u` is the
//! distance from the midline towards a side. Neighbours: `patient` gives build and findings, `canvas` and `texture`
//! the tools, `lateral` is its sibling. Left out: group labels; only texture, contrast and habitus reach this file.

use std::f32::consts::{PI, TAU};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::canvas::{Canvas, bell, smooth};
use super::patient::{Build, Lesion, Patient, Side};
use super::texture::{Field, Textures};
use super::world::{Spectrum, World};

/// Grey of soft tissue at the thickest part, and how much of it air in a lung takes away.
const TISSUE: f32 = 0.70;
const LUNG_DEPTH: f32 = 0.50;
/// What 1 kg/m² more adds to the width of the body, in parts of it, and to the grey of its tissue.
const GIRTH: f32 = 0.010;
const FAT: f32 = 0.006;

/// Draws the PA image.
pub fn draw(patient: &Patient, world: &World, textures: &Textures, mut canvas: Canvas, rng: &mut ChaCha8Rng) -> Canvas {
    let build = &patient.build;
    let frame = Frame::new(build);
    let lungs = [Side::Right, Side::Left].map(|side| Lung::new(patient, side));
    let vessels = draw_vessels(build, &frame, &lungs, Canvas::new(canvas.rows, canvas.cols), rng);
    let parenchyma = Spectrum { wavelength_mm: 9.0, bandwidth: 0.6, anisotropy: 0.0 };
    let parenchyma = textures.draw(&parenchyma, rng);
    // Its own stream: where worlds differ in texture, the rest of the picture stays the same.
    let body = textures.draw(&patient.texture, &mut ChaCha8Rng::from_rng(rng));
    draw_soft_tissue(
        build,
        &frame,
        &lungs,
        &mut canvas,
        &Layers {
            vessels,
            parenchyma,
            body,
            rms: world.texture_rms * patient.texture_strength,
            excess: patient.excess(),
        },
    );
    draw_bones(build, &frame, &lungs, &mut canvas);

    let (gain, offset) = (rng.random_range(0.92f32..1.08), rng.random_range(-0.02f32..0.02));
    canvas.values.iter_mut().for_each(|v| *v = 0.03 + (*v * gain + offset).max(0.0) * 0.95);
    canvas.add_noise(patient.device.noise, rng);
    let half = canvas.cols as f32 * canvas.mm / 2.0;
    let margin = rng.random_range(1.0f32..7.0);
    canvas.stamp('R', margin + 12.0 - half, margin + rng.random_range(8.0f32..40.0));
    canvas.collimate(margin);
    canvas
}

/// From the detector to the chest frame: midline at x = 0, average size, upright.
struct Frame {
    scale: f32,
    shift: (f32, f32),
    tilt: f32,
}

/// Height around which bodies are scaled and tilted.
const PIVOT: f32 = 215.0;

impl Frame {
    fn new(build: &Build) -> Self {
        Self { scale: build.scale as f32, shift: (build.shift.0 as f32, build.shift.1 as f32), tilt: build.tilt as f32 }
    }

    fn y(&self, y: f32) -> f32 {
        (y - PIVOT - self.shift.1) / self.scale + PIVOT
    }

    /// Position of the midline on the detector in the row at `y` on the detector.
    fn midline(&self, y: f32) -> f32 {
        self.shift.0 + self.tilt * (y - PIVOT)
    }

    fn to_detector(&self, x: f32, y: f32) -> (f32, f32) {
        let down = (y - PIVOT) * self.scale + PIVOT + self.shift.1;
        (x * self.scale + self.midline(down), down)
    }
}

/// Outline of one lung: half an ellipse above `centre_y`, a steeper one below, cut off by mediastinum and diaphragm.
struct Lung {
    /// −1 for the right lung (left in the image), +1 for the left.
    sign: f32,
    centre_u: f32,
    centre_y: f32,
    half_width: f32,
    half_height: f32,
    /// Height of the costophrenic angle and of the dome above it.
    base_y: f32,
    dome: f32,
    pneumothorax: Option<Rim>,
    /// Fluid: height of its surface at the chest wall above the base, opacity.
    fluid: Option<(f32, f32)>,
    /// Opaque haze at the base: strength.
    haze: f32,
}

/// A collapsed lung's outline within its space, or a line that imitates one.
struct Rim {
    apex_gap: f32,
    lateral_gap: f32,
    /// Where the gap has closed, mm below the apex.
    reach: f32,
    lucency: f32,
    line: f32,
    /// Share of the lung markings that the rim hides.
    emptiness: f32,
}

impl Rim {
    fn pneumothorax(lesion: &Lesion) -> Self {
        let (severity, contrast) = (lesion.severity as f32, lesion.contrast as f32);
        Self {
            apex_gap: 6.0 + 30.0 * severity,
            lateral_gap: 3.0 + 16.0 * severity,
            reach: 60.0 + 130.0 * severity,
            lucency: (0.030 + 0.060 * severity) * contrast,
            line: 0.055 * contrast,
            emptiness: contrast.min(1.0),
        }
    }

    fn skin_fold(lesion: &Lesion) -> Self {
        let severity = lesion.severity as f32;
        Self {
            apex_gap: 14.0 + 26.0 * severity,
            lateral_gap: 6.0 + 22.0 * severity,
            reach: 150.0,
            lucency: 0.0,
            line: 0.035 * lesion.contrast as f32,
            emptiness: 0.0,
        }
    }
}

impl Lung {
    fn new(patient: &Patient, side: Side) -> Self {
        let build = &patient.build;
        let on_this = |lesion: &Option<Lesion>| lesion.filter(|l| l.side == side);
        let (sign, step) = match side {
            Side::Right => (-1.0, -0.5),
            Side::Left => (1.0, 0.5),
        };
        let pneumothorax = on_this(&patient.pneumothorax).map(|l| Rim::pneumothorax(&l));
        Self {
            sign,
            centre_u: 60.0,
            centre_y: 245.0,
            half_width: 73.0 * build.lung_width as f32,
            half_height: 185.0 * build.lung_height as f32,
            base_y: 362.0 + (step * build.dome_step) as f32,
            dome: 46.0,
            pneumothorax: pneumothorax.or_else(|| on_this(&build.skin_fold).map(|l| Rim::skin_fold(&l))),
            fluid: on_this(&patient.pleural_effusion).map(|l| {
                let opacity = (0.40 + 0.50 * l.severity) * l.contrast;
                ((16.0 + 80.0 * l.severity) as f32, opacity.min(0.95) as f32)
            }),
            haze: on_this(&build.basal_haze).map_or(0.0, |l| (0.10 + 0.30 * l.severity * l.contrast) as f32),
        }
    }

    /// Distance inside the chest wall (negative outside), to first order, of an outline drawn in by the gaps.
    #[inline]
    fn inside(&self, u: f32, y: f32, apex_gap: f32, lateral_gap: f32) -> f32 {
        let dy = y - self.centre_y;
        let height = if dy < 0.0 { self.half_height - apex_gap } else { 2.2 * self.half_height };
        let width = self.half_width - lateral_gap;
        let (per_width, per_height) = (1.0 / width, 1.0 / height);
        let (p, q) = ((u - self.centre_u) * per_width, dy * per_height);
        let (dp, dq) = (p * per_width, q * per_height);
        (1.0 - p * p - q * q) / (2.0 * (dp * dp + dq * dq).sqrt()).max(1e-4)
    }

    /// Height of the diaphragm.
    #[inline]
    fn floor(&self, u: f32) -> f32 {
        let t = (u - 62.0) * if u > 62.0 { 1.0 / 76.0 } else { 1.0 / 110.0 };
        self.base_y - self.dome * (1.0 - t * t)
    }

    /// Height of a pleural effusion's meniscus: highest at the chest wall.
    #[inline]
    fn meniscus(&self, u: f32, height: f32) -> f32 {
        let t = ((u - 40.0) / (self.half_width + self.centre_u - 40.0)).clamp(0.0, 1.2);
        self.base_y - height * (0.45 + 0.55 * t * t)
    }
}

/// What is mixed into the soft tissue.
struct Layers {
    vessels: Canvas,
    parenchyma: Field,
    body: Field,
    rms: f64,
    /// Body mass index beyond the average, kg/m².
    excess: f32,
}

fn draw_soft_tissue(build: &Build, frame: &Frame, lungs: &[Lung; 2], canvas: &mut Canvas, layers: &Layers) {
    let cols = canvas.cols;
    let (mut lung_noise, mut body_noise) = (vec![0f32; cols], vec![0f32; cols]);
    let rms = layers.rms as f32;
    for row in 0..canvas.rows {
        layers.parenchyma.row(row, &mut lung_noise);
        layers.body.row(row, &mut body_noise);
        let on_detector = canvas.y(row);
        let (y, midline) = (frame.y(on_detector), frame.midline(on_detector));
        let half_body = body_half_width(y) * (1.0 + GIRTH * layers.excess);
        let mediastinum = mediastinum_half_widths(y, build);
        let middle = Middle::at(y, build);
        let (per_scale, per_half) = (1.0 / frame.scale, 1.0 / half_body);
        let apex = lungs[0].centre_y - lungs[0].half_height - 6.0;
        for col in 0..cols {
            let x = (canvas.x(col) - midline) * per_scale;
            let off_edge = 1.0 - (x * per_half) * (x * per_half);
            if off_edge <= 0.0 {
                continue;
            }
            let mut grey = 0.04 + (TISSUE + FAT * layers.excess - 0.04) * off_edge.sqrt().sqrt();
            let lung = &lungs[usize::from(x > 0.0)];
            let u = x.abs();
            grey += abdomen(lung, u, y, build) + middle.airways(x);
            let wall = if y > apex && u < 150.0 { lung.inside(u, y, 0.0, 0.0) } else { -9.0 };
            if wall > -4.0 {
                let cover = middle.cover(x, u - mediastinum[usize::from(x > 0.0)]);
                let texture = Markings { vessels: layers.vessels.values[row * cols + col], noise: lung_noise[col] };
                grey -= lung_grey(lung, u, y, wall, cover, &texture);
            }
            if build.breast > 0.0 {
                grey += breast(u, y, build.breast as f32);
            }
            canvas.values[row * cols + col] = grey + rms * body_noise[col] * smooth(off_edge - 0.05, 0.1);
        }
    }
}

/// Lung markings at a pixel.
struct Markings {
    vessels: f32,
    noise: f32,
}

/// How much darker than soft tissue a lung is at (u, y), with its findings.
#[inline]
fn lung_grey(lung: &Lung, u: f32, y: f32, wall: f32, cover: f32, markings: &Markings) -> f32 {
    let above_floor = lung.floor(u) - y;
    let mut air = smooth(wall, 4.0) * smooth(above_floor, 5.0) * (1.0 - cover);
    if air <= 0.0 {
        return 0.0;
    }
    let depth = LUNG_DEPTH * (0.72 + 0.28 * (wall / 45.0).clamp(0.0, 1.0));
    let mut texture = markings.vessels + 0.016 * markings.noise;
    let mut lucency = 0.0;
    if let Some(rim) = &lung.pneumothorax {
        let apex = lung.centre_y - lung.half_height;
        // The gap closes downwards along the chest wall.
        let closing = (1.0 - (y - apex) / rim.reach).clamp(0.0, 1.0).sqrt();
        let visceral = lung.inside(u, y, rim.apex_gap, rim.lateral_gap * closing);
        let between = smooth(-visceral, 2.0) * closing.min(0.25) * 4.0;
        texture *= 1.0 - rim.emptiness * between;
        lucency = rim.lucency * between - rim.line * bell(visceral, 1.0) * closing.min(0.25) * 4.0;
    }
    if let Some((height, opacity)) = lung.fluid {
        air *= 1.0 - opacity * smooth(y - lung.meniscus(u, height), 9.0);
    }
    if lung.haze > 0.0 {
        air *= 1.0 - lung.haze * bell(u - 80.0, 34.0) * bell(y - lung.base_y + 52.0, 30.0);
    }
    air * (depth - texture + lucency)
}

/// Heart, great vessels, hila and airways along one row.
struct Middle {
    y: f32,
    heart: [f32; 3],
    knob: f32,
    hilum: f32,
    airway: f32,
}

impl Middle {
    fn at(y: f32, build: &Build) -> Self {
        Self {
            y,
            heart: [24.0, 270.0, build.heart as f32],
            knob: 17.0 * build.aorta as f32,
            hilum: 0.55 * bell(y - 190.0, 15.0),
            airway: 0.10 * smooth(y - 20.0, 20.0) * smooth(150.0 - y, 24.0),
        }
    }

    /// How much of the lung is covered (0..1) at x; `beyond` is the distance outside the mediastinum.
    #[inline]
    fn cover(&self, x: f32, beyond: f32) -> f32 {
        let [centre_x, centre_y, size] = self.heart;
        let (dx, dy) = (x - centre_x, self.y - centre_y);
        // The long axis points down to the left, 35° below the horizontal.
        let (along, across) = ((0.82 * dx + 0.57 * dy) / (68.0 * size), (0.82 * dy - 0.57 * dx) / (56.0 * size));
        if beyond > 80.0 {
            return 0.0;
        }
        let heart = 0.90 * smooth(1.0 - along * along - across * across, 0.26);
        let (kx, ky) = (x - 25.0, self.y - 138.0);
        let knob = 0.85 * smooth(self.knob - (kx * kx + ky * ky).sqrt(), 8.0);
        let hilum = self.hilum * bell(x.abs() - 40.0, 13.0);
        let mediastinum = 0.93 * smooth(-beyond, 8.0);
        1.0 - (1.0 - heart) * (1.0 - knob) * (1.0 - hilum) * (1.0 - mediastinum)
    }

    /// Trachea and main bronchi: air within the mediastinum.
    #[inline]
    fn airways(&self, x: f32) -> f32 {
        if x.abs() > 45.0 {
            return 0.0;
        }
        let trachea = self.airway * smooth(8.0 - x.abs(), 4.0);
        let below = self.y - 140.0;
        let bronchi = if (0.0..45.0).contains(&below) {
            0.06 * smooth(5.0 - (x.abs() - 3.0 - below * 0.75).abs(), 5.0)
        } else {
            0.0
        };
        -trachea - bronchi
    }
}

/// Half width of neck, shoulders and trunk.
fn body_half_width(y: f32) -> f32 {
    let shoulders = 56.0 + 190.0 * smooth(y - 52.0, 80.0);
    shoulders - 72.0 * smooth(y - 190.0, 110.0)
}

/// Half widths of the mediastinum to the right and to the left.
fn mediastinum_half_widths(y: f32, build: &Build) -> [f32; 2] {
    let neck = 8.0 * smooth(110.0 - y, 60.0);
    let trunk = 13.0 * bell(y - 178.0, 16.0);
    [25.0 + neck, 19.0 + neck + 6.0 * build.aorta as f32 + trunk]
}

/// What lies below the diaphragm, brighter than the trunk; on the left with the stomach's air.
#[inline]
fn abdomen(lung: &Lung, u: f32, y: f32, build: &Build) -> f32 {
    let below = y - lung.floor(u);
    if below < -4.0 || u > 172.0 {
        return 0.0;
    }
    let organs = 0.08 * smooth(below, 5.0) * smooth(150.0 - u, 40.0);
    if lung.sign < 0.0 {
        return organs;
    }
    let (dx, dy) = ((u - 66.0) / 26.0, (y - lung.base_y + lung.dome - 20.0) / 12.0);
    organs - 0.20 * build.gastric_bubble as f32 * smooth(1.0 - dx * dx - dy * dy, 0.7)
}

#[inline]
fn breast(u: f32, y: f32, size: f32) -> f32 {
    if y < 215.0 {
        return 0.0;
    }
    let (dx, dy) = ((u - 84.0) / 54.0, (y - 272.0) / 52.0);
    let inside = smooth(1.0 - dx * dx - dy * dy, 0.4);
    0.07 * size * inside * smooth(y - 235.0, 90.0)
}

/// Vessels leave the hila, branch once or twice and taper towards the chest wall.
fn draw_vessels(build: &Build, frame: &Frame, lungs: &[Lung; 2], mut layer: Canvas, rng: &mut ChaCha8Rng) -> Canvas {
    for lung in lungs {
        for i in 0..13 {
            let angle = -1.35 + 2.85 * (i as f32 + rng.random_range(-0.4f32..0.4)) / 12.0;
            let start = (34.0 + rng.random_range(-4.0f32..8.0), 188.0 + 26.0 * angle.sin());
            let length = rng.random_range(70.0f32..120.0) * (1.0 + 0.35 * angle.sin().abs());
            draw_vessel(lung, frame, &mut layer, (start, angle, length, 2.1), build.vessels as f32, rng);
        }
    }
    layer
}

type Branch = ((f32, f32), f32, f32, f32);

fn draw_vessel(lung: &Lung, frame: &Frame, layer: &mut Canvas, root: Branch, strength: f32, rng: &mut ChaCha8Rng) {
    const PIECE: f32 = 7.0;
    let mut open = vec![root];
    while let Some(((mut u, mut y), mut angle, mut length, mut half)) = open.pop() {
        while length > 0.0 && half > 0.45 {
            angle += rng.random_range(-0.16f32..0.16);
            let next = (u + PIECE * angle.cos(), y + PIECE * angle.sin());
            let (from, to) = (frame.to_detector(lung.sign * u, y), frame.to_detector(lung.sign * next.0, next.1));
            layer.max_line(from, to, half, 0.085 * strength * (half / 2.1).sqrt());
            if half > 0.9 && rng.random_bool(0.13) {
                let turn = if rng.random_bool(0.5) { 0.55 } else { -0.55 };
                open.push((next, angle + turn, length * 0.7, half * 0.72));
            }
            (u, y) = next;
            length -= PIECE;
            half *= 0.925;
        }
    }
}

fn draw_bones(build: &Build, frame: &Frame, lungs: &[Lung; 2], canvas: &mut Canvas) {
    draw_spine(build, frame, canvas);
    let strength = build.bone as f32;
    let (slope, pitch) = (build.rib_slope as f32, build.rib_pitch as f32);
    for lung in lungs {
        // A bone as a function of u in the chest frame, brought to the detector's columns.
        let mut bone = |from: f32, to: f32, shape: &dyn Fn(f32) -> (f32, f32, f32)| {
            let ends = [from, to].map(|u| lung.sign * u * frame.scale + frame.shift.0);
            canvas.add_bone(ends[0].min(ends[1]) - 4.0, ends[0].max(ends[1]) + 4.0, |x| {
                let upright = lung.sign * (x - frame.shift.0) / frame.scale;
                let lean = frame.midline(frame.to_detector(0.0, shape(upright).0).1);
                let u = lung.sign * (x - lean) / frame.scale;
                let (y, half, amplitude) = shape(u);
                let ends = smooth(u - from, 6.0) * smooth(to - u, 6.0);
                (frame.to_detector(0.0, y).1, half * frame.scale, amplitude * ends * strength)
            });
        };
        for k in 0..10 {
            let (k, start) = (k as f32, 66.0 + 25.0 * pitch * k as f32);
            let posterior = |u: f32| {
                let out = u - 16.0;
                let y = start - 5.0 * (out / 45.0).min(1.0) + slope * (0.0021 * out * out + (0.03 + 0.022 * k) * out);
                let rise = slope * (0.0042 * out + 0.03 + 0.022 * k);
                let within = smooth(lung.inside(u, y, 0.0, 0.0) + 5.0, 6.0) * smooth(lung.floor(u) + 25.0 - y, 50.0);
                (y, 4.6 * (1.0 + rise * rise).sqrt(), 0.062 * within)
            };
            bone(16.0, 140.0, &posterior);
            let anterior = |u: f32| {
                let y = 118.0 + 27.0 * pitch * k + slope * 0.62 * (128.0 - u);
                let within = smooth(lung.inside(u, y, 0.0, 0.0) + 5.0, 6.0) * smooth(lung.floor(u) - y, 24.0);
                (y, 6.6, 0.036 * within * smooth(u - 58.0 - 3.0 * k, 30.0))
            };
            if k < 6.5 {
                bone(44.0, 134.0, &anterior);
            }
        }
        let clavicle = |u: f32| {
            let t = (u - 12.0) / 150.0;
            (103.0 - 34.0 * t - 6.0 * (TAU * t).sin(), 6.0 - 1.5 * (PI * t).sin(), 0.10)
        };
        bone(12.0, 165.0, &clavicle);
        let scapula = |u: f32| (165.0 + 0.2 * (u - 130.0), 74.0 - 0.9 * (150.0 - u).max(0.0), 0.035);
        bone(124.0, 176.0, &scapula);
    }
}

/// Vertebral bodies with the discs between them, seen through the mediastinum.
fn draw_spine(build: &Build, frame: &Frame, canvas: &mut Canvas) {
    for row in 0..canvas.rows {
        let on_detector = canvas.y(row);
        let (y, midline) = (frame.y(on_detector), frame.midline(on_detector));
        let vertebra = 0.055 + 0.018 * (y * TAU / 24.0).sin();
        for col in canvas.col_range(midline - 22.0, midline + 22.0) {
            let u = ((canvas.x(col) - midline) / frame.scale).abs();
            let process = 0.02 * bell(u, 3.0);
            canvas.values[row * canvas.cols + col] += (vertebra * smooth(17.0 - u, 4.0) + process) * build.bone as f32;
        }
    }
}
