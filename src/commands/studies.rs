//! `studies …`: what the node has seen and done, from its index; works while the node runs.

use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::{Value, json};
use sidelight::config::Config;
use sidelight::domain::{ClosedBy, Disclosure, Said, StudyState, Timestamp, Uid};
use sidelight::report;
use sidelight::store::{Activity, DestinationState, Resend, Store, StudyDetail, StudyFilter, StudyRow};

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
        let down: Vec<_> = store.destinations().await?.into_iter().filter(|d| !d.up || d.failed > 0).collect();
        if !down.is_empty() {
            print(&format!("\n{}", destination_table(&down)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn destinations(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let states = store.destinations().await?;
    if json {
        print_json(&states)?;
    } else {
        print(&destination_table(&states))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn destination_table(states: &[DestinationState]) -> String {
    let time = |at: Option<Timestamp>| at.map_or_else(String::new, |t| t.format("%Y-%m-%d %H:%M:%S").to_string());
    let lines = states.iter().map(|d| {
        vec![
            d.name.clone(),
            if d.up { "up".to_owned() } else { format!("down since {}", time(d.down_since)) },
            d.pending.to_string(),
            d.failed.to_string(),
            d.unconfirmed.to_string(),
            time(d.delivered_at),
            time(d.next_at),
            d.last_error.clone().unwrap_or_default(),
        ]
    });
    let header = [
        "destination",
        "state",
        "waiting",
        "given up",
        "uncommitted",
        "last report (UTC)",
        "next attempt",
        "last error",
    ];
    table(&header, lines)
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

pub async fn resend(config: &Config, which: Resend<'_>) -> anyhow::Result<ExitCode> {
    if let Some(name) = which.destination
        && !config.destinations.iter().any(|d| d.name == name)
    {
        anyhow::bail!("{name} is not a destination of this configuration; see [[destinations]]");
    }
    let store = Store::attach(&config.store).await?;
    let object = which.study.map_or_else(|| "all studies".to_owned(), |study| of(&store, study));
    let to = which.destination.map(|name| format!(" to {name}")).unwrap_or_default();
    let failed = if which.failed_only { ", what was given up" } else { "" };
    let told = told("resend", format!("{object}{to}{failed}"));
    let deliveries = store.resend_matching_as(which, Some(&told), Utc::now()).await?;
    print(&format!("{deliveries} deliveries are due again; the running node sends them, or the next that starts"))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn close(config: &Config, study: &Uid, complete: Option<bool>) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let how = complete.map_or("", |complete| if complete { " as complete" } else { " as incomplete" });
    let told = told("close", format!("{}{how}", of(&store, study)));
    store.close_by_hand_as(study, complete, Some(&told), Utc::now()).await?;
    print("the study will be closed by the running node, or the next that starts, with what has arrived by now")?;
    Ok(ExitCode::SUCCESS)
}

pub async fn purge(config: &Config, study: &Uid, force: bool) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let purged = store.purge(study, force).await?;
    print(&format!("deleted: {} objects, {} reports", purged.objects, purged.reports))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn requeue(config: &Config, study: &Uid) -> anyhow::Result<ExitCode> {
    let store = Store::attach(&config.store).await?;
    let told = told("analyse", of(&store, study));
    store.requeue_as(study, Some(&told), Utc::now()).await?;
    print("the study will be analysed again by the running node, or the next that starts")?;
    Ok(ExitCode::SUCCESS)
}

/// A study in the activity log.
fn of(store: &Store, study: &Uid) -> String {
    format!("study {}", store.log_id(study.as_str()))
}

/// A line of the activity log: whoever may read the data folder is asked for no name.
fn told(action: &str, object: String) -> Activity {
    Activity { user: "(command line)".into(), action: action.into(), object, outcome: "done".into() }
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
        (None, None) if !row.missing.is_empty() => format!("incomplete: missing {}", row.missing.join(", ")),
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
    if let Some(by) = row.closed_by.filter(|_| row.state != StudyState::Open) {
        let by = match by {
            ClosedBy::Quiet => "nothing arrived for the quiet period",
            ClosedBy::Cap => "the time limit (study.cap)",
            ClosedBy::Hand => "by hand",
        };
        let complete = if row.complete == Some(false) { "incomplete" } else { "complete" };
        text.push_str(&format!("Closed    {by}, {complete}\n"));
    }
    if row.instances_late > 0 {
        text.push_str(&format!(
            "Late      {} objects came after the report and are in none: `studies requeue` analyses them\n",
            row.instances_late
        ));
    }
    let objects = detail.instances.iter().map(|i| {
        let state = match &i.refusal {
            _ if i.late => "late".to_owned(),
            Some(refusal) => refusal.to_string(),
            None => format!("{:?}", i.state).to_lowercase(),
        };
        vec![i.sop_instance.to_string(), i.modality.clone().unwrap_or_default(), state]
    });
    text.push_str(&table(&["object", "modality", "state"], objects));
    text.push('\n');
    if !detail.results.is_empty() {
        let lines = detail.results.iter().map(|r| {
            let product = r.model.split('#').next().unwrap_or_default().to_owned();
            let said = |s: &Said| match (s.score, s.positive) {
                (Some(score), _) => format!("{} {:.1} %", s.finding, score.get() * 100.0),
                (None, Some(true)) => format!("{} positive", s.finding),
                (None, _) => format!("{} negative", s.finding),
            };
            let said = r.said.iter().map(said).collect::<Vec<_>>().join(", ");
            vec![product, r.received_at.format("%Y-%m-%d %H:%M:%S").to_string(), r.version.clone(), said]
        });
        text.push_str(&table(&["clinical result of", "arrived (UTC)", "version", "says"], lines));
        text.push('\n');
    }
    if let Some(assessment) = &detail.assessment {
        text.push_str(&report::render(assessment, &[], Disclosure::Withheld));
        text.push('\n');
    }
    if !detail.deliveries.is_empty() {
        let lines = detail.deliveries.iter().map(|d| {
            vec![
                d.destination.clone(),
                d.report.to_string(),
                format!("{:?}", d.state).to_lowercase(),
                d.attempts.to_string(),
                d.commitment.map_or_else(String::new, |c| format!("{c:?}").to_lowercase()),
                d.last_error.clone().or(d.commitment_error.clone()).unwrap_or_default(),
            ]
        });
        let header = ["destination", "report", "state", "attempts", "commitment", "last error"];
        text.push_str(&table(&header, lines));
    }
    text
}
