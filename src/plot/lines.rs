//! Values along one axis: panels above one another share x, each has a y axis of its own.
//!
//! A value that is no number is left out and breaks its line; one outside a given range is an arrow head at the edge.

use super::Svg;
use super::axis::{self, Axis, Scale};
use super::canvas::{self, Anchor, BODY, Canvas, HEADING, NOTE};
use super::palette::{self, FRAME, GRID, Look, QUIET};

/// A figure with one or more panels.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lines {
    pub title: String,
    /// What is to be seen, for who does not see it; made of the labels where it is empty.
    pub description: String,
    /// What x is, with its unit.
    pub x: String,
    pub scale: Scale,
    pub shape: Shape,
    pub panels: Vec<Panel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    #[default]
    Wide,
    /// As high as wide, for two axes of the same kind.
    Square,
}

/// One y axis and what is drawn over it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panel {
    /// What y is, with its unit.
    pub y: String,
    /// Ends of the axis; what fits the values where there are none.
    pub range: Option<(f64, f64)>,
    pub series: Vec<Series>,
    /// Levels that values are compared with.
    pub rules: Vec<Rule>,
    /// Values of x that are marked.
    pub uprights: Vec<Rule>,
    /// Whether the line y = x is drawn.
    pub has_diagonal: bool,
}

/// A marked value; the label may be empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub at: f64,
    pub label: String,
}

impl From<f64> for Rule {
    fn from(at: f64) -> Self {
        Self { at, label: String::new() }
    }
}

/// Points that belong together, in the order of x. Series with one label look the same and have one entry in the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub label: String,
    pub points: Vec<Point>,
    pub mark: Mark,
    pub spread: Spread,
}

impl Series {
    /// Markers joined by a line, limits as bars.
    pub fn joined(label: impl Into<String>, points: Vec<Point>) -> Self {
        Self { label: label.into(), points, mark: Mark::Joined, spread: Spread::Bars }
    }

    /// Markers alone, limits as bars.
    pub fn dots(label: impl Into<String>, points: Vec<Point>) -> Self {
        Self { label: label.into(), points, mark: Mark::Dots, spread: Spread::Bars }
    }

    /// A line without markers, limits as a band.
    pub fn curve(label: impl Into<String>, points: Vec<Point>) -> Self {
        Self { label: label.into(), points, mark: Mark::Curve, spread: Spread::Band }
    }
}

/// What stands for the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Markers alone.
    Dots,
    /// Markers, joined.
    Joined,
    /// A line alone.
    Curve,
}

/// What stands for their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Bars,
    Band,
}

/// A value with its limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub limits: Option<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const SIDE: f64 = 480.0;
const LEGEND_MAX: f64 = 220.0;
const ROW: f64 = 18.0;
const SLANTED_MAX: f64 = 240.0;
/// Between two panels: the heading of the lower one.
const GAP: f64 = 30.0;
const Y_TICKS: usize = 5;

/// Where things lie.
struct Layout {
    left: f64,
    right: f64,
    width: f64,
    panel_height: f64,
    x: Axis,
    /// Values of x with their text.
    ticks: Vec<(f64, String)>,
    is_slanted: bool,
}

impl Lines {
    pub fn svg(&self) -> Svg {
        let labels = self.labels();
        let layout = self.layout(&labels);
        let mut canvas = Canvas::default();
        let mut top = canvas.title(&self.title, 12.0, layout.width - 24.0);
        let mut foot = top;
        for (i, panel) in self.panels.iter().enumerate() {
            top = foot + if i == 0 { 20.0 } else { GAP };
            foot = top + layout.panel_height;
            canvas.text_within((layout.left, top - 8.0), Anchor::Start, HEADING, &panel.y, layout.right - layout.left);
            self.draw(&mut canvas, panel, &layout, (top, foot), &labels);
        }
        let below = self.x_axis(&mut canvas, &layout, foot);
        canvas.finish(&self.title, &self.told(&labels), layout.width, below)
    }

    /// Each label once, in the order of appearance, which says how it looks.
    fn labels(&self) -> Vec<&str> {
        let mut labels: Vec<&str> = Vec::new();
        for series in self.panels.iter().flat_map(|p| &p.series) {
            if !labels.contains(&series.label.as_str()) {
                labels.push(&series.label);
            }
        }
        labels
    }

    fn told(&self, labels: &[&str]) -> String {
        if !self.description.is_empty() {
            return self.description.clone();
        }
        let panels: Vec<&str> = self.panels.iter().map(|p| p.y.as_str()).collect();
        format!("{} over {}. Series: {}.", panels.join("; "), self.x, labels.join(", "))
    }

