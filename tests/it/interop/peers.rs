//! The peers: how each is told to call the node, in the clear or over TLS.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;

use super::Image;
use crate::support::certificates::Identity;
use crate::support::{reference_python, root, run, run_ok};

/// How the node is reached.
pub struct Way {
    pub port: u16,
    pub tls: Option<Secured>,
}

/// What a peer has for TLS.
#[derive(Clone)]
pub struct Secured {
    pub identity: Identity,
    pub authority: PathBuf,
    /// A configuration of OpenSSL, which all of them use, that limits its versions.
    pub limits: PathBuf,
}

/// A peer that sends.
pub struct Sender {
    pub name: &'static str,
    pub speaks_tls: bool,
    pub echo: fn(&Way) -> bool,
    pub store: fn(&Way, &[Image]),
}

pub const SENDERS: [Sender; 4] = [
    Sender { name: "storescu", speaks_tls: true, echo: echoscu, store: storescu },
    Sender { name: "dcmsend", speaks_tls: false, echo: echoscu, store: dcmsend },
    Sender { name: "gdcmscu", speaks_tls: false, echo: gdcm_echo, store: gdcm_store },
    Sender { name: "pynetdicom", speaks_tls: true, echo: pynetdicom_echo, store: pynetdicom_store },
];

impl Way {
    pub fn plain(port: u16) -> Self {
        Self { port, tls: None }
    }

    /// A tool of dcmtk that calls the node, with what comes before the peer's address and what behind it.
    pub fn dcmtk(&self, name: &str, before: &[&str], behind: &[&str]) -> Command {
        let mut command = Command::new(name);
        command.env("TCP_NODELAY", "1").args(before);
        if let Some(secured) = &self.tls {
            command.env("OPENSSL_CONF", &secured.limits);
            command.args(secured.identity.dcmtk()).arg("+cf").arg(&secured.authority);
        }
        command.args(["127.0.0.1", &self.port.to_string()]).args(behind);
        command
    }

    /// `peer.py`, which calls the node.
    pub fn pynetdicom(&self, command: &str) -> Command {
        let mut python = pynetdicom(self.tls.as_ref());
        python.arg(command).arg(self.port.to_string());
        python
    }
}

/// `peer.py`, over TLS where there is something for it.
pub fn pynetdicom(tls: Option<&Secured>) -> Command {
    let mut command = Command::new(reference_python());
    command.arg(root().join("tests/reference/peer.py"));
    if let Some(Secured { identity, authority, limits }) = tls {
        command.env("OPENSSL_CONF", limits).arg("tls").args([&identity.certificate, &identity.key, authority]);
    }
    command
}

/// Whether it succeeded says little: some end well when they sent nothing.
fn send(way: &Way, tool: &str, before: &[&str], file: &Path) {
    run(&mut way.dcmtk(
        tool,
        &[before, &["-aet", "PACS", "-aec", "SIDELIGHT"]].concat(),
        &[&file.display().to_string()],
    ));
}

fn echoscu(way: &Way) -> bool {
    run(&mut way.dcmtk("echoscu", &["-aet", "PACS", "-aec", "SIDELIGHT"], &[])).status.success()
}

fn storescu(way: &Way, images: &[Image]) {
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
        send(way, "storescu", &[propose], file);
    }
}

fn dcmsend(way: &Way, images: &[Image]) {
    for image in images {
        send(way, "dcmsend", &["-dn"], &image.file);
    }
}

/// gdcmscu 3.0.21 ends with an exception after every release, whoever confirms it: what it read before is what counts,
/// the answer (PDU type 4) and the confirmation of the release (6).
fn gdcm_echo(way: &Way) -> bool {
    let port = way.port.to_string();
    let to = ["-D", "--echo", "--aetitle", "PACS", "--call", "SIDELIGHT", "-H", "127.0.0.1", "-p", &port];
    let output = run(Command::new("gdcmscu").args(to));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ["Received ItemType #4", "Received ItemType #6"].iter().all(|line| said.contains(line))
}

fn gdcm_store(way: &Way, images: &[Image]) {
    let port = way.port.to_string();
    for image in images {
        let to = ["--store", "--aetitle", "PACS", "--call", "SIDELIGHT", "-H", "127.0.0.1", "-p", &port, "-i"];
        run(Command::new("gdcmscu").args(to).arg(&image.file));
    }
}

fn pynetdicom_echo(way: &Way) -> bool {
    let said = run_ok(&mut way.pynetdicom("send"));
    serde_json::from_str::<Value>(&said).expect("JSON")["echo"] == 0
}

fn pynetdicom_store(way: &Way, images: &[Image]) {
    run_ok(way.pynetdicom("send").args(images.iter().map(|image| &image.file)));
}

/// A process that is ended when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
