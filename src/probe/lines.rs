//! Predictions as lines of a Parquet file: whose image, which change, which model, what it said.
//!
//! Written group by group, so that memory holds one, however many lines there are. Neighbours: `parts` has lines of
//! parts and of whole runs. Left out: which ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
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

/// Lines of a group.
const GROUP: usize = 1 << 16;
const SCHEMA: &str = "message predictions {
    required int32 image; required binary file (UTF8); required binary patient (UTF8); required binary study (UTF8);
    required binary group (UTF8); required binary split (UTF8); required binary variant (UTF8);
    required binary model (UTF8); required binary output (UTF8); required double probability; }";
/// What is read again; all else is the cohort's.
const OWN: &str = "message predictions { required int32 image; required binary variant (UTF8);
    required binary model (UTF8); required binary output (UTF8); required double probability; }";
/// Metadata: images that could not be used, and those that some model could not.
const REFUSED: &str = "sidelight.refused";
const PARTLY: &str = "sidelight.refused_by_some";

/// Images that could not be used, by their numbers in a cohort, and why.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Refused {
    pub(super) wholly: BTreeMap<usize, String>,
    /// By some of the models.
    pub(super) partly: BTreeMap<usize, String>,
}

/// Whose predictions they are.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) cohort: &'a Cohort,
    /// Keys of the race model.
    pub(super) groups: &'a [String],
}

/// What a prediction is of; written many times.
#[derive(Clone)]
pub(super) struct Of {
    variant: ByteArray,
    model: ByteArray,
    output: ByteArray,
}

/// A file that is being written.
pub(super) struct Lines<'a> {
    writer: SerializedFileWriter<&'a File>,
    whose: Whose<'a>,
    waiting: Vec<(usize, Of, f64)>,
}

impl Of {
    pub(super) fn new(variant: &str, model: &str, output: &str) -> Self {
        let [variant, model, output] = [variant, model, output].map(ByteArray::from);
        Self { variant, model, output }
    }
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'a File, whose: Whose<'a>, refused: &Refused) -> anyhow::Result<Self> {
        let pair = |key: &str, images| -> anyhow::Result<KeyValue> {
            Ok(KeyValue { key: key.to_owned(), value: Some(serde_json::to_string(images)?) })
        };
        let metadata = vec![pair(REFUSED, &refused.wholly)?, pair(PARTLY, &refused.partly)?];
        let properties =
            WriterProperties::builder().set_compression(Compression::SNAPPY).set_key_value_metadata(Some(metadata));
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build()))?;
        Ok(Self { writer, whose, waiting: Vec::new() })
    }

    /// One line: the image by its number in the cohort.
    pub(super) fn add(&mut self, image: usize, of: &Of, probability: f64) -> anyhow::Result<()> {
        self.waiting.push((image, of.clone(), probability));
        if self.waiting.len() < GROUP { Ok(()) } else { self.group() }
    }

    /// Writes what waits as a group.
    fn group(&mut self) -> anyhow::Result<()> {
        let (lines, whose) = (std::mem::take(&mut self.waiting), self.whose);
        let mut group = self.writer.next_row_group()?;
        let image = |line: &(usize, Of, f64)| &whose.cohort.images[line.0];
        let numbers: Vec<i32> = lines.iter().map(|line| i32::try_from(line.0)).collect::<Result<_, _>>()?;
        let mut column = group.next_column()?.context("a schema has columns")?;
        column.typed::<Int32Type>().write_batch(&numbers, None, None)?;
        column.close()?;
        let texts: [&dyn Fn(&(usize, Of, f64)) -> ByteArray; 8] = [
            &|line| image(line).name.as_str().into(),
            &|line| image(line).patient.as_str().into(),
            &|line| image(line).study.as_str().into(),
            &|line| whose.groups[image(line).group].as_str().into(),
            &|line| image(line).part.as_str().into(),
            &|line| line.1.variant.clone(),
            &|line| line.1.model.clone(),
            &|line| line.1.output.clone(),
        ];
        for text in texts {
            let values: Vec<ByteArray> = lines.iter().map(text).collect();
            let mut column = group.next_column()?.context("a schema has columns")?;
            column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
            column.close()?;
        }
        let probabilities: Vec<f64> = lines.iter().map(|line| line.2).collect();
        let mut column = group.next_column()?.context("a schema has columns")?;
        column.typed::<DoubleType>().write_batch(&probabilities, None, None)?;
        column.close()?;
        group.close()?;
        Ok(())
    }

    pub(super) fn end(mut self) -> anyhow::Result<()> {
        if !self.waiting.is_empty() {
            self.group()?;
        }
        self.writer.into_inner()?;
        Ok(())
    }
}

/// Gives each line of a file to `take`: number of the image, variant, model, output and probability.
pub(super) fn each(
    path: &Path,
    mut take: impl FnMut(usize, [&str; 3], f64) -> anyhow::Result<()>,
) -> anyhow::Result<Refused> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let metadata = reader.metadata().file_metadata();
    let said = |key: &str| {
        let pair = metadata.key_value_metadata().into_iter().flatten().find(|pair| pair.key == key);
        let text = pair.and_then(|pair| pair.value.as_deref()).context("it does not say what was refused")?;
        anyhow::Ok(serde_json::from_str(text)?)
    };
    let refused = Refused { wholly: said(REFUSED)?, partly: said(PARTLY)? };
    let whole = parse_message_type(SCHEMA)?;
    ensure!(metadata.schema().get_fields() == whole.get_fields(), "it has other columns");
    for row in reader.get_row_iter(Some(parse_message_type(OWN)?))? {
        let row = row?;
        let of = [row.get_string(1)?.as_str(), row.get_string(2)?.as_str(), row.get_string(3)?.as_str()];
        take(usize::try_from(row.get_int(0)?)?, of, row.get_double(4)?)?;
    }
    Ok(refused)
}
