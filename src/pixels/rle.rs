//! RLE Lossless (PS3.5 Annex G): byte planes, most significant first, packed bits.
//!
//! Written here since the codec of dicom-rs panics on truncated and fragmented frames and knows no 32-bit samples.

use crate::domain::{Refusal, RefusalCode};

/// Decodes a frame of `pixels` pixels into samples in little endian, colour by pixel.
pub fn decode(frame: &[u8], pixels: usize, samples_per_pixel: usize, bytes_per_sample: usize) -> Result<Vec<u8>, Refusal> {
    let planes = samples_per_pixel * bytes_per_sample;
    let (header, _) = frame.as_chunks::<4>();
    let header: Vec<usize> = header.iter().take(16).map(|b| u32::from_le_bytes(*b) as usize).collect();
    if header.len() < 16 || header[0] != planes {
        return Err(failed(format!("the RLE header names other than {planes} segments")));
    }
    let pixel_bytes = planes;
    let mut samples = vec![0; pixels * pixel_bytes];
    for plane in 0..planes {
        let start = header[plane + 1];
        let end = if plane + 1 < planes { header[plane + 2] } else { frame.len() };
        let segment = frame
            .get(start..end)
            .filter(|_| start >= 64)
            .ok_or_else(|| failed(format!("RLE segment {} lies outside the frame", plane + 1)))?;
        let (sample, byte) = (plane / bytes_per_sample, plane % bytes_per_sample);
        let first = sample * bytes_per_sample + (bytes_per_sample - 1 - byte);
        let filled = unpack(segment, samples.iter_mut().skip(first).step_by(pixel_bytes));
        if filled < pixels {
            return Err(failed(format!("RLE segment {} holds {filled} of {pixels} samples", plane + 1)));
        }
    }
    Ok(samples)
}

/// PackBits (PS3.5 G.3.2) into `targets`; returns how many were filled.
fn unpack<'a>(segment: &[u8], mut targets: impl Iterator<Item = &'a mut u8>) -> usize {
    let (mut at, mut filled) = (0, 0);
    while let Some(&control) = segment.get(at) {
        at += 1;
        let control = control as i8;
        let (literal, count) = match control {
            0.. => (true, control as usize + 1),
            -128 => continue,
            _ => (false, 1 + usize::from(control.unsigned_abs())),
        };
        for i in 0..count {
            let Some(&value) = segment.get(if literal { at + i } else { at }) else { return filled };
            let Some(target) = targets.next() else { return filled };
            *target = value;
            filled += 1;
        }
        at += if literal { count } else { 1 };
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
        let rows: &[(Vec<u8>, usize, Option<Vec<u8>>)] = &[
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
            assert_eq!(&decode(bytes, 5, 1, *size).ok(), expected, "{bytes:02X?}");
        }
    }
}
