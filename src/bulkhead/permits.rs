//! The permits: one atomic word, and spares beside it.

use self::spares::Spares;
use super::state::word::{LIMIT, LIMIT_SHIFT, MAX_PERMITS, Taken, WAITING, Word};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

mod spares;

/// Whether one permit was added that may have to be taken back.
#[derive(Clone, Copy, Debug)]
#[must_use = "it has to be taken back"]
pub(crate) struct Added(bool);

/// The permits of a bulkhead.
///
/// Limit and count share one word, so a resize and an acquisition can't pass each other: whoever is
/// admitted after `set_limit` has returned was admitted under the new limit. The flag is in the same
/// word, so a release that finds it clear needs no second look, and a waiter that has set it can't
/// miss a release.
///
/// Taking one permit is an addition without a look before: a look would fetch the cache line twice
/// when threads race, first to read it and then to write it. Where there is little room a look comes
/// first all the same, so that refusals write nothing. Who has added one too many counts as in until
/// they have taken it back.
///
/// As long as there has been room, threads leave permits for themselves beside the word, which counts
/// them as out: [`Spares`]. They are recalled before anybody is refused, waits, or finds a new limit, so
/// they can be noticed by their speed only. They are kept again once three quarters of the permits
/// are free.
#[derive(Debug)]
pub(crate) struct Permits {
    word: Alone,
    /// Whether somebody found no room, and three quarters of the permits have not been free since.
    tight: AtomicU32,
    spares: Spares,
}

/// By itself in its cache line, and in the pair of lines that processors fetch together: what
/// threads only read stays out of the way of what they write.
#[derive(Debug)]
#[repr(align(128))]
struct Alone(AtomicU64);

impl Permits {
    /// `exact`: the word is to count what is out and nothing else, so no spares are kept.
    pub(crate) fn new(limit: u32, exact: bool) -> Self {
        let limit = limit.min(MAX_PERMITS);
        let spares = if exact {
            Spares::none()
        } else {
            Spares::for_limit(limit)
        };
        Self::with_spares(limit, spares)
    }

    fn with_spares(limit: u32, spares: Spares) -> Self {
        Self {
            word: Alone(AtomicU64::new(u64::from(limit) << LIMIT_SHIFT)),
            tight: AtomicU32::new(0),
            spares,
        }
    }

    /// With two parts, whatever the machine, that keep what they would under `limit_of_spares`.
    #[cfg(test)]
    pub(crate) fn of_two(limit: u32, limit_of_spares: u32) -> Self {
        Self::with_spares(limit, Spares::of(2, limit_of_spares))
    }

    pub(crate) fn read(&self) -> Word {
        // Acquire, for those who look at the spares too. Else a snapshot for people, or a first
        // guess.
        Word(self.word.0.load(Ordering::Acquire))
    }

    /// How many permits are out. Exact when nobody takes or gives.
    pub(crate) fn in_flight(&self) -> u32 {
        let out = self.read().in_flight();
        out.saturating_sub(self.spares.kept())
    }

    /// Takes one permit if it is free and nobody waits.
    ///
    /// # Errors
    ///
    /// What it found, and whether it had added one for a moment.
    #[cfg(all(test, not(backstop_loom)))]
    fn try_take_one(&self) -> Result<Taken, (Word, bool)> {
        self.take_one_quickly()
            .or_else(|added| self.take_one_slowly(added))
    }

    /// Takes one permit if that is quickly done.
    ///
    /// # Errors
    ///
    /// What [`take_one_slowly`](Self::take_one_slowly) has to know, which must follow: whether one
    /// was added that was too many.
    #[inline(always)]
    pub(crate) fn take_one_quickly(&self) -> Result<Taken, Added> {
        if self.spares.take() {
            // Nobody knows how many are in flight without a look at the word, and nobody asks where
            // spares are kept.
            return Ok(Taken::new(1, 1));
        }
        // Relaxed, also where it is set: right or wrong, it changes nothing but the time it takes.
        if self.tight.load(Ordering::Relaxed) != 0 {
            return Err(Added(false));
        }
        self.add_one()
    }

    /// Takes one permit if it is free and nobody waits, although it was not quickly done.
    ///
    /// # Errors
    ///
    /// What it found, and whether it had added one for a moment.
    pub(crate) fn take_one_slowly(&self, added: Added) -> Result<Taken, (Word, bool)> {
        let Added(mut added) = added;
        if !added {
            let turn = self.spares.turn();
            let word = self.read();
            if word.is_open() {
                if word.has_much_room() {
                    self.relax();
                }
                match self.add_one() {
                    Ok(taken) => return Ok(taken),
                    Err(_) => added = true,
                }
            } else if self.spares.closed_since(turn) {
                return Err((word, false));
            }
        }
        if added {
            if let Ok(taken) = self.take_or_undo() {
                return Ok(taken);
            }
        }
        self.try_take(1, false).map_err(|word| (word, added))
    }

