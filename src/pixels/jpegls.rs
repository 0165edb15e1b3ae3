//! JPEG-LS (ISO/IEC 14495-1) through CharLS.
//!
//! CharLS sizes its lines by the first scan and takes interleaving, near-lossless bound, presets, restart interval and
//! colour transform from whatever segment comes later: all scans must be alike before it sees the frame. Neighbours:
//! `codestream` read the header, `decode` compared it with the data set. Left out: planes and pixels
//! (`Codestream::by_plane`), colour transforms outside the Standard.

use charls::CharLS;

use super::codestream::{Codestream, is_ended};
use super::samples::Codes;
use crate::domain::{Refusal, RefusalCode};

/// Decodes a frame of a size that was checked.
pub fn decode(frame: &[u8], codestream: &Codestream) -> Result<Codes, Refusal> {
    if !is_ended(frame) {
        // CharLS 2.4 would search for seconds behind the end of its buffer, or make up the bits of the last samples
        return Err(failed("the frame has no end-of-image marker".into()));
    }
    check_scans(frame)?;
    let samples = codestream.samples();
    let width = if codestream.precision <= 8 { 1 } else { 2 };
    let decoded = match run(frame, codestream) {
        Err(refusal) => run(&without_filler(frame).ok_or(refusal)?, codestream)?,
        Ok(decoded) => decoded,
    };
    if decoded.len() != samples * width {
        return Err(failed(format!("a frame decoded to {} bytes, {} are right", decoded.len(), samples * width)));
    }
    Ok(Codes::of_bytes(decoded, width))
}

fn run(frame: &[u8], codestream: &Codestream) -> Result<Vec<u8>, Refusal> {
    let fault = |e: charls::Error| failed(format!("{e:.200}"));
    // CharLS sizes its output by its own reading of the header
    let mut decoder = CharLS::default();
    let info = decoder.get_frame_info(frame).map_err(fault)?;
    let expected = (codestream.columns, codestream.rows, i32::from(codestream.precision));
    if (info.width, info.height, info.bits_per_sample) != expected
        || info.component_count != i32::from(codestream.components)
    {
        return Err(failed("the frame has a second header that contradicts the first".into()));
    }
    CharLS::default().decode(frame).map_err(fault)
}

/// The scans of a frame: one of all components, or one for each component in the order of the frame header, and all
/// with the same parameters (ISO/IEC 14495-1 C.2.3). Between them only comments and application data may lie. Coded
/// data holds no byte over 7F behind FF, so that no scan is missed.
fn check_scans(frame: &[u8]) -> Result<(), Refusal> {
    let contradiction = || failed("the scans of the frame contradict its header or one another".into());
    let mut names: Vec<u8> = Vec::new();
    let mut parameters: Option<&[u8]> = None;
    let (mut scans, mut at) = (0, 2);
    while let Some((code, segment, end)) = next_segment(frame, at) {
        match code {
            0xF7 if names.is_empty() => names = segment.get(6..).unwrap_or_default().chunks(3).map(|c| c[0]).collect(),
            0xDA => {
                let (count, rest) = segment.split_first().ok_or_else(contradiction)?;
                let (selectors, own) = rest.split_at_checked(2 * usize::from(*count)).ok_or_else(contradiction)?;
                let [_, interleave, _] = own else { return Err(contradiction()) };
                let (first, expected) = if *interleave == 0 { (scans, 1) } else { (0, names.len()) };
                let selected = selectors.chunks(2).map(|s| &s[0]);
                let all = if *interleave == 0 { names.len() } else { 1 };
                let known = names.get(first..first + expected).is_some_and(|names| selected.eq(names));
                if !known || scans == all || parameters.is_some_and(|first| first != own) {
                    return Err(contradiction());
                }
                (scans, parameters) = (scans + 1, Some(own));
            }
            0xE8 if segment.starts_with(b"mrfx") => {
                return Err(Refusal::new(
                    RefusalCode::UnsupportedFormat,
                    "JPEG-LS with a colour transform: not supported",
                ));
            }
            0xD9 => break,
            0xE0..=0xEF | 0xFE => {}
            _ if scans == 0 => {}
            _ => return Err(contradiction()),
        }
        at = end;
    }
    let all = if parameters.is_some_and(|own| own[1] == 0) { names.len() } else { 1 };
    if scans == all { Ok(()) } else { Err(contradiction()) }
}

