//! The profile file on its way in: read, checked for a signature where the site asks for one, and replaced by a reload.
//!
//! Neighbours: `assess` knows what a profile and a signature are. Left out: fitting, signing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use anyhow::Context;

use super::{Analyser, cards};
use crate::assess::{Profile, ProfileSignature};
use crate::config::Risk;
use crate::domain::{Digest, PublicKey};

impl Analyser {
    /// The profile in force.
    pub fn profile(&self) -> Option<Arc<Profile>> {
        self.profile.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the profile again, for studies that are assessed from now on; one that may not be used leaves the old one in
    /// force. Its identifier, if it is another.
    pub fn reload_profile(&self, risk: &Risk) -> anyhow::Result<Option<String>> {
        let new = configured(risk)?.map(|profile| Arc::new(profile.for_cards(&cards(&self.packages))));
        let name = |profile: &Option<Arc<Profile>>| profile.as_ref().map_or("none".to_owned(), |p| p.id.clone());
        let mut profile = self.profile.write().unwrap_or_else(PoisonError::into_inner);
        let changed = (name(&profile) != name(&new)).then(|| name(&new));
        *profile = new;
        Ok(changed)
    }
}

/// Reads and checks a profile file, whoever let it in.
pub fn read_profile(path: &Path) -> anyhow::Result<Profile> {
    read_trusted(path, &[])
}

/// Reads and checks a profile file; where there are `keys`, one of them has to have signed it, in [`signature_path`].
pub fn read_trusted(path: &Path, keys: &[PublicKey]) -> anyhow::Result<Profile> {
    Ok(read_whole(path, keys)?.0)
}

/// As [`read_trusted`], with the bytes that were read.
pub fn read_whole(path: &Path, keys: &[PublicKey]) -> anyhow::Result<(Profile, Vec<u8>)> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).and_then(|f| f.take(Profile::BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    file.with_context(|| format!("profile {} cannot be read: fit one with `sidelight profile fit`", path.display()))?;
    if !keys.is_empty() {
        check_signature(path, &bytes, keys)?;
    }
    let profile = Profile::parse(&bytes).with_context(|| format!("profile {} is not valid", path.display()))?;
    Ok((profile, bytes))
}

/// Puts a profile in the place of another. Whenever the machine stops, the one that is there has its signature: the new
/// one's waits under the digest of its bytes until they are in place.
pub fn replace_profile(path: &Path, bytes: &[u8], signature: Option<&ProfileSignature>) -> anyhow::Result<()> {
    let (place, early) = (signature_path(path), early_signature_path(path, bytes));
    signature.map_or(Ok(()), |signature| write_whole(&early, &signature.to_json()))?;
    write_whole(path, bytes)?;
    let done = match signature {
        Some(_) => fs::rename(&early, &place),
        None if place.exists() => fs::remove_file(&place),
        None => Ok(()),
    };
    done.and_then(|()| sync_folder(path)).with_context(|| format!("{} cannot be written", place.display()))
}

fn early_signature_path(profile: &Path, bytes: &[u8]) -> PathBuf {
    beside(profile, &format!(".sig.{}", &Digest::of(bytes).as_str()[..16]))
}

/// Where the signature of a profile is: the profile's own name and `.sig`.
pub fn signature_path(profile: &Path) -> PathBuf {
    beside(profile, ".sig")
}

/// Where a candidate for the profile's place waits for a person: the profile's own name and `.candidate`.
pub fn candidate_path(profile: &Path) -> PathBuf {
    beside(profile, ".candidate")
}

/// Where the profile that was replaced is kept.
pub fn previous_path(profile: &Path) -> PathBuf {
    beside(profile, ".previous")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Writes a file so that whoever reads sees the old one or the new one, after a power cut too.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let aside = beside(path, ".new");
    let written = fs::File::create(&aside).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    let in_place = written.and_then(|()| fs::rename(&aside, path)).and_then(|()| sync_folder(path));
    in_place.with_context(|| format!("{} cannot be written", path.display()))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

fn check_signature(path: &Path, bytes: &[u8], keys: &[PublicKey]) -> anyhow::Result<()> {
    let early = early_signature_path(path, bytes);
    let place = if early.exists() { early } else { signature_path(path) };
    let signature = match fs::read(&place) {
        Ok(signature) => signature,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => anyhow::bail!(
            "profile {} is not signed, and risk.profile_keys asks for a signature: look at it with `sidelight profile \
             show`, then sign it with `sidelight profile sign`",
            path.display()
        ),
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", place.display())),
    };
    let judged = ProfileSignature::parse(&signature).and_then(|signature| signature.verify(bytes, keys));
    judged.with_context(|| format!("profile {} may not be used: {}", path.display(), place.display()))
}

/// The profile that the configuration names, if it names one.
pub(super) fn configured(risk: &Risk) -> anyhow::Result<Option<Profile>> {
    risk.profile.as_deref().map(|path| read_trusted(path, &risk.profile_keys)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::SigningKey;

    #[test]
    fn with_keys_a_profile_needs_a_signature_by_one_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        fs::copy("models/demo-profile.json", &path).unwrap();
        let key = || {
            let pkcs8 = ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
            SigningKey::parse(&SigningKey::to_pem(pkcs8.as_ref())).unwrap()
        };
        let (own, other) = (key(), key());
        let keys = [other.public(), own.public()];
        let fault = |keys: &[PublicKey]| format!("{:#}", read_trusted(&path, keys).unwrap_err());
        assert!(read_trusted(&path, &[]).is_ok());
        assert!(fault(&keys).contains("is not signed, and risk.profile_keys asks for a signature"));
        let file = fs::read(&path).unwrap();
        let place = signature_path(&path);
        assert_eq!(place, folder.path().join("profile.json.sig"));
        fs::write(&place, own.sign("demo", &file).to_json()).unwrap();
        assert!(read_trusted(&path, &keys).is_ok());
        assert!(fault(&[other.public()]).contains("not among risk.profile_keys"));
        // A change that leaves the profile intact, such as another id of the same form, is one all the same.
        fs::write(&path, [file.as_slice(), b"\n"].concat()).unwrap();
        assert!(read_trusted(&path, &[]).is_ok() && fault(&keys).contains("changed after it was signed"));
        fs::write(&place, b"{}").unwrap();
        assert!(fault(&keys).contains("is no signature of a profile"));
    }

    #[test]
    fn a_profile_has_its_signature_at_every_moment_of_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let (path, at) = (folder.path().join("profile.json"), |name: &str| folder.path().join(name));
        let pkcs8 = ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let key = SigningKey::parse(&SigningKey::to_pem(pkcs8.as_ref())).unwrap();
        let old = fs::read("models/demo-profile.json").unwrap();
        let new = [old.as_slice(), b"\n"].concat();
        let signed = |bytes: &[u8]| key.sign("demo", bytes);
        let is_trusted = || read_trusted(&path, &[key.public()]).is_ok();
        replace_profile(&path, &old, Some(&signed(&old))).unwrap();
        assert!(is_trusted());
        // Stopped before the change, and right after it.
        let early = early_signature_path(&path, &new);
        fs::write(&early, signed(&new).to_json()).unwrap();
        assert!(is_trusted());
        fs::write(&path, &new).unwrap();
        assert!(is_trusted());
        replace_profile(&path, &new, Some(&signed(&new))).unwrap();
        assert!(is_trusted() && !early.exists());
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        replace_profile(&path, &old, None).unwrap();
        assert!(!is_trusted() && !at("profile.json.sig").exists() && read_profile(&path).is_ok());
        fs::write(&path, vec![b' '; Profile::BYTES_MAX + 9]).unwrap();
        assert!(format!("{:#}", read_profile(&path).unwrap_err()).contains("has 33554433 bytes"), "no more is read");
    }
}
