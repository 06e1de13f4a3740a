//! The token bucket, as the generic cell rate algorithm (GCRA, ITU-T I.371): one timestamp.
//!
//! The bucket is full at the *theoretical arrival time* `tat`. A token moves it on by the time the
//! rate takes to earn one, and a call is let through when `tat` stays within a burst of the present.
//! Times are counted in the units of a [`Grid`], so that no rate is rounded.

use super::{Grid, Inherit, REACH, Refusal, Standing};
use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering, fence, spin};

/// The rules of a token bucket, without its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gcra {
    grid: Grid,
    /// Units a full bucket holds.
    capacity: u64,
}

impl Gcra {
    /// A bucket of `burst` tokens on a grid that can express them.
    pub(crate) fn new(grid: Grid, burst: u64) -> Self {
        Self {
            grid,
            capacity: grid.price(burst),
        }
    }

    /// How many whole tokens a full bucket holds.
    pub(super) const fn burst(&self) -> u64 {
        self.capacity / self.grid.cost()
    }

    /// The state of a bucket that holds `tokens` of its burst.
    pub(crate) fn holding(&self, now: Instant, tokens: u64) -> u64 {
        let missing = self.capacity.saturating_sub(self.grid.price(tokens));
        self.grid.units(now).saturating_add(missing)
    }

    /// The state after `tokens` have been taken.
    #[inline(always)]
    pub(crate) fn take(&self, tat: u64, now: Instant, tokens: u64) -> Result<u64, Refusal> {
        let (present, price) = (self.grid.units(now), self.grid.price(tokens));
        let start = tat.max(present);
        let Some(room) = self.capacity.checked_sub(price) else {
            return Err(Refusal::Never);
        };
        // What is taken ends within a burst of the present, and so before the end of a word.
        if start - present <= room {
            Ok(start + price)
        } else {
            Err(Refusal::Until(self.grid.instant(start - room)))
        }
    }

    #[inline]
    pub(crate) fn ready(
        &self,
        tat: u64,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> Result<(), Refusal> {
        let bound = self.capacity.saturating_add(self.grid.price(debt));
        let (present, price) = (self.grid.units(now), self.grid.price(tokens));
        if price > bound {
            return Err(Refusal::Never);
        }
        let taken = tat.max(present).saturating_add(price);
        if taken - present <= bound {
            Ok(())
        } else {
            Err(Refusal::Until(self.grid.instant(taken - bound)))
        }
    }

    pub(crate) fn put(&self, tat: u64, now: Instant, tokens: u64) -> u64 {
        let now = self.grid.units(now);
        let taken = tat.max(now).saturating_add(self.grid.price(tokens));
        taken.min(now.saturating_add(REACH))
    }

    pub(crate) fn give(&self, tat: u64, tokens: u64) -> u64 {
        tat.saturating_sub(self.grid.price(tokens))
    }

    /// Units missing in the bucket.
    fn used(&self, tat: u64, now: Instant) -> u64 {
        tat.saturating_sub(self.grid.units(now))
    }

    /// Whether the bucket is like a new one.
    #[inline]
    pub(crate) fn is_full(&self, tat: u64, now: Instant) -> bool {
        self.used(tat, now) == 0
    }

    pub(crate) fn standing(&self, tat: u64, now: Instant) -> Standing {
        let full_at = self.grid.instant(tat).max(now);
        let cost = self.grid.cost();
        let used = self.used(tat, now).div_ceil(cost);
        Standing::new(self.burst(), used, full_at)
    }

    /// The state under the rules `new` that follows from `tat` under these.
    pub(crate) fn inherit(&self, tat: u64, now: Instant, new: &Self, inherit: Inherit) -> u64 {
        // Both in the new units.
        let convert = |units: u64| {
            let converted =
                u128::from(units) * u128::from(new.grid.cost()) / u128::from(self.grid.cost());
            u64::try_from(converted.min(u128::from(REACH))).unwrap_or(REACH)
        };
        let used = inherit.used(
            convert(self.used(tat, now)),
            convert(self.capacity),
            new.capacity,
        );
        new.grid.units(now).saturating_add(used)
    }
}

/// A token bucket that any number of threads share without a lock.
///
/// # Memory ordering
///
/// The state is one word. The rules change rarely, if ever: a version counts their changes, odd while
/// one is under way. At version zero they are those it was made with, which are no atomics and need
/// no care; after that, whoever reads rules between two equal even versions has read them whole. A
/// change takes the state away by setting it to [`BUSY`], and the words that follow carry its number
/// ([`Marks`]), so a caller that read the old rules cannot put its result over a state that was
/// converted to the new ones, however long it was stopped in between.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    rules: Rules,
    tat: Padded,
}

/// What is read by everyone and hardly ever written.
#[derive(Debug)]
#[repr(align(64))]
struct Rules {
    first: Gcra,
    version: AtomicU64,
    // The rules at later versions.
    grid: [AtomicU64; 4],
    capacity: AtomicU64,
    base: AtomicU64,
}

