//! Who may use DICOMweb: a bearer token (RFC 6750) that belongs to a client, from one of its addresses, for what it
//! may.
//!
//! Only digests of tokens are held, and digests are compared, in constant time, so that neither memory nor time tells a
//! token. Neighbours: the services ask before they look at anything else. Left out: TLS, without which a token can be
//! read on the way; user accounts.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, anyhow, bail, ensure};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use crate::config::{Config, Mode, WebClient, read_secret_text};

use super::door::Caller;
use super::respond::Problem;

/// The clients with the digests of their tokens. By default there are none.
#[derive(Debug, Default)]
pub struct Clients(Vec<(WebClient, [u8; 32])>);

/// Who may use DICOMweb, for requests that begin from now on; those that run go on.
#[derive(Debug, Clone)]
pub struct Gate(Arc<RwLock<Arc<Clients>>>);

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Store,
    Query,
}

/// Shortest token: with letters and digits some 140 bits, which nobody guesses.
const TOKEN_CHARS_MIN: usize = 24;
const FILE_BYTES_MAX: u64 = 4_096;

impl Clients {
    /// Reads the token files, as far as DICOMweb is offered. Blocking. In shadow mode only the audit's clients may
    /// query, whatever the configuration says: a reload takes the clients of a file, and not its mode.
    ///
    /// # Errors
    /// With the key that is at fault.
    pub fn of(config: &Config) -> anyhow::Result<Self> {
        if !config.web.dicomweb {
            return Ok(Self::default());
        }
        let mut clients = Self::read(&config.web.clients)?;
        for (client, _) in &mut clients.0 {
            client.query = client.query && (client.audit || config.node.mode == Mode::Active);
        }
        Ok(clients)
    }

    /// Reads the token files.
    pub(super) fn read(clients: &[WebClient]) -> anyhow::Result<Self> {
        let mut read: Vec<(WebClient, [u8; 32])> = Vec::new();
        for (i, client) in clients.iter().enumerate() {
            let key = format!("web_clients[{i}].token_file");
            let digest = digest(&client.token_file).context(key.clone())?;
            if let Some((other, _)) = read.iter().find(|(_, known)| *known == digest) {
                bail!("{key}: holds the token of client {} too; give each client a token of its own", other.name);
            }
            read.push((client.clone(), digest));
        }
        Ok(Self(read))
    }

    /// The client that a request comes from, if it may do this.
    pub(super) fn authorize(&self, headers: &HeaderMap, peer: IpAddr, right: Right) -> Result<&WebClient, Problem> {
        let presented = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| <[u8; 32]>::from(Sha256::digest(token.trim())))
        });
        let Some(presented) = presented else { return Err(Problem::Unauthorized) };
        // Every client is compared, whoever it is.
        let mut found = None;
        for (client, digest) in &self.0 {
            if bool::from(digest.ct_eq(&presented)) {
                found = Some(client);
            }
        }
        let Some(client) = found else {
            warn!(%peer, "a web request with an unknown token");
            return Err(Problem::Unauthorized);
        };
        let peer = peer.to_canonical();
        let allowed = match right {
            Right::Store => client.store,
            Right::Query => client.query,
        };
        if !client.hosts.is_empty() && !client.hosts.iter().any(|host| host.to_canonical() == peer) {
            warn!(client = client.name, %peer, "a web request from an address that the client may not come from");
            return Err(Problem::Forbidden("the token is not valid from this address"));
        }
        if !allowed {
            warn!(client = client.name, %peer, ?right, "a web request that the client may not make");
            return Err(Problem::Forbidden("the token does not allow this service"));
        }
        Ok(client)
    }
}

impl Gate {
    pub(super) fn new(clients: Clients) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(clients))))
    }

    /// Replaces the clients and their tokens.
    pub fn set(&self, clients: Clients) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(clients);
    }

    /// As [`Clients::authorize`], of the clients as they stand; the caller is known from then on.
    pub(super) fn authorize(&self, headers: &HeaderMap, caller: &Caller, right: Right) -> Result<WebClient, Problem> {
        let clients = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let client = clients.authorize(headers, caller.address.ip(), right)?;
        caller.is_known();
        Ok(client.clone())
    }
}

