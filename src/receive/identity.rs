//! Who speaks: the user identity of an association (PS3.7 D.3.3.7), as an optional check of a source.
//!
//! User names, alone or with a passcode, are read; Kerberos, SAML and JWT are not, and do not satisfy a source that
//! asks for a user. The passcode never leaves this file: it is compared by its hash. Neighbours: `negotiate` asks.
//! Left out: TLS, which is what keeps a passcode from being read on its way.

use std::io;

use dicom_ul::pdu::{UserIdentity, UserIdentityType};

use crate::config;
use crate::domain::Digest;

/// What a source's user must bring.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    username: String,
    /// Hash of the passcode; `None`: the name is enough.
    passcode: Option<Digest>,
}

/// What an association says of its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum User {
    /// Nothing, or in a way that is not read.
    Unnamed,
    /// This name, which nobody checked.
    Claimed(String),
    /// The source's user.
    Checked(String),
}

/// The user is not that of the source, or the passcode is wrong, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotTheUser;

/// Longest passcode file, bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

impl Credentials {
    /// Reads the passcode file: its first line is the passcode, or `sha256:` and its hash.
    pub(super) fn load(user: &config::User) -> io::Result<Self> {
        let Some(path) = &user.passcode_file else {
            return Ok(Self { username: user.username.clone(), passcode: None });
        };
        let told = |cause: &dyn std::fmt::Display| {
            io::Error::other(format!("sources: passcode_file {} cannot be used: {cause}", path.display()))
        };
        let text = config::read_secret_text(path, FILE_BYTES_MAX).map_err(|cause| told(&cause))?;
        let passcode = Self::passcode(text.lines().next().unwrap_or_default()).map_err(|cause| told(&cause))?;
        Ok(Self { username: user.username.clone(), passcode: Some(passcode) })
    }

    fn passcode(line: &str) -> Result<Digest, &'static str> {
        match line.strip_prefix("sha256:") {
            Some(hash) => Digest::parse(hash.trim()).map_err(|_| "after sha256: come 64 hexadecimal digits"),
            None if line.is_empty() => Err("its first line is empty; write the passcode there"),
            None => Ok(Digest::of(line.as_bytes())),
        }
    }

    fn admits(&self, name: &str, passcode: Option<&[u8]>) -> bool {
        let passcode_fits = match &self.passcode {
            None => true,
            Some(expected) => passcode.is_some_and(|given| Digest::of(given) == *expected),
        };
        passcode_fits && name == self.username
    }
}

/// Judges what the association says against what its source asks for.
pub(super) fn check(said: Option<&UserIdentity>, asked: Option<&Credentials>) -> Result<User, NotTheUser> {
    let named = said.and_then(|said| match said.identity_type() {
        UserIdentityType::Username => Some((text(&said.primary_field()), None)),
        UserIdentityType::UsernamePassword => Some((text(&said.primary_field()), Some(said.secondary_field()))),
        _ => None,
    });
    match (named, asked) {
        (None, None) => Ok(User::Unnamed),
        (None, Some(_)) => Err(NotTheUser),
        (Some((name, _)), None) => Ok(User::Claimed(name)),
        (Some((name, passcode)), Some(asked)) if asked.admits(&name, passcode.as_deref()) => Ok(User::Checked(name)),
        (Some(_), Some(_)) => Err(NotTheUser),
    }
}

/// The Standard has UTF-8; a name that is none cannot be that of a source.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn credentials(file: Option<&str>) -> io::Result<Credentials> {
        let written = file.map(|text| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        });
        let passcode_file = written.as_ref().map(|file| file.path().to_owned());
        Credentials::load(&config::User { username: "anna".into(), passcode_file })
    }

    fn said(kind: UserIdentityType, name: &str, passcode: &str) -> UserIdentity {
        UserIdentity::new(false, kind, name.into(), passcode.into())
    }

    #[test]
    fn a_user_is_who_the_source_asks_for_with_the_passcode_of_the_file() {
        use UserIdentityType::*;
        let hashed = format!("sha256:{}\n", Digest::of(b"secret").as_str());
        let checked = Ok(User::Checked("anna".into()));
        let claimed = Ok(User::Claimed("anna".into()));
        let rows = [
            (None, None, Ok(User::Unnamed)),
            (Some(said(Username, "anna", "")), None, claimed.clone()),
            (Some(said(UsernamePassword, "anna", "x")), None, claimed),
            (Some(said(Jwt, "ey", "")), None, Ok(User::Unnamed)),
            (None, Some(None), Err(NotTheUser)),
            (Some(said(Jwt, "anna", "secret")), Some(None), Err(NotTheUser)),
            (Some(said(Username, "anna", "")), Some(None), checked.clone()),
            (Some(said(UsernamePassword, "anna", "any")), Some(None), checked.clone()),
            (Some(said(Username, "Anna", "")), Some(None), Err(NotTheUser)),
            (Some(said(UsernamePassword, "anna", "secret")), Some(Some("secret\nmore\n")), checked.clone()),
            (Some(said(UsernamePassword, "anna", "secret")), Some(Some(hashed.as_str())), checked),
            (Some(said(UsernamePassword, "anna", "wrong")), Some(Some("secret")), Err(NotTheUser)),
            (Some(said(UsernamePassword, "anna", "")), Some(Some("secret")), Err(NotTheUser)),
            (Some(said(UsernamePassword, "bert", "secret")), Some(Some("secret")), Err(NotTheUser)),
            (Some(said(Username, "anna", "secret")), Some(Some("secret")), Err(NotTheUser)),
            (None, Some(Some("secret")), Err(NotTheUser)),
        ];
        for (said, file, expected) in rows {
            let asked = file.map(|file| credentials(file).unwrap());
            assert_eq!(check(said.as_ref(), asked.as_ref()), expected, "{said:?} {file:?}");
        }
    }

    #[test]
    fn a_passcode_file_that_is_empty_damaged_or_missing_is_refused_by_name_and_never_shown() {
        for text in ["", "\nsecret", "sha256:12"] {
            let told = credentials(Some(text)).unwrap_err().to_string();
            assert!(told.starts_with("sources: passcode_file /"), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
        let missing = config::User { username: "anna".into(), passcode_file: Some("/nowhere/at/all".into()) };
        assert!(Credentials::load(&missing).unwrap_err().to_string().contains("/nowhere/at/all"));
        let shown = format!("{:?}", credentials(Some("secret")).unwrap());
        assert!(!shown.contains(Digest::of(b"secret").as_str()) && !shown.contains("secret"), "{shown}");
    }
}
