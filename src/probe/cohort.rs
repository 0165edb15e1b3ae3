//! Cohorts: which images there are, whose they are, and what else is known of them.
//!
//! One row is one image; paths are relative to the table's folder. Groups are keys of the race model. Neighbours:
//! `tables` reads files, `scoring` the images. Left out: outcomes and groups of the node's index (`store`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::tables::Table;
use crate::domain::Digest;
use crate::train::Part;

/// Columns with a meaning of their own; every other one is a covariate, or the truth of a finding.
pub(super) const COLUMNS: [&str; 6] = ["file", "patient", "study", "group", "split", "mask"];
/// Covariates that rows of the catalogue ask for by name; others may be there.
pub(super) const COVARIATES: [&str; 7] = ["age", "sex", "bmi", "density", "view", "device", "site"];

/// Images of known patients.
#[derive(Debug, Clone, PartialEq)]
pub struct Cohort {
    pub images: Vec<Image>,
    /// Names of the columns besides those of [`Image`], in the table's order.
    pub columns: Vec<String>,
    /// Rows that are not used.
    pub rejected: Vec<Reject>,
    /// Columns that say whether there is a disease.
    pub labels: Vec<String>,
    /// Of the table, what was read of it, and the sizes of its files.
    pub digest: Digest,
}

/// An image, and what the table says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Of the table; its header is line 1.
    pub line: usize,
    pub file: PathBuf,
    /// The file as the table has it.
    pub name: String,
    pub patient: String,
    /// Images of a patient with the same value are one study.
    pub study: String,
    /// Place of the self-reported group among those of the race model.
    pub group: usize,
    pub part: Part,
    /// Of the lungs, in the geometry of the image.
    pub mask: Option<PathBuf>,
    /// In the order of [`Cohort::columns`]; empty where nothing is known.
    pub values: Vec<String>,
}

/// A row that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The header is line 1.
    pub line: usize,
    pub file: String,
    pub reason: String,
}