    fn layout(&self, labels: &[&str]) -> Layout {
        let y_texts = self.panels.iter().flat_map(|p| p.axis((1.0, 0.0)).ticks(Y_TICKS));
        let left = 24.0 + y_texts.map(|(_, text)| canvas::width(&text, BODY)).fold(24.0, f64::max);
        let widest = labels.iter().map(|l| canvas::width(&canvas::clean(l), BODY)).fold(0.0, f64::max);
        let legend = if widest == 0.0 { 12.0 } else { widest.min(LEGEND_MAX) + 60.0 };
        let slots = if let Scale::Names(names) = &self.scale { names.len() } else { 0 };
        let plot = match self.shape {
            Shape::Square => SIDE,
            Shape::Wide => (WIDTH - left - legend).max(16.0 * slots as f64),
        };
        let (right, inset) = (left + plot, if self.shape == Shape::Square { 0.0 } else { 14.0 });
        let x = self.x_range((left + inset, right - inset));
        let (ticks, is_slanted) = self.x_ticks(&x, plot / slots.max(1) as f64);
        let most = self.panels.iter().map(|p| p.legend(labels).len()).max().unwrap_or(0);
        let least = if self.panels.len() > 1 { 170.0 } else { 270.0 };
        let panel_height = if self.shape == Shape::Square { SIDE } else { (ROW * most as f64 + 12.0).max(least) };
        Layout { left, right, width: right + legend, panel_height, x, ticks, is_slanted }
    }

    fn x_range(&self, page: (f64, f64)) -> Axis {
        let values = || self.panels.iter().flat_map(|p| p.series.iter().flat_map(|s| &s.points)).map(|p| p.x);
        let marked = || self.panels.iter().flat_map(|p| &p.uprights).map(|r| r.at);
        match &self.scale {
            Scale::Names(names) => Axis::linear((-0.5, names.len().max(1) as f64 - 0.5), page),
            Scale::Log => {
                let all = values().chain(marked()).filter(|v| *v > 0.0);
                Axis::log(axis::extent(all).unwrap_or((1.0, 10.0)), page)
            }
            Scale::Linear if self.shape == Shape::Square => {
                let range = self.panels.iter().find_map(|p| p.range);
                Axis::linear(range.or_else(|| axis::extent(values())).unwrap_or((0.0, 1.0)), page)
            }
            Scale::Linear => Axis::linear(axis::extent(values().chain(marked())).unwrap_or((0.0, 1.0)), page),
        }
    }

    /// The values themselves where they are few and their texts do not touch, else round ones.
    fn x_ticks(&self, x: &Axis, slot: f64) -> (Vec<(f64, String)>, bool) {
        if let Scale::Names(names) = &self.scale {
            let texts: Vec<(f64, String)> = names.iter().enumerate().map(|(i, n)| (i as f64, n.clone())).collect();
            let is_slanted = texts.iter().any(|(_, t)| canvas::width(&canvas::clean(t), BODY) > slot - 8.0);
            return (texts, is_slanted);
        }
        let mut values: Vec<f64> =
            self.panels.iter().flat_map(|p| p.series.iter().flat_map(|s| &s.points)).map(|p| p.x).collect();
        values.retain(|v| v.is_finite() && (self.scale != Scale::Log || *v > 0.0));
        values.sort_by(f64::total_cmp);
        values.dedup();
        let own: Vec<(f64, String)> = values.iter().map(|v| (*v, axis::short(*v))).collect();
        let touch = own.windows(2).any(|pair| {
            let between = x.at(pair[1].0) - x.at(pair[0].0);
            between < (canvas::width(&pair[0].1, BODY) + canvas::width(&pair[1].1, BODY)) / 2.0 + 5.0
        });
        let use_own = (2..=14).contains(&own.len()) && !touch && self.shape == Shape::Wide;
        (if use_own || own.len() == 1 { own } else { x.ticks(8) }, false)
    }

