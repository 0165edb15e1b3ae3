//! How many images a model may be given at once on a device, as its memory allows.
//!
//! A batch that finds no memory halves the limit. What took the memory may have gone: after many full batches that
//! fitted the limit doubles again, up to where it began, and each time that this fails the wait until the next attempt
//! is twice as long. So a device that is too small for good costs a failed batch ever more seldom. Neighbours: `worker`.

/// Full batches that have to fit before a larger one is tried.
const CALM_FIRST: u32 = 256;

#[derive(Debug, Clone)]
pub(super) struct BatchLimit {
    max: usize,
    now: usize,
    /// Full batches since the limit last changed.
    calm: u32,
    /// How many of them let it grow.
    wait: u32,
}

impl BatchLimit {
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, now: max, calm: 0, wait: CALM_FIRST / 2 }
    }

    pub(super) fn images(&self) -> usize {
        self.now
    }

    /// So many images found no memory.
    pub(super) fn exceeded(&mut self, images: usize) {
        self.now = self.now.min((images / 2).max(1));
        self.wait = self.wait.saturating_mul(2);
        self.calm = 0;
    }

    /// So many images were computed.
    pub(super) fn fitted(&mut self, images: usize) {
        if self.now == self.max || images < self.now {
            return;
        }
        self.calm += 1;
        if self.calm >= self.wait {
            self.now = (self.now * 2).min(self.max);
            self.calm = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_halves_at_once_and_grows_back_ever_more_slowly() {
        let mut limit = BatchLimit::new(48);
        // Full batches that fit until it has grown.
        let grows_after = |limit: &mut BatchLimit| {
            let before = limit.images();
            (1..).find(|_| {
                limit.fitted(before - 1);
                limit.fitted(before);
                limit.images() != before
            })
        };
        limit.exceeded(48);
        limit.exceeded(24);
        assert_eq!(limit.images(), 12);
        assert_eq!((grows_after(&mut limit), limit.images()), (Some(512), 24));
        limit.exceeded(24);
        assert_eq!((grows_after(&mut limit), limit.images()), (Some(1024), 24));
        assert_eq!((grows_after(&mut limit), limit.images()), (Some(1024), 48));
        for _ in 0..5000 {
            limit.fitted(48);
        }
        assert_eq!(limit.images(), 48, "never beyond where it began");
        limit.exceeded(1);
        assert_eq!(limit.images(), 1, "one image is the least");
        // A batch that was smaller than the limit says more than the limit.
        let mut limit = BatchLimit::new(8);
        limit.exceeded(4);
        assert_eq!(limit.images(), 2);
    }
}
