//! Predictions of a run, in parts that survive a kill: one Parquet file for each handful of images.
//!
//! What is there is whole; whoever goes on skips it. Parts of several shards lie in one folder or are brought together
//! by `merge`. Neighbours: `scoring` makes parts, `lines` is their format, `rows` read all of them. Left out: what the
//! predictions come to.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::files;
use super::lines::{self, Lines, Of, Refused, Whose};

/// Images of a part, and of a batch where what is done to one depends on the others.
pub(super) const IMAGES: usize = 32;

/// What was asked: every variant of every model. The order is that of a part's predictions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Asked {
    /// Of a race model's or clinical model's package, with the keys of its outputs.
    pub models: Vec<(String, Vec<String>)>,
    pub variants: Vec<String>,
}

/// What models said of the images of a part, which are places among those that are scored; nothing of an image that
/// could not be read, or of a variant that it has not.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Said {
    /// Image, variant, model.
    pub(super) outputs: BTreeMap<(usize, usize, usize), Vec<f64>>,
    pub(super) refused: Refused,
    /// By race model, then image: what is salient to it.
    pub(super) maps: BTreeMap<(usize, usize), Vec<f32>>,
}

/// All predictions of a run: by model and variant, an image's outputs at its place times the outputs. Takes 4 bytes for
/// each image, variant and output.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    pub asked: Asked,
    images: usize,
    /// By model, then variant: nothing, or an image's outputs at its place times their number, NaN where there are
    /// none.
    values: Vec<Vec<Vec<f32>>>,
    /// Images that could not be used, by place, and why.
    pub refused: BTreeMap<usize, String>,
    /// Those that some model could not.
    pub partly: BTreeMap<usize, String>,
}

/// Where the part with this number is.
pub(super) fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join("parts").join(format!("{number:06}.parquet"))
}

/// How many parts so many images have.
pub(super) fn count(images: usize) -> usize {
    images.div_ceil(IMAGES)
}

/// Writes a part of the images with these numbers in the cohort.
pub(super) fn write(
    folder: &Path,
    number: usize,
    whose: Whose<'_>,
    images: &[usize],
    asked: &Asked,
    said: &Said,
) -> anyhow::Result<()> {
    let of = of(asked);
    let numbers = |of: &BTreeMap<usize, String>| of.iter().map(|(at, why)| (images[*at], why.clone())).collect();
    let refused = Refused { wholly: numbers(&said.refused.wholly), partly: numbers(&said.refused.partly) };
    files::place(&path(folder, number), |file| {
        let mut lines = Lines::new(file, whose, &refused)?;
        for ((image, variant, model), outputs) in &said.outputs {
            for (of, value) in of[*model][*variant].iter().zip(outputs) {
                lines.add(images[*image], of, *value)?;
            }
        }
        lines.end()
    })
}

/// What lines are of, by model, variant and output.
fn of(asked: &Asked) -> Vec<Vec<Vec<Of>>> {
    let of_model = |(model, outputs): &(String, Vec<String>)| {
        let of_variant =
            |variant: &String| outputs.iter().map(|output| Of::new(variant, model, output)).collect::<Vec<_>>();
        asked.variants.iter().map(of_variant).collect()
    };
    asked.models.iter().map(of_model).collect()
}

impl Predictions {
    pub(super) fn empty(asked: &Asked, images: usize) -> Self {
        let values = asked.models.iter().map(|_| vec![Vec::new(); asked.variants.len()]).collect();
        Self { asked: asked.clone(), images, values, refused: BTreeMap::new(), partly: BTreeMap::new() }
    }

    /// Reads all parts of a run on the images with these ascending numbers in the cohort.
    ///
    /// # Errors
    /// A part is missing or is not of this run.
    pub fn read(folder: &Path, asked: &Asked, images: &[usize]) -> anyhow::Result<Self> {
        let all = count(images.len());
        let missing = (0..all).filter(|number| !path(folder, *number).exists()).count();
        ensure!(
            missing == 0,
            "{missing} of {all} parts are missing in {}: go on with --resume, or merge the other shards",
            folder.display()
        );
        let paths: Vec<PathBuf> = (0..all).map(|number| path(folder, number)).collect();
        Self::read_files(&paths, asked, images)
    }

