//! One shard's keys and their buckets.

use std::borrow::Borrow;
use std::num::NonZeroU64;

use super::super::state::{Gcra, Quota};
use super::lines::{Lines, WIDTH};
use super::tiers::{Tier, Tiers};
use crate::instant::Instant;

/// Keys, each with the state of its token bucket.
///
/// The first two are in the table itself, and so in the cache line of the lock around it: as long as
/// there are few keys, that line is all a call touches. The others are in [`Lines`], where each has
/// its state beside it: with many keys, a call touches one line more.
#[derive(Debug)]
pub(super) struct Table<K> {
    few: [Option<Slot<K>>; FEW],
    rest: Option<Box<Rest<K>>>,
    /// Where the search for idle keys goes on.
    hand: u32,
    /// Calls since the hand last moved.
    calls: u32,
}

/// What most tables of a small limiter do without. A call looks at one cache line of it.
#[derive(Debug)]
#[repr(align(64))]
struct Rest<K> {
    lines: Lines<K>,
    /// By place; `None` while all keys have the usual tier.
    tiers: Option<Box<Tiers>>,
}

const FEW: usize = 2;
/// Every so many calls for keys that exist, the hand moves.
const PATIENCE: u32 = 64;

/// A key and its state. An integer's takes 16 bytes, and an empty place takes no more.
#[derive(Debug)]
pub(super) struct Slot<K> {
    pub(super) key: K,
    /// The complement of the state: no state has all bits set, so this is never zero.
    inverse: NonZeroU64,
}

impl<K> Slot<K> {
    /// A key with a full bucket.
    const fn new(key: K) -> Self {
        Self {
            key,
            inverse: NonZeroU64::MAX,
        }
    }

    #[inline]
    pub(super) const fn tat(&self) -> u64 {
        !self.inverse.get()
    }

    #[inline]
    pub(super) fn set_tat(&mut self, tat: u64) {
        self.inverse = NonZeroU64::new(!tat).unwrap_or(NonZeroU64::MIN);
    }
}

/// What a search for idle keys came to: how many were looked at and how many removed, and those of
/// them whose end is anybody's code. That must not run under the lock.
#[derive(Debug)]
#[must_use = "how many there are has to be known, and keys are dropped after the lock"]
pub(super) struct Removed<K> {
    pub(super) seen: usize,
    pub(super) count: usize,
    keys: Vec<K>,
}

impl<K> Removed<K> {
    fn extend(&mut self, key: Option<K>) {
        self.count += usize::from(key.is_some());
        if std::mem::needs_drop::<K>() {
            self.keys.extend(key);
        }
    }
}

/// `usual` is the tier of all keys while the table knows of no other. Always the same one.
impl<K> Table<K> {
    pub(super) const fn new() -> Self {
        Self {
            few: [const { None }; FEW],
            rest: None,
            hand: 0,
            calls: 0,
        }
    }

    /// How many places there are; a key keeps its place until the lines are made anew.
    fn places(&self) -> usize {
        FEW + self.rest.as_ref().map_or(0, |rest| rest.lines.places())
    }

    fn len(&self) -> usize {
        let few = self.few.iter().flatten().count();
        few + self.rest.as_ref().map_or(0, |rest| rest.lines.len())
    }

    fn slot(&mut self, place: usize) -> Option<&mut Slot<K>> {
        match self.few.get_mut(place) {
            Some(slot) => slot.as_mut(),
            None => self.rest.as_mut()?.lines.slot(place - FEW),
        }
    }

    fn tiers(&self) -> Option<&Tiers> {
        self.rest.as_ref()?.tiers.as_deref()
    }

    fn tiers_mut(&mut self) -> Option<&mut Tiers> {
        self.rest.as_mut()?.tiers.as_deref_mut()
    }

    fn gcra<'a>(&'a self, place: usize, usual: &'a Tier) -> &'a Gcra {
        self.tiers()
            .map_or(&usual.gcra, |tiers| &tiers.at(place).gcra)
    }

