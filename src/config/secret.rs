//! Files that are named in the configuration and hold a secret: read within bounds, and who else may read them.
//!
//! A name may be that of a FIFO or a device, which would hold up a start, so that a path is opened without waiting and
//! only a regular file of a sane size is read. What is in a file never reaches an error. Neighbours: `receive`, `web`,
//! `deliver` and `wire` read their own; `sidelight check` and the start of the node tell who else may. Left out: what
//! a file holds.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Config, Endpoint};

/// Why a file cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    #[error("cannot be read ({0}); check the path and its permissions")]
    Unreadable(io::ErrorKind),
    #[error("is not a regular file")]
    NotAFile,
    #[error("has more than {0} bytes; check that this is the file that is meant")]
    TooLarge(u64),
    #[error("is not text in UTF-8")]
    NotText,
}

/// The bytes of a regular file of at most so many. A FIFO or a device is opened without waiting, and refused.
///
/// # Errors
/// [`SecretFault`], of which nothing tells what the file holds.
pub fn read_secret(path: &Path, bytes_max: u64) -> Result<Vec<u8>, SecretFault> {
    let unreadable = |e: io::Error| SecretFault::Unreadable(e.kind());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file: File = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| unreadable(e.into()))?.into();
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(SecretFault::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max { Err(SecretFault::TooLarge(bytes_max)) } else { Ok(bytes) }
}

/// As [`read_secret`], for text.
///
/// # Errors
/// As there.
pub fn read_secret_text(path: &Path, bytes_max: u64) -> Result<String, SecretFault> {
    String::from_utf8(read_secret(path, bytes_max)?).map_err(|_| SecretFault::NotText)
}

/// Who besides its owner may read a file, and what to do; `None`: nobody, or the file is not there.
pub fn open_to_others(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let (who, remedy) = match mode {
        mode if mode & 0o007 != 0 => ("everybody on this machine", "chmod go="),
        mode if mode & 0o070 != 0 => ("its group", "chmod g="),
        _ => return None,
    };
    Some(format!("{who} may read or change it (mode {mode:03o}): {remedy} {}", path.display()))
}

impl Config {
    /// The files that hold a secret, with the key that names each.
    pub fn secret_files(&self) -> Vec<(String, PathBuf)> {
        let mut files: Vec<(String, PathBuf)> = self.tls.key.iter().map(|p| ("tls.key".into(), p.clone())).collect();
        for (i, source) in self.sources.iter().enumerate() {
            let passcode = source.user.as_ref().and_then(|user| user.passcode_file.clone());
            files.extend(passcode.map(|path| (format!("sources[{i}].passcode_file"), path)));
        }
        for (i, client) in self.web.clients.iter().enumerate().filter(|_| self.web.dicomweb) {
            files.push((format!("web_clients[{i}].token_file"), client.token_file.clone()));
        }
        for (i, user) in self.web.users.iter().enumerate().filter(|_| self.web.pages) {
            files.push((format!("web_users[{i}].password_file"), user.password_file.clone()));
        }
        for (i, destination) in self.destinations.iter().enumerate() {
            if let Endpoint::Stow { token_file: Some(path), .. } = &destination.endpoint {
                files.push((format!("destinations[{i}].token_file"), path.clone()));
            }
        }
        files
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_secret_is_read_from_a_regular_file_of_a_sane_size_and_nothing_else_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), kind, Mode::RUSR, 0).unwrap();
        fs::write(path("large"), [b'x'; 11]).unwrap();
        fs::write(path("fits"), [b'x'; 10]).unwrap();
        fs::write(path("bytes"), [0xff]).unwrap();
        let rows = [
            ("fifo", Err(SecretFault::NotAFile)),
            ("", Err(SecretFault::NotAFile)),
            ("large", Err(SecretFault::TooLarge(10))),
            ("absent", Err(SecretFault::Unreadable(io::ErrorKind::NotFound))),
            ("bytes", Err(SecretFault::NotText)),
            ("fits", Ok("xxxxxxxxxx".to_owned())),
        ];
        for (name, expected) in rows {
            assert_eq!(read_secret_text(&path(name), 10), expected, "{name}");
        }
    }

    #[test]
    fn who_else_may_read_a_secret_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "secret").unwrap();
        let told = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            open_to_others(&path)
        };
        assert_eq!((told(0o600), told(0o400)), (None, None));
        assert!(told(0o640).unwrap().starts_with("its group may read or change it (mode 640): chmod g= /"));
        assert!(told(0o604).unwrap().starts_with("everybody on this machine"));
        assert_eq!(open_to_others(&dir.path().join("absent")), None, "told by whoever reads it");
    }
}
