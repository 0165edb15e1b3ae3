//! `labels import`: outcomes and self-reported groups into the index, and out of it for a fit.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::{Value, json};
use sidelight::analyse;
use sidelight::assess::Labelled;
use sidelight::cli::LabelsImport;
use sidelight::config::Config;
use sidelight::infer::{self, Package};
use sidelight::results::{RowFault, read_labels};
use sidelight::store::Store;

use super::{print, print_json, table};

/// Faults that are printed in a table; `--rejects` and `--json` have them all.
const SHOWN_MAX: usize = 20;
/// Larger files are refused by the reader.
const BYTES_MAX: u64 = (64 << 20) + 1;

/// Imports every line that can be used; exit code 1 if there are others.
pub async fn import(config: &Config, options: &LabelsImport) -> anyhow::Result<ExitCode> {
    let packages = packages(config)?;
    let findings: Vec<String> = packages.iter().flat_map(Package::findings).map(|f| f.key.clone()).collect();
    let groups: Vec<String> = packages.iter().flat_map(Package::groups).map(|g| g.key.clone()).collect();
    let mut bytes = Vec::new();
    let read = fs::File::open(&options.file).and_then(|f| f.take(BYTES_MAX).read_to_end(&mut bytes));
    read.with_context(|| format!("{} cannot be read", options.file.display()))?;
    let store = Store::attach(&config.store).await?;
    let known = store.known_studies().await?;
    let labels = read_labels(&bytes, &findings, &groups, &known)
        .map_err(|reason| anyhow::anyhow!("{}: {reason}", options.file.display()))?;
    let imported = store.import_labels(&labels.lines, options.replace, options.dry_run, Utc::now()).await?;
    store.close().await;
    let mut faults = [labels.faults, imported.faults.clone()].concat();
    faults.sort_by_key(|fault| fault.line);
    if let Some(path) = &options.rejects {
        write_rejects(path, &faults)?;
    }
    let code = if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    if options.table.json {
        let counts = json!({"outcomes": imported.outcomes, "groups": imported.groups, "known": imported.known,
            "studies_complete": imported.studies_complete});
        print_json(&json!({"dry_run": options.dry_run, "imported": counts, "rejected": faults,
            "columns_unused": labels.unused}))?;
        return Ok(code);
    }
    if !faults.is_empty() {
        let shown = faults.iter().take(SHOWN_MAX).map(|f| vec![f.line.to_string(), f.reason.clone()]);
        print(&table(&["line", "not imported, because"], shown))?;
        if faults.len() > SHOWN_MAX {
            print(&format!("and {} more; --rejects writes them all", faults.len() - SHOWN_MAX))?;
        }
    }
    if !labels.unused.is_empty() {
        print(&format!("columns that are not used: {}", labels.unused.join(", ")))?;
    }
    let complete = match options.dry_run {
        true => String::new(),
        false => format!("; {} studies have both by now", imported.studies_complete),
    };
    print(&format!(
        "{}{} outcomes and self-reports of {} studies are new, {} known before, {} rejected{complete}",
        if options.dry_run { "nothing is imported; it would be: " } else { "" },
        imported.outcomes,
        imported.groups,
        imported.known,
        faults.len(),
    ))?;
    Ok(code)
}

fn write_rejects(path: &Path, faults: &[RowFault]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_path(path).with_context(|| format!("{} cannot be written", path.display()))?;
    writer.write_record(["line", "reason"])?;
    for fault in faults {
        writer.write_record([fault.line.to_string().as_str(), fault.reason.as_str()])?;
    }
    writer.flush().with_context(|| format!("{} cannot be written", path.display()))
}

/// Scores of the studies that have labels, as a `result.json`, and the labels.
pub async fn indexed(config: &Config) -> anyhow::Result<(Value, Vec<Labelled>)> {
    let store = Store::attach(&config.store).await?;
    let found = analyse::labelled(config, &store).await;
    store.close().await;
    found
}

/// The packages of the configuration, the race model first where there is one.
fn packages(config: &Config) -> anyhow::Result<Vec<Package>> {
    let models = &config.models;
    let names: Vec<String> = models.race.iter().chain(&models.clinical).cloned().collect();
    anyhow::ensure!(!models.clinical.is_empty(), "models.clinical names no model: there are no findings to label");
    Ok(infer::load_all(&models.dir, &names)?)
}
