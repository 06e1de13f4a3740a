//! The lock of one shard.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::table::Table;
use crate::sync::{cold_path, lock};

/// With integer keys, the lock and the first two keys share one cache line.
#[repr(align(64))]
pub(super) struct Shard<K>(Mutex<Table<K>>);

/// The locked table of a shard.
///
/// `Eq` of keys (and `Clone`, in `for_each`) runs while it exists. If that calls the limiter, it must not block,
/// because the thread may hold the lock it waits for. So a thread that holds a guard only tries to lock other shards.
pub(super) struct Guard<'a, K>(MutexGuard<'a, Table<K>>);

thread_local! {
    /// Number of guards that the thread holds, of all limiters.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
}

/// Attempts to lock another shard while a guard is held. Locks are held for nanoseconds only.
const ATTEMPTS: usize = 100;

impl<K> Shard<K> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Table::new()))
    }

    /// Locks the table. `None` only within a comparison of keys, if this thread holds the lock.
    #[inline]
    pub(super) fn lock(&self) -> Option<Guard<'_, K>> {
        let table = match self.0.try_lock() {
            Ok(table) => table,
            Err(TryLockError::Poisoned(poisoned)) => {
                cold_path();
                poisoned.into_inner()
            }
            Err(TryLockError::WouldBlock) => self.lock_contended()?,
        };
        GUARDS.set(GUARDS.get() + 1);
        Some(Guard(table))
    }

    #[cold]
    fn lock_contended(&self) -> Option<MutexGuard<'_, Table<K>>> {
        if !is_nested() {
            return Some(lock(&self.0));
        }
        (0..ATTEMPTS).find_map(|_| {
            std::thread::yield_now();
            match self.0.try_lock() {
                Ok(table) => Some(table),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        })
    }
}

/// Returns whether user code is running under the lock of a shard in this thread.
pub(super) fn is_nested() -> bool {
    GUARDS.get() > 0
}

impl<K> Deref for Guard<'_, K> {
    type Target = Table<K>;

    #[inline]
    fn deref(&self) -> &Table<K> {
        &self.0
    }
}

impl<K> DerefMut for Guard<'_, K> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Table<K> {
        &mut self.0
    }
}

impl<K> Drop for Guard<'_, K> {
    #[inline]
    fn drop(&mut self) {
        GUARDS.set(GUARDS.get() - 1);
    }
}
