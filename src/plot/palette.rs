//! What series and values are told apart by: colour, marker and dash together.
//!
//! Colours are Okabe's and Ito's, darkened until each has a contrast of 3 to 1 against white (WCAG 2.2, 1.4.11).

/// The colours of series, in order.
const COLOURS: [&str; 7] = ["#0072b2", "#c75000", "#00805a", "#b0518f", "#846600", "#333333", "#3a8fbd"];
/// Stroke patterns; the first is a whole line.
const DASHES: [&str; 4] = ["", "7 3", "2 2.5", "9 3 2 3"];

pub(super) const INK: &str = "#1a1a1a";
/// Of what explains: ticks, notes. Contrast 5.7 against white.
pub(super) const QUIET: &str = "#595959";
pub(super) const GRID: &str = "#e3e3e3";
pub(super) const FRAME: &str = "#8c8c8c";

/// How one series looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) colour: &'static str,
    pub(super) dash: &'static str,
    pub(super) marker: Marker,
}

impl Look {
    /// The same marker in the colour of another series.
    pub(super) fn with_colour_of(self, other: Look) -> Self {
        Self { colour: other.colour, ..self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Down,
    Cross,
    Plus,
}

const MARKERS: [Marker; 7] =
    [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::Down, Marker::Cross, Marker::Plus];

/// The look of the series with this place; 28 differ.
pub(super) fn look(place: usize) -> Look {
    let (colour, marker) = (COLOURS[place % 7], MARKERS[place % 7]);
    Look { colour, marker, dash: DASHES[place % 4] }
}

/// Values from low to high: each lighter than the next, so that they keep their order in grey. Stops equally far apart.
const RAMP: [[f64; 3]; 6] = [
    [247.0, 251.0, 255.0],
    [208.0, 225.0, 242.0],
    [148.0, 196.0, 223.0],
    [74.0, 152.0, 201.0],
    [23.0, 100.0, 171.0],
    [8.0, 48.0, 107.0],
];

/// A colour for a share of the range, and the colour of text upon it.
pub(super) fn heat(part: f64) -> (String, &'static str) {
    let at = part.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let below = (at as usize).min(RAMP.len() - 2);
    let weight = at - below as f64;
    let rgb: [f64; 3] = std::array::from_fn(|i| RAMP[below][i] * (1.0 - weight) + RAMP[below + 1][i] * weight);
    let [r, g, b] = rgb.map(|v| v.round() as u8);
    let ink = if contrast([r, g, b], [255; 3]) >= 4.5 { "#ffffff" } else { "#000000" };
    (format!("#{r:02x}{g:02x}{b:02x}"), ink)
}

/// WCAG's contrast of two colours, 1 to 21.
pub(super) fn contrast(one: [u8; 3], other: [u8; 3]) -> f64 {
    let (a, b) = (luminance(one), luminance(other));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn luminance(rgb: [u8; 3]) -> f64 {
    let linear = |v: u8| {
        let v = f64::from(v) / 255.0;
        if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rgb(colour: &str) -> [u8; 3] {
        std::array::from_fn(|i| u8::from_str_radix(&colour[1 + 2 * i..3 + 2 * i], 16).expect("two hexadecimal digits"))
    }

    #[test]
    fn every_series_is_seen_on_white_and_no_two_look_the_same() {
        for colour in COLOURS {
            assert!(contrast(rgb(colour), [255; 3]) >= 3.0, "{colour}");
        }
        assert!(contrast(rgb(QUIET), [255; 3]) >= 4.5);
        let looks: Vec<Look> = (0..28).map(look).collect();
        for (i, one) in looks.iter().enumerate() {
            assert!(looks[i + 1..].iter().all(|other| other != one), "{i}");
        }
        // In grey the first seven have markers of their own.
        assert!((0..7).all(|i| (i + 1..7).all(|k| look(i).marker != look(k).marker)));
    }

    #[test]
    fn the_ramp_grows_darker_and_its_text_can_be_read() {
        let light: Vec<f64> = (0..=100).map(|i| luminance(rgb(&heat(f64::from(i) / 100.0).0))).collect();
        assert!(light.is_sorted_by(|a, b| a > b));
        for i in 0..=100 {
            let (ground, ink) = heat(f64::from(i) / 100.0);
            assert!(contrast(rgb(&ground), rgb(ink)) >= 4.5, "{i} {ground} {ink}");
        }
    }
}
