//! When to leave a server alone: a circuit breaker. Pure: the time is an argument.
//!
//! Closed, everything is asked. After so many failures in a row it opens, and nothing is asked for a while; then one
//! request finds out (half-open), and its end closes the breaker or opens it again. Neighbours: `batch` asks. Left out:
//! what a failure is.

use std::time::{Duration, Instant};

/// When to come back while one request finds out.
const FINDING_OUT: Duration = Duration::from_secs(2);

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admit {
    Yes,
    /// Not before so long.
    No(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One request is under way; a second one is sent at this time, should the first never end.
    HalfOpen {
        until: Instant,
    },
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    pause: Duration,
    state: State,
}

impl Breaker {
    pub(super) fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, state: State::Closed { failures: 0 } }
    }

    /// Whoever is admitted tells how it ended, by [`Breaker::succeeded`] or [`Breaker::failed`].
    pub(super) fn admit(&mut self, now: Instant) -> Admit {
        match self.state {
            State::Closed { .. } => Admit::Yes,
            State::Open { until } | State::HalfOpen { until } if now < until => Admit::No(until - now),
            State::Open { .. } | State::HalfOpen { .. } => {
                self.state = State::HalfOpen { until: now + self.pause };
                Admit::Yes
            }
        }
    }

    /// How long nothing is asked still. While one request finds out, that is soon.
    pub(super) fn down_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until - now),
            State::HalfOpen { until } if now < until => Some(FINDING_OUT.min(until - now)),
            _ => None,
        }
    }

    /// Whether it was open or half-open before.
    pub(super) fn succeeded(&mut self) -> bool {
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0 };
        !was_closed
    }

    /// The server answered, be it with a refusal of several images: it is asked on, and failures in a row still count.
    pub(super) fn answered(&mut self) {
        if !matches!(self.state, State::Closed { .. }) {
            self.state = State::Closed { failures: 0 };
        }
    }

    /// Whether it opens by this.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::Open { .. } => return false,
            State::HalfOpen { .. } => self.failures_max,
        };
        let opens = failures >= self.failures_max;
        self.state = if opens { State::Open { until: now + self.pause } } else { State::Closed { failures } };
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_one_request_finds_out() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let left = |seconds| Admit::No(Duration::from_secs(seconds));
        let mut breaker = Breaker::new(3, Duration::from_secs(30));
        assert!(!breaker.failed(at(0)) && !breaker.failed(at(0)));
        assert!(!breaker.succeeded(), "one success in between begins anew");
        assert!(!breaker.failed(at(1)) && !breaker.failed(at(1)));
        assert_eq!((breaker.admit(at(1)), breaker.down_for(at(1))), (Admit::Yes, None));
        assert!(breaker.failed(at(2)));
        assert!(!breaker.failed(at(3)), "a request that was under way changes nothing");
        assert_eq!((breaker.admit(at(12)), breaker.down_for(at(12))), (left(20), Some(Duration::from_secs(20))));
        // half-open: one, and no other
        assert_eq!((breaker.admit(at(32)), breaker.admit(at(33))), (Admit::Yes, left(29)));
        assert_eq!(breaker.down_for(at(33)), Some(FINDING_OUT), "nothing is decoded for it meanwhile");
        assert!(breaker.failed(at(40)), "one failure is enough now");
        assert_eq!(breaker.admit(at(69)), left(1));
        assert_eq!(breaker.admit(at(70)), Admit::Yes);
        assert!(breaker.succeeded());
        assert_eq!((breaker.admit(at(71)), breaker.down_for(at(71))), (Admit::Yes, None));
        // the one that should find out never came back: another one does
        assert_eq!([80, 80, 80].map(|s| breaker.failed(at(s))), [false, false, true]);
        assert_eq!(
            (breaker.admit(at(110)), breaker.admit(at(139)), breaker.admit(at(140))),
            (Admit::Yes, left(1), Admit::Yes)
        );
    }
}
