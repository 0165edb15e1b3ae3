//! The same over TLS, each peer with each version: what is agreed is read off the wire, and what is kept has to be what
//! is kept in the clear.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sidelight::config::{self, PeerTls};
use sidelight::dicom::transfer_syntaxes;
use sidelight::wire::Tls;

use super::peers::{Running, SENDERS, Secured, Way, pynetdicom};
use super::relay::Relay;
use super::{Image, UNKNOWN, arrived, listens, orthanc_sends, orthancs_report, outcome, send_report};
use crate::receive::scu::{Door, source};
use crate::support::certificates::{Authority, Identity, NOW, settings};
use crate::support::orthanc::{self, Orthanc};
use crate::support::{dicom_files, free_port, wait_for};

/// An authority with a certificate for the node and one for its peers.
pub struct Certificates {
    pub authority: Authority,
    pub node: Identity,
    pub peer: Identity,
    folder: PathBuf,
}

/// Peer, version, cipher suite, C-ECHO, what is kept.
pub type Row = [String; 5];

/// Versions with the limit that a configuration of OpenSSL sets.
const VERSIONS: [(&str, &str); 2] = [("1.3", "MinProtocol = TLSv1.3"), ("1.2", "MaxProtocol = TLSv1.2")];

impl Certificates {
    pub fn new(folder: &Path) -> Self {
        let authority = Authority::new(folder, "authority");
        let (node, peer) = (authority.issue("node", &NOW), authority.issue("peer", &NOW));
        for (version, limit) in VERSIONS {
            let text = format!(
                "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = limits\n[limits]\n{limit}\n"
            );
            fs::write(folder.join(format!("tls-{version}.cnf")), text).expect("writable");
        }
        Self { authority, node, peer, folder: folder.to_owned() }
    }

    /// For a peer of this version.
    pub fn secured(&self, version: &str) -> Secured {
        let limits = self.folder.join(format!("tls-{version}.cnf"));
        Secured { identity: self.peer.clone(), authority: self.authority.certificate.clone(), limits }
    }

    fn settings(&self) -> config::Tls {
        settings(&self.node, &self.authority)
    }

    async fn door(&self) -> Door {
        Door::open(|setup| {
            setup.node.listen_tls = Some("127.0.0.1:0".parse().expect("an address"));
            setup.tls = self.settings();
            setup.sources.push(source("ORTHANC", &["127.0.0.1"]));
        })
        .await
    }
}

/// Objects in and reports out. `plain` is what each sender gets stored in the clear.
pub async fn over_tls(folder: &Path, images: &[Image], plain: &[(&str, Vec<String>)]) -> (Vec<Row>, Vec<Row>) {
    let certificates = Certificates::new(folder);
    let tls = Tls::load(&certificates.settings(), &[]).expect("usable files");
    let (mut received, mut sent) = (Vec::new(), Vec::new());
    for (version, _) in VERSIONS {
        let secured = certificates.secured(version);
        for sender in SENDERS.iter().filter(|sender| sender.speaks_tls) {
            let door = certificates.door().await;
            let relay = Relay::to(door.port_tls);
            let way = Way { port: relay.port, tls: Some(secured.clone()) };
            assert!((sender.echo)(&way), "{}: no answer to C-ECHO over TLS {version}", sender.name);
            (sender.store)(&way, images);
            received.push(row(sender.name, &relay, kept(sender.name, &arrived(&door, images), plain)));
            door.close().await;
        }
        let (came, went) =
            with_orthanc(&folder.join(format!("orthanc-{version}")), &certificates, version, images, plain, &tls).await;
        received.push(came);
        sent.push(went);
        sent.push(to_storescp(&folder.join(format!("storescp-{version}")), &secured, &tls).await);
        sent.push(to_pynetdicom(&folder.join(format!("pynetdicom-{version}")), &secured, &tls).await);
    }
    received.sort();
    sent.sort();
    (received, sent)
}

fn row(name: &str, relay: &Relay, kept: String) -> Row {
    let [version, suite] = relay.agreed();
    [name.into(), version, suite, "yes".into(), kept]
}

/// What is stored has to be what is stored in the clear.
fn kept(name: &str, cells: &[String], plain: &[(&str, Vec<String>)]) -> String {
    let (_, expected) = plain.iter().find(|(sender, _)| *sender == name).expect("a column of the sender");
    assert_eq!(cells, expected, "{name} over TLS and in the clear");
    format!("{} of {}", cells.iter().filter(|cell| *cell != UNKNOWN).count(), cells.len())
}

async fn with_orthanc(
    folder: &Path,
    certificates: &Certificates,
    version: &str,
    images: &[Image],
    plain: &[(&str, Vec<String>)],
    tls: &Arc<Tls>,
) -> (Row, Row) {
    let door = certificates.door().await;
    let (inward, port) = (Relay::to(door.port_tls), free_port());
    let mut settings = orthanc::over_tls(&certificates.peer, &certificates.authority);
    settings["DicomPort"] = port.into();
    settings["DicomModalities"] =
        json!({"sidelight": {"AET": "SIDELIGHT", "Host": "127.0.0.1", "Port": inward.port, "UseDicomTls": true}});
    let limits = certificates.secured(version).limits;
    let orthanc = Orthanc::start(folder, &settings, &[("OPENSSL_CONF", &limits)]);
    orthanc_sends(&orthanc, images);
    let came = row("Orthanc", &inward, kept("Orthanc", &arrived(&door, images), plain));
    door.close().await;

    let outward = Relay::to(port);
    let before = orthanc.get("/instances").expect("a list");
    let report = send_report("ORTHANC", outward.port, tls, Some(PeerTls::default())).await;
    let file = orthancs_report(&orthanc, folder, &before);
    (came, row("Orthanc", &outward, outcome(&report, &file)))
}

async fn to_storescp(folder: &Path, secured: &Secured, tls: &Arc<Tls>) -> Row {
    fs::create_dir_all(folder).expect("writable");
    let port = free_port();
    let mut command = Command::new("storescp");
    command.args(["-aet", "PACS", "--bit-preserving", "-fe", ".dcm", "-od"]).arg(folder);
    command.args(secured.identity.dcmtk()).arg("+cf").arg(&secured.authority).arg(port.to_string());
    command.env("OPENSSL_CONF", &secured.limits).stdout(Stdio::null()).stderr(Stdio::null());
    let _peer = Running(command.spawn().expect("dcmtk is installed"));
    wait_for("storescp listens", Duration::from_secs(30), || listens(port));
    let relay = Relay::to(port);
    let report = send_report("PACS", relay.port, tls, Some(PeerTls::default())).await;
    let [file] = &dicom_files(folder)[..] else { panic!("one report: {:?}", dicom_files(folder)) };
    row("storescp", &relay, outcome(&report, file))
}

async fn to_pynetdicom(folder: &Path, secured: &Secured, tls: &Arc<Tls>) -> Row {
    fs::create_dir_all(folder).expect("writable");
    let port = free_port();
    let explicit = transfer_syntaxes().iter().find(|s| s.name == "Explicit VR Little Endian").expect("it is known");
    let mut command = pynetdicom(Some(secured));
    command.args(["serve", &port.to_string(), &folder.display().to_string(), explicit.uid]);
    let _peer = Running(command.spawn().expect("Python starts"));
    wait_for("pynetdicom listens", Duration::from_secs(30), || listens(port));
    let relay = Relay::to(port);
    let report = send_report("PACS", relay.port, tls, Some(PeerTls::default())).await;
    row("pynetdicom", &relay, outcome(&report, &folder.join(format!("{}.dcm", report.sop_instance))))
}
