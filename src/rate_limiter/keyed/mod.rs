//! A rate limiter with one limit per key, in bounded memory.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use self::inner::Inner;
use super::decision::Decision;
use super::state::Quota;
use crate::error::Rejected;
use crate::instant::Instant;
use crate::verdict::Verdict;

mod acquire;
mod admin;
mod bucket_map;
mod call_time;
mod config;
mod hash;
mod inner;
mod limited;
mod own_limit;
mod policy;
mod reservation;
mod shard;
mod shards;
mod table;
#[cfg(test)]
mod table_tests;

pub use self::acquire::KeyedAcquire;
pub use self::config::KeyedRateLimiterBuilder;
pub use self::limited::Limited;
pub use self::reservation::KeyedReservation;

/// A limit for each user, region, or server, in bounded memory.
///
/// It has the methods and the algorithms of a [`RateLimiter`](super::RateLimiter). A key is added when it is first
/// seen, and evicted when its limit is full again, because it is then indistinguishable from a new key. Each call
/// checks a few other keys, so there is no background task. A key in use is never evicted, except with
/// [`Overflow::Evict`](super::Overflow::Evict).
///
/// Cheap to clone; clones share all limits. Strings are looked up borrowed, without allocating.
///
/// # Memory
///
/// With a plain token bucket, the default, an integer key takes about 35 bytes. A key with its own token bucket, or a
/// paused key, takes about 100 bytes more. A key with waiters or a reservation has a whole
/// [`RateLimiter`](super::RateLimiter) until it is evicted. With any other algorithm, several quotas, a warm-up, or
/// an adaptive rate, each key has one.
///
/// # Keys that panic or call back
///
/// `Hash` and `Drop` of keys and the quota function run outside all locks; only `Eq`, and `Clone` in
/// [`for_each`](Self::for_each), run under the lock of a shard. A panic in any of them propagates to the caller and
/// leaves the limiter intact. If `Eq` calls the limiter and needs the same shard, the inner call behaves as if the
/// table were full.
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

/// A snapshot of a keyed limiter.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedSnapshot {
    /// The name of the handle, as in events.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The default quotas.
    pub quotas: Vec<Quota>,
    /// Number of keys in the table.
    pub keys: usize,
    /// The largest number of keys.
    pub max_keys: usize,
    /// Number of calls whose key found the table full.
    pub overflowed: u64,
    /// Number of calls that wait, for all keys.
    pub waiting: usize,
    /// Number of rejected calls. A call that is repeated is counted again.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted although they would have been rejected.
    pub would_reject: u64,
    /// Remaining time of a pause of all keys.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub paused_for: Duration,
}

impl<K> KeyedRateLimiter<K> {
    /// Returns a limiter in which each key has this quota, with the default settings, on tokio's clock.
    ///
    /// # Errors
    ///
    /// If the quota is invalid or does not begin full.
    #[cfg(feature = "tokio")]
    pub fn new(quota: Quota) -> Result<Self, crate::error::ConfigError> {
        Self::builder().quota(quota).build()
    }

    /// Returns the number of keys in the table.
    pub fn len(&self) -> usize {
        self.inner.keys.len()
    }

    /// Returns whether there are no keys in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }
}

