//! Labels in the index: what is taken, what contradicts, what goes with its study.

use std::collections::BTreeMap;

use super::*;
use crate::results::StudyLabels;

fn labels(rows: &[(&str, Option<&str>, &[(&str, bool)])]) -> BTreeMap<Uid, StudyLabels> {
    let one = |(line, (study, group, outcomes)): (usize, &(&str, Option<&str>, &[(&str, bool)]))| {
        let outcomes = outcomes.iter().map(|(f, v)| ((*f).to_owned(), *v)).collect();
        (uid(study), StudyLabels { group: group.map(str::to_owned), outcomes, line: line as u64 + 2 })
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
    let first = labels(&[("1.1", Some("A"), &[("ptx", true)]), ("1.2", None, &[("ptx", false)])]);
    let dry = store.import_labels(&first, false, true, at(5)).await.unwrap();
    assert_eq!((dry.outcomes, dry.groups, dry.known, dry.faults.len()), (2, 1, 0, 0));
    let stranger = labels(&[("1.9", Some("A"), &[])]);
    assert_eq!(store.import_labels(&stranger, false, false, at(5)).await.unwrap().faults.len(), 1);
    let taken = store.import_labels(&first, false, false, at(6)).await.unwrap();
    assert_eq!((taken.outcomes, taken.groups, taken.studies_complete), (2, 1, 1));
    let again = store.import_labels(&first, false, false, at(7)).await.unwrap();
    assert_eq!((again.outcomes, again.groups, again.known), (0, 0, 3));
    let other = labels(&[("1.1", Some("B"), &[("effusion", true)]), ("1.2", Some("B"), &[("ptx", true)])]);
    let refused = store.import_labels(&other, false, false, at(8)).await.unwrap();
    assert_eq!((refused.outcomes, refused.groups, refused.faults.len()), (0, 0, 2));
    assert!(refused.faults[0].line == 2 && refused.faults[0].reason.contains("another self-reported group"));
    assert!(refused.faults[1].line == 3 && refused.faults[1].reason.contains("another outcome of ptx"));
    let replaced = store.import_labels(&other, true, false, at(9)).await.unwrap();
    assert_eq!((replaced.outcomes, replaced.groups, replaced.studies_complete), (2, 2, 2));
    // Nothing is for a fit that has no report yet, and what goes takes its labels with it.
    assert!(store.labels().await.unwrap().is_empty());
    store.purge(&uid("1.1"), true).await.unwrap();
    drop(store);
    let store = open(dir.path()).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT study FROM outcomes UNION ALL SELECT study FROM self_reports")
        .fetch_all(store.index().read())
        .await
        .unwrap();
    assert_eq!(rows, ["1.2", "1.2"]);
}
