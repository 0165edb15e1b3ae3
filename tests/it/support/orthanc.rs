//! Orthanc as a process of its own, asked over its REST interface.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::certificates::{Authority, Identity};
use super::{free_port, wait_for};

/// Ended when dropped.
pub struct Orthanc {
    child: Child,
    pub dicom_port: u16,
    pub http_port: u16,
}

/// The settings with which it speaks TLS on its DICOM port, and asks for certificates of `authority`.
pub fn over_tls(identity: &Identity, authority: &Authority) -> Value {
    json!({
        "DicomTlsEnabled": true, "DicomTlsRemoteCertificateRequired": true,
        "DicomTlsCertificate": identity.certificate, "DicomTlsPrivateKey": identity.key,
        "DicomTlsTrustedCertificates": authority.certificate,
    })
}

impl Orthanc {
    /// Starts it in a folder, with these settings before its usual ones and this in its environment.
    pub fn start(folder: &Path, settings: &Value, environment: &[(&str, &Path)]) -> Self {
        fs::create_dir_all(folder).expect("writable");
        let mut all = json!({
            "Name": "PACS", "DicomAet": "ORTHANC", "DicomPort": free_port(), "HttpPort": free_port(),
            "StorageDirectory": folder.join("db"), "IndexDirectory": folder.join("db"),
            "RemoteAccessAllowed": false, "AuthenticationEnabled": false,
            "DicomAlwaysAllowStore": true, "DicomCheckCalledAet": false, "Plugins": [],
        });
        for (key, value) in settings.as_object().expect("settings by name") {
            all[key] = value.clone();
        }
        let port = |key: &str| all[key].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let (dicom_port, http_port) = (port("DicomPort"), port("HttpPort"));
        let file = folder.join("orthanc.json");
        fs::write(&file, all.to_string()).expect("writable");
        let child = Command::new("Orthanc")
            .arg(&file)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Orthanc is installed");
        let orthanc = Self { child, dicom_port, http_port };
        wait_for("Orthanc answers", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", dicom_port)).is_ok() && orthanc.get("/system").is_some()
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

    /// Whether there is nothing at `path` that could be posted to.
    pub fn knows_not(&self, path: &str) -> bool {
        self.answer("POST", path, b"{}").is_some_and(|answer| answer.starts_with(b"HTTP/1.1 404"))
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut answer = self.answer(method, path, body)?;
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        answer.starts_with(b"HTTP/1.1 200").then(|| answer.split_off(head + 4))
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).ok()?;
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n").ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Orthanc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
