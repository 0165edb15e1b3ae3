//! A working day: a study arrives, its page tells of it, a failed delivery is sent again, and the log tells who did it.

use std::process::Command;
use std::time::Duration;

use super::browser::Browser;
use super::{EVERYBODY, start, users};
use crate::support::{Pacs, free_port, phantoms, run, sidelight, storescu, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn an_operator_sees_a_failure_and_sends_the_report_again() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 31);
    let port = free_port();
    let extra = users(folder.path(), EVERYBODY);
    let destinations = [("archive", "PACS", port, true, "withheld")];
    let node = start(folder.path(), &["STORESCU"], &destinations, "", &extra);
    let mut otto = Browser::of(node.web_port, "otto");
    assert!(otto.get("/studies").body.contains("No study matches"));
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    // Nobody listens at the archive: the status says so.
    wait_for("the alarm", LIMIT, || otto.get("/").body.contains("Destination archive is down since"));
    wait_for("the reports wait", LIMIT, || node.studies().iter().filter(|s| s["state"] == "reported").count() == 2);
    let study = node.studies()[0]["study"].as_str().expect("a UID").to_owned();
    let page = otto.get(&format!("/studies/{study}")).body;
    for text in [
        "The first object arrived from STORESCU",
        "The report of revision 1 was written",
        "AI result",
        "<b>Flag:</b>",
        "archive",
        "Send again",
        "Analyse again",
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
    assert!(!page.contains("Close now"), "it is not open");
    let pacs = Pacs::start_on(&folder.path().join("pacs"), port);
    let token = otto.get("/").token().to_owned();
    let resend = format!("/studies/{study}/resend");
    assert_eq!(otto.post(&resend, &[("token", &token), ("destination", "elsewhere")]).status, 400);
    let answer = otto.post(&resend, &[("token", &token), ("destination", "archive")]);
    assert_eq!((answer.status, answer.header("location")), (303, format!("/studies/{study}?done=resend").as_str()));
    assert!(otto.get(answer.header("location")).body.contains("The current reports are due again"));
    wait_for("both reports arrive", LIMIT, || pacs.files().len() >= 2);
    wait_for("the alarm is over", LIMIT, || otto.get("/").body.contains("Nothing needs attention"));
    // Found by every filter that holds, and by none that does not.
    let found = |otto: &mut Browser, query: &str| otto.get(&format!("/studies?{query}")).body.contains(&study);
    // The study is delivered a moment after its last report.
    wait_for("it is delivered", LIMIT, || found(&mut otto, "state=delivered"));
    assert!(found(&mut otto, "state=delivered&source=STORESCU") && found(&mut otto, &format!("named={study}")));
    assert!(!found(&mut otto, "state=open") && !found(&mut otto, "source=OTHER") && !found(&mut otto, "to=2001-01-01"));
    // A study that is open is closed by hand; one that is not is left alone.
    let answer = otto.post(&format!("/studies/{study}/close"), &[("token", &token), ("complete", "no")]);
    assert_eq!(answer.status, 409);
    let answer = otto.post(&format!("/studies/{study}/analyse"), &[("token", &token)]);
    assert_eq!(answer.status, 303);
    wait_for("the second report", LIMIT, || pacs.files().len() >= 3);

    // The command line is told too, and the chain holds until somebody changes a line.
    node.command(&["studies", "requeue", &study]);
    let lines = node.json(&["log", "list"]);
    let line = |user: &str, action: &str| {
        lines.as_array().expect("lines").iter().any(|l| l["user"] == user && l["action"] == action)
    };
    assert!(line("otto", "resend") && line("otto", "analyse") && line("(command line)", "analyse"), "{lines}");
    let verify =
        |arguments: &[&str]| run(sidelight(&["log", "verify"]).args(arguments).arg("--config").arg(&node.config));
    let head = node.json(&["log", "verify"]);
    let noted = format!("{}:{}", head["lines"], head["digest"].as_str().expect("a digest"));
    assert!(verify(&["--noted", &noted]).status.success());
    let change = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('DROP TRIGGER activity_is_not_changed')\n\
                  c.execute(\"UPDATE activity SET user = 'vera' WHERE number = 2\")\nc.commit()";
    let index = folder.path().join("data/index.sqlite");
    let done = run(Command::new(crate::support::reference_python()).args(["-c", change]).arg(&index));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let verdict = verify(&[]);
    assert_eq!(verdict.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&verdict.stdout).trim(), "line 2 is not as it was written");
    assert!(node.stop().success());
}
