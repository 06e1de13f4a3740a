//! A map in open addressing, in which a lookup touches one cache line.

use std::borrow::Borrow;

use super::table::Slot;

/// Keys in lines of three, each with its state beside it.
///
/// A key lives in the line its hash says, or in the first one after it that had room. Each line knows
/// how many went past it, so a search ends where nobody did, and a key that leaves moves no other.
/// The lines become more by a seventh at a time, so they are never much emptier than they may be full.
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
    /// How many keys belong to this line or one before it, and had to go on.
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

    /// How many places for keys there are.
    pub(super) const fn places(&self) -> usize {
        self.lines.len() * WIDTH
    }

    /// What is at each place.
    pub(super) fn slots(&self) -> impl Iterator<Item = Option<&Slot<K>>> {
        let lines = self.lines.iter();
        lines.flat_map(|line| line.slots.iter().map(Option::as_ref))
    }

    pub(super) fn slot(&mut self, place: usize) -> Option<&mut Slot<K>> {
        self.lines[place / WIDTH].slots[place % WIDTH].as_mut()
    }

    /// The line that a key with this hash belongs to. The lines are any number, so the hash is
    /// scaled: its upper bits decide.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.lines.len() as u64) >> 32) as usize
    }

    /// The first place of that line.
    pub(super) fn first_place(&self, hash: u32) -> usize {
        self.home(hash) * WIDTH
    }

    #[inline]
    fn after(&self, line: usize) -> usize {
        let next = line + 1;
        if next == self.lines.len() { 0 } else { next }
    }

    /// The place of a key, and what is there.
    #[inline]
    pub(super) fn find<Q>(&mut self, hash: u32, key: &Q) -> Option<(usize, &mut Slot<K>)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let mut at = self.home(hash);
        // Not more often than there are lines: of all of them somebody may have gone past.
        for _ in 0..self.lines.len() {
            let line = &self.lines[at];
            let found = (0..WIDTH).find(|&number| {
                let slot = &line.slots[number];
                // Keys are compared only when their hashes are the same: that may be costly.
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

    /// Whether there should be more lines before the next key comes.
    pub(super) const fn is_full(&self) -> bool {
        // Two thirds full, a search looks at 1.24 lines; four fifths full, it would be 1.5.
        (self.keys + 1) * 3 > self.places() * 2
    }

    /// How many lines there should be when they are full.
    pub(super) const fn larger(&self) -> usize {
        self.lines.len() + self.lines.len() / 7 + 1
    }

    /// How many there should be when too few keys are left in them.
    pub(super) const fn fewer(&self) -> Option<usize> {
        if self.places() > 4 * self.keys + 4 * WIDTH {
            Some(2 * self.keys / WIDTH + 1)
        } else {
            None
        }
    }

    /// Adds a key that is not there, when they are not full. Returns its place.
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

    /// Removes what is at a place.
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

    /// Makes so many lines, and tells from where to where each key moves.
    pub(super) fn resize(&mut self, lines: usize, mut moved: impl FnMut(usize, usize)) {
        let new = (0..lines).map(|_| Line::new()).collect();
        let old = std::mem::replace(&mut self.lines, new);
        self.keys = 0;
        for (at, line) in old.into_iter().enumerate() {
            let keys = line.hashes.into_iter().zip(line.slots);
            for (number, (hash, slot)) in keys.enumerate() {
                if let Some(slot) = slot {
                    moved(at * WIDTH + number, self.insert(hash, slot));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_integers_with_their_states_are_one_cache_line() {
        assert_eq!((size_of::<Line<u64>>(), align_of::<Line<u64>>()), (64, 64));
    }
}
