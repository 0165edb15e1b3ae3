//! The life of a node: reload, the service manager, closing by rule and by hand, damage and repair, backup and restore.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dicom_ul::pdu::Pdu;

use crate::receive::scu::{CT, EXPLICIT, Scu};
use crate::support::{
    Node, NodeOptions, Pacs, dicom_files, element, phantoms, run, run_ok, sidelight, storescu, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A node with these lines in its configuration and nowhere to send to.
fn node(folder: &Path, sources: &[&str], quiet_period: &str, extra: &str) -> Node {
    let data = folder.join("data");
    Node::start(&NodeOptions { data_dir: &data, sources, destinations: &[], quiet_period, extra })
}

/// The frontal images of so many phantoms.
fn frontals(folder: &Path, patients: u32) -> Vec<PathBuf> {
    let mut files = phantoms(&folder.join("phantoms"), "null", patients, 9);
    files.retain(|f| matches!(element(f, "ViewPosition").as_str(), "PA" | "AP"));
    files
}

fn edit(config: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(config).expect("readable");
    assert!(text.contains(from), "{from} is not in\n{text}");
    fs::write(config, text.replace(from, to)).expect("writable");
}

fn reload(node: &Node, said: &str) {
    let before = node.log().matches(said).count();
    node.signal("HUP");
    wait_for(said, LIMIT, || node.log().matches(said).count() > before);
}

const RELOADED: &str = "the configuration was loaded again";

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_who_may_send_and_drops_no_association() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = node(folder.path(), &["PACS"], "1s", "");
    let mut running = Scu::associate(node.dicom_port, &[(CT, EXPLICIT)]).await;
    assert_eq!(running.store(1, CT, "1.2.3.1", &[7; 100]).await, 0);

    // Another may send now, PACS may not any more; what cannot change is said and stays.
    edit(&node.config, "ae_title = \"PACS\"", "ae_title = \"OTHER\"");
    edit(&node.config, "device = \"cpu\"", "device = \"cpu\"\nbatch_max = 3");
    reload(&node, RELOADED);
    let log = node.log();
    assert!(log.contains("changes here need a restart") && log.contains("\"models\""), "{log}");
    assert_eq!(running.store(1, CT, "1.2.3.2", &[7; 100]).await, 0, "the association keeps what it began with");
    let answer = async |calling: &str| {
        let mut scu = Scu::connect(node.dicom_port).await;
        matches!(scu.negotiate(calling, &[(CT, EXPLICIT)]).await, Some(Pdu::AssociationAC(_)))
    };
    assert!(answer("OTHER").await && !answer("PACS").await);

    // A file with faults changes nothing, and all of them are said.
    edit(&node.config, "ae_title = \"OTHER\"", "ae_title = \"SEVENTEEN_LETTERS\"\nhostes = 1");
    reload(&node, "the configuration has faults");
    let log = node.log();
    assert!(log.contains("SEVENTEEN_LETTERS") && log.contains("hostes"), "{log}");
    assert!(answer("OTHER").await && !answer("PACS").await);
    assert!(running.release().await);
    assert!(node.stop().success());
}

#[test]
fn a_reload_changes_rules_destinations_and_the_log() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontals(folder.path(), 1);
    let node = node(folder.path(), &["STORESCU"], "1h", "");
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("the image is read", LIMIT, || node.studies().first().is_some_and(|s| s["instances"] == 1));
    let pacs = Pacs::start(&folder.path().join("pacs"));
    edit(&node.config, "quiet_period = \"1h\"", "quiet_period = \"100ms\"");
    edit(&node.config, "json = true", "json = true\nfilter = \"info,sidelight::receive=debug\"");
    let destination = format!(
        "\n[[destinations]]\nname = \"new\"\nae_title = \"PACS\"\nhost = \"127.0.0.1\"\nport = {}\naudit = true\n",
        pacs.port
    );
    let text = fs::read_to_string(&node.config).expect("readable");
    fs::write(&node.config, text + &destination).expect("writable");
    assert!(!node.log().contains("DEBUG"));
    reload(&node, RELOADED);
    wait_for("the report arrives at the new destination", LIMIT, || pacs.files().len() == 1);
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("the log says more", LIMIT, || node.log().contains("DEBUG"));
}

#[test]
fn the_service_manager_hears_of_every_state() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let first = node(folder.path(), &["STORESCU"], "1s", "");
    let config = first.config.clone();
    assert!(first.stop().success());

    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(LIMIT)).expect("a limit");
    let hear = || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).expect("word of the node in time");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let environment = [("NOTIFY_SOCKET", path.as_path()), ("WATCHDOG_USEC", Path::new("400000"))];
    let node = Node::restart_with(&config, &environment);
    let next_but_alive = || loop {
        let said = hear();
        if said != "WATCHDOG=1" {
            return said;
        }
    };
    let first_word = next_but_alive();
    assert!(first_word.starts_with("EXTEND_TIMEOUT_USEC="), "while models are loaded: {first_word}");
    let ready = std::iter::repeat_with(next_but_alive).find(|said| !said.starts_with("EXTEND_TIMEOUT_USEC="));
    assert_eq!(ready.as_deref(), Some("READY=1"));
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "twice per period: {:?}", began.elapsed());
    node.signal("HUP");
    assert!(next_but_alive().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next_but_alive(), "READY=1");
    assert!(node.stop().success());
    assert_eq!(next_but_alive(), "STOPPING=1");
}

