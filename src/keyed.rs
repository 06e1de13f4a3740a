//! One policy for each key, in bounded memory.
//!
//! # What it protects
//!
//! Dependencies from each other: one bad host, tenant or partition opens its own circuit and no
//! other. And the process from its keys: there are never more entries than the bound.
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
//! let hosts = Keyed::<String, _>::try_new(move || template.clone().build())?;
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
//! | [`overflow`](Keyed::overflow) | [`Overflow::Shared`] |
//!
//! # Eviction
//!
//! An entry is evicted only if a new one would do as well ([`Evictable`]): there is no other handle of
//! its policy, and no history that its rules can still see. A breaker's entry stays until its break is
//! over and its windows have passed. Each new key looks at a few other entries, so idle keys leave
//! without a background task.
//!
//! # Keys and policies that misbehave
//!
//! No user code runs under a lock: not `Hash`, `Eq`, `Clone` or `Drop` of keys and policies, not the
//! template, and not the closure of [`for_each`](Keyed::for_each). All of it may use the same `Keyed`.
//! A panic in any of it goes on to the caller and leaves the entries intact.
//!
//! # In a stack
//!
//! What has no state need not be kept for each key, but may be: the template can make any stack.
//! Policies for one call can also be put together of both:
//!
//! ```
//! use std::time::Duration;
//! use backstop::{CircuitBreaker, Keyed, ManualClock, Policy, Retry, Timeout};
//!
//! let clock = ManualClock::new();
//! let retry = Retry::builder().clock(clock.clone()).build()?;
//! let attempt = Timeout::builder().after(Duration::from_secs(2)).clock(clock.clone()).build()?;
//! let template = CircuitBreaker::builder().clock(clock.clone());
//! let hosts = Keyed::<String, _>::try_new(move || template.clone().build())?;
//!
//! let stack = (&retry, hosts.get("a.example"), &attempt);
//! assert_eq!(clock.block_on(stack.call(|| async { Ok::<_, ()>(7) })), Ok(7));
//! # Ok::<(), backstop::ConfigError>(())
//! ```

use std::borrow::Borrow;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::ConfigError;
use crate::sync::lock;

mod entries;
mod evictable;
#[cfg(test)]
mod tests;

pub use self::evictable::Evictable;
pub(crate) use self::evictable::{is_unshared, stateless};

use self::entries::{Entry, FEW, Shard, evict_nearest, find, sweep, sweep_all};

/// What happens to new keys while the maximum number of keys is in use.
///
/// For logins, and wherever a limit is there to stop guessing, choose `Shared` or `Reject`: with
/// `Evict`, a caller that makes up keys can push out its own count, or that of the account it attacks,
/// and begin again. The key should be the account or the address that is known, not whatever the
/// request says. Where a limit only shares out capacity, and rejecting a stranger is worse than
/// admitting a little too much, `Evict` keeps the service open during a flood of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// They are rejected.
    Reject,
    /// They share one limit or policy.
    #[default]
    Shared,
    /// They replace the key that would be like a new one first: among all keys if there are at most 64,
    /// otherwise among a sample. Keys that are in use are not replaced.
    Evict,
}

/// There is no room for another key. See [`Keyed::try_get`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room for another key")
    }
}

impl std::error::Error for NoRoom {}

/// One policy for each key, made from a template. See the [module page](self).
///
/// Cheap to clone; clones share the entries. `P` is a handle: [`get`](Self::get) hands out clones.
pub struct Keyed<K, P> {
    inner: Arc<Inner<K, P>>,
}

/// Makes the policy of a key. `None` for the shared one.
type Template<K, P> = dyn Fn(&K) -> Option<P> + Send + Sync;

struct Inner<K, P> {
    template: Arc<Template<K, P>>,
    shards: Box<[Mutex<Shard<K, P>>]>,
    hasher: RandomState,
    max_keys: usize,
    max_per_shard: usize,
    overflow: Overflow,
    /// The policy of keys without room.
    shared: OnceLock<P>,
}

/// Number of entries that each new key judges.
const JUDGED: usize = 4;
const SHARDS: usize = 16;

