//! `kill -9` at random instants under load: what was answered 0000H is there, and each study has one current report.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{Rng, SeedableRng};

use crate::support::{Node, NodeOptions, Pacs, data_sets, element, free_port, phantoms, sidelight, storescu, wait_for};

const KILLS: usize = 20;
const SENDERS: usize = 8;
const OBJECTS: usize = 200;

#[test]
fn nothing_acknowledged_is_lost_and_every_study_gets_one_current_report() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut files = phantoms(&folder.path().join("phantoms"), "null", 160, 31);
    assert!(files.len() >= OBJECTS, "{} phantoms", files.len());
    files.truncate(OBJECTS);
    let studies: BTreeSet<String> = files.iter().map(|f| element(f, "StudyInstanceUID")).collect();

    let pacs = Pacs::start(&folder.path().join("pacs"));
    let data = folder.path().join("data");
    let mut node = Node::start(&NodeOptions {
        data_dir: &data,
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "1s",
        extra: "",
    });
    let config = node.config.clone();

    let port = Arc::new(AtomicU16::new(node.dicom_port));
    let queue: Arc<Mutex<VecDeque<PathBuf>>> = Arc::new(Mutex::new(files.iter().cloned().collect()));
    let sending = Arc::new(AtomicUsize::new(0));
    let acknowledged = Arc::new(Mutex::new(Vec::<PathBuf>::new()));
    let give_up = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let sending = Arc::clone(&sending);
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(100 + sender as u64);
            let (port, queue) = (Arc::clone(&port), Arc::clone(&queue));
            let (acknowledged, give_up) = (Arc::clone(&acknowledged), Arc::clone(&give_up));
            std::thread::spawn(move || {
                while !give_up.load(Ordering::Relaxed) {
                    let next = queue.lock().expect("queue").pop_front();
                    let Some(file) = next else {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    };
                    // One association per object: exit status 0 says that its response was 0000H.
                    sending.fetch_add(1, Ordering::SeqCst);
                    let sent = storescu(port.load(Ordering::Relaxed), &[], std::slice::from_ref(&file));
                    sending.fetch_sub(1, Ordering::SeqCst);
                    if sent.status.success() {
                        acknowledged.lock().expect("list").push(file);
                        // A modality's pace: the sending outlasts the kills.
                        std::thread::sleep(Duration::from_millis(random.random_range(0..2000)));
                    } else {
                        std::thread::sleep(Duration::from_millis(50));
                        queue.lock().expect("queue").push_back(file);
                    }
                }
            })
        })
        .collect();

    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(20);
    let mut cut = 0;
    for round in 0..KILLS {
        // Instants are spread over the sending, the reading, the reporting and the delivering; every other one falls
        // into a transfer.
        std::thread::sleep(Duration::from_millis(random.random_range(20..1500)));
        if round % 2 == 0 {
            let moment = Duration::from_millis(random.random_range(0..40));
            wait_for("a transfer", Duration::from_secs(20), || sending.load(Ordering::SeqCst) > 0);
            std::thread::sleep(moment);
        }
        cut += usize::from(sending.load(Ordering::SeqCst) > 0);
        node.kill();
        assert!(acknowledged.lock().expect("list").len() < OBJECTS, "kill {round}: the sending was over");
        if round % 4 == 3 {
            // Once more while it starts: opening the index, sweeping the spool, loading the models.
            let mut starting = sidelight(&["serve", "--config"])
                .arg(&config)
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("the node starts");
            std::thread::sleep(Duration::from_millis(random.random_range(1..400)));
            starting.kill().expect("killable");
            starting.wait().expect("waitable");
        }
        node = Node::restart(&config);
        port.store(node.dicom_port, Ordering::Relaxed);
        eprintln!("kill {}: {} objects acknowledged", round + 1, acknowledged.lock().expect("list").len());
    }
    assert!(cut >= KILLS / 4, "only {cut} kills fell into a transfer");
    wait_for("all objects are acknowledged in the end", Duration::from_secs(120), || {
        acknowledged.lock().expect("list").len() == OBJECTS
    });
    give_up.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().expect("a sender ends");
    }

    // What storescu really sends of each file, by a receiver that writes the bytes as they come.
    let reference = Pacs::start_with(&folder.path().join("reference"), free_port(), &["--bit-preserving"]);
    assert!(storescu(reference.port, &[], &files).status.success());
    wait_for("the reference copies", Duration::from_secs(30), || reference.files().len() == OBJECTS);
    let (as_sent, kept) = (data_sets(&reference.folder), data_sets(&data.join("spool")));
    for file in acknowledged.lock().expect("list").iter() {
        let uid = element(file, "SOPInstanceUID");
        assert!(kept.contains_key(&uid), "{} was acknowledged and is not there", file.display());
        assert_eq!(kept.get(&uid), as_sent.get(&uid), "{} is not there byte for byte", file.display());
    }
    node.delivers_each_once(&studies, Duration::from_secs(240));
}
