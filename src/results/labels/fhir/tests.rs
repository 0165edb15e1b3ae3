//! Resources in the shapes that bulk exports of US Core and of Synthea have.

use proptest::prelude::*;
use serde_json::json;

use super::super::super::statement::{At, Statement};
use super::super::tests::{settle, vocabulary};
use super::*;

pub(super) const MAPPING: &str = r#"
[patient]
identifiers = [{ system = "urn:oid:2.16.840.1.113883.19.5" }, { system = "https://y.example/mrn", issuer = "y" }]
[accession]
systems = ["https://x.example/accession"]
[race]
detailed = { "2034-7" = "Asian" }
[[observation]]
finding = "ptx"
codes = ["http://loinc.org|1-1", "http://snomed.info/sct|36118008"]
present = ["http://snomed.info/sct|52101004", true]
absent = ["http://snomed.info/sct|2667000", false]
[[observation]]
finding = "effusion"
codes = ["http://loinc.org|2-2"]
unit = "mL"
present_from = 10.0
absent_below = 5.0
[[observation]]
covariate = "bmi"
codes = ["http://loinc.org|39156-5"]
unit = "kg/m2"
studies = "nearest"
[[observation]]
covariate = "smoker"
codes = ["http://loinc.org|72166-2"]
values = { "http://snomed.info/sct|266919005" = "never", "http://snomed.info/sct|449868002" = "daily" }
studies = "all"
[[condition]]
finding = "ptx"
codes = ["http://hl7.org/fhir/sid/icd-10-cm|J93.9"]
present = ["confirmed"]
absent = ["refuted"]
clinical = ["active"]
[[report]]
finding = "ptx"
present = ["http://snomed.info/sct|36118008"]
absent = ["http://snomed.info/sct|0"]
[[report]]
finding = "effusion"
present = ["http://snomed.info/sct|60046008"]
"#;

/// Statements by study, and rejects, of lines in this order.
fn read(lines: &[serde_json::Value], window_days: u32) -> (Vec<String>, Vec<Reject>) {
    let lines: Vec<Vec<u8>> = lines.iter().map(|line| line.to_string().into_bytes()).collect();
    let (shown, rejects, _) = read_bytes(&lines, window_days);
    (shown, rejects)
}

fn read_bytes(lines: &[Vec<u8>], window_days: u32) -> (Vec<String>, Vec<Reject>, BTreeMap<String, (u64, u64)>) {
    let mut vocabulary = vocabulary();
    let mapping = Mapping::parse(MAPPING, &vocabulary.findings).unwrap();
    vocabulary = Vocabulary::new(vocabulary.findings, vocabulary.groups, &mapping.covariates());
    let mut reader = FhirReader::new(&mapping, &vocabulary);
    for (n, line) in (1..).zip(lines) {
        reader.add(At { file: 0, line: n }, line);
    }
    let FhirRead { statements, mut rejects, counts } = reader.finish();
    (settle(statements, &mut rejects, window_days, &vocabulary), rejects, counts)
}

fn check(lines: &[serde_json::Value], expected: Result<&[&str], &str>) {
    let (shown, rejects) = read(lines, 2);
    match expected {
        Ok(studies) => {
            assert_eq!(rejects, [], "{lines:?}");
            assert_eq!(shown, studies, "{lines:?}");
        }
        Err(reason) => {
            assert!(
                shown.is_empty() && rejects.len() == 1 && rejects[0].reason.contains(reason),
                "{lines:?}: {rejects:?}"
            );
        }
    }
}

fn category(code: &str) -> serde_json::Value {
    let system = if code.len() <= 4 { NULL_FLAVOR } else { CDCREC };
    json!({"url": "ombCategory", "valueCoding": {"system": system, "code": code, "display": "as it is called"}})
}

const CDCREC: &str = "urn:oid:2.16.840.1.113883.6.238";
const NULL_FLAVOR: &str = "http://terminology.hl7.org/CodeSystem/v3-NullFlavor";

/// A patient under this Patient ID, as Synthea writes them, with these parts of the race extension.
fn patient(id: &str, mrn: &str, race: &[serde_json::Value]) -> serde_json::Value {
    let mut parts = race.to_vec();
    parts.push(json!({"url": "text", "valueString": "in words"}));
    json!({"resourceType": "Patient", "id": id,
        "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"]},
        "extension": [{"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race", "extension": parts}],
        "identifier": [
            {"system": "https://github.com/synthetichealth/synthea", "value": "not ours"},
            {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
             "system": "urn:oid:2.16.840.1.113883.19.5", "value": mrn}],
        "gender": "female", "birthDate": "1970-01-01"})
}

