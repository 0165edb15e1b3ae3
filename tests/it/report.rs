//! Every kind of report against the independent checks of `check_sr.py`: dciodvfy, dcmtk, highdicom and the rules of
//! the specification. They need a Python with pydicom and highdicom (`support::reference_python`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use sidelight::domain::{
    Assessment, Disclosure, FindingAssessment, FindingEvidence, IndReason, InstanceHeader, Interval, Level, LineKind,
    Reliance,
};
use sidelight::report::{self, Completion, PRIVATE_CODES, PRIVATE_SCHEME, Predecessor, ReportOptions, SrClass};

#[path = "report/deliver.rs"]
pub mod deliver;
#[path = "report/samples.rs"]
mod samples;

pub use deliver::alternatives;
use samples::{Source, assessment, elevated, fresh_uid, indeterminate, interval, options, scored, shared, uid};

/// Code value, scheme, meaning.
type CodeRow = (&'static str, &'static str, &'static str);

/// Builds a report on `sources` and lets `check_sr.py` judge it.
fn check(name: &str, assessment: &Assessment, sources: &[Source], options: &ReportOptions) {
    let headers: Vec<InstanceHeader> = sources.iter().map(Source::header).collect();
    let images: Vec<&InstanceHeader> = headers.iter().collect();
    let report = report::build(assessment, &images, options).unwrap_or_else(|e| panic!("{name}: {e}"));
    check_file(name, &report.file, sources);
}

fn check_file(name: &str, file: &[u8], sources: &[Source]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.dcm");
    std::fs::write(&path, file).unwrap();
    let mut command = Command::new(crate::support::reference_python());
    command.arg(shared().join("tools/check_sr.py")).arg(&path).arg("--source");
    for (i, source) in sources.iter().enumerate() {
        let path = folder.path().join(format!("source{i}.dcm"));
        source.write(&path);
        command.arg(path);
    }
    let output =
        command.output().unwrap_or_else(|e| panic!("{:?} did not start: {e}", crate::support::reference_python()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("25 passed, 0 failed"),
        "{name}:\n{text}{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        dump(&path)
    );
}

fn dump(path: &Path) -> String {
    let output = Command::new("dsrdump").args(["+Pc", "+Pl"]).arg(path).output().expect("dcmtk is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn mixed() -> Vec<FindingAssessment> {
    let none = FindingAssessment {
        level: Level::NotElevated,
        expected_error: interval(0.06, 0.04, 0.085),
        spread: interval(0.015, 0.005, 0.03),
        ..scored("b", 0.83)
    };
    vec![scored("a", 0.12), none, indeterminate("c", IndReason::NoCal), elevated("d", 0.3)]
}

#[test]
fn the_private_table_is_the_published_one() {
    let file = std::fs::read_to_string(shared().join("sr/private_codes.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(file.as_bytes());
    let published: Vec<(String, String, String)> =
        reader.deserialize::<(String, String, String, String)>().map(|r| r.unwrap()).map(|r| (r.0, r.1, r.2)).collect();
    let ours: Vec<_> =
        PRIVATE_CODES.iter().map(|(v, m)| (PRIVATE_SCHEME.to_owned(), (*v).to_owned(), (*m).to_owned())).collect();
    assert_eq!(ours, published);
}

#[test]
fn a_withheld_report_passes_in_every_sop_class() {
    for sop_class in SrClass::ALL {
        let options = ReportOptions { sop_class, ..options() };
        check(&format!("withheld {sop_class:?}"), &assessment(mixed()), &Source::both(), &options);
    }
}

#[test]
fn a_disclosed_report_passes_in_every_sop_class() {
    for sop_class in SrClass::ALL {
        let options = ReportOptions { sop_class, disclosure: Disclosure::Probabilities, ..options() };
        check(&format!("disclosed {sop_class:?}"), &assessment(mixed()), &Source::both(), &options);
    }
}

#[test]
fn evidence_on_the_model_passes_for_every_disclosure_and_flag() {
    let value = |estimate: f64| Interval { estimate, lower: estimate - 0.4, upper: estimate + 0.2 };
    let evidence = mixed().into_iter().map(|f| FindingEvidence {
        model: f.clinical.key(),
        finding: f.finding.key.clone(),
        reliance: Reliance::ControlsFailed,
        lines: vec![
            (LineKind::CoMovement, value(0.31)),
            (LineKind::GradientAlignment, value(-0.9)),
            (LineKind::DoseResponse, value(12345.678)),
            (LineKind::Leakage, value(0.7)),
        ],
        patients: 412,
    });
    let evidence: Vec<FindingEvidence> = evidence.collect();
    for disclosure in [Disclosure::Withheld, Disclosure::Probabilities] {
        let options = ReportOptions { disclosure, evidence: evidence.clone(), ..options() };
        check(&format!("evidence {disclosure:?}"), &assessment(mixed()), &Source::both(), &options);
    }
}

#[test]
fn every_reason_to_abstain_passes() {
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
    let findings = reasons.iter().map(|r| indeterminate(r.code().0, *r)).collect();
    check("all reasons", &assessment(findings), &Source::both(), &options());

    let audit = report::own_identity(&uid("2.25.7"));
    let off = Assessment { audit, profile: "none".into(), ..assessment(vec![indeterminate("a", IndReason::Off)]) };
    check("no race model", &off, &[Source::read(1)], &options());
}

#[test]
fn numbers_at_their_limits_pass() {
    let with =
        |key: &str, score, error, spread| FindingAssessment { expected_error: error, spread, ..scored(key, score) };
    let findings = vec![
        with("just below", 0.499_999_999, interval(0.0, 0.0, 0.0), interval(0.0, -0.1, 1.0)),
        with("next below", 0.5_f64.next_down(), interval(1.0, 0.9, 1.3), interval(1.0, 0.2, 1.0)),
        with("at", 0.5, interval(0.3127, 0.0, 1.0), interval(0.999_999, 0.5, 1.0)),
        with("zero", 0.0, interval(0.000_001, 0.0, 0.1), interval(0.2, 0.25, 0.3)),
        with("one", 1.0, interval(0.123_456_789, 0.1, 0.2), interval(0.3, 0.1, 0.2)),
    ];
    check("limits", &assessment(findings), &Source::both(), &options());
}

#[test]
fn many_disclosed_findings_pass() {
    let findings = (0..18).map(|i| elevated(&format!("finding-{i}"), 0.3)).collect();
    let options = ReportOptions { disclosure: Disclosure::Probabilities, ..options() };
    check("18 findings", &assessment(findings), &Source::both(), &options);
}

#[test]
fn texts_in_any_character_set_keep_their_bytes() {
    let rows: &[(&str, &[u8], &[u8])] = &[
        ("utf-8", b"ISO_IR 192", "Müller^Zoë^王小東".as_bytes()),
        ("latin-1", b"ISO_IR 100", b"M\xfcller^Zo\xeb"),
        ("cyrillic", b"ISO_IR 144", b"\xbb\xee\xda\xdc\xd0\xdd"),
        ("greek", b"ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2"),
        ("gb18030", b"GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
        (
            "japanese",
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        ),
        (
            "half-width",
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        ),
        ("korean", b"ISO 2022 IR 6\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
    ];
    for (name, charset, patient) in rows {
        let sources: Vec<Source> = Source::both()
            .into_iter()
            .map(|s| s.set(0x0008_0005, b"CS", charset).set(0x0010_0010, b"PN", patient))
            .collect();
        check(name, &assessment(mixed()), &sources, &options());
    }
    let plain: Vec<Source> =
        Source::both().into_iter().map(|s| s.without(&[0x0008_0005]).set(0x0010_0010, b"PN", b"Doe^Jane")).collect();
    check("no character set", &assessment(mixed()), &plain, &options());
}

#[test]
fn missing_attributes_are_left_empty() {
    let gone = [
        0x0008_0020,
        0x0008_0030,
        0x0008_0050,
        0x0008_0090,
        0x0008_0201,
        0x0008_1030,
        0x0010_0021,
        0x0010_0030,
        0x0010_0040,
        0x0010_1010,
        0x0018_0015,
        0x0020_0010,
    ];
    let sources: Vec<Source> = Source::both().into_iter().map(|s| s.without(&gone)).collect();
    check("missing attributes", &assessment(mixed()), &sources, &options());

    let malformed = vec![Source::read(1).set(0x0010_1010, b"AS", b"62").set(0x0010_1030, b"DS", b"70,5")];
    check("malformed optional attributes", &assessment(mixed()), &malformed, &options());

    let differing = vec![Source::read(1), Source::read(2).set(0x0008_0201, b"SH", b"-0500")];
    check("differing time zones", &assessment(mixed()), &differing, &options());
}

#[test]
fn de_identified_trial_images_pass() {
    let source = |number| {
        Source::read(number)
            .set(0x0012_0010, b"LO", b"Sponsor")
            .set(0x0012_0020, b"LO", b"PROTOCOL-1")
            .set(0x0012_0030, b"LO", b"SITE-1")
            .set(0x0012_0040, b"LO", b"SUBJECT-1")
            .set(0x0012_0050, b"LO", b"BASELINE")
            .set(0x0012_0062, b"CS", b"YES")
            .set(0x0012_0063, b"LO", b"Per PS3.15")
            .set_codes(0x0012_0064, &[("113100", "DCM", "Basic Application Confidentiality Profile")])
            .set(0x0010_1020, b"DS", b"1.7")
            .set(0x0010_1030, b"DS", b"70.5")
            .set(0x0010_4000, b"LT", b"a comment that stays behind")
            .set(0x0011_0010, b"LO", b"PRIVATE CREATOR")
            .set(0x0011_1001, b"LO", b"private value")
    };
    check("clinical trial", &assessment(mixed()), &[source(1), source(2)], &options());
    let fragment = Source::read(1).set(0x0012_0010, b"LO", b"Sponsor").set(0x0012_0050, b"LO", b"BASELINE");
    check("incomplete clinical trial", &assessment(mixed()), &[fragment], &options());
}

#[test]
fn a_procedure_code_of_the_source_is_reported_if_readers_can_know_it() {
    let rows: &[(&str, &[CodeRow], &str)] = &[
        ("public", &[("168537006", "SCT", "Plain radiography")], "168537006,SCT"),
        ("declared", &[("P5-09000", "SRT", "Radiographic procedure")], "P5-09000,SRT"),
        ("local", &[("XR-CH2", "99HOSP", "Chest 2 views")], "43468-8,LN"),
        ("mixed", &[("168537006", "SCT", "Plain radiography"), ("X", "L", "Chest")], "43468-8,LN"),
    ];
    for (name, codes, expected) in rows {
        let sources: Vec<Source> = Source::both().into_iter().map(|s| s.set_codes(0x0008_1032, codes)).collect();
        let headers: Vec<InstanceHeader> = sources.iter().map(Source::header).collect();
        let images: Vec<&InstanceHeader> = headers.iter().collect();
        let report = report::build(&assessment(mixed()), &images, &options()).unwrap();
        check_file(name, &report.file, &sources);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.dcm");
        std::fs::write(&path, &report.file).unwrap();
        let text = dump(&path);
        assert!(text.contains(&format!("(121058,DCM,\"Procedure reported\")=({expected}")), "{name}:\n{text}");
    }
}

#[test]
fn other_and_mixed_modalities_pass() {
    let with = |number, modality: &[u8]| Source::read(number).set(0x0008_0060, b"CS", modality);
    check("ct", &assessment(mixed()), &[with(1, b"CT"), with(2, b"CT")], &options());
    check("mixed", &assessment(mixed()), &[with(1, b"CR"), with(2, b"DX")], &options());
    check("other", &assessment(mixed()), &[with(1, b"OT")], &options());
}

#[test]
fn a_partial_report_with_predecessor_and_sources_passes() {
    let sources = Source::both();
    let model = scored("a", 0.1).clinical.key();
    let options = ReportOptions {
        completion: Completion::Partial("1 of 3 images could not be decoded".into()),
        predecessor: Some(Predecessor {
            study: sources[0].header().study,
            series: fresh_uid(),
            sop_class: uid(SrClass::Comprehensive3d.uid()),
            sop_instance: fresh_uid(),
        }),
        sources: BTreeMap::from([(model, vec![sources[0].header().sop_instance])]),
        ..options()
    };
    check("partial", &assessment(mixed()), &sources, &options);
}
