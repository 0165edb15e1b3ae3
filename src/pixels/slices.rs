//! The order of the slices of a volume, by where they lie and not by how they are numbered.
//!
//! Headers of single-frame images or the functional groups of one multi-frame image in, order out. Image Position
//! (Patient) is projected on the normal of Image Orientation (Patient) (PS3.3 C.7.6.2.1.1), so that a tilted gantry,
//! whose positions also move within the plane, is ordered right. Left out: which instances belong together (the study's
//! business), and whether slices are missing in between.

use super::dataset::{Item, Tag};
use crate::domain::{InstanceHeader, Refusal, RefusalCode};

const PLANE_POSITION: Tag = 0x0020_9113;
const PLANE_ORIENTATION: Tag = 0x0020_9116;
const SHARED: Tag = 0x5200_9229;
const PER_FRAME: Tag = 0x5200_9230;

/// Positions nearer than this along the normal are the same slice, mm.
const SAME_SLICE_MM: f64 = 0.01;
/// Cosine of the angle within which normals agree, and the error of a direction cosine: headers round to five digits.
const PARALLEL: f64 = 0.9999;
const COSINE_TOLERANCE: f64 = 1e-3;
/// Farther than this from the origin, nothing is a position in a patient, mm.
const POSITION_MAX_MM: f64 = 1e5;

/// Indices of the headers in ascending order along the slice normal: for axial slices from the feet to the head.
///
/// `Inconsistent` where a position or orientation is missing or makes no sense, orientations differ (a localizer among
/// the slices), or two slices lie in one place (a series of several phases or reconstructions).
pub fn slice_order(headers: &[&InstanceHeader]) -> Result<Vec<usize>, Refusal> {
    order(headers.iter().map(|h| (h.image.position, h.image.orientation)))
}

/// Indices of the frames of a multi-frame image, in the order of [`slice_order`] where Plane Position and Plane
/// Orientation (PS3.3 C.7.6.16.2.3, .4) say where each lies, else as they are stored.
pub fn frame_order(root: &Item, frames: u32) -> Vec<u32> {
    let places = (0..frames as usize).map(|index| {
        let position = macro_of(root, index, PLANE_POSITION).and_then(position);
        (position, orientation_of_frame(root, index))
    });
    match order(places) {
        Ok(order) => order.into_iter().filter_map(|index| u32::try_from(index).ok()).collect(),
        Err(_) => (0..frames).collect(),
    }
}

/// Image Position (Patient) of an image or of its Plane Position.
pub fn position(item: &Item) -> Option<[f64; 3]> {
    item.decimals(0x0020_0032)?.try_into().ok()
}

/// Image Orientation (Patient) of an image or of its Plane Orientation.
pub fn orientation(item: &Item) -> Option<[f64; 6]> {
    item.decimals(0x0020_0037)?.try_into().ok()
}

/// Image Orientation (Patient) of the frame with this index, from 0: its own, the shared one, that of the image.
pub fn orientation_of_frame(root: &Item, index: usize) -> Option<[f64; 6]> {
    macro_of(root, index, PLANE_ORIENTATION).map_or_else(|| orientation(root), orientation)
}

/// A functional group macro of the frame, else the shared one.
fn macro_of(root: &Item, index: usize, tag: Tag) -> Option<&Item> {
    let of_frame = root.items(PER_FRAME).get(index).and_then(|group| group.items(tag).first());
    of_frame.or_else(|| root.items(SHARED).first()?.items(tag).first())
}

fn order(places: impl Iterator<Item = (Option<[f64; 3]>, Option<[f64; 6]>)>) -> Result<Vec<usize>, Refusal> {
    let mut along = Vec::new();
    let mut first: Option<[f64; 3]> = None;
    for (index, place) in places.enumerate() {
        let (position, orientation) = match place {
            (Some(position), Some(orientation)) => (position, orientation),
            (None, _) => {
                return fail("Image Position (Patient) (0020,0032) of a slice is missing or is not three numbers");
            }
            (_, None) => {
                return fail("Image Orientation (Patient) (0020,0037) of a slice is missing or is not six numbers");
            }
        };
        let Some(normal) = normal(orientation) else {
            return fail("Image Orientation (Patient) (0020,0037) of a slice is not two unit vectors at a right angle");
        };
        if position.iter().any(|p| p.abs() > POSITION_MAX_MM) {
            return fail("Image Position (Patient) (0020,0032) of a slice is out of this world");
        }
        let reference = *first.get_or_insert(normal);
        if dot(reference, normal) < PARALLEL {
            return fail("Image Orientation (Patient) (0020,0037) differs between slices");
        }
        along.push((dot(reference, position), index));
    }
    along.sort_by(|a, b| a.0.total_cmp(&b.0));
    if along.windows(2).any(|pair| pair[1].0 - pair[0].0 < SAME_SLICE_MM) {
        return fail("two slices have the same Image Position (Patient) (0020,0032) along the normal");
    }
    Ok(along.into_iter().map(|(_, index)| index).collect())
}

