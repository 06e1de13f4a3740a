//! Tokens taken for a cost that is known only afterwards.

use std::time::Duration;

use super::RateLimiter;
use super::state::Refusal;
use crate::error::{Reason, Rejected};
use crate::instant::Instant;

/// Tokens taken in advance, to be settled when the real cost is known. Made by
/// [`RateLimiter::reserve`].
///
/// Dropped without being settled it gives all of it back.
///
/// # What given back means
///
/// Tokens given back can be spent again at once, so a window may admit its bound and what was given
/// back during it. A window that is over gets nothing back.
///
/// # Example
///
/// The cost of a query to a language model is known when the answer is there:
///
/// ```
/// use backstop::{ManualClock, RateLimiter};
/// use backstop::rate_limiter::Quota;
///
/// let clock = ManualClock::new();
/// let tokens = RateLimiter::builder().quota(Quota::per_minute(6000).burst(1000)).clock(clock).build()?;
/// let reservation = tokens.reserve(800).unwrap();
/// // ... the answer took 250 ...
/// reservation.commit(250);
/// assert_eq!(tokens.peek().remaining, 750);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    limiter: RateLimiter,
    cost: u64,
    taken: Instant,
    paid: Instant,
}

impl Reservation {
    pub(super) fn new(
        limiter: &RateLimiter,
        cost: u64,
        longest: Duration,
    ) -> Result<Self, Rejected> {
        let inner = &*limiter.inner;
        let now = inner.outside.now();
        let latest = now + longest;
        let (taken, _, paid) = inner.core.borrow(now, cost, inner.debt);
        let refused = match (taken, paid) {
            (Ok(()), Ok(())) => Ok(now),
            (Ok(()), Err(Refusal::Until(at))) if at <= latest => Ok(at),
            (Ok(()), Err(refusal)) => {
                inner.core.give(now, Some(now), cost);
                Err(refusal)
            }
            (Err(refusal), _) => Err(refusal),
        };
        let (cost, paid) = match refused {
            Ok(paid) => (cost, paid),
            Err(refusal) => {
                let rejected = inner.outside.rejected(now, refusal, Reason::RateLimited);
                inner.reject(rejected, None)?;
                // In shadow mode it goes ahead, and takes nothing.
                (0, now)
            }
        };
        Ok(Self {
            limiter: limiter.clone(),
            cost,
            taken: now,
            paid,
        })
    }

    /// How many tokens it holds.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// How long until the debt it made is paid. Who waits that long stays within the rate.
    pub fn wait(&self) -> Duration {
        self.paid
            .saturating_duration_since(self.limiter.inner.outside.now())
    }

    /// Settles it at `actual` tokens. What was reserved beyond that is given back; what is missing
    /// is taken now, in debt if need be, as far as the limiter's `max_debt` goes.
    pub fn commit(mut self, actual: u64) {
        let reserved = std::mem::take(&mut self.cost);
        let inner = &*self.limiter.inner;
        if actual <= reserved {
            inner.give(Some(self.taken), reserved - actual);
            return;
        }
        let mut missing = actual - reserved;
        loop {
            let now = inner.outside.now();
            let (taken, standing, _) = inner.core.borrow(now, missing, inner.debt);
            let room = i128::from(standing.available) + i128::from(inner.debt);
            let room = u64::try_from(room.max(0)).unwrap_or(u64::MAX);
            if taken.is_ok() || room == 0 || room >= missing {
                return;
            }
            missing = room;
        }
    }

    /// Gives all of it back, as if it had not been made.
    pub fn refund(self) {
        // What dropping it does.
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.limiter.inner.give(Some(self.taken), self.cost);
    }
}
