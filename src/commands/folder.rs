//! `backup` and `fsck`: the data folder as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use chrono::Utc;
use serde_json::json;
use sidelight::config::Config;
use sidelight::store::{self, FaultKind, Files, Fsck, Store};

use super::{print, print_json, table};

/// Faults of one kind that are printed in a table; JSON has them all.
const SHOWN_MAX: usize = 20;

pub async fn backup(config: &Config, dir: &Path, files: Files, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let done = store.backup(dir, files).await?;
    store.close().await;
    if json {
        print_json(&done)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{} files, {} bytes and the index are in {}", done.files, done.bytes, dir.display());
    if done.gone > 0 {
        text.push_str(&format!("; {} files went by their retention meanwhile, and are noted as gone", done.gone));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Exit code 1 while something is wrong.
pub async fn fsck(config: &Config, options: Fsck, json: bool) -> anyhow::Result<ExitCode> {
    let examined = store::fsck(&config.store, options, &config.node.ae_title, Utc::now()).await?;
    let code = if examined.is_faulty() { ExitCode::from(1) } else { ExitCode::SUCCESS };
    if json {
        print_json(&examined)?;
        return Ok(code);
    }
    let mut shown: BTreeMap<FaultKind, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    for fault in &examined.faults {
        let of_kind = shown.entry(fault.kind).or_default();
        *of_kind += 1;
        if *of_kind <= SHOWN_MAX {
            let state = if fault.repaired { "repaired" } else { "WRONG" };
            rows.push(vec![word(fault.kind), state.to_owned(), fault.what.clone(), fault.note.clone()]);
        }
    }
    for (kind, number) in shown.into_iter().filter(|(_, number)| *number > SHOWN_MAX) {
        let rest = format!("and {} more; --json lists them all", number - SHOWN_MAX);
        rows.push(vec![word(kind), String::new(), rest, String::new()]);
    }
    if !rows.is_empty() {
        print(&table(&["fault", "", "what", "note"], rows))?;
    }
    let read = if options.digests { format!(", {} bytes read", examined.bytes_read) } else { String::new() };
    let verdict = match (examined.faults.is_empty(), examined.is_faulty()) {
        (true, _) => "nothing is wrong",
        (false, false) => "everything is put right",
        (false, true) => "something is wrong",
    };
    if examined.damaged_files > 0 {
        let (files, bytes) = (examined.damaged_files, examined.damaged_bytes);
        print(&format!(
            "{files} files, {bytes} bytes are set aside in damaged/; look at them, and delete what nobody needs"
        ))?;
    }
    print(&format!("{} objects, {} reports{read}: {verdict}", examined.objects, examined.reports))?;
    Ok(code)
}

fn word(kind: FaultKind) -> String {
    json!(kind).as_str().unwrap_or_default().to_owned()
}
