//! What an encapsulated frame says of itself, read before a decoder sees it.
//!
//! Decoders trust their codestream; the image trusts the data set. Both must agree on size, components and
//! precision, or the decoder writes out of bounds or the pixels are wrong. Neighbours: `decode`. Left out: decoding,
//! and the header of JPEG XL (`jpegxl`).

use crate::domain::{Refusal, RefusalCode};

const TILES_MAX: u32 = 4096;
/// Bytes other than zero that may pad a frame, and the marker before them.
const PADDING_MAX: usize = 16;

/// The coding process of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// Sequential DCT (ISO/IEC 10918-1, SOF0, SOF1).
    JpegDct,
    /// SOF1 with 12-bit samples.
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
    /// The coding changes values: DCT, a near-lossless bound over 0, the irreversible wavelet. Reversible wavelets may
    /// have lost bit planes, which nothing in the header tells.
    pub lossy: bool,
    /// JPEG: transform flag of an Adobe APP14 segment, 0 for RGB, 1 for YCbCr.
    pub adobe_transform: Option<u8>,
    /// JPEG: there is a JFIF APP0 segment, so three components are YCbCr.
    pub jfif: bool,
    /// JPEG: the component identifiers are the letters R, G, B.
    pub named_rgb: bool,
    /// JPEG-LS: components follow one another plane by plane.
    pub by_plane: bool,
    /// JPEG 2000: a multiple component transform is used, so the decoder returns RGB. JPEG XL: samples are coded in
    /// XYB.
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

/// Whether a frame of JPEG or JPEG-LS ends in its end-of-image marker, which coded data cannot hold; padding may
/// follow.
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
            0xC0 | 0xC1 | 0xC3 | 0xF7 => {
                if found.is_some() {
                    return Err(failed("the JPEG frame has two frame headers"));
                }
                found = Some(frame_header(marker, segment)?);
            }
            0xC2 => {
                let detail = "progressive JPEG, which no transfer syntax of DICOM has: not supported";
                return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
            }
            0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                let detail = format!("the JPEG process of marker FF{marker:02X} is not supported");
                return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
            }
            0xDA => {
                let mut codestream = found.ok_or_else(|| failed("the JPEG frame has a scan before its header"))?;
                codestream.adobe_transform = adobe_transform;
                codestream.jfif = jfif;
                if let (Process::JpegLs, Some([near, interleave, _])) = (codestream.process, segment.last_chunk()) {
                    codestream.by_plane = codestream.components > 1 && *interleave == 0;
                    codestream.lossy = *near > 0;
                }
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
        (0xC0 | 0xC1, 8) => Process::JpegDct,
        (0xC1, 12) => Process::JpegDct12,
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
        lossy: matches!(process, Process::JpegDct | Process::JpegDct12),
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
    let style = coding_style(stream, components, tiles)?;
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
        lossy: style.irreversible,
        adobe_transform: None,
        jfif: false,
        named_rgb: false,
        by_plane: false,
        transformed: style.transformed,
        start,
    })
}

/// Number of tiles: each costs a decoder kilobytes, whatever its size (B.3).
fn tiles(image: (u32, u32), size: (u32, u32), offset: (u32, u32)) -> Option<u32> {
    let along =
        |image: u32, size: u32, offset: u32| Some(image.checked_sub(offset)?.div_ceil((size != 0).then_some(size)?));
    along(image.0, size.0, offset.0)?.checked_mul(along(image.1, size.1, offset.1)?)
}

/// What COD and COC segments say (A.6.1, A.6.2).
#[derive(Debug, Clone, Copy)]
struct CodingStyle {
    /// The multiple component transform is used.
    transformed: bool,
    /// A component has another wavelet than the reversible one.
    irreversible: bool,
}

