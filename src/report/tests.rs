//! Reports built from sample assessments and read back with dicom-rs; the rest is checked by dcmtk, dicom3tools and
//! highdicom in `tests/it/report.rs`.

use std::collections::BTreeMap;

use chrono::TimeZone;
use dicom_core::Tag;
use dicom_object::{DefaultDicomObject, InMemDicomObject};

use super::*;
use crate::domain::{
    Attribute, AttributeValue, Attributes, Direction, Disclosed, Finding, FindingAssessment, Group, GroupEstimate,
    IndReason, Interval, Level, LineKind, Probability, Reliance,
};

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn interval(estimate: f64, lower: f64, upper: f64) -> Option<Interval> {
    Some(Interval { estimate, lower, upper })
}

fn model(name: &str, device: &str) -> ModelIdentity {
    ModelIdentity {
        name: name.into(),
        version: "1.2.0".into(),
        manufacturer: "Example".into(),
        weights: Digest::of(name.as_bytes()),
        digest_of: DigestOf::Weights,
        contract: "imagenet-rgb@224/v1 0123456789ab".into(),
        device_uid: uid(device),
        phantoms_only: true,
    }
}

fn finding(key: &str, code: &str, meaning: &str) -> Finding {
    Finding {
        key: key.into(),
        code: Code::new(code, "SCT", meaning),
        site: Some(Code::new("816094009", "SCT", "Chest")),
        threshold: Probability::new(0.5).unwrap(),
    }
}

fn negative() -> FindingAssessment {
    FindingAssessment {
        finding: finding("pneumothorax", "36118008", "Pneumothorax"),
        clinical: model("ChestNet", "2.25.11"),
        score: Some(Probability::new(0.12).unwrap()),
        positive: Some(false),
        direction: Some(Direction::Miss),
        level: Level::ScoreDependent,
        reasons: vec![],
        expected_error: interval(0.31, 0.24, 0.40),
        spread: interval(0.18, 0.12, 0.25),
        disclosed: None,
    }
}

pub(super) fn positive() -> FindingAssessment {
    FindingAssessment {
        finding: finding("effusion", "60046008", "Pleural effusion"),
        score: Some(Probability::new(0.83).unwrap()),
        positive: Some(true),
        direction: Some(Direction::FalseAlarm),
        level: Level::NotElevated,
        expected_error: interval(0.06, 0.04, 0.085),
        spread: interval(0.015, 0.005, 0.03),
        ..negative()
    }
}

pub(super) fn indeterminate(reason: IndReason) -> FindingAssessment {
    FindingAssessment {
        finding: finding("edema", "19242006", "Pulmonary edema"),
        level: Level::Indeterminate,
        reasons: vec![reason, IndReason::Wide],
        expected_error: None,
        spread: None,
        ..negative()
    }
}

pub(super) fn disclosed() -> FindingAssessment {
    let group = |key: &str, code: &str, posterior, error| GroupEstimate {
        group: Group { key: key.into(), code: Code::new(code, "CDCREC", key) },
        posterior,
        error,
    };
    FindingAssessment {
        level: Level::Elevated,
        disclosed: Some(Disclosed {
            groups: vec![
                group("Asian", "2028-9", 0.075, None),
                group("Black or African American", "2054-5", 0.625, interval(0.42, 0.3, 0.5)),
                group("White", "2106-3", 0.3, interval(0.24, 0.2, 0.28)),
            ],
            excess: interval(0.11, 0.06, 0.16),
            ambiguity: Some(0.02),
        }),
        ..negative()
    }
}

pub(super) fn assessment(findings: Vec<FindingAssessment>) -> Assessment {
    Assessment { audit: model("RaceNet", "2.25.12"), profile: "site-2026-03".into(), findings }
}

