//! A list of which one element is current. Reading the current element takes no lock.

use std::sync::OnceLock;

use crate::sync::{AtomicUsize, Mutex, Ordering, lock_checked};

/// All versions of a value, one of which is current.
///
/// Calls borrow the version that they start with, so versions stay until the list is dropped. Counting the borrows
/// would cost each call two writes to shared memory.
pub(crate) struct Versions<T> {
    current: AtomicUsize,
    first: T,
    /// Allocated with the second version.
    later: OnceLock<Box<Later<T>>>,
    /// The number of versions. Locked by changes.
    len: Mutex<usize>,
}

/// The versions after the first one: one, then two, four, and so on.
type Later<T> = [OnceLock<Chunk<T>>; usize::BITS as usize];
type Chunk<T> = Box<[OnceLock<Box<T>>]>;

/// The version to make current.
pub(crate) enum Next<T> {
    /// An earlier version, by index.
    Again(usize),
    New(Box<T>),
}

impl<T> Versions<T> {
    pub(crate) fn new(first: T) -> Self {
        Self {
            current: AtomicUsize::new(0),
            first,
            later: OnceLock::new(),
            len: Mutex::new(1),
        }
    }

    /// Returns the current version.
    #[inline(always)]
    pub(crate) fn current(&self) -> &T {
        self.get(self.index())
    }

    /// Returns the index of the current version.
    #[inline(always)]
    pub(crate) fn index(&self) -> usize {
        // Acquire: pairs with the store in `replace`, so a thread that reads the index finds the version.
        self.current.load(Ordering::Acquire)
    }

    /// Returns the version of an index that was read from this list.
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> &T {
        match index {
            0 => &self.first,
            later => self.later(later),
        }
    }

    fn later(&self, index: usize) -> &T {
        let (chunk, offset) = position(index);
        let slot = self
            .later
            .get()
            .and_then(|chunks| chunks[chunk].get()?[offset].get());
        slot.expect("an index is published after its version")
    }

    /// Returns the index of the first version that `is_wanted` picks.
    pub(crate) fn find(&self, is_wanted: impl Fn(&T) -> bool) -> Option<usize> {
        // The lock is released before `is_wanted` runs, which may be user code.
        let len = *lock_checked(&self.len);
        (0..len).find(|index| is_wanted(self.get(*index)))
    }

    /// Makes `next` the current version if the current one is still at `base`. Otherwise returns `next`, so that it
    /// is dropped without the lock.
    pub(crate) fn replace(&self, base: usize, next: Next<T>) -> Result<(), Next<T>> {
        let mut len = lock_checked(&self.len);
        if self.index() != base {
            return Err(next);
        }
        let index = match next {
            Next::Again(index) => index,
            Next::New(version) => {
                let (chunk, offset) = position(*len);
                let later = self
                    .later
                    .get_or_init(|| Box::new([const { OnceLock::new() }; usize::BITS as usize]));
                let slots =
                    later[chunk].get_or_init(|| (0..1 << chunk).map(|_| OnceLock::new()).collect());
                if let Err(version) = slots[offset].set(version) {
                    return Err(Next::New(version));
                }
                *len += 1;
                *len - 1
            }
        };
        // Release: see `index`.
        self.current.store(index, Ordering::Release);
        Ok(())
    }
}

/// Returns the chunk of an index above zero, and the position in it.
const fn position(index: usize) -> (usize, usize) {
    let chunk = index.ilog2() as usize;
    (chunk, index - (1 << chunk))
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    #[test]
    fn versions_stay_where_they_are() {
        let versions = Versions::new(0);
        let first: *const i32 = versions.current();
        for n in 1..100 {
            let base = versions.index();
            assert!(versions.replace(base, Next::New(Box::new(n))).is_ok());
            assert_eq!(*versions.current(), n);
        }
        assert_eq!(
            (0..100).map(|n| *versions.get(n)).collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
        assert!(std::ptr::eq(first, versions.get(0)));
        assert_eq!(versions.find(|n| *n == 70), Some(70));
        assert_eq!(versions.find(|n| *n == 100), None);
    }

    #[test]
    fn a_change_of_an_older_version_is_returned() {
        let versions = Versions::new("a");
        assert!(versions.replace(0, Next::New(Box::new("b"))).is_ok());
        assert!(
            matches!(versions.replace(0, Next::New(Box::new("c"))), Err(Next::New(c)) if *c == "c")
        );
        assert!(versions.replace(1, Next::Again(0)).is_ok());
        assert_eq!(*versions.current(), "a");
    }
}

#[cfg(all(test, backstop_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::thread;

    use super::*;

    #[test]
    fn loom_a_thread_that_reads_a_version_sees_what_it_was_made_of() {
        loom::model(|| {
            let versions = Arc::new(Versions::new(AtomicU64::new(0)));
            let other = versions.clone();
            let change = thread::spawn(move || {
                let next = AtomicU64::new(0);
                // Relaxed, like the state of a layer that is set up before it is published.
                next.store(1, Ordering::Relaxed);
                assert!(other.replace(0, Next::New(Box::new(next))).is_ok());
            });
            let index = versions.index();
            assert_eq!(versions.get(index).load(Ordering::Relaxed), index as u64);
            change.join().unwrap();
        });
    }

    #[test]
    fn loom_of_two_changes_of_one_version_the_second_starts_over() {
        loom::model(|| {
            let versions = Arc::new(Versions::new(0));
            let change = |versions: &Versions<u32>| {
                let mut tries = 0;
                loop {
                    let base = versions.index();
                    tries += 1;
                    let next = Next::New(Box::new(versions.get(base) + 1));
                    if versions.replace(base, next).is_ok() {
                        return tries;
                    }
                }
            };
            let other = versions.clone();
            let thread = thread::spawn(move || change(&other));
            let tries = change(&versions) + thread.join().unwrap();
            assert!((2..=3).contains(&tries));
            assert_eq!(*versions.current(), 2, "no change is lost");
        });
    }
}
