//! What a query asks for, whether a report matches it, and what is answered (PS3.4 C.2.2.2, C.6.2), on the Study Root.
//!
//! The records are the node's own reports: a study as a peer sees it here is the node's report on it, in one series
//! with one instance. Every key of every level is asked of each record, so a query may be relational. Neighbours:
//! `receive` answers C-FIND and C-GET with this. Left out: where the records come from (`store`).

use dicom_encoding::text::{SpecificCharacterSet, TextCodec};

use crate::domain::{AeTitle, Uid};

use super::dataset::{DataSet, Tag};

/// Query/Retrieve Level (0008,0052).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueryLevel {
    Study,
    Series,
    Image,
}

/// What is wrong with an identifier; the texts go to the peer as Error Comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryFault {
    #[error("Query/Retrieve Level missing, or not STUDY, SERIES or IMAGE")]
    Level,
    #[error("({0:04X},{1:04X}) holds what is not a UID")]
    NotAUid(u16, u16),
    #[error("a retrieval names its studies, series or instances by UID")]
    NothingNamed,
}

/// A query that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub level: QueryLevel,
    /// By UID; empty: all.
    pub studies: Vec<Uid>,
    pub series: Vec<Uid>,
    pub instances: Vec<Uid>,
    /// Whether a key was asked for that is not supported.
    pub has_unsupported: bool,
    keys: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    attribute: &'static Attribute,
    wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Anything,
    /// One of these texts, with wildcards where `*` and `?` are in them.
    OneOf(Vec<String>),
    /// From, to; both included, each may be open.
    Between(Option<String>, Option<String>),
}

/// How values of an attribute are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// As they are.
    Exact,
    Text,
    /// Without regard to case, and to empty components at the end (PS3.4 C.2.2.2.1).
    Name,
    /// Dates and times, as ranges.
    Range,
    Uids,
}

#[derive(Debug, PartialEq, Eq)]
struct Attribute {
    tag: Tag,
    vr: &'static [u8; 2],
    level: QueryLevel,
    compare: Compare,
}

const fn attribute(tag: Tag, vr: &'static [u8; 2], level: QueryLevel, compare: Compare) -> Attribute {
    Attribute { tag, vr, level, compare }
}

use Compare::{Exact, Name, Range, Text, Uids};
use QueryLevel::{Image, Series, Study};

const STUDY: Tag = 0x0020_000D;
const SERIES: Tag = 0x0020_000E;
const INSTANCE: Tag = 0x0008_0018;
const CHARACTER_SET: Tag = 0x0008_0005;
const LEVEL: Tag = 0x0008_0052;
const RETRIEVE_AE: Tag = 0x0008_0054;
const AVAILABILITY: Tag = 0x0008_0056;

/// The keys that are matched and returned, by level.
#[rustfmt::skip]
const ATTRIBUTES: [Attribute; 42] = [
    attribute(STUDY, b"UI", Study, Uids),
    attribute(0x0008_0020, b"DA", Study, Range), // Study Date
    attribute(0x0008_0030, b"TM", Study, Range), // Study Time
    attribute(0x0008_0050, b"SH", Study, Text), // Accession Number
    attribute(0x0008_0061, b"CS", Study, Text), // Modalities in Study
    attribute(0x0008_0062, b"UI", Study, Uids), // SOP Classes in Study
    attribute(0x0008_0090, b"PN", Study, Name), // Referring Physician's Name
    attribute(0x0008_1030, b"LO", Study, Text), // Study Description
    attribute(0x0008_1060, b"PN", Study, Name), // Name of Physician(s) Reading Study
    attribute(0x0010_0010, b"PN", Study, Name), // Patient's Name
    attribute(0x0010_0020, b"LO", Study, Text), // Patient ID
    attribute(0x0010_0021, b"LO", Study, Text), // Issuer of Patient ID
    attribute(0x0010_0030, b"DA", Study, Range), // Patient's Birth Date
    attribute(0x0010_0032, b"TM", Study, Range), // Patient's Birth Time
    attribute(0x0010_0040, b"CS", Study, Text), // Patient's Sex
    attribute(0x0010_1010, b"AS", Study, Exact), // Patient's Age
    attribute(0x0010_1020, b"DS", Study, Exact), // Patient's Size
    attribute(0x0010_1030, b"DS", Study, Exact), // Patient's Weight
    attribute(0x0020_0010, b"SH", Study, Text), // Study ID
    attribute(0x0020_1206, b"IS", Study, Exact), // Number of Study Related Series
    attribute(0x0020_1208, b"IS", Study, Exact), // Number of Study Related Instances
    attribute(SERIES, b"UI", Series, Uids),
    attribute(0x0008_0021, b"DA", Series, Range), // Series Date
    attribute(0x0008_0031, b"TM", Series, Range), // Series Time
    attribute(0x0008_0060, b"CS", Series, Text), // Modality
    attribute(0x0008_0070, b"LO", Series, Text), // Manufacturer
    attribute(0x0008_103E, b"LO", Series, Text), // Series Description
    attribute(0x0008_1090, b"LO", Series, Text), // Manufacturer's Model Name
    attribute(0x0018_1000, b"LO", Series, Text), // Device Serial Number
    attribute(0x0020_0011, b"IS", Series, Exact), // Series Number
    attribute(0x0020_1209, b"IS", Series, Exact), // Number of Series Related Instances
    attribute(INSTANCE, b"UI", Image, Uids),
    attribute(0x0008_0012, b"DA", Image, Range), // Instance Creation Date
    attribute(0x0008_0013, b"TM", Image, Range), // Instance Creation Time
    attribute(0x0008_0016, b"UI", Image, Uids), // SOP Class UID
    attribute(0x0008_0023, b"DA", Image, Range), // Content Date
    attribute(0x0008_0033, b"TM", Image, Range), // Content Time
    attribute(0x0020_0013, b"IS", Image, Exact), // Instance Number
    attribute(0x0040_A491, b"CS", Image, Text), // Completion Flag
    attribute(0x0040_A492, b"LO", Image, Text), // Completion Flag Description
    attribute(0x0040_A493, b"CS", Image, Text), // Verification Flag
    attribute(0x0040_A496, b"CS", Image, Text), // Preliminary Flag
];

