//! Pixels: from the bytes of an untrusted object to what a model sees.
//!
//! ```text
//! file ─▶ prescan ─▶ header        identity, scope, what a report copies
//!            ├─▶ result        what a clinical product's own report says
//!            └─▶ layout ─▶ decode ─▶ grey ─▶ normalise ─▶ ModelInput, one per contract and frame
//! ```
//!
//! [`Workers`] runs all of it in sandboxed processes of the same binary, entered by [`worker_main`]; the caller's
//! process never parses a data set. [`read_header_file`] and [`normalise_file`] do the same in process, for trusted
//! files such as phantoms, [`normalise_any_file`] for PNG and JPEG too, and [`mask_file`] brings a mask of such an image
//! to where the image lies. `normalise` is pure. Neighbours: `domain` and `config` below, `analyse` above. Left out: which
//! models want an image (their packages' scope) and what is done with a refusal.

mod ahead;
mod child;
mod codestream;
mod dataset;
mod decode;
mod export;
mod geometry;
mod grey;
mod handover;
mod header;
mod hounsfield;
mod inflate;
mod jpeg;
mod jpeg2000;
mod jpeg_colour;
mod jpegls;
mod jpegxl;
mod layout;
mod limits;
mod lut;
mod mask;
mod normalise;
mod part;
mod picture;
mod prescan;
mod process;
mod resize;
mod result;
mod rle;
mod samples;
mod sandbox;
mod segmentation;
mod shutter;
mod slices;
mod system_calls;
mod unit;
mod view;
mod wanted;
mod wire;
mod worker;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use ahead::Parts;
pub use decode::DECODABLE_TRANSFER_SYNTAXES;
pub use export::{grey_picture, write_npy, write_png};
pub use limits::Limits;
pub use mask::mask_file;
pub use part::{Part, SeenFrame, pixel_digest};
pub use process::worker_main;
pub use samples::Samples;
pub use sandbox::{Attempt, Outcome, Protections};
pub use slices::slice_order;
pub use worker::Workers;

use crate::domain::{Contract, Digest, InstanceHeader, ModelInput, Refusal, RefusalCode, ReportRules, ResultDocument};
use decode::Decoder;
use grey::Grey;
use layout::Layout;

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
    /// See [`pixel_digest`].
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
    read_header_object(open(path)?, limits)
}

/// Reads what a trusted report says by each of these rules, in this process.
pub fn read_result_file(
    path: &Path,
    rules: &[ReportRules],
    limits: &Limits,
) -> Result<Vec<Result<ResultDocument, String>>, Refusal> {
    result::read_result_object(open(path)?, rules, limits)
}

/// Decodes and normalises a trusted file in this process.
pub fn normalise_file(
    path: &Path,
    contracts: &[Contract],
    frames: Frames,
    limits: &Limits,
) -> Result<Normalised, Refusal> {
    normalise_whole(|| open(path), contracts, frames, limits)
}

/// As [`normalise_file`], for PNG and JPEG files too, which training sets come as: one frame, seen over the full range of
/// its bits.
pub fn normalise_any_file(
    path: &Path,
    contracts: &[Contract],
    frames: Frames,
    limits: &Limits,
) -> Result<Normalised, Refusal> {
    let Some(grey) = picture::read(path, limits)? else { return normalise_file(path, contracts, frames, limits) };
    let inputs = contracts.iter().map(|contract| normalise::normalise(&grey, contract)).collect::<Result<_, _>>()?;
    Ok(Normalised { pixel_digest: picture::digest(&grey), frames: vec![1], inputs })
}

/// Every part of an object that can be opened again and again.
fn normalise_whole(
    open: impl Fn() -> Result<Box<dyn dataset::Source>, Refusal>,
    contracts: &[Contract],
    frames: Frames,
    limits: &Limits,
) -> Result<Normalised, Refusal> {
    let step = part::frames_per_part(contracts);
    let mut parts: Vec<Part> = Vec::new();
    loop {
        let from = parts.iter().map(|part| part.frames.len()).sum::<usize>();
        let mut inputs: Vec<Vec<ModelInput>> = vec![Vec::new(); contracts.len()];
        let mut keep = |contract: usize, _, input| {
            inputs[contract].push(input);
            Ok(())
        };
        let seen = normalise_object(open()?, contracts, frames, from as u32, limits, &mut keep)?;
        let outcome = |(inputs, refused): (_, Option<Refusal>)| refused.map_or(Ok(inputs), Err);
        let inputs = inputs.into_iter().zip(seen.refused).map(outcome).collect();
        parts.push(Part { chosen: seen.chosen, frames: seen.frames, inputs });
        if from + step >= seen.chosen as usize {
            return part::whole(parts);
        }
    }
}

/// The stored values of every frame of a trusted file, decoded in this process: what is compared with other readers.
pub fn stored_values_file(path: &Path, limits: &Limits) -> Result<Vec<Samples>, Refusal> {
    let mut decoder = Decoder::new(prescan::scan(open(path)?, limits)?, limits)?;
    let frames = decoder.layout().frames;
    limits.check(decoder.layout(), frames as usize, &[])?;
    (0..frames).map(|index| decoder.frame(index).map(|frame| frame.samples)).collect()
}

