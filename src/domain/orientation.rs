//! Which way round a model sees an image, and the turn that brings it there.
//!
//! Pure: the header's directions and side in, a turn or a refusal out; the same for scope, before pixels are decoded,
//! and for `pixels`. Left out: where the directions come from, and whether they are true.

use serde::{Deserialize, Serialize};

use super::{Laterality, Refusal, RefusalCode};

/// Which way round the model sees the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orientation {
    #[default]
    AsStored,
    /// Mammography: mirrored where needed so that the chest wall is on the left. Patient Orientation decides by its
    /// row direction (A as stored, P mirrored); without it laterality does (L as stored, R mirrored); else refused.
    LateralityLeft,
    /// Turned so that rows run to the patient's left, and columns to the feet (projections, coronal planes) or to the
    /// back (axial planes), where the image's directions say that they do not. As stored where it has none; refused
    /// where it has no left and right.
    PatientOrientation,
}

/// Rows and columns exchanged, then columns reversed (mirrored), then rows reversed (upside down).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    pub exchanged: bool,
    pub mirrored: bool,
    pub upended: bool,
}

impl Orientation {
    /// The turn for an image with these values of Patient Orientation (none if absent), direction cosines of Image
    /// Orientation (Patient), and side; a refusal where they do not say how it lies.
    pub fn turn(
        self,
        directions: &[String],
        image_orientation: Option<[f64; 6]>,
        laterality: Option<Laterality>,
    ) -> Result<Turn, Refusal> {
        match self {
            Orientation::AsStored => Ok(Turn::default()),
            Orientation::LateralityLeft => chest_wall_left(directions, laterality),
            Orientation::PatientOrientation => match image_orientation {
                // what cross-sections have in its place (PS3.3 C.7.6.1.1.1)
                Some(cosines) if directions.is_empty() => upright(&main_directions(cosines)),
                _ => upright(directions),
            },
        }
    }
}

impl Turn {
    /// Rows and columns of the turned image.
    pub fn size(self, rows: usize, columns: usize) -> (usize, usize) {
        if self.exchanged { (columns, rows) } else { (rows, columns) }
    }

    /// Where a row of the turned image lies in the image of `rows` × `columns` as stored, row by row: the index of its
    /// first pixel, and the way from each to the next.
    pub fn walk(self, row: usize, rows: usize, columns: usize) -> (usize, isize) {
        let (turned_rows, turned_columns) = self.size(rows, columns);
        let row = if self.upended { turned_rows - 1 - row } else { row };
        let column = if self.mirrored { turned_columns - 1 } else { 0 };
        let (start, step) =
            if self.exchanged { (column * columns + row, columns as isize) } else { (row * columns + column, 1) };
        (start, if self.mirrored { -step } else { step })
    }
}