impl Cohort {
    /// Reads a table. `groups` are the race model's keys, `names` translates the table's. `labels` are columns that say
    /// whether there is a disease; where none are named, those are that hold nothing but −1, 0 and 1.
    ///
    /// # Errors
    /// A column is missing, a patient is in two parts, a file is listed twice, or no row can be used.
    pub fn read(
        path: &Path,
        groups: &[String],
        names: &BTreeMap<String, String>,
        labels: &[String],
    ) -> anyhow::Result<Self> {
        let table = Table::read(path)?;
        let place = |column: &str| table.place(column);
        for needed in ["file", "patient", "group"] {
            ensure!(place(needed).is_some(), "{} has no column {needed}", path.display());
        }
        let columns: Vec<(usize, &String)> =
            table.columns.iter().enumerate().filter(|(_, name)| !COLUMNS.contains(&name.as_str())).collect();
        let folder = path.parent().unwrap_or(Path::new(""));
        let reader = Reader { table: &table, folder, groups, names, columns: &columns };
        let several = reader.patients_with_several_groups();
        let (mut images, mut rejected, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut parts: HashMap<String, (Part, usize)> = HashMap::new();
        for (row, line) in table.rows.iter().zip(2..) {
            match reader.image(row, line, &several) {
                Ok(image) => {
                    ensure!(seen.insert(image.file.clone()), "line {line}: {} is listed twice", image.name);
                    let (part, first) = *parts.entry(image.patient.clone()).or_insert((image.part, line));
                    ensure!(part == image.part, "lines {first} and {line} are of one patient, but in different parts");
                    images.push(image);
                }
                Err(reason) => {
                    let file = place("file").and_then(|at| row.get(at)).cloned().unwrap_or_default();
                    rejected.push(Reject { line, file, reason });
                }
            }
        }
        if images.is_empty() {
            let first = rejected.first().map_or(String::new(), |r| format!("; line {}: {}", r.line, r.reason));
            anyhow::bail!("no row of {} can be used{first}", path.display());
        }
        // By no order of the table: where images of a batch bear on one another, neighbours are nobody's choice.
        images.sort_by_cached_key(|image| Digest::of(image.name.as_bytes()).to_string());
        let columns = columns.iter().map(|(_, name)| (*name).clone()).collect();
        let mut cohort = Self { images, columns, rejected, labels: labels.to_vec(), digest: table.digest.clone() };
        if let Some(missing) = labels.iter().find(|label| !cohort.columns.contains(label)) {
            anyhow::bail!("{} has no column {missing} for this disease", path.display());
        }
        if labels.is_empty() {
            cohort.labels = cohort.guessed_labels();
        }
        for name in labels {
            let values = cohort.column(name).unwrap_or_default();
            let odd = values.iter().zip(&cohort.images).find(|(value, _)| label(value).is_err());
            if let Some((value, image)) = odd {
                anyhow::bail!("line {}: {name} is {value:?}: a disease label is 1, 0, -1 or nothing", image.line);
            }
        }
        cohort.digest = digest(&table, &cohort);
        Ok(cohort)
    }

    /// Values of a column, image by image.
    pub fn column(&self, name: &str) -> Option<Vec<&str>> {
        let place = self.columns.iter().position(|column| column == name)?;
        Some(self.images.iter().map(|image| image.values[place].as_str()).collect())
    }

    /// Columns of no covariate's name with nothing in them but −1, 0, 1.
    pub(super) fn guessed_labels(&self) -> Vec<String> {
        let is_label = |(place, name): &(usize, &String)| {
            let value = |image: &Image| label(&image.values[*place]);
            let known: Vec<f64> = self.images.iter().filter_map(|image| value(image).ok().flatten()).collect();
            let all = self.images.iter().all(|image| value(image).is_ok());
            all && !known.is_empty() && !COVARIATES.contains(&name.as_str())
        };
        self.columns.iter().enumerate().filter(is_label).map(|(_, name)| name.clone()).collect()
    }

    /// The images at these places, in a cohort of the same columns.
    pub fn subset(&self, places: &[usize]) -> Self {
        let images = places.iter().map(|place| self.images[*place].clone()).collect();
        Self { images, rejected: Vec::new(), ..self.clone() }
    }

    /// Places of the images of a part.
    pub fn of_part(&self, part: Part) -> Vec<usize> {
        (0..self.images.len()).filter(|i| self.images[*i].part == part).collect()
    }

    /// A number for each patient, image by image.
    pub fn patients(&self) -> Vec<usize> {
        numbered(self.images.iter().map(|image| image.patient.clone()))
    }

    /// A number for each study, image by image.
    pub fn studies(&self) -> Vec<usize> {
        numbered(self.images.iter().map(|image| (image.patient.clone(), image.study.clone())))
    }
}

/// −1, 0 or 1 as such, nothing as `None`.
pub(super) fn label(text: &str) -> Result<Option<f64>, ()> {
    if text.is_empty() || text.eq_ignore_ascii_case("nan") {
        return Ok(None);
    }
    let value = text.parse::<f64>().map_err(|_| ())?;
    [-1.0, 0.0, 1.0].contains(&value).then_some(Some(value)).ok_or(())
}

/// Numbers from 0 in the order of the first that has each.
pub(super) fn numbered<T: std::hash::Hash + Eq>(values: impl Iterator<Item = T>) -> Vec<usize> {
    let mut known = HashMap::new();
    values
        .map(|value| {
            let next = known.len();
            *known.entry(value).or_insert(next)
        })
        .collect()
}

/// The group among these that a table means; case does not count, nor what stands behind a slash (CheXpert's and MIMIC's
/// "BLACK/AFRICAN AMERICAN").
pub(super) fn group_of(said: &str, groups: &[String], names: &BTreeMap<String, String>) -> Option<usize> {
    let meant = names.get(said).map_or(said, String::as_str);
    let place = |part: &str| groups.iter().position(|group| group.eq_ignore_ascii_case(part.trim()));
    let mut parts = meant.split('/');
    let first = place(parts.next().unwrap_or_default())?;
    // Who names two of the groups is of neither alone.
    parts.all(|part| place(part).is_none_or(|other| other == first)).then_some(first)
}

struct Reader<'a> {
    table: &'a Table,
    folder: &'a Path,
    groups: &'a [String],
    names: &'a BTreeMap<String, String>,
    columns: &'a [(usize, &'a String)],
}

