//! Real peers and the node, in and out: which transfer syntaxes each can send, whether what is stored is what it sent,
//! the same over TLS (`secure`), and what else they ask for (`services`).
//!
//! `tests/reference/syntaxes.py` writes an image in every transfer syntax that the node negotiates, `peer.py` is
//! pynetdicom. The table of what was observed is kept in `docs/interoperability.md`: the test fails where it differs,
//! and writes it anew with `SIDELIGHT_BLESS=1`. A peer that does not know a syntax, and so never offers it, is told
//! from a node that does not take it: pynetdicom sends them all.

mod peers;
mod relay;
mod secure;
mod services;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sidelight::config::{Destination, Endpoint, Mode, PeerTls};
use sidelight::deliver::{self, ReportFile};
use sidelight::dicom::{Status, TransferSyntax, transfer_syntaxes};
use sidelight::domain::{AeTitle, Disclosure, Report};
use sidelight::wire::Tls;
use tempfile::TempDir;

use crate::receive::scu::{Door, source, split};
use crate::report::alternatives;
use crate::report::deliver::no_tls;
use crate::support::orthanc::Orthanc;
use crate::support::{Pacs, compare_with_docs, free_port, reference_python, root, run_ok, wait_for};
use peers::{Running, SENDERS, Way, pynetdicom};

/// An image in one of the transfer syntaxes that the node negotiates.
struct Image {
    syntax: &'static TransferSyntax,
    file: PathBuf,
}

const UNKNOWN: &str = "–";
const IDENTICAL: &str = "identical";

#[tokio::test(flavor = "multi_thread")]
async fn every_peer_stores_what_it_can_and_the_table_says_what() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let images = images(folder.path());
    let apart = folder.path().join("services");
    let services = tokio::task::spawn_blocking(move || services::asked(&apart));
    let mut columns = Vec::new();
    for sender in &SENDERS {
        let door = Door::open(|_| ()).await;
        let way = Way::plain(door.port);
        assert!((sender.echo)(&way), "{}: no answer to C-ECHO", sender.name);
        (sender.store)(&way, &images);
        columns.push((sender.name, arrived(&door, &images)));
        door.close().await;
    }
    columns.insert(2, ("Orthanc", from_orthanc(folder.path(), &images).await));
    let received = reports_out(folder.path()).await;
    for (syntax, cell) in images.iter().zip(&columns.last().expect("pynetdicom").1) {
        assert_eq!(cell, IDENTICAL, "pynetdicom in {}", syntax.syntax.name);
    }
    let secure = secure::over_tls(folder.path(), &images, &columns).await;
    let services = services.await.expect("no panic");
    compare_with_docs("interoperability.md", &table(&images, &columns, &received, &secure, &services));
}

fn images(folder: &Path) -> Vec<Image> {
    let made = folder.join("made");
    run_ok(Command::new(reference_python()).arg(root().join("tests/reference/syntaxes.py")).arg(&made));
    let image = |syntax: &'static TransferSyntax| {
        let file = made.join(format!("{}.dcm", syntax.uid));
        assert!(file.is_file(), "syntaxes.py knows nothing of {}", syntax.name);
        Image { syntax, file }
    };
    transfer_syntaxes().iter().map(image).collect()
}

impl Image {
    /// The instance UID, from the meta group: dcmtk does not read every transfer syntax.
    fn instance(&self) -> String {
        let (meta, _) = split(&self.file).expect("a file with a meta group");
        meta.media_storage_sop_instance_uid.trim_end_matches('\0').to_owned()
    }
}

/// Orthanc takes the files over HTTP and sends them on.
async fn from_orthanc(folder: &Path, images: &[Image]) -> Vec<String> {
    let door = Door::open(|setup| setup.sources.push(source("ORTHANC", &["127.0.0.1"]))).await;
    let settings = json!({"DicomModalities": {"sidelight": ["SIDELIGHT", "127.0.0.1", door.port]}});
    let orthanc = Orthanc::start(&folder.join("sending"), &settings, &[]);
    orthanc_sends(&orthanc, images);
    arrived(&door, images)
}

