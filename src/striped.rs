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
#[cfg(not(backstop_loom))]
#[inline]
pub(crate) fn home() -> usize {
    match HOME.get() {
        usize::MAX => {
            let home = NEXT.fetch_add(1, Ordering::Relaxed);
            HOME.set(home);
            home
        }
        home => home,
    }
}

#[cfg(not(backstop_loom))]
static NEXT: crate::sync::AtomicUsize = crate::sync::AtomicUsize::new(0);

#[cfg(not(backstop_loom))]
thread_local! {
    // With neither a destructor nor a start-up, reading it is one load, also while the thread ends.
    static HOME: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

// Loom's threads are one of the system's: here each says which it is.
#[cfg(backstop_loom)]
loom::thread_local! {
    static HOME: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

#[cfg(backstop_loom)]
pub(crate) fn home() -> usize {
    HOME.with(std::cell::Cell::get)
}

/// From here on the calling thread's number is `home`.
#[cfg(test)]
pub(crate) fn move_to(home: usize) {
    HOME.with(|cell| cell.set(home));
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
