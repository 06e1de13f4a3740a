//! A hash map with open addressing in which a lookup touches one cache line.

use std::borrow::Borrow;
use std::num::NonZeroU64;

/// A key and its state. With an integer key it takes 16 bytes, occupied or not.
#[derive(Debug)]
pub(super) struct Slot<K> {
    pub(super) key: K,
    pub(super) state: State,
}

/// One word that is never `u64::MAX`. Stored as its complement, so that an empty slot needs no room
/// for a discriminant.
#[derive(Debug)]
pub(super) struct State(NonZeroU64);

impl State {
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
pub(super) struct Lines<K> {
    lines: Box<[Line<K>]>,
    keys: usize,
}

/// With integers as keys, one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Line<K> {
    hashes: [u32; WIDTH],
    /// Number of keys that belong to this line or an earlier one and live in a later one.
    passed: u32,
    slots: [Option<Slot<K>>; WIDTH],
}

/// Keys in a line.
pub(super) const WIDTH: usize = 3;

impl<K> Line<K> {
    const fn new() -> Self {
        Self {
            hashes: [0; WIDTH],
            passed: 0,
            slots: [const { None }; WIDTH],
        }
    }
}

impl<K> Lines<K> {
    pub(super) fn new() -> Self {
        Self {
            lines: Box::new([]),
            keys: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.keys
    }

    /// Number of slots.
    pub(super) const fn places(&self) -> usize {
        self.lines.len() * WIDTH
    }

    pub(super) fn slot(&self, place: usize) -> Option<&Slot<K>> {
        self.lines[place / WIDTH].slots[place % WIDTH].as_ref()
    }

    pub(super) fn slot_mut(&mut self, place: usize) -> Option<&mut Slot<K>> {
        self.lines[place / WIDTH].slots[place % WIDTH].as_mut()
    }

    /// Returns the line that a hash selects. The number of lines is no power of two, so the hash is
    /// scaled by it.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.lines.len() as u64) >> 32) as usize
    }

    /// Returns the first slot of that line.
    pub(super) fn first_place(&self, hash: u32) -> usize {
        self.home(hash) * WIDTH
    }

    #[inline]
    fn after(&self, line: usize) -> usize {
        let next = line + 1;
        if next == self.lines.len() { 0 } else { next }
    }

    /// Finds a key. Returns its place and its slot.
    #[inline]
    pub(super) fn find<Q>(&mut self, hash: u32, key: &Q) -> Option<(usize, &mut Slot<K>)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut at = self.home(hash);
        // Bounded, because every line may have a count above zero.
        for _ in 0..self.lines.len() {
            let line = &self.lines[at];
            let found = (0..WIDTH).find(|&number| {
                let slot = &line.slots[number];
                // Comparing keys may be expensive, so hashes first.
                line.hashes[number] == hash
                    && slot.as_ref().is_some_and(|slot| slot.key.borrow() == key)
            });
            if let Some(number) = found {
                let slot = self.lines[at].slots[number].as_mut()?;
                return Some((at * WIDTH + number, slot));
            }
            if line.passed == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Whether the table must grow before the next insertion.
    pub(super) const fn is_full(&self) -> bool {
        // Two thirds full, a search visits 1.24 lines; four fifths full, it would be 1.5.
        (self.keys + 1) * 3 > self.places() * 2
    }

    /// Returns the number of lines to grow to.
    pub(super) const fn larger(&self) -> usize {
        self.lines.len() + self.lines.len() / 7 + 1
    }

    /// Returns the number of lines to shrink to, if the table is less than a quarter full.
    pub(super) const fn fewer(&self) -> Option<usize> {
        if self.places() > 4 * self.keys + 4 * WIDTH {
            Some(2 * self.keys / WIDTH + 1)
        } else {
            None
        }
    }

    /// Inserts a key that is not in the table, which is not full. Returns its place.
    pub(super) fn insert(&mut self, hash: u32, slot: Slot<K>) -> usize {
        let mut at = self.home(hash);
        loop {
            let line = &mut self.lines[at];
            if let Some(number) = line.slots.iter().position(Option::is_none) {
                line.hashes[number] = hash;
                line.slots[number] = Some(slot);
                self.keys += 1;
                return at * WIDTH + number;
            }
            line.passed += 1;
            at = self.after(at);
        }
    }

    /// Removes the key at a place.
    pub(super) fn take(&mut self, place: usize) -> Option<Slot<K>> {
        let (at, number) = (place / WIDTH, place % WIDTH);
        let slot = self.lines[at].slots[number].take()?;
        let mut passed = self.home(self.lines[at].hashes[number]);
        while passed != at {
            self.lines[passed].passed -= 1;
            passed = self.after(passed);
        }
        self.keys -= 1;
        Some(slot)
    }

    /// Moves all keys into `lines` lines.
    #[cold]
    pub(super) fn resize(&mut self, lines: usize) {
        let new = (0..lines).map(|_| Line::new()).collect();
        let old = std::mem::replace(&mut self.lines, new);
        self.keys = 0;
        for line in old {
            for (hash, slot) in line.hashes.into_iter().zip(line.slots) {
                if let Some(slot) = slot {
                    self.insert(hash, slot);
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
        let mut lines = Lines::new();
        lines.resize(9);
        // All in one line, so most are pushed past it.
        let places: Vec<_> = (0..15)
            .map(|key| {
                let state = State::new(0);
                lines.insert(7, Slot { key, state })
            })
            .collect();
        assert!(lines.lines.iter().any(|line| line.passed > 0));
        for (key, place) in places.into_iter().enumerate() {
            assert_eq!(lines.take(place).map(|slot| slot.key), Some(key));
        }
        assert!(lines.lines.iter().all(|line| line.passed == 0));
    }

    #[test]
    fn three_integers_with_their_states_are_one_cache_line() {
        assert_eq!((size_of::<Line<u64>>(), align_of::<Line<u64>>()), (64, 64));
    }
}
