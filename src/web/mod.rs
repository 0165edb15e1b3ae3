//! HTTP: health, readiness and metrics for orchestrators, the DICOMweb services (PS3.18) for peers that have a token, and
//! pages for people.
//!
//! ```text
//! `door`: connection (bounded) ─▶ TLS? ─▶ router ─┬─▶ probes
//!                                                 ├─▶ auth ─▶ stow (in) · qido, wado (own reports, out)
//!                                                 └─▶ pages
//! ```
//! DICOMweb is off unless `web.dicomweb` says otherwise, and then open to `[[web_clients]]` only. The network side
//! parses no data set here either: `stow` reads the head of a file, `wado` answers with what `report` wrote.
//! Neighbours: `store` keeps and finds, `dicom` reads heads and matches, `serve` starts it. Left out: what a
//! page shows (`pages`).

mod auth;
mod door;
mod media;
mod multipart;
mod outcome;
mod pages;
mod probes;
mod qido;
mod respond;
mod stow;
mod wado;

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::assess::Profile;
use crate::config::{self, ClientCertificates, Config};
use crate::infer::{ModelState, Package};
use crate::store::Store;
use crate::wire::{Newcomers, ThisMachine, Tls};

pub use auth::{Clients, Gate};
pub use multipart::{HEADER_BYTES_MAX, Multipart, MultipartError, Next, PartHeader};
pub use pages::hash_password;

use door::{Port, Service};
use pages::{People, Site};

/// Bound listeners that do not serve yet.
#[derive(Debug)]
pub struct Server {
    plain: Option<(Port, Service)>,
    tls: Option<(Port, Service)>,
    doors: Doors,
}

/// Who may come in, and what pages tell: both change while the server runs.
#[derive(Debug, Clone)]
pub struct Doors {
    clients: Gate,
    site: Arc<Site>,
}

/// Clients and people as the files of a configuration have them.
#[derive(Debug)]
pub struct Known {
    clients: Clients,
    people: People,
}

/// What the node tells of inference.
#[derive(Debug, Default)]
pub struct Told {
    /// It takes images, and answers.
    pub ready: AtomicBool,
    pub models: Mutex<Vec<ModelState>>,
    /// The packages that are loaded, and the profile in force.
    pub packages: Mutex<Vec<Package>>,
    pub profile: Mutex<Option<Arc<Profile>>>,
}

/// What all requests share.
#[derive(Clone)]
struct Shared {
    store: Store,
    told: Arc<Told>,
    node: Arc<config::Node>,
    clients: Gate,
    uploads: Arc<Semaphore>,
    queries: Arc<Semaphore>,
}

/// STOW-RS requests at once: of each one object arrives, and several before it may be on their way to the disk. Further
/// ones are asked to come back.
const UPLOADS_MAX: usize = 16;
/// Queries and retrievals at once.
const QUERIES_MAX: usize = 8;

/// Binds `web.listen` and `web.listen_tls`, as far as they are given, where port 0 takes any free port; `None` where
/// neither is. Reads the tokens of the clients.
///
/// # Errors
/// With the key that is at fault.
pub async fn bind(config: &Config, tls: &Arc<Tls>, store: Store, told: Arc<Told>) -> anyhow::Result<Option<Server>> {
    let (mut plain, mut secure) = (None, None);
    if let Some(address) = config.web.listen {
        plain = Some(Port::bind("web.listen", address, None).await?);
    }
    if let Some(address) = config.web.listen_tls {
        secure = Some(Port::bind("web.listen_tls", address, Some(Arc::clone(tls))).await?);
    }
    if plain.is_none() && secure.is_none() {
        return Ok(None);
    }
    let known = Known::of(config)?;
    if let Some(warning) = in_the_clear(config) {
        warn!("{warning}");
    }
    if config.web.pages && config.web.users.is_empty() {
        info!("pages without users: whoever is on this machine may read them and change nothing");
    }
    let clients = Gate::new(known.clients);
    let site = Arc::new(Site::new(store.clone(), Arc::clone(&told), config, known.people));
    let shared = Shared {
        store,
        told,
        node: Arc::new(config.node.clone()),
        clients: clients.clone(),
        uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        queries: Arc::new(Semaphore::new(QUERIES_MAX)),
    };
    let service = |port: &Port, dicomweb_too: bool, pages_too: bool, is_secure: bool| {
        let mut router = Router::new()
            .route("/health", get(|| async { "ok\n" }))
            .route("/ready", get(probes::is_ready))
            .route("/metrics", get(probes::metrics));
        if dicomweb_too {
            router = router.nest("/dicomweb", dicomweb());
        }
        let mut router = router.with_state(shared.clone());
        if pages_too {
            router = router.merge(pages::router(Arc::clone(&site), port.address, is_secure));
        }
        Service { router, header_timeout: config.node.negotiation_timeout, silence_max: config.node.idle_timeout }
    };
    Ok(Some(Server {
        plain: plain.map(|port| {
            let pages_too = config.web.pages && pages::offered_in_the_clear(port.address);
            let service = service(&port, offered_in_the_clear(config), pages_too, false);
            (port, service)
        }),
        tls: secure.map(|port| {
            let service = service(&port, config.web.dicomweb, config.web.pages, true);
            (port, service)
        }),
        doors: Doors { clients, site: Arc::clone(&site) },
    }))
}

