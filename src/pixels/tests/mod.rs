//! Tests that cross the room's files: structures, pixel formats, value transforms, contracts, and the corpus of real
//! objects.

mod codestreams;
mod contract;
mod corpus;
mod formats;
mod invariance;
mod jpegxl;
mod mask;
pub(super) mod objects;
mod segmentation;
mod structure;
mod values;