/// Reads the header of an open object.
fn read_header_object(object: Box<dyn dataset::Source>, limits: &Limits) -> Result<InstanceHeader, Refusal> {
    header::header_of(&prescan::scan(object, limits)?)
}

/// What a part of an image came to, besides its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    chosen: u32,
    frames: Vec<SeenFrame>,
    /// Per contract, why the image cannot fulfil it.
    refused: Vec<Option<Refusal>>,
}

/// Takes an input: the index of its contract, the number of values that lie before it where those of the part follow
/// one another, contract by contract.
type Take<'a> = dyn FnMut(usize, u64, ModelInput) -> Result<(), Refusal> + 'a;

/// Decodes and normalises the part of an open object that begins with the chosen frame of index `from`. Inputs are
/// given away as they come, frame by frame, so that those of one frame and contract exist here at a time.
fn normalise_object(
    object: Box<dyn dataset::Source>,
    contracts: &[Contract],
    frames: Frames,
    from: u32,
    limits: &Limits,
    take: &mut Take<'_>,
) -> Result<Seen, Refusal> {
    let mut decoder = Decoder::new(prescan::scan(object, limits)?, limits)?;
    let layout = decoder.layout().clone();
    let mut chosen = frames.of(layout.frames);
    if chosen.len() > 1 && chosen.len() < layout.frames as usize {
        // of a volume, what is spread evenly is its slices
        let order = slices::frame_order(&decoder.scan().root, layout.frames);
        chosen = chosen.into_iter().map(|place| order[place as usize]).collect();
        chosen.sort_unstable();
    }
    limits.check(&layout, chosen.len(), contracts)?;
    let part: Vec<u32> = chosen.iter().skip(from as usize).take(part::frames_per_part(contracts)).copied().collect();
    let mut seen = Seen { chosen: chosen.len() as u32, frames: Vec::new(), refused: vec![None; contracts.len()] };
    for (nth, &index) in part.iter().enumerate() {
        let frame = decoder.frame(index)?;
        seen.frames.push(SeenFrame { number: index + 1, digest: digest(&layout, &frame.samples) });
        let grey = Grey::of(decoder.scan(), &layout, index, frame)?;
        let mut before = 0;
        for (place, contract) in contracts.iter().enumerate() {
            let length = contract.plane_len();
            let at = (before + nth * length) as u64;
            before += part.len() * length;
            if seen.refused[place].is_some() {
                continue;
            }
            match normalise::normalise(&grey, contract) {
                Ok(input) => take(place, at, input)?,
                Err(refusal) => seen.refused[place] = Some(refusal),
            }
        }
    }
    Ok(seen)
}

fn open(path: &Path) -> Result<Box<dyn dataset::Source>, Refusal> {
    Ok(Box::new(open_file(path)?))
}

/// Opens an object for reading; what is no regular file is refused.
fn open_file(path: &Path) -> Result<File, Refusal> {
    let fail = |e: std::io::Error| Refusal::new(RefusalCode::Malformed, format!("the file cannot be opened: {e}"));
    let check = |metadata: std::fs::Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(Refusal::new(RefusalCode::Malformed, "not a regular file")),
    };
    // asked before it is opened, since opening a device may do something
    check(std::fs::metadata(path).map_err(fail)?)?;
    // and again afterwards, since the name may mean something else by then; a pipe does not wait for its other end
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(fail)?;
    check(file.metadata().map_err(fail)?)?;
    Ok(file)
}

/// Samples of 8 bits that are widened and hashed at a time: many leaves of BLAKE3's tree, and still in the cache.
const HASH_BLOCK: usize = 1 << 16;

/// See [`SeenFrame::digest`].
fn digest(layout: &Layout, samples: &Samples) -> Digest {
    let mut hash = blake3::Hasher::new();
    for number in [layout.rows, layout.columns, layout.samples_per_pixel.into()] {
        hash.update(&number.to_le_bytes());
    }
    let (kind, bytes) = match samples {
        Samples::U8(v) => {
            hash.update(b"U");
            for block in v.chunks(HASH_BLOCK) {
                let words: Vec<u16> = block.iter().map(|v| u16::from(*v)).collect();
                hash.update(bytemuck::cast_slice(&words));
            }
            return Digest::from_hash(hash.finalize().as_bytes());
        }
        Samples::U16(v) => (b'U', bytemuck::cast_slice(v)),
        Samples::I16(v) => (b'S', bytemuck::cast_slice(v)),
        Samples::Int(v) => (b'I', bytemuck::cast_slice(v)),
        Samples::Wide(v) => (b'W', bytemuck::cast_slice(v)),
    };
    hash.update(&[kind]);
    hash.update(bytes);
    Digest::from_hash(hash.finalize().as_bytes())
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