#[test]
fn patients_say_one_race_several_none_or_that_they_decline() {
    let detailed = json!({"url": "detailed", "valueCoding": {"system": CDCREC, "code": "2034-7"}});
    let absent =
        |code: &str| json!({"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": code});
    let other = json!({"url": "ombCategory", "valueCoding": {"system": "urn:oid:1.2.3", "code": "2106-3"}});
    let rows: [(Vec<serde_json::Value>, Result<&str, &str>); 14] = [
        (vec![category("2106-3")], Ok("2106-3")),
        (vec![category("2106-3"), category("2028-9")], Ok("2028-9,2106-3")),
        (vec![category("2131-1")], Ok("2131-1")),
        (vec![category("UNK")], Ok("UNK")),
        (vec![category("ASKU")], Ok("ASKU")),
        (vec![absent("asked-declined")], Ok("ASKU")),
        (vec![absent("unknown")], Ok("UNK")),
        (vec![detailed], Ok("2028-9")),
        (vec![], Err("no category (ombCategory)")),
        (vec![category("NI")], Err("other than UNK and ASKU")),
        (vec![category("2034-7")], Err("none of CDCREC's")),
        (vec![category("White; DROP TABLE")], Err("none of CDCREC's")),
        (vec![other], Err("another code system")),
        (vec![category("UNK"), category("2106-3")], Err("and a category too")),
    ];
    for (parts, expected) in rows {
        let line = patient("a", "p2", &parts);
        let shown: Vec<String> = expected.iter().map(|race| format!("1.3 {race}")).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        check(&[line], expected.map(|_| shown.as_slice()));
    }
    // All studies of the patient, by any of their identifiers; an issuer takes others out.
    check(&[patient("a", "p1", &[category("2106-3")])], Ok(&["1.1 2106-3", "1.2 2106-3"]));
    check(&[patient("a", "p3", &[category("2106-3")])], Err("several issuers"));
    check(&[patient("a", "p9", &[category("2106-3")])], Err("no study here is of its patient"));
    let mut of_y = patient("a", "p9", &[category("2106-3")]);
    of_y["identifier"][0] = json!({"system": "https://y.example/mrn", "value": "p3"});
    check(std::slice::from_ref(&of_y), Ok(&["1.5 2106-3"]));
    of_y["extension"][0]["url"] = json!("http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity");
    of_y["extension"][0]["extension"][0] = category("2135-2");
    check(std::slice::from_ref(&of_y), Ok(&["1.5 2135-2"]));
    of_y["extension"] = json!([]);
    check(std::slice::from_ref(&of_y), Ok(&[]));
    let stranger = |line: &mut serde_json::Value| line["identifier"] = json!([{"system": "urn:other", "value": "p1"}]);
    let mut line = patient("a", "p1", &[category("2106-3")]);
    stranger(&mut line);
    check(&[line], Err("patient.identifiers of the mapping"));
    // Two files say two things of one person.
    let (shown, rejects) =
        read(&[patient("a", "p1", &[category("2106-3")]), patient("b", "p1", &[category("UNK")])], 2);
    assert_eq!((shown.len(), rejects.len()), (0, 2), "{rejects:?}");
}

