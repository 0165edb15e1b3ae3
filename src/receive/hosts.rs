//! Where archives are that may call: the addresses of their names, looked up at the start, at a reload and every
//! minute, so that they are known before anybody calls.
//!
//! A name that is not found is nobody's. Neighbours: `mod` asks for each connection. Left out: sources, which are
//! listed by address, and what an archive may do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Gate;

/// The names of archives with their canonical addresses; none of a name that was not found.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    found: RwLock<BTreeMap<String, BTreeSet<IpAddr>>>,
    /// There may be other archives.
    pub(super) changed: Notify,
}

/// For one name; whoever answers names later than that does not hold up the others.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// How old an address may be, beside the time of the lookups.
const AGE_MAX: Duration = Duration::from_secs(60);

impl Hosts {
    /// Whether a host, by address or name, has this canonical address.
    pub(super) fn is_at(&self, host: &str, address: IpAddr) -> bool {
        match host.parse::<IpAddr>() {
            Ok(literal) => literal.to_canonical() == address,
            Err(_) => {
                let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
                found.get(host).is_some_and(|addresses| addresses.contains(&address))
            }
        }
    }

    /// Looks up what are names among these hosts, and forgets all others.
    pub(super) async fn look_up(&self, hosts: impl IntoIterator<Item = String>) {
        let names: BTreeSet<String> = hosts.into_iter().filter(|host| host.parse::<IpAddr>().is_err()).collect();
        for name in &names {
            let looked_up = tokio::time::timeout(LOOKUP_MAX, lookup_host((name.as_str(), 0))).await;
            let (addresses, error) = match looked_up {
                Ok(Ok(found)) => (found.map(|found| found.ip().to_canonical()).collect(), None),
                Ok(Err(error)) => (BTreeSet::new(), Some(error.to_string())),
                Err(_) => (BTreeSet::new(), Some(format!("no answer within {LOOKUP_MAX:?}"))),
            };
            let before = self.found.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), addresses);
            // Once, not every minute.
            if let Some(error) = error
                && before.is_none_or(|addresses| !addresses.is_empty())
            {
                let told =
                    "the host of a destination that is asked for storage commitment is not found: it cannot call";
                warn!(host = name, error, "{told}");
            }
        }
        self.found.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }

    /// The first lookups; those that take long go on when the gate is watched.
    pub(super) async fn begin(&self, gate: &Gate) {
        if tokio::time::timeout(LOOKUP_MAX, self.look_up(gate.current().archive_hosts())).await.is_err() {
            self.changed.notify_one();
        }
    }

    /// Keeps the addresses of the gate's archives fresh until `cancel`.
    pub(super) async fn watch(&self, gate: &Gate, cancel: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(AGE_MAX) => {}
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.look_up(gate.current().archive_hosts()) => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Rules;
    use super::*;
    use crate::config;
    use crate::domain::AeTitle;

    fn archives(hosts: &[&str]) -> Vec<config::Archive> {
        let archive = |host: &&str| config::Archive {
            name: "archive".into(),
            ae_title: AeTitle::parse("ARCHIVE").unwrap(),
            host: (*host).to_owned(),
            tls: None,
        };
        hosts.iter().map(archive).collect()
    }

    #[tokio::test]
    async fn an_archive_calls_from_its_host_and_its_name_opens_the_door_to_nobody_else() {
        let source = r#"[{ae_title = "CT", hosts = ["192.0.2.9"]}]"#;
        let config = config::load(None, [], &[("sources".to_owned(), source.to_owned())]).unwrap();
        let rules = |hosts: &[&str]| Rules::new(&config.node, &config.sources, &archives(hosts)).unwrap();
        let gate = Gate::new(rules(&["archive.invalid", "192.0.2.20"]));
        gate.hosts.begin(&gate).await;
        let may_come = |text: &str| gate.may_come_from(text.parse().unwrap());
        let archives_at = |text: &str| {
            gate.archives_of(&gate.current(), &AeTitle::parse("ARCHIVE").unwrap(), text.parse().unwrap()).len()
        };
        let rows = [("192.0.2.9", true, 0), ("192.0.2.20", true, 1), ("192.0.2.1", false, 0), ("127.0.0.1", false, 0)];
        for (address, may, named) in rows {
            assert_eq!((may_come(address), archives_at(address)), (may, named), "{address}");
        }

        // A reload names another host, which is looked up at once.
        let cancel = CancellationToken::new();
        let watch = gate.hosts.watch(&gate, &cancel);
        let reloaded = async {
            gate.set(&config.node, &config.sources, &archives(&["localhost"])).unwrap();
            while !may_come("127.0.0.1") && !may_come("::1") {
                tokio::task::yield_now().await;
            }
            assert!(!may_come("192.0.2.20") && !may_come("192.0.2.1") && may_come("192.0.2.9"));
            cancel.cancel();
        };
        tokio::time::timeout(Duration::from_secs(50), async { tokio::join!(watch, reloaded) }).await.unwrap();
    }
}
