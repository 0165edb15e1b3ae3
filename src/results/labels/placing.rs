//! Which of the studies that are here a statement is about. Pure.
//!
//! By its study UID; else by its accession number; else by patient and a window of days around its date. Where several
//! would do, none is chosen: that is a conflict, and listed. Neighbours: `statement`; `store` says which studies are here.
//! Left out: what they are told (`agreement`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::NaiveDate;

use super::super::statement::{About, Hit, PatientName, Placed, Reach, Statement};
use crate::domain::Uid;

/// A study that is here, as files name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownStudy {
    pub study: Uid,
    pub accession: Option<String>,
    pub patient: Option<String>,
    pub issuer: Option<String>,
    pub date: Option<NaiveDate>,
}

/// By what studies are looked up for some statements.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    pub studies: BTreeSet<&'a str>,
    pub accessions: BTreeSet<&'a str>,
    pub patients: BTreeSet<&'a str>,
}

impl<'a> Wanted<'a> {
    pub fn of(statements: &'a [Statement]) -> Self {
        let mut wanted = Self::default();
        for About { studies, accessions, patients, .. } in statements.iter().map(|s| &s.about) {
            wanted.studies.extend(studies.iter().map(Uid::as_str));
            wanted.accessions.extend(accessions.iter().map(String::as_str));
            if studies.is_empty() && accessions.is_empty() {
                wanted.patients.extend(patients.iter().map(|p| p.id.as_str()));
            }
        }
        wanted
    }
}

/// Studies that are here. Of a patient or accession number that a statement names all must be among them, and of a
/// patient of whom something is said, too.
pub struct Places<'a> {
    known: &'a [KnownStudy],
    by_study: HashMap<&'a str, usize>,
    by_accession: HashMap<&'a str, Vec<usize>>,
    by_patient: HashMap<&'a str, Vec<usize>>,
    window_days: u32,
}

impl<'a> Places<'a> {
    /// `window_days`: by how many days the date of a study may differ from that of a statement on its patient.
    pub fn of(known: &'a [KnownStudy], window_days: u32) -> Self {
        let (by_study, by_accession, by_patient) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut places = Self { known, by_study, by_accession, by_patient, window_days };
        for (at, one) in known.iter().enumerate() {
            places.by_study.insert(one.study.as_str(), at);
            if let Some(number) = &one.accession {
                places.by_accession.entry(number.as_str()).or_default().push(at);
            }
            if let Some(patient) = &one.patient {
                places.by_patient.entry(patient.as_str()).or_default().push(at);
            }
        }
        places
    }

    /// The statement with its studies, or why it has none.
    pub fn place(&self, statement: Statement) -> Result<Placed, String> {
        let Statement { says, about } = statement;
        let named = self.named(&about)?;
        let studies = match named.is_empty() {
            false => named,
            true => self.of_patients(&about.patients)?,
        };
        let everyone = match &says.person {
            None => Arc::default(),
            Some(_) => self.everyone(&studies),
        };
        let is_named = !about.studies.is_empty() || !about.accessions.is_empty();
        let hits = match says.of_study() {
            false => Vec::new(),
            true if is_named => self.hits(&studies, None, says.reach)?,
            true => {
                let date = about.date.ok_or("it is of a study, and names neither that nor a date")?;
                self.hits(&self.around(&studies, date)?, Some(date), says.reach)?
            }
        };
        Ok(Placed { says, hits, everyone })
    }

    /// Studies by UID, else by accession number, of the patient where one is named; empty where neither is given.
    fn named(&self, about: &About) -> Result<Vec<usize>, String> {
        let is_patients = |at: &usize| {
            let one = &self.known[*at];
            let is = |name: &PatientName| name.is(one.patient.as_deref(), one.issuer.as_deref());
            about.patients.is_empty() || about.patients.iter().any(is)
        };
        let (found, missing) = if !about.studies.is_empty() {
            let found = about.studies.iter().filter_map(|study| self.by_study.get(study.as_str()));
            (found.copied().collect::<BTreeSet<usize>>(), "its study is not here; import it later")
        } else if !about.accessions.is_empty() {
            let found = about.accessions.iter().filter_map(|number| self.by_accession.get(number.as_str()));
            (found.flatten().copied().collect(), "no study here has its accession number; import it later")
        } else {
            return Ok(Vec::new());
        };
        if found.is_empty() {
            return Err(missing.into());
        }
        let own: Vec<usize> = found.into_iter().filter(is_patients).collect();
        if own.is_empty() {
            return Err("its study is of another patient".into());
        }
        let identity = |at: &usize| (&self.known[*at].patient, &self.known[*at].issuer);
        if own.iter().any(|at| identity(at) != identity(&own[0])) {
            return Err(format!("{} studies of several patients have its accession number; give the study", own.len()));
        }
        Ok(own)
    }

    /// All studies of the one patient that is called so.
    fn of_patients(&self, names: &[PatientName]) -> Result<Vec<usize>, String> {
        let mut found = BTreeSet::new();
        for name in names {
            let of_id = self.by_patient.get(name.id.as_str()).map(Vec::as_slice).unwrap_or_default();
            let is = |at: &&usize| name.is(Some(&name.id), self.known[**at].issuer.as_deref());
            let own: Vec<usize> = of_id.iter().filter(is).copied().collect();
            let issuers: BTreeSet<Option<&str>> = own.iter().map(|at| self.known[*at].issuer.as_deref()).collect();
            if issuers.len() > 1 {
                return Err("several issuers give its Patient ID; name the study, or the issuer".into());
            }
            found.extend(own);
        }
        match found.is_empty() {
            true if names.is_empty() => Err("it names neither study nor patient".into()),
            true => Err("no study here is of its patient; import it later".into()),
            false => Ok(found.into_iter().collect()),
        }
    }

    fn around(&self, studies: &[usize], date: NaiveDate) -> Result<Vec<usize>, String> {
        let near = |at: &&usize| self.known[**at].date.is_some_and(|own| days(own, date) <= self.window_days);
        let found: Vec<usize> = studies.iter().filter(near).copied().collect();
        match found.is_empty() {
            true => Err(format!("no study of its patient is within {} days of its date", self.window_days)),
            false => Ok(found),
        }
    }

    fn hits(&self, studies: &[usize], date: Option<NaiveDate>, reach: Reach) -> Result<Vec<Hit>, String> {
        if reach == Reach::One && studies.len() > 1 {
            let which = if date.is_some() { "of its patient are near its date" } else { "have what it names" };
            return Err(format!("{} studies {which}; give the study", studies.len()));
        }
        let hit = |at: &usize| {
            let one = &self.known[*at];
            Hit { study: one.study.clone(), days: one.date.zip(date).map_or(0, |(own, date)| days(own, date)) }
        };
        Ok(studies.iter().map(hit).collect())
    }

    /// All studies of the patients of these; one that names no patient stands for itself.
    fn everyone(&self, studies: &[usize]) -> Arc<[Uid]> {
        let mut all = BTreeSet::new();
        for at in studies {
            let one = &self.known[*at];
            let same = one.patient.as_deref().and_then(|patient| self.by_patient.get(patient));
            let same = same.into_iter().flatten().filter(|other| self.known[**other].issuer == one.issuer);
            all.extend(same.chain([at]).map(|at| &self.known[*at].study));
        }
        all.into_iter().cloned().collect()
    }
}

fn days(a: NaiveDate, b: NaiveDate) -> u32 {
    u32::try_from((a - b).num_days().unsigned_abs()).unwrap_or(u32::MAX)
}
