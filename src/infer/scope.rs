//! Scope: which instances a model may see, as rules over an instance's header.
//!
//! Pure. A rule that the header cannot answer (no view, no body part) refuses: a model is never applied on a
//! guess. Neighbours: `card` (the rules' home), `analyse` (asks per instance and model). Left out: pixel content; a
//! view that the header does not state is not guessed from the picture.

use serde::{Deserialize, Serialize};

use crate::domain::{InstanceHeader, Refusal, RefusalCode, Uid, View};

/// `[scope]` of a card. An empty list admits anything; a `false` refuses what its name says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScopeCard {
    /// Modality (0008,0060).
    pub modalities: Vec<String>,
    pub sop_classes: Vec<Uid>,
    /// A frontal view of unknown direction is admitted by FRONTAL, or by PA and AP together.
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
    /// Values of Image Type (0008,0008) at any place, such as DERIVED, SECONDARY or REFORMATTED, that are refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_types_excluded: Vec<String>,
    /// Image Type LOCALIZER: scouts, topograms, surviews.
    #[serde(skip_serializing_if = "is_true")]
    pub localizers: bool,
    /// Secondary Capture SOP classes, and images of any class with a Conversion Type (0008,0064).
    #[serde(skip_serializing_if = "is_true")]
    pub secondary_captures: bool,
    /// Burned In Annotation (0028,0301) YES.
    #[serde(skip_serializing_if = "is_true")]
    pub burned_in_annotations: bool,
    /// Photometric Interpretation (0028,0004).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub photometric: Vec<String>,
}

impl Default for ScopeCard {
    /// Admits every image.
    fn default() -> Self {
        Self {
            modalities: Vec::new(),
            sop_classes: Vec::new(),
            views: Vec::new(),
            body_parts: Vec::new(),
            rows_min: None,
            rows_max: None,
            columns_min: None,
            columns_max: None,
            image_types_excluded: Vec::new(),
            localizers: true,
            secondary_captures: true,
            burned_in_annotations: true,
            photometric: Vec::new(),
        }
    }
}

fn is_true(value: &bool) -> bool {
    *value
}

/// A scope whose rules can be fulfilled; made by `manifest`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(ScopeCard);

