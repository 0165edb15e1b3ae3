//! What one object may cost.

use serde::{Deserialize, Serialize};

use crate::config;
use crate::domain::{Contract, Refusal, RefusalCode};

/// Bytes of model inputs that one image may turn into: what a worker may send back.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 29;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Rows × columns × samples per pixel × frames that are decoded.
    pub samples_max: u64,
    /// Bytes of a deflated data set once it is inflated.
    pub inflate_bytes_max: u64,
}

impl Default for Limits {
    /// 2^28 samples: a mammogram is 2^24, a tomosynthesis series of it 2^30.
    fn default() -> Self {
        Self { samples_max: 1 << 28, inflate_bytes_max: 1 << 30 }
    }
}

impl From<&config::Pixels> for Limits {
    fn from(pixels: &config::Pixels) -> Self {
        Self { samples_max: pixels.samples_max, inflate_bytes_max: (pixels.memory_max / 2).min(1 << 30) }
    }
}

impl Limits {
    /// Whether the chosen frames, and what they become, stay within the limits.
    pub(super) fn check_output(&self, samples: usize, frames: usize, contracts: &[Contract]) -> Result<(), Refusal> {
        let decoded = (samples as u64).saturating_mul(frames as u64);
        if decoded > self.samples_max {
            let detail = format!("{frames} frames have {decoded} samples, pixels.samples_max is {}", self.samples_max);
            return Err(Refusal::new(RefusalCode::TooLarge, detail));
        }
        for contract in contracts {
            if let Some(fault) = contract.fault() {
                return Err(Refusal::new(RefusalCode::Inconsistent, format!("contract {}: {fault}", contract.name)));
            }
        }
        let bytes = output_bytes(frames, contracts);
        if bytes > OUTPUT_BYTES_MAX {
            let detail =
                format!("{frames} frames become {bytes} bytes of model input, the limit is {OUTPUT_BYTES_MAX}");
            return Err(Refusal::new(RefusalCode::TooLarge, detail));
        }
        Ok(())
    }
}

/// Bytes of the inputs of all contracts for so many frames.
pub(super) fn output_bytes(frames: usize, contracts: &[Contract]) -> u64 {
    contracts.iter().map(|c| c.len() as u64 * 4).fold(0u64, u64::saturating_add).saturating_mul(frames as u64)
}
