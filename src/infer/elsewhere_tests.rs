//! Cards of models that are not run here: one row per fault, and what identifies such a package.

use super::super::manifest::Package;
use super::super::manifest::fixtures::write_clinical;
use super::*;
use crate::domain::DigestOf;

const SERVER: &str = r#"[server]
url = "https://models.example.org:8443/kserve"
model = "chest"
version = "3"
input = "image"
outputs = ["scores"]
shape = "nhwc"
timeout = "2s"
wait = "1h"
token_file = "token"
[output]
activation"#;

/// The card of the fixtures, without a weight file and with these sections.
fn elsewhere_card(card: &str, format: &str, sections: &str) -> String {
    let kept = card.lines().filter(|line| !line.starts_with("file =") && !line.starts_with("sha256 ="));
    let card = kept.collect::<Vec<_>>().join("\n");
    card.replace("\"torchscript\"", &format!("\"{format}\"")).replacen("[output]\nactivation", sections, 1)
}

fn load(change: impl Fn(String) -> String) -> Result<Package, Vec<(String, String)>> {
    let folder = tempfile::tempdir().unwrap();
    let dir = write_clinical(folder.path(), change);
    Package::load(&dir).map_err(|e| e.faults.into_iter().map(|f| (f.key, f.problem)).collect())
}

fn with_server(from: &'static str, to: &'static str) -> impl Fn(String) -> String {
    move |card| {
        let card = elsewhere_card(&card, "open-inference", SERVER);
        assert!(card.contains(from), "{from}");
        card.replacen(from, to, 1)
    }
}

#[test]
fn a_card_with_a_server_is_a_package_without_weights() {
    let package = load(with_server("", "")).unwrap();
    let Some(Elsewhere::Server(server)) = &package.elsewhere else { panic!("{:?}", package.elsewhere) };
    assert_eq!(server.url.to_string(), "https://models.example.org:8443/kserve");
    assert_eq!((server.shape, server.timeout, server.retries), (Shape::Nhwc, Duration::from_secs(2), 2));
    assert!(matches!(&server.token, Some(Token::File(file)) if file.ends_with("site-chest/token")));
    assert_eq!(package.identity.digest_of, DigestOf::Card);
}

#[test]
fn what_changes_no_number_makes_no_other_model() {
    let key = |from, to| load(with_server(from, to)).unwrap().key();
    let usual = key("", "");
    for (from, to) in [
        ("models.example.org:8443", "192.0.2.7:8443"),
        ("\"2s\"", "\"3s\""),
        ("\"1h\"", "\"1m\""),
        ("token_file = \"token\"", "batch_max = 3"),
        ("[server]", "# a remark\n[server]"),
        ("manufacturer = \"", "manufacturer = \"The same "),
        ("training_data = \"", "training_data = \"More of "),
    ] {
        assert_eq!(key(from, to), usual, "{from} {to}");
    }
    for (from, to) in [("\"chest\"", "\"other\""), ("version = \"3\"", ""), ("\"nhwc\"", "\"flat\""), ("0.25", "0.26")]
    {
        assert_ne!(key(from, to), usual, "{from} {to}");
    }
}

#[test]
fn every_fault_of_a_server_is_told() {
    let check = |from, to, key: &str, problem: &str| {
        let faults = load(with_server(from, to)).expect_err(to);
        let told = matches!(faults.as_slice(), [(k, p)] if k == key && p.contains(problem));
        assert!(told, "{to}: {faults:?}");
    };
    check("https://models", "models", "server.url", "not a URL");
    check("https://models", "http://models", "server.url", "would show the token");
    check("\"chest\"", "\"../chest\"", "server.model", "no name of a model server");
    check("\"chest\"", "\"..\"", "server.model", "no name of a model server");
    check("\"3\"", "\"a/b\"", "server.version", "no name of a model server");
    check("[\"scores\"]", "[]", "server.outputs", "does not name");
    check("[\"scores\"]", "[\"a\", \"a\"]", "server.outputs", "does not name");
    check("\"2s\"", "\"soon\"", "server.timeout", "is not a duration");
    check("\"1h\"", "\"99d\"", "server.wait", "");
    check("shape = \"nhwc\"", "batch_max = 0", "server.batch_max", "is 0");
    check("token_file = \"token\"", "token_file = \"t\"\ntoken_variable = \"T\"", "server.token_variable", "beside");
    check("shape = \"nhwc\"", "colour = 1", "model.toml", "unknown field");
    check("device_uid", "file = \"weights.pt\"\ndevice_uid", "file", "not run in this process");
    let faults = load(|card| elsewhere_card(&card, "open-inference", "[output]\nactivation")).unwrap_err();
    assert_eq!(faults, [("server".to_owned(), "is missing".to_owned())]);
    let faults = load(|card| card.replacen("[output]\nactivation", SERVER, 1)).unwrap_err();
    assert_eq!(faults[0].0, "server");
}