    fn draw(&self, canvas: &mut Canvas, panel: &Panel, layout: &Layout, (top, foot): (f64, f64), labels: &[&str]) {
        let y = panel.axis((foot, top));
        for (value, text) in y.ticks(Y_TICKS) {
            let at = y.at(value);
            canvas.stroke((layout.left, at), (layout.right, at), GRID, 1.0, "");
            canvas.text((layout.left - 8.0, at + 4.0), Anchor::End, BODY, &text);
        }
        for (value, _) in &layout.ticks {
            let at = layout.x.at(*value);
            canvas.stroke((at, top), (at, foot), GRID, 1.0, "");
        }
        canvas.stroke((layout.left, foot), (layout.right, foot), FRAME, 1.0, "");
        if panel.has_diagonal {
            let (low, high) = panel.ends();
            let at = |v: f64| (layout.x.at(v), y.at(v));
            canvas.stroke(at(low), at(high), FRAME, 1.0, "5 4");
        }
        for rule in panel.rules.iter().filter(|r| r.at.is_finite() && y.side(r.at) == 0) {
            let at = y.at(rule.at);
            canvas.stroke((layout.left, at), (layout.right, at), QUIET, 1.2, "4 3");
            let (x, anchor) = match panel.is_freer_on_the_left(rule.at, &layout.x) {
                true => (layout.left + 4.0, Anchor::Start),
                false => (layout.right - 4.0, Anchor::End),
            };
            // Above the line, but not where the heading of the panel is.
            let up = if at - top < 14.0 { at + 13.0 } else { at - 4.0 };
            canvas.text_within((x, up), anchor, NOTE, &rule.label, 240.0);
        }
        for rule in panel.uprights.iter().filter(|r| r.at.is_finite() && layout.x.side(r.at) == 0) {
            let at = layout.x.at(rule.at);
            canvas.stroke((at, top), (at, foot), QUIET, 1.2, "4 3");
            canvas.text_within((at + 4.0, top + 11.0), Anchor::Start, NOTE, &rule.label, (layout.right - at).max(40.0));
        }
        let looks: Vec<(&Series, Look, f64)> = panel
            .series
            .iter()
            .map(|s| {
                let look = palette::look(labels.iter().position(|l| *l == s.label).unwrap_or(0));
                (s, look, self.aside(panel, s, layout, labels))
            })
            .collect();
        // Shades first, so that nothing lies under the shade of another series.
        looks.iter().for_each(|(s, look, aside)| shade(canvas, s, &layout.x, &y, *look, *aside, self.is_log()));
        looks.iter().for_each(|(s, look, aside)| s.draw(canvas, &layout.x, &y, *look, *aside, self.is_log()));
        for (i, label) in panel.legend(labels).iter().enumerate() {
            let at = (layout.right + 18.0, top + 8.0 + ROW * i as f64);
            let look = palette::look(labels.iter().position(|l| l == label).unwrap_or(0));
            let own = || panel.series.iter().filter(|s| s.label == *label);
            if own().any(|s| s.mark != Mark::Dots && !s.points.is_empty()) {
                canvas.polyline(&[(at.0 - 8.0, at.1), (at.0 + 22.0, at.1)], look);
            }
            if own().any(|s| s.mark != Mark::Curve) {
                canvas.marker((at.0 + 7.0, at.1), look);
            }
            canvas.text_within((at.0 + 28.0, at.1 + 4.0), Anchor::Start, BODY, label, LEGEND_MAX);
        }
    }

    fn is_log(&self) -> bool {
        self.scale == Scale::Log
    }

    /// Series stand side by side at a name; at a value they make a little room for one another's bars.
    fn aside(&self, panel: &Panel, series: &Series, layout: &Layout, labels: &[&str]) -> f64 {
        let has_bars = |s: &&Series| s.spread == Spread::Bars && s.points.iter().any(|p| p.limits.is_some());
        let own = |label: &&&str| panel.series.iter().any(|s| s.label == **label);
        let own: Vec<&&str> = labels.iter().filter(own).collect();
        let count = own.len() as f64;
        let step = match &self.scale {
            Scale::Names(names) => {
                let slot = (layout.right - layout.left) / names.len().max(1) as f64;
                (0.7 * slot / count.max(1.0)).min(12.0)
            }
            // Two axes of one kind are read exactly.
            _ if self.shape == Shape::Square || panel.series.iter().filter(has_bars).count() < 2 => 0.0,
            _ => (12.0 / count).min(4.0),
        };
        let place = own.iter().position(|l| **l == series.label).unwrap_or(0) as f64;
        (place - (count - 1.0) / 2.0) * step
    }

    /// Texts below the lowest panel; returns where the drawing ends.
    fn x_axis(&self, canvas: &mut Canvas, layout: &Layout, foot: f64) -> f64 {
        let mut below = foot + 18.0;
        for (value, text) in &layout.ticks {
            let at = layout.x.at(*value);
            if layout.is_slanted {
                // What begins at the left edge ends there.
                canvas.text_slanted((at + 4.0, foot + 14.0), BODY, text, SLANTED_MAX.min((at - 4.0) / 0.64));
            } else {
                canvas.text((at, below), Anchor::Middle, BODY, text);
            }
        }
        if layout.is_slanted {
            let widest = layout.ticks.iter().map(|(_, t)| canvas::width(&canvas::clean(t), BODY)).fold(0.0, f64::max);
            below = foot + 16.0 + widest.min(SLANTED_MAX) * 0.77;
        }
        let middle = f64::midpoint(layout.left, layout.right);
        canvas.text_within((middle, below + 22.0), Anchor::Middle, BODY, &self.x, layout.width - 40.0);
        below + 34.0
    }
}

