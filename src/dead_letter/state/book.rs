//! The index of stored letters: their location and state, and which to evict.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::letter::{Change, LetterId, Standing};
use super::retention::{Limits, WhenFull};
use super::timestamp::Timestamp;
use crate::event::Eviction;

/// The letters that are kept, oldest first.
#[derive(Debug)]
pub(crate) struct Book<P> {
    limits: Limits,
    entries: BTreeMap<LetterId, Entry<P>>,
    bytes: u64,
    parked: u64,
    /// Whether letters may be older than ones with smaller numbers, because the wall clock was ahead.
    is_disordered: bool,
}

/// Letters that are stored at the same time may have their numbers in another order.
const DISORDER: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct Entry<P> {
    /// Position of the letter in its storage.
    pub(crate) place: P,
    pub(crate) bytes: u64,
    pub(crate) stored_at: Timestamp,
    pub(crate) standing: Standing,
}

/// Totals of the stored letters.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// The number of letters, parked ones included.
    pub letters: u64,
    /// Number of parked letters among them.
    pub parked: u64,
    /// Their size in bytes; zero if it is unknown.
    pub bytes: u64,
    /// Time at which the oldest letter was stored.
    pub oldest: Option<Timestamp>,
}

impl Totals {
    /// Returns totals of this many letters and nothing else. Use it in sinks of your own.
    pub fn of(letters: u64) -> Self {
        Self {
            letters,
            ..Self::default()
        }
    }
}

/// The effect of a change.
pub(crate) enum Changed<P> {
    /// There is no such letter.
    Unknown,
    /// The new state of the letter.
    Stands(Standing),
    /// The letter was removed.
    Gone(Entry<P>),
}

pub(crate) type Evicted<P> = Vec<(LetterId, Entry<P>, Eviction)>;

impl<P> Book<P> {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            bytes: 0,
            parked: 0,
            is_disordered: false,
        }
    }

    /// Returns whether a letter of this size fits besides the stored ones and `pending`, a number of letters and their
    /// bytes. If the queue evicts, only a letter that is too large on its own does not fit.
    pub(crate) fn has_room(&self, pending: (u64, u64), bytes: u64) -> bool {
        match self.limits.when_full {
            WhenFull::EvictOldest => self.limits.fits(1, bytes),
            WhenFull::Reject => self.limits.fits(
                self.entries.len() as u64 + pending.0 + 1,
                self.bytes.saturating_add(pending.1).saturating_add(bytes),
            ),
        }
    }

    pub(crate) fn insert(&mut self, id: LetterId, entry: Entry<P>) -> Option<Entry<P>> {
        let replaced = self.remove(id);
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.parked += u64::from(entry.standing.parked);
        let last = self.entries.last_key_value();
        self.is_disordered |= last.is_some_and(|(_, last)| is_before(entry.stored_at, last));
        self.entries.insert(id, entry);
        replaced
    }

    pub(crate) fn remove(&mut self, id: LetterId) -> Option<Entry<P>> {
        let entry = self.entries.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        self.parked -= u64::from(entry.standing.parked);
        Some(entry)
    }

    #[cfg(feature = "dead-letter-file")]
    pub(crate) fn get(&self, id: LetterId) -> Option<&Entry<P>> {
        self.entries.get(&id)
    }

    #[cfg(feature = "dead-letter-file")]
    pub(crate) fn place_mut(&mut self, id: LetterId) -> Option<&mut P> {
        self.entries.get_mut(&id).map(|entry| &mut entry.place)
    }

    /// Sets the standing of a letter. Unknown letters are ignored.
    pub(crate) fn set_standing(&mut self, id: LetterId, standing: Standing) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.parked -= u64::from(entry.standing.parked);
            self.parked += u64::from(standing.parked);
            entry.standing = standing;
        }
    }

    pub(crate) fn change(&mut self, id: LetterId, change: &Change) -> Changed<P> {
        let Some(entry) = self.entries.get(&id) else {
            return Changed::Unknown;
        };
        if change.removes() {
            return self.remove(id).map_or(Changed::Unknown, Changed::Gone);
        }
        let standing = entry.standing.clone().after(change);
        self.set_standing(id, standing.clone());
        Changed::Stands(standing)
    }

    /// Removes and returns the letters that are too old.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Evicted<P> {
        let mut evicted = Vec::new();
        while let Some((&id, entry)) = self.entries.first_key_value() {
            if !self.limits.is_expired(entry.stored_at, now) {
                break;
            }
            if let Some(entry) = self.remove(id) {
                evicted.push((id, entry, Eviction::Age));
            }
        }
        if self.is_disordered {
            self.expire_disordered(now, &mut evicted);
        }
        evicted
    }

    /// Removes the letters that are too old but come after ones that are not.
    #[cold]
    fn expire_disordered(&mut self, now: Timestamp, evicted: &mut Evicted<P>) {
        let entries = self.entries.iter();
        let expired = entries.filter(|(_, entry)| self.limits.is_expired(entry.stored_at, now));
        let expired: Vec<LetterId> = expired.map(|(&id, _)| id).collect();
        for id in expired {
            evicted.extend(self.remove(id).map(|entry| (id, entry, Eviction::Age)));
        }
        let (entries, later) = (self.entries.values(), self.entries.values().skip(1));
        self.is_disordered = entries
            .zip(later)
            .any(|(entry, next)| is_before(next.stored_at, entry));
    }

    /// Removes the oldest letters until the rest is within the limits, if the queue evicts.
    pub(crate) fn overflow(&mut self) -> Evicted<P> {
        let mut evicted = Vec::new();
        while self.limits.when_full == WhenFull::EvictOldest {
            let cause = match () {
                () if self.entries.len() as u64 > self.limits.max_letters => Eviction::Count,
                () if self.bytes > self.limits.max_bytes => Eviction::Bytes,
                () => break,
            };
            let Some(&id) = self.entries.keys().next() else {
                break;
            };
            if let Some(entry) = self.remove(id) {
                evicted.push((id, entry, cause));
            }
        }
        evicted
    }

    /// Returns the letters after `after` that are not too old at `now`, oldest first.
    pub(crate) fn after(
        &self,
        after: Option<LetterId>,
        now: Timestamp,
    ) -> impl Iterator<Item = (LetterId, &Entry<P>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries
            .range((from, Bound::Unbounded))
            .filter(move |(_, entry)| !self.limits.is_expired(entry.stored_at, now))
            .map(|(&id, entry)| (id, entry))
    }

    /// Returns all letters, oldest first.
    #[cfg(feature = "dead-letter-file")]
    pub(crate) fn all(&self) -> impl Iterator<Item = (LetterId, &Entry<P>)> {
        self.entries.iter().map(|(&id, entry)| (id, entry))
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            letters: self.entries.len() as u64,
            parked: self.parked,
            bytes: self.bytes,
            oldest: self.entries.values().next().map(|entry| entry.stored_at),
        }
    }
}

