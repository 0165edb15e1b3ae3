//! Loads the configuration again without dropping an association: what can change does, for work that begins from now
//! on.
//!
//! A configuration with a fault changes nothing; all its faults are in the log. Neighbours: `main` turns SIGHUP into
//! requests, `receive` and `web` take the new rules at their gates. Left out: what a key means.

use std::sync::{Arc, PoisonError};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::Node;
use super::watchdog::Manager;
use crate::config::{Config, ConfigError, Evidence, Log, Node as NodeSection, Risk, Setting, Store, Web, callers};
use crate::{receive, web};

/// What a reload needs.
pub(super) struct Reload {
    pub(super) requests: mpsc::Receiver<()>,
    pub(super) load: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    pub(super) filter_logs: Box<dyn Fn(&str) + Send + Sync>,
    pub(super) gate: receive::Gate,
    /// Absent where there is no web listener.
    pub(super) web_gate: Option<web::Doors>,
    pub(super) manager: Arc<Manager>,
}

impl Node {
    /// Serves requests to reload, one after the other.
    pub(super) async fn reload_loop(self: Arc<Self>, mut reload: Reload) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                request = reload.requests.recv() => request,
            };
            if request.is_none() {
                // Nobody can ask any more.
                return self.cancel.cancelled().await;
            }
            reload.manager.reloading();
            self.reload(&reload).await;
            reload.manager.tell("READY=1");
        }
    }

    async fn reload(self: &Arc<Self>, reload: &Reload) {
        let new = match (reload.load)() {
            Ok(new) => new,
            Err(error) => return error!(%error, "the configuration has faults; the old one stays in force"),
        };
        let old = self.config();
        let (merged, fixed) = merge(&old, new);
        if !fixed.is_empty() {
            warn!(sections = fixed.join(", "), "changes here need a restart; the old values stay in force");
        }
        if let Err(error) = open_gates(reload, &merged).await {
            let error = format!("{error:#}");
            return error!(error, "the configuration has faults; the old one stays in force");
        }
        self.reload_certificates(&merged).await;
        let merged = self.reload_profile(&old, merged).await;
        (reload.filter_logs)(&merged.log.filter);
        let changed = merged != *old;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(merged);
        // A destination may have been put right: it is not waited for any longer.
        if let Err(error) = self.store.retry_destinations().await {
            error!(%error, "destinations that are down are tried at their old pace");
        }
        self.store.wake().study_changed.notify_one();
        info!(changed, "the configuration was loaded again");
    }
}

/// Who may send and ask from now on: all of it, or nothing where a file of passcodes or tokens has a fault.
async fn open_gates(reload: &Reload, config: &Config) -> anyhow::Result<()> {
    let (gate, web_gate, config) = (reload.gate.clone(), reload.web_gate.clone(), config.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let known = web_gate.as_ref().map(|_| web::Known::of(&config)).transpose()?;
        gate.set(&config.node, &config.sources, &config.archives())?;
        if let (Some(gate), Some(known)) = (web_gate, known) {
            gate.set(&config, known);
        }
        anyhow::Ok(())
    });
    opened.await?
}

impl Node {
    /// The profile, which a person may have approved since; the old one stays in force, with its keys, where the new one
    /// may not be used.
    async fn reload_profile(self: &Arc<Self>, old: &Config, new: Config) -> Config {
        let (node, risk) = (Arc::clone(self), new.risk.clone());
        match tokio::task::spawn_blocking(move || node.analyser.reload_profile(&risk)).await {
            Ok(Ok(changed)) => {
                if let Some(profile) = changed {
                    info!(profile, "another profile is in force");
                }
                new
            }
            Ok(Err(error)) => {
                error!(error = format!("{error:#}"), "the profile may not be used; the old one stays in force");
                Config { risk: old.risk.clone(), ..new }
            }
            Err(error) => {
                error!(%error, "the profile was not read again; the old one stays in force");
                Config { risk: old.risk.clone(), ..new }
            }
        }
    }

    /// Certificates and pins; those that were read before stay in use where that fails.
    async fn reload_certificates(&self, config: &Config) {
        let (tls, callers) = (Arc::clone(&self.tls), callers(&config.sources, &config.archives()));
        let reloaded = tokio::task::spawn_blocking(move || tls.reload(&callers)).await;
        if let Ok(Err(error)) = reloaded {
            error!(%error, "the certificates were not loaded again; the old ones stay in use");
        }
    }
}