/// Rows × columns, if they are unit vectors at a right angle.
fn normal(orientation: [f64; 6]) -> Option<[f64; 3]> {
    let [a, b, c, d, e, f] = orientation;
    let (row, column) = ([a, b, c], [d, e, f]);
    let unit = |v: [f64; 3]| (dot(v, v).sqrt() - 1.0).abs() < COSINE_TOLERANCE;
    let sound = unit(row) && unit(column) && dot(row, column).abs() < COSINE_TOLERANCE;
    sound.then_some([b * f - c * e, c * d - a * f, a * e - b * d])
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn fail<T>(detail: &str) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalCode::Inconsistent, detail))
}

#[cfg(test)]
mod tests {
    use super::super::header::header_of;
    use super::super::tests::objects::{EXPLICIT, Encoding, Image, Object, scan};
    use super::*;
    use proptest::prelude::*;

    const AXIAL: [f64; 6] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];

    fn headers(slices: &[(Option<[f64; 3]>, Option<[f64; 6]>)]) -> Vec<InstanceHeader> {
        let file = Image::default().object(Encoding::Explicit).file(EXPLICIT);
        let plain = header_of(&scan(file).expect("a sound object")).expect("a header");
        let with = |(position, orientation): &(Option<[f64; 3]>, Option<[f64; 6]>)| {
            let mut header = plain.clone();
            (header.image.position, header.image.orientation) = (*position, *orientation);
            header
        };
        slices.iter().map(with).collect()
    }

    fn check(slices: &[(Option<[f64; 3]>, Option<[f64; 6]>)], expected: Option<&[usize]>) {
        let headers = headers(slices);
        let order = slice_order(&headers.iter().collect::<Vec<_>>());
        assert_eq!(order.as_deref().ok(), expected, "{slices:?}");
    }

    #[test]
    fn slices_are_ordered_along_their_normal_or_refused() {
        let at = |x, y, z| (Some([x, y, z]), Some(AXIAL));
        check(&[], Some(&[]));
        check(&[at(0., 0., 5.)], Some(&[0]));
        check(&[at(0., 0., 5.), at(0., 0., -5.), at(0., 0., 0.)], Some(&[1, 2, 0]));
        check(&[at(0., 0., 5.), at(9., 9., 5.)], None);
        check(&[at(0., 0., 5.), (None, Some(AXIAL))], None);
        check(&[at(0., 0., 5.), (Some([0., 0., 1.]), None)], None);
        check(&[at(0., 0., 5.), (Some([0., 0., 1.]), Some([1., 0., 0., 0., 0., -1.]))], None);
        check(&[(Some([0., 0., 1.]), Some([1., 0., 0., 1., 0., 0.]))], None);
        check(&[(Some([0., 0., 1.]), Some([0.; 6]))], None);
        check(&[at(0., 0., 1e300)], None);
        // sagittal: rows to the back, columns to the feet, the normal to the right
        let sagittal = Some([0., 1., 0., 0., 0., -1.]);
        check(&[(Some([3., 0., 0.]), sagittal), (Some([-3., 0., 0.]), sagittal)], Some(&[0, 1]));
    }

    #[test]
    fn frames_are_ordered_by_their_plane_positions_or_stay_as_stored() {
        let new = || Object::new(Encoding::Explicit);
        let place = |z: &str| new().sequence(PLANE_POSITION, new().text(0x0020_0032, "DS", &format!("0\\0\\{z}")));
        let axial = new().sequence(PLANE_ORIENTATION, new().text(0x0020_0037, "DS", "1\\0\\0\\0\\1\\0"));
        let order = |groups: Vec<Object>| {
            let count = groups.len() as u32;
            let object = Image::default().object(Encoding::Explicit);
            let groups = new().sequence(SHARED, axial.clone()).items(PER_FRAME, groups);
            frame_order(&scan(object.raw(&groups.bytes).file(EXPLICIT)).expect("a sound object").root, count)
        };
        assert_eq!(order(["5", "-5", "9", "0"].map(place).into()), [1, 3, 0, 2]);
        assert_eq!(order(["5", "5", "9"].map(place).into()), [0, 1, 2], "two in one place");
        assert_eq!(order(vec![place("5"), new(), place("1")]), [0, 1, 2], "one has no place");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Gantry tilt: the table moves along z, the planes are tilted about x.
        #[test]
        fn a_tilted_gantry_is_ordered_as_the_table_moved(tilt in -30f64..30.0, step in 0.1f64..10.0, seed in any::<u64>()) {
            let (sin, cos) = tilt.to_radians().sin_cos();
            let tilted = Some([1.0, 0.0, 0.0, 0.0, cos, sin]);
            let mut table: Vec<u64> = (0..20).collect();
            table.sort_by_key(|i| (i + 1).wrapping_mul(seed | 1).rotate_left(17));
            let slices: Vec<_> = table.iter().map(|i| (Some([0.0, 100.0, *i as f64 * step]), tilted)).collect();
            let headers = headers(&slices);
            let order = slice_order(&headers.iter().collect::<Vec<_>>()).expect("slices of one volume");
            prop_assert!(order.iter().map(|i| table[*i]).eq(0..20));
        }
    }
}
