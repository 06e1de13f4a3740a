//! State shared by the clones of a set.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use super::entries::{FEW, Shard, evict_nearest, sweep, sweep_all};
use super::evictable::Evictable;
use super::overflow::Overflow;
use crate::sync::lock;

/// Creates the policy of a key. Returns `None` for the shared one.
pub(super) type Template<K, P> = dyn Fn(&K) -> Option<P> + Send + Sync;

pub(super) struct Inner<K, P> {
    pub(super) name: &'static str,
    pub(super) template: Arc<Template<K, P>>,
    pub(super) shards: Box<[Mutex<Shard<K, P>>]>,
    hasher: RandomState,
    pub(super) max_keys: usize,
    pub(super) max_per_shard: usize,
    pub(super) overflow: Overflow,
    /// Number of calls whose key found the set full.
    pub(super) overflowed: AtomicU64,
    /// The policy of keys that found the set full.
    pub(super) shared: OnceLock<P>,
}

/// Number of entries that each new key checks.
const CHECKED: usize = 4;
const SHARDS: usize = 16;

impl<K, P> Inner<K, P> {
    pub(super) fn new(
        name: &'static str,
        template: Arc<Template<K, P>>,
        shared: Option<P>,
        max_keys: usize,
        overflow: Overflow,
    ) -> Self {
        let shards = if max_keys < 64 * SHARDS { 1 } else { SHARDS };
        Self {
            name,
            template,
            shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
            hasher: RandomState::new(),
            max_keys,
            max_per_shard: (max_keys / shards).max(1),
            overflow,
            overflowed: AtomicU64::new(0),
            shared: shared.map_or_else(OnceLock::new, OnceLock::from),
        }
    }

    /// Returns the hash of a key and the shard that it selects.
    pub(super) fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> (u64, &Mutex<Shard<K, P>>) {
        let hash = self.hasher.hash_one(key);
        (hash, &self.shards[hash as usize % self.shards.len()])
    }

    pub(super) fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).len()).sum()
    }
}

impl<K, P: Evictable> Inner<K, P> {
    /// Evicts a few entries, or all evictable ones if the set is full. Returns whether there is room then.
    pub(super) fn make_room(&self, shard: &Mutex<Shard<K, P>>) -> bool {
        sweep(shard, CHECKED);
        let is_due = {
            let shard = lock(shard);
            let len = shard.len();
            if len < self.max_per_shard {
                return true;
            }
            // A full sweep that found nothing is repeated only after as many entries were checked one by one.
            len <= FEW || shard.checked() >= len
        };
        if is_due {
            sweep_all(shard);
        }
        let has_room = || lock(shard).len() < self.max_per_shard;
        has_room() || (self.overflow == Overflow::Evict && evict_nearest(shard) && has_room())
    }
}
