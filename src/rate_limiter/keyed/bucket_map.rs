//! A hash map with open addressing in which a lookup touches one cache line.

use std::borrow::Borrow;
use std::num::NonZeroU64;

/// A key and its state. With an integer key, 16 bytes, occupied or not.
#[derive(Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    pub(super) state: StateWord,
}

/// A word that is never `u64::MAX`. Stored as its complement, so that an empty entry needs no discriminant.
#[derive(Debug)]
pub(super) struct StateWord(NonZeroU64);

impl StateWord {
    pub(super) const fn new(word: u64) -> Self {
        match NonZeroU64::new(!word) {
            Some(inverse) => Self(inverse),
            None => Self(NonZeroU64::MIN),
        }
    }

    #[inline]
    pub(super) const fn get(&self) -> u64 {
        !self.0.get()
    }

    #[inline]
    pub(super) const fn set(&mut self, word: u64) {
        *self = Self::new(word);
    }
}

/// Groups of three keys, each with its state beside it.
///
/// A key is in the group that its hash selects, or in the first group after it that had a free entry. Each
/// group counts the keys that were pushed past it. So a search ends at a group with a count of zero, and
/// removing a key moves no other. The table grows by a seventh at a time, which keeps it between 58 % and
/// 67 % full.
#[derive(Debug)]
pub(super) struct BucketMap<K> {
    groups: Box<[Group<K>]>,
    keys: usize,
}

/// One cache line with integer keys.
#[derive(Debug)]
#[repr(align(64))]
struct Group<K> {
    hashes: [u32; WIDTH],
    /// Number of keys that hash to this group or an earlier one and are in a later one.
    overflow: u32,
    entries: [Option<Entry<K>>; WIDTH],
}

/// Keys in a group.
pub(super) const WIDTH: usize = 3;

impl<K> Group<K> {
    const fn new() -> Self {
        Self {
            hashes: [0; WIDTH],
            overflow: 0,
            entries: [const { None }; WIDTH],
        }
    }
}

impl<K> BucketMap<K> {
    pub(super) fn new() -> Self {
        Self {
            groups: Box::new([]),
            keys: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.keys
    }

    /// Returns the number of entries, occupied or not.
    pub(super) const fn capacity(&self) -> usize {
        self.groups.len() * WIDTH
    }

    pub(super) fn entry(&self, index: usize) -> Option<&Entry<K>> {
        self.groups[index / WIDTH].entries[index % WIDTH].as_ref()
    }

    pub(super) fn entry_mut(&mut self, index: usize) -> Option<&mut Entry<K>> {
        self.groups[index / WIDTH].entries[index % WIDTH].as_mut()
    }

    /// Returns the group that a hash selects. The hash is scaled, since the number of groups is not a power of two.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.groups.len() as u64) >> 32) as usize
    }

    /// Returns the index of the first entry of that group.
    pub(super) fn first_index(&self, hash: u32) -> usize {
        self.home(hash) * WIDTH
    }

    #[inline]
    fn after(&self, group: usize) -> usize {
        let next = group + 1;
        if next == self.groups.len() { 0 } else { next }
    }

    /// Finds a key. Returns its index and its entry.
    #[inline]
    pub(super) fn find<Q>(&mut self, hash: u32, key: &Q) -> Option<(usize, &mut Entry<K>)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut at = self.home(hash);
        // Bounded, because every group may have a count above zero.
        for _ in 0..self.groups.len() {
            let group = &self.groups[at];
            let found = (0..WIDTH).find(|&number| {
                let entry = &group.entries[number];
                // Hashes first, since comparing keys may be expensive.
                group.hashes[number] == hash
                    && entry
                        .as_ref()
                        .is_some_and(|entry| entry.key.borrow() == key)
            });
            if let Some(number) = found {
                let entry = self.groups[at].entries[number].as_mut()?;
                return Some((at * WIDTH + number, entry));
            }
            if group.overflow == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Returns whether the table must grow before the next insertion.
    pub(super) const fn is_full(&self) -> bool {
        // A search visits 1.24 groups on average in a table that is two thirds full, and 1.5 if it is four fifths full.
        (self.keys + 1) * 3 > self.capacity() * 2
    }

    /// Returns the number of groups to grow to.
    pub(super) const fn larger(&self) -> usize {
        self.groups.len() + self.groups.len() / 7 + 1
    }

    /// Returns the number of groups to shrink to, if the table is less than a quarter full.
    pub(super) const fn fewer(&self) -> Option<usize> {
        if self.capacity() > 4 * self.keys + 4 * WIDTH {
            Some(2 * self.keys / WIDTH + 1)
        } else {
            None
        }
    }

    /// Inserts a key that is not in the table, which is not full. Returns its index.
    pub(super) fn insert(&mut self, hash: u32, entry: Entry<K>) -> usize {
        let mut at = self.home(hash);
        loop {
            let group = &mut self.groups[at];
            if let Some(number) = group.entries.iter().position(Option::is_none) {
                group.hashes[number] = hash;
                group.entries[number] = Some(entry);
                self.keys += 1;
                return at * WIDTH + number;
            }
            group.overflow += 1;
            at = self.after(at);
        }
    }

    /// Removes the key at an index.
    pub(super) fn take(&mut self, index: usize) -> Option<Entry<K>> {
        let (at, number) = (index / WIDTH, index % WIDTH);
        let entry = self.groups[at].entries[number].take()?;
        let mut passed = self.home(self.groups[at].hashes[number]);
        while passed != at {
            self.groups[passed].overflow -= 1;
            passed = self.after(passed);
        }
        self.keys -= 1;
        Some(entry)
    }

    /// Moves all keys into a new number of groups.
    #[cold]
    pub(super) fn resize(&mut self, groups: usize) {
        let new = (0..groups).map(|_| Group::new()).collect();
        let old = std::mem::replace(&mut self.groups, new);
        self.keys = 0;
        for group in old {
            for (hash, entry) in group.hashes.into_iter().zip(group.entries) {
                if let Some(entry) = entry {
                    self.insert(hash, entry);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_removed_lengthens_no_search() {
        let mut map = BucketMap::new();
        map.resize(9);
        // All keys hash to one group, so most are pushed past it.
        let capacity: Vec<_> = (0..15)
            .map(|key| {
                let state = StateWord::new(0);
                map.insert(7, Entry { key, state })
            })
            .collect();
        assert!(map.groups.iter().any(|group| group.overflow > 0));
        for (key, index) in capacity.into_iter().enumerate() {
            assert_eq!(map.take(index).map(|entry| entry.key), Some(key));
        }
        assert!(map.groups.iter().all(|group| group.overflow == 0));
    }

    #[test]
    fn three_integers_with_their_states_are_one_cache_line() {
        assert_eq!(
            (size_of::<Group<u64>>(), align_of::<Group<u64>>()),
            (64, 64)
        );
    }
}
