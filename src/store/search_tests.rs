//! Searches against an index that SQL fills: what they find, how pages join, and that they go along an index.

use sqlx::Row as _;

use super::super::tests::{at, fresh, uid};
use super::*;

/// So many studies, one a second, from two sources; every tenth failed, every hundredth elevated.
async fn fill(store: &Store, studies: u32) {
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
               INSERT INTO studies (study, kind, state, source, revision, version, first_at, last_at, level, accession)
               SELECT '1.2.3.' || i, 'study', iif(i % 10, 'delivered', 'failed'), iif(i % 2, 'CT', 'MR'), 1, 1,
                   (1700000000 + i) * 1000000, (1700000000 + i) * 1000000, iif(i % 100, 'not-elevated', 'elevated'), 'A' || (i / 2) FROM n";
    let mut tx = store.index().write().await.unwrap();
    sqlx::query(sql).bind(studies).execute(&mut *tx).await.unwrap();
    store.index().commit(tx).await.unwrap();
}

/// All pages of a search, so many studies each.
async fn pages(store: &Store, query: &StudyQuery, limit: u32) -> Vec<String> {
    let (mut query, mut all) = (query.clone(), Vec::new());
    loop {
        let found = store.search_studies(&query, limit).await.unwrap();
        assert!(found.studies.len() <= limit as usize);
        all.extend(found.studies.into_iter().map(|s| s.study.to_string()));
        match found.next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
}

#[tokio::test]
async fn a_search_finds_what_matches_newest_first_page_by_page() {
    let (_dir, store) = fresh().await;
    fill(&store, 1000).await;
    let expected = |keep: &dyn Fn(u32) -> bool| -> Vec<String> {
        (1..=1000).rev().filter(|i| keep(*i)).map(|i| format!("1.2.3.{i}")).collect()
    };
    let source = |title: &str| Some(AeTitle::parse(title).unwrap());
    let all = StudyQuery::default();
    let rows: Vec<(StudyQuery, Vec<String>)> = vec![
        (all.clone(), expected(&|_| true)),
        (StudyQuery { state: Some(StudyState::Failed), ..all.clone() }, expected(&|i| i % 10 == 0)),
        (StudyQuery { state: Some(StudyState::Open), ..all.clone() }, vec![]),
        (StudyQuery { source: source("CT"), ..all.clone() }, expected(&|i| i % 2 == 1)),
        (StudyQuery { level: Some(Level::Elevated), ..all.clone() }, expected(&|i| i % 100 == 0)),
        (StudyQuery { level: Some(Level::Elevated), source: source("CT"), ..all.clone() }, vec![]),
        (
            StudyQuery { state: Some(StudyState::Delivered), source: source("MR"), ..all.clone() },
            expected(&|i| i % 2 == 0 && i % 10 != 0),
        ),
        (StudyQuery { since: Some(at(10)), until: Some(at(20)), ..all.clone() }, expected(&|i| (10..20).contains(&i))),
        (StudyQuery { named: Some("1.2.3.77".into()), ..all.clone() }, vec!["1.2.3.77".into()]),
        (StudyQuery { named: Some("A77".into()), ..all.clone() }, vec!["1.2.3.155".into(), "1.2.3.154".into()]),
        (StudyQuery { named: Some("A77".into()), source: source("CT"), ..all.clone() }, vec!["1.2.3.155".into()]),
        (StudyQuery { named: Some("' OR 1=1 --".into()), ..all.clone() }, vec![]),
        (StudyQuery { named: Some(String::new()), ..all.clone() }, vec![]),
    ];
    for (query, expected) in rows {
        for limit in [7, 200] {
            assert_eq!(pages(&store, &query, limit).await, expected, "{query:?}");
        }
    }
}

#[tokio::test]
async fn studies_of_one_microsecond_are_all_listed_once() {
    let (_dir, store) = fresh().await;
    fill(&store, 50).await;
    let mut tx = store.index().write().await.unwrap();
    sqlx::query("UPDATE studies SET last_at = 5").execute(&mut *tx).await.unwrap();
    store.index().commit(tx).await.unwrap();
    let listed = pages(&store, &StudyQuery::default(), 7).await;
    assert_eq!(listed, (1..=50).rev().map(|i| format!("1.2.3.{i}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_search_that_finds_next_to_nothing_says_how_far_it_looked() {
    let (_dir, store) = fresh().await;
    fill(&store, 25_000).await;
    let query = StudyQuery {
        state: Some(StudyState::Delivered),
        source: Some(AeTitle::parse("MR").unwrap()),
        until: None,
        ..StudyQuery::default()
    };
    let mut tx = store.index().write().await.unwrap();
    sqlx::query("UPDATE studies SET source = 'CT' WHERE study <> '1.2.3.2'").execute(&mut *tx).await.unwrap();
    store.index().commit(tx).await.unwrap();
    let first = store.search_studies(&query, 50).await.unwrap();
    assert_eq!((first.studies.len(), first.cut_short), (0, true));
    assert_eq!(pages(&store, &query, 50).await, ["1.2.3.2"]);
}

#[tokio::test]
async fn every_search_goes_along_an_index() {
    let (_dir, store) = fresh().await;
    let source = Some(AeTitle::parse("CT").unwrap());
    let all = StudyQuery::default();
    let rows = [
        (all.clone(), "studies_by_time"),
        (StudyQuery { since: Some(at(1)), ..all.clone() }, "studies_by_time"),
        (StudyQuery { state: Some(StudyState::Failed), ..all.clone() }, "studies_by_state"),
        (StudyQuery { level: Some(Level::Elevated), ..all.clone() }, "studies_by_level"),
        (StudyQuery { source: source.clone(), ..all.clone() }, "studies_by_source"),
        (StudyQuery { named: Some("x".into()), source, ..all }, "studies_by_accession"),
    ];
    for (query, index) in rows {
        let sql = format!("EXPLAIN QUERY PLAN {}", query.sql());
        let plan = bound(&sql, &query, 10).unwrap().bind(10).fetch_all(store.index().read()).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let text = plan.join("\n");
        assert!(
            text.contains(&format!("USING INDEX {index} ("))
                || text.contains(&format!("USING COVERING INDEX {index} (")),
            "{query:?}\n{text}"
        );
        // The rows that are looked at come in the order of their index.
        assert!(!plan.iter().any(|line| line.starts_with("SCAN s")), "{text}");
        let inner = format!("EXPLAIN QUERY PLAN {}", query.looked_at());
        let inner = bound(&inner, &query, 10).unwrap().fetch_all(store.index().read()).await.unwrap();
        for row in &inner {
            let line: String = row.get("detail");
            assert!(query.named.is_some() || !line.contains("TEMP B-TREE FOR ORDER BY"), "{query:?}: {line}");
        }
    }
}

#[tokio::test]
async fn accession_numbers_of_older_versions_are_looked_for() {
    let (_dir, store) = fresh().await;
    fill(&store, 450).await;
    let mut tx = store.index().write().await.unwrap();
    sqlx::query("UPDATE studies SET accession = NULL").execute(&mut *tx).await.unwrap();
    store.index().commit(tx).await.unwrap();
    let mut rounds = 1;
    while store.fill_accessions().await.unwrap() {
        rounds += 1;
    }
    assert_eq!(rounds, 3);
    assert!(!store.fill_accessions().await.unwrap());
    let named = StudyQuery { named: Some(uid("1.2.3.5").to_string()), ..StudyQuery::default() };
    assert_eq!(store.search_studies(&named, 1).await.unwrap().studies[0].accession, "");
}
