//! The parts of `pixels` that walk a data set and read its header, without those that decode.

#[path = "../../../src/pixels/dataset.rs"]
pub mod dataset;
#[path = "../../../src/pixels/header.rs"]
pub mod header;
#[path = "../../../src/pixels/hounsfield.rs"]
mod hounsfield;
#[path = "../../../src/pixels/inflate.rs"]
mod inflate;
#[path = "../../../src/pixels/prescan.rs"]
pub mod prescan;
#[path = "../../../src/pixels/slices.rs"]
mod slices;
#[path = "../../../src/pixels/view.rs"]
mod view;
#[path = "../../../src/pixels/wanted.rs"]
mod wanted;

/// The only limit that the walk asks for.
pub struct Limits {
    pub inflate_bytes_max: u64,
}
