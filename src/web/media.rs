//! Media types in Content-Type and Accept (RFC 9110 8.3.1, 12.5.1), as far as DICOMweb needs them (PS3.18 8.7).
//!
//! Neighbours: `stow` and `wado` ask. Left out: preferences by quality, since each resource has one representation; a
//! quality of 0 excludes it all the same.

/// A media type or a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaType {
    /// `type/subtype`, lower case.
    pub(super) essence: String,
    /// Names in lower case, values as they are.
    parameters: Vec<(String, String)>,
}

const HEADER_CHARS_MAX: usize = 4_096;

impl MediaType {
    /// Parses one media type with its parameters; `None` where it is malformed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > HEADER_CHARS_MAX {
            return None;
        }
        let mut pieces = split_unquoted(text, ';')?.into_iter();
        let essence = pieces.next()?.trim().to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/')?;
        if !(is_token(kind) && is_token(subtype)) {
            return None;
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for piece in pieces.map(str::trim).filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=')?;
            let name = name.to_ascii_lowercase();
            if !is_token(&name) || parameters.iter().any(|(known, _)| *known == name) {
                return None;
            }
            parameters.push((name, unquoted(value)?));
        }
        Some(Self { essence, parameters })
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Whether an Accept header (none: anything) admits one of these media types, which stand without parameters, or for
/// multiparts with that of their parts: `multipart/related; type="application/dicom"`.
pub(super) fn accepts(accept: Option<&str>, offers: &[(&str, Option<&str>)]) -> bool {
    let Some(accept) = accept.filter(|text| text.len() <= HEADER_CHARS_MAX) else { return accept.is_none() };
    let Some(ranges) = split_unquoted(accept, ',') else { return false };
    ranges.into_iter().filter_map(MediaType::parse).any(|range| {
        let excluded = range.parameter("q").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
        // Reports are in Explicit VR Little Endian and in nothing else (PS3.18 8.7.3.5.2).
        let syntax = range.parameter("transfer-syntax").is_none_or(|s| matches!(s, "*" | "1.2.840.10008.1.2.1"));
        let fits = |(essence, of): &(&str, Option<&str>)| {
            let kind = essence.split('/').next().unwrap_or_default();
            let wide = range.essence == "*/*" || range.essence.strip_suffix("/*") == Some(kind);
            let parts = range.parameter("type").is_none_or(|t| of.is_some_and(|of| t.eq_ignore_ascii_case(of)));
            (wide || range.essence == *essence) && parts
        };
        !excluded && syntax && offers.iter().any(fits)
    })
}

/// Splits at a separator outside quoted strings; `None` where a quote is not closed.
fn split_unquoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut pieces, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == separator && !quoted => {
                pieces.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    (!quoted).then_some(pieces)
}

fn unquoted(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        // PS3.18 writes type=application/dicom without quotes in places, and so do clients.
        let plain = |b: u8| b.is_ascii_graphic() && !b"\"(),;<>@[\\]{}".contains(&b);
        return (!value.is_empty() && value.bytes().all(plain)).then(|| value.to_owned());
    };
    let inner = inner.strip_suffix('"')?;
    let (mut out, mut escaped) = (String::new(), false);
    for c in inner.chars() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return None,
            c if c.is_control() => return None,
            c => out.push(c),
        }
    }
    (!escaped).then_some(out)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_read_with_its_parameters() {
        let rows: &[(&str, Option<(&str, Option<&str>, Option<&str>)>)] = &[
            ("multipart/related", Some(("multipart/related", None, None))),
            (
                "Multipart/Related; type=\"application/dicom\"; boundary=\"a;b\"",
                Some(("multipart/related", Some("application/dicom"), Some("a;b"))),
            ),
            (
                "multipart/related;type=application/dicom;boundary=b1;",
                Some(("multipart/related", Some("application/dicom"), Some("b1"))),
            ),
            ("multipart/related; boundary=\"a\\\"b\"", Some(("multipart/related", None, Some("a\"b")))),
            ("multipart/related; boundary=a; BOUNDARY=b", None),
            ("multipart/related; boundary=\"a", None),
            ("multipart/related; boundary=", None),
            ("multipart", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let parsed = MediaType::parse(text);
            let seen = parsed.as_ref().map(|m| (m.essence.as_str(), m.parameter("type"), m.parameter("boundary")));
            assert_eq!(seen, *expected, "{text}");
        }
    }

    #[test]
    fn what_is_offered_is_compared_with_what_is_accepted() {
        const JSON: &[(&str, Option<&str>)] = &[("application/dicom+json", None), ("application/json", None)];
        const FILES: &[(&str, Option<&str>)] = &[("multipart/related", Some("application/dicom"))];
        let rows: &[(Option<&str>, &[(&str, Option<&str>)], bool)] = &[
            (None, JSON, true),
            (Some("*/*"), JSON, true),
            (Some("application/*"), JSON, true),
            (Some("application/dicom+json"), JSON, true),
            (Some("application/json;q=0.5, text/html"), JSON, true),
            (Some("application/dicom+json;q=0"), JSON, false),
            (Some("application/dicom+xml"), JSON, false),
            (Some("multipart/related; type=\"application/dicom+xml\""), JSON, false),
            (Some("multipart/related; type=\"application/dicom\""), FILES, true),
            (Some("multipart/related; type=application/dicom; transfer-syntax=*"), FILES, true),
            (
                Some("multipart/related; type=\"application/dicom\"; transfer-syntax=1.2.840.10008.1.2.4.90"),
                FILES,
                false,
            ),
            (Some("multipart/related"), FILES, true),
            (Some("application/dicom"), FILES, false),
            (Some("\""), FILES, false),
            (Some(""), FILES, false),
        ];
        for (accept, offers, expected) in rows {
            assert_eq!(accepts(*accept, offers), *expected, "{accept:?}");
        }
    }
}
