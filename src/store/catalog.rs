//! The node's own reports as others may pull them: a page at a time, by the keys of a query.
//!
//! Only what every reader may see is in the catalogue: the current reports in their withheld form, whose files are
//! still kept. A report is stored in several SOP classes under UIDs of their own; a query sees the preferred one, so
//! that an archive does not take the same report three times, and another only where it is asked for by its UID.
//! UIDs are looked up in the index, other attributes in the reports' own files, newest first. Neighbours: `dicom` reads
//! and matches; `web` (QIDO-RS, WADO-RS) and `receive` (C-FIND, C-GET) ask. Left out: levels of a query, since a study
//! has one such report: the same row describes its study, its series and its instance.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sqlx::sqlite::SqliteRow;
use tracing::warn;

use crate::dicom::{DataSet, Encoding, Key, Tag, own_data_set, read_own, tag};
use crate::domain::Uid;

use super::index::Columns;
use super::{Store, StoreError, blocking};

/// A report that can be pulled.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogReport {
    pub study: Uid,
    pub series: Uid,
    pub sop_class: Uid,
    pub sop_instance: Uid,
    /// The same report in each of its SOP classes, the preferred first, this one included.
    pub variants: Vec<ReportVariant>,
    /// Its elements outside content tree and evidence, and what a query may ask of study and series: Modalities in
    /// Study, SOP Classes in Study, the numbers of series and instances, Instance Availability.
    pub elements: DataSet,
}

/// A report in one SOP class. Always Explicit VR Little Endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportVariant {
    pub sop_class: Uid,
    pub sop_instance: Uid,
    pub(super) path: PathBuf,
}

/// Reports that match, and where to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogPage {
    pub reports: Vec<CatalogReport>,
    /// For the next call; `None` after the last page. A page may be empty and not the last.
    pub next: Option<CatalogCursor>,
}

/// A place between two pages. Reports that are made meanwhile do not move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogCursor(i64);

/// Reports that one page looks at: bounds memory and the time between two looks at a cancellation.
const PAGE: u32 = 100;

const CONTENT: Tag = 0x0040_a730;
/// Current Requested Procedure Evidence: as long as the study has images.
const EVIDENCE: Tag = 0x0040_a375;

