//! What an encapsulated frame says of itself, read before a decoder sees it.
//!
//! Decoders trust their codestream; the image trusts the data set. Both must agree on size, components and
//! precision, or the decoder writes out of bounds or the pixels are wrong. Neighbours: `decode`. Left out: decoding, and
//! the header of JPEG XL (`jpegxl`).

use crate::domain::{Refusal, RefusalCode};

const TILES_MAX: u32 = 4096;
/// Bytes other than zero that may pad a frame, and the marker before them.
const PADDING_MAX: usize = 16;

/// The coding process of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// Sequential or progressive DCT (ISO/IEC 10918-1, SOF0, SOF1, SOF2).
    JpegDct,
    /// SOF1, SOF2 with 12-bit samples.
    JpegDct12,
    /// SOF3.
    JpegLossless,
    /// ISO/IEC 14495-1.
    JpegLs,
    /// ISO/IEC 15444-1 and -15.
    Jpeg2000,
    /// ISO/IEC 18181-1.
    JpegXl,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codestream {
    pub process: Process,
    pub columns: u32,
    pub rows: u32,
    pub components: u16,
    /// Bits of a sample.
    pub precision: u16,
    /// JPEG 2000 only: components are signed.
    pub signed: bool,
    /// JPEG: transform flag of an Adobe APP14 segment, 0 for RGB, 1 for YCbCr.
    pub adobe_transform: Option<u8>,
    /// JPEG: there is a JFIF APP0 segment, so three components are YCbCr.
    pub jfif: bool,
    /// JPEG: the component identifiers are the letters R, G, B.
    pub named_rgb: bool,
    /// JPEG-LS: components follow one another plane by plane.
    pub by_plane: bool,
    /// JPEG 2000: a multiple component transform is used, so the decoder returns RGB. JPEG XL: samples are coded in XYB.
    pub transformed: bool,
    /// Where the codestream itself starts (behind the boxes of a JP2 file).
    pub start: usize,
}

impl Codestream {
    /// Samples of the frame.
    pub fn samples(&self) -> usize {
        self.rows as usize * self.columns as usize * usize::from(self.components)
    }
}

/// Reads the main header of a frame in a transfer syntax of the given family.
pub fn inspect(frame: &[u8], jpeg2000: bool) -> Result<Codestream, Refusal> {
    if jpeg2000 { inspect_jpeg2000(frame) } else { inspect_jpeg(frame) }
}

/// Whether a frame of JPEG or JPEG-LS ends in its end-of-image marker, which coded data cannot hold; padding may follow.
pub fn is_ended(frame: &[u8]) -> bool {
    let end = frame.len() - frame.iter().rev().take_while(|b| **b == 0).count();
    frame[end.saturating_sub(PADDING_MAX)..end].windows(2).any(|pair| pair == [0xFF, 0xD9])
}

fn failed(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, detail.to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Marker segments of JPEG and JPEG-LS up to the first scan (ISO/IEC 10918-1 B.2).
fn inspect_jpeg(frame: &[u8]) -> Result<Codestream, Refusal> {
    if !frame.starts_with(&[0xFF, 0xD8]) {
        return Err(failed("the frame does not start with a JPEG start-of-image marker"));
    }
    let broken = || failed("the JPEG header breaks off");
    let (mut adobe_transform, mut jfif, mut found) = (None, false, None);
    let mut at = 2;
    loop {
        while frame.get(at) == Some(&0xFF) && frame.get(at + 1) == Some(&0xFF) {
            at += 1;
        }
        if frame.get(at) != Some(&0xFF) {
            return Err(failed("the JPEG header holds something that is no marker"));
        }
        let marker = *frame.get(at + 1).ok_or_else(broken)?;
        let length = usize::from(u16_at(frame, at + 2).ok_or_else(broken)?);
        let segment = frame.get(at + 4..at + 2 + length.max(2)).ok_or_else(broken)?;
        match marker {
            0xE0 => jfif |= segment.starts_with(b"JFIF"),
            0xEE if segment.starts_with(b"Adobe") => adobe_transform = segment.get(11).copied(),
            0xC0..=0xC3 | 0xF7 => {
                if found.is_some() {
                    return Err(failed("the JPEG frame has two frame headers"));
                }
                found = Some(frame_header(marker, segment)?);
            }
            0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                let detail = format!("the JPEG process of marker FF{marker:02X} is not supported");
                return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
            }
            0xDA => {
                let mut codestream = found.ok_or_else(|| failed("the JPEG frame has a scan before its header"))?;
                codestream.adobe_transform = adobe_transform;
                codestream.jfif = jfif;
                let interleave = segment.len().checked_sub(2).and_then(|i| segment.get(i));
                codestream.by_plane =
                    codestream.process == Process::JpegLs && codestream.components > 1 && interleave == Some(&0);
                return Ok(codestream);
            }
            0xD8 | 0xD9 | 0x00 => return Err(failed("the JPEG frame ends before its first scan")),
            _ => {}
        }
        at += 2 + length.max(2);
    }
}

