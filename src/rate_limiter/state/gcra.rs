//! The token bucket, as the generic cell rate algorithm (GCRA, ITU-T I.371): one timestamp.
//!
//! The bucket is full at the *theoretical arrival time* `tat`. A token moves it by the time that the rate
//! takes to earn one. A call is admitted if `tat` stays within a burst of the current time. Times are in
//! the units of an [`ExactRate`], so no rate is rounded.

use super::exact_rate::{ExactRate, REACH};
use super::limit::{Availability, Inherit, Unavailable};
use crate::instant::Instant;
use crate::sync::cold_path;

/// The rules of a token bucket, without its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gcra {
    rate: ExactRate,
    /// Units in a full bucket.
    capacity: u64,
}

impl Gcra {
    /// Returns the rules of a bucket of `burst` tokens.
    pub(crate) fn new(rate: ExactRate, burst: u64) -> Self {
        Self {
            rate,
            capacity: rate.price(burst).min(REACH),
        }
    }

    /// Returns the number of tokens in a full bucket.
    pub(crate) const fn burst(&self) -> u64 {
        self.capacity / self.rate.cost()
    }

    /// Returns the state of a bucket that holds `tokens`.
    pub(crate) fn with_initial(&self, now: Instant, tokens: u64) -> u64 {
        let missing = self.capacity.saturating_sub(self.rate.price(tokens));
        self.rate.units(now).saturating_add(missing)
    }

    /// Returns the state after `tokens` are taken.
    #[inline(always)]
    pub(crate) fn take(&self, tat: u64, now: Instant, tokens: u64) -> Result<u64, Unavailable> {
        let (present, price) = (self.rate.units(now), self.rate.price(tokens));
        let start = tat.max(present);
        let Some(room) = self.capacity.checked_sub(price) else {
            cold_path();
            return Err(Unavailable::Never);
        };
        // Within a burst of the current time, so this does not overflow.
        if start - present <= room {
            Ok(start + price)
        } else {
            Err(Unavailable::Until(self.rate.instant(start - room)))
        }
    }

    #[inline]
    pub(crate) fn ready(
        &self,
        tat: u64,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> Result<(), Unavailable> {
        let owed = self.rate.price(debt).min(REACH - self.capacity);
        let bound = self.capacity + owed;
        let (present, price) = (self.rate.units(now), self.rate.price(tokens));
        if price > bound {
            return Err(Unavailable::Never);
        }
        let taken = tat.max(present).saturating_add(price);
        if taken - present <= bound {
            Ok(())
        } else {
            Err(Unavailable::Until(self.rate.instant(taken - bound)))
        }
    }

    pub(crate) fn force_take(&self, tat: u64, now: Instant, tokens: u64) -> u64 {
        let now = self.rate.units(now);
        let taken = tat.max(now).saturating_add(self.rate.price(tokens));
        taken.min(now.saturating_add(REACH))
    }

    pub(crate) fn give(&self, tat: u64, tokens: u64) -> u64 {
        tat.saturating_sub(self.rate.price(tokens))
    }

    /// Returns the units missing in the bucket.
    fn used(&self, tat: u64, now: Instant) -> u64 {
        tat.saturating_sub(self.rate.units(now))
    }

    /// Returns the number of tokens missing in the bucket, rounded up.
    pub(crate) fn missing(&self, tat: u64, now: Instant) -> u64 {
        self.used(tat, now).div_ceil(self.rate.cost())
    }

    /// Returns the number of tokens that the bucket owes, rounded up.
    pub(crate) fn debt(&self, tat: u64, now: Instant) -> u64 {
        self.missing(tat, now).saturating_sub(self.burst())
    }

    /// Returns whether the bucket is full.
    #[inline]
    pub(crate) fn is_full(&self, tat: u64, now: Instant) -> bool {
        self.used(tat, now) == 0
    }

    pub(crate) fn availability(&self, tat: u64, now: Instant) -> Availability {
        let full_at = self.rate.instant(tat).max(now);
        let window = self.rate.time(self.capacity);
        Availability::new(self.burst(), self.missing(tat, now), full_at, window)
    }

    /// Returns the state under the rules `new` that follows from `tat` under these. `fresh` is the state
    /// of a new bucket.
    pub(crate) fn inherit(
        &self,
        tat: u64,
        now: Instant,
        new: (&Self, u64),
        inherit: Inherit,
    ) -> u64 {
        let (new, fresh) = new;
        let convert = |units| self.rate.convert(units, &new.rate);
        let used = convert(self.used(tat, now));
        match inherit.used(used, convert(self.capacity), new.capacity) {
            Some(used) => new.rate.units(now).saturating_add(used.min(REACH)),
            None => fresh,
        }
    }
}
