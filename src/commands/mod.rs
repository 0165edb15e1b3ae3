//! What each command does and prints: one file per subject, thin over the library.
//!
//! Tables go to standard output, progress and logs to standard error, so that output can be piped. Neighbours:
//! `main` dispatches here. Left out: argument types (`cli`) and every decision about studies.

pub mod analyse;
pub mod audit;
pub mod check;
pub mod cohort;
pub mod evidence;
pub mod folder;
pub mod gradients;
pub mod labels;
pub mod maps;
pub mod models;
pub mod ood;
pub mod people;
pub mod prior;
pub mod probe;
pub mod profiles;
pub mod results;
pub mod studies;
pub mod tools;
pub mod training;
pub mod validate;

use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

/// Writes one text to standard output; a reader that went away (a closed pipe) ends the program quietly.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}

/// Prints a value as indented JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value).context("the answer cannot be written as JSON")?)
}

/// A table for people.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// A progress bar on standard error; silent where that is not a terminal.
pub fn progress(total: u64, what: &'static str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg:12} {bar:32} {pos}/{len}  {elapsed} (about {eta} left)")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(total).with_style(style).with_message(what)
}

/// Writes a file and makes its folder.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let context = || format!("{} cannot be written", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(""))).with_context(context)?;
    std::fs::write(path, bytes).with_context(context)
}
