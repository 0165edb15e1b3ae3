//! Matching and answers, row by row after PS3.4 C.2.2.2.

use proptest::prelude::*;

use super::*;

fn record(edit: impl FnOnce(&mut DataSet)) -> DataSet {
    let mut report = DataSet::default();
    report.put(0x0008_0016, b"UI", "1.2.840.10008.5.1.4.1.1.88.34");
    report.put(INSTANCE, b"UI", "1.2.3.3");
    report.put(STUDY, b"UI", "1.2.3.1");
    report.put(SERIES, b"UI", "1.2.3.2");
    report.put(0x0008_0020, b"DA", "20240315");
    report.put(0x0008_0030, b"TM", "101530.5");
    report.put(0x0008_0050, b"SH", "ACC 7");
    report.put(0x0008_0060, b"CS", "SR");
    report.put(0x0010_0010, b"PN", "Doe^Jane^^^");
    report.put(0x0010_0020, b"LO", "ID-1");
    report.put(0x0010_0040, b"CS", "");
    edit(&mut report);
    query_record(report)
}

fn asked(level: &str, keys: &[(Tag, &str)]) -> DataSet {
    let mut identifier = DataSet::default();
    identifier.put(LEVEL, b"CS", level);
    keys.iter().for_each(|(tag, value)| identifier.put(*tag, b"UN", *value));
    identifier
}

#[test]
fn keys_match_as_the_standard_has_it() {
    let rows: &[(Tag, &str, bool)] = &[
        // universal
        (0x0010_0020, "", true),
        (0x0010_0020, "*", true),
        (0x0010_0040, "", true),
        (0x0010_1010, "", true),
        // single value
        (0x0010_0020, "ID-1", true),
        (0x0010_0020, "id-1", false),
        (0x0010_0020, "ID-10", false),
        (0x0008_0050, "ACC 7", true),
        (0x0010_0040, "F", false),
        (0x0010_1010, "030Y", false),
        (0x0008_0061, "SR", true),
        (0x0008_0061, "CT", false),
        (0x0020_1208, "1", true),
        (0x0020_1208, "2", false),
        // wildcards
        (0x0010_0020, "ID*", true),
        (0x0010_0020, "*1", true),
        (0x0010_0020, "I?-1", true),
        (0x0010_0020, "ID-1?", false),
        (0x0010_0020, "*X*", false),
        (0x0020_1208, "?", false),
        // names
        (0x0010_0010, "Doe^Jane", true),
        (0x0010_0010, "DOE^JANE", true),
        (0x0010_0010, "doe*", true),
        (0x0010_0010, "Doe^J?ne", true),
        (0x0010_0010, "Jane", false),
        // lists of UIDs
        (STUDY, "1.2.3.1", true),
        (STUDY, "9.9\\1.2.3.1", true),
        (STUDY, "1.2.3", false),
        (0x0008_0062, "1.2.840.10008.5.1.4.1.1.88.34", true),
        // ranges
        (0x0008_0020, "20240315", true),
        (0x0008_0020, "20240314", false),
        (0x0008_0020, "20240301-20240331", true),
        (0x0008_0020, "20240315-20240315", true),
        (0x0008_0020, "-20240315", true),
        (0x0008_0020, "-20240314", false),
        (0x0008_0020, "20240315-", true),
        (0x0008_0020, "20240316-", false),
        (0x0008_0020, "-", true),
        (0x0008_0030, "1015", true),
        (0x0008_0030, "1000-1015", true),
        (0x0008_0030, "1000-1014", false),
        (0x0008_0030, "101531-", false),
        (0x0008_0030, "10", true),
    ];
    let record = record(|_| ());
    for (tag, value, expected) in rows {
        let query = Query::parse(&asked("STUDY", &[(*tag, value)])).unwrap();
        assert_eq!(query.matches(&record), *expected, "{tag:08X} {value:?}");
    }
}

