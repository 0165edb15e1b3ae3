//! How often somebody may try to log in: by host and by name, with waits that grow with each failure.
//!
//! An attempt counts as failed from its beginning, so that many at once are no way around; one that succeeds is taken
//! back. Names are held as digests, and of both kinds so many and no more. Neighbours: `login`. Left out: clocks.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// What is counted.
#[derive(Debug)]
pub(super) struct Throttle {
    hosts: Mutex<Counter<IpAddr>>,
    names: Mutex<Counter<[u8; 32]>>,
}

/// Failures that cost nothing but their own time.
const FREE: u32 = 5;
/// Longest wait of a host; and of a name, which others may have spoiled for its owner.
const HOST_WAIT_MAX: Duration = Duration::from_secs(900);
const NAME_WAIT_MAX: Duration = Duration::from_secs(60);
/// Failures are forgotten after so long without another.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// Hosts, and names, that are counted at once.
const COUNTED_MAX: usize = 10_000;

impl Throttle {
    pub(super) fn new() -> Self {
        Self { hosts: Mutex::new(Counter::new(HOST_WAIT_MAX)), names: Mutex::new(Counter::new(NAME_WAIT_MAX)) }
    }

    /// Begins an attempt.
    ///
    /// # Errors
    /// How long to wait before the next; nothing was counted then.
    pub(super) fn begin(&self, host: IpAddr, name: &str, now: Instant) -> Result<(), Duration> {
        let (host, name) = (network(host), digest(name));
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = hosts.wait(&host, now).max(names.wait(&name, now));
        if !wait.is_zero() {
            return Err(wait);
        }
        hosts.failed(host, now);
        names.failed(name, now);
        Ok(())
    }

    /// The attempt succeeded: the name is free again. Of the host only this attempt is taken back, so that an account of
    /// one's own does not buy guesses at others.
    pub(super) fn succeeded(&self, host: IpAddr, name: &str) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).take_back(&network(host));
        self.names.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(&digest(name));
    }
}

#[derive(Debug)]
struct Counter<K> {
    entries: HashMap<K, Failures>,
    wait_max: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    number: u32,
    last: Instant,
}

impl<K: Hash + Eq + Clone> Counter<K> {
    fn new(wait_max: Duration) -> Self {
        Self { entries: HashMap::new(), wait_max }
    }

    fn wait(&self, key: &K, now: Instant) -> Duration {
        let Some(failures) = self.entries.get(key).filter(|f| !f.is_forgotten(now)) else { return Duration::ZERO };
        let Some(beyond) = failures.number.checked_sub(FREE) else { return Duration::ZERO };
        let wait = Duration::from_secs(1 << beyond.min(20)).min(self.wait_max);
        (failures.last + wait).saturating_duration_since(now)
    }

    fn failed(&mut self, key: K, now: Instant) {
        if self.entries.len() >= COUNTED_MAX && !self.entries.contains_key(&key) {
            self.entries.retain(|_, failures| !failures.is_forgotten(now));
        }
        if self.entries.len() >= COUNTED_MAX && !self.entries.contains_key(&key) {
            let least = self.entries.iter().min_by_key(|(_, f)| (f.number, f.last)).map(|(key, _)| key.clone());
            least.map(|key| self.entries.remove(&key));
        }
        let failures = self.entries.entry(key).or_insert(Failures { number: 0, last: now });
        if failures.is_forgotten(now) {
            failures.number = 0;
        }
        *failures = Failures { number: failures.number.saturating_add(1), last: now };
    }

    fn take_back(&mut self, key: &K) {
        if let Some(failures) = self.entries.get_mut(key) {
            failures.number = failures.number.saturating_sub(1);
        }
    }
}

impl Failures {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > FORGOTTEN_AFTER
    }
}

/// An IPv6 host may have any address of its network.
fn network(host: IpAddr) -> IpAddr {
    match host.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

fn digest(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn host(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Fails as soon as it may; the seconds that each attempt had to wait.
    fn waits(attempts: usize, mut who: impl FnMut(usize) -> (IpAddr, String)) -> Vec<u64> {
        let (throttle, mut now) = (Throttle::new(), Instant::now());
        let attempt = |i| {
            let (host, name) = who(i);
            let wait = throttle.begin(host, &name, now).err().unwrap_or_default();
            now += wait;
            if !wait.is_zero() {
                throttle.begin(host, &name, now).unwrap();
            }
            wait.as_secs()
        };
        (0..attempts).map(attempt).collect()
    }

    #[test]
    fn waits_grow_for_a_host_and_for_a_name_and_have_an_end() {
        let grown = [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900];
        assert_eq!(waits(17, |i| (host("192.0.2.1"), format!("name{i}"))), grown);
        let name = [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60];
        assert_eq!(waits(13, |i| (host(&format!("192.0.2.{i}")), "anna".into())), name);
        let others = |i: usize| (host(&format!("192.0.2.{i}")), format!("name{i}"));
        assert_eq!(waits(30, others), [0; 30]);
        let neighbours = |i: usize| (host(&format!("2001:db8::{i:x}")), format!("name{i}"));
        assert_eq!(waits(8, neighbours)[5..], [1, 2, 4], "one network");
    }

    #[test]
    fn attempts_at_once_are_as_many_as_one_after_the_other() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let admitted = (0..100).filter(|i| throttle.begin(host("192.0.2.1"), &format!("n{i}"), now).is_ok()).count();
        assert_eq!(admitted, 5);
    }

    #[test]
    fn success_frees_the_name_and_forgives_the_host_nothing_else() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let own = host("192.0.2.1");
        for _ in 0..4 {
            throttle.begin(own, "anna", now).unwrap();
        }
        for _ in 0..50 {
            throttle.begin(own, "mallory", now).unwrap();
            throttle.succeeded(own, "mallory");
        }
        throttle.begin(own, "anna", now).unwrap();
        assert_eq!(throttle.begin(own, "mallory", now), Err(Duration::from_secs(1)));
        throttle.succeeded(own, "anna");
        assert!(throttle.begin(host("192.0.2.2"), "anna", now).is_ok());
        assert!(throttle.begin(own, "berta", now + FORGOTTEN_AFTER * 2).is_ok(), "forgotten");
    }

    #[test]
    fn what_is_counted_is_bounded_and_the_worst_stay() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for _ in 0..5 {
            throttle.begin(host("192.0.2.1"), "anna", now).unwrap();
        }
        for i in 0..2 * COUNTED_MAX {
            let address = IpAddr::from((0x0a00_0000 + u32::try_from(i).unwrap()).to_be_bytes());
            throttle.begin(address, &format!("n{i}"), now).unwrap();
        }
        assert!(throttle.hosts.lock().unwrap().entries.len() <= COUNTED_MAX);
        assert!(throttle.names.lock().unwrap().entries.len() <= COUNTED_MAX);
        assert_eq!(throttle.begin(host("192.0.2.1"), "other", now), Err(Duration::from_secs(1)));
    }
}