/// Returns whether a letter was stored so long before this one that the clock must have been ahead.
fn is_before<P>(stored_at: Timestamp, entry: &Entry<P>) -> bool {
    stored_at.saturating_add(DISORDER) < entry.stored_at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(bytes: u64, at: u64) -> Entry<()> {
        Entry {
            place: (),
            bytes,
            stored_at: Timestamp::from_micros(at),
            standing: Standing::default(),
        }
    }

    fn limits(max_letters: u64, max_bytes: u64, when_full: WhenFull) -> Limits {
        Limits {
            max_letters,
            max_bytes,
            max_age: Duration::from_micros(100),
            when_full,
        }
    }

    #[test]
    fn a_letter_expires_exactly_at_its_age() {
        let mut book = Book::new(limits(10, 1000, WhenFull::Reject));
        book.insert(LetterId::new(1), entry(1, 50));
        assert!(book.expire(Timestamp::from_micros(149)).is_empty());
        assert_eq!(book.after(None, Timestamp::from_micros(149)).count(), 1);
        // Reading hides it but does not remove it.
        assert_eq!(book.after(None, Timestamp::from_micros(150)).count(), 0);
        assert_eq!(book.totals().letters, 1);
        assert_eq!(book.expire(Timestamp::from_micros(150)).len(), 1);
    }

    #[test]
    fn letters_behind_one_stored_while_the_clock_was_ahead_expire_at_their_age() {
        const HOUR: u64 = 3_600_000_000;
        let mut book = Book::new(limits(10, 1000, WhenFull::Reject));
        for (id, at) in [(1, HOUR), (2, 0), (3, 50), (4, HOUR + 50)] {
            book.insert(LetterId::new(id), entry(1, at));
        }
        let mut expired = |now| -> Vec<u64> {
            let evicted = book.expire(Timestamp::from_micros(now));
            evicted.iter().map(|(id, ..)| id.get()).collect()
        };
        assert_eq!((expired(99), expired(100)), (vec![], vec![2]));
        assert_eq!((expired(150), expired(151)), (vec![3], vec![]));
        assert_eq!(expired(HOUR + 150), [1, 4]);
    }

    #[test]
    fn a_letter_larger_than_the_whole_limit_does_not_fit() {
        for when_full in [WhenFull::Reject, WhenFull::EvictOldest] {
            let book = Book::<()>::new(limits(10, 100, when_full));
            assert!(book.has_room((0, 0), 100));
            assert!(!book.has_room((0, 0), 101));
        }
    }

    proptest! {
        #[test]
        fn counts_agree_with_the_entries(
            steps in prop::collection::vec((0_u8..6, 0_u64..20, 0_u64..50), 0..100),
            evicts in any::<bool>(),
        ) {
            let when_full = if evicts { WhenFull::EvictOldest } else { WhenFull::Reject };
            let mut book = Book::new(limits(8, 120, when_full));
            for (step, id, bytes) in steps {
                let id = LetterId::new(id);
                match step {
                    0 | 1 if book.has_room((0, 0), bytes) => { book.insert(id, entry(bytes, id.get())); }
                    2 => { book.change(id, &Change::Park); }
                    3 => { book.change(id, &Change::Unpark); }
                    4 => { book.change(id, &Change::Delivered); }
                    5 => { book.change(id, &Change::Begin); }
                    _ => {}
                }
                book.overflow();
                let totals = book.totals();
                prop_assert_eq!(totals.letters, book.entries.len() as u64);
                prop_assert_eq!(totals.bytes, book.entries.values().map(|e| e.bytes).sum::<u64>());
                prop_assert_eq!(
                    totals.parked,
                    book.entries.values().filter(|e| e.standing.parked).count() as u64
                );
                prop_assert!(totals.letters <= 8 && totals.bytes <= 120);
            }
        }
    }
}
