//! From columns of text, as a cohort file has them, to a table of numbers, with one rule for what is missing.
//!
//! | kind | what is read | what is missing |
//! |---|---|---|
//! | label | 1 is there; 0, −1 (uncertain) and nothing are not, as in the paper's code | counts as 0 |
//! | number | any finite number | the row is left out, and counted |
//! | category | any text; one column of 0 and 1 for each that occurs | the row is left out, and counted |
//!
//! Missing is: nothing, `na`, `n/a`, `nan`, `none`, `null`, in any case. Left out: filling in what is missing, which would make
//! up what a patient is; ranges (an age of 300 is a number).

use std::collections::BTreeMap;

use crate::stats::Design;

/// The most different texts of one category.
pub const CATEGORIES_MAX: usize = 32;
/// The most columns of a table, each text of a category counted.
pub const COLUMNS_MAX: usize = 4096;
/// As much of a foreign text as a message shows.
const SHOWN_MAX: usize = 24;

/// How the texts of a column are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Label,
    Number,
    Category,
}

/// One covariate, a text for each row of the cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub values: Vec<&'a str>,
}

/// A table of those rows that have every number and category.
#[derive(Debug, Clone, PartialEq)]
pub struct Covariates {
    /// Of each column: the covariate's, with `=text` behind it for a category.
    pub names: Vec<String>,
    pub design: Design,
    /// The rows of the cohort that are in the design, in its order.
    pub rows: Vec<usize>,
    /// Covariates that rows lack, with how many lack each; a row may lack several.
    pub missing: Vec<(String, usize)>,
}

/// Why columns make no table. Rows count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CovariateError {
    #[error("no covariates are given")]
    NoCovariates,
    #[error("the covariate {name} has {count} values where the first has {expected}")]
    Length { name: String, count: usize, expected: usize },
    #[error("row {row}: the label {name} is {value:?}: 1, 0, -1 or nothing is read")]
    Label { name: String, row: usize, value: String },
    #[error("row {row}: {name} is {value:?}, which is no finite number")]
    Number { name: String, row: usize, value: String },
    #[error(
        "{name} has more than {CATEGORIES_MAX} different texts: a category has few; is it a number or an identifier?"
    )]
    Categories { name: String },
    #[error("the covariates make more than {COLUMNS_MAX} columns")]
    Columns,
    #[error("every row lacks a covariate: {0}")]
    NoRows(String),
}

impl Kind {
    /// A column of which all that is not missing are finite numbers is one of numbers, any other a category.
    pub fn guess(values: &[&str]) -> Self {
        let number = |v: &&str| v.trim().parse::<f64>().is_ok_and(f64::is_finite);
        let mut present = values.iter().filter(|v| !is_missing(v)).peekable();
        if present.peek().is_some() && present.all(number) { Self::Number } else { Self::Category }
    }
}

/// Reads the columns; the rule for what is missing stands at the top of this file.
pub fn encode(columns: &[Column]) -> Result<Covariates, CovariateError> {
    let count = columns.first().ok_or(CovariateError::NoCovariates)?.values.len();
    if let Some(odd) = columns.iter().find(|c| c.values.len() != count) {
        return Err(CovariateError::Length { name: shown(odd.name), count: odd.values.len(), expected: count });
    }
    let read: Vec<Read> = columns.iter().map(Read::of).collect::<Result<_, _>>()?;
    let names: Vec<String> = read.iter().zip(columns).flat_map(|(read, column)| read.names(column.name)).collect();
    if names.len() > COLUMNS_MAX {
        return Err(CovariateError::Columns);
    }
    let lacking = |read: &Read| (0..count).filter(|i| read.is_missing(*i)).count();
    let missing: Vec<(String, usize)> =
        read.iter().zip(columns).map(|(r, c)| (c.name.to_owned(), lacking(r))).filter(|(_, n)| *n > 0).collect();
    let rows: Vec<usize> = (0..count).filter(|i| !read.iter().any(|read| read.is_missing(*i))).collect();
    if rows.is_empty() {
        let lacking: Vec<String> = missing.iter().map(|(name, n)| format!("{} {n} of {count}", shown(name))).collect();
        return Err(CovariateError::NoRows(lacking.join(", ")));
    }
    let mut design = Design::new(names.len());
    for &i in &rows {
        design.push(&read.iter().flat_map(|read| read.row(i)).collect::<Vec<f64>>());
    }
    Ok(Covariates { names, design, rows, missing })
}

/// A column as numbers; `None` is missing.
enum Read {
    Numbers(Vec<Option<f64>>),
    /// The texts in their order, and which of them each row has.
    Texts(Vec<String>, Vec<Option<usize>>),
}

impl Read {
    fn of(column: &Column) -> Result<Self, CovariateError> {
        let values = column.values.iter().enumerate();
        let name = || shown(column.name);
        match column.kind {
            Kind::Label => values
                .map(|(i, v)| label(v).map(Some).ok_or((i, *v)))
                .collect::<Result<_, _>>()
                .map(Self::Numbers)
                .map_err(|(i, v)| CovariateError::Label { name: name(), row: i + 1, value: shown(v) }),
            Kind::Number => values
                .map(|(i, v)| number(v).ok_or((i, *v)))
                .collect::<Result<_, _>>()
                .map(Self::Numbers)
                .map_err(|(i, v)| CovariateError::Number { name: name(), row: i + 1, value: shown(v) }),
            Kind::Category => {
                let present = || column.values.iter().map(|v| v.trim()).filter(|v| !is_missing(v));
                let mut place: BTreeMap<&str, usize> = BTreeMap::new();
                for text in present() {
                    place.insert(text, 0);
                    if place.len() > CATEGORIES_MAX {
                        return Err(CovariateError::Categories { name: name() });
                    }
                }
                place.values_mut().enumerate().for_each(|(i, at)| *at = i);
                let at = column.values.iter().map(|v| place.get(v.trim()).copied()).collect();
                Ok(Self::Texts(place.keys().map(|text| shown(text)).collect(), at))
            }
        }
    }

