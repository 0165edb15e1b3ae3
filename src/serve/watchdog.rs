//! What the service manager hears (sd_notify): ready, reloading, stopping, and alive as long as the loops are.
//!
//! Neighbours: every loop beats, `mod` tells what state the node is in. Left out: what the manager does when it hears
//! nothing, which its unit file says (`conf/sidelight.service`).

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::Node;

/// A loop that did not come by for so long is stuck: none of its steps takes more than a few seconds.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(120);

/// The loops that have to come by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loop {
    Reading,
    Closing,
    Delivering,
    Committing,
    Confirming,
}

const LOOPS: [Loop; 5] = [Loop::Reading, Loop::Closing, Loop::Delivering, Loop::Committing, Loop::Confirming];

/// When each loop last came by.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    /// Milliseconds after `began`, in the order of [`Loop`].
    beats: [AtomicU64; 5],
}

/// The service manager's socket, where there is one.
#[derive(Debug)]
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Within which it wants to hear that the node is alive.
    watchdog: Option<Duration>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), beats: Default::default() }
    }
}

impl Pulse {
    pub(super) fn beat(&self, of: Loop) {
        self.beats[of as usize].store(self.now(), Ordering::Relaxed);
    }

    /// A loop that is stuck.
    fn stuck(&self, after: Duration) -> Option<Loop> {
        let limit = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        LOOPS.into_iter().find(|of| self.now().saturating_sub(self.beats[*of as usize].load(Ordering::Relaxed)) > limit)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Manager {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say; without them nobody listens.
    pub(super) fn from_environment() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        let socket = name.and_then(|name| match open(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!(%error, "NOTIFY_SOCKET is of no use; the service manager will not hear of this node");
                None
            }
        });
        Self { socket, watchdog }
    }

    /// Sends an assignment such as `READY=1`. Never waits: what cannot be sent is lost.
    pub(super) fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            warn!(%error, state, "the service manager could not be told");
        }
    }

    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }
}

fn open(name: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        // An abstract address, written with an @ for its NUL.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

impl Node {
    /// Tells the service manager twice per period that the node is alive: every loop came by, and the index answers.
    pub(super) async fn watch(self: Arc<Self>, manager: Arc<Manager>) {
        let Some(period) = manager.watchdog else { return self.cancel.cancelled().await };
        let mut ticks = tokio::time::interval(period / 2);
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.pulse.stuck(STUCK_AFTER) {
                Some(of) => error!(?of, "a loop is stuck; the service manager is not told that the node is alive"),
                None => match tokio::time::timeout(period / 2, self.store.answers()).await {
                    Ok(Ok(())) => manager.tell("WATCHDOG=1"),
                    Ok(Err(error)) => error!(%error, "the index does not answer"),
                    Err(_) => error!("the index does not answer in time"),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stops_coming_by_is_found() {
        let pulse = Pulse { began: Instant::now() - Duration::from_secs(100), beats: Default::default() };
        for of in LOOPS {
            assert!(pulse.stuck(Duration::from_secs(50)).is_some());
            pulse.beat(of);
        }
        assert!(pulse.stuck(Duration::from_secs(50)).is_none());
    }

    #[test]
    fn the_manager_hears_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("sidelight-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let listeners = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ];
        for (listener, address) in listeners {
            let manager = Manager { socket: Some(open(&address).unwrap()), watchdog: None };
            manager.tell("READY=1");
            manager.reloading();
            let mut heard = [0; 100];
            let length = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
            let length = listener.recv(&mut heard).unwrap();
            assert!(heard[..length].starts_with(b"RELOADING=1\nMONOTONIC_USEC="));
        }
        let nobody = Manager { socket: None, watchdog: None };
        nobody.tell("READY=1");
    }
}
