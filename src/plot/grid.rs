//! Heat maps with a number in each cell, several beside one another over one scale.

use super::Svg;
use super::axis;
use super::canvas::{self, Anchor, BODY, Canvas, HEADING, NOTE, Type};
use super::palette::{self, INK};

/// Grids of the same rows and columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    pub title: String,
    /// What is to be seen, for who does not see it; made of the cells where it is empty.
    pub description: String,
    /// What the numbers are.
    pub value: String,
    pub columns: Vec<String>,
    pub rows: Vec<String>,
    /// What the lightest and the darkest colour stand for; the least and the largest value where there is none.
    pub range: Option<(f64, f64)>,
    pub decimals: usize,
    pub panels: Vec<Cells>,
}

/// One grid, row by row from above. A cell that is not there has no value.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    pub heading: String,
    pub cells: Vec<Cell>,
}

/// A value, and a few words below it: its limits, say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    pub value: Option<f64>,
    pub note: String,
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self { value: Some(value), note: String::new() }
    }
}

const SIDE: f64 = 78.0;
const GAP: f64 = 26.0;
const ACROSS_MAX: f64 = 900.0;
const FIGURE: Type = Type { size: 14.0, colour: INK, is_bold: false };

impl Grid {
    pub fn svg(&self) -> Svg {
        let mut canvas = Canvas::default();
        let names = self.rows.iter().map(|r| canvas::width(&canvas::clean(r), BODY)).fold(0.0, f64::max);
        let left = 12.0 + if names > 0.0 { names.min(140.0) + 10.0 } else { 0.0 };
        let across = self.columns.len().max(1) as f64 * SIDE;
        let down = self.rows.len().max(1) as f64 * SIDE;
        let per_row = (((ACROSS_MAX - left) / (across + GAP)).floor().max(1.0) as usize).min(self.panels.len().max(1));
        let width = (left + per_row as f64 * (across + GAP) + 6.0).max(320.0);
        let mut top = canvas.title(&self.title, 12.0, width - 24.0);
        let (low, high) = self.ends();
        for panels in self.panels.chunks(per_row) {
            let has_names = self.columns.iter().any(|c| !c.is_empty());
            let head = top + 16.0;
            let cells = head + if has_names { 26.0 } else { 8.0 };
            for (i, panel) in panels.iter().enumerate() {
                let x = left + i as f64 * (across + GAP);
                canvas.text_within((x, head), Anchor::Start, HEADING, &panel.heading, across);
                for (k, name) in self.columns.iter().enumerate() {
                    let at = (x + (k as f64 + 0.5) * SIDE, cells - 7.0);
                    canvas.text_within(at, Anchor::Middle, BODY, name, SIDE - 6.0);
                }
                self.panel(&mut canvas, panel, (x, cells), (low, high));
            }
            for (k, name) in self.rows.iter().enumerate() {
                let at = (left - 8.0, cells + (k as f64 + 0.5) * SIDE + 4.0);
                canvas.text_within(at, Anchor::End, BODY, name, 140.0);
            }
            top = cells + down + 14.0;
        }
        let end = self.scale(&mut canvas, left, top + 10.0, (low, high), width);
        canvas.finish(&self.title, &self.told(), width, end)
    }

    fn ends(&self) -> (f64, f64) {
        let values = self.panels.iter().flat_map(|p| &p.cells).filter_map(|c| c.value);
        let found =
            self.range.filter(|(a, b)| a.is_finite() && b.is_finite() && a < b).or_else(|| axis::extent(values));
        match found {
            Some((low, high)) if low < high => (low, high),
            Some((low, _)) => (low - 0.5, low + 0.5),
            None => (0.0, 1.0),
        }
    }

    fn told(&self) -> String {
        if !self.description.is_empty() {
            return self.description.clone();
        }
        let cells = |p: &Cells| p.cells.iter().take(12).map(|c| self.written(c)).collect::<Vec<_>>().join(", ");
        let panels: Vec<String> = self.panels.iter().take(6).map(|p| format!("{}: {}", p.heading, cells(p))).collect();
        format!("{}, row by row. {}.", self.value, panels.join(". "))
    }

    fn written(&self, cell: &Cell) -> String {
        let value = cell.value.filter(|v| v.is_finite());
        value.map_or_else(|| "–".to_owned(), |v| axis::told(v, self.decimals))
    }

    fn panel(&self, canvas: &mut Canvas, panel: &Cells, (x, y): (f64, f64), (low, high): (f64, f64)) {
        let places = self.rows.len() * self.columns.len();
        for (i, cell) in panel.cells.iter().take(places).enumerate() {
            let (row, column) = (i / self.columns.len(), i % self.columns.len());
            let at = (x + column as f64 * SIDE, y + row as f64 * SIDE);
            let part = cell.value.filter(|v| v.is_finite()).map(|v| (v - low) / (high - low));
            let (ground, ink) = part.map_or_else(|| ("#ffffff".to_owned(), INK), palette::heat);
            canvas.rect((at.0 + 0.5, at.1 + 0.5), (SIDE - 1.0, SIDE - 1.0), &ground);
            let middle = at.0 + SIDE / 2.0;
            let lift = if cell.note.is_empty() { 5.0 } else { -1.0 };
            let kind = Type { colour: ink, ..FIGURE };
            canvas.text((middle, at.1 + SIDE / 2.0 + lift), Anchor::Middle, kind, &self.written(cell));
            let kind = Type { colour: ink, size: 10.0, is_bold: false };
            let below = (middle, at.1 + SIDE / 2.0 + 16.0);
            canvas.text_within(below, Anchor::Middle, kind, &cell.note, SIDE - 4.0);
        }
        canvas.frame((x, y), (self.columns.len() as f64 * SIDE, self.rows.len() as f64 * SIDE));
    }

    /// The colours with their values; returns where the drawing ends.
    fn scale(&self, canvas: &mut Canvas, left: f64, top: f64, (low, high): (f64, f64), width: f64) -> f64 {
        const STEPS: usize = 40;
        let step = 5.0;
        canvas.text_within((left, top), Anchor::Start, NOTE, &self.value, width - left - 12.0);
        for k in 0..STEPS {
            let (ground, _) = palette::heat(k as f64 / (STEPS - 1) as f64);
            canvas.rect((left + k as f64 * step, top + 8.0), (step + 0.3, 12.0), &ground);
        }
        canvas.frame((left, top + 8.0), (STEPS as f64 * step, 12.0));
        let end = left + STEPS as f64 * step;
        canvas.text((left, top + 34.0), Anchor::Start, NOTE, &axis::told(low, self.decimals));
        canvas.text((end, top + 34.0), Anchor::End, NOTE, &axis::told(high, self.decimals));
        top + 44.0
    }
}
