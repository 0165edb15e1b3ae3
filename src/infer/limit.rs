//! How many images a model may be given at once on a device, as its memory allows.
//!
//! A batch that finds no memory halves the limit, again and again until it fits. What took the memory may have gone:
//! after many full batches that fitted the limit doubles again, up to where it began. Each time that memory runs out the
//! wait until then is twice as long, up to a bound, so a device that is too small for good costs a failed batch seldom;
//! one that held its most for as long is forgiven. Neighbours: `worker`.

/// Full batches that have to fit before a larger one is tried: after memory ran out once, and at most.
const CALM_FIRST: u32 = 256;
const CALM_MAX: u32 = 8192;

#[derive(Debug, Clone)]
pub(super) struct BatchLimit {
    max: usize,
    now: usize,
    /// Full batches since memory last ran out or the limit grew.
    calm: u32,
    /// How many of them let it grow, once memory has run out.
    wait: Option<u32>,
    /// Nothing has fitted since memory ran out: what fails now fails for the same reason.
    falling: bool,
}

impl BatchLimit {
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, now: max, calm: 0, wait: None, falling: false }
    }

    pub(super) fn images(&self) -> usize {
        self.now
    }

    /// So many images found no memory. What one image alone lacks says nothing of batches.
    pub(super) fn exceeded(&mut self, images: usize) {
        if images < 2 {
            return;
        }
        self.now = self.now.min(images / 2);
        self.calm = 0;
        if !self.falling {
            self.falling = true;
            self.wait = Some(self.wait.map_or(CALM_FIRST, |wait| (wait * 2).min(CALM_MAX)));
        }
    }

    /// So many images were computed.
    pub(super) fn fitted(&mut self, images: usize) {
        self.falling = false;
        let Some(wait) = self.wait.filter(|_| images >= self.now) else { return };
        self.calm += 1;
        if self.calm < wait {
            return;
        }
        self.calm = 0;
        if self.now == self.max {
            self.wait = None;
        } else {
            self.now = (self.now * 2).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Full batches that fit until it has grown, and what it is then.
    fn grown(limit: &mut BatchLimit) -> (u32, usize) {
        let before = limit.images();
        for batches in 1..=2 * CALM_MAX {
            limit.fitted(before - 1);
            limit.fitted(before);
            if limit.images() != before {
                return (batches, limit.images());
            }
        }
        (u32::MAX, before)
    }

    #[test]
    fn a_limit_halves_at_once_and_grows_back_more_slowly_after_each_time_that_memory_ran_out() {
        let mut limit = BatchLimit::new(48);
        limit.exceeded(48);
        limit.exceeded(24);
        assert_eq!(limit.images(), 12);
        assert_eq!(grown(&mut limit), (256, 24), "halved twice for one reason");
        limit.fitted(24);
        limit.exceeded(24);
        assert_eq!(grown(&mut limit), (512, 24));
        assert_eq!(grown(&mut limit), (512, 48));
        for _ in 0..100 {
            limit.fitted(1);
            limit.exceeded(48);
        }
        assert_eq!(grown(&mut limit), (CALM_MAX, 48), "the wait has a bound");
        for _ in 0..CALM_MAX {
            limit.fitted(48);
        }
        assert_eq!(limit.images(), 48, "never beyond where it began");
        limit.exceeded(48);
        assert_eq!(grown(&mut limit), (256, 48), "forgiven");
        // A batch that was smaller than the limit says more than the limit; one image says nothing.
        let mut limit = BatchLimit::new(8);
        limit.exceeded(1);
        assert_eq!(limit.images(), 8);
        limit.exceeded(4);
        assert_eq!(limit.images(), 2);
    }
}
