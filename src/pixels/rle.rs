//! RLE Lossless (PS3.5 Annex G): byte planes, most significant first, packed bits.
//!
//! Written here since the codec of dicom-rs panics on truncated and fragmented frames and knows no 32-bit samples.

use super::samples::Codes;
use crate::domain::{Refusal, RefusalCode};

/// Runs of at most this many bytes are copied by this many: a constant length needs no call.
const SHORT: usize = 16;

/// Decodes a frame of `pixels` pixels, colour by pixel.
pub fn decode(
    frame: &[u8],
    pixels: usize,
    samples_per_pixel: usize,
    bytes_per_sample: usize,
) -> Result<Codes, Refusal> {
    let planes = unpack_planes(frame, pixels, samples_per_pixel * bytes_per_sample)?;
    let at = |plane: usize| &planes[plane * pixels..(plane + 1) * pixels];
    Ok(match (samples_per_pixel, bytes_per_sample) {
        (1, 1) => Codes::Bytes(planes),
        (_, 1) => Codes::Bytes(planes).interleaved(),
        (1, 2) => Codes::Words(words(at(0), at(1))),
        (_, 2) => {
            Codes::Words((0..samples_per_pixel).flat_map(|s| words(at(2 * s), at(2 * s + 1))).collect()).interleaved()
        }
        _ => {
            let halves = words(at(0), at(1)).into_iter().zip(words(at(2), at(3)));
            Codes::Longs(halves.map(|(high, low)| u32::from(high) << 16 | u32::from(low)).collect())
        }
    })
}

/// The byte planes, one after the other.
fn unpack_planes(frame: &[u8], pixels: usize, count: usize) -> Result<Vec<u8>, Refusal> {
    let (header, _) = frame.as_chunks::<4>();
    let header: Vec<usize> = header.iter().take(16).map(|b| u32::from_le_bytes(*b) as usize).collect();
    if header.len() < 16 || header[0] != count {
        return Err(failed(format!("the RLE header names other than {count} segments")));
    }
    let mut planes = vec![0; pixels * count];
    for (i, plane) in planes.chunks_exact_mut(pixels).enumerate() {
        let start = header[i + 1];
        let end = if i + 1 < count { header[i + 2] } else { frame.len() };
        let segment = frame
            .get(start..end)
            .filter(|_| start >= 64)
            .ok_or_else(|| failed(format!("RLE segment {} lies outside the frame", i + 1)))?;
        let filled = unpack(segment, plane);
        if filled < pixels {
            return Err(failed(format!("RLE segment {} holds {filled} of {pixels} samples", i + 1)));
        }
    }
    Ok(planes)
}

fn words(high: &[u8], low: &[u8]) -> Vec<u16> {
    high.iter().zip(low).map(|(high, low)| u16::from(*high) << 8 | u16::from(*low)).collect()
}

/// PackBits (PS3.5 G.3.2) into `target`; returns how many bytes were filled.
fn unpack(segment: &[u8], target: &mut [u8]) -> usize {
    let (mut at, mut filled) = (0, 0);
    while filled < target.len() {
        let Some(&control) = segment.get(at) else { break };
        at += 1;
        let control = control as i8;
        if control >= 0 {
            let count = control as usize + 1;
            // more than the run is copied where there is room: what follows overwrites it
            if count <= SHORT
                && let Some(from) = segment[at..].first_chunk::<SHORT>()
                && let Some(to) = target[filled..].first_chunk_mut::<SHORT>()
            {
                *to = *from;
                (at, filled) = (at + count, filled + count);
                continue;
            }
            let count = count.min(segment.len() - at).min(target.len() - filled);
            target[filled..filled + count].copy_from_slice(&segment[at..at + count]);
            (at, filled) = (at + control as usize + 1, filled + count);
        } else if control != -128 {
            let Some(&value) = segment.get(at) else { break };
            let count = 1 + usize::from(control.unsigned_abs());
            match target[filled..].first_chunk_mut::<SHORT>() {
                Some(to) if count <= SHORT => {
                    *to = [value; SHORT];
                    filled += count;
                }
                _ => {
                    let count = count.min(target.len() - filled);
                    target[filled..filled + count].fill(value);
                    filled += count;
                }
            }
            at += 1;
        }
    }
    filled
}

fn failed(detail: String) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            (frame(&[&[2, 1, 2, 3, 0xFF, 9]]), 1, Some(Codes::Bytes(vec![1, 2, 3, 9, 9]))),
            (frame(&[&[0x80, 0xFC, 7]]), 1, Some(Codes::Bytes(vec![7; 5]))),
            (frame(&[&[0xF0, 7, 9]]), 1, Some(Codes::Bytes(vec![7; 5]))),
            (frame(&[&[0xFC, 1], &[4, 1, 2, 3, 4, 5]]), 2, Some(Codes::Words(vec![257, 258, 259, 260, 261]))),
            (frame(&[&[0xFC, 1], &[0xFC, 2], &[0xFC, 3], &[0xFC, 4]]), 4, Some(Codes::Longs(vec![0x0102_0304; 5]))),
            (frame(&[&[2, 1, 2, 3]]), 1, None),
            (frame(&[&[4, 1, 2]]), 1, None),
            (frame(&[&[0xFC, 1]]), 2, None),
            (vec![1, 0, 0, 0], 1, None),
            (frame(&[&[]]), 1, None),
        ];
        for (bytes, size, expected) in rows {
            assert_eq!(decode(&bytes, 5, 1, size).ok(), expected, "{bytes:02X?}");
        }
        let colour = frame(&[&[0xFF, 1], &[0xFF, 2], &[0xFF, 3], &[0xFF, 4], &[0xFF, 5], &[1, 6, 7]]);
        let expected = Codes::Words(vec![0x0102, 0x0304, 0x0506, 0x0102, 0x0304, 0x0507]);
        assert_eq!(decode(&colour, 2, 3, 2), Ok(expected));
    }

    proptest! {
        /// Short and long runs, literals and garbage, against the definition byte by byte.
        #[test]
        fn unpacks_as_defined(segment in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..20, 236u8..=255], 0..400), size in 1usize..300) {
            let mut expected = Vec::new();
            let mut at = 0;
            while let Some(&control) = segment.get(at) {
                let control = control as i8;
                match control {
                    0.. => expected.extend(segment[at + 1..].iter().take(control as usize + 1)),
                    -128 => {}
                    _ => expected.extend(segment.get(at + 1).into_iter().flat_map(|v| std::iter::repeat_n(*v, usize::from(control.unsigned_abs()) + 1))),
                }
                at += match control { 0.. => control as usize + 2, -128 => 1, _ => 2 };
            }
            expected.truncate(size);
            let mut target = vec![0; size];
            let filled = unpack(&segment, &mut target);
            prop_assert_eq!(&target[..filled], expected);
        }
    }
}
