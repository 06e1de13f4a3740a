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
pub(super) struct Guard<'a, K> {
    table: MutexGuard<'a, Table<K>>,
    was_locked: bool,
}

thread_local! {
    /// Whether the thread holds a guard of any limiter.
    static IS_LOCKED: Cell<bool> = const { Cell::new(false) };
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
        Some(Guard {
            table,
            was_locked: IS_LOCKED.replace(true),
        })
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
    IS_LOCKED.get()
}

impl<K> Deref for Guard<'_, K> {
    type Target = Table<K>;

    #[inline]
    fn deref(&self) -> &Table<K> {
        &self.table
    }
}

impl<K> DerefMut for Guard<'_, K> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Table<K> {
        &mut self.table
    }
}

impl<K> Drop for Guard<'_, K> {
    #[inline]
    fn drop(&mut self) {
        IS_LOCKED.set(self.was_locked);
    }
}
