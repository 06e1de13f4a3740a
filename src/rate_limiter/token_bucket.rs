//! A token bucket that any number of threads share: one word, without a lock as long as its quota has
//! not been changed.

use super::state::{Availability, Gcra, Inherit, Unavailable};
use crate::instant::Instant;
use crate::sync::{AtomicU64, Mutex, Ordering, lock_checked, spin};

/// A token bucket for several threads.
///
/// The state is one word. A change of the quota moves the state behind a lock, together with the new
/// rules, and leaves [`MOVED`] in the word for good. So a thread that has read the word before cannot
/// step from it afterwards, whatever happens in between, and the rules that belong to the word are plain
/// values. A limiter whose quota never changes takes no lock.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// The state under `rules`, or [`MOVED`].
    tat: AtomicU64,
    rules: Gcra,
    /// The rules and the state once they have been moved.
    moved: Mutex<Option<Box<(Gcra, u64)>>>,
}

/// No state is as large: units end at half of it, and a limit reaches a quarter of it beyond that.
const MOVED: u64 = u64::MAX;

/// Tokens taken, perhaps in advance.
#[derive(Debug)]
pub(super) struct Borrowed {
    /// Where that leads.
    pub(super) availability: Availability,
    /// When nothing is owed any more.
    pub(super) paid: Result<(), Unavailable>,
    /// The instant at which they count as taken.
    pub(super) taken: Instant,
}

impl TokenBucket {
    pub(super) fn new(gcra: &Gcra, tat: u64) -> Self {
        Self {
            tat: AtomicU64::new(tat),
            rules: *gcra,
            moved: Mutex::new(None),
        }
    }

    /// Takes `tokens` if there are that many.
    #[inline(always)]
    pub(super) fn take(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        match self.attempt(now, tokens) {
            Some(taken) => taken,
            None => self.take_contended(now, tokens),
        }
    }

    /// As [`take`](Self::take), but `None` when another thread was faster, or the state has been moved.
    #[inline(always)]
    pub(super) fn attempt(&self, now: Instant, tokens: u64) -> Option<Result<(), Unavailable>> {
        // Relaxed: the word is the whole state.
        let tat = self.tat.load(Ordering::Relaxed);
        match self.rules.take(tat, now, tokens) {
            Ok(next) => self.step(tat, next).then_some(Ok(())),
            Err(_) if tat == MOVED => None,
            Err(unavailable) => Some(Err(unavailable)),
        }
    }

    /// As [`take`](Self::take), after a lost race, or when the state has been moved.
    #[cold]
    pub(super) fn take_contended(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        self.update(|gcra, tat| match gcra.take(tat, now, tokens) {
            Ok(next) => (next, Ok(())),
            Err(unavailable) => (tat, Err(unavailable)),
        })
    }

    #[inline]
    fn step(&self, tat: u64, next: u64) -> bool {
        // Acquire and release: a thread that takes a token sees what those that gave it back did before,
        // as with a lock.
        self.tat
            .compare_exchange_weak(tat, next, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Applies `step`, which returns the next state and a result, to the rules and the state.
    fn update<R>(&self, mut step: impl FnMut(&Gcra, u64) -> (u64, R)) -> R {
        let mut backoff = Backoff::new();
        loop {
            let tat = self.tat.load(Ordering::Acquire);
            if tat == MOVED {
                // The thread that moves it holds the lock until it has.
                if let Some(moved) = &mut *lock_checked(&self.moved) {
                    let (next, result) = step(&moved.0, moved.1);
                    moved.1 = next;
                    return result;
                }
            }
            let (next, result) = step(&self.rules, tat);
            if next == tat || self.step(tat, next) {
                return result;
            }
            backoff.pause();
        }
    }

    /// Takes `tokens`, leaving no more than `debt` tokens in debt.
    pub(super) fn borrow(
        &self,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> (Result<(), Unavailable>, Borrowed) {
        self.update(|gcra, tat| {
            let ready = gcra.ready(tat, now, tokens, debt);
            let next = match ready {
                Ok(()) => gcra.force_take(tat, now, tokens),
                Err(_) => tat,
            };
            let borrowed = Borrowed {
                availability: gcra.availability(next, now),
                paid: gcra.ready(next, now, 0, 0),
                taken: now,
            };
            (next, (ready, borrowed))
        })
    }

    /// Takes as many of `tokens` as leave no more than `debt` tokens in debt. Returns how many.
    pub(super) fn charge(&self, now: Instant, tokens: u64, debt: u64) -> u64 {
        self.update(|gcra, tat| {
            let charged = tokens.min(gcra.availability(tat, now).room(debt));
            match charged {
                0 => (tat, 0),
                _ => (gcra.force_take(tat, now, charged), charged),
            }
        })
    }

    /// Takes `tokens` for a waiter at its turn, if that comes at `from` or later, and by `now`. They count
    /// as taken at the turn, so one that is served late costs those behind it nothing.
    pub(super) fn serve(
        &self,
        from: Instant,
        now: Instant,
        tokens: u64,
    ) -> Result<(), Unavailable> {
        self.update(|gcra, tat| {
            let turn = match gcra.ready(tat, from, tokens, 0) {
                Ok(()) => from,
                Err(Unavailable::Until(turn)) if turn <= now => turn,
                Err(unavailable) => return (tat, Err(unavailable)),
            };
            (gcra.force_take(tat, turn, tokens), Ok(()))
        })
    }

    /// Gives `tokens` back, up to what the bucket holds. Returns how many there was no room for.
    pub(super) fn give(&self, now: Instant, tokens: u64) -> u64 {
        self.update(|gcra, tat| {
            let given = tokens.min(gcra.missing(tat, now));
            (gcra.give(tat, given), tokens - given)
        })
    }

    /// A copy that can be asked what would be.
    pub(super) fn copy(&self) -> (Gcra, u64) {
        self.update(|gcra, tat| (tat, (*gcra, tat)))
    }

    /// Changes the rules to `new`, with which a new bucket would be in the state `fresh`.
    pub(super) fn replace(&self, now: Instant, new: &Gcra, fresh: u64, inherit: Inherit) {
        let mut moved = lock_checked(&self.moved);
        // Acquire: what was taken so far counts. Release: a thread that finds the mark, and then takes
        // the lock, is behind this one.
        let tat = self.tat.swap(MOVED, Ordering::AcqRel);
        let (old, tat) = match &*moved {
            Some(moved) => **moved,
            None => (self.rules, tat),
        };
        let next = old.inherit(tat, now, (new, fresh), inherit);
        *moved = Some(Box::new((*new, next)));
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
