//! Specific Character Set (PS3.3 C.12.1.1.2, PS3.5 6.1.2): bytes of text to characters.
//!
//! A backslash parts values only where it is a character: it can be half of one (GB18030, JIS X 0208). So one walk
//! finds characters, backslashes and escape sequences, and dicom-encoding's codecs see the runs between them. What a
//! codec cannot decode it writes as a backslash and three octal digits, which would make values of its own; here it
//! becomes U+FFFD. Neighbours: `text` asks, `matching` refuses keys with U+FFFD. Left out: encoding.

use std::char::REPLACEMENT_CHARACTER;

use dicom_encoding::text::{SpecificCharacterSet, TextCodec};

/// What bytes mean, at the beginning of a value or within it. The left half is ASCII unless designated otherwise.
#[derive(Debug, Clone, Default)]
pub(super) struct CharacterSet {
    /// The escape sequence of the double-byte set that is in the left half (G0) now.
    left: Option<&'static [u8]>,
    /// What bytes with a high bit are; not known where no term says.
    right: Option<SpecificCharacterSet>,
}

/// Escape sequences of the right half (G1) and what they designate (PS3.3 tables C.12-3 and C.12-4).
const TO_THE_RIGHT: [(&[u8], &str); 12] = [
    (b"\x1b-A", "ISO_IR 100"),
    (b"\x1b-B", "ISO_IR 101"),
    (b"\x1b-C", "ISO_IR 109"),
    (b"\x1b-D", "ISO_IR 110"),
    (b"\x1b-F", "ISO_IR 126"),
    (b"\x1b-G", "ISO_IR 127"),
    (b"\x1b-H", "ISO_IR 138"),
    (b"\x1b-L", "ISO_IR 144"),
    (b"\x1b-T", "ISO_IR 166"),
    (b"\x1b)I", "ISO_IR 13"),
    (b"\x1b$)C", "ISO_IR 149"),
    (b"\x1b$)A", "GBK"),
];
/// Those of the left half: JIS X 0208 and 0212, two bytes for each character, and ASCII and JIS X 0201.
const TO_THE_LEFT: [&[u8]; 2] = [b"\x1b$B", b"\x1b$(D"];
const BACK: [&[u8]; 2] = [b"\x1b(B", b"\x1b(J"];
const ESCAPE: u8 = 0x1B;

impl CharacterSet {
    /// By the terms of the attribute. The first one is in force where a value begins (PS3.5 6.1.2.5.3); where it says
    /// nothing of bytes with a high bit, or is not known here, it is the next that does.
    pub(super) fn of(terms: &str) -> Self {
        let known = terms.split('\\').filter_map(|term| SpecificCharacterSet::from_code(term.trim()));
        let right = known.into_iter().find(|set| !matches!(&*set.name(), "ISO_IR 6" | "ISO_IR 87"));
        Self { left: None, right }
    }

    /// The characters. Never fails: what cannot be decoded becomes U+FFFD, and each backslash parts two values.
    pub(super) fn decode(&self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        let mut now = self.clone();
        let (mut begin, mut at) = (0, 0);
        while at < bytes.len() {
            let rest = &bytes[at..];
            if now.is_wide(rest) {
                at += 2;
                continue;
            }
            if !matches!(rest[0], b'\\' | ESCAPE) {
                at += 1;
                continue;
            }
            text.push_str(&now.run(&bytes[begin..at]));
            at += match rest[0] {
                ESCAPE => now.designate(rest).unwrap_or_else(|| {
                    text.push(REPLACEMENT_CHARACTER);
                    1
                }),
                _ => {
                    text.push('\\');
                    now = self.clone();
                    1
                }
            };
            begin = at;
        }
        text.push_str(&now.run(&bytes[begin..]));
        text
    }

    /// Whether two bytes make the next character, of which the second could be taken for a backslash.
    fn is_wide(&self, rest: &[u8]) -> bool {
        let [first, second, ..] = *rest else { return false };
        match (self.left, &self.right) {
            (Some(_), _) => matches!((first, second), (0x21..=0x7E, 0x21..=0x7E)),
            (None, Some(right)) if first > 0x80 && second >= 0x40 => match &*right.name() {
                "GB18030" | "GBK" => first < 0xFF,
                // Its codec knows Shift JIS, as some peers write under this name.
                "ISO_IR 13" => matches!(first, 0x81..=0x9F | 0xE0..=0xFC),
                _ => false,
            },
            _ => false,
        }
    }

