//! FHIR R4 resources, one on each line (NDJSON), as bulk exports have them. Pure.
//!
//! Patient (US Core race and ethnicity), Observation, Condition and DiagnosticReport say something, by the mapping;
//! ImagingStudy, ServiceRequest and Encounter say which study is meant. All others are counted. References are resolved
//! within the files of one import, in whatever order they come. Neighbours: `resource` reads JSON, `said` what is said,
//! `people` who; `placing` finds the studies. Left out: servers, Bundles, other versions of FHIR.

mod people;
mod resource;
mod said;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::NaiveDate;
use serde_json::Value;

use super::super::statement::{About, At, PatientName, Reject, STATEMENTS_MAX, Says, Statement, Vocabulary};
use super::mapping::Mapping;
use crate::domain::Uid;
use resource::{Reference, accessions, references, study_uids, text};

/// Types of resources that are counted by name.
const KINDS_MAX: usize = 200;
/// Resources that others refer to.
const LINKS_MAX: usize = 20_000_000;

/// What the lines of some files come to.
#[derive(Debug, Default)]
pub struct FhirRead {
    pub statements: Vec<Statement>,
    pub rejects: Vec<Reject>,
    /// By type of resource, how many there are, and how many of them say something that the mapping knows.
    pub counts: BTreeMap<String, (u64, u64)>,
}

/// Takes lines, and at the end gives what they say.
pub struct FhirReader<'a> {
    mapping: &'a Mapping,
    vocabulary: &'a Vocabulary,
    links: Links,
    drafts: Vec<Draft>,
    read: FhirRead,
}

/// What references lead to, by the identifier of the resource.
#[derive(Default)]
struct Links {
    patients: HashMap<String, Vec<PatientName>>,
    studies: HashMap<String, (Vec<Uid>, Vec<String>)>,
    orders: HashMap<String, Vec<String>>,
    /// Imaging studies of an encounter.
    encounters: HashMap<String, Vec<String>>,
}

/// A statement whose references are not resolved yet.
struct Draft {
    says: Says,
    patients: Vec<PatientName>,
    subject: Option<Reference>,
    date: Option<NaiveDate>,
    studies: Vec<Uid>,
    accessions: Vec<String>,
    refers: Vec<Reference>,
    encounter: Option<Reference>,
}

impl<'a> FhirReader<'a> {
    pub fn new(mapping: &'a Mapping, vocabulary: &'a Vocabulary) -> Self {
        Self { mapping, vocabulary, links: Links::default(), drafts: Vec::new(), read: FhirRead::default() }
    }

    /// Takes a line.
    pub fn add(&mut self, at: At, line: &[u8]) {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let resource: Value = match serde_json::from_slice(line) {
            Ok(resource) => resource,
            Err(_) => return self.reject(at, "it is no JSON; a line holds one resource"),
        };
        let Some(kind) = text(&resource, "resourceType") else {
            return self.reject(at, "it is no FHIR resource: it has no resourceType");
        };
        let before = (self.drafts.len(), self.read.rejects.len());
        if let Err(reason) = self.take(at, kind, &resource) {
            self.reject(at, &reason);
        }
        let used = (self.drafts.len(), self.read.rejects.len()) != before;
        let plain = kind.len() <= 40 && kind.bytes().all(|b| b.is_ascii_alphanumeric());
        let known = self.read.counts.contains_key(kind) || self.read.counts.len() < KINDS_MAX;
        let name = if plain && known { kind } else { "other" };
        let counts = self.read.counts.entry(name.to_owned()).or_default();
        *counts = (counts.0 + 1, counts.1 + u64::from(used));
    }

    /// What all lines say.
    pub fn finish(mut self) -> FhirRead {
        let drafts = std::mem::take(&mut self.drafts);
        for draft in drafts {
            let at = draft.says.at;
            match self.links.about(&draft) {
                Ok(about) => self.read.statements.push(Statement { says: draft.says, about }),
                Err(reason) => self.reject(at, reason),
            }
        }
        self.read
    }

    fn reject(&mut self, at: At, reason: &str) {
        self.read.rejects.push(Reject { at, reason: reason.to_owned() });
    }

