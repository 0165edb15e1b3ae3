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

#[test]
fn bytes_that_are_no_text_are_refused_and_code_extensions_are_followed() {
    let asked = |set: &str, name: &[u8]| {
        let mut identifier = asked("STUDY", &[]);
        identifier.put(CHARACTER_SET, b"CS", set);
        identifier.put(0x0010_0010, b"PN", name);
        Query::to_find(&identifier)
    };
    // Taken for several values, this would match everything.
    let fault = QueryFault::Key(0x0010, 0x0010, KeyError::Undecodable);
    assert_eq!(asked("ISO_IR 192", b"*\xfcller*"), Err(fault));
    assert!(fault.to_string().len() <= 64, "{fault}");

    // PS3.5 H.3.2
    let name = b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J";
    let of_set = |set: &str, name: &[u8]| {
        let mut report = report();
        report.put(CHARACTER_SET, b"CS", set);
        report.put(0x0010_0010, b"PN", name);
        report
    };
    let report = of_set("ISO 2022 IR 13\\ISO 2022 IR 87", name);
    for (key, expected) in [("山田^太郎", true), ("ﾔﾏﾀﾞ*", true), ("やまだ^*", true), ("山本*", false)]
    {
        let key = &asked("ISO_IR 192", key.as_bytes()).unwrap().keys[0];
        assert_eq!(key.matches(&report), expected, "{key:?}");
    }
    let key = &asked("ISO 2022 IR 13\\ISO 2022 IR 87", name).unwrap().keys[0];
    assert!(key.matches(&report));

    // No set is named: different names stay different.
    let key = &asked("", b"M\xfcller").unwrap().keys[0];
    assert!(key.matches(&of_set("", b"M\xfcller")) && !key.matches(&of_set("", b"M\xf6ller")));
    assert!(key.matches(&of_set("ISO_IR 192", "Müller".as_bytes())));
}
