//! Scope: which instances a model may see, as rules over an instance's header.
//!
//! Pure. A rule that the header cannot answer (no view, no body part) refuses: a model is never applied on a
//! guess. Neighbours: `card` (the rules' home), `analyse` (asks per instance and model). Left out: pixel content.

use serde::{Deserialize, Serialize};

use crate::domain::{InstanceHeader, Refusal, RefusalCode, Uid, View};

/// `[scope]` of a card. An empty list admits anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScopeCard {
    /// Modality (0008,0060).
    pub modalities: Vec<String>,
    pub sop_classes: Vec<Uid>,
    pub views: Vec<View>,
    /// Body Part Examined (0018,0015); an empty text in the list admits instances without the attribute.
    pub body_parts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_min: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns_min: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns_max: Option<u32>,
}

/// A scope whose rules can be fulfilled; made by `manifest`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(ScopeCard);

impl Scope {
    /// The rules, or those keys of `[scope]` that cannot be meant, each with what is wrong and the remedy.
    pub(super) fn new(mut card: ScopeCard) -> Result<Self, Vec<(&'static str, String, &'static str)>> {
        let mut faults = Vec::new();
        for text in card.modalities.iter_mut().chain(card.body_parts.iter_mut()) {
            *text = text.trim().to_ascii_uppercase();
        }
        if card.modalities.iter().any(|m| !is_code_string(m) || m.is_empty()) {
            faults.push(("scope.modalities", "not a modality".to_owned(), "list values such as \"DX\" and \"CR\""));
        }
        if card.body_parts.iter().any(|b| !is_code_string(b)) {
            faults.push(("scope.body_parts", "not a body part".to_owned(), "list values such as \"CHEST\""));
        }
        for (key, min, max) in [
            ("scope.rows_min", card.rows_min, card.rows_max),
            ("scope.columns_min", card.columns_min, card.columns_max),
        ] {
            if let (Some(min), Some(max)) = (min, max)
                && min > max
            {
                faults.push((key, format!("{min} is more than the maximum {max}"), "swap them or drop one"));
            }
        }
        if faults.is_empty() { Ok(Self(card)) } else { Err(faults) }
    }

    /// Whether the model may see this instance; the refusal names the rule.
    pub fn admits(&self, header: &InstanceHeader) -> Result<(), Refusal> {
        let rules = &self.0;
        if !rules.modalities.is_empty() && !rules.modalities.contains(&header.modality) {
            return refuse(format!(
                "modality {}, the model takes {}",
                named(&header.modality),
                rules.modalities.join(", ")
            ));
        }
        if !rules.sop_classes.is_empty() && !rules.sop_classes.contains(&header.sop_class) {
            return refuse(format!("SOP class {} is not among those the model takes", header.sop_class));
        }
        if !rules.body_parts.is_empty() && !rules.body_parts.contains(&header.body_part) {
            let taken: Vec<_> = rules.body_parts.iter().map(|b| named(b)).collect();
            return refuse(format!("body part {}, the model takes {}", named(&header.body_part), taken.join(", ")));
        }
        self.admits_view(header.view)?;
        let within = |what: &str, value: u32, min: Option<u32>, max: Option<u32>| {
            if min.is_some_and(|m| value < m) || max.is_some_and(|m| value > m) {
                let (min, max) = (min.unwrap_or(0), max.map_or("any".to_owned(), |m| m.to_string()));
                return refuse(format!("{value} {what}, the model takes {min} to {max}"));
            }
            Ok(())
        };
        within("rows", header.rows, rules.rows_min, rules.rows_max)?;
        within("columns", header.columns, rules.columns_min, rules.columns_max)
    }

    /// The rules as the card has them, texts in upper case.
    pub fn rules(&self) -> &ScopeCard {
        &self.0
    }

    fn admits_view(&self, view: Option<View>) -> Result<(), Refusal> {
        let taken = || self.0.views.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ");
        match view {
            _ if self.0.views.is_empty() => Ok(()),
            None => refuse(format!("view unknown, the model takes {}", taken())),
            Some(view) if self.0.views.contains(&view) => Ok(()),
            Some(view) => refuse(format!("view {}, the model takes {}", view.as_str(), taken())),
        }
    }
}

fn refuse<T>(detail: String) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalCode::OutOfScope, detail))
}

