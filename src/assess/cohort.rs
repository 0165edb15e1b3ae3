//! A labelled cohort: the scores of `analyse` joined with the site's labels.
//!
//! `result.json` says what the models made of each study, `labels.csv` (one line per image) what is true of it, and so
//! does the node's index ([`Labelled`]). A study's outcome is the largest over its images. Values that make no sense
//! are errors that name line and column; studies that merely cannot be used are left out and counted by reason.
//! Neighbours: `fit` takes the [`Cohort`]. Left out: reading files and the index.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::Deserialize;

use crate::domain::Digest;

/// One finding of one study.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub patient: String,
    pub study: String,
    /// Key of the finding.
    pub finding: String,
    /// The clinical model's score, 0..1.
    pub score: f64,
    /// Whether the finding is truly there.
    pub outcome: bool,
    /// Key of the self-reported group.
    pub group: String,
    /// The race model's probabilities in the order of the cohort's groups, where it ran.
    pub posteriors: Option<Vec<f64>>,
    /// The study's views, joined by `+`; empty if unknown.
    pub view: String,
    pub date: Option<NaiveDate>,
}

/// A finding and the deployed model that scores it.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingModel {
    pub finding: String,
    /// [`crate::domain::ModelIdentity::key`].
    pub model: String,
    /// Positive at or above it.
    pub threshold: f64,
}

/// Rows and the models that their numbers come from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cohort {
    /// Key of the race model, where it ran.
    pub race_model: Option<String>,
    /// Digest of the site's mix by which its posteriors were reweighed, if they were.
    pub race_prior: Option<Digest>,
    /// By key of a model, the digest of what in its card changes scores.
    pub cards: BTreeMap<String, Digest>,
    /// Keys of the groups, in the order of the race model's outputs.
    pub groups: Vec<String>,
    pub findings: Vec<FindingModel>,
    pub rows: Vec<Row>,
    /// Why studies or single findings of studies are not among the rows, and how many.
    pub left_out: BTreeMap<&'static str, usize>,
}

