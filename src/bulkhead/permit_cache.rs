//! A per-thread cache of free permits over the semaphore.

use std::sync::OnceLock;

use super::semaphore::Semaphore;
use super::state::{Taken, Word};
use crate::striped::thread_index;
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering, lock_checked};

/// The semaphore, with a cache of free permits for each thread in front of it.
///
/// Two threads that contend for one word need four to ten times as long as one. So after a failed
/// compare-and-swap, while three quarters of the permits are free, a released permit goes into a slot
/// that few threads share, and the next acquisition there takes it.
///
/// Cached permits count as in flight, and the word's flag `CACHED` is set while there may be any. An
/// acquisition without room, a waiter and a new limit all look at that flag, and empty the cache first:
/// the bound is exact, and no call is rejected because of a cached permit.
#[derive(Debug)]
pub(super) struct PermitCache {
    semaphore: Semaphore,
    /// The most slots worth having: 0 where each call needs an exact number in flight. Known from the
    /// start, since a thread that is pinned to a processor sees that one only.
    max_slots: u32,
    /// Allocated at the first contention.
    slots: OnceLock<Slots>,
    /// Held while slots are opened or closed.
    switch: Mutex<()>,
}

#[derive(Debug)]
struct Slots {
    /// A power of two of them.
    slots: Box<[Slot]>,
    /// The most permits in one slot.
    capacity: AtomicU32,
}

/// The number of permits, or `CLOSED`. Alone in the pair of cache lines that processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
struct Slot(AtomicU32);

const CLOSED: u32 = u32::MAX;

/// More slots make emptying the cache slower than they make the rest faster.
const MAX_SLOTS: u32 = 16;

impl PermitCache {
    /// `exact`: the semaphore counts permits in flight and nothing else, so none are cached.
    pub(super) fn new(limit: u32, exact: bool) -> Self {
        Self {
            semaphore: Semaphore::new(limit),
            // Contention proves that there are two processors.
            max_slots: if exact {
                0
            } else {
                processors().clamp(2, MAX_SLOTS)
            },
            slots: OnceLock::new(),
            switch: Mutex::new(()),
        }
    }

    pub(super) fn read(&self) -> Word {
        self.semaphore.read()
    }

    /// Permits in flight. Exact when no thread acquires or releases.
    pub(super) fn in_flight(&self) -> u32 {
        let cached = self.slots.get().map_or(0, Slots::sum);
        self.read().in_flight().saturating_sub(cached)
    }

    /// Acquires one permit if that is quickly done; `None` decides nothing.
    #[inline(always)]
    pub(super) fn try_acquire_once(&self) -> Option<Taken> {
        if self.slots.get().is_some_and(Slots::take) {
            // The number in flight is unknown; it is not needed where permits are cached.
            return Some(Taken::new(1, 1));
        }
        self.semaphore.try_acquire_once()
    }

    /// Acquires `cost` permits if they are free and no call waits. With `clamp`, a cost above the limit
    /// counts as the limit.
    pub(super) fn try_acquire(&self, cost: u32, clamp: bool) -> Result<Taken, Word> {
        match self.semaphore.try_acquire(cost, clamp) {
            Err(word) if word.is_cached() => {
                // No thread opens the slots until this one has looked again.
                let _switch = self.close();
                self.semaphore.try_acquire(cost, clamp)
            }
            decided => decided,
        }
    }

    /// As [`try_acquire`](Self::try_acquire), for one permit after
    /// [`try_acquire_once`](Self::try_acquire_once) has failed.
    pub(super) fn try_acquire_one(&self) -> Result<Taken, Word> {
        let word = self.read();
        if self.max_slots > 0 && !word.is_cached() && word.has_much_room() {
            // There is room, so another thread must have interfered.
            self.open(word);
        }
        self.try_acquire(1, false)
    }

    /// As [`Semaphore::acquire_in_turn`].
    #[inline]
    pub(super) fn acquire_in_turn(
        &self,
        cost: u32,
        clamp: bool,
        last: bool,
    ) -> Result<Taken, Word> {
        self.semaphore.acquire_in_turn(cost, clamp, last)
    }

    /// As [`Semaphore::force`].
    pub(super) fn force(&self, cost: u32) -> Taken {
        self.semaphore.force(cost)
    }

