//! What a model sees, as files for people: NumPy array and 8-bit grey picture. For `sidelight normalise`.

use std::io::{self, Write};

use crate::domain::{Contract, ModelInput};

/// Writes what the network is given as a NumPy array (format 1.0) of little endian floats, shape (channels, size, size).
pub fn write_npy(mut out: impl Write, input: &ModelInput, contract: &Contract) -> io::Result<()> {
    let (channels, size) = (contract.channels, contract.size);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({channels}, {size}, {size}), }}");
    // magic, version and length take ten bytes; the whole is a multiple of 64 and ends in a line feed
    let filled = (10 + header.len() + 1).next_multiple_of(64) - 11;
    header = format!("{header:filled$}\n");
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for value in contract.spread(&input.plane) {
        out.write_all(&value.to_le_bytes())?;
    }
    out.flush()
}

/// The input as 8-bit grey values, row by row: `low` of the contract is black, `high` is white.
pub fn grey_picture(input: &ModelInput, contract: &Contract) -> Vec<u8> {
    let unit = |v: &f32| (v - contract.low) / (contract.high - contract.low);
    input.plane.iter().map(|v| (unit(v).clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}

/// Writes the input as an 8-bit grey picture.
pub fn write_png(out: impl Write, input: &ModelInput, contract: &Contract) -> io::Result<()> {
    let bytes = grey_picture(input, contract);
    let mut encoder = png::Encoder::new(out, contract.size, contract.size);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&bytes)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> (ModelInput, Contract) {
        let contract = Contract::preset("xrv-1024", 8).expect("a preset");
        let plane = (0..64).map(|i| -1024.0 + 2048.0 * i as f32 / 63.0).collect();
        (ModelInput { contract: contract.digest(), plane }, contract)
    }

    #[test]
    fn the_array_has_an_aligned_header_and_every_value() {
        let (input, contract) = input();
        let mut bytes = Vec::new();
        write_npy(&mut bytes, &input, &contract).expect("memory takes every byte");
        let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!(((10 + header) % 64, bytes[9 + header]), (0, b'\n'));
        assert!(String::from_utf8_lossy(&bytes[10..10 + header]).contains("'shape': (1, 8, 8)"));
        let array = npyz::NpyFile::new(&bytes[..]).expect("an array");
        assert_eq!(array.into_vec::<f32>().expect("floats"), input.plane);
    }

    #[test]
    fn the_picture_runs_from_black_to_white() {
        let (input, contract) = input();
        let mut bytes = Vec::new();
        write_png(&mut bytes, &input, &contract).expect("memory takes every byte");
        let mut reader = png::Decoder::new(io::Cursor::new(bytes)).read_info().expect("a picture");
        let mut pixels = [1; 64];
        reader.next_frame(&mut pixels).expect("a frame");
        assert_eq!((pixels[0], pixels[63]), (0, 255));
        assert!(pixels.is_sorted());
    }
}
