//! The outbox beside real peers: storescp that is stopped and started, slow lanes, what is given up and sent again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{
    Node, NodeOptions, Pacs, configuration, element, free_port, phantoms, run, sidelight, storescu, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// One image of each of so many studies that are analysed.
fn studies(folder: &Path, count: usize) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut files = phantoms(&folder.join("phantoms"), "null", count as u32, 8);
    files.retain(|f| matches!(element(f, "ViewPosition").as_str(), "PA" | "AP"));
    files.retain(|f| seen.insert(element(f, "StudyInstanceUID")));
    assert_eq!(files.len(), count, "each phantom has a frontal image");
    files
}

/// A node that sends to `archive` on `port`, with these lines in `[delivery]`.
fn node(folder: &Path, port: u16, delivery: &str) -> Node {
    let data = folder.join("data");
    let options = NodeOptions {
        data_dir: &data,
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", port, true, "withheld")],
        quiet_period: "300ms",
        extra: "",
    };
    let text = configuration(&options).replace("[delivery]\n", &format!("[delivery]\n{delivery}\n"));
    let config = folder.join("data.toml");
    fs::write(&config, text).expect("the test folder is writable");
    Node::restart(&config)
}

fn all_are(node: &Node, state: &str) -> bool {
    let studies = node.studies();
    !studies.is_empty() && studies.iter().all(|s| s["state"] == state)
}

/// Passes connections on to `to` and counts them.
fn counted(port: u16, to: u16) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let pipe = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                if to.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    };
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            pipe(client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
            pipe(server, client);
        }
    });
    count
}

#[test]
fn an_outage_costs_one_attempt_at_a_time_and_its_end_empties_the_queue_over_one_association() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = studies(folder.path(), 5);
    let (port, behind) = (free_port(), free_port());
    let node = node(folder.path(), port, "");
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("every report waits", LIMIT, || {
        node.metric("sidelight_destination_waiting{destination=\"archive\"}") == Some(5)
    });
    wait_for("several attempts", LIMIT, || {
        node.json(&["studies", "destinations"])[0]["failures"].as_u64().is_some_and(|failures| failures >= 3)
    });
    assert_eq!(node.metric("sidelight_destination_up{destination=\"archive\"}"), Some(0));
    let listed = node.command(&["studies", "list"]);
    assert!(listed.contains("archive") && listed.contains("down since"), "{listed}");
    assert!(all_are(&node, "reported"));
    for file in &files {
        let shown = node.json(&["studies", "show", &element(file, "StudyInstanceUID")]);
        assert_eq!(shown["deliveries"][0]["attempts"], 0, "no report was tried: {}", shown["deliveries"]);
    }

    let pacs = Pacs::start_on(&folder.path().join("pacs"), behind);
    let connections = counted(port, behind);
    wait_for("the queue flows", LIMIT, || pacs.files().len() == 5);
    wait_for("the studies are delivered", LIMIT, || all_are(&node, "delivered"));
    assert_eq!(connections.load(Ordering::SeqCst), 1, "one association for all of them");
    assert_eq!(node.metric("sidelight_destination_up{destination=\"archive\"}"), Some(1));
    assert_eq!(node.metric("sidelight_destination_waiting{destination=\"archive\"}"), Some(0));
}

#[test]
fn a_destination_that_goes_and_comes_back_gets_each_report_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = studies(folder.path(), 2);
    let (port, inbox) = (free_port(), folder.path().join("pacs"));
    let pacs = Pacs::start_on(&inbox, port);
    let node = node(folder.path(), port, "");
    assert!(storescu(node.dicom_port, &[], &files[..1]).status.success());
    wait_for("the first report", LIMIT, || all_are(&node, "delivered"));
    drop(pacs);
    assert!(storescu(node.dicom_port, &[], &files[1..]).status.success());
    wait_for("the destination is down", LIMIT, || {
        node.metric("sidelight_destination_up{destination=\"archive\"}") == Some(0)
    });
    // A restart of the node forgets nothing of it.
    let config = node.config.clone();
    assert!(node.stop().success());
    let node = Node::restart(&config);
    let pacs = Pacs::start_on(&inbox, port);
    wait_for("the second report", LIMIT, || all_are(&node, "delivered"));
    assert_eq!(pacs.files().len(), 2);
}

#[test]
fn what_is_given_up_is_shown_and_sent_again_by_one_command() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = studies(folder.path(), 2);
    let port = free_port();
    let node = node(folder.path(), port, "tries_min = 3\ngive_up_after = \"200ms\"");
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("both studies fail", LIMIT, || node.studies().len() == 2 && all_are(&node, "failed"));
    let listed = node.command(&["studies", "list"]);
    assert!(listed.contains("delivery to archive was given up"), "{listed}");
    assert_eq!(node.metric("sidelight_destination_given_up{destination=\"archive\"}"), Some(2));

    let pacs = Pacs::start_on(&folder.path().join("pacs"), port);
    let said = node.command(&["studies", "resend", "--failed"]);
    assert!(said.contains("2 deliveries"), "{said}");
    wait_for("both are delivered", LIMIT, || all_are(&node, "delivered"));
    assert_eq!(pacs.files().len(), 2);

    let unknown = run(sidelight(&["studies", "resend", "--destination", "nowhere", "--config"]).arg(&node.config));
    assert_eq!(unknown.status.code(), Some(1));
    let said = node.command(&["studies", "resend", "--destination", "archive"]);
    assert!(said.contains("2 deliveries"), "{said}");
    wait_for("both are delivered again", LIMIT, || all_are(&node, "delivered"));
}

#[test]
fn a_rate_spaces_the_reports_of_one_destination() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = studies(folder.path(), 4);
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let data = folder.path().join("data");
    let node = Node::start(&NodeOptions {
        data_dir: &data,
        sources: &["STORESCU"],
        destinations: &[],
        quiet_period: "300ms",
        extra: &format!(
            "[[destinations]]\nname = \"slow\"\nae_title = \"PACS\"\nhost = \"127.0.0.1\"\nport = {}\naudit = true\n\
             per_minute_max = 120\nassociations_max = 2\n",
            pacs.port
        ),
    });
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("every study is delivered", LIMIT, || node.studies().len() == 4 && all_are(&node, "delivered"));
    let delivered = |file: &PathBuf| {
        let shown = node.json(&["studies", "show", &element(file, "StudyInstanceUID")]);
        let text = shown["deliveries"][0]["delivered_at"].as_str().expect("delivered").to_owned();
        chrono::DateTime::parse_from_rfc3339(&text).expect("a time")
    };
    let mut times: Vec<_> = files.iter().map(delivered).collect();
    times.sort();
    // Half a second apart, over both associations; sending itself takes a little of it.
    let all = times[3] - times[0];
    assert!(all >= chrono::TimeDelta::milliseconds(1300), "{all}: {times:?}");
}
