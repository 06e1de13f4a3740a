//! One limit per key, in bounded memory.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use self::hash::Secret;
use self::table::{Removed, Slot, Table};
use self::tiers::Tier;
use super::Decision;
use super::config::Quota;
use super::state::{Gcra, Inherit, Refusal, TokenBucket};
use super::timeline::Timeline;
use crate::clock::{ClockHandle, Instant};
use crate::error::{ConfigError, Reason, Rejected};
use crate::observe::{Event, Observer};
use crate::sync::lock;

mod config;
mod hash;
mod lines;
mod policy;
mod table;
mod tiers;

pub use self::config::KeyedRateLimiterBuilder;
pub use self::policy::Limited;

/// A token bucket for each user, region or server, in bounded memory.
///
/// Keys are added when they are first seen. A key whose bucket is full again is forgotten, as a new
/// one would be just the same; a few keys are looked at during each call, so nothing runs in the
/// background. A key that is in use is never forgotten, so nobody gets a fresh burst by causing
/// others to be evicted. When `max_keys` are in use, new keys are refused or share one bucket.
///
/// Cheap to clone; clones share all limits. Strings are looked up borrowed, without allocating.
///
/// # Example
///
/// ```
/// use backstop::rate_limiter::{KeyedRateLimiter, Quota};
/// use backstop::ManualClock;
///
/// let clock = ManualClock::new();
/// let limits = KeyedRateLimiter::<String>::builder()
///     .quota(Quota::per_second(1))
///     .quota_for(|user| user.starts_with("gold:").then_some(Quota::per_second(100)))
///     .max_keys(50_000)
///     .clock(clock)
///     .build()?;
///
/// assert!(limits.try_acquire("alice").is_ok());
/// assert!(limits.try_acquire("alice").is_err());
/// assert!(limits.try_acquire("bob").is_ok());
/// assert_eq!(limits.decide("gold:carol", 10).remaining, 90);
/// # Ok::<(), backstop::ConfigError>(())
/// ```
pub struct KeyedRateLimiter<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for KeyedRateLimiter<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

struct Inner<K> {
    shards: Box<[Shard<K>]>,
    /// How far a hash is shifted to be the number of a shard.
    shift: u32,
    secret: Secret,
    /// The default tier as it was built with. Tables are told when it changes.
    usual: Tier,
    /// How many keys there are, in all shards.
    keys: AtomicUsize,
    max_keys: usize,
    /// The shard that is searched next for idle keys, when there is no room.
    victim: AtomicUsize,
    /// Locked with a shard locked, never the other way round.
    quota: Mutex<Quota>,
    /// Whose turn it is to change the quota.
    changing: Mutex<()>,
    quota_for: Option<QuotaFor<K>>,
    /// The bucket of the keys there is no room for.
    shared: Option<TokenBucket>,
    overflowed: AtomicU64,
    clock: ClockHandle,
    timeline: Option<Timeline>,
    max_wait: Duration,
    observer: Option<Arc<dyn Observer>>,
    name: &'static str,
}

/// The quota of a key, when it has one of its own.
type QuotaFor<K> = Arc<dyn Fn(&K) -> Option<Quota> + Send + Sync>;

/// On a cache line of its own, together with its first two keys if they are integers.
#[repr(align(64))]
struct Shard<K>(Mutex<Table<K>>);

/// At most so many shards: threads seldom meet, and their lines stay in a core's own cache.
const MOST_SHARDS: usize = 1024;

/// What happens to new keys while `max_keys` keys are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// They are refused.
    Reject,
    /// They share one bucket with the default quota.
    #[default]
    Shared,
}

/// Where one key stands. See [`KeyedRateLimiter::entries`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<K> {
    /// The key.
    pub key: K,
    /// The burst of its quota.
    pub limit: u64,
    /// How many tokens it has.
    pub remaining: u64,
    /// How long until it is full, and may be forgotten.
    pub reset_after: Duration,
}

/// Where a keyed limiter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedSnapshot {
    /// The name.
    pub name: &'static str,
    /// How many keys it remembers.
    pub keys: usize,
    /// How many it remembers at most.
    pub max_keys: usize,
    /// How many calls came with keys there was no room for.
    pub overflowed: u64,
}