/// SHA-256 of the token that a file holds, itself or as `sha256:` and the digest in hexadecimal.
fn digest(file: &std::path::Path) -> anyhow::Result<[u8; 32]> {
    let shown = file.display();
    let text = read_secret_text(file, FILE_BYTES_MAX).map_err(|fault| anyhow!("{shown} {fault}"))?;
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("sha256:") {
        let bytes: Option<Vec<u8>> = (0..hex.len())
            .step_by(2)
            .map(|at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        let digest = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        return digest.with_context(|| format!("{shown} holds no digest: write sha256: and 64 hexadecimal digits"));
    }
    ensure!(
        text.len() >= TOKEN_CHARS_MIN && text.bytes().all(|b| b.is_ascii_graphic()),
        "{shown} holds no token: write one line of at least {TOKEN_CHARS_MIN} visible ASCII characters, \
         e.g. of `openssl rand -hex 32`"
    );
    Ok(Sha256::digest(text).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;

    use std::net::SocketAddr;

    use super::*;
    use crate::domain::AeTitle;
    use crate::wire::{Newcomers, ThisMachine};

    const TOKEN: &str = "0123456789abcdef01234567";

    fn client(dir: &std::path::Path, name: &str, held: &str, hosts: &[&str]) -> WebClient {
        let token_file = dir.join(name);
        std::fs::write(&token_file, held).unwrap();
        WebClient {
            name: name.into(),
            token_file,
            store: true,
            query: false,
            hosts: hosts.iter().map(|h| h.parse().unwrap()).collect(),
            ae_title: AeTitle::parse("VIEWER").unwrap(),
            audit: false,
        }
    }

    #[test]
    fn a_request_needs_the_token_the_address_and_the_right() {
        let dir = tempfile::tempdir().unwrap();
        let hex: String = Sha256::digest("another-token-of-some-length").iter().map(|b| format!("{b:02x}")).collect();
        let clients = Clients::read(&[
            client(dir.path(), "a", &format!("{TOKEN}\n"), &[]),
            client(dir.path(), "b", &format!("sha256:{hex}"), &["192.0.2.1"]),
        ])
        .unwrap();
        let rows: &[(Option<&str>, &str, Right, Result<&str, u16>)] = &[
            (Some("Bearer 0123456789abcdef01234567"), "192.0.2.9", Right::Store, Ok("a")),
            (Some("bearer  0123456789abcdef01234567"), "192.0.2.9", Right::Store, Ok("a")),
            (Some("Bearer another-token-of-some-length"), "192.0.2.1", Right::Store, Ok("b")),
            (Some("Bearer another-token-of-some-length"), "::ffff:192.0.2.1", Right::Store, Ok("b")),
            (Some("Bearer another-token-of-some-length"), "192.0.2.2", Right::Store, Err(403)),
            (Some("Bearer 0123456789abcdef01234567"), "192.0.2.9", Right::Query, Err(403)),
            (Some("Bearer 0123456789abcdef0123456"), "192.0.2.9", Right::Store, Err(401)),
            (Some("Basic 0123456789abcdef01234567"), "192.0.2.9", Right::Store, Err(401)),
            (Some("0123456789abcdef01234567"), "192.0.2.9", Right::Store, Err(401)),
            (Some(""), "192.0.2.9", Right::Store, Err(401)),
            (None, "192.0.2.9", Right::Store, Err(401)),
        ];
        for (value, peer, right, expected) in rows {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            let found = clients.authorize(&headers, peer.parse().unwrap(), *right);
            let seen = found.as_ref().map(|c| c.name.as_str()).map_err(|p| p.status().as_u16());
            assert_eq!(seen, *expected, "{value:?} from {peer}");
        }
    }

    #[test]
    fn a_token_that_was_replaced_is_not_valid_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let listed = client(dir.path(), "a", TOKEN, &[]);
        let gate = Gate::new(Clients::read(std::slice::from_ref(&listed)).unwrap());
        let ask = |token: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
            // The only place of its host, which it keeps where it is not known.
            let newcomers = Newcomers::new(1, ThisMachine::Bounded);
            let address: SocketAddr = "192.0.2.9:1".parse().unwrap();
            let caller = Caller::new(address, newcomers.admit(address.ip()).unwrap());
            let answer = gate.authorize(&headers, &caller, Right::Store).map_err(|p| p.status().as_u16());
            assert_eq!(newcomers.admit(address.ip()).is_some(), answer.is_ok());
            answer
        };
        assert_eq!(ask(TOKEN), Ok(listed.clone()));
        let newer = "a-newer-token-of-some-length";
        std::fs::write(&listed.token_file, newer).unwrap();
        let config = |dicomweb| configured(Mode::Shadow, dicomweb, &listed);
        gate.set(Clients::of(&config(true)).unwrap());
        assert_eq!((ask(TOKEN), ask(newer)), (Err(401), Ok(listed.clone())));
        gate.set(Clients::of(&config(false)).unwrap());
        assert_eq!(ask(newer), Err(401));
    }

    /// The defaults with this mode and this client.
    fn configured(mode: Mode, dicomweb: bool, client: &WebClient) -> Config {
        let mut config = crate::config::load(None, [], &[]).unwrap();
        config.node.mode = mode;
        (config.web.dicomweb, config.web.clients) = (dicomweb, vec![client.clone()]);
        config
    }

    #[test]
    fn in_shadow_mode_the_audit_alone_may_query() {
        let dir = tempfile::tempdir().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap());
        for (mode, audit, expected) in [
            (Mode::Shadow, false, Err(403)),
            (Mode::Shadow, true, Ok(())),
            (Mode::Active, false, Ok(())),
            (Mode::Active, true, Ok(())),
        ] {
            let listed = WebClient { query: true, audit, ..client(dir.path(), "a", TOKEN, &[]) };
            let clients = Clients::of(&configured(mode, true, &listed)).unwrap();
            let ask = |right| clients.authorize(&headers, "192.0.2.9".parse().unwrap(), right);
            let seen = ask(Right::Query).map(drop).map_err(|p| p.status().as_u16());
            assert_eq!(seen, expected, "{mode:?} {audit}");
            assert!(ask(Right::Store).is_ok(), "{mode:?} {audit}");
        }
    }

    #[test]
    fn a_token_file_that_is_no_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for held in ["", "short", "sha256:abc", "0123456789abcdef 01234567", "sha256:\u{e9}"] {
            let error = Clients::read(&[client(dir.path(), "a", held, &[])]).unwrap_err();
            assert!(format!("{error:#}").starts_with("web_clients[0].token_file: "), "{error:#}");
        }
        let twice = [client(dir.path(), "a", TOKEN, &[]), client(dir.path(), "b", TOKEN, &[])];
        assert!(Clients::read(&twice).unwrap_err().to_string().contains("client a"));
    }
}
