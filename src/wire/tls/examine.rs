//! What a person should know about the files of `[tls]` before somebody else finds out: for `sidelight check`.
//!
//! Neighbours: `files` reads them as the node would. Left out: asking peers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::fault::TlsFault;
use super::{files, provider, x509};
use crate::config;

/// One file, and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The key of the configuration.
    pub key: &'static str,
    /// A remark, or what is wrong and what to do.
    pub outcome: Result<String, String>,
}

/// A certificate that ends within so many days is to be renewed.
const RENEW_DAYS: i64 = 30;

/// Permissions of those who are neither the owner nor in the group of a file.
const OTHERS: u32 = 0o007;

/// Examines what is configured; nothing where nothing is. Blocks, and may hang with the file system.
pub fn examine(tls: &config::Tls, now: DateTime<Utc>) -> Vec<Examined> {
    let mut found = Vec::new();
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        found.push(Examined { key: files::CERTIFICATE, outcome: own_certificate(certificate, now) });
        found.push(Examined { key: files::KEY, outcome: own_key(tls, key) });
    }
    if let Some(authorities) = &tls.authorities {
        found.push(Examined { key: files::AUTHORITIES, outcome: vouching(authorities, now) });
    }
    found
}

fn own_certificate(path: &Path, now: DateTime<Utc>) -> Result<String, String> {
    let chain = files::certificates(files::CERTIFICATE, path).map_err(problem)?;
    for (index, certificate) in chain.iter().enumerate() {
        let which =
            if index == 0 { "the certificate".into() } else { format!("certificate {} of the chain", index + 1) };
        let validity = x509::validity(certificate).ok_or(format!("{which} cannot be parsed"))?;
        if now < validity.not_before {
            return Err(format!("{which} is valid only from {}: compare the clock", validity.not_before));
        }
        let days = (validity.not_after - now).num_days();
        if now > validity.not_after {
            return Err(format!("{which} has expired on {}: renew it", validity.not_after));
        }
        if days < RENEW_DAYS {
            return Err(format!("{which} expires in {days} days, on {}: renew it", validity.not_after));
        }
    }
    let ends = chain.first().and_then(|own| x509::validity(own)).map(|v| v.not_after.to_string()).unwrap_or_default();
    let fingerprint = chain.first().map(|own| super::verify::fingerprint(own).to_string()).unwrap_or_default();
    Ok(format!("valid until {ends}; SHA-256 {fingerprint}"))
}

fn own_key(tls: &config::Tls, path: &Path) -> Result<String, String> {
    let only_own = config::Tls { authorities: None, ..tls.clone() };
    match files::read_all(&only_own, &provider(tls.profile)) {
        // The certificate has an entry of its own.
        Err(TlsFault::File { key: files::CERTIFICATE, .. }) => {
            return Err("cannot be compared with the certificate".into());
        }
        Err(fault) => return Err(problem(fault)),
        Ok(_) => {}
    }
    let mode = std::fs::metadata(path).map_err(|e| format!("cannot be read ({})", e.kind()))?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(format!(
            "everybody on this machine may use it (mode {:03o}): chmod o= {}",
            mode & 0o777,
            path.display()
        ));
    }
    Ok("belongs to the certificate, and is not open to others".into())
}

fn vouching(path: &Path, now: DateTime<Utc>) -> Result<String, String> {
    let found = files::certificates(files::AUTHORITIES, path).map_err(problem)?;
    for (index, certificate) in found.iter().enumerate() {
        let number = index + 1;
        let validity = x509::validity(certificate).ok_or(format!("certificate {number} cannot be parsed"))?;
        if now > validity.not_after {
            return Err(format!("certificate {number} has expired on {}: replace it", validity.not_after));
        }
        let days = (validity.not_after - now).num_days();
        if days < RENEW_DAYS {
            return Err(format!("certificate {number} expires in {days} days, on {}: replace it", validity.not_after));
        }
    }
    Ok(format!("{} authorities", found.len()))
}

/// The fault without its key, which stands beside it.
fn problem(fault: TlsFault) -> String {
    match fault {
        TlsFault::File { path, problem, .. } => format!("{} {problem}", path.display()),
        other => other.to_string(),
    }
}
