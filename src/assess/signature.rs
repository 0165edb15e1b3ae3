//! Who vouches for a profile: an Ed25519 signature (RFC 8032) in a file of its own beside it.
//!
//! A profile's identifier says that nobody edited it by accident; a signature by a key that the site trusts says who let
//! it in. It covers every byte of the profile's file. Neighbours: `analyse` asks for one where `risk.profile_keys` names
//! keys, `commands` sign. Left out: files, and making keys, which takes random numbers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::domain::PublicKey;

/// A key that signs.
pub struct SigningKey(Ed25519KeyPair);

/// A signature as it is written beside a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileSignature {
    format: u32,
    /// Identifier of the profile, for people; the signature is over the file.
    pub profile: String,
    pub key: PublicKey,
    /// Base64.
    signature: String,
}

/// Why a signature, or a key, is none that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("it is no signature of a profile: {0}; sign the profile again with `sidelight profile sign`")]
    Malformed(String),
    #[error(
        "it was signed with the key {0}, which is not among risk.profile_keys; sign it with one that is, or add that key"
    )]
    Stranger(PublicKey),
    #[error(
        "the signature is not of this file: the profile was changed after it was signed, or the signature is another's"
    )]
    Wrong,
    #[error("it is no private key: a file of `sidelight profile key`, or Ed25519 in PKCS#8 (PEM), is needed")]
    Key,
}

const FORMAT: u32 = 1;
/// Before what is signed, so that no signature of something else is one of a profile.
const DOMAIN: &[u8] = b"sidelight profile signature 1\n";
const BYTES_MAX: usize = 1 << 12;
const PEM: (&str, &str) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");

impl SigningKey {
    /// From PEM: PKCS#8, as `openssl genpkey -algorithm ed25519` writes it too.
    pub fn parse(pem: &str) -> Result<Self, SignatureError> {
        let inner = pem.trim().strip_prefix(PEM.0).and_then(|rest| rest.strip_suffix(PEM.1));
        let text: String = inner.ok_or(SignatureError::Key)?.split_ascii_whitespace().collect();
        let der = STANDARD.decode(text).map_err(|_| SignatureError::Key)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| SignatureError::Key)
    }

    /// The PEM of a key in PKCS#8.
    pub fn to_pem(pkcs8: &[u8]) -> String {
        let text = STANDARD.encode(pkcs8);
        let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned());
        format!("{}\n{}\n{}\n", PEM.0, lines.collect::<Vec<_>>().join("\n"), PEM.1)
    }

    pub fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref();
        PublicKey::new(bytes.try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs the bytes of a profile's file.
    pub fn sign(&self, profile: &str, file: &[u8]) -> ProfileSignature {
        let signature = STANDARD.encode(self.0.sign(&message(file)));
        ProfileSignature { format: FORMAT, profile: profile.to_owned(), key: self.public(), signature }
    }
}

impl ProfileSignature {
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        if bytes.len() > BYTES_MAX {
            return Err(SignatureError::Malformed(format!("it has more than {BYTES_MAX} bytes")));
        }
        let parsed: Self = serde_json::from_slice(bytes).map_err(|e| SignatureError::Malformed(e.to_string()))?;
        match parsed.format {
            FORMAT => Ok(parsed),
            other => Err(SignatureError::Malformed(format!("it has format {other}, this version reads {FORMAT}"))),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a signature is plain text");
        bytes.push(b'\n');
        bytes
    }

    /// Whether one of the `trusted` keys signed exactly this file.
    pub fn verify(&self, file: &[u8], trusted: &[PublicKey]) -> Result<(), SignatureError> {
        if !trusted.contains(&self.key) {
            return Err(SignatureError::Stranger(self.key.clone()));
        }
        let signature =
            STANDARD.decode(&self.signature).map_err(|_| SignatureError::Malformed("it is no base64".into()))?;
        let key = UnparsedPublicKey::new(&ED25519, self.key.as_bytes());
        key.verify(&message(file), &signature).map_err(|_| SignatureError::Wrong)
    }
}

fn message(file: &[u8]) -> Vec<u8> {
    [DOMAIN, file].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        SigningKey::parse(&SigningKey::to_pem(pkcs8.as_ref())).unwrap()
    }

    #[test]
    fn only_a_trusted_keys_signature_of_this_very_file_counts() {
        let (own, other) = (key(), key());
        let signature = ProfileSignature::parse(&own.sign("profile-1", b"file").to_json()).unwrap();
        assert_eq!(signature.verify(b"file", &[other.public(), own.public()]), Ok(()));
        assert_eq!(signature.verify(b"file.", &[own.public()]), Err(SignatureError::Wrong));
        assert_eq!(signature.verify(b"file", &[other.public()]), Err(SignatureError::Stranger(own.public())));
        assert_eq!(signature.verify(b"file", &[]), Err(SignatureError::Stranger(own.public())));
        // Somebody else's signature under a trusted name.
        let forged = ProfileSignature { key: own.public(), ..other.sign("profile-1", b"file") };
        assert_eq!(forged.verify(b"file", &[own.public()]), Err(SignatureError::Wrong));
        // Not of a profile: the bytes alone.
        let bare = ProfileSignature { signature: STANDARD.encode(own.0.sign(b"file")), ..signature.clone() };
        assert_eq!(bare.verify(b"file", &[own.public()]), Err(SignatureError::Wrong));
        let cut = ProfileSignature { signature: "AAAA".into(), ..signature };
        assert_eq!(cut.verify(b"file", &[own.public()]), Err(SignatureError::Wrong));
    }

    #[test]
    fn the_signature_is_openssls() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let openssl = |arguments: &[&str]| {
            let run =
                std::process::Command::new("openssl").args(arguments).current_dir(folder.path()).output().unwrap();
            assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        };
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", "key.pem"]);
        openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "public.der"]);
        let key = SigningKey::parse(&std::fs::read_to_string(at("key.pem")).unwrap()).unwrap();
        let der = std::fs::read(at("public.der")).unwrap();
        assert_eq!(key.public().as_bytes().as_slice(), &der[der.len() - 32..]);
        let signed = key.sign("profile-1", b"file");
        std::fs::write(at("message"), message(b"file")).unwrap();
        std::fs::write(at("signature"), STANDARD.decode(&signed.signature).unwrap()).unwrap();
        openssl(&[
            "pkeyutl",
            "-verify",
            "-pubin",
            "-keyform",
            "DER",
            "-inkey",
            "public.der",
            "-rawin",
            "-in",
            "message",
            "-sigfile",
            "signature",
        ]);
    }

    #[test]
    fn what_is_no_key_or_signature_says_so() {
        for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"]
        {
            assert!(matches!(SigningKey::parse(text), Err(SignatureError::Key)), "{text}");
        }
        let good = String::from_utf8(key().sign("p", b"").to_json()).unwrap();
        for (from, to, reason) in [
            ("\"format\": 1", "\"format\": 2", "format 2"),
            ("\"key\"", "\"kei\"", "unknown field"),
            ("{", "", "expected"),
        ] {
            let error = ProfileSignature::parse(good.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(ProfileSignature::parse(&vec![b' '; BYTES_MAX + 1]).is_err());
    }
}
