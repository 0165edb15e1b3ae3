//! Our own report files on the wire: the data set of a file, and its re-encoding in Implicit VR Little Endian.
//!
//! Re-encoding walks element headers and leaves every value as it is, so that texts keep their bytes whatever
//! their character set; a parser that decodes text could not promise that. Neighbours: `mod` sends the result. Left
//! out: other transfer syntaxes, since every report is written in Explicit VR Little Endian.

pub(super) const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";
pub(super) const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

/// Deepest nesting of sequences; a report has about twelve levels.
const DEPTH_MAX: usize = 64;
const UNDEFINED: u32 = 0xffff_ffff;
const ITEM: u32 = 0xfffe_e000;
const ITEM_END: u32 = 0xfffe_e00d;
const SEQUENCE_END: u32 = 0xfffe_e0dd;
const TRANSFER_SYNTAX: u32 = 0x0002_0010;

/// Why bytes are not a report file that can be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("no DICOM file: preamble or prefix is missing")]
    NotDicom,
    #[error("its transfer syntax is not Explicit VR Little Endian")]
    TransferSyntax,
    #[error("it ends within an element at byte {0}")]
    Truncated(usize),
    #[error("unexpected element ({:04X},{:04X}) at byte {at}", tag >> 16, tag & 0xffff)]
    Unexpected { tag: u32, at: usize },
    #[error("sequences are nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

/// The data set of a file in Explicit VR Little Endian: what follows the meta information.
pub(super) fn data_set(file: &[u8]) -> Result<&[u8], FileError> {
    if file.get(128..132) != Some(&b"DICM"[..]) {
        return Err(FileError::NotDicom);
    }
    let mut reader = Reader { bytes: file, at: 132 };
    let mut transfer_syntax = None;
    while reader.at < file.len() && reader.peek_tag()? >> 16 == 0x0002 {
        let element = reader.element()?;
        let value = reader.take(element.length as usize)?;
        if element.tag == TRANSFER_SYNTAX {
            transfer_syntax = Some(value);
        }
    }
    match transfer_syntax.map(|v| v.trim_ascii_end().strip_suffix(b"\0").unwrap_or(v)) {
        Some(uid) if uid == EXPLICIT_VR_LITTLE_ENDIAN.as_bytes() => Ok(&file[reader.at..]),
        _ => Err(FileError::TransferSyntax),
    }
}

/// An Explicit VR Little Endian data set in Implicit VR Little Endian. Values stay as they are, sequences and items
/// get undefined lengths, group lengths are dropped.
pub(super) fn to_implicit(data_set: &[u8]) -> Result<Vec<u8>, FileError> {
    let mut out = Vec::with_capacity(data_set.len() + data_set.len() / 4);
    let mut reader = Reader { bytes: data_set, at: 0 };
    elements(&mut reader, &mut out, Some(data_set.len()), 0)?;
    Ok(out)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Element {
    tag: u32,
    vr: [u8; 2],
    length: u32,
}

/// Copies elements up to `end`, or to the item delimiter where the length is undefined.
fn elements(reader: &mut Reader, out: &mut Vec<u8>, end: Option<usize>, depth: usize) -> Result<(), FileError> {
    if depth > DEPTH_MAX {
        return Err(FileError::TooDeep);
    }
    while end != Some(reader.at) {
        let start = reader.at;
        if end.is_some_and(|end| start > end) {
            return Err(FileError::Truncated(start));
        }
        if end.is_none() && reader.peek_tag()? == ITEM_END {
            reader.delimiter()?;
            return Ok(());
        }
        let Element { tag, vr, length } = reader.element()?;
        match (&vr, length) {
            (b"SQ", _) => {
                push_header(out, tag, UNDEFINED);
                let end = (length != UNDEFINED).then(|| reader.at.saturating_add(length as usize));
                items(reader, out, end, depth + 1)?;
                push_header(out, SEQUENCE_END, 0);
            }
            (_, UNDEFINED) => return Err(FileError::Unexpected { tag, at: start }),
            _ => {
                let value = reader.take(length as usize)?;
                if tag & 0xffff != 0 {
                    push_header(out, tag, length);
                    out.extend_from_slice(value);
                }
            }
        }
    }
    Ok(())
}

/// Copies the items of a sequence up to `end`, or to its delimiter where the length is undefined.
fn items(reader: &mut Reader, out: &mut Vec<u8>, end: Option<usize>, depth: usize) -> Result<(), FileError> {
    while end != Some(reader.at) {
        let start = reader.at;
        if end.is_some_and(|end| start > end) {
            return Err(FileError::Truncated(start));
        }
        let (tag, length) = reader.delimiter()?;
        match tag {
            SEQUENCE_END if end.is_none() => return Ok(()),
            ITEM => {
                push_header(out, ITEM, UNDEFINED);
                let end = (length != UNDEFINED).then(|| reader.at.saturating_add(length as usize));
                elements(reader, out, end, depth)?;
                push_header(out, ITEM_END, 0);
            }
            _ => return Err(FileError::Unexpected { tag, at: start }),
        }
    }
    Ok(())
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FileError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(FileError::Truncated(self.at))?;
        let value = &self.bytes[self.at..end];
        self.at = end;
        Ok(value)
    }

    fn u16(&mut self) -> Result<u16, FileError> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, FileError> {
        Ok(u32::from(self.u16()?) | u32::from(self.u16()?) << 16)
    }

    fn tag(&mut self) -> Result<u32, FileError> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    fn peek_tag(&mut self) -> Result<u32, FileError> {
        let start = self.at;
        let tag = self.tag();
        self.at = start;
        tag
    }

    /// Header of an element with an explicit value representation (PS3.5 7.1.2).
    fn element(&mut self) -> Result<Element, FileError> {
        let start = self.at;
        let tag = self.tag()?;
        if tag >> 16 == 0xfffe {
            return Err(FileError::Unexpected { tag, at: start });
        }
        let vr = self.take(2)?;
        let vr = [vr[0], vr[1]];
        let long = matches!(
            &vr,
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV"
        );
        let length = if long {
            self.take(2)?;
            self.u32()?
        } else {
            u32::from(self.u16()?)
        };
        Ok(Element { tag, vr, length })
    }

    /// Header of an item or a delimiter: tag and length, no value representation.
    fn delimiter(&mut self) -> Result<(u32, u32), FileError> {
        Ok((self.tag()?, self.u32()?))
    }
}

