//! Whether the flag is right: worlds with a known truth are fitted and assessed as in the node, and every claim of
//! method.md §5 is judged against what is true.
//!
//! One file for each kind of claim, each a function from the worlds and the number of replicates to a [`Section`] with
//! checks, tables and plots; `scene` is the road to `assess`, `report` writes. Worlds come from `phantom::scores`, so
//! nothing here needs images. The same seed and form give the same report. Left out: files (the command writes them),
//! reliance on single images, and worlds that a real site may be: a truth that is not known cannot be compared with.

mod attack;
mod audit;
mod coverage;
mod drift;
mod flags;
mod null;
mod power;
mod reliance;
mod report;
mod scene;

use serde::Serialize;

use crate::phantom::scores::ScoreWorld;
use crate::plot::Lines;

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidateOptions {
    pub form: Form,
    pub seed: u64,
    /// The worlds, by the names that the built-in file uses.
    pub worlds: Vec<ScoreWorld>,
    /// One kind of claim, of [`CLAIMS`]; all where there is none.
    pub only: Option<String>,
}

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Seconds to a minute: finds what is broken. Its verdicts allow for the few replicates.
    Short,
    /// At least 1,000 null replicates: figures that can be quoted.
    Long,
}

/// Whether a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Pass,
    /// So many replicates cannot tell: what was found misses it, or is near it, and its limits allow both.
    Open,
    Miss,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Open => "open",
            Verdict::Miss => "MISS",
        }
    }

    /// Of a value that must not lie below `bound`, by its limits.
    fn at_least(bound: f64, (lower, upper): (f64, f64)) -> Self {
        if lower >= bound {
            Verdict::Pass
        } else if upper < bound {
            Verdict::Miss
        } else {
            Verdict::Open
        }
    }
}

impl From<bool> for Verdict {
    fn from(holds: bool) -> Self {
        if holds { Verdict::Pass } else { Verdict::Miss }
    }
}

/// One claim and what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Name for programs, the same in every version.
    pub key: &'static str,
    /// The worlds that it was judged in.
    pub planted: String,
    pub must: String,
    pub found: String,
    pub verdict: Verdict,
}

impl Check {
    fn of(key: &'static str, planted: &str, must: &str, found: String, verdict: impl Into<Verdict>) -> Self {
        Self { key, planted: planted.into(), must: must.into(), found, verdict: verdict.into() }
    }
}

/// A table of the report, and a CSV file of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    pub name: &'static str,
    pub title: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// A figure of the report, and an SVG file of its own.
#[derive(Debug, Clone, PartialEq)]
struct Plot {
    /// The file's name without its ending.
    name: &'static str,
    lines: Lines,
}

/// One kind of claim.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Section {
    pub title: &'static str,
    /// What was done, and what it means, in sentences.
    pub text: Vec<String>,
    pub checks: Vec<Check>,
    pub tables: Vec<Table>,
    #[serde(skip)]
    plots: Vec<Plot>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub sidelight: &'static str,
    pub form: Form,
    pub seed: u64,
    pub sections: Vec<Section>,
}

/// What the files of the claims need.
struct Bench<'a> {
    options: &'a ValidateOptions,
}

impl Bench<'_> {
    fn world(&self, name: &'static str) -> Result<&ScoreWorld, ValidateError> {
        self.options.worlds.iter().find(|w| w.name == name).ok_or(ValidateError::World(name))
    }

    /// One number for the short form, another for the long one.
    fn count(&self, short: usize, long: usize) -> usize {
        match self.options.form {
            Form::Short => short,
            Form::Long => long,
        }
    }

    /// The seed of a replicate; `part` keeps the claims apart.
    fn seed(&self, part: u64, replicate: usize) -> u64 {
        self.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (part << 40 | replicate as u64)
    }
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ValidateError {
    #[error("there is no world named {0:?}: the file of worlds needs one of each name of the built-in file")]
    World(&'static str),
    #[error("world {0:?} gives no profile: its groups are too small, or its scores constant")]
    Profile(String),
}

type Claim = fn(&Bench<'_>) -> Result<Section, ValidateError>;

/// The kinds of claims, in the order of the report.
pub const CLAIMS: [&str; 8] = ["null", "coverage", "flags", "power", "reliance", "audit", "drift", "disclosure"];
const RUN: [Claim; 8] =
    [null::run, coverage::run, flags::run, power::run, reliance::run, audit::run, drift::run, attack::run];

/// Runs the claims, on the current rayon pool; `progress` is told which one begins.
pub fn validate(options: &ValidateOptions, progress: &dyn Fn(&str)) -> Result<Report, ValidateError> {
    let bench = Bench { options };
    let wanted = |name: &&str| options.only.as_deref().is_none_or(|only| only == *name);
    let sections = CLAIMS
        .iter()
        .zip(RUN)
        .filter(|(name, _)| wanted(name))
        .map(|(name, claim)| {
            progress(name);
            claim(&bench)
        })
        .collect::<Result<_, _>>()?;
    Ok(Report { sidelight: env!("CARGO_PKG_VERSION"), form: options.form, seed: options.seed, sections })
}

/// Percent with one decimal.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Mean and standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    (values.iter().sum::<f64>() / n, crate::stats::standard_deviation(values) / n.sqrt())
}

#[cfg(test)]
mod tests;
