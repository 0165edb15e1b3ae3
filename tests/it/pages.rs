//! Pages for people on a running node: who gets in, who sees what, and what gets through that should not.

mod access;
mod browser;
mod hostile;
mod speed;
mod work;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::support::{Node, NodeOptions, configuration, sidelight};

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// The hash of the password, as the program makes it.
fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash_of(PASSWORD))
}

fn hash_of(password: &str) -> String {
    let mut child =
        sidelight(&["users", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    writeln!(child.stdin.take().expect("piped"), "{password}").expect("it reads");
    let output = child.wait_with_output().expect("waitable");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// The section of users of these names and roles, who all have the same password.
fn users(folder: &Path, list: &[(&str, &str)]) -> String {
    fs::write(folder.join("password"), hash()).expect("writable");
    let entry = |(name, role): &(&str, &str)| {
        format!(
            "\n[[web_users]]\nname = \"{name}\"\npassword_file = \"{}/password\"\nroles = [\"{role}\"]\n",
            folder.display()
        )
    };
    list.iter().map(entry).collect()
}

const EVERYBODY: &[(&str, &str)] = &[("vera", "viewer"), ("aude", "auditor"), ("otto", "operator"), ("adam", "admin")];

/// A node with pages; `extra` goes to the end of its configuration, `web` into its section.
fn start(
    folder: &Path,
    sources: &[&str],
    destinations: &[(&str, &str, u16, bool, &str)],
    web: &str,
    extra: &str,
) -> Node {
    let options = NodeOptions { data_dir: &folder.join("data"), sources, destinations, quiet_period: "500ms", extra };
    let text = configuration(&options).replace("[web]\n", &format!("[web]\npages = true\n{web}"));
    let config = folder.join("data.toml");
    fs::write(&config, text).expect("writable");
    Node::restart(&config)
}
