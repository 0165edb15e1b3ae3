//! The door of the node: a DICOM service class provider for Verification and Storage.
//!
//! ```text
//! listeners ─▶ connection (bounded) ─▶ TLS? (`channel`) ─▶ A-ASSOCIATE-RQ: who? (`negotiate`) ─▶ room? (permit, disk)
//!           ─▶ `association`:
//!                                                                              C-ECHO, C-STORE (`store_scp`) ─▶ store
//! ```
//! Neighbours: `store` keeps what arrives and wakes whoever waits for it. Left out: reading data sets, which happens
//! in the workers of `pixels`.
//!
//! Three limits guard it. `node.associations_max` bounds associations and is answered with a transient rejection, so
//! that a sender tries again. A second one bounds the connections of each port, so that peers that connect and say
//! nothing, or never end a TLS handshake, cannot use up the associations: they hold a connection for
//! `node.negotiation_timeout` and nothing else. The third bounds those of one host (`wire`). Where every source
//! lists hosts, connections from elsewhere are closed at once; archives that may call (`hosts`) open it to their own
//! addresses alone.

mod association;
mod channel;
mod hosts;
mod identity;
mod negotiate;
mod searches;
mod store_scp;
mod user_information;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dicom_ul::pdu::{AbortRQSource, Pdu};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::config;
use crate::domain::AeTitle;
use crate::store::Store;
use crate::wire::{FrameError, Newcomer, Newcomers, Stream, ThisMachine, Tls, Wire, WireError};

use association::{Association, Limits, Peer};
use channel::Channel;
use hosts::Hosts;
use identity::User;
use negotiate::{Agreement, Policy, Refusal, Rejection};
use searches::Searches;

/// The bound listener, not yet serving.
#[derive(Debug)]
pub struct Receiver {
    listener: Option<TcpListener>,
    tls: Option<(TcpListener, Arc<Tls>)>,
    door: Arc<Door>,
    drain_timeout: Duration,
}

/// How the receiver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every message that had begun was finished and answered.
    All,
    /// The drain timeout passed; this many connections were cut. None of their unanswered objects counts as stored.
    Cut { connections: usize },
}

/// Who may send, for associations that begin from now on; those that run keep what they agreed on, except that they
/// ask before each query.
#[derive(Debug, Clone)]
pub struct Gate {
    rules: Arc<RwLock<Arc<Rules>>>,
    hosts: Arc<Hosts>,
}

/// Who may send.
#[derive(Debug)]
struct Rules {
    policy: Policy,
    archives: Vec<config::Archive>,
    /// Sources and archives, with the way that they have to come.
    callers: Vec<config::Source>,
}

/// What all connections share.
#[derive(Debug)]
struct Door {
    node: config::Node,
    gate: Gate,
    associations: Arc<Semaphore>,
    searches: Searches,
    /// Numbers associations in logs.
    next_id: AtomicU64,
}

/// Largest A-ASSOCIATE-RQ, bytes: 128 contexts with 45 transfer syntaxes each make 157 kB, and a maximum length
/// that was announced for data says nothing about it (PS3.8 D.1).
const REQUEST_BYTES_MAX: u32 = 1 << 18;

/// Connections beyond `node.associations_max`, for those that are negotiating, being turned away, or closing.
const SPARE_CONNECTIONS: usize = 64;

/// Connections of one host that are no associations yet: half of the spare ones, which a sender that opens all its
/// associations at once does not reach, since each of them takes a moment only.
const OF_ONE_HOST_MAX: usize = SPARE_CONNECTIONS / 2;

/// Queries of all associations at once, and retrievals that list what they will send; one host has half of these.
/// Further ones are refused.
const SEARCHES_MAX: usize = 8;

/// Wait before a wrong user or passcode is answered, so that guessing takes long.
const USER_PAUSE: Duration = Duration::from_secs(1);

/// The first byte of a TLS client (RFC 8446 5.1: handshake), which is no type of a PDU.
const TLS_RECORD: u8 = 0x16;

/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether the credentials of a source's user can be used.
///
/// # Errors
/// What is wrong with the passcode file.
pub fn check_user(user: &config::User) -> io::Result<()> {
    identity::Credentials::load(user).map(drop)
}

