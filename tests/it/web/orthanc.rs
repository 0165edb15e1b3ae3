//! Orthanc's DICOMweb plugin as the archive that reports go to by STOW-RS, and as a sender.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::support::{free_port, sidelight};

struct Orthanc {
    child: Child,
    port: u16,
}

impl Orthanc {
    /// Starts Orthanc with its plugin on a port; it knows the node as the DICOMweb server `sidelight`.
    fn start(folder: &Path, port: u16, node: &Node) -> Self {
        fs::create_dir_all(folder).expect("writable");
        let plugin = ["/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins"]
            .iter()
            .map(|place| Path::new(place).join("libOrthancDicomWeb.so"))
            .find(|plugin| plugin.exists())
            .expect("orthanc-dicomweb is installed");
        let configuration = json!({
            "Name": "ARCHIVE", "DicomPort": free_port(), "HttpPort": port,
            "StorageDirectory": folder.join("db"), "IndexDirectory": folder.join("db"),
            "RemoteAccessAllowed": false, "AuthenticationEnabled": false, "Plugins": [plugin],
            "DicomWeb": {"Enable": true, "Root": "/dicom-web/", "Servers": {"sidelight": {
                "Url": format!("http://127.0.0.1:{}/dicomweb", node.web_port),
                "HttpHeaders": {"Authorization": format!("Bearer {TOKEN}")},
            }}},
        });
        let file = folder.join("orthanc.json");
        fs::write(&file, configuration.to_string()).expect("writable");
        let child = Command::new("Orthanc")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Orthanc is installed");
        let orthanc = Self { child, port };
        wait_for("Orthanc answers", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok() && orthanc.ask("GET", "/system", b"").is_some()
        });
        orthanc
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Option<Value> {
        let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = exchange(self.port, &[head.as_bytes(), body].concat())?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok())?
    }
}

impl Drop for Orthanc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn orthanc_takes_reports_and_sends_studies_by_stow() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 46);
    let port = free_port();
    let destination = format!(
        "\n[[destinations]]\nname = \"archive\"\nkind = \"stow\"\nurl = \"http://127.0.0.1:{port}/dicom-web\"\n\
         token_file = \"{}/token\"\naudit = true\n",
        folder.path().display()
    );
    let node = start(folder.path(), &destination, |c| c);
    let first = element(&files[0], "StudyInstanceUID");
    let own: Vec<PathBuf> = files.iter().filter(|f| element(f, "StudyInstanceUID") == first).cloned().collect();
    let sent = storescu(node.dicom_port, &[], &own);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    // Nobody listens there yet: the report waits.
    wait_for("a delivery was tried", Duration::from_secs(60), || node.log().contains("delivery failed"));
    let orthanc = Orthanc::start(&folder.path().join("orthanc"), port, &node);
    wait_for("the report is delivered", Duration::from_secs(60), || {
        node.studies().iter().any(|s| s["state"] == "delivered")
    });
    let find = |expected: &str| -> Vec<Value> {
        let query = json!({"Level": "Series", "Expand": true, "Query": {"Modality": expected}}).to_string();
        orthanc.ask("POST", "/tools/find", query.as_bytes()).and_then(|v| v.as_array().cloned()).unwrap_or_default()
    };
    let reports = find("SR");
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0]["MainDicomTags"]["Manufacturer"], "sidelight");

    // Orthanc sends the other study, and the report back: the one is analysed, the other known as our own.
    for file in files.iter().filter(|f| !own.contains(f)) {
        orthanc.ask("POST", "/instances", &fs::read(file).expect("readable")).expect("taken");
    }
    let studies = orthanc.ask("GET", "/studies", b"").expect("a list");
    let job = json!({"Resources": studies, "Synchronous": true}).to_string();
    orthanc
        .ask("POST", "/dicom-web/servers/sidelight/stow", job.as_bytes())
        .expect("Orthanc's STOW-RS client succeeds");
    wait_for("the second study is delivered too", Duration::from_secs(60), || {
        node.studies().iter().filter(|s| s["state"] == "delivered").count() == 2
    });
    assert_eq!(find("SR").len(), 2);
    assert_eq!(node.metric("sidelight_instances{state=\"refused\"}"), Some(1), "our own report");

    let checked = crate::support::run(
        sidelight(&["check", "--network", "--json", "--config"]).arg(folder.path().join("data.toml")),
    );
    let items: Vec<Value> = serde_json::from_slice(&checked.stdout).expect("JSON");
    let item = |what: &str| items.iter().find(|i| i["what"] == what).cloned().unwrap_or_default();
    assert_eq!(item("destination archive")["note"], "answers QIDO-RS", "{items:?}");
    assert_eq!(item("web_clients")["note"], "2 with their tokens", "{items:?}");
}
