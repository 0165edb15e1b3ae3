//! Patients: by what names they are here, and what they say of themselves (US Core race and ethnicity).

use serde_json::Value;

use super::super::super::race::{DECLINED, SelfReport, UNKNOWN, ethnicity_category, race_category};
use super::super::super::statement::PatientName;
use super::super::super::table::text_of;
use super::super::mapping::Mapping;
use super::resource::{list, text};

const RACE: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race";
const ETHNICITY: &str = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity";
const ABSENT: &str = "http://hl7.org/fhir/StructureDefinition/data-absent-reason";
const CDCREC: &str = "urn:oid:2.16.840.1.113883.6.238";
const NULL_FLAVOR: &str = "http://terminology.hl7.org/CodeSystem/v3-NullFlavor";

/// The patient's names here: identifiers of the mapping's systems.
pub(super) fn names(patient: &Value, mapping: &Mapping) -> Result<Vec<PatientName>, String> {
    let found = list(patient, "identifier").map(|identifier| name(identifier, mapping));
    Ok(found.collect::<Result<Vec<_>, String>>()?.into_iter().flatten().collect())
}

/// The names that a resource's subject has in the reference itself.
pub(super) fn logical(resource: &Value, mapping: &Mapping) -> Result<Vec<PatientName>, String> {
    let found = list(resource, "subject").filter_map(|subject| subject.get("identifier"));
    let found = found.map(|identifier| name(identifier, mapping));
    Ok(found.collect::<Result<Vec<_>, String>>()?.into_iter().flatten().collect())
}

fn name(identifier: &Value, mapping: &Mapping) -> Result<Option<PatientName>, String> {
    let system = text(identifier, "system").unwrap_or_default();
    let Some(rule) = mapping.identifiers.iter().find(|rule| rule.system == system) else { return Ok(None) };
    let value = text(identifier, "value").map(str::trim).filter(|value| !value.is_empty());
    let id = value.map(|value| text_of("its identifier", value)).transpose()?;
    Ok(id.map(|id| PatientName { id, issuer: rule.issuer.clone() }))
}

/// What the patient says; `None`: nothing is said of it.
pub(super) fn self_report(patient: &Value, mapping: &Mapping) -> Result<Option<SelfReport>, String> {
    let extension = |url| list(patient, "extension").filter(move |e| text(e, "url") == Some(url));
    let mut race: Vec<String> = Vec::new();
    let mut said = false;
    for one in extension(RACE) {
        said = true;
        race.extend(categories(one, race_category, |code| mapping.detailed.get(code).cloned())?);
    }
    let mut report = match said {
        true if race.is_empty() => return Err("its race has no category (ombCategory)".into()),
        true => SelfReport::of_race(race)?,
        false => SelfReport::default(),
    };
    for one in extension(ETHNICITY) {
        let mut found = categories(one, ethnicity_category, |_| None)?;
        found.dedup();
        match found.as_slice() {
            [one] => report.ethnicity = Some(one.clone()),
            [] => return Err("its ethnicity has no category (ombCategory)".into()),
            _ => return Err("it has several ethnicities".into()),
        }
    }
    Ok((!report.is_empty()).then_some(report))
}

/// The categories of an extension: those of OMB, and what detailed codes are by the mapping; unknown or declined where
/// that is said in their place. Words (`text`) are not read.
fn categories(
    extension: &Value,
    known: impl Fn(&str) -> Option<&'static str>,
    detailed: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for part in list(extension, "extension") {
        let coding = part.get("valueCoding");
        let (system, code) = (coding.and_then(|c| text(c, "system")), coding.and_then(|c| text(c, "code")));
        match (text(part, "url"), system, code) {
            (Some("ombCategory"), Some(CDCREC), Some(code)) => {
                // By its code alone: what its words are is not looked at.
                let is_code = code.bytes().all(|b| b.is_ascii_digit() || b == b'-');
                let category = known(code).filter(|_| is_code).ok_or("its category is none of CDCREC's")?;
                found.push(category.to_owned());
            }
            (Some("ombCategory"), Some(NULL_FLAVOR), Some(code)) => match code {
                "UNK" => found.push(UNKNOWN.to_owned()),
                "ASKU" => found.push(DECLINED.to_owned()),
                _ => return Err("its category is a null flavor other than UNK and ASKU".into()),
            },
            (Some("ombCategory"), ..) => return Err("its category is of another code system than CDCREC".into()),
            (Some("detailed"), Some(CDCREC), Some(code)) => found.extend(detailed(code)),
            (Some(ABSENT), ..) => found.extend(absent(part)?),
            _ => {}
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn absent(part: &Value) -> Result<Option<String>, String> {
    match text(part, "valueCode") {
        Some("unknown" | "asked-unknown") => Ok(Some(UNKNOWN.to_owned())),
        Some("asked-declined") => Ok(Some(DECLINED.to_owned())),
        Some("temp-unknown" | "not-asked") => Err("its category is missing, and not because of an answer".into()),
        _ => Ok(None),
    }
}
