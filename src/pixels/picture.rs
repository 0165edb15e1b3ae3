//! PNG and JPEG files as grey values: what training sets come as beside DICOM.
//!
//! A picture has no window, spacing or side: it is seen over the full range of its bits, colour as luminance (ITU-R
//! BT.601), transparency is refused. Trusted files only: they are read in this process. Neighbours: `jpeg` decodes,
//! `grey` is what a DICOM image becomes too. Left out: animations, palettes with transparency, CMYK.

use std::io::{Cursor, Read};
use std::path::Path;

use super::geometry::Geometry;
use super::grey::{self, Grey, Modality, Voi, VoiFunction};
use super::samples::Samples;
use super::{Limits, jpeg};
use crate::domain::{Digest, Refusal, RefusalCode};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xFF\xD8\xFF";
/// Of a file.
const BYTES_MAX: u64 = 1 << 30;

/// The picture in a file; `None` if it begins as neither PNG nor JPEG does.
pub fn read(path: &Path, limits: &Limits) -> Result<Option<Grey>, Refusal> {
    let Some(bytes) = bytes_of(path)? else { return Ok(None) };
    let picture = if bytes.starts_with(PNG) { read_png(bytes, limits) } else { read_jpeg(&bytes, limits) };
    picture.map(Some)
}

/// Rows and columns of the picture in a file, without decoding it; `None` as for [`read`].
pub fn size(path: &Path, limits: &Limits) -> Result<Option<(usize, usize)>, Refusal> {
    let Some(bytes) = bytes_of(path)? else { return Ok(None) };
    if bytes.starts_with(PNG) {
        let reader = open_png(bytes, limits)?;
        return Ok(Some((reader.info().height as usize, reader.info().width as usize)));
    }
    let (rows, columns) = jpeg::Picture::open(&bytes)?.size();
    check_size(rows, columns, limits)?;
    Ok(Some((rows, columns)))
}

/// The bytes of a file that begins as a picture does.
fn bytes_of(path: &Path) -> Result<Option<Vec<u8>>, Refusal> {
    let fail = |e: std::io::Error| failed(&format!("the file cannot be read: {e}"));
    let mut file = super::open_file(path)?;
    let mut bytes = vec![0; PNG.len()];
    if file.read_exact(&mut bytes).is_err() || !(bytes == PNG || bytes.starts_with(JPEG)) {
        return Ok(None);
    }
    file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Refusal::new(RefusalCode::TooLarge, format!("a picture file of more than {BYTES_MAX} bytes")));
    }
    Ok(Some(bytes))
}

/// Over size and grey values.
pub fn digest(grey: &Grey) -> Digest {
    let mut hash = blake3::Hasher::new();
    hash.update(&(grey.rows as u64).to_le_bytes()).update(&(grey.columns as u64).to_le_bytes());
    match &grey.stored {
        Samples::U8(v) => hash.update(b"8").update(v),
        other => hash.update(b"N").update(bytemuck::cast_slice(&other.values())),
    };
    Digest::from_hash(hash.finalize().as_bytes())
}

/// A picture whose header was read and whose size is within the limits.
fn open_png(bytes: Vec<u8>, limits: &Limits) -> Result<png::Reader<Cursor<Vec<u8>>>, Refusal> {
    let bytes_max = usize::try_from(limits.samples_max).unwrap_or(usize::MAX);
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: bytes_max });
    // Palettes to colours, fewer than eight bits to eight.
    decoder.set_transformations(png::Transformations::EXPAND);
    let reader = decoder.read_info().map_err(png_failed)?;
    check_size(reader.info().height as usize, reader.info().width as usize, limits)?;
    Ok(reader)
}

fn read_png(bytes: Vec<u8>, limits: &Limits) -> Result<Grey, Refusal> {
    let mut reader = open_png(bytes, limits)?;
    let (columns, rows) = (reader.info().width as usize, reader.info().height as usize);
    let (colour, depth) = reader.output_color_type();
    let length = reader.output_buffer_size().ok_or_else(|| failed("PNG: too large"))?;
    let mut raw = vec![0; length];
    reader.next_frame(&mut raw).map_err(png_failed)?;
    let samples = match depth {
        png::BitDepth::Sixteen => Samples::U16(raw.as_chunks::<2>().0.iter().map(|b| u16::from_be_bytes(*b)).collect()),
        _ => Samples::U8(raw),
    };
    let max = if depth == png::BitDepth::Sixteen { 65_535 } else { 255 };
    match colour {
        png::ColorType::Grayscale => Ok(grey(rows, columns, samples, max)),
        png::ColorType::Rgb => {
            let integers = samples.integers().unwrap_or_default();
            let luminance = integers.as_chunks::<3>().0.iter().map(|p| grey::luma(*p)).collect();
            Ok(grey(rows, columns, Samples::narrow(luminance), max))
        }
        _ => Err(Refusal::new(RefusalCode::UnsupportedFormat, "PNG: pictures with transparency are not supported")),
    }
}

fn read_jpeg(bytes: &[u8], limits: &Limits) -> Result<Grey, Refusal> {
    let picture = jpeg::Picture::open(bytes)?;
    let (rows, columns) = picture.size();
    check_size(rows, columns, limits)?;
    Ok(grey(rows, columns, Samples::U8(picture.luminance(bytes)?), 255))
}

