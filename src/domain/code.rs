//! Coded concepts (PS3.3 8.8): value, scheme, meaning.

use serde::{Deserialize, Serialize};

/// A coded concept. Lengths follow the VRs: value and scheme SH (16), meaning LO (64).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    pub value: String,
    pub scheme: String,
    pub meaning: String,
}

/// Schemes that PS3.16 Table 8-1 lists and every reader knows: no report needs to declare them.
const PUBLIC_SCHEMES: [&str; 8] = ["DCM", "SCT", "LN", "UCUM", "UMLS", "NCIt", "RFC5646", "RADLEX"];

/// Whether every reader knows the scheme of that designator.
pub fn is_public_scheme(designator: &str) -> bool {
    PUBLIC_SCHEMES.contains(&designator)
}

/// Whether the scheme is somebody's own: PS3.16 8.2 leaves designators that begin with 99 to them.
pub fn is_private_scheme(designator: &str) -> bool {
    designator.len() > 2 && designator.starts_with("99")
}

impl Code {
    pub fn new(value: &str, scheme: &str, meaning: &str) -> Self {
        Self { value: value.into(), scheme: scheme.into(), meaning: meaning.into() }
    }

    /// The rule that the code breaks, if any: lengths, plain ASCII, no empty part.
    pub fn fault(&self) -> Option<String> {
        let plain = |s: &str| !s.trim().is_empty() && s.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\');
        if !plain(&self.value) || !plain(&self.scheme) || !plain(&self.meaning) {
            return Some("value, scheme and meaning are non-empty plain ASCII without backslash".into());
        }
        if self.value.len() > 16 || self.scheme.len() > 16 || self.meaning.len() > 64 {
            return Some("value and scheme have at most 16 characters, the meaning at most 64".into());
        }
        None
    }
}