/// What is known of a finding's model at the site.
pub(super) fn evidence_on(f: &FindingAssessment) -> FindingEvidence {
    let value = |estimate| Interval { estimate, lower: estimate - 0.095, upper: estimate + 0.095 };
    FindingEvidence {
        model: f.clinical.key(),
        finding: f.finding.key.clone(),
        reliance: Reliance::Consistent,
        lines: vec![
            (LineKind::CoMovement, value(0.31)),
            (LineKind::GradientAlignment, value(0.2)),
            (LineKind::DoseResponse, value(-0.05)),
            (LineKind::Leakage, value(0.7)),
        ],
        patients: 412,
    }
}

fn attribute(vr: &str, bytes: &[u8]) -> Attribute {
    Attribute { vr: vr.into(), value: AttributeValue::Bytes(bytes.to_vec()) }
}

fn image(series: &str, instance: &str) -> InstanceHeader {
    InstanceHeader {
        study: uid("1.2.3"),
        series: uid(series),
        sop_instance: uid(instance),
        sop_class: uid("1.2.840.10008.5.1.4.1.1.1"),
        transfer_syntax: uid("1.2.840.10008.1.2.1"),
        modality: "CR".into(),
        body_part: "CHEST".into(),
        view: None,
        manufacturer: String::new(),
        model_name: String::new(),
        rows: 16,
        columns: 16,
        frames: 1,
        bits_allocated: 16,
        bits_stored: 12,
        photometric: "MONOCHROME2".into(),
        has_pixels: true,
        image: Default::default(),
        copied: Attributes::from([
            (0x0008_0005, attribute("CS", b"ISO_IR 100")),
            (0x0008_0201, attribute("SH", b"-0500")),
            (0x0010_0010, attribute("PN", b"M\xfcller^Zo\xeb")),
            (0x0010_0020, attribute("LO", b"77654033")),
            (0x0010_2160, attribute("SH", b"X-SELF-REPORT ")),
            (0x0010_4000, attribute("LT", b"a comment ")),
            (0x0011_0010, attribute("LO", b"PRIVATE ")),
        ]),
    }
}

fn options() -> ReportOptions {
    let zone = FixedOffset::east_opt(3600).unwrap();
    ReportOptions {
        disclosure: Disclosure::Withheld,
        sop_class: SrClass::Comprehensive3d,
        observer: Observer { device_uid: uid("2.25.7"), name: "Node 1".into(), serial_number: "N-1".into() },
        sop_instance: uid("2.25.1"),
        series: uid("2.25.2"),
        predecessor: None,
        completion: Completion::Complete,
        sources: BTreeMap::new(),
        parameters: Vec::new(),
        related: Vec::new(),
        evidence: Vec::new(),
        now: zone.with_ymd_and_hms(2026, 3, 1, 1, 30, 0).unwrap(),
    }
}

fn build_one(findings: Vec<FindingAssessment>, options: &ReportOptions) -> DefaultDicomObject {
    let (a, b) = (image("1.2.3.1", "1.2.3.1.1"), image("1.2.3.2", "1.2.3.2.1"));
    let report = build(&assessment(findings), &[&a, &b], options).unwrap();
    dicom_object::from_reader(&report.file[..]).unwrap()
}

fn text(object: &InMemDicomObject, name: &str) -> String {
    object.element_by_name(name).unwrap().to_str().unwrap().into_owned()
}

/// Every content item as `CODE[=value]`, in document order.
fn items(object: &InMemDicomObject) -> Vec<String> {
    let mut out = Vec::new();
    let code = |o: &InMemDicomObject, name| {
        o.element_by_name(name).ok().and_then(|e| e.items()).map(|i| text(&i[0], "CodeValue"))
    };
    let number = object.element_by_name("MeasuredValueSequence").ok().and_then(|e| e.items());
    let value = code(object, "ConceptCodeSequence").or_else(|| number.map(|i| text(&i[0], "NumericValue")));
    let name = code(object, "ConceptNameCodeSequence").unwrap_or_default();
    out.push(value.map_or(name.clone(), |v| format!("{name}={v}")));
    for child in object.element_by_name("ContentSequence").ok().and_then(|e| e.items()).unwrap_or_default() {
        out.extend(items(child));
    }
    out
}

