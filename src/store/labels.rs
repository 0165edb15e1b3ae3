//! What is true of studies: outcomes, self-reported race and covariates, as a site imported them.
//!
//! They lie apart from scores, go with their study, and no view or log holds them. An import reads and writes some
//! thousand studies at a time, so that a table of a million neither fills memory nor keeps senders waiting for the index.
//! Neighbours: `results` reads the files, the command `labels import` calls this, `profile fit --index` takes everything
//! out. Left out: who a statement means (`results`), `identities` looks up who is here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::json;
use sqlx::{Sqlite, Transaction};
use tracing::info;

use crate::domain::{Timestamp, Uid};
use crate::results::{GroupName, Placed, Reject, SelfReport, Source, Vocabulary};

use super::index::{Columns, json, micros};
use super::{LabelsImported, Store, StoreError};

/// Statements on studies that are taken in by one transaction: a sender waits for no longer than that takes.
const AT_ONCE: usize = 10_000;

/// What is said of one study.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StudyLabels {
    pub report: SelfReport,
    /// By key of a finding, whether it is truly there.
    pub outcomes: BTreeMap<String, bool>,
    pub covariates: BTreeMap<String, String>,
}

/// How labels are taken in.
#[derive(Debug, Clone, Copy)]
pub struct LabelOptions {
    /// What contradicts an earlier import takes its place.
    pub replace: bool,
    /// Say what would come of it, and take none.
    pub dry: bool,
}

/// A study, and a statement on it: of the study itself, or of its patient.
#[derive(Clone, Copy)]
struct Pair<'a> {
    study: &'a Uid,
    statement: usize,
    person: bool,
}

impl Store {
    /// Takes statements in that agree with one another. One that contradicts an earlier import, for any study that it is
    /// about, is rejected, and nothing of it is taken, unless `replace`.
    ///
    /// Studies are taken in in several transactions; what an end cuts short is taken in by importing the same again.
    pub async fn import_labels(
        &self,
        statements: &[Placed],
        vocabulary: &Vocabulary,
        options: LabelOptions,
        now: Timestamp,
    ) -> Result<LabelsImported, StoreError> {
        let mut imported = LabelsImported::default();
        let mut pairs: Vec<Pair<'_>> = Vec::with_capacity(statements.len());
        for (statement, one) in statements.iter().enumerate() {
            pairs.extend(one.hits.iter().map(|hit| Pair { study: &hit.study, statement, person: false }));
            pairs.extend(one.everyone.iter().map(|study| Pair { study, statement, person: true }));
        }
        // By study: the index is read and written from one end to the other.
        pairs.sort_unstable_by(|a, b| a.study.cmp(b.study).then(a.statement.cmp(&b.statement)));
        let parts = parts(&pairs);
        let mut rejected: BTreeMap<usize, String> = BTreeMap::new();
        for part in &parts {
            let mut tx = self.index().snapshot().await?;
            let known = Known::of(&mut tx, part, &vocabulary.groups).await?;
            for pair in *part {
                if let Some(reason) = known.fault(pair, &statements[pair.statement], vocabulary, options.replace) {
                    rejected.entry(pair.statement).or_insert(reason);
                }
            }
        }
        for part in &parts {
            let mut tx = if options.dry { self.index().snapshot().await? } else { self.index().write().await? };
            let known = Known::of(&mut tx, part, &vocabulary.groups).await?;
            let news = known.news(part, statements, &rejected, vocabulary, &mut imported);
            if !options.dry {
                write(&mut tx, &news, now).await?;
                self.index().commit(tx).await?;
            }
        }
        let reject = |(statement, reason): (usize, String)| Reject { at: statements[statement].says.at, reason };
        imported.rejects = rejected.into_iter().map(reject).collect();
        if !options.dry {
            let sql = "SELECT count(*) AS number FROM self_reports
                       WHERE race IS NOT NULL AND study IN (SELECT study FROM outcomes)";
            imported.studies_complete = sqlx::query(sql).fetch_one(self.index().read()).await?.count("number")?;
            info!(
                outcomes = imported.outcomes,
                self_reports = imported.groups,
                covariates = imported.covariates,
                "labels imported"
            );
        }
        Ok(imported)
    }

    /// Outcomes, self-reports and covariates of the studies that have a report and one of the former two.
    pub async fn labels(&self, groups: &[GroupName]) -> Result<BTreeMap<Uid, StudyLabels>, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let reported = "SELECT study FROM studies WHERE state IN ('reported', 'delivered')";
        stored(&mut tx, reported, None, groups).await
    }

    /// When a label was taken in last that says something new; `None` without labels.
    pub async fn labels_imported_at(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT max(imported_at) AS newest FROM
                   (SELECT imported_at FROM outcomes UNION ALL SELECT imported_at FROM self_reports)";
        sqlx::query(sql).fetch_one(self.index().read()).await?.opt_time("newest")
    }
}

