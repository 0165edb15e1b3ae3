//! STOW-RS as a server (PS3.18 10.5): objects from a multipart body to the disk, part by part, and what became of each.
//!
//! As with C-STORE, the data set is never parsed: of each part the file meta information is read, bounded, to know what
//! it is; the rest is written under a meta group of our own, so that an object has the same digest by either road.
//! Success is answered after `Arrival::commit` said that the object is durable and indexed, in the order of the parts,
//! several of which may be on their way to the disk while the next ones arrive. Where the path names a study, the store
//! keeps that with the object, and whoever reads it refuses an object of another study by name: only then is known what
//! it says of itself. Neighbours: `multipart` reads the body, `store` keeps objects. Left out: metadata with bulk data
//! (PS3.18 8.6.1.2.2), which no sender of images uses.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::config::WebClient;
use crate::dicom::{FileMeta, file_meta, is_storage_accepted, is_transfer_syntax_accepted, read_meta};
use crate::domain::{Accepted, ReceivedInstance, Uid};
use crate::store::{Arrival, StoreError};

use super::Shared;
use super::auth::Right;
use super::door::Caller;
use super::media::{MediaType, accepts};
use super::multipart::{Multipart, Next, PartHeader};
use super::outcome::{Failure, Outcome, answer};
use super::respond::Problem;

const PARTS_MAX: usize = 4_096;
/// Objects of one request that are being made durable while the next one arrives.
const SETTLING_MAX: usize = 8;
/// What a body may wait for beyond `node.idle_timeout`: a second for so many bytes. A sender that trickles is cut off.
const BYTES_PER_SECOND_MIN: u64 = 4 << 10;

/// `POST /studies` and `POST /studies/{study}`.
pub(super) async fn store(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    study: Option<Path<String>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match Request::admit(&shared, &caller, study.map(|Path(s)| s), &headers).await {
        Ok(request) => request.run(body).await,
        Err(problem) => problem.into_response(),
    }
}

/// A request that may go on, and what became of its objects so far.
struct Request<'a> {
    shared: &'a Shared,
    client: WebClient,
    peer: SocketAddr,
    study: Option<Uid>,
    multipart: Multipart,
    part: Part,
    settling: VecDeque<(FileMeta, JoinHandle<Result<Accepted, StoreError>>)>,
    outcomes: Vec<Outcome>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

/// What is being read.
enum Part {
    /// Between parts.
    None,
    /// The head of an object, not complete yet.
    Head(Vec<u8>),
    Object {
        meta: FileMeta,
        arrival: Arrival,
        bytes: u64,
    },
    /// Something is wrong with it: its bytes are read and dropped, so that the parts behind it are read too.
    Refused {
        bytes: u64,
    },
}

