//! Whom to believe: certificates that are pinned, and certificates that an authority vouches for.
//!
//! A pinned certificate needs no authority and no name, but must be valid today, and the peer must hold its key. On the
//! accepting side a pin says that somebody may connect; to which AE titles the certificate belongs is asked when the
//! calling title is known (`receive`). Neighbours: rustls asks during the handshake. Left out: revocation lists.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use chrono::DateTime;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::fault::TlsFault;
use super::x509;
use crate::config::Fingerprint;

/// The SHA-256 fingerprint of a certificate.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

/// Judges those who connect to the node.
pub(super) struct Clients {
    /// What is pinned to any source.
    pinned: BTreeSet<Fingerprint>,
    authorities: Option<Arc<dyn ClientCertVerifier>>,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

/// Judges one destination.
pub(super) struct Server {
    /// Where there are any, nothing else is believed.
    pinned: Vec<Fingerprint>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Clients {
    pub(super) fn new(
        pinned: BTreeSet<Fingerprint>,
        authorities: Option<Arc<RootCertStore>>,
        mandatory: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsFault> {
        let build = |store| WebPkiClientVerifier::builder_with_provider(store, Arc::clone(&provider)).build();
        let authorities = authorities.map(build).transpose().map_err(|e| TlsFault::Library(e.to_string()))?;
        Ok(Self { pinned, authorities, mandatory, provider })
    }
}

impl Server {
    pub(super) fn new(
        pinned: Vec<Fingerprint>,
        authorities: Option<Arc<RootCertStore>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsFault> {
        let build = |store| WebPkiServerVerifier::builder_with_provider(store, Arc::clone(&provider)).build();
        let authorities = authorities.map(build).transpose().map_err(|e| TlsFault::Library(e.to_string()))?;
        Ok(Self { pinned, authorities, provider })
    }
}

/// Signatures are judged alike on both sides, and asked for by two traits.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: clients choose by these hints, and would not offer a certificate that is pinned.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.pinned.contains(&fingerprint(end_entity)) {
            valid_today(end_entity, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        match &self.authorities {
            Some(authorities) => authorities.verify_client_cert(end_entity, intermediates, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    signatures!();
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pinned.is_empty() {
            if !self.pinned.contains(&fingerprint(end_entity)) {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
            valid_today(end_entity, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    signatures!();
}

/// A pin says whose certificate it is, not that it may be used for ever.
fn valid_today(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    match (x509::validity(certificate), now) {
        (Some(validity), Some(now)) if now < validity.not_before => Err(CertificateError::NotValidYet.into()),
        (Some(validity), Some(now)) if now > validity.not_after => Err(CertificateError::Expired.into()),
        (Some(_), Some(_)) => Ok(()),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("pinned", &self.pinned.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("pinned", &self.pinned).finish_non_exhaustive()
    }
}
