//! One shard's keys and their buckets: entries side by side, and an index of four bytes a place.

use std::borrow::Borrow;

use super::super::config::Quota;
use super::super::state::Gcra;
use crate::clock::Instant;

/// Keys, each with the state of its token bucket.
///
/// The entries are dense, so that a hand can go round and find those that are like new, and grow by
/// an eighth, so that little is wasted. The index is open addressing with linear probing; a place
/// holds the entry's number and eight bits of its hash, so that nearly every entry looked at is the
/// right one.
#[derive(Debug)]
pub(super) struct Table<K> {
    entries: Vec<Slot<K>>,
    index: Vec<u32>,
    tiers: Vec<Tier>,
    /// Where the search for idle keys goes on.
    hand: usize,
    /// Calls since the hand last moved.
    calls: u32,
}

#[derive(Debug)]
pub(super) struct Slot<K> {
    pub(super) key: K,
    pub(super) tat: u64,
    hash: u32,
    pub(super) tier: u32,
}

/// A quota, and how many keys have it.
#[derive(Debug)]
struct Tier {
    quota: Quota,
    gcra: Gcra,
    keys: usize,
}

const EMPTY: u32 = u32::MAX;
const NUMBER: u32 = (1 << 24) - 1;
/// How many entries a table can hold.
const MOST: usize = NUMBER as usize;
/// Every so many calls for keys that exist, the hand moves.
const PATIENCE: u32 = 64;