fn count(list: &[String], item: &str) -> usize {
    list.iter().filter(|i| *i == item || i.starts_with(&format!("{item}="))).count()
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let images = [&image("1.2.3.1", "1.2.3.1.1")];
    let a = assessment(vec![negative(), positive()]);
    assert_eq!(build(&a, &images, &options()).unwrap().file, build(&a, &images, &options()).unwrap().file);
}

#[test]
fn copied_text_keeps_its_bytes_and_race_and_comments_stay_behind() {
    let images = [&image("1.2.3.1", "1.2.3.1.1")];
    let file = build(&assessment(vec![negative()]), &images, &options()).unwrap().file;
    let holds = |bytes: &[u8]| file.windows(bytes.len()).any(|w| w == bytes);
    assert!(holds(b"PN\x0a\x00M\xfcller^Zo\xeb"));
    for never in [&b"X-SELF-REPORT"[..], b"a comment", b"PRIVATE"] {
        assert!(!holds(never), "{never:?}");
    }
}

#[test]
fn type_2_attributes_exist_even_if_the_source_has_none() {
    let report = build_one(vec![negative()], &options());
    for name in ["StudyDate", "StudyTime", "AccessionNumber", "StudyID", "PatientBirthDate", "PatientSex"] {
        assert!(report.element_by_name(name).is_ok(), "{name}");
    }
    for name in ["PerformedProcedureCodeSequence", "ReferencedPerformedProcedureStepSequence"] {
        assert_eq!(report.element_by_name(name).unwrap().items().map(<[_]>::len), Some(0), "{name}");
    }
}

#[test]
fn times_are_written_in_the_time_zone_of_the_images() {
    let report = build_one(vec![negative()], &options());
    assert_eq!(text(&report, "ContentDate"), "20260228");
    assert_eq!(text(&report, "ContentTime").trim(), "193000");
    assert_eq!(text(&report, "TimezoneOffsetFromUTC").trim(), "-0500");
}

#[test]
fn every_series_of_the_evidence_holds_its_instances() {
    let report = build_one(vec![negative()], &options());
    let evidence = report.element_by_name("CurrentRequestedProcedureEvidenceSequence").unwrap().items().unwrap();
    let series = evidence[0].element_by_name("ReferencedSeriesSequence").unwrap().items().unwrap();
    assert_eq!(series.len(), 2);
    assert_eq!(text(&series[1], "SeriesInstanceUID"), "1.2.3.2");
}

#[test]
fn a_result_carries_the_estimates_of_its_own_error_only() {
    let rows = [(negative(), "PMISS", "PFALSE"), (positive(), "PFALSE", "PMISS")];
    for (finding, present, absent) in rows {
        let items = items(&build_one(vec![finding], &options()));
        assert_eq!((count(&items, present), count(&items, absent)), (1, 0), "{items:?}");
        assert_eq!(count(&items, "CILEVEL"), 2, "error and spread carry their range");
        assert_eq!(count(&items, "INDREASON"), 0);
    }
}

#[test]
fn an_indeterminate_finding_carries_one_reason_and_no_estimate() {
    let reasons = [IndReason::Failed, IndReason::Scope, IndReason::Cells, IndReason::Off, IndReason::Conflict];
    for reason in reasons {
        let finding = FindingAssessment { disclosed: disclosed().disclosed, ..indeterminate(reason) };
        let options = ReportOptions { disclosure: Disclosure::Probabilities, ..options() };
        let items = items(&build_one(vec![finding], &options));
        assert_eq!(count(&items, &format!("INDREASON={}", reason.code().0)), 1, "{items:?}");
        for estimate in ["PMISS", "PFALSE", "PSPREAD", "PRACE", "EXCESS", "PMISS-GRP", "415229000"] {
            assert_eq!(count(&items, estimate), 0, "{estimate}");
        }
    }
}

