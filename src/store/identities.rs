//! By which names imports find studies: Patient ID and its issuer, Accession Number, Study Date.
//!
//! A copy of what the header of a study's first image says, so that a table of a million lines is not held against a
//! million headers. It goes with its study. Neighbours: `reading` calls this, `labels import` asks. Left out: which
//! study a file means (`results`).

use chrono::NaiveDate;
use sqlx::{Sqlite, Transaction};

use crate::domain::{InstanceHeader, Uid};
use crate::results::{KnownStudy, Wanted};

use super::index::{Columns, json};
use super::{Store, StoreError};

const COLUMNS: &str = "SELECT study, patient, issuer, accession, study_date FROM identities";

impl Store {
    /// The studies with these UIDs, accession numbers and Patient IDs; `whole`: and all others of the same patients.
    pub async fn find_studies(&self, wanted: &Wanted<'_>, whole: bool) -> Result<Vec<KnownStudy>, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let mut found = Found::default();
        for (column, values) in
            [("study", &wanted.studies), ("accession", &wanted.accessions), ("patient", &wanted.patients)]
        {
            if !values.is_empty() {
                found.add(&mut tx, column, json(values)?).await?;
            }
        }
        if whole {
            let patients: std::collections::BTreeSet<&String> =
                found.studies.iter().filter_map(|s| s.patient.as_ref()).collect();
            let patients = json(&patients)?;
            found.add(&mut tx, "patient", patients).await?;
        }
        Ok(found.studies)
    }
}

#[derive(Default)]
struct Found {
    studies: Vec<KnownStudy>,
    seen: std::collections::BTreeSet<Uid>,
}

impl Found {
    async fn add(&mut self, tx: &mut Transaction<'_, Sqlite>, column: &str, values: String) -> Result<(), StoreError> {
        let sql = format!("{COLUMNS} WHERE {column} IN (SELECT value FROM json_each(?)) ORDER BY study");
        for row in sqlx::query(&sql).bind(values).fetch_all(&mut **tx).await? {
            let study: Uid = row.parsed("study")?;
            if self.seen.insert(study.clone()) {
                let date = row.opt_text("study_date")?;
                self.studies.push(KnownStudy {
                    study,
                    accession: row.opt_text("accession")?,
                    patient: row.opt_text("patient")?,
                    issuer: row.opt_text("issuer")?,
                    date: date.and_then(|text| NaiveDate::parse_from_str(&text, "%Y%m%d").ok()),
                });
            }
        }
        Ok(())
    }
}

/// Notes how the study of an image is called, once.
pub(super) async fn note(tx: &mut Transaction<'_, Sqlite>, header: &InstanceHeader) -> Result<(), StoreError> {
    let sql = "INSERT INTO identities (study, patient, issuer, accession, study_date) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(header.study.as_str())
        .bind(header.patient_id())
        .bind(header.issuer_of_patient_id())
        .bind(header.accession_number())
        .bind(header.study_date())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
