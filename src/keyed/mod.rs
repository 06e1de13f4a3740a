#![doc = include_str!("../../docs/patterns/keyed.md")]

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sync::lock;

mod config;
mod entries;
mod evictable;
mod inner;
mod overflow;
mod snapshot;
#[cfg(test)]
mod tests;

pub use self::config::KeyedBuilder;
pub use self::evictable::Evictable;
pub(crate) use self::evictable::{is_unshared, stateless};
pub use self::overflow::{NoRoom, Overflow};
pub use self::snapshot::Snapshot;

use self::entries::{Entry, find, sweep_all};
use self::inner::Inner;

/// Gives each key its own policy, created from a template. See the [module page](self).
///
/// Cheap to clone; clones share the entries. `P` is a handle: [`get`](Self::get) hands out clones.
pub struct Keyed<K, P> {
    inner: Arc<Inner<K, P>>,
}

impl<K, P> Keyed<K, P>
where
    K: Hash + Eq,
    P: Evictable + Clone,
{
    /// Returns the policy of `key`, and creates it if there is none.
    ///
    /// If the set is full and no entry is evictable, keys without a policy share one, which the template creates for
    /// the first of them. With more than 64 entries, an entry that has just become evictable may be found some keys
    /// later. [`Overflow::Reject`] applies to [`try_get`](Self::try_get) only.
    pub fn get<Q>(&self, key: &Q) -> P
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        match self.find_or_insert(key) {
            Some(policy) => policy,
            None => self.shared(key),
        }
    }

    /// Like [`get`](Self::get), but returns an error for a key that finds the set full, with [`Overflow::Reject`].
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if the set is full and no entry is evictable.
    pub fn try_get<Q>(&self, key: &Q) -> Result<P, NoRoom>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        match self.find_or_insert(key) {
            Some(policy) => Ok(policy),
            None if self.inner.overflow == Overflow::Reject => Err(NoRoom),
            None => Ok(self.shared(key)),
        }
    }

    /// Returns the policy of a key; `None` if the set is full, which is counted.
    fn find_or_insert<Q>(&self, key: &Q) -> Option<P>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let policy = self.try_find_or_insert(key);
        if policy.is_none() {
            // Relaxed: a statistic.
            self.inner.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        policy
    }

    fn try_find_or_insert<Q>(&self, key: &Q) -> Option<P>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let (hash, shard) = inner.shard(key);
        let mut after = 0;
        if let Some(entry) = find(shard, hash, key, &mut after) {
            return Some(entry.policy.clone());
        }
        if !inner.make_room(shard) {
            return None;
        }
        let key_of_entry = key.to_owned();
        let policy = (inner.template)(&key_of_entry)?;
        let entry = Arc::new(Entry {
            key: key_of_entry,
            policy,
        });
        loop {
            let is_new = {
                let mut shard = lock(shard);
                let is_new = shard.is_new(hash, after);
                if is_new && shard.len() < inner.max_per_shard {
                    shard.insert(hash, entry.clone());
                    break;
                }
                is_new
            };
            if is_new {
                // Another key has taken the room meanwhile.
                if !inner.make_room(shard) {
                    return None;
                }
            } else if let Some(entry) = find(shard, hash, key, &mut after) {
                // Another thread has added a key with this hash, and it is the same key.
                return Some(entry.policy.clone());
            }
        }
        Some(entry.policy.clone())
    }

    /// Returns the policy of keys that find the set full.
    fn shared<Q>(&self, key: &Q) -> P
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        let shared = &self.inner.shared;
        loop {
            if let Some(policy) = shared.get() {
                return policy.clone();
            }
            // Created outside the initialization, which holds a lock. If two threads race, one discards its policy.
            if let Some(policy) = (self.inner.template)(&key.to_owned()) {
                policy.share_among_keys();
                drop(shared.set(policy));
            }
        }
    }

    /// Returns the number of keys with a policy of their own.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Returns whether no key has a policy of its own.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes the entry of a key, so that its next call gets a new policy. Returns whether there was one.
    /// Handles of the old policy still work.
    pub fn forget<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let inner = &*self.inner;
        let (hash, shard) = inner.shard(key);
        let mut after = 0;
        let Some(entry) = find(shard, hash, key, &mut after) else {
            return false;
        };
        // Dropped after the lock is released.
        let removed = lock(shard).remove((hash, after - 1), &entry);
        removed.is_some()
    }

    /// Evicts all entries that are evictable.
    pub fn evict_idle(&self) {
        for shard in &self.inner.shards {
            sweep_all(shard);
        }
    }

    /// Calls `visit` with each key and its policy, outside all locks. Entries that are added or evicted meanwhile may
    /// or may not be visited.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &P)) {
        for shard in &self.inner.shards {
            let entries = lock(shard).hand_out_all();
            for entry in entries {
                visit(&entry.key, &entry.policy);
            }
        }
    }
}

impl<K, P> Keyed<K, P> {
    /// Returns the name of the set.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Returns a snapshot of the set.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        Snapshot {
            name: inner.name,
            keys: inner.len(),
            max_keys: inner.max_keys,
            overflowed: inner.overflowed.load(Ordering::Relaxed),
        }
    }
}

impl<K, P> Clone for Keyed<K, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<K, P> fmt::Debug for Keyed<K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyed").field(&self.snapshot()).finish()
    }
}
