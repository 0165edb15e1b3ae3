//! The header of a report: what is copied from the source, what is new, and what refers to what.
//!
//! Modules Patient, General Study, Patient Study, Clinical Trial, SR Document Series, General Equipment, SR
//! Document General and SOP Common (PS3.3 A.35). Copying is by an explicit list: Ethnic Group, comments, medical
//! history, the modality's equipment and private elements are not on it. References to the retired detached
//! management objects (Referenced Patient and Study Sequence) are left out too. Neighbours: `write` encodes,
//! `schemes` declares.

use chrono::{DateTime, FixedOffset};
use dicom_core::VR;
use dicom_object::InMemDicomObject;

use super::codes;
use super::content::sop_reference;
use super::schemes::{Schemes, codes_in};
use super::tree::Algorithm;
use super::write::{plain, put, put_code, put_empty, put_items, put_verbatim, to_tag};
use super::{Completion, MANUFACTURER, MODEL_NAME, Observer, Related, ReportOptions};
use crate::domain::{Attribute, AttributeValue, Code, InstanceHeader, Uid};

const SERIES_NUMBER: &str = "9801";
const SERIES_DESCRIPTION: &str = "AI result audit (race-dependent error risk)";
const SPECIFIC_CHARACTER_SET: u32 = 0x0008_0005;
const PROCEDURE_CODE_SEQUENCE: u32 = 0x0008_1032;
/// Patient Identity Removed, De-identification Method and its codes: group 0012, and no matter of a trial.
const DE_IDENTIFICATION: [u32; 3] = [0x0012_0062, 0x0012_0063, 0x0012_0064];
const TIMEZONE_OFFSET: u32 = 0x0008_0201;

