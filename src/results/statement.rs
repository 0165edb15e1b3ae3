//! One thing that an imported file says of a study or a patient, before anybody knows which of those here is meant.
//!
//! Findings and covariates are numbers of lists that the caller has, so that a table of a million studies fits into
//! memory. Neighbours: `csv`, `fhir` and `sr` make statements, `placing` finds who is meant, `agreement` finds
//! contradictions. Left out: keeping them (`store`).

use std::sync::Arc;

use chrono::NaiveDate;
use serde::Serialize;

use super::race::{GroupName, SelfReport};
use crate::domain::Uid;

/// Statements of one import; more have to be split.
pub const STATEMENTS_MAX: usize = 4_000_000;

/// Covariates that every table may have.
const COVARIATES: [&str; 4] = ["bmi", "device", "site", "portable"];

/// What words of files mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Keys of the findings of the deployed models, each once.
    pub findings: Vec<String>,
    /// Groups of the race model; none: any key may be a group.
    pub groups: Vec<GroupName>,
    pub covariates: Vec<String>,
}

/// Where a file says it: number of the file, line from 1; 0 where a file has no lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct At {
    pub file: u32,
    pub line: u64,
}

/// What kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Csv,
    Fhir,
    Sr,
}

/// A patient by what a file calls them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatientName {
    pub id: String,
    /// `None`: the file does not say who issued it.
    pub issuer: Option<String>,
}

/// Of what a statement is. Studies go before accession numbers, these before a patient with a date.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    pub studies: Vec<Uid>,
    pub accessions: Vec<String>,
    /// Names of one patient.
    pub patients: Vec<PatientName>,
    pub date: Option<NaiveDate>,
}

/// Which of several studies around a date are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// The only one. Of several nobody knows which.
    #[default]
    One,
    /// Each of them.
    All,
    /// Each of them; of several statements on one study, the one of the nearest day.
    Nearest,
}

/// A finding by its number, and whether it is truly there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub finding: u16,
    pub present: bool,
}

/// A covariate by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covariate {
    pub name: u16,
    pub value: Box<str>,
}

/// What is said. It holds as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Says {
    pub at: At,
    pub source: Source,
    /// It is one of a line for each image: the finding is there if any image has it.
    pub by_image: bool,
    pub reach: Reach,
    pub outcomes: Vec<Outcome>,
    pub covariates: Vec<Covariate>,
    /// Of the patient, and so of all their studies.
    pub person: Option<Arc<SelfReport>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub says: Says,
    pub about: About,
}

/// A study that is meant, and how many days it is from the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub study: Uid,
    pub days: u32,
}

/// A statement with the studies that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub says: Says,
    /// Of which outcomes and covariates are said.
    pub hits: Vec<Hit>,
    /// All studies of the patient, where something is said of the person.
    pub everyone: Arc<[Uid]>,
}

/// What is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reject {
    #[serde(flatten)]
    pub at: At,
    pub reason: String,
}

impl Vocabulary {
    /// Of these findings and groups, with `covariates` beside those that every table may have.
    pub fn new(findings: impl IntoIterator<Item = String>, groups: Vec<GroupName>, covariates: &[String]) -> Self {
        let distinct = |words: &mut dyn Iterator<Item = String>| {
            let mut list: Vec<String> = Vec::new();
            words.for_each(|word| {
                if !list.contains(&word) {
                    list.push(word)
                }
            });
            list
        };
        Self {
            findings: distinct(&mut findings.into_iter()),
            groups,
            covariates: distinct(&mut COVARIATES.map(str::to_owned).into_iter().chain(covariates.iter().cloned())),
        }
    }

    pub fn finding(&self, key: &str) -> Option<u16> {
        place(&self.findings, key)
    }

    pub fn covariate(&self, name: &str) -> Option<u16> {
        place(&self.covariates, name)
    }

    /// The value of a covariate as it is kept, or the rule that it breaks.
    pub fn value_of(&self, name: u16, text: &str) -> Result<Box<str>, String> {
        let title = self.covariates.get(usize::from(name)).map_or("", String::as_str);
        match title {
            "bmi" => match text.parse::<f64>() {
                Ok(bmi) if (5.0..=150.0).contains(&bmi) => Ok(format!("{bmi}").into()),
                _ => Err("bmi is no number from 5 to 150 (kg/m²)".into()),
            },
            "portable" => match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" => Ok("1".into()),
                "0" | "false" | "no" => Ok("0".into()),
                _ => Err("portable is neither 1 nor 0".into()),
            },
            _ => super::table::text_of(title, text).map(Into::into),
        }
    }
}

impl Says {
    pub fn nothing(at: At, source: Source) -> Self {
        let (outcomes, covariates) = (Vec::new(), Vec::new());
        Self { at, source, by_image: false, reach: Reach::One, outcomes, covariates, person: None }
    }

    /// Whether it says something of a study.
    pub fn of_study(&self) -> bool {
        !self.outcomes.is_empty() || !self.covariates.is_empty()
    }
}

impl PatientName {
    /// Whether it may be the patient with this Patient ID and issuer.
    pub fn is(&self, id: Option<&str>, issuer: Option<&str>) -> bool {
        id == Some(&self.id) && self.issuer.as_ref().is_none_or(|own| issuer.unwrap_or_default() == own)
    }
}

fn place(list: &[String], word: &str) -> Option<u16> {
    list.iter().position(|own| own == word).and_then(|at| u16::try_from(at).ok())
}
