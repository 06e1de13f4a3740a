//! The semaphore with per-thread caches of free permits.

use std::sync::OnceLock;

use super::semaphore::Semaphore;
use super::state::{PackedState, Taken};
use crate::striped::thread_index;
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering, cold_path, lock_checked};

/// The semaphore with per-thread caches of free permits.
///
/// Two threads that contend for the semaphore are four to ten times slower than one. So after a failed
/// compare-and-swap, while three quarters of the permits are free, released permits go into caches that few threads
/// share, and the next acquisitions of these threads take them from there.
///
/// Cached permits count as in flight, and the flag `CACHED` is set while there may be any. An acquisition that finds
/// no free permit, a waiter, and a new limit check the flag and empty the caches first. So the bound is exact, and
/// no call is rejected because of a cached permit.
#[derive(Debug)]
pub(super) struct PermitCache {
    semaphore: Semaphore,
    /// Most caches to allocate, 0 where each call needs an exact in-flight count. Computed when the bulkhead is
    /// built, because a thread pinned to one processor would count only that one later.
    max_caches: u32,
    /// Allocated at the first contention.
    caches: OnceLock<Caches>,
    /// Held while caches are opened or closed.
    switch: Mutex<()>,
}

#[derive(Debug)]
struct Caches {
    /// The length is a power of two.
    caches: Box<[Cache]>,
    /// Most permits in one cache.
    capacity: AtomicU32,
}

/// The number of permits, or `CLOSED`. Aligned to the pair of cache lines that processors fetch together, to avoid
/// false sharing.
#[derive(Debug)]
#[repr(align(128))]
struct Cache(AtomicU32);

const CLOSED: u32 = u32::MAX;

/// With more caches, emptying them costs more than the reduced contention saves.
const MAX_CACHES: u32 = 16;

impl PermitCache {
    /// Creates the caches of a limit. If `exact`, the semaphore only counts permits in flight, so none are cached.
    pub(super) fn new(limit: u32, exact: bool) -> Self {
        Self {
            semaphore: Semaphore::new(limit),
            // At least two: caches are only used after contention, which takes two processors.
            max_caches: if exact {
                0
            } else {
                processors().clamp(2, MAX_CACHES)
            },
            caches: OnceLock::new(),
            switch: Mutex::new(()),
        }
    }

    pub(super) fn read(&self) -> PackedState {
        self.semaphore.read()
    }

    /// Returns the number of permits in flight. Exact while no thread acquires or releases.
    pub(super) fn in_flight(&self) -> u32 {
        let cached = self.caches.get().map_or(0, Caches::sum);
        self.read().in_flight().saturating_sub(cached)
    }

    /// Acquires one permit on the fast path. `None` does not mean that no permit is free.
    #[inline(always)]
    pub(super) fn try_acquire_once(&self) -> Option<Taken> {
        if self.caches.get().is_some_and(|caches| {
            cold_path();
            caches.take()
        }) {
            // The in-flight count is unknown, but not needed where permits are cached.
            return Some(Taken::new(1, 1));
        }
        self.semaphore.try_acquire_once()
    }

    /// Acquires `cost` permits if they are free and no call waits. With `clamp`, a cost above the limit
    /// counts as the limit.
    pub(super) fn try_acquire(&self, cost: u32, clamp: bool) -> Result<Taken, PackedState> {
        match self.semaphore.try_acquire(cost, clamp) {
            Err(state) if state.is_cached() => {
                // The guard keeps the caches closed until the second attempt.
                let _closed = self.close();
                self.semaphore.try_acquire(cost, clamp)
            }
            decided => decided,
        }
    }

    /// Like [`try_acquire`](Self::try_acquire), for one permit after
    /// [`try_acquire_once`](Self::try_acquire_once) failed.
    pub(super) fn try_acquire_one(&self) -> Result<Taken, PackedState> {
        let state = self.read();
        if self.max_caches > 0 && !state.is_cached() && state.has_much_room() {
            // Permits are free, so the failure was contention.
            self.open(state);
        }
        self.try_acquire(1, false)
    }

    /// Like [`Semaphore::acquire_in_turn`].
    #[inline]
    pub(super) fn acquire_in_turn(
        &self,
        cost: u32,
        clamp: bool,
        last: bool,
    ) -> Result<Taken, PackedState> {
        self.semaphore.acquire_in_turn(cost, clamp, last)
    }

    /// Like [`Semaphore::force`].
    pub(super) fn force(&self, cost: u32) -> Taken {
        self.semaphore.force(cost)
    }

    /// Releases one permit. Returns whether calls wait.
    #[inline(always)]
    pub(super) fn release_one(&self) -> bool {
        if self.caches.get().is_some_and(|caches| {
            cold_path();
            caches.put()
        }) {
            return false;
        }
        self.semaphore.release(1).is_waiting()
    }

    /// Like [`Semaphore::release`]. The permits do not go into a cache.
    pub(super) fn release(&self, cost: u32) -> PackedState {
        self.semaphore.release(cost)
    }