impl Panel {
    /// The ends of the y axis.
    fn ends(&self) -> (f64, f64) {
        let given = self.range.filter(|(low, high)| low.is_finite() && high.is_finite() && low < high);
        given.unwrap_or_else(|| {
            let points = self.series.iter().flat_map(|s| &s.points);
            let values = points.flat_map(|p| [Some(p.y), p.limits.map(|l| l.0), p.limits.map(|l| l.1)]).flatten();
            axis::roomy(axis::extent(values.chain(self.rules.iter().map(|r| r.at))), Y_TICKS)
        })
    }

    /// Whether the points on the left third of the axis keep farther from a level than those on the right third.
    fn is_freer_on_the_left(&self, level: f64, x: &Axis) -> bool {
        let (low, high) = self.ends();
        let third = |from: f64, to: f64| {
            let within = |p: &&Point| (from..=to).contains(&x.part(p.x));
            let points = self.series.iter().flat_map(|s| &s.points).filter(|p| p.x.is_finite() && p.y.is_finite());
            points.filter(within).map(|p| (p.y - level).abs() / (high - low)).fold(1.0, f64::min)
        };
        third(0.0, 1.0 / 3.0) > third(2.0 / 3.0, 1.0) + 0.02
    }

    fn axis(&self, page: (f64, f64)) -> Axis {
        Axis::linear(self.ends(), page)
    }

    /// The labels that are told beside it: none where there is one series without a name.
    fn legend<'a>(&self, labels: &[&'a str]) -> Vec<&'a str> {
        let is_own = |label: &&&str| !label.is_empty() && self.series.iter().any(|s| s.label == **label);
        labels.iter().filter(is_own).copied().collect()
    }
}

impl Series {
    /// Points that have a place; where one has none, `None` breaks the line.
    fn placed(&self, is_log: bool) -> impl Iterator<Item = Option<Point>> {
        let has_place = move |p: &Point| p.x.is_finite() && p.y.is_finite() && (!is_log || p.x > 0.0);
        let limits = |(low, high): (f64, f64)| (low.is_finite() && high.is_finite()).then_some((low, high));
        self.points.iter().map(move |p| has_place(p).then(|| Point { limits: p.limits.and_then(limits), ..*p }))
    }

    fn draw(&self, canvas: &mut Canvas, x: &Axis, y: &Axis, look: Look, aside: f64, is_log: bool) {
        let points: Vec<Option<Point>> = self.placed(is_log).collect();
        if self.mark != Mark::Dots {
            for run in points.split(Option::is_none) {
                let run: Vec<(f64, f64)> = run.iter().flatten().map(|p| (x.at(p.x) + aside, y.at(p.y))).collect();
                match run[..] {
                    [] => {}
                    // A value alone has no line.
                    [only] if self.mark == Mark::Curve => canvas.marker(only, look),
                    _ => canvas.polyline(&run, look),
                }
            }
        }
        for p in points.iter().flatten() {
            let (across, up) = (x.at(p.x) + aside, y.at(p.y));
            if let (Some((low, high)), Spread::Bars) = (p.limits, self.spread) {
                bar(canvas, across, (low, high), y, look.colour);
            }
            match y.side(p.y) {
                _ if self.mark == Mark::Curve => {}
                0 => canvas.marker((across, up), look),
                side => canvas.beyond((across, up), (0.0, -f64::from(side)), look.colour),
            }
        }
    }
}

/// Limits of one value; an end that lies outside has no cap.
fn bar(canvas: &mut Canvas, across: f64, (low, high): (f64, f64), y: &Axis, colour: &str) {
    canvas.stroke((across, y.at(low)), (across, y.at(high)), colour, 1.2, "");
    for end in [low, high].into_iter().filter(|v| y.side(*v) == 0) {
        canvas.stroke((across - 3.0, y.at(end)), (across + 3.0, y.at(end)), colour, 1.2, "");
    }
}

fn shade(canvas: &mut Canvas, series: &Series, x: &Axis, y: &Axis, look: Look, aside: f64, is_log: bool) {
    if series.spread != Spread::Band {
        return;
    }
    let points: Vec<Option<(f64, f64, f64)>> =
        series.placed(is_log).map(|p| p.and_then(|p| p.limits.map(|(low, high)| (p.x, low, high)))).collect();
    for run in points.split(Option::is_none).filter(|run| run.len() > 1) {
        let upper = run.iter().flatten().map(|(at, _, high)| (x.at(*at) + aside, y.at(*high)));
        let lower = run.iter().flatten().rev().map(|(at, low, _)| (x.at(*at) + aside, y.at(*low)));
        canvas.polygon(&upper.chain(lower).collect::<Vec<_>>(), look.colour);
    }
}