#[test]
fn groups_appear_only_for_a_destination_that_may_learn_them() {
    let withheld = items(&build_one(vec![disclosed()], &options()));
    for never in ["PRACE", "PMISS-GRP", "EXCESS", "415229000"] {
        assert_eq!(count(&withheld, never), 0, "{never}");
    }
    assert_eq!(count(&withheld, "DISCLOSURE=DISCL-NO"), 1);

    let options = ReportOptions { disclosure: Disclosure::Probabilities, ..options() };
    let open = items(&build_one(vec![disclosed()], &options));
    for (item, n) in [("PRACE", 3), ("PMISS-GRP", 2), ("EXCESS", 1), ("415229000", 5), ("DISCLOSURE=DISCL-YES", 1)] {
        assert_eq!(count(&open, item), n, "{item} in {open:?}");
    }
}

#[test]
fn the_report_carries_the_highest_flag() {
    let rows = [
        (vec![positive(), indeterminate(IndReason::NoCal)], "RDER-INDET"),
        (vec![indeterminate(IndReason::NoCal), negative()], "RDER-ELEV"),
        (vec![negative(), disclosed()], "RDER-HIGH"),
        (vec![positive()], "RDER-NONE"),
    ];
    for (mut findings, expected) in rows {
        for (i, f) in findings.iter_mut().enumerate() {
            f.finding.key = format!("finding-{i}");
        }
        let items = items(&build_one(findings, &options()));
        assert_eq!(count(&items, &format!("RDER-MAX={expected}")), 1, "{items:?}");
    }
}

#[test]
fn sources_of_a_measurement_are_the_images_that_its_model_scored() {
    let sources = BTreeMap::from([(negative().clinical.key(), vec![uid("1.2.3.2.1")])]);
    let items = items(&build_one(vec![negative()], &ReportOptions { sources, ..options() }));
    assert_eq!(count(&items, "121112"), 1);
    assert_eq!(count(&items, ""), 2, "the library lists every image");
}

#[test]
fn many_findings_state_the_parameters_of_a_model_once() {
    let many = (0..30).map(|i| {
        let mut f = negative();
        f.finding.key = format!("finding-{i}");
        f
    });
    let few = items(&build_one(vec![negative()], &options()));
    assert_eq!(count(&few, "111002"), 8, "audit model twice with 3, clinical model once with 2");
    let all = items(&build_one(many.collect(), &options()));
    assert_eq!(count(&all, "111002"), 8);
    let cut = ReportOptions { parameters: vec!["frames=32/500".into()], ..options() };
    assert_eq!(count(&items(&build_one(vec![negative()], &cut)), "111002"), 11, "each time one more");
}

#[test]
fn a_partial_report_says_what_is_missing_and_a_new_one_names_its_predecessor() {
    let options = ReportOptions {
        completion: Completion::Partial("1 image could not be decoded".into()),
        predecessor: Some(Predecessor {
            study: uid("1.2.3"),
            series: uid("2.25.30"),
            sop_class: uid(SrClass::Enhanced.uid()),
            sop_instance: uid("2.25.31"),
        }),
        ..options()
    };
    let report = build_one(vec![negative()], &options);
    assert_eq!(text(&report, "CompletionFlag").trim(), "PARTIAL");
    assert_eq!(text(&report, "CompletionFlagDescription"), "1 image could not be decoded");
    assert_eq!(report.element_by_name("PredecessorDocumentsSequence").unwrap().items().map(<[_]>::len), Some(1));
}