impl Reader<'_> {
    fn value<'b>(&self, row: &'b [String], column: &str) -> &'b str {
        self.table.place(column).and_then(|at| row.get(at)).map_or("", String::as_str)
    }

    fn group(&self, row: &[String]) -> Option<usize> {
        group_of(self.value(row, "group"), self.groups, self.names)
    }

    fn patients_with_several_groups(&self) -> BTreeSet<String> {
        let mut first: HashMap<&str, (Option<usize>, &str)> = HashMap::new();
        let mut several = BTreeSet::new();
        for row in &self.table.rows {
            let (patient, said) = (self.value(row, "patient"), self.value(row, "group"));
            let group = self.group(row);
            let group = (group, if group.is_some() { "" } else { said });
            if !said.is_empty() && *first.entry(patient).or_insert(group) != group {
                several.insert(patient.to_owned());
            }
        }
        several
    }

    fn image(&self, row: &[String], line: usize, several: &BTreeSet<String>) -> Result<Image, String> {
        let (name, patient) = (self.value(row, "file"), self.value(row, "patient"));
        if name.is_empty() {
            return Err("it names no file".to_owned());
        }
        if patient.is_empty() {
            return Err("no patient".to_owned());
        }
        if several.contains(patient) {
            return Err("the patient has more than one group".to_owned());
        }
        let group = match (self.value(row, "group"), self.group(row)) {
            ("", _) => return Err("no group".to_owned()),
            (said, None) => return Err(format!("the race model has no group {said:?}")),
            (_, Some(group)) => group,
        };
        let said = self.value(row, "split");
        // Without a part an image is for tests.
        let part = if said.is_empty() { Some(Part::Test) } else { Part::parse(&said.to_ascii_lowercase()) };
        let part = part.ok_or_else(|| format!("split is {said:?}: train, validation or test"))?;
        let study = match self.value(row, "study") {
            "" => name,
            study => study,
        };
        Ok(Image {
            line,
            file: self.folder.join(name),
            name: name.to_owned(),
            patient: patient.to_owned(),
            study: study.to_owned(),
            group,
            part,
            mask: Some(self.value(row, "mask")).filter(|mask| !mask.is_empty()).map(|mask| self.folder.join(mask)),
            values: self
                .columns
                .iter()
                .map(|(at, name)| {
                    let value = row.get(*at).map_or("", String::as_str);
                    let years = if *name == "age" { years(value) } else { None };
                    years.map_or(value.to_owned(), |years| years.to_string())
                })
                .collect(),
        })
    }
}

/// An age as DICOM's Age String has it (PS3.5 §6.2: 063Y, 018M, 006W, 004D), in years.
pub(super) fn years(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: f64 = number.parse::<u16>().ok()?.into();
    let years = match unit {
        "Y" => number,
        "M" => number / 12.0,
        "W" => number * 7.0 / 365.25,
        "D" => number / 365.25,
        _ => return None,
    };
    Some(years)
}

/// Of the table, of what was read of it, which labels count, and of the sizes of the files that it names: whoever changes an image seldom keeps
/// its size.
fn digest(table: &Table, cohort: &Cohort) -> Digest {
    let mut text = format!("{} {:?}", table.digest, cohort.labels);
    for image in &cohort.images {
        let size = |file: &Path| std::fs::metadata(file).map_or(0, |m| m.len());
        let mask = image.mask.as_deref().map_or(0, size);
        let Image { name, patient, study, group, part, .. } = image;
        text.push_str(&format!("\n{name:?} {patient:?} {study:?} {group} {part:?} {} {mask}", size(&image.file)));
    }
    Digest::of(text.as_bytes())
}

#[cfg(test)]
pub(super) mod fixtures {
    use super::*;