/// Elements of an identifier that are no keys: Specific Character Set, level, Timezone Offset from UTC; and two that
/// are always answered.
const NO_KEYS: [Tag; 5] = [CHARACTER_SET, LEVEL, 0x0008_0201, RETRIEVE_AE, AVAILABILITY];

impl QueryLevel {
    fn as_str(self) -> &'static str {
        match self {
            Study => "STUDY",
            Series => "SERIES",
            Image => "IMAGE",
        }
    }
}

impl Query {
    /// Understands the identifier of a C-FIND.
    pub fn parse(identifier: &DataSet) -> Result<Self, QueryFault> {
        let level = [Study, Series, Image].into_iter().find(|level| identifier.text(LEVEL) == Some(level.as_str()));
        let level = level.ok_or(QueryFault::Level)?;
        let (mut keys, mut has_unsupported) = (Vec::new(), false);
        // Group lengths, which old peers still send, are no keys either.
        let is_key = |tag: Tag| tag & 0xFFFF != 0 && !NO_KEYS.contains(&tag);
        for (tag, _) in identifier.iter().filter(|(tag, _)| is_key(*tag)) {
            let attribute = ATTRIBUTES.iter().find(|a| a.tag == tag && a.level <= level);
            let (Some(attribute), Some(bytes)) = (attribute, identifier.bytes(tag)) else {
                has_unsupported = true;
                continue;
            };
            keys.push(Key { attribute, wanted: wanted(attribute, &decoded(identifier, bytes)) });
        }
        let uids = |tag| -> Result<Vec<Uid>, QueryFault> {
            let key = keys.iter().find(|key| key.attribute.tag == tag);
            let Some(Wanted::OneOf(texts)) = key.map(|key| &key.wanted) else { return Ok(Vec::new()) };
            let fault = |_| QueryFault::NotAUid((tag >> 16) as u16, (tag & 0xFFFF) as u16);
            texts.iter().map(|text| Uid::parse(text).map_err(fault)).collect()
        };
        let (studies, series, instances) = (uids(STUDY)?, uids(SERIES)?, uids(INSTANCE)?);
        Ok(Self { level, studies, series, instances, has_unsupported, keys })
    }

    /// Understands the identifier of a C-GET, which names what it wants by UID.
    pub fn parse_retrieval(identifier: &DataSet) -> Result<Self, QueryFault> {
        let query = Self::parse(identifier)?;
        let named = match query.level {
            Study => &query.studies,
            Series => &query.series,
            Image => &query.instances,
        };
        if named.is_empty() {
            return Err(QueryFault::NothingNamed);
        }
        Ok(query)
    }

    /// Whether a record is what the query asks for.
    pub fn matches(&self, record: &DataSet) -> bool {
        self.keys.iter().all(|key| match record.bytes(key.attribute.tag) {
            _ if key.wanted == Wanted::Anything => true,
            None => false,
            Some(value) => key.matches(&decoded(record, value)),
        })
    }

