//! Tokens of a key, taken for a cost that is known only afterwards.

use std::hash::Hash;
use std::time::Duration;

use super::super::Reservation;
use super::super::state::Unavailable;
use super::limited::Limited;
use crate::error::{Reason, Rejected};
use crate::instant::Instant;

/// Tokens of a key, taken in advance and settled when the real cost is known. Made by
/// [`KeyedRateLimiter::reserve`](super::KeyedRateLimiter::reserve). See [`Reservation`].
///
/// Dropping it without settling gives all tokens back.
#[must_use = "a reservation that is dropped is given back"]
pub struct KeyedReservation<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    limited: Limited<'a, Q>,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Tokens {
        cost: u64,
        taken: Instant,
        paid_at: Instant,
    },
    Reservation(Reservation),
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
        let latest = now + longest;
        let reject = |unavailable| inner.base.rejection(now, unavailable, Reason::RateLimited);
        let held = inner.with(
            (limited.hash, limited.key),
            now,
            true,
            |tat, gcra, time| {
                let ready = gcra.ready(*tat, time.open, cost, inner.per_key.debt);
                time.admit(ready).map_err(reject)?;
                let next = gcra.force_take(*tat, now, cost);
                let paid_at = match gcra.ready(next, now, 0, 0) {
                    Ok(()) => now,
                    Err(Unavailable::Until(at)) if at <= latest => at,
                    Err(unavailable) => return Err(reject(unavailable)),
                };
                *tat = next;
                let taken = now;
                Ok(Held::Tokens {
                    cost,
                    taken,
                    paid_at,
                })
            },
            |limiter, time| match time.is_paused() {
                true => Err(reject(time.paused_limiter(
                    limiter,
                    cost,
                    limiter.inner.debt,
                ))),
                false => limiter.reserve_within(cost, longest).map(Held::Reservation),
            },
        );
        let held = held.unwrap_or_else(|| Err(reject(Unavailable::Until(Instant::FAR_FUTURE))));
        let held = held.or_else(|rejected| {
            inner.report(rejected, None)?;
            // In shadow mode the call is admitted, and takes no tokens.
            Ok(Held::Tokens {
                cost: 0,
                taken: now,
                paid_at: now,
            })
        })?;
        Ok(Self { limited, held })
    }

    /// Returns how many tokens it holds.
    pub const fn cost(&self) -> u64 {
        match &self.held {
            Held::Tokens { cost, .. } => *cost,
            Held::Reservation(held) => held.cost(),
        }
    }

    /// Returns how long until its debt is paid. A caller that waits so long stays within the rate.
    pub fn wait(&self) -> Duration {
        match &self.held {
            Held::Tokens { paid_at, .. } => {
                paid_at.saturating_duration_since(self.limited.inner.base.now())
            }
            Held::Reservation(held) => held.wait(),
        }
    }

    /// Settles it at `actual` tokens. The surplus of the reservation is given back. A shortfall is
    /// charged, in debt if need be, up to the limiter's `max_debt`.
    pub fn commit(mut self, actual: u64) {
        match self.take() {
            Held::Reservation(held) => held.commit(actual),
            Held::Tokens { cost, .. } if actual <= cost => self.limited.give(cost - actual),
            Held::Tokens { cost, taken, .. } => {
                let inner = self.limited.inner;
                let (missing, debt) = (actual - cost, inner.per_key.debt);
                inner.base.at_now_or(taken, |now| {
                    // Adds a key that was evicted meanwhile: consumption is always charged.
                    let _: Option<()> = inner.with(
                        (self.limited.hash, self.limited.key),
                        now,
                        false,
                        |tat, gcra, _| {
                            let room = gcra.availability(*tat, now).room(debt);
                            *tat = gcra.force_take(*tat, now, missing.min(room));
                        },
                        |limiter, _| limiter.inner.charge_at(now, missing),
                    );
                });
            }
        }
    }

    /// Gives all tokens back. The same as dropping it.
    pub fn refund(self) {}

    fn take(&mut self) -> Held {
        let nothing = Held::Tokens {
            cost: 0,
            taken: Instant::ORIGIN,
            paid_at: Instant::ORIGIN,
        };
        std::mem::replace(&mut self.held, nothing)
    }
}

impl<Q> Drop for KeyedReservation<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    fn drop(&mut self) {
        if let Held::Tokens { cost, .. } = self.take() {
            self.limited.give(cost);
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
