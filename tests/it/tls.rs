//! TLS with real peers: dcmtk in and out, `openssl s_client` for versions and cipher suites, certificates by `openssl`.
//! What a person is told of it is in `told`.

mod told;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use sidelight::config::{self, ClientCertificates, Destination, Endpoint, Fingerprint, PeerTls, TlsProfile};
use sidelight::deliver::{self, DeliverError, Retry};
use sidelight::domain::{AeTitle, Disclosure};
use sidelight::receive::Drained;
use sidelight::wire::Tls;
use sidelight::wire::tls::{FileProblem, TlsFault};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::receive::scu::{CT, Door, EXPLICIT, PATIENCE, Scu, Setup, source};
use crate::support::certificates::{Authority, Identity, NOW, PAST, settings};
use crate::support::{free_port, wait_for};

/// An authority, a node with a certificate of it, and a client with another one.
struct Scene {
    folder: tempfile::TempDir,
    authority: Authority,
    node: Identity,
    client: Identity,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let (node, client) = (authority.issue("node", &NOW), authority.issue("client", &NOW));
        Self { folder, authority, node, client }
    }

    fn settings(&self) -> config::Tls {
        settings(&self.node, &self.authority)
    }

    async fn door(&self, edit: impl FnOnce(&mut Setup)) -> Door {
        Door::open(|setup| {
            setup.node.listen_tls = Some("127.0.0.1:0".parse().unwrap());
            setup.tls = self.settings();
            edit(setup);
        })
        .await
    }

    fn tls(&self) -> Arc<Tls> {
        Tls::load(&self.settings(), &[]).unwrap()
    }
}

fn pin(identity: &Identity) -> Fingerprint {
    Fingerprint::parse(&identity.fingerprint()).unwrap()
}

