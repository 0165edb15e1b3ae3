//! `kill -9` under load, and a disk that fails under load: what was answered 0000H is there byte for byte, no study has
//! two current reports, none is stuck.
//!
//! The suite runs a short form; `SIDELIGHT_TORTURE=1000` kills the node 1,000 times, and 200 times more after its disk
//! has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};

use crate::support::faults::Faults;
use crate::support::sender::{Object, Sender};
use crate::support::{Node, NodeOptions, Pacs, SIDELIGHT, data_sets, phantoms, reference_python, root, run_ok};

const SENDERS: u32 = 4;
const IMAGES_PER_STUDY: u32 = 2;
/// Objects that a sender may send from one end of the node to the next, so that the work is bounded.
const OBJECTS_PER_CYCLE: u32 = 3;

/// What the senders share with the one who breaks things.
struct Load {
    port: AtomicU16,
    /// Objects that may be sent yet.
    budget: AtomicU32,
    sending: AtomicU32,
    over: AtomicBool,
    /// SOP Instance UID → digest of the data set, for what was answered 0000H.
    acknowledged: Mutex<BTreeMap<String, blake3::Hash>>,
    studies: Mutex<BTreeSet<String>>,
}

impl Load {
    fn take(&self) -> bool {
        self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    /// One sender: an object is sent until it is acknowledged, as a modality does.
    fn send(&self, sender: u32, templates: &[Object]) {
        let mut association: Option<Sender> = None;
        for number in 0.. {
            while !self.take() {
                if self.over.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let study = sender * 1_000_000 + number / IMAGES_PER_STUDY;
            let template = &templates[study as usize % templates.len()];
            let object = template.renumbered(study, sender * 1_000_000 + number);
            self.sending.fetch_add(1, Ordering::SeqCst);
            loop {
                let open = association.take();
                let open = open.map_or_else(|| Sender::open(self.port.load(Ordering::SeqCst), &templates[0]), Ok);
                let answer = open.and_then(|mut open| {
                    let status = open.store(&object)?;
                    association = Some(open);
                    Ok(status)
                });
                match answer {
                    Ok(0) => break,
                    _ => std::thread::sleep(Duration::from_millis(10)),
                }
            }
            self.sending.fetch_sub(1, Ordering::SeqCst);
            let digest = blake3::hash(&object.data_set);
            self.acknowledged.lock().expect("ledger").insert(object.instance, digest);
            self.studies.lock().expect("ledger").insert(object.study);
        }
    }
}

#[test]
fn under_kills_and_faults_nothing_acknowledged_is_lost_and_no_study_is_stuck() {
    let kills: u32 = std::env::var("SIDELIGHT_TORTURE").map_or(20, |n| n.parse().expect("a number of kills"));
    let folder = tempfile::tempdir().expect("temporary folder");
    let faults = Faults::build(folder.path());
    let files = phantoms(&folder.path().join("phantoms"), "null", 6, 5);
    let templates = Object::in_scope(&files);

    let pacs = Pacs::start(&folder.path().join("pacs"));
    let data = folder.path().join("data");
    let mut node = Node::start(&NodeOptions {
        data_dir: &data,
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "300ms",
        extra: "",
    });
    let config = node.config.clone();
    let load = Arc::new(Load {
        port: AtomicU16::new(node.dicom_port),
        budget: AtomicU32::new(0),
        sending: AtomicU32::new(0),
        over: AtomicBool::new(false),
        acknowledged: Mutex::default(),
        studies: Mutex::default(),
    });
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (load, templates) = (Arc::clone(&load), templates.clone());
            std::thread::spawn(move || load.send(sender, &templates))
        })
        .collect();

    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(20);
    let (rounds, mut cut, mut failed, mut ended) = (kills + kills / 5, 0, 0, 0);
    let begin = Instant::now();
    for round in 0..rounds {
        load.budget.fetch_add(SENDERS * OBJECTS_PER_CYCLE, Ordering::SeqCst);
        if round % 6 == 5 {
            fail(&faults, &load, &mut random);
            failed += 1;
        }
        // Spread over sending, reading, reporting and delivering; most fall into a transfer.
        std::thread::sleep(Duration::from_millis(random.random_range(0..120)));
        cut += u32::from(load.sending.load(Ordering::SeqCst) > 0);
        // A node that does not believe its disk has ended by itself.
        ended += u32::from(!node.is_running());
        node.kill();
        node = Node::restart_with(&config, &faults.environment());
        load.port.store(node.dicom_port, Ordering::SeqCst);
        if round % 50 == 49 {
            let acknowledged = load.acknowledged.lock().expect("ledger").len();
            let told = format!("{} kills, {failed} after a fault, {ended} ends", round + 1);
            eprintln!("{:?}: {told}, {acknowledged} objects acknowledged", begin.elapsed());
        }
    }
    load.over.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().expect("a sender ends");
    }
    let hits = faults.hits();
    eprintln!(
        "{rounds} kills, {cut} of them in a transfer; {failed} after a fault ({hits} calls failed); {ended} ends"
    );
    assert!(cut >= rounds / 4, "only {cut} kills fell into a transfer");

    let acknowledged = load.acknowledged.lock().expect("ledger");
    let there: BTreeMap<String, blake3::Hash> =
        data_sets(&data.join("spool")).into_iter().map(|(uid, data_set)| (uid, blake3::hash(&data_set))).collect();
    for (uid, digest) in acknowledged.iter() {
        assert_eq!(there.get(uid), Some(digest), "{uid} was acknowledged and is not there byte for byte");
    }
    assert_eq!(there.len(), acknowledged.len(), "nothing else is there");
    let studies = load.studies.lock().expect("ledger");
    // The longest wait is that of an image that was cut short at forty-nine ends.
    node.delivers_each_once(&studies, Duration::from_secs(120));
    eprintln!("{} objects in {} studies: all there, all delivered; {:?}", there.len(), studies.len(), begin.elapsed());
}

