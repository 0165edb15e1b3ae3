//! Clinical results in the index: what is waited for, what is news, what opens a study again, what is forgotten.

use super::*;
use crate::domain::{ClinicalResult, Said};

const MODEL: &str = "vendor@1#cccccccccccc";

fn result(study: &str, source: &str, score: f64, second: i64) -> ClinicalResult {
    let score = Some(Probability::new(score).unwrap());
    ClinicalResult {
        study: uid(study),
        model: MODEL.into(),
        source: source.into(),
        observed_at: Some(at(second)),
        received_at: at(second),
        version: "1".into(),
        predecessors: Vec::new(),
        said: vec![Said { finding: "ptx".into(), images: Vec::new(), score, positive: None }],
    }
}

/// Reads a waiting object as an image for which a result of the product is awaited.
async fn image(store: &Store, study: &str, instance: &str, second: i64) {
    put(store, instance, second).await;
    store.claim_received(100, LEASE, at(second)).await.unwrap();
    let reading = Reading::Scored {
        header: &header(study, instance),
        pixel_digest: &Digest::of(b"pixels"),
        scores: &image_scores(instance),
        awaited: &[MODEL.to_owned()],
    };
    assert!(store.save_read(&uid(instance), reading, Late::Replace, at(second)).await.unwrap());
}

/// Reads a waiting object as a report of the product.
async fn document(store: &Store, study: &str, instance: &str, score: f64, late: Late, second: i64) {
    put(store, instance, second).await;
    store.claim_received(100, LEASE, at(second)).await.unwrap();
    let refusal = Refusal::new(RefusalCode::ClinicalResult, "a result");
    let results = [result(study, instance, score, second)];
    let reading = Reading::Results { header: &header(study, instance), refusal: &refusal, results: &results };
    assert!(store.save_read(&uid(instance), reading, late, at(second)).await.unwrap());
}

/// For which products a study waits: whether what they said suffices is not asked here.
async fn awaited(store: &Store, study: &str) -> Vec<String> {
    let activities = store.activities(at(1000)).await.unwrap();
    activities.into_iter().find(|a| a.study == uid(study)).expect("open").awaited
}

