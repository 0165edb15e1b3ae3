//! The paper's experiments (Gichoya et al. 2022) on a site's own images and models, as named rows.
//!
//! [`run`] asks race and clinical models of every image of a cohort and of every change that the rows ask for, with the
//! node's own decoding, normalisation and inference, and keeps what they said; [`report`] makes figures, plots and a
//! page of that. Reading order: `catalogue`, `cohort` (with `tables`, `posteriors`), `variants`, `saliency`, `scoring`,
//! `files`, `lines`, `parts`, `vectors`, `manifest`, `answers`, `plan`, `run` (with `retrain`, `features`, `confounders`),
//! `merge`, `metrics`, `rows` (with `strata`), `pictures`, `drawings`, `page`.
//! Neighbours: `perturb` changes planes, `train` trains, `tabular` has models on tables. Left out: the index of the
//! node, and what a site does about what it finds.

mod answers;
mod catalogue;
mod cohort;
mod confounders;
mod drawings;
mod features;
mod files;
mod lines;
mod manifest;
mod merge;
mod metrics;
mod page;
mod parts;
mod pictures;
mod plan;
mod posteriors;
pub mod resample;
mod retrain;
mod rows;
#[cfg(test)]
mod rows_tests;
mod run;
mod saliency;
mod scoring;
mod strata;
mod tables;
pub mod tabular;
mod variants;
mod vectors;

pub use catalogue::{Published, ROWS, Row, Said};
pub use merge::merge;
pub use metrics::{Estimate, Level};
pub use page::{Report, report};
pub use plan::rows;
pub use rows::{Figure, Quantity};
pub use run::{Event, Options, Progress, Shard, of_posteriors, run};
