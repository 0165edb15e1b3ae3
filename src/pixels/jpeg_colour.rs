//! Keeps a JPEG decoder from converting colours, and from warnings that mean nothing.
//!
//! The decoder guesses the colour space from component identifiers and from JFIF and Adobe segments, and guesses wrong
//! for RGB without an Adobe segment. With the identifiers R, G, B and none of these segments it returns components as
//! they are coded, and `decode` knows from the data set and the codestream what they are. Some encoders leave the
//! spectral selection of sequential scans zero, where only 0 to 63 is possible (ISO/IEC 10918-1 B.2.3).

use crate::domain::{Refusal, RefusalCode};

/// The frame with JFIF and Adobe segments turned into comments, and three components renamed R, G, B in the frame
/// header and in every scan header; a single component keeps its name. Sequential scans get the parameters that they
/// must have. Each of three components must be coded in exactly one scan: one that is missing would come out grey.
pub fn without_transform(mut frame: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    let mut ids = [0u8; 3];
    let mut sequential = false;
    let mut scans = [0u32; 3];
    let mut at = 2;
    while let Some(marker) = next_marker(&frame, at) {
        let code = frame[marker + 1];
        if code == 0xD9 {
            break;
        }
        let Some(length) = frame.get(marker + 2..).and_then(|b| b.first_chunk::<2>()) else { break };
        let length = usize::from(u16::from_be_bytes(*length)).max(2);
        let Some(segment) = frame.get_mut(marker + 4..marker + 2 + length) else { break };
        match code {
            0xC0 | 0xC1 | 0xC3 if segment.get(5) != Some(&3) => sequential = code < 0xC2,
            0xC0 | 0xC1 | 0xC3 => {
                sequential = code < 0xC2;
                for (i, component) in segment.iter_mut().skip(6).step_by(3).take(3).enumerate() {
                    ids[i] = std::mem::replace(component, b"RGB"[i]);
                }
                if ids[0] == ids[1] || ids[1] == ids[2] || ids[0] == ids[2] {
                    return Err(Refusal::new(RefusalCode::DecodeFailed, "two JPEG components share an identifier"));
                }
            }
            0xDA => {
                if let Some(parameters) = segment.last_chunk_mut::<3>().filter(|_| sequential) {
                    *parameters = [0, 63, 0];
                }
                if ids == [0; 3] {
                    // one component: no name matters, and what follows need not be searched
                    break;
                }
                let count = usize::from(segment.first().copied().unwrap_or(0));
                for component in segment.iter_mut().skip(1).step_by(2).take(count) {
                    let i = ids.iter().position(|id| id == component).ok_or_else(uneven)?;
                    *component = b"RGB"[i];
                    scans[i] += 1;
                }
            }
            0xE0 | 0xEE => frame[marker + 1] = 0xFE,
            _ => {}
        }
        at = marker + 2 + length;
    }
    if ids != [0; 3] && scans != [1; 3] {
        return Err(uneven());
    }
    Ok(frame)
}

fn uneven() -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, "a JPEG component is not coded in exactly one scan")
}

/// The next marker with a segment, or the end of the image: entropy-coded data, fill bytes and restart markers are
/// passed over.
fn next_marker(frame: &[u8], from: usize) -> Option<usize> {
    let pairs = frame.get(from..)?.windows(2);
    pairs.zip(from..).find(|(p, _)| p[0] == 0xFF && !matches!(p[1], 0x00 | 0x01 | 0xD0..=0xD8 | 0xFF)).map(|(_, at)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_components_in_every_scan_and_nothing_else() {
        let mut frame = vec![0xFF, 0xD8, 0xFF, 0xEE, 0, 4, 0xFF, 0xDA];
        frame.extend([0xFF, 0xC0, 0, 17, 8, 0, 1, 0, 1, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
        frame.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0x12, 0xFF, 0, 0xFF, 0xD0, 0x34]);
        frame.extend([0xFF, 0xDA, 0, 10, 2, 2, 0, 3, 0, 0, 0, 0, 0x56, 0xFF, 0xD9]);
        let mut expected = frame.clone();
        for (at, id) in [(18, b'R'), (21, b'G'), (24, b'B'), (32, b'R'), (48, b'G'), (50, b'B')] {
            assert!(matches!(expected[at], 1..=3), "{at}");
            expected[at] = id;
        }
        (expected[3], expected[53]) = (0xFE, 63);
        assert_eq!(without_transform(frame), Ok(expected));
    }

    #[test]
    fn each_component_must_be_coded_in_one_scan() {
        const ONE: &[u8] = &[0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0x12];
        const TWO: &[u8] = &[0xFF, 0xDA, 0, 8, 1, 2, 0, 0, 63, 0, 0x12];
        const THREE: &[u8] = &[0xFF, 0xDA, 0, 8, 1, 3, 0, 0, 63, 0, 0x12];
        const FOUR: &[u8] = &[0xFF, 0xDA, 0, 8, 1, 4, 0, 0, 63, 0, 0x12];
        const LAST_TWO: &[u8] = &[0xFF, 0xDA, 0, 10, 2, 2, 0, 3, 0, 0, 63, 0, 0x12];
        let rows: [(&[&[u8]], bool); 7] = [
            (&[ONE, TWO, THREE], true),
            (&[ONE, LAST_TWO], true),
            (&[ONE, TWO], false),
            (&[ONE], false),
            (&[ONE, TWO, TWO, THREE], false),
            (&[ONE, TWO, LAST_TWO], false),
            (&[ONE, TWO, THREE, FOUR], false),
        ];
        for (scans, sound) in rows {
            let mut frame = vec![0xFF, 0xD8, 0xFF, 0xC0, 0, 17, 8, 0, 1, 0, 1, 3, 1, 17, 0, 2, 17, 1, 3, 17, 1];
            scans.iter().for_each(|scan| frame.extend(*scan));
            frame.extend([0xFF, 0xD9]);
            assert_eq!(without_transform(frame).is_ok(), sound, "{scans:02X?}");
        }
    }
}
