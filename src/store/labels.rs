//! What is true of studies: outcomes and self-reported groups, as a site imported them.
//!
//! They lie apart from scores, go with their study, and no view or log holds them. Neighbours: `results` reads the
//! tables, the command `labels import` calls this, `profile fit --index` takes everything out. Left out: who a line of a
//! table means (`results`).

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;

use crate::domain::{Timestamp, Uid};
use crate::results::{KnownStudy, LabelLine, RowFault, StudyLabels};

use super::index::{Columns, micros};
use super::{LabelsImported, Store, StoreError};

impl Store {
    /// The studies that are here, as tables name them.
    pub async fn known_studies(&self) -> Result<Vec<KnownStudy>, StoreError> {
        let headers = self.headers_of_studies().await?;
        let known = headers.into_iter().map(|header| KnownStudy {
            accession: header.accession_number(),
            patient: header.patient_id(),
            issuer: header.issuer_of_patient_id(),
            study: header.study,
        });
        Ok(known.collect())
    }

    /// Takes lines of labels in, in one transaction. One that contradicts an earlier import, for any study that it is
    /// about, is a fault, and nothing of it is taken, unless `replace`. `dry`: says what would come of it, and takes none.
    pub async fn import_labels(
        &self,
        lines: &[LabelLine],
        replace: bool,
        dry: bool,
        now: Timestamp,
    ) -> Result<LabelsImported, StoreError> {
        let mut imported = LabelsImported::default();
        let mut tx = if dry { self.index().snapshot().await? } else { self.index().write().await? };
        let here = studies(&mut tx, "SELECT study FROM studies").await?;
        let known = Known { here, earlier: stored(&mut tx).await?, replace };
        let mut new: BTreeMap<&Uid, StudyLabels> = BTreeMap::new();
        // A group is judged once, and taken once, by the first study of its patient, however many lines say it.
        let mut judged: BTreeMap<(&Uid, &str), Option<String>> = BTreeMap::new();
        let mut taken: BTreeSet<&Uid> = BTreeSet::new();
        for line in lines {
            let group = line.patient.first().zip(line.group.as_deref());
            let fault =
                group.and_then(|key| judged.entry(key).or_insert_with(|| known.fault_of_group(key.1, line)).clone());
            if let Some(reason) = fault.or_else(|| known.fault_of_outcomes(line)) {
                imported.faults.push(RowFault { line: line.line, reason });
                continue;
            }
            if let Some((first, group)) = group.filter(|(first, _)| !taken.contains(first)) {
                taken.insert(first);
                line.patient.iter().for_each(|study| new.entry(study).or_default().group = Some(group.to_owned()));
            }
            for (study, finding, value) in line.said() {
                new.entry(study).or_default().outcomes.insert(finding.to_owned(), value);
            }
        }
        // What was known before keeps the time of its import.
        for (study, new) in new {
            let outcomes = new.outcomes.iter().filter(|(finding, v)| known.outcome(study, finding) != Some(**v));
            let group = new.group.as_ref().filter(|group| known.group(study) != Some(group.as_str()));
            imported.known += (new.outcomes.len() + usize::from(new.group.is_some())) as u64;
            for (finding, outcome) in outcomes {
                (imported.outcomes, imported.known) = (imported.outcomes + 1, imported.known - 1);
                let sql = "INSERT INTO outcomes VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET outcome = ?3, imported_at = ?4";
                let query = sqlx::query(sql).bind(study.as_str()).bind(finding).bind(outcome).bind(micros(now));
                if !dry {
                    query.execute(&mut *tx).await?;
                }
            }
            if let Some(group) = group {
                (imported.groups, imported.known) = (imported.groups + 1, imported.known - 1);
                let sql = "INSERT INTO self_reports VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET group_key = ?2, imported_at = ?3";
                let query = sqlx::query(sql).bind(study.as_str()).bind(group).bind(micros(now));
                if !dry {
                    query.execute(&mut *tx).await?;
                }
            }
        }
        let complete = "SELECT count(*) AS number FROM self_reports WHERE study IN (SELECT study FROM outcomes)";
        if !dry {
            let row = sqlx::query(complete).fetch_one(&mut *tx).await?;
            imported.studies_complete = row.count("number")?;
            self.index().commit(tx).await?;
            info!(outcomes = imported.outcomes, self_reports = imported.groups, "labels imported");
        }
        Ok(imported)
    }

    /// Outcomes and self-reported groups of the studies that have a report.
    pub async fn labels(&self) -> Result<BTreeMap<Uid, StudyLabels>, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let mut labels = stored(&mut tx).await?;
        let reported = studies(&mut tx, "SELECT study FROM studies WHERE state IN ('reported', 'delivered')").await?;
        labels.retain(|study, _| reported.contains(study));
        Ok(labels)
    }

    /// When a label was taken in last that says something new; `None` without labels.
    pub async fn labels_imported_at(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT max(imported_at) AS newest FROM
                   (SELECT imported_at FROM outcomes UNION ALL SELECT imported_at FROM self_reports)";
        sqlx::query(sql).fetch_one(self.index().read()).await?.opt_time("newest")
    }
}

/// What lines are held against.
struct Known {
    here: BTreeSet<Uid>,
    earlier: BTreeMap<Uid, StudyLabels>,
    replace: bool,
}

impl Known {
    fn group(&self, study: &Uid) -> Option<&str> {
        self.earlier.get(study)?.group.as_deref()
    }

    fn outcome(&self, study: &Uid, finding: &str) -> Option<bool> {
        self.earlier.get(study)?.outcomes.get(finding).copied()
    }

    fn fault_of_group(&self, group: &str, line: &LabelLine) -> Option<String> {
        if !line.patient.iter().all(|study| self.here.contains(study)) {
            return Some(FORGOTTEN.to_owned());
        }
        let differs = |study| self.group(study).is_some_and(|old| old != group);
        let contradicts = !self.replace && line.patient.iter().any(differs);
        contradicts.then(|| by_earlier("its patient has another self-reported group"))
    }

    fn fault_of_outcomes(&self, line: &LabelLine) -> Option<String> {
        if line.study.as_ref().is_some_and(|study| !self.here.contains(study)) {
            return Some(FORGOTTEN.to_owned());
        }
        let differs = |study, finding, value| self.outcome(study, finding).is_some_and(|old| old != value);
        let (_, finding, _) = line.said().find(|&(study, f, value)| !self.replace && differs(study, f, value))?;
        Some(by_earlier(&format!("its study has another outcome of {finding}")))
    }
}

const FORGOTTEN: &str = "its study was forgotten meanwhile";

fn by_earlier(what: &str) -> String {
    format!("{what} by an earlier import; --replace takes the new one")
}

async fn studies(tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>, sql: &'static str) -> Result<BTreeSet<Uid>, StoreError> {
    sqlx::query(sql).fetch_all(&mut **tx).await?.iter().map(|row| row.parsed("study")).collect()
}

pub(super) async fn stored(
    tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
) -> Result<BTreeMap<Uid, StudyLabels>, StoreError> {
    let mut labels: BTreeMap<Uid, StudyLabels> = BTreeMap::new();
    for row in sqlx::query("SELECT study, finding, outcome FROM outcomes").fetch_all(&mut **tx).await? {
        let one = labels.entry(row.parsed("study")?).or_default();
        one.outcomes.insert(row.text("finding")?, row.int("outcome")? != 0);
    }
    for row in sqlx::query("SELECT study, group_key FROM self_reports").fetch_all(&mut **tx).await? {
        labels.entry(row.parsed("study")?).or_default().group = Some(row.text("group_key")?);
    }
    Ok(labels)
}
