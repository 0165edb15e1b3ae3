//! Pages for people: how the node stands, its studies, models, configuration and the log of what was done.
//!
//! ```text
//! `guard`: headers ▶ who is it (`sessions`, `people`) ▶ may they (`access`) ▶ is the form ours (`forms`) ▶ a page
//! `login`, `password`, `throttle`: how a session begins
//! `status`, `studies`, `study`, `actions`, `models`, `settings`, `activity`: what is shown and done
//! ```
//! Off unless `web.pages` says otherwise. Pages are on the port with TLS, and on the other one where that is of this
//! machine alone; whoever lists no users gets pages that only show things, on this machine only. Everything is rendered
//! here by templates that escape (`templates/pages`), needs no script and loads nothing from elsewhere. Neighbours:
//! `store` has what is shown. Left out: group statistics and what a model inferred of a patient, which no page shows.

mod access;
mod actions;
mod activity;
mod assets;
mod forms;
mod frame;
mod guard;
mod login;
mod models;
mod password;
mod people;
mod sessions;
mod settings;
mod status;
mod studies;
mod study;
mod throttle;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::store::Store;

use super::Told;
use access::Right;
use sessions::{Limits, Sessions};
use throttle::Throttle;

pub use password::hash as hash_password;
pub(super) use people::People;

/// What the pages of all ports share.
#[derive(Debug)]
pub(super) struct Site {
    store: Store,
    told: Arc<Told>,
    /// What is in force.
    config: RwLock<Arc<Config>>,
    people: RwLock<Arc<People>>,
    sessions: Sessions,
    throttle: Throttle,
    /// Passwords that are compared at once…
    hashing: Arc<Semaphore>,
    /// …and logins that wait for their turn.
    logins: Semaphore,
}

/// The pages of one port.
#[derive(Debug, Clone)]
struct Pages {
    site: Arc<Site>,
    /// Whether it has TLS.
    is_secure: bool,
    /// Whether only this machine reaches it.
    is_local: bool,
}

const HASHING_MAX: usize = 2;
const LOGINS_MAX: usize = 32;

impl Site {
    pub(super) fn new(store: Store, told: Arc<Told>, config: &Config, people: People) -> Self {
        Self {
            store,
            told,
            config: RwLock::new(Arc::new(config.clone())),
            people: RwLock::new(Arc::new(people)),
            sessions: Sessions::default(),
            throttle: Throttle::new(),
            hashing: Arc::new(Semaphore::new(HASHING_MAX)),
            logins: Semaphore::new(LOGINS_MAX),
        }
    }

    /// Takes another configuration; whoever is not the same user any more is logged out.
    pub(super) fn set(&self, config: &Config, people: People) {
        let people = Arc::new(people);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config.clone());
        *self.people.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&people);
        self.sessions.keep(|name, mark| people.named(name).is_some_and(|person| person.mark == *mark));
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn people(&self) -> Arc<People> {
        Arc::clone(&self.people.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn limits(&self) -> Limits {
        let config = self.config();
        Limits { idle: config.web.session_idle, whole: config.web.session_max }
    }
}

/// Whether pages may be on a port without TLS at this address.
pub(super) fn offered_in_the_clear(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The routes of a port, each with the right that it asks for.
pub(super) fn router(site: Arc<Site>, address: SocketAddr, is_secure: bool) -> Router {
    let pages = Pages { site, is_secure, is_local: address.ip().to_canonical().is_loopback() };
    let with = |right, method: MethodRouter<Pages>| {
        method.route_layer(from_fn_with_state((pages.clone(), right), guard::admit))
    };
    let open = |method: MethodRouter<Pages>| method.route_layer(from_fn_with_state(pages.clone(), guard::open));
    Router::new()
        .route("/", with(Right::Status, get(status::page_now)))
        .route("/studies", with(Right::Studies, get(studies::page_of)))
        .route("/studies/{study}", with(Right::Studies, get(study::page_of)))
        .route("/studies/{study}/resend", with(Right::Act, post(actions::resend)))
        .route("/studies/{study}/analyse", with(Right::Act, post(actions::analyse)))
        .route("/studies/{study}/close", with(Right::Act, post(actions::close)))
        .route("/models", with(Right::Models, get(models::page_of)))
        .route("/configuration", with(Right::Configuration, get(settings::page_of)))
        .route("/activity", with(Right::Activity, get(activity::page_of)))
        .route("/login", open(get(login::form).post(login::log_in)))
        .route("/logout", open(post(login::log_out)))
        .route("/assets/{name}", get(assets::serve))
        .fallback(guard::nothing_there)
        .layer(from_fn(guard::headers))
        .with_state(pages)
}
