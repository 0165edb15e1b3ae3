//! Rows from a table of posteriors: what can be said without images.
//!
//! A table has a column `<group>_pred` for each group, and the self-reported group in
//! `race_ground_truth` or `group`; `patient`, `study` and covariates where they are known. Without patients each row is
//! one. Neighbours: `tables` reads, `rows` measures. Left out: models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::cohort::{COLUMNS, Cohort, Image, Reject, group_of, years};
use super::manifest::Model;
use super::parts::{Asked, Predictions};
use super::tables::Table;
use super::variants::ORIGINAL;
use crate::domain::Purpose;
use crate::train::Part;

/// What a table came to.
pub struct Posteriors {
    pub groups: Vec<String>,
    pub cohort: Cohort,
    pub model: Model,
    pub predictions: Predictions,
}

const SUFFIX: &str = "_pred";
/// Where the group is.
const TRUTHS: [&str; 2] = ["race_ground_truth", "group"];

impl Posteriors {
    /// Reads a table. `names` translates its groups.
    pub fn read(path: &Path, names: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let table = Table::read(path)?;
        let columns: Vec<(usize, String)> = table
            .columns
            .iter()
            .enumerate()
            .filter_map(|(at, name)| Some((at, capitalised(name.strip_suffix(SUFFIX)?))))
            .collect();
        ensure!(columns.len() >= 2, "{} has no columns like asian{SUFFIX}, one for each group", path.display());
        let groups: Vec<String> = columns.iter().map(|(_, group)| group.clone()).collect();
        let truth = TRUTHS.iter().find_map(|name| table.place(name));
        let truth = truth.with_context(|| format!("{} has no column {}", path.display(), TRUTHS.join(" or ")))?;
        let others: Vec<usize> = (0..table.columns.len())
            .filter(|at| {
                let name = table.columns[*at].as_str();
                !columns.iter().any(|(own, _)| own == at) && *at != truth && !COLUMNS.contains(&name) && name != "index"
            })
            .collect();
        let value = |row: &[String], column: &str| table.place(column).map(|at| row[at].clone()).unwrap_or_default();
        let (mut images, mut rejected, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for (row, line) in table.rows.iter().zip(2..) {
            let name = [value(row, "file"), value(row, "index"), line.to_string()];
            let name = name.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
            let mut refuse = |reason: String| rejected.push(Reject { line, file: name.clone(), reason });
            let split = value(row, "split");
            if !["", "test"].contains(&split.to_ascii_lowercase().as_str()) {
                refuse(format!("of the part {split}, not for tests"));
                continue;
            }
            let Some(group) = group_of(&row[truth], &groups, names) else {
                refuse(format!("no posterior for the group {:?}", row[truth]));
                continue;
            };
            let patient = value(row, "patient");
            if !patient.is_empty() && *known.entry(patient.clone()).or_insert(group) != group {
                anyhow::bail!("line {line}: the patient has more than one group: leave such patients out");
            }
            let posterior: Option<Vec<f64>> = columns.iter().map(|(at, _)| probability(&row[*at])).collect();
            let Some(posterior) = posterior else {
                refuse("a posterior is no number from 0 to 1".to_owned());
                continue;
            };
            let own = |said: String| if said.is_empty() { format!("line {line}") } else { said };
            outputs.push(posterior);
            images.push(Image {
                line,
                file: PathBuf::from(&name),
                patient: own(patient),
                study: own(value(row, "study")),
                name,
                group,
                part: Part::Test,
                mask: None,
                values: others
                    .iter()
                    .map(|at| {
                        let age = if table.columns[*at] == "age" { years(&row[*at]) } else { None };
                        age.map_or(row[*at].clone(), |age| age.to_string())
                    })
                    .collect(),
            });
        }
        if images.is_empty() {
            let first = rejected.first().map_or(String::new(), |r| format!("; line {}: {}", r.line, r.reason));
            bail!("no row of {} can be used{first}", path.display());
        }
        let model = Model {
            key: "posteriors".to_owned(),
            name: "posteriors".to_owned(),
            purpose: Purpose::Race,
            outputs: groups.clone(),
            thresholds: Vec::new(),
            precision: None,
        };
        let asked = Asked { models: vec![(model.key.clone(), groups.clone())], variants: vec![ORIGINAL.to_owned()] };
        let mut predictions = Predictions::empty(&asked, images.len());
        outputs.iter().enumerate().for_each(|(image, outputs)| predictions.set(0, 0, image, outputs));
        let columns = others.iter().map(|at| table.columns[*at].clone()).collect();
        let mut cohort = Cohort { images, columns, rejected, labels: Vec::new(), digest: table.digest };
        cohort.labels = cohort.guessed_labels();
        Ok(Self { groups, cohort, model, predictions })
    }
}

fn probability(text: &str) -> Option<f64> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_posteriors_is_a_cohort_with_predictions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.csv");
        let text = "index,asian_pred,black_pred,white_pred,race_ground_truth,age\n\
                    7,.1,.2,.7,WHITE,50\n8,.5,.3,.2,Black,\n9,.5,.3,.2,Other,4\n10,2,.3,.2,Black,4\n";
        std::fs::write(&path, text).unwrap();
        let read = Posteriors::read(&path, &BTreeMap::new()).unwrap();
        assert_eq!(read.groups, ["Asian", "Black", "White"]);
        assert_eq!(read.cohort.images.iter().map(|i| i.group).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((read.cohort.columns.as_slice(), read.cohort.rejected.len()), (&["age".to_owned()][..], 2));
        let first = read.predictions.of(0, 0).next().unwrap().unwrap();
        assert_eq!(first, [0.1f32, 0.2, 0.7]);
        std::fs::write(&path, "a,b\n1,2\n").unwrap();
        assert!(Posteriors::read(&path, &BTreeMap::new()).is_err());
    }
}
