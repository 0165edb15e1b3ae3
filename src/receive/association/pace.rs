//! How fast a message must arrive, so that small PDUs with pauses that are each short enough do not keep a place
//! occupied. Left out: silence, which `node.idle_timeout` bounds for each PDU.

use std::time::Duration;

/// A message that has begun comes at least this fast once `node.idle_timeout` was spent waiting for it. The slowest
/// lines between hospitals are a hundred times faster.
pub(super) const MESSAGE_BYTES_PER_SECOND_MIN: u64 = 1024;

/// What a message has cost so far: our own time, on a slow disk say, does not count.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) waited: Duration,
    pub(super) bytes: u64,
}

impl Pace {
    pub(super) fn is_too_slow(&self, patience: Duration) -> bool {
        self.waited > patience && self.bytes < self.waited.as_secs().saturating_mul(MESSAGE_BYTES_PER_SECOND_MIN)
    }
}
