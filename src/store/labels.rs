//! What is true of studies: outcomes and self-reported groups, as a site imported them.
//!
//! They lie apart from scores, go with their study, and no view or log holds them. Neighbours: `results` reads the
//! tables, the command `labels import` calls this, `profile fit --index` takes everything out. Left out: who a line of a
//! table means (`results`).

use std::collections::BTreeMap;

use tracing::info;

use crate::domain::{Timestamp, Uid};
use crate::results::{KnownStudy, RowFault, StudyLabels};

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

    /// Takes labels in, in one transaction. What contradicts an earlier import is a fault, and nothing of its line is
    /// taken, unless `replace`. `dry`: says what would come of it, and takes none.
    pub async fn import_labels(
        &self,
        labels: &BTreeMap<Uid, StudyLabels>,
        replace: bool,
        dry: bool,
        now: Timestamp,
    ) -> Result<LabelsImported, StoreError> {
        let mut imported = LabelsImported::default();
        let mut tx = if dry { self.index().snapshot().await? } else { self.index().write().await? };
        let earlier = stored(&mut tx).await?;
        for (study, new) in labels {
            let known = sqlx::query("SELECT 1 FROM studies WHERE study = ?").bind(study.as_str());
            if known.fetch_optional(&mut *tx).await?.is_none() {
                let reason = "its study was forgotten meanwhile".to_owned();
                imported.faults.push(RowFault { line: new.line, reason });
                continue;
            }
            let old = earlier.get(study);
            let other_group = new.group.as_ref().zip(old.and_then(|o| o.group.as_ref())).is_some_and(|(a, b)| a != b);
            let old_outcome = |finding: &String| old.and_then(|o| o.outcomes.get(finding)).copied();
            let other = new.outcomes.iter().find(|(f, v)| old_outcome(f).is_some_and(|o| o != **v));
            if !replace && (other_group || other.is_some()) {
                let what = other.map_or_else(
                    || "its patient has another self-reported group".to_owned(),
                    |(finding, _)| format!("its study has another outcome of {finding}"),
                );
                let reason = format!("{what} by an earlier import; --replace takes the new one");
                imported.faults.push(RowFault { line: new.line, reason });
                continue;
            }
            for (finding, outcome) in &new.outcomes {
                match old_outcome(finding) {
                    Some(old) if old == *outcome => imported.known += 1,
                    _ => imported.outcomes += 1,
                }
                let sql = "INSERT INTO outcomes VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET outcome = ?3, imported_at = ?4";
                let query = sqlx::query(sql).bind(study.as_str()).bind(finding).bind(outcome).bind(micros(now));
                if !dry {
                    query.execute(&mut *tx).await?;
                }
            }
            if let Some(group) = &new.group {
                match old.and_then(|o| o.group.as_ref()) {
                    Some(old) if old == group => imported.known += 1,
                    _ => imported.groups += 1,
                }
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
        let sql = "SELECT study FROM studies WHERE state IN ('reported', 'delivered')";
        let mut reported = std::collections::BTreeSet::new();
        for row in sqlx::query(sql).fetch_all(&mut *tx).await? {
            reported.insert(row.text("study")?);
        }
        labels.retain(|study, _| reported.contains(study.as_str()));
        Ok(labels)
    }
}

async fn stored(tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>) -> Result<BTreeMap<Uid, StudyLabels>, StoreError> {
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