impl<K> KeyedRateLimiter<K> {
    /// Starts building one. A quota must be given.
    pub const fn builder() -> KeyedRateLimiterBuilder<K> {
        KeyedRateLimiterBuilder::new()
    }

    /// How many keys it remembers.
    pub fn len(&self) -> usize {
        self.inner.keys.load(Ordering::Relaxed)
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it stands.
    pub fn snapshot(&self) -> KeyedSnapshot {
        KeyedSnapshot {
            name: self.inner.name,
            keys: self.len(),
            max_keys: self.inner.max_keys,
            overflowed: self.inner.overflowed.load(Ordering::Relaxed),
        }
    }

    /// The keys it remembers, in no order. Each part of the table is copied when the iteration gets
    /// there, so calls go on meanwhile.
    pub fn entries(&self) -> impl Iterator<Item = Entry<K>> + '_
    where
        K: Clone,
    {
        self.inner.shards.iter().flat_map(|shard| {
            let now = self.inner.now();
            let table = lock(&shard.0);
            let entries = table.slots(&self.inner.usual).map(|(slot, gcra)| {
                let standing = gcra.standing(slot.tat(), now);
                Entry {
                    key: slot.key.clone(),
                    limit: standing.limit,
                    remaining: u64::try_from(standing.available).unwrap_or(0),
                    reset_after: standing.full_at.saturating_duration_since(now),
                }
            });
            entries.collect::<Vec<_>>()
        })
    }

    /// Forgets all keys whose buckets are full. Calls do that by and by; this does it at once.
    pub fn evict_idle(&self) {
        let now = self.inner.now();
        for shard in &self.inner.shards {
            let removed = lock(&shard.0).sweep(now, usize::MAX, &self.inner.usual);
            self.inner.forgotten(&removed);
        }
    }

    /// Replaces the default quota for all keys that have it. See
    /// [`RateLimiter::set_quota`](super::RateLimiter::set_quota).
    ///
    /// # Errors
    ///
    /// When the quota has no meaning, or is no token bucket that begins full.
    pub fn set_quota(&self, quota: Quota, inherit: Inherit) -> Result<(), ConfigError> {
        config::check(&quota)?;
        let inner = &*self.inner;
        let _changing = lock(&inner.changing);
        // First of all: a key that comes from here on has the new quota, and one that came before is
        // found in its shard.
        let current = std::mem::replace(&mut *lock(&inner.quota), quota);
        let now = inner.now();
        for shard in &inner.shards {
            lock(&shard.0).replace(&current, &quota, &inner.usual, |tat, old, new| {
                old.inherit(tat, now, new, inherit)
            });
        }
        if let Some(shared) = &inner.shared {
            shared.replace(now, &quota.gcra(0), inherit);
        }
        Ok(())
    }

    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }
}

