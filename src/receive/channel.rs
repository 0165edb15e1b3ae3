//! The way a peer has come: in the clear or over TLS, and with which certificate.
//!
//! A certificate that is pinned to some source belongs to that source only, even if an authority vouches for it too:
//! it may not call under another title. Neighbours: `mod` makes the handshake and asks here once the calling title is
//! known; `wire` has judged the certificate itself. Left out: titles and addresses, which `negotiate` judges.

use std::sync::Arc;

use dicom_ul::pdu::AbortRQSource;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::config::{self, Fingerprint};
use crate::domain::AeTitle;
use crate::wire::tls::HandshakeError;
use crate::wire::{Stream, Tls, Wire};

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Plain,
    /// With the certificate that the client showed, if it was asked for one and had one.
    Tls {
        certificate: Option<Fingerprint>,
    },
}

/// Why a caller may not come this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongWay {
    #[error("this source may come over TLS only (sources.tls)")]
    InTheClear,
    #[error("this source has certificates pinned (sources.certificates), and came without one")]
    NoCertificate,
    #[error("certificate {0} is not pinned to this source (sources.certificates)")]
    NotPinned(Fingerprint),
    #[error("certificate {0} is pinned to another source (sources.certificates)")]
    OfAnother(Fingerprint),
}

/// Whether `calling` may come through this channel.
pub(super) fn judge(sources: &[config::Source], calling: &AeTitle, channel: Channel) -> Result<(), WrongWay> {
    let source = sources.iter().find(|source| source.ae_title == *calling);
    let pinned = source.map_or(&[][..], |source| &source.certificates);
    match channel {
        Channel::Plain if source.is_some_and(|source| source.tls) => Err(WrongWay::InTheClear),
        Channel::Plain => Ok(()),
        Channel::Tls { certificate: Some(shown) } if pinned.contains(&shown) => Ok(()),
        Channel::Tls { certificate: Some(shown) } if !pinned.is_empty() => Err(WrongWay::NotPinned(shown)),
        Channel::Tls { certificate: Some(shown) } => {
            let of_another = sources.iter().any(|source| source.certificates.contains(&shown));
            if of_another { Err(WrongWay::OfAnother(shown)) } else { Ok(()) }
        }
        Channel::Tls { certificate: None } if !pinned.is_empty() => Err(WrongWay::NoCertificate),
        Channel::Tls { certificate: None } => Ok(()),
    }
}

/// The TLS handshake of a connection, done by `deadline`; `None` where it failed, which was logged, and the peer told.
pub(super) async fn secure(tls: &Arc<Tls>, tcp: TcpStream, deadline: Instant) -> Option<(Stream, Channel)> {
    let mut first = [0; 1];
    match timeout_at(deadline, tcp.peek(&mut first)).await {
        Ok(Ok(1..)) => {}
        // Load balancers and monitors connect and leave; that is no event.
        Ok(_) => {
            debug!("the connection ended before its TLS handshake");
            return None;
        }
        Err(_) => {
            warn!("no TLS handshake in time");
            return None;
        }
    }
    // The type of a PDU; a TLS record begins with 16H.
    if (0x01..=0x07).contains(&first[0]) {
        warn!("a peer without TLS on the port for TLS: let it call node.listen, or switch TLS on there");
        if let Ok(wire) = Wire::new(tcp, deadline - Instant::now()) {
            wire.abort(AbortRQSource::ServiceUser).await;
        }
        return None;
    }
    match timeout_at(deadline, tls.accept(tcp)).await {
        Ok(Ok((stream, certificate))) => {
            if let Stream::Tls(tls) = &stream {
                let state = tls.get_ref().1;
                let (version, suite) = (state.protocol_version(), state.negotiated_cipher_suite().map(|s| s.suite()));
                info!(?version, ?suite, certificate = certificate.map(tracing::field::display), "TLS connection");
            }
            Some((stream, Channel::Tls { certificate }))
        }
        Ok(Err((error, tcp))) => {
            match &error {
                HandshakeError::Broken(_) => debug!(%error, "no TLS connection"),
                error => warn!(%error, "no TLS connection"),
            }
            if let Ok(wire) = Wire::new(tcp, deadline - Instant::now()) {
                wire.drain().await;
            }
            None
        }
        Err(_) => {
            warn!("no TLS handshake in time");
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_certificate_belongs_to_its_sources_and_to_nobody_else() {
        let pin = |byte| Fingerprint([byte; 32]);
        let source = |title: &str, tls, pins: &[u8]| config::Source {
            ae_title: AeTitle::parse(title).unwrap(),
            hosts: vec![],
            quiet_period: None,
            user: None,
            commitment: false,
            commitment_to: None,
            query: false,
            audit: false,
            tls,
            certificates: pins.iter().map(|byte| pin(*byte)).collect(),
        };
        let sources = [
            source("OPEN", false, &[]),
            source("TLS", true, &[]),
            source("CT1", true, &[1, 2]),
            source("CT1_QA", true, &[2]),
        ];
        let tls = |byte: Option<u8>| Channel::Tls { certificate: byte.map(pin) };
        let rows = [
            ("OPEN", Channel::Plain, Ok(())),
            ("OPEN", tls(None), Ok(())),
            ("OPEN", tls(Some(9)), Ok(())),
            ("OPEN", tls(Some(1)), Err(WrongWay::OfAnother(pin(1)))),
            ("TLS", Channel::Plain, Err(WrongWay::InTheClear)),
            ("TLS", tls(None), Ok(())),
            ("TLS", tls(Some(9)), Ok(())),
            ("TLS", tls(Some(1)), Err(WrongWay::OfAnother(pin(1)))),
            ("CT1", Channel::Plain, Err(WrongWay::InTheClear)),
            ("CT1", tls(None), Err(WrongWay::NoCertificate)),
            ("CT1", tls(Some(1)), Ok(())),
            ("CT1", tls(Some(2)), Ok(())),
            ("CT1", tls(Some(9)), Err(WrongWay::NotPinned(pin(9)))),
            ("CT1_QA", tls(Some(2)), Ok(())),
            ("CT1_QA", tls(Some(1)), Err(WrongWay::NotPinned(pin(1)))),
            ("UNLISTED", Channel::Plain, Ok(())),
            ("UNLISTED", tls(Some(1)), Err(WrongWay::OfAnother(pin(1)))),
        ];
        for (calling, channel, expected) in rows {
            assert_eq!(judge(&sources, &AeTitle::parse(calling).unwrap(), channel), expected, "{calling} {channel:?}");
        }
    }
}
