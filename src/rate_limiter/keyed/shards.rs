//! The shards of a keyed limiter: the number of keys, and room for new ones.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::state::Gcra;
use super::shard::{Guard, Shard};
use crate::instant::Instant;
use crate::keyed::Overflow;

/// The largest number of shards. With many shards, threads rarely contend, and the cache lines of a shard stay on one
/// core.
const MOST_SHARDS: usize = 1024;
/// Number of searches in one shard before the next one. Neighboring keys are likely in the CPU cache.
const SEARCHES_PER_SHARD: usize = 16;
/// Number of keys that a sweep checks.
const SWEEP: usize = 8;
/// In a limiter with at most this many keys, a search for room checks all of them.
const FEW: usize = 64;
/// Number of candidates in a larger limiter.
const CANDIDATES: usize = 16;

/// A key that is counted but not in the table yet. A panic undoes the count.
pub(super) struct ReservedKey<'a>(&'a AtomicUsize);

impl Drop for ReservedKey<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All keys, never more than `max_keys`.
pub(super) struct Shards<K> {
    pub(super) shards: Box<[Shard<K>]>,
    /// The hash shifted by this selects the shard.
    shift: u32,
    /// The rules of the default quota that the limiter was built with. After a change, each table has the
    /// new ones.
    pub(super) default: Gcra,
    count: AtomicUsize,
    pub(super) max_keys: usize,
    overflow: Overflow,
    /// The shard to search next when the table is full.
    victim: AtomicUsize,
}

impl<K> Shards<K> {
    pub(super) fn new(default: Gcra, max_keys: usize, overflow: Overflow) -> Self {
        let shards = (max_keys / 2).clamp(16, MOST_SHARDS).next_power_of_two();
        Self {
            shards: (0..shards).map(|_| Shard::new()).collect(),
            shift: 64 - shards.ilog2(),
            default,
            count: AtomicUsize::new(0),
            max_keys,
            overflow,
            victim: AtomicUsize::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns whether a key without room evicts another one.
    #[cfg(all(feature = "tower", feature = "http"))]
    pub(super) const fn evicts(&self) -> bool {
        matches!(self.overflow, Overflow::Evict)
    }

    /// Returns the number of waiters.
    pub(super) fn waiting(&self) -> usize {
        let tables = self.shards.iter().filter_map(Shard::lock);
        tables.map(|table| table.waiting()).sum()
    }

    /// Locks the table of a hash. See [`Shard::lock`] for `None`.
    #[inline]
    pub(super) fn shard(&self, hash: u64) -> Option<Guard<'_, K>> {
        self.shards[(hash >> self.shift) as usize].lock()
    }

    /// Subtracts removed keys from the count.
    pub(super) fn count_removed(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }

    /// Checks up to `count` keys of a table, and removes the idle ones. Returns the number of keys it checked.
    #[cold]
    fn sweep(&self, mut table: Guard<'_, K>, now: Instant, count: usize) -> usize {
        let removed = table.sweep(now, count, &self.default);
        drop(table);
        self.count_removed(removed.count);
        removed.seen
    }

    #[cold]
    pub(super) fn sweep_shard(&self, hash: u64, now: Instant) {
        if let Some(table) = self.shard(hash) {
            self.sweep(table, now, SWEEP);
        }
    }

    /// Counts one more key, if there is room or an idle key can be removed.
    pub(super) fn make_room(&self, hash: u64, now: Instant) -> Option<ReservedKey<'_>> {
        let reserve = || {
            // Relaxed: only the number matters, and it never exceeds the bound.
            let count = self
                .count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |keys| {
                    (keys < self.max_keys).then_some(keys + 1)
                });
            count.is_ok().then(|| ReservedKey(&self.count))
        };
        // A new key pays for its room by checking whether a few other keys are idle.
        let mut table = self.shard(hash)?;
        let removed = table.sweep_near(hash as u32, now, SWEEP / 2, &self.default);
        drop(table);
        self.count_removed(removed.count);
        // Dropped before the key is counted: if dropping a local panics, the return value is leaked.
        drop(removed);
        if let Some(reserved) = reserve() {
            return Some(reserved);
        }
        // Sweeps another shard, or several if they have few keys.
        let mut seen = 0;
        for _ in 0..SWEEP {
            // Relaxed: any shard will do.
            let victim =
                self.victim.load(Ordering::Relaxed) / SEARCHES_PER_SHARD % self.shards.len();
            let looked_at = self.sweep(self.shards[victim].lock()?, now, SWEEP);
            let step = if looked_at < SWEEP {
                SEARCHES_PER_SHARD
            } else {
                1
            };
            self.victim.fetch_add(step, Ordering::Relaxed);
            seen += looked_at;
            if let Some(reserved) = reserve() {
                return Some(reserved);
            }
            if seen >= SWEEP {
                break;
            }
        }
        let may_have_room = match self.overflow {
            Overflow::Evict => self.evict(now),
            _ if self.max_keys <= FEW => {
                self.sweep_all(now);
                true
            }
            _ => false,
        };
        may_have_room.then(reserve).flatten()
    }

    /// Removes all idle keys, except those of shards that this thread must not wait for.
    #[cold]
    pub(super) fn sweep_all(&self, now: Instant) {
        for table in self.shards.iter().filter_map(Shard::lock) {
            self.sweep(table, now, usize::MAX);
        }
    }

    /// Removes the key that will be indistinguishable from a new one first, among all keys if there are few,
    /// otherwise in a sample.
    #[cold]
    fn evict(&self, now: Instant) -> bool {
        let most = match self.max_keys <= FEW {
            true => usize::MAX,
            false => CANDIDATES,
        };
        let first =
            self.victim.fetch_add(SEARCHES_PER_SHARD, Ordering::Relaxed) / SEARCHES_PER_SHARD;
        let (mut nearest, mut seen) = (None, 0);
        for step in 0..self.shards.len() {
            let shard = &self.shards[(first + step) % self.shards.len()];
            let Some(table) = shard.lock() else {
                continue;
            };
            let (found, looked_at) = table.nearest(now, most, &self.default);
            if let Some((at, _)) = found {
                if nearest.is_none_or(|(nearest, _)| at < nearest) {
                    nearest = Some((at, shard));
                }
            }
            seen += looked_at;
            if seen >= most {
                break;
            }
        }
        let Some(mut table) = nearest.and_then(|(_, shard)| shard.lock()) else {
            return false;
        };
        let removed = table.evict(now, most, &self.default);
        drop(table);
        self.count_removed(removed.count);
        removed.count > 0
    }
}