impl<'a> Request<'a> {
    /// Everything that can be judged before the body.
    async fn admit(
        shared: &'a Shared,
        caller: &Caller,
        study: Option<String>,
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let client = shared.clients.authorize(headers, caller, Right::Store)?;
        let study = study.map(|text| Uid::parse(&text)).transpose();
        let study = study.map_err(|_| Problem::BadRequest("the path holds no valid Study Instance UID".into()))?;
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        if !accepts(text(ACCEPT), &[("application/dicom+json", None), ("application/json", None)]) {
            return Err(Problem::NotAcceptable("application/dicom+json"));
        }
        if text(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(Problem::UnsupportedMedia("the body must not be compressed"));
        }
        let media = text(CONTENT_TYPE).and_then(MediaType::parse);
        let wanted = |m: &MediaType| {
            m.essence == "multipart/related"
                && m.parameter("type").is_some_and(|t| t.eq_ignore_ascii_case("application/dicom"))
        };
        let Some(media) = media.filter(wanted) else {
            return Err(Problem::UnsupportedMedia("send multipart/related; type=\"application/dicom\""));
        };
        let boundary = media.parameter("boundary");
        let boundary = boundary.ok_or_else(|| Problem::BadRequest("the content type has no boundary".into()))?;
        let multipart = Multipart::new(boundary, PARTS_MAX)?;
        let permit = shared.uploads.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Problem::Busy("too many requests store at once"))?;
        let store = shared.store.clone();
        let room = tokio::task::spawn_blocking(move || store.room()).await.map_err(|_| Problem::Internal)?;
        room?;
        Ok(Self {
            shared,
            client,
            peer: caller.address,
            study,
            multipart,
            part: Part::None,
            settling: VecDeque::new(),
            outcomes: Vec::new(),
            _permit: permit,
        })
    }

    async fn run(mut self, body: Body) -> Response {
        let ended = self.read(body).await;
        while !self.settling.is_empty() {
            self.settle().await;
        }
        let stored = self.outcomes.iter().filter(|o| o.result.is_ok()).count();
        let failed = self.outcomes.len() - stored;
        info!(client = self.client.name, peer = %self.peer.ip(), stored, failed, "STOW-RS");
        match ended {
            Ok(()) if self.outcomes.is_empty() => Problem::BadRequest("the body has no part".into()).into_response(),
            Ok(()) => answer(&self.outcomes),
            Err(problem) => {
                warn!(client = self.client.name, stored, %problem, "a STOW-RS request was not read to its end");
                let note = format!("{problem}; {stored} objects before that were stored\n");
                (problem.status(), note).into_response()
            }
        }
    }

    /// Reads the body to its end, or to where it cannot be read on.
    async fn read(&mut self, mut body: Body) -> Result<(), Problem> {
        let (mut waited, mut bytes) = (Duration::ZERO, 0_u64);
        loop {
            let allowed = self.shared.node.idle_timeout + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
            let patience = allowed.saturating_sub(waited).min(self.shared.node.idle_timeout);
            let since = Instant::now();
            let frame = tokio::time::timeout(patience, body.frame()).await.map_err(|_| Problem::Timeout)?;
            waited += since.elapsed();
            let Some(frame) = frame else {
                self.multipart.finish()?;
                return Ok(());
            };
            let frame = frame.map_err(|_| Problem::BadRequest("the body broke off".into()))?;
            // Trailers say nothing here.
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len() as u64;
            self.multipart.feed(&data);
            self.take().await?;
        }
    }

    /// Takes what the bytes so far hold.
    async fn take(&mut self) -> Result<(), Problem> {
        loop {
            match self.multipart.next()? {
                Next::More => return Ok(()),
                Next::End => {}
                Next::Part(header) => self.begin(&header),
                Next::PartEnd => self.end().await,
                Next::Data(data) => {
                    let data = data.to_vec();
                    self.data(data).await?;
                }
            }
        }
    }

    fn begin(&mut self, header: &PartHeader) {
        let media = header.content_type.as_deref().and_then(MediaType::parse);
        self.part = Part::Head(Vec::new());
        if media.is_none_or(|m| m.essence != "application/dicom") {
            self.refuse(None, Failure::MediaType);
        }
    }

    async fn data(&mut self, data: Vec<u8>) -> Result<(), Problem> {
        let bytes_max = self.shared.node.object_bytes_max;
        match &mut self.part {
            Part::None => {}
            Part::Refused { bytes } => {
                *bytes += data.len() as u64;
                // So much is read for the sake of the parts behind it, and no more.
                if *bytes > bytes_max {
                    return Err(Problem::TooLarge { bytes_max });
                }
            }
            Part::Head(head) => {
                head.extend_from_slice(&data);
                match read_meta(head) {
                    Ok(None) => {}
                    Err(cause) => self.refuse(None, Failure::Head(cause)),
                    Ok(Some(meta)) => {
                        let rest = head.split_off(meta.length);
                        match judge(&meta) {
                            Ok(()) => {
                                let (class, instance) = (&meta.sop_class, &meta.sop_instance);
                                let calling = Some(&self.client.ae_title);
                                let head = file_meta(class, instance, &meta.transfer_syntax, calling);
                                let arrival = self.shared.store.arrive(instance, head);
                                self.part = Part::Object { meta, arrival, bytes: 0 };
                                self.object(rest).await;
                            }
                            Err(failure) => self.refuse(Some(meta), failure),
                        }
                    }
                }
            }
            Part::Object { .. } => self.object(data).await,
        }
        Ok(())
    }

    /// The next bytes of the data set. Waits while the disk is slower than the network.
    async fn object(&mut self, data: Vec<u8>) {
        let bytes_max = self.shared.node.object_bytes_max;
        let Part::Object { meta, arrival, bytes } = &mut self.part else { return };
        *bytes += data.len() as u64;
        let failure = if *bytes > bytes_max {
            Failure::TooLarge { bytes_max }
        } else if data.is_empty() {
            return;
        } else if let Err(cause) = arrival.take(data).await {
            Failure::Store(cause)
        } else {
            return;
        };
        let meta = meta.clone();
        self.refuse(Some(meta), failure);
    }

    async fn end(&mut self) {
        match std::mem::replace(&mut self.part, Part::None) {
            Part::None | Part::Refused { .. } => {}
            Part::Head(_) => self.note(None, Err(Failure::NoObject)),
            Part::Object { meta, bytes: 0, .. } => self.note(Some(meta), Err(Failure::NoObject)),
            Part::Object { meta, arrival, .. } => {
                if self.settling.len() >= SETTLING_MAX {
                    self.settle().await;
                }
                let received = ReceivedInstance {
                    sop_class: meta.sop_class.clone(),
                    sop_instance: meta.sop_instance.clone(),
                    transfer_syntax: meta.transfer_syntax.clone(),
                    calling: self.client.ae_title.clone(),
                    called: self.shared.node.ae_title.clone(),
                    peer: self.peer.ip().to_canonical(),
                    received_at: chrono::Utc::now(),
                    study: self.study.clone(),
                };
                self.settling.push_back((meta, tokio::spawn(async move { arrival.commit(&received).await })));
            }
        }
    }

    /// Waits for the oldest object that is being made durable.
    async fn settle(&mut self) {
        let Some((meta, task)) = self.settling.pop_front() else { return };
        let result = match task.await.unwrap_or(Err(StoreError::Closing)) {
            Ok(Accepted::New | Accepted::Duplicate) => Ok(()),
            Ok(Accepted::Conflict { .. }) => Err(Failure::Conflict),
            Err(cause) => Err(Failure::Store(cause)),
        };
        self.note(Some(meta), result);
    }

    fn refuse(&mut self, meta: Option<FileMeta>, failure: Failure) {
        self.part = Part::Refused { bytes: 0 };
        self.note(meta, Err(failure));
    }

    fn note(&mut self, meta: Option<FileMeta>, result: Result<(), Failure>) {
        if let Err(failure) = &result {
            // The first says what is wrong; a request can hold thousands.
            match self.outcomes.iter().all(|o| o.result.is_ok()) {
                true => warn!(client = self.client.name, %failure, "an object was not stored"),
                false => debug!(client = self.client.name, %failure, "an object was not stored"),
            }
        }
        let object = meta.map(|meta| (meta.sop_class, meta.sop_instance));
        self.outcomes.push(Outcome { object, result });
    }
}

fn judge(meta: &FileMeta) -> Result<(), Failure> {
    if !is_storage_accepted(&meta.sop_class) {
        return Err(Failure::SopClassNotSupported);
    }
    if !is_transfer_syntax_accepted(&meta.transfer_syntax) {
        return Err(Failure::TransferSyntaxNotSupported);
    }
    Ok(())
}
