//! Why the node would abstain with a profile although it is intact: it is too old, or was fitted for something else than
//! what is deployed (method.md §1). Pure; the same rules as [`super::assess`] applies to each study, told all at once.
//!
//! Neighbours: the commands `check` and `profile check` print it. Left out: signatures (`signature`), and a drift alarm,
//! which is a reason of the study's day and not of the file (`AssessInput::upstream`).

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::RiskSettings;
use super::profile::{Profile, is_altered};
use crate::domain::{Digest, IndReason, Timestamp};

/// What is deployed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deployed {
    /// Each finding with the key of its model and its threshold.
    pub findings: Vec<(String, String, f64)>,
    /// Key of the race model; none where individuals are not assessed.
    pub race_model: Option<String>,
    /// By key of a model, the digest of what in its card changes scores, as far as it is known.
    pub cards: BTreeMap<String, Digest>,
    /// Digest of the site's mix by which posteriors are reweighed.
    pub race_prior: Option<Digest>,
}

/// What does not fit, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Misfit {
    /// The finding that it holds for; none: for all.
    pub finding: Option<String>,
    pub reason: IndReason,
    pub text: String,
}

/// Everything that does not fit; nothing: the profile is in force as a whole.
pub fn misfits(profile: &Profile, deployed: &Deployed, settings: &RiskSettings, now: Timestamp) -> Vec<Misfit> {
    let mut found = Vec::new();
    let mut add = |finding: Option<&str>, reason, text: String| {
        found.push(Misfit { finding: finding.map(str::to_owned), reason, text });
    };
    if aged(profile, settings, now) {
        let (date, days) = (profile.dated().date_naive(), (now - profile.dated()).num_days());
        let text = match days {
            ..0 => format!("is of {date}, which is still to come: set the clock, or fit it again"),
            _ => format!("knows of nothing after {date}, {days} days ago, risk.profile_age_max is less: fit it again"),
        };
        add(None, IndReason::Stale, text);
    }
    let altered = |model: &String| is_altered(model, &profile.cards, &deployed.cards);
    for entry in &profile.findings {
        let key = entry.finding.as_str();
        let text = match deployed.findings.iter().find(|(finding, ..)| *finding == entry.finding) {
            None if !deployed.findings.iter().any(|(_, model, _)| *model == entry.model) => {
                format!("was fitted for {}, which is not configured: fit a profile for the deployed model", entry.model)
            }
            None => format!("was fitted for {key}, which {} does not give any more: fit it again", entry.model),
            Some((_, model, _)) if *model != entry.model => {
                format!("{key} was fitted for {}, {model} is deployed: fit it again", entry.model)
            }
            Some((_, model, threshold)) if !entry.fits(model, *threshold) => {
                let then = entry.threshold;
                format!("was fitted for {key} with threshold {then}, the model's is another, {threshold}: fit it again")
            }
            Some(_) if altered(&entry.model) => {
                format!("{key} was fitted with another card of {}, whose scores are others: fit it again", entry.model)
            }
            Some(_) => continue,
        };
        add(Some(key), IndReason::Stale, text);
    }
    for (finding, model, _) in &deployed.findings {
        if !profile.findings.iter().any(|f| f.finding == *finding) {
            let text = format!("knows nothing of {finding} by {model}: fit it with that finding");
            add(Some(finding), IndReason::NoCal, text);
        }
    }
    individual(profile, deployed, settings, &altered).into_iter().for_each(|(reason, text)| add(None, reason, text));
    found
}

/// Whether it is too old, or of a time to come, so that nobody knows how old it is.
pub(super) fn aged(profile: &Profile, settings: &RiskSettings, now: Timestamp) -> bool {
    let age = now - profile.dated();
    let limit = settings.profile_age_max.and_then(|limit| TimeDelta::from_std(limit).ok());
    // Studies and clocks are not all of one time zone.
    limit.is_some_and(|limit| age > limit || age < -TimeDelta::days(1))
}

/// What keeps the node from saying anything of individuals.
fn individual(
    profile: &Profile,
    deployed: &Deployed,
    settings: &RiskSettings,
    altered: &dyn Fn(&String) -> bool,
) -> Vec<(IndReason, String)> {
    let mut found = Vec::new();
    let Some(race) = deployed.race_model.as_ref().filter(|_| settings.per_study_inference) else { return found };
    match &profile.race_model {
        None => found.push((
            IndReason::NoCal,
            "was fitted without race posteriors and says nothing of individuals: fit it with them".to_owned(),
        )),
        Some(fitted) if fitted != race => found.push((
            IndReason::Stale,
            format!("was fitted with the race model {fitted}, which is not configured: fit it again"),
        )),
        Some(fitted) if altered(fitted) => found
            .push((IndReason::Stale, format!("was fitted with another card of the race model {fitted}: fit it again"))),
        Some(_) => {}
    }
    if profile.race_prior != deployed.race_prior {
        let text = "was fitted with another models.race_prior: fit it again, or set that one".to_owned();
        found.push((IndReason::Stale, text));
    }
    found
}