/// Walks the main header and all tile-parts (A.4.2) up to the end of the codestream (A.4.4). Decoders leave out in
/// silence what is missing, so every tile must be there with all the parts that it declares.
fn coding_style(stream: &[u8], components: u16, tiles: u32) -> Result<CodingStyle, Refusal> {
    if tiles > TILES_MAX {
        let detail = format!("{tiles} tiles in a JPEG 2000 frame, the limit is {TILES_MAX}");
        return Err(Refusal::new(RefusalCode::TooLarge, detail));
    }
    let wide = usize::from(components > 256);
    let (mut at, transformed, irreversible) = header_style(stream, 2, wide, 0xFF90)?;
    let transformed = transformed.ok_or_else(|| failed("the JPEG 2000 frame has no coding style"))?;
    let mut style = CodingStyle { transformed, irreversible };
    // parts that were found and that are declared, of each tile
    let mut parts = vec![(0u8, 0u8); tiles as usize];
    let ended = loop {
        if u16_at(stream, at) != Some(0xFF90) {
            break u16_at(stream, at) == Some(0xFFD9);
        }
        let head: &[u8; 12] = stream.get(at..).and_then(|s| s.first_chunk()).ok_or_else(|| failed(PART_LOST))?;
        let index = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let (found, declared) =
            parts.get_mut(index).ok_or_else(|| failed("a JPEG 2000 tile lies outside the image"))?;
        if head[10] != *found || (head[11] != 0 && *declared != 0 && head[11] != *declared) {
            return Err(failed(PART_LOST));
        }
        *found = found.checked_add(1).ok_or_else(|| failed(PART_LOST))?;
        *declared = head[11].max(*declared);
        let length = u32::from_be_bytes([head[6], head[7], head[8], head[9]]);
        // some encoders write a last part that is nothing but its marker segment
        if length != 12 {
            let (_, transformed, irreversible) = header_style(stream, at + 12, wide, 0xFF93)?;
            style.irreversible |= irreversible;
            if transformed.is_some_and(|transformed| transformed != style.transformed) {
                let detail = "JPEG 2000 with a colour transform for some tiles only is not supported";
                return Err(Refusal::new(RefusalCode::UnsupportedFormat, detail));
            }
        }
        match length {
            // up to the end of the codestream, which zeros may follow
            0 => break ends_in(stream, &[0xFF, 0xD9]),
            1..12 => return Err(failed(PART_LOST)),
            _ => at = at.saturating_add(length as usize),
        }
    };
    if parts.iter().any(|(found, declared)| *found == 0 || found < declared) {
        return Err(failed(PART_LOST));
    }
    if !ended {
        return Err(failed("the JPEG 2000 frame has no end-of-codestream marker"));
    }
    Ok(style)
}

const PART_LOST: &str = "a tile of the JPEG 2000 frame, or a part of one, is missing";

/// Of the header that starts at `at`: where the marker `end` ends it, whether its COD segment, if there is one, uses
/// the multiple component transform, and whether a COD or COC segment has another wavelet than the reversible one.
fn header_style(stream: &[u8], mut at: usize, wide: usize, end: u16) -> Result<(usize, Option<bool>, bool), Refusal> {
    let broken = || failed("the JPEG 2000 header breaks off");
    let (mut transformed, mut irreversible) = (None, false);
    loop {
        let byte = |offset: usize| stream.get(at + offset).copied().ok_or_else(broken);
        match u16_at(stream, at).ok_or_else(broken)? {
            marker if marker == end => return Ok((at, transformed, irreversible)),
            0xFF52 => {
                if transformed.replace(byte(8)? != 0).is_some() {
                    return Err(failed("the JPEG 2000 frame has two coding styles in one header"));
                }
                irreversible |= byte(13)? != 1;
            }
            0xFF53 => irreversible |= byte(10 + wide)? != 1,
            0xFF4F | 0xFF90 | 0xFF93 | 0xFFD9 => return Err(broken()),
            _ => {}
        }
        at += 2 + usize::from(u16_at(stream, at + 2).ok_or_else(broken)?.max(2));
    }
}

