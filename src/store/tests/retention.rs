//! What goes when, and what stays.

use super::*;

const DAY: i64 = 86_400;

fn kept(objects: Option<i64>, reports: Option<i64>, posteriors: Option<i64>) -> Retention {
    let days = |days: Option<i64>| days.map(|days| Duration::from_secs((days * DAY) as u64));
    Retention {
        objects_kept: days(objects),
        reports_kept: days(reports),
        posteriors_kept: days(posteriors),
        ..Retention::default()
    }
}

/// A study that was delivered at second 60, with a withheld and a disclosed report, and one that is still open.
async fn delivered_and_open() -> (TempDir, Store) {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let claim = claim(&store, "1.2", 60).await;
    let reports = [
        outgoing("1.2", "2.25.1", Disclosure::Withheld, &["PACS"]),
        outgoing("1.2", "2.25.2", Disclosure::Probabilities, &["AUDIT"]),
    ];
    close_with(&store, &claim, &reports, 60).await;
    for delivery in due(&store, 60).await {
        delivered(&store, &delivery, 60).await;
    }
    put(&store, "7.7.3", 0).await;
    score_all(&store, "7.7", 1).await;
    (dir, store)
}

async fn race_scores(store: &Store, study: &str) -> usize {
    let ready = store.ready_study(&uid(study)).await.unwrap();
    ready.instances.iter().flat_map(|i| &i.scores).filter(|score| score.model.starts_with("race@")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_without_a_span_or_before_its_time() {
    let (dir, store) = delivered_and_open().await;
    let before = files(dir.path()).len();
    for (retention, second) in [(kept(None, None, None), 1000 * DAY), (kept(Some(1), Some(1), Some(1)), DAY)] {
        assert_eq!(store.expire(at(second), retention).await.unwrap(), Expired::default());
    }
    assert_eq!(files(dir.path()).len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn race_posteriors_have_their_own_retention() {
    let (dir, store) = delivered_and_open().await;
    let race =
        crate::domain::RacePosterior { model: "race@1#0".into(), groups: vec!["a".into()], probabilities: vec![1.0] };
    let facts = crate::domain::StudyFacts { race: Some(race), ..Default::default() };
    for study in ["1.2", "7.7"] {
        store.keep_facts(&uid(study), &facts).await.unwrap();
    }
    let expired = store.expire(at(2 * DAY), kept(None, None, Some(1))).await.unwrap();
    let sql = "SELECT f.study FROM facts f JOIN fact_posteriors p ON p.fact = f.id";
    let inferred: Vec<String> = sqlx::query_scalar(sql).fetch_all(store.index().read()).await.unwrap();
    assert_eq!(inferred, ["7.7"], "what an audit would read goes too");
    assert_eq!(expired, Expired { posteriors: 1, disclosed_reports: 1, ..Expired::default() });
    assert_eq!(
        (race_scores(&store, "1.2").await, race_scores(&store, "7.7").await),
        (0, 1),
        "an open study keeps its own"
    );
    assert_eq!(files(&dir.path().join("reports")).len(), 2, "the withheld report stays, in both of its SOP classes");
    let shown = show(&store, "1.2").await;
    assert_eq!(shown.reports.iter().map(|r| r.kept).collect::<Vec<_>>(), [true, false]);
    assert!(matches!(store.report_files(shown.reports[1].id).await, Err(StoreError::ReportGone(_))));
    assert_eq!(shown.instances[0].scores.len(), 1, "clinical scores stay");

    // A late instance needs them again: the object is read once more.
    put(&store, "1.2.4", 3 * DAY).await;
    score_all(&store, "1.2", 3 * DAY).await;
    assert!(store.activities(at(3 * DAY)).await.unwrap().iter().any(|a| a.unread_since == Some(at(0))));
    score_all(&store, "1.2", 3 * DAY).await;
    assert_eq!(race_scores(&store, "1.2").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_finished_studies_go_and_the_answer_stays() {
    let (dir, store) = delivered_and_open().await;
    commit(&store, &received("1.2.3", "MODALITY", 0), b"conflicting").await.unwrap();
    let expired = store.expire(at(2 * DAY), kept(Some(1), None, None)).await.unwrap();
    assert_eq!(expired, Expired { objects: 2, ..Expired::default() });
    assert_eq!(files(&dir.path().join("spool")).len(), 1, "the open study's");
    assert!(files(&dir.path().join("conflicts")).is_empty());
    let shown = show(&store, "1.2").await;
    assert_eq!((shown.study.state, shown.instances[0].kept), (StudyState::Delivered, false));
    assert_eq!(store.resend(&uid("1.2"), at(2 * DAY)).await.unwrap(), 2);
    let gone = store.requeue(&uid("1.2"), at(2 * DAY)).await;
    assert!(matches!(gone, Err(StoreError::ObjectsGone(_))), "{gone:?}");

    // Sent again, it is kept again, and the study can be analysed again.
    assert_eq!(put(&store, "1.2.3", 2 * DAY).await, Accepted::Duplicate);
    assert_eq!(files(&dir.path().join("spool")).len(), 2);
    store.requeue(&uid("1.2"), at(2 * DAY)).await.unwrap();
    store.close().await;
    assert_eq!(open(dir.path()).await.recovered(), Recovered::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_forgotten_when_its_objects_are_gone_too() {
    let (dir, store) = delivered_and_open().await;
    let reports_alone = store.expire(at(2 * DAY), kept(None, Some(1), None)).await.unwrap();
    assert_eq!(reports_alone, Expired::default(), "objects are kept for ever, and with them their study");
    let expired = store.expire(at(2 * DAY), kept(Some(1), Some(1), None)).await.unwrap();
    assert_eq!((expired.objects, expired.studies), (1, 1));
    assert_eq!(store.show_study(&uid("1.2")).await.unwrap(), None);
    assert!(files(&dir.path().join("reports")).is_empty());
    assert_eq!(state(&store, "7.7").await, StudyState::Open);
    assert_eq!(put(&store, "1.2.3", 2 * DAY).await, Accepted::New, "a new study, as if never seen");
    store.close().await;
    assert_eq!(open(dir.path()).await.recovered(), Recovered::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_to_be_delivered_keeps_its_study() {
    let (_dir, store) = delivered_and_open().await;
    store.resend(&uid("1.2"), at(100)).await.unwrap();
    let all = kept(Some(0), Some(0), Some(0));
    assert_eq!(store.expire(at(2 * DAY), all).await.unwrap(), Expired::default());
    // One destination is given up, which ends the study; the other is still to be served.
    let deliveries = due(&store, 2 * DAY).await;
    store.delivery_failed(deliveries[0].id, "connection refused", None).await.unwrap();
    assert_eq!(state(&store, "1.2").await, StudyState::Failed);
    assert_eq!(store.expire(at(3 * DAY), all).await.unwrap(), Expired::default());
    delivered(&store, &deliveries[1], 3 * DAY).await;
    let expired = store.expire(at(3 * DAY), all).await.unwrap();
    assert_eq!((expired.studies, expired.posteriors), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_purged_by_force_alone() {
    let (_dir, store) = delivered_and_open().await;
    let mut tx = store.index().write().await.unwrap();
    sqlx::query("UPDATE instances SET committed_at = 1 WHERE study = '1.2'").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let refused = store.purge(&uid("1.2"), false).await;
    assert!(matches!(refused, Err(StoreError::Committed(_))), "{refused:?}");
    assert_eq!(store.purge(&uid("1.2"), true).await.unwrap().objects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_one_batch_goes_in_one_run() {
    let (dir, store) = fresh().await;
    let instances: Vec<String> = (0..450).map(|n| format!("1.2.{n}")).collect();
    for instance in &instances {
        put(&store, instance, 0).await;
        refuse(&store, instance, Some("1.9"), RefusalCode::OutOfScope, 1).await;
    }
    let claim = claim(&store, "1.9", 2).await;
    let refusal = Refusal::new(RefusalCode::NothingToAnalyse, "nothing");
    store.close_study(&claim, Outcome::Refused(&refusal), at(3)).await.unwrap();
    let expired = store.expire(at(2 * DAY), kept(Some(1), Some(1), None)).await.unwrap();
    assert_eq!((expired.objects, expired.studies), (450, 1));
    assert!(files(&dir.path().join("spool")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_goes_with_the_retention_of_objects_from_then_on() {
    let (dir, store) = fresh().await;
    let spool = dir.path().join("spool/ab");
    fs::write(spool.join("1.2.3.aaaaaaaaaaaa.dcm"), b"old bytes").unwrap();
    let before = std::time::SystemTime::now() - Duration::from_secs(100 * DAY as u64);
    let file = fs::File::open(spool.join("1.2.3.aaaaaaaaaaaa.dcm")).unwrap();
    file.set_modified(before).unwrap();
    let to = store.spool().set_aside("spool/ab/1.2.3.aaaaaaaaaaaa.dcm").unwrap();
    fs::create_dir_all(dir.path().join("damaged/index-old")).unwrap();
    fs::write(dir.path().join("damaged/index-old/index.sqlite"), b"index").unwrap();
    fs::File::open(dir.path().join("damaged/index-old")).unwrap().set_modified(before).unwrap();
    let sizes = || {
        let aside = store.spool().damaged().unwrap();
        (aside.iter().map(|a| a.files).sum::<u64>(), aside.iter().map(|a| a.bytes).sum::<u64>())
    };
    assert_eq!(sizes(), (2, 14));
    let now = chrono::Utc::now();
    let expire = async |objects| store.expire(now, kept(objects, None, None)).await.unwrap().damaged;
    assert_eq!(expire(None).await, 0);
    assert_eq!(expire(Some(30)).await, 1, "the index; the file was set aside just now, whenever it was written");
    assert!(dir.path().join(&to).is_file() && !dir.path().join("damaged/index-old").exists());
    assert_eq!(store.expire(now + chrono::TimeDelta::days(31), kept(Some(30), None, None)).await.unwrap().damaged, 1);
    assert_eq!(sizes(), (0, 0));
}
