//! What reports are built from in these tests: source images that can be altered byte by byte, and assessments.
//!
//! The sources are read with a reader of its own (flat, Explicit VR Little Endian), so that the tests do not depend
//! on how the node reads headers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sidelight::domain::{
    Assessment, Attribute, AttributeValue, Attributes, Code, Digest, DigestOf, Direction, Disclosed, Disclosure,
    Finding, FindingAssessment, Group, GroupEstimate, IndReason, InstanceHeader, Interval, Level, ModelIdentity,
    Probability, Uid,
};
use sidelight::report::{Completion, Observer, ReportOptions, SrClass};

/// The folder with the specification and its examples.
pub fn shared() -> PathBuf {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let path = std::env::var_os("SIDELIGHT_SHARED").map_or_else(default, PathBuf::from);
    assert!(path.join("tools/check_sr.py").is_file(), "no check_sr.py under {}: set SIDELIGHT_SHARED", path.display());
    path
}

pub fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

pub fn fresh_uid() -> Uid {
    Uid::from_uuid(uuid::Uuid::new_v4())
}

/// A source image: its meta information and its elements as bytes.
#[derive(Clone)]
pub struct Source {
    meta: Vec<u8>,
    elements: BTreeMap<u32, ([u8; 2], Vec<u8>)>,
    /// Items of the sequences that were put in, for the header.
    items: BTreeMap<u32, Vec<Attributes>>,
}

impl Source {
    /// `source1.dcm` or `source2.dcm`: two series of one study.
    pub fn read(number: u8) -> Self {
        let bytes = std::fs::read(shared().join(format!("sr/source{number}.dcm"))).unwrap();
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let (mut at, mut meta_end) = (132, 132);
        let mut elements = BTreeMap::new();
        while at < bytes.len() {
            let tag = u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
            let vr = [bytes[at + 4], bytes[at + 5]];
            let (start, length) = match &vr {
                b"OB" | b"OW" => (at + 12, u32_at(at + 8) as usize),
                _ => (at + 8, usize::from(u16_at(at + 6))),
            };
            at = start + length;
            if tag >> 16 == 2 {
                meta_end = at;
            } else {
                elements.insert(tag, (vr, bytes[start..at].to_vec()));
            }
        }
        Self { meta: bytes[..meta_end].to_vec(), elements, items: BTreeMap::new() }
    }

    /// Both images of the study.
    pub fn both() -> Vec<Self> {
        vec![Self::read(1), Self::read(2)]
    }

    pub fn set(mut self, tag: u32, vr: &[u8; 2], value: &[u8]) -> Self {
        let mut value = value.to_vec();
        if value.len() % 2 == 1 {
            value.push(b' ');
        }
        self.elements.insert(tag, (*vr, value));
        self
    }

    pub fn without(mut self, tags: &[u32]) -> Self {
        self.elements.retain(|tag, _| !tags.contains(tag));
        self
    }

    /// A code sequence with one item for each code.
    pub fn set_codes(mut self, tag: u32, codes: &[(&str, &str, &str)]) -> Self {
        let mut value = Vec::new();
        let mut items = Vec::new();
        for (code, scheme, meaning) in codes {
            let item = Source { meta: vec![], elements: BTreeMap::new(), items: BTreeMap::new() }
                .set(0x0008_0100, b"SH", code.as_bytes())
                .set(0x0008_0102, b"SH", scheme.as_bytes())
                .set(0x0008_0104, b"LO", meaning.as_bytes());
            let bytes = item.data_set();
            value.extend_from_slice(&[0xfe, 0xff, 0x00, 0xe0]);
            value.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
            value.extend_from_slice(&bytes);
            items.push(item.attributes());
        }
        self.elements.insert(tag, (*b"SQ", value));
        self.items.insert(tag, items);
        self
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, [&self.meta[..], &self.data_set()].concat()).unwrap();
    }

    /// The header as the node's workers would hand it over.
    pub fn header(&self) -> InstanceHeader {
        let text = |tag: u32| {
            let bytes = self.elements.get(&tag).map(|(_, v)| v.as_slice()).unwrap_or_default();
            String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_owned()
        };
        InstanceHeader {
            study: uid(&text(0x0020_000d)),
            series: uid(&text(0x0020_000e)),
            sop_instance: uid(&text(0x0008_0018)),
            sop_class: uid(&text(0x0008_0016)),
            transfer_syntax: uid("1.2.840.10008.1.2.1"),
            modality: text(0x0008_0060),
            body_part: text(0x0018_0015),
            view: None,
            manufacturer: text(0x0008_0070),
            model_name: text(0x0008_1090),
            rows: 16,
            columns: 16,
            frames: 1,
            bits_allocated: 16,
            bits_stored: 12,
            photometric: "MONOCHROME1".into(),
            has_pixels: true,
            image: Default::default(),
            copied: self.attributes(),
        }
    }

    fn attributes(&self) -> Attributes {
        let attribute = |(tag, (vr, bytes)): (&u32, &([u8; 2], Vec<u8>))| {
            let value = match self.items.get(tag) {
                Some(items) => AttributeValue::Items(items.clone()),
                None => AttributeValue::Bytes(bytes.clone()),
            };
            (*tag, Attribute { vr: String::from_utf8_lossy(vr).into_owned(), value })
        };
        self.elements.iter().map(attribute).collect()
    }

    fn data_set(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, (vr, value)) in &self.elements {
            out.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
            out.extend_from_slice(&((tag & 0xffff) as u16).to_le_bytes());
            out.extend_from_slice(vr);
            if matches!(vr, b"OB" | b"OW" | b"SQ" | b"UT") {
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            } else {
                out.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
            }
            out.extend_from_slice(value);
        }
        out
    }
}

