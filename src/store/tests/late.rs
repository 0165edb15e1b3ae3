//! Completeness in the index: what is there, closing by hand, late instances, purge, and what is remembered.

use super::*;
use crate::assemble::{self, AssembleRules, Decision};
use crate::domain::{DeliveryState, Required, RequiredView, View};

/// Claims what waits and records it, by this policy.
async fn score_late(store: &Store, study: &str, late: Late, second: i64) {
    for pending in store.claim_received(100, LEASE, at(second)).await.unwrap() {
        let instance = pending.sop_instance.as_str();
        let reading = Reading::Scored {
            header: &header(study, instance),
            pixel_digest: &Digest::of(b"pixels"),
            scores: &image_scores(instance),
            awaited: &[],
        };
        assert!(store.save_read(&pending.sop_instance, reading, late, at(second)).await.unwrap());
    }
}

/// Closes an open study with one report; `older` says what becomes of those before.
async fn report_with(store: &Store, report: &str, older: Older, second: i64) {
    let claim = claim(store, "1.2", second).await;
    let reports = [outgoing("1.2", report, Disclosure::Withheld, &["PACS"])];
    let closing = Closing { complete: true, by: ClosedBy::Quiet, missing: Vec::new() };
    let outcome =
        Outcome::Reported { assessment: &assessment(), closing: &closing, older, reports: &reports, facts: None };
    store.close_study(&claim, outcome, at(second)).await.unwrap();
}

