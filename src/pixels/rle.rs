//! RLE Lossless (PS3.5 Annex G): byte planes, most significant first, packed bits.
//!
//! Written here since the codec of dicom-rs panics on truncated and fragmented frames and knows no 32-bit samples.

use crate::domain::{Refusal, RefusalCode};

/// Decodes a frame of `pixels` pixels into samples in little endian, colour by pixel.
pub fn decode(
    frame: &[u8],
    pixels: usize,
    samples_per_pixel: usize,
    bytes_per_sample: usize,
) -> Result<Vec<u8>, Refusal> {
    let planes = samples_per_pixel * bytes_per_sample;
    let (header, _) = frame.as_chunks::<4>();
    let header: Vec<usize> = header.iter().take(16).map(|b| u32::from_le_bytes(*b) as usize).collect();
    if header.len() < 16 || header[0] != planes {
        return Err(failed(format!("the RLE header names other than {planes} segments")));
    }
    let mut samples = vec![0; pixels * planes];
    let mut plane_bytes = vec![0; pixels];
    for plane in 0..planes {
        let start = header[plane + 1];
        let end = if plane + 1 < planes { header[plane + 2] } else { frame.len() };
        let segment = frame
            .get(start..end)
            .filter(|_| start >= 64)
            .ok_or_else(|| failed(format!("RLE segment {} lies outside the frame", plane + 1)))?;
        let filled = unpack(segment, &mut plane_bytes);
        if filled < pixels {
            return Err(failed(format!("RLE segment {} holds {filled} of {pixels} samples", plane + 1)));
        }
        let (sample, byte) = (plane / bytes_per_sample, plane % bytes_per_sample);
        let first = sample * bytes_per_sample + (bytes_per_sample - 1 - byte);
        for (target, value) in samples[first..].iter_mut().step_by(planes).zip(&plane_bytes) {
            *target = *value;
        }
    }
    Ok(samples)
}

/// PackBits (PS3.5 G.3.2) into `target`; returns how many bytes were filled.
fn unpack(segment: &[u8], target: &mut [u8]) -> usize {
    let (mut at, mut filled) = (0, 0);
    while let Some(&control) = segment.get(at) {
        at += 1;
        let rest = &mut target[filled..];
        let control = control as i8;
        if control >= 0 {
            let literal = &segment[at..segment.len().min(at + control as usize + 1)];
            let count = literal.len().min(rest.len());
            rest[..count].copy_from_slice(&literal[..count]);
            (at, filled) = (at + literal.len(), filled + count);
        } else if control != -128 {
            let Some(&value) = segment.get(at) else { return filled };
            let count = (1 + usize::from(control.unsigned_abs())).min(rest.len());
            rest[..count].fill(value);
            (at, filled) = (at + 1, filled + count);
        }
    }
    filled
}

fn failed(detail: String) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(segments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(&(segments.len() as u32).to_le_bytes());
        for (i, segment) in segments.iter().enumerate() {
            let at = bytes.len() as u32;
            bytes[4 * (i + 1)..4 * (i + 2)].copy_from_slice(&at.to_le_bytes());
            bytes.extend_from_slice(segment);
        }
        bytes
    }

    #[test]
    fn unpacks_runs_and_literals_and_refuses_what_is_short() {
        let rows = [
            (frame(&[&[2, 1, 2, 3, 0xFF, 9]]), 1, Some(vec![1, 2, 3, 9, 9])),
            (frame(&[&[0x80, 0xFC, 7]]), 1, Some(vec![7; 5])),
            (frame(&[&[0xFC, 1], &[4, 1, 2, 3, 4, 5]]), 2, Some(vec![1, 1, 2, 1, 3, 1, 4, 1, 5, 1])),
            (frame(&[&[2, 1, 2, 3]]), 1, None),
            (frame(&[&[4, 1, 2]]), 1, None),
            (frame(&[&[0xFC, 1]]), 2, None),
            (vec![1, 0, 0, 0], 1, None),
            (frame(&[&[]]), 1, None),
        ];
        for (bytes, size, expected) in rows {
            assert_eq!(decode(&bytes, 5, 1, size).ok(), expected, "{bytes:02X?}");
        }
    }
}
