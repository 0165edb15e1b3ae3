//! Pixels: from the bytes of an untrusted object to what a model sees.
//!
//! ```text
//! file ─▶ prescan ─▶ header        identity, scope, what a report copies
//!            └─▶ layout ─▶ decode ─▶ grey ─▶ normalise ─▶ ModelInput, one per contract and frame
//! ```
//!
//! [`Workers`] runs all of it in sandboxed processes of the same binary, entered by [`worker_main`]; the caller's
//! process never parses a data set. [`read_header_file`] and [`normalise_file`] do the same in process, for trusted
//! files such as phantoms. `normalise` is pure. Neighbours: `domain` and `config` below, `analyse` above. Left out:
//! which models want an image (their packages' scope) and what is done with a refusal.

mod codestream;
mod dataset;
mod decode;
mod export;
mod geometry;
mod grey;
mod header;
mod jpeg12;
mod jpeg_colour;
mod layout;
mod limits;
mod lut;
mod normalise;
mod prescan;
mod process;
mod resize;
mod rle;
mod sandbox;
mod shutter;
mod slices;
mod view;
mod wanted;
mod wire;
mod worker;

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

pub use decode::DECODABLE_TRANSFER_SYNTAXES;
pub use export::{write_npy, write_png};
pub use limits::Limits;
pub use process::worker_main;
pub use slices::slice_order;
pub use worker::Workers;

use crate::domain::{Contract, Digest, InstanceHeader, ModelInput, Refusal, RefusalCode};
use decode::{Decoder, Samples};
use grey::Grey;

/// Which frames of a multi-frame image a model sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frames {
    First,
    /// Frame ⌊n/2⌋ + 1 of n.
    Middle,
    /// All up to a number; of more, that number evenly spaced, the first and the last among them.
    All {
        max: u32,
    },
}

/// An image as models see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalised {
    /// SHA-256 over rows, columns, samples per pixel and number of frames (32 bits each), then per frame its number
    /// and its stored values (32 bits each, 64 for floating point), all little endian: the same image in two
    /// lossless transfer syntaxes has the same digest.
    pub pixel_digest: Digest,
    /// Numbers of the frames that were decoded, from 1, ascending.
    pub frames: Vec<u32>,
    /// The inputs of the first contract, frame by frame, then those of the next.
    pub inputs: Vec<ModelInput>,
}

impl Normalised {
    /// The inputs that fulfil the contract with this digest, one per frame.
    pub fn of_contract<'a>(&'a self, contract: &'a Digest) -> impl Iterator<Item = &'a ModelInput> {
        self.inputs.iter().filter(move |input| input.contract == *contract)
    }
}

impl Default for Frames {
    /// Every frame of a cine loop or small volume; 32 of anything longer.
    fn default() -> Self {
        Frames::All { max: 32 }
    }
}

impl Frames {
    /// Indices, from 0, of the chosen frames of `count`.
    pub fn of(self, count: u32) -> Vec<u32> {
        match self {
            _ if count == 0 => Vec::new(),
            Frames::First => vec![0],
            Frames::Middle => vec![count / 2],
            Frames::All { max } if count <= max => (0..count).collect(),
            Frames::All { max: 0 | 1 } => vec![count / 2],
            Frames::All { max } => {
                let step = |i: u32| u64::from(i) * u64::from(count - 1) / u64::from(max - 1);
                (0..max).filter_map(|i| u32::try_from(step(i)).ok()).collect()
            }
        }
    }
}

/// Reads the header of a trusted file in this process.
pub fn read_header_file(path: &Path, limits: &Limits) -> Result<InstanceHeader, Refusal> {
    header::header_of(&prescan::scan(open(path)?, limits)?)
}

/// Decodes and normalises a trusted file in this process.
pub fn normalise_file(
    path: &Path,
    contracts: &[Contract],
    frames: Frames,
    limits: &Limits,
) -> Result<Normalised, Refusal> {
    let mut decoder = Decoder::new(prescan::scan(open(path)?, limits)?, limits)?;
    let layout = decoder.layout().clone();
    let chosen = frames.of(layout.frames);
    limits.check_output(layout.samples(), chosen.len(), contracts)?;
    let mut hash = sha2::Sha256::new();
    for number in [layout.rows, layout.columns, layout.samples_per_pixel.into(), chosen.len() as u32] {
        hash.update(number.to_le_bytes());
    }
    let mut by_contract: Vec<Vec<ModelInput>> = vec![Vec::new(); contracts.len()];
    for &index in &chosen {
        let frame = decoder.frame(index)?;
        hash.update((index + 1).to_le_bytes());
        hash_samples(&mut hash, &frame.samples);
        let grey = Grey::of(decoder.scan(), &layout, index, frame)?;
        for (inputs, contract) in by_contract.iter_mut().zip(contracts) {
            inputs.push(normalise::normalise(&grey, contract)?);
        }
    }
    Ok(Normalised {
        pixel_digest: Digest::from_hash(&hash.finalize()),
        frames: chosen.iter().map(|i| i + 1).collect(),
        inputs: by_contract.into_iter().flatten().collect(),
    })
}

fn open(path: &Path) -> Result<Box<dyn dataset::Source>, Refusal> {
    let fail = |e: std::io::Error| Refusal::new(RefusalCode::Malformed, format!("the file cannot be opened: {e}"));
    // asked before it is opened: opening a pipe would wait for its other end
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(Refusal::new(RefusalCode::Malformed, "not a regular file"));
    }
    Ok(Box::new(File::open(path).map_err(fail)?))
}

fn hash_samples(hash: &mut sha2::Sha256, samples: &Samples) {
    let mut block = Vec::with_capacity(1 << 16);
    match samples {
        Samples::Int(values) => values.chunks(1 << 14).for_each(|chunk| {
            block.clear();
            chunk.iter().for_each(|v| block.extend_from_slice(&v.to_le_bytes()));
            hash.update(&block);
        }),
        Samples::Wide(values) => values.chunks(1 << 13).for_each(|chunk| {
            block.clear();
            chunk.iter().for_each(|v| block.extend_from_slice(&v.to_le_bytes()));
            hash.update(&block);
        }),
    }
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