fn chest_wall_left(directions: &[String], laterality: Option<Laterality>) -> Result<Turn, Refusal> {
    let mirrored = match (letters(directions)?, laterality) {
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

fn upright(directions: &[String]) -> Result<Turn, Refusal> {
    let Some(letters) = letters(directions)? else { return Ok(Turn::default()) };
    match letters {
        (x @ (b'L' | b'R'), z @ (b'H' | b'F')) => {
            Ok(Turn { exchanged: false, mirrored: x == b'R', upended: z == b'H' })
        }
        (z @ (b'H' | b'F'), x @ (b'L' | b'R')) => Ok(Turn { exchanged: true, mirrored: x == b'R', upended: z == b'H' }),
        (x @ (b'L' | b'R'), y @ (b'A' | b'P')) => {
            Ok(Turn { exchanged: false, mirrored: x == b'R', upended: y == b'A' })
        }
        (y @ (b'A' | b'P'), x @ (b'L' | b'R')) => Ok(Turn { exchanged: true, mirrored: x == b'R', upended: y == b'A' }),
        _ => refuse("its directions have no right and left"),
    }
}

/// The letters of the axes that rows and columns are nearest to: x runs to the left, y to the back, z to the head.
fn main_directions(cosines: [f64; 6]) -> [String; 2] {
    let letter = |x: f64, y: f64, z: f64| match (x.abs() >= y.abs() && x.abs() >= z.abs(), y.abs() >= z.abs()) {
        (true, _) => {
            if x > 0.0 {
                "L"
            } else {
                "R"
            }
        }
        (_, true) => {
            if y > 0.0 {
                "P"
            } else {
                "A"
            }
        }
        _ => {
            if z > 0.0 {
                "H"
            } else {
                "F"
            }
        }
    };
    let [a, b, c, d, e, f] = cosines;
    [letter(a, b, c).to_owned(), letter(d, e, f).to_owned()]
}

/// The principal directions of rows and columns; `None` where the attribute is absent.
fn letters(directions: &[String]) -> Result<Option<(u8, u8)>, Refusal> {
    let letter = |text: &String| text.bytes().next().filter(|b| b"APRLHF".contains(b));
    match directions {
        [] => Ok(None),
        [row, column] => match (letter(row), letter(column)) {
            (Some(row), Some(column)) => Ok(Some((row, column))),
            _ => refuse("Patient Orientation (0020,0020) is not made of A, P, R, L, H and F"),
        },
        _ => refuse("Patient Orientation (0020,0020) has not two values"),
    }
}

fn refuse<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::new(
        RefusalCode::OutOfScope,
        format!("the image cannot be brought to the contract's orientation: {why}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(directions: &str, laterality: Option<Laterality>, to: Orientation) -> Result<Turn, Refusal> {
        let directions: Vec<_> = directions.split('\\').filter(|d| !d.is_empty()).map(str::to_owned).collect();
        to.turn(&directions, None, laterality)
    }

    fn turned(turn: Turn, image: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        let (turned_rows, turned_columns) = turn.size(rows, columns);
        let row = |row| {
            let (start, step) = turn.walk(row, rows, columns);
            (0..turned_columns as isize).map(move |column| image[start.strict_add_signed(step * column)])
        };
        (0..turned_rows).flat_map(row).collect()
    }

    /// The image 1 2 3 / 4 5 6 after the turn.
    fn check(directions: &str, laterality: Option<Laterality>, to: Orientation, expected: Option<[f32; 6]>) {
        let got = turn(directions, laterality, to).ok().map(|turn| turned(turn, &[1., 2., 3., 4., 5., 6.], 2, 3));
        assert_eq!(got, expected.map(Vec::from), "{directions} {laterality:?} {to:?}");
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

    /// Every one of the eight ways a frontal or axial image can lie shows the same patient once it is turned.
    #[test]
    fn images_are_turned_from_each_of_the_eight_ways_they_lie() {
        // what is at the upper right, upper left, lower right, lower left corner of the patient
        let upright = [1., 2., 3., 4.];
        let far = |d: u8| match d {
            b'L' => (b'R', b'L'),
            b'R' => (b'L', b'R'),
            b'F' => (b'H', b'F'),
            b'H' => (b'F', b'H'),
            b'P' => (b'A', b'P'),
            _ => (b'P', b'A'),
        };
        let at = |x: u8, down: u8| upright[2 * usize::from(b"FP".contains(&down)) + usize::from(x == b'L')];
        let frontal = ["L\\F", "R\\F", "L\\H", "R\\H", "F\\L", "F\\R", "H\\L", "H\\R"];
        let axial = ["L\\P", "R\\P", "L\\A", "R\\A", "P\\L", "P\\R", "A\\L", "A\\R"];
        for directions in frontal.into_iter().chain(axial) {
            let (r, c) = (far(directions.as_bytes()[0]), far(directions.as_bytes()[2]));
            let corner = |right: u8, down: u8| if b"LR".contains(&right) { at(right, down) } else { at(down, right) };
            let image = [corner(r.0, c.0), corner(r.1, c.0), corner(r.0, c.1), corner(r.1, c.1)];
            let turn = turn(directions, None, Orientation::PatientOrientation).expect("an image with left and right");
            assert_eq!(turned(turn, &image, 2, 2), upright, "{directions}");
        }
        check("", None, Orientation::PatientOrientation, Some([1., 2., 3., 4., 5., 6.]));
        check("F\\L", None, Orientation::PatientOrientation, Some([1., 4., 2., 5., 3., 6.]));
        check("A\\F", None, Orientation::PatientOrientation, None);
    }

    #[test]
    fn cross_sections_lie_as_their_image_orientation_says() {
        let turned = |mirrored, upended, exchanged| Some(Turn { exchanged, mirrored, upended });
        let rows: [([f64; 6], &[&str], Option<Turn>); 6] = [
            ([1., 0., 0., 0., 1., 0.], &[], turned(false, false, false)),
            ([-1., 0., 0., 0., -1., 0.], &[], turned(true, true, false)),
            ([0.99, 0.1, 0., 0., 0.1, -0.99], &[], turned(false, false, false)),
            ([0., 0., 1., 1., 0., 0.], &[], turned(false, true, true)),
            ([0., 1., 0., 0., 0., -1.], &[], None),
            ([0., 1., 0., 0., 0., -1.], &["R", "F"], turned(true, false, false)),
        ];
        for (cosines, stated, expected) in rows {
            let stated: Vec<String> = stated.iter().map(|d| (*d).to_owned()).collect();
            let got = Orientation::PatientOrientation.turn(&stated, Some(cosines), None);
            assert_eq!(got.ok(), expected, "{cosines:?} {stated:?}");
            let left = Orientation::LateralityLeft.turn(&[], Some(cosines), Some(Laterality::Left));
            assert_eq!(left, Ok(Turn::default()), "a mammogram has no Image Orientation (Patient) that means anything");
        }
    }
}
