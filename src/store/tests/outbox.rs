//! Deliveries: order, retries, ends, resending.

use super::*;
use crate::domain::DeliveryState;

/// A store with one study that is reported to `destinations`.
async fn reported(destinations: &[&str]) -> (TempDir, Store) {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    report(&store, "1.2", "2.25.1", destinations, 60).await;
    (dir, store)
}

/// A late instance and the report that follows.
async fn report_again(store: &Store, second: i64) {
    put(store, "1.2.4", second).await;
    score_all(store, "1.2", second).await;
    report(store, "1.2", "2.25.2", &["PACS"], second).await;
}

async fn states(store: &Store) -> Vec<DeliveryState> {
    show(store, "1.2").await.deliveries.into_iter().map(|d| d.state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_delivered_when_every_destination_has_its_report() {
    let (_dir, store) = reported(&["ARCHIVE", "PACS"]).await;
    let deliveries = due(&store, 60).await;
    let names: Vec<_> = deliveries.iter().map(|d| d.destination.as_str()).collect();
    assert_eq!(names, ["ARCHIVE", "PACS"]);
    assert_eq!(fs::read(&deliveries[0].path).unwrap(), b"report 2.25.1");
    assert!(due(&store, 61).await.is_empty(), "leased");
    delivered(&store, &deliveries[0], 62).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Reported);
    delivered(&store, &deliveries[1], 63).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    let shown = show(&store, "1.2").await.deliveries;
    assert_eq!((shown[1].delivered_at, shown[1].attempts), (Some(at(63)), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_waits_for_its_next_attempt() {
    let (_dir, store) = reported(&["PACS"]).await;
    let first = due(&store, 60).await.remove(0);
    store.delivery_failed(first.id, "connection refused", Some(at(90))).await.unwrap();
    assert!(due(&store, 89).await.is_empty());
    let second = due(&store, 90).await.remove(0);
    assert_eq!((second.id, second.attempts, second.queued_at), (first.id, 1, at(60)));
    assert_eq!(show(&store, "1.2").await.deliveries[0].last_error.as_deref(), Some("connection refused"));
    delivered(&store, &second, 91).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_given_up_fails_its_study_until_it_is_resent() {
    let (_dir, store) = reported(&["ARCHIVE", "PACS"]).await;
    let deliveries = due(&store, 60).await;
    store.delivery_failed(deliveries[0].id, "connection refused", None).await.unwrap();
    let failed = show(&store, "1.2").await.study;
    assert_eq!(failed.state, StudyState::Failed);
    assert!(failed.error.unwrap().contains("ARCHIVE"));
    delivered(&store, &deliveries[1], 61).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Failed, "the other's success does not hide it");

    assert_eq!(store.resend(&uid("1.2"), at(100)).await.unwrap(), 2);
    let again = due(&store, 100).await;
    assert_eq!(again.iter().map(|d| (d.attempts, d.queued_at)).collect::<Vec<_>>(), [(0, at(100)), (0, at(100))]);
    assert_eq!(state(&store, "1.2").await, StudyState::Reported);
    for delivery in &again {
        delivered(&store, delivery, 101).await;
    }
    let shown = show(&store, "1.2").await.study;
    assert_eq!((shown.state, shown.error), (StudyState::Delivered, None));
}

/// A destination that takes no Secondary Capture.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_not_taken_neither_fails_a_study_nor_holds_up_its_next_report() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let claimed = claim(&store, "1.2", 60).await;
    let report_of = |uid: &str| outgoing("1.2", uid, Disclosure::Withheld, &["PACS"]);
    let map_of = |instance: &str| {
        let mut map = report_of(instance);
        map.variants.truncate(1);
        map.variants[0].sop_class = uid("1.2.840.10008.5.1.4.1.1.7");
        map
    };
    let reports = [report_of("2.25.1"), map_of("2.25.5"), map_of("2.25.6")];
    assert!(matches!(close_with(&store, &claimed, &reports, 60).await, Closed::As(_)));
    let first = due(&store, 60).await;
    assert_eq!(first.iter().map(|d| d.sop_instance.as_str()).collect::<Vec<_>>(), ["2.25.1"], "the report goes first");
    delivered(&store, &first[0], 61).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered, "maps are no part of that");
    let maps = due(&store, 62).await;
    assert_eq!(maps.len(), 2, "no map waits for another");
    store.delivery_failed(maps[0].id, "not accepted", None).await.unwrap();
    store.delivery_failed(maps[1].id, "out of resources", Some(at(9_999))).await.unwrap();
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    let shown = show(&store, "1.2").await;
    assert_eq!(shown.deliveries[1].last_error.as_deref(), Some("not accepted"));
    assert_eq!(store.resend_matching(Resend { failed_only: true, ..Resend::default() }, at(70)).await.unwrap(), 1);
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered, "its report has arrived and stays so");
    assert_eq!(due(&store, 71).await.len(), 1);

    put(&store, "1.2.4", 100).await;
    score_all(&store, "1.2", 100).await;
    let claimed = claim(&store, "1.2", 160).await;
    let closing = Closing { complete: true, by: ClosedBy::Quiet, missing: Vec::new() };
    let (assessment, reports) = (assessment(), [report_of("2.25.7")]);
    let outcome = Outcome::Reported {
        assessment: &assessment,
        closing: &closing,
        older: Older::Sent,
        reports: &reports,
        facts: None,
    };
    assert!(matches!(store.close_study(&claimed, outcome, at(160)).await.unwrap(), Closed::As(_)));
    let next = due(&store, 160).await;
    assert_eq!(next.iter().map(|d| d.sop_instance.as_str()).collect::<Vec<_>>(), ["2.25.5", "2.25.7"], "beside a map");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_report_is_not_sent_any_more() {
    let (_dir, store) = reported(&["PACS"]).await;
    report_again(&store, 100).await;
    let deliveries = due(&store, 100).await;
    assert_eq!(deliveries.iter().map(|d| d.sop_instance.as_str()).collect::<Vec<_>>(), ["2.25.2"]);
    delivered(&store, &deliveries[0], 101).await;
    assert_eq!(states(&store).await, [DeliveryState::Superseded, DeliveryState::Delivered]);
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    assert_eq!(store.resend(&uid("1.2"), at(200)).await.unwrap(), 1, "the current one alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_report_waits_for_the_old_one_that_is_under_way() {
    for old_arrives in [true, false] {
        let (_dir, store) = reported(&["PACS"]).await;
        let old = due(&store, 95).await.remove(0);
        report_again(&store, 100).await;
        assert!(due(&store, 100).await.is_empty());
        let outcome = match old_arrives {
            true => {
                delivered(&store, &old, 101).await;
                DeliveryState::Delivered
            }
            false => {
                store.delivery_failed(old.id, "connection reset", Some(at(102))).await.unwrap();
                DeliveryState::Superseded
            }
        };
        assert_eq!(states(&store).await, [outcome, DeliveryState::Pending]);
        assert_eq!(state(&store, "1.2").await, StudyState::Reported);
        let new = due(&store, 101).await;
        assert_eq!(new.iter().map(|d| d.sop_instance.as_str()).collect::<Vec<_>>(), ["2.25.2"]);
        delivered(&store, &new[0], 103).await;
        assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_report_whose_file_is_gone_holds_up_no_other() {
    let (_dir, store) = reported(&["PACS"]).await;
    report_again(&store, 100).await;
    let mut tx = store.index().write().await.unwrap();
    for sql in
        ["UPDATE deliveries SET state = 'pending'", "UPDATE reports SET path = NULL WHERE sop_instance = '2.25.1'"]
    {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    let deliveries = due(&store, 100).await;
    assert_eq!(deliveries.iter().map(|d| d.sop_instance.as_str()).collect::<Vec<_>>(), ["2.25.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_report_does_not_hide_that_a_later_analysis_failed() {
    let (_dir, store) = reported(&["PACS"]).await;
    store.requeue(&uid("1.2"), at(100)).await.unwrap();
    score_all(&store, "1.2", 101).await;
    let claim = claim(&store, "1.2", 102).await;
    store.close_study(&claim, Outcome::Failed("no device"), at(103)).await.unwrap();
    let old = due(&store, 104).await.remove(0);
    delivered(&store, &old, 105).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Failed);
    store.resend(&uid("1.2"), at(106)).await.unwrap();
    let shown = show(&store, "1.2").await.study;
    assert_eq!((shown.state, shown.error.as_deref()), (StudyState::Failed, Some("no device")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_known_under_the_uid_that_the_destination_accepted() {
    let (_dir, store) = reported(&["PACS"]).await;
    let delivery = due(&store, 60).await.remove(0);
    let fallback = uid("2.25.77");
    assert!(store.is_own_report(&uid("2.25.1.2")).await.unwrap(), "a variant is one's own too");
    assert!(!store.is_own_report(&fallback).await.unwrap());
    store
        .delivery_succeeded(delivery.id, &uid("1.2.840.10008.5.1.4.1.1.88.22"), &fallback, false, at(61))
        .await
        .unwrap();
    assert!(store.is_own_report(&fallback).await.unwrap());
    let shown = show(&store, "1.2").await.deliveries.remove(0);
    assert_eq!((shown.report, shown.sent_sop_instance), (uid("2.25.1"), Some(fallback)));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_nothing_to_resend_without_a_report() {
    let (_dir, store) = fresh().await;
    let unknown = store.resend(&uid("1.2"), at(0)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownStudy(_))), "{unknown:?}");
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let nothing = store.resend(&uid("1.2"), at(2)).await;
    assert!(matches!(nothing, Err(StoreError::NothingToSend(_))), "{nothing:?}");
}