/// What may be copied, with its value representation, and whether it must exist even if empty (Type 2).
const COPIED: [(u32, VR, bool); 72] = [
    // SOP Common
    (SPECIFIC_CHARACTER_SET, VR::CS, false),
    // General Study
    (0x0008_0020, VR::DA, true),  // Study Date
    (0x0008_0030, VR::TM, true),  // Study Time
    (0x0008_0050, VR::SH, true),  // Accession Number
    (0x0008_0051, VR::SQ, false), // Issuer of Accession Number
    (0x0008_0090, VR::PN, true),  // Referring Physician's Name
    (0x0008_0096, VR::SQ, false), // Referring Physician Identification
    (0x0008_009c, VR::PN, false), // Consulting Physician's Name
    (0x0008_009d, VR::SQ, false), // Consulting Physician Identification
    (0x0008_1030, VR::LO, false), // Study Description
    (PROCEDURE_CODE_SEQUENCE, VR::SQ, false),
    (0x0008_1048, VR::PN, false), // Physician(s) of Record
    (0x0008_1049, VR::SQ, false), // Physician(s) of Record Identification
    (0x0008_1060, VR::PN, false), // Name of Physician(s) Reading Study
    (0x0008_1062, VR::SQ, false), // Physician(s) Reading Study Identification
    (0x0020_0010, VR::SH, true),  // Study ID
    (0x0032_1033, VR::LO, false), // Requesting Service
    // Patient
    (0x0010_0010, VR::PN, true),  // Patient's Name
    (0x0010_0020, VR::LO, true),  // Patient ID
    (0x0010_0021, VR::LO, false), // Issuer of Patient ID
    (0x0010_0022, VR::CS, false), // Type of Patient ID
    (0x0010_0024, VR::SQ, false), // Issuer of Patient ID Qualifiers
    (0x0010_0026, VR::SQ, false), // Source Patient Group Identification
    (0x0010_0027, VR::SQ, false), // Group of Patients Identification
    (0x0010_0030, VR::DA, true),  // Patient's Birth Date
    (0x0010_0032, VR::TM, false), // Patient's Birth Time
    (0x0010_0033, VR::LO, false), // Patient's Birth Date in Alternative Calendar
    (0x0010_0035, VR::CS, false), // Patient's Alternative Calendar
    (0x0010_0040, VR::CS, true),  // Patient's Sex
    (0x0010_0200, VR::CS, false), // Quality Control Subject
    (0x0010_1001, VR::PN, false), // Other Patient Names
    (0x0010_1002, VR::SQ, false), // Other Patient IDs
    (0x0010_2201, VR::LO, false), // Patient Species Description
    (0x0010_2202, VR::SQ, false), // Patient Species Code
    (0x0010_2292, VR::LO, false), // Patient Breed Description
    (0x0010_2293, VR::SQ, false), // Patient Breed Code
    (0x0010_2297, VR::PN, false), // Responsible Person
    (0x0010_2298, VR::CS, false), // Responsible Person Role
    (0x0010_2299, VR::LO, false), // Responsible Organization
    // De-identification
    (0x0012_0062, VR::CS, false), // Patient Identity Removed
    (0x0012_0063, VR::LO, false), // De-identification Method
    (0x0012_0064, VR::SQ, false), // De-identification Method Code
    (0x0028_0303, VR::CS, false), // Longitudinal Temporal Information Modified
    // Patient Study
    (0x0010_1010, VR::AS, false), // Patient's Age
    (0x0010_1020, VR::DS, false), // Patient's Size
    (0x0010_1030, VR::DS, false), // Patient's Weight
    (0x0010_2203, VR::CS, false), // Patient's Sex Neutered
    (0x0038_0010, VR::LO, false), // Admission ID
    (0x0038_0014, VR::SQ, false), // Issuer of Admission ID
    (0x0038_0060, VR::LO, false), // Service Episode ID
    (0x0038_0064, VR::SQ, false), // Issuer of Service Episode ID
    // Clinical Trial Subject and Study
    (0x0012_0010, VR::LO, false), // Sponsor Name
    (0x0012_0020, VR::LO, false), // Protocol ID
    (0x0012_0021, VR::LO, false), // Protocol Name
    (0x0012_0022, VR::LO, false), // Issuer of Protocol ID
    (0x0012_0023, VR::SQ, false), // Other Protocol IDs
    (0x0012_0030, VR::LO, false), // Site ID
    (0x0012_0031, VR::LO, false), // Site Name
    (0x0012_0032, VR::LO, false), // Issuer of Site ID
    (0x0012_0040, VR::LO, false), // Subject ID
    (0x0012_0041, VR::LO, false), // Issuer of Subject ID
    (0x0012_0042, VR::LO, false), // Subject Reading ID
    (0x0012_0043, VR::LO, false), // Issuer of Subject Reading ID
    (0x0012_0050, VR::LO, false), // Time Point ID
    (0x0012_0051, VR::ST, false), // Time Point Description
    (0x0012_0052, VR::FD, false), // Longitudinal Temporal Offset from Event
    (0x0012_0053, VR::CS, false), // Longitudinal Temporal Event Type
    (0x0012_0055, VR::LO, false), // Issuer of Time Point ID
    (0x0012_0081, VR::LO, false), // Ethics Committee Name
    (0x0012_0082, VR::LO, false), // Ethics Committee Approval Number
    (0x0012_0083, VR::SQ, false), // Consent for Clinical Trial Use
    (0x0012_0060, VR::LO, false), // Coordinating Center Name
];

/// The document without its content tree.
pub(super) fn build(
    images: &[&InstanceHeader],
    source: &InstanceHeader,
    algorithms: &[Algorithm],
    schemes: &Schemes,
    options: &ReportOptions,
) -> InMemDicomObject {
    let mut document = InMemDicomObject::new_empty();
    copy(&mut document, source, schemes);
    let now = put_times(&mut document, images, options.now);
    put_document(&mut document, options);
    put_equipment(&mut document, algorithms, &options.observer, now);
    put_items(&mut document, 0x0008_0110, schemes.items());
    put_items(&mut document, 0x0040_a375, evidence(images));
    if !options.related.is_empty() {
        put_items(&mut document, 0x0008_1115, related(&options.related));
    }
    if let Some(p) = &options.predecessor {
        let reference = sop_reference(&p.sop_class, &p.sop_instance);
        put_items(
            &mut document,
            0x0040_a360,
            vec![study_item(&p.study, vec![series_item(&p.series, vec![reference])])],
        );
    }
    document
}