/// Why there is no cohort.
#[derive(Debug, thiserror::Error)]
pub enum CohortError {
    #[error("result.json is not a result of `sidelight analyse`: {0}")]
    Result(#[from] serde_json::Error),
    #[error("result.json has format {0}, this version reads format 1: run `sidelight analyse` again")]
    Format(u64),
    #[error("result.json: study {study}: {fault}")]
    Study { study: String, fault: String },
    #[error("labels.csv is not readable as CSV: {0}")]
    Csv(#[from] csv::Error),
    #[error("labels.csv has no column {column:?}; it needs patient, study, group and one column per finding")]
    Column { column: String },
    #[error("labels.csv line {line}, column {column:?}: {value:?} {rule}")]
    Cell { line: u64, column: String, value: String, rule: &'static str },
    #[error("no study of result.json has a line in labels.csv: are both from the same cohort?")]
    NothingJoined,
}

/// What the node's index knows to be true of one study.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labelled {
    pub study: String,
    pub patient: String,
    /// Key of the self-reported group; empty where there is none.
    pub group: String,
    pub views: BTreeSet<String>,
    pub date: Option<NaiveDate>,
    pub outcomes: BTreeMap<String, bool>,
}

/// Joins the bytes of `result.json` and `labels.csv`.
pub fn read(result_json: &[u8], labels_csv: &[u8]) -> Result<Cohort, CohortError> {
    join(result_json, Some(labels_csv), Vec::new())
}

/// Joins scores with labels of a file, of the index, or of both. A study of which the two say different things is left
/// out.
pub fn join(result_json: &[u8], labels_csv: Option<&[u8]>, indexed: Vec<Labelled>) -> Result<Cohort, CohortError> {
    let results: Results = serde_json::from_slice(result_json)?;
    if results.format != 1 {
        return Err(CohortError::Format(results.format));
    }
    let findings: Vec<FindingModel> = results
        .models
        .clinical
        .iter()
        .flat_map(|m| m.findings.iter().map(|f| (m.key.clone(), f)))
        .map(|(model, f)| FindingModel { finding: f.key.clone(), model, threshold: f.threshold })
        .collect();
    let mut labels = labels_csv.map(|csv| labels(csv, &findings)).transpose()?.unwrap_or_default();
    let contradicted = add_indexed(&mut labels, indexed);
    let groups = match &results.models.race {
        Some(race) => race.groups.clone(),
        None => labels
            .values()
            .map(|l| l.group.clone())
            .filter(|g| !g.is_empty())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    };
    let of_race = results.models.race.iter().map(|m| (&m.key, &m.card));
    let of_all = of_race.chain(results.models.clinical.iter().map(|m| (&m.key, &m.card)));
    let cards = of_all.filter_map(|(key, card)| Some((key.clone(), card.clone()?))).collect();
    let (race_model, race_prior) = results.models.race.map(|r| (r.key, r.prior)).unzip();
    let race_prior = race_prior.flatten();
    let mut cohort = Cohort { race_model, race_prior, cards, groups, findings, ..Cohort::default() };
    let mixed = patients_of_two_groups(&labels);
    let mut joined = false;
    for study in &results.studies {
        joined |= labels.contains_key(&study.study);
        if contradicted.contains(&study.study) {
            *cohort.left_out.entry("labels of the index and of the file contradict each other").or_default() += 1;
            continue;
        }
        match usable(study, &labels, &mixed, &cohort.groups) {
            Ok(label) => add(&mut cohort, study, label)?,
            Err(reason) => *cohort.left_out.entry(reason).or_default() += 1,
        }
    }
    if !joined {
        return Err(CohortError::NothingJoined);
    }
    Ok(cohort)
}

/// The parts of `result.json` that matter here; other fields are ignored.
#[derive(Debug, Deserialize)]
struct Results {
    format: u64,
    models: ResultModels,
    studies: Vec<ResultStudy>,
}

#[derive(Debug, Deserialize)]
struct ResultModels {
    race: Option<ResultRace>,
    clinical: Vec<ResultClinical>,
}

#[derive(Debug, Deserialize)]
struct ResultRace {
    key: String,
    groups: Vec<String>,
    #[serde(default)]
    prior: Option<Digest>,
    #[serde(default)]
    card: Option<Digest>,
}

#[derive(Debug, Deserialize)]
struct ResultClinical {
    key: String,
    #[serde(default)]
    card: Option<Digest>,
    findings: Vec<ResultThreshold>,
}

#[derive(Debug, Deserialize)]
struct ResultThreshold {
    key: String,
    threshold: f64,
}

#[derive(Debug, Deserialize)]
struct ResultStudy {
    study: String,
    state: String,
    race: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    findings: Vec<ResultFinding>,
}

#[derive(Debug, Deserialize)]
struct ResultFinding {
    key: String,
    model: String,
    /// Absent where a clinical result from elsewhere is missing or contradicts itself.
    score: Option<f64>,
}

/// What the labels say of one study.
#[derive(Debug, Default)]
struct StudyLabel {
    patient: String,
    group: String,
    views: BTreeSet<String>,
    date: Option<NaiveDate>,
    outcomes: BTreeMap<String, bool>,
}

fn labels(bytes: &[u8], findings: &[FindingModel]) -> Result<BTreeMap<String, StudyLabel>, CohortError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let headers = reader.headers()?.clone();
    let position = |name: &str| headers.iter().position(|h| h == name);
    let needed = |name: &str| position(name).ok_or_else(|| CohortError::Column { column: name.to_owned() });
    let (patient, study, group) = (needed("patient")?, needed("study")?, needed("group")?);
    let (view, date) = (position("view"), position("date"));
    let outcomes =
        findings.iter().map(|f| Ok((&f.finding, needed(&f.finding)?))).collect::<Result<Vec<_>, CohortError>>()?;
    let mut labels: BTreeMap<String, StudyLabel> = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        let cell = |column: usize| record.get(column).unwrap_or("");
        let fault = |column: usize, rule| CohortError::Cell {
            line: record.position().map_or(0, csv::Position::line),
            column: headers.get(column).unwrap_or("").to_owned(),
            value: cell(column).chars().take(80).collect(),
            rule,
        };
        for column in [patient, study] {
            if cell(column).is_empty() {
                return Err(fault(column, "is empty, every line needs one"));
            }
        }
        let label = labels.entry(cell(study).to_owned()).or_insert_with(|| StudyLabel {
            patient: cell(patient).to_owned(),
            group: cell(group).to_owned(),
            ..StudyLabel::default()
        });
        if label.patient != cell(patient) {
            return Err(fault(patient, "differs from another line of the same study"));
        }
        if label.group != cell(group) {
            return Err(fault(group, "differs from another line of the same study"));
        }
        if let Some(text) = view.map(cell).filter(|t| !t.is_empty()) {
            label.views.insert(text.to_owned());
        }
        if let Some(column) = date.filter(|&c| !cell(c).is_empty()) {
            label.date = Some(parse_date(cell(column)).ok_or_else(|| fault(column, "is no date like 2024-01-31"))?);
        }
        for &(finding, column) in &outcomes {
            let value = match cell(column) {
                "" => continue,
                "0" => false,
                "1" => true,
                _ => return Err(fault(column, "is neither 0 nor 1 nor empty")),
            };
            *label.outcomes.entry(finding.clone()).or_default() |= value;
        }
    }
    Ok(labels)
}

