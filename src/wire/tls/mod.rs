//! TLS under the PDUs (PS3.15 6.2, Annex B), for both roles, with rustls.
//!
//! `files` reads what `[tls]` names, `verify` says whom to believe, `fault` words what is wrong, `examine` tells a
//! person about certificates. New handshakes use changed files: one look at a time, at most one in a second, in a
//! thread of its own, so that a file system that hangs stops nothing but the looking. Neighbours: `receive` and `web`
//! accept with it, [`super::Requestor`] connects with it. Left out: revocation lists, resumption of sessions (a
//! handshake costs little beside an association, and a resumed one would not ask for the certificate again).
//!
//! Profiles: `bcp195` is PS3.15 B.12, BCP 195 as RFC 8996 and RFC 9325 make it: TLS 1.2 with the four cipher suites
//! that RFC 9325 4.2 recommends, and TLS 1.3. It is what B.9 has become, and never goes below what B.10 (retired)
//! demands, whose DHE suites rustls lacks as RFC 9325 advises against them. B.11 (retired) and B.13 demand DHE, or
//! Camellia and CCM, and are not offered.

mod examine;
mod fault;
mod files;
mod verify;
mod x509;

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite as suite, default_provider};
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, info, warn};

use crate::config::{self, ClientCertificates, Fingerprint, TlsProfile};

pub use examine::{Examined, examine};
pub(crate) use fault::tls_error;
pub use fault::{FileProblem, HandshakeError, TlsFault};

use super::{Security, Stream};
use files::{Material, Stamps};

/// Certificates and keys, as they are now, and what is asked of peers.
pub struct Tls {
    settings: config::Tls,
    /// Certificates that are pinned to sources.
    pinned: RwLock<BTreeSet<Fingerprint>>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Current>,
    look: Mutex<Look>,
}

/// What a destination is asked for.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    /// One of these certificates; without any, one that an authority vouches for, with this name.
    pub certificates: Vec<Fingerprint>,
    pub name: ServerName<'static>,
}

#[derive(Clone)]
struct Current {
    material: Material,
    /// For associations and for HTTPS; `None` without a certificate of our own.
    servers: Option<Servers>,
    stamps: Stamps,
    /// What `server` believes without an authority.
    pinned: BTreeSet<Fingerprint>,
}

#[derive(Clone)]
struct Servers {
    dicom: Arc<ServerConfig>,
    web: Arc<ServerConfig>,
}

/// When the files were last looked at.
struct Look {
    began: Instant,
    under_way: bool,
    /// What was wrong at the last look, so that it is told once.
    fault: Option<(Stamps, TlsFault)>,
}

/// Shortest time from one look at the files to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a handshake waits for the look that it began. A file system that takes longer is waited for by nobody.
const LOOK_WAIT: Duration = Duration::from_millis(500);

/// Every certificate that is pinned to a source.
fn pins(sources: &[config::Source]) -> BTreeSet<Fingerprint> {
    sources.iter().flat_map(|source| &source.certificates).copied().collect()
}

impl Tls {
    /// Reads the files; blocks, and may hang with the file system.
    ///
    /// # Errors
    /// [`TlsFault`] with the key and the file that it is about.
    pub fn load(settings: &config::Tls, sources: &[config::Source]) -> Result<Arc<Self>, TlsFault> {
        let provider = Arc::new(provider(settings.profile));
        let pinned = pins(sources);
        let (material, stamps) = read(settings, &provider)?;
        let current = Current::new(settings, material, stamps, pinned.clone(), &provider)?;
        let look = Mutex::new(Look { began: Instant::now(), under_way: false, fault: None });
        let pinned = RwLock::new(pinned);
        Ok(Arc::new(Self { settings: settings.clone(), pinned, provider, current: RwLock::new(current), look }))
    }

