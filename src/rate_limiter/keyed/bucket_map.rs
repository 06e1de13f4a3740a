//! A hash map with open addressing in which a lookup touches one cache line.

use std::borrow::Borrow;
use std::num::NonZeroU64;

/// A key and its state. With an integer key it takes 16 bytes, occupied or not.
#[derive(Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    pub(super) state: StateWord,
}

/// One word that is never `u64::MAX`. Stored as its complement, so that an empty slot needs no room
/// for a discriminant.
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

/// Keys in lines of three, each with its state beside it.
///
/// A key lives in the line that its hash selects, or in the first line after it that had a free slot.
/// Each line counts the keys that were pushed past it, so a search ends at a line with a count of
/// zero, and removing a key moves no other. The table grows by a seventh at a time, which keeps it
/// between 58 % and 67 % full.
#[derive(Debug)]
pub(super) struct BucketMap<K> {
    map: Box<[Group<K>]>,
    keys: usize,
}

/// With integers as keys, one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Group<K> {
    hashes: [u32; WIDTH],
    /// Number of keys that belong to this line or an earlier one and live in a later one.
    overflow: u32,
    entries: [Option<Entry<K>>; WIDTH],
}

/// Keys in a line.
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
            map: Box::new([]),
            keys: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.keys
    }

    /// Number of slots.
    pub(super) const fn capacity(&self) -> usize {
        self.map.len() * WIDTH
    }

    pub(super) fn entry(&self, index: usize) -> Option<&Entry<K>> {
        self.map[index / WIDTH].entries[index % WIDTH].as_ref()
    }

    pub(super) fn entry_mut(&mut self, index: usize) -> Option<&mut Entry<K>> {
        self.map[index / WIDTH].entries[index % WIDTH].as_mut()
    }

    /// Returns the line that a hash selects. The number of lines is no power of two, so the hash is
    /// scaled by it.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.map.len() as u64) >> 32) as usize
    }

    /// Returns the first slot of that line.
    pub(super) fn first_index(&self, hash: u32) -> usize {
        self.home(hash) * WIDTH
    }

    #[inline]
    fn after(&self, group: usize) -> usize {
        let next = group + 1;
        if next == self.map.len() { 0 } else { next }
    }

    /// Finds a key. Returns its place and its slot.
    #[inline]
    pub(super) fn find<Q>(&mut self, hash: u32, key: &Q) -> Option<(usize, &mut Entry<K>)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut at = self.home(hash);
        // Bounded, because every line may have a count above zero.
        for _ in 0..self.map.len() {
            let group = &self.map[at];
            let found = (0..WIDTH).find(|&number| {
                let entry = &group.entries[number];
                // Comparing keys may be expensive, so hashes first.
                group.hashes[number] == hash
                    && entry
                        .as_ref()
                        .is_some_and(|entry| entry.key.borrow() == key)
            });
            if let Some(number) = found {
                let entry = self.map[at].entries[number].as_mut()?;
                return Some((at * WIDTH + number, entry));
            }
            if group.overflow == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Whether the table must grow before the next insertion.
    pub(super) const fn is_full(&self) -> bool {
        // Two thirds full, a search visits 1.24 lines; four fifths full, it would be 1.5.
        (self.keys + 1) * 3 > self.capacity() * 2
    }

    /// Returns the number of lines to grow to.
    pub(super) const fn larger(&self) -> usize {
        self.map.len() + self.map.len() / 7 + 1
    }

    /// Returns the number of lines to shrink to, if the table is less than a quarter full.
    pub(super) const fn fewer(&self) -> Option<usize> {
        if self.capacity() > 4 * self.keys + 4 * WIDTH {
            Some(2 * self.keys / WIDTH + 1)
        } else {
            None
        }
    }

    /// Inserts a key that is not in the table, which is not full. Returns its place.
    pub(super) fn insert(&mut self, hash: u32, entry: Entry<K>) -> usize {
        let mut at = self.home(hash);
        loop {
            let group = &mut self.map[at];
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

    /// Removes the key at a place.
    pub(super) fn take(&mut self, index: usize) -> Option<Entry<K>> {
        let (at, number) = (index / WIDTH, index % WIDTH);
        let entry = self.map[at].entries[number].take()?;
        let mut overflow = self.home(self.map[at].hashes[number]);
        while overflow != at {
            self.map[overflow].overflow -= 1;
            overflow = self.after(overflow);
        }
        self.keys -= 1;
        Some(entry)
    }

    /// Moves all keys into `lines` lines.
    #[cold]
    pub(super) fn resize(&mut self, map: usize) {
        let new = (0..map).map(|_| Group::new()).collect();
        let old = std::mem::replace(&mut self.map, new);
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
        // All in one line, so most are pushed past it.
        let capacity: Vec<_> = (0..15)
            .map(|key| {
                let state = StateWord::new(0);
                map.insert(7, Entry { key, state })
            })
            .collect();
        assert!(map.map.iter().any(|group| group.overflow > 0));
        for (key, index) in capacity.into_iter().enumerate() {
            assert_eq!(map.take(index).map(|entry| entry.key), Some(key));
        }
        assert!(map.map.iter().all(|group| group.overflow == 0));
    }

    #[test]
    fn three_integers_with_their_states_are_one_cache_line() {
        assert_eq!(
            (size_of::<Group<u64>>(), align_of::<Group<u64>>()),
            (64, 64)
        );
    }
}