/// A text of a header for a message: bounded, printable, and visible where it is empty.
fn named(text: &str) -> String {
    if text.is_empty() {
        return "(absent)".to_owned();
    }
    text.chars().take(16).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// VR CS (PS3.5 6.2), or empty.
fn is_code_string(text: &str) -> bool {
    text.len() <= 16 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Attributes;

    fn header() -> InstanceHeader {
        let uid = |text| Uid::parse(text).unwrap();
        InstanceHeader {
            study: uid("1.2.3"),
            series: uid("1.2.3.1"),
            sop_instance: uid("1.2.3.1.1"),
            sop_class: uid("1.2.840.10008.5.1.4.1.1.1.1"),
            transfer_syntax: uid("1.2.840.10008.1.2.1"),
            modality: "DX".into(),
            body_part: "CHEST".into(),
            view: Some(View::Pa),
            manufacturer: String::new(),
            model_name: String::new(),
            rows: 512,
            columns: 400,
            frames: 1,
            bits_allocated: 16,
            bits_stored: 12,
            photometric: "MONOCHROME2".into(),
            has_pixels: true,
            copied: Attributes::new(),
        }
    }

    fn scope() -> ScopeCard {
        ScopeCard {
            modalities: vec!["DX".into(), "cr".into()],
            sop_classes: vec![Uid::parse("1.2.840.10008.5.1.4.1.1.1.1").unwrap()],
            views: vec![View::Pa, View::Ap],
            body_parts: vec!["chest".into()],
            rows_min: Some(64),
            rows_max: Some(4096),
            columns_min: Some(64),
            columns_max: None,
        }
    }

    fn check(change: impl Fn(&mut InstanceHeader), expected: Option<&str>) {
        let mut header = header();
        change(&mut header);
        let answer = Scope::new(scope()).unwrap().admits(&header);
        match expected {
            None => assert_eq!(answer, Ok(())),
            Some(detail) => {
                assert_eq!(answer, Err(Refusal::new(RefusalCode::OutOfScope, detail)));
            }
        }
    }

    #[test]
    fn a_refusal_names_the_rule_that_the_instance_breaks() {
        check(|_| (), None);
        check(|h| h.modality = "CR".into(), None);
        check(|h| h.view = Some(View::Ap), None);
        check(|h| h.columns = 60_000, None);
        check(|h| h.modality = "MR".into(), Some("modality MR, the model takes DX, CR"));
        check(|h| h.modality = String::new(), Some("modality (absent), the model takes DX, CR"));
        check(|h| h.modality = "X\u{1b}[31m".repeat(9), Some("modality X?[31mX?[31mX?[3, the model takes DX, CR"));
        check(
            |h| h.sop_class = Uid::parse("1.2.840.10008.5.1.4.1.1.7").unwrap(),
            Some("SOP class 1.2.840.10008.5.1.4.1.1.7 is not among those the model takes"),
        );
        check(|h| h.body_part = "HAND".into(), Some("body part HAND, the model takes CHEST"));
        check(|h| h.body_part = String::new(), Some("body part (absent), the model takes CHEST"));
        check(|h| h.view = Some(View::Lateral), Some("view LATERAL, the model takes PA, AP"));
        check(|h| h.view = None, Some("view unknown, the model takes PA, AP"));
        check(|h| h.rows = 63, Some("63 rows, the model takes 64 to 4096"));
        check(|h| h.rows = 4097, Some("4097 rows, the model takes 64 to 4096"));
        check(|h| h.columns = 10, Some("10 columns, the model takes 64 to any"));
    }

    #[test]
    fn an_empty_scope_admits_anything_and_an_empty_text_admits_the_absent() {
        let mut h = header();
        h.view = None;
        h.body_part = String::new();
        assert_eq!(Scope::default().admits(&h), Ok(()));
        let card = ScopeCard { body_parts: vec!["CHEST".into(), String::new()], ..ScopeCard::default() };
        assert_eq!(Scope::new(card).unwrap().admits(&h), Ok(()));
    }

    #[test]
    fn rules_that_cannot_be_meant_are_faults() {
        let card = ScopeCard {
            modalities: vec![String::new()],
            body_parts: vec!["a/b".into()],
            rows_min: Some(10),
            rows_max: Some(9),
            ..ScopeCard::default()
        };
        let keys: Vec<_> = Scope::new(card).unwrap_err().into_iter().map(|f| f.0).collect();
        assert_eq!(keys, ["scope.modalities", "scope.body_parts", "scope.rows_min"]);
    }
}
