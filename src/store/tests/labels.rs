//! Labels in the index: what is taken, what contradicts, what goes with its study, how studies are found.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::NaiveDate;

use super::*;
use crate::results::{
    At, Covariate, GroupName, Hit, Outcome, Placed, Reach, Says, SelfReport, Source, Vocabulary, Wanted,
};
use crate::store::labels::stored;
use crate::store::{LabelOptions, LabelsImported, StudyLabels};

/// A statement from line 2 on, of a patient with these studies; outcomes are of the first.
type Said<'a> = (&'a [&'a str], Option<&'a str>, &'a [(&'a str, bool)]);

fn vocabulary() -> Vocabulary {
    let group = |key: &str, code: &str| GroupName { key: key.into(), code: code.into() };
    let groups = vec![group("A", "2028-9"), group("B", "2054-5")];
    Vocabulary::new(["ptx", "effusion"].map(str::to_owned), groups, &[])
}

fn statements(rows: &[Said<'_>]) -> Vec<Placed> {
    let vocabulary = vocabulary();
    let one = |(line, (patient, race, outcomes)): (usize, &Said<'_>)| {
        let person = race.map(|race| SelfReport::of_race(race.split(',').map(str::to_owned)).unwrap());
        let outcome =
            |(key, present): &(&str, bool)| Outcome { finding: vocabulary.finding(key).unwrap(), present: *present };
        Placed {
            hits: if outcomes.is_empty() { vec![] } else { vec![Hit { study: uid(patient[0]), days: 0 }] },
            everyone: match &person {
                Some(_) => patient.iter().map(|study| uid(study)).collect(),
                None => Arc::default(),
            },
            says: Says {
                at: At { file: 0, line: line as u64 + 2 },
                source: Source::Csv,
                by_image: false,
                reach: Reach::One,
                outcomes: outcomes.iter().map(outcome).collect(),
                covariates: vec![],
                person: person.map(Arc::new),
            },
        }
    };
    rows.iter().enumerate().map(one).collect()
}

async fn import(store: &Store, statements: &[Placed], replace: bool, dry: bool, second: i64) -> LabelsImported {
    let options = LabelOptions { replace, dry };
    store.import_labels(statements, &vocabulary(), options, at(second)).await.unwrap()
}

async fn kept(store: &Store) -> std::collections::BTreeMap<Uid, StudyLabels> {
    let mut tx = store.index().snapshot().await.unwrap();
    stored(&mut tx, "SELECT study FROM studies", None, &vocabulary().groups).await.unwrap()
}

async fn with_studies(studies: &[(&str, &str)]) -> (TempDir, Store) {
    let (dir, store) = fresh().await;
    for (study, instance) in studies {
        put(&store, instance, 0).await;
        score_all(&store, study, 0).await;
    }
    (dir, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_kept_once_and_contradictions_are_told() {
    let (dir, store) = with_studies(&[("1.1", "1.1.1"), ("1.2", "1.2.1")]).await;
    let first = statements(&[(&["1.1"], Some("2028-9"), &[("ptx", true)]), (&["1.2"], None, &[("ptx", false)])]);
    let dry = import(&store, &first, false, true, 5).await;
    assert_eq!((dry.outcomes, dry.groups, dry.known, dry.rejects.len()), (2, 1, 0, 0));
    assert!(kept(&store).await.is_empty());
    let stranger = statements(&[(&["1.9"], Some("2028-9"), &[])]);
    assert_eq!(import(&store, &stranger, false, false, 5).await.rejects.len(), 1);
    let taken = import(&store, &first, false, false, 6).await;
    assert_eq!((taken.outcomes, taken.groups, taken.studies_complete), (2, 1, 1));
    let again = import(&store, &first, false, false, 7).await;
    assert_eq!((again.outcomes, again.groups, again.known), (0, 0, 3));
    assert_eq!(store.labels_imported_at().await.unwrap(), Some(at(6)), "what was known is not new");
    let other =
        statements(&[(&["1.1"], Some("2054-5"), &[("effusion", true)]), (&["1.2"], Some("2054-5"), &[("ptx", true)])]);
    let refused = import(&store, &other, false, false, 8).await;
    assert_eq!((refused.outcomes, refused.groups, refused.rejects.len()), (0, 0, 2));
    let told: Vec<(u64, &str)> = refused.rejects.iter().map(|r| (r.at.line, r.reason.as_str())).collect();
    assert!(told[0].0 == 2 && told[0].1.contains("another self-reported group by an earlier import"), "{told:?}");
    assert!(told[1].0 == 3 && told[1].1.contains("another outcome of ptx by an earlier import"), "{told:?}");
    let replaced = import(&store, &other, true, false, 9).await;
    assert_eq!((replaced.outcomes, replaced.groups, replaced.studies_complete), (2, 2, 2));
    // Nothing is for a fit that has no report yet, and what goes takes its labels with it.
    assert!(store.labels(&[]).await.unwrap().is_empty());
    store.purge(&uid("1.1"), true).await.unwrap();
    store.close().await;
    let store = open(dir.path()).await;
    let sql =
        "SELECT study FROM outcomes UNION ALL SELECT study FROM self_reports UNION ALL SELECT study FROM identities
               UNION ALL SELECT study FROM covariates";
    let rows: Vec<String> = sqlx::query_scalar(sql).fetch_all(store.index().read()).await.unwrap();
    assert_eq!(rows, ["1.2", "1.2", "1.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_contradicts_one_study_of_a_patient_is_refused_for_all() {
    let (_dir, store) = with_studies(&[("1.1", "1.1.1"), ("1.2", "1.2.1"), ("1.3", "1.3.1")]).await;
    let import = async |rows: &[Said<'_>], replace| {
        let imported = import(&store, &statements(rows), replace, false, 5).await;
        let faults = imported.rejects.iter().map(|f| f.at.line).collect::<Vec<_>>();
        let kept = kept(&store).await;
        let race = |study: &str| {
            let race = kept.get(&uid(study)).map(|l| l.report.race.iter().cloned().collect::<Vec<_>>());
            race.unwrap_or_default().join("+")
        };
        let races = ["1.1", "1.2", "1.3"].map(race).join(",");
        (
            faults,
            races.replace("2028-9", "A").replace("2054-5", "B"),
            kept.values().map(|l| l.outcomes.len()).sum::<usize>(),
        )
    };
    // A study of the patient arrives after its first one was labelled.
    assert_eq!(import(&[(&["1.1"], Some("2028-9"), &[])], false).await, (vec![], "A,,".into(), 0));
    let both = ["1.1", "1.2"];
    let later = ["1.2", "1.1"];
    assert_eq!(
        import(&[(&both, Some("2054-5"), &[])], false).await,
        (vec![2], "A,,".into(), 0),
        "not B for the second"
    );
    // Nothing of the line is taken, and all of another that says nothing against it.
    let rows: [Said<'_>; 3] =
        [(&later, Some("2054-5"), &[("ptx", true)]), (&later, None, &[("ptx", true)]), (&["1.3"], Some("2054-5"), &[])];
    assert_eq!(import(&rows, false).await, (vec![2], "A,,B".into(), 1));
    // A line whose outcome contradicts does not take its race with it either; the next one may say it.
    let rows: [Said<'_>; 2] = [(&later, Some("2028-9"), &[("ptx", false)]), (&later, Some("2028-9"), &[])];
    assert_eq!(import(&rows[..1], false).await, (vec![2], "A,,B".into(), 1));
    assert_eq!(import(&rows, false).await, (vec![2], "A,A,B".into(), 1));
    let several: [Said<'_>; 1] = [(&both, Some("2028-9,2054-5"), &[])];
    assert_eq!(import(&several, false).await, (vec![2], "A,A,B".into(), 1));
    assert_eq!(import(&several, true).await, (vec![], "A+B,A+B,B".into(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn covariates_and_ethnicity_are_kept_beside_what_was_known() {
    let (_dir, store) = with_studies(&[("1.1", "1.1.1")]).await;
    let mut first = statements(&[(&["1.1"], Some("UNK"), &[("ptx", true)])]);
    first[0].says.covariates = vec![Covariate { name: 1, value: "'); DROP TABLE covariates; --".into() }];
    assert_eq!(import(&store, &first, false, false, 1).await.covariates, 1);
    let mut second = statements(&[(&["1.1"], Some("UNK"), &[("effusion", false)])]);
    let ethnicity = SelfReport { race: BTreeSet::new(), ethnicity: Some("2135-2".into()) };
    second[0].says.person = Some(Arc::new(ethnicity));
    second[0].says.covariates = vec![Covariate { name: 0, value: "21.5".into() }];
    let taken = import(&store, &second, false, false, 2).await;
    assert_eq!((taken.outcomes, taken.groups, taken.covariates, taken.known), (1, 1, 1, 0));
    let kept = kept(&store).await.remove(&uid("1.1")).unwrap();
    assert_eq!(kept.outcomes, [("effusion".to_owned(), false), ("ptx".to_owned(), true)].into());
    assert_eq!((kept.report.race, kept.report.ethnicity), (["UNK".to_owned()].into(), Some("2135-2".into())));
    let said = [("bmi", "21.5"), ("device", "'); DROP TABLE covariates; --")];
    assert_eq!(kept.covariates, said.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    second[0].says.covariates[0].value = "22".into();
    let refused = import(&store, &second, false, false, 3).await;
    assert!(refused.rejects[0].reason.contains("its study has another bmi by an earlier import"));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_studies_than_one_transaction_takes_are_all_taken() {
    let (_dir, store) = fresh().await;
    let number = 9001;
    let mut tx = store.index().write().await.unwrap();
    let sql = "INSERT INTO studies (study, kind, state, source, revision, version, first_at, last_at)
               SELECT '1.' || value, 'study', 'open', 'X', 1, 1, 0, 0 FROM json_each(?)";
    let studies: Vec<usize> = (0..number).collect();
    sqlx::query(sql).bind(serde_json::to_string(&studies).unwrap()).execute(&mut *tx).await.unwrap();
    store.index().commit(tx).await.unwrap();
    let names: Vec<String> = (0..number).map(|n| format!("1.{n}")).collect();
    let names: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
    let rows: Vec<Said<'_>> =
        names.iter().map(|name| (&name[..], Some("2028-9"), &[("ptx", true), ("effusion", false)][..])).collect();
    let all = statements(&rows);
    assert_eq!(import(&store, &all, false, true, 1).await.outcomes, 18_002);
    let taken = import(&store, &all, false, false, 1).await;
    assert_eq!((taken.outcomes, taken.groups, taken.studies_complete), (18_002, 9001, 9001));
    let again = import(&store, &all, false, false, 2).await;
    assert_eq!((again.outcomes, again.groups, again.known), (0, 0, 27_003));
}

#[tokio::test(flavor = "multi_thread")]
async fn studies_are_found_by_what_their_images_say() {
    let (_dir, store) = fresh().await;
    let text = |text: &str| crate::domain::Attribute {
        vr: "LO".into(),
        value: crate::domain::AttributeValue::Bytes(text.as_bytes().to_vec()),
    };
    for (study, patient, accession) in [("1.1", "p1 ", "A1"), ("1.2", "p1", "A2"), ("1.3", "p2", "A2")] {
        let instance = format!("{study}.1");
        put(&store, &instance, 0).await;
        store.claim_received(100, LEASE, at(0)).await.unwrap();
        let mut header = header(study, &instance);
        let attributes = [(0x0010_0020, patient), (0x0008_0050, accession), (0x0008_0020, "20260301")];
        header.copied.extend(attributes.map(|(tag, value)| (tag, text(value))));
        let refusal = Refusal::new(RefusalCode::OutOfScope, "as the test says");
        let reading = Reading::Refused { header: Some(&header), refusal: &refusal };
        assert!(store.save_read(&uid(&instance), reading, Late::Replace, at(0)).await.unwrap());
    }
    let find = async |wanted: Wanted<'_>, whole| {
        let found = store.find_studies(&wanted, whole).await.unwrap();
        assert!(found.iter().all(|s| s.date == NaiveDate::from_ymd_opt(2026, 3, 1) && s.issuer.is_none()));
        found.iter().map(|s| s.study.to_string()).collect::<Vec<_>>().join(" ")
    };
    let wanted = || Wanted::default();
    assert_eq!(find(Wanted { studies: ["1.3"].into(), ..wanted() }, false).await, "1.3");
    assert_eq!(find(Wanted { accessions: ["A2"].into(), ..wanted() }, false).await, "1.2 1.3");
    assert_eq!(find(Wanted { studies: ["1.1"].into(), ..wanted() }, true).await, "1.1 1.2");
    assert_eq!(find(Wanted { patients: ["p1", "p9' OR 1=1 --"].into(), ..wanted() }, false).await, "1.1 1.2");
    assert_eq!(find(wanted(), true).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_older_versions_are_kept_and_their_studies_named() {
    let (dir, store) = with_studies(&[("1.1", "1.1.1")]).await;
    store.close().await;
    // The index as version 10 had it.
    let path = dir.path().join("index.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut old = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let header = r#"{"copied": {"1048608": {"vr": "LO", "value": {"bytes": [112, 49, 32]}},
        "1048609": {"vr": "LO", "value": {"bytes": [195, 164]}}, "524320": {"vr": "DA", "value": {"bytes": []}},
        "524368": {"vr": "SH", "value": {"bytes": [65, 45, 49, 0]}}}}"#;
    for sql in [
        "DROP TABLE outcomes",
        "DROP TABLE self_reports",
        "DROP TABLE covariates",
        "DROP TABLE identities",
        "DELETE FROM _sqlx_migrations WHERE version = 11",
        include_str!("../migrations/0009_labels.sql"),
        "INSERT INTO outcomes VALUES ('1.1', 'ptx', 1, 7), ('1.1', 'effusion', 0, 8)",
        "INSERT INTO self_reports VALUES ('1.1', 'B', 9)",
    ] {
        sqlx::raw_sql(sql).execute(&mut old).await.unwrap();
    }
    let sql = "UPDATE instances SET header = ?";
    sqlx::query(sql).bind(header).execute(&mut old).await.unwrap();
    sqlx::Connection::close(old).await.unwrap();
    let store = open(dir.path()).await;
    let own = kept(&store).await.remove(&uid("1.1")).unwrap();
    assert_eq!(own.outcomes, [("effusion".to_owned(), false), ("ptx".to_owned(), true)].into());
    assert_eq!(own.report.race, ["2054-5".to_owned()].into(), "a key is what the card says of it");
    let found = store.find_studies(&Wanted { studies: ["1.1"].into(), ..Wanted::default() }, false).await.unwrap();
    let one = &found[0];
    assert_eq!((one.patient.as_deref(), one.accession.as_deref()), (Some("p1"), Some("A-1")));
    assert_eq!((&one.issuer, one.date), (&None, None), "not ASCII, and empty");
    // The same again is known, though it was kept under another word.
    let same = statements(&[(&["1.1"], Some("2054-5"), &[("ptx", true)])]);
    assert_eq!(import(&store, &same, false, false, 20).await.known, 2);
}