/// The word everyone writes, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Padded(AtomicU64);

/// The state while the rules are being changed. No bucket gets there: units end at half of it, and a
/// limit reaches a quarter of it beyond that.
const BUSY: u64 = u64::MAX;

/// How states are written as words.
///
/// Under the first rules a word is the state. After a change it is how far the state is beyond the
/// instant of the change, below the number of the change and two bits that no state has both. Where
/// there is no room for that, a debt of a year at least, it is the state even then.
#[derive(Clone, Copy)]
struct Marks {
    /// The bits above, zero under the first rules.
    mark: u64,
    /// The units of the instant of the change.
    base: u64,
}

impl Marks {
    /// Bits of a word that say how far it is.
    const BITS: u32 = 56;
    const FAR: u64 = (1 << Self::BITS) - 1;
    /// The two bits. No state is larger; it can be the same.
    const MARKED: u64 = 3 << 62;
    /// Numbers begin anew after so many changes. Zero is left out, and so is what [`BUSY`] would be.
    const NUMBERS: u64 = 62;

    const fn new(version: u64, base: u64) -> Self {
        let number = version / 2;
        let mark = match number {
            0 => 0,
            _ => Self::MARKED | (number % Self::NUMBERS + 1) << Self::BITS,
        };
        Self { mark, base }
    }

    /// The state that a word stands for.
    const fn state(self, word: u64) -> u64 {
        if word > Self::MARKED {
            self.base + (word & Self::FAR)
        } else {
            word
        }
    }

    /// The word for a state. One from before the change is a full bucket's, then as now.
    const fn word(self, state: u64) -> u64 {
        let beyond = state.saturating_sub(self.base);
        if self.mark == 0 || beyond > Self::FAR {
            state
        } else {
            self.mark | beyond
        }
    }
}

impl TokenBucket {
    pub(crate) fn new(gcra: &Gcra, tat: u64) -> Self {
        Self {
            rules: Rules {
                first: *gcra,
                version: AtomicU64::new(0),
                grid: gcra.grid.to_words().map(AtomicU64::new),
                capacity: AtomicU64::new(gcra.capacity),
                base: AtomicU64::new(0),
            },
            tat: Padded(AtomicU64::new(tat)),
        }
    }

    /// The rules and a word that belong together.
    #[inline]
    fn read(&self) -> (Gcra, Marks, u64) {
        loop {
            if let Some(read) = self.try_read() {
                return read;
            }
            spin();
        }
    }

    /// As [`read`](Self::read), unless the rules are being changed.
    #[inline]
    fn try_read(&self) -> Option<(Gcra, Marks, u64)> {
        // Acquire: pairs with the release below, so that an even version comes with its rules.
        let version = self.rules.version.load(Ordering::Acquire);
        // Acquire: a state converted to new rules comes with the version that says so.
        let word = self.tat.0.load(Ordering::Acquire);
        // Relaxed: the fence and the version tell whether these belong together.
        let gcra = Gcra {
            grid: Grid::from_words([
                self.rules.grid[0].load(Ordering::Relaxed),
                self.rules.grid[1].load(Ordering::Relaxed),
                self.rules.grid[2].load(Ordering::Relaxed),
                self.rules.grid[3].load(Ordering::Relaxed),
            ]),
            capacity: self.rules.capacity.load(Ordering::Relaxed),
        };
        let marks = Marks::new(version, self.rules.base.load(Ordering::Relaxed));
        // Acquire: the second look at the version must not come before the loads above.
        fence(Ordering::Acquire);
        let same = self.rules.version.load(Ordering::Relaxed) == version;
        (same && version % 2 == 0 && word != BUSY).then_some((gcra, marks, word))
    }