impl Receiver {
    /// Binds `node.listen` and `node.listen_tls`, as far as they are given, where port 0 takes any free port, and reads
    /// the passcode files of the sources. `archives` may report storage commitment.
    ///
    /// # Errors
    /// With the key that is at fault.
    pub async fn bind(
        node: &config::Node,
        sources: &[config::Source],
        archives: &[config::Archive],
        tls: &Arc<Tls>,
    ) -> io::Result<Self> {
        let listener = listen("node.listen", node.listen).await?;
        let listener_tls = listen("node.listen_tls", node.listen_tls).await?;
        let gate = Gate::new(Rules::new(node, sources, archives)?);
        gate.hosts.begin(&gate).await;
        let door = Door {
            gate,
            associations: Arc::new(Semaphore::new(node.associations_max)),
            searches: Searches::new(SEARCHES_MAX),
            next_id: AtomicU64::new(1),
            node: node.clone(),
        };
        let tls = listener_tls.map(|listener| (listener, Arc::clone(tls)));
        Ok(Self { listener, tls, door: Arc::new(door), drain_timeout: node.drain_timeout })
    }

    /// The address that was bound without TLS.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.listener.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// The address that was bound for TLS.
    pub fn local_addr_tls(&self) -> io::Result<Option<SocketAddr>> {
        self.tls.as_ref().map(|(listener, _)| listener.local_addr()).transpose()
    }

    /// To change who may send while the receiver runs.
    pub fn gate(&self) -> Gate {
        self.door.gate.clone()
    }

    /// Serves until `cancel`, then closes the ports and lets messages that have begun end within
    /// `node.drain_timeout`. Needs a runtime with more blocking threads than there may be objects
    /// that arrive at once, one for each association and each upload of `web`: see `main`.
    pub async fn run(self, store: Store, cancel: CancellationToken) -> Drained {
        let Self { listener, tls, door, drain_timeout } = self;
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        let accepting = |listener: TcpListener, tls: Option<Arc<Tls>>| {
            let (door, store, cancel, cut, tasks) = (&door, &store, &cancel, &cut, &tasks);
            // Each port has connections of its own, so that a flood of handshakes leaves the other one usable.
            let connections = Arc::new(Semaphore::new(door.node.associations_max + SPARE_CONNECTIONS));
            let newcomers = Newcomers::new(OF_ONE_HOST_MAX, ThisMachine::Unbounded);
            async move {
                while let Some((stream, address, connection)) =
                    door.next_connection(&listener, &connections, cancel).await
                {
                    let address = address.ip().to_canonical();
                    if !door.gate.may_come_from(address) {
                        debug!(%address, "a connection from an address that no source lists (sources.hosts)");
                        continue;
                    }
                    let Some(newcomer) = newcomers.admit(address) else { continue };
                    let (door, store, cancel, cut) = (door.clone(), store.clone(), cancel.clone(), cut.clone());
                    let id = door.next_id.fetch_add(1, Ordering::Relaxed);
                    let span = info_span!("association", id, peer = %address);
                    let tls = tls.clone();
                    let serve = async move {
                        tokio::select! {
                            biased;
                            () = cut.cancelled() => {}
                            () = door.serve((stream, newcomer), tls.as_ref(), address, &store, &cancel) => {}
                        }
                        drop(connection);
                    };
                    tasks.spawn(serve.instrument(span));
                }
            }
        };
        let plain = listener.map(|listener| accepting(listener, None));
        let secure = tls.map(|(listener, tls)| accepting(listener, Some(tls)));
        tokio::join!(
            door.gate.hosts.watch(&door.gate, &cancel),
            async {
                if let Some(plain) = plain {
                    plain.await
                }
            },
            async {
                if let Some(secure) = secure {
                    secure.await;
                }
            }
        );
        tasks.close();
        if tokio::time::timeout(drain_timeout, tasks.wait()).await.is_ok() {
            return Drained::All;
        }
        let connections = tasks.len();
        warn!(connections, ?drain_timeout, "connections were cut at shutdown; their senders will try again");
        cut.cancel();
        tasks.wait().await;
        Drained::Cut { connections }
    }
}

impl Rules {
    fn new(node: &config::Node, sources: &[config::Source], archives: &[config::Archive]) -> io::Result<Self> {
        let (policy, callers) = (Policy::new(node, sources)?, config::callers(sources, archives));
        Ok(Self { policy, archives: archives.to_vec(), callers })
    }