/// SOFn (ISO/IEC 10918-1 B.2.2) and SOF55 (ISO/IEC 14495-1 C.2.2).
fn frame_header(marker: u8, segment: &[u8]) -> Result<Codestream, Refusal> {
    let broken = || failed("the JPEG frame header breaks off");
    let precision = u16::from(*segment.first().ok_or_else(broken)?);
    let rows = u32::from(u16_at(segment, 1).ok_or_else(broken)?);
    let columns = u32::from(u16_at(segment, 3).ok_or_else(broken)?);
    let components = u16::from(*segment.get(5).ok_or_else(broken)?);
    let ids: Vec<u8> = segment[6..].chunks_exact(3).map(|c| c[0]).collect();
    let process = match (marker, precision) {
        (0xF7, _) => Process::JpegLs,
        (0xC3, _) => Process::JpegLossless,
        (0xC0..=0xC2, 8) => Process::JpegDct,
        (0xC1 | 0xC2, 12) => Process::JpegDct12,
        _ => {
            let detail = format!("JPEG with {precision} bits in the process of marker FF{marker:02X} is not supported");
            return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
        }
    };
    Ok(Codestream {
        process,
        columns,
        rows,
        components,
        precision,
        signed: false,
        adobe_transform: None,
        jfif: false,
        named_rgb: ids == *b"RGB",
        by_plane: false,
        transformed: false,
        start: 0,
    })
}

/// SIZ and COD of the main header (ISO/IEC 15444-1 A.5.1, A.6.1).
fn inspect_jpeg2000(frame: &[u8]) -> Result<Codestream, Refusal> {
    let start = codestream_start(frame).ok_or_else(|| failed("the frame holds no JPEG 2000 codestream"))?;
    let stream = &frame[start..];
    let broken = || failed("the JPEG 2000 header breaks off");
    if u16_at(stream, 2) != Some(0xFF51) {
        return Err(failed("the JPEG 2000 codestream does not start with its size"));
    }
    let siz = |at: usize| u32_at(stream, 6 + at).ok_or_else(broken);
    let (x1, y1, x0, y0) = (siz(2)?, siz(6)?, siz(10)?, siz(14)?);
    let components = u16_at(stream, 6 + 34).ok_or_else(broken)?;
    let depths = stream.get(6 + 36..6 + 36 + 3 * usize::from(components)).ok_or_else(broken)?;
    let first = *depths.first().ok_or_else(broken)?;
    if depths.chunks_exact(3).any(|c| c != [first, 1, 1]) {
        let detail = "JPEG 2000 with subsampled components or components of different depth is not supported";
        return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
    }
    let tiles = tiles((x1, y1), (siz(18)?, siz(22)?), (siz(26)?, siz(30)?)).ok_or_else(|| failed("no tiles"))?;
    check_tiles(stream, tiles)?;
    if x0 != 0 || y0 != 0 {
        return Err(Refusal::new(RefusalCode::UnsupportedFormat, "JPEG 2000 with an image offset is not supported"));
    }
    Ok(Codestream {
        process: Process::Jpeg2000,
        columns: x1,
        rows: y1,
        components,
        precision: u16::from(first & 0x7F) + 1,
        signed: first & 0x80 != 0,
        adobe_transform: None,
        jfif: false,
        named_rgb: false,
        by_plane: false,
        transformed: component_transform(stream).ok_or_else(broken)?,
        start,
    })
}

/// Number of tiles: each costs a decoder kilobytes, whatever its size (B.3).
fn tiles(image: (u32, u32), size: (u32, u32), offset: (u32, u32)) -> Option<u32> {
    let along =
        |image: u32, size: u32, offset: u32| Some(image.checked_sub(offset)?.div_ceil((size != 0).then_some(size)?));
    along(image.0, size.0, offset.0)?.checked_mul(along(image.1, size.1, offset.1)?)
}

/// Every tile must have a tile-part (A.4.2): decoders leave out in silence what is missing.
fn check_tiles(stream: &[u8], tiles: u32) -> Result<(), Refusal> {
    if tiles > TILES_MAX {
        let detail = format!("{tiles} tiles in a JPEG 2000 frame, the limit is {TILES_MAX}");
        return Err(Refusal::new(RefusalCode::TooLarge, detail));
    }
    let mut present = vec![false; tiles as usize];
    let mut at = 2;
    loop {
        let length = match u16_at(stream, at) {
            Some(0xFF90) => {
                let index = u16_at(stream, at + 4).map(usize::from);
                if let Some(tile) = index.and_then(|index| present.get_mut(index)) {
                    *tile = true;
                }
                // a length of zero: up to the end
                u32_at(stream, at + 6).filter(|length| *length >= 12)
            }
            Some(0xFFD9) | None => None,
            Some(_) => u16_at(stream, at + 2).map(|length| 2 + u32::from(length.max(2))),
        };
        let Some(length) = length else { break };
        at = at.saturating_add(length as usize);
    }
    match present.iter().all(|tile| *tile) {
        true => Ok(()),
        false => Err(failed("a tile of the JPEG 2000 frame is missing")),
    }
}

