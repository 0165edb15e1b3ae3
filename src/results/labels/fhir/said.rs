//! What Observations, Conditions and DiagnosticReports say, by the mapping.

use chrono::NaiveDate;
use serde_json::Value;

use super::super::super::statement::{At, Covariate, Outcome, Reach, Says, Source, Vocabulary};
use super::super::mapping::{ConditionDate, ConditionRule, FhirCode, Mapping, Named, ObservationRule, Subject};
use super::resource::{codes, date, list, status_codes, text};

/// Statuses of what counts: it was checked by somebody, and not taken back.
const FINAL: [&str; 4] = ["final", "amended", "corrected", "appended"];

type Said = (Says, Option<NaiveDate>);

/// What the resource says of findings and covariates of the mapping; nothing where it is about something else.
pub(super) fn statements(
    at: At,
    kind: &str,
    resource: &Value,
    mapping: &Mapping,
    vocabulary: &Vocabulary,
) -> Result<Vec<Said>, String> {
    let reader = Reader { at, mapping, vocabulary };
    match kind {
        "Observation" => reader.observation(resource),
        "Condition" => reader.condition(resource),
        _ => reader.report(resource),
    }
}

struct Reader<'a> {
    at: At,
    mapping: &'a Mapping,
    vocabulary: &'a Vocabulary,
}

impl Reader<'_> {
    fn observation(&self, resource: &Value) -> Result<Vec<Said>, String> {
        let at = date(resource, &["effectiveDateTime", "effectivePeriod", "effectiveInstant"]);
        let mut said = Vec::new();
        // Parts of it are of the same patient and time.
        for part in std::iter::once(resource).chain(list(resource, "component")) {
            let own = part.get("code").map(codes).unwrap_or_default();
            for rule in self.mapping.observations.of_codes(&own) {
                self.is_final(resource)?;
                let mut says = self.says(rule.studies);
                match rule.subject() {
                    Subject::Finding(key) => self.outcome(&mut says, &key, present(part, rule)?),
                    Subject::Covariate(name) => {
                        let Some(name) = self.vocabulary.covariate(&name) else { continue };
                        let value = self.vocabulary.value_of(name, &value(part, rule)?)?;
                        says.covariates.push(Covariate { name, value });
                    }
                }
                said.push((says, at));
            }
        }
        Ok(said)
    }

    fn condition(&self, resource: &Value) -> Result<Vec<Said>, String> {
        let own = resource.get("code").map(codes).unwrap_or_default();
        let mut said = Vec::new();
        for rule in self.mapping.conditions.of_codes(&own) {
            let at = match rule.date {
                ConditionDate::Onset => date(resource, &["onsetDateTime", "onsetPeriod", "recordedDate"]),
                ConditionDate::Recorded => date(resource, &["recordedDate"]),
            };
            let mut says = self.says(rule.studies);
            self.outcome(&mut says, &rule.finding, verified(resource, rule)?);
            said.push((says, at));
        }
        Ok(said)
    }

    fn report(&self, resource: &Value) -> Result<Vec<Said>, String> {
        let concluded: Vec<FhirCode> = list(resource, "conclusionCode").flat_map(codes).collect();
        let at = date(resource, &["effectiveDateTime", "effectivePeriod", "issued"]);
        let mut said: Vec<Said> = Vec::new();
        for rule in &self.mapping.reports {
            let among = |codes: &[FhirCode]| concluded.iter().any(|code| codes.contains(code));
            let present = match (among(&rule.present), among(&rule.absent)) {
                (false, false) => continue,
                (true, true) => return Err(format!("it concludes that {} is there, and that it is not", rule.finding)),
                (present, _) => present,
            };
            self.is_final(resource)?;
            let mut says = self.says(rule.studies);
            self.outcome(&mut says, &rule.finding, present);
            // Findings of one report hold together.
            match said.iter_mut().find(|(other, _)| other.reach == says.reach) {
                Some((one, _)) => one.outcomes.append(&mut says.outcomes),
                None => said.push((says, at)),
            }
        }
        Ok(said)
    }

    fn says(&self, reach: Reach) -> Says {
        Says { reach, ..Says::nothing(self.at, Source::Fhir) }
    }

    fn outcome(&self, says: &mut Says, key: &str, present: bool) {
        says.outcomes.extend(self.vocabulary.finding(key).map(|finding| Outcome { finding, present }));
    }

    fn is_final(&self, resource: &Value) -> Result<(), String> {
        match text(resource, "status") {
            Some(status) if FINAL.contains(&status) => Ok(()),
            _ => Err(format!("its status is none of {}", FINAL.join(", "))),
        }
    }
}

