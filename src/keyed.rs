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
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::error::ConfigError;
use crate::sync::lock;

#[cfg(test)]
mod tests;

/// A policy that knows when a new one would do as well.
///
/// All policies of the crate do; so do tuples and `Option`s of them. Policies without state always
/// are as good as new.
pub trait Evictable {
    /// Returns how long until a new policy would do as well as this one, if it is not used until then.
    /// `None` while that cannot be foreseen: there is another handle, a call is in flight, or a setting
    /// was changed.
    ///
    /// History counts for as long as the rules of the policy can see it. Called outside all locks.
    fn evictable_in(&self) -> Option<Duration>;

    /// Whether a new policy would do as well now.
    fn is_evictable(&self) -> bool {
        self.evictable_in() == Some(Duration::ZERO)
    }
}

impl<P: Evictable> Evictable for Option<P> {
    fn evictable_in(&self) -> Option<Duration> {
        match self {
            Some(policy) => policy.evictable_in(),
            None => Some(Duration::ZERO),
        }
    }
}

/// Implements [`Evictable`] for policies without state.
macro_rules! stateless {
    ($policy:ident $(<$f:ident>)?) => {
        impl $(<$f>)? $crate::keyed::Evictable for $policy $(<$f>)? {
            fn evictable_in(&self) -> Option<std::time::Duration> {
                Some(std::time::Duration::ZERO)
            }
        }
    };
}
pub(crate) use stateless;

/// Whether this is the only handle. If it is, the caller sees all that was done through the others.
pub(crate) fn is_unshared<T>(handle: &Arc<T>) -> bool {
    if Arc::strong_count(handle) != 1 {
        return false;
    }
    // Acquire pairs with the release decrement by the last of the other handles.
    fence(Ordering::Acquire);
    true
}

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

/// Locked for moments only: entries are compared, cloned, judged and dropped outside.
struct Shard<K, P> {
    /// By hash, so that no key is compared here.
    entries: BTreeMap<Place, Slot<K, P>>,
    next_number: u64,
    /// The next entry to judge.
    hand: Place,
    /// Number of entries judged since all were.
    judged: usize,
}

/// A hash and a number that tells keys with the same hash apart.
type Place = (u64, u64);

struct Slot<K, P> {
    entry: Arc<Entry<K, P>>,
    /// How often the entry was handed out. Its policy may have been used since the number changed.
    uses: u64,
}

struct Entry<K, P> {
    key: K,
    policy: P,
}

/// An entry that was idle when it was looked at.
struct Idle<K, P> {
    place: Place,
    entry: Arc<Entry<K, P>>,
    uses: u64,
}

/// Number of entries that each new key judges.
const JUDGED: usize = 4;
/// With so few entries, all of them are judged for each key without room.
const FEW: usize = 64;
/// Number of entries that a new key chooses from with [`Overflow::Evict`], if there are more.
const CANDIDATES: usize = 16;
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
        let shard = || {
            Mutex::new(Shard {
                entries: BTreeMap::new(),
                next_number: 0,
                hand: (0, 0),
                judged: 0,
            })
        };
        Self {
            inner: Arc::new(Inner {
                template,
                shards: (0..shards).map(|_| shard()).collect(),
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
                    if shard.entries.len() >= inner.max_per_shard {
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
            let hand_out = |slot: &mut Slot<K, P>| slot.hand_out();
            let entries: Vec<_> = lock(shard).entries.values_mut().map(hand_out).collect();
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
            let len = shard.entries.len();
            if len < self.max_per_shard {
                return true;
            }
            // Not for each key: if it was in vain for the last one, only after as many entries were
            // judged one by one as there are.
            len <= FEW || shard.judged >= len
        };
        if is_due {
            sweep_all(shard);
        }
        let has_room = || lock(shard).entries.len() < self.max_per_shard;
        has_room() || (self.overflow == Overflow::Evict && evict_nearest(shard) && has_room())
    }
}

impl<K, P> Inner<K, P> {
    fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).entries.len()).sum()
    }
}