impl<K> Table<K> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: Vec::new(),
            tiers: Vec::new(),
            hand: 0,
            calls: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MOST
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (&Slot<K>, &Gcra)> {
        self.entries
            .iter()
            .map(|slot| (slot, &self.tiers[slot.tier as usize].gcra))
    }

    const fn tag(hash: u32) -> u32 {
        hash & !NUMBER
    }

    fn mask(&self) -> usize {
        self.index.len().wrapping_sub(1)
    }

    /// The state and the rules of `key`, whose hash is `hash`.
    #[inline]
    pub(super) fn find<Q>(&mut self, hash: u32, key: &Q) -> Option<(&mut u64, &Gcra)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let number = self.number(hash, key)?;
        let slot = &mut self.entries[number];
        Some((&mut slot.tat, &self.tiers[slot.tier as usize].gcra))
    }

    #[inline]
    fn number<Q>(&self, hash: u32, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        if self.index.is_empty() {
            return None;
        }
        let mask = self.mask();
        let mut place = hash as usize & mask;
        loop {
            match self.index[place & mask] {
                EMPTY => return None,
                entry if Self::tag(entry) == Self::tag(hash) => {
                    let number = (entry & NUMBER) as usize;
                    if self.entries[number].key.borrow() == key {
                        return Some(number);
                    }
                }
                _ => {}
            }
            place += 1;
        }
    }

    /// Adds a key that is not there, with a full bucket. Not when it [`is_full`](Self::is_full).
    pub(super) fn insert(&mut self, hash: u32, key: K, quota: &Quota) {
        let tier = self.tier(quota);
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact((self.entries.len() / 8).max(4));
        }
        self.entries.push(Slot {
            key,
            tat: 0,
            hash,
            tier,
        });
        if self.entries.len() * 4 > self.index.len() * 3 {
            self.reindex();
        } else {
            self.link(self.entries.len() - 1);
        }
    }

    fn tier(&mut self, quota: &Quota) -> u32 {
        let same = self.tiers.iter().position(|tier| tier.quota == *quota);
        let number = match same.or_else(|| self.tiers.iter().position(|tier| tier.keys == 0)) {
            Some(number) => number,
            None => {
                self.tiers.push(Tier::new(*quota));
                self.tiers.len() - 1
            }
        };
        if self.tiers[number].quota != *quota {
            self.tiers[number] = Tier::new(*quota);
        }
        self.tiers[number].keys += 1;
        number as u32
    }

    /// Makes the index anew, between three eighths and three quarters full.
    fn reindex(&mut self) {
        let places = (self.entries.len() * 4 / 3 + 1).next_power_of_two().max(8);
        self.index.clear();
        self.index.shrink_to(places);
        self.index.resize(places, EMPTY);
        for number in 0..self.entries.len() {
            self.link(number);
        }
    }

    fn link(&mut self, number: usize) {
        let hash = self.entries[number].hash;
        let mask = self.mask();
        let mut place = hash as usize & mask;
        while self.index[place] != EMPTY {
            place = (place + 1) & mask;
        }
        self.index[place] = Self::tag(hash) | number as u32;
    }

    /// The place in the index of an entry that is there.
    fn place(&self, number: usize) -> usize {
        let hash = self.entries[number].hash;
        let mask = self.mask();
        let mut place = hash as usize & mask;
        while self.index[place] != Self::tag(hash) | number as u32 {
            place = (place + 1) & mask;
        }
        place
    }

    /// Removes a key. Returns it, to be dropped outside the lock.
    pub(super) fn remove<Q>(&mut self, hash: u32, key: &Q) -> Option<K>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let number = self.number(hash, key)?;
        Some(self.remove_at(number))
    }

    fn remove_at(&mut self, number: usize) -> K {
        let mask = self.mask();
        let mut hole = self.place(number);
        // What follows moves up, as far as its own place allows.
        let mut next = (hole + 1) & mask;
        while self.index[next] != EMPTY {
            let entry = (self.index[next] & NUMBER) as usize;
            let home = self.entries[entry].hash as usize & mask;
            let distance = next.wrapping_sub(home) & mask;
            if distance >= (next.wrapping_sub(hole) & mask) {
                self.index[hole] = self.index[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.index[hole] = EMPTY;
        let last = self.entries.len() - 1;
        if number != last {
            // The last entry takes the number that has become free.
            let place = self.place(last);
            self.index[place] = Self::tag(self.entries[last].hash) | number as u32;
        }
        let slot = self.entries.swap_remove(number);
        self.tiers[slot.tier as usize].keys -= 1;
        slot.key
    }

    /// Whether the hand should move, after one more call.
    #[inline]
    pub(super) const fn is_due(&mut self) -> bool {
        self.calls += 1;
        if self.calls >= PATIENCE {
            self.calls = 0;
            return true;
        }
        false
    }

    /// Looks at up to `count` keys and removes those whose buckets are like new ones, so that it
    /// makes no difference. Returns how many.
    pub(super) fn sweep(&mut self, now: Instant, count: usize) -> usize {
        let before = self.entries.len();
        for _ in 0..count.min(before) {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let Some(slot) = self.entries.get(self.hand) else {
                break;
            };
            if self.tiers[slot.tier as usize].gcra.is_full(slot.tat, now) {
                self.remove_at(self.hand);
            } else {
                self.hand += 1;
            }
        }
        let removed = before - self.entries.len();
        if removed > 0 && self.entries.capacity() > 4 * self.entries.len() + 64 {
            self.entries.shrink_to(2 * self.entries.len());
            self.reindex();
        }
        removed
    }

    /// Replaces one quota by another in all keys that have it, converting their states.
    pub(super) fn replace(
        &mut self,
        old: &Quota,
        new: &Quota,
        convert: impl Fn(u64, &Gcra, &Gcra) -> u64,
    ) {
        for number in 0..self.tiers.len() {
            if self.tiers[number].quota != *old || self.tiers[number].keys == 0 {
                continue;
            }
            let gcra = new.gcra(0);
            for slot in &mut self.entries {
                if slot.tier as usize == number {
                    slot.tat = convert(slot.tat, &self.tiers[number].gcra, &gcra);
                }
            }
            self.tiers[number].quota = *new;
            self.tiers[number].gcra = gcra;
        }
    }
}

impl Tier {
    fn new(quota: Quota) -> Self {
        Self {
            quota,
            gcra: quota.gcra(0),
            keys: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const QUOTAS: [Quota; 2] = [Quota::per_second(1), Quota::per_second(2)];

    proptest! {
        // Few hashes, so that places collide; the model is a map.
        #[test]
        fn a_table_is_a_map(
            steps in prop::collection::vec((0_u8..4, 0_u16..60, 0_u32..6), 1..400),
        ) {
            let mut table = Table::new();
            let mut model = HashMap::new();
            for (step, key, spread) in steps {
                let hash = ((u32::from(key) % 7) << 24) | (u32::from(key) % (spread + 1));
                let hash = model.get(&key).map_or(hash, |(hash, _)| *hash);
                match step {
                    0 | 1 if !model.contains_key(&key) => {
                        table.insert(hash, key, &QUOTAS[usize::from(key % 2)]);
                        model.insert(key, (hash, 0));
                    }
                    0 | 1 => {
                        let (tat, _) = table.find(hash, &key).unwrap();
                        *tat += 1;
                        model.get_mut(&key).unwrap().1 += 1;
                    }
                    2 => {
                        prop_assert_eq!(table.remove(hash, &key).is_some(), model.remove(&key).is_some());
                    }
                    _ => {
                        let full = model.values().filter(|(_, tat)| *tat == 0).count();
                        let removed = table.sweep(Instant::ORIGIN, usize::MAX);
                        prop_assert!(removed <= full);
                        model.retain(|key, (hash, _)| table.find(*hash, key).is_some());
                    }
                }
                prop_assert_eq!(table.entries.len(), model.len());
                for (key, (hash, tat)) in &model {
                    prop_assert_eq!(*table.find(*hash, key).unwrap().0, *tat);
                }
            }
        }
    }
}
