//! Sequential DCT with 12-bit samples, one component (ISO/IEC 10918-1 Annex F, process 4): JPEG Extended.
//!
//! Written here since the decoder behind dicom-rs knows 8 bits only. The inverse DCT is computed in floating point
//! from its definition (A.3.3), so it differs from integer decoders by at most one in the last place. Left out:
//! 8-bit frames, colour, progressive and arithmetic coding.

use crate::domain::{Refusal, RefusalCode};

/// Zigzag order (ISO/IEC 10918-1 Figure A.6).
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Decodes a frame whose header was checked against `rows` and `columns` to samples in little endian, two bytes each.
///
/// `max` is the largest value of Bits Stored. Where that is less than 12 bits, compression may overshoot by a little,
/// which is cut off; values far beyond are an image of another depth and refused.
pub fn decode(frame: &[u8], rows: usize, columns: usize, max: u16) -> Result<Vec<u8>, Refusal> {
    let mut tables = Tables::default();
    let scan = tables.read(frame)?;
    let (wide, high) = (columns.div_ceil(8), rows.div_ceil(8));
    let quantisation = tables.quantisation[scan.quantisation].ok_or_else(|| failed("no quantisation table"))?;
    let (Some(dc), Some(ac)) = (&tables.huffman[scan.dc], &tables.huffman[4 + scan.ac]) else {
        return Err(failed("no Huffman table"));
    };
    let basis = basis();
    let mut bits = Bits { bytes: &frame[scan.start..], at: 0, held: 0, count: 0 };
    let mut samples = vec![0; rows * columns * 2];
    let (mut prediction, mut restarts_in) = (0, tables.restart_interval);
    for block in 0..wide * high {
        if tables.restart_interval > 0 {
            if restarts_in == 0 {
                bits.restart()?;
                (prediction, restarts_in) = (0, tables.restart_interval);
            }
            restarts_in -= 1;
        }
        let coefficients = read_block(&mut bits, dc, ac, &quantisation, &mut prediction)?;
        let pixels = inverse_dct(&coefficients, &basis);
        let (top, left) = (block / wide * 8, block % wide * 8);
        for y in 0..8.min(rows - top) {
            for x in 0..8.min(columns - left) {
                let value = (pixels[y * 8 + x] + 2048.5).clamp(0.0, 4095.0) as u16;
                if value > max + max / 16 {
                    return Err(failed("values exceed the bits stored"));
                }
                let value = value.min(max);
                let at = ((top + y) * columns + left + x) * 2;
                samples[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    Ok(samples)
}

fn failed(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, format!("JPEG with 12 bits: {detail}"))
}

/// What the marker segments before the scan define.
#[derive(Default)]
struct Tables {
    quantisation: [Option<[f32; 64]>; 4],
    /// Four DC tables, then four AC tables.
    huffman: [Option<Huffman>; 8],
    restart_interval: usize,
    /// Quantisation table of the component.
    component: usize,
}

struct Scan {
    /// Where the entropy-coded data starts.
    start: usize,
    quantisation: usize,
    dc: usize,
    ac: usize,
}

impl Tables {
    fn read(&mut self, frame: &[u8]) -> Result<Scan, Refusal> {
        let broken = || failed("the header breaks off");
        let mut at = 2;
        loop {
            while frame.get(at) == Some(&0xFF) && frame.get(at + 1) == Some(&0xFF) {
                at += 1;
            }
            let [_, marker, high, low] = *frame.get(at..).and_then(|b| b.first_chunk()).ok_or_else(broken)?;
            let length = usize::from(u16::from_be_bytes([high, low])).max(2);
            let segment = frame.get(at + 4..at + 2 + length).ok_or_else(broken)?;
            at += 2 + length;
            match marker {
                0xDB => self.quantisation(segment).ok_or_else(broken)?,
                0xC4 => self.huffman(segment).ok_or_else(broken)?,
                0xDD => self.restart_interval = segment.first_chunk().map_or(0, |b| u16::from_be_bytes(*b).into()),
                0xC1 => self.component = usize::from(segment.get(8).ok_or_else(broken)? & 3),
                0xDA => {
                    let [1, _, selector, ..] = *segment else {
                        return Err(failed("the scan has more than one component"));
                    };
                    let (dc, ac) = (usize::from(selector >> 4 & 3), usize::from(selector & 3));
                    return Ok(Scan { start: at, quantisation: self.component, dc, ac });
                }
                _ => {}
            }
        }
    }

    /// DQT (B.2.4.1).
    fn quantisation(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [head, rest @ ..] = segment {
            let size = if head >> 4 == 0 { 1 } else { 2 };
            let values = rest.get(..64 * size)?;
            let mut table = [0.0; 64];
            for (value, place) in values.chunks_exact(size).zip(ZIGZAG) {
                table[place] = value.iter().fold(0.0, |sum, b| sum * 256.0 + f32::from(*b));
            }
            self.quantisation[usize::from(head & 3)] = Some(table);
            segment = &rest[64 * size..];
        }
        Some(())
    }

    /// DHT (B.2.4.2).
    fn huffman(&mut self, mut segment: &[u8]) -> Option<()> {
        while let [head, rest @ ..] = segment {
            let counts: &[u8; 16] = rest.first_chunk()?;
            let total: usize = counts.iter().map(|c| usize::from(*c)).sum();
            let symbols = rest.get(16..16 + total)?;
            let class = usize::from(head >> 4 & 1);
            self.huffman[class * 4 + usize::from(head & 3)] = Some(Huffman::new(counts, symbols));
            segment = &rest[16 + total..];
        }
        Some(())
    }
}

/// A code table (Annex C) searched by length (F.2.2.3).
struct Huffman {
    /// Per code length: smallest code, number of codes, index of the first symbol.
    lengths: [(u32, u32, usize); 16],
    symbols: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Self {
        let (mut code, mut index) = (0, 0);
        let lengths = counts.map(|count| {
            let entry = (code, u32::from(count), index);
            code = (code + u32::from(count)) << 1;
            index += usize::from(count);
            entry
        });
        Self { lengths, symbols: symbols.to_vec() }
    }

    fn next(&self, bits: &mut Bits) -> Result<u8, Refusal> {
        let mut code = 0;
        for (first, count, index) in &self.lengths {
            code = code << 1 | bits.take(1)?;
            if let Some(offset) = code.checked_sub(*first).filter(|o| o < count) {
                return Ok(self.symbols[index + offset as usize]);
            }
        }
        Err(failed("a code that no table holds"))
    }
}

/// Entropy-coded data without its stuffed zero bytes (F.1.2.3).
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// The next bits, at most 16.
    fn take(&mut self, wanted: u32) -> Result<u32, Refusal> {
        while self.count < wanted {
            let byte = *self.bytes.get(self.at).ok_or_else(|| failed("the data breaks off"))?;
            self.at += 1;
            if byte == 0xFF {
                match self.bytes.get(self.at) {
                    Some(0) => self.at += 1,
                    _ => return Err(failed("the data ends before the image is complete")),
                }
            }
            self.held = self.held << 8 | u32::from(byte);
            self.count += 8;
        }
        self.count -= wanted;
        let value = self.held >> self.count & ((1 << wanted) - 1);
        Ok(value)
    }

    /// RECEIVE and EXTEND (F.2.2.1): a signed number of `size` bits.
    fn signed(&mut self, size: u32) -> Result<i32, Refusal> {
        if size == 0 {
            return Ok(0);
        }
        let value = self.take(size)? as i32;
        Ok(if value < 1 << (size - 1) { value - (1 << size) + 1 } else { value })
    }

    /// Passes over a restart marker, dropping the bits that fill the last byte.
    fn restart(&mut self) -> Result<(), Refusal> {
        (self.held, self.count) = (0, 0);
        match self.bytes.get(self.at..self.at + 2) {
            Some([0xFF, 0xD0..=0xD7]) => {
                self.at += 2;
                Ok(())
            }
            _ => Err(failed("a restart marker is missing")),
        }
    }
}

/// Coefficients of one block, dequantised, in natural order (F.2.2).
fn read_block(
    bits: &mut Bits,
    dc: &Huffman,
    ac: &Huffman,
    quantisation: &[f32; 64],
    prediction: &mut i32,
) -> Result<[f32; 64], Refusal> {
    let mut block = [0.0; 64];
    let size = u32::from(dc.next(bits)?);
    if size > 15 {
        return Err(failed("a coefficient of more than 15 bits"));
    }
    *prediction = prediction.wrapping_add(bits.signed(size)?);
    block[0] = *prediction as f32 * quantisation[0];
    let mut k = 1;
    while k < 64 {
        let symbol = ac.next(bits)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => break,
            _ => {
                k += run;
                let value = bits.signed(size)?;
                let place = *ZIGZAG.get(k).ok_or_else(|| failed("a block of more than 64 coefficients"))?;
                block[place] = value as f32 * quantisation[place];
                k += 1;
            }
        }
    }
    Ok(block)
}

/// C(u)/2 · cos((2x+1)uπ/16), row x, column u.
fn basis() -> [[f32; 8]; 8] {
    let mut basis = [[0.0; 8]; 8];
    for (x, row) in basis.iter_mut().enumerate() {
        for (u, value) in row.iter_mut().enumerate() {
            let c = if u == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
            let angle = (2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0;
            *value = (c / 2.0 * angle.cos()) as f32;
        }
    }
    basis
}

/// A.3.3, columns after rows.
fn inverse_dct(block: &[f32; 64], basis: &[[f32; 8]; 8]) -> [f32; 64] {
    let mut rows = [0.0; 64];
    for v in 0..8 {
        let line = &block[v * 8..v * 8 + 8];
        if line.iter().all(|c| *c == 0.0) {
            continue;
        }
        for x in 0..8 {
            rows[v * 8 + x] = line.iter().zip(&basis[x]).map(|(c, b)| c * b).sum();
        }
    }
    let mut pixels = [0.0; 64];
    for y in 0..8 {
        for v in 0..8 {
            for x in 0..8 {
                pixels[y * 8 + x] += basis[y][v] * rows[v * 8 + x];
            }
        }
    }
    pixels
}
