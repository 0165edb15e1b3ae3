//! `model …`: the packages in `models.dir`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};
use sidelight::config::Config;
use sidelight::domain::Purpose;
use sidelight::infer::{Elsewhere, Engine, EngineOptions, Package, export_package};
use sidelight::remote::Servers;

use super::{print, print_json, table};

/// Names of the folders that hold a card, sorted.
fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| {
        format!("models.dir {} cannot be read: set it to the folder of the packages", dir.display())
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.join("model.toml").is_file()
            && let Some(name) = path.file_name()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

pub fn list(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let mut values = Vec::new();
    for name in names(&config.models.dir)? {
        values.push(match Package::load(&config.models.dir.join(&name)) {
            Ok(p) => json!({
                "name": name, "version": p.identity.version, "purpose": p.purpose, "weights": p.identity.weights,
                "contract": p.contract.label(), "phantoms_only": p.identity.phantoms_only,
                "outputs": outputs(&p), "fault": null,
            }),
            Err(error) => json!({"name": name, "fault": error.to_string()}),
        });
    }
    if json {
        print_json(&values)?;
    } else {
        let text = |v: &Value, key: &str| v[key].as_str().unwrap_or("").to_owned();
        let rows = values.iter().map(|v| {
            let hash: String = text(v, "weights").chars().take(12).collect();
            let note = if v["phantoms_only"] == true { "phantoms only".to_owned() } else { text(v, "fault") };
            vec![
                text(v, "name"),
                text(v, "version"),
                text(v, "purpose"),
                hash,
                text(v, "contract"),
                text(v, "outputs"),
                note,
            ]
        });
        print(&table(&["name", "version", "purpose", "weights", "contract", "outputs", "note"], rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads each package, checks its hash and runs it once on the configured device. Fails if one is not fit.
pub fn verify(config: &Config, name: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => names(&config.models.dir)?,
    };
    anyhow::ensure!(!names.is_empty(), "no package in {}", config.models.dir.display());
    let mut fit = true;
    let mut rows = Vec::new();
    for name in names {
        let started =
            Package::load(&config.models.dir.join(&name)).map_err(|e| e.to_string()).and_then(|p| try_out(config, p));
        fit &= started.is_ok();
        let outcome = started.unwrap_or_else(|fault| fault);
        rows.push(vec![name, outcome]);
    }
    if json {
        print_json(&rows.iter().map(|r| json!({"name": r[0], "outcome": r[1]})).collect::<Vec<_>>())?;
    } else {
        print(&table(&["name", "hash, load, warm-up"], rows))?;
    }
    Ok(if fit { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Runs a package once where it runs; says that, or what is wrong.
fn try_out(config: &Config, package: Package) -> Result<String, String> {
    match &package.elsewhere {
        None => {
            let engine =
                Engine::start(vec![package], EngineOptions::from(&config.models)).map_err(|e| e.to_string())?;
            Ok(format!("ok on {}", engine.device()))
        }
        Some(Elsewhere::Server(server)) => {
            let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
            let asked =
                runtime.block_on(async { Servers::start(std::slice::from_ref(&package)).probe(&package.key()).await });
            asked.map(|()| format!("ok on {}", server.url)).map_err(|e| e.to_string())
        }
        Some(Elsewhere::Product(_)) => Ok("ok, results come from the product".to_owned()),
    }
}

/// Writes a package's network as TorchScript.
pub fn export(config: &Config, name: &str, out: &Path) -> anyhow::Result<ExitCode> {
    let package = Package::load(&config.models.dir.join(name))?;
    let digest = export_package(&package, out)?;
    print(&format!("{} of {} written, SHA-256 {digest}", out.display(), package.key()))?;
    Ok(ExitCode::SUCCESS)
}

fn outputs(package: &Package) -> String {
    match package.purpose {
        Purpose::Race => package.groups().iter().map(|g| g.key.as_str()).collect::<Vec<_>>().join(", "),
        Purpose::Clinical => package.findings().iter().map(|f| f.key.as_str()).collect::<Vec<_>>().join(", "),
    }
}