    pub(super) fn read_files(paths: &[PathBuf], asked: &Asked, images: &[usize]) -> anyhow::Result<Self> {
        let mut all = Self::empty(asked, images.len());
        for path in paths {
            all.take(path, images).with_context(|| format!("{} is not of this run", path.display()))?;
        }
        Ok(all)
    }

    fn take(&mut self, path: &Path, images: &[usize]) -> anyhow::Result<()> {
        let place = |names: &[String]| names.iter().cloned().zip(0..).collect::<HashMap<String, usize>>();
        let variants = place(&self.asked.variants);
        let asked = self.asked.models.iter().enumerate();
        let models: HashMap<String, (usize, HashMap<String, usize>)> =
            asked.map(|(m, (key, outputs))| (key.clone(), (m, place(outputs)))).collect();
        let among = |image: usize| images.binary_search(&image).ok().with_context(|| format!("it has image {image}"));
        let refused = lines::each(path, |image, [variant, model, output], probability| {
            let variant = *variants.get(variant).context("another variant")?;
            let (model, outputs) = models.get(model).context("another model")?;
            let output = *outputs.get(output).context("another output")?;
            self.put(*model, variant, among(image)? * outputs.len() + output, probability);
            Ok(())
        })?;
        for (own, found) in [(&mut self.refused, refused.wholly), (&mut self.partly, refused.partly)] {
            for (image, reason) in found {
                own.insert(among(image)?, reason);
            }
        }
        Ok(())
    }

    fn put(&mut self, model: usize, variant: usize, place: usize, value: f64) {
        let length = self.images * self.asked.models[model].1.len();
        let values = &mut self.values[model][variant];
        values.resize(length, f32::NAN);
        values[place] = value as f32;
    }

    /// Outputs of the model with this place for a variant, image by image.
    pub fn of(&self, model: usize, variant: usize) -> impl Iterator<Item = Option<&[f32]>> {
        let width = self.asked.models[model].1.len();
        let values = &self.values[model][variant];
        (0..self.images).map(move |image| {
            let outputs = values.get(image * width..(image + 1) * width)?;
            outputs.iter().all(|v| v.is_finite()).then_some(outputs)
        })
    }

    /// The place of a variant.
    pub fn variant(&self, name: &str) -> Option<usize> {
        self.asked.variants.iter().position(|variant| variant == name)
    }

    pub(super) fn set(&mut self, model: usize, variant: usize, image: usize, outputs: &[f64]) {
        for (output, value) in outputs.iter().enumerate() {
            self.put(model, variant, image * outputs.len() + output, *value);
        }
    }