fn push_header(out: &mut Vec<u8>, tag: u32, length: u32) {
    out.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
    out.extend_from_slice(&((tag & 0xffff) as u16).to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[rustfmt::skip]
    const SAMPLE: &[u8] = &[
        // (0010,0010) PN, 4 bytes that no single-byte character set decodes
        0x10, 0, 0x10, 0, b'P', b'N', 4, 0, 0xff, 0x1b, 0x24, 0x42,
        // (0040,A730) SQ of undefined length
        0x40, 0, 0x30, 0xa7, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff,
        //   item of undefined length with (0040,A160) UT "ab"
        0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff,
        0x40, 0, 0x60, 0xa1, b'U', b'T', 0, 0, 2, 0, 0, 0, b'a', b'b',
        0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0,
        //   item of 10 bytes with (0020,0013) IS "1 "
        0xfe, 0xff, 0x00, 0xe0, 10, 0, 0, 0,
        0x20, 0, 0x13, 0, b'I', b'S', 2, 0, b'1', b' ',
        0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0,
        // (0040,A372) SQ of length 0
        0x40, 0, 0x72, 0xa3, b'S', b'Q', 0, 0, 0, 0, 0, 0,
    ];

    #[rustfmt::skip]
    const IMPLICIT: &[u8] = &[
        0x10, 0, 0x10, 0, 4, 0, 0, 0, 0xff, 0x1b, 0x24, 0x42,
        0x40, 0, 0x30, 0xa7, 0xff, 0xff, 0xff, 0xff,
        0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff,
        0x40, 0, 0x60, 0xa1, 2, 0, 0, 0, b'a', b'b',
        0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0,
        0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff,
        0x20, 0, 0x13, 0, 2, 0, 0, 0, b'1', b' ',
        0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0,
        0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0,
        0x40, 0, 0x72, 0xa3, 0xff, 0xff, 0xff, 0xff,
        0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0,
    ];

    #[test]
    fn values_keep_their_bytes_and_sequences_their_items() {
        assert_eq!(to_implicit(SAMPLE).as_deref(), Ok(IMPLICIT));
    }

    #[test]
    fn a_file_is_refused_if_it_is_not_one_of_ours() {
        assert_eq!(data_set(b"short"), Err(FileError::NotDicom));
        let mut file = vec![0; 128];
        file.extend_from_slice(b"DICM");
        assert_eq!(data_set(&file), Err(FileError::TransferSyntax));
        file.extend_from_slice(&[2, 0, 0x10, 0, b'U', b'I', 18, 0]);
        file.extend_from_slice(b"1.2.840.10008.1.2\0");
        assert_eq!(data_set(&file), Err(FileError::TransferSyntax));
        let at = file.len() - 20;
        file.truncate(at);
        file.extend_from_slice(&[20, 0]);
        file.extend_from_slice(b"1.2.840.10008.1.2.1\0");
        assert_eq!(data_set(&file), Ok(&b""[..]));
        file.extend_from_slice(SAMPLE);
        assert_eq!(data_set(&file), Ok(SAMPLE));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0..SAMPLE.len(), with: u8, cut in 0..=SAMPLE.len()) {
            let mut bytes = SAMPLE.to_vec();
            bytes[at] = with;
            let _ = to_implicit(&bytes);
            let _ = to_implicit(&bytes[..cut]);
            let _ = data_set(&bytes);
        }
    }
}
