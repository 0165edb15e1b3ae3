//! Commitment that is asked of destinations: what is asked when, answers whenever they come, and what stays meanwhile.

use super::*;
use crate::dicom::{CommitmentRq, CommitmentRs, Status};
use crate::domain::{CommitmentState, DeliveryState};

const DAY: i64 = 86_400;
/// One day after the delivery, and four tries.
const NEVER: GiveUp = GiveUp { queued_before: Timestamp::MIN_UTC, tries_min: 4 };

/// A store with a study whose report its destinations took at second 60, each asked for commitment.
async fn taken(destinations: &[&str]) -> (TempDir, Store) {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    report(&store, "1.2", "2.25.1", destinations, 60).await;
    for delivery in due(&store, 60).await {
        take(&store, &delivery, 60).await;
    }
    (dir, store)
}

async fn take(store: &Store, delivery: &Delivery, second: i64) {
    let (class, instance) = (&delivery.sop_class, &delivery.sop_instance);
    store.delivery_succeeded(delivery.id, class, instance, true, at(second)).await.unwrap();
}

async fn asked(store: &Store, destination: &str, second: i64) -> Option<Inquiry> {
    store.begin_confirmation(destination, MINUTE, at(second)).await.unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

fn answer(inquiry: &Inquiry, outcome: Status) -> CommitmentRs {
    let outcomes = inquiry.request.references.iter().map(|r| (r.clone(), outcome)).collect();
    CommitmentRs { transaction: inquiry.request.transaction.clone(), outcomes }
}

async fn heard(store: &Store, destination: &str, inquiry: &Inquiry, outcome: Status) -> bool {
    store.confirm(&[destination.to_owned()], &answer(inquiry, outcome)).await.unwrap()
}

async fn commitments(store: &Store) -> Vec<(DeliveryState, Option<CommitmentState>)> {
    show(store, "1.2").await.deliveries.into_iter().map(|d| (d.state, d.commitment)).collect()
}

async fn expire(store: &Store, day: i64) -> Expired {
    let kept = Some(Duration::from_secs(DAY as u64));
    store
        .expire(
            at(day * DAY),
            Retention { objects_kept: kept, reports_kept: kept, posteriors_kept: kept, ..Retention::default() },
        )
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_stays_until_its_destination_has_committed_to_keep_its_report() {
    let (dir, store) = taken(&["PACS"]).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    assert_eq!(store.due_confirmations(at(60)).await.unwrap(), ["PACS"]);
    let inquiry = asked(&store, "PACS", 60).await.expect("it is due at once");
    let reference = &inquiry.request.references[0];
    assert_eq!((reference.sop_class.as_str(), reference.sop_instance.as_str()), (SR, "2.25.1"));
    assert_eq!((inquiry.attempts, inquiry.request.references.len()), (1, 1));
    assert!(asked(&store, "PACS", 119).await.is_none(), "under way");

    // Race scores have a limit of their own, which no archive lengthens.
    let expired = expire(&store, 2).await;
    assert_eq!(expired, Expired { posteriors: 1, ..Expired::default() });
    let refused = store.purge(&uid("1.2"), false).await;
    assert!(matches!(refused, Err(StoreError::Unconfirmed(_))), "{refused:?}");
    assert!(!files(&dir.path().join("reports")).is_empty());

    assert!(heard(&store, "PACS", &inquiry, Status::SUCCESS).await);
    assert_eq!(commitments(&store).await, [(DeliveryState::Delivered, Some(CommitmentState::Confirmed))]);
    assert!(store.due_confirmations(at(9 * DAY)).await.unwrap().is_empty());
    let expired = expire(&store, 2).await;
    assert_eq!((expired.objects, expired.studies), (1, 1));
    assert!(heard(&store, "PACS", &inquiry, Status::SUCCESS).await, "said twice, and known long after");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_to_keep_maps_and_nothing_outlasts_its_retention_for_them() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let claimed = claim(&store, "1.2", 60).await;
    let report = outgoing("1.2", "2.25.1", Disclosure::Withheld, &["PACS"]);
    let mut map = outgoing("1.2", "2.25.5", Disclosure::Withheld, &["PACS"]);
    map.variants.truncate(1);
    map.variants[0].sop_class = uid("1.2.840.10008.5.1.4.1.1.7");
    assert!(matches!(close_with(&store, &claimed, &[report, map], 60).await, Closed::As(_)));
    for second in [60, 61] {
        for delivery in due(&store, second).await {
            take(&store, &delivery, second).await;
        }
    }
    let (taken, asked_for) = (DeliveryState::Delivered, Some(CommitmentState::Asked));
    assert_eq!(commitments(&store).await, [(taken, asked_for), (taken, None)]);
    let inquiry = asked(&store, "PACS", 70).await.unwrap();
    assert_eq!(inquiry.request.references.len(), 1);
    assert!(heard(&store, "PACS", &inquiry, Status::SUCCESS).await);
    assert_eq!(expire(&store, 2).await.objects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_not_kept_is_a_delivery_that_failed_and_can_be_sent_again() {
    let (_dir, store) = taken(&["PACS"]).await;
    let first = asked(&store, "PACS", 60).await.unwrap();
    assert!(heard(&store, "PACS", &first, Status::CLASS_INSTANCE_CONFLICT).await);
    assert_eq!(commitments(&store).await, [(DeliveryState::Failed, Some(CommitmentState::Failed))]);
    let failed = show(&store, "1.2").await;
    assert_eq!(failed.study.state, StudyState::Failed);
    assert!(failed.study.error.unwrap().contains("PACS took the report, and it does not commit to keep"));
    assert!(failed.deliveries[0].last_error.as_deref().unwrap().contains("0119"));
    assert_eq!(store.destinations().await.unwrap()[0].failed, 1);
    assert_eq!(expire(&store, 3).await.objects, 0, "it stays for as long as nobody decides");
    assert!(matches!(store.purge(&uid("1.2"), false).await, Err(StoreError::Unconfirmed(_))));

    let which = Resend { failed_only: true, ..Resend::default() };
    assert_eq!(store.resend_matching(which, at(100)).await.unwrap(), 1);
    assert_eq!(commitments(&store).await, [(DeliveryState::Pending, None)]);
    assert!(heard(&store, "PACS", &first, Status::SUCCESS).await);
    assert_eq!(commitments(&store).await, [(DeliveryState::Pending, None)]);
    // An answer to the older request says nothing of what is sent now.
    let again = due(&store, 100).await.remove(0);
    take(&store, &again, 101).await;
    assert!(heard(&store, "PACS", &first, Status::SUCCESS).await);
    assert_eq!(commitments(&store).await, [(DeliveryState::Delivered, Some(CommitmentState::Asked))]);
    let second = asked(&store, "PACS", 101).await.unwrap();
    assert_eq!(second.attempts, 1);
    assert!(heard(&store, "PACS", &second, Status::SUCCESS).await);
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    assert_eq!(store.purge(&uid("1.2"), false).await.unwrap().reports, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_for_whom_it_was_asked_and_for_what_it_names() {
    let (_dir, store) = taken(&["ARCHIVE", "PACS"]).await;
    let (archive, pacs) = (asked(&store, "ARCHIVE", 60).await.unwrap(), asked(&store, "PACS", 60).await.unwrap());
    assert!(!heard(&store, "PACS", &archive, Status::SUCCESS).await, "another's transaction");
    let unknown = Inquiry { request: CommitmentRq { transaction: uid("1.9"), ..pacs.request.clone() }, attempts: 1 };
    assert!(!heard(&store, "PACS", &unknown, Status::SUCCESS).await);
    let mut foreign = answer(&pacs, Status::SUCCESS);
    foreign.outcomes[0].0.sop_instance = uid("1.2.3.4.5");
    assert!(store.confirm(&["PACS".to_owned()], &foreign).await.unwrap(), "its transaction, and nothing of ours");
    assert!(commitments(&store).await.iter().all(|c| c.1 == Some(CommitmentState::Asked)));
    assert!(heard(&store, "PACS", &pacs, Status::SUCCESS).await);
    let (asked, confirmed) = (Some(CommitmentState::Asked), Some(CommitmentState::Confirmed));
    assert_eq!(commitments(&store).await.iter().map(|c| c.1).collect::<Vec<_>>(), [asked, confirmed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_asked_again_and_given_up_by_time_and_number() {
    let (dir, store) = taken(&["PACS"]).await;
    let first = asked(&store, "PACS", 60).await.unwrap();
    store.confirmation_open(&first, Some("no answer"), at(90), NEVER).await.unwrap();
    assert!(asked(&store, "PACS", 89).await.is_none());
    store.close().await;
    let store = open(dir.path()).await;
    let second = asked(&store, "PACS", 90).await.unwrap();
    assert_eq!(second.attempts, 2);
    assert_ne!(second.request.transaction, first.request.transaction, "a Transaction UID is used once");
    let shown = show(&store, "1.2").await.deliveries.remove(0);
    assert_eq!(shown.commitment_error.as_deref(), Some("no answer"));
    let soon = GiveUp { queued_before: at(60), tries_min: 3 };
    store.confirmation_open(&second, Some("no answer"), at(91), soon).await.unwrap();
    let third = asked(&store, "PACS", 91).await.unwrap();
    let young = GiveUp { queued_before: at(59), tries_min: 3 };
    store.confirmation_open(&third, Some("no answer"), at(92), young).await.unwrap();
    let fourth = asked(&store, "PACS", 92).await.unwrap();
    store.confirmation_open(&fourth, Some("no answer"), at(93), soon).await.unwrap();
    assert_eq!(commitments(&store).await, [(DeliveryState::Failed, Some(CommitmentState::Failed))]);
    let error = show(&store, "1.2").await.study.error.unwrap();
    assert!(error.contains("no storage commitment after 4 requests: no answer"), "{error}");
    assert!(asked(&store, "PACS", DAY).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_to_an_earlier_request_counts() {
    let (_dir, store) = taken(&["PACS"]).await;
    let first = asked(&store, "PACS", 60).await.unwrap();
    store.confirmation_open(&first, Some("no answer"), at(90), NEVER).await.unwrap();
    let second = asked(&store, "PACS", 90).await.unwrap();
    assert!(heard(&store, "PACS", &first, Status::SUCCESS).await);
    store.confirmation_open(&second, Some("no answer"), at(99), NEVER).await.unwrap();
    assert_eq!(commitments(&store).await, [(DeliveryState::Delivered, Some(CommitmentState::Confirmed))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_may_pass_is_no_answer_yet_and_given_up_by_time_and_number() {
    let (_dir, store) = taken(&["PACS"]).await;
    let soon = GiveUp { queued_before: at(60), tries_min: 4 };
    let passing =
        [Status::NO_SUCH_SOP_INSTANCE, Status::PROCESSING_FAILURE, Status::RESOURCE_LIMITATION, Status(0x0112)];
    for (second, reason) in (60..).zip(passing) {
        assert_eq!(commitments(&store).await, [(DeliveryState::Delivered, Some(CommitmentState::Asked))], "{reason}");
        let inquiry = asked(&store, "PACS", second).await.unwrap();
        assert!(heard(&store, "PACS", &inquiry, reason).await);
        store.confirmation_open(&inquiry, None, at(second + 1), soon).await.unwrap();
        let error = show(&store, "1.2").await.deliveries.remove(0).commitment_error.unwrap();
        assert!(error.contains(&format!("does not commit to keep the report yet: {reason}")), "{error}");
    }
    assert_eq!(commitments(&store).await, [(DeliveryState::Failed, Some(CommitmentState::Failed))]);
    let error = show(&store, "1.2").await.study.error.unwrap();
    assert!(error.contains("no storage commitment after 4 requests: it does not commit to keep the report yet: 0112"));
    for reason in [Status::CLASS_INSTANCE_CONFLICT, Status::SOP_CLASS_NOT_SUPPORTED, Status::DUPLICATE_TRANSACTION] {
        let (_dir, store) = taken(&["PACS"]).await;
        let inquiry = asked(&store, "PACS", 60).await.unwrap();
        assert!(heard(&store, "PACS", &inquiry, reason).await);
        assert_eq!(commitments(&store).await, [(DeliveryState::Failed, Some(CommitmentState::Failed))], "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commitment_that_comes_after_it_was_given_up_counts() {
    let (_dir, store) = taken(&["ARCHIVE", "PACS"]).await;
    let given_up = GiveUp { queued_before: at(60), tries_min: 1 };
    let (archive, pacs) = (asked(&store, "ARCHIVE", 60).await.unwrap(), asked(&store, "PACS", 60).await.unwrap());
    store.confirmation_open(&archive, Some("no answer"), at(90), given_up).await.unwrap();
    store.confirmation_open(&pacs, Some("no answer"), at(90), given_up).await.unwrap();
    let failed = (DeliveryState::Failed, Some(CommitmentState::Failed));
    assert_eq!(commitments(&store).await, [failed, failed]);

    assert!(heard(&store, "ARCHIVE", &archive, Status::NO_SUCH_SOP_INSTANCE).await, "nothing new");
    assert_eq!(commitments(&store).await, [failed, failed]);
    let confirmed = (DeliveryState::Delivered, Some(CommitmentState::Confirmed));
    assert!(heard(&store, "ARCHIVE", &archive, Status::SUCCESS).await);
    assert_eq!(commitments(&store).await, [confirmed, failed]);
    assert_eq!(state(&store, "1.2").await, StudyState::Failed, "the other one does not keep it");
    assert!(heard(&store, "PACS", &pacs, Status::SUCCESS).await);
    let shown = show(&store, "1.2").await;
    assert_eq!((shown.study.state, shown.study.error), (StudyState::Delivered, None));
    assert!(shown.deliveries.iter().all(|d| d.last_error.is_none() && d.commitment_error.is_none()));
    assert_eq!(commitments(&store).await, [confirmed, confirmed]);
    assert_eq!(store.purge(&uid("1.2"), false).await.unwrap().reports, 1, "nothing holds it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_replaced_is_asked_for_and_not_missed() {
    let (_dir, store) = taken(&["PACS"]).await;
    let old = asked(&store, "PACS", 60).await.unwrap();
    put(&store, "1.2.4", 100).await;
    score_all(&store, "1.2", 100).await;
    report(&store, "1.2", "2.25.2", &["PACS"], 100).await;
    take(&store, &due(&store, 100).await.remove(0), 101).await;
    let new = asked(&store, "PACS", 101).await.unwrap();
    assert!(heard(&store, "PACS", &new, Status::SUCCESS).await);
    assert_eq!(expire(&store, 3).await.studies, 0, "the older one is still asked for");
    assert!(heard(&store, "PACS", &old, Status::SOP_CLASS_NOT_SUPPORTED).await);
    let (failed, confirmed) = (Some(CommitmentState::Failed), Some(CommitmentState::Confirmed));
    let delivered = DeliveryState::Delivered;
    assert_eq!(commitments(&store).await, [(delivered, failed), (delivered, confirmed)]);
    assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
    assert_eq!(expire(&store, 3).await.studies, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_forgotten_a_month_after_they_were_answered_and_what_is_no_longer_asked_holds_nothing() {
    let (_dir, store) = taken(&["ARCHIVE", "PACS"]).await;
    let known = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM confirmations").fetch_one(store.index().read()).await.unwrap()
    };
    let inquiry = asked(&store, "ARCHIVE", 60).await.unwrap();
    asked(&store, "PACS", 60).await.unwrap();
    assert!(heard(&store, "ARCHIVE", &inquiry, Status::SUCCESS).await);
    store.expire(at(40 * DAY), Retention::default()).await.unwrap();
    assert_eq!(known().await, 1, "the one that is not answered");
    assert_eq!(store.destinations().await.unwrap().iter().map(|d| d.unconfirmed).collect::<Vec<_>>(), [0, 1]);
    store.withdraw_confirmations("PACS").await.unwrap();
    store.expire(at(40 * DAY), Retention::default()).await.unwrap();
    assert_eq!(known().await, 0);
    assert_eq!(expire(&store, 41).await.studies, 1);
}