    /// The keys and their rules.
    pub(super) fn slots<'a>(
        &'a self,
        usual: &'a Tier,
    ) -> impl Iterator<Item = (&'a Slot<K>, &'a Gcra)> {
        let rest = self.rest.iter().flat_map(|rest| rest.lines.slots());
        let slots = self.few.iter().map(Option::as_ref).chain(rest);
        slots
            .enumerate()
            .filter_map(move |(place, slot)| Some((slot?, self.gcra(place, usual))))
    }

    /// The state and the rules of `key`, whose hash is `hash`.
    #[inline]
    pub(super) fn find<'a, Q>(
        &'a mut self,
        hash: u32,
        key: &Q,
        usual: &'a Tier,
    ) -> Option<(&'a mut Slot<K>, &'a Gcra)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        for (place, slot) in self.few.iter_mut().enumerate() {
            match slot {
                Some(slot) if slot.key.borrow() == key => {
                    let tiers = self.rest.as_ref().and_then(|rest| rest.tiers.as_ref());
                    let gcra = tiers.map_or(&usual.gcra, |tiers| &tiers.at(place).gcra);
                    return Some((slot, gcra));
                }
                _ => {}
            }
        }
        let Rest { lines, tiers } = self.rest.as_deref_mut()?;
        let (place, slot) = lines.find(hash, key)?;
        let gcra = match tiers {
            None => &usual.gcra,
            Some(tiers) => &tiers.at(FEW + place).gcra,
        };
        Some((slot, gcra))
    }

    /// Adds a key that is not there, with a full bucket.
    pub(super) fn insert(&mut self, hash: u32, key: K, quota: &Quota, usual: &Tier) {
        if *quota != usual.quota {
            self.distinguish(usual);
        }
        let slot = Slot::new(key);
        let place = match self.few.iter_mut().position(|slot| slot.is_none()) {
            Some(place) => {
                self.few[place] = Some(slot);
                place
            }
            None => {
                let rest = self.rest.get_or_insert_with(|| Box::new(Rest::new()));
                if rest.lines.is_full() {
                    rest.resize(rest.lines.larger());
                }
                FEW + rest.lines.insert(hash, slot)
            }
        };
        if let Some(tiers) = self.tiers_mut() {
            tiers.join(place, quota);
        }
    }

    /// From here on keys may have tiers other than the usual one.
    fn distinguish(&mut self, usual: &Tier) {
        if self.tiers().is_none() {
            let (places, keys) = (self.places(), self.len());
            let rest = self.rest.get_or_insert_with(|| Box::new(Rest::new()));
            rest.tiers = Some(Box::new(Tiers::new(usual.clone(), places, keys)));
        }
    }

    /// Removes a key. Returns it, to be dropped outside the lock.
    pub(super) fn remove<Q>(&mut self, hash: u32, key: &Q) -> Option<K>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let same =
            |slot: &Option<Slot<K>>| slot.as_ref().is_some_and(|slot| slot.key.borrow() == key);
        let place = match self.few.iter().position(same) {
            Some(place) => place,
            None => FEW + self.rest.as_mut()?.lines.find(hash, key)?.0,
        };
        let key = self.take(place);
        self.tidy();
        key
    }

    fn take(&mut self, place: usize) -> Option<K> {
        let slot = match self.few.get_mut(place) {
            Some(slot) => slot.take(),
            None => self.rest.as_mut()?.lines.take(place - FEW),
        };
        if let Some(tiers) = self.tiers_mut() {
            tiers.leave(place);
        }
        slot.map(|slot| slot.key)
    }

    /// Gives memory back after keys have left.
    fn tidy(&mut self) {
        let few = self.few.iter().flatten().count();
        let Some(rest) = &mut self.rest else {
            return;
        };
        if rest.lines.len() == 0 && (rest.tiers.is_none() || few == 0) {
            self.rest = None;
        } else if let Some(fewer) = rest.lines.fewer() {
            rest.resize(fewer);
        }
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

    /// As [`sweep`](Self::sweep), but looks where a key with this hash would be, which a call for it
    /// has just done: what is there is at hand.
    pub(super) fn sweep_near(
        &mut self,
        hash: u32,
        now: Instant,
        count: usize,
        usual: &Tier,
    ) -> Removed<K> {
        let hand = self.hand;
        self.hand = match &self.rest {
            Some(rest) => (FEW + rest.lines.first_place(hash)) as u32,
            None => 0,
        };
        let removed = self.sweep(now, count, usual);
        self.hand = hand;
        removed
    }

    /// Looks at up to `count` keys and removes those whose buckets are like new ones, so that it
    /// makes no difference.
    pub(super) fn sweep(&mut self, now: Instant, count: usize, usual: &Tier) -> Removed<K> {
        let mut removed = Removed {
            seen: 0,
            count: 0,
            keys: Vec::new(),
        };
        let places = self.places();
        for _ in 0..places {
            if removed.seen == count {
                break;
            }
            let place = self.hand as usize % places;
            self.hand = (place + 1) as u32;
            let Some(tat) = self.slot(place).map(|slot| slot.tat()) else {
                continue;
            };
            removed.seen += 1;
            if self.gcra(place, usual).is_full(tat, now) {
                removed.extend(self.take(place));
            }
        }
        if removed.count > 0 {
            self.tidy();
        }
        removed
    }

    /// Replaces one quota by another in all keys that have it, converting their states.
    pub(super) fn replace(
        &mut self,
        old: &Quota,
        new: &Quota,
        usual: &Tier,
        convert: impl Fn(u64, &Gcra, &Gcra) -> u64,
    ) {
        if self.len() == 0 {
            return;
        }
        self.distinguish(usual);
        let changed = Tier::new(*new);
        for place in 0..self.places() {
            let tier = match self.tiers() {
                Some(tiers) if tiers.at(place).quota == *old => tiers.at(place).gcra,
                _ => continue,
            };
            if let Some(slot) = self.slot(place) {
                slot.set_tat(convert(slot.tat(), &tier, &changed.gcra));
            }
        }
        if let Some(tiers) = self.tiers_mut() {
            tiers.replace(old, &changed);
        }
    }
}