/// The multiple component transform of the first COD segment.
fn component_transform(stream: &[u8]) -> Option<bool> {
    let mut at = 2;
    loop {
        let marker = u16_at(stream, at)?;
        match marker {
            0xFF52 => return stream.get(at + 8).map(|mct| *mct != 0),
            0xFF90 | 0xFFD9 => return None,
            _ => at += 2 + usize::from(u16_at(stream, at + 2)?.max(2)),
        }
    }
}

/// Behind the boxes of a JP2 file, which PS3.5 A.4.4 forbids and some archives write.
fn codestream_start(frame: &[u8]) -> Option<usize> {
    if frame.starts_with(&[0xFF, 0x4F]) {
        return Some(0);
    }
    let mut at = 0usize;
    while frame.get(4..8)? == b"jP  " {
        let length = u32_at(frame, at)? as usize;
        if frame.get(at + 4..at + 8)? == b"jp2c" {
            let start = at + if length == 1 { 16 } else { 8 };
            return frame.get(start..)?.starts_with(&[0xFF, 0x4F]).then_some(start);
        }
        at = at.checked_add(length).filter(|_| length >= 8)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jpeg(sof: u8, precision: u8, rows: u16, columns: u16, ids: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, sof];
        bytes.extend((8 + 3 * ids.len() as u16).to_be_bytes());
        bytes.push(precision);
        bytes.extend(rows.to_be_bytes());
        bytes.extend(columns.to_be_bytes());
        bytes.push(ids.len() as u8);
        ids.iter().for_each(|id| bytes.extend([*id, 0x11, 0]));
        bytes.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn reads_size_and_process_of_jpeg_headers() {
        let rows = [
            (jpeg(0xC0, 8, 4, 5, &[1]), Some((Process::JpegDct, 4, 5, 8))),
            (jpeg(0xC1, 12, 4, 5, &[1]), Some((Process::JpegDct12, 4, 5, 12))),
            (jpeg(0xC3, 16, 9, 5, &[1]), Some((Process::JpegLossless, 9, 5, 16))),
            (jpeg(0xF7, 10, 9, 5, b"RGB"), Some((Process::JpegLs, 9, 5, 10))),
            (jpeg(0xC9, 8, 9, 5, &[1]), None),
            (jpeg(0xC0, 9, 9, 5, &[1]), None),
            (vec![0xFF, 0xD8], None),
            (vec![0xFF, 0xD8, 0xFF, 0xC0, 0xFF, 0xFF], None),
            (Vec::new(), None),
        ];
        for (bytes, expected) in rows {
            let got = inspect(&bytes, false).ok().map(|c| (c.process, c.rows, c.columns, c.precision));
            assert_eq!(got, expected, "{bytes:02X?}");
        }
    }

    #[test]
    fn never_panics_on_a_header_that_breaks_off_anywhere() {
        let whole = jpeg(0xC0, 8, 4, 5, &[1, 2, 3]);
        let mut j2k = vec![0xFF, 0x4F, 0xFF, 0x51, 0, 41, 0, 0];
        j2k.extend([0, 0, 0, 7, 0, 0, 0, 9]);
        j2k.extend([0; 8]);
        j2k.extend([0, 0, 0, 7, 0, 0, 0, 5]);
        j2k.extend([0; 8]);
        j2k.extend([0, 1, 0x8F, 1, 1, 0xFF, 0x52, 0, 12, 0, 0, 0, 1, 1, 5, 4, 4, 0, 1]);
        assert!(inspect(&j2k, true).is_err_and(|r| r.detail.contains("tile")));
        for tile in [0, 1] {
            j2k.extend([0xFF, 0x90, 0, 10, 0, tile, 0, 0, 0, 14, 0, 1, 0xFF, 0x93]);
        }
        let got = inspect(&j2k, true).map(|c| (c.rows, c.columns, c.precision, c.signed, c.transformed));
        assert_eq!(got, Ok((9, 7, 16, true, true)));
        (0..whole.len()).for_each(|n| _ = inspect(&whole[..n], false));
        (0..j2k.len() - 4).for_each(|n| assert!(inspect(&j2k[..n], true).is_err() || n > j2k.len() - 14, "{n}"));
        for (at, value) in [(22, 0u32), (26, 0), (22, 1 << 31), (30, 99), (34, 99)] {
            let mut broken = j2k.clone();
            broken[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let _ = inspect(&broken, true);
        }
    }
}
