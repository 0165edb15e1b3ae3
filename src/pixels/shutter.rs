//! What a contract hides: display shutters and collimators by their attributes, burned-in borders by their pixels.
//!
//! Shutter and collimator (PS3.3 C.7.6.11, C.8.7.3) name what is visible: rectangles and circles with their edge,
//! polygons by pixel centres; a pixel is hidden if any shape leaves it out. Positions count from 1. A border is found
//! from each side inwards, line by line: rows or columns in which every pixel lies within 1/64 of the image's range
//! from its lowest value, or every pixel within that of its highest. Shutter Presentation Value is not used: hidden
//! pixels take the lowest output. Neighbours: `grey` (reads the shapes), `normalise`. Left out: BITMAP shutters of
//! presentation states, and collimation that the header does not state and that is not a plain border.

use super::dataset::{Item, Tag, tag_text};
use super::grey::Grey;
use crate::domain::{Mask, Refusal, RefusalCode};

/// Vertices of a polygon: the work grows with rows × vertices.
const VERTICES_MAX: usize = 1024;
/// Positions and radii beyond this are no pixels.
const POSITION_MAX: f64 = 1e6;
/// Share of the image's range within which border pixels are black or white.
const BORDER_TOLERANCE: f64 = 1.0 / 64.0;

/// The visible part. Rows and columns from 1.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Rectangle {
        top: f64,
        bottom: f64,
        left: f64,
        right: f64,
    },
    /// The radius counts pixels along the row direction.
    Circle {
        row: f64,
        column: f64,
        radius: f64,
    },
    /// Row and column of each vertex.
    Polygon(Vec<(f64, f64)>),
}

/// The shapes of the frame with this index: display shutter, of the frame before that of the image, and collimator.
pub fn shapes(root: &Item, index: usize) -> Result<Vec<Shape>, Refusal> {
    let of_group = |group: Option<&'_ Item>| group.and_then(|g| g.items(0x0018_9472).first().cloned());
    let frame = of_group(root.items(0x5200_9230).get(index)).or_else(|| of_group(root.items(0x5200_9229).first()));
    let mut shapes = read(frame.as_ref().unwrap_or(root), 0x0018_1600, "Shutter")?;
    shapes.extend(read(root, 0x0018_1700, "Collimator")?);
    Ok(shapes)
}

/// Which pixels the masks hide, row by row; `None` if they hide nothing. Refused if nothing would be left.
pub fn hidden(grey: &Grey, masks: &[Mask]) -> Result<Option<Vec<bool>>, Refusal> {
    if masks.is_empty() {
        return Ok(None);
    }
    let mut hidden = vec![false; grey.rows * grey.columns];
    if masks.contains(&Mask::Shutter) {
        let aspect = grey.geometry.aspect.clone().unwrap_or(1.0);
        for shape in grey.shapes.as_ref().map_err(Refusal::clone)? {
            shape.hide_outside(grey.columns, aspect, &mut hidden);
        }
        if hidden.iter().all(|h| *h) {
            return Err(inconsistent("shutter and collimator leave no pixel of the image".into()));
        }
    }
    if masks.contains(&Mask::Border) {
        hide_border(grey, &mut hidden);
    }
    Ok(hidden.contains(&true).then_some(hidden))
}

impl Shape {
    fn hide_outside(&self, columns: usize, aspect: f64, hidden: &mut [bool]) {
        for (row, line) in hidden.chunks_exact_mut(columns).enumerate() {
            let y = row as f64 + 1.0;
            match self {
                Shape::Rectangle { top, bottom, left, right } => {
                    let inside = (*top..=*bottom).contains(&y);
                    for (column, hidden) in line.iter_mut().enumerate() {
                        *hidden |= !inside || !(*left..=*right).contains(&(column as f64 + 1.0));
                    }
                }
                Shape::Circle { row, column, radius } => {
                    let dy = (y - row) * aspect;
                    for (x, hidden) in line.iter_mut().enumerate() {
                        let dx = x as f64 + 1.0 - column;
                        *hidden |= dx * dx + dy * dy > radius * radius;
                    }
                }
                Shape::Polygon(vertices) => hide_outside_polygon(vertices, y, line),
            }
        }
    }
}

/// Even-odd rule along one row: the edges that it crosses, from left to right, are where inside and outside change.
fn hide_outside_polygon(vertices: &[(f64, f64)], y: f64, line: &mut [bool]) {
    let closed = vertices.iter().zip(vertices.iter().cycle().skip(1));
    let crossing = closed.filter_map(|(a, b)| {
        let crosses = (a.0 <= y) != (b.0 <= y);
        crosses.then(|| a.1 + (y - a.0) / (b.0 - a.0) * (b.1 - a.1))
    });
    let mut crossings: Vec<f64> = crossing.collect();
    crossings.sort_by(f64::total_cmp);
    let mut passed = 0;
    for (column, hidden) in line.iter_mut().enumerate() {
        while crossings.get(passed).is_some_and(|x| *x <= column as f64 + 1.0) {
            passed += 1;
        }
        *hidden |= passed % 2 == 0;
    }
}

