//! Tests that cross the room's files: structures, pixel formats, value transforms, contracts, and the corpus of real
//! objects.

mod codestreams;
mod contract;
mod corpus;
mod formats;
mod invariance;
mod jpegxl;
pub(super) mod objects;
mod structure;
mod values;