impl<K: Hash + Eq> KeyedRateLimiter<K> {
    /// Takes one of the key's tokens, if there is one.
    ///
    /// # Errors
    ///
    /// [`Reason::RateLimited`], with the exact time after which there would be one; without a time
    /// when there is no room for another key.
    #[inline]
    pub fn try_acquire<Q>(&self, key: &Q) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_n(key, 1)
    }

    /// Takes `cost` of the key's tokens, if there are that many.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire`](Self::try_acquire); [`Reason::CostExceedsLimit`] when its quota never
    /// holds that many.
    #[inline]
    pub fn try_acquire_n<Q>(&self, key: &Q, cost: u64) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_at(key, cost, self.inner.now(), None)
    }

    #[inline]
    fn try_acquire_at<Q>(
        &self,
        key: &Q,
        cost: u64,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let taken = self.inner.with(key, now, |tat, gcra| {
            gcra.take(*tat, now, cost).map(|next| *tat = next)
        });
        match taken {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(self.inner.reject(now, Some(refusal), observer)),
            Err(NoRoom) => self.inner.overflow(now, cost, observer),
        }
    }

    /// Takes `cost` of the key's tokens, if there are that many, and tells where that leaves it.
    pub fn decide<Q>(&self, key: &Q, cost: u64) -> Decision
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let now = self.inner.now();
        let decided = self.inner.with(key, now, |tat, gcra| {
            let ready = gcra.ready(*tat, now, cost, 0);
            if ready.is_ok() {
                *tat = gcra.put(*tat, now, cost);
            }
            Decision::new(now, ready, gcra.standing(*tat, now))
        });
        match (decided, &self.inner.shared) {
            (Ok(decision), _) => decision,
            (Err(NoRoom), Some(shared)) => {
                self.inner.overflowed.fetch_add(1, Ordering::Relaxed);
                let (taken, standing, _) = shared.borrow(now, cost, 0);
                Decision::new(now, taken, standing)
            }
            (Err(NoRoom), None) => {
                self.inner.overflowed.fetch_add(1, Ordering::Relaxed);
                Decision {
                    allowed: false,
                    limit: 0,
                    remaining: 0,
                    reset_after: Duration::ZERO,
                    retry_after: None,
                }
            }
        }
    }

    /// What [`decide`](Self::decide) would say about a call that costs one token, except that
    /// `remaining` is what there is now; `None` for a key it does not remember, whose bucket is
    /// full. Takes nothing.
    pub fn peek<Q>(&self, key: &Q) -> Option<Decision>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let now = self.inner.now();
        let hash = self.inner.secret.hash(key);
        let mut table = self.inner.shard(hash);
        let (slot, gcra) = table.find(hash as u32, key, &self.inner.usual)?;
        let ready = gcra.ready(slot.tat(), now, 1, 0);
        Some(Decision::new(now, ready, gcra.standing(slot.tat(), now)))
    }

    /// Gives the key `tokens` back, up to its burst.
    pub fn add<Q>(&self, key: &Q, tokens: u64)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.inner.secret.hash(key);
        let mut table = self.inner.shard(hash);
        if let Some((slot, gcra)) = table.find(hash as u32, key, &self.inner.usual) {
            slot.set_tat(gcra.give(slot.tat(), tokens));
        }
    }

    /// Forgets a key: its next call finds a full bucket. Returns whether it was there.
    pub fn forget<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.inner.secret.hash(key);
        let removed = self.inner.shard(hash).remove(hash as u32, key);
        if removed.is_some() {
            self.inner.keys.fetch_sub(1, Ordering::Relaxed);
        }
        removed.is_some()
    }

    /// Waits for `cost` of the key's tokens, but no longer than `longest`. Turns are given out in
    /// the order of the calls.
    ///
    /// # Errors
    ///
    /// At once: [`Reason::RateLimited`] when the turn would come later than `longest`,
    /// [`Reason::DeadlineTooClose`] when it would come after the deadline of the calls made here
    /// and now, [`Reason::CostExceedsLimit`] when there will never be that many tokens.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives the tokens back. Those who got their turns after it keep them.
    pub async fn acquire<Q>(&self, key: &Q, cost: u64, longest: Duration) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let reading = self.inner.clock.now();
        let deadline = crate::deadline::inherited(&self.inner.clock, reading);
        self.wait(key, cost, longest, reading, deadline, None).await
    }

    async fn wait<Q>(
        &self,
        key: &Q,
        cost: u64,
        longest: Duration,
        reading: Instant,
        deadline: Instant,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let now = inner.steady(reading);
        let left =
            (deadline != Instant::FAR_FUTURE).then(|| deadline.saturating_duration_since(reading));
        let latest = now + left.map_or(longest, |left| left.min(longest));
        let booked = inner.with(key, now, |tat, gcra| {
            // Beyond what the bucket holds there is nothing to wait for.
            let price = gcra.ready(0, Instant::FAR_FUTURE, cost, 0);
            let turn = match gcra.ready(*tat, now, cost, 0) {
                _ if price == Err(Refusal::Never) => return Err(Refusal::Never),
                Ok(()) => now,
                Err(Refusal::Until(at)) if at <= latest => at,
                Err(refusal) => return Err(refusal),
            };
            *tat = gcra.put(*tat, now, cost);
            Ok(turn)
        });
        match booked {
            Ok(Ok(turn)) if turn <= now => Ok(()),
            Ok(Ok(turn)) => {
                let mut booking = Booking {
                    limiter: self,
                    key,
                    cost,
                };
                let wait = turn.saturating_duration_since(now);
                inner.clock.sleep_until(reading + wait).await;
                booking.cost = 0;
                Ok(())
            }
            Ok(Err(refusal)) => {
                let mut rejected = inner.rejected(now, Some(refusal));
                if left.is_some_and(|left| left <= longest) && refusal != Refusal::Never {
                    let late = Rejected::new(inner.name, Reason::DeadlineTooClose);
                    rejected = match rejected.retry_after() {
                        Some(after) => late.with_retry_after(after),
                        None => late,
                    };
                }
                inner.report(&rejected, observer);
                Err(rejected)
            }
            Err(NoRoom) => inner.overflow(now, cost, observer),
        }
    }

    /// A policy that takes from this key's tokens: one for each call.
    ///
    /// Refuses at once, or waits as the builder's `max_wait` says.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::rate_limiter::{KeyedRateLimiter, Quota};
    /// use backstop::{ManualClock, Policy};
    ///
    /// let clock = ManualClock::new();
    /// let per_user = KeyedRateLimiter::<String>::builder()
    ///     .quota(Quota::per_second(1))
    ///     .clock(clock.clone())
    ///     .build()?;
    /// let call = || async { Ok::<_, ()>("done") };
    /// assert!(clock.block_on(per_user.of("alice").call(call)).is_ok());
    /// assert!(clock.block_on(per_user.of("alice").call(call)).is_err());
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub const fn of<'a, Q: ?Sized>(&'a self, key: &'a Q) -> Limited<'a, K, Q> {
        Limited::new(self, key)
    }
}

