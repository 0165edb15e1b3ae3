//! Manifests: a CSV table that says which image is whose, of which study and group, and with which findings.
//!
//! Columns are `file`, `patient`, `study`, `group`, `view`, `split` and one for each finding, or what the recipe calls
//! them. Rows that are not used are kept with the reason, for the list of rejects; a patient with more than one group
//! is dropped, since nobody knows which is right. Neighbours: `data` reads the images. Left out: what the files hold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::domain::{Purpose, View};

use super::data::{Part, Sample, Target};
use super::recipe::Recipe;

/// A table of more bytes is no list of images.
const BYTES_MAX: u64 = 2 << 30;

/// Names of columns, where they differ from ours.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    pub file: String,
    pub patient: String,
    /// Images with the same value are one study; without the column each file is one.
    pub study: String,
    pub group: String,
    pub view: String,
    /// `train`, `validation` or `test`; without the column parts are drawn.
    pub split: String,
}

impl Default for Columns {
    fn default() -> Self {
        let [file, patient, study, group, view, split] =
            ["file", "patient", "study", "group", "view", "split"].map(str::to_owned);
        Self { file, patient, study, group, view, split }
    }
}

/// What a manifest came to.
#[derive(Debug, Default)]
pub struct Manifest {
    pub rows: Vec<Row>,
    pub rejected: Vec<Reject>,
}

/// A row that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub file: PathBuf,
    pub sample: Sample,
}

/// A row that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// In the manifest, the header being line 1; 0 for what the image itself is to blame for.
    pub line: usize,
    pub file: String,
    pub reason: String,
}

impl Manifest {
    /// Reads a table; `files` is the folder that its paths are relative to.
    pub fn read(path: &Path, files: &Path, recipe: &Recipe) -> anyhow::Result<Self> {
        let context = || path.display().to_string();
        let bytes = std::fs::metadata(path).with_context(context)?.len();
        ensure!(bytes <= BYTES_MAX, "{} is larger than {BYTES_MAX} bytes", path.display());
        let mut reader = csv::Reader::from_path(path).with_context(context)?;
        let records: Vec<HashMap<String, String>> =
            reader.deserialize().collect::<Result<_, _>>().with_context(context)?;
        Self::of(&records, files, recipe).with_context(context)
    }

    fn of(records: &[HashMap<String, String>], files: &Path, recipe: &Recipe) -> anyhow::Result<Self> {
        let names = &recipe.data.columns;
        let table = Table { records, recipe };
        for (name, needed) in [
            (&names.file, true),
            (&names.patient, true),
            (&names.group, recipe.purpose == Purpose::Race),
            (&names.view, !recipe.data.views.is_empty()),
        ] {
            ensure!(!needed || table.has(name), "there is no column {name}; data.columns says what columns are called");
        }
        if let Some(key) = recipe.output.findings.iter().map(|f| &f.key).find(|key| !table.has(key)) {
            bail!("there is no column {key} for this finding");
        }
        let inconsistent = table.patients_with_several_groups();
        let (mut lines, mut truths) = (Vec::new(), BTreeMap::new());
        let (mut manifest, mut seen) = (Self::default(), HashSet::new());
        for (i, record) in records.iter().enumerate() {
            let line = i + 2;
            let file = record.get(&names.file).map_or("", |v| v.trim());
            match table.row(record, files, &inconsistent).with_context(|| format!("line {line}"))? {
                Ok(row) => {
                    // The same file twice could be in two parts.
                    ensure!(seen.insert(row.file.clone()), "line {line}: {file} is listed twice");
                    note(&mut truths, &row.sample);
                    lines.push((line, file.to_owned()));
                    manifest.rows.push(row);
                }
                Err(reason) => manifest.rejected.push(Reject { line, file: file.to_owned(), reason }),
            }
        }
        manifest.reject_contradictions(&lines, &truths);
        ensure!(!manifest.rows.is_empty(), "no row fits the recipe's views and labels");
        manifest.check_parts()?;
        Ok(manifest)
    }

    /// A study is scored as one: of one whose rows say both yes and no to a finding, nobody knows which is right.
    fn reject_contradictions(&mut self, lines: &[(usize, String)], truths: &Truths) {
        let rows = std::mem::take(&mut self.rows);
        for (row, (line, file)) in rows.into_iter().zip(lines) {
            match truths.get(&study(&row.sample)) {
                Some(Some(_)) => self.rows.push(row),
                _ => {
                    let reason = "the study's rows contradict one another about a finding".to_owned();
                    self.rejected.push(Reject { line: *line, file: file.clone(), reason });
                }
            }
        }
        self.rejected.sort_by_key(|reject| reject.line);
    }

