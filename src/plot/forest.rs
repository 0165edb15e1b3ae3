//! Estimates under one another with their limits, and the figures that they are compared with.

use super::Svg;
use super::axis::{self, Axis};
use super::canvas::{self, Anchor, BODY, Canvas, HEADING, NOTE};
use super::palette::{self, FRAME, GRID, QUIET};

/// Rows under headings over one axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    pub title: String,
    /// What is to be seen, for who does not see it; made of the rows where it is empty.
    pub description: String,
    /// What the estimates are.
    pub value: String,
    /// What an open diamond is; no column and no legend where it is empty.
    pub reference: String,
    /// Ends of the axis; what fits the values where there are none.
    pub range: Option<(f64, f64)>,
    /// A value that all are compared with.
    pub rule: Option<f64>,
    /// Decimals of what is written beside.
    pub decimals: usize,
    pub groups: Vec<ForestGroup>,
}

/// Rows that belong together; the heading may be empty.
#[derive(Debug, Clone, PartialEq)]
pub struct ForestGroup {
    pub heading: String,
    pub rows: Vec<ForestRow>,
}

/// One estimate. What is missing is written as a dash.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ForestRow {
    pub label: String,
    pub estimate: Option<f64>,
    pub interval: Option<(f64, f64)>,
    pub n: Option<u64>,
    pub reference: Option<f64>,
}

const WIDTH: f64 = 900.0;
const LABEL_MAX: f64 = 260.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 28.0;

/// Where the columns lie.
struct Columns {
    axis: (f64, f64),
    n: f64,
    told: f64,
    reference: Option<f64>,
}

impl Forest {
    pub fn svg(&self) -> Svg {
        let mut canvas = Canvas::default();
        let mut at = canvas.title(&self.title, 12.0, WIDTH - 24.0) + 14.0;
        let columns = self.columns();
        let axis = Axis::linear(self.ends(), columns.axis);
        let head = |canvas: &mut Canvas, x: f64, text: &str| canvas.text((x, at), Anchor::End, NOTE, text);
        head(&mut canvas, columns.n, "n");
        head(&mut canvas, columns.told, "estimate, 95 % interval");
        if let Some(x) = columns.reference {
            canvas.text_within((x, at), Anchor::End, NOTE, &self.reference, 90.0);
        }
        let top = at + 8.0;
        at = top;
        let rows = self.groups.iter().map(|g| g.rows.len()).sum::<usize>() as f64;
        let heads = self.groups.iter().filter(|g| !g.heading.is_empty()).count() as f64;
        let foot = top + rows * ROW + heads * HEAD + 6.0;
        self.ground(&mut canvas, &axis, columns.axis, (top, foot));
        for group in &self.groups {
            if !group.heading.is_empty() {
                at += HEAD;
                let room = columns.axis.1 - 24.0;
                let text = canvas::cut(&group.heading, HEADING, room);
                // Over the lines of the axis, which have nothing to say in this row.
                canvas.rect((8.0, at - 20.0), (canvas::width(&text, HEADING) + 12.0, 18.0), "white");
                canvas.text_within((12.0, at - 7.0), Anchor::Start, HEADING, &group.heading, room);
            }
            for row in &group.rows {
                at += ROW;
                self.row(&mut canvas, row, &axis, &columns, at - 8.0);
            }
        }
        let end = self.legend(&mut canvas, &axis, columns.axis, foot);
        canvas.finish(&self.title, &self.told(), WIDTH, end)
    }

    fn rows(&self) -> impl Iterator<Item = &ForestRow> {
        self.groups.iter().flat_map(|g| &g.rows)
    }

    fn told(&self) -> String {
        if !self.description.is_empty() {
            return self.description.clone();
        }
        let row = |r: &ForestRow| format!("{}: {}", r.label, self.written(r));
        format!("{}. {}.", self.value, self.rows().take(12).map(row).collect::<Vec<_>>().join("; "))
    }

    fn columns(&self) -> Columns {
        let labels = self.rows().map(|r| canvas::width(&canvas::clean(&r.label), BODY));
        let left = 28.0 + labels.fold(80.0, f64::max).min(LABEL_MAX) + 16.0;
        let reference = (!self.reference.is_empty()).then_some(WIDTH - 14.0);
        let told = reference.map_or(WIDTH - 14.0, |x| x - 100.0);
        let widest = self.rows().map(|r| canvas::width(&self.written(r), BODY)).fold(150.0, f64::max);
        let n = told - widest - 18.0;
        Columns { axis: (left, n - 76.0), n, told, reference }
    }

    fn ends(&self) -> (f64, f64) {
        let given = self.range.filter(|(low, high)| low.is_finite() && high.is_finite() && low < high);
        given.unwrap_or_else(|| {
            let own =
                self.rows().flat_map(|r| [r.estimate, r.interval.map(|i| i.0), r.interval.map(|i| i.1), r.reference]);
            axis::roomy(axis::extent(own.flatten().chain(self.rule)), 6)
        })
    }

