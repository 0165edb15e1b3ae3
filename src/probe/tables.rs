//! Tables of text: what CSV and Parquet files hold, as columns with names.
//!
//! Neighbours: `cohort` and `posteriors` read such tables, `parts` writes its own. Left out: nested columns.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::cohort::{COLUMNS, COVARIATES};
use crate::domain::Digest;

/// Of a file; a cohort of five million images has less.
const BYTES_MAX: u64 = 2 << 30;
/// Rows and columns of a table, multiplied.
const CELLS_MAX: usize = 200_000_000;
const ROWS_MAX: usize = 10_000_000;

/// A table; every row has a value for each column, nothing where the file has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// Of the file.
    pub(super) digest: Digest,
}

impl Table {
    /// Reads a file; one that begins as Parquet files do is one, all others are CSV.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("{} cannot be read", path.display());
        let bytes = std::fs::metadata(path).with_context(context)?.len();
        ensure!(bytes <= BYTES_MAX, "{} has {bytes} bytes, a table may have {BYTES_MAX}", path.display());
        let bytes = std::fs::read(path).with_context(context)?;
        let digest = Digest::of(&bytes);
        let (columns, rows) =
            if bytes.starts_with(b"PAR1") { parquet(path) } else { csv_of(&bytes) }.with_context(context)?;
        ensure!(!columns.is_empty(), "{} has no columns", path.display());
        // Names that mean something mean it in any case.
        let known = |name: &str| COLUMNS.iter().chain(&COVARIATES).find(|known| known.eq_ignore_ascii_case(name));
        let columns: Vec<String> =
            columns.into_iter().map(|name| known(&name).map_or(name, |known| (*known).to_owned())).collect();
        let mut names: Vec<&String> = columns.iter().collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("{} has two columns {:?}", path.display(), twice[0]);
        }
        Ok(Self { columns, rows, digest })
    }

    /// Where the column is.
    pub(super) fn place(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| name == column)
    }
}

type Cells = (Vec<String>, Vec<Vec<String>>);

fn csv_of(bytes: &[u8]) -> anyhow::Result<Cells> {
    // What spreadsheets put before UTF-8.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = csv::Reader::from_reader(bytes);
    let columns: Vec<String> = reader.headers()?.iter().map(|name| name.trim().to_owned()).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        rows.push(record?.iter().map(|cell| cell.trim().to_owned()).collect());
        ensure!(rows.len() * columns.len() <= CELLS_MAX, "it has more than {CELLS_MAX} values");
        ensure!(rows.len() <= ROWS_MAX, "it has more than {ROWS_MAX} rows");
    }
    Ok((columns, rows))
}

fn parquet(path: &Path) -> anyhow::Result<Cells> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let metadata = reader.metadata().file_metadata();
    let columns: Vec<String> = metadata.schema().get_fields().iter().map(|f| f.name().to_owned()).collect();
    let rows = usize::try_from(metadata.num_rows())?;
    ensure!(rows.saturating_mul(columns.len()) <= CELLS_MAX, "it has more than {CELLS_MAX} values");
    ensure!(rows <= ROWS_MAX, "it has more than {ROWS_MAX} rows");
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let cells = row.get_column_iter().map(|(name, field)| cell(name, field)).collect::<Result<Vec<_>, _>>()?;
        bytes += cells.iter().map(|cell| cell.len() as u64).sum::<u64>();
        ensure!(bytes <= BYTES_MAX, "its texts have more than {BYTES_MAX} bytes");
        found.push(cells);
        ensure!(found.len() <= rows, "it has more rows than it says");
    }
    Ok((columns, found))
}

fn cell(column: &str, field: &Field) -> anyhow::Result<String> {
    Ok(match field {
        Field::Null => String::new(),
        Field::Bool(v) => u8::from(*v).to_string(),
        Field::Str(v) => v.trim().to_owned(),
        Field::Double(v) if v.is_nan() => String::new(),
        Field::Float(v) if v.is_nan() => String::new(),
        Field::Double(v) => v.to_string(),
        Field::Float(v) => v.to_string(),
        Field::Bytes(v) => match v.as_utf8() {
            Ok(text) => text.trim().to_owned(),
            Err(_) => bail!("column {column} holds bytes that are no text"),
        },
        Field::Byte(v) => v.to_string(),
        Field::Short(v) => v.to_string(),
        Field::Int(v) => v.to_string(),
        Field::Long(v) => v.to_string(),
        Field::UByte(v) => v.to_string(),
        Field::UShort(v) => v.to_string(),
        Field::UInt(v) => v.to_string(),
        Field::ULong(v) => v.to_string(),
        Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => bail!("column {column} is nested"),
        other => other.to_string(),
    })
}
