//! Labels in the index: what is taken, what contradicts, what goes with its study.

use super::*;
use crate::results::LabelLine;
use crate::store::labels::stored;

/// A line from 2 on, of a patient with these studies; outcomes are of the first.
type Said<'a> = (&'a [&'a str], Option<&'a str>, &'a [(&'a str, bool)]);

fn lines(rows: &[Said<'_>]) -> Vec<LabelLine> {
    let one = |(line, (patient, group, outcomes)): (usize, &Said<'_>)| LabelLine {
        line: line as u64 + 2,
        patient: patient.iter().map(|study| uid(study)).collect(),
        group: group.map(str::to_owned),
        study: Some(uid(patient[0])),
        outcomes: outcomes.iter().map(|(f, v)| ((*f).to_owned(), *v)).collect(),
    };
    rows.iter().enumerate().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_kept_once_and_contradictions_are_told() {
    let (dir, store) = fresh().await;
    for (study, instance) in [("1.1", "1.1.1"), ("1.2", "1.2.1")] {
        put(&store, instance, 0).await;
        score_all(&store, study, 0).await;
    }
    let first = lines(&[(&["1.1"], Some("A"), &[("ptx", true)]), (&["1.2"], None, &[("ptx", false)])]);
    let dry = store.import_labels(&first, false, true, at(5)).await.unwrap();
    assert_eq!((dry.outcomes, dry.groups, dry.known, dry.faults.len()), (2, 1, 0, 0));
    let stranger = lines(&[(&["1.9"], Some("A"), &[])]);
    assert_eq!(store.import_labels(&stranger, false, false, at(5)).await.unwrap().faults.len(), 1);
    let taken = store.import_labels(&first, false, false, at(6)).await.unwrap();
    assert_eq!((taken.outcomes, taken.groups, taken.studies_complete), (2, 1, 1));
    let again = store.import_labels(&first, false, false, at(7)).await.unwrap();
    assert_eq!((again.outcomes, again.groups, again.known), (0, 0, 3));
    assert_eq!(store.labels_imported_at().await.unwrap(), Some(at(6)), "what was known is not new");
    let other = lines(&[(&["1.1"], Some("B"), &[("effusion", true)]), (&["1.2"], Some("B"), &[("ptx", true)])]);
    let refused = store.import_labels(&other, false, false, at(8)).await.unwrap();
    assert_eq!((refused.outcomes, refused.groups, refused.faults.len()), (0, 0, 2));
    assert!(refused.faults[0].line == 2 && refused.faults[0].reason.contains("another self-reported group"));
    assert!(refused.faults[1].line == 3 && refused.faults[1].reason.contains("another outcome of ptx"));
    let replaced = store.import_labels(&other, true, false, at(9)).await.unwrap();
    assert_eq!((replaced.outcomes, replaced.groups, replaced.studies_complete), (2, 2, 2));
    // Nothing is for a fit that has no report yet, and what goes takes its labels with it.
    assert!(store.labels().await.unwrap().is_empty());
    store.purge(&uid("1.1"), true).await.unwrap();
    store.close().await;
    let store = open(dir.path()).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT study FROM outcomes UNION ALL SELECT study FROM self_reports")
        .fetch_all(store.index().read())
        .await
        .unwrap();
    assert_eq!(rows, ["1.2", "1.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_contradicts_one_study_of_a_patient_is_refused_for_all() {
    let (_dir, store) = fresh().await;
    for (study, instance) in [("1.1", "1.1.1"), ("1.2", "1.2.1"), ("1.3", "1.3.1")] {
        put(&store, instance, 0).await;
        score_all(&store, study, 0).await;
    }
    let import = async |rows: &[Said<'_>], replace| {
        let imported = store.import_labels(&lines(rows), replace, false, at(5)).await.unwrap();
        let faults = imported.faults.iter().map(|f| f.line).collect::<Vec<_>>();
        let kept = stored(&mut store.index().snapshot().await.unwrap()).await.unwrap();
        let group = |study: &str| kept.get(&uid(study)).and_then(|l| l.group.clone()).unwrap_or_default();
        (faults, ["1.1", "1.2", "1.3"].map(group).join(","), kept.values().map(|l| l.outcomes.len()).sum::<usize>())
    };
    // A study of the patient arrives after its first one was labelled.
    assert_eq!(import(&[(&["1.1"], Some("A"), &[])], false).await, (vec![], "A,,".into(), 0));
    let both = ["1.1", "1.2"];
    let later = ["1.2", "1.1"];
    assert_eq!(import(&[(&both, Some("B"), &[])], false).await, (vec![2], "A,,".into(), 0), "not B for the second");
    // Nothing of the line is taken, and all of another that says nothing against it.
    let rows: [Said<'_>; 3] =
        [(&later, Some("B"), &[("ptx", true)]), (&later, None, &[("ptx", true)]), (&["1.3"], Some("B"), &[])];
    assert_eq!(import(&rows, false).await, (vec![2], "A,,B".into(), 1));
    // A line whose outcome contradicts does not take its group with it either; the next one may say the group.
    let rows: [Said<'_>; 2] = [(&later, Some("A"), &[("ptx", false)]), (&later, Some("A"), &[])];
    assert_eq!(import(&rows[..1], false).await, (vec![2], "A,,B".into(), 1));
    assert_eq!(import(&rows, false).await, (vec![2], "A,A,B".into(), 1));
    assert_eq!(import(&[(&both, Some("B"), &[])], true).await, (vec![], "B,B,B".into(), 1));
}
