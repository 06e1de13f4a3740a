//! The entries of one shard.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::evictable::{Evictable, is_unshared};
use crate::sync::lock;

/// Locked only briefly: entries are compared, cloned, checked, and dropped outside the lock.
pub(super) struct Shard<K, P> {
    /// Ordered by hash, so no key is compared under the lock.
    entries: BTreeMap<Id, CountedEntry<K, P>>,
    next_number: u64,
    /// The next entry to check.
    hand: Id,
    /// Number of entries checked since the last full sweep.
    checked: usize,
}

/// The hash of a key, and a number that differs between keys with the same hash.
pub(super) type Id = (u64, u64);

pub(super) struct CountedEntry<K, P> {
    entry: Arc<Entry<K, P>>,
    /// Number of times that the entry was handed out. If it has changed, the policy may have been used.
    uses: u64,
}

pub(super) struct Entry<K, P> {
    pub(super) key: K,
    pub(super) policy: P,
}

/// An entry that was not in use when it was checked.
struct Idle<K, P> {
    id: Id,
    entry: Arc<Entry<K, P>>,
    uses: u64,
}

/// In a shard of at most this size, a new key that finds no room checks all entries.
pub(super) const FEW: usize = 64;
/// Number of candidates for [`Overflow::Evict`](super::Overflow::Evict) in a larger shard.
const CANDIDATES: usize = 16;

/// Finds the entry of a key among those with its hash, starting at number `after`. Advances `after` past the entries
/// that have the hash but another key.
pub(super) fn find<K, P, Q>(
    shard: &Mutex<Shard<K, P>>,
    hash: u64,
    key: &Q,
    after: &mut u64,
) -> Option<Arc<Entry<K, P>>>
where
    K: Borrow<Q>,
    Q: Eq + ?Sized,
{
    loop {
        let entry = lock(shard).hand_out(hash, after)?;
        if entry.key.borrow() == key {
            return Some(entry);
        }
    }
}

/// Checks the next `count` entries, and evicts those that are evictable.
pub(super) fn sweep<K, P: Evictable>(shard: &Mutex<Shard<K, P>>, count: usize) {
    for _ in 0..count {
        let idle = lock(shard).next();
        match idle {
            Next::End => return,
            Next::InUse => {}
            Next::Idle(idle) => {
                if idle.entry.policy.is_evictable() {
                    // Dropped after the lock is released.
                    let evicted = lock(shard).evict(&idle);
                    drop(evicted);
                }
            }
        }
    }
}

/// Checks all entries once.
pub(super) fn sweep_all<K, P: Evictable>(shard: &Mutex<Shard<K, P>>) {
    let len = {
        let mut shard = lock(shard);
        shard.hand = (0, 0);
        shard.entries.len()
    };
    sweep(shard, len);
    lock(shard).checked = 0;
}

/// Evicts the entry that will be evictable first, among all if there are few, otherwise among the next ones.
pub(super) fn evict_nearest<K, P: Evictable>(shard: &Mutex<Shard<K, P>>) -> bool {
    let count = match lock(shard).entries.len() {
        len if len <= FEW => len,
        _ => CANDIDATES,
    };
    let mut nearest: Option<(Duration, Idle<K, P>)> = None;
    for _ in 0..count {
        // A statement of its own, so that the lock is released before the entry is checked.
        let next = lock(shard).next();
        if let Next::Idle(idle) = next {
            if let Some(wait) = idle.entry.policy.evictable_in() {
                if nearest.as_ref().is_none_or(|(least, _)| wait < *least) {
                    nearest = Some((wait, idle));
                }
            }
        }
    }
    let evicted = nearest.and_then(|(_, idle)| lock(shard).evict(&idle));
    evicted.is_some()
}

enum Next<K, P> {
    /// There are no entries.
    End,
    InUse,
    Idle(Idle<K, P>),
}

impl<K, P> CountedEntry<K, P> {
    fn hand_out(&mut self) -> Arc<Entry<K, P>> {
        self.uses += 1;
        self.entry.clone()
    }
}

impl<K, P> Shard<K, P> {
    pub(super) const fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            next_number: 0,
            hand: (0, 0),
            checked: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of entries checked since the last full sweep.
    pub(super) const fn checked(&self) -> usize {
        self.checked
    }

    pub(super) fn hand_out_all(&mut self) -> Vec<Arc<Entry<K, P>>> {
        self.entries
            .values_mut()
            .map(CountedEntry::hand_out)
            .collect()
    }

    /// Returns whether no entry has this hash and a number of at least `after`.
    pub(super) fn is_new(&self, hash: u64, after: u64) -> bool {
        let range = (hash, after)..=(hash, u64::MAX);
        self.entries.range(range).next().is_none()
    }

    /// Hands out the first entry with this hash and a number of at least `after`.
    fn hand_out(&mut self, hash: u64, after: &mut u64) -> Option<Arc<Entry<K, P>>> {
        let range = (hash, *after)..=(hash, u64::MAX);
        let (id, counted) = self.entries.range_mut(range).next()?;
        *after = id.1 + 1;
        Some(counted.hand_out())
    }

    pub(super) fn insert(&mut self, hash: u64, entry: Arc<Entry<K, P>>) {
        let id = (hash, self.next_number);
        self.next_number += 1;
        self.entries.insert(id, CountedEntry { entry, uses: 0 });
    }

    /// Returns the next entry to check.
    fn next(&mut self) -> Next<K, P> {
        self.checked = self.checked.saturating_add(1);
        let mut from_hand = self.entries.range(self.hand..);
        let Some((&id, counted)) = from_hand.next().or_else(|| self.entries.iter().next()) else {
            return Next::End;
        };
        self.hand = (id.0, id.1 + 1);
        if !is_unshared(&counted.entry) {
            return Next::InUse;
        }
        Next::Idle(Idle {
            id,
            entry: counted.entry.clone(),
            uses: counted.uses,
        })
    }

    /// Removes an entry, whether it is in use or not.
    pub(super) fn remove(
        &mut self,
        id: Id,
        entry: &Arc<Entry<K, P>>,
    ) -> Option<CountedEntry<K, P>> {
        let is_same = |counted: &&CountedEntry<K, P>| Arc::ptr_eq(&counted.entry, entry);
        self.entries.get(&id).filter(is_same)?;
        self.entries.remove(&id)
    }

    /// Removes an entry, unless it was handed out since it was checked.
    fn evict(&mut self, idle: &Idle<K, P>) -> Option<CountedEntry<K, P>> {
        let is_unused = |counted: &&CountedEntry<K, P>| {
            Arc::ptr_eq(&counted.entry, &idle.entry) && counted.uses == idle.uses
        };
        self.entries.get(&idle.id).filter(is_unused)?;
        self.entries.remove(&idle.id)
    }
}
