//! The folder as a whole: each fault that `fsck` knows, and a backup that becomes a node again.

use super::*;
use crate::dicom::file_meta;

const EXAMINE: Fsck = Fsck { repair: false, digests: true };
const REPAIR: Fsck = Fsck { repair: true, digests: true };

/// Receives an object with a real head.
async fn put_whole(store: &Store, instance: &str, second: i64) -> Accepted {
    let arriving = received(instance, "MODALITY", second);
    let mut upload = store.begin().unwrap();
    let head =
        file_meta(&arriving.sop_class, &arriving.sop_instance, &arriving.transfer_syntax, Some(&arriving.calling));
    upload.write_meta(&head).unwrap();
    upload.write_dataset(format!("data set of {instance}").as_bytes()).unwrap();
    store.commit(upload, &arriving).await.unwrap()
}

/// One scored and reported study (1.2, report due at PACS), one object that is not read yet (3.4.5).
async fn folder() -> TempDir {
    let (dir, store) = fresh().await;
    put_whole(&store, "1.2.3", 0).await;
    score_all(&store, "1.2", 1).await;
    let claim = claim(&store, "1.2", 60).await;
    let variant = |class: &str, instance: &str| Report {
        study: uid("1.2"),
        sop_class: uid(class),
        sop_instance: uid(instance),
        series: uid("2.25.9"),
        file: [file_meta(&uid(class), &uid(instance), &uid("1.2.840.10008.1.2.1"), None), b"report".to_vec()].concat(),
    };
    let variants = vec![variant(SR, "2.25.1"), variant(FALLBACK_SR, "2.25.2")];
    let destinations = vec!["PACS".to_owned()];
    let reports = [OutgoingReport { variants, disclosure: Disclosure::Withheld, destinations }];
    close_with(&store, &claim, &reports, 60).await;
    put_whole(&store, "3.4.5", 70).await;
    store.close().await;
    dir
}

async fn examine(dir: &TempDir, options: Fsck) -> Examined {
    let called = AeTitle::parse("SIDELIGHT").unwrap();
    fsck(&settings(dir.path()), options, &called, at(1000)).await.unwrap()
}

fn kinds(examined: &Examined) -> Vec<FaultKind> {
    examined.faults.iter().map(|fault| fault.kind).collect()
}

