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
    /// Projections: turned so that rows run to the patient's left and columns to the feet, where Patient Orientation
    /// says that they do not. As stored without Patient Orientation; refused where the image has no left and right.
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
    /// The turn for an image with these values of Patient Orientation (none if absent) and this side; a refusal where
    /// they do not say how it lies.
    pub fn turn(self, directions: &[String], laterality: Option<Laterality>) -> Result<Turn, Refusal> {
        match self {
            Orientation::AsStored => Ok(Turn::default()),
            Orientation::LateralityLeft => chest_wall_left(directions, laterality),
            Orientation::PatientOrientation => upright(directions),
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
        _ => refuse("Patient Orientation (0020,0020) has no right and left beside head and feet"),
    }
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
        to.turn(&directions, laterality)
    }

    /// The image 1 2 3 / 4 5 6 after the turn.
    fn check(directions: &str, laterality: Option<Laterality>, to: Orientation, expected: Option<[f32; 6]>) {
        let image = [1., 2., 3., 4., 5., 6.];
        let got = turn(directions, laterality, to).ok().map(|turn| {
            let (rows, columns) = turn.size(2, 3);
            let at = |row, column| {
                let (start, step) = turn.walk(row, 2, 3);
                image[start.strict_add_signed(step * column as isize)]
            };
            (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| at(r, c)).collect()
        });
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
        for (row, column) in
            ["L\\F", "R\\F", "L\\H", "R\\H", "F\\L", "F\\R", "H\\L", "H\\R"].map(|d| (d.as_bytes()[0], d.as_bytes()[2]))
        {
            let (r, c) = (far(row), far(column));
            let corner = |right: u8, down: u8| if b"LR".contains(&right) { at(right, down) } else { at(down, right) };
            let image = vec![corner(r.0, c.0), corner(r.1, c.0), corner(r.0, c.1), corner(r.1, c.1)];
            let directions = format!("{}\\{}", char::from(row), char::from(column));
            let turn = turn(&directions, None, Orientation::PatientOrientation).expect("a frontal image");
            assert_eq!(turn.apply(image, 2, 2).0, upright, "{directions}");
        }
        check("", None, Orientation::PatientOrientation, Some([1., 2., 3., 4., 5., 6.]));
        check("F\\L", None, Orientation::PatientOrientation, Some([1., 4., 2., 5., 3., 6.]));
        check("A\\F", None, Orientation::PatientOrientation, None);
        check("L\\P", None, Orientation::PatientOrientation, None);
    }
}