    fn ground(&self, canvas: &mut Canvas, axis: &Axis, (left, right): (f64, f64), (top, foot): (f64, f64)) {
        for (value, text) in axis.ticks(6) {
            let at = axis.at(value);
            canvas.stroke((at, top), (at, foot), GRID, 1.0, "");
            canvas.text((at, foot + 16.0), Anchor::Middle, BODY, &text);
        }
        canvas.stroke((left, foot), (right, foot), FRAME, 1.0, "");
        if let Some(rule) = self.rule.filter(|v| v.is_finite() && axis.side(*v) == 0) {
            canvas.stroke((axis.at(rule), top), (axis.at(rule), foot), QUIET, 1.4, "4 3");
        }
    }

    fn row(&self, canvas: &mut Canvas, row: &ForestRow, axis: &Axis, columns: &Columns, at: f64) {
        let look = palette::look(0);
        canvas.text_within((28.0, at + 4.0), Anchor::Start, BODY, &row.label, columns.axis.0 - 44.0);
        let n = row.n.map_or_else(|| "–".to_owned(), axis::grouped);
        canvas.text((columns.n, at + 4.0), Anchor::End, BODY, &n);
        canvas.text((columns.told, at + 4.0), Anchor::End, BODY, &self.written(row));
        // Beneath the estimate, which is smaller.
        if let Some(x) = columns.reference {
            let reference = finite(row.reference);
            let text = reference.map_or_else(|| "–".to_owned(), |v| axis::told(v, self.decimals));
            canvas.text((x, at + 4.0), Anchor::End, BODY, &text);
            match reference.map(|v| (v, axis.side(v))) {
                Some((value, 0)) => canvas.reference((axis.at(value), at)),
                Some((value, side)) => canvas.beyond((axis.at(value), at), (f64::from(side), 0.0), palette::INK),
                None => {}
            }
        }
        if let Some((low, high)) = finite_pair(row.interval) {
            canvas.stroke((axis.at(low), at), (axis.at(high), at), look.colour, 1.8, "");
            for (end, way) in [(low, -1), (high, 1)] {
                match axis.side(end) {
                    0 => canvas.stroke((axis.at(end), at - 4.0), (axis.at(end), at + 4.0), look.colour, 1.8, ""),
                    side if side == way => canvas.beyond((axis.at(end), at), (f64::from(side), 0.0), look.colour),
                    _ => {}
                }
            }
        }
        if let Some(value) = finite(row.estimate) {
            match axis.side(value) {
                0 => canvas.marker((axis.at(value), at), palette::look(1).with_colour_of(look)),
                side => canvas.beyond((axis.at(value), at), (f64::from(side), 0.0), look.colour),
            }
        }
    }

    /// The estimate in figures.
    fn written(&self, row: &ForestRow) -> String {
        let Some(estimate) = finite(row.estimate) else { return "–".to_owned() };
        let number = |v| axis::told(v, self.decimals);
        match finite_pair(row.interval) {
            Some((low, high)) => format!("{} ({}–{})", number(estimate), number(low), number(high)),
            None => number(estimate),
        }
    }

    /// What the axis and the marks are, below; returns where the drawing ends.
    fn legend(&self, canvas: &mut Canvas, axis: &Axis, (left, right): (f64, f64), foot: f64) -> f64 {
        let at = foot + 38.0;
        canvas.text_within((f64::midpoint(left, right), at), Anchor::Middle, BODY, &self.value, right - left);
        let look = palette::look(1).with_colour_of(palette::look(0));
        let mut x = left;
        let below = at + 24.0;
        canvas.stroke((x, below - 4.0), (x + 28.0, below - 4.0), look.colour, 1.8, "");
        canvas.marker((x + 14.0, below - 4.0), look);
        canvas.text((x + 34.0, below), Anchor::Start, NOTE, "estimate and 95 % interval");
        x += 50.0 + canvas::width("estimate and 95 % interval", NOTE);
        if !self.reference.is_empty() {
            canvas.reference((x, below - 4.0));
            canvas.text_within((x + 10.0, below), Anchor::Start, NOTE, &self.reference, 200.0);
            x += 26.0 + canvas::width(&self.reference, NOTE).min(200.0);
        }
        if let Some(rule) = self.rule.filter(|v| v.is_finite() && axis.side(*v) == 0) {
            canvas.stroke((x, below - 12.0), (x, below + 3.0), QUIET, 1.4, "4 3");
            canvas.text((x + 6.0, below), Anchor::Start, NOTE, &axis::short(rule));
        }
        below + 14.0
    }
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite())
}

fn finite_pair(pair: Option<(f64, f64)>) -> Option<(f64, f64)> {
    pair.filter(|(low, high)| low.is_finite() && high.is_finite())
}
