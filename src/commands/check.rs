//! `check`: is everything that `serve` needs in place? Nothing is changed.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;

use chrono::Utc;
use serde_json::json;
use sidelight::analyse::{candidate_path, read_evidence, read_profile, read_trusted};
use sidelight::config::{Config, open_to_others};
use sidelight::deliver;
use sidelight::domain::IndReason;
use sidelight::infer::{self, Elsewhere, Package};
use sidelight::receive;
use sidelight::remote::Servers;
use sidelight::web;
use sidelight::wire::tls::{self, Tls};

use super::{print, print_json, profiles, table};

/// One thing that was looked at.
struct Item {
    what: String,
    /// `Ok` with a remark, or what is wrong and what to do.
    outcome: Result<String, String>,
}

impl Item {
    fn new(what: impl Into<String>, outcome: Result<String, String>) -> Self {
        Self { what: what.into(), outcome }
    }
}

/// Checks models, profile, folders and ports; with `network` each destination by C-ECHO or QIDO-RS. Exit code 1 if
/// something is not in place.
pub async fn run(config: &Config, network: bool, json: bool) -> anyhow::Result<ExitCode> {
    let mut items = vec![Item::new("configuration", Ok("valid".into()))];
    items.extend(models(config));
    items.push(profile(config));
    items.extend(candidate(config));
    items.extend(evidence(config));
    items.push(Item::new("store.data_dir", folder(&config.store.data_dir)));
    for (key, address) in [("node.listen", config.node.listen), ("node.listen_tls", config.node.listen_tls)] {
        items.extend(address.map(|address| Item::new(key, port(address))));
    }
    items.extend(tls::examine(&config.tls, Utc::now()).into_iter().map(|found| Item::new(found.key, found.outcome)));
    if let Some(address) = config.web.listen {
        let remark = web::in_the_clear(config).map_or_else(String::new, |remark| format!("; {remark}"));
        items.push(Item::new("web.listen", port(address).map(|free| free + &remark)));
    }
    items.extend(config.web.listen_tls.map(|address| Item::new("web.listen_tls", port(address))));
    if config.web.dicomweb {
        items.push(Item::new("web_clients", web::check_clients(config).map_err(|e| format!("{e:#}"))));
    }
    if config.web.pages {
        items.push(Item::new("web_users", web::check_people(config).map_err(|e| format!("{e:#}"))));
    }
    if config.sources.is_empty() {
        items.push(Item::new("sources", Err("nobody may send: list the PACS under [[sources]]".into())));
    }
    for source in config.sources.iter().filter(|source| source.commitment && source.commitment_to.is_none()) {
        let remark = "without commitment_to: it hears the result only if its association is still open by then";
        items.push(Item::new(format!("commitment of source {}", source.ae_title), Ok(remark.into())));
    }
    for source in &config.sources {
        let Some(user) = &source.user else { continue };
        let outcome = receive::check_user(user).map(|()| "can be used".to_owned()).map_err(|e| e.to_string());
        items.push(Item::new(format!("user of source {}", source.ae_title), outcome));
    }
    for (key, path) in config.secret_files() {
        items.extend(open_to_others(&path).map(|remark| Item::new(key, Ok(remark))));
    }
    for destination in config.destinations.iter().filter(|_| network) {
        let outcome = match Tls::load(&config.tls, &config.sources) {
            Ok(tls) => deliver::probe(destination, &tls, &config.node.ae_title).await.map_err(|e| e.to_string()),
            Err(fault) => Err(fault.to_string()),
        };
        let outcome = outcome.map(str::to_owned);
        items.push(Item::new(format!("destination {}", destination.name), outcome));
    }
    if network {
        items.extend(servers(config).await);
    }
    let fit = items.iter().all(|i| i.outcome.is_ok());
    if json {
        let value = |i: &Item| match &i.outcome {
            Ok(note) => json!({"what": i.what, "ok": true, "note": note}),
            Err(fault) => json!({"what": i.what, "ok": false, "note": fault}),
        };
        print_json(&items.iter().map(value).collect::<Vec<_>>())?;
    } else {
        let rows = items.into_iter().map(|i| match i.outcome {
            Ok(note) => vec![i.what, "ok".into(), note],
            Err(fault) => vec![i.what, "NOT OK".into(), fault],
        });
        print(&table(&["what", "", "note"], rows))?;
    }
    Ok(if fit { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn models(config: &Config) -> Vec<Item> {
    let models = &config.models;
    if models.clinical.is_empty() {
        let fault = "names no model: there is nothing to audit without the deployed clinical model";
        return vec![Item::new("models.clinical", Err(fault.into()))];
    }
    models
        .race
        .iter()
        .chain(&models.clinical)
        .map(|name| {
            let loaded = Package::load(&models.dir.join(name));
            let outcome = loaded.map(|p| p.key()).map_err(|e| e.to_string());
            Item::new(format!("model {name}"), outcome)
        })
        .collect()
}

/// Model servers: whether each has what its card says.
async fn servers(config: &Config) -> Vec<Item> {
    let mut items = Vec::new();
    for name in &config.models.clinical {
        let Ok(package) = Package::load(&config.models.dir.join(name)) else { continue };
        let Some(Elsewhere::Server(server)) = &package.elsewhere else { continue };
        let asked = Servers::start(std::slice::from_ref(&package)).probe(&package.key()).await;
        let outcome = asked.map(|()| format!("{} answers", server.url)).map_err(|e| e.to_string());
        items.push(Item::new(format!("model server of {name}"), outcome));
    }
    items
}

/// The profile is valid and was fitted for the configured models.
fn profile(config: &Config) -> Item {
    let Some(path) = &config.risk.profile else {
        return Item::new("risk.profile", Ok("none: every finding will be indeterminate (IND-NOCAL)".into()));
    };
    let outcome = read_trusted(path, &config.risk.profile_keys).map_err(|e| format!("{e:#}")).and_then(|profile| {
        let misfits = profiles::misfits(config, &profile).map_err(|e| format!("{e:#}"))?;
        // A finding that the profile knows nothing of is indeterminate; the others are not touched by that.
        match misfits.into_iter().find(|m| m.reason != IndReason::NoCal) {
            Some(misfit) => Err(misfit.text),
            None => Ok(profile.id),
        }
    });
    Item::new("risk.profile", outcome)
}

/// The file of evidence holds lines for the configured models; none where no file is named.
fn evidence(config: &Config) -> Option<Item> {
    let path = config.risk.evidence.file.as_deref()?;
    let outcome = read_evidence(path).map_err(|e| format!("{e:#}")).and_then(|evidence| {
        let names: Vec<String> = config.models.race.iter().chain(&config.models.clinical).cloned().collect();
        let packages = infer::load_all(&config.models.dir, &names).map_err(|e| e.to_string())?;
        let known = |key: &String| packages.iter().any(|p| p.key() == *key);
        let lines = evidence.lines.iter().filter(|line| known(&line.model)).count();
        match known(&evidence.race_model) {
            true if lines > 0 => Ok(format!("{lines} lines on the configured models")),
            true => Err("no line is about a configured model: reports tell none of them".to_owned()),
            false => Err(format!("is about the race model {}, which is not configured", evidence.race_model)),
        }
    });
    Some(Item::new("risk.evidence.file", outcome))
}

/// A candidate for the profile's place, if one waits.
fn candidate(config: &Config) -> Option<Item> {
    let place = candidate_path(config.risk.profile.as_deref()?);
    let waits = |id| format!("{id} waits for a person: `sidelight profile approve` shows what it changes");
    let outcome = read_profile(&place).map(|profile| waits(profile.id)).map_err(|e| format!("{e:#}"));
    place.exists().then(|| Item::new("risk.refit", outcome))
}

/// Writable: proven by writing.
fn folder(dir: &Path) -> Result<String, String> {
    let existing = dir.ancestors().find(|a| a.as_os_str().is_empty() || a.exists()).unwrap_or(dir);
    let place = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let probe = place.join(format!(".sidelight-check-{}", std::process::id()));
    let written = fs::write(&probe, b"probe").and_then(|()| fs::remove_file(&probe));
    match written {
        Ok(()) if place == dir => Ok("writable".into()),
        Ok(()) => Ok(format!("will be made in {}", place.display())),
        Err(e) => Err(format!("{} is not writable: {e}", place.display())),
    }
}

fn port(address: SocketAddr) -> Result<String, String> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(format!("{address} is free")),
        Err(e) => Err(format!("{address} cannot be bound ({e}): is a node running already?")),
    }
}
