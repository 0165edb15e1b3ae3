//! DICOMweb with real peers: dicomweb-client and Orthanc's plugin send, find, retrieve and receive.

mod hostile;
mod https;
mod orthanc;
mod tls;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Node, NodeOptions, configuration, element, phantoms, reference_python, root, run_ok, storescu, wait_for,
};

pub(crate) const TOKEN: &str = "token-of-the-tests-0123456789";
const QUERY_TOKEN: &str = "token-that-may-only-query-0123";

/// A node that one client may store to and query, and another one query; `edit` changes its configuration.
fn start(folder: &Path, extra: &str, edit: impl Fn(String) -> String) -> Node {
    fs::write(folder.join("token"), TOKEN).expect("writable");
    fs::write(folder.join("query-token"), QUERY_TOKEN).expect("writable");
    let clients = format!(
        "\n[[web_clients]]\nname = \"peer\"\ntoken_file = \"{0}/token\"\nmay = [\"store\", \"query\"]\n\
         ae_title = \"WEBPEER\"\nhosts = [\"127.0.0.1\"]\naudit = true\n\
         \n[[web_clients]]\nname = \"viewer\"\ntoken_file = \"{0}/query-token\"\nmay = [\"query\"]\n\
         ae_title = \"VIEWER\"\naudit = true\n{extra}",
        folder.display()
    );
    let options = NodeOptions {
        data_dir: &folder.join("data"),
        sources: &["STORESCU"],
        destinations: &[],
        quiet_period: "1s",
        extra: &clients,
    };
    let config = folder.join("data.toml");
    fs::write(&config, edit(configuration(&options))).expect("writable");
    Node::restart(&config)
}

/// An answer to a request that asked for `Connection: close`.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Sends bytes and reads to the end; `None` where the node closed without an answer.
fn exchange(port: u16, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a valid timeout");
    // The node may answer and close before it has read everything.
    let _ = stream.write_all(request);
    read_answer(&mut stream)
}

fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: bytes[at + 4..].to_vec() })
}

fn get(port: u16, path: &str, token: &str, accept: &str) -> Answer {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nAccept: {accept}\r\n\r\n"
    );
    exchange(port, request.as_bytes()).expect("an answer")
}

/// A multipart body of whole files.
fn multipart(files: &[Vec<u8>]) -> Vec<u8> {
    let part = |file: &Vec<u8>| [&b"--b1\r\nContent-Type: application/dicom\r\n\r\n"[..], file, b"\r\n"].concat();
    [files.iter().flat_map(part).collect::<Vec<u8>>(), b"--b1--\r\n".to_vec()].concat()
}

/// `POST path` with further header lines, each with its CRLF.
fn post(path: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n{lines}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn stow_lines() -> String {
    format!(
        "Authorization: Bearer {TOKEN}\r\n\
         Content-Type: multipart/related; type=\"application/dicom\"; boundary=b1\r\n"
    )
}

/// Stores files by STOW-RS.
fn stow(port: u16, path: &str, files: &[Vec<u8>]) -> Answer {
    exchange(port, &post(path, &stow_lines(), &multipart(files))).expect("an answer")
}

#[test]
fn a_reload_shuts_dicomweb_and_shows_nothing_that_the_mode_withholds() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = start(folder.path(), "", |c| c);
    let asked = |token: &str| get(node.web_port, "/dicomweb/studies", token, "*/*").status;
    let reload = |change: &dyn Fn(String) -> String| {
        let text = fs::read_to_string(&node.config).expect("readable");
        fs::write(&node.config, change(text)).expect("writable");
        let loaded = || node.log().matches("the configuration was loaded again").count();
        let before = loaded();
        node.signal("HUP");
        wait_for("the configuration is loaded again", Duration::from_secs(30), || loaded() > before);
    };
    assert_eq!((asked(TOKEN), asked(QUERY_TOKEN)), (200, 200));
    // In the file the node is active and the viewer no part of the audit; the node stays in shadow mode.
    let viewer = "ae_title = \"VIEWER\"\naudit = true";
    reload(&|text| text.replace(viewer, "ae_title = \"VIEWER\"").replace("[node]", "[node]\nmode = \"active\""));
    assert!(node.log().contains("changes here need a restart"));
    assert_eq!((asked(TOKEN), asked(QUERY_TOKEN)), (200, 403));
    reload(&|text| text.replace("dicomweb = true", "dicomweb = false"));
    assert_eq!((asked(TOKEN), asked(QUERY_TOKEN)), (401, 401));
    assert_eq!(get(node.web_port, "/ready", TOKEN, "*/*").status, 200);
    assert!(node.stop().success());
}

fn client(node: &Node, arguments: &[&str]) -> Value {
    let text = run_ok(
        Command::new(reference_python())
            .arg(root().join("tests/it/web/client.py"))
            .args([&format!("http://127.0.0.1:{}/dicomweb", node.web_port), TOKEN])
            .args(arguments),
    );
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn reports(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join("data/reports")).expect("the node has made it");
    files.map(|entry| entry.expect("readable").path()).collect()
}

