//! Faults of the disk and of the index: nothing is acknowledged that is not kept, the node says why, and it goes on
//! when the fault is gone; but a sync that failed ends it, and the next start looks at what is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::faults::Faults;
use crate::support::sender::{Object, Sender};
use crate::support::{Node, NodeOptions, data_sets, phantoms, reference_python, wait_for};

const SUCCESS: u16 = 0x0000;
const PROCESSING_FAILURE: u16 = 0x0110;
const OUT_OF_RESOURCES: u16 = 0xA700;

struct Scene {
    folder: tempfile::TempDir,
    faults: Faults,
    template: Object,
    /// What was answered with Success.
    acknowledged: BTreeMap<String, Vec<u8>>,
}

impl Scene {
    fn new() -> (Self, Node) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let faults = Faults::build(folder.path());
        let template = Object::in_scope(&phantoms(&folder.path().join("phantoms"), "null", 3, 3)).remove(0);
        let options = NodeOptions {
            data_dir: &folder.path().join("data"),
            sources: &["STORESCU"],
            destinations: &[],
            quiet_period: "200ms",
            extra: "",
        };
        let node = Node::start_with(&options, &faults.environment());
        (Self { folder, faults, template, acknowledged: BTreeMap::new() }, node)
    }

    fn object(&self, number: u32) -> Object {
        self.template.renumbered(number, number)
    }

    fn send(&mut self, node: &Node, object: &Object) -> u16 {
        let status = Sender::open(node.dicom_port, object).and_then(|mut s| s.store(object)).expect("an answer");
        if status == SUCCESS {
            self.acknowledged.insert(object.instance.clone(), object.data_set.clone());
        }
        status
    }

    /// Every acknowledged object is in the spool once, byte for byte, and nothing else.
    fn check_spool(&self) {
        let kept = data_sets(&self.folder.path().join("data/spool"));
        assert_eq!(kept.keys().collect::<Vec<_>>(), self.acknowledged.keys().collect::<Vec<_>>());
        assert!(kept == self.acknowledged, "an object is not what was sent");
    }
}

#[test]
fn a_fault_that_passes_is_answered_with_a_failure_and_forgotten() {
    let (mut scene, node) = Scene::new();
    let rows = [
        ("no room for an object", "write /incoming/ 28 -1", OUT_OF_RESOURCES, "there is no room"),
        ("no room for the index", "write index.sqlite 28 -1", OUT_OF_RESOURCES, "there is no room"),
        (
            "half an object, then no room",
            "write /incoming/ short 1\nwrite /incoming/ 28 -1",
            OUT_OF_RESOURCES,
            "no room",
        ),
        (
            "half a row, then no room",
            "write index.sqlite short 1\nwrite index.sqlite 28 -1",
            OUT_OF_RESOURCES,
            "no room",
        ),
        ("a disk error under an object", "write /incoming/ 5 -1", PROCESSING_FAILURE, "Input/output error"),
        ("a disk error under the index", "write index.sqlite 5 -1", PROCESSING_FAILURE, "disk I/O error"),
        ("a read-only disk", "open /incoming/ 30 -1", OUT_OF_RESOURCES, "read-only"),
        ("a rename that fails", "rename /spool/ 5 -1", PROCESSING_FAILURE, "cannot rename"),
        ("an object that is not synced", "sync .dcm 5 -1", PROCESSING_FAILURE, "cannot sync"),
    ];
    for (number, (name, rules, status, told)) in (1..).zip(rows) {
        let object = scene.object(number);
        scene.faults.set(rules);
        assert_eq!(scene.send(&node, &object), status, "{name}");
        // The reader meets the fault too, and must not be what says so.
        wait_for(name, Duration::from_secs(10), || node.log().contains(told));
        assert!(
            !data_sets(&scene.folder.path().join("data/spool")).contains_key(&object.instance),
            "{name}: nothing stays"
        );
        scene.faults.clear();
        assert_eq!(scene.send(&node, &object), SUCCESS, "{name}: over");
        scene.check_spool();
    }
    // What is written in pieces is whole all the same.
    scene.faults.set("write / short 400");
    let object = scene.object(99);
    assert_eq!(scene.send(&node, &object), SUCCESS);
    scene.faults.clear();
    wait_for("every study is analysed", Duration::from_secs(60), || {
        let studies = node.studies();
        studies.len() == scene.acknowledged.len() && studies.iter().all(|s| s["state"] == "delivered")
    });
    let config = node.config.clone();
    node.kill();
    let node = Node::restart(&config);
    scene.check_spool();
    assert_eq!(node.studies().len(), scene.acknowledged.len());
}

#[test]
fn a_failed_sync_of_what_many_objects_share_ends_the_node_and_loses_nothing() {
    let rows = [
        // A rule without effect first: the files themselves are synced.
        ("a folder", "sync .dcm 0 -1\nsync /spool/ 5 1"),
        ("the index's log", "sync index.sqlite-wal 5 1"),
        ("the index", "sync index.sqlite-wal 0 -1\nsync index.sqlite 5 1"),
    ];
    for (name, rules) in rows {
        let (mut scene, node) = Scene::new();
        for number in 1..=3 {
            assert_eq!(scene.send(&node, &scene.object(number)), SUCCESS);
        }
        scene.faults.set(rules);
        // The fault happens once; the node does not believe the sync that would succeed after it.
        let object = scene.object(4);
        let status = Sender::open(node.dicom_port, &object).and_then(|mut sender| sender.store(&object));
        let config = node.config.clone();
        let log = node.shared_log();
        let ended = node.ended(Duration::from_secs(30));
        assert_eq!(ended.code(), Some(1), "{name}: {}", log.lock().expect("log"));
        assert!(log.lock().expect("log").contains("the disk is not to be believed"), "{name}: the log says why");
        match status {
            Ok(OUT_OF_RESOURCES) | Err(_) => {}
            // A checkpoint comes later: what was answered before it is kept.
            Ok(SUCCESS) if name == "the index" => {
                scene.acknowledged.insert(object.instance.clone(), object.data_set.clone());
            }
            other => panic!("{name}: {other:?}"),
        }
        scene.faults.clear();
        let node = Node::restart(&config);
        assert!(node.log().contains("the newest objects were read back"), "{name}: the start looks at the disk");
        assert_eq!(scene.send(&node, &object), SUCCESS, "{name}: sent again");
        scene.check_spool();
        wait_for("every study is analysed", Duration::from_secs(60), || {
            let studies = node.studies();
            studies.len() == 4 && studies.iter().all(|s| s["state"] == "delivered")
        });
    }
}

#[test]
fn an_index_that_another_process_keeps_locked_is_a_failure_until_it_is_free() {
    let (mut scene, node) = Scene::new();
    let object = scene.object(1);
    let script = "import sqlite3, sys\n\
                  index = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                  index.execute('BEGIN IMMEDIATE')\nprint('locked', flush=True)\nsys.stdin.read()";
    let mut holder = Command::new(reference_python())
        .args(["-c", script])
        .arg(scene.folder.path().join("data/index.sqlite"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "locked\n");
    assert_eq!(scene.send(&node, &object), OUT_OF_RESOURCES, "after the busy timeout");
    wait_for("the log says why", Duration::from_secs(10), || node.log().contains("keeps the index locked"));
    assert!(fs::read_dir(scene.folder.path().join("data/incoming")).expect("readable").next().is_none());
    drop(holder.stdin.take());
    holder.wait().expect("waitable");
    assert_eq!(scene.send(&node, &object), SUCCESS);
    scene.check_spool();
}
