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

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// A policy that can tell whether a fresh one would do as well.
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
}

impl<K, P> Keyed<K, P>
where
    K: Hash + Eq + Clone,
    P: Evictable + Clone,
{
    /// Entries that each new key looks at for leaving.
    const LOOKED_AT: usize = 4;
    const SHARDS: usize = 16;

    /// Policies made by `template`, for at most 100 000 keys.
    ///
    /// The template is called outside locks. Two callers who bring a new key at the same time may
    /// both call it; they get the same policy.
    pub fn new(template: impl Fn(&K) -> P + Send + Sync + 'static) -> Self {
        Self::of(Arc::new(template), 100_000)
    }

    /// The same template with another bound and no entries yet. At least 1; small bounds are exact,
    /// larger ones are kept in 16 parts, of which one may be full before the others.
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
    /// the template for the first of them.
    pub fn get<Q>(&self, key: &Q) -> P
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let hash = inner.hasher.hash_one(key);
        let shard = &inner.shards[hash as usize % inner.shards.len()];
        if let Some(policy) = lock(shard).get(key) {
            return policy;
        }
        let key = key.to_owned();
        let policy = (inner.template)(&key);
        let mut left = Vec::new();
        let found = lock(shard).insert(&key, &policy, inner.max_per_shard, &mut left);
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

    /// The policy of `key`, which becomes `policy` if it has none; `None` when there is no room.
    /// What leaves is added to `left`, to be dropped outside the lock.
    fn insert(&mut self, key: &K, policy: &P, max: usize, left: &mut Vec<P>) -> Option<P> {
        if let Some(found) = self.get(key) {
            return Some(found);
        }
        self.sweep(Keyed::<K, P>::LOOKED_AT, left);
        if self.entries.len() >= max {
            // Rare, and no dearer than what brought us here: as many new keys as there are entries.
            self.sweep_all(left);
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
    }

    /// Looks at `count` entries and lets those leave that can.
    fn sweep(&mut self, count: usize, left: &mut Vec<P>) {
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