impl<K: Hash + Eq> KeyedRateLimiter<K> {
    /// Takes one token of the key if there is one.
    ///
    /// # Errors
    ///
    /// [`Reason::RateLimited`](crate::Reason::RateLimited), with the exact time after which the call would succeed,
    /// or without a time if the table is full.
    #[inline]
    pub fn try_acquire<Q>(&self, key: &Q) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_n(key, 1)
    }

    /// Takes `cost` tokens of the key if there are that many.
    ///
    /// # Errors
    ///
    /// As for [`try_acquire`](Self::try_acquire);
    /// [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) if the key's quota never holds that
    /// many.
    #[inline]
    pub fn try_acquire_n<Q>(&self, key: &Q, cost: u64) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let now = inner.base.clock.now();
        match inner.take(inner.secret.hash(key), key, now, cost) {
            Ok(()) => Ok(()),
            Err(unavailable) => inner.reject_for(now, unavailable, None),
        }
    }

    /// Takes `cost` tokens of the key if there are that many. Returns the decision, with the state of the limit after
    /// it.
    ///
    /// In shadow mode, the decision is what would be enforced otherwise.
    pub fn decide<Q>(&self, key: &Q, cost: u64) -> Decision
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let (inner, now) = (&*self.inner, self.inner.base.now());
        let decided = inner.with(
            (inner.secret.hash(key), key),
            now,
            true,
            |tat, gcra, time| {
                let ready = time.admit(gcra.ready(*tat, time.open, cost, 0));
                if ready.is_ok() {
                    *tat = gcra.force_take(*tat, now, cost);
                }
                time.decision(ready, *tat, gcra)
            },
            |limiter, time| match time.is_paused() {
                true => time.peek_limiter(limiter, cost),
                false => limiter.decide(cost),
            },
        );
        let decision = decided.unwrap_or(Decision::NO_ROOM);
        if !decision.allowed {
            inner.rejections.count();
        }
        decision
    }

    /// Like [`peek_n`](Self::peek_n), for a call that costs one token.
    pub fn peek<Q>(&self, key: &Q) -> Option<Decision>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.peek_n(key, 1)
    }

    /// Returns what [`decide`](Self::decide) would return for a call that costs `cost`, except that
    /// `remaining` is what is left now. `None` for an unknown key, whose limit is full. Takes nothing.
    pub fn peek_n<Q>(&self, key: &Q, cost: u64) -> Option<Decision>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (inner, now) = (&*self.inner, self.inner.base.now());
        inner.with_known(
            inner.secret.hash(key),
            key,
            now,
            |tat, gcra, time| time.peek_bucket(*tat, gcra, cost),
            |limiter, time| time.peek_limiter(limiter, cost),
        )
    }

    /// Like [`peek`](Self::peek), but for an unknown key it reads what its next call would find: a new limit, or the limit
    /// that keys without room share. Adds no key, and evicts only keys that are indistinguishable from new ones.
    #[cfg(all(feature = "tower", feature = "http"))]
    pub(crate) fn peek_any(&self, key: &K) -> Decision {
        if let Some(known) = self.peek(key) {
            return known;
        }
        let (inner, now) = (&*self.inner, self.inner.base.now());
        let read = inner.read_new(
            (inner.secret.hash(key), key),
            now,
            |tat, gcra, time| time.peek_bucket(*tat, gcra, 1),
            |limiter, time| time.peek_limiter(limiter, 1),
        );
        read.unwrap_or(Decision::NO_ROOM)
    }

    /// Adds `tokens` to those of the key, up to its burst.
    pub fn add<Q>(&self, key: &Q, tokens: u64)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.inner.give(self.inner.secret.hash(key), key, tokens);
    }

    /// Removes a key, so that its next call finds a full limit. Returns whether it was in the table.
    pub fn forget<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.inner.secret.hash(key);
        let removed = self
            .inner
            .keys
            .shard(hash)
            .and_then(|mut table| table.remove(hash as u32, key));
        if removed.is_some() {
            self.inner.keys.count_removed(1);
        }
        removed.is_some()
    }

    /// Rejects calls with this key for `duration`. See [`pause_for`](Self::pause_for). A paused key is not evicted.
    /// Returns `false` if the key is new and the table is full.
    pub fn pause_key_for<Q>(&self, key: &Q, duration: Duration) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.pause_key_until(key, self.inner.base.now() + duration)
    }

    /// Like [`pause_key_for`](Self::pause_key_for), until an instant on the limiter's clock.
    pub fn pause_key_until<Q>(&self, key: &Q, until: Instant) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let (inner, now) = (&*self.inner, self.inner.base.now());
        inner.pause(inner.secret.hash(key), key, now, until)
    }

    /// Records the result of a call that was admitted manually, for
    /// [`adaptive`](KeyedRateLimiterBuilder::adaptive) and
    /// [`pause_on_hint`](KeyedRateLimiterBuilder::pause_on_hint). Calls through the policy record theirs.
    /// Without these settings it does nothing.
    pub fn record<Q>(&self, key: &Q, verdict: &Verdict)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        if inner.learns() {
            inner.learn_from(inner.secret.hash(key), key, inner.base.now(), verdict);
        }
    }

    /// Waits for one token of the key. See [`acquire_n`](Self::acquire_n).
    pub fn acquire<'a, Q>(&'a self, key: &'a Q) -> KeyedAcquire<'a, Q>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.acquire_n(key, 1)
    }

    /// Waits for `cost` tokens of the key behind all its earlier waiters, without a time limit except the
    /// deadline inherited from the task.
    ///
    /// # Errors
    ///
    /// At once: [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) if the turn would come after
    /// the deadline, [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) if the limit never
    /// holds that many tokens, and [`Reason::RateLimited`](crate::Reason::RateLimited) if there is no room
    /// for the key, or in its wait queue. Later: [`Reason::QueueTimeout`](crate::Reason::QueueTimeout) if
    /// a pause or a change of the quota moved the turn too far.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the wait queue: the next waiter moves up, and no token is lost.
    pub fn acquire_n<'a, Q>(&'a self, key: &'a Q, cost: u64) -> KeyedAcquire<'a, Q>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.acquire_within(key, cost, Duration::MAX)
    }

    /// Like [`acquire_n`](Self::acquire_n), but waits no longer than `longest`.
    ///
    /// # Errors
    ///
    /// Also [`Reason::RateLimited`](crate::Reason::RateLimited), at once, if the turn would come later
    /// than that.
    ///
    /// # Cancel safety
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    pub fn acquire_within<'a, Q>(
        &'a self,
        key: &'a Q,
        cost: u64,
        longest: Duration,
    ) -> KeyedAcquire<'a, Q>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        KeyedAcquire::new(self.get(key), cost, longest)
    }

    /// Like [`acquire_n`](Self::acquire_n) for programs without a runtime: parks the thread.
    ///
    /// # Errors
    ///
    /// As for [`acquire_n`](Self::acquire_n).
    pub fn acquire_blocking<Q>(&self, key: &Q, cost: u64) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        crate::clock::blocking::block_on(self.acquire_n(key, cost))
    }

    /// Takes `cost` tokens of the key now, for a call whose real cost is known only afterwards. See
    /// [`RateLimiter::reserve`](super::RateLimiter::reserve).
    ///
    /// # Errors
    ///
    /// As for [`try_acquire_n`](Self::try_acquire_n), if the debt would exceed the builder's `max_debt`.
    pub fn reserve<'a, Q>(
        &'a self,
        key: &'a Q,
        cost: u64,
    ) -> Result<KeyedReservation<'a, Q>, Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.reserve_within(key, cost, Duration::MAX)
    }

    /// Like [`reserve`](Self::reserve), if the debt is paid within `longest`. Otherwise takes nothing.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve).
    pub fn reserve_within<'a, Q>(
        &'a self,
        key: &'a Q,
        cost: u64,
        longest: Duration,
    ) -> Result<KeyedReservation<'a, Q>, Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        KeyedReservation::new(self.get(key), cost, longest)
    }

    /// Returns a policy that takes one token of the key for each call.
    ///
    /// It rejects at once, or waits up to the builder's `max_wait`.
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
    /// assert!(clock.block_on(per_user.get("alice").call(call)).is_ok());
    /// assert!(clock.block_on(per_user.get("alice").call(call)).is_err());
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn get<'a, Q>(&'a self, key: &'a Q) -> Limited<'a, Q>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        Limited::new(&self.inner, key)
    }
}

impl<K> fmt::Debug for KeyedRateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyedRateLimiter")
            .field(&self.snapshot())
            .finish()
    }
}
