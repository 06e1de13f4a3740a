//! The keys of one shard and their limits.

use std::borrow::Borrow;
use std::sync::Arc;

use super::super::RateLimiter;
use super::super::state::{Gcra, REACH};
use super::custom::{Custom, Customs, Limit};
use super::lines::{Lines, Slot, State};
use crate::instant::Instant;

/// A map from keys to limits.
///
/// The first two keys are in the table itself, and so in the cache line of the lock around it: while
/// there are few keys, a call touches no other line. The rest are in [`Lines`]: with many keys, a call
/// touches one line more.
///
/// The word beside a key is the state of a token bucket with the default quota. A key that needs more
/// has a [`Custom`] instead, whose number the word carries above [`CUSTOM`].
#[derive(Debug)]
pub(super) struct Table<K> {
    few: [Option<Slot<K>>; FEW],
    rest: Option<Box<Rest<K>>>,
    /// The rules of the default quota, once it has changed.
    changed: Option<Arc<Gcra>>,
    /// Where the search for idle keys continues.
    hand: u32,
    /// Calls since the hand last moved.
    calls: u32,
}

/// Not allocated by most tables of a small limiter. A call touches one cache line of it.
#[derive(Debug)]
#[repr(align(64))]
struct Rest<K> {
    lines: Lines<K>,
    customs: Customs,
}

const FEW: usize = 2;
/// The hand moves once in so many calls for known keys.
const PATIENCE: u32 = 64;
/// No state of a token bucket is larger: the clock's last instant and the longest debt.
pub(super) const CUSTOM: u64 = 3 * REACH;

/// What a sweep has done. Dropping keys runs their `Drop`, so this is dropped after the lock.
#[derive(Debug)]
#[must_use = "the number of keys has to be adjusted, and the keys dropped outside the lock"]
pub(super) struct Removed<K> {
    /// Number of keys looked at.
    pub(super) seen: usize,
    /// Number of keys removed.
    pub(super) count: usize,
    keys: Vec<K>,
}

impl<K> Removed<K> {
    const fn new() -> Self {
        Self {
            seen: 0,
            count: 0,
            keys: Vec::new(),
        }
    }

    fn push(&mut self, key: Option<K>) {
        self.count += usize::from(key.is_some());
        if std::mem::needs_drop::<K>() {
            self.keys.extend(key);
        }
    }
}

/// `default` is the rules of the quota that the limiter was built with.
impl<K> Table<K> {
    pub(super) const fn new() -> Self {
        Self {
            few: [const { None }; FEW],
            rest: None,
            changed: None,
            hand: 0,
            calls: 0,
        }
    }

    /// Number of slots, in use or not.
    fn places(&self) -> usize {
        FEW + self.rest.as_ref().map_or(0, |rest| rest.lines.places())
    }

    fn slot(&self, place: usize) -> Option<&Slot<K>> {
        match self.few.get(place) {
            Some(slot) => slot.as_ref(),
            None => self.rest.as_ref()?.lines.slot(place - FEW),
        }
    }

    fn rest(&mut self) -> &mut Rest<K> {
        self.rest.get_or_insert_with(|| {
            Box::new(Rest {
                lines: Lines::new(),
                customs: Customs::default(),
            })
        })
    }

    fn plain<'a>(&'a self, default: &'a Gcra) -> &'a Gcra {
        self.changed.as_deref().unwrap_or(default)
    }

    fn custom(&self, word: u64) -> Option<&Custom> {
        self.rest.as_ref()?.customs.get(number(word))
    }