#[test]
fn a_study_that_lacks_a_view_is_reported_as_incomplete_and_says_what() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontals(folder.path(), 1);
    let rule = "[[study.required]]\nviews = [\"FRONTAL\", \"L-MLO\"]\nquiet_period = \"100ms\"\n";
    let node = node(folder.path(), &["STORESCU"], "500ms", rule);
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("the study is closed", LIMIT, || node.studies().first().is_some_and(|s| s["state"] == "delivered"));
    let row = node.studies().remove(0);
    assert_eq!((&row["complete"], &row["closed_by"]), (&false.into(), &"quiet".into()), "{row}");
    assert_eq!(row["missing"], serde_json::json!(["L-MLO"]));
    let shown = node.command(&["studies", "show", row["study"].as_str().expect("a uid")]);
    assert!(shown.contains("missing L-MLO") && shown.contains("incomplete"), "{shown}");
    let reports = dicom_files(&folder.path().join("data/reports"));
    assert!(!reports.is_empty());
    for report in reports {
        assert_eq!(element(&report, "CompletionFlag"), "PARTIAL");
        assert_eq!(element(&report, "CompletionFlagDescription"), "Missing: L-MLO");
    }
}

#[test]
fn a_study_is_closed_by_hand_and_another_when_its_views_are_there() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontals(folder.path(), 1);
    let study = element(&files[0], "StudyInstanceUID");
    let rule = "[[study.required]]\nviews = [\"LATERAL\"]\nwait = true\n";
    let node = node(folder.path(), &["STORESCU"], "200ms", rule);
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("the image is read", LIMIT, || node.studies().first().is_some_and(|s| s["instances"] == 1));
    let said = node.command(&["studies", "close", &study, "--complete"]);
    assert!(said.contains("will be closed"), "{said}");
    wait_for("the study is closed", LIMIT, || node.studies()[0]["state"] == "delivered");
    let row = node.studies().remove(0);
    assert_eq!((&row["closed_by"], &row["complete"]), (&"hand".into(), &true.into()), "{row}");
    let again = run(sidelight(&["studies", "close", &study, "--config"]).arg(&node.config));
    assert_eq!(again.status.code(), Some(1), "closed is closed");
    let said = node.command(&["studies", "purge", &study]);
    assert!(said.contains("1 objects"), "{said}");
    assert!(node.studies().is_empty());
}

#[test]
fn a_damaged_index_stops_the_start_and_fsck_makes_it_anew() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontals(folder.path(), 2);
    let node = node(folder.path(), &["STORESCU"], "300ms", "");
    let config = node.config.clone();
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("both studies are closed", LIMIT, || {
        node.studies().len() == 2 && node.studies().iter().all(|s| s["state"] == "delivered")
    });
    let busy = run(sidelight(&["fsck", "--config"]).arg(&config));
    assert_eq!(busy.status.code(), Some(1), "not beside a node");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("in use"));
    assert!(node.stop().success());
    let fsck = |arguments: &[&str]| {
        let output = run(sidelight(&["fsck"]).args(arguments).arg("--config").arg(&config));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = fsck(&["--digests"]);
    assert_eq!((code, said.contains("nothing is wrong")), (Some(0), true), "{said}");

    let index = folder.path().join("data/index.sqlite");
    fs::write(&index, vec![b'x'; 1 << 14]).expect("writable");
    let start = run(sidelight(&["serve", "--config"]).arg(&config));
    let said = String::from_utf8_lossy(&start.stderr).into_owned();
    assert!(!start.status.success() && said.contains("fsck --repair"), "{said}");
    assert_eq!(fsck(&[]).0, Some(1));
    let (code, said) = fsck(&["--repair"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("received anew"), "{said}");
    let node = Node::restart(&config);
    wait_for("both studies are analysed again", LIMIT, || {
        node.studies().len() == 2 && node.studies().iter().all(|s| s["state"] == "delivered")
    });
}

#[test]
fn a_backup_of_a_running_node_is_restored_elsewhere() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontals(folder.path(), 3);
    let node = node(folder.path(), &["STORESCU"], "300ms", "");
    let config = node.config.clone();
    let closed = |node: &Node, count: usize| {
        let studies = node.studies();
        studies.len() == count && studies.iter().all(|s| s["state"] == "delivered")
    };
    assert!(storescu(node.dicom_port, &[], &files[..2]).status.success());
    wait_for("two studies are closed", LIMIT, || closed(&node, 2));
    let backup = folder.path().join("backup");
    let done = node.json(&["backup", backup.to_str().expect("a plain path"), "--copy"]);
    assert_eq!(done["gone"], 0, "{done}");
    let before = node.studies();
    // After the backup: acknowledged, and not in it.
    assert!(storescu(node.dicom_port, &[], &files[2..]).status.success());
    wait_for("the third study is closed", LIMIT, || closed(&node, 3));
    node.kill();
    fs::remove_dir_all(folder.path().join("data")).expect("the disk is lost");

    run_ok(Command::new("cp").arg("-a").arg(&backup).arg(folder.path().join("data")));
    let checked = run_ok(sidelight(&["fsck", "--digests", "--config"]).arg(&config));
    assert!(checked.contains("nothing is wrong"), "{checked}");
    let node = Node::restart(&config);
    assert_eq!(node.studies(), before);
    assert!(storescu(node.dicom_port, &[], &files).status.success(), "its sender sends what is missing");
    wait_for("the third study is closed again", LIMIT, || closed(&node, 3));
}
