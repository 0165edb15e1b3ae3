//! Facts of studies: kept with their reports, read by date, forgotten in their time.

use chrono::NaiveDate;

use super::*;
use crate::domain::{FindingScore, RacePosterior, StudyFacts};

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn facts(date: &str, score: f64) -> StudyFacts {
    let said = |finding: &str, score| FindingScore {
        model: "ai@1#0".to_owned(),
        finding: finding.to_owned(),
        threshold: 0.4,
        score,
    };
    StudyFacts {
        patient: "p1".to_owned(),
        date: Some(day(date)),
        view: "PA".to_owned(),
        age_years: Some(63.5),
        scores: vec![said("effusion", score), said("pneumothorax", 0.1)],
        race: Some(RacePosterior {
            model: "race@1#0".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            probabilities: vec![0.25, 0.75],
        }),
        ..StudyFacts::default()
    }
}

/// Puts a study, and closes it with a report and these facts.
async fn closed(store: &Store, facts: Option<&StudyFacts>, report: &str, second: i64) {
    let claim = claim(store, "1.2", second).await;
    let reports = [outgoing("1.2", report, Disclosure::Withheld, &["PACS"])];
    let closing = Closing { complete: true, by: ClosedBy::Quiet, missing: Vec::new() };
    let older = Older::Withdrawn;
    let outcome = Outcome::Reported { assessment: &assessment(), closing: &closing, older, reports: &reports, facts };
    store.close_study(&claim, outcome, at(second)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_kept_with_the_report_and_read_by_study_date() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    assert!(store.studies_without_facts(10).await.unwrap().is_empty(), "it is not reported");
    let first = facts("2026-03-02", 0.7);
    closed(&store, Some(&first), "2.25.1", 60).await;
    let table = |from: &str, to: &str, race| {
        let (store, from, to) = (store.clone(), day(from), day(to));
        async move { store.audit_table(from, to, race).await.unwrap() }
    };
    let found = table("2026-03-01", "2026-03-02", true).await;
    assert_eq!((found.studies.len(), found.outputs.len(), found.undated), (1, 2, 0));
    let study = &found.studies[0];
    assert_eq!((&study.facts.race, study.facts.age_years), (&first.race, Some(63.5)));
    let said: Vec<(&str, f64)> =
        study.scores.iter().map(|(at, score)| (found.outputs[*at].finding.as_str(), *score)).collect();
    assert_eq!(said, [("effusion", 0.7), ("pneumothorax", 0.1)]);
    assert_eq!(table("2026-03-01", "2026-03-31", false).await.studies[0].facts.race, None);
    assert!(table("2026-03-03", "2026-04-01", true).await.studies.is_empty());

    // Another revision has facts of its own; outputs are the same ones.
    put(&store, "1.2.4", 100).await;
    score_all(&store, "1.2", 101).await;
    assert!(table("2026-03-01", "2026-03-31", false).await.studies.is_empty(), "it is open again");
    closed(&store, Some(&StudyFacts { date: None, ..facts("2026-03-02", 0.2) }), "2.25.2", 160).await;
    let found = table("2026-03-01", "2026-03-31", true).await;
    assert_eq!((found.studies.len(), found.outputs.len(), found.undated), (0, 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_before_gets_its_facts_later_and_goes_with_its_study() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    closed(&store, None, "2.25.1", 60).await;
    assert_eq!(store.studies_without_facts(10).await.unwrap(), [uid("1.2")]);
    store.keep_facts(&uid("1.2"), &facts("2026-03-02", 0.7)).await.unwrap();
    store.keep_facts(&uid("1.9"), &facts("2026-03-02", 0.7)).await.unwrap();
    assert!(store.studies_without_facts(10).await.unwrap().is_empty());
    let count = |of: &'static str| {
        let store = store.clone();
        async move {
            let sql = format!("SELECT count(*) FROM {of}");
            sqlx::query_scalar::<_, i64>(&sql).fetch_one(store.index().read()).await.unwrap()
        }
    };
    assert_eq!((count("facts").await, count("fact_scores").await, count("fact_posteriors").await), (1, 2, 1));
    store.purge(&uid("1.2"), true).await.unwrap();
    assert_eq!((count("facts").await, count("fact_scores").await, count("fact_posteriors").await), (0, 0, 0));
}
