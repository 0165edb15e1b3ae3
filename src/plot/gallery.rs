//! Pictures side by side under their labels: one image under every filter, say.
//!
//! Pictures lie in the SVG as PNGs of their own size and are shown at one size. Left out: grey values beyond eight bits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::axis::extent;
use super::canvas::{self, Anchor, BODY, Canvas, HEADING, NOTE};
use super::{PlotError, Svg};

/// Rows of labelled pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    pub title: String,
    /// What is to be seen, for who does not see it; made of the labels where it is empty.
    pub description: String,
    /// The side of a picture on the page, in CSS pixels: 24 to 1,024.
    pub side: u32,
    pub rows: Vec<GalleryRow>,
}

/// Pictures beside one another. The heading above them may be empty.
#[derive(Debug, Clone, PartialEq)]
pub struct GalleryRow {
    pub heading: String,
    pub tiles: Vec<Tile>,
}

/// A picture with its label; without one an empty frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Tile {
    pub label: String,
    pub picture: Option<Picture>,
}

/// Pixels, row by row from above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// One byte a pixel for grey, three for colours.
    samples: Vec<u8>,
    is_grey: bool,
}

const SIDE_MAX: usize = 4096;
const GAP: f64 = 10.0;
/// Pictures that stand in one line; a longer row goes on below.
const ACROSS_MAX: f64 = 980.0;

impl Picture {
    /// A grey plane: 0 is black, 1 is white, what lies outside is cut and what is no number black.
    pub fn grey(width: usize, height: usize, values: &[f32]) -> Result<Self, PlotError> {
        let samples = values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
        Self::checked(width, height, samples, true)
    }

    /// A grey plane whose least value is black and whose largest is white, for what has no range of its own: a high-pass,
    /// say. The label should say so.
    pub fn stretched(width: usize, height: usize, values: &[f32]) -> Result<Self, PlotError> {
        let (low, high) = extent(values.iter().map(|v| f64::from(*v))).unwrap_or((0.0, 1.0));
        let span = if high > low { high - low } else { 1.0 };
        let part = |v: &f32| (((f64::from(*v) - low) / span).clamp(0.0, 1.0) * 255.0).round() as u8;
        Self::checked(width, height, values.iter().map(part).collect(), true)
    }

    /// Red, green and blue of each pixel.
    pub fn rgb(width: usize, height: usize, samples: &[u8]) -> Result<Self, PlotError> {
        Self::checked(width, height, samples.to_vec(), false)
    }

    fn checked(width: usize, height: usize, samples: Vec<u8>, is_grey: bool) -> Result<Self, PlotError> {
        let fits = |side| (1..=SIDE_MAX).contains(&side);
        let channels = if is_grey { 1 } else { 3 };
        if !fits(width) || !fits(height) || samples.len() != width * height * channels {
            return Err(PlotError::Samples { width, height, found: samples.len() / channels });
        }
        Ok(Self { width, height, samples, is_grey })
    }

    /// The picture as a file.
    pub fn png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(if self.is_grey { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.samples)?;
            writer.finish()
        });
        written.expect("memory takes every byte, and the sides were checked");
        bytes
    }
}

impl Gallery {
    pub fn svg(&self) -> Svg {
        let mut canvas = Canvas::default();
        let side = f64::from(self.side.clamp(24, 1024));
        let most = self.rows.iter().map(|r| r.tiles.len()).max().unwrap_or(0);
        let per_line = (((ACROSS_MAX - 24.0 + GAP) / (side + GAP)).floor().max(1.0) as usize).min(most.max(1));
        let width = (24.0 + per_line as f64 * (side + GAP) - GAP).max(320.0);
        let mut at = canvas.title(&self.title, 12.0, width - 24.0);
        // Two lines where a label does not fit in one.
        let wrapped = |tile: &Tile| canvas::wrapped(&tile.label, NOTE, side, 2);
        for row in &self.rows {
            if !row.heading.is_empty() {
                canvas.text_within((12.0, at + 16.0), Anchor::Start, HEADING, &row.heading, width - 24.0);
                at += 22.0;
            }
            for tiles in row.tiles.chunks(per_line) {
                let lines = tiles.iter().map(|t| wrapped(t).len()).max().unwrap_or(0) as f64;
                let top = at + 4.0 + lines * 14.0;
                for (i, tile) in tiles.iter().enumerate() {
                    let x = 12.0 + i as f64 * (side + GAP);
                    let labels = wrapped(tile);
                    for (k, label) in labels.iter().enumerate() {
                        let up = top - 4.0 - (labels.len() - 1 - k) as f64 * 14.0;
                        canvas.text((x, up), Anchor::Start, NOTE, label);
                    }
                    tile.draw(&mut canvas, (x, top), side);
                }
                at = top + side + 8.0;
            }
            at += 6.0;
        }
        canvas.finish(&self.title, &self.told(), width, at + 4.0)
    }

    fn told(&self) -> String {
        if !self.description.is_empty() {
            return self.description.clone();
        }
        let row = |r: &GalleryRow| {
            let labels: Vec<&str> = r.tiles.iter().map(|t| t.label.as_str()).collect();
            format!("{}: {}", r.heading, labels.join(", "))
        };
        format!("Pictures. {}.", self.rows.iter().map(row).collect::<Vec<_>>().join(". "))
    }
}

impl Tile {
    fn draw(&self, canvas: &mut Canvas, (x, y): (f64, f64), side: f64) {
        match &self.picture {
            Some(picture) => {
                let longest = picture.width.max(picture.height) as f64;
                let size = (side * picture.width as f64 / longest, side * picture.height as f64 / longest);
                let at = (x + (side - size.0) / 2.0, y + (side - size.1) / 2.0);
                canvas.image(at, size, &STANDARD.encode(picture.png()), &self.label);
            }
            None => canvas.text((x + side / 2.0, y + side / 2.0 + 4.0), Anchor::Middle, BODY, "–"),
        }
        canvas.frame((x, y), (side, side));
    }
}