/// Code and content of the next marker segment, and where it ends. Coded data, fill bytes and restart markers are
/// passed over.
fn next_segment(frame: &[u8], mut at: usize) -> Option<(u8, &[u8], usize)> {
    loop {
        at += frame.get(at..)?.iter().position(|byte| *byte == 0xFF)?;
        match *frame.get(at + 1)? {
            0xFF => at += 1,
            0..=0x7F | 0xD0..=0xD7 => at += 2,
            0xD9 => return Some((0xD9, &[], at + 2)),
            code => {
                let length = usize::from(u16::from_be_bytes(*frame.get(at + 2..)?.first_chunk()?));
                return Some((code, frame.get(at + 4..at + 2 + length)?, at + 2 + length));
            }
        }
    }
}

/// The frame without zero bytes between the last scan and the end-of-image marker, which some encoders leave there.
fn without_filler(frame: &[u8]) -> Option<Vec<u8>> {
    let end = frame.len() - frame.iter().rev().take_while(|b| **b == 0).count();
    let scan = frame[..end].strip_suffix(&[0xFF, 0xD9])?;
    let kept = scan.len() - scan.iter().rev().take_while(|b| **b == 0).count();
    (kept < scan.len()).then(|| [&scan[..kept], &[0xFF, 0xD9]].concat())
}

fn failed(detail: String) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, format!("JPEG-LS: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::codestream::inspect;

    /// Where the frame header lies, and the scan headers.
    fn segments(frame: &[u8], wanted: u8) -> Vec<usize> {
        let mut at = 2;
        std::iter::from_fn(|| {
            let (code, segment, end) = next_segment(frame, at)?;
            at = end;
            Some((code, end - segment.len() - 4))
        })
        .take_while(|(code, _)| *code != 0xD9)
        .filter_map(|(code, start)| (code == wanted).then_some(start))
        .collect()
    }

    #[test]
    fn every_scan_must_be_like_the_first() {
        let info = charls::FrameInfo { width: 7, height: 5, bits_per_sample: 8, component_count: 3 };
        let planes: Vec<u8> = (0..105u8).map(|v| v.wrapping_mul(37)).collect();
        let frame = CharLS::default().encode(info, 0, &planes).expect("a frame");
        let (header, scans) = (segments(&frame, 0xF7)[0], segments(&frame, 0xDA));
        assert_eq!(scans.len(), 3);
        // a scan header: marker, length, components, their names and tables, near, interleave, point transform
        let changed = |at: usize, value: u8| {
            let mut frame = frame.clone();
            frame[at] = value;
            frame
        };
        let with = |at: usize, bytes: &[u8]| [&frame[..at], bytes, &frame[at..]].concat();
        let interleaved = [0xFF, 0xDA, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 2, 0];
        let mut preset = vec![0xFF, 0xF8, 0, 13, 1];
        preset.extend([255u16, 3, 7, 21, 64].iter().flat_map(|v| v.to_be_bytes()));
        let transform = b"\xFF\xE8\0\x07mrfx\x01";
        let rows: Vec<(&str, Vec<u8>, bool)> = vec![
            ("as encoded", frame.clone(), true),
            ("a comment between", with(scans[1], b"\xFF\xFE\0\x04ab"), true),
            ("presets before the first", with(scans[0], &preset), true),
            ("the third interleaves", [&frame[..scans[2]], &interleaved, &frame[scans[2] + 10..]].concat(), false),
            ("the third claims to interleave", changed(scans[2] + 8, 2), false),
            ("the first claims to interleave", changed(scans[0] + 8, 1), false),
            ("another bound in the second", changed(scans[1] + 7, 1), false),
            ("another point transform in the third", changed(scans[2] + 9, 1), false),
            ("the first component twice", changed(scans[1] + 5, frame[scans[0] + 5]), false),
            ("a component that the header lacks", changed(header + 16, 9), false),
            ("a scan is missing", [&frame[..scans[1]], &frame[scans[2]..]].concat(), false),
            ("a scan too many", [&frame[..scans[2]], &frame[scans[1]..]].concat(), false),
            ("presets between", with(scans[1], &preset), false),
            ("a restart interval between", with(scans[2], &[0xFF, 0xDD, 0, 4, 0, 1]), false),
            ("a number of lines between", with(scans[1], &[0xFF, 0xDC, 0, 4, 0, 9]), false),
            ("a second frame header", with(scans[1], &frame[header..header + 19]), false),
            ("a colour transform before", with(scans[0], transform), false),
            ("a colour transform between", with(scans[2], transform), false),
        ];
        for (name, frame, sound) in rows {
            let codestream = inspect(&frame, false).expect("a header");
            let expected = sound.then(|| Codes::Bytes(planes.clone()));
            assert_eq!(decode(&frame, &codestream).ok(), expected, "{name}");
        }
    }
}