    fn take(&mut self, at: At, kind: &str, resource: &Value) -> Result<(), String> {
        let id = text(resource, "id").filter(|id| id.len() <= resource::ID_BYTES_MAX).unwrap_or_default().to_owned();
        let links = &mut self.links;
        let linked = links.patients.len() + links.studies.len() + links.orders.len() + links.encounters.len();
        if linked >= LINKS_MAX || self.drafts.len() >= STATEMENTS_MAX {
            return Err(format!("the files have more than {STATEMENTS_MAX} statements; split them"));
        }
        match kind {
            "Patient" => {
                let names = people::names(resource, self.mapping)?;
                if !id.is_empty() {
                    links.patients.insert(id, names.clone());
                }
                let Some(person) = people::self_report(resource, self.mapping)? else { return Ok(()) };
                if names.is_empty() {
                    return Err("it has no identifier of a system in patient.identifiers of the mapping".into());
                }
                let mut draft = Draft::of(Says::nothing(at, super::super::statement::Source::Fhir));
                draft.says.person = Some(Arc::new(person));
                draft.patients = names;
                self.drafts.push(draft);
            }
            "ImagingStudy" => {
                let named = (study_uids(resource), accessions(resource, self.mapping));
                for encounter in references(resource, "encounter") {
                    links.encounters.entry(encounter.id).or_default().push(id.clone());
                }
                links.studies.insert(id, named);
            }
            "ServiceRequest" => {
                links.orders.insert(id, accessions(resource, self.mapping));
            }
            "Observation" | "Condition" | "DiagnosticReport" => {
                let said = said::statements(at, kind, resource, self.mapping, self.vocabulary)?;
                for (says, date) in said {
                    let mut draft = Draft::of(says);
                    draft.date = date;
                    draft.refer(kind, resource, self.mapping)?;
                    self.drafts.push(draft);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Draft {
    fn of(says: Says) -> Self {
        let (patients, studies, accessions, refers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { says, patients, subject: None, date: None, studies, accessions, refers, encounter: None }
    }

    /// Notes of whom and what the resource is.
    fn refer(&mut self, kind: &str, resource: &Value, mapping: &Mapping) -> Result<(), String> {
        self.subject = references(resource, "subject").into_iter().next();
        self.patients = people::logical(resource, mapping)?;
        self.encounter = references(resource, "encounter").into_iter().next();
        self.accessions = accessions(resource, mapping);
        let to_studies: &[&str] = match kind {
            "Observation" => &["partOf", "derivedFrom", "basedOn"],
            "DiagnosticReport" => &["imagingStudy", "study", "basedOn"],
            _ => &[],
        };
        for key in to_studies {
            self.studies.extend(resource::logical_studies(resource, key));
            self.refers.extend(references(resource, key));
        }
        Ok(())
    }
}

impl Links {
    /// Of what the statement is, with its references resolved.
    fn about(&self, draft: &Draft) -> Result<About, &'static str> {
        let mut about = About {
            studies: draft.studies.clone(),
            accessions: draft.accessions.clone(),
            patients: draft.patients.clone(),
            date: draft.date,
        };
        for reference in &draft.refers {
            match (reference.kind.as_str(), self.studies.get(&reference.id), self.orders.get(&reference.id)) {
                ("ImagingStudy" | "", Some((uids, accessions)), _) if uids.is_empty() && accessions.is_empty() => {
                    return Err("it refers to an ImagingStudy that has neither UID nor accession number");
                }
                ("ImagingStudy" | "", Some(named), _) => about.add(named),
                ("ServiceRequest" | "", None, Some(accessions)) => about.accessions.extend(accessions.iter().cloned()),
                ("ImagingStudy", None, _) => return Err("it refers to an ImagingStudy that is not among these files"),
                _ => {}
            }
        }
        if let Some(names) = draft.subject.as_ref().and_then(|subject| self.patients.get(&subject.id)) {
            about.patients.extend(names.iter().cloned());
        }
        if about.studies.is_empty() && about.accessions.is_empty() {
            let of_encounter = draft.encounter.as_ref().and_then(|encounter| self.encounters.get(&encounter.id));
            for named in of_encounter.into_iter().flatten().filter_map(|id| self.studies.get(id)) {
                about.add(named);
            }
        }
        if about.studies.is_empty() && about.accessions.is_empty() && about.patients.is_empty() {
            return Err("its patient is not among these files, or has no identifier that the mapping knows");
        }
        about.patients.sort();
        about.patients.dedup();
        Ok(about)
    }
}

impl About {
    /// An imaging study: by its UID, else by its accession number.
    fn add(&mut self, (uids, accessions): &(Vec<Uid>, Vec<String>)) {
        match uids.is_empty() {
            false => self.studies.extend(uids.iter().cloned()),
            true => self.accessions.extend(accessions.iter().cloned()),
        }
    }
}

#[cfg(test)]
mod tests;
