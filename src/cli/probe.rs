//! `probe …`: the paper's experiments on a site's own images.
//!
//! Left out: doing anything.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Table;

#[derive(Debug, Subcommand)]
pub enum Probe {
    /// The catalogue: 29 experiments with their definitions and published figures
    List(Table),
    /// Run experiments on a cohort, or on a table of posteriors
    Run(Box<ProbeRun>),
    /// Make the report of a run: report.html, metrics.json, metrics.csv, predictions.parquet, plots/
    Report(ProbeReport),
    /// Bring shards of one run together
    ///
    /// Each was made with `probe run --shard`, in a folder of its own.
    Merge(ProbeMerge),
}

#[derive(Debug, Args)]
pub struct ProbeRun {
    /// Rows by name or number, as `probe list` has them, or all
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Table of images (CSV or Parquet): file, patient, group; study, split, mask and covariates where they are known
    #[arg(long, value_name = "FILE", required_unless_present = "predictions")]
    pub cohort: Option<PathBuf>,
    /// Table of posteriors in place of images: asian_pred, black_pred, …, race_ground_truth
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cohort", "retrain", "shard", "race", "clinical", "label"])]
    pub predictions: Option<PathBuf>,
    /// Folder of the run; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What the paper's code does, or what its text says
    #[arg(long, value_enum, default_value_t = ProbeMode::Corrected)]
    pub mode: ProbeMode,
    /// Ask the models that are there; what holds without --retrain
    #[arg(long, conflicts_with = "retrain")]
    pub test_only: bool,
    /// Train a network for each change and each row that the paper trained one for, too; needs --recipe
    #[arg(long, requires = "recipe")]
    pub retrain: bool,
    /// What is trained, e.g. models/recipes/chest-resnet34.toml; its [data] is the cohort's
    #[arg(long, value_name = "FILE", requires = "retrain")]
    pub recipe: Option<PathBuf>,
    /// Go on with the run in the folder
    #[arg(long)]
    pub resume: bool,
    /// Do one of several shares of the work, e.g. 1/4, in a folder of its own (`probe merge` brings them together)
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub shard: Option<(usize, usize)>,
    /// Race model in place of the configuration's; several for the row architectures
    #[arg(long, value_name = "MODEL")]
    pub race: Vec<String>,
    /// Clinical model in place of the configuration's; may be repeated
    #[arg(long, value_name = "MODEL")]
    pub clinical: Vec<String>,
    /// What the table calls a group of the race model; may be repeated
    #[arg(long, value_name = "TABLE'S=MODEL'S", value_parser = super::values::key_value)]
    pub group: Vec<(String, String)>,
    /// Column that says whether there is a disease; may be repeated. Without it all columns of 0, 1 and -1
    #[arg(long, value_name = "COLUMN")]
    pub label: Vec<String>,
    /// Seed of noise, folds and draws
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct ProbeReport {
    /// Folder of a run
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct ProbeMerge {
    /// Folders of the shards
    #[arg(value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
    /// Folder of the whole run; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProbeMode {
    #[value(name = "as_published")]
    AsPublished,
    #[value(name = "corrected")]
    Corrected,
}

/// `I/N`: the share I of N, from 1.
fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((i, n)) if (1..=n).contains(&i) && n <= 10_000 => Ok((i, n)),
        _ => Err("give the share and the number of shares, from 1/1 to 10000/10000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_from_one_to_their_number() {
        assert_eq!(shard("2/4"), Ok((2, 4)));
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0", "1/99999", "-1/2"] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }
}
