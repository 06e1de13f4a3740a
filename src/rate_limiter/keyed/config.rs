//! The builder of keyed rate limiters.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::outside::Outside;
use super::super::state::Quota;
use super::super::token_bucket::TokenBucket;
use super::hash::Secret;
use super::inner::{Inner, MOST_SHARDS, QuotaFor, Shard};
use super::table::Table;
use super::tiers::Tier;
use super::{KeyedRateLimiter, Overflow};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::event::Observer;

const NAME: &str = "keyed_rate_limiter";

/// Builds a [`KeyedRateLimiter`].
///
/// | setting | default |
/// |---|---|
/// | [`quota`](Self::quota) | must be given |
/// | [`quota_for`](Self::quota_for) | all keys have the same |
/// | [`max_keys`](Self::max_keys) | 100 000 |
/// | [`overflow`](Self::overflow) | [`Overflow::Shared`] |
/// | [`max_wait`](Self::max_wait) of calls through the policy | zero: refuses at once |
/// | [`observer`](Self::observer) | none |
/// | [`name`](Self::name) | `keyed_rate_limiter` |
/// | [`clock`](Self::clock) | tokio's |
#[must_use = "a builder does nothing until `build`"]
pub struct KeyedRateLimiterBuilder<K> {
    quota: Option<Quota>,
    quota_for: Option<QuotaFor<K>>,
    max_keys: usize,
    overflow: Overflow,
    max_wait: Duration,
    observer: Option<Arc<dyn Observer>>,
    name: &'static str,
    clock: Option<ClockHandle>,
}

impl<K> KeyedRateLimiterBuilder<K> {
    pub(super) const fn new() -> Self {
        Self {
            quota: None,
            quota_for: None,
            max_keys: 100_000,
            overflow: Overflow::Shared,
            max_wait: Duration::ZERO,
            observer: None,
            name: NAME,
            clock: ClockHandle::preset(),
        }
    }

    /// The quota of every key that has none of its own. A token bucket that begins full.
    pub const fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// The quota of a key, when it is another than the default one: tiers. Asked when a key is
    /// first seen, and again after it was forgotten. Quotas without meaning, or of another
    /// algorithm than the token bucket, count as the default one.
    pub fn quota_for(
        mut self,
        quota: impl Fn(&K) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        self.quota_for = Some(Arc::new(quota));
        self
    }

    /// How many keys are remembered at most.
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// What happens to new keys when that many are in use.
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// How long a call through the policy waits for its turn. Zero refuses at once,
    /// [`Duration::MAX`] waits as long as the call's deadline allows.
    pub const fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = longest;
        self
    }

    setters! {
        /// Hears refusals.
        observer;
        /// The name in errors and events.
        name;
        /// The clock that tokens are earned by.
        clock;
    }

    /// The limiter. Takes up to 64 KiB; the keys come on top, at about 35 bytes for an integer.
    ///
    /// # Errors
    ///
    /// When no quota was given or it has no meaning or is no token bucket that begins full, when no
    /// key may be remembered, or without a clock where the feature `tokio` is off.
    pub fn build(self) -> Result<KeyedRateLimiter<K>, ConfigError> {
        let error = |setting, problem| ConfigError::new(NAME, setting, problem);
        let quota = self.quota.ok_or(error("quota", "must be given"))?;
        check(&quota)?;
        if self.max_keys == 0 {
            return Err(error("max_keys", "must be at least 1"));
        }
        let clock = self.clock.ok_or(error("clock", "must be given"))?;
        let count = (self.max_keys / 2)
            .clamp(16, MOST_SHARDS)
            .next_power_of_two();
        let shards = (0..count).map(|_| Shard(Mutex::new(Table::new())));
        Ok(KeyedRateLimiter {
            inner: Arc::new(Inner {
                shards: shards.collect(),
                shift: 64 - count.ilog2(),
                secret: Secret::new(),
                usual: Tier::new(quota),
                keys: AtomicUsize::new(0),
                max_keys: self.max_keys,
                victim: AtomicUsize::new(0),
                shared: (self.overflow == Overflow::Shared)
                    .then(|| TokenBucket::new(&quota.gcra(0), 0)),
                quota: Mutex::new(quota),
                changing: Mutex::new(()),
                quota_for: self.quota_for,
                overflowed: AtomicU64::new(0),
                outside: Outside::new(clock, self.max_wait, self.observer, self.name),
            }),
        })
    }
}

/// Whether a key can have this quota.
pub(super) fn check(quota: &Quota) -> Result<(), ConfigError> {
    quota.check(NAME)?;
    if !quota.is_plain() || quota.first() != quota.limit() {
        let problem = "must be a token bucket that begins full, without a warm-up";
        return Err(ConfigError::new(NAME, "quota", problem));
    }
    Ok(())
}

impl<K> fmt::Debug for KeyedRateLimiterBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRateLimiterBuilder")
            .field("quota", &self.quota)
            .field("tiered", &self.quota_for.is_some())
            .field("max_keys", &self.max_keys)
            .field("overflow", &self.overflow)
            .field("max_wait", &self.max_wait)
            .field("observed", &self.observer.is_some())
            .field("name", &self.name)
            .field("clock", &self.clock)
            .finish()
    }
}
