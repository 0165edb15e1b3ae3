//! A table (CSV) of what is true of studies, line by line.
//!
//! Columns: `study`, `accession` or `patient` (with `issuer` and `date`), `group`, `race`, `ethnicity`, `instance`, one
//! per finding with 1, 0 or nothing, and covariates. Nothing is guessed, and a fault never says what a cell holds.
//! Neighbours: `placing` finds the studies. Left out: lines that contradict each other (`agreement`).

use std::io::{self, Read};
use std::sync::Arc;

use chrono::NaiveDate;
use csv::StringRecord;

use super::super::race::{SelfReport, ethnicity_category, race_category};
use super::super::statement::{
    About, At, Covariate, Outcome, PatientName, Reject, STATEMENTS_MAX, Says, Source, Statement, Vocabulary,
};
use super::super::table::text_of;
use crate::domain::Uid;

const KNOWN: [&str; 9] = ["study", "accession", "patient", "issuer", "date", "group", "race", "ethnicity", "instance"];
/// Bytes of one line, with what is read ahead.
const LINE_BYTES_MAX: usize = 1 << 20;
/// What separates several categories of one person.
const SEVERAL: [char; 2] = [';', '|'];

/// A table, read line by line.
pub struct CsvTable<'a, R> {
    reader: csv::Reader<Bounded<R>>,
    columns: Columns<'a>,
    record: StringRecord,
    file: u32,
    lines: usize,
    /// Columns that are none of the known ones.
    pub unused: Vec<String>,
}

impl<'a, R: Read> CsvTable<'a, R> {
    /// Reads the first line. An error where the file as a whole is no such table.
    pub fn open(input: R, file: u32, vocabulary: &'a Vocabulary) -> Result<Self, String> {
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(Bounded { input, since: 0 });
        let header = reader.headers().map_err(|e| format!("its first line cannot be read: {e}"))?.clone();
        let titles: Vec<String> = header.iter().map(|t| t.trim_start_matches('\u{feff}').to_owned()).collect();
        let columns = Columns::of(&titles, vocabulary)?;
        let unused = columns.unused(&titles);
        Ok(Self { reader, columns, record: StringRecord::new(), file, lines: 0, unused })
    }
}

impl<R: Read> Iterator for CsvTable<'_, R> {
    type Item = Result<Statement, Reject>;

    /// The next line; after one that cannot be read, and beyond [`STATEMENTS_MAX`], there is none.
    fn next(&mut self) -> Option<Self::Item> {
        let position = |position: Option<&csv::Position>| position.map_or(0, csv::Position::line);
        if self.lines > STATEMENTS_MAX {
            return None;
        }
        self.lines += 1;
        self.reader.get_mut().since = 0;
        let (line, read) = match self.reader.read_record(&mut self.record) {
            Ok(false) => return None,
            Ok(true) if self.lines > STATEMENTS_MAX => {
                let reason =
                    format!("the file has more than {STATEMENTS_MAX} lines; this one and all after it are not read");
                (position(self.record.position()), Err(reason))
            }
            Ok(true) => (position(self.record.position()), self.columns.line(&self.record)),
            Err(error) if error.is_io_error() => {
                self.lines = usize::MAX;
                (
                    0,
                    Err(format!(
                        "a line has more than {LINE_BYTES_MAX} bytes, or the file cannot be read; it is not read on"
                    )),
                )
            }
            Err(error) => (position(error.position()), Err("it is not text in UTF-8".to_owned())),
        };
        let at = At { file: self.file, line };
        let read = read.map(|statement| Statement { says: Says { at, ..statement.says }, ..statement });
        Some(read.map_err(|reason| Reject { at, reason }))
    }
}

/// An input of which no line takes more memory than it may: a quote that is never closed makes one of a whole file.
struct Bounded<R> {
    input: R,
    /// Bytes since the line began.
    since: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.since += read;
        if self.since > LINE_BYTES_MAX { Err(io::Error::other("a line that is too long")) } else { Ok(read) }
    }
}

/// Where each thing stands.
struct Columns<'a> {
    vocabulary: &'a Vocabulary,
    width: usize,
    known: [Option<usize>; KNOWN.len()],
    findings: Vec<(u16, usize)>,
    covariates: Vec<(u16, usize)>,
}

impl<'a> Columns<'a> {
    fn of(titles: &[String], vocabulary: &'a Vocabulary) -> Result<Self, String> {
        if let Some(twice) = titles.iter().enumerate().find(|(i, t)| titles[..*i].contains(t)) {
            return Err(format!("its column {} is there twice", twice.1));
        }
        let known = KNOWN.map(|title| titles.iter().position(|t| t == title));
        let places = |number: &dyn Fn(&str) -> Option<u16>| -> Vec<(u16, usize)> {
            let others = titles.iter().enumerate().filter(|(_, t)| !KNOWN.contains(&t.as_str()));
            others.filter_map(|(at, t)| Some((number(t)?, at))).collect()
        };
        let findings = places(&|t| vocabulary.finding(t));
        let covariates = places(&|t| vocabulary.covariate(t).filter(|_| vocabulary.finding(t).is_none()));
        let columns = Self { vocabulary, width: titles.len(), known, findings, covariates };
        if !["study", "accession", "patient"].iter().any(|t| columns.place(t).is_some()) {
            return Err("it lacks a column study, accession or patient".into());
        }
        let said = ["group", "race", "ethnicity"].iter().any(|t| columns.place(t).is_some());
        if !said && columns.findings.is_empty() && columns.covariates.is_empty() {
            let findings = vocabulary.findings.join(", ");
            return Err(format!("it lacks a column group, race or ethnicity, and one for a finding: {findings}"));
        }
        Ok(columns)
    }

