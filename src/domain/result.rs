//! Results of clinical products that score images on their own: how they are read, and what was read.
//!
//! The rules travel to the worker that reads an object; what comes back is kept in the index as it was said. What
//! several results of one study come to is decided in `results`.

use serde::{Deserialize, Serialize};

use super::{AeTitle, Probability, Timestamp, Uid};

/// Value and scheme of a code, by which concepts are compared; meanings differ between products.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeKey {
    pub value: String,
    pub scheme: String,
}

/// How a product's Structured Report is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRules {
    pub kind: ReportKind,
    /// The concept of the number that is the probability of a finding.
    pub probability: CodeKey,
    /// The concept of the decision and its values, where it is written.
    pub label: Option<LabelRule>,
    pub findings: Vec<FindingRule>,
}

/// How its content tree is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportKind {
    /// TID 1500: measurement groups (125007, DCM) with a finding (121071, DCM) and a number.
    Tid1500,
    /// TID 4100: single image findings (111059, DCM) with a number each, the highest of an image counts.
    ChestCad,
    /// Each finding at the end of a path of concepts.
    Paths,
}

/// A finding as the product writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingRule {
    /// Key of the finding in the card.
    pub key: String,
    pub code: CodeKey,
    /// From the root of the content tree to the item that holds the value; for [`ReportKind::Paths`].
    pub path: Vec<CodeKey>,
}

/// A decision that is written as a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRule {
    pub concept: CodeKey,
    pub positive: Vec<CodeKey>,
    pub negative: Vec<CodeKey>,
}

/// What a report of a product says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultDocument {
    pub said: Vec<Said>,
    /// Content Date and Time; without a time zone as if in UTC, since only reports of one product are compared.
    pub observed_at: Option<Timestamp>,
    pub device: ResultDevice,
    /// The instances that it names as its predecessors.
    pub predecessors: Vec<Uid>,
}

/// The equipment that made a report; empty where it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResultDevice {
    pub manufacturer: String,
    pub model_name: String,
    pub serial_number: String,
    pub software_versions: Vec<String>,
}

/// One statement on one finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub finding: String,
    /// The images that it is about; none: the whole study.
    pub images: Vec<Uid>,
    pub score: Option<Probability>,
    /// The product's own decision.
    pub positive: Option<bool>,
}

/// Who may say what is a product's result; what is not given may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResultSource {
    /// Manufacturer (0008,0070).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Manufacturer's Model Name (0008,1090).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Device Serial Number (0018,1000), one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub serial_numbers: Vec<String>,
    /// Software Versions (0018,1020), one of these at least.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub software_versions: Vec<String>,
    /// The AE title that sent it, one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ae_titles: Vec<AeTitle>,
}

/// A result of a clinical product as the index keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClinicalResult {
    pub study: Uid,
    /// [`super::ModelIdentity::key`] of the package by whose card it was read.
    pub model: String,
    /// What it came in: the SOP Instance UID of a report, or the digest of a row of a table.
    pub source: String,
    pub observed_at: Option<Timestamp>,
    pub received_at: Timestamp,
    /// The product's version as it said it; empty if it did not.
    pub version: String,
    pub predecessors: Vec<Uid>,
    pub said: Vec<Said>,
}

impl ResultSource {
    /// Whether it demands anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a report of this device, from this sender, may be the product's; else what does not fit. Files that a
    /// person names have no sender, and none is asked for.
    pub fn admits(&self, device: &ResultDevice, sender: Option<&AeTitle>) -> Result<(), &'static str> {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(found));
        let among = |wanted: &[String], found: &str| wanted.is_empty() || wanted.iter().any(|w| w == found);
        let versions = &self.software_versions;
        if !is(&self.manufacturer, &device.manufacturer) {
            return Err("another manufacturer");
        }
        if !is(&self.model_name, &device.model_name) {
            return Err("another model name");
        }
        if !among(&self.serial_numbers, &device.serial_number) {
            return Err("another device");
        }
        if !versions.is_empty() && !device.software_versions.iter().any(|v| versions.contains(v)) {
            return Err("another software version");
        }
        if !self.ae_titles.is_empty() && sender.is_some_and(|sender| !self.ae_titles.contains(sender)) {
            return Err("another sender");
        }
        Ok(())
    }
}
