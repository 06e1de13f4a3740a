//! One policy for each key, in bounded memory.
//!
//! # What it protects
//!
//! Dependencies from each other: one bad host, tenant or partition opens its own circuit and nobody
//! else's. And the process from its keys: there are never more entries than the bound.
//!
//! # When not to use it
//!
//! For keys that callers make up freely, where each new one must have its own policy: once the bound
//! is reached and nothing is idle, further keys share one.
//!
//! # Example
//!
//! ```
//! use backstop::circuit_breaker::{State, Trip};
//! use backstop::{CircuitBreaker, Keyed, ManualClock, Policy};
//!
//! let clock = ManualClock::new();
//! let template = CircuitBreaker::builder().trip_on(Trip::consecutive(1)).clock(clock.clone());
//! // Checked once, so that the closure has nothing to fail with.
//! template.clone().build()?;
//! let hosts = Keyed::new(move |_: &String| {
//!     template.clone().build().expect("checked")
//! });
//!
//! let down = hosts.get("down.example");
//! let _ = clock.block_on(down.call(|| async { Err::<(), _>("refused") }));
//! assert_eq!(hosts.get("down.example").state(), State::Open);
//! assert_eq!(hosts.get("up.example").state(), State::Closed);
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | [`max_keys`](Keyed::max_keys) | 100 000 |
//!
//! # How entries leave
//!
//! Only entries leave that a fresh one could not be told from ([`Evictable`]): nobody holds or uses
//! the policy, and it has no history that matters. Each new key looks at a few others, so idle keys
//! leave by themselves; no task runs in the background. A key in use, or with an open circuit, never
//! starts over by being evicted.
//!
//! # In a stack
//!
//! What has no state need not be kept for each key. A stack for one call may be put together of both:
//!
//! ```
//! use std::time::Duration;
//! use backstop::{CircuitBreaker, Keyed, ManualClock, Policy, Retry, Timeout};
//!
//! let clock = ManualClock::new();
//! let retry = Retry::builder().clock(clock.clone()).build()?;
//! let attempt = Timeout::builder().after(Duration::from_secs(2)).clock(clock.clone()).build()?;
//! let template = CircuitBreaker::builder().clock(clock.clone());
//! template.clone().build()?;
//! let hosts = Keyed::new(move |_: &String| template.clone().build().expect("checked"));
//!
//! let stack = (&retry, hosts.get("a.example"), &attempt);
//! assert_eq!(clock.block_on(stack.call(|| async { Ok::<_, ()>(7) })), Ok(7));
//! # Ok::<(), backstop::ConfigError>(())
//! ```

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// A policy that can tell whether a fresh one would do as well. A tuple can where all in it can.
pub trait Evictable {
    /// Whether nobody else holds or uses this policy, and it has no history that matters.
    ///
    /// Called under a lock, with `self` as the only handle [`Keyed`] has: it must be quick and must
    /// not use the `Keyed` it is in.
    fn is_idle_and_clean(&self) -> bool;
}

/// One policy for each key, made from a template. See the [module page](self).
///
/// Cheap to clone; clones share the entries. `P` is a handle: [`get`](Self::get) hands out clones.
pub struct Keyed<K, P> {
    inner: Arc<Inner<K, P>>,
}

type Template<K, P> = dyn Fn(&K) -> P + Send + Sync;

struct Inner<K, P> {
    template: Arc<Template<K, P>>,
    shards: Box<[Mutex<Shard<K, P>>]>,
    hasher: RandomState,
    max_per_shard: usize,
    /// What keys share that come when all is full.
    overflow: Mutex<Option<P>>,
}

struct Shard<K, P> {
    places: HashMap<K, usize>,
    entries: Vec<(K, P)>,
    /// The next entry to look at for leaving.
    hand: usize,
    /// How many were looked at since the last time that all were.
    looked_at: usize,
}