#[test]
fn a_finding_without_a_score_holds_none_and_names_its_model_all_the_same() {
    let mut clinical = model("Vendor", "2.25.11");
    (clinical.digest_of, clinical.contract) = (DigestOf::Card, String::new());
    let unscored = |positive| FindingAssessment {
        clinical: clinical.clone(),
        score: None,
        positive,
        direction: None,
        ..indeterminate(IndReason::Failed)
    };
    for (positive, results) in [(None, 0), (Some(true), 1)] {
        let report = build_one(vec![unscored(positive)], &options());
        let all = items(&report);
        assert_eq!((count(&all, "111012"), count(&all, "THRESHOLD=50"), count(&all, "AIRESULT")), (0, 1, results));
        assert_eq!((count(&all, "INDREASON=IND-FAILED"), count(&all, "PMISS"), count(&all, "PFALSE")), (1, 0, 0));
        let file =
            build(&assessment(vec![unscored(positive)]), &[&image("1.2.3.1", "1.2.3.1.1")], &options()).unwrap().file;
        let holds = |text: &str| file.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(holds(&format!("card={}", clinical.weights.short())) && holds("Vendor"));
        assert!(!holds(&format!("weights={}", clinical.weights.short())));
        let shown = render(&assessment(vec![unscored(positive)]), &[], Disclosure::Withheld);
        assert!(shown.contains("No score, decision threshold 50 %") && shown.contains(", card "), "{shown}");
        assert_eq!(shown.contains("AI result POSITIVE"), positive.is_some());
    }
    let mut flagged = unscored(None);
    (flagged.level, flagged.reasons) = (Level::ScoreDependent, Vec::new());
    let error = build(&assessment(vec![flagged]), &[&image("1.2.3.1", "1.2.3.1.1")], &options()).unwrap_err();
    assert!(matches!(error, ReportError::Contradiction(_)), "{error}");
}

#[test]
fn a_private_code_of_a_card_is_declared_as_its_manufacturers() {
    let mut ours = negative();
    ours.finding.code = Code::new("LUNG-LESION", "99XRV", "Lung lesion");
    let report = build_one(vec![ours], &options());
    let schemes = report.element_by_name("CodingSchemeIdentificationSequence").unwrap();
    let schemes = schemes.items().unwrap();
    let declared = schemes.iter().find(|i| text(i, "CodingSchemeDesignator") == "99XRV").unwrap();
    assert_eq!(text(declared, "CodingSchemeName"), "private codes of Example");
    assert!(text(declared, "CodingSchemeUID").starts_with("2.25."));
    let mut unknown = negative();
    unknown.finding.code = Code::new("LUNG-LESION", "L", "Lung lesion");
    let refused = build(&assessment(vec![unknown]), &[&image("2.25.10", "2.25.11")], &options());
    assert!(matches!(refused, Err(ReportError::Code { scheme, .. }) if scheme == "L"));
}

#[test]
fn what_contradicts_itself_is_not_written() {
    let with = |change: fn(&mut FindingAssessment)| {
        let mut f = negative();
        change(&mut f);
        vec![f]
    };
    type IsExpected = fn(&ReportError) -> bool;
    let rows: Vec<(Vec<FindingAssessment>, IsExpected)> = vec![
        (vec![], |e| matches!(e, ReportError::NoFindings)),
        (with(|f| f.positive = Some(true)), |e| matches!(e, ReportError::Contradiction(_))),
        (with(|f| f.direction = Some(Direction::FalseAlarm)), |e| matches!(e, ReportError::Contradiction(_))),
        (with(|f| f.expected_error = None), |e| matches!(e, ReportError::Estimate { .. })),
        (with(|f| f.spread = interval(f64::NAN, 0.0, 1.0)), |e| matches!(e, ReportError::Estimate { .. })),
        (with(|f| f.level = Level::Indeterminate), |e| matches!(e, ReportError::MissingReason(_))),
        (with(|f| f.clinical.name = " ".into()), |e| matches!(e, ReportError::Model(_))),
        (with(|f| f.clinical.name = "RaceNet".into()), |e| matches!(e, ReportError::Model(_))),
        (with(|f| f.finding.code.scheme = "LOCAL".into()), |e| matches!(e, ReportError::Code { .. })),
        (vec![negative(), negative()], |e| matches!(e, ReportError::RepeatedFinding(_))),
    ];
    for (findings, expected) in rows {
        let error = build(&assessment(findings), &[&image("1.2.3.1", "1.2.3.1.1")], &options()).unwrap_err();
        assert!(expected(&error), "{error}");
    }
    let other = InstanceHeader { study: uid("9.9"), ..image("9.9.1", "9.9.1.1") };
    let images = [&image("1.2.3.1", "1.2.3.1.1"), &other];
    let a = assessment(vec![negative()]);
    assert_eq!(build(&a, &images, &options()), Err(ReportError::SeveralStudies));
    assert_eq!(build(&a, &[], &options()), Err(ReportError::NoImages));
}

