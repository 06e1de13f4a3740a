//! The atomics and locks of the crate: std's, or loom's when its model checker runs the tests.

#[cfg(not(backstop_loom))]
pub(crate) use std::{
    hint::spin_loop as spin,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, MutexGuard},
};

#[cfg(backstop_loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, MutexGuard},
    thread::yield_now as spin,
};

/// Locks even when a thread panicked while it held the lock: what is behind the locks of this
/// crate is valid between any two statements.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As [`lock`], for locks that loom checks.
pub(crate) fn lock_checked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