    /// Takes the pins of `sources` and reads the files anew, whether or not they look changed; what was read before
    /// stays in use where that fails, with the new pins.
    /// Blocks, and may hang with the file system.
    ///
    /// # Errors
    /// [`TlsFault`]; [`TlsFault::Busy`] while an earlier look hangs.
    pub fn reload(&self, sources: &[config::Source]) -> Result<(), TlsFault> {
        *self.pinned.write().unwrap_or_else(PoisonError::into_inner) = pins(sources);
        // Before the files: a pin that was removed must not be believed until they can be read.
        self.take_pins()?;
        {
            let mut look = lock(&self.look);
            if look.under_way {
                return Err(TlsFault::Busy);
            }
            (look.under_way, look.began) = (true, Instant::now());
        }
        let _done = Done(self);
        let (material, stamps) = read(&self.settings, &self.provider)?;
        self.take(material, stamps)
    }

    fn pinned(&self) -> BTreeSet<Fingerprint> {
        self.pinned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The server's side of a handshake; the connection, and the certificate that the client showed.
    ///
    /// # Errors
    /// With the socket: the client's alert is on its way, and would be overtaken if the socket were closed at once.
    pub async fn accept(
        self: &Arc<Self>,
        tcp: TcpStream,
    ) -> Result<(Stream, Option<Fingerprint>), (HandshakeError, TcpStream)> {
        self.accept_as(tcp, |servers| servers.dicom).await
    }

    /// As [`Tls::accept`], for HTTP (ALPN `http/1.1`) and with `tls.web_client_certificates`. No pins: they belong to
    /// sources.
    ///
    /// # Errors
    /// Likewise.
    pub async fn accept_web(
        self: &Arc<Self>,
        tcp: TcpStream,
    ) -> Result<(Stream, Option<Fingerprint>), (HandshakeError, TcpStream)> {
        self.accept_as(tcp, |servers| servers.web).await
    }

    async fn accept_as(
        self: &Arc<Self>,
        tcp: TcpStream,
        which: fn(Servers) -> Arc<ServerConfig>,
    ) -> Result<(Stream, Option<Fingerprint>), (HandshakeError, TcpStream)> {
        self.look_if_due().await;
        let server = self.read_current().servers.clone().map(which);
        let Some(server) = server else { return Err((TlsFault::NoCertificate.into(), tcp)) };
        let stream = match TlsAcceptor::from(server).accept(tcp).into_fallible().await {
            Ok(stream) => stream,
            Err((error, tcp)) => return Err((HandshakeError::from_io(error), tcp)),
        };
        let state = stream.get_ref().1;
        let shown = state.peer_certificates().and_then(|chain| chain.first()).map(verify::fingerprint);
        Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), shown))
    }

    /// How a peer at `host` is called: in the clear, or over TLS with what it has to show.
    ///
    /// # Errors
    /// [`HandshakeError::Name`] where the name to ask for is none that a certificate can have.
    pub fn security(self: &Arc<Self>, host: &str, peer: Option<&config::PeerTls>) -> Result<Security, HandshakeError> {
        let Some(config::PeerTls { certificates, server_name }) = peer else { return Ok(Security::Plain) };
        let name = server_name.as_deref().unwrap_or(host);
        let name = match ServerName::try_from(name) {
            Ok(name) => name.to_owned(),
            // Where a certificate is pinned its name is not asked; the address of no host stands for none.
            Err(_) if !certificates.is_empty() => ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()),
            Err(_) => return Err(HandshakeError::Name(name.to_owned())),
        };
        Ok(Security::Tls(Arc::clone(self), ServerIdentity { certificates: certificates.clone(), name }))
    }

    /// The client's side of a handshake.
    pub async fn connect(self: &Arc<Self>, tcp: TcpStream, peer: &ServerIdentity) -> Result<Stream, HandshakeError> {
        self.look_if_due().await;
        let config = self.client_config(peer)?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(peer.name.clone(), tcp);
        let stream = connecting.await.map_err(HandshakeError::from_io)?;
        let state = stream.get_ref().1;
        let (version, suite) = (state.protocol_version(), state.negotiated_cipher_suite().map(|s| s.suite()));
        debug!(?version, ?suite, "TLS connection to a peer");
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }

    fn client_config(&self, peer: &ServerIdentity) -> Result<ClientConfig, TlsFault> {
        let Material { own, authorities } = self.read_current().material.clone();
        let verifier = verify::Server::new(peer.certificates.clone(), authorities, Arc::clone(&self.provider))?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions(self.settings.profile))
            .map_err(|e| TlsFault::Library(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Looks at the files if the last look is a while ago, and waits for it shortly; whoever comes meanwhile does not.
    async fn look_if_due(self: &Arc<Self>) {
        {
            let mut look = lock(&self.look);
            if look.under_way || look.began.elapsed() < LOOK_EVERY {
                return;
            }
            (look.under_way, look.began) = (true, Instant::now());
        }
        let (tls, (done, ended)) = (Arc::clone(self), oneshot::channel());
        // A thread of its own: a pool of the runtime would wait for one that hangs when the node stops.
        let looking = std::thread::Builder::new().name("tls-files".into()).spawn(move || {
            let guard = Done(&tls);
            tls.look();
            drop(guard);
            let _ = done.send(());
        });
        match looking {
            Ok(_) => drop(tokio::time::timeout(LOOK_WAIT, ended).await),
            Err(error) => {
                warn!(%error, "the files of [tls] could not be looked at");
                lock(&self.look).under_way = false;
            }
        }
    }

    /// One look: reads the files if they have changed, and takes the pins if they have.
    fn look(&self) {
        if let Err(fault) = self.take_pins() {
            warn!(%fault, "the changed pins cannot be used");
        }
        let stamps = files::stamps(&self.settings);
        if stamps == self.read_current().stamps {
            return;
        }
        let taken = read(&self.settings, &self.provider).and_then(|(material, stamps)| self.take(material, stamps));
        match taken {
            Ok(()) => info!("the changed files of [tls] are in use"),
            Err(fault) => {
                // Tried again each time, since the other half of a pair may follow; told once.
                let told = Some((stamps, fault.clone()));
                let mut look = lock(&self.look);
                if look.fault != told {
                    warn!(%fault, "the changed files of [tls] cannot be used; what was read before stays in use");
                    look.fault = told;
                }
            }
        }
    }

    /// Uses what was read, with the pins as they are now: these are read under the lock, so that the last ones win.
    fn take(&self, material: Material, stamps: Stamps) -> Result<(), TlsFault> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current::new(&self.settings, material, stamps, self.pinned(), &self.provider)?;
        drop(current);
        lock(&self.look).fault = None;
        Ok(())
    }

    /// Uses the pins as they are now with what was read before.
    fn take_pins(&self) -> Result<(), TlsFault> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let pinned = self.pinned();
        if current.pinned != pinned {
            let Current { material, stamps, .. } = current.clone();
            *current = Current::new(&self.settings, material, stamps, pinned, &self.provider)?;
        }
        Ok(())
    }

    fn read_current(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a look, however it ends.
struct Done<'a>(&'a Tls);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        lock(&self.0.look).under_way = false;
    }
}

