//! Atomics and locks of std, or of loom under its model checker.

#[cfg(not(backstop_loom))]
pub(crate) use std::{
    hint::spin_loop as spin,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Mutex, MutexGuard},
};

#[cfg(backstop_loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Mutex, MutexGuard},
    thread::yield_now as spin,
};

/// Locks a mutex and ignores poisoning: the data behind the locks of this crate is valid between any two
/// statements.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Locks a mutex that is loom's under the model checker, and ignores poisoning as [`lock`] does.
pub(crate) fn lock_checked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Marks the branch that calls it as an unlikely one, as `std::hint::cold_path` will: the code of the likely
/// branch then runs without a jump.
#[cold]
pub(crate) const fn cold_path() {}
