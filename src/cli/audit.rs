//! `audit`: what the node has seen of a clinical model, by self-reported group.
//!
//! Left out: doing anything.

use std::path::PathBuf;

use chrono::NaiveDate;
use clap::Args;

#[derive(Debug, Args)]
pub struct Audit {
    /// First Study Date, e.g. 2026-03-01
    #[arg(long, value_name = "DATE")]
    pub from: NaiveDate,
    /// Last Study Date, that day included
    #[arg(long, value_name = "DATE")]
    pub to: NaiveDate,
    /// Folder of the report; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A difference of a rate below it does not matter: with it, equivalence is tested
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = margin)]
    pub margin: f64,
    /// Draws of the bootstrap, and permutations
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(200..=100_000))]
    pub draws: u64,
    /// Seed of draws
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Write result as JSON to standard output too
    #[arg(long)]
    pub json: bool,
}

/// A share above 0 and below 1.
fn margin(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "give a share above 0 and below 1, e.g. 0.05 for 5 percent".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_shares() {
        assert_eq!(margin("0.05"), Ok(0.05));
        for wrong in ["5", "0", "1", "-0.1", "nan", "inf", "five"] {
            assert!(margin(wrong).is_err(), "{wrong}");
        }
    }
}