#[test]
fn dicomweb_client_sends_images_and_pulls_their_reports() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 43);
    let node = start(folder.path(), "", |c| c);
    let paths: Vec<&str> = files.iter().map(|f| f.to_str().expect("UTF-8")).collect();
    let stored = client(&node, &[&["store"], &paths[..]].concat());
    assert_eq!(stored, json!({"stored": files.len(), "failed": []}));
    wait_for("both studies are reported", Duration::from_secs(60), || {
        node.studies().iter().filter(|s| s["state"] == "delivered").count() == 2
    });
    assert!(node.studies().iter().all(|s| s["source"] == "WEBPEER"), "{:?}", node.studies());

    let found = |arguments: &[&str]| -> Vec<String> {
        let uids = client(&node, &[&["search"], arguments].concat());
        uids.as_array().expect("a list").iter().map(|uid| uid.as_str().expect("a UID").to_owned()).collect()
    };
    let studies = found(&["study"]);
    assert_eq!(studies.len(), 2);
    let (study, patient) = (element(&files[0], "StudyInstanceUID"), element(&files[0], "PatientID"));
    let one = |pair: String| found(&["study", &pair]);
    assert_eq!(one(format!("StudyInstanceUID={study}")), std::slice::from_ref(&study));
    assert_eq!(one(format!("PatientID={patient}")), std::slice::from_ref(&study));
    assert_eq!(one(format!("PatientID={patient}?")), Vec::<String>::new());
    assert_eq!(one("PatientID=*".into()).len(), 2);
    assert_eq!(one("ModalitiesInStudy=CT".into()), Vec::<String>::new());
    assert_eq!(one("StudyDate=19000101-19001231".into()), Vec::<String>::new());
    assert_eq!(found(&["series", "Modality=SR"]).len(), 2);
    assert_eq!(found(&["instance", "SOPClassUID=1.2.840.10008.5.1.4.1.1.88.34"]).len(), 2, "the preferred class alone");
    assert_eq!(found(&["instance", "SOPClassUID=1.2.840.10008.5.1.4.1.1.88.33"]).len(), 0);

    let of_study = format!("StudyInstanceUID={study}");
    let instance = found(&["instance", &of_study]).remove(0);
    let held = folder.path().join(format!("data/reports/{instance}.dcm"));
    assert_eq!(client(&node, &["compare", &study, held.to_str().expect("UTF-8")]), json!([]));
    // By its UID another SOP class of the same report is there too.
    let all = reports(folder.path());
    assert_eq!(all.len(), 6);
    let of_this_study: Vec<_> = all.iter().filter(|f| element(f, "StudyInstanceUID") == study).collect();
    let other = of_this_study.iter().find(|f| ***f != held);
    let uid = other.expect("three of each").file_stem().expect("a name").to_string_lossy().into_owned();
    let series = element(&held, "SeriesInstanceUID");
    let path = format!("/dicomweb/studies/{study}/series/{series}/instances/{uid}");
    let answer = get(node.web_port, &path, QUERY_TOKEN, "multipart/related; type=\"application/dicom\"");
    assert_eq!(answer.status, 200);
    let file = fs::read(folder.path().join(format!("data/reports/{uid}.dcm"))).expect("kept");
    assert!(answer.body.windows(file.len()).any(|w| w == file), "the file as it is");
    for log_line in node.log().lines() {
        assert!(!log_line.contains(&patient) && !log_line.contains(TOKEN), "{log_line}");
    }
}

#[test]
fn an_object_is_the_same_by_either_road() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 44);
    let node = start(folder.path(), "", |c| c);
    let sent = storescu(node.dicom_port, &[], &files[..1]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let file = fs::read(&files[0]).expect("readable");
    let answer = stow(node.web_port, "/dicomweb/studies", std::slice::from_ref(&file));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.json()["00081199"]["Value"][0]["00081155"]["Value"][0], element(&files[0], "SOPInstanceUID"));
    let total = |node: &Node| {
        let count = |state: &str| node.metric(&format!("sidelight_instances{{state=\"{state}\"}}")).unwrap_or(0);
        // Counted once nothing moves from one state to another any more.
        wait_for("the objects are read", Duration::from_secs(60), || count("received") == 0);
        count("scored") + count("refused")
    };
    assert_eq!((total(&node), node.metric("sidelight_conflicts")), (1, Some(0)), "one copy, one job");

    // The same UID with other pixels is kept aside; beside it a good object is stored.
    let mut other = file.clone();
    *other.last_mut().expect("not empty") ^= 0x55;
    let good = fs::read(&files[1]).expect("readable");
    let answer = stow(node.web_port, "/dicomweb/studies", &[other.clone(), good]);
    assert_eq!(answer.status, 202);
    assert_eq!(answer.json()["00081198"]["Value"][0]["00081197"]["Value"][0], 0x0111);
    assert_eq!(answer.json()["00081199"]["Value"].as_array().map(Vec::len), Some(1));
    assert_eq!(stow(node.web_port, "/dicomweb/studies", &[other]).status, 409);
    assert_eq!((total(&node), node.metric("sidelight_conflicts")), (2, Some(1)));
}

#[test]
fn an_object_of_another_study_than_the_path_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 45);
    let node = start(folder.path(), "", |c| c);
    let read = |file: &PathBuf| fs::read(file).expect("readable");
    let own = element(&files[0], "StudyInstanceUID");
    assert_eq!(stow(node.web_port, &format!("/dicomweb/studies/{own}"), &[read(&files[0])]).status, 200);
    let last = files.last().expect("two patients");
    assert_ne!(element(last, "StudyInstanceUID"), own);
    assert_eq!(stow(node.web_port, &format!("/dicomweb/studies/{own}"), &[read(last)]).status, 200);
    wait_for("both objects are judged", Duration::from_secs(60), || {
        let closed = |s: &Value| s["state"] == "delivered" || s["state"] == "refused";
        node.studies().len() == 2 && node.studies().iter().all(closed)
    });
    for study in node.studies() {
        let refused = study["study"] != own.as_str();
        assert_eq!(study["instances_refused"], u64::from(refused), "{study}");
    }
    assert!(node.log().contains("another study than the one that it was stored into"));
}
