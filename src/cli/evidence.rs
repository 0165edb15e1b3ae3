//! `evidence …`: lines on what a clinical model relies on, over a site's patients.
//!
//! Left out: doing anything.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Table;

#[derive(Debug, Subcommand)]
pub enum Evidence {
    /// Whether what moves the race score of a changed image moves the clinical score with it
    ///
    /// Of the studies that the node sampled ([risk.evidence]), or of result.json files of `analyse --evidence`. Any model
    /// that scores images will do. Needs 50 patients; more is better.
    CoMovement(CoMovement),
    /// How well race can be read from a clinical model's features by a linear head
    ///
    /// FILE is a table (CSV) with the columns patient and group (self-reported) and one for each feature.
    Leakage(Leakage),
    /// Gradients of the finding and of race: how far they align, and what a step along a race head's gradient does
    ///
    /// TABLE (CSV) has the columns file, patient and group (self-reported); race heads need labels. Both models must run
    /// here and see the same part of an image at the same size, and the race model must show its features. Takes
    /// minutes for an image on a processor: some hundred images do.
    Gradients(Gradients),
    /// Write the features of a model for the images of a table, for `leakage`
    Features(FeaturesOf),
    /// Print lines, and what they come to for each finding
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        table: Table,
    },
}

/// Where lines go.
#[derive(Debug, Args)]
pub struct EvidenceOut {
    /// File of lines; where it is there already, its lines of the same kind and model are replaced and all others stay
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Seed of permutations and bootstrap
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct CoMovement {
    /// result.json files of `analyse --evidence`; without any, the node's index
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub results: Vec<PathBuf>,
    /// Whose studies they are (CSV: study, patient); without it each study counts as a patient's only one
    #[arg(long, value_name = "FILE", requires = "results")]
    pub labels: Option<PathBuf>,
    #[command(flatten)]
    pub out: EvidenceOut,
}

#[derive(Debug, Args)]
pub struct Leakage {
    /// Features of the clinical model
    #[arg(value_name = "FILE")]
    pub features: PathBuf,
    /// Its package
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// The same table of a network of the same kind that was never trained: the negative control, without which the line
    /// does not count
    #[arg(long, value_name = "FILE")]
    pub untrained: Option<PathBuf>,
    #[command(flatten)]
    pub out: EvidenceOut,
}

#[derive(Debug, Args)]
pub struct Gradients {
    /// Images: file (relative to the table), patient, group, and what --strata names
    #[arg(value_name = "TABLE")]
    pub images: PathBuf,
    /// Package of the clinical model
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Columns within whose values labels are exchanged, e.g. view,sex: what they have to do with race is not taken for it
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub strata: Vec<String>,
    /// Heads that are fitted to exchanged labels, which a head of the labels is compared with
    #[arg(long, value_name = "N", default_value_t = 39, value_parser = clap::value_parser!(u32).range(20..=9999))]
    pub heads: u32,
    /// Noisy copies of an image (SmoothGrad)
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub copies: u32,
    #[command(flatten)]
    pub out: EvidenceOut,
}

#[derive(Debug, Args)]
pub struct FeaturesOf {
    /// Images: file (relative to the table), patient, group
    #[arg(value_name = "TABLE")]
    pub images: PathBuf,
    /// Package of the model
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Of the same architecture with starting values in place of its weights (safetensors packages only)
    #[arg(long)]
    pub untrained: bool,
    /// Seed of the starting values
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u32,
    /// Table to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}
