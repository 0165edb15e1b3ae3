//! `validate`: the flag in worlds with a known truth, as a folder of tables and plots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use sidelight::phantom::scores::ScoreWorld;
use sidelight::validate::{Form, ValidateOptions, validate};

use super::{print, print_json, table};

/// Where to, how much, and in which worlds.
pub struct Options {
    pub out: PathBuf,
    pub long: bool,
    pub seed: u64,
    pub worlds: Option<PathBuf>,
    pub only: Option<String>,
    pub json: bool,
}

/// Writes the report; exit code 1 where a claim does not hold.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let worlds = match &options.worlds {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
            ScoreWorld::parse(&text).map_err(|fault| anyhow::anyhow!("{}: {fault}", path.display()))?
        }
        None => ScoreWorld::all(),
    };
    fs::create_dir_all(&options.out).with_context(|| format!("{} cannot be made", options.out.display()))?;
    let form = if options.long { Form::Long } else { Form::Short };
    let bar = indicatif::ProgressBar::new_spinner();
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let validation = ValidateOptions { form, seed: options.seed, worlds, only: options.only.clone() };
    let report = validate(&validation, &|claim| {
        tracing::info!(claim, "validating");
        bar.set_message(claim.to_owned());
    });
    bar.finish_and_clear();
    let report = report?;
    for (name, text) in report.files() {
        write(&options.out.join(name), &text)?;
    }
    if options.json {
        print_json(&report)?;
    } else {
        let rows = report
            .checks()
            .map(|c| vec![c.verdict.as_str().into(), c.planted.clone(), c.must.clone(), c.found.clone()]);
        print(&table(&["", "planted", "must be seen", "found"], rows))?;
    }
    Ok(if report.missed().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
