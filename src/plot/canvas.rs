//! Elements of a drawing, and the only place where text becomes XML.
//!
//! Text is cleaned before it is escaped: what XML forbids, controls and marks that turn the direction of the text around
//! them become spaces, and what is longer than fits is cut and told in full by a tooltip. A number that is none is never
//! written. Widths are those of the font that `raster` has; a browser's own sans serif is seldom wider.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::Svg;
use super::palette::{FRAME, INK, Look, Marker, QUIET};

/// Longer texts are cut, wherever they go.
const TEXT_MAX: usize = 600;
/// Of a line of text, in em.
const LINE: f64 = 1.35;

/// Which part of a text lies at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How text looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Type {
    /// CSS pixels.
    pub(super) size: f64,
    pub(super) colour: &'static str,
    pub(super) is_bold: bool,
}

pub(super) const TITLE: Type = Type { size: 15.0, colour: INK, is_bold: true };
pub(super) const HEADING: Type = Type { size: 12.0, colour: INK, is_bold: true };
pub(super) const BODY: Type = Type { size: 12.0, colour: INK, is_bold: false };
pub(super) const NOTE: Type = Type { size: 11.0, colour: QUIET, is_bold: false };

/// What was drawn until now.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    body: String,
}

impl Canvas {
    /// A title in as many lines as it needs, two at most; returns where it ends.
    pub(super) fn title(&mut self, text: &str, left: f64, width: f64) -> f64 {
        let mut at = 8.0;
        for line in wrapped(text, TITLE, width, 2) {
            at += TITLE.size * LINE;
            self.text((left, at), Anchor::Start, TITLE, &line);
        }
        at + 8.0
    }

    pub(super) fn text(&mut self, at: (f64, f64), anchor: Anchor, kind: Type, text: &str) {
        self.write_text(&format!("x=\"{}\" y=\"{}\"", num(at.0), num(at.1)), anchor, kind, text, None);
    }

    /// Text that is cut to `width` pixels; what was cut stays as a tooltip.
    pub(super) fn text_within(&mut self, at: (f64, f64), anchor: Anchor, kind: Type, text: &str, width: f64) {
        let short = cut(text, kind, width);
        let whole = (short != clean(text)).then_some(text);
        self.write_text(&format!("x=\"{}\" y=\"{}\"", num(at.0), num(at.1)), anchor, kind, &short, whole);
    }

    /// Text that ends at a place and comes from below left.
    pub(super) fn text_slanted(&mut self, at: (f64, f64), kind: Type, text: &str, width: f64) {
        let short = cut(text, kind, width);
        let whole = (short != clean(text)).then_some(text);
        let place = format!("transform=\"translate({} {}) rotate(-50)\"", num(at.0), num(at.1));
        self.write_text(&place, Anchor::End, kind, &short, whole);
    }

