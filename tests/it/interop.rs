//! Real peers and the node, in and out: which transfer syntaxes each can send, and whether what is stored is what it
//! sent.
//!
//! `tests/reference/syntaxes.py` writes an image in every transfer syntax that the node negotiates, `peer.py` is
//! pynetdicom. The table of what was observed is kept in `docs/interoperability.md`: the test fails where it differs,
//! and writes it anew with `SIDELIGHT_BLESS=1`. A peer that does not know a syntax, and so never offers it, is told
//! from a node that does not take it: pynetdicom sends them all.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sidelight::config::{Destination, Endpoint, Mode};
use sidelight::deliver::{self, ReportFile};
use sidelight::dicom::{Status, TransferSyntax, transfer_syntaxes};
use sidelight::domain::{AeTitle, Disclosure, Report};
use tempfile::TempDir;

use crate::orthanc::Orthanc;
use crate::receive::scu::{Door, source, split};
use crate::report::alternatives;
use crate::report::deliver::no_tls;
use crate::support::{Pacs, compare_with_docs, free_port, reference_python, root, run, run_ok, wait_for};

/// An image in one of the transfer syntaxes that the node negotiates.
struct Image {
    syntax: &'static TransferSyntax,
    file: PathBuf,
}

/// A peer that sends.
struct Sender {
    name: &'static str,
    echo: fn(u16) -> bool,
    store: fn(u16, &[Image]),
}

const SENDERS: [Sender; 4] = [
    Sender { name: "storescu", echo: echoscu, store: storescu },
    Sender { name: "dcmsend", echo: echoscu, store: dcmsend },
    Sender { name: "gdcmscu", echo: gdcm_echo, store: gdcm_store },
    Sender { name: "pynetdicom", echo: pynetdicom_echo, store: pynetdicom_store },
];

const UNKNOWN: &str = "–";
const IDENTICAL: &str = "identical";

#[tokio::test(flavor = "multi_thread")]
async fn every_peer_stores_what_it_can_and_the_table_says_what() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let images = images(folder.path());
    let mut columns = Vec::new();
    for sender in &SENDERS {
        let door = Door::open(|_| ()).await;
        assert!((sender.echo)(door.port), "{}: no answer to C-ECHO", sender.name);
        (sender.store)(door.port, &images);
        columns.push((sender.name, arrived(&door, &images)));
        door.close().await;
    }
    columns.insert(2, ("Orthanc", from_orthanc(folder.path(), &images).await));
    let received = reports_out(folder.path()).await;
    for (syntax, cell) in images.iter().zip(&columns.last().expect("pynetdicom").1) {
        assert_eq!(cell, IDENTICAL, "pynetdicom in {}", syntax.syntax.name);
    }
    compare_with_docs("interoperability.md", &table(&images, &columns, &received));
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

/// A tool of a peer with its arguments. Whether it succeeded says little: some end well when they sent nothing.
fn tool(name: &str, arguments: &[&str], file: Option<&Path>) -> bool {
    run(Command::new(name).env("TCP_NODELAY", "1").args(arguments).args(file)).status.success()
}

fn echoscu(port: u16) -> bool {
    tool("echoscu", &["-aet", "PACS", "-aec", "SIDELIGHT", "127.0.0.1", &port.to_string()], None)
}

fn storescu(port: u16, images: &[Image]) {
    let port = port.to_string();
    for Image { syntax, file } in images {
        // It is told what to propose; without an option of its own, a syntax is one that it does not know.
        let propose = match syntax.uid.trim_start_matches("1.2.840.10008.1.2") {
            "" => "-xi",
            ".1" => "-xe",
            ".2" => "-xb",
            ".1.99" => "-xd",
            ".5" => "-xr",
            ".4.50" => "-xy",
            ".4.51" => "-xx",
            ".4.70" => "-xs",
            ".4.80" => "-xt",
            ".4.81" => "-xu",
            ".4.90" => "-xv",
            ".4.91" => "-xw",
            _ => "-x=",
        };
        tool("storescu", &[propose, "-aet", "PACS", "-aec", "SIDELIGHT", "127.0.0.1", &port], Some(file));
    }
}