/// Cuts what is sorted by study between studies.
fn parts<'p, 'a>(pairs: &'p [Pair<'a>]) -> Vec<&'p [Pair<'a>]> {
    let (mut parts, mut rest) = (Vec::new(), pairs);
    while !rest.is_empty() {
        let mut end = rest.len().min(AT_ONCE);
        while end < rest.len() && rest[end].study == rest[end - 1].study {
            end += 1;
        }
        let (part, others) = rest.split_at(end);
        parts.push(part);
        rest = others;
    }
    parts
}

/// What is known of the studies of a part.
struct Known {
    here: BTreeSet<Uid>,
    earlier: BTreeMap<Uid, StudyLabels>,
}

/// What is new of one study, and what it comes to together with what was known.
struct News<'a> {
    study: &'a Uid,
    outcomes: Option<BTreeMap<String, bool>>,
    report: Option<SelfReport>,
    covariates: Vec<(&'a str, &'a str, Source)>,
}

impl Known {
    async fn of(tx: &mut Transaction<'_, Sqlite>, part: &[Pair<'_>], groups: &[GroupName]) -> Result<Self, StoreError> {
        let mut list: Vec<&str> = part.iter().map(|pair| pair.study.as_str()).collect();
        list.dedup();
        let list = json(&list)?;
        let sql = "SELECT study FROM studies WHERE study IN (SELECT value FROM json_each(?))";
        let rows = sqlx::query(sql).bind(&list).fetch_all(&mut **tx).await?;
        let here = rows.iter().map(|row| row.parsed("study")).collect::<Result<_, _>>()?;
        let earlier = stored(tx, "SELECT value FROM json_each(?)", Some(&list), groups).await?;
        Ok(Self { here, earlier })
    }

    /// Why the statement is not taken, for this study.
    fn fault(&self, pair: &Pair<'_>, one: &Placed, vocabulary: &Vocabulary, replace: bool) -> Option<String> {
        if !self.here.contains(pair.study) {
            return Some("its study was forgotten meanwhile".into());
        }
        let earlier = self.earlier.get(pair.study).filter(|_| !replace)?;
        if pair.person {
            let what = one.says.person.as_ref()?.contradicts(&earlier.report)?;
            return Some(by_earlier(&format!("its patient has another {what}")));
        }
        for outcome in &one.says.outcomes {
            let key = &vocabulary.findings[usize::from(outcome.finding)];
            if earlier.outcomes.get(key).is_some_and(|old| *old != outcome.present) {
                return Some(by_earlier(&format!("its study has another outcome of {key}")));
            }
        }
        let differs = |c: &&crate::results::Covariate| {
            let old = earlier.covariates.get(&vocabulary.covariates[usize::from(c.name)]);
            old.is_some_and(|old| **old != *c.value)
        };
        let covariate = one.says.covariates.iter().find(differs)?;
        let name = &vocabulary.covariates[usize::from(covariate.name)];
        Some(by_earlier(&format!("its study has another {name}")))
    }

    /// What is new in these statements, study by study; counts it, and what was known.
    fn news<'a>(
        &self,
        part: &[Pair<'a>],
        statements: &'a [Placed],
        rejected: &BTreeMap<usize, String>,
        vocabulary: &'a Vocabulary,
        imported: &mut LabelsImported,
    ) -> Vec<News<'a>> {
        let mut all = Vec::new();
        for run in part.chunk_by(|a, b| a.study == b.study).filter(|run| self.here.contains(run[0].study)) {
            let (mut new, mut sources) = (StudyLabels::default(), HashMap::new());
            for pair in run.iter().filter(|pair| !rejected.contains_key(&pair.statement)) {
                let says = &statements[pair.statement].says;
                if pair.person {
                    let report = says.person.as_deref().cloned().unwrap_or_default();
                    merge(&mut new.report, report);
                    continue;
                }
                let key = |finding: u16| vocabulary.findings[usize::from(finding)].clone();
                new.outcomes.extend(says.outcomes.iter().map(|o| (key(o.finding), o.present)));
                for covariate in &says.covariates {
                    let name = vocabulary.covariates[usize::from(covariate.name)].as_str();
                    sources.insert(name, (&*covariate.value, says.source));
                }
            }
            let nothing = StudyLabels::default();
            let earlier = self.earlier.get(run[0].study).unwrap_or(&nothing);
            let mut news = News { study: run[0].study, outcomes: None, report: None, covariates: Vec::new() };
            let is_known = |(finding, value): &(&String, &bool)| earlier.outcomes.get(*finding) == Some(*value);
            let known = new.outcomes.iter().filter(is_known).count();
            imported.known += known as u64;
            imported.outcomes += (new.outcomes.len() - known) as u64;
            if known < new.outcomes.len() {
                let mut outcomes = earlier.outcomes.clone();
                outcomes.extend(new.outcomes);
                news.outcomes = Some(outcomes);
            }
            if !new.report.is_empty() {
                let mut report = earlier.report.clone();
                merge(&mut report, new.report);
                let is_new = report != earlier.report;
                (imported.groups, imported.known) =
                    (imported.groups + u64::from(is_new), imported.known + u64::from(!is_new));
                news.report = is_new.then_some(report);
            }
            for (name, (value, source)) in sources {
                if earlier.covariates.get(name).map(String::as_str) == Some(value) {
                    imported.known += 1;
                } else {
                    imported.covariates += 1;
                    news.covariates.push((name, value, source));
                }
            }
            all.push(news);
        }
        all
    }
}

