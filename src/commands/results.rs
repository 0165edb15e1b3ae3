//! The table of a clinical product's own system: `results import`, and beside images in `analyse`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use chrono::Utc;
use serde_json::json;
use sidelight::config::Config;
use sidelight::domain::{ClinicalResult, InstanceHeader, ReadyStudy, RefusalCode, ScoredInstance, Uid};
use sidelight::infer::{Elsewhere, Package, ProductKind};
use sidelight::results::{self, Row, RowFault, read_table};
use sidelight::store::Store;
use tracing::warn;

use super::{print, print_json, table};

/// Faults that are printed in a table; JSON has them all.
const SHOWN_MAX: usize = 20;
/// Larger files are refused by the reader.
const BYTES_MAX: u64 = (64 << 20) + 1;

/// What to import.
pub struct Import<'a> {
    pub file: &'a Path,
    pub model: &'a str,
    /// Say what would be imported, and import nothing.
    pub dry: bool,
}

/// Imports every row that can be used; exit code 1 if there are others.
pub async fn import(config: &Config, import: Import<'_>, json: bool) -> anyhow::Result<ExitCode> {
    let Import { file, model, dry } = import;
    let (package, versions, read) = read_for(config, model, file)?;
    let store = Store::attach(&config.store).await?;
    let known = if read.rows.iter().any(|row| row.study.is_err() || row.patient.is_some()) {
        Known::of(&store.headers_of_studies().await?)
    } else {
        Known::default()
    };
    let (mut results, mut faults) = (Vec::new(), read.faults);
    for row in read.rows {
        let line = row.line;
        match result(row, &package, &versions, &known) {
            Ok(result) => results.push(result),
            Err(reason) => faults.push(RowFault { line, reason }),
        }
    }
    faults.sort_by_key(|fault| fault.line);
    let imported = store.import_results(&results, config.study.late, dry, Utc::now()).await?;
    store.close().await;
    let code = if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    if json {
        print_json(&json!({"model": package.key(), "dry_run": dry, "imported": imported, "rejected": faults}))?;
        return Ok(code);
    }
    if !faults.is_empty() {
        let shown = faults.iter().take(SHOWN_MAX).map(|f| vec![f.line.to_string(), f.reason.clone()]);
        print(&table(&["line", "not imported, because"], shown))?;
        if faults.len() > SHOWN_MAX {
            print(&format!("and {} more; --json lists them all", faults.len() - SHOWN_MAX))?;
        }
    }
    print(&format!(
        "{}{} new rows, {} known before, {} rejected; {} studies are reported anew, {} stay as they are by study.late, \
         {} are not known yet",
        if dry { "nothing is imported; it would be: " } else { "" },
        imported.new,
        imported.known,
        faults.len(),
        imported.studies_reopened,
        imported.studies_late,
        imported.studies_unknown,
    ))?;
    Ok(code)
}

/// Adds the results in a table to the studies that it names; rows that cannot be used are told in the log.
pub fn attach(config: &Config, model: &str, file: &Path, studies: &mut [ReadyStudy]) -> anyhow::Result<()> {
    let (package, versions, read) = read_for(config, model, file)?;
    let is_image = |i: &&ScoredInstance| i.refusal.as_ref().is_none_or(|r| r.code == RefusalCode::OutOfScope);
    let known = Known::of(studies.iter().filter_map(|study| Some(&study.instances.iter().find(is_image)?.header)));
    let mut faults = read.faults;
    for row in read.rows {
        let line = row.line;
        match result(row, &package, &versions, &known) {
            Ok(result) => {
                let of = studies.iter_mut().find(|study| study.study == result.study);
                of.into_iter().for_each(|study| study.results.push(result.clone()));
            }
            Err(reason) => faults.push(RowFault { line, reason }),
        }
    }
    for fault in &faults {
        warn!(model, line = fault.line, reason = fault.reason, "a row of the table is not used");
    }
    Ok(())
}

/// The package, the versions that its card is for, and the table.
fn read_for(config: &Config, model: &str, file: &Path) -> anyhow::Result<(Package, Vec<String>, results::Table)> {
    anyhow::ensure!(
        config.models.clinical.iter().any(|name| name == model),
        "{model} is not among models.clinical of this configuration; nobody would use its results"
    );
    let package = Package::load(&config.models.dir.join(model))?;
    let (names, versions) = match &package.elsewhere {
        Some(Elsewhere::Product(product)) => match &product.kind {
            ProductKind::Table { names, versions } => (names.clone(), versions.clone()),
            ProductKind::Report { .. } => anyhow::bail!("{model} has the format result-sr: its results are reports"),
        },
        _ => anyhow::bail!("{model} scores images; tables are for format = \"result-csv\""),
    };
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|f| f.take(BYTES_MAX).read_to_end(&mut bytes));
    read.with_context(|| format!("{} cannot be read", file.display()))?;
    let table = read_table(&bytes, &names).map_err(|reason| anyhow::anyhow!("{}: {reason}", file.display()))?;
    Ok((package, versions, table))
}

/// The studies that are here, as tables name them.
#[derive(Default)]
struct Known {
    by_number: BTreeMap<String, Vec<Uid>>,
    patients: BTreeMap<Uid, String>,
}

impl Known {
    /// By an image of each.
    fn of<'a>(headers: impl IntoIterator<Item = &'a InstanceHeader>) -> Self {
        let mut known = Self::default();
        for header in headers {
            if let Some(number) = header.accession_number() {
                known.by_number.entry(number).or_default().push(header.study.clone());
            }
            known.patients.insert(header.study.clone(), header.patient_id().unwrap_or_default());
        }
        known
    }
}

fn result(row: Row, package: &Package, versions: &[String], known: &Known) -> Result<ClinicalResult, String> {
    if !versions.is_empty() && !versions.contains(&row.version) {
        return Err(format!("its version is not one that the card is for: {}", versions.join(", ")));
    }
    let study = match row.study {
        Ok(study) => study,
        // Identifiers of patients' procedures stay out of the terminal's log: the line says which it is.
        Err(accession) => match known.by_number.get(&accession).map(Vec::as_slice) {
            Some([study]) => study.clone(),
            Some(several) => {
                return Err(format!("{} studies have its accession number; give the study", several.len()));
            }
            None => return Err("no study here has its accession number yet; give the study, or import later".into()),
        },
    };
    // A study that is not here yet has no patient to compare.
    let patient = row.patient.as_ref().zip(known.patients.get(&study));
    if patient.is_some_and(|(told, found)| told != found) {
        return Err("its study is of another patient".into());
    }
    Ok(ClinicalResult {
        study,
        model: package.key(),
        source: row.digest.to_string(),
        observed_at: row.observed_at,
        received_at: Utc::now(),
        version: row.version,
        predecessors: Vec::new(),
        said: vec![row.said],
    })
}
