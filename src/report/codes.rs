//! The coded concepts of a report: public codes, the whole private table, and how schemes are declared.
//!
//! Public codes are those of the template TID 1500 and its context groups (PS3.16); the private table is the one
//! that a test compares with its published list. Neighbours: `tree` uses the concepts, `header` declares the
//! schemes. Left out: findings, sites and groups, whose codes come from the model cards.

use crate::domain::Code;

/// A concept known at compile time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Concept {
    pub value: &'static str,
    pub scheme: &'static str,
    pub meaning: &'static str,
}

/// Designator of the private coding scheme.
pub const PRIVATE_SCHEME: &str = "99SIDELIGHT";

/// The private table: code value and meaning.
pub const PRIVATE_CODES: [(&str, &str); 37] = [
    ("RDER", "Race-dependent error risk of AI result"),
    ("RDER-MAX", "Highest race-dependent error risk in this report"),
    ("AIRESULT", "AI result at decision threshold"),
    ("THRESHOLD", "AI decision threshold"),
    ("PMISS", "Expected probability of missed finding"),
    ("PFALSE", "Expected probability of false alarm"),
    ("PMISS-GRP", "Probability of missed finding given racial group"),
    ("PFALSE-GRP", "Probability of false alarm given racial group"),
    ("PSPREAD", "Range of error probability across racial groups"),
    ("CILEVEL", "Confidence level of uncertainty range"),
    ("GRADALIGN", "Gradient alignment of finding and race directions"),
    ("CFSHIFT", "Counterfactual score shift"),
    ("OODSCORE", "Out-of-distribution score"),
    ("PRACE", "Estimated probability of racial group"),
    ("DISCLOSURE", "Disclosure of racial group estimates"),
    ("INDREASON", "Reason audit is indeterminate"),
    ("RDER-NONE", "No elevated race-dependent error risk found"),
    ("RDER-ELEV", "Elevated race-dependent error risk"),
    ("RDER-HIGH", "High race-dependent error risk"),
    ("RDER-INDET", "Indeterminate, audit abstained"),
    ("DISCL-NO", "Withheld"),
    ("DISCL-YES", "Disclosed"),
    ("IND-OOD", "Image outside validated population"),
    ("EXCESS", "Excess error probability given image"),
    ("COMOVE", "Co-movement of finding and race scores"),
    ("IND-SCOPE", "View or modality outside model scope"),
    ("IND-RANGE", "Score outside calibrated range"),
    ("IND-CELLS", "Too few reference patients in a group"),
    ("IND-STALE", "Reference profile stale or superseded"),
    ("IND-DRIFT", "Drift alarm active"),
    ("IND-WEAK", "Audit model not reliable at this site"),
    ("IND-WIDE", "Uncertainty too wide to decide"),
    ("IND-OFF", "Per-study inference disabled at this site"),
    ("IND-NOCAL", "No calibration data for this finding"),
    ("IND-QUALITY", "Image quality insufficient"),
    ("IND-CONFLICT", "Evidence measures disagree"),
    ("IND-FAILED", "Audit model failed"),
];

