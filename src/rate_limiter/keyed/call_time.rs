//! The time of a call, and pauses that postpone it.

use super::super::RateLimiter;
use super::super::decision::{Decision, Reading};
use super::super::state::{Bucket, Gcra, Limit, Unavailable};
use crate::instant::Instant;

/// The current time, and the first instant at which a call may run, which is later during a pause.
#[derive(Clone, Copy)]
pub(super) struct CallTime {
    pub(super) now: Instant,
    pub(super) open: Instant,
}

impl CallTime {
    pub(super) fn is_paused(self) -> bool {
        self.open > self.now
    }

    /// Turns an admission during a pause into a rejection until its end.
    pub(super) fn admit(self, ready: Result<(), Unavailable>) -> Result<(), Unavailable> {
        match ready {
            Ok(()) if self.is_paused() => Err(Unavailable::Until(self.open)),
            ready => ready,
        }
    }

    /// Rejects a call during a pause.
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

    /// Returns the decision about a call with a key that has a token bucket. Takes nothing.
    pub(super) fn peek_bucket(self, tat: u64, gcra: &Gcra, cost: u64) -> Decision {
        let ready = self.admit(gcra.ready(tat, self.open, cost, 0));
        self.decision(ready, tat, gcra)
    }

    /// Returns the decision about a call, with the state of the token bucket after it. During a pause nothing remains.
    pub(super) fn decision(
        self,
        ready: Result<(), Unavailable>,
        tat: u64,
        gcra: &Gcra,
    ) -> Decision {
        let bucket = Bucket { gcra: *gcra, tat };
        let reading = match self.is_paused() {
            true => {
                let more = self.admit(bucket.ready(self.open, 1, 0));
                Reading::of_closed(bucket.availability(self.now), more)
            }
            false => Reading::of(&bucket, self.now),
        };
        Decision::new(self.now, ready, &reading)
    }

    /// Like [`peek_bucket`](Self::peek_bucket), for a key with a limiter.
    pub(super) fn peek_limiter(self, limiter: &RateLimiter, cost: u64) -> Decision {
        match self.is_paused() {
            true => {
                let ready = |cost| Err(self.paused_limiter(limiter, cost, 0));
                let reading = Reading::of_closed(limiter.availability(self.now), ready(1));
                Decision::new(self.now, ready(cost), &reading)
            }
            false => limiter.peek_n(cost),
        }
    }

    /// Returns when a call during a pause would be admitted by the limiter of its key, leaving no more than
    /// `debt` tokens of debt.
    #[cold]
    pub(super) fn paused_limiter(self, limiter: &RateLimiter, cost: u64, debt: u64) -> Unavailable {
        let (queue, storage) = (&limiter.inner.queue, &limiter.inner.storage);
        let ready = match queue.is_closed() {
            true => queue.forecast(storage, self.now, cost, debt).0,
            false => storage.copy().ready(self.open, cost, debt),
        };
        match ready {
            Ok(()) => Unavailable::Until(self.open),
            Err(Unavailable::Until(at)) => Unavailable::Until(at.max(self.open)),
            Err(Unavailable::Never) => Unavailable::Never,
        }
    }
}
