//! The files named in `[tls]`: read within bounds, parsed, and known again by their stamps.
//!
//! A file system may hang, or hold something else than a file under a name (`config::read_secret`). What is in a file
//! never reaches an error. Neighbours: [`super::Tls`] decides when to look and keeps a hanging look from being
//! repeated. Left out: whether a certificate is still valid.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::fault::{FileProblem, TlsFault};
use crate::config::{self, SecretFault};

/// Largest file, bytes: the authorities of a whole operating system have some 200 kB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys of the configuration that name the files.
pub(super) const CERTIFICATE: &str = "tls.certificate";
pub(super) const KEY: &str = "tls.key";
pub(super) const AUTHORITIES: &str = "tls.authorities";

/// What tells one state of a file from another; `None` where there is no file.
pub(super) type Stamps = [Option<Stamp>; 3];

/// Device, inode, size, modification and change (seconds, nanoseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

/// What the files hold.
#[derive(Clone)]
pub(super) struct Material {
    /// Certificate chain and private key of the node.
    pub(super) own: Option<Arc<CertifiedKey>>,
    /// Authorities that vouch for peers.
    pub(super) authorities: Option<Arc<RootCertStore>>,
}

/// The stamps now. May hang with the file system.
pub(super) fn stamps(tls: &config::Tls) -> Stamps {
    [&tls.certificate, &tls.key, &tls.authorities].map(|path| {
        let meta = std::fs::metadata(path.as_ref()?).ok()?;
        let (modified, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Some(Stamp(meta.dev(), meta.ino(), meta.size(), modified, changed))
    })
}

/// Reads and checks all files. May hang with the file system.
pub(super) fn read_all(tls: &config::Tls, provider: &CryptoProvider) -> Result<Material, TlsFault> {
    let own = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some(Arc::new(own(certificate, key, provider)?)),
        _ => None,
    };
    let authorities = match &tls.authorities {
        Some(path) => Some(Arc::new(authorities(path)?)),
        None => None,
    };
    Ok(Material { own, authorities })
}

fn own(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsFault> {
    let at_key = |problem| TlsFault::File { key: KEY, path: key.to_owned(), problem };
    let chain = certificates(CERTIFICATE, certificate)?;
    let bytes = read(key).map_err(at_key)?;
    let der = private_key(&bytes).map_err(at_key)?;
    let signing = provider.key_provider.load_private_key(der).map_err(|_| at_key(FileProblem::UnusableKey))?;
    let own = CertifiedKey::new(chain, signing);
    match own.keys_match() {
        Ok(()) => Ok(own),
        Err(rustls::Error::InconsistentKeys(_)) => Err(at_key(FileProblem::KeyMismatch)),
        Err(_) => {
            let problem = FileProblem::UnusableCertificate;
            Err(TlsFault::File { key: CERTIFICATE, path: certificate.to_owned(), problem })
        }
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsFault> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(AUTHORITIES, path)? {
        store.add(certificate).map_err(|_| TlsFault::File {
            key: AUTHORITIES,
            path: path.to_owned(),
            problem: FileProblem::UnusableCertificate,
        })?;
    }
    Ok(store)
}

/// The certificates in a file; at least one.
pub(super) fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let fault = |problem| TlsFault::File { key, path: path.to_owned(), problem };
    let bytes = read(path).map_err(fault)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|e| fault(e.into()))?;
    if found.is_empty() { Err(fault(FileProblem::NoCertificate)) } else { Ok(found) }
}

fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, FileProblem> {
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let sealed = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
            match bytes.windows(sealed.len()).any(|window| window == sealed) {
                true => Err(FileProblem::EncryptedKey),
                false => Err(FileProblem::NoKey),
            }
        }
        Err(_) => Err(FileProblem::NotPem),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileProblem> {
    config::read_secret(path, FILE_BYTES_MAX).map_err(|fault| match fault {
        SecretFault::Unreadable(kind) => FileProblem::Unreadable(kind),
        SecretFault::TooLarge(most) => FileProblem::TooLarge(most),
        SecretFault::NotAFile | SecretFault::NotText => FileProblem::NotAFile,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use rustix::fs::Mode;

    use super::*;

    const SECRET: &str = "c2VjcmV0IHNlY3JldCBzZWNyZXQ=";

    #[test]
    fn what_is_in_a_file_is_never_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let texts = [
            format!("-----BEGIN PRIVATE KEY-----{SECRET}\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN {SECRET}\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{SECRET}!\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END {SECRET}-----\n"),
            format!("-----BEGIN CERTIFICATE-----\n{SECRET}!\n-----END CERTIFICATE-----\n"),
            format!("-----BEGIN CERTIFICATE-----\n{SECRET}\n-----END CERTIFICATE-----\n"),
            SECRET.to_owned(),
        ];
        for text in texts {
            fs::write(&path, &text).unwrap();
            let key = private_key(text.as_bytes());
            if let Err(problem) = key {
                assert!(!problem.to_string().contains(&SECRET[..8]), "{problem}");
            }
            let fault = authorities(&path).map(drop).unwrap_err();
            for told in [fault.to_string(), format!("{fault:?}")] {
                assert!(!told.contains(&SECRET[..8]) && told.contains("key.pem"), "{told}");
            }
        }
    }

    #[test]
    fn each_fault_of_a_file_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let fifo = rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0);
        fifo.unwrap();
        fs::write(path("large"), vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        fs::write(path("empty"), b"").unwrap();
        let rows = [
            ("fifo", Err(FileProblem::NotAFile)),
            ("", Err(FileProblem::NotAFile)),
            ("large", Err(FileProblem::TooLarge(FILE_BYTES_MAX))),
            ("absent", Err(FileProblem::Unreadable(std::io::ErrorKind::NotFound))),
            ("empty", Ok(vec![])),
        ];
        for (name, expected) in rows {
            assert_eq!(read(&path(name)), expected, "{name}");
        }
        let rows = [
            ("", FileProblem::NoKey),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", FileProblem::NoKey),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                FileProblem::EncryptedKey,
            ),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n", FileProblem::NotPem),
        ];
        for (text, expected) in rows {
            assert_eq!(private_key(text.as_bytes()).map(drop), Err(expected), "{text}");
        }
    }
}
