//! Pictures of results, and the page that shows them: lines, forests, grids, galleries as SVG, the same as PNG, HTML, PDF.
//!
//! Callers fill plain structs ([`Lines`], [`Forest`], [`Grid`], [`Gallery`]) and get an [`Svg`]: text that needs nothing
//! beside it, without script, font or identifier, on white ground. Any text may be hostile; any number may be missing.
//! What is drawn tells series apart by colour, marker and dash, so that it can be read in grey and by people who see
//! fewer colours. `canvas` writes elements and escapes, `axis` places numbers, `palette` has what is told apart by,
//! `raster` makes PNGs with a font of its own, `html`
//! pages, and `pdf` the same on sheets that `layout` fills. The same input gives the same bytes. Left out: files, which
//! the callers write, and whatever a static page cannot show.

mod axis;
mod canvas;
mod forest;
mod gallery;
mod grid;
mod html;
mod layout;
mod lines;
mod palette;
mod pdf;
mod raster;
mod vector;

pub use axis::Scale;
pub use forest::{Forest, ForestGroup, ForestRow};
pub use gallery::{Gallery, GalleryRow, Picture, Tile};
pub use grid::{Cell, Cells, Grid};
pub use html::{Block, Column, Page, Section};
pub use lines::{Lines, Mark, Panel, Point, Rule, Series, Shape, Spread};

/// A drawing: text that this room wrote, so that a page can hold it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svg {
    text: String,
    width: u32,
    height: u32,
}

impl Svg {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Width and height in CSS pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Wider than a page of text.
    fn is_wide(&self) -> bool {
        self.width > 1000
    }

    /// The same as a PNG; `scale` 2 gives twice as many pixels each way.
    pub fn png(&self, scale: f32) -> Result<Vec<u8>, PlotError> {
        raster::png(self, scale)
    }
}

impl std::fmt::Display for Svg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Svg> for String {
    fn from(svg: Svg) -> Self {
        svg.text
    }
}

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlotError {
    #[error("a picture of {width} × {height} has {found} values, it needs {width} × {height}, and 1 to 4,096 each way")]
    Samples { width: usize, height: usize, found: usize },
    #[error(
        "a drawing of {width} × {height} points at scale {scale} gives no PNG: choose a scale that gives 1 to 64 million pixels"
    )]
    Scale { width: u32, height: u32, scale: String },
    #[error("the page cannot be written: {0}")]
    Page(String),
    #[error("the page cannot be made a PDF: {0}")]
    Pdf(String),
    #[error("the drawing cannot be made a PNG: {0}")]
    Raster(String),
}

#[cfg(test)]
mod tests;