impl<K> Rest<K> {
    fn new() -> Self {
        Self {
            lines: Lines::new(),
            tiers: None,
        }
    }

    /// Makes so many lines and moves the keys there.
    #[cold]
    fn resize(&mut self, lines: usize) {
        let Some(tiers) = &mut self.tiers else {
            return self.lines.resize(lines, |_, _| {});
        };
        let old = tiers.forget_places(FEW + lines * WIDTH);
        for (place, tier) in old[..FEW].iter().enumerate() {
            tiers.put(place, *tier);
        }
        self.lines
            .resize(lines, |from, to| tiers.put(FEW + to, old[FEW + from]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const QUOTAS: [Quota; 3] = [
        Quota::per_second(1),
        Quota::per_second(2),
        Quota::per_second(3),
    ];

    #[test]
    fn with_integers_as_keys_a_slot_is_two_words_and_a_shard_one_cache_line() {
        assert_eq!(size_of::<Option<Slot<u64>>>(), 16);
        assert_eq!(size_of::<std::sync::Mutex<Table<u64>>>(), 56);
    }

    proptest! {
        // Few hashes, so that keys collide; the model is a map.
        #[test]
        fn a_table_is_a_map(
            steps in prop::collection::vec((0_u8..6, 0_u16..80, 0_u32..6), 1..600),
            tiers in 1_usize..=3,
        ) {
            let usual = Tier::new(QUOTAS[0]);
            let mut table = Table::new();
            // The hash, the state and the burst of each key.
            let mut model: HashMap<u16, (u32, u64, u64)> = HashMap::new();
            for (step, key, spread) in steps {
                let hash = ((u32::from(key) % (spread + 1)) << 29) | (u32::from(key) % 7);
                let hash = model.get(&key).map_or(hash, |(hash, ..)| *hash);
                match step {
                    0..=2 if !model.contains_key(&key) => {
                        let tier = usize::from(key) % tiers;
                        table.insert(hash, key, &QUOTAS[tier], &usual);
                        model.insert(key, (hash, 0, tier as u64 + 1));
                    }
                    0..=2 => {
                        let (slot, _) = table.find(hash, &key, &usual).unwrap();
                        slot.set_tat(slot.tat() + 1);
                        model.get_mut(&key).unwrap().1 += 1;
                    }
                    3 => {
                        prop_assert_eq!(table.remove(hash, &key), model.remove(&key).map(|_| key));
                    }
                    4 => {
                        // As a change of the quota, which then is no longer the usual one.
                        let [old, new] = [QUOTAS[tiers - 1], Quota::per_second(9)];
                        table.replace(&old, &new, &usual, |tat, _, _| tat + 1);
                        for (_, tat, burst) in model.values_mut() {
                            if *burst == tiers as u64 {
                                *burst = 9;
                                *tat += 1;
                            }
                        }
                    }
                    _ => {
                        let full = |(_, tat, _): &(u32, u64, u64)| *tat == 0;
                        let count = [3, usize::MAX][usize::from(key % 2)];
                        let removed = table.sweep(Instant::ORIGIN, count, &usual).count;
                        let left = table.slots(&usual).map(|(slot, _)| slot.key);
                        let left: Vec<_> = left.collect();
                        let before = model.len();
                        model.retain(|key, state| left.contains(key) || !full(state));
                        prop_assert_eq!(before - model.len(), removed);
                        prop_assert!(count == 3 || !model.values().any(full));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for (key, (hash, tat, burst)) in &model {
                    let (slot, gcra) = table.find(*hash, key, &usual).unwrap();
                    prop_assert_eq!((slot.key, slot.tat()), (*key, *tat));
                    prop_assert_eq!(*gcra, Quota::per_second(*burst).gcra(0));
                }
            }
        }
    }
}