impl Current {
    fn new(
        settings: &config::Tls,
        material: Material,
        stamps: Stamps,
        pinned: BTreeSet<Fingerprint>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsFault> {
        let servers = match material.own.clone() {
            Some(own) => {
                let serving = |asked, pinned, protocols| {
                    let own = Arc::clone(&own);
                    let clients = (asked, pinned, material.authorities.clone());
                    server(settings.profile, own, clients, protocols, provider).map(Arc::new)
                };
                let dicom = serving(settings.client_certificates, pinned.clone(), vec![])?;
                let web = serving(settings.web_client_certificates, BTreeSet::new(), vec![b"http/1.1".to_vec()])?;
                Some(Servers { dicom, web })
            }
            None => None,
        };
        Ok(Self { material, servers, stamps, pinned })
    }
}

/// What a port is served with: which clients are asked for what, which protocols are offered over it (ALPN).
fn server(
    profile: TlsProfile,
    own: Arc<CertifiedKey>,
    (asked, pinned, authorities): (ClientCertificates, BTreeSet<Fingerprint>, Option<Arc<RootCertStore>>),
    protocols: Vec<Vec<u8>>,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, TlsFault> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions(profile))
        .map_err(|e| TlsFault::Library(e.to_string()))?;
    let clients = |mandatory| verify::Clients::new(pinned, authorities, mandatory, Arc::clone(provider));
    let builder = match asked {
        ClientCertificates::Required => builder.with_client_cert_verifier(Arc::new(clients(true)?)),
        ClientCertificates::Optional => builder.with_client_cert_verifier(Arc::new(clients(false)?)),
        ClientCertificates::None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.ignore_client_order = true;
    server.alpn_protocols = protocols;
    Ok(server)
}

fn read(settings: &config::Tls, provider: &CryptoProvider) -> Result<(Material, Stamps), TlsFault> {
    // Before the content: what changes in between is seen at the next look.
    let stamps = files::stamps(settings);
    Ok((files::read_all(settings, provider)?, stamps))
}

fn lock(look: &Mutex<Look>) -> MutexGuard<'_, Look> {
    look.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cipher suites of a profile; those of TLS 1.3 are RFC 8446's.
fn provider(profile: TlsProfile) -> CryptoProvider {
    let mut cipher_suites =
        vec![suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_CHACHA20_POLY1305_SHA256];
    match profile {
        TlsProfile::Bcp195 => cipher_suites.extend([
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ]),
        TlsProfile::Bcp195Tls13 => {}
    }
    CryptoProvider { cipher_suites, ..default_provider() }
}

fn versions(profile: TlsProfile) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match profile {
        TlsProfile::Bcp195 => &BOTH,
        TlsProfile::Bcp195Tls13 => &BOTH[..1],
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::AeTitle;

    fn pinned_to(byte: u8) -> config::Source {
        config::Source {
            ae_title: AeTitle::parse("CT1").unwrap(),
            hosts: vec![],
            quiet_period: None,
            user: None,
            commitment: false,
            commitment_to: None,
            query: false,
            audit: false,
            tls: true,
            certificates: vec![Fingerprint([byte; 32])],
        }
    }

    #[test]
    fn changed_pins_count_at_once_even_while_the_files_cannot_be_read() {
        let mut settings = config::load(None, [], &[]).unwrap().tls;
        let folder = tempfile::tempdir().unwrap();
        let believed = |tls: &Tls| tls.read_current().pinned.iter().map(|pin| pin.0[0]).collect::<Vec<_>>();
        let tls = Tls::load(&settings, &[pinned_to(1)]).unwrap();
        assert_eq!(believed(&tls), [1]);
        lock(&tls.look).under_way = true;
        assert!(matches!(tls.reload(&[pinned_to(2)]), Err(TlsFault::Busy)));
        assert_eq!(believed(&tls), [2], "while a look hangs");
        lock(&tls.look).under_way = false;

        settings.authorities = Some(folder.path().join("gone"));
        let (pinned, current) = (RwLock::new(tls.pinned()), RwLock::new(tls.read_current().clone()));
        let look = Mutex::new(Look { began: Instant::now(), under_way: false, fault: None });
        let tls = Tls { settings, pinned, provider: Arc::clone(&tls.provider), current, look };
        assert!(tls.reload(&[]).is_err());
        assert!(believed(&tls).is_empty(), "where the files are gone");
        *tls.pinned.write().unwrap() = pins(&[pinned_to(3)]);
        tls.look();
        assert_eq!(believed(&tls), [3], "at the next look");
    }
}
