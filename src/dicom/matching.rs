//! Attribute matching of queries (PS3.4 C.2.2.2): a key against the elements of an object. Pure.
//!
//! C-FIND and QIDO-RS differ in how keys are written, not in what they match, so both end here. Neighbours: `text`
//! reads what is compared, `store` narrows by UID before. Left out: sequence matching, fuzzy matching of names and the
//! combined matching of a date with its time, none of which is promised to a peer.

use dicom_core::VR;
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry, VirtualVr};
use dicom_dictionary_std::StandardDataDictionary;

use crate::domain::Uid;

use super::dataset::{DataSet, Tag};

/// A key of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub tag: Tag,
    pub vr: VR,
    rule: Rule,
}

/// How a value is compared.
#[derive(Debug, Clone, PartialEq)]
enum Rule {
    /// Universal matching (C.2.2.2.3): everything, also an attribute that is absent.
    Any,
    /// Any of these, as they are (C.2.2.2.1, and C.2.2.2.2 for UIDs).
    OneOf(Vec<String>),
    /// Any of these, with `*` and `?` (C.2.2.2.4).
    Like(Vec<Vec<char>>),
    /// Likewise, names in the form in which they are compared: as a whole or one of their component groups.
    Name(Vec<Vec<char>>),
    /// Numbers, by value.
    Number(Vec<f64>),
    /// From and to, both included, either may be open (C.2.2.2.5); already stretched to full precision.
    Range { from: Option<String>, to: Option<String>, parts: &'static [usize] },
}

/// Why a key cannot be matched. The texts fit into an Error Comment behind a tag: 51 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("more than {KEY_CHARS_MAX} bytes or {KEY_VALUES_MAX} values")]
    TooLong,
    #[error("bytes that are no text in its character set")]
    Undecodable,
    #[error("a date is YYYYMMDD, a range two with a hyphen")]
    Date,
    #[error("a time is HHMMSS or its beginning, a range two")]
    Time,
    #[error("a UID is digits and dots, several with a backslash")]
    Uid,
    #[error("a number is expected")]
    Number,
    #[error("attributes of this kind cannot be keys")]
    Unsupported,
}

/// Bounds of one key, so that matching costs little: of a list of UIDs that a viewer asks for, all have room.
const KEY_CHARS_MAX: usize = 65_536;
const KEY_VALUES_MAX: usize = 4_096;
/// Longest pattern with wildcards, since comparing takes its length times that of the value.
const PATTERN_CHARS_MAX: usize = 1_024;

impl Key {
    /// A key from the text that a query gives, without padding; several values are joined by backslashes.
    pub fn parse(tag: Tag, vr: VR, text: &str) -> Result<Self, KeyError> {
        let text = text.trim_end_matches(['\0', ' ']);
        if text.len() > KEY_CHARS_MAX || text.split('\\').count() > KEY_VALUES_MAX {
            return Err(KeyError::TooLong);
        }
        // What stands there is not known, so that it could only be left out, and much more would match.
        if text.contains(char::REPLACEMENT_CHARACTER) {
            return Err(KeyError::Undecodable);
        }
        let values = || text.split('\\').map(|v| v.trim_matches([' ', '\0'])).filter(|v| !v.is_empty());
        let rule = match vr {
            _ if values().next().is_none() || values().any(|v| v.bytes().all(|b| b == b'*')) => Rule::Any,
            VR::UI => {
                let valid = |v: &str| v.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                match values().all(valid) {
                    true => Rule::OneOf(values().map(str::to_owned).collect()),
                    false => return Err(KeyError::Uid),
                }
            }
            VR::DA => range(text, DATE, KeyError::Date)?,
            VR::TM => range(text, TIME, KeyError::Time)?,
            VR::DT => range(text, DATE_TIME, KeyError::Date)?,
            VR::AE | VR::CS | VR::LO | VR::LT | VR::PN | VR::SH | VR::ST | VR::UC | VR::UR | VR::UT => {
                if values().any(|v| v.chars().count() > PATTERN_CHARS_MAX) {
                    return Err(KeyError::TooLong);
                }
                match vr {
                    VR::PN => Rule::Name(values().map(|v| name(v).chars().collect()).collect()),
                    _ => Rule::Like(values().map(|v| v.chars().collect()).collect()),
                }
            }
            VR::AS => Rule::OneOf(values().map(str::to_owned).collect()),
            VR::IS | VR::DS | VR::US | VR::SS | VR::UL | VR::SL | VR::UV | VR::SV | VR::FL | VR::FD => {
                let numbers = values().map(|v| v.parse().ok().filter(|n: &f64| n.is_finite()));
                Rule::Number(numbers.collect::<Option<_>>().ok_or(KeyError::Number)?)
            }
            _ => return Err(KeyError::Unsupported),
        };
        Ok(Self { tag, vr, rule })
    }