/// Referenced Series Sequence of Common Instance Reference (PS3.3 C.12.2), by series: what belongs to the report and is no
/// evidence of it. The module is not of the report's IOD, which Type 3 attributes may extend (PS3.2, Standard Extended);
/// Referenced Instance Sequence of SR Document General is for documents that are equivalent.
fn related(instances: &[Related]) -> Vec<InMemDicomObject> {
    let mut series: Vec<(&Uid, Vec<InMemDicomObject>)> = Vec::new();
    for Related { series: of, sop_class, sop_instance } in instances {
        let reference = sop_reference(sop_class, sop_instance);
        match series.iter_mut().find(|(uid, _)| *uid == of) {
            Some((_, references)) => references.push(reference),
            None => series.push((of, vec![reference])),
        }
    }
    let item = |(uid, references): (&Uid, Vec<InMemDicomObject>)| {
        let mut item = InMemDicomObject::new_empty();
        put_items(&mut item, 0x0008_114a, references);
        put(&mut item, 0x0020_000e, VR::UI, uid.as_str());
        item
    };
    series.into_iter().map(item).collect()
}

/// The procedure codes of the source, as far as a reader can interpret them; else one by its modality.
pub(super) fn procedures(source: &InstanceHeader, schemes: &Schemes) -> Vec<Code> {
    let copied = source.copied.get(&PROCEDURE_CODE_SEQUENCE).filter(|a| schemes.covers(&a.value));
    let mut codes: Vec<Code> = copied.map(|a| codes_in(&a.value).into_iter().flatten().collect()).unwrap_or_default();
    if codes.is_empty() {
        codes.push(codes::procedure(&source.modality).code());
    }
    codes
}

/// The values of every attribute that would be copied, for the schemes that their codes use.
pub(super) fn copied_values(source: &InstanceHeader) -> impl Iterator<Item = &AttributeValue> {
    COPIED.iter().filter_map(|(tag, ..)| source.copied.get(tag)).map(|a| &a.value)
}

/// Patient and study, as the list says.
pub(super) fn copy(document: &mut InMemDicomObject, source: &InstanceHeader, schemes: &Schemes) {
    for (tag, vr, required) in COPIED {
        // What identifies patient and study, and what tells how to read it, is copied even if it breaks a rule.
        let copied = source.copied.get(&tag).is_some_and(|a| {
            (required || tag == SPECIFIC_CHARACTER_SET || conforms(vr, &a.value))
                && schemes.covers(&a.value)
                && put_verbatim(document, tag, vr, &a.value)
        });
        if required && !copied {
            put_empty(document, tag, vr);
        }
    }
    complete_clinical_trial(document);
    put(document, 0x0020_000d, VR::UI, source.study.as_str());
}

/// Gives the Clinical Trial modules the Type 2 attributes that their source lacks (PS3.3 C.7.1.3, C.7.2.3). Without
/// sponsor, protocol and subject there is no trial that a reader could tell, and what remains is left out.
fn complete_clinical_trial(document: &mut InMemDicomObject) {
    let stated = |tag: u32| {
        let value = document.get(to_tag(tag)).and_then(|e| e.to_bytes().ok());
        value.is_some_and(|bytes| bytes.iter().any(|b| !matches!(b, 0 | b' ')))
    };
    let subject = stated(0x0012_0040) || stated(0x0012_0042);
    if stated(0x0012_0010) && stated(0x0012_0020) && subject {
        // Protocol Name, Site ID, Site Name, Time Point ID, Coordinating Center Name
        for tag in [0x0012_0021, 0x0012_0030, 0x0012_0031, 0x0012_0050, 0x0012_0060] {
            if document.get(to_tag(tag)).is_none() {
                put_empty(document, tag, VR::LO);
            }
        }
        return;
    }
    for (tag, ..) in COPIED.iter().filter(|(tag, ..)| tag >> 16 == 0x0012 && !DE_IDENTIFICATION.contains(tag)) {
        document.remove_element(to_tag(*tag));
    }
}

/// Writes the dates and times of the document in the time zone of its study, so that copied and new times are read
/// alike. Returns the moment in that zone.
pub(super) fn put_times(
    document: &mut InMemDicomObject,
    images: &[&InstanceHeader],
    now: DateTime<FixedOffset>,
) -> DateTime<FixedOffset> {
    let mut now = now;
    if let Some(zone) = common_time_zone(images) {
        put_verbatim(document, TIMEZONE_OFFSET, VR::SH, zone);
        if let Some(offset) = parse_offset(zone) {
            now = now.with_timezone(&offset);
        }
    }
    let (date, time) = (now.format("%Y%m%d").to_string(), now.format("%H%M%S").to_string());
    // Instance Creation, Series, Content
    for tag in [0x0008_0012, 0x0008_0021, 0x0008_0023] {
        put(document, tag, VR::DA, &date);
    }
    for tag in [0x0008_0013, 0x0008_0031, 0x0008_0033] {
        put(document, tag, VR::TM, &time);
    }
    now
}