async fn deliveries(store: &Store) -> Vec<DeliveryState> {
    show(store, "1.2").await.deliveries.into_iter().map(|d| d.state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_instance_is_ignored_sent_besides_or_sent_instead() {
    use DeliveryState::{Delivered, Pending, Superseded};
    let rows = [
        (Late::Never, Older::Withdrawn, vec![Pending], vec!["2.25.1"]),
        (Late::Always, Older::Sent, vec![Pending, Pending], vec!["2.25.1", "2.25.2"]),
        (Late::Replace, Older::Withdrawn, vec![Superseded, Pending], vec!["2.25.2"]),
    ];
    for (late, older, expected, sent) in rows {
        let (_dir, store) = fresh().await;
        put(&store, "1.2.3", 0).await;
        score_all(&store, "1.2", 1).await;
        report_with(&store, "2.25.1", older, 60).await;
        put(&store, "1.2.4", 100).await;
        score_late(&store, "1.2", late, 101).await;
        let reopened = state(&store, "1.2").await == StudyState::Open;
        assert_eq!(reopened, late != Late::Never, "{late:?}");
        if reopened {
            report_with(&store, "2.25.2", older, 200).await;
        }
        assert_eq!(deliveries(&store).await, expected, "{late:?}");
        // One after the other, the oldest first.
        let mut arrived = Vec::new();
        while let Some(delivery) = due(&store, 300).await.first() {
            arrived.push(delivery.sop_instance.to_string());
            delivered(&store, delivery, 300).await;
        }
        assert_eq!(arrived, sent, "{late:?}");
        assert_eq!(state(&store, "1.2").await, StudyState::Delivered);
        assert!(deliveries(&store).await.iter().all(|d| matches!(d, Delivered | Superseded)));
        let shown = show(&store, "1.2").await;
        let is_late: Vec<bool> = shown.instances.iter().map(|i| i.late).collect();
        assert_eq!(
            (is_late, shown.study.instances_late),
            match late {
                Late::Never => (vec![false, true], 1),
                _ => (vec![false, false], 0),
            }
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_too_late_is_in_no_report_until_the_study_is_requeued() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    report(&store, "1.2", "2.25.1", &[], 60).await;
    put(&store, "1.2.4", 100).await;
    score_late(&store, "1.2", Late::Never, 101).await;
    assert_eq!(store.ready_study(&uid("1.2")).await.unwrap().instances.len(), 1);
    assert_eq!(store.image_groups(&uid("1.2")).await.unwrap().iter().map(|g| g.images).sum::<u64>(), 1);
    store.requeue(&uid("1.2"), at(200)).await.unwrap();
    score_late(&store, "1.2", Late::Never, 201).await;
    assert_eq!(store.ready_study(&uid("1.2")).await.unwrap().instances.len(), 2);
    assert_eq!(show(&store, "1.2").await.study.instances_late, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_without_a_report_takes_late_instances_whatever_the_policy() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    refuse(&store, "1.2.3", Some("1.2"), RefusalCode::OutOfScope, 1).await;
    let claim = claim(&store, "1.2", 60).await;
    let refusal = Refusal::new(RefusalCode::NothingToAnalyse, "a lateral view alone");
    store.close_study(&claim, Outcome::Refused(&refusal), at(60)).await.unwrap();
    put(&store, "1.2.4", 100).await;
    score_late(&store, "1.2", Late::Never, 101).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_by_hand_reaches_the_decision() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let decide = async |second: i64| {
        let activity = store.activities(at(second)).await.unwrap().remove(0);
        let hour = Duration::from_secs(3600);
        let rules = AssembleRules { quiet_period: hour, cap: 2 * hour, required: &[], results: &[] };
        assemble::decide(&activity, &[], &rules, at(second))
    };
    assert!(matches!(decide(10).await, Decision::Wait { .. }));
    store.close_by_hand(&uid("1.2"), Some(false), at(10)).await.unwrap();
    let closing = Closing { complete: false, by: ClosedBy::Hand, missing: Vec::new() };
    assert_eq!(decide(10).await, Decision::Close(closing.clone()));

    let claim = claim(&store, "1.2", 11).await;
    let reports = [outgoing("1.2", "2.25.1", Disclosure::Withheld, &[])];
    let older = Older::Withdrawn;
    let outcome =
        Outcome::Reported { assessment: &assessment(), closing: &closing, older, reports: &reports, facts: None };
    store.close_study(&claim, outcome, at(11)).await.unwrap();
    let shown = show(&store, "1.2").await.study;
    assert_eq!((shown.closed_by, shown.complete), (Some(ClosedBy::Hand), Some(false)));
    let again = store.close_by_hand(&uid("1.2"), None, at(12)).await;
    assert!(matches!(again, Err(StoreError::NotOpen(_))), "{again:?}");
    let unknown = store.close_by_hand(&uid("9.9"), None, at(12)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownStudy(_))), "{unknown:?}");

    // A revision begins without the hand that closed the last one.
    put(&store, "1.2.4", 100).await;
    score_all(&store, "1.2", 101).await;
    assert!(matches!(decide(102).await, Decision::Wait { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_is_spread_over_hours_is_one_study_with_what_is_missing() {
    let (_dir, store) = fresh().await;
    let view = |view| RequiredView { side: None, view };
    let required = [Required {
        modality: Some("CR".into()),
        body_part: None,
        views: vec![view(View::Pa), view(View::Lateral)],
        images_min: 0,
        series_min: 2,
        quiet_period: Some(Duration::from_secs(5)),
        wait: true,
    }];
    let (quiet_period, cap) = (Duration::from_secs(60), Duration::from_secs(8 * 3600));
    let rules = AssembleRules { quiet_period, cap, required: &required, results: &[] };
    let save = async |instance: &str, series: &str, view: View, second: i64| {
        put(&store, instance, second).await;
        store.claim_received(10, LEASE, at(second)).await.unwrap();
        let header = InstanceHeader { series: uid(series), view: Some(view), ..header("1.2", instance) };
        let (pixel_digest, scores) = (Digest::of(b"pixels"), image_scores(instance));
        let reading = Reading::Scored { header: &header, pixel_digest: &pixel_digest, scores: &scores, awaited: &[] };
        assert!(store.save_read(&uid(instance), reading, Late::Replace, at(second)).await.unwrap());
    };
    let decide = async |second: i64| {
        let activity = store.activities(at(second)).await.unwrap().remove(0);
        let images = store.image_groups(&activity.study).await.unwrap();
        (assemble::decide(&activity, &images, &rules, at(second)), activity)
    };
    save("1.2.3", "1.2.1", View::Pa, 0).await;
    let (decision, first) = decide(3600).await;
    assert_eq!(decision, Decision::Wait { until: at(8 * 3600) }, "an hour later it waits for the rest");
    save("1.2.4", "1.2.2", View::Pa, 2 * 3600).await;
    assert!(matches!(decide(2 * 3600 + 60).await.0, Decision::Wait { .. }), "two series, and no lateral view");
    let (Decision::Close(capped), _) = decide(8 * 3600).await else { panic!("the cap closes it") };
    assert_eq!(
        (capped.complete, capped.by, &capped.missing[..]),
        (false, ClosedBy::Cap, &["CR LATERAL".to_owned()][..])
    );
    save("1.2.5", "1.2.2", View::Lateral, 5 * 3600).await;
    let (decision, last) = decide(5 * 3600 + 5).await;
    let Decision::Close(closing) = decision else { panic!("{decision:?}") };
    assert!(closing.complete && closing.missing.is_empty());
    assert_eq!((first.revision, last.revision, last.first_at), (1, 1, at(0)));
    // Closed once: whoever decided on the same state comes too late.
    let claim = store.claim_study(&uid("1.2"), last.version, LEASE, at(5 * 3600 + 5)).await.unwrap();
    assert!(claim.is_some());
    assert_eq!(store.claim_study(&uid("1.2"), last.version, LEASE, at(5 * 3600 + 5)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_study_leaves_nothing_but_the_memory_of_its_reports() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    commit(&store, &received("1.2.3", "MODALITY", 1), b"another").await.unwrap();
    score_all(&store, "1.2", 1).await;
    let open = store.purge(&uid("1.2"), false).await;
    assert!(matches!(open, Err(StoreError::InWork(_))), "{open:?}");
    report(&store, "1.2", "2.25.1", &["PACS"], 60).await;
    let waiting = store.purge(&uid("1.2"), false).await;
    assert!(matches!(waiting, Err(StoreError::InWork(_))), "{waiting:?}");
    let sending = due(&store, 61).await.remove(0);
    let purged = store.purge(&uid("1.2"), true).await.unwrap();
    assert_eq!(purged, Purged { objects: 1, reports: 1 });
    for folder in ["spool", "conflicts", "reports"] {
        assert!(files(&dir.path().join(folder)).is_empty(), "{folder}");
    }
    assert_eq!(store.show_study(&uid("1.2")).await.unwrap(), None);
    // What was under way ends without effect.
    delivered(&store, &sending, 62).await;
    for own in ["2.25.1", "2.25.1.2"] {
        assert!(store.is_own_report(&uid(own)).await.unwrap(), "{own}");
    }
    assert_eq!(put(&store, "1.2.3", 100).await, Accepted::New);
    let unknown = store.purge(&uid("1.2"), false).await;
    assert!(matches!(unknown, Err(StoreError::UnknownStudy(_))), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_reports_are_known_after_their_retention() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    report(&store, "1.2", "2.25.1", &["PACS"], 60).await;
    let delivery = due(&store, 60).await.remove(0);
    store.delivery_succeeded(delivery.id, &uid(FALLBACK_SR), &uid("2.25.77"), false, at(61)).await.unwrap();
    let day = Some(Duration::from_secs(86_400));
    let retention = Retention { objects_kept: day, reports_kept: day, posteriors_kept: day, ..Retention::default() };
    assert_eq!(store.expire(at(3 * 86_400), retention).await.unwrap().studies, 1);
    assert_eq!(store.show_study(&uid("1.2")).await.unwrap(), None);
    for own in ["2.25.1", "2.25.1.2", "2.25.77"] {
        assert!(store.is_own_report(&uid(own)).await.unwrap(), "{own}");
    }
    assert!(!store.is_own_report(&uid("2.25.17")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_report_that_is_sent_again_is_followed_by_the_newest() {
    use DeliveryState::{Delivered, Failed, Pending, Superseded};
    for (late, older, before, resent) in [
        (Late::Always, Older::Sent, [Failed, Delivered], 2),
        // What was withdrawn is not sent in place of what took its place.
        (Late::Replace, Older::Withdrawn, [Superseded, Delivered], 0),
    ] {
        let (_dir, store) = fresh().await;
        put(&store, "1.2.3", 0).await;
        score_all(&store, "1.2", 1).await;
        report_with(&store, "2.25.1", older, 60).await;
        let first = due(&store, 60).await.remove(0);
        store.delivery_failed(first.id, "no room", None).await.unwrap();
        put(&store, "1.2.4", 100).await;
        score_late(&store, "1.2", late, 101).await;
        report_with(&store, "2.25.2", older, 200).await;
        let second = due(&store, 200).await.remove(0);
        assert_eq!(second.sop_instance.as_str(), "2.25.2");
        delivered(&store, &second, 201).await;
        assert_eq!(deliveries(&store).await, before, "{late:?}");

        let which = Resend { failed_only: true, ..Resend::default() };
        assert_eq!(store.resend_matching(which, at(300)).await.unwrap(), resent, "{late:?}");
        let mut sent = Vec::new();
        while let Some(delivery) = due(&store, 300).await.pop() {
            delivered(&store, &delivery, 301).await;
            sent.push(delivery.sop_instance.to_string());
        }
        let expected: &[&str] = if resent == 0 { &[] } else { &["2.25.1", "2.25.2"] };
        assert_eq!(sent, expected, "{late:?}");
        assert_eq!(deliveries(&store).await[1], Delivered);
        assert!(!deliveries(&store).await.contains(&Pending));
        assert_eq!(state(&store, "1.2").await, StudyState::Delivered, "{late:?}");
    }
}
