//! What rows came to beside predictions of the run: a file for each, and beside it the predictions that it is of.
//!
//! Neighbours: `run` makes answers, `merge` those that need what several shards made, `page` tells them. Left out:
//! predictions of the run's own models (`parts`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::files;
use super::lines::{Lines, Refused, Whose};
use super::parts::{Asked, Predictions};
use super::rows::Figure;
use super::variants::ORIGINAL;

/// What a row came to that is no function of predictions, or of a trained network's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub row: String,
    pub figures: Vec<Figure>,
    pub notes: Vec<String>,
    /// Whether it could not be made, which another attempt may.
    pub failed: bool,
    /// Of the predictions that lie beside it.
    pub asked: Option<Asked>,
}

/// What a row of covariates or a trained network came to.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) figures: Vec<Figure>,
    pub(super) notes: Vec<String>,
    /// What models on tables said: by name, of which images of the cohort, probabilities of the groups.
    pub(super) said: Vec<(String, Vec<usize>, Vec<Vec<f64>>)>,
    /// What a network said of images with these numbers in the cohort.
    pub(super) predictions: Option<(Predictions, Vec<usize>)>,
}

/// Folder of answers.
const ANSWERS: &str = "answers";

/// Where the answer of that name is.
pub(super) fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(ANSWERS).join(format!("{name}.json"))
}

/// Where the predictions are that it is of.
pub(super) fn beside(folder: &Path, name: &str) -> PathBuf {
    folder.join(ANSWERS).join(format!("{name}.parquet"))
}

/// Whether the answer is there and need not be made again.
pub(super) fn is_there(folder: &Path, name: &str) -> bool {
    path(folder, name).exists() && read_one(folder, name).is_ok_and(|answer| !answer.failed)
}

/// Removes an answer that is to be made again.
pub(super) fn forget(folder: &Path, name: &str) -> anyhow::Result<()> {
    let path = path(folder, name);
    let removed = if path.exists() { std::fs::remove_file(&path) } else { Ok(()) };
    removed.with_context(|| format!("{} cannot be removed", path.display()))
}

/// Keeps what a row came to. One that cannot be answered takes nothing from the others.
pub(super) fn keep(
    folder: &Path,
    name: &str,
    row: &str,
    whose: Whose<'_>,
    told: anyhow::Result<Told>,
) -> anyhow::Result<()> {
    let mut answer = Answer { row: row.to_owned(), figures: Vec::new(), notes: Vec::new(), failed: false, asked: None };
    match told {
        Ok(told) => {
            if let Some((predictions, images)) = told.predictions(whose) {
                files::place(&beside(folder, name), |file| {
                    let mut lines = Lines::new(file, whose, &Refused::default())?;
                    predictions.add(&mut lines, &images)?;
                    lines.end()
                })?;
                answer.asked = Some(predictions.asked);
            }
            (answer.figures, answer.notes) = (told.figures, told.notes);
        }
        Err(error) => {
            // The whole chain may name files of patients: it stays in the folder of the run.
            tracing::warn!(answer = name, error = %error, "a row has no figures; answers/{name}.error says why");
            files::write(&path(folder, name).with_extension("error"), format!("{error:#}\n").as_bytes())?;
            let note = format!("Not run: {error}; answers/{name}.error in the folder of the run says why.");
            (answer.failed, answer.notes) = (true, vec![note]);
        }
    }
    files::write(&path(folder, name), &serde_json::to_vec_pretty(&answer)?)
}

impl Told {
    /// One note and nothing else.
    pub(super) fn note(text: String) -> Self {
        Self { notes: vec![text], ..Self::default() }
    }

    /// All that was said, and the numbers of its images in the cohort.
    fn predictions(&self, whose: Whose<'_>) -> Option<(Predictions, Vec<usize>)> {
        if self.said.is_empty() {
            return self.predictions.clone();
        }
        let models = self.said.iter().map(|(model, ..)| (model.clone(), whose.groups.to_vec())).collect();
        let images: Vec<usize> = (0..whose.cohort.images.len()).collect();
        let asked = Asked { models, variants: vec![ORIGINAL.to_owned()] };
        let mut all = Predictions::empty(&asked, images.len());
        for (model, (_, images, outputs)) in self.said.iter().enumerate() {
            images.iter().zip(outputs).for_each(|(image, outputs)| all.set(model, 0, *image, outputs));
        }
        Some((all, images))
    }
}

/// All answers of a run, by name.
pub(super) fn read(folder: &Path, expected: &[String]) -> anyhow::Result<BTreeMap<String, Answer>> {
    let missing: Vec<&String> = expected.iter().filter(|name| !path(folder, name).exists()).collect();
    if let Some(first) = missing.first() {
        let (count, all) = (missing.len(), expected.len());
        anyhow::bail!(
            "{count} of {all} answers are missing in {}, {first} for one: go on with --resume, or merge the other shards",
            folder.display()
        );
    }
    expected.iter().map(|name| Ok((name.clone(), read_one(folder, name)?))).collect()
}

fn read_one(folder: &Path, name: &str) -> anyhow::Result<Answer> {
    let path = path(folder, name);
    let context = || format!("{} is no answer of a row", path.display());
    serde_json::from_slice(&std::fs::read(&path).with_context(context)?).with_context(context)
}

/// Writes all predictions of a run to one file: those of its models on the images with these numbers, then those that
/// answers are of.
pub(super) fn write_predictions(
    folder: &Path,
    whose: Whose<'_>,
    (predictions, images): (&Predictions, &[usize]),
    answers: &BTreeMap<String, Answer>,
) -> anyhow::Result<()> {
    let all: Vec<usize> = (0..whose.cohort.images.len()).collect();
    let numbers = |of: &BTreeMap<usize, String>| of.iter().map(|(at, why)| (images[*at], why.clone())).collect();
    let refused = Refused { wholly: numbers(&predictions.refused), partly: numbers(&predictions.partly) };
    files::place(&folder.join("predictions.parquet"), |file| {
        let mut lines = Lines::new(file, whose, &refused)?;
        predictions.add(&mut lines, images)?;
        for (name, answer) in answers {
            let Some(asked) = &answer.asked else { continue };
            Predictions::read_files(&[beside(folder, name)], asked, &all)?.add(&mut lines, &all)?;
        }
        lines.end()
    })
}
