//! Results from a table: a CSV file that a product's system drops. Pure.
//!
//! One row for one finding: `study` or `accession`, `instance` (optional), `finding`, `score` or `label`, `time`,
//! `version`, `patient` (all optional). Columns are found by their names, in any order; others are refused, since they
//! may be a misspelt one. A row with a fault is told with its line and takes no other row with it; what its fields hold
//! is not told, since a shifted one may be a patient's. Left out: which study an accession number means (`store`).

use serde::Serialize;

use crate::domain::{Digest, Probability, Said, Timestamp, Uid};

/// Bytes of a file.
const BYTES_MAX: usize = 64 << 20;
/// Characters of a version, an accession number or a Patient ID (VR LO, SH).
const TEXT_MAX: usize = 64;
const COLUMNS: [&str; 9] =
    ["study", "accession", "patient", "instance", "finding", "score", "label", "time", "version"];

/// The findings of a card, by the names that the table uses.
pub type Names<'a> = &'a [(String, String)];

/// A row that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its line in the file, from 1.
    pub line: u64,
    /// The study, or the accession number that names it.
    pub study: Result<Uid, String>,
    /// The Patient ID that the study has to have.
    pub patient: Option<String>,
    pub said: Said,
    pub observed_at: Option<Timestamp>,
    pub version: String,
    /// Of what the row says: the same row, imported again, is known by it.
    pub digest: Digest,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowFault {
    pub line: u64,
    pub reason: String,
}

/// A file, row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    pub rows: Vec<Row>,
    pub faults: Vec<RowFault>,
}

/// Reads a table whose findings have these names. An error where the file as a whole is none.
pub fn read_table(bytes: &[u8], names: Names<'_>) -> Result<Table, String> {
    if bytes.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, {BYTES_MAX} are read at most; split it", bytes.len()));
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(bytes);
    let header = reader.headers().map_err(|e| format!("its first line cannot be read: {e}"))?.clone();
    let titles: Vec<String> = header.iter().map(|t| t.trim_start_matches('\u{feff}').to_ascii_lowercase()).collect();
    if let Some(other) = titles.iter().find(|t| !COLUMNS.contains(&t.as_str())) {
        return Err(format!("its column {other:?} is not known; columns are {}", COLUMNS.join(", ")));
    }
    if let Some(twice) = titles.iter().enumerate().find(|(i, t)| titles[..*i].contains(t)) {
        return Err(format!("its column {} is there twice", twice.1));
    }
    let place = |title: &str| titles.iter().position(|t| t == title);
    if place("finding").is_none() || (place("study").is_none() && place("accession").is_none()) {
        return Err("it lacks a column finding, and one of study and accession".into());
    }
    if place("score").is_none() && place("label").is_none() {
        return Err("it lacks a column score, or label".into());
    }
    let mut table = Table::default();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                table.faults.push(RowFault { line, reason: "it is not text in UTF-8".into() });
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let field = |title: &str| place(title).and_then(|at| record.get(at)).filter(|text| !text.is_empty());
        if record.len() > titles.len() {
            table
                .faults
                .push(RowFault { line, reason: format!("it has {} fields, not {}", record.len(), titles.len()) });
            continue;
        }
        match row(line, field, names) {
            Ok(row) => table.rows.push(row),
            Err(reason) => table.faults.push(RowFault { line, reason }),
        }
    }
    Ok(table)
}

fn row<'a>(line: u64, field: impl Fn(&str) -> Option<&'a str>, names: Names<'_>) -> Result<Row, String> {
    let uid = |title: &str| {
        let parsed = field(title).map(Uid::parse).transpose();
        parsed.map_err(|e| format!("{title} is no UID: {}", e.reason))
    };
    let accession = field("accession").map(|text| text_of("accession", text)).transpose()?;
    let study = match (uid("study")?, accession) {
        (Some(study), None) => Ok(study),
        (None, Some(accession)) => Err(accession),
        (Some(_), Some(_)) => return Err("it has both study and accession; keep one".into()),
        (None, None) => return Err("it has neither study nor accession".into()),
    };
    let named = field("finding").ok_or("it has no finding")?;
    let known = names.iter().find(|(name, _)| name == named).map(|(_, key)| key.clone());
    let finding = known.ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        format!("its finding is not of this model, which has {}", known.join(", "))
    })?;
    let score = field("score").map(score).transpose()?;
    let positive = match field("label").map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("positive" | "1" | "true" | "yes") => Some(true),
        Some("negative" | "0" | "false" | "no") => Some(false),
        Some(_) => return Err("its label is neither positive nor negative".into()),
    };
    if score.is_none() && positive.is_none() {
        return Err("it has neither score nor label".into());
    }
    let observed_at = field("time").map(time).transpose()?;
    let version = field("version").map(|text| text_of("version", text)).transpose()?.unwrap_or_default();
    let patient = field("patient").map(|text| text_of("patient", text)).transpose()?;
    let images: Vec<Uid> = uid("instance")?.into_iter().collect();
    let said = Said { finding, images, score, positive };
    let whole =
        serde_json::json!([study.as_ref().map_or_else(|a| a.as_str(), Uid::as_str), said, observed_at, version]);
    let digest = Digest::of(whole.to_string().as_bytes());
    Ok(Row { line, study, patient, said, observed_at, version, digest })
}