async fn sources(store: &Store, study: &str) -> Vec<String> {
    store.ready_study(&uid(study)).await.unwrap().results.into_iter().map(|r| r.source).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_remembers_for_whom_it_waits_and_what_was_said() {
    let (dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    assert_eq!(awaited(&store, "1.2").await, [MODEL]);
    document(&store, "1.2", "1.2.9", 0.25, Late::Replace, 5).await;
    let without_scores = store.study_without_scores(&uid("1.2")).await.unwrap();
    assert_eq!((without_scores.instances.len(), without_scores.results.len()), (2, 1));
    assert!(without_scores.instances.iter().all(|i| i.scores.is_empty()));
    let after = as_after_a_kill(dir.path());
    let store = open(after.path()).await;
    assert_eq!(sources(&store, "1.2").await, ["1.2.9"]);
    assert_eq!(store.ready_study(&uid("1.2")).await.unwrap().results, [result("1.2", "1.2.9", 0.25, 5)]);
    // Read again, it takes its own place.
    store.requeue(&uid("1.2"), at(10)).await.unwrap();
    assert_eq!(awaited(&store, "1.2").await, [] as [&str; 0], "noted as its images are read again");
    let refusal = Refusal::new(RefusalCode::NotAnImage, "no product's any more");
    let reading = Reading::Refused { header: Some(&header("1.2", "1.2.9")), refusal: &refusal };
    assert!(store.save_read(&uid("1.2.9"), reading, Late::Replace, at(11)).await.unwrap());
    assert_eq!(sources(&store, "1.2").await, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_opens_a_reported_study_if_it_is_news_and_late_results_are_wanted() {
    let rows = [
        ("news", 0.75, Late::Replace, StudyState::Open, 2),
        ("nothing new", 0.25, Late::Replace, StudyState::Delivered, 2),
        ("not wanted", 0.75, Late::Never, StudyState::Delivered, 1),
    ];
    for (name, score, late, expected, counted) in rows {
        let (_dir, store) = fresh().await;
        image(&store, "1.2", "1.2.3", 0).await;
        document(&store, "1.2", "1.2.8", 0.25, Late::Replace, 1).await;
        report(&store, "1.2", "2.25.1", &[], 60).await;
        document(&store, "1.2", "1.2.9", score, late, 100).await;
        assert_eq!(state(&store, "1.2").await, expected, "{name}");
        assert_eq!(sources(&store, "1.2").await.len(), counted, "{name}");
        if late == Late::Never {
            store.requeue(&uid("1.2"), at(200)).await.unwrap();
            assert_eq!(sources(&store, "1.2").await.len(), 2, "{name}: it counts from now on");
        }
    }
    // A study that was refused has no report that a result could change.
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    refuse(&store, "1.2.3", Some("1.2"), RefusalCode::OutOfScope, 1).await;
    let claim = claim(&store, "1.2", 60).await;
    let refusal = Refusal::new(RefusalCode::OutOfScope, "x");
    store.close_study(&claim, Outcome::Refused(&refusal), at(60)).await.unwrap();
    document(&store, "1.2", "1.2.9", 0.5, Late::Replace, 100).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_returns_to_an_earlier_value_is_news() {
    let (_dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    document(&store, "1.2", "1.2.7", 0.9, Late::Replace, 15).await;
    document(&store, "1.2", "1.2.8", 0.1, Late::Replace, 20).await;
    report(&store, "1.2", "2.25.1", &[], 60).await;
    document(&store, "1.2", "1.2.9", 0.1, Late::Replace, 100).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    document(&store, "1.2", "1.2.10", 0.9, Late::Replace, 110).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_not_waited_for_again_without_another_image() {
    let (_dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    report(&store, "1.2", "2.25.1", &[], 60).await;
    document(&store, "1.2", "1.2.9", 0.1, Late::Replace, 100).await;
    assert_eq!(awaited(&store, "1.2").await, [] as [&str; 0]);
    image(&store, "1.2", "1.2.4", 110).await;
    assert_eq!(awaited(&store, "1.2").await, [MODEL]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_waits_for_a_server_holds_up_no_other_study_of_its_sender() {
    let (_dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    image(&store, "1.4", "1.4.3", 0).await;
    put(&store, "1.2.4", 1).await;
    let unread = async |study: &str| {
        let activities = store.activities(at(1000)).await.unwrap();
        activities.into_iter().find(|a| a.study == uid(study)).expect("open").unread_since
    };
    assert_eq!((unread("1.2").await, unread("1.4").await), (Some(at(1)), Some(at(1))), "it may be of either");
    // Patience counts from the first time that the server could not be asked, and attempts do not.
    for (second, since) in [(500, None), (600, Some(at(500)))] {
        let claimed = store.claim_received(100, LEASE, at(second)).await.unwrap();
        assert_eq!(claimed.iter().map(|p| (p.attempts, p.waiting_since)).collect::<Vec<_>>(), [(1, since)]);
        store.postpone_instance(&uid("1.2.4"), Some(&uid("1.2")), at(second + 2), at(second)).await.unwrap();
        assert!(store.claim_received(100, LEASE, at(second + 1)).await.unwrap().is_empty());
        assert_eq!((unread("1.2").await, unread("1.4").await), (Some(at(1)), None));
    }
    score_all(&store, "1.2", 700).await;
    assert_eq!(unread("1.2").await, None);
    // Analysed again, it waits anew.
    store.requeue(&uid("1.2"), at(800)).await.unwrap();
    let claimed = store.claim_received(100, LEASE, at(801)).await.unwrap();
    assert!(claimed.iter().all(|p| p.waiting_since.is_none()) && claimed.len() == 2, "{claimed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_study_was_asked_for_keeps_no_other_study_open() {
    let (_dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    image(&store, "1.4", "1.4.3", 0).await;
    for object in ["1.2.4", "1.4.4", "1.4.5"] {
        put(&store, object, 1).await;
    }
    let nameless = async || {
        let found = store.nameless(10).await.unwrap();
        found.into_iter().map(|(object, path)| (object.as_str().to_owned(), path.is_file())).collect::<Vec<_>>()
    };
    let unread = async |study: &str| {
        let activities = store.activities(at(1000)).await.unwrap();
        activities.into_iter().find(|a| a.study == uid(study)).expect("open").unread_since
    };
    assert_eq!(nameless().await, [("1.2.4".into(), true), ("1.4.4".into(), true), ("1.4.5".into(), true)]);
    let named = ["1.4.4", "1.4.5", "1.4.6"].map(|object| (uid(object), uid("1.4")));
    assert_eq!(store.name_studies(&named).await.unwrap(), [true, true, false], "nobody knows the last");
    assert_eq!((nameless().await.len(), unread("1.2").await), (1, Some(at(1))), "1.2.4 may be of either");
    store.name_studies(&[(uid("1.2.4"), uid("1.4"))]).await.unwrap();
    assert_eq!((nameless().await.len(), unread("1.2").await, unread("1.4").await), (0, None, Some(at(1))));
    // What is read says it itself, whatever was noted; and what is being read will say it soon.
    put(&store, "1.2.5", 2).await;
    let claimed = store.claim_received(100, LEASE, at(3)).await.unwrap();
    assert_eq!((claimed.len(), nameless().await.len()), (4, 0));
    assert_eq!(store.name_studies(&[(uid("1.2.5"), uid("1.2"))]).await.unwrap(), [false], "it is being read");
    let reading = Reading::Scored {
        header: &header("1.2", "1.2.4"),
        pixel_digest: &Digest::of(b"pixels"),
        scores: &image_scores("1.2.4"),
        awaited: &[],
    };
    assert!(store.save_read(&uid("1.2.4"), reading, Late::Replace, at(4)).await.unwrap());
    store.name_studies(&[(uid("1.2.4"), uid("1.4"))]).await.unwrap();
    assert_eq!(show(&store, "1.2").await.study.instances, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_imported_once_and_a_preview_changes_nothing() {
    let (_dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    report(&store, "1.2", "2.25.1", &[], 60).await;
    image(&store, "1.4", "1.4.3", 0).await;
    let rows = [result("1.2", "a", 0.5, 1), result("1.4", "b", 0.5, 1), result("1.9", "c", 0.5, 1)];
    let expected = Imported { new: 3, known: 0, studies_reopened: 1, studies_late: 0, studies_unknown: 1 };
    for dry in [true, false] {
        assert_eq!(store.import_results(&rows, Late::Replace, dry, at(100)).await.unwrap(), expected, "{dry}");
        let states = (state(&store, "1.2").await, sources(&store, "1.4").await.len());
        assert_eq!(states, if dry { (StudyState::Delivered, 0) } else { (StudyState::Open, 1) });
    }
    let again = store.import_results(&rows, Late::Replace, false, at(101)).await.unwrap();
    assert_eq!(again, Imported { known: 3, ..Imported::default() });
    assert_eq!(sources(&store, "1.4").await, ["b"]);
    // A result that was here before its study is found by it.
    image(&store, "1.9", "1.9.3", 102).await;
    assert_eq!(sources(&store, "1.9").await, ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_name_studies_by_their_images() {
    let (_dir, store) = fresh().await;
    document(&store, "1.2", "1.2.1", 0.5, Late::Replace, 0).await;
    document(&store, "1.5", "1.5.1", 0.5, Late::Replace, 0).await;
    image(&store, "1.2", "1.2.3", 1).await;
    image(&store, "1.2", "1.2.4", 1).await;
    let headers = store.headers_of_studies().await.unwrap();
    assert_eq!(headers.iter().map(|h| h.sop_instance.as_str()).collect::<Vec<_>>(), ["1.2.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_waits_for_nobody_who_writes() {
    let (_dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    let rows = [result("1.2", "a", 0.5, 1)];
    let writing = store.index().write().await.unwrap();
    let preview = store.import_results(&rows, Late::Replace, true, at(100)).await.unwrap();
    assert_eq!(preview.new, 1);
    drop(writing);
    // More studies than one transaction takes.
    let many: Vec<ClinicalResult> = (0..250).map(|n| result(&format!("1.9.{n}"), &format!("s{n}"), 0.5, 1)).collect();
    let imported = store.import_results(&many, Late::Replace, false, at(100)).await.unwrap();
    assert_eq!((imported.new, imported.studies_unknown), (250, 250));
    let again = store.import_results(&many, Late::Replace, false, at(101)).await.unwrap();
    assert_eq!((again.new, again.known), (0, 250));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_with_their_study_and_strays_by_their_age() {
    let (_dir, store) = fresh().await;
    image(&store, "1.2", "1.2.3", 0).await;
    let rows = [result("1.2", "a", 0.5, 1), result("1.9", "old", 0.5, 1), result("1.8", "new", 0.5, 900)];
    store.import_results(&rows, Late::Replace, false, at(2)).await.unwrap();
    let retention = Retention { objects_kept: Some(Duration::from_secs(100)), ..Retention::default() };
    assert_eq!(store.expire(at(950), retention).await.unwrap().results, 1);
    store.purge(&uid("1.2"), true).await.unwrap();
    let known = store.import_results(&rows, Late::Replace, true, at(951)).await.unwrap();
    assert_eq!((known.new, known.known), (2, 1), "the stray that is young enough");
}