/// Finds a key among the entries with its hash and a number of `after` or more. Increases `after`
/// beyond all entries that have another key.
fn find<K, P, Q>(
    shard: &Mutex<Shard<K, P>>,
    hash: u64,
    key: &Q,
    after: &mut u64,
) -> Option<Arc<Entry<K, P>>>
where
    K: Borrow<Q>,
    Q: Eq + ?Sized,
{
    loop {
        let entry = lock(shard).hand_out(hash, after)?;
        if entry.key.borrow() == key {
            return Some(entry);
        }
    }
}

/// Judges the next `count` entries and evicts those that can be.
fn sweep<K, P: Evictable>(shard: &Mutex<Shard<K, P>>, count: usize) {
    for _ in 0..count {
        let idle = lock(shard).next();
        match idle {
            Next::End => return,
            Next::InUse => {}
            Next::Idle(idle) => {
                if idle.entry.policy.is_evictable() {
                    // Dropped after the lock.
                    let evicted = lock(shard).evict(&idle);
                    drop(evicted);
                }
            }
        }
    }
}

/// Judges all entries once.
fn sweep_all<K, P: Evictable>(shard: &Mutex<Shard<K, P>>) {
    let len = {
        let mut shard = lock(shard);
        shard.hand = (0, 0);
        shard.entries.len()
    };
    sweep(shard, len);
    lock(shard).judged = 0;
}

/// Evicts the entry that will be evictable first, of all if there are few, otherwise of the next ones.
fn evict_nearest<K, P: Evictable>(shard: &Mutex<Shard<K, P>>) -> bool {
    let count = match lock(shard).entries.len() {
        len if len <= FEW => len,
        _ => CANDIDATES,
    };
    let mut nearest: Option<(Duration, Idle<K, P>)> = None;
    for _ in 0..count {
        // A statement of its own, so that the lock is released before the entry is judged.
        let next = lock(shard).next();
        if let Next::Idle(idle) = next {
            if let Some(wait) = idle.entry.policy.evictable_in() {
                if nearest.as_ref().is_none_or(|(least, _)| wait < *least) {
                    nearest = Some((wait, idle));
                }
            }
        }
    }
    let evicted = nearest.and_then(|(_, idle)| lock(shard).evict(&idle));
    evicted.is_some()
}

enum Next<K, P> {
    /// There are no entries.
    End,
    InUse,
    Idle(Idle<K, P>),
}

impl<K, P> Slot<K, P> {
    fn hand_out(&mut self) -> Arc<Entry<K, P>> {
        self.uses += 1;
        self.entry.clone()
    }
}

impl<K, P> Shard<K, P> {
    /// Whether there is no entry with this hash and a number of `after` or more.
    fn is_new(&self, hash: u64, after: u64) -> bool {
        let range = (hash, after)..=(hash, u64::MAX);
        self.entries.range(range).next().is_none()
    }

    /// Hands out the first entry with this hash and a number of `after` or more.
    fn hand_out(&mut self, hash: u64, after: &mut u64) -> Option<Arc<Entry<K, P>>> {
        let range = (hash, *after)..=(hash, u64::MAX);
        let (place, slot) = self.entries.range_mut(range).next()?;
        *after = place.1 + 1;
        Some(slot.hand_out())
    }

    fn insert(&mut self, hash: u64, entry: Arc<Entry<K, P>>) {
        let place = (hash, self.next_number);
        self.next_number += 1;
        self.entries.insert(place, Slot { entry, uses: 0 });
    }

    /// Moves the hand. Returns the entry it was at, to be judged.
    fn next(&mut self) -> Next<K, P> {
        self.judged = self.judged.saturating_add(1);
        let mut from_hand = self.entries.range(self.hand..);
        let Some((&place, slot)) = from_hand.next().or_else(|| self.entries.iter().next()) else {
            return Next::End;
        };
        self.hand = (place.0, place.1 + 1);
        if Arc::strong_count(&slot.entry) > 1 {
            return Next::InUse;
        }
        Next::Idle(Idle {
            place,
            entry: slot.entry.clone(),
            uses: slot.uses,
        })
    }

    /// Removes an entry unless it was handed out since it was idle.
    fn evict(&mut self, idle: &Idle<K, P>) -> Option<Slot<K, P>> {
        let slot = self.entries.get(&idle.place)?;
        let is_same = Arc::ptr_eq(&slot.entry, &idle.entry) && slot.uses == idle.uses;
        if is_same {
            return self.entries.remove(&idle.place);
        }
        None
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
