//! What one object may cost: samples, inflated bytes, memory for one frame, bytes of model inputs.
//!
//! Neighbours: `layout` and `decode` refuse before they allocate, `sandbox` enforces what is left. Left out: time, and
//! the structure of a data set (`prescan`).

use serde::{Deserialize, Serialize};

use super::layout::{Layout, Photometric, PixelSource, SampleKind};
use super::part::frames_per_part;
use crate::config;
use crate::domain::{Contract, Refusal, RefusalCode};

/// Bytes of model inputs that a worker may send back at once: one frame in four of the largest contracts that there can be.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 28;
/// Bytes of a part of several frames. The node holds this for each part in flight, three ahead of the one that is being
/// scored among them, and once more in the hand-over memory of each worker.
pub const PART_BYTES: u64 = 1 << 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Rows × columns × samples per pixel × frames that are decoded.
    pub samples_max: u64,
    /// Bytes of a deflated data set once it is inflated.
    pub inflate_bytes_max: u64,
    /// Bytes that one frame may need on its way from the object to a model input, by an estimate from above.
    pub frame_bytes_max: u64,
}

impl Default for Limits {
    /// 2^28 samples: a mammogram is 2^24, a tomosynthesis series of it 2^30. Bytes as for a worker of 4 GiB.
    fn default() -> Self {
        Self { samples_max: 1 << 28, inflate_bytes_max: 1 << 30, frame_bytes_max: 1 << 31 }
    }
}

impl From<&config::Pixels> for Limits {
    fn from(pixels: &config::Pixels) -> Self {
        Self {
            samples_max: pixels.samples_max,
            inflate_bytes_max: (pixels.memory_max / 2).min(1 << 30),
            frame_bytes_max: pixels.memory_max / 2,
        }
    }
}

impl Limits {
    /// Whether so many frames of an image, and what a part of them becomes, stay within the limits.
    pub(super) fn check(&self, layout: &Layout, frames: usize, contracts: &[Contract]) -> Result<(), Refusal> {
        let decoded = (layout.samples() as u64).saturating_mul(frames as u64);
        if decoded > self.samples_max {
            let detail = format!("{frames} frames have {decoded} samples, pixels.samples_max is {}", self.samples_max);
            return Err(Refusal::new(RefusalCode::TooLarge, detail));
        }
        for contract in contracts {
            if let Some(fault) = contract.fault() {
                return Err(Refusal::new(RefusalCode::Inconsistent, format!("contract {}: {fault}", contract.name)));
            }
        }
        let bytes = output_bytes(frames.min(frames_per_part(contracts)), contracts);
        if bytes > OUTPUT_BYTES_MAX {
            let detail = format!("a frame becomes {bytes} bytes of model input, the limit is {OUTPUT_BYTES_MAX}");
            return Err(Refusal::new(RefusalCode::TooLarge, detail));
        }
        let bytes = frame_bytes(layout, contracts);
        if bytes > self.frame_bytes_max {
            let most = self.frame_bytes_max;
            let detail =
                format!("a frame takes about {bytes} bytes to decode, the limit is {most} (half of pixels.memory_max)");
            return Err(Refusal::new(RefusalCode::TooLarge, detail));
        }
        Ok(())
    }
}

/// What one frame takes at most at a time, from its bytes in the object to the largest input, by the copies that the
/// code makes. Small and fixed amounts are left out: the limit
/// is half of what there is.
fn frame_bytes(layout: &Layout, contracts: &[Contract]) -> u64 {
    let (pixels, samples) = (layout.pixels() as u64, layout.samples() as u64);
    let width = u64::from(layout.bits_allocated.div_ceil(8));
    let (raw, decoder) = match &layout.source {
        // as bytes where it must be unpacked or widened; words of 16 bits come block by block
        PixelSource::Native { .. } => (layout.native_frame_bytes() as u64, 0),
        PixelSource::Encapsulated { fragments, .. } => {
            let frames = u64::from(layout.frames).max(1);
            let largest = fragments.iter().map(|f| f.bytes).max().unwrap_or(0);
            let per_frame = (fragments.len() as u64).div_ceil(frames);
            let all = fragments.iter().map(|f| f.bytes).fold(0, u64::saturating_add);
            // JPEG 2000: a component and a tile of it in 32 bits; JPEG XL: channels in 32 bits, as they are coded,
            // reversed and filtered; others: coefficients, byte planes or bytes
            let working = match layout.transfer_syntax.rsplit('.').next() {
                Some("90" | "91" | "201" | "202" | "203") => 8,
                Some("110" | "111" | "112") => 12,
                _ => width.max(2),
            };
            // some frames are copied before they are decoded
            (2 * all.min(largest.saturating_mul(per_frame)), working * samples)
        }
    };
    let stored = match (layout.kind, width) {
        (SampleKind::Float, _) | (_, 4) => 8,
        (SampleKind::Signed, 1) => 2,
        _ => width,
    };
    // three samples become integers of 32 bits, one grey value of 32 and then of 16 bits; a palette does the same
    let colour =
        if samples > pixels || layout.photometric == Photometric::Palette { 4 * samples + 6 * pixels } else { 0 };
    let codes_and_values = (width + stored) * samples;
    let largest_input = contracts.iter().map(|c| 8 * c.plane_len() as u64).max().unwrap_or(0);
    // resizing keeps the source rows that become one row, and of an image that grows those of every row between two
    let open_rows = |c: &Contract, rows: u64, columns: u64| {
        let size = u64::from(c.size);
        size.min(2 * size / rows.max(1) + 2).saturating_mul(4 * columns)
    };
    let (rows, columns) = (u64::from(layout.rows), u64::from(layout.columns));
    let either_way = |c: &Contract| open_rows(c, rows, columns).max(open_rows(c, columns, rows));
    let resizing = contracts.iter().map(either_way).max().unwrap_or(0);
    // one byte for each pixel that a contract may mask
    let parts = [raw, decoder, codes_and_values, colour, pixels, resizing, largest_input];
    parts.into_iter().fold(0, u64::saturating_add)
}