/// Adds what the index knows; the studies of which it says something else than the file.
fn add_indexed(labels: &mut BTreeMap<String, StudyLabel>, indexed: Vec<Labelled>) -> BTreeSet<String> {
    let mut contradicted = BTreeSet::new();
    for Labelled { study, patient, group, views, date, outcomes } in indexed {
        let new = StudyLabel { patient, group, views, date, outcomes };
        let Some(own) = labels.get_mut(&study) else {
            labels.insert(study, new);
            continue;
        };
        let differ = |(finding, value): (&String, &bool)| new.outcomes.get(finding).is_some_and(|v| v != value);
        let two_groups = !own.group.is_empty() && !new.group.is_empty() && own.group != new.group;
        if own.patient != new.patient || two_groups || own.outcomes.iter().any(differ) {
            contradicted.insert(study);
            continue;
        }
        if own.group.is_empty() {
            own.group = new.group;
        }
        own.views.extend(new.views);
        own.date = own.date.or(new.date);
        own.outcomes.extend(new.outcomes);
    }
    contradicted
}

fn parse_date(text: &str) -> Option<NaiveDate> {
    ["%Y-%m-%d", "%Y%m%d"].iter().find_map(|format| NaiveDate::parse_from_str(text, format).ok())
}

fn patients_of_two_groups(labels: &BTreeMap<String, StudyLabel>) -> BTreeSet<&str> {
    let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
    let mut mixed = BTreeSet::new();
    for label in labels.values() {
        if *groups.entry(&label.patient).or_insert(&label.group) != label.group {
            mixed.insert(label.patient.as_str());
        }
    }
    mixed
}

fn usable<'a>(
    study: &ResultStudy,
    labels: &'a BTreeMap<String, StudyLabel>,
    mixed: &BTreeSet<&str>,
    groups: &[String],
) -> Result<&'a StudyLabel, &'static str> {
    if study.state != "reported" {
        return Err("study was not reported");
    }
    let label = labels.get(&study.study).ok_or("study has no label")?;
    if mixed.contains(label.patient.as_str()) {
        return Err("patient has two self-reported groups");
    }
    if label.group.is_empty() {
        return Err("no self-reported group");
    }
    if !groups.contains(&label.group) {
        return Err("self-reported group is none of the race model's");
    }
    Ok(label)
}

