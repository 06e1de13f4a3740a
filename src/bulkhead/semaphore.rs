//! A counting semaphore with a limit that can change: one atomic word.

use super::state::{CACHED, MAX_PERMITS, Taken, WAITING, Word};
use crate::sync::{AtomicU64, Ordering};

/// Permits of a bulkhead.
///
/// Limit and count share one word, so an acquisition after `set_limit` has returned obeys the new
/// limit. The flag for waiters is in the same word, so a release that finds it clear needs no second
/// look, and a waiter that has set it cannot miss a release.
///
/// Acquiring is a compare-and-swap (Acquire), releasing a subtraction (Release): what the last holder
/// of a permit did happens before what the next one does.
#[derive(Debug)]
pub(super) struct Semaphore(AtomicU64);

impl Semaphore {
    pub(super) fn new(limit: u32) -> Self {
        Self(AtomicU64::new(Word::new(limit.min(MAX_PERMITS)).0))
    }

    #[inline(always)]
    pub(super) fn read(&self) -> Word {
        // Acquire: a thread that finds `CACHED` clear sees the slots closed.
        Word(self.0.load(Ordering::Acquire))
    }

    /// Acquires one permit in a single attempt. `None` if there is none, calls wait, or another thread
    /// interfered.
    #[inline(always)]
    pub(super) fn try_acquire_once(&self) -> Option<Taken> {
        let word = self.read();
        if word.is_waiting() || word.in_flight() >= word.limit() {
            return None;
        }
        self.0
            .compare_exchange(word.0, word.0 + 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        Some(Taken::new(1, word.in_flight() + 1))
    }

    /// Acquires `cost` permits if they are free and no call waits. With `clamp`, a cost above the limit
    /// counts as the limit.
    pub(super) fn try_acquire(&self, cost: u32, clamp: bool) -> Result<Taken, Word> {
        self.acquire(cost, clamp, |word| !word.is_waiting(), !0)
    }

    /// As [`try_acquire`](Self::try_acquire) for the next waiter. `last`: no other call waits.
    #[inline]
    pub(super) fn acquire_in_turn(
        &self,
        cost: u32,
        clamp: bool,
        last: bool,
    ) -> Result<Taken, Word> {
        let keep = if last { !WAITING } else { !0 };
        self.acquire(cost, clamp, |_| true, keep)
    }

    #[inline]
    fn acquire(
        &self,
        cost: u32,
        clamp: bool,
        admits: impl Fn(Word) -> bool,
        keep: u64,
    ) -> Result<Taken, Word> {
        self.update(|word| {
            let cost = if clamp { cost.min(word.limit()) } else { cost };
            let admitted = word.has_room(cost) && admits(word);
            admitted.then_some(((word.0 + u64::from(cost)) & keep, cost))
        })
        .map(|(word, cost)| Taken::new(cost, word.in_flight() + cost))
    }

    /// Acquires `cost` permits even if they are not free; fewer only if the count would overflow.
    pub(super) fn force(&self, cost: u32) -> Taken {
        let forced = self.update(|word| {
            let cost = cost.min(MAX_PERMITS - word.in_flight());
            Some((word.0 + u64::from(cost), cost))
        });
        match forced {
            Ok((word, cost)) => Taken::new(cost, word.in_flight() + cost),
            Err(word) => Taken::new(0, word.in_flight()),
        }
    }

    /// Releases `cost` permits. Returns the word before, which says whether calls wait for them.
    #[inline(always)]
    pub(super) fn release(&self, cost: u32) -> Word {
        Word(self.0.fetch_sub(u64::from(cost), Ordering::Release))
    }

    /// Sets the limit and returns the word before; fails while permits may lie in the cache.
    pub(super) fn set_limit(&self, limit: u32) -> Result<Word, Word> {
        self.update(|word| (!word.is_cached()).then_some((word.with_limit(limit).0, ())))
            .map(|(word, ())| word)
    }

    /// Marks that calls wait: from here on each release and each larger limit serves them. Returns the
    /// word before.
    pub(super) fn set_waiting(&self) -> Word {
        Word(self.0.fetch_or(WAITING, Ordering::Acquire))
    }

    pub(super) fn clear_waiting(&self) {
        // Relaxed: the wait queue is published by its lock.
        self.0.fetch_and(!WAITING, Ordering::Relaxed);
    }

    /// Marks that permits may lie in the cache, if there is much room.
    pub(super) fn set_cached(&self) -> bool {
        self.update(|word| word.has_much_room().then_some((word.0 | CACHED, ())))
            .is_ok()
    }

    /// Clears the mark and releases the permits found in the cache, in one step. The mark must be set.
    pub(super) fn clear_cached(&self, found: u32) {
        self.0
            .fetch_sub(CACHED + u64::from(found), Ordering::Release);
    }

    /// Replaces the word with what `change` makes of it. Returns the word before, or the one that
    /// `change` declined.
    #[inline]
    fn update<T>(&self, change: impl Fn(Word) -> Option<(u64, T)>) -> Result<(Word, T), Word> {
        let mut word = self.read();
        loop {
            let Some((new, with)) = change(word) else {
                return Err(word);
            };
            match self
                .0
                .compare_exchange_weak(word.0, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok((word, with)),
                Err(now) => word = Word(now),
            }
        }
    }
}