    /// Adds all of them to a file; `images` are the numbers of its images in the file's cohort.
    pub(super) fn add(&self, lines: &mut Lines<'_>, images: &[usize]) -> anyhow::Result<()> {
        for (m, of) in of(&self.asked).iter().enumerate() {
            for (v, of) in of.iter().enumerate() {
                for (image, values) in images.iter().zip(self.of(m, v)) {
                    for (of, value) in of.iter().zip(values.into_iter().flatten()) {
                        lines.add(*image, of, f64::from(*value))?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::cohort::Cohort;
    use crate::probe::cohort::fixtures::cohort;

    fn asked() -> Asked {
        let models =
            vec![("r@1#0".to_owned(), vec!["a".to_owned(), "b".to_owned()]), ("c@1#0".to_owned(), vec!["x".into()])];
        Asked { models, variants: vec!["original".into(), "blur 2".into()] }
    }

    fn said(images: std::ops::Range<usize>) -> Said {
        let mut said = Said::default();
        for image in images {
            said.outputs.insert((image, 0, 0), vec![image as f64 / 64.0, 1.0 - image as f64 / 64.0]);
            said.outputs.insert((image, 1, 1), vec![0.5]);
        }
        said
    }

    fn groups() -> Vec<String> {
        ["g", "h"].map(str::to_owned).into()
    }

    fn whose<'a>(cohort: &'a Cohort, groups: &'a [String]) -> Whose<'a> {
        Whose { cohort, groups }
    }

    #[test]
    fn parts_read_back_what_was_written_and_missing_ones_are_told() {
        let folder = tempfile::tempdir().unwrap();
        // Every other image of a cohort is scored.
        let (cohort, groups, images) = (cohort(80), groups(), (0..40).map(|i| 2 * i).collect::<Vec<usize>>());
        let whose = whose(&cohort, &groups);
        write(folder.path(), 0, whose, &images, &asked(), &said(0..32)).unwrap();
        let error = Predictions::read(folder.path(), &asked(), &images).unwrap_err().to_string();
        assert!(error.contains("1 of 2 parts are missing"), "{error}");
        let mut last = said(32..39);
        last.refused.wholly.insert(39, "no image".into());
        last.refused.partly.insert(38, "c: too small".into());
        write(folder.path(), 1, whose, &images, &asked(), &last).unwrap();
        let all = Predictions::read(folder.path(), &asked(), &images).unwrap();
        let outputs: Vec<Option<Vec<f32>>> = all.of(0, 0).map(|v| v.map(<[f32]>::to_vec)).collect();
        assert_eq!((outputs[32].as_deref(), &outputs[39], outputs.len()), (Some(&[0.5f32, 0.5][..]), &None, 40));
        assert_eq!((all.of(1, 1).flatten().count(), all.of(1, 0).flatten().count()), (39, 0));
        assert_eq!((all.refused[&39].as_str(), all.partly[&38].as_str()), ("no image", "c: too small"));
        let whole = folder.path().join("predictions.parquet");
        files::place(&whole, |file| {
            let mut lines = Lines::new(file, whose, &Refused::default())?;
            all.add(&mut lines, &images)?;
            lines.end()
        })
        .unwrap();
        let table = crate::probe::tables::Table::read(&whole).unwrap();
        assert_eq!((table.rows.len(), &table.columns[5..7]), (39 * 3, &["split".to_owned(), "variant".to_owned()][..]));
        assert_eq!(table.rows[0], ["0", "0.png", "p0", "0.png", "g", "test", "original", "r@1#0", "a", "0"]);
        assert_eq!(table.rows[3][..3], ["2", "2.png", "p2"], "numbers are the cohort's");
    }

    #[test]
    fn parts_of_another_run_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (cohort, groups, images) = (cohort(4), groups(), [0, 1, 2, 3]);
        write(folder.path(), 0, whose(&cohort, &groups), &images, &asked(), &said(0..4)).unwrap();
        let refused = |asked: &Asked, images: &[usize], says: &str| {
            let error = format!("{:#}", Predictions::read(folder.path(), asked, images).unwrap_err());
            assert!(error.contains("is not of this run") && error.contains(says), "{error}");
        };
        refused(&Asked { variants: vec!["original".into()], ..asked() }, &images, "another variant");
        refused(&asked(), &[0, 1, 3], "it has image 2");
        std::fs::write(path(folder.path(), 0), b"PAR1 and nothing").unwrap();
        assert!(Predictions::read(folder.path(), &asked(), &images).is_err());
    }

    #[test]
    fn lines_beyond_a_group_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let (cohort, groups) = (cohort(2), groups());
        let path = folder.path().join("lines.parquet");
        files::place(&path, |file| {
            let mut lines = Lines::new(file, whose(&cohort, &groups), &Refused::default())?;
            let of = [Of::new("original", "m", "a"), Of::new("original", "m", "b")];
            (0..70_000).try_for_each(|i| lines.add(i % 2, &of[i / 2 % 2], i as f64))?;
            lines.end()
        })
        .unwrap();
        let mut sum = 0.0;
        lines::each(&path, |image, [_, _, output], value| {
            let expected = (value as usize % 2, ["a", "b"][value as usize / 2 % 2]);
            assert_eq!((image, output), expected);
            sum += value;
            Ok(())
        })
        .unwrap();
        assert_eq!(sum, (0..70_000).sum::<usize>() as f64);
    }
}
