//! The calibration of one finding by group, as an SVG that needs nothing beside it.
//!
//! Neighbours: `diagnostics` says what is in it. Left out: everything but drawing.

use std::fmt::Write;

use super::diagnostics::GroupPlot;
use super::profile::FindingProfile;
use crate::domain::Interval;

const SIDE: f64 = 480.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 40.0;
const WIDTH: f64 = LEFT + SIDE + 180.0;
const HEIGHT: f64 = TOP + SIDE + 56.0;
/// Okabe and Ito: told apart by people who see fewer colours.
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

fn x(score: f64) -> f64 {
    LEFT + score.clamp(0.0, 1.0) * SIDE
}

fn y(share: f64) -> f64 {
    TOP + (1.0 - share.clamp(0.0, 1.0)) * SIDE
}

/// The picture.
pub(super) fn calibration(finding: &FindingProfile, plots: &[GroupPlot<'_>]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    // Writing to a String cannot fail.
    let _ = frame(&mut out, finding);
    for (plot, colour) in plots.iter().zip(COLOURS.iter().cycle()) {
        let _ = group(&mut out, plot, colour);
    }
    let _ = legend(&mut out, plots);
    out.push_str("</svg>\n");
    out
}

fn frame(out: &mut String, finding: &FindingProfile) -> std::fmt::Result {
    let (right, foot) = (LEFT + SIDE, TOP + SIDE);
    for tick in 0..=5 {
        let value = f64::from(tick) / 5.0;
        let (across, up) = (x(value), y(value));
        writeln!(
            out,
            "<path d=\"M{LEFT} {up:.1}H{right}M{across:.1} {TOP}V{foot}\" stroke=\"#e4e4e4\" fill=\"none\"/>"
        )?;
        writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>", LEFT - 8.0, up + 4.0)?;
        writeln!(out, "<text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.1}</text>", foot + 18.0)?;
    }
    writeln!(out, "<path d=\"M{LEFT} {foot}L{right} {TOP}\" stroke=\"#888\" stroke-dasharray=\"5 4\"/>")?;
    let at = x(finding.threshold);
    writeln!(out, "<path d=\"M{at:.1} {TOP}V{foot}\" stroke=\"#999\"/>")?;
    writeln!(out, "<text x=\"{LEFT}\" y=\"24\" font-size=\"14\">{}</text>", escaped(&finding.finding))?;
    let middle = LEFT + SIDE / 2.0;
    writeln!(out, "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">score</text>", foot + 40.0)?;
    let up = TOP + SIDE / 2.0;
    writeln!(
        out,
        "<text x=\"16\" y=\"{up:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {up:.1})\">share with the finding</text>"
    )
}

fn group(out: &mut String, plot: &GroupPlot<'_>, colour: &str) -> std::fmt::Result {
    type Edge = fn(&Interval) -> f64;
    let points = |edge: Edge| plot.curve.iter().map(move |(s, i)| format!("{:.1},{:.1}", x(*s), y(edge(i))));
    if !plot.curve.is_empty() {
        let upper = points(|i| i.upper).collect::<Vec<_>>();
        let lower = points(|i| i.lower).collect::<Vec<_>>().into_iter().rev();
        let edge: Vec<String> = upper.into_iter().chain(lower).collect();
        writeln!(out, "<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.15\"/>", edge.join(" "))?;
        let line: Vec<String> = points(|i| i.estimate).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        )?;
    }
    for bin in &plot.bins {
        let (at, low, high) = (x(bin.score), y(bin.observed.lower), y(bin.observed.upper));
        writeln!(out, "<path d=\"M{at:.1} {low:.1}V{high:.1}\" stroke=\"{colour}\"/>")?;
        writeln!(out, "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", y(bin.observed.estimate))?;
    }
    Ok(())
}

fn legend(out: &mut String, plots: &[GroupPlot<'_>]) -> std::fmt::Result {
    for (i, (plot, colour)) in plots.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let (at, up) = (LEFT + SIDE + 16.0, TOP + 12.0 + 20.0 * i as f64);
        writeln!(out, "<rect x=\"{at}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>", up - 10.0)?;
        let remark = if plot.curve.is_empty() { ", no curve" } else { "" };
        writeln!(out, "<text x=\"{}\" y=\"{up:.1}\">{}{remark}</text>", at + 18.0, escaped(plot.group))?;
    }
    Ok(())
}

/// Text as XML has it, cut to what fits.
fn escaped(text: &str) -> String {
    text.chars()
        .take(60)
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            c if c.is_control() => " ".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escaped("a<b>&\u{1}c"), "a&lt;b&gt;&amp; c");
        assert_eq!(escaped(&"x".repeat(100)).len(), 60);
    }
}