    fn write_text(&mut self, place: &str, anchor: Anchor, kind: Type, text: &str, whole: Option<&str>) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let size = if kind.size == BODY.size { String::new() } else { format!(" font-size=\"{}\"", num(kind.size)) };
        let colour = if kind.colour == INK { String::new() } else { format!(" fill=\"{}\"", kind.colour) };
        let weight = if kind.is_bold { " font-weight=\"bold\"" } else { "" };
        let tip = whole.map_or_else(String::new, |t| format!("<title>{}</title>", escaped(t)));
        self.line(format_args!("<text {place}{anchor}{size}{colour}{weight}>{tip}{}</text>", escaped(text)));
    }

    /// A straight stroke; `dash` as in stroke-dasharray, empty for a whole line.
    pub(super) fn stroke(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64, dash: &str) {
        let ends = format!("M{} {}L{} {}", num(from.0), num(from.1), num(to.0), num(to.1));
        self.line(format_args!(
            "<path d=\"{ends}\" stroke=\"{colour}\" stroke-width=\"{}\"{}/>",
            num(width),
            dashed(dash)
        ));
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], look: Look) {
        self.line(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"{}/>",
            listed(points),
            look.colour,
            dashed(look.dash)
        ));
    }

    /// The shade between two edges.
    pub(super) fn polygon(&mut self, points: &[(f64, f64)], colour: &str) {
        self.line(format_args!("<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.15\"/>", listed(points)));
    }

    pub(super) fn rect(&mut self, at: (f64, f64), size: (f64, f64), fill: &str) {
        self.line(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{fill}\"/>",
            num(at.0),
            num(at.1),
            num(size.0),
            num(size.1)
        ));
    }

    pub(super) fn frame(&mut self, at: (f64, f64), size: (f64, f64)) {
        self.line(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"{FRAME}\"/>",
            num(at.0),
            num(at.1),
            num(size.0),
            num(size.1)
        ));
    }

    pub(super) fn marker(&mut self, at: (f64, f64), look: Look) {
        let (x, y) = (num(at.0), num(at.1));
        let (fill, stroke) = (look.colour, look.colour);
        // A white rim keeps markers apart that overlap.
        match look.marker {
            Marker::Circle => {
                self.line(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"{fill}\" stroke=\"white\"/>"));
            }
            Marker::Cross | Marker::Plus => {
                let path = if look.marker == Marker::Cross { "m-3.5-3.5l7 7m-7 0l7-7" } else { "m-4.5 0h9m-4.5-4.5v9" };
                self.line(format_args!("<path d=\"M{x} {y}{path}\" stroke=\"{stroke}\" stroke-width=\"2\"/>"));
            }
            shape => {
                let path = match shape {
                    Marker::Square => "m-3.8-3.8h7.6v7.6h-7.6z",
                    Marker::Triangle => "m0-4.8l4.6 8h-9.2z",
                    Marker::Down => "m0 4.8l4.6-8h-9.2z",
                    _ => "m0-5.2l5.2 5.2l-5.2 5.2l-5.2-5.2z",
                };
                self.line(format_args!("<path d=\"M{x} {y}{path}\" fill=\"{fill}\" stroke=\"white\"/>"));
            }
        }
    }

    /// An open arrow head at the edge of a plot: what it stands for lies beyond. `way` is (1, 0) for right, (0, -1) for up.
    pub(super) fn beyond(&mut self, at: (f64, f64), way: (f64, f64), colour: &str) {
        let (along, across) = (5.0, 3.5);
        let corner = |side: f64| {
            let x = at.0 - way.0 * along - way.1 * across * side;
            let y = at.1 - way.1 * along + way.0 * across * side;
            format!("{} {}", num(x), num(y))
        };
        let tip = format!("{} {}", num(at.0), num(at.1));
        self.line(format_args!(
            "<path d=\"M{}L{tip}L{}\" fill=\"white\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            corner(1.0),
            corner(-1.0)
        ));
    }

    /// An open diamond: a figure from elsewhere.
    pub(super) fn reference(&mut self, at: (f64, f64)) {
        let (x, y) = (num(at.0), num(at.1));
        self.line(format_args!(
            "<path d=\"M{x} {y}m0-7.5l7.5 7.5l-7.5 7.5l-7.5-7.5z\" fill=\"white\" stroke=\"{INK}\" \
             stroke-width=\"1.4\"/>"
        ));
    }

    /// A picture in base 64, as PNG.
    pub(super) fn image(&mut self, at: (f64, f64), size: (f64, f64), base64: &str, label: &str) {
        self.line(format_args!(
            "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" href=\"data:image/png;base64,{base64}\"><title>{}</title></image>",
            num(at.0),
            num(at.1),
            num(size.0),
            num(size.1),
            escaped(label)
        ));
    }

    fn line(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    /// The whole drawing. Title and description are what a screen reader says.
    pub(super) fn finish(self, title: &str, description: &str, width: f64, height: f64) -> Svg {
        let (width, height) = (width.ceil().clamp(1.0, 1e6), height.ceil().clamp(1.0, 1e6));
        let (title, description) = (escaped(title), escaped(description));
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" aria-label=\"{title}\" font-family=\"sans-serif\" font-size=\"12\" \
             fill=\"{INK}\">\n<title>{title}</title>\n<desc>{description}</desc>\n<rect width=\"{width}\" \
             height=\"{height}\" fill=\"white\"/>\n{}</svg>\n",
            self.body
        );
        Svg { text, width: width as u32, height: height as u32 }
    }
}

fn dashed(dash: &str) -> String {
    if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") }
}

fn listed(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{},{}", num(*x), num(*y))).collect::<Vec<_>>().join(" ")
}

/// A length with one decimal; what is no number, which no caller sends, is zero.
fn num(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let text = format!("{value:.1}");
    match text.strip_suffix(".0").unwrap_or(&text) {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

/// Text without what XML forbids, without controls and marks of direction.
pub(super) fn tame(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{fffe}' | '\u{ffff}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.contains(is_bad) {
        true => text.chars().map(|c| if is_bad(c) { ' ' } else { c }).collect::<String>().into(),
        false => text.into(),
    }
}

/// The same, and not longer than anybody reads on a picture.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => Cow::Owned(tame(&text[..end]).into_owned() + "…"),
        None => tame(text),
    }
}

