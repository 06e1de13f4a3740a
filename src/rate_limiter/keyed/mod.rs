//! One limit per key, in bounded memory.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::inner::{Inner, NoRoom};
use super::Decision;
use super::state::{Inherit, Quota};
use crate::error::{ConfigError, Rejected};
use crate::sync::lock;

mod acquire;
mod config;
mod hash;
mod inner;
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
            name: self.inner.outside.name,
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
            let now = self.inner.outside.now();
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
        let now = self.inner.outside.now();
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
        let now = inner.outside.now();
        for shard in &inner.shards {
            lock(&shard.0).replace(&current, &quota, &inner.usual, |tat, old, new| {
                old.inherit(tat, now, (new, 0), inherit)
            });
        }
        if let Some(shared) = &inner.shared {
            shared.replace(now, &quota.gcra(0), 0, inherit);
        }
        Ok(())
    }

    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.outside.name
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
        let now = inner.outside.now();
        match inner.take(key, now, cost) {
            Ok(()) => Ok(()),
            Err(refusal) => inner.refuse(now, cost, refusal, None),
        }
    }

    /// Takes `cost` of the key's tokens, if there are that many, and tells where that leaves it.
    pub fn decide<Q>(&self, key: &Q, cost: u64) -> Decision
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let now = self.inner.outside.now();
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
                let (taken, borrowed) = shared.borrow(now, cost, 0);
                Decision::new(now, taken, borrowed.standing)
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
        let now = self.inner.outside.now();
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
    /// At once: [`Reason::RateLimited`](crate::Reason::RateLimited) when the turn would come later than `longest`,
    /// [`Reason::DeadlineTooClose`](crate::Reason::DeadlineTooClose) when it would come after the deadline of the calls made here
    /// and now, [`Reason::CostExceedsLimit`](crate::Reason::CostExceedsLimit) when there will never be that many tokens.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives the tokens back. Those who got their turns after it keep them.
    pub async fn acquire<Q>(&self, key: &Q, cost: u64, longest: Duration) -> Result<(), Rejected>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let reading = self.inner.outside.clock.now();
        let deadline = crate::deadline::inherited(&self.inner.outside.clock, reading);
        if let Some(turn) = self.book(key, cost, longest, (reading, deadline), None)? {
            turn.await;
        }
        Ok(())
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

impl<K> fmt::Debug for KeyedRateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