pub fn options() -> ReportOptions {
    ReportOptions {
        disclosure: Disclosure::Withheld,
        sop_class: SrClass::Comprehensive3d,
        observer: Observer { device_uid: uid("2.25.7"), name: "Node 1".into(), serial_number: "NODE-0001".into() },
        sop_instance: fresh_uid(),
        series: fresh_uid(),
        predecessor: None,
        completion: Completion::Complete,
        sources: BTreeMap::new(),
        parameters: Vec::new(),
        related: Vec::new(),
        evidence: Vec::new(),
        now: chrono::DateTime::parse_from_rfc3339("2026-03-01T01:30:00+01:00").unwrap(),
    }
}

pub fn model(name: &str, device: &str) -> ModelIdentity {
    ModelIdentity {
        name: name.into(),
        version: "1.2.0".into(),
        manufacturer: "Example Imaging AI".into(),
        weights: Digest::of(name.as_bytes()),
        digest_of: DigestOf::Weights,
        contract: "imagenet-rgb@224/v1 0123456789ab".into(),
        device_uid: uid(device),
        phantoms_only: true,
    }
}

pub fn assessment(findings: Vec<FindingAssessment>) -> Assessment {
    Assessment { audit: model("RaceNet", "2.25.12"), profile: "site-2026-03".into(), findings }
}

pub fn interval(estimate: f64, lower: f64, upper: f64) -> Option<Interval> {
    Some(Interval { estimate, lower, upper })
}

/// A finding with this score against a threshold of .5, level 1.
pub fn scored(key: &str, score: f64) -> FindingAssessment {
    let positive = score >= 0.5;
    FindingAssessment {
        finding: Finding {
            key: key.into(),
            code: Code::new("36118008", "SCT", "Pneumothorax"),
            site: Some(Code::new("816094009", "SCT", "Chest")),
            threshold: Probability::new(0.5).unwrap(),
        },
        clinical: model("ChestNet", "2.25.11"),
        score: Some(Probability::new(score).unwrap()),
        positive: Some(positive),
        direction: Some(if positive { Direction::FalseAlarm } else { Direction::Miss }),
        level: Level::ScoreDependent,
        reasons: vec![],
        expected_error: interval(0.31, 0.24, 0.40),
        spread: interval(0.18, 0.12, 0.25),
        disclosed: None,
    }
}

pub fn indeterminate(key: &str, reason: IndReason) -> FindingAssessment {
    FindingAssessment {
        level: Level::Indeterminate,
        reasons: vec![reason],
        expected_error: None,
        spread: None,
        ..scored(key, 0.44)
    }
}

/// Level 2, with everything that a disclosed report may hold.
pub fn elevated(key: &str, score: f64) -> FindingAssessment {
    let group = |key: &str, code: &str, posterior, error| GroupEstimate {
        group: Group { key: key.into(), code: Code::new(code, "CDCREC", key) },
        posterior,
        error,
    };
    FindingAssessment {
        level: Level::Elevated,
        disclosed: Some(Disclosed {
            groups: vec![
                group("Asian", "2028-9", 0.0751, None),
                group("Black or African American", "2054-5", 0.6247, interval(0.42, 0.3, 0.5)),
                group("White", "2106-3", 0.3002, interval(0.24, 0.2, 0.28)),
            ],
            excess: interval(0.11, 0.06, 0.16),
            ambiguity: Some(0.02),
        }),
        ..scored(key, score)
    }
}
