//! Destinations that are down: who waits, who is asked, what is given up.

use super::*;
use crate::domain::DeliveryState;

const NEVER: i64 = -1_000_000;

/// Studies `1.1` … `1.n`, each reported to `PACS` at second 60 and more.
async fn reported(count: i64, destinations: &[&str]) -> (TempDir, Store) {
    let (dir, store) = fresh().await;
    for number in 1..=count {
        put(&store, &format!("1.{number}.5"), 0).await;
        score_all(&store, &format!("1.{number}"), 1).await;
        report(&store, &format!("1.{number}"), &format!("2.25.{number}"), destinations, 60 + number).await;
    }
    (dir, store)
}

async fn due_names(store: &Store, second: i64) -> Vec<(String, u32)> {
    let due = store.due_destinations(at(second)).await.unwrap();
    due.into_iter().map(|d| (d.name, d.failures)).collect()
}

async fn claim_one(store: &Store, destination: &str, second: i64) -> Delivery {
    store.due_deliveries(1, Some(destination), LEASE, at(second)).await.unwrap().remove(0)
}

/// An attempt that did not reach its destination; gives up what was queued by `given_up` after ten tries.
async fn unreached(store: &Store, delivery: &Delivery, second: i64, next: i64, given_up: i64) {
    let attempt = Unreached {
        delivery: delivery.id,
        destination: &delivery.destination,
        error: "connection refused",
        now: at(second),
        next_at: at(next),
    };
    let give_up = GiveUp { queued_before: at(given_up), tries_min: 10 };
    store.destination_unreached(attempt, give_up).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_reports_wait_for_a_destination_that_is_down_and_one_asks() {
    let (_dir, store) = reported(3, &["PACS"]).await;
    assert_eq!(due_names(&store, 70).await, [("PACS".into(), 0)]);
    let first = claim_one(&store, "PACS", 70).await;
    assert_eq!(first.sop_instance.as_str(), "2.25.1", "the oldest");
    unreached(&store, &first, 70, 100, NEVER).await;
    assert!(due_names(&store, 99).await.is_empty(), "all of them wait");
    assert_eq!(due_names(&store, 100).await, [("PACS".into(), 1)]);

    let again = claim_one(&store, "PACS", 100).await;
    assert_eq!((again.id, again.attempts), (first.id, 0), "an attempt that reached nobody is no try of the report");
    unreached(&store, &again, 100, 160, NEVER).await;
    let state = store.destinations().await.unwrap().remove(0);
    assert_eq!((state.up, state.failures, state.pending), (false, 2, 3));
    assert_eq!((state.down_since, state.next_at), (Some(at(70)), Some(at(160))));
    assert_eq!(state.last_error.as_deref(), Some("connection refused"));

    // It is back: all of them are due at once.
    store.destination_reached("PACS").await.unwrap();
    assert_eq!(due(&store, 160).await.len(), 3);
    let state = store.destinations().await.unwrap().remove(0);
    assert_eq!((state.up, state.failures, state.down_since, state.next_at), (true, 0, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_destination_that_is_down_holds_up_no_other() {
    let (_dir, store) = reported(2, &["ARCHIVE", "PACS"]).await;
    let first = claim_one(&store, "ARCHIVE", 70).await;
    unreached(&store, &first, 70, 1000, NEVER).await;
    assert_eq!(due_names(&store, 71).await, [("PACS".into(), 0)]);
    assert_eq!(claim_one(&store, "PACS", 71).await.destination, "PACS");
}

#[tokio::test(flavor = "multi_thread")]
async fn associations_that_fail_together_are_one_failure() {
    let (_dir, store) = reported(2, &["PACS"]).await;
    let both = due(&store, 70).await;
    unreached(&store, &both[0], 70, 100, NEVER).await;
    unreached(&store, &both[1], 70, 100, NEVER).await;
    assert_eq!(due_names(&store, 100).await, [("PACS".into(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_too_long_and_was_asked_for_often_enough_is_given_up() {
    let (_dir, store) = reported(2, &["PACS"]).await;
    // Study 1.1 was queued at 61, 1.2 at 62: only the first is old enough.
    for attempt in 1..=10 {
        let now = 100 * attempt;
        let delivery = claim_one(&store, "PACS", now).await;
        assert_eq!(delivery.sop_instance.as_str(), "2.25.1", "attempt {attempt}");
        unreached(&store, &delivery, now, now + 100, 61).await;
    }
    let failed = show(&store, "1.1").await;
    assert_eq!(failed.deliveries[0].state, DeliveryState::Failed);
    assert_eq!(failed.study.state, StudyState::Failed);
    assert!(failed.study.error.unwrap().contains("PACS"));
    assert_eq!(state(&store, "1.2").await, StudyState::Reported, "still waits");

    let which = Resend { failed_only: true, ..Resend::default() };
    assert_eq!(store.resend_matching(which, at(2000)).await.unwrap(), 1);
    assert_eq!(due_names(&store, 2000).await.len(), 1, "asked at once, before its next turn");
    assert_eq!(state(&store, "1.1").await, StudyState::Reported);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_can_name_a_destination() {
    let (_dir, store) = reported(2, &["ARCHIVE", "PACS"]).await;
    let deliveries = due(&store, 70).await;
    for delivery in &deliveries {
        match delivery.destination.as_str() {
            "PACS" => delivered(&store, delivery, 71).await,
            _ => store.delivery_failed(delivery.id, "A900H", None).await.unwrap(),
        }
    }
    let to_pacs = Resend { destination: Some("PACS"), ..Resend::default() };
    assert_eq!(store.resend_matching(to_pacs, at(80)).await.unwrap(), 2, "an archive that lost its data");
    assert_eq!(state(&store, "1.1").await, StudyState::Failed, "the other destination has not got it");
    for delivery in due(&store, 80).await {
        assert_eq!(delivery.destination, "PACS");
        delivered(&store, &delivery, 81).await;
    }
    assert_eq!(state(&store, "1.1").await, StudyState::Failed);
    let failed = Resend { failed_only: true, ..Resend::default() };
    assert_eq!(store.resend_matching(failed, at(90)).await.unwrap(), 2);
    for delivery in due(&store, 90).await {
        delivered(&store, &delivery, 91).await;
    }
    assert_eq!(state(&store, "1.1").await, StudyState::Delivered);
    assert_eq!(store.resend_matching(failed, at(100)).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_up_as_soon_as_any_association_delivers_to_it() {
    let (_dir, store) = reported(3, &["PACS"]).await;
    // Two associations at once: the second cannot be opened while the first works.
    let (first, second) = (claim_one(&store, "PACS", 70).await, claim_one(&store, "PACS", 70).await);
    unreached(&store, &second, 71, 1000, NEVER).await;
    assert!(due_names(&store, 72).await.is_empty());
    delivered(&store, &first, 72).await;
    assert_eq!(due_names(&store, 72).await, [("PACS".into(), 0)]);
    let state = store.destinations().await.unwrap().remove(0);
    assert_eq!((state.up, state.down_since, state.last_error), (true, None, None));
}
