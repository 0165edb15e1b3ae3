//! HTTPS on the node's own port: curl with and without a certificate, clients that come the wrong way, and handshakes
//! that never end.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use super::*;
use crate::support::certificates::{Authority, Identity, NOW};
use crate::support::{run, sidelight};

/// A node that offers DICOMweb on both ports.
struct Scene {
    folder: tempfile::TempDir,
    authority: Authority,
    own: Identity,
    node: Node,
}

impl Scene {
    /// `tls` are further lines of `[tls]`, `edit` changes the configuration.
    fn new(tls: &str, edit: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let authority = Authority::new(folder.path(), "authority");
        let own = authority.issue("node", &NOW);
        fs::set_permissions(&own.key, fs::Permissions::from_mode(0o600)).expect("our own file");
        let extra = format!("\n{}{tls}", own.section(&authority));
        let listen = "[web]\nlisten_tls = \"127.0.0.1:0\"\n";
        let node = start(folder.path(), &extra, |config| edit(config.replace("[web]\n", listen)));
        Self { folder, authority, own, node }
    }

    /// `curl` to a path of the port for TLS, with further arguments.
    fn curl(&self, path: &str, arguments: &[&str]) -> Output {
        self.curl_to(&format!("https://localhost:{}{path}", self.node.web_tls_port), arguments)
    }

    fn curl_to(&self, url: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "30", "--cacert"]);
        run(command.arg(&self.authority.certificate).args(arguments).arg(url))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn curl_uses_every_service_over_https_and_sees_a_renewed_certificate() {
    let scene = Scene::new("", |config| config);
    for (version, works) in [("1.0", false), ("1.1", false), ("1.2", true), ("1.3", true)] {
        let limits = ["--ciphers", "DEFAULT:@SECLEVEL=0", &format!("--tlsv{version}"), "--tls-max", version];
        let got = scene.curl("/ready", &limits);
        assert_eq!(got.status.success(), works, "TLS {version}: {}", said(&got));
    }
    let other = Authority::new(scene.folder.path(), "other");
    let got = scene.curl("/ready", &["--cacert", other.certificate.to_str().expect("UTF-8")]);
    assert_eq!(got.status.code(), Some(60), "not our authority: {}", said(&got));

    // In by STOW-RS, out by QIDO-RS, with the token and not without.
    let phantom = phantoms(&scene.folder.path().join("phantoms"), "biased", 1, 47).remove(0);
    let body = scene.folder.path().join("body");
    fs::write(&body, multipart(&[fs::read(&phantom).expect("readable")])).expect("writable");
    let (token, body) = (format!("Authorization: Bearer {TOKEN}"), format!("@{}", body.display()));
    let media = "Content-Type: multipart/related; type=\"application/dicom\"; boundary=b1";
    let stored = scene.curl("/dicomweb/studies", &["-H", &token, "-H", media, "--data-binary", &body]);
    assert!(stored.status.success() && said(&stored).contains("00081199"), "{}", said(&stored));
    let studies = "/dicomweb/studies?limit=1";
    assert!(scene.curl(studies, &["-H", &token]).status.success());
    let got = scene.curl(studies, &[]);
    assert!(!got.status.success() && said(&got).contains("401"), "{}", said(&got));

    let shown = || {
        let got = scene.curl("/health", &["--output", "/dev/null", "--write-out", "%{certs}"]);
        assert!(got.status.success(), "{}", said(&got));
        said(&got)
    };
    let before = shown();
    scene.authority.issue("renewed", &NOW).replace(&scene.own);
    scene.node.signal("HUP");
    wait_for("the renewed certificate", Duration::from_secs(30), || shown() != before);
    // What cannot be read changes nothing.
    fs::write(&scene.own.key, "no key").expect("writable");
    let renewed = shown();
    scene.node.signal("HUP");
    wait_for("a word of it", Duration::from_secs(30), || scene.node.log().contains("holds no private key"));
    assert_eq!(shown(), renewed);
    assert!(scene.node.stop().success());
}