    /// Follows an escape sequence; its length, if it is one that is known.
    fn designate(&mut self, rest: &[u8]) -> Option<usize> {
        if let Some((sequence, term)) = TO_THE_RIGHT.iter().find(|(sequence, _)| rest.starts_with(sequence)) {
            self.right = SpecificCharacterSet::from_code(term);
            return Some(sequence.len());
        }
        let sequence = TO_THE_LEFT.into_iter().chain(BACK).find(|sequence| rest.starts_with(sequence))?;
        self.left = Some(sequence).filter(|sequence| TO_THE_LEFT.contains(sequence));
        Some(sequence.len())
    }

    /// Bytes without a backslash of their own and without escape sequences.
    fn run(&self, run: &[u8]) -> String {
        let decoded = match (self.left, &self.right) {
            _ if run.is_empty() => return String::new(),
            (Some(sequence), _) => SpecificCharacterSet::from_code("ISO_IR 87")
                .and_then(|codec| codec.decode(&[sequence, run, BACK[0]].concat()).ok()),
            (None, Some(codec)) if !run.is_ascii() => codec.decode(run).ok(),
            // No term says what they are: different bytes stay different texts.
            _ => match std::str::from_utf8(run) {
                Ok(text) => Some(text.to_owned()),
                Err(_) => Some(run.iter().map(|byte| char::from(*byte)).collect()),
            },
        };
        decoded.map_or_else(|| REPLACEMENT_CHARACTER.to_string(), |text| without_octal(&text))
    }
}

/// U+FFFD for what a codec could not decode.
fn without_octal(decoded: &str) -> String {
    let mut pieces = decoded.split('\\');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        text.push(REPLACEMENT_CHARACTER);
        let is_octal = piece.len() >= 3 && piece.bytes().take(3).all(|b| matches!(b, b'0'..=b'7'));
        text.push_str(if is_octal { &piece[3..] } else { piece });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_decoded_by_the_terms_and_their_escape_sequences() {
        let rows: &[(&str, &[u8], &str)] = &[
            ("ISO_IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
            ("ISO_IR 192", "Müller".as_bytes(), "Müller"),
            // PS3.5 H.3.1, H.3.2, I.2
            ("\\ISO 2022 IR 87 ", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
            (
                "ISO 2022 IR 13\\ISO 2022 IR 87",
                b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
                "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
            ),
            ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
            ("ISO 2022 IR 100\\ISO 2022 IR 144", b"M\xfcller^\x1b-L\xbb\xee", "Müller^Лю"),
            // What is designated in one value is not in the next.
            ("ISO 2022 IR 100\\ISO 2022 IR 144", b"\x1b-L\xbb\xee\\M\xfcller", "Лю\\Müller"),
            // Half of a character looks like a backslash.
            ("\\ISO 2022 IR 87", b"\x1b$B$\\\x1b(B\\X", "ぼ\\X"),
            ("ISO_IR 13", b"\x83\\\\X", "ソ\\X"),
            // What the set does not have.
            ("ISO_IR 192", b"*\xfcller*", "*\u{fffd}ller*"),
            ("ISO_IR 192", b"\xfc\\123", "\u{fffd}\\123"),
            ("\\ISO 2022 IR 87", b"\x1b(Zx", "\u{fffd}(Zx"),
            // No term, or one that is not known: the one before it.
            ("", b"M\xfcller", "Müller"),
            ("", b"M\xf6ller", "Möller"),
            ("ISO_IR 6", "Müller".as_bytes(), "Müller"),
            ("NO SUCH TERM", b"DOE^JANE", "DOE^JANE"),
            ("ISO 2022 IR 144\\NO SUCH TERM", b"\xbb\xee", "Лю"),
        ];
        for (terms, bytes, expected) in rows {
            assert_eq!(CharacterSet::of(terms).decode(bytes), *expected, "{terms} {bytes:x?}");
        }
        for term in ["GB18030", "GBK"] {
            let text = CharacterSet::of(term).decode(b"\x95\\\\X");
            assert!(
                text.chars().count() == 3 && text.ends_with("\\X") && !text.contains('\u{fffd}'),
                "{term} {text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_backslash_comes_from_a_backslash_only(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(0x1B), Just(b'$')], 0..40),
            which in 0..7_usize,
        ) {
            let terms = ["", "ISO_IR 100", "ISO_IR 192", "GB18030", "ISO_IR 13", "\\ISO 2022 IR 87", "ISO_IR 149"][which];
            let text = CharacterSet::of(terms).decode(&bytes);
            let (written, there) = (text.matches('\\').count(), bytes.iter().filter(|b| **b == b'\\').count());
            prop_assert!(written <= there, "{} {:x?} {:?}", terms, bytes, text);
        }
    }
}