/// The bench's day in short: it fails by itself where a study is in no final state, or memory or open files grow.
#[test]
fn a_day_of_mixed_studies_in_one_process_life_leaves_memory_and_files_flat() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut day = Command::new(reference_python());
    day.current_dir(root()).arg("benches/day.py").arg(folder.path()).args([SIDELIGHT, "60"]);
    let told = run_ok(&mut day);
    assert!(told.starts_with("60 studies sent") && told.contains("'failed': 0"), "{told}");
}

/// A disk that fails for a while, at least one call.
fn fail(faults: &Faults, load: &Load, random: &mut impl Rng) {
    let before = faults.hits();
    for _ in 0..20 {
        faults.set(&rule(random));
        let begin = Instant::now();
        while faults.hits() == before && begin.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if faults.hits() > before {
            std::thread::sleep(Duration::from_millis(random.random_range(0..150)));
            return faults.clear();
        }
        // Not every call is made at any time.
        load.budget.fetch_add(SENDERS, Ordering::SeqCst);
    }
    panic!("no call failed within 20 rules");
}

/// What fails, how, and how often.
fn rule(random: &mut impl Rng) -> String {
    let calls = [
        ("write", "/incoming/"),
        ("write", "index.sqlite-wal"),
        ("write", "index.sqlite"),
        ("write", "/"),
        ("open", "/incoming/"),
        ("rename", "/spool/"),
        ("rename", "/reports/"),
        ("sync", ".dcm"),
        ("sync", "/spool/"),
        ("sync", "index.sqlite-wal"),
    ];
    let (call, path) = calls[random.random_range(0..calls.len())];
    let effects: &[&str] = match call {
        "write" => &["28", "5", "short"],
        "open" => &["28", "5", "30"],
        _ => &["5"],
    };
    let effect = effects[random.random_range(0..effects.len())];
    let count = [1, 2, 5, -1][random.random_range(0..4)];
    format!("{call} {path} {effect} {count}\n")
}