/// Text that can stand in an element or an attribute.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in clean(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Advances of the printable ASCII characters from the space on, in 1/2048 em, of DejaVu Sans.
const ADVANCES: [u16; 95] = [
    651, 821, 942, 1716, 1303, 1946, 1597, 563, 799, 799, 1024, 1716, 651, 739, 651, 690, 1303, 1303, 1303, 1303, 1303,
    1303, 1303, 1303, 1303, 1303, 690, 690, 1716, 1716, 1716, 1087, 2048, 1401, 1405, 1430, 1577, 1294, 1178, 1587,
    1540, 604, 604, 1343, 1141, 1767, 1532, 1612, 1235, 1612, 1423, 1300, 1251, 1499, 1401, 2025, 1403, 1251, 1403,
    799, 690, 799, 1716, 1024, 1024, 1255, 1300, 1126, 1300, 1260, 721, 1300, 1298, 569, 569, 1186, 569, 1995, 1298,
    1253, 1300, 1300, 842, 1067, 803, 1298, 1212, 1675, 1212, 1212, 1075, 1303, 690, 1303, 1716,
];

/// How wide a text is, in pixels; characters beyond ASCII are taken for wide ones.
pub(super) fn width(text: &str, kind: Type) -> f64 {
    let advance = |c: char| match ADVANCES.get((c as usize).wrapping_sub(32)) {
        Some(units) => f64::from(*units) / 2048.0,
        None if matches!(c, '–' | '·' | '’' | '…' | '\u{202f}' | '\u{a0}') => 0.5,
        None if (c as u32) < 0x1100 => 0.8,
        None => 1.0,
    };
    let bold = if kind.is_bold { 1.13 } else { 1.0 };
    text.chars().map(advance).sum::<f64>() * kind.size * bold
}

/// The text as far as it fits, with an ellipsis where it does not.
pub(super) fn cut(text: &str, kind: Type, room: f64) -> String {
    let text = clean(text);
    if width(&text, kind) <= room {
        return text.into_owned();
    }
    let room = room - width("…", kind);
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width(&kept, kind) > room {
            kept.pop();
            break;
        }
    }
    kept.truncate(kept.trim_end().len());
    kept + "…"
}

/// The text in at most `lines` lines, the last one cut.
pub(super) fn wrapped(text: &str, kind: Type, room: f64, lines: usize) -> Vec<String> {
    let text = clean(text);
    let mut words = text.split_whitespace().peekable();
    let mut found: Vec<String> = Vec::new();
    while words.peek().is_some() && found.len() < lines {
        let mut line = String::new();
        if found.len() + 1 == lines {
            line = words.by_ref().collect::<Vec<_>>().join(" ");
        } else {
            while let Some(word) = words.peek() {
                let longer = if line.is_empty() { (*word).to_owned() } else { format!("{line} {word}") };
                if !line.is_empty() && width(&longer, kind) > room {
                    break;
                }
                line = longer;
                words.next();
            }
        }
        found.push(cut(&line, kind, room));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_element_or_attribute() {
        assert_eq!(escaped("a<b>&\u{1}\"c'\u{202e}\u{ffff}"), "a&lt;b&gt;&amp; &quot;c&#39;  ");
        assert_eq!(escaped(&"x".repeat(2 * TEXT_MAX)).chars().count(), TEXT_MAX + 1);
        assert_eq!(clean("é 漢字"), "é 漢字");
    }

    #[test]
    fn numbers_are_short_and_always_numbers() {
        assert_eq!([1.25, 2.0, -0.01, f64::NAN, f64::INFINITY].map(num), ["1.2", "2", "0", "0", "0"]);
    }

    #[test]
    fn text_is_cut_and_wrapped_to_what_fits() {
        let check = |text: &str, room: f64, lines: usize, expected: &[&str]| {
            let found = wrapped(text, BODY, room, lines);
            assert!(found.iter().all(|l| width(l, BODY) <= room), "{found:?}");
            assert_eq!(found, expected);
        };
        check("one two three", 200.0, 2, &["one two three"]);
        check("one two three", 60.0, 2, &["one two", "three"]);
        check("one two three fourteen", 60.0, 2, &["one two", "three fo…"]);
        check("Donaudampfschifffahrt two", 60.0, 2, &["Donaud…", "two"]);
        check("  ", 60.0, 2, &[]);
        assert_eq!(cut("abc", BODY, 0.0), "…");
    }
}