    fn names(&self, name: &str) -> Vec<String> {
        match self {
            Self::Numbers(_) => vec![name.to_owned()],
            Self::Texts(texts, _) => texts.iter().map(|text| format!("{name}={text}")).collect(),
        }
    }

    fn is_missing(&self, i: usize) -> bool {
        match self {
            Self::Numbers(values) => values[i].is_none(),
            Self::Texts(_, at) => at[i].is_none(),
        }
    }

    fn row(&self, i: usize) -> Vec<f64> {
        match self {
            Self::Numbers(values) => values[i].into_iter().collect(),
            Self::Texts(texts, at) => (0..texts.len()).map(|text| f64::from(u8::from(at[i] == Some(text)))).collect(),
        }
    }
}

fn is_missing(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || ["na", "n/a", "nan", "none", "null"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// 1 or 0; `None` for what no label file says.
fn label(text: &str) -> Option<f64> {
    if is_missing(text) {
        return Some(0.0);
    }
    match text.trim().parse::<f64>() {
        Ok(1.0) => Some(1.0),
        Ok(0.0 | -1.0) => Some(0.0),
        _ => None,
    }
}

/// The number or that it is missing; `None` for another text.
fn number(text: &str) -> Option<Option<f64>> {
    if is_missing(text) {
        return Some(None);
    }
    text.trim().parse::<f64>().ok().filter(|v| v.is_finite()).map(Some)
}

/// The beginning of a foreign text, without what would disturb a terminal.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { '·' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column<'a>(name: &'a str, kind: Kind, values: &[&'a str]) -> Column<'a> {
        Column { name, kind, values: values.to_vec() }
    }

    fn error(columns: &[Column]) -> String {
        encode(columns).unwrap_err().to_string()
    }

    #[test]
    fn missing_labels_are_zero_and_rows_without_a_number_are_left_out() {
        let columns = [
            column("effusion", Kind::Label, &["1.0", "-1", "", "NaN", "0"]),
            column("bmi", Kind::Number, &["21.5", "", "30", " 27 ", "nan"]),
            column("density", Kind::Category, &["B", "A", "n/a", " B", "C"]),
        ];
        let made = encode(&columns).unwrap();
        assert_eq!(made.names, ["effusion", "bmi", "density=A", "density=B", "density=C"]);
        assert_eq!(made.rows, [0, 3]);
        assert_eq!(made.design.row(0), [1.0, 21.5, 0.0, 1.0, 0.0]);
        assert_eq!(made.design.row(1), [0.0, 27.0, 0.0, 1.0, 0.0]);
        assert_eq!(made.missing, [("bmi".to_owned(), 2), ("density".to_owned(), 1)]);
    }

    #[test]
    fn the_kind_of_a_column_shows_in_its_values() {
        let check = |values: &[&str], expected: Kind| assert_eq!(Kind::guess(values), expected, "{values:?}");
        check(&["1", "", "2.5", "NA"], Kind::Number);
        check(&["1", "2.5", "inf"], Kind::Category);
        check(&["F", "M"], Kind::Category);
        check(&["", ""], Kind::Category);
    }

    #[test]
    fn hostile_columns_are_refused_with_their_place() {
        let label = |value| error(&[column("edema", Kind::Label, &["0", value])]);
        assert_eq!(label("0.7"), "row 2: the label edema is \"0.7\": 1, 0, -1 or nothing is read");
        assert!(label("inf").contains("row 2"), "{}", label("inf"));
        let long = "9".repeat(400);
        let number = error(&[column("age", Kind::Number, &[&long])]);
        assert_eq!(number, format!("row 1: age is {:?}, which is no finite number", &long[..SHOWN_MAX]));
        assert!(error(&[column("age", Kind::Number, &["\x1b[2Jx"])]).contains("·[2Jx"));
        let names: Vec<String> = (0..=CATEGORIES_MAX).map(|i| format!("P{i}")).collect();
        let many: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(error(&[column("patient", Kind::Category, &many)]).contains("more than 32 different texts"));
        assert!(encode(&[column("patient", Kind::Category, &many[1..])]).is_ok());
        let unequal = [column("a", Kind::Label, &["0", "1"]), column("b", Kind::Label, &["0"])];
        assert_eq!(error(&unequal), "the covariate b has 1 values where the first has 2");
        assert_eq!(error(&[]), "no covariates are given");
        let apart = [column("age", Kind::Number, &["", "60"]), column("sex", Kind::Category, &["F", "none"])];
        assert_eq!(error(&apart), "every row lacks a covariate: age 1 of 2, sex 1 of 2");
        assert_eq!(error(&[column("age", Kind::Number, &[])]), "every row lacks a covariate: ");
    }
}
