//! The keys of one shard and their limits.

use std::borrow::Borrow;
use std::sync::Arc;

use super::super::RateLimiter;
use super::super::state::{Gcra, REACH};
use super::bucket_map::{BucketMap, Entry, StateWord};
use super::own_limit::{KeyLimit, OwnLimit, OwnLimits};
use crate::instant::Instant;

/// A map from keys to limits.
///
/// The first two keys are in the table itself, in the cache line of the lock around it: while there are
/// few keys, a call touches no other line. The others are in a [`BucketMap`]: with many keys, a call
/// touches one more line.
///
/// The word of a key is the state of a token bucket with the default quota. A key that needs more has an
/// [`OwnLimit`], whose number is stored in the word, above [`MAX_TAT`].
#[derive(Debug)]
pub(super) struct Table<K> {
    few: [Option<Entry<K>>; INLINE_KEYS],
    rest: Option<Box<Rest<K>>>,
    /// The rules of the default quota after a change.
    changed: Option<Arc<Gcra>>,
    /// Index at which the next sweep starts.
    hand: u32,
    /// Number of calls since the last sweep.
    calls: u32,
}

/// The larger part of a table, allocated once the inline entries are full. A call touches one cache line of it.
#[derive(Debug)]
#[repr(align(64))]
struct Rest<K> {
    map: BucketMap<K>,
    own_limits: OwnLimits,
}

const INLINE_KEYS: usize = 2;
/// Number of calls with known keys between two sweeps.
const CALLS_PER_SWEEP: u32 = 64;
/// The largest state of a token bucket: the clock's last instant plus the longest debt.
pub(super) const MAX_TAT: u64 = 3 * REACH;

/// The result of a sweep. Dropped outside the lock, since dropping keys runs their `Drop`.
#[derive(Debug)]
#[must_use = "the number of keys has to be adjusted, and the keys dropped outside the lock"]
pub(super) struct Removed<K> {
    /// Number of keys checked.
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

/// `default` is always the rules of the quota that the limiter was built with.
impl<K> Table<K> {
    pub(super) const fn new() -> Self {
        Self {
            few: [const { None }; INLINE_KEYS],
            rest: None,
            changed: None,
            hand: 0,
            calls: 0,
        }
    }

    /// Returns the number of entries, occupied or not.
    fn capacity(&self) -> usize {
        INLINE_KEYS + self.rest.as_ref().map_or(0, |rest| rest.map.capacity())
    }

    fn entry(&self, index: usize) -> Option<&Entry<K>> {
        match self.few.get(index) {
            Some(entry) => entry.as_ref(),
            None => self.rest.as_ref()?.map.entry(index - INLINE_KEYS),
        }
    }

    fn rest(&mut self) -> &mut Rest<K> {
        self.rest.get_or_insert_with(|| {
            Box::new(Rest {
                map: BucketMap::new(),
                own_limits: OwnLimits::default(),
            })
        })
    }

    pub(super) fn plain<'a>(&'a self, default: &'a Gcra) -> &'a Gcra {
        self.changed.as_deref().unwrap_or(default)
    }

    fn own_limit(&self, word: u64) -> Option<&OwnLimit> {
        self.rest.as_ref()?.own_limits.get(number(word))
    }

    /// Returns the keys and copies of their limits.
    pub(super) fn keys<'a>(&'a self, default: &'a Gcra) -> impl Iterator<Item = (&'a K, OwnLimit)> {
        (0..self.capacity()).filter_map(move |index| {
            let entry = self.entry(index)?;
            let limit = match entry.state.get() {
                tat if tat <= MAX_TAT => {
                    let gcra = *self.plain(default);
                    OwnLimit::new(true, KeyLimit::Bucket { gcra, tat })
                }
                word => self.own_limit(word)?.clone(),
            };
            Some((&entry.key, limit))
        })
    }