/// Whether an observation says that its finding is there.
fn present(part: &Value, rule: &ObservationRule) -> Result<bool, String> {
    const UNNAMED: &str = "its value is none of those in the mapping";
    let named = |list: &[Named]| -> bool {
        let of_concept = part.get("valueCodeableConcept").map(codes).unwrap_or_default();
        let boolean = part.get("valueBoolean").and_then(Value::as_bool);
        list.iter().any(|value| match value {
            Named::Boolean(own) => boolean == Some(*own),
            Named::Code(own) => of_concept.contains(own),
        })
    };
    if part.get("valueQuantity").is_some() {
        let number = quantity(part, rule)?;
        return match (rule.present_from, rule.absent_below) {
            (Some(from), _) if number >= from => Ok(true),
            (_, Some(below)) if number < below => Ok(false),
            _ => Err(UNNAMED.into()),
        };
    }
    match (named(&rule.present), named(&rule.absent)) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        (true, true) => Err("its value says that the finding is there, and that it is not".into()),
        (false, false) => Err(UNNAMED.into()),
    }
}

/// The value of a covariate, as a text.
fn value(part: &Value, rule: &ObservationRule) -> Result<String, String> {
    if part.get("valueQuantity").is_some() {
        return quantity(part, rule).map(|number| number.to_string());
    }
    let own = part.get("valueCodeableConcept").map(codes).unwrap_or_default();
    let mut values = own.iter().filter_map(|code| rule.values.get(code));
    match (values.next(), values.next()) {
        (Some(one), other) if other.is_none_or(|other| other == one) => Ok(one.clone()),
        (Some(_), _) => Err("its value is two of those in the mapping".into()),
        (None, _) => Err("its value is none of those in the mapping".into()),
    }
}

/// A number in the rule's unit, by its UCUM code where it has one.
fn quantity(part: &Value, rule: &ObservationRule) -> Result<f64, String> {
    let quantity = part.get("valueQuantity").unwrap_or(&Value::Null);
    if quantity.get("comparator").is_some() {
        return Err("its number is a limit and no value".into());
    }
    let unit = text(quantity, "code").or_else(|| text(quantity, "unit"));
    if unit.is_none() || unit != rule.unit.as_deref() {
        return Err("its number is in another unit than the mapping names".into());
    }
    let number = quantity.get("value").and_then(Value::as_f64).filter(|number| number.is_finite());
    number.ok_or_else(|| "its number is none".into())
}

/// Whether a condition is there, by its verification.
fn verified(resource: &Value, rule: &ConditionRule) -> Result<bool, String> {
    let clinical = status_codes(resource, "clinicalStatus");
    if !rule.clinical.is_empty() && !clinical.iter().any(|code| rule.clinical.iter().any(|own| own == code)) {
        return Err("its clinicalStatus is none of those in the mapping".into());
    }
    let verification = status_codes(resource, "verificationStatus");
    let among = |list: &[String]| verification.iter().any(|code| list.iter().any(|own| own == code));
    match (among(&rule.present), among(&rule.absent)) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        _ => Err("its verificationStatus is none of those in the mapping, or two that contradict each other".into()),
    }
}