fn observation(more: serde_json::Value) -> serde_json::Value {
    let mut resource = json!({"resourceType": "Observation", "id": "o", "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "1-1", "display": "as it is called"}]},
        "subject": {"reference": "Patient/a"}, "effectiveDateTime": "2026-03-02T23:30:00-08:00",
        "valueCodeableConcept": {"coding": [{"system": "http://snomed.info/sct", "code": "52101004"}]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        match value.is_null() {
            true => drop(resource.as_object_mut().unwrap().remove(key)),
            false => resource[key] = value.clone(),
        }
    }
    resource
}

#[test]
fn an_observation_is_of_the_study_that_it_names_or_of_one_in_the_window() {
    let of_p1 = json!({"resourceType": "Patient", "id": "a", "identifier":
        [{"system": "urn:oid:2.16.840.1.113883.19.5", "value": "p1"}]});
    let study = json!({"resourceType": "ImagingStudy", "id": "s", "encounter": {"reference": "Encounter/e"},
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2"}]});
    let order = json!({"resourceType": "ServiceRequest", "id": "r", "identifier":
        [{"type": {"coding": [{"code": "ACSN"}]}, "value": "A2"}]});
    let with = |more| vec![observation(more), of_p1.clone(), study.clone(), order.clone()];
    // Its day is the one of the place where it was written.
    check(&with(json!({})), Ok(&["1.1 ptx+"]));
    check(&with(json!({"effectiveDateTime": "2026-03-04"})), Err("within 2 days"));
    check(&with(json!({"effectiveDateTime": "2026-03"})), Err("nor a date"));
    check(&with(json!({"effectiveDateTime": null, "effectivePeriod": {"start": "2026-03-09"}})), Ok(&["1.2 ptx+"]));
    for named in [
        json!({"partOf": [{"reference": "ImagingStudy/s"}]}),
        json!({"derivedFrom": [{"reference": "https://x.example/fhir/ImagingStudy/s/_history/2"}]}),
        json!({"derivedFrom": [{"reference": "urn:uuid:s"}]}),
        json!({"partOf": [{"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2"}}]}),
        json!({"basedOn": [{"reference": "ServiceRequest/r"}]}),
        json!({"encounter": {"reference": "Encounter/e"}}),
        json!({"identifier": [{"system": "https://x.example/accession", "value": "A2"}]}),
    ] {
        let mut more = named.clone();
        more["effectiveDateTime"] = json!("2030-01-01");
        check(&with(more), Ok(&["1.2 ptx+"]));
    }
    check(&with(json!({"partOf": [{"reference": "ImagingStudy/t"}]})), Err("not among these files"));
    check(&with(json!({"subject": {"reference": "Patient/b"}})), Err("its patient is not among these files"));
    let by_itself = json!({"subject": {"identifier": {"system": "urn:oid:2.16.840.1.113883.19.5", "value": "p2"}}});
    check(&[observation(by_itself)], Ok(&["1.3 ptx+"]));
    let mut other = of_p1.clone();
    other["identifier"][0]["value"] = json!("p2");
    let named = observation(json!({"partOf": [{"reference": "ImagingStudy/s"}]}));
    check(&[named, other, study.clone()], Err("its study is of another patient"));
}

#[test]
fn values_mean_what_the_mapping_says_and_nothing_else() {
    let of_p2 = json!({"resourceType": "Patient", "id": "a", "identifier":
        [{"system": "urn:oid:2.16.840.1.113883.19.5", "value": "p2"}]});
    let sct = |code: &str| json!({"coding": [{"system": "http://snomed.info/sct", "code": code}]});
    let loinc = |code: &str| json!({"coding": [{"system": "http://loinc.org", "code": code}]});
    let number = |code: &str, value: f64, unit: &str| json!({"code": loinc(code), "valueCodeableConcept": null, "valueQuantity": {"value": value, "unit": "mL or so", "code": unit}});
    let rows = [
        (json!({}), Ok("1.3 ptx+")),
        (json!({"valueCodeableConcept": sct("2667000")}), Ok("1.3 ptx-")),
        (json!({"valueCodeableConcept": null, "valueBoolean": false}), Ok("1.3 ptx-")),
        (json!({"valueCodeableConcept": sct("261665006")}), Err("none of those in the mapping")),
        (json!({"valueCodeableConcept": null}), Err("none of those in the mapping")),
        (json!({"valueCodeableConcept": null, "valueString": "present"}), Err("none of those in the mapping")),
        (json!({"status": "preliminary"}), Err("its status is none of final")),
        (json!({"status": "entered-in-error"}), Err("its status is none of final")),
        (number("2-2", 10.0, "mL"), Ok("1.3 effusion+")),
        (number("2-2", 4.9, "mL"), Ok("1.3 effusion-")),
        (number("2-2", 5.0, "mL"), Err("none of those in the mapping")),
        (number("2-2", 10.0, "L"), Err("another unit")),
        (number("39156-5", 31.25, "kg/m2"), Ok("1.3 bmi=31.25")),
        (number("39156-5", 3125.0, "kg/m2"), Err("bmi is no number from 5 to 150")),
        (json!({"code": loinc("72166-2"), "valueCodeableConcept": sct("266919005")}), Ok("1.3 smoker=never")),
        (json!({"code": loinc("72166-2"), "valueCodeableConcept": sct("1")}), Err("none of those in the mapping")),
        (json!({"code": loinc("9-9")}), Ok("")),
        (json!({"code": loinc("9-9"), "component": [{"code": loinc("1-1"), "valueBoolean": true}]}), Ok("1.3 ptx+")),
    ];
    for (more, expected) in rows {
        let shown: Vec<&str> = expected.iter().copied().filter(|one| !one.is_empty()).collect();
        check(&[observation(more), of_p2.clone()], expected.map(|_| shown.as_slice()));
    }
    let limit = json!({"code": loinc("2-2"), "valueQuantity": {"value": 10, "code": "mL", "comparator": "<"}});
    check(&[observation(limit), of_p2.clone()], Err("a limit and no value"));

    let condition = |verification: &str, clinical: &str| {
        json!({"resourceType": "Condition", "id": "c", "subject": {"reference": "Patient/a"},
            "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "J93.9"}]},
            "verificationStatus": {"coding": [{"code": verification}]}, "clinicalStatus": {"coding": [{"code": clinical}]},
            "onsetDateTime": "2026-03-01T10:00:00Z", "recordedDate": "2026-06-01"})
    };
    check(&[condition("confirmed", "active"), of_p2.clone()], Ok(&["1.3 ptx+"]));
    check(&[condition("refuted", "active"), of_p2.clone()], Ok(&["1.3 ptx-"]));
    check(&[condition("provisional", "active"), of_p2.clone()], Err("its verificationStatus"));
    check(&[condition("confirmed", "resolved"), of_p2.clone()], Err("its clinicalStatus"));

    let report = |codes: &[&str]| {
        let codes: Vec<_> = codes.iter().map(|code| sct(code)).collect();
        json!({"resourceType": "DiagnosticReport", "id": "d", "status": "final", "subject": {"reference": "Patient/a"},
            "identifier": [{"type": {"coding": [{"code": "ACSN"}]}, "value": "A3"}], "conclusionCode": codes})
    };
    check(&[report(&["36118008", "60046008"]), of_p2.clone()], Ok(&["1.3 effusion+ ptx+"]));
    check(&[report(&["0"]), of_p2.clone()], Ok(&["1.3 ptx-"]));
    check(&[report(&["36118008", "0"]), of_p2.clone()], Err("concludes that ptx is there, and that it is not"));
    check(&[report(&["5"]), of_p2.clone()], Ok(&[]));
}

#[test]
fn several_studies_are_a_conflict_unless_the_mapping_means_all_or_the_nearest() {
    let of_p1 = json!({"resourceType": "Patient", "id": "a", "identifier":
        [{"system": "urn:oid:2.16.840.1.113883.19.5", "value": "p1"}]});
    let loinc = |code: &str| json!({"coding": [{"system": "http://loinc.org", "code": code}]});
    let bmi = |day: &str, value: f64| {
        let quantity = json!({"value": value, "unit": "kg/m2"});
        observation(
            json!({"code": loinc("39156-5"), "valueCodeableConcept": null, "valueQuantity": quantity, "effectiveDateTime": day}),
        )
    };
    let (shown, rejects) = read(&[observation(json!({})), of_p1.clone()], 30);
    assert!(
        shown.is_empty() && rejects[0].reason.contains("2 studies of its patient are near its date"),
        "{rejects:?}"
    );
    let smoker = json!({"code": loinc("72166-2"), "valueCodeableConcept": {"coding":
        [{"system": "http://snomed.info/sct", "code": "449868002"}]}});
    let (shown, _) = read(&[observation(smoker), of_p1.clone()], 30);
    assert_eq!(shown, ["1.1 smoker=daily", "1.2 smoker=daily"]);
    let lines = [bmi("2026-02-20", 20.0), bmi("2026-03-02", 25.0), bmi("2026-03-12", 26.0), of_p1];
    assert_eq!(read(&lines, 30), (vec!["1.1 bmi=25".to_owned(), "1.2 bmi=26".to_owned()], vec![]));
}

#[test]
fn lines_that_are_no_resource_are_told_and_other_types_are_counted() {
    let lines =
        ["", "no json", "[1]", "{\"resourceType\": 1}", "{\"resourceType\":\"Claim\"}", "{\"resourceType\":\"<b>\"}"];
    let lines: Vec<Vec<u8>> = lines.iter().skip(1).map(|line| line.as_bytes().to_vec()).collect();
    let (shown, rejects, counts) = read_bytes(&lines, 2);
    assert!(shown.is_empty());
    assert_eq!(rejects.iter().map(|r| r.at.line).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("Claim".to_owned(), (1, 0)), ("other".to_owned(), (1, 0))]);
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000)).into_bytes();
    assert_eq!(read_bytes(&[deep], 2).1.len(), 1);
}

