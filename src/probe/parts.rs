//! Predictions of a run, in parts that survive a kill: one Parquet file for each handful of images.
//!
//! A part is written aside and renamed, so that what is there is whole; whoever goes on skips it. Parts of several
//! shards lie in one folder or are brought together by [`merge`]. Neighbours: `scoring` makes parts, `rows` read all of
//! them. Left out: what the predictions come to.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::RowAccessor;
use parquet::schema::parser::parse_message_type;

use super::cohort::Cohort;

/// Images of a part, and of a batch where what is done to one depends on the others.
pub(super) const IMAGES: usize = 32;

/// What was asked: every variant of every model. The order is that of a part's predictions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Asked {
    /// Of a race model's or clinical model's package, with the keys of its outputs.
    pub models: Vec<(String, Vec<String>)>,
    pub variants: Vec<String>,
}

/// What models said of the images of a part; `None` of an image that could not be read, or of a variant that it has
/// not.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Said {
    /// Image, variant, model.
    pub(super) outputs: BTreeMap<(usize, usize, usize), Vec<f64>>,
    /// Images that could not be used, and why.
    pub(super) refused: BTreeMap<usize, String>,
}

/// All predictions of a run: by model and variant, an image's outputs at its place times the outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    pub asked: Asked,
    images: usize,
    /// By model, then variant: nothing, or an image's outputs at its place times their number, NaN where there are
    /// none.
    values: Vec<Vec<Vec<f32>>>,
    /// Images that could not be used, and why.
    pub refused: BTreeMap<usize, String>,
}

const SCHEMA: &str = "message predictions {
    required int32 image; required binary file (UTF8); required binary patient (UTF8); required binary study (UTF8);
    required binary group (UTF8); required binary split (UTF8); required binary variant (UTF8);
    required binary model (UTF8); required binary output (UTF8); required double probability; }";

/// Where the part with this number is.
pub(super) fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join("parts").join(format!("{number:06}.parquet"))
}

/// How many parts so many images have.
pub(super) fn count(images: usize) -> usize {
    images.div_ceil(IMAGES)
}

/// One line of the file.
struct Line<'a> {
    image: usize,
    variant: &'a str,
    model: &'a str,
    output: String,
    probability: f64,
}

/// Whose predictions they are.
pub(super) struct Whose<'a> {
    pub(super) cohort: &'a Cohort,
    /// Keys of the race model.
    pub(super) groups: &'a [String],
}

/// Writes a part and gives it its place.
pub(super) fn write(folder: &Path, number: usize, whose: &Whose<'_>, asked: &Asked, said: &Said) -> anyhow::Result<()> {
    let path = path(folder, number);
    let context = || format!("{} cannot be written", path.display());
    std::fs::create_dir_all(folder.join("parts")).with_context(context)?;
    let mut lines = Vec::new();
    for ((image, variant, model), outputs) in &said.outputs {
        let (model, keys) = &asked.models[*model];
        let variant = &asked.variants[*variant];
        let of = |(output, p): (&'_ String, &f64)| (output.clone(), *p);
        let values = keys.iter().zip(outputs).map(of);
        lines.extend(values.map(|(output, probability)| Line { image: *image, variant, model, output, probability }));
    }
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    let file = File::create(&aside).with_context(context)?;
    let mut writer = table(file, &said.refused).with_context(context)?;
    add(&mut writer, &lines, whose).with_context(context)?;
    writer.into_inner().with_context(context)?.sync_all().with_context(context)?;
    std::fs::rename(&aside, &path).with_context(context)
}

/// A Parquet file without lines; what images were refused for is in its metadata.
fn table(file: File, refused: &BTreeMap<usize, String>) -> anyhow::Result<SerializedFileWriter<File>> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let refused = KeyValue { key: REFUSED.to_owned(), value: Some(serde_json::to_string(refused)?) };
    let properties =
        WriterProperties::builder().set_compression(Compression::SNAPPY).set_key_value_metadata(Some(vec![refused]));
    Ok(SerializedFileWriter::new(file, schema, Arc::new(properties.build()))?)
}

/// Adds a group of rows.
fn add(writer: &mut SerializedFileWriter<File>, lines: &[Line], whose: &Whose<'_>) -> anyhow::Result<()> {
    let mut group = writer.next_row_group()?;
    let image = |line: &Line| &whose.cohort.images[line.image];
    let numbers: Vec<i32> = lines.iter().map(|line| i32::try_from(line.image)).collect::<Result<_, _>>()?;
    let mut column = group.next_column()?.context("a schema has columns")?;
    column.typed::<Int32Type>().write_batch(&numbers, None, None)?;
    column.close()?;
    let texts: [&dyn Fn(&Line) -> String; 8] = [
        &|line| image(line).name.clone(),
        &|line| image(line).patient.clone(),
        &|line| image(line).study.clone(),
        &|line| whose.groups[image(line).group].clone(),
        &|line| image(line).part.as_str().to_owned(),
        &|line| line.variant.to_owned(),
        &|line| line.model.to_owned(),
        &|line| line.output.clone(),
    ];
    for text in texts {
        let values: Vec<ByteArray> = lines.iter().map(|line| ByteArray::from(text(line).into_bytes())).collect();
        let mut column = group.next_column()?.context("a schema has columns")?;
        column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
        column.close()?;
    }
    let probabilities: Vec<f64> = lines.iter().map(|line| line.probability).collect();
    let mut column = group.next_column()?.context("a schema has columns")?;
    column.typed::<DoubleType>().write_batch(&probabilities, None, None)?;
    column.close()?;
    group.close()?;
    Ok(())
}

const REFUSED: &str = "sidelight.refused";

