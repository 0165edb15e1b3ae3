//! One model server: its queue, its batches, its connections.
//!
//! Requests wait in a bounded queue, so callers wait and memory does not grow. A batch leaves when it is full or when
//! its oldest image has waited for the card's delay; so many are under way as the card allows. A batch that the server
//! refuses is asked again image by image, so that one bad image fails alone; and after each that did, an image of zeros
//! tells whether the image or the server is at fault. Neighbours: `protocol`, `breaker`. Left out: what becomes of an
//! image that has no score.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{info, warn};

use crate::config::{open_to_others, read_secret_text};
use crate::domain::{Digest, ModelInput};
use crate::infer::{InferError, Package, Server, Token};
use crate::wire::{Ask, Bounds, HttpConnection, HttpError, Trust};

use super::RemoteError;
use super::breaker::{Admit, Breaker};
use super::protocol;

/// The first wait before another attempt; doubles, and a part of it is chance.
const BACKOFF: Duration = Duration::from_millis(100);
/// When an image comes back that found no server.
const AGAIN: Duration = Duration::from_secs(2);
const TOKEN_BYTES_MAX: u64 = 4096;

/// The handle that callers have.
#[derive(Clone)]
pub(super) struct Client {
    asker: Arc<Asker>,
    queue: mpsc::Sender<Request>,
}

struct Request {
    input: ModelInput,
    arrived: tokio::time::Instant,
    answer: oneshot::Sender<Result<Vec<f64>, RemoteError>>,
}

/// What asks the server.
struct Asker {
    package: Package,
    contract: Digest,
    server: Server,
    path: String,
    trust: Trust,
    breaker: Mutex<Breaker>,
    /// Connections that wait for their next request.
    idle: Mutex<Vec<HttpConnection>>,
}

/// Why a request came to nothing.
#[derive(Debug)]
enum Trouble {
    /// It passes by itself: no connection, no answer, too much to do.
    Passing(String),
    /// Somebody has to change something there.
    Standing(String),
    /// The server refuses these images, or fails at them.
    Refused(String),
    /// An answer that says nothing of the images.
    Nonsense(InferError),
}

impl Client {
    /// Starts the queue's task, which ends with the last handle.
    pub(super) fn start(package: &Package, server: &Server) -> Self {
        let asker = Arc::new(Asker {
            package: package.clone(),
            contract: package.contract.digest(),
            server: server.clone(),
            path: protocol::model_path(server),
            trust: server.authorities.clone().map_or(Trust::Machine, Trust::Authorities),
            breaker: Mutex::new(Breaker::new(server.failures_max, server.pause)),
            idle: Mutex::new(Vec::new()),
        });
        let images = protocol::images_max(server, &package.contract);
        // A batch in the making beside those that are under way.
        let (queue, requests) = mpsc::channel(images * 2);
        tokio::spawn(collect(Arc::clone(&asker), requests, images));
        Self { asker, queue }
    }

    pub(super) fn name(&self) -> &str {
        &self.asker.package.identity.name
    }

    /// The server's root.
    pub(super) fn peer(&self) -> String {
        self.asker.server.url.to_string()
    }

    pub(super) fn images_max(&self) -> usize {
        self.queue.max_capacity()
    }

    pub(super) fn down_for(&self) -> Option<Duration> {
        self.asker.breaker().down_for(Instant::now())
    }

