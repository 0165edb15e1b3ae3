//! The activity log: lines stay as they were written, and whoever changes one is found out.

use super::*;

fn act(user: &str, outcome: &str) -> Activity {
    Activity {
        user: user.into(),
        action: "resend".into(),
        object: "study 0123456789abcdef".into(),
        outcome: outcome.into(),
    }
}

/// A log of five lines.
async fn filled() -> (TempDir, Store) {
    let (dir, store) = fresh().await;
    for second in 0..5 {
        store.note_activity(&act("anna", &format!("done {second}")), at(second)).await.unwrap();
    }
    (dir, store)
}

async fn run(store: &Store, sql: &str) -> Result<u64, sqlx::Error> {
    let mut tx = store.index().write().await.unwrap();
    let done = sqlx::query(sql).execute(&mut *tx).await?;
    store.index().commit(tx).await.unwrap();
    Ok(done.rows_affected())
}

#[tokio::test]
async fn lines_are_numbered_listed_newest_first_and_bound_together() {
    let (_dir, store) = filled().await;
    let head = store.verify_activity(None).await.unwrap().unwrap();
    assert_eq!(head.number, 5);
    let lines = store.activity(None, 2).await.unwrap();
    assert_eq!(lines.iter().map(|l| l.number).collect::<Vec<_>>(), [5, 4]);
    assert_eq!((lines[0].digest.clone(), lines[0].previous.clone()), (head.digest.clone(), lines[1].digest.clone()));
    let older = store.activity(Some(2), 10).await.unwrap();
    assert_eq!((older.len(), older[0].outcome.as_str(), older[0].at), (1, "done 0", at(0)));
    let (_dir, empty) = fresh().await;
    assert_eq!(empty.verify_activity(None).await.unwrap().unwrap().number, 0);
}

#[tokio::test]
async fn lines_are_neither_changed_nor_deleted_nor_put_in_between() {
    let (_dir, store) = filled().await;
    for sql in [
        "UPDATE activity SET user = 'berta' WHERE number = 3",
        "DELETE FROM activity WHERE number = 5",
        "DELETE FROM activity",
        "INSERT INTO activity SELECT 9, at, user, action, object, outcome, previous, digest FROM activity WHERE number = 5",
        "INSERT OR REPLACE INTO activity SELECT number, at, 'x', action, object, outcome, previous, digest FROM activity
         WHERE number = 5",
    ] {
        assert!(run(&store, sql).await.is_err(), "{sql}");
    }
    assert!(store.verify_activity(None).await.unwrap().is_ok());
}

#[tokio::test]
async fn the_first_broken_line_is_named() {
    let rows = [
        ("UPDATE activity SET user = 'berta' WHERE number = 3", 3, "is not as it was written"),
        ("UPDATE activity SET at = at + 1 WHERE number = 1", 1, "is not as it was written"),
        ("UPDATE activity SET action = 'resen', object = 'dstudy 0123456789abcdef' WHERE number = 2", 2, "is not as"),
        ("UPDATE activity SET outcome = x'ff' WHERE number = 4", 4, ""),
        ("DELETE FROM activity WHERE number = 4", 4, "is not there"),
        ("DELETE FROM activity WHERE number = 1", 1, "is not there"),
        (
            "UPDATE activity SET digest = (SELECT digest FROM activity WHERE number = 1) WHERE number = 2",
            2,
            "is not as it was written",
        ),
        (
            "UPDATE activity SET previous = (SELECT digest FROM activity WHERE number = 1) WHERE number = 4",
            4,
            "does not follow",
        ),
    ];
    for (sql, number, what) in rows {
        let (_dir, store) = filled().await;
        run(&store, "DROP TRIGGER activity_is_not_changed").await.unwrap();
        run(&store, "DROP TRIGGER activity_is_not_deleted").await.unwrap();
        assert_eq!(run(&store, sql).await.unwrap(), 1);
        let fault = store.verify_activity(None).await.unwrap().unwrap_err();
        assert!(fault.number == number && fault.what.starts_with(what), "{sql}: {fault:?}");
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_found_out_by_a_line_that_was_noted() {
    let (_dir, store) = filled().await;
    let noted = store.verify_activity(None).await.unwrap().unwrap();
    store.note_activity(&act("anna", "later"), at(9)).await.unwrap();
    assert!(store.verify_activity(Some(&noted)).await.unwrap().is_ok());
    let other = ChainHead { digest: Digest::of(b"other"), ..noted.clone() };
    assert_eq!(store.verify_activity(Some(&other)).await.unwrap().unwrap_err().number, 5);
    run(&store, "DROP TRIGGER activity_is_not_deleted").await.unwrap();
    run(&store, "DELETE FROM activity WHERE number > 3").await.unwrap();
    assert!(store.verify_activity(None).await.unwrap().is_ok(), "the chain alone does not tell");
    let fault = store.verify_activity(Some(&noted)).await.unwrap().unwrap_err();
    assert_eq!((fault.number, fault.what), (5, "is not there, though it was noted"));
}

#[tokio::test]
async fn what_is_done_and_its_line_come_together_or_not_at_all() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.1", 0).await;
    score_all(&store, "1.2", 1).await;
    let told = act("otto", "done");
    assert!(store.requeue_as(&uid("9.9"), Some(&told), at(2)).await.is_err());
    let nothing = Resend { study: Some(&uid("1.2")), ..Resend::default() };
    assert!(store.resend_matching_as(nothing, Some(&told), at(2)).await.is_err());
    assert_eq!(store.activity(None, 10).await.unwrap(), []);
    store.close_by_hand_as(&uid("1.2"), None, Some(&told), at(3)).await.unwrap();
    store.requeue_as(&uid("1.2"), Some(&told), at(4)).await.unwrap();
    let lines = store.activity(None, 10).await.unwrap();
    assert_eq!(lines.iter().map(|l| (l.user.as_str(), l.at)).collect::<Vec<_>>(), [("otto", at(4)), ("otto", at(3))]);
}
