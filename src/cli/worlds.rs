//! Arguments of the commands that draw worlds with a known truth: `phantom` and `validate`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::{ImageSize, Table};
use crate::phantom::World;
use crate::validate::CLAIMS;

#[derive(Debug, Args)]
pub struct Phantom {
    /// What is planted: nothing, a finding that is fainter in one group, a shortcut, a confounded view, a drift, or what
    /// tells groups apart in one place alone
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(World::NAMES))]
    #[arg(required_unless_present = "world_file")]
    pub world: Option<String>,
    /// A world of one's own (TOML): the option `world` of a world.json shows its fields
    #[arg(long, value_name = "FILE", conflicts_with = "world")]
    pub world_file: Option<PathBuf>,
    /// Number of patients, each with one study
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub patients: u32,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Rows and columns, e.g. 640x512, or one number for both
    #[arg(long, value_name = "PX")]
    pub size: Option<ImageSize>,
}

#[derive(Debug, Args)]
pub struct Validate {
    /// Folder for report, tables and plots; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Run thousands of replicates in place of some dozens
    #[arg(long)]
    pub long: bool,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Worlds (TOML) in place of the built-in ones, with the same names
    #[arg(long, value_name = "FILE")]
    pub worlds: Option<PathBuf>,
    /// One kind of claim in place of all
    #[arg(long, value_name = "CLAIM", value_parser = PossibleValuesParser::new(CLAIMS))]
    pub only: Option<String>,
    #[command(flatten)]
    pub table: Table,
}
