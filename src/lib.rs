//! sidelight: a DICOM node that audits a deployed imaging AI for race-dependent error risk.
//!
//! ```text
//!  PACS ──C-STORE──▶ receive ──▶ store (spool + index) ──▶ ack
//!                                    │ wake-up
//!                         ┌──────────▼───────────┐   per image, on arrival
//!                         │ pixels: decode,      │
//!                         │ normalise            │──▶ infer: race model + clinical model, batched across studies
//!                         └──────────────────────┘                │ scores into the index
//!                                    assemble: is the study complete? ──▶ assess ──▶ report (SR) ──▶ deliver ──▶ PACS
//! ```
//!
//! Modules in reading order; imports go down only (ARCHITECTURE.md, checked by `tests/it/architecture.rs`).

pub mod domain;
pub mod plot;
pub mod stats;

pub mod config;
pub mod dicom;
pub mod perturb;
pub mod results;

pub mod store;
pub mod wire;

pub mod assemble;
pub mod assess;
pub mod deliver;
pub mod infer;
pub mod pixels;
pub mod receive;
pub mod report;

pub mod remote;

pub mod analyse;
pub mod audit;
pub mod phantom;
pub mod probe;
pub mod serve;
pub mod train;
pub mod validate;
pub mod web;

pub mod cli;
