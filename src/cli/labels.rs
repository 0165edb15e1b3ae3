//! `labels …`: what is true of studies.
//!
//! Left out: doing anything.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Table;

#[derive(Debug, Subcommand)]
pub enum Labels {
    /// Import a table (CSV) of outcomes, self-reported groups, or both; what was imported before changes nothing
    ///
    /// Columns: study or accession, patient, group, instance (one line for each image), and one for each finding of the
    /// configured models, with 1, 0 or nothing. Lines that cannot be used, or contradict each other, are listed with the
    /// reason, and exit code 1 says that there are some; all others are imported. Labels are kept apart from scores,
    /// go with their study, and are in no log or report.
    Import(LabelsImport),
}

#[derive(Debug, Args)]
pub struct LabelsImport {
    /// The table
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Say what would be imported, and import nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What contradicts an earlier import takes its place
    #[arg(long)]
    pub replace: bool,
    /// Write the lines that are not imported here (CSV: line, reason)
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    #[command(flatten)]
    pub table: Table,
}