/// Whether these are the last bytes but for zeros.
fn ends_in(bytes: &[u8], end: &[u8]) -> bool {
    bytes[..bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count()].ends_with(end)
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
            (jpeg(0xC2, 8, 9, 5, &[1]), None),
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

    /// Two tiles of 7 × 5 of an image of 7 × 9, 16 bits signed; each tile-part is index, number of the part, parts of
    /// the tile, and a header of its own.
    fn j2k(wavelet: u8, parts: &[(u8, u8, u8, &[u8])]) -> Vec<u8> {
        let mut j2k = vec![0xFF, 0x4F, 0xFF, 0x51, 0, 41, 0, 0];
        j2k.extend([0, 0, 0, 7, 0, 0, 0, 9]);
        j2k.extend([0; 8]);
        j2k.extend([0, 0, 0, 7, 0, 0, 0, 5]);
        j2k.extend([0; 8]);
        j2k.extend([0, 1, 0x8F, 1, 1, 0xFF, 0x52, 0, 12, 0, 0, 0, 1, 1, 5, 4, 4, 0, wavelet]);
        for (tile, part, of, header) in parts {
            j2k.extend([0xFF, 0x90, 0, 10, 0, *tile, 0, 0, 0, 14 + header.len() as u8, *part, *of]);
            j2k.extend(*header);
            j2k.extend([0xFF, 0x93]);
        }
        j2k.extend([0xFF, 0xD9]);
        j2k
    }

    #[test]
    fn every_tile_part_that_is_declared_must_be_there() {
        const COC: [u8; 11] = [0xFF, 0x53, 0, 9, 0, 0, 5, 4, 4, 0, 0];
        const COD: [u8; 14] = [0xFF, 0x52, 0, 12, 0, 0, 0, 1, 0, 5, 4, 4, 0, 1];
        type Parts<'a> = &'a [(u8, u8, u8, &'a [u8])];
        let rows: [(&str, Parts, Result<bool, &str>); 13] = [
            ("one part each", &[(0, 0, 1, &[]), (1, 0, 1, &[])], Ok(false)),
            ("number of parts not said", &[(0, 0, 0, &[]), (1, 0, 0, &[])], Ok(false)),
            ("parts of two tiles in turn", &[(0, 0, 0, &[]), (1, 0, 1, &[]), (0, 1, 2, &[])], Ok(false)),
            ("one irreversible component", &[(0, 0, 1, &COC), (1, 0, 1, &[])], Ok(true)),
            ("another transform in a tile", &[(0, 0, 1, &[]), (1, 0, 1, &COD)], Err("some tiles only")),
            ("no tile", &[], Err("breaks off")),
            ("no second tile", &[(0, 0, 1, &[])], Err("missing")),
            ("a tile outside", &[(0, 0, 1, &[]), (1, 0, 1, &[]), (2, 0, 1, &[])], Err("outside")),
            ("no second part", &[(0, 0, 2, &[]), (1, 0, 1, &[])], Err("missing")),
            ("no second part, said at the end", &[(0, 0, 0, &[]), (0, 1, 3, &[]), (1, 0, 1, &[])], Err("missing")),
            ("no first part", &[(0, 1, 2, &[]), (1, 0, 1, &[])], Err("missing")),
            ("a part twice", &[(0, 0, 1, &[]), (0, 0, 1, &[]), (1, 0, 1, &[])], Err("missing")),
            ("two numbers of parts", &[(0, 0, 2, &[]), (0, 1, 3, &[]), (1, 0, 1, &[])], Err("missing")),
        ];
        for (name, parts, expected) in rows {
            match (inspect(&j2k(1, parts), true), expected) {
                (Ok(got), Ok(lossy)) => assert_eq!(got.lossy, lossy, "{name}"),
                (Err(refusal), Err(expected)) => assert!(refusal.detail.contains(expected), "{name}: {refusal}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
        assert!(inspect(&j2k(0, rows[0].1), true).is_ok_and(|c| c.lossy));
    }

    #[test]
    fn the_end_of_a_codestream_must_be_marked() {
        let whole = j2k(1, &[(0, 0, 1, &[]), (1, 0, 1, &[])]);
        let end = whole.len() - 2;
        let mut open = whole.clone();
        open[end - 8..end - 4].fill(0); // the last part goes on to the end
        for (bytes, name) in [(&whole, "lengths"), (&open, "an open end")] {
            let padded = [bytes.as_slice(), &[0; 5]].concat();
            assert!(inspect(bytes, true).is_ok() && inspect(&padded, true).is_ok(), "{name}");
            let refusal = inspect(&bytes[..end], true).expect_err("no marker");
            assert!(refusal.detail.contains("end-of-codestream"), "{name}: {refusal}");
        }
    }

    #[test]
    fn never_panics_on_a_header_that_breaks_off_anywhere() {
        let whole = jpeg(0xC0, 8, 4, 5, &[1, 2, 3]);
        let j2k = j2k(1, &[(0, 0, 1, &[]), (1, 0, 1, &[])]);
        let got = inspect(&j2k, true).map(|c| (c.rows, c.columns, c.precision, c.signed, c.transformed));
        assert_eq!(got, Ok((9, 7, 16, true, true)));
        (0..whole.len()).for_each(|n| _ = inspect(&whole[..n], false));
        (0..j2k.len()).for_each(|n| assert!(inspect(&j2k[..n], true).is_err(), "{n}"));
        for (at, value) in [(22, 0u32), (26, 0), (22, 1 << 31), (30, 99), (34, 99)] {
            let mut broken = j2k.clone();
            broken[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let _ = inspect(&broken, true);
        }
    }
}
