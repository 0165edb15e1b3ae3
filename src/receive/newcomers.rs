//! Connections of a port that are no associations yet, counted by host, so that one that opens them and says nothing
//! leaves room for the others.
//!
//! Neighbours: `mod` asks for each connection that it accepts, and drops its place when the association begins. Peers
//! of this machine are not bounded: a proxy there stands for many hosts. Left out: who may send, which `negotiate`
//! judges.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::SPARE_CONNECTIONS;

/// Connections of one host that are no associations yet: half of the spare ones, which a sender that opens all its
/// associations at once does not reach, since each of them takes a moment only.
pub(super) const OF_ONE_HOST_MAX: usize = SPARE_CONNECTIONS / 2;

#[derive(Debug, Clone, Default)]
pub(super) struct Newcomers(Arc<Mutex<BTreeMap<IpAddr, Count>>>);

#[derive(Debug, Default)]
struct Count {
    connections: usize,
    /// Whether the log says so already.
    told: bool,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Newcomer {
    all: Newcomers,
    host: IpAddr,
}

impl Newcomers {
    /// A place for a connection from this canonical address; `None` where its host has too many.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Newcomer> {
        let host = host(address);
        let mut counts = self.lock();
        let count = counts.entry(host).or_default();
        if count.connections >= OF_ONE_HOST_MAX && !host.is_loopback() {
            if !count.told {
                warn!(%host, OF_ONE_HOST_MAX, "connections that ask for no association: further ones are closed");
                count.told = true;
            }
            return None;
        }
        count.connections += 1;
        drop(counts);
        Some(Newcomer { all: self.clone(), host })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut counts = self.all.lock();
        if let Some(count) = counts.get_mut(&self.host) {
            count.connections -= 1;
            if count.connections == 0 {
                counts.remove(&self.host);
            }
        }
    }
}

/// What is one host: an address of IPv4, and the network of one of IPv6 (RFC 4291 2.5.4), of which a host has them all.
fn host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_so_many_connections_until_they_end() {
        let newcomers = Newcomers::default();
        let admit = |text: &str| newcomers.admit(text.parse().unwrap());
        for (first, same, other) in
            [("192.0.2.1", "192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1")]
        {
            let mut held: Vec<_> = (0..OF_ONE_HOST_MAX).map(|_| admit(first).unwrap()).collect();
            assert!(admit(same).is_none() && admit(first).is_none(), "{first}");
            assert!(admit(other).is_some(), "{first}");
            held.pop();
            assert!(admit(same).is_some(), "{first}");
        }
        assert!(newcomers.lock().is_empty(), "nothing is kept of hosts that are gone");
        let many: Vec<_> = (0..=OF_ONE_HOST_MAX).map_while(|_| admit("127.0.0.1")).collect();
        assert_eq!(many.len(), OF_ONE_HOST_MAX + 1, "a proxy on this machine stands for many");
    }
}
