//! `model …`: the packages in `models.dir`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};
use sidelight::analyse::fresh_uid;
use sidelight::config::Config;
use sidelight::domain::Purpose;
use sidelight::infer::{
    self, Elsewhere, Engine, EngineOptions, Golden, GoldenOutcome, Import, Package, export_package,
};
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
        // What `model add` is building has a dot before its name.
        if path.join("model.toml").is_file()
            && let Some(name) = path.file_name().filter(|name| !name.to_string_lossy().starts_with('.'))
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

/// What becomes a package.
#[derive(Debug, Clone)]
pub struct Add {
    pub weights: PathBuf,
    pub card: PathBuf,
    pub name: Option<String>,
    pub golden: bool,
}

/// Builds a package aside, runs it on the configured device, and makes it visible if it is fit.
pub async fn add(config: &Config, add: Add) -> anyhow::Result<ExitCode> {
    let staged = infer::stage(&Import {
        weights: &add.weights,
        card: &add.card,
        name: add.name.as_deref(),
        models_dir: &config.models.dir,
        device_uid: fresh_uid(),
    })?;
    let package = staged.package().clone();
    let engine = Engine::start(vec![package.clone()], EngineOptions::from(&config.models))?;
    if add.golden {
        infer::write_golden(&staged.dir(), &package, &engine).await?;
    }
    let dir = staged.publish()?;
    let identity = &package.identity;
    let purpose = if package.purpose == Purpose::Race { "race" } else { "clinical" };
    print(&format!(
        "{} is in {} and ran on {}\npurpose {purpose}: {}\ncontract {}\nSHA-256 {}\nDevice UID {}\n\
         It is used once models.{purpose} names it.",
        package.key(),
        dir.display(),
        engine.device(),
        outputs(&package),
        identity.contract,
        identity.weights,
        identity.device_uid,
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a package's golden values as it answers now.
pub async fn golden(config: &Config, name: &str) -> anyhow::Result<ExitCode> {
    let package = Package::load(&config.models.dir.join(name))?;
    let engine = Engine::start(vec![package.clone()], EngineOptions::from(&config.models))?;
    infer::write_golden(&package.dir, &package, &engine).await?;
    print(&format!("golden values of {} written, as it answers on {}", package.key(), engine.device()))?;
    Ok(ExitCode::SUCCESS)
}

/// Loads each package, checks its hash, runs it on the configured device and compares it with its golden values. Fails
/// if one is not fit.
pub async fn verify(config: &Config, name: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => names(&config.models.dir)?,
    };
    anyhow::ensure!(!names.is_empty(), "no package in {}", config.models.dir.display());
    let mut fit = true;
    let mut values = Vec::new();
    for name in names {
        let (outcome, golden) = match try_out(config, &name).await {
            Ok(outcome) => outcome,
            Err(fault) => {
                fit = false;
                (format!("{fault:#}"), None)
            }
        };
        fit &= golden.as_ref().is_none_or(GoldenOutcome::is_within);
        values.push((name, outcome, golden));
    }
    if json {
        let value = |(name, outcome, golden): &(String, String, Option<GoldenOutcome>)| json!({"name": name, "outcome": outcome, "golden": golden});
        print_json(&values.iter().map(value).collect::<Vec<_>>())?;
    } else {
        let rows = values.into_iter().map(|(name, outcome, golden)| {
            let golden = golden.map_or_else(|| "none".to_owned(), |g| told(&g));
            vec![name, outcome, golden]
        });
        print(&table(&["name", "hash, load, warm-up", "golden values"], rows))?;
    }
    Ok(if fit { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Where the package runs, and how far it is from its golden values, if it has some.
async fn try_out(config: &Config, name: &str) -> anyhow::Result<(String, Option<GoldenOutcome>)> {
    let package = Package::load(&config.models.dir.join(name))?;
    match &package.elsewhere {
        None => (),
        Some(Elsewhere::Server(server)) => {
            Servers::start(std::slice::from_ref(&package)).probe(&package.key()).await?;
            return Ok((format!("ok on {}", server.url), None));
        }
        Some(Elsewhere::Product(_)) => return Ok(("ok, results come from the product".to_owned(), None)),
    }
    let engine = Engine::start(vec![package.clone()], EngineOptions::from(&config.models))?;
    let outcome = match Golden::of(&package)? {
        Some(golden) => Some(golden.compare(&package, &engine).await?),
        None => None,
    };
    Ok((format!("ok on {}", engine.device()), outcome))
}

fn told(golden: &GoldenOutcome) -> String {
    let GoldenOutcome { device, images, difference, tolerance } = golden;
    let verdict = if golden.is_within() { "ok" } else { "DIFFERENT" };
    format!("{verdict} on {device}: {difference:.1e} at most over {images} images ({tolerance:.0e} allowed)")
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
