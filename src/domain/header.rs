//! What the node needs to know of an instance besides its pixels, read once in a sandboxed worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Uid;

/// An attribute copied verbatim. `value` keeps the bytes of the source (text in the source's character set,
/// numbers little endian), so that nothing is transcoded on its way into a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Two upper-case letters, e.g. `PN`.
    pub vr: String,
    pub value: AttributeValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeValue {
    Bytes(Vec<u8>),
    Items(Vec<Attributes>),
}

/// Attributes by tag, `group << 16 | element`.
pub type Attributes = BTreeMap<u32, Attribute>;

/// The projection of a chest or other radiograph, from View Position (0018,5101) or View Code Sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum View {
    #[serde(rename = "PA")]
    Pa,
    #[serde(rename = "AP")]
    Ap,
    #[serde(rename = "LATERAL")]
    Lateral,
    #[serde(rename = "CC")]
    Cc,
    #[serde(rename = "MLO")]
    Mlo,
    #[serde(rename = "OTHER")]
    Other,
}

impl View {
    pub fn as_str(self) -> &'static str {
        match self {
            View::Pa => "PA",
            View::Ap => "AP",
            View::Lateral => "LATERAL",
            View::Cc => "CC",
            View::Mlo => "MLO",
            View::Other => "OTHER",
        }
    }
}

/// The header of one instance. Texts are decoded for comparison only and trimmed; what a report copies comes
/// from `copied`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceHeader {
    pub study: Uid,
    pub series: Uid,
    pub sop_instance: Uid,
    pub sop_class: Uid,
    pub transfer_syntax: Uid,
    /// Modality (0008,0060), upper case; empty if absent.
    pub modality: String,
    /// Body Part Examined (0018,0015), upper case; empty if absent.
    pub body_part: String,
    pub view: Option<View>,
    /// Manufacturer and model name, for scope rules and strata; empty if absent.
    pub manufacturer: String,
    pub model_name: String,
    pub rows: u32,
    pub columns: u32,
    pub frames: u32,
    pub bits_allocated: u16,
    pub bits_stored: u16,
    pub photometric: String,
    /// Whether there is a Pixel Data, Float or Double Float Pixel Data element.
    pub has_pixels: bool,
    /// Burned In Annotation, Image Type and the like are not interpreted here.
    /// Patient, study, trial, issuer and de-identification attributes for the report (PS3.3 C.7.1, C.7.2).
    pub copied: Attributes,
}