/// Bytes of the inputs of all contracts for so many frames.
pub(super) fn output_bytes(frames: usize, contracts: &[Contract]) -> u64 {
    contracts.iter().map(|c| c.plane_len() as u64 * 4).fold(0u64, u64::saturating_add).saturating_mul(frames as u64)
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Span;
    use super::*;

    /// A 16-bit image of 1000 × 1000 pixels.
    fn layout() -> Layout {
        Layout {
            transfer_syntax: "1.2.840.10008.1.2.1".into(),
            rows: 1000,
            columns: 1000,
            frames: 1,
            samples_per_pixel: 1,
            photometric: Photometric::Monochrome2,
            bits_allocated: 16,
            bits_stored: 12,
            shift: 0,
            kind: SampleKind::Unsigned,
            planar: false,
            big_endian: false,
            source: PixelSource::Native { span: Span { offset: 0, bytes: 2_000_000 }, words: true },
        }
    }

    fn encapsulated(syntax: &str, fragments: &[u64], frames: u32) -> Layout {
        let fragments = fragments.iter().map(|bytes| Span { offset: 0, bytes: *bytes }).collect();
        let source = PixelSource::Encapsulated { fragments, offsets: Vec::new() };
        Layout { transfer_syntax: syntax.into(), frames, source, ..layout() }
    }

    #[test]
    fn a_frame_is_estimated_by_what_its_format_takes() {
        const M: u64 = 1_000_000;
        let rgb = Layout { samples_per_pixel: 3, photometric: Photometric::Rgb, bits_allocated: 8, ..layout() };
        let rows = [
            ("16 bits", layout(), 7 * M),
            ("8 bits", Layout { bits_allocated: 8, ..layout() }, 4 * M),
            ("32 bits", Layout { bits_allocated: 32, ..layout() }, 17 * M),
            ("float", Layout { bits_allocated: 64, kind: SampleKind::Float, ..layout() }, 25 * M),
            ("colour", rgb, (3 + 6 + 12 + 6 + 1) * M),
            ("palette", Layout { photometric: Photometric::Palette, ..layout() }, (7 + 4 + 6) * M),
            ("JPEG-LS", encapsulated("1.2.840.10008.1.2.4.80", &[M], 1), 9 * M),
            ("JPEG 2000", encapsulated("1.2.840.10008.1.2.4.90", &[M], 1), 15 * M),
            ("HTJ2K in parts", encapsulated("1.2.840.10008.1.2.4.201", &[M, M / 2], 1), 16 * M),
            ("JPEG XL", encapsulated("1.2.840.10008.1.2.4.110", &[M], 1), 19 * M),
            ("many frames", encapsulated("1.2.840.10008.1.2.4.80", &[M; 100], 100), 9 * M),
        ];
        for (name, layout, expected) in rows {
            assert_eq!(frame_bytes(&layout, &[]), expected, "{name}");
            let exact = Limits { frame_bytes_max: expected, ..Limits::default() };
            assert_eq!(exact.check(&layout, 1, &[]), Ok(()), "{name}");
            let below = Limits { frame_bytes_max: expected - 1, ..exact };
            let refusal = below.check(&layout, 1, &[]).expect_err(name);
            assert!(refusal.code == RefusalCode::TooLarge && refusal.detail.contains("pixels.memory_max"), "{refusal}");
        }
        let mammo = Contract::preset("mammo", 1024).expect("a preset");
        let rows_of_resize = 4 * (4 * 1000);
        assert_eq!(frame_bytes(&layout(), std::slice::from_ref(&mammo)), 7 * M + (8 << 20) + rows_of_resize);
        // one row, or one column, becomes 1024: each of them is open at the same time
        for (rows, columns) in [(1, 60_000), (60_000, 1)] {
            let thin = Layout { rows, columns, ..layout() };
            assert!(frame_bytes(&thin, std::slice::from_ref(&mammo)) > 1024 * 4 * 60_000, "{rows} × {columns}");
        }
    }

    #[test]
    fn a_part_of_any_preset_fits_and_no_contract_has_a_frame_larger_than_an_answer() {
        for (name, size, frames) in
            [("imagenet-rgb", 224, 8), ("xrv-1024", 1024, 4), ("mammo", 2048, 1), ("imagenet-rgb", 4096, 1)]
        {
            let contracts = [Contract::preset(name, size).expect("a preset")];
            assert_eq!(frames_per_part(&contracts), frames, "{name}@{size}");
            assert_eq!(Limits::default().check(&layout(), 100, &contracts), Ok(()), "{name}@{size}");
        }
        let large = Contract::PRESETS.map(|name| Contract::preset(name, 4096).expect("a preset"));
        assert!(Limits::default().check(&layout(), 1, &large).is_err(), "five times the largest");
    }
}