    /// A key of one UID.
    pub fn of_uid(tag: Tag, uid: &Uid) -> Self {
        Self { tag, vr: VR::UI, rule: Rule::OneOf(vec![uid.as_str().to_owned()]) }
    }

    /// Whether an object matches. An attribute that is absent or empty matches universally only.
    pub fn matches(&self, set: &DataSet) -> bool {
        if self.is_universal() {
            return true;
        }
        let texts = set.texts(self.tag);
        match &self.rule {
            Rule::Any => true,
            Rule::OneOf(values) => texts.iter().any(|t| values.contains(t)),
            Rule::Like(patterns) => texts.iter().any(|text| is_like_any(patterns, text)),
            Rule::Name(patterns) => texts.iter().any(|text| {
                let whole = name(text);
                whole.split('=').chain([&whole[..]]).any(|form| !form.is_empty() && is_like_any(patterns, form))
            }),
            Rule::Number(numbers) => texts.iter().any(|t| t.parse::<f64>().is_ok_and(|t| numbers.contains(&t))),
            Rule::Range { from, to, parts } => texts.iter().any(|text| {
                let Some((first, last)) = stretch(text, parts) else { return false };
                from.as_ref().is_none_or(|from| last >= *from) && to.as_ref().is_none_or(|to| first <= *to)
            }),
        }
    }

    /// The values that the attribute must be one of, where the key is such a list: for an index that can look them up.
    pub fn one_of(&self) -> Option<&[String]> {
        match &self.rule {
            Rule::OneOf(values) => Some(values),
            _ => None,
        }
    }

    /// Whether every object matches.
    pub fn is_universal(&self) -> bool {
        self.rule == Rule::Any
    }
}

/// An attribute of the Standard by its keyword or its eight hexadecimal digits: tag and value representation.
pub fn attribute_named(name: &str) -> Option<(u32, VR)> {
    let tag = (name.len() == 8).then(|| u32::from_str_radix(name, 16).ok()).flatten();
    let entry = match tag {
        Some(tag) => StandardDataDictionary.by_tag(dicom_core::Tag((tag >> 16) as u16, tag as u16)),
        None => StandardDataDictionary.by_name(name),
    }?;
    let vr = match entry.vr() {
        VirtualVr::Exact(vr) => vr,
        VirtualVr::Xs => VR::US,
        _ => return None,
    };
    let found = entry.tag();
    Some((tag.unwrap_or(u32::from(found.0) << 16 | u32::from(found.1)), vr))
}

/// A name as it is compared: in lower case, without empty components and groups at its end (C.2.2.2.1).
fn name(text: &str) -> String {
    let folded = text.to_lowercase();
    let groups: Vec<&str> = folded.split('=').map(|group| group.trim_end_matches(['^', ' '])).collect();
    groups.join("=").trim_end_matches('=').to_owned()
}

fn is_like_any(patterns: &[Vec<char>], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    patterns.iter().any(|pattern| is_like(pattern, &text))
}

/// `*` stands for any characters or none, `?` for one.
fn is_like(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood and how far the text was: it takes one character more after each failure.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Lengths of the parts of a value, in digits: a shorter value stands for all that begin with it.
const DATE: &[usize] = &[8];
const TIME: &[usize] = &[2, 4, 6, 12];
const DATE_TIME: &[usize] = &[4, 6, 8, 10, 12, 14, 20];

fn range(text: &str, parts: &'static [usize], error: KeyError) -> Result<Rule, KeyError> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let end = |text: &str| match text.trim() {
        "" => Ok(None),
        text => stretch(text, parts).map(Some).ok_or(error),
    };
    Ok(Rule::Range { from: end(from)?.map(|(first, _)| first), to: end(to)?.map(|(_, last)| last), parts })
}

