//! Plots as SVG, without any script or font of their own: lines with error bars over one axis.
//!
//! Neighbours: `report` writes them as files. Left out: everything that these few plots do not need.

use std::fmt::Write as _;

/// A plot with one y axis from 0 (or `from`) to the largest value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    /// The file's name without its ending.
    pub(super) name: &'static str,
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    /// Bounds of the y axis.
    pub(super) range: (f64, f64),
    pub(super) series: Vec<Series>,
    /// Levels that values are compared with.
    pub(super) rules: Vec<f64>,
}

/// Points that belong together, in the order of x.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) label: String,
    pub(super) points: Vec<Point>,
    pub(super) joined: bool,
}

/// A value with its limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) limits: Option<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
const COLOURS: [&str; 6] = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#555555"];

impl Plot {
    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let low = points().map(|p| p.x).fold(f64::INFINITY, f64::min);
        let high = points().map(|p| p.x).fold(f64::NEG_INFINITY, f64::max);
        let span = (high - low).max(1e-9);
        let x = |v: f64| LEFT + 12.0 + (v - low) / span * (WIDTH - LEFT - RIGHT - 24.0);
        let (bottom, top) = self.range;
        let y = |v: f64| HEIGHT - BOTTOM - ((v - bottom) / (top - bottom)).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        let mut add = |line: String| {
            let _ = writeln!(out, "{line}");
        };
        add(format!("<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>", escaped(&self.title)));
        for tick in 0..=4 {
            let value = bottom + (top - bottom) * f64::from(tick) / 4.0;
            let at = y(value);
            add(format!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", WIDTH - RIGHT));
            add(format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                at + 4.0,
                short(value)
            ));
        }
        let mut ticks: Vec<f64> = points().map(|p| p.x).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let foot = HEIGHT - BOTTOM;
        for tick in ticks.iter().step_by(ticks.len().div_ceil(10).max(1)) {
            add(format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(*tick),
                foot + 18.0,
                short(*tick)
            ));
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        add(format!(
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 10.0,
            escaped(&self.x)
        ));
        let centre = (TOP + foot) / 2.0;
        add(format!(
            "<text transform=\"translate(16 {centre:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(&self.y)
        ));
        for rule in &self.rules {
            let at = y(*rule);
            add(format!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#444\" stroke-dasharray=\"4 3\"/>", WIDTH - RIGHT));
        }
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            if series.joined {
                let path: Vec<String> = series.points.iter().map(|p| format!("{:.1} {:.1}", x(p.x), y(p.y))).collect();
                add(format!(
                    "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                    path.join("L")
                ));
            }
            for p in &series.points {
                if let Some((lower, upper)) = p.limits {
                    add(format!("<path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"{colour}\"/>", x(p.x), y(lower), y(upper)));
                }
                add(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(p.x), y(p.y)));
            }
            let at = TOP + 8.0 + 18.0 * i as f64;
            let start = WIDTH - RIGHT + 16.0;
            add(format!("<circle cx=\"{start:.1}\" cy=\"{at:.1}\" r=\"4\" fill=\"{colour}\"/>"));
            add(format!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", start + 10.0, at + 4.0, escaped(&series.label)));
        }
        out.push_str("</svg>\n");
        out
    }
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_whole_and_holds_no_markup_of_its_labels() {
        let point = |x, y| Point { x, y, limits: Some((y - 0.1, y + 2.0)) };
        let plot = Plot {
            name: "p",
            title: "a < b".into(),
            x: "x".into(),
            y: "y & z".into(),
            range: (0.0, 1.0),
            series: vec![Series { label: "one".into(), points: vec![point(0.0, 0.2), point(2.0, 0.4)], joined: true }],
            rules: vec![0.05],
        };
        let svg = plot.svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b"));
        assert_eq!((svg.matches("<circle").count(), svg.matches("<text").count()), (3, 5 + 2 + 3 + 1));
        // Nothing is drawn outside, not even a limit of 2.4 on an axis that ends at 1.
        assert!(!svg.contains("V-") && !svg.contains("NaN"));
        assert_eq!((short(0.25), short(100.0), short(0.0)), ("0.25".into(), "100".into(), "0".into()));
    }
}
