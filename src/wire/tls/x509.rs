//! The validity of a certificate (RFC 5280 4.1.2.5), which rustls checks and does not show.
//!
//! A walk over the first elements of a DER structure, bounded by what is there. Neighbours: `verify` asks for pinned
//! certificates, `examine` for the node's own. Left out: everything else of X.509.

use chrono::{DateTime, NaiveDate, Utc};

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: DateTime<Utc>,
    pub(super) not_after: DateTime<Utc>,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT Version`.
const VERSION: u8 = 0xa0;

/// The validity in a DER certificate; `None` where it is none.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, VERSION)?.1;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = element(rest, tag)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some(Validity { not_before, not_after })
}

/// The content of the first element, which must have this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn time(bytes: &[u8]) -> Option<(DateTime<Utc>, &[u8])> {
    let tag = *bytes.first()?;
    let (text, rest) = element(bytes, tag)?;
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |at: usize| digits.get(at..at + 2).map(|d| u32::from(d[0] - b'0') * 10 + u32::from(d[1] - b'0'));
    let (year, at) = match (tag, digits.len()) {
        // Years from 50 on are of the last century (RFC 5280 4.1.2.5.1).
        (UTC_TIME, 12) => (two(0).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        (GENERALIZED_TIME, 14) => (two(0)? * 100 + two(2)?, 4),
        _ => return None,
    };
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, two(at)?, two(at + 2)?)?;
    let time = date.and_hms_opt(two(at + 4)?, two(at + 6)?, two(at + 8)?)?;
    Some((time.and_utc(), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [&head, content].concat()
    }

    fn certificate(version: bool, not_before: &[u8], not_after: &[u8]) -> Vec<u8> {
        let validity = wrap(SEQUENCE, &[not_before, not_after].concat());
        let mut fields = if version { wrap(VERSION, &[2, 1, 2]) } else { Vec::new() };
        fields.extend(wrap(INTEGER, &[5]));
        fields.extend(wrap(SEQUENCE, &[1; 4]));
        fields.extend(wrap(SEQUENCE, &[0x31; 130]));
        fields.extend(validity);
        wrap(SEQUENCE, &wrap(SEQUENCE, &fields))
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let utc = wrap(UTC_TIME, b"491231235959Z");
        let generalized = wrap(GENERALIZED_TIME, b"20500102030405Z");
        for version in [true, false] {
            let found = validity(&certificate(version, &utc, &generalized)).unwrap();
            assert_eq!(found.not_before.to_string(), "2049-12-31 23:59:59 UTC");
            assert_eq!(found.not_after.to_string(), "2050-01-02 03:04:05 UTC");
        }
        let bad: [&[u8]; 6] = [b"", b"Z", b"5013312359Z", b"501331235959Z", b"491231235959+", b"49123123595+Z"];
        for text in bad {
            assert_eq!(validity(&certificate(true, &utc, &wrap(UTC_TIME, text))), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at: prop::sample::Index, with: u8, cut: prop::sample::Index) {
            let utc = wrap(UTC_TIME, b"491231235959Z");
            let mut der = certificate(true, &utc, &utc);
            let (at, cut) = (at.index(der.len()), cut.index(der.len()));
            der[at] = with;
            let _ = validity(&der);
            let _ = validity(&der[..cut]);
        }
    }
}