/// Appends one row for every finding that is scored and labelled.
fn add(cohort: &mut Cohort, study: &ResultStudy, label: &StudyLabel) -> Result<(), CohortError> {
    let fault = |fault: String| CohortError::Study { study: study.study.chars().take(64).collect(), fault };
    let posteriors = match (&study.race, &cohort.race_model) {
        (Some(race), Some(_)) => {
            let values: Option<Vec<f64>> = cohort.groups.iter().map(|g| race.get(g).copied()).collect();
            Some(values.ok_or_else(|| fault("race has no value for one of models.race.groups".into()))?)
        }
        _ => None,
    };
    for deployed in &cohort.findings {
        let Some(scored) = study.findings.iter().find(|f| f.key == deployed.finding) else {
            *cohort.left_out.entry("finding was not scored").or_default() += 1;
            continue;
        };
        if scored.model != deployed.model {
            return Err(fault(format!("finding {} was scored by another model than models.clinical says", scored.key)));
        }
        let Some(score) = scored.score else {
            *cohort.left_out.entry("finding has no score").or_default() += 1;
            continue;
        };
        if !(0.0..=1.0).contains(&score) {
            return Err(fault(format!("the score of finding {} is not between 0 and 1", scored.key)));
        }
        let Some(&outcome) = label.outcomes.get(&deployed.finding) else {
            *cohort.left_out.entry("finding has no label").or_default() += 1;
            continue;
        };
        cohort.rows.push(Row {
            patient: label.patient.clone(),
            study: study.study.clone(),
            finding: deployed.finding.clone(),
            score,
            outcome,
            group: label.group.clone(),
            posteriors: posteriors.clone(),
            view: label.views.iter().cloned().collect::<Vec<_>>().join("+"),
            date: label.date,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"format":1,"tool":"ignored","models":{"race":{"key":"race@1#a","groups":["A","B"]},
        "clinical":[{"key":"clin@1#b","findings":[{"key":"pneumothorax","threshold":0.5}]}]},"studies":[
        {"study":"1.1","state":"reported","race":{"B":0.3,"A":0.7},
         "findings":[{"key":"pneumothorax","model":"clin@1#b","score":0.25,"level":"indeterminate"}]},
        {"study":"1.2","state":"refused"},
        {"study":"1.3","state":"reported","race":null,"findings":[{"key":"pneumothorax","model":"clin@1#b","score":1.0}]},
        {"study":"1.4","state":"reported","findings":[]},
        {"study":"1.5","state":"reported","findings":[]}]}"#;
    const LABELS: &str = "patient,study,instance,group,view,date,pneumothorax\n\
        p1,1.1,9.1,A,PA,2024-02-01,0\np1,1.1,9.2,A,LATERAL,20240201,1\np2,1.2,9.3,B,PA,,0\n\
        p3,1.3,9.4,B,PA,,\np4,1.4,9.5,C,PA,,1\np4,1.6,9.6,C,PA,,1\n";

    #[test]
    fn a_study_takes_the_largest_outcome_of_its_images() {
        let cohort = read(RESULT.as_bytes(), LABELS.as_bytes()).unwrap();
        assert_eq!(cohort.rows.len(), 1);
        let row = &cohort.rows[0];
        assert_eq!((row.patient.as_str(), row.outcome, row.score), ("p1", true, 0.25));
        assert_eq!(row.posteriors, Some(vec![0.7, 0.3]));
        assert_eq!((row.view.as_str(), row.date), ("LATERAL+PA", NaiveDate::from_ymd_opt(2024, 2, 1)));
        assert_eq!(cohort.findings[0].threshold, 0.5);
    }

    #[test]
    fn what_cannot_be_used_is_counted_by_reason() {
        let cohort = read(RESULT.as_bytes(), LABELS.as_bytes()).unwrap();
        let expected = [
            ("finding has no label", 1),
            ("self-reported group is none of the race model's", 1),
            ("study has no label", 1),
            ("study was not reported", 1),
        ];
        assert_eq!(cohort.left_out, BTreeMap::from(expected));
        let two = LABELS.replace("p3,", "p1,");
        let cohort = read(RESULT.as_bytes(), two.as_bytes()).unwrap();
        assert_eq!((cohort.rows.len(), cohort.left_out["patient has two self-reported groups"]), (0, 2));
    }

    #[test]
    fn a_study_whose_result_did_not_come_takes_no_other_with_it() {
        let missing = r#"{"study":"1.2","state":"reported","findings":[{"key":"pneumothorax","model":"clin@1#b","score":null,
            "reasons":["IND-FAILED"]}]}"#;
        let result = RESULT.replace(r#"{"study":"1.2","state":"refused"}"#, missing);
        let cohort = read(result.as_bytes(), LABELS.as_bytes()).unwrap();
        assert_eq!((cohort.rows.len(), cohort.left_out["finding has no score"]), (1, 1));
    }

    #[test]
    fn without_a_race_model_the_groups_are_those_of_the_labels() {
        let result = RESULT.replace(r#""race":{"key":"race@1#a","groups":["A","B"]},"#, r#""race":null,"#);
        let cohort = read(result.as_bytes(), LABELS.as_bytes()).unwrap();
        assert_eq!(cohort.groups, ["A", "B", "C"]);
        assert_eq!((cohort.race_model, &cohort.rows[0].posteriors), (None, &None));
    }

    #[test]
    fn the_index_adds_what_a_file_lacks_and_contradictions_are_left_out() {
        let labelled = |study: &str, patient: &str, group: &str, outcome: Option<bool>| Labelled {
            study: study.into(),
            patient: patient.into(),
            group: group.into(),
            outcomes: outcome.map(|v| ("pneumothorax".to_owned(), v)).into_iter().collect(),
            ..Labelled::default()
        };
        let result = RESULT.replace(
            r#"{"study":"1.4","state":"reported","findings":[]}"#,
            r#"{"study":"1.4","state":"reported","findings":[{"key":"pneumothorax","model":"clin@1#b","score":0.5}]}"#,
        );
        let alone = join(result.as_bytes(), None, vec![labelled("1.3", "p3", "B", Some(true))]).unwrap();
        assert_eq!((alone.rows.len(), alone.rows[0].group.as_str(), alone.rows[0].outcome), (1, "B", true));
        // The file knows group and patient of 1.3 and no outcome; of 1.1 it says something else.
        let both = |indexed| join(result.as_bytes(), Some(LABELS.as_bytes()), indexed).unwrap();
        let cohort = both(vec![labelled("1.3", "p3", "", Some(true)), labelled("1.1", "p1", "A", Some(false))]);
        assert_eq!(cohort.rows.iter().map(|r| r.study.as_str()).collect::<Vec<_>>(), ["1.3"]);
        assert_eq!(cohort.left_out["labels of the index and of the file contradict each other"], 1);
        for other in [labelled("1.1", "p9", "A", None), labelled("1.1", "p1", "B", None)] {
            assert!(both(vec![other]).rows.is_empty());
        }
        assert_eq!(both(vec![labelled("1.1", "p1", "A", Some(true))]).rows.len(), 1);
    }

    #[test]
    fn faults_name_their_place() {
        let check = |result: &str, labels: &str, message: &str| {
            let error = read(result.as_bytes(), labels.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        check(RESULT, &LABELS.replace("2024-02-01,0", "2024-02-01,x"), "neither 0 nor 1");
        check(RESULT, &LABELS.replace("20240201,1", "20240201,-1"), r#"line 3, column "pneumothorax": "-1""#);
        check(RESULT, &LABELS.replace("2024-02-01", "yesterday"), r#"line 2, column "date""#);
        check(RESULT, &LABELS.replace("p1,1.1,9.2", ",1.1,9.2"), r#"line 3, column "patient": "" is empty"#);
        check(RESULT, &LABELS.replace("9.2,A", "9.2,B"), "differs from another line");
        check(RESULT, &LABELS.replace("group", "race"), r#"no column "group""#);
        check(
            RESULT,
            &LABELS.replace("1.1", "7.1").replace("1.2", "7.2").replace("1.3", "7.3").replace("1.4", "7.4"),
            "same cohort",
        );
        check(&RESULT.replace("\"format\":1", "\"format\":2"), LABELS, "format 2");
        check(&RESULT.replace("0.25", "1.25"), LABELS, "study 1.1: the score of finding pneumothorax");
        check(&RESULT.replace("\"B\":0.3,", ""), LABELS, "models.race.groups");
        check(&RESULT.replacen("\"model\":\"clin@1#b\"", "\"model\":\"other\"", 1), LABELS, "another model");
        check("[1", LABELS, "not a result");
    }
}
