//! Commitment: what is judged, what is remembered, and what the retention may not take.

use super::*;
use crate::dicom::{CommitmentRq, SopReference, Status};

const MINUTE: Duration = Duration::from_secs(60);

fn asked(transaction: &str, references: &[(&str, &str)]) -> CommitmentRq {
    let reference =
        |(class, instance): &(&str, &str)| SopReference { sop_class: uid(class), sop_instance: uid(instance) };
    CommitmentRq { transaction: uid(transaction), references: references.iter().map(reference).collect() }
}

async fn request(store: &Store, source: &str, request: &CommitmentRq, second: i64) -> i64 {
    let title = |text| AeTitle::parse(text).unwrap();
    store.request_commitment(&title(source), &title("SIDELIGHT"), request, LEASE, at(second)).await.unwrap()
}

async fn judged(store: &Store, id: i64, second: i64) -> Vec<u16> {
    let (_, outcomes) = store.judge_commitment(id, at(second)).await.unwrap();
    outcomes.into_iter().map(|(_, status)| status.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_judged_by_the_index_and_by_its_file() {
    let (dir, store) = fresh().await;
    for instance in ["1.2.1", "1.2.2", "1.2.3", "1.2.5"] {
        put(&store, instance, 0).await;
    }
    let other = commit(&store, &received("1.2.5", "MODALITY", 1), b"other").await.unwrap();
    assert!(matches!(other, Accepted::Conflict { .. }), "{other:?}");
    let file = |instance: &str| object(dir.path(), instance);
    let mut bytes = fs::read(file("1.2.2")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file("1.2.2"), bytes).unwrap();
    fs::write(file("1.2.3"), b"x").unwrap();
    let all = [(CR, "1.2.1"), (SR, "1.2.1"), (CR, "1.2.2"), (CR, "1.2.3"), (CR, "1.2.4"), (CR, "1.2.5")];
    let id = request(&store, "CT", &asked("1.9", &all), 1).await;
    let expected = [Status::SUCCESS.0, 0x0119, 0x0110, 0x0110, 0x0112, 0x0110];
    assert_eq!(judged(&store, id, 2).await, expected);
    // Judged once: what happens later changes nothing in what was found.
    fs::remove_file(file("1.2.1")).unwrap();
    assert_eq!(judged(&store, id, 3).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_uid_is_used_once_by_each_source() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.1", 0).await;
    let first = request(&store, "CT", &asked("1.9", &[(CR, "1.2.1")]), 1).await;
    let again = request(&store, "CT", &asked("1.9", &[(CR, "1.2.1")]), 2).await;
    let other = request(&store, "MR", &asked("1.9", &[(CR, "1.2.1")]), 2).await;
    assert_eq!(judged(&store, again, 3).await, [0x0131]);
    assert_eq!((judged(&store, first, 3).await, judged(&store, other, 3).await), (vec![0], vec![0]));
    store.commitment_answered(first, at(4)).await.unwrap();
    let later = request(&store, "CT", &asked("1.9", &[(CR, "1.2.1")]), 5).await;
    assert_eq!(judged(&store, later, 6).await, [0x0131]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_due_once_its_lease_is_over_given_back_or_lifted_by_a_restart() {
    let (dir, store) = fresh().await;
    let due = async |store: &Store, second: i64| {
        let due = store.due_commitment(MINUTE, at(second)).await.unwrap();
        due.map(|due| (due.id, due.attempts, due.source.to_string()))
    };
    let id = request(&store, "CT", &asked("1.9", &[(CR, "1.2.1")]), 0).await;
    assert_eq!(due(&store, 59).await, None, "the association that asked is still there");
    assert_eq!(due(&store, 60).await, Some((id, 0, "CT".into())));
    assert_eq!(due(&store, 61).await, None);
    store.release_commitment(id).await.unwrap();
    assert_eq!(due(&store, 61).await, Some((id, 0, "CT".into())));
    store.commitment_failed(id, "nobody listens", Some(at(90)), at(62)).await.unwrap();
    assert_eq!((due(&store, 89).await, due(&store, 90).await), (None, Some((id, 1, "CT".into()))));

    let after = as_after_a_kill(dir.path());
    let restarted = open(after.path()).await;
    assert_eq!(due(&restarted, 91).await, Some((id, 1, "CT".into())));
    assert_eq!(judged(&restarted, id, 92).await, [0x0112]);
    restarted.commitment_answered(id, at(93)).await.unwrap();
    assert_eq!(due(&restarted, 10_000).await, None);

    store.commitment_failed(id, "never", None, at(94)).await.unwrap();
    assert_eq!(due(&store, 10_000).await, None);
    // An answer that comes after all changes nothing.
    store.commitment_answered(id, at(95)).await.unwrap();
    let state: String =
        sqlx::query_scalar("SELECT state FROM commitments").fetch_one(store.index().read()).await.unwrap();
    assert_eq!(state, "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_is_not_taken_over_and_one_given_back_is_not_held() {
    let (_dir, store) = fresh().await;
    let id = request(&store, "CT", &asked("1.9", &[(CR, "1.2.1")]), 0).await;
    store.renew_commitment(id, at(50)).await.unwrap();
    assert!(store.due_commitment(MINUTE, at(169)).await.unwrap().is_none());
    store.release_commitment(id).await.unwrap();
    store.renew_commitment(id, at(169)).await.unwrap();
    assert_eq!(store.due_commitment(MINUTE, at(169)).await.unwrap().map(|due| due.id), Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_has_a_hundred_pending_requests_at_most_and_each_instance_is_read_once() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.1", 0).await;
    let title = |text| AeTitle::parse(text).unwrap();
    let mut first = None;
    for n in 1..=100 {
        let id = request(&store, "CT", &asked(&format!("1.9.{n}"), &[(CR, "1.2.1"), (CR, "1.2.1")]), 1).await;
        first.get_or_insert(id);
    }
    let more = asked("1.9.101", &[(CR, "1.2.1")]);
    let (ct, mr, called) = (title("CT"), title("MR"), title("SIDELIGHT"));
    let refused = store.request_commitment(&ct, &called, &more, LEASE, at(2)).await;
    assert!(matches!(refused, Err(StoreError::TooManyCommitments(_))), "{refused:?}");
    assert!(store.request_commitment(&mr, &called, &more, LEASE, at(2)).await.is_ok());
    let id = first.unwrap();
    assert_eq!(judged(&store, id, 3).await, [0, 0]);
    store.commitment_answered(id, at(4)).await.unwrap();
    assert!(store.request_commitment(&ct, &called, &more, LEASE, at(5)).await.is_ok());

    let refer = |class| SopReference { sop_class: uid(class), sop_instance: uid("1.2.1") };
    let mut items = [CR, SR, CR, CR].map(|class| (refer(class), Status::PROCESSING_FAILURE));
    assert_eq!(store.judge_all(&mut items).await.unwrap(), 2);
    assert_eq!(items.map(|(_, outcome)| outcome.0), [0, 0x0119, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_object_stays_for_its_whole_retention_from_then_on() {
    const DAY: i64 = 86_400;
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    put(&store, "1.2.4", 0).await;
    score_all(&store, "1.2", 1).await;
    report(&store, "1.2", "2.25.1", &[], 60).await;
    let id = request(&store, "CT", &asked("1.9", &[(CR, "1.2.3")]), 9 * DAY).await;
    assert_eq!(judged(&store, id, 9 * DAY).await, [0]);
    store.commitment_answered(id, at(9 * DAY)).await.unwrap();
    let objects = || files(&dir.path().join("spool")).len();
    let expire = async |day: i64| {
        let kept = Retention { objects_kept: Some(Duration::from_secs(864_000)), ..Retention::default() };
        store.expire(at(day * DAY), kept).await.unwrap().objects
    };
    assert_eq!((expire(11).await, objects()), (1, 1), "the one that nobody was promised");
    assert_eq!((expire(18).await, objects()), (0, 1));
    assert_eq!((expire(20).await, objects()), (1, 0));
    let again = request(&store, "CT", &asked("1.10", &[(CR, "1.2.3")]), 20 * DAY).await;
    assert_eq!(judged(&store, again, 20 * DAY).await, [0x0112], "past its retention");
    // Requests that ended are forgotten after a month, so that the index does not grow without end.
    expire(60).await;
    let known: i64 =
        sqlx::query_scalar("SELECT count(*) FROM commitments").fetch_one(store.index().read()).await.unwrap();
    assert_eq!(known, 1, "the one that nobody has heard of yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_keeps_the_title_that_its_first_object_was_sent_to() {
    let (_dir, store) = fresh().await;
    for (instance, called, second) in [("1.2.3", "CHEST", 0), ("1.2.4", "OTHER", 5)] {
        let received =
            ReceivedInstance { called: AeTitle::parse(called).unwrap(), ..received(instance, "MODALITY", second) };
        commit(&store, &received, instance.as_bytes()).await.unwrap();
        score_all(&store, "1.2", second + 1).await;
    }
    let activities = store.activities(at(10)).await.unwrap();
    assert_eq!(activities[0].called.as_ref().map(AeTitle::as_str), Some("CHEST"));
    assert_eq!(claim(&store, "1.2", 20).await.called, activities[0].called);
}