    fn place(&self, title: &str) -> Option<usize> {
        KNOWN.iter().position(|t| *t == title).and_then(|at| self.known[at])
    }

    fn unused(&self, titles: &[String]) -> Vec<String> {
        let used = |at: usize| {
            self.known.contains(&Some(at)) || self.findings.iter().chain(&self.covariates).any(|(_, own)| *own == at)
        };
        let unused = titles.iter().enumerate().filter(|(at, _)| !used(*at));
        unused.map(|(_, t)| t.chars().take(40).collect()).collect()
    }

    fn line(&self, record: &StringRecord) -> Result<Statement, String> {
        if record.len() > self.width {
            return Err(format!("it has {} fields, not {}", record.len(), self.width));
        }
        let cell = |at: usize| record.get(at).filter(|text| !text.is_empty());
        let field = |title: &str| self.place(title).and_then(cell);
        let short = |title: &str| field(title).map(|text| text_of(title, text)).transpose();
        let mut says = Says::nothing(At { file: 0, line: 0 }, Source::Csv);
        says.by_image = self.place("instance").is_some();
        for &(finding, at) in &self.findings {
            let present = match cell(at) {
                None => continue,
                Some("0") => false,
                Some("1") => true,
                Some(_) => {
                    let key = &self.vocabulary.findings[usize::from(finding)];
                    return Err(format!("{key} is neither 0 nor 1 nor empty"));
                }
            };
            says.outcomes.push(Outcome { finding, present });
        }
        for &(name, at) in &self.covariates {
            if let Some(text) = cell(at) {
                says.covariates.push(Covariate { name, value: self.vocabulary.value_of(name, text)? });
            }
        }
        let person = self.person(&field)?;
        says.person = (!person.is_empty()).then(|| Arc::new(person));
        let about = Self::about(&field, &short)?;
        if about.studies.is_empty() && about.accessions.is_empty() && about.patients.is_empty() {
            return Err("it names neither study nor patient".into());
        }
        if !says.of_study() && says.person.is_none() {
            return Err("it says nothing: no group, no outcome, no covariate".into());
        }
        Ok(Statement { says, about })
    }

    fn about<'r>(
        field: &dyn Fn(&str) -> Option<&'r str>,
        short: &dyn Fn(&str) -> Result<Option<String>, String>,
    ) -> Result<About, String> {
        let study = field("study").map(Uid::parse).transpose();
        let study = study.map_err(|e| format!("study is no UID: {}", e.reason))?;
        let (accession, patient, issuer) = (short("accession")?, short("patient")?, short("issuer")?);
        if study.is_some() && accession.is_some() {
            return Err("it has both study and accession; keep one".into());
        }
        if issuer.is_some() && patient.is_none() {
            return Err("it has an issuer and no patient".into());
        }
        let day = |text| ["%Y-%m-%d", "%Y%m%d"].iter().find_map(|f| NaiveDate::parse_from_str(text, f).ok());
        let date = field("date").map(|text| day(text).ok_or("its date is not like 2026-03-01")).transpose()?;
        let patients = patient.map(|id| PatientName { id, issuer }).into_iter().collect();
        Ok(About { studies: study.into_iter().collect(), accessions: accession.into_iter().collect(), patients, date })
    }

    fn person<'r>(&self, field: &dyn Fn(&str) -> Option<&'r str>) -> Result<SelfReport, String> {
        let group = field("group").map(|text| self.group(text)).transpose()?;
        let race = match field("race") {
            None => None,
            Some(text) => {
                let words = text.split(SEVERAL).map(str::trim).filter(|word| !word.is_empty());
                let categories: Option<Vec<&str>> = words.map(race_category).collect();
                Some(categories.ok_or("its race is none of the categories of docs/labels.md")?)
            }
        };
        let mut person = match (group, race) {
            (Some(_), Some(_)) => return Err("it has both group and race; keep one".into()),
            (Some(group), None) => SelfReport::of_race([group])?,
            (None, Some(race)) => SelfReport::of_race(race.into_iter().map(str::to_owned))?,
            (None, None) => SelfReport::default(),
        };
        if let Some(text) = field("ethnicity") {
            let category =
                ethnicity_category(text).ok_or("its ethnicity is none of the categories of docs/labels.md")?;
            person.ethnicity = Some(category.to_owned());
        }
        Ok(person)
    }

    /// The category of a key; the key where no race model says what it stands for.
    fn group(&self, text: &str) -> Result<String, String> {
        let groups = &self.vocabulary.groups;
        if groups.is_empty() {
            return text_of("group", text);
        }
        match groups.iter().find(|g| g.key == text) {
            Some(group) => Ok(group.code.clone()),
            None => {
                let keys: Vec<&str> = groups.iter().map(|g| g.key.as_str()).collect();
                Err(format!("its group is none of those of the race model: {}", keys.join(", ")))
            }
        }
    }
}
