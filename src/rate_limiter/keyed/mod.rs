//! One limit per key, in bounded memory.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::inner::Inner;
use super::decision::Decision;
use super::state::Quota;
use crate::error::{ConfigError, Rejected};
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

/// A limit for each user, region or server, in bounded memory.
///
/// It has the verbs and the algorithms of a [`RateLimiter`](super::RateLimiter). Keys are added when
/// they are first seen. A key whose limit is full again is evicted, since a new one would be just the
/// same; each call looks at a few keys, so nothing runs in the background. A key in use is never
/// evicted to make room for others, unless [`Overflow::Evict`](super::Overflow::Evict) is chosen.
///
/// Cheap to clone; clones share all limits. Strings are looked up borrowed, without allocating.
///
/// # Memory
///
/// With a token bucket, the default, a key takes about 35 bytes if it is an integer. A key with a token
/// bucket of its own, or paused, takes about 100 bytes more. With any other algorithm, several
/// quotas or a warm-up, each key has a whole [`RateLimiter`](super::RateLimiter).
///
/// # Keys that misbehave
///
/// `Hash`, `Clone` and `Drop` of keys and the quota function run outside all locks; only `Eq`, and
/// `Clone` in [`entries`](Self::entries), run under the lock of a part of the table. A panic in any of
/// them goes on to the caller and leaves the limiter intact. If `Eq` calls back into the limiter, and
/// needs the same part of the table, that inner call is treated as if there were no room for its key.
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

/// Where a keyed limiter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedSnapshot {
    /// The name.
    pub name: &'static str,
    /// The default quotas in force.
    pub quotas: Vec<Quota>,
    /// Number of keys it remembers.
    pub keys: usize,
    /// How many it remembers at most.
    pub max_keys: usize,
    /// Number of calls with keys that there was no room for.
    pub overflowed: u64,
    /// Number of calls that wait, over all keys.
    pub waiting: usize,
    /// Number of calls it has rejected.
    pub rejected: u64,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// Number of calls that shadow mode admitted and that would have been rejected.
    pub would_reject: u64,
    /// How much is left of a pause of all keys.
    pub paused_for: Duration,
}

impl<K> KeyedRateLimiter<K> {
    /// Returns a limiter in which each key has this quota, with the default settings, on tokio's clock.
    ///
    /// # Errors
    ///
    /// If the quota is invalid or does not begin full.
    #[cfg(feature = "tokio")]
    pub fn new(quota: Quota) -> Result<Self, ConfigError> {
        Self::builder().quota(quota).build()
    }

    /// How many keys it remembers.
    pub fn len(&self) -> usize {
        self.inner.keys.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }
}

impl<K: Hash + Eq> KeyedRateLimiter<K> {
    /// Takes one of the key's tokens, if there is one.
    ///
    /// # Errors
    ///
    /// [`Reason::RateLimited`](crate::Reason::RateLimited), with the exact time after which there would be one; without a time
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
    /// As for [`try_acquire`](Self::try_acquire); [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) when its quota never
    /// holds that many.
    #[inline]
    pub fn try_acquire_n<Q>(&self, key: &Q, cost: u64) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let inner = &*self.inner;
        let now = inner.base.now();
        match inner.take(inner.secret.hash(key), key, now, cost) {
            Ok(()) => Ok(()),
            Err(unavailable) => inner.reject_for(now, unavailable, None),
        }
    }

    /// Takes `cost` of the key's tokens, if there are that many, and returns where that leaves it.
    ///
    /// In shadow mode too the decision is the real one.
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
                Decision::new(now, ready, gcra.availability(*tat, now))
            },
            |limiter, time| match time.is_paused() {
                true => time.peek_limiter(limiter, cost),
                false => limiter.decide(cost),
            },
        );
        let decision = decided.unwrap_or(Decision::NO_ROOM);
        if !decision.allowed {
            // Relaxed: a statistic.
            inner.rejected.fetch_add(1, Ordering::Relaxed);
        }
        decision
    }

    /// As [`peek_n`](Self::peek_n), for a call that costs one token.
    pub fn peek<Q>(&self, key: &Q) -> Option<Decision>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.peek_n(key, 1)
    }

    /// Returns what [`decide`](Self::decide) would say about a call that costs `cost`, except that
    /// `remaining` is what there is now; `None` for an unknown key, whose limit is full. Takes nothing.
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

    /// Gives the key `tokens` back, up to its burst.
    pub fn add<Q>(&self, key: &Q, tokens: u64)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.inner.give(self.inner.secret.hash(key), key, tokens);
    }

    /// Forgets a key: its next call finds a full limit. Returns whether it was known.
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
            self.inner.keys.forgotten(1);
        }
        removed.is_some()
    }

    /// Rejects all calls of one key for `duration`. See [`pause_for`](Self::pause_for). A key that is
    /// paused is not evicted. Returns `false` if it is new and there is no room for it.
    pub fn pause_key_for<Q>(&self, key: &Q, duration: Duration) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.pause_key_until(key, self.inner.base.now() + duration)
    }

    /// As [`pause_key_for`](Self::pause_key_for), until an instant of the limiter's clock.
    pub fn pause_key_until<Q>(&self, key: &Q, until: Instant) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let (inner, now) = (&*self.inner, self.inner.base.now());
        inner.pause(inner.secret.hash(key), key, now, until)
    }

    /// Records the result of a call that was admitted by hand, for
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

    /// Waits for one of the key's tokens. See [`acquire_n`](Self::acquire_n).
    pub fn acquire<'a, Q>(&'a self, key: &'a Q) -> KeyedAcquire<'a, Q>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.acquire_n(key, 1)
    }

    /// Waits for `cost` of the key's tokens, as long as it takes or the deadline inherited from the
    /// task allows. Turns are given out in the order of the calls.
    ///
    /// # Errors
    ///
    /// At once: [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) when the turn would come after the deadline,
    /// [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) when there will never be that many tokens, and
    /// [`Reason::RateLimited`](crate::Reason::RateLimited) when there is no room for the key. Later: [`Reason::QueueTimeout`](crate::Reason::QueueTimeout) when a pause
    /// or a change of the quota moved the turn too far.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives the tokens back. Waiters behind it keep their turns.
    pub fn acquire_n<'a, Q>(&'a self, key: &'a Q, cost: u64) -> KeyedAcquire<'a, Q>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.acquire_within(key, cost, Duration::MAX)
    }

    /// As [`acquire_n`](Self::acquire_n), but waits no longer than `longest`.
    ///
    /// # Errors
    ///
    /// Also [`Reason::RateLimited`](crate::Reason::RateLimited), at once, when the turn would come later than that.
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

    /// As [`acquire_n`](Self::acquire_n) for programs without a runtime: parks the thread.
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

    /// Takes `cost` of the key's tokens now, for a call whose real cost is known only afterwards. See
    /// [`RateLimiter::reserve`](super::RateLimiter::reserve).
    ///
    /// # Errors
    ///
    /// As for [`try_acquire_n`](Self::try_acquire_n), when the debt would exceed the builder's
    /// `max_debt`.
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

    /// As [`reserve`](Self::reserve), if the debt is paid within `longest`. Changes nothing otherwise.
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

    /// A policy that takes from this key's tokens: one for each call.
    ///
    /// Rejects at once, or waits as the builder's `max_wait` says.
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
        self.snapshot().fmt(f)
    }
}
