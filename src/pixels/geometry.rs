//! How an image lies: the shape of its pixels, the side it shows, and the turn that a contract's orientation asks for.
//!
//! Pixels that are not square matter where the fit keeps the aspect ratio. Their shape comes from Pixel Spacing of the
//! frame's Pixel Measures, then of the image, Imager Pixel Spacing, Nominal Scanned Pixel Spacing, then Pixel Aspect
//! Ratio (PS3.3 10.7.1.3, C.7.6.3.1.7). A spacing of 0 says nothing and the next is asked; ratios within 1 % of 1 count
//! as square: such pixels were measured, not made different. Neighbours: `view` (sides), `normalise`.

use super::dataset::{Item, Tag, tag_text};
use super::view::{self, PATIENT_ORIENTATION};
use crate::domain::{Laterality, Orientation, Refusal, RefusalCode};

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
}

/// Rows and columns exchanged, then columns reversed (mirrored), then rows reversed (upside down).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    pub exchanged: bool,
    pub mirrored: bool,
    pub upended: bool,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { aspect: Ok(1.0), laterality: None, patient_orientation: Vec::new() }
    }
}

impl Geometry {
    /// Of the frame with this index, from 0.
    pub fn of(root: &Item, index: usize) -> Self {
        let directions = root.texts(PATIENT_ORIENTATION).iter().map(|d| d.to_uppercase()).collect();
        Self {
            aspect: aspect(root, index),
            laterality: view::laterality(root, index),
            patient_orientation: directions,
        }
    }

    /// The turn that brings the image to this orientation; a refusal where the header does not say how it lies.
    pub fn turn(&self, orientation: Orientation) -> Result<Turn, Refusal> {
        match orientation {
            Orientation::AsStored => Ok(Turn::default()),
            Orientation::LateralityLeft => self.chest_wall_left(),
            Orientation::PatientOrientation => self.upright(),
        }
    }

    fn chest_wall_left(&self) -> Result<Turn, Refusal> {
        let mirrored = match (self.letters()?, self.laterality) {
            (Some((_, b'H')), _) => return refuse("Patient Orientation (0020,0020) says that it is upside down"),
            (Some((b'A', _)), _) | (None, Some(Laterality::Left)) => false,
            (Some((b'P', _)), _) | (None, Some(Laterality::Right)) => true,
            (Some(_), _) => return refuse("Patient Orientation (0020,0020) puts the chest wall to neither side"),
            (None, Some(Laterality::Both)) => return refuse("Image Laterality (0020,0062) is both sides"),
            (None, None) => {
                return refuse("neither Patient Orientation (0020,0020) nor Image Laterality (0020,0062) says its side");
            }
        };
        Ok(Turn { mirrored, ..Turn::default() })
    }

    fn upright(&self) -> Result<Turn, Refusal> {
        let Some(letters) = self.letters()? else { return Ok(Turn::default()) };
        match letters {
            (x @ (b'L' | b'R'), z @ (b'H' | b'F')) => {
                Ok(Turn { exchanged: false, mirrored: x == b'R', upended: z == b'H' })
            }
            (z @ (b'H' | b'F'), x @ (b'L' | b'R')) => {
                Ok(Turn { exchanged: true, mirrored: x == b'R', upended: z == b'H' })
            }
            _ => refuse("Patient Orientation (0020,0020) has no right and left beside head and feet"),
        }
    }

    /// The principal directions of rows and columns; `None` where the attribute is absent.
    fn letters(&self) -> Result<Option<(u8, u8)>, Refusal> {
        let letter = |text: &String| text.bytes().next().filter(|b| b"APRLHF".contains(b));
        match self.patient_orientation.as_slice() {
            [] => Ok(None),
            [row, column] => match (letter(row), letter(column)) {
                (Some(row), Some(column)) => Ok(Some((row, column))),
                _ => refuse("Patient Orientation (0020,0020) is not made of A, P, R, L, H and F"),
            },
            _ => refuse("Patient Orientation (0020,0020) has not two values"),
        }
    }
}

impl Turn {
    /// The turned image with its rows and columns.
    pub fn apply(self, image: Vec<f32>, rows: usize, columns: usize) -> (Vec<f32>, usize, usize) {
        if self == Turn::default() {
            return (image, rows, columns);
        }
        let (mut image, rows, columns) = if self.exchanged {
            let turned = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| image[i]).collect();
            (turned, columns, rows)
        } else {
            (image, rows, columns)
        };
        match (self.mirrored, self.upended) {
            (true, true) => image.reverse(),
            (true, false) => image.chunks_exact_mut(columns).for_each(<[f32]>::reverse),
            (false, true) => image = image.chunks_exact(columns).rev().flatten().copied().collect(),
            (false, false) => (),
        }
        (image, rows, columns)
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

fn refuse<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalCode::OutOfScope, format!("the image cannot be brought to the contract's orientation: {why}")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::objects::{EXPLICIT, Encoding, Image, Object, scan};
    use super::*;

