//! What people are told about TLS: `check`, `echo --tls`, and the log of a node whose peers come to the wrong port.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::{Pacs, Scene, echoscu, s_client};
use crate::receive::scu::PATIENCE;
use crate::support::certificates::{Authority, Identity, NOW, PAST};
use crate::support::{Node, NodeOptions, run, run_ok, sidelight, wait_for};

#[test]
fn check_tells_what_is_wrong_with_certificates_and_keys() {
    let scene = Scene::new();
    let path = scene.folder.path().join("check.toml");
    let private = |identity: &Identity| {
        fs::set_permissions(&identity.key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let expired = scene.authority.issue("expired", &PAST);
    let soon = {
        let soon = scene.folder.path().join("soon");
        fs::create_dir(&soon).unwrap();
        let (key, pem) = (soon.join("soon.key"), soon.join("soon.pem"));
        run_ok(
            std::process::Command::new("openssl")
                .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "12", "-subj", "/CN=soon", "-keyout"])
                .arg(&key)
                .arg("-out")
                .arg(&pem),
        );
        Identity { certificate: pem, key }
    };
    let mismatch = Identity { certificate: scene.node.certificate.clone(), key: scene.client.key.clone() };
    let open = scene.authority.issue("open", &NOW);
    for identity in [&scene.node, &scene.client, &expired, &soon] {
        private(identity);
    }
    fs::set_permissions(&open.key, fs::Permissions::from_mode(0o644)).unwrap();
    let garbage =
        Identity { certificate: scene.node.certificate.clone(), key: scene.folder.path().join("garbage.key") };
    fs::write(&garbage.key, "-----BEGIN PRIVATE KEY-----\nU0VDUkVU!\n-----END PRIVATE KEY-----\n").unwrap();
    let rows = [
        (&scene.node, None),
        (&expired, Some(("tls.certificate", "has expired"))),
        (&soon, Some(("tls.certificate", "expires in 11 days"))),
        (&mismatch, Some(("tls.key", "does not belong to the first certificate"))),
        (&open, Some(("tls.key", "chmod o="))),
        (&garbage, Some(("tls.key", "is not sound PEM"))),
    ];
    for (identity, expected) in rows {
        fs::write(&path, identity.section(&scene.authority)).unwrap();
        let output = run(sidelight(&["check", "--json", "--config"]).arg(&path));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("U0VD"), "a line of the key: {text}");
        let items: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let about_tls = items.iter().filter(|item| item["what"].as_str().is_some_and(|w| w.starts_with("tls.")));
        let faults: Vec<_> = about_tls
            .filter(|item| item["ok"] == Value::Bool(false))
            .map(|item| (item["what"].as_str().unwrap(), item["note"].as_str().unwrap()))
            .collect();
        match expected {
            None => assert_eq!(faults, []),
            Some((key, part)) => {
                assert!(
                    matches!(faults[..], [(what, note)] if what == key && note.contains(part)),
                    "{part}: {faults:?}"
                );
            }
        }
    }
}

#[test]
fn echo_over_tls_asks_for_what_is_pinned_for_the_destination() {
    let scene = Scene::new();
    let own = Authority::self_signed(scene.folder.path(), "own");
    let pacs = Pacs::over_tls(&own, &scene.authority);
    let path = scene.folder.path().join("echo.toml");
    let peer = format!("PACS@127.0.0.1:{}", pacs.port);
    let check = |pinned: &Identity, tls: bool, options: &[&str], expected: bool| {
        let destination = format!(
            "[[destinations]]\nname = \"pacs\"\nae_title = \"PACS\"\nhost = \"127.0.0.1\"\nport = {}\naudit = true\n\
             tls = {tls}\n",
            pacs.port
        );
        let pins = if tls { format!("certificates = [\"{}\"]\n", pinned.fingerprint()) } else { String::new() };
        fs::write(&path, format!("{}{destination}{pins}", scene.node.section(&scene.authority))).unwrap();
        let output = run(sidelight(&["echo", &peer]).args(options).arg("--config").arg(&path));
        let said = super::said(&output);
        assert_eq!(output.status.success(), expected, "tls = {tls}, {options:?}: {said}");
    };
    check(&own, true, &["--tls"], true);
    check(&own, true, &[], true);
    check(&scene.client, true, &["--tls"], false);
    // Without a pin the authority would have to vouch for it.
    check(&own, false, &["--tls"], false);
    check(&own, false, &[], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_who_came_to_the_wrong_port() {
    let scene = Scene::new();
    let port = crate::support::free_port();
    let extra = format!("\n{}", scene.node.section(&scene.authority));
    let node = {
        let options = NodeOptions {
            data_dir: &scene.folder.path().join("data"),
            sources: &["PACS"],
            destinations: &[],
            quiet_period: "60s",
            extra: &extra,
        };
        let listen = format!("127.0.0.1:{port}");
        Node::start_with(&options, &[("SIDELIGHT__NODE__LISTEN_TLS", Path::new(&listen))])
    };
    assert!(node.log().contains(&format!("\"dicom_tls\":\"127.0.0.1:{port}\"")), "{}", node.log());
    let (answered, said) = echoscu("PACS", port, None).await;
    assert!(!answered && said.contains("Peer aborted Association"), "an abort at once: {said}");
    assert!(!s_client(node.dicom_port, &[]).await.0);
    let authority = scene.authority.certificate.as_path();
    assert!(echoscu("PACS", port, Some((&scene.client, authority))).await.0);
    assert!(echoscu("PACS", node.dicom_port, None).await.0);
    let (connected, _) = s_client(port, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    assert!(!connected);
    for line in [
        "a peer without TLS on the port for TLS",
        "a peer with TLS on the port without",
        "no common TLS version or cipher suite",
        "TLS connection",
    ] {
        wait_for(line, PATIENCE, || node.log().contains(line));
    }
    assert!(node.stop().success());
}