    /// Moves the state from `word` to `next`; `false` when somebody else has moved it before.
    #[inline]
    fn step(&self, word: u64, next: u64) -> bool {
        // Acquire and release: who takes a token sees what those who returned it did before, as
        // with a lock. A failure tells nothing but to read again.
        self.tat
            .0
            .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes `tokens` if there are that many.
    #[inline(always)]
    pub(crate) fn take(&self, now: Instant, tokens: u64) -> Result<(), Refusal> {
        match self.attempt(now, tokens) {
            Some(taken) => taken,
            None => self.take_again(now, tokens),
        }
    }

    /// As [`take`](Self::take), but `None` when somebody else is at it too.
    #[inline(always)]
    pub(crate) fn attempt(&self, now: Instant, tokens: u64) -> Option<Result<(), Refusal>> {
        // Acquire: a state that was taken away, or converted to other rules, comes with the version
        // that says so.
        let tat = self.tat.0.load(Ordering::Acquire);
        // Relaxed: so zero means that the state belongs to the first rules.
        if self.rules.version.load(Ordering::Relaxed) != 0 {
            return None;
        }
        match self.rules.first.take(tat, now, tokens) {
            Ok(next) => self.step(tat, next).then_some(Ok(())),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// As [`take`](Self::take), when others are at it too, or the rules have been changed.
    #[cold]
    pub(crate) fn take_again(&self, now: Instant, tokens: u64) -> Result<(), Refusal> {
        let mut backoff = Backoff::new();
        // Relaxed: a hint. With the first rules in force, it was a race that has been lost.
        if self.rules.version.load(Ordering::Relaxed) == 0 {
            backoff.pause();
        }
        loop {
            let (gcra, marks, word) = self.read();
            let next = gcra.take(marks.state(word), now, tokens)?;
            if self.step(word, marks.word(next)) {
                return Ok(());
            }
            backoff.pause();
        }
    }

    /// As [`take`](Self::take), leaving no more than `debt` tokens in debt, and with the standing
    /// that this leads to, or with the one that forbids it.
    pub(crate) fn borrow(
        &self,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> (Result<(), Refusal>, Standing, Result<(), Refusal>) {
        let mut backoff = Backoff::new();
        loop {
            let (gcra, marks, word) = self.read();
            let tat = marks.state(word);
            let ready = gcra.ready(tat, now, tokens, debt);
            let next = match ready {
                Ok(()) => gcra.put(tat, now, tokens),
                Err(_) => tat,
            };
            if next == tat || self.step(word, marks.word(next)) {
                let paid = gcra.ready(next, now, 0, 0);
                return (ready, gcra.standing(next, now), paid);
            }
            backoff.pause();
        }
    }

    /// Gives `tokens` back.
    pub(crate) fn give(&self, tokens: u64) {
        loop {
            let (gcra, marks, word) = self.read();
            let next = gcra.give(marks.state(word), tokens);
            if self.step(word, marks.word(next)) {
                return;
            }
        }
    }

    /// A copy that can be asked what would be.
    pub(crate) fn copy(&self) -> (Gcra, u64) {
        let (gcra, marks, word) = self.read();
        (gcra, marks.state(word))
    }

    /// Changes the rules. One caller at a time: the handle sees to that.
    pub(crate) fn replace(&self, now: Instant, new: &Gcra, inherit: Inherit) {
        let (old, before, _) = self.read();
        // Relaxed: only one caller changes the version.
        let version = self.rules.version.load(Ordering::Relaxed);
        self.rules.version.store(version + 1, Ordering::Relaxed);
        // Acquire: everything that was taken so far counts. From here on nobody can step.
        // Release: who finds the state taken away sees the odd version.
        let word = self.tat.0.swap(BUSY, Ordering::AcqRel);
        // Release: who reads any of the new rules sees the odd version when it looks again.
        fence(Ordering::Release);
        for (word, new) in self.rules.grid.iter().zip(new.grid.to_words()) {
            word.store(new, Ordering::Relaxed);
        }
        self.rules.capacity.store(new.capacity, Ordering::Relaxed);
        let base = new.grid.units(now);
        self.rules.base.store(base, Ordering::Relaxed);
        // Release: the even version comes with the rules it stands for.
        self.rules.version.store(version + 2, Ordering::Release);
        let next = old.inherit(before.state(word), now, new, inherit);
        let next = Marks::new(version + 2, base).word(next);
        // Release: who reads the converted state sees the version that goes with it.
        self.tat.0.store(next, Ordering::Release);
    }
}

/// Lets the other thread get some work done before this one takes the cache line away from it.
///
/// Moving the line takes longer than several calls. Two threads that do nothing else take 34 ns a
/// call each with this, and 55 ns when they try again at once; with 50 ns of other work between the
/// calls it is 130 and 160 ns, and with 250 ns there is no difference.
struct Backoff(u32);

impl Backoff {
    /// How often to spin at first, and at most. loom tries all interleavings: one is enough for it.
    const FIRST: u32 = if cfg!(backstop_loom) { 1 } else { 16 };
    const MOST: u32 = 4 * Self::FIRST;

    const fn new() -> Self {
        Self(Self::FIRST)
    }

    fn pause(&mut self) {
        for _ in 0..self.0 {
            spin();
        }
        self.0 = (self.0 * 2).min(Self::MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// No state is larger: the last instant, and as far beyond it as a limit reaches.
    const LAST: u64 = Marks::MARKED;

    proptest! {
        #[test]
        fn a_word_stands_for_its_state(
            version in 0_u64..1000,
            base in 0..=1_u64 << 63,
            beyond in prop_oneof![0..=2_u64, 0..=LAST, Marks::FAR - 1..=Marks::FAR + 1],
            earlier in any::<bool>(),
        ) {
            let marks = Marks::new(2 * version, base);
            let state = match earlier {
                true => base.saturating_sub(beyond),
                false => base.saturating_add(beyond).min(LAST),
            };
            let word = marks.word(state);
            prop_assert_ne!(word, BUSY);
            let expected = if version == 0 { state } else { state.max(base) };
            prop_assert_eq!(marks.state(word), expected);
            // The next changes write it as another word.
            for later in 1..=61 {
                let other = Marks::new(2 * (version + later), base).word(state);
                prop_assert!(other != word || state - base > Marks::FAR, "{}", later);
            }
        }
    }
}
