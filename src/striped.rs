//! A counter that threads do not slow each other down with.

use crate::sync::{AtomicU64, Ordering};

/// A counter of many writers and few readers: each thread adds to a part of its own, or to one that
/// few others share.
#[derive(Debug)]
pub(crate) struct Striped {
    parts: Box<[Part; PARTS]>,
}

/// By itself in its cache line, and in the pair of lines that processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
struct Part(AtomicU64);

const PARTS: usize = 8;

impl Striped {
    pub(crate) fn new() -> Self {
        Self {
            parts: Box::new(std::array::from_fn(|_| Part(AtomicU64::new(0)))),
        }
    }

    /// Adds one.
    #[inline]
    pub(crate) fn increment(&self) {
        // Relaxed, here and below: the numbers publish nothing else.
        self.parts[home() % PARTS].0.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum of the parts. Exact when nobody adds.
    pub(crate) fn sum(&self) -> u64 {
        let parts = self.parts.iter();
        parts.map(|part| part.0.load(Ordering::Relaxed)).sum()
    }

    /// Back to zero. What is added meanwhile may be lost or not.
    pub(crate) fn clear(&self) {
        for part in self.parts.iter() {
            part.0.store(0, Ordering::Relaxed);
        }
    }
}

/// A number of the thread, which decides the part it uses. Threads have different ones.
#[inline]
pub(crate) fn home() -> usize {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        // With neither a destructor nor a start-up, reading it is one load, also while the thread
        // ends.
        static HOME: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    match HOME.get() {
        usize::MAX => {
            let home = NEXT.fetch_add(1, Ordering::Relaxed);
            HOME.set(home);
            home
        }
        home => home,
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn nothing_is_lost() {
        let counter = Striped::new();
        thread::scope(|scope| {
            for _ in 0..PARTS + 3 {
                scope.spawn(|| (0..1000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.sum(), (PARTS as u64 + 3) * 1000);
        counter.clear();
        assert_eq!(counter.sum(), 0);
    }
}