/// What holds from now on, and the sections of `new` in which something else than that was written.
fn merge(old: &Config, new: Config) -> (Config, Vec<&'static str>) {
    let merged = Config {
        node: NodeSection { aliases: new.node.aliases.clone(), ..old.node.clone() },
        store: Store {
            objects_kept: new.store.objects_kept,
            reports_kept: new.store.reports_kept,
            posteriors_kept: new.store.posteriors_kept,
            evidence_kept: new.store.evidence_kept,
            ..old.store.clone()
        },
        web: Web {
            // Off acts at once, since that is how a site shuts the door; what was off has no routes to be opened.
            dicomweb: old.web.dicomweb && new.web.dicomweb,
            clients: new.web.clients.clone(),
            pages: old.web.pages && new.web.pages,
            users: new.web.users.clone(),
            session_idle: new.web.session_idle,
            session_max: new.web.session_max,
            ..old.web.clone()
        },
        study: new.study.clone(),
        sources: new.sources.clone(),
        destinations: new.destinations.clone(),
        delivery: new.delivery.clone(),
        explain: new.explain.clone(),
        risk: Risk {
            profile: new.risk.profile.clone(),
            profile_keys: new.risk.profile_keys.clone(),
            refit: new.risk.refit.clone(),
            // The file is read at start, with the models that it is about.
            evidence: Evidence { file: old.risk.evidence.file.clone(), ..new.risk.evidence.clone() },
            ..old.risk.clone()
        },
        log: Log { filter: new.log.filter.clone(), ..old.log.clone() },
        settings: old.settings.reloaded(&new.settings, is_live),
        ..old.clone()
    };
    let sections = [
        ("node", merged.node != new.node),
        ("store (all but retention)", merged.store != new.store),
        ("tls", merged.tls != new.tls),
        ("web", merged.web != new.web),
        ("models", merged.models != new.models),
        ("pixels", merged.pixels != new.pixels),
        ("risk (all but profile and refit)", merged.risk != new.risk),
        ("log.json", merged.log != new.log),
    ];
    let mut fixed: Vec<&str> = sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    if fixed.is_empty() && merged != new {
        fixed.push("another section");
    }
    (merged, fixed)
}

/// Keys and sections that a reload changes, as [`merge`] does.
const LIVE: &[&str] = &[
    "aliases",
    "sources",
    "destinations",
    "web_clients",
    "web_users",
    "web.session_idle",
    "web.session_max",
    "store.retention",
    "study",
    "delivery",
    "explain",
    "risk.profile",
    "risk.profile_keys",
    "risk.refit",
    "risk.evidence",
    "log.filter",
];

/// Whether what is written here holds after a reload.
fn is_live(setting: &Setting) -> bool {
    let under = |section: &&str| {
        let rest = setting.key.strip_prefix(*section);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    match setting.key.as_str() {
        "web.dicomweb" | "web.pages" => setting.value == "false",
        "risk.evidence.file" => false,
        _ => LIVE.iter().any(under),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// The defaults with these changes.
    fn loaded(overrides: &[(&str, &str)]) -> Config {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        config::load(None, [], &overrides).unwrap()
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let old = loaded(&[]);
        let live = [
            ("study.quiet_period", "5s"),
            ("study.late", "never"),
            ("sources", r#"[{ae_title = "CT"}]"#),
            ("destinations", r#"[{name = "a", ae_title = "A", host = "h", port = 104, audit = true}]"#),
            ("delivery.retry_first", "1s"),
            ("store.retention.objects", "1d"),
            ("web_clients", r#"[{name = "c", token_file = "t", ae_title = "C", may = ["store"]}]"#),
            ("aliases", r#"[{ae_title = "OLD"}]"#),
            ("web_users", r#"[{name = "u", password_file = "p", roles = ["viewer"]}]"#),
            ("web.session_idle", "5m"),
            ("risk.evidence.every", "7"),
            ("store.retention.evidence", "1d"),
            ("log.filter", "debug"),
            ("risk.profile", "p.json"),
            ("risk.refit.every", "30d"),
            ("risk.profile_keys", r#"["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]"#),
        ];
        for change in live {
            let new = loaded(&[change]);
            assert_ne!(new, old, "{change:?}");
            let (merged, fixed) = merge(&old, loaded(&[change]));
            assert_eq!(merged.settings.list(), new.settings.list(), "{change:?}");
            assert_eq!((merged, fixed), (new, vec![]), "{change:?}");
        }
        let fixed = [
            ("node.listen", "127.0.0.1:1", "node"),
            // Who may pull what hangs by it in more than one place.
            ("node.mode", "active", "node"),
            ("store.data_dir", "elsewhere", "store (all but retention)"),
            ("web.listen", "127.0.0.1:1", "web"),
            ("web.dicomweb", "true", "web"),
            ("web.pages", "true", "web"),
            ("models.batch_max", "9", "models"),
            ("pixels.workers", "9", "pixels"),
            ("risk.delta", "0.2", "risk (all but profile and refit)"),
            ("risk.evidence.file", "lines.json", "risk (all but profile and refit)"),
            ("log.json", "true", "log.json"),
        ];
        for (key, value, named) in fixed {
            let (merged, fixed) = merge(&old, loaded(&[(key, value), ("study.cap", "30m")]));
            assert_eq!(fixed, [named], "{key}");
            let shown = |config: &Config| config.settings.list().iter().find(|s| s.key == key).cloned();
            assert_eq!(shown(&merged), shown(&old), "{key}");
            assert_eq!(merged, loaded(&[("study.cap", "30m")]), "{key}: the rest is taken over");
        }
        // Off at once, and on again by a restart alone.
        let on = loaded(&[("web.dicomweb", "true")]);
        let (off, fixed) = merge(&on, loaded(&[]));
        assert_eq!((off.web.dicomweb, fixed), (false, vec![]));
        let (still, fixed) = merge(&off, on);
        assert_eq!((still.web.dicomweb, fixed), (false, vec!["web"]));
    }
}
