//! The token bucket, as the generic cell rate algorithm (GCRA, ITU-T I.371): one timestamp.
//!
//! The bucket is full at the *theoretical arrival time* `tat`. A token moves it on by the time the
//! rate takes to earn one, and a call is let through when `tat` stays within a burst of the present.
//! Times are counted in the units of a [`Grid`], so that no rate is rounded.

use std::time::Duration;

use super::{Grid, Inherit, Limit, REACH, Refusal, Standing};
use crate::clock::Instant;
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
        Standing::new(self.capacity / cost, used, full_at)
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
/// change takes the state away by setting it to [`BUSY`], so a caller that read the old rules cannot
/// put its result over the state that was converted to the new ones.
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
}

/// The word everyone writes, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Padded(AtomicU64);

/// The state while the rules are being changed. No bucket gets there: units end at half of it, and a
/// limit reaches a quarter of it beyond that.
const BUSY: u64 = u64::MAX;

/// What a state of zero is written as when it was zero under the rules before too: there is no number
/// below it, and the one above is a token less. Only after a change of the rules, so never seen by
/// who goes by the first ones.
const ZERO: u64 = BUSY - 1;

/// The state that a word stands for.
const fn state(word: u64) -> u64 {
    match word {
        ZERO => 0,
        tat => tat,
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
            },
            tat: Padded(AtomicU64::new(tat)),
        }
    }

    /// The rules and the word of a [`state`] that belong together.
    #[inline]
    fn read(&self) -> (Gcra, u64) {
        loop {
            if let Some(read) = self.try_read() {
                return read;
            }
            spin();
        }
    }

    /// As [`read`](Self::read), unless the rules are being changed.
    #[inline]
    fn try_read(&self) -> Option<(Gcra, u64)> {
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
        // Acquire: the second look at the version must not come before the loads above.
        fence(Ordering::Acquire);
        let same = self.rules.version.load(Ordering::Relaxed) == version;
        (same && version % 2 == 0 && word != BUSY).then_some((gcra, word))
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
            let (gcra, word) = self.read();
            let next = gcra.take(state(word), now, tokens)?;
            if self.step(word, next) {
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
            let (gcra, word) = self.read();
            let tat = state(word);
            let ready = gcra.ready(tat, now, tokens, debt);
            let next = match ready {
                Ok(()) => gcra.put(tat, now, tokens),
                Err(_) => tat,
            };
            if next == tat || self.step(word, next) {
                let paid = gcra.ready(next, now, 0, 0);
                return (ready, gcra.standing(next, now), paid);
            }
            backoff.pause();
        }
    }

    /// Gives `tokens` back.
    pub(crate) fn give(&self, tokens: u64) {
        loop {
            let (gcra, word) = self.read();
            if self.step(word, gcra.give(state(word), tokens)) {
                return;
            }
        }
    }

    /// A copy that can be asked what would be.
    pub(crate) fn copy(&self) -> (Gcra, u64) {
        let (gcra, word) = self.read();
        (gcra, state(word))
    }

    /// Changes the rules. One caller at a time: the handle sees to that.
    pub(crate) fn replace(&self, now: Instant, new: &Gcra, inherit: Inherit) {
        let (old, _) = self.read();
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
        // Release: the even version comes with the rules it stands for.
        self.rules.version.store(version + 2, Ordering::Release);
        let next = old.inherit(state(word), now, new, inherit);
        // Never the same word as before, by a unit if need be: a caller that priced its tokens by
        // the old rules must find that the state has moved.
        let next = match next == word {
            true => next.checked_sub(1).unwrap_or(ZERO),
            false => next,
        };
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

/// A token bucket in several parts, so that threads do not fight for one cache line.
///
/// Each part earns its share of the rate and holds its share of the burst. A thread takes from a
/// part of its own, and from the others when that is empty, so no token is out of reach; the total
/// never exceeds the rate and the burst.
#[derive(Debug)]
pub(crate) struct Striped {
    parts: Box<[TokenBucket]>,
}

impl Striped {
    /// `parts` buckets for a limit of `tokens` per `period`; `burst` is at least one token each.
    pub(crate) fn new(rules: &[Gcra], now: Instant, initial: u64) -> Self {
        let mut left = initial;
        let parts = rules
            .iter()
            .map(|gcra| {
                let share = left.min(gcra.capacity / gcra.grid.cost());
                left -= share;
                TokenBucket::new(gcra, gcra.holding(now, share))
            })
            .collect();
        Self { parts }
    }

    /// The rules of each part, for a whole limit on `grid` with `burst`.
    ///
    /// A token of a part costs as many times more units as there are parts.
    pub(crate) fn rules(tokens: u64, period: Duration, burst: u64, parts: u64) -> Vec<Gcra> {
        (0..parts)
            .map(|part| {
                let share = burst / parts + u64::from(part < burst % parts);
                let grid = Grid::shared(tokens, period, share, parts);
                Gcra::new(grid, share)
            })
            .collect()
    }

    fn from(&self, first: usize) -> impl Iterator<Item = &TokenBucket> {
        let count = self.parts.len();
        (0..count).map(move |offset| &self.parts[(first + offset) % count])
    }

    /// Takes `tokens` from one of the parts, beginning with the thread's own, `home`.
    #[inline]
    pub(crate) fn take(&self, home: usize, now: Instant, tokens: u64) -> Result<(), Refusal> {
        let home = home % self.parts.len();
        let mut refused = match self.parts[home].take(now, tokens) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        for part in self.from(home).skip(1) {
            match part.take(now, tokens) {
                Ok(()) => return Ok(()),
                Err(refusal) => refused = refused.min(refusal),
            }
        }
        Err(refused)
    }

    pub(crate) fn borrow(
        &self,
        home: usize,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> (Result<(), Refusal>, Result<(), Refusal>) {
        if self.take(home, now, tokens).is_ok() {
            return (Ok(()), Ok(()));
        }
        let part = &self.parts[home % self.parts.len()];
        let (ready, _, paid) = part.borrow(now, tokens, debt / self.parts.len() as u64);
        (ready, paid)
    }

    pub(crate) fn give(&self, home: usize, tokens: u64) {
        self.parts[home % self.parts.len()].give(tokens);
    }

    /// A copy that can be asked what would be: the parts one after the other.
    pub(crate) fn copy(&self) -> Parts {
        Parts(self.parts.iter().map(TokenBucket::copy).collect())
    }

    pub(crate) fn replace(&self, now: Instant, new: &[Gcra], inherit: Inherit) {
        for (part, gcra) in self.parts.iter().zip(new) {
            part.replace(now, gcra, inherit);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }
}

/// A copy of a striped bucket: each part's rules and state.
#[derive(Clone, Debug)]
pub(crate) struct Parts(Vec<(Gcra, u64)>);

impl Parts {
    /// The part that has `tokens` first.
    fn best(&mut self, now: Instant, tokens: u64) -> Option<&mut (Gcra, u64)> {
        self.0
            .iter_mut()
            .min_by_key(|(gcra, tat)| match gcra.ready(*tat, now, tokens, 0) {
                Ok(()) => Instant::ORIGIN,
                Err(Refusal::Until(at)) => at,
                Err(Refusal::Never) => Instant::FAR_FUTURE,
            })
    }
}

impl Limit for Parts {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal> {
        let mut refused = Refusal::Never;
        for (gcra, tat) in &self.0 {
            match gcra.ready(*tat, now, tokens, debt) {
                Ok(()) => return Ok(()),
                Err(refusal) => refused = refused.min(refusal),
            }
        }
        Err(refused)
    }

    fn put(&mut self, now: Instant, tokens: u64) {
        if let Some((gcra, tat)) = self.best(now, tokens) {
            *tat = gcra.put(*tat, now, tokens);
        }
    }

    fn give(&mut self, _: Instant, _: Option<Instant>, tokens: u64) {
        if let Some((gcra, tat)) = self.0.first_mut() {
            *tat = gcra.give(*tat, tokens);
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        let mut sum = Standing::new(0, 0, now);
        for (gcra, tat) in &self.0 {
            let standing = gcra.standing(*tat, now);
            sum.limit = sum.limit.saturating_add(standing.limit);
            sum.available = sum.available.saturating_add(standing.available);
            sum.full_at = sum.full_at.max(standing.full_at);
        }
        sum
    }
}