    pub(super) async fn score(&self, input: ModelInput) -> Result<Vec<f64>, RemoteError> {
        let expected = self.asker.package.contract.plane_len();
        if input.contract != self.asker.contract {
            return Err(InferError::WrongContract.into());
        }
        if input.plane.len() != expected {
            return Err(InferError::WrongLength { given: input.plane.len(), expected }.into());
        }
        if input.plane.iter().any(|v| !v.is_finite()) {
            return Err(InferError::InputNotFinite.into());
        }
        let (answer, waiting) = oneshot::channel();
        let request = Request { input, arrived: tokio::time::Instant::now(), answer };
        let ended = || RemoteError::Unavailable { after: AGAIN, cause: "the node is stopping".into() };
        self.queue.send(request).await.map_err(|_| ended())?;
        waiting.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Whether the server has the model of the card and scores an image of zeros.
    pub(super) async fn check(&self) -> Result<(), RemoteError> {
        let asker = &self.asker;
        if let Some(Token::File(file)) = &asker.server.token
            && let Some(remark) = open_to_others(file)
        {
            warn!(model = self.name(), "a file with a secret: {remark}");
        }
        if asker.server.url.is_overheard() {
            warn!(model = self.name(), server = self.peer(), "images travel without encryption; use https://");
        }
        let unavailable = |cause: String| RemoteError::Unavailable { after: AGAIN, cause };
        // Whatever else is answered may pass: a server that loads its models still, or a gateway before it.
        let body = asker.exchange(Method::GET, &asker.path, Vec::new(), 1).await.map_err(|t| unavailable(t.cause()))?;
        let told = protocol::description(&body).map_err(unavailable)?;
        let (contract, columns) = (&asker.package.contract, asker.package.columns);
        if let Some(reason) = protocol::contradiction(&asker.server, contract, columns, &told) {
            return Err(InferError::BadOutput(reason).into());
        }
        asker.ask_zeros().await.map_err(|trouble| match trouble {
            Trouble::Nonsense(error) => error.into(),
            other => unavailable(other.cause()),
        })
    }
}

/// Takes what waits, in batches, until nobody can ask any more.
async fn collect(asker: Arc<Asker>, mut requests: mpsc::Receiver<Request>, images: usize) {
    let under_way = Arc::new(Semaphore::new(asker.server.requests_max));
    while let Some(first) = requests.recv().await {
        let until = first.arrived + asker.server.batch_delay;
        let mut batch = vec![first];
        while batch.len() < images {
            match tokio::time::timeout_at(until, requests.recv()).await {
                Ok(Some(request)) => batch.push(request),
                Ok(None) | Err(_) => break,
            }
        }
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
        let asker = Arc::clone(&asker);
        tokio::spawn(async move {
            asker.serve(batch).await;
            drop(permit);
        });
    }
}

impl Asker {
    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut batch: Vec<Request>) {
        batch.retain(|request| !request.answer.is_closed());
        if batch.is_empty() {
            return;
        }
        let answers = match self.scored(&batch).await {
            Err(Trouble::Refused(_) | Trouble::Nonsense(_)) if batch.len() > 1 => {
                let mut answers = Vec::with_capacity(batch.len());
                for request in &batch {
                    let alone = self.scored(std::slice::from_ref(request)).await;
                    answers.push(alone.map_err(|t| self.verdict(t)).and_then(|mut rows| rows.remove(0)));
                }
                answers
            }
            Err(trouble) => {
                let error = self.verdict(trouble);
                batch.iter().map(|_| Err(error.clone())).collect()
            }
            Ok(rows) => rows,
        };
        for (request, answer) in batch.into_iter().zip(answers) {
            // Whoever gave up waiting needs no answer.
            let _ = request.answer.send(answer);
        }
    }

    /// One request and its end, as the breaker sees it.
    async fn scored(&self, batch: &[Request]) -> Result<Vec<Result<Vec<f64>, RemoteError>>, Trouble> {
        let admitted = self.breaker().admit(Instant::now());
        if let Admit::No(_) = admitted {
            return Err(Trouble::Passing("it failed too often and is left alone for a while".into()));
        }
        let spread = |request: &Request| self.package.contract.spread(&request.input.plane);
        let images: Vec<Vec<f32>> = batch.iter().map(spread).collect();
        let mut asked = self.ask(&images).await;
        let scoreless = match &asked {
            Ok(rows) => rows.iter().all(Result::is_err),
            Err(trouble) => matches!(trouble, Trouble::Refused(_) | Trouble::Nonsense(_)),
        };
        if scoreless
            && batch.len() == 1
            && let Err(trouble) = self.ask_zeros().await
        {
            asked = Err(Trouble::Standing(format!("it fails at an image of zeros too: {}", trouble.cause())));
        }
        match &asked {
            // A batch that is refused may hold one bad image: each alone will tell.
            Err(Trouble::Refused(_) | Trouble::Nonsense(_)) if batch.len() > 1 => self.breaker().answered(),
            Ok(_) | Err(Trouble::Refused(_) | Trouble::Nonsense(_)) => {
                if self.breaker().succeeded() {
                    info!(model = self.package.identity.name, "the model server answers again");
                }
            }
            Err(trouble) => {
                let cause = trouble.cause();
                if self.breaker().failed(Instant::now()) {
                    let (model, server) = (&self.package.identity.name, self.server.url.to_string());
                    warn!(model, server, cause, "the model server fails again and again; it is left alone for a while");
                }
            }
        }
        Ok(asked?.into_iter().map(|row| row.map_err(RemoteError::from)).collect())
    }

