//! SHA-256 fingerprints of certificates, by which a peer is pinned to its own.
//!
//! Neighbours: `parse` reads them from the configuration, `wire` computes them of what a peer shows. Left out: hashing.

use std::fmt;

/// SHA-256 of a whole certificate (DER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Reads 64 hexadecimal digits, with or without colons, as `openssl x509 -noout -fingerprint -sha256` writes them;
    /// its `sha256 Fingerprint=` before them is allowed.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.rsplit_once('=').map_or(text, |(_, digits)| digits).trim();
        let mut pairs = Vec::with_capacity(32);
        let bytes = digits.as_bytes();
        let step = if digits.contains(':') { 3 } else { 2 };
        if bytes.len() != 32 * step - (step - 2) {
            return None;
        }
        for (index, chunk) in bytes.chunks(step).enumerate() {
            let (pair, rest) = chunk.split_at_checked(2)?;
            if !pair.iter().all(u8::is_ascii_hexdigit) || (index < 31 && rest != &b":"[..step - 2]) {
                return None;
            }
            pairs.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
        }
        Some(Self(pairs.try_into().ok()?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_openssl_writes_it() {
        let shown = Fingerprint([0xab; 32]).to_string();
        assert!(shown.starts_with("AB:AB:") && shown.len() == 95);
        let plain = "ab".repeat(32);
        let good = [shown.clone(), plain.clone(), format!("sha256 Fingerprint={shown}"), shown.to_lowercase()];
        for text in good {
            assert_eq!(Fingerprint::parse(&text), Some(Fingerprint([0xab; 32])), "{text}");
        }
        let bad = [
            String::new(),
            plain[2..].to_owned(),
            format!("{plain}ab"),
            format!("{shown}:"),
            shown.replacen(':', "-", 1),
            shown.replacen("AB", "+B", 1),
            plain.replacen('a', "ä", 1),
            plain.replacen("ab", "zz", 1),
        ];
        for text in bad {
            assert_eq!(Fingerprint::parse(&text), None, "{text}");
        }
    }
}
