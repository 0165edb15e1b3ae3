//! Opening: the lock, damage, and what an end that was not orderly leaves behind.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_cannot_share_a_folder() {
    let (dir, store) = fresh().await;
    let second = Store::open(&settings(dir.path())).await.map(drop);
    assert!(matches!(&second, Err(StoreError::Locked(at)) if at == dir.path()), "{second:?}");
    store.close().await;
    open(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_leaves_running_uploads_alone() {
    let (dir, store) = fresh().await;
    let upload = store.begin().unwrap();
    assert!(Store::open(&settings(dir.path())).await.is_err());
    assert_eq!(store.commit(upload, &received("1.2.3", "MODALITY", 0)).await.unwrap(), Accepted::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_index_does_not_know_are_set_aside() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let mut upload = store.begin().unwrap();
    upload.write_dataset(&vec![1; 1 << 20]).unwrap();
    let killed = as_after_a_kill(dir.path());
    // Renamed, and killed before the index commit.
    let orphan = killed.path().join("spool/0a/1.2.4.0123456789ab.dcm");
    fs::write(&orphan, b"METAdata").unwrap();
    fs::write(killed.path().join("reports/2.25.9.dcm"), b"never made current").unwrap();

    let after = open(killed.path()).await;
    let expected = Recovered { partial_uploads: 1, orphans: 2, ..Recovered::default() };
    assert_eq!(after.recovered(), expected);
    assert!(!orphan.exists() && files(&killed.path().join("incoming")).is_empty());
    let aside = killed.path().join("damaged/unknown/1.2.4.0123456789ab.dcm");
    assert_eq!(files(&killed.path().join("damaged")), std::slice::from_ref(&aside), "reports are made again");
    assert_eq!(fs::read(aside).unwrap(), b"METAdata");
    assert_eq!(put(&after, "1.2.4", 1).await, Accepted::New, "its sender was not answered and sends it again");
    assert_eq!(put(&after, "1.2.3", 1).await, Accepted::Duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_the_folders_own_removes_nothing() {
    let (dir, store) = fresh().await;
    store.close().await;
    let shard = dir.path().join("spool/00");
    for number in 0..1100 {
        fs::write(shard.join(format!("1.2.{number}.dcm")), b"object").unwrap();
    }
    let refused = Store::open(&settings(dir.path())).await.map(drop);
    assert!(matches!(refused, Err(StoreError::Strangers { files: 1100, .. })), "{refused:?}");
    assert_eq!(files(&shard).len(), 1100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_its_length_from_the_start_unless_another_process_uses_one() {
    let (dir, store) = fresh().await;
    let log = dir.path().join("index.sqlite-wal");
    put(&store, "1.2.3", 0).await;
    assert_eq!(fs::metadata(&log).unwrap().len(), crate::store::index::LOG_BYTES as u64);
    store.close().await;
    assert!(!log.exists() && !dir.path().join("index.sqlite-wal.new").exists());

    let command = Store::attach(&settings(dir.path())).await.unwrap();
    command.counts().await.unwrap();
    let store = open(dir.path()).await;
    for number in 0..20 {
        put(&store, &format!("1.3.{number}"), 1).await;
    }
    store.index().checkpoint().await.unwrap();
    let mut tx = command.index().write().await.unwrap();
    sqlx::query("INSERT INTO node (key, value) VALUES ('of a command', '')").execute(&mut *tx).await.unwrap();
    command.index().commit(tx).await.unwrap();
    put(&store, "1.4", 2).await;
    let verdict: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(store.index().read()).await.unwrap();
    assert_eq!(verdict, "ok");
    for store in [&store, &command] {
        let known: i64 =
            sqlx::query_scalar("SELECT count(*) FROM instances").fetch_one(store.index().read()).await.unwrap();
        assert_eq!(known, 22);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexed_files_that_are_gone_are_counted() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    put(&store, "1.2.4", 0).await;
    store.close().await;
    fs::remove_file(place(dir.path(), "1.2.3")).unwrap();
    assert_eq!(open(dir.path()).await.recovered().missing, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_last_is_read_back_after_an_end_without_order() {
    for orderly in [true, false] {
        let (dir, store) = fresh().await;
        for instance in ["1.2.3", "1.2.4", "1.2.5"] {
            put(&store, instance, 0).await;
        }
        let killed = as_after_a_kill(dir.path());
        store.close().await;
        let folder = if orderly { dir.path() } else { killed.path() };
        // As many bytes as before, but others; and no file at all.
        fs::write(place(folder, "1.2.3"), b"META1.2.0").unwrap();
        fs::remove_file(place(folder, "1.2.4")).unwrap();

        let after = open(folder).await;
        let found = after.recovered();
        if orderly {
            assert_eq!((found.damaged, found.missing), (0, 1), "an orderly end is believed");
            continue;
        }
        assert_eq!((found.damaged, found.missing), (2, 0));
        let aside = files(&folder.join("damaged"));
        assert_eq!(aside.iter().map(|p| fs::read(p).unwrap()).collect::<Vec<_>>(), [b"META1.2.0"], "none is deleted");
        assert_eq!(after.claim_received(10, LEASE, at(1)).await.unwrap().len(), 1, "only what is whole is read");
        assert_eq!(state(&after, "1.2.3").await, StudyState::Refused, "its loss is visible");
        assert_eq!(put(&after, "1.2.3", 2).await, Accepted::Duplicate);
        assert_eq!(fs::read(place(folder, "1.2.3")).unwrap(), b"META1.2.3");
        let again = after.claim_received(10, LEASE, at(3)).await.unwrap();
        assert_eq!(again.iter().map(|a| a.sop_instance.as_str()).collect::<Vec<_>>(), ["1.2.3"], "and it is read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_lost_file_was_replaced_is_read_back_with_the_newest() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    put(&store, "1.2.4", 1).await;
    // More newer objects than are read back; one file will do for them.
    let mut tx = store.index().write().await.unwrap();
    let sql = "INSERT INTO instances (sop_instance, sop_class, transfer_syntax, digest, bytes, file_bytes, path,
                   calling, called, peer, received_at, state)
               SELECT '1.9.' || n.value, sop_class, transfer_syntax, digest, bytes, file_bytes, path, calling, called,
                   peer, received_at, state
               FROM instances, (SELECT value FROM json_each(?)) n WHERE sop_instance = '1.2.4'";
    let numbers = serde_json::to_string(&(0..1500).collect::<Vec<_>>()).unwrap();
    sqlx::query(sql).bind(numbers).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let damaged = async |dir: &Path| {
        let killed = as_after_a_kill(dir);
        fs::write(place(killed.path(), "1.2.3"), b"META1.2.0").unwrap();
        open(killed.path()).await.recovered().damaged
    };
    assert_eq!(damaged(dir.path()).await, 0, "it was acknowledged long ago");
    fs::remove_file(place(dir.path(), "1.2.3")).unwrap();
    assert_eq!(put(&store, "1.2.3", 2).await, Accepted::Duplicate);
    assert_eq!(damaged(dir.path()).await, 1, "it was acknowledged last");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_now_is_not_given_up() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let killed = as_after_a_kill(dir.path());
    let (object, elsewhere) = (place(killed.path(), "1.2.3"), killed.path().join("elsewhere"));
    // A link to itself: no one can open it, whatever rights they have.
    fs::rename(&object, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&object, &object).unwrap();
    let refused = Store::open(&settings(killed.path())).await.map(drop);
    assert!(matches!(&refused, Err(StoreError::File { action: "read back", .. })), "{refused:?}");
    fs::rename(&elsewhere, &object).unwrap();
    let after = open(killed.path()).await;
    assert_eq!(after.recovered(), Recovered::default());
    assert_eq!(after.claim_received(10, LEASE, at(1)).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_a_file_is_given_up_whatever_took_it() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    // As a start leaves it that was killed after it looked.
    let mut tx = store.index().write().await.unwrap();
    sqlx::query("UPDATE instances SET path = NULL").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    let after = open(dir.path()).await;
    assert_eq!(state(&after, "1.2.3").await, StudyState::Refused, "its loss is visible");
    assert_eq!(put(&after, "1.2.3", 2).await, Accepted::Duplicate);
    assert_eq!(after.claim_received(10, LEASE, at(3)).await.unwrap().len(), 1, "and it is read when it comes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_start_looks_again() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    store.close().await;
    let _running = open(dir.path()).await;
    let killed = as_after_a_kill(dir.path());
    fs::write(place(killed.path(), "1.2.3"), b"META1.2.0").unwrap();
    assert_eq!(open(killed.path()).await.recovered().damaged, 1, "an orderly end counts once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_a_clear_error() {
    let (dir, store) = fresh().await;
    for number in 0..200 {
        put(&store, &format!("1.2.{number}"), 0).await;
    }
    store.close().await;
    let index = dir.path().join("index.sqlite");
    let whole = fs::read(&index).unwrap();
    let mut torn = whole.clone();
    torn[4096..3 * 4096].fill(0xa5);
    for (name, contents) in [("not a database", vec![b'x'; 8192]), ("pages overwritten", torn)] {
        fs::write(&index, contents).unwrap();
        let refused = Store::open(&settings(dir.path())).await.map(drop);
        let Err(StoreError::Damaged { path, .. }) = &refused else { panic!("{name}: {refused:?}") };
        assert_eq!(path, &index, "{name}");
    }
    fs::write(&index, whole).unwrap();
    assert_eq!(open(dir.path()).await.counts().await.unwrap().instances["received"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_a_later_version_is_left_alone() {
    let (dir, store) = fresh().await;
    let mut tx = store.index().write().await.unwrap();
    let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
               VALUES (999, 'later', 1, x'00', 0)";
    sqlx::query(sql).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    let config = settings(dir.path());
    for refused in [Store::open(&config).await.map(drop), Store::attach(&config).await.map(drop)] {
        assert!(matches!(refused, Err(StoreError::Version { .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_works_beside_the_node() {
    let empty = tempfile::tempdir().unwrap();
    let nothing = Store::attach(&settings(empty.path())).await.map(drop);
    assert!(matches!(nothing, Err(StoreError::NoIndex(_))), "{nothing:?}");

    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    report(&store, "1.2", "2.25.5", &[], 70).await;
    let upload = store.begin().unwrap();
    let command = Store::attach(&settings(dir.path())).await.unwrap();
    assert_eq!(command.device_uid(), store.device_uid());
    assert!(matches!(command.begin().map(drop), Err(StoreError::Attached)));
    assert_eq!(state(&command, "1.2").await, StudyState::Delivered);

    // The node hears of it through the index: the first wake-ups are those of its own start and work.
    let wake = store.wake().instance_arrived.clone();
    wake.notified().await;
    command.requeue(&uid("1.2"), at(80)).await.unwrap();
    wake.notified().await;
    assert_eq!(store.claim_received(10, LEASE, at(81)).await.unwrap().len(), 1);
    assert_eq!(store.commit(upload, &received("1.2.4", "MODALITY", 82)).await.unwrap(), Accepted::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_identity_outlives_it_and_is_its_own() {
    let (dir, store) = fresh().await;
    let (device, log_id) = (store.device_uid().clone(), store.log_id("PATIENT"));
    store.close().await;
    let again = open(dir.path()).await;
    assert_eq!((again.device_uid(), again.log_id("PATIENT")), (&device, log_id.clone()));
    assert_ne!(again.log_id("PATIENT 2"), log_id);
    let (_other_dir, other) = fresh().await;
    assert!(other.device_uid() != &device && other.log_id("PATIENT") != log_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_continues_where_a_kill_stopped_it() {
    let (dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let restart = async |dir: &Path| {
        let killed = as_after_a_kill(dir);
        let after = open(killed.path()).await;
        (killed, after)
    };

    // Received.
    let (_received, after) = restart(dir.path()).await;
    assert_eq!(after.claim_received(10, LEASE, at(1)).await.unwrap().len(), 1);

    // Being read: the claim is free again, and did not count.
    store.claim_received(10, LEASE, at(1)).await.unwrap();
    assert!(store.claim_received(10, LEASE, at(2)).await.unwrap().is_empty());
    let (_reading, after) = restart(dir.path()).await;
    assert_eq!(after.recovered().interrupted, 1);
    let claimed = after.claim_received(10, LEASE, at(2)).await.unwrap();
    assert_eq!((claimed[0].attempts, claimed[0].interrupted), (1, 1));

    // Scored; the study is open. The outage does not count toward its cap.
    store.release_instance(&uid("1.2.3"), true, None).await.unwrap();
    score_all(&store, "1.2", 3).await;
    let before = chrono::Utc::now();
    let (_scored, after) = restart(dir.path()).await;
    let activity = &after.activities(at(4)).await.unwrap()[0];
    assert!(activity.first_at >= Timestamp::from_timestamp_micros(before.timestamp_micros()).unwrap());
    assert_eq!((activity.last_at, activity.unread_since), (at(0), None));
    assert_eq!(after.ready_study(&uid("1.2")).await.unwrap().instances.len(), 1);

    // Being closed.
    let closing = claim(&store, "1.2", 60).await;
    let (_closing, after) = restart(dir.path()).await;
    let again = claim(&after, "1.2", 61).await;
    assert_eq!((again.attempts, again.interrupted), (1, 1));

    // Reported.
    let reports = [outgoing("1.2", "2.25.5", Disclosure::Withheld, &["PACS"])];
    assert_eq!(close_with(&store, &closing, &reports, 62).await, Closed::As(StudyState::Reported));
    let (_reported, after) = restart(dir.path()).await;
    assert_eq!(after.recovered(), Recovered::default());
    assert_eq!(due(&after, 63).await.len(), 1);

    // Being delivered: it is due again, since nobody knows whether it arrived. The PACS takes the same bytes twice.
    let sending = due(&store, 63).await.remove(0);
    let (_sending, after) = restart(dir.path()).await;
    let again = due(&after, 64).await.remove(0);
    assert_eq!((&again.sop_instance, again.attempts), (&sending.sop_instance, 0));
    let variants = after.report_files(again.report).await.unwrap();
    let files: Vec<_> = variants.iter().map(|v| v.file.as_slice()).collect();
    assert_eq!(files, [b"report 2.25.5".as_slice(), b"report 2.25.5.2"]);

    // Delivered.
    delivered(&store, &sending, 65).await;
    let (_delivered, after) = restart(dir.path()).await;
    assert_eq!(state(&after, "1.2").await, StudyState::Delivered);
    assert!(due(&after, 1000).await.is_empty());
    assert_eq!(put(&after, "1.2.3", 1000).await, Accepted::Duplicate);
    assert!(after.claim_received(10, LEASE, at(1001)).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_being_read_at_many_ends_lets_others_go_first() {
    let (_dir, store) = fresh().await;
    put(&store, "1.2.3", 0).await;
    let sql = "UPDATE instances SET interrupted = 13";
    sqlx::query(sql).execute(store.index().read()).await.unwrap();
    put(&store, "1.2.4", 2).await;
    let next = store.claim_received(10, LEASE, at(3)).await.unwrap();
    assert_eq!(next.iter().map(|p| p.sop_instance.as_str()).collect::<Vec<_>>(), ["1.2.4"], "the younger one");
    let begin = std::time::Instant::now();
    while store.claim_received(10, LEASE, at(3)).await.unwrap().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20), "its turn comes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