    /// Releases one permit. Returns whether calls wait for it.
    #[inline(always)]
    pub(super) fn release_one(&self) -> bool {
        if self.slots.get().is_some_and(Slots::put) {
            return false;
        }
        self.semaphore.release(1).is_waiting()
    }

    /// As [`Semaphore::release`]; the permits do not go into the cache.
    pub(super) fn release(&self, cost: u32) -> Word {
        self.semaphore.release(cost)
    }

    /// Changes the limit. Returns the word before.
    pub(super) fn set_limit(&self, limit: u32) -> Word {
        loop {
            match self.semaphore.set_limit(limit) {
                Ok(before) => return before,
                Err(_) => drop(self.close()),
            }
        }
    }

    /// Marks that calls wait, and empties the cache for them. Returns a reading after that.
    pub(super) fn set_waiting(&self) -> Word {
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

    /// Lets threads cache permits, unless there is little room.
    #[cold]
    fn open(&self, word: Word) {
        let wanted = self.max_slots.min(word.limit() / 2);
        // A single slot is no better than the word.
        if wanted >= 2 || self.slots.get().is_some() {
            self.open_slots(self.slots.get_or_init(|| Slots::new(1 << wanted.ilog2())));
        }
    }

    fn open_slots(&self, slots: &Slots) {
        let _switch = lock_checked(&self.switch);
        let word = self.read();
        let capacity = word.limit() / 2 / slots.slots.len() as u32;
        // Marked first: no permit is in a slot while `CACHED` is clear.
        if capacity > 0 && !word.is_cached() && self.semaphore.set_cached() {
            slots.capacity.store(capacity, Ordering::Relaxed);
            slots.open();
        }
    }

    /// Empties the cache: its permits are free for all threads. The slots stay closed as long as the
    /// guard lives, at least.
    #[cold]
    fn close(&self) -> MutexGuard<'_, ()> {
        let switch = lock_checked(&self.switch);
        if self.read().is_cached() {
            let found = self.slots.get().map_or(0, Slots::close);
            self.semaphore.clear_cached(found);
        }
        switch
    }
}

#[cfg(test)]
impl PermitCache {
    /// With two open slots on any machine.
    pub(super) fn with_two_slots(limit: u32) -> Self {
        let cache = Self::new(limit, false);
        cache.open_two_slots();
        cache
    }

    /// Opens two slots as contention would. Returns whether permits may be cached now.
    pub(super) fn open_two_slots(&self) -> bool {
        self.open_slots(self.slots.get_or_init(|| Slots::new(2)));
        self.read().is_cached()
    }
}

impl Slots {
    fn new(count: usize) -> Self {
        Self {
            slots: (0..count).map(|_| Slot(AtomicU32::new(CLOSED))).collect(),
            capacity: AtomicU32::new(0),
        }
    }

    #[inline(always)]
    fn mine(&self) -> &AtomicU32 {
        &self.slots[thread_index() & (self.slots.len() - 1)].0
    }

    /// Takes a permit out of the thread's slot.
    ///
    /// Out of line, as [`put`](Self::put): the code of calls without contention stays small enough to be
    /// inlined, and a permit stays in registers.
    #[inline(never)]
    fn take(&self) -> bool {
        let slot = self.mine();
        let permits = slot.load(Ordering::Relaxed);
        if permits == 0 || permits == CLOSED {
            return false;
        }
        // Acquire, as for every acquisition. A failure means that other threads use the slot too; then
        // the semaphore decides.
        slot.compare_exchange(permits, permits - 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Puts a permit into the thread's slot, if it is open and has room.
    #[inline(never)]
    fn put(&self) -> bool {
        let slot = self.mine();
        let permits = slot.load(Ordering::Relaxed);
        if permits >= self.capacity.load(Ordering::Relaxed) {
            return false;
        }
        // Release, as for every release.
        slot.compare_exchange(permits, permits + 1, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    fn sum(&self) -> u32 {
        let permits = self.slots.iter().map(|slot| slot.0.load(Ordering::Relaxed));
        permits.filter(|permits| *permits != CLOSED).sum()
    }

    fn open(&self) {
        for slot in &self.slots {
            slot.0.store(0, Ordering::Release);
        }
    }

    /// Closes the slots and returns the number of permits in them.
    fn close(&self) -> u32 {
        let slots = self.slots.iter();
        slots
            .map(|slot| slot.0.swap(CLOSED, Ordering::AcqRel))
            .sum()
    }
}

/// Number of processors that the program may use, read once.
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