pub(super) const REPORT_TITLE: Concept = dcm("126000", "Imaging Measurement Report");
pub(super) const LANGUAGE: Concept = dcm("121049", "Language of Content Item and Descendants");
pub(super) const ENGLISH_US: Concept = concept("en-US", "RFC5646", "English (United States)");
pub(super) const OBSERVER_TYPE: Concept = dcm("121005", "Observer Type");
pub(super) const DEVICE: Concept = dcm("121007", "Device");
pub(super) const OBSERVER_UID: Concept = dcm("121012", "Device Observer UID");
pub(super) const OBSERVER_NAME: Concept = dcm("121013", "Device Observer Name");
pub(super) const OBSERVER_MANUFACTURER: Concept = dcm("121014", "Device Observer Manufacturer");
pub(super) const OBSERVER_MODEL: Concept = dcm("121015", "Device Observer Model Name");
pub(super) const OBSERVER_SERIAL: Concept = dcm("121016", "Device Observer Serial Number");
pub(super) const PROCEDURE_REPORTED: Concept = dcm("121058", "Procedure reported");
pub(super) const IMAGE_LIBRARY: Concept = dcm("111028", "Image Library");
pub(super) const IMAGE_LIBRARY_GROUP: Concept = dcm("126200", "Image Library Group");
pub(super) const MODALITY: Concept = dcm("121139", "Modality");
pub(super) const TARGET_REGION: Concept = dcm("123014", "Target Region");
pub(super) const MEASUREMENTS: Concept = dcm("126010", "Imaging Measurements");
pub(super) const MEASUREMENT_GROUP: Concept = dcm("125007", "Measurement Group");
pub(super) const TRACKING_ID: Concept = dcm("112039", "Tracking Identifier");
pub(super) const TRACKING_UID: Concept = dcm("112040", "Tracking Unique Identifier");
pub(super) const FINDING: Concept = dcm("121071", "Finding");
pub(super) const FINDING_SITE: Concept = sct("363698007", "Finding Site");
pub(super) const ALGORITHM_NAME: Concept = dcm("111001", "Algorithm Name");
pub(super) const ALGORITHM_VERSION: Concept = dcm("111003", "Algorithm Version");
pub(super) const ALGORITHM_MANUFACTURER: Concept = dcm("122405", "Algorithm Manufacturer");
pub(super) const ALGORITHM_PARAMETERS: Concept = dcm("111002", "Algorithm Parameters");
pub(super) const CERTAINTY: Concept = dcm("111012", "Certainty of Finding");
pub(super) const RANGE_PLUS: Concept = sct("371886008", "+, range of upper measurement uncertainty");
pub(super) const RANGE_MINUS: Concept = sct("371885007", "-, range of lower measurement uncertainty");
pub(super) const RACIAL_GROUP: Concept = sct("415229000", "Racial group");
pub(super) const MEASUREMENT_SOURCE: Concept = dcm("121112", "Source of Measurement");
pub(super) const NEGATIVE: Concept = sct("260385009", "Negative");
pub(super) const POSITIVE: Concept = sct("10828004", "Positive");
pub(super) const QUALITATIVE: Concept = concept("C0034375", "UMLS", "Qualitative Evaluations");
pub(super) const COMMENT: Concept = dcm("121106", "Comment");
pub(super) const PROCESSING_EQUIPMENT: Concept = dcm("109102", "Processing Equipment");
pub(super) const SOURCE_IMAGE: Concept = dcm("121322", "Source image for image processing operation");
pub(super) const GRADIENT_ACTIVATION: Concept = dcm("130403", "Gradient-weighted class activation");
pub(super) const SALIENCY: Concept = dcm("130404", "Saliency");
pub(super) const QUANTITY: Concept = sct("246205007", "Quantity");
pub(super) const NO_UNITS: Concept = concept("1", "UCUM", "no units");
pub(super) const PERCENT: Concept = concept("%", "UCUM", "Percent");

const XR_PROCEDURE: Concept = concept("43468-8", "LN", "XR unspecified body region");
const CT_PROCEDURE: Concept = concept("25045-6", "LN", "CT unspecified body region");
const IMAGING_PROCEDURE: Concept = sct("363679005", "Imaging procedure");

/// CID 29 acquisition modalities, with `OT` for the rest.
const MODALITIES: [Concept; 17] = [
    dcm("CR", "Computed Radiography"),
    dcm("CT", "Computed Tomography"),
    dcm("DX", "Digital Radiography"),
    dcm("ES", "Endoscopy"),
    dcm("GM", "General Microscopy"),
    dcm("IO", "Intra-oral Radiography"),
    dcm("MG", "Mammography"),
    dcm("MR", "Magnetic Resonance"),
    dcm("NM", "Nuclear Medicine"),
    dcm("OP", "Ophthalmic Photography"),
    dcm("PT", "Positron emission tomography"),
    dcm("PX", "Panoramic X-Ray"),
    dcm("RF", "Radiofluoroscopy"),
    dcm("RG", "Radiographic imaging"),
    dcm("US", "Ultrasound"),
    dcm("XA", "X-Ray Angiography"),
    dcm("XC", "External-camera Photography"),
];
const OTHER_MODALITY: Concept = dcm("OT", "Other Modality");

/// Body Part Examined (PS3.16 Annex L) to the region's code.
const REGIONS: [(&str, Concept); 14] = [
    ("CHEST", sct("816094009", "Chest")),
    ("ABDOMEN", sct("818981001", "Abdomen")),
    ("BRAIN", sct("12738006", "Brain")),
    ("BREAST", sct("76752008", "Breast")),
    ("CSPINE", sct("122494005", "Cervical spine")),
    ("FOOT", sct("56459004", "Foot")),
    ("HAND", sct("85562004", "Hand")),
    ("HEAD", sct("69536005", "Head")),
    ("HEART", sct("80891009", "Heart")),
    ("HIP", sct("29836001", "Hip")),
    ("KNEE", sct("72696002", "Knee")),
    ("LSPINE", sct("122496007", "Lumbar spine")),
    ("NECK", sct("45048000", "Neck")),
    ("PELVIS", sct("816092008", "Pelvis")),
];

