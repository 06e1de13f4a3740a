//! How many permits are out, how many there may be, and whether somebody waits: in one word.

use crate::sync::{AtomicU64, Ordering};

/// The most permits a bulkhead can have.
pub(crate) const MAX_PERMITS: u32 = (1 << 31) - 1;

const FIELD: u64 = MAX_PERMITS as u64;
const LIMIT_SHIFT: u32 = 31;
const WAITING: u64 = 1 << 63;

/// One reading of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) const fn in_flight(self) -> u32 {
        (self.0 & FIELD) as u32
    }

    pub(crate) const fn limit(self) -> u32 {
        ((self.0 >> LIMIT_SHIFT) & FIELD) as u32
    }

    pub(crate) const fn waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    /// Whether `cost` permits are free.
    pub(crate) const fn has_room(self, cost: u32) -> bool {
        // Both are below 2^31 + 2^32, so the sum can't overflow.
        self.in_flight() as u64 + cost as u64 <= self.limit() as u64
    }
}

/// What an admitted call took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Permits to give back.
    pub(crate) cost: u32,
    /// In flight, this call included.
    pub(crate) in_flight: u32,
}

/// The permits of a bulkhead.
///
/// Limit and count share one word, so a resize and an acquisition can't pass each other: whoever is
/// admitted after `set_limit` has returned was admitted under the new limit. The flag is in the same
/// word, so a release that finds it clear needs no second look, and a waiter that has set it can't
/// miss a release.
#[derive(Debug)]
pub(crate) struct Permits(AtomicU64);

impl Permits {
    pub(crate) fn new(limit: u32) -> Self {
        Self(AtomicU64::new(
            u64::from(limit.min(MAX_PERMITS)) << LIMIT_SHIFT,
        ))
    }

    pub(crate) fn read(&self) -> Word {
        // Relaxed: a snapshot for people, and a first guess for the loops below.
        Word(self.0.load(Ordering::Relaxed))
    }

    /// Takes `cost` permits if they are free and nobody waits. `clamp`: a cost above the limit counts
    /// as the limit.
    #[inline]
    pub(crate) fn try_take(&self, cost: u32, clamp: bool) -> Result<Taken, Word> {
        self.take(cost, clamp, false)
    }

    /// As `try_take`, for whoever's turn it is.
    pub(crate) fn take_in_turn(&self, cost: u32, clamp: bool) -> Result<Taken, Word> {
        self.take(cost, clamp, true)
    }

    #[inline]
    fn take(&self, cost: u32, clamp: bool, in_turn: bool) -> Result<Taken, Word> {
        let mut word = self.read();
        loop {
            let cost = if clamp { cost.min(word.limit()) } else { cost };
            if !word.has_room(cost) || (word.waiting() && !in_turn) {
                return Err(word);
            }
            // Acquire: what the last holder of these permits did happens before what we do.
            match self.0.compare_exchange_weak(
                word.0,
                word.0 + u64::from(cost),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    return Ok(Taken {
                        cost,
                        in_flight: word.in_flight() + cost,
                    });
                }
                Err(now) => word = Word(now),
            }
        }
    }

    /// Takes `cost` permits whether they are free or not; fewer only when the count would overflow.
    pub(crate) fn force(&self, cost: u32) -> Taken {
        let mut word = self.read();
        loop {
            let cost = cost.min(MAX_PERMITS - word.in_flight());
            // Acquire, as in `take`.
            match self.0.compare_exchange_weak(
                word.0,
                word.0 + u64::from(cost),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    return Taken {
                        cost,
                        in_flight: word.in_flight() + cost,
                    };
                }
                Err(now) => word = Word(now),
            }
        }
    }

    /// Gives `cost` permits back. Returns the word before: it says whether somebody waits for them.
    #[inline]
    pub(crate) fn give_back(&self, cost: u32) -> Word {
        // Release: what we did happens before what the next holder does.
        Word(self.0.fetch_sub(u64::from(cost), Ordering::Release))
    }

    /// Changes the limit, never below 1. Returns the word before.
    pub(crate) fn set_limit(&self, limit: u32) -> Word {
        let limit = u64::from(limit.clamp(1, MAX_PERMITS)) << LIMIT_SHIFT;
        let mut word = self.read();
        loop {
            let new = (word.0 & !(FIELD << LIMIT_SHIFT)) | limit;
            // Relaxed: the limit publishes nothing but itself.
            match self
                .0
                .compare_exchange_weak(word.0, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return word,
                Err(now) => word = Word(now),
            }
        }
    }

    /// From here on every release and every larger limit looks into the queue. Under its lock.
    pub(crate) fn somebody_waits(&self) {
        // Relaxed: the queue is published by its lock; the order against releases is that of this
        // one word.
        self.0.fetch_or(WAITING, Ordering::Relaxed);
    }

    /// The queue is empty. Under its lock.
    pub(crate) fn nobody_waits(&self) {
        // Relaxed, as above.
        self.0.fetch_and(!WAITING, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let permits = Permits::new(u32::MAX);
        assert_eq!(permits.read().limit(), MAX_PERMITS);
        assert_eq!(permits.force(u32::MAX).cost, MAX_PERMITS);
        assert_eq!(permits.force(1).cost, 0, "the count is full");
        permits.somebody_waits();
        let old = permits.set_limit(0);
        assert!(old.limit() == MAX_PERMITS && old.waiting());
        let word = permits.read();
        assert_eq!((word.limit(), word.in_flight()), (1, MAX_PERMITS));
        permits.nobody_waits();
        assert!(!permits.give_back(MAX_PERMITS).waiting());
        assert_eq!(permits.read().in_flight(), 0);
    }

    #[test]
    fn nobody_passes_those_who_wait() {
        let permits = Permits::new(2);
        permits.somebody_waits();
        assert!(permits.try_take(1, false).is_err());
        assert!(permits.take_in_turn(1, false).is_ok());
        assert!(permits.take_in_turn(2, false).is_err());
    }

    #[test]
    fn a_clamped_cost_takes_what_there_is() {
        let permits = Permits::new(3);
        assert!(permits.try_take(5, false).is_err());
        assert_eq!(permits.try_take(5, true).map(|taken| taken.cost), Ok(3));
    }
}