/// Hides black and white lines from the four sides inwards, as long as there are any; an image of nothing else stays.
fn hide_border(grey: &Grey, hidden: &mut [bool]) {
    let value = |i: usize| grey.value(i).filter(|_| !hidden[i]);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in (0..hidden.len()).filter_map(value) {
        (low, high) = (low.min(value), high.max(value));
    }
    let near = (high - low) * BORDER_TOLERANCE;
    if near.is_nan() || near <= 0.0 {
        return;
    }
    // what is hidden or padding already belongs to a border of either kind
    let plain = |line: &mut dyn Iterator<Item = usize>| {
        let (mut black, mut white) = (true, true);
        for value in line.filter_map(value) {
            black &= value <= low + near;
            white &= value >= high - near;
            if !black && !white {
                return false;
            }
        }
        true
    };
    let width = grey.columns;
    let (mut top, mut bottom, mut left, mut right) = (0, grey.rows, 0, width);
    loop {
        let before = (top, bottom, left, right);
        let row = |r: usize| r * width + left..r * width + right;
        while top < bottom && plain(&mut row(top)) {
            top += 1;
        }
        while top < bottom && plain(&mut row(bottom - 1)) {
            bottom -= 1;
        }
        let column = |c: usize| (top..bottom).map(move |r| r * width + c);
        while left < right && plain(&mut column(left)) {
            left += 1;
        }
        while left < right && plain(&mut column(right - 1)) {
            right -= 1;
        }
        if top >= bottom || left >= right {
            return;
        }
        if before == (top, bottom, left, right) {
            break;
        }
    }
    for (i, hidden) in hidden.iter_mut().enumerate() {
        *hidden |= !(top..bottom).contains(&(i / width)) || !(left..right).contains(&(i % width));
    }
}

/// The shapes that start at tag `base` of the item: shutter and collimator attributes are laid out alike.
fn read(item: &Item, base: Tag, what: &str) -> Result<Vec<Shape>, Refusal> {
    let numbers = |offset: Tag, name: &str| {
        let tag = base + offset;
        let fail = || inconsistent(format!("{what} {name} {} is missing or no position in the image", tag_text(tag)));
        let numbers = item.decimals(tag).filter(|n| !n.is_empty()).ok_or_else(fail)?;
        if numbers.iter().any(|n| n.abs() > POSITION_MAX) { Err(fail()) } else { Ok(numbers) }
    };
    let one = |offset, name| Ok::<f64, Refusal>(numbers(offset, name)?[0]);
    let names = item.texts(base);
    // VM 1-3: each shape has one set of attributes
    if names.len() > 3 || (1..names.len()).any(|i| names[..i].contains(&names[i])) {
        return Err(inconsistent(format!("{what} Shape {} names a shape twice, or more than three", tag_text(base))));
    }
    let mut shapes = Vec::new();
    for shape in names {
        shapes.push(match shape.to_uppercase().as_str() {
            "" => continue,
            "RECTANGULAR" => Shape::Rectangle {
                left: one(0x2, "Left Vertical Edge")?,
                right: one(0x4, "Right Vertical Edge")?,
                top: one(0x6, "Upper Horizontal Edge")?,
                bottom: one(0x8, "Lower Horizontal Edge")?,
            },
            "CIRCULAR" => match numbers(0x10, "Center")?.as_slice() {
                [row, column] => Shape::Circle { row: *row, column: *column, radius: one(0x12, "Radius")? },
                _ => return Err(inconsistent(format!("{what} Center {} has not two values", tag_text(base + 0x10)))),
            },
            "POLYGONAL" => {
                let numbers = numbers(0x20, "Vertices")?;
                let (pairs, rest) = numbers.as_chunks::<2>();
                if pairs.len() < 3 || pairs.len() > VERTICES_MAX || !rest.is_empty() {
                    let tag = tag_text(base + 0x20);
                    return Err(inconsistent(format!("{what} Vertices {tag} are not 3 to {VERTICES_MAX} pairs")));
                }
                Shape::Polygon(pairs.iter().map(|[row, column]| (*row, *column)).collect())
            }
            other => {
                let detail = format!("{what} Shape {other:.16} is not supported");
                return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
            }
        });
    }
    Ok(shapes)
}

fn inconsistent(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Inconsistent, detail)
}
