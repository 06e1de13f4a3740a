//! A counting semaphore with a variable limit in one atomic word.

use super::state::{CACHED, MAX_PERMITS, PackedState, Taken, WAITING};
use crate::sync::{AtomicU64, Ordering};

/// The permits of a bulkhead.
///
/// Limit and count share one word, so an acquisition after `set_limit` returned obeys the new limit. The flag for
/// waiters is in the same word: a release that finds it clear has no waiter to serve, and a waiter that set it
/// cannot miss a release.
///
/// Acquiring is a compare-and-swap (Acquire), releasing a subtraction (Release), so everything before a release
/// happens before everything after the next acquisition of that permit.
#[derive(Debug)]
pub(super) struct Semaphore(AtomicU64);

impl Semaphore {
    pub(super) fn new(limit: u32) -> Self {
        Self(AtomicU64::new(PackedState::new(limit.min(MAX_PERMITS)).0))
    }

    #[inline(always)]
    pub(super) fn read(&self) -> PackedState {
        // Acquire pairs with `clear_cached`: a thread that reads `CACHED` clear also reads the caches closed.
        PackedState(self.0.load(Ordering::Acquire))
    }

    /// Tries once to acquire one permit. Returns `None` if none is free, calls wait, or the compare-and-swap failed.
    #[inline(always)]
    pub(super) fn try_acquire_once(&self) -> Option<Taken> {
        let state = self.read();
        if state.is_waiting() || state.in_flight() >= state.limit() {
            return None;
        }
        self.0
            .compare_exchange(state.0, state.0 + 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        Some(Taken::new(1, state.in_flight() + 1))
    }

    /// Acquires `cost` permits if they are free and no call waits. With `clamp`, a cost above the limit
    /// counts as the limit.
    pub(super) fn try_acquire(&self, cost: u32, clamp: bool) -> Result<Taken, PackedState> {
        self.acquire(cost, clamp, |state| !state.is_waiting(), !0)
    }

    /// Like [`try_acquire`](Self::try_acquire), for the next waiter. `last`: no other call waits, so the flag is
    /// cleared.
    #[inline]
    pub(super) fn acquire_in_turn(
        &self,
        cost: u32,
        clamp: bool,
        last: bool,
    ) -> Result<Taken, PackedState> {
        let keep = if last { !WAITING } else { !0 };
        self.acquire(cost, clamp, |_| true, keep)
    }

    #[inline]
    fn acquire(
        &self,
        cost: u32,
        clamp: bool,
        admits: impl Fn(PackedState) -> bool,
        keep: u64,
    ) -> Result<Taken, PackedState> {
        self.update(|state| {
            let cost = if clamp { cost.min(state.limit()) } else { cost };
            let admitted = state.has_room(cost) && admits(state);
            admitted.then_some(((state.0 + u64::from(cost)) & keep, cost))
        })
        .map(|(state, cost)| Taken::new(cost, state.in_flight() + cost))
    }

    /// Acquires `cost` permits even above the limit, or fewer if the count would overflow.
    pub(super) fn force(&self, cost: u32) -> Taken {
        let forced = self.update(|state| {
            let cost = cost.min(MAX_PERMITS - state.in_flight());
            Some((state.0 + u64::from(cost), cost))
        });
        match forced {
            Ok((state, cost)) => Taken::new(cost, state.in_flight() + cost),
            Err(state) => Taken::new(0, state.in_flight()),
        }
    }

    /// Releases `cost` permits. Returns the previous state, which contains the flag for waiters.
    #[inline(always)]
    pub(super) fn release(&self, cost: u32) -> PackedState {
        PackedState(self.0.fetch_sub(u64::from(cost), Ordering::Release))
    }

    /// Sets the limit and returns the previous state. Fails while the cache may hold permits.
    pub(super) fn set_limit(&self, limit: u32) -> Result<PackedState, PackedState> {
        self.update(|state| (!state.is_cached()).then_some((state.with_limit(limit).0, ())))
            .map(|(state, ())| state)
    }

    /// Sets the flag for waiters: from here on each release and each larger limit serves them. Returns the previous
    /// state.
    pub(super) fn set_waiting(&self) -> PackedState {
        PackedState(self.0.fetch_or(WAITING, Ordering::Acquire))
    }

    pub(super) fn clear_waiting(&self) {
        // Relaxed: the lock of the wait queue publishes the queue.
        self.0.fetch_and(!WAITING, Ordering::Relaxed);
    }

    /// Sets the flag for cached permits, if many permits are free.
    pub(super) fn set_cached(&self) -> bool {
        self.update(|state| state.has_much_room().then_some((state.0 | CACHED, ())))
            .is_ok()
    }

    /// Clears the flag for cached permits and releases the permits found there, in one step. The flag must be set.
    pub(super) fn clear_cached(&self, found: u32) {
        self.0
            .fetch_sub(CACHED + u64::from(found), Ordering::Release);
    }

    /// Applies `change`. Returns the previous state, or the state for which `change` returned `None`.
    #[inline]
    fn update<T>(
        &self,
        change: impl Fn(PackedState) -> Option<(u64, T)>,
    ) -> Result<(PackedState, T), PackedState> {
        let mut state = self.read();
        loop {
            let Some((new, with)) = change(state) else {
                return Err(state);
            };
            match self
                .0
                .compare_exchange_weak(state.0, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok((state, with)),
                Err(now) => state = PackedState(now),
            }
        }
    }
}
