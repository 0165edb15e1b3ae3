//! `studies …` and `results …`: what the node has received and done, and results that come from elsewhere.
//!
//! Left out: doing anything.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Table;
use super::values::study_states;
use crate::domain::{StudyState, Uid};

#[derive(Debug, Subcommand)]
pub enum Studies {
    /// List studies, the latest first
    List {
        /// Only studies in this state
        #[arg(long, value_name = "STATE", value_parser = study_states())]
        state: Option<StudyState>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        #[command(flatten)]
        table: Table,
    },
    /// Show one study: its images, scores, report and deliveries
    Show {
        /// Study Instance UID
        #[arg(value_name = "UID")]
        study: Uid,
        #[command(flatten)]
        table: Table,
    },
    /// Deliver current reports again: of one study, to one destination, or all that were given up
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
        .args(["study", "destination", "failed"]))]
    Resend {
        /// Study Instance UID; without one, every study
        #[arg(value_name = "UID")]
        study: Option<Uid>,
        /// Only to this destination
        #[arg(long, value_name = "NAME")]
        destination: Option<String>,
        /// Only what was given up
        #[arg(long)]
        failed: bool,
    },
    /// Close an open study now, with the images that are there
    Close {
        /// Study Instance UID
        #[arg(value_name = "UID")]
        study: Uid,
        /// It counts as complete, whatever study.required says
        #[arg(long)]
        complete: bool,
        /// It counts as incomplete
        #[arg(long, conflicts_with = "complete")]
        incomplete: bool,
    },
    /// Delete a study with its objects, scores and reports
    Purge {
        /// Study Instance UID
        #[arg(value_name = "UID")]
        study: Uid,
        /// Also one that is open, being delivered, or committed to be kept
        #[arg(long)]
        force: bool,
    },
    /// Show which destinations are up or down, and how many reports wait for each
    Destinations(Table),
    /// Analyse a study again from its stored images
    Requeue {
        /// Study Instance UID
        #[arg(value_name = "UID")]
        study: Uid,
    },
}

#[derive(Debug, Subcommand)]
pub enum Results {
    /// Import a table (CSV) of results, while the node runs or not; rows that were imported before change nothing
    ///
    /// Columns: study or accession, instance (optional), finding, score or label, time and version (optional). Rows
    /// that cannot be used are listed with the reason, and exit code 1 says that there are some; all others are
    /// imported.
    Import(ResultsImport),
}

#[derive(Debug, Args)]
pub struct ResultsImport {
    /// The table
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The package of format result-csv that it is of
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Say what would be imported, and import nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub table: Table,
}