    /// Where parts are given, all rows have one and no patient is in two.
    fn check_parts(&self) -> anyhow::Result<()> {
        let mut parts: BTreeMap<&str, (Option<Part>, &Path)> = BTreeMap::new();
        let given = self.rows.iter().filter(|row| row.sample.part.is_some()).count();
        ensure!(
            given == 0 || given == self.rows.len(),
            "{given} of {} rows name their part: give it for all or none",
            self.rows.len()
        );
        for row in &self.rows {
            let first = parts.entry(&row.sample.patient).or_insert((row.sample.part, &row.file));
            ensure!(
                first.0 == row.sample.part,
                "{} and {} are of one patient, but in different parts",
                first.1.display(),
                row.file.display()
            );
        }
        Ok(())
    }
}

/// What rows say of each study, by patient and study; `None` where they contradict one another.
type Truths = BTreeMap<(String, String), Option<Vec<Option<bool>>>>;

fn study(sample: &Sample) -> (String, String) {
    (sample.patient.clone(), sample.study.clone())
}

fn note(truths: &mut Truths, sample: &Sample) {
    let said = match &sample.target {
        Target::Findings(findings) => findings.as_slice(),
        Target::Group(_) => &[],
    };
    let Some(known) = truths.entry(study(sample)).or_insert_with(|| Some(said.to_vec())) else { return };
    if known.iter().zip(said).any(|(a, b)| a.is_some() && b.is_some() && a != b) {
        truths.insert(study(sample), None);
        return;
    }
    known.iter_mut().zip(said).for_each(|(known, said)| *known = known.or(*said));
}

struct Table<'a> {
    records: &'a [HashMap<String, String>],
    recipe: &'a Recipe,
}

impl Table<'_> {
    fn has(&self, column: &str) -> bool {
        self.records.first().is_some_and(|r| r.contains_key(column))
    }

    /// The group by the recipe's own name; empty where not known.
    fn group<'a>(&'a self, record: &'a HashMap<String, String>) -> &'a str {
        let given = record.get(&self.recipe.data.columns.group).map_or("", |v| v.trim());
        self.recipe.data.group_names.get(given).map_or(given, String::as_str)
    }

    fn patients_with_several_groups(&self) -> HashSet<String> {
        let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
        let mut found = HashSet::new();
        for record in self.records {
            let Some(patient) = record.get(&self.recipe.data.columns.patient) else { continue };
            let group = self.group(record);
            if !group.is_empty() && *groups.entry(patient.trim()).or_insert(group) != group {
                found.insert(patient.trim().to_owned());
            }
        }
        found
    }

    /// A row, or why it is not used; an error where it makes no sense.
    fn row(
        &self,
        record: &HashMap<String, String>,
        files: &Path,
        inconsistent: &HashSet<String>,
    ) -> anyhow::Result<Result<Row, String>> {
        let (recipe, names) = (self.recipe, &self.recipe.data.columns);
        let value = |name: &str| record.get(name).map_or("", |v| v.trim());
        let (file, patient) = (value(&names.file), value(&names.patient));
        ensure!(!file.is_empty(), "column {} is empty", names.file);
        if patient.is_empty() {
            return Ok(Err("no patient".to_owned()));
        }
        let views = &recipe.data.views;
        if !views.is_empty() && !views.iter().any(|v: &View| v.as_str() == value(&names.view)) {
            return Ok(Err("another view".to_owned()));
        }
        let mut group = self.group(record).to_owned();
        if inconsistent.contains(patient) {
            if recipe.purpose == Purpose::Race {
                return Ok(Err("the patient has more than one group".to_owned()));
            }
            group.clear();
        }
        let target = match recipe.purpose {
            Purpose::Race => match recipe.output.groups.iter().position(|g| g.key == group) {
                Some(position) => Target::Group(position),
                None if group.is_empty() => return Ok(Err("no group".to_owned())),
                None => return Ok(Err("a group that the recipe does not have".to_owned())),
            },
            Purpose::Clinical => {
                let truth = |key: &str| match value(key) {
                    "1" | "1.0" => Ok(Some(true)),
                    "0" | "0.0" => Ok(Some(false)),
                    "" => Ok(None),
                    other => bail!("{key} is {other:?}, 0, 1 or nothing is possible"),
                };
                Target::Findings(recipe.keys().into_iter().map(truth).collect::<anyhow::Result<_>>()?)
            }
        };
        let part = match value(&names.split) {
            "" => None,
            said => match Part::parse(said) {
                None => bail!("{} is {said:?}, train, validation or test is possible", names.split),
                part => part,
            },
        };
        let study = match value(&names.study) {
            "" => file,
            study => study,
        };
        let sample = Sample { patient: patient.to_owned(), study: study.to_owned(), group, target, part };
        Ok(Ok(Row { file: files.join(file), sample }))
    }
}

/// Writes what was not used, and why.
pub fn write_rejected(path: &Path, rejected: &[Reject]) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_path(path).with_context(|| path.display().to_string())?;
    table.write_record(["line", "file", "reason"])?;
    for reject in rejected {
        table.write_record([reject.line.to_string().as_str(), &reject.file, &reject.reason])?;
    }
    table.flush().with_context(|| path.display().to_string())
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
