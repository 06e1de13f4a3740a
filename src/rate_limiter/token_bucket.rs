//! A token bucket in one atomic, lock-free until its quota is changed.

use super::state::{Bucket, Gcra, Inherit, Limit, Unavailable};
use crate::instant::Instant;
use crate::sync::{AtomicU64, Mutex, Ordering, lock_checked, spin};

/// A token bucket for any number of threads.
///
/// The state is one word. A change of the quota moves the state behind a lock, together with the new rules, and
/// leaves [`MOVED`] in the word permanently. So a thread that read the word earlier can no longer update it, and the
/// rules for the word are immutable. A limiter whose quota never changes takes no lock.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// The state under `rules`, or [`MOVED`].
    tat: AtomicU64,
    rules: Gcra,
    /// The rules and the state after a change of the quota.
    moved: Mutex<Option<Box<(Gcra, u64)>>>,
}

/// Larger than any state, because units end at half of it, and a limit adds a quarter at most.
const MOVED: u64 = u64::MAX;

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

    /// Like [`take`](Self::take). `None` after a lost race, or if the state was moved.
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

    /// Like [`take`](Self::take), after a lost race, or if the state was moved.
    #[cold]
    pub(super) fn take_contended(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        self.update(|gcra, tat| match gcra.take(tat, now, tokens) {
            Ok(next) => (next, Ok(())),
            Err(unavailable) => (tat, Err(unavailable)),
        })
    }

    #[inline]
    fn step(&self, tat: u64, next: u64) -> bool {
        // AcqRel, as for a lock: a thread that takes a token observes what happened before it was returned.
        self.tat
            .compare_exchange_weak(tat, next, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Applies `step` to the rules and the state. It returns the next state and a result.
    fn update<R>(&self, mut step: impl FnMut(&Gcra, u64) -> (u64, R)) -> R {
        let mut backoff = Backoff::new();
        loop {
            let tat = self.tat.load(Ordering::Acquire);
            if tat == MOVED {
                // The thread that wrote `MOVED` holds the lock until it has moved the state.
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

    /// Takes `tokens`, leaving no more than `debt` tokens of debt, and reads the state afterwards.
    pub(super) fn borrow<R>(
        &self,
        now: Instant,
        (tokens, debt): (u64, u64),
        read: impl Fn(&dyn Limit, Instant) -> R,
    ) -> (Result<(), Unavailable>, R) {
        self.update(|gcra, tat| {
            let ready = gcra.ready(tat, now, tokens, debt);
            let next = match ready {
                Ok(()) => gcra.force_take(tat, now, tokens),
                Err(_) => tat,
            };
            let bucket = Bucket {
                gcra: *gcra,
                tat: next,
            };
            (next, (ready, read(&bucket, now)))
        })
    }

    /// Takes as many of `tokens` as leave at most `debt` tokens of debt. Returns the number taken.
    pub(super) fn charge(&self, now: Instant, tokens: u64, debt: u64) -> u64 {
        self.update(|gcra, tat| {
            let charged = tokens.min(gcra.availability(tat, now).room(debt));
            match charged {
                0 => (tat, 0),
                _ => (gcra.force_take(tat, now, charged), charged),
            }
        })
    }

    /// Takes `tokens` for a waiter whose turn comes at `from` or later, and by `now`. They are taken as of the turn,
    /// so that a late wake-up does not delay the waiters behind.
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

    /// Returns `tokens` to the bucket, up to its burst. Returns how many did not fit.
    pub(super) fn give(&self, now: Instant, tokens: u64) -> u64 {
        self.give_up_to(tokens, |gcra, tat| gcra.missing(tat, now))
    }

    /// Pays the debt of the bucket with `tokens`. Returns how many are left.
    pub(super) fn pay(&self, now: Instant, tokens: u64) -> u64 {
        self.give_up_to(tokens, |gcra, tat| gcra.debt(tat, now))
    }

    fn give_up_to(&self, tokens: u64, most: impl Fn(&Gcra, u64) -> u64) -> u64 {
        self.update(|gcra, tat| {
            let given = tokens.min(most(gcra, tat));
            (gcra.give(tat, given), tokens - given)
        })
    }

    /// Returns a copy of the rules and the state, for forecasts.
    pub(super) fn copy(&self) -> (Gcra, u64) {
        self.update(|gcra, tat| (tat, (*gcra, tat)))
    }

    /// Changes the rules to `new`. `fresh` is the state of a new bucket with those.
    pub(super) fn replace(&self, now: Instant, new: &Gcra, fresh: u64, inherit: Inherit) {
        let mut moved = lock_checked(&self.moved);
        // Acquire: tokens taken so far count. Release: a thread that reads `MOVED` and takes the lock is
        // ordered after this.
        let tat = self.tat.swap(MOVED, Ordering::AcqRel);
        let (old, tat) = match &*moved {
            Some(moved) => **moved,
            None => (self.rules, tat),
        };
        let next = old.inherit(tat, now, (new, fresh), inherit);
        *moved = Some(Box::new((*new, next)));
    }
}

/// Backs off after a lost race, so that the other thread makes progress before it loses the cache line.
///
/// Moving the cache line between cores takes longer than several calls. Two threads that do nothing else take 34
/// ns a call each with this, and 55 ns if they retry at once. With 50 ns of other work between the calls
/// it is 130 and 160 ns, and with 250 ns there is no difference.
struct Backoff(u32);

impl Backoff {
    /// Number of spins at first, and at most. One for loom, which explores all interleavings.
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
