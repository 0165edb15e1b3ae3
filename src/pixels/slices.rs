//! The order of the slices of a volume, by where they lie and not by how they are numbered.
//!
//! Pure: headers in, order out. Image Position (Patient) is projected on the normal of Image Orientation (Patient)
//! (PS3.3 C.7.6.2.1.1), so that a tilted gantry, whose positions also move within the plane, is ordered right. Left out:
//! which instances belong together (the study's business), and whether slices are missing in between.

use crate::domain::{InstanceHeader, Refusal, RefusalCode};

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
    let mut along = Vec::with_capacity(headers.len());
    let mut first: Option<[f64; 3]> = None;
    for (index, header) in headers.iter().enumerate() {
        let (position, orientation) = match (header.image.position, header.image.orientation) {
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
    use super::super::tests::objects::{EXPLICIT, Encoding, Image, scan};
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