    /// The response identifier for a record: the keys that were asked for, and where to retrieve it.
    pub fn answer(&self, record: &DataSet, retrieve_from: &AeTitle) -> DataSet {
        let mut answer = DataSet::default();
        if let Some(set) = record.bytes(CHARACTER_SET).filter(|set| !set.is_empty()) {
            answer.put(CHARACTER_SET, b"CS", set);
        }
        answer.put(LEVEL, b"CS", self.level.as_str());
        answer.put(RETRIEVE_AE, b"AE", retrieve_from.as_str());
        answer.put(AVAILABILITY, b"CS", "ONLINE");
        for Key { attribute, .. } in &self.keys {
            answer.put(attribute.tag, attribute.vr, record.bytes(attribute.tag).unwrap_or_default());
        }
        answer
    }
}

/// A report as a record: with what a study, and a series, tell of what is in them.
pub fn query_record(mut report: DataSet) -> DataSet {
    report.put(0x0008_0061, b"CS", "SR");
    let class = report.bytes(0x0008_0016).unwrap_or_default().to_vec();
    report.put(0x0008_0062, b"UI", class);
    for tag in [0x0020_1206, 0x0020_1208, 0x0020_1209] {
        report.put(tag, b"IS", "1");
    }
    report
}

/// What a key asks for (PS3.4 C.2.2.2.1 to C.2.2.2.5).
fn wanted(attribute: &Attribute, text: &str) -> Wanted {
    let text = trimmed(text);
    if text.is_empty() || text.chars().all(|c| c == '*') {
        return Wanted::Anything;
    }
    match attribute.compare {
        Range => match text.split_once('-') {
            None => Wanted::Between(Some(comparable(Range, text)), Some(comparable(Range, text))),
            Some((from, to)) => {
                let bound = |text: &str| Some(comparable(Range, text)).filter(|text| !text.is_empty());
                Wanted::Between(bound(from), bound(to))
            }
        },
        Uids => Wanted::OneOf(text.split('\\').map(|uid| trimmed(uid).to_owned()).collect()),
        Exact | Text | Name => Wanted::OneOf(vec![comparable(attribute.compare, text)]),
    }
}

impl Key {
    fn matches(&self, value: &str) -> bool {
        let compare = self.attribute.compare;
        value.split('\\').map(|one| comparable(compare, one)).any(|value| match &self.wanted {
            Wanted::Anything => true,
            // An attribute without a value matches nothing but a universal key.
            _ if value.is_empty() => false,
            Wanted::OneOf(texts) if matches!(compare, Text | Name) => {
                // A name matches as a whole or by one of its component groups.
                let groups = value.split('=').filter(|_| compare == Name).map(|group| comparable(Name, group));
                let mut forms = groups.chain([value.clone()]);
                forms.any(|form| texts.iter().any(|pattern| like(pattern, &form)))
            }
            Wanted::OneOf(texts) => texts.contains(&value),
            Wanted::Between(from, to) => {
                // A bound of less precision covers all that begins with it: 1015 as the end includes 101559.
                let head = |bound: &String| value.chars().take(bound.chars().count()).collect::<String>();
                from.as_ref().is_none_or(|from| value.as_str() >= from.as_str() || head(from) == *from)
                    && to.as_ref().is_none_or(|to| head(to) <= *to)
            }
        })
    }
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(['\0', ' '])
}

/// A value, or a pattern, in the form in which it is compared.
fn comparable(compare: Compare, text: &str) -> String {
    let text = trimmed(text);
    match compare {
        Name => text.to_lowercase().split('=').map(|g| g.trim_end_matches(['^', ' '])).collect::<Vec<_>>().join("="),
        // Dates and times in the form of ACR-NEMA, with separators.
        Range => text.chars().filter(|c| !matches!(c, ':' | '.')).collect(),
        Exact | Text | Uids => text.to_owned(),
    }
}

/// Whether a text fits a pattern in which `*` stands for any characters and `?` for one. In the order of the lengths'
/// product at worst.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // The last `*`, and how much of the text it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, covered)) => {
                    star = Some((at, covered + 1));
                    (p, t) = (at + 1, covered + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The characters of a value, by the Specific Character Set of its data set; a set that is not known leaves ASCII.
fn decoded(set: &DataSet, bytes: &[u8]) -> String {
    let codes = set.text(CHARACTER_SET).unwrap_or_default();
    // With code extensions the last set is the one with characters of its own.
    let code = codes.rsplit('\\').map(trimmed).find(|code| !code.is_empty()).unwrap_or("ISO_IR 6");
    let codec = SpecificCharacterSet::from_code(code);
    let text = codec.and_then(|codec| codec.decode(bytes).ok());
    text.unwrap_or_else(|| bytes.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '\u{fffd}' }).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "query_tests.rs"]
mod tests;