    /// Returns the keys and copies of their limits.
    pub(super) fn keys<'a>(&'a self, default: &'a Gcra) -> impl Iterator<Item = (&'a K, Custom)> {
        (0..self.places()).filter_map(move |place| {
            let slot = self.slot(place)?;
            let limit = match slot.state.get() {
                tat if tat <= CUSTOM => {
                    let gcra = *self.plain(default);
                    Custom::new(true, Limit::Bucket { gcra, tat })
                }
                word => self.custom(word)?.clone(),
            };
            Some((&slot.key, limit))
        })
    }

    /// Returns the state of `key`, whose hash is `hash`, and the rules of plain states.
    #[inline]
    pub(super) fn find<'a, Q>(
        &'a mut self,
        hash: u32,
        key: &Q,
        default: &'a Gcra,
    ) -> Option<(&'a mut State, &'a Gcra)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let gcra = self.changed.as_deref().unwrap_or(default);
        for slot in &mut self.few {
            match slot {
                Some(slot) if slot.key.borrow() == key => return Some((&mut slot.state, gcra)),
                _ => {}
            }
        }
        let (_, slot) = self.rest.as_deref_mut()?.lines.find(hash, key)?;
        Some((&mut slot.state, gcra))
    }

    /// Returns the limit that a state stands for if it is not plain.
    pub(super) fn custom_mut(&mut self, word: u64) -> Option<&mut Custom> {
        self.rest.as_mut()?.customs.get_mut(number(word))
    }

    /// Inserts a key that is not in the table, with a full bucket of the default quota or a limit of its
    /// own. Returns its state as [`find`](Self::find) does.
    pub(super) fn insert<'a>(
        &'a mut self,
        hash: u32,
        key: K,
        custom: Option<Custom>,
        default: &'a Gcra,
    ) -> Option<(&'a mut State, &'a Gcra)> {
        let word = match custom {
            Some(custom) => CUSTOM + 1 + u64::from(self.rest().customs.insert(custom)),
            None => 0,
        };
        let state = State::new(word);
        let slot = Slot { key, state };
        let place = match self.few.iter().position(Option::is_none) {
            Some(place) => {
                self.few[place] = Some(slot);
                place
            }
            None => {
                let lines = &mut self.rest().lines;
                if lines.is_full() {
                    lines.resize(lines.larger());
                }
                FEW + lines.insert(hash, slot)
            }
        };
        let gcra = self.changed.as_deref().unwrap_or(default);
        let slot = match self.few.get_mut(place) {
            Some(slot) => slot.as_mut(),
            None => self.rest.as_mut()?.lines.slot_mut(place - FEW),
        };
        Some((&mut slot?.state, gcra))
    }

    fn place_of<Q>(&mut self, hash: u32, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let same = |slot: &Option<Slot<K>>| slot.as_ref().is_some_and(|s| s.key.borrow() == key);
        match self.few.iter().position(same) {
            Some(place) => Some(place),
            None => Some(FEW + self.rest.as_mut()?.lines.find(hash, key)?.0),
        }
    }

    fn slot_mut(&mut self, place: usize) -> Option<&mut Slot<K>> {
        match self.few.get_mut(place) {
            Some(slot) => slot.as_mut(),
            None => self.rest.as_mut()?.lines.slot_mut(place - FEW),
        }
    }

    /// Removes a key and returns it, to be dropped outside the lock.
    pub(super) fn remove<Q>(&mut self, hash: u32, key: &Q) -> Option<K>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let place = self.place_of(hash, key)?;
        let key = self.take(place);
        self.tidy();
        key
    }

    fn take(&mut self, place: usize) -> Option<K> {
        let slot = match self.few.get_mut(place) {
            Some(slot) => slot.take(),
            None => self.rest.as_mut()?.lines.take(place - FEW),
        }?;
        if slot.state.get() > CUSTOM {
            self.rest().customs.remove(number(slot.state.get()));
        }
        Some(slot.key)
    }

    /// Frees memory after keys were removed.
    fn tidy(&mut self) {
        let Some(rest) = &mut self.rest else {
            return;
        };
        if rest.customs.is_empty() {
            rest.customs = Customs::default();
            if rest.lines.len() == 0 {
                self.rest = None;
                return;
            }
        }
        if let Some(fewer) = rest.lines.fewer() {
            rest.lines.resize(fewer);
        }
    }

    /// Counts a call. Returns whether the hand should move.
    #[inline]
    pub(super) const fn is_due(&mut self) -> bool {
        self.calls += 1;
        if self.calls >= PATIENCE {
            self.calls = 0;
            return true;
        }
        false
    }

    /// As [`sweep`](Self::sweep), but starts at the line of `hash`, which the lookup that comes before
    /// has brought into the cache.
    pub(super) fn sweep_near(
        &mut self,
        hash: u32,
        now: Instant,
        count: usize,
        default: &Gcra,
    ) -> Removed<K> {
        let hand = self.hand;
        self.hand = match &self.rest {
            Some(rest) => (FEW + rest.lines.first_place(hash)) as u32,
            None => 0,
        };
        let removed = self.sweep(now, count, default);
        self.hand = hand;
        removed
    }

    /// Looks at up to `count` keys and removes those that are indistinguishable from new ones.
    pub(super) fn sweep(&mut self, now: Instant, count: usize, default: &Gcra) -> Removed<K> {
        let mut removed = Removed::new();
        let places = self.places();
        for _ in 0..places {
            if removed.seen == count {
                break;
            }
            let place = self.hand as usize % places;
            self.hand = (place + 1) as u32;
            let Some(slot) = self.slot(place) else {
                continue;
            };
            removed.seen += 1;
            let is_fresh = match slot.state.get() {
                tat if tat <= CUSTOM => self.plain(default).is_full(tat, now),
                word => self
                    .custom(word)
                    .and_then(|custom| custom.fresh_at(now))
                    .is_some_and(|at| at <= now),
            };
            if is_fresh {
                let key = self.take(place);
                removed.push(key);
            }
        }
        if removed.count > 0 {
            self.tidy();
        }
        removed
    }

    /// Returns which of the next `count` keys will be like a new one first, with that instant, and how
    /// many were looked at. The hand stays where it is.
    pub(super) fn nearest(
        &self,
        now: Instant,
        count: usize,
        default: &Gcra,
    ) -> (Option<(Instant, usize)>, usize) {
        let places = self.places();
        let keys = (0..places)
            .map(|step| (self.hand as usize + step) % places)
            .filter_map(|place| Some((place, self.slot(place)?.state.get())));
        let (mut nearest, mut seen) = (None, 0);
        for (place, word) in keys.take(count) {
            seen += 1;
            let fresh_at = match word <= CUSTOM {
                true => Some(self.plain(default).standing(word, now).full_at),
                false => self.custom(word).and_then(|custom| custom.fresh_at(now)),
            };
            if let Some(at) = fresh_at {
                if nearest.is_none_or(|(nearest, _)| at < nearest) {
                    nearest = Some((at, place));
                }
            }
        }
        (nearest, seen)
    }

    /// Removes the key that [`nearest`](Self::nearest) returns.
    pub(super) fn evict(&mut self, now: Instant, count: usize, default: &Gcra) -> Removed<K> {
        let mut removed = Removed::new();
        let (nearest, seen) = self.nearest(now, count, default);
        self.hand = self.hand.wrapping_add(seen as u32);
        if let Some((_, place)) = nearest {
            let key = self.take(place);
            removed.push(key);
            self.tidy();
        }
        removed
    }

    /// Pauses a key until `until`, unless it is paused for longer. `false` when it is not in the table.
    pub(super) fn pause<Q>(&mut self, hash: u32, key: &Q, until: Instant, default: &Gcra) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let Some(custom) = self.own(hash, key, default) else {
            return false;
        };
        custom.paused_until = custom.paused_until.max(until);
        true
    }

    /// Returns the limiter of a key, in whose queue calls can wait. If the key has a token bucket, `make`
    /// makes one of its rules, its state, and whether it follows the default quota. `None` if the key is not in the table.
    pub(super) fn limiter<Q>(
        &mut self,
        hash: u32,
        key: &Q,
        default: &Gcra,
        make: impl FnOnce(Gcra, u64, bool) -> RateLimiter,
    ) -> Option<RateLimiter>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let custom = self.own(hash, key, default)?;
        let limiter = match &custom.limit {
            Limit::Limiter(limiter) => limiter.clone(),
            Limit::Bucket { gcra, tat } => make(*gcra, *tat, custom.is_default),
        };
        custom.limit = Limit::Limiter(limiter.clone());
        Some(limiter)
    }

    /// Gives a key more than a word for its limit, unless it has that.
    fn own<Q>(&mut self, hash: u32, key: &Q, default: &Gcra) -> Option<&mut Custom>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let place = self.place_of(hash, key)?;
        let mut word = self.slot(place)?.state.get();
        if word <= CUSTOM {
            let (gcra, tat) = (*self.plain(default), word);
            let custom = Custom::new(true, Limit::Bucket { gcra, tat });
            word = CUSTOM + 1 + u64::from(self.rest().customs.insert(custom));
            self.slot_mut(place)?.state.set(word);
        }
        self.custom_mut(word)
    }

    /// Returns how many calls wait for tokens of its keys.
    pub(super) fn waiting(&self) -> usize {
        let customs = self.rest.iter().flat_map(|rest| rest.customs.iter());
        let waiting = customs.map(|custom| match &custom.limit {
            Limit::Limiter(limiter) => limiter.waiting(),
            Limit::Bucket { .. } => 0,
        });
        waiting.sum()
    }

    /// Replaces the rules of all keys with the default quota, and converts their states. Collects the
    /// limiters among them, to be changed outside the lock.
    pub(super) fn replace(
        &mut self,
        new: &Arc<Gcra>,
        default: &Gcra,
        convert: impl Fn(u64, &Gcra) -> u64,
        limiters: &mut Vec<RateLimiter>,
    ) {
        let old = *self.plain(default);
        for place in 0..self.places() {
            let slot = self.slot_mut(place);
            if let Some(slot) = slot.filter(|slot| slot.state.get() <= CUSTOM) {
                slot.state.set(convert(slot.state.get(), &old));
            }
        }
        let customs = self
            .rest
            .iter_mut()
            .flat_map(|rest| rest.customs.iter_mut());
        for custom in customs.filter(|custom| custom.is_default) {
            match &mut custom.limit {
                Limit::Limiter(limiter) => limiters.push(limiter.clone()),
                Limit::Bucket { gcra, tat } => {
                    *tat = convert(*tat, gcra);
                    *gcra = **new;
                }
            }
        }
        self.changed = Some(new.clone());
    }
}

const fn number(word: u64) -> u32 {
    (word - CUSTOM - 1) as u32
}
