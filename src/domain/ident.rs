//! Identifiers and bounded numbers: what a peer or a file claims becomes one of these or an error.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text did not become one of the domain's types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {reason}")]
pub struct ParseError {
    /// The kind of thing that was expected, e.g. `AE title`.
    pub what: &'static str,
    /// What was given, shortened to 80 characters.
    pub value: String,
    /// The rule that was broken.
    pub reason: &'static str,
}

impl ParseError {
    pub(super) fn new(what: &'static str, value: &str, reason: &'static str) -> Self {
        Self { what, value: value.chars().take(80).collect(), reason }
    }
}

/// A unique identifier (PS3.5 9.1): 1 to 64 characters, components of digits joined by single dots.
///
/// Components with leading zeros are let through, since installed modalities write them.
/// A `Uid` holds nothing but digits and dots, so it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uid(String);

impl Uid {
    /// Parses `text`; trailing padding (NUL, space) is removed first.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fail = |reason| Err(ParseError::new("UID", text, reason));
        let trimmed = text.trim_end_matches(['\0', ' ']);
        if trimmed.is_empty() || trimmed.len() > 64 {
            return fail("a UID has 1 to 64 characters");
        }
        if !trimmed.split('.').all(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_digit())) {
            return fail("a UID is digits in components joined by single dots");
        }
        Ok(Self(trimmed.to_owned()))
    }

    /// A UID from 128 bits of a UUID (PS3.5 B.2): `2.25.` and the number in decimal.
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(format!("2.25.{}", uuid.as_u128()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An application entity title (PS3.5 6.2, VR AE): 1 to 16 printable ASCII characters without backslash,
/// leading and trailing spaces not significant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AeTitle(String);

impl AeTitle {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let trimmed = text.trim_matches([' ', '\0']);
        if trimmed.is_empty() || trimmed.len() > 16 {
            return Err(ParseError::new("AE title", text, "an AE title has 1 to 16 characters"));
        }
        if !trimmed.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\') {
            return Err(ParseError::new("AE title", text, "an AE title is printable ASCII without a backslash"));
        }
        Ok(Self(trimmed.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A digest of 256 bits, 64 lower-case hexadecimal digits: BLAKE3 of objects and pixels, SHA-256 of all that others
/// compute too (model weights, passcodes) and of what [`Digest::of`] hashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let lower = text.to_ascii_lowercase();
        if lower.len() == 64 && lower.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(lower))
        } else {
            Err(ParseError::new("digest", text, "a digest is 64 hexadecimal digits"))
        }
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_hash(&sha2::Sha256::digest(bytes))
    }

    /// From a finished hash of 32 bytes.
    pub fn from_hash(hash: &[u8]) -> Self {
        Self(hash.iter().map(|b| format!("{b:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// A probability: finite, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

impl Probability {
    pub fn new(value: f64) -> Result<Self, ParseError> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(ParseError::new("probability", &value.to_string(), "a probability lies between 0 and 1"))
        }
    }

    pub fn get(self) -> f64 {
        self.0
    }

    /// log(p / (1 − p)), with p kept 1e-6 away from 0 and 1.
    pub fn logit(self) -> f64 {
        let p = self.0.clamp(1e-6, 1.0 - 1e-6);
        (p / (1.0 - p)).ln()
    }
}

impl TryFrom<f64> for Probability {
    type Error = ParseError;
    fn try_from(value: f64) -> Result<Self, ParseError> {
        Self::new(value)
    }
}

impl From<Probability> for f64 {
    fn from(p: Probability) -> f64 {
        p.0
    }
}

macro_rules! text_type {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(s: &str) -> Result<Self, ParseError> {
                Self::parse(s)
            }
        }
        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(s: String) -> Result<Self, ParseError> {
                Self::parse(&s)
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.0
            }
        }
    )*};
}
text_type!(Uid, AeTitle, Digest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_digits_and_single_dots_only() {
        let rows: &[(&str, bool)] = &[
            ("1.2.840.10008.1.1", true),
            ("1.2.840.10008.1.1\0", true),
            ("2.25.340282366920938463463374607431768211455", true),
            ("1.02.3", true),
            ("", false),
            ("1..2", false),
            (".1", false),
            ("1.", false),
            ("../../etc/passwd", false),
            ("1.2/3", false),
            ("1.2\n", false),
            ("12345678901234567890123456789012345678901234567890123456789012345", false),
        ];
        for (text, valid) in rows {
            assert_eq!(Uid::parse(text).is_ok(), *valid, "{text:?}");
        }
    }

    #[test]
    fn an_ae_title_is_trimmed_and_bounded() {
        assert_eq!(AeTitle::parse("  PACS ").map(String::from), Ok("PACS".to_owned()));
        for bad in ["", "    ", "SEVENTEEN_LETTERS", "A\\B", "Ä", "A\tB"] {
            assert!(AeTitle::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_probability_is_finite_and_between_0_and_1() {
        assert!(Probability::new(0.0).is_ok() && Probability::new(1.0).is_ok());
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Probability::new(bad).is_err(), "{bad}");
        }
    }
}