#[test]
fn names_match_by_component_group_and_across_character_sets() {
    let record = record(|report| {
        report.put(CHARACTER_SET, b"CS", "ISO_IR 100");
        report.put(0x0010_0010, b"PN", *b"M\xfcller^Anna=X^Y");
    });
    let matches = |name: &str| {
        let mut identifier = asked("STUDY", &[(0x0010_0010, name)]);
        identifier.put(CHARACTER_SET, b"CS", "ISO_IR 192");
        Query::parse(&identifier).unwrap().matches(&record)
    };
    assert!(matches("Müller^Anna") && matches("MÜLLER*") && matches("x^y") && matches("M?ller^Anna=X^Y"));
    assert!(!matches("Muller^Anna"));
    let query = Query::parse(&asked("STUDY", &[(0x0010_0010, "")])).unwrap();
    let answer = query.answer(&record, &AeTitle::parse("SIDELIGHT").unwrap());
    assert_eq!(answer.bytes(0x0010_0010), Some(&b"M\xfcller^Anna=X^Y "[..]), "as the report has it");
    assert_eq!(answer.text(CHARACTER_SET), Some("ISO_IR 100"));
}

#[test]
fn an_answer_holds_what_was_asked_for_and_where_it_is() {
    let keys = [(0x0010_0020, "ID*"), (STUDY, ""), (0x0010_1010, ""), (SERIES, ""), (0x0009_0010, "")];
    let query = Query::parse(&asked("STUDY", &keys)).unwrap();
    assert!(query.has_unsupported, "a series key at study level, and a private one");
    let answer = query.answer(&record(|_| ()), &AeTitle::parse("ALIAS").unwrap());
    let got: Vec<_> = answer.iter().map(|(tag, _)| (tag, answer.text(tag).unwrap_or_default())).collect();
    let expected = [
        (LEVEL, "STUDY"),
        (RETRIEVE_AE, "ALIAS"),
        (AVAILABILITY, "ONLINE"),
        (0x0010_0020, "ID-1"),
        (0x0010_1010, ""),
        (STUDY, "1.2.3.1"),
    ];
    assert_eq!(got, expected);
    let group_length = (0x0008_0000, "ABCD");
    let query = Query::parse(&asked("SERIES", &[(SERIES, ""), (STUDY, "1.2"), group_length])).unwrap();
    assert!(!query.has_unsupported);
}

#[test]
fn identifiers_that_say_nothing_are_refused() {
    let fault = |level: &str, keys: &[(Tag, &str)]| Query::parse(&asked(level, keys)).err();
    assert_eq!(fault("PATIENT", &[]), Some(QueryFault::Level));
    assert_eq!(fault("", &[]), Some(QueryFault::Level));
    assert_eq!(Query::parse(&DataSet::default()).err(), Some(QueryFault::Level));
    assert_eq!(fault("STUDY", &[(STUDY, "1.2\\x")]), Some(QueryFault::NotAUid(0x0020, 0x000D)));
    let get = |level: &str, keys: &[(Tag, &str)]| Query::parse_retrieval(&asked(level, keys)).err();
    assert_eq!(get("STUDY", &[(STUDY, "1.2.3")]), None);
    assert_eq!(get("STUDY", &[(STUDY, "")]), Some(QueryFault::NothingNamed));
    assert_eq!(get("SERIES", &[(STUDY, "1.2.3")]), Some(QueryFault::NothingNamed));
    assert_eq!(get("IMAGE", &[(INSTANCE, "1.2.3\\1.2.4")]), None);
    for fault in [QueryFault::Level, QueryFault::NotAUid(0, 0), QueryFault::NothingNamed] {
        assert!(fault.to_string().len() <= 64, "{fault} is longer than an Error Comment");
    }
}

/// The definition: recursion over both texts.
fn slow_like(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|n| slow_like(rest, &text[n..])),
        Some((c, rest)) => text.split_first().is_some_and(|(t, after)| (*c == '?' || c == t) && slow_like(rest, after)),
    }
}

proptest! {
    #[test]
    fn wildcards_are_what_their_definition_says(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        prop_assert_eq!(like(&pattern, &text), slow_like(&chars(&pattern), &chars(&text)));
    }
}