    #[inline(always)]
    fn add_one(&self) -> Result<Taken, Added> {
        // Acquire: what the last holder of this permit did happens before what we do.
        let before = Word(self.word.0.fetch_add(1, Ordering::Acquire));
        if before.is_open() {
            Ok(Taken::new(1, before.in_flight() + 1))
        } else {
            Err(Added(true))
        }
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
        let mut word = self.read();
        loop {
            if !word.waiting() && word.in_flight() <= word.limit() {
                return Ok(Taken::new(1, word.in_flight()));
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
        let take = || self.take(cost, clamp, |word| !word.waiting(), !0);
        let turn = self.spares.turn();
        take().or_else(|word| {
            if self.spares.closed_since(turn) {
                return Err(word);
            }
            // Nobody leaves spares beside the word while we look again.
            let _lock = self.spares.lock();
            self.recall();
            take()
        })
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
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    return Ok(Taken::new(cost, word.in_flight() + cost));
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
                    return Taken::new(cost, word.in_flight() + cost);
                }
                Err(now) => word = Word(now),
            }
        }
    }

    /// Gives one permit back: to whoever is next on this thread, if there is much room. Returns the
    /// word before if it was given to everybody.
    #[inline(always)]
    pub(crate) fn give_one_back(&self) -> Option<Word> {
        // Relaxed, as in `take_one_quickly`.
        if !self.spares.exist() || self.tight.load(Ordering::Relaxed) != 0 {
            return Some(self.give_back(1));
        }
        if self.spares.keep() {
            return None;
        }
        self.spares.take_back().then(|| self.give_back(1))
    }

    /// Gives `cost` permits back. Returns the word before: it says whether somebody waits for them.
    #[inline(always)]
    pub(crate) fn give_back(&self, cost: u32) -> Word {
        // Release: what we did happens before what the next holder does.
        Word(self.word.0.fetch_sub(u64::from(cost), Ordering::Release))
    }

    /// Changes the limit, never below 1. Returns the word before.
    pub(crate) fn set_limit(&self, limit: u32) -> Word {
        let limit = limit.clamp(1, MAX_PERMITS);
        if !self.spares.exist() {
            return self.write_limit(limit);
        }
        // No spare is taken under the new limit that was left under the old one.
        let _lock = self.spares.lock();
        self.recall();
        self.spares.follow(limit);
        self.write_limit(limit)
    }

    fn write_limit(&self, limit: u32) -> Word {
        let mut word = self.read();
        loop {
            let new = (word.0 & !LIMIT) | u64::from(limit) << LIMIT_SHIFT;
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
    /// Returns the word with the flag, and with what the spares were.
    pub(crate) fn somebody_waits(&self) -> Word {
        // Acquire: either whoever opens the spares finds the flag, or we find that they are open.
        // The queue is published by its lock; the order against releases is that of this one word.
        let before = Word(self.word.0.fetch_or(WAITING, Ordering::Acquire));
        if !self.spares.exist() {
            return before;
        }
        if self.spares.turn() % 2 == 1 {
            let _lock = self.spares.lock();
            self.recall();
        }
        self.read()
    }

    /// The queue is empty. Under its lock.
    pub(crate) fn nobody_waits(&self) {
        // Relaxed: the queue is published by its lock.
        self.word.0.fetch_and(!WAITING, Ordering::Relaxed);
    }

    /// There is much room again.
    #[cold]
    fn relax(&self) {
        if !self.spares.exist() {
            self.tight.store(0, Ordering::Relaxed);
            return;
        }
        if self.spares.are_none() {
            // Nothing to open: every call would come here, and take the lock.
            return;
        }
        let _lock = self.spares.lock();
        // AcqRel, and an addition, as a mere look might miss the flag: see `somebody_waits`.
        let may = || Word(self.word.0.fetch_add(0, Ordering::AcqRel)).has_much_room();
        if self.spares.open(may) {
            // Under the lock, or it might last longer than the parts are open.
            self.tight.store(0, Ordering::Relaxed);
        }
    }

    /// Spares become permits like any other, and none are left until there is much room. Under the
    /// spares' lock.
    #[cold]
    fn recall(&self) {
        if let Some(kept) = self.spares.close() {
            self.give_back(kept);
            self.spares.closed();
            self.tight.store(1, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests;