    /// Returns the state of `key`, whose hash is `hash`, and the rules of the default quota.
    #[inline]
    pub(super) fn find<'a, Q>(
        &'a mut self,
        hash: u32,
        key: &Q,
        default: &'a Gcra,
    ) -> Option<(&'a mut StateWord, &'a Gcra)>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let gcra = self.changed.as_deref().unwrap_or(default);
        for entry in &mut self.few {
            match entry {
                Some(entry) if entry.key.borrow() == key => return Some((&mut entry.state, gcra)),
                _ => {}
            }
        }
        let (_, entry) = self.rest.as_deref_mut()?.map.find(hash, key)?;
        Some((&mut entry.state, gcra))
    }

    /// Returns the own limit that a word refers to.
    pub(super) fn own_limit_mut(&mut self, word: u64) -> Option<&mut OwnLimit> {
        self.rest.as_mut()?.own_limits.get_mut(number(word))
    }

    /// Inserts a key that is not in the table, with a full bucket of the default quota or a limit of its own.
    /// Returns its state as [`find`](Self::find) does.
    pub(super) fn insert<'a>(
        &'a mut self,
        hash: u32,
        key: K,
        own_limit: Option<OwnLimit>,
        default: &'a Gcra,
    ) -> Option<(&'a mut StateWord, &'a Gcra)> {
        let word = match own_limit {
            Some(own_limit) => MAX_TAT + 1 + u64::from(self.rest().own_limits.insert(own_limit)),
            None => 0,
        };
        let state = StateWord::new(word);
        let entry = Entry { key, state };
        let index = match self.few.iter().position(Option::is_none) {
            Some(index) => {
                self.few[index] = Some(entry);
                index
            }
            None => {
                let map = &mut self.rest().map;
                if map.is_full() {
                    map.resize(map.larger());
                }
                INLINE_KEYS + map.insert(hash, entry)
            }
        };
        let gcra = self.changed.as_deref().unwrap_or(default);
        let entry = match self.few.get_mut(index) {
            Some(entry) => entry.as_mut(),
            None => self.rest.as_mut()?.map.entry_mut(index - INLINE_KEYS),
        };
        Some((&mut entry?.state, gcra))
    }

    fn index_of<Q>(&mut self, hash: u32, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let same = |entry: &Option<Entry<K>>| entry.as_ref().is_some_and(|s| s.key.borrow() == key);
        match self.few.iter().position(same) {
            Some(index) => Some(index),
            None => Some(INLINE_KEYS + self.rest.as_mut()?.map.find(hash, key)?.0),
        }
    }

    fn entry_mut(&mut self, index: usize) -> Option<&mut Entry<K>> {
        match self.few.get_mut(index) {
            Some(entry) => entry.as_mut(),
            None => self.rest.as_mut()?.map.entry_mut(index - INLINE_KEYS),
        }
    }

    /// Removes a key and returns it, to be dropped outside the lock.
    pub(super) fn remove<Q>(&mut self, hash: u32, key: &Q) -> Option<K>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let index = self.index_of(hash, key)?;
        let key = self.take(index);
        self.shrink();
        key
    }

    fn take(&mut self, index: usize) -> Option<K> {
        let entry = match self.few.get_mut(index) {
            Some(entry) => entry.take(),
            None => self.rest.as_mut()?.map.take(index - INLINE_KEYS),
        }?;
        if entry.state.get() > MAX_TAT {
            self.rest().own_limits.remove(number(entry.state.get()));
        }
        Some(entry.key)
    }

    /// Frees memory after keys were removed.
    fn shrink(&mut self) {
        let Some(rest) = &mut self.rest else {
            return;
        };
        if rest.own_limits.is_empty() {
            rest.own_limits = OwnLimits::default();
            if rest.map.len() == 0 {
                self.rest = None;
                return;
            }
        }
        if let Some(fewer) = rest.map.fewer() {
            rest.map.resize(fewer);
        }
    }

    /// Counts a call. Returns whether a sweep is due.
    #[inline]
    pub(super) const fn is_due(&mut self) -> bool {
        self.calls += 1;
        if self.calls >= CALLS_PER_SWEEP {
            self.calls = 0;
            return true;
        }
        false
    }

    /// Like [`sweep`](Self::sweep), but starts at the group of `hash`, which the preceding lookup has brought into
    /// the cache.
    pub(super) fn sweep_near(
        &mut self,
        hash: u32,
        now: Instant,
        count: usize,
        default: &Gcra,
    ) -> Removed<K> {
        let hand = self.hand;
        self.hand = match &self.rest {
            Some(rest) => (INLINE_KEYS + rest.map.first_index(hash)) as u32,
            None => 0,
        };
        let removed = self.sweep(now, count, default);
        self.hand = hand;
        removed
    }

    /// Checks up to `count` keys and removes those that are indistinguishable from new ones.
    pub(super) fn sweep(&mut self, now: Instant, count: usize, default: &Gcra) -> Removed<K> {
        let mut removed = Removed::new();
        let capacity = self.capacity();
        for _ in 0..capacity {
            if removed.seen == count {
                break;
            }
            let index = self.hand as usize % capacity;
            self.hand = (index + 1) as u32;
            let Some(entry) = self.entry(index) else {
                continue;
            };
            removed.seen += 1;
            let is_fresh = match entry.state.get() {
                tat if tat <= MAX_TAT => self.plain(default).is_full(tat, now),
                word => self
                    .own_limit(word)
                    .and_then(|own_limit| own_limit.fresh_at(now))
                    .is_some_and(|at| at <= now),
            };
            if is_fresh {
                let key = self.take(index);
                removed.push(key);
            }
        }
        if removed.count > 0 {
            self.shrink();
        }
        removed
    }

    /// Of the next `count` keys, returns the one that will be indistinguishable from a new one first, the instant at
    /// which it will be, and the number of keys checked. Does not move the next sweep.
    pub(super) fn nearest(
        &self,
        now: Instant,
        count: usize,
        default: &Gcra,
    ) -> (Option<(Instant, usize)>, usize) {
        let capacity = self.capacity();
        let keys = (0..capacity)
            .map(|step| (self.hand as usize + step) % capacity)
            .filter_map(|index| Some((index, self.entry(index)?.state.get())));
        let (mut nearest, mut seen) = (None, 0);
        for (index, word) in keys.take(count) {
            seen += 1;
            let fresh_at = match word <= MAX_TAT {
                true => Some(self.plain(default).availability(word, now).full_at),
                false => self
                    .own_limit(word)
                    .and_then(|own_limit| own_limit.fresh_at(now)),
            };
            if let Some(at) = fresh_at {
                if nearest.is_none_or(|(nearest, _)| at < nearest) {
                    nearest = Some((at, index));
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
        if let Some((_, index)) = nearest {
            let key = self.take(index);
            removed.push(key);
            self.shrink();
        }
        removed
    }

    /// Pauses a key until `until`, unless it is paused for longer. Returns `false` if it is not in the table.
    pub(super) fn pause<Q>(&mut self, hash: u32, key: &Q, until: Instant, default: &Gcra) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let Some(own_limit) = self.own(hash, key, default) else {
            return false;
        };
        own_limit.paused_until = own_limit.paused_until.max(until);
        true
    }

    /// Returns the limiter of a key, in whose queue calls can wait. If the key has a token bucket, `make` converts
    /// it, given the rules, the state, and whether the key has the default quota. `None` if the key is not in the
    /// table.
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
        let own_limit = self.own(hash, key, default)?;
        let limiter = match &own_limit.limit {
            KeyLimit::Limiter(limiter) => limiter.clone(),
            KeyLimit::Bucket { gcra, tat } => make(*gcra, *tat, own_limit.is_default),
        };
        own_limit.limit = KeyLimit::Limiter(limiter.clone());
        Some(limiter)
    }

    /// Gives a key its own limit, unless it has one.
    fn own<Q>(&mut self, hash: u32, key: &Q, default: &Gcra) -> Option<&mut OwnLimit>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let index = self.index_of(hash, key)?;
        let mut word = self.entry(index)?.state.get();
        if word <= MAX_TAT {
            let (gcra, tat) = (*self.plain(default), word);
            let own_limit = OwnLimit::new(true, KeyLimit::Bucket { gcra, tat });
            word = MAX_TAT + 1 + u64::from(self.rest().own_limits.insert(own_limit));
            self.entry_mut(index)?.state.set(word);
        }
        self.own_limit_mut(word)
    }

    /// Returns the number of waiters.
    pub(super) fn waiting(&self) -> usize {
        let own_limits = self.rest.iter().flat_map(|rest| rest.own_limits.iter());
        let waiting = own_limits.map(|own_limit| match &own_limit.limit {
            KeyLimit::Limiter(limiter) => limiter.waiting(),
            KeyLimit::Bucket { .. } => 0,
        });
        waiting.sum()
    }

    /// Replaces the default quota of all keys that have it, and converts their states. Collects their
    /// limiters, which are changed outside the lock.
    pub(super) fn replace(
        &mut self,
        new: &Arc<Gcra>,
        default: &Gcra,
        convert: impl Fn(u64, &Gcra) -> u64,
        limiters: &mut Vec<RateLimiter>,
    ) {
        let old = *self.plain(default);
        for index in 0..self.capacity() {
            let entry = self.entry_mut(index);
            if let Some(entry) = entry.filter(|entry| entry.state.get() <= MAX_TAT) {
                entry.state.set(convert(entry.state.get(), &old));
            }
        }
        let own_limits = self
            .rest
            .iter_mut()
            .flat_map(|rest| rest.own_limits.iter_mut());
        for own_limit in own_limits.filter(|own_limit| own_limit.is_default) {
            match &mut own_limit.limit {
                KeyLimit::Limiter(limiter) => limiters.push(limiter.clone()),
                KeyLimit::Bucket { gcra, tat } => {
                    *tat = convert(*tat, gcra);
                    *gcra = **new;
                }
            }
        }
        self.changed = Some(new.clone());
    }
}

const fn number(word: u64) -> u32 {
    (word - MAX_TAT - 1) as u32
}