fn orthanc_sends(orthanc: &Orthanc, images: &[Image]) {
    assert!(orthanc.post("/modalities/sidelight/echo", b"{}").is_some(), "Orthanc: no answer to C-ECHO");
    for image in images {
        let bytes = fs::read(&image.file).expect("a readable file");
        let Some(instance) = orthanc.post("/instances", &bytes) else { continue };
        let id = instance["ID"].as_str().expect("an id").to_owned();
        orthanc.post("/modalities/sidelight/store", id.as_bytes());
    }
}

/// What is stored of each image: nothing, its bytes, or the same values in other bytes.
fn arrived(door: &Door, images: &[Image]) -> Vec<String> {
    let stored: Vec<Option<PathBuf>> = images.iter().map(|image| door.stored(&image.instance())).collect();
    let cell = |(image, stored): (&Image, &Option<PathBuf>)| {
        let Some(stored) = stored else { return UNKNOWN.to_owned() };
        let (meta, _) = split(stored).expect("a file with a meta group");
        let syntax = meta.transfer_syntax.trim_end_matches('\0');
        match transfer_syntaxes().iter().find(|known| known.uid == syntax) {
            Some(syntax) if syntax.uid != image.syntax.uid => format!("as {}", syntax.name),
            _ => compared(&image.file, stored),
        }
    };
    images.iter().zip(&stored).map(cell).collect()
}

/// Two data sets in words; pydicom says of those with other bytes whether the values are the same.
fn compared(ours: &Path, theirs: &Path) -> String {
    let data_set = |file: &Path| split(file).expect("a file with a meta group").1;
    if data_set(ours) == data_set(theirs) {
        return IDENTICAL.into();
    }
    let verdict = run_ok(pynetdicom(None).arg("same").args([ours, theirs]));
    if verdict.trim() == "yes" { "same values".into() } else { format!("differs in {}", verdict.trim()) }
}

/// A report to each peer that can receive one, in each transfer syntax that a report is sent in.
async fn reports_out(folder: &Path) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for (name, option) in [("Explicit VR Little Endian", "+xe"), ("Implicit VR Little Endian", "+xi")] {
        let pacs = Pacs::start_with(&folder.join(option), free_port(), &["--bit-preserving", option]);
        let report = send_report("PACS", pacs.port, &no_tls(), None).await;
        let [file] = &pacs.files()[..] else { panic!("one report: {:?}", pacs.files()) };
        rows.push(["storescp".into(), "yes".into(), name.into(), outcome(&report, file)]);

        let syntax = transfer_syntaxes().iter().find(|syntax| syntax.name == name).expect("a syntax of the table");
        let kept = TempDir::new().expect("a folder");
        let port = free_port();
        let mut command = pynetdicom(None);
        command.args(["serve", &port.to_string(), &kept.path().display().to_string(), syntax.uid]);
        let _peer = Running(command.spawn().expect("Python starts"));
        wait_for("pynetdicom listens", Duration::from_secs(30), || listens(port));
        let report = send_report("PACS", port, &no_tls(), None).await;
        let file = kept.path().join(format!("{}.dcm", report.sop_instance));
        rows.push(["pynetdicom".into(), "yes".into(), name.into(), outcome(&report, &file)]);
    }
    let orthanc = Orthanc::start(&folder.join("receiving"), &json!({}), &[]);
    let report = send_report("ORTHANC", orthanc.dicom_port, &no_tls(), None).await;
    let file = orthancs_report(&orthanc, folder, &json!([]));
    rows.push(["Orthanc".into(), "yes".into(), "Explicit VR Little Endian".into(), outcome(&report, &file)]);
    rows.sort();
    rows
}