    fn archive_hosts(&self) -> Vec<String> {
        self.archives.iter().map(|archive| archive.host.clone()).collect()
    }
}

impl Gate {
    fn new(rules: Rules) -> Self {
        Self { rules: Arc::new(RwLock::new(Arc::new(rules))), hosts: Arc::default() }
    }

    /// Replaces the rules: titles of `node`, `sources` with their passcode files, and `archives`.
    ///
    /// # Errors
    /// With the key that is at fault; the old rules stay.
    pub fn set(&self, node: &config::Node, sources: &[config::Source], archives: &[config::Archive]) -> io::Result<()> {
        let rules = Arc::new(Rules::new(node, sources, archives)?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.hosts.changed.notify_one();
        Ok(())
    }

    /// Whether a source of this title, at this canonical address, may query by the rules of now.
    fn may_query(&self, title: &AeTitle, address: IpAddr) -> bool {
        self.current().policy.may_query(title, address)
    }

    fn current(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a source or an archive could be at this canonical address. Without sources anybody may try C-ECHO.
    fn may_come_from(&self, address: IpAddr) -> bool {
        let rules = self.current();
        let is_source = |caller: &&config::Source| rules.policy.has_source(&caller.ae_title);
        let listed = |hosts: &[IpAddr]| hosts.is_empty() || hosts.iter().any(|host| host.to_canonical() == address);
        rules.policy.is_open()
            || rules.callers.iter().filter(is_source).any(|source| listed(&source.hosts))
            || rules.archives.iter().any(|archive| self.hosts.is_at(&archive.host, address))
    }

    /// The destinations that were asked for storage commitment and are this caller. A source of that title comes from
    /// where the source may, which the policy judges; any other from the destination's host.
    fn archives_of(&self, rules: &Rules, title: &AeTitle, address: IpAddr) -> Vec<String> {
        let is_source = rules.policy.has_source(title);
        let of_title = rules.archives.iter().filter(|archive| archive.ae_title == *title);
        let calling = of_title.filter(|archive| is_source || self.hosts.is_at(&archive.host, address));
        calling.map(|archive| archive.name.clone()).collect()
    }
}

impl Door {
    /// The next connection with its permit; `None` when it is time to stop. Where every permit is taken, further
    /// peers wait in the kernel's backlog.
    async fn next_connection(
        &self,
        listener: &TcpListener,
        connections: &Arc<Semaphore>,
        cancel: &CancellationToken,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = tokio::select! {
            biased;
            () = cancel.cancelled() => return None,
            permit = connections.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        loop {
            let accepted = tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => return Some((stream, address, permit)),
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One connection from its first byte to its last.
    async fn serve(
        &self,
        (tcp, newcomer): (TcpStream, Newcomer),
        tls: Option<&Arc<Tls>>,
        address: IpAddr,
        store: &Store,
        cancel: &CancellationToken,
    ) {
        let deadline = Instant::now() + self.node.negotiation_timeout;
        let (stream, channel) = match tls {
            None => (Stream::Plain(tcp), Channel::Plain),
            Some(tls) => {
                let secured = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    secured = channel::secure(tls, tcp, deadline) => secured,
                };
                let Some(secured) = secured else { return };
                secured
            }
        };
        let mut wire = match Wire::new(stream, self.node.idle_timeout) {
            Ok(wire) => wire,
            Err(error) => return debug!(%error, "the connection failed"),
        };
        let request = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            request = timeout_at(deadline, wire.receive(REQUEST_BYTES_MAX)) => request,
        };
        let request = match request {
            Ok(Ok(Pdu::AssociationRQ(request))) => request,
            // Before there is an association an abort is the service user's, whatever its cause, and none is answered
            // (AA-1 and AA-2 of PS3.8 table 9-10, state 2).
            Ok(Ok(Pdu::AbortRQ { .. })) => return debug!("aborted before a request"),
            Ok(Ok(_)) => {
                warn!("the first PDU is not an A-ASSOCIATE-RQ");
                return wire.abort(AbortRQSource::ServiceUser).await;
            }
            Ok(Err(WireError::Frame(FrameError::UnknownType(TLS_RECORD)))) => {
                warn!("a peer with TLS on the port without: let it call node.listen_tls, or switch TLS off there");
                return wire.abort(AbortRQSource::ServiceUser).await;
            }
            Ok(Err(error)) if error.abort_reason().is_some() => {
                warn!(%error, "no association request");
                return wire.abort(AbortRQSource::ServiceUser).await;
            }
            // Load balancers and monitors connect and leave; that is no event.
            Ok(Err(error)) => return debug!(%error, "no association request"),
            // The ARTIM timer of PS3.8 9.2, state 2: the transport connection is closed.
            Err(_) => return warn!(timeout = ?self.node.negotiation_timeout, "no association request in time"),
        };
        let calling: String = request.calling_ae_title.escape_default().take(32).collect();
        let rules = self.gate.current();
        // Before the user is looked at, so that the wrong way says nothing of a passcode.
        let mut archives = Vec::new();
        if let Ok(title) = AeTitle::parse(&request.calling_ae_title) {
            if let Err(cause) = channel::judge(&rules.callers, &title, channel) {
                warn!(%cause, "the peer came the wrong way");
                return reject(wire, &calling, Rejection::CallingAe).await;
            }
            archives = self.gate.archives_of(&rules, &title, address);
        }
        let agreement = match rules.policy.negotiate(&request, address, !archives.is_empty()) {
            Ok(agreement) => agreement,
            Err(Refusal::Reject(Rejection::User)) => {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(USER_PAUSE) => {}
                }
                return reject(wire, &calling, Rejection::User).await;
            }
            Err(Refusal::Reject(rejection)) => return reject(wire, &calling, rejection).await,
            Err(Refusal::InvalidParameter) => {
                warn!(calling, "presentation context ids that are even or repeated");
                return wire.abort(AbortRQSource::ServiceUser).await;
            }
        };
        drop(request);
        let Ok(permit) = self.associations.clone().try_acquire_owned() else {
            return reject(wire, &calling, Rejection::LimitExceeded).await;
        };
        if !has_room(store).await {
            return reject(wire, &calling, Rejection::Congestion).await;
        }
        drop(newcomer);
        self.associate(wire, agreement, (address, archives), store, cancel, permit).await;
    }

    async fn associate(
        &self,
        mut wire: Wire,
        agreement: Agreement,
        (address, archives): (IpAddr, Vec<String>),
        store: &Store,
        cancel: &CancellationToken,
        permit: OwnedSemaphorePermit,
    ) {
        let Agreement { calling, called, contexts, peer_pdu_bytes_max, window, user, answer } = agreement;
        let proposed = answer.presentation_contexts.len();
        if let Err(error) = wire.send(&Pdu::AssociationAC(answer)).await {
            return debug!(%error, "the association could not be accepted");
        }
        // A name that was checked is the site's own; any other could be anything, a passcode even.
        let user = match user {
            User::Unnamed => None,
            User::Checked(name) => Some(name.escape_default().to_string()),
            User::Claimed(name) => Some(store.log_id(&name)),
        };
        info!(%calling, %called, user, contexts = contexts.len(), proposed, window, "association accepted");
        let limits = Limits {
            pdu_bytes_max: self.node.pdu_bytes_max,
            peer_pdu_bytes_max,
            object_bytes_max: self.node.object_bytes_max,
            idle_timeout: self.node.idle_timeout,
            window: usize::from(window),
        };
        let (peer, searches) = (Peer { calling, called, address, archives }, self.searches.clone());
        let association = Association::new(wire, peer, contexts, limits, searches, self.gate.clone());
        association.serve(store, cancel, permit).await;
    }
}

/// Sends the rejection and waits until the peer has had time to read it.
async fn reject(mut wire: Wire, calling: &str, rejection: Rejection) {
    warn!(calling, reason = %rejection, "association rejected");
    if wire.send(&rejection.pdu()).await.is_ok() {
        wire.linger().await;
    }
}

async fn listen(key: &str, address: Option<SocketAddr>) -> io::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let named = |cause: io::Error| io::Error::new(cause.kind(), format!("{key}: cannot listen on {address}: {cause}"));
    TcpListener::bind(address).await.map(Some).map_err(named)
}

async fn has_room(store: &Store) -> bool {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || store.room()).await {
        Ok(Ok(())) => true,
        Ok(Err(cause)) => {
            warn!(%cause, "no room for another object");
            false
        }
        Err(_) => false,
    }
}
