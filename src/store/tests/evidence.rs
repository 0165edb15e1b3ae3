//! Answers to changed images: what is kept, who may find it, and when it goes.

use super::*;
use crate::domain::{Answers, Change, Responses};

const DAY: i64 = 86_400;

fn responses(model: &str, race: f64) -> Responses {
    let answers = |race: f64| Answers { race: vec![race, 1.0 - race], clinical: vec![0.25] };
    Responses {
        race_model: "race@1#abc".to_owned(),
        groups: vec!["A".to_owned(), "B".to_owned()],
        model: model.to_owned(),
        findings: vec!["effusion".to_owned()],
        held: vec!["PA".into()],
        original: answers(race),
        changes: vec![Change { name: "blur 1".to_owned(), rms: 0.02, sharpness: -1.0, answers: answers(race / 2.0) }],
    }
}

async fn kept(store: &Store) -> Vec<KeptResponses> {
    let mut found = Vec::new();
    for model in store.responding("race@1#abc").await.unwrap() {
        found.extend(store.responses("race@1#abc", &model, "a test").await.unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_once_for_each_model_under_a_hash_of_the_patient() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let study = uid("1.2");
    store.keep_responses(&study, "JANE^DOE 4711", &[responses("a", 0.1), responses("b", 0.2)], at(10)).await.unwrap();
    store.keep_responses(&study, "JANE^DOE 4711", &[responses("a", 0.3)], at(20)).await.unwrap();
    store.keep_responses(&uid("9.9"), "nobody", &[responses("a", 0.3)], at(20)).await.unwrap();
    let found = kept(&store).await;
    assert_eq!(found.iter().map(|k| &k.responses).collect::<Vec<_>>(), [&responses("a", 0.3), &responses("b", 0.2)]);
    assert!(found[0].patient == found[1].patient && !found[0].patient.contains("4711"));
    assert_eq!(store.responses("race@1#abc", "b", "a test").await.unwrap().len(), 1, "one model at a time");
    assert!(store.responding("another").await.unwrap().is_empty());
    assert!(store.responses("another", "a", "a test").await.unwrap().is_empty());
    let holds = |path: &PathBuf| fs::read(dir.path().join(path)).unwrap().windows(8).any(|w| w == b"DOE 4711");
    assert!(!files(dir.path()).iter().any(holds), "in no file either");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_their_own_retention_and_go_with_their_study() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    put(&store, "7.7.3", 0).await;
    score_all(&store, "7.7", 1).await;
    store.keep_responses(&uid("1.2"), "one", &[responses("a", 0.1)], at(0)).await.unwrap();
    store.keep_responses(&uid("7.7"), "two", &[responses("a", 0.2)], at(5 * DAY)).await.unwrap();
    let day = |days: i64| Some(Duration::from_secs((days * DAY) as u64));
    let expire = |evidence: Option<Duration>, now: i64| {
        let retention = Retention { evidence_kept: evidence, ..Retention::default() };
        let store = store.clone();
        async move { store.expire(at(now), retention).await.unwrap() }
    };
    assert_eq!(expire(None, 1000 * DAY).await, Expired::default());
    assert_eq!(expire(day(3), 3 * DAY - 1).await, Expired::default());
    assert_eq!(expire(day(3), 4 * DAY).await, Expired { evidence: 1, ..Expired::default() });
    assert_eq!(kept(&store).await.len(), 1);
    store.purge(&uid("7.7"), true).await.unwrap();
    assert!(kept(&store).await.is_empty());
}