impl Predictions {
    pub(super) fn empty(asked: &Asked, images: usize) -> Self {
        let values = asked.models.iter().map(|_| vec![Vec::new(); asked.variants.len()]).collect();
        Self { asked: asked.clone(), images, values, refused: BTreeMap::new() }
    }

    /// Reads all parts of a run.
    ///
    /// # Errors
    /// A part is missing or is not of this run.
    pub fn read(folder: &Path, asked: &Asked, images: usize) -> anyhow::Result<Self> {
        let missing: Vec<usize> = (0..count(images)).filter(|number| !path(folder, *number).exists()).collect();
        ensure!(
            missing.is_empty(),
            "{} of {} parts are missing in {}: go on with --resume, or merge the other shards",
            missing.len(),
            count(images),
            folder.display()
        );
        let mut all = Self::empty(asked, images);
        for number in 0..count(images) {
            let path = path(folder, number);
            all.take(&path).with_context(|| format!("{} is not of this run", path.display()))?;
        }
        Ok(all)
    }

    fn take(&mut self, path: &Path) -> anyhow::Result<()> {
        let reader = SerializedFileReader::new(File::open(path)?)?;
        let metadata = reader.metadata().file_metadata();
        let refused = metadata.key_value_metadata().into_iter().flatten().find(|pair| pair.key == REFUSED);
        let refused = refused.and_then(|pair| pair.value.as_deref()).context("it does not say what was refused")?;
        let refused: BTreeMap<usize, String> = serde_json::from_str(refused)?;
        self.refused.extend(refused);
        let place = |names: &[String]| names.iter().cloned().zip(0..).collect::<HashMap<String, usize>>();
        let variants = place(&self.asked.variants);
        let models: HashMap<String, (usize, HashMap<String, usize>)> = self
            .asked
            .models
            .iter()
            .enumerate()
            .map(|(m, (key, outputs))| (key.clone(), (m, place(outputs))))
            .collect();
        for row in reader.get_row_iter(None)? {
            let row = row?;
            let image = usize::try_from(row.get_int(0)?)?;
            ensure!(image < self.images, "it has image {image}");
            let variant = *variants.get(row.get_string(6)?).context("another variant")?;
            let (model, outputs) = models.get(row.get_string(7)?).context("another model")?;
            let output = *outputs.get(row.get_string(8)?).context("another output")?;
            self.put(*model, variant, image * outputs.len() + output, row.get_double(9)?);
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

    /// All predictions in one Parquet file, a group of rows for each model and variant.
    pub(super) fn write(&self, path: &Path, whose: &Whose<'_>) -> anyhow::Result<()> {
        let context = || format!("{} cannot be written", path.display());
        let file = File::create(path).with_context(context)?;
        let mut writer = table(file, &self.refused).with_context(context)?;
        for (m, (model, outputs)) in self.asked.models.iter().enumerate() {
            for (v, variant) in self.asked.variants.iter().enumerate() {
                let mut lines = Vec::new();
                for (image, values) in self.of(m, v).enumerate() {
                    let values = outputs.iter().zip(values.into_iter().flatten());
                    let of = |(output, p): (&String, &f32)| (output.clone(), f64::from(*p));
                    let values = values.map(of);
                    lines.extend(values.map(|(output, probability)| Line {
                        image,
                        variant,
                        model,
                        output,
                        probability,
                    }));
                }
                if !lines.is_empty() {
                    add(&mut writer, &lines, whose).with_context(context)?;
                }
            }
        }
        writer.into_inner().with_context(context)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn parts_read_back_what_was_written_and_missing_ones_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let cohort = cohort(40);
        let groups = ["g".to_owned(), "h".to_owned()];
        let whose = Whose { cohort: &cohort, groups: &groups };
        write(folder.path(), 0, &whose, &asked(), &said(0..32)).unwrap();
        let error = Predictions::read(folder.path(), &asked(), 40).unwrap_err().to_string();
        assert!(error.contains("1 of 2 parts are missing"), "{error}");
        let mut last = said(32..39);
        last.refused.insert(39, "no image".into());
        write(folder.path(), 1, &whose, &asked(), &last).unwrap();
        let all = Predictions::read(folder.path(), &asked(), 40).unwrap();
        let outputs: Vec<Option<Vec<f32>>> = all.of(0, 0).map(|v| v.map(<[f32]>::to_vec)).collect();
        assert_eq!((outputs[32].as_deref(), &outputs[39], outputs.len()), (Some(&[0.5f32, 0.5][..]), &None, 40));
        assert_eq!((all.of(1, 1).flatten().count(), all.of(1, 0).flatten().count()), (39, 0));
        assert_eq!(all.refused[&39], "no image");
        let whole = folder.path().join("predictions.parquet");
        all.write(&whole, &whose).unwrap();
        let table = crate::probe::tables::Table::read(&whole).unwrap();
        assert_eq!((table.rows.len(), &table.columns[5..7]), (39 * 3, &["split".to_owned(), "variant".to_owned()][..]));
        assert_eq!(table.rows[0], ["0", "0.png", "p0", "0.png", "g", "test", "original", "r@1#0", "a", "0"]);
    }

    #[test]
    fn parts_of_another_run_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cohort = cohort(4);
        let groups = ["g".to_owned(), "h".to_owned()];
        write(folder.path(), 0, &Whose { cohort: &cohort, groups: &groups }, &asked(), &said(0..4)).unwrap();
        let other = Asked { variants: vec!["original".into()], ..asked() };
        let error = format!("{:#}", Predictions::read(folder.path(), &other, 4).unwrap_err());
        assert!(error.contains("is not of this run") && error.contains("another variant"), "{error}");
        std::fs::write(path(folder.path(), 0), b"PAR1 and nothing").unwrap();
        assert!(Predictions::read(folder.path(), &asked(), 4).is_err());
    }
}
