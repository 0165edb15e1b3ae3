//! HTTP as a client: every wait is limited, and so is the answer.
//!
//! A connection serves one request after the other; whoever has one request only uses [`request`]. Redirections are not
//! followed: what is sent goes where the configuration says and nowhere else. Neighbours: `deliver` sends reports with
//! it (STOW-RS), `remote` asks model servers. Left out: proxies, compression, and what an answer means.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::config::ServiceUrl;

use super::Step;

/// What is asked of a service.
pub struct Ask<'a> {
    pub method: Method,
    /// Behind the root of the service, with its slash.
    pub resource: &'a str,
    pub accept: &'a str,
    pub content_type: Option<String>,
    pub token: Option<String>,
    pub body: Vec<u8>,
}

/// An answer, complete.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

/// Whose certificates are believed of a service with https.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that this machine trusts; SSL_CERT_FILE names others.
    Machine,
    /// Those that the authorities in this PEM file vouch for.
    Authorities(PathBuf),
}

/// How long each of connecting, sending with the answer's head, and reading may take, and how much is read.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub timeout: Duration,
    pub answer_bytes_max: usize,
}

/// Everything that is no answer; an answer of any status is none of these.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{peer} cannot be reached: {cause}; check host, port and firewall")]
    Unreachable { peer: String, cause: String },
    #[error("{peer} gave no answer within {after:?} while {step}")]
    Timeout { peer: String, step: Step, after: Duration },
    #[error("the answer of {peer} is longer than {bytes} bytes")]
    TooLong { peer: String, bytes: usize },
    #[error("the connection with {peer} broke: {cause}")]
    Broken { peer: String, cause: String },
}

/// An open connection to a service; it ends when dropped.
pub struct HttpConnection {
    service: ServiceUrl,
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDrop,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks once, on a connection of its own.
///
/// # Errors
/// [`HttpError`].
pub async fn request(service: &ServiceUrl, trust: &Trust, ask: Ask<'_>, bounds: Bounds) -> Result<Answer, HttpError> {
    HttpConnection::open(service, trust, bounds.timeout).await?.ask(ask, bounds).await
}

impl HttpConnection {
    /// Connects, with a handshake where the service has https.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn open(service: &ServiceUrl, trust: &Trust, timeout: Duration) -> Result<Self, HttpError> {
        let peer = service.to_string();
        let connecting = tokio::time::timeout(timeout, connect(service, trust)).await;
        let late = |_| HttpError::Timeout { peer: peer.clone(), step: Step::Connecting, after: timeout };
        let stream = connecting.map_err(late)??;
        let broken = |e: hyper::Error| HttpError::Broken { peer: peer.clone(), cause: e.to_string() };
        let (sender, driver) = match stream {
            Stream::Plain(stream) => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
                (sender, tokio::spawn(async move { drop(connection.await) }))
            }
            Stream::Tls(stream) => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
                (sender, tokio::spawn(async move { drop(connection.await) }))
            }
        };
        Ok(Self { service: service.clone(), sender, _driver: AbortOnDrop(driver) })
    }

    /// Whether the service keeps the connection for another request, as far as it shows within this time: one that
    /// still has to read the last request does not say.
    pub async fn is_open(&mut self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.sender.ready()).await.is_ok_and(|ready| ready.is_ok())
    }

    /// Asks and reads the answer. After an error the connection is of no use any more.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn ask(&mut self, ask: Ask<'_>, bounds: Bounds) -> Result<Answer, HttpError> {
        let peer = self.service.to_string();
        let late = |_| HttpError::Timeout { peer: peer.clone(), step: Step::Answering, after: bounds.timeout };
        let broken = |cause: String| HttpError::Broken { peer: peer.clone(), cause };
        let request = build(&self.service, ask).map_err(|e| broken(e.to_string()))?;
        let answering = tokio::time::timeout(bounds.timeout, self.sender.send_request(request));
        let response = answering.await.map_err(late)?.map_err(|e| broken(e.to_string()))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), bounds.answer_bytes_max).collect();
        let body = tokio::time::timeout(bounds.timeout, body).await.map_err(late)?;
        let body = body.map_err(|e| match e.is::<http_body_util::LengthLimitError>() {
            true => HttpError::TooLong { peer: peer.clone(), bytes: bounds.answer_bytes_max },
            false => broken(format!("its answer: {e}")),
        })?;
        let body = body.to_bytes().to_vec();
        Ok(Answer { status, body })
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn connect(service: &ServiceUrl, trust: &Trust) -> Result<Stream, HttpError> {
    let unreachable = |cause: String| HttpError::Unreachable { peer: service.to_string(), cause };
    let stream = TcpStream::connect((service.host.as_str(), service.port)).await;
    let stream = stream.map_err(|e| unreachable(e.to_string()))?;
    let _ = stream.set_nodelay(true);
    if !service.https {
        return Ok(Stream::Plain(stream));
    }
    let connector = TlsConnector::from(tls(trust).map_err(unreachable)?);
    let name = ServerName::try_from(service.host.clone()).map_err(|e| unreachable(e.to_string()))?;
    let stream = connector.connect(name, stream).await.map_err(|e| unreachable(format!("TLS: {e}")))?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// TLS 1.2 and 1.3. Authorities are read for each connection, so that a new one counts at once.
fn tls(trust: &Trust) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::Machine => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let remedy = "install ca-certificates or set SSL_CERT_FILE";
                return Err(format!("this machine trusts no certificate authority: {remedy}"));
            }
        }
        Trust::Authorities(file) => {
            roots.add_parsable_certificates(authorities(file)?);
            if roots.is_empty() {
                return Err(format!("{} holds no certificate authority", file.display()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| e.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The certificates of a PEM file. The library's text may quote the file and is not shown.
fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|_| format!("{} cannot be read as certificates in PEM", file.display()))
}

fn build(service: &ServiceUrl, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let host = if service.host.contains(':') { format!("[{}]", service.host) } else { service.host.clone() };
    let mut request = Request::builder()
        .method(ask.method)
        .uri(format!("{}{}", service.path, ask.resource))
        .header(HOST, format!("{host}:{}", service.port))
        .header(USER_AGENT, concat!("sidelight/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, ask.accept);
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    #[tokio::test]
    async fn a_connection_whose_question_was_never_read_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Answers after the head of the question, and reads nothing of its body.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let head = BufReader::with_capacity(64, stream.try_clone().unwrap()).lines();
            let head: Vec<String> = head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
            let _ = ended.recv();
            head.len()
        });
        let service = ServiceUrl::parse(&url).unwrap();
        let timeout = Duration::from_secs(20);
        let mut connection = HttpConnection::open(&service, &Trust::Machine, timeout).await.unwrap();
        let body = vec![0; 64 << 20];
        let ask = Ask {
            method: Method::POST,
            resource: "/x",
            accept: "application/json",
            content_type: None,
            token: None,
            body,
        };
        let answer = connection.ask(ask, Bounds { timeout, answer_bytes_max: 100 }).await.unwrap();
        assert_eq!(answer.body, b"{}");
        assert!(!connection.is_open(Duration::from_millis(100)).await);
        drop(end);
        assert!(server.join().unwrap() > 1);
    }
}