/// A turn that has been given out, and is given back unless it is used.
struct Booking<'a, K, Q: ?Sized>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq,
{
    limiter: &'a KeyedRateLimiter<K>,
    key: &'a Q,
    cost: u64,
}

impl<K, Q: ?Sized> Drop for Booking<'_, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq,
{
    fn drop(&mut self) {
        if self.cost > 0 {
            self.limiter.add(self.key, self.cost);
        }
    }
}

/// There is no room for another key.
struct NoRoom;

impl<K> Inner<K> {
    #[inline]
    fn now(&self) -> Instant {
        self.steady(self.clock.now())
    }

    #[inline]
    fn steady(&self, reading: Instant) -> Instant {
        match &self.timeline {
            None => reading,
            Some(timeline) => timeline.steady(reading),
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> MutexGuard<'_, Table<K>> {
        lock(&self.shards[(hash >> self.shift) as usize].0)
    }

    /// Counts keys that are no longer there.
    fn forgotten(&self, removed: &Removed<K>) {
        self.keys.fetch_sub(removed.count, Ordering::Relaxed);
    }

    fn rejected(&self, now: Instant, refusal: Option<Refusal>) -> Rejected {
        match refusal {
            Some(Refusal::Never) => Rejected::new(self.name, Reason::CostExceedsLimit),
            Some(Refusal::Until(at)) if at != Instant::FAR_FUTURE => {
                let wait = at.as_nanos().saturating_sub(now.as_nanos());
                Rejected::new(self.name, Reason::RateLimited).with_retry_nanos(wait)
            }
            _ => Rejected::new(self.name, Reason::RateLimited),
        }
    }

    fn report(&self, rejected: &Rejected, observer: Option<&dyn Observer>) {
        for observer in [observer, self.observer.as_deref()].into_iter().flatten() {
            observer.on_event(&Event::rejected(rejected));
        }
    }

    fn reject(
        &self,
        now: Instant,
        refusal: Option<Refusal>,
        observer: Option<&dyn Observer>,
    ) -> Rejected {
        let rejected = self.rejected(now, refusal);
        self.report(&rejected, observer);
        rejected
    }

    /// What happens to a call whose key there is no room for.
    #[cold]
    fn overflow(
        &self,
        now: Instant,
        cost: u64,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        let refused = match &self.shared {
            None => Err(None),
            Some(shared) => shared.take(now, cost).map_err(Some),
        };
        refused.map_err(|refusal| self.reject(now, refusal, observer))
    }
}

impl<K: Hash + Eq> Inner<K> {
    /// Runs `act` on the state of `key`, which is added if it is new.
    #[inline]
    fn with<Q, R>(
        &self,
        key: &Q,
        now: Instant,
        act: impl Fn(&mut u64, &Gcra) -> R,
    ) -> Result<R, NoRoom>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.secret.hash(key);
        {
            let mut table = self.shard(hash);
            if let Some((slot, gcra)) = table.find(hash as u32, key, &self.usual) {
                let result = Self::update(slot, gcra, act);
                if table.is_due() {
                    self.sweep(table, now);
                }
                return Ok(result);
            }
        }
        self.with_new(hash, key, now, act)
    }

