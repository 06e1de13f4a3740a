//! A counter without contention, and the thread indices that spread threads over stripes.

use crate::sync::{AtomicU64, Ordering};

/// A counter with many writers and few readers. Threads add to different stripes.
#[derive(Debug)]
pub(crate) struct StripedCounter {
    stripes: Box<[Stripe; STRIPES]>,
    /// The sum at the last [`clear`](Self::clear).
    cleared: AtomicU64,
}

/// Aligned to two cache lines, because processors prefetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    /// Only the thread with the index of this stripe adds here, so no read-modify-write operation is needed, which
    /// took about 4 of the 20 ns of a rejection by an open circuit.
    own: AtomicU64,
    /// Incremented by all other threads.
    shared: AtomicU64,
}

const STRIPES: usize = 8;

impl StripedCounter {
    /// Returns a counter at zero.
    pub(crate) fn new() -> Self {
        Self {
            stripes: Box::new(std::array::from_fn(|_| Stripe::default())),
            cleared: AtomicU64::new(0),
        }
    }

    /// Adds one.
    #[inline]
    pub(crate) fn increment(&self) {
        // Relaxed, here and below: the counter orders nothing else.
        let index = thread_index();
        let stripe = &self.stripes[index % STRIPES];
        // Under loom, several threads may have the same index.
        if index < STRIPES && !cfg!(backstop_loom) {
            let own = stripe.own.load(Ordering::Relaxed);
            stripe.own.store(own + 1, Ordering::Relaxed);
        } else {
            stripe.shared.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a number.
    pub(crate) fn add(&self, number: u64) {
        self.stripes[0].shared.fetch_add(number, Ordering::Relaxed);
    }

    /// Returns the number of increments since the last [`clear`](Self::clear): exact while no thread adds.
    pub(crate) fn sum(&self) -> u64 {
        let total = self.total();
        total.saturating_sub(self.cleared.load(Ordering::Relaxed))
    }

    /// Resets the counter to zero. Concurrent increments count either before or after the reset.
    pub(crate) fn clear(&self) {
        // Moves the baseline instead of storing to a stripe, because a concurrent increment could undo the store.
        self.cleared.fetch_max(self.total(), Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        let stripes = self.stripes.iter();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        stripes
            .map(|stripe| read(&stripe.own) + read(&stripe.shared))
            .sum()
    }
}

/// Returns the index of the calling thread, from zero in the order of their first calls.
#[cfg(not(backstop_loom))]
#[inline]
pub(crate) fn thread_index() -> usize {
    match INDEX.get() {
        usize::MAX => {
            let index = NEXT.fetch_add(1, Ordering::Relaxed);
            INDEX.set(index);
            index
        }
        index => index,
    }
}

#[cfg(not(backstop_loom))]
static NEXT: crate::sync::AtomicUsize = crate::sync::AtomicUsize::new(0);

#[cfg(not(backstop_loom))]
thread_local! {
    // Const and without a destructor: reading it is one load, also while the thread ends.
    static INDEX: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

// Loom runs its threads on one system thread, so tests set the index of each.
#[cfg(backstop_loom)]
loom::thread_local! {
    static INDEX: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

#[cfg(backstop_loom)]
pub(crate) fn thread_index() -> usize {
    INDEX.with(std::cell::Cell::get)
}

/// Sets the index of the calling thread.
#[cfg(test)]
pub(crate) fn set_thread_index(index: usize) {
    INDEX.with(|cell| cell.set(index));
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn increments_of_all_threads_are_counted_until_a_clear() {
        let counter = StripedCounter::new();
        thread::scope(|scope| {
            for index in 0..2 * STRIPES + 3 {
                let counter = &counter;
                scope.spawn(move || {
                    // Some threads own a stripe, and others share one.
                    set_thread_index(index);
                    (0..1000).for_each(|_| counter.increment());
                });
            }
        });
        assert_eq!(counter.sum(), (2 * STRIPES as u64 + 3) * 1000);
        counter.clear();
        assert_eq!(counter.sum(), 0);
        counter.increment();
        assert_eq!(counter.sum(), 1);
    }
}