    /// So many images, each of a patient of its own, groups 0 and 1 in turn.
    pub(in crate::probe) fn cohort(images: usize) -> Cohort {
        let image = |i: usize| Image {
            line: i + 2,
            file: PathBuf::from(format!("{i}.png")),
            name: format!("{i}.png"),
            patient: format!("p{i}"),
            study: format!("{i}.png"),
            group: i % 2,
            part: Part::Test,
            mask: None,
            values: Vec::new(),
        };
        let images = (0..images).map(image).collect();
        Cohort { images, columns: Vec::new(), rejected: Vec::new(), labels: Vec::new(), digest: Digest::of(b"") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_of_headers_are_years() {
        assert_eq!(
            ["063Y", "018M", "63", "Y", "", "0x3Y", "7é"].map(years),
            [Some(63.0), Some(1.5), None, None, None, None, None]
        );
        assert!((years("006W").unwrap() - 0.115).abs() < 1e-4 && years("004D").unwrap() < 0.011);
    }

    fn groups() -> Vec<String> {
        ["Asian", "Black", "White"].map(str::to_owned).into()
    }

    fn read(text: &str) -> anyhow::Result<Cohort> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cohort.csv");
        std::fs::write(&path, text).unwrap();
        Cohort::read(&path, &groups(), &BTreeMap::from([("B".to_owned(), "Black".to_owned())]), &[])
    }

    #[test]
    fn a_cohort_has_what_its_table_says() {
        let cohort = read(
            "file,Patient,study,group,split,mask,AGE,mass,odd\n\
             a.png,1,x,WHITE,train,,50,1,7\nb.png,1,x,white,train,m.png,,-1,\nc.png,2,,B,train,,61,,2\n",
        )
        .unwrap();
        let place = |name: &str| cohort.images.iter().position(|image| image.name == name).unwrap();
        let [a, b, c] = ["a.png", "b.png", "c.png"].map(place);
        let of = |i: usize| &cohort.images[i];
        assert_eq!((of(a).group, of(c).group, of(a).part), (2, 1, Part::Train));
        assert_eq!((of(b).mask.is_some(), of(c).study.as_str()), (true, "c.png"));
        assert_eq!(cohort.labels, ["mass"]);
        let ages = cohort.column("age").unwrap();
        assert_eq!([ages[a], ages[b], ages[c]], ["50", "", "61"]);
        let (patients, studies) = (cohort.patients(), cohort.studies());
        assert!(patients[a] == patients[b] && patients[a] != patients[c] && studies[a] == studies[b]);
    }

    #[test]
    fn rows_that_cannot_be_used_say_why() {
        let cohort = read(
            "file,patient,group,split\na.png,1,White,\n,2,White,\nb.png,,White,\nc.png,3,,\nd.png,4,Green,\n\
             e.png,5,Black,maybe\nf.png,6,Black,\ng.png,6,White,\n",
        )
        .unwrap();
        let reasons: Vec<(usize, &str)> = cohort.rejected.iter().map(|r| (r.line, r.reason.as_str())).collect();
        assert_eq!(cohort.images.len(), 1);
        assert_eq!(
            reasons,
            [
                (3, "it names no file"),
                (4, "no patient"),
                (5, "no group"),
                (6, "the race model has no group \"Green\""),
                (7, "split is \"maybe\": train, validation or test"),
                (8, "the patient has more than one group"),
                (9, "the patient has more than one group"),
            ]
        );
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        let refused = |text: &str, says: &str| {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(says), "{error}");
        };
        refused("file,group\na.png,White\n", "has no column patient");
        refused("file,patient,group,group\na.png,1,White,White\n", "two columns \"group\"");
        refused("file,patient,group\na.png,1,White\na.png,1,White\n", "line 3: a.png is listed twice");
        refused("file,patient,group\na.png,1,Green\n", "line 2: the race model has no group");
        refused("file,patient,group,split\na.png,1,White,train\nb.png,1,White,test\n", "lines 2 and 3");
        refused("", "has no columns");
        refused("PAR1 is not what this is", "cannot be read");
    }
}
