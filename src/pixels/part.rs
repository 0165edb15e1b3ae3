//! An image comes in parts: a few of its frames at a time, so that the memory of a long one has a bound, and several
//! workers can decode it.
//!
//! Both ends of the hand-over know how many frames a part has. Neighbours: `wire` and `child` (the way of a part),
//! `mod` (what makes one). Left out: which frames are chosen ([`Frames`](super::Frames)).

use serde::{Deserialize, Serialize};

use super::Normalised;
use super::limits::PART_BYTES;
use crate::domain::{Contract, Digest, ModelInput, Refusal, RefusalCode};

/// Frames of a part at most.
const FRAMES_MAX: usize = 8;

/// A frame that was decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenFrame {
    /// From 1.
    pub number: u32,
    /// BLAKE3 over rows, columns and samples per pixel (32 bits each), the kind of its stored values and these, all
    /// little endian. Kinds are U and S, unsigned and signed up to 16 bits (16 bits each), I, other integers (32 bits),
    /// and W, floating point and unsigned 32 bits (64 bits).
    pub digest: Digest,
}

/// Some of the chosen frames of an image, as models see them.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Frames of the image that were chosen, those of other parts among them.
    pub chosen: u32,
    /// In ascending order.
    pub frames: Vec<SeenFrame>,
    /// Per contract: one input per frame, or why the image cannot fulfil it.
    pub inputs: Vec<Result<Vec<ModelInput>, Refusal>>,
}

/// How many frames a part has, but for the last one.
pub fn frames_per_part(contracts: &[Contract]) -> usize {
    let frame = contracts.iter().map(|c| c.plane_len() as u64 * 4).fold(0, u64::saturating_add).max(1);
    usize::try_from(PART_BYTES / frame).unwrap_or(FRAMES_MAX).clamp(1, FRAMES_MAX)
}

/// The same for the same image in whatever lossless encoding: BLAKE3 over number (32 bits, little endian) and digest
/// (its hexadecimal digits) of each frame.
pub fn pixel_digest(frames: &[SeenFrame]) -> Digest {
    let mut hash = blake3::Hasher::new();
    for frame in frames {
        hash.update(&frame.number.to_le_bytes());
        hash.update(frame.digest.as_str().as_bytes());
    }
    Digest::from_hash(hash.finalize().as_bytes())
}

/// The image of all parts, in order; refused as soon as one contract is.
pub fn whole(parts: Vec<Part>) -> Result<Normalised, Refusal> {
    let frames: Vec<SeenFrame> = parts.iter().flat_map(|part| part.frames.iter().cloned()).collect();
    let mut by_contract: Vec<Vec<ModelInput>> = Vec::new();
    for part in parts {
        by_contract.resize(part.inputs.len(), Vec::new());
        for (all, some) in by_contract.iter_mut().zip(part.inputs) {
            all.extend(some?);
        }
    }
    Ok(Normalised {
        pixel_digest: pixel_digest(&frames),
        frames: frames.iter().map(|f| f.number).collect(),
        inputs: by_contract.into_iter().flatten().collect(),
    })
}

/// Where the parts after the first begin, or why this cannot be the first of an image.
pub fn further(first: &Part) -> Result<impl Iterator<Item = u32> + use<>, Refusal> {
    let step = first.frames.len();
    if step == 0 {
        return Err(Refusal::new(RefusalCode::DecodeFailed, "no frame of the image was chosen"));
    }
    Ok((step as u32..first.chosen).step_by(step))
}
