//! What an acknowledgement means: durability, duplicates, conflicts, concurrency.

use super::*;

async fn sql(store: &Store, statement: &str) {
    let mut tx = store.index().write().await.unwrap();
    sqlx::query(statement).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledges_only_after_index_commit() {
    let (dir, store) = fresh().await;
    // The row is refused, or the whole transaction at its very end, when the file has its name already.
    sql(&store, "CREATE TABLE broken (to_nothing REFERENCES instances (sop_instance) DEFERRABLE INITIALLY DEFERRED)")
        .await;
    let rows = [
        ("BEFORE INSERT ON instances BEGIN SELECT RAISE(ABORT, 'index says no'); END", "index says no"),
        ("AFTER INSERT ON instances BEGIN INSERT INTO broken VALUES ('nothing'); END", "FOREIGN KEY"),
    ];
    for (trigger, cause) in rows {
        sql(&store, &format!("CREATE TRIGGER t {trigger}")).await;
        let refused = commit(&store, &received("1.2.3", "MODALITY", 0), b"data").await;
        assert!(matches!(&refused, Err(StoreError::Intake(why)) if why.contains(cause)), "{refused:?}");
        assert!(files(&dir.path().join("spool")).is_empty(), "{cause}: taken back");
        assert!(files(&dir.path().join("incoming")).is_empty(), "{cause}: nothing left over");
        sql(&store, "DROP TRIGGER t").await;
    }
    assert_eq!(commit(&store, &received("1.2.3", "MODALITY", 0), b"data").await.unwrap(), Accepted::New);
    let killed = as_after_a_kill(dir.path());
    let after = open(killed.path()).await;
    let waiting = after.claim_received(10, LEASE, at(1)).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(fs::read(&waiting[0].path).unwrap(), b"METAdata");
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledges_only_what_reached_its_place() {
    let (dir, store) = fresh().await;
    let (spool, aside) = (dir.path().join("spool"), dir.path().join("elsewhere"));
    fs::rename(&spool, &aside).unwrap();
    assert!(commit(&store, &received("1.2.3", "MODALITY", 0), b"data").await.is_err());
    assert_eq!(store.counts().await.unwrap().instances["received"], 0, "no row without its file");

    fs::rename(&aside, &spool).unwrap();
    assert_eq!(put(&store, "1.2.3", 0).await, Accepted::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_object_again_is_one_copy_and_one_job() {
    let (dir, store) = fresh().await;
    assert_eq!(put(&store, "1.2.3", 0).await, Accepted::New);
    assert_eq!(put(&store, "1.2.3", 1).await, Accepted::Duplicate);
    let upload = |meta: &'static [u8]| {
        let mut upload = store.begin().unwrap();
        upload.write_meta(meta).unwrap();
        upload.write_dataset(b"1.2").unwrap();
        upload.write_dataset(b".3").unwrap();
        upload
    };
    let again = store.commit(upload(b"other meta group"), &received("1.2.3", "PACS", 2)).await.unwrap();
    assert_eq!(again, Accepted::Duplicate, "identity is that of the data set");
    assert_eq!(files(&dir.path().join("spool")).len(), 1);
    assert_eq!(store.claim_received(10, LEASE, at(3)).await.unwrap().len(), 1);
    assert!(files(&dir.path().join("incoming")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_object_fills_the_place_of_a_lost_file() {
    type Damage = fn(&Path);
    let rows: [(&str, Damage); 2] =
        [("gone", |path| fs::remove_file(path).unwrap()), ("cut short", |path| fs::write(path, b"META1").unwrap())];
    for (name, damage) in rows {
        let (dir, store) = fresh().await;
        assert_eq!(put(&store, "1.2.3", 0).await, Accepted::New);
        damage(&place(dir.path(), "1.2.3"));
        assert_eq!(put(&store, "1.2.3", 1).await, Accepted::Duplicate);
        let kept = place(dir.path(), "1.2.3");
        assert_eq!(fs::read(&kept).unwrap(), b"META1.2.3", "{name}: success says that it is there");
        let waiting = store.claim_received(10, LEASE, at(3)).await.unwrap();
        assert_eq!(waiting.iter().map(|w| &w.path).collect::<Vec<_>>(), [&kept], "{name}: one job, on the new file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_beside_a_new_object_takes_nothing_from_it() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    sql(&store, "CREATE TRIGGER t BEFORE INSERT ON conflicts BEGIN SELECT RAISE(ABORT, 'index says no'); END").await;
    let writer = crate::store::intake::Writer {
        spool: store.spool().clone(),
        index: store.index().clone(),
        wake: Wake::default(),
        stop: CancellationToken::new(),
        _lock: File::open(dir.path().join("lock")).unwrap(),
    };
    let request = |instance: &str| {
        let mut upload = store.begin().unwrap();
        upload.write_dataset(b"other").unwrap();
        let (answer, result) = tokio::sync::oneshot::channel();
        let sealed = upload.seal(&uid(instance)).unwrap();
        (CommitRequest { sealed, received: received(instance, "MODALITY", 1), answer }, result)
    };
    let ((conflicting, refused), (new, accepted)) = (request("1.2.3"), request("1.2.4"));
    writer.settle(vec![conflicting, new]).await;
    let refused = refused.await.unwrap();
    assert!(matches!(&refused, Err(StoreError::Intake(why)) if why.contains("index says no")), "{refused:?}");
    assert_eq!(accepted.await.unwrap().unwrap(), Accepted::New);
    assert_eq!(fs::read(place(dir.path(), "1.2.4")).unwrap(), b"other", "what the index knows is there");
    assert_eq!(fs::read(place(dir.path(), "1.2.3")).unwrap(), b"META1.2.3");
    assert_eq!(files(&dir.path().join("spool")).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_the_node_is_no_attempt() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    for (counted, expected) in [(false, 1), (true, 1), (false, 2), (true, 2), (true, 3)] {
        assert_eq!(store.claim_received(1, LEASE, at(1)).await.unwrap()[0].attempts, expected);
        store.release_instance(&uid("1.2.3"), counted, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_when_its_time_has_come() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    assert_eq!(store.claim_received(1, LEASE, at(1)).await.unwrap().len(), 1);
    store.release_instance(&uid("1.2.3"), true, Some(at(5))).await.unwrap();
    assert_eq!(store.claim_received(1, LEASE, at(4)).await.unwrap().len(), 0);
    assert_eq!(store.claim_received(1, LEASE, at(5)).await.unwrap()[0].attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_object_under_a_known_uid_is_kept_aside() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let original = files(&dir.path().join("spool"));
    for second in [1, 2] {
        let other = commit(&store, &received("1.2.3", "MODALITY", second), b"other").await.unwrap();
        let Accepted::Conflict { kept_aside } = other else { panic!("{other:?}") };
        assert_eq!(fs::read(dir.path().join(kept_aside)).unwrap(), b"METAother");
    }
    assert_eq!(fs::read(&original[0]).unwrap(), b"META1.2.3", "never silently replaced");
    assert_eq!(store.counts().await.unwrap().conflicts, 1, "the same conflict twice is one");
    assert_eq!(store.claim_received(10, LEASE, at(3)).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let (dir, store) = fresh().await;
    let mut upload = store.begin().unwrap();
    upload.write_dataset(&vec![7; 1 << 20]).unwrap();
    assert_eq!(files(&dir.path().join("incoming")).len(), 1);
    drop(upload);
    assert!(files(&dir.path().join("incoming")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_senders_at_once_lose_nothing() {
    let (_dir, store) = fresh().await;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    assert_eq!(put(&store, &format!("1.{sender}.{number}"), number).await, Accepted::New);
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let waiting = store.claim_received(1000, LEASE, at(60)).await.unwrap();
    assert_eq!(waiting.len(), 400);
    assert!(waiting.windows(2).all(|w| w[0].received_at <= w[1].received_at), "oldest first");
    for pending in waiting {
        assert_eq!(fs::read(&pending.path).unwrap(), format!("META{}", pending.sop_instance).into_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_senders_of_one_object_make_one_job() {
    let (dir, store) = fresh().await;
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, "1.2.3", 0).await })
        })
        .collect();
    let mut new = 0;
    for sender in senders {
        match sender.await.unwrap() {
            Accepted::New => new += 1,
            other => assert_eq!(other, Accepted::Duplicate),
        }
    }
    assert_eq!(new, 1);
    assert_eq!(files(&dir.path().join("spool")).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_away_during_the_commit_leaves_all_or_nothing() {
    let (dir, store) = fresh().await;
    for number in 0..20 {
        let instance = format!("1.2.{number}");
        let (store, task_uid) = (store.clone(), instance.clone());
        let task = tokio::spawn(async move { put(&store, &task_uid, 0).await });
        tokio::task::yield_now().await;
        task.abort();
    }
    store.close().await;
    let after = open(dir.path()).await;
    let waiting = after.claim_received(100, LEASE, at(1)).await.unwrap();
    assert_eq!(after.recovered().orphans, 0);
    assert_eq!(files(&dir.path().join("spool")).len(), waiting.len());
    for pending in waiting {
        assert_eq!(fs::read(&pending.path).unwrap(), format!("META{}", pending.sop_instance).into_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_below_the_higher_floor_of_free_space() {
    let dir = tempfile::tempdir().unwrap();
    let disk = rustix::fs::statvfs(dir.path()).unwrap();
    let percent = |blocks: u64| u8::try_from(blocks * 100 / disk.f_blocks).unwrap();
    let (free, none) = (percent(disk.f_bavail), 0);
    assert!((2..98).contains(&free), "{free} % are free: nothing can be said about a floor beside it");
    let rows =
        [(0, none, true), (u64::MAX, none, false), (0, free - 2, true), (0, free + 2, false), (1, free + 2, false)];
    for (free_bytes_min, free_percent_min, enough) in rows {
        let floors = config::Store { free_bytes_min, free_percent_min, ..settings(dir.path()) };
        let store = Store::open(&floors).await.unwrap();
        for room in [store.room(), store.begin().map(drop)] {
            assert_eq!(room.is_ok(), enough, "{floors:?}: {room:?}");
            assert!(enough || matches!(room, Err(StoreError::OutOfRoom { .. })), "{room:?}");
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_takes_nothing_more() {
    let (dir, store) = fresh().await;
    let upload = store.begin().unwrap();
    store.close().await;
    let late = store.commit(upload, &received("1.2.3", "MODALITY", 0)).await;
    assert!(matches!(late, Err(StoreError::Closing)), "{late:?}");
    assert!(files(&dir.path().join("incoming")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arrival_wakes_the_reader() {
    let (_dir, store) = fresh().await;
    let arrived = store.wake().instance_arrived.clone();
    arrived.notified().await; // looks for work from before
    put(&store, "1.2.3", 0).await;
    arrived.notified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_cannot_read_what_is_stored() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    for file in files(dir.path()) {
        assert_eq!(mode(&file) & 0o077, 0, "{}", file.display());
    }
}