fn dcmsend(port: u16, images: &[Image]) {
    for image in images {
        let arguments = ["-dn", "-aet", "PACS", "-aec", "SIDELIGHT", "127.0.0.1", &port.to_string()];
        tool("dcmsend", &arguments, Some(&image.file));
    }
}

/// gdcmscu 3.0.21 ends with an exception after every release, whoever confirms it: what it read before is what counts,
/// the answer (PDU type 4) and the confirmation of the release (6).
fn gdcm_echo(port: u16) -> bool {
    let port = port.to_string();
    let to = ["-D", "--echo", "--aetitle", "PACS", "--call", "SIDELIGHT", "-H", "127.0.0.1", "-p", &port];
    let output = run(Command::new("gdcmscu").args(to));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ["Received ItemType #4", "Received ItemType #6"].iter().all(|line| said.contains(line))
}

fn gdcm_store(port: u16, images: &[Image]) {
    let port = port.to_string();
    for image in images {
        let to = ["--store", "--aetitle", "PACS", "--call", "SIDELIGHT", "-H", "127.0.0.1", "-p", &port, "-i"];
        tool("gdcmscu", &to, Some(&image.file));
    }
}

fn pynetdicom(arguments: &[&str]) -> Command {
    let mut command = Command::new(reference_python());
    command.arg(root().join("tests/reference/peer.py")).args(arguments);
    command
}

fn pynetdicom_echo(port: u16) -> bool {
    let said = run_ok(&mut pynetdicom(&["send", &port.to_string()]));
    serde_json::from_str::<Value>(&said).expect("JSON")["echo"] == 0
}

fn pynetdicom_store(port: u16, images: &[Image]) {
    let files = images.iter().map(|image| &image.file);
    run_ok(pynetdicom(&["send", &port.to_string()]).args(files));
}

/// Orthanc takes the files over HTTP and sends them on.
async fn from_orthanc(folder: &Path, images: &[Image]) -> Vec<String> {
    let door = Door::open(|setup| setup.sources.push(source("ORTHANC", &["127.0.0.1"]))).await;
    let orthanc = Orthanc::start(&folder.join("sending"), door.port, free_port());
    assert!(orthanc.post("/modalities/sidelight/echo", b"{}").is_some(), "Orthanc: no answer to C-ECHO");
    for image in images {
        let bytes = fs::read(&image.file).expect("a readable file");
        let Some(instance) = orthanc.post("/instances", &bytes) else { continue };
        let id = instance["ID"].as_str().expect("an id").to_owned();
        orthanc.post("/modalities/sidelight/store", id.as_bytes());
    }
    arrived(&door, images)
}

/// What is stored of each image: nothing, its bytes, or the same values in other bytes.
fn arrived(door: &Door, images: &[Image]) -> Vec<String> {
    let stored: Vec<Option<PathBuf>> = images.iter().map(|image| door.stored(&image.instance())).collect();
    let data_set = |file: &Path| split(file).expect("a file with a meta group").1;
    let mut same = values_are_the_same(images.iter().zip(&stored).filter_map(|(i, s)| Some((&i.file, s.as_ref()?))));
    let cell = |(image, stored): (&Image, &Option<PathBuf>)| {
        let Some(stored) = stored else { return UNKNOWN.to_owned() };
        let verdict = same.next().expect("a verdict for each that is stored");
        let (meta, _) = split(stored).expect("a file with a meta group");
        let syntax = meta.transfer_syntax.trim_end_matches('\0');
        match transfer_syntaxes().iter().find(|known| known.uid == syntax) {
            Some(syntax) if syntax.uid != image.syntax.uid => format!("as {}", syntax.name),
            _ if data_set(stored) == data_set(&image.file) => IDENTICAL.to_owned(),
            _ if verdict == "yes" => "same values".to_owned(),
            _ => format!("differs in {verdict}"),
        }
    };
    images.iter().zip(&stored).map(cell).collect()
}

