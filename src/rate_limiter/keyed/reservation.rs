//! Tokens of a key, reserved for a cost that is known only afterwards.

use std::hash::Hash;
use std::time::Duration;

use super::super::Reservation;
use super::super::state::Unavailable;
use super::limited::Limited;
use crate::error::{Reason, Rejected};
use crate::instant::Instant;

/// Tokens of a key, taken in advance, to be settled when the real cost is known. Returned by
/// [`KeyedRateLimiter::reserve`](super::KeyedRateLimiter::reserve). See [`Reservation`].
///
/// Dropping it without settling returns all tokens.
#[must_use = "a reservation that is dropped is given back"]
pub struct KeyedReservation<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    limited: Limited<'a, Q>,
    /// `None` if nothing is reserved, because of shadow mode.
    held: Option<Reservation>,
}

impl<'a, Q> KeyedReservation<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    pub(super) fn new(
        limited: Limited<'a, Q>,
        cost: u64,
        longest: Duration,
    ) -> Result<Self, Rejected> {
        let inner = limited.inner;
        let now = inner.base.now();
        let held = match limited.reserve(now, cost, longest) {
            Ok(held) => Some(held),
            Err(rejected) => {
                inner.report(rejected, None)?;
                // In shadow mode the call is admitted, and takes no tokens.
                None
            }
        };
        Ok(Self { limited, held })
    }

    /// Returns the number of reserved tokens.
    pub fn cost(&self) -> u64 {
        self.held.as_ref().map_or(0, Reservation::cost)
    }

    /// Returns the time until its debt is paid. A caller that waits that long stays within the rate.
    pub fn wait(&self) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, Reservation::wait)
    }

    /// Settles the reservation at `actual` tokens. A surplus is returned. A shortfall is charged, as debt if
    /// necessary, up to the limiter's `max_debt`.
    pub fn commit(self, actual: u64) {
        if let Some(held) = self.held {
            held.commit(actual);
        }
    }

    /// Returns all tokens, as dropping it does.
    pub fn refund(self) {}
}

impl<Q> Limited<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    /// Takes `cost` tokens from the limiter of the key, which stays that of the reservation even if the key
    /// is forgotten meanwhile: a refund never reaches the limit of a new key.
    fn reserve(
        mut self,
        now: Instant,
        cost: u64,
        longest: Duration,
    ) -> Result<Reservation, Rejected> {
        let inner = self.inner;
        let reject = |unavailable| inner.base.rejection(now, unavailable, Reason::RateLimited);
        loop {
            let reserved = inner.with(
                (self.hash, self.key),
                now,
                self.is_new_call,
                // A call that is rejected needs no limiter.
                |tat, gcra, time| {
                    let ready = gcra.ready(*tat, time.open, cost, inner.per_key.debt);
                    time.admit(ready)
                        .err()
                        .map(|unavailable| Err(reject(unavailable)))
                },
                |limiter, time| {
                    Some(match time.is_paused() {
                        true => Err(reject(time.paused_limiter(
                            limiter,
                            cost,
                            limiter.inner.debt,
                        ))),
                        false => limiter.reserve_within(cost, longest),
                    })
                },
            );
            match reserved {
                Some(Some(reserved)) => return reserved,
                // Creates the limiter, or adds the key again if it was evicted meanwhile.
                Some(None) => drop(self.queue()),
                None => return Err(reject(Unavailable::Until(Instant::FAR_FUTURE))),
            }
            self.is_new_call = false;
        }
    }
}

impl<Q> std::fmt::Debug for KeyedReservation<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedReservation")
            .field("limiter", &self.limited.inner.base.name)
            .field("cost", &self.cost())
            .finish_non_exhaustive()
    }
}
