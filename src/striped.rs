//! A counter without contention, and the thread indices that spread threads over stripes.

use crate::sync::{AtomicU64, Ordering};

/// A counter with many writers and few readers. Threads add to different stripes.
#[derive(Debug)]
pub(crate) struct StripedCounter {
    stripes: Box<[Stripe; STRIPES]>,
}

/// Aligned to two cache lines, because processors prefetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe(AtomicU64);

const STRIPES: usize = 8;

impl StripedCounter {
    /// Returns a counter at zero.
    pub(crate) fn new() -> Self {
        Self {
            stripes: Box::new(std::array::from_fn(|_| Stripe(AtomicU64::new(0)))),
        }
    }

    /// Adds one.
    #[inline]
    pub(crate) fn increment(&self) {
        // Relaxed, here and below: the counter orders nothing else.
        let stripe = &self.stripes[thread_index() % STRIPES];
        stripe.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the sum of the stripes: exact while no thread adds.
    pub(crate) fn sum(&self) -> u64 {
        let stripes = self.stripes.iter();
        stripes.map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }

    /// Resets the counter to zero. Concurrent increments may be lost.
    pub(crate) fn clear(&self) {
        for stripe in self.stripes.iter() {
            stripe.0.store(0, Ordering::Relaxed);
        }
    }
}

/// Returns the index of the calling thread, from zero in the order in which threads first ask.
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
            for _ in 0..STRIPES + 3 {
                scope.spawn(|| (0..1000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.sum(), (STRIPES as u64 + 3) * 1000);
        counter.clear();
        assert_eq!(counter.sum(), 0);
    }
}
