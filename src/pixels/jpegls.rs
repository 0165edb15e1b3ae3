//! JPEG-LS (ISO/IEC 14495-1) through CharLS.
//!
//! Neighbours: `codestream` read the header, `decode` compared it with the data set. Left out: planes and pixels
//! (`Codestream::by_plane`).

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
    let samples = codestream.samples();
    let width = if codestream.precision <= 8 { 1 } else { 2 };
    let decoded = match run(frame, codestream) {
        Err(refusal) => run(&without_filler(frame).ok_or(refusal)?, codestream)?,
        Ok(decoded) => decoded,
    };
    if decoded.len() != samples * width {
        return Err(failed(format!("a frame decoded to {} bytes, {} are right", decoded.len(), samples * width)));
    }
    Ok(Codes::of_bytes(decoded, width, false))
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