#[test]
fn a_mapping_that_makes_no_sense_is_refused_with_each_reason() {
    let findings = vocabulary().findings;
    let rule = |lines: &str| format!("[[observation]]\ncodes = [\"a|b\"]\n{lines}\n");
    for (text, reason) in [
        (rule("finding = \"other\"\npresent = [true]"), "is none of the deployed models: ptx, effusion"),
        (rule("finding = \"ptx\""), "neither present nor absent"),
        (rule("finding = \"ptx\"\npresent = [true]\nabsent = [true]"), "in both present and absent"),
        (rule("finding = \"ptx\"\npresent_from = 1.0"), "unit is missing"),
        (rule("finding = \"ptx\"\nunit = \"1\"\npresent_from = 1.0\nabsent_below = 2.0"), "would be both"),
        (rule("covariate = \"x\""), "neither unit nor values"),
        (rule("covariate = \"ptx\"\nunit = \"1\""), "is the key of a finding"),
        (rule("finding = \"ptx\"\ncovariate = \"x\"\nunit = \"1\""), "one of finding and covariate"),
        (rule("finding = \"ptx\"\npresent = [true]\nguess = true"), "guess"),
        (
            "[[condition]]\nfinding = \"ptx\"\ncodes = [\"J93\"]\npresent = [\"confirmed\"]".into(),
            "not like system|code",
        ),
        ("[[sr]]\nfinding = \"ptx\"\npath = []\npresent = [{ value = \"1\", scheme = \"DCM\" }]".into(), "0 concepts"),
        ("[race]\ndetailed = { \"1\" = \"Martian\" }".into(), "is no category"),
        ("window_days = 9999".into(), "above 3650"),
    ] {
        let faults = Mapping::parse(&text, &findings).unwrap_err();
        assert!(faults.iter().any(|fault| fault.contains(reason)), "{text}: {faults:?}");
    }
}

