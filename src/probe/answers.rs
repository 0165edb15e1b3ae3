//! What rows came to beside predictions, a file for each; and shards of a run brought together.
//!
//! Neighbours: `run` makes answers, `page` tells them. Left out: predictions (`parts`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::manifest::{self, Manifest};
use super::pictures;
use super::rows::Figure;

/// What a row came to that is no function of predictions, or of a trained network's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub row: String,
    pub figures: Vec<Figure>,
    pub notes: Vec<String>,
}

/// Folder of answers.
const ANSWERS: &str = "answers";

/// Where the answer of that name is.
pub(super) fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(ANSWERS).join(format!("{name}.json"))
}

pub(super) fn keep(folder: &Path, name: &str, answer: Answer) -> anyhow::Result<()> {
    let path = path(folder, name);
    std::fs::create_dir_all(folder.join(ANSWERS)).with_context(|| path.display().to_string())?;
    manifest::write(&path, &serde_json::to_vec_pretty(&answer)?)
}

/// All answers of a run, by name.
pub(super) fn read(folder: &Path, expected: &[String]) -> anyhow::Result<BTreeMap<String, Answer>> {
    let place = folder.join(ANSWERS);
    let mut answers = BTreeMap::new();
    let missing: Vec<&String> = expected.iter().filter(|name| !place.join(format!("{name}.json")).exists()).collect();
    if let Some(first) = missing.first() {
        let (count, all) = (missing.len(), expected.len());
        anyhow::bail!(
            "{count} of {all} answers are missing in {}, {first} for one: go on with --resume, or merge the other shards",
            folder.display()
        );
    }
    for name in expected {
        let path = place.join(format!("{name}.json"));
        let context = || format!("{} is no answer of a row", path.display());
        let answer = serde_json::from_slice(&std::fs::read(&path).with_context(context)?).with_context(context)?;
        answers.insert(name.clone(), answer);
    }
    Ok(answers)
}

/// Brings the files of several shards of one run together in a folder.
///
/// # Errors
/// They are of different runs.
pub fn merge(folders: &[PathBuf], out: &Path) -> anyhow::Result<()> {
    let first = folders.first().context("there is nothing to merge")?;
    let manifest = Manifest::read(first)?;
    for folder in folders {
        if let Some(what) = manifest.difference(&Manifest::read(folder)?) {
            anyhow::bail!("{} and {} are of different runs ({what})", first.display(), folder.display());
        }
    }
    let cohort = manifest.read_cohort(first)?;
    manifest.begin(out, &cohort, true)?;
    for folder in folders {
        for kind in ["parts", ANSWERS, pictures::FOLDER] {
            copy(&folder.join(kind), &out.join(kind))?;
        }
        for name in &manifest.answers {
            let own = Path::new("retrain").join(name);
            for kind in ["", "parts"] {
                copy(&folder.join(&own).join(kind), &out.join(&own).join(kind))?;
            }
        }
    }
    Ok(())
}

/// Copies what is not there; what is stays.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    let context = || format!("{} cannot be copied", from.display());
    std::fs::create_dir_all(to).with_context(context)?;
    for entry in std::fs::read_dir(from).with_context(context)? {
        let path = entry?.path();
        let is_file = path.is_file() && path.extension().is_none_or(|e| e != "tmp");
        let Some(name) = path.file_name().filter(|_| is_file) else { continue };
        if !to.join(name).exists() {
            manifest::write(&to.join(name), &std::fs::read(&path).with_context(context)?)?;
        }
    }
    Ok(())
}
