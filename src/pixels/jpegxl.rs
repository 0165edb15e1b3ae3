//! JPEG XL (ISO/IEC 18181-1) through jxl-rs, on the calling thread.
//!
//! A frame of DICOM is one still image of unsigned integers, grey or RGB, as it is to be seen (PS3.5 8.2.15, A.4.12):
//! what else JPEG XL can hold is refused by name before any pixel is decoded. The library reads the header too, since
//! it is packed bit by bit; nothing is allocated by what it claims. Neighbours: `decode` compares the header with the
//! data set. Left out: the JPEG file that a recompressed frame could be turned back into (its pixels are the same).

use jxl::api::{
    Endianness, Event, JxlBitDepth, JxlColorType, JxlDataFormat, JxlDecoder, JxlDecoderOptions, JxlOutputBuffer,
    JxlPixelFormat, Orientation, ProfileLevel,
};

use super::codestream::{Codestream, Process};
use super::samples::Codes;
use crate::domain::{Refusal, RefusalCode};

/// A bare codestream, and the first box of a container.
const SIGNATURES: [&[u8]; 2] = [&[0xFF, 0x0A], &[0, 0, 0, 0x0C, b'J', b'X', b'L', b' ']];
/// Samples by which an inner frame may exceed the image: patches are gathered in frames of their own.
const INNER_FRAME_MARGIN: usize = 1 << 20;

/// Whether a fragment starts a frame.
pub fn is_start(fragment: &[u8]) -> bool {
    SIGNATURES.iter().any(|signature| fragment.starts_with(signature))
}

/// Reads the header of a frame.
pub fn inspect(frame: &[u8]) -> Result<Codestream, Refusal> {
    if !is_start(frame) {
        return Err(failed("the frame holds no JPEG XL codestream"));
    }
    let decoder = read_header(&mut &frame[..], None)?;
    let (Some(info), Some(profile)) = (decoder.basic_info(), decoder.embedded_color_profile()) else {
        return Err(failed("the header cannot be read"));
    };
    let precision = match info.bit_depth {
        JxlBitDepth::Int { bits_per_sample } => u16::try_from(bits_per_sample).unwrap_or(u16::MAX),
        JxlBitDepth::Float { .. } => return Err(unsupported("floating point samples")),
    };
    if info.animation.is_some() {
        return Err(unsupported("an animation"));
    }
    if !info.extra_channels.is_empty() {
        return Err(unsupported("extra channels (transparency, black, depth, spot colours)"));
    }
    if info.orientation != Orientation::Identity {
        return Err(unsupported("an orientation other than the identity"));
    }
    let xyb = !info.uses_original_profile;
    if xyb && !profile.can_output_to() {
        return Err(unsupported("XYB samples of an image whose colour space takes a profile to convert to"));
    }
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    Ok(Codestream {
        process: Process::JpegXl,
        columns: number(info.size.0),
        rows: number(info.size.1),
        components: if is_grey(&decoder) { 1 } else { 3 },
        precision,
        signed: false,
        // nothing in the header tells, but XYB never returns what it was given
        lossy: true,
        adobe_transform: None,
        jfif: false,
        named_rgb: false,
        by_plane: false,
        transformed: xyb,
        start: 0,
    })
}

/// Decodes a frame of a size that was checked.
pub fn decode(frame: &[u8], codestream: &Codestream) -> Result<Codes, Refusal> {
    let bits = u8::try_from(codestream.precision).unwrap_or(u8::MAX);
    if codestream.precision <= 8 {
        let mut bytes = vec![0u8; codestream.samples()];
        run(frame, codestream, JxlDataFormat::U8 { bit_depth: bits }, &mut bytes)?;
        return Ok(Codes::Bytes(bytes));
    }
    let mut words = vec![0u16; codestream.samples()];
    let format = JxlDataFormat::U16 { endianness: Endianness::native(), bit_depth: bits };
    run(frame, codestream, format, bytemuck::cast_slice_mut(&mut words))?;
    Ok(Codes::Words(words))
}

/// Fills `out` with the samples of the frame, colour by pixel.
fn run(mut frame: &[u8], codestream: &Codestream, format: JxlDataFormat, out: &mut [u8]) -> Result<(), Refusal> {
    let (rows, columns) = (codestream.rows as usize, codestream.columns as usize);
    let mut decoder = read_header(&mut frame, Some(4 * rows * columns + INNER_FRAME_MARGIN))?;
    let grey = is_grey(&decoder);
    let same_size = decoder.basic_info().is_some_and(|info| info.size == (columns, rows));
    if !same_size || grey != (codestream.components == 1) {
        return Err(failed("the library reads another header than the data set was compared with"));
    }
    let pixels = JxlPixelFormat {
        color_type: if grey { JxlColorType::Grayscale } else { JxlColorType::Rgb },
        color_data_format: Some(format),
        extra_channel_format: Vec::new(),
    };
    decoder.set_pixel_format(pixels).map_err(fault)?;
    loop {
        let mut buffers = [JxlOutputBuffer::new(out, rows, out.len() / rows)];
        match decoder.process(&mut frame, Some(&mut buffers), None).map_err(fault)? {
            Event::BasicInfo | Event::FrameHeader | Event::FrameComplete { has_more_frames: false } => {}
            Event::FrameComplete { has_more_frames: true } => return Err(unsupported("several images in one frame")),
            Event::NeedMoreInput { .. } => return Err(failed("the frame breaks off")),
            Event::Complete => return Ok(()),
        }
    }
}

