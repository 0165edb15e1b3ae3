//! `profile key|sign|check|diff|approve`: who may let a profile in, whether it fits what is deployed, what a new one changes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use serde_json::json;
use sidelight::analyse::{
    RacePrior, candidate_path, cards, previous_path, read_profile, read_trusted, read_whole, replace_profile,
    signature_path,
};
use sidelight::assess::{self, Deployed, Misfit, Profile, RiskSettings, SigningKey};
use sidelight::config::{Config, PrecisionChoice};
use sidelight::domain::{Precision, Purpose};
use sidelight::infer::{self, Package};

use super::{print, print_json, table};

/// Makes a key pair: the private key goes into `out`, which must not be there yet and which nobody else may read; the
/// public one is printed.
pub fn key(out: &Path) -> anyhow::Result<ExitCode> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let pkcs8 = pkcs8.map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    let pem = SigningKey::to_pem(pkcs8.as_ref());
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(out);
    file.and_then(|mut file| file.write_all(pem.as_bytes()))
        .with_context(|| format!("{} cannot be written; a key is never overwritten", out.display()))?;
    let public = SigningKey::parse(&pem)?.public();
    print(&public.to_string())?;
    eprintln!("the private key is in {}; write the public one into risk.profile_keys", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Signs a profile that is intact; the signature goes beside it.
pub fn sign(profile: &Path, key: &Path) -> anyhow::Result<ExitCode> {
    let (Profile { id, .. }, file) = read_whole(profile, &[])?;
    let key = signing_key(key)?;
    let place = signature_path(profile);
    fs::write(&place, key.sign(&id, &file).to_json())
        .with_context(|| format!("{} cannot be written", place.display()))?;
    print(&format!("{id} is signed with {}: {}", key.public(), place.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the node would use the profile as a whole; exit code 1 where it would refuse it or abstain by it.
pub fn check(config: &Config, profile: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let configured = config.risk.profile.as_deref();
    let path = profile.or(configured).context("name a profile; risk.profile names none")?;
    let (profile, trusted) = match read_trusted(path, &config.risk.profile_keys) {
        Ok(profile) => (profile, Ok(())),
        // One that is intact is looked at all the same.
        Err(error) => (read_profile(path)?, Err(format!("{error:#}"))),
    };
    let misfits = misfits(config, &profile)?;
    let fits = trusted.is_ok() && misfits.is_empty();
    let code = if fits { ExitCode::SUCCESS } else { ExitCode::from(1) };
    if json {
        let signature = match (&trusted, config.risk.profile_keys.is_empty()) {
            (Ok(()), true) => json!({"asked": false}),
            (Ok(()), false) => json!({"asked": true, "ok": true}),
            (Err(fault), _) => json!({"asked": true, "ok": false, "fault": fault}),
        };
        print_json(&json!({"profile": profile.id, "fits": fits, "signature": signature, "misfits": misfits}))?;
        return Ok(code);
    }
    if let Err(fault) = trusted {
        print(&fault)?;
    }
    print_misfits(&misfits)?;
    if fits {
        print(&format!("{} fits what is configured", profile.id))?;
    }
    Ok(code)
}

fn print_misfits(misfits: &[Misfit]) -> anyhow::Result<()> {
    if misfits.is_empty() {
        return Ok(());
    }
    let row = |m: &Misfit| {
        let what = m.finding.clone().unwrap_or_else(|| "all findings".into());
        vec![what, m.reason.code().0.to_owned(), m.text.clone()]
    };
    print(&table(&["what", "reason", "the profile"], misfits.iter().map(row)))
}

/// Prints what a new profile changes.
pub fn diff(old: &Path, new: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let diff = assess::diff(&read_profile(old)?, &read_profile(new)?);
    if json {
        print_json(&diff)?;
    } else {
        print(&assess::render_diff(&diff))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what the candidate beside the profile changes, and how it does not fit what is deployed; with its identifier, the
/// candidate takes the profile's place, one that does not fit only `anyway`. The profile that was stays beside it.
pub fn approve(config: &Config, id: Option<&str>, key: Option<&Path>, anyway: bool) -> anyhow::Result<ExitCode> {
    let path = config.risk.profile.as_deref().context("risk.profile names no profile")?;
    let place = candidate_path(path);
    anyhow::ensure!(place.exists(), "{} is not there: no candidate waits (risk.refit makes them)", place.display());
    let (candidate, bytes) = read_whole(&place, &[])?;
    let misfits = misfits(config, &candidate)?;
    let Some(id) = id else {
        match read_profile(path) {
            Ok(old) => print(&assess::render_diff(&assess::diff(&old, &candidate)))?,
            Err(error) => {
                print(&format!("{}\nthere is nothing to compare it with: {error:#}", assess::render(&candidate)))?
            }
        }
        print_misfits(&misfits)?;
        let flag = if misfits.is_empty() { "" } else { "--anyway " };
        print(&format!("to let it in: sidelight profile approve {flag}{}", candidate.id))?;
        return Ok(ExitCode::SUCCESS);
    };
    anyhow::ensure!(id == candidate.id, "the candidate is {} by now; look at it first", candidate.id);
    print_misfits(&misfits)?;
    anyhow::ensure!(misfits.is_empty() || anyway, "the node would abstain by it; --anyway lets it in all the same");
    let keys = &config.risk.profile_keys;
    let signature = match key {
        Some(key) => Some(signing_key(key)?).map(|key| key.sign(&candidate.id, &bytes)),
        None if keys.is_empty() => None,
        None => anyhow::bail!("risk.profile_keys asks for a signature: give --key"),
    };
    if let Some(signature) = signature.as_ref().filter(|_| !keys.is_empty()) {
        signature.verify(&bytes, keys)?;
    }
    let previous = previous_path(path);
    for (file, kept) in [(path.to_owned(), previous.clone()), (signature_path(path), signature_path(&previous))] {
        if file.exists() {
            fs::copy(&file, &kept).with_context(|| format!("{} cannot be written", kept.display()))?;
        }
    }
    replace_profile(path, &bytes, signature.as_ref())?;
    // A newer candidate, which nobody has seen, stays.
    if fs::read(&place).is_ok_and(|now| now == bytes) {
        fs::remove_file(&place).with_context(|| format!("{} cannot be removed", place.display()))?;
    }
    print(&format!("{} is the profile now; a running node takes it with a reload (SIGHUP)", candidate.id))?;
    Ok(ExitCode::SUCCESS)
}

fn signing_key(path: &Path) -> anyhow::Result<SigningKey> {
    let pem = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    SigningKey::parse(&pem).with_context(|| format!("key {}", path.display()))
}

/// Why the node would abstain with this profile.
pub fn misfits(config: &Config, profile: &Profile) -> anyhow::Result<Vec<Misfit>> {
    let models = &config.models;
    let race = models.race.iter().filter(|_| config.risk.per_study_inference);
    let names: Vec<String> = race.chain(&models.clinical).cloned().collect();
    let packages = infer::load_all(&models.dir, &names)?;
    let prior = models.race_prior.as_deref().map(RacePrior::read).transpose()?;
    let findings = packages.iter().flat_map(|package: &Package| {
        package.findings().iter().map(|f| (f.key.clone(), package.key(), f.threshold.get()))
    });
    // What a device computes in, of several that are allowed, shows once the models are loaded.
    let fp32 = models.precision == PrecisionChoice::Named(Precision::Fp32);
    let deployed = Deployed {
        findings: findings.collect(),
        race_model: packages.iter().find(|p| p.purpose == Purpose::Race).map(Package::key),
        cards: if fp32 { cards(&packages) } else { Default::default() },
        race_prior: prior.as_ref().and_then(RacePrior::digest).cloned(),
    };
    Ok(assess::misfits(profile, &deployed, &RiskSettings::from(&config.risk), Utc::now()))
}
