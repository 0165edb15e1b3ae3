//! One HTTP request and its answer, as a client: every wait is limited, and so is the answer.
//!
//! A connection is for one request, as an association is for one report. Redirections are not followed: a report goes
//! where the configuration says and nowhere else. Neighbours: `stow` says what is asked and judges the answer. Left
//! out: proxies, compression and connections that are kept.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::ServiceUrl;

use super::error::DeliverError;
use crate::wire::Step;

/// What is asked of a service.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Behind the root of the service, with its slash.
    pub(super) resource: &'a str,
    pub(super) content_type: Option<String>,
    pub(super) token: Option<String>,
    pub(super) body: Vec<u8>,
}

/// An answer, complete.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

/// Longest answer that is read, bytes. One to a single report has some hundreds.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks and reads the answer; each of connecting, sending with the answer's head, and reading takes at most `timeout`.
///
/// # Errors
/// [`DeliverError`] for everything that is no answer; an answer of any status is none.
pub(super) async fn request(service: &ServiceUrl, ask: Ask<'_>, timeout: Duration) -> Result<Answer, DeliverError> {
    let peer = service.to_string();
    let late = |step| {
        let peer = peer.clone();
        move |_| DeliverError::Timeout { peer, step, after: timeout }
    };
    let broken = |cause: String| DeliverError::Broken { peer: peer.clone(), cause };
    let connecting = tokio::time::timeout(timeout, connect(service));
    let stream = connecting.await.map_err(late(Step::Connecting))??;
    let request = build(service, ask).map_err(|e| broken(e.to_string()))?;
    let (mut sender, connection) = match stream {
        Stream::Plain(stream) => {
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.to_string()))?;
            (sender, tokio::spawn(async move { drop(connection.await) }))
        }
        Stream::Tls(stream) => {
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.to_string()))?;
            (sender, tokio::spawn(async move { drop(connection.await) }))
        }
    };
    // Whatever comes of it, the connection ends with this request.
    let _connection = AbortOnDrop(connection);
    let answering = tokio::time::timeout(timeout, sender.send_request(request));
    let response = answering.await.map_err(late(Step::Answering))?.map_err(|e| broken(e.to_string()))?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(timeout, body).await.map_err(late(Step::Answering))?;
    let body = body.map_err(|e| broken(format!("its answer: {e}")))?.to_bytes().to_vec();
    Ok(Answer { status, body })
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(service: &ServiceUrl) -> Result<Stream, DeliverError> {
    let unreachable = |cause: String| DeliverError::Unreachable { peer: service.to_string(), cause };
    let stream = TcpStream::connect((service.host.as_str(), service.port)).await;
    let stream = stream.map_err(|e| unreachable(e.to_string()))?;
    let _ = stream.set_nodelay(true);
    if !service.https {
        return Ok(Stream::Plain(stream));
    }
    let connector = TlsConnector::from(tls().map_err(unreachable)?);
    let name = ServerName::try_from(service.host.clone()).map_err(|e| unreachable(e.to_string()))?;
    let stream = connector.connect(name, stream).await.map_err(|e| unreachable(format!("TLS: {e}")))?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// TLS 1.2 and 1.3 with the certificates that this machine trusts, read for each request, so that a new one counts at
/// once; SSL_CERT_FILE names others.
fn tls() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let trusted = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(trusted.certs);
    if roots.is_empty() {
        return Err("this machine trusts no certificate authority: install ca-certificates or set SSL_CERT_FILE".into());
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| e.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn build(service: &ServiceUrl, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let host = if service.host.contains(':') { format!("[{}]", service.host) } else { service.host.clone() };
    let mut request = Request::builder()
        .method(ask.method)
        .uri(format!("{}{}", service.path, ask.resource))
        .header(HOST, format!("{host}:{}", service.port))
        .header(USER_AGENT, concat!("sidelight/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/dicom+json");
    if let Some(content_type) = ask.content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    if let Some(token) = ask.token {
        let mut value = hyper::header::HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Full::new(Bytes::from(ask.body)))
}
