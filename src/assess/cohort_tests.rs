//! Joining scores and labels: what counts, what is left out, what is a fault.

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
fn a_study_without_a_group_has_its_patients() {
    let scored =
        r#"{"study":"1.4","state":"reported","findings":[{"key":"pneumothorax","model":"clin@1#b","score":0.5}]}"#;
    let result = RESULT.replace(r#"{"study":"1.4","state":"reported","findings":[]}"#, scored);
    let labels = "patient,study,group,pneumothorax\np1,1.4,,1\np1,1.1,,1\np1,1.1,A,0\np2,1.3,,1\n";
    let cohort = read(result.as_bytes(), labels.as_bytes()).unwrap();
    let rows: Vec<(&str, &str)> = cohort.rows.iter().map(|r| (r.study.as_str(), r.group.as_str())).collect();
    assert_eq!(rows, [("1.1", "A"), ("1.4", "A")]);
    assert_eq!(cohort.left_out["no self-reported group"], 1);
}

#[test]
fn who_says_no_one_group_is_left_out_and_counted() {
    let labelled = |study: &str, no_group| Labelled { study: study.into(), no_group, ..Labelled::default() };
    let several = Some("several self-reported groups");
    let cohort = join(RESULT.as_bytes(), None, vec![labelled("1.1", several), labelled("1.3", several)]).unwrap();
    assert!(cohort.rows.is_empty());
    assert_eq!(cohort.left_out["several self-reported groups"], 2);
    // A file that gives the study one group says another thing; one that gives none says nothing against it.
    let cohort = join(RESULT.as_bytes(), Some(LABELS.as_bytes()), vec![labelled("1.1", several)]).unwrap();
    assert_eq!(cohort.left_out["labels of the index and of the file contradict each other"], 1);
    assert!(cohort.rows.iter().all(|row| row.study != "1.1"));
}

#[test]
fn patients_of_two_issuers_are_two_people() {
    let labelled = |study: &str, issuer: &str, group: &str| Labelled {
        study: study.into(),
        patient: "p1".into(),
        issuer: issuer.into(),
        group: group.into(),
        outcomes: BTreeMap::from([("pneumothorax".to_owned(), true)]),
        ..Labelled::default()
    };
    let people = |indexed| {
        let cohort = join(RESULT.as_bytes(), None, indexed).unwrap();
        (cohort.rows.len(), cohort.rows.iter().map(|r| r.patient.as_str()).collect::<BTreeSet<_>>().len())
    };
    assert_eq!(people(vec![labelled("1.1", "x", "A"), labelled("1.3", "y", "B")]), (2, 2));
    assert_eq!(people(vec![labelled("1.1", "x", "A"), labelled("1.3", "y", "A")]), (2, 2));
    assert_eq!(people(vec![labelled("1.1", "x", "A"), labelled("1.3", "x", "A")]), (2, 1));
    assert_eq!(people(vec![labelled("1.1", "", "A"), labelled("1.3", "", "B")]), (0, 0));
}

#[test]
fn what_a_model_does_not_know_is_not_fitted() {
    let beyond = |model: &str| {
        RESULT.replacen(
            r#""state":"reported","#,
            &format!(r#""state":"reported","ood":{{"{model}":{{"beyond":true,"score":9}}}},"#),
            1,
        )
    };
    let clinical = read(beyond("clin@1#b").as_bytes(), LABELS.as_bytes()).unwrap();
    assert_eq!((clinical.rows.len(), clinical.left_out["study lies outside what the clinical model knows"]), (0, 1));
    let race = read(beyond("race@1#a").as_bytes(), LABELS.as_bytes()).unwrap();
    assert_eq!((race.rows.len(), &race.rows[0].posteriors), (1, &None));
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
