//! The time of a call, and the pauses that hold it.

use super::super::RateLimiter;
use super::super::decision::Decision;
use super::super::state::{Gcra, Unavailable};
use crate::instant::Instant;

/// Now, and the first instant at which a call may run: later while the key is paused.
#[derive(Clone, Copy)]
pub(super) struct CallTime {
    pub(super) now: Instant,
    pub(super) open: Instant,
}

impl CallTime {
    pub(super) fn is_paused(self) -> bool {
        self.open > self.now
    }

    /// Postpones what could happen at `open` while the key is paused.
    pub(super) fn admit(self, ready: Result<(), Unavailable>) -> Result<(), Unavailable> {
        match ready {
            Ok(()) if self.is_paused() => Err(Unavailable::Until(self.open)),
            ready => ready,
        }
    }

    /// Rejects a call because of the pause.
    #[cold]
    pub(super) fn paused(self, tat: u64, gcra: &Gcra, cost: u64) -> Result<(), Unavailable> {
        self.admit(gcra.ready(tat, self.open, cost, 0))
    }

    pub(super) fn paused_until(self, until: Instant) -> Self {
        Self {
            open: self.open.max(until),
            ..self
        }
    }

    /// Returns what [`decide`](super::KeyedRateLimiter::decide) would return for a key with a token bucket.
    pub(super) fn peek_bucket(self, tat: u64, gcra: &Gcra, cost: u64) -> Decision {
        let ready = self.admit(gcra.ready(tat, self.open, cost, 0));
        Decision::new(self.now, ready, gcra.availability(tat, self.now))
    }

    /// As [`peek_bucket`](Self::peek_bucket), for a key with a limiter.
    pub(super) fn peek_limiter(self, limiter: &RateLimiter, cost: u64) -> Decision {
        match self.is_paused() {
            true => Decision::new(self.now, self.admit(Ok(())), limiter.availability(self.now)),
            false => limiter.peek_n(cost),
        }
    }
}