impl<K, P> Keyed<K, P>
where
    K: Hash + Eq + Clone,
    P: Evictable + Clone,
{
    /// Entries that each new key looks at for leaving.
    const LOOKED_AT: usize = 4;
    /// So few entries that all may be looked at for each key without room.
    const FEW: usize = 64;
    const SHARDS: usize = 16;

    /// Policies made by `template`, for at most 100 000 keys.
    ///
    /// The template is called outside locks. Two callers who bring a new key at the same time may
    /// both call it; they get the same policy.
    pub fn new(template: impl Fn(&K) -> P + Send + Sync + 'static) -> Self {
        Self::of(Arc::new(template), 100_000)
    }

    /// The same template with another bound and no entries yet. Zero counts as 1. Bounds below 1024 are
    /// exact; larger ones are kept in 16 parts, of which one may be full before the others.
    #[must_use]
    pub fn max_keys(self, keys: usize) -> Self {
        Self::of(self.inner.template.clone(), keys)
    }

    fn of(template: Arc<Template<K, P>>, max_keys: usize) -> Self {
        let shards = if max_keys < 64 * Self::SHARDS {
            1
        } else {
            Self::SHARDS
        };
        let shard = || {
            Mutex::new(Shard {
                places: HashMap::new(),
                entries: Vec::new(),
                hand: 0,
                looked_at: 0,
            })
        };
        Self {
            inner: Arc::new(Inner {
                template,
                shards: (0..shards).map(|_| shard()).collect(),
                hasher: RandomState::new(),
                max_per_shard: (max_keys / shards).max(1),
                overflow: Mutex::new(None),
            }),
        }
    }

    /// The policy of `key`, a new one if it has none.
    ///
    /// When the bound is reached and no entry can leave, keys without a policy share one, made by
    /// the template for the first of them. Where there are more than 64 entries, one that could leave
    /// since a moment may be found some keys later: no key looks at all of them in vain.
    pub fn get<Q>(&self, key: &Q) -> P
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let hash = inner.hasher.hash_one(key);
        let shard = &inner.shards[hash as usize % inner.shards.len()];
        let max = inner.max_per_shard;
        // Dropped outside the lock.
        let mut left = Vec::new();
        let has_room = {
            let mut shard = lock(shard);
            if let Some(policy) = shard.get(key) {
                return policy;
            }
            shard.make_room(max, &mut left)
        };
        if !has_room {
            if let Some(shared) = &*lock(&inner.overflow) {
                return shared.clone();
            }
        }
        let key = key.to_owned();
        let policy = (inner.template)(&key);
        let found = lock(shard).insert(&key, &policy, max);
        found.unwrap_or_else(|| lock(&inner.overflow).get_or_insert(policy).clone())
    }

    /// How many keys have a policy of their own.
    pub fn len(&self) -> usize {
        let shards = self.inner.shards.iter();
        shards.map(|shard| lock(shard).entries.len()).sum()
    }

    /// Whether no key has a policy of its own.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets all entries leave that can.
    pub fn evict_idle(&self) {
        for shard in &self.inner.shards {
            let mut left = Vec::new();
            let mut shard = lock(shard);
            shard.sweep_all(&mut left);
        }
    }

    /// Calls `look` with each key and its policy.
    ///
    /// Policies are looked at outside locks, so keys that come or go meanwhile may be seen or not.
    pub fn for_each(&self, mut look: impl FnMut(&K, &P)) {
        for shard in &self.inner.shards {
            let entries = lock(shard).entries.clone();
            for (key, policy) in entries {
                look(&key, &policy);
            }
        }
    }
}

impl<K: Hash + Eq + Clone, P: Evictable + Clone> Shard<K, P> {
    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<P>
    where
        K: Borrow<Q>,
    {
        let place = *self.places.get(key)?;
        Some(self.entries[place].1.clone())
    }

    /// Lets a few entries leave, or all that can where there is no room; whether there is then. What
    /// leaves is added to `left`.
    fn make_room(&mut self, max: usize, left: &mut Vec<P>) -> bool {
        self.sweep(Keyed::<K, P>::LOOKED_AT, left);
        if self.entries.len() >= max {
            // Not for each key, when it was in vain for the one before: by then as many entries were
            // looked at one by one as there are.
            let len = self.entries.len();
            if len <= Keyed::<K, P>::FEW || self.looked_at >= len {
                self.sweep_all(left);
            }
        }
        self.entries.len() < max
    }

    /// The policy of `key`, which becomes `policy` if it has none; `None` when there is no room.
    fn insert(&mut self, key: &K, policy: &P, max: usize) -> Option<P> {
        if let Some(found) = self.get(key) {
            return Some(found);
        }
        if self.entries.len() >= max {
            return None;
        }
        self.places.insert(key.clone(), self.entries.len());
        self.entries.push((key.clone(), policy.clone()));
        Some(policy.clone())
    }

