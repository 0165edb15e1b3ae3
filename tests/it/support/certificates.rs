//! Certificates for tests, made by the `openssl` program: authorities, what they issue, and what is wrong on purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sidelight::config::{self, ClientCertificates, TlsProfile};

use super::run_ok;

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A certificate authority in a folder of its own.
pub struct Authority {
    folder: PathBuf,
    pub certificate: PathBuf,
}

/// From when until when, as `openssl ca` takes it.
pub struct Dates(&'static str, &'static str);

pub const PAST: Dates = Dates("20200101000000Z", "20210101000000Z");
pub const NOW: Dates = Dates("20200101000000Z", "20491231000000Z");

fn openssl(folder: &Path, arguments: &[&str]) -> String {
    run_ok(Command::new("openssl").current_dir(folder).args(arguments))
}

/// The settings of a node with this certificate that asks for ones of `authority`.
pub fn settings(node: &Identity, authority: &Authority) -> config::Tls {
    config::Tls {
        certificate: Some(node.certificate.clone()),
        key: Some(node.key.clone()),
        authorities: Some(authority.certificate.clone()),
        client_certificates: ClientCertificates::Required,
        web_client_certificates: ClientCertificates::None,
        profile: TlsProfile::Bcp195,
    }
}

impl Authority {
    pub fn new(within: &Path, name: &str) -> Self {
        let folder = within.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("index.txt"), "").unwrap();
        fs::write(folder.join("serial"), "01\n").unwrap();
        let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nserial = serial\nnew_certs_dir = .\n\
                      default_md = sha256\npolicy = any\nunique_subject = no\n[any]\ncommonName = supplied\n\
                      [leaf]\nbasicConstraints = CA:FALSE\nsubjectAltName = DNS:localhost, IP:127.0.0.1\n";
        fs::write(folder.join("ca.cnf"), config).unwrap();
        let subject = format!("/CN={name}");
        openssl(
            &folder,
            &[
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days",
                "3650", "-subj", &subject,
            ],
        );
        Self { certificate: folder.join("ca.pem"), folder }
    }

    /// A certificate for `localhost` and 127.0.0.1.
    pub fn issue(&self, name: &str, Dates(from, until): &Dates) -> Identity {
        let file = |kind: &str| format!("{name}.{kind}");
        let (key, request, certificate) = (file("key"), file("csr"), file("pem"));
        let subject = format!("/CN={name}");
        openssl(
            &self.folder,
            &["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", &subject],
        );
        openssl(
            &self.folder,
            &[
                "ca",
                "-batch",
                "-notext",
                "-config",
                "ca.cnf",
                "-extensions",
                "leaf",
                "-cert",
                "ca.pem",
                "-keyfile",
                "ca.key",
                "-startdate",
                from,
                "-enddate",
                until,
                "-in",
                &request,
                "-out",
                &certificate,
            ],
        );
        Identity { certificate: self.folder.join(certificate), key: self.folder.join(key) }
    }

    /// A certificate that nobody vouches for.
    pub fn self_signed(within: &Path, name: &str) -> Identity {
        let (key, certificate) = (within.join(format!("{name}.key")), within.join(format!("{name}.pem")));
        let (key_text, certificate_text) = (key.display().to_string(), certificate.display().to_string());
        let subject = format!("/CN={name}");
        openssl(
            within,
            &[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                &key_text,
                "-out",
                &certificate_text,
                "-days",
                "100",
                "-subj",
                &subject,
            ],
        );
        Identity { certificate, key }
    }
}

impl Identity {
    /// SHA-256, as `openssl` writes it.
    pub fn fingerprint(&self) -> String {
        let path = self.certificate.display().to_string();
        let text = openssl(Path::new("."), &["x509", "-noout", "-fingerprint", "-sha256", "-in", &path]);
        text.trim().rsplit('=').next().unwrap().to_owned()
    }

    /// `[tls]` of a node with these files.
    pub fn section(&self, authority: &Authority) -> String {
        let [certificate, key, vouching] = [&self.certificate, &self.key, &authority.certificate].map(|p| p.display());
        format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\nauthorities = \"{vouching}\"\n")
    }

    /// Puts this certificate and its key in the place of another's, as a renewal does: each at once.
    pub fn replace(&self, other: &Self) {
        for (from, to) in [(&self.certificate, &other.certificate), (&self.key, &other.key)] {
            let beside = to.with_extension("new");
            fs::copy(from, &beside).unwrap();
            fs::rename(&beside, to).unwrap();
        }
    }

    /// As the arguments of a dcmtk tool.
    pub fn dcmtk(&self) -> [String; 3] {
        ["+tls".into(), self.key.display().to_string(), self.certificate.display().to_string()]
    }
}
