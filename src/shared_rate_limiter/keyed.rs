//! One shared limit for each key.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::SharedRateLimiter;
use super::entry::Entry;
use super::hub::Hub;
use super::snapshot::KeyedSnapshot;
use crate::error::Rejected;
use crate::keyed::Keyed;

/// One limit for each key, for all processes of a fleet. See the [module page](super).
///
/// Keys are added when first seen and evicted when the process no longer needs them: the store has the state. When
/// the table is full and no key can be evicted, further keys work without a lease, with one request to the store per
/// decision.
///
/// Cheap to clone; clones share all limits.
pub struct SharedKeyedRateLimiter<K> {
    pub(super) hub: Arc<Hub>,
    pub(super) keys: Keyed<K, SharedRateLimiter>,
    pub(super) make: Arc<Make<K>>,
}

/// Creates the limit of a key.
pub(super) type Make<K> = dyn Fn(&K) -> Arc<Entry> + Send + Sync;

impl<K: Hash + Eq> SharedKeyedRateLimiter<K> {
    /// Returns the limit of a key: a policy with the methods of a [`SharedRateLimiter`].
    pub fn get<Q>(&self, key: &Q) -> SharedRateLimiter
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.keys
            .try_get(key)
            .unwrap_or_else(|_| SharedRateLimiter {
                entry: (self.make)(&key.to_owned()),
            })
    }

    /// Takes one of the key's tokens, or rejects, as [`SharedRateLimiter::try_acquire`] does.
    ///
    /// # Errors
    ///
    /// As for [`SharedRateLimiter::try_acquire_n`].
    pub async fn try_acquire<Q>(&self, key: &Q) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_n(key, 1).await
    }

    /// Takes `cost` of the key's tokens, or rejects, as [`SharedRateLimiter::try_acquire_n`] does.
    ///
    /// # Errors
    ///
    /// As for [`SharedRateLimiter::try_acquire_n`].
    pub async fn try_acquire_n<Q>(&self, key: &Q, cost: u64) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let limit = self.get(key);
        limit.try_acquire_n(cost).await
    }

    /// Takes one of the key's tokens that the process holds, without a request to the store, as
    /// [`SharedRateLimiter::try_acquire_held`] does.
    ///
    /// # Errors
    ///
    /// As for [`SharedRateLimiter::try_acquire_n`].
    pub fn try_acquire_held<Q>(&self, key: &Q) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.get(key).try_acquire_held()
    }

    /// Waits for one of the key's tokens, as [`SharedRateLimiter::acquire`] does.
    ///
    /// # Errors
    ///
    /// As for [`SharedRateLimiter::acquire_n`].
    pub async fn acquire<Q>(&self, key: &Q) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.acquire_n(key, 1).await
    }

    /// Waits for `cost` of the key's tokens, as [`SharedRateLimiter::acquire_n`] does.
    ///
    /// # Errors
    ///
    /// As for [`SharedRateLimiter::acquire_n`].
    pub async fn acquire_n<Q>(&self, key: &Q, cost: u64) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let limit = self.get(key);
        limit.acquire_n(cost).await
    }

    /// Calls `visit` with each key and its limit, outside all locks.
    pub fn for_each(&self, visit: impl FnMut(&K, &SharedRateLimiter)) {
        self.keys.for_each(visit);
    }

    /// Does the work of [`SharedRateLimiter::maintain`] for all keys once a second, and evicts keys that the process
    /// no longer needs.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn maintain(&self) {
        let base = &self.hub.base;
        loop {
            let now = base.now();
            self.keys.for_each(|_, limit| limit.entry.refresh(now, 0));
            self.keys.evict_idle();
            base.clock.sleep_until(now + Duration::from_secs(1)).await;
        }
    }

    /// Returns the state as this process knows it. Changes nothing.
    pub fn snapshot(&self) -> KeyedSnapshot {
        KeyedSnapshot::new(&self.hub, self.hub.base.now(), self.keys.len())
    }
}

impl<K> SharedKeyedRateLimiter<K> {
    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.hub.base.name
    }
}

impl<K> Clone for SharedKeyedRateLimiter<K> {
    fn clone(&self) -> Self {
        Self {
            hub: self.hub.clone(),
            keys: self.keys.clone(),
            make: self.make.clone(),
        }
    }
}

impl<K> fmt::Debug for SharedKeyedRateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeyedRateLimiter")
            .field("name", &self.hub.base.name)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