/// A probability, or a percentage with its sign.
fn score(text: &str) -> Result<Probability, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|_| "its score is no number".to_owned())? / scale;
    Probability::new(value).map_err(|_| "its score is not from 0 to 1, nor from 0 % to 100 %".to_owned())
}

/// With a time zone; without one as UTC.
fn time(text: &str) -> Result<Timestamp, String> {
    use chrono::{DateTime, NaiveDateTime};
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let parsed = naive.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    parsed.map(|time| time.and_utc()).ok_or_else(|| "its time is not like 2026-03-01T10:15:00Z".to_owned())
}

/// Text that is no longer than its VR allows.
pub(super) fn text_of(title: &str, text: &str) -> Result<String, String> {
    match text.chars().count() <= TEXT_MAX && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(format!("{title} has more than {TEXT_MAX} characters, or some that cannot be shown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<(String, String)> {
        [("PTX", "pneumothorax"), ("effusion", "effusion")].map(|(n, k)| (n.into(), k.into())).to_vec()
    }

    fn read(text: &str) -> Result<Table, String> {
        read_table(text.as_bytes(), &names())
    }

    #[test]
    fn a_row_is_a_statement_on_a_finding() {
        let text = "\u{feff}Study,instance,finding,score,label,time,version,patient\n\
                    1.2,,PTX,0.25,,2026-03-01T10:15:00+01:00,3.1,\n\
                    1.2, 1.2.3 , effusion , 75 % ,positive,2026-03-01 10:15:00,,P1\n";
        let table = read(text).unwrap();
        assert!(table.faults.is_empty(), "{:?}", table.faults);
        let [one, two] = table.rows.as_slice() else { panic!("{table:?}") };
        assert_eq!((one.line, one.version.as_str(), one.study.as_ref().unwrap().as_str()), (2, "3.1", "1.2"));
        assert_eq!(one.said.score.map(Probability::get), Some(0.25));
        assert_eq!(one.observed_at.unwrap().to_rfc3339(), "2026-03-01T09:15:00+00:00");
        assert_eq!((two.said.images.len(), two.said.score.map(Probability::get)), (1, Some(0.75)));
        assert_eq!((two.said.finding.as_str(), two.said.positive), ("effusion", Some(true)));
        assert_eq!(read(text).unwrap(), table, "the same digests");
        assert_ne!(one.digest, two.digest);
        let by_number = read("accession,finding,label\nA 7,PTX,no\n").unwrap();
        assert_eq!(by_number.rows[0].study, Err("A 7".to_owned()));
    }

    #[test]
    fn a_row_with_a_fault_is_told_and_others_are_read() {
        let rows = [
            ("x,,PTX,0.5,,,", "study is no UID"),
            ("1.2,x,PTX,0.5,,,", "instance is no UID"),
            (",,PTX,0.5,,,", "neither study"),
            ("1.2,,,0.5,,,", "no finding"),
            ("1.2,,Edema,0.5,,,", "has PTX, effusion"),
            ("1.2,,PTX,,,,", "neither score"),
            ("1.2,,PTX,1.5,,,", "not from 0 to 1"),
            ("1.2,,PTX,nan,,,", "not from 0 to 1"),
            ("1.2,,PTX,inf,,,", "not from 0 to 1"),
            ("1.2,,PTX,half,,,", "no number"),
            ("1.2,,PTX,,maybe,,", "neither positive"),
            ("1.2,,PTX,0.5,,yesterday,", "not like"),
            ("1.2,,PTX,0.5,,,3,4", "8 fields, not 7"),
        ];
        for (row, reason) in rows {
            let text = format!("study,instance,finding,score,label,time,version\n{row}\n1.2,,PTX,0.5,,,\n");
            let table = read(&text).unwrap();
            assert_eq!(table.rows.len(), 1, "{row}");
            let told = matches!(table.faults.as_slice(), [f] if f.line == 2 && f.reason.contains(reason)
                && !["Edema", "half", "maybe", "yesterday", "1.5"].iter().any(|cell| f.reason.contains(cell)));
            assert!(told, "{row}: {:?}", table.faults);
        }
        let broken = [&b"study,finding,score\n1.2,PTX,\xff\n1.2,PTX,0.5\n"[..]].concat();
        let table = read_table(&broken, &names()).unwrap();
        assert_eq!((table.rows.len(), table.faults.len()), (1, 1));
    }

    #[test]
    fn a_file_that_is_no_such_table_is_refused_as_a_whole() {
        for (text, reason) in [
            ("", "lacks a column finding"),
            ("study,finding\n", "lacks a column score"),
            ("finding,score\n", "lacks a column finding"),
            ("study,finding,score,scoer\n", "\"scoer\" is not known"),
            ("study,finding,score,score\n", "there twice"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
