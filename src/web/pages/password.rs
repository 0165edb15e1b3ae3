//! Passwords of people: argon2id hashes (RFC 9106) as PHC strings, made here and compared here.
//!
//! What a hash asks for in memory and time is bounded on both sides: one that is too cheap protects nobody, one that is
//! too dear is a way to stop the node. Neighbours: `people` reads the files, `login` bounds how many are compared at
//! once. Left out: which password belongs to whom.

use anyhow::{anyhow, ensure};
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::TryRngCore as _;
use rand::rngs::OsRng;

/// A password has so many characters at least (NIST SP 800-63B asks for 8, and for 15 where nothing else is asked)…
const CHARS_MIN: usize = 12;
/// …and so many bytes at most: a passphrase, not a book.
pub(super) const BYTES_MAX: usize = 1024;
/// Memory of one comparison, KiB.
const MEMORY_KIB_MAX: u32 = 256 << 10;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// Memory in KiB times passes, as the cheapest of the recommended settings has it (7 MiB, five passes).
const WORK_MIN: u64 = 5 * (7 << 10);

/// A hash of which it is known that it can be compared with.
#[derive(Clone)]
pub(super) struct Hash(PasswordHash);

impl Hash {
    /// # Errors
    /// What is wrong with the text, of which nothing is repeated.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let remedy = "make it with `sidelight users hash`";
        let hash = PasswordHash::new(text.trim()).map_err(|_| anyhow!("holds no argon2 hash in PHC form; {remedy}"))?;
        let is_current = hash.version == Some(Version::V0x13.into());
        ensure!(
            hash.algorithm == Algorithm::Argon2id.ident() && is_current,
            "holds a hash of another kind than argon2id, version 19; {remedy}"
        );
        let params =
            Params::try_from(&hash).map_err(|_| anyhow!("holds a hash with impossible parameters; {remedy}"))?;
        let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        ensure!(
            u64::from(memory) * u64::from(passes) >= WORK_MIN && memory >= 7 << 10,
            "holds a hash that is too easily guessed from (m={memory}, t={passes}); {remedy}"
        );
        ensure!(
            memory <= MEMORY_KIB_MAX && passes <= PASSES_MAX && lanes <= LANES_MAX,
            "holds a hash that costs too much to compare with (m={memory}, t={passes}, p={lanes}); {remedy}"
        );
        let salt = hash.salt.as_ref().map_or(0, |salt| salt.len());
        let output = hash.hash.as_ref().map_or(0, Output::len);
        ensure!(salt >= 8 && output >= 16, "holds a hash with too short a salt or result; {remedy}");
        Ok(Self(hash))
    }

    /// One that no password has, and that costs as much to compare with as this one.
    pub(super) fn of_nobody(&self) -> anyhow::Result<Self> {
        let output = Output::new(&random::<32>()?).map_err(|e| anyhow!("no hash: {e}"))?;
        let salt = Salt::new(&random::<16>()?).map_err(|e| anyhow!("no salt: {e}"))?;
        Ok(Self(PasswordHash { salt: Some(salt), hash: Some(output), ..self.0.clone() }))
    }

    /// Whether this is the password. Takes tens of milliseconds and some memory.
    pub(super) fn is_of(&self, password: &str) -> bool {
        Argon2::default().verify_password(password.as_bytes(), &self.0).is_ok()
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// The PHC string of a password, with a fresh salt.
///
/// # Errors
/// A password that is too short or too long.
pub fn hash(password: &str) -> anyhow::Result<String> {
    ensure!(password.chars().count() >= CHARS_MIN, "a password has at least {CHARS_MIN} characters");
    ensure!(password.len() <= BYTES_MAX, "a password has at most {BYTES_MAX} bytes");
    ensure!(!password.contains(['\r', '\n', '\0']), "a password is one line of text");
    let salt = random::<16>()?;
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|e| anyhow!("the password could not be hashed: {e}"))?.to_string())
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|e| anyhow!("the system gives no random numbers: {e}"))?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_alone_and_never_twice_the_same() {
        let password = "correct horse battery";
        let text = hash(password).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_ne!(text, hash(password).unwrap());
        let parsed = Hash::parse(&format!("{text}\n")).unwrap();
        assert!(parsed.is_of(password));
        assert!(!parsed.is_of("correct horse batter") && !parsed.is_of(""));
        assert!(!parsed.of_nobody().unwrap().is_of(password));
        assert_eq!(format!("{parsed:?}"), "Hash(…)");
    }

    #[test]
    fn a_password_is_neither_short_nor_endless() {
        for (password, is_one) in [
            ("eleven char", false),
            ("twelve chars", true),
            ("zwölf Zeichen", true),
            (&"x".repeat(1024), true),
            (&"x".repeat(1025), false),
            ("twelve\nchars", false),
        ] {
            assert_eq!(hash(password).is_ok(), is_one, "{}", password.len());
        }
    }

    #[test]
    fn a_hash_that_is_cheap_dear_or_of_another_kind_is_refused() {
        let salt = "c2FsdHNhbHRzYWx0c2FsdA";
        let output = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let rows = [
            (format!("$argon2id$v=19$m=19456,t=2,p=1${salt}${output}"), None),
            (format!("$argon2id$v=19$m=65536,t=3,p=4${salt}${output}"), None),
            (format!("$argon2i$v=19$m=19456,t=2,p=1${salt}${output}"), Some("another kind")),
            (format!("$argon2id$v=16$m=19456,t=2,p=1${salt}${output}"), Some("another kind")),
            (format!("$argon2id$v=19$m=4096,t=1,p=1${salt}${output}"), Some("easily guessed")),
            (format!("$argon2id$v=19$m=4194304,t=2,p=1${salt}${output}"), Some("costs too much")),
            (format!("$argon2id$v=19$m=19456,t=4000000,p=1${salt}${output}"), Some("costs too much")),
            (format!("$argon2id$v=19$m=19456,t=2,p=1${salt}"), Some("too short")),
            ("$2b$12$abcdefghijklmnopqrstuv".into(), Some("no argon2 hash")),
            ("correct horse battery".into(), Some("no argon2 hash")),
            (String::new(), Some("no argon2 hash")),
        ];
        for (text, fault) in rows {
            let told = Hash::parse(&text).err().map(|e| e.to_string());
            assert_eq!(told.is_some(), fault.is_some(), "{text}: {told:?}");
            let told = told.unwrap_or_default();
            assert!(told.contains(fault.unwrap_or_default()) && !told.contains("horse"), "{text}: {told}");
        }
    }
}
