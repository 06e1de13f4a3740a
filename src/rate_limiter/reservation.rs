//! Tokens reserved for a cost that is known only afterwards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::inner::Inner;
use super::state::{Limit, Unavailable};
use crate::error::{Reason, Rejected};
use crate::instant::Instant;

/// Tokens taken in advance, to be settled when the real cost is known. Returned by
/// [`RateLimiter::reserve`](super::RateLimiter::reserve).
///
/// Dropping it without settling returns all tokens.
///
/// # Refunds
///
/// Returned tokens can be spent again at once, so a window may admit its limit plus the tokens returned during it.
/// Nothing is returned to a window that has ended.
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
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    inner: Arc<Inner>,
    cost: u64,
    taken: Instant,
    paid: Instant,
}

impl Reservation {
    pub(super) fn new(inner: &Arc<Inner>, cost: u64, longest: Duration) -> Result<Self, Rejected> {
        Self::at(inner, inner.base.now(), cost, longest)
    }

    fn at(
        inner: &Arc<Inner>,
        now: Instant,
        cost: u64,
        longest: Duration,
    ) -> Result<Self, Rejected> {
        let latest = now + longest;
        let read_paid = |limit: &dyn Limit, now| limit.ready(now, 0, 0);
        let (taken, paid) = inner.borrow(now, (cost, inner.debt), read_paid);
        let unavailable = match (taken, paid.unwrap_or(Ok(()))) {
            (Ok(_), Ok(())) => Ok(now),
            (Ok(_), Err(Unavailable::Until(paid))) if paid <= latest => Ok(paid),
            (Ok(at), Err(unavailable)) => {
                inner.give(Some(at), cost);
                Err(unavailable)
            }
            (Err(unavailable), _) => Err(unavailable),
        };
        let (cost, paid) = match unavailable {
            Ok(paid) => (cost, paid),
            Err(unavailable) => {
                let rejected = inner.base.rejection(now, unavailable, Reason::RateLimited);
                inner.reject(rejected, None)?;
                // In shadow mode the call is admitted, and takes no tokens.
                (0, now)
            }
        };
        Ok(Self {
            inner: inner.clone(),
            cost,
            taken: taken.unwrap_or(now),
            paid,
        })
    }

    /// Returns the number of reserved tokens.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// Returns the time until its debt is paid. A caller that waits that long stays within the rate.
    pub fn wait(&self) -> Duration {
        self.paid.saturating_duration_since(self.inner.base.now())
    }

    /// Settles the reservation at `actual` tokens. A surplus is returned. A shortfall is charged even if other calls
    /// wait, as debt if necessary, up to the limiter's `max_debt`.
    pub fn commit(mut self, actual: u64) {
        let reserved = std::mem::take(&mut self.cost);
        let inner = &*self.inner;
        if actual <= reserved {
            inner.give(Some(self.taken), reserved - actual);
        } else {
            inner.charge(self.taken, actual - reserved);
        }
    }

    /// Returns all tokens, as dropping it does.
    pub fn refund(self) {}
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.inner.give(Some(self.taken), self.cost);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("limiter", &self.inner.base.name)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::super::{Quota, RateLimiter};
    use super::*;
    use crate::clock::ManualClock;

    /// Two threads read the clock on both sides of a boundary of windows, and the later one takes its tokens first.
    #[test]
    fn a_refund_is_found_although_another_thread_took_tokens_at_a_later_time() {
        for kind in [
            Quota::sliding_log,
            Quota::fixed_window,
            Quota::sliding_counter,
        ] {
            let clock = ManualClock::new();
            let quota = kind(Quota::new(10, Duration::from_secs(1)));
            let limiter = RateLimiter::builder().quota(quota).clock(clock.clone());
            let limiter = limiter.build().unwrap();
            clock.advance(Duration::from_secs(1));
            let now = limiter.inner.base.now();
            let before = Instant::from_nanos(now.as_nanos() - 1);
            let [later, earlier] = [now, before]
                .map(|time| Reservation::at(&limiter.inner, time, 2, Duration::ZERO).unwrap());
            assert_eq!(limiter.snapshot().available, [6], "{quota:?}");
            earlier.refund();
            assert_eq!(limiter.snapshot().available, [8], "{quota:?}");
            later.commit(1);
            assert_eq!(limiter.snapshot().available, [9], "{quota:?}");
        }
    }
}
