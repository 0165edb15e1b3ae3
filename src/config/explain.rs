//! `[explain]`: maps of what in an image speaks for a score, beside the reports. Off by default.
//!
//! Neighbours: `analyse` makes maps by it, `serve` decides by it whether there are any. Left out: what a map is.

use std::time::Duration;

use crate::domain::{Assessment, Fill, Level, MapMethod, Purpose};

use super::fault::Problem;
use super::parse::{self, Parsed};
use super::raw::{self, Entry};
use super::validate::Check;

/// Whether, how and of what maps are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Explain {
    /// None: off.
    pub methods: Vec<MapMethod>,
    /// The models that are explained.
    pub purposes: Vec<Purpose>,
    pub forms: Vec<MapForm>,
    /// Maps are made for a report of this level or above; `None`: for every report.
    pub level_min: Option<Level>,
    /// Images of a study.
    pub images_max: usize,
    /// For the maps of a study; a report does without those that take longer.
    pub time_max: Duration,
    /// Side of the patch that covers a part of the image, pixels of the model's input; 0: an eighth of its side.
    pub patch: u32,
    /// Pixels from one place of the patch to the next; 0: half of it.
    pub stride: u32,
    pub fill: Fill,
}

/// What a map is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapForm {
    /// Colours upon the picture: Secondary Capture.
    SecondaryCapture,
    /// Its values: Parametric Map.
    ParametricMap,
}

impl Explain {
    /// Whether maps are made at all.
    pub fn is_on(&self) -> bool {
        !self.methods.is_empty()
    }

    /// Whether a report is worth maps, by what its reader sees in it: that there are some must tell no more.
    pub fn asks_for(&self, released: &Assessment) -> bool {
        let enough = |level: Level| self.level_min.is_none_or(|min| level >= min);
        self.is_on() && released.max_level().is_some_and(enough)
    }
}

impl Check<'_> {
    pub(super) fn explain(&mut self, raw: &raw::Explain) -> Option<Explain> {
        let methods = self.get("explain.method", &raw.method, methods);
        let purposes = self.get("explain.models", &raw.models, |entry| {
            const BOTH: &[Purpose] = &[Purpose::Clinical, Purpose::Race];
            const CLINICAL: &[Purpose] = &[Purpose::Clinical];
            const RACE: &[Purpose] = &[Purpose::Race];
            parse::choice(entry, &[("both", BOTH), ("clinical", CLINICAL), ("race", RACE)])
        });
        let forms = self.get("explain.form", &raw.form, |entry| {
            const CAPTURE: &[MapForm] = &[MapForm::SecondaryCapture];
            const MAP: &[MapForm] = &[MapForm::ParametricMap];
            const BOTH: &[MapForm] = &[MapForm::SecondaryCapture, MapForm::ParametricMap];
            parse::choice(entry, &[("secondary-capture", CAPTURE), ("parametric-map", MAP), ("both", BOTH)])
        });
        let level_min = self.get("explain.level_min", &raw.level_min, |entry| {
            let (one, two) = (Some(Level::ScoreDependent), Some(Level::Elevated));
            let levels = [("any", None), ("score-dependent", one), ("elevated", two)];
            parse::choice(entry, &levels)
        });
        let images_max = self.get("explain.images_max", &raw.images_max, parse::count(1..=16));
        let seconds = Duration::from_secs;
        let time_max = self.get("explain.time_max", &raw.time_max, parse::duration(seconds(1)..=seconds(60)));
        let patch = self.get("explain.patch", &raw.patch, parse::count(0..=4096));
        let stride = self.get("explain.stride", &raw.stride, parse::count(0..=4096));
        let fill = self.get("explain.fill", &raw.fill, fill);
        Some(Explain {
            methods: methods?.to_vec(),
            purposes: purposes?.to_vec(),
            forms: forms?.to_vec(),
            level_min: level_min?,
            images_max: images_max?,
            time_max: time_max?,
            patch: patch? as u32,
            stride: stride? as u32,
            fill: fill?,
        })
    }
}

fn methods(entry: &Entry) -> Parsed<&'static [MapMethod]> {
    const GRADCAM: &[MapMethod] = &[MapMethod::Gradcam];
    const OCCLUSION: &[MapMethod] = &[MapMethod::Occlusion];
    const BOTH: &[MapMethod] = &[MapMethod::Gradcam, MapMethod::Occlusion];
    parse::choice(entry, &[("off", &[]), ("gradcam", GRADCAM), ("occlusion", OCCLUSION), ("both", BOTH)])
}

/// `mean`, or a grey value from 0 to 1.
fn fill(entry: &Entry) -> Parsed<Fill> {
    let remedy = || Problem::new("is no grey value", "write \"mean\", or a number from 0.0 (black) to 1.0 (white)");
    let grey = match entry {
        Entry::Text(word) if word == "mean" => return Ok(Fill::Mean),
        Entry::Text(number) => number.parse().map_err(|_| remedy())?,
        Entry::Float(number) => *number,
        Entry::Integer(number) => *number as f64,
        Entry::Switch(_) | Entry::List(_) => return Err(remedy()),
    };
    if (0.0..=1.0).contains(&grey) { Ok(Fill::Grey(grey as f32)) } else { Err(remedy()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn loaded(overrides: &[(&str, &str)]) -> Result<Explain, String> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(None, [], &overrides).map(|config| config.explain).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_explained_unless_somebody_asks() {
        let explain = loaded(&[]).unwrap();
        assert!(!explain.is_on());
        assert_eq!((explain.fill, explain.images_max, explain.level_min), (Fill::Mean, 1, None));
        let explain =
            loaded(&[("explain.method", "both"), ("explain.fill", "0.5"), ("explain.level_min", "elevated")]).unwrap();
        assert_eq!(explain.methods, [MapMethod::Gradcam, MapMethod::Occlusion]);
        assert_eq!((explain.fill, explain.level_min), (Fill::Grey(0.5), Some(Level::Elevated)));
        let rows = [("method", "cam"), ("fill", "grey"), ("fill", "1.5"), ("images_max", "0"), ("time_max", "2m")];
        for (key, value) in rows.map(|(key, value)| (format!("explain.{key}"), value)) {
            let fault = loaded(&[(&key, value)]).unwrap_err();
            assert!(fault.contains(&key), "{fault}");
        }
    }
}