proptest! {
    /// Resources that are nearly right, with anything in any place.
    #[test]
    fn no_line_panics(
        kind in "(Patient|Observation|Condition|DiagnosticReport|ImagingStudy|Encounter|ServiceRequest)",
        key in "(id|status|code|subject|identifier|extension|valueQuantity|valueCodeableConcept|effectiveDateTime|partOf|component|conclusionCode|encounter)",
        value in prop_oneof![
            Just(json!(null)), Just(json!([])), Just(json!({})), Just(json!([[[]]])), Just(json!(1e308)), Just(json!(true)),
            Just(json!({"coding": [{"code": "1-1", "system": "http://loinc.org"}, 1]})), Just(json!([{"url": {}}])),
            Just(json!({"reference": "/"})), Just(json!([{"reference": "Patient/"}])), Just(json!([{"system": "urn:dicom:uid", "value": "urn:oid:"}])),
            any::<String>().prop_map(|text| json!(text)),
        ],
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut resource = observation(json!({"resourceType": kind}));
        resource[&key] = value.clone();
        let mut person = patient("a", "p1", &[category("2106-3")]);
        person[&key] = value;
        let mut lines = vec![resource.to_string().into_bytes(), person.to_string().into_bytes(), noise];
        read_bytes(&lines, 2);
        let cut = cut.index(lines[0].len());
        lines[0].truncate(cut);
        read_bytes(&lines, 2);
    }

    /// What a line says is known by its resources, not by their order.
    #[test]
    fn order_of_lines_changes_nothing(seed in any::<u64>()) {
        let study = json!({"resourceType": "ImagingStudy", "id": "s", "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2"}]});
        let mut lines = vec![
            observation(json!({"partOf": [{"reference": "ImagingStudy/s"}]})), study,
            patient("a", "p1", &[category("2028-9")]), patient("b", "p2", &[category("UNK")]),
        ];
        let expected = read(&lines, 2).0;
        let turn = usize::try_from(seed % 4).unwrap();
        lines.rotate_left(turn);
        if seed % 8 > 3 { lines.reverse(); }
        prop_assert_eq!(read(&lines, 2).0, expected);
    }
}

#[test]
fn what_is_in_values_stays_a_value() {
    // A device name that is SQL, markup or a formula is kept as it is, and a control character is refused.
    let text = "study,device\n1.3,'); DROP TABLE studies; --\n1.6,\"<script>{{7*7}}</script>\"\n1.1,\"a\tb\"\n";
    let vocabulary = vocabulary();
    let table: Vec<Result<Statement, Reject>> =
        super::super::CsvTable::open(text.as_bytes(), 0, &vocabulary).unwrap().collect();
    let value = |n: usize| table[n].as_ref().unwrap().says.covariates[0].value.to_string();
    assert_eq!((value(0), value(1)), ("'); DROP TABLE studies; --".into(), "<script>{{7*7}}</script>".into()));
    assert!(table[2].as_ref().unwrap_err().reason.contains("cannot be shown"));
}
