//! Studies: how they begin, wait, end and begin again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_study_keeps_what_was_read_of_it() {
    let (_dir, store) = fresh().await;
    for (instance, second) in [("1.2.9", 0), ("1.2.3", 5)] {
        put(&store, instance, second).await;
    }
    score_all(&store, "1.2", 6).await;
    put(&store, "1.2.4", 7).await;
    refuse(&store, "1.2.4", Some("1.2"), RefusalCode::OutOfScope, 8).await;

    let ready = store.ready_study(&uid("1.2")).await.unwrap();
    let uids: Vec<_> = ready.instances.iter().map(|i| i.header.sop_instance.as_str()).collect();
    assert_eq!(uids, ["1.2.3", "1.2.4", "1.2.9"], "in an order that does not depend on the network");
    let (first, refused) = (&ready.instances[0], &ready.instances[1]);
    assert_eq!(first.header, header("1.2", "1.2.3"));
    assert_eq!(first.pixel_digest, Some(Digest::of(b"pixels")));
    let expected: Vec<_> = image_scores("1.2.3").into_iter().map(|(score, _)| score).collect();
    assert_eq!(first.scores, expected, "to the last bit");
    assert_eq!(refused.refusal.as_ref().map(|r| r.code), Some(RefusalCode::OutOfScope));

    let shown = show(&store, "1.2").await;
    assert_eq!((shown.study.state, shown.study.instances, shown.study.instances_refused), (StudyState::Open, 3, 1));
    let text = serde_json::to_string(&shown).unwrap();
    assert!(text.contains("clinical@1") && !text.contains("race@1"), "race scores are in no view: {text}");
    assert!(!text.contains("JANE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_studies_of_a_race_model_are_those_with_a_report_and_its_scores() {
    let (_dir, store) = fresh().await;
    for (study, instance) in [("1.2", "1.2.3"), ("1.1", "1.1.3"), ("1.3", "1.3.3"), ("1.4", "1.4.3")] {
        put(&store, instance, 0).await;
        if study == "1.3" {
            refuse(&store, instance, Some(study), RefusalCode::OutOfScope, 1).await;
        } else {
            score_all(&store, study, 1).await;
        }
        if study != "1.4" {
            report(&store, study, &format!("9{study}"), &[], 2).await;
        }
    }
    let of = async |model: &str| store.studies_of_race_model(model).await.unwrap();
    assert_eq!(of("race@1#aaaaaaaaaaaa").await, [uid("1.1"), uid("1.2")]);
    assert!(of("clinical@1#bbbbbbbbbbbb").await.is_empty() && of("race@2#aaaaaaaaaaaa").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_names_the_unread_objects_that_could_belong() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let unread = async || store.activities(at(5)).await.unwrap()[0].unread_since;
    assert_eq!(unread().await, None);
    commit(&store, &received("9.1", "ELSEWHERE", 2), b"x").await.unwrap();
    assert_eq!(unread().await, None, "another sender's");
    put(&store, "1.2.4", 4).await;
    put(&store, "1.2.5", 3).await;
    assert_eq!(unread().await, Some(at(3)), "the oldest of the same sender");
    let pending = store.claim_received(10, LEASE, at(5)).await.unwrap();
    assert_eq!(pending.len(), 3);
    assert_eq!(unread().await, Some(at(3)), "claimed is not read");
    for pending in pending {
        let instance = pending.sop_instance.as_str();
        let header = header("7.7", instance);
        let refusal = Refusal::new(RefusalCode::DecodeFailed, "x");
        let reading = Reading::Refused { header: Some(&header), refusal: &refusal };
        store.save_read(&pending.sop_instance, reading, Late::Replace, at(6)).await.unwrap();
    }
    let activities = store.activities(at(7)).await.unwrap();
    let facts: Vec<_> = activities.iter().map(|a| (a.study.as_str(), a.last_at, a.unread_since)).collect();
    assert_eq!(facts, [("1.2", at(0), None), ("7.7", at(4), None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_others_off_until_it_ends() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let take = async |second| store.claim_received(10, LEASE, at(second)).await.unwrap();
    assert_eq!(take(0).await.len(), 1);
    assert!(take(59).await.is_empty());
    assert_eq!(take(60).await[0].attempts, 2);
    store.release_instance(&uid("1.2.3"), true, None).await.unwrap();
    assert_eq!(take(61).await[0].attempts, 3);

    score_all(&store, "1.2", 200).await;
    let study = uid("1.2");
    let first = claim(&store, "1.2", 300).await;
    assert_eq!(store.claim_study(&study, first.version, LEASE, at(359)).await.unwrap(), None);
    assert!(store.activities(at(359)).await.unwrap().is_empty());
    assert_eq!(store.activities(at(360)).await.unwrap().len(), 1);
    assert_eq!(claim(&store, "1.2", 360).await.attempts, 2);
    store.release_study(&first).await.unwrap();
    assert_eq!(
        store.claim_study(&study, first.version, LEASE, at(361)).await.unwrap(),
        None,
        "an old claim frees nothing"
    );
    let stale = first.version - 1;
    assert_eq!(store.claim_study(&study, stale, LEASE, at(900)).await.unwrap(), None, "it is not what it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_read_once() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let refusal = Refusal::new(RefusalCode::WorkerDied, "too late");
    let late = Reading::Refused { header: None, refusal: &refusal };
    assert!(!store.save_read(&uid("1.2.3"), late, Late::Replace, at(2)).await.unwrap());
    assert!(!store.save_read(&uid("5.5"), late, Late::Replace, at(2)).await.unwrap(), "never received");
    assert_eq!(show(&store, "1.2").await.study.instances_refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_a_readable_study_ends_refused_under_its_own_uid() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    refuse(&store, "1.2.3", None, RefusalCode::Malformed, 1).await;
    let listed = store.list_studies(StudyFilter { state: Some(StudyState::Refused), since: None }, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].study.as_str(), listed[0].readable, listed[0].instances), ("1.2.3", false, 1));
    assert_eq!(listed[0].refusal.as_ref().map(|r| r.code), Some(RefusalCode::Malformed));
    assert!(store.activities(at(2)).await.unwrap().is_empty());

    store.requeue(&uid("1.2.3"), at(3)).await.unwrap();
    score_all(&store, "1.2", 4).await;
    assert_eq!(store.show_study(&uid("1.2.3")).await.unwrap(), None);
    assert_eq!(state(&store, "1.2").await, StudyState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_instance_yields_a_new_report_with_its_predecessor() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    assert_eq!(store.previous_reports(&uid("1.2"), Disclosure::Withheld).await.unwrap(), []);
    report(&store, "1.2", "2.25.1", &["PACS"], 60).await;
    let first = due(&store, 61).await.remove(0);
    store
        .delivery_succeeded(first.id, &uid("1.2.840.10008.5.1.4.1.1.88.22"), &uid("2.25.11"), false, at(62))
        .await
        .unwrap();
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);

    put(&store, "1.2.4", 100).await;
    score_all(&store, "1.2", 101).await;
    let activity = store.activities(at(102)).await.unwrap().remove(0);
    assert_eq!((activity.revision, activity.first_at, activity.last_at), (2, at(101), at(100)));
    assert_eq!(current(&store, "1.2").await, ["2.25.1"], "current until there is a newer one");
    let previous = store.previous_reports(&uid("1.2"), Disclosure::Withheld).await.unwrap();
    let variants: Vec<_> = previous.iter().map(|p| (p.sop_class.as_str(), p.sop_instance.as_str())).collect();
    assert_eq!(variants, [(SR, "2.25.1"), (FALLBACK_SR, "2.25.1.2")]);
    assert_eq!(store.previous_reports(&uid("1.2"), Disclosure::Probabilities).await.unwrap(), []);

    report(&store, "1.2", "2.25.2", &["PACS"], 200).await;
    assert_eq!(current(&store, "1.2").await, ["2.25.2"]);
    let shown = show(&store, "1.2").await;
    let chain: Vec<_> = shown.reports.iter().map(|r| r.predecessor.as_ref().map(Uid::as_str)).collect();
    assert_eq!(chain, [None, Some("2.25.1")]);
    assert_eq!(shown.instances.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_report_does_not_open_its_study() {
    for code in [RefusalCode::OwnReport, RefusalCode::NotAnImage] {
        let (_dir, store) = fresh().await;
        put(&store, "1.2.3", 0).await;
        score_all(&store, "1.2", 1).await;
        report(&store, "1.2", "2.25.1", &[], 60).await;
        put(&store, "2.25.1", 61).await;
        assert!(
            store.is_own_report(&uid("2.25.1")).await.unwrap() && !store.is_own_report(&uid("1.2.3")).await.unwrap()
        );
        refuse(&store, "2.25.1", Some("1.2"), code, 62).await;
        let shown = show(&store, "1.2").await;
        assert_eq!((shown.study.state, shown.study.revision, shown.study.instances), (StudyState::Delivered, 1, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_report_of_a_forgotten_study_ends_refused() {
    let (_dir, store) = fresh().await;
    put(&store, "2.25.1", 0).await;
    refuse(&store, "2.25.1", Some("1.2"), RefusalCode::OwnReport, 1).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Refused);
    put(&store, "1.2.3", 2).await;
    score_all(&store, "1.2", 3).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Open, "its images are analysed all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_changed_meanwhile_is_not_closed() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let stale = claim(&store, "1.2", 60).await;
    put(&store, "1.2.4", 61).await;
    score_all(&store, "1.2", 62).await;
    let reports = [outgoing("1.2", "2.25.1", Disclosure::Withheld, &["PACS"])];
    assert_eq!(close_with(&store, &stale, &reports, 63).await, Closed::Superseded);
    assert!(files(&dir.path().join("reports")).is_empty());
    assert!(due(&store, 1000).await.is_empty());

    let fresh_claim = claim(&store, "1.2", 64).await;
    assert_eq!((fresh_claim.revision, fresh_claim.attempts), (1, 1), "a change is no failed attempt");
    assert_eq!(close_with(&store, &fresh_claim, &reports, 65).await, Closed::As(StudyState::Reported));
    let again = [outgoing("1.2", "2.25.2", Disclosure::Withheld, &["PACS"])];
    assert_eq!(close_with(&store, &fresh_claim, &again, 66).await, Closed::Superseded, "closed is closed");
    assert_eq!(current(&store, "1.2").await, ["2.25.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_study_is_visible() {
    let refusal = Refusal::new(RefusalCode::NothingToAnalyse, "no image");
    let reports = [outgoing("1.2", "2.25.1", Disclosure::Withheld, &["PACS"])];
    let silent = [outgoing("1.2", "2.25.1", Disclosure::Withheld, &[])];
    let told = assessment();
    let missing = vec!["MG L-CC".to_owned()];
    let closing = Closing { complete: false, by: ClosedBy::Cap, missing };
    let reported = |reports| Outcome::Reported {
        assessment: &told,
        closing: &closing,
        older: Older::Withdrawn,
        reports,
        facts: None,
    };
    let rows = [
        (reported(&reports[..]), StudyState::Reported),
        (reported(&silent[..]), StudyState::Delivered),
        (Outcome::Refused(&refusal), StudyState::Refused),
        (Outcome::Failed("the device is out of memory"), StudyState::Failed),
    ];
    for (outcome, expected) in rows {
        let (_dir, store) = fresh().await;
        put(&store, "1.2.3", 0).await;
        score_all(&store, "1.2", 1).await;
        let claim = claim(&store, "1.2", 60).await;
        assert_eq!(store.close_study(&claim, outcome, at(61)).await.unwrap(), Closed::As(expected));
        let shown = show(&store, "1.2").await;
        assert_eq!((shown.study.state, shown.study.closed_at), (expected, Some(at(61))));
        assert_eq!(shown.study.refusal.is_some(), expected == StudyState::Refused);
        assert_eq!(shown.study.error.is_some(), expected == StudyState::Failed);
        assert!(store.activities(at(1000)).await.unwrap().is_empty());
        if let Outcome::Reported { .. } = outcome {
            assert_eq!((shown.study.complete, shown.study.level), (Some(false), Some(Level::ScoreDependent)));
            assert_eq!((shown.study.closed_by, &shown.study.missing), (Some(ClosedBy::Cap), &closing.missing));
            assert!(shown.assessment.unwrap().findings[0].disclosed.is_none(), "not kept twice");
        }
        let counts = store.counts().await.unwrap();
        assert_eq!((counts.studies[expected.as_str()], counts.studies["open"]), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeued_study_is_read_and_reported_again() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    report(&store, "1.2", "2.25.1", &["PACS"], 60).await;
    store.requeue(&uid("1.2"), at(100)).await.unwrap();
    let activity = store.activities(at(101)).await.unwrap().remove(0);
    assert_eq!((activity.revision, activity.first_at, activity.unread_since), (2, at(100), Some(at(0))));
    assert!(store.ready_study(&uid("1.2")).await.unwrap().instances.is_empty());

    // Less is read this time: the instance stays in its study.
    refuse(&store, "1.2.3", None, RefusalCode::WorkerDied, 102).await;
    let ready = store.ready_study(&uid("1.2")).await.unwrap();
    assert_eq!(ready.instances[0].refusal.as_ref().map(|r| r.code), Some(RefusalCode::WorkerDied));
    assert!(ready.instances[0].scores.is_empty());
    store.requeue(&uid("1.2"), at(103)).await.unwrap();
    score_all(&store, "1.2", 104).await;
    report(&store, "1.2", "2.25.2", &["PACS"], 170).await;
    assert_eq!(show(&store, "1.2").await.study.revision, 2, "it had not been closed in between");
    assert_eq!(current(&store, "1.2").await, ["2.25.2"]);

    let unknown = store.requeue(&uid("8.8"), at(0)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownStudy(_))), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_filtered_and_the_newest_comes_first() {
    let (_dir, store) = fresh().await;
    for number in 1..=3 {
        put(&store, &format!("1.{number}.5"), number * 10).await;
        score_all(&store, &format!("1.{number}"), number * 10).await;
    }
    report(&store, "1.2", "2.25.1", &[], 60).await;
    let list = async |state, since, limit| {
        let rows = store.list_studies(StudyFilter { state, since }, limit).await.unwrap();
        rows.into_iter().map(|row| row.study.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, 10).await, ["1.3", "1.2", "1.1"]);
    assert_eq!(list(None, None, 1).await, ["1.3"]);
    assert_eq!(list(Some(StudyState::Open), None, 10).await, ["1.3", "1.1"]);
    assert_eq!(list(None, Some(at(20)), 10).await, ["1.3", "1.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_backlog_of_many_open_studies_is_looked_through_once() {
    let (_dir, store) = fresh().await;
    let mut tx = store.index().write().await.unwrap();
    // Open studies of one image, half of which are to be read again, and as many objects of the same sender that are
    // not read yet.
    for sql in [
        "CREATE TEMP TABLE n AS WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
         SELECT n FROM n",
        "INSERT INTO studies (study, kind, state, source, revision, version, first_at, last_at)
         SELECT '1.2.' || n, 'study', 'open', 'PACS', 1, 1, 0, 0 FROM n",
        "INSERT INTO instances (sop_instance, study, sop_class, transfer_syntax, digest, bytes, path, calling, called,
             peer, received_at, state)
         SELECT '1.3.' || n, '1.2.' || n, '1', '1', 'd', 1, 'p', 'PACS', 'X', 'p', n, iif(n % 2, 'received', 'scored')
         FROM n UNION ALL
         SELECT '1.4.' || n, NULL, '1', '1', 'd', 1, 'p', 'PACS', 'X', 'p', 10000 + n, 'received' FROM n",
        "DROP TABLE n",
    ] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    let looked = tokio::time::timeout(Duration::from_secs(20), store.activities(at(0))).await;
    let activities = looked.expect("no minutes: one look at each object").unwrap();
    assert_eq!(activities.len(), 20_000);
    for (study, since) in [("1.2.7", 7), ("1.2.8", 10_001), ("1.2.19999", 10_001)] {
        let of = activities.iter().find(|a| a.study == uid(study)).unwrap();
        assert_eq!(of.unread_since.map(|at| at.timestamp_micros()), Some(since), "{study}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_read_for_long_is_claimed_for_as_long() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let claimed = async |second| store.claim_received(1, LEASE, at(second)).await.unwrap().len();
    let lease = LEASE.as_secs() as i64;
    assert_eq!(claimed(0).await, 1);
    store.prolong_instance(&uid("1.2.3"), LEASE, at(lease - 1)).await.unwrap();
    assert_eq!(claimed(lease).await, 0, "still being read");
    store.release_instance(&uid("1.2.3"), true, None).await.unwrap();
    store.prolong_instance(&uid("1.2.3"), LEASE, at(lease)).await.unwrap();
    assert_eq!(claimed(lease).await, 1, "given back");
}
