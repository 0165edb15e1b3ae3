//! How an image lies: the shape of its pixels, the side it shows, and the directions of its rows and columns.
//!
//! Pixels that are not square matter where the fit keeps the aspect ratio. Their shape comes from Pixel Spacing of the
//! frame's Pixel Measures, then of the image, Imager Pixel Spacing, Nominal Scanned Pixel Spacing, then Pixel Aspect
//! Ratio (PS3.3 10.7.1.3, C.7.6.3.1.7). A spacing of 0 says nothing and the next is asked; ratios within 1 % of 1 count
//! as square: such pixels were measured, not made different. Neighbours: `view` (sides), `normalise`.

use super::dataset::{Item, Tag, tag_text};
use super::{slices, view};
use crate::domain::{Laterality, Orientation, Refusal, RefusalCode, Turn};

const PIXEL_SPACING: Tag = 0x0028_0030;
const IMAGER_PIXEL_SPACING: Tag = 0x0018_1164;
const NOMINAL_SCANNED_PIXEL_SPACING: Tag = 0x0018_2010;
const PIXEL_ASPECT_RATIO: Tag = 0x0028_0034;

const SQUARE_TOLERANCE: f64 = 0.01;
const ASPECT_MAX: f64 = 10.0;

/// What the header says of one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Height of a pixel over its width, or the attribute that makes no sense; asked for where it matters.
    pub aspect: Result<f64, Refusal>,
    pub laterality: Option<Laterality>,
    /// Directions of the rows and of the columns, upper case; empty if absent.
    pub patient_orientation: Vec<String>,
    /// Image Orientation (Patient), which cross-sections have.
    pub image_orientation: Option<[f64; 6]>,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { aspect: Ok(1.0), laterality: None, patient_orientation: Vec::new(), image_orientation: None }
    }
}

impl Geometry {
    /// Of the frame with this index, from 0.
    pub fn of(root: &Item, index: usize) -> Self {
        Self {
            aspect: aspect(root, index),
            laterality: view::laterality(root, index),
            patient_orientation: view::patient_orientation(root),
            image_orientation: slices::orientation_of_frame(root, index),
        }
    }

    /// The turn that brings the frame to this orientation.
    pub fn turn(&self, orientation: Orientation) -> Result<Turn, Refusal> {
        orientation.turn(&self.patient_orientation, self.image_orientation, self.laterality)
    }
}

fn aspect(root: &Item, index: usize) -> Result<f64, Refusal> {
    let measures = |group: Option<&Item>| Some((group?.items(0x0028_9110).first()?.clone(), PIXEL_SPACING));
    let of_frame = measures(root.items(0x5200_9230).get(index));
    let shared = measures(root.items(0x5200_9229).first());
    for (item, tag) in of_frame.iter().chain(&shared).map(|(item, tag)| (item, *tag)).chain(
        [PIXEL_SPACING, IMAGER_PIXEL_SPACING, NOMINAL_SCANNED_PIXEL_SPACING, PIXEL_ASPECT_RATIO].map(|tag| (root, tag)),
    ) {
        let fail = || {
            let detail = format!("{} {} is no spacing of pixels that could be", name(tag), tag_text(tag));
            Err(Refusal::new(RefusalCode::Inconsistent, detail))
        };
        match item.decimals(tag).as_deref() {
            Some([]) => (),
            Some([height, width]) if *height == 0.0 || *width == 0.0 => (),
            Some([height, width]) if *height > 0.0 && *width > 0.0 => {
                let ratio = height / width;
                if !(1.0 / ASPECT_MAX..=ASPECT_MAX).contains(&ratio) {
                    return fail();
                }
                return Ok(if (ratio - 1.0).abs() <= SQUARE_TOLERANCE { 1.0 } else { ratio });
            }
            _ => return fail(),
        }
    }
    Ok(1.0)
}

fn name(tag: Tag) -> &'static str {
    match tag {
        PIXEL_SPACING => "Pixel Spacing",
        IMAGER_PIXEL_SPACING => "Imager Pixel Spacing",
        NOMINAL_SCANNED_PIXEL_SPACING => "Nominal Scanned Pixel Spacing",
        _ => "Pixel Aspect Ratio",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::objects::{EXPLICIT, Encoding, Image, Object, scan};
    use super::*;

    #[test]
    fn the_shape_of_pixels_comes_from_the_nearest_spacing_that_says_something() {
        let new = || Object::new(Encoding::Explicit);
        let measures = |text: &str| new().sequence(0x0028_9110, new().text(PIXEL_SPACING, "DS", text));
        let rows = [
            ("none", new(), Some(1.0)),
            ("tall", new().text(PIXEL_SPACING, "DS", "0.4\\0.2"), Some(2.0)),
            ("nearly square", new().text(PIXEL_SPACING, "DS", "0.1431\\0.1433"), Some(1.0)),
            ("imager", new().text(IMAGER_PIXEL_SPACING, "DS", "0.1\\0.2"), Some(0.5)),
            (
                "zero says nothing",
                new().text(PIXEL_SPACING, "DS", "0\\0").text(PIXEL_ASPECT_RATIO, "IS", "4\\3"),
                Some(4.0 / 3.0),
            ),
            (
                "spacing before ratio",
                new().text(PIXEL_SPACING, "DS", "1\\1").text(PIXEL_ASPECT_RATIO, "IS", "4\\3"),
                Some(1.0),
            ),
            (
                "shared before the image's",
                new().text(PIXEL_SPACING, "DS", "1\\1").sequence(0x5200_9229, measures("2\\1")),
                Some(2.0),
            ),
            ("one value", new().text(PIXEL_SPACING, "DS", "0.2"), None),
            ("not a number", new().text(PIXEL_SPACING, "DS", "nan\\1"), None),
            ("negative", new().text(PIXEL_SPACING, "DS", "-1\\1"), None),
            ("absurd", new().text(PIXEL_SPACING, "DS", "1e308\\1e-308"), None),
        ];
        for (name, object, expected) in rows {
            let head = Image::default().object(Encoding::Explicit);
            let root = scan(head.raw(&object.bytes).file(EXPLICIT)).expect("a sound object").root;
            assert_eq!(Geometry::of(&root, 0).aspect.ok(), expected, "{name}");
        }
    }
}
