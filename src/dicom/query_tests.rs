//! Identifiers, and what is answered; `matching` tests what keys match.

use super::*;
use crate::dicom::Encoding;
use tag::{INSTANCE, SERIES, STUDY};

fn report() -> DataSet {
    let mut report = DataSet::default();
    report.put(CHARACTER_SET, b"CS", "ISO_IR 100");
    report.put(STUDY, b"UI", "1.2.3.1");
    report.put(0x0008_0020, b"DA", "20240315");
    report.put(0x0010_0010, b"PN", *b"M\xfcller^Anna=X^Y");
    report.put(0x0010_0020, b"LO", "ID-1");
    report
}

fn asked(level: &str, keys: &[(Tag, &str)]) -> DataSet {
    let mut identifier = DataSet::default();
    identifier.put(LEVEL, b"CS", level);
    keys.iter().for_each(|(tag, value)| identifier.put(*tag, b"UN", *value));
    identifier
}

#[test]
fn keys_are_read_by_the_character_set_of_the_identifier_and_answered_in_that_of_the_report() {
    let report = report();
    let matches = |identifier: &DataSet| {
        let keys = Query::to_find(identifier).unwrap().keys;
        keys.iter().all(|key| key.matches(&report))
    };
    for (name, expected) in [("Müller^Anna", true), ("MÜLLER*", true), ("x^y", true), ("Muller^Anna", false)] {
        let mut identifier = asked("STUDY", &[(0x0010_0010, name), (0x0008_0020, "20240301-"), (0x0010_1010, "")]);
        identifier.put(CHARACTER_SET, b"CS", "ISO_IR 192");
        // An implicit encoding does not tell what an element is.
        let bytes = identifier.encode(Encoding::ImplicitLittleEndian);
        let bounds = crate::dicom::Bounds { bytes_max: 1000, elements_max: 10, depth_max: 1 };
        let read = DataSet::parse(&bytes, Encoding::ImplicitLittleEndian, bounds).unwrap();
        assert_eq!((matches(&identifier), matches(&read)), (expected, expected), "{name}");
    }
    let query = Query::to_find(&asked("STUDY", &[(0x0010_0010, "")])).unwrap();
    let answer = query.answer(&report, &AeTitle::parse("SIDELIGHT").unwrap());
    assert_eq!(answer.bytes(0x0010_0010), Some(&b"M\xfcller^Anna=X^Y "[..]), "as the report has it");
    assert_eq!(answer.text(CHARACTER_SET), Some("ISO_IR 100"));
}

#[test]
fn an_answer_holds_what_was_asked_for_and_where_it_is() {
    let keys = [(0x0010_0020, "ID*"), (STUDY, ""), (0x0010_1010, ""), (SERIES, ""), (0x0009_0010, "")];
    let query = Query::to_find(&asked("STUDY", &keys)).unwrap();
    assert!(query.has_unsupported, "a series key at study level, and a private one");
    let answer = query.answer(&report(), &AeTitle::parse("ALIAS").unwrap());
    let got: Vec<_> = answer.iter().map(|(tag, _)| (tag, answer.text(tag).unwrap_or_default())).collect();
    let expected = [
        (CHARACTER_SET, "ISO_IR 100"),
        (LEVEL, "STUDY"),
        (RETRIEVE_AE, "ALIAS"),
        (AVAILABILITY, "ONLINE"),
        (0x0010_0020, "ID-1"),
        (0x0010_1010, ""),
        (STUDY, "1.2.3.1"),
    ];
    assert_eq!(got, expected);
    let group_length = (0x0008_0000, "ABCD");
    let query = Query::to_find(&asked("SERIES", &[(SERIES, ""), (STUDY, "1.2"), group_length])).unwrap();
    assert!(!query.has_unsupported);
}

#[test]
fn identifiers_that_say_nothing_are_refused() {
    let fault = |level: &str, keys: &[(Tag, &str)]| Query::to_find(&asked(level, keys)).err();
    assert_eq!(fault("PATIENT", &[]), Some(QueryFault::Level));
    assert_eq!(fault("", &[]), Some(QueryFault::Level));
    assert_eq!(Query::to_find(&DataSet::default()).err(), Some(QueryFault::Level));
    assert_eq!(fault("STUDY", &[(STUDY, "1.2\\x")]), Some(QueryFault::Key(0x0020, 0x000D, KeyError::Uid)));
    assert_eq!(fault("STUDY", &[(0x0008_0020, "today")]), Some(QueryFault::Key(0x0008, 0x0020, KeyError::Date)));
    assert_eq!(fault("STUDY", &[(0x0008_0020, "*"), (0x0020_1206, "*"), (STUDY, "*")]), None);
    for fault in [QueryFault::Level, QueryFault::Key(0, 0, KeyError::Uid), QueryFault::NothingNamed] {
        assert!(fault.to_string().len() <= 64, "{fault} is longer than an Error Comment");
    }
}

#[test]
fn a_retrieval_names_what_it_wants() {
    let get = |level: &str, keys: &[(Tag, &str)]| {
        Query::to_get(&asked(level, keys)).map(|query| query.keys.iter().map(|key| key.tag).collect::<Vec<_>>())
    };
    assert_eq!(get("STUDY", &[(STUDY, "1.2.3"), (0x0010_0020, "ID-1")]), Ok(vec![STUDY]));
    assert_eq!(get("IMAGE", &[(INSTANCE, "1.2.3\\1.2.4"), (STUDY, "")]), Ok(vec![INSTANCE, STUDY]));
    for (level, tag, value) in [("STUDY", STUDY, ""), ("STUDY", STUDY, "*"), ("SERIES", STUDY, "1.2.3")] {
        assert_eq!(get(level, &[(tag, value)]), Err(QueryFault::NothingNamed), "{level} {value:?}");
    }
}
