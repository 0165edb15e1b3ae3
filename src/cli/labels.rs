//! `labels …`: what is true of studies.
//!
//! Left out: doing anything.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Table;

#[derive(Debug, Subcommand)]
pub enum Labels {
    /// Import outcomes, self-reported race and covariates; what was imported before changes nothing
    ///
    /// Takes tables (CSV), FHIR R4 resources (NDJSON, one on each line) and radiologists' DICOM Structured Reports, told
    /// apart by their content; docs/labels.md has the columns. What codes mean is said by --mapping, and nothing is
    /// guessed: what cannot be used, contradicts something, or may be about several studies is listed with the reason,
    /// and exit code 1 says that there is some; all else is imported. Labels are kept apart from scores, go with their
    /// study, and are in no log or report.
    Import(LabelsImport),
}

#[derive(Debug, Args)]
pub struct LabelsImport {
    /// Files that are imported together: resources of one may refer to those of another
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// What codes of FHIR resources and reports mean (TOML; conf/labels.toml explains it)
    #[arg(long, value_name = "FILE")]
    pub mapping: Option<PathBuf>,
    /// Days between a study and the date of a statement that names its patient alone; 0 for the same day
    ///
    /// Stands above window_days of the mapping; without either it is 1.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub window_days: Option<u32>,
    /// Say what would be imported, and import nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What contradicts an earlier import takes its place
    #[arg(long)]
    pub replace: bool,
    /// Write what is not imported here (CSV: file, line, reason)
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    #[command(flatten)]
    pub table: Table,
}
