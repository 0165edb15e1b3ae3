//! Connections of a port of which nothing is known yet, counted by host, so that one that opens them and says nothing
//! leaves room for the others.
//!
//! Neighbours: `receive` and `web` ask for each connection that they accept, and drop its place when the association
//! begins, or when a request is authorised.
//! Left out: who may do what.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

/// The newcomers of a port.
#[derive(Debug, Clone)]
pub struct Newcomers {
    counts: Arc<Mutex<BTreeMap<IpAddr, Count>>>,
    of_one_host_max: usize,
    this_machine: ThisMachine,
}

/// Whether peers of this machine are bounded too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThisMachine {
    Bounded,
    /// A proxy there stands for many hosts.
    Unbounded,
}

#[derive(Debug, Default)]
struct Count {
    connections: usize,
    /// Whether the log says so already.
    told: bool,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Newcomer {
    all: Newcomers,
    host: IpAddr,
}

impl Newcomers {
    pub fn new(of_one_host_max: usize, this_machine: ThisMachine) -> Self {
        Self { counts: Arc::default(), of_one_host_max, this_machine }
    }

    /// A place for a connection from this canonical address; `None` where its host has too many.
    pub fn admit(&self, address: IpAddr) -> Option<Newcomer> {
        let host = host(address);
        let mut counts = self.lock();
        let count = counts.entry(host).or_default();
        let is_bounded = !host.is_loopback() || self.this_machine == ThisMachine::Bounded;
        if count.connections >= self.of_one_host_max && is_bounded {
            if !count.told {
                let most = self.of_one_host_max;
                warn!(%host, most, "connections of which nobody knows whose they are: further ones are closed");
                count.told = true;
            }
            return None;
        }
        count.connections += 1;
        drop(counts);
        Some(Newcomer { all: self.clone(), host })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
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
        const OF_ONE_HOST_MAX: usize = 32;
        let newcomers = Newcomers::new(OF_ONE_HOST_MAX, ThisMachine::Unbounded);
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
        let strict = Newcomers::new(1, ThisMachine::Bounded);
        let first = strict.admit("127.0.0.1".parse().unwrap());
        assert!(first.is_some() && strict.admit("127.0.0.1".parse().unwrap()).is_none());
    }
}