fn put_document(document: &mut InMemDicomObject, options: &ReportOptions) {
    put(document, 0x0008_0016, VR::UI, options.sop_class.uid());
    put(document, 0x0008_0018, VR::UI, options.sop_instance.as_str());
    put(document, 0x0008_0060, VR::CS, "SR");
    put(document, 0x0008_103e, VR::LO, SERIES_DESCRIPTION);
    put(document, 0x0020_000e, VR::UI, options.series.as_str());
    put(document, 0x0020_0011, VR::IS, SERIES_NUMBER);
    put(document, 0x0020_0013, VR::IS, "1");
    // Type 2: Referenced Performed Procedure Step and Performed Procedure Code, neither is known.
    put_empty(document, 0x0008_1111, VR::SQ);
    put_empty(document, 0x0040_a372, VR::SQ);
    let (flag, description) = match &options.completion {
        Completion::Complete => ("COMPLETE", "Every finding audited or marked indeterminate".to_owned()),
        Completion::Partial(reason) => ("PARTIAL", plain(reason, 64)),
    };
    put(document, 0x0040_a491, VR::CS, flag);
    if !description.is_empty() {
        put(document, 0x0040_a492, VR::LO, &description);
    }
    put(document, 0x0040_a493, VR::CS, "UNVERIFIED");
    put(document, 0x0040_a496, VR::CS, "PRELIMINARY");
}

/// The node, and each model as Contributing Equipment.
pub(super) fn put_equipment(
    document: &mut InMemDicomObject,
    algorithms: &[Algorithm],
    observer: &Observer,
    now: DateTime<FixedOffset>,
) {
    put(document, 0x0008_0070, VR::LO, MANUFACTURER);
    put(document, 0x0008_1090, VR::LO, MODEL_NAME);
    put(document, 0x0018_1000, VR::LO, &observer.serial_number());
    put(document, 0x0018_1002, VR::UI, observer.device_uid.as_str());
    put(document, 0x0018_1020, VR::LO, env!("CARGO_PKG_VERSION"));
    let moment = now.format("%Y%m%d%H%M%S%z").to_string();
    let item = |algorithm: &Algorithm| {
        let mut item = InMemDicomObject::new_empty();
        put(&mut item, 0x0008_0070, VR::LO, &algorithm.manufacturer);
        put(&mut item, 0x0008_1090, VR::LO, &algorithm.name);
        put(&mut item, 0x0018_1002, VR::UI, algorithm.device_uid.as_str());
        put(&mut item, 0x0018_1020, VR::LO, &algorithm.version);
        put(&mut item, 0x0018_a002, VR::DT, &moment);
        put(&mut item, 0x0018_a003, VR::ST, algorithm.role.description());
        put_code(&mut item, 0x0040_a170, &codes::PROCESSING_EQUIPMENT.code());
        item
    };
    put_items(document, 0x0018_a001, algorithms.iter().map(item).collect());
}

/// Current Requested Procedure Evidence: every analysed instance, in the order of its series.
fn evidence(images: &[&InstanceHeader]) -> Vec<InMemDicomObject> {
    let Some(first) = images.first() else { return Vec::new() };
    let mut series: Vec<(&Uid, Vec<InMemDicomObject>)> = Vec::new();
    for image in images {
        let reference = sop_reference(&image.sop_class, &image.sop_instance);
        match series.iter_mut().find(|(uid, _)| **uid == image.series) {
            Some((_, references)) => references.push(reference),
            None => series.push((&image.series, vec![reference])),
        }
    }
    vec![study_item(&first.study, series.into_iter().map(|(uid, r)| series_item(uid, r)).collect())]
}

fn study_item(study: &Uid, series: Vec<InMemDicomObject>) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put_items(&mut item, 0x0008_1115, series);
    put(&mut item, 0x0020_000d, VR::UI, study.as_str());
    item
}