fn check_size(rows: usize, columns: usize, limits: &Limits) -> Result<(), Refusal> {
    match (rows as u64).saturating_mul(columns as u64) {
        0 => Err(failed("the picture has no pixels")),
        pixels if pixels > limits.samples_max => {
            let detail = format!("the picture has {pixels} pixels, the limit is {}", limits.samples_max);
            Err(Refusal::new(RefusalCode::TooLarge, detail))
        }
        _ => Ok(()),
    }
}

fn grey(rows: usize, columns: usize, stored: Samples, max: i32) -> Grey {
    let max = f64::from(max);
    Grey {
        rows,
        columns,
        stored,
        stored_range: Some((0.0, max)),
        padding: None,
        modality: Modality::Linear { slope: 1.0, intercept: 0.0 },
        voi: Some(Voi::Window { center: max / 2.0, width: max, function: VoiFunction::LinearExact }),
        presentation: None,
        inverted: false,
        hounsfield: false,
        geometry: Geometry::default(),
        shapes: Ok(Vec::new()),
    }
}

fn png_failed(e: png::DecodingError) -> Refusal {
    failed(&format!("PNG: {e}"))
}

fn failed(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, format!("{detail:.200}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Frames, normalise_any_file};
    use super::*;
    use crate::domain::Contract;

    fn write(path: &Path, color: png::ColorType, depth: png::BitDepth, width: u32, height: u32, bytes: &[u8]) {
        let mut encoder = png::Encoder::new(std::fs::File::create(path).expect("a file"), width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder.write_header().and_then(|mut w| w.write_image_data(bytes)).expect("a picture");
    }

    fn seen(path: &Path, preset: &str) -> Result<Vec<f32>, Refusal> {
        let contracts = [Contract::preset(preset, 8).expect("a preset")];
        let found = normalise_any_file(path, &contracts, Frames::default(), &Limits::default())?;
        assert_eq!((found.inputs.len(), found.frames.as_slice()), (1, [1].as_slice()));
        Ok(found.inputs[0].plane.clone())
    }

    #[test]
    fn a_picture_is_seen_over_the_range_of_its_bits_and_colour_as_luminance() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("picture.png");
        let ramp: Vec<u8> = (0..64).map(|i| 2 * i).collect();
        write(&path, png::ColorType::Grayscale, png::BitDepth::Eight, 8, 8, &ramp);
        let unit = seen(&path, "xrv-1024").expect("a picture");
        for (value, code) in unit.iter().zip(&ramp) {
            assert!((value - (2.0 * f32::from(*code) / 255.0 - 1.0) * 1024.0).abs() < 1e-2);
        }
        assert_eq!(seen(&path, "minmax-unit").expect("a picture").last(), Some(&1.0));
        let wide: Vec<u8> = (0..64u16).flat_map(|i| (1000 * i).to_be_bytes()).collect();
        write(&path, png::ColorType::Grayscale, png::BitDepth::Sixteen, 8, 8, &wide);
        let unit = seen(&path, "xrv-1024").expect("a picture");
        assert!((unit[63] - (2.0 * 63_000.0 / 65_535.0 - 1.0) * 1024.0).abs() < 1e-2, "{}", unit[63]);
        let colour: Vec<u8> = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [90, 90, 90]].concat().repeat(16);
        write(&path, png::ColorType::Rgb, png::BitDepth::Eight, 8, 8, &colour);
        let unit = seen(&path, "xrv-1024").expect("a picture");
        for (value, luma) in unit.iter().zip([60.0, 117.0, 23.0, 90.0]) {
            assert!((value - (2.0 * luma / 255.0 - 1.0) * 1024.0).abs() < 1e-2, "{value} {luma}");
        }
    }

    #[test]
    fn what_cannot_be_read_whole_is_refused_and_what_is_no_picture_is_dicom() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("picture");
        write(&path, png::ColorType::Rgba, png::BitDepth::Eight, 1, 1, &[1, 2, 3, 4]);
        assert_eq!(seen(&path, "minmax-unit").expect_err("transparent").code, RefusalCode::UnsupportedFormat);
        write(&path, png::ColorType::Grayscale, png::BitDepth::Eight, 8, 8, &[7; 64]);
        let whole = std::fs::read(&path).expect("written");
        std::fs::write(&path, &whole[..whole.len() - 20]).expect("a file");
        assert_eq!(seen(&path, "minmax-unit").expect_err("cut").code, RefusalCode::DecodeFailed);
        std::fs::write(&path, b"\xFF\xD8\xFF\xE0 no picture at all").expect("a file");
        assert_eq!(seen(&path, "minmax-unit").expect_err("no JPEG").code, RefusalCode::DecodeFailed);
        write(&path, png::ColorType::Grayscale, png::BitDepth::Eight, 8, 8, &[7; 64]);
        let small = Limits { samples_max: 63, ..Limits::default() };
        assert!(read(&path, &small).is_err());
        std::fs::write(&path, b"text").expect("a file");
        assert_eq!(read(&path, &Limits::default()).expect("read"), None);
        assert!(seen(&path, "minmax-unit").is_err());
        // A side that the contract needs is nothing that a picture says.
        write(&path, png::ColorType::Grayscale, png::BitDepth::Eight, 8, 8, &[7; 64]);
        assert!(seen(&path, "mammo").is_err());
    }
}