    /// Looks at all entries. From the first one: those that move down to fill a gap then come from
    /// where nobody has looked yet.
    fn sweep_all(&mut self, left: &mut Vec<P>) {
        self.hand = 0;
        self.sweep(self.entries.len(), left);
        self.looked_at = 0;
    }

    /// Looks at `count` entries and lets those leave that can.
    fn sweep(&mut self, count: usize, left: &mut Vec<P>) {
        self.looked_at = self.looked_at.saturating_add(count);
        for _ in 0..count.min(self.entries.len()) {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let Some((_, policy)) = self.entries.get(self.hand) else {
                return;
            };
            if !policy.is_idle_and_clean() {
                self.hand += 1;
                continue;
            }
            let (key, policy) = self.entries.swap_remove(self.hand);
            self.places.remove(&key);
            left.push(policy);
            // The last entry has moved here.
            if let Some((moved, _)) = self.entries.get(self.hand) {
                if let Some(place) = self.places.get_mut(moved) {
                    *place = self.hand;
                }
            }
        }
    }
}

impl<K, P> Clone for Keyed<K, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<K, P> fmt::Debug for Keyed<K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.inner.shards.iter();
        let len: usize = shards.map(|shard| lock(shard).entries.len()).sum();
        f.debug_struct("Keyed")
            .field("len", &len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Leaves when it is told to, and counts how often it is asked.
    #[derive(Clone)]
    struct Asked(Arc<(AtomicBool, AtomicU64)>);

    impl Evictable for Asked {
        fn is_idle_and_clean(&self) -> bool {
            self.0.1.fetch_add(1, Ordering::Relaxed);
            self.0.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn no_key_looks_at_all_entries_in_vain() {
        const KEYS: u64 = 1000;
        let asked = Asked(Arc::default());
        let made = Arc::new(AtomicU64::new(0));
        let template = {
            let (asked, made) = (asked.clone(), made.clone());
            move |_: &u64| {
                made.fetch_add(1, Ordering::Relaxed);
                asked.clone()
            }
        };
        let keyed = Keyed::new(template).max_keys(KEYS as usize);
        for key in 0..2 * KEYS {
            keyed.get(&key);
        }
        assert_eq!(keyed.len() as u64, KEYS);
        let asked_so_far = asked.0.1.swap(0, Ordering::Relaxed);
        assert!(asked_so_far > 2 * KEYS, "each new key looks at some");
        // One for each key, and the one that the others share.
        assert_eq!(made.load(Ordering::Relaxed), KEYS + 1);

        for key in 2 * KEYS..12 * KEYS {
            keyed.get(&key);
        }
        let each = asked.0.1.load(Ordering::Relaxed) / (10 * KEYS);
        assert!(each < 10, "{each} entries looked at for each key");

        // And who can leave does, soon.
        asked.0.0.store(true, Ordering::Relaxed);
        keyed.get(&u64::MAX);
        keyed.get(&(u64::MAX - 1));
        assert!((keyed.len() as u64) < KEYS);
    }

    #[test]
    fn of_a_few_entries_the_one_that_can_leave_is_found_at_once() {
        let made = Arc::new(Mutex::new(Vec::new()));
        let keep = made.clone();
        let keyed = Keyed::new(move |_: &u64| {
            let policy = Asked(Arc::default());
            lock(&keep).push(policy.clone());
            policy
        });
        let keyed = keyed.max_keys(Keyed::<u64, Asked>::FEW);
        for key in 0..70 {
            keyed.get(&key);
        }
        let entries = lock(&made).len() - 1;
        assert_eq!((entries, keyed.len()), (64, 64));
        // Far from where the next look would be.
        lock(&made)[30].0.0.store(true, Ordering::Relaxed);
        keyed.get(&100);
        assert_eq!(lock(&made).len(), 66, "it has one of its own");
    }

    #[test]
    fn a_tuple_leaves_when_all_in_it_can() {
        let policy = |leaves: bool| {
            let asked = Asked(Arc::default());
            asked.0.0.store(leaves, Ordering::Relaxed);
            asked
        };
        assert!((policy(true), policy(true)).is_idle_and_clean());
        assert!(!(policy(true), policy(false)).is_idle_and_clean());
        assert!(!(policy(false), policy(true), policy(true)).is_idle_and_clean());
    }
}
