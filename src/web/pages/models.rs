//! The models and the profile in force: cards, digests, figures of validation.
//!
//! Figures by group stand in the package and in the profile, for those who judge them there; no page shows them.
//! Neighbours: `serve` tells what is loaded. Left out: packages that lie in the folder and are not used.

use std::sync::PoisonError;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::assess::Profile;
use crate::domain::{DigestOf, Purpose};
use crate::infer::Package;

use super::Pages;
use super::frame::{Frame, moment, page, plain};
use super::guard::Visitor;

#[derive(Template)]
#[template(path = "pages/models.html")]
struct ModelsPage {
    frame: Frame,
    models: Vec<Card>,
    profile: Option<ProfileCard>,
}

struct Card {
    name: String,
    facts: Vec<(&'static str, String)>,
    findings: Vec<(String, String)>,
    figures: Vec<(String, String)>,
    figures_left_out: bool,
    phantoms_only: bool,
}

struct ProfileCard {
    facts: Vec<(&'static str, String)>,
    findings: Vec<ProfileRow>,
}

struct ProfileRow {
    finding: String,
    model: String,
    threshold: String,
    studies: usize,
    speaks: String,
}

/// The page.
pub(super) async fn page_of(State(pages): State<Pages>, Extension(visitor): Extension<Visitor>) -> Response {
    let told = &pages.site.told;
    let packages = told.packages.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let profile = told.profile.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let groups: Vec<String> = packages.iter().flat_map(|p| p.groups().iter().map(|g| g.key.to_lowercase())).collect();
    let template = ModelsPage {
        frame: Frame::new(&pages, Some(&visitor), "/models", "Models and profile"),
        models: packages.iter().map(|package| card(package, &groups)).collect(),
        profile: profile.as_deref().map(profile_card),
    };
    page(StatusCode::OK, &template)
}

fn card(package: &Package, groups: &[String]) -> Card {
    let (identity, provenance) = (&package.identity, &package.provenance);
    let purpose = match package.purpose {
        Purpose::Race => "audit model",
        Purpose::Clinical => "clinical model",
    };
    let digest_of = match identity.digest_of {
        DigestOf::Weights => "SHA-256 of the weights",
        DigestOf::Card => "SHA-256 of the card",
    };
    let mut facts = vec![
        ("Purpose", purpose.to_owned()),
        ("Version", identity.version.clone()),
        ("Manufacturer", identity.manufacturer.clone()),
        (digest_of, identity.weights.to_string()),
        ("Digest of what else changes scores", package.scoring.to_string()),
        ("Input contract", identity.contract.clone()),
        ("Device UID", identity.device_uid.to_string()),
        ("Trained on", provenance.training_data.clone()),
        ("Intended use", provenance.intended_use.clone()),
        ("Limits", provenance.limits.clone()),
        ("Licence", provenance.license.clone()),
        ("Trained", provenance.date.clone().unwrap_or_default()),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    let facts = facts.into_iter().map(|(label, value)| (label, plain(&value))).collect();
    let of_a_group = |key: &String| {
        let key = key.to_lowercase();
        groups.iter().any(|group| key.contains(group.as_str()))
    };
    let shown = provenance.metrics.iter().filter(|(key, _)| !of_a_group(key));
    Card {
        name: plain(&identity.name),
        facts,
        findings: package
            .findings()
            .iter()
            .map(|f| (plain(&f.code.meaning), format!("{} %", f.threshold.get() * 100.0)))
            .collect(),
        figures: shown.map(|(key, value)| (plain(key), value.to_string())).collect(),
        figures_left_out: provenance.metrics.keys().any(of_a_group),
        phantoms_only: identity.phantoms_only,
    }
}

fn profile_card(profile: &Profile) -> ProfileCard {
    let day = |day: Option<chrono::NaiveDate>| day.map_or_else(|| "unknown".to_owned(), |d| d.to_string());
    let model = |key: &str| plain(key.split('#').next().unwrap_or_default());
    ProfileCard {
        facts: vec![
            ("Identifier", plain(&profile.id)),
            ("Site", plain(&profile.site)),
            ("Fitted", moment(profile.fitted_at)),
            ("Patients", profile.cohort.patients.to_string()),
            ("Studies", profile.cohort.studies.to_string()),
            ("Their dates", format!("{} to {}", day(profile.cohort.first_date), day(profile.cohort.last_date))),
            ("Margin δ", profile.delta.to_string()),
            ("Bootstrap draws", profile.bootstrap.to_string()),
            ("Audit model", profile.race_model.as_deref().map_or_else(|| "none".to_owned(), model)),
        ],
        findings: profile
            .findings
            .iter()
            .map(|f| ProfileRow {
                finding: plain(&f.finding),
                model: model(&f.model),
                threshold: format!("{} %", f.threshold * 100.0),
                studies: f.studies,
                speaks: match (&f.withheld, &f.curves) {
                    (Some(reason), _) => reason.code().1.to_owned(),
                    (None, Some(_)) => "yes".to_owned(),
                    (None, None) => "no".to_owned(),
                },
            })
            .collect(),
    }
}