impl Scope {
    /// The rules, or those keys of `[scope]` that cannot be meant, each with what is wrong and the remedy.
    pub(super) fn new(mut card: ScopeCard) -> Result<Self, Vec<(&'static str, String, &'static str)>> {
        let mut faults = Vec::new();
        let texts = card.modalities.iter_mut().chain(&mut card.body_parts);
        for text in texts.chain(&mut card.image_types_excluded).chain(&mut card.photometric) {
            *text = text.trim().to_ascii_uppercase();
        }
        if card.modalities.iter().any(|m| !is_code_string(m) || m.is_empty()) {
            faults.push(("scope.modalities", "not a modality".to_owned(), "list values such as \"DX\" and \"CR\""));
        }
        if card.body_parts.iter().any(|b| !is_code_string(b)) {
            faults.push(("scope.body_parts", "not a body part".to_owned(), "list values such as \"CHEST\""));
        }
        let is_value = |text: &String| is_code_string(text) && !text.is_empty();
        if !card.image_types_excluded.iter().all(is_value) {
            let remedy = "list values of Image Type such as \"DERIVED\"";
            faults.push(("scope.image_types_excluded", "not a code string".to_owned(), remedy));
        }
        if !card.photometric.iter().all(is_value) {
            let remedy = "list values such as \"MONOCHROME1\" and \"MONOCHROME2\"";
            faults.push(("scope.photometric", "not a photometric interpretation".to_owned(), remedy));
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
        if let Some(refusal) = header.not_an_image() {
            return Err(refusal);
        }
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
        self.admits_kind(header)?;
        self.admits_view(header)?;
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

    /// What kind of picture it is, whatever it shows.
    fn admits_kind(&self, header: &InstanceHeader) -> Result<(), Refusal> {
        let (rules, facts) = (&self.0, &header.image);
        if !rules.photometric.is_empty() && !rules.photometric.contains(&header.photometric) {
            let taken = rules.photometric.join(", ");
            return refuse(format!(
                "Photometric Interpretation {}, the model takes {taken}",
                named(&header.photometric)
            ));
        }
        if !rules.localizers && facts.image_type.iter().any(|t| t == "LOCALIZER") {
            return refuse("Image Type (0008,0008) says LOCALIZER, the model takes no localizers".to_owned());
        }
        if let Some(value) = facts.image_type.iter().find(|t| rules.image_types_excluded.contains(t)) {
            return refuse(format!("Image Type (0008,0008) says {}, the model excludes it", named(value)));
        }
        if !rules.secondary_captures && is_secondary_capture(&header.sop_class) {
            return refuse(format!("SOP class {} is a secondary capture, the model takes none", header.sop_class));
        }
        if !rules.secondary_captures && !facts.conversion_type.is_empty() {
            let conversion = named(&facts.conversion_type);
            return refuse(format!("Conversion Type (0008,0064) {conversion}: a capture, the model takes none"));
        }
        if !rules.burned_in_annotations && facts.burned_in_annotation == Some(true) {
            return refuse("Burned In Annotation (0028,0301) is YES, the model takes none".to_owned());
        }
        Ok(())
    }

    fn admits_view(&self, header: &InstanceHeader) -> Result<(), Refusal> {
        let views = &self.0.views;
        let taken = || views.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ");
        let facts = &header.image;
        match header.view {
            _ if views.is_empty() => Ok(()),
            None => refuse(format!("view unknown, the model takes {}", taken())),
            Some(view) if views.contains(&view) => Ok(()),
            Some(View::Frontal) if views.contains(&View::Pa) && views.contains(&View::Ap) => Ok(()),
            Some(_) if facts.view_contradicted => refuse(format!(
                "View Position, View Code Sequence and Patient Orientation contradict each other, the model takes {}",
                taken()
            )),
            Some(_) if !facts.view_modifiers.is_empty() => {
                let modifiers: Vec<_> = facts.view_modifiers.iter().map(|m| named(m)).collect();
                refuse(format!("view with modifier {}, the model takes {} as such", modifiers.join(", "), taken()))
            }
            Some(View::Frontal) => {
                refuse(format!("view FRONTAL, from the front or from behind is not said, the model takes {}", taken()))
            }
            Some(view) => refuse(format!("view {}, the model takes {}", view.as_str(), taken())),
        }
    }
}

/// Secondary Capture Image Storage and its multi-frame kinds (PS3.4 B.5).
fn is_secondary_capture(class: &Uid) -> bool {
    let kind = class.as_str().strip_prefix("1.2.840.10008.5.1.4.1.1.7");
    kind.is_some_and(|kind| kind.is_empty() || kind.starts_with('.'))
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
    use crate::domain::{Attributes, ImageFacts};

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
            image: ImageFacts::default(),
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
            ..ScopeCard::default()
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
    fn each_kind_of_picture_is_refused_by_its_own_rule_and_by_no_other() {
        let uid = |text| Uid::parse(text).unwrap();
        let types = |types: &[&str]| types.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let strict = ScopeCard {
            image_types_excluded: vec!["derived ".into()],
            localizers: false,
            secondary_captures: false,
            burned_in_annotations: false,
            photometric: vec!["MONOCHROME2".into()],
            ..ScopeCard::default()
        };
        let strict = Scope::new(strict).unwrap();
        type Change = Box<dyn Fn(&mut InstanceHeader)>;
        let rows: Vec<(Change, &str)> = vec![
            (
                Box::new(move |h| h.image.image_type = types(&["ORIGINAL", "PRIMARY", "LOCALIZER"])),
                "Image Type (0008,0008) says LOCALIZER, the model takes no localizers",
            ),
            (
                Box::new(move |h| h.image.image_type = types(&["DERIVED", "PRIMARY"])),
                "Image Type (0008,0008) says DERIVED, the model excludes it",
            ),
            (
                Box::new(move |h| h.sop_class = uid("1.2.840.10008.5.1.4.1.1.7.2")),
                "SOP class 1.2.840.10008.5.1.4.1.1.7.2 is a secondary capture, the model takes none",
            ),
            (
                Box::new(|h| h.image.conversion_type = "WSD".into()),
                "Conversion Type (0008,0064) WSD: a capture, the model takes none",
            ),
            (
                Box::new(|h| h.image.burned_in_annotation = Some(true)),
                "Burned In Annotation (0028,0301) is YES, the model takes none",
            ),
            (Box::new(|h| h.photometric = "RGB".into()), "Photometric Interpretation RGB, the model takes MONOCHROME2"),
        ];
        for (change, detail) in rows {
            let mut h = header();
            assert_eq!(strict.admits(&h), Ok(()));
            h.sop_class = uid("1.2.840.10008.5.1.4.1.1.77.1.1");
            assert_eq!(strict.admits(&h), Ok(()), "visible light is no capture");
            change(&mut h);
            assert_eq!(strict.admits(&h), Err(Refusal::new(RefusalCode::OutOfScope, detail)));
            assert_eq!(Scope::default().admits(&h), Ok(()), "{detail}");
        }
    }

    #[test]
    fn a_frontal_view_needs_both_directions_in_scope_and_a_doubtful_one_is_refused() {
        check(|h| h.view = Some(View::Frontal), None);
        let contradicted = |h: &mut InstanceHeader| {
            (h.view, h.image.view_contradicted) = (Some(View::Other), true);
        };
        check(
            contradicted,
            Some(
                "View Position, View Code Sequence and Patient Orientation contradict each other, the model takes PA, AP",
            ),
        );
        let modified = |h: &mut InstanceHeader| {
            (h.view, h.image.view_modifiers) = (Some(View::Other), vec!["399055006".into()]);
        };
        check(modified, Some("view with modifier 399055006, the model takes PA, AP as such"));
        let mut h = header();
        h.view = Some(View::Frontal);
        let pa = Scope::new(ScopeCard { views: vec![View::Pa], ..ScopeCard::default() }).unwrap();
        let detail = "view FRONTAL, from the front or from behind is not said, the model takes PA";
        assert_eq!(pa.admits(&h), Err(Refusal::new(RefusalCode::OutOfScope, detail)));
        let frontal = Scope::new(ScopeCard { views: vec![View::Frontal], ..ScopeCard::default() }).unwrap();
        assert_eq!(frontal.admits(&h), Ok(()));
    }

    #[test]
    fn what_is_no_image_is_in_no_scope() {
        let rows = [
            ("1.2.840.10008.5.1.4.1.1.11.1", false, Some(RefusalCode::NotAnImage)),
            ("1.2.840.10008.5.1.4.1.1.88.59", false, Some(RefusalCode::NotAnImage)),
            ("1.2.840.10008.5.1.4.1.1.66.4", true, Some(RefusalCode::NotAnImage)),
            ("1.2.840.10008.5.1.4.1.1.481.2", true, Some(RefusalCode::NotAnImage)),
            ("1.2.840.10008.5.1.4.1.1.481.1", true, None),
            ("1.2.840.10008.5.1.4.1.1.1.1", false, Some(RefusalCode::NoPixels)),
            ("1.2.840.10008.5.1.4.1.1.1.1", true, None),
        ];
        for (class, has_pixels, expected) in rows {
            let h = InstanceHeader { sop_class: Uid::parse(class).unwrap(), has_pixels, ..header() };
            assert_eq!(Scope::default().admits(&h).err().map(|r| r.code), expected, "{class}");
        }
    }

    #[test]
    fn a_card_without_the_rules_for_kinds_of_pictures_means_what_it_meant() {
        let card: ScopeCard = toml::from_str("modalities = [\"DX\"]").unwrap();
        assert_eq!(card, ScopeCard { modalities: vec!["DX".into()], ..ScopeCard::default() });
        let written = toml::to_string(&card).unwrap();
        assert!(!written.contains("localizers") && !written.contains("photometric"), "{written}");
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
            image_types_excluded: vec!["DERIVED\\PRIMARY".into()],
            photometric: vec![String::new()],
            ..ScopeCard::default()
        };
        let keys: Vec<_> = Scope::new(card).unwrap_err().into_iter().map(|f| f.0).collect();
        assert_eq!(
            keys,
            [
                "scope.modalities",
                "scope.body_parts",
                "scope.image_types_excluded",
                "scope.photometric",
                "scope.rows_min",
            ]
        );
    }
}