/// What pydicom says of pairs of files.
fn values_are_the_same<'a>(pairs: impl Iterator<Item = (&'a PathBuf, &'a PathBuf)>) -> std::vec::IntoIter<String> {
    let list: String = pairs.map(|(a, b)| format!("{}\t{}\n", a.display(), b.display())).collect();
    let mut judge = pynetdicom(&["same"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
    judge.stdin.take().expect("a pipe").write_all(list.as_bytes()).expect("an open pipe");
    let output = judge.wait_with_output().expect("an end");
    assert!(output.status.success());
    let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.into_iter()
}

/// A process that is ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A report to each peer that can receive one, in each transfer syntax that a report is sent in.
async fn reports_out(folder: &Path) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for (name, option) in [("Explicit VR Little Endian", "+xe"), ("Implicit VR Little Endian", "+xi")] {
        let pacs = Pacs::start_with(&folder.join(option), free_port(), &["--bit-preserving", option]);
        let report = send_report("PACS", pacs.port).await;
        let [file] = &pacs.files()[..] else { panic!("one report: {:?}", pacs.files()) };
        rows.push(["storescp".into(), "yes".into(), name.into(), outcome(&report, file)]);

        let syntax = transfer_syntaxes().iter().find(|syntax| syntax.name == name).expect("a syntax of the table");
        let kept = TempDir::new().expect("a folder");
        let port = free_port();
        let command = &mut pynetdicom(&["serve", &port.to_string(), &kept.path().display().to_string(), syntax.uid]);
        let _peer = Running(command.spawn().expect("Python starts"));
        wait_for("pynetdicom listens", Duration::from_secs(30), || listens(port));
        let report = send_report("PACS", port).await;
        let file = kept.path().join(format!("{}.dcm", report.sop_instance));
        rows.push(["pynetdicom".into(), "yes".into(), name.into(), outcome(&report, &file)]);
    }
    let port = free_port();
    let orthanc = Orthanc::start(&folder.join("receiving"), free_port(), port);
    let report = send_report("ORTHANC", port).await;
    let instances = orthanc.get("/instances").expect("a list");
    let id = instances[0].as_str().expect("an id").to_owned();
    let file = folder.join("from-orthanc.dcm");
    fs::write(&file, orthanc.bytes(&format!("/instances/{id}/file")).expect("the report")).expect("writable");
    rows.push(["Orthanc".into(), "yes".into(), "Explicit VR Little Endian".into(), outcome(&report, &file)]);
    rows.sort();
    rows
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// C-ECHO, then C-STORE; the report in the class that was taken.
async fn send_report(title: &str, port: u16) -> Report {
    let destination = Destination {
        name: "peer".into(),
        endpoint: Endpoint::Dimse {
            ae_title: AeTitle::parse(title).expect("a valid title"),
            host: "127.0.0.1".into(),
            port,
            tls: None,
        },
        audit: false,
        disclose: Disclosure::Withheld,
        timeout: Duration::from_secs(30),
        associations_max: 1,
        per_minute_max: None,
        commitment: None,
    };
    let calling = AeTitle::parse("SIDELIGHT").expect("a valid title");
    deliver::probe(&destination, &no_tls(), &calling).await.expect("an answer to C-ECHO");
    let mut reports = alternatives();
    let files: Vec<ReportFile> = reports.iter().map(ReportFile::from).collect();
    let sent = deliver::send(Mode::Active, &destination, &no_tls(), &calling, &files).await.expect("a delivery");
    assert_eq!(sent.status, Status::SUCCESS);
    reports.swap_remove(sent.index)
}

/// What a peer keeps of a report.
fn outcome(report: &Report, received: &Path) -> String {
    let sent = received.with_extension("sent");
    fs::write(&sent, &report.file).expect("writable");
    let data_set = |file: &Path| split(file).expect("a file with a meta group").1;
    if data_set(&sent) == data_set(received) {
        return IDENTICAL.into();
    }
    let pair = (sent, received.to_owned());
    let verdict = values_are_the_same([(&pair.0, &pair.1)].into_iter()).next().expect("a verdict");
    if verdict == "yes" { "same values".into() } else { format!("differs in {verdict}") }
}

fn table(images: &[Image], columns: &[(&str, Vec<String>)], received: &[[String; 4]]) -> String {
    let mut text = String::from(
        "# Interoperability\n\n\
         What real peers and the node did with each other, written by `scripts/test interop` (`SIDELIGHT_BLESS=1`);\n\
         the test fails where it comes out otherwise. Peers: dcmtk 3.6.7 (storescu, dcmsend, storescp, echoscu),\n\
         Orthanc 1.10.1, pynetdicom 3.0.4, gdcmscu 3.0.21.\n\n\
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
    text
}
