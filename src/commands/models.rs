//! `model …`: the packages in `models.dir`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};
use sidelight::analyse::fresh_uid;
use sidelight::config::{Config, PrecisionChoice};
use sidelight::domain::{Precision, Purpose};
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
pub fn add(config: &Config, add: Add) -> anyhow::Result<ExitCode> {
    let staged = infer::stage(&Import {
        weights: &add.weights,
        card: &add.card,
        name: add.name.as_deref(),
        models_dir: &config.models.dir,
        device_uid: fresh_uid(),
    })?;
    let package = staged.package().clone();
    let engine = start(config, &package, false)?;
    if add.golden {
        write_golden(config, &staged.dir(), &package, engine.clone())?;
    } else if let Some(golden) = Golden::of(&package)? {
        let outcome = golden.compare(&package, &engine)?;
        anyhow::ensure!(
            outcome.is_within(),
            "{} does not answer as the golden values beside its card: {}; --golden writes them anew",
            package.key(),
            told(&outcome)
        );
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

/// Writes a package's golden values: as it answers now, or those of a supplier's file, which it has to answer.
pub fn golden(config: &Config, name: &str, from: Option<&Path>) -> anyhow::Result<ExitCode> {
    let _lock = infer::lock(&config.models.dir)?;
    let package = load(config, name)?;
    anyhow::ensure!(package.elsewhere.is_none(), "{name} is not run here: there is nothing to ask for golden values");
    let engine = start(config, &package, true)?;
    let device = engine.device().to_owned();
    if let Some(file) = from {
        let (supplied, bytes) = Golden::supplied(file, &package)?;
        let outcome = supplied.compare(&package, &engine)?;
        let (key, file_name) = (package.key(), file.display());
        anyhow::ensure!(outcome.is_within(), "{key} does not answer as {file_name} says: {}", told(&outcome));
        infer::keep_supplied(&package.dir, &bytes)?;
        print(&format!("golden values of {key} are those of {file_name}: {}", told(&outcome)))?;
        return Ok(ExitCode::SUCCESS);
    }
    write_golden(config, &package.dir, &package, engine)?;
    print(&format!("golden values of {} written, as it answers on {device} in fp32", package.key()))?;
    Ok(ExitCode::SUCCESS)
}

/// A package by its name, which is no path.
pub(super) fn load(config: &Config, name: &str) -> anyhow::Result<Package> {
    let mut packages = infer::load_all(&config.models.dir, &[name.to_owned()])?;
    packages.pop().with_context(|| format!("{name} is no package"))
}

/// The configured engine, or with `exact` the same in fp32.
fn start(config: &Config, package: &Package, exact: bool) -> anyhow::Result<Engine> {
    let mut options = EngineOptions::from(&config.models);
    if exact {
        options.precision = PrecisionChoice::Named(Precision::Fp32);
    }
    Ok(Engine::start(vec![package.clone()], options)?)
}

/// By the engine, if it runs in fp32, else by one that does.
fn write_golden(config: &Config, dir: &Path, package: &Package, engine: Engine) -> anyhow::Result<()> {
    let is_exact = engine.placements().iter().all(|p| p.precision == Precision::Fp32);
    let engine = if is_exact { engine } else { start(config, package, true)? };
    Ok(infer::write_golden(dir, package, &engine)?)
}

/// Loads each package, checks its hash, runs it on the configured device and compares it with its golden values. Fails
/// if one is not fit, or `require_golden` and one that runs here has no golden values.
pub async fn verify(config: &Config, name: Option<&str>, require_golden: bool, json: bool) -> anyhow::Result<ExitCode> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => names(&config.models.dir)?,
    };
    anyhow::ensure!(!names.is_empty(), "no package in {}", config.models.dir.display());
    let mut fit = true;
    let mut values = Vec::new();
    for name in names {
        let (outcome, verified) = match try_out(config, &name).await {
            Ok(outcome) => outcome,
            Err(fault) => {
                fit = false;
                (format!("{fault:#}"), Verified::Elsewhere)
            }
        };
        fit &= match &verified {
            Verified::Compared(golden) => golden.is_within(),
            Verified::Not => !require_golden,
            Verified::Elsewhere => true,
        };
        values.push((name, outcome, verified));
    }
    if json {
        let value = |(name, outcome, verified): &(String, String, Verified)| {
            let golden = if let Verified::Compared(golden) = verified { Some(golden) } else { None };
            json!({"name": name, "outcome": outcome, "golden": golden})
        };
        print_json(&values.iter().map(value).collect::<Vec<_>>())?;
    } else {
        let rows = values.into_iter().map(|(name, outcome, verified)| {
            let golden = match verified {
                Verified::Compared(golden) => told(&golden),
                Verified::Not => "not verified: no golden values".to_owned(),
                Verified::Elsewhere => String::new(),
            };
            vec![name, outcome, golden]
        });
        print(&table(&["name", "hash, load, warm-up", "golden values"], rows))?;
    }
    Ok(if fit { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What golden values say of a package.
enum Verified {
    Compared(GoldenOutcome),
    /// It has none.
    Not,
    /// It is not run here, or not at all.
    Elsewhere,
}

/// Where the package runs, and how far it is from its golden values, if it has some.
async fn try_out(config: &Config, name: &str) -> anyhow::Result<(String, Verified)> {
    let package = load(config, name)?;
    match &package.elsewhere {
        None => (),
        Some(Elsewhere::Server(server)) => {
            Servers::start(std::slice::from_ref(&package)).probe(&package.key()).await?;
            return Ok((format!("ok on {}", server.url), Verified::Elsewhere));
        }
        Some(Elsewhere::Product(_)) => {
            return Ok(("ok, results come from the product".to_owned(), Verified::Elsewhere));
        }
    }
    let engine = start(config, &package, false)?;
    let outcome = match Golden::of(&package)? {
        Some(golden) => Verified::Compared(golden.compare(&package, &engine)?),
        None => Verified::Not,
    };
    Ok((format!("ok on {}", engine.device()), outcome))
}

fn told(golden: &GoldenOutcome) -> String {
    let GoldenOutcome { device, images, devices, difference, tolerance, .. } = golden;
    let verdict = if golden.is_within() { "ok" } else { "DIFFERENT" };
    let weak = if golden.is_weak() { "; its answers lie so near each other that this proves little" } else { "" };
    let places = if *devices > 1 { format!(" of {devices} devices") } else { String::new() };
    format!(
        "{verdict} on {device}{places}: {difference:.1e} at most over {images} images ({tolerance:.0e} allowed){weak}"
    )
}

/// Writes a package's network as TorchScript.
pub fn export(config: &Config, name: &str, out: &Path) -> anyhow::Result<ExitCode> {
    let package = load(config, name)?;
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