#[test]
fn whoever_comes_the_wrong_way_is_told_at_once() {
    let scene = Scene::new("", |config| config);
    let port = scene.node.web_tls_port;
    let got = scene.curl_to(&format!("http://localhost:{port}/health"), &[]);
    assert!(said(&got).contains("this port speaks HTTPS") && said(&got).contains("400"), "{}", said(&got));
    // A request of which the node reads nothing: the answer is not lost to a reset.
    let answer = exchange(port, &post("/dicomweb/studies", &stow_lines(), &vec![b'x'; 300_000])).expect("an answer");
    assert_eq!(answer.status, 400);
    let got = scene.curl_to(&format!("https://localhost:{}/health", scene.node.web_port), &[]);
    assert_eq!(got.status.code(), Some(35), "no TLS there: {}", said(&got));
    for noise in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[0; 100], &[0xff; 100_000]] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a valid timeout");
        let _ = stream.write_all(noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes);
        assert!(bytes.len() < 100 && !matches!(ended, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert!(scene.curl("/health", &[]).status.success());
    let log = scene.node.log();
    assert!(log.contains("a client without TLS on web.listen_tls") && !log.contains(TOKEN), "{log}");
    assert!(scene.node.stop().success());
}

#[test]
fn handshakes_that_never_end_are_bounded_in_number_and_time() {
    let quick = |config: String| config.replace("drain_timeout", "negotiation_timeout = \"2s\"\ndrain_timeout");
    let scene = Scene::new("", quick);
    let open = |index: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", scene.node.web_tls_port)).expect("the node listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a valid timeout");
        let hello: &[u8] = if index.is_multiple_of(2) { b"\x16\x03\x01\x02\x00\x01" } else { b"" };
        stream.write_all(hello).expect("a fresh connection");
        stream
    };
    let before = open_files(scene.node.pid());
    let silent: Vec<TcpStream> = (0..200).map(open).collect();
    wait_for("all places are taken", Duration::from_secs(30), || open_files(scene.node.pid()) >= before + 128);
    // The other port does not notice, and this one serves when places fall free.
    assert!(scene.node.metric("sidelight_conflicts").is_some());
    assert!(open_files(scene.node.pid()) <= before + 140, "further ones wait outside");
    let got = scene.curl("/health", &[]);
    assert!(got.status.success(), "{}", said(&got));
    for mut stream in silent {
        assert!(stream.read_to_end(&mut Vec::new()).is_ok(), "closed by the node");
    }
    assert!(scene.curl("/health", &[]).status.success());
    assert!(scene.node.stop().success());
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("our own process").count()
}

#[test]
fn clients_show_a_certificate_where_the_configuration_says_so() {
    let scene = Scene::new("web_client_certificates = \"required\"\n", |config| config);
    let other = Authority::new(scene.folder.path(), "other");
    let (vouched, foreign) = (scene.authority.issue("client", &NOW), other.issue("foreign", &NOW));
    for (identity, works) in [(None, false), (Some(&vouched), true), (Some(&foreign), false)] {
        let files = identity.map(|i: &Identity| [&i.certificate, &i.key].map(|p| p.display().to_string()));
        let arguments = files.map_or(vec![], |[c, k]| vec!["--cert".into(), c, "--key".into(), k]);
        let got = scene.curl("/health", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(got.status.success(), works, "{arguments:?}: {}", said(&got));
    }
    // On the port of this machine alone DICOMweb is there as before.
    assert_eq!(get(scene.node.web_port, "/dicomweb/studies", QUERY_TOKEN, "*/*").status, 200);
    let log = scene.node.log();
    assert!(log.contains("the peer shows no certificate") && log.contains("neither pinned nor issued"), "{log}");
}

#[test]
fn where_certificates_are_required_the_port_without_tls_serves_the_network_probes_alone() {
    let anywhere =
        |config: String| config.replace("listen = \"127.0.0.1:0\"\ndicomweb", "listen = \"0.0.0.0:0\"\ndicomweb");
    for (required, dicomweb) in [("web_client_certificates = \"required\"\n", 404), ("", 200)] {
        let scene = Scene::new(required, anywhere);
        let port = scene.node.web_port;
        let asked = |path: &str| get(port, path, QUERY_TOKEN, "*/*").status;
        let paths = ["/health", "/ready", "/metrics", "/dicomweb/studies"];
        assert_eq!(paths.map(asked), [200, 200, 200, dicomweb], "{required}");
        let store = exchange(port, &post("/dicomweb/studies", "", b"")).expect("an answer");
        assert_eq!(store.status, if dicomweb == 200 { 401 } else { 404 }, "{required}");
        assert_eq!(scene.node.log().contains("no DICOMweb on 0.0.0.0"), dicomweb == 404, "{}", scene.node.log());
        assert!(scene.node.stop().success());
    }
}

#[test]
fn check_says_where_tokens_cross_the_network_in_the_clear() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("site.toml");
    for (listen, dicomweb, told) in
        [("0.0.0.0:0", true, true), ("127.0.0.1:0", true, false), ("[::1]:0", true, false), ("0.0.0.0:0", false, false)]
    {
        fs::write(&path, format!("[web]\nlisten = \"{listen}\"\ndicomweb = {dicomweb}\n")).expect("writable");
        let output = run(sidelight(&["check", "--json", "--config"]).arg(&path));
        let items: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let item = items.iter().find(|i| i["what"] == "web.listen").expect("it was looked at");
        let note = item["note"].as_str().unwrap_or_default();
        assert_eq!(note.contains("can be read on the way; offer it on web.listen_tls"), told, "{listen}: {item}");
    }
}
