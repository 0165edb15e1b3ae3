//! `profile prior`: the site's own mix of groups from the race scores that its node has.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use sidelight::analyse::{RacePrior, posterior};
use sidelight::config::Config;
use sidelight::infer::Package;
use sidelight::store::Store;

use super::{print, table};

/// Reads the race scores of every reported study, each logged as such, and writes the estimate. No posterior is printed
/// or written.
pub async fn estimate(
    config: &Config,
    out: &Path,
    trained: Option<&str>,
    studies_min: usize,
) -> anyhow::Result<ExitCode> {
    super::evidence::may_audit(config)?;
    let name = config.models.race.as_deref().context("models.race names no race model: there are no race scores")?;
    let race = Package::load(&config.models.dir.join(name))?;
    let trained = match (trained, &race.shares) {
        (Some(text), _) => shares(text, &race)?,
        (None, Some(shares)) => shares.clone(),
        (None, None) => anyhow::bail!(
            "the card of {name} does not say in what shares of the groups it was trained: give each of \
             [[output.groups]] its share, or name them with --trained"
        ),
    };
    let store = Store::attach(&config.store).await?;
    let studies = store.studies_of_race_model(&race.key()).await?;
    let mut posteriors = Vec::new();
    for study in &studies {
        let ready = store.ready_study_for(study, "an estimate of the site's mix of groups").await?;
        posteriors.extend(posterior(&race, &ready));
    }
    store.close().await;
    let prior = RacePrior::estimate(&race, &trained, &posteriors, studies_min, Utc::now())?;
    fs::write(out, prior.to_json()?).with_context(|| format!("{} cannot be written", out.display()))?;
    let percent = |share: &f64| format!("{:.1} %", share * 100.0);
    let rows = prior.groups.iter().zip(&prior.trained).zip(&prior.site);
    let rows = rows.map(|((group, trained), site)| vec![group.clone(), percent(trained), percent(site)]);
    print(&table(&["group", "trained on", "here"], rows))?;
    print(&format!(
        "estimated from {} studies; {} is used once models.race_prior names it, with a profile that was fitted with it",
        prior.studies,
        out.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Shares such as `Asian=0.1,Black=0.3,White=0.6`, in the order of the model's groups.
fn shares(text: &str, race: &Package) -> anyhow::Result<Vec<f64>> {
    let keys: Vec<&str> = race.groups().iter().map(|g| g.key.as_str()).collect();
    let wrong = || format!("--trained {text:?} is no list of shares of {}, such as {}=0.4", keys.join(", "), keys[0]);
    let given: Option<Vec<(&str, f64)>> = text
        .split(',')
        .map(|part| part.split_once('=').and_then(|(key, share)| Some((key.trim(), share.trim().parse().ok()?))))
        .collect();
    let given = given.filter(|g| g.len() == keys.len()).with_context(wrong)?;
    let share = |key: &&str| given.iter().find(|(k, _)| k == key).map(|(_, share)| *share);
    let shares: Vec<f64> = keys.iter().map(share).collect::<Option<_>>().with_context(wrong)?;
    let sum: f64 = shares.iter().sum();
    anyhow::ensure!(shares.iter().all(|s| *s > 0.0) && (sum - 1.0).abs() < 1e-3, "{}: they sum to {sum}", wrong());
    Ok(shares.iter().map(|s| s / sum).collect())
}
