//! How many permits are out, how many there may be, and whether somebody waits: in one word.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The most permits a bulkhead can have.
pub(crate) const MAX_PERMITS: u32 = (1 << 31) - 1;

/// The low half of the word counts what is out. It holds twice the most permits, so that those who
/// add one and find no room cannot spill into the limit, however many do at once.
const LIMIT_SHIFT: u32 = 32;
const LIMIT: u64 = (MAX_PERMITS as u64) << LIMIT_SHIFT;
const WAITING: u64 = 1 << 63;

/// One reading of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) const fn in_flight(self) -> u32 {
        self.0 as u32
    }

    pub(crate) const fn limit(self) -> u32 {
        (self.0 >> LIMIT_SHIFT) as u32 & MAX_PERMITS
    }

    pub(crate) const fn waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    /// Whether `cost` permits are free.
    pub(crate) const fn has_room(self, cost: u32) -> bool {
        self.in_flight() as u64 + cost as u64 <= self.limit() as u64
    }

    /// Whether one permit is free and nobody waits for it.
    #[inline(always)]
    const fn is_open(self) -> bool {
        // The flag is the sign of the upper half: one comparison tells both.
        (self.0 as i64 >> LIMIT_SHIFT) > self.in_flight() as i64
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
///
/// Taking one permit is an addition without a look before: a look would fetch the cache line twice
/// when threads race, first to read it and then to write it. Where there is little room a look comes
/// first all the same, so that refusals write nothing.
#[derive(Debug)]
pub(crate) struct Permits {
    word: Alone,
    /// Whether somebody found no room, and since then half of the permits have not been free. A hint.
    tight: AtomicU32,
}

/// By itself in its cache line, and in the pair of lines that processors fetch together: what
/// threads only read stays out of the way of what they write.
#[derive(Debug)]
#[repr(align(128))]
struct Alone(AtomicU64);

impl Permits {
    pub(crate) fn new(limit: u32) -> Self {
        let word = u64::from(limit.min(MAX_PERMITS)) << LIMIT_SHIFT;
        Self {
            word: Alone(AtomicU64::new(word)),
            tight: AtomicU32::new(0),
        }
    }

    pub(crate) fn read(&self) -> Word {
        // Relaxed: a snapshot for people, and a first guess for the loops below.
        Word(self.word.0.load(Ordering::Relaxed))
    }

    /// Takes one permit if it is free and nobody waits.
    ///
    /// # Errors
    ///
    /// What it found, and whether it had added one for a moment.
    #[inline(always)]
    pub(crate) fn try_take_one(&self) -> Result<Taken, (Word, bool)> {
        // Relaxed, also where it is set: right or wrong, it changes nothing but the time it takes.
        if self.tight.load(Ordering::Relaxed) != 0 {
            return self.look_and_take_one();
        }
        self.add_one()
    }

    #[inline(never)]
    fn look_and_take_one(&self) -> Result<Taken, (Word, bool)> {
        let word = self.read();
        if !word.is_open() {
            return Err((word, false));
        }
        if word.in_flight() < word.limit() / 2 {
            self.tight.store(0, Ordering::Relaxed);
        }
        self.add_one()
    }

    #[inline(always)]
    fn add_one(&self) -> Result<Taken, (Word, bool)> {
        // Acquire: what the last holder of this permit did happens before what we do.
        let before = Word(self.word.0.fetch_add(1, Ordering::Acquire));
        if before.is_open() {
            return Ok(Taken {
                cost: 1,
                in_flight: before.in_flight() + 1,
            });
        }
        self.take_or_undo().map_err(|word| (word, true))
    }

    /// Keeps the permit that was added where there was no room, if there is room by now, and takes
    /// it back otherwise.
    ///
    /// Everybody who is in counts, and everybody who has not decided yet. So whoever finds no more
    /// than the limit is in for good: the word will not show room that is theirs. Whoever finds more
    /// leaves, one at a time: of those who race for the last permit one gets it.
    #[cold]
    fn take_or_undo(&self) -> Result<Taken, Word> {
        self.tight.store(1, Ordering::Relaxed);
        // Acquire, here and below, as in `add_one`. Subtracting our own one publishes nothing.
        let mut word = Word(self.word.0.load(Ordering::Acquire));
        loop {
            if !word.waiting() && word.in_flight() <= word.limit() {
                return Ok(Taken {
                    cost: 1,
                    in_flight: word.in_flight(),
                });
            }
            match self.word.0.compare_exchange_weak(
                word.0,
                word.0 - 1,
                Ordering::Relaxed,
                Ordering::Acquire,
            ) {
                Ok(_) => return Err(Word(word.0 - 1)),
                Err(now) => word = Word(now),
            }
        }
    }

    /// Takes `cost` permits if they are free and nobody waits. `clamp`: a cost above the limit counts
    /// as the limit.
    pub(crate) fn try_take(&self, cost: u32, clamp: bool) -> Result<Taken, Word> {
        self.take(cost, clamp, |word| !word.waiting(), !0)
    }

    /// As `try_take`, for whoever's turn it is. `last`: nobody waits after this one.
    pub(crate) fn take_in_turn(&self, cost: u32, clamp: bool, last: bool) -> Result<Taken, Word> {
        let keep = if last { !WAITING } else { !0 };
        self.take(cost, clamp, |_| true, keep)
    }

    #[inline]
    fn take(
        &self,
        cost: u32,
        clamp: bool,
        may: impl Fn(Word) -> bool,
        keep: u64,
    ) -> Result<Taken, Word> {
        let mut word = self.read();
        loop {
            let cost = if clamp { cost.min(word.limit()) } else { cost };
            if !word.has_room(cost) || !may(word) {
                return Err(word);
            }
            // Acquire: what the last holder of these permits did happens before what we do.
            match self.word.0.compare_exchange_weak(
                word.0,
                (word.0 + u64::from(cost)) & keep,
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
            let cost = cost.min(MAX_PERMITS.saturating_sub(word.in_flight()));
            // Acquire, as in `take`.
            match self.word.0.compare_exchange_weak(
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
    #[inline(always)]
    pub(crate) fn give_back(&self, cost: u32) -> Word {
        // Release: what we did happens before what the next holder does.
        Word(self.word.0.fetch_sub(u64::from(cost), Ordering::Release))
    }

    /// Changes the limit, never below 1. Returns the word before.
    pub(crate) fn set_limit(&self, limit: u32) -> Word {
        let limit = u64::from(limit.clamp(1, MAX_PERMITS)) << LIMIT_SHIFT;
        let mut word = self.read();
        loop {
            let new = (word.0 & !LIMIT) | limit;
            // Relaxed: the limit publishes nothing but itself.
            match self.word.0.compare_exchange_weak(
                word.0,
                new,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return word,
                Err(now) => word = Word(now),
            }
        }
    }

    /// From here on every release and every larger limit looks into the queue. Under its lock.
    /// Returns the word before.
    pub(crate) fn somebody_waits(&self) -> Word {
        // Relaxed: the queue is published by its lock; the order against releases is that of this
        // one word.
        Word(self.word.0.fetch_or(WAITING, Ordering::Relaxed))
    }

    /// The queue is empty. Under its lock.
    pub(crate) fn nobody_waits(&self) {
        // Relaxed, as above.
        self.word.0.fetch_and(!WAITING, Ordering::Relaxed);
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
        assert!(permits.try_take_one().is_err());
        assert!(permits.take_in_turn(1, false, false).is_ok());
        assert!(permits.take_in_turn(2, false, true).is_err());
        assert!(permits.read().waiting());
        assert!(permits.take_in_turn(1, false, true).is_ok());
        assert!(!permits.read().waiting(), "it was the last");
    }

    #[test]
    fn one_permit_is_taken_while_there_is_room() {
        for limit in [1, 2, MAX_PERMITS] {
            let permits = Permits::new(limit);
            let out = permits.force(limit - 1).cost;
            assert_eq!(
                (out, permits.try_take_one().unwrap().in_flight),
                (limit - 1, limit)
            );
            for look in [false, true, true] {
                let (word, added) = permits.try_take_one().unwrap_err();
                assert_eq!((word.in_flight(), word.limit()), (limit, limit));
                assert_eq!(added, !look, "only the first adds before it looks");
            }
        }
    }

    #[test]
    fn who_added_one_too_many_keeps_it_only_if_there_is_room_by_now() {
        for (limit, out, waiting, keeps) in [
            (1, 1, false, false),
            (2, 1, false, true),
            (2, 1, true, false),
            (MAX_PERMITS, MAX_PERMITS, false, false),
        ] {
            let permits = Permits::new(limit);
            permits.force(out);
            permits.word.0.fetch_add(1, Ordering::Relaxed);
            if waiting {
                permits.somebody_waits();
            }
            assert_eq!(permits.take_or_undo().is_ok(), keeps);
            assert_eq!(permits.read().in_flight(), out + u32::from(keeps));
            assert_eq!(permits.read().limit(), limit);
        }
    }

    #[test]
    fn a_clamped_cost_takes_what_there_is() {
        let permits = Permits::new(3);
        assert!(permits.try_take(5, false).is_err());
        assert_eq!(permits.try_take(5, true).map(|taken| taken.cost), Ok(3));
    }
}