/// Whether DICOMweb is on `web.listen` too: not for the network where clients have to show certificates, which nobody
/// could there. A proxy on this machine is trusted to ask for them itself.
fn offered_in_the_clear(config: &Config) -> bool {
    let loopback = config.web.listen.is_some_and(|address| address.ip().is_loopback());
    let certificates = config.tls.web_client_certificates == ClientCertificates::Required;
    config.web.dicomweb && (loopback || !certificates)
}

/// What a person should know of DICOMweb where the network reaches the port without TLS.
pub fn in_the_clear(config: &Config) -> Option<String> {
    let address = config.web.listen.filter(|address| config.web.dicomweb && !address.ip().is_loopback())?;
    if !offered_in_the_clear(config) {
        return Some(format!("no DICOMweb on {address}, where no client can show the certificate that [tls] requires"));
    }
    Some(format!(
        "DICOMweb without TLS on {address}: tokens and objects can be read on the way; offer it on web.listen_tls, or put \
         a proxy with TLS before it"
    ))
}

/// What is to be said of the clients that may use DICOMweb, or the first fault of their token files.
pub fn check_clients(config: &Config) -> anyhow::Result<String> {
    anyhow::ensure!(!config.web.clients.is_empty(), "nobody may use DICOMweb: list its clients under [[web_clients]]");
    Clients::read(&config.web.clients)?;
    Ok(format!("{} with their tokens", config.web.clients.len()))
}

/// What is to be said of the people who may log in, or the first fault of their password files.
pub fn check_people(config: &Config) -> anyhow::Result<String> {
    People::of(config)?;
    Ok(match config.web.users.len() {
        0 => "nobody logs in: whoever is on this machine may read".to_owned(),
        users => format!("{users} with their passwords"),
    })
}

impl Known {
    /// Reads the files of tokens and passwords, as far as they are needed. Blocking.
    ///
    /// # Errors
    /// With the key that is at fault.
    pub fn of(config: &Config) -> anyhow::Result<Self> {
        Ok(Self { clients: Clients::of(config)?, people: People::of(config)? })
    }
}

impl Doors {
    /// Replaces clients, people and what pages tell of the configuration.
    pub fn set(&self, config: &Config, known: Known) {
        self.clients.set(known.clients);
        self.site.set(config, known.people);
    }
}

/// The resources of PS3.18 10.1, as far as they are offered.
fn dicomweb() -> Router<Shared> {
    const STUDY: &str = "/studies/{study}";
    const SERIES: &str = "/studies/{study}/series/{series}";
    const INSTANCE: &str = "/studies/{study}/series/{series}/instances/{instance}";
    let metadata = |resource: &str| format!("{resource}/metadata");
    Router::new()
        .route("/studies", post(stow::store).get(qido::studies))
        .route(STUDY, post(stow::store).get(wado::retrieve))
        .route(SERIES, get(wado::retrieve))
        .route(INSTANCE, get(wado::retrieve))
        .route(&metadata(STUDY), get(wado::metadata))
        .route(&metadata(SERIES), get(wado::metadata))
        .route(&metadata(INSTANCE), get(wado::metadata))
        .route("/series", get(qido::series))
        .route("/studies/{study}/series", get(qido::series))
        .route("/instances", get(qido::instances))
        .route("/studies/{study}/instances", get(qido::instances))
        .route("/studies/{study}/series/{series}/instances", get(qido::instances))
}

impl Server {
    /// The address that was bound without TLS.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plain.as_ref().map(|(port, _)| port.address)
    }

    /// The address that was bound for TLS.
    pub fn address_tls(&self) -> Option<SocketAddr> {
        self.tls.as_ref().map(|(port, _)| port.address)
    }

    /// To change who may come in while the server runs.
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Serves until `cancel`; requests that have begun are answered.
    pub async fn run(self, cancel: CancellationToken) {
        let tasks = TaskTracker::new();
        for (port, service) in [self.plain, self.tls].into_iter().flatten() {
            let newcomers = Newcomers::new(door::OF_ONE_HOST_MAX, ThisMachine::Unbounded);
            tasks.spawn(port.accept(service, newcomers, tasks.clone(), cancel.clone()));
        }
        tasks.close();
        tasks.wait().await;
    }
}