fn pinned(title: &str, identities: &[&Identity]) -> config::Source {
    config::Source { tls: true, certificates: identities.iter().map(|i| pin(i)).collect(), ..source(title, &[]) }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// `echoscu` as `calling`; with a certificate over TLS. Whether it was answered, and what it said.
async fn echoscu(calling: &str, port: u16, tls: Option<(&Identity, &Path)>) -> (bool, String) {
    let mut command = Command::new("echoscu");
    command.args(["-v", "-to", "20", "-ta", "20", "-aet", calling, "-aec", "SIDELIGHT"]);
    if let Some((identity, authority)) = tls {
        command.args(identity.dcmtk()).arg("+cf").arg(authority);
    }
    let output = command.args(["127.0.0.1", &port.to_string()]).kill_on_drop(true).output().await.unwrap();
    (output.status.success(), said(&output))
}

/// `openssl s_client`, which ends once it is connected; whether it was, and what it said.
async fn s_client(port: u16, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let said = said(&output);
    (output.status.success() && said.contains("BEGIN CERTIFICATE"), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn storescu_is_served_over_tls_and_in_the_clear_side_by_side() {
    let scene = Scene::new();
    let door = scene.door(|_| ()).await;
    let file = crate::receive::corpus_file("CR/RG3_J2KR.dcm");
    let send = async |port: u16, options: &[String]| {
        let mut command = Command::new("storescu");
        command.args(["-v", "-xv", "+II", "-aet", "PACS", "-aec", "SIDELIGHT"]).args(options);
        command.args(["127.0.0.1", &port.to_string(), &file]);
        let output = command.kill_on_drop(true).output().await.unwrap();
        assert!(said(&output).contains("Received Store Response (Success)"), "{}", said(&output));
    };
    let mut over_tls = scene.client.dcmtk().to_vec();
    over_tls.extend(["+cf".into(), scene.authority.certificate.display().to_string()]);
    send(door.port_tls, &over_tls).await;
    send(door.port, &[]).await;
    assert_eq!(door.files("spool").len(), 2);
    assert_eq!(door.close().await, Drained::All);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_believed_by_its_certificate() {
    let scene = Scene::new();
    let other = Authority::new(scene.folder.path(), "other");
    let (foreign, expired) = (other.issue("foreign", &NOW), scene.authority.issue("expired", &PAST));
    let impostor = Authority::new(&fs::canonicalize(scene.folder.path()).unwrap().join("other"), "authority");
    let (forged, own) = (impostor.issue("forged", &NOW), Authority::self_signed(scene.folder.path(), "own"));
    let vouched = scene.authority.issue("vouched", &NOW);
    let pins = vec![source("OPEN", &[]), pinned("CT1", &[&own]), pinned("CT2", &[&vouched, &expired])];
    let door = scene.door(|setup| setup.sources = pins).await;
    let authority = scene.authority.certificate.as_path();
    // With TLS 1.3 dcmtk meets the refusal when it reads the answer to its request.
    let refused = "Peer aborted Association";
    // (title, certificate, whether it is answered, what it reads)
    let rows = [
        ("OPEN", &scene.client, true, ""),
        ("OPEN", &foreign, false, refused),
        ("OPEN", &forged, false, refused),
        // It proves itself, and is another's.
        ("OPEN", &own, false, "Calling AE Title Not Recognized"),
        // The authority vouches for it, and it is another's.
        ("OPEN", &vouched, false, "Calling AE Title Not Recognized"),
        ("CT1", &own, true, ""),
        ("CT1", &scene.client, false, "Calling AE Title Not Recognized"),
        ("CT1", &vouched, false, "Calling AE Title Not Recognized"),
        ("CT2", &vouched, true, ""),
        // Pinned, but its time is over.
        ("CT2", &expired, false, refused),
        ("NOBODY", &scene.client, false, "Calling AE Title Not Recognized"),
    ];
    for (title, identity, expected, part) in rows {
        let (answered, said) = echoscu(title, door.port_tls, Some((identity, authority))).await;
        let name = identity.certificate.display();
        assert!(answered == expected && said.contains(part), "{title} with {name}: {said}");
    }
    assert!(echoscu("OPEN", door.port, None).await.0);
    let (answered, said) = echoscu("CT1", door.port, None).await;
    assert!(!answered && said.contains("Calling AE Title Not Recognized"), "pinned, and in the clear: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_let_in_where_the_configuration_says_so() {
    let scene = Scene::new();
    let rows =
        [(ClientCertificates::Required, false), (ClientCertificates::Optional, true), (ClientCertificates::None, true)];
    for (asked, expected) in rows {
        let door = scene.door(|setup| setup.tls.client_certificates = asked).await;
        let mut command = Command::new("echoscu");
        command.args(["-v", "-aet", "PACS", "-aec", "SIDELIGHT", "+tla", "+cf"]).arg(&scene.authority.certificate);
        let output = command.args(["127.0.0.1", &door.port_tls.to_string()]).output().await.unwrap();
        assert_eq!(output.status.success(), expected, "{asked:?}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_cipher_suites_are_those_of_the_profile() {
    let scene = Scene::new();
    let (certificate, key) = (scene.client.certificate.display().to_string(), scene.client.key.display().to_string());
    let check = async |profile, rows: &[(&[&str], bool)]| {
        let door = scene.door(|setup| setup.tls.profile = profile).await;
        for (arguments, expected) in rows {
            let identity = ["-cert", &certificate, "-key", &key];
            let (connected, said) = s_client(door.port_tls, &[&identity[..], arguments].concat()).await;
            assert_eq!(connected, *expected, "{profile:?} {arguments:?}: {said}");
        }
    };
    let tls12 = |suite| ["-tls1_2", "-cipher", suite];
    check(
        TlsProfile::Bcp195,
        &[
            (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], false),
            (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], false),
            (&tls12("ECDHE-RSA-AES256-GCM-SHA384"), true),
            (&tls12("ECDHE-RSA-AES128-GCM-SHA256"), true),
            (&tls12("ECDHE-RSA-AES256-SHA384"), false),
            (&tls12("ECDHE-RSA-CHACHA20-POLY1305"), false),
            (&tls12("AES256-GCM-SHA384"), false),
            (&tls12("DHE-RSA-AES256-GCM-SHA384"), false),
            (&["-tls1_3"], true),
            (&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], true),
            (&["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], false),
        ],
    )
    .await;
    check(TlsProfile::Bcp195Tls13, &[(&tls12("ECDHE-RSA-AES256-GCM-SHA384"), false), (&["-tls1_3"], true)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_takes_no_place_from_anybody_else() {
    let scene = Scene::new();
    let door = scene
        .door(|setup| {
            setup.node.associations_max = 2;
            setup.node.negotiation_timeout = Duration::from_secs(3);
        })
        .await;
    let mut silent = Vec::new();
    for index in 0..60 {
        let mut tcp = TcpStream::connect(("127.0.0.1", door.port_tls)).await.unwrap();
        let hello: &[u8] = if index % 2 == 0 { &[0x16, 3, 1, 2, 0, 1] } else { &[] };
        tokio::io::AsyncWriteExt::write_all(&mut tcp, hello).await.unwrap();
        silent.push(tcp);
    }
    let authority = scene.authority.certificate.as_path();
    assert!(echoscu("PACS", door.port_tls, Some((&scene.client, authority))).await.0, "a place is free");
    // More than there are connections on that port: the other one is not held up.
    for _ in 0..100 {
        silent.push(TcpStream::connect(("127.0.0.1", door.port_tls)).await.unwrap());
    }
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
    assert_eq!(scu.store(1, CT, "1.2.3", &[1; 1000]).await, 0);
    assert!(scu.release().await);
    for mut tcp in silent.drain(..60) {
        let closed = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "closed within the negotiation timeout");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_are_used_by_the_next_handshakes() {
    let scene = Scene::new();
    let door = scene.door(|_| ()).await;
    let (certificate, key) = (scene.client.certificate.display().to_string(), scene.client.key.display().to_string());
    let serial = async || {
        let (connected, said) = s_client(door.port_tls, &["-cert", &certificate, "-key", &key, "-showcerts"]).await;
        assert!(connected, "{said}");
        let start = said.find("-----BEGIN CERTIFICATE-----").unwrap();
        said[start..].split("-----END").next().unwrap().to_owned()
    };
    let first = serial().await;
    scene.authority.issue("second", &NOW).replace(&scene.node);
    // By itself, at the first handshake a second after the last look.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while serial().await == first {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not used");
    }
    let second = serial().await;
    // At once, where somebody asks.
    scene.authority.issue("third", &NOW).replace(&scene.node);
    door.tls.reload(&[]).unwrap();
    let third = serial().await;
    assert!(third != second && third != first);

    // A key that does not belong to the certificate, and what is no file: what was read before stays.
    fs::copy(&scene.client.key, &scene.node.key).unwrap();
    let fault = door.tls.reload(&[]).unwrap_err();
    assert!(matches!(fault, TlsFault::File { key: "tls.key", problem: FileProblem::KeyMismatch, .. }), "{fault}");
    fs::remove_file(&scene.node.key).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(&scene.node.key).status().unwrap();
    assert!(fifo.success());
    let fault = door.tls.reload(&[]).unwrap_err();
    assert!(matches!(fault, TlsFault::File { problem: FileProblem::NotAFile, .. }), "{fault}");
    assert_eq!(serial().await, third);
}

/// `storescp` over TLS; ended when dropped.
struct Pacs {
    process: std::process::Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Pacs {
    fn start(options: &[String]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let null = std::process::Stdio::null;
        let mut command = std::process::Command::new("storescp");
        command.args(["-aet", "PACS", "+B", "-od"]).arg(folder.path()).args(options).arg(port.to_string());
        let process = command.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
        let pacs = Self { process, port, folder };
        wait_for("storescp listens", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        pacs
    }

    /// With a certificate, asking for one of `authority`.
    fn over_tls(identity: &Identity, authority: &Authority) -> Self {
        let mut options = identity.dcmtk().to_vec();
        options.extend(["+cf".into(), authority.certificate.display().to_string(), "-rc".into()]);
        Self::start(&options)
    }

    /// Over TLS, without a pin.
    fn destination(&self) -> Destination {
        self.called(Some(PeerTls::default()))
    }

    fn called(&self, tls: Option<PeerTls>) -> Destination {
        Destination {
            name: "pacs".into(),
            endpoint: Endpoint::Dimse {
                ae_title: AeTitle::parse("PACS").unwrap(),
                host: "127.0.0.1".into(),
                port: self.port,
                tls,
            },
            audit: true,
            disclose: Disclosure::Withheld,
            timeout: Duration::from_secs(20),
            associations_max: 1,
            per_minute_max: None,
            commitment: None,
        }
    }
}

impl Drop for Pacs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn echo(destination: &Destination, tls: &Arc<Tls>) -> Result<(), DeliverError> {
    deliver::probe(destination, tls, &AeTitle::parse("SIDELIGHT").unwrap()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_goes_out_over_tls() {
    let scene = Scene::new();
    let pacs = Pacs::over_tls(&scene.authority.issue("pacs", &NOW), &scene.authority);
    let reports = crate::report::deliver::alternatives();
    let files: Vec<_> = reports.iter().map(deliver::ReportFile::from).collect();
    let calling = AeTitle::parse("SIDELIGHT").unwrap();
    let sent = deliver::send(config::Mode::Active, &pacs.destination(), &scene.tls(), &calling, &files).await.unwrap();
    assert_eq!(sent.index, 0);
    let received: Vec<_> =
        fs::read_dir(pacs.folder.path()).unwrap().map(|e| fs::read(e.unwrap().path()).unwrap()).collect();
    assert_eq!(received.len(), 1);
    let data_set = crate::report::deliver::data_set(&reports[0].file);
    assert!(received[0].ends_with(data_set));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_believed_by_its_pin_or_by_authority_and_name() {
    let scene = Scene::new();
    let (good, expired) = (scene.authority.issue("pacs", &NOW), scene.authority.issue("old-pacs", &PAST));
    let other = Authority::new(scene.folder.path(), "other");
    let foreign = other.issue("foreign", &NOW);
    let own = Authority::self_signed(scene.folder.path(), "self");
    // (its certificate, what is pinned, the name that is asked for, what is said of it)
    let rows: Vec<(&Identity, Option<&Identity>, Option<&str>, Option<&str>)> = vec![
        (&good, None, None, None),
        (&good, None, Some("localhost"), None),
        (&good, None, Some("pacs.example.org"), Some("another name")),
        (&good, Some(&good), Some("pacs.example.org"), None),
        (&good, Some(&own), None, Some("not one of those that are pinned")),
        (&expired, None, None, Some("has expired")),
        (&expired, Some(&expired), None, Some("has expired")),
        (&foreign, None, None, Some("neither pinned nor issued")),
        (&foreign, Some(&foreign), None, None),
        // As `openssl req -x509` makes it: one of an authority.
        (&own, None, None, Some("pin it by its fingerprint")),
        (&own, Some(&own), None, None),
    ];
    let tls = scene.tls();
    for (identity, pins, name, expected) in rows {
        let pacs = Pacs::over_tls(identity, &scene.authority);
        let certificates = pins.iter().map(|i| pin(i)).collect();
        let destination = pacs.called(Some(PeerTls { certificates, server_name: name.map(str::to_owned) }));
        let shown = identity.certificate.display();
        match (echo(&destination, &tls).await, expected) {
            (Ok(()), None) => {}
            (Err(error @ DeliverError::Untrusted { .. }), Some(part)) => {
                assert!(error.to_string().contains(part) && error.retry() == Retry::Later, "{shown}: {error}");
            }
            (got, _) => panic!("{shown}, name {name:?}: {got:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_does_not_believe_the_node_says_so() {
    let scene = Scene::new();
    let pacs = Pacs::over_tls(&scene.authority.issue("pacs", &NOW), &scene.authority);
    let other = Authority::new(scene.folder.path(), "other");
    for own in [None, Some(scene.authority.issue("expired", &PAST)), Some(other.issue("foreign", &NOW))] {
        let settings = config::Tls {
            certificate: own.as_ref().map(|o| o.certificate.clone()),
            key: own.as_ref().map(|o| o.key.clone()),
            ..scene.settings()
        };
        let error = echo(&pacs.destination(), &Tls::load(&settings, &[]).unwrap()).await.unwrap_err();
        assert!(matches!(error, DeliverError::Untrusted { .. }), "{error}");
        assert!(error.to_string().contains("the peer refused the TLS connection"), "{error}");
    }
    // TLS to a peer without, and the other way round.
    let plain = Pacs::start(&[]);
    let error = echo(&plain.destination(), &scene.tls()).await.unwrap_err();
    assert!(matches!(error, DeliverError::Untrusted { .. } | DeliverError::Broken { .. }), "{error}");
    let error = echo(&pacs.called(None), &scene.tls()).await.unwrap_err();
    assert!(matches!(error, DeliverError::Broken { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_of_the_node_is_refused_by_its_clients() {
    let mut scene = Scene::new();
    scene.node = scene.authority.issue("expired", &PAST);
    let door = scene.door(|_| ()).await;
    let authority = scene.authority.certificate.as_path();
    let (answered, said) = echoscu("PACS", door.port_tls, Some((&scene.client, authority))).await;
    assert!(!answered && said.contains("certificate verify failed"), "{said}");
}
