//! The lock of one part of the keys.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::table::Table;
use crate::sync::lock;

/// On a cache line of its own, together with its first two keys if they are integers.
#[repr(align(64))]
pub(super) struct Shard<K>(Mutex<Table<K>>);

/// The locked table of a shard.
///
/// `Eq` of the keys runs while it exists (and `Clone`, in `entries`). User code that uses the limiter
/// from there must not block: the thread may hold this very lock. So while a thread holds a guard, it
/// only tries to lock other shards.
pub(super) struct Guard<'a, K>(MutexGuard<'a, Table<K>>);

thread_local! {
    /// Number of guards that the thread holds, of all limiters.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
}

/// Attempts to get a lock from within user code under another one. Locks are held for nanoseconds.
const ATTEMPTS: usize = 100;

impl<K> Shard<K> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Table::new()))
    }

    /// Locks the table. `None` only when called from within a comparison of keys, if the table is locked
    /// by this thread.
    #[inline]
    pub(super) fn lock(&self) -> Option<Guard<'_, K>> {
        let table = match self.0.try_lock() {
            Ok(table) => table,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
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

/// Whether the caller is user code that runs under the lock of a shard.
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
