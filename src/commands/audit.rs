//! `audit`: reported studies of a span, with what is true of them and what people said, to the statistics and a report.
//!
//! Neighbours: `store` has the studies, the library's `audit` computes and writes. Left out: statistics.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use sidelight::analyse;
use sidelight::audit::{self, Dataset, Finding, Scored, SelfReport, Study};
use sidelight::cli::Audit;
use sidelight::config::Config;
use sidelight::domain::{Digest, Purpose, RacePosterior};
use sidelight::infer;
use sidelight::results::{DECLINED, GroupName, Standing, UNKNOWN};
use sidelight::store::{AuditOutput, AuditStudy, AuditTable, Store};

use super::evidence::may_audit;
use super::{print, print_json, table as table_of, write};

pub async fn run(config: &Config, options: &Audit) -> anyhow::Result<ExitCode> {
    may_audit(config)?;
    anyhow::ensure!(options.from <= options.to, "--from {} is after --to {}", options.from, options.to);
    let names: Vec<String> = config.models.race.iter().chain(&config.models.clinical).cloned().collect();
    let packages = infer::load_all(&config.models.dir, &names)?;
    let race = packages.iter().find(|p| p.purpose == Purpose::Race);
    let groups = race.map(|_| analyse::group_names(&packages));
    let store = Store::attach(&config.store).await?;
    let bar = indicatif::ProgressBar::new_spinner().with_message("studies that were reported before facts were kept");
    let completed = analyse::complete_facts(config, &store, &|done| bar.set_position(done)).await?;
    bar.finish_and_clear();
    if completed > 0 {
        tracing::info!(studies = completed, "facts of studies that were reported before were put together");
    }
    let with_race = race.is_some() && config.risk.per_study_inference;
    let table = store.audit_table(options.from, options.to, with_race).await?;
    store.close().await;
    anyhow::ensure!(
        !table.studies.is_empty(),
        "no reported study has a Study Date from {} to {}: `sidelight studies list` shows what there is",
        options.from,
        options.to
    );
    let current: Vec<String> = packages.iter().map(|p| p.key()).collect();
    let dataset = dataset(&table, groups, race.filter(|_| with_race).map(|p| p.key()), &current)?;
    let wanted = audit::Options {
        draws: options.draws,
        seed: options.seed,
        gaps: audit::GapOptions {
            draws: options.draws,
            seed: options.seed,
            margin_rate: options.margin,
            ..audit::Options::default().gaps
        },
        ..audit::Options::default()
    };
    let bar = indicatif::ProgressBar::new_spinner().with_message(format!("{} studies", table.studies.len()));
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let found = audit::audit(&dataset, &wanted);
    bar.finish_and_clear();
    let about = audit::About {
        from: options.from,
        to: options.to,
        sidelight: env!("CARGO_PKG_VERSION").to_owned(),
        data: digest(&table),
        models: current,
        undated: Some(table.undated).filter(|n| *n >= 11),
    };
    for (name, bytes) in audit::report(&found, &about)? {
        write(&options.out.join(name), &bytes)?;
    }
    if options.json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found.findings.iter().flat_map(|finding| {
        let one =
            |gap: &audit::Gap| vec![finding.finding.clone(), audit::named(gap.metric).to_owned(), audit::in_words(gap)];
        finding.gaps.primary.iter().map(one)
    });
    print(&table_of(&["finding", "measure", "what is shown"], rows))?;
    print(&format!("{} has everything", options.out.join("audit.html").display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The studies as the statistics take them. Versions of `current` models come first: of a study that several have scored, they
/// count.
fn dataset(
    table: &AuditTable,
    groups: Option<Vec<GroupName>>,
    race_model: Option<String>,
    current: &[String],
) -> anyhow::Result<Dataset> {
    // Without a race model the groups are the categories that people name.
    let groups = groups.unwrap_or_else(|| {
        let said = table.studies.iter().filter(|study| study.report.race.len() == 1).flat_map(|s| &s.report.race);
        let named: BTreeSet<&String> = said.filter(|c| ![UNKNOWN, DECLINED].contains(&c.as_str())).collect();
        named.into_iter().map(|code| GroupName { key: code.clone(), code: code.clone() }).collect()
    });
    let studies = table.studies.iter().map(|study| one(study, &groups, race_model.as_deref())).collect();
    let groups: Vec<String> = groups.into_iter().map(|group| group.key).collect();
    let mut by_finding: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, output) in table.outputs.iter().enumerate() {
        by_finding.entry(output.finding.as_str()).or_default().push(place);
    }
    let mut findings = Vec::new();
    for (finding, mut outputs) in by_finding {
        let is_old = |place: &usize| !current.contains(&table.outputs[*place].model);
        outputs.sort_by_key(|place| (is_old(place), table.outputs[*place].model.clone()));
        let models: Vec<Scored> = outputs
            .into_iter()
            .map(|place| scored(&table.outputs[place], place, &table.studies))
            .filter(|scored| scored.score.iter().any(Option::is_some))
            .collect();
        if !models.is_empty() {
            let outcome = table.studies.iter().map(|study| study.outcomes.get(finding).copied()).collect();
            findings.push(Finding { finding: finding.to_owned(), outcome, models });
        }
    }
    Ok(Dataset::new(groups, race_model, studies, findings)?)
}

fn one(study: &AuditStudy, groups: &[GroupName], race_model: Option<&str>) -> Study {
    let text = |value: &str| Some(value.to_owned()).filter(|v| !v.is_empty());
    let covariate = |name: &str| study.covariates.get(name).and_then(|value| text(value));
    let facts = &study.facts;
    // No Patient ID and no issuer has a backslash (PS3.5 6.2, LO).
    let patient = match facts.issuer.as_str() {
        "" => facts.patient.clone(),
        issuer => format!("{}\\{issuer}", facts.patient),
    };
    let has_groups = |race: &&RacePosterior| race.groups.iter().eq(groups.iter().map(|group| &group.key));
    let posterior = facts.race.as_ref().filter(|race| race_model == Some(&race.model)).filter(has_groups);
    Study {
        study: study.study.clone(),
        patient,
        date: facts.date,
        site: covariate("site").or_else(|| text(&study.source)),
        device: covariate("device").or_else(|| text(&facts.device)),
        view: text(&facts.view),
        portable: covariate("portable").and_then(|said| match said.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" => Some(true),
            "0" | "false" | "no" => Some(false),
            _ => None,
        }),
        age_years: facts.age_years,
        sex: text(&facts.sex),
        bmi: covariate("bmi").and_then(|said| said.parse().ok()),
        self_report: match study.report.standing(groups) {
            Standing::Group(key) => match groups.iter().position(|group| group.key == key) {
                Some(place) => SelfReport::Group(place),
                None => SelfReport::Other,
            },
            Standing::Several => SelfReport::Several,
            Standing::Other => SelfReport::Other,
            Standing::Unknown => SelfReport::Unknown,
            Standing::Declined => SelfReport::Declined,
            Standing::Missing => SelfReport::Missing,
        },
        posterior: posterior.map(|race| race.probabilities.clone()),
    }
}

/// Scores of an output, study by study.
fn scored(output: &AuditOutput, place: usize, studies: &[AuditStudy]) -> Scored {
    let version = output.model.split(['@', '#']).nth(1).unwrap_or_default().to_owned();
    let score = |study: &AuditStudy| study.scores.iter().find(|(at, _)| *at == place).map(|(_, score)| *score);
    Scored {
        model: output.model.clone(),
        version,
        threshold: output.threshold,
        score: studies.iter().map(score).collect(),
    }
}

/// Of everything that the statistics are made of.
fn digest(table: &AuditTable) -> Digest {
    Digest::of(format!("{table:?}").as_bytes())
}
