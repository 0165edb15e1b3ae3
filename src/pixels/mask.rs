//! Masks that come in files beside an image: which part of it is lung, in the plane in which a model sees it.
//!
//! A mask is a set of the image's pixels: a picture of the same shape, or lung segments of a Segmentation
//! (`segmentation`). It lies as the image lies, whatever it says of its own geometry, and takes the image's way into
//! the plane (`normalise::Placement`): turn, crop, padding. Masks and images of data sets: read in this process.
//! Neighbours: `picture` and `prescan` read, `normalise` places. Left out: making masks, and what is done with them;
//! shutters and borders, which contracts mask on their own (`shutter`).

use std::path::Path;

use super::geometry::Geometry;
use super::grey::Grey;
use super::layout::Layout;
use super::normalise::Placement;
use super::{Frames, Limits, picture, prescan, segmentation};
use crate::domain::{Contract, Filter, Refusal, RefusalCode};

/// Of the image that a mask belongs to: what it takes to find the mask's frames and to place them.
pub struct Masked {
    pub rows: usize,
    pub columns: usize,
    pub geometry: Geometry,
    /// SOP Instance UID; a picture has none.
    pub instance: Option<String>,
    /// Number, from 1, of the frame that is masked.
    pub frame: u32,
}

/// The mask of an image in the plane of a contract, row by row: which share of each pixel lies within the mask, 0 to 1.
/// What is padded lies without. Of a multi-frame image the middle frame ([`Frames::Middle`]) is masked.
///
/// The mask is a PNG or JPEG picture, within being what is above half of its range, or a DICOM Segmentation, whose lung
/// segments count as far as their frames refer to the image. Refused, by `the mask: …` or `the image: …`, are also
/// masks of another shape than the image, and those that hold nothing.
pub fn mask_file(mask: &Path, image: &Path, contract: &Contract, limits: &Limits) -> Result<Vec<f32>, Refusal> {
    if let Some(fault) = contract.fault() {
        return Err(inconsistent(format!("contract {}: {fault}", contract.name)));
    }
    let of = |what: &'static str| move |r: Refusal| Refusal { detail: format!("the {what}: {}", r.detail), ..r };
    let image = Masked::read(image, limits).map_err(of("image"))?;
    let placement = Placement::of(image.rows, image.columns, &image.geometry, contract).map_err(of("image"))?;
    let within = within(mask, &image, limits).map_err(of("mask"))?;
    let shares = placement.resized(Filter::Area, |start, step, line| {
        let mut at = start;
        for value in line {
            *value = f32::from(u8::from(within[at]));
            at = at.wrapping_add_signed(step);
        }
    });
    // as in `normalise`
    Ok(shares.into_iter().map(|v| v.clamp(0.0, 1.0)).collect())
}

impl Masked {
    fn read(path: &Path, limits: &Limits) -> Result<Self, Refusal> {
        if let Some((rows, columns)) = picture::size(path, limits)? {
            return Ok(Self { rows, columns, geometry: Geometry::default(), instance: None, frame: 1 });
        }
        let mut scan = prescan::scan(super::open(path)?, limits)?;
        let layout = Layout::of(&mut scan, limits)?;
        let index = Frames::Middle.of(layout.frames).first().copied().unwrap_or(0);
        Ok(Self {
            rows: layout.rows as usize,
            columns: layout.columns as usize,
            geometry: Geometry::of(&scan.root, index as usize),
            instance: scan.root.text(0x0008_0018).or(scan.media_sop_instance),
            frame: index + 1,
        })
    }
}

/// Which pixels of the image lie within the mask, row by row; some do.
fn within(path: &Path, image: &Masked, limits: &Limits) -> Result<Vec<bool>, Refusal> {
    match picture::read(path, limits)? {
        Some(grey) => of_picture(&grey, image),
        None => segmentation::lungs(prescan::scan_segmentation(super::open(path)?, limits)?, image, limits),
    }
}

fn of_picture(grey: &Grey, image: &Masked) -> Result<Vec<bool>, Refusal> {
    let (own, wanted) = ((grey.rows, grey.columns), (image.rows, image.columns));
    if !is_same_shape(own, wanted) {
        let detail = format!("it is {} × {} (rows × columns), the image {} × {}", own.0, own.1, wanted.0, wanted.1);
        return Err(inconsistent(format!("{detail}: draw it in the image's size, or in one of the same aspect ratio")));
    }
    let max = grey.stored_range.map_or(255.0, |(_, max)| max);
    let values = grey.stored.integers().unwrap_or_default();
    let within: Vec<bool> = values.iter().map(|v| 2.0 * f64::from(*v) > max).collect();
    if !within.contains(&true) {
        let highest = values.iter().max().copied().unwrap_or(0);
        let detail = format!("no pixel is above half of its range, the highest is {highest} of {max}");
        return Err(inconsistent(format!("{detail}: write {max} where the lung is")));
    }
    Ok(if own == wanted { within } else { stretched(&within, own, wanted) })
}

/// Whether one of the sizes (rows, columns) is the other times a factor, but for what rounding to whole pixels did to
/// the smaller one.
fn is_same_shape(one: (usize, usize), other: (usize, usize)) -> bool {
    one == other || (one.0 * other.1).abs_diff(one.1 * other.0) < one.0.max(one.1).max(other.0).max(other.1)
}

/// Each pixel of the new size as the one that its centre lies in.
fn stretched(within: &[bool], (rows, columns): (usize, usize), (to_rows, to_columns): (usize, usize)) -> Vec<bool> {
    let across: Vec<usize> = (0..to_columns).map(|c| (2 * c + 1) * columns / (2 * to_columns)).collect();
    let row = |r: usize| &within[(2 * r + 1) * rows / (2 * to_rows) * columns..][..columns];
    (0..to_rows).map(row).flat_map(|row| across.iter().map(|c| row[*c])).collect()
}

fn inconsistent(detail: String) -> Refusal {
    Refusal::new(RefusalCode::Inconsistent, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_the_same_but_for_rounding() {
        let of_image = (2544, 3056);
        let rows = [
            ((2544, 3056), true),
            ((1272, 1528), true),
            // 256 × 307.5
            ((256, 307), true),
            ((256, 308), true),
            ((256, 306), false),
            ((256, 309), false),
            ((5088, 6112), true),
            ((256, 256), false),
            ((3056, 2544), false),
        ];
        for (size, expected) in rows {
            assert_eq!(is_same_shape(size, of_image), expected, "{size:?}");
            assert_eq!(is_same_shape(of_image, size), expected, "{size:?}");
        }
    }
}