    /// Changes the limit. Returns the previous state.
    pub(super) fn set_limit(&self, limit: u32) -> PackedState {
        loop {
            match self.semaphore.set_limit(limit) {
                Ok(before) => return before,
                Err(_) => drop(self.close()),
            }
        }
    }

    /// Sets the flag for waiters and empties the caches for them. Returns a later reading.
    pub(super) fn set_waiting(&self) -> PackedState {
        let before = self.semaphore.set_waiting();
        if !before.is_cached() {
            return before;
        }
        drop(self.close());
        self.read()
    }

    pub(super) fn clear_waiting(&self) {
        self.semaphore.clear_waiting();
    }

    /// Lets threads cache permits, if the limit is large enough.
    #[cold]
    fn open(&self, state: PackedState) {
        let wanted = self.max_caches.min(state.limit() / 2);
        // A single cache is no better than the semaphore.
        if wanted >= 2 || self.caches.get().is_some() {
            self.open_caches(self.caches.get_or_init(|| Caches::new(1 << wanted.ilog2())));
        }
    }

    fn open_caches(&self, caches: &Caches) {
        let _switch = lock_checked(&self.switch);
        let state = self.read();
        let capacity = state.limit() / 2 / caches.caches.len() as u32;
        // Flag first: no cache holds a permit while `CACHED` is clear.
        if capacity > 0 && !state.is_cached() && self.semaphore.set_cached() {
            caches.capacity.store(capacity, Ordering::Relaxed);
            caches.open();
        }
    }

    /// Empties the caches, so that all threads can acquire their permits. The caches stay closed at least as long
    /// as the guard lives.
    #[cold]
    fn close(&self) -> MutexGuard<'_, ()> {
        let switch = lock_checked(&self.switch);
        if self.read().is_cached() {
            let found = self.caches.get().map_or(0, Caches::close);
            self.semaphore.clear_cached(found);
        }
        switch
    }
}

#[cfg(test)]
impl PermitCache {
    /// Returns permits with two open caches, on any machine.
    pub(super) fn with_two_caches(limit: u32) -> Self {
        let cache = Self::new(limit, false);
        cache.open_two_caches();
        cache
    }

    /// Opens two caches as contention would. Returns whether permits may be cached now.
    pub(super) fn open_two_caches(&self) -> bool {
        self.open_caches(self.caches.get_or_init(|| Caches::new(2)));
        self.read().is_cached()
    }
}

impl Caches {
    fn new(count: usize) -> Self {
        Self {
            caches: (0..count).map(|_| Cache(AtomicU32::new(CLOSED))).collect(),
            capacity: AtomicU32::new(0),
        }
    }

    #[inline(always)]
    fn own_cache(&self) -> &AtomicU32 {
        &self.caches[thread_index() & (self.caches.len() - 1)].0
    }

    /// Takes a permit from the thread's cache.
    ///
    /// Out of line, like [`put`](Self::put), so that the code without contention stays small enough to be inlined
    /// and a permit stays in registers.
    #[inline(never)]
    fn take(&self) -> bool {
        let cache = self.own_cache();
        let permits = cache.load(Ordering::Relaxed);
        if permits == 0 || permits == CLOSED {
            return false;
        }
        // Acquire pairs with the Release in `put`. After a failure, caused by a thread that shares the cache,
        // the semaphore decides.
        cache
            .compare_exchange(permits, permits - 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Puts a permit into the thread's cache, if it is open and not full.
    #[inline(never)]
    fn put(&self) -> bool {
        let cache = self.own_cache();
        let permits = cache.load(Ordering::Relaxed);
        if permits >= self.capacity.load(Ordering::Relaxed) {
            return false;
        }
        // Release pairs with the Acquire of the thread that takes the permit.
        cache
            .compare_exchange(permits, permits + 1, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    fn sum(&self) -> u32 {
        let permits = self
            .caches
            .iter()
            .map(|cache| cache.0.load(Ordering::Relaxed));
        permits.filter(|permits| *permits != CLOSED).sum()
    }

    fn open(&self) {
        for cache in &self.caches {
            cache.0.store(0, Ordering::Release);
        }
    }

    /// Closes the caches and returns the number of permits in them.
    fn close(&self) -> u32 {
        let caches = self.caches.iter();
        caches
            .map(|cache| cache.0.swap(CLOSED, Ordering::AcqRel))
            .sum()
    }
}

/// Returns the number of processors that the program may use, read once.
#[cfg(not(backstop_loom))]
fn processors() -> u32 {
    use std::thread::available_parallelism;

    static PROCESSORS: OnceLock<u32> = OnceLock::new();
    *PROCESSORS.get_or_init(|| {
        available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
    })
}

#[cfg(backstop_loom)]
const fn processors() -> u32 {
    2
}

#[cfg(all(test, not(backstop_loom)))]
#[path = "permit_cache_tests.rs"]
mod tests;