/// The first and the last moment that a date or time of less than full precision stands for, as digits. Separators of
/// older objects (`2001.01.31`, `12:30:00`) are read too; a zone at the end of a DT is not.
fn stretch(text: &str, parts: &[usize]) -> Option<(String, String)> {
    let full = *parts.last()?;
    let (whole, fraction) = match parts {
        DATE => (text, ""),
        _ => text.trim().split_once('.').unwrap_or((text, "")),
    };
    let digits: String = whole.trim().chars().filter(|c| !matches!(c, '.' | ':')).collect();
    // Fractions are of any length up to six digits, behind seconds.
    let fraction_fits = fraction.is_empty() || (fraction.len() <= 6 && digits.len() + 6 == full);
    let length_fits = parts.contains(&digits.len()) && digits.len() <= 14;
    let all_digits = [&digits[..], fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    if !(fraction_fits && length_fits && all_digits) {
        return None;
    }
    let digits = digits + fraction;
    let filled = |with: char| {
        let missing = full.saturating_sub(digits.len());
        digits.chars().chain(std::iter::repeat_n(with, missing)).collect::<String>()
    };
    Some((filled('0'), filled('9')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: Tag = 0x0009_0001;

    fn of(vr: VR, value: impl Into<Vec<u8>>) -> DataSet {
        let mut set = DataSet::default();
        set.put(TAG, &vr.to_bytes(), value);
        set
    }

    fn check(vr: VR, key: &str, value: &str, expected: bool) {
        let parsed = Key::parse(TAG, vr, key).unwrap_or_else(|e| panic!("{vr:?} {key:?}: {e}"));
        let value_bytes = if vr == VR::US { vec![value.parse().unwrap_or(0), 0] } else { value.into() };
        assert_eq!(parsed.matches(&of(vr, value_bytes)), expected, "{vr:?} key {key:?} value {value:?}");
    }

    #[test]
    fn each_kind_of_matching_of_the_standard() {
        let rows: &[(VR, &str, &str, bool)] = &[
            // universal
            (VR::LO, "", "4711", true),
            (VR::LO, "", "", true),
            (VR::LO, "*", "", true),
            (VR::PN, "**", "", true),
            (VR::UI, "*", "1.2", true),
            (VR::IS, "*", "", true),
            (VR::DA, "*", "", true),
            (VR::DA, "-", "20260115", true),
            // single value
            (VR::LO, "4711", "4711", true),
            (VR::LO, "4711 ", "4711", true),
            (VR::LO, "4711", "47110", false),
            (VR::LO, "4711", "", false),
            (VR::CS, "SR", "CT\\SR", true),
            (VR::CS, "CT\\SR", "SR", true),
            (VR::CS, "sr", "SR", false),
            (VR::AS, "062Y", "062Y", true),
            (VR::IS, "007", "7", true),
            (VR::IS, "8", "7", false),
            (VR::US, "7", "7", true),
            // list of UIDs
            (VR::UI, "1.2\\1.3", "1.3", true),
            (VR::UI, "1.2\0", "1.2", true),
            (VR::UI, "1.2", "1.2.3", false),
            // wildcards
            (VR::PN, "doe*", "DOE^JANE", true),
            (VR::PN, "D?E^*", "DOE^JANE", true),
            (VR::PN, "*jane", "DOE^JANE", true),
            (VR::PN, "*j*n*e", "DOE^JANE", true),
            (VR::PN, "müller*", "MÜLLER^JÖRG", true),
            (VR::PN, "D?^*", "DOE^JANE", false),
            (VR::LO, "ID-1?", "ID-1", false),
            (VR::LO, "*X*", "ID-1", false),
            // names: empty components at the end, component groups
            (VR::PN, "Doe^Jane", "DOE^JANE^^^", true),
            (VR::PN, "Doe^Jane^^ ", "DOE^JANE", true),
            (VR::PN, "Jane", "DOE^JANE", false),
            (VR::PN, "x^y", "Müller^Anna^=X^Y", true),
            (VR::PN, "Müller^Anna=X^Y", "Müller^Anna^=X^Y^=", true),
            (VR::PN, "M?ller*", "Müller^Anna=X^Y", true),
            (VR::PN, "Muller^Anna", "Müller^Anna=X^Y", false),
            (VR::PN, "^^", "=Y", false),
            // not a wildcard here
            (VR::AS, "0?2Y", "062Y", false),
            (VR::LO, "a*b*c", "aXXbYYbZZc", true),
            (VR::LO, "?", "", false),
            // dates
            (VR::DA, "20260115", "20260115", true),
            (VR::DA, "20260115", "2026.01.15", true),
            (VR::DA, "20260115-20260120", "20260120", true),
            (VR::DA, "20260115-20260120", "20260121", false),
            (VR::DA, "20260115-", "20270101", true),
            (VR::DA, "-20260115", "20260115", true),
            (VR::DA, "-20260115", "20260116", false),
            (VR::DA, "-20260115", "", false),
            // times
            (VR::TM, "10", "103000", true),
            (VR::TM, "1030", "103059.5", true),
            (VR::TM, "1030-11", "115959.999999", true),
            (VR::TM, "1030-11", "120000", false),
            (VR::TM, "101010.5", "101010.500001", true),
            (VR::TM, "-0900", "085959", true),
            (VR::DT, "2026-", "20270101", true),
            (VR::DT, "20260115", "20260115103000.5", true),
        ];
        for (vr, key, value, expected) in rows {
            check(*vr, key, value, *expected);
        }
    }

    #[test]
    fn what_is_no_key_is_an_error() {
        let rows = [
            (VR::DA, "2026-01-15", KeyError::Date),
            (VR::IS, "?", KeyError::Number),
            (VR::TM, "--", KeyError::Time),
            (VR::DA, "today", KeyError::Date),
            (VR::TM, "1", KeyError::Time),
            (VR::TM, "10.5", KeyError::Time),
            (VR::UI, "1.2*", KeyError::Uid),
            (VR::IS, "many", KeyError::Number),
            (VR::SQ, "x", KeyError::Unsupported),
            (VR::OB, "x", KeyError::Unsupported),
            (VR::PN, "*\u{fffd}ller*", KeyError::Undecodable),
            (VR::LO, "\u{fffd}\\*", KeyError::Undecodable),
        ];
        for (vr, text, expected) in rows {
            assert_eq!(Key::parse(TAG, vr, text), Err(expected), "{vr:?} {text:?}");
            assert!(expected.to_string().len() <= 51, "{expected} is too long for an Error Comment");
        }
        assert_eq!(Key::parse(TAG, VR::LO, &"x".repeat(2_000)), Err(KeyError::TooLong));
        assert_eq!(Key::parse(TAG, VR::UI, &"1\\".repeat(5_000)), Err(KeyError::TooLong));
    }

    #[test]
    fn an_attribute_is_known_by_keyword_and_by_number() {
        let rows = [
            ("PatientName", Some((0x0010_0010, VR::PN))),
            ("00100010", Some((0x0010_0010, VR::PN))),
            ("0020000d", Some((0x0020_000d, VR::UI))),
            ("StudyInstanceUID", Some((0x0020_000d, VR::UI))),
            ("patientname", None),
            ("99999999", None),
            ("", None),
        ];
        for (name, expected) in rows {
            assert_eq!(attribute_named(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn wildcards_agree_with_a_plain_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            fn plain(p: &[char], t: &[char]) -> bool {
                match (p.first(), t.first()) {
                    (None, None) => true,
                    (Some('*'), _) => plain(&p[1..], t) || (!t.is_empty() && plain(p, &t[1..])),
                    (Some('?'), Some(_)) => plain(&p[1..], &t[1..]),
                    (Some(a), Some(b)) if a == b => plain(&p[1..], &t[1..]),
                    _ => false,
                }
            }
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(is_like(&p, &t), plain(&p, &t));
        }

        #[test]
        fn any_text_is_a_key_or_an_error(text in ".{0,40}", value in ".{0,40}", which in 0..12_usize) {
            let vr = [VR::DA, VR::TM, VR::DT, VR::PN, VR::UI, VR::IS, VR::LO, VR::CS, VR::AS, VR::FD, VR::UT, VR::SQ][which];
            if let Ok(key) = Key::parse(TAG, vr, &text) {
                key.matches(&of(vr, value));
            }
        }
    }
}
