//! Orthanc as the PACS: an autorouting rule forwards a study, the report returns and sits under the same study.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Node, NodeOptions, element, free_port, phantoms, storescu, wait_for};

pub struct Orthanc {
    child: Child,
    dicom_port: u16,
    http_port: u16,
}

impl Orthanc {
    /// Starts Orthanc with a rule that forwards every instance that did not come from sidelight itself.
    pub fn start(folder: &Path, sidelight_port: u16, dicom_port: u16) -> Self {
        let http_port = free_port();
        fs::create_dir_all(folder).expect("writable");
        let rule = folder.join("route.lua");
        fs::write(
            &rule,
            "function OnStoredInstance(instanceId, tags, metadata, origin)\n\
               if origin['RequestOrigin'] == 'DicomProtocol' and origin['RemoteAet'] ~= 'SIDELIGHT' then\n\
                 SendToModality(instanceId, 'sidelight')\n\
               end\n\
             end\n",
        )
        .expect("writable");
        let configuration = json!({
            "Name": "PACS", "DicomAet": "ORTHANC", "DicomPort": dicom_port, "HttpPort": http_port,
            "StorageDirectory": folder.join("db"), "IndexDirectory": folder.join("db"),
            "RemoteAccessAllowed": false, "AuthenticationEnabled": false,
            "DicomAlwaysAllowStore": true, "DicomCheckCalledAet": false, "Plugins": [],
            "LuaScripts": [rule],
            "DicomModalities": { "sidelight": ["SIDELIGHT", "127.0.0.1", sidelight_port] }
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
        let orthanc = Self { child, dicom_port, http_port };
        wait_for("Orthanc answers", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", http_port)).is_ok()
                && TcpStream::connect(("127.0.0.1", dicom_port)).is_ok()
                && orthanc.get("/system").is_some()
        });
        orthanc
    }

    /// `GET path` of Orthanc's REST interface.
    pub fn get(&self, path: &str) -> Option<Value> {
        serde_json::from_slice(&self.bytes(path)?).ok()
    }

    /// `GET path`, whatever it is.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.ask("GET", path, &[])
    }

    /// `POST path` with a file or a command.
    pub fn post(&self, path: &str, body: &[u8]) -> Option<Value> {
        serde_json::from_slice(&self.ask("POST", path, body)?).ok()
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).ok()?;
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n").ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        answer.starts_with(b"HTTP/1.1 200").then(|| answer.split_off(head + 4))
    }
}

impl Drop for Orthanc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn orthanc_forwards_a_study_and_finds_the_report_under_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 41);
    let dicom_port = free_port();
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["ORTHANC"],
        destinations: &[("pacs", "ORTHANC", dicom_port, true, "withheld")],
        quiet_period: "2s",
        extra: "",
    });
    let orthanc = Orthanc::start(&folder.path().join("orthanc"), node.dicom_port, dicom_port);
    let sent = storescu(orthanc.dicom_port, &[], &files);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));

    let studies = |orthanc: &Orthanc| -> Vec<Value> {
        let ids = orthanc.get("/studies").unwrap_or_default();
        let ids = ids.as_array().cloned().unwrap_or_default();
        ids.iter().filter_map(|id| orthanc.get(&format!("/studies/{}", id.as_str()?))).collect()
    };
    let report_series = |orthanc: &Orthanc, study: &Value| -> Vec<Value> {
        let series = study["Series"].as_array().cloned().unwrap_or_default();
        series
            .iter()
            .filter_map(|id| orthanc.get(&format!("/series/{}", id.as_str()?)))
            .filter(|s| s["MainDicomTags"]["Modality"] == "SR")
            .collect()
    };
    wait_for("each study in Orthanc has a report", Duration::from_secs(90), || {
        let found = studies(&orthanc);
        found.len() == 2 && found.iter().all(|s| !report_series(&orthanc, s).is_empty())
    });
    wait_for("every study is delivered", Duration::from_secs(30), || {
        node.studies().iter().all(|s| s["state"] == "delivered")
    });
    let uids: Vec<String> = files.iter().map(|f| element(f, "StudyInstanceUID")).collect();
    for study in studies(&orthanc) {
        let uid = study["MainDicomTags"]["StudyInstanceUID"].as_str().expect("a UID").to_owned();
        assert!(uids.contains(&uid), "the report opened no study of its own");
        let reports = report_series(&orthanc, &study);
        assert_eq!(reports.len(), 1, "one report series per study");
        assert_eq!(reports[0]["MainDicomTags"]["Manufacturer"], "sidelight");
    }
}
