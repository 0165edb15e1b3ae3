//! What a radiologist's Structured Report says, by the paths of the mapping. Pure.
//!
//! A finding is there if the report says so of any image; what is said of the whole study, or of the same images, must
//! not contradict itself. Neighbours: `pixels` reads the object by [`super::Mapping::report_rules`]. Left out: whether a
//! later report corrects this one, which an import with `--replace` says.

use std::collections::{BTreeMap, BTreeSet};

use super::super::statement::{About, At, Outcome, PatientName, Says, Source, Statement, Vocabulary};
use super::mapping::Mapping;
use crate::domain::{InstanceHeader, ResultDocument, Uid};

/// The statement of a report of which `documents` were read, one for each rule of the mapping.
pub fn sr_statement(
    at: At,
    header: &InstanceHeader,
    documents: Vec<Result<ResultDocument, String>>,
    mapping: &Mapping,
    vocabulary: &Vocabulary,
) -> Result<Statement, String> {
    if mapping.report_rules().is_empty() {
        return Err("the mapping has no [[sr]]: what is at which path is not known".into());
    }
    let mut said: BTreeMap<String, BTreeMap<Vec<Uid>, BTreeSet<bool>>> = BTreeMap::new();
    for one in documents.into_iter().flatten().flat_map(|document| document.said) {
        if let Some(present) = one.positive {
            said.entry(one.finding).or_default().entry(one.images).or_default().insert(present);
        }
    }
    let mut says = Says::nothing(at, Source::Sr);
    for (key, of_images) in said {
        if of_images.values().any(|values| values.len() > 1) {
            return Err(format!("it says that {key} is there, and that it is not"));
        }
        let of_study = of_images.get(&Vec::new()).and_then(|values| values.first()).copied();
        let of_any = of_images.iter().any(|(images, values)| !images.is_empty() && values.contains(&true));
        if of_study == Some(false) && of_any {
            return Err(format!("it says that {key} is not there, and that an image shows it"));
        }
        if let Some(finding) = vocabulary.finding(&key) {
            says.outcomes.push(Outcome { finding, present: of_any || of_study == Some(true) });
        }
    }
    if says.outcomes.is_empty() {
        return Err("it has none of the values of the mapping at its paths".into());
    }
    let patient = header.patient_id().map(|id| PatientName { id, issuer: header.issuer_of_patient_id() });
    let about =
        About { studies: vec![header.study.clone()], patients: patient.into_iter().collect(), ..About::default() };
    Ok(Statement { says, about })
}
