//! The keys in their shards: how many there are, and room for new ones.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::state::Gcra;
use super::shard::{Guard, Shard};
use crate::instant::Instant;
use crate::keyed::Overflow;

/// At most so many shards: threads seldom meet, and their lines stay in a core's own cache.
const MOST_SHARDS: usize = 1024;
/// A shard is searched so often before the next one is: its next keys are in the cache.
const STAY: usize = 16;
/// Number of keys looked at when the hand moves.
const SWEEP: usize = 8;
/// With [`Overflow::Evict`], all keys of a limiter this small are candidates.
const FEW: usize = 64;
/// Otherwise that many are.
const CANDIDATES: usize = 16;

/// A counted place for a key that is not in the table yet. Given back if anything panics.
pub(super) struct ReservedKey<'a>(&'a AtomicUsize);

impl Drop for ReservedKey<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All keys. At most `max_keys`, in any number of threads.
pub(super) struct Shards<K> {
    pub(super) shards: Box<[Shard<K>]>,
    /// A hash shifted by this is the number of its shard.
    shift: u32,
    /// The rules of the default quota that the limiter was built with. Tables have those of later ones.
    pub(super) default: Gcra,
    count: AtomicUsize,
    pub(super) max_keys: usize,
    overflow: Overflow,
    /// The shard that is searched next when there is no room.
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

    /// Returns how many calls wait.
    pub(super) fn waiting(&self) -> usize {
        let tables = self.shards.iter().filter_map(Shard::lock);
        tables.map(|table| table.waiting()).sum()
    }

    /// Locks the table of a hash. See [`Shard::lock`] for `None`.
    #[inline]
    pub(super) fn shard(&self, hash: u64) -> Option<Guard<'_, K>> {
        self.shards[(hash >> self.shift) as usize].lock()
    }

    /// Adjusts the number of keys.
    pub(super) fn forgotten(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }

    /// Removes up to a few idle keys of a table. Returns how many it has looked at.
    #[cold]
    fn sweep(&self, mut table: Guard<'_, K>, now: Instant) -> usize {
        let removed = table.sweep(now, SWEEP, &self.default);
        drop(table);
        self.forgotten(removed.count);
        removed.seen
    }

    #[cold]
    pub(super) fn sweep_shard(&self, hash: u64, now: Instant) {
        if let Some(table) = self.shard(hash) {
            self.sweep(table, now);
        }
    }

    /// Counts one more key if there is room or some can be made.
    pub(super) fn make_room(&self, hash: u64, now: Instant) -> Option<ReservedKey<'_>> {
        let count = || {
            // Relaxed: only the number counts, and it never exceeds the bound.
            self.count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |keys| {
                    (keys < self.max_keys).then_some(keys + 1)
                })
                .is_ok()
        };
        // A new key pays for its place by looking for some that are no longer needed.
        let mut table = self.shard(hash)?;
        let removed = table.sweep_near(hash as u32, now, SWEEP / 2, &self.default);
        drop(table);
        self.forgotten(removed.count);
        // Before anything is counted: a panic in the drop of a local leaks what is returned.
        drop(removed);
        if count() {
            return Some(ReservedKey(&self.count));
        }
        // One shard more, or several if there are few keys in a shard.
        let mut seen = 0;
        for _ in 0..SWEEP {
            // Relaxed: any shard will do.
            let victim = self.victim.load(Ordering::Relaxed) / STAY % self.shards.len();
            let looked_at = self.sweep(self.shards[victim].lock()?, now);
            let step = if looked_at < SWEEP { STAY } else { 1 };
            self.victim.fetch_add(step, Ordering::Relaxed);
            seen += looked_at;
            if count() {
                return Some(ReservedKey(&self.count));
            }
            if seen >= SWEEP {
                break;
            }
        }
        let has_evicted = self.overflow == Overflow::Evict && self.evict(now);
        (has_evicted && count()).then(|| ReservedKey(&self.count))
    }

    /// Removes the key that will be like a new one first: of all keys if there are few, otherwise of a
    /// sample.
    #[cold]
    fn evict(&self, now: Instant) -> bool {
        let most = match self.max_keys <= FEW {
            true => usize::MAX,
            false => CANDIDATES,
        };
        let first = self.victim.fetch_add(STAY, Ordering::Relaxed) / STAY;
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
        self.forgotten(removed.count);
        removed.count > 0
    }
}
