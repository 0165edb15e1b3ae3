//! What a C-FIND or C-GET asks for, and what is answered (PS3.4 C.4.1, C.4.3, C.6.2), on the Study Root.
//!
//! What is found are the node's own reports: a study as a peer sees it here is the node's report on it, in one series
//! with one instance. Every key of every level is asked of each report, so a query may be relational. Neighbours:
//! `matching` compares, `store` finds, `receive` answers.

use dicom_core::VR;

use crate::domain::AeTitle;

use super::dataset::{DataSet, Tag};
use super::matching::{Key, KeyError};
use super::tag;
use super::text::{CHARACTER_SET, Text};

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
    #[error("({0:04X},{1:04X}): {2}")]
    Key(u16, u16, KeyError),
    #[error("a retrieval names its studies, series or instances by UID")]
    NothingNamed,
}

/// A query that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub level: QueryLevel,
    pub keys: Vec<Key>,
    /// Whether a key was asked for that is not supported.
    pub has_unsupported: bool,
}

use QueryLevel::{Image, Series, Study};

const LEVEL: Tag = 0x0008_0052;
const RETRIEVE_AE: Tag = 0x0008_0054;
const AVAILABILITY: Tag = 0x0008_0056;

/// The keys that are matched and returned, by level.
#[rustfmt::skip]
const ATTRIBUTES: [(Tag, VR, QueryLevel); 42] = [
    (tag::STUDY, VR::UI, Study),
    (0x0008_0020, VR::DA, Study), // Study Date
    (0x0008_0030, VR::TM, Study), // Study Time
    (0x0008_0050, VR::SH, Study), // Accession Number
    (0x0008_0061, VR::CS, Study), // Modalities in Study
    (0x0008_0062, VR::UI, Study), // SOP Classes in Study
    (0x0008_0090, VR::PN, Study), // Referring Physician's Name
    (0x0008_1030, VR::LO, Study), // Study Description
    (0x0008_1060, VR::PN, Study), // Name of Physician(s) Reading Study
    (0x0010_0010, VR::PN, Study), // Patient's Name
    (0x0010_0020, VR::LO, Study), // Patient ID
    (0x0010_0021, VR::LO, Study), // Issuer of Patient ID
    (0x0010_0030, VR::DA, Study), // Patient's Birth Date
    (0x0010_0032, VR::TM, Study), // Patient's Birth Time
    (0x0010_0040, VR::CS, Study), // Patient's Sex
    (0x0010_1010, VR::AS, Study), // Patient's Age
    (0x0010_1020, VR::DS, Study), // Patient's Size
    (0x0010_1030, VR::DS, Study), // Patient's Weight
    (0x0020_0010, VR::SH, Study), // Study ID
    (0x0020_1206, VR::IS, Study), // Number of Study Related Series
    (0x0020_1208, VR::IS, Study), // Number of Study Related Instances
    (tag::SERIES, VR::UI, Series),
    (0x0008_0021, VR::DA, Series), // Series Date
    (0x0008_0031, VR::TM, Series), // Series Time
    (0x0008_0060, VR::CS, Series), // Modality
    (0x0008_0070, VR::LO, Series), // Manufacturer
    (0x0008_103E, VR::LO, Series), // Series Description
    (0x0008_1090, VR::LO, Series), // Manufacturer's Model Name
    (0x0018_1000, VR::LO, Series), // Device Serial Number
    (0x0020_0011, VR::IS, Series), // Series Number
    (0x0020_1209, VR::IS, Series), // Number of Series Related Instances
    (tag::INSTANCE, VR::UI, Image),
    (0x0008_0012, VR::DA, Image), // Instance Creation Date
    (0x0008_0013, VR::TM, Image), // Instance Creation Time
    (0x0008_0016, VR::UI, Image), // SOP Class UID
    (0x0008_0023, VR::DA, Image), // Content Date
    (0x0008_0033, VR::TM, Image), // Content Time
    (0x0020_0013, VR::IS, Image), // Instance Number
    (0x0040_A491, VR::CS, Image), // Completion Flag
    (0x0040_A492, VR::LO, Image), // Completion Flag Description
    (0x0040_A493, VR::CS, Image), // Verification Flag
    (0x0040_A496, VR::CS, Image), // Preliminary Flag
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
    pub fn to_find(identifier: &DataSet) -> Result<Self, QueryFault> {
        let level = [Study, Series, Image].into_iter().find(|level| identifier.text(LEVEL) == Some(level.as_str()));
        let level = level.ok_or(QueryFault::Level)?;
        let text = Text::of(identifier);
        let (mut keys, mut has_unsupported) = (Vec::new(), false);
        // Group lengths, which old peers still send, are no keys either.
        let is_key = |tag: Tag| tag & 0xFFFF != 0 && !NO_KEYS.contains(&tag);
        for (tag, _) in identifier.iter().filter(|(tag, _)| is_key(*tag)) {
            let attribute = ATTRIBUTES.iter().find(|(known, _, of)| *known == tag && *of <= level);
            let (Some((_, vr, _)), Some(bytes)) = (attribute, identifier.bytes(tag)) else {
                has_unsupported = true;
                continue;
            };
            let fault = |error| QueryFault::Key((tag >> 16) as u16, (tag & 0xFFFF) as u16, error);
            keys.push(Key::parse(tag, *vr, &text.decode(bytes)).map_err(fault)?);
        }
        Ok(Self { level, keys, has_unsupported })
    }

    /// Understands the identifier of a C-GET, which names what it wants by UID; other keys say nothing in it.
    pub fn to_get(identifier: &DataSet) -> Result<Self, QueryFault> {
        let mut query = Self::to_find(identifier)?;
        query.keys.retain(|key| [tag::STUDY, tag::SERIES, tag::INSTANCE].contains(&key.tag));
        let named = match query.level {
            Study => tag::STUDY,
            Series => tag::SERIES,
            Image => tag::INSTANCE,
        };
        match query.keys.iter().any(|key| key.tag == named && !key.is_universal()) {
            true => Ok(query),
            false => Err(QueryFault::NothingNamed),
        }
    }

    /// The response identifier for a report: the keys that were asked for, and where to retrieve it.
    pub fn answer(&self, report: &DataSet, retrieve_from: &AeTitle) -> DataSet {
        let mut answer = DataSet::default();
        if let Some(set) = report.bytes(CHARACTER_SET).filter(|set| !set.is_empty()) {
            answer.put(CHARACTER_SET, b"CS", set);
        }
        answer.put(LEVEL, b"CS", self.level.as_str());
        answer.put(RETRIEVE_AE, b"AE", retrieve_from.as_str());
        answer.put(AVAILABILITY, b"CS", "ONLINE");
        for Key { tag, vr, .. } in &self.keys {
            answer.put(*tag, &vr.to_bytes(), report.bytes(*tag).unwrap_or_default());
        }
        answer
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "query_tests.rs"]
mod tests;
