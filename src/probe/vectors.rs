//! Vectors of images, in parts that survive a kill: grey values, features of a network, maps of what is salient.
//!
//! A part is a safetensors file with the vectors of up to [`IMAGES`] images: `image`, their numbers in the cohort, and
//! `values`, a row of 32-bit numbers for each. Images that cannot be read are in none. Neighbours: `features` and
//! `scoring` make vectors, `confounders` and `pictures` read them one by one. Left out: predictions (`parts`).

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::files;
use super::parts::{self, IMAGES};

/// Folder of all vectors of a run.
pub(super) const FOLDER: &str = "features";
const IMAGE: &str = "image";
const VALUES: &str = "values";

/// Vectors of the images of a part.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Vectors {
    /// Ascending numbers in the cohort.
    pub(super) images: Vec<usize>,
    /// One after the other, all of the same length.
    pub(super) values: Vec<f32>,
}

impl Vectors {
    pub(super) fn push(&mut self, image: usize, vector: impl IntoIterator<Item = f32>) {
        self.images.push(image);
        self.values.extend(vector);
    }

    fn width(&self) -> usize {
        self.values.len().checked_div(self.images.len()).unwrap_or(0)
    }

    /// Each image with its vector.
    fn rows(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.images.iter().copied().zip(self.values.chunks_exact(self.width().max(1)))
    }
}

/// Where the part with this number of a set of vectors is.
pub(super) fn path(folder: &Path, set: &str, number: usize) -> PathBuf {
    folder.join(FOLDER).join(set).join(format!("{number:06}.safetensors"))
}

/// Whether all parts of so many images are there.
pub(super) fn is_whole(folder: &Path, set: &str, images: usize) -> bool {
    (0..parts::count(images)).all(|number| path(folder, set, number).exists())
}

pub(super) fn write(path: &Path, vectors: &Vectors) -> anyhow::Result<()> {
    let numbers = vectors.images.iter().map(|image| i32::try_from(*image)).collect::<Result<Vec<i32>, _>>()?;
    let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let values: Vec<u8> = vectors.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let images = vectors.images.len();
    let tensors = [
        (IMAGE, TensorView::new(Dtype::I32, vec![images], &numbers)?),
        (VALUES, TensorView::new(Dtype::F32, vec![images, vectors.width()], &values)?),
    ];
    files::write(path, &safetensors::serialize(tensors, None)?)
}

/// Gives every vector of a set to `take`, by ascending numbers of its images, which are among these, and tells how long
/// vectors are. Memory holds one part.
///
/// # Errors
/// A part is missing or damaged, or is of other images.
pub(super) fn each(
    folder: &Path,
    set: &str,
    images: &[usize],
    mut take: impl FnMut(usize, &[f32]),
) -> anyhow::Result<usize> {
    let mut width = 0;
    for (number, own) in images.chunks(IMAGES).enumerate() {
        let path = path(folder, set, number);
        let part = read(&path, own).with_context(|| format!("{} is not of this run", path.display()))?;
        if part.images.is_empty() {
            continue;
        }
        ensure!(width == 0 || part.width() == width, "{} has other vectors than the part before", path.display());
        width = part.width();
        part.rows().for_each(|(image, vector)| take(image, vector));
    }
    Ok(width)
}

/// A part, whose images are among these.
fn read(path: &Path, among: &[usize]) -> anyhow::Result<Vectors> {
    let bytes = std::fs::read(path)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let (numbers, values) = (tensors.tensor(IMAGE)?, tensors.tensor(VALUES)?);
    ensure!(numbers.dtype() == Dtype::I32 && values.dtype() == Dtype::F32, "its numbers are of another type");
    let fits = numbers.shape().len() == 1 && values.shape().len() == 2 && values.shape()[0] == numbers.shape()[0];
    ensure!(fits && (values.shape()[1] > 0 || numbers.shape()[0] == 0), "it is of another shape");
    let four = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).unwrap_or_default();
    let images = numbers.data().chunks_exact(4).map(|number| usize::try_from(i32::from_le_bytes(four(number))));
    let images: Vec<usize> = images.collect::<Result<_, _>>()?;
    let values: Vec<f32> = values.data().chunks_exact(4).map(|value| f32::from_le_bytes(four(value))).collect();
    ensure!(images.is_sorted_by(|a, b| a < b), "its images are in no order");
    ensure!(images.iter().all(|image| among.contains(image)), "it has other images");
    ensure!(values.iter().all(|value| value.is_finite()), "a number is not finite");
    Ok(Vectors { images, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_read_back_in_the_order_of_their_images_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        // Every other image of a cohort, of which one cannot be read.
        let images: Vec<usize> = (0..40).map(|i| 2 * i).collect();
        let part = |places: std::ops::Range<usize>| {
            let mut part = Vectors::default();
            images[places].iter().filter(|i| **i != 6).for_each(|i| part.push(*i, [*i as f32, 0.25]));
            part
        };
        let place = |number: usize| path(folder.path(), "set", number);
        write(&place(0), &part(0..32)).unwrap();
        assert!(!is_whole(folder.path(), "set", 40) && is_whole(folder.path(), "set", 32));
        write(&place(1), &part(32..40)).unwrap();
        let mut found = Vec::new();
        let width = each(folder.path(), "set", &images, |image, vector| found.push((image, vector.to_vec()))).unwrap();
        let expected: Vec<(usize, Vec<f32>)> =
            images.iter().filter(|i| **i != 6).map(|i| (*i, vec![*i as f32, 0.25])).collect();
        assert!(width == 2 && is_whole(folder.path(), "set", 40));
        assert_eq!(found, expected);

        let refused = |part: &Vectors, says: &str| {
            write(&place(1), part).unwrap();
            let error = format!("{:#}", each(folder.path(), "set", &images, |_, _| {}).unwrap_err());
            assert!(error.contains(says), "{error}");
        };
        refused(&part(0..8), "it has other images");
        refused(&Vectors { images: vec![64], values: vec![1.0] }, "other vectors than the part before");
        refused(&Vectors { images: vec![64], values: vec![1.0, f32::NAN] }, "not finite");
        refused(&Vectors { images: vec![66, 64], values: vec![1.0; 4] }, "no order");
        std::fs::write(place(1), b"half").unwrap();
        assert!(each(folder.path(), "set", &images, |_, _| {}).is_err());
        // A part of which no image can be read has no vectors.
        write(&place(1), &Vectors::default()).unwrap();
        assert_eq!(each(folder.path(), "set", &images, |_, _| {}).unwrap(), 2);
    }
}