    fn geometry(directions: &str, laterality: Option<Laterality>) -> Geometry {
        let patient_orientation = directions.split('\\').filter(|d| !d.is_empty()).map(str::to_owned).collect();
        Geometry { aspect: Ok(1.0), laterality, patient_orientation }
    }

    /// The image 1 2 3 / 4 5 6 after the turn.
    fn check(directions: &str, laterality: Option<Laterality>, to: Orientation, expected: Option<[f32; 6]>) {
        let image = (1u8..=6).map(f32::from).collect();
        let got = geometry(directions, laterality).turn(to).ok().map(|turn| turn.apply(image, 2, 3));
        assert_eq!(got.map(|g| g.0), expected.map(Vec::from), "{directions} {laterality:?} {to:?}");
    }

    #[test]
    fn mammograms_are_mirrored_so_that_the_chest_wall_is_left() {
        use Laterality::{Both, Left, Right};
        let (same, mirrored) = (Some([1., 2., 3., 4., 5., 6.]), Some([3., 2., 1., 6., 5., 4.]));
        let rows = [
            ("A\\F", Some(Left), same),
            ("P\\F", Some(Right), mirrored),
            ("P\\L", None, mirrored),
            ("A\\F", Some(Right), same),
            ("AL\\FR", None, same),
            ("", Some(Left), same),
            ("", Some(Right), mirrored),
            ("", Some(Both), None),
            ("", None, None),
            ("R\\P", Some(Left), None),
            ("A\\H", Some(Left), None),
            ("A", Some(Left), None),
            ("X\\F", Some(Left), None),
        ];
        for (directions, laterality, expected) in rows {
            check(directions, laterality, Orientation::LateralityLeft, expected);
            check(directions, laterality, Orientation::AsStored, same);
        }
    }

    /// Every one of the eight ways a frontal image can lie shows the same patient once it is upright.
    #[test]
    fn frontal_images_are_turned_upright_from_each_of_the_eight_ways_they_lie() {
        // what is at the head's right, head's left, foot's right, foot's left corner
        let upright = [1., 2., 3., 4.];
        let at = |x: u8, z: u8| upright[2 * usize::from(z == b'F') + usize::from(x == b'L')];
        let far = |d: u8| match d {
            b'L' => (b'R', b'L'),
            b'R' => (b'L', b'R'),
            b'F' => (b'H', b'F'),
            _ => (b'F', b'H'),
        };
        for (row, column) in ["L\\F", "R\\F", "L\\H", "R\\H", "F\\L", "F\\R", "H\\L", "H\\R"].map(|d| (d.as_bytes()[0], d.as_bytes()[2])) {
            let (r, c) = (far(row), far(column));
            let corner = |right: u8, down: u8| if b"LR".contains(&right) { at(right, down) } else { at(down, right) };
            let image = vec![corner(r.0, c.0), corner(r.1, c.0), corner(r.0, c.1), corner(r.1, c.1)];
            let directions = format!("{}\\{}", char::from(row), char::from(column));
            let turn = geometry(&directions, None).turn(Orientation::PatientOrientation).expect("a frontal image");
            assert_eq!(turn.apply(image, 2, 2).0, upright, "{directions}");
        }
        check("", None, Orientation::PatientOrientation, Some([1., 2., 3., 4., 5., 6.]));
        check("F\\L", None, Orientation::PatientOrientation, Some([1., 4., 2., 5., 3., 6.]));
        check("A\\F", None, Orientation::PatientOrientation, None);
        check("L\\P", None, Orientation::PatientOrientation, None);
    }

    #[test]
    fn the_shape_of_pixels_comes_from_the_nearest_spacing_that_says_something() {
        let new = || Object::new(Encoding::Explicit);
        let measures = |text: &str| new().sequence(0x0028_9110, new().text(PIXEL_SPACING, "DS", text));
        let rows = [
            ("none", new(), Some(1.0)),
            ("tall", new().text(PIXEL_SPACING, "DS", "0.4\\0.2"), Some(2.0)),
            ("nearly square", new().text(PIXEL_SPACING, "DS", "0.1431\\0.1433"), Some(1.0)),
            ("imager", new().text(IMAGER_PIXEL_SPACING, "DS", "0.1\\0.2"), Some(0.5)),
            ("zero says nothing", new().text(PIXEL_SPACING, "DS", "0\\0").text(PIXEL_ASPECT_RATIO, "IS", "4\\3"), Some(4.0 / 3.0)),
            ("spacing before ratio", new().text(PIXEL_SPACING, "DS", "1\\1").text(PIXEL_ASPECT_RATIO, "IS", "4\\3"), Some(1.0)),
            ("shared before the image's", new().text(PIXEL_SPACING, "DS", "1\\1").sequence(0x5200_9229, measures("2\\1")), Some(2.0)),
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