/// Finds exactly these faults, repairs them, and finds nothing after that.
async fn found_and_repaired(dir: &TempDir, expected: &[FaultKind]) {
    let before = files(dir.path()).len();
    let found = examine(dir, EXAMINE).await;
    assert_eq!(kinds(&found), expected, "{found:#?}");
    assert!(found.is_faulty() && found.faults.iter().all(|fault| !fault.repaired));
    let kept = files(dir.path());
    let changed = kept.iter().filter(|p| !p.to_string_lossy().contains("index.sqlite")).count();
    assert!(changed + 3 >= before, "examining removes nothing");
    let repaired = examine(dir, REPAIR).await;
    assert!(!repaired.is_faulty(), "{repaired:#?}");
    let after = examine(dir, EXAMINE).await;
    assert_eq!(after.faults, [], "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_order_has_no_fault() {
    let dir = folder().await;
    let examined = examine(&dir, EXAMINE).await;
    assert_eq!((examined.objects, examined.reports, &examined.faults[..]), (2, 2, &[][..]));
    assert!(examined.bytes_read > 30);

    let nowhere = tempfile::tempdir().unwrap();
    let called = AeTitle::parse("SIDELIGHT").unwrap();
    let nothing = fsck(&settings(nowhere.path()), REPAIR, &called, at(0)).await;
    assert!(matches!(nothing, Err(StoreError::NoIndex(_))), "{nothing:?}");
    assert!(files(nowhere.path()).is_empty(), "a wrong path is not filled");
    let store = open(dir.path()).await;
    let locked = fsck(&settings(dir.path()), EXAMINE, &called, at(0)).await;
    assert!(matches!(locked, Err(StoreError::Locked(_))), "{locked:?}");
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_and_claims_of_a_kill_are_lifted() {
    let dir = folder().await;
    let store = open(dir.path()).await;
    store.claim_received(10, LEASE, at(71)).await.unwrap();
    let mut upload = store.begin().unwrap();
    upload.write_dataset(&vec![1; 1 << 20]).unwrap();
    let killed = as_after_a_kill(dir.path());
    found_and_repaired(&killed, &[FaultKind::Lease, FaultKind::Leftover]).await;
    let store = open(killed.path()).await;
    assert_eq!(store.recovered(), Recovered::default());
    assert_eq!(store.claim_received(10, LEASE, at(1001)).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_the_index_does_not_know_are_received_anew() {
    let dir = folder().await;
    let older = as_after_a_kill(dir.path());
    let store = open(dir.path()).await;
    put_whole(&store, "5.6.7", 80).await;
    store.close().await;
    // The index of before, as a careless restore would leave it.
    let later = object(dir.path(), "5.6.7");
    fs::copy(&later, older.path().join(later.strip_prefix(dir.path()).unwrap())).unwrap();
    fs::write(older.path().join("spool/00/5.6.8.0123.dcm"), b"no object").unwrap();
    fs::write(older.path().join("reports/2.25.5.dcm"), b"a report of later").unwrap();
    found_and_repaired(&older, &[FaultKind::Stranger; 3]).await;
    let aside: Vec<_> =
        files(&older.path().join("damaged")).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
    assert_eq!(aside, ["2.25.5.dcm", "5.6.8.0123.dcm"]);

    let store = open(older.path()).await;
    let waiting = store.claim_received(10, LEASE, at(1001)).await.unwrap();
    let adopted = waiting.iter().find(|p| p.sop_instance.as_str() == "5.6.7").unwrap();
    assert_eq!((adopted.calling.as_str(), adopted.sop_class.as_str()), ("MODALITY", CR));
    assert_eq!(put_whole(&store, "5.6.7", 1002).await, Accepted::Duplicate, "with the digest that it has");
    assert!(store.is_own_report(&uid("2.25.5")).await.unwrap());
}

/// What a power cut leaves of an object that was named and not synced to its end: nobody was told that it is here.
#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_an_object_is_not_received_for_the_whole() {
    let dir = folder().await;
    let (cut, whole) = (object(dir.path(), "1.2.3"), object(dir.path(), "3.4.5"));
    fs::File::options().write(true).open(&cut).unwrap().set_len(fs::metadata(&cut).unwrap().len() - 1).unwrap();
    fs::remove_file(dir.path().join("index.sqlite")).unwrap();
    let _ = fs::remove_file(dir.path().join("index.sqlite-wal"));
    let repaired = examine(&dir, REPAIR).await;
    assert!(!repaired.is_faulty(), "{repaired:#?}");
    assert!(whole.exists() && !cut.exists());
    let store = open(dir.path()).await;
    assert_eq!(put_whole(&store, "3.4.5", 1000).await, Accepted::Duplicate);
    assert_eq!(put_whole(&store, "1.2.3", 1000).await, Accepted::New, "no other object under its UID");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_gone_can_be_sent_again() {
    let dir = folder().await;
    fs::remove_file(object(dir.path(), "1.2.3")).unwrap();
    fs::remove_file(object(dir.path(), "3.4.5")).unwrap();
    found_and_repaired(&dir, &[FaultKind::Missing; 2]).await;
    let store = open(dir.path()).await;
    assert_eq!(put_whole(&store, "1.2.3", 1000).await, Accepted::Duplicate, "what was read of it stays");
    assert_eq!(put_whole(&store, "3.4.5", 1000).await, Accepted::New, "nothing was read of it");
    assert!(object(dir.path(), "1.2.3").exists() && object(dir.path(), "3.4.5").exists(), "kept again");
    assert_eq!(show(&store, "1.2").await.instances[0].scores.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_objects_go_aside_and_are_new_when_they_come_again() {
    let dir = folder().await;
    for instance in ["1.2.3", "3.4.5"] {
        let path = object(dir.path(), instance);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(examine(&dir, Fsck::default()).await.faults, [], "sizes and names say nothing");
    found_and_repaired(&dir, &[FaultKind::Altered; 2]).await;
    assert_eq!(files(&dir.path().join("damaged")).len(), 2);
    let store = open(dir.path()).await;
    for instance in ["1.2.3", "3.4.5"] {
        assert_eq!(put_whole(&store, instance, 1000).await, Accepted::New, "{instance}");
    }
    score_all(&store, "1.2", 1001).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Open, "analysed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_now_is_left_as_it_is() {
    let dir = folder().await;
    // Links to themselves: no one can open them, whatever rights they have.
    let places =
        [object(dir.path(), "1.2.3"), dir.path().join("reports/2.25.1.dcm"), dir.path().join("spool/00/5.6.7.0.dcm")];
    for place in &places {
        let _ = fs::remove_file(place);
        std::os::unix::fs::symlink(place, place).unwrap();
    }
    let examined = examine(&dir, REPAIR).await;
    assert_eq!(kinds(&examined), [FaultKind::Stranger, FaultKind::Altered, FaultKind::ReportMissing]);
    assert!(examined.faults.iter().all(|fault| !fault.repaired), "{examined:#?}");
    assert!(places.iter().all(|place| place.is_symlink()));
    let store = open(dir.path()).await;
    assert!(show(&store, "1.2").await.instances[0].kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_report_fails_its_study_and_says_how_to_make_another() {
    let dir = folder().await;
    fs::remove_file(dir.path().join("reports/2.25.1.dcm")).unwrap();
    fs::write(dir.path().join("reports/2.25.2.dcm"), b"torn").unwrap();
    found_and_repaired(&dir, &[FaultKind::ReportMissing; 2]).await;
    let store = open(dir.path()).await;
    let shown = show(&store, "1.2").await;
    assert_eq!(shown.study.state, StudyState::Failed);
    assert!(shown.study.error.unwrap().contains("studies requeue"));
    assert!(due(&store, 2000).await.is_empty());
    store.requeue(&uid("1.2"), at(2000)).await.unwrap();
    score_all(&store, "1.2", 2001).await;
    report(&store, "1.2", "2.25.30", &["PACS"], 2100).await;
    assert_eq!(state(&store, "1.2").await, StudyState::Reported);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_made_anew_from_the_objects() {
    for damage in ["no database", "torn page", "gone"] {
        let dir = folder().await;
        let store = open(dir.path()).await;
        let device = store.device_uid().clone();
        let sql = "SELECT rootpage FROM sqlite_master WHERE name = 'instances'";
        let page: i64 = sqlx::query_scalar(sql).fetch_one(store.index().read()).await.unwrap();
        store.close().await;
        let index = dir.path().join("index.sqlite");
        match damage {
            "no database" => fs::write(&index, vec![b'x'; 8192]).unwrap(),
            "torn page" => {
                let (mut torn, page) = (fs::read(&index).unwrap(), page as usize);
                torn[(page - 1) * 4096..page * 4096].fill(0xa5);
                fs::write(&index, torn).unwrap();
            }
            _ => fs::remove_file(&index).unwrap(),
        }
        assert_eq!(kinds(&examine(&dir, EXAMINE).await), [FaultKind::Index], "{damage}");
        assert_eq!(index.exists(), damage != "gone", "examining makes none");
        for _ in 0..2 {
            let refused = Store::open(&settings(dir.path())).await.map(drop);
            let expected = match damage {
                "gone" => matches!(refused, Err(StoreError::Strangers { files: 4, .. })),
                _ => matches!(refused, Err(StoreError::Damaged { .. })),
            };
            assert!(expected, "{damage}: {refused:?}");
        }
        assert_eq!(files(&dir.path().join("spool")).len(), 2, "{damage}: nothing is taken away");
        let repaired = examine(&dir, REPAIR).await;
        assert!(!repaired.is_faulty(), "{damage}: {repaired:#?}");
        assert_eq!(examine(&dir, EXAMINE).await.faults, [], "{damage}");

        let store = open(dir.path()).await;
        let waiting = store.claim_received(10, LEASE, at(1001)).await.unwrap();
        let uids: Vec<_> = waiting.iter().map(|p| p.sop_instance.as_str()).collect();
        assert_eq!(uids.len(), 2, "{damage}: {uids:?}");
        for instance in ["1.2.3", "3.4.5"] {
            assert_eq!(put_whole(&store, instance, 1002).await, Accepted::Duplicate, "{damage}");
        }
        for own in ["2.25.1", "2.25.2"] {
            assert!(store.is_own_report(&uid(own)).await.unwrap(), "{damage}: {own}");
        }
        assert!(files(&dir.path().join("reports")).is_empty(), "set aside");
        if damage == "torn page" {
            assert_eq!(store.device_uid(), &device, "what can be read of the old one is taken over");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_state_of_the_node_and_becomes_one_again() {
    let dir = folder().await;
    let node = open(dir.path()).await;
    for (files_by, number) in [(Files::Linked, 4), (Files::Copied, 5)] {
        let elsewhere = tempfile::tempdir().unwrap();
        let to = elsewhere.path().join("backup");
        // As a command beside the node does it.
        let command = Store::attach(&settings(dir.path())).await.unwrap();
        let done = command.backup(&to, files_by).await.unwrap();
        assert_eq!((done.files, done.gone), (number, 0));
        let again = command.backup(&to, files_by).await;
        assert!(matches!(again, Err(StoreError::Occupied(_))), "{again:?}");
        command.close().await;

        // Life goes on, and what was there is purged.
        let later = if files_by == Files::Linked { "5.6.7" } else { "5.6.8" };
        put_whole(&node, later, 80).await;

        let backup = settings(&to);
        let called = AeTitle::parse("SIDELIGHT").unwrap();
        assert_eq!(fsck(&backup, EXAMINE, &called, at(1000)).await.unwrap().faults, []);
        let restored = Store::open(&backup).await.unwrap();
        assert_eq!(restored.device_uid(), node.device_uid());
        assert_eq!(state(&restored, "1.2").await, StudyState::Reported);
        assert_eq!(due(&restored, 1000).await.len(), 1, "what was to be delivered is");
        assert_eq!(put_whole(&restored, "1.2.3", 1000).await, Accepted::Duplicate);
        assert_eq!(put_whole(&restored, later, 1000).await, Accepted::New, "acknowledged after the backup: sent again");
    }
    // The second name outlives the first.
    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().join("backup");
    node.backup(&to, Files::Linked).await.unwrap();
    node.purge(&uid("1.2"), true).await.unwrap();
    let restored = Store::open(&settings(&to)).await.unwrap();
    assert_eq!(restored.recovered().missing, 0);
    assert_eq!(restored.report_files(1).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_while_a_backup_is_taken_is_noted_as_gone() {
    let dir = folder().await;
    let node = open(dir.path()).await;
    fs::remove_file(object(dir.path(), "1.2.3")).unwrap();
    fs::remove_file(dir.path().join("reports/2.25.1.dcm")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().join("backup");
    let others = elsewhere.path().join("backup.partial");
    fs::create_dir(&others).unwrap();
    fs::write(others.join("index.sqlite"), b"another's").unwrap();
    let refused = node.backup(&to, Files::Copied).await;
    assert!(matches!(&refused, Err(StoreError::Unfinished(at)) if *at == others), "{refused:?}");
    assert_eq!(fs::read(others.join("index.sqlite")).unwrap(), b"another's", "nothing is deleted");
    fs::remove_dir_all(&others).unwrap();
    let done = node.backup(&to, Files::Copied).await.unwrap();
    assert_eq!((done.files, done.gone), (2, 2));
    assert!(!elsewhere.path().join("backup.partial").exists());
    let restored = Store::open(&settings(&to)).await.unwrap();
    assert_eq!(restored.recovered().missing, 0);
    let shown = show(&restored, "1.2").await;
    assert!(!shown.instances[0].kept);
    assert_eq!(shown.study.state, StudyState::Failed, "a report that was to be sent is not there");
}

#[test]
fn a_kill_while_an_index_is_set_aside_leaves_no_log_without_its_index() {
    let order = crate::store::spool::ASIDE;
    for moved in 0..=order.len() {
        let left = &order[moved..];
        assert!(left.is_empty() || left.contains(&""), "{left:?} would meet an empty index");
    }
    assert!(order.contains(&"-wal") && order.contains(&"-shm"));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_name_a_file_without_the_uid_that_its_name_holds() {
    let (_dir, store) = fresh().await;
    let (spool, id) = (store.spool(), store.log_id("1.2.840.3"));
    let rows = [
        ("spool/ab/1.2.840.3.0123456789ab.dcm", format!("spool/ab/{id}.0123456789ab.dcm")),
        ("spool/ab/1.2.840.3.ffffffffffff.dcm", format!("spool/ab/{id}.ffffffffffff.dcm")),
        ("spool/ab/1.2.840.3.012345678901.dcm", format!("spool/ab/{id}.012345678901.dcm")),
        ("reports/1.2.840.3.dcm", format!("reports/{id}.dcm")),
        ("damaged/1.2.840.3.0123456789ab.dcm.2", format!("damaged/{id}.0123456789ab.dcm.2")),
    ];
    for (path, expected) in rows {
        assert_eq!(spool.shown(path), expected);
    }
}

#[test]
fn an_error_names_an_object_without_its_uid() {
    let rows = [
        ("/data/spool/ab/1.2.840.3.0123456789ab.dcm", "/data/spool/ab/*.0123456789ab.dcm"),
        ("/data/damaged/1.2.840.3.0123456789ab.dcm.2", "/data/damaged/*.0123456789ab.dcm.2"),
        ("/data/conflicts/1.2.840.3.89abcdef.dcm", "/data/conflicts/*.89abcdef.dcm"),
        ("/data/reports/2.25.7.dcm", "/data/reports/2.25.7.dcm"),
        ("/data/spool/ab", "/data/spool/ab"),
        ("/data/incoming/8d9f", "/data/incoming/8d9f"),
    ];
    for (path, expected) in rows {
        assert_eq!(crate::store::spool::without_uid(Path::new(path)), Path::new(expected));
    }
}
