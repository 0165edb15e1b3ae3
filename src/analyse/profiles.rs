//! The profile file on its way in: read, checked for a signature where the site asks for one, and replaced by a reload.
//!
//! Neighbours: `assess` knows what a profile and a signature are. Left out: fitting, signing.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use anyhow::Context;

use super::{Analyser, cards};
use crate::assess::{Profile, ProfileSignature};
use crate::config::Risk;
use crate::domain::PublicKey;

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
    let bytes = fs::read(path)
        .with_context(|| format!("profile {} cannot be read: fit one with `sidelight profile fit`", path.display()))?;
    if !keys.is_empty() {
        check_signature(path, &bytes, keys)?;
    }
    Profile::parse(&bytes).with_context(|| format!("profile {} is not valid", path.display()))
}

/// Where the signature of a profile is: the profile's own name and `.sig`.
pub fn signature_path(profile: &Path) -> PathBuf {
    let mut name = profile.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Where a candidate for the profile's place waits for a person: the profile's own name and `.candidate`.
pub fn candidate_path(profile: &Path) -> PathBuf {
    let mut name = profile.as_os_str().to_owned();
    name.push(".candidate");
    name.into()
}

/// Writes a file so that whoever reads sees the old one or the new one.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let written = fs::File::create(&aside).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&aside, path)).with_context(|| format!("{} cannot be written", path.display()))
}

fn check_signature(path: &Path, bytes: &[u8], keys: &[PublicKey]) -> anyhow::Result<()> {
    let place = signature_path(path);
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
}