/// A decoder that has read the header; frames within the image may have so many samples.
fn read_header(frame: &mut &[u8], samples_max: Option<usize>) -> Result<JxlDecoder, Refusal> {
    let mut options = JxlDecoderOptions::default();
    options.adjust_orientation = false;
    options.high_precision = true;
    options.max_profile_level = ProfileLevel::Main10;
    options.sample_limit = samples_max;
    let mut decoder = JxlDecoder::new(options);
    match decoder.process(frame, None, None).map_err(fault)? {
        Event::BasicInfo => Ok(decoder),
        _ => Err(failed("the header breaks off")),
    }
}

/// What the library would return unless it were told otherwise.
fn is_grey(decoder: &JxlDecoder) -> bool {
    decoder.current_pixel_format().is_some_and(|format| format.color_type.is_grayscale())
}

fn fault(error: jxl::error::Error) -> Refusal {
    failed(&error.to_string())
}

fn failed(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, format!("JPEG XL: {detail:.200}"))
}

fn unsupported(what: &str) -> Refusal {
    Refusal::new(RefusalCode::UnsupportedFormat, format!("JPEG XL with {what}: not supported"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of so many bits, the lowest first, as ISO/IEC 18181-1 packs them.
    fn packed(fields: &[(u32, u32)]) -> Vec<u8> {
        let bits = fields.iter().flat_map(|(value, width)| (0..*width).map(move |bit| (value >> bit & 1) as u8));
        let bits: Vec<u8> = bits.collect();
        bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |all, bit| all << 1 | bit)).collect()
    }

    const GREY_SRGB: &[(u32, u32)] = &[(0, 1), (0, 1), (1, 2), (1, 2), (0, 1), (2, 2), (11, 4), (1, 2)];
    const GREY_WHITE_E: &[(u32, u32)] = &[(0, 1), (0, 1), (1, 2), (2, 2), (8, 4), (0, 1), (2, 2), (11, 4), (1, 2)];
    const INTEGERS_OF_12_BITS: &[(u32, u32)] = &[(0, 1), (2, 2)];
    const NOTHING: &[(u32, u32)] = &[];

    /// The header of an image with 9 columns and 5 rows: its extra fields, bit depth, extra channels, whether it is in
    /// XYB, and its colour encoding.
    fn header(
        extra: &[(u32, u32)],
        depth: &[(u32, u32)],
        channels: &[(u32, u32)],
        xyb: u32,
        colour: &[(u32, u32)],
    ) -> Vec<u8> {
        let size = [(0x0AFF, 16), (0, 1), (0, 2), (4, 9), (0, 3), (0, 2), (8, 9)];
        let extra_fields = u32::from(!extra.is_empty());
        let tone_mapping: &[(u32, u32)] = if extra.is_empty() { NOTHING } else { &[(1, 1)] };
        let parts: [&[(u32, u32)]; 10] = [
            &size,
            &[(0, 1), (extra_fields, 1)],
            extra,
            depth,
            &[(1, 1)],
            channels,
            &[(xyb, 1)],
            colour,
            tone_mapping,
            &[(0, 2), (1, 1), (0, 24)],
        ];
        packed(&parts.concat())
    }

    #[test]
    fn reads_the_header_and_refuses_by_name_what_dicom_does_not_hold() {
        let plain = |depth, colour| header(NOTHING, depth, &[(0, 2)], 0, colour);
        let channel =
            |kind: &[(u32, u32)]| header(NOTHING, INTEGERS_OF_12_BITS, &[&[(1, 2)], kind].concat(), 0, GREY_SRGB);
        let extra = |fields| header(fields, INTEGERS_OF_12_BITS, &[(0, 2)], 0, GREY_SRGB);
        let float = &[(1, 1), (0, 2), (7, 4)];
        let rows: [(&str, Vec<u8>, Result<(u32, u32, u16, u16, bool), &str>); 11] = [
            ("grey", plain(INTEGERS_OF_12_BITS, GREY_SRGB), Ok((9, 5, 1, 12, false))),
            ("colour", plain(&[(0, 1), (3, 2), (15, 6)], &[(1, 1)]), Ok((9, 5, 3, 16, false))),
            ("wide", plain(&[(0, 1), (3, 2), (23, 6)], &[(1, 1)]), Ok((9, 5, 3, 24, false))),
            ("lossy", header(NOTHING, INTEGERS_OF_12_BITS, &[(0, 2)], 1, &[(1, 1)]), Ok((9, 5, 3, 12, true))),
            ("upright", extra(&[(0, 3), (0, 3)]), Ok((9, 5, 1, 12, false))),
            ("turned", extra(&[(5, 3), (0, 3)]), Err("orientation")),
            ("animated", extra(&[(0, 3), (0b100, 3), (0, 7)]), Err("animation")),
            ("transparent", channel(&[(1, 1)]), Err("extra channels")),
            ("black", channel(&[(0, 1), (2, 2), (2, 4), (0, 3), (0, 2), (0, 2)]), Err("extra channels")),
            ("float", plain(float, GREY_SRGB), Err("floating point")),
            ("XYB", header(NOTHING, INTEGERS_OF_12_BITS, &[(0, 2)], 1, GREY_WHITE_E), Err("XYB")),
        ];
        for (name, bytes, expected) in rows {
            let got = inspect(&bytes).map(|c| (c.columns, c.rows, c.components, c.precision, c.transformed));
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{name}"),
                (Err(refusal), Err(part)) => {
                    assert_eq!(refusal.code, RefusalCode::UnsupportedFormat, "{name} {refusal}");
                    assert!(refusal.detail.contains(part), "{name} {refusal}");
                }
                (got, expected) => panic!("{name}: {got:?} in place of {expected:?}"),
            }
            for length in 0..6 {
                assert_eq!(inspect(&bytes[..length]).map_err(|r| r.code), Err(RefusalCode::DecodeFailed), "{name}");
            }
        }
    }
}