    #[inline]
    fn update<R>(slot: &mut Slot<K>, gcra: &Gcra, act: impl Fn(&mut u64, &Gcra) -> R) -> R {
        let mut tat = slot.tat();
        let result = act(&mut tat, gcra);
        slot.set_tat(tat);
        result
    }

    /// Looks for keys that need not be remembered. Returns how many it has looked at.
    #[cold]
    fn sweep(&self, mut table: MutexGuard<'_, Table<K>>, now: Instant) -> usize {
        let removed = table.sweep(now, SWEEP, &self.usual);
        drop(table);
        self.forgotten(&removed);
        removed.seen
    }

    #[cold]
    fn with_new<Q, R>(
        &self,
        hash: u64,
        key: &Q,
        now: Instant,
        act: impl Fn(&mut u64, &Gcra) -> R,
    ) -> Result<R, NoRoom>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !self.make_room(hash, now) {
            return Err(NoRoom);
        }
        // The user's code runs outside the lock.
        let owned = key.to_owned();
        let special = self.quota_for.as_ref().and_then(|quota| quota(&owned));
        // A quota without meaning counts as none.
        let special = special.filter(|quota| config::check(quota).is_ok());
        let mut table = self.shard(hash);
        if table.find(hash as u32, key, &self.usual).is_none() {
            // Under the shard's lock: a change that is not seen here has yet to come to the shard.
            let quota = special.unwrap_or_else(|| *lock(&self.quota));
            table.insert(hash as u32, owned, &quota, &self.usual);
        } else {
            // Another thread was faster.
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
        match table.find(hash as u32, key, &self.usual) {
            Some((slot, gcra)) => Ok(Self::update(slot, gcra, act)),
            None => Err(NoRoom),
        }
    }

    /// Counts one key more, if there is room or some can be made.
    fn make_room(&self, hash: u64, now: Instant) -> bool {
        let count = || {
            // Relaxed: only the number counts, and it never exceeds the bound.
            self.keys
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |keys| {
                    (keys < self.max_keys).then_some(keys + 1)
                })
                .is_ok()
        };
        // A new key pays for its place by looking for some that are no longer needed.
        let mut table = self.shard(hash);
        let removed = table.sweep_near(hash as u32, now, SWEEP / 2, &self.usual);
        drop(table);
        self.forgotten(&removed);
        if count() {
            return true;
        }
        // One shard more, or several where there are few keys to a shard.
        let mut seen = 0;
        for _ in 0..SWEEP {
            // Relaxed: any shard will do.
            let victim = self.victim.load(Ordering::Relaxed) / STAY % self.shards.len();
            let looked_at = self.sweep(lock(&self.shards[victim].0), now);
            let step = if looked_at < SWEEP { STAY } else { 1 };
            self.victim.fetch_add(step, Ordering::Relaxed);
            seen += looked_at;
            if count() {
                return true;
            }
            if seen >= SWEEP {
                break;
            }
        }
        false
    }
}

/// How often a shard is searched before the next one is: what comes next in it is at hand.
const STAY: usize = 16;

/// How many keys are looked at when the hand moves.
const SWEEP: usize = 8;

impl<K> fmt::Debug for KeyedRateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