/// Schemes that are declared with these identifiers: designator, UID, name.
const DECLARED_SCHEMES: [(&str, &str, &str); 4] = [
    (PRIVATE_SCHEME, "2.25.128123111354957295651148222979685111299", "sidelight private codes"),
    ("CDCREC", "2.16.840.1.113883.6.238", "CDC Race and Ethnicity"),
    ("SRT", "2.16.840.1.113883.6.96", "SNOMED CT using SNOMED-RT style values"),
    ("C4", "2.16.840.1.113883.6.12", "Current Procedural Terminology"),
];

impl Concept {
    pub(super) fn code(self) -> Code {
        Code::new(self.value, self.scheme, self.meaning)
    }
}

impl From<Concept> for Code {
    fn from(concept: Concept) -> Self {
        concept.code()
    }
}

/// The private concept with that code value.
///
/// # Panics
/// If the value is not in [`PRIVATE_CODES`]; callers pass literals, and a test goes through all of them.
pub(super) fn private(value: &'static str) -> Concept {
    let (value, meaning) = PRIVATE_CODES.iter().find(|(v, _)| *v == value).expect("a code of the private table");
    Concept { value, scheme: PRIVATE_SCHEME, meaning }
}

/// The code of a Modality (0008,0060).
pub(super) fn modality(modality: &str) -> Concept {
    MODALITIES.into_iter().find(|c| c.value == modality).unwrap_or(OTHER_MODALITY)
}

/// The code of a Body Part Examined (0018,0015), if it is one of the few that are known.
pub(super) fn region(body_part: &str) -> Option<Concept> {
    REGIONS.iter().find(|(name, _)| *name == body_part).map(|(_, c)| *c)
}

/// What was reported on, where the source names no procedure code.
pub(super) fn procedure(modality: &str) -> Concept {
    match modality {
        "CR" | "DX" => XR_PROCEDURE,
        "CT" => CT_PROCEDURE,
        _ => IMAGING_PROCEDURE,
    }
}

/// UID and name of a scheme that can be declared.
pub(super) fn declaration(designator: &str) -> Option<(&'static str, &'static str)> {
    DECLARED_SCHEMES.iter().find(|(d, ..)| *d == designator).map(|(_, uid, name)| (*uid, *name))
}

const fn concept(value: &'static str, scheme: &'static str, meaning: &'static str) -> Concept {
    Concept { value, scheme, meaning }
}

const fn dcm(value: &'static str, meaning: &'static str) -> Concept {
    concept(value, "DCM", meaning)
}

const fn sct(value: &'static str, meaning: &'static str) -> Concept {
    concept(value, "SCT", meaning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{IndReason, Level};

    #[test]
    fn every_code_keeps_the_limits_of_its_value_representation() {
        for (value, _) in PRIVATE_CODES {
            assert_eq!(private(value).code().fault(), None, "{value}");
        }
        for c in MODALITIES.into_iter().chain(REGIONS.into_iter().map(|(_, c)| c)) {
            assert_eq!(c.code().fault(), None, "{c:?}");
        }
    }

    #[test]
    fn levels_and_reasons_of_the_domain_are_in_the_private_table() {
        let levels = [Level::NotElevated, Level::ScoreDependent, Level::Elevated, Level::Indeterminate];
        let reasons = [
            IndReason::Failed,
            IndReason::Scope,
            IndReason::Quality,
            IndReason::Ood,
            IndReason::NoCal,
            IndReason::Stale,
            IndReason::Drift,
            IndReason::Off,
            IndReason::Weak,
            IndReason::Cells,
            IndReason::Range,
            IndReason::Wide,
            IndReason::Conflict,
        ];
        for code in levels.map(Level::code).into_iter().chain(reasons.map(IndReason::code)) {
            assert!(PRIVATE_CODES.contains(&code), "{code:?}");
        }
        assert_eq!(PRIVATE_CODES.iter().filter(|(v, _)| v.starts_with("IND-")).count(), reasons.len());
    }

    #[test]
    fn an_unknown_modality_is_reported_as_other() {
        assert_eq!(modality("DX").value, "DX");
        assert_eq!(modality("ZZ").value, "OT");
        assert_eq!(procedure("DX").scheme, "LN");
        assert_eq!(procedure("MR").value, "363679005");
    }
}
