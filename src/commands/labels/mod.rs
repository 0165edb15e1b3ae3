//! `labels import`: outcomes, self-reported race and covariates into the index, and out of it for a fit.
//!
//! Neighbours: `sources` reads the files, `results` understands them, `store` keeps what comes out.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::{Value, json};
use sidelight::analyse;
use sidelight::assess::Labelled;
use sidelight::cli::LabelsImport;
use sidelight::config::Config;
use sidelight::infer::{self, Package};
use sidelight::results::{Mapping, Reject, Vocabulary, agree};
use sidelight::store::{LabelOptions, LabelsImported, Store};

use super::{print, print_json, table};
use sources::Sources;

/// Faults that are printed in a table; `--rejects` and `--json` have them all.
const SHOWN_MAX: usize = 20;
/// Days of the window where neither the command nor the mapping says.
const WINDOW_DAYS: u32 = 1;
const MAPPING_BYTES_MAX: u64 = 4 << 20;

/// Imports all that can be used; exit code 1 if there is something else.
pub async fn import(config: &Config, options: &LabelsImport) -> anyhow::Result<ExitCode> {
    let packages = packages(config)?;
    let findings: Vec<String> = packages.iter().flat_map(Package::findings).map(|f| f.key.clone()).collect();
    let mapping = options.mapping.as_deref().map(|path| mapping(path, &findings)).transpose()?;
    let groups = analyse::group_names(&packages);
    let covariates = mapping.as_ref().map(Mapping::covariates).unwrap_or_default();
    let vocabulary = Vocabulary::new(findings, groups, &covariates);
    let of_mapping = mapping.as_ref().and_then(|m| m.window_days);
    let window_days = options.window_days.or(of_mapping).unwrap_or(WINDOW_DAYS);
    let store = Store::attach(&config.store).await?;
    let mut sources = Sources::new(&store, &vocabulary, mapping.as_ref(), window_days);
    let read = sources.read(config, &options.files).await;
    let imported = match read {
        Ok(()) => {
            let agreed = agree(std::mem::take(&mut sources.placed), &vocabulary);
            let take = LabelOptions { replace: options.replace, dry: options.dry_run };
            let imported = store.import_labels(&agreed.statements, &vocabulary, take, Utc::now()).await;
            sources.rejects.extend(agreed.rejects);
            sources.counts.passed_over += agreed.passed_over;
            imported.map_err(Into::into)
        }
        Err(error) => Err(error),
    };
    let Sources { mut rejects, counts, .. } = sources;
    store.close().await;
    let imported = imported?;
    rejects.extend(imported.rejects.iter().cloned());
    rejects.sort_by_key(|reject| reject.at);
    if let Some(path) = &options.rejects {
        write_rejects(path, &options.files, &rejects)?;
    }
    let code = if rejects.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    if options.table.json {
        print_json(&json!({"dry_run": options.dry_run, "window_days": window_days, "read": counts,
            "imported": {"outcomes": imported.outcomes, "groups": imported.groups, "covariates": imported.covariates,
                "known": imported.known, "studies_complete": imported.studies_complete},
            "rejected": rejected(&options.files, &rejects), "columns_unused": counts.columns_unused}))?;
    } else {
        tell(options, &counts, &imported, &rejects)?;
    }
    Ok(code)
}

fn tell(
    options: &LabelsImport,
    counts: &sources::Counts,
    imported: &LabelsImported,
    rejects: &[Reject],
) -> anyhow::Result<()> {
    if !counts.kinds.is_empty() {
        let rows = counts.kinds.iter().map(|(kind, n)| {
            vec![kind.clone(), n.read.to_string(), n.used.to_string(), n.read.saturating_sub(n.used).to_string()]
        });
        print(&table(&["read", "number", "say something", "not used"], rows))?;
    }
    if !rejects.is_empty() {
        let shown = rejects.iter().take(SHOWN_MAX);
        let rows = shown.map(|r| vec![name(&options.files, r), r.at.line.to_string(), r.reason.clone()]);
        print(&table(&["file", "line", "not imported, because"], rows))?;
        if rejects.len() > SHOWN_MAX {
            print(&format!("and {} more; --rejects writes them all", rejects.len() - SHOWN_MAX))?;
        }
    }
    if !counts.columns_unused.is_empty() {
        print(&format!("columns that are not used: {}", counts.columns_unused.join(", ")))?;
    }
    if counts.passed_over > 0 {
        print(&format!("{} statements are further from their study in time than another", counts.passed_over))?;
    }
    let complete = match options.dry_run {
        true => String::new(),
        false => format!("; {} studies have both by now", imported.studies_complete),
    };
    let nothing_new = imported.outcomes + imported.groups + imported.covariates == 0 && imported.known > 0;
    print(&format!(
        "{}{} outcomes, self-reports of {} studies and {} covariates are new, {} known before{}, {} rejected{complete}",
        if options.dry_run { "nothing is imported; it would be: " } else { "" },
        imported.outcomes,
        imported.groups,
        imported.covariates,
        imported.known,
        if nothing_new { " (all of it)" } else { "" },
        rejects.len(),
    ))
}

/// The file's name without its folder.
fn name(files: &[PathBuf], reject: &Reject) -> String {
    let file = files.get(reject.at.file as usize).and_then(|path| path.file_name());
    file.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn rejected(files: &[PathBuf], rejects: &[Reject]) -> Vec<Value> {
    rejects.iter().map(|r| json!({"file": name(files, r), "line": r.at.line, "reason": r.reason})).collect()
}

fn write_rejects(path: &Path, files: &[PathBuf], rejects: &[Reject]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_path(path).with_context(|| format!("{} cannot be written", path.display()))?;
    writer.write_record(["file", "line", "reason"])?;
    for reject in rejects {
        writer.write_record([&name(files, reject), &reject.at.line.to_string(), &reject.reason])?;
    }
    writer.flush().with_context(|| format!("{} cannot be written", path.display()))
}

fn mapping(path: &Path, findings: &[String]) -> anyhow::Result<Mapping> {
    let length = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?.len();
    anyhow::ensure!(length <= MAPPING_BYTES_MAX, "{} has more than {MAPPING_BYTES_MAX} bytes", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Mapping::parse(&text, findings).map_err(|faults| anyhow::anyhow!("{}: {}", path.display(), faults.join("; ")))
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
