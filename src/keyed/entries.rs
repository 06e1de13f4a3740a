//! The entries of one part of a set.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::evictable::{Evictable, is_unshared};
use crate::sync::lock;

/// Locked for moments only: entries are compared, cloned, judged and dropped outside.
pub(super) struct Shard<K, P> {
    /// By hash, so that no key is compared here.
    entries: BTreeMap<Place, Slot<K, P>>,
    next_number: u64,
    /// The next entry to judge.
    hand: Place,
    /// Number of entries judged since all were.
    judged: usize,
}

/// A hash and a number that tells keys with the same hash apart.
type Place = (u64, u64);

struct Slot<K, P> {
    entry: Arc<Entry<K, P>>,
    /// How often the entry was handed out. Its policy may have been used since the number changed.
    uses: u64,
}

pub(super) struct Entry<K, P> {
    pub(super) key: K,
    pub(super) policy: P,
}

/// An entry that was idle when it was looked at.
struct Idle<K, P> {
    place: Place,
    entry: Arc<Entry<K, P>>,
    uses: u64,
}

/// With so few entries, all of them are judged for each key without room.
pub(super) const FEW: usize = 64;
/// Number of entries that a new key chooses from with [`Overflow::Evict`], if there are more.
const CANDIDATES: usize = 16;

/// Finds a key among the entries with its hash and a number of `after` or more. Increases `after`
/// beyond all entries that have another key.
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

/// Judges the next `count` entries and evicts those that can be.
pub(super) fn sweep<K, P: Evictable>(shard: &Mutex<Shard<K, P>>, count: usize) {
    for _ in 0..count {
        let idle = lock(shard).next();
        match idle {
            Next::End => return,
            Next::InUse => {}
            Next::Idle(idle) => {
                if idle.entry.policy.is_evictable() {
                    // Dropped after the lock.
                    let evicted = lock(shard).evict(&idle);
                    drop(evicted);
                }
            }
        }
    }
}

/// Judges all entries once.
pub(super) fn sweep_all<K, P: Evictable>(shard: &Mutex<Shard<K, P>>) {
    let len = {
        let mut shard = lock(shard);
        shard.hand = (0, 0);
        shard.entries.len()
    };
    sweep(shard, len);
    lock(shard).judged = 0;
}

/// Evicts the entry that will be evictable first, of all if there are few, otherwise of the next ones.
pub(super) fn evict_nearest<K, P: Evictable>(shard: &Mutex<Shard<K, P>>) -> bool {
    let count = match lock(shard).entries.len() {
        len if len <= FEW => len,
        _ => CANDIDATES,
    };
    let mut nearest: Option<(Duration, Idle<K, P>)> = None;
    for _ in 0..count {
        // A statement of its own, so that the lock is released before the entry is judged.
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

impl<K, P> Slot<K, P> {
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
            judged: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns how many entries were judged since all were.
    pub(super) const fn judged(&self) -> usize {
        self.judged
    }

    pub(super) fn hand_out_all(&mut self) -> Vec<Arc<Entry<K, P>>> {
        self.entries.values_mut().map(Slot::hand_out).collect()
    }

    /// Whether there is no entry with this hash and a number of `after` or more.
    pub(super) fn is_new(&self, hash: u64, after: u64) -> bool {
        let range = (hash, after)..=(hash, u64::MAX);
        self.entries.range(range).next().is_none()
    }

    /// Hands out the first entry with this hash and a number of `after` or more.
    fn hand_out(&mut self, hash: u64, after: &mut u64) -> Option<Arc<Entry<K, P>>> {
        let range = (hash, *after)..=(hash, u64::MAX);
        let (place, slot) = self.entries.range_mut(range).next()?;
        *after = place.1 + 1;
        Some(slot.hand_out())
    }

    pub(super) fn insert(&mut self, hash: u64, entry: Arc<Entry<K, P>>) {
        let place = (hash, self.next_number);
        self.next_number += 1;
        self.entries.insert(place, Slot { entry, uses: 0 });
    }

    /// Moves the hand. Returns the entry it was at, to be judged.
    fn next(&mut self) -> Next<K, P> {
        self.judged = self.judged.saturating_add(1);
        let mut from_hand = self.entries.range(self.hand..);
        let Some((&place, slot)) = from_hand.next().or_else(|| self.entries.iter().next()) else {
            return Next::End;
        };
        self.hand = (place.0, place.1 + 1);
        if !is_unshared(&slot.entry) {
            return Next::InUse;
        }
        Next::Idle(Idle {
            place,
            entry: slot.entry.clone(),
            uses: slot.uses,
        })
    }

    /// Removes an entry unless it was handed out since it was idle.
    fn evict(&mut self, idle: &Idle<K, P>) -> Option<Slot<K, P>> {
        let slot = self.entries.get(&idle.place)?;
        let is_same = Arc::ptr_eq(&slot.entry, &idle.entry) && slot.uses == idle.uses;
        if is_same {
            return self.entries.remove(&idle.place);
        }
        None
    }
}