#[test]
fn the_statement_of_limits_fits_and_is_plain() {
    let whole = format!("{PHANTOMS_ONLY}{LIMITATIONS}");
    assert!(whole.len() <= 400, "{}", whole.len());
    assert_eq!(write::plain(&whole, 400), whole);
}

#[test]
fn its_own_reports_are_known_by_manufacturer_and_modality() {
    let rows = [("SR", "sidelight", true), ("SR", "Sidelight", true), ("CR", "sidelight", false), ("SR", "", false)];
    for (modality, manufacturer, expected) in rows {
        let header = InstanceHeader {
            modality: modality.into(),
            manufacturer: manufacturer.into(),
            ..image("1.2.3.1", "1.2.3.1.1")
        };
        assert_eq!(is_own(&header), expected, "{modality} {manufacturer}");
    }
}

#[test]
fn a_node_without_race_model_names_itself_and_claims_no_weights() {
    let audit = own_identity(&uid("2.25.7"));
    let a = Assessment { audit, ..assessment(vec![indeterminate(IndReason::Off)]) };
    let file = build(&a, &[&image("1.2.3.1", "1.2.3.1.1")], &options()).unwrap().file;
    let report = dicom_object::from_reader(&file[..]).unwrap();
    assert_eq!(text(&report, "SOPClassUID").trim_end_matches('\0'), SrClass::Comprehensive3d.uid());
    assert_eq!(report.get(Tag(0x0018, 0xa001)).unwrap().items().unwrap().len(), 2);
    let empty = Digest::of(&[]);
    assert!(!file.windows(12).any(|w| w == empty.short().as_bytes()));
}

#[test]
fn evidence_stands_with_its_finding_and_is_the_same_whoever_reads_it() {
    let evidence = vec![evidence_on(&positive()), evidence_on(&indeterminate(IndReason::Wide))];
    let findings = || vec![negative(), positive(), indeterminate(IndReason::Wide), elevated_of(disclosed())];
    let lines = |disclosure| {
        let options = ReportOptions { disclosure, evidence: evidence.clone(), ..options() };
        let items = items(&build_one(findings(), &options));
        let own = |i: &&String| ["COMOVE", "GRADALIGN", "CFSHIFT"].iter().any(|code| i.starts_with(code));
        (items.iter().filter(own).cloned().collect::<Vec<_>>(), items.iter().filter(|i| *i == "111002").count())
    };
    let (withheld, parameters) = lines(Disclosure::Withheld);
    assert_eq!(withheld, ["COMOVE=0.31", "GRADALIGN=0.2", "CFSHIFT=-0.05"].repeat(2));
    let (disclosed, _) = lines(Disclosure::Probabilities);
    assert_eq!(withheld, disclosed);
    let without = items(&build_one(findings(), &options())).iter().filter(|i| *i == "111002").count();
    assert_eq!(parameters, without + 2 * 4, "what the lines come to, and the limits of three");
    let mut broken = evidence_on(&positive());
    broken.lines[1].1.estimate = 1.5;
    let options = ReportOptions { evidence: vec![broken], ..options() };
    let image = image("1.2.3.1", "1.2.3.1.1");
    assert!(build(&assessment(vec![positive()]), &[&image], &options).is_err(), "a cosine of 1.5 is none");
}

/// Beside [`negative`], which has the same key.
fn elevated_of(finding: FindingAssessment) -> FindingAssessment {
    FindingAssessment { finding: self::finding("nodule", "427359005", "Solitary nodule of lung"), ..finding }
}
