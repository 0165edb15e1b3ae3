//! Called AE titles with rules of their own, in a whole node: where the reports go, also after a restart.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::{Node, NodeOptions, Pacs, element, phantoms, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

fn send(node: &Node, called: &str, files: &[PathBuf]) {
    let sent = run(Command::new("storescu")
        .env("TCP_NODELAY", "1")
        .args(["--timeout", "20", "-aec", called, "127.0.0.1", &node.dicom_port.to_string()])
        .args(files));
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
}

#[test]
fn the_title_that_was_called_decides_where_reports_go_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "null", 3, 8);
    let mut studies: Vec<String> = files.iter().map(|file| element(file, "StudyInstanceUID")).collect();
    studies.dedup();
    let of = |study: &String| -> Vec<PathBuf> {
        files.iter().filter(|file| element(file, "StudyInstanceUID") == *study).cloned().collect()
    };
    let clinic = Pacs::start(&folder.path().join("clinic"));
    let research = Pacs::start(&folder.path().join("research"));
    let aliases = "[[aliases]]\nae_title = \"RESEARCH\"\nquiet_period = \"3s\"\nclinical = [\"demo-clinical\"]\n\
                   destinations = [\"research\"]\n[[aliases]]\nae_title = \"OLDNAME\"\n";
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[
            ("clinic", "PACS", clinic.port, true, "withheld"),
            ("research", "PACS", research.port, true, "withheld"),
        ],
        quiet_period: "300ms",
        extra: aliases,
    });
    send(&node, "OLDNAME", &of(&studies[0]));
    send(&node, "RESEARCH", &of(&studies[1]));
    // The study of the node's own rules is long done when that of the alias still waits.
    wait_for("the first study is delivered", LIMIT, || clinic.files().len() == 1 && research.files().len() == 1);
    let state = |node: &Node, study: &String| {
        let rows = node.studies();
        rows.into_iter().find(|row| row["study"] == study.as_str()).map(|row| row["state"].to_string())
    };
    let config = node.config.clone();
    wait_for("the second study has begun", LIMIT, || state(&node, &studies[1]).is_some());
    node.kill();
    let node = Node::restart(&config);
    wait_for("the second study is delivered", LIMIT, || {
        state(&node, &studies[1]).as_deref() == Some("\"delivered\"") && research.files().len() == 2
    });
    let answered = |pacs: &Pacs| {
        let mut found: Vec<String> = pacs.files().iter().map(|file| element(file, "StudyInstanceUID")).collect();
        found.sort();
        found
    };
    let mut both = vec![studies[0].clone(), studies[1].clone()];
    both.sort();
    assert_eq!(answered(&clinic), std::slice::from_ref(&studies[0]), "the alias names research alone");
    assert_eq!(answered(&research), both);
    assert!(node.stop().success());
}