/// Takes what `new` says of race and of ethnicity in place of what was said.
fn merge(report: &mut SelfReport, new: SelfReport) {
    if !new.race.is_empty() {
        report.race = new.race;
    }
    report.ethnicity = new.ethnicity.or(report.ethnicity.take());
}

fn by_earlier(what: &str) -> String {
    format!("{what} by an earlier import; --replace takes the new one")
}

/// Three statements, whatever the number of studies.
async fn write(tx: &mut Transaction<'_, Sqlite>, news: &[News<'_>], now: Timestamp) -> Result<(), StoreError> {
    let numbers = |outcomes: &BTreeMap<String, bool>| -> serde_json::Map<String, serde_json::Value> {
        outcomes.iter().map(|(finding, value)| (finding.clone(), json!(u8::from(*value)))).collect()
    };
    let outcomes: Vec<_> =
        news.iter().filter_map(|n| Some(json!([n.study, n.outcomes.as_ref().map(numbers)?]))).collect();
    let reports: Vec<_> = news
        .iter()
        .filter_map(|n| {
            let report = n.report.as_ref()?;
            let race = (!report.race.is_empty()).then_some(&report.race);
            Some(json!([n.study, race, report.ethnicity]))
        })
        .collect();
    let covariates: Vec<_> = news
        .iter()
        .flat_map(|n| n.covariates.iter().map(move |(name, value, from)| json!([n.study, name, value, word(*from)])))
        .collect();
    for (sql, rows) in [
        (
            "INSERT INTO outcomes (study, outcomes, imported_at)
             SELECT value ->> 0, value -> 1, ?2 FROM json_each(?1) WHERE true
             ON CONFLICT (study) DO UPDATE SET outcomes = excluded.outcomes, imported_at = excluded.imported_at",
            outcomes,
        ),
        (
            "INSERT INTO self_reports (study, race, ethnicity, imported_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, ?2 FROM json_each(?1) WHERE true
             ON CONFLICT (study) DO UPDATE SET race = excluded.race, ethnicity = excluded.ethnicity,
                 imported_at = excluded.imported_at",
            reports,
        ),
        (
            "INSERT INTO covariates (study, name, value, source, imported_at)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, ?2 FROM json_each(?1) WHERE true
             ON CONFLICT (study, name) DO UPDATE SET value = excluded.value, source = excluded.source,
                 imported_at = excluded.imported_at",
            covariates,
        ),
    ] {
        if !rows.is_empty() {
            sqlx::query(sql).bind(json(&rows)?).bind(micros(now)).execute(&mut **tx).await?;
        }
    }
    Ok(())
}

fn word(source: Source) -> &'static str {
    match source {
        Source::Csv => "csv",
        Source::Fhir => "fhir",
        Source::Sr => "sr",
    }
}

/// What is kept of the studies that `among` selects, with `list` in it.
pub(super) async fn stored(
    tx: &mut Transaction<'_, Sqlite>,
    among: &str,
    list: Option<&str>,
    groups: &[GroupName],
) -> Result<BTreeMap<Uid, StudyLabels>, StoreError> {
    let mut labels: BTreeMap<Uid, StudyLabels> = BTreeMap::new();
    let sql = |what: &str| format!("SELECT study, {what} WHERE study IN ({among})");
    let outcomes = sql("outcomes FROM outcomes");
    for row in sqlx::query(&outcomes).bind(list).fetch_all(&mut **tx).await? {
        let said: BTreeMap<String, u8> = row.opt_json("outcomes")?.unwrap_or_default();
        let outcomes = said.into_iter().map(|(finding, value)| (finding, value != 0)).collect();
        labels.entry(row.parsed("study")?).or_default().outcomes = outcomes;
    }
    let reports = sql("race, ethnicity FROM self_reports");
    for row in sqlx::query(&reports).bind(list).fetch_all(&mut **tx).await? {
        let race = row.opt_json("race")?.unwrap_or_default();
        let report = SelfReport { race, ethnicity: row.opt_text("ethnicity")? };
        labels.entry(row.parsed("study")?).or_default().report = report.in_categories(groups);
    }
    let covariates = sql("name, value FROM covariates");
    for row in sqlx::query(&covariates).bind(list).fetch_all(&mut **tx).await? {
        let one = labels.entry(row.parsed("study")?).or_default();
        one.covariates.insert(row.text("name")?, row.text("value")?);
    }
    Ok(labels)
}
