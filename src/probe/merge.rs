//! Shards of a run brought together; and answers that need what all of them made.
//!
//! Neighbours: `run` makes shards. Left out: the report (`page`).

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::answers;
use super::catalogue::Row;
use super::cohort::Cohort;
use super::confounders::{self, Setting};
use super::features::Source;
use super::lines::Whose;
use super::manifest::Manifest;
use super::{files, pictures, vectors};

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
        let copy = |kind: &Path| copy_all(&folder.join(kind), &out.join(kind));
        copy(Path::new("parts"))?;
        copy(Path::new(pictures::FOLDER))?;
        for set in manifest.sets() {
            copy(&Path::new(vectors::FOLDER).join(set))?;
        }
        for name in &manifest.answers {
            let own = Path::new("retrain").join(name);
            copy(&own)?;
            copy(&own.join("parts"))?;
            // Another shard may have failed at what this one made.
            if answers::path(folder, name).exists() && !answers::is_there(out, name) {
                for place in [answers::beside, answers::path] {
                    if place(folder, name).exists() {
                        copy_one(&place(folder, name), &place(out, name))?;
                    }
                }
            }
        }
    }
    finish(out, &manifest, &cohort, &|_| {})
}

/// Answers the rows that learn from vectors of images, where all of these are there and no answer is.
pub(super) fn finish(folder: &Path, manifest: &Manifest, cohort: &Cohort, begun: &dyn Fn(&Row)) -> anyhow::Result<()> {
    for row in manifest.rows()? {
        let sources: Vec<&Source> = manifest.features.iter().filter(|source| source.row == row.name).collect();
        let is_whole = |source: &&Source| vectors::is_whole(folder, &source.set, cohort.images.len());
        if sources.is_empty() || !sources.iter().all(is_whole) || answers::is_there(folder, row.name) {
            continue;
        }
        begun(row);
        let setting = Setting { row, cohort, groups: &manifest.groups, form: manifest.form, seed: manifest.seed };
        let told = confounders::of_vectors(&setting, folder, &sources).with_context(|| format!("row {}", row.name));
        answers::keep(folder, row.name, row.name, Whose { cohort, groups: &manifest.groups }, told)?;
    }
    Ok(())
}

/// Copies the files of a folder that are not there; what is stays.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    let context = || format!("{} cannot be copied", from.display());
    for entry in std::fs::read_dir(from).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file() && !files::is_aside(&path)) else { continue };
        if !to.join(name).exists() {
            copy_one(&path, &to.join(name))?;
        }
    }
    Ok(())
}

fn copy_one(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut source = std::fs::File::open(from).with_context(|| format!("{} cannot be copied", from.display()))?;
    files::place(to, |mut file| std::io::copy(&mut source, &mut file).map(|_| ()).map_err(Into::into))
}