    /// What trouble means for an image that was asked for alone.
    fn verdict(&self, trouble: Trouble) -> RemoteError {
        match trouble {
            Trouble::Nonsense(error) => error.into(),
            Trouble::Refused(cause) => InferError::BadOutput(cause).into(),
            Trouble::Passing(cause) | Trouble::Standing(cause) => {
                let down = self.breaker().down_for(Instant::now());
                RemoteError::Unavailable { after: down.unwrap_or(AGAIN), cause }
            }
        }
    }

    /// Whether the server scores an image of zeros.
    async fn ask_zeros(&self) -> Result<(), Trouble> {
        let zeros = vec![0.0; self.package.contract.network_len()];
        let rows = self.ask(&[zeros]).await?;
        rows.into_iter().try_for_each(|row| row.map(drop)).map_err(Trouble::Nonsense)
    }

    /// Asks for the scores of these images, again after what passes.
    async fn ask(&self, images: &[Vec<f32>]) -> Result<Vec<Result<Vec<f64>, InferError>>, Trouble> {
        let body = protocol::question(&self.server, &self.package.contract, images);
        let path = format!("{}/infer", self.path);
        let mut attempt = 0;
        let answer = loop {
            match self.exchange(Method::POST, &path, body.clone(), images.len()).await {
                Err(Trouble::Passing(cause)) if attempt < self.server.retries => {
                    let wait = BACKOFF * 2_u32.saturating_pow(attempt.min(8));
                    attempt += 1;
                    tracing::debug!(
                        model = self.package.identity.name,
                        attempt,
                        cause,
                        "the model server is asked again"
                    );
                    tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                }
                other => break other?,
            }
        };
        protocol::answer(&self.server, &self.package, images.len(), &answer).map_err(Trouble::Nonsense)
    }

    /// One question and its answer, on a connection that was kept if there is one.
    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>, images: usize) -> Result<Vec<u8>, Trouble> {
        let token = self.token().map_err(Trouble::Standing)?;
        let bounds = Bounds {
            timeout: self.server.timeout,
            answer_bytes_max: protocol::answer_bytes_max(&self.package, images),
        };
        let content_type = (method == Method::POST).then(|| "application/json".to_owned());
        let ask = Ask { method, resource: path, accept: "application/json", content_type, token, body };
        let passing = |e: HttpError| Trouble::Passing(e.to_string());
        let mut connection = self.connection().await.map_err(passing)?;
        let answer = connection.ask(ask, bounds).await.map_err(|error| match error {
            HttpError::TooLong { .. } => Trouble::Nonsense(InferError::BadOutput(error.to_string())),
            error => passing(error),
        })?;
        let told = format!("it answered HTTP {}", answer.status);
        match answer.status {
            StatusCode::OK => {
                // One that answers before it has read the question may never read the rest.
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                Ok(answer.body)
            }
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Trouble::Passing(told)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                Err(Trouble::Standing(format!("{told}; check model, version and token in the card")))
            }
            status if status.is_redirection() => Err(Trouble::Standing(format!("{told}, which is not followed"))),
            _ => Err(Trouble::Refused(told)),
        }
    }

    async fn connection(&self) -> Result<HttpConnection, HttpError> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut kept) = kept else { break };
            if kept.is_open(self.server.timeout).await {
                return Ok(kept);
            }
        }
        HttpConnection::open(&self.server.url, &self.trust, self.server.timeout).await
    }

    fn token(&self) -> Result<Option<String>, String> {
        let text = match &self.server.token {
            None => return Ok(None),
            Some(Token::File(file)) => read_secret_text(file, TOKEN_BYTES_MAX)
                .map_err(|e| format!("the token in {} cannot be used: it {e}", file.display()))?,
            Some(Token::Variable(name)) => {
                std::env::var(name).map_err(|_| format!("the environment variable {name} holds no token"))?
            }
        };
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the token is not of visible ASCII characters".into());
        }
        Ok(Some(token.to_owned()))
    }
}

impl Trouble {
    fn cause(&self) -> String {
        match self {
            Trouble::Passing(cause) | Trouble::Standing(cause) | Trouble::Refused(cause) => cause.clone(),
            Trouble::Nonsense(error) => error.to_string(),
        }
    }
}
