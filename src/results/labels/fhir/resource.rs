//! JSON of resources: texts, codes, identifiers, references. What is not as FHIR has it is as if it were not there.

use chrono::NaiveDate;
use serde_json::Value;

use super::super::super::table::text_of;
use super::super::mapping::{FhirCode, Mapping};
use crate::domain::Uid;

/// Elements of a list that are looked at.
const LIST_MAX: usize = 1000;
/// Bytes of a resource's identifier (FHIR R4, `id`).
pub(super) const ID_BYTES_MAX: usize = 64;
const UID_SYSTEM: &str = "urn:dicom:uid";

/// A reference to another resource; the type is empty where the reference does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub kind: String,
    pub id: String,
}

pub(super) fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

/// A list, or the one thing in its place.
pub(super) fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    let found: &[Value] = match value.get(key) {
        Some(Value::Array(list)) => list,
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        _ => &[],
    };
    found.iter().take(LIST_MAX)
}

/// `system|code` of each coding of a CodeableConcept.
pub(super) fn codes(concept: &Value) -> Vec<FhirCode> {
    list(concept, "coding").filter_map(coding).collect()
}

pub(super) fn coding(coding: &Value) -> Option<FhirCode> {
    Some(format!("{}|{}", text(coding, "system").unwrap_or_default(), text(coding, "code")?))
}

/// Whether one of the codes of a status is among these, whatever its system.
pub(super) fn status_codes<'v>(resource: &'v Value, key: &str) -> Vec<&'v str> {
    let status = resource.get(key);
    status.into_iter().flat_map(|s| list(s, "coding")).filter_map(|coding| text(coding, "code")).collect()
}

/// The first of these dates that says a day: as it is written, in the time of the place where it was written.
pub(super) fn date(resource: &Value, keys: &[&str]) -> Option<NaiveDate> {
    let written = keys.iter().find_map(|key| match resource.get(key)? {
        Value::String(text) => Some(text.as_str()),
        period => text(period, "start"),
    })?;
    NaiveDate::parse_from_str(written.get(..10)?, "%Y-%m-%d").ok()
}

/// What the resource refers to by this element.
pub(super) fn references(resource: &Value, key: &str) -> Vec<Reference> {
    list(resource, key).filter_map(|element| reference(text(element, "reference")?)).collect()
}

/// `Patient/1`, `https://server/fhir/Patient/1/_history/2` or `urn:uuid:…`.
fn reference(text: &str) -> Option<Reference> {
    if let Some(id) = text.strip_prefix("urn:uuid:").filter(|id| id.len() <= ID_BYTES_MAX) {
        return Some(Reference { kind: String::new(), id: id.to_owned() });
    }
    let whole = text.split_once("/_history/").map_or(text, |(whole, _)| whole);
    let mut parts = whole.rsplit('/');
    let (id, kind) = (parts.next()?, parts.next()?);
    let fits = (1..=ID_BYTES_MAX).contains(&id.len()) && (1..=ID_BYTES_MAX).contains(&kind.len());
    fits.then(|| Reference { kind: kind.to_owned(), id: id.to_owned() })
}

/// Study Instance UIDs among the resource's identifiers.
pub(super) fn study_uids(resource: &Value) -> Vec<Uid> {
    list(resource, "identifier").filter_map(study_uid).collect()
}

/// Study Instance UIDs that a reference names itself, without a resource.
pub(super) fn logical_studies(resource: &Value, key: &str) -> Vec<Uid> {
    list(resource, key).filter_map(|element| study_uid(element.get("identifier")?)).collect()
}

fn study_uid(identifier: &Value) -> Option<Uid> {
    let value = text(identifier, "value").filter(|_| text(identifier, "system") == Some(UID_SYSTEM))?;
    Uid::parse(value.strip_prefix("urn:oid:").unwrap_or(value)).ok()
}

/// Accession numbers among the resource's identifiers: by type (ACSN), or by a system of the mapping.
pub(super) fn accessions(resource: &Value, mapping: &Mapping) -> Vec<String> {
    let of = |identifier: &Value| -> Option<String> {
        let by_type = status_codes(identifier, "type").contains(&"ACSN");
        let by_system =
            text(identifier, "system").is_some_and(|s| mapping.accession_systems.iter().any(|own| own == s));
        let value = text(identifier, "value").filter(|_| by_type || by_system)?.trim();
        text_of("accession", value).ok().filter(|value| !value.is_empty())
    };
    list(resource, "identifier").filter_map(of).collect()
}
