//! `studies …`: what the node has seen and done, from its index; works while the node runs.

use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::{Value, json};
use sidelight::config::Config;
use sidelight::domain::{Disclosure, StudyState, Uid};
use sidelight::report;
use sidelight::store::{Store, StudyDetail, StudyFilter, StudyRow};

use super::{print, print_json, table};

pub async fn list(config: &Config, state: Option<StudyState>, limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let rows = store.list_studies(StudyFilter { state, since: None }, limit).await?;
    if json {
        print_json(&rows.iter().map(row_value).collect::<Vec<_>>())?;
    } else {
        let lines = rows.iter().map(|r| {
            vec![
                r.study.to_string(),
                r.state.as_str().to_owned(),
                r.source.to_string(),
                r.last_at.format("%Y-%m-%d %H:%M:%S").to_string(),
                format!(
                    "{}{}",
                    r.instances,
                    if r.instances_refused > 0 { format!(" ({} refused)", r.instances_refused) } else { String::new() }
                ),
                r.level.map_or_else(String::new, |l| l.code().1.to_owned()),
                why(r),
            ]
        });
        print(&table(&["study", "state", "source", "last object (UTC)", "objects", "highest flag", "why"], lines))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn show(config: &Config, study: &Uid, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let detail = store.show_study(study).await?;
    let detail =
        detail.with_context(|| format!("study {study} is not known here; `studies list` shows those that are"))?;
    if json {
        print_json(&detail)?;
    } else {
        print(&describe(&detail))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn resend(config: &Config, study: &Uid) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let deliveries = store.resend(study, Utc::now()).await?;
    print(&format!("{deliveries} deliveries are due again; the running node sends them, or the next that starts"))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn requeue(config: &Config, study: &Uid) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    store.requeue(study, Utc::now()).await?;
    print("the study will be analysed again by the running node, or the next that starts")?;
    Ok(ExitCode::SUCCESS)
}

/// A row with its refusal as a word that can be filtered by.
fn row_value(row: &StudyRow) -> Value {
    let mut value = serde_json::to_value(row).unwrap_or(Value::Null);
    if let Some(refusal) = &row.refusal {
        value["refusal"] = json!(refusal.code);
        value["refusal_detail"] = json!(refusal.detail);
    }
    value
}

fn why(row: &StudyRow) -> String {
    match (&row.refusal, &row.error) {
        (Some(refusal), _) => refusal.to_string(),
        (None, Some(error)) => error.clone(),
        (None, None) if row.complete == Some(false) => "incomplete".into(),
        (None, None) => String::new(),
    }
}

fn describe(detail: &StudyDetail) -> String {
    let row = &detail.study;
    let mut text = format!(
        "Study     {}\nState     {}{}\nSource    {}\nArrived   {} to {} (UTC), revision {}\n",
        row.study,
        row.state.as_str(),
        if why(row).is_empty() { String::new() } else { format!(": {}", why(row)) },
        row.source,
        // Assembly of a revision can begin after its only object arrived.
        row.first_at.min(row.last_at).format("%Y-%m-%d %H:%M:%S"),
        row.last_at.format("%Y-%m-%d %H:%M:%S"),
        row.revision,
    );
    let objects = detail.instances.iter().map(|i| {
        let state = match &i.refusal {
            Some(refusal) => refusal.to_string(),
            None => format!("{:?}", i.state).to_lowercase(),
        };
        vec![i.sop_instance.to_string(), i.modality.clone().unwrap_or_default(), state]
    });
    text.push_str(&table(&["object", "modality", "state"], objects));
    text.push('\n');
    if let Some(assessment) = &detail.assessment {
        text.push_str(&report::render(assessment, Disclosure::Withheld));
        text.push('\n');
    }
    if !detail.deliveries.is_empty() {
        let lines = detail.deliveries.iter().map(|d| {
            vec![
                d.destination.clone(),
                d.report.to_string(),
                format!("{:?}", d.state).to_lowercase(),
                d.attempts.to_string(),
                d.last_error.clone().unwrap_or_default(),
            ]
        });
        text.push_str(&table(&["destination", "report", "state", "attempts", "last error"], lines));
    }
    text
}