/// What Orthanc has beside these, a single instance, as a file.
fn orthancs_report(orthanc: &Orthanc, folder: &Path, before: &serde_json::Value) -> PathBuf {
    let instances = orthanc.get("/instances").expect("a list");
    let before = before.as_array().expect("a list");
    let new: Vec<_> = instances.as_array().expect("a list").iter().filter(|id| !before.contains(id)).collect();
    let [id] = new[..] else { panic!("one report: {new:?}") };
    let file = folder.join("from-orthanc.dcm");
    let bytes = orthanc.bytes(&format!("/instances/{}/file", id.as_str().expect("an id"))).expect("the report");
    fs::write(&file, bytes).expect("writable");
    file
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// C-ECHO, then C-STORE; the report in the class that was taken.
async fn send_report(title: &str, port: u16, tls: &Arc<Tls>, peer: Option<PeerTls>) -> Report {
    let destination = Destination {
        name: "peer".into(),
        endpoint: Endpoint::Dimse {
            ae_title: AeTitle::parse(title).expect("a valid title"),
            host: "127.0.0.1".into(),
            port,
            tls: peer,
        },
        audit: false,
        disclose: Disclosure::Withheld,
        timeout: Duration::from_secs(30),
        associations_max: 1,
        per_minute_max: None,
        commitment: None,
    };
    let calling = AeTitle::parse("SIDELIGHT").expect("a valid title");
    deliver::probe(&destination, tls, &calling).await.expect("an answer to C-ECHO");
    let mut reports = alternatives();
    let files: Vec<ReportFile> = reports.iter().map(ReportFile::from).collect();
    let sent = deliver::send(Mode::Active, &destination, tls, &calling, &files).await.expect("a delivery");
    assert_eq!(sent.status, Status::SUCCESS);
    reports.swap_remove(sent.index)
}

/// What a peer keeps of a report.
fn outcome(report: &Report, received: &Path) -> String {
    let sent = received.with_extension("sent");
    fs::write(&sent, &report.file).expect("writable");
    compared(&sent, received)
}

fn table(
    images: &[Image],
    columns: &[(&str, Vec<String>)],
    received: &[[String; 4]],
    (secure_in, secure_out): &(Vec<secure::Row>, Vec<secure::Row>),
    services: &[services::Row],
) -> String {
    let mut text = String::from(
        "# Interoperability\n\n\
         What real peers and the node did with each other, written by `scripts/test interop` (`SIDELIGHT_BLESS=1`);\n\
         the test fails where it comes out otherwise. Peers: dcmtk 3.6.7 (storescu, dcmsend, storescp, echoscu,\n\
         findscu, getscu), Orthanc 1.10.1, pynetdicom 3.0.4, gdcmscu 3.0.21, dicomweb-client 0.61.2, curl 7.88.1.\n\n\
         ## In: objects that a peer sends\n\n\
         Each peer sends C-ECHO, which the node answers, and an image in each transfer syntax that the node\n\
         negotiates. \"Identical\": the data set is stored with the bytes of the sender's file. \"Same values\": the\n\
         peer encodes anew what it has read, and pydicom finds every value unchanged. \"As …\": the peer converts\n\
         before it sends. \"–\": the peer does not know the syntax, or does not offer it.\n\n| Transfer syntax |",
    );
    for (name, _) in columns {
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(columns.len()));
    for (row, image) in images.iter().enumerate() {
        let _ = write!(text, "\n| {} |", image.syntax.name);
        for (_, cells) in columns {
            let _ = write!(text, " {} |", cells[row]);
        }
    }
    text.push_str(
        "\n\n## Out: reports that the node sends\n\n\
         What the peer keeps, compared with the node's own file as above.\n\n\
         | Peer | C-ECHO | Transfer syntax | Report (Comprehensive 3D SR) |\n|---|---|---|---|\n",
    );
    for row in received {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push_str(
        "\n## Over TLS\n\n\
         Each peer with its certificate, once with TLS 1.3 alone and once with 1.2 alone; what was agreed on is read off\n\
         the wire. What is kept of each object is the same as in the clear. dcmsend 3.6.7 and gdcmscu do not speak TLS.\n\n\
         In, by the number of transfer syntaxes:\n\n\
         | Peer | TLS | Cipher suite | C-ECHO | Objects kept |\n|---|---|---|---|---|\n",
    );
    for row in secure_in {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push_str(
        "\nOut:\n\n\
         | Peer | TLS | Cipher suite | C-ECHO | Report (Comprehensive 3D SR) |\n|---|---|---|---|---|\n",
    );
    for row in secure_out {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push_str(
        "\n## Queries, retrieval, commitment and DICOMweb\n\n\
         Of a node that has analysed a study, whose report is asked for. \"–\": the peer cannot ask.\n\n\
         | Service | Peer | In the clear | Over TLS |\n|---|---|---|---|\n",
    );
    for row in services {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}
