//! What is wrong with certificates and keys, in fixed words.
//!
//! The libraries' own texts quote what they read, so that a line of a private key, or of a hostile certificate, would
//! reach the log; nothing here does. Neighbours: `files` and `verify` find the faults.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::pem;
use rustls::{AlertDescription, CertificateError, Error};

/// Why the files of `[tls]` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error("{key}: {} {problem}", path.display())]
    File { key: &'static str, path: PathBuf, problem: FileProblem },
    #[error("no certificate and key are configured: name them in tls.certificate and tls.key")]
    NoCertificate,
    #[error("the files of [tls] are still being read from before; look at the file system")]
    Busy,
    #[error("the TLS library refuses the settings: {0}")]
    Library(String),
}

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    #[error("cannot be read ({0}); check the path and its permissions")]
    Unreadable(io::ErrorKind),
    #[error("is not a regular file")]
    NotAFile,
    #[error("has more than {0} bytes; check that this is a PEM file")]
    TooLarge(u64),
    #[error("is not sound PEM; write it anew, nothing of it is shown here")]
    NotPem,
    #[error("holds no certificate; it is written between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----")]
    NoCertificate,
    #[error("holds a certificate that cannot be used; look at it with openssl x509 -text")]
    UnusableCertificate,
    #[error("holds no private key; it is written between -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----")]
    NoKey,
    #[error("holds a private key with a password, and nobody is there to type it; take it off with openssl pkey")]
    EncryptedKey,
    #[error("holds a private key that cannot be used; RSA of 2048 bits or more, ECDSA P-256 or P-384 and Ed25519 can")]
    UnusableKey,
    #[error("does not belong to the first certificate in the file of tls.certificate")]
    KeyMismatch,
}

impl From<pem::Error> for FileProblem {
    fn from(error: pem::Error) -> Self {
        match error {
            pem::Error::NoItemsFound => Self::NoCertificate,
            _ => Self::NotPem,
        }
    }
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("no TLS handshake within {0:?}")]
    Late(Duration),
    #[error("the TLS handshake broke off: {0}")]
    Broken(io::Error),
    /// One side does not accept what the other shows or offers: somebody has to change something.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Files(#[from] TlsFault),
    #[error("{0:?} is no name that a certificate can have: set tls_server_name")]
    Name(String),
}

impl HandshakeError {
    /// As tokio-rustls tells it: what TLS itself says is inside.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match tls_error(&error) {
            Some(text) => Self::Refused(text),
            None => Self::Broken(error),
        }
    }
}

/// The text of a TLS error within an I/O error, if there is one.
pub(crate) fn tls_error(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Error>().map(told)
}

/// A TLS error in words of ours; what the peer sent is never quoted.
pub(crate) fn told(error: &Error) -> String {
    let text = match error {
        Error::InvalidCertificate(error) => return certificate(error),
        Error::NoCertificatesPresented => {
            "the peer shows no certificate, and tls.client_certificates (tls.web_client_certificates) is \"required\": give it one"
        }
        Error::AlertReceived(alert) => return refusal(*alert),
        Error::PeerIncompatible(_) => {
            "no common TLS version or cipher suite: TLS 1.2 with ECDHE and AES-GCM, or TLS 1.3, is asked for (tls.profile)"
        }
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "the peer does not speak TLS",
        Error::PeerMisbehaved(_) | Error::InappropriateHandshakeMessage { .. } => "the peer breaks the TLS protocol",
        Error::DecryptError | Error::PeerSentOversizedRecord => "a TLS record of the peer is damaged",
        _ => "the TLS handshake failed",
    };
    text.to_owned()
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    let text = match error {
        E::Expired | E::ExpiredContext { .. } => "the peer's certificate has expired: renew it there",
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet: compare the clocks of both machines"
        }
        E::UnknownIssuer => {
            "the peer's certificate is neither pinned nor issued by an authority in the file of tls.authorities"
        }
        E::BadSignature => {
            "a signature on the peer's certificate, or with its key, is wrong: it is forged, damaged, or an authority of \
             the same name is in the file of tls.authorities"
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "the peer's certificate is for another name: set tls_server_name to a subject alternative name of it, or pin it"
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "the peer's certificate may not be used on this side of a connection (extended key usage)"
        }
        E::BadEncoding => "the peer's certificate cannot be parsed",
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the peer's certificate or its key uses an algorithm that is too weak or not known: SHA-256 or better with \
             RSA of 2048 bits or more, ECDSA or Ed25519 is asked for"
        }
        E::ApplicationVerificationFailure => "the peer's certificate is not one of those that are pinned for it",
        E::Other(other) => match other.0.to_string().as_str() {
            "CaUsedAsEndEntity" => "the peer's certificate is one of an authority itself: pin it by its fingerprint",
            "UnsupportedCertVersion" => "the peer's certificate is not of X.509 version 3: have it issued anew",
            _ => "the peer's certificate cannot be used",
        },
        _ => "the peer's certificate cannot be used",
    };
    text.to_owned()
}

/// What a peer has against us.
fn refusal(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let about = match alert {
        A::CertificateRequired | A::NoCertificate => "it asks for a certificate: name one in tls.certificate",
        A::UnknownCA | A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => {
            "it does not accept this node's certificate: have its authority, or the certificate itself, known there"
        }
        A::CertificateExpired | A::CertificateRevoked => "this node's certificate has expired or was revoked: renew it",
        A::ProtocolVersion | A::InsufficientSecurity | A::HandshakeFailure => {
            "it offers no common TLS version or cipher suite, or misses a certificate"
        }
        A::UnrecognisedName => "it does not know the name that it is called by: set tls_server_name",
        A::DecryptError => "it could not verify this node's signature: compare certificate and key",
        _ => "see its log",
    };
    format!("the peer refused the TLS connection (alert {}): {about}", u8::from(alert))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{InvalidMessage, OtherError, PeerIncompatible};

    use super::*;

    #[test]
    fn every_cause_has_words_of_its_own() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1));
        let other = |text: &'static str| CertificateError::Other(OtherError(Arc::new(io::Error::other(text))));
        let rows = [
            (Error::InvalidCertificate(CertificateError::BadSignature), "is wrong"),
            (Error::InvalidCertificate(CertificateError::Expired), "has expired"),
            (Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after: time }), "has expired"),
            (Error::InvalidCertificate(CertificateError::NotValidYet), "not valid yet"),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "neither pinned nor issued"),
            (Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure), "not one of those"),
            (Error::InvalidCertificate(other("CaUsedAsEndEntity")), "pin it"),
            (Error::InvalidCertificate(other("UnsupportedCertVersion")), "version 3"),
            (Error::InvalidCertificate(other("something else")), "cannot be used"),
            (Error::NoCertificatesPresented, "shows no certificate"),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), "no common TLS version"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "does not speak TLS"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "asks for a certificate"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "does not accept this node's"),
        ];
        for (error, part) in rows {
            assert!(told(&error).contains(part), "{error:?}: {}", told(&error));
        }
    }

    #[test]
    fn what_a_peer_wrote_into_its_certificate_is_not_repeated() {
        let error = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("pacs.example.org").unwrap(),
            presented: vec!["DOE^JANE\u{1b}[31m".into()],
        });
        assert!(error.to_string().contains("DOE^JANE"), "the library's own text does");
        assert!(told(&error).contains("another name") && !told(&error).contains("DOE"));
        let error = Error::General("DOE^JANE".into());
        assert!(!told(&error).contains("DOE"));
    }
}