fn series_item(series: &Uid, references: Vec<InMemDicomObject>) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put_items(&mut item, 0x0008_1199, references);
    put(&mut item, 0x0020_000e, VR::UI, series.as_str());
    item
}

/// Whether every value keeps the format of its value representation (PS3.5 6.2), for those that have one.
fn conforms(vr: VR, value: &AttributeValue) -> bool {
    let AttributeValue::Bytes(bytes) = value else { return true };
    if !matches!(vr, VR::AS | VR::CS | VR::DA | VR::DS | VR::TM) {
        return true;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    text.trim_end_matches(['\0', ' ']).split('\\').map(str::trim).filter(|v| !v.is_empty()).all(|v| match vr {
        VR::AS => v.strip_suffix(['D', 'W', 'M', 'Y']).is_some_and(|age| digits(age, 3)),
        VR::DA => digits(v, 8),
        VR::DS => v.len() <= 16 && v.parse::<f64>().is_ok_and(f64::is_finite),
        VR::TM => {
            let (time, fraction) = v.split_once('.').map_or((v, "0"), |(time, fraction)| (time, fraction));
            let whole = if v.contains('.') { digits(time, 6) } else { [2, 4, 6].iter().any(|n| digits(time, *n)) };
            whole && (1..=6).any(|n| digits(fraction, n))
        }
        _ => v.len() <= 16 && v.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b" _".contains(&b)),
    })
}

/// Timezone Offset From UTC, if every image states the same.
fn common_time_zone<'a>(images: &[&'a InstanceHeader]) -> Option<&'a AttributeValue> {
    let zone = |image: &&'a InstanceHeader| image.copied.get(&TIMEZONE_OFFSET).map(|Attribute { value, .. }| value);
    let first = images.first().and_then(zone)?;
    images.iter().all(|image| zone(image) == Some(first)).then_some(first)
}

/// `+0130` as an offset.
fn parse_offset(value: &AttributeValue) -> Option<FixedOffset> {
    let AttributeValue::Bytes(bytes) = value else { return None };
    let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\0']);
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i32, i32) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    FixedOffset::east_opt(sign * (hours * 60 + minutes) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_race_nor_comments_nor_history_are_on_the_list_of_copied_attributes() {
        let never = [0x0010_2160, 0x0010_2161, 0x0010_2162, 0x0010_4000, 0x0032_4000, 0x0010_21b0, 0x0008_0070];
        for tag in never {
            assert!(!COPIED.iter().any(|(t, ..)| *t == tag), "{tag:08x}");
        }
        assert!(COPIED.iter().all(|(tag, ..)| (tag >> 16) % 2 == 0), "no private element");
    }

    #[test]
    fn an_optional_attribute_is_copied_only_in_its_format() {
        let rows: &[(VR, &[u8], bool)] = &[
            (VR::AS, b"062Y", true),
            (VR::AS, b"62", false),
            (VR::AS, b"", true),
            (VR::DA, b"20010101", true),
            (VR::DA, b"2001.01.01", false),
            (VR::TM, b"0815", true),
            (VR::TM, b"081500.123 ", true),
            (VR::TM, b"08:15:00", false),
            (VR::DS, b"70.5 ", true),
            (VR::DS, b"70,5", false),
            (VR::CS, b"ISO_IR 100", true),
            (VR::CS, b"\\ISO 2022 IR 87", true),
            (VR::CS, b"yes", false),
            (VR::LO, b"\xff any bytes", true),
        ];
        for (vr, bytes, expected) in rows {
            assert_eq!(conforms(*vr, &AttributeValue::Bytes(bytes.to_vec())), *expected, "{vr:?} {bytes:?}");
        }
    }

    #[test]
    fn a_time_zone_is_read_as_the_standard_writes_it() {
        let rows: &[(&str, Option<i32>)] = &[
            ("+0000", Some(0)),
            ("-0500", Some(-18_000)),
            ("+0530 ", Some(19_800)),
            ("+1400", Some(50_400)),
            ("0100", None),
            ("+01:00", None),
            ("+9900", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let value = AttributeValue::Bytes(text.as_bytes().to_vec());
            assert_eq!(parse_offset(&value).map(|o| o.local_minus_utc()), *expected, "{text:?}");
        }
    }
}
