//! The paper's experiments as named runs over a site's own labelled images.
//!
//! Neighbours: `stats` (what figures are made of). Left out here: everything but the models on tables, which answer
//! how much of a group is told by what is known of a patient without any image.

pub mod resample;
pub mod tabular;
