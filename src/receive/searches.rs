//! Places for searches of the catalogue: so many of all associations together, and half of them for one host, so that
//! none keeps the others from asking.
//!
//! Neighbours: `association` takes a place for each query. Left out: what a search may cost.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places, and who has how many.
#[derive(Debug, Clone)]
pub(super) struct Searches {
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    most: usize,
}

/// The place of one search, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    searches: Searches,
    host: IpAddr,
}

impl Searches {
    /// At least one for each host.
    pub(super) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// A place for a search from this address; `None` where all are taken, or half of them by it.
    pub(super) fn begin(&self, host: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let (all, own) = (taken.values().sum::<usize>(), taken.get(&host).copied().unwrap_or_default());
        if all >= self.most || own >= self.most.div_ceil(2) {
            return None;
        }
        taken.insert(host, own + 1);
        drop(taken);
        Some(Place { searches: self.clone(), host })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.searches.lock();
        if let Some(own) = taken.get_mut(&self.host) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_half_of_the_places() {
        let searches = Searches::new(8);
        let begin = |host: &str| searches.begin(host.parse().unwrap());
        let mut first: Vec<_> = std::iter::from_fn(|| begin("192.0.2.1")).collect();
        assert_eq!(first.len(), 4);
        let second: Vec<_> = std::iter::from_fn(|| begin("192.0.2.2")).collect();
        assert_eq!(second.len(), 4);
        assert!(begin("192.0.2.3").is_none(), "all are taken");
        first.pop();
        assert!(begin("192.0.2.2").is_none());
        assert!(begin("192.0.2.3").is_some() && begin("192.0.2.1").is_some());
        drop((first, second));
        assert!(searches.lock().is_empty(), "nothing is kept of hosts that are gone");
    }
}
