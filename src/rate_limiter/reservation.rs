//! Tokens taken for a cost that is known only afterwards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::inner::Inner;
use super::state::Refusal;
use crate::error::{Reason, Rejected};
use crate::instant::Instant;

/// Tokens taken in advance, to be settled when the real cost is known. Made by
/// [`RateLimiter::reserve`](super::RateLimiter::reserve).
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
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    inner: Arc<Inner>,
    cost: u64,
    taken: Instant,
    paid: Instant,
}

impl Reservation {
    pub(super) fn new(inner: &Arc<Inner>, cost: u64, longest: Duration) -> Result<Self, Rejected> {
        let now = inner.base.now();
        let latest = now + longest;
        let (taken, borrowed) = inner.borrow(now, cost, inner.debt);
        let at = borrowed.as_ref().map_or(now, |borrowed| borrowed.taken);
        let refused = match (taken, borrowed.map_or(Ok(()), |borrowed| borrowed.paid)) {
            (Ok(()), Ok(())) => Ok(now),
            (Ok(()), Err(Refusal::Until(paid))) if paid <= latest => Ok(paid),
            (Ok(()), Err(refusal)) => {
                inner.give(Some(at), cost);
                Err(refusal)
            }
            (Err(refusal), _) => Err(refusal),
        };
        let (cost, paid) = match refused {
            Ok(paid) => (cost, paid),
            Err(refusal) => {
                let rejected = inner.base.rejection(now, refusal, Reason::RateLimited);
                inner.reject(rejected, None)?;
                // In shadow mode it goes ahead, and takes nothing.
                (0, now)
            }
        };
        Ok(Self {
            inner: inner.clone(),
            cost,
            taken: at,
            paid,
        })
    }

    /// How many tokens it holds.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// How long until the debt it made is paid. A caller that waits so long stays within the rate.
    pub fn wait(&self) -> Duration {
        self.paid.saturating_duration_since(self.inner.base.now())
    }

    /// Settles it at `actual` tokens. What was reserved beyond that is given back; what was consumed
    /// beyond it is charged, also while others wait, in debt if need be, as far as the limiter's
    /// `max_debt` goes.
    pub fn commit(mut self, actual: u64) {
        let reserved = std::mem::take(&mut self.cost);
        let inner = &*self.inner;
        if actual <= reserved {
            inner.give(Some(self.taken), reserved - actual);
        } else {
            let (now, missing) = (inner.base.now(), actual - reserved);
            inner.queue.change(&inner.core, now, |core, _| {
                core.charge(now, missing, inner.debt);
            });
        }
    }

    /// Gives all of it back, as if it had not been made.
    pub fn refund(self) {
        // What dropping it does.
    }
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