impl Store {
    /// The next reports that match every key, the newest first. `place` is dropped when the work ends, which goes on
    /// for the rest of a page where nobody waits for it any more.
    pub async fn catalog(
        &self,
        keys: &[Key],
        after: Option<CatalogCursor>,
        place: impl Send + 'static,
    ) -> Result<CatalogPage, StoreError> {
        let json = |set: BTreeSet<&str>| serde_json::to_string(&set).map_err(|e| StoreError::Contents(e.to_string()));
        let [studies, series, instances] =
            [tag::STUDY, tag::SERIES, tag::INSTANCE].map(|tag| wanted(keys, tag).map(json).transpose());
        let (studies, series, instances) = (studies?, series?, instances?);
        // Conditions that are not set are left out, so that those that are set find their index.
        let limited = |column: &str, parameter: &str, uids: &Option<String>| match uids {
            Some(_) => format!("r.{column} IN (SELECT value FROM json_each({parameter}))"),
            None => format!("{parameter} IS NULL"),
        };
        let by_study = limited("study", "?2", &studies);
        let by_series = limited("series", "?3", &series);
        let by_instance = match instances {
            Some(_) => limited("sop_instance", "?4", &instances),
            None => "?4 IS NULL AND r.variant_of IS NULL".to_owned(),
        };
        let sql = format!(
            "SELECT r.id, r.study, r.series, r.sop_class, r.sop_instance, r.path, ifnull(r.variant_of, r.id) AS first
             FROM reports r WHERE {PULLABLE} AND (?1 IS NULL OR r.id < ?1) AND {by_study} AND {by_series}
                 AND {by_instance} ORDER BY r.id DESC LIMIT {PAGE}"
        );
        let mut tx = self.index().snapshot().await?;
        let rows = sqlx::query(&sql)
            .bind(after.map(|cursor| cursor.0))
            .bind(studies)
            .bind(series)
            .bind(instances)
            .fetch_all(&mut *tx)
            .await?;
        let next = rows.last().filter(|_| rows.len() == PAGE as usize);
        let next = next.map(|row| row.int("id").map(CatalogCursor)).transpose()?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let sql = format!(
                "SELECT sop_class, sop_instance, path FROM reports r WHERE {PULLABLE} AND ?1 IN (id, variant_of)
                 AND study = ?2 ORDER BY id"
            );
            let variants = sqlx::query(&sql).bind(row.int("first")?).bind(row.text("study")?);
            let variants = variants.fetch_all(&mut *tx).await?;
            found.push(CatalogReport {
                study: row.parsed("study")?,
                series: row.parsed("series")?,
                sop_class: row.parsed("sop_class")?,
                sop_instance: row.parsed("sop_instance")?,
                variants: variants.iter().map(|row| self.variant(row)).collect::<Result<_, _>>()?,
                elements: DataSet::default(),
            });
        }
        drop(tx);
        let keys = keys.to_vec();
        let described = move || {
            let reports = found.into_iter().filter_map(|report| described(report, &keys)).collect();
            drop(place);
            Ok(reports)
        };
        let reports = blocking(described).await?;
        Ok(CatalogPage { reports, next })
    }

    /// The report as a file, complete; blocks are small, so it is read whole.
    pub async fn report_bytes(&self, variant: &ReportVariant) -> Result<Vec<u8>, StoreError> {
        tokio::fs::read(&variant.path).await.map_err(StoreError::file("read", &variant.path))
    }

    /// Its data set alone, as a peer takes it.
    pub async fn report_data_set(&self, variant: &ReportVariant, encoding: Encoding) -> Result<Vec<u8>, StoreError> {
        let path = variant.path.clone();
        blocking(move || {
            let file = std::fs::read(&path).map_err(StoreError::file("read", &path))?;
            let data_set = match encoding {
                Encoding::ExplicitLittleEndian => own_data_set(&file).map(<[u8]>::to_vec),
                Encoding::ImplicitLittleEndian => read_own(&file, None).map(|set| set.encode(encoding)),
            };
            data_set.map_err(|e| StoreError::Contents(e.to_string()))
        })
        .await
    }

    fn variant(&self, row: &SqliteRow) -> Result<ReportVariant, StoreError> {
        Ok(ReportVariant {
            sop_class: row.parsed("sop_class")?,
            sop_instance: row.parsed("sop_instance")?,
            path: self.spool().absolute(&row.text("path")?),
        })
    }
}

/// What anybody may pull at all, of `reports r`: Structured Reports (PS3.6 A), not the maps beside them.
const PULLABLE: &str = "r.current = 1 AND r.disclosure = 'withheld' AND r.path IS NOT NULL
    AND r.sop_class LIKE '1.2.840.10008.5.1.4.1.1.88.%'";

/// The UIDs that a query is limited to; `None` where it is not.
fn wanted(keys: &[Key], tag: Tag) -> Option<BTreeSet<&str>> {
    let lists = keys.iter().filter(|key| key.tag == tag).filter_map(Key::one_of);
    let sets = lists.map(|list| list.iter().map(String::as_str).collect::<BTreeSet<_>>());
    sets.reduce(|a, b| a.intersection(&b).copied().collect())
}

/// The report with its elements, if it matches. Blocking. One whose file is gone or damaged cannot be pulled.
fn described(mut report: CatalogReport, keys: &[Key]) -> Option<CatalogReport> {
    let variant = report.variants.iter().find(|v| v.sop_instance == report.sop_instance)?;
    let file = std::fs::read(&variant.path).map_err(|e| e.to_string());
    let elements = file.and_then(|file| read_own(&file, Some(CONTENT)).map_err(|e| e.to_string()));
    let mut elements = match elements {
        Ok(elements) => elements,
        Err(cause) => {
            warn!(
                cause,
                "a report of the catalogue cannot be read; restore it from a backup or analyse its study again"
            );
            return None;
        }
    };
    elements.retain(|tag| tag != EVIDENCE);
    tell_of_study(&mut elements, &report.sop_class);
    report.elements = elements;
    keys.iter().all(|key| key.matches(&report.elements)).then_some(report)
}

/// What a study is here: one series with one report (PS3.4 C.3.4).
fn tell_of_study(elements: &mut DataSet, sop_class: &Uid) {
    elements.put(0x0008_0056, b"CS", "ONLINE");
    elements.put(0x0008_0061, b"CS", "SR");
    elements.put(0x0008_0062, b"UI", sop_class.as_str());
    for number in [0x0020_1206, 0x0020_1208, 0x0020_1209] {
        elements.put(number, b"IS", "1");
    }
}