impl<K, P> Keyed<K, P>
where
    K: Hash + Eq,
    P: Evictable + Clone,
{
    /// Makes policies with `template`, for at most 100 000 keys.
    ///
    /// Two callers that bring a new key at the same time may both call the template; they get the same
    /// policy.
    pub fn new(template: impl Fn(&K) -> P + Send + Sync + 'static) -> Self {
        let template = Arc::new(move |key: &K| Some(template(key)));
        Self::with(template, None, 100_000, Overflow::Shared)
    }

    /// Makes policies with a template that is the same for all keys and can fail. It is called once to
    /// find out.
    ///
    /// # Errors
    ///
    /// If the template fails. Should it fail later, the key gets the shared policy.
    pub fn try_new(
        template: impl Fn() -> Result<P, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let shared = template()?;
        let template = Arc::new(move |_: &K| template().ok());
        Ok(Self::with(
            template,
            Some(shared),
            100_000,
            Overflow::Shared,
        ))
    }

    /// The same template with another bound and no entries yet. Zero counts as 1. Bounds below 1024 are
    /// exact; larger ones are kept in 16 parts, of which one may be full before the others.
    #[must_use]
    pub fn max_keys(self, keys: usize) -> Self {
        let inner = &*self.inner;
        let shared = inner.shared.get().cloned();
        Self::with(inner.template.clone(), shared, keys, inner.overflow)
    }

    /// The same template with another choice for keys without room, and no entries yet.
    #[must_use]
    pub fn overflow(self, overflow: Overflow) -> Self {
        let inner = &*self.inner;
        let shared = inner.shared.get().cloned();
        Self::with(inner.template.clone(), shared, inner.max_keys, overflow)
    }

    fn with(
        template: Arc<Template<K, P>>,
        shared: Option<P>,
        max_keys: usize,
        overflow: Overflow,
    ) -> Self {
        let shards = if max_keys < 64 * SHARDS { 1 } else { SHARDS };
        Self {
            inner: Arc::new(Inner {
                template,
                shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
                hasher: RandomState::new(),
                max_keys,
                max_per_shard: (max_keys / shards).max(1),
                overflow,
                shared: shared.map_or_else(OnceLock::new, OnceLock::from),
            }),
        }
    }

    /// Returns the policy of `key`, a new one if it has none.
    ///
    /// When the bound is reached and no entry can be evicted, keys without a policy share one, made by
    /// the template for the first of them. With more than 64 entries, one that has just become
    /// evictable may be found some keys later. With [`Overflow::Reject`] too a policy is returned: use
    /// [`try_get`](Self::try_get).
    pub fn get<Q>(&self, key: &Q) -> P
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        match self.find_or_insert(key) {
            Some(policy) => policy,
            None => self.shared(key),
        }
    }

    /// As [`get`](Self::get), but rejects keys without room with [`Overflow::Reject`].
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if the bound is reached and no entry can be evicted.
    pub fn try_get<Q>(&self, key: &Q) -> Result<P, NoRoom>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        match self.find_or_insert(key) {
            Some(policy) => Ok(policy),
            None if self.inner.overflow == Overflow::Reject => Err(NoRoom),
            None => Ok(self.shared(key)),
        }
    }

    fn find_or_insert<Q>(&self, key: &Q) -> Option<P>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let hash = inner.hasher.hash_one(key);
        let shard = &inner.shards[hash as usize % inner.shards.len()];
        let mut after = 0;
        if let Some(entry) = find(shard, hash, key, &mut after) {
            return Some(entry.policy.clone());
        }
        if !inner.make_room(shard) {
            return None;
        }
        let key_of_entry = key.to_owned();
        let policy = (inner.template)(&key_of_entry)?;
        let entry = Arc::new(Entry {
            key: key_of_entry,
            policy,
        });
        loop {
            {
                let mut shard = lock(shard);
                if shard.is_new(hash, after) {
                    if shard.len() >= inner.max_per_shard {
                        return None;
                    }
                    shard.insert(hash, entry.clone());
                    break;
                }
            }
            // Another thread has added a key with this hash: perhaps the same.
            if let Some(entry) = find(shard, hash, key, &mut after) {
                return Some(entry.policy.clone());
            }
        }
        Some(entry.policy.clone())
    }

    /// Returns the policy of keys without room.
    fn shared<Q>(&self, key: &Q) -> P
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        let shared = &self.inner.shared;
        loop {
            if let Some(policy) = shared.get() {
                return policy.clone();
            }
            // Outside the initialization, which is a lock. Of two callers, one has made it in vain.
            if let Some(policy) = (self.inner.template)(&key.to_owned()) {
                drop(shared.set(policy));
            }
        }
    }

    /// Returns the number of keys that have a policy of their own.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether no key has a policy of its own.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Evicts all entries that can be.
    pub fn evict_idle(&self) {
        for shard in &self.inner.shards {
            sweep_all(shard);
        }
    }

    /// Calls `look` with each key and its policy, outside all locks. Keys that are added or evicted
    /// meanwhile may be seen or not.
    pub fn for_each(&self, mut look: impl FnMut(&K, &P)) {
        for shard in &self.inner.shards {
            let entries = lock(shard).hand_out_all();
            for entry in entries {
                look(&entry.key, &entry.policy);
            }
        }
    }
}

impl<K, P: Evictable> Inner<K, P> {
    /// Evicts a few entries, or all that can be if there is no room. Returns whether there is room then.
    fn make_room(&self, shard: &Mutex<Shard<K, P>>) -> bool {
        sweep(shard, JUDGED);
        let is_due = {
            let shard = lock(shard);
            let len = shard.len();
            if len < self.max_per_shard {
                return true;
            }
            // Not for each key: if it was in vain for the last one, only after as many entries were
            // judged one by one as there are.
            len <= FEW || shard.judged() >= len
        };
        if is_due {
            sweep_all(shard);
        }
        let has_room = || lock(shard).len() < self.max_per_shard;
        has_room() || (self.overflow == Overflow::Evict && evict_nearest(shard) && has_room())
    }
}

impl<K, P> Inner<K, P> {
    fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).len()).sum()
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
        f.debug_struct("Keyed")
            .field("len", &self.inner.len())
            .finish_non_exhaustive()
    }
}
